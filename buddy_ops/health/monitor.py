"""The four key metrics of a window, by version, against their limits: error rate, p99, throttles, cold starts.

Says which limit is exceeded and which runbook to open. Never acts, and never judges a rollout.

Source: the deployment guide, 'Watching'.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.front_end import parameter
from buddy_ops.core.settings import HealthSettings
from buddy_ops.core.text import (
    date_and_time,
    duration,
    escape_markdown,
    exact_percent,
    floor_minute,
    markdown_table,
    parse_utc,
    percent,
    time_of_day,
)
from buddy_ops.health import logs, metrics, serving
from buddy_ops.health.counts import Counts
from buddy_ops.health.logs import INIT_BOUND_MS, ColdStarts, ColdStartsReading
from buddy_ops.health.metrics import MINUTE, UNKNOWN_VERSION, MinuteRow
from buddy_ops.health.serving import name_version

LONGEST = timedelta(days=15)
"""CloudWatch keeps minutes for this long. Source: CloudWatch user guide, 'Metrics retention'."""

COLD_EVERY = timedelta(minutes=10)
"""Logs Insights bills what it scans, so cold starts are read less often than the rest."""


@dataclass(frozen=True)
class VersionWindow:
    """One version in a window.

    Attributes:
        p99_ms: the worst minute's.
        cold: None where the log holds none of it.
        log_read: whether the log could be read: if not, ``cold`` says nothing.
    """

    version: str
    counts: Counts
    p99_ms: float | None
    cold: ColdStarts | None
    log_read: bool = True


@dataclass(frozen=True)
class KeyMetric:
    """One of the four: its limit, what each version had (a text, and whether it exceeds the limit), what to do then."""

    name: str
    limit: str
    values: tuple[tuple[str, bool], ...]
    action: str

    @property
    def is_exceeded(self) -> bool:
        """Whether any version is over the limit."""
        return any(exceeded for _, exceeded in self.values)

    def __str__(self) -> str:
        return f"{self.name} (limit {self.limit})"


@dataclass(frozen=True)
class MetricsWindow:
    """A window, minute by minute and as a whole.

    Attributes:
        troubles: what could not be read.
        cold_starts_trouble: why cold starts are unknown, one of ``troubles``; None: they are known.
    """

    since: datetime
    until: datetime
    rows: tuple[MinuteRow, ...]
    seen: tuple[VersionWindow, ...]
    health: HealthSettings
    troubles: tuple[str, ...]
    asked_log: datetime
    cold_starts_trouble: str | None = None

    @property
    def metrics(self) -> tuple[KeyMetric, ...]:
        """The four, in the guide's order."""
        health = self.health
        slow = "After a deployment, open emergency/deployment_failure."
        rows = (
            ("error rate", exact_percent(health.error_rate), _error_rate, "Open rollback/immediate."),
            ("latency p99", duration(health.latency_ms / 1000), _latency, slow),
            ("throttles", "0", _throttles, "Raise the function's or the account's concurrency limit."),
            ("cold start", duration(INIT_BOUND_MS / 1000), _cold_starts, "Reduce the package size."),
        )
        return tuple(
            KeyMetric(name, limit, tuple(value(version, health) for version in self.seen), action)
            for name, limit, value, action in rows
        )

    def __str__(self) -> str:
        lines = [f"{date_and_time(self.since)} to {time_of_day(self.until, self.since)}", *self.troubles]
        for metric in self.metrics:
            values = []
            for seen, (text, exceeded) in zip(self.seen, metric.values, strict=True):
                mark = " HIGH" if exceeded else ""
                values.append(f"{name_version(seen.version)} {text}{mark}")
            lines.append(f"{metric}: {', '.join(values)}")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        head = ["", "limit", *(name_version(version.version) for version in self.seen), "if exceeded"]
        rows = []
        for metric in self.metrics:
            values = [f"**{text}**" if exceeded else text for text, exceeded in metric.values]
            rows.append([metric.name, metric.limit, *values, metric.action if metric.is_exceeded else ""])
        return "\n".join(
            [markdown_table(head, rows), "", *(f"- {escape_markdown(trouble)}" for trouble in self.troubles)]
        )


