"""Migrations by expand and contract: the items of a table change their schema while people use them.

There are five steps. Each can be run again after it was interrupted: what is done already is skipped. A step never
overwrites another writer's change: an item that changed after it was read is left for the next pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, get_args

from buddy_ops.aws import aliases, freezes, tables, versions
from buddy_ops.aws.item_writes import Change
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Page
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import duration
from buddy_ops.migrations import definitions, schema
from buddy_ops.migrations.definitions import Attributes, Item, Migration, SchemaRange
from buddy_ops.migrations.schema import SchemaMarker

Step = Literal["expand", "backfill", "verify", "contract", "rollback"]
STEPS: tuple[Step, ...] = get_args(Step)
# The states in which versions of both schemas may serve, and the old attributes are the truth.
OPEN = ("expanded", "verified")
ALLOWED_STATES: dict[Step, tuple[str, ...]] = {
    "backfill": OPEN,
    "verify": (*OPEN, "contracted"),
    "contract": ("verified", "contracting"),
    "rollback": (*OPEN, "contracting", "contracted", "reverting"),
}
"""The states of its table in which a step may run; 'expand' where no other migration is in progress."""

SETTLE = timedelta(seconds=60)
"""After a marker was written, no request, no rollback and no page of an earlier step takes longer than this."""

PASSES = 5
"""How often a step goes through the table while items conflict with other writers."""

PROGRESS_EVERY = timedelta(seconds=10)
EXAMPLES = 3


@dataclass(frozen=True)
class MigrationPlan(Plan):
    """One step of one migration; ``marker`` is the table's schema when it was planned."""

    migration: Migration
    step: Step
    marker: SchemaMarker

    @property
    def is_contracted(self) -> bool:
        """Whether the table has the new schema. Until then the old attributes are the truth, from then on the new."""
        return self.marker.version == self.migration.to


