"""Tables by the thousand items, against the sandbox: nothing is missed, and nobody else's write is lost."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.aws import tables
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Change, Page
from buddy_ops.core.errors import AwsFailed
from buddy_sandbox import reminders
from tests.conftest import Situation

Bring = Callable[..., Situation]
NAME, KEY = "buddy-reminders-sandbox", ("user_id", "reminder_id")
QUIET = {"requests_per_minute": 0, "history_minutes": 0}


@pytest.fixture
def here(situation: Bring) -> Situation:
    return situation("good", reminders=1000, **QUIET)


@pytest.fixture
def target(here: Situation) -> Target:
    return here.connect()


def ids(page: Page) -> list[str]:
    return [each["reminder_id"]["S"] for each in page.items]


def everything(target: Target) -> dict[str, tables.Item]:
    """All items by their reminder_id."""
    pages = tables.parallel_scan(target, NAME, lambda page: None)
    return {each["reminder_id"]["S"]: each for page, _ in pages for each in page.items}


def taken(item: tables.Item, at: int = 1) -> Change:
    return Change(item, {**item, "taken_at": {"N": str(at)}})


def test_a_sweep_sees_each_item_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments and pages together are the table, and the work on them is yielded beside its page."""
    monkeypatch.setattr(tables, "PAGE_ITEMS", 70)
    seen: Counter[str] = Counter()
    for page, made in tables.parallel_scan(target, NAME, ids):
        assert made == ids(page)
        seen.update(made)
    assert len(seen) == 1000 and set(seen.values()) == {1}


