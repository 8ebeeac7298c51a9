"""What a shell completes, and what that costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from buddy_ops.cli import completion
from buddy_ops.core import places
from tests.cli.test_commands import HEAVY, ROOT


def completed(line: str) -> list[str]:
    """What bash is offered behind a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_BUDDY_OPS_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    program = [sys.executable, "-c", f"import sys; sys.argv = {words[:1]!r}; from buddy_ops.cli.main import app; app()"]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return [line.removeprefix("plain,") for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("buddy-ops ro", ["rollback"]),
        ("buddy-ops runs ve", ["verify"]),
        ("buddy-ops rollback -e st", ["staging"]),
        ("buddy-ops run strategies/c", ["strategies/canary"]),
        ("buddy-ops runbooks rollback/i", ["rollback/immediate"]),
        ("buddy-ops rollback --to", ["--to-version"]),
    ],
)
def test_a_shell_is_offered(line: str, offered: list[str]) -> None:
    assert completed(line) == offered


def test_bash_completes_by_the_script_that_is_shown() -> None:
    """What `--show-completion bash` prints defines a function of bash that offers the commands."""
    typed = (
        "source <(buddy-ops --show-completion bash)\n"
        "COMP_WORDS=(buddy-ops runs ve) COMP_CWORD=2\n"
        "_buddy_ops_completion buddy-ops\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", typed], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "verify\n", done.stderr


def test_ids_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest first; a folder's whole name once it is being typed; nothing where there is no archive."""
    monkeypatch.setattr(places, "project_root", lambda: tmp_path)
    assert completion.runs("") == []
    for name in ("2026-11-22T0312Z-canary-prod-7f3a91c2", "2026-11-23T0312Z-canary-prod-8a000000"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "index.json").write_text("{}")
    assert completion.runs("") == ["8a000000", "7f3a91c2"]
    assert completion.runs("7f") == ["7f3a91c2"]
    assert completion.runs("2026-11-22") == ["2026-11-22T0312Z-canary-prod-7f3a91c2"]


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["rollback", "--help"], ["runs", "list"]])
def test_what_needs_no_aws_is_light(words: list[str]) -> None:
    """Help, version and the list of runs import neither Jupyter nor pandas nor rich; help not even settings."""
    light = words[-1] in ("--help", "--version")
    names = (*HEAVY, *(("botocore", "yaml", "rich", "buddy_ops.core.settings") if light else ()))
    code = (
        f"import sys, json; from buddy_ops.cli.main import app; app({words}, standalone_mode=False); "
        f"print(json.dumps([name for name in {names} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr
