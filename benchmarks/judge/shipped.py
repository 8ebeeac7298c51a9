"""What ships: the values of parameters/prod.yaml and the settings' defaults. The benchmark simulates these."""

from math import ceil

from benchmarks.judge.traffic import WEIGHTS
from buddy_ops.core.project import read_settings
from buddy_ops.core.settings import validate_settings
from buddy_ops.deployment import ramp
from buddy_ops.health.evidence import judge_policy
from buddy_ops.health.judge import JudgePolicy

ENVIRONMENT = "prod"

SETTINGS = validate_settings(read_settings(ENVIRONMENT)[0], ENVIRONMENT)

POLICY: JudgePolicy = judge_policy(SETTINGS)

LATE_MINUTES = ceil(SETTINGS.health.late_data_s / 60)
"""A minute is judged so many minutes after its end."""

PUBLISHED_MINUTES = 1
"""CloudWatch publishes a minute so many minutes after its end: assumed, and measured by nobody here. The failures of a
version alone at 100 % are weighed from then on (``evidence._judge_of_young``)."""

HISTORY_MINUTES = SETTINGS.health.history_minutes

WATCH_MINUTES = ceil(SETTINGS.rollout.watch_minutes)

AFTER_PROOF_MINUTES = ceil(SETTINGS.rollout.watch_after_proof_minutes)
"""For so long a healthy version is monitored on, within the watch."""

Stages = tuple[tuple[int, int], ...]
"""(level of the weight, minutes of bake) of each stage; the last is at 100 %."""


def _stage(percent: float, minutes: float) -> tuple[int, int]:
    """A stage of the policy; its weight must be one that is simulated (``WEIGHTS``)."""
    return WEIGHTS.index(round(percent / 100, 6)), ceil(minutes)


STAGES: Stages = tuple(_stage(percent, SETTINGS.rollout.bake_minutes) for percent in SETTINGS.rollout.stages_percent)


def ramped(traffic: int) -> Stages:
    """The stages with the ramp that is fitted to so many requests a minute; the same where there is none."""
    delay = ramp.by_minutes(SETTINGS)
    rungs = ramp.first_rungs(SETTINGS, delay, traffic, SETTINGS.rollout.stages_percent[0] / 100)
    return (*(_stage(100 * weight, delay.rung_s / 60) for weight in rungs), *STAGES)
