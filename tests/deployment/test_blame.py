"""After a rollback from 100 % stable is tested alone: if it fails too, the new version is not marked bad."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Held
from buddy_ops.deployment import rollout
from buddy_ops.deployment._traffic import Traffic
from buddy_ops.deployment.observation import Observation
from buddy_ops.health.metrics import MINUTE
from buddy_ops.incidents import timeline
from tests.conftest import Situation, approve, begun, driven_to_end, intercept, monitored, sampled

Bring = Callable[..., Situation]
BUSY = {"requests_per_minute": 6000, "history_minutes": 12}


def fault(after_minutes: float, minutes: float = 14, error_rate: float = 0.2) -> dict[str, Any]:
    """A busy alias, both of whose versions begin to fail after so many minutes."""
    trouble = {"after_minutes": after_minutes, "minutes": minutes, "error_rate": error_rate}
    return {**BUSY, "troubles": [trouble]}


def until_back(mine: Target, steps: rollout.Rollout) -> Observation:
    """Drive a rollout until its traffic is back; the first observation that says so."""
    seen = next(steps)
    while seen.stage != "rolled-back":
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    return seen


@pytest.mark.parametrize("after_minutes", sampled([9, 25], slice(1)))
def test_a_fault_of_both_versions_is_not_blamed_on_the_new_one(situation: Bring, after_minutes: float) -> None:
    """Before the proof and after it: both figures, no mark, exit code 5."""
    here = situation("good", **fault(after_minutes))
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_back(mine, steps)
        assert "If it fails too, v2 is not marked bad. You can stop this cell" in seen.says
        # The mark is there at once: a run that is lost now leaves it.
        assert here.record().rejected_versions == ("2",) and here.alias()["FunctionVersion"] == "1"
        outcome = driven_to_end(mine, steps, seen)
        assert (outcome.ending, outcome.exit_code, outcome.weight) == ("external", 5, 1.0)
        assert outcome.title == "ROLLED BACK at 100 %: both versions fail; v1 receives 100 %"
        assert re.match(
            r"Both versions fail\. After the rollback v1 alone: error rate (19|2\d) % \(.* requests, limit 1 %\)\.",
            outcome.reasons[0],
        )
        assert outcome.reasons[1].startswith("v2 error rate ")
        assert "v2 is not marked bad." in outcome.reasons
        assert (outcome.ended - seen.at) / MINUTE < 7
        alias = aliases.require_alias(mine)
        assert (alias.serving, here.record().stage, here.record().rejected_versions) == (("1",), "held", ())
        assert "Marked bad" not in aliases.describe(mine, alias)
        ended = next(entry for entry in mine.journal.records if entry["kind"] == "outcome")
        assert ended["ending"] == "external"
        with pytest.raises(Held, match="Both versions fail") as error:
            outcome.raise_for_ending()
        assert "deploy the same build again" in error.value.next


def test_the_next_step_works_once_the_fault_is_over(situation: Bring) -> None:
    """The same build is deployed again, without a warning that it was rolled back."""
    here = situation("good", **fault(6))
    artifact = here.build("good")
    with monitored(here) as mine:
        assert rollout.drive_rollout(mine, begun(mine, artifact, "blue_green")).ending == "external"
    here.ask("advance", seconds=30 * 60)
    with monitored(here, watch_after_proof_minutes=0) as mine:
        plan = rollout.plan_rollout(mine, artifact)
        assert "rolled back before" not in " ".join(plan.reasons)
        again = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert (again.ending, here.alias()["FunctionVersion"]) == ("proved", "2")


def test_a_bad_version_stays_blamed(situation: Bring) -> None:
    """It begins to fail at 100 %, and stable does not: the result says what stable did, alone."""
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        steps = begun(mine, here.build("slow_to_fail"))
        seen = until_back(mine, steps)
        outcome = driven_to_end(mine, steps, seen)
    assert (outcome.ending, outcome.exit_code) == ("rolled-back", 3)
    assert here.record().rejected_versions == ("2",) and here.record().stage == "rolled-back"
    said = [reason for reason in outcome.reasons if "v1 alone: error rate " in reason]
    assert len(said) == 1 and said[0].endswith("limit 1 %) in 10 minutes after the rollback. v2 stays marked bad.")
    # Ten minutes alone, the alias's minute and late data.
    assert 13 <= (outcome.ended - seen.at) / MINUTE <= 15


def test_without_traffic_after_the_rollback_the_version_stays_blamed(situation: Bring) -> None:
    """Nothing shows that stable fails."""
    here = situation("good", **fault(9))
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_back(mine, steps)
        here.ask("set", requests_per_minute=0)
        here.ask("advance", seconds=120)
        outcome = driven_to_end(mine, steps, seen)
    assert outcome.ending == "rolled-back" and here.record().rejected_versions == ("2",)
    assert any(reason.startswith("v1 was not tested alone") for reason in outcome.reasons), outcome.reasons


def test_the_minutes_in_which_the_alias_follows_are_not_tested(situation: Bring) -> None:
    """A fault that is over once stable serves alone shows nothing."""
    here = situation("good", **fault(9, minutes=4))
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_back(mine, steps)
        outcome = driven_to_end(mine, steps, seen)
    assert (outcome.ending, here.record().rejected_versions) == ("rolled-back", ("2",))
    assert outcome.failed["1"] > 0


@pytest.mark.whole
def test_late_metrics_are_waited_for(situation: Bring) -> None:
    """Within the lag that a rollout tolerates, the fault of both is found, later."""
    here = situation("good", **fault(9, minutes=25))
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_back(mine, steps)
        here.ask("set", metrics_delay_s=270)
        outcome = driven_to_end(mine, steps, seen)
    assert outcome.ending == "external" and here.record().rejected_versions == ()
    assert 7 <= (outcome.ended - seen.at) / MINUTE <= 10


def test_a_person_may_end_the_test(situation: Bring) -> None:
    """'stop' ends it at once: the version stays marked, and the result says so."""
    here = situation("good", **fault(9))
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        seen = until_back(mine, steps)
        outcome = driven_to_end(mine, steps, seen, "stop")
        assert (outcome.ended - seen.at) / MINUTE < 1
    assert outcome.ending == "rolled-back" and here.record().rejected_versions == ("2",)
    assert any("v2 stays marked bad" in reason for reason in outcome.reasons)


@pytest.mark.whole
def test_a_run_that_is_lost_in_the_test_leaves_the_mark_and_an_ending(situation: Bring) -> None:
    """The version stays blamed, and the review says how the rollout ended."""
    here = situation("good", **fault(9))
    with monitored(here) as mine:
        steps = begun(mine, here.build("good"))
        until_back(mine, steps)
        steps.close()
        said = [event.says for event in timeline.timeline_events(mine.journal.records)]
    assert here.record().rejected_versions == ("2",)
    assert "rollout of v2 ended: ROLLED BACK. Its run stopped before the last requests were counted." in said


def test_a_rollback_beside_stable_is_final(situation: Bring) -> None:
    """There the judge has compared both versions: stable is not tested again, and the run ends minutes later."""
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        steps = begun(mine, here.build("total_failure"))
        seen = until_back(mine, steps)
        outcome = driven_to_end(mine, steps, seen)
    assert outcome.ending == "rolled-back" and "not marked bad" not in seen.says
    assert not any("alone" in reason for reason in outcome.reasons)
    assert (outcome.ended - seen.at) / MINUTE <= 5


@pytest.mark.parametrize("why", sampled(["moved", "refused"], slice(1, 2)))
def test_a_mark_that_cannot_be_removed_is_named_with_what_removes_it(situation: Bring, why: str) -> None:
    """Another tool has changed the alias since, or AWS refuses: nothing is written over, and a new deployment works."""
    here = situation("good", **fault(9))
    artifact = here.build("good")
    with monitored(here) as mine:
        steps = begun(mine, artifact)
        seen = until_back(mine, steps)
        before = here.alias()["Description"]
        if why == "moved":
            here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description=before)
        else:

            def refuse(send: Any, service: str, operation: str, **given: Any) -> Any:
                if operation == "update_alias":
                    raise Held("access-denied", "UpdateAlias was refused.", next="Ask for the permission.")
                return send(service, operation, **given)

            intercept(mine, refuse)
        outcome = driven_to_end(mine, steps, seen)
    assert (outcome.ending, outcome.exit_code) == ("external", 5)
    assert here.alias()["Description"] == before
    said = outcome.reasons[-1]
    assert said.startswith("v2 is still marked bad") and "A new deployment of the same build removes the mark" in said
    if why == "refused":
        return
    here.ask("advance", seconds=30 * 60)
    with monitored(here, watch_after_proof_minutes=0) as mine:
        assert rollout.drive_rollout(mine, begun(mine, artifact)).ending == "proved"
    assert here.record().rejected_versions == ()


def test_marks_of_earlier_rollbacks_stay(situation: Bring) -> None:
    """A record keeps three marks: the one that was replaced by the new version's comes back."""
    here = situation("good", **BUSY)
    with monitored(here) as mine:
        alias = aliases.require_alias(mine)
        held = RolloutState("beef", "1", "5", "rolled-back", "2026-11-02T00:00:00Z", rejected_versions=("4", "5", "2"))
        aliases.update_alias(mine, alias, aliases.AliasState("1", None, 0.0, held))
        traffic = Traffic(mine, aliases.require_alias(mine), run="beef", stable="1", new="2")
        traffic.unmark(("3", "4", "5"))
    assert here.record().rejected_versions == ("3", "4", "5") and here.record().stage == "held"
