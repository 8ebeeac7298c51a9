"""Going down in steps, against the sandbox: the alias, the schedules and the call log say what happened."""

from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import gradual_rollback, rollback, rollout
from tests.conftest import Situation, abandon, approve, sampled

Bring = Callable[..., Situation]


def half(here: Situation, profile: str = "good") -> Target:
    """A canary that stands at 50 %, and whose run is gone."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"] |= {"bake_minutes": 1, "stages_percent": [10, 25, 50, 100]}
    mine = here.connect("canary", values=values)
    plan = rollout.plan_rollout(mine, here.build(profile))
    abandon(mine, plan, weight=0.5)
    mine.close()
    return here.connect("gradual", values=values)


def go_down(target: Target, *given: Any) -> Outcome:
    plan = gradual_rollback.plan_gradual_rollback(target, *given)
    outcome = rollout.drive_rollout(target, gradual_rollback.run_gradual_rollback(target, plan, approve(target, plan)))
    target.close()
    return outcome


def shares(here: Situation) -> list[float]:
    """The new version's share after each write since the canary stood at 50 %, from the sandbox's call log."""
    weights = [
        next(iter(each["params"]["RoutingConfig"]["AdditionalVersionWeights"].values()), 0.0)
        for each in here.calls("UpdateAlias")
    ]
    return weights[weights.index(0.5) + 1 :]


def test_it_goes_back_through_the_stages(situation: Bring) -> None:
    """50 % → 25 % → 10 % → 0 %, two minutes a step, while stable serves; the version is known bad, no schedule stays."""
    here = situation("good")
    target = half(here)
    began = target.clock.now()
    outcome = go_down(target)
    assert shares(here) == [0.25, 0.1, 0.0] and (outcome.ending, outcome.exit_code) == ("drained", 0)
    # Then the last requests are counted, for four minutes.
    assert 8 <= (target.clock.now() - began).total_seconds() / 60 <= 10
    alias = aliases.read_alias(target)
    assert alias is not None and (alias.primary, alias.additional) == ("1", None)
    assert alias.rollout is not None and (alias.rollout.stage, alias.rollout.rejected_versions) == (
        "rolled-back",
        ("2",),
    )
    assert here.client("scheduler").list_schedules()["Schedules"] == []


def test_reversed_or_foreign_weights_are_refused(situation: Bring) -> None:
    """Steps need the stable version as the primary: their lease clears the weights beside it."""
    here = situation("good")
    target = half(here)
    lam, name = here.client("lambda"), {"FunctionName": here.function, "Name": "live"}
    weights = {"AdditionalVersionWeights": {"1": 0.8}}
    lam.update_alias(**name, FunctionVersion="2", RoutingConfig=weights)
    with pytest.raises(Refused, match="weights-not-ours") as refused:
        gradual_rollback.plan_gradual_rollback(target)
    assert "rollback/immediate" in refused.value.next
    assert rollback.plan_rollback(target).destination == "1"
    lam.update_alias(**name, FunctionVersion="2", RoutingConfig=weights, Description="by hand")
    with pytest.raises(Refused, match="which-is-stable"):
        gradual_rollback.plan_gradual_rollback(target)
    target.close()


def test_at_once_is_one_write(situation: Bring) -> None:
    """[0] takes everything away in one UpdateAlias; a second run finds the work done and writes nothing."""
    here = situation("good")
    target = half(here)
    assert go_down(target, [0]).ending == "drained"
    assert shares(here) == [0.0]
    again = go_down(here.connect("gradual"))
    assert again.ending == "drained" and shares(here) == [0.0]


def test_a_version_that_fails_on_the_way_loses_the_rest_at_once(situation: Bring) -> None:
    """A build that begins to fail while it goes down does not get its remaining steps."""
    here = situation("slow_to_fail")
    target = half(here, "slow_to_fail")
    here.ask("advance", seconds=300)
    outcome = go_down(target, [40, 30, 20, 10, 5, 0], 5)
    assert shares(here)[-1] == 0.0 and len(shares(here)) < 6
    assert "at once" in outcome.reasons[0] and outcome.failed["2"] > 0


@pytest.mark.parametrize(("order", "left"), sampled([("abort", [0.25, 0.0]), ("promote", [0.25, 0.1, 0.0])], slice(1)))
def test_orders_are_obeyed(situation: Bring, order: str, left: list[float]) -> None:
    """Abort takes the rest away at once, promote goes on to the next step without waiting."""
    here = situation("good")
    target = half(here)
    plan = gradual_rollback.plan_gradual_rollback(target, None, 30)
    steps = gradual_rollback.run_gradual_rollback(target, plan, approve(target, plan))
    seen = next(steps)
    began = target.clock.now()
    with pytest.raises(StopIteration):
        while True:
            # When the traffic is back nobody waits for the count of the last requests here.
            seen = steps.send(order if seen.weight else "stop")  # type: ignore[arg-type]
    assert shares(here) == left and target.clock.now() == began


def test_a_run_that_dies_leaves_the_rest_to_the_lease(situation: Bring) -> None:
    """Closing the generator at 25 % keeps the lease: within its minutes AWS itself takes the rest away."""
    here = situation("good")
    target = half(here)
    plan = gradual_rollback.plan_gradual_rollback(target)
    steps = gradual_rollback.run_gradual_rollback(target, plan, approve(target, plan))
    next(steps)
    steps.close()
    target.close()
    now = aliases.read_alias(target)
    assert now is not None and now.weight == 0.25 and now.draining
    assert "remaining traffic of v2 is shifted back in steps" in aliases.describe(target, now)
    here.ask("advance", seconds=60 * (target.settings.lease.minutes + 1))
    assert "RoutingConfig" not in here.alias() and here.alias()["FunctionVersion"] == "1"
    assert go_down(here.connect("gradual")).ending == "drained"


@pytest.mark.whole
def test_the_rollout_that_shifted_it_ends(situation: Bring) -> None:
    """The canary's own run sees that the alias moved, says by whom, and leaves the lease to the way down."""
    here = situation("good")
    mine = here.connect("canary")
    plan = rollout.plan_rollout(mine, here.build("good"))
    canary = rollout.run_rollout(mine, plan, approve(mine, plan))
    for seen in canary:
        if seen.weight:
            break
        mine.clock.sleep_until(seen.wake_at)
    target = here.connect("gradual", run="beef")
    down = gradual_rollback.plan_gradual_rollback(target, [5])
    steps = gradual_rollback.run_gradual_rollback(target, down, approve(target, down))
    next(steps)
    with pytest.raises(aliases.AliasMoved, match="by run beef"):
        next(canary)
    assert len(here.client("scheduler").list_schedules()["Schedules"]) == 1
    mine.close()
    assert rollout.drive_rollout(target, steps).ending == "drained"
    assert here.client("scheduler").list_schedules()["Schedules"] == []


