"""A function's log: its group and format, and what Lambda reports in it, as text or as JSON.

Never reads a log itself: ``health.logs`` does, and an invocation returns the end of its own.

Source: Lambda developer guide, 'Configuring advanced logging controls'; Telemetry API event schema reference,
ReportMetrics.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from types_boto3_lambda.type_defs import FunctionConfigurationResponseTypeDef, FunctionConfigurationTypeDef

    Reply = FunctionConfigurationTypeDef | FunctionConfigurationResponseTypeDef

TEXT_TIMES = re.compile(r"\t(?:Init |Restore )?Duration: ([\d.]+) ms")
"""The times in a REPORT line: the request's own, and before it that of a cold start, or of restoring a snapshot."""

JSON_TIMES = ("durationMs", "initDurationMs", "restoreDurationMs")
"""The same in a platform.report record."""


@dataclass(frozen=True)
class LogConfig:
    """Where and how a version writes its log.

    Attributes:
        group: the log group.
        is_json: whether the format is JSON.
        reports: whether Lambda writes its report of every request. In JSON, with SystemLogLevel WARN, it writes only
            those of failures.
    """

    group: str
    is_json: bool = False
    reports: bool = True

    @classmethod
    def of(cls, reply: "Reply") -> "LogConfig":
        """From a configuration as Lambda returns it; one without LoggingConfig has Lambda's defaults."""
        config = reply.get("LoggingConfig", {})
        is_json = config.get("LogFormat") == "JSON"
        reports = not is_json or config.get("SystemLogLevel", "INFO") != "WARN"
        return cls(config.get("LogGroup") or default_group(reply["FunctionName"]), is_json, reports)


def default_group(function: str) -> str:
    """The log group of a function that names none."""
    return f"/aws/lambda/{function}"


def reported_s(tail: str) -> float | None:
    """The time that Lambda reports at the end of a log, a cold start included, in seconds; None: no report is there."""
    # The last line counts: a handler may print something that looks like a report.
    for line in reversed(tail.splitlines()):
        times_ms = _text_times(line) if line.startswith("REPORT ") else _json_times(line)
        if times_ms:
            return sum(times_ms) / 1000
    return None


def _text_times(line: str) -> list[float]:
    return [float(found) for found in TEXT_TIMES.findall(line)]


def _json_times(line: str) -> list[float]:
    """The times of a platform.report record; of any other line, none."""
    try:
        record = cast("Mapping[str, Any]", json.loads(line))
        metrics = record["record"]["metrics"] if record["type"] == "platform.report" else {}
        return [float(metrics[name]) for name in JSON_TIMES if name in metrics]
    except (ValueError, TypeError, KeyError):
        return []
