"""The schemas of Buddy's tables: every migration, as code that the team edits.

To change a schema:

1. Append a ``Migration`` to ``MIGRATIONS``, at the end of this file. Its number is the next one over all tables.
2. Write its two converters, ``forward`` and ``backward``. An item is DynamoDB's own JSON: {"at": {"S": "08:00"}}.
3. Ship a build that declares both schemas (the file ``schema_range`` in its zip says ``1-2``) and writes both.
4. Run operations/migrate_database: expand, backfill, verify, contract.

``steps`` carries a migration out; ``schema`` compares it with the versions of the function. This module is pure.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Item = Mapping[str, Mapping[str, Any]]
Attributes = dict[str, dict[str, Any]]
Convert = Callable[[Item], Attributes]

FIRST = 1
"""The schema of a table that was never migrated."""

NEWEST = 10**6
"""Above every schema's number."""


# What a migration is


@dataclass(frozen=True)
class Migration:
    """One change of the schema of one table, by expand and contract.

    Attributes:
        table: the function's environment variable that names the table, as ``variable`` of ``tables`` in parameters/.
        to: the schema that it leads to.
        old: attributes that only the old schema has; ``new``: those that only the new one has.
        forward: the new attributes of an item, from its old ones. Raises ValueError for what it cannot convert.
        backward: the old ones, from the new.
    """

    name: str
    table: str
    to: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    forward: Convert
    backward: Convert

    @property
    def source(self) -> int:
        """The schema that the table has before."""
        earlier = (other.to for other in MIGRATIONS if other.table == self.table and other.to < self.to)
        return max(earlier, default=FIRST)

    def harmonised(self, item: Item, truth: Literal["old", "new"]) -> Attributes:
        """The item in both schemas; ``truth`` wins where they differ.

        Raises:
            ValueError: it is in neither schema, cannot be converted, or cannot be converted back.
        """
        has_old = all(name in item for name in self.old)
        has_new = all(name in item for name in self.new)
        if has_old and (truth == "old" or not has_new):
            return self._converted(item, self.old, convert=self.forward, revert=self.backward)
        return self._converted(item, self.new, convert=self.backward, revert=self.forward)

    def _converted(self, item: Item, names: tuple[str, ...], *, convert: Convert, revert: Convert) -> Attributes:
        try:
            made = convert(item)
            lossless = revert({**item, **made}) == {name: item[name] for name in names}
        except (KeyError, TypeError):
            old = ", ".join(self.old)
            raise ValueError(f"it has neither {old} nor {', '.join(self.new)} in a valid form") from None
        if not lossless:
            raise ValueError(f"its {', '.join(names)} cannot be converted without loss")
        replaced = {*self.old, *self.new}.difference(names)
        return {name: dict(value) for name, value in item.items() if name not in replaced} | made

    def contracted(self, item: Item) -> Attributes:
        """The item in the new schema alone.

        Raises:
            ValueError: as ``harmonised``; or its old attributes differ, so something still writes them.
        """
        both = self.harmonised(item, "new")
        if any(item[name] != both[name] for name in self.old if name in item):
            raise ValueError(f"its {', '.join(self.old)} and its {', '.join(self.new)} differ")
        return {name: value for name, value in both.items() if name not in self.old}

    def reverted(self, item: Item) -> Attributes:
        """The item in the old schema alone. Raises ValueError as ``harmonised``."""
        both = self.harmonised(item, "old")
        return {name: value for name, value in both.items() if name not in self.new}


# What a version of the function declares


@dataclass(frozen=True)
class SchemaRange:
    """The schemas that a version of the function can read and write, both ends included."""

    low: int
    high: int

    def __contains__(self, schema: int) -> bool:
        return self.low <= schema <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def parse_range(text: str | None) -> SchemaRange | None:
    """A declared range, '1' or '1-2'; None for any other text: then it is unknown."""
    match = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", (text or "").strip())
    if match is None:
        return None
    declared = SchemaRange(int(match[1]), int(match[2] or match[1]))
    return declared if declared.low <= declared.high else None


def validity(table: str, schema: int) -> SchemaRange:
    """The schemas for which a table's items are right: until the next migration of this table."""
    later = (migration.to for migration in MIGRATIONS if migration.table == table and migration.to > schema)
    return SchemaRange(schema, min(later, default=NEWEST) - 1)


# The migrations


def _at_to_minutes(item: Item) -> Attributes:
    """'08:00' becomes 480. A reminder without a time has none in either schema."""
    at = item["at"]["S"]
    if not at:
        return {"at_minutes": {"NULL": True}}
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", at)
    if match is None:
        raise ValueError("its at is not a time of day (HH:MM)")
    return {"at_minutes": {"N": str(60 * int(match[1]) + int(match[2]))}}


def _minutes_to_at(item: Item) -> Attributes:
    """480 becomes '08:00'."""
    if "NULL" in item["at_minutes"]:
        return {"at": {"S": ""}}
    hours, minutes = divmod(int(item["at_minutes"]["N"]), 60)
    if not 0 <= hours < 24:
        raise ValueError("its at_minutes is not a time of day (0 to 1439)")
    return {"at": {"S": f"{hours:02d}:{minutes:02d}"}}


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        name="reminders_at_minutes",
        table="REMINDERS_TABLE",
        to=2,
        old=("at",),
        new=("at_minutes",),
        forward=_at_to_minutes,
        backward=_minutes_to_at,
    ),
)
"""Every migration, in the order of their schemas. Never edit one that was carried out: append another."""
