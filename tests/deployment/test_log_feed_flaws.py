"""Rollouts by the log feed where the log, the clock or the traffic is at fault: good builds stay, bad ones go back soon."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment.observation import Observation
from buddy_sandbox import builds
from buddy_sandbox.faults import FaultProfile
from tests.conftest import Situation, begun, follow, intercept
from tests.deployment.test_log_feed_rollout import JSON_LOG, Bring, connect

LATE: dict[str, Any] = {"logs_late_rate": 1.0, "logs_late_s": 60}
TWICE: dict[str, Any] = {"logs_duplicated_rate": 1.0, "logs_shuffled": True, "logs_page_events": 50}
LOST: dict[float, dict[str, Any]] = {2: {"logs_lost_rate": 1.0}, 5: {"logs_lost_rate": 0}}
SURGE: dict[float, dict[str, Any]] = {4: {"requests_per_minute": 3000}}
NIGHT: dict[float, dict[str, Any]] = {4: {"requests_per_minute": 2}}
OUTAGE: dict[str, Any] = {"troubles": [{"after_minutes": 4, "minutes": 3, "error_rate": 0.2}]}
IDLE: dict[float, dict[str, Any]] = {0: {"requests_per_minute": 0}, 5: {"requests_per_minute": 600}}
"""By minutes after the first shift: what is set then."""

CASES = {
    "each line a minute late": (LATE, {}),
    "three minutes lost": ({}, LOST),
    "each line twice, in any order": (TWICE, {}),
    "a clock 90 s ahead": ({"client_clock_ahead_s": 90}, {}),
    "a clock 90 s behind": ({"client_clock_ahead_s": -90}, {}),
    "no traffic for five minutes": ({}, IDLE),
    "five times the traffic within a minute": ({}, SURGE),
    "a night: two requests a minute": ({}, NIGHT),
    "a dependency that fails for both versions": (OUTAGE, {}),
}
FAILING: dict[str, dict[str, Any]] = {
    "three minutes of failures, which end": {"burst_every_s": 600, "burst_length_s": 180, "burst_error_rate": 0.3},
    "errors, time-outs and apologies": {"error_rate": 0.07, "timeout_rate": 0.07, "apology_rate": 0.06},
}
"""Builds, by their fault profiles."""


@pytest.mark.whole
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("rate", "endings"), [(0.002, ("proved", "unproven")), (0.2, ("rolled-back",))])
def test_a_flaw_neither_blames_a_good_build_nor_hides_a_bad_one(
    situation: Bring, case: str, rate: float, endings: tuple[str, ...]
) -> None:
    """With 600 requests a minute and prod's ramp."""
    options, script = CASES[case]
    here = situation("good", **JSON_LOG | options)
    outcome = _ended(here, FaultProfile("of-this-test", error_rate=rate), dict(script))
    assert outcome.ending in endings
    if rate > 0.01:
        assert outcome.failed["2"] <= 30


@pytest.mark.whole
@pytest.mark.parametrize("kind", FAILING)
def test_a_build_that_fails_in_any_way_is_rolled_back(situation: Bring, kind: str) -> None:
    """While it fails it is not promoted, whatever its log says of the failures."""
    here = situation("good", **JSON_LOG | {"requests_per_minute": 300})
    outcome = _ended(here, FaultProfile("of-this-test", **FAILING[kind]), {})
    assert outcome.ending == "rolled-back" and outcome.failed["2"] <= 60


def test_time_outs_that_no_report_tells_of(situation: Bring) -> None:
    """CloudWatch counts them: its minutes do not bear out the ticks, and decide."""

    def unreported(send: Any, service: str, operation: str, **given: Any) -> Any:
        reply = send(service, operation, **given)
        if operation == "filter_log_events":
            reply["events"] = [each for each in reply["events"] if '"timeout"' not in each["message"]]
        return reply

    here = situation("good", **JSON_LOG | {"requests_per_minute": 300})
    mine = connect(here, watch_minutes=15)
    intercept(mine, unreported)
    outcome = _ended(here, FaultProfile("of-this-test", timeout_rate=0.05), {}, mine)
    assert outcome.ending == "rolled-back" and outcome.failed["2"] <= 30


def _ended(
    here: Situation, build: FaultProfile, script: dict[float, dict[str, Any]], mine: Target | None = None
) -> Outcome:
    def look(seen: Observation) -> None:
        if seen.evidence is None:
            return
        began, _ = seen.evidence.shifts[0]
        for minutes in [each for each in script if seen.at >= began + timedelta(minutes=each)]:
            here.ask("set", **script.pop(minutes))

    mine = mine or connect(here, watch_minutes=15)
    artifact = builds.write(Path(here.folder) / "build.zip", build, "2.0.0")
    return follow(mine, begun(mine, str(artifact)), look)
