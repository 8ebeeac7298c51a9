"""The error lines of one version in its log, by kind; in a log of text or of JSON."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from buddy_ops.aws.session import Target
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.progress import Progress
from buddy_ops.health import logs
from buddy_ops.health.metrics import MALFORMED

LINES_LIMIT = 10_000
"""Rows in one reply of Logs Insights. Source: CloudWatch Logs API reference, StartQuery."""

PLATFORM_NOISE = r'"type":"platform\.(init|start|runtimeDone|restore|extension|telemetry|logsDropped)'
"""Lambda's own records in a JSON log, its report left out: only that shows a timeout, or a process that ended."""

ERROR_LINES = (
    f"{logs.OWN_LINES}"
    '| filter version = "{version}" and @message not like /^(START|END|REPORT) / '
    f"and @message not like /{PLATFORM_NOISE}/ "
    'and @message like /(?i)\\berror\\b|exception|timed out|exited|fatal|apologised|"status":"(timeout|failure)"/ '
    f"| fields @timestamp, @message | sort @timestamp desc | limit {LINES_LIMIT}"
)
# For example 'botocore.exceptions.ClientError: An error occurred ...'.
NAMED_ERROR = re.compile(r"\b((?:\w+\.)*\w+(?:Error|Exception|Fault))\b")
# A request's ID, a number with what belongs to it ('42', '03:12:07', '1.5s'), and a token of 25 characters or more.
VARYING_PART = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b\d[\w:.-]*\b|[\w-]{25,}")
# Lambda's own lines: 'Task timed out after 8.00 seconds', 'RequestId: ... Error: Runtime exited with error: ...'.
RUNTIME_FAILURES = ("Task timed out", "Runtime exited")
EXAMPLE_LIMIT = 160
KIND_LIMIT = 80


@dataclass(frozen=True)
class ErrorKind:
    """Error lines of one kind. ``first`` and ``last`` are the log's own times; ``example`` is the newest, cut."""

    name: str
    lines: int
    first: str
    last: str
    example: str


def kind_of(message: str) -> str:
    """The kind of an error line: the error's name, or the line without what differs from request to request."""
    try:
        document = parse_json(message)
        report = {}
        if document.get("type") == "platform.report":
            report = document.get("record", {})
        if report.get("status") == "timeout":
            return "Task timed out"
        named_type = document.get("errorType") or report.get("errorType")
        message = str(named_type or document.get("message") or message)
    except (ValueError, AttributeError):
        pass  # not a JSON object: the line is plain text
    if named := NAMED_ERROR.search(message):
        return named[1]
    for failure in RUNTIME_FAILURES:
        if failure in message:
            return failure
    first_line = next(iter(message.strip().splitlines()), "an empty line")
    return " ".join(VARYING_PART.sub("…", first_line).split())[:KIND_LIMIT]


def group_errors(lines: Iterable[tuple[str, str]]) -> tuple[ErrorKind, ...]:
    """Error lines (time, message), newest first, by kind; the most frequent kind first."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for at, message in lines:
        groups.setdefault(kind_of(message), []).append((at, message))
    kinds = []
    for name, group in groups.items():
        # The query sorts the newest line first.
        newest_at, newest = group[0]
        oldest_at, _ = group[-1]
        example = " ".join(newest.split())[:EXAMPLE_LIMIT]
        kinds.append(ErrorKind(name, len(group), first=oldest_at[:19], last=newest_at[:19], example=example))
    return tuple(sorted(kinds, key=lambda kind: (-kind.lines, kind.name)))


def _told_once(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The lines without Lambda's JSON reports of requests whose error the handler's runtime logged itself."""
    kept = list(lines)
    told = {request for _, message in kept if (request := _request_of(message, report=False))}
    for at, message in kept:
        if _request_of(message, report=True) not in told:
            yield at, message


def _request_of(message: str, *, report: bool) -> str:
    """The request that a JSON line is about: of Lambda's reports, or of all other lines; '' for none."""
    try:
        document = parse_json(message)
        if report != (document.get("type") == "platform.report"):
            return ""
        return str(document["record"]["requestId"] if report else document["requestId"])
    except (ValueError, AttributeError, TypeError, KeyError):
        return ""


def read_error_kinds(
    target: Target, version: str, since: datetime, watch: Progress
) -> tuple[tuple[ErrorKind, ...], str]:
    """The version's error lines by kind, and what could not be read; '' if all could.

    AWS: lambda:GetFunctionConfiguration, logs:StartQuery, GetQueryResults, reads only.
    """
    query = ERROR_LINES.replace("{version}", version)
    # The version's own group: the function may have been given another one since it was published.
    config = logs.read_log_configs(target, [version])[version]
    try:
        rows = logs.query_log(target, query, since, until=target.clock.now(), watch=watch, groups=[config.group])
        kinds = group_errors(_told_once((row["@timestamp"], row["@message"]) for row in rows))
    except AwsFailed as failure:
        return (), f"the log could not be read: {failure.what}"
    except MALFORMED as error:
        return (), f"the log could not be read: malformed reply ({error})"
    if not config.errors:
        return kinds, "only failures that Lambda reports are logged (ApplicationLogLevel FATAL)"
    if len(rows) == LINES_LIMIT:
        return kinds, f"only the newest {LINES_LIMIT:,} error lines are counted"
    return kinds, ""
