"""AWS Lambda as the sandbox serves it: the control plane, Invoke, and what simulated traffic reads.

Knows which version an invocation goes to and what to tell of it. Holds no lock while a handler runs.
"""

import base64
import json
import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from buddy_sandbox import functions
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.faults import PROFILES, FaultProfile
from buddy_sandbox.functions import LATEST, Function, Routing, Version, VersionConfig, busy, pick
from buddy_sandbox.lambda_control import ControlPlane, Time
from buddy_sandbox.log_lines import Invocation, LogConfig, write
from buddy_sandbox.runtime import Build, Execution, Request, Runtime
from buddy_sandbox.wire import AwsError, Params, Raw

UNPROFILED_INIT_MS = 250.0
_PAYLOAD_LIMIT = 6291556


class Telemetry(Protocol):
    """Who hears of invocations. ``resource`` is 'fn:live' for an alias, 'fn:42' for a version, 'fn' unqualified."""

    def invoked(
        self,
        function: str,
        resource: str,
        version: str,
        at: float,
        duration_ms: float,
        init_ms: float | None,
        failed: bool,
        request_id: str,
        memory_mb: int,
        lines: list[str],
        log: LogConfig,
        logged: list[str],
    ) -> None:
        """One invocation that ran, started ``at``.

        Args:
            lines: what the handler printed, and what Lambda says of a failure.
            logged: all lines of its log, as ``log`` configures it.
        """

    def throttled(self, function: str, resource: str, at: float) -> None:
        """One invocation that was refused for lack of concurrency."""


@dataclass(frozen=True)
class _Invocation:
    """What is decided about an invocation under the lock, before it runs."""

    resource: str
    build: Build
    request: Request


