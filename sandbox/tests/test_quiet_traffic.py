"""Many functions at once, whose traffic is drawn when it is read: as if it had been there all along."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.metrics_store import Metric
from buddy_sandbox.server import Sandbox
from buddy_sandbox.wire import Params

NAMES = ["cart", "pay"]
REGIONS = ["us-east-1", "eu-west-1"]
OTHER = "222222222222"
HISTORY = 75
STATISTICS = ("Sum", "SampleCount", "Average", "Maximum", "p50", "p99", "TC(300:)", "TM(10%:90%)")


@pytest.fixture
def made(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Two functions in two regions of two accounts."""
    sandbox.front.do_reset(seed=7)
    sandbox.front.do_set(metrics_delay_s=0, logs_delay_s=0)
    places = {"regions": REGIONS, "accounts": ["123456789012", OTHER]}
    sandbox.front.do_functions(names=NAMES, **places, requests_per_minute=40, history_minutes=HISTORY)
    yield sandbox


def metric(name: str = "Invocations", function: str = "pay") -> Metric:
    return Metric("AWS/Lambda", name, frozenset({("FunctionName", function), ("Resource", f"{function}:live")}))


def minutes(
    sandbox: Sandbox, which: Metric, statistic: str = "Sum", last: int = HISTORY, region: str = "eu-west-1"
) -> NDArray[np.float64]:
    """The latest whole minutes."""
    end = sandbox.world.clock.now() // 60 * 60
    return sandbox.world.region(region).metrics.read(which, statistic, end - 60 * last, last)


def advance(sandbox: Sandbox, wanted_minutes: int) -> None:
    sandbox.front.do_advance(60 * wanted_minutes)


def ship(sandbox: Sandbox, profile: str) -> None:
    """Put all traffic of pay in eu-west-1 on a build, at once."""
    lam = sandbox.world.client("lambda", "eu-west-1")
    lam.update_function_code(FunctionName="pay", ZipFile=builds.build(PROFILES[profile], version_label="2.0.0"))
    advance(sandbox, 1)
    version = lam.publish_version(FunctionName="pay")["Version"]
    advance(sandbox, 1)
    lam.update_alias(FunctionName="pay", Name="live", FunctionVersion=version)


def test_each_function_serves_for_itself(made: Sandbox) -> None:
    """In every region of every account: an alias on version 1, and about 40 requests in each minute of its history."""
    seen = set()
    for account in ("123456789012", OTHER):
        for region in REGIONS:
            found: Params = made.world.client("lambda", region, account).get_alias(FunctionName="pay", Name="live")
            assert found["FunctionVersion"] == "1" and found["AliasArn"].split(":")[3:5] == [region, account]
            store = made.world.region(region, account).metrics
            end = made.world.clock.now() // 60 * 60
            requests = store.read(metric(), "Sum", end - 60 * HISTORY, HISTORY)
            assert 35 * HISTORY < requests.sum() < 45 * HISTORY and not np.isnan(requests).any()
            seen.add(tuple(requests))
    assert len(seen) == 4, "no two have the same requests"
    assert np.isnan(minutes(made, metric(), last=HISTORY + 5)[:5]).all(), "none before there was an alias"


def test_figures_do_not_depend_on_who_read_before(made: Sandbox) -> None:
    """What was read of a minute while it was not over yet leaves no trace; to the last digit."""
    for _ in range(3):
        made.front.do_advance(30 * 60 + 13)
        minutes(made, metric())
        minutes(made, metric("Duration"), "p99")
    read_between = {name: minutes(made, metric(name), "p90") for name in ("Invocations", "Duration")}
    made.world.region("eu-west-1").people.hour.cache_clear()
    for name, before in read_between.items():
        np.testing.assert_array_equal(minutes(made, metric(name), "p90"), before)


