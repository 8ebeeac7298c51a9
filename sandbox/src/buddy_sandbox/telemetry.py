"""What Lambda tells CloudWatch about requests: metrics with Lambda's own dimensions, EMF metrics, log lines.

Serves one real invocation and a minute of simulated traffic alike. Never decides how a request ends.
"""

import json
from collections.abc import Callable, Mapping

import numpy as np

from buddy_sandbox.log_lines import LogConfig, stream
from buddy_sandbox.logs import LogSource, LogStore
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
        log: LogConfig,
        logged: list[str],
    ) -> None:
        """One real invocation."""
        times = np.array([at])
        self.served(function, resource, version, times, np.array([duration_ms]), np.array([float(failed)]))
        for line in logged:
            self._logs.add(log.group, stream(log, function, version, at), at, line)
        for line in lines:
            self._take_emf(line, at)

    def logs_of(self, group: str, source: LogSource) -> None:
        """Let ``source`` say what a group holds of simulated requests."""
        self._logs.add_source(group, source)

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