@dataclass
class BackfillTally:
    """What a pass found and did.

    Attributes:
        conflicts: items that another writer changed meanwhile.
        wrong: items that cannot be converted; ``examples`` are some, with the reason.
    """

    items: int = 0
    changed: int = 0
    conflicts: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Items that the step could not bring into its schema."""
        return self.conflicts + self.wrong

    def add(self, other: "BackfillTally") -> None:
        """Add another part of the same pass."""
        self.items += other.items
        self.changed += other.changed
        self.conflicts += other.conflicts
        self.wrong += other.wrong
        self.examples = (self.examples + other.examples)[:EXAMPLES]


@dataclass(frozen=True)
class StepResult:
    """How a step ended."""

    step: Step
    tally: BackfillTally
    marker: SchemaMarker

    def __str__(self) -> str:
        tally = self.tally
        result = "SUCCEEDED"
        if tally.left:
            result = "FAILED"
        counted = f"{tally.items:,} items read, {tally.changed:,} changed, {tally.left:,} left"
        return "\n".join((f"{result} {self.step}: {counted}.", *tally.examples, f"{self.marker}."))


def plan_step(target: Target, name: str, step: str) -> MigrationPlan:
    """What a step of a migration would do.

    AWS: dynamodb:GetItem, lambda:ListAliases, GetFunctionConfiguration, ssm:GetParametersByPath, reads only.

    Raises:
        InvalidInput: ``unknown-migration``.
        Refused: ``migration-order``, ``schema-needed``, ``frozen``.
    """
    migration, table = find_migration(target, name)
    chosen = _step(step)
    marker = schema.read_marker(target, table)
    # First whether the step may follow what was done, then whether a version needs what it removes, then freezes.
    _require_order(migration, chosen, marker)
    if chosen == "contract":
        _require_unneeded(target, keep=migration.to, drop=migration.source)
    elif chosen == "rollback":
        _require_unneeded(target, keep=migration.source, drop=migration.to)
    # A freeze holds what goes forward. ``verify`` changes no item, and a rollback is the way back.
    if chosen in ("expand", "backfill", "contract"):
        freezes.require_unfrozen(target)
    rules = target.settings.rollout
    back = chosen == "rollback"
    undo = f"this runbook with {parameter('step', 'rollback')}; {UNDONE}"
    if back:
        undo = REDO
    reasons: tuple[str, ...] = ()
    if chosen == "contract":
        reasons = _reasons(target, migration)
    return MigrationPlan(
        title=f"{chosen.capitalize()} {migration.name} of {table.name}: schema {migration.source} to {migration.to}",
        now=(str(marker),),
        then=_effects(migration, chosen, marker),
        calls=CALLS[chosen],
        undo=(undo,),
        reasons=reasons,
        covers={
            "action": "migration",
            "environment": target.environment,
            "region": target.region,
            "account": target.account,
            "table": table.name,
            "migration": migration.name,
            "step": chosen,
            "from": marker.version,
            "converters": definitions.fingerprint(),
        },
        approvals=1 if back else rules.approvals,  # as for every rollback: one person suffices
        demand_hash=rules.demand_plan_hash and not back,
        # The way back is not held up by an old approval.
        made_at=None if back else target.clock.now(),
        valid_hours=target.settings.policy.approval_hours,
        migration=migration,
        step=chosen,
        marker=marker,
    )


def run_step(target: Target, plan: MigrationPlan, approval: Approval, watch: Progress = no_progress) -> StepResult:
    """Run the step; run again after an interruption, it continues.

    Args:
        watch: called with a line of progress, with rate and time left.

    AWS: dynamodb:Scan, GetItem, DescribeTable, TransactWriteItems and PutItem (on condition); for contract
    lambda:ListAliases, GetFunctionConfiguration.

    Raises:
        Refused: ``approval-void``, ``schema-needed``, ``migration-moved``.
        AwsFailed: what was done until then stays done.
    """
    approval.must_cover(plan, target.clock.now())
    step = plan.step
    marker = plan.marker
    if target.dry_run:
        return StepResult(step, BackfillTally(), marker)
    # No item is touched: the new attributes come with the backfill.
    if step == "expand":
        marker = _write_marker(target, plan, marker, version=plan.migration.source, state="expanded")
        return StepResult(step, BackfillTally(), marker)
    if step == "contract":
        marker = _announce_contract(target, plan)
    elif step == "rollback" and marker.state != "reverting":
        marker = _write_marker(target, plan, marker, version=marker.version, state="reverting")
        # Another step that read the marker before may still write the page that it has.
        target.clock.sleep_until(target.clock.now() + SETTLE)
    tally = _passes(target, plan, marker, watch)
    marker = _write_result(target, plan, marker, complete=not tally.left)
    target.journal.append(
        "migrated", step=step, migration=plan.migration.name, by=approval.by, changed=tally.changed, left=tally.left
    )
    return StepResult(step, tally, marker)


def raise_for_failure(done: StepResult) -> None:
    """The last cell of the notebook: nothing if the step is complete.

    Raises:
        BuddyError: ``migration-incomplete``.
    """
    tally = done.tally
    if tally.left:
        raise BuddyError(
            "migration-incomplete",
            f"{done.step} left {tally.left:,} of {tally.items:,} items unchanged. {' '.join(tally.examples)}",
            now=f"{done.marker}. Every other item is done.",
            next="Run the same step again if people were changing these items. Otherwise correct the items, or their "
            "migration in parameters/migrations.py.",
        )


@dataclass(frozen=True)
class VersionSchema:
    """A version that an alias serves, or that traffic may return to automatically: why, and what it declares."""

    version: str
    why: str
    declared: SchemaRange | None

    def __str__(self) -> str:
        if self.declared is None:
            return f"v{self.version} ({self.why}) declares no {schema.VARIABLE}"
        return f"v{self.version} ({self.why}) is compatible with schema {self.declared}"


def describe_tables(target: Target) -> str:
    """The schema of each table, and the compatibility of each version that has traffic or may get it automatically.

    AWS: dynamodb:GetItem, lambda:ListAliases, GetFunctionConfiguration, reads only.
    """
    lines = []
    for marker in schema.read_markers(target):
        if isinstance(marker, BuddyError):
            lines.append(marker.what)
        else:
            lines.append(f"{marker}.")
    lines += [f"{version}." for version in serving_versions(target)]
    return "\n".join(lines)


# What may be done


def find_migration(target: Target, name: str) -> tuple[Migration, TableSettings]:
    """A migration by its name, and its table in this environment. Raises InvalidInput ``unknown-migration``.

    Args:
        name: '' is the project's only one.
    """
    migrations = {migration.name: migration for migration in definitions.read_migrations()}
    if not name and len(migrations) == 1:
        (name,) = migrations
    if name not in migrations:
        raise _unknown(
            f"There is no migration {name!r}.",
            f"Choose one of: {', '.join(migrations) or 'none'}. {definitions.FILE} defines them.",
        )
    variable = migrations[name].table
    for table in target.settings.tables:
        if table.variable == variable:
            return migrations[name], table
    raise _unknown(
        f"{target.environment} has no table for {variable}.",
        f"Add it to tables in parameters/{target.environment}.yaml.",
    )


def _step(text: str) -> Step:
    for step in STEPS:
        if step == text:
            return step
    raise _unknown(f"There is no step {text!r}.", f"Choose one of: {', '.join(STEPS)}.")


def _unknown(what: str, next: str) -> InvalidInput:
    return InvalidInput("unknown-migration", what, next=next)


def _require_order(migration: Migration, step: Step, marker: SchemaMarker) -> None:
    own = marker.migration == migration.name
    if step == "expand":
        # A migration's own expand may run again: it writes the same marker.
        idle = marker.state not in (*OPEN, "contracting", "reverting")
        allowed = marker.version == migration.source and (idle or (own and marker.state in OPEN))
        needs = "no other migration in progress"
    else:
        allowed = own and marker.state in ALLOWED_STATES[step]
        needs = f"state {' or '.join(ALLOWED_STATES[step])}"
    if not allowed:
        raise Refused(
            "migration-order",
            f"{step} of {migration.name} (schema {migration.source} to {migration.to}) needs {needs}, but {marker}.",
            next="Run the steps in this order: expand, backfill, verify, contract. After any of them: rollback.",
        )


def _require_unneeded(target: Target, *, keep: int, drop: int) -> None:
    """Refuse while a version with traffic, or one that may get it automatically, is incompatible with schema ``keep``.

    Raises:
        Refused: ``schema-needed``.
    """
    # A version that declares nothing may need anything.
    versions = serving_versions(target)
    needing = [str(version) for version in versions if version.declared is None or keep not in version.declared]
    if needing:
        raise Refused(
            "schema-needed",
            f"Schema {drop} is still needed by versions that are not compatible with schema {keep}: "
            f"{'; '.join(needing)}.",
            next=f"Deploy a version that is compatible with schema {keep} (strategies/canary), then run this again.",
        )


def serving_versions(target: Target) -> tuple[VersionSchema, ...]:
    """Each version that an alias serves, both weights, or that an open rollout may return to.

    AWS: lambda:ListAliases, every page, GetFunctionConfiguration, reads only.
    """
    reasons: dict[str, str] = {}
    for alias in aliases.list_aliases(target):
        record = alias.rollout
        if record is not None and record.open and record.stable_version:
            # First this reason, so that one that serves anyway is named by that.
            reasons[record.stable_version] = f"the rollout on alias {alias.name} may return to it"
        for version in alias.serving:
            reasons[version] = f"alias {alias.name} serves it"
    return tuple(
        VersionSchema(version, why, schema.schema_range_of(target, versions.read_version(target, version)))
        for version, why in reasons.items()
    )


# What is done


def _announce_contract(target: Target, plan: MigrationPlan) -> SchemaMarker:
    """Write the new schema first, so that no rollback passes it; then read the aliases again.

    A rollback that read the old schema has moved its traffic by then, and is seen.
    """
    migration = plan.migration
    marker = _write_marker(target, plan, plan.marker, version=migration.to, state="contracting")
    target.clock.sleep_until(target.clock.now() + SETTLE)
    try:
        _require_unneeded(target, keep=migration.to, drop=migration.source)
    except Refused:
        # A contract that had begun before has changed items already: then the new schema stays.
        if plan.marker.state != "contracting":
            _write_marker(target, plan, marker, version=migration.source, state="verified")
        raise
    return marker


def _write_marker(target: Target, plan: MigrationPlan, held: SchemaMarker, *, version: int, state: str) -> SchemaMarker:
    return schema.write_marker(target, held, version=version, migration=plan.migration.name, state=state)


def _passes(target: Target, plan: MigrationPlan, marker: SchemaMarker, watch: Progress) -> BackfillTally:
    """Go through the table until no item conflicts with another writer."""
    name = plan.marker.table.name
    describe = target.client("dynamodb").describe_table
    told = tables.call_with_retries(target, describe, watch=target.side.watch(watch), what=name, TableName=name)
    total = int(told["Table"]["ItemCount"])
    changed = 0
    for _ in range(PASSES):
        tally = _pass(target, plan, marker, _Progress(target, total, watch))
        changed += tally.changed
        if not tally.conflicts:
            break
    # Of all passes: the last one alone counts only what was in conflict before it.
    tally.changed = changed
    return tally


def _pass(target: Target, plan: MigrationPlan, marker: SchemaMarker, progress: "_Progress") -> BackfillTally:
    tally = BackfillTally()
    watch = progress.tell
    convert = partial(_convert_page, target, plan, marker, watch=watch)
    pages = tables.parallel_scan(target, marker.table.name, convert, watch=watch)
    for _, part in pages:
        tally.add(part)
        progress.update(tally)
    return tally


def _convert_page(
    target: Target, plan: MigrationPlan, marker: SchemaMarker, page: Page, *, watch: Progress = no_progress
) -> BackfillTally:
    """Bring a page's items into the step's schema, as many a call as DynamoDB takes."""
    _require_unmoved(target, marker, watch)
    table = marker.table
    tally = BackfillTally()
    changes = list[Change]()
    convert = _converter(plan)
    for item in page.items:
        if schema.is_marker(item, table):
            continue
        tally.items += 1
        try:
            converted = convert(item)
        except ValueError as error:
            tally.wrong += 1
            tally.examples.append(f"{tables.item_name(item, table.key)}: {error}.")
            continue
        # What is converted already is not written: a step that runs again costs reads only.
        if converted != item:
            changes.append(Change(item, converted))
    # It only counts: an item that would be changed is one that is not converted.
    if plan.step == "verify":
        tally.wrong += len(changes)
        for change in changes[:EXAMPLES]:
            tally.examples.append(f"{tables.item_name(change.expected or {}, table.key)}: it is not converted.")
        return tally
    migration = plan.migration
    # The attributes that a writer changes are compared first, so that a conflict shows at the earliest.
    compared = (*migration.old, *migration.new, table.writer, table.written_at)
    written = tables.write_batch(target, table.name, table.key, changes, first=compared, watch=watch)
    tally.changed += written.made
    tally.conflicts += len(written.conflicts)
    tally.wrong += len(written.refused)
    for change, reason in written.refused[:EXAMPLES]:
        tally.examples.append(f"{tables.item_name(change.expected or {}, table.key)}: {reason}.")
    return tally


def _require_unmoved(target: Target, held: SchemaMarker, watch: Progress) -> None:
    """Check after each page was read, before any of it is written, that the table is still in this step.

    Another step would change which attributes are the truth.

    Raises:
        Refused: ``migration-moved``.
    """
    read = partial(schema.read_marker, target, held.table)
    now = tables.call_with_retries(target, read, watch=watch, what=held.table.name)
    if now != held and not (now.migration == held.migration and {now.state, held.state} <= set(OPEN)):
        raise schema.marker_moved(now)


def _converter(plan: MigrationPlan) -> Callable[[Item], Attributes]:
    """What the step makes of an item."""
    if plan.step == "contract" or (plan.step == "verify" and plan.is_contracted):
        return plan.migration.contracted
    if plan.step == "rollback" and not plan.is_contracted:
        return plan.migration.reverted
    truth: Literal["old", "new"] = "old"
    # After a contract only the new attributes are there: a rollback makes the old ones of them.
    if plan.is_contracted:
        truth = "new"
    return lambda item: plan.migration.harmonised(item, truth)


def _write_result(target: Target, plan: MigrationPlan, marker: SchemaMarker, complete: bool) -> SchemaMarker:
    """The table's marker after a step."""
    state = marker.state
    version = marker.version
    if plan.step == "verify" and not plan.is_contracted:
        # An older version may have written an item without its new attributes since the last time.
        state = "expanded"
        if complete:
            state = "verified"
    elif plan.step == "contract" and complete:
        state = "contracted"
    elif plan.step == "rollback" and complete:
        # Of a contracted table the first rollback restores the old attributes, the next one removes the new.
        state = "reverted"
        if plan.is_contracted:
            state = "expanded"
        version = plan.migration.source
    # `backfill`, and a step that left items, change nothing in it: no write.
    if (state, version) == (marker.state, marker.version):
        return marker
    return _write_marker(target, plan, marker, version=version, state=state)


