"""Damaged items: which they are, and how each gets back what it said before.

Knows that only damaged items are written back, each on the condition that it is exactly what was compared: what people
changed, created or deleted meanwhile stands, and where nobody can tell, a person chooses.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from buddy_ops.aws import isolation, tables
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Change, Comparison, Item, Watch
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.settings import TableSettings
from buddy_ops.incidents import damage
from buddy_ops.incidents.containment import ContainmentPlan
from buddy_ops.migrations import schema

SHOWN = 5
"""Items of a kind that are shown; the run's folder has all that a person chooses about."""

ALL_KINDS = ("damaged", *damage.CONFLICTS, "edited", "created", "deleted")
MEANINGS = {
    "damaged": "faulty now, written by a corrupting version, after it began: repaired from the copy",
    **damage.CONFLICTS,
    "edited": "changed by another version, and whole: stands",
    "created": "new since then: stands",
    "deleted": "gone since then: stays gone",
}


@dataclass(frozen=True)
class DamagedItem:
    """One item that differs from its copy, and what became of it. ``faults`` and ``changed`` show no value."""

    name: str
    kind: str
    change: Change
    faults: tuple[str, ...]
    changed: tuple[str, ...]
    written_by: str
    written_at: str


@dataclass(frozen=True)
class DamageScope:
    """How far the damage goes."""

    table: TableSettings
    copy: str
    since: datetime
    comparison: Comparison
    found: tuple[DamagedItem, ...] = field(repr=False)
    warnings: tuple[str, ...]

    def of(self, *kinds: str) -> tuple[DamagedItem, ...]:
        """What was found of these kinds."""
        return tuple(each for each in self.found if each.kind in kinds)

    @property
    def conflicts(self) -> tuple[DamagedItem, ...]:
        """What a person chooses about."""
        return self.of(*damage.CONFLICTS)

    def __str__(self) -> str:
        counts = Counter(each.kind for each in self.found)
        told = ", ".join(f"{counts[kind]:,} {kind}" for kind in ALL_KINDS if counts[kind]) or "nothing differs"
        return f"{self.comparison.items:,} items beside {self.comparison.before:,} as of {iso_utc(self.since)}: {told}."

    def _repr_markdown_(self) -> str:
        rows = [
            f"| **{kind}** | {len(mine):,} | {MEANINGS[kind]} | {'<br>'.join(_line(each) for each in mine[:SHOWN])} |"
            for kind in ALL_KINDS
            if (mine := self.of(kind))
        ]
        head = ["| what | how many | what that means | for example |", "|---|---|---|---|"]
        return "\n".join((str(self), "", *([*head, *rows] if rows else []), "", *(f"- {w}" for w in self.warnings)))


@dataclass(frozen=True)
class RepairPlan(Plan):
    """Which items are written back, and that the isolation is lifted after it."""

    scope: DamageScope
    changes: tuple[Change, ...] = field(repr=False)

    @property
    def unapproved(self) -> str:
        """The damage is stopped by now."""
        return "No item was written. The isolation and the freeze stand."


@dataclass(frozen=True)
class RepairResult:
    """What was written back. ``gave_way`` were changed by somebody since they were compared, and stand so."""

    written: tuple[Change, ...]
    conflicts: tuple[Change, ...]
    kept: tuple[DamagedItem, ...]

    def __str__(self) -> str:
        told = [f"{len(self.written):,} items are as they were before the damage."]
        if self.conflicts:
            told.append(f"{len(self.conflicts):,} were changed by somebody meanwhile and were left: run this again.")
        if self.kept:
            told.append(f"{len(self.kept):,} conflicts are kept as they are; they are listed in conflicts.jsonl.")
        return "\n".join(told)


# See how far it goes


def determine_scope(target: Target, plan: ContainmentPlan, watch: Watch = tables.ignore_progress) -> DamageScope:
    """The damaged items, the conflicts, and what stands; the conflicts are listed in the run's folder as well.

    The item that carries the table's schema is none of its items: whoever migrates writes it.

    AWS: dynamodb:Scan, BatchGetItem, GetItem, read only.

    Raises:
        Refused: ``schema-changed``.
    """
    table, since = plan.table, plan.since.timestamp()
    if target.dry_run:
        nothing = Comparison(0, 0, 0, (), {}, {})
        return DamageScope(table, plan.copy, plan.since, nothing, (), ("Dry run: nothing was compared.",))

    _refuse_another_schema(target, plan)

    def note(item: Item) -> Iterable[str]:
        yield from ("faulty",) if damage.find_violations(item, table) else ()
        yield from ("bad",) if damage.attribute_text(item, table.writer) in plan.bad else ()

    def counts(item: Item) -> bool:
        return not schema.is_marker(item, table)

    seen = tables.compare_tables(target, table.name, plan.copy, table.key, note, watch, counts)
    judged = ((live, before, damage.classify_item(live, before, table, plan.bad, since)) for live, before in seen.pairs)
    found = tuple(_found(live, before, kind, table) for live, before, kind in judged if kind is not None)
    result = DamageScope(
        table, plan.copy, plan.since, seen, tuple(sorted(found, key=lambda f: f.name)), _warnings(plan, seen)
    )
    target.journal.append("scoped", table=table.name, copy=plan.copy, says=str(result))
    _list_conflicts(target, result)
    return result


