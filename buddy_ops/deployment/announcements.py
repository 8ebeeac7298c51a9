"""What the team is told of a rollout or a rollback, around the deed and never in its way."""

from dataclasses import replace

from buddy_ops.aws.notifications import DeliveryReport, announce
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.plan import Plan
from buddy_ops.deployment.observation import Rollout
from buddy_ops.deployment.rollout_plan import RolloutPlan


def announce_rollout(target: Target, plan: RolloutPlan, rollout: Rollout) -> Rollout:
    """A rollout that is told of before it begins and once it has ended, when the traffic is where it will stay.

    A rollout that is interrupted tells nobody: it may be resumed. What could not be told stands in the outcome.

    AWS: as ``announce``; and what the rollout calls.
    """
    if target.dry_run or not plan.calls:
        return (yield from rollout)
    against = f" AGAINST THE RULES: {'; '.join(plan.violations)}. {plan.break_glass}." if plan.break_glass else ""
    told = [announce(target, f"Begins: {plan.title}.{against}")]
    try:
        outcome = yield from rollout
    except BuddyError as error:
        announce(target, f"Ended by an error ({error.reference}): {plan.title}. {error.what} Now: {error.now}")
        raise
    told.append(announce(target, f"Ended: {plan.title}. {outcome}"))
    troubles = dict.fromkeys(trouble for each in told for trouble in each.failures)
    return replace(outcome, reasons=(*outcome.reasons, *troubles))


def announce_rollback(target: Target, plan: Plan, done: object) -> DeliveryReport:
    """Tell the team what a person's rollback did, once the traffic is where it belongs.

    A dry run, or a rollback that found its work done, tells nobody. AWS: as ``announce``.
    """
    return DeliveryReport((), ()) if target.dry_run or not plan.calls else announce(target, f"{plan.title}. {done}")