class _Progress:
    """Reports the progress of a pass every few seconds. ``total`` is DynamoDB's own count, up to 6 hours old."""

    def __init__(self, target: Target, total: int, watch: Progress) -> None:
        self._target = target
        self._total = total
        self.tell = target.side.watch(watch)
        self._began = self._last = target.clock.now()

    def update(self, tally: BackfillTally) -> None:
        now = self._target.clock.now()
        if now - self._last >= PROGRESS_EVERY or tally.items >= self._total:
            self._last = now
            self.tell(describe_progress(tally, self._total, self._began, now))


def describe_progress(tally: BackfillTally, total: int, began: datetime, now: datetime) -> str:
    """One line: items read of about how many, rate, and time left."""
    line = f"{tally.items:,} of about {max(total, tally.items):,} items, {tally.changed:,} changed, {tally.left:,} left"
    passed_s = (now - began).total_seconds()
    # Before the first page there is no rate to reckon with.
    if passed_s <= 0 or not tally.items:
        return line
    rate = tally.items / passed_s
    return f"{line}; {rate:,.0f} items/s, about {duration(max(0, total - tally.items) / rate)} left"


# How it reads

MARK = "dynamodb:PutItem the table's schema, if it is unchanged"
ITEMS = "dynamodb:TransactWriteItems each item, if it is unchanged"
CALLS: dict[Step, tuple[str, ...]] = {
    "expand": (MARK,),
    "backfill": (ITEMS,),
    "verify": (MARK,),
    "contract": (MARK, ITEMS),
    "rollback": (MARK, ITEMS),
}
UNDONE = "after a contract it recreates the old attributes from the new ones"
REDO = "the same migration again, from expand"


