"""The dead-man's switch on the sandbox's Scheduler: armed, renewed, fired, and harmless once somebody has acted."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import AliasState, RolloutState
from buddy_ops.aws.failsafe import Failsafe, FailsafeMissing
from buddy_ops.aws.session import Target
from tests.conftest import Situation

Bring = Callable[..., Situation]
RECORD = RolloutState("beef", "1", "2", "1", "2026-11-02T00:00:00Z")


@pytest.fixture
def here(situation: Bring) -> Situation:
    """Versions 1 and 2, the alias on 1, and nobody who talks to it."""
    found = situation("good", history_minutes=0, requests_per_minute=0)
    lam = found.client("lambda")
    lam.update_function_code(FunctionName=found.function, ZipFile=Path(found.build("good")).read_bytes())
    found.ask("advance", seconds=10)
    lam.publish_version(FunctionName=found.function)
    found.ask("advance", seconds=50)
    return found


def connect(here: Situation, **settings: Any) -> Target:
    """A target whose lease settings are replaced."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    return here.connect(values={**values, "lease": {**values["lease"], **settings}})


def split(here: Situation, mine: Target) -> None:
    """Give version 2 a tenth, as a rollout would."""
    aliases.update_alias(mine, aliases.read_alias(mine), AliasState("1", "2", 0.1, RECORD))
    assert served(here) == ("1", {"2": 0.1})


def served(here: Situation) -> tuple[str, dict[str, float]]:
    alias = here.alias()
    return alias["FunctionVersion"], alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})


def schedule(here: Situation, held: Failsafe) -> dict[str, Any]:
    return dict(here.client("scheduler").get_schedule(Name=held.name))


def names(here: Situation) -> list[str]:
    return [each["Name"] for each in here.client("scheduler").list_schedules()["Schedules"]]


def wait(here: Situation, **span: float) -> None:
    here.ask("advance", seconds=timedelta(**span).total_seconds())


# Arming and renewing


