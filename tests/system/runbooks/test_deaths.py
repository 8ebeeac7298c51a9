"""However a run dies, and wherever: its archive is finished and true, and no kernel is left behind."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buddy_ops.runs import archive, verification
from tests import programs
from tests.conftest import Situation, sampled
from tests.resilience.harness import lease_minutes, must_be_whole
from tests.runs.test_archive import alone

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
KERNELS = ("buddy_ops.runs._kernel", "ipykernel_launcher")
"""Our engine's, and plain papermill's."""

LIMIT_S = 60.0
CELL_TIMEOUT_S = 8

PARAMETERS = """environment: str = "sandbox"  # which file in parameters/
settings: dict = {}  # the environment's settings; empty: read from that file
at: str = ""  # the cell that dies
how: str = ""  # of what
flag: str = ""  # the file that says that it is dying
secret: list[str] = []  # more"""

CELL = """import time, pathlib
print("said in NAME", flush=True)
if at == "NAME":
    time.sleep(1.5)
    pathlib.Path(flag).touch()
    while how == "error" and pathlib.Path(flag).exists():
        time.sleep(0.02)
    if how == "error":
        raise ValueError("it broke in NAME")
    time.sleep(60)"""

ENDS = {
    "error": ("failed", "failed"),
    "timeout": ("interrupted", "timed-out"),
    "SIGINT": ("interrupted", "interrupted"),
    "SIGTERM": ("interrupted", "interrupted"),
    "papermill killed": ("interrupted", "killed"),
    "kernel killed": ("interrupted", "killed"),
}
"""The state of the cell that dies, and the outcome of its run."""


def tiny(folder: Path, *cells: str) -> Path:
    """A project of its own, with one notebook of these cells; its path."""
    shutil.copytree(ROOT / "parameters", folder / "parameters")
    (folder / "notebooks").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    sources = [
        ("markdown", "# Tiny", []),
        ("code", PARAMETERS, ["parameters"]),
        *(("code", each, []) for each in cells),
    ]
    made = [
        {"cell_type": kind, "id": f"cell-{number}", "metadata": {"tags": tags}, "source": source}
        | ({"outputs": [], "execution_count": None} if kind == "code" else {})
        for number, (kind, source, tags) in enumerate(sources)
    ]
    path = folder / "notebooks" / "tiny.ipynb"
    path.write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


