"""Compatibility of a version of the function with the tables: its declared range against their schemas.

A version declares its range in its configuration (``SCHEMA_RANGE``), where the rollout copies it from the build's zip.
A table carries its schema in one item of its own, the marker: written on condition, read consistently, covered by the
table's own permissions, and restored together with the data that it describes. Writes nothing but markers.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from buddy_ops.aws import tables
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import date_and_time, parse_utc
from buddy_ops.migrations import definitions
from buddy_ops.migrations.definitions import SchemaRange

VARIABLE = "SCHEMA_RANGE"
DECLARED_BYTES = 200
"""Bytes that are read of a build's declaration, for example 1-2. Whatever is longer is no range."""

FILE = "schema_range"
"""The file at the root of a build's zip that declares which schemas it can read and write, for example '1-2'."""

KEY = "#schema"
"""The value of every key attribute of the item that carries a table's schema, where the attribute is a text."""

# 38 digits are the most that DynamoDB's numbers have. Source: its developer guide, data types.
KEY_NUMBER = "-" + "9" * 38
"""The same where the attribute is a number: no item of a user has it."""

KEY_VALUES: Mapping[str, Mapping[str, Any]] = {
    "S": {"S": KEY},
    "N": {"N": KEY_NUMBER},
    "B": {"B": KEY.encode()},
}
"""The same by the attribute's type in DynamoDB."""

_key_types: dict[tuple[str | None, str, str], tuple[str, ...]] = {}
"""The types of tables' keys that are not all texts, as this process read them, by endpoint, region and table."""

TEXTS = ("migration", "state", "run", "since")
"""The marker's attributes besides its version."""


@dataclass(frozen=True)
class SchemaMarker:
    """A table's schema, and the migration that is in progress or was the last.

    Attributes:
        state: 'expanded', 'verified', 'contracting', 'contracted', 'reverting' or 'reverted'; empty: never migrated.
        run: the run that wrote it, ``since`` when (ISO 8601).
        there: whether the table holds it; a table without one has the first schema.
    """

    table: TableSettings
    version: int = definitions.FIRST
    migration: str = ""
    state: str = ""
    run: str = ""
    since: str = ""
    there: bool = False

    def __str__(self) -> str:
        has = f"{self.table.name} has schema {self.version}"
        if not self.migration:
            return has
        return f"{has} (migration {self.migration} {self.state} by run {self.run}, {_time(self.since)})"


def _time(text: str) -> str:
    """A marker's time for a sentence; as it is where it is not a time, since teams may edit the item."""
    try:
        return date_and_time(parse_utc(text))
    except ValueError:
        return text


def declared_schema(archive: bytes) -> str | None:
    """What a build declares: the text of ``schema_range`` in its zip, or None."""
    with zipfile.ZipFile(io.BytesIO(archive)) as build:
        if FILE not in build.namelist():
            return None
        with build.open(FILE) as file:
            return file.read(DECLARED_BYTES).decode(errors="replace").strip()


def schema_range_of(target: Target, version: Version) -> SchemaRange | None:
    """The range that a version declares; ``schema_range`` in parameters/ holds for those that declare none."""
    declared = version.variables.get(VARIABLE)
    return definitions.parse_range(declared or target.settings.schema_range)


def read_marker(target: Target, table: TableSettings) -> SchemaMarker:
    """A table's schema. AWS: dynamodb:GetItem, consistent; DescribeTable where a key is no text; reads only.

    Raises:
        BuddyError: ``schema-unreadable``.
    """
    get = target.client("dynamodb").get_item
    try:
        # Consistent: without it DynamoDB may still return the marker from before another run's write.
        item = get(TableName=table.name, Key=marker_key(target, table), ConsistentRead=True).get("Item")
    except AwsFailed as failure:
        # DynamoDB's answer to a key of another type. Only then are the types asked for: nearly all keys are texts.
        if failure.code != "ValidationException" or not _learn_key_types(target, table):
            raise
        item = get(TableName=table.name, Key=marker_key(target, table), ConsistentRead=True).get("Item")
    if not item:
        return SchemaMarker(table)
    # As texts: a team may have edited the item, and an attribute may have another type since.
    values = {name: str(next(iter(value.values()))) for name, value in item.items()}
    texts = {name: values.get(name, "") for name in TEXTS}
    try:
        return SchemaMarker(table, int(values["version"]), **texts, there=True)
    except (KeyError, ValueError):
        raise BuddyError(
            "schema-unreadable",
            f"The item {KEY} of {table.name} has no valid schema version.",
            next="Write the schema of its items into version. The archive has the migrations that ran.",
        ) from None


def marker_key(target: Target, table: TableSettings) -> dict[str, Mapping[str, Any]]:
    """The key of the item that carries a table's schema. Its attributes are texts, unless DynamoDB said otherwise."""
    types = _key_types.get(_table_id(target, table), ("S",) * len(table.key))
    return {name: KEY_VALUES[kind] for name, kind in zip(table.key, types, strict=True)}


def _learn_key_types(target: Target, table: TableSettings) -> bool:
    """Read the types of a table's key; whether they are others than was thought."""
    told = target.client("dynamodb").describe_table(TableName=table.name)["Table"]
    types = {attribute["AttributeName"]: attribute["AttributeType"] for attribute in told["AttributeDefinitions"]}
    if not set(table.key) <= types.keys():
        return False
    # Where they are as before, a second attempt would get the same answer.
    before = marker_key(target, table)
    _key_types[_table_id(target, table)] = tuple(types[name] for name in table.key)
    return marker_key(target, table) != before


def _table_id(target: Target, table: TableSettings) -> tuple[str | None, str, str]:
    return target.endpoint_url, target.region, table.name


