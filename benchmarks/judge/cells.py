"""What is simulated: the situations, and every policy's rollouts in each of them."""

import pickle
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf, nan, sqrt

import numpy as np

from benchmarks.judge.opponents import peers, play
from benchmarks.judge.rollouts import MOVING_MINUTES, FeedRollout, Outcome, Outcomes, Rollout, clairvoyant, minutes_of
from benchmarks.judge.shipped import (
    BY_MINUTES,
    BY_TICKS,
    FEED_POLICY,
    HISTORY_MINUTES,
    POLICY,
    STAGES,
    Stages,
    ramped,
)
from benchmarks.judge.traffic import TICKS, Cell, Requests, draw, history, stable_alone
from buddy_ops.health.judge import Counts, Judge
from buddy_ops.health.stable_alone import MOST_MINUTES

TRAFFIC = (6, 60, 600, 6000)
BASELINES = (0.0, 0.003, 0.008)
SLIGHT, CLEAR = (0.015, 0.02), (0.05, 0.20, 1.0)
OURS, RAMP, DAY_LONG = "this judge", "with the ramp", "the same, watched to 24 h"
FEED = "with the log feed and its ramp"
CLAIRVOYANT, UNTEMPERED = "clairvoyant", "without the dispersion"
CLAIRVOYANT_FEED = "clairvoyant, with the log feed and its ramp"
USUAL = 0.013  # stable's rate, over the objective for ever, and the new version's
CHUNK = 100
HISTORIES = 20  # drawn per chunk and shared by its rollouts: they only set the dispersion


