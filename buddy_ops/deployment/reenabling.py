"""Re-enable a function that was isolated: the settings of before the isolation are restored, with an approval.

The data's repair re-enables it, too, once it is verified. This is for an isolation that is left: by mistake, by a run
that was lost, or after a repair by other means. It judges no data.
"""

from dataclasses import dataclass

from buddy_ops.aws import aliases, isolation
from buddy_ops.aws.isolation import Isolation
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Refused
from buddy_ops.core.plan import Approval, Plan


@dataclass(frozen=True, kw_only=True)
class ReenablingPlan(Plan):
    """What is restored. ``isolation`` is None where nothing is isolated."""

    isolation: Isolation | None


def plan_reenabling(target: Target) -> ReenablingPlan:
    """What an isolation changed, and what is restored. One approval suffices.

    AWS: ssm:GetParameter, lambda:GetAlias, reads only.
    """
    found = isolation.read_isolation(target)
    alias = aliases.read_alias(target)
    now = [*aliases.describe_in_sentences(target, alias)]
    title = f"{target.settings.function} is not isolated"
    then: tuple[str, ...] = ("No change: nothing is isolated.",)
    calls: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    covered: list[str] = []
    if found is not None:
        title = f"Re-enable {target.settings.function}"
        now.append(f"{target.settings.function} is {found}.")
        then = ()
        undo = ("Isolate it again: emergency/data_corruption.",)
        reasons = ("Warning: whether the data is repaired is not checked here.",)
        # By these an isolation that another run made since needs an approval of its own.
        covered = [found.run, found.since, found.how]
        if "function" in (found.how, found.also):
            then += ("The function serves requests again.",)
            restoring = f"lambda:PutFunctionConcurrency ReservedConcurrentExecutions={found.before}"
            # It had no limit of its own: an absent one is no number that could be set.
            if found.before is None:
                restoring = "lambda:DeleteFunctionConcurrency"
            calls += (restoring,)
        if "writes" in (found.how, found.also):
            then += (f"The function can write {found.table} again.",)
            calls += ("dynamodb:PutResourcePolicy without the isolation's statement",)
        calls += ("ssm:DeleteParameter the isolation",)
    return ReenablingPlan(
        title=title,
        now=tuple(now),
        then=then,
        calls=calls,
        undo=undo,
        reasons=reasons,
        covers={
            "action": "re-enable",
            "environment": target.environment,
            "region": target.region,
            "function": target.settings.function,
            "isolation": covered,
        },
        isolation=found,
    )


def run_reenabling(target: Target, plan: ReenablingPlan, approval: Approval) -> str:
    """Restore the settings of before; what was done, in a sentence. AWS: as ``isolation.remove_isolation``.

    Raises:
        Refused: ``approval-void``: also where another run isolated it since the plan was made.
    """
    approval.must_cover(plan, target.clock.now())
    if target.dry_run:
        return "Dry run: nothing was written."
    if plan.isolation is None:
        return "Nothing was isolated."
    now = isolation.read_isolation(target)
    # None: it was removed meanwhile, and nothing is left to do.
    if now is not None and now != plan.isolation:
        raise Refused(
            "approval-void",
            f"{target.settings.function} was isolated again by {now.who} since the plan was made.",
            next="Run the same command again: it shows the new plan.",
        )
    return isolation.remove_isolation(target)
