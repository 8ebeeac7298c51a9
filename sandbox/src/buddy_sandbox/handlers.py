"""Requests that really invoke a handler: which ones do, and what the others take over from these.

Knows how many invocations a minute may have. Never decides how a request ends: the handler does.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from buddy_sandbox.runtime import Execution
from buddy_sandbox.sources import Caller, Message

MINUTE_S = 60.0
REMEMBERED = 200
"""From how many of the latest real requests of a version the others draw theirs."""

MOST_STARTS = 10
"""Processes that one version starts a minute: a handler that ends its process each time would take hours."""

MOST_HANGS = 2
"""Requests a minute that really wait until the timeout, in real seconds."""


@dataclass(frozen=True)
class HandlerTraffic:
    """What the requests are that people send: ``event`` replaces members of the kind's own event."""

    kind: str
    event: dict[str, Any] | None = None


class Ended(NamedTuple):
    """How one request ended: an invocation of its own, or that of another request of the same version."""

    request_id: str
    done: Execution
    real_id: str
    """The request that invoked the handler."""
    age_ms: float | None = None
    """Of a batch from a stream: how long its last record had waited."""

    def told(self) -> dict[str, Any]:
        """What a log tells of it (members of ``log_lines.Invocation``), under its own id."""
        told = self.done.told()
        if self.request_id == self.real_id:
            return told
        swapped: dict[str, Any] = json.loads(json.dumps(told).replace(self.real_id, self.request_id))
        return swapped


class _Real(NamedTuple):
    """A request that invoked the handler."""

    request_id: str
    done: Execution
    failures: tuple[int, ...]
    """Which messages of its batch failed, by their places."""


class Invoker(Protocol):
    """Who runs a handler."""

    def run_version(
        self, function: str, alias: str, version: str, *, payload: bytes, request_id: str, at: float
    ) -> Execution:
        """One invocation by an alias, of the version that routing has picked."""


class Handler:
    """The handler of one version, as the requests of one alias invoke it.

    Which requests are real, and what the others take over, depends on the draws and on the requests before, never on
    how time was sliced.

    Attributes:
        real: requests that invoked it.
        copied: requests that took the outcome of one of these.
    """

    def __init__(self, source: Caller, invoker: Invoker, function: str, alias: str, version: str) -> None:
        self.real = 0
        self.copied = 0
        self._source, self._invoker = source, invoker
        self._who = (function, alias, version)
        self._latest: deque[_Real] = deque(maxlen=REMEMBERED)
        self._minute = -1
        self._starts = 0
        self._hangs = 0

    def run(self, request_id: str, at: float, *, chosen: bool, draw: float) -> Ended:
        """Run one request; each comes later than those before.

        Args:
            request_id: its own; an event that is tried again keeps that of the first attempt.
            at: when it is sent, epoch seconds.
            chosen: whether it is to be real.
            draw: a uniform draw, in case that it is not.
        """
        if int(at // MINUTE_S) != self._minute:
            self._minute, self._starts, self._hangs = int(at // MINUTE_S), 0, 0
        event, batch = self._source.take(request_id, at)
        request_id = self._source.request_id(request_id, batch)
        allowed = self._starts < MOST_STARTS and self._hangs < MOST_HANGS
        if (chosen and allowed) or not self._latest:
            real = self._invoke(request_id, at, event, batch)
        else:
            self.copied += 1
            real = self._latest[int(draw * len(self._latest))]
        self._source.end(batch, [place for place in real.failures if place < len(batch)], at)
        age_ms = 1000.0 * (at - batch[-1].sent) if batch else None
        return Ended(request_id, real.done, real.request_id, age_ms)

    def _invoke(self, request_id: str, at: float, event: dict[str, Any], batch: Sequence[Message]) -> _Real:
        function, alias, version = self._who
        payload = json.dumps(event).encode()
        done = self._invoker.run_version(function, alias, version, payload=payload, request_id=request_id, at=at)
        self.real += 1
        self._starts += done.init_ms is not None
        self._hangs += done.hung
        real = _Real(request_id, done, self._source.failures(batch, done))
        self._latest.append(real)
        return real
