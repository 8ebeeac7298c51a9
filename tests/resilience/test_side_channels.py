"""Nothing beside the action stops it: terminal, disk, archive, locks, charts, signals and a kernel's surroundings.

A matrix of what fails and of which action is under way. Each action moves the traffic where it must be, and its exit
code says so.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Situation

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"requests_per_minute": 6000, "history_minutes": 12}

NO_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""
FOREIGN_KERNEL = '{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}'


@dataclass
class Surroundings:
    """What a command runs in: a project of its own, a HOME, and what is done to them."""

    folder: Path
    environment: dict[str, str]
    shell: list[str] = field(default_factory=list)
    redirects: str = ""
    closes_pipe: bool = False
    hangs_up: bool = False

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def home(self) -> Path:
        return Path(self.environment["HOME"])


def surroundings(folder: Path) -> Surroundings:
    """A project whose runs/ is its own, and an empty HOME."""
    (folder / "home").mkdir(parents=True)
    for name in ("parameters", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUDDY", "XDG", "JUPYTER_"))}
    # The token of the sandbox's control calls is where the tests' own user has it.
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Surroundings(folder, {**kept, "HOME": str(folder / "home"), "XDG_STATE_HOME": state})


# What fails


def closed(given: Surroundings) -> None:
    """stdout and stderr are closed."""
    given.redirects = ">&- 2>&-"


def full_terminal(given: Surroundings) -> None:
    """What is printed finds no space."""
    given.redirects = ">/dev/full 2>&1"


def pipe_gone(given: Surroundings) -> None:
    """As ``| head -1``: the reader is gone before the first line."""
    given.closes_pipe = True


def disk_full(kib: int) -> Callable[[Surroundings], None]:
    """No file may have more than so many KiB."""

    def limit(given: Surroundings) -> None:
        # The shell counts blocks of 512 bytes.
        given.shell.append(f"ulimit -f {2 * kib}")

    return limit


def not_writable(given: Surroundings) -> None:
    """runs/ is where nobody can write, not even root."""
    given.runs.symlink_to("/proc/1/none")


def in_the_way(given: Surroundings) -> None:
    """runs/ is a file."""
    given.runs.write_text("in the way")


def damaged(given: Surroundings) -> None:
    """The index of runs/ is damaged."""
    given.runs.mkdir()
    (given.runs / "index.json").write_text("{")


def no_locks(given: Surroundings) -> None:
    """The file system has no locks."""
    (given.folder / "sitecustomize.py").write_text(NO_LOCKS)
    given.environment["PYTHONPATH"] = os.pathsep.join([str(given.folder), os.environ.get("PYTHONPATH", "")])


def latex(given: Surroundings) -> None:
    """A person's matplotlib typesets by LaTeX, which is not there."""
    (given.folder / "matplotlibrc").write_text("text.usetex: True\nbackend: nonsense\n")
    given.environment |= {"MATPLOTLIBRC": str(given.folder / "matplotlibrc"), "PATH": "/nowhere"}


def hangup(given: Surroundings) -> None:
    """The terminal's session ends, under nohup."""
    given.hangs_up = True


def long_names(given: Surroundings) -> None:
    """TMPDIR is longer than a socket's name may be."""
    long = given.folder / ("long" * 30)
    long.mkdir()
    given.environment["TMPDIR"] = str(long)


def foreign_kernel(given: Surroundings) -> None:
    """A kernelspec named python3 that is another program, where Jupyter looks first."""
    given.environment["JUPYTER_PATH"] = str(given.home / "jupyter")
    specs = given.home / "jupyter/kernels/python3"
    specs.mkdir(parents=True)
    (specs / "kernel.json").write_text(FOREIGN_KERNEL)


def own_startup(given: Surroundings) -> None:
    """An IPython startup file that ends the kernel."""
    startup = given.home / ".ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00-own.py").write_text("import os; os._exit(3)")


def home_not_writable(given: Surroundings) -> None:
    """HOME is where nobody can write."""
    given.environment["HOME"] = "/proc/1/none"


FAILURES: dict[str, Callable[[Surroundings], None]] = {
    "stdout closed": closed,
    "terminal full": full_terminal,
    "pipe gone": pipe_gone,
    **{f"disk full at {kib} KiB": disk_full(kib) for kib in (4, 16, 64, 120)},
    "runs not writable": not_writable,
    "runs is a file": in_the_way,
    "index damaged": damaged,
    "no locks": no_locks,
    "matplotlib by LaTeX": latex,
    "hangup under nohup": hangup,
    "TMPDIR too long": long_names,
    "foreign kernel": foreign_kernel,
    "own startup file": own_startup,
    "HOME not writable": home_not_writable,
}


