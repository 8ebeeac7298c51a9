"""What a rollout shows at each poll, and what a person may order then."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeVar

from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.text import MINUTE, floor_minute
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.log_feed import TICK, FeedTick, floor_tick
from buddy_ops.health.metrics import MinuteRow
from buddy_ops.health.verdict import Verdict

T = TypeVar("T")

Order = Literal["abort", "hold", "promote", "go on", "stop"]
"""What a person may order at a poll.

'hold' pauses and 'go on' resumes: then the verdict decides again. 'stop' ends the reading after a rollback.
"""


@dataclass(frozen=True)
class StageOrder:
    """An operator action with the stage, and the new version's share (0..1), that the operator saw."""

    order: Order
    stage: str
    weight: float


@dataclass(frozen=True)
class Observation:
    """One poll of a rollout.

    Attributes:
        at: when it was made.
        stage: '1', '2', ... while traffic is split; ``publish``, ``prove``, ``watch`` or ``rolled-back`` else.
        weight: the new version's share of the traffic now, 0..1.
        wake_at: when to call again.
        says: what the poll found, for the operator.
        rows: the minutes read since the last poll that was shown; ``ticks``: those of the log.
        verdict: the judge's verdict on all minutes so far; None while no traffic is judged.
        evidence: what the verdict rests on; None while no traffic is judged.
        bake_left_s: seconds until the bake is over, at least 0; None where nothing bakes.
        next_weight: the new version's share in the next stage, 0..1; None where there is none.
        monitored_until: until when a healthy version is monitored, which stays if the run is lost; None before that.
    """

    at: datetime
    stage: str
    weight: float
    wake_at: datetime
    says: str
    rows: tuple[MinuteRow, ...] = ()
    ticks: tuple[FeedTick, ...] = ()
    verdict: Verdict | None = None
    evidence: RolloutEvidence | None = None
    bake_left_s: float | None = None
    next_weight: float | None = None
    monitored_until: datetime | None = None


Polls = Generator[Observation, Order | StageOrder | None, T]
"""A part of a rollout that yields an observation per poll, receives an operator's action, and returns a T.

A plain order is for the stage that was yielded.
"""

Rollout = Polls[Outcome]


def observe(
    target: Target,
    evidence: RolloutEvidence,
    verdict: Verdict,
    *,
    stage: str,
    weight: float,
    next_weight: float | None,
    says: str,
    bake_left_s: float | None = None,
    monitored_until: datetime | None = None,
    journaled: bool = True,
) -> Observation:
    """Journal a poll while traffic is judged. Its minutes are added when it is yielded: see ``show``."""
    now = target.clock.now()
    wake_at = next_poll(now, evidence)
    if not weight:
        wake_at = now  # nothing is left to wait for
    if journaled:
        target.journal.append("observed", stage=stage, weight=weight, decision=verdict.decision, says=says)
    return Observation(
        now,
        stage,
        weight,
        wake_at=wake_at,
        says=says,
        verdict=verdict,
        evidence=evidence,
        bake_left_s=bake_left_s,
        next_weight=next_weight,
        monitored_until=monitored_until,
    )


def show(observation: Observation, evidence: RolloutEvidence) -> Polls[Order | None]:
    """Yield a poll, with the minutes that those before it did not show; the operator's action.

    A promotion that was given for another stage is refused: it would skip this one.
    """
    # Not every poll is yielded: the minutes of one that promotes come with the next one.
    given = yield replace(observation, rows=evidence.fresh(), ticks=evidence.fresh_ticks())
    if not isinstance(given, StageOrder):
        return given
    # A click may arrive after the stage has moved on by itself: the person saw the one before.
    if given.order == "promote" and (given.stage, given.weight) != (observation.stage, observation.weight):
        return None
    return given.order


def next_poll(now: datetime, evidence: RolloutEvidence | None = None) -> datetime:
    """When a running rollout polls again: at the next full minute, as CloudWatch counts them, or 10 s for the log."""
    if evidence is not None and evidence.polls_log:
        return floor_tick(now) + TICK
    return floor_minute(now) + MINUTE
