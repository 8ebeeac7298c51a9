"""DynamoDB tables: read in parallel segments, write on condition, restore to a second.

Items are DynamoDB's own JSON. Each write is on condition that the item is as it was read, so that no write of another
user is lost.
"""

import hashlib
import json
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from buddy_ops.aws.errors import incomplete_reply
from buddy_ops.aws.item_writes import Change, DoesNotFit, Item, batches, request_of, transactions
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AlreadyExists, AwsFailed, BuddyError, NotFound, Refused, Throttled, Unreachable
from buddy_ops.core.front_end import parameter
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import duration

if TYPE_CHECKING:
    from types_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

Identity = tuple[tuple[str, object], ...]
"""An item's key as something to look up by: (("S", "ann"), ("S", "order-1"))."""

T = TypeVar("T")

SEGMENTS = 8
"""Parts of a table that are read and written at the same time."""

PAGE_ITEMS = 1000
A_GET = 100
"""How many items DynamoDB accepts in one call. Source: API reference, BatchGetItem."""

RESTORE_POLL = timedelta(seconds=15)
RESTORE_LIMIT = timedelta(hours=8)
SETS = ("SS", "NS", "BS")
"""DynamoDB's types of sets, whose members have no sequence."""

PATIENCE = timedelta(minutes=10)
"""For how long a call is sent again while DynamoDB throttles it."""

LONGEST_PAUSE_S = 30.0
"""How far apart the last of these attempts are: the SDK itself tries several times in each."""

TOLD_AFTER = timedelta(seconds=5)
"""Throttling that lasts longer is reported as progress."""

CONFLICT_ATTEMPTS = 8
"""How often a transaction is sent while another one holds an item: the last time about 11 s after the first."""

NOT_TAKEN = ("ValidationException", "RequestEntityTooLargeException", "invalid")
"""AWS's codes, and ours, for a request that is wrong in itself: sending it again does not help."""


@dataclass(frozen=True)
class Page:
    """Some items of one segment. ``next`` is where the segment goes on, None at its end."""

    segment: int
    items: tuple[Item, ...] = field(repr=False)
    next: Item | None


class RefusedChange(NamedTuple):
    """A change that DynamoDB does not take, whatever is tried, and why: it is left as it is."""

    change: Change
    reason: str


