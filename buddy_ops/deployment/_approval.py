"""Whether an approval still counts when its deployment begins: it was not used. Never writes."""

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Refused
from buddy_ops.deployment.rollout_plan import RolloutPlan, mark_of

NEXT = "Make the plan again, review it and approve it again."


def require_unused(target: Target, plan: RolloutPlan, alias: Alias) -> None:
    """Refuse an approval whose plan was carried out already: an approval is for one use, and a rollback voids it.

    Args:
        alias: as it is now, without a rollout of this build in progress.

    Raises:
        Refused: ``approval-void``.
    """
    if mark_of(alias) == plan.follows:
        return
    ended = "Another tool has removed its record since."
    if alias.rollout is not None:
        ended = aliases.describe_record(alias.rollout, target.clock.now())
    raise Refused(
        "approval-void",
        f"The approval of plan {plan.hash} is void: a deployment of {target.resource} has ended since the plan was "
        f"made. {ended}",
        now=f"{target.resource} serves {alias}; nothing was changed.",
        next=NEXT,
    )
