"""The weights before a canary's first stage: so small that a version that fails every request fails few of them.

A failure is seen one minute plus the lateness of the metrics after it, or one tick plus the lateness of the log. In
this time the version's first weight sends it about ``ramp.failures`` requests, whatever the traffic; each further rung
is ``ramp.factor`` times the one before.
"""

from dataclasses import dataclass
from math import floor, log10

from buddy_ops.core.settings import Settings

SMALLEST = 0.0005
"""The smallest weight that is used. `doctor --prove` tests that an alias keeps it."""

LARGEST_PART = 0.75
"""A rung of this part of the first stage, or more, would only cost time."""


@dataclass(frozen=True, slots=True)
class Delay:
    """How late failures are judged, and the ramp that fits.

    Attributes:
        interval_s: the length of what is judged at once: a minute, or a tick.
        late_s: how long after its end that is judged.
        failures: what ``ramp.failures`` is where the settings have none; ``factor``: the same of ``ramp.factor``.
            Source: benchmarks/judge.
    """

    interval_s: float
    late_s: float
    failures: float
    factor: float

    @property
    def unseen_s(self) -> float:
        """How long a failure is unseen at most."""
        return self.interval_s + self.late_s

    @property
    def rung_s(self) -> float:
        """How long a rung bakes: until its first two minutes, or ticks, can be judged."""
        return self.unseen_s + self.interval_s


def by_minutes(settings: Settings) -> Delay:
    """The delay of CloudWatch's minutes."""
    return Delay(60, settings.health.late_data_s, failures=17, factor=10)


def by_ticks(tick_s: float, late_s: float) -> Delay:
    """The delay of the log's ticks: rungs are short, so that more of them take no longer."""
    return Delay(tick_s, late_s, failures=3, factor=3)


def first_rungs(settings: Settings, delay: Delay, requests_per_minute: float, first_stage: float) -> tuple[float, ...]:
    """The rungs of a rollout that begins; none without a ramp, or where traffic is too low for one.

    Args:
        requests_per_minute: of the alias, in the minutes before.
        first_stage: the weight of the policy's first stage.
    """
    if settings.rollout.ramp is None or requests_per_minute <= 0:
        return ()
    # Of all requests in the time that a failure is unseen, the weight that sends just so many to the new version.
    weight = failures_unseen(settings, delay) / (requests_per_minute * delay.unseen_s / 60)
    return _rungs_from(max(SMALLEST, _round_down(weight)), settings, delay, first_stage)


def next_rungs(settings: Settings, delay: Delay, weight: float, first_stage: float) -> tuple[float, ...]:
    """The rungs after one of this weight: a rollout that is resumed goes on from where it is."""
    if settings.rollout.ramp is None:
        return ()
    return _rungs_from(_round_down(weight * factor(settings, delay)), settings, delay, first_stage)


def failures_unseen(settings: Settings, delay: Delay) -> float:
    """About how many requests the first rung sends to the new version until a failure is seen."""
    ramp = settings.rollout.ramp
    if ramp is None or ramp.failures is None:
        return delay.failures
    return ramp.failures


def factor(settings: Settings, delay: Delay) -> float:
    """How many times the one before each further rung is."""
    ramp = settings.rollout.ramp
    if ramp is None or ramp.factor is None:
        return delay.factor
    return ramp.factor


def _rungs_from(weight: float, settings: Settings, delay: Delay, first_stage: float) -> tuple[float, ...]:
    if weight >= LARGEST_PART * first_stage:
        return ()
    return (weight, *next_rungs(settings, delay, weight, first_stage))


def _round_down(weight: float) -> float:
    """Two significant digits: 0.1234 % would say more than the traffic's estimate knows."""
    scale = 10.0 ** (1 - floor(log10(weight)))
    # Without ``round``, 0.01 would be 0.0099: no binary number is exactly a hundredth.
    return floor(round(weight * scale, 6)) / scale
