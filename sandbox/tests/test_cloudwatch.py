"""The sandbox's CloudWatch keeps AWS's rules for metrics: one test each, through boto3."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from serving import START, Crank, client_of

from buddy_sandbox.cloudwatch import CloudWatch
from buddy_sandbox.metrics_store import MetricStore

FUNCTION = {"FunctionName": "f"}
LIVE = {**FUNCTION, "Resource": "f:live"}


@dataclass
class Sandbox:
    """CloudWatch with ten minutes of a function's traffic, and a client."""

    client: Any
    service: CloudWatch
    store: MetricStore
    clock: Crank

    def data(self, *queries: dict[str, Any], minutes: float = 10, **params: Any) -> list[dict[str, Any]]:
        """The results of GetMetricData over the last minutes before START."""
        asked = {"StartTime": START - 60 * minutes, "EndTime": START, "ScanBy": "TimestampAscending", **params}
        return list(self.client.get_metric_data(MetricDataQueries=list(queries), **asked)["MetricDataResults"])


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One for each test."""
    clock = Crank(START + 60)
    store = MetricStore(clock)
    service = CloudWatch(store, clock)
    times = START - 600 + np.arange(600.0)
    store.add("AWS/Lambda", "Invocations", FUNCTION, times, 1.0, unit="Count")
    store.add("AWS/Lambda", "Errors", FUNCTION, times, (np.arange(600) % 50 == 0) * 1.0, unit="Count")
    store.add("AWS/Lambda", "Duration", FUNCTION, times, np.arange(600.0) % 60, unit="Milliseconds")
    with client_of(service) as client:
        yield Sandbox(client, service, store, clock)


def query(query_id: str, name: str, stat: str = "Sum", period: int = 60, **more: Any) -> dict[str, Any]:
    """A query of a metric of the function."""
    dimensions = [{"Name": key, "Value": value} for key, value in more.pop("dimensions", FUNCTION).items()]
    metric = {"Namespace": "AWS/Lambda", "MetricName": name, "Dimensions": dimensions}
    unit = {"Unit": more.pop("unit")} if "unit" in more else {}
    return {"Id": query_id, "MetricStat": {"Metric": metric, "Period": period, "Stat": stat, **unit}, **more}


def math(query_id: str, expression: str, **more: Any) -> dict[str, Any]:
    """A query of an expression."""
    return {"Id": query_id, "Expression": expression, **more}


def code(call: Any, *args: Any, **params: Any) -> str:
    """The error code that a call is refused with."""
    with pytest.raises(ClientError) as refused:
        call(*args, **params)
    return str(refused.value.response["Error"]["Code"])


def minutes(result: dict[str, Any]) -> list[float]:
    """The points' times, in minutes from START."""
    return [(each.timestamp() - START) / 60 for each in result["Timestamps"]]


