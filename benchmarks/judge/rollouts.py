"""Drives the real judge as the product does: stages, bakes, stretches, re-bakes, and the watch after 100 %."""

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from benchmarks.judge.shipped import (
    AFTER_PROOF_MINUTES,
    LATE_MINUTES,
    POLICY,
    PUBLISHED_MINUTES,
    TICK_LATE_S,
    WATCH_MINUTES,
    Stages,
)
from benchmarks.judge.traffic import DAY, TAIL, TICK_S, TICKS, WEIGHTS, Cell, Requests, tail
from buddy_ops.health.counts import Counts, Minute, Tick
from buddy_ops.health.evidence import BUSIEST_OF_MINUTES
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.stable_alone import StableTest

MOVING_MINUTES = 2
"""For so many minutes after a shift the product tells the judge that the weight may still be changing."""

NO_EVIDENCE = 1.2 * min(POLICY.slo_error_rate, POLICY.slo_slow_rate)
"""A minute's rate up to which no multiple of the mixture gains, the least of which is 1.5 times the limit."""


Bands = tuple[list[int], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one rollout ended: 'rolled back', 'proved', 'held', 'external' (given up), 'excused' or 'unproven'.

    Attributes:
        minute: when it ended; of 'proved' the minute of the proof.
        reached_100: when 100 % was reached; inf if never.
        exposed: requests of the new version after the onset, up to 24 h.
        stable_test: what stable is tested by after a rollback from 100 %.
    """

    end: str
    minute: int
    reached_100: float
    exposed: int
    stable_test: StableTest | None = None

    def with_blame(self, stable: Sequence[tuple[int, int, int]]) -> "Outcome":
        """As it ends once stable's minutes (requests, failures, slow) after the rollback are read."""
        test = self.stable_test
        if self.end != "rolled back" or test is None:
            return self
        both_fail, _ = test.counts_until_over((x0 if test.stream == "errors" else slow, n) for n, x0, slow in stable)
        return replace(self, end="excused") if both_fail else self


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One rollout as it ships, and as it would end if it were watched for a day until it is proved.

    ``day`` is None where that was not asked.
    """

    shipped: Outcome
    day: Outcome | None


def minutes_of(requests: Requests, row: int, rng: np.random.Generator, parts: int = 1) -> Iterator[Bands]:
    """Per minute or tick, the cumulated bands (n, x1, x0, slow) of one rollout; later ones are known at 100 % only.

    Args:
        parts: in a minute: 1, or ``TICKS`` for requests by ticks.
    """
    yield from zip(*(a[row].tolist() for a in (requests.n, requests.x1, requests.x0, requests.slow)), strict=True)
    nothing = [0] * (len(WEIGHTS) - 1)
    drawn = requests.n.shape[1]
    while drawn < DAY * parts:
        later = tail(requests.cell, min(TAIL, DAY * parts - drawn), rng, parts)
        for n, x1, slow in zip(*(counts.tolist() for counts in later), strict=True):
            yield [*nothing, n], [*nothing, x1], [*nothing], [*nothing, slow]
            drawn += 1


def minute_at(bands: Bands, level: int) -> Minute:
    """What is measured of a minute in which the new version had this level."""
    n, x1, x0, slow = bands
    if level == len(WEIGHTS) - 1:
        return Minute(1.0, Counts(), Counts(n[-1], x1[-1], slow[-1]))
    stable = Counts(n[-1] - n[level], x0[-1] - x0[level], slow[-1] - slow[level])
    return Minute(WEIGHTS[level], stable, Counts(n[level], x1[level], slow[level]))


class Rollout:
    """One rollout under the judge: polled each minute, with metrics as late as the product waits for them.

    Attributes:
        since: the second at which the present bake began; ``shifted``: at which the weight was changed.
        reached_100: the second at which 100 % was reached; inf if never.
        proved_at: the second at which it was shown to be healthy.
    """

    def __init__(self, judge: Judge, cell: Cell, stages: Stages, deaf_until: int = 0) -> None:
        """`deaf_until`: earlier minutes look empty (the clairvoyant judge knows when to begin)."""
        self.judge = judge
        self.cell = cell
        self.stages = stages
        self.deaf_until = deaf_until
        self.stage = 0
        self.since = 0
        self.shifted = 0
        self.rebakes = 0
        self.exposed = 0
        self.reached_100 = inf
        self.shipped: Outcome | None = None
        self.proved_at: int | None = None
        self.stable_test: StableTest | None = None
        self.latest: deque[int] = deque(maxlen=BUSIEST_OF_MINUTES)

    def run(self, bands: Iterator[Bands], all_day: bool = True) -> Outcomes:
        """Serve minute after minute until it ends; the version then stands, or is gone, to the end of the day."""
        unread: deque[Minute] = deque()
        for t, minute in enumerate(bands):
            now = 60 * t
            if now >= self.watch_ends and self.shipped is None:
                self.shipped = self.end_of_watch(now)
                if not all_day:
                    return Outcomes(self.shipped, None)
            if len(unread) == 1 + LATE_MINUTES:  # the first of them is readable now
                end = self.poll(t, unread.popleft()) or self.look_ahead(unread)
                if end:
                    return self.outcomes(end, now)
            served = minute_at(minute, self.stages[self.stage][0])
            unread.append(replace(served, weight_changed=now < self.shifted + 60 * MOVING_MINUTES))
            if t >= self.cell.onset:
                self.exposed += served.canary.requests
        return self.outcomes("unproven", 60 * DAY)

    def poll(self, t: int, minute: Minute) -> str:
        """Act on one more minute; how the rollout ended, or '' while it goes on."""
        deaf = t - 1 - LATE_MINUTES < self.deaf_until
        self.judge.observe(replace(minute, stable=Counts(), canary=Counts()) if deaf else minute)
        self.latest.append(minute.stable.requests + minute.canary.requests)
        return self.decide(60 * t)

    @property
    def is_final(self) -> bool:
        """Whether this is the stage at 100 %."""
        return self.stage == len(self.stages) - 1

    def decide(self, now: int) -> str:
        """Act on the judge's verdict; how the rollout ended, or '' while it goes on."""
        if self.judge.rebakes != self.rebakes:
            self.rebakes = self.judge.rebakes
            self.since = now
        verdict = self.judge.verdict(float(now - self.since), self.stages[self.stage][1], self.is_final)
        if verdict.decision == "rollback":
            self.stable_test = verdict.stable_test
            return "rolled back"
        if verdict.expired:
            return "external" if verdict.decision == "external" else "held"
        return self.promote(now) if verdict.decision == "promote" else ""

    def promote(self, now: int) -> str:
        """Begin the next stage; in the last one the version is shown to be healthy."""
        if self.is_final:
            if self.proved_at is None:
                self.proved_at = now
            watched = min(self.proved_at + 60 * AFTER_PROOF_MINUTES, max(self.proved_at, self.watch_ends))
            return "proved" if now >= watched else ""
        self.judge.next_stage()
        self.stage += 1
        self.since = self.shifted = now
        if self.is_final:
            self.reached_100 = now
        return ""

    def look_ahead(self, unread: Sequence[Minute]) -> str:
        """Weigh the failures of minutes that are published and not judged yet: at 100 % they may roll back."""
        published = list(unread)[: LATE_MINUTES - PUBLISHED_MINUTES]
        judge = None
        for minute in published:
            requests = max(self.latest)
            failed = max(minute.canary.errors, minute.canary.slow)
            # Fewer are no evidence that the version is over its limit.
            if failed > NO_EVIDENCE * requests and minute.weight == 1.0 and not minute.weight_changed:
                if judge is None:
                    judge = pickle.loads(pickle.dumps(self.judge))  # three times as fast as copy.deepcopy
                judge.observe(replace(minute, canary_requests_at_most=requests))
        if judge is None:
            return ""
        verdict = judge.verdict(0.0, 0.0, True)
        self.stable_test = verdict.stable_test
        return "rolled back" if verdict.decision == "rollback" else ""

    @property
    def watch_ends(self) -> float:
        """The second in which the watch at 100 % ends at the latest."""
        return self.reached_100 + 60 * WATCH_MINUTES

    def end_of_watch(self, now: int) -> Outcome:
        """How it ends where the watch is over."""
        return self.outcome("unproven" if self.proved_at is None else "proved", now)

    def outcomes(self, end: str, now: int) -> Outcomes:
        """What ships ended at its watch's limit, if it was not over before."""
        day = self.outcome(end, now)
        return Outcomes(self.shipped or day, day)

    def outcome(self, end: str, now: int) -> Outcome:
        stands = end in ("proved", "unproven")
        later = round(self.cell.traffic * (DAY - max(now / 60, self.cell.onset))) if stands else 0
        at = now if end != "proved" or self.proved_at is None else self.proved_at
        return Outcome(end, at // 60, self.reached_100 / 60, self.exposed + later, self.stable_test)


class FeedRollout(Rollout):
    """One rollout by the log feed: polled each tick, and stable's own figures by minutes."""

    def run(self, bands: Iterator[Bands], all_day: bool = False) -> Outcomes:
        """Serve tick after tick until it ends, or the watch does."""
        assert not all_day
        unread: deque[Tick] = deque()
        weights = deque([0.0] * TICKS, maxlen=TICKS)  # an alias takes up to a minute to follow
        minutes: deque[Minute] = deque()
        parts: list[Minute] = []
        for t, tick in enumerate(bands):
            now = t * TICK_S
            if now >= self.watch_ends:
                return Outcomes(self.end_of_watch(now), None)
            eventful = not self.is_final or t % TICKS == 0
            if len(parts) == TICKS:
                stable = sum((part.stable for part in parts), Counts())
                canary = sum((part.canary for part in parts), Counts())
                moving = parts[-1].weight != parts[0].weight or now - 60 < self.shifted + 60 * MOVING_MINUTES
                minutes.append(Minute(parts[-1].weight, stable, canary, weight_changed=moving, judged_by_ticks=True))
                parts.clear()
            if len(minutes) == 1 + LATE_MINUTES:
                self.judge.observe(self.heard(minutes.popleft(), now - 60 * (1 + LATE_MINUTES)))
            if len(unread) == 1 + TICK_LATE_S // TICK_S:
                read = unread.popleft()
                if now - TICK_S - TICK_LATE_S < 60 * self.deaf_until:
                    read = replace(read, canary=Counts(), stable_errors=0, stable_slow=0)
                self.judge.observe_tick(read)
                if (eventful or self.may_roll_back) and (end := self.decide(now)):
                    return Outcomes(self.outcome(end, now), None)
            served = minute_at(tick, self.stages[self.stage][0])
            least = min(*weights, served.weight)
            weights.append(served.weight)
            unread.append(
                Tick(TICK_S, served.weight, served.canary, served.stable.errors, served.stable.slow, least_weight=least)
            )
            parts.append(served)
            if now >= 60 * self.cell.onset:
                self.exposed += served.canary.requests
        return Outcomes(self.end_of_watch(60 * DAY), None)

    @property
    def may_roll_back(self) -> bool:
        """Whether a verdict on a version alone can be a rollback; the proof is asked for once a minute."""
        scores = self.judge.scores()
        most = max(max(stream.slo, stream.base) for stream in (scores.errors, scores.slow))
        return most >= scores.rollback_at

    def heard(self, minute: Minute, began: int) -> Minute:
        """A minute as the judge reads it: earlier ones look empty to a clairvoyant one."""
        return replace(minute, stable=Counts(), canary=Counts()) if began < 60 * self.deaf_until else minute


def clairvoyant(cell: Cell, policy: JudgePolicy) -> JudgePolicy:
    """The judge that knows p0, p1 and the onset: the same rules and thresholds, all its stake on the truth at once.

    It hears nothing before the onset (`deaf_until`), so it owes nothing to earlier minutes, and knows that failures do
    not clump. Not an optimal policy, but the best that this form of test can do.
    """

    def odds(p: float) -> float:
        return p / (1 - p) if p < 1 else 1e6

    over = odds(cell.p1) / odds(policy.slo_error_rate)
    worse = cell.p1 / cell.p0 if cell.p0 else 1e6
    return replace(policy, slo_mixture=((over, 1.0),), base_mixture=((worse, 1.0),), first_stake=1.0)
