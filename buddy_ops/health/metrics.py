"""CloudWatch to counts per minute and version.

Knows Lambda's dimensions behind a weighted alias, and what counts as a failure. Never judges.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.journal import iso_utc
from buddy_ops.health.judge import Counts

if TYPE_CHECKING:
    import pandas as pd
    from types_boto3_cloudwatch.type_defs import DimensionTypeDef, MetricDataQueryTypeDef

MINUTE = timedelta(minutes=1)
INIT_BOUND_MS = 2000.0
"""A cold start should take less. Source: the deployment guide, 'Watching'."""

RANKS = (
    (0.90, "p90"),
    (0.95, "p95"),
    (0.97, "p97"),
    (0.98, "p98"),
    (0.995, "p99.5"),
    (0.999, "p99.9"),
    (1.0, "Maximum"),
)
"""Percentiles that are read besides p99, to say how far chance may have moved it."""

FEWEST_FOR_BAND = 5
QUERY_POLL, QUERY_POLLS = timedelta(seconds=1), 60
ALIAS = "alias"
"""Stands for the alias as a whole among the versions behind it."""


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
    such: whoever judges it asks whether CloudWatch is late (``evidence``). A failed or partial answer returns no minute
    at all: missing measurements are not evidence.

    Args:
        versions: the versions that may be behind the alias.
        serving: the alias's primary version in a minute; requests that name no version are its own, since
            ExecutedVersion may be missing while the alias has no weights.

    AWS: cloudwatch:GetMetricData (with every further page), reads only.
    """
    if until <= since:
        return MetricsReading(())
    queries = [query for index, who in enumerate([ALIAS, *versions]) for query in _queries(target, who, index)]
    try:
        values = _fetch(target, queries, since, until)
    except AwsFailed as failure:
        return MetricsReading((), f"{failure.what}")
    except _Partial as partial:
        return MetricsReading((), str(partial))
    except MALFORMED as error:
        return MetricsReading((), f"CloudWatch's answer cannot be read: {type(error).__name__}: {error}")
    minutes = [since + MINUTE * index for index in range(int((until - since) / MINUTE))]
    rows = tuple(_row(at, values, versions, serving(at)) for at in minutes)
    # CloudWatch forgets minutes after 15 days; the archived journal keeps them.
    target.journal.append("minutes", rows=rows_to_json(rows))
    return MetricsReading(rows)


@dataclass(frozen=True)
class ColdStarts:
    """Environments that a version started in a window: how many invocations did, of how many, and their init time."""

    version: str
    invocations: int
    cold: int
    p95_init_ms: float | None

    def __str__(self) -> str:
        init = f", 95 % of them within {self.p95_init_ms / 1000:.1f} s" if self.p95_init_ms is not None else ""
        starts = "1 cold start" if self.cold == 1 else f"{self.cold:,} cold starts"
        return f"v{self.version}: {starts} in {self.invocations:,} invocations{init}"


COLD_STARTS_QUERY = (
    'filter @type = "REPORT" | parse @logStream /\\[(?<version>[^\\]]+)\\]/ '
    "| stats count(*) as invocations, count(@initDuration) as cold, pct(@initDuration, 95) as init by version"
)


def read_cold_starts(target: Target, since: datetime, until: datetime) -> tuple[ColdStarts, ...]:
    """Cold starts by version, from the REPORT lines in the function's log: Init Duration is in no standard metric.

    AWS: logs:StartQuery, logs:GetQueryResults, reads only; Logs Insights bills the data that it scans.

    Raises:
        AwsFailed: ``query-unfinished``, and whatever AWS refuses.
    """
    return tuple(
        ColdStarts(
            row["version"],
            int(row["invocations"]),
            int(row["cold"]),
            float(row["init"]) if row.get("init") else None,
        )
        for row in sorted(query_log(target, COLD_STARTS_QUERY, since, until), key=lambda row: row["version"])
    )


def query_log(
    target: Target, query: str, since: datetime, until: datetime, watch: Callable[[str], None] = lambda _: None
) -> list[dict[str, str]]:
    """What Logs Insights answers about the function's log, a mapping of fields a row.

    Args:
        watch: hears of each poll.

    AWS: logs:StartQuery, logs:GetQueryResults, reads only; Logs Insights bills the data that it scans.

    Raises:
        AwsFailed: ``query-unfinished``, and whatever AWS refuses.
    """
    group = f"/aws/lambda/{target.settings.function}"
    logs = target.client("logs")
    started = logs.start_query(
        logGroupName=group,
        queryString=query,
        startTime=int(since.timestamp()),
        endTime=int(until.timestamp()),
    )["queryId"]
    for poll in range(QUERY_POLLS):
        watch(f"searching the log of {target.settings.function}: asked {poll + 1} of at most {QUERY_POLLS} times")
        reply = logs.get_query_results(queryId=started)
        if reply["status"] == "Complete":
            return [{cell["field"]: cell["value"] for cell in row} for row in reply["results"]]
        target.clock.sleep_until(target.clock.now() + QUERY_POLL)
    raise AwsFailed(
        "query-unfinished",
        f"The query on {group} did not end in {QUERY_POLLS} polls ({reply['status']}).",
        next="Ask for a shorter window, or open Logs Insights in the console.",
        code="timeout",
    )


