"""CloudWatch to counts per minute and version.

Holds Lambda's dimensions behind a weighted alias, what counts as a failure, and which figures are known. A figure
without its datapoints is unknown, never zero: each request gives Invocations, Errors and Duration, so their numbers of
samples say whether a minute is published as a whole. Never judges.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.settings import ALIAS_DIMENSIONS, VERSION_DIMENSIONS, MetricName, SlowerThan, StreamSettings
from buddy_ops.core.text import floor_minute
from buddy_ops.health.counts import NOTHING_KNOWN, Counts, Figure

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import DimensionFilterTypeDef, DimensionTypeDef, MetricDataQueryTypeDef

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

MOST_QUERIES = 500
"""Queries of one GetMetricData call. Source: its API reference."""

WHOLE_ALIAS = 0
"""Index of the alias as a whole among the sources of a metric; its versions follow from 1."""

COMPLETE_SHARE = 0.95
"""A metric with this share of a minute's samples is published; see ``_falls_short`` for few samples."""

EMITTED_PER_REQUEST = 0.5
"""A failure metric that had samples for this share of the requests is one that is emitted with each request."""

UNKNOWN_VERSION = "?"
"""In place of a version: requests of which nothing says which version served them."""

MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an answer raises that has not the documented form."""

Measured = tuple[tuple[int, int | None], ...]
"""Of each stream in the settings: the events that metrics of its own show, and of how many; None: of the requests."""

Values = dict[str, dict[datetime, float]]
"""CloudWatch's datapoints by query id and minute."""


@dataclass(frozen=True)
class MinuteRow:
    """One minute. ``counts`` and ``p99_ms`` by version.

    Attributes:
        counts: what was seen; a figure named in a version's ``Counts.unknown`` may be higher. ``UNKNOWN_VERSION`` is
            among them where there are requests that no version can be given.
        p99_band_ms: the p99's 95 % interval, where a version had requests enough to have one.
        function_requests: requests of the whole function, by whichever name it was called; None where CloudWatch has
            none in this minute.
        failure_samples: by version, for each failure metric the number of requests that it or Lambda's own Errors had
            something to say of.
        shared_failures: failures that a metric of the alias as a whole counts beyond those of the versions, while
            several versions had requests: whose they are is unknown. Where one version had all requests they are its
            own, as ``Counts.shared``.
        measured: by version, the events of the streams; empty where they were not asked for.
    """

    at: datetime
    counts: dict[str, Counts]
    p99_ms: dict[str, float] = field(default_factory=dict)
    p99_band_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    function_requests: int | None = None
    failure_samples: dict[str, tuple[int, ...]] = field(default_factory=dict)
    shared_failures: int = 0
    measured: dict[str, Measured] = field(default_factory=dict)

    @property
    def is_silent(self) -> bool:
        """Whether CloudWatch shows nothing at all of the alias in it, throttled requests included."""
        return not any(counts.seen for counts in self.counts.values())

    @property
    def unknown(self) -> frozenset[Figure]:
        """The figures that are not known of every version."""
        return frozenset[Figure]().union(*(counts.unknown for counts in self.counts.values()))

    @property
    def incomplete(self) -> bool:
        """Whether CloudWatch has published some of the minute's metrics and not the others."""
        return bool(self.unknown) and not self.is_silent

    def with_emission(self, emission: Sequence[float]) -> "MinuteRow":
        """The same minute with failures as unknown where a metric that is emitted with each request lacks samples.

        Args:
            emission: for each failure metric, samples per request. One that is emitted only with failures cannot show
                that a minute is published: ``lateness`` measures its newest minute.
        """
        counts = dict(self.counts)
        for version, samples in self.failure_samples.items():
            for number, per_request in zip(samples, emission, strict=True):
                expected = round(counts[version].requests * per_request)
                if per_request >= EMITTED_PER_REQUEST and _falls_short(number, expected):
                    counts[version] = replace(counts[version], unknown=counts[version].unknown | {"errors"})
        return replace(self, counts=counts)

    def believed(self) -> "MinuteRow":
        """The same minute, where something else has shown that there was no more than what was seen."""
        counts = {version: replace(counts, unknown=frozenset()) for version, counts in self.counts.items()}
        return replace(self, counts=counts)


