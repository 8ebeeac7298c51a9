"""A healthy version is monitored on: it stays if the run is lost, and is rolled back if it begins to fail."""

import asyncio
from collections.abc import Callable

import pytest

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import AliasMoved
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Stopped
from buddy_ops.deployment import rollback, rollout
from buddy_ops.deployment.observation import Observation, Order
from buddy_ops.health.metrics import MINUTE
from buddy_ops.notebook import controls, live
from tests.conftest import Situation, approve, begun, driven_to_end, monitored, sampled

Bring = Callable[..., Situation]
BUSY = {"requests_per_minute": 6000, "history_minutes": 12}


def until_healthy(mine: Target, steps: rollout.Rollout) -> Observation:
    """Drive a rollout until it says that the version is healthy."""
    seen = next(steps)
    while seen.monitored_until is None:
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    return seen


def test_a_healthy_version_is_monitored_on_and_stays_without_a_failsafe(situation: Bring) -> None:
    """People, the record and the status say healthy, and until when; no schedule is left that could roll it back."""
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_healthy(mine, steps)
        healthy_at = seen.at
        assert seen.monitored_until is not None
        until = f"{seen.monitored_until:%H:%M} UTC"
        assert seen.says.startswith(f"HEALTHY: v2 stays at 100 %. It is monitored until {until}; you can stop this run")
        assert here.record().stage == "proved" and here.alias()["FunctionVersion"] == "2"
        assert here.client("scheduler").list_schedules()["Schedules"] == []
        alias = aliases.require_alias(mine)
        assert f"It is monitored until {until}" in aliases.describe(mine, alias)
        outcome = driven_to_end(mine, steps, seen)
        assert outcome.ending == "proved"
        assert 44 <= (outcome.ended - healthy_at) / MINUTE <= 46
        assert "It is monitored" not in aliases.describe(mine, aliases.require_alias(mine))


@pytest.mark.parametrize("after_proof", sampled([0, 45], slice(1)))
def test_a_version_that_begins_to_fail_later_is_rolled_back(situation: Bring, after_proof: float) -> None:
    """5 % fail from minute 12, after the proof: watched on, the traffic goes back; not watched, the build stays."""
    here = situation("good", **BUSY)
    with monitored(here, watch_after_proof_minutes=after_proof) as mine:
        steps = begun(mine, here.build("slow_to_fail"))
        outcome = rollout.drive_rollout(mine, steps)
    serving = here.alias()["FunctionVersion"]
    if after_proof:
        assert (outcome.ending, serving) == ("rolled-back", "1")
        assert here.record().rejected_versions == ("2",)
    else:
        assert (outcome.ending, serving) == ("proved", "2")


@pytest.mark.whole
def test_at_100_percent_failures_count_as_soon_as_they_are_published(situation: Bring) -> None:
    """5 % of 6,000 requests a minute: two minutes of them are served where CloudWatch is one minute late, not three."""
    failed = {}
    for delay_s in (60, 120):
        here = situation("good", **BUSY, metrics_delay_s=delay_s)
        with monitored(here) as mine:
            outcome = rollout.drive_rollout(mine, begun(mine, here.build("slow_to_fail")))
        assert outcome.ending == "rolled-back"
        failed[delay_s] = outcome.failed["2"]
    assert 250 <= failed[120] - failed[60] <= 350


