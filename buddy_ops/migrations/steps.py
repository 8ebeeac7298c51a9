"""Migrations by expand and contract: a table's items change their shape while people use them.

Knows the five steps, and when each may be taken. Each can be run again after a kill: what is done already is passed
over. Never overwrites somebody else's write: an item that changed while it was looked at is left for the next pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, get_args

from buddy_ops.aws import aliases, freezes, tables
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Change, Page
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.settings import TableSettings
from buddy_ops.migrations import definitions, schema
from buddy_ops.migrations.definitions import Attributes, Item, Migration
from buddy_ops.migrations.schema import SchemaMarker

Tell = Callable[[str], None]
"""Who hears how far a step is."""

Step = Literal["expand", "backfill", "verify", "contract", "rollback"]
STEPS: tuple[Step, ...] = get_args(Step)
OPEN = ("expanded", "verified")
TAKEN = ("contracting", "contracted")
MAY: dict[Step, tuple[str, ...]] = {
    "backfill": OPEN,
    "verify": (*OPEN, "contracted"),
    "contract": ("verified", "contracting"),
    "rollback": (*OPEN, *TAKEN, "reverting"),
}
"""In which states of its table a step may be taken; 'expand' where no other migration is under way."""

SETTLE = timedelta(seconds=60)
"""How long after a table says where it goes no request, no rollback and no page of a step before is under way."""

PASSES = 5
"""How often a step goes through the table while items give way to other people's writes."""

TOLD_EVERY = timedelta(seconds=10)
EXAMPLES = 3


@dataclass(frozen=True)
class MigrationPlan(Plan):
    """One step of one migration; ``marker`` is the table's schema when it was planned."""

    migration: Migration
    step: Step
    marker: SchemaMarker


