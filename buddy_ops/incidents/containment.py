"""The containment of data corruption: stop the writes, restore a copy of the table, and re-enable traffic at the end.

In this order: the corrupting version loses its traffic, the function is isolated, deployments are frozen. None of these
depends on whether the items can be repaired: where they cannot, the damage is stopped all the same, and the isolation
lasts only as long as it stops something. Which items are damaged, and how they are restored, is in ``repair``.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from buddy_ops.aws import aliases, freezes, isolation, tables, versions
from buddy_ops.aws.isolation import How, Isolation, IsolationOutcome
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import date_and_time
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan, RollbackResult
from buddy_ops.incidents import assessment
from buddy_ops.incidents.assessment import FreezeResult
from buddy_ops.incidents.obstacles import Obstacle, find_obstacle
from buddy_ops.incidents.review import parse_time

NOT_WANTED = Obstacle(
    "The items are not to be repaired.",
    f"To repair the items, set {parameter('repair_items', True)}, and run this again.",
    chosen=True,
)
WITHOUT_REPAIR = f"To re-enable traffic without a repair, set {parameter('repair_items', False)}, and run this again."


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
        obstacle: why no item can be repaired; None: they can, as far as is known.
        isolates: whether it is isolated: for the repair, or because nothing else stops the damage.
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
    obstacle: Obstacle | None = None
    isolates: bool = True


@dataclass(frozen=True)
class ContainmentResult:
    """What was done to stop an incident; None for a step that was not needed, and ``says`` why none was.

    Attributes:
        notes: what else happened, a sentence each: an isolation that AWS refused, or that was removed.
    """

    says: str = ""
    rollback: RollbackResult | None = None
    isolation: Isolation | None = None
    freeze: FreezeResult | None = None
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What the team is notified of, in short sentences."""
        isolated = "Function not isolated."
        if self.isolation is not None:
            isolated = "Function isolated."
        frozen = "Deployments frozen."
        if self.freeze is not None and self.freeze.freeze is None:
            frozen = "Deployments not frozen."
        return f"{isolated} {frozen}"

    def __str__(self) -> str:
        isolated = ""
        if self.isolation is not None:
            isolated = f"It is {self.isolation}."
        steps = (self.says, self.rollback, *self.notes, isolated, self.freeze)
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
    repair_items: bool = True,
) -> ContainmentPlan:
    """How the damage would be stopped, and which copy would be made. Why none can be made is in the plan.

    Args:
        table: one of ``settings.tables``; empty: the first.
        version: the version that corrupts; empty: the one that was deployed last.
        onset: a time before the damage began, ISO 8601 UTC; empty: when that version was published.
        to_version: the version that receives the traffic; empty: the previous version.
        how: 'function' sets the function's concurrency to 0, 'writes' denies it to write to the table.
        hours: how long deployments are frozen.
        repair_items: whether items are repaired; False: the damage is stopped, and nothing stays isolated for a repair.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListProvisionedConcurrencyConfigs, ssm:GetParameter,
    GetParametersByPath, dynamodb:DescribeContinuousBackups, DescribeTable, reads only.

    Raises:
        InvalidInput: ``no-such-table``, ``invalid-parameters`` (``how``), ``version-missing`` (``version``).
            An onset or a rollback target that cannot be used is in the plan: the damage is stopped all the same.
    """
    # A mistyped table or isolation is refused before anything is read.
    chosen = _table(target, table)
    isolation_mode = _isolation_mode(how)
    # The traffic: a version that receives none any more needs no rollback.
    alias = aliases.require_alias(target)
    bad = version or assessment.suspect_version(alias)
    serves = bad in alias.serving
    back: RollbackPlan | None = None
    doubts: tuple[str, ...] = ()
    if serves:
        back, doubts = _rollback_plan(target, to_version, bad)
    # The repair: whether there can be a copy from before the damage.
    since, obstacle = _since(target, onset, bad)
    # By its name a second run finds the copy of the first, and of this time only.
    copy = f"{chosen.name}-{since:%Y%m%dT%H%M%S}"
    if not repair_items:
        obstacle = NOT_WANTED
    elif obstacle is None:
        obstacle, unknown = find_obstacle(target, chosen, since, copy)
        doubts += unknown
    # The isolation: while items are repaired, or because no rollback stops the damage.
    active_isolation, unknown = _active_isolation(target)
    doubts += unknown
    isolates = obstacle is None or (serves and back is None)
    if isolates:
        isolation_mode, unknown = _possible_mode(target, isolation_mode)
        doubts += unknown
    # A second run, after the first was completed, has nothing to stop.
    ended = obstacle is None and not serves and active_isolation is None
    settled = ended and _copy_exists(target, chosen.name, since, copy)
    # What the person who approves it reads.
    then: list[str] = []
    calls: list[str] = []
    if back is not None:
        then += back.then
        calls += back.calls
    if not serves:
        then.append(f"v{bad} receives no traffic")
    if settled:
        then.append(f"no change: {copy} exists to compare with")
    else:
        effects, isolating = _isolation_rows(
            isolation_mode, isolates, obstacle, active=active_isolation, table=chosen.name
        )
        then += [*effects, f"no deployments for {hours:g} h, or until the freeze is lifted"]
        calls += [*isolating, f"ssm:PutParameter freeze: {reason}"]
        if obstacle is None:
            then.append(f"{copy} exists, a full table: delete it when the incident is closed")
            calls.append(f"dynamodb:RestoreTableToPointInTime {copy}")
    undo = "removing the isolation restores what was set before; the copy must be deleted manually"
    title = f"Stop v{bad} damaging {chosen.name}, and restore a copy as of {date_and_time(since)}"
    if obstacle is not None:
        then += [f"NO REPAIR, NO COPY: {obstacle.what}", f"then: {obstacle.next}"]
        undo = "roll forward with strategies/canary; lift the freeze"
        title = f"Stop v{bad} damaging {chosen.name}, without a repair"
    now = [*aliases.describe_in_sentences(target, alias), *_freezes(target)]
    if active_isolation:
        now.append(str(active_isolation))
    return ContainmentPlan(
        title=title,
        now=tuple(now),
        then=tuple(then),
        calls=tuple(calls),
        undo=(undo,),
        reasons=doubts,
        covers={
            "action": "stop corruption",
            "environment": target.environment,
            "function": target.settings.function,
            "table": chosen.name,
            "bad": [bad],
            "since": iso_utc(since),
            "how": isolation_mode if isolates else "",
            # With another destination or another isolation it is another plan.
            "to": back.destination if back else "",
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
        obstacle=obstacle,
        isolates=isolates,
    )


def contain_damage(target: Target, plan: ContainmentPlan, approval: Approval) -> ContainmentResult:
    """Roll back, isolate, freeze. A step that fails does not prevent the next one.

    AWS: lambda:UpdateAlias, PutFunctionConcurrency, dynamodb:PutResourcePolicy, ssm:PutParameter (write).

    Raises:
        Refused: ``approval-void``; and the first failure, after every step was tried.
        BuddyError: ``damage-not-stopped``: the version serves, and AWS refused every way to isolate.
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
    notes: list[str] = []
    moved: RollbackResult | None = None
    if plan.back is not None:
        try:
            moved = rollback.run_rollback(target, plan.back, assessment.approve_part(approval, plan.back), no_progress)
        except BuddyError as error:
            failures.append(error)
    isolated = IsolationOutcome(None)
    # Also where the rollback failed, or AWS has not moved the traffic yet: until then the version writes on.
    if plan.isolates or failures or (moved is not None and moved.pending):
        isolated = isolation.isolate_either_way(target, plan.how, plan.table.name)
        notes += isolated.refused
        if isolated.isolation is None:
            notes.append("NOT ISOLATED.")
    try:
        frozen = assessment.freeze_or_say(target, plan.reason, plan.hours, approval.by)
    except BuddyError as error:
        failures.append(error)
        frozen = FreezeResult(trouble=error.what)
    # After the freeze: AWS may take an hour to allocate capacity.
    if moved is not None and moved.pending:
        try:
            moved = rollback.drive_rollback(target, moved)
        except BuddyError as error:
            failures.append(error)
    # By what the alias serves now: another user or tool may have moved it meanwhile.
    serving = _corrupting(target, plan)
    if isolated.failure is not None and serving:
        raise _not_stopped(target, plan, isolated, failures)
    # An isolation for want of a rollback, or by an earlier run, keeps users out for nothing from here on.
    if not plan.isolates and not serving and not failures:
        notes += _remove_unneeded(target, plan)
        isolated = IsolationOutcome(None)
    if failures:
        state = ContainmentResult(rollback=moved, isolation=isolated.isolation, freeze=frozen, notes=tuple(notes))
        # The first failure is what a person corrects first; the state says what was done all the same.
        failures[0].now = " ".join(f"{failures[0].now}\n{state}".splitlines())
        raise failures[0]
    return ContainmentResult(rollback=moved, isolation=isolated.isolation, freeze=frozen, notes=tuple(notes))


def restore_table_copy(target: Target, plan: ContainmentPlan, watch: Progress = no_progress) -> str:
    """Make the copy, or wait for the one that an earlier run began; the result as a sentence.

    AWS, Raises: as ``tables.restore_copy``.
    """
    if target.dry_run:
        return "Dry run: no copy was made."
    if plan.obstacle is not None:
        return f"NO COPY: {plan.obstacle.what} The damage is stopped, and no item can be repaired in this run."
    try:
        tables.restore_copy(target, plan.table.name, plan.since, plan.copy, watch=watch)
    except BuddyError as error:
        # Users are locked out while this waits: without a copy, traffic can still be re-enabled in this way.
        error.next = f"{error.next} {WITHOUT_REPAIR}"
        raise
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
    if plan.obstacle is not None:
        # The containment itself removed it as soon as it stopped nothing.
        active, _ = _active_isolation(target)
        return _describe_isolation(active)
    # The alias is read again: another user or tool may have moved it during the repair.
    alias = aliases.require_alias(target)
    for version in alias.serving:
        if version in plan.bad:
            raise Refused(
                "still-corrupting",
                f"v{version} corrupts data, and {target.resource} serves {alias}.",
                now="The isolation is active.",
                next=f"Set {parameter('to_version')} to a version that does not corrupt, and run this again.",
            )
    return isolation.remove_isolation(target)


def raise_for_unrepaired(target: Target, plan: ContainmentPlan) -> None:
    """The notebook's last cell: nothing, unless the items could not be repaired.

    AWS: lambda:GetAlias, ssm:GetParameter, reads only.

    Raises:
        BuddyError: ``table-unrecoverable``.
    """
    if target.dry_run or plan.obstacle is None or plan.obstacle.chosen:
        return
    active, unknown = _active_isolation(target)
    following = plan.obstacle.next
    if _corrupting(target, plan):
        following = (
            f"First set {parameter('to_version')} to a version that does not corrupt, and run this again. {following}"
        )
    raise BuddyError(
        "table-unrecoverable",
        f"The damage is stopped, and no item of {plan.table.name} was repaired. {plan.obstacle.what}",
        now=" ".join(
            (f"{target.resource} serves {aliases.require_alias(target)}.", _describe_isolation(active), *unknown)
        ),
        next=following,
    )


# The parts of a plan

ISOLATION_WORDS: dict[How, tuple[str, str]] = {
    "function": ("no request is served", "lambda:PutFunctionConcurrency 0"),
    "writes": ("items can be read and not changed", "dynamodb:PutResourcePolicy Deny writes"),
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
        f"{how!r} is no isolation.",
        next=f"Set {parameter('isolate', 'function')} (concurrency 0) or {parameter('isolate', 'writes')} "
        "(the function can still read).",
    )


def _since(target: Target, onset: str, version: str) -> tuple[datetime, Obstacle | None]:
    """The time to restore, to the second: the onset, or when the version was published; why it cannot be used.

    Raises:
        InvalidInput: ``version-missing``, ``invalid-name``.
    """
    now = target.clock.now()
    obstacle: Obstacle | None = None
    if onset:
        try:
            # DynamoDB restores to a second. Source: DynamoDB developer guide, point-in-time recovery.
            return parse_time("onset", onset, until=now).replace(microsecond=0), None
        except InvalidInput as error:
            # Only the repair needs it.
            corrected = f"Set {parameter('onset')} to such a time, or leave it empty"
            obstacle = Obstacle(error.what, f"{corrected}. Run this again to repair the items.")
    try:
        return versions.read_version(target, version).modified_at.replace(microsecond=0), obstacle
    except InvalidInput as error:
        error.next = f"Set {parameter('version')} to the faulty version, or leave it empty: the one deployed last."
        raise
    # The time is then unknown, and so is what to compare with. Stopping the damage does not depend on it.
    except AwsFailed as failure:
        what = f"When v{version} was published is unknown. {failure.what}"
        return now.replace(microsecond=0), Obstacle(
            what,
            f"Set {parameter('onset')} to a time before the corruption began, and run this again to repair the items.",
        )


def _rollback_plan(target: Target, to_version: str, bad: str) -> tuple[RollbackPlan | None, tuple[str, ...]]:
    """The rollback and its doubts; None and why it is not possible. The isolation stops the damage in any case."""
    other = f"Set {parameter('to_version')} to another version."
    try:
        back = rollback.plan_rollback(target, to_version, no_progress)
    # A rollback that is not possible is no reason to wait: the function is isolated instead.
    except (Refused, AwsFailed) as error:
        return None, (f"no rollback: {error.what} The isolation stops the damage.",)
    except InvalidInput as error:
        return None, (f"no rollback: {error.what} {other} The isolation stops the damage.",)
    # A person named the version that corrupts, or the record returns to it.
    if back.destination == bad:
        return None, (f"no rollback: v{back.destination} corrupts data, too. {other}",)
    return back, back.reasons


def _active_isolation(target: Target) -> tuple[Isolation | None, tuple[str, ...]]:
    """What is isolated; where it cannot be read, None and a sentence about it."""
    try:
        return isolation.read_isolation(target), ()
    except BuddyError as error:
        return None, (f"whether something is isolated is unknown: {error.what}",)


def _describe_isolation(active: Isolation | None) -> str:
    if active is None:
        return "Nothing is isolated."
    return f"It is {active}."


def _freezes(target: Target) -> tuple[str, ...]:
    try:
        return tuple(map(str, freezes.active_freezes(target)))
    except BuddyError as error:
        return (f"UNKNOWN whether deployments are frozen: {error.what}",)


def _possible_mode(target: Target, mode: How) -> tuple[How, tuple[str, ...]]:
    """How to isolate: as wanted, or by denying writes where AWS would refuse concurrency 0; and why."""
    provisioned = 0
    if mode == "function":
        # Unknown: AWS's refusal will say it.
        with suppress(BuddyError):
            provisioned = isolation.provisioned_concurrency(target)
    if not provisioned:
        return mode, ()
    reason = f"AWS refuses concurrency 0 for a function with provisioned concurrency ({provisioned:,})"
    return "writes", (f"writes are denied, not all requests: {reason}",)


def _isolation_rows(
    how: How, isolates: bool, obstacle: Obstacle | None, *, active: Isolation | None, table: str
) -> tuple[list[str], list[str]]:
    """What the isolation means, and its API calls."""
    if isolates:
        effect, call = ISOLATION_WORDS[how]
        until = "until the data is repaired"
        if obstacle is not None:
            until = (
                f"until {parameter('to_version')} names a version that does not corrupt: nothing else stops the damage"
            )
        return [f"isolated {until}: {effect}"], ["ssm:PutParameter what was set before", call]
    effects = ["no isolation: the version that serves does not corrupt, and nothing can be repaired"]
    if active is None or active.table != table:
        return effects, []
    return [*effects, "the isolation is removed"], [
        "the isolation's settings: as before",
        "ssm:DeleteParameter isolation",
    ]


def _corrupting(target: Target, plan: ContainmentPlan) -> bool:
    """Whether a corrupting version serves now; also where it cannot be read."""
    try:
        alias = aliases.require_alias(target)
    except BuddyError:
        return True
    return any(version in plan.bad for version in alias.serving)


def _remove_unneeded(target: Target, plan: ContainmentPlan) -> tuple[str, ...]:
    """Remove an isolation of this table, which stops nothing any more; what was done, a sentence."""
    try:
        active = isolation.read_isolation(target)
        # That of another table belongs to another incident.
        if active is None or active.table != plan.table.name:
            return ()
        return (isolation.remove_isolation(target),)
    except BuddyError as error:
        return (f"The isolation could not be removed. {error.what} Run this again.",)


def _not_stopped(
    target: Target, plan: ContainmentPlan, isolated: IsolationOutcome, failures: Iterable[BuddyError]
) -> BuddyError:
    what = [f"v{plan.bad[0]} still writes to {plan.table.name}.", *plan.reasons[:1]]
    what += [failure.what for failure in failures]
    qualified = f"--function-name {target.settings.function} --qualifier {target.settings.alias}"
    return BuddyError(
        "damage-not-stopped",
        " ".join((*what, *isolated.refused)),
        now="The corrupting version serves. Deployments are frozen if SSM could be reached.",
        next=f"Set {parameter('to_version')} to a version that does not corrupt, and run this again. If there is none, "
        f"delete the provisioned concurrency (`aws lambda delete-provisioned-concurrency-config {qualified}`), and run "
        f"this again with {parameter('isolate', 'function')}.",
    )
