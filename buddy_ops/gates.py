"""Who may say yes, and how they say it.

Knows approvals: names and the hash they approve. Headless, the decision is a parameter; absent means refused, at once.
Never runs what it approves.
"""

from collections.abc import Sequence

from buddy_ops.errors import AwsFailed, Refused
from buddy_ops.plan import Approval, Plan
from buddy_ops.target import Target

UNCHANGED = "Nothing was changed."


async def approve(target: Target, plan: Plan, approved_by: Sequence[str] = (), approved_plan: str = "") -> Approval:
    """An approval of exactly this plan, or a refusal.

    Args:
        target: whose environment's policy says how many different people must agree.
        plan: what is to be approved; ``plan.approvals`` people are needed.
        approved_by: the names of those who agreed.
        approved_plan: the hash that they saw; needed where the policy demands it, compared wherever it is given.

    AWS: sts:GetCallerIdentity, reads only.

    Raises:
        Refused: ``approval-missing`` or ``approval-void``; exit code 4.
    """
    people = _people(approved_by)
    if target.dry_run:
        return _record(target, plan, ("dry run",))
    if approved_plan and approved_plan != plan.hash:
        raise Refused(
            "approval-void",
            f"Plan {approved_plan} was approved, and this is plan {plan.hash}: the artifact, the version that serves, "
            "the policy or the stages are not what they were.",
            now=UNCHANGED,
            next=f"Read this plan; if it is right, approve it: approved_plan={plan.hash}.",
        )
    if plan.demand_hash and not approved_plan:
        raise Refused(
            "approval-missing",
            f"{target.environment} wants the plan's hash with the approval, and none was given.",
            now=UNCHANGED,
            next=f"Read the plan above; if it is right, give approved_plan={plan.hash}.",
        )
    if len(people) < plan.approvals:
        given = ", ".join(people) or "nobody"
        wanted = "one person" if plan.approvals == 1 else f"{plan.approvals} different people"
        raise Refused(
            "approval-missing",
            f"{target.environment} wants {wanted} to approve this plan; it was approved by {given}.",
            now=UNCHANGED,
            next=f"Read the plan above; if it is right, give approved_by with the names (plan {plan.hash}).",
        )
    return _record(target, plan, people or ("the environment's policy",))


def _people(names: Sequence[str]) -> tuple[str, ...]:
    """Different people: a name written twice, or with other capitals, is one person."""
    found: dict[str, str] = {}
    for name in names:
        stripped = str(name).strip()
        if stripped:
            found.setdefault(stripped.casefold(), stripped)
    return tuple(found.values())


def _record(target: Target, plan: Plan, people: tuple[str, ...]) -> Approval:
    try:
        principal = target.principal
    except AwsFailed as failure:
        # Taking traffic back does not wait for a name; shipping does.
        if plan.covers.get("action") != "rollback":
            raise
        principal = f"unknown ({failure.code})"
    approval = Approval(plan.hash, people, target.clock.now(), principal)
    target.journal.record("approved", plan=plan.hash, by=people, principal=approval.principal, title=plan.title)
    return approval