def test_a_sweep_goes_on_where_another_stopped(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the places that were reached, the second run sees exactly what the first did not yield."""
    monkeypatch.setattr(tables, "PAGE_ITEMS", 70)
    left: dict[int, Any] = dict.fromkeys(range(4))
    seen: Counter[str] = Counter()
    steps = tables.parallel_scan(target, NAME, ids, segments=4)
    for _ in range(11):
        page, made = next(steps)
        seen.update(made)
        left[page.segment] = page.next
        if page.next is None:
            del left[page.segment]
    steps.close()
    for _, made in tables.parallel_scan(target, NAME, ids, segments=4, resume=left):
        seen.update(made)
    assert len(seen) == 1000 and set(seen.values()) == {1}


def test_what_the_work_raises_ends_the_sweep(target: Target) -> None:
    """An error in a thread is not swallowed."""

    def fail(page: Page) -> None:
        raise ValueError(page.segment)

    with pytest.raises(ValueError):
        list(tables.parallel_scan(target, NAME, fail))


def test_a_change_gives_way_to_another_writer(here: Situation, target: Target) -> None:
    """Whatever was changed, deleted or created since it was seen stays as it is; all others are written."""
    items = everything(target)
    edited, deleted = items["reminder-000001"], items["reminder-000002"]
    dynamodb = here.client("dynamodb")
    dynamodb.put_item(TableName=NAME, Item={**edited, "at": {"S": "23:59"}})
    dynamodb.delete_item(TableName=NAME, Key=tables.key_attributes(deleted, KEY))
    new = reminders.reminder(9000, 1)
    dynamodb.put_item(TableName=NAME, Item=new)
    changes = [taken(each) for each in items.values()] + [Change(None, {**new, "at": {"S": "01:01"}})]
    gave_way = [each for some in tables.write_item(target, NAME, KEY, changes) for each in some.conflicts]
    assert {each.desired["reminder_id"]["S"] for each in gave_way if each.desired} == {
        "reminder-000001", "reminder-000002", "reminder-009000",
    }  # fmt: skip
    now = everything(target)
    assert now.pop("reminder-000001")["at"] == {"S": "23:59"} and now.pop("reminder-009000") == new
    assert "reminder-000002" not in now and all(each["taken_at"] == {"N": "1"} for each in now.values())


def test_a_change_that_was_made_counts_as_made(target: Target) -> None:
    """Running again after a kill changes nothing and gives way to nothing."""
    changes = [taken(each) for each in everything(target).values()][:250]
    for _ in range(2):
        assert sum(some.made for some in tables.write_item(target, NAME, KEY, changes)) == 250


def test_an_attribute_that_somebody_added_is_kept(here: Situation, target: Target) -> None:
    """What we mean to add, and somebody else added meanwhile, is theirs."""
    item = everything(target)["reminder-000001"]
    here.client("dynamodb").put_item(TableName=NAME, Item={**item, "taken_at": {"N": "7"}})
    assert tables.write_batch(target, NAME, KEY, [taken(item)]).conflicts == (taken(item),)
    assert everything(target)["reminder-000001"]["taken_at"] == {"N": "7"}


def test_an_attribute_beside_ours_that_somebody_added_stays(here: Situation, target: Target) -> None:
    """Only what differs is written: what an item gained since it was seen, and we know nothing of, is not lost."""
    item = everything(target)["reminder-000001"]
    here.client("dynamodb").update_item(
        TableName=NAME,
        Key=tables.key_attributes(item, KEY),
        UpdateExpression="SET snoozed = :yes",
        ExpressionAttributeValues={":yes": {"BOOL": True}},
    )
    at_gone = {name: value for name, value in item.items() if name != "at"} | {"at_minutes": {"N": "7"}}
    assert tables.write_batch(target, NAME, KEY, [Change(item, at_gone)]).made == 1
    assert everything(target)["reminder-000001"] == {**at_gone, "snoozed": {"BOOL": True}}


def test_deleting_is_a_change_as_well(target: Target) -> None:
    """A deletion is conditional too, and may be repeated."""
    item = everything(target)["reminder-000001"]
    for _ in range(2):
        assert tables.write_batch(target, NAME, KEY, [Change(item, None)]).made == 1
    assert "reminder-000001" not in everything(target)


def test_writers_at_the_same_time_all_keep_their_changes(here: Situation, target: Target) -> None:
    """Two runs over the same items: of each item exactly one change is made, the other gives way."""
    items = list(everything(target).values())[:1000]
    lost: dict[int, int] = {}

    def run(number: int) -> None:
        changes = [taken(each, number) for each in items]
        lost[number] = sum(len(some.conflicts) for some in tables.write_item(target, NAME, KEY, changes))

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    now = everything(target)
    by = Counter(now[each["reminder_id"]["S"]]["taken_at"]["N"] for each in items)
    assert by["1"] + by["2"] == 1000 and lost == {1: by["2"], 2: by["1"]}


def test_a_connection_that_breaks_is_told(here: Situation, target: Target) -> None:
    """No answer at all is an error in words; making the change again counts as made, if it was."""
    change = taken(everything(target)["reminder-000001"])
    here.ask("chaos", kind="closed", operation="TransactWriteItems", times=3, after=True)
    with pytest.raises(AwsFailed, match="aws-unreachable"):
        tables.write_batch(target, NAME, KEY, [change])
    here.ask("chaos")
    assert tables.write_batch(target, NAME, KEY, [change]).made == 1
    assert "taken_at" in everything(target)["reminder-000001"]


@pytest.mark.parametrize("kind", ["throttled", "error"])
def test_a_busy_table_is_asked_again(here: Situation, target: Target, kind: str) -> None:
    """Throttling for as long as the SDK tries is waited out; another failure is told."""
    item = everything(target)["reminder-000001"]
    here.ask("chaos", kind=kind, operation="TransactWriteItems", times=4)
    if kind == "error":
        with pytest.raises(AwsFailed, match="aws-unavailable"):
            tables.write_batch(target, NAME, KEY, [taken(item)])
    else:
        assert tables.write_batch(target, NAME, KEY, [taken(item)]).made == 1
    here.ask("chaos")
    assert ("taken_at" in everything(target)["reminder-000001"]) == (kind == "throttled")


def test_items_are_got_by_their_keys(target: Target) -> None:
    """However many, and without those that are not there."""
    items = everything(target)
    keys = [tables.key_attributes(each, KEY) for each in items.values()]
    missing = tables.key_attributes(reminders.reminder(9000, 1), KEY)
    assert sum(1 for _ in tables.get_item(target, NAME, [*keys, missing])) == 1000


def test_a_digest_tells_items_apart_and_nothing_else() -> None:
    """Order of attributes and of sets does not count; everything else does."""
    one = {"a": {"SS": ["x", "y"]}, "b": {"M": {"L": {"L": [{"N": "1"}, {"B": b"\x00"}]}}}}
    same = {"b": {"M": {"L": {"L": [{"N": "1"}, {"B": b"\x00"}]}}}, "a": {"SS": ["y", "x"]}}
    assert tables.item_digest(one) == tables.item_digest(same)
    others = (
        {**one, "a": {"SS": ["x"]}},
        {**one, "b": {"M": {"L": {"L": [{"B": b"\x00"}, {"N": "1"}]}}}},
        {"SS": {"S": "1"}},
    )
    assert len({tables.item_digest(each) for each in (one, *others, {"SS": {"S": "2"}})}) == 5


def test_what_people_stored_is_not_journaled(target: Target) -> None:
    """Calls are, with the table's name; keys and items are not."""
    items = list(everything(target).values())
    tables.write_batch(target, NAME, KEY, [taken(items[0])])
    list(tables.get_item(target, NAME, [tables.key_attributes(items[0], KEY)]))
    # The first record has the settings, with the texts of smoke tests.
    told = str(target.journal.records[1:])
    assert "transact_write_items" in told and "amzn1" not in told and "aspirin" not in told
    assert [each["seq"] for each in target.journal.records] == list(range(1, len(target.journal.records) + 1))
