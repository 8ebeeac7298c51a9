"""Time as a collaborator: the system's clock against AWS, the sandbox's clock against the sandbox.

Reads the time and waits. Independent of what is waited for.
"""

import json
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
SLICE_S = 0.5
"""Waits are cut into slices of this many real seconds, so that an interrupt takes effect."""


class Clock(Protocol):
    """Time, as all other modules use it. Times are aware datetimes in UTC."""

    def now(self) -> datetime:
        """The present moment."""

    def sleep_until(self, moment: datetime) -> None:
        """Block until ``moment``."""

    async def wait(self, moment: datetime) -> None:
        """Wait until ``moment`` without blocking the event loop."""

    def correct(self, server: datetime) -> None:
        """Learn AWS's own time from a reply's Date header."""

    def close(self) -> None:
        """Stop being counted as a client that may still wait."""


class SystemClock:
    """This machine's clock, corrected by AWS's: a laptop that is minutes off would set a failsafe in the past."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def sleep_until(self, moment: datetime) -> None:
        while (left := (moment - self.now()).total_seconds()) > 0:
            time.sleep(min(left, SLICE_S))

    async def wait(self, moment: datetime) -> None:
        import asyncio

        while (left := (moment - self.now()).total_seconds()) > 0:
            await asyncio.sleep(min(left, SLICE_S))

    def correct(self, server: datetime) -> None:
        # The Date header has whole seconds and travels for a while: smaller differences are ignored.
        difference = server - datetime.now(UTC)
        self._ahead = difference if abs(difference) > timedelta(seconds=3) else timedelta()

    def close(self) -> None:
        """Nothing holds the system's time back."""


class SandboxClock:
    """The sandbox's virtual time, over its control address.

    Args:
        endpoint: the sandbox's URL, for example http://127.0.0.1:4599.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._client = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._ask("clock", {})["now"], UTC)

    def sleep_until(self, moment: datetime) -> None:
        while not self._wait(moment):
            pass

    async def wait(self, moment: datetime) -> None:
        import asyncio

        while not await asyncio.to_thread(self._wait, moment):
            pass

    def correct(self, server: datetime) -> None:
        """The sandbox's clock is AWS's clock already."""

    def close(self) -> None:
        # Where the sandbox has gone, its memory of us has too.
        with suppress(OSError):
            self._ask("clock/leave", {"client": self._client})

    def _wait(self, moment: datetime) -> bool:
        asked = {"client": self._client, "pid": os.getpid(), "until": moment.timestamp(), "patience_s": SLICE_S}
        return bool(self._ask("clock/wait", asked)["reached"])

    def _ask(self, path: str, fields: dict[str, Any]) -> dict[str, Any]:
        return ask_sandbox(self._endpoint, path, fields)


async def in_thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """``asyncio.to_thread``, in slices: a kernel is interrupted only when its loop wakes, and a call may hang."""
    import asyncio

    # A future, not a task: what the call raised is raised here, and nowhere else in the loop.
    call = partial(copy_context().run, do, *args, **kwargs)
    running = asyncio.get_running_loop().run_in_executor(None, call)
    while not running.done():
        await asyncio.wait({running}, timeout=SLICE_S)
    return running.result()


@cache
def _opener() -> urllib.request.OpenerDirector:
    """What asks the sandbox: a proxy meant for the internet must not be asked for the loopback address."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask_sandbox(endpoint: str, path: str, fields: dict[str, Any], timeout_s: float = 60) -> dict[str, Any]:
    """One call of the sandbox's control address. Raises OSError when nothing answers there."""
    request = urllib.request.Request(
        f"{endpoint.rstrip('/')}/_sandbox/{path}",
        data=json.dumps(fields).encode(),
        headers={"Content-Type": "application/json"},
    )
    with _opener().open(request, timeout=timeout_s) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer
