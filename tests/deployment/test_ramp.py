"""The weights before a canary's first stage."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.project import read_settings
from buddy_ops.core.settings import Settings, validate_settings
from buddy_ops.deployment import ramp


def settings(failures: float = 18, factor: float = 10, late_data_s: int = 120) -> Settings:
    values = read_settings("sandbox")[0]
    values["rollout"]["ramp"] = {"failures": failures, "factor": factor}
    values["health"]["late_data_s"] = late_data_s
    return validate_settings(values, "test")


@pytest.mark.parametrize(
    ("requests_per_minute", "rungs"),
    [
        (0, ()),
        (6, ()),
        (60, ()),
        (75, ()),
        (81, (0.074,)),
        (600, (0.01,)),
        (6000, (0.001, 0.01)),
        (60000, (0.0005, 0.005, 0.05)),
    ],
)
def test_the_first_rung_is_18_requests_in_three_minutes(requests_per_minute: int, rungs: tuple[float, ...]) -> None:
    """None where it would be three quarters of the first stage of 10 %, or more; none below 0.05 %."""
    assert ramp.first_rungs(settings(), requests_per_minute, 0.1) == pytest.approx(rungs)
    assert ramp.rung_minutes(settings()) == 4


def test_without_a_ramp_there_is_none() -> None:
    """As in every environment whose file has none."""
    without = validate_settings(read_settings("sandbox")[0], "test")
    assert ramp.first_rungs(without, 6000, 0.1) == () == ramp.next_rungs(without, 0.001, 0.1)


@given(
    requests_per_minute=st.floats(0.1, 1e6),
    failures=st.floats(1, 10_000),
    factor=st.floats(2, 100),
    first_stage=st.floats(0.001, 1),
    late_data_s=st.integers(0, 900),
)
def test_rungs_rise_to_the_first_stage(
    requests_per_minute: float, failures: float, factor: float, first_stage: float, late_data_s: int
) -> None:
    """Each at most ``factor`` times the one before; a run that is resumed at any rung goes on with the same ones."""
    fitted = settings(failures, factor, late_data_s)
    rungs = ramp.first_rungs(fitted, requests_per_minute, first_stage)
    assert all(ramp.SMALLEST <= rung < first_stage for rung in rungs)
    assert all(before < after <= factor * before * (1 + 1e-9) for before, after in pairwise(rungs))
    for number, rung in enumerate(rungs):
        assert ramp.next_rungs(fitted, rung, first_stage) == rungs[number + 1 :]
    if rungs and rungs[0] > ramp.SMALLEST:
        assert rungs[0] * requests_per_minute * (1 + late_data_s / 60) <= failures * (1 + 1e-9)
