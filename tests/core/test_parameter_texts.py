"""A text parameter is what was typed: `to_version=010` is not version 8."""

from datetime import UTC, datetime
from typing import Any

import pytest

from buddy_ops.cli import run_parameters
from buddy_ops.core import parameters
from buddy_ops.core.errors import InvalidInput

DECLARED = parameters.parse_declarations(
    'to_version: str = ""\n'
    'reason: str = ""\n'
    "keep: int = 3\n"
    "minutes: float = 5\n"
    "dry_run: bool = False\n"
    "approved_by: list[str] = []\n"
    "break_glass: dict[str, str] = {}\n"
    "variables: dict[str, str | None] = {}\n"
    "steps: list[float] = []\n"
    "turn: dict = {}\n"
)
TEXTS = [
    "010",
    "22:30",
    "0042",
    "yes",
    "null",
    "~",
    "1e3",
    "true",
    "1.10",
    "2026-11-22T03:12:00Z",
    "a # b",
    "{x",
    "'5'",
]
TEXTS += [
    " two  spaces ",
    "a: b",
    "- a",
    "*x",
    "&x",
    "!y",
    "%",
    "@ada",
    "`",
    "",
    "=",
    "a=b",
    "über",
    "nan",
    "0x10",
    "[]",
]


def given(*pairs: str) -> dict[str, Any]:
    """What a runbook receives for -p PAIRS."""
    return parameters.check_parameters(DECLARED, run_parameters.parse_parameters(list(pairs), DECLARED), "runbook")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_was_typed(text: str) -> None:
    """No part of it is YAML, and nothing is stripped."""
    assert given(f"reason={text}")["reason"] == text


@pytest.mark.parametrize("text", ["010", "22:30", "yes", "null", "1e3", "1.10", "2026-11-22"])
def test_texts_in_lists_and_mappings_arrive_as_they_were_typed(text: str) -> None:
    """Those of lists, of mappings, and of --parameters, too."""
    found = given(f"approved_by=[{text}]", f"break_glass={{who: {text}}}")
    assert found["approved_by"] == [text] and found["break_glass"] == {"who": text}
    mapping = f"{{to_version: {text}, approved_by: [{text}], keep: 4, dry_run: true}}"
    found = parameters.check_parameters(DECLARED, run_parameters.parse_mapping(mapping, DECLARED), "runbook")
    assert (found["to_version"], found["approved_by"], found["keep"], found["dry_run"]) == (text, [text], 4, True)


def test_a_variable_can_be_removed() -> None:
    """A plain null is none where none is allowed, and a text where it is quoted."""
    assert given("variables={A: null, B: 'null', C: 010}")["variables"] == {"A": None, "B": "null", "C": "010"}


def test_numbers_and_booleans_are_what_was_typed() -> None:
    """In decimal; yes and no as people write them."""
    found = given("keep=010", "minutes=1e1", "dry_run=yes", "steps=[10, 2.5]", "turn={ENABLE_X: true}")
    assert (found["keep"], found["minutes"], found["dry_run"]) == (10, 10.0, True)
    assert found["steps"] == [10.0, 2.5] and found["turn"] == {"ENABLE_X": True}


@pytest.mark.parametrize("pair", ["minutes=nan", "minutes=.nan", "minutes=1e999", "steps=[inf]", "turn={a: .inf}"])
def test_no_number_that_is_none(pair: str) -> None:
    """NaN is neither below nor above a limit: it would pass both."""
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        given(pair)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("nan")]}])
def test_no_number_that_is_none_from_papermill(value: object) -> None:
    """papermill -p minutes nan gives the number."""
    name = "turn" if isinstance(value, dict) else "minutes"
    with pytest.raises(InvalidInput, match="NaN and infinities are not allowed"):
        parameters.check_parameters(DECLARED, {name: value}, "runbook")


@pytest.mark.parametrize("value", [1000.0, True, None, [1.5]])
def test_a_text_that_papermill_changed_is_refused_with_the_way_out(value: object) -> None:
    """Whether 1000.0 was typed as 1e3 or as 1000.0 cannot be told any more: -r gives texts as they are."""
    name = "approved_by" if isinstance(value, list) else "reason"
    with pytest.raises(InvalidInput, match="-r does not") as refused:
        parameters.check_parameters(DECLARED, {name: value}, "runbook")
    assert f"papermill -r {name} TEXT" in refused.value.what


def test_a_whole_number_from_papermill_is_taken_with_a_warning() -> None:
    """It is the version's number nearly always; that it may have been 010 is said, not guessed."""
    assert parameters.check_parameters(DECLARED, {"to_version": 10}, "runbook")["to_version"] == "10"
    (warning,) = parameters.describe_numbers(DECLARED, {"to_version": 10, "keep": 4, "reason": "10"})
    assert "to_version arrived as the number 10" in warning and "papermill -r to_version" in warning


def test_times_may_come_as_yaml_gives_them() -> None:
    """A file that another reader of YAML 1.1 has read gives datetimes."""
    moment = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
    assert parameters.check_parameters(DECLARED, {"reason": moment}, "runbook")["reason"] == "2026-11-22T03:12:00Z"
    found = parameters.check_parameters(DECLARED, {"reason": moment.date()}, "runbook")
    assert found["reason"] == "2026-11-22"


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        (["keep=1", "keep=2"], "keep is given twice"),
        (["turn={a: 1, a: 2}"], "the key 'a' is given twice"),
        (["reason=\udcff"], "it is not UTF-8"),
    ],
)
def test_what_would_be_lost_is_refused(pairs: list[str], problem: str) -> None:
    """The second of two would win; half a character could not be saved."""
    with pytest.raises(InvalidInput, match="invalid-parameters") as refused:
        given(*pairs)
    assert problem in refused.value.what
