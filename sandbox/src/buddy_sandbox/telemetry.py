"""What Lambda tells CloudWatch about requests: metrics with Lambda's own dimensions, EMF metrics, log lines.

Serves one real invocation and a minute of simulated traffic alike. Never decides how a request ends.
"""

import json
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from buddy_sandbox.faults import APOLOGY, ERROR, TIMEOUT
from buddy_sandbox.logs import LogStore
from buddy_sandbox.metrics_store import Floats, MetricStore

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
        sets = [{"FunctionName": function}, {"FunctionName": function, "Resource": resource}]
        alias = resource.partition(":")[2]
        if alias and not alias.isdigit() and self._weighted(function, alias):
            sets.append({**sets[1], "ExecutedVersion": version})
        for dimensions in sets:
            self._store.add("AWS/Lambda", "Invocations", dimensions, times, 1.0, unit="Count")
            self._store.add("AWS/Lambda", "Errors", dimensions, times, failed, unit="Count")
            self._store.add("AWS/Lambda", "Duration", dimensions, times, durations_ms, unit="Milliseconds")

    def refused(self, function: str, resource: str, times: Floats) -> None:
        """Throttled requests: in neither Invocations nor Errors, and they ran on no version."""
        for dimensions in ({"FunctionName": function}, {"FunctionName": function, "Resource": resource}):
            self._store.add("AWS/Lambda", "Throttles", dimensions, times, 1.0, unit="Count")

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
    ) -> None:
        """One real invocation."""
        times = np.array([at])
        self.served(function, resource, version, times, np.array([duration_ms]), np.array([float(failed)]))
        group, stream = log_group(function), log_stream(version, at)
        report = report_line(request_id, duration_ms, memory_mb, init_ms)
        start, end = f"START RequestId: {request_id} Version: {version}", f"END RequestId: {request_id}"
        for line in (start, *lines, end, report):
            self._logs.add(group, stream, at, line)
        for line in lines:
            self._take_emf(line, at)

    def throttled(self, function: str, resource: str, at: float) -> None:
        """One real invocation that was throttled."""
        self.refused(function, resource, np.array([at]))

    def _take_emf(self, line: str, at: float) -> None:
        """Metrics from a line in CloudWatch's embedded metric format; any other line is just a line."""
        try:
            document = json.loads(line)
            directives = document["_aws"]["CloudWatchMetrics"]
        except (ValueError, TypeError, KeyError):
            return
        for directive in directives:
            for names in directive.get("Dimensions", [[]]):
                dimensions = {name: str(document[name]) for name in names}
                for metric in directive["Metrics"]:
                    value, unit = np.array([float(document[metric["Name"]])]), metric.get("Unit", "None")
                    where = (directive["Namespace"], metric["Name"], dimensions)
                    self._store.add(*where, np.array([at]), value, unit=unit)


def log_group(function: str) -> str:
    """The log group of a function."""
    return f"/aws/lambda/{function}"


def log_stream(version: str, at: float) -> str:
    """The stream that a version writes to on a day; one environment a version and day is as good as many."""
    day = np.datetime64(int(at), "s").astype("datetime64[D]").item()
    return f"{day:%Y/%m/%d}/[{version}]{int(at // 86400):032x}"


def report_line(request_id: str, duration_ms: float, memory_mb: int, init_ms: float | None) -> str:
    """The REPORT line that ends every invocation; a cold start's has an Init Duration."""
    init = "" if init_ms is None else f"\tInit Duration: {init_ms:.2f} ms"
    return (
        f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\t"
        f"Billed Duration: {-int(-duration_ms // 1)} ms\tMemory Size: {memory_mb} MB\t"
        f"Max Memory Used: {min(64, memory_mb)} MB{init}"
    )


def simulated_lines(
    request_id: str, version: str, duration_ms: float, init_ms: float | None, outcome: int, memory_mb: int
) -> Iterable[str]:
    """The lines that a simulated request would have logged."""
    yield f"START RequestId: {request_id} Version: {version}"
    if outcome == ERROR:
        yield f"[ERROR] InjectedError: the build's fault profile failed this request RequestId: {request_id}"
    elif outcome == TIMEOUT:
        yield f"{request_id} Task timed out after {duration_ms / 1000:.2f} seconds"
    elif outcome == APOLOGY:
        yield f"[WARNING] {request_id} apologised after InjectedApology"
    yield f"END RequestId: {request_id}"
    yield report_line(request_id, duration_ms, memory_mb, init_ms)
