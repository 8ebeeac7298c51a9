"""The metric store: visibility, statistics, and independence from how samples came in."""

import itertools
import time

import numpy as np
import pytest

from buddy_sandbox.metrics_store import BASIC, Metric, MetricStore, StatisticSet, UnknownStatistic
from buddy_sandbox.publication import Lateness

T0 = 1_800_000_000.0
WHERE = ("AWS/Lambda", "Duration", {"FunctionName": "f"})
METRIC = Metric("AWS/Lambda", "Duration", frozenset({("FunctionName", "f")}))


class Crank:
    """A clock that stands still until a test turns it."""

    def __init__(self, now: float = T0 + 86_400) -> None:
        self.time = now

    def now(self) -> float:
        return self.time


def stored(values: list[float], counts: list[float] | None = None) -> MetricStore:
    """A store in which one minute holds these samples."""
    store = MetricStore(Crank())
    times = T0 + np.arange(len(values)) * 60 / (len(values) + 1)
    weights = None if counts is None else np.array(counts)
    store.add(*WHERE, times, np.array(values), counts=weights)
    return store


def one(store: MetricStore, name: str) -> float:
    """A statistic of the minute."""
    return float(store.read(METRIC, name, T0, 1)[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SampleCount", 10),
        ("Sum", 55),
        ("Average", 5.5),
        ("Minimum", 1),
        ("Maximum", 10),
        ("p0", 1),
        ("p50", 5),
        ("p90", 9),
        ("p99.9", 10),
        ("p100", 10),
        ("tm90", 5),
        ("TM(:90%)", 5),
        ("TM(10%:90%)", 5.5),
        ("IQM", 5.5),
        ("TM(2:4)", 3.5),
        ("tc90", 9),
        ("TC(6:)", 4),
        ("TC(:6)", 6),
        ("TC(2:4)", 2),
        ("TC(80%:)", 2),
        ("ts90", 45),
        ("TS(80%:)", 19),
        ("TS(6:)", 34),
        ("PR(:6)", 60),
        ("PR(6:)", 40),
        ("PR(2:4)", 20),
        ("wm90", 5.4),
        ("WM(10%:90%)", 5.4),
        ("WM(2:9)", 5.5),
    ],
)
def test_a_statistic_is_what_the_user_guide_defines(name: str, expected: float) -> None:
    """Value bounds exclude the lower and include the upper end. Source: 'CloudWatch statistics definitions'."""
    assert one(stored([7, 3, 9, 1, 5, 10, 2, 8, 4, 6]), name) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name", ["p", "p101", "P99", "p-1", "tm(1:2)", "TM(:)", "TM(5:1)", "TM(5%:9)", "PR(:5%)", "TM(:101%)", "mean", ""]
)
def test_an_unknown_statistic_is_an_error(name: str) -> None:
    """A statistic that CloudWatch does not define is never taken for another."""
    with pytest.raises(UnknownStatistic):
        one(stored([1.0]), name)


def test_counts_are_how_often_a_value_was_seen() -> None:
    """A value with a count is that many samples, in every statistic."""
    weighted, plain = stored([30, 10, 20], [1, 7, 2]), stored([10.0] * 7 + [20.0] * 2 + [30.0])
    for name in [*BASIC, "p50", "p70", "p80", "p99", "tm90", "TM(20%:80%)", "TC(10:)", "PR(:20)", "ts80", "wm80"]:
        assert one(weighted, name) == pytest.approx(one(plain, name)), name


def test_negative_values_have_no_percentiles() -> None:
    """Percentiles are unavailable once a value is negative. Source: 'CloudWatch statistics definitions'."""
    store = stored([-1, 5])
    assert one(store, "Sum") == 4
    assert np.isnan(one(store, "p50"))
    assert np.isnan(one(store, "TC(0:)"))


