"""Failures of the alias as a whole, of which no metric names the version, while two versions share the traffic.

They cannot be given to a version. A rate of them above what is usual that began after traffic was shifted speaks
against the new version, as an alarm does in CodeDeploy; one that was there before is a common cause. The test is the
sequential one of a version alone, and the limit is the highest rate that two good versions would have together: the
stable version at its usual rate, and the new one within the objective.

Source: docs/sequential-test.md, 'Failures of the alias as a whole'; CodeDeploy user guide, 'Configure advanced options
for a deployment group' (rollback when an alarm is activated).
"""

from collections import deque
from collections.abc import Sequence

from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import ComparedByState, EProcess, PairedCounts, dispersion
from buddy_ops.health.stable_alone import StableTest
from buddy_ops.health.usual_rate import HOUR, UsualRate, upper_bound, without_outages

BEFORE_MINUTES = 15
"""An excess in so many minutes before the first shift is a common cause."""


class AliasFailures(ComparedByState):
    """The evidence that the alias fails more often than usual since traffic was shifted.

    Attributes:
        usual: the highest rate that is usual for the alias: that of its worst hour, and at most the objective, unless
            the stable version itself is over the objective all the time.
        is_common: whether the excess began before the first shift, and has not ended.
        minutes: how many minutes of the rollout it has lasted.
        limit: that of the latest minute.
        recent: the alias's counts since the evidence began to grow, in the canary's place.
    """

    def __init__(self, history: Sequence[tuple[int, int]], objective: float, policy: JudgePolicy) -> None:
        """Begin with the minutes before the first shift: (failures of the alias as a whole, requests) of each."""
        self._objective = objective
        self._policy = policy
        calm = without_outages(history, objective)
        self._phi = dispersion(calm)
        hours = [calm[start : start + HOUR] for start in range(0, len(calm), HOUR)]
        bounds = [
            upper_bound(sum(x for x, _ in hour), sum(n for _, n in hour), self._phi)
            for hour in hours
            if any(n for _, n in hour)
        ]
        # The worst calm hour's bound, at most the objective; or the usual rate of an alias that is always over it.
        usual = UsualRate(history, objective, self._phi).limit
        self.usual = usual if usual > objective else min([objective, max(bounds, default=objective)])
        # An excess over it just before the first shift is no version's.
        before = EProcess(policy.slo_mixture, self._phi)
        for events, requests in history[-BEFORE_MINUTES:]:
            before.update(min(events, requests), requests, self.usual)
        self.is_common = before.value >= policy.worse_at
        self.minutes = 0
        self._latest: deque[tuple[int, int]] = deque(maxlen=policy.calm_minutes)
        self.clear()

    def clear(self) -> None:
        """Discard the evidence, as at the start."""
        self._over = EProcess(self._policy.slo_mixture, self._phi, self._policy.first_stake)
        self.limit = self.usual
        self.recent = PairedCounts()

    def update(self, failures: int, requests: int, weight: float) -> bool:
        """Add one minute of the split; whether a common cause has ended with it.

        Args:
            failures: those that no version can be given.
            requests: of both versions.
            weight: the new version's share, 0..1.
        """
        # One request may fail in several metrics.
        events = min(failures, requests)
        self._latest.append((events, requests))
        if self.is_common:
            self.minutes += 1
            self.is_common = not self._is_calm
            return not self.is_common
        # Calm minutes have used the evidence up: what was before has no part in what grows from here.
        if self._over.value <= 1.0:
            self.recent = PairedCounts()
        self.recent += PairedCounts(canary_events=events, canary_requests=requests)
        # Two good versions have no more together. Source: docs/sequential-test.md.
        self.limit = (1 - weight) * self.usual + weight * max(self.usual, self._objective)
        self._over.update(events, requests, self.limit)
        return False

    @property
    def over(self) -> float:
        """The evidence that the alias is over the limit; 1 is none."""
        return self._over.value

    @property
    def latest(self) -> PairedCounts:
        """The counts of the latest minutes, in the canary's place."""
        events = sum(events for events, _ in self._latest)
        return PairedCounts(canary_events=events, canary_requests=sum(requests for _, requests in self._latest))

    @property
    def _is_calm(self) -> bool:
        seen = self.latest
        enough = len(self._latest) == self._latest.maxlen and seen.canary_requests > 0
        return enough and seen.canary_events <= max(self.usual, self._objective) * seen.canary_requests

    def stable_test(self) -> StableTest:
        """The test of stable after a rollback: over the same limit alone, it shows that something else is the cause."""
        return StableTest(
            "errors", self.limit, mixture=self._policy.slo_mixture, dispersion=self._phi, at=self._policy.worse_at
        )