@dataclass
class BackfillTally:
    """What a pass found and did.

    Attributes:
        gave_way: items that somebody else changed meanwhile.
        wrong: items that cannot be brought into the shape; ``examples`` are some, with the reason.
    """

    items: int = 0
    changed: int = 0
    conflicts: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Items that are not as the step wants them."""
        return self.conflicts + self.wrong

    def add(self, other: "BackfillTally") -> None:
        """Count another part of the same pass in."""
        for name in ("items", "changed", "conflicts", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.examples = (self.examples + other.examples)[:EXAMPLES]


@dataclass(frozen=True)
class StepResult:
    """How a step ended."""

    step: Step
    tally: BackfillTally
    marker: SchemaMarker

    def __str__(self) -> str:
        counted = (
            f"{self.step}: {self.tally.items:,} items seen, {self.tally.changed:,} changed, {self.tally.left:,} left."
        )
        return "\n".join((counted, *self.tally.examples, f"{self.marker}."))


def no_progress(said: str) -> None:
    """Hears nothing."""


def plan_step(target: Target, name: str, step: str) -> MigrationPlan:
    """What a step of a migration would do.

    AWS: dynamodb:GetItem, lambda:ListAliases, GetFunctionConfiguration, ssm:GetParametersByPath, reads only.

    Raises:
        InvalidInput: ``unknown-migration``.
        Refused: ``migration-order``, ``schema-needed``, ``frozen``.
    """
    migration, table = find_migration(target, name)
    if step not in STEPS:
        raise _unknown(f"{step!r} is no step", f"one of {', '.join(STEPS)}")
    chosen: Step = step
    marker = schema.read_marker(target, table)
    _refuse_out_of_order(migration, chosen, marker)
    if chosen in ("contract", "rollback"):
        _refuse_needed(target, migration, migration.to if chosen == "contract" else migration.source)
    if chosen in ("expand", "backfill", "contract"):
        freezes.require_unfrozen(target)
    back = chosen == "rollback"
    return MigrationPlan(
        title=f"{chosen.capitalize()} {name} of {table.name}: schema {migration.source} to {migration.to}",
        now=(str(marker),),
        then=_then(migration, chosen, marker),
        calls=_calls(chosen),
        undo=(_undo(chosen),),
        reasons=_reasons(target, migration, chosen),
        covers={
            "action": "migration",
            "environment": target.environment,
            "table": table.name,
            "migration": name,
            "step": chosen,
            "from": marker.version,
        },
        approvals=1 if back else target.settings.rollout.approvals,  # as every way back: one person who is awake
        demand_hash=target.settings.rollout.demand_plan_hash and not back,
        migration=migration,
        step=chosen,
        marker=marker,
    )


def run_step(target: Target, plan: MigrationPlan, approval: Approval, tell: Tell = no_progress) -> StepResult:
    """Take the step; running it again after a kill goes on.

    Args:
        tell: told how far it is, with rate and time left.

    AWS: dynamodb:Scan, GetItem, DescribeTable, TransactWriteItems and PutItem (on condition); for contract
    lambda:ListAliases, GetFunctionConfiguration.

    Raises:
        Refused: ``approval-void``, ``schema-needed``, ``migration-moved``.
        AwsFailed: what was done until then stays done.
    """
    approval.must_cover(plan)
    migration, step, marker = plan.migration, plan.step, plan.marker
    if target.dry_run:
        return StepResult(step, BackfillTally(), marker)
    if step == "expand":
        return StepResult(
            step, BackfillTally(), schema.write_marker(target, marker, migration.source, migration.name, "expanded")
        )
    if step == "contract":
        marker = _announce_contract(target, plan)
    elif step == "rollback" and marker.state != "reverting":
        marker = schema.write_marker(target, marker, marker.version, migration.name, "reverting")
        target.clock.sleep_until(target.clock.now() + SETTLE)
    tally = _passes(target, plan, marker, tell)
    marker = _conclude(target, plan, marker, tally)
    target.journal.append(
        "migrated", step=step, migration=migration.name, by=approval.by, changed=tally.changed, left=tally.left
    )
    return StepResult(step, tally, marker)


def raise_for_failure(done: StepResult) -> None:
    """The last cell of the notebook: nothing if the step is complete.

    Raises:
        BuddyError: ``migration-incomplete``.
    """
    if done.tally.left:
        raise BuddyError(
            "migration-incomplete",
            f"{done.step} left {done.tally.left:,} of {done.tally.items:,} items as they were. "
            f"{' '.join(done.tally.examples)}",
            now=f"{done.marker}; every other item is done.",
            next="Items that people were changing: run the same step again. Others: correct them, or what the "
            "migration makes of them (buddy_ops/migrations/definitions.py).",
        )


def describe_tables(target: Target) -> str:
    """The schema of each table, and what each version knows that serves, or that traffic may return to by itself.

    AWS: dynamodb:GetItem, lambda:ListAliases, GetFunctionConfiguration, reads only.
    """
    lines = [each.what if isinstance(each, BuddyError) else f"{each}." for each in schema.read_markers(target)]
    for version, why in _serving(target).items():
        known = schema.schema_range_of(target, aliases.get_configuration(target, version))
        lines.append(f"v{version} ({why}) " + (f"knows schema {known}." if known else "does not say what it knows."))
    return "\n".join(lines)


# What may be done


def find_migration(target: Target, name: str) -> tuple[Migration, TableSettings]:
    """A migration by its name, and the environment's table that it is of. Raises InvalidInput ``unknown-migration``."""
    known = {each.name: each for each in definitions.MIGRATIONS}
    if name not in known:
        raise _unknown(f"There is no migration {name!r}", f"one of {', '.join(known)}")
    for table in target.settings.tables:
        if table.variable == known[name].table:
            return known[name], table
    raise _unknown(
        f"{target.environment} has no table for {known[name].table}", "it under `tables` in the environment's file"
    )


def _unknown(what: str, give: str) -> InvalidInput:
    return InvalidInput("unknown-migration", f"{what}.", next=f"Give {give}.")


def _refuse_out_of_order(migration: Migration, step: Step, marker: SchemaMarker) -> None:
    mine = marker.migration == migration.name
    under_way = marker.state in (*OPEN, "contracting", "reverting")
    if step == "expand":
        fine = marker.version == migration.source and (not under_way or (mine and marker.state in OPEN))
    else:
        fine = mine and marker.state in MAY[step]
    if not fine:
        ready = "where no other migration is under way" if step == "expand" else f"once it is {' or '.join(MAY[step])}"
        raise Refused(
            "migration-order",
            f"{step} of {migration.name} (schema {migration.source} to {migration.to}) comes {ready}, and {marker}.",
            next="The order is expand, backfill, verify, contract; rollback from each of them.",
        )


