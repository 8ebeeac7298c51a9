"""A function's log: its group and format, and what Lambda reports in it, as text or as JSON.

Never reads a log itself: ``health.logs`` does, and an invocation returns the end of its own.

Source: Lambda developer guide, 'Configuring advanced logging controls'; Telemetry API event schema reference,
ReportMetrics.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from buddy_ops.core.documents import parse_json

if TYPE_CHECKING:
    from types_boto3_lambda.type_defs import FunctionConfigurationResponseTypeDef, FunctionConfigurationTypeDef

    Reply = FunctionConfigurationTypeDef | FunctionConfigurationResponseTypeDef

# REPORT RequestId: 8f50...\tDuration: 12.34 ms\tBilled Duration: 13 ms\t...\tInit Duration: 210.5 ms
# The tabs are Lambda's, and keep the billed duration out.
TEXT_TIMES = re.compile(r"\t((?:Init |Restore )?)Duration: ([\d.]+) ms")
"""The times in a REPORT line: the request's own, and before it that of a cold start, or of restoring a snapshot."""

TEXT_REQUEST = re.compile(r"REPORT RequestId: ([\w-]+)")

# 2026/11/22/[7]6b29f5..., or 2026/11/22/shop-prod[7]6b29f5... in a shared group.
STREAM = re.compile(r"\d{4}/\d\d/\d\d/([^\[]*)\[([^\]]+)\]")
"""A stream's name: DATE/[VERSION]ID, in a group that functions may share DATE/FUNCTION[VERSION]ID."""

# {"type": "platform.report", "record": {"requestId": ..., "status": "success", "metrics": {"durationMs": 12.3}}}
JSON_START_TIMES = ("initDurationMs", "restoreDurationMs")
"""What a platform.report record of a cold start has beside ``durationMs``."""

REPORTS_OF_TEXT = '"REPORT RequestId"'
REPORTS_OF_JSON = '{ $.type = "platform.report" }'
"""Filter patterns of CloudWatch Logs that Lambda's reports match. Source: its user guide, 'Filter pattern syntax'."""


@dataclass(frozen=True, slots=True)
class Report:
    """What Lambda reports of one request.

    Attributes:
        request_id: empty where the report has none.
        duration_ms: as in the metric Duration, without the start of the environment.
        start_ms: how long its environment started before it, or was restored from a snapshot; None: it was warm.
        failed: whether it raised, timed out or its process ended. A report of text does not say it.
    """

    request_id: str
    duration_ms: float
    start_ms: float | None = None
    failed: bool = False


@dataclass(frozen=True)
class LogConfig:
    """Where and how a version writes its log.

    Attributes:
        group: the log group.
        is_json: whether the format is JSON.
        reports: whether Lambda writes its report of every request. In JSON, with SystemLogLevel WARN, it writes only
            those of failures.
        errors: whether the handler's lines of level ERROR are written, and Lambda's about an exception. In JSON, with
            ApplicationLogLevel FATAL, they are not.
    """

    group: str
    is_json: bool = False
    reports: bool = True
    errors: bool = True

    @classmethod
    def of(cls, reply: "Reply") -> "LogConfig":
        """From a configuration as Lambda returns it; one without LoggingConfig has Lambda's defaults."""
        config = reply.get("LoggingConfig", {})
        is_json = config.get("LogFormat") == "JSON"
        reports = not is_json or config.get("SystemLogLevel", "INFO") != "WARN"
        errors = not is_json or config.get("ApplicationLogLevel", "INFO") != "FATAL"
        return cls(config.get("LogGroup") or default_group(reply["FunctionName"]), is_json, reports, errors)

    @property
    def report_pattern(self) -> str:
        """The filter pattern that finds the reports in it."""
        return REPORTS_OF_JSON if self.is_json else REPORTS_OF_TEXT

    def stream_prefix(self, function: str, version: str, day: date) -> str:
        """How the names of the streams begin that a version's environments of a day (UTC) write.

        In a group of another name, which functions may share, the function's name is part of them.
        """
        return f"{day:%Y/%m/%d}/{self._owner(function)}[{version}]"

    def version_of(self, function: str, stream: str) -> str:
        """The version that writes a stream of this group; empty for one of another function."""
        found = STREAM.match(stream)
        if found is None or found[1] != self._owner(function):
            return ""
        return found[2]

    def _owner(self, function: str) -> str:
        return "" if self.group == default_group(function) else function


def default_group(function: str) -> str:
    """The log group of a function that names none."""
    return f"/aws/lambda/{function}"


def reported_s(tail: str) -> float | None:
    """The time that Lambda reports at the end of a log, a cold start included, in seconds; None: no report is there."""
    # The last line counts: a handler may print something that looks like a report.
    for line in reversed(tail.splitlines()):
        report = parse_report(line)
        if report is not None:
            return (report.duration_ms + (report.start_ms or 0.0)) / 1000
    return None


def parse_report(line: str) -> Report | None:
    """The report in a line of a log of text or of JSON; None for any other line."""
    return _parse_text(line) if line.startswith("REPORT ") else _parse_json(line)


def _parse_text(line: str) -> Report | None:
    found = [(kind, float(time)) for kind, time in TEXT_TIMES.findall(line)]
    own = [time for kind, time in found if not kind]
    if not own:
        return None
    request = TEXT_REQUEST.match(line)
    starts = [time for kind, time in found if kind]
    return Report(request[1] if request else "", own[0], sum(starts) if starts else None)


def _parse_json(line: str) -> Report | None:
    try:
        document = cast("Mapping[str, Any]", parse_json(line))
        if document["type"] != "platform.report":
            return None
        record = document["record"]
        metrics = record["metrics"]
        starts = [float(metrics[name]) for name in JSON_START_TIMES if name in metrics]
        return Report(
            str(record.get("requestId", "")),
            float(metrics["durationMs"]),
            sum(starts) if starts else None,
            failed=record.get("status", "success") != "success",
        )
    # Any other line of the log, above all what the handler printed.
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