class TestGetMetricData:
    """GetMetricData."""

    def test_points_are_periods_with_their_begin(self, sandbox: Sandbox) -> None:
        """A point is stamped with its period's begin; EndTime is excluded. Source: API reference, GetMetricData."""
        (result,) = sandbox.data(query("n", "Invocations"))
        assert minutes(result) == list(range(-10, 0))
        assert result["Values"] == [60.0] * 10
        assert (result["Label"], result["StatusCode"]) == ("Invocations", "Complete")

    def test_newest_first_by_default(self, sandbox: Sandbox) -> None:
        """ScanBy defaults to TimestampDescending. Source: API reference, GetMetricData."""
        queries = [query("n", "Invocations")]
        (result,) = sandbox.client.get_metric_data(MetricDataQueries=queries, StartTime=START - 180, EndTime=START)[
            "MetricDataResults"
        ]
        assert minutes(result) == [-1, -2, -3]

    def test_start_is_rounded_down_to_the_minute(self, sandbox: Sandbox) -> None:
        """A StartTime less than 15 days ago is rounded down to the minute. Source: API reference, GetMetricData."""
        (result,) = sandbox.data(query("n", "Invocations"), StartTime=START - 150.5)
        assert minutes(result) == [-3, -2, -1]
        assert result["Values"] == [60.0] * 3

    def test_old_data_needs_a_long_period(self, sandbox: Sandbox) -> None:
        """Data older than 15 days can be read at 300 s only. Source: API reference, GetMetricData."""
        sandbox.clock.time = START + 20 * 86_400
        coarse, fine = sandbox.data(query("a", "Invocations", period=300), query("b", "Invocations"))
        assert (coarse["Values"], fine["Values"]) == ([300.0, 300.0], [])

    def test_periods_are_aligned_to_the_clock(self, sandbox: Sandbox) -> None:
        """Five-minute periods begin at multiples of five minutes. Source: facts/sandbox.md, what to add, 3."""
        (result,) = sandbox.data(query("n", "Invocations", period=300), StartTime=START - 480)
        assert (minutes(result), result["Values"]) == ([-10, -5], [300.0, 300.0])

    def test_dimensions_match_exactly(self, sandbox: Sandbox) -> None:
        """A metric with other dimensions is another metric; their order is nothing. Source: API reference, Metric."""
        sandbox.store.add("AWS/Lambda", "Invocations", LIVE, np.array([START - 60]), 5.0)
        both, one, none = sandbox.data(
            query("a", "Invocations", dimensions=dict(reversed(LIVE.items()))),
            query("b", "Invocations", dimensions=FUNCTION),
            query("c", "Invocations", dimensions={}),
        )
        assert (both["Values"], one["Values"][-1], none["Values"]) == ([5.0], 60.0, [])

    def test_namespace_matters(self, sandbox: Sandbox) -> None:
        """The same name in another namespace is another metric. Source: API reference, Metric."""
        sandbox.store.add("Buddy", "Invocations", FUNCTION, np.array([START - 60]), 7.0)
        assert sandbox.data(query("n", "Invocations"))[0]["Values"][-1] == 60.0

    def test_extended_statistics(self, sandbox: Sandbox) -> None:
        """Stat takes percentiles, trimmed statistics and ranks. Source: user guide, statistics definitions."""
        stats = {"p99": 59, "TC(50:)": 9, "PR(:29)": 50, "tm50": 14.5}
        results = sandbox.data(*(query(f"q{at}", "Duration", stat) for at, stat in enumerate(stats)), minutes=1)
        assert [result["Values"] for result in results] == [[value] for value in stats.values()]

    def test_unknown_statistics_are_refused(self, sandbox: Sandbox) -> None:
        """A statistic that does not exist is an error, not an average. Source: API reference, MetricStat."""
        assert code(sandbox.data, query("a", "Duration", "p200")) == "ValidationError"

    def test_unit_filters(self, sandbox: Sandbox) -> None:
        """A Unit that does not match the data gives no data. Source: API reference, MetricStat."""
        right, wrong = sandbox.data(
            query("a", "Invocations", unit="Count"), query("b", "Invocations", unit="Seconds"), minutes=1
        )
        assert (right["Values"], wrong["Values"]) == ([60.0], [])

    def test_only_what_is_asked_for_is_returned(self, sandbox: Sandbox) -> None:
        """ReturnData false computes without returning. Source: API reference, MetricDataQuery."""
        results = sandbox.data(query("a", "Invocations", ReturnData=False), math("b", "a * 2", Label="twice"))
        assert [(result["Id"], result["Label"]) for result in results] == [("b", "twice")]

    def test_pages(self, sandbox: Sandbox) -> None:
        """MaxDatapoints cuts an answer into pages that NextToken joins. Source: API reference, GetMetricData."""
        asked = {
            "MetricDataQueries": [query("a", "Invocations"), query("none", "Nothing"), query("b", "Errors")],
            "StartTime": START - 600,
            "EndTime": START,
            "MaxDatapoints": 7,
        }
        first = sandbox.client.get_metric_data(**asked)
        assert [result["StatusCode"] for result in first["MetricDataResults"]] == [
            "PartialData",
            "Complete",
            "PartialData",
        ]
        joined: dict[str, list[float]] = {}
        for page in sandbox.client.get_paginator("get_metric_data").paginate(**asked):
            assert sum(len(result["Values"]) for result in page["MetricDataResults"]) <= 7
            for result in page["MetricDataResults"]:
                joined.setdefault(result["Id"], []).extend(result["Values"])
        whole = sandbox.client.get_metric_data(**{**asked, "MaxDatapoints": 100_800})
        assert joined == {result["Id"]: result["Values"] for result in whole["MetricDataResults"]}
        assert "NextToken" not in whole

    def test_a_wrong_token_is_refused(self, sandbox: Sandbox) -> None:
        """A token that CloudWatch did not give is refused. Source: API reference, GetMetricData, InvalidNextToken."""
        assert code(sandbox.data, query("a", "Invocations"), NextToken="rubbish") == "InvalidNextToken"

    def test_limits(self, sandbox: Sandbox) -> None:
        """At most 500 queries, 100,800 points and unique Ids; StartTime before EndTime. Source: facts/aws.md, 4."""
        many = [query(f"q{at}", "Invocations") for at in range(501)]
        assert code(sandbox.data, *many) == "ValidationError"
        assert len(sandbox.data(*many[:500], minutes=1)) == 500
        assert code(sandbox.data, many[0], many[0]) == "ValidationError"
        assert code(sandbox.data, many[0], MaxDatapoints=100_801) == "ValidationError"
        assert code(sandbox.data, many[0], StartTime=START, EndTime=START) == "ValidationError"

    @pytest.mark.parametrize(
        "bad",
        [
            [query("Upper", "Errors")],
            [{"Id": "a"}],
            [{**query("a", "Errors"), "Expression": "1"}],
            [query("a", "Errors", Label="${AVG}")],
            [query("a", "Errors", ReturnData=False), query("b", "Errors", period=300), math("c", "a + b")],
        ],
    )
    def test_queries_that_make_no_sense_are_refused(self, sandbox: Sandbox, bad: list[dict[str, Any]]) -> None:
        """Ids begin in lower case, and are a metric or an expression. Source: API reference, MetricDataQuery."""
        assert code(sandbox.data, *bad) == "ValidationError"

    def test_periods_are_whole_minutes(self, sandbox: Sandbox) -> None:
        """A metric of regular resolution has periods of multiples of 60 s. Source: API reference, MetricStat."""
        assert code(sandbox.data, query("a", "Errors", period=90)) == "InvalidParameterValue"

    def test_the_latest_minute_grows(self, sandbox: Sandbox) -> None:
        """Data is published late, so that the latest minute may be incomplete. Source: facts/aws.md, 3."""
        for passed, expected in ((0, []), (30, [30.0]), (60, [60.0])):
            sandbox.clock.time = START - 0.5 + passed
            (result,) = sandbox.data(query("n", "Invocations"), minutes=1)
            assert result["Values"] == expected

    def test_a_naive_time_is_utc(self, sandbox: Sandbox) -> None:
        """A timestamp without a zone is UTC. Source: API reference, GetMetricData."""
        end = datetime.fromtimestamp(START, UTC)
        (result,) = sandbox.data(query("n", "Invocations"), EndTime=end.replace(tzinfo=None), minutes=2)
        assert minutes(result) == [-2, -1]


