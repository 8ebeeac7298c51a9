"""DynamoDB tables: read in parallel segments, write on condition, restore to a second.

Items are DynamoDB's own JSON. Each write is on condition that the item is as it was read, so that no write of another
user is lost.
"""

import hashlib
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AlreadyExists, AwsFailed, BuddyError, NotFound, Refused, Throttled, Unreachable
from buddy_ops.core.progress import Progress, no_progress

Item = Mapping[str, Mapping[str, Any]]
"""An item as DynamoDB writes it: {"at": {"S": "08:00"}}."""

Identity = tuple[tuple[str, object], ...]
"""An item's key as something to look up by: (("S", "ann"), ("S", "reminder-1"))."""

if TYPE_CHECKING:
    from types_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

T = TypeVar("T")

SEGMENTS = 8
"""Parts of a table that are read and written at the same time."""

PAGE_ITEMS = 1000
A_TRANSACTION = 100
A_GET = 100
"""How many items DynamoDB accepts in one call. Source: API reference, TransactWriteItems, BatchGetItem."""

RESTORE_POLL = timedelta(seconds=15)
RESTORE_LIMIT = timedelta(hours=8)
SETS = ("SS", "NS", "BS")
"""DynamoDB's types of sets, whose members have no sequence."""

ATTEMPTS = 8
"""How often a call is sent while DynamoDB throttles: the last one about 11 s after the first."""


@dataclass(frozen=True)
class Page:
    """Some items of one segment. ``next`` is where the segment goes on, None at its end."""

    segment: int
    items: tuple[Item, ...] = field(repr=False)
    next: Item | None


@dataclass(frozen=True)
class Change:
    """One item as it was seen and as it must be; None: no item. Its values are personal data, and never shown."""

    expected: Item | None = field(repr=False)
    desired: Item | None = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """A table beside an older copy of it.

    Attributes:
        items: how many items it has now, and ``before`` how many the copy has.
        checksum: of all its items: it changes with any of them, and not with their order.
        pairs: what differs, as (now, before); None where there is no such item.
        notes: how many items of the table got each note, and ``notes_before`` of the copy.
    """

    items: int
    before: int
    checksum: int
    pairs: tuple[tuple[Item | None, Item | None], ...] = field(repr=False)
    notes: Mapping[str, int]
    notes_before: Mapping[str, int]


class _ScannedItem(NamedTuple):
    """What of an item is compared."""

    key: Identity
    digest: bytes
    notes: tuple[str, ...]
    item: Item


def restorable_window(target: Target, table: str) -> tuple[datetime, datetime]:
    """From when to when a table can be restored. AWS: dynamodb:DescribeContinuousBackups, reads only.

    Raises:
        Refused: ``table-unrecoverable``.
    """
    told = target.client("dynamodb").describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    window = told.get("PointInTimeRecoveryDescription", {})
    if window.get("PointInTimeRecoveryStatus") != "ENABLED":
        raise Refused(
            "table-unrecoverable",
            f"{table} has no point-in-time recovery, so earlier values of its items are not kept.",
            next="Find a backup (`aws dynamodb list-backups`), and enable point-in-time recovery.",
        )
    return window["EarliestRestorableDateTime"].astimezone(UTC), window["LatestRestorableDateTime"].astimezone(UTC)


