"""Cold starts of a rollout's versions by minute, from Lambda's reports in their logs.

A cold start is slow by its environment and its caches, and a version with a small share of the traffic has more of
them: they say little about the build. CloudWatch has no metric of them. So the reports of a minute are read where one
version has more slow requests than the objective allows; a minute within it is no evidence against a version. Both
versions are read, or neither is: figures without the cold starts of one version alone would favour it.

What cannot be read is unknown, never zero: the minute's latency then waits for the next poll, and after that all of
its requests are judged. Never judges.

Source: docs/sequential-test.md.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from buddy_ops.aws import versions
from buddy_ops.aws.function_log import Report, parse_report
from buddy_ops.aws.log_events import TooManyPages, search_log
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import count
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import COMPLETE_SHARE, MALFORMED, MINUTE, MinuteRow

MOST_PAGES = 20
"""Pages (1 MB, 10,000 events) that are read of a version's minute. A minute with more has few cold starts in it."""

LONGEST_START = timedelta(seconds=10)
"""An environment may take so long to start. Source: Lambda developer guide, 'Init phase'."""

DAY = timedelta(days=1)


class _Unreadable(Exception):
    """Why reports cannot be read; ``passing``: whether they may be at the next poll."""

    def __init__(self, why: str, *, passing: bool) -> None:
        super().__init__(why)
        self.passing = passing


@dataclass
class _Minute:
    """A minute whose cold starts are asked for.

    Attributes:
        counts: by version, as CloudWatch has them.
        awaited: whether its reports are still to be read.
        tried: whether they could not be read at a poll.
        found: ``counts`` with the cold starts; None: they are not known.
        durations_ms: of the cold starts, by version.
        compared: whether a stream asked for it.
    """

    counts: dict[str, Counts]
    awaited: bool = True
    tried: bool = False
    found: dict[str, Counts] | None = None
    durations_ms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    compared: bool = False


