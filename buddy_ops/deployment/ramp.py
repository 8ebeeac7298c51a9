"""The weights before a canary's first stage: so small that a version that fails every request fails few of them.

A failure is seen one minute plus the lateness of the metrics after it. In this time the version's first weight sends it
about ``ramp.failures`` requests, whatever the traffic; each further rung is ``ramp.factor`` times the one before.
"""

from math import floor, log10

from buddy_ops.core.settings import Settings

SMALLEST = 0.0005
"""The smallest weight that is used. `doctor --prove` tests that an alias keeps it."""

LARGEST_PART = 0.75
"""A rung of this part of the first stage, or more, would only cost time."""


def first_rungs(settings: Settings, requests_per_minute: float, first_stage: float) -> tuple[float, ...]:
    """The rungs of a rollout that begins; none without a ramp, or where traffic is too low for one.

    Args:
        requests_per_minute: of the alias, in the minutes before.
        first_stage: the weight of the policy's first stage.
    """
    if settings.rollout.ramp is None or requests_per_minute <= 0:
        return ()
    unseen_minutes = (60 + settings.health.late_data_s) / 60
    weight = settings.rollout.ramp.failures / (requests_per_minute * unseen_minutes)
    return _rungs_from(max(SMALLEST, _round_down(weight)), settings, first_stage)


def next_rungs(settings: Settings, weight: float, first_stage: float) -> tuple[float, ...]:
    """The rungs after one of this weight: a rollout that is resumed goes on from where it is."""
    if settings.rollout.ramp is None:
        return ()
    return _rungs_from(_round_down(weight * settings.rollout.ramp.factor), settings, first_stage)


def rung_minutes(settings: Settings) -> float:
    """How long a rung bakes: until its first two minutes can be judged."""
    return (60 + settings.health.late_data_s) / 60 + 1


def _rungs_from(weight: float, settings: Settings, first_stage: float) -> tuple[float, ...]:
    if weight >= LARGEST_PART * first_stage:
        return ()
    return (weight, *next_rungs(settings, weight, first_stage))


def _round_down(weight: float) -> float:
    """Two significant digits: 0.1234 % would say more than the traffic's estimate knows."""
    scale = 10.0 ** (1 - floor(log10(weight)))
    # Without ``round``, 0.01 would be 0.0099: no binary number is exactly a hundredth.
    return floor(round(weight * scale, 6)) / scale
