"""The weights before a canary's first stage."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.project import read_settings
from buddy_ops.core.settings import Settings, validate_settings
from buddy_ops.deployment import ramp

TICKS = ramp.by_ticks(10, 20)


def settings(failures: float | None = None, factor: float | None = None, late_data_s: int = 120) -> Settings:
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
        (75, (0.075,)),
        (81, (0.069,)),
        (600, (0.0094,)),
        (6000, (0.00094, 0.0094)),
        (60000, (0.0005, 0.005, 0.05)),
    ],
)
def test_the_first_rung_is_17_requests_in_three_minutes(requests_per_minute: int, rungs: tuple[float, ...]) -> None:
    """None where it would be three quarters of the first stage of 10 %, or more; none below 0.05 %."""
    minutes = ramp.by_minutes(settings())
    assert ramp.first_rungs(settings(), minutes, requests_per_minute, 0.1) == pytest.approx(rungs)
    assert minutes.rung_s == 240


@pytest.mark.parametrize(
    ("requests_per_minute", "rungs"),
    [(60, ()), (70, ()), (100, (0.06,)), (600, (0.01, 0.03)), (6000, (0.001, 0.003, 0.009, 0.027))],
)
def test_by_ticks_the_first_rung_is_3_requests_in_half_a_minute(
    requests_per_minute: int, rungs: tuple[float, ...]
) -> None:
    """Each is three times the one before, and bakes until two ticks of it are judged."""
    assert ramp.first_rungs(settings(), TICKS, requests_per_minute, 0.1) == pytest.approx(rungs)
    assert TICKS.rung_s == 40


def test_numbers_that_are_set_hold_for_minutes_and_for_ticks() -> None:
    """18 requests in half a minute are more traffic than in three."""
    fitted = settings(18, 10)
    assert ramp.first_rungs(fitted, TICKS, 6000, 0.1) == (0.006, 0.06)
    assert ramp.first_rungs(fitted, ramp.by_minutes(fitted), 6000, 0.1) == (0.001, 0.01)


def test_without_a_ramp_there_is_none() -> None:
    """As in every environment whose file has none."""
    without = validate_settings(read_settings("sandbox")[0], "test")
    assert ramp.first_rungs(without, TICKS, 6000, 0.1) == () == ramp.next_rungs(without, TICKS, 0.001, 0.1)


@given(
    requests_per_minute=st.floats(0.1, 1e6),
    failures=st.floats(1, 10_000),
    factor=st.floats(2, 100),
    first_stage=st.floats(0.001, 1),
    late_data_s=st.integers(0, 900),
    by_ticks=st.booleans(),
)
def test_rungs_rise_to_the_first_stage(
    requests_per_minute: float, failures: float, factor: float, first_stage: float, late_data_s: int, by_ticks: bool
) -> None:
    """Each at most ``factor`` times the one before; a run that is resumed at any rung goes on with the same ones."""
    fitted = settings(failures, factor, late_data_s)
    delay = TICKS if by_ticks else ramp.by_minutes(fitted)
    rungs = ramp.first_rungs(fitted, delay, requests_per_minute, first_stage)
    assert all(ramp.SMALLEST <= rung < first_stage for rung in rungs)
    assert all(before < after <= factor * before * (1 + 1e-9) for before, after in pairwise(rungs))
    for number, rung in enumerate(rungs):
        assert ramp.next_rungs(fitted, delay, rung, first_stage) == rungs[number + 1 :]
    if rungs and rungs[0] > ramp.SMALLEST:
        assert rungs[0] * requests_per_minute * delay.unseen_s / 60 <= failures * (1 + 1e-9)
