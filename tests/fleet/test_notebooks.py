"""The fleet's notebooks under papermill: what they show, and how they end."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import papermill
import pytest

from buddy_ops.core.errors import MIME_TYPE
from buddy_sandbox.situations import control

ROOT = Path(__file__).parents[2]
UNREACHABLE = "http://127.0.0.1:9"


def execute(notebook: str, folder: Path, **parameters: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """A notebook of the fleet, executed in the project at this folder; its document, and the error's data or {}."""
    shutil.copytree(ROOT / "notebooks" / "fleet", folder / "notebooks" / "fleet", dirs_exist_ok=True)
    done = folder / "executed.ipynb"
    error: dict[str, Any] = {}
    given = {"environment": "pay-us-east-1", **parameters}
    try:
        papermill.execute_notebook(
            folder / "notebooks" / "fleet" / notebook, done, given, cwd=folder, progress_bar=False
        )
    except papermill.PapermillExecutionError:
        error = next(each[MIME_TYPE] for each in outputs(json.loads(done.read_text())) if MIME_TYPE in each)
    return json.loads(done.read_text()), error


def outputs(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [output.get("data", {}) for cell in document["cells"] for output in cell.get("outputs", ())]


def lose_a_region(url: str, region: str) -> None:
    """Let AWS not be reached in one region of every function: the targets there get an endpoint that none answers."""
    parameters = Path("parameters")
    lost = (parameters / "prod.yaml").read_text().replace("environment: prod", "environment: lost")
    (parameters / "lost.yaml").write_text(lost.replace(url, UNREACHABLE))
    file = parameters / "fleet.yaml"
    targets = file.read_text().replace(f", {region}", "").replace(f"{region}, ", "")
    for function in ("cart", "pay", "shop"):
        own = {"name": f"{function}-{region}", "environment": "lost", "function": function, "region": region}
        targets += f"\n  - {json.dumps(own)}"
    file.write_text(targets)


def test_a_quiet_fleet_ends_well(fleet: str, tmp_path: Path) -> None:
    """One table with each target, as HTML and as text, and no error."""
    document, error = execute("status.ipynb", tmp_path)
    assert error == {}
    (shown,) = (each for each in outputs(document) if "text/html" in each)
    table = "".join(shown["text/html"])
    assert table.count("<tr>") == 1 + 12 and "<button" not in table, "no script sorts it here"
    assert table.count('viewBox="0 0 90 24"') == 12
    assert '<div class="buddy-ops-fleet">' in table and "<th scope=col class=number>Errors" in table
    assert "12 targets: 12 OK" in "".join(shown["text/plain"])


@pytest.mark.whole
def test_a_region_that_cannot_be_reached_is_unknown(fleet: str, tmp_path: Path) -> None:
    """The three targets there come first, the nine others are read, and the run ends with exit code 1."""
    lose_a_region(fleet, "eu-west-1")
    document, error = execute("status.ipynb", tmp_path)
    assert (error["reference"], error["exit_code"]) == ("fleet-unknown", 1)
    assert all(f"{function}-eu-west-1: ALIAS UNREADABLE" in error["what"] for function in ("cart", "pay", "shop"))
    assert "12 targets: 3 ALIAS UNREADABLE, 9 OK" in error["what"]
    assert len([each for each in outputs(document) if "text/html" in each]) == 1


def test_a_target_that_needs_action_is_the_error(
    fleet: str, tmp_path: Path, ship: Callable[[str, str, str], None]
) -> None:
    """A bad build in one region: exit code 6 as of the command, and its row names the rollback."""
    ship("pay", "us-west-2", "errors_5_percent")
    control(fleet, "advance", seconds=600)
    document, error = execute("status.ipynb", tmp_path, labels=["team=payments"])
    assert (error["reference"], error["exit_code"]) == ("fleet-needs-action", 6)
    assert "pay-us-west-2: ERROR RATE HIGH" in error["what"] and "eu-west-1" not in error["what"]
    (shown,) = (each for each in outputs(document) if "text/html" in each)
    assert "buddy-ops rollback -e pay-us-west-2" in "".join(shown["text/html"])
