"""What the judge guarantees: fair scores, and verdicts that depend on the minutes and nothing else."""

import copy
from collections.abc import Iterator
from functools import reduce
from itertools import product
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge, StreamScores
from buddy_ops.health.judge_policy import JudgePolicy

FAIR = 1 + 1e-12
BURSTS = tuple(Counts(600, 12 if at % 10 == 0 else 0) for at in range(60))


def binomial(x: int, n: int, p: float) -> float:
    """The chance of x events in n."""
    return comb(n, x) * p**x * (1 - p) ** (n - x)


def hypergeometric(x: int, drawn: int, bad: int, total: int) -> float:
    """The chance that x of the bad ones are among those drawn."""
    return comb(bad, x) * comb(total - bad, drawn - x) / comb(total, drawn)


def outcomes(sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """All numbers of events in minutes of these sizes."""
    return product(*(range(n + 1) for n in sizes))


def errors_after(minutes: list[Minute], history: tuple[Counts, ...] = ()) -> StreamScores:
    """The evidence in errors after these minutes."""
    judge = Judge(JudgePolicy(), history)
    for minute in minutes:
        judge.observe(minute)
    return judge.scores().errors


SIZES = [[6], [3, 0, 2, 4], [1, 2, 1, 1, 2, 1]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rate", [0.01, 0.004, 0.0])
def test_the_score_against_the_objective_is_fair(sizes: list[int], rate: float) -> None:
    """Over all failures of a few requests, restarts included, its mean is 1 at the objective and less within it."""
    mean = {"slo": 0.0, "stable": 0.0}
    for xs in outcomes(sizes):
        chance = reduce(lambda total, pair: total * binomial(pair[0], pair[1], rate), zip(xs, sizes, strict=True), 1.0)
        canary = errors_after([Minute(0.5, Counts(), Counts(n, x)) for x, n in zip(xs, sizes, strict=True)])
        stable = errors_after([Minute(0.5, Counts(n, x), Counts()) for x, n in zip(xs, sizes, strict=True)])
        mean["slo"] += chance * canary.slo
        mean["stable"] += chance * stable.stable
    for value in mean.values():
        assert value == pytest.approx(1.0) if rate == 0.01 else value < 1.0


@pytest.mark.parametrize("failures", [[5], [2, 0, 3], [1, 2, 1, 1, 2]])
@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5])
def test_the_comparison_is_exact_whatever_the_failures_of_a_minute(failures: list[int], weight: float) -> None:
    """If the version does not matter, each failure is the canary's with chance `weight`: both directions mean 1."""
    base = better = 0.0
    for xs in outcomes(failures):
        pairs = list(zip(xs, failures, strict=True))
        chance = reduce(lambda total, pair: total * binomial(*pair, weight), pairs, 1.0)
        evidence = errors_after([Minute(weight, Counts(9, f - x), Counts(9, x)) for x, f in pairs])
        base += chance * evidence.base
        better += chance * evidence.better
    assert base == pytest.approx(1.0)
    assert better == pytest.approx(1.0)


@pytest.mark.parametrize(("n1", "n0", "failures"), [(2, 6, 3), (5, 3, 4), (1, 1, 1), (4, 4, 8)])
def test_the_comparison_is_fair_where_the_weight_moved(n1: int, n0: int, failures: int) -> None:
    """By the share of requests: given those of both versions, failures fall as if drawn, and the mean is at most 1."""
    base = better = 0.0
    for first, second in product(range(max(0, failures - n0), min(n1, failures) + 1), repeat=2):
        chance = hypergeometric(first, n1, failures, n0 + n1) * hypergeometric(second, n1, failures, n0 + n1)
        minutes = [Minute(0.9, Counts(n0, failures - x), Counts(n1, x), weight_changed=True) for x in (first, second)]
        evidence = errors_after(minutes)
        base += chance * evidence.base
        better += chance * evidence.better
    assert base <= FAIR
    assert better <= FAIR


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("rate", [0.015, 0.02, 0.05, 1.0])
def test_the_proof_is_fair(sizes: list[int], rate: float) -> None:
    """A version at 1.5 times the objective (2 times for a stage) has a mean of 1, a worse one at most that."""
    whole = stage = 0.0
    for xs in outcomes(sizes):
        pairs = list(zip(xs, sizes, strict=True))
        chance = reduce(lambda total, pair: total * binomial(*pair, rate), pairs, 1.0)
        evidence = errors_after([Minute(0.5, Counts(), Counts(n, x)) for x, n in pairs])
        whole += chance * evidence.ok
        stage += chance * evidence.stage_ok
    assert whole == pytest.approx(1.0) if rate == 0.015 else whole < 1.0
    if rate >= 0.02:
        assert stage == pytest.approx(1.0) if rate == 0.02 else stage < 1.0