def _effects(migration: Migration, step: Step, marker: SchemaMarker) -> tuple[str, ...]:
    old = ", ".join(migration.old)
    new = ", ".join(migration.new)
    reverted = f"no item has {new}"
    if marker.version == migration.to:
        reverted = f"every item has {old} again, beside {new}"
    effects: dict[Step, tuple[str, ...]] = {
        "expand": (f"the table records that {new} is added beside {old}; no item changes",),
        "backfill": (f"every item has {new} beside {old}; an item that changes meanwhile is converted again",),
        "verify": ("only the table's own record, which says whether all items are right",),
        "contract": (
            f"the table has schema {migration.to}: only versions that are compatible with it can get traffic",
            f"{old} is removed from every item whose {new} has the same value",
        ),
        "rollback": (reverted, f"the table has schema {migration.source}"),
    }
    return effects[step]


def _reasons(target: Target, migration: Migration) -> tuple[str, ...]:
    """Warnings before a contract."""
    alias = aliases.read_alias(target)
    reasons = []
    if alias is not None and alias.rollout is not None:
        # Both are versions that a rollback may return to: one while the rollout is the last, the other after that.
        for version in (alias.rollout.stable_version, alias.rollout.fallback_version):
            if not version:
                continue
            declared = schema.schema_range_of(target, versions.read_version(target, version))
            if declared is not None and migration.to not in declared:
                reasons.append(f"after it no rollback to v{version}, which is compatible with schema {declared} only")
    reasons.append("`invariants` of the table in parameters/ that name an old attribute must change with it")
    return tuple(reasons)