class Lambda(ControlPlane):
    """Lambda in one account and region.

    Args:
        clock: gives virtual time; states settle by it.
        runtime: runs handlers.
        telemetry: hears of each invocation and throttle.
        region: of the ARNs.
        account: of the ARNs.
        update_s: virtual seconds that $LATEST is InProgress after an update, and a new version Pending.
        seed: of the draws between an alias's two versions, and of request ids.
        fetch_s3: (bucket, key, version id) to a package; raises LookupError('NoSuchBucket' or 'NoSuchKey').
    """

    def __init__(
        self,
        clock: Time,
        runtime: Runtime,
        telemetry: Telemetry,
        *,
        region: str = "us-east-1",
        account: str = ACCOUNT,
        update_s: float = 2.0,
        seed: int = 0,
        fetch_s3: Callable[[str, str, str | None], bytes] | None = None,
    ) -> None:
        super().__init__(clock, region, update_s, fetch_s3, account)
        self._runtime = runtime
        self._telemetry = telemetry
        self._seed = seed
        self._random = random.Random(seed)

    def reset(self) -> None:
        """Forget every function, and draw again from the start."""
        with self._lock:
            self._functions.clear()
            self._random = random.Random(self._seed)

    # What simulated traffic reads.

    def routing(self, function: str, alias: str) -> Routing | None:
        """Where an alias sends its requests now; None without such a function or alias."""
        with self._lock:
            fn = self._functions.get(function)
            to = fn.aliases.get(alias) if fn else None
            if to is not None:
                to.settle(self._clock.now())
            return Routing(to.primary, to.second, to.weight, to.revision, fn.reserved) if fn and to else None

    def build_profile(self, function: str, version: str) -> FaultProfile:
        """How a version behaves; a zip without a profile is a good build. Raises AwsError for an unknown version."""
        return (self._serving(function, version).code.profile or PROFILES["good"]).in_region(self.region)

    def has_profile(self, function: str, version: str) -> bool:
        """Whether a version's zip carries a fault profile. Raises AwsError for an unknown version."""
        return self._serving(function, version).code.profile is not None

    def run_version(
        self, function: str, alias: str, version: str, *, payload: bytes, request_id: str, at: float
    ) -> Execution:
        """Run one request of an alias on the version that routing has picked; nothing is told of it."""
        with self._lock:
            fn = self._function({"FunctionName": function})[0]
            serving = fn.serving(version, self._clock.now())
            build = self._build(fn, serving)
            request = Request(payload, request_id, f"{fn.arn}:{alias}", at, self.age_s(function, version, at))
        return self._runtime.run(build, request)

    def version_config(self, function: str, version: str) -> VersionConfig:
        """A version's timeout, memory and logging. Raises AwsError for an unknown version."""
        config = self._serving(function, version).config
        return VersionConfig(config["Timeout"], config["MemorySize"], LogConfig.of(config["LoggingConfig"]))

    def alias_arn(self, function: str, alias: str) -> str:
        """The ARN by which people invoke an alias."""
        return f"{self._arn(function)}:{alias}"

    def age_s(self, function: str, version: str, at: float) -> float:
        """Seconds from the version's first request to this one, which may be the first. Raises AwsError if unknown."""
        with self._lock:
            found = self._serving(function, version)
            if found.first_request_at is None:
                found.first_request_at = at
            return max(0.0, at - found.first_request_at)

    def _serving(self, function: str, version: str) -> Version:
        with self._lock:
            return self._function({"FunctionName": function})[0].serving(version, self._clock.now())

    # Invoke.

    def invoke(self, params: Params) -> Raw:
        payload = params.get("Payload") or b"{}"
        if len(payload) > _PAYLOAD_LIMIT:
            message = f"Request must be smaller than {_PAYLOAD_LIMIT} bytes for the InvokeFunction operation"
            raise AwsError("RequestTooLargeException", message, Type="User")
        try:
            json.loads(payload)
        except ValueError as error:
            message = f"Could not parse request body into json: {error}"
            raise AwsError("InvalidRequestContentException", message, Type="User") from None
        kind = params.get("InvocationType") or "RequestResponse"
        with self._lock:
            invocation = self._decide(params, payload, kind)
        if kind == "DryRun":
            return Raw(b"", 204)
        if kind == "Event":
            threading.Thread(target=self._run, args=[invocation], daemon=True).start()
            return Raw(b"", 202)
        done = self._run(invocation)
        headers = {"X-Amz-Executed-Version": invocation.build.version, "Content-Type": "application/json"}
        if done.failed:
            headers["X-Amz-Function-Error"] = "Unhandled"
        if params.get("LogType") == "Tail":
            tail = "".join(f"{line}\n" for line in _log_lines(invocation, done)).encode()[-4096:]
            headers["X-Amz-Log-Result"] = base64.b64encode(tail).decode()
        return Raw(done.payload, 200, headers)

    def _decide(self, params: Params, payload: bytes, kind: str) -> _Invocation:
        _, given = functions.parse_name(params, self.region)
        fn, qualifier = self._function(params, not_found=given or LATEST)
        now = self._clock.now()
        suffix = f":{qualifier}" if qualifier else ""
        routing = self.routing(fn.name, qualifier) if qualifier else None
        if routing is not None:
            # Only a split draws, so that the seed gives the same draws however often an unsplit alias is probed.
            qualifier = pick(routing, self._random.random() if routing.second else 1.0)
        version = fn.serving(qualifier, now)
        state = self._shown(fn, version, None)["State"]
        if state != "Active":
            raise busy(f"The function is currently in the following state: {state}")
        if fn.reserved == 0 and kind != "DryRun":
            self._telemetry.throttled(fn.name, fn.name + suffix, now)
            reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
            raise AwsError("TooManyRequestsException", "Rate Exceeded.", Type="User", Reason=reason)
        request_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        age_s = 0.0 if kind == "DryRun" else self.age_s(fn.name, version.number, now)
        request = Request(payload, request_id, fn.arn + suffix, now, age_s)
        return _Invocation(fn.name + suffix, self._build(fn, version), request)

    def _run(self, invocation: _Invocation) -> Execution:
        build, request = invocation.build, invocation.request
        done = self._runtime.run(build, request)
        who = (build.function, invocation.resource, build.version, request.at)
        took = (done.duration_ms, done.init_ms, done.failed)
        told = (done.lines, build.log, _log_lines(invocation, done))
        self._telemetry.invoked(*who, *took, request.request_id, build.memory_mb, *told)
        return done

    def _build(self, fn: Function, version: Version) -> Build:
        config, profile = version.config, version.code.profile
        return Build(
            function=fn.name,
            version=version.number,
            region=self.region,
            account=self.account,
            handler=config["Handler"],
            environment=dict(config.get("Environment", {}).get("Variables", {})),
            timeout_s=config["Timeout"],
            memory_mb=config["MemorySize"],
            init_ms=profile.init_ms if profile else UNPROFILED_INIT_MS,
            fingerprint=version.fingerprint(),
            zipped=version.code.zipped,
            log=LogConfig.of(config["LoggingConfig"]),
            runtime=config["Runtime"],
        )


def _log_lines(invocation: _Invocation, done: Execution) -> list[str]:
    """The lines of an invocation's log."""
    build, request = invocation.build, invocation.request
    told = Invocation(
        function=build.function,
        version=build.version,
        arn=request.arn,
        request_id=request.request_id,
        at=request.at,
        duration_ms=done.duration_ms,
        init_ms=done.init_ms,
        memory_mb=build.memory_mb,
        **done.told(),
    )
    return list(write(build.log, told))