@dataclass(frozen=True)
class MetricsReading:
    """What CloudWatch answered. ``rows`` holds every minute asked for if ``trouble`` is None, and none otherwise.

    Attributes:
        newest: by metric, the latest minute in which CloudWatch has any data of the alias. A metric without data in the
            window is missing.
        emission: by failure metric, samples per request (0 to 1) up to its newest minute.
    """

    rows: tuple[MinuteRow, ...]
    trouble: str | None = None
    newest: Mapping[str, datetime] = field(default_factory=dict)
    emission: Mapping[str, float] = field(default_factory=dict)


def read_minutes(
    target: Target,
    versions: Sequence[str],
    serving: Callable[[datetime], str | None],
    since: datetime,
    until: datetime,
    bounds_ms: Sequence[float | None] | None = None,
) -> MetricsReading:
    """Counts of each minute in [since, until) for the versions behind the alias, in one GetMetricData request.

    A minute without datapoints is unknown, unless a later one has some: CloudWatch is past it then. A version without
    datapoints had no requests where the alias as a whole has no more of them than the other versions. A failed or
    partial answer returns no minute at all: missing measurements are not evidence.

    Args:
        versions: the versions that may be behind the alias.
        serving: the alias's primary version in a minute, one of ``versions``; None: unknown. Requests that name no
            version are its own, since ExecutedVersion may be missing while the alias has no weights. The
            environment's failure metrics name their version in any case, and come before it.
        bounds_ms: see ``StreamHistory``; None: the streams are not read.

    AWS: cloudwatch:GetMetricData (with every further page), reads only.
    """
    # CloudWatch refuses a window without length.
    if until <= since:
        return MetricsReading(())
    queries = _queries(target, None, WHOLE_ALIAS)
    for source, version in enumerate(versions, start=1):
        queries += _queries(target, version, source)
    if bounds_ms is not None:
        for source, each in enumerate((None, *versions)):
            queries += _stream_queries(target, each, source, bounds_ms)
    try:
        values = _fetch(target, queries, since, until)
    except AwsFailed as failure:
        return MetricsReading((), failure.what)
    except _Partial as partial:
        return MetricsReading((), str(partial))
    except MALFORMED as error:
        return MetricsReading((), f"CloudWatch's answer could not be read ({error}).")
    failure_metrics = target.settings.failure_metrics
    published = _Published(values, failure_metrics)
    per_request = tuple(published.emission.get(metric.full_name, 0.0) for metric in failure_metrics)
    rows = []
    for index in range(int((until - since) / MINUTE)):
        at = since + MINUTE * index
        minute = _PublishedMinute(published, at, target.settings.streams if bounds_ms is not None else ())
        rows.append(_row(minute, versions, serving(at)).with_emission(per_request))
    rows = _believe_earlier_silence(rows)
    # CloudWatch deletes minutes after 15 days; the archived journal keeps them.
    target.journal.append("minutes", rows=rows_to_json(rows))
    return MetricsReading(tuple(rows), newest=published.newest, emission=published.emission)


def _believe_earlier_silence(rows: Sequence[MinuteRow]) -> list[MinuteRow]:
    """Minutes with no datapoints before one that has some: they are known to have had no requests."""
    found = list(rows)
    later = False
    for index in range(len(found) - 1, -1, -1):
        if not found[index].is_silent:
            later = True
        elif later:
            found[index] = found[index].believed()
    return found


def read_requests(target: Target, since: datetime, until: datetime) -> dict[datetime, float]:
    """The alias's requests of each minute in [since, until) that has any, throttled ones included.

    AWS, Raises: as ``read_series``.
    """
    found = Counter[datetime]()
    queries = _alias_queries(target, ("requests0", "throttles0"))
    for points in read_series(target, queries, since, until).values():
        found.update(points)
    return {at: number for at, number in found.items() if number}


@dataclass(frozen=True)
class StreamHistory:
    """What the streams are measured by, from before the rollout.

    Attributes:
        bounds_ms: of each stream, the Duration from which a request is slow; None: another stream, or one whose history
            has no durations.
        minutes: of each stream, the stable version's (events, requests or total) of each minute with any; those of
            failed requests are not among them.
    """

    bounds_ms: tuple[float | None, ...]
    minutes: tuple[tuple[tuple[int, int], ...], ...]


