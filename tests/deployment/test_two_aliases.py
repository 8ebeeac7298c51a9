"""Two environments that are two aliases of one function: each has its own rollout, failsafe, alarms, freeze and story."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws import freezes, session
from buddy_ops.aws.aliases import decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.checks import status
from buddy_ops.core import project
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.deployment import rollback, rollout
from buddy_ops.deployment.rollout import Observation, Outcome, Rollout
from buddy_ops.health import alarms
from buddy_ops.incidents import review
from tests.conftest import Situation, approve, begun, two_environments

Bring = Callable[..., Situation]
NAMES = ("sandbox", "beta")


@pytest.fixture
def both(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> tuple[Situation, dict[str, Target]]:
    """The account, and a target of each environment, with short stages and an alarm topic."""
    here = situation("good", history_minutes=20, requests_per_minute=1200)
    two_environments(here, monkeypatch)
    topic = here.client("sns").create_topic(Name="buddy-alarms")["TopicArn"]
    return here, {name: connect(name, topic) for name in NAMES}


def connect(name: str, topic: str = "") -> Target:
    values: dict[str, Any] = project.read_settings(name)[0] | {"policy": {}, "alarms": {"topic_arn": topic or None}}
    values["rollout"] |= {"stages_percent": [10, 100], "bake_minutes": 4, "watch_minutes": 10}
    values["rollout"] |= {"watch_after_proof_minutes": 0, "smoke_tested": []}
    return session.connect(name, "canary", values=values)


def alias(here: Situation, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = here.client("lambda").get_alias(FunctionName=here.function, Name=name)
    return found


def schedules(here: Situation) -> set[str]:
    """The aliases that the schedules are of."""
    names = [each["Name"] for each in here.client("scheduler").list_schedules()["Schedules"]]
    return {name.removeprefix(f"{here.function}-").split("-")[0] for name in names}


def let_time_pass(targets: Iterable[Target]) -> None:
    """The sandbox's time stands still, for 20 s, for a target that has waited and is at work: these wait, too."""
    for each in targets:
        each.clock.close()


def alternate(targets: Mapping[str, Target], steps: Mapping[str, Rollout]) -> dict[str, Outcome]:
    """Drive several rollouts to their ends, each polled when it is due."""
    due: dict[str, Observation] = {}
    ended: dict[str, Outcome] = {}
    for name, rollout_steps in steps.items():
        let_time_pass(targets.values())
        due[name] = next(rollout_steps)
    while due:
        name = min(due, key=lambda each: due[each].wake_at)
        let_time_pass(targets.values())
        targets[name].clock.sleep_until(due[name].wake_at)
        try:
            due[name] = next(steps[name])
        except StopIteration as end:
            ended[name] = end.value
            del due[name]
    return ended


@pytest.mark.whole
def test_a_canary_in_one_while_the_other_bakes(both: tuple[Situation, dict[str, Target]]) -> None:
    """The bad build of one is rolled back, the good one of the other goes on: weights, failsafes and records are apart."""
    here, targets = both
    steps = {"sandbox": begun(targets["sandbox"], here.build("errors_5_percent"))}
    for seen in steps["sandbox"]:
        if seen.weight:
            break
        targets["sandbox"].clock.sleep_until(seen.wake_at)
    assert schedules(here) == {"live"} and "RoutingConfig" in alias(here, "live")
    targets["sandbox"].clock.close()
    steps["beta"] = begun(targets["beta"], here.build("good"))
    ended = alternate(targets, steps)
    assert ended["sandbox"].ending == "rolled-back" and ended["beta"].ending in ("proved", "unproven")
    assert (alias(here, "live")["FunctionVersion"], alias(here, "beta")["FunctionVersion"]) == ("1", "3")
    assert not any("RoutingConfig" in alias(here, name) for name in ("live", "beta")) and schedules(here) == set()
    records = {name: decode_rollout_state(alias(here, name)["Description"]) for name in ("live", "beta")}
    assert [record.new_version for record in records.values() if record is not None] == ["2", "3"]
    # What each tells is its own.
    readers = {name: connect(name) for name in NAMES}
    reports = {}
    for name, reader in readers.items():
        let_time_pass([*targets.values(), *readers.values()])
        reports[name] = status.read_status(reader)
    assert "v2" in reports["sandbox"].live and "v3" not in reports["sandbox"].live
    assert "v3" in reports["beta"].live and "v2" not in reports["beta"].live
    assert rollback.plan_rollback(connect("beta")).destination == "1"


