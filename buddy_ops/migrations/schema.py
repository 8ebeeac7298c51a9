"""Whether a version of the function fits the tables: the range that it declares against the schema that they have.

A version declares its range in its configuration (``SCHEMA_RANGE``), where the rollout puts what the build's zip says
of itself. A table carries its schema version in one item of its own: written on condition, read consistently, covered
by the table's own permissions, and restored together with the data that it describes. Never writes anything else.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.settings import TableSettings
from buddy_ops.migrations import definitions
from buddy_ops.migrations.definitions import SchemaRange

VARIABLE = "SCHEMA_RANGE"
FILE = "schema_range"
"""The file at the root of a build's zip that says which schema versions it can read and write, for example '1-2'."""

KEY = "#schema"
"""The value of every key attribute of the item that carries a table's schema."""


@dataclass(frozen=True)
class SchemaMarker:
    """A table's schema version, and the migration that is under way or was the last.

    Attributes:
        state: 'expanded', 'verified', 'contracting', 'contracted', 'reverting' or 'reverted'; empty: never migrated.
        run: who wrote it, ``since`` when.
        there: whether it stands in the table; one that does not is the first schema's.
    """

    table: TableSettings
    version: int = definitions.FIRST
    migration: str = ""
    state: str = ""
    run: str = ""
    since: str = ""
    there: bool = False

    def __str__(self) -> str:
        migration = f" ({self.migration} {self.state} by run {self.run}, {self.since})" if self.migration else ""
        return f"{self.table.name} has schema {self.version}{migration}"


def declared_schema(archive: bytes) -> str | None:
    """What a build says of itself: the text of ``schema_range`` in its zip, or None."""
    with zipfile.ZipFile(io.BytesIO(archive)) as build:
        return build.read(FILE).decode(errors="replace").strip() if FILE in build.namelist() else None


def schema_range_of(target: Target, configuration: Mapping[str, Any]) -> SchemaRange | None:
    """The range that a version declares, or that ``schema_range`` in parameters/ says of those that declare none."""
    return definitions.parse_range(
        aliases.environment_variables(configuration).get(VARIABLE) or target.settings.schema_range
    )


def read_marker(target: Target, table: TableSettings) -> SchemaMarker:
    """A table's schema. AWS: dynamodb:GetItem, consistent, reads only.

    Raises:
        BuddyError: ``schema-unreadable``.
    """
    key = {name: {"S": KEY} for name in table.key}
    item = target.client("dynamodb").get_item(TableName=table.name, Key=key, ConsistentRead=True).get("Item")
    if not item:
        return SchemaMarker(table)
    said = {name: next(iter(value.values())) for name, value in item.items()}
    told = {name: str(said.get(name, "")) for name in ("migration", "state", "run", "since")}
    try:
        return SchemaMarker(table, int(str(said["version"])), **told, there=True)
    except (KeyError, ValueError):
        raise BuddyError(
            "schema-unreadable",
            f"The item {KEY} of {table.name} says no schema version.",
            next="Write the version that its items have; the archive has the migrations that ran.",
        ) from None


def is_marker(item: Mapping[str, Any], table: TableSettings) -> bool:
    """Whether an item is the one that carries the table's schema."""
    return all(item.get(name) == {"S": KEY} for name in table.key)


def write_marker(target: Target, held: SchemaMarker, version: int, migration: str, state: str) -> SchemaMarker:
    """Let a table say another schema, if it still says what ``held`` does. AWS: dynamodb:PutItem on condition, writes.

    Raises:
        Refused: ``migration-moved``: somebody else migrates this table.
    """
    marker = SchemaMarker(held.table, version, migration, state, target.run, iso_utc(target.clock.now()), there=True)
    item = {name: {"S": KEY} for name in held.table.key} | {"version": {"N": str(version)}}
    item |= {name: {"S": getattr(marker, name)} for name in ("migration", "state", "run", "since")}
    seen = {":run": {"S": held.run}, ":since": {"S": held.since}, ":state": {"S": held.state}}
    names = {f"#{name}": name for name in ("run", "since", "state")}
    condition: dict[str, Any] = {"ConditionExpression": f"attribute_not_exists({held.table.key[0]})"}
    if held.there:
        condition = {"ConditionExpression": "#run = :run AND #since = :since AND #state = :state",
                     "ExpressionAttributeNames": names, "ExpressionAttributeValues": seen}  # fmt: skip
    try:
        target.client("dynamodb").put_item(TableName=held.table.name, Item=item, **condition)
    except AwsFailed:
        # It may be our own first attempt that stands there, without an answer.
        now = read_marker(target, held.table)
        if (now.run, now.state, now.version) == (target.run, state, version):
            return now
        if now == held:
            raise
        raise marker_moved(now) from None
    target.journal.append("schema", table=held.table.name, version=version, migration=migration, state=state)
    return marker


def marker_moved(now: SchemaMarker) -> Refused:
    """What is told to whoever migrates a table that says something else meanwhile."""
    return Refused(
        "migration-moved",
        f"Somebody else migrates {now.table.name}: {now}.",
        now="This run changed nothing after that.",
        next="Let them end, then run again.",
    )


def read_markers(target: Target) -> tuple[SchemaMarker | BuddyError, ...]:
    """The schema of each table of the environment, or why it is not known. AWS: dynamodb:GetItem, reads only."""
    found: list[SchemaMarker | BuddyError] = []
    for table in target.settings.tables:
        try:
            found.append(read_marker(target, table))
        except BuddyError as error:
            found.append(error)
    return tuple(found)


def compare_schemas(
    target: Target, version: str, configuration: Mapping[str, Any], found: Iterable[SchemaMarker | BuddyError]
) -> list[str]:
    """What is not known of how a version fits the tables; a known misfit refuses.

    Raises:
        Refused: ``schema-incompatible``, with what to do instead.
    """
    mine, doubts = schema_range_of(target, configuration), []
    for marker in found:
        if isinstance(marker, BuddyError):
            doubts.append(f"which schema a table has is unknown: {marker.what}")
        elif mine is None:
            doubts.append(f"whether v{version} fits is unknown: it declares no {VARIABLE}, and {marker}")
        elif not is_compatible(mine, marker):
            raise _misfit(target, version, mine, marker)
    return doubts


def require_compatible(target: Target, version: str, configuration: Mapping[str, Any]) -> None:
    """Refuse a version that does not fit the tables, right before traffic; what is unknown goes into the journal.

    AWS: dynamodb:GetItem, reads only.

    Raises:
        Refused: ``schema-incompatible``.
    """
    for doubt in compare_schemas(target, version, configuration, read_markers(target)):
        target.journal.append("passed-over", what="The schema could not be compared.", because=doubt)


def is_compatible(mine: SchemaRange, marker: SchemaMarker) -> bool:
    """Whether a version with this range reads and writes the table as it is."""
    valid = definitions.validity(marker.table.variable, marker.version)
    return mine.low <= valid.high and valid.low <= mine.high


def _misfit(target: Target, version: str, mine: SchemaRange, marker: SchemaMarker) -> Refused:
    behind = mine.low > marker.version
    step = "carry the migration out first (expand, backfill, verify)" if behind else "run its rollback first"
    return Refused(
        "schema-incompatible",
        f"v{version} of {target.settings.function} reads and writes schema {mine}, and {marker}.",
        next=f"Open operations/migrate_database and {step}, then run this again; or ship a build that reads schema "
        f"{marker.version} with strategies/canary.",
    )