def read_stream_history(target: Target, stable: str, since: datetime, until: datetime) -> StreamHistory:
    """Bounds and history of the streams in [since, until): the same minutes give the same whenever they are read.

    A bound that is a percentile is the median of the minutes' percentiles, of the alias as a whole.

    AWS, Raises: as ``read_series``; without a stream that needs it, nothing is called.
    """
    streams = target.settings.streams
    alias = target.fill(ALIAS_DIMENSIONS)
    # First the bounds that are percentiles: the history of slow requests is counted by them.
    percentiles = []
    for index, spec in enumerate(streams):
        if isinstance(spec.events, SlowerThan) and isinstance(spec.events.slower_than, str):
            percentiles.append(
                _query(f"bound{index}", "AWS/Lambda", "Duration", alias, statistic=spec.events.slower_than)
            )
    values = read_series(target, percentiles, since, until) if percentiles else {}
    bounds: list[float | None] = []
    for index, spec in enumerate(streams):
        bound = spec.events.slower_than if isinstance(spec.events, SlowerThan) else None
        if isinstance(bound, str):
            found = values[f"bound{index}"].values()
            bound = round(median(found), 2) if found else None
        bounds.append(bound)
    queries = [
        *_stream_queries(target, None, WHOLE_ALIAS, bounds),
        *_stream_queries(target, stable, WHOLE_ALIAS + 1, bounds),
    ]
    if queries:
        queries.append(_query("requests0", "AWS/Lambda", "Invocations", alias, statistic="Sum"))
        values = read_series(target, queries, since, until)
    minutes = []
    for index, spec in enumerate(streams):
        # Slow requests of the alias as a whole: without weights Lambda names no version. Metrics of one's own do.
        source = WHOLE_ALIAS if isinstance(spec.events, SlowerThan) else WHOLE_ALIAS + 1
        events = values.get(f"events{index}x{source}", {})
        totals = values.get(f"total{index}x{source}") or values.get("requests0", {})
        own = ((events.get(at, 0.0), total) for at, total in sorted(totals.items()))
        minutes.append(tuple((round(x), round(n)) for x, n in own) if events else ())
    target.journal.append("stream-history", bounds_ms=bounds, minutes=[len(each) for each in minutes])
    return StreamHistory(tuple(bounds), tuple(minutes))


def list_called(target: Target) -> list[str]:
    """By what callers named the function within the last two weeks, sorted: 'FUNCTION', 'FUNCTION:live', 'FUNCTION:3'.

    AWS: cloudwatch:ListMetrics, every page (one may be empty), reads only.
    """
    dimensions: list[DimensionFilterTypeDef] = [
        {"Name": "FunctionName", "Value": target.settings.function},
        {"Name": "Resource"},
    ]
    pages = target.client("cloudwatch").get_paginator("list_metrics")
    found: set[str] = set()
    for page in pages.paginate(Namespace="AWS/Lambda", MetricName="Invocations", Dimensions=dimensions):
        for metric in page["Metrics"]:
            found.update(each["Value"] for each in metric.get("Dimensions", ()) if each["Name"] == "Resource")
    return sorted(found)


def count_callers(target: Target, resources: Sequence[str], since: datetime, until: datetime) -> dict[str, int]:
    """The requests in [since, until) that called each of ``resources``, and under '' all, by whichever name.

    AWS, Raises: as ``read_series``.
    """
    names = ("", *resources)
    queries: list[MetricDataQueryTypeDef] = []
    for number, resource in enumerate(names):
        dimensions: list[DimensionTypeDef] = [{"Name": "FunctionName", "Value": target.settings.function}]
        # Without it the metric has every request once, by whichever name it came.
        if resource:
            dimensions.append({"Name": "Resource", "Value": resource})
        queries.append(_query(f"called{number}", "AWS/Lambda", "Invocations", dimensions, statistic="Sum"))
    values = read_series(target, queries, since, until)
    return {resource: round(sum(values[f"called{number}"].values())) for number, resource in enumerate(names)}