def test_a_lost_run_of_one_is_rolled_back_alone(both: tuple[Situation, dict[str, Target]]) -> None:
    """The failsafe of the alias whose run is lost acts; a rollout that starts on the other alias leaves it armed."""
    here, targets = both
    lost = begun(targets["sandbox"], here.build("good"))
    for seen in lost:
        if seen.weight:
            break
        targets["sandbox"].clock.sleep_until(seen.wake_at)
    lost.close()
    targets["sandbox"].clock.close()
    steps = begun(targets["beta"], here.build("good", "3.0.0"))
    for seen in steps:
        if seen.weight:
            break
        targets["beta"].clock.sleep_until(seen.wake_at)
    assert schedules(here) == {"live", "beta"}
    # The run on beta renews its own failsafe only.
    assert alternate({"beta": targets["beta"]}, {"beta": steps})["beta"].ending in ("proved", "unproven")
    here.ask("advance", seconds=1200)
    assert "RoutingConfig" not in alias(here, "live") and alias(here, "live")["FunctionVersion"] == "1"
    assert alias(here, "beta")["FunctionVersion"] == "3"


def test_a_freeze_of_one_stops_the_other_no_more_than_its_alarms(both: tuple[Situation, dict[str, Target]]) -> None:
    """A freeze, an alarm in ALARM and a review belong to the environment that they are of."""
    here, targets = both
    for target in targets.values():
        plan = alarms.plan_alarms(target)
        alarms.write_alarms(target, plan, approve(target, plan))
    wanted = {name: {each["AlarmName"] for each in alarms.wanted_alarms(target)} for name, target in targets.items()}
    assert not wanted["sandbox"] & wanted["beta"]
    assert {name: {each.name for each in alarms.read_alarms(target)} for name, target in targets.items()} == wanted
    since = here.ask("status")["time"]
    for number, name in enumerate(sorted(wanted["sandbox"] | wanted["beta"])):
        here.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason=f"reason {number}")
    here.ask("advance", seconds=5)
    until = here.ask("status")["time"]
    for name, target in targets.items():
        events = review.review_incident(target, since, until, where=str(here.folder / "archive")).events
        assert {event.fields["alarm"] for event in events if event.kind == "alarm"} == wanted[name]
    # A deleted alarm is told by its name.
    here.client("cloudwatch").delete_alarms(AlarmNames=sorted(wanted["sandbox"] | wanted["beta"]))
    for name, target in targets.items():
        events = review.review_incident(target, since, until, where=str(here.folder / "archive")).events
        assert {event.fields["alarm"] for event in events if event.kind == "alarm"} == wanted[name]
    freezes.create_freeze(targets["beta"], "a release", "Ada", timedelta(hours=2))
    with pytest.raises(Refused, match="frozen"):
        rollout.plan_rollout(targets["beta"], here.build("good"))
    assert rollout.plan_rollout(targets["sandbox"], here.build("good")).calls


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_the_other_are_refused(both: tuple[Situation, dict[str, Target]], name: str) -> None:
    """papermill gives each environment its file's settings: those are taken, and those of the other alias are not."""
    other = NAMES[1 - NAMES.index(name)]
    assert session.connect(name, "t", values=project.read_settings(name)[0], quiet=True).environment == name
    with pytest.raises(InvalidInput, match=f"{other}'s, not {name}'s"):
        session.connect(name, "t", values=project.read_settings(other)[0], quiet=True)