def _refuse_needed(target: Target, migration: Migration, version: int) -> None:
    """Refuse while any version that serves, or that traffic may return to by itself, does without schema ``version``.

    Raises:
        Refused: ``schema-needed``.
    """
    needing = []
    for number, why in _serving(target).items():
        known = schema.schema_range_of(target, aliases.get_configuration(target, number))
        if known is None:
            needing.append(f"v{number} ({why}) declares no {schema.VARIABLE}")
        elif version not in known:
            needing.append(f"v{number} ({why}) knows schema {known}")
    if needing:
        raise Refused(
            "schema-needed",
            f"The shape of schema {migration.source if version == migration.to else migration.to} is still needed, "
            f"since {version} is not known to: {'; '.join(needing)}.",
            next=f"Let only versions serve that know schema {version} (strategies/canary), then run this again.",
        )


def _serving(target: Target) -> dict[str, str]:
    """Each version that an alias serves, both weights, or that an open rollout may return to; with the reason."""
    found: dict[str, str] = {}
    for page in target.client("lambda").get_paginator("list_aliases").paginate(FunctionName=target.settings.function):
        for alias in page["Aliases"]:
            record = aliases.decode_rollout_state(alias.get("Description", ""))
            if record is not None and record.open and record.stable_version:
                found[record.stable_version] = f"the rollout on alias {alias['Name']} may return to it"
            weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
            for version in (alias["FunctionVersion"], *weights):
                found[str(version)] = f"alias {alias['Name']} serves it"
    return found


# What is done


def _announce_contract(target: Target, plan: MigrationPlan) -> SchemaMarker:
    """Say the new schema first, so that no rollback goes past it; then look at the aliases again.

    A rollback that read the old schema has moved its traffic by then, and is seen.
    """
    began = plan.marker.state == "contracting"
    marker = schema.write_marker(target, plan.marker, plan.migration.to, plan.migration.name, "contracting")
    target.clock.sleep_until(target.clock.now() + SETTLE)
    try:
        _refuse_needed(target, plan.migration, plan.migration.to)
    except Refused:
        if not began:
            schema.write_marker(target, marker, plan.migration.source, plan.migration.name, "verified")
        raise
    return marker


def _passes(target: Target, plan: MigrationPlan, marker: SchemaMarker, tell: Tell) -> BackfillTally:
    """Go through the table until nothing gives way any more."""
    total = int(target.client("dynamodb").describe_table(TableName=plan.marker.table.name)["Table"]["ItemCount"])
    changed = 0
    for _ in range(PASSES):
        tally = _go_through(target, plan, marker, _Progress(target, total, tell))
        changed += tally.changed
        if not tally.conflicts:
            break
    tally.changed = changed
    return tally


def _go_through(target: Target, plan: MigrationPlan, marker: SchemaMarker, progress: "_Progress") -> BackfillTally:
    tally, table = BackfillTally(), plan.marker.table
    for _, part in tables.parallel_scan(target, table.name, lambda page: _settle(target, plan, marker, page)):
        tally.add(part)
        progress.tell(tally)
    return tally


def _settle(target: Target, plan: MigrationPlan, marker: SchemaMarker, page: Page) -> BackfillTally:
    """Bring a page's items into the step's shape, a hundred a call."""
    _refuse_moved(target, marker)
    table, tally, changes = plan.marker.table, BackfillTally(), list[Change]()
    shape = _shape(plan)
    for item in page.items:
        if item[table.key[0]] == {"S": schema.KEY}:
            continue
        tally.items += 1
        try:
            to = shape(item)
        except ValueError as error:
            tally.wrong += 1
            tally.examples.append(f"{tables.key_attributes(item, table.key)}: {error}.")
            continue
        if to != item:
            changes.append(Change(item, to))
    if plan.step == "verify":
        tally.wrong += len(changes)
        return tally
    for first in range(0, len(changes), tables.A_TRANSACTION):
        some = changes[first : first + tables.A_TRANSACTION]
        gave_way = len(tables.write_batch(target, table.name, table.key, some))
        tally.add(BackfillTally(changed=len(some) - gave_way, conflicts=gave_way))
    return tally


def _refuse_moved(target: Target, held: SchemaMarker) -> None:
    """Ask after each page was read, before any of it is written, whose step it is: what is old and new turns with it.

    Raises:
        Refused: ``migration-moved``.
    """
    now = schema.read_marker(target, held.table)
    if now != held and not (now.migration == held.migration and {now.state, held.state} <= set(OPEN)):
        raise schema.marker_moved(now)