def count_samples(target: Target, since: datetime, until: datetime) -> dict[str, int]:
    """How many requests in [since, until) each metric of the alias counts, by the metric's name.

    AWS, Raises: as ``read_series``.
    """
    ids = {"requests0": "Invocations", "errorsof0": "Errors", "slowof0": "Duration"}
    for index, metric in enumerate(target.settings.failure_metrics):
        # Of others no sample of each request is expected.
        if not metric.dimensions and not metric.expression:
            ids[f"failedof{index}x0"] = metric.full_name
    values = read_series(target, _alias_queries(target, ids), since, until)
    return {name: round(sum(values[id].values())) for id, name in ids.items()}


def _alias_queries(target: Target, ids: Collection[str]) -> "list[MetricDataQueryTypeDef]":
    """Some of the alias's own queries."""
    return [query for query in _queries(target, None, WHOLE_ALIAS) if query["Id"] in ids]


SUMMARY = ("requests", "errors", "slow", "p99", "throttles")
"""The series that say how an alias as a whole is."""


def summary_queries(target: Target, suffix: str, series: Sequence[str] = SUMMARY) -> "list[MetricDataQueryTypeDef]":
    """A few queries that say how an alias as a whole is, for many functions at once.

    Their ids are those of ``series``, and for each failure metric 'failed0', 'failed1', ... with the suffix.
    """
    wanted = {f"{name}{WHOLE_ALIAS}": name for name in series}
    for index, metric in enumerate(target.settings.failure_metrics):
        wanted[f"failed{index}x{WHOLE_ALIAS}"] = f"failed{index}"
        if metric.expression:
            wanted[f"counted{index}x{WHOLE_ALIAS}"] = f"counted{index}"
    queries = _alias_queries(target, wanted)
    for query in queries:
        own = query["Id"]
        # An id may occur once in a call, which is for many functions here.
        query["Id"] = wanted[own] + suffix
        if "Expression" in query:
            counted = own.replace("failed", "counted")
            query["Expression"] = query["Expression"].replace(counted, wanted[counted] + suffix)
    return queries


def read_series(target: Target, queries: "list[MetricDataQueryTypeDef]", since: datetime, until: datetime) -> Values:
    """The datapoints of at most ``MOST_QUERIES`` queries, by their ids.

    AWS: cloudwatch:GetMetricData (with every further page), reads only.

    Raises:
        AwsFailed: ``metrics-unreadable``, and what AWS refuses.
    """
    try:
        return _fetch(target, queries, since, until)
    except _Partial as partial:
        trouble = str(partial)
    except MALFORMED as error:
        trouble = f"CloudWatch's answer could not be read ({error})."
    raise AwsFailed("metrics-unreadable", trouble, next="Try again in a minute.", code="malformed")


def published_until(target: Target, now: datetime) -> datetime:
    """The end of the latest minute whose metrics CloudWatch should have published."""
    return floor_minute(now - timedelta(seconds=target.settings.health.late_data_s))


def totals(rows: Sequence[MinuteRow], versions: Iterable[str]) -> dict[str, Counts]:
    """Each version's minutes as one; zeros for a version that is in none of them."""
    return {version: sum((row.counts.get(version, Counts()) for row in rows), Counts()) for version in versions}


def rows_to_json(rows: Iterable[MinuteRow]) -> list[list[Any]]:
    """Minutes with requests as JSON has them: its time, then by version requests, errors, slow, throttles and p99.

    Where a figure is unknown, a sixth entry lists the unknown ones. A third entry of a minute are failures that no
    version can be given.
    """
    found = []
    for row in rows:
        if row.is_silent:
            continue
        figures: dict[str, list[Any]] = {}
        for version, counts in row.counts.items():
            figures[version] = [counts.requests, counts.errors, counts.slow, counts.throttles, row.p99_ms.get(version)]
            if counts.unknown:
                figures[version].append(sorted(counts.unknown))
        found.append([iso_utc(row.at), figures, *([row.shared_failures] if row.shared_failures else [])])
    return found


