"""500 random rollouts and a digest of what the judge makes of each, recorded before it could be fed by ticks.

The policy is that of the recording.

``python -m tests.health.recorded_rollouts`` records them again: only where the judge is to decide otherwise.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from math import exp, log
from pathlib import Path

from buddy_ops.health.counts import Counts, Minute, StreamName
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.verdict import Verdict

ROLLOUTS = 500
BAKE_MINUTES = 5
POLICY = JudgePolicy(
    slo_mixture=((1.5, 0.10), (2, 0.35), (3.5, 0.17), (7.5, 0.15), (25, 0.10), (150, 0.07), (1e4, 0.06)),
)
RECORD = Path(__file__).with_name("recorded_rollouts.txt")


@dataclass(frozen=True)
class Recorded:
    """The minutes of one rollout, by stage, with stable's history."""

    policy: JudgePolicy
    history: tuple[Counts, ...]
    stages: tuple[tuple[Minute, ...], ...]


def _events(rng: random.Random, requests: int, rate: float, burst: int = 1) -> int:
    """A number of events; ``burst`` of them come together."""
    hits = sum(rng.random() < rate / burst for _ in range(requests))
    return min(requests, hits * burst)


def rollout(number: int) -> Recorded:
    """A rollout of every kind: good, bad, late, with a fault of both versions, at any traffic, with figures missing."""
    rng = random.Random(number)
    traffic = rng.choice((3, 20, 60, 200, 600))
    stable_rate = rng.choice((0.0, 0.003, 0.008, 0.013))
    new_rate = rng.choice((stable_rate, 0.02, 0.05, 0.2, 1.0))
    onset = rng.choice((0, 0, 0, 7, 14))
    fault = rng.choice((99, 99, 2, 8))
    fault_rate = rng.choice((0.05, 0.5))
    burst = rng.choice((1, 1, 4))
    slow_rate = rng.choice((0.002, 0.002, 0.1))
    shared = rng.random() < 0.2
    policy = replace(POLICY, has_alias_metrics=shared)

    def counts(weight: float, rate: float, slow: float, cold: float = 0.0) -> Counts:
        requests = rng.randint(0, round(2 * traffic * weight))
        colds = _events(rng, requests, cold)
        slows = _events(rng, requests - colds, slow)
        throttled = 3 if rng.random() < 0.01 else 0
        errors = _events(rng, requests, rate, burst)
        return Counts(requests, errors, slows + colds // 2, throttled, cold=colds, cold_slow=colds // 2)

    history = tuple(counts(1.0, stable_rate, 0.002) for _ in range(60))
    stages = []
    at = 0
    for weight in (0.01, 0.1, 0.5, 1.0):
        minutes = []
        for index in range(BAKE_MINUTES):
            outside = fault_rate if fault <= at < fault + 5 else 0.0
            moved = index == 0 and rng.random() < 0.7
            share = rng.uniform(0, weight) if moved else weight
            cold = 0.2 if index == 0 and rng.random() < 0.3 else 0.0
            unread: frozenset[StreamName] = frozenset(("slow",)) if rng.random() < 0.03 else frozenset()
            stable = counts(1.0 - share, stable_rate + outside, 0.002)
            canary = counts(share, min(1.0, (new_rate if at >= onset else stable_rate) + outside), slow_rate, cold)
            failures = _events(rng, stable.requests + canary.requests, 0.01) if shared and weight < 1.0 else None
            at_most = 2 * canary.requests if rng.random() < 0.02 else 0
            minutes.append(Minute(weight, stable, canary, moved, unread, at_most, failures))
            at += 1
        stages.append(tuple(minutes))
    return Recorded(policy, history, tuple(stages))


Feed = Callable[[Judge, Minute, bool], None]
"""Shows the judge a minute; whether it is the first of its stage."""


def by_minutes(judge: Judge, minute: Minute, first: bool) -> None:
    """As minutes are shown."""
    del first
    judge.observe(minute)


def digest(number: int, feed: Feed = by_minutes) -> str:
    """What the judge makes of a rollout, minute by minute: every score in full, and every verdict."""
    recorded = rollout(number)
    judge = Judge(recorded.policy, recorded.history)
    found = hashlib.sha256()
    for stage, minutes in enumerate(recorded.stages):
        if stage:
            judge.next_stage()
        for index, minute in enumerate(minutes, start=1):
            feed(judge, minute, index == 1)
            verdict = judge.verdict(60.0 * index, 60.0 * BAKE_MINUTES, stage == len(recorded.stages) - 1)
            found.update(repr((astuple(judge.scores()), _decided(verdict))).encode())
    return found.hexdigest()[:12]


def _decided(verdict: Verdict) -> tuple[object, ...]:
    """A verdict, without stable's requests: they are unknown where the log is read for failures only."""
    counts = replace(verdict.compared.counts, stable_requests=0)
    return (
        verdict.decision,
        verdict.finding,
        verdict.needed and astuple(verdict.needed),
        verdict.expired,
        verdict.cause,
        verdict.rebakes,
        (counts.canary_events, counts.canary_requests, counts.stable_events),
        (verdict.worse, verdict.over, verdict.throttled, verdict.minutes, verdict.cold, verdict.cold_slow),
    )


def arithmetic() -> str:
    """A digest of this machine's exp() and log(): another C library rounds some of them otherwise."""
    values = [(exp(number / 37), log(number / 37)) for number in range(1, 5000)]
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def recorded_digests() -> list[str]:
    """The digest of every rollout, in order; the first line is that of the arithmetic."""
    return RECORD.read_text(encoding="utf-8").split()


if __name__ == "__main__":
    lines = [arithmetic(), *(digest(number) for number in range(ROLLOUTS))]
    RECORD.write_text("\n".join(lines) + "\n", encoding="utf-8")