def test_a_sample_is_visible_once_the_delay_is_over() -> None:
    """Readers of the latest minute see the prefix that has become visible, to the sample."""
    clock = Crank(T0)
    store = MetricStore(clock, delay_s=60)
    store.add(*WHERE, T0 + np.arange(60.0), 1.0)
    assert np.isnan(store.read(METRIC, "Sum", T0, 1)[0])
    for passed, visible in ((60, 1), (75.5, 16), (119, 60), (500, 60)):
        clock.time = T0 + passed
        assert store.read(METRIC, "Sum", T0, 1)[0] == visible


def test_what_was_shown_stays_when_the_delay_grows() -> None:
    """CloudWatch takes no datapoint back: the newest visible moment stops until time has caught up."""
    clock = Crank(T0)
    store = MetricStore(clock, delay_s=60)
    store.add(*WHERE, T0 + np.arange(60.0), 1.0)
    clock.time = T0 + 89
    store.publication.change(Lateness(delay_s=90))
    for passed, visible in ((89, 30), (119, 30), (129, 40), (149, 60)):
        clock.time = T0 + passed
        assert store.read(METRIC, "Sum", T0, 1)[0] == visible


def test_each_metric_has_a_delay_of_its_own() -> None:
    """Errors may be late while Invocations are not."""
    clock = Crank(T0 + 130)
    store = MetricStore(clock, delay_s=60)
    for name in ("Errors", "Invocations"):
        store.add("AWS/Lambda", name, {}, T0 + np.arange(60.0), 1.0)
    store.publication.change(Lateness(delay_s=60, delays_s={"Errors": 240}))

    def read(name: str) -> float:
        return float(store.read(Metric("AWS/Lambda", name, frozenset()), "Sum", T0, 1)[0])

    assert (read("Errors"), read("Invocations")) == (60, 60)  # published before the delay grew
    store.add("AWS/Lambda", "Errors", {}, T0 + 60 + np.arange(60.0), 1.0)
    clock.time = T0 + 240
    assert store.read(Metric("AWS/Lambda", "Errors", frozenset()), "Sum", T0 + 60, 1)[0] == 11  # shown at 130 s
    clock.time = T0 + 400
    assert store.read(Metric("AWS/Lambda", "Errors", frozenset()), "Sum", T0 + 60, 1)[0] == 60


def test_a_minute_may_be_revised() -> None:
    """A share of a minute's requests is added later; the same requests are late in every metric."""
    clock = Crank(T0)
    store = MetricStore(clock, delay_s=60)
    store.publication.change(Lateness(delay_s=60, revised_rate=0.2, revised_s=120))
    times = T0 + np.sort(np.random.default_rng(1).random(1000)) * 60
    for name in ("Errors", "Invocations"):
        store.add("AWS/Lambda", name, {}, times, 1.0)
    clock.time = T0 + 120
    first = [store.read(Metric("AWS/Lambda", name, frozenset()), "Sum", T0, 1)[0] for name in ("Errors", "Invocations")]
    assert first[0] == first[1] and 750 < first[0] < 850
    clock.time = T0 + 240
    assert store.read(Metric("AWS/Lambda", "Errors", frozenset()), "Sum", T0, 1)[0] == 1000


def test_a_sample_that_arrives_late_is_visible_from_its_arrival() -> None:
    """An old sample that is put now changes a minute that was whole before, once its own delay is over."""
    clock = Crank(T0 + 600)
    store = MetricStore(clock)
    store.add(*WHERE, np.array([T0 + 1]), 1.0)
    assert one(store, "Sum") == 1
    store.add(*WHERE, np.array([T0 + 2]), 5.0, arrived=T0 + 600)
    assert one(store, "Sum") == 1
    clock.time += 60
    assert one(store, "Sum") == 6


