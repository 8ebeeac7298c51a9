"""The lines that Lambda writes into a function's log, as text or as JSON.

Knows formats, levels, and the names of groups and streams. Never stores a line.

Source: Lambda developer guide, 'Configuring advanced logging controls' (formats, system log level event mapping, log
groups that functions share); Telemetry API event schema reference (the platform records).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")
Status = Literal["success", "error", "timeout"]


@dataclass(frozen=True)
class LogConfig:
    """A version's LoggingConfig.

    Attributes:
        group: the log group.
        json: whether the format is JSON; levels exist only then.
        application_level: the least level of the handler's own lines.
        system_level: the least level of Lambda's lines.
    """

    group: str
    json: bool = False
    application_level: str = "INFO"
    system_level: str = "INFO"

    @classmethod
    def of(cls, config: dict[str, str]) -> "LogConfig":
        """From a LoggingConfig as Lambda shows it."""
        levels = (config.get("ApplicationLogLevel", "INFO"), config.get("SystemLogLevel", "INFO"))
        return cls(config["LogGroup"], config["LogFormat"] == "JSON", *levels)


@dataclass(frozen=True)
class Invocation:
    """One invocation as its log tells it.

    Attributes:
        arn: as invoked.
        at: when it was called, seconds since the epoch. The request of a cold start begins ``init_ms`` later.
        init_ms: of a cold start, else None.
        own: the lines that the handler printed.
        text: Lambda's line about a failure, in a text log.
        error: Lambda's error payload, where the handler raised or its process ended.
    """

    function: str
    version: str
    arn: str
    request_id: str
    at: float
    duration_ms: float
    init_ms: float | None
    memory_mb: int
    status: Status = "success"
    own: Sequence[str] = ()
    text: str | None = None
    error: dict[str, Any] | None = None

    @property
    def begun(self) -> float:
        """When the handler was called."""
        return self.at + (self.init_ms or 0.0) / 1000

    @property
    def ended(self) -> float:
        """When it was over: Lambda writes its report then."""
        return self.begun + self.duration_ms / 1000


def default_group(function: str) -> str:
    """The log group of a function that names none."""
    return f"/aws/lambda/{function}"


DAY_S = 86_400.0


def stream(log: LogConfig, function: str, version: str, at: float) -> str:
    """The stream that a version writes to on a day; one environment a version and day is as good as many.

    In a group of another name, which functions may share, the function's name is part of it.
    """
    owner = "" if log.group == default_group(function) else function
    return _stream_of_day(owner, version, int(at // DAY_S))


@cache
def _stream_of_day(owner: str, version: str, day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY_S, UTC):%Y/%m/%d}/{owner}[{version}]{day:032x}"


def write(log: LogConfig, invocation: Invocation) -> Iterator[str]:
    """The lines of one invocation, in order."""
    return (line for _, line in write_timed(log, invocation))


def write_timed(log: LogConfig, invocation: Invocation) -> Iterator[tuple[float, str]]:
    """The same with the time of each, seconds since the epoch."""
    return _as_json(log, invocation) if log.json else _as_text(invocation)


def _as_text(done: Invocation) -> Iterator[tuple[float, str]]:
    yield done.begun, f"START RequestId: {done.request_id} Version: {done.version}"
    for line in done.own:
        yield done.begun, line
    if done.text is not None:
        yield done.ended, done.text
    yield done.ended, f"END RequestId: {done.request_id}"
    init = "" if done.init_ms is None else f"\tInit Duration: {done.init_ms:.2f} ms"
    report = (
        f"REPORT RequestId: {done.request_id}\tDuration: {done.duration_ms:.2f} ms\t"
        f"Billed Duration: {-int(-done.duration_ms // 1)} ms\tMemory Size: {done.memory_mb} MB\t"
        f"Max Memory Used: {min(64, done.memory_mb)} MB{init}\t"
    )
    yield done.ended, report


def _as_json(log: LogConfig, done: Invocation) -> Iterator[tuple[float, str]]:
    ended = done.ended
    name = {"functionName": done.function, "functionVersion": done.version}
    if done.init_ms is not None:
        began = {"initializationType": "on-demand", "phase": "init", **name}
        yield from _platform(log, "INFO", "initStart", done.at, began)
    start = {"requestId": done.request_id, "functionArn": done.arn, "version": done.version}
    yield from _platform(log, "INFO", "start", done.begun, start)
    for line in done.own:
        if _is_logged(log, line):
            yield done.begun, line
    # A timeout is told by the platform records alone.
    if done.error is not None and done.status == "error" and _reaches("ERROR", log.application_level):
        told = {"timestamp": _iso(ended), "log_level": "ERROR", "requestId": done.request_id, **done.error}
        yield ended, json.dumps(told)
    status: dict[str, Any] = {"status": done.status}
    if done.error is not None and done.status == "error":
        status["errorType"] = done.error["errorType"]
    failed = done.status != "success"
    metrics: dict[str, Any] = {"durationMs": round(done.duration_ms, 3)}
    ran = {"requestId": done.request_id, "metrics": metrics, **status}
    yield from _platform(log, "WARN" if failed else "DEBUG", "runtimeDone", ended, ran)
    metrics = {
        **metrics,
        "billedDurationMs": -int(-done.duration_ms // 1),
        "memorySizeMB": done.memory_mb,
        "maxMemoryUsedMB": min(64, done.memory_mb),
    }
    if done.init_ms is not None:
        metrics["initDurationMs"] = round(done.init_ms, 3)
    report = {"requestId": done.request_id, "metrics": metrics, **status}
    yield from _platform(log, "WARN" if failed else "INFO", "report", ended, report)


def _platform(log: LogConfig, level: str, kind: str, at: float, record: dict[str, Any]) -> Iterator[tuple[float, str]]:
    """One of Lambda's own records, if its level is logged."""
    if _reaches(level, log.system_level):
        yield at, json.dumps({"time": _iso(at), "type": f"platform.{kind}", "record": record}, separators=(",", ":"))


def _is_logged(log: LogConfig, line: str) -> bool:
    """Whether a handler's line has the application's level; one without a known level counts as INFO."""
    level = "INFO"
    if line.startswith("{"):
        # A line that is no JSON after all has no level.
        with suppress(ValueError):
            level = str(json.loads(line).get("level", level)).upper()
    return _reaches(level if level in LEVELS else "INFO", log.application_level)


def _reaches(level: str, least: str) -> bool:
    return LEVELS.index(level) >= LEVELS.index(least)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