def rows_from_json(rows: Iterable[Sequence[Any]]) -> Iterator[MinuteRow]:
    """The reverse of ``rows_to_json``. Entries that are not minutes are left out, since they come from a file."""
    for row in rows:
        with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError):
            counts = {version: _counts_from_json(figures) for version, figures in row[1].items()}
            p99 = {version: float(figures[4]) for version, figures in row[1].items() if figures[4] is not None}
            shared = int(row[2]) if len(row) > 2 else 0
            yield MinuteRow(datetime.fromisoformat(row[0]), counts, p99, shared_failures=shared)


def _counts_from_json(figures: Sequence[Any]) -> Counts:
    unknown: frozenset[Figure] = frozenset()
    if len(figures) > 5:
        unknown = NOTHING_KNOWN.intersection(figures[5])
    requests, errors, slow, throttles = map(int, figures[:4])
    return Counts(requests, errors, slow=slow, throttles=throttles, unknown=unknown)


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
    # The count of durations from this bound on. Source: CloudWatch user guide, 'CloudWatch statistics definitions'.
    over_bound = f"TC({target.settings.health.latency_ms}:)"
    wanted = [
        ("requests", "AWS/Lambda", "Invocations", "Sum"),
        ("errors", "AWS/Lambda", "Errors", "Sum"),
        ("errorsof", "AWS/Lambda", "Errors", "SampleCount"),
        ("slow", "AWS/Lambda", "Duration", over_bound),
        ("slowof", "AWS/Lambda", "Duration", "SampleCount"),
        ("p99", "AWS/Lambda", "Duration", "p99"),
    ]
    for index, (_, statistic) in enumerate(RANKS):
        wanted.append((f"rank{index}x", "AWS/Lambda", "Duration", statistic))
    if version is None:
        wanted.append(("throttles", "AWS/Lambda", "Throttles", "Sum"))
    queries = [
        _query(f"{name}{source}", namespace, metric_name, dimensions, statistic=statistic)
        for name, namespace, metric_name, statistic in wanted
    ]
    for index, metric in enumerate(target.settings.failure_metrics):
        if version is None or metric.by_version:
            named = target.fill(metric.of_alias if version is None else metric.of_version, version or "")
            queries += _failure_queries(metric, f"{index}x{source}", named)
    if version is None:
        # The function's name alone: its requests by whichever name they came.
        queries.append(_query(f"function{source}", "AWS/Lambda", "Invocations", dimensions[:1], statistic="Sum"))
    return queries


def _failure_queries(
    metric: MetricName, suffix: str, dimensions: "list[DimensionTypeDef]"
) -> "list[MetricDataQueryTypeDef]":
    """The queries for one series of a failure metric: the failures, and how many samples they were counted from."""
    queries = _metric_queries(metric, "failed", suffix, dimensions)
    if not metric.expression:
        queries.append(_query(f"failedof{suffix}", metric.namespace, metric.name, dimensions, statistic="SampleCount"))
    return queries


def _metric_queries(
    metric: MetricName, name: str, suffix: str, dimensions: "list[DimensionTypeDef]"
) -> "list[MetricDataQueryTypeDef]":
    """The queries for the number that one series of a metric counts; its id is name and suffix."""
    if not metric.expression:
        return [_query(f"{name}{suffix}", metric.namespace, metric.name, dimensions, statistic=metric.statistic)]
    counted = _query(f"{name}counted{suffix}", metric.namespace, metric.name, dimensions, statistic=metric.statistic)
    counted["ReturnData"] = False
    expression = metric.expression.replace("{metric}", counted["Id"])
    return [counted, {"Id": f"{name}{suffix}", "Expression": expression, "Period": 60}]


def _stream_queries(
    target: Target, version: str | None, source: int, bounds_ms: Sequence[float | None]
) -> "list[MetricDataQueryTypeDef]":
    """The queries of the streams for a version, or for the alias as a whole: metrics of one's own name the version."""
    queries = []
    for index, (spec, bound) in enumerate(zip(target.settings.streams, bounds_ms, strict=True)):
        if bound is not None:
            template = ALIAS_DIMENSIONS if version is None else VERSION_DIMENSIONS
            dimensions = target.fill(template, version or "")
            queries.append(
                _query(f"events{index}x{source}", "AWS/Lambda", "Duration", dimensions, statistic=f"TC({bound:g}:)")
            )
        if version is None:
            continue
        for name, metric in (("events", spec.events), ("total", spec.of)):
            if isinstance(metric, MetricName):
                dimensions = target.fill(metric.of_version, version)
                queries += _metric_queries(metric, name, f"{index}x{source}", dimensions)
    return queries


