"""Lambda's reports of single requests, read from the log every 10 s and counted in ticks of 10 s.

CloudWatch's metrics have minutes that are complete two minutes later. A report is readable some seconds after its
request. Two reads make a tick: all reports of the new version, and of both versions those of failures and slow requests
with the log lines of the failure metrics. A request belongs to the tick in which it began. A tick is cut once, when
each of its requests must have ended and been ingested; later lines are journaled and left out. Never judges.

Lambda tries an asynchronous event that failed twice more, under the same request ID. Each attempt is a request here, as
in CloudWatch's Invocations and Errors.

Source: Lambda developer guide, 'Configuring advanced logging controls', 'How Lambda handles errors and retries with
asynchronous invocation' and 'Using CloudWatch metrics with Lambda'; AWS re:Post,
knowledge-center/lambda-function-duplicate-invocations; Telemetry API event schema reference; CloudWatch Logs API
reference, FilterLogEvents, and user guide, 'Filter pattern syntax'.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, cast

from buddy_ops.aws.function_log import REPORTS_OF_JSON, Report, parse_report
from buddy_ops.aws.log_events import TooManyPages, search_log
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version, label
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed, NotFound
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.settings import MetricName, Settings
from buddy_ops.core.text import duration, floor_minute
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import MALFORMED, MINUTE

if TYPE_CHECKING:
    from types_boto3_logs.type_defs import FilteredLogEventTypeDef

TICK = timedelta(seconds=10)

INGESTION = timedelta(seconds=12)
"""How long after a request its report is readable: CloudWatch Logs takes 5 to 10 s."""

LEAST_LAG = timedelta(seconds=20)
"""A tick is cut so long after its end at the soonest."""

LONGEST_LAG = timedelta(seconds=60)
"""With a longer one, ticks come little earlier than CloudWatch's minutes."""

VISIBLE = timedelta(seconds=2)
"""Lines that were ingested so shortly before a tick is cut may not be readable yet: they are late in any case."""

READ_AGAIN = timedelta(seconds=30)
"""For how long before the next tick lines are read once more, to journal late ones."""

MOST_PAGES = 10
"""Pages (1 MB, 10,000 events) of one search in a poll: then two searches use two of the five calls a second that an
account has. A busier function has its minutes."""

MOST_PAGES_BEHIND = 60
"""The same where there is a longer time to catch up with, once."""

BEHIND = timedelta(minutes=10)
"""Ticks that are so late are not read any more: their minutes were judged."""

CALLS_PER_MINUTE = 12
"""Two a poll, where each has one page. AWS allows an account 5 a second and region.

Source: AWS re:Post, 'How do I determine throttling in my CloudWatch logs?'
"""

LONGEST_PATTERN = 1024
"""Characters of a filter pattern. Source: API reference, FilterLogEvents."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")
"""A metric whose name a filter pattern takes as it is."""


@dataclass(frozen=True)
class FeedTick:
    """The requests that began in 10 s.

    Attributes:
        at: its start.
        canary: the new version's requests.
        stable_errors: failed requests of the stable version; ``stable_slow``: its slow ones, and how many of these
            were cold starts.
    """

    at: datetime
    canary: Counts
    stable_errors: int = 0
    stable_slow: int = 0
    stable_cold_slow: int = 0

    @property
    def end(self) -> datetime:
        """When it ended."""
        return self.at + TICK


class LogLine(NamedTuple):
    """A report, or a line that counts a failure.

    Attributes:
        begun_ms: when its request began, in ms since the epoch; of a failure metric's line, when that was written.
        request: the request's ID; empty where the line has none.
        report: None: the line is a failure metric's.
    """

    event: str
    version: str
    begun_ms: float
    ingested_ms: int
    request: str
    report: Report | None


def why_not(settings: Settings, versions: Sequence[Version]) -> str:
    """Why these versions cannot be judged by the log feed, in a sentence; empty if they can."""
    if not settings.health.log_feed:
        return "The setting health.log_feed is off."
    for version in versions:
        if not version.log.is_json:
            return f"The log of {label(version.number)} is text (LogFormat), whose reports do not show failures."
        if not version.log.reports:
            return f"The log of {label(version.number)} has no reports of successful requests (SystemLogLevel WARN)."
    if lag_of(versions) > LONGEST_LAG:
        longest = max(version.timeout_s for version in versions)
        return f"A request may last {longest} s (Timeout), and is reported only when it ends."
    if lag_of(versions).total_seconds() > settings.health.late_data_s:
        return f"CloudWatch's minutes come as early (late_data_s {settings.health.late_data_s})."
    for metric in settings.failure_metrics:
        if metric.by_version and not _is_in_log(metric):
            return f"The failure metric {metric.full_name} cannot be counted in the log."
    if len(_pattern(settings)) > LONGEST_PATTERN:
        return "The names of the failure metrics are too long for a filter pattern."
    return ""


def describe(settings: Settings, versions: Sequence[Version]) -> str:
    """Which source will decide, and why not the log, in a sentence or two."""
    why = why_not(settings, versions)
    if why:
        return f"CloudWatch's minutes decide, {settings.health.late_data_s} s late. {why}"
    lag = duration(lag_of(versions))
    return f"The log decides, every 10 s and {lag} late; CloudWatch's minutes where it does not show the same."


def lag_of(versions: Sequence[Version]) -> timedelta:
    """How long after its end a tick is cut: each request has ended by then, and its report is readable."""
    longest = max((version.timeout_s for version in versions), default=0)
    return max(LEAST_LAG, timedelta(seconds=longest) + INGESTION)


def floor_tick(moment: datetime) -> datetime:
    """The start of the tick that holds a moment."""
    # TICK's 10 s, so that a minute has six whole ticks.
    return moment - timedelta(seconds=moment.second % 10, microseconds=moment.microsecond)


def _is_in_log(metric: MetricName) -> bool:
    """Whether each failure may be a line of the log, in CloudWatch's embedded metric format."""
    counted = metric.statistic == "Sum" and not metric.expression
    return counted and not metric.namespace.startswith("AWS/") and PLAIN_NAME.fullmatch(metric.name) is not None


