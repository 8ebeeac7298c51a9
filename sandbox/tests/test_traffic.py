"""The sandbox's simulated people: the same from the same seed, routed by the alias, and told as Lambda tells."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buddy_sandbox.situations import Situation

Bring = Callable[..., Situation]
Series = dict[float, float]

LAUNCH = json.dumps(
    {"request": {"type": "LaunchRequest", "requestId": "r"}, "session": {"user": {"userId": "synthetic"}}}
)


@pytest.fixture
def bring(situation: Bring) -> Callable[..., Situation]:
    """``bring("good", requests_per_minute=60, seed=3)``: no history, metrics visible at once, at a whole minute."""

    def begin(name: str = "good", **overrides: Any) -> Situation:
        here = situation(name, **{"history_minutes": 0, "metrics_delay_s": 0, **overrides})
        here.ask("advance", seconds=-here.ask("clock")["now"] % 60)
        return here

    return begin


def deploy(here: Situation, profile: str) -> str:
    """Publish a build as the next version; its number. Time stands at a whole minute after it."""
    lam = here.client("lambda")
    lam.update_function_code(FunctionName=here.function, ZipFile=Path(here.build(profile)).read_bytes())
    here.ask("advance", seconds=30)
    version = lam.publish_version(FunctionName=here.function)["Version"]
    here.ask("advance", seconds=30)
    return str(version)


def split(here: Situation, share: float, version: str = "2") -> None:
    weights = {"AdditionalVersionWeights": {version: share}}
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", RoutingConfig=weights)


def series(here: Situation, name: str, stat: str = "Sum", minutes: float = 60, **dimensions: str) -> Series:
    """A metric of the alias by minute, over the latest minutes."""
    now = here.ask("clock")["now"]
    wanted = {"FunctionName": here.function, "Resource": f"{here.function}:live", **dimensions}
    namespace = "Buddy" if name in ("Apologies", "RemindersSet", "SafetyEscalations") else "AWS/Lambda"
    extended = stat.startswith("p")
    points = here.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in wanted.items()],
        StartTime=now - 60 * minutes,
        EndTime=now,
        Period=60,
        **{"ExtendedStatistics" if extended else "Statistics": [stat]},
    )["Datapoints"]
    return {each["Timestamp"].timestamp(): (each["ExtendedStatistics"] if extended else each)[stat] for each in points}


def total(here: Situation, name: str, **dimensions: str) -> float:
    return sum(series(here, name, **dimensions).values())


def lines(here: Situation, pattern: str = "") -> list[dict[str, Any]]:
    """The function's log events that match."""
    pages = here.client("logs").get_paginator("filter_log_events")
    found = pages.paginate(logGroupName=f"/aws/lambda/{here.function}", filterPattern=pattern)
    return [event for page in found for event in page["events"]]


# From the seed


def test_the_same_seed_gives_the_same_requests(bring: Bring) -> None:
    """Requests, failures and durations repeat to the last digit with a seed, and differ with another."""

    def figures(seed: int) -> list[Series]:
        here = bring(seed=seed, stable="errors_5_percent")
        here.ask("advance", seconds=600)
        return [
            series(here, "Invocations"),
            series(here, "Errors"),
            series(here, "Duration"),
            series(here, "Duration", "p99"),
        ]

    first = figures(7)
    assert len(first[0]) == 10
    assert figures(7) == first
    assert figures(8) != first


def test_figures_do_not_depend_on_who_looks(bring: Bring) -> None:
    """However time is cut, and whatever is read meanwhile, the same actions at the same moments give the same figures."""

    def figures(step_s: float, look: bool) -> list[Any]:
        here = bring(stable="errors_5_percent")
        for share in (0.0, 0.5):
            if share:
                deploy(here, "good")
                split(here, share)
            for _ in range(round(300 / step_s)):
                here.ask("advance", seconds=step_s)
                if look:
                    series(here, "Invocations")
                    here.client("lambda").get_alias(FunctionName=here.function, Name="live")
        names = ("Invocations", "Errors", "Duration")
        whole = [series(here, name) for name in names]
        return whole + [series(here, name, ExecutedVersion=each) for name in names for each in "12"]

    assert figures(300, look=False) == figures(7.5, look=True)