def _query(
    name: str, namespace: str, metric: str, dimensions: "list[DimensionTypeDef]", statistic: str
) -> "MetricDataQueryTypeDef":
    """The query for a metric's minutes."""
    return {
        "Id": name,
        "MetricStat": {
            "Metric": {"Namespace": namespace, "MetricName": metric, "Dimensions": dimensions},
            "Period": 60,
            "Stat": statistic,
        },
    }


def _fetch(target: Target, queries: "list[MetricDataQueryTypeDef]", since: datetime, until: datetime) -> Values:
    """Every datapoint. Raises _Partial unless every query ended 'Complete'."""
    found: Values = {query["Id"]: {} for query in queries if query.get("ReturnData", True)}
    status: dict[str, str] = {}
    pages = target.client("cloudwatch").get_paginator("get_metric_data")
    for page in pages.paginate(MetricDataQueries=queries, StartTime=since, EndTime=until):
        for result in page["MetricDataResults"]:
            points = zip(result["Timestamps"], result["Values"], strict=True)
            series = found[result["Id"]]
            for at, value in (_point(at, value) for at, value in points):
                # A datapoint may come twice, before its revision and after it: counts only grow.
                series[at] = max(value, series.get(at, 0.0))
            status[result["Id"]] = result.get("StatusCode", "")
    # 'PartialData' and 'InternalError' are the others. Source: CloudWatch API reference, MetricDataResult.
    incomplete = [name for name in found if status.get(name) != "Complete"]
    if incomplete:
        raise _Partial(f"CloudWatch answered {len(incomplete)} of {len(found)} queries only in part.")
    return found


def _point(at: datetime, value: float) -> tuple[datetime, float]:
    """A plausible datapoint: a whole minute, a number from 0. Raises ValueError for another."""
    if at.utcoffset() is None or at.second or at.microsecond or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} at {at}")
    return at, value


def _falls_short(samples: float | None, requests: int) -> bool:
    """Whether a metric lacks more of a minute's samples than a rounding between minutes explains."""
    return samples is None or samples < COMPLETE_SHARE * requests - 1


class _Published:
    """What CloudWatch has published, by name of the series and index of the source.

    Attributes:
        newest: see ``MetricsReading``.
        emission: by failure metric, samples per request.
    """

    def __init__(self, values: Values, failure_metrics: Sequence[MetricName]) -> None:
        self._values = values
        self.failure_metrics = failure_metrics
        self.newest: dict[str, datetime] = {}
        names = {"Invocations": "requests", "Errors": "errorsof", "Duration": "slowof"}
        for index, counted in enumerate(failure_metrics):
            names[counted.full_name] = f"failedof{index}x"
        for metric, series in names.items():
            if points := values.get(f"{series}{WHOLE_ALIAS}"):
                self.newest[metric] = max(points)
        self.emission = self._emission()

    def minute(self, at: datetime) -> dict[str, float]:
        """The datapoints of a minute, by the query's ID."""
        return {name: points[at] for name, points in self._values.items() if at in points}

    def _emission(self) -> dict[str, float]:
        requests = self._values.get(f"requests{WHOLE_ALIAS}", {})
        errors = self._values.get(f"errors{WHOLE_ALIAS}", {})
        found = {}
        for index, metric in enumerate(self.failure_metrics):
            samples = self._values.get(f"failedof{index}x{WHOLE_ALIAS}", {})
            # Later minutes say nothing of it: they may be late.
            until = self.newest.get(metric.full_name)
            minutes = [at for at in requests if until is not None and at <= until]
            answered = sum(requests[at] - errors.get(at, 0.0) for at in minutes)
            if answered > 0:
                found[metric.full_name] = min(1.0, sum(samples.get(at, 0.0) for at in minutes) / answered)
        return found


