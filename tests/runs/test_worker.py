"""The process that executes a run's notebook, before it has one."""

import pytest

from buddy_ops.core.errors import InvalidInput
from buddy_ops.runs import supervisor
from buddy_ops.runs.worker import start_worker


def test_a_worker_without_a_job_ends_with_its_block() -> None:
    """It was started before the parameters were checked: nothing is left of a run that they refuse."""
    with start_worker() as worker:
        assert worker._process.poll() is None
        with pytest.raises(InvalidInput, match="notebook-missing"):
            supervisor.run_notebook("strategies/none", {}, worker=worker)
        assert worker._process.poll() is None
    assert worker._process.returncode is not None
