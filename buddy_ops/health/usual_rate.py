"""What is usual for the stable version, by its history: its rate of failures, and its minutes without an outage.

Alone at 100 % there is no other version to compare with. A version that fails no more often than stable always did is
not rolled back for it.
"""

from collections.abc import Iterable, Sequence
from math import sqrt

from buddy_ops.health.sequential_test import ComparedByState

HOUR = 60
"""Minutes in a part of the history."""

ONE_SIDED_90 = 1.2816
"""The standard normal quantile of a one-sided 90 % bound."""

OUTAGE_DEVIATIONS = 5
"""How many standard deviations over the objective make an hour one of an outage."""

FEWEST_EVENTS = 5
"""With fewer events than this a rate is a guess, which raises no limit."""


class UsualRate(ComparedByState):
    """Stable's usual rate of one kind of event: the hours with most and with fewest events say nothing of it.

    A quarter of the hours is left out at either end, so that an outage in the history raises no limit.

    Attributes:
        limit: the objective, or the 90 % upper bound of stable's rate where stable itself is over the objective.
    """

    def __init__(self, history: Iterable[tuple[int, int]], objective: float, dispersion: float) -> None:
        """Begin with stable's minutes before the rollout.

        Args:
            history: (events, requests) of each minute.
            objective: the limit (0..1) that holds where stable keeps it.
            dispersion: that of the history; 1 or more.
        """
        self._objective = objective
        self._dispersion = dispersion
        self._before: list[tuple[int, int]] = []
        for index, (events, requests) in enumerate(history):
            if index % HOUR == 0:
                self._before.append((0, 0))
            self._before[-1] = _sum(self._before[-1], min(events, requests), requests)
        self.forget_rollout()

    def forget_rollout(self) -> None:
        """Keep only what was seen before the rollout: during it, both versions were affected by something else."""
        self._hours = list(self._before)
        self._minutes = 0
        self.limit = max(self._objective, self._upper_bound())

    def add(self, events: int, requests: int) -> None:
        """Add one of stable's minutes in the rollout."""
        if requests <= 0:
            return
        if self._minutes % HOUR == 0:
            self._hours.append((0, 0))
        self._minutes += 1
        self._hours[-1] = _sum(self._hours[-1], events, requests)
        self.limit = max(self._objective, self._upper_bound())

    def _upper_bound(self) -> float:
        """The bound of stable's rate; 0 where stable was within the objective."""
        hours = sorted((hour for hour in self._hours if hour[1]), key=lambda hour: hour[0] / hour[1])
        cut = len(hours) // 4
        usual = hours[cut : len(hours) - cut]
        events = sum(x for x, _ in usual)
        requests = sum(n for _, n in usual)
        if events < FEWEST_EVENTS or events <= self._objective * requests:
            return 0.0
        return upper_bound(events, requests, self._dispersion)


def upper_bound(events: int, requests: int, dispersion: float) -> float:
    """Wilson's one-sided 90 % bound of a rate, wider by the dispersion. There are requests."""
    rate = events / requests
    spread = ONE_SIDED_90**2 * dispersion / requests
    return (rate + spread / 2 + sqrt(spread * rate * (1 - rate) + spread**2 / 4)) / (1 + spread)


def without_outages(history: Sequence[tuple[int, int]], objective: float) -> list[tuple[int, int]]:
    """Stable's minutes (events, requests) without the hours of an outage: those do not say how bursty failures are.

    An outage would make the dispersion so large that the judge would see no fault for as long as it is in the history.
    An hour is one where it is clearly over the objective (5 standard deviations), and the hours left out are at most a
    quarter: what happens more often is usual.
    """
    hours = [history[start : start + HOUR] for start in range(0, len(history), HOUR)]
    outages = []
    for index, hour in enumerate(hours):
        requests = sum(n for _, n in hour)
        allowed = objective * requests
        excess = sum(min(x, n) for x, n in hour) - allowed
        if excess > OUTAGE_DEVIATIONS * sqrt(allowed):
            outages.append((excess, index))
    worst = sorted(outages, reverse=True)[: len(hours) // 4]
    left_out = {index for _, index in worst}
    return [minute for index, hour in enumerate(hours) if index not in left_out for minute in hour]


def _sum(hour: tuple[int, int], events: int, requests: int) -> tuple[int, int]:
    return hour[0] + events, hour[1] + requests
