"""The words of an ending, and of a checklist's items: the same in every page, list and message."""

from datetime import UTC, datetime
from typing import get_args

from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.outcome import RESULTS, Ending, describe_ending
from buddy_ops.runs import archive, pages, supervisor

AT = datetime(2026, 11, 29, 2, 58, tzinfo=UTC)


def test_every_outcome_has_its_words() -> None:
    """No page shows an ending by its internal name; one of another release is shown as it is."""
    known = {*get_args(Ending), *supervisor.OUTCOMES.values(), archive.UNKNOWN, "done", "refused", "invalid", "failed"}
    assert known <= set(RESULTS)
    assert describe_ending("of-another-release") == "of-another-release"


def test_a_report_and_an_index_name_the_result_and_the_time_in_words() -> None:
    """The box at the top, the index and the step's summary: result word first, and no ISO time."""
    facts = {"outcome": "rolled-back", "ended": "2026-11-29T02:58:00Z", "runbook": "strategies/canary", "folder": "x"}
    for page in (pages.report_page({"cells": []}, facts), pages.index_row(facts)):
        assert ">ROLLED BACK<" in page and "2026-11-29 02:58 UTC" in page and "T02:58" not in page
        assert 'class="rolled-back"' in page
    assert "| outcome | ROLLED BACK |" in pages.step_summary(facts, "")


def test_what_is_unknown_was_not_checked() -> None:
    """The column names who verified an item: a check, a person, or neither."""
    items = (
        ChecklistItem("a", "yes", "fine"),
        ChecklistItem("b", "yes", "attested", "Ada"),
        ChecklistItem("c", "unknown", "no requests"),
        ChecklistItem("d", "no", "5 %"),
    )
    result = ChecklistResult("pre_deployment", "v2", AT, "e063", "arn", items)
    rows = [line.split(" | ")[:3] for line in result._repr_markdown_().splitlines()[4:]]
    assert [row[2] for row in rows] == ["checked", "Ada", "not verified", "checked"]
