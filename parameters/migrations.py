"""The migrations of this project's tables. ``operations/migrate_database`` carries them out.

To change a schema:

1. Append a ``Migration`` to ``MIGRATIONS``, at the end of this file. Its number is the next one over all tables.
2. Write its two converters, ``forward`` and ``backward``. An item is DynamoDB's own JSON: {"at": {"S": "08:00"}}.
3. Ship a build that declares both schemas (the file ``schema_range`` in its zip says ``1-2``) and writes both.
4. Run operations/migrate_database: expand, backfill, verify, contract.
"""

import re

from buddy_ops.migrations.definitions import Attributes, Item, Migration


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