def _shape(plan: MigrationPlan) -> Callable[[Item], Attributes]:
    """What the step makes of an item. Until the contract the old attributes are the truth, from then on the new."""
    migration, new = plan.migration, plan.marker.version == plan.migration.to
    if plan.step == "contract" or (plan.step == "verify" and new):
        return migration.contracted
    if plan.step == "rollback" and not new:
        return migration.reverted
    return lambda item: migration.harmonised(item, "new" if new else "old")


def _conclude(target: Target, plan: MigrationPlan, marker: SchemaMarker, tally: BackfillTally) -> SchemaMarker:
    """What the table says from now on."""
    migration, new, whole = plan.migration, plan.marker.version == plan.migration.to, not tally.left
    state, version = marker.state, marker.version
    if plan.step == "verify" and not new:
        state = "verified" if whole else "expanded"
    elif plan.step == "contract" and whole:
        state = "contracted"
    elif plan.step == "rollback" and whole:
        state, version = ("expanded" if new else "reverted"), migration.source
    if (state, version) == (marker.state, marker.version):
        return marker
    return schema.write_marker(target, marker, version, migration.name, state)


class _Progress:
    """Tells how far a pass is, at most every few seconds. ``total`` is DynamoDB's own count, up to 6 hours old."""

    def __init__(self, target: Target, total: int, tell: Tell) -> None:
        self._target, self._total, self._tell = target, total, tell
        self._began = self._told = target.clock.now()

    def tell(self, tally: BackfillTally) -> None:
        now = self._target.clock.now()
        if now - self._told >= TOLD_EVERY or tally.items >= self._total:
            self._told = now
            self._tell(told(tally, self._total, self._began, now))


def told(tally: BackfillTally, total: int, began: datetime, now: datetime) -> str:
    """One line: how many of about how many items, how fast, and how long yet."""
    line = f"{tally.items:,} of about {max(total, tally.items):,} items, {tally.changed:,} changed, {tally.left:,} left"
    passed_s = (now - began).total_seconds()
    if passed_s <= 0 or not tally.items:
        return line
    rate = tally.items / passed_s
    return f"{line}; {rate:,.0f} items a second, {max(0, total - tally.items) / rate:,.0f} s to go"


# How it reads


def _then(migration: Migration, step: Step, marker: SchemaMarker) -> tuple[str, ...]:
    old, new = ", ".join(migration.old), ", ".join(migration.new)
    back = f"every item has {old} again, beside {new}" if marker.version == migration.to else f"no item has {new}"
    return {
        "expand": (f"the table says that {new} comes beside {old}; no item changes",),
        "backfill": (f"every item has {new} beside {old}; an item that somebody changes meanwhile is taken up again",),
        "verify": ("nothing but the table's own state, which says whether all items are right",),
        "contract": (
            f"the table has schema {migration.to}: from then on no version serves that does not know it",
            f"{old} is gone from every item whose {new} says the same",
        ),
        "rollback": (back, f"the table has schema {migration.source}"),
    }[step]


def _calls(step: Step) -> tuple[str, ...]:
    mark = "dynamodb:PutItem the table's schema, if it is as it was read"
    items = "dynamodb:TransactWriteItems each item, if it is as it was read"
    return {"expand": (mark,), "backfill": (items,), "verify": (mark,)}.get(step, (mark, items))


def _undo(step: Step) -> str:
    if step == "rollback":
        return "the same migration again, from expand"
    return "this notebook with step=rollback; after a contract it makes the old attributes anew from the new ones"


def _reasons(target: Target, migration: Migration, step: Step) -> tuple[str, ...]:
    alias = aliases.read_alias(target) if step == "contract" else None
    record = alias.rollout if alias else None
    told = []
    for version in (record.stable_version, record.fallback_version) if record else ():
        if (
            version
            and (known := schema.schema_range_of(target, aliases.get_configuration(target, version))) is not None
        ):
            told += [f"after it no rollback to v{version}, which knows schema {known}"] * (migration.to not in known)
    if step == "contract":
        told.append("`invariants` of the table in parameters/ that name an old attribute must change with it")
    return tuple(told)
