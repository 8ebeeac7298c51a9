"""Links that carry parameters: each leads to the runbook itself, with the values in its parameters cell."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.checks.next_steps import NextStep
from buddy_ops.checks.status import StatusReport
from buddy_ops.core import parameters
from buddy_ops.notebook import _widgets, prepared
from buddy_ops.runs import provenance
from tests.conftest import Situation

ROOT = Path(__file__).parents[2]
BACK = NextStep("roll back", "rollback/immediate", {"environment": "sandbox", "to_version": "1"})
WATCH = NextStep("look", "operations/monitor", {"environment": "sandbox", "minutes": "30"})
GUIDE = NextStep("check again", "start_here", {"environment": "sandbox"})
COMMAND = NextStep("ask", "", {"environment": "sandbox"}, shell="buddy-ops doctor")


@pytest.fixture
def target(two_versions: Situation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target in a kernel of start_here, in a project of its own."""
    mine = two_versions.connect("start_here")
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    return mine


def linked(target: Target, *steps: NextStep) -> StatusReport:
    return prepared.link_runbooks(target, StatusReport("v2 serves.", (), steps))


def read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def test_a_link_leads_to_the_runbook_with_its_parameters(target: Target, tmp_path: Path) -> None:
    """Values of each type stand in the declarations; the comments stay, and so do all other cells."""
    report = linked(target, BACK, WATCH, GUIDE, COMMAND)
    links = [step.link for step in report.steps]
    assert links[:2] == [
        f"../build/prepared/{target.run}/sandbox/rollback/immediate.ipynb",
        f"../build/prepared/{target.run}/sandbox/operations/monitor.ipynb",
    ]
    assert links[2:] == ["", ""]
    assert f'href="{links[0]}"' in report._repr_html_()
    values = ({"environment": "sandbox", "to_version": "1"}, {"environment": "sandbox", "minutes": 30})
    for link, expected, step in zip(links, values, (BACK, WATCH), strict=False):
        copy = read(tmp_path / "notebooks" / link)
        declared = parameters.parse_declarations(parameters.tagged_source(copy))
        assert {name: declared[name].default for name in expected} == expected
        committed = read(ROOT / "notebooks" / f"{step.runbook}.ipynb")
        before = parameters.parse_declarations(parameters.tagged_source(committed))
        assert [each.meaning for each in declared.values()] == [each.meaning for each in before.values()]
        others = [cell for cell in copy["cells"] if cell["cell_type"] == "code"]
        assert [("".join(cell["source"]), cell["metadata"]) for cell in others[1:]] == [
            ("".join(cell["source"]), cell["metadata"]) for cell in committed["cells"] if cell["cell_type"] == "code"
        ][1:]


def test_links_in_a_copy_lead_to_notebooks(target: Target, tmp_path: Path) -> None:
    """From where the copy is, the text's links reach the same notebooks as from where the runbook is."""
    report = linked(target, BACK, NextStep("x", "emergency/data_corruption", {"environment": "sandbox"}))
    found = 0
    for step in report.steps:
        copy = tmp_path / "notebooks" / step.link
        text = "".join("".join(cell["source"]) for cell in read(copy)["cells"] if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)]+\.ipynb)\)", text):
            assert (copy.parent / link).resolve().is_relative_to((tmp_path / "notebooks").resolve())
            assert (copy.parent / link).is_file(), link
            found += 1
    assert found >= 3


@pytest.mark.parametrize("below", ["", "\nto_version = '1'"], ids=["written in", "copied below"])
def test_what_was_recommended_differs_in_values_only(below: str) -> None:
    """An executed copy, or values that were copied below the declarations, are the committed runbook."""
    committed = read(ROOT / "notebooks/rollback/immediate.ipynb")
    source = parameters.tagged_source(committed)
    executed = json.loads(json.dumps(committed))
    (cell,) = (each for each in executed["cells"] if "parameters" in each["metadata"].get("tags", ()))
    cell["source"] = source + below if below else parameters.write_values(source, {"to_version": "1"})
    number = executed["cells"].index(cell) + 1
    changed = provenance.CellDifference("changed", number, number, ())
    assert provenance._changes_values_only(changed, committed, executed)
    cell["source"] += "\nimport os"
    assert not provenance._changes_values_only(changed, committed, executed)


def test_without_a_person_nothing_is_written(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A headless run's links lead to the runbooks."""
    monkeypatch.setattr(_widgets, "is_attended", lambda: False)
    assert [step.link for step in linked(target, BACK).steps] == [""]
    assert not (tmp_path / "build").exists()


def test_a_folder_that_cannot_be_written_leaves_the_plain_links(target: Target, tmp_path: Path) -> None:
    """The status is shown all the same, and what failed beside it is said."""
    (tmp_path / "build").write_text("a file")
    assert [step.link for step in linked(target, BACK).steps] == [""]
    assert any("he links that carry parameters failed" in line for line in target.side.unsaid())


def test_old_copies_are_deleted(target: Target, tmp_path: Path) -> None:
    """The latest runs' copies are kept, this one's too."""
    for number in range(prepared.KEPT + 3):
        (tmp_path / "build/prepared" / f"{number:08x}").mkdir(parents=True)
    linked(target, BACK)
    kept = {folder.name for folder in (tmp_path / "build/prepared").iterdir()}
    assert len(kept) == prepared.KEPT and target.run in kept
