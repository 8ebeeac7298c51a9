"""One notebook executed: cell after cell, saved as it goes, each state on disk true even if this was the last write.

It uses papermill's and nbclient's machinery. A cell that has begun is 'interrupted' until it ends; all behind it are
'not run'. Known secrets are removed before anything is written.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import nbformat
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import write_ipynb
from papermill.log import logger

from buddy_ops.core.files import write_atomically
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.side_channels import SideChannels
from buddy_ops.runs._failures import failure_of
from buddy_ops.runs._interrupts import DIED, INTERRUPTED, TIMED_OUT, InterruptHandler
from buddy_ops.runs._kernel_process import KernelProcess
from buddy_ops.runs._private_kernel import PrivateKernel
from buddy_ops.runs.cells import forget_results
from buddy_ops.runs.child_process import Report

State = Literal["done", "failed", "refused", "interrupted", "not run"]
STATES = {"done": "completed", "failed": "failed", "refused": "failed", "interrupted": "failed", "not run": "pending"}
"""Our word for a cell's state, and papermill's nearest."""

STOPPED_BY = {"signal": INTERRUPTED, "timeout": TIMED_OUT}
"""The error's name in a cell that we interrupted, by the reason."""

SAVE_S = 1.0
"""Partial output is on disk after this many seconds, or ``SAVE_SHARE`` times a save's own time, whichever is more."""

SAVE_SHARE = 20
IOPUB_S = 600
"""Seconds that a cell's output may arrive after the cell ended. Every line is waited for, however many there are."""


def execute(
    nb: NotebookNode,
    kernel_name: str,
    output_path: str | None,
    *,
    stop: InterruptHandler,
    redactor: Redactor,
    options: dict[str, Any],
) -> None:
    """Execute ``nb`` in place. Its cells show how each ended; nothing that a cell does raises here."""
    tell = options.pop("tell", lambda **_: None)
    nb.metadata["buddy_ops"] = options.pop("about", {})
    # To an output path papermill itself writes, too, what was not redacted: a supervisor gives it none.
    manager = _Manager(nb, options.pop("save_to", None) or output_path, redactor, options.pop("progress_bar", True))
    kernel_manager = options.pop("kernel_manager_class", PrivateKernel)
    manager.notebook_start()
    client = _Client(
        manager,
        kernel_name=kernel_name,
        kernel_manager_class=kernel_manager,
        startup_timeout=options.get("start_timeout", 60),
        log=logger,
        log_output=options.get("log_output", False),
        stdout_file=options.get("stdout_file"),
        stderr_file=options.get("stderr_file"),
        iopub_timeout=IOPUB_S,
    )
    client.stop, client.tell, client.cell_timeout_s = stop, tell, options.get("execution_timeout")
    client.kernel_process = options.get("kernel_process")
    try:
        client.execute()
    finally:
        stop.kernel = None  # its number may be another process's by now
        manager.cleanup_pbar()
        manager.notebook_complete()
        # After the last save, which may have failed too.
        for line in manager.side.unsaid():
            tell(failed=line)


