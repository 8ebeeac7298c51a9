"""Many rollouts at once: what the shipped judge decides in each, by arrays instead of step by step.

The shipped judge remains the measure. A rollout is left to it where the arrays could differ from it: where evidence
comes within a billionth of a threshold, where stable is affected too, and where stable's usual rate may raise the
limit. tests/health/test_judge_arrays.py compares both, rollout by rollout.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.rollouts import MOVING_MINUTES, NO_EVIDENCE, Outcome, Outcomes
from benchmarks.judge.shipped import (
    AFTER_PROOF_MINUTES,
    LATE_MINUTES,
    PUBLISHED_MINUTES,
    TICK_LATE_S,
    WATCH_MINUTES,
    Stages,
)
from benchmarks.judge.traffic import DAY, TAIL, TICK_S, TICKS, WEIGHTS, Cell, Ints, Requests, tail
from buddy_ops.health.counts import Counts, StreamName
from buddy_ops.health.evidence import BUSIEST_OF_MINUTES
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import Mixture, dispersion
from buddy_ops.health.stable_alone import StableTest
from buddy_ops.health.usual_rate import FEWEST_EVENTS, HOUR, UsualRate, without_outages

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CLOSE = 1e-9
"""Evidence so near to a threshold, as a part of it, is left to the shipped judge: sums of floats may differ."""

ALONE = len(WEIGHTS) - 1
"""The level at which the new version serves everything."""


class Evidence:
    """``EProcess`` of many rollouts: its arrays are (multiples, rollouts)."""

    def __init__(self, mixture: Mixture, phi: Floats, first_stake: float) -> None:
        multiples = np.array([[multiple] for multiple, _ in mixture])
        self._excess = multiples - 1
        self._shares = np.array([[share] for _, share in mixture])
        self._gains = np.log(multiples) / phi
        self._costs = self._gains
        self._chance: Floats | None = None
        self._phi = phi
        self._first_stake = first_stake
        self._parts = np.zeros_like(self._gains)
        self._idle = np.ones_like(phi)
        self._minutes = np.zeros_like(phi)
        self._gap = np.zeros_like(phi)
        self.value = np.ones_like(phi)

    def update(self, events: Ints, trials: Ints, chance: Floats, minutes: Floats) -> None:
        """Add a minute or a part of one.

        Args:
            minutes: its length; 0 where the judge leaves it out.
        """
        self._gap = np.minimum(self._gap + minutes, 1.0)
        seen = (trials > 0) & (chance > 0) & (chance < 1) & (minutes > 0)
        if not seen.any():
            return
        stake = self._stake(seen)
        self._parts = self._grown(events, trials, chance, seen, stake)
        self._minutes += np.where(seen, self._gap, 0.0)
        self._gap[seen] = 0.0
        self._idle -= stake
        self.value = self._idle + self._parts.sum(axis=0)

    def after(self, events: Ints, trials: Ints, chance: Floats) -> Floats:
        """The value after one more minute, which is not added."""
        seen = trials > 0
        gap = self._gap
        self._gap = np.minimum(gap + 1.0, 1.0)
        stake = self._stake(seen)
        self._gap = gap
        return cast(Floats, self._idle - stake + self._grown(events, trials, chance, seen, stake).sum(axis=0))

    def _stake(self, seen: Bools) -> Floats:
        stake = np.where(self._minutes > 0, self._idle * self._gap / (30 + self._minutes), self._first_stake)
        return np.where(seen, stake, 0.0)

    def _grown(self, events: Ints, trials: Ints, chance: Floats, seen: Bools, stake: Floats) -> Floats:
        if chance is not self._chance:
            self._costs = np.log(1 + chance * self._excess) / self._phi
            self._chance = chance
        steps = np.where(seen, events, 0) * self._gains - np.where(seen, trials, 0) * self._costs
        grown = (self._parts + self._shares * stake) * np.exp(np.minimum(steps, 200.0))
        return cast(Floats, np.minimum(grown, 1e100))


class Latest:
    """The counts of the latest minutes, or of the ticks that fill them, newest first.

    Args:
        most: how many are kept; ``step``: how many fill a minute.
    """

    def __init__(self, most: int, step: int, columns: int) -> None:
        self._step = step
        nothing = np.zeros(columns, dtype=np.int64)
        self._parts = [(nothing, nothing)] * most

    def add(self, events: Ints, requests: Ints, seen: Bools) -> None:
        """Add a minute or a tick in the columns in which it is seen."""
        if seen.all():
            self._parts = [(events, requests), *self._parts[:-1]]
            return
        moved = [(events, requests), *self._parts[:-1]]
        self._parts = [
            (np.where(seen, new[0], old[0]), np.where(seen, new[1], old[1]))
            for new, old in zip(moved, self._parts, strict=True)
        ]

    def sums(self) -> Iterator[tuple[Ints, Ints]]:
        """The counts of the latest minute, of the latest two, and so on."""
        events = np.zeros_like(self._parts[0][0])
        requests = np.zeros_like(events)
        for number, part in enumerate(self._parts, start=1):
            events = events + part[0]
            requests = requests + part[1]
            if number % self._step == 0:
                yield events, requests


class History:
    """What the judge takes from stable's minutes before a rollout, in one stream.

    Attributes:
        phi: the dispersion.
        limit: the objective, or more where stable is usually over it.
        inner: (events, requests) of the usual hours, without one at either end.
        may_be_raised: whether the rollout's own minutes may raise the limit, whatever they show.
    """

    def __init__(self, minutes: Sequence[tuple[int, int]], objective: float) -> None:
        self.phi = dispersion(without_outages(minutes, objective))
        self.limit = UsualRate(minutes, objective, self.phi).limit
        counts = np.array(minutes, dtype=np.int64).reshape(-1, 2)
        counts[:, 0] = counts.min(axis=1)
        hours = [tuple(counts[start : start + HOUR].sum(axis=0).tolist()) for start in range(0, len(counts), HOUR)]
        hours = sorted((hour for hour in hours if hour[1]), key=lambda hour: hour[0] / hour[1])
        # One more hour, the rollout's, is one of the usual ones, or moves them up or down by one.
        cut = (len(hours) + 1) // 4
        self.inner = _sum(hours[cut : len(hours) - cut])
        beside = (_sum(hours[cut : len(hours) + 1 - cut]), _sum(hours[max(0, cut - 1) : len(hours) - cut]))
        self.may_be_raised = self.limit > objective or any(x > objective * n for x, n in beside)


def _sum(hours: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(x for x, _ in hours), sum(n for _, n in hours)


Histories = list[tuple[History, History]]
"""Those that rollouts share in turn: of errors, and of slow requests."""


def histories(minutes: Sequence[Sequence[Counts]], policy: JudgePolicy) -> Histories:
    """What the judge takes from these histories."""
    return [
        (
            History([(counts.errors, counts.requests) for counts in each], policy.slo_error_rate),
            History([(counts.slow, counts.requests) for counts in each], policy.slo_slow_rate),
        )
        for each in minutes
    ]


@dataclass(frozen=True, slots=True)
class Served:
    """One minute or tick of all rollouts: the level of each, and both versions' counts."""

    level: Ints
    changed: Bools
    n1: Ints
    x1: Ints
    s1: Ints
    n0: Ints
    x0: Ints
    s0: Ints

    @property
    def weight(self) -> Floats:
        return np.array(WEIGHTS)[self.level]

    @property
    def requests(self) -> Ints:
        return self.n0 + self.n1

    def deaf(self) -> "Served":
        """As a judge sees it that does not hear it."""
        nothing = np.zeros_like(self.n1)
        return Served(self.level, self.changed, *([nothing] * 6))

    def canary(self) -> tuple[Ints, Ints]:
        """(events, requests) of the new version, errors and then slow requests."""
        n = np.concatenate((self.n1, self.n1))
        return np.minimum(np.concatenate((self.x1, self.s1)), n), n

    def stable(self) -> tuple[Ints, Ints]:
        """The same of stable."""
        n = np.concatenate((self.n0, self.n0))
        return np.minimum(np.concatenate((self.x0, self.s0)), n), n


