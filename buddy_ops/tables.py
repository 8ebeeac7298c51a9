"""DynamoDB tables by the thousand items: read in parallel segments, written on condition, restored to a second.

Knows items as DynamoDB's own JSON, and that nobody else's write may be lost: each of ours says what it saw, and gives
way. Never knows what is wrong with an item: ``recovery`` and ``migrations`` do.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

from buddy_ops.errors import AwsFailed
from buddy_ops.target import Target

Item = Mapping[str, Mapping[str, Any]]
"""An item as DynamoDB writes it: {"at": {"S": "08:00"}}."""

T = TypeVar("T")
SEGMENTS = 8
"""Parts of a table that are read and written at the same time."""

PAGE_ITEMS = 1000
A_TRANSACTION = 100
A_GET = 100
"""How many items DynamoDB takes in one call. Source: API reference, TransactWriteItems, BatchGetItem."""

SETS = ("SS", "NS", "BS")
ATTEMPTS = 8
BUSY = frozenset(
    {
        *("TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "TransactionInProgressException"),
        *("ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"),
    }
)
"""DynamoDB's words for 'again, later'."""


@dataclass(frozen=True)
class Page:
    """Some items of one segment. ``next`` is where the segment goes on, None at its end."""

    segment: int
    items: tuple[Item, ...]
    next: Mapping[str, Any] | None


@dataclass(frozen=True)
class Change:
    """One item as it was seen and as it shall be; None stands for no item."""

    seen: Item | None
    to: Item | None


