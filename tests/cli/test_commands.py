"""``buddy-ops rollback``, ``buddy-ops status`` and ``buddy-ops runs`` in a terminal, each in a process of its own."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from buddy_ops.runs import archive
from tests.conftest import Situation
from tests.runs.test_archive import leave, sealed
from tests.system.runbooks.test_runbooks import told_once

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


def command(*arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    """The command, with what somebody types."""
    line = [sys.executable, "-m", "buddy_ops.cli.main", *arguments]
    return subprocess.run(line, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=120, check=False)


def test_a_typed_rollback(two_versions: Situation) -> None:
    """The same plan and the same gate as in the notebook: the word and a name move the traffic, and are journaled."""
    done = command("rollback", "--to-version", "1", typed="sandbox\nAda\n")
    assert done.returncode == 0, done.stderr
    assert "After:" in done.stdout and "v1 receives 100 % of traffic" in done.stdout
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
    # The next step names this command's options, not the runbook's parameter: without --yes it would ask again.
    named = "give the names: --yes --approved-by NAME." in done.stderr
    assert named == (reference == "approval-missing") and "approved_by" not in done.stderr
    assert two_versions.alias()["FunctionVersion"] == "2" and two_versions.calls("UpdateAlias") == []


def test_a_decided_rollback_asks_nobody_and_is_light(two_versions: Situation) -> None:
    """--yes --approved-by moves the traffic, and imports neither Jupyter nor pandas nor matplotlib; status neither."""
    loaded = f"print('loaded', [name for name in {HEAVY} if name in sys.modules])"
    for arguments in (["rollback", "--to-version", "1", "--yes", "--approved-by", "Ada"], ["status"]):
        code = f"import sys; from buddy_ops.cli.main import app; app({arguments}, standalone_mode=False); {loaded}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("loaded []\n"), done.stdout
    assert two_versions.alias()["FunctionVersion"] == "1"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """An archive of three runs: Ada's, which ended well, another like it, and Grace's, which failed."""
    for name, who, state in (("run-0001", "Ada", "done"), ("run-0002", "Ada", "done"), ("run-0003", "Grace", "failed")):
        sealed(tmp_path, name, state, parameters={"approved_by": [who], "incident": "INC-7"}, incident="INC-7")
    return tmp_path


def runs(what: str, kept: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return command("runs", what, *arguments, "--archive", str(kept))


def test_archived_runs_are_listed(kept: Path) -> None:
    """A line each, oldest first: folder, outcome, exit code, when, who, incident; and what is unfinished is none."""
    leave(kept, "run-0004")
    done = runs("list", kept)
    assert done.returncode == 0, done.stderr
    found = [re.split(r" {2,}", line) for line in done.stdout.splitlines()]
    at = "2026-11-22 03:12 UTC"
    assert found == [
        ["run-0001", "SUCCEEDED", "0", at, "Ada", "INC-7"],
        ["run-0002", "SUCCEEDED", "0", at, "Ada", "INC-7"],
        ["run-0003", "FAILED", "1", at, "Grace", "INC-7"],
    ]


def test_an_archived_run_is_shown(kept: Path) -> None:
    """Its manifest, by its id or its folder, as JSON; one that is not there is refused, exit code 2."""
    for name in ("0003", "run-0003"):
        done = runs("show", kept, name)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["folder"], said["people"], said["outcome"]) == ("run-0003", ["Grace"], "failed")
        assert said["sha256"] == archive.list_entries(kept)[-1].sha256 and set(said["files"]) >= {"journal.jsonl"}
    unknown = runs("show", kept, "beef")
    assert unknown.returncode == 2
    told_once(unknown.stderr, "run-unknown")


def test_two_archived_runs_are_compared(kept: Path) -> None:
    """What differs, once as it was and once as it is; two alike do not differ."""
    same = runs("diff", kept, "0001", "0002")
    assert (same.returncode, same.stdout) == (0, "No differences, except for times.\n")
    other = runs("diff", kept, "0001", "0003")
    assert other.returncode == 0, other.stderr
    assert "result:\n  - SUCCEEDED\n  + FAILED\n" in other.stdout and "Grace" in other.stdout
    assert "parameter incident" not in other.stdout


def test_a_changed_byte_ends_a_verification_with_1(kept: Path) -> None:
    """Before it: exit code 0, and the newest hash. After it: 1, and the file; so does an announced hash that is gone."""
    newest = archive.list_entries(kept)[-1].sha256
    whole = runs("verify", kept, "--newest", newest)
    assert whole.returncode == 0, whole.stdout
    assert f"OK: all files of 3 runs match their checksums.\nNewest manifest: {newest}." in whole.stdout
    missing = runs("verify", kept, "--newest", "0" * 64)
    assert missing.returncode == 1 and "the chain was cut off or rewritten" in missing.stdout
    path = kept / "run-0002" / "report.html"
    content = path.read_bytes()
    path.write_bytes(bytes((content[0] ^ 1,)) + content[1:])
    changed = runs("verify", kept)
    assert changed.returncode == 1
    assert "CHANGED: run-0002/report.html: changed." in changed.stdout
    assert "FAILED: 1 problem in 3 runs." in changed.stdout


def without(package: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command as a plain installation has it: without a package of the extra 'run'."""
    code = f"import sys; sys.modules[{package!r}] = None; from buddy_ops.cli.main import app; app({list(arguments)!r})"
    line = [sys.executable, "-c", code]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_run_without_the_extra_says_what_to_install() -> None:
    """No traceback: the package, the state and the next command, before anything is written."""
    done = without("papermill", "run", "strategies/canary")
    assert done.returncode == 2
    assert "INVALID INPUT (extra-missing)" in done.stderr and "papermill is not installed" in done.stderr
    assert "Nothing was changed." in done.stderr and "pip install 'buddy-ops[run]'" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_archiving_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    """Commands that import a missing package only later end with the same error."""
    leave(tmp_path, "one")
    done = without("jinja2", "runs", "index", "--archive", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "INVALID INPUT (extra-missing)" in done.stderr and "jinja2 is not installed" in done.stderr
    assert "Traceback" not in done.stderr
