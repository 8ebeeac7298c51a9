"""How rollouts end in the situations that matter, on the sandbox and without notebook."""

import re
from collections.abc import Callable
from contextlib import closing

import pytest

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import decode_rollout_state
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.deployment import rollback, rollout, rollout_plan
from buddy_sandbox import scenarios
from tests.conftest import Situation, abandon, approve, sampled

Bring = Callable[..., Situation]
ENDED_ELSEWHERE = {"bad_region", "corruption", "first_deployment", "unreachable_region"}
DAILY = {"errors_5_percent", "fix", "outage", "throttling"}
NAMES = sorted(set(scenarios.names()) - ENDED_ELSEWHERE)


@pytest.mark.parametrize("name", sampled(NAMES, DAILY))
def test_each_situation_ends_as_its_file_says(situation: Bring, name: str) -> None:
    """Night, late onset, outage of both, bursts, no traffic, throttling, a fix under a burning stable, and the rest."""
    here = situation(name)
    scenario = scenarios.read(name)
    outcome = here.ship(here.build(scenario.build))
    assert outcome.ending == scenario.ends
    serving = here.alias()
    assert serving["FunctionVersion"] == ("1" if outcome.exit_code else "2")
    assert "RoutingConfig" not in serving
    assert here.client("scheduler").list_schedules()["Schedules"] == []


def test_an_unproven_rollout_is_closed_by_a_later_run(situation: Bring) -> None:
    """A version whose watch ran out is watched on by the next run of its build, which proves it from all its minutes."""
    here = situation("good", requests_per_minute=60)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["watch_minutes"] = 10
    artifact = here.build("good")
    first = here.ship(artifact, values=values)
    assert (first.ending, first.exit_code) == ("unproven", 0)
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    values["rollout"]["watch_minutes"] = 600
    second = here.ship(artifact, values=values)
    assert second.ending == "proved"
    # It knows the minutes of the first run: it judges all of them.
    assert second.requests["2"] > first.requests["2"] and second.began == first.began
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and record.stage == "proved"


@pytest.mark.whole
def test_an_unproven_version_blocks_no_other_build(situation: Bring) -> None:
    """The next build ships from the unproven version, and returns to it."""
    here = situation("night")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["watch_minutes"] = 5
    here.ship(here.build("good"), values=values)
    assert rollout.plan_rollout(here.connect(), here.build("good", "3.0.0")).stable == "2"


@pytest.mark.whole
def test_a_lease_that_a_killed_run_left_takes_nothing_from_the_next_build(situation: Bring) -> None:
    """A run that died right before its end left a lease: the next rollout deletes it before it splits any traffic."""
    here = situation("good")
    assert here.ship(here.build("good")).ending == "proved"
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None
    dead = here.connect()
    failsafe.arm_split(dead, record.run)
    dead.close()
    here.ask("advance", seconds=60 * (dead.settings.lease.minutes - 8))
    assert here.ship(here.build("good", "3.0.0")).ending == "proved"
    assert here.alias()["FunctionVersion"] == "3"


@pytest.mark.parametrize(
    ("requests_per_minute", "rungs"),
    sampled(
        [(60, []), (150, [0.037]), (900, [0.0063, 0.063]), (6000, [0.00094, 0.0094])],
        [(150, [0.037])],
    ),
)
def test_a_ramp_is_fitted_to_the_traffic(situation: Bring, requests_per_minute: int, rungs: list[float]) -> None:
    """With prod's policy: 17 requests until a failure can be seen, ten times as many in each further rung."""
    here = situation("good", environment="prod", requests_per_minute=requests_per_minute)
    outcome = here.ship(here.build("good"))
    assert outcome.ending == "proved"
    *shares, closed = shares_of_new(here)
    assert shares == pytest.approx([*rungs, 0.1, 0.5, 1.0], rel=0.08) and closed is None


def shares_of_new(here: Situation) -> list[float | None]:
    """The weight of v2 in each write of the alias."""
    weights = [call["params"]["RoutingConfig"]["AdditionalVersionWeights"] for call in here.calls("UpdateAlias")]
    return [each.get("2") for each in weights]