def test_results_do_not_depend_on_slices_or_readers() -> None:
    """However samples were sliced into adds, and however often anybody read meanwhile, the numbers are the same."""
    random = np.random.default_rng(7)
    times = np.sort(random.uniform(T0, T0 + 600, 5_000))
    values = random.gamma(2, 300, 5_000)
    statistics = [*BASIC, "p99", "tm90", "TC(900:)", "WM(5%:95%)"]

    def results(cuts: list[int], *, poll: bool) -> list[list[float]]:
        clock = Crank(T0)
        store = MetricStore(clock)
        for begin, end in itertools.pairwise([0, *cuts, len(times)]):
            store.add(*WHERE, times[begin:end], values[begin:end])
            if poll:
                clock.time = times[end - 1]
                store.read(METRIC, "p99", T0, 10)
        clock.time = T0 + 437.3
        return [store.read(METRIC, name, T0, 10).tolist() for name in statistics]

    whole = results([], poll=False)
    many = results(sorted(random.choice(np.arange(1, 5_000), 300, replace=False).tolist()), poll=True)
    assert np.array_equal(whole, many, equal_nan=True)


def test_a_longer_period_is_computed_over_all_of_its_samples() -> None:
    """A percentile of five minutes is not the mean of five percentiles."""
    random = np.random.default_rng(1)
    times, values = np.sort(random.uniform(T0, T0 + 300, 999)), random.gamma(2, 300, 999)
    store = MetricStore(Crank())
    store.add(*WHERE, times, values)
    assert store.read(METRIC, "p90", T0, 1, 300)[0] == np.sort(values)[900 - 1]
    assert store.read(METRIC, "SampleCount", T0, 1, 300)[0] == 999


def test_dimensions_match_exactly() -> None:
    """A metric with more or fewer dimensions is another one. Source: CloudWatch API reference, GetMetricStatistics."""
    store = MetricStore(Crank())
    store.add("N", "m", {"a": "1"}, np.array([T0]), 1.0)
    store.add("N", "m", {"a": "1", "b": "2"}, np.array([T0]), 10.0)
    for dimensions, expected in (({("a", "1")}, 1.0), ({("b", "2"), ("a", "1")}, 10.0), (set(), np.nan)):
        assert np.array_equal(
            store.read(Metric("N", "m", frozenset(dimensions)), "Sum", T0, 1), [expected], equal_nan=True
        )


def test_a_statistic_set_has_no_percentiles_unless_all_values_are_equal() -> None:
    """Aggregates of unequal values cannot be ranked. Source: 'Requirements to use percentiles'."""
    store = MetricStore(Crank())
    store.add_set(METRIC, T0, StatisticSet(3, 9, 3, 3), "None", T0)
    assert (one(store, "Sum"), one(store, "p50"), one(store, "SampleCount")) == (9, 3, 3)
    store.add_set(METRIC, T0, StatisticSet(2, 5, 1, 4), "None", T0)
    assert (one(store, "Sum"), one(store, "Minimum"), one(store, "Maximum"), one(store, "Average")) == (14, 1, 4, 2.8)
    assert np.isnan(one(store, "p50"))


def test_arrays_are_shared_and_left_alone() -> None:
    """Adding and reading change no array, so several dimension sets may share them."""
    times, values = T0 + np.arange(100.0), np.arange(100.0)[::-1].copy()
    times.flags.writeable = values.flags.writeable = False
    store = MetricStore(Crank())
    for name in ("a", "b"):
        store.add("N", name, {}, times, values)
        assert store.read(Metric("N", name, frozenset()), "p50", T0, 2).tolist() == [69, 19]


def test_a_million_samples_are_read_in_time() -> None:
    """Eight queries over three hours at 6,000 samples a minute stay far below a second, cold."""
    random = np.random.default_rng(0)
    store = MetricStore(Crank())
    for minute in range(180):
        times = np.sort(random.uniform(0, 60, 6_000)) + T0 + 60 * minute
        store.add(*WHERE, times, random.gamma(2, 300, 6_000))
    begin = time.perf_counter()
    for name in ("SampleCount", "Sum", "Average", "p50", "p99", "TC(6000:)", "PR(:6000)", "tm99"):
        assert len(store.read(METRIC, name, T0, 180)) == 180
    assert time.perf_counter() - begin < 1.0
