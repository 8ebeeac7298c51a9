"""Versions compared in streams of events: fair at any share, the same after a resumption, and said in plain sentences."""

from collections.abc import Iterator
from functools import reduce
from itertools import product
from math import inf
from random import Random
from typing import Any

import pytest

from benchmarks.judge import streams as benchmark
from buddy_ops.core import settings
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.settings import MetricName, SlowerThan, StreamSettings
from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import PairedCounts
from buddy_ops.health.streams import (
    HOLD_AT,
    MARGIN_AT,
    SURELY_AT,
    StreamReading,
    StreamTest,
    StreamTests,
    local_dispersion,
)
from buddy_ops.health.verdict import Verdict
from tests.health.test_judge_exactness import binomial, hypergeometric

SOON = 5
FAIR = 1 + 1e-9
REMINDERS = MetricName(namespace="Buddy", name="RemindersSet")
SIZES = [(n0, n1) for n0 in range(1, 12) for n1 in range(1, 13 - n0)]
"""All shares of a minute of up to 12 requests."""


def stream(worse: str = "more", margin: float = 0.5, **more: Any) -> StreamSettings:
    """A stream of a counter, from its first request on."""
    values = {"name": "reminders", "events": REMINDERS, "from_requests": 0, "worse": worse, "margin": margin}
    return StreamSettings.model_validate({**values, **more})


def reading(spec: StreamSettings, *minutes: PairedCounts, history: tuple[tuple[int, int], ...] = ()) -> StreamReading:
    """What these minutes show."""
    test = StreamTest(spec, history)
    for minute in minutes:
        test.update(minute, minute.canary_requests)
    return test.read()


def evidence(spec: StreamSettings, *minutes: PairedCounts, history: tuple[tuple[int, int], ...] = ()) -> float:
    """What these minutes say against the new version."""
    return reading(spec, *minutes, history=history).evidence


CASES = [("more", 0.0), ("more", 0.25), ("more", 0.5), ("more", 2.0), ("less", 0.0), ("less", 0.1), ("less", 0.5)]


@pytest.mark.parametrize(("worse", "margin"), CASES)
def test_it_is_fair_for_any_events_that_fall_where_they_may(worse: str, margin: float) -> None:
    """Given the events of a minute, which of its requests had them makes no difference: the mean is at most 1."""
    for n0, n1 in SIZES:
        for events in range(n0 + n1 + 1):
            mean = at_all = 0.0
            for x1 in range(max(0, events - n0), min(events, n1) + 1):
                chance = hypergeometric(x1, n1, events, n0 + n1)
                shown = reading(stream(worse, margin), PairedCounts(x1, n1, events - x1, n0))
                mean += chance * shown.evidence
                at_all += chance * shown.at_all
            assert max(mean, at_all) <= FAIR, (n0, n1, events)


@pytest.mark.parametrize(("worse", "margin"), CASES)
@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_it_is_fair_at_the_margin_itself(worse: str, margin: float, rate: float) -> None:
    """A version that is worse by exactly the margin: the mean is at most 1, whatever the share."""
    ratio = 1 + margin if worse == "more" else 1 - margin
    for n0, n1 in SIZES[::3]:
        mean = sum(
            binomial(x0, n0, rate)
            * binomial(x1, n1, rate * ratio)
            * evidence(stream(worse, margin), PairedCounts(x1, n1, x0, n0))
            for x0, x1 in product(range(n0 + 1), range(n1 + 1))
        )
        assert mean <= FAIR, (n0, n1)


def minutes_of(sizes: list[tuple[int, int]]) -> Iterator[tuple[PairedCounts, ...]]:
    """All ways in which requests of these minutes have events."""
    for events in product(*(product(range(n1 + 1), range(n0 + 1)) for n0, n1 in sizes)):
        yield tuple(PairedCounts(x1, n1, x0, n0) for (x1, x0), (n0, n1) in zip(events, sizes, strict=True))