def read_window(target: Target, minutes: float, until: str = "", before: MetricsWindow | None = None) -> MetricsWindow:
    """The latest ``minutes``, or those up to a time.

    Args:
        before: the window that was read last; its cold starts are kept for ``COLD_EVERY``.

    AWS: cloudwatch:GetMetricData, ListMetrics, logs:StartQuery, GetQueryResults, reads only.

    Raises:
        InvalidInput: ``alias-missing``, ``invalid-parameters``.
    """
    alias = aliases.require_alias(target)
    since, end = _window(target, minutes, until)
    reading = serving.read_served(target, alias, since, end)
    asked = target.clock.now()
    if before is not None and asked - before.asked_log < COLD_EVERY:
        asked = before.asked_log
        known = tuple(version.cold for version in before.seen if version.cold is not None)
        starts = ColdStartsReading(known, before.cold_starts_trouble)
    else:
        starts = logs.describe_cold_starts(target, since, end)
    colds = {cold.version: cold for cold in starts.found}
    unknown = [UNKNOWN_VERSION] if any(UNKNOWN_VERSION in row.counts for row in reading.rows) else []
    versions = [*reading.versions, *unknown]
    counts = metrics.totals(reading.rows, versions)
    # Percentiles of minutes make none of the window: the worst minute's is shown.
    p99_ms = {
        version: max((row.p99_ms[version] for row in reading.rows if version in row.p99_ms), default=None)
        for version in versions
    }
    log_read = starts.trouble is None
    seen = [
        VersionWindow(version, counts[version], p99_ms=p99_ms[version], cold=colds.get(version), log_read=log_read)
        for version in versions
    ]
    return MetricsWindow(
        since=since,
        until=end,
        rows=reading.rows,
        # The primary version also without requests: that it has none is what there is to see.
        seen=tuple(window for window in seen if window.counts.seen or window.version == alias.primary),
        health=target.settings.health,
        troubles=tuple(trouble for trouble in (reading.trouble, *reading.notes, starts.trouble) if trouble is not None),
        asked_log=asked,
        cold_starts_trouble=starts.trouble,
    )


def _window(target: Target, minutes: float, until: str) -> tuple[datetime, datetime]:
    latest = metrics.published_until(target, target.clock.now())
    try:
        end = min(latest, parse_utc(until)) if until else latest
        # From the earliest time on: an end long ago minus an hour may be before the year 1.
        if not 1 <= minutes <= LONGEST / MINUTE or end < latest - LONGEST + minutes * MINUTE:
            raise ValueError("the window must begin within the last 15 days and last at least a minute")
        since = end - minutes * MINUTE
    except ValueError as error:
        raise InvalidInput(
            "invalid-parameters",
            f"{minutes:g} minutes until {until or 'now'!r}: {error}.",
            next=f"For example {parameter('minutes', 90)} and {parameter('until', '2026-11-22T04:00Z')}.",
        ) from None
    return floor_minute(since), floor_minute(end)


def _error_rate(seen: VersionWindow, health: HealthSettings) -> tuple[str, bool]:
    return _rate(seen.counts.errors, seen.counts.requests, health.error_rate)


def _rate(events: int, requests: int, limit: float) -> tuple[str, bool]:
    if not requests:
        return "no requests", False
    return f"{percent(events / requests)} ({events:,} of {requests:,})", events > limit * requests


def _latency(seen: VersionWindow, health: HealthSettings) -> tuple[str, bool]:
    """The whole window's p99 is over the limit when more than one request in a hundred is."""
    if seen.p99_ms is None:
        return "no requests", False
    share, exceeded = _rate(seen.counts.slow, seen.counts.requests, health.slow_rate)
    return f"{seen.p99_ms / 1000:.1f} s in the worst minute; {share} over the limit", exceeded


def _throttles(seen: VersionWindow, _: HealthSettings) -> tuple[str, bool]:
    return f"{seen.counts.throttles:,}", seen.counts.throttles > 0


def _cold_starts(seen: VersionWindow, _: HealthSettings) -> tuple[str, bool]:
    cold = seen.cold
    if not seen.log_read:
        return "unknown", False
    if cold is None or not cold.cold:
        return "none logged", False
    if cold.p95_init_ms is None:
        return f"{cold.cold:,}", False
    return f"{cold.cold:,}, p95 init {cold.p95_init_ms / 1000:.1f} s", cold.is_slow
