"""Messages to the team about a rollout or a rollback. No rollout and no rollback waits for one, or fails with it."""

from dataclasses import replace

from buddy_ops.aws.notifications import DeliveryReport, announce
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.plan import Plan
from buddy_ops.deployment.observation import Rollout
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
        outcome = yield from rollout
    except BuddyError as error:
        announce(target, f"{error.result} ({error.reference}): {plan.title}. {error.what} State: {error.now}")
        raise
    failures += announce(target, f"Ended: {plan.title}. {outcome}").failures
    # A channel that fails at the start and at the end is named once.
    return replace(outcome, reasons=(*outcome.reasons, *dict.fromkeys(failures)))


def announce_rollback(target: Target, plan: Plan, result: object) -> DeliveryReport:
    """Announce what a person's rollback did, once the traffic is where it belongs.

    A dry run, or a rollback that found its work done, is not announced. AWS: as ``announce``.
    """
    if target.dry_run or not plan.calls:
        return DeliveryReport((), ())
    return announce(target, f"{plan.title}. {result}")
