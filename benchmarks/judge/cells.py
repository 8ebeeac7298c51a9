"""What is simulated: the situations, and every policy's rollouts in each of them."""

import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, nan, sqrt

import numpy as np

from benchmarks.judge.many import Histories, ManyByMinutes, ManyByTicks, histories
from benchmarks.judge.opponents import peers, play
from benchmarks.judge.rollouts import MOVING_MINUTES, FeedRollout, Outcome, Outcomes, Rollout, clairvoyant, minutes_of
from benchmarks.judge.shipped import (
    BY_MINUTES,
    BY_TICKS,
    HISTORY_MINUTES,
    POLICY,
    STAGES,
    Stages,
    ramped,
)
from benchmarks.judge.traffic import TICKS, Cell, Requests, draw, history, stable_alone
from buddy_ops.health.counts import Counts
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.stable_alone import MOST_MINUTES

TRAFFIC = (6, 60, 600, 6000)
BASELINES = (0.0, 0.003, 0.008)
SLIGHT, CLEAR = (0.015, 0.02), (0.05, 0.20, 1.0)
OURS, RAMP, DAY_LONG = "this judge", "with the ramp", "the same, watched to 24 h"
FEED = "with the log feed and its ramp"
CLAIRVOYANT, UNTEMPERED = "clairvoyant", "without the dispersion"
CLAIRVOYANT_FEED = "clairvoyant, with the log feed and its ramp"
USUAL = 0.013  # stable's rate, over the objective for ever, and the new version's
CHUNK = 200
HISTORIES = 10  # drawn per chunk and shared by its rollouts: they only set the dispersion


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

    def interval(self, end: str) -> tuple[float, float]:
        """The 95 % interval (Wilson) of the share that ended so."""
        n = self.rollouts
        p = self.share(end)
        z2 = 1.96**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return max(0.0, middle - half), middle + half

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
    """Every cell with its number of rollouts; few where a rollout watches for hours, many where errors are rare.

    Of a good version 4,000: where none of them is rolled back, the 95 % interval ends below 0.1 %.
    """
    cells = []
    for traffic in TRAFFIC:
        for p0 in BASELINES:
            cells.append((Cell("good", traffic, p0, p0), 4000))
        cells.append((Cell("good", traffic, 0.01, 0.01), 400))
        few = traffic == 6
        for p0 in BASELINES:
            cells += [(Cell("bad", traffic, p0, p1), 150 if few else 400) for p1 in SLIGHT]
            cells += [(Cell("bad", traffic, p0, p1), 300 if few else 1200) for p1 in CLEAR]
            cells.append((Cell("late", traffic, p0, 0.05, onset=12), 150 if few else 1200))
            cells += [(Cell("late", traffic, p0, p1, onset=30), 150 if few else 400) for p1 in (0.05, 1.0)]
        cells.append((Cell("usual", traffic, USUAL, USUAL), 100 if few else 300))
    for traffic in (60, 600, 6000):
        for rate in (0.02, 0.05, 0.2, 0.9):
            cells += [(Cell("fault", traffic, 0.003, 0.003, fault=(at, 10, rate)), 100) for at in (2, 7, 12, 18)]
        for p0 in BASELINES[1:] if traffic >= 600 else ():
            cells += [(Cell("clumped", traffic, p0, p0, clump=size), 1200) for size in (3.0, 6.0)]
    return cells


class Known:
    """What rollouts know of stable before them: they share these histories in turn."""

    def __init__(self, minutes: Sequence[Sequence[Counts]]) -> None:
        self._minutes = minutes
        self._read: Histories | None = None
        self._judges: dict[tuple[JudgePolicy, int], bytes] = {}

    def histories(self, policy: JudgePolicy) -> Histories:
        """What the judge takes from them: every policy here has the same objectives."""
        if self._read is None:
            self._read = histories(self._minutes, policy)
        return self._read

    def judge(self, policy: JudgePolicy, row: int) -> Judge:
        """A judge that has read its history: a copy, since reading a day takes as long as a fifth of a rollout."""
        index = row % len(self._minutes)
        if (policy, index) not in self._judges:
            self._judges[policy, index] = pickle.dumps(Judge(policy, self._minutes[index]))
        judge = pickle.loads(self._judges[policy, index])
        assert isinstance(judge, Judge)
        return judge


NOTHING_KNOWN = Known([[]])


