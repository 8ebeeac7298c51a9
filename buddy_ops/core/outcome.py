"""How a rollout ended: each ending's sentence and exit code.

Knows what each ending means. Never decides one.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from buddy_ops.core.errors import Held, RolledBack

MINUTE = timedelta(minutes=1)

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


def raise_for_ending(outcome: Outcome) -> None:
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
