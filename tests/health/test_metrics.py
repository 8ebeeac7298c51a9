"""CloudWatch to counts: exactly what the sandbox served, and nothing at all where CloudWatch did not answer."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import InvalidInput
from buddy_ops.health import alarms, metrics
from buddy_ops.health.counts import NOTHING_KNOWN, Counts
from buddy_ops.health.metrics import MINUTE, MetricsReading, MinuteRow
from buddy_sandbox import builds
from buddy_sandbox.faults import FaultProfile
from tests.conftest import Situation, intercept

Bring = Callable[..., Situation]
MIXED = FaultProfile("mixed", error_rate=0.05, apology_rate=0.05, slow_rate=0.05, slow_ms=6500.0)
LATE = timedelta(minutes=2)


@pytest.fixture
def bring(situation: Bring) -> Bring:
    """A situation without history, at a whole minute."""

    def begin(name: str = "good", **more: Any) -> Situation:
        here = situation(name, **{"history_minutes": 0, "requests_per_minute": 120, **more})
        here.ask("advance", seconds=-here.ask("clock")["now"] % 60)
        return here

    return begin


def deploy(here: Situation, profile: FaultProfile) -> None:
    """Publish a build with this profile as the next version; time stands at a whole minute after it."""
    path = builds.write(here.folder / f"{profile.name}.zip", profile, "2.0.0")
    lam = here.client("lambda")
    lam.update_function_code(FunctionName=here.function, ZipFile=Path(path).read_bytes())
    here.ask("advance", seconds=30)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=30)


def split(here: Situation, share: float) -> None:
    weights = {"AdditionalVersionWeights": {"2": share} if share else {}}
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", RoutingConfig=weights)


def read(mine: Target, minutes: int, versions: tuple[str, ...] = ("1", "2"), serving: str = "1") -> MetricsReading:
    """The latest whole minutes that CloudWatch must have."""
    until = mine.clock.now() - LATE
    return metrics.read_minutes(mine, versions, lambda _: serving, until - minutes * MINUTE, until)


REQUEST = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
REPORT = re.compile(r"^REPORT .*\tDuration: ([\d.]+) ms(?:.*\tInit Duration: ([\d.]+) ms)?", re.DOTALL)


def told(here: Situation) -> Iterator[tuple[datetime, str, float, list[str]]]:
    """Minute, version, duration in ms and log lines of each request: what was served, from another source.

    CloudWatch gives a request to the minute in which it was made; its report is written at its end.
    """
    lines: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    pages = here.client("logs").get_paginator("filter_log_events")
    for page in pages.paginate(logGroupName=f"/aws/lambda/{here.function}"):
        for event in page["events"]:
            (version,) = re.findall(r"\[(\d+)\]", event["logStreamName"])
            (request,) = set(REQUEST.findall(event["message"]))
            lines[version, request].append((event["timestamp"], event["message"]))
    for (version, _), written in lines.items():
        for ended_ms, text in written:
            if report := REPORT.match(text):
                duration_ms = float(report[1])
                made_ms = ended_ms - duration_ms - float(report[2] or 0)
                at = datetime.fromtimestamp(made_ms / 1000, UTC).replace(second=0, microsecond=0)
                yield at, version, duration_ms, [text for _, text in written]


def counted(here: Situation) -> tuple[dict[tuple[datetime, str], Counts], dict[tuple[datetime, str], list[float]]]:
    """Counts, and durations in ms, by minute and version, from the log alone."""
    seen: dict[tuple[datetime, str], Counts] = defaultdict(Counts)
    durations: dict[tuple[datetime, str], list[float]] = defaultdict(list)
    for at, version, duration_ms, texts in told(here):
        failed = re.search(r"\[ERROR\]|apologised|Task timed out", " ".join(texts)) is not None
        seen[at, version] += Counts(1, int(failed), slow=int(duration_ms > 6000))
        durations[at, version].append(duration_ms)
    return seen, durations


# What is read


def test_rows_are_exactly_what_was_served(bring: Bring) -> None:
    """Requests, failures (errors and apologies) and slow ones of each minute and version equal the log's own count."""
    here = bring()
    deploy(here, MIXED)
    split(here, 0.5)
    here.ask("advance", seconds=720)
    mine = here.connect(quiet=True)
    reading = read(mine, 10)
    assert reading.trouble is None and len(reading.rows) == 10
    counts, durations = counted(here)
    for row in reading.rows:
        for version in ("1", "2"):
            assert row.counts[version] == counts[row.at, version]
            ranked = sorted(durations[row.at, version])
            # The value that 99 % of the requests do not exceed.
            assert row.p99_ms[version] == ranked[math.ceil(0.99 * len(ranked)) - 1]
    new = [row.counts["2"] for row in reading.rows]
    requests = sum(each.requests for each in new)
    assert sum(each.errors for each in new) / requests == pytest.approx(0.1, abs=4 * (0.09 / requests) ** 0.5)
    assert sum(each.slow for each in new) > 0


