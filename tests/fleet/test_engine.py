"""Steps on Dask: on a cluster of this machine and on one that others started, whatever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from buddy_ops.core.errors import BuddyError
from buddy_ops.fleet import engine
from buddy_ops.fleet.engine import Engine, open_engine
from buddy_ops.fleet.step import LOST, Step
from buddy_ops.runs.archive import find_run, open_store
from buddy_ops.runs.verification import verify_archive
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.fleet.conftest import REGIONS, write_project

PARAMETERS = """
environment: str = ""  # a file in parameters/
settings: dict = {}  # its settings
folder: str = ""  # where it says that it began, and where it is told to end
artifact: str = ""  # a build
"""
BEGIN_AND_WAIT = """
import os, time
from pathlib import Path
Path(folder, f"began-{os.getpid()}").touch()
while not Path(folder, "end").exists():
    time.sleep(0.02)
"""


@pytest.fixture
def steps(sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Two steps, of a runbook that waits until the file 'end' is there."""
    project = write_project(tmp_path, sandbox_url, {"shop": "web"})
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(BEGIN_AND_WAIT)]
    python = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    notebook = new_notebook(cells=cells, metadata=python)
    nbformat.write(notebook, project / "notebooks" / "wait.ipynb")
    monkeypatch.chdir(project)
    return [Step(f"shop-{region}", "wait", {"folder": str(tmp_path)}, region) for region in REGIONS[:2]]


@contextmanager
def program(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """One of Dask's programs, as its operators start it; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def started_scheduler(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A scheduler's address and process."""
    file = folder / "scheduler.json"
    arguments = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with program("dask_scheduler", *arguments) as process:
        # It is there before it is written.
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))
        yield json.loads(file.read_text())["address"], process


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with started_scheduler(tmp_path) as started:
        yield started


def worker(address: str, folder: Path, threads: int = 1) -> "AbstractContextManager[subprocess.Popen[str]]":
    """A worker that runs so many steps at a time."""
    return program(
        "dask_worker",
        address,
        "--no-dashboard",
        "--no-nanny",
        "--nthreads",
        str(threads),
        "--local-directory",
        str(folder),
    )


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds; the test's time limit ends it otherwise."""
    while not condition():
        time.sleep(0.02)


def began(folder: Path) -> list[int]:
    """The kernels that began to wait."""
    return [int(path.name.partition("-")[2]) for path in folder.glob("began-*")]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def end_steps(running: Engine, folder: Path, count: int) -> list[tuple[str, str]]:
    """Let all steps end once so many kernels wait; the results' targets and outcomes."""
    wait_for(lambda: len(began(folder)) >= count)
    (folder / "end").touch()
    return sorted((result.target, result.outcome) for result in running.results())


@pytest.mark.whole
def test_steps_run_side_by_side_and_are_archived(steps: list[Step], tmp_path: Path) -> None:
    """Both wait at the same time: the file that ends them is written when both have begun."""
    with open_engine("", 2) as running:
        running.submit(*steps)
        ended = end_steps(running, tmp_path, 2)
    assert ended == [(step.target, "done") for step in sorted(steps, key=lambda step: step.target)]
    assert verify_archive(open_store()).problems == ()


@pytest.mark.whole
def test_a_scheduler_and_workers_of_others_do_the_same(
    steps: list[Step], tmp_path: Path, scheduler: tuple[str, "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers with a thread each, named by the variable that Dask's own clients read."""
    address, _ = scheduler
    monkeypatch.setenv(engine.ADDRESS, address)
    with worker(address, tmp_path / "a"), worker(address, tmp_path / "b"), open_engine("", 2) as running:
        running.submit(*steps)
        ended = end_steps(running, tmp_path, 2)
    assert ended == [(step.target, "done") for step in sorted(steps, key=lambda step: step.target)]


def test_a_worker_with_another_disk_gets_the_project_and_returns_the_run(
    steps: list[Step], tmp_path: Path, scheduler: tuple[str, "subprocess.Popen[str]"]
) -> None:
    """Its run is in the project's own archive, chained there, and its build was there under another name."""
    address, _ = scheduler
    builds.write(tmp_path / "build.zip", PROFILES["good"], "1.0.0")
    with worker(address, tmp_path / "a"), open_engine(address, 2) as running:
        # Another disk has no such file.
        for marker in tmp_path.glob(".buddy-ops-fleet-*"):
            marker.rename(tmp_path / "marker")
        running.submit(replace(steps[0], parameters={**steps[0].parameters, "artifact": "build.zip"}))
        wait_for(lambda: began(tmp_path))
        (tmp_path / "end").touch()
        (result,) = running.results()
        (tmp_path / "marker").rename(marker)
    entry = find_run(open_store(), result.folder)
    assert entry.sha256 == result.manifest and entry.parameters["artifact"].startswith("build-")
    assert (result.outcome, result.files) == ("done", {})
    assert verify_archive(open_store()).problems == ()


def test_a_killed_workers_step_ends_and_is_run_again(
    steps: list[Step], tmp_path: Path, scheduler: tuple[str, "subprocess.Popen[str]"]
) -> None:
    """The first kernel ends with its worker; another worker's kernel takes its place, and there is one result."""
    address, _ = scheduler
    with worker(address, tmp_path / "a") as first, open_engine(address, 2) as running:
        running.submit(steps[0])
        wait_for(lambda: began(tmp_path))
        (kernel,) = began(tmp_path)
        first.kill()
        with worker(address, tmp_path / "b"):
            ended = end_steps(running, tmp_path, 2)
            assert not alive(kernel)
    assert ended == [(steps[0].target, "done")]


@pytest.mark.whole
def test_a_killed_schedulers_steps_are_lost(
    steps: list[Step], tmp_path: Path, scheduler: tuple[str, "subprocess.Popen[str]"]
) -> None:
    """Nothing is guessed of a step whose end cannot be reported."""
    address, process = scheduler
    with worker(address, tmp_path / "a"), open_engine(address, 2) as running:
        running.submit(steps[0])
        wait_for(lambda: began(tmp_path))
        process.kill()
        (result,) = running.results()
        assert (result.outcome, result.exit_code) == (LOST, 1)
        (tmp_path / "end").touch()


@pytest.mark.whole
def test_a_cluster_without_workers_is_refused_with_the_command_that_starts_one(
    scheduler: tuple[str, "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a worker its steps would wait for ever."""
    address, _ = scheduler
    monkeypatch.setattr(engine, "CONNECT_S", 1)
    with pytest.raises(BuddyError) as caught, open_engine(address, 1):
        pass
    assert caught.value.reference == "no-workers"
    assert f"`dask worker {address}`" in caught.value.next


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_S", 1)
    with pytest.raises(BuddyError) as caught, open_engine("tcp://127.0.0.1:9", 1):
        pass
    assert caught.value.reference == "scheduler-unreachable"
    with pytest.raises(BuddyError) as caught, open_engine("no address", 1):
        pass
    assert caught.value.reference == "scheduler-unreachable"
