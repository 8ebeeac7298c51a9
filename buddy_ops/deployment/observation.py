"""How a rollout is seen while it runs, and what a person may order at a poll."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from buddy_ops.core.outcome import Ending, Outcome
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.judge import Verdict
from buddy_ops.health.metrics import MinuteRow

Order = Literal["abort", "hold", "promote", "go on"]
"""What a person may order at a poll: 'go on' ends a 'hold', and leaves the rest to the verdict."""


@dataclass(frozen=True)
class Observation:
    """One poll. ``rows`` are the minutes read since the last one, ``verdict`` what the judge says of all so far.

    Attributes:
        stage: '1', '2', ... or 'publish' or 'watch'.
        weight: the new version's share now, 0..1.
        wake_at: when to call again.
        bake_left_s: seconds until the bake is over, at least 0; None where nothing bakes.
        next_weight: the new version's share in the next stage, 0..1; None where there is none.
    """

    at: datetime
    stage: str
    weight: float
    rows: tuple[MinuteRow, ...]
    verdict: Verdict | None
    evidence: RolloutEvidence | None
    wake_at: datetime
    says: str
    bake_left_s: float | None = None
    next_weight: float | None = None


Rollout = Generator[Observation, Order | None, Outcome]


@dataclass(frozen=True)
class RollbackDecision:
    """The decision to take the traffic back, and whether the new version is to blame."""

    ending: Ending
    reasons: tuple[str, ...]
    bad: bool = False


ABORTED = RollbackDecision("aborted", ("A person aborted the rollout.",), bad=True)


def rollback_without_blame(*reasons: str) -> RollbackDecision:
    """Take the traffic back and blame nobody."""
    return RollbackDecision("held", reasons)