@dataclass
class Running:
    """A run under way, and the processes that it started."""

    process: "subprocess.Popen[str]"
    seen: set[int] = field(default_factory=set)

    def descendants(self, pid: int | None = None) -> list[int]:
        """The processes that it started, and theirs, nearest first."""
        found: list[int] = []
        for task in Path(f"/proc/{pid or self.process.pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *self.descendants(child)]
        self.seen |= set(found)
        return found

    def named(self, *names: str) -> int:
        """The one process of ours that is one of these programs."""
        (pid,) = (each for each in self.descendants() if any(programs.is_program(each, name) for name in names))
        return pid

    def wait_for(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not what():
            assert self.process.poll() is None and time.monotonic() < deadline, self.process.communicate()
            time.sleep(0.02)

    def watch_kernel(self) -> None:
        """Note what runs now, its kernel among it: ``end`` wants all of it gone."""
        self.named(*KERNELS)

    def strike(self, how: str) -> None:
        self.watch_kernel()
        if how.startswith("SIG"):
            self.process.send_signal(signal.Signals[how])
        elif how == "papermill killed":
            os.kill(self.named("buddy_ops.runs.engine"), signal.SIGKILL)
        elif how == "kernel killed":
            os.kill(self.named(*KERNELS), signal.SIGKILL)
        elif how == "killed":
            self.process.kill()

    def end(self) -> int:
        """Its exit code; nothing that it started outlives it by more than three seconds."""
        code = self.process.wait(timeout=LIMIT_S)
        assert self.seen, "nobody watched what it started"
        deadline = time.monotonic() + 3
        while left := [pid for pid in self.seen if programs.lives(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        return code


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts one of our programs; what the test leaves running is killed."""
    started: list[Running] = []

    def go(program: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> Running:
        process = subprocess.Popen(
            [str(BIN / program), *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(Running(process))
        return started[-1]

    yield go
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def states(notebook: Path) -> list[str]:
    document = json.loads(notebook.read_text("utf-8"))
    return [each["metadata"]["buddy_ops"]["state"] for each in document["cells"] if each["cell_type"] == "code"]


def must_be_archived(folder: Path, code: int, how: str, died: int, cells: int) -> archive.ManifestEntry:
    """States, exit code, manifest, index and page are true."""
    state, outcome = ENDS[how]
    assert states(folder / "notebook.ipynb") == ["done"] * died + [state] + ["not run"] * (cells - died - 1)
    (entry,) = archive.list_entries(folder.parent)
    assert (code, entry.exit_code, entry.outcome) == (1, 1, outcome)
    assert entry.folder == folder.name and entry.trouble and entry.ended >= entry.began
    assert set(entry.files) == {"notebook.ipynb", "report.html", "journal.jsonl"}
    assert verification.verify_archive(alone(folder.parent, folder.parent / "alone")).problems == ()
    assert outcome in (folder.parent / "index.html").read_text("utf-8")
    assert f">{state}</span>" in (folder / "report.html").read_text("utf-8")
    return entry


ENDS_DAILY = {
    ("SIGTERM", "last"),
    ("kernel killed", "last"),
}


@pytest.mark.parametrize(("how", "at"), sampled(itertools.product(ENDS, ("first", "last")), ENDS_DAILY))
def test_a_run_that_dies_is_archived_as_it_was(
    situation: Bring, start: Callable[..., Running], how: str, at: str
) -> None:
    """In its first and in its last cell: the cell's state, what it had said, exit code, manifest and index are right."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    flag = here.folder / "flag"
    project = tiny(here.folder / "project", CELL.replace("NAME", "first"), CELL.replace("NAME", "last")).parents[1]
    limit = ("--cell-timeout", "3") if how == "timeout" else ()
    running = start(
        *("buddy-ops", "run", "tiny", "-p", f"at={at}", "-p", f"how={how}", "-p", f"flag={flag}", *limit), cwd=project
    )
    running.wait_for(flag.exists)
    running.strike(how)
    if how == "error":
        flag.unlink()
    code = running.end()
    folder = here.folder / "run"
    entry = must_be_archived(folder, code, how, 2 if at == "first" else 3, 4)
    assert f"said in {at}" in (folder / "notebook.ipynb").read_text("utf-8")
    assert entry.parameters["at"] == at and entry.principal


@pytest.mark.parametrize("how", sampled(ENDS, {"papermill killed"}))
def test_a_canary_that_dies_is_archived_as_it_was(situation: Bring, start: Callable[..., Running], how: str) -> None:
    """In the middle of a real canary: the same, and AWS takes the split traffic back by the lease."""
    here = situation("good", requests_per_minute=600, history_minutes=30)
    limit = ("--cell-timeout", str(CELL_TIMEOUT_S)) if how == "timeout" else ()
    running = start(
        *("buddy-ops", "run", "strategies/canary", "-p", f"artifact={here.build('good')}"),
        *("-p", "approved_by=[Ada]", *limit),
    )
    folder = here.folder / "run"
    running.wait_for(lambda: '"shifted"' in text(folder / "journal.jsonl"))
    if how == "error":
        running.watch_kernel()
        here.ask("chaos", kind="denied", operation="UpdateAlias", times=99)
    else:
        # The next look at the metrics gets no answer: the canary stands where it is.
        here.ask("chaos", kind="silent", operation="GetMetricData", times=99)
        running.wait_for(lambda: here.ask("chaos/seen")["struck"])
        running.strike(how)
    code = running.end()
    here.ask("chaos")
    entry = must_be_archived(folder, code, how, 6, 9)
    assert entry.people == ("Ada",) and entry.runbook == "strategies/canary"
    if how in ("SIGINT", "SIGTERM", "timeout"):
        assert "Stopped. Traffic stays at" in text(folder / "notebook.ipynb")  # its ``finally`` ran
    here.ask("advance", seconds=60 * (lease_minutes() + 1))
    must_be_whole(here, "1")


def text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


@pytest.mark.usefixtures("fresh_processes")
def test_a_killed_supervisor_takes_its_run_along_and_is_archived_later(
    situation: Bring, start: Callable[..., Running]
) -> None:
    """SIGKILL of ``buddy-ops run`` itself: kernel and papermill end, and ``runs index`` finishes the folder.

    Its first cell imports a file of the project, as in Jupyter.
    """
    here = situation("good", history_minutes=0, requests_per_minute=0)
    flag = here.folder / "flag"
    project = tiny(here.folder / "project", "import of_this_project", CELL.replace("NAME", "first")).parents[1]
    (project / "of_this_project.py").touch()
    running = start(
        *("buddy-ops", "run", "tiny", "-p", "at=first", "-p", "how=x", "-p", f"flag={flag}"),
        cwd=project,
        BUDDY_OPS_RUN_FOLDER=str(project / "runs" / "mine"),
    )
    running.wait_for(flag.exists)
    running.watch_kernel()
    running.process.kill()
    assert running.end() == -signal.SIGKILL
    assert not (project / "runs" / "mine" / "manifest.json").exists()
    done = start("buddy-ops", "runs", "index", cwd=project)
    said, _ = done.process.communicate(timeout=LIMIT_S)
    assert "mine: archived" in said
    (entry,) = archive.list_entries(project / "runs")
    assert (entry.outcome, entry.exit_code, entry.runbook) == ("killed", 1, "tiny")
    assert states(project / "runs" / "mine" / "notebook.ipynb") == ["done"] * 3 + ["interrupted"]
    assert "said in first" in text(project / "runs" / "mine" / "notebook.ipynb")


# papermill itself, with our engine


@pytest.mark.parametrize(
    "how", sampled(["error", "timeout", "SIGINT", "SIGTERM", "killed", "kernel killed"], {"SIGTERM"})
)
def test_papermill_with_our_engine_tells_the_truth_too(
    situation: Bring, start: Callable[..., Running], how: str, request: pytest.FixtureRequest
) -> None:
    """Nobody supervises: states and partial output in its file are right all the same, and no kernel is left."""
    if how == "killed":
        # A kernel that lost its papermill ends itself, and one that was forked is not sure to.
        request.getfixturevalue("fresh_processes")
    here = situation("good", history_minutes=0, requests_per_minute=0)
    flag, out = here.folder / "flag", here.folder / "out.ipynb"
    notebook = tiny(here.folder / "project", CELL.replace("NAME", "first"), CELL.replace("NAME", "last"))
    limit = ("--execution-timeout", "3") if how == "timeout" else ()
    running = start(
        *("papermill", "--engine", "buddy-ops", str(notebook), str(out), *limit),
        *("-p", "at", "first", "-p", "how", how, "-p", "flag", str(flag)),
        cwd=notebook.parents[1],
    )
    running.wait_for(flag.exists)
    running.strike(how)
    if how == "error":
        flag.unlink()
    assert running.end() == (-signal.SIGKILL if how == "killed" else 1)
    state = "failed" if how == "error" else "interrupted"
    document = json.loads(out.read_text("utf-8"))
    code = [each for each in document["cells"] if each["cell_type"] == "code"]
    assert [each["metadata"]["buddy_ops"]["state"] for each in code] == ["done", "done", state, "not run"]
    assert [each["metadata"]["papermill"]["status"] for each in code] == ["completed"] * 2 + ["failed", "pending"]
    assert "said in first" in json.dumps(code[2]["outputs"])


@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.parametrize(("how", "code"), sampled([("SIGINT", 1), ("SIGTERM", -signal.SIGTERM)], slice(1)))
def test_plain_papermill_that_is_interrupted_does_not_end_with_0(
    situation: Bring, start: Callable[..., Running], how: str, code: int
) -> None:
    """The exit codes that docs/reference/exit-codes.md has; SIGTERM gets no answer, and no kernel is left either way."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    flag = here.folder / "flag"
    notebook = tiny(here.folder / "project", CELL.replace("NAME", "first"))
    running = start(
        *("papermill", str(notebook), str(here.folder / "out.ipynb")),
        *("-p", "at", "first", "-p", "how", how, "-p", "flag", str(flag)),
        cwd=notebook.parents[1],
    )
    running.wait_for(flag.exists)
    running.strike(how)
    assert running.end() == code


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("-p", "attt", "x"), "attt: no such parameter; did you mean at?"),
        (("-y", "secret: 5"), "secret: 5"),
        (("-p", "environment", "production"), "unknown-environment"),
        (("-y", '\'x=__import__("os").system("touch INJECTED")#\': 1'), "no such parameter"),
    ],
)
def test_our_engine_refuses_parameters_before_a_kernel_starts(
    situation: Bring, start: Callable[..., Running], given: tuple[str, ...], said: str
) -> None:
    """Unknown names, wrong types, and names that are code: papermill would inject and run them."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    notebook = tiny(here.folder / "project", "print('ran')")
    project = notebook.parents[1]
    running = start(
        "papermill", "--engine", "buddy-ops", str(notebook), str(here.folder / "out.ipynb"), *given, cwd=project
    )
    _, told = running.process.communicate(timeout=LIMIT_S)
    assert running.process.returncode == 1 and said in told
    assert not (here.folder / "out.ipynb").exists() and not (project / "INJECTED").exists()