class _Manager(NotebookExecutionManager):  # type: ignore[misc]
    """Keeps the notebook on disk true, and free of secrets."""

    def __init__(self, nb: NotebookNode, output_path: str | None, redactor: Redactor, progress_bar: object) -> None:
        super().__init__(nb, output_path=output_path, progress_bar=progress_bar)
        self._redactor = redactor
        # A long notebook is saved each second: cells that no longer change are searched for secrets once.
        self._cleaned: dict[int, NotebookNode] = {}
        self._pending: asyncio.TimerHandle | None = None
        self._save_took_s = 0.0
        self.stream = GrowingStream()
        self.side = SideChannels()

    def notebook_start(self, **_: object) -> None:
        forget_results(self.nb)
        for cell in self.nb.cells:
            cell.metadata["buddy_ops"] = {"state": "not run"}
        super().notebook_start()

    def cell_start(self, cell: NotebookNode, cell_index: int | None = None, **_: object) -> None:
        # Until it ends: a kill leaves on disk what was saved last.
        self.note(cell, "interrupted")
        cell.metadata.papermill["start_time"] = self.now().isoformat()
        if cell.cell_type == "code":
            self.save()

    def cell_complete(self, cell: NotebookNode, cell_index: int | None = None, **_: object) -> None:
        ended = self.now()
        cell.metadata.papermill["end_time"] = ended.isoformat()
        # The cell is complete: everybody who reads it from here on gets it without secrets.
        if cell.cell_type == "code":
            self.stream.end()
            cell.outputs = self._redactor.redact(cell.outputs)
            self.save()
        if self.pbar:
            self.pbar.update(1)

    def notebook_complete(self, **_: object) -> None:
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        # All cells again: a later cell may have learned what an earlier one printed.
        self._redactor.reload_shared()
        for cell in self.nb.cells:
            cell.update(self._redactor.redact(cell))
        self.nb.metadata = self._redactor.redact(self.nb.metadata)
        self._cleaned.clear()
        self.save()

    def note(self, cell: NotebookNode, state: State) -> None:
        """Note a cell's state, in our word and in papermill's."""
        cell.metadata["buddy_ops"] = {"state": state}
        cell.metadata.papermill["status"] = STATES[state]
        cell.metadata.papermill["exception"] = STATES[state] == "failed"
        if cell.metadata.papermill["exception"]:
            self._cleaned.clear()

    def autosave_cell(self) -> None:
        """Save new output within SAVE_S, whether or not more follows."""
        if self._pending is None:
            age = (self.now() - self.last_save_time).total_seconds()
            # A long output takes long to clean and to write: saving it takes a twentieth of the time at most.
            interval = max(SAVE_S, SAVE_SHARE * self._save_took_s)
            self._pending = asyncio.get_running_loop().call_later(max(0.0, interval - age), self.save)

    def save(self, **_: object) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        began = time.monotonic()
        self.stream.join()
        # The kernel has learned a new secret: cells that were clean before may have it.
        if self._redactor.reload_shared():
            self._cleaned.clear()
        if self.output_path:
            # A copy: what is in memory stays as it is until all secrets are learned.
            copy = NotebookNode(self.nb)
            copy["cells"] = [self._clean_cell(number, cell) for number, cell in enumerate(self.nb.cells)]
            copy["metadata"] = self._redactor.redact(self.nb.metadata)
            # A full disk or a folder that cannot be written ends no run; what could not be saved is told at the end.
            with self.side.contained("saving the notebook"):
                _write(copy, self.output_path)
        self.last_save_time = self.now()
        self._save_took_s = time.monotonic() - began

    def _clean_cell(self, number: int, cell: NotebookNode) -> NotebookNode:
        if number not in self._cleaned:
            cleaned = self._redactor.redact(cell)
            if cell.metadata["buddy_ops"]["state"] == "interrupted":
                return cleaned  # it is still being written to
            self._cleaned[number] = cleaned
        return self._cleaned[number]


class KernelNotStarted(Exception):
    """The kernel ended, or did not answer in time, before its first cell."""


