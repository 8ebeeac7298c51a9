"""Whether both versions fail: after a rollback from 100 % stable is tested alone, against the limit that decided.

At 100 % the new version had nothing to be compared with, so a fault of something else is attributed to it. If
stable is over the same limit right after the rollback, the new version is not the cause.

Source: docs/sequential-test.md, 'After a rollback from 100 %'.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from buddy_ops.health import wording
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import EProcess, Mixture, PairedCounts

MOST_MINUTES = 10
"""So many of stable's minutes are tested: a fault that begins later is another one."""


@dataclass(frozen=True, slots=True)
class StableTest:
    """The test of stable alone, as the rollback leaves it.

    Attributes:
        stream: what the new version was rolled back for.
        limit: the limit (0..1) that it was over; stable's usual rate where that is higher.
        mixture: how far over the limit stable may be.
        dispersion: that of stable's history.
        at: the evidence that stable is over the limit: 1 / the chance to say so of one that is not.
    """

    stream: Literal["errors", "slow"]
    limit: float
    mixture: Mixture
    dispersion: float
    at: float

    def counts_until_over(self, minutes: Iterable[tuple[int, int]]) -> tuple[bool, PairedCounts]:
        """Whether stable is over the limit in these minutes, and its counts up to the minute that shows it.

        Args:
            minutes: stable's (events, requests), oldest first.
        """
        # All is staked on the first minute: the fault that is looked for began before the rollback.
        score = EProcess(self.mixture, self.dispersion)
        seen = PairedCounts()
        for events, requests in minutes:
            # Late data may show a failure before its request.
            counts = PairedCounts(stable_events=min(events, requests), stable_requests=requests)
            seen += counts
            score.update(counts.stable_events, requests, self.limit)
            if score.value >= self.at:
                return True, seen
        return False, seen

    def describe(self, name: str, counts: PairedCounts, policy: JudgePolicy) -> str:
        """Stable's counts beside the limit: '``name`` error rate 3.1 % (20 of 640 requests, limit 1 %)'."""
        return wording.measured(
            name, policy, self.stream, events=counts.stable_events, requests=counts.stable_requests, limit=self.limit
        )
