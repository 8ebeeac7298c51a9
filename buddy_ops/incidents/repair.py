"""The repair of damaged items: which they are, and how each is restored from the copy.

Only damaged items are written, each on the condition that it is still exactly what was compared. What users changed,
created or deleted meanwhile is kept. Conflicts are kept, too, unless a person names them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from buddy_ops.aws import isolation, tables
from buddy_ops.aws.item_writes import Change, Item
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Comparison, Page
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import count, date_and_time, escape_markdown, markdown_table
from buddy_ops.incidents import damage
from buddy_ops.incidents._templates import render
from buddy_ops.incidents.containment import WITHOUT_REPAIR, ContainmentPlan
from buddy_ops.incidents.examples import describe_changes
from buddy_ops.migrations import schema

SHOWN = 5
"""Examples of each kind. ``conflicts.jsonl`` in the run's folder has every conflict."""

MEANINGS: Mapping[str, str] = {
    "damaged": "fails validation, written by the faulty version after the onset: restored from the copy",
    **damage.CONFLICTS,
    "unrestorable": "fails validation, written by the faulty version: there is no copy to restore it from",
    "edited": "changed by another version, passes validation: kept",
    "created": "created since the onset: kept",
    "deleted": "deleted since the onset: stays deleted",
}
"""Each kind of difference, in the order in which they are shown."""

NOT_REPAIRED = "No item was written. The isolation and the freeze are active."


@dataclass(frozen=True)
class DamagedItem:
    """One item that differs from the copy. ``faults`` and ``changed`` contain no values."""

    name: str
    kind: str
    change: Change
    faults: tuple[str, ...]
    changed: tuple[str, ...]
    written_by: str
    written_at: str

    def describe(self) -> str:
        """Its name, and what is wrong or different, as Markdown."""
        detail = "; ".join(self.faults)
        if self.changed and not detail:
            detail = f"{', '.join(self.changed)} changed"
        name = f"`{escape_markdown(self.name, keep_code=False)}`"
        if not detail:
            return name
        return f"{name}: {escape_markdown(detail)}"


@dataclass(frozen=True)
class DamageScope:
    """The differences between a table and its copy, by kind. ``compared``: whether there is a copy."""

    table: TableSettings
    copy: str
    since: datetime
    comparison: Comparison
    found: tuple[DamagedItem, ...] = field(repr=False)
    warnings: tuple[str, ...]
    compared: bool = True

    def of(self, *kinds: str) -> tuple[DamagedItem, ...]:
        """The items of these kinds."""
        return tuple(item for item in self.found if item.kind in kinds)

    @property
    def conflicts(self) -> tuple[DamagedItem, ...]:
        """The items that a person decides about."""
        return self.of(*damage.CONFLICTS)

    def __str__(self) -> str:
        counts = Counter(item.kind for item in self.found)
        kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in MEANINGS if counts[kind]) or "no differences"
        if not self.compared:
            return f"{count(self.comparison.items, 'item')} now, no copy: {kinds}."
        before = f"{self.comparison.before:,} as of {date_and_time(self.since)}"
        return f"{count(self.comparison.items, 'item')} now, {before}: {kinds}."

    def _repr_markdown_(self) -> str:
        rows = []
        for kind, meaning in MEANINGS.items():
            if items := self.of(kind):
                examples = "<br>".join(item.describe() for item in items[:SHOWN])
                rows.append((f"**{kind}**", f"{len(items):,}", meaning, examples))
        table = ""
        if rows:
            table = markdown_table(("Kind", "Items", "Meaning", "Examples"), rows)
        return "\n\n".join((str(self), table, *(f"- {warning}" for warning in self.warnings)))


