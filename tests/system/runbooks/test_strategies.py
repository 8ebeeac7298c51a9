"""all_at_once and blue_green as people and CI run them, on the canary's engine."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws.aliases import RolloutState, decode_rollout_state
from tests.conftest import Situation, sampled
from tests.resilience.harness import QUIET
from tests.system.runbooks.test_runbooks import Bring, executed, pictures, report, run, told_once, writes

STRATEGIES = ("all_at_once", "blue_green")


def both(daily: str) -> pytest.MarkDecorator:
    """Either strategy; ``make test`` has one of them."""
    return pytest.mark.parametrize("strategy", sampled(STRATEGIES, {daily}))


def shipped(here: Situation, strategy: str, profile: str, **more: Any) -> Any:
    """The strategy's notebook on a build, approved."""
    return run(f"strategies/{strategy}", artifact=here.build(profile), approved_by=["Ada"], **more)


def recorded(here: Situation) -> RolloutState:
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None
    return record


@both("all_at_once")
def test_a_good_build_serves_at_once(situation: Bring, strategy: str) -> None:
    """One write gives it 100 %; it was invoked by its number before that; the version before is kept; 10 minutes pass."""
    here = situation("good", history_minutes=20)
    done = shipped(here, strategy, "good")
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "2" and "RoutingConfig" not in here.alias()
    record = recorded(here)
    assert (record.stable_version, record.new_version, record.stage in ("proved", "unproven")) == ("1", "2", True)
    order = [each["operation"] for each in here.calls("Invoke", "UpdateAlias")]
    assert order == ["Invoke"] * 3 + ["UpdateAlias"] * 2, "three smoke tests, the switch, the record's end"
    assert {each["params"]["Qualifier"] for each in here.calls("Invoke")} == {"2"}
    switched, closed = (datetime.fromisoformat(each["at"]).timestamp() for each in here.calls("UpdateAlias"))
    assert 600 <= closed - switched <= 720
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    assert len(pictures(executed(report(done).parent / "notebook.ipynb"))) == 1


@both("all_at_once")
def test_a_build_that_fails_its_smoke_tests_gets_no_traffic(situation: Bring, strategy: str) -> None:
    """Refused with exit code 4 and what each test said; the version is there, and the alias was never written."""
    here = situation("good", **QUIET)
    done = shipped(here, strategy, "apologises")
    assert done.returncode == 4
    told_once(done.stderr, "smoke-failed")
    assert "it apologised" in done.stderr
    assert here.alias()["FunctionVersion"] == "1" and here.calls("UpdateAlias") == []
    assert len(here.client("lambda").list_versions_by_function(FunctionName=here.function)["Versions"]) == 3


@both("blue_green")
def test_a_build_that_only_traffic_shows_to_be_bad_is_taken_back(situation: Bring, strategy: str) -> None:
    """It passes its smoke tests and fails people: the version before serves again by itself, and it is noted as bad."""
    here = situation("slow_to_fail", history_minutes=20, requests_per_minute=3000)
    done = shipped(here, strategy, "slow_to_fail", watch_minutes=30)
    assert done.returncode == 3, done.stderr
    told_once(done.stderr, "rolled-back")
    assert here.alias()["FunctionVersion"] == "1" and recorded(here).rejected_versions == ("2",)
    assert here.client("scheduler").list_schedules()["Schedules"] == []


@both("blue_green")
def test_without_approval_nothing_happens(situation: Bring, strategy: str) -> None:
    """Exit code 4, and no write."""
    here = situation("good", **QUIET)
    done = run(f"strategies/{strategy}", artifact=here.build("good"))
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert writes(here) == []


def test_a_first_deployment_packs_a_folder_and_creates_the_alias(situation: Bring) -> None:
    """A folder is packed the same way each time; it is smoke-tested, and the alias is made for it."""
    here = situation("first_deployment", **QUIET)
    folder = here.folder / "skill"
    folder.mkdir()
    skill = Path(__file__).parents[3] / "sandbox" / "src" / "buddy_sandbox" / "skill"
    for file in skill.glob("*.py"):
        (folder / file.name).write_bytes(file.read_bytes())
    done = run("strategies/all_at_once", artifact=str(folder), approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1"
    assert [each["operation"] for each in here.calls("Invoke", "CreateAlias")] == ["Invoke"] * 3 + ["CreateAlias"]
    again = run("strategies/all_at_once", artifact=str(folder), approved_by=["Ada"])
    assert again.returncode == 0 and "is already live on" in json.dumps(
        executed(report(again).parent / "notebook.ipynb")
    )


@pytest.mark.whole
def test_nobody_waits_where_nobody_is_to_watch(situation: Bring) -> None:
    """With watch_minutes 0 the switch stands at once, unproven, and no guard is left."""
    here = situation("good", **QUIET)
    done = shipped(here, "all_at_once", "good", watch_minutes=0)
    assert done.returncode == 0, done.stderr
    assert recorded(here).stage == "unproven" and here.client("scheduler").list_schedules()["Schedules"] == []
