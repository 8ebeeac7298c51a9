"""Time as a collaborator: the system's clock against AWS, the sandbox's clock against the sandbox.

Reads the time and waits. Independent of what is waited for.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from buddy_ops.aws.sandbox_control import ClockFile, ask_sandbox
from buddy_ops.core.text import duration

P = ParamSpec("P")
T = TypeVar("T")
CLOCK_TOLERANCE = timedelta(seconds=3)
"""Smaller differences from AWS's time are ignored: a Date header has whole seconds."""
SLICE_S = 0.5
"""Waits are cut into slices of this many real seconds, so that an interrupt takes effect."""
SUSPENDED = timedelta(seconds=30)
"""A slice that lasts longer than this: the machine was suspended, or too busy to run."""


@dataclass(frozen=True)
class ClockJump:
    """A jump of this machine's time.

    Attributes:
        at: AWS's time when it was noticed, in UTC.
        by_s: seconds that the machine's clock jumped by, or for which the run did not execute.
        suspended: whether the run did not execute, in a wait.
    """

    at: datetime
    by_s: float
    suspended: bool = False

    def describe(self) -> str:
        """The jump, and what it means, in sentences."""
        return describe_jump(self.by_s, suspended=self.suspended)


def describe_jump(by_s: float, *, suspended: bool) -> str:
    """A jump by its journal entry's fields, in sentences."""
    size = duration(abs(by_s))
    if suspended:
        return f"The run did not execute for {size}: the machine was suspended or overloaded. Nothing was checked then."
    way = "back"
    if by_s > 0:
        way = "forward"
    return f"This machine's clock jumped {way} by {size}. Waits and metrics follow AWS's time, so they did not change."


class Clock(Protocol):
    """Time, as all other modules use it. Times are aware datetimes in UTC."""

    def now(self) -> datetime:
        """The present moment."""

    def sleep_until(self, moment: datetime) -> None:
        """Block until ``moment``."""

    async def wait(self, moment: datetime) -> None:
        """Wait until ``moment`` without blocking the event loop."""

    def correct(self, server: datetime, sent: datetime) -> timedelta:
        """Learn AWS's own time from a reply's Date header; by how much the clock was changed.

        Args:
            server: the Date header's time, in whole seconds.
            sent: this clock's time before the call was sent: the reply is from between then and now.
        """

    @property
    def jumps(self) -> Sequence[ClockJump]:
        """The jumps that were noticed so far, oldest first."""

    def close(self) -> None:
        """Stop being counted as a client that may still wait."""


class _Reading(NamedTuple):
    """Two clocks read at one moment, seconds: time that passes evenly from any origin, and this machine's clock."""

    elapsed_s: float
    machine_s: float


class _CorrectedClock:
    """AWS's time: this machine's at the start, corrected by replies; in between it counts elapsed time only.

    So a step of this machine's clock (a resume, a migrated VM, NTP) changes neither a wait nor a window of metrics, and
    a laptop that is minutes off does not set a failsafe in the past.
    """

    def __init__(self) -> None:
        self._ahead_s: float | None = None
        self._last: _Reading | None = None
        self._jumps: list[ClockJump] = []
        # Calls in threads read the clock, too.
        self._lock = threading.Lock()

    def now(self) -> datetime:
        reading = self._read()
        now = datetime.fromtimestamp(reading.elapsed_s + self._ahead(reading), UTC)
        self._notice_step(reading, now)
        return now

    @property
    def jumps(self) -> tuple[ClockJump, ...]:
        """The jumps that were noticed so far, oldest first."""
        with self._lock:
            return tuple(self._jumps)

    def _notice_step(self, reading: _Reading, now: datetime) -> None:
        """Compare both clocks with the last reading: they run apart only where the machine's was set."""
        with self._lock:
            last = self._last
            # A thread may come with an older reading than the last one.
            if last is not None and reading.elapsed_s < last.elapsed_s:
                return
            self._last = reading
            if last is None:
                return
            # Both clocks pass evenly, so only a set clock changes the difference between them.
            step_s = (reading.machine_s - last.machine_s) - (reading.elapsed_s - last.elapsed_s)
            if abs(step_s) > CLOCK_TOLERANCE.total_seconds():
                self._jumps.append(ClockJump(now, round(step_s, 1)))

    def _notice_suspension(self, before: datetime) -> None:
        """Compare a slice of a wait that began at ``before`` with how long it should last."""
        now = self.now()
        if now - before > SUSPENDED:
            with self._lock:
                self._jumps.append(ClockJump(now, round((now - before).total_seconds(), 1), suspended=True))

    def correct(self, server: datetime, sent: datetime) -> timedelta:
        change = timedelta()
        # The reply is from between the sending and now: within that nothing is to be corrected.
        if server < sent - CLOCK_TOLERANCE:
            change = server - sent
        elif server > sent + CLOCK_TOLERANCE:
            # Not before: most replies come at once, and the sandbox's clock takes a request to read.
            # A reply that was long on its way is later than its sending, but not later than now.
            now = self.now()
            if server > now + CLOCK_TOLERANCE:
                change = server - now
        self._ahead_s = self._ahead() + change.total_seconds()
        return change

    def _ahead(self, reading: _Reading | None = None) -> float:
        """Seconds from elapsed time to AWS's; at first, as this machine's clock says."""
        if self._ahead_s is None:
            first = reading or self._read()
            self._ahead_s = first.machine_s - first.elapsed_s
        return self._ahead_s

    def _read(self) -> _Reading:
        raise NotImplementedError


class SystemClock(_CorrectedClock):
    """The clock against AWS."""

    def sleep_until(self, moment: datetime) -> None:
        """Block until ``moment``, in slices of ``SLICE_S``."""
        while (left := (moment - (began := self.now())).total_seconds()) > 0:
            time.sleep(min(left, SLICE_S))
            self._notice_suspension(began)

    async def wait(self, moment: datetime) -> None:
        """Wait until ``moment``; the event loop runs on."""
        import asyncio

        while (left := (moment - (began := self.now())).total_seconds()) > 0:
            await asyncio.sleep(min(left, SLICE_S))
            self._notice_suspension(began)

    def close(self) -> None:
        """Nothing holds the system's time back."""

    def _read(self) -> _Reading:
        # CLOCK_BOOTTIME, which Linux has, goes on while the machine sleeps.
        if hasattr(time, "CLOCK_BOOTTIME"):
            return _Reading(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())
        return _Reading(time.monotonic(), time.time())


class SandboxClock(_CorrectedClock):
    """The sandbox's virtual time, over its control address. The machine's clock is one that the sandbox simulates.

    Args:
        endpoint: the sandbox's URL, for example http://127.0.0.1:4599.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint.rstrip("/")
        self._file = ClockFile(self._endpoint)
        # A process may have several clocks, and the sandbox waits for each that sleeps.
        self._client = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def sleep_until(self, moment: datetime) -> None:
        """Block until ``moment``, in slices of ``SLICE_S``."""
        while not self._wait(moment):
            pass

    async def wait(self, moment: datetime) -> None:
        """Wait until ``moment``; the event loop runs on."""
        import asyncio

        while not await asyncio.to_thread(self._wait, moment):
            pass

    def close(self) -> None:
        """Let the sandbox's time go on: it waits for every client that may still sleep."""
        # A sandbox that has ended waits for no client.
        with suppress(OSError):
            self._ask("clock/leave", {"client": self._client})

    def _read(self) -> _Reading:
        # The file has AWS's time, and by how many seconds the simulated machine's clock is ahead of it.
        if (shown := self._file.read()) is not None:
            return _Reading(shown[0], sum(shown))
        said = self._ask("clock", {})
        return _Reading(said["now"], said["machine"])

    def _wait(self, moment: datetime) -> bool:
        until = moment.timestamp() - self._ahead()
        # With the pid the sandbox drops a client whose process has ended, and waits for the others only.
        asked = {"client": self._client, "pid": os.getpid(), "until": until, "patience_s": SLICE_S}
        return bool(self._ask("clock/wait", asked)["reached"])

    def _ask(self, path: str, fields: Mapping[str, object]) -> dict[str, Any]:
        return ask_sandbox(self._endpoint, path, fields)


async def in_thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``asyncio.to_thread``, in slices: a kernel is interrupted only when its loop wakes, and a call may hang."""
    import asyncio

    # A future, not a task: what the call raised is raised here, and nowhere else in the loop.
    # The context goes along, as with ``asyncio.to_thread``.
    call = partial(copy_context().run, do, *args, **kwargs)
    running = asyncio.get_running_loop().run_in_executor(None, call)
    while not running.done():
        await asyncio.wait({running}, timeout=SLICE_S)
    return running.result()
