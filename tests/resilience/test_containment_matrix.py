"""Corrupted data, with everything in the way that is known: the corruption stops first, then what cannot be done is said.

Each case is driven as the notebook drives it. Afterwards the corrupting version serves nothing or cannot write, the
result is true, and the next step that it names is carried out and ends well.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from buddy_ops.aws import isolation
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.incidents import containment, repair
from tests.conftest import Situation, approve, sampled
from tests.incidents.corruption import QUIET, corrupting, isolated, parameters

Bring = Callable[..., Situation]
NAME, KEY = "buddy-notes-sandbox", ("owner", "note")
Item = dict[str, dict[str, Any]]
NO_BACKUP = {"PointInTimeRecoveryEnabled": False}


class Obstacle(NamedTuple):
    """Something in the way.

    Attributes:
        kinds: the types of the table's key.
        given: the runbook's parameters.
        refused: operations that AWS refuses; a dict of a name to what kind of refusal.
        repairs: whether the items are repaired.
        says: what the output or the error must say.
    """

    kinds: tuple[str, str] = ("S", "S")
    given: Mapping[str, str] = {}
    refused: Mapping[str, str] = {}
    repairs: bool = True
    says: str = ""


DENIED = "denied"
OBSTACLES = {
    "nothing": Obstacle(),
    "recovery-off": Obstacle(repairs=False, says="no point-in-time recovery"),
    "onset-too-early": Obstacle(given={"onset": "2020-01-01T00:00:00Z"}, repairs=False, says="can be restored from"),
    "onset-mistyped": Obstacle(given={"onset": "yesterday"}, repairs=False, says="onset is 'yesterday'"),
    "target-mistyped": Obstacle(given={"to_version": "4l"}, says="'4l' is no published version"),
    "target-missing": Obstacle(given={"to_version": "9"}, says="no version 9 of"),
    "provisioned": Obstacle(says="AWS refuses concurrency 0"),
    "number-key": Obstacle(kinds=("S", "N")),
    "binary-key": Obstacle(kinds=("B", "B")),
    "slash-in-key": Obstacle(kinds=("S", "S")),
    "function-refused": Obstacle(refused={"PutFunctionConcurrency": DENIED}, says="Isolation by concurrency 0 failed"),
    "writes-refused": Obstacle(
        given={"how": "writes"}, refused={"PutResourcePolicy": DENIED}, says="Isolation by denying writes failed"
    ),
    "both-refused": Obstacle(refused={"PutResourcePolicy": DENIED}, says="NOT ISOLATED"),
    "describe-throttled": Obstacle(given={"how": "writes"}, refused={"DescribeTable": "throttled"}),
    "window-denied": Obstacle(refused={"DescribeContinuousBackups": DENIED}, repairs=False, says="describe_continuous"),
}
SAMPLE = {("recovery-off", "back"), ("recovery-off", "alone"), ("provisioned", "back"), ("both-refused", "alone")}
SAMPLE |= {
    ("onset-mistyped", "back"),
    ("target-mistyped", "back"),
    ("number-key", "back"),
    ("function-refused", "alone"),
    ("onset-too-early", "back"),
}


def cases() -> list[object]:
    return [
        pytest.param(name, way, id=f"{name}-{way}", marks=[] if (name, way) in SAMPLE else [pytest.mark.whole])
        for name in OBSTACLES
        for way in ("back", "alone")
    ]


def key_value(kind: str, number: int) -> dict[str, Any]:
    return {
        "S": {"S": f"a/{number}/b"},
        "N": {"N": str(number)},
        "B": {"B": bytes([number, 47, 255])},
    }[kind]


def item(kinds: tuple[str, str], number: int, at: str, version: str, when: int) -> Item:
    return {
        "owner": key_value(kinds[0], number // 3),
        "note": key_value(kinds[1], number),
        "at": {"S": at},
        "written_by": {"S": version},
        "written_at": {"N": str(when)},
    }


def stored(here: Situation) -> list[Item]:
    pages = here.client("dynamodb").get_paginator("scan").paginate(TableName=NAME, ConsistentRead=True)
    items = [each for page in pages for each in page["Items"] if "migration" not in each]
    return sorted(items, key=repr)


def afflict(here: Situation, name: str, way: str) -> tuple[list[Item], list[Item]]:
    """A table of twelve items, of which version 2 corrupts three; all as they were, and as they are then."""
    obstacle = OBSTACLES[name]
    dynamodb = here.client("dynamodb")
    dynamodb.create_table(
        TableName=NAME,
        KeySchema=[{"AttributeName": each, "KeyType": kind} for each, kind in zip(KEY, ("HASH", "RANGE"), strict=True)],
        AttributeDefinitions=[
            {"AttributeName": each, "AttributeType": kind} for each, kind in zip(KEY, obstacle.kinds, strict=True)
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    recoverable = {"PointInTimeRecoveryEnabled": True}
    dynamodb.update_continuous_backups(TableName=NAME, PointInTimeRecoverySpecification=recoverable)
    begun = int(here.ask("clock")["now"])
    for number in range(12):
        dynamodb.put_item(TableName=NAME, Item=item(obstacle.kinds, number, "08:00", "1", begun))
    before = stored(here)
    corrupting(here)
    later = int(here.ask("clock")["now"])
    for number in (1, 5, 9):
        dynamodb.put_item(TableName=NAME, Item=item(obstacle.kinds, number, "99:99", "2", later))
    here.ask("advance", seconds=900)
    if name == "recovery-off":
        dynamodb.update_continuous_backups(TableName=NAME, PointInTimeRecoverySpecification=NO_BACKUP)
    if name in ("provisioned", "both-refused"):
        config = {"FunctionName": here.function, "Qualifier": "live", "ProvisionedConcurrentExecutions": 5}
        here.client("lambda").put_provisioned_concurrency_config(**config)
        here.ask("advance", seconds=600)
    if way == "alone":
        # Nothing says where the traffic could go.
        here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description="")
    return before, stored(here)


def connected(here: Situation) -> Target:
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    table = {"name": NAME, "key": list(KEY), "invariants": [{"attribute": "at", "pattern": r"([01]\d|2[0-3]):\d\d"}]}
    return here.connect("data_corruption", values={**values, "tables": [table]})


def denies_writes(here: Situation) -> bool:
    dynamodb = here.client("dynamodb")
    arn = dynamodb.describe_table(TableName=NAME)["Table"]["TableArn"]
    try:
        policy = dynamodb.get_resource_policy(ResourceArn=arn)["Policy"]
    except dynamodb.exceptions.PolicyNotFoundException:
        return False
    return isolation.STATEMENT in policy


def serves_corruption(here: Situation) -> bool:
    alias = here.alias()
    weights = alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    return alias["FunctionVersion"] == "2" or weights.get("2", 0) > 0


def refuse(here: Situation, obstacle: Obstacle) -> None:
    for operation, kind in obstacle.refused.items():
        here.ask("chaos", kind=kind, operation=operation, times=8 if kind == "throttled" else 999)


def run(here: Situation, given: Mapping[str, Any]) -> tuple[str, BuddyError | None]:
    """The runbook from its first to its last cell; what it says, and how it ends. The corruption is stopped by the end
    of the fourth step, whatever comes of the others."""
    said: list[str] = []
    with closing(connected(here)) as mine:
        try:
            plan = containment.plan_containment(mine, **given)
            said.append(str(plan))
            said.append(str(containment.contain_damage(mine, plan, approve(mine, plan))))
            assert not serves_corruption(here) or isolated(here) or denies_writes(here)
            said.append(containment.restore_table_copy(mine, plan))
            found = repair.determine_scope(mine, plan)
            said.append(str(found))
            repairing = repair.plan_repair(mine, found)
            agreed = approve(mine, repairing)
            done = repair.run_repair(mine, repairing, agreed)
            said.append(str(repair.verify_repair(mine, plan, repairing, done)))
            said.append(containment.end_containment(mine, plan, repairing, agreed))
            containment.raise_for_unrepaired(mine, plan)
            repair.raise_for_incomplete(plan, done)
        except BuddyError as error:
            return "\n".join(said), error
    return "\n".join(said), None


def is_on(here: Situation) -> bool:
    names = here.client("ssm").get_parameters(Names=["/buddy-ops/buddy-alexa-skill-sandbox/live/isolation"])[
        "Parameters"
    ]
    return not (isolated(here) or denies_writes(here) or names)


@pytest.mark.parametrize(("name", "way"), sampled(cases(), slice(None, None, 3)))
def test_the_corruption_stops_first(situation: Bring, name: str, way: str) -> None:
    """With a version to go back to, and without one: stopped, told, and the next step ends well."""
    obstacle = OBSTACLES[name]
    here = situation("good", **QUIET)
    before, corrupted = afflict(here, name, way)
    refuse(here, obstacle)
    given: dict[str, Any] = dict(obstacle.given)
    said, error = run(here, given)
    if way == "alone" or "to_version" in given:
        assert error is not None, said
        assert "no rollback: " in said and "to_version" in str(error)
        expected = {"still-corrupting"} if obstacle.repairs else {"table-unrecoverable"}
        if name == "both-refused":
            expected = {"damage-not-stopped"}
        assert error.reference in expected, error
        # The next step: a person names the version.
        given["to_version"] = "1"
        first = said
        said, error = run(here, given)
        said = f"{first}\n{said}"
    assert obstacle.says in f"{said}\n{error}", said
    assert not serves_corruption(here)
    here.ask("chaos")
    if obstacle.repairs:
        assert error is None, error
        assert stored(here) == before and is_on(here)
        return
    # What cannot be done is said, nothing was repaired, and Buddy is not left off.
    assert error is not None and error.reference == "table-unrecoverable" and error.exit_code == 1
    assert "NO REPAIR" in said and "NO COPY" in said and "3 unrestorable" in said
    assert stored(here) == corrupted and is_on(here) and len(parameters(here, "freeze")) == 1
    if name == "onset-too-early":
        # The next step again: the earliest time that AWS has.
        (given["onset"],) = re.findall(r"20\d\d-[\d-]+T[\d:]+Z", error.next)
    if name == "onset-mistyped":
        del given["onset"]
    if name in ("onset-too-early", "onset-mistyped", "window-denied"):
        said, error = run(here, {**given, "version": "2"})
        assert error is None and is_on(here), error


def test_a_repair_can_be_left_out(situation: Bring) -> None:
    """repair_items=False ends an isolation whose repair does not go on: Buddy is on, nothing changed, exit code 0."""
    here = situation("good", **QUIET)
    _, corrupted = afflict(here, "nothing", "back")
    here.ask("chaos", kind="denied", operation="RestoreTableToPointInTime", times=99)
    _, error = run(here, {})
    assert error is not None and error.reference == "access-denied" and "repair_items" in error.next
    assert isolated(here)
    said, error = run(here, {"repair_items": False})
    assert error is None and "runs again" in said and is_on(here) and stored(here) == corrupted


def test_an_isolation_that_was_refused_leaves_no_record(situation: Bring) -> None:
    """AWS refused both ways: nothing says that it is isolated, and the concurrency of before is untouched."""
    here = situation("good", **QUIET)
    afflict(here, "both-refused", "back")
    refuse(here, OBSTACLES["both-refused"])
    with closing(connected(here)) as mine:
        outcome = isolation.isolate_either_way(mine, "function", NAME)
        assert outcome.isolation is None and len(outcome.refused) == 2 and isolation.read_isolation(mine) is None


def test_a_way_that_may_have_worked_is_undone_with_the_other(situation: Bring) -> None:
    """The answer to concurrency 0 is lost for longer than it is tried: writes are denied, and both are undone."""
    here = situation("good", **QUIET)
    afflict(here, "nothing", "back")
    here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=7)
    here.ask("chaos", kind="closed", operation="PutFunctionConcurrency", times=99, after=True)
    with closing(connected(here)) as mine:
        outcome = isolation.isolate_either_way(mine, "function", NAME)
        assert outcome.isolation is not None and (outcome.isolation.how, outcome.isolation.also) == (
            "writes",
            "function",
        )
        assert isolated(here) and denies_writes(here)
        here.ask("chaos")
        isolation.remove_isolation(mine)
        assert is_on(here)
    reserved = here.client("lambda").get_function_concurrency(FunctionName=here.function)
    assert reserved["ReservedConcurrentExecutions"] == 7


def test_what_is_isolated_need_not_be_readable(situation: Bring) -> None:
    """SSM refuses: the traffic goes back and the items are repaired; whether it is isolated stays unknown, exit code 1.
    Once SSM answers, the same again ends well."""
    here = situation("good", **QUIET)
    before, _ = afflict(here, "nothing", "back")
    here.ask("chaos", kind="denied", operation="GetParameter", times=999)
    said, error = run(here, {})
    assert error is not None and (error.reference, error.exit_code) == ("access-denied", 1)
    assert "whether something is isolated is unknown" in said and "NOT ISOLATED" in said
    assert not serves_corruption(here) and stored(here) == before
    here.ask("chaos")
    said, error = run(here, {})
    assert error is None and is_on(here)