def simulate(cell: Cell, rollouts: int, seed: tuple[int, ...], feed: bool = True) -> dict[str, Sums]:
    """One chunk of a cell: every policy that is asked about it, on the same requests.

    Args:
        feed: whether the log feed is, too: that takes twice as long.
    """
    rng = np.random.default_rng(seed)
    requests = draw(cell, rollouts, 200 if cell.suite in ("fault", "usual") else 64, rng)
    days = [history(cell, HISTORY_MINUTES, rng) for _ in range(min(HISTORIES, rollouts))]
    known = Known([[Counts(*counts) for counts in minutes] for minutes in days])
    seeds = [(*seed, row) for row in range(rollouts)]
    sums: dict[str, Sums] = defaultdict(Sums)
    for name, poll in peers().items():
        played = play(requests, poll)
        for rolled_back, failed in zip(played.rolled_back.tolist(), played.failed.tolist(), strict=True):
            sums[name].add_peer(rolled_back, failed)

    def add(name: str, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            sums[name].add(outcome, cell.p1 - cell.p0)

    # Where stable is at its limit the judge follows its usual rate, minute by minute: a day of that takes long.
    all_day = cell.suite in ("good", "bad", "late") and cell.p0 <= BASELINES[-1]
    is_late_or_bad = cell.suite in ("bad", "late") and cell.p1 in CLEAR
    ours = roll_out(POLICY, known, requests, seeds, STAGES, all_day=all_day)
    shipped = [outcomes.shipped for outcomes in ours]
    add(OURS, shipped)
    add(DAY_LONG, [outcomes.day for outcomes in ours if outcomes.day is not None])
    if cell.suite in ("good", "bad"):
        stages = ramped(cell.traffic, BY_MINUTES)
        if stages != STAGES:
            with_ramp = roll_out(POLICY, known, requests, seeds, stages, all_day=False)
            shipped = [outcomes.shipped for outcomes in with_ramp]
        add(RAMP, shipped)
    if is_late_or_bad:
        policy = clairvoyant(cell, POLICY)
        knowing = roll_out(policy, NOTHING_KNOWN, requests, seeds, STAGES, cell.onset, all_day=True)
        add(CLAIRVOYANT, [outcomes.day for outcomes in knowing if outcomes.day is not None])
    if feed:
        add(FEED, roll_out_by_ticks(POLICY, known, requests, seeds))
    if feed and is_late_or_bad:
        policy = clairvoyant(cell, POLICY)
        add(CLAIRVOYANT_FEED, roll_out_by_ticks(policy, NOTHING_KNOWN, requests, seeds, cell.onset))
    if cell.suite == "clumped":
        untempered = roll_out(POLICY, NOTHING_KNOWN, requests, seeds, STAGES, all_day=False)
        add(UNTEMPERED, [outcomes.shipped for outcomes in untempered])
    return dict(sums)


def roll_out(
    policy: JudgePolicy,
    known: Known,
    requests: Requests,
    seeds: Sequence[tuple[int, ...]],
    stages: Stages,
    deaf_until: int = 0,
    *,
    all_day: bool = True,
) -> list[Outcomes]:
    """Every rollout of a draw by minutes: at once, and by the shipped judge what is left to it."""
    cell = requests.cell
    many = ManyByMinutes(policy, known.histories(policy), requests, seeds, stages, deaf_until)
    found = []
    for row, at_once in enumerate(many.run(all_day)):
        outcomes = at_once
        if outcomes is None:
            bands = minutes_of(requests, row, np.random.default_rng(seeds[row]))
            outcomes = Rollout(known.judge(policy, row), cell, stages, deaf_until).run(bands, all_day)
        day = None if outcomes.day is None else _with_blame(outcomes.day, cell, seeds[row])
        found.append(Outcomes(_with_blame(outcomes.shipped, cell, seeds[row]), day))
    return found


def roll_out_by_ticks(
    policy: JudgePolicy,
    known: Known,
    requests: Requests,
    seeds: Sequence[tuple[int, ...]],
    deaf_until: int = 0,
) -> list[Outcome]:
    """The same by the log feed, with the ramp that fits it."""
    assert requests.ticks is not None
    cell = requests.cell
    stages = ramped(cell.traffic, BY_TICKS)
    many = ManyByTicks(policy, known.histories(policy), requests.ticks, seeds, stages, deaf_until)
    found = []
    for row, at_once in enumerate(many.run()):
        outcome = at_once
        if outcome is None:
            bands = minutes_of(requests.ticks, row, np.random.default_rng(seeds[row]), TICKS)
            outcome = FeedRollout(known.judge(policy, row), cell, stages, deaf_until).run(bands).shipped
        found.append(_with_blame(outcome, cell, seeds[row]))
    return found


def _with_blame(outcome: Outcome, cell: Cell, seed: tuple[int, ...]) -> Outcome:
    """A rollback from 100 % as it ends once stable was tested alone: by draws of its own."""
    if outcome.stable_test is None:
        return outcome
    rng = np.random.default_rng((*seed, outcome.minute))
    return outcome.with_blame(stable_alone(cell, outcome.minute + MOVING_MINUTES, MOST_MINUTES, rng))