def test_an_armed_lease_is_a_schedule_that_clears_the_weights(here: Situation) -> None:
    """One-time, in UTC, deleted after it fired; its Input names function and alias, and no version and no revision."""
    mine = here.connect()
    held = failsafe.arm_split(mine)
    found = schedule(here, held)
    fires = mine.clock.now() + timedelta(minutes=20)
    assert held.until == fires
    assert found["ScheduleExpression"] == f"at({fires:%Y-%m-%dT%H:%M:%S})"
    assert (found["ScheduleExpressionTimezone"], found["ActionAfterCompletion"]) == ("UTC", "DELETE")
    assert found["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:lambda:updateAlias"
    assert found["Target"]["RoleArn"] == f"arn:aws:iam::{mine.account}:role/buddy-ops-scheduler"
    assert found["Target"]["RetryPolicy"] == {"MaximumRetryAttempts": 10, "MaximumEventAgeInSeconds": 900}
    assert json.loads(found["Target"]["Input"]) == {
        "FunctionName": here.function,
        "Name": "live",
        "RoutingConfig": {"AdditionalVersionWeights": {}},
    }


def test_the_environment_says_how_long_whose_role_and_which_queue(here: Situation) -> None:
    """Minutes, group, role and dead-letter queue of the settings stand in the schedule."""
    here.client("scheduler").create_schedule_group(Name="buddy")
    role, queue = "arn:aws:iam::123456789012:role/mine", "arn:aws:sqs:us-east-1:123456789012:letters"
    mine = connect(here, minutes=45, group="buddy", role_arn=role, dead_letter_arn=queue)
    held = failsafe.arm_split(mine)
    found = here.client("scheduler").get_schedule(Name=held.name, GroupName="buddy")
    assert held.until - mine.clock.now() == timedelta(minutes=45)
    assert (found["Target"]["RoleArn"], found["Target"]["DeadLetterConfig"]["Arn"]) == (role, queue)
    assert failsafe.disarm(mine) and names(here) == []


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
@pytest.mark.parametrize("role_of_ours", [True, False])
def test_the_call_and_its_role_are_of_the_callers_partition(
    here: Situation, partition: str, role_of_ours: bool
) -> None:
    """In China and GovCloud each ARN begins with another partition, whether the role is the default one or set."""
    role = f"arn:{partition}:iam::123456789012:role/buddy-ops-scheduler"
    mine = connect(here, role_arn="" if role_of_ours else role)
    if role_of_ours:
        vars(mine)["_caller"] = {
            "Account": "123456789012",
            "Arn": f"arn:{partition}:sts::123456789012:assumed-role/x/y",
        }
    found = schedule(here, failsafe.arm_split(mine))["Target"]
    assert found["RoleArn"] == role
    assert found["Arn"] == f"arn:{partition}:scheduler:::aws-sdk:lambda:updateAlias"


def test_arming_twice_renews(here: Situation) -> None:
    """A lease that is there already is pushed out, with every field again: there is never a second one."""
    mine = here.connect()
    first = failsafe.arm_split(mine)
    wait(here, minutes=5)
    second = failsafe.arm_split(here.connect())
    assert names(here) == [first.name] and second.until - first.until == timedelta(minutes=5)
    assert schedule(here, first)["ActionAfterCompletion"] == "DELETE"


def test_a_renewed_lease_does_not_fire_at_its_old_time(here: Situation) -> None:
    """As long as somebody renews it, the traffic stays split."""
    mine = here.connect()
    held = failsafe.arm_split(mine)
    split(here, mine)
    for _ in range(6):
        wait(here, minutes=11)
        held = failsafe.renew(mine, held)
    assert served(here) == ("1", {"2": 0.1})
    wait(here, minutes=21)
    assert served(here) == ("1", {})


@pytest.mark.parametrize(("minutes", "left", "is_due"), [(20, 11, False), (20, 9, True), (10, 6, False), (10, 4, True)])
def test_a_lease_is_renewed_when_under_half_is_left(here: Situation, minutes: int, left: float, is_due: bool) -> None:
    """Early enough that a renewal comes three minutes before it fires, and not at every poll."""
    mine = connect(here, minutes=minutes)
    held = Failsafe("x", mine.clock.now() + timedelta(minutes=left), "")
    assert failsafe.needs_renewal(mine, held) is is_due


@pytest.mark.parametrize("minutes", [10, 20, 120])
def test_polling_each_minute_always_renews_in_time(here: Situation, minutes: int) -> None:
    """With a poll a minute, no lease that settings allow ever gets within three minutes of firing."""
    mine = connect(here, minutes=minutes)
    due = [
        left
        for left in range(minutes)
        if failsafe.needs_renewal(mine, Failsafe("x", mine.clock.now() + timedelta(minutes=left), ""))
    ]
    assert max(due) - 1 >= 3


# Firing


def test_a_lease_that_nobody_renews_takes_the_traffic_back(here: Situation) -> None:
    """Within its minute the weights are gone, stable serves alone, the record stays to tell, and the schedule is gone."""
    mine = here.connect()
    failsafe.arm_split(mine)
    split(here, mine)
    wait(here, minutes=19)
    assert served(here) == ("1", {"2": 0.1})
    wait(here, minutes=2)
    assert served(here) == ("1", {}) and names(here) == []
    alias = aliases.read_alias(mine)
    assert alias is not None and alias.rollout == RECORD and alias.rollout.open


def test_a_lease_that_fired_cannot_be_renewed(here: Situation) -> None:
    """Renewing says that it is gone, so that the rollout reads the alias again; disarming says that there was nothing."""
    mine = here.connect()
    held = failsafe.arm_split(mine)
    assert failsafe.disarm(mine)
    assert not failsafe.disarm(mine)
    with pytest.raises(FailsafeMissing):
        failsafe.renew(mine, held)
    armed = failsafe.arm_split(mine)
    wait(here, minutes=22)
    with pytest.raises(FailsafeMissing):
        failsafe.renew(mine, armed)


def test_a_late_lease_is_harmless_after_promotion(here: Situation) -> None:
    """A lease that was not deleted names no version: fired after the switch, it leaves the new version serving."""
    mine = here.connect()
    failsafe.arm_split(mine)
    aliases.update_alias(mine, aliases.read_alias(mine), AliasState("2", None, 0.0, RECORD))
    wait(here, minutes=22)
    assert served(here) == ("2", {})


def test_a_lease_holds_with_a_clock_that_is_wrong(here: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times come from AWS's own clock, the sandbox's here: this machine's plays no part."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    held = failsafe.arm_split(here.connect())
    assert held.until == datetime.fromtimestamp(here.ask("clock")["now"], UTC) + timedelta(minutes=20)


# At 100 %


def watch(mine: Target) -> None:
    """Give version 2 everything, as a rollout does: a weight of 1.0 beside the stable version."""
    aliases.update_alias(mine, aliases.read_alias(mine), AliasState("1", "2", 1.0, RECORD))


def test_it_returns_to_the_old_version_from_100_percent(here: Situation) -> None:
    """If the run that watches at 100 % is lost, the old version serves again."""
    mine = here.connect()
    failsafe.arm_split(mine)
    watch(mine)
    assert here.client("lambda").invoke(FunctionName=here.function, Qualifier="live")["ExecutedVersion"] == "2"
    wait(here, minutes=22)
    assert served(here) == ("1", {}) and names(here) == []


def test_it_works_on_an_alias_that_somebody_edited(here: Situation) -> None:
    """A write of the same versions and weights, or of a Description, changes the RevisionId: the failsafe has none."""
    mine = here.connect()
    failsafe.arm_split(mine)
    watch(mine)
    lam = here.client("lambda")
    lam.update_alias(FunctionName=here.function, Name="live", Description="edited")
    same = {"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": 1.0}}}
    lam.update_alias(FunctionName=here.function, Name="live", **same)
    wait(here, minutes=22)
    assert served(here) == ("1", {}) and here.alias()["Description"] == "edited"


