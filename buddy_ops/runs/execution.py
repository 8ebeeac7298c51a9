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
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import write_ipynb
from papermill.log import logger

from buddy_ops.core.files import write_atomically
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.side_channels import SideChannels
from buddy_ops.runs._failures import failure_of
from buddy_ops.runs._interrupts import DIED, INTERRUPTED, TIMED_OUT, InterruptHandler
from buddy_ops.runs._private_kernel import PrivateKernel
from buddy_ops.runs.cells import forget_results

State = Literal["done", "failed", "refused", "interrupted", "not run"]
STATES = {"done": "completed", "failed": "failed", "refused": "failed", "interrupted": "failed", "not run": "pending"}
"""Our word for a cell's state, and papermill's nearest."""

SAVE_S = 1.0
"""Partial output is on disk after this many seconds, or ``SAVE_SHARE`` times a save's own time, whichever is more."""

SAVE_SHARE = 20
IOPUB_S = 600
"""Seconds that a cell's output may arrive after the cell ended. Every line is waited for, however many there are."""


def execute(
    nb: Any,
    kernel_name: str,
    output_path: str | None,
    stop: InterruptHandler,
    redactor: Redactor,
    options: dict[str, Any],
) -> None:
    """Execute ``nb`` in place. Its cells show how each ended; nothing that a cell does raises here."""
    tell = options.pop("tell", lambda **_: None)
    nb.metadata["buddy_ops"] = options.pop("about", {})
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
    try:
        client.execute()
    finally:
        stop.kernel = None  # its number may be another process's by now
        manager.cleanup_pbar()
        manager.notebook_complete()
        for line in manager.side.unsaid():
            tell(failed=line)


class _Manager(NotebookExecutionManager):  # type: ignore[misc]
    """Keeps the notebook on disk true, and free of secrets."""

    def __init__(self, nb: Any, output_path: str | None, redactor: Redactor, progress_bar: Any) -> None:
        super().__init__(nb, output_path=output_path, progress_bar=progress_bar)
        self._redactor = redactor
        self._cleaned: dict[int, Any] = {}
        self._pending: asyncio.TimerHandle | None = None
        self._save_took_s = 0.0
        self.stream = GrowingStream()
        self.side = SideChannels()

    def notebook_start(self, **_: Any) -> None:
        forget_results(self.nb)
        for cell in self.nb.cells:
            cell.metadata["buddy_ops"] = {"state": "not run"}
        super().notebook_start()

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        self.note(cell, "interrupted")
        cell.metadata.papermill["start_time"] = self.now().isoformat()
        if cell.cell_type == "code":
            self.save()

    def cell_complete(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        ended = self.now()
        cell.metadata.papermill["end_time"] = ended.isoformat()
        # The cell is complete: everybody who reads it from here on gets it without secrets.
        if cell.cell_type == "code":
            self.stream.end()
            cell.outputs = self._redactor.redact(cell.outputs)
            self.save()
        if self.pbar:
            self.pbar.update(1)

    def notebook_complete(self, **_: Any) -> None:
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self._redactor.reload_shared()
        for cell in self.nb.cells:
            cell.update(self._redactor.redact(cell))
        self.nb.metadata = self._redactor.redact(self.nb.metadata)
        self._cleaned.clear()
        self.save()

    def note(self, cell: Any, state: State) -> None:
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

    def save(self, **_: Any) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        began = time.monotonic()
        self.stream.join()
        if self._redactor.reload_shared():
            self._cleaned.clear()
        if self.output_path:
            copy = nbformat.NotebookNode(self.nb)
            copy["cells"] = [self._clean_cell(number, cell) for number, cell in enumerate(self.nb.cells)]
            copy["metadata"] = self._redactor.redact(self.nb.metadata)
            # A full disk or a folder that cannot be written ends no run; what could not be saved is told at the end.
            with self.side.contained("saving the notebook"):
                _write(copy, self.output_path)
        self.last_save_time = self.now()
        self._save_took_s = time.monotonic() - began

    def _clean_cell(self, number: int, cell: Any) -> Any:
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
        self._output: Any = None
        self._pieces: list[str] = []

    def add(self, outputs: list[Any], piece: Any) -> None:
        """Add the last output to the one before it, where that is of the same stream."""
        before = outputs[-2] if len(outputs) > 1 else None
        if before is not None and before is self._output and before.name == piece.name:
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
        self._output, self._pieces = None, []


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Runs the cells, and notes how each ended."""

    stop: InterruptHandler
    cell_timeout_s: float | None = None
    tell: Any = None
    started: Any = None

    def execute(self, **options: Any) -> Any:
        self.reset_execution_trackers()
        with self._kernel(**options):
            self.stop.kernel = self.km.provisioner.pid
            self.tell(kernel=self.stop.kernel)
            self.papermill_execute_cells()
            self.set_widgets_metadata()
        return self.nb

    @contextmanager
    def _kernel(self, **options: Any) -> Iterator[None]:
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
            if state != "done":
                self.nb.metadata.papermill["exception"] = True
                return

    def _run(self, cell: Any, index: int) -> State:
        """Execute one cell; how it ended."""
        try:
            with self.stop.within(self.cell_timeout_s):
                self.execute_cell(cell, index)
        except CellExecutionError:
            if self.stop.reason is None:
                failure = failure_of(cell.outputs)
                return "refused" if failure and failure.is_refusal else "failed"
            _leave(cell, INTERRUPTED if self.stop.reason == "signal" else TIMED_OUT, self.stop.says)
            return "interrupted"
        except DeadKernelError:
            if self.stop.reason is None:
                _leave(
                    cell,
                    DIED,
                    f"The kernel ended unexpectedly.{self.last_words()} The failsafe ends what it started in AWS.",
                )
            else:
                _leave(cell, INTERRUPTED if self.stop.reason == "signal" else TIMED_OUT, self.stop.says)
            return "interrupted"
        return "done"

    def last_words(self) -> str:
        """What the kernel wrote to its stderr last, as a sentence."""
        said = self.started.last_words() if isinstance(self.started, PrivateKernel) else ""
        return str(self.nb_man._redactor.redact(said))

    def create_kernel_manager(self) -> Any:
        # nbclient forgets the manager of a kernel that did not start.
        self.started = super().create_kernel_manager()
        return self.started

    def output(self, outs: list[Any], msg: Any, display_id: str | None, cell_index: int) -> Any:
        """Texts of one stream stay one text: a secret that was printed in two pieces must be found."""
        out = super().output(outs, msg, display_id, cell_index)
        if out and out.output_type == "stream":
            self.nb_man.stream.add(outs, out)
        return out

    def log_output_message(self, output: Any) -> None:
        super().log_output_message(self.nb_man._redactor.redact(output))


def _leave(cell: Any, name: str, says: str) -> None:
    """An error of the engine's own in a cell: before the cell's own, which only tells where it was interrupted."""
    errors_ = [number for number, output in enumerate(cell.outputs) if output.output_type == "error"]
    ours = nbformat.v4.new_output("error", ename=name, evalue=says, traceback=[f"{name}: {says}"])
    cell.outputs.insert(errors_[0] if errors_ else len(cell.outputs), ours)


def _heading(cell: Any) -> str:
    lines = cell.source.splitlines() if cell.cell_type == "markdown" else ()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _write(nb: Any, path: str) -> None:
    """Write it whole or not at all, wherever it is a file of ours."""
    if "://" in path:
        write_ipynb(nb, path)
        return
    write_atomically(Path(path), nbformat.v4.writes(nb))
