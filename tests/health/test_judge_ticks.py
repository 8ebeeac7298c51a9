"""The judge on ticks: the same as on minutes where a tick is a minute, exact at any length, and the same once resumed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from math import comb, factorial, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buddy_ops.health.counts import Counts, Minute, StreamName, Tick
from buddy_ops.health.judge import Judge, StreamScores
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import EProcess
from tests.conftest import sampled
from tests.health.recorded_rollouts import ROLLOUTS, arithmetic, by_minutes, digest, recorded_digests
from tests.health.test_judge_exactness import BURSTS, FAIR, binomial, counts

WEIGHTS = (0.0005, 0.01, 0.1, 0.37, 0.5, 0.9)
MOST = 12
ALL = pytest.approx(1.0)


# A tick of a minute


def judged_as_recorded(feed: str) -> list[int]:
    """The rollouts that are judged otherwise than recorded."""
    machine, *recorded = recorded_digests()
    if machine != arithmetic():
        pytest.skip("this C library rounds exp() or log() otherwise")
    how = by_minutes if feed == "minutes" else by_ticks
    return [number for number in range(ROLLOUTS) if digest(number, how) != recorded[number]]


def by_ticks(judge: Judge, minute: Minute, first: bool) -> None:
    """A minute as one tick of 60 seconds; what a tick says otherwise, or does not say, as a minute."""
    if minute.weight_changed or minute.canary_requests_at_most or minute.canary.cold or minute.stable.cold:
        judge.observe(minute)
        return
    unread: set[StreamName] = set(minute.unread)
    if first:
        unread.add("slow")
    stable = minute.stable
    judge.observe_tick(Tick(60, minute.weight, minute.canary, stable.errors, stable.slow, unread=frozenset(unread)))
    judge.observe(replace(minute, judged_by_ticks=True))


@pytest.mark.parametrize("feed", sampled(["minutes", "ticks"], {"ticks"}))
def test_recorded_rollouts_are_judged_as_before_bit_for_bit(feed: str) -> None:
    """500 rollouts of every kind, all scores and verdicts of each minute; also where each minute is a tick."""
    assert judged_as_recorded(feed) == []


# Exactness


def scores_after(ticks: Sequence[Tick], stream: StreamName = "errors") -> StreamScores:
    """The evidence in one stream after these ticks."""
    judge = Judge()
    for tick in ticks:
        judge.observe_tick(tick)
    scores = judge.scores()
    return scores.errors if stream == "errors" else scores.slow


@cache
def compared(events: int, weight: float, least: float) -> list[tuple[float, float]]:
    """The evidence (base, better) of one tick in which so many requests failed, by how many were the canary's."""
    found = []
    for x1 in range(events + 1):
        scores = scores_after([Tick(10, weight, Counts(MOST, x1), events - x1, least_weight=least)])
        found.append((scores.base, scores.better))
    return found


