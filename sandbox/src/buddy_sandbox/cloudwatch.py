"""CloudWatch's API: metrics in and out, and alarms.

Knows the API's rules: which periods, pages and limits, and what is refused. Never knows what the metrics mean, and
never delivers an alarm's notifications: the world does.
"""

import gzip
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from moto.core.model import OperationModel
from moto.core.request import Request

from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.alarms import Alarms, closed, invalid, opened, seconds, utc
from buddy_sandbox.metric_math import MathError, Sheet, Stored
from buddy_sandbox.metrics_store import BASIC, MINUTE_S, Metric, MetricStore, StatisticSet, UnknownStatistic
from buddy_sandbox.publication import Clock
from buddy_sandbox.wire import AwsError, Params, Service

DAY_S = 86_400.0
PAGE_POINTS = 100_800
PAGE_METRICS = 500
MAX_QUERIES = 500
MAX_STATISTICS_POINTS = 1_440
MAX_DATUMS = 1_000
MAX_DIMENSIONS = 30
MAX_VALUES = 150
OLDEST_PUT_S = 14 * DAY_S
NEWEST_PUT_S = 7_200.0
RETENTION = ((15 * DAY_S, 60), (63 * DAY_S, 300), (455 * DAY_S, 3600))
"""For how long points are kept, by the period at which they can still be read."""


