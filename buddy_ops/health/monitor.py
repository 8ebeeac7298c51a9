"""The four key metrics of a window, by version, against their thresholds: error rate, p99, throttles, cold starts.

Knows which versions served, what each threshold is and what to do above it. Never acts, and never judges a rollout: a
threshold that is passed is told, with the runbook to open.

Source: the deployment guide, 'Watching'.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, InvalidInput
from buddy_ops.core.settings import HealthSettings
from buddy_ops.health import metrics
from buddy_ops.health.judge import Counts
from buddy_ops.health.metrics import INIT_BOUND_MS, MALFORMED, MINUTE, ColdStarts, MinuteRow

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import DimensionFilterTypeDef

MOST_VERSIONS = 8
LONGEST = timedelta(days=15)
"""CloudWatch keeps minutes for this long. Source: CloudWatch user guide, 'Metrics retention'."""

COLD_EVERY = timedelta(minutes=10)
"""Logs Insights bills what it scans, so cold starts are asked for less often than the rest."""


@dataclass(frozen=True)
class VersionWindow:
    """One version in a window. ``p99_ms`` is the worst minute's; ``cold`` is None where the log tells nothing of it."""

    version: str
    counts: Counts
    p99_ms: float | None
    cold: ColdStarts | None


@dataclass(frozen=True)
class KeyMetric:
    """One of the four: what may be, what each version had (a text, and whether it is too much), what to do then."""

    name: str
    allowed: str
    values: tuple[tuple[str, bool], ...]
    action: str

    def __str__(self) -> str:
        return f"{self.name} ({self.allowed})"


@dataclass(frozen=True)
class MetricsWindow:
    """A window, minute by minute and as a whole. ``troubles`` say what could not be read."""

    since: datetime
    until: datetime
    rows: tuple[MinuteRow, ...]
    seen: tuple[VersionWindow, ...]
    health: HealthSettings
    troubles: tuple[str, ...]
    asked_log: datetime

    @property
    def metrics(self) -> tuple[KeyMetric, ...]:
        """The four, in the guide's order."""
        health = self.health
        return (
            KeyMetric(
                "error rate",
                f"< {100 * health.error_rate:g} %",
                tuple(_rate(each.counts.errors, each.counts.requests, health.error_rate) for each in self.seen),
                "rollback/immediate",
            ),
            KeyMetric(
                "latency p99",
                f"< {health.latency_ms / 1000:g} s",
                tuple(_latency(each, health) for each in self.seen),
                "emergency/deployment_failure, if a deployment brought it",
            ),
            KeyMetric(
                "throttles",
                "0",
                tuple((f"{each.counts.throttles:,}", each.counts.throttles > 0) for each in self.seen),
                "raise the function's or the account's concurrency limit",
            ),
            KeyMetric("cold start", "< 2 s", tuple(_cold(each.cold) for each in self.seen), "a smaller package"),
        )

    def __str__(self) -> str:
        span = f"{self.since:%Y-%m-%d %H:%M} to {self.until:%H:%M} UTC"
        told = (
            f"{metric}: " + ", ".join(f"v{s.version} {text}{' (!)' * bad}" for s, (text, bad) in self._beside(metric))
            for metric in self.metrics
        )
        return "\n".join((span, *self.troubles, *told))

    def _repr_markdown_(self) -> str:
        names = "".join(f" v{each.version} |" for each in self.seen)
        head = (f"| | allowed |{names} above it |", "|---|---|" + "---|" * (len(self.seen) + 1))
        rows = (
            f"| {metric.name} | {metric.allowed} |"
            + "".join(f" **{text}** |" if bad else f" {text} |" for text, bad in metric.values)
            + f" {metric.action if any(bad for _, bad in metric.values) else ''} |"
            for metric in self.metrics
        )
        return "\n".join((*head, *rows, "", *(f"- {trouble}" for trouble in self.troubles)))

    def _beside(self, metric: KeyMetric) -> Iterator[tuple[VersionWindow, tuple[str, bool]]]:
        return zip(self.seen, metric.values, strict=True)


def read_window(target: Target, minutes: float, until: str = "", before: MetricsWindow | None = None) -> MetricsWindow:
    """One look; ``before`` is the last one, whose cold starts still hold for a while.

    Raises:
        InvalidInput: ``alias-missing``, ``invalid-parameters``.
    """
    alias = aliases.read_alias(target)
    if alias is None:
        raise InvalidInput(
            "alias-missing",
            f"{target.settings.function} has no alias {target.settings.alias}: nobody is served.",
            next="Deploy a first build with strategies/canary.",
        )
    since, end = _window(target, minutes, until)
    versions, unlisted = _versions(target, alias)
    reading = metrics.read_minutes(target, versions, _serving(alias), since, end)
    asked, unlogged = target.clock.now(), ""
    if before is not None and asked - before.asked_log < COLD_EVERY:
        asked = before.asked_log
        colds = {each.version: each.cold for each in before.seen if each.cold is not None}
    else:
        colds, unlogged = _cold_starts(target, since, end)
    seen = tuple(_seen(version, reading.rows, colds) for version in versions)
    served = tuple(each for each in seen if each.counts != Counts() or each.version == alias.primary)
    troubles = tuple(filter(None, (reading.trouble, unlisted, unlogged)))
    return MetricsWindow(since, end, reading.rows, served, target.settings.health, troubles, asked)