def sweep(
    target: Target,
    table: str,
    work: Callable[[Page], T],
    *,
    segments: int = SEGMENTS,
    resume: Mapping[int, Mapping[str, Any] | None] | None = None,
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

    def step(segment: int, start: Mapping[str, Any] | None) -> tuple[Page, T]:
        where = {"Segment": segment, "TotalSegments": segments, "Limit": PAGE_ITEMS}
        more = {"ExclusiveStartKey": start} if start else {}
        reply = insist(target, "scan", TableName=table, ConsistentRead=True, **where, **more)
        page = Page(segment, tuple(reply["Items"]), reply.get("LastEvaluatedKey"))
        return page, work(page)

    begin = dict.fromkeys(range(segments)) if resume is None else dict(resume)
    with ThreadPoolExecutor(SEGMENTS) as pool:
        running: set[Future[tuple[Page, T]]] = {pool.submit(step, *each) for each in begin.items()}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                page, made = each.result()
                if page.next is not None:
                    running.add(pool.submit(step, page.segment, page.next))
                yield page, made


def write(target: Target, table: str, key: Sequence[str], changes: Iterable[Change]) -> Iterator[tuple[Change, ...]]:
    """Make changes in parallel, a hundred a call; after each call the changes that gave way to somebody else's write.

    A change that has been made already counts as made, so that running again after a kill is safe.

    AWS: dynamodb:TransactWriteItems, writes; every item on the condition that it is exactly what was seen.
    """
    with ThreadPoolExecutor(SEGMENTS) as pool:
        batches = _batches(changes, A_TRANSACTION)
        running = {pool.submit(write_batch, target, table, key, batch) for batch in batches}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                yield each.result()


def write_batch(target: Target, table: str, key: Sequence[str], changes: Sequence[Change]) -> tuple[Change, ...]:
    """Make up to a hundred changes in this thread; gives those that gave way. AWS: as ``write``."""
    left, gave_way = list(changes), []
    for attempt in range(ATTEMPTS):
        if not left:
            break
        try:
            request = [_request(table, key, change) for change in left]
            target.call("dynamodb", "transact_write_items", TransactItems=request)
            left = []
        except AwsFailed as failure:
            reasons = _reasons(failure)
            if (not reasons and failure.code not in BUSY) or attempt == ATTEMPTS - 1:
                raise
            other = [reason.get("Code") == "ConditionalCheckFailed" for reason in reasons] or [False] * len(left)
            found = [reason.get("Item") for reason in reasons] or [None] * len(left)
            judged = list(zip(left, other, found, strict=True))
            gave_way += [each for each, is_other, item in judged if is_other and item != each.to]
            left = [each for each, is_other, _ in judged if not is_other]
            if not any(other):
                _back_off(target, attempt)
    return tuple(gave_way)


def get(target: Target, table: str, keys: Iterable[Mapping[str, Any]]) -> Iterator[Item]:
    """The items under keys, those that are there, in any order. AWS: dynamodb:BatchGetItem, consistent, reads only."""

    def some(batch: Sequence[Mapping[str, Any]]) -> list[Item]:
        found: list[Item] = []
        asked: Any = {table: {"Keys": list(batch), "ConsistentRead": True}}
        for attempt in range(ATTEMPTS):
            reply = insist(target, "batch_get_item", RequestItems=asked)
            found += reply["Responses"].get(table, [])
            asked = reply.get("UnprocessedKeys")
            if not asked:
                break
            _back_off(target, attempt)
        return found

    with ThreadPoolExecutor(SEGMENTS) as pool:
        for found in pool.map(some, _batches(keys, A_GET)):
            yield from found


def insist(target: Target, operation: str, **parameters: Any) -> dict[str, Any]:
    """A call that is made again, later, while DynamoDB is throttled. AWS: dynamodb, as ``operation`` says."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return target.call("dynamodb", operation, **parameters)
        except AwsFailed as failure:
            if failure.code not in BUSY:
                raise
        _back_off(target, attempt)
    return target.call("dynamodb", operation, **parameters)


def key_of(item: Item, key: Sequence[str]) -> dict[str, Any]:
    """An item's key, as DynamoDB wants it."""
    return {name: item[name] for name in key}


def digest(item: Item) -> bytes:
    """16 bytes that are the same for the same item, whatever the order of its attributes and of its sets."""
    return hashlib.sha256(json.dumps(_canonical(item), sort_keys=True).encode()).digest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _canonical(sorted(each) if name in SETS and isinstance(each, list) else each)
                for name, each in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    return b64encode(value).decode() if isinstance(value, bytes) else value


def _batches(each: Iterable[T], most: int) -> Iterator[tuple[T, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    rest = iter(each)
    while batch := tuple(islice(rest, most)):
        yield batch


def _request(table: str, key: Sequence[str], change: Change) -> dict[str, Any]:
    """One write of a transaction, on the condition that every attribute is what was seen.

    Of an item that stays only what differs is written: an attribute that somebody adds meanwhile stays, too.
    """
    seen, to = change.seen or {}, change.to or {}
    names = {name: f"#n{at}" for at, name in enumerate(sorted({*seen, *to}))}
    said = [f"{names[name]} = :v{at}" for at, name in enumerate(sorted(seen))]
    said += [f"attribute_not_exists({names[name]})" for name in sorted(to) if name not in seen]
    values = {f":v{at}": seen[name] for at, name in enumerate(sorted(seen))}
    guarded: dict[str, Any] = {
        "TableName": table,
        "ConditionExpression": " AND ".join(said),
        "ExpressionAttributeNames": {short: name for name, short in names.items()},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    if change.seen is None:
        return {"Put": {**guarded, "Item": to}}
    guarded |= {"Key": key_of(seen, key), "ExpressionAttributeValues": values}
    if change.to is None:
        return {"Delete": guarded}
    put = [name for name in sorted(to) if to[name] != seen.get(name)]
    values |= {f":w{at}": to[name] for at, name in enumerate(put)}
    parts = ["SET " + ", ".join(f"{names[name]} = :w{at}" for at, name in enumerate(put))] if put else []
    gone = [names[name] for name in sorted(seen) if name not in to]
    parts += ["REMOVE " + ", ".join(gone)] if gone else []
    return {"Update": {**guarded, "UpdateExpression": " ".join(parts)}}


def _reasons(failure: AwsFailed) -> list[dict[str, Any]]:
    return list(getattr(failure.__cause__, "response", {}).get("CancellationReasons", []))


def _back_off(target: Target, attempt: int) -> None:
    target.clock.sleep_until(target.clock.now() + timedelta(seconds=min(0.1 * 2**attempt, 5.0)))
