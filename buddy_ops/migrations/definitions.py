"""The shapes that Buddy's items have had: every migration there is, as code that the team edits.

Knows how one item reads in the old shape and in the new, and which schema versions a build declares. Pure: items are
DynamoDB's own JSON, {"at": {"S": "08:00"}}. ``migrations`` carries these out; ``schema`` compares them with versions.

To change a shape, append a ``Migration`` with the next number: schema versions are counted over all tables, from 1. A
version of the function declares what it can read *and* write, for example ``1-2``: one that meets both shapes writes
both.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Item = Mapping[str, Mapping[str, Any]]
Attributes = dict[str, dict[str, Any]]
FIRST = 1
"""The schema version of a table that was never migrated."""

RANGE = re.compile(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?")


@dataclass(frozen=True)
class SchemaRange:
    """The schema versions that a version of the function can read and write, both ends included."""

    low: int
    high: int

    def __contains__(self, version: int) -> bool:
        return self.low <= version <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def parse_range(text: str | None) -> SchemaRange | None:
    """A declared range, '1' or '1-2'; None for what is none: then it is unknown."""
    match = RANGE.fullmatch((text or "").strip())
    if match is None:
        return None
    low, high = int(match[1]), int(match[2] or match[1])
    return SchemaRange(low, high) if low <= high else None


@dataclass(frozen=True)
class Migration:
    """One change of shape of one table's items, by expand and contract.

    Attributes:
        table: the function's environment variable that names the table, as ``variable`` of ``tables`` in parameters/.
        to: the schema version that it leads to.
        old: attributes that only the old shape has, and ``new`` those of the new.
        forward: the new attributes of an item, from its old ones. Raises ValueError for what it cannot convert.
        backward: the old ones, from the new.
    """

    name: str
    table: str
    to: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    forward: Callable[[Item], Attributes]
    backward: Callable[[Item], Attributes]

    @property
    def source(self) -> int:
        """The schema version that the table has before."""
        return max((each.to for each in MIGRATIONS if each.table == self.table and each.to < self.to), default=FIRST)

    def harmonised(self, item: Item, truth: str) -> Attributes:
        """The item in both shapes; ``truth`` ('old' or 'new') wins where they differ.

        Raises:
            ValueError: it is in neither shape, cannot be converted, or would not come back the same.
        """
        truth = truth if _has(item, getattr(self, truth)) else "new" if truth == "old" else "old"
        names, others = (self.old, self.new) if truth == "old" else (self.new, self.old)
        there, back = (self.forward, self.backward) if truth == "old" else (self.backward, self.forward)
        try:
            made = there(item)
            same = back({**item, **made}) == {name: item[name] for name in names}
        except (KeyError, TypeError):
            raise ValueError(
                f"it has neither {', '.join(self.old)} nor {', '.join(self.new)} as they should be"
            ) from None
        if not same:
            raise ValueError(f"its {', '.join(names)} would not come back as it is")
        return {**{name: dict(value) for name, value in item.items() if name not in others}, **made}

    def contracted(self, item: Item) -> Attributes:
        """The item in the new shape alone.

        Raises:
            ValueError: as ``harmonised``; or its old attributes say something else: somebody still writes them.
        """
        whole = self.harmonised(item, "new")
        if any(item[name] != whole[name] for name in self.old if name in item):
            raise ValueError(f"its {', '.join(self.old)} and its {', '.join(self.new)} differ")
        return {name: value for name, value in whole.items() if name not in self.old}

    def reverted(self, item: Item) -> Attributes:
        """The item in the old shape alone. Raises ValueError as ``harmonised``."""
        return {name: value for name, value in self.harmonised(item, "old").items() if name not in self.new}


def _has(item: Item, names: tuple[str, ...]) -> bool:
    return all(name in item for name in names)


def validity(table: str, version: int) -> SchemaRange:
    """The schema versions that a table's items are right for: until the next migration of this table."""
    later = [each.to for each in MIGRATIONS if each.table == table and each.to > version]
    return SchemaRange(version, min(later, default=10**6) - 1)


# The migrations


def _minutes(item: Item) -> Attributes:
    """'08:00' is 480; a reminder without a time has none in either shape."""
    at = item["at"]["S"]
    if not at:
        return {"at_minutes": {"NULL": True}}
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", at)
    if match is None:
        raise ValueError("its at is no time of day")
    return {"at_minutes": {"N": str(60 * int(match[1]) + int(match[2]))}}


def _clock(item: Item) -> Attributes:
    """480 is '08:00'."""
    if "NULL" in item["at_minutes"]:
        return {"at": {"S": ""}}
    hours, minutes = divmod(int(item["at_minutes"]["N"]), 60)
    if not 0 <= hours < 24:
        raise ValueError("its at_minutes is no time of day")
    return {"at": {"S": f"{hours:02d}:{minutes:02d}"}}


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        name="reminders_at_minutes",
        table="REMINDERS_TABLE",
        to=2,
        old=("at",),
        new=("at_minutes",),
        forward=_minutes,
        backward=_clock,
    ),
)
"""Every migration, in the order of their schema versions. Never edit one that was carried out: append another."""