def test_it_changes_nothing_after_another_deployment(here: Situation) -> None:
    """A run is lost at 100 %, and another tool deploys: what that deployed keeps the traffic."""
    mine = here.connect()
    failsafe.arm_split(mine)
    watch(mine)
    here.client("lambda").update_alias(
        FunctionName=here.function, Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}}
    )
    wait(here, minutes=22)
    assert served(here) == ("2", {}) and names(here) == []


def test_a_stray_is_deleted_once_it_protects_nothing(here: Situation) -> None:
    """A failsafe of another run is deleted, but not while that run may still be about to shift traffic."""
    failsafe.arm_split(here.connect(), "dead")
    mine = here.connect()
    armed = mine.clock.now()
    waits = failsafe.delete_strays(mine)
    assert next(waits) == armed + failsafe.SETTLED
    assert len(names(here)) == 1
    wait(here, minutes=2)
    assert list(waits) == [] and names(here) == []


def test_only_the_own_strays_are_deleted(here: Situation) -> None:
    """Function 'a-b' with alias 'c' has the names of function 'a' with alias 'b-c': neither deletes the other's failsafe."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    pairs = [("a-b", "c", "dead1"), ("a", "b-c", "dead2"), ("a-b-c", "lease-x", "dead3"), ("a-b", "c-lease-x", "dead4")]
    mine = [here.connect(values={**values, "function": function, "alias": alias}) for function, alias, _ in pairs]
    armed = [failsafe.arm_split(each, run).name for each, (_, _, run) in zip(mine, pairs, strict=True)]
    wait(here, minutes=3)
    for each, name in zip(mine, armed, strict=True):
        before = names(here)
        assert list(failsafe.delete_strays(each)) == []
        assert set(before) - set(names(here)) == {name}
    assert names(here) == []


@pytest.mark.parametrize("length", [20, 50, 58, 64])
def test_each_has_its_own_name_however_long_the_functions_is(situation: Bring, length: int) -> None:
    """Scheduler's names end at 64 characters, Lambda's too: the failsafes of two runs, and of two functions, never share one."""
    here = situation("first_deployment")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    made = []
    for function in ("f" * (length - 1) + "a", "f" * (length - 1) + "b"):
        mine = here.connect(values={**values, "function": function})
        made += [failsafe.arm_split(mine).name, failsafe.arm_split(mine, "a1b2").name]
    assert len(set(made)) == 4 and all(len(name) <= 64 for name in made)
    assert sorted(names(here)) == sorted(made)
