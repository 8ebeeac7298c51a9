"""Messages to the team about a rollout or a rollback. No rollout and no rollback waits for one, or fails with it."""

from contextlib import closing
from dataclasses import replace

from buddy_ops.aws.notifications import DeliveryReport, announce
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.plan import Plan
from buddy_ops.deployment.observation import Order, Rollout, StageOrder
from buddy_ops.deployment.rollout_plan import RolloutPlan


def announce_rollout(target: Target, plan: RolloutPlan, rollout: Rollout) -> Rollout:
    """A rollout that is announced before it begins and after it has ended, when the traffic is where it stays.

    An interrupted rollout is not announced: it may be resumed. What could not be sent is in the outcome's reasons.

    AWS: as ``announce``; and what the rollout calls.
    """
    if target.dry_run or not plan.calls:
        return (yield from rollout)
    start = f"Started: {plan.title}."
    if plan.break_glass:
        start += f" VIOLATES THE RULES: {'; '.join(plan.violations)}. {plan.break_glass}."
    failures = announce(target, start).failures
    try:
        outcome = yield from _announce_milestones(target, plan, rollout)
    except BuddyError as error:
        announce(target, f"{error.result} ({error.reference}): {plan.title}. {error.what} State: {error.now}")
        raise
    failures += announce(target, f"Ended: {plan.title}. {outcome}").failures
    # A channel that fails at the start and at the end is named once.
    return replace(outcome, reasons=(*outcome.reasons, *dict.fromkeys(failures)))


def _announce_milestones(target: Target, plan: RolloutPlan, rollout: Rollout) -> Rollout:
    """A rollout that is also announced when the version is healthy or the traffic back: its end comes minutes later."""
    announced = ""
    order: Order | StageOrder | None = None
    # Who closes this generator, as an interrupt does, closes the rollout in it at once.
    with closing(rollout):
        while True:
            try:
                seen = rollout.send(order)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            # After the operator has seen it, and after the traffic has moved: no message delays these.
            order = yield seen
            milestone = ""
            if seen.stage == "rolled-back" and not seen.weight:
                milestone = f"ROLLED BACK: {plan.title}. The stable version receives 100 %. The result follows."
            elif seen.monitored_until is not None:
                milestone = f"HEALTHY: {plan.title}. It is monitored until {seen.monitored_until:%H:%M} UTC."
            if milestone and milestone != announced:
                announce(target, milestone)
                announced = milestone


def announce_rollback(target: Target, plan: Plan, result: object) -> DeliveryReport:
    """Announce what a person's rollback did, once the traffic is where it belongs.

    A dry run, or a rollback that found its work done, is not announced. AWS: as ``announce``.
    """
    if target.dry_run or not plan.calls:
        return DeliveryReport((), ())
    return announce(target, f"{plan.title}. {result}")