@pytest.mark.parametrize(("worse", "margin"), CASES[2::2])
@pytest.mark.parametrize("sizes", [[(3, 1), (2, 2), (1, 3)], [(2, 1), (0, 2), (3, 2)]])
def test_it_is_fair_over_minutes_whose_share_moves(worse: str, margin: float, sizes: list[tuple[int, int]]) -> None:
    """Also where a minute has requests of one version only, and with bursts in the history."""
    ratio = 1 + margin if worse == "more" else 1 - margin
    bursts = tuple((12 if at % 10 == 0 else 0, 60) for at in range(60))
    for history in ((), bursts):
        mean = 0.0
        for minutes in minutes_of(sizes):
            chance = reduce(
                lambda total, each: (
                    total
                    * binomial(each.stable_events, each.stable_requests, 0.2)
                    * binomial(each.canary_events, each.canary_requests, 0.2 * ratio)
                ),
                minutes,
                1.0,
            )
            mean += chance * evidence(stream(worse, margin), *minutes, history=history)
        assert mean <= FAIR


def test_the_share_is_that_of_the_requests_and_not_the_weight() -> None:
    """With a fifth of requests over the bound, a split that is off by a tenth would look like a slower version."""
    off = PairedCounts(132, 660, 1068, 5340)
    assert evidence(stream(margin=0.0), *[off] * 10) < 1.0


