"""The first page of an incident: what is wrong comes first, with the runbook to open."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws import aliases, freezes
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.checks import status
from buddy_ops.checks.status import StatusReport
from buddy_ops.deployment import rollback, rollout
from buddy_ops.health import serving
from tests.conftest import Situation, abandon, approve

Bring = Callable[..., Situation]


def look(here: Situation) -> StatusReport:
    return status.read_status(here.connect("status", quiet=True))


def states(found: StatusReport) -> dict[str, str]:
    return {finding.check: finding.state.value for finding in found.findings}


def test_a_quiet_night(situation: Bring) -> None:
    """Every metric, the rollout and the freeze are OK; no step is a rollback; nothing is written."""
    here = situation("good", history_minutes=40)
    before = len(here.ask("calls")["calls"])
    found = look(here)
    quiet = {"rollout", "error rate", "latency", "throttles", "traffic", "cold starts", "callers", "isolation"}
    quiet |= {"freeze"}
    assert {what for what, state in states(found).items() if state == "ok"} == quiet
    assert found.verdict.startswith("OK, with warnings: no alarms configured. Error rate: v1 ")
    assert (found.word, found.exit_code) == ("OK", 0) and "rollback" not in str(found)
    reads = ("Get", "List", "Describe", "StartQuery")
    assert all(each["operation"].startswith(reads) for each in here.ask("calls")["calls"][before:])


@pytest.mark.parametrize(
    ("build", "sign", "verdict"),
    [
        (
            "errors_5_percent",
            "error rate",
            r"^ERROR RATE HIGH: v2 [\d.]+ % of [\d,]+ requests \(limit 1 %\) since ([\d-]{10} )?\d\d:\d\d UTC",
        ),
        (
            "slow",
            "latency",
            r"LATENCY HIGH(: v2 [\d.]+ % of [\d,]+ requests over 6 s \(limit 1 %\) since ([\d-]{10} )?\d\d:\d\d UTC)?",
        ),
    ],
)
def test_a_rate_over_its_limit_leads_to_the_rollback(situation: Bring, build: str, sign: str, verdict: str) -> None:
    """The verdict has the figures, and the first step is the rollback of this environment, ready to run."""
    here = situation("good", history_minutes=20)
    here.ship_by_hand(build)
    here.ask("advance", seconds=1200)
    found = look(here)
    assert states(found)[sign] == "problem"
    assert re.search(verdict, found.verdict), found.verdict
    first = found.steps[0]
    assert (first.runbook, first.command) == ("rollback/immediate", "buddy-ops rollback -e sandbox --to-version 1")
    assert first.cell == "environment = 'sandbox'\nto_version = '1'"
    page = found._repr_html_()
    assert '<a href="rollback/immediate.ipynb">' in page and ">PROBLEM</b>" in page
    assert page.index(first.command) < page.index("<table>")


def test_throttled_requests_are_a_problem(situation: Bring) -> None:
    """Throttled requests are in no error rate: they are counted separately."""
    here = situation("throttling", history_minutes=40)
    here.ask("advance", seconds=8 * 60)
    found = look(here)
    assert states(found)["throttles"] == "problem" and "concurrency" in str(found)


def test_a_rollout_is_named(situation: Bring) -> None:
    """Which rollout is in progress, at which stage, whether its run is alive, and what to do if it is not."""
    here = situation("good", history_minutes=40)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    abandon(mine, plan)
    mine.close()
    found = look(here)
    assert f"run {mine.run} of v2 in progress, stage 1 since" in str(found)
    assert found.verdict.startswith("ROLLOUT IN PROGRESS: ") and "build/skill.zip" not in str(found)
    here.ask("advance", seconds=30 * 60)
    found = look(here)
    assert f"run {mine.run} of v2 stopped responding at stage 1. The failsafe rolled it back" in str(found)
    assert "strategies/canary" in [step.runbook for step in found.steps]
    assert any("the build of v2" in step.why for step in found.steps)


def test_weights_without_a_record_are_a_problem(situation: Bring) -> None:
    """Traffic that is split by no rollout of ours is routed to one version by the rollback."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}})
    found = look(here)
    assert states(found)["rollout"] == "problem" and found.steps[0].runbook == "rollback/immediate"
    assert "whether v1 or v2 is healthy" in found.steps[0].why and "does not say which" in found.live


