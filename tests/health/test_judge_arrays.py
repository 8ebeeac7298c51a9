"""The benchmark computes many rollouts at once: each ends as under the shipped judge, step by step."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from benchmarks.judge.many import ManyByMinutes, ManyByTicks, histories
from benchmarks.judge.rollouts import FeedRollout, Outcome, Rollout, clairvoyant, minutes_of
from benchmarks.judge.shipped import BY_MINUTES, BY_TICKS, POLICY, STAGES, ramped
from benchmarks.judge.traffic import TICKS, Cell, Requests, draw, history
from buddy_ops.health.counts import Counts
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from tests.conftest import sampled

ROLLOUTS = 8
MINUTES = 64
SEEDS = [(4, row) for row in range(ROLLOUTS)]
DAILY = (
    Cell("good", 60, 0.008, 0.008),
    Cell("good", 6000, 0.008, 0.008),
    Cell("bad", 60, 0.003, 0.02),
    Cell("bad", 600, 0.003, 0.05),
    Cell("late", 600, 0.003, 0.05, onset=12),
    Cell("clumped", 600, 0.008, 0.008, clump=6.0),
    Cell("fault", 600, 0.003, 0.003, fault=(7, 10, 0.05)),
)
CELLS = (
    *DAILY,
    *(Cell("good", traffic, 0.008, 0.008) for traffic in (6, 600)),
    Cell("good", 60, 0.003, 0.003),
    *(Cell("bad", traffic, 0.003, 0.05) for traffic in (6, 60, 6000)),
    Cell("bad", 600, 0.0, 1.0),
    Cell("bad", 6000, 0.008, 0.015),
    Cell("late", 60, 0.003, 0.05, onset=30),
    Cell("usual", 60, 0.013, 0.013),
)


@cache
def drawn(cell: Cell) -> tuple[Requests, list[list[Counts]]]:
    """The requests of every rollout, and what some of them have in common: stable's minutes before."""
    rng = np.random.default_rng(11)
    requests = draw(cell, ROLLOUTS, MINUTES, rng)
    return requests, [[Counts(*minute) for minute in history(cell, 240, rng)] for _ in range(2)]


def judge(policy: JudgePolicy, days: list[list[Counts]], row: int) -> Judge:
    return Judge(policy, days[row % len(days)])


def policies(cell: Cell, shipped: JudgePolicy) -> Iterator[tuple[JudgePolicy, list[list[Counts]], int]]:
    """The shipped policy with a history and without, and of a bad version the one that has its rates in advance."""
    yield shipped, drawn(cell)[1], 0
    yield shipped, [[]], 0
    if not cell.good:
        yield clairvoyant(cell, shipped), [[]], cell.onset


def must_be_equal(cell: Cell, at_once: list[Outcome | None], one_by_one: list[Outcome]) -> None:
    """What is not left to the shipped judge ended like there; where stable is well, little is left to it."""
    same = [(many, one) for many, one in zip(at_once, one_by_one, strict=True) if many is not None]
    for many, one in same:
        assert many == one
    if cell.suite in ("good", "bad", "late") and cell.traffic >= 60:
        assert len(same) >= ROLLOUTS - 2


@pytest.mark.parametrize("cell", sampled(CELLS, DAILY))
@pytest.mark.parametrize("stages", ["as written", "with the ramp"])
def test_by_minutes_each_rollout_ends_as_under_the_shipped_judge(cell: Cell, stages: str) -> None:
    """End, minute, exposed requests and the test of stable that follows, as shipped and watched for a day."""
    requests, _ = drawn(cell)
    plan = STAGES if stages == "as written" else ramped(cell.traffic, BY_MINUTES)
    all_day = cell.traffic >= 60 and cell.suite != "usual"
    for policy, days, deaf_until in policies(cell, POLICY):
        many = ManyByMinutes(policy, histories(days, policy), requests, SEEDS, plan, deaf_until).run(all_day)
        alone = []
        for row, seed in enumerate(SEEDS):
            rollout = Rollout(judge(policy, days, row), cell, plan, deaf_until)
            alone.append(rollout.run(minutes_of(requests, row, np.random.default_rng(seed)), all_day))
        at_once = [None if each is None else each.shipped for each in many]
        must_be_equal(cell, at_once, [each.shipped for each in alone])
        assert all(each is None or each.day == one.day for each, one in zip(many, alone, strict=True))


@pytest.mark.parametrize("cell", sampled(CELLS, DAILY))
def test_by_ticks_each_rollout_ends_as_under_the_shipped_judge(cell: Cell) -> None:
    """The same with the log feed and its ramp."""
    requests = drawn(cell)[0].ticks
    assert requests is not None
    stages = ramped(cell.traffic, BY_TICKS)
    for policy, days, deaf_until in policies(cell, POLICY):
        many = ManyByTicks(policy, histories(days, policy), requests, SEEDS, stages, deaf_until).run()
        alone = []
        for row, seed in enumerate(SEEDS):
            rollout = FeedRollout(judge(policy, days, row), cell, stages, deaf_until)
            alone.append(rollout.run(minutes_of(requests, row, np.random.default_rng(seed), TICKS)).shipped)
        must_be_equal(cell, many, alone)
