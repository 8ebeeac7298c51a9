"""Tables at DynamoDB's limits: one item that does not fit keeps no other from being written, and throttling is slow."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from buddy_ops.aws import item_writes, tables
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Change
from buddy_ops.core.errors import Throttled
from tests.conftest import Situation

Bring = Callable[..., Situation]
NAME, KEY = "buddy-limits-sandbox", ("owner", "number")
KIB = 1024
Item = dict[str, dict[str, Any]]


def create(here: Situation, kinds: tuple[str, str] = ("S", "N")) -> None:
    here.client("dynamodb").create_table(
        TableName=NAME,
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in zip(KEY, ("HASH", "RANGE"), strict=True)],
        AttributeDefinitions=[
            {"AttributeName": name, "AttributeType": kind} for name, kind in zip(KEY, kinds, strict=True)
        ],
        BillingMode="PAY_PER_REQUEST",
    )


@pytest.fixture
def here(situation: Bring) -> Situation:
    here = situation("good", requests_per_minute=0, history_minutes=0)
    create(here)
    return here


@pytest.fixture
def target(here: Situation) -> Target:
    return here.connect()


def item(number: int, size: int = 10, **more: dict[str, Any]) -> Item:
    return {"owner": {"S": "a/b"}, "number": {"N": str(number)}, "text": {"S": "x" * size}, **more}


def stored(here: Situation) -> dict[str, Item]:
    pages = here.client("dynamodb").get_paginator("scan").paginate(TableName=NAME, ConsistentRead=True)
    return {each["number"]["N"]: each for page in pages for each in page["Items"]}


def put(here: Situation, *items: Item) -> None:
    for each in items:
        here.client("dynamodb").put_item(TableName=NAME, Item=each)


def marked(seen: Item, size: int = 1) -> Change:
    return Change(seen, {**seen, "mark": {"S": "y" * size}})


def total(target: Target, changes: list[Change]) -> tables.Written:
    return sum(tables.write_item(target, NAME, KEY, changes), start=tables.Written(0))


def test_an_item_that_would_be_too_large_is_left_and_named(here: Situation, target: Target) -> None:
    """One near 400 KB among ten: nine are written, and the tenth has DynamoDB's own reason."""
    items = [item(number) for number in range(9)] + [item(9, 404_000)]
    put(here, *items)
    written = total(target, [marked(each, 6000) for each in items])
    (refused,) = written.refused
    assert (written.made, written.conflicts, refused.change.expected) == (9, (), items[9])
    assert "size" in refused.reason.lower()
    now = stored(here)
    assert now.pop("9") == items[9] and all("mark" in each for each in now.values()) and len(now) == 9


def test_a_transaction_is_limited_in_bytes(here: Situation, target: Target) -> None:
    """A hundred items of 45 KB are more than 4 MB: they go in several calls."""
    items = [item(number, 45 * KIB) for number in range(100)]
    put(here, *items)
    written = tables.write_batch(target, NAME, KEY, [marked(each) for each in items])
    assert (written.made, written.refused) == (100, ()) and all("mark" in each for each in stored(here).values())


@pytest.mark.parametrize("way", ["changed", "deleted", "created"])
def test_an_item_with_many_attributes_is_written(here: Situation, target: Target, way: str) -> None:
    """300 attributes, whose comparison would be longer than 4 KB: those that change are compared all the same."""
    wide = item(1, **{f"attribute_{number}": {"N": str(number)} for number in range(300)})
    change = {"changed": marked(wide), "deleted": Change(wide, None), "created": Change(None, wide)}[way]
    if way != "created":
        put(here, wide)
    for _ in range(2):  # the second time it counts as made
        assert total(target, [change]).made == 1
    assert stored(here).get("1") == change.desired


def test_what_changes_is_always_compared(here: Situation, target: Target) -> None:
    """Another writer's value of an attribute that would be overwritten is kept, however many attributes there are."""
    wide = item(1, **{f"attribute_{number}": {"N": str(number)} for number in range(300)}, zone={"S": "old"})
    put(here, {**wide, "zone": {"S": "theirs"}})
    written = total(target, [Change(wide, {**wide, "zone": {"S": "ours"}})])
    assert (written.made, len(written.conflicts)) == (0, 1) and stored(here)["1"]["zone"] == {"S": "theirs"}