def _refuse_another_schema(target: Target, plan: ContainmentPlan) -> None:
    copy = plan.table.model_copy(update={"name": plan.copy})
    now, then = schema.read_marker(target, plan.table), schema.read_marker(target, copy)
    if now.version != then.version:
        raise Refused(
            "schema-changed",
            f"{now}, and its copy as of {iso_utc(plan.since)} has schema {then.version}: old items "
            f"do not fit any more.",
            now="No item was written. The isolation and the freeze stand.",
            next="Roll the migration back with operations/migrate_database, then run this again.",
        )


def _warnings(plan: ContainmentPlan, seen: Comparison) -> tuple[str, ...]:
    told = []
    if early := seen.notes_before.get("bad", 0):
        told.append(f"The copy itself holds {early:,} items that v{plan.bad[0]} wrote: choose an earlier onset.")
    if faulty := seen.notes_before.get("faulty", 0):
        told.append(f"{faulty:,} items were faulty before already; they are no part of this.")
    return tuple(told)


def _found(live: Item | None, before: Item | None, kind: str, table: TableSettings) -> DamagedItem:
    item = live or before or {}
    return DamagedItem(
        name="/".join(damage.attribute_text(item, each) for each in table.key),
        kind=kind,
        change=Change(live, before),
        faults=tuple(sorted(damage.find_violations(live, table))) if live else (),
        changed=damage.changed_attributes(live, before, table) if live and before else (),
        written_by=damage.attribute_text(item, table.writer),
        written_at=damage.attribute_text(item, table.written_at),
    )