@pytest.mark.whole
def test_a_ramp_costs_a_broken_build_less(situation: Bring) -> None:
    """A build that fails everything hurts fewer people where a ramp comes first: 17 until that is seen, and a poll's."""
    failed = {}
    for environment in ("sandbox", "prod"):
        here = situation("total_failure", environment=environment, requests_per_minute=6000)
        failed[environment] = here.ship(here.build("total_failure")).failed["2"]
    assert failed["prod"] <= 30 and failed["sandbox"] > 1500


@pytest.mark.whole
@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_ramp_survives_a_resume(situation: Bring, stage: str) -> None:
    """A rollout that was interrupted goes on from the rung where it is, whatever the traffic is then."""
    here = situation("good", environment="prod", requests_per_minute=6000)
    artifact = here.build("good")
    first = here.connect()
    plan = rollout.plan_rollout(first, artifact)
    abandon(first, plan, stage=stage)
    first.close()
    here.ask("set", requests_per_minute=3000)
    assert here.ship(artifact).ending == "proved"
    *shares, closed = shares_of_new(here)
    assert shares == pytest.approx([0.00094, 0.0094, 0.1, 0.5, 1.0], rel=0.08) and closed is None


@pytest.mark.whole
def test_a_switch_at_once_has_no_ramp(situation: Bring) -> None:
    """Who chooses to switch at once does not wait for rungs."""
    here = situation("good", environment="prod", requests_per_minute=6000)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"] |= {"strategies": ["blue_green"], "watch_minutes": 3}
    with closing(here.connect(values=values)) as mine:
        plan = rollout.plan_rollout(mine, here.build("good"), "blue_green")
        rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert shares_of_new(here)[0] == 1.0


@pytest.mark.whole
def test_a_slow_build_is_held_where_the_policy_says_so(situation: Bring) -> None:
    """With on_slow: hold, a version over the latency bound is not blamed; its bake ends without evidence, exit code 5."""
    here = situation("slow")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["on_slow"] = "hold"
    outcome = here.ship(here.build("slow"), values=values)
    assert (outcome.ending, outcome.exit_code) == ("held", 5)
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and record.rejected_versions == ()


@pytest.mark.whole
def test_late_metrics_do_not_change_what_was_judged(situation: Bring) -> None:
    """Minutes are judged once they are complete: metrics that come a minute later give the same figures, later."""
    outcomes = []
    for delay_s in (0, 60, 120):
        here = situation("errors_2_percent", metrics_delay_s=delay_s)
        outcomes.append(here.ship(here.build("errors_2_percent")))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_burning_alarm_is_told_and_does_not_refuse(situation: Bring) -> None:
    """An alarm in ALARM stands in the plan's reasons: shipping under it is allowed, since the build may be the fix."""
    here = situation("fix")
    cloudwatch = here.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=f"{here.function}-errors",
        Namespace="AWS/Lambda",
        MetricName="Errors",
        Dimensions=[{"Name": "FunctionName", "Value": here.function}],
        Period=60,
        Statistic="Sum",
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )
    here.ask("advance", seconds=300)
    plan = rollout_plan.plan_rollout(here.connect(), here.build("good"))
    assert any(f"{here.function}-errors is in ALARM" in reason for reason in plan.reasons)
    mine = here.connect()
    outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    mine.close()
    assert outcome.ending == "proved" and any("may be the fix" in reason for reason in outcome.reasons)


def create_alias_as_told(here: Situation, error: BuddyError) -> None:
    """Run the command that an error gives as the next step."""
    found = re.search(r"`aws lambda create-alias (--[^`]+)`", error.next)
    assert found is not None
    given = found.group(1).split()
    options = dict(zip(given[::2], given[1::2], strict=True))
    here.client("lambda").create_alias(
        FunctionName=options["--function-name"],
        Name=options["--name"],
        FunctionVersion=options["--function-version"],
    )


def interrupted(here: Situation, artifact: str, strategy: str) -> None:
    """A rollout whose run is gone as soon as the new version has traffic."""
    first = here.connect()
    plan = rollout.plan_rollout(first, artifact, strategy)
    abandon(first, plan)
    first.close()