def _pattern(settings: Settings) -> str:
    """The filter pattern of failures and slow requests."""
    bound = settings.health.latency_ms
    # { ($.type = "platform.report" && ($.record.status != "success" || ...)) || $.Failures > 0 }
    failed = f'$.record.status != "success" || $.record.metrics.durationMs > {bound}'
    pattern = f'($.type = "platform.report" && ({failed}))'
    for metric in settings.failure_metrics:
        if metric.by_version:
            pattern += f" || $.{metric.name} > 0"
    return f"{{ {pattern} }}"


class Ticks:
    """Log lines to ticks: duplicates, order and pages of the reads change nothing.

    Args:
        start: of the first tick.
        bound_ms: the latency above which a request is slow.
    """

    def __init__(self, stable: str, new: str, start: datetime, *, lag: timedelta, bound_ms: float) -> None:
        self.next = start
        self._stable = stable
        self._new = new
        self._lag = lag
        self._bound_ms = bound_ms
        self._lines: dict[str, LogLine] = {}
        self._known: dict[str, float] = {}
        self._failed: dict[tuple[str, str], list[float]] = {}
        self._excess = 0
        self.late: Counter[str] = Counter()

    def add(self, lines: Iterable[LogLine]) -> None:
        """Take lines in, each once."""
        for line in lines:
            if line.event in self._known:
                continue
            self._known[line.event] = line.begun_ms
            # Its tick was cut and judged. Counted now, the same tick would have two meanings in the journal.
            if line.begun_ms < _ms(self.next):
                self.late[line.version] += 1
            else:
                self._lines[line.event] = line

    def cut_until(self, now: datetime) -> list[FeedTick]:
        """The ticks that are complete by now, each once."""
        found = []
        while self.next + TICK + self._lag <= now:
            found.append(self._cut())
        return found

    def skip_to(self, start: datetime) -> None:
        """Leave out the ticks before one: their minutes are judged."""
        self.next = start
        self._forget()

    def _cut(self) -> FeedTick:
        end = self.next + TICK
        readable_ms = _ms(end + self._lag - VISIBLE)
        lines = [line for line in self._lines.values() if line.begun_ms < _ms(end)]
        # When AWS took a line in decides, not when it was read: a resumed run cuts the same ticks.
        in_time = [line for line in lines if line.ingested_ms <= readable_ms]
        self.late.update(line.version for line in lines if line.ingested_ms > readable_ms)
        canary = [line for line in in_time if line.version == self._new]
        reports = _reports(canary)
        cold = [report for report in reports if report.start_ms is not None]
        of_stable = _reports(line for line in in_time if line.version == self._stable)
        # A failure metric's line may be written in the tick after the request's.
        failures = self._excess + self._count_failures(canary)
        errors = min(failures, len(reports))
        self._excess = failures - errors
        tick = FeedTick(
            self.next,
            Counts(
                len(reports),
                errors,
                slow=self._count_slow(reports),
                cold=len(cold),
                cold_slow=self._count_slow(cold),
            ),
            stable_errors=self._count_failures(line for line in in_time if line.version == self._stable),
            stable_slow=self._count_slow(of_stable),
            stable_cold_slow=self._count_slow(report for report in of_stable if report.start_ms is not None),
        )
        self.next = end
        self._forget()
        return tick

    def _count_slow(self, reports: Iterable[Report]) -> int:
        return sum(report.duration_ms > self._bound_ms for report in reports)

    def _count_failures(self, lines: Iterable[LogLine]) -> int:
        """Attempts that failed, each once: one may both raise and have lines of failure metrics."""
        found = 0
        # A report says when its attempt began. A metric's line may be of any that began shortly before.
        for line in sorted(lines, key=lambda line: (line.report is None, line.begun_ms)):
            if line.report is not None and not line.report.failed:
                continue
            counted = self._failed.setdefault((line.version, line.request or line.event), [])
            apart_ms = 0.0 if line.report is not None else 1000 * self._lag.total_seconds()
            if all(abs(line.begun_ms - begun_ms) > apart_ms for begun_ms in counted):
                counted.append(line.begun_ms)
                found += 1
        return found

    def _forget(self) -> None:
        """Forget what no later read brings again."""
        start_ms = _ms(self.next)
        self._lines = {event: line for event, line in self._lines.items() if line.begun_ms >= start_ms}
        oldest_ms = _ms(self.next - BEHIND)
        self._known = {event: begun_ms for event, begun_ms in self._known.items() if begun_ms >= oldest_ms}
        self._failed = {key: counted for key, counted in self._failed.items() if counted[-1] >= oldest_ms}