def mean_of(chances: Sequence[float], values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of both values over the numbers of events that have these chances."""
    base = sum(chance * value for chance, (value, _) in zip(chances, values, strict=True))
    return base, sum(chance * value for chance, (_, value) in zip(chances, values, strict=True))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_comparison_of_a_tick_is_exact(weight: float) -> None:
    """Each failure is the canary's with chance ``weight`` if the versions do not differ: both directions mean 1."""
    for events in range(MOST + 1):
        chances = [binomial(x, events, weight) for x in range(events + 1)]
        base, better = mean_of(chances, compared(events, weight, weight))
        assert (base, better) == (ALL, ALL)


@pytest.mark.parametrize(("least", "weight"), list(combinations((0.0, *WEIGHTS, 1.0), 2)))
def test_the_comparison_is_fair_where_the_weight_moved_in_the_tick(least: float, weight: float) -> None:
    """However many of the failures fell under the smaller weight, and how many under the larger one."""
    for events in range(MOST + 1):
        for before in range(events + 1):
            chances = [0.0] * (events + 1)
            for i, j in product(range(before + 1), range(events - before + 1)):
                chances[i + j] += binomial(i, before, least) * binomial(j, events - before, weight)
            assert max(mean_of(chances, compared(events, weight, least))) <= FAIR


def splits(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to divide a number into so many parts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in splits(total - first, parts - 1):
            yield (first, *rest)


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(("cold", "stable_cold"), [(0.0, 0.0), (0.5, 0.02), (0.02, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize(("slow", "cold_slow"), [(0.05, 0.05), (0.02, 0.9), (0.3, 1.0)])
def test_cold_starts_speak_against_neither_version(
    weight: float, cold: float, stable_cold: float, slow: float, cold_slow: float
) -> None:
    """Whatever part of either version's requests are cold starts, as long as a cold one is no less often slow."""
    chances = [
        weight * (1 - cold) * slow,
        weight * cold * cold_slow,
        (1 - weight) * (1 - stable_cold) * slow,
        (1 - weight) * stable_cold * cold_slow,
    ]
    chances.append(1 - sum(chances))
    base = better = 0.0
    for split in splits(5, 5):
        chance = prod(p**n / factorial(n) for p, n in zip(chances, split, strict=True)) * factorial(5)
        warm, colds, stable_warm, stable_colds, _ = split
        canary = Counts(9, slow=warm + colds, cold=colds, cold_slow=colds)
        tick = Tick(10, weight, canary, stable_slow=stable_warm + stable_colds, stable_cold_slow=stable_colds)
        scores = scores_after([tick], "slow")
        base += chance * scores.base
        better += chance * scores.better
    assert max(base, better) <= FAIR


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 2)), max_size=5), st.sampled_from(WEIGHTS))
def test_ticks_of_any_length_are_exact(lengths: list[tuple[int, int]], weight: float) -> None:
    """However a rollout is cut into ticks: over all failures the mean is 1, as of minutes."""
    sizes = [requests for _, requests in lengths]
    mean = {"slo": 0.0, "ok": 0.0, "base": 0.0, "better": 0.0}
    for xs in product(*(range(size + 1) for size in sizes)):
        cut = list(zip(lengths, xs, strict=True))
        alone = scores_after([Tick(seconds, weight, Counts(n, x)) for (seconds, n), x in cut])
        beside = scores_after([Tick(seconds, weight, Counts(9, x), n - x) for (seconds, n), x in cut])
        for name, scores, rate in (
            ("slo", alone, 0.01),
            ("ok", alone, 0.015),
            ("base", beside, weight),
            ("better", beside, weight),
        ):
            chance = prod(comb(n, x) * rate**x * (1 - rate) ** (n - x) for x, n in zip(xs, sizes, strict=True))
            mean[name] += chance * getattr(scores, name)
    assert mean == dict.fromkeys(mean, ALL)


@pytest.mark.parametrize("seconds", [5, 10, 20, 30])
def test_what_waits_for_late_changes_is_staked_by_time(seconds: int) -> None:
    """After ten minutes, ticks have left as much for later as minutes have; a longer silence stakes no more than one."""
    parts, whole, seldom = (EProcess(((2.0, 1.0),), first_stake=0.8) for _ in range(3))
    for _ in range(600 // seconds):
        parts.update(0, 1, 0.01, seconds / 60)
    for _ in range(10):
        whole.update(0, 1, 0.01)
        for _ in range(180 // seconds):
            seldom.update(0, 0, 0.01, seconds / 60)
        seldom.update(0, 1, 0.01, seconds / 60)
    assert parts.idle == pytest.approx(whole.idle, rel=0.04)
    assert seldom.idle == pytest.approx(whole.idle)


# The same ticks, the same judge

ticks = st.builds(
    Tick,
    st.sampled_from([5, 10, 30, 60]),
    st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    counts(),
    st.integers(0, 9),
    st.integers(0, 5),
    least_weight=st.sampled_from([None, 0.0, 0.01]),
    unread=st.sampled_from([frozenset(), frozenset(("slow",))]),
)
minutes = st.builds(
    Minute, st.sampled_from([0.01, 0.1, 0.5, 1.0]), counts(), counts(), st.booleans(), judged_by_ticks=st.booleans()
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(ticks, minutes), max_size=30), st.sets(st.integers(0, 29)), st.booleans())
def test_a_judge_that_is_resumed_equals_the_one_that_ran(
    shown: list[Tick | Minute], stages: set[int], final: bool
) -> None:
    """Asked after each tick or only at the end: the same ticks and minutes in the same order give the same judge."""
    ran, resumed = Judge(JudgePolicy(), BURSTS), Judge(JudgePolicy(), BURSTS)
    for judge in (ran, resumed):
        for at, part in enumerate(shown):
            if at in stages:
                judge.next_stage()
            if isinstance(part, Tick):
                judge.observe_tick(part)
            else:
                judge.observe(part)
            if judge is ran:
                assert judge.verdict(10.0 * at, 300.0, final).reasons
    assert ran == resumed
    assert ran.verdict(300.0, 300.0, final) == resumed.verdict(300.0, 300.0, final)
    resumed.observe_tick(Tick(10, 0.1, Counts(60)))
    assert ran != resumed


def decision_by(seconds: int, rate: float, rng: random.Random) -> str:
    """What is decided at the end of five minutes at 600 requests a minute and a weight of 10 %, in such ticks."""
    parts = [
        (sum(rng.random() < rate for _ in range(10)), sum(rng.random() < 0.003 for _ in range(90))) for _ in range(30)
    ]
    size = seconds // 10
    judge = Judge()
    for at in range(0, 30, size):
        cut = parts[at : at + size]
        judge.observe_tick(Tick(seconds, 0.1, Counts(10 * size, sum(x for x, _ in cut)), sum(x for _, x in cut)))
        if (at + size) % 6 == 0:
            whole = parts[at + size - 6 : at + size]
            stable = Counts(540, sum(x for _, x in whole))
            judge.observe(Minute(0.1, stable, Counts(60, sum(x for x, _ in whole)), judged_by_ticks=True))
    return judge.verdict(300.0, 300.0).decision


@pytest.mark.parametrize("rate", [0.003, 0.05, 0.2, 1.0])
def test_other_batches_of_the_same_requests_decide_the_same(rate: float) -> None:
    """25 rollouts, each in ticks of 10, 20 and 60 seconds."""
    for seed in range(25):
        decisions = {decision_by(seconds, rate, random.Random(seed)) for seconds in (10, 20, 60)}
        assert len(decisions) == 1


# What ticks say, and what minutes say beside them


def beside_ticks(stable: Counts, canary: Counts, weight: float = 0.1) -> Minute:
    """A minute that ticks have shown."""
    return Minute(weight, stable, canary, judged_by_ticks=True)


def test_a_minute_that_ticks_have_shown_is_read_for_stable_only() -> None:
    """What it says of the canary is no evidence again; what it says of stable is."""
    judge = Judge()
    judge.observe(beside_ticks(Counts(540, 108), Counts(60, 60)))
    scores = judge.scores().errors
    assert (scores.slo, scores.base, scores.better, scores.ok) == (1.0, 1.0, 1.0, 1.0)
    assert scores.stable > 20
    assert judge.verdict(60.0, 300.0).finding == "external"


def test_a_late_minute_does_not_take_back_what_a_tick_said_of_the_weight() -> None:
    """Minutes come later than ticks: a version alone is measured by the limit alone, whatever the last minute was."""
    judge = Judge()
    judge.observe_tick(Tick(10, 1.0, Counts(100, 20)))
    judge.observe(beside_ticks(Counts(300), Counts(300), 0.5))
    assert judge.verdict(10.0, 300.0, final=True).decision == "rollback"


def test_a_stage_is_not_read_by_the_minutes_of_the_one_before() -> None:
    """A tick of the stage itself is needed."""
    judge = Judge()
    judge.observe_tick(Tick(10, 0.1, Counts(10)))
    judge.next_stage()
    judge.observe(beside_ticks(Counts(540), Counts(60)))
    assert judge.verdict(300.0, 300.0).finding == "unread"
    judge.observe_tick(Tick(10, 0.1, Counts(10)))
    assert judge.verdict(300.0, 300.0).decision == "promote"


def test_the_latest_minutes_are_five_minutes_of_ticks() -> None:
    """Failures of the latest minute hold a version that had none for long, and five minutes later they do not."""
    judge = Judge()
    for failures in [0] * 72 + [2] * 5 + [1]:
        judge.observe_tick(Tick(10, 0.5, Counts(50, failures)))
    verdict = judge.verdict(900.0, 300.0)
    assert (verdict.finding, verdict.minutes, verdict.compared.counts.canary_requests) == ("recent", 5, 1500)
    for _ in range(30):
        judge.observe_tick(Tick(10, 0.5, Counts(50)))
    assert judge.verdict(900.0, 300.0).decision == "promote"


@pytest.mark.parametrize(("by_ticks", "at_half"), [(True, "hold"), (False, "promote")])
def test_one_failure_is_enough_to_wait_where_that_costs_little(by_ticks: bool, at_half: str) -> None:
    """On a rung of the ramp, and by the log in any stage. A stage of the policy goes on where minutes decide, whatever
    the settings say of the log: by minutes it would wait for minutes.
    """
    policy = JudgePolicy(early_below=0.1, early_below_by_ticks=1.0)
    found = {}
    for weight in (0.09, 0.5):
        judge = Judge(policy)
        for failures in (0, 1):
            canary = Counts(10, failures)
            judge.observe(Minute(weight, Counts(90), canary, judged_by_ticks=by_ticks))
            if by_ticks:
                judge.observe_tick(Tick(60, weight, canary))
        found[weight] = judge.verdict(300.0, 300.0).decision
    assert found == {0.09: "hold", 0.5: at_half}


def test_failures_that_come_together_are_weighed_over_a_minute_and_not_over_a_tick() -> None:
    """Four failures in ten seconds and none before: over the limit in a tick, and not in a minute."""
    judge = Judge()
    for failures in [0] * 72 + [4]:
        judge.observe_tick(Tick(10, 0.5, Counts(50, failures)))
    assert judge.verdict(900.0, 300.0).decision == "promote"


def test_a_verdict_by_ticks_names_the_failures_of_stable_and_no_rate() -> None:
    """Its requests are not counted there."""
    judge = Judge(stable_name="v41", canary_name="v42")
    for _ in range(3):
        judge.observe_tick(Tick(10, 0.1, Counts(20, 10), 1))
    first, second, third = judge.verdict(30.0, 300.0).reasons
    assert first == "v42 error rate 50 % (30 of 60 requests, limit 1 %); v41 had 3 failed requests in the same time."
    assert second == "p < 0.000001 that the difference is random."
    assert third.startswith("Over the 1 % limit")
