"""Damage or an edit: every combination of the signs, and what an invariant says of every kind of value."""

from typing import Any

import pytest

from buddy_ops.core.settings import ItemInvariant, TableSettings
from buddy_ops.incidents import damage

ONSET = 1000.0
TABLE = TableSettings(
    name="reminders",
    key=("id",),
    invariants=(
        ItemInvariant(attribute="at", pattern=r"\d\d:\d\d"),
        ItemInvariant(attribute="dose", required=False, least=1),
    ),
)


def item(
    at: str = "08:00", by: str = "1", when: float | str = 500, **more: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """An item that is whole, written by version 1 before the onset, unless something else is said."""
    return {"id": {"S": "a"}, "at": {"S": at}, "written_by": {"S": by}, "written_at": {"N": str(when)}, **more}


WHOLE = item()
LATE = 2000


@pytest.mark.parametrize(
    ("live", "before", "kind"),
    [
        # The three signs agree: faulty, by the corrupting version, after it began; or none of them.
        (item("", "2", LATE), WHOLE, "damaged"),
        (item("09:00", "1", LATE), WHOLE, "edited"),
        (item("09:00", "3", LATE), WHOLE, "edited"),
        # They do not agree.
        (item("09:00", "2", LATE), WHOLE, "suspect_writer"),
        (item("", "1", LATE), WHOLE, "invalid_value"),
        (item("", "2", 500), WHOLE, "invalid_value"),
        (item("", "2", "whenever"), WHOLE, "invalid_value"),
        ({"id": {"S": "a"}, "at": {"S": ""}}, WHOLE, "invalid_value"),
        # What was faulty before is no damage of this version, as long as it adds none.
        (item("", "2", LATE), item("??"), "suspect_writer"),
        (item("", "1", LATE), item("??"), "edited"),
        (item("", "2", LATE, dose={"N": "0"}), item(""), "damaged"),
        # Nothing but who wrote it and when has changed.
        (item("08:00", "2", LATE), WHOLE, None),
        (item("", "2", LATE), item(""), None),
        (WHOLE, WHOLE, None),
        # Created and deleted.
        (item("09:00", "1", LATE), None, "created"),
        (item("09:00", "2", LATE), None, "created"),
        (item("", "1", LATE), None, "created"),
        (item("", "2", LATE), None, "created_invalid"),
        (None, WHOLE, "deleted"),
        (None, None, "deleted"),
    ],
)
def test_signs_that_agree_tell_and_others_ask(live: Any, before: Any, kind: str | None) -> None:
    """Damaged only where invariants, writer and time agree; an edit only where the first two speak for it."""
    assert damage.classify_item(live, before, TABLE, ("2",), ONSET) == kind


def test_several_versions_may_corrupt() -> None:
    """Each of them counts as the writer of damage."""
    assert {damage.classify_item(item("", by, LATE), WHOLE, TABLE, ("2", "3"), ONSET) for by in "23"} == {"damaged"}


def test_the_second_of_the_onset_is_after_it() -> None:
    """What was written in the very second that is restored counts as written after it."""
    assert damage.classify_item(item("", "2", ONSET), WHOLE, TABLE, ("2",), ONSET) == "damaged"


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        ({}, None, False),
        ({"required": False, "pattern": "x"}, None, True),
        ({}, {"NULL": True}, True),
        ({"pattern": "a.b"}, {"S": "a\nb"}, True),
        ({"pattern": "a"}, {"S": "ab"}, False),
        ({"pattern": r"\d+"}, {"N": "12"}, True),
        ({"pattern": ".*"}, {"M": {}}, False),
        ({"pattern": ".*"}, {"B": b"x"}, False),
        ({"one_of": ["x", "y"]}, {"S": "y"}, True),
        ({"one_of": ["x", "y"]}, {"S": "z"}, False),
        ({"one_of": ["x"]}, {"L": []}, False),
        ({"least": 1}, {"N": "1"}, True),
        ({"least": 1}, {"N": "0.5"}, False),
        ({"most": 3}, {"N": "4"}, False),
        ({"least": 0}, {"S": "2"}, True),
        ({"least": 0}, {"S": "two"}, False),
        ({"least": 0}, {"N": "NaN"}, False),
        ({"least": 0}, {"BOOL": True}, False),
    ],
)
def test_an_invariant_holds_or_is_broken(rule: dict[str, Any], value: Any, holds: bool) -> None:
    """Whatever kind of value stands there; an absent one breaks it where it is required."""
    table = TableSettings(name="reminders", key=("id",), invariants=(ItemInvariant(attribute="x", **rule),))
    found = damage.find_violations({} if value is None else {"x": value}, table)
    assert (not found) == holds and all(each.startswith(("x is ", "x does not match ")) for each in found)


def test_faults_and_changes_show_no_value() -> None:
    """They end in the archive, and an item is somebody's health."""
    live, before = item("insulin", "2", LATE), WHOLE
    assert "insulin" not in str((damage.find_violations(live, TABLE), damage.changed_attributes(live, before, TABLE)))
    assert damage.changed_attributes(live, before, TABLE) == ("at",)