def test_without_weights_the_serving_version_has_the_aliass_figures(bring: Bring) -> None:
    """While ExecutedVersion is missing, every request is the primary's; the other version had none."""
    here = bring()
    here.ask("advance", seconds=600)
    reading = read(here.connect(quiet=True), 5)
    counts, durations = counted(here)
    for row in reading.rows:
        assert row.counts["1"] == counts[row.at, "1"] and row.counts["1"].requests > 0
        assert row.counts["2"] == Counts()
        assert set(row.p99_ms) == {"1"} and row.p99_ms["1"] <= max(durations[row.at, "1"])


def test_the_minutes_of_a_whole_rollout_add_up(bring: Bring) -> None:
    """Before, while and after traffic is split, the versions' requests are all that the alias served, none twice."""
    here = bring()
    mine = here.connect(quiet=True)
    begun = mine.clock.now()
    here.ask("advance", seconds=300)
    deploy(here, MIXED)
    split(here, 0.5)
    here.ask("advance", seconds=300)
    split(here, 0.0)
    here.ask("advance", seconds=420)
    rows = metrics.read_minutes(mine, ("1", "2"), lambda _: "1", begun, mine.clock.now() - LATE).rows
    counts, _ = counted(here)
    whole = {row.at: sum(counts.get((row.at, version), Counts()).requests for version in "12") for row in rows}
    assert [sum(each.requests for each in row.counts.values()) for row in rows] == list(whole.values())


UNKNOWN = Counts(unknown=NOTHING_KNOWN)


def test_a_minute_without_requests_is_a_row_of_unknowns(bring: Bring) -> None:
    """Answered completely and without datapoints may mean that nobody called, or that CloudWatch is late."""
    here = bring(requests_per_minute=0)
    here.ask("advance", seconds=600)
    reading = read(here.connect(quiet=True), 5)
    assert reading.trouble is None and reading.newest == {}
    assert [row.counts for row in reading.rows] == [{"1": UNKNOWN, "2": UNKNOWN}] * 5
    assert all(row.p99_ms == {} and row.is_silent and not row.incomplete for row in reading.rows)


def test_a_quiet_minute_before_a_busy_one_is_known(bring: Bring) -> None:
    """CloudWatch is past it: what it does not show there, there was not. What follows the last busy one is unknown."""
    here = bring(requests_per_minute=0)
    here.ask("set", requests_per_minute=100)
    here.ask("advance", seconds=60)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=300)
    rows = read(here.connect(quiet=True), 5).rows
    busy = next(index for index, row in enumerate(rows) if row.counts["1"].requests)
    assert all(row.counts == {"1": Counts(), "2": Counts()} for row in rows[:busy])
    assert rows[busy].unknown == frozenset() and rows[busy].counts["2"] == Counts()
    assert all(row.counts["1"] == UNKNOWN for row in rows[busy + 1 :])


