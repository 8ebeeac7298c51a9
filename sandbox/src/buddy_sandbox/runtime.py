"""Runs builds: warm Python processes, one request at a time each, as Lambda's execution environments.

Knows processes, timeouts and cold starts. Never knows of aliases, and never chooses a version.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from buddy_sandbox.log_lines import LogConfig, Status

BASE_MS = 1.0
"""What each invocation takes beside its sleeps: constant, so that durations are the same on every machine."""

INIT_LIMIT_S = 60.0
"""Real seconds that an import may take; far more than on AWS, because a loaded machine is no fault of the build."""

OWN_KEY = "function."
"""How the access key of a function begins; its account and name follow, with a dot between them."""

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_NODE_BOOTSTRAP = Path(__file__).with_name("bootstrap.mjs")
NODE = "nodejs"
"""How the name of a runtime of Node.js begins."""

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")


@dataclass(frozen=True)
class Build:
    """One version as it runs. Workers are kept per function, version and ``fingerprint`` (code and configuration)."""

    function: str
    version: str
    region: str
    account: str
    handler: str
    environment: dict[str, str]
    timeout_s: int
    memory_mb: int
    init_ms: float
    fingerprint: str
    zipped: bytes
    log: LogConfig
    runtime: str = "python3.12"


@dataclass(frozen=True)
class Request:
    """One invocation: ``arn`` as invoked, ``at`` virtual seconds, ``age_s`` since the version's first request."""

    event: bytes
    request_id: str
    arn: str
    at: float
    age_s: float


@dataclass(frozen=True)
class Execution:
    """What became of one invocation. Durations are virtual; ``init_ms`` is None for a warm start.

    ``lines`` are the handler's own; of a failure, Lambda's text about it is the last. ``hung``: it took the whole
    timeout in real seconds.
    """

    payload: bytes
    status: Status
    lines: list[str]
    duration_ms: float
    init_ms: float | None
    hung: bool = False

    @property
    def failed(self) -> bool:
        """Whether Lambda counts it as an error."""
        return self.status != "success"

    def told(self) -> dict[str, Any]:
        """What a log tells of it: members of ``log_lines.Invocation``."""
        if not self.failed:
            return {"status": self.status, "own": self.lines}
        return {
            "status": self.status,
            "own": self.lines[:-1],
            "text": self.lines[-1],
            "error": json.loads(self.payload),
        }


class WorkerLost(Exception):
    """The process ended with ``exit_code``, or was ended because it took too long: then that is None."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Worker:
    """A process that has imported one build's handler, or failed to: ``problem`` is then Lambda's error payload."""

    def __init__(self, build: Build, folder: Path, environment: dict[str, str], at: float) -> None:
        self.build = build
        self.lines: list[str] = []
        self._unread = b""
        command = [sys.executable, "-I", str(_BOOTSTRAP)]
        if build.runtime.startswith(NODE):
            command = [shutil.which("node") or "node", "--no-warnings", str(_NODE_BOOTSTRAP)]
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, cwd=folder, env=environment)
        try:
            self.problem = self.ask({"at": at, "handler": build.handler}, INIT_LIMIT_S)["ready"]
        except WorkerLost:
            self.end()
            raise

    def ask(self, message: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Send a message and wait for its reply; what is printed on the way is added to ``lines``.

        Raises:
            WorkerLost: it exited, or ``limit_s`` real seconds passed and it was killed.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        until = time.monotonic() + limit_s
        while "line" in (reply := json.loads(self._read_line(until))):
            self.lines.append(reply["line"])
        return dict(reply)

    def end(self) -> None:
        """End the process and let go of its pipes."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        self.process.wait()

    def _read_line(self, until: float) -> bytes:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                self.process.kill()
                raise WorkerLost(None)
            read = os.read(pipe, 65536)
            if not read:
                raise WorkerLost(self.process.wait())
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class Runtime:
    """Keeps warm workers and runs requests in them; threads may share it.

    Args:
        endpoint_url: where handlers find AWS; may be set later.
        idle_workers: how many processes to keep warm; beyond that the least recently used end.
    """

    def __init__(self, endpoint_url: str = "", *, idle_workers: int = 16) -> None:
        self.endpoint_url = endpoint_url
        self._idle_workers = idle_workers
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="buddy-sandbox-", ignore_cleanup_errors=True)

    def run(self, build: Build, request: Request) -> Execution:
        """Run one request to its end, warm if a worker is free, else cold. Never raises for what the handler does."""
        worker, init_ms = self._take(build), None
        lines: list[str] = []
        try:
            if worker is None:
                init_ms = build.init_ms
                worker = self._start(build, request.at)
            message = {**vars(request), "event": request.event.decode(), "timeout_s": build.timeout_s}
            reply = {"error": worker.problem} if worker.problem else worker.ask(message, build.timeout_s)
        except WorkerLost as lost:
            reply = {"timeout": True, "hung": True} if lost.exit_code is None else {"exit": lost.exit_code}
        if worker is not None:
            lines, worker.lines = worker.lines, []
            # As on AWS, an environment survives an exception, but neither a timeout nor a failed import.
            self._give_back(worker, warm="result" in reply or ("error" in reply and not worker.problem))
        return _execution(build, request, reply, lines, init_ms)

    def close(self) -> None:
        """End every worker and remove what was unpacked."""
        with self._lock:
            idle, self._idle, self._idle_workers = self._idle, [], 0
            for worker in self._busy:
                worker.process.kill()  # the thread that waits for it sees it end, and lets go of its pipes
        for worker in idle:
            worker.end()
        self._folder.cleanup()

    def _take(self, build: Build) -> Worker | None:
        def key(of: Build) -> tuple[str, str, str, str, str]:
            return of.account, of.region, of.function, of.version, of.fingerprint

        with self._lock:
            warm = [one for one in self._idle if key(one.build) == key(build) and one.process.poll() is None]
            if not warm:
                return None
            self._idle.remove(warm[-1])
            self._busy.add(warm[-1])
            return warm[-1]

    def _give_back(self, worker: Worker, *, warm: bool) -> None:
        with self._lock:
            self._busy.discard(worker)
            self._idle += [worker] if warm else []
            surplus = max(0, len(self._idle) - self._idle_workers)
            ending, self._idle = self._idle[:surplus], self._idle[surplus:]
        for one in ending if warm else [*ending, worker]:
            one.end()

    def _start(self, build: Build, at: float) -> Worker:
        folder = Path(self._folder.name) / build.account / build.region / build.fingerprint
        with self._lock:
            if not folder.exists():
                with zipfile.ZipFile(BytesIO(build.zipped)) as archive:
                    archive.extractall(folder)
        worker = Worker(build, folder, self._environment(build, folder), at)
        with self._lock:
            self._busy.add(worker)
        return worker

    def _environment(self, build: Build, folder: Path) -> dict[str, str]:
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            **build.environment,
            "AWS_ACCESS_KEY_ID": f"{OWN_KEY}{build.account}.{build.function}",
            "AWS_SECRET_ACCESS_KEY": "sandbox",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": build.region,
            "AWS_DEFAULT_REGION": build.region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{build.runtime if build.runtime.startswith(NODE) else python}",
            "AWS_LAMBDA_FUNCTION_NAME": build.function,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_FUNCTION_VERSION": build.version,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(build.memory_mb),
            "AWS_LAMBDA_LOG_FORMAT": "JSON" if build.log.json else "Text",
            "AWS_LAMBDA_LOG_GROUP_NAME": build.log.group,
            "AWS_LAMBDA_LOG_STREAM_NAME": f"[{build.version}]sandbox",
            # A home of its own, so that boto3 in a handler never reads the developer's AWS profile.
            "HOME": str(folder),
            "LAMBDA_TASK_ROOT": str(folder),
            "TZ": ":UTC",
            "_HANDLER": build.handler,
        }


