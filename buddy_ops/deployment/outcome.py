"""How a rollout is seen and how it ends: the words between the engine and whoever watches it.

Knows what each ending means, as a sentence and as an exit code. Never decides one.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from buddy_ops.core.errors import Held, RolledBack
from buddy_ops.health.evidence import Evidence
from buddy_ops.health.judge import Verdict
from buddy_ops.health.metrics import MINUTE, Row

Order = Literal["abort", "hold", "promote", "go on"]
"""What a person may order at a poll: 'go on' ends a 'hold', and leaves the rest to the verdict."""

Ending = Literal[
    "proved",
    "unproven",
    "deployed",
    "already-live",
    "dry-run",
    "drained",
    "rolled-back",
    "aborted",
    "lease-fired",
    "held",
]
EXIT_CODES: dict[Ending, int] = {"rolled-back": 3, "aborted": 3, "lease-fired": 3, "held": 5}


@dataclass(frozen=True)
class Observation:
    """One poll. ``rows`` are the minutes read since the last one, ``verdict`` what the judge says of all so far.

    Attributes:
        stage: '1', '2', ... or 'publish' or 'watch'.
        weight: the new version's share now, 0..1.
        wake_at: when to call again.
        bake_left_s: seconds until the bake is over, at least 0; None where nothing bakes.
    """

    at: datetime
    stage: str
    weight: float
    rows: tuple[Row, ...]
    verdict: Verdict | None
    evidence: Evidence | None
    wake_at: datetime
    says: str
    bake_left_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended."""

    ending: Ending
    stable: str
    new: str
    stage: str
    began: datetime
    ended: datetime
    reasons: tuple[str, ...]
    requests: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The exit code that the command line documents for this ending."""
        return EXIT_CODES.get(self.ending, 0)

    def __str__(self) -> str:
        return "\n".join((f"{_title(self)} ({(self.ended - self.began) / MINUTE:.0f} min).", *self.reasons))


Rollout = Generator[Observation, Order | None, Outcome]


@dataclass(frozen=True)
class Back:
    """The decision to take the traffic back, and whether the new version is to blame."""

    ending: Ending
    reasons: tuple[str, ...]
    bad: bool = False


ABORTED = Back("aborted", ("A person aborted the rollout.",), bad=True)


def held(*reasons: str) -> Back:
    """Take the traffic back and blame nobody."""
    return Back("held", reasons)


def conclude(outcome: Outcome) -> None:
    """The last cell of a strategy's notebook: nothing if it ended as asked, a short error with its exit code if not.

    Raises:
        RolledBack: exit code 3.
        Held: exit code 5.
    """
    if outcome.exit_code == 0:
        return
    kind = RolledBack if outcome.exit_code == 3 else Held
    raise kind(
        outcome.ending,
        str(outcome),
        now=f"v{outcome.stable} serves 100 % of the traffic; v{outcome.new} gets none.",
        next="Read the reasons above and the error log of the new version, correct the build and ship again.",
    )


def _title(outcome: Outcome) -> str:
    new, stable = f"v{outcome.new}", f"v{outcome.stable}"
    return {
        "proved": f"{new} serves 100 % and is proved healthy",
        "unproven": f"{new} serves 100 %; its health is not proved",
        "deployed": f"{new} is the first deployment and serves 100 %",
        "already-live": f"{new} was live already; nothing was changed",
        "dry-run": "Dry run: nothing was changed",
        "drained": f"{new} gets no traffic any more; {stable} serves 100 %",
        "rolled-back": f"{new} was taken back at stage {outcome.stage}; {stable} serves 100 %",
        "aborted": f"{new} was taken back by order at stage {outcome.stage}; {stable} serves 100 %",
        "lease-fired": f"{new} lost its traffic when its run died; {stable} serves 100 %",
        "held": f"{new} was taken back without a verdict at stage {outcome.stage}; {stable} serves 100 %",
    }[outcome.ending]
