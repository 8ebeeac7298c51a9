"""Faults to order: AWS refuses, fails, falls silent or forgets its metrics, at a chosen call of ours.

Knows which request is to be struck and what the client then sees. Never knows what an operation does: it may let it
happen first, so that the client is told of a failure that was none.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from moto.core.request import Request
from werkzeug.wrappers import Response

from buddy_sandbox.wire import refusal

APP = "buddy-ops"
"""Only calls under this User-Agent's application id are counted and struck."""

HOLD_S = 60.0
"""For how many real seconds 'silent' keeps a connection open, unless it is lifted before."""

THROTTLED = {"lambda": ("TooManyRequestsException", 429), "sts": ("Throttling", 400)}
BROKEN = {
    "lambda": "ServiceException",
    "scheduler": "InternalServerException",
    "cloudwatch": "InternalServiceFault",
    "sts": "InternalFailure",
}
ANSWERS = ("throttled", "error", "expired", "denied")
DROPS = ("closed", "reset", "silent")
METRICS = ("partial", "empty", "late")
KINDS = ANSWERS + DROPS + METRICS


@dataclass
class Fault:
    """One order.

    Attributes:
        kind: one of ``KINDS``; 'closed' and 'reset' drop the connection without an answer.
        call: from which of our requests on, counted from 1; None: the first of ``operation``.
        operation: its name, for example 'UpdateAlias', or several with commas between; None: any.
        times: how many matching requests are struck; the SDK sends one call up to three times.
        after: whether the operation takes effect before it fails.
    """

    kind: str
    call: int | None = None
    operation: str | None = None
    times: int = 1
    after: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such fault: {self.kind}")


@dataclass
class Chaos:
    """The faults of a sandbox: at most one order at a time."""

    fault: Fault | None = None
    seen: int = 0
    struck: int = 0
    _lifted: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def order(self, fault: Fault | None) -> None:
        """Replace the order, and count from the beginning again."""
        self.lift()
        with self._lock:
            self.fault, self.seen, self.struck = fault, 0, 0

    def strikes(self, request: Request, operation: Callable[[], str]) -> Fault | None:
        """The fault that this request meets, or None."""
        if f"app/{APP}" not in request.headers.get("User-Agent", ""):
            return None
        with self._lock:
            self.seen += 1
            fault = self.fault
            if fault is None or self.struck >= fault.times or self.seen < (fault.call or 0):
                return None
            if fault.operation is not None and operation() not in fault.operation.split(","):
                return None
            self.struck += 1
            return fault

    def answer(self, fault: Fault, service: str, request: Request, connection: socket.socket) -> Response:
        """What the client sees. Raises ConnectionError where it sees nothing."""
        if fault.kind not in ANSWERS:
            self.drop(fault.kind, connection)
        return _refusal(fault.kind, service, "form" in request.headers.get("Content-Type", ""))

    def lift(self) -> None:
        """Let go of connections that are kept open without an answer."""
        with self._lock:
            self._lifted.set()
            self._lifted = threading.Event()

    def drop(self, kind: str, connection: socket.socket) -> NoReturn:
        """Leave a call without an answer, in a way of ``DROPS``. Raises ConnectionError."""
        if kind == "silent":
            self._lifted.wait(HOLD_S)
        if kind == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Closing it here and now: the server's own way would first say goodbye.
            with Path(os.devnull).open("rb") as nothing:
                os.dup2(nothing.fileno(), connection.fileno())
        else:
            connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError(kind)


@contextmanager
def forgetful(region: Any, kind: str) -> Iterator[None]:
    """Let CloudWatch answer one request in part, with nothing, or as it stood a minute ago."""
    before = region.cloudwatch.outage
    if kind == "late":
        region.metrics.publication.stale_s = 60.0
    else:
        region.cloudwatch.outage = kind
    try:
        yield
    finally:
        region.cloudwatch.outage = before
        region.metrics.publication.stale_s = 0.0


def _refusal(kind: str, service: str, xml: bool) -> Response:
    code, status = {
        "throttled": THROTTLED.get(service, ("ThrottlingException", 400)),
        "error": (BROKEN.get(service, "InternalServerError"), 500),
        "expired": ("ExpiredToken" if xml else "ExpiredTokenException", 403),
        "denied": ("AccessDenied" if xml else "AccessDeniedException", 403),
    }[kind]
    return refusal(code, f"The sandbox was told to answer {kind}.", status, xml)