class TestOutage:
    """Reads while ``outage`` is set."""

    def test_error(self, sandbox: Sandbox) -> None:
        """An outage answers InternalServiceFault with status 500. Source: API reference, common errors."""
        sandbox.service.outage = "error"
        with pytest.raises(ClientError) as refused:
            sandbox.data(query("n", "Invocations"))
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert refused.value.response["Error"]["Code"] == "InternalServiceError"

    def test_partial(self, sandbox: Sandbox) -> None:
        """Incomplete data say PartialData. Source: API reference, MetricDataResult."""
        sandbox.service.outage = "partial"
        (result,) = sandbox.data(query("n", "Invocations"))
        assert (len(result["Values"]), result["StatusCode"]) == (5, "PartialData")

    def test_empty(self, sandbox: Sandbox) -> None:
        """A complete answer may be empty all the same. Source: API reference, MetricDataResult."""
        sandbox.service.outage = "empty"
        (result,) = sandbox.data(query("n", "Invocations"))
        assert (result["Values"], result["StatusCode"]) == ([], "Complete")


class TestGetMetricStatistics:
    """GetMetricStatistics."""

    ASKED: dict[str, Any] = {  # noqa: RUF012
        "Namespace": "AWS/Lambda",
        "MetricName": "Duration",
        "Dimensions": [{"Name": "FunctionName", "Value": "f"}],
        "StartTime": START - 120,
        "EndTime": START,
        "Period": 60,
    }

    def test_several_statistics_at_once(self, sandbox: Sandbox) -> None:
        """Each datapoint has all the statistics asked for, and its unit. Source: API reference, GetMetricStatistics."""
        points = sandbox.client.get_metric_statistics(**self.ASKED, Statistics=["Sum", "Maximum"])["Datapoints"]
        point = min(points, key=lambda each: each["Timestamp"])
        assert point.pop("Timestamp").timestamp() == START - 120
        assert point == {"Sum": 1770.0, "Maximum": 59.0, "Unit": "Milliseconds"}

    def test_extended_statistics(self, sandbox: Sandbox) -> None:
        """Percentiles come in ExtendedStatistics. Source: API reference, GetMetricStatistics."""
        points = sandbox.client.get_metric_statistics(**self.ASKED, ExtendedStatistics=["p50", "p99"])["Datapoints"]
        assert [point["ExtendedStatistics"] for point in points] == [{"p50": 29.0, "p99": 59.0}] * 2

    def test_one_kind_of_statistics(self, sandbox: Sandbox) -> None:
        """Either Statistics or ExtendedStatistics. Source: API reference, GetMetricStatistics."""
        call = sandbox.client.get_metric_statistics
        assert code(call, **self.ASKED) == "InvalidParameterCombination"
        both = {"Statistics": ["Sum"], "ExtendedStatistics": ["p50"]}
        assert code(call, **self.ASKED, **both) == "InvalidParameterCombination"

    def test_at_most_1440_points(self, sandbox: Sandbox) -> None:
        """A call returns at most 1,440 datapoints. Source: API reference, GetMetricStatistics."""
        asked = {**self.ASKED, "StartTime": START - 1_441 * 60, "Statistics": ["Sum"]}
        assert code(sandbox.client.get_metric_statistics, **asked) == "InvalidParameterCombination"


