"""Damage or somebody's wish: what an item says, beside what it said before a version began to corrupt.

Knows three signs: whether the item breaks what held for it before (invariants), which version wrote it, and when. Where
they agree the item is damaged, or it is an edit. Where they do not, nobody can tell, and a person chooses. Never talks
to AWS.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from buddy_ops.core.settings import ItemInvariant, TableSettings

Item = Mapping[str, Mapping[str, Any]]
Kind = Literal["damaged", "edited", "created", "deleted", "unfaulted", "faulty", "new"]

CONFLICTS: Mapping[str, str] = {
    "unfaulted": "written by a corrupting version, and no invariant faults it",
    "faulty": "faulty, but another version wrote it last, or when is not known: somebody edited what was damaged",
    "new": "created faulty by a corrupting version: there is no earlier state; restoring it deletes it",
}
"""Kinds that a person chooses about."""


def classify_item(
    live: Item | None, before: Item | None, table: TableSettings, bad: Collection[str], since: float
) -> Kind | None:
    """What became of an item; None for one that says the same as before.

    Args:
        live: as it is now; None if it is gone.
        before: as it was; None if it was not there.
        bad: the versions that corrupt.
        since: when they began, epoch seconds.
    """
    if live is None:
        return "deleted"
    by_bad = attribute_text(live, table.writer) in bad
    late = (number(live.get(table.written_at)) or 0.0) >= since
    if before is None:
        return "new" if by_bad and find_violations(live, table) else "created"
    if _content(live, table) == _content(before, table):
        return None
    broken = find_violations(live, table) - find_violations(before, table)
    if broken:
        return "damaged" if by_bad and late else "faulty"
    return "unfaulted" if by_bad else "edited"


def find_violations(item: Item, table: TableSettings) -> frozenset[str]:
    """What of the table's invariants an item breaks, in words that show none of its values."""
    return frozenset(said for each in table.invariants for said in _broken(item.get(each.attribute), each))


def changed_attributes(live: Item, before: Item | None, table: TableSettings) -> tuple[str, ...]:
    """The attributes that say something else than before."""
    old, new = _content(before or {}, table), _content(live, table)
    return tuple(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))


def attribute_text(item: Item, attribute: str) -> str:
    """A text or a number of an item, as text; '' for any other value and for none."""
    value = item.get(attribute) or {}
    return str(value.get("S", value.get("N", "")))


def number(value: Mapping[str, Any] | None) -> float | None:
    """A number, also one that is written as text; None for anything else."""
    try:
        return float((value or {}).get("N", (value or {}).get("S")))
    except (TypeError, ValueError):
        return None


def _content(item: Item, table: TableSettings) -> dict[str, Mapping[str, Any]]:
    """What an item says, without who wrote it and when."""
    return {name: value for name, value in item.items() if name not in (table.writer, table.written_at)}


def _broken(value: Mapping[str, Any] | None, rule: ItemInvariant) -> Iterator[str]:
    name = rule.attribute
    if value is None:
        if rule.required:
            yield f"{name} is missing"
        return
    said = str(value.get("S", value.get("N", ""))) if value.keys() & {"S", "N"} else None
    if rule.pattern is not None and (said is None or not re.fullmatch(rule.pattern, said, re.DOTALL)):
        yield f"{name} is not as it must be"
    if rule.one_of and said not in rule.one_of:
        yield f"{name} is none of those that it may be"
    if rule.least is not None or rule.most is not None:
        found = number(value)
        least, most = (default if bound is None else bound for bound, default in (
            (rule.least, float("-inf")), (rule.most, float("inf"))))  # fmt: skip
        if found is None or not least <= found <= most:
            yield f"{name} is out of range"
