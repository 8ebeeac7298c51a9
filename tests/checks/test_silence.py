"""Silence is no sign of health: what the status says where nothing fails because nothing is measured."""

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.checks import status
from buddy_ops.checks.findings import Finding, State
from buddy_ops.checks.status import StatusReport
from buddy_ops.health import alarms
from tests.checks.test_status import rolled_back
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]


def look(here: Situation, **options: Any) -> StatusReport:
    return status.read_status(here.connect("status", quiet=True, **options))


def finding(found: StatusReport, check: str) -> Finding:
    return next(each for each in found.findings if each.check == check)


def advises(found: StatusReport, what: str) -> bool:
    return any(what in step.why for step in found.steps)


def test_a_deleted_alias_is_a_problem_and_the_advice_restores_it(situation: Bring) -> None:
    """Its callers get errors: the status says so, and names the version that served, not a new build."""
    here = situation("good", history_minutes=30)
    here.ship_by_hand("good")
    here.ask("advance", seconds=900)
    here.client("lambda").delete_alias(FunctionName=here.function, Name="live")
    here.ask("advance", seconds=300)
    found = look(here)
    assert found.exit_code == 6 and found.verdict.startswith("ALIAS MISSING: ")
    assert "It was deleted. Every caller gets an error" in found.verdict and not advises(found, "Deploy a first build")
    words = shlex.split(finding(found, "alias").remedy.split("`")[1])[2:]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "create-alias" and given["--region"] == "us-east-1"
    name, version = given["--name"], given["--function-version"]
    here.client("lambda").create_alias(FunctionName=given["--function-name"], Name=name, FunctionVersion=version)
    assert (name, version) == ("live", "2")
    here.ask("advance", seconds=1_200)
    assert look(here).exit_code == 0


def test_versions_without_an_alias_are_unknown(situation: Bring) -> None:
    """Nothing shows that the alias was ever called, and nothing that it was not deleted: amber."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    here.client("lambda").delete_alias(FunctionName=here.function, Name="live")
    found = look(here)
    assert (found.state, found.exit_code) == (State.UNKNOWN, 1) and "It may have been deleted" in found.verdict
    assert advises(found, "Do not treat this as healthy") and not advises(found, "No action needed")


def test_requests_that_stop_are_told(situation: Bring) -> None:
    """Six minutes after the last request the rates of the window are still those of before, and healthy."""
    here = situation("good", history_minutes=60)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=8 * 60)
    found = look(here)
    assert finding(found, "traffic").state is State.UNKNOWN and found.exit_code == 1
    assert "no requests for 6 min, since" in finding(found, "traffic").message
    assert finding(found, "error rate").state is State.OK
    here.ask("advance", seconds=20 * 60)
    found = look(here)
    assert {finding(found, name).state for name in ("error rate", "latency", "throttles", "cold starts")} == {
        State.UNKNOWN
    }


def test_few_requests_may_stop_by_chance(situation: Bring) -> None:
    """At one request in three minutes, six minutes without one say nothing."""
    here = situation("good", history_minutes=120, requests_per_minute=0.33)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=8 * 60)
    assert finding(look(here), "traffic").state is State.OK


def test_alarms_without_data_are_not_ok(situation: Bring) -> None:
    """An alarm in INSUFFICIENT_DATA watches nothing."""
    here = situation("good", history_minutes=40)
    target = here.connect()
    plan = alarms.plan_alarms(target)
    alarms.write_alarms(target, plan, approve(target, plan))
    (name, *_) = (fields["AlarmName"] for fields in plan.wanted)
    here.ask("advance", seconds=180)
    assert look(here).exit_code == 0
    blind = {"StateValue": "INSUFFICIENT_DATA", "StateReason": "no data"}
    here.client("cloudwatch").set_alarm_state(AlarmName=name, **blind)
    found = look(here)
    assert found.exit_code == 1 and f"(INSUFFICIENT_DATA): {name}" in finding(found, "alarms").message


def test_errors_that_are_late_are_unknown(situation: Bring) -> None:
    """Requests are published, and their failures are not: no rate is low because of that."""
    here = situation("good", history_minutes=40, stable="errors_5_percent")
    here.ask("set", metrics_delays_s={"Errors": 3600})
    here.ask("advance", seconds=30 * 60)
    found = look(here)
    assert finding(found, "error rate").state is State.UNKNOWN
    assert "not published by CloudWatch since" in finding(found, "error rate").message


def test_after_a_rollback_the_next_step_is_to_look_again(situation: Bring) -> None:
    """Unknown is no reason to rest."""
    here = rolled_back(situation)
    found = look(here)
    assert found.exit_code == 1 and found.steps[0].runbook == "start_here"
    assert "since the rollback at" in found.verdict and not advises(found, "No action needed")


@pytest.mark.parametrize("situation_name", ["throttling"])
def test_a_problem_without_a_rollback_has_a_next_step(situation: Bring, situation_name: str) -> None:
    """Throttled requests are no reason to roll back, nor to do nothing."""
    here = situation(situation_name, history_minutes=40)
    here.ask("advance", seconds=8 * 60)
    found = look(here)
    assert found.exit_code == 6 and "concurrency limit" in found.steps[0].why


def test_the_failures_of_a_version_that_another_tool_took_away(situation: Bring) -> None:
    """v2 failed and was moved away by hand: v1 is not accused, and nobody is told to roll it back."""
    here = situation("good", history_minutes=20)
    here.ship(here.build("good"))
    here.ask("advance", seconds=900)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=420)
    found = look(here)
    assert found.verdict.startswith("ERROR RATE HIGH: v3 ") and finding(found, "rollout").state is State.WARNING
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    here.ask("advance", seconds=300)
    found = look(here)
    assert finding(found, "error rate").state is State.OK, found
    assert "v2" in finding(found, "error rate").message and not advises(found, "Users are affected")