class LogFeed:
    """The ticks of one rollout, from its first shift of traffic on.

    Args:
        versions: the stable and the new version.
        start: when traffic was shifted first.

    Attributes:
        lag: how long after its end a tick is cut.
        ticks: all that were cut, oldest first.
        trouble: why the last poll was not answered, in a sentence; empty if it was.
        ended: whether no further poll can help.
    """

    def __init__(self, target: Target, versions: Sequence[Version], start: datetime) -> None:
        self._target = target
        self._stable, self._new = versions
        self.lag = lag_of(versions)
        self.ticks: list[FeedTick] = []
        self.trouble = ""
        self.ended = False
        # Environments may be older than the rollout, where it was tested, but not older than the version.
        published = self._new.modified_at.astimezone(UTC).date()
        self._first_day = max(published, start.astimezone(UTC).date() - timedelta(days=1))
        self._pattern = _pattern(target.settings)
        self._buffer = Ticks(
            self._stable.number,
            self._new.number,
            floor_tick(start),
            lag=self.lag,
            bound_ms=target.settings.health.latency_ms,
        )

    @property
    def until(self) -> datetime:
        """The end of the last tick that was cut."""
        return self._buffer.next

    def read(self, now: datetime) -> list[FeedTick]:
        """Read what was logged since the last poll; the ticks that are complete now.

        What cannot be read is read at the next poll. Ticks that are too far behind are left to their minutes.

        AWS: logs:FilterLogEvents, two reads with all their pages, and one more for each further day (UTC).
        """
        if self.ended:
            return []
        if self.ticks and now - self.until > BEHIND:
            self._skip(now)
        # More of the same would come with each poll, unless there is a longer time to catch up with.
        steady = now - self.until <= self.lag + 2 * MINUTE
        most_pages = MOST_PAGES if steady else MOST_PAGES_BEHIND
        try:
            lines = list(self._read(now, most_pages))
        except AwsFailed as failure:
            self._fail(failure.what, ended=not failure.passing)
            return []
        except TooManyPages:
            self._fail(f"The log has more than {most_pages} pages since {iso_utc(self.until)}.", ended=steady)
            self._skip(now)
            return []
        except MALFORMED as error:
            self._fail(f"The log's answer could not be read ({error}).", ended=False)
            return []
        self.trouble = ""
        self._buffer.add(lines)
        found = self._buffer.cut_until(now)
        self.ticks += found
        if found:
            self._target.journal.append("ticks", rows=[_to_json(tick) for tick in found])
        if self._buffer.late:
            self._target.journal.append("log-lines-late", lines=dict(self._buffer.late))
            self._buffer.late.clear()
        return found

    def _skip(self, now: datetime) -> None:
        """Go on with a minute that CloudWatch has not published."""
        self._buffer.skip_to(floor_minute(now))

    def _fail(self, why: str, *, ended: bool) -> None:
        self.trouble = why
        self.ended = ended
        self._target.journal.append("log-feed-unread", why=why, again=not ended)

    def _read(self, now: datetime, most_pages: int) -> Iterator[LogLine]:
        """The lines of one poll. Raises AwsFailed, TooManyPages."""
        group = self._new.log.group
        function = self._target.settings.function
        day = self._first_day
        # An environment writes to the stream of the day on which it started.
        while day <= now.astimezone(UTC).date():
            prefix = self._new.log.stream_prefix(function, self._new.number, day)
            found = self._search(group, REPORTS_OF_JSON, now, most_pages=most_pages, stream_prefix=prefix)
            yield from self._lines_of(self._new, found)
            day += timedelta(days=1)
        # A group that both versions write to is searched once.
        for version in {self._stable.log.group: self._stable, group: self._new}.values():
            found = self._search(version.log.group, self._pattern, now, most_pages=most_pages)
            yield from self._lines_of(version, found)

    def _search(
        self, group: str, pattern: str, now: datetime, *, most_pages: int, stream_prefix: str = ""
    ) -> "Iterator[FilteredLogEventTypeDef]":
        # Lines appear late and out of order: each poll begins before its tick, and `Ticks` takes each line once.
        start = self.until - READ_AGAIN
        # A group begins to exist with its first line.
        with suppress(NotFound):
            yield from search_log(
                self._target,
                group,
                pattern,
                start=start,
                end=now,
                most_pages=most_pages,
                stream_prefix=stream_prefix,
            )

    def _lines_of(self, version: Version, events: "Iterable[FilteredLogEventTypeDef]") -> Iterator[LogLine]:
        """What a group's events say of the two versions."""
        pair = (self._stable.number, self._new.number)
        for event in events:
            number = version.log.version_of(self._target.settings.function, event["logStreamName"])
            if number not in pair:
                continue
            report = parse_report(event["message"])
            begun_ms: float = event["timestamp"]
            if report is not None:
                # A report is written when its request ends.
                begun_ms -= report.duration_ms
                request: str | None = report.request_id
            else:
                request = self._failed_request(event["message"], number)
            if request is not None:
                yield LogLine(
                    event["eventId"],
                    number,
                    begun_ms=begun_ms,
                    ingested_ms=event["ingestionTime"],
                    request=request,
                    report=report,
                )

    def _failed_request(self, message: str, version: str) -> str | None:
        """The request that a failure metric's line is of, '' where it does not say it; None for any other line.

        Source: CloudWatch user guide, 'Specification: Embedded metric format'.
        """
        try:
            document = cast("Mapping[str, object]", parse_json(message))
            if "_aws" not in document:
                return None
            for metric in self._target.settings.failure_metrics:
                if metric.by_version and self._counts_failures(document, metric, version):
                    names = (name for name in document if name.replace("_", "").lower().endswith("requestid"))
                    return str(document.get(next(names, ""), ""))
        except MALFORMED:
            # A line that the handler printed may be anything.
            pass
        return None

    def _counts_failures(self, document: Mapping[str, object], metric: MetricName, version: str) -> bool:
        value = document.get(metric.name, 0)
        values = value if isinstance(value, list) else [value]
        counted = sum(each for each in values if isinstance(each, int | float))
        named = self._target.fill(metric.of_version, version)
        return counted > 0 and all(document.get(each["Name"]) == each["Value"] for each in named)


def _reports(lines: Iterable[LogLine]) -> list[Report]:
    """The reports among lines, one of each attempt."""
    found = {(line.request or line.event, line.begun_ms): line.report for line in lines if line.report is not None}
    return list(found.values())


def _ms(moment: datetime) -> float:
    return moment.timestamp() * 1000


def _to_json(tick: FeedTick) -> list[object]:
    """A tick as the journal has it: its start, the new version's counts, and the stable version's."""
    canary = tick.canary
    counts = [canary.requests, canary.errors, canary.slow, canary.cold, canary.cold_slow]
    return [iso_utc(tick.at), counts, [tick.stable_errors, tick.stable_slow, tick.stable_cold_slow]]
