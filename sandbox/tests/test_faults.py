"""Fault profiles: from uniform draws to outcomes and durations, the same inside the zip as outside."""

import importlib.util
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from buddy_sandbox import builds
from buddy_sandbox.faults import APOLOGY, ERROR, OK, PROFILES, TIMEOUT, FaultProfile


@pytest.fixture(scope="module")
def twin() -> ModuleType:
    """The module that goes into the zip."""
    path = Path(builds.__file__).parent / "skill" / "faults.py"
    spec = importlib.util.spec_from_file_location("skill_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["skill_faults"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_zips_twin_decides_alike(twin: ModuleType, profile: FaultProfile) -> None:
    """The scalar logic in the zip and the vectorised logic of simulated traffic give the same for the same draws."""
    random = np.random.default_rng(1)
    age_s, u, u2 = random.uniform(0, 1800, 2000), random.random(2000), random.random(2000)
    z = random.standard_normal(2000)
    plain = asdict(profile)
    pairs = zip(age_s.tolist(), u.tolist(), strict=True)
    assert profile.outcomes(age_s, u).tolist() == [twin.outcome(plain, age, one) for age, one in pairs]
    triples = zip(age_s.tolist(), z.tolist(), u2.tolist(), strict=True)
    expected = [twin.duration_ms(plain, age, normal, slow) for age, normal, slow in triples]
    assert profile.durations_ms(z, u2, age_s) == pytest.approx(expected)


def test_the_zips_uniforms_are_uniform_and_repeatable(twin: ModuleType) -> None:
    """Request ids become uniform draws in [0, 1), the same for the same id, independent by purpose."""
    draws = np.array([[twin.uniform(f"id-{n}", what) for n in range(4000)] for what in ("outcome", "slow")])
    assert ((draws >= 0) & (draws < 1)).all()
    assert draws.mean(axis=1) == pytest.approx([0.5, 0.5], abs=0.02)
    assert abs(np.corrcoef(draws)[0, 1]) < 0.05
    assert twin.uniform("id-1", "outcome") == draws[0][1]


def test_outcomes_follow_the_thresholds_in_order() -> None:
    """From u = 0 up: errors, timeouts, apologies, then good answers; every code is an int8."""
    profile = FaultProfile("p", error_rate=0.125, timeout_rate=0.25, apology_rate=0.25)
    u = np.array([0.0, 0.124, 0.125, 0.374, 0.375, 0.624, 0.625, 0.999])
    codes = profile.outcomes(np.zeros(8), u)
    assert codes.dtype == np.int8
    assert codes.tolist() == [ERROR, ERROR, TIMEOUT, TIMEOUT, APOLOGY, APOLOGY, OK, OK]


def test_nothing_goes_wrong_before_onset() -> None:
    """Before onset_s there are neither faults nor slow requests; from then on there are."""
    profile = FaultProfile("p", error_rate=1.0, slow_rate=1.0, onset_s=720.0)
    ages, zero = np.array([0.0, 719.9, 720.0]), np.zeros(3)
    assert profile.outcomes(ages, zero).tolist() == [OK, OK, ERROR]
    assert profile.durations_ms(zero, zero, ages).tolist() == pytest.approx([180.0, 180.0, profile.slow_ms])
    assert profile.rates_at(719.9) == (0.0, 0.0, 0.0, 0.0)
    assert profile.rates_at(720.0).error == 1.0


def test_bursts_end_each_period() -> None:
    """Bursts fill the last burst_length_s of each period, and the rates between them hold."""
    profile = PROFILES["bursts"]
    ages = np.array([0.0, 239.9, 240.0, 299.9, 300.0, 540.0])
    assert (profile.outcomes(ages, np.full(6, 0.1)) == ERROR).tolist() == [False, False, True, True, False, True]
    assert [profile.rates_at(float(age)).error for age in ages] == [0.0, 0.0, 0.3, 0.3, 0.0, 0.3]


def test_durations_are_lognormal_with_a_slow_share() -> None:
    """The median is median_ms; the slow share takes slow_ms exactly, so that the slow profile's p99 is over 6 s."""
    random = np.random.default_rng(2)
    z, u2 = random.standard_normal(20000), random.random(20000)
    assert float(np.median(PROFILES["good"].durations_ms(z, u2))) == pytest.approx(180.0, rel=0.02)
    assert float(np.percentile(PROFILES["good"].durations_ms(z, u2), 99)) < 1000.0
    assert float(np.percentile(PROFILES["slow"].durations_ms(z, u2), 99)) == 6500.0


def test_profiles_do_what_their_names_say() -> None:
    """Shares of 100,000 requests, 20 minutes in."""
    u, ages = np.random.default_rng(3).random(100_000), np.full(100_000, 1200.0)
    shares = {name: np.bincount(p.outcomes(ages, u), minlength=4) / 100_000 for name, p in PROFILES.items()}
    assert shares["good"].tolist() == pytest.approx([0.998, 0.002, 0, 0], abs=0.001)
    assert shares["errors_2_percent"][ERROR] == pytest.approx(0.02, rel=0.1)
    assert shares["errors_5_percent"][ERROR] == shares["slow_to_fail"][ERROR] == pytest.approx(0.05, rel=0.1)
    assert shares["total_failure"].tolist() == [0, 1, 0, 0]
    assert shares["apologises"].tolist() == [0, 0, 1, 0]
    assert shares["apologises_5_percent"][APOLOGY] == pytest.approx(0.05, rel=0.1)
    assert shares["timeouts"][TIMEOUT] == pytest.approx(0.03, rel=0.1)
    assert PROFILES["cold_starts"].init_ms > 2000
    assert PROFILES["corrupting"].corrupt_rate > 0


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_json_round_trip(profile: FaultProfile) -> None:
    """A profile survives JSON, and its JSON is stable."""
    assert FaultProfile.from_json(profile.to_json()) == profile
    assert FaultProfile.from_json(profile.to_json().encode()).to_json() == profile.to_json()


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "p", "eror_rate": 0.1}',
        '{"error_rate": 0.1}',
        '{"name": "p", "error_rate": "high"}',
        '{"name": "p", "error_rate": 1.5}',
        '{"name": "p", "error_rate": 0.6, "apology_rate": 0.6}',
        '{"name": "p", "median_ms": 0}',
        '{"name": "p", "onset_s": -1}',
        '["p"]',
        "nonsense",
    ],
)
def test_a_wrong_profile_is_refused(text: str) -> None:
    """Unknown keys, wrong types and impossible values are refused, not ignored."""
    with pytest.raises(ValueError):
        FaultProfile.from_json(text)


def test_a_fate_is_decided_by_the_request_alone(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the zip, a request's id decides its outcome, its duration and whether what it writes is damaged."""
    profile = replace(PROFILES["errors_5_percent"], corrupt_rate=0.5)
    monkeypatch.setattr(twin, "PROFILE", json.loads(profile.to_json()))
    fates = [twin.fate(f"id-{n}") for n in range(2000)]
    assert fates == [twin.fate(f"id-{n}") for n in range(2000)]
    assert sum(fate.outcome == ERROR for fate in fates) == pytest.approx(100, abs=40)
    assert sum(fate.corrupts for fate in fates) == pytest.approx(1000, abs=120)
    assert float(np.median([fate.duration_ms for fate in fates])) == pytest.approx(180.0, rel=0.05)
