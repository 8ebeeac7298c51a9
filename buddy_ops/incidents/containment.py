"""The containment of data corruption: stop the writes, restore a copy of the table, and re-enable traffic at the end.

In this order: the corrupting version loses its traffic, the function is isolated, deployments are frozen. Which items
are damaged, and how they are restored, is in ``repair``.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from buddy_ops.aws import aliases, freezes, isolation, tables, versions
from buddy_ops.aws.isolation import How, Isolation
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import date_and_time
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan, RollbackResult
from buddy_ops.incidents import assessment
from buddy_ops.incidents.assessment import FreezeResult
from buddy_ops.incidents.review import parse_time


@dataclass(frozen=True)
class ContainmentPlan(Plan):
    """How the damage is stopped and a copy is made.

    Attributes:
        bad: the versions that corrupt.
        since: the second before the damage began: the copy shows the table at this time.
        copy: the copy's name.
        back: the rollback; None where it is not needed or not possible.
        settled: whether nothing is left to stop: no corrupting version serves, nothing is isolated and the copy exists,
            because an earlier run was completed. Damage is compared and repaired all the same.
    """

    table: TableSettings
    bad: tuple[str, ...]
    since: datetime
    copy: str
    how: How
    back: RollbackPlan | None
    reason: str
    hours: float
    settled: bool = False


@dataclass(frozen=True)
class ContainmentResult:
    """What was done to stop an incident; None for a step that was not needed, and ``says`` why none was."""

    says: str = ""
    rollback: RollbackResult | None = None
    isolation: Isolation | None = None
    freeze: FreezeResult | None = None

    def __str__(self) -> str:
        isolated = f"It is {self.isolation}." if self.isolation else ""
        steps = (self.says, self.rollback, isolated, self.freeze)
        return "\n".join(str(step) for step in steps if step)


# Stop the damage


def plan_containment(
    target: Target,
    table: str = "",
    version: str = "",
    onset: str = "",
    to_version: str = "",
    how: str = "function",
    reason: str = "data is being damaged",
    hours: float = 24,
) -> ContainmentPlan:
    """How the damage would be stopped, and which copy would be made.

    Args:
        table: one of ``settings.tables``; empty: the first.
        version: the version that corrupts; empty: the one that was deployed last.
        onset: a time before the damage began, ISO 8601 UTC; empty: when that version was published.
        to_version: the version that receives the traffic; empty: the previous version.
        how: 'function' sets the function's concurrency to 0, 'writes' denies it to write to the table.
        hours: how long deployments are frozen.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ssm:GetParameter, GetParametersByPath,
    dynamodb:DescribeContinuousBackups, DescribeTable, reads only.

    Raises:
        InvalidInput: ``no-such-table``, ``invalid-parameters``; Refused: ``table-unrecoverable``.
    """
    chosen = _table(target, table)
    alias = aliases.require_alias(target)
    bad = version or assessment.suspect_version(alias)
    since = _since(target, onset, bad)
    _require_restorable(target, chosen.name, since)
    isolation_mode = _isolation_mode(how)
    serves = bad in alias.serving
    back: RollbackPlan | None = None
    doubts: tuple[str, ...] = ()
    if serves:
        back, doubts = _rollback_plan(target, to_version, bad)
    active_isolation = isolation.read_isolation(target)
    copy = f"{chosen.name}-{since:%Y%m%dT%H%M%S}"
    settled = not serves and active_isolation is None and _copy_exists(target, chosen.name, since, copy)
    then: list[str] = []
    calls: list[str] = []
    destination = ""
    if back is not None:
        then += back.then
        calls += back.calls
        destination = back.destination
    if not serves:
        then.append(f"v{bad} receives no traffic")
    if settled:
        then.append(f"no change: {copy} exists to compare with")
    else:
        isolated, isolating = ISOLATION_WORDS[isolation_mode]
        then += [
            f"isolated until the data is repaired: {isolated}",
            f"no deployments for {hours:g} h, or until the freeze is lifted",
            f"{copy} exists, a full table: delete it when the incident is closed",
        ]
        calls += [
            "ssm:PutParameter what was set before",
            isolating,
            f"ssm:PutParameter freeze: {reason}",
            f"dynamodb:RestoreTableToPointInTime {copy}",
        ]
    now = list(aliases.describe_in_sentences(target, alias))
    if active_isolation:
        now.append(str(active_isolation))
    return ContainmentPlan(
        title=f"Stop v{bad} damaging {chosen.name}, and restore a copy as of {date_and_time(since)}",
        now=(*now, *map(str, freezes.active_freezes(target))),
        then=tuple(then),
        calls=tuple(calls),
        undo=("removing the isolation restores what was set before; the copy must be deleted manually",),
        reasons=doubts,
        covers={
            "action": "stop corruption",
            "environment": target.environment,
            "function": target.settings.function,
            "table": chosen.name,
            "bad": [bad],
            "since": iso_utc(since),
            "how": how,
            "to": destination,
        },
        approvals=1,  # stopping cannot make the damage worse
        demand_hash=False,
        table=chosen,
        bad=(bad,),
        since=since,
        copy=copy,
        how=isolation_mode,
        back=back,
        reason=reason,
        hours=hours,
        settled=settled,
    )


def contain_damage(target: Target, plan: ContainmentPlan, approval: Approval) -> ContainmentResult:
    """Roll back, isolate, freeze. A step that fails does not prevent the next one.

    AWS: lambda:UpdateAlias, PutFunctionConcurrency, dynamodb:PutResourcePolicy, ssm:PutParameter (write).

    Raises:
        Refused: ``approval-void``; and the first failure, after every step was tried.
    """
    approval.must_cover(plan, target.clock.now())
    if target.dry_run:
        return ContainmentResult("Dry run: nothing was written.")
    if plan.settled:
        return ContainmentResult(
            f"Nothing to stop: v{plan.bad[0]} receives no traffic, nothing is isolated, and {plan.copy} exists."
        )
    # While the version writes, every second damages more items: a step that fails must not delay the next one.
    failures: list[BuddyError] = []
    moved: RollbackResult | None = None
    isolated: Isolation | None = None
    if plan.back is not None:
        try:
            moved = rollback.run_rollback(target, plan.back, assessment.approve_part(approval, plan.back))
        except BuddyError as error:
            failures.append(error)
    try:
        isolated = isolation.isolate(target, plan.how, plan.table.name)
    except BuddyError as error:
        failures.append(error)
    try:
        frozen = assessment.freeze_or_say(target, plan.reason, plan.hours, approval.by)
    except BuddyError as error:
        failures.append(error)
    if failures:
        raise failures[0]
    return ContainmentResult(rollback=moved, isolation=isolated, freeze=frozen)


def restore_table_copy(target: Target, plan: ContainmentPlan, watch: Progress = no_progress) -> str:
    """Make the copy, or wait for the one that an earlier run began. AWS: as ``tables.restore_copy``."""
    if target.dry_run:
        return "Dry run: no copy was made."
    tables.restore_copy(target, plan.table.name, plan.since, plan.copy, watch=watch)
    return f"{plan.copy} holds {plan.table.name} as of {date_and_time(plan.since)}."


def end_containment(target: Target, plan: ContainmentPlan, repairing: Plan, approval: Approval) -> str:
    """Re-enable traffic after the data is verified: the isolation is removed; the result as a sentence.

    Args:
        repairing: the plan of the repair, which includes this.

    AWS: lambda:GetAlias (read), and as ``isolation.remove_isolation``.

    Raises:
        Refused: ``approval-void``, ``still-corrupting``.
    """
    approval.must_cover(repairing, target.clock.now())
    if target.dry_run:
        return "Dry run: the isolation was not removed."
    # The alias is read again: another user or tool may have moved it during the repair.
    alias = aliases.require_alias(target)
    for version in alias.serving:
        if version in plan.bad:
            raise Refused(
                "still-corrupting",
                f"v{version} corrupts data, and {target.resource} serves {alias}.",
                now="The isolation is active.",
                next="Set to_version to a version that does not corrupt, and run this again.",
            )
    return isolation.remove_isolation(target)


# The parts of a plan

ISOLATION_WORDS: dict[How, tuple[str, str]] = {
    "function": ("no request is served", "lambda:PutFunctionConcurrency 0"),
    "writes": ("reminders can be read and not changed", "dynamodb:PutResourcePolicy Deny writes"),
}
"""What each isolation means to users, and its API call."""


def _table(target: Target, name: str) -> TableSettings:
    known = target.settings.tables
    for table in known:
        if name in ("", table.name):
            return table
    names = ", ".join(table.name for table in known)
    raise InvalidInput(
        "no-such-table",
        f"Table {name!r} is not in the settings of {target.environment}.",
        next=f"Known tables: {names or 'none'}. Add it to `tables` in parameters/, with its key and invariants.",
    )


def _copy_exists(target: Target, table: str, since: datetime, copy: str) -> bool:
    try:
        return tables.is_copy(target, table, since, copy)
    except BuddyError:
        # Unknown: the damage is stopped all the same, and the restore reports what is wrong.
        return False


def _isolation_mode(how: str) -> How:
    for mode in get_args(How):
        if how == mode:
            return mode  # type: ignore[no-any-return]
    raise InvalidInput(
        "invalid-parameters",
        f"isolate is {how!r}.",
        next="Set isolate to 'function' (concurrency 0) or 'writes' (the function can still read).",
    )


def _since(target: Target, onset: str, version: str) -> datetime:
    """The time to restore, to the second: the onset, or when the version was published."""
    if not onset:
        return versions.read_version(target, version).modified_at.replace(microsecond=0)
    return parse_time("onset", onset, until=target.clock.now()).replace(microsecond=0)


def _require_restorable(target: Target, table: str, since: datetime) -> None:
    """Refuse a time before the earliest one that the table can be restored to."""
    earliest, _ = tables.restorable_window(target, table)
    if since < earliest:
        raise Refused(
            "table-unrecoverable",
            f"{table} can be restored from {date_and_time(earliest)} on. The damage began {date_and_time(since)} or "
            "later.",
            next=f"Set onset to {iso_utc(earliest)} or later to repair what was damaged after it, or find a backup.",
        )


def _rollback_plan(target: Target, to_version: str, bad: str) -> tuple[RollbackPlan | None, tuple[str, ...]]:
    """The rollback and its doubts; None and why it is not possible. The isolation stops the damage in any case."""
    try:
        back = rollback.plan_rollback(target, to_version)
    except Refused as refused:
        return None, (f"no rollback: {refused.what} The isolation stops the damage.",)
    if back.destination == bad:
        return None, (f"no rollback: v{back.destination} corrupts data, too. Set to_version to another version.",)
    return back, back.reasons
