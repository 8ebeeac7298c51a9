"""How a run is interrupted: by a signal, or because a cell takes too long."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

GRACE_S = 20.0
"""Seconds that an interrupted cell has to clean up before its kernel is killed."""

INTERRUPTED, TIMED_OUT, DIED = "RunInterrupted", "CellTimedOut", "KernelDied"
"""Names of the errors that the engine itself leaves in a cell."""

Reason = Literal["signal", "timeout"]
# Ctrl-C; what CI and ``kill`` send; and what the end of a terminal or of an SSH session sends.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handle_signals(handle: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call ``handle`` on SIGINT, SIGTERM and SIGHUP, but for those that are ignored: ``nohup`` has it so.

    Only a process's main thread receives signals.
    """
    # Python lets no other thread set a handler (docs.python.org, signal).
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda received, _: handle(signal.Signals(received))) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class InterruptHandler:
    """Interrupts a run: the kernel receives SIGINT, as in Jupyter.

    Nothing is raised here: the cell itself ends with KeyboardInterrupt, so that its ``finally`` runs and what it still
    says is kept.
    """

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self.says = ""
        self.kernel: int | None = None
        self._timer: threading.Timer | None = None

    def now(self, reason: Reason, says: str) -> None:
        """Interrupt the run. The second call, or GRACE_S without an end, kills the kernel."""
        if self.reason is not None:
            self.kill()
            return
        self.reason = reason
        self.says = says
        if self.kernel is not None:
            # The whole group: programs that the cell started are interrupted with it.
            with suppress(ProcessLookupError):
                os.killpg(self.kernel, signal.SIGINT)
        # A cell may catch KeyboardInterrupt, or hang in its `finally`.
        self._after(GRACE_S, self.kill)

    def by_signal(self, received: signal.Signals) -> None:
        """Interrupt the run because of a signal."""
        self.now("signal", f"{received.name} ended the run.")

    def kill(self) -> None:
        """Kill the kernel and what it started."""
        if self.kernel is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.kernel, signal.SIGKILL)

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """A cell's time: if it takes longer, the run ends."""
        if seconds and self.reason is None:
            self._after(seconds, lambda: self.now("timeout", f"The cell took longer than {seconds:g} s."))
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, do)
        # A process that has nothing else to do ends without waiting for it.
        self._timer.daemon = True
        self._timer.start()
