"""operations/feature_flags as people and CI run it."""

from contextlib import closing

import pytest

from buddy_ops.deployment import feature_flags
from tests.conftest import abandon
from tests.system.runbooks.test_runbooks import Bring, quick, report, run, told_once, writes

__all__ = ["quick"]
SAFETY = "ENABLE_ENHANCED_SAFETY"


def test_a_flag_is_turned_headlessly(quick: Bring) -> None:
    """Approved: the alias serves a new version that has the flag, and the report reads back who turned it."""
    here = quick()
    done = run("operations/feature_flags", turn={SAFETY: True}, approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "2" and "RoutingConfig" not in here.alias()
    serving = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier="2")
    assert serving["Environment"]["Variables"] == {SAFETY: "true", "REMINDERS_TABLE": "buddy-reminders-sandbox"}
    assert serving["Description"].endswith(f"{SAFETY}=true by Ada")
    assert f"{SAFETY} on" in report(done).read_text("utf-8")


@pytest.mark.whole
def test_without_approval_no_flag_is_turned(quick: Bring) -> None:
    """Nobody approved: exit code 4, told once, and nothing was written."""
    here = quick()
    done = run("operations/feature_flags", turn={SAFETY: True})
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert writes(here) == []


@pytest.mark.whole
def test_a_flag_whose_run_died_is_closed(quick: Bring) -> None:
    """Its lease took the traffic back: the same notebook says so with exit code 3, and $LATEST has the old flags."""
    here = quick()
    with closing(here.connect()) as mine:
        plan = feature_flags.plan_flags(mine, {SAFETY: True}, "canary")
        abandon(mine, plan)
    here.ask("advance", seconds=25 * 60)
    done = run("operations/feature_flags", turn={SAFETY: True}, strategy="canary", approved_by=["Ada"])
    assert done.returncode == 3, done.stderr
    told_once(done.stderr, "lease-fired")
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    latest = here.client("lambda").get_function_configuration(FunctionName=here.function)
    assert SAFETY not in latest["Environment"]["Variables"]
