"""A program that works for another: it reports on stdout, a JSON object a line, and ends when the other is gone.

And what the other says of its end.
"""

import json
import os
import signal
import threading
from contextlib import suppress
from typing import Protocol

LAST_OUTPUT = 300
"""Characters of a process's last line that an error repeats."""


class Report(Protocol):
    """Reports these values to the program that started this one."""

    def __call__(self, **values: object) -> None: ...


def open_report() -> Report:
    """Take stdout for reports; whatever else is printed goes to stderr."""
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    # The descriptor itself: child processes and libraries in C write to it, past sys.stdout.
    os.dup2(2, 1)

    def report(**values: object) -> None:
        with suppress(OSError):  # the other program is gone: this one ends for that reason already
            reports.write(json.dumps(values) + "\n")

    return report


def end_with_parent() -> None:
    """End as by SIGTERM when stdin ends: the program that started this one is gone, or has had enough."""
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    # It returns when the other end of the pipe is closed, which a kill of the other program does as well.
    os.read(0, 1)
    # A signal interrupts the cell as Ctrl-C does, so that its `finally` runs.
    os.kill(os.getpid(), signal.SIGTERM)


def describe_last_output(said: str) -> str:
    """The last line that a process wrote before it ended, as a sentence behind another; '' if there is none."""
    lines = said.strip().splitlines()
    if not lines:
        return ""
    return f" Its last output: {lines[-1][:LAST_OUTPUT]}"
