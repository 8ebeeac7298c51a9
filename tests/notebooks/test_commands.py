"""``buddy-ops rollback`` and ``buddy-ops status`` in a terminal, each in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Situation
from tests.notebooks.test_runbooks import told_once

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[2]
HEAVY = (
    "pandas",
    "numpy",
    "matplotlib",
    "IPython",
    "ipykernel",
    "nbformat",
    "papermill",
    "asyncio",
    "boto3",
    "rich.console",
)
"""What a rollback in a terminal does without: Jupyter and pictures, and what would only cost it time."""


@pytest.fixture
def two_versions(situation: Bring) -> Situation:
    """v2 is live, v1 served before."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    return here


def command(*arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """The command, with what somebody types."""
    line = [sys.executable, "-m", "buddy_ops.cli", *arguments]
    return subprocess.run(line, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=120, check=False)


def test_a_typed_rollback(two_versions: Situation) -> None:
    """The same plan and the same gate as in the notebook: the word and a name move the traffic, and are journaled."""
    done = command("rollback", "--to-version", "1", typed="sandbox\nAda\n")
    assert done.returncode == 0, done.stderr
    assert "Then:" in done.stdout and "v1 serves 100 % of the traffic" in done.stdout
    assert two_versions.alias()["FunctionVersion"] == "1"
    journal = (two_versions.folder / "run" / "journal.jsonl").read_text("utf-8")
    assert '"kind": "approved"' in journal and '"by": ["Ada"]' in journal and '"kind": "rollback"' in journal


@pytest.mark.parametrize(
    ("arguments", "typed", "reference"),
    [
        ((), "yes\n", "approval-refused"),
        ((), "", "approval-missing"),
        (("--yes",), "", "approval-missing"),
        (("--approved-by", "Ada"), "", "approval-missing"),
    ],
    ids=["another word", "nobody there", "nobody named", "named but not asked"],
)
def test_without_a_decision_nothing_moves(
    two_versions: Situation, arguments: tuple[str, ...], typed: str, reference: str
) -> None:
    """Refused, exit code 4, and the alias is untouched."""
    done = command("rollback", "--to-version", "1", *arguments, typed=typed)
    assert done.returncode == 4
    told_once(done.stderr, reference)
    assert two_versions.alias()["FunctionVersion"] == "2" and two_versions.calls("UpdateAlias") == []


def test_a_decided_rollback_asks_nobody_and_is_light(two_versions: Situation) -> None:
    """--yes --approved-by moves the traffic, and imports neither Jupyter nor pandas nor matplotlib; status neither."""
    loaded = f"print('loaded', [name for name in {HEAVY} if name in sys.modules])"
    for arguments in (["rollback", "--to-version", "1", "--yes", "--approved-by", "Ada"], ["status"]):
        code = f"import sys; from buddy_ops.cli import app; app({arguments}, standalone_mode=False); {loaded}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("loaded []\n"), done.stdout
    assert two_versions.alias()["FunctionVersion"] == "1"