def test_a_lost_run_leaves_a_healthy_version_where_it_is(situation: Bring) -> None:
    """A closed laptop rolls nothing back; the same build resumes the monitoring, and another build may follow."""
    here = situation("good", **BUSY)
    artifact = here.build("good")
    with monitored(here) as mine:
        steps = begun(mine, artifact)
        until = until_healthy(mine, steps).monitored_until
        steps.close()
    here.ask("advance", seconds=60 * 25)
    assert here.alias()["FunctionVersion"] == "2" and "RoutingConfig" not in here.alias()
    with monitored(here) as mine:
        plan = rollout.plan_rollout(mine, artifact)
        assert plan.title.startswith("Resume the monitoring of ") and f"until {until:%H:%M} UTC" in plan.title
        assert rollout.plan_rollout(mine, here.build("good", "3.0.0")).stable == "2"
        writes = len(here.calls("UpdateAlias", "CreateSchedule"))
        outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
        assert outcome.ending == "proved" and outcome.requests["2"] > 6000 * 30
        assert until is not None and 0 <= (outcome.ended - until) / MINUTE <= 1
        assert len(here.calls("UpdateAlias", "CreateSchedule")) == writes
        # When the time is over there is nothing left to monitor.
        assert rollout.plan_rollout(mine, artifact).title.endswith("is already live on " + mine.resource)


@pytest.mark.whole
def test_metrics_that_cannot_be_read_take_nothing_from_a_healthy_version(situation: Bring) -> None:
    """For longer than the settings allow before the proof: it stays, and the result says what was not seen."""
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_healthy(mine, steps)
        here.ask("set", outage="error")
        outcome = driven_to_end(mine, steps, seen)
        here.ask("set", outage=None)
        assert (outcome.ending, here.alias()["FunctionVersion"]) == ("proved", "2")
        assert outcome.reasons[-1].startswith("At the end of the monitoring metrics could not be read.")


@pytest.mark.whole
def test_orders_are_obeyed_after_the_proof(situation: Bring) -> None:
    """A person rolls back, or ends the monitoring; then nothing says that it goes on."""
    for order, ending, serving in (("abort", "aborted", "1"), ("promote", "proved", "2")):
        here = situation("good", **BUSY)
        with monitored(here) as mine:
            steps = begun(mine, here.build("good"))
            seen = until_healthy(mine, steps)
            outcome = driven_to_end(mine, steps, seen, order)  # type: ignore[arg-type]
            assert (outcome.ending, here.alias()["FunctionVersion"]) == (ending, serving)
            assert not here.record().monitored_until or here.record().stage == "rolled-back"
            assert (outcome.ended - seen.at) / MINUTE < 6


def test_a_later_deployment_ends_the_monitoring_and_a_rollback_by_hand_is_no_success(situation: Bring) -> None:
    """Who moves the alias decides what became of the healthy version."""
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_healthy(mine, steps)
        here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description="by hand")
        outcome = driven_to_end(mine, steps, seen)
        assert outcome.ending == "proved" and "Monitoring ended at " in outcome.reasons[0]
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_healthy(mine, steps)
        back = rollback.plan_rollback(mine)
        rollback.run_rollback(mine, back, approve(mine, back))
        with pytest.raises(AliasMoved):
            driven_to_end(mine, steps, seen)
        assert here.alias()["FunctionVersion"] == "1"


def test_the_watch_at_100_percent_is_never_longer_than_its_limit(situation: Bring) -> None:
    """``watch_minutes`` counts from 100 %, healthy or not."""
    here = situation("good", **BUSY)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"] |= {"watch_after_proof_minutes": 45, "watch_minutes": 12}
    outcome = here.ship(here.build("good"), values=values)
    assert outcome.ending == "proved"
    assert 22 <= (outcome.ended - outcome.began) / MINUTE <= 24


def test_an_interrupt_says_that_the_version_stays(
    situation: Bring, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No automatic rollback is announced that will not come."""
    here = situation("good", **BUSY)
    until = controls.NoControls.until

    async def interrupted(waiting: controls.NoControls, seen: Observation) -> Order | None:
        if seen.monitored_until is not None:
            raise asyncio.CancelledError
        return await until(waiting, seen)

    monkeypatch.setattr(controls.NoControls, "until", interrupted)
    with monitored(here) as mine, pytest.raises(Stopped):
        asyncio.run(live.watch_rollout(mine, begun(mine, here.build("good"))))
    shown = capsys.readouterr().out
    assert "The new version is healthy and stays at 100 %" in shown
    assert "The failsafe routes" not in shown.rpartition("Stopped.")[2]