# What is under way


@dataclass(frozen=True)
class Action:
    """A command, and how it must end: exit code, and the version that serves alone."""

    words: tuple[str, ...]
    exit_code: int
    serves: str
    scenario: str
    live: str = ""
    build: str = ""


ACTIONS = {
    "command": Action(("rollback", "--to-version", "1", "--yes", "--approved-by", "Ada"), 0, "1", "good", live="good"),
    "runbook": Action(
        ("run", "rollback/immediate", "-p", "to_version=1", "-p", "approved_by=[Ada]"), 0, "1", "good", live="good"
    ),
    "canary": Action(
        ("run", "strategies/canary", "-p", "approved_by=[Ada]"), 3, "1", "total_failure", build="total_failure"
    ),
}
DAILY = {
    *(("command", failure) for failure in list(FAILURES)[::3]),
    ("command", "matplotlib by LaTeX"),
    ("runbook", "disk full at 16 KiB"),
}  # fmt: skip


def cases() -> list[Any]:
    """Every action under every failure: each day a sample, most of it of the command, which needs no kernel."""
    return [
        pytest.param(action, failure, id=f"{action}: {failure}", marks=[] if (action, failure) in DAILY else [pytest.mark.whole])
        for action in ACTIONS
        for failure in FAILURES
    ]  # fmt: skip


def run(given: Surroundings, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command in its surroundings, in a process of its own."""

    script = "; ".join([*given.shell, f'exec "$@" {given.redirects}'])
    line = ["/bin/sh", "-c", script, "sh", sys.executable, "-m", "buddy_ops.cli.main", *words]
    # As nohup has it: the command inherits that the signal is ignored.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if given.hangs_up else signal.SIG_DFL)
    process = subprocess.Popen(
        line,
        cwd=given.folder,
        env=given.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGHUP, before)
    if given.closes_pipe:
        process.stdout.close()  # type: ignore[union-attr]
        process.stdout = None
    while given.hangs_up and process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.2)
    said, complained = process.communicate(timeout=240)
    return subprocess.CompletedProcess(line, process.returncode, said, complained)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("action", "failure"), cases())
def test_traffic_moves_and_the_exit_code_is_true(
    situation: Bring,
    fresh_processes: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
    failure: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Whatever fails beside it, the action ends as it does undisturbed."""
    expected = ACTIONS[action]
    here = situation(expected.scenario, **OPTIONS)
    if expected.live:
        here.ship_by_hand(expected.live)
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER", raising=False)
    given = surroundings(tmp_path / "project")
    FAILURES[failure](given)
    words = [*expected.words]
    if expected.build:
        words += ["-p", f"artifact={here.build(expected.build)}"]
    done = run(given, *words)
    alias = here.alias()
    assert alias["FunctionVersion"] == expected.serves and "RoutingConfig" not in alias, (done.stdout, done.stderr)
    assert done.returncode == expected.exit_code, (done.stdout, done.stderr)
    assert "Traceback" not in f"{done.stdout}{done.stderr}"
    record_property("matrix", ("side channels", action, 1))


BROKEN_KERNEL = """
import os, sys
if "buddy_ops.runs._kernel" in sys.orig_argv:
    os.write(2, b"libzmq.so.5: cannot open shared object file")
    os._exit(1)
"""


def test_the_last_words_of_a_kernel_are_in_the_error(
    situation: Bring, fresh_processes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that ends at its start says why; the way that the error names needs no kernel, and works."""
    here = situation("good", **OPTIONS)
    here.ship_by_hand("good")
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER", raising=False)
    given = surroundings(tmp_path / "project")
    (given.folder / "sitecustomize.py").write_text(BROKEN_KERNEL)
    given.environment["PYTHONPATH"] = os.pathsep.join([str(given.folder), os.environ.get("PYTHONPATH", "")])
    done = run(given, *ACTIONS["runbook"].words)
    assert done.returncode == 1 and here.alias()["FunctionVersion"] == "2"
    assert "libzmq.so.5: cannot open shared object file" in done.stderr
    assert "`buddy-ops rollback`" in done.stderr
    assert run(given, *ACTIONS["command"].words).returncode == 0
    assert here.alias()["FunctionVersion"] == "1"