@dataclass(frozen=True)
class RepairPlan(Plan):
    """Which items are restored. The isolation is removed after that. ``examples`` are lines with values."""

    scope: DamageScope
    changes: tuple[Change, ...] = field(repr=False)
    examples: tuple[str, ...] = field(default=(), repr=False)
    isolated: bool = True

    def parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Its rows, with examples of the values now and after it."""
        rows = super().parts()
        if not self.examples:
            return rows
        return (*rows[:2], ("Examples", self.examples), *rows[2:])

    @property
    def unapproved(self) -> str:
        """What is true until it is approved: the damage is stopped already."""
        if self.isolated:
            return NOT_REPAIRED
        return "No item was written. Nothing is isolated; the freeze is active."


@dataclass(frozen=True)
class RepairResult:
    """What was restored.

    Attributes:
        conflicts: changed since the comparison, and not written.
        kept: conflicts that restore_conflicts does not name.
        refused: items that DynamoDB does not take, by name, each with the reason.
    """

    written: tuple[Change, ...]
    conflicts: tuple[Change, ...]
    kept: tuple[DamagedItem, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"Restored {count(len(self.written), 'item')} to the values before the damage."]
        if self.conflicts:
            changed = count(len(self.conflicts), "item")
            lines.append(f"NOT restored: {changed} changed since the comparison. To compare again, run this again.")
        if self.refused:
            examples = "; ".join(f"{name}: {reason}" for name, reason in self.refused[:SHOWN])
            lines.append(f"NOT restored: DynamoDB does not take {count(len(self.refused), 'item')}. {examples}")
        if self.kept:
            lines.append(f"Kept {count(len(self.kept), 'conflict')} unchanged. They are listed in conflicts.jsonl.")
        return "\n".join(lines)


@dataclass(frozen=True)
class RepairCheck:
    """The comparison after the repair.

    Attributes:
        untouched: every other item is byte for byte as before the repair.
        refused: damaged items that DynamoDB does not take.
        unrestorable: damaged items, where there is no copy.
    """

    items: int
    repaired: int
    untouched: bool
    refused: int = 0
    unrestorable: int | None = None

    def __str__(self) -> str:
        if self.unrestorable is not None:
            corrupted = count(self.unrestorable, "corrupted item")
            return f"NOT REPAIRED: {corrupted} of {self.items:,} found, and there is no copy."
        others = "Other items changed meanwhile, and those changes are kept."
        if self.untouched:
            others = "Every other item is unchanged, byte for byte."
        if self.refused:
            left = f"{count(self.refused, 'item')} left damaged, which DynamoDB does not take"
            return f"INCOMPLETE: {left}. {count(self.items, 'item')}, {self.repaired:,} repaired. {others}"
        return f"OK: no item is damaged. {count(self.items, 'item')}, {self.repaired:,} repaired. {others}"


# Determine the scope


def determine_scope(target: Target, plan: ContainmentPlan, watch: Progress = no_progress) -> DamageScope:
    """Compare the table with its copy; list the conflicts in the run's folder.

    The item that holds the table's schema is left out: migrations write it.

    AWS: dynamodb:Scan, BatchGetItem, GetItem, read only.

    Raises:
        Refused: ``schema-changed``.
    """
    table = plan.table
    if target.dry_run:
        nothing = Comparison(items=0, before=0, checksum=0, pairs=(), notes={}, notes_before={})
        return _scope(plan, nothing, ("Dry run: nothing was compared.",))

    if plan.obstacle is not None:
        return _scope_without_copy(target, plan, watch)
    # The copy must be of the same schema: else every item would differ, and restoring would undo a migration.
    _require_same_schema(target, plan)

    def note(item: Item) -> Iterable[str]:
        if damage.find_violations(item, table):
            yield "faulty"
        if damage.attribute_text(item, table.writer) in plan.bad:
            yield "bad"

    compared = tables.compare_tables(
        target,
        table.name,
        plan.copy,
        key=table.key,
        note=note,
        watch=watch,
        counts=lambda item: not schema.is_marker(item, table),
    )
    scope = _scope(plan, compared, _warnings(plan, compared))
    target.journal.append("scoped", table=table.name, copy=plan.copy, says=str(scope))
    _write_items(target, scope.conflicts)
    return scope


def _write_items(target: Target, items: Iterable[DamagedItem]) -> None:
    """List items in the run's folder, with no value of theirs."""
    # Names of items and of attributes, never values: the file is archived, and the items are people's data.
    lines = (
        json.dumps({"item": f.name, "kind": f.kind, "faults": f.faults, "changed": f.changed, "by": f.written_by})
        for f in items
    )
    _write_file(target, "conflicts.jsonl", "".join(f"{line}\n" for line in lines))


