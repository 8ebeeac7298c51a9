"""Rollouts by the log feed where the log, the clock or the traffic is at fault: good builds stay, bad ones go back soon."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment.observation import Observation
from buddy_sandbox import builds
from buddy_sandbox.faults import FaultProfile
from tests.conftest import Situation, begun, follow
from tests.deployment.test_log_feed_rollout import JSON_LOG, Bring, connect

LATE: dict[str, Any] = {"logs_late_rate": 1.0, "logs_late_s": 60}
TWICE: dict[str, Any] = {"logs_duplicated_rate": 1.0, "logs_shuffled": True, "logs_page_events": 50}
LOST: dict[float, dict[str, Any]] = {2: {"logs_lost_rate": 1.0}, 5: {"logs_lost_rate": 0}}
IDLE: dict[float, dict[str, Any]] = {0: {"requests_per_minute": 0}, 5: {"requests_per_minute": 600}}
"""By minutes after the first shift: what is set then."""

CASES = {
    "each line a minute late": (LATE, {}),
    "three minutes lost": ({}, LOST),
    "each line twice, in any order": (TWICE, {}),
    "a clock 90 s ahead": ({"client_clock_ahead_s": 90}, {}),
    "a clock 90 s behind": ({"client_clock_ahead_s": -90}, {}),
    "no traffic for five minutes": ({}, IDLE),
}


@pytest.mark.whole
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("rate", "ending", "most_failed"), [(0.002, "proved", 20), (0.2, "rolled-back", 30)])
def test_a_flaw_neither_blames_a_good_build_nor_hides_a_bad_one(
    situation: Bring, case: str, rate: float, ending: str, most_failed: int
) -> None:
    """With 600 requests a minute and prod's ramp."""
    options, script = CASES[case]
    here = situation("good", **JSON_LOG | options)
    outcome = _ended(here, rate, dict(script))
    assert outcome.ending == ending
    assert outcome.failed["2"] <= most_failed


def _ended(here: Situation, rate: float, script: dict[float, dict[str, Any]]) -> Outcome:
    def look(seen: Observation) -> None:
        if seen.evidence is None:
            return
        began, _ = seen.evidence.shifts[0]
        for minutes in [each for each in script if seen.at >= began + timedelta(minutes=each)]:
            here.ask("set", **script.pop(minutes))

    mine = connect(here)
    build = FaultProfile("of-this-test", error_rate=rate)
    artifact = builds.write(Path(here.folder) / "build.zip", build, "2.0.0")
    return follow(mine, begun(mine, str(artifact)), look)