class TestListMetrics:
    """ListMetrics."""

    def test_filters(self, sandbox: Sandbox) -> None:
        """Filters are exact; a dimension's name alone matches any value. Source: API reference, ListMetrics."""
        sandbox.store.add("AWS/Lambda", "Errors", LIVE, np.array([START]), 0.0)

        def found(*dimensions: dict[str, str], **params: Any) -> list[tuple[str, int]]:
            metrics = sandbox.client.list_metrics(Dimensions=list(dimensions), **params)["Metrics"]
            return [(metric["MetricName"], len(metric["Dimensions"])) for metric in metrics]

        assert found() == [("Duration", 1), ("Errors", 1), ("Errors", 2), ("Invocations", 1)]
        assert found(MetricName="Errors") == [("Errors", 1), ("Errors", 2)]
        assert found({"Name": "Resource"}) == [("Errors", 2)]
        assert found({"Name": "Resource", "Value": "f:live"}, {"Name": "FunctionName"}) == [("Errors", 2)]
        assert found({"Name": "Resource", "Value": "f"}) == []
        assert found(Namespace="AWS") == []

    def test_pages_of_500(self, sandbox: Sandbox) -> None:
        """A page has up to 500 metrics. Source: API reference, ListMetrics."""
        for at in range(600):
            sandbox.store.add("Many", f"m{at:03d}", {}, np.array([START]), 1.0)
        pages = list(sandbox.client.get_paginator("list_metrics").paginate(Namespace="Many"))
        assert [len(page["Metrics"]) for page in pages] == [500, 100]

    def test_recently_active(self, sandbox: Sandbox) -> None:
        """RecentlyActive leaves out what had no data for three hours. Source: API reference, ListMetrics."""
        sandbox.clock.time = START + 4 * 3_600
        sandbox.store.add("AWS/Lambda", "Errors", LIVE, np.array([START + 3_600]), 0.0)
        assert len(sandbox.client.list_metrics(RecentlyActive="PT3H")["Metrics"]) == 1


