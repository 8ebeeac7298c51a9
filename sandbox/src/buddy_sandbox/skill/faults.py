"""Inside the zip: what this build does to one request, decided by the request's id alone.

The scalar twin of the sandbox's own faults module. A zip without fault_profile.json has no faults.
"""

import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OK, ERROR, APOLOGY, TIMEOUT = 0, 1, 2, 3

_FILE = Path(__file__).with_name("fault_profile.json")
PROFILE: dict[str, Any] = json.loads(_FILE.read_text("utf-8")) if _FILE.exists() else {}
if PROFILE.get("region", "") not in ("", os.environ.get("AWS_REGION")):
    PROFILE |= {name: 0.0 for name in PROFILE if name.endswith("_rate")}


class InjectedError(RuntimeError):
    """The Lambda error of a build that fails."""


class InjectedApology(RuntimeError):
    """The fault that the skill's catch-all turns into an apology."""


@dataclass(frozen=True)
class Fate:
    """What happens to one request. ``corrupts``: what it writes comes out damaged."""

    outcome: int
    duration_ms: float
    corrupts: bool


def uniform(request_id: str, what: str) -> float:
    """A number in [0, 1) that only depends on the request and on what it is for."""
    digest = hashlib.sha256(f"{request_id}/{what}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def outcome(profile: dict[str, Any], age_s: float, u: float) -> int:
    """The outcome code of a request at this age, from one uniform draw."""
    since = age_s - profile.get("onset_s", 0.0)
    if since < 0:
        return OK
    error = profile.get("error_rate", 0.0)
    every = profile.get("burst_every_s", 0.0)
    if every > 0 and since % every >= every - profile.get("burst_length_s", 0.0):
        error = max(error, profile.get("burst_error_rate", 0.0))
    timeout = error + profile.get("timeout_rate", 0.0)
    apology = timeout + profile.get("apology_rate", 0.0)
    return ERROR if u < error else TIMEOUT if u < timeout else APOLOGY if u < apology else OK


def duration_ms(profile: dict[str, Any], age_s: float, z: float, u2: float) -> float:
    """Milliseconds that an answer takes, from a standard normal and a uniform draw."""
    if not profile:
        return 0.0
    if age_s >= profile["onset_s"] and u2 < profile["slow_rate"]:
        return float(profile["slow_ms"])
    return float(profile["median_ms"] * math.exp(profile["sigma"] * z))


def fate(request_id: str) -> Fate:
    """What this build does to this request. The sandbox says how old the version is; elsewhere its faults are on."""
    age_s = float(os.environ.get("SANDBOX_VERSION_AGE_S", "inf"))
    age_s = age_s if math.isfinite(age_s) else PROFILE.get("onset_s", 0.0)
    # Box-Muller: two uniforms give a standard normal without importing anything heavy into a cold start.
    z = math.sqrt(-2 * math.log(1 - uniform(request_id, "r"))) * math.cos(2 * math.pi * uniform(request_id, "phi"))
    return Fate(
        outcome=outcome(PROFILE, age_s, uniform(request_id, "outcome")),
        duration_ms=duration_ms(PROFILE, age_s, z, uniform(request_id, "slow")),
        corrupts=uniform(request_id, "corrupt") < PROFILE.get("corrupt_rate", 0.0),
    )


def suffer(mine: Fate) -> None:
    """Let the request take its time, and fail it if that is its fate."""
    if mine.outcome == TIMEOUT:
        time.sleep(1000)
    time.sleep(mine.duration_ms / 1000)
    if mine.outcome == ERROR:
        raise InjectedError("this build fails on purpose")
    if mine.outcome == APOLOGY:
        raise InjectedApology("this build apologises on purpose")