def restore_copy(target: Target, table: str, at: datetime, name: str, watch: Progress = no_progress) -> None:
    """A copy of a table as it was at a second, under another name; waits until it can be read.

    One that exists already is used if it is of this table and this second, so that running again goes on.

    AWS: dynamodb:RestoreTableToPointInTime (writes), DescribeTable, DescribeContinuousBackups.

    Raises:
        BuddyError: ``restore-collides``: another table has the name; ``restore-unfinished``.
    """
    watch = target.side.watch(watch)
    deadline = target.clock.now() + RESTORE_LIMIT
    while restorable_window(target, table)[1] < at:
        # The last minutes cannot be restored yet.
        watch(f"waiting until {at:%H:%M:%S} UTC can be restored")
        target.clock.sleep_until(target.clock.now() + RESTORE_POLL)
    _begin_restore(target, table, at, name)
    # botocore's waiter (table_exists) gives up after 8 min, and sleeps in real time where the sandbox's is virtual.
    began = target.clock.now()
    while target.clock.now() < deadline:
        told = target.client("dynamodb").describe_table(TableName=name)["Table"]
        if told["TableStatus"] == "ACTIVE":
            watch(f"{name} is restored, after {(target.clock.now() - began) / timedelta(minutes=1):.0f} minutes")
            return
        watch(f"{name} is {told['TableStatus']} for {(target.clock.now() - began) / timedelta(minutes=1):.0f} minutes")
        target.clock.sleep_until(target.clock.now() + RESTORE_POLL)
    raise BuddyError(
        "restore-unfinished",
        f"{name} is not ACTIVE after {RESTORE_LIMIT / timedelta(hours=1):g} hours.",
        now=f"{table} was not changed. The restore continues in AWS.",
        next="Run the same command again: it waits for the same copy.",
    )


def _begin_restore(target: Target, table: str, at: datetime, name: str) -> None:
    if is_copy(target, table, at, name):
        return
    try:
        target.client("dynamodb").restore_table_to_point_in_time(
            SourceTableName=table, TargetTableName=name, RestoreDateTime=at
        )
    except (AlreadyExists, Unreachable):
        # The restore may have begun without an answer, and then the SDK's own retry fails.
        if not is_copy(target, table, at, name):
            raise


def is_copy(target: Target, table: str, at: datetime, name: str) -> bool:
    """Whether our copy exists. Raises BuddyError ``restore-collides`` if something else has its name."""
    try:
        told = target.client("dynamodb").describe_table(TableName=name)["Table"]
    except NotFound:
        return False
    summary = told.get("RestoreSummary", {})
    if str(summary.get("SourceTableArn", "")).endswith(f":table/{table}") and summary["RestoreDateTime"] == at:
        return True
    raise BuddyError(
        "restore-collides",
        f"A table {name} exists already, and it is not a copy of {table} as of {at:%Y-%m-%d %H:%M:%S} UTC.",
        next="Delete or rename it if it is not needed, or choose another time (parameter onset).",
    )


def compare_tables(
    target: Target,
    table: str,
    copy: str,
    key: Sequence[str],
    note: Callable[[Item], Iterable[str]] = lambda item: (),
    watch: Progress = no_progress,
    counts: Callable[[Item], bool] = lambda item: True,
) -> Comparison:
    """What differs between a table and its copy; of each item that does not, 16 bytes are held.

    Args:
        note: words about one item, which are counted for either table.
        counts: whether something is one of the table's items at all.

    AWS: dynamodb:Scan, BatchGetItem, consistent, read only.
    """
    watch = target.side.watch(watch)

    def read(page: Page) -> list[_ScannedItem]:
        return [
            _ScannedItem(item_key(item, key), item_digest(item), tuple(note(item)), item)
            for item in page.items
            if counts(item)
        ]

    digests: dict[Identity, bytes] = {}
    notes_before: Counter[str] = Counter()
    for _, scanned in parallel_scan(target, copy, read):
        for old in scanned:
            digests[old.key] = old.digest
            notes_before.update(old.notes)
        watch(f"{len(digests):,} items of the copy read")
    before = len(digests)
    items = 0
    checksum = 0
    notes: Counter[str] = Counter()
    changed: dict[Identity, Item] = {}
    for _, scanned in parallel_scan(target, table, read):
        for new in scanned:
            items += 1
            checksum ^= int.from_bytes(new.digest)
            notes.update(new.notes)
            if digests.get(new.key) == new.digest:
                # What is left in the end was changed or deleted.
                del digests[new.key]
            else:
                changed[new.key] = new.item
        watch(f"{items:,} items compared, {len(changed):,} differ")
    wanted = [dict(zip(key, ({kind: value} for kind, value in values), strict=True)) for values in digests]
    copies = {item_key(item, key): item for item in get_item(target, copy, wanted)}
    pairs: list[tuple[Item | None, Item | None]] = [(item, copies.get(values)) for values, item in changed.items()]
    pairs += [(None, copies.get(values)) for values in digests if values not in changed]
    return Comparison(
        items=items, before=before, checksum=checksum, pairs=tuple(pairs), notes=notes, notes_before=notes_before
    )


