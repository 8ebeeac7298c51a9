"""Requests that really invoke a handler: which ones do, and what the others take over from these.

Knows how many invocations a minute may have. Never decides how a request ends: the handler does.
"""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from buddy_sandbox import events
from buddy_sandbox.runtime import Execution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from buddy_sandbox.faults import Floats

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

    def told(self) -> dict[str, Any]:
        """What a log tells of it (members of ``log_lines.Invocation``), under its own id."""
        told = self.done.told()
        if self.request_id == self.real_id:
            return told
        swapped: dict[str, Any] = json.loads(json.dumps(told).replace(self.real_id, self.request_id))
        return swapped


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

    def __init__(self, what: HandlerTraffic, invoker: Invoker, function: str, alias: str, version: str) -> None:
        self.real = 0
        self.copied = 0
        self._what, self._invoker = what, invoker
        self._who = (function, alias, version)
        self._latest: deque[tuple[str, Execution]] = deque(maxlen=REMEMBERED)
        self._minute = -1
        self._starts = 0
        self._hangs = 0

    def run(
        self, minute: int, times: "Floats", ids: Sequence[str], chosen: "NDArray[np.bool_]", draws: "Floats"
    ) -> list[Ended]:
        """Run requests of one minute, in their order.

        Args:
            minute: its number; limits count by it.
            times: when they are sent, epoch seconds.
            ids: their request ids.
            chosen: which of them are to be real.
            draws: one uniform draw each, for those that are not.
        """
        if minute != self._minute:
            self._minute, self._starts, self._hangs = minute, 0, 0
        ended = []
        for at, request_id, real, draw in zip(times.tolist(), ids, chosen.tolist(), draws.tolist(), strict=True):
            allowed = self._starts < MOST_STARTS and self._hangs < MOST_HANGS
            if (real and allowed) or not self._latest:
                ended.append(Ended(request_id, self._invoke(request_id, at), request_id))
                continue
            self.copied += 1
            real_id, done = self._latest[int(draw * len(self._latest))]
            ended.append(Ended(request_id, done, real_id))
        return ended

    def _invoke(self, request_id: str, at: float) -> Execution:
        event = events.event(self._what.kind, request_id, at, self._what.event)
        function, alias, version = self._who
        payload = json.dumps(event).encode()
        done = self._invoker.run_version(function, alias, version, payload=payload, request_id=request_id, at=at)
        self.real += 1
        self._starts += done.init_ms is not None
        self._hangs += done.hung
        self._latest.append((request_id, done))
        return done