def _scope_without_copy(target: Target, plan: ContainmentPlan, watch: Progress) -> DamageScope:
    """The items that fail validation and that the faulty version wrote: all that is known without a copy."""
    table = plan.table
    watch = target.side.watch(watch)
    found: list[DamagedItem] = []
    warnings = ["There is no copy: these items cannot be restored. conflicts.jsonl lists them."]
    items = 0

    def damaged(page: Page) -> list[Item]:
        return [
            item
            for item in page.items
            if damage.attribute_text(item, table.writer) in plan.bad
            and damage.find_violations(item, table)
            and not schema.is_marker(item, table)
        ]

    try:
        for page, some in tables.parallel_scan(target, table.name, damaged, watch=watch):
            items += sum(not schema.is_marker(item, table) for item in page.items)
            found += [_damaged_item(item, None, "unrestorable", table) for item in some]
            watch(f"{items:,} items read, {len(found):,} corrupted")
    except BuddyError as error:
        # What was read until then is worth a list, since nothing is repaired by it.
        warnings.append(f"Not all items could be read. {error.what}")
    scope = DamageScope(
        table=table,
        copy=plan.copy,
        since=plan.since,
        comparison=Comparison(items=items, before=0, checksum=0, pairs=(), notes={}, notes_before={}),
        found=tuple(sorted(found, key=lambda item: item.name)),
        warnings=tuple(warnings),
        compared=False,
    )
    target.journal.append("scoped", table=table.name, copy="", says=str(scope))
    _write_items(target, scope.found)
    return scope


def _scope(plan: ContainmentPlan, compared: Comparison, warnings: tuple[str, ...]) -> DamageScope:
    since = plan.since.timestamp()
    found = []
    for live, before in compared.pairs:
        kind = damage.classify_item(live, before, plan.table, plan.bad, since=since)
        if kind is not None:
            found.append(_damaged_item(live, before, kind, plan.table))
    return DamageScope(
        table=plan.table,
        copy=plan.copy,
        since=plan.since,
        comparison=compared,
        found=tuple(sorted(found, key=lambda item: item.name)),
        warnings=warnings,
    )


def _require_same_schema(target: Target, plan: ContainmentPlan) -> None:
    # The copy holds the item with the table's schema as well, as it was then.
    copy = plan.table.model_copy(update={"name": plan.copy})
    now = schema.read_marker(target, plan.table)
    before = schema.read_marker(target, copy)
    if now.version != before.version:
        raise Refused(
            "schema-changed",
            f"{now}. Its copy as of {date_and_time(plan.since)} has schema {before.version}, so its items cannot be "
            "restored.",
            now=NOT_REPAIRED,
            next="Roll the migration back with operations/migrate_database, then run this again. " + WITHOUT_REPAIR,
        )


def _warnings(plan: ContainmentPlan, compared: Comparison) -> tuple[str, ...]:
    warnings = []
    # The copy is to be from before the damage. Items of the faulty version in it say that it is not.
    if early := compared.notes_before.get("bad", 0):
        written = f"{count(early, 'item')} of the copy were written by v{plan.bad[0]}"
        warnings.append(f"{written}: choose an earlier onset.")
    if invalid := compared.notes_before.get("faulty", 0):
        warnings.append(f"{count(invalid, 'item')} failed validation before the onset already, and are not restored.")
    return tuple(warnings)


def _damaged_item(live: Item | None, before: Item | None, kind: str, table: TableSettings) -> DamagedItem:
    item = live or before or {}
    faults: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    if live:
        faults = tuple(sorted(damage.find_violations(live, table)))
    # Of an item that was created or deleted every attribute differs: that says nothing.
    if live and before:
        changed = damage.changed_attributes(live, before, table)
    return DamagedItem(
        name=tables.item_name(item, table.key),
        kind=kind,
        change=Change(live, before),
        faults=faults,
        changed=changed,
        written_by=damage.attribute_text(item, table.writer),
        written_at=damage.attribute_text(item, table.written_at),
    )


def _write_file(target: Target, name: str, text: str) -> None:
    """A file in the run's folder, without secrets. A full disk is recorded, and does not stop the repair."""
    # A run that is killed leaves the file as it is now.
    text = target.redactor.redact_with_shared(text)
    try:
        target.folder.mkdir(parents=True, exist_ok=True)
        (target.folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        target.journal.append("passed-over", what=f"{name} was not written.", because=str(error))


# Repair


def plan_repair(target: Target, found: DamageScope, chosen: Sequence[str] = ()) -> RepairPlan:
    """Which items would be restored.

    Args:
        chosen: conflicts to restore, by their names or by their kind; all others are kept.

    AWS: ssm:GetParameter, reads only.

    Raises:
        InvalidInput: ``unknown-conflict``.
    """
    # Parameters may name kinds as earlier releases did.
    wanted = {damage.FORMER_NAMES.get(name, name) for name in chosen}
    conflicts = [item for item in found.conflicts if item.name in wanted or item.kind in wanted]
    unknown = sorted(wanted - {item.name for item in conflicts} - set(damage.CONFLICTS))
    if unknown:
        raise InvalidInput(
            "unknown-conflict",
            f"Not a conflict in {parameter('restore_conflicts')}: {', '.join(unknown[:SHOWN])} "
            f"({len(unknown):,} in all).",
            next=f"Use names from conflicts.jsonl, or a kind: {', '.join(damage.CONFLICTS)}.",
        )
    damaged = found.of("damaged")
    changes = tuple(item.change for item in (*damaged, *conflicts))
    title = f"Restore {count(len(changes), 'item')} of {found.table.name}"
    then = [f"restore {count(len(damaged), 'corrupted item')} to the values at {date_and_time(found.since)}"]
    calls = []
    if conflicts:
        then.append(f"restore {count(len(conflicts), 'conflict')} that {parameter('restore_conflicts')} names")
    if kept := len(found.conflicts) - len(conflicts):
        then.append(f"keep {count(kept, 'conflict')} unchanged")
    then.append("no other item changes")
    if changes:
        calls.append(f"dynamodb:TransactWriteItems {count(len(changes), 'item')}, each only if it has not changed")
    isolated = _may_be_isolated(target)
    if found.compared and isolated:
        title += ", then re-enable traffic"
        then.append("the isolation is removed")
        calls += [
            "lambda:PutFunctionConcurrency or DeleteFunctionConcurrency, or the table's policy: as before",
            "ssm:DeleteParameter isolation",
        ]
    approvals = 1
    if calls:
        approvals = target.settings.rollout.approvals
    return RepairPlan(
        title=title,
        now=(str(found),),
        then=tuple(then),
        calls=tuple(calls),
        undo=("point-in-time recovery of the table, to a time before the repair",),
        reasons=found.warnings,
        covers={
            "action": "repair",
            "environment": target.environment,
            "region": target.region,
            "table": found.table.name,
            "copy": found.copy,
            # Other items, or other values, need another approval, also where their number is the same.
            "changes": _fingerprint(changes),
        },
        approvals=approvals,
        demand_hash=bool(calls),  # a repair can only be approved after its scope was seen
        # An approval of values that were read yesterday must not be used today: it expires as a deployment's does.
        made_at=target.clock.now(),
        valid_hours=target.settings.policy.approval_hours,
        scope=found,
        changes=changes,
        isolated=isolated,
        examples=describe_changes(changes, found.table, target.redactor.redact_with_shared),
    )


def _may_be_isolated(target: Target) -> bool:
    """Whether something is isolated; also where that cannot be read: then the removal says why."""
    try:
        return isolation.read_isolation(target) is not None
    except BuddyError:
        return True


def run_repair(target: Target, plan: RepairPlan, approval: Approval, watch: Progress = no_progress) -> RepairResult:
    """Restore the items, a hundred per call and in parallel. AWS: dynamodb:TransactWriteItems, writes.

    Raises:
        Refused: ``approval-void``.
    """
    watch = target.side.watch(watch)
    approval.must_cover(plan, target.clock.now())
    table = plan.scope.table
    total = tables.Written(0)
    written: tuple[Change, ...] = ()
    if not target.dry_run:
        # An item with more attributes than a condition holds is still compared in those that it was judged by.
        compared = (table.writer, table.written_at, *(rule.attribute for rule in table.invariants))
        for part in tables.write_item(target, table.name, table.key, plan.changes, first=compared, watch=watch):
            total += part
            watch(f"{total.made:,} of {len(plan.changes):,} items restored")
        # Items are dicts and cannot be hashed, so a change is recognised by its identity.
        not_written = {id(change) for change in (*total.conflicts, *(refused.change for refused in total.refused))}
        written = tuple(change for change in plan.changes if id(change) not in not_written)
    planned = {id(change) for change in plan.changes}
    kept = tuple(item for item in plan.scope.conflicts if id(item.change) not in planned)
    refused = tuple(
        (tables.item_name(change.expected or change.desired or {}, table.key), reason)
        for change, reason in total.refused
    )
    target.journal.append(
        "repaired",
        table=table.name,
        written=len(written),
        gave_way=len(total.conflicts),
        refused=[name for name, _ in refused],
        kept=len(kept),
        by=approval.by,
    )
    return RepairResult(written, total.conflicts, kept, refused)


def verify_repair(
    target: Target,
    stopped: ContainmentPlan,
    plan: RepairPlan,
    done: RepairResult,
    watch: Progress = no_progress,
) -> RepairCheck:
    """Compare again, as before the repair. AWS: dynamodb:Scan, BatchGetItem, read only.

    Raises:
        BuddyError: ``repair-incomplete``: damaged items are left.
    """
    if stopped.obstacle is not None:
        left = len(plan.scope.of("unrestorable"))
        return RepairCheck(items=plan.scope.comparison.items, repaired=0, untouched=True, unrestorable=left)
    again = determine_scope(target, stopped, watch)
    # What DynamoDB did not take stays damaged: the notebook's last cell says so, after traffic is enabled.
    refused = {name for name, _ in done.refused}
    left = sum(item.name not in refused for item in again.of("damaged"))
    if left:
        isolated = "Nothing is isolated."
        if plan.isolated:
            isolated = "The isolation is active."
        raise BuddyError(
            "repair-incomplete",
            f"{count(left, 'item')} of {stopped.table.name} still or again damaged.",
            now=f"{count(len(done.written), 'item')} repaired. {isolated}",
            next="Run this again to repair the rest. If the number grows, another version writes: set "
            f"{parameter('version', 'VERSION')} to it. {WITHOUT_REPAIR}",
        )
    # The checksum combines the digests of all items with XOR, so each change removes one digest and adds another.
    expected = plan.scope.comparison.checksum
    for change in done.written:
        for item in (change.expected, change.desired):
            if item is not None:
                expected ^= int.from_bytes(tables.item_digest(item))
    result = RepairCheck(
        items=again.comparison.items,
        repaired=len(done.written),
        refused=len(refused),
        untouched=expected == again.comparison.checksum,
    )
    target.journal.append("verified", table=stopped.table.name, says=str(again), untouched=result.untouched)
    return result


def raise_for_incomplete(plan: ContainmentPlan, done: RepairResult) -> None:
    """The notebook's last cell: nothing, unless DynamoDB did not take an item.

    Raises:
        BuddyError: ``repair-incomplete``.
    """
    if not done.refused:
        return
    names = "; ".join(f"{name}: {reason}" for name, reason in done.refused[:SHOWN])
    raise BuddyError(
        "repair-incomplete",
        f"{count(len(done.refused), 'item')} of {plan.table.name} could not be restored. {names}",
        now=f"{count(len(done.written), 'item')} repaired, and traffic is enabled.",
        next=f"Correct the rest manually: their values of before are in {plan.copy}. The journal names them.",
    )


@dataclass(frozen=True)
class RootCause:
    """What is known about the cause, and what the review must answer."""

    facts: Mapping[str, str]
    questions: tuple[str, ...] = ()

    def _repr_markdown_(self) -> str:
        return render("root_cause", facts=self.facts, questions=self.questions)


def root_cause_facts(
    target: Target, plan: ContainmentPlan, found: DamageScope, repaired: RepairResult, review: datetime
) -> RootCause:
    """The root-cause template with the known facts; a copy is in the run's folder."""
    written = count(len(repaired.written), "item")
    kept = count(len(repaired.kept), "conflict")
    copy = "none"
    if found.compared:
        copy = f"{plan.copy} (delete it after the review)"
    result = RootCause({
        "table": plan.table.name,
        "corrupting version": f"v{plan.bad[0]}",
        "onset": f"{date_and_time(plan.since)} or later",
        "found": str(found),
        "repaired": f"{written}; {kept} kept unchanged",
        "copy": copy,
        "review by": date_and_time(review),
    }, target.settings.incident_questions)  # fmt: skip
    _write_file(target, "root_cause.md", result._repr_markdown_())
    return result


def _fingerprint(changes: Iterable[Change]) -> str:
    """The same for the same changes, in any order."""
    digests = sorted(
        (tables.item_digest(change.expected or {}) + tables.item_digest(change.desired or {})).hex()
        for change in changes
    )
    return hashlib.sha256("".join(digests).encode()).hexdigest()
