"""Isolation: nothing is written while it stands, and what was there before is given back, whoever lifts it."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from test_reminders import QUIET, items, say

from buddy_ops.aws import isolation
from buddy_ops.core.errors import AwsFailed, BuddyError
from tests.conftest import Situation, sampled

Bring = Callable[..., Situation]
TABLE = "buddy-reminders-sandbox"
THEIRS = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": ["dynamodb:DeleteTable"], "Resource": "*"}


@pytest.fixture
def here(situation: Bring) -> Situation:
    return situation("good", reminders=3, **QUIET)


def reserved(here: Situation) -> int | None:
    found = here.client("lambda").get_function_concurrency(FunctionName=here.function)
    return found.get("ReservedConcurrentExecutions")


def statements(here: Situation) -> list[dict[str, Any]]:
    dynamodb = here.client("dynamodb")
    arn = dynamodb.describe_table(TableName=TABLE)["Table"]["TableArn"]
    try:
        return list(json.loads(dynamodb.get_resource_policy(ResourceArn=arn)["Policy"])["Statement"])
    except dynamodb.exceptions.PolicyNotFoundException:
        return []


def remembered(here: Situation) -> list[dict[str, Any]]:
    return list(
        here.client("ssm").get_parameters_by_path(Path="/buddy-ops/buddy-alexa-skill-sandbox/live", Recursive=True)[
            "Parameters"
        ]
    )


@pytest.mark.parametrize("before", sampled([None, 7, 0], slice(1)))
def test_the_function_is_off_and_then_as_it_was(here: Situation, before: int | None) -> None:
    """Concurrency 0, and afterwards what was reserved before: a number, nothing, or the 0 that somebody had set."""
    if before is not None:
        here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=before)
    isolation.isolate(here.connect(), "function", TABLE)
    assert reserved(here) == 0
    with pytest.raises(here.client("lambda").exceptions.TooManyRequestsException):
        say(here, "ReadRemindersIntent")
    told = isolation.remove_isolation(here.connect())
    assert reserved(here) == before and remembered(here) == []
    assert ("turned off before the isolation" in told) == (before == 0)


@pytest.mark.parametrize("theirs", [[], [THEIRS]])
def test_writes_are_denied_and_reading_goes_on(here: Situation, theirs: list[dict[str, Any]]) -> None:
    """The table denies the function's role to write, beside what its policy said before, and says only that after."""
    dynamodb = here.client("dynamodb")
    if theirs:
        arn = dynamodb.describe_table(TableName=TABLE)["Table"]["TableArn"]
        document = json.dumps({"Version": "2012-10-17", "Statement": theirs})
        dynamodb.put_resource_policy(ResourceArn=arn, Policy=document)
    isolation.isolate(here.connect(), "writes", TABLE)
    assert [each["Sid"] for each in statements(here)] == [*(each["Sid"] for each in theirs), isolation.STATEMENT]
    with suppress(KeyError):  # the skill failed, so there is no answer
        say(here, "SetReminderIntent", medication="aspirin", time="08:00")
    assert len(items(here)) == 3 and "no reminders" in say(here, "ReadRemindersIntent")
    isolation.remove_isolation(here.connect())
    assert statements(here) == theirs and remembered(here) == []
    say(here, "SetReminderIntent", medication="aspirin", time="08:00")
    assert len(items(here)) == 4


def test_isolating_twice_remembers_what_was_there_first(here: Situation) -> None:
    """A second run, or a second person, never takes the isolation itself for what was there before."""
    lam = here.client("lambda")
    lam.put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=7)
    first = isolation.isolate(here.connect(run="aaaa"), "function", TABLE)
    again = isolation.isolate(here.connect(run="bbbb"), "writes", TABLE)
    assert first == again and first.run == "aaaa" and statements(here) == []
    isolation.remove_isolation(here.connect(run="cccc"))
    assert reserved(here) == 7


@pytest.mark.parametrize("operation", ["PutFunctionConcurrency", "DeleteParameter"])
def test_a_run_that_dies_leaves_the_memory(here: Situation, operation: str) -> None:
    """Whether it died isolating or lifting: the next run gives back what was there before."""
    lam = here.client("lambda")
    lam.put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=7)
    here.ask("chaos", kind="closed", operation=operation, times=3, after=True)
    with suppress(AwsFailed):
        isolation.isolate(here.connect(), "function", TABLE)
    with suppress(AwsFailed):
        isolation.remove_isolation(here.connect())
    here.ask("chaos")
    isolation.isolate(here.connect(), "function", TABLE)
    assert reserved(here) == 0
    isolation.remove_isolation(here.connect())
    assert reserved(here) == 7 and remembered(here) == []


def test_lifting_nothing_changes_nothing(here: Situation) -> None:
    """Without a memory of ours, what stands was put there by somebody else."""
    here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=0)
    assert isolation.remove_isolation(here.connect()) == "Nothing was isolated." and reserved(here) == 0


@pytest.mark.parametrize(
    "text", ["", "null", "{}", '{"how": "else", "table": "t", "before": 1, "run": "r", "since": "s"}']
)
def test_a_memory_that_nobody_can_read_stops_it(here: Situation, text: str) -> None:
    """Overwriting it would lose what was there before."""
    name = "/buddy-ops/buddy-alexa-skill-sandbox/live/isolation"
    here.client("ssm").put_parameter(Name=name, Value=text or "x", Type="String")
    with pytest.raises(BuddyError, match="isolation-unreadable"):
        isolation.isolate(here.connect(), "function", TABLE)
    assert reserved(here) is None


@pytest.mark.parametrize("how", ["function", "writes"])
def test_reads_that_lag_are_no_other_run(here: Situation, how: isolation.How) -> None:
    """Parameters and policies are read as they were for some seconds: neither a loop, nor 'isolated again'."""
    here.ask("set", ssm_delay_s=8, dynamodb_policy_delay_s=8)
    mine = here.connect()
    isolated = isolation.isolate(mine, how, TABLE)
    here.ask("advance", seconds=60)
    assert isolation.read_isolation(mine) == isolated
    assert "Another run" not in isolation.remove_isolation(mine)
    here.ask("advance", seconds=60)
    assert isolation.read_isolation(mine) is None