def test_a_freeze_is_shown_with_its_owner(situation: Bring) -> None:
    """Reason, owner and end."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    freezes.create_freeze(here.connect(), "a drill", "Ada", timedelta(hours=1))
    (finding,) = (each for each in look(here).findings if each.check == "freeze")
    assert finding.state == "info" and "a drill (Ada, until" in finding.full_message


@pytest.mark.parametrize("outage", ["error", "partial"])
def test_what_cannot_be_read_is_unknown(situation: Bring, outage: Any) -> None:
    """A CloudWatch outage is never 'ok', and hides neither the alias nor the freeze."""
    here = situation("good", history_minutes=40)
    here.ask("set", outage=outage)
    found = look(here)
    assert {states(found)[what] for what in ("error rate", "latency", "throttles")} == {"unknown"}
    assert (
        found.verdict.startswith("UNKNOWN: error rate, latency")
        and states(found)["freeze"] == "ok"
        and "100 % v1" in found.live
    )


def rolled_back(situation: Bring) -> Situation:
    """A version that failed for ten minutes was rolled back just now."""
    here = situation("good", history_minutes=20)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    target = here.connect(quiet=True)
    plan = rollback.plan_rollback(target, "1")
    rollback.run_rollback(target, plan, approve(target, plan))
    return here


def test_after_a_rollback_only_the_new_minutes_count(situation: Bring) -> None:
    """The failures of the version that was rolled back are not the stable version's, at once and ten minutes later."""
    here = rolled_back(situation)
    found = look(here)
    assert states(found)["error rate"] == "unknown" and "since the rollback" in found.verdict
    here.ask("advance", seconds=600)
    found = look(here)
    assert states(found)["error rate"] == "ok" and "v1" in str(found) and "since " in str(found)
    assert not any("Users are affected" in step.why for step in found.steps)


@pytest.mark.whole
def test_after_a_rollback_to_a_named_version_only_the_new_minutes_count(situation: Bring) -> None:
    """The record says when, and where to: v2 is neither accused of v3's failures nor rolled back to anything unknown."""
    here = situation("good", history_minutes=20)
    here.ship(here.build("good"))
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    target = here.connect(quiet=True)
    plan = rollback.plan_rollback(target, "2")
    rollback.run_rollback(target, plan, approve(target, plan))
    alias = aliases.require_alias(target)
    assert serving.last_switch(alias) is not None and here.record().rolled_back_to == "2"
    assert rollback.plan_rollback(target).away_from == ()
    here.ask("advance", seconds=600)
    found = look(here)
    assert states(found)["error rate"] == "ok" and states(found)["rollout"] == "info", found
    assert found.word == "ROLLED BACK" and found.exit_code == 0 and "run" in found.verdict and "v3" in found.verdict
    assert "rolled back to v2, which a person named" in found.live
    assert rollback.plan_rollback(here.connect(quiet=True)).destination == "1"


def test_nothing_was_ever_deployed(situation: Bring) -> None:
    """There is nothing to roll back: the first step ships."""
    found = look(situation("first_deployment"))
    assert found.steps[0].why == "Nothing is deployed yet. Deploy a first build:" and "error rate" not in states(found)


def test_alias_on_latest_is_told_in_words(situation: Bring) -> None:
    """No ValueError: what it means, and what to do; the remedy works."""
    here = situation("good", history_minutes=20)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="$LATEST")
    here.ask("advance", seconds=900)
    found = look(here)
    (finding,) = [each for each in found.findings if each.check == "rollout"]
    assert "the alias serves $LATEST: every upload" in finding.message
    assert "publish-version" in finding.remedy and "rollback/immediate" in finding.remedy
    assert "v$LATEST" not in str(found)
    number = here.client("lambda").publish_version(FunctionName=here.function)["Version"]
    mine = here.connect()
    plan = rollback.plan_rollback(mine, number)
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == number


def test_failing_stable_is_rolled_back_to_the_version_before(situation: Bring) -> None:
    """v2 was returned to, and fails: the advice names v1, and carried out it moves the traffic, even at once."""
    here = situation("total_failure", history_minutes=0)
    here.ship_by_hand("total_failure")
    here.publish(here.build("good", "3.0.0"))
    record = RolloutState("beef", "2", "3", "rolled-back", "2026-11-02T00:00:00Z", fallback_version="1")
    here.client("lambda").update_alias(
        FunctionName=here.function, Name="live", FunctionVersion="2", Description=record.encode()
    )
    here.ask("advance", seconds=900)
    found = look(here)
    step = found.steps[0]
    assert (step.runbook, step.parameters["to_version"]) == ("rollback/immediate", "1")
    assert "roll back v2 to v1 now" in step.why
    mine = here.connect()
    plan = rollback.plan_rollback(mine, step.parameters["to_version"])
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "1"