def parallel_scan(
    target: Target,
    table: str,
    work: Callable[[Page], T],
    *,
    segments: int = SEGMENTS,
    resume: Mapping[int, Item | None] | None = None,
) -> Iterator[tuple[Page, T]]:
    """Read a whole table in parallel segments and do ``work`` with each page, in several threads.

    Args:
        work: called with each page in the thread that read it; what it gives is yielded beside the page.
        segments: into how many the table is divided; the same number again, to resume.
        resume: where to begin, by segment: each page's ``next``, as far as a run before this one had come. Segments
            that are not in it are done.

    AWS: dynamodb:Scan, consistent, reads only (``work`` may write).

    Raises:
        AwsFailed: what the scan or ``work`` raised; pages that were yielded are done.
    """

    scan = target.client("dynamodb").scan

    def step(segment: int, start: Item | None) -> tuple[Page, T]:
        where: dict[str, object] = {"Segment": segment, "TotalSegments": segments, "Limit": PAGE_ITEMS}
        if start:
            where["ExclusiveStartKey"] = start
        reply = call_with_retries(target, scan, TableName=table, ConsistentRead=True, **where)
        page = Page(segment, tuple(reply["Items"]), reply.get("LastEvaluatedKey"))
        return page, work(page)

    begin: Mapping[int, Item | None] = dict.fromkeys(range(segments))
    if resume is not None:
        begin = resume
    with ThreadPoolExecutor(SEGMENTS) as pool:
        running: set[Future[tuple[Page, T]]] = {pool.submit(step, *start) for start in begin.items()}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                page, made = future.result()
                if page.next is not None:
                    running.add(pool.submit(step, page.segment, page.next))
                yield page, made