@dataclass(frozen=True)
class Written:
    """What became of some changes.

    Attributes:
        changes: how many there were.
        conflicts: those that gave way: another writer changed the item since it was seen.
        refused: those that DynamoDB does not take. All others are made.
    """

    changes: int
    conflicts: tuple[Change, ...] = ()
    refused: tuple[RefusedChange, ...] = ()

    def __add__(self, other: "Written") -> "Written":
        return Written(
            self.changes + other.changes,
            self.conflicts + other.conflicts,
            self.refused + other.refused,
        )

    @property
    def made(self) -> int:
        """How many were made, now or before."""
        return self.changes - len(self.conflicts) - len(self.refused)


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
    describe = target.client("dynamodb").describe_continuous_backups
    told = call_with_retries(target, describe, what=table, TableName=table)["ContinuousBackupsDescription"]
    window = told["PointInTimeRecoveryDescription"]
    if window["PointInTimeRecoveryStatus"] != "ENABLED":
        raise Refused(
            "table-unrecoverable",
            f"{table} has no point-in-time recovery, so earlier values of its items are not kept.",
            next=f"Find a backup (`aws dynamodb list-backups --table-name {table}`), correct the items manually, and "
            "enable point-in-time recovery.",
        )
    # Only an enabled recovery has a window.
    if "EarliestRestorableDateTime" not in window or "LatestRestorableDateTime" not in window:
        what = "a reply that is cut, or not from AWS (an enabled recovery without its times)"
        raise incomplete_reply(what, "dynamodb:describe_continuous_backups", target.region)
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
        # DynamoDB's latest restorable time is about 5 minutes ago. Source: developer guide, point-in-time recovery.
        watch(f"waiting until {at:%H:%M:%S} UTC can be restored")
        target.clock.sleep_until(target.clock.now() + RESTORE_POLL)
    _begin_restore(target, table, at, name)
    # botocore's waiter (table_exists) gives up after 8 min, and sleeps in real time where the sandbox's is virtual.
    began = target.clock.now()
    describe = target.client("dynamodb").describe_table
    while target.clock.now() < deadline:
        told = call_with_retries(target, describe, watch=watch, what=name, TableName=name)["Table"]
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
        call_with_retries(
            target,
            target.client("dynamodb").restore_table_to_point_in_time,
            what=table,
            SourceTableName=table,
            TargetTableName=name,
            RestoreDateTime=at,
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
        next=f"Delete or rename it if it is not needed, or choose another time ({parameter('onset')}).",
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

    # First the copy: a digest of each item, not the item.
    digests: dict[Identity, bytes] = {}
    notes_before: Counter[str] = Counter()
    for _, scanned in parallel_scan(target, copy, read, watch=watch):
        for old in scanned:
            digests[old.key] = old.digest
            notes_before.update(old.notes)
        watch(f"{len(digests):,} items of the copy read")
    before = len(digests)
    # Then the table as it is now.
    items = 0
    checksum = 0
    notes: Counter[str] = Counter()
    changed: dict[Identity, Item] = {}
    for _, scanned in parallel_scan(target, table, read, watch=watch):
        for new in scanned:
            items += 1
            # Exclusive or: segments arrive in any sequence.
            checksum ^= int.from_bytes(new.digest)
            notes.update(new.notes)
            if digests.get(new.key) == new.digest:
                # What is left in the end was changed or deleted.
                del digests[new.key]
            else:
                changed[new.key] = new.item
        watch(f"{items:,} items compared, {len(changed):,} differ")
    # Of the copy only the items that differ are read once more, whole.
    wanted = [dict(zip(key, ({kind: value} for kind, value in values), strict=True)) for values in digests]
    copies = {item_key(item, key): item for item in get_item(target, copy, wanted, watch)}
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
    watch: Progress = no_progress,
) -> Iterator[tuple[Page, T]]:
    """Read a whole table in parallel segments and do ``work`` with each page, in several threads.

    Args:
        work: called with each page in the thread that read it; what it gives is yielded beside the page.
        segments: into how many the table is divided; the same number again, to resume.
        resume: where to begin, by segment: each page's ``next``, as far as a run before this one had come. Segments
            that are not in it are done.
        watch: called while DynamoDB throttles.

    AWS: dynamodb:Scan, consistent, reads only (``work`` may write).

    Raises:
        AwsFailed: what the scan or ``work`` raised; pages that were yielded are done.
    """

    scan = target.client("dynamodb").scan

    def step(segment: int, start: Item | None) -> tuple[Page, T]:
        where: dict[str, object] = {"Segment": segment, "TotalSegments": segments, "Limit": PAGE_ITEMS}
        if start:
            where["ExclusiveStartKey"] = start
        reply = call_with_retries(target, scan, watch=watch, what=table, TableName=table, ConsistentRead=True, **where)
        page = Page(segment, tuple(reply["Items"]), reply.get("LastEvaluatedKey"))
        return page, work(page)

    begin: Mapping[int, Item | None] = dict.fromkeys(range(segments))
    if resume is not None:
        begin = resume
    with ThreadPoolExecutor(SEGMENTS) as pool:
        # A segment's next page is asked for when its last one is done, so each is read in sequence.
        running: set[Future[tuple[Page, T]]] = {pool.submit(step, *start) for start in begin.items()}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                page, made = future.result()
                if page.next is not None:
                    running.add(pool.submit(step, page.segment, page.next))
                yield page, made


