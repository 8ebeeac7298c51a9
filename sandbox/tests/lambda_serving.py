"""Serve the sandbox's Lambda over HTTP with a clock that the test cranks, and pack the builds to put into it."""

import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from serving import Crank, client_of

from buddy_sandbox.lambda_api import Lambda
from buddy_sandbox.runtime import Runtime

ROLE = "arn:aws:iam::123456789012:role/buddy"
HEARD = (
    "function",
    "resource",
    "version",
    "at",
    "duration_ms",
    "init_ms",
    "failed",
    "request_id",
    "memory_mb",
    "lines",
    "log",
    "logged",
)


@dataclass
class Recorder:
    """A telemetry that keeps what it hears; ``heard`` is set by each invocation."""

    invocations: list[dict[str, Any]] = field(default_factory=list)
    throttles: list[tuple[str, str, float]] = field(default_factory=list)
    heard: threading.Event = field(default_factory=threading.Event)

    def invoked(self, *values: Any) -> None:
        self.invocations.append(dict(zip(HEARD, values, strict=True)))
        self.heard.set()

    def throttled(self, function: str, resource: str, at: float) -> None:
        self.throttles.append((function, resource, at))


@dataclass
class Served:
    """A served Lambda: its client, its clock, what its telemetry heard, and the service itself."""

    lam: Any
    clock: Crank
    telemetry: Recorder
    service: Lambda

    def settle(self) -> None:
        """Let enough time pass for every state to settle."""
        self.clock.time += 5.0

    def deploy(self, name: str, zipped: bytes, **config: Any) -> str:
        """Create or update a function, publish it and give the version."""
        if name in {each["FunctionName"] for each in self.lam.list_functions()["Functions"]}:
            self.lam.update_function_code(FunctionName=name, ZipFile=zipped)
        else:
            create(self.lam, name, zipped, **config)
        self.settle()
        version = str(self.lam.publish_version(FunctionName=name)["Version"])
        self.settle()
        return version


@contextmanager
def serve(idle_workers: int = 16, **options: Any) -> Iterator[Served]:
    """Serve a Lambda until the block ends; ``options`` are the service's."""
    clock, telemetry, runtime = Crank(), Recorder(), Runtime(idle_workers=idle_workers)
    service = Lambda(clock, runtime, telemetry, **options)
    try:
        with client_of(service) as lam:
            runtime.endpoint_url = lam.meta.endpoint_url
            yield Served(lam, clock, telemetry, service)
    finally:
        runtime.close()


def package(source: str = "def handler(event, context):\n    return event\n", file: str = "app.py") -> bytes:
    """A zip of one module, for the handler ``app.handler``."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo(file), source)
    return packed.getvalue()


def create(lam: Any, name: str, zipped: bytes, **config: Any) -> dict[str, Any]:
    """CreateFunction with what a test seldom cares about filled in."""
    given = {"Runtime": "python3.12", "Role": ROLE, "Handler": "app.handler", "Timeout": 3, **config}
    return dict(lam.create_function(FunctionName=name, Code={"ZipFile": zipped}, **given))