@pytest.mark.parametrize("name", ["Invocations", "Errors", "Duration"])
def test_every_statistic_is_as_of_stored_samples(made: Sandbox, name: str) -> None:
    """Those that were never cut into minutes are read at once: with the same result."""
    at_once = {each: minutes(made, metric(name), each) for each in STATISTICS}
    region = made.world.region("eu-west-1")
    end = made.world.clock.now()
    for store in region.metrics.sources["pay"](end - 7200, end):
        store.read(metric(name), "Sum", 0.0, 1)
    for each in STATISTICS:
        np.testing.assert_array_equal(at_once[each], minutes(made, metric(name), each), err_msg=each)


def test_a_new_version_is_drawn_by_the_minute_and_the_past_stays(made: Sandbox) -> None:
    """No request is lost or counted twice at the change; the other functions go on quietly."""
    quiet = minutes(made, metric())
    ship(made, "total_failure")
    changed = minutes(made, metric(), last=HISTORY + 2)
    np.testing.assert_array_equal(changed[:HISTORY], quiet)
    advance(made, 10)
    requests, failed = minutes(made, metric(), last=12), minutes(made, metric("Errors"), last=12)
    assert requests.min() > 15 and requests.max() < 75, "also in the minute of the change"
    assert failed[:2].sum() <= 3
    np.testing.assert_array_equal(failed[3:], requests[3:])
    np.testing.assert_array_equal(minutes(made, metric(), last=HISTORY + 12)[:HISTORY], quiet)
    assert minutes(made, metric("Errors", "cart"), last=10).sum() <= 5


def test_traffic_that_is_changed_changes_from_then_on(made: Sandbox) -> None:
    """Of one function in one region."""
    made.front.do_set(function="pay", region="eu-west-1", requests_per_minute=0)
    advance(made, 5)
    assert np.isnan(minutes(made, metric(), last=5)).all() and not np.isnan(minutes(made, metric(), last=10)[:5]).any()
    assert minutes(made, metric(), last=5, region="us-east-1").min() > 0


def test_the_metrics_of_one_function_are_listed_without_those_of_others(made: Sandbox) -> None:
    """As when each of many targets is asked for its own; what AWS answers does not depend on it."""
    region = made.world.region("eu-west-1")
    region.people.hour.cache_clear()
    cloudwatch = made.world.client("cloudwatch", "eu-west-1")

    def listed(*dimensions: Params) -> list[Params]:
        pages = cloudwatch.get_paginator("list_metrics").paginate(Dimensions=list(dimensions))
        return [found for page in pages for found in page["Metrics"]]

    own = {"Name": "FunctionName", "Value": "pay"}
    of_pay = listed(own)
    drawn = region.people.hour.cache_info().currsize
    every = listed()
    assert region.people.hour.cache_info().currsize == 2 * drawn > 0
    assert of_pay == [found for found in every if own in found["Dimensions"]] != []


def test_the_log_has_the_same_requests(made: Sandbox) -> None:
    """A REPORT line of each, made when it is read."""
    logs = made.world.client("logs", "eu-west-1")
    end = int(made.world.clock.now() // 60 * 60)
    span = {"startTime": 1000 * (end - 600), "endTime": 1000 * end}
    pages = logs.get_paginator("filter_log_events").paginate(
        logGroupName="/aws/lambda/pay", filterPattern="REPORT", **span
    )
    reports = [event for page in pages for event in page["events"]]
    # A request is counted when it begins, and reported when it ends.
    assert abs(len(reports) - minutes(made, metric(), last=10).sum()) <= 3


def test_metrics_that_were_never_read_are_listed(made: Sandbox) -> None:
    """As those of any function."""
    listed = made.world.client("cloudwatch", "eu-west-1").list_metrics(
        Namespace="AWS/Lambda", Dimensions=[{"Name": "Resource", "Value": "pay:live"}]
    )["Metrics"]
    assert {each["MetricName"] for each in listed} == {"Invocations", "Errors", "Duration"}


def test_a_name_that_exists_is_refused(made: Sandbox) -> None:
    """In the words of Lambda."""
    with pytest.raises(ValueError, match="Function already exist: pay"):
        made.front.do_functions(names=["pay"], regions=["eu-west-1"])