def write_item(
    target: Target, table: str, key: Sequence[str], changes: Iterable[Change]
) -> Iterator[tuple[Change, ...]]:
    """Make changes in parallel, a hundred a call; after each call the changes that gave way to another write.

    A change that has been made already counts as made, so that running again after a kill is safe.

    AWS: dynamodb:TransactWriteItems, writes; every item on the condition that it is exactly what was seen.
    """
    with ThreadPoolExecutor(SEGMENTS) as pool:
        write = partial(write_batch, target, table, key)
        running = {pool.submit(write, batch) for batch in _batches(changes, A_TRANSACTION)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def write_batch(target: Target, table: str, key: Sequence[str], changes: Sequence[Change]) -> tuple[Change, ...]:
    """Make up to a hundred changes in this thread; gives those that gave way. AWS: as ``write_item``."""
    left = list(changes)
    gave_way: list[Change] = []
    for attempt in range(ATTEMPTS):
        if not left:
            break
        try:
            request = [_request(table, key, change) for change in left]
            target.client("dynamodb").transact_write_items(TransactItems=request)
            break
        except AwsFailed as failure:
            reasons = _reasons(failure)
            if (not reasons and not isinstance(failure, Throttled)) or attempt == ATTEMPTS - 1:
                raise
        # A transaction is written as a whole or not at all: the others are sent again.
        found = {
            at: reason.get("Item")
            for at, reason in enumerate(reasons)
            if reason.get("Code") == "ConditionalCheckFailed"
        }
        gave_way += [left[at] for at, item in found.items() if item != left[at].desired]
        left = [change for at, change in enumerate(left) if at not in found]
        if not found:
            _back_off(target, attempt)
    return tuple(gave_way)


def get_item(target: Target, table: str, keys: Iterable[Item]) -> Iterator[Item]:
    """The items under keys, those that exist, in no particular sequence.

    AWS: dynamodb:BatchGetItem, consistent, reads only.
    """

    def read(batch: Sequence[Item]) -> list[Item]:
        found: list[Item] = []
        asked: Any = {table: {"Keys": list(batch), "ConsistentRead": True}}
        for attempt in range(ATTEMPTS):
            reply = call_with_retries(target, target.client("dynamodb").batch_get_item, RequestItems=asked)
            found += reply["Responses"].get(table, [])
            asked = reply.get("UnprocessedKeys")
            if not asked:
                break
            _back_off(target, attempt)
        return found

    with ThreadPoolExecutor(SEGMENTS) as pool:
        for found in pool.map(read, _batches(keys, A_GET)):
            yield from found


def call_with_retries(target: Target, operation: Callable[..., T], **parameters: object) -> T:
    """Call a method of the DynamoDB client, and again, later, while DynamoDB throttles."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return operation(**parameters)
        except Throttled:
            _back_off(target, attempt)
    return operation(**parameters)


def key_attributes(item: Item, key: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """An item's key, as DynamoDB requires it."""
    return {name: item[name] for name in key}


def item_key(item: Item, key: Sequence[str]) -> Identity:
    """An item's key as something to look up by."""
    return tuple(next(iter(item[name].items())) for name in key)


def item_digest(item: Item) -> bytes:
    """16 bytes that are the same for the same item, whatever the order of its attributes and of its sets."""
    return hashlib.sha256(json.dumps(_canonical(item), sort_keys=True).encode()).digest()[:16]


def _canonical(value: object) -> object:
    """A value as JSON that is the same whatever the order of sets, which DynamoDB does not keep."""
    if isinstance(value, Mapping):
        # A map may have an attribute with a set's name, which is a mapping and no list.
        return {
            name: _canonical(sorted(inner) if name in SETS and isinstance(inner, list) else inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value


def _batches(values: Iterable[T], most: int) -> Iterator[tuple[T, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    rest = iter(values)
    while batch := tuple(islice(rest, most)):
        yield batch


def _request(table: str, key: Sequence[str], change: Change) -> "TransactWriteItemTypeDef":
    """One write of a transaction, on the condition that every attribute is what was seen.

    Of an item that stays only what differs is written: an attribute that another writer adds meanwhile stays, too.
    """
    seen = change.expected or {}
    to = change.desired or {}
    names = {name: f"#n{at}" for at, name in enumerate(sorted({*seen, *to}))}
    said = [f"{names[name]} = :v{at}" for at, name in enumerate(sorted(seen))]
    said += [f"attribute_not_exists({names[name]})" for name in sorted(to) if name not in seen]
    values = {f":v{at}": seen[name] for at, name in enumerate(sorted(seen))}
    guarded: Any = {
        "TableName": table,
        "ConditionExpression": " AND ".join(said),
        "ExpressionAttributeNames": {short: name for name, short in names.items()},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if change.expected is None:
        guarded["Item"] = to
        return {"Put": guarded}
    guarded |= {"Key": key_attributes(seen, key), "ExpressionAttributeValues": values}
    if change.desired is None:
        return {"Delete": guarded}
    put = [name for name in sorted(to) if to[name] != seen.get(name)]
    values |= {f":w{at}": to[name] for at, name in enumerate(put)}
    parts = []
    if put:
        parts.append("SET " + ", ".join(f"{names[name]} = :w{at}" for at, name in enumerate(put)))
    gone = [names[name] for name in sorted(seen) if name not in to]
    if gone:
        parts.append("REMOVE " + ", ".join(gone))
    guarded["UpdateExpression"] = " ".join(parts)
    return {"Update": guarded}


def _reasons(failure: AwsFailed) -> list[dict[str, Any]]:
    # The SDK's own transport errors carry a response, too: None.
    response = getattr(failure.__cause__, "response", None) or {}
    return list(response.get("CancellationReasons", []))


def _back_off(target: Target, attempt: int) -> None:
    target.clock.sleep_until(target.clock.now() + timedelta(seconds=min(0.1 * 2**attempt, 5.0)))
