"""CloudWatch to counts per minute and version.

Holds Lambda's dimensions behind a weighted alias, and what counts as a failure. Never judges.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import floor_minute
from buddy_ops.health.judge import Counts

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import DimensionTypeDef, MetricDataQueryTypeDef

MINUTE = timedelta(minutes=1)

RANKS = (
    (0.90, "p90"),
    (0.95, "p95"),
    (0.97, "p97"),
    (0.98, "p98"),
    (0.995, "p99.5"),
    (0.999, "p99.9"),
    (1.0, "Maximum"),
)
"""Percentiles that are read besides p99: they bound the p99's 95 % interval."""

FEWEST_FOR_BAND = 5
"""With fewer requests in a minute, its p99 has no interval."""

WHOLE_ALIAS = 0
"""Index of the alias as a whole among the sources of a metric; its versions follow from 1."""

MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an answer raises that has not the documented form."""

Values = dict[str, dict[datetime, float]]
"""CloudWatch's datapoints by query id and minute."""


@dataclass(frozen=True)
class MinuteRow:
    """One minute. ``counts`` and ``p99_ms`` by version; a version without requests has zeros and no p99.

    ``p99_band_ms`` is the p99's 95 % interval, where a version had requests enough to have one. ``incomplete`` means
    that CloudWatch has published some of the minute's metrics and not the others.
    """

    at: datetime
    counts: dict[str, Counts]
    p99_ms: dict[str, float] = field(default_factory=dict)
    p99_band_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    incomplete: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether CloudWatch shows nothing at all of the alias in it, throttled requests included."""
        return all(counts == Counts() for counts in self.counts.values())


@dataclass(frozen=True)
class MetricsReading:
    """What CloudWatch answered. ``rows`` holds every minute asked for if ``trouble`` is None, and none otherwise."""

    rows: tuple[MinuteRow, ...]
    trouble: str | None = None


def read_minutes(
    target: Target, versions: Sequence[str], serving: Callable[[datetime], str], since: datetime, until: datetime
) -> MetricsReading:
    """Counts of each minute in [since, until) for the versions behind the alias, in one GetMetricData request.

    A minute that was answered completely and has no datapoints is a minute with no requests, and is returned as
    such: ``evidence`` checks whether CloudWatch is late. A failed or partial answer returns no minute
    at all: missing measurements are not evidence.

    Args:
        versions: the versions that may be behind the alias.
        serving: the alias's primary version in a minute; requests that name no version are its own, since
            ExecutedVersion may be missing while the alias has no weights.

    AWS: cloudwatch:GetMetricData (with every further page), reads only.
    """
    if until <= since:
        return MetricsReading(())
    queries = _queries(target, None, WHOLE_ALIAS)
    for source, version in enumerate(versions, start=1):
        queries += _queries(target, version, source)
    try:
        values = _fetch(target, queries, since, until)
    except AwsFailed as failure:
        return MetricsReading((), failure.what)
    except _Partial as partial:
        return MetricsReading((), str(partial))
    except MALFORMED as error:
        return MetricsReading((), f"CloudWatch's answer could not be read ({error}).")
    rows = []
    for index in range(int((until - since) / MINUTE)):
        at = since + MINUTE * index
        minute = _PublishedMinute(values, at, failure_metrics=len(target.settings.failure_metrics))
        rows.append(_row(minute, versions, serving(at)))
    # CloudWatch deletes minutes after 15 days; the archived journal keeps them.
    target.journal.append("minutes", rows=rows_to_json(rows))
    return MetricsReading(tuple(rows))


def published_until(target: Target, now: datetime) -> datetime:
    """The end of the latest minute whose metrics CloudWatch should have published."""
    return floor_minute(now - timedelta(seconds=target.settings.health.late_data_s))


def totals(rows: Sequence[MinuteRow], versions: Iterable[str]) -> dict[str, Counts]:
    """Each version's minutes as one; zeros for a version that is in none of them."""
    return {version: sum((row.counts.get(version, Counts()) for row in rows), Counts()) for version in versions}


def rows_to_json(rows: Iterable[MinuteRow]) -> list[list[Any]]:
    """Minutes with requests as JSON has them: its time, then by version requests, errors, slow, throttles and p99."""
    found = []
    for row in rows:
        if row.is_silent:
            continue
        figures = {
            version: [counts.requests, counts.errors, counts.slow, counts.throttles, row.p99_ms.get(version)]
            for version, counts in row.counts.items()
        }
        found.append([iso_utc(row.at), figures])
    return found


def rows_from_json(rows: Iterable[Sequence[Any]]) -> Iterator[MinuteRow]:
    """The reverse of ``rows_to_json``. Entries that are not minutes are left out, since they come from a file."""
    for row in rows:
        with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError):
            counts = {version: Counts(*map(int, figures[:4])) for version, figures in row[1].items()}
            p99 = {version: float(figures[4]) for version, figures in row[1].items() if figures[4] is not None}
            yield MinuteRow(datetime.fromisoformat(row[0]), counts, p99)


class _Partial(Exception):
    pass