@pytest.mark.parametrize("resumed_by", sampled(["blue_green", "canary"], slice(1)))
def test_an_interrupted_watch_goes_on_at_100_percent(situation: Bring, resumed_by: str) -> None:
    """Whichever strategy watches on, every minute since the switch was served by the new version alone."""
    here = situation("good", history_minutes=20)
    artifact = here.build("good")
    interrupted(here, artifact, "blue_green")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact, resumed_by)
    seen = next(rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert seen.weight == 1.0 and seen.evidence is not None
    assert [weight for _, weight in seen.evidence.shifts] == [1.0]
    mine.close()


def test_a_split_rollout_is_resumed_by_a_canary_alone(situation: Bring) -> None:
    """Switching at once a build that a canary gives 10 % would pass its verdict by: refused, and nothing is written."""
    here = situation("good", history_minutes=20)
    artifact = here.build("good")
    interrupted(here, artifact, "canary")
    with pytest.raises(Refused, match="rollout-under-way") as refused:
        rollout.plan_rollout(here.connect(), artifact, "blue_green")
    assert "strategies/canary" in refused.value.next


@pytest.mark.whole
def test_a_rollout_is_resumed_with_fewer_stages(situation: Bring) -> None:
    """The next stage is the first above the weight that the alias has, however many stages came before it."""
    here = situation("good")
    artifact = here.build("good")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["stages_percent"] = [10, 20, 50, 100]
    first = here.connect(values=values)
    plan = rollout.plan_rollout(first, artifact)
    steps = rollout.run_rollout(first, plan, approve(first, plan))
    seen = next(steps)
    while seen.weight < 0.5:
        first.clock.sleep_until(seen.wake_at)
        seen = steps.send("promote")
    steps.close()
    first.close()
    values["rollout"]["stages_percent"] = [10, 100]
    assert here.ship(artifact, values=values).ending == "proved"
    weights = [
        call["params"]["RoutingConfig"]["AdditionalVersionWeights"].get("2") for call in here.calls("UpdateAlias")
    ]
    assert weights == [0.1, 0.2, 0.5, 1.0, None]


def test_a_rollout_that_was_rolled_back_is_not_resumed(situation: Bring) -> None:
    """A rollback between the plan of a resumption and its run wins: the run shifts nothing and leaves no schedule."""
    here = situation("good", history_minutes=20)
    artifact = here.build("good")
    interrupted(here, artifact, "canary")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    back = rollback.plan_rollback(mine)
    rollback.run_rollback(mine, back, approve(mine, back))
    before = here.alias()["RevisionId"]
    with pytest.raises(aliases.AliasMoved):
        rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert here.alias()["RevisionId"] == before
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    mine.close()


def served(here: Situation) -> tuple[str, dict[str, float]]:
    """The alias's primary version, and the weights beside it."""
    alias = here.alias()
    return alias["FunctionVersion"], alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})


@pytest.mark.parametrize("strategy", sampled(["canary", "blue_green"], slice(1)))
def test_an_alias_that_is_deleted_in_mid_rollout_is_created_at_the_old_version(situation: Bring, strategy: str) -> None:
    """The advice returns the traffic to the version that served before, and no failsafe is left for the next run."""
    here = situation("total_failure", history_minutes=20)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"), strategy)
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    while not (seen := next(steps)).weight:
        mine.clock.sleep_until(seen.wake_at)
    here.client("lambda").delete_alias(FunctionName=here.function, Name="live")
    mine.clock.sleep_until(seen.wake_at)
    with pytest.raises(BuddyError, match="alias-deleted") as deleted:
        next(steps)
    mine.close()
    create_alias_as_told(here, deleted.value)
    assert served(here) == ("1", {}) and here.client("scheduler").list_schedules()["Schedules"] == []


@pytest.mark.whole
def test_an_alias_that_was_deleted_is_not_created_again_under_an_old_plan(situation: Bring) -> None:
    """The plan of a canary does not cover 100 % for the new version at once."""
    here = situation("good", history_minutes=20)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    here.client("lambda").delete_alias(FunctionName=here.function, Name="live")
    with pytest.raises(BuddyError, match="alias-deleted") as deleted:
        rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert here.calls("CreateAlias") == []
    mine.close()
    create_alias_as_told(here, deleted.value)
    assert served(here) == ("1", {})
    assert here.ship(here.build("good")).ending == "proved"