class _PublishedMinute:
    """What CloudWatch has published of one minute, by name of the series and index of the source."""

    def __init__(self, published: _Published, at: datetime, streams: Sequence[StreamSettings] = ()) -> None:
        self.at = at
        self.has_streams = bool(streams)
        self._streams = streams
        # A poll asks some 5,000 times: each minute's datapoints are looked up once.
        self._values = published.minute(at)
        self._requests: dict[int, int] = {}
        by_version = [metric.by_version for metric in published.failure_metrics]
        self._all = range(len(by_version))
        self._failed = [index for index in self._all if by_version[index]]
        self._of_alias = [index for index in self._all if not by_version[index]]

    def value(self, series: str, source: int) -> float | None:
        """A datapoint; None where there is none."""
        return self._values.get(f"{series}{source}")

    def seen(self, series: str, source: int) -> int:
        """How many were seen of something; with no datapoint, none were, which does not mean that there were none."""
        value = self.value(series, source)
        return 0 if value is None else round(value)

    def requests(self, source: int) -> int:
        """Requests that any metric shows: each request is a sample of Invocations, Errors and Duration."""
        if source not in self._requests:
            self._requests[source] = max(self.seen(series, source) for series in ("requests", "errorsof", "slowof"))
        return self._requests[source]

    def names_version(self, source: int) -> bool:
        """Whether a failure metric says that this version ran: our own metrics name it with weights and without."""
        return any(self.value(f"failed{index}x", source) is not None for index in self._failed)

    def counts(self, source: int) -> Counts:
        """Requests, failures and slow requests of a source that were seen, and which of these may be more."""
        requests = self.requests(source)
        # At most one failure per request: a request may both apologise and fail.
        errors = self.seen("errors", source) + sum(self.seen(f"failed{index}x", source) for index in self._failed)
        return Counts(
            requests,
            min(requests, errors),
            slow=min(requests, self.seen("slow", source)),
            unknown=self._unknown(source, requests),
        )

    def failure_samples(self, source: int) -> tuple[int, ...]:
        """For each failure metric the number of its samples, and of requests that raised and so emitted none.

        A metric of the alias as a whole has samples of each version by the version's share of the requests.
        """
        requests = self.requests(source)
        share = requests / max(1, self.requests(WHOLE_ALIAS))
        found = []
        for index in self._all:
            samples = self.seen(f"failedof{index}x", WHOLE_ALIAS if index in self._of_alias else source)
            if index in self._of_alias:
                samples = min(requests, round(samples * share))
            found.append(samples + self.seen("errors", source))
        return tuple(found)

    def measured(self, source: int) -> Measured:
        """What metrics of their own show of the streams."""
        found: list[tuple[int, int | None]] = []
        for index, spec in enumerate(self._streams):
            total = None if spec.of == "requests" else self.seen(f"total{index}x", source)
            found.append((self.seen(f"events{index}x", source), total))
        return tuple(found)

    def measured_beside(self, source: int, others: Iterable[Measured]) -> Measured:
        """The same of the version that has all requests of the alias beside those of ``others``."""
        found = []
        series = zip(self._streams, self.measured(source), self.measured(WHOLE_ALIAS), *others, strict=True)
        for spec, own, (whole, _), *rest in series:
            # A metric of one's own names the version, with weights and without.
            if isinstance(spec.events, SlowerThan):
                found.append((max(0, whole - sum(events for events, _ in rest)), own[1]))
            else:
                found.append(own)
        return tuple(found)

    def failures_of_alias(self) -> int:
        """Failures that the metrics of the alias as a whole count, which name no version."""
        return sum(self.seen(f"failed{index}x", WHOLE_ALIAS) for index in self._of_alias)

    def _unknown(self, source: int, requests: int) -> frozenset[Figure]:
        if not requests:
            return NOTHING_KNOWN
        unknown: set[Figure] = set()
        if _falls_short(self.value("requests", source), requests):
            unknown.add("requests")
        if _falls_short(self.value("errorsof", source), requests):
            unknown.add("errors")
        if _falls_short(self.value("slowof", source), requests) or self.value("p99", source) is None:
            unknown.add("slow")
        return frozenset(unknown)

    def p99_band(self, source: int) -> tuple[float, float] | None:
        """The p99's 95 % interval, in ms: the ranks that bound it, widened to those that are read."""
        requests = self.requests(source)
        if requests < FEWEST_FOR_BAND:
            return None
        # The normal approximation of how far the rank of a p99 is off with so many requests.
        half = 1.96 * math.sqrt(0.99 * 0.01 / requests)
        below = [index for index, (rank, _) in enumerate(RANKS) if rank <= 0.99 - half]
        above = [index for index, (rank, _) in enumerate(RANKS) if rank >= min(1.0, 0.99 + half)]
        if not below:
            return None
        low = self.value(f"rank{below[-1]}x", source)
        high = self.value(f"rank{above[0]}x", source)
        return None if low is None or high is None else (low, high)


