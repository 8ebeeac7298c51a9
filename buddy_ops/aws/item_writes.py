"""One conditional write of an item as DynamoDB takes it, and which of them fit into one transaction.

DynamoDB limits by bytes and by operators, not by items alone. Source: developer guide, 'Quotas in Amazon DynamoDB'. No
AWS call.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

Item = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")

A_TRANSACTION = 100
"""How many items DynamoDB accepts in one transaction."""

TRANSACTION_BYTES = 4_000_000
"""How many bytes of items; the limit is 4 MB, and what DynamoDB counts of a condition is not documented."""

EXPRESSION_BYTES = 4096
OPERATORS = 300
"""How long an expression may be, and how many operators it may have."""

COMPARISONS = OPERATORS // 2
"""Each comparison of a condition has two operators: its own, and the AND before it."""

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Change:
    """One item as it was seen and as it must be; None: no item. Its values are personal data, and never shown."""

    expected: Item | None = field(repr=False)
    desired: Item | None = field(repr=False)


class DoesNotFit(Exception):
    """A change that no call can carry; its text says why."""


def request_of(table: str, key: Sequence[str], change: Change, first: Sequence[str] = ()) -> "TransactWriteItemTypeDef":
    """One write of a transaction, on the condition that the attributes are what was seen.

    Of an item that stays only what differs is written: an attribute that another writer adds meanwhile stays, too.
    Every attribute is compared, or as many as an expression holds: those that are written, then those in ``first``.

    Raises:
        DoesNotFit: the attributes that must be written are too many.
    """
    seen = change.expected or {}
    to = change.desired or {}
    written = [name for name in sorted({*seen, *to}) if seen.get(name) != to.get(name)]
    # A write of the whole item, and a deletion, touch every attribute, whatever differs.
    whole = change.expected is None or change.desired is None
    foremost = tuple(key) if whole else tuple(written)
    ranked = dict.fromkeys((*foremost, *first, *sorted({*seen, *to})))
    # Attributes get placeholders: #n0 is the first one's name, :n0 its value as seen, :wn0 its value to write.
    names = {name: f"#{_short(at)}" for at, name in enumerate(ranked) if name in seen or name in to}
    compared = _comparisons(names, seen)
    # An attribute that is written without being compared could overwrite another writer's value.
    if not whole and len(compared) < len(written):
        raise DoesNotFit(f"{len(written)} of its attributes change, too many for one call (DynamoDB's 4 KB expression)")
    values = {f":{names[name][1:]}": seen[name] for name in compared if name in seen}
    used = set(compared)
    guarded: Any = {
        "TableName": table,
        "ConditionExpression": " AND ".join(compared.values()),
        # A refusal then brings the item as it is: it may have been written by an attempt without an answer.
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    # No item was seen: each comparison is attribute_not_exists, and has no value.
    if change.expected is None:
        guarded |= {"Item": to, "ExpressionAttributeNames": {names[name]: name for name in used}}
        return {"Put": guarded}
    guarded |= {"Key": {name: seen[name] for name in key}, "ExpressionAttributeValues": values}
    if change.desired is None:
        guarded["ExpressionAttributeNames"] = {names[name]: name for name in used}
        return {"Delete": guarded}
    put = [name for name in written if name in to]
    values |= {f":w{names[name][1:]}": to[name] for name in put}
    parts = []
    if put:
        parts.append("SET " + ", ".join(f"{names[name]} = :w{names[name][1:]}" for name in put))
    gone = [names[name] for name in written if name not in to]
    if gone:
        parts.append("REMOVE " + ", ".join(gone))
    guarded["UpdateExpression"] = " ".join(parts)
    if len(guarded["UpdateExpression"]) > EXPRESSION_BYTES:
        raise DoesNotFit(f"{len(written)} of its attributes change, too many for one call (DynamoDB's 4 KB expression)")
    guarded["ExpressionAttributeNames"] = {names[name]: name for name in used.union(written)}
    return {"Update": guarded}


def _comparisons(names: Mapping[str, str], seen: Item) -> dict[str, str]:
    """The condition's comparisons by attribute, as many as an expression holds."""
    compared: dict[str, str] = {}
    length = 0
    for name, short in names.items():
        text = f"attribute_not_exists({short})"
        if name in seen:
            text = f"{short} = :{short[1:]}"
        length += len(text) + len(" AND ")
        if length > EXPRESSION_BYTES or len(compared) == COMPARISONS:
            break
        compared[name] = text
    return compared


def _short(number: int) -> str:
    """A number as a placeholder's name. Digits of base 36 keep an expression short."""
    text = ""
    while number or not text:
        number, digit = divmod(number, len(DIGITS))
        text = DIGITS[digit] + text
    return f"n{text}"


def batches(values: Iterable[T], most: int) -> Iterator[tuple[T, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    rest = iter(values)
    while batch := tuple(islice(rest, most)):
        yield batch


def transactions(changes: Iterable[Change]) -> Iterator[tuple[Change, ...]]:
    """The changes in parts that one transaction takes, by number and by bytes."""
    batch: list[Change] = []
    total = 0
    for change in changes:
        size = change_size(change)
        if batch and (len(batch) == A_TRANSACTION or total + size > TRANSACTION_BYTES):
            yield tuple(batch)
            batch = []
            total = 0
        batch.append(change)
        total += size
    if batch:
        yield tuple(batch)


def change_size(change: Change) -> int:
    """At most how many bytes DynamoDB counts for a change: the item, the values of its condition, and the new ones."""
    return 2 * item_size(change.expected or {}) + item_size(change.desired or {})


def item_size(item: Item) -> int:
    """At most how many bytes an item has. Source: developer guide, 'DynamoDB item sizes and formats'."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    size = 0
    for kind, content in value.items():
        if kind == "S":
            size += len(content.encode())
        elif kind in ("SS", "NS", "BS"):
            size += sum(len(member if isinstance(member, bytes) else member.encode()) + 1 for member in content)
        # A list and a map take 3 bytes, and 1 more for each member, whatever is in it.
        elif kind == "L":
            size += 3 + sum(1 + _value_size(member) for member in content)
        elif kind == "M":
            size += 3 + sum(1 + len(name.encode()) + _value_size(member) for name, member in content.items())
        # A number takes less: about a byte for two digits, and one.
        elif kind in ("N", "B"):
            size += len(content) + 1
        # A boolean or a null.
        else:
            size += 1
    return size
