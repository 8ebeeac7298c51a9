"""What Lambda tells CloudWatch about requests: metrics with Lambda's own dimensions, EMF metrics, log lines.

Serves one real invocation and a minute of simulated traffic alike. Never decides how a request ends.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from buddy_sandbox.log_lines import Invocation, LogConfig, stream
from buddy_sandbox.logs import LogSource, LogStore
from buddy_sandbox.metrics_store import Floats, MetricStore
from buddy_sandbox.sources import Count

SKILL_NAMESPACE = "Buddy"


class Telemetry:
    """Writes metrics and logs of requests.

    Args:
        store: takes the metrics.
        logs: takes the lines of real invocations.
        weighted: whether an alias (function, name) has a second version now. Without one, Lambda may leave the
            ExecutedVersion dimension out, and so do we: the harder case is the one to be ready for.
    """

    def __init__(self, store: MetricStore, logs: LogStore, weighted: Callable[[str, str], bool]) -> None:
        self._store, self._logs, self._weighted = store, logs, weighted

    def served(
        self, function: str, resource: str, version: str, times: Floats, durations_ms: Floats, failed: Floats
    ) -> None:
        """Metrics of requests that ran: Invocations, Errors (0 or 1 each) and Duration."""
        for dimensions in self._sets(function, resource, version):
            self._store.add("AWS/Lambda", "Invocations", dimensions, times, 1.0, unit="Count")
            self._store.add("AWS/Lambda", "Errors", dimensions, times, failed, unit="Count")
            self._store.add("AWS/Lambda", "Duration", dimensions, times, durations_ms, unit="Milliseconds")

    def read(self, function: str, resource: str, version: str, times: Floats, ages_ms: Floats) -> None:
        """IteratorAge of batches from a stream: how long the last record of each had waited."""
        for dimensions in self._sets(function, resource, version):
            self._store.add("AWS/Lambda", "IteratorAge", dimensions, times, ages_ms, unit="Milliseconds")

    def told(self, counts: Sequence[Count], at: float) -> None:
        """What a queue, a stream or Lambda's own queue counts at the end of a minute."""
        for each in counts:
            where = (each.namespace, each.metric, each.dimensions)
            self._store.add(*where, np.array([at]), float(each.value), unit=each.unit)

    def _sets(self, function: str, resource: str, version: str) -> list[dict[str, str]]:
        """The dimensions of a metric of Lambda."""
        sets = [{"FunctionName": function}, {"FunctionName": function, "Resource": resource}]
        alias = resource.partition(":")[2]
        if alias and not alias.isdigit() and self._weighted(function, alias):
            sets.append({**sets[1], "ExecutedVersion": version})
        return sets

    def refused(self, function: str, resource: str, times: Floats) -> None:
        """Throttled requests: in neither Invocations nor Errors, and they ran on no version."""
        for dimensions in ({"FunctionName": function}, {"FunctionName": function, "Resource": resource}):
            self._store.add("AWS/Lambda", "Throttles", dimensions, times, 1.0, unit="Count")

    def answered(self, function: str, resource: str, times: Floats, latencies_ms: Floats, statuses: Floats) -> None:
        """Metrics of a function URL: UrlRequestCount, Url4xxCount, Url5xxCount (0 or 1 each) and UrlRequestLatency.

        Without ExecutedVersion: that is "primarily" for $LATEST, and to do without it is the harder case.

        Source: Lambda developer guide, 'Monitoring Lambda function URLs'.
        """
        for dimensions in ({"FunctionName": function}, {"FunctionName": function, "Resource": resource}):
            self._store.add("AWS/Lambda", "UrlRequestCount", dimensions, times, 1.0, unit="Count")
            self._store.add("AWS/Lambda", "UrlRequestLatency", dimensions, times, latencies_ms, unit="Milliseconds")
            for name, first in (("Url4xxCount", 400), ("Url5xxCount", 500)):
                counts = ((statuses >= first) & (statuses < first + 100)).astype(np.float64)
                self._store.add("AWS/Lambda", name, dimensions, times, counts, unit="Count")

    def counted(self, function: str, resource: str, version: str, times: Floats, metrics: Mapping[str, Floats]) -> None:
        """The skill's own metrics of simulated requests, as its EMF line would have given them."""
        whole = {"FunctionName": function, "Resource": resource}
        for dimensions in (whole, {**whole, "ExecutedVersion": version}):
            for name, values in metrics.items():
                self._store.add(SKILL_NAMESPACE, name, dimensions, times, values, unit="Count")

    def invoked(
        self,
        function: str,
        resource: str,
        version: str,
        at: float,
        duration_ms: float,
        init_ms: float | None,
        failed: bool,
        request_id: str,
        memory_mb: int,
        lines: list[str],
        log: LogConfig,
        logged: list[str],
    ) -> None:
        """One real invocation."""
        times = np.array([at])
        self.served(function, resource, version, times, np.array([duration_ms]), np.array([float(failed)]))
        for line in logged:
            self._logs.add(log.group, stream(log, function, version, at), at, line)
        self.printed(times, [lines])

    def logs_of(self, group: str, source: LogSource) -> None:
        """Let ``source`` say what a group holds of simulated requests."""
        self._logs.add_source(group, source)

    def apart(self) -> tuple["Telemetry", MetricStore]:
        """One that keeps its metrics by itself, of aliases without weights; and where it keeps them."""
        store = MetricStore(self._store.clock)
        return Telemetry(store, LogStore(self._logs.clock), lambda function, alias: False), store

    def made_of(self, function: str, source: Callable[[float, float], Iterable[MetricStore]]) -> None:
        """Let ``source`` make a function's metrics of a time range, when they are read."""
        self._store.sources[function] = source

    def throttled(self, function: str, resource: str, at: float) -> None:
        """One real invocation that was throttled."""
        self.refused(function, resource, np.array([at]))

    def printed(self, times: Floats, lines: Sequence[Sequence[str]]) -> None:
        """The metrics in what requests printed, in CloudWatch's embedded metric format; ``lines`` are of each."""
        found: dict[_Series, list[tuple[float, float]]] = {}
        for at, own in zip(times.tolist(), lines, strict=True):
            for line in own:
                for series, value in _emf_values(line):
                    found.setdefault(series, []).append((at, value))
        for series, points in found.items():
            at, values = np.array(points).T
            where = (series.namespace, series.name, dict(series.dimensions))
            self._store.add(*where, at, values, unit=series.unit)