class TestPutMetricData:
    """PutMetricData."""

    def put(self, sandbox: Sandbox, *datums: dict[str, Any], namespace: str = "Buddy") -> None:
        sandbox.client.put_metric_data(Namespace=namespace, MetricData=[{"MetricName": "m", **each} for each in datums])

    def read(self, sandbox: Sandbox, *stats: str, begin: float = START + 60) -> list[float]:
        sandbox.clock.time += 120
        metric = {"Namespace": "Buddy", "MetricName": "m"}
        queries = [
            {"Id": f"q{at}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": stat}}
            for at, stat in enumerate(stats)
        ]
        return [r["Values"][0] for r in sandbox.data(*queries, StartTime=begin, EndTime=begin + 60)]

    def test_values_and_counts(self, sandbox: Sandbox) -> None:
        """Values with Counts are that many samples each. Source: API reference, MetricDatum."""
        self.put(sandbox, {"Values": [1.0, 5.0], "Counts": [9.0, 1.0]})
        assert self.read(sandbox, "SampleCount", "Sum", "p90", "p100") == [10, 14, 1, 5]

    def test_statistic_sets(self, sandbox: Sandbox) -> None:
        """StatisticValues are samples published as an aggregate. Source: API reference, StatisticSet."""
        published = {"SampleCount": 4.0, "Sum": 10.0, "Minimum": 1.0, "Maximum": 6.0}
        self.put(sandbox, {"StatisticValues": published})
        assert self.read(sandbox, *published) == list(published.values())

    def test_many_datums_travel_compressed(self, sandbox: Sandbox) -> None:
        """Up to 1,000 datums in a request, which clients compress. Source: API reference, PutMetricData."""
        self.put(sandbox, *({"Value": float(at)} for at in range(1_000)))
        assert self.read(sandbox, "SampleCount", "Maximum") == [1_000, 999]

    def test_old_data_are_visible_from_their_arrival(self, sandbox: Sandbox) -> None:
        """Data of the past can be read soon after they were put. Source: API reference, PutMetricData."""
        self.put(sandbox, {"Value": 3.0, "Timestamp": START - 3_600})
        assert self.read(sandbox, "Sum", begin=START - 3_600) == [3.0]

    def test_the_namespace_of_aws_is_its_own(self, sandbox: Sandbox) -> None:
        """Clients cannot put into AWS/ namespaces. Source: API reference, PutMetricData."""
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            self.put(sandbox, {"Value": 1.0}, namespace="AWS/Lambda")

    @pytest.mark.parametrize(
        "bad",
        [
            {"Value": 1.0, "Timestamp": START - 15 * 86_400},
            {"Value": 1.0, "Timestamp": START + 3 * 3_600},
            {"Value": 1.0, "Values": [1.0]},
            {},
            {"Values": [1.0, 2.0], "Counts": [1.0]},
            {"Values": [float(at) for at in range(151)]},
            {"Value": float("nan")},
            {"StatisticValues": {"SampleCount": 0.0, "Sum": 0.0, "Minimum": 0.0, "Maximum": 0.0}},
            {"Value": 1.0, "Dimensions": [{"Name": f"d{at}", "Value": "v"} for at in range(31)]},
        ],
    )
    def test_datums_that_aws_refuses(self, sandbox: Sandbox, bad: dict[str, Any]) -> None:
        """Two weeks back, two hours ahead, 30 dimensions, 150 finite values. Source: API reference, MetricDatum."""
        with pytest.raises(ClientError):
            self.put(sandbox, {"Value": 1.0}, bad)
        sandbox.clock.time += 120
        assert sandbox.client.list_metrics(Namespace="Buddy")["Metrics"] == []

    def test_at_most_1000_datums(self, sandbox: Sandbox) -> None:
        """A request has at most 1,000 datums. Source: API reference, PutMetricData."""
        with pytest.raises(ClientError, match="ValidationError"):
            self.put(sandbox, *({"Value": 1.0} for _ in range(1_001)))