def test_traffic_comes_at_its_rate(bring: Bring) -> None:
    """About as many requests come as were asked for, not exactly as many; a new rate holds from the next minute on."""
    here = bring(requests_per_minute=600)
    here.ask("advance", seconds=1200)
    before = series(here, "Invocations")
    assert sum(before.values()) == pytest.approx(12_000, abs=4 * 12_000**0.5)
    assert len(set(before.values())) > 10
    here.ask("set", requests_per_minute=60)
    here.ask("advance", seconds=1200)
    assert sum(series(here, "Invocations", minutes=20).values()) == pytest.approx(1200, abs=4 * 1200**0.5)


def test_nobody_talks_to_an_alias_that_is_not_there(bring: Bring) -> None:
    """Before the first deployment there are no requests at all."""
    here = bring("first_deployment", requests_per_minute=600)
    here.ask("advance", seconds=600)
    assert series(here, "Invocations") == {} and lines(here) == []


# By the alias


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_weights_are_obeyed(bring: Bring, share: float) -> None:
    """The second version gets its share, within what chance allows, and the two add up to the whole."""
    here = bring(requests_per_minute=3000)
    deploy(here, "good")
    split(here, share)
    here.ask("advance", seconds=1200)
    new, old = (sum(series(here, "Invocations", minutes=20, ExecutedVersion=each).values()) for each in "21")
    whole = sum(series(here, "Invocations", minutes=20).values())
    assert new + old == whole
    assert new == pytest.approx(share * whole, abs=4 * (whole * share * (1 - share)) ** 0.5)


def test_a_shift_counts_from_its_own_second(bring: Bring) -> None:
    """Requests before a shift within a minute are the old version's, those after it meet the new weights."""
    here = bring()
    deploy(here, "good")
    here.ask("advance", seconds=30)
    split(here, 1.0)
    here.ask("advance", seconds=30)
    new = sum(series(here, "Invocations", minutes=1, ExecutedVersion="2").values())
    whole = sum(series(here, "Invocations", minutes=1).values())
    assert new == pytest.approx(whole / 2, abs=4 * (whole / 4) ** 0.5)
    starts = [each for each in lines(here, "START") if each["timestamp"] / 1000 >= here.ask("clock")["now"] - 60]
    middle = here.ask("clock")["now"] - 30
    assert all(("Version: 2" in each["message"]) == (each["timestamp"] / 1000 >= middle) for each in starts)


def test_executed_version_is_missing_without_weights(bring: Bring) -> None:
    """Lambda's metrics carry ExecutedVersion only while the alias has weights: the harder case is the one to be ready for."""
    here = bring()
    here.ask("advance", seconds=300)
    assert series(here, "Invocations", ExecutedVersion="1") == {} and total(here, "Invocations") > 0
    deploy(here, "good")
    split(here, 0.5)
    here.ask("advance", seconds=300)
    assert len(series(here, "Invocations", ExecutedVersion="1")) == 5
    assert len(series(here, "Invocations", ExecutedVersion="2")) == 5


def test_a_throttled_request_is_counted_nowhere_else(bring: Bring) -> None:
    """At concurrency 0 there are Throttles and nothing besides: no invocation, no error, no duration, no log line.

    Source: AWS Lambda developer guide, 'Types of metrics': throttled requests are not counted as Invocations or Errors.
    """
    here = bring()
    here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=0)
    here.ask("advance", seconds=600)
    assert total(here, "Throttles") == pytest.approx(6000, abs=4 * 6000**0.5)
    for name in ("Invocations", "Errors", "Duration", "Apologies"):
        assert series(here, name, minutes=10) == {}
    assert lines(here) == []
    here.client("lambda").delete_function_concurrency(FunctionName=here.function)
    throttled = total(here, "Throttles")
    here.ask("advance", seconds=600)
    assert total(here, "Throttles") == throttled and total(here, "Invocations") > 0


def test_some_throttling_leaves_the_rest_alone(bring: Bring) -> None:
    """When the account runs out of concurrency, the throttled share is missing from Invocations, and only while it lasts."""
    here = bring("throttling", troubles=[{"after_minutes": 2, "minutes": 10, "throttle_rate": 0.2}])
    here.ask("advance", seconds=1200)
    throttled, served = total(here, "Throttles"), total(here, "Invocations")
    assert throttled == pytest.approx(1200, abs=4 * 1200**0.5)
    assert throttled + served == pytest.approx(12_000, abs=4 * 12_000**0.5)
    assert len(series(here, "Throttles")) <= 11 and total(here, "Errors") < 0.01 * served


