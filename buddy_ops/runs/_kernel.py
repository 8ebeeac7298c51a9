"""The program of a run's kernel: it imports what every runbook needs while it waits for what it is to run.

It reads that from stdin, as JSON, and ends where nothing comes. It ends fast, and sends log records that come in quick
succession together.

``logging`` flushes its stream after each record. In a kernel each flush is a message of its own: 50,000 records are
50,000 messages, and ZeroMQ drops messages that a busy reader has not read yet. A record after a pause is sent at once.
Of a burst, a kernel that is killed can lose the last ``BURST_S`` seconds.
"""

import importlib
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buddy_ops.core import garbage
from buddy_ops.core.documents import parse_json

if TYPE_CHECKING:
    from buddy_ops.runs._kernel_process import KernelStart

BURST_S = 0.05
"""Records that follow faster than this are sent together, after so many seconds at the latest."""

PRELOADED = ("buddy_ops.notebook.opening", "buddy_ops.notebook.forms", "buddy_ops.notebook.approvals")
"""What nearly every runbook imports first."""

_flushed: dict[int, float] = {}
_flush = logging.StreamHandler.flush


def main() -> None:
    """Run a kernel as the JSON on stdin says."""
    garbage.search_rarely()
    # No person debugs the kernel of a run, and ipykernel would import its debugger, for 0.1 s.
    sys.modules.setdefault("debugpy", None)  # type: ignore[arg-type]
    from ipykernel.kernelapp import IPKernelApp

    for name in PRELOADED:
        # What is wrong with a module is told where a cell imports it.
        with suppress(Exception):
            importlib.import_module(name)
    line = sys.stdin.readline()
    if not line:
        return
    start: KernelStart = parse_json(line)
    os.chdir(start["cwd"])
    # As IPython has it without -P: cells import files of their folder, too, behind the standard library.
    installed = (
        number for number, path in enumerate(sys.path) if Path(path).name in ("site-packages", "dist-packages")
    )
    sys.path.insert(next(installed, len(sys.path)), "")
    os.environ.update(start["environment"])
    logging.StreamHandler.flush = flush_together  # type: ignore[assignment,method-assign]
    IPKernelApp.launch_instance(start["arguments"])


def flush_together(handler: "logging.StreamHandler[Any]") -> None:
    """Flush a handler's stream. If it is the kernel's and was flushed a moment ago, its own timer sends the rest."""
    stream = handler.stream
    # Only ipykernel's OutStream has a timer that sends what is left; any other stream is flushed as always.
    if stream in (sys.stdout, sys.stderr) and hasattr(stream, "flush_interval"):
        now = time.monotonic()
        if now - _flushed.get(id(stream), 0.0) < BURST_S:
            return
        _flushed[id(stream)] = now
        stream.flush_interval = BURST_S
    _flush(handler)


if __name__ == "__main__":
    main()