def write_item(
    target: Target,
    table: str,
    key: Sequence[str],
    changes: Iterable[Change],
    *,
    first: Sequence[str] = (),
    watch: Progress = no_progress,
) -> Iterator[Written]:
    """Make changes in parallel, as many a call as DynamoDB takes; after each call what became of its changes.

    A change that has been made already counts as made, so that running again after a kill is safe. One that DynamoDB
    does not take (an item over 400 KB) keeps no other from being made.

    Args:
        first: attributes that are compared first, where an item has more than a condition holds.
        watch: called while DynamoDB throttles.

    AWS: dynamodb:TransactWriteItems, writes; every item on the condition that it is exactly what was seen.

    Raises:
        AwsFailed: what is not about one item, for example a missing permission, or throttling beyond ``PATIENCE``.
    """
    with ThreadPoolExecutor(SEGMENTS) as pool:
        write = partial(_write_transaction, target, table, key, first=first, watch=watch)
        running = {pool.submit(write, batch) for batch in transactions(changes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def write_batch(
    target: Target,
    table: str,
    key: Sequence[str],
    changes: Iterable[Change],
    *,
    first: Sequence[str] = (),
    watch: Progress = no_progress,
) -> Written:
    """Make changes in this thread; what became of them. AWS, Raises: as ``write_item``."""
    total = Written(0)
    for batch in transactions(changes):
        total += _write_transaction(target, table, key, batch, first=first, watch=watch)
    return total


def _write_transaction(
    target: Target, table: str, key: Sequence[str], changes: Sequence[Change], *, first: Sequence[str], watch: Progress
) -> Written:
    """Make the changes of one transaction; one that DynamoDB does not take is found, and the others are made."""
    left: list[Change] = []
    requests: list[TransactWriteItemTypeDef] = []
    refused: list[RefusedChange] = []
    conflicts: list[Change] = []
    for change in changes:
        try:
            requests.append(request_of(table, key, change, first))
            left.append(change)
        except DoesNotFit as error:
            refused.append(RefusedChange(change, str(error)))
    throttling = _Throttling(target, table, watch)
    held = 0
    while left:
        try:
            target.client("dynamodb").transact_write_items(TransactItems=requests)
            break
        except AwsFailed as failure:
            # A transaction that was cancelled has a reason for each item, in their order; other refusals have none.
            reasons = _reasons(failure)
            if not reasons and failure.code in NOT_TAKEN:
                if len(left) == 1:
                    refused.append(RefusedChange(left[0], _why(failure)))
                    break
                # It does not say which of them is wrong.
                half = len(left) // 2
                parts = (left[:half], left[half:])
                written = [_write_transaction(target, table, key, part, first=first, watch=watch) for part in parts]
                total = Written(len(changes) - len(left), tuple(conflicts), tuple(refused))
                return sum(written, start=total)
            if not reasons and not isinstance(failure, Throttled):
                raise
            # A transaction is written as a whole or not at all: the others are sent again.
            settled: set[int] = set()
            for at, reason in enumerate(reasons):
                code = str(reason.get("Code"))
                if code == "ConditionalCheckFailed":
                    settled.add(at)
                    # As it is to be already: the answer to an earlier attempt was lost.
                    if reason.get("Item") != left[at].desired:
                        conflicts.append(left[at])
                elif code in ("ValidationError", "ItemCollectionSizeLimitExceeded"):
                    settled.add(at)
                    refused.append(RefusedChange(left[at], str(reason.get("Message") or code)))
                elif code == "TransactionConflict" and held >= CONFLICT_ATTEMPTS:
                    settled.add(at)
                    conflicts.append(left[at])
            if reasons and not settled and not _is_busy(reasons):
                raise
            left = [change for at, change in enumerate(left) if at not in settled]
            requests = [request for at, request in enumerate(requests) if at not in settled]
            if not settled:
                throttling.wait(failure)
                # Another transaction has the same item, and lets go of it soon; after some attempts it is a conflict.
                held += any(reason.get("Code") == "TransactionConflict" for reason in reasons)
    return Written(len(changes), tuple(conflicts), tuple(refused))


def get_item(target: Target, table: str, keys: Iterable[Item], watch: Progress = no_progress) -> Iterator[Item]:
    """The items under keys, those that exist, in no particular sequence.

    AWS: dynamodb:BatchGetItem, consistent, reads only.

    Raises:
        AwsFailed: also where DynamoDB throttles for longer than ``PATIENCE``: no key is passed over.
    """

    def read(batch: Sequence[Item]) -> list[Item]:
        found: list[Item] = []
        asked: Any = {table: {"Keys": list(batch), "ConsistentRead": True}}
        throttling = _Throttling(target, table, watch)
        while asked:
            reply = call_with_retries(
                target, target.client("dynamodb").batch_get_item, watch=watch, what=table, RequestItems=asked
            )
            some = reply["Responses"].get(table, [])
            found += some
            asked = reply.get("UnprocessedKeys")
            if some:
                # A reply holds 16 MB at most: more of them is progress, not throttling.
                throttling = _Throttling(target, table, watch)
            elif asked:
                throttling.wait(_unprocessed(target, table))
        return found

    with ThreadPoolExecutor(SEGMENTS) as pool:
        for found in pool.map(read, batches(keys, A_GET)):
            yield from found


def call_with_retries(
    target: Target, operation: Callable[..., T], *, watch: Progress = no_progress, what: str = "", **parameters: object
) -> T:
    """Call a method of the DynamoDB client, and again, later, while DynamoDB throttles, for ``PATIENCE`` at most.

    Args:
        watch: called while it throttles; ``what`` names the table.
    """
    throttling = _Throttling(target, what, watch)
    while True:
        try:
            return operation(**parameters)
        except Throttled as failure:
            throttling.wait(failure)


_TELLING = Lock()
"""Several threads wait, and one at a time reports it."""


class _Throttling:
    """Waits between the attempts of one call while DynamoDB throttles it, and gives up after ``PATIENCE``."""

    def __init__(self, target: Target, table: str, watch: Progress) -> None:
        self._target = target
        self._table = table or "the table"
        self._watch = watch
        self._began: datetime | None = None
        self._attempt = 0

    def wait(self, failure: AwsFailed) -> None:
        """Wait, longer each time. Raises ``failure`` at the end of the patience."""
        now = self._target.clock.now()
        self._began = self._began or now
        until = self._began + PATIENCE
        if now >= until:
            failure.now = (
                f"DynamoDB throttled {self._table} for {duration(PATIENCE)}. What was done until then is done."
            )
            failure.next = (
                f"Raise the capacity of {self._table}, or wait until its traffic is lower. Then run the same command "
                "again: it continues."
            )
            raise failure
        if now - self._began >= TOLD_AFTER:
            with _TELLING:
                self._watch(f"DynamoDB throttles {self._table}: slowing down, at most until {until:%H:%M:%S} UTC")
        pause = timedelta(seconds=min(0.1 * 2**self._attempt, LONGEST_PAUSE_S))
        self._attempt += 1
        self._target.clock.sleep_until(min(now + pause, until))


def key_attributes(item: Item, key: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """An item's key, as DynamoDB requires it."""
    return {name: item[name] for name in key}


def item_key(item: Item, key: Sequence[str]) -> Identity:
    """An item's key as something to look up by."""
    return tuple(next(iter(item[name].items())) for name in key)


def item_name(item: Item, key: Sequence[str]) -> str:
    """An item's key as one text, for people: 'ann/order-1'. Two keys never have the same.

    A "/" within a part is %2F, and a "%" is %25. Bytes are base64 in the alphabet for URLs.
    """
    return "/".join(_name_part(value) for _, value in item_key(item, key))


def _name_part(value: object) -> str:
    if isinstance(value, bytes):
        return urlsafe_b64encode(value).decode()
    return str(value).replace("%", "%25").replace("/", "%2F")


def item_digest(item: Item) -> bytes:
    """16 bytes that are the same for the same item, whatever the order of its attributes and of its sets."""
    # 16 bytes: a million items take 16 MB, and that two of them collide is out of the question.
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


def _reasons(failure: AwsFailed) -> list[dict[str, Any]]:
    # The SDK's own transport errors carry a response, too: None.
    response = getattr(failure.__cause__, "response", None) or {}
    return list(response.get("CancellationReasons", []))


def _is_busy(reasons: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a transaction was cancelled by throttling or by another transaction: it may work later."""
    codes = {reason.get("Code") for reason in reasons}
    return bool(codes & {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})


def _why(failure: AwsFailed) -> str:
    """AWS's own words for why it does not take one item."""
    error = (getattr(failure.__cause__, "response", None) or {}).get("Error", {})
    return str(error.get("Message") or failure.what)


def _unprocessed(target: Target, table: str) -> Throttled:
    """The error of a read of which DynamoDB gave nothing."""
    return Throttled(
        "aws-unavailable",
        f"dynamodb:batch_get_item of {table} in {target.region} read no item: the table is throttled.",
        next="Run the same command again.",
        code="UnprocessedKeys",
    )
