"""Recovering from damaged data: stop the damage, make a copy of the table as it was, and let people in again.

Knows the order: the traffic leaves the corrupting version first, then nothing writes any more, then nobody deploys.
What is damaged, and how it is repaired, ``repair`` knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from buddy_ops.aws import aliases, freezes, isolation, tables
from buddy_ops.aws.isolation import How
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Watch
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.settings import TableSettings
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan
from buddy_ops.incidents import assessment


@dataclass(frozen=True)
class ContainmentPlan(Plan):
    """How the damage is stopped and a copy is made.

    Attributes:
        bad: the versions that corrupt.
        since: the second before they began: what the copy shows.
        copy: the copy's name.
        back: where the traffic goes; None where it need not, or cannot.
        settled: whether nothing is to be stopped: no corrupting version serves, nothing is isolated, and the copy is
            there: an earlier run came to its end. What is damaged all the same is found, and repaired, without.
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


# Stop


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
        onset: when it began, ISO 8601 UTC; empty: when that version was published.
        to_version: where the traffic goes; empty: to the version that served before.
        how: 'function' turns the function off, 'writes' lets it read.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ssm:GetParameter, GetParametersByPath,
    dynamodb:DescribeContinuousBackups, DescribeTable, reads only.

    Raises:
        InvalidInput: ``no-such-table``, ``invalid-parameters``; Refused: ``table-unrecoverable``.
    """
    chosen = _table(target, table)
    alias = rollback.require_alias(target)
    bad = (version or assessment.suspect_version(alias),)
    since = _since(target, onset, bad[0])
    _refuse_outside(chosen.name, since, tables.restorable_window(target, chosen.name)[0])
    serves = bool(set(bad) & {alias.primary, alias.additional})
    back, doubts = _back(target, to_version, bad) if serves else (None, ())
    how = _how(how)
    known, standing = isolation.read_isolation(target), freezes.active_freezes(target)
    off = "nobody is served" if how == "function" else "reminders can be read out, and not be changed"
    copy = f"{chosen.name}-{since:%Y%m%dT%H%M%S}"
    settled = not serves and known is None and _copied(target, chosen.name, since, copy)
    then: tuple[str, ...] = (
        *(back.then if back else (f"v{bad[0]} gets no traffic",) if not doubts else ()),
        f"isolated until the data is repaired: {off}",
        f"no deployment for {hours:g} hours, or until the freeze is lifted",
        f"{copy} exists, a whole table: delete it when the incident is closed",
    )
    calls: tuple[str, ...] = (
        *(back.calls if back else ()),
        "ssm:PutParameter what was there before",
        "lambda:PutFunctionConcurrency 0" if how == "function" else "dynamodb:PutResourcePolicy Deny writes",
        f"ssm:PutParameter a freeze: {reason}",
        f"dynamodb:RestoreTableToPointInTime {copy}",
    )
    if settled:
        then, calls = (f"as now: v{bad[0]} gets no traffic, and {copy} is there to compare with",), ()
    return ContainmentPlan(
        title=f"Stop v{bad[0]} damaging {chosen.name}, and restore a copy as of {iso_utc(since)}",
        now=(
            *aliases.describe(target, alias).splitlines(),
            *(map(str, (known,) if known else ())),
            *map(str, standing),
        ),
        then=then,
        calls=calls,
        undo=("the isolation gives back what was there before; the copy is deleted by hand",),
        reasons=doubts,
        covers={
            "action": "stop corruption",
            "environment": target.environment,
            "function": target.settings.function,
            "table": chosen.name,
            "bad": list(bad),
            "since": iso_utc(since),
            "how": how,
            "to": back.destination if back else "",
        },
        approvals=1,  # stopping is the safe direction
        demand_hash=False,
        table=chosen,
        bad=bad,
        since=since,
        copy=copy,
        how=how,
        back=back,
        reason=reason,
        hours=hours,
        settled=settled,
    )


def contain_damage(target: Target, plan: ContainmentPlan, approval: Approval) -> str:
    """Move the traffic, isolate, freeze; each is tried whatever became of the one before. What was done, in lines.

    AWS: lambda:UpdateAlias, PutFunctionConcurrency, dynamodb:PutResourcePolicy, ssm:PutParameter (write).

    Raises:
        Refused: ``approval-void``; and the first failure, once everything was tried.
    """
    approval.must_cover(plan)
    if target.dry_run:
        return "Dry run: nothing was written."
    if plan.settled:
        return f"Nothing is to be stopped: v{plan.bad[0]} serves nobody, nothing is isolated, and {plan.copy} is there."
    told: list[str] = []
    failed: list[BuddyError] = []
    try:
        if plan.back is not None:
            told.append(str(rollback.run_rollback(target, plan.back, replace(approval, plan_hash=plan.back.hash))))
    except BuddyError as error:
        failed.append(error)
    try:
        told.append(f"It is {isolation.isolate(target, plan.how, plan.table.name)}.")
    except BuddyError as error:
        failed.append(error)
    told.append(_freeze(target, plan, approval))
    if failed:
        raise failed[0]
    return "\n".join(told)


def restore_table_copy(target: Target, plan: ContainmentPlan, watch: Watch = tables.ignore_progress) -> str:
    """Make the copy, or wait for the one that an earlier run began. AWS: as ``tables.restore_copy``."""
    if target.dry_run:
        return "Dry run: no copy was made."
    tables.restore_copy(target, plan.table.name, plan.since, plan.copy, watch)
    return f"{plan.copy} holds {plan.table.name} as of {iso_utc(plan.since)}."


def end_containment(target: Target, plan: ContainmentPlan, repairing: Plan, approval: Approval) -> str:
    """Let people in again, once the data is verified: what was there before is there again; in a sentence.

    Args:
        repairing: the plan of the repair, which says so.

    AWS: lambda:GetAlias (read), and as ``isolation.remove_isolation``.

    Raises:
        Refused: ``approval-void``, ``still-corrupting``.
    """
    approval.must_cover(repairing)
    if target.dry_run:
        return "Dry run: nothing was lifted."
    alias = rollback.require_alias(target)
    if serving := [each for each in (alias.primary, alias.additional) if each in plan.bad]:
        raise Refused(
            "still-corrupting",
            f"v{serving[0]} corrupts, and {target.resource} serves {alias}.",
            now="The isolation stands.",
            next="Give to_version a version that does not corrupt, and run this again.",
        )
    return isolation.remove_isolation(target)


# The parts of a plan


def _table(target: Target, name: str) -> TableSettings:
    known = {each.name: each for each in target.settings.tables}
    if name in known or (known and not name):
        return known[name] if name else target.settings.tables[0]
    raise InvalidInput(
        "no-such-table",
        f"{target.environment} has no table {name!r} in its settings." if name else "No table is in the settings.",
        now="Nothing was changed.",
        next=f"Known: {', '.join(known) or 'none'}. Add it to `tables` in parameters/, with its key and invariants.",
    )


def _copied(target: Target, table: str, since: datetime, copy: str) -> bool:
    """Whether the copy stands. Where that is unknown the damage is stopped all the same."""
    try:
        return tables.is_copy(target, table, since, copy)
    except BuddyError:
        return False


def _how(how: str) -> How:
    if how == "function":
        return "function"
    if how == "writes":
        return "writes"
    raise InvalidInput(
        "invalid-parameters",
        f"isolate is {how!r}.",
        now="Nothing was changed.",
        next="Give isolate: 'function' turns everything off, 'writes' lets the function read.",
    )


def _since(target: Target, onset: str, version: str) -> datetime:
    """The moment to go back to, to the second; the version's publication where nobody knows better."""
    if not onset:
        published = str(aliases.get_configuration(target, version)["LastModified"])
        return datetime.strptime(published, "%Y-%m-%dT%H:%M:%S.%f%z").astimezone(UTC).replace(microsecond=0)
    try:
        given = datetime.fromisoformat(onset)
        given = given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
        if given > target.clock.now():
            raise ValueError("it lies ahead")
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "invalid-parameters",
            f"onset: {onset!r}: {error}.",
            now="Nothing was changed.",
            next=f"Give when the damage began, for example {iso_utc(target.clock.now() - timedelta(hours=1))}.",
        ) from None
    return given.replace(microsecond=0)