@pytest.mark.parametrize(
    ("metric", "unknown"),
    [("Invocations", "requests"), ("Errors", "errors"), ("Duration", "slow"), ("Apologies", "errors")],
)
def test_a_late_metric_is_unknown_alone(bring: Bring, metric: str, unknown: str) -> None:
    """The others count on, by the number of samples that they have; the latest minutes of the late one are no zeros."""
    here = bring("good", stable="errors_5_percent")
    here.ask("advance", seconds=1200)
    whole = read(here.connect(quiet=True), 15)
    assert whole.emission == {"Buddy/Apologies": pytest.approx(1.0)}
    here = bring("good", stable="errors_5_percent", metrics_delays_s={metric: 480})
    here.ask("advance", seconds=1200)
    reading = read(here.connect(quiet=True), 15)
    late = [row for row in reading.rows if row.unknown]
    assert len(late) in (6, 7) and late == list(reading.rows[-len(late) :])
    assert all(row.unknown == {unknown} and row.counts["1"].requests > 0 for row in late)
    name = "Buddy/Apologies" if metric == "Apologies" else metric
    newest = dict(reading.newest)
    assert newest.pop(name) <= late[0].at and set(newest.values()) == {reading.rows[-1].at}
    minute = next(metrics.rows_from_json(metrics.rows_to_json(late)))
    assert minute.counts == late[0].counts