class Judges:
    """The judges of many rollouts. Columns are the errors of all of them, and then the slow requests of all.

    Attributes:
        unsure: rollouts that are left to the shipped judge.
    """

    def __init__(self, policy: JudgePolicy, known: Histories, rollouts: int, step: int) -> None:
        """``step``: how many parts of what is judged fill a minute: 1, or ``TICKS``."""
        self.policy = policy
        own = [known[row % len(known)] for row in range(rollouts)]
        both = [pair[stream] for stream in (0, 1) for pair in own]
        columns = len(both)
        self._limit = np.repeat([policy.slo_error_rate, policy.slo_slow_rate], rollouts)
        self._proof = 1.5 * self._limit
        self.phi = np.array([history.phi for history in both])
        self.unsure = self._any(np.array([history.may_be_raised for history in both]))
        self._slo = Evidence(policy.slo_mixture, self.phi, policy.first_stake)
        self._stable = Evidence(policy.slo_mixture, self.phi, policy.first_stake)
        self._base = Evidence(policy.base_mixture, self.phi, policy.first_stake)
        self._ok = Evidence(policy.ok_mixture, self.phi, 1.0)
        self._fresh = Evidence(policy.slo_mixture, self.phi, 1.0)
        self._latest = Latest(policy.calm_minutes * step, step, columns)
        self._latest_minutes = Latest(policy.calm_minutes, 1, columns)
        self._stage_events = np.zeros(columns, dtype=np.int64)
        self._stage_requests = np.zeros(columns, dtype=np.int64)
        self._usual_events = np.array([history.inner[0] for history in both])
        self._usual_requests = np.array([history.inner[1] for history in both])
        self._usual_minutes = np.zeros(columns, dtype=np.int64)
        self._minute_weight = np.zeros(rollouts)
        self._weight = np.zeros(rollouts)
        self._by_ticks = False

    def observe(self, minute: Served, *, by_ticks: bool = False) -> None:
        """As ``Judge.observe``."""
        weight = minute.weight
        rises = (weight > self._minute_weight) | (minute.changed & (weight == self._minute_weight))
        seen = np.concatenate((np.ones_like(rises), ~rises))
        if not by_ticks:
            share = np.where(minute.changed, minute.n1 / np.maximum(1, minute.requests), weight)
            self._add(minute, np.concatenate((share, share)), seen, 1.0)
            self._weight = weight
            self._by_ticks = False
        events, requests = minute.stable()
        self._latest_minutes.add(events, requests, seen)
        self._stable.update(events, requests, self._limit, np.where(seen, 1.0, 0.0))
        self._follow_usual_rate(events, requests, seen)
        self._minute_weight = weight
        affected = self._stable.value >= self.policy.worse_at * (1 - CLOSE)
        self.unsure |= self._any(affected)

    def observe_tick(self, tick: Served) -> None:
        """As ``Judge.observe_tick``."""
        self._weight = tick.weight
        self._by_ticks = True
        share = np.concatenate((self._weight, self._weight))
        self._add(tick, share, np.ones(len(share), dtype=np.bool_), TICK_S / 60)

    def _add(self, part: Served, share: Floats, seen: Bools, minutes: float) -> None:
        events, requests = part.canary()
        stable_events, _ = part.stable()
        self._stage_events += np.where(seen, events, 0)
        self._stage_requests += np.where(seen, requests, 0)
        self._latest.add(events, requests, seen)
        lengths = np.where(seen, minutes, 0.0)
        self._slo.update(events, requests, self._limit, lengths)
        self._base.update(events, events + stable_events, share, lengths)
        self._ok.update(events, requests, self._proof, lengths)

    def _follow_usual_rate(self, events: Ints, requests: Ints, seen: Bools) -> None:
        seen = seen & (requests > 0)
        self._usual_minutes += seen
        self._usual_events += np.where(seen, events, 0)
        self._usual_requests += np.where(seen, requests, 0)
        over = self._usual_events > self._limit * self._usual_requests
        raised = over & (self._usual_events >= FEWEST_EVENTS)
        self.unsure |= self._any(raised | (self._usual_minutes > HOUR))

    def next_stage(self, rows: Bools) -> None:
        """A new stage begins in these rollouts."""
        both = np.concatenate((rows, rows))
        self._stage_events[both] = 0
        self._stage_requests[both] = 0

    def regressed(self, bake_over: Bools) -> tuple[Bools, Bools]:
        """Whether each rolls back, for (errors, slow requests)."""
        return self._regressed(self._slo.value, self._stage_events, self._stage_requests, self._weight, bake_over)

    def _regressed(
        self, slo: Floats, events: Ints, requests: Ints, weight: Floats, bake_over: Bools
    ) -> tuple[Bools, Bools]:
        alone = np.concatenate((weight, weight)) >= 1.0
        at = self.policy.rollback_at
        base = self._base.value
        over = self._reaches(slo, at) & (alone | self._reaches(base, self.policy.worse_at))
        at_end = np.concatenate((bake_over, bake_over)) & (events / np.maximum(1, requests) > 1.2 * self._limit)
        found = over | (self._reaches(base, at) & (self._reaches(slo, 1.0 / self.policy.gamma) | at_end))
        rollouts = len(weight)
        return found[:rollouts], found[rollouts:]

    @property
    def may_roll_back(self) -> Bools:
        """Whether the verdict is asked for between two minutes."""
        return self._any(np.maximum(self._slo.value, self._base.value) >= self.policy.rollback_at)

    def regressed_after(self, minute: Served, at_most: Ints) -> tuple[Bools, Bools]:
        """The same after a minute at 100 % that is published in part, as ``look_ahead`` asks."""
        events, requests = minute.canary()
        tried = np.maximum(requests, np.concatenate((at_most, at_most)))
        slo = self._slo.after(events, tried, self._limit)
        always = np.ones_like(minute.changed)
        stage = (self._stage_events + events, self._stage_requests + requests)
        return self._regressed(slo, *stage, np.ones(len(always)), always)

    @property
    def doubtful(self) -> Bools:
        """Too bad to advance, by the whole rollout."""
        rate = self._stage_events / np.maximum(1, self._stage_requests)
        worse = self._reaches(self._base.value, self.policy.worse_at) & (rate > self._limit)
        return self._any(self._reaches(self._slo.value, self.policy.doubt_at) | worse)

    @property
    def recently_doubtful(self) -> Bools:
        """The same by the latest minutes alone, of the new version or of stable."""
        policy = self.policy
        below = policy.early_below_by_ticks if self._by_ticks else policy.early_below
        at = np.where(self._weight < below, policy.early_doubt_at, policy.fresh_doubt_at)
        at = np.concatenate((at, at))
        found = np.zeros(len(at), dtype=np.bool_)
        for events, requests in self._latest.sums():
            found |= self._reaches(self._evidence(events, requests), at)
        for events, requests in self._latest_minutes.sums():
            found |= self._reaches(self._evidence(events, requests), policy.fresh_doubt_at)
        return self._any(found)

    def _evidence(self, events: Ints, requests: Ints) -> Floats:
        return self._fresh.after(events, requests, self._limit)

    @property
    def proved(self) -> Bools:
        """Shown to be healthy."""
        found = self._reaches(self._ok.value, self.policy.proved_at)
        rollouts = len(self.unsure)
        return found[:rollouts] & found[rollouts:]

    def stable_test(self, row: int, errors: bool) -> StableTest | None:
        """What stable is tested by after a rollback."""
        column = row if errors else row + len(self.unsure)
        if self._weight[row] < 1.0 or self._base.value[column] >= self.policy.rollback_at:
            return None
        phi = float(self.phi[column])
        name: StreamName = "errors" if errors else "slow"
        limit = float(self._limit[column])
        return StableTest(name, limit, self.policy.slo_mixture, phi, self.policy.worse_at)

    def _reaches(self, values: Floats, at: float | Floats) -> Bools:
        self.unsure |= self._any(np.abs(values - at) <= CLOSE * at)
        return values >= at

    def _any(self, columns: Bools) -> Bools:
        rollouts = len(columns) // 2
        return columns[:rollouts] | columns[rollouts:]