def _window(target: Target, minutes: float, until: str) -> tuple[datetime, datetime]:
    latest = target.clock.now() - timedelta(seconds=target.settings.health.late_data_s)
    try:
        end = datetime.fromisoformat(until) if until else latest
        end = min(latest, end if end.tzinfo else end.replace(tzinfo=UTC))
        since = end - minutes * MINUTE
        if not 1 <= minutes <= LONGEST / MINUTE or since < latest - LONGEST:
            raise ValueError("the window must begin within the last 15 days, and be a minute long at least")
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            "invalid-parameters",
            f"minutes {minutes}, until {until!r}: {error}.",
            next="For example minutes=90 and until=2026-11-22T04:00Z.",
        ) from None
    return since.replace(second=0, microsecond=0), end.replace(second=0, microsecond=0)


def _versions(target: Target, alias: Alias) -> tuple[list[str], str]:
    """The versions that may have served, oldest first: those of the alias and its record, and CloudWatch's newest."""
    record = alias.rollout
    known = {alias.primary, alias.additional, *((record.stable_version, record.new_version) if record else ())} - {
        None,
        "",
    }
    own: list[DimensionFilterTypeDef] = [
        {"Name": "FunctionName", "Value": target.settings.function},
        {"Name": "Resource", "Value": target.resource},
        {"Name": "ExecutedVersion"},
    ]
    trouble = ""
    try:
        pages = target.client("cloudwatch").get_paginator("list_metrics")
        listed = {
            dimension["Value"]
            for page in pages.paginate(Namespace="AWS/Lambda", MetricName="Invocations", Dimensions=own)
            for metric in page["Metrics"]
            for dimension in metric["Dimensions"]
            if dimension["Name"] == "ExecutedVersion"
        }
        known |= set(sorted(filter(str.isdecimal, listed), key=int)[-MOST_VERSIONS:])
    except (AwsFailed, *MALFORMED) as error:
        trouble = f"Which other versions served is unknown: {error.what if isinstance(error, AwsFailed) else error}"
    return sorted((each for each in known if each is not None), key=int), trouble


def _serving(alias: Alias) -> Callable[[datetime], str]:
    """The alias's primary in a minute, as far as its record tells: before the last switch it was the version before."""
    record = alias.rollout
    if record is None or not record.stable_version or alias.primary != record.new_version:
        return lambda at: alias.primary
    switched = datetime.fromisoformat(record.since)
    return lambda at: record.stable_version if at < switched else alias.primary


def _cold_starts(target: Target, since: datetime, until: datetime) -> tuple[dict[str, ColdStarts], str]:
    try:
        return {each.version: each for each in metrics.read_cold_starts(target, since, until)}, ""
    except AwsFailed as failure:
        return {}, f"Cold starts are unknown: {failure.what}"
    except MALFORMED as error:
        return {}, f"Cold starts are unknown: the log's answer cannot be read: {type(error).__name__}: {error}"


def _seen(version: str, rows: tuple[MinuteRow, ...], colds: dict[str, ColdStarts]) -> VersionWindow:
    own = [row.counts[version] for row in rows]
    total = Counts(**{name: sum(getattr(each, name) for each in own) for name in Counts.__slots__})
    p99 = max((row.p99_ms[version] for row in rows if version in row.p99_ms), default=None)
    return VersionWindow(version, total, p99, colds.get(version))


def _rate(events: int, requests: int, bound: float) -> tuple[str, bool]:
    if not requests:
        return "no requests", False
    return f"{100 * events / requests:.2g} % ({events:,} of {requests:,})", events > bound * requests


def _latency(seen: VersionWindow, health: HealthSettings) -> tuple[str, bool]:
    """The whole window's p99 is over the bound when more than one request in a hundred is."""
    if seen.p99_ms is None:
        return "no requests", False
    share, over = _rate(seen.counts.slow, seen.counts.requests, health.slow_rate)
    return f"{seen.p99_ms / 1000:.1f} s in the worst minute, {share} over", over


def _cold(cold: ColdStarts | None) -> tuple[str, bool]:
    if cold is None or not cold.cold:
        return "none logged", False
    init = f", 95 % within {cold.p95_init_ms / 1000:.1f} s" if cold.p95_init_ms is not None else ""
    return f"{cold.cold:,}{init}", cold.p95_init_ms is not None and cold.p95_init_ms >= INIT_BOUND_MS
