"""The test of stable after a rollback from 100 %: when there is one, against which limit, and how often it errs."""

import random

import pytest

from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.stable_alone import StableTest
from buddy_ops.health.verdict import Verdict

MIXTURE = JudgePolicy().slo_mixture
FAILING = Minute(1.0, Counts(), Counts(600, 120))


def rolled_back(*minutes: Minute, history: tuple[Counts, ...] = (), policy: JudgePolicy | None = None) -> Verdict:
    """The verdict on these minutes."""
    judge = Judge(policy, history)
    for minute in minutes:
        judge.observe(minute)
    return judge.verdict(60.0, 300.0, final=True)


def test_stable_is_tested_only_where_the_new_version_served_alone() -> None:
    """Beside stable it was compared with it; so it was where being worse is what decided."""
    assert rolled_back(FAILING).stable_test is not None
    beside = rolled_back(Minute(0.5, Counts(300, 1), Counts(300, 60)))
    assert (beside.decision, beside.stable_test) == ("rollback", None)
    worse = [Minute(0.1, Counts(54_000, 20), Counts(6000, 36))] * 8
    decided = rolled_back(*worse, Minute(1.0, Counts(), Counts(6000, 130)))
    assert (decided.decision, decided.stable_test) == ("rollback", None)
    good = rolled_back(Minute(1.0, Counts(), Counts(600, 1)))
    assert good.decision != "rollback" and good.stable_test is None


def test_a_latency_that_only_holds_tests_nothing() -> None:
    """Where slow requests roll nothing back there is no blame to withdraw."""
    slow = Minute(1.0, Counts(), Counts(600, 0, 120))
    # The minute in which the share grows says nothing of latency.
    found = rolled_back(slow, slow).stable_test
    assert found is not None and found.stream == "slow"
    assert rolled_back(slow, slow, policy=JudgePolicy(on_slow="hold")).stable_test is None


def test_the_limit_is_the_objective_or_what_stable_always_did() -> None:
    """Also where the new version was better than stable: stable's usual failures excuse nothing."""
    plain = rolled_back(FAILING).stable_test
    usual = rolled_back(FAILING, history=(Counts(600, 18),) * 180).stable_test
    better = Minute(0.5, Counts(3000, 90), Counts(3000, 0))
    fix = rolled_back(better, better, FAILING, history=(Counts(6000, 180),) * 180).stable_test
    assert plain is not None and usual is not None and fix is not None
    assert plain.limit == 0.01
    for found in (usual, fix):
        assert 0.03 < found.limit < 0.033
        assert not found.counts_until_over([(18, 600)] * 10)[0]


def test_it_ends_at_the_minute_that_shows_it() -> None:
    """The counts are those up to it; minutes without requests say nothing, and failures without requests none."""
    test = StableTest("errors", 0.01, MIXTURE, 1.0, 20.0)
    over, seen = test.counts_until_over([(0, 0), (3, 60), (6, 60), (60, 60)])
    assert over and (seen.stable_events, seen.stable_requests) == (9, 120)
    assert test.counts_until_over([(9, 0)] * 10) == (False, test.counts_until_over([])[1])
    bursty = StableTest("errors", 0.01, MIXTURE, 4.0, 20.0)
    assert not bursty.counts_until_over([(3, 60), (6, 60)])[0]


@pytest.mark.parametrize("requests", [6, 60, 600])
def test_a_stable_version_within_the_limit_seldom_excuses_a_bad_one(requests: int) -> None:
    """Exactly at its limit, where it is likeliest: at most 1 in 20, whatever the traffic (Ville's inequality)."""
    draws = random.Random(5)
    test = StableTest("errors", 0.01, MIXTURE, 1.0, 20.0)
    excused = 0
    for _ in range(400):
        minutes = [(sum(draws.random() < 0.01 for _ in range(requests)), requests) for _ in range(10)]
        excused += test.counts_until_over(minutes)[0]
    assert excused <= 0.05 * 400