class Many:
    """Many rollouts under the judge: what ``Rollout`` does with one. Times are in seconds.

    Attributes:
        shipped: how each ended; None: not yet, or left to the shipped judge. ``day``: if it were watched for a day.
        running: those that go on.
    """

    parts = 1
    """Of what is polled, in a minute."""

    def __init__(
        self,
        policy: JudgePolicy,
        known: Histories,
        requests: Requests,
        seeds: Sequence[tuple[int, ...]],
        stages: Stages,
        deaf_until: int = 0,
    ) -> None:
        """``known``: histories; ``seeds``: of each rollout's later minutes."""
        rollouts = len(seeds)
        self.judges = Judges(policy, known, rollouts, self.parts)
        self.cell: Cell = requests.cell
        self.deaf_until = deaf_until
        self.shipped: list[Outcome | None] = [None] * rollouts
        self.day: list[Outcome | None] = [None] * rollouts
        self.running = np.ones(rollouts, dtype=np.bool_)
        self._levels = np.array([level for level, _ in stages])
        self._bakes = np.array([bake_s for _, bake_s in stages])
        self._stage = np.zeros(rollouts, dtype=np.int64)
        self._since = np.zeros(rollouts)
        self._shifted = np.zeros(rollouts)
        self._reached_100 = np.full(rollouts, inf)
        self._proved_at = np.full(rollouts, inf)
        self._exposed = np.zeros(rollouts, dtype=np.int64)
        self._rows = np.arange(rollouts)
        self._bands: tuple[Ints, ...] = (requests.n, requests.x1, requests.x0, requests.slow)
        self._first = 0  # of what is in the bands
        self._alone = [np.ascontiguousarray(band[:, :, -1].T) for band in self._bands]
        self._tails = [np.random.default_rng(seed) for seed in seeds]

    def serve(self, t: int) -> Served:
        """One minute or tick of all rollouts, each at its own weight."""
        if t == self._first + self._bands[0].shape[1]:
            self._draw_tail(t)
        # What has ended is served as if at 100 %: then most of the time all are, and that is fast.
        level = np.where(self.running, self._levels[self._stage], ALONE)
        at = t - self._first
        n, x1, x0, s = (counts[at] for counts in self._alone)
        n1 = n
        below = x0
        s1 = s
        if level.min() < ALONE:
            n1, x1, below, s1 = (band[self._rows, at, level] for band in self._bands)
        now = 60 * t // self.parts
        if now >= 60 * self.cell.onset:
            self._exposed += n1
        return Served(level, now < self._shifted + 60 * MOVING_MINUTES, n1, x1, s1, n - n1, x0 - below, s - s1)

    def _draw_tail(self, t: int) -> None:
        """Later minutes are known at 100 % only."""
        size = min(TAIL, DAY * self.parts - t)
        bands = tuple(np.zeros((len(self._rows), size, len(WEIGHTS)), dtype=np.int64) for _ in range(4))
        for row in np.flatnonzero(self.running).tolist():
            n, x1, slow = tail(self.cell, size, self._tails[row], self.parts)
            bands[0][row, :, -1] = n
            bands[1][row, :, -1] = x1
            bands[3][row, :, -1] = slow
        self._bands = bands
        self._first = t
        self._alone = [np.ascontiguousarray(band[:, :, -1].T) for band in bands]

    @property
    def _final(self) -> Bools:
        return cast(Bools, self._stage == len(self._levels) - 1)

    @property
    def _watch_ends(self) -> Floats:
        return self._reached_100 + 60 * WATCH_MINUTES

    def _decide(self, now: int, eventful: Bools) -> None:
        """Act on the verdicts; where it is not eventful, on rollbacks only."""
        judges = self.judges
        policy = judges.policy
        baked = now - self._since
        bake = self._bakes[self._stage]
        final = self._final
        over = baked >= bake
        regressed = judges.regressed(over)
        rolled_back = regressed[0] | regressed[1]
        judges.unsure |= ~eventful & judges.may_roll_back & ~rolled_back
        advancing = eventful & over & ~rolled_back
        doubt = np.zeros_like(over)
        if (advancing & self.running).any():
            doubt = judges.doubtful
        if (advancing & ~final & self.running).any():
            doubt = doubt | (judges.recently_doubtful & ~final)
        proved = judges.proved & final
        self._leave_unsure()
        self._roll_back(now, regressed)
        expired = ~final & (baked >= bake + policy.max_stretch_s)
        self._end("held", now, advancing & doubt & expired)
        self._prove(now, advancing & ~doubt & proved)
        self._advance(now, advancing & ~doubt & ~final)

    def _leave_unsure(self) -> None:
        self.running &= ~self.judges.unsure

    def _roll_back(self, now: int, regressed: tuple[Bools, Bools]) -> None:
        for row in np.flatnonzero(self.running & (regressed[0] | regressed[1])).tolist():
            self._record(row, "rolled back", now, self.judges.stable_test(row, bool(regressed[0][row])))

    def _prove(self, now: int, rows: Bools) -> None:
        rows = rows & self.running
        self._proved_at = np.where(rows, np.minimum(self._proved_at, now), self._proved_at)
        longest = np.maximum(self._proved_at, self._watch_ends)
        watched = np.minimum(self._proved_at + 60 * AFTER_PROOF_MINUTES, longest)
        self._end("proved", now, rows & (now >= watched))

    def _advance(self, now: int, rows: Bools) -> None:
        rows = rows & self.running
        if not rows.any():
            return
        self.judges.next_stage(rows)
        self._stage[rows] += 1
        self._since[rows] = now
        self._shifted[rows] = now
        self._reached_100[rows & self._final] = now

    def _end(self, end: str, now: int, rows: Bools) -> None:
        for row in np.flatnonzero(rows & self.running).tolist():
            self._record(row, end, now)

    def _record(self, row: int, end: str, now: int, test: StableTest | None = None) -> None:
        outcome = self._outcome(row, end, now, test)
        self.day[row] = outcome
        self.shipped[row] = self.shipped[row] or outcome
        self.running[row] = False

    def _end_watch(self, now: int, all_day: bool) -> None:
        for row in np.flatnonzero(self.running & (now >= self._watch_ends)).tolist():
            if self.shipped[row] is None:
                end = "unproven" if self._proved_at[row] == inf else "proved"
                self.shipped[row] = self._outcome(row, end, now)
            self.running[row] = all_day

    def _outcome(self, row: int, end: str, now: int, test: StableTest | None = None) -> Outcome:
        """As ``Rollout.outcome``."""
        stands = end in ("proved", "unproven")
        later = round(self.cell.traffic * (DAY - max(now / 60, self.cell.onset))) if stands else 0
        proved_at = self._proved_at[row]
        at = int(proved_at) if end == "proved" and proved_at < inf else now
        return Outcome(end, at // 60, float(self._reached_100[row]) / 60, int(self._exposed[row]) + later, test)


class ManyByMinutes(Many):
    """Polled each minute, as ``Rollout``."""

    def run(self, all_day: bool) -> list[Outcomes | None]:
        """Serve minute after minute; None: left to the shipped judge."""
        unread: deque[Served] = deque()
        latest: deque[Ints] = deque(maxlen=BUSIEST_OF_MINUTES)
        for t in range(DAY):
            now = 60 * t
            self._end_watch(now, all_day)
            if not self.running.any():
                break
            if len(unread) == 1 + LATE_MINUTES:
                minute = unread.popleft()
                deaf = t - 1 - LATE_MINUTES < self.deaf_until
                self.judges.observe(minute.deaf() if deaf else minute)
                latest.append(minute.requests)
                self._decide(now, np.ones_like(self.running))
                self._look_ahead(now, unread, np.max(latest, axis=0))
            unread.append(self.serve(t))
        self._end("unproven", 60 * DAY, self.running)
        outcomes: list[Outcomes | None] = []
        for shipped, day, unsure in zip(self.shipped, self.day, self.judges.unsure.tolist(), strict=True):
            done = shipped is not None and (day is not None or not all_day)
            outcomes.append(Outcomes(shipped, day) if shipped is not None and done else None)
            assert done or unsure
        return outcomes

    def _look_ahead(self, now: int, unread: deque[Served], busiest: Ints) -> None:
        """As ``Rollout.look_ahead``, with the one minute that is published and not judged."""
        assert LATE_MINUTES - PUBLISHED_MINUTES == 1
        minute = unread[0]
        failed = np.maximum(minute.x1, minute.s1)
        young = (minute.level == ALONE) & ~minute.changed & (failed > NO_EVIDENCE * busiest) & self.running
        if young.any():
            unsure = self.judges.unsure.copy()
            errors, slow = self.judges.regressed_after(minute, busiest)
            self.judges.unsure = unsure | (self.judges.unsure & young)
            self._leave_unsure()
            self._roll_back(now, (errors & young, slow & young))


class ManyByTicks(Many):
    """Polled each tick, as ``FeedRollout``."""

    parts = TICKS

    def run(self) -> list[Outcome | None]:
        """Serve tick after tick; None: left to the shipped judge."""
        unread: deque[Served] = deque()
        minutes: deque[Served] = deque()
        parts: list[Served] = []
        for t in range(DAY * TICKS):
            now = t * TICK_S
            self._end_watch(now, all_day=False)
            if not self.running.any():
                break
            if len(parts) == TICKS:
                minutes.append(self._minute(parts, now))
                parts.clear()
            if len(minutes) == 1 + LATE_MINUTES:
                minute = minutes.popleft()
                deaf = now - 60 * (1 + LATE_MINUTES) < 60 * self.deaf_until
                self.judges.observe(minute.deaf() if deaf else minute, by_ticks=True)
            if len(unread) == 1 + TICK_LATE_S // TICK_S:
                tick = unread.popleft()
                deaf = now - TICK_S - TICK_LATE_S < 60 * self.deaf_until
                self.judges.observe_tick(tick.deaf() if deaf else tick)
                self._decide(now, ~self._final | (t % TICKS == 0))
            served = self.serve(t)
            unread.append(served)
            parts.append(served)
        return self.shipped

    def _minute(self, parts: Sequence[Served], now: int) -> Served:
        changed = (parts[-1].level != parts[0].level) | (now - 60 < self._shifted + 60 * MOVING_MINUTES)
        names = ("n1", "x1", "s1", "n0", "x0", "s0")
        counts = (sum(getattr(part, name) for part in parts) for name in names)
        return Served(parts[-1].level, changed, *counts)