class CloudWatch(Alarms, Service):
    """CloudWatch over a MetricStore.

    Attributes:
        outage: what reads of metrics do, for tests. 'error': InternalServiceFault. 'partial': PartialData with every
            second point. 'empty': no points. 'duplicated': each point twice. Alarms keep evaluating what is there.
    """

    name = "cloudwatch"

    def __init__(self, store: MetricStore, clock: Clock, region: str = "us-east-1", account: str = ACCOUNT) -> None:
        Service.__init__(self)
        Alarms.__init__(self, store, clock, f"arn:aws:cloudwatch:{region}:{account}:alarm:")
        self.outage: str | None = None

    def parse(self, request: Request) -> tuple[OperationModel, Params]:
        """Like any service's; clients compress PutMetricData when it is large."""
        if request.headers.get("Content-Encoding") == "gzip":
            plain = gzip.decompress(request.data)
            request = Request.from_primitives(request.method, request.url, dict(request.headers), plain)
        return super().parse(request)

    def get_metric_data(self, params: Params) -> Params:
        self._refuse_in_outage()
        queries, limit = params["MetricDataQueries"], params.get("MaxDatapoints", PAGE_POINTS)
        if len(queries) > MAX_QUERIES:
            raise invalid(f"The collection MetricDataQueries must not have a size greater than {MAX_QUERIES}.")
        if not 1 <= limit <= PAGE_POINTS:
            raise invalid(f"The parameter MaxDatapoints must be between 1 and {PAGE_POINTS}.")
        start, end = _range(params, "ValidationError")
        now, offset = opened(params, self.clock.now())
        ascending = params.get("ScanBy") == "TimestampAscending"
        results: list[Params] = []
        begin = 0
        for query, series in self._answers(queries, start, end, now):
            points = [each for each in self._points(series) if each[0] < end]
            points = points if ascending else points[::-1]
            part = points[max(0, offset - begin) : max(0, offset + limit - begin)]
            begin += len(points)
            partial = (bool(points) and begin > offset + limit) or self.outage == "partial"
            if part or offset == 0:
                results.append(
                    {
                        "Id": query["Id"],
                        "Label": label(query),
                        "Timestamps": [utc(at) for at, _ in part],
                        "Values": [value for _, value in part],
                        "StatusCode": "PartialData" if partial else "Complete",
                    }
                )
        more = closed(now, offset + limit) if begin > offset + limit else None
        return {"MetricDataResults": results, "Messages": [], "NextToken": more}

    def get_metric_statistics(self, params: Params) -> Params:
        self._refuse_in_outage()
        basic, extended = params.get("Statistics", []), params.get("ExtendedStatistics", [])
        if bool(basic) == bool(extended):
            raise AwsError("InvalidParameterCombination", "Specify either Statistics or ExtendedStatistics, not both.")
        if unknown := [each for each in basic if each not in BASIC]:
            raise invalid(f"The value {unknown[0]} for parameter Statistics is not supported.")
        start, end = _range(params, "InvalidParameterValue")
        if (asked := math.ceil((end - start) / params["Period"])) > MAX_STATISTICS_POINTS:
            exceeds = f"which exceeds the limit of {MAX_STATISTICS_POINTS}."
            advice = "You may reduce the datapoints requested by increasing Period, or decreasing the time range."
            message = f"You have requested up to {asked} datapoints, {exceeds} {advice}"
            raise AwsError("InvalidParameterCombination", message)
        datapoints: list[Params] = []
        metric = Metric.of(params)
        for unit in [params["Unit"]] if "Unit" in params else self.store.units(metric):
            found: dict[float, Params] = {}
            for name in [*basic, *extended]:
                stat = {"Metric": params, "Period": params["Period"], "Stat": name, "Unit": unit}
                for at, value in self._points(self._stored(stat, start, end, self.clock.now())):
                    point = found.setdefault(at, {"Timestamp": utc(at), "Unit": unit})
                    (point if name in BASIC else point.setdefault("ExtendedStatistics", {}))[name] = value
            datapoints += [point for at, point in found.items() if at < end]
        # CloudWatch promises no order here; the newest first catches whoever relies on one.
        return {"Label": params["MetricName"], "Datapoints": datapoints[::-1]}

    def list_metrics(self, params: Params) -> Params:
        self._refuse_in_outage()
        now, offset = opened(params, self.clock.now())
        wanted = [(each["Name"], each.get("Value")) for each in params.get("Dimensions", [])]
        since = now - 3 * 3600 if params.get("RecentlyActive") else -math.inf
        found = [
            metric
            for metric in self.store.list(since, dict(wanted).get("FunctionName"))
            if params.get("Namespace") in (None, metric.namespace)
            and params.get("MetricName") in (None, metric.name)
            and all(any(n == name and value in (None, v) for n, v in metric.dimensions) for name, value in wanted)
        ]
        page = [
            {
                "Namespace": metric.namespace,
                "MetricName": metric.name,
                "Dimensions": [{"Name": name, "Value": value} for name, value in sorted(metric.dimensions)],
            }
            for metric in found[offset : offset + PAGE_METRICS]
        ]
        more = closed(now, offset + PAGE_METRICS) if len(found) > offset + PAGE_METRICS else None
        return {"Metrics": page, "NextToken": more}

    def put_metric_data(self, params: Params) -> None:
        namespace, datums, now = params["Namespace"], params.get("MetricData", []), self.clock.now()
        if namespace.startswith(("AWS/", ":")):
            raise bad_value(f"The value {namespace} for parameter Namespace is invalid.")
        if len(datums) > MAX_DATUMS or params.get("EntityMetricData"):
            raise invalid(f"The collection MetricData must have at most {MAX_DATUMS} members, and no entities.")
        for number, datum in enumerate(datums, 1):
            _check_datum(datum, now, f"MetricData.member.{number}")
        for datum in datums:
            metric, unit = Metric.of({**datum, "Namespace": namespace}), datum.get("Unit", "None")
            time = seconds(datum["Timestamp"]) if "Timestamp" in datum else now
            if published := datum.get("StatisticValues"):
                values = StatisticSet(*(published[each] for each in ("SampleCount", "Sum", "Minimum", "Maximum")))
                self.store.add_set(metric, time, values, unit, now)
                continue
            seen = np.array(datum.get("Values") or [datum["Value"]], dtype=np.float64)
            counts = np.array(datum["Counts"], dtype=np.float64) if datum.get("Counts") else None
            where = (namespace, metric.name, dict(metric.dimensions), np.full(len(seen), time), seen)
            self.store.add(*where, counts=counts, unit=unit, arrived=now)

    def _answers(self, queries: Sequence[Params], start: float, end: float, now: float) -> list[tuple[Params, Stored]]:
        """What the queries return, in their order; an expression that makes an array returns several."""
        try:
            sheet = Sheet(queries, lambda stat: self._stored(stat, start, end, now))
            shown = [query for query in queries if query.get("ReturnData", True)]
            return [(query, series) for query in shown for series in sheet.series(query["Id"])]
        except MathError as error:
            raise invalid(str(error)) from None

    def _stored(self, stat: Mapping[str, Any], start: float, end: float, now: float) -> Stored:
        """A MetricStat's series over the periods that a time range touches, as visible at ``now``."""
        period_s = stat["Period"]
        if period_s <= 0 or period_s % MINUTE_S:
            raise bad_value(f"Period must be a multiple of 60 (the sandbox has no high resolution): {period_s}")
        step = next((step for age, step in RETENTION if now - start <= age), RETENTION[-1][1])
        first = max(start, now - RETENTION[-1][0]) // step * step // period_s * period_s
        last = min(end, now + NEWEST_PUT_S + period_s)
        periods = 0 if period_s % step else max(0, math.ceil((last - first) / period_s))
        try:
            metric = Metric.of(stat["Metric"])
            values = self.store.read(metric, stat["Stat"], first, periods, period_s, unit=stat.get("Unit"), now=now)
        except UnknownStatistic as error:
            raise invalid(f"The value {error} for parameter Stat is not a supported statistic.") from None
        return Stored(first, period_s, values)

    def _points(self, series: Stored) -> list[tuple[float, float]]:
        """A series' points, oldest first, as the present outage lets them through."""
        there = np.flatnonzero(~np.isnan(series.values))
        points = [(series.start + at * series.period_s, float(series.values[at])) for at in there.tolist()]
        if self.outage == "duplicated":
            return [point for point in points for _ in range(2)]
        return {"empty": [], "partial": points[::2]}.get(self.outage or "", points)

    def _refuse_in_outage(self) -> None:
        if self.outage == "error":
            raise AwsError("InternalServiceFault", "Request processing has failed because of an unknown error.")