def _execution(
    build: Build, request: Request, reply: dict[str, Any], lines: list[str], init_ms: float | None
) -> Execution:
    """Say what happened as Lambda does: the payload, the log's last line, and how long it took."""
    duration_ms = round(BASE_MS + 1000.0 * float(reply.get("slept_s", 0.0)), 2)
    who = f"RequestId: {request.request_id} Error: "
    if "result" in reply:
        return Execution(reply["result"].encode(), "success", lines, duration_ms, init_ms)
    status: Status = "error"
    if "timeout" in reply:
        status = "timeout"
        duration_ms = build.timeout_s * 1000.0
        said = f"Task timed out after {build.timeout_s:.2f} seconds"
        error = {"errorType": "Sandbox.Timedout", "errorMessage": who + said}
        ended = datetime.fromtimestamp(request.at + build.timeout_s, UTC).isoformat(timespec="milliseconds")
        line = f"{ended.replace('+00:00', 'Z')} {request.request_id} {said}"
    elif "exit" in reply:
        code = reply["exit"]
        how = f"exit status {code}" if code >= 0 else f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
        said = f"Runtime exited with error: {how}" if code else "Runtime exited without providing a reason"
        error = {"errorType": "Runtime.ExitError", "errorMessage": who + said}
        line = who + said
    else:
        error = {**reply["error"], "requestId": request.request_id}
        if "trace" in error:
            return _node_error(request, error, lines, duration_ms, init_ms)
        stack = "".join(error["stackTrace"])
        line = f"[ERROR] {error['errorType']}: {error['errorMessage']}\nTraceback (most recent call last):\n{stack}"
    hung = "hung" in reply
    return Execution(json.dumps(error).encode(), status, [*lines, line], duration_ms, init_ms, hung)


def _node_error(
    request: Request, reply: dict[str, Any], lines: list[str], duration_ms: float, init_ms: float | None
) -> Execution:
    """An error of a handler in Node.js: its payload has no request id, and its line has tabs."""
    error = {name: reply[name] for name in ("errorType", "errorMessage", "trace")}
    at = datetime.fromtimestamp(request.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"errorType": error["errorType"], "errorMessage": error["errorMessage"], "stack": error["trace"]}
    line = "\t".join((at, request.request_id, "ERROR", "Invoke Error ", json.dumps(told)))
    return Execution(json.dumps(error).encode(), "error", [*lines, line], duration_ms, init_ms)
