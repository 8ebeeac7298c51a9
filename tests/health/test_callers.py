"""Who calls the function, and how: requests that do not use the alias are moved by no rollout and no rollback."""

from collections.abc import Callable, Iterator

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.checks import readiness, setup, status
from buddy_ops.checks.findings import Finding, State
from buddy_ops.deployment import rollout
from buddy_ops.health import callers
from tests.conftest import Situation, sampled, two_environments

Bring = Callable[..., Situation]
EVENT = b'{"version": "1.0", "session": {}, "context": {}, "request": {"type": "LaunchRequest"}}'
STRATEGIES = ("canary", "blue_green", "all_at_once")

CALLS = {
    "unqualified": ("", " without a qualifier ($LATEST)"),
    "$LATEST": ("$LATEST", ":$LATEST"),
    "a version": ("1", ":1"),
    "another alias": ("beta", ":beta"),
    "the alias": ("live", ""),
}
"""How a caller names the function: its qualifier, and how the finding names it; empty: there is none."""


def call(here: Situation, qualifier: str, times: int) -> None:
    """Call the function by a name, and let CloudWatch publish it."""
    named = {"Qualifier": qualifier} if qualifier else {}
    for _ in range(times):
        here.client("lambda").invoke(FunctionName=here.function, Payload=EVENT, **named)
    here.ask("advance", seconds=900)


def by_check(findings: Iterator[Finding] | tuple[Finding, ...]) -> Finding:
    (found,) = [each for each in findings if each.check == "callers"]
    return found


def everywhere(here: Situation, mine: Target) -> dict[str, Finding]:
    """What doctor, readiness audit and status say of the callers."""
    return {
        "doctor": by_check(setup.run_doctor(mine, "deployer")),
        "readiness": by_check(readiness.run_audit(mine, where=str(here.folder / "archive")).findings),
        "status": by_check(status.read_status(mine).findings),
    }


def planned(here: Situation, mine: Target, strategy: str = "canary") -> str:
    return " ".join(rollout.plan_rollout(mine, here.build("good"), strategy).reasons)


@pytest.mark.parametrize("how", sampled(CALLS, slice(None, None, 4)))
def test_a_name_other_than_the_alias_is_told_everywhere(situation: Bring, how: str) -> None:
    """Each name that a caller may use: doctor, audit, status and the plan of each strategy name it and count it."""
    qualifier, name = CALLS[how]
    here = situation("good", history_minutes=20, requests_per_minute=60)
    here.client("lambda").create_alias(FunctionName=here.function, Name="beta", FunctionVersion="1")
    call(here, qualifier, 60)
    mine = here.connect()
    plans = {strategy: planned(here, mine, strategy) for strategy in STRATEGIES}
    found = everywhere(here, mine)
    said = {place: finding.message for place, finding in found.items()}
    states = {finding.state for finding in found.values()}
    if not name:
        assert states == {State.OK}, said
        assert not any("did not call" in text for text in plans.values()), plans
        return
    assert states == {State.WARNING}, said
    for place, text in (plans | said).items():
        assert "60 requests of" in text and f": 60 {here.function}{name}. " in text, (place, text)
    assert "add-permission --qualifier live" in plans["canary"]


def test_where_most_requests_bypass_the_alias_a_rollback_would_not_help(situation: Bring) -> None:
    """The audit says that a rollback would not work; the status says it beside the alias's own result."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    call(here, "", 20)
    found = everywhere(here, here.connect())
    assert {place: finding.state for place, finding in found.items()} == {
        "doctor": State.PROBLEM, "readiness": State.PROBLEM, "status": State.WARNING,
    }  # fmt: skip
    assert all("a rollback does not help them either" in finding.message for finding in found.values())


def test_who_may_call_is_compared_too(situation: Bring) -> None:
    """A permission of the function without one of the alias is told, until the alias has it, too."""
    here = situation("good", history_minutes=20, requests_per_minute=60)
    mine = here.connect()
    lam = here.client("lambda")
    given = {"FunctionName": here.function, "Action": "lambda:InvokeFunction", "Principal": "alexa-appkit.amazon.com"}
    lam.add_permission(StatementId="alexa", **given)
    said = "lets alexa-appkit.amazon.com call it without the alias"
    assert all(said in finding.message for finding in everywhere(here, mine).values()) and said in planned(here, mine)
    lam.add_permission(StatementId="alexa", Qualifier="live", **given)
    assert callers.read_callers(mine).signs == () and said not in planned(here, mine)


def test_the_alias_of_another_environment_is_no_bypass(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two environments that are two aliases of one function: the requests of each are its own."""
    here = situation("good", history_minutes=20, requests_per_minute=60)
    two_environments(here, monkeypatch)
    call(here, "beta", 60)
    mine = here.connect()
    assert callers.read_callers(mine).signs == ()
    call(here, "", 60)
    (sign,) = callers.read_callers(mine).signs
    assert sign.startswith("60 requests of") and "beta" not in sign


@pytest.mark.parametrize(
    ("outage", "state"), [("error", State.UNKNOWN), ("partial", State.UNKNOWN), ("empty", State.INFO)]
)
def test_without_metrics_it_is_unknown(situation: Bring, outage: str, state: State) -> None:
    """Where CloudWatch does not answer, or has nothing, no caller counts as one that uses the alias."""
    here = situation("good", history_minutes=20, requests_per_minute=60)
    here.ask("set", outage=outage)
    mine = here.connect()
    assert by_check(setup.run_doctor(mine, "deployer")).state == state
    plan = " ".join(rollout.plan_rollout(mine, here.build("good")).reasons)
    assert "unknown" in plan


def test_half_an_answer_is_told_whole(situation: Bring) -> None:
    """Policies that may not be read hide no requests, and are named as unread."""
    here = situation("good", history_minutes=20, requests_per_minute=60)
    call(here, "", 60)
    here.ask("chaos", kind="denied", operation="GetPolicy", times=99)
    mine = here.connect()
    finding = by_check(setup.run_doctor(mine, "deployer"))
    plan = planned(here, mine)
    here.ask("chaos")
    assert finding.state is State.WARNING and "get_policy" in finding.message and "60 requests of" in finding.message
    assert "whether callers use the alias is unknown" in plan and "60 requests of" in plan
