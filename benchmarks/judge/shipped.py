"""What ships: the values of parameters/prod.yaml and the settings' defaults. The benchmark simulates these."""

from math import ceil

from benchmarks.judge.traffic import TICK_S, WEIGHTS
from buddy_ops.core.project import read_settings
from buddy_ops.core.settings import validate_settings
from buddy_ops.deployment import ramp
from buddy_ops.health.evidence import judge_policy
from buddy_ops.health.judge_policy import JudgePolicy

ENVIRONMENT = "prod"

SETTINGS = validate_settings(read_settings(ENVIRONMENT)[0], ENVIRONMENT)

POLICY: JudgePolicy = judge_policy(SETTINGS)

TICK_LATE_S = 20
"""A tick of the log is judged so many seconds after its end."""

LATE_MINUTES = ceil(SETTINGS.health.late_data_s / 60)
"""A minute is judged so many minutes after its end."""

PUBLISHED_MINUTES = 1
"""CloudWatch publishes a minute so many minutes after its end: assumed, and measured by nobody here. The failures of a
version alone at 100 % are weighed from then on (``evidence._judge_of_young``)."""

HISTORY_MINUTES = SETTINGS.health.history_minutes

WATCH_MINUTES = ceil(SETTINGS.rollout.watch_minutes)

AFTER_PROOF_MINUTES = ceil(SETTINGS.rollout.watch_after_proof_minutes)
"""For so long a healthy version is monitored on, within the watch."""

Stages = tuple[tuple[int, float], ...]
"""(level of the weight, seconds of bake) of each stage; the last is at 100 %."""


def _stage(weight: float, bake_s: float) -> tuple[int, float]:
    """A stage of the policy; its weight must be one that is simulated (``WEIGHTS``)."""
    return WEIGHTS.index(round(weight, 6)), bake_s


STAGES: Stages = tuple(
    _stage(percent / 100, 60 * SETTINGS.rollout.bake_minutes) for percent in SETTINGS.rollout.stages_percent
)


BY_MINUTES = ramp.by_minutes(SETTINGS)
BY_TICKS = ramp.by_ticks(TICK_S, TICK_LATE_S)


def ramped(traffic: int, delay: ramp.Delay) -> Stages:
    """The stages with the ramp that is fitted to so many requests a minute; the same where there is none."""
    rungs = ramp.first_rungs(SETTINGS, delay, traffic, SETTINGS.rollout.stages_percent[0] / 100)
    return (*(_stage(weight, delay.rung_s) for weight in rungs), *STAGES)
