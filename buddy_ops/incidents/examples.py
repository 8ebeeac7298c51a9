"""Examples of a repair's changes, as the person who approves it sees them: the value now, and the restored one.

A plan is archived, so a value is shown redacted and cut, and not at all where the settings call its attribute private.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping

from buddy_ops.aws import tables
from buddy_ops.aws.item_writes import Change
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import count, show_controls

ITEMS = 5
ATTRIBUTES = 6
"""How many items are shown, and how many attributes of each."""

LONGEST = 60
"""Characters of a value that are shown."""


def describe_changes(changes: Iterable[Change], table: TableSettings, redact: Callable[[str], str]) -> tuple[str, ...]:
    """The first changes, a line for each attribute: 'ann/1: at is "", restored to "08:00"'."""
    lines: list[str] = []
    shown = 0
    left = 0
    for change in changes:
        if shown == ITEMS:
            left += 1
            continue
        shown += 1
        lines += _describe(change, table, redact)
    if left:
        lines.append(f"and {count(left, 'more item')}")
    return tuple(lines)


def _describe(change: Change, table: TableSettings, redact: Callable[[str], str]) -> Iterator[str]:
    seen = change.expected or {}
    to = change.desired or {}
    name = show_controls(tables.item_name(seen or to, table.key))
    if change.desired is None:
        yield f"{name}: deleted, since it did not exist before"
        return
    differing = [attribute for attribute in sorted({*seen, *to}) if seen.get(attribute) != to.get(attribute)]
    # Who wrote it and when differs in every item, and says nothing about what is corrupted.
    differing = [attribute for attribute in differing if attribute not in (table.writer, table.written_at)]
    for attribute in differing[:ATTRIBUTES]:
        if attribute in table.private:
            yield f"{name}: {show_controls(attribute)} changes (private, not shown)"
            continue
        now = _show(seen.get(attribute), redact)
        restored = _show(to.get(attribute), redact)
        yield f"{name}: {show_controls(attribute)} is {now}, restored to {restored}"
    if len(differing) > ATTRIBUTES:
        yield f"{name}: and {count(len(differing) - ATTRIBUTES, 'more attribute')}"


def _show(value: Mapping[str, object] | None, redact: Callable[[str], str]) -> str:
    """One value: redacted as a whole, then cut."""
    if value is None:
        return "missing"
    kind, content = next(iter(value.items()))
    text = str(content)
    if kind not in ("S", "N"):
        # Lists, maps and sets as JSON; binary values in them, which JSON lacks, as base64.
        text = json.dumps(content, ensure_ascii=False, default=_encode)
    length = count(len(text), "character")
    # Cut first, a secret would no longer be recognised.
    text = show_controls(redact(text))
    cut = ""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
        cut = f" ({length})"
    if kind == "S":
        text = f'"{text}"'
    return f"{text}{cut}"


def _encode(value: object) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return str(value)
