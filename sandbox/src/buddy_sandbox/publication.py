"""When CloudWatch shows a sample: how late each metric is, and which samples are added later as a revision.

Knows nothing of what the samples are. What was shown once stays: a delay that grows stops the newest visible moment
until time has caught up.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Clock(Protocol):
    """Anything that knows the time."""

    def now(self) -> float:
        """Seconds since the epoch."""


USUAL_DELAY_S: float = 60
"""Seconds until a request is visible in CloudWatch, on a usual day."""


@dataclass(frozen=True)
class Lateness:
    """How late samples are, seconds.

    Attributes:
        delay_s: from a sample's own time (or arrival) until it is visible.
        delays_s: the same for single metrics, by name.
        revised_rate: the share of samples that come later.
        revised_s: how much later they come.
    """

    delay_s: float = USUAL_DELAY_S
    delays_s: Mapping[str, float] = field(default_factory=dict)
    revised_rate: float = 0.0
    revised_s: float = 0.0

    def of(self, metric_name: str | None) -> float:
        """The delay of a metric; of None, the general one."""
        return self.delays_s.get(metric_name or "", self.delay_s)


class Horizon(NamedTuple):
    """What a reader sees of a metric: samples up to ``until``, of those that are revised up to ``revised_until``."""

    until: float
    revised_until: float
    revised_rate: float

    def unrevised(self, times: NDArray[np.float64]) -> NDArray[np.bool_] | slice:
        """Which of these samples, none later than ``until``, do not wait for a revision; an index into their arrays."""
        if not self.revised_rate or self.revised_until >= self.until:
            return slice(None)
        # The same samples of every metric of a request are late: chosen by their time alone.
        revised = (times * 997.0) % 1.0 < self.revised_rate
        shown: NDArray[np.bool_] = ~revised | (times <= self.revised_until)
        return shown


class Publication:
    """The lateness of all metrics, as it changes with time.

    Attributes:
        stale_s: readers see the state of so many seconds ago, as one that asks a replica that is behind.
    """

    def __init__(self, clock: Clock, delay_s: float = USUAL_DELAY_S) -> None:
        self._clock = clock
        self._changes: list[tuple[float, Lateness]] = [(-math.inf, Lateness(delay_s))]
        self.stale_s = 0.0

    def change(self, lateness: Lateness) -> None:
        """Let another lateness hold from now on."""
        self._changes.append((self._clock.now(), lateness))

    def horizon(self, metric_name: str | None = None, now: float | None = None) -> Horizon:
        """What a reader sees of a metric at ``now``, by default at present; of None, at the general delay."""
        now = (self._clock.now() if now is None else now) - self.stale_s
        until = revised_until = -math.inf
        ends = [began for began, _ in self._changes[1:]] + [math.inf]
        for (began, lateness), ended in zip(self._changes, ends, strict=True):
            if began <= now:
                reached = min(now, ended) - lateness.of(metric_name)
                until = max(until, reached)
                revised_until = max(revised_until, reached - lateness.revised_s)
        return Horizon(until, revised_until, max(lateness.revised_rate for _, lateness in self._changes))