def describe_cold_starts(target: Target, since: datetime, until: datetime) -> str:
    """``cold_starts`` in sentences, against the guide's 2 s; a log that cannot be read is told, never raised."""
    try:
        found = read_cold_starts(target, since, until)
    except AwsFailed as failure:
        return f"Cold starts are unknown: {failure.what}"
    except MALFORMED as error:
        return f"Cold starts are unknown: the log's answer cannot be read: {type(error).__name__}: {error}"
    slow = [each for each in found if each.p95_init_ms is not None and each.p95_init_ms >= INIT_BOUND_MS]
    advice = [f"v{each.version} starts slower than 2 s: a smaller package starts faster." for each in slow]
    return "\n".join([*map(str, found), *advice]) or "No invocation was logged."


def rows_to_json(rows: Iterable[MinuteRow]) -> list[list[Any]]:
    """Minutes with requests as JSON has them: its time, then by version requests, errors, slow, throttles and p99."""
    return [
        [
            iso_utc(row.at),
            {
                version: [counts.requests, counts.errors, counts.slow, counts.throttles, row.p99_ms.get(version)]
                for version, counts in row.counts.items()
            },
        ]
        for row in rows
        if any(counts != Counts() for counts in row.counts.values())
    ]


def rows_from_json(rows: Iterable[Sequence[Any]]) -> Iterator[MinuteRow]:
    """The same, back; what is no minute is left out: it comes from a file."""
    for row in rows:
        with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError):
            at, seen = datetime.fromisoformat(row[0]), row[1]
            counts = {version: Counts(*map(int, each[:4])) for version, each in seen.items()}
            yield MinuteRow(
                at, counts, {version: float(each[4]) for version, each in seen.items() if each[4] is not None}
            )


def frame(rows: Iterable[MinuteRow]) -> "pd.DataFrame":
    """The same as a tidy frame.

    Returns:
        UTC DatetimeIndex, one row per minute and version, with columns version, requests, errors, slow, throttles
        (counts), error_rate (fraction) and p99_ms (milliseconds, NaN without requests).
    """
    import pandas as pd

    records = [
        {
            "at": row.at,
            "version": version,
            "requests": counts.requests,
            "errors": counts.errors,
            "slow": counts.slow,
            "throttles": counts.throttles,
            "error_rate": counts.errors / counts.requests if counts.requests else float("nan"),
            "p99_ms": row.p99_ms.get(version, float("nan")),
        }
        for row in rows
        for version, counts in row.counts.items()
    ]
    columns = ["at", "version", "requests", "errors", "slow", "throttles", "error_rate", "p99_ms"]
    return pd.DataFrame(records, columns=columns).set_index("at")


MALFORMED = (KeyError, TypeError, ValueError, AttributeError)
"""What taking an answer apart raises that has not the documented form."""


class _Partial(Exception):
    pass


def _queries(target: Target, who: str, index: int) -> "list[MetricDataQueryTypeDef]":
    """The queries for the alias as a whole (index 0) or a version; ids are letters plus the index."""
    own: list[DimensionTypeDef] = [
        {"Name": "FunctionName", "Value": target.settings.function},
        {"Name": "Resource", "Value": target.resource},
    ]
    if who != ALIAS:
        own.append({"Name": "ExecutedVersion", "Value": who})
    bound = target.settings.health.latency_ms
    wanted = [
        ("requests", "AWS/Lambda", "Invocations", "Sum"),
        ("errors", "AWS/Lambda", "Errors", "Sum"),
        ("slow", "AWS/Lambda", "Duration", f"TC({bound}:)"),
        ("p99", "AWS/Lambda", "Duration", "p99"),
        *((f"rank{i}x", "AWS/Lambda", "Duration", stat) for i, (_, stat) in enumerate(RANKS)),
        *((f"failed{i}x", each.namespace, each.name, "Sum") for i, each in enumerate(target.settings.failure_metrics)),
    ]
    if who == ALIAS:
        wanted.append(("throttles", "AWS/Lambda", "Throttles", "Sum"))
    return [
        {
            "Id": f"{name}{index}",
            "MetricStat": {
                "Metric": {"Namespace": namespace, "MetricName": metric, "Dimensions": own},
                "Period": 60,
                "Stat": stat,
            },
        }
        for name, namespace, metric, stat in wanted
    ]