def test_a_drifting_rate_is_no_burst_and_a_burst_is_one() -> None:
    """Reminders are set in the morning, by users of both versions; failures of one minute belong together."""
    drifting = [(60 + at // 3, 600) for at in range(600)]
    assert local_dispersion(drifting) < 1.3
    assert local_dispersion([(30 if at % 10 == 0 else 0, 600) for at in range(600)]) > 4
    assert local_dispersion([(4, 600)]) == local_dispersion([]) == 1.0
    assert evidence(stream(), *[PairedCounts(9, 60, 9, 540)] * 3, history=tuple(drifting)) > evidence(
        stream(),
        *[PairedCounts(9, 60, 9, 540)] * 3,
        history=tuple((30 if at % 10 == 0 else 0, 600) for at in range(99)),
    )


def test_more_events_than_requests_count_once_each() -> None:
    """A request has at most one event: two reminders in one request are one."""
    assert evidence(stream(), PairedCounts(90, 60, 700, 540)) == evidence(stream(), PairedCounts(60, 60, 540, 540))


def test_the_first_requests_are_left_out() -> None:
    """They start environments; the minute that reaches the number counts."""
    late = stream(from_requests=100)
    bad = PairedCounts(30, 60, 30, 540)
    assert evidence(late, bad) == 1.0
    assert evidence(late, bad, bad) == evidence(stream(), bad) > SURELY_AT


def test_within_its_objective_a_version_is_not_worse() -> None:
    """A rate that is accepted in any case: without evidence that it is missed, nothing is held."""
    worse = PairedCounts(18, 600, 18, 5400)
    for objective, held in ((None, True), (0.05, False), (0.01, True)):
        test = StreamTest(stream(objective=objective), ())
        test.update(worse, 600)
        assert test.holds is held
    fewer = StreamTest(stream("less", 0.1, objective=0.1), ())
    fewer.update(PairedCounts(120, 600, 1620, 5400), 600)
    assert fewer.is_worse(SURELY_AT) is fewer.holds is False


def judged(specs: list[StreamSettings], *minutes: list[PairedCounts | None], bound_ms: float | None = 283.4) -> Judge:
    """A judge whose limits are kept, and whose streams saw these minutes."""
    tests = StreamTests([StreamTest(spec, (), bound_ms) for spec in specs])
    rollback = sum(spec.on == "rollback" for spec in specs)
    judge = Judge(JudgePolicy(rollback_streams=rollback), stable_name="v41", canary_name="v42", streams=tests)
    for minute in minutes:
        judge.observe(Minute(0.10, Counts(540), Counts(60)))
        tests.update(minute, 60, moving=False)
    return judge


def after(judge: Judge, baked_s: float = 300.0, final: bool = False) -> Verdict:
    """Its verdict on a stage of 5 minutes."""
    return judge.verdict(baked_s=baked_s, bake_s=300.0, final=final)


ERRORS = StreamSettings(name="errors", events="errors")
LATENCY = StreamSettings(name="latency", events=SlowerThan(slower_than="p90"), margin=0.25)
FEWER = stream("less", 0.1)


def test_a_worse_version_is_held_and_rolled_back_without_blame_after_the_stretch() -> None:
    """As with any doubt: ten minutes for a decision, then the traffic goes back. At 100 % the watch ends it."""
    judge = judged([ERRORS], *[[PairedCounts(5, 60, 6, 540)]] * 3)
    assert (after(judge).decision, after(judge).finding, after(judge).expired) == ("hold", "worse", False)
    assert after(judge, 900.0).expired
    assert after(judge, 900.0).reasons[-1] == "No decision came within 10 min after the bake."
    assert not after(judge, 9000.0, final=True).expired
    assert after(judge, 9000.0, final=True).decision == "hold"


def test_a_stage_does_not_end_in_doubt() -> None:
    """Surely worse, and not surely by more than the margin: the stage waits, and says that more requests decide."""
    judge = judged([ERRORS], *[[PairedCounts(4, 60, 7, 540)]] * 2)
    (reading,) = judge.streams.read()
    assert MARGIN_AT <= reading.evidence < SURELY_AT and reading.at_all >= HOLD_AT["more"]
    assert reading.result == "probably worse"
    for baked_s in (240.0, 300.0):
        held = after(judge, baked_s)
        assert (held.decision, held.finding) == ("hold", "worse")
    assert held.reasons[1:] == (
        "This is 5.1 times the rate of v41 (p < 0.03 that the difference is random); at most 1.5 times is allowed.",
        "Inconclusive: the stage waits for more requests.",
    )
    assert after(judge, 900.0).expired


@pytest.mark.parametrize(("worse", "margin"), CASES)
def test_what_is_worse_by_more_than_the_margin_is_worse_at_all(worse: str, margin: float) -> None:
    """A wider margin takes evidence away, and never adds any."""
    for n0, n1 in SIZES[::5]:
        for x0, x1 in product(range(n0 + 1), range(n1 + 1)):
            shown = reading(stream(worse, margin), PairedCounts(x1, n1, x0, n0))
            assert shown.at_all >= shown.evidence / FAIR


def test_a_stream_may_roll_back() -> None:
    """Then its two tests take their part of the chance of an error: with two such streams the threshold is 1,600."""
    specs = [ERRORS.model_copy(update={"on": "rollback"}), FEWER.model_copy(update={"on": "rollback"})]
    few = judged(specs, *[[PairedCounts(5, 60, 6, 540), None]] * 3)
    assert few.policy.rollback_at == 1600
    assert after(few).decision == "hold"
    many = judged(specs, *[[PairedCounts(9, 60, 6, 540), None]] * 3)
    assert (after(many).decision, after(many).stable_test) == ("rollback", None)


def test_what_a_person_accepted_holds_no_more() -> None:
    """Another stream that is worse is a new reason, and a stream that rolls back does so whatever was accepted."""
    both = [PairedCounts(9, 60, 6, 540), PairedCounts(6, 60, 162, 540)]
    judge = judged([ERRORS, FEWER], *[both] * 4)
    second = judge.verdict(300.0, 300.0, accepted=("errors",))
    assert second.worse_in is not None and second.worse_in.spec.name == "reminders"
    assert judge.verdict(300.0, 300.0, accepted=("errors", "reminders")).decision == "promote"
    severe = judged([ERRORS.model_copy(update={"on": "rollback"})], *[[PairedCounts(9, 60, 6, 540)]] * 3)
    assert severe.verdict(300.0, 300.0, accepted=("errors",)).decision == "rollback"


def test_held_streams_leave_the_threshold_of_a_rollback_alone() -> None:
    """They roll nothing back, so they need no part of its chance of an error."""
    assert judged([ERRORS, LATENCY, FEWER]).policy.rollback_at == 800


def test_good_and_unknown_minutes_hold_nothing() -> None:
    """As many events as stable, or none that could be read."""
    good = judged([ERRORS, FEWER], *[[PairedCounts(1, 60, 9, 540), PairedCounts(18, 60, 162, 540)]] * 9)
    assert after(good).decision == "promote"
    assert after(judged([ERRORS, FEWER], *[[None, None]] * 9)).decision == "promote"


def test_latency_is_not_compared_while_traffic_moves() -> None:
    """New environments are slow for a moment; errors count all the same."""
    slow = PairedCounts(50, 60, 54, 540)
    tests = StreamTests([StreamTest(LATENCY, (), 283.4), StreamTest(ERRORS, ())])
    tests.update([slow, slow], 60, moving=True)
    latency, errors = tests.read()
    assert latency.evidence == 1.0 < SURELY_AT < errors.evidence


def test_the_reasons_name_both_rates_the_difference_and_what_to_do() -> None:
    """Which stream, how much worse, how much is allowed, and the operator's two ways."""
    held = judged([ERRORS, LATENCY], *[[None, PairedCounts(24, 60, 54, 540)]] * 3)
    assert after(held).reasons == (
        "v42 requests over 283 ms 40 % (72 of 180 requests), v41 10 % (162 of 1,620) in the same minutes.",
        "This is 4 times the rate of v41; at most 1.25 times is allowed (p < 0.000001).",
        "The rollout waits for a decision: promote the stage if the change is intended, or abort.",
        "A larger margin of 'latency' in settings.streams allows it.",
    )
    fewer = judged([FEWER], *[[PairedCounts(6, 60, 162, 540)]] * 4)
    assert after(fewer).reasons[:2] == (
        "v42 reminders 10 % (24 of 240 requests), v41 30 % (648 of 2,160) in the same minutes.",
        "This is 67 % less than v41; at most 10 % less is allowed (p < 0.000003).",
    )
    none = judged([ERRORS], *[[PairedCounts(3, 60, 0, 540)]] * 2)
    assert after(none).reasons[1].startswith("This is more than v41 has; at most 1.5 times is allowed (p < ")


def test_the_report_says_which_differences_would_not_have_been_found() -> None:
    """At 60 requests a minute a drop by a third is beyond reach; at 6,000 a tenth more is not."""
    results = {}
    for traffic in (60, 6000):
        minute = PairedCounts(traffic * 3 // 100, traffic // 10, traffic * 27 // 100, traffic * 9 // 10)
        (reading,) = judged([FEWER], *[[minute]] * 10).streams.read()
        results[traffic] = reading.result
    assert results[60].startswith("not worse (found from ")
    drops = {traffic: float(result.split("from ")[1].split(" %")[0]) for traffic, result in results.items()}
    assert drops[60] > 50 and 10 < drops[6000] < 30
    (empty,) = judged([FEWER]).streams.read()
    assert empty.line("v42", "v41") == "reminders: not compared: too few requests."
    (reading,) = judged([LATENCY], *[[PairedCounts(6, 60, 54, 540)]] * 10).streams.read()
    assert reading.line("v42", "v41").startswith(
        "latency: v42 requests over 283 ms 10 %, v41 10 %; at most 1.25 times is allowed: not worse (found from 1."
    )
    (rare,) = judged([ERRORS], [PairedCounts(0, 60, 1, 540)]).streams.read()
    assert rare.result == "too little traffic to find a difference"
    (mute,) = judged([FEWER], [PairedCounts(0, 60, 0, 540)]).streams.read()
    assert mute.result == "not compared: its metric has no events"
    (unbounded,) = judged([LATENCY], [None], bound_ms=None).streams.read()
    assert unbounded.result == "not compared: the history has no durations"


def test_a_rebuilt_judge_is_the_one_that_ran() -> None:
    """Any minutes, unknown ones among them: the same evidence, whenever it was asked for."""
    random = Random(5)
    minutes: list[list[PairedCounts | None]] = []
    for _ in range(60):
        n0, n1 = random.randrange(600), random.randrange(600)
        known = PairedCounts(random.randrange(n1 + 1), n1, random.randrange(n0 + 1), n0)
        minutes.append([random.choice([known, None]), known])
    ran = judged([ERRORS, FEWER])
    for minute in minutes:
        ran.observe(Minute(0.10, Counts(540), Counts(60)))
        ran.streams.update(minute, 60, moving=False)
        after(ran)
    assert ran == judged([ERRORS, FEWER], *minutes)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"events": "apologies"}, "streams.0.events: Input should be 'errors'"),
        ({"events": {"slower_than": "p9"}}, "streams.0.events.slower_than"),
        ({"events": {"slower_than": "p100"}}, "streams.0.events.slower_than"),
        ({"events": {"slower_than": 0}}, "streams.0.events.slower_than"),
        ({"events": {"namespace": "Buddy"}}, "streams.0.events.name: Field required"),
        ({"events": {"namespace": "A", "name": "B", "dimensions": {"C": "d"}}}, "must name the version"),
        ({"events": "errors", "worse": "less"}, "fewer errors or slow requests are not worse"),
        ({"events": "errors", "of": {"namespace": "A", "name": "B"}}, "a part of requests"),
        ({"worse": "less", "margin": 1}, "margin must be below 1"),
        ({"margin": -0.1}, "greater than or equal to 0"),
        ({"objective": 1}, "less than 1"),
        ({"on": "page"}, "'hold' or 'rollback'"),
        ({"name": "a/b"}, "streams.0.name"),
        ({"from_requests": -1}, "streams.0.from_requests"),
    ],
)
def test_a_wrong_stream_is_refused_by_its_key(wrong: dict[str, Any], said: str) -> None:
    """With the key as the file has it."""
    values = {"name": "x", "events": {"namespace": "Buddy", "name": "RemindersSet"}, **wrong}
    with pytest.raises(InvalidInput) as refused:
        settings.validate_settings({"function": "f", "streams": [values]}, "file")
    assert said in refused.value.what