def bad_value(message: str) -> AwsError:
    """A parameter whose value CloudWatch does not take."""
    return AwsError("InvalidParameterValue", message)


def label(query: Mapping[str, Any]) -> str:
    """A result's label. Refuses CloudWatch's dynamic labels, which the sandbox does not fill in."""
    own = query.get("Label") or (query["MetricStat"]["Metric"]["MetricName"] if "MetricStat" in query else query["Id"])
    if "${" in own:
        raise invalid(f"the sandbox has no dynamic labels: {own}")
    return str(own)


def _range(params: Params, code: str) -> tuple[float, float]:
    """The time range; ``code`` is the error's for an empty one."""
    start, end = seconds(params["StartTime"]), seconds(params["EndTime"])
    if start >= end:
        raise AwsError(code, "The parameter StartTime must be less than the parameter EndTime.")
    return start, end


def _check_datum(datum: Params, now: float, name: str) -> None:
    """Raises AwsError for a datum that PutMetricData refuses; ``name`` is what AWS calls it."""
    values, counts = datum.get("Values", []), datum.get("Counts", [])
    if len(datum.get("Dimensions", [])) > MAX_DIMENSIONS:
        raise invalid(f"The collection MetricData.Dimensions must not have a size greater than {MAX_DIMENSIONS}.")
    for other in ("Values", "StatisticValues"):
        if "Value" in datum and other in datum:
            both = f"The parameters {name}.Value and {name}.{other} are mutually exclusive"
            raise AwsError("InvalidParameterCombination", f"{both} and you have specified both.")
    if counts and len(counts) != len(values):
        raise bad_value(f"The parameters {name}.Values and {name}.Counts must be of the same size.")
    if sum(each in datum for each in ("Value", "Values", "StatisticValues")) != 1:
        raise AwsError("InvalidParameterCombination", "Specify exactly one of Value, Values and StatisticValues.")
    if len(values) > MAX_VALUES or any(count <= 0 for count in counts):
        raise bad_value(f"Values and Counts must have at most {MAX_VALUES} members, and Counts be positive.")
    published = datum.get("StatisticValues", {"SampleCount": 1.0})
    if published["SampleCount"] <= 0:
        raise bad_value("SampleCount must be positive.")
    given = [*values, *published.values(), datum.get("Value", 0.0)]
    if not all(math.isfinite(value) and abs(value) <= 2.0**360 for value in given):
        raise bad_value("The values must be finite and within -2^360 and 2^360.")
    age = now - seconds(datum["Timestamp"]) if "Timestamp" in datum else 0.0
    if not -NEWEST_PUT_S <= age <= OLDEST_PUT_S:
        raise bad_value("The parameter Timestamp must be within the past two weeks and the next two hours.")