def _queries(target: Target, version: str | None, source: int) -> "list[MetricDataQueryTypeDef]":
    """The queries for a version, or for the alias as a whole (None). Ids are letters and the source's index."""
    dimensions: list[DimensionTypeDef] = [
        {"Name": "FunctionName", "Value": target.settings.function},
        {"Name": "Resource", "Value": target.resource},
    ]
    if version is not None:
        dimensions.append({"Name": "ExecutedVersion", "Value": version})
    over_bound = f"TC({target.settings.health.latency_ms}:)"
    wanted = [
        ("requests", "AWS/Lambda", "Invocations", "Sum"),
        ("errors", "AWS/Lambda", "Errors", "Sum"),
        ("slow", "AWS/Lambda", "Duration", over_bound),
        ("p99", "AWS/Lambda", "Duration", "p99"),
    ]
    for index, (_, statistic) in enumerate(RANKS):
        wanted.append((f"rank{index}x", "AWS/Lambda", "Duration", statistic))
    for index, metric in enumerate(target.settings.failure_metrics):
        wanted.append((f"failed{index}x", metric.namespace, metric.name, "Sum"))
    if version is None:
        wanted.append(("throttles", "AWS/Lambda", "Throttles", "Sum"))
    return [
        {
            "Id": f"{name}{source}",
            "MetricStat": {
                "Metric": {"Namespace": namespace, "MetricName": metric_name, "Dimensions": dimensions},
                "Period": 60,
                "Stat": statistic,
            },
        }
        for name, namespace, metric_name, statistic in wanted
    ]


def _fetch(target: Target, queries: "list[MetricDataQueryTypeDef]", since: datetime, until: datetime) -> Values:
    """Every datapoint. Raises _Partial unless every query ended 'Complete'."""
    found: Values = {query["Id"]: {} for query in queries}
    status: dict[str, str] = {}
    pages = target.client("cloudwatch").get_paginator("get_metric_data")
    for page in pages.paginate(MetricDataQueries=queries, StartTime=since, EndTime=until):
        for result in page["MetricDataResults"]:
            points = zip(result["Timestamps"], result["Values"], strict=True)
            found[result["Id"]].update(_point(at, value) for at, value in points)
            status[result["Id"]] = result.get("StatusCode", "")
    incomplete = [name for name in found if status.get(name) != "Complete"]
    if incomplete:
        raise _Partial(f"CloudWatch answered {len(incomplete)} of {len(found)} queries only in part.")
    return found


def _point(at: datetime, value: float) -> tuple[datetime, float]:
    """A plausible datapoint: a whole minute, a number from 0. Raises ValueError for another."""
    if at.utcoffset() is None or at.second or at.microsecond or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} at {at}")
    return at, value


class _PublishedMinute:
    """What CloudWatch has published of one minute, by name of the series and index of the source."""

    def __init__(self, values: Values, at: datetime, failure_metrics: int) -> None:
        self.at = at
        self._values = values
        self._failures = ["errors", *(f"failed{index}x" for index in range(failure_metrics))]

    def value(self, series: str, source: int) -> float | None:
        """A datapoint; None where there is none."""
        return self._values.get(f"{series}{source}", {}).get(self.at)

    def total(self, series: str, source: int) -> int:
        """A datapoint that counts something; 0 where there is none."""
        return round(self.value(series, source) or 0.0)

    def counts(self, source: int) -> Counts:
        """Requests, failures and slow requests of a source."""
        requests = self.total("requests", source)
        # At most one failure per request: a request may both apologise and fail.
        errors = min(requests, sum(self.total(series, source) for series in self._failures))
        return Counts(requests, errors, self.total("slow", source))

    def is_incomplete(self, source: int) -> bool:
        """Whether some of Lambda's own metrics are there and others are missing: each request gives all three."""
        published = [self.value(series, source) is not None for series in ("requests", "errors", "p99")]
        return any(published) and not all(published)

    def p99_band(self, source: int) -> tuple[float, float] | None:
        """The p99's 95 % interval, in ms: the ranks that bound it, widened to those that are read."""
        requests = self.total("requests", source)
        if requests < FEWEST_FOR_BAND:
            return None
        half = 1.96 * math.sqrt(0.99 * 0.01 / requests)
        below = [index for index, (rank, _) in enumerate(RANKS) if rank <= 0.99 - half]
        above = [index for index, (rank, _) in enumerate(RANKS) if rank >= min(1.0, 0.99 + half)]
        if not below:
            return None
        low = self.value(f"rank{below[-1]}x", source)
        high = self.value(f"rank{above[0]}x", source)
        return None if low is None or high is None else (low, high)


def _row(minute: _PublishedMinute, versions: Sequence[str], serving: str) -> MinuteRow:
    sources = {version: source for source, version in enumerate(versions, start=1)}
    counts = {version: minute.counts(source) for version, source in sources.items()}
    # Without weights ExecutedVersion may be missing: then the alias's figures are those of the version that serves.
    # With weights, the rest belongs to a third version that was there, and to neither of these.
    if not counts[serving].requests:
        whole = minute.counts(WHOLE_ALIAS)
        known = sum(counts.values(), Counts())
        counts[serving] += Counts(
            max(0, whole.requests - known.requests),
            max(0, whole.errors - known.errors),
            max(0, whole.slow - known.slow),
        )
    # Throttled calls ran on no version; they are counted with the one that serves.
    counts[serving] += Counts(throttles=minute.total("throttles", WHOLE_ALIAS))
    if minute.value("p99", sources[serving]) is None:
        sources[serving] = WHOLE_ALIAS
    p99 = {version: minute.value("p99", source) for version, source in sources.items()}
    bands = {version: minute.p99_band(source) for version, source in sources.items() if p99[version] is not None}
    return MinuteRow(
        minute.at,
        counts,
        p99_ms={version: value for version, value in p99.items() if value is not None},
        p99_band_ms={version: band for version, band in bands.items() if band is not None},
        incomplete=any(minute.is_incomplete(source) for source in range(len(versions) + 1)),
    )