@dataclass
class Sums:
    """What is kept of one policy in one cell."""

    rollouts: int = 0
    ends: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failed: float = 0.0
    failed_squares: float = 0.0
    reached: list[float] = field(default_factory=list)  # minutes at which 100 % was reached
    proved: list[float] = field(default_factory=list)
    blamed_beside_stable: int = 0  # rolled back while a control share existed

    @property
    def excused(self) -> float:
        """Share of the rollbacks from 100 % after which stable failed too; nan if there was none."""
        from_100 = self.ends["rolled back"] + self.ends["excused"] - self.blamed_beside_stable
        return self.ends["excused"] / from_100 if from_100 else nan

    def share(self, *ends: str) -> float:
        return sum(self.ends[end] for end in ends) / self.rollouts

    @property
    def missed(self) -> float:
        """Share of rollouts whose version was left standing."""
        return self.share("proved", "unproven", "stands")

    @property
    def mean_failed(self) -> float:
        return self.failed / self.rollouts

    @property
    def failed_error(self) -> float:
        """Standard error of the mean."""
        return sqrt(max(0.0, self.failed_squares / self.rollouts - self.mean_failed**2) / self.rollouts)

    def add(self, outcome: Outcome, extra_rate: float) -> None:
        self.rollouts += 1
        self.ends[outcome.end] += 1
        self._fail(outcome.exposed * extra_rate)
        if outcome.reached_100 < inf:
            self.reached.append(outcome.reached_100)
        if outcome.end == "proved":
            self.proved.append(outcome.minute)
        self.blamed_beside_stable += outcome.end == "rolled back" and outcome.reached_100 == inf

    def add_peer(self, rolled_back: bool, failed: float) -> None:
        self.rollouts += 1
        self.ends["rolled back" if rolled_back else "stands"] += 1
        self._fail(failed)

    def _fail(self, failed: float) -> None:
        self.failed += failed
        self.failed_squares += failed**2

    def merge(self, other: "Sums") -> None:
        for end, count in other.ends.items():
            self.ends[end] += count
        for name in ("rollouts", "failed", "failed_squares", "blamed_beside_stable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.reached += other.reached
        self.proved += other.proved


def plan() -> list[tuple[Cell, int]]:
    """Every cell with its number of rollouts; few where a rollout watches for hours, many where errors are rare."""
    cells = []
    for traffic in TRAFFIC:
        for p0 in BASELINES:
            cells.append((Cell("good", traffic, p0, p0), 400 if traffic == 6 else 1500))
        cells.append((Cell("good", traffic, 0.01, 0.01), 400))
        for p0 in BASELINES:
            cells += [(Cell("bad", traffic, p0, p1), 60 if traffic == 6 else 150) for p1 in SLIGHT]
            cells += [(Cell("bad", traffic, p0, p1), 150 if traffic == 6 else 300) for p1 in CLEAR]
            cells.append((Cell("late", traffic, p0, 0.05, onset=12), 60 if traffic == 6 else 150))
            cells += [(Cell("late", traffic, p0, p1, onset=30), 60 if traffic == 6 else 100) for p1 in (0.05, 1.0)]
        cells.append((Cell("usual", traffic, USUAL, USUAL), 100 if traffic == 6 else 300))
    for traffic in (60, 600, 6000):
        for rate in (0.02, 0.05, 0.2, 0.9):
            cells += [(Cell("fault", traffic, 0.003, 0.003, fault=(at, 10, rate)), 60) for at in (2, 7, 12, 18)]
        for p0 in BASELINES[1:] if traffic >= 600 else ():
            cells += [(Cell("clumped", traffic, p0, p0, clump=size), 1000) for size in (3.0, 6.0)]
    return cells


def simulate(cell: Cell, rollouts: int, seed: tuple[int, ...], feed: bool = True) -> dict[str, Sums]:
    """One chunk of a cell: every policy that is asked about it, on the same requests.

    Args:
        feed: whether the log feed is, too: that takes twice as long.
    """
    rng = np.random.default_rng(seed)
    requests = draw(cell, rollouts, 200 if cell.suite in ("fault", "usual") else 64, rng)
    days = [history(cell, HISTORY_MINUTES, rng) for _ in range(min(HISTORIES, rollouts))]
    histories = [[Counts(*counts) for counts in minutes] for minutes in days]
    # A judge that has read a day of history, to be copied: reading it takes as long as a fifth of a rollout.
    fresh = [pickle.dumps(Judge(POLICY, minutes)) for minutes in histories]
    with_feed = [pickle.dumps(Judge(FEED_POLICY, minutes)) for minutes in histories if feed]
    sums: dict[str, Sums] = defaultdict(Sums)
    for name, poll in peers().items():
        outcomes = play(requests, poll)
        for rolled_back, failed in zip(outcomes.rolled_back.tolist(), outcomes.failed.tolist(), strict=True):
            sums[name].add_peer(rolled_back, failed)
    for row in range(rollouts):
        tails = (*seed, row)
        known = fresh[row % len(fresh)]
        # A good version is seldom watched to 24 h: that takes ten times as long, and says little.
        all_day = cell.suite in ("bad", "late") or (cell.suite == "good" and row % 20 == 0)
        ours = roll_out(pickle.loads(known), requests, row, tails, STAGES, all_day=all_day)
        sums[OURS].add(ours.shipped, cell.p1 - cell.p0)
        if ours.day is not None:
            sums[DAY_LONG].add(ours.day, cell.p1 - cell.p0)
        if cell.suite in ("good", "bad"):
            stages, with_ramp = ramped(cell.traffic, BY_MINUTES), ours
            if stages != STAGES:
                with_ramp = roll_out(pickle.loads(known), requests, row, tails, stages, all_day=False)
            sums[RAMP].add(with_ramp.shipped, cell.p1 - cell.p0)
        if cell.suite in ("bad", "late") and cell.p1 in CLEAR:
            judge = Judge(clairvoyant(cell, POLICY))
            knows = roll_out(judge, requests, row, tails, STAGES, cell.onset)
            assert knows.day is not None
            sums[CLAIRVOYANT].add(knows.day, cell.p1 - cell.p0)
        if feed:
            by_ticks = roll_out_by_ticks(pickle.loads(with_feed[row % len(fresh)]), requests, row, tails)
            sums[FEED].add(by_ticks.shipped, cell.p1 - cell.p0)
        if feed and cell.suite in ("bad", "late") and cell.p1 in CLEAR:
            knows = roll_out_by_ticks(Judge(clairvoyant(cell, FEED_POLICY)), requests, row, tails, cell.onset)
            sums[CLAIRVOYANT_FEED].add(knows.shipped, cell.p1 - cell.p0)
        if cell.suite == "clumped" and row % 4 == 0:
            untempered = roll_out(Judge(POLICY), requests, row, tails, STAGES, all_day=False)
            sums[UNTEMPERED].add(untempered.shipped, 0.0)
    return dict(sums)


def roll_out(
    judge: Judge,
    requests: Requests,
    row: int,
    seed: tuple[int, ...],
    stages: Stages,
    deaf_until: int = 0,
    *,
    all_day: bool = True,
) -> Outcomes:
    bands = minutes_of(requests, row, np.random.default_rng(seed))
    outcomes = Rollout(judge, requests.cell, stages, deaf_until).run(bands, all_day)
    shipped = _with_blame(outcomes.shipped, requests.cell, seed)
    day = None if outcomes.day is None else _with_blame(outcomes.day, requests.cell, seed)
    return Outcomes(shipped, day)


def roll_out_by_ticks(
    judge: Judge, requests: Requests, row: int, seed: tuple[int, ...], deaf_until: int = 0
) -> Outcomes:
    """By the log feed, with the ramp that fits it."""
    assert requests.ticks is not None
    bands = minutes_of(requests.ticks, row, np.random.default_rng(seed), TICKS)
    stages = ramped(requests.cell.traffic, BY_TICKS)
    outcomes = FeedRollout(judge, requests.cell, stages, deaf_until).run(bands)
    return Outcomes(_with_blame(outcomes.shipped, requests.cell, seed), None)


def _with_blame(outcome: Outcome, cell: Cell, seed: tuple[int, ...]) -> Outcome:
    """A rollback from 100 % as it ends once stable was tested alone: by draws of its own."""
    if outcome.stable_test is None:
        return outcome
    rng = np.random.default_rng((*seed, outcome.minute))
    return outcome.with_blame(stable_alone(cell, outcome.minute + MOVING_MINUTES, MOST_MINUTES, rng))
