"""How a rollout ended: each ending's sentence and exit code."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from buddy_ops.core.errors import Aborted, BuddyError, Held, RolledBack
from buddy_ops.core.text import duration, exact_percent

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
    "external",
]
EXIT_CODES: dict[Ending, int] = {"rolled-back": 3, "aborted": 3, "lease-fired": 3, "held": 5, "external": 5}

# Its keys are in journals and manifests of archived runs: they stay although their words have changed.
RESULTS = {
    "proved": "SUCCEEDED, healthy",
    "unproven": "SUCCEEDED, health check inconclusive",
    "deployed": "SUCCEEDED, first deployment",
    "already-live": "SUCCEEDED, already live",
    "dry-run": "DRY RUN",
    "drained": "ROLLED BACK gradually",
    "rolled-back": "ROLLED BACK",
    "aborted": "ABORTED by operator",
    "lease-fired": "ROLLED BACK by failsafe",
    "held": "ROLLED BACK, health check inconclusive",
    "external": "ROLLED BACK, both versions fail",
    "done": "SUCCEEDED",
    "failed": "FAILED",
    "refused": "REFUSED",
    "invalid": "INVALID INPUT",
    "interrupted": "INTERRUPTED",
    "killed": "KILLED",
    "timed-out": "TIMED OUT",
    "unknown": "UNKNOWN",
}
"""The result words of a rollout's ending, and of a run's outcome in its manifest."""


def describe_ending(ending: str) -> str:
    """A rollout's ending, or a run's outcome, as operators read it. One of another release is returned as it is."""
    return RESULTS.get(ending, ending)


DECISIONS = {"hold": "keep baking", "external": "paused, the fault is not the new version's"}
"""A verdict's decision where operators have other words for it."""


def describe_decision(decision: str) -> str:
    """A verdict's decision as operators read it."""
    return DECISIONS.get(decision, decision)


@dataclass(frozen=True)
class Outcome:
    """How a rollout or a gradual rollback ended.

    Attributes:
        stable: the version that served before.
        new: the version that was rolled out or rolled back.
        stage: the record's last stage while the new version had traffic, for example '1' or 'watch'.
        began: when traffic was first shifted, or the run began.
        reasons: a sentence each.
        requests: by version, since traffic was first shifted.
        failed: how many of these failed, by version.
        weight: the new version's share (0..1) when it was rolled back; 0 where it had none.
        lateness: which source decided, and how late CloudWatch's metrics were, in sentences. Outcomes that differ in it
            only are equal.
        compared: what each stream showed while both versions had traffic, a line each.
    """

    ending: Ending
    stable: str
    new: str
    stage: str
    began: datetime
    ended: datetime
    reasons: tuple[str, ...]
    requests: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    weight: float = 0.0
    lateness: str = field(default="", compare=False)
    compared: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code that the command line documents for this ending."""
        return EXIT_CODES.get(self.ending, 0)

    @property
    def title(self) -> str:
        """The result in one line, its word in capitals first."""
        at = ""
        if self.weight:
            at = f" at {exact_percent(self.weight)}"
        stable = f"v{self.stable} receives 100 %"
        titles: dict[Ending, str] = {
            "proved": f"SUCCEEDED: v{self.new} receives 100 %; healthy",
            "unproven": f"SUCCEEDED: v{self.new} receives 100 %; health check inconclusive",
            "deployed": f"SUCCEEDED: v{self.new} receives 100 %; first deployment",
            "already-live": f"SUCCEEDED: v{self.new} was already live; nothing was changed",
            "dry-run": "DRY RUN: nothing was changed",
            "drained": f"ROLLED BACK: {stable}; v{self.new} receives none",
            "rolled-back": f"ROLLED BACK{at}: {stable}",
            "aborted": f"ABORTED by operator{at}: {stable}",
            "lease-fired": f"ROLLED BACK by failsafe (run lost): {stable}",
            "held": f"ROLLED BACK{at}: inconclusive; {stable}",
            "external": f"ROLLED BACK{at}: both versions fail; {stable}",
        }
        return titles[self.ending]

    def __str__(self) -> str:
        lines = [f"{self.title} ({duration(self.ended - self.began)}).", *self.reasons]
        if self.lateness:
            lines.append(self.lateness)
        if self.compared:
            lines.append(f"Compared with v{self.stable} by CloudWatch's minutes (streams):")
            lines += [f"- {line}" for line in self.compared]
        return "\n".join(lines)

    def raise_for_ending(self) -> None:
        """Raise a short error with the exit code of this ending, unless it ended as asked: a notebook's last cell.

        Raises:
            RolledBack: exit code 3; Aborted if an operator ended it.
            Held: exit code 5.
        """
        if self.exit_code == 0:
            return
        kinds: dict[Ending, type[BuddyError]] = {"held": Held, "external": Held, "aborted": Aborted}
        now = f"v{self.stable} receives 100 % of traffic; v{self.new} receives none."
        next_step = f"Review the reasons above and the error log of v{self.new}. Fix the build and deploy it again."
        if self.ending == "external":
            now = f"{now} v{self.stable} fails, too."
            next_step = (
                f"Find the cause outside v{self.new}: open start_here. Once v{self.stable} is within its limits, "
                "deploy the same build again."
            )
        raise kinds.get(self.ending, RolledBack)(
            self.ending,
            str(self),
            now=now,
            next=next_step,
            facts={"stable": self.stable, "new": self.new},
        )