class ColdStartReader:
    """The cold starts of the minutes that are asked for, each read once.

    Args:
        pair: the versions of the rollout.
    """

    def __init__(self, target: Target, pair: Sequence[str]) -> None:
        self._target = target
        self._pair = tuple(pair)
        self._minutes: dict[datetime, _Minute] = {}
        self._versions: dict[str, Version] = {}
        self._read_at: datetime | None = None
        self._why = ""

    def ask(self, row: MinuteRow, *, compared: bool = False) -> None:
        """Let the next ``read`` find the cold starts of this minute, if they matter.

        Args:
            compared: they matter to a stream, however few requests are over the limit.
        """
        counts = {version: row.counts[version] for version in self._pair}
        allowed = self._target.settings.health.slow_rate
        known = self._minutes.get(row.at)
        compared = compared or (known is not None and known.compared)
        if not compared and all(seen.slow <= allowed * seen.requests for seen in counts.values()):
            self._minutes.pop(row.at, None)
            return
        # CloudWatch has revised the minute: its reports are read once more.
        if known is None or known.counts != counts:
            self._minutes[row.at] = _Minute(counts)
        self._minutes[row.at].compared = compared

    def is_awaited(self, at: datetime) -> bool:
        """Whether the cold starts of a minute are still to be read: until then its latency is unknown."""
        return at in self._minutes and self._minutes[at].awaited

    def awaits_any(self, until: datetime) -> bool:
        """Whether this holds for any minute before ``until``."""
        return any(minute.awaited for at, minute in self._minutes.items() if at < until)

    def counts(self, row: MinuteRow, version: str) -> Counts:
        """A version's counts in a minute, with the cold starts where they are known."""
        minute = self._minutes.get(row.at)
        if minute is None or minute.found is None:
            return row.counts[version]
        return minute.found[version]

    def over(self, row: MinuteRow, version: str, bound_ms: float) -> tuple[int, int]:
        """Of a version's cold starts in a minute, those over a bound, and all; (0, 0) where they are not known."""
        minute = self._minutes.get(row.at)
        if minute is None or minute.found is None:
            return 0, 0
        durations_ms = minute.durations_ms.get(version, ())
        return sum(each > bound_ms for each in durations_ms), len(durations_ms)

    @property
    def trouble(self) -> str:
        """Sentences about the minutes that are judged with their cold starts; empty if there are none."""
        unknown = sum(not minute.awaited and minute.found is None for minute in self._minutes.values())
        if not unknown:
            return ""
        where = count(unknown, "minute")
        return f"The cold starts of {where} are unknown; all requests are judged there. {self._why}"

    def read(self, poll: datetime) -> bool:
        """Read what is asked for, once in a poll; whether more is known than before.

        Minutes whose reports cannot be read are tried again at the next poll, if that may help, and then given up.

        AWS: logs:FilterLogEvents, lambda:GetFunctionConfiguration, reads only.
        """
        awaited = [at for at, minute in self._minutes.items() if minute.awaited]
        if not awaited or poll == self._read_at:
            return False
        self._read_at = poll
        for at in awaited:
            minute = self._minutes[at]
            try:
                minute.durations_ms = {}
                minute.found = self._find(at, minute)
            except _Unreadable as failure:
                self._fail(minute, failure)
                # What is missing in one minute may be there in the next. A failed call fails for the rest, too.
                if failure.__cause__ is not None:
                    for other in awaited[awaited.index(at) + 1 :]:
                        self._fail(self._minutes[other], failure)
                    break
                continue
            minute.awaited = False
            figures = {
                version: [found.requests, found.slow, found.cold, found.cold_slow]
                for version, found in minute.found.items()
            }
            self._target.journal.append("cold-starts", minute=iso_utc(at), counts=figures)
        return any(not self._minutes[at].awaited for at in awaited)

    def _fail(self, minute: _Minute, failure: _Unreadable) -> None:
        self._why = str(failure)
        # One more poll at most: no stage waits longer for a log.
        minute.awaited = failure.passing and not minute.tried
        minute.tried = True
        self._target.journal.append("cold-starts-unread", why=self._why, again=minute.awaited)

    def _find(self, at: datetime, minute: _Minute) -> dict[str, Counts]:
        """The counts of a minute with its cold starts. Raises _Unreadable."""
        found = dict(minute.counts)
        for version, known in minute.counts.items():
            if known.requests:
                found[version], reports = self._find_of(version, at, known)
                cold = (report.duration_ms for report in reports if report.start_ms is not None)
                minute.durations_ms[version] = tuple(cold)
        return found

    def _find_of(self, version: str, at: datetime, counts: Counts) -> tuple[Counts, Collection[Report]]:
        try:
            running = self._version(version)
            if not running.log.reports:
                level = f"The log of v{version} has no reports of successful requests (SystemLogLevel WARN)."
                raise _Unreadable(level, passing=False)
            return self._count(running, at, counts)
        except AwsFailed as failure:
            raise _Unreadable(failure.what, passing=failure.passing) from failure
        except BuddyError as failure:
            raise _Unreadable(failure.what, passing=False) from failure
        except MALFORMED as error:
            raise _Unreadable(f"The log's answer could not be read ({error}).", passing=True) from error

    def _version(self, number: str) -> Version:
        if number not in self._versions:
            self._versions[number] = versions.read_version(self._target, number)
        return self._versions[number]

    def _count(self, version: Version, at: datetime, counts: Counts) -> tuple[Counts, Collection[Report]]:
        """Count a version's cold starts in a minute, by its reports. Raises _Unreadable where some are missing."""
        reports: dict[tuple[str, float], Report] = {}
        # An environment writes to the stream of the day on which it started.
        for day in (at, at - DAY):
            reports |= self._read_reports(version, at, day)
            found = without_cold_starts(counts, reports.values(), self._target.settings.health.latency_ms)
            if found is not None:
                return found, reports.values()
        missing = f"{len(reports)} of {counts.requests} reports of v{version.number} are in its log."
        raise _Unreadable(missing, passing=True)

    def _read_reports(self, version: Version, at: datetime, day: datetime) -> dict[tuple[str, float], Report]:
        """The reports of requests that began in a minute, by request and beginning: one may be tried again."""
        events = search_log(
            self._target,
            version.log.group,
            version.log.report_pattern,
            start=at,
            end=at + MINUTE + timedelta(seconds=version.timeout_s) + LONGEST_START,
            most_pages=MOST_PAGES,
            stream_prefix=version.log.stream_prefix(self._target.settings.function, version.number, day),
        )
        begins_in = _begins_in(at)
        reports: dict[tuple[str, float], Report] = {}
        try:
            for event in events:
                report = parse_report(event["message"])
                if report is not None and begins_in(report, event["timestamp"]):
                    begun_ms = event["timestamp"] - report.duration_ms
                    reports[report.request_id or event["eventId"], begun_ms] = report
        except TooManyPages:
            too_many = f"The log of v{version.number} has too many reports in a minute."
            raise _Unreadable(too_many, passing=False) from None
        return reports


def _begins_in(at: datetime) -> Callable[[Report, int], bool]:
    """Whether a report, written at a time in ms since the epoch, is of a request that began in this minute.

    CloudWatch counts a request by its beginning. Whether the start of its environment comes before that is not
    documented: a cold start that lies in two minutes counts in both.
    """
    first_ms = at.timestamp() * 1000
    last_ms = (at + MINUTE).timestamp() * 1000

    def begins_in(report: Report, written_ms: int) -> bool:
        begun_ms = written_ms - report.duration_ms
        return begun_ms >= first_ms and begun_ms - (report.start_ms or 0.0) < last_ms

    return begins_in


def without_cold_starts(counts: Counts, reports: Collection[Report], bound_ms: float) -> Counts | None:
    """Counts with the cold starts among them; None where reports are missing.

    The log may hold requests that the alias's metrics do not: those that named the version itself. So warm requests
    are counted, and never fewer of them are left than the log has.

    Args:
        counts: a version's minute, as CloudWatch has it.
        reports: all that were found of it.
        bound_ms: the latency above which a request is slow.
    """
    warm = [report for report in reports if report.start_ms is None]
    slow = sum(report.duration_ms > bound_ms for report in reports)
    # CloudWatch has slow requests, or many others, whose reports are not in the log yet.
    if slow < counts.slow or len(reports) < COMPLETE_SHARE * counts.requests - 1:
        return None
    warm_slow = sum(report.duration_ms > bound_ms for report in warm)
    cold_slow = counts.slow - min(counts.slow, warm_slow)
    cold = min(len(reports) - len(warm), counts.requests - min(counts.requests, len(warm)))
    return replace(counts, cold=max(cold, cold_slow), cold_slow=cold_slow)