def _fetch(
    target: Target, queries: "list[MetricDataQueryTypeDef]", since: datetime, until: datetime
) -> dict[str, dict[datetime, float]]:
    """Values by query id and minute. Raises _Partial unless every query ended 'Complete'."""
    found: dict[str, dict[datetime, float]] = {query["Id"]: {} for query in queries}
    status: dict[str, str] = {}
    paginator = target.client("cloudwatch").get_paginator("get_metric_data")
    for page in paginator.paginate(MetricDataQueries=queries, StartTime=since, EndTime=until):
        for result in page["MetricDataResults"]:
            points = zip(result["Timestamps"], result["Values"], strict=True)
            found[result["Id"]].update(_point(at, value) for at, value in points)
            status[result["Id"]] = result.get("StatusCode", "")
    short = [name for name in found if status.get(name) != "Complete"]
    if short:
        raise _Partial(f"CloudWatch answered {len(short)} of {len(found)} queries only in part")
    return found


def _point(at: datetime, value: float) -> tuple[datetime, float]:
    """A datapoint that can be one: a whole minute, a number from 0. Raises ValueError for another."""
    if at.utcoffset() is None or at.second or at.microsecond or not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} at {at}")
    return at, value


def _row(at: datetime, values: dict[str, dict[datetime, float]], versions: Sequence[str], serving: str) -> MinuteRow:
    def count(name: str, index: int) -> int:
        return round(values.get(f"{name}{index}", {}).get(at, 0.0))

    def failures(index: int) -> int:
        named = [name for name in values if name.startswith("failed") and name.endswith(f"x{index}")]
        apologies = sum(round(values[name].get(at, 0.0)) for name in named)
        # At most one failure a request: a request may both apologise and fail.
        return min(count("requests", index), count("errors", index) + apologies)

    whole = {"requests": count("requests", 0), "errors": failures(0), "slow": count("slow", 0)}
    seen = {
        version: {"requests": count("requests", i), "errors": failures(i), "slow": count("slow", i)}
        for i, version in enumerate(versions, start=1)
    }
    # Without weights ExecutedVersion may be missing: then the alias's figures are those of the version that serves.
    # With weights, what is left belongs to a third version that was there, and to nobody here.
    if not seen[serving]["requests"]:
        for name, value in whole.items():
            seen[serving][name] += max(0, value - sum(each[name] for each in seen.values()))
    counts = {version: Counts(**fields) for version, fields in seen.items()}
    # Throttled calls ran on no version; they are told beside the one that serves.
    counts[serving] = replace(counts[serving], throttles=count("throttles", 0))
    sources = {version: i for i, version in enumerate(versions, start=1) if at in values[f"p99{i}"]}
    if serving not in sources and at in values["p990"]:
        sources[serving] = 0
    p99 = {version: values[f"p99{i}"][at] for version, i in sources.items()}
    bands = {version: _band(at, values, i, count("requests", i)) for version, i in sources.items()}
    known = {version: band for version, band in bands.items() if band is not None}
    return MinuteRow(at, counts, p99, known, any(_is_incomplete(at, values, i) for i in range(len(versions) + 1)))


def _is_incomplete(at: datetime, values: dict[str, dict[datetime, float]], index: int) -> bool:
    """Whether a minute has some of Lambda's own metrics and lacks others: each request gives all three."""
    published = [at in values[f"{name}{index}"] for name in ("requests", "errors", "p99")]
    return any(published) and not all(published)


def _band(
    at: datetime, values: dict[str, dict[datetime, float]], index: int, requests: int
) -> tuple[float, float] | None:
    """The p99's 95 % interval: the durations at the ranks that chance may have put it at, widened to those we read."""
    if requests < FEWEST_FOR_BAND:
        return None
    half = 1.96 * math.sqrt(0.99 * 0.01 / requests)
    low = [i for i, (rank, _) in enumerate(RANKS) if rank <= 0.99 - half]
    high = [i for i, (rank, _) in enumerate(RANKS) if rank >= min(1.0, 0.99 + half)]
    edges = [values[f"rank{i}x{index}"].get(at) for i in (low[-1], high[0])] if low else []
    return (edges[0], edges[1]) if len(edges) == 2 and edges[0] is not None and edges[1] is not None else None