def test_more_changes_than_a_call_holds_are_left_and_named(here: Situation, target: Target) -> None:
    """200 attributes of one item cannot change at once: it is named, and its neighbour is written."""
    wide = item(1, **{f"attribute_{number}": {"N": "0"} for number in range(200)})
    to = wide | {f"attribute_{number}": {"N": "1"} for number in range(200)}
    put(here, wide, item(2))
    written = total(target, [Change(wide, to), marked(item(2))])
    assert written.made == 1 and "200 of its attributes change" in written.refused[0].reason
    assert stored(here)["1"] == wide and "mark" in stored(here)["2"]


def test_requests_stay_within_the_limits() -> None:
    """No expression is longer than 4 KB or has more than 300 operators; no transaction is over 4 MB or 100 items."""
    wide = item(1, **{f"attribute_{number}": {"N": str(number)} for number in range(900)})
    for change in (marked(wide), Change(wide, None), Change(None, wide)):
        (request,) = item_writes.request_of(NAME, KEY, change).values()
        condition = str(request["ConditionExpression"])
        assert len(condition) <= 4096 and condition.count(" AND ") + condition.count("=") <= 300
        assert set(request["ExpressionAttributeNames"]) == {
            each.strip(",()")
            for text in (condition, str(request.get("UpdateExpression", "")))
            for each in text.replace("attribute_not_exists(", " ").split()
            if each.startswith("#")
        }
    changes = [marked(item(number, 1000 * number)) for number in range(300)]
    parts = list(item_writes.transactions(changes))
    assert [change for part in parts for change in part] == changes
    for part in parts:
        assert len(part) <= 100 and sum(map(item_writes.change_size, part)) <= 4 * KIB * KIB


@pytest.fixture
def at_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own attempts take real seconds: one is enough here."""
    monkeypatch.setattr(target, "client", partial(target.client, attempts=1))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
def test_two_minutes_of_throttling_slow_down(here: Situation, target: Target, code: str) -> None:
    """Scans, reads by key and writes go on afterwards, and the wait is reported with the time when it ends."""
    items = [item(number) for number in range(30)]
    put(here, *items)
    told: list[str] = []

    def throttle() -> None:
        here.ask("set", dynamodb_throttle_s=120, dynamodb_throttle_code=code)

    throttle()
    pages = list(tables.parallel_scan(target, NAME, lambda page: len(page.items), segments=1, watch=told.append))
    assert sum(made for _, made in pages) == 30
    throttle()
    keys = [tables.key_attributes(each, KEY) for each in items]
    assert len(list(tables.get_item(target, NAME, keys, told.append))) == 30
    throttle()
    assert tables.write_batch(target, NAME, KEY, [marked(each) for each in items], watch=told.append).made == 30
    assert len(told) > 3 and all("slowing down, at most until" in line for line in told)


@pytest.mark.usefixtures("at_once")
def test_throttling_without_an_end_ends_with_the_time(here: Situation, target: Target) -> None:
    """After ten minutes: what AWS said, what is done, and that the same command continues; which it does."""
    put(here, item(1))
    here.ask("set", dynamodb_throttle_s=3600)
    began = target.clock.now()
    with pytest.raises(Throttled, match="aws-unavailable") as error:
        tables.write_batch(target, NAME, KEY, [marked(item(1))])
    assert 600 <= (target.clock.now() - began).total_seconds() < 700
    assert "throttled buddy-limits-sandbox for 10 min" in error.value.now and "Raise the capacity" in error.value.next
    here.ask("set", dynamodb_throttle_s=0)
    assert tables.write_batch(target, NAME, KEY, [marked(item(1))]).made == 1


@pytest.mark.parametrize("kinds", [("S", "S"), ("S", "N"), ("S", "B"), ("N", "N"), ("B", "B")])
def test_items_of_any_key_are_compared_and_written(situation: Bring, kinds: tuple[str, str]) -> None:
    """Texts with "/", numbers and bytes: each item has a name of its own, and is found by its key in the copy."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    create(here, kinds)
    values = {"S": ["a", "a/b", "b/c", "c", "%2F"], "N": ["1", "-2", "3.5"], "B": [b"a", b"/", b"\xff\x00"]}
    items = [
        {"owner": {kinds[0]: one}, "number": {kinds[1]: two}, "text": {"S": "x"}}
        for one in values[kinds[0]]
        for two in values[kinds[1]]
    ]
    put(here, *items)
    target = here.connect()
    assert len({tables.item_name(each, KEY) for each in items}) == len(items)
    assert total(target, [marked(each) for each in items]).made == len(items)
    keys = [tables.key_attributes(each, KEY) for each in items]
    found = list(tables.get_item(target, NAME, keys))
    assert len(found) == len(items) and all(each["mark"] == {"S": "y"} for each in found)