# As builds behave


def test_an_outage_hits_both_versions(bring: Bring) -> None:
    """A dependency that fails makes both versions fail alike, for as long as it lasts."""
    here = bring("outage", troubles=[{"after_minutes": 3, "minutes": 10, "error_rate": 0.2}])
    deploy(here, "good")
    split(here, 0.5)
    here.ask("advance", seconds=600)
    for version in ("1", "2"):
        during = series(here, "Invocations", minutes=8, ExecutedVersion=version)
        failed = sum(series(here, "Errors", minutes=8, ExecutedVersion=version).values())
        requests = sum(during.values())
        assert failed / requests == pytest.approx(0.2, abs=4 * (0.16 / requests) ** 0.5)
    here.ask("advance", seconds=600)
    assert sum(series(here, "Errors", minutes=5).values()) < 0.01 * sum(series(here, "Invocations", minutes=5).values())


def test_a_build_fails_as_its_profile_says(bring: Bring) -> None:
    """Errors, apologies and slow requests come at the rates of each version's own zip."""
    here = bring(requests_per_minute=3000)
    deploy(here, "errors_5_percent")
    split(here, 0.5)
    here.ask("advance", seconds=600)
    requests = {each: total(here, "Invocations", ExecutedVersion=each) for each in "12"}
    for version, rate in (("1", 0.002), ("2", 0.05)):
        failed = total(here, "Errors", ExecutedVersion=version)
        expected = rate * requests[version]
        assert failed == pytest.approx(expected, abs=4 * expected**0.5)


def test_an_apology_is_no_error(bring: Bring) -> None:
    """A build that apologises to everybody has no Lambda error: only the skill's own metric shows it."""
    here = bring("apologises", stable="apologises")
    here.ask("advance", seconds=300)
    assert total(here, "Errors") == 0 and total(here, "Apologies") == total(here, "Invocations") > 0


def test_a_timeout_is_an_error_at_the_functions_limit(bring: Bring) -> None:
    """A request that hangs ends at the timeout, counts as an error, and says so in the log."""
    here = bring(stable="timeouts")
    here.ask("advance", seconds=600)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=60)
    assert max(series(here, "Duration", "Maximum").values()) == 7000.0
    hung = [each for each in lines(here, "timed") if "Task timed out after 7.00 seconds" in each["message"]]
    assert len(hung) == total(here, "Errors") > 0


# As Lambda tells it


def metrics(here: Situation, namespace: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Names and dimensions of every metric in a namespace."""
    pages = here.client("cloudwatch").get_paginator("list_metrics").paginate(Namespace=namespace)
    return {
        (each["MetricName"], tuple(sorted((one["Name"], one["Value"]) for one in each["Dimensions"])))
        for page in pages
        for each in page["Metrics"]
    }


@pytest.mark.parametrize("weighted", [False, True], ids=["alone", "weighted"])
def test_simulated_and_real_requests_are_told_alike(bring: Bring, weighted: bool) -> None:
    """A dashboard cannot tell them apart: Lambda's metrics and the skill's own (EMF) have the same names and dimensions."""

    def seen(real: bool) -> tuple[Any, Any]:
        here = bring(requests_per_minute=0 if real else 60)
        if weighted:
            deploy(here, "good")
            split(here, 0.5)
        for _ in range(20 if real else 0):
            reply = here.client("lambda").invoke(FunctionName=here.function, Qualifier="live", Payload=LAUNCH)
            assert reply["StatusCode"] == 200
        here.ask("advance", seconds=120)
        return metrics(here, "AWS/Lambda"), metrics(here, "Buddy")

    simulated, invoked = seen(real=False), seen(real=True)
    assert simulated == invoked
    assert {name for name, _ in invoked[1]} == {"Apologies", "SafetyEscalations", "RemindersSet"}


def test_every_request_leaves_its_lines(bring: Bring) -> None:
    """START, END and REPORT stand in the log once for each invocation, and an error's line for each error."""
    here = bring(stable="errors_5_percent", requests_per_minute=60)
    here.ask("advance", seconds=600)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=60)
    requests = total(here, "Invocations")
    assert [len(lines(here, word)) for word in ("START", "END", "REPORT")] == [requests] * 3
    assert len(lines(here, "InjectedError")) == total(here, "Errors") > 0


