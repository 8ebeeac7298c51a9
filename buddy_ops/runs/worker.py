"""The process that executes a run's notebook, as its supervisor sees it.

Imports little: ``buddy-ops run`` starts the process first, and imports the supervisor while it imports papermill.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from buddy_ops.core import documents
from buddy_ops.core.files import make_scratch_folder
from buddy_ops.core.progress import Progress
from buddy_ops.runs._failures import Failure
from buddy_ops.runs._interrupts import GRACE_S, INTERRUPTED, handle_signals
from buddy_ops.runs.child_process import describe_last_output

if TYPE_CHECKING:
    from buddy_ops.runs.engine import Job

KILLED = "RunnerKilled"


class Worker:
    """The process that executes the notebook. If it is killed, its kernel is killed too."""

    def __init__(self, private: str) -> None:
        """Args: private: a folder for the process's stderr."""
        self._said = (Path(private) / "stderr").open("w+", encoding="utf-8", errors="replace")
        self.failures: list[str] = []
        self._process = subprocess.Popen(
            # -P: else a file of the working folder could take the place of a module (docs.python.org, command line).
            [sys.executable, "-P", "-m", "buddy_ops.runs.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for us: we pass it on
        )
        self._kernel: int | None = None
        self._where = "before its first cell"
        self._signal = ""
        self._limit: threading.Timer | None = None

    def execute(self, job: "Job", tell: Progress) -> Failure | None:
        """Let it execute the job. Returns the failure that ended it, or None."""
        assert self._process.stdin is not None and self._process.stdout is not None
        ended = None
        with handle_signals(self._pass_on):
            # It may have ended already: its exit code, below, says how.
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(job) + "\n")
                self._process.stdin.flush()
            for line in self._process.stdout:
                said = documents.parse_json(line)
                self._kernel = said.get("kernel", self._kernel)
                if "cell" in said:
                    self._where = f"in cell {said['cell']} of {said['of']}, {said['heading']!r}"
                    tell(f"cell {said['cell']} of {said['of']}: {said['heading']}")
                if "failed" in said:
                    self.failures.append(said["failed"])
                if "ended" in said:
                    ended = said["ended"]
            code = self._process.wait()
        if ended == {}:
            return None
        if ended is not None:
            return Failure(**ended)
        # The worker did not report an end, so it was killed; its kernel could still write to AWS.
        self._kill_kernel()
        if self._signal:
            return Failure(INTERRUPTED, f"{self._signal} ended the run {self._where}.")
        how = f"exit code {code}"
        if code < 0:
            how = signal.Signals(-code).name
        return Failure(KILLED, f"The notebook's process was killed ({how}) {self._where}.{self._stderr_tail()}")

    def close(self) -> None:
        """End it if it has not ended; it ends with its kernel."""
        if self._limit is not None:
            self._limit.cancel()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            self._kill_kernel()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def _kill_kernel(self) -> None:
        """A kernel notices only after a second that its parent is gone; until then it could still write."""
        if self._kernel is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._kernel, signal.SIGKILL)

    def _stderr_tail(self) -> str:
        self._said.seek(0)
        return describe_last_output(self._said.read())

    def _pass_on(self, received: signal.Signals) -> None:
        """Pass a signal on to the worker, which ends the cell; the supervisor goes on until the worker has ended."""
        self._signal = received.name
        with suppress(ProcessLookupError):
            self._process.send_signal(received)
        if self._limit is None:
            # The worker kills its kernel after GRACE_S itself; what it then saves has 15 s more.
            self._limit = threading.Timer(GRACE_S + 15, self._process.kill)
            self._limit.daemon = True
            self._limit.start()


@contextmanager
def start_worker() -> Iterator[Worker]:
    """A process that waits for its job. It ends with the block, whether or not it was given one."""
    with make_scratch_folder() as private:
        worker = Worker(private)
        try:
            yield worker
        finally:
            worker.close()