def test_a_metric_of_failures_alone_is_no_witness(bring: Bring) -> None:
    """One that has samples only for failures says nothing in a minute without any: its zero is known by the others."""
    here = bring("good")
    here.ask("advance", seconds=1200)
    mine = here.connect(quiet=True)

    def seldom(send: Any, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        reply = send(service, operation, **fields)
        for result in reply.get("MetricDataResults", ()):
            if result["Id"].startswith("failed"):
                result["Timestamps"], result["Values"] = result["Timestamps"][-1:], [1.0] * len(result["Values"][-1:])
        return reply

    intercept(mine, seldom)
    reading = read(mine, 15)
    assert reading.emission["Buddy/Apologies"] < 0.1 and not any(row.unknown for row in reading.rows)


def test_rows_are_whole_minutes_in_order(bring: Bring) -> None:
    """Every minute asked for is there once, oldest first; an empty span gives no rows and asks nothing."""
    here = bring()
    here.ask("advance", seconds=900)
    mine = here.connect(quiet=True)
    until = mine.clock.now() - LATE
    rows = read(mine, 10).rows
    assert [row.at for row in rows] == [until - n * MINUTE for n in range(10, 0, -1)]
    before = len(here.calls("GetMetricData"))
    assert metrics.read_minutes(mine, ("1",), lambda _: "1", until, until) == MetricsReading(())
    assert len(here.calls("GetMetricData")) == before


def test_throttled_calls_are_told_beside_the_serving_version(bring: Bring) -> None:
    """They ran on no version, and are neither requests nor failures of one."""
    here = bring("throttling", troubles=[{"after_minutes": 0, "minutes": 60, "throttle_rate": 0.2}])
    deploy(here, MIXED)
    split(here, 0.5)
    here.ask("advance", seconds=720)
    rows = read(here.connect(quiet=True), 10).rows
    counts, _ = counted(here)
    assert sum(row.counts["1"].throttles for row in rows) == pytest.approx(240, abs=4 * 240**0.5)
    assert all(row.counts["2"].throttles == 0 for row in rows)
    assert all(row.counts["2"] == counts[row.at, "2"] for row in rows)


def test_at_most_one_failure_a_request_is_counted(bring: Bring) -> None:
    """A request that both fails and apologises is one failure: there are never more failures than requests."""
    here = bring()
    deploy(here, MIXED)
    split(here, 0.5)
    here.ask("advance", seconds=300)
    for version in ("1", "2"):
        dimensions = {"FunctionName": here.function, "Resource": f"{here.function}:live", "ExecutedVersion": version}
        datum = {
            "MetricName": "Apologies",
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            "Timestamp": here.ask("clock")["now"] - 150,
            "Value": 10_000,
        }
        here.client("cloudwatch").put_metric_data(Namespace="Buddy", MetricData=[datum])
    here.ask("advance", seconds=120)
    rows = read(here.connect(quiet=True), 5).rows
    full = [each for row in rows for each in row.counts.values() if each.errors == each.requests > 0]
    assert len(full) == 2
    assert all(each.errors <= each.requests for row in rows for each in row.counts.values())


def test_without_failure_metrics_only_lambdas_errors_count(bring: Bring) -> None:
    """What else is a failure stands in parameters/: an environment that names no metric sees no apology."""
    here = bring("apologises", stable="apologises")
    here.ask("advance", seconds=600)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    rows = read(here.connect(quiet=True), 5).rows
    assert all(row.counts["1"].errors == row.counts["1"].requests > 0 for row in rows)
    blind = read(here.connect(quiet=True, values={**values, "failure_metrics": []}), 5).rows
    assert all(row.counts["1"].errors == 0 < row.counts["1"].requests for row in blind)


def test_the_latency_bound_is_the_environments(bring: Bring) -> None:
    """What counts as slow follows health.latency_ms: above the bound, not at it."""
    here = bring()
    deploy(here, FaultProfile("dull", slow_rate=0.06, slow_ms=6500.0))
    split(here, 1.0)
    here.ask("advance", seconds=600)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    slow = {}
    for bound in (6000, 6499, 6500):
        health = {**values["health"], "latency_ms": bound}
        rows = read(here.connect(quiet=True, values={**values, "health": health}), 5).rows
        slow[bound] = sum(row.counts["2"].slow for row in rows)
    assert slow[6000] == slow[6499] > 0 and slow[6500] == 0


# What is asked


def test_a_poll_is_one_request(bring: Bring) -> None:
    """All versions, statistics and minutes come in one GetMetricData, and there is no other read of metrics."""
    here = bring()
    here.ask("advance", seconds=3600)
    mine = here.connect(quiet=True)
    before = here.ask("status")["calls"]
    read(mine, 50)
    made = [(each["service"], each["operation"]) for each in here.ask("calls", since=before)["calls"]]
    assert made == [("cloudwatch", "GetMetricData")]


def test_pages_are_put_together(bring: Bring) -> None:
    """An answer in several pages gives the same rows as one: a value lost between pages would be a failure unseen."""
    here = bring(stable="errors_5_percent")
    here.ask("advance", seconds=1200)
    mine = here.connect(quiet=True)
    whole = read(mine, 15)
    pages = []

    def small(send: Any, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        reply = send(service, operation, **fields, MaxDatapoints=7)
        pages.append(reply)
        return reply

    intercept(mine, small)
    assert read(mine, 15) == whole
    assert len(pages) > 5


# What is not known


@pytest.mark.parametrize("outage", ["error", "partial"])
def test_an_outage_gives_no_minute_at_all(bring: Bring, outage: str) -> None:
    """A failed or partial answer is no evidence, not even for the minutes that were in it; the trouble is told."""
    here = bring()
    here.ask("advance", seconds=600)
    mine = here.connect(quiet=True)
    here.ask("set", outage=outage)
    reading = read(mine, 5)
    assert reading.rows == () and reading.trouble
    assert ("in part" if outage == "partial" else "InternalService") in reading.trouble
    here.ask("set", outage=None)
    assert read(mine, 5).trouble is None


def test_an_empty_answer_is_unknown(bring: Bring) -> None:
    """CloudWatch that says 'complete' and has nothing cannot be told from a quiet night: nothing is known."""
    here = bring()
    here.ask("advance", seconds=600)
    here.ask("set", outage="empty")
    reading = read(here.connect(quiet=True), 5)
    assert reading.trouble is None
    assert all(each == UNKNOWN for row in reading.rows for each in row.counts.values())


def test_the_delay_of_the_policy_covers_cloudwatchs_own(bring: Bring) -> None:
    """What is read two minutes late is what is read an hour later: no judged minute changes afterwards."""
    here = bring(metrics_delay_s=60, stable="errors_5_percent")
    here.ask("advance", seconds=900)
    mine = here.connect(quiet=True)
    until = mine.clock.now() - timedelta(seconds=mine.settings.health.late_data_s)
    first = metrics.read_minutes(mine, ("1",), lambda _: "1", until - 10 * MINUTE, until)
    here.ask("advance", seconds=3600)
    assert metrics.read_minutes(mine, ("1",), lambda _: "1", until - 10 * MINUTE, until) == first


# The p99


def test_the_p99_has_an_interval_that_more_requests_narrow(situation: Bring) -> None:
    """Each minute's p99 lies within its interval, and a busy version's interval is the narrower."""
    widths = {}
    for rate in (60, 6000):
        here = situation("good", requests_per_minute=rate, history_minutes=20)
        now = datetime.fromtimestamp(here.ask("clock")["now"], UTC).replace(second=0)
        reading = metrics.read_minutes(here.connect(), ("1",), lambda _: "1", now - 10 * MINUTE, now - 2 * MINUTE)
        bands = [(row.p99_band_ms["1"], row.p99_ms["1"]) for row in reading.rows]
        assert len(bands) == 8 and all(low <= p99 <= high for (low, high), p99 in bands)
        widths[rate] = sum(high - low for (low, high), _ in bands)
    assert widths[6000] < widths[60]


# Failure metrics with dimensions of one's choice

OWN = {"namespace": "Buddy", "name": "Apologies"}
WHOLE = {"FunctionName": "{function}", "Resource": "{resource}"}
EXPRESSION = {"expression": "FILL({metric}, 0) * 1"}


def test_a_metric_is_read_by_version_or_of_the_alias_as_a_whole(bring: Bring) -> None:
    """Written out, the default's dimensions read the same. Without a version, failures are one's who served alone."""
    here = bring()
    deploy(here, FaultProfile(name="sorry", apology_rate=0.3))
    values = here.connect(quiet=True).settings.model_dump(mode="json")

    def rows(**more: Any) -> tuple[MinuteRow, ...]:
        mine = here.connect(quiet=True, values=values | {"failure_metrics": [OWN | more]})
        reading = read(mine, 5)
        assert reading.trouble is None
        return reading.rows

    split(here, 0.5)
    here.ask("advance", seconds=480)
    usual = rows()
    assert rows(dimensions={**WHOLE, "ExecutedVersion": "{version}"}) == usual
    for more in ({}, EXPRESSION):
        for row, before in zip(rows(dimensions=WHOLE, **more), usual, strict=True):
            assert all(counts.errors == 0 for counts in row.counts.values())
            assert row.shared_failures == before.counts["2"].errors > 0
    here.client("lambda").update_alias(
        FunctionName=here.function, Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {}}
    )
    here.ask("advance", seconds=600)
    for more in ({}, EXPRESSION):
        mine = here.connect(quiet=True, values=values | {"failure_metrics": [{**OWN, "dimensions": WHOLE, **more}]})
        for row, before in zip(read(mine, 5, serving="2").rows, rows(), strict=True):
            own = row.counts["2"]
            assert (own.errors, own.shared, row.shared_failures) == (own.shared, before.counts["2"].errors, 0)
            assert own.shared > 0 and not row.unknown


@pytest.mark.parametrize("more", [{}, EXPRESSION])
def test_an_alarm_reads_the_same_series(bring: Bring, more: dict[str, str]) -> None:
    """Eight metrics fit into an alarm; one with an expression counts twice."""
    here = bring(requests_per_minute=0)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    most = [{**OWN, **more, "dimensions": {"ApiId": f"a{number}"}} for number in range(4 if more else 8)]
    target = here.connect(quiet=True, values=values | {"failure_metrics": most})
    fields = alarms.wanted_alarms(target)[0]
    here.client("cloudwatch").put_metric_alarm(**fields)
    named = [each["MetricStat"]["Metric"].get("Dimensions") for each in fields["Metrics"] if "MetricStat" in each]
    assert named[2:] == [[{"Name": "ApiId", "Value": f"a{number}"}] for number in range(len(most))]
    with pytest.raises(InvalidInput, match="at most 8"):
        here.connect(quiet=True, values=values | {"failure_metrics": [*most[1:], {**OWN, **EXPRESSION}, most[0]]})