def test_a_lease_that_cannot_be_armed_takes_everything_away(situation: Bring) -> None:
    """Traffic does not stay split without a lease."""
    here = situation("good")
    target = half(here)
    plan = gradual_rollback.plan_gradual_rollback(target)
    for operation in ("CreateSchedule", "UpdateSchedule"):
        here.ask("chaos", kind="denied", operation=operation, times=1_000_000)
    try:
        outcome = rollout.drive_rollout(
            target, gradual_rollback.run_gradual_rollback(target, plan, approve(target, plan))
        )
    finally:
        here.ask("chaos")
    assert shares(here) == [0.0] and "the failsafe could not be armed" in outcome.reasons[0]


def test_nothing_to_take_away_is_refused(situation: Bring) -> None:
    """One version alone: refused, with the runbook that leaves a version which serves alone."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    with pytest.raises(Refused, match="nothing-to-drain") as refused:
        gradual_rollback.plan_gradual_rollback(here.connect("gradual"))
    assert "rollback/immediate" in refused.value.next and here.calls("UpdateAlias") == []


@pytest.mark.parametrize(
    ("steps", "minutes"), sampled([([60.0], 2), ([20.0, 30.0], 2), ([-5.0], 2), ([20.0], 0)], slice(None, None, 2))
)
def test_only_the_way_down_is_taken(situation: Bring, steps: list[float], minutes: float) -> None:
    """Steps that do not fall from where the share is, or take no time or too long, are refused before any write."""
    here = situation("good")
    target = half(here)
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        gradual_rollback.plan_gradual_rollback(target, steps, minutes)
    assert shares(here) == []
    assert gradual_rollback.plan_gradual_rollback(target, []).steps[-1] == 0