class GrowingStream:
    """The stream at the end of a cell's outputs: its pieces are joined when it is read, not each time it grows."""

    def __init__(self) -> None:
        self._output: NotebookNode | None = None
        self._pieces: list[str] = []

    def add(self, outputs: list[NotebookNode], piece: NotebookNode) -> None:
        """Add the last output to the one before it, where that is of the same stream."""
        growing = self._output
        if growing is not None and len(outputs) > 1 and outputs[-2] is growing and growing.name == piece.name:
            outputs.pop()
        else:
            self.end()
            self._output = piece
        self._pieces.append(piece.text)

    def join(self) -> None:
        """Have the whole text in the output."""
        if self._output is not None:
            self._output.text = "".join(self._pieces)
            self._pieces = [self._output.text]

    def end(self) -> None:
        """The output is complete."""
        self.join()
        self._output = None
        self._pieces = []


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Runs the cells, and notes how each ended."""

    stop: InterruptHandler
    tell: Report
    cell_timeout_s: float | None = None
    kernel_process: KernelProcess | None = None
    started: object = None

    def execute(self, **options: object) -> NotebookNode:
        self.reset_execution_trackers()
        with self._kernel(**options):
            # Before the first cell: from here on a signal reaches the kernel, and the supervisor can kill it.
            self.stop.kernel = self.km.provisioner.pid
            self.tell(kernel=self.stop.kernel)
            self.papermill_execute_cells()
            self.set_widgets_metadata()
        executed: NotebookNode = self.nb
        return executed

    @contextmanager
    def _kernel(self, **options: object) -> Iterator[None]:
        """A kernel that answers.

        Raises:
            KernelNotStarted: with what it wrote to its stderr.
        """
        with ExitStack() as running:
            try:
                running.enter_context(self.setup_kernel(**options))
            except RuntimeError as error:
                raise KernelNotStarted(
                    f"{error}.{self.last_words()}\n\nState: no cell was executed, so this run changed nothing.\n"
                    "Next:  Repair the installation (`make install`). To roll back meanwhile: `buddy-ops rollback`, "
                    "which needs no kernel."
                ) from error
            # Outside of the `try`: a RuntimeError of a cell's own handling is no kernel that did not start.
            yield

    def papermill_execute_cells(self) -> None:
        heading = ""
        for index, cell in enumerate(self.nb.cells):
            heading = _heading(cell) or heading
            if self.stop.reason is not None:
                return
            self.nb_man.cell_start(cell, index)
            if cell.cell_type == "code":
                self.tell(cell=index + 1, of=len(self.nb.cells), heading=heading)
            state = self._run(cell, index)
            self.nb_man.note(cell, state)
            self.nb_man.cell_complete(cell, index)
            # As papermill: cells behind one that failed are not run. Their state says so already.
            if state != "done":
                self.nb.metadata.papermill["exception"] = True
                return

    def _run(self, cell: NotebookNode, index: int) -> State:
        """Execute one cell; how it ended."""
        try:
            with self.stop.within(self.cell_timeout_s):
                self.execute_cell(cell, index)
        except (CellExecutionError, DeadKernelError) as error:
            # Where we did not interrupt it, the error is the cell's own, or its kernel ended by itself.
            if self.stop.reason is not None:
                _leave(cell, STOPPED_BY[self.stop.reason], self.stop.says)
            elif isinstance(error, CellExecutionError):
                failure = failure_of(cell.outputs)
                if failure is not None and failure.is_refusal:
                    return "refused"
                return "failed"
            else:
                said = f"The kernel ended unexpectedly.{self.last_words()}"
                _leave(cell, DIED, f"{said} The failsafe ends what it started in AWS.")
            return "interrupted"
        return "done"

    def last_words(self) -> str:
        """What the kernel wrote to its stderr last, as a sentence."""
        # Another manager class can be given to papermill; it keeps no stderr.
        if not isinstance(self.started, PrivateKernel):
            return ""
        return str(self.nb_man._redactor.redact(self.started.last_words()))

    def create_kernel_manager(self) -> object:
        # nbclient forgets the manager of a kernel that did not start.
        self.started = super().create_kernel_manager()
        if isinstance(self.started, PrivateKernel):
            self.started.process = self.kernel_process
        return self.started

    def output(
        self, outs: list[NotebookNode], msg: dict[str, object], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Texts of one stream stay one text: a secret that was printed in two pieces must be found."""
        out: NotebookNode | None = super().output(outs, msg, display_id, cell_index)
        if out and out.output_type == "stream":
            self.nb_man.stream.add(outs, out)
        return out

    def log_output_message(self, output: NotebookNode) -> None:
        super().log_output_message(self.nb_man._redactor.redact(output))


def _leave(cell: NotebookNode, name: str, says: str) -> None:
    """An error of the engine's own in a cell: before the cell's own, which only tells where it was interrupted."""
    errors_ = (number for number, output in enumerate(cell.outputs) if output.output_type == "error")
    ours = nbformat.v4.new_output("error", ename=name, evalue=says, traceback=[f"{name}: {says}"])
    cell.outputs.insert(next(errors_, len(cell.outputs)), ours)


def _heading(cell: NotebookNode) -> str:
    """A cell's first heading, which progress shows for the code below it; '' where it has none."""
    if cell.cell_type != "markdown":
        return ""
    return next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")), "")


def _write(nb: NotebookNode, path: str) -> None:
    """Write it whole or not at all, wherever it is a file of ours."""
    # papermill also writes to object stores, by an address.
    if "://" in path:
        write_ipynb(nb, path)
        return
    write_atomically(Path(path), nbformat.v4.writes(nb))