def embedded_metrics(done: Invocation, counts: Mapping[str, int]) -> str:
    """The skill's line of a simulated request, in CloudWatch's embedded metric format."""
    names = ["FunctionName", "Resource", "ExecutedVersion"]
    directive = {
        "Namespace": SKILL_NAMESPACE,
        "Dimensions": [names[:2], names],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in counts],
    }
    return json.dumps(
        {
            "_aws": {"Timestamp": round(done.begun * 1000), "CloudWatchMetrics": [directive]},
            "FunctionName": done.function,
            "Resource": done.arn.partition(":function:")[2],
            "ExecutedVersion": done.version,
            "requestId": done.request_id,
            **counts,
        }
    )


class _Series(NamedTuple):
    """Which metric a value in a line is of."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    unit: str


@lru_cache(maxsize=4096)
def _emf_values(line: str) -> tuple[tuple[_Series, float], ...]:
    """The metrics of one line; any line of another format is just a line.

    A line of Node's console has time, request id and level before it.

    Source: CloudWatch user guide, 'Specification: Embedded metric format'; a member may hold an array of values.
    """
    if '"_aws"' not in line:
        return ()
    found: list[tuple[_Series, float]] = []
    try:
        document = json.loads(line[line.index("{") :])
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive.get("Dimensions", [[]]):
                dimensions = tuple((name, str(document[name])) for name in names)
                for metric in directive["Metrics"]:
                    series = _Series(directive["Namespace"], metric["Name"], dimensions, metric.get("Unit", "None"))
                    values = document[metric["Name"]]
                    found += [(series, float(value)) for value in (values if isinstance(values, list) else [values])]
    except (ValueError, TypeError, KeyError):
        return ()
    return tuple(found)
