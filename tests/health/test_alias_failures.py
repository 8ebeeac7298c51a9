"""Failures of the alias as a whole, while two versions share its traffic: whom they are held against, and how rarely in error."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from buddy_ops.core.settings import validate_settings
from buddy_ops.health import evidence
from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.verdict import Verdict

POLICY = JudgePolicy(has_alias_metrics=True)
STAGES = ((0.1, 10), (0.5, 10))


def drawn(rng: random.Random, requests: int, rate: float) -> int:
    return sum(rng.random() < rate for _ in range(requests))


def history(rng: random.Random, rates: Iterator[float] | list[float], requests: int) -> list[Counts]:
    failed = [drawn(rng, requests, rate) for rate in rates]
    return [Counts(requests, errors=each, shared=each) for each in failed]


def split(
    judge: Judge, rng: random.Random, requests: int, stable: float, canary: Callable[[int], float]
) -> list[Verdict]:
    """The verdict after each minute of both stages, until one rolls back."""
    said = []
    for weight, minutes in STAGES:
        for minute in range(minutes):
            own = round(requests * weight)
            shared = drawn(rng, requests - own, stable) + drawn(rng, own, canary(len(said)))
            judge.observe(Minute(weight, Counts(requests - own), Counts(own), minute == 0, shared=shared))
            said.append(judge.verdict(60.0 * (minute + 1), 300.0))
            if said[-1].decision == "rollback":
                return said
        judge.next_stage()
    return said


@pytest.mark.parametrize(("stable", "canary"), [(0.0, 0.009), (0.002, 0.002), (0.009, 0.009), (0.03, 0.03)])
def test_good_versions_are_hardly_ever_rolled_back(stable: float, canary: float) -> None:
    """Stable at its usual rate and the new version within the objective, or as bad as stable always was: 60 rollouts each.

    The limit's chance of error is a thousandth; that of the history's rate is small beside the mixture's 1.5 times.
    """
    for seed in range(60):
        rng = random.Random(f"{stable} {seed}")
        before = history(rng, [stable] * 240, 100)
        said = split(Judge(POLICY, before), rng, 100, stable, lambda minute: canary)
        assert said[-1].decision != "rollback", seed


def test_the_usual_rate_may_change_with_the_hours() -> None:
    """The worst hour within the objective is usual: a rollout in such an hour is none that began it."""
    for seed in range(60):
        rng = random.Random(seed)
        rates = [0.006 if minute // 60 % 4 == 1 else 0.0 for minute in range(480)]
        said = split(Judge(POLICY, history(rng, rates, 100)), rng, 100, 0.006, lambda minute: 0.006)
        assert said[-1].decision != "rollback", seed


def test_an_outage_of_the_new_version_is_rolled_back_in_its_first_stage() -> None:
    """At 10 % of the traffic, nine of ten builds that fail half of their requests are gone within ten minutes."""
    ended = []
    for seed in range(20):
        rng = random.Random(seed)
        said = split(Judge(POLICY, history(rng, [0.001] * 240, 100)), rng, 100, 0.001, lambda minute: 0.5)
        assert said[-1].decision == "rollback" and said[-1].finding == "alias-failures"
        assert any("since the new version received traffic" in reason for reason in said[-1].reasons)
        assert said[-1].stable_test is not None
        ended.append(len(said))
    assert sorted(ended)[17] <= 10


def test_no_stage_is_passed_on_a_doubt() -> None:
    """What is not enough to roll back holds."""
    rng = random.Random(4)
    said = split(Judge(POLICY, history(rng, [0.0] * 240, 100)), rng, 100, 0.0, lambda minute: 0.12)
    doubts = [each for each in said if each.finding == "alias-failures" and each.decision != "rollback"]
    assert doubts and all(each.decision == "hold" and each.reasons[0].startswith("Inconclusive") for each in doubts)


def test_a_setting_lets_it_pause() -> None:
    """``rollout.on_alias_failures: hold`` leaves the decision to a person."""
    rng = random.Random(1)
    policy = replace(POLICY, on_alias_failures="hold")
    said = split(Judge(policy, history(rng, [0.0] * 240, 100)), rng, 100, 0.0, lambda minute: 0.5)
    assert len(said) == 20 and said[-1].decision == "hold" and said[-1].stable_test is None


def test_an_excess_from_before_the_shift_is_a_common_cause() -> None:
    """It is waited for, held against no version, and the bake begins again after it; then an outage is the version's."""
    for seed in range(20):
        rng = random.Random(seed)
        judge = Judge(POLICY, history(rng, [0.001] * 230 + [0.2] * 10, 100))
        said = split(judge, rng, 100, 0.2, lambda minute: 0.2)
        assert {(each.decision, each.finding) for each in said} == {("external", "alias-failures")}
        assert "They began before the new version received traffic." in said[0].reasons
        said = split(judge, rng, 100, 0.001, lambda minute: 0.001)
        assert judge.rebakes == 1 and said[-1].decision == "promote"
        assert split(judge, rng, 100, 0.001, lambda minute: 0.5)[-1].decision == "rollback"


def test_without_such_a_metric_the_judge_is_as_it_was() -> None:
    """Thresholds, evidence and verdicts: the fifth test takes its part of alpha only where there is one."""
    assert (JudgePolicy().rollback_at, POLICY.rollback_at) == (800.0, 1000.0)
    values = {"function": "f", "failure_metrics": [{"namespace": "Shop", "name": "Failures"}]}
    assert not evidence.judge_policy(validate_settings(values, "example")).has_alias_metrics
    values["failure_metrics"] = [{"namespace": "AWS/ApiGateway", "name": "5xx", "dimensions": {"ApiId": "a1"}}]
    assert evidence.judge_policy(validate_settings(values, "example")).has_alias_metrics
