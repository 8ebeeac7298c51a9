"""Whether an item is damaged, or a person edited it: the item now, beside the item before a version corrupted data.

Three signs decide: whether the item violates an invariant that held before, which version wrote it, and when. Where all
three agree, it is damaged or edited. Where they do not, it is a conflict, and a person decides. No AWS.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from math import inf
from typing import Literal

from buddy_ops.core.settings import ItemInvariant, TableSettings

Value = Mapping[str, object]
"""A value as DynamoDB sends it, below the name of its type: ``{"S": "08:00"}``."""

Item = Mapping[str, Value]
Kind = Literal["damaged", "edited", "created", "deleted", "suspect_writer", "invalid_value", "created_invalid"]

CONFLICTS: Mapping[str, str] = {
    "suspect_writer": "unverified: written by the faulty version, passes validation",
    "invalid_value": "fails validation, but written by another version or at an unknown time: edited after the damage",
    "created_invalid": "created by the faulty version and fails validation: no earlier state, restoring deletes it",
}
"""Kinds that a person decides about."""

FORMER_NAMES: Mapping[str, str] = {
    "unfaulted": "suspect_writer",
    "faulty": "invalid_value",
    "new": "created_invalid",
}
"""The kinds' names in earlier releases: parameters may still have them."""


def classify_item(
    live: Item | None, before: Item | None, table: TableSettings, bad: Collection[str], since: float
) -> Kind | None:
    """What happened to an item; None if only its writer or its time of writing differs.

    Args:
        live: the item now; None if it does not exist.
        before: the item in the copy; None if it did not exist.
        bad: the versions that corrupt.
        since: when they began, epoch seconds.
    """
    if live is None:
        return "deleted"
    by_bad = attribute_text(live, table.writer) in bad
    violations = find_violations(live, table)
    if before is None:
        if by_bad and violations:
            return "created_invalid"
        return "created"
    # Every write changes the writer and the time, so they are no difference.
    if _content(live, table) == _content(before, table):
        return None
    # Only new violations count: an item that was invalid before is no damage of this version.
    if violations - find_violations(before, table):
        # Without a time of writing it is not known to be damage: a person decides.
        late = (number(live.get(table.written_at)) or 0.0) >= since
        if by_bad and late:
            return "damaged"
        return "invalid_value"
    if by_bad:
        return "suspect_writer"
    return "edited"


def find_violations(item: Item, table: TableSettings) -> frozenset[str]:
    """The invariants of the table that an item violates, in words without any of its values."""
    return frozenset(
        violation
        for invariant in table.invariants
        for violation in _violations(item.get(invariant.attribute), invariant)
    )


def changed_attributes(live: Item, before: Item | None, table: TableSettings) -> tuple[str, ...]:
    """The names of the attributes whose values differ."""
    old = _content(before or {}, table)
    new = _content(live, table)
    return tuple(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))


def attribute_text(item: Item, attribute: str) -> str:
    """A text or a number of an item, as text; '' for any other value and for none."""
    value = item.get(attribute) or {}
    return str(value.get("S", value.get("N", "")))


def number(value: Value | None) -> float | None:
    """A number, also one that is written as text; None for anything else."""
    if value is None:
        return None
    # DynamoDB sends numbers as text, too: they have up to 38 digits.
    text = value.get("N", value.get("S"))
    if not isinstance(text, str):
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _content(item: Item, table: TableSettings) -> dict[str, Value]:
    """An item without who wrote it and when."""
    return {name: value for name, value in item.items() if name not in (table.writer, table.written_at)}


def _violations(value: Value | None, rule: ItemInvariant) -> Iterator[str]:
    # Values never appear in these words: they are archived, and an item is a person's health data.
    name = rule.attribute
    if value is None:
        if rule.required:
            yield f"{name} is missing"
        return
    text: str | None = None
    # A list, a map or a set has no text, and so meets no pattern.
    if value.keys() & {"S", "N"}:
        text = str(value.get("S", value.get("N", "")))
    if rule.pattern is not None and (text is None or not re.fullmatch(rule.pattern, text, re.DOTALL)):
        yield f"{name} does not match its pattern"
    if rule.one_of and text not in rule.one_of:
        yield f"{name} is not an allowed value"
    if rule.least is not None or rule.most is not None:
        found = number(value)
        least = -inf if rule.least is None else rule.least
        most = inf if rule.most is None else rule.most
        if found is None or not least <= found <= most:
            yield f"{name} is out of range"
