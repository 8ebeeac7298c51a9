"""The process that executes a run's notebook, and its kernel's, before there is one."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buddy_ops.core.errors import InvalidInput
from buddy_ops.runs import supervisor
from buddy_ops.runs.worker import start_worker
from tests import programs

LIMIT_S = 60


def test_a_worker_without_a_job_ends_with_its_block() -> None:
    """It was started before the parameters were checked: nothing is left of a run that they refuse."""
    with start_worker() as worker:
        assert worker._process.poll() is None
        kernel = _only_child(worker._process.pid)
        with pytest.raises(InvalidInput, match="notebook-missing"):
            supervisor.run_notebook("strategies/none", {}, worker=worker)
        assert worker._process.poll() is None
    assert worker._process.returncode is not None
    _wait_until(lambda: not programs.lives(kernel))


def _only_child(pid: int) -> int:
    children: list[str] = []

    def started() -> bool:
        children[:] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return bool(children)

    _wait_until(started)
    (child,) = children
    return int(child)


def _wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