def _list_conflicts(target: Target, found: DamageScope) -> None:
    """Every conflict, a line each, without a value of any item but its key. A full disk is told, and stops nothing."""
    lines = [
        json.dumps({"item": f.name, "kind": f.kind, "faults": f.faults, "changed": f.changed, "by": f.written_by})
        for f in found.conflicts
    ]
    try:
        target.folder.mkdir(parents=True, exist_ok=True)
        (target.folder / "conflicts.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        target.journal.append("passed-over", what="the list of conflicts", why=str(error))


# Repair


def plan_repair(target: Target, found: DamageScope, chosen: Sequence[str] = ()) -> RepairPlan:
    """Which items would be written back.

    Args:
        chosen: conflicts that shall be as they were before, by their names or by their kind; all others are kept.

    AWS: ssm:GetParameter, reads only.

    Raises:
        InvalidInput: ``unknown-conflict``.
    """
    wanted = [each for each in found.conflicts if each.name in chosen or each.kind in chosen]
    strange = sorted(set(chosen) - {each.name for each in wanted} - set(damage.CONFLICTS))
    if strange:
        raise InvalidInput(
            "unknown-conflict",
            f"{len(strange)} of restore_conflicts are no conflicts: {', '.join(strange[:SHOWN])}.",
            now="Nothing was repaired.",
            next=f"Name items of conflicts.jsonl, or a kind: {', '.join(damage.CONFLICTS)}.",
        )
    damaged, isolated = found.of("damaged"), isolation.read_isolation(target) is not None
    changes = tuple(each.change for each in (*damaged, *wanted))
    kept = len(found.conflicts) - len(wanted)
    name = found.table.name
    write = f"dynamodb:TransactWriteItems {len(changes):,} items, each if it is still what was compared"
    release = (
        "lambda:PutFunctionConcurrency or DeleteFunctionConcurrency, or the table's policy: as before",
        "ssm:DeleteParameter the memory of it",
    )
    calls = (*((write,) if changes else ()), *(release if isolated else ()))
    return RepairPlan(
        title=f"Write {len(changes):,} items of {name} back" + (", then let people in again" if isolated else ""),
        now=(str(found),),
        then=(
            f"{len(damaged):,} damaged items say again what they said at {iso_utc(found.since)}",
            *((f"{len(wanted):,} conflicts do so too, by choice",) if wanted else ()),
            *((f"{kept:,} conflicts are kept as they are",) if kept else ()),
            "every other item stands as it is",
            *(("the isolation is lifted",) if isolated else ()),
        ),
        calls=calls,
        undo=("point-in-time recovery of the table, to now",),
        reasons=found.warnings,
        covers={
            "action": "repair",
            "environment": target.environment,
            "table": name,
            "copy": found.copy,
            "changes": _fingerprint(changes),
        },
        approvals=target.settings.rollout.approvals,
        demand_hash=bool(calls),  # nobody can agree to a repair before it is known what was found
        scope=found,
        changes=changes,
    )


def run_repair(
    target: Target, plan: RepairPlan, approval: Approval, watch: Watch = tables.ignore_progress
) -> RepairResult:
    """Write the items back, a hundred a call and in parallel. AWS: dynamodb:TransactWriteItems, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan)
    table, gave_way, done = plan.scope.table, list[Change](), 0
    for left in () if target.dry_run else tables.write_item(target, table.name, table.key, plan.changes):
        gave_way += left
        done = min(done + tables.A_TRANSACTION, len(plan.changes))
        watch(f"{done:,} of {len(plan.changes):,} items written back")
    passed = {id(each) for each in gave_way}
    written = () if target.dry_run else tuple(each for each in plan.changes if id(each) not in passed)
    mine = {id(each) for each in plan.changes}
    kept = tuple(each for each in plan.scope.conflicts if id(each.change) not in mine)
    told = {"written": len(written), "gave_way": len(gave_way), "kept": len(kept)}
    target.journal.append("repaired", table=table.name, **told, by=approval.by)
    return RepairResult(written, tuple(gave_way), kept)


def verify_repair(
    target: Target,
    stopped: ContainmentPlan,
    plan: RepairPlan,
    done: RepairResult,
    watch: Watch = tables.ignore_progress,
) -> str:
    """Compare again, as before the repair; what is so now, in a sentence. AWS: dynamodb:Scan, BatchGetItem, read only.

    Raises:
        BuddyError: ``repair-incomplete``: damaged items are left.
    """
    again = determine_scope(target, stopped, watch)
    left = len(again.of("damaged"))
    if left:
        raise BuddyError(
            "repair-incomplete",
            f"{left:,} items of {stopped.table.name} are damaged still or anew.",
            now=f"{len(done.written):,} items are repaired; the isolation stands.",
            next="Run this again: it repairs what is left. If their number grows, another version writes: name it.",
        )
    expected = plan.scope.comparison.checksum
    for change in done.written:
        for item in (change.expected, change.desired):
            expected ^= int.from_bytes(tables.item_digest(item)) if item is not None else 0
    same = expected == again.comparison.checksum
    others = (
        "every other item is as it was, byte for byte" if same else "others wrote meanwhile, and their writes stand"
    )
    target.journal.append("verified", table=stopped.table.name, says=str(again), untouched=same)
    return f"No item is damaged: {again.comparison.items:,} items, {len(done.written):,} repaired; {others}."


def root_cause_facts(
    target: Target, plan: ContainmentPlan, found: DamageScope, repaired: RepairResult, review: datetime
) -> "RootCause":
    """The root-cause template with what is known filled in; a copy is in the run's folder."""
    facts = {
        "table": plan.table.name,
        "corrupting version": f"v{plan.bad[0]}",
        "began": f"{iso_utc(plan.since)} or later",
        "found": str(found),
        "repaired": f"{len(repaired.written):,} items; {len(repaired.kept):,} conflicts kept as they were",
        "copy": f"{plan.copy} (delete it when the review is done)",
        "review by": iso_utc(review),
    }
    template = RootCause(facts)
    try:
        target.folder.mkdir(parents=True, exist_ok=True)
        (target.folder / "root_cause.md").write_text(template._repr_markdown_(), encoding="utf-8")
    except OSError as error:
        target.journal.append("passed-over", what="the root-cause template", why=str(error))
    return template


@dataclass(frozen=True)
class RootCause:
    """What is known, and what the review has to find out."""

    facts: dict[str, str]

    QUESTIONS = (
        "Which change made the version write wrongly, and which lines?",
        "Why did tests, review, smoke tests and the canary let it pass?",
        "What would have shown it within minutes: which invariant, metric or alarm?",
        "Which people were told a wrong medicine or no time, and who tells them?",
        "What will be done, by whom, until when?",
    )

    def _repr_markdown_(self) -> str:
        known = [f"- **{name}**: {text}" for name, text in self.facts.items()]
        asked = [f"{at}. {question}" for at, question in enumerate(self.QUESTIONS, start=1)]
        return "\n".join(("### Root cause", "", *known, "", "To be found out:", "", *asked, ""))


def _line(found: DamagedItem) -> str:
    what = "; ".join(found.faults) or (f"{', '.join(found.changed)} changed" if found.changed else "")
    return f"`{found.name}`" + (f": {what}" if what else "")


def _fingerprint(changes: Iterable[Change]) -> str:
    """The same for the same changes, in any order."""
    each = sorted((tables.item_digest(c.expected or {}) + tables.item_digest(c.desired or {})).hex() for c in changes)
    return hashlib.sha256("".join(each).encode()).hexdigest()