def _row(minute: _PublishedMinute, versions: Sequence[str], serving: str | None) -> MinuteRow:
    sources = {version: source for source, version in enumerate(versions, start=1)}
    counts = {version: minute.counts(source) for version, source in sources.items()}
    whole = minute.counts(WHOLE_ALIAS)
    # Whose are the requests that name no version?
    owner = _owner(minute, sources, counts, serving)
    own = counts.get(owner, Counts())
    # Without weights ExecutedVersion may be missing: then the alias's figures are those of the version that serves.
    # With weights, the rest belongs to a third version that was there, and to neither of these.
    samples = {version: minute.failure_samples(source) for version, source in sources.items()}
    measured = {version: minute.measured(source) for version, source in sources.items()}
    if not own.requests and (serving is not None or not any(named.requests for named in counts.values())):
        if owner in samples:
            samples[owner] = minute.failure_samples(WHOLE_ALIAS)
            beside = [each for version, each in measured.items() if version != owner]
            measured[owner] = minute.measured_beside(sources[owner], beside)
        others = sum((each for version, each in counts.items() if version != owner), Counts())
        own = Counts(
            max(0, whole.requests - others.requests),
            max(0, whole.errors - others.errors),
            slow=max(0, whole.slow - others.slow),
            unknown=whole.unknown,
        )
    # Throttled calls ran on no version; they are counted with the one that serves.
    own += Counts(throttles=minute.seen("throttles", WHOLE_ALIAS))
    if owner in counts or own.seen:
        counts[owner] = own
        if owner not in sources or minute.value("p99", sources[owner]) is None:
            sources[owner] = WHOLE_ALIAS
    # The alias as a whole is the witness for a version of which nothing is published.
    known = sum(each.requests for each in counts.values())
    if whole.requests and not _falls_short(known, whole.requests):
        for version, each in counts.items():
            if not each.requests:
                counts[version] = replace(each, unknown=whole.unknown)
    # What metrics of the alias as a whole count beyond that: of the only version with requests, or of none.
    shared = max(0, minute.failures_of_alias() - sum(each.errors for each in counts.values()))
    alone = [version for version, each in counts.items() if each.requests]
    if shared and len(alone) == 1:
        own = counts[alone[0]]
        found = min(shared, own.requests - own.errors)
        counts[alone[0]] = replace(own, errors=own.errors + found, shared=found)
        shared = 0
    p99 = {version: minute.value("p99", source) for version, source in sources.items()}
    bands = {version: minute.p99_band(source) for version, source in sources.items() if p99[version] is not None}
    of_function = minute.value("function", WHOLE_ALIAS)
    return MinuteRow(
        minute.at,
        counts,
        p99_ms={version: value for version, value in p99.items() if value is not None},
        p99_band_ms={version: band for version, band in bands.items() if band is not None},
        function_requests=None if of_function is None else round(of_function),
        failure_samples=samples,
        shared_failures=shared,
        measured=measured if minute.has_streams else {},
    )


def _owner(
    minute: _PublishedMinute, sources: Mapping[str, int], counts: Mapping[str, Counts], serving: str | None
) -> str:
    """The version that requests without ExecutedVersion belong to."""
    if any(own.requests for own in counts.values()):
        return serving or UNKNOWN_VERSION
    named = [version for version, source in sources.items() if minute.names_version(source)]
    if len(named) == 1:
        return named[0]
    # Several versions ran in it one after the other. Only the caller may know which one had most of it.
    return serving or UNKNOWN_VERSION
