"""Shapes of items, and declared ranges: pure."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.errors import InvalidInput
from buddy_ops.migrations import definitions
from buddy_ops.migrations.definitions import Migration, SchemaRange

MIGRATIONS = definitions.read_migrations()
(REMINDERS,) = (each for each in MIGRATIONS if each.name == "reminders_at_minutes")
KEY = {"user_id": {"S": "ada"}, "reminder_id": {"S": "r1"}}
OLD: dict[str, Any] = {**KEY, "at": {"S": "08:00"}}
BOTH: dict[str, Any] = {**OLD, "at_minutes": {"N": "480"}}
NEW: dict[str, Any] = {**KEY, "at_minutes": {"N": "480"}}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1", SchemaRange(1, 1)),
        (" 1-2\n", SchemaRange(1, 2)),
        ("2-1", None),
        ("0", None),
        ("all", None),
        ("", None),
        (None, None),
    ],
)
def test_a_declared_range_is_read(text: str | None, found: SchemaRange | None) -> None:
    """One version or two ends; whatever else is unknown, never an error."""
    assert definitions.parse_range(text) == found


def test_migrations_follow_one_another() -> None:
    """Names and schema versions are unique, versions rise from 2 on, and no attribute is in both shapes."""
    assert len({each.name for each in MIGRATIONS}) == len(MIGRATIONS)
    assert [each.to for each in MIGRATIONS] == list(range(2, 2 + len(MIGRATIONS)))
    assert all(not set(each.old) & set(each.new) for each in MIGRATIONS)


@given(st.integers(0, 24 * 60 - 1))
def test_every_time_of_day_comes_back(minutes: int) -> None:
    """'08:00' is 480, and 480 is '08:00': for each minute of a day."""
    item = {**KEY, "at_minutes": {"N": str(minutes)}}
    both = REMINDERS.harmonised(item, "new")
    assert REMINDERS.harmonised({**KEY, "at": both["at"]}, "old")["at_minutes"] == {"N": str(minutes)}


def test_a_reminder_without_a_time_has_none_in_either_shape() -> None:
    """The skill stores '' where no time was said: that is NULL in minutes, and comes back as ''."""
    both = REMINDERS.harmonised({**KEY, "at": {"S": ""}}, "old")
    assert both["at_minutes"] == {"NULL": True} and REMINDERS.contracted(both) == {**KEY, "at_minutes": {"NULL": True}}


@pytest.mark.parametrize(
    ("item", "truth", "becomes"),
    [
        (OLD, "old", BOTH),
        (NEW, "old", BOTH),
        (OLD, "new", BOTH),
        ({**BOTH, "at_minutes": {"N": "1"}}, "old", BOTH),
        ({**BOTH, "at": {"S": "00:01"}}, "new", BOTH),
    ],
    ids=["old", "new while the old is the truth", "old after the contract", "stale new", "stale old"],
)
def test_an_item_is_brought_into_both_shapes(item: dict[str, Any], truth: str, becomes: dict[str, Any]) -> None:
    """What is there is converted; where both are there, the truth of the moment wins."""
    assert REMINDERS.harmonised(item, truth) == becomes


@pytest.mark.parametrize("at", [{"S": "8 o'clock"}, {"S": "25:00"}, {"N": "8"}, {"S": "8:00"}])
def test_what_would_not_come_back_is_left(at: dict[str, Any]) -> None:
    """An item that cannot be converted without loss is an error that names no value."""
    with pytest.raises(ValueError, match=r"its at|it has") as told:
        REMINDERS.harmonised({**KEY, "at": at}, "old")
    assert "clock" not in str(told.value)


def test_an_item_in_neither_shape_is_left() -> None:
    """Nothing is made up."""
    with pytest.raises(ValueError, match="neither at nor at_minutes"):
        REMINDERS.harmonised(KEY, "old")


def test_the_old_shape_goes_only_where_the_new_says_the_same() -> None:
    """A difference means that somebody still writes the old attribute: their change is not dropped."""
    assert REMINDERS.contracted(BOTH) == REMINDERS.contracted(OLD) == NEW
    with pytest.raises(ValueError, match="differ"):
        REMINDERS.contracted({**BOTH, "at": {"S": "09:00"}})


def test_the_way_back_leaves_the_old_shape_alone() -> None:
    """Whatever the new attributes say: until the contract the old ones are the truth."""
    assert REMINDERS.reverted({**BOTH, "at_minutes": {"N": "1"}}) == REMINDERS.reverted(NEW) == OLD


def test_a_tables_items_are_right_until_its_own_next_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema versions are counted over all tables: a migration of another table changes nothing here."""
    made = [Migration(f"m{to}", table, to, (), (), dict, dict) for table, to in (("A", 2), ("B", 3), ("A", 4))]
    monkeypatch.setattr(definitions, "read_migrations", lambda: tuple(made))
    assert [definitions.validity("A", version) for version in (1, 2)] == [SchemaRange(1, 1), SchemaRange(2, 3)]
    assert definitions.validity("B", 1) == SchemaRange(1, 2) and definitions.validity("A", 4).high > 1000
    assert [each.source for each in made] == [1, 1, 2]


HEADER = "from buddy_ops.migrations.definitions import Migration\nsame = lambda item: {}\n"


def in_a_project(folder: Path, text: str | None) -> None:
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "parameters").mkdir(exist_ok=True)
    if text is not None:
        (folder / definitions.FILE).write_text(text, "utf-8")


def test_a_project_defines_its_own_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None without the file; those of the file as it is now, not as it was."""
    in_a_project(tmp_path, None)
    monkeypatch.chdir(tmp_path)
    assert definitions.read_migrations() == () and definitions.fingerprint() == ""
    made = 'Migration("{}", "ORDERS", {}, ("a",), ("b",), same, same)'
    in_a_project(tmp_path, f"{HEADER}MIGRATIONS = [{made.format('first', 2)}]\n")
    before = definitions.fingerprint()
    assert [each.name for each in definitions.read_migrations()] == ["first"]
    in_a_project(tmp_path, f"{HEADER}MIGRATIONS = [{made.format('first', 2)}, {made.format('second', 3)}]\n")
    assert [each.source for each in definitions.read_migrations()] == [1, 2]
    assert definitions.fingerprint() != before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nowhere", "ModuleNotFoundError"),
        ("MIGRATIONS = (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("", "it defines no MIGRATIONS"),
        ("MIGRATIONS = [1]", "it defines no MIGRATIONS"),
        (HEADER + 'MIGRATIONS = [Migration("m", "T", 3, ("a",), ("b",), same, same)]', "are not 2, 3 and so on"),
        (HEADER + 'MIGRATIONS = [Migration("m", "T", 2, ("a",), ("a",), same, same)]', "in both schemas"),
        (HEADER + 'MIGRATIONS = 2 * [Migration("m", "T", 2, ("a",), ("b",), same, same)]', "one name"),
    ],
)
def test_a_broken_file_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    """It names the file, and says that rollbacks do not need it."""
    in_a_project(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="invalid-migrations") as error:
        definitions.read_migrations()
    assert says in error.value.what and definitions.FILE in error.value.what
    assert "Rollbacks do not need it." in error.value.next