def _refuse_outside(table: str, since: datetime, earliest: datetime) -> None:
    if since < earliest:
        raise Refused(
            "table-unrecoverable",
            f"{table} can be restored from {iso_utc(earliest)} on, and the damage began at {iso_utc(since)} or later.",
            now="Nothing was changed.",
            next=f"Give onset: {iso_utc(earliest)} or later shows what was damaged after it. "
            "Or look for an older backup.",
        )


def _back(target: Target, to_version: str, bad: Sequence[str]) -> tuple[RollbackPlan | None, tuple[str, ...]]:
    """Where the traffic goes; or None and why it cannot: the damage is stopped all the same."""
    try:
        back = rollback.plan_rollback(target, to_version)
    except Refused as refused:
        return None, (f"no version can take the traffic: {refused.what} The isolation stops the damage.",)
    if back.destination in bad:
        return None, (f"v{back.destination} would take the traffic and corrupts: name another (to_version).",)
    return back, back.reasons


def _freeze(target: Target, plan: ContainmentPlan, approval: Approval) -> str:
    """Freeze, unless this incident's freeze stands; what fails is told: the damage is stopped without it."""
    try:
        for standing in freezes.active_freezes(target):
            if standing.reason == plan.reason.strip():
                return f"Frozen already: {standing}."
        created = freezes.create_freeze(target, plan.reason, ", ".join(approval.by), timedelta(hours=plan.hours))
        return f"Frozen: {created}."
    except AwsFailed as failure:
        return f"NOT frozen: {failure.what} Tell those who deploy, and go on."