def is_marker(item: Mapping[str, object], table: TableSettings) -> bool:
    """Whether an item is the one that carries the table's schema."""
    return all(item.get(name) in KEY_VALUES.values() for name in table.key)


def write_marker(target: Target, held: SchemaMarker, version: int, migration: str, state: str) -> SchemaMarker:
    """Write a table's marker, if it is still ``held``. AWS: dynamodb:PutItem on condition, writes.

    Raises:
        Refused: ``migration-moved``: another run migrates this table.
    """
    marker = SchemaMarker(
        table=held.table,
        version=version,
        migration=migration,
        state=state,
        run=target.run,
        since=iso_utc(target.clock.now()),
        there=True,
    )
    item: dict[str, Any] = {**marker_key(target, held.table), "version": {"N": str(version)}}
    item |= {name: {"S": getattr(marker, name)} for name in TEXTS}
    # A table without a marker: whoever writes it first has it.
    condition: dict[str, Any] = {
        "ConditionExpression": "attribute_not_exists(#key)",
        # Names by placeholders: a key of a team's table may be one of DynamoDB's reserved words, and 'state' is one.
        "ExpressionAttributeNames": {"#key": held.table.key[0]},
    }
    if held.there:
        # The same run writes several markers: its name alone does not tell them apart.
        compared = ("run", "since", "state")
        condition = {
            "ConditionExpression": " AND ".join(f"#{name} = :{name}" for name in compared),
            "ExpressionAttributeNames": {f"#{name}": name for name in compared},
            "ExpressionAttributeValues": {f":{name}": {"S": getattr(held, name)} for name in compared},
        }
    try:
        put = target.client("dynamodb").put_item
        tables.call_with_retries(target, put, what=held.table.name, TableName=held.table.name, Item=item, **condition)
    except AwsFailed:
        # The first attempt may have been written although its answer was lost.
        now = read_marker(target, held.table)
        if (now.run, now.state, now.version) == (target.run, state, version):
            return now
        # Not written, and still free: what failed is AWS itself.
        if now == held:
            raise
        raise marker_moved(now) from None
    target.journal.append("schema", table=held.table.name, version=version, migration=migration, state=state)
    return marker


def marker_moved(now: SchemaMarker) -> Refused:
    """The refusal of a step while another run changes the same table."""
    return Refused(
        "migration-moved",
        f"Another run migrates {now.table.name}: {now}.",
        now="This run changed nothing after that.",
        next="Wait until that run ends, then run this again.",
    )


def read_markers(target: Target) -> tuple[SchemaMarker | BuddyError, ...]:
    """The schema of each table of the environment, or why it is unknown. AWS: dynamodb:GetItem, reads only."""
    found: list[SchemaMarker | BuddyError] = []
    for table in target.settings.tables:
        try:
            found.append(read_marker(target, table))
        except BuddyError as error:
            found.append(error)
    return tuple(found)


def compare_schemas(target: Target, version: Version, found: Iterable[SchemaMarker | BuddyError]) -> list[str]:
    """What is unknown about a version's compatibility with the tables; a known incompatibility refuses.

    Raises:
        Refused: ``schema-incompatible``, with what to do instead.
    """
    markers = tuple(found)
    if not markers:
        return []
    try:
        declared = schema_range_of(target, version)
    except BuddyError as error:
        # What cannot be read is a doubt: a rollback may depend on it.
        return [f"whether v{version.number} is compatible with the tables is unknown: {error.what}"]
    doubts = []
    for marker in markers:
        if isinstance(marker, BuddyError):
            doubts.append(f"the schema of a table is unknown: {marker.what}")
        elif declared is None:
            doubts.append(f"v{version.number} declares no {VARIABLE}, so its compatibility is unknown: {marker}")
        else:
            doubts += _compare_schema(target, version, declared, marker)
    return doubts


def _compare_schema(target: Target, version: Version, declared: SchemaRange, marker: SchemaMarker) -> list[str]:
    """Doubts on one table. Raises Refused ``schema-incompatible``."""
    try:
        compatible = is_compatible(declared, marker)
    except InvalidInput as error:
        # A broken file of migrations must not stop a rollback.
        return [f"whether v{version.number} is compatible with {marker.table.name} is unknown: {error.what}"]
    if not compatible:
        raise _incompatible(target, version.number, declared, marker)
    return []


def require_compatible(target: Target, version: Version) -> None:
    """Refuse a version that is incompatible with the tables, right before traffic; doubts go into the journal.

    AWS: dynamodb:GetItem, reads only.

    Raises:
        Refused: ``schema-incompatible``.
    """
    for doubt in compare_schemas(target, version, read_markers(target)):
        target.journal.append("passed-over", what="The schema could not be compared.", because=doubt)


def is_compatible(declared: SchemaRange, marker: SchemaMarker) -> bool:
    """Whether a version with this range reads and writes the table as it is."""
    # A table is right for all schemas up to its next migration: those between are of other tables.
    valid = definitions.validity(marker.table.variable, marker.version)
    return declared.low <= valid.high and valid.low <= declared.high


def _incompatible(target: Target, version: str, declared: SchemaRange, marker: SchemaMarker) -> Refused:
    # Which way depends on who is behind: the table of the version, or the version of the table.
    step = "run the rollback of its migration first"
    if declared.low > marker.version:
        step = "run its migration first (expand, backfill, verify)"
    return Refused(
        "schema-incompatible",
        f"v{version} of {target.settings.function} is compatible with schema {declared}, but {marker}.",
        next=f"Open operations/migrate_database and {step}, then run this again. Or deploy a build that is compatible "
        f"with schema {marker.version} with strategies/canary.",
    )