def test_a_cold_start_is_told_in_the_report_line(bring: Bring) -> None:
    """A version's first request starts an environment: its REPORT line has an Init Duration, and its Duration excludes it."""
    here = bring(requests_per_minute=60, stable="cold_starts")
    here.ask("advance", seconds=300)
    reports = lines(here, "REPORT")
    cold = ["Init Duration: 2600.00 ms" in each["message"] for each in reports]
    assert any(cold[:20]) and 1 <= sum(cold) <= 3 and not any(cold[-100:])
    assert max(series(here, "Duration", "Maximum").values()) < 2600
    deploy(here, "good")
    split(here, 0.5)
    here.ask("advance", seconds=300)
    new = [each for each in lines(here, "REPORT") if "[2]" in each["logStreamName"]]
    assert any("Init Duration: 650.00 ms" in each["message"] for each in new[:20])


def test_a_version_with_little_traffic_has_more_cold_starts(bring: Bring) -> None:
    """Each version starts as many environments a minute; every second one is slow, and Duration excludes its init."""
    here = bring("cold_starts", cold_starts_per_minute=3)
    deploy(here, "slow_cold_starts")
    split(here, 0.1)
    here.ask("advance", seconds=3600)
    reports = lines(here, "REPORT")
    for version, requests in (("1", 3240), ("2", 360)):
        own = [each["message"] for each in reports if f"[{version}]" in each["logStreamName"]]
        cold = [message for message in own if "Init Duration" in message]
        slow = [message for message in own if "Duration: 6500.00 ms" in message]
        assert len(own) == pytest.approx(requests, rel=0.25)
        assert len(cold) == pytest.approx(180, abs=45) and len(slow) == pytest.approx(90, abs=30)
        assert set(slow) <= set(cold)
    assert max(series(here, "Duration", "Maximum").values()) == 6500


def test_a_report_is_written_when_its_request_ends(bring: Bring) -> None:
    """START stands in the log after the init, END and REPORT a Duration later."""
    here = bring(requests_per_minute=60, stable="cold_starts")
    here.ask("advance", seconds=300)
    times = {}
    for each in lines(here):
        word, _, rest = each["message"].partition(" RequestId: ")
        times[word, rest[:36]] = each["timestamp"]
    reports = [each for each in lines(here, "REPORT") if "Init Duration" in each["message"]]
    assert reports
    for each in reports:
        message = each["message"]
        duration_ms = float(message.split("\tDuration: ")[1].split(" ms")[0])
        request = message.partition(" RequestId: ")[2][:36]
        assert each["timestamp"] - times["START", request] == pytest.approx(duration_ms, abs=2)
        assert times["END", request] == each["timestamp"]


def test_a_real_cold_start_is_told_alike(bring: Bring) -> None:
    """The first real invocation of a version has an Init Duration in its REPORT line, the second has none."""
    here = bring(requests_per_minute=0)
    for _ in range(2):
        here.client("lambda").invoke(FunctionName=here.function, Qualifier="live", Payload=LAUNCH)
    here.ask("advance", seconds=60)
    first, second = (each["message"] for each in lines(here, "REPORT"))
    assert "Init Duration: 650.00 ms" in first and "Init Duration" not in second


def test_metrics_come_late(bring: Bring) -> None:
    """A request shows in CloudWatch only after the delay, 60 s unless the scenario says otherwise."""
    here = bring(metrics_delay_s=60)
    here.ask("advance", seconds=60)
    assert sum(series(here, "Invocations", minutes=1).values()) <= 1
    here.ask("advance", seconds=60)
    sooner, *_ = (count for _, count in sorted(series(here, "Invocations", minutes=2).items()))
    assert sooner == pytest.approx(600, abs=4 * 600**0.5)
    here.ask("advance", seconds=60)
    assert min(sorted(series(here, "Invocations", minutes=3).items()))[1] == sooner