def test_streams_have_names_of_their_own_and_defaults() -> None:
    """Two of one name could not be told apart in a report. None is a choice, too."""
    two = [{"name": "a", "events": "errors"}] * 2
    with pytest.raises(InvalidInput, match="a name of its own"):
        settings.validate_settings({"function": "f", "streams": two}, "file")
    assert settings.validate_settings({"function": "f", "streams": []}, "file").streams == ()
    found = settings.validate_settings({"function": "f"}, "file").streams
    assert [(each.name, each.margin, each.on) for each in found] == [("errors", 0.5, "hold"), ("latency", 0.25, "hold")]


def test_a_sample_of_the_simulation_holds_worse_builds_only() -> None:
    """Of each a few rollouts at 600 requests a minute: twice as slow is held within 5 minutes, and good builds are not."""
    cells = {(cell.name, cell.traffic): cell for cell in benchmark.CELLS}
    _, good = benchmark.run((cells["good", 600], 40, 7))
    assert not any(each.waits_at < inf or each.rolled_back_at < inf or each.given_back for each in good)
    _, slow = benchmark.run((cells["latency doubled", 600], 10, 7))
    assert all(each.waits_at <= SOON and each.given_back for each in slow)
    _, fewer = benchmark.run((cells["counter -30 %, rolls back", 6000], 10, 7))
    assert all(each.rolled_back_at <= SOON for each in fewer)
