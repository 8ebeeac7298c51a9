"""After a rollback: the traffic is back at once, every failed request is counted, and nothing changes the ending."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import gradual_rollback, rollout
from buddy_ops.deployment.observation import Observation, Order
from buddy_ops.notebook import controls, live
from tests.conftest import Situation, abandon, approve

Bring = Callable[..., Situation]
BUSY = {"requests_per_minute": 6000, "history_minutes": 12}


def served(here: Situation, version: str) -> tuple[int, int]:
    """Requests of a version behind the alias and how many failed, when CloudWatch has everything."""
    here.ask("advance", seconds=900)
    now = here.ask("clock")["now"]
    behind = {"FunctionName": here.function, "Resource": f"{here.function}:live", "ExecutedVersion": version}
    found = []
    for name in ("Invocations", "Errors"):
        points = here.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in behind.items()],
            StartTime=now - 4 * 3600,
            EndTime=now,
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
        found.append(round(sum(point["Sum"] for point in points)))
    return found[0], found[1]


def until_back(here: Target, steps: rollout.Rollout, order_at: tuple[str, Order] | None = None) -> Observation:
    """Drive a rollout until its traffic is back; the first observation that says so."""
    seen = next(steps)
    while seen.weight or seen.stage != "rolled-back":
        here.clock.sleep_until(seen.wake_at)
        order = order_at[1] if order_at and seen.stage == order_at[0] else None
        seen = steps.send(order)
    return seen


def to_end(here: Target, steps: rollout.Rollout, seen: Observation) -> Outcome:
    """Drive a rollout from an observation to its end."""
    try:
        while True:
            here.clock.sleep_until(seen.wake_at)
            seen = next(steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


@pytest.mark.parametrize("profile", ["total_failure", "errors_5_percent"])
def test_every_request_of_the_new_version_is_counted(situation: Bring, profile: str) -> None:
    """The outcome names what CloudWatch has in the end, not only what was judged."""
    here = situation("good", **BUSY)
    outcome = here.ship(here.build(profile))
    assert outcome.ending == "rolled-back"
    assert (outcome.requests["2"], outcome.failed["2"]) == served(here, "2")
    assert not any("not counted" in reason for reason in outcome.reasons)


def test_the_traffic_is_back_before_anything_is_counted(situation: Bring) -> None:
    """The first observation after the verdict says so, asks for no wait, and its time is the rollback's."""
    here = situation("good", **BUSY)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("total_failure"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = until_back(mine, steps)
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    assert seen.says.startswith("ROLLED BACK: v1 receives 100 %. ") and "You can stop this cell" in seen.says
    assert seen.wake_at == seen.at
    assert mine.clock.now() - seen.at < seen.at - seen.at.replace(second=0, microsecond=0) + 2 * live.MINUTE
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    back_at = mine.clock.now()
    outcome = to_end(mine, steps, seen)
    # Late data, a minute for the alias to follow, and the poll's full minute.
    assert 3 <= (outcome.ended - back_at) / live.MINUTE <= 4
    mine.close()


@pytest.mark.parametrize("outage", ["error", "partial"])
def test_a_failure_while_counting_does_not_change_the_ending(situation: Bring, outage: str) -> None:
    """CloudWatch is away once the traffic is back: the ending stays, and says what was not counted."""
    here = situation("good", **BUSY)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("total_failure"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = until_back(mine, steps)
    here.ask("set", outage=outage)
    outcome = to_end(mine, steps, seen)
    here.ask("set", outage=None)
    assert (outcome.ending, outcome.exit_code) == ("rolled-back", 3)
    assert any(reason.startswith("Requests of v2 after ") for reason in outcome.reasons)
    assert outcome.failed["2"] < served(here, "2")[1]
    mine.close()


def test_an_interrupt_while_counting_ends_the_count_alone(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a chart: an interrupt in the wait after a rollback gives the outcome, at once."""
    here = situation("good", **BUSY)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("total_failure"))
    wait = mine.clock.sleep_until

    def interrupted(moment: Any) -> None:
        if "RoutingConfig" not in here.alias() and here.calls("UpdateAlias"):
            raise KeyboardInterrupt
        wait(moment)

    monkeypatch.setattr(mine.clock, "sleep_until", interrupted)
    outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert outcome.ending == "rolled-back"
    assert any("are not counted" in reason for reason in outcome.reasons)
    mine.close()


def test_an_interrupt_under_the_chart_ends_the_count_alone(
    situation: Bring, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cell returns the outcome, so that the next cell shows it; before the rollback an interrupt is one."""
    here = situation("good", **BUSY)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("total_failure"))
    until = controls.NoControls.until

    async def interrupted(waiting: controls.NoControls, seen: Observation) -> Order | None:
        if seen.stage == "rolled-back":
            raise asyncio.CancelledError
        return await until(waiting, seen)

    monkeypatch.setattr(controls.NoControls, "until", interrupted)
    outcome = asyncio.run(live.watch_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan))))
    assert outcome.ending == "rolled-back"
    assert "ROLLED BACK" in capsys.readouterr().out
    mine.close()


def test_an_aborted_rollout_counts_what_was_served(situation: Bring) -> None:
    """A person aborts: the same reading, and the operator's ending."""
    here = situation("good", **BUSY)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("total_failure"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    outcome = to_end(mine, steps, until_back(mine, steps, ("1", "abort")))
    assert outcome.ending == "aborted"
    assert (outcome.requests["2"], outcome.failed["2"]) == served(here, "2")
    mine.close()


def test_what_a_lost_run_cost_is_counted(situation: Bring) -> None:
    """The run is gone and the failsafe has acted: the run that closes the rollout counts all its requests."""
    here = situation("good", requests_per_minute=600, history_minutes=12)
    artifact = here.build("errors_5_percent")
    lost = here.connect()
    abandon(lost, rollout.plan_rollout(lost, artifact))
    lost.close()
    here.ask("advance", seconds=60 * 25)
    outcome = here.ship(artifact)
    assert outcome.ending == "lease-fired"
    assert (outcome.requests["2"], outcome.failed["2"]) == served(here, "2")
    assert outcome.failed["2"] > 0


def test_a_gradual_rollback_counts_its_last_requests(situation: Bring) -> None:
    """The requests of its last step are published after it."""
    here = situation("good", **BUSY)
    first = here.connect()
    abandon(first, rollout.plan_rollout(first, here.build("errors_2_percent")))
    mine = here.connect()
    plan = gradual_rollback.plan_gradual_rollback(mine, [5, 0], 1)
    steps = gradual_rollback.run_gradual_rollback(mine, plan, approve(mine, plan))
    outcome = rollout.drive_rollout(mine, steps)
    assert outcome.ending == "drained"
    assert outcome.requests["2"] == pytest.approx(served(here, "2")[0], rel=0.02)
    mine.close()