def test_tempering_keeps_every_score_fair() -> None:
    """A dispersion above 1 takes evidence away and never adds any."""
    slo = base = ok = 0.0
    sizes = [4, 3, 2]
    for xs in outcomes(sizes):
        pairs = list(zip(xs, sizes, strict=True))
        minutes = [Minute(0.5, Counts(), Counts(n, x)) for x, n in pairs]
        slo += errors_after(minutes, BURSTS).slo * reduce(lambda t, pair: t * binomial(*pair, 0.01), pairs, 1.0)
        ok += errors_after(minutes, BURSTS).ok * reduce(lambda t, pair: t * binomial(*pair, 0.015), pairs, 1.0)
        failures = [Minute(0.25, Counts(9, n - x), Counts(9, x)) for x, n in pairs]
        base += errors_after(failures, BURSTS).base * reduce(lambda t, pair: t * binomial(*pair, 0.25), pairs, 1.0)
    assert max(slo, base, ok) < 1.0


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    """Any counts of one version in one minute, from none to all failed."""
    requests = draw(st.sampled_from([0, 1, 6, 60, 600]))
    rates = st.sampled_from([0.0, 0.005, 0.02, 0.2, 1.0])
    errors, slow = (round(requests * draw(rates)) for _ in range(2))
    return Counts(requests, errors, slow, draw(st.sampled_from([0, 0, 0, 0, 7])))


minutes_lists = st.lists(
    st.builds(Minute, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]), counts(), counts(), st.booleans()), max_size=25
)


def rolled(judge: Judge, minutes: list[Minute], stages: set[int], polls: set[int]) -> list[int]:
    """Feed the minutes, begin stages before some, ask after some; the rebakes seen by each minute."""
    seen = []
    for at, minute in enumerate(minutes):
        if at in stages:
            judge.next_stage()
        judge.observe(minute)
        seen.append(judge.rebakes)
        if at in polls:
            judge.verdict(60.0 * at, 300.0, at % 2 == 0)
    return seen


@settings(max_examples=150, deadline=None)
@given(minutes_lists, st.sets(st.integers(0, 24)), st.sets(st.integers(0, 24)), st.booleans())
def test_verdicts_do_not_depend_on_how_polls_batch_the_minutes(
    minutes: list[Minute], stages: set[int], polls: set[int], final: bool
) -> None:
    """Asked after every minute, after some or only at the end: the same minutes give the same verdict."""
    every, some = Judge(JudgePolicy(), BURSTS), Judge(JudgePolicy(), BURSTS)
    assert rolled(every, minutes, stages, set(range(25))) == rolled(some, minutes, stages, polls)
    for baked_s in (0.0, 300.0, 900.0):
        assert every.verdict(baked_s, 300.0, final) == some.verdict(baked_s, 300.0, final)


@settings(max_examples=100, deadline=None)
@given(minutes_lists, st.sets(st.integers(0, 24)))
def test_a_rebuilt_judge_equals_the_one_that_ran(minutes: list[Minute], stages: set[int]) -> None:
    """A resumed rollout judges as if it had never stopped; one more minute makes it another judge."""
    ran, rebuilt = Judge(JudgePolicy(), BURSTS), Judge(JudgePolicy(), BURSTS)
    rolled(ran, minutes, stages, set(range(25)))
    rolled(rebuilt, minutes, stages, set())
    assert ran == rebuilt
    assert ran.scores() == rebuilt.scores()
    rebuilt.observe(Minute(0.1, Counts(600), Counts(60)))
    assert ran != rebuilt


@settings(max_examples=100, deadline=None)
@given(minutes_lists, st.floats(0, 2000), st.booleans())
def test_a_verdict_may_be_had_from_any_minutes_and_leaves_the_judge_as_it_was(
    minutes: list[Minute], baked_s: float, final: bool
) -> None:
    """No counts make it fail; it always gives at least one reason."""
    judge = Judge()
    rolled(judge, minutes, set(), set())
    before = copy.deepcopy(judge)
    verdict = judge.verdict(baked_s, 300.0, final)
    assert verdict.reasons
    assert all(reason.endswith(".") for reason in verdict.reasons)
    assert judge == before


@given(
    st.lists(st.integers(0, 30), max_size=20),
    st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_a_minute_that_is_published_in_part_is_no_stronger_than_the_whole(
    before: list[int], whole: tuple[int, int], data: st.DataObject
) -> None:
    """Whatever part of its requests and failures is seen: where no more were made than assumed, it proves less."""
    requests, failures = whole
    seen = data.draw(st.integers(0, failures))
    part = Counts(data.draw(st.integers(seen, requests)), seen)
    earlier = [Minute(1.0, Counts(), Counts(max(n, 1), n // 10)) for n in before]
    settled = errors_after([*earlier, Minute(1.0, Counts(), Counts(requests, failures))])
    at_most = data.draw(st.integers(requests, 2 * requests))
    young = errors_after([*earlier, Minute(1.0, Counts(), part, canary_requests_at_most=at_most)])
    assert young.slo <= settled.slo * FAIR
