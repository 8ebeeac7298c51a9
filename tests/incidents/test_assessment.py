"""A failed deployment, against the sandbox: what its log says, what the rule recommends, and what then happens."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from buddy_ops.aws import checklist_store, freezes
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.deployment import rollback, rollout
from buddy_ops.incidents import assessment, error_lines
from buddy_ops.incidents.assessment import DecisionPlan
from tests.conftest import Situation, abandon, approve, sampled

Bring = Callable[..., Situation]


def failing(bring: Bring, profile: str = "total_failure", minutes: float = 5) -> Situation:
    """A canary of a bad build stands at 10 % for some minutes, and its run is gone."""
    here = bring("good")
    mine = here.connect("canary")
    plan = rollout.plan_rollout(mine, here.build(profile))
    abandon(mine, plan)
    mine.close()
    here.ask("advance", seconds=60 * minutes)
    return here


def decide(target: Target, decision: str, review: str = "") -> DecisionPlan:
    return assessment.plan_decision(target, assessment.assess_deployment(target), decision, review)


def test_error_lines_are_grouped_by_kind(situation: Bring) -> None:
    """Every failed request of the new version is one line of its kind; the stable version's are not among them."""
    here = failing(situation)
    found = assessment.assess_deployment(here.connect("deployment_failure"))
    (kind,) = found.kinds
    assert (found.version, kind.name) == ("2", "InjectedError") and "InjectedError" in kind.example
    # The log is a minute or two ahead of CloudWatch.
    assert found.counts["2"].errors == found.counts["2"].requests < kind.lines < 3 * found.counts["2"].errors
    assert found.counts["1"].requests > 5 * found.counts["2"].requests
    assert found.troubles == ()


def test_apologies_and_timeouts_are_kinds_of_their_own(situation: Bring) -> None:
    """A build that only apologises fails no Lambda metric: its lines are found all the same."""
    here = failing(situation, "apologises")
    (kind,) = assessment.assess_deployment(here.connect("deployment_failure")).kinds
    assert "apologised after InjectedApology" in kind.name


@pytest.mark.parametrize(
    ("minutes", "choice"), sampled([(5, "roll back"), (15, "roll back"), (19, "roll back")], slice(1))
)
def test_a_young_deployment_is_to_be_rolled_back(situation: Bring, minutes: float, choice: str) -> None:
    """Less than 30 minutes old, by the alias's record: roll back, and the reason says how old it is."""
    found = assessment.assess_deployment(failing(situation, minutes=minutes).connect("deployment_failure"))
    assert found.recommended == choice and f"deployed {minutes:g} min ago" in found.reasons[0]


@pytest.mark.parametrize(
    ("age", "destination", "choice", "said"),
    [
        (29, "41", "roll back", "less than 30 min"),
        (30, "41", "fix forward", "more than 30 min: consider fixing forward"),
        (600, "41", "fix forward", "10 h ago"),
        (1, "", "fix forward", "No rollback target: no version"),
    ],
)
def test_the_thirty_minute_rule(age: int, destination: str, choice: str, said: str) -> None:
    """The age decides, unless there is nothing to return to; doubts are told beside it."""
    found, reasons = assessment.recommend_decision(timedelta(minutes=age), destination, "no version", ["Role differs"])
    assert found == choice and said in " ".join(reasons)
    assert ("Role differs" in reasons) == bool(destination)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[ERROR] TypeError: 'NoneType' object is not subscriptable\nTraceback", "TypeError"),
        ("[ERROR] botocore.exceptions.ClientError: An error occurred", "botocore.exceptions.ClientError"),
        (
            "2026-11-22T03:12:00Z 1b4e28ba-2fa1-11d2-883f-0016d3cca427 Task timed out after 8.00 seconds",
            "Task timed out",
        ),
        ("1b4e28ba Error: Runtime exited with error: signal: killed", "Runtime exited"),
        ('{"errorType": "KeyError", "errorMessage": "dose"}', "KeyError"),
        ('{"level": "ERROR", "message": "no dose for user 4711"}', "no dose for user …"),
        ("[ERROR] no dose for user 4711", "[ERROR] no dose for user …"),
        ("[]", "[]"),
        ("", "an empty line"),
    ],
)
def test_the_kind_of_a_line(line: str, kind: str) -> None:
    """The error's own name, or the line without what differs from one request to the next."""
    assert error_lines.kind_of(line) == kind


def test_hostile_lines_do_no_harm_in_the_table() -> None:
    """Markup, pipes and backticks of a log line end neither the table nor the code in it."""
    (kind,) = error_lines.group_errors([("2026-11-22 03:12:00.000", "error <script>alert(1)</script> | `x`")])
    at = datetime(2026, 11, 22, tzinfo=UTC)
    found = assessment.Assessment(
        version="2", deployed=at, at=at, counts={}, kinds=(kind,), destination="1", resource="fn:live", serves="100 % v2",
        rolled_back=False, recommended="roll back", reasons=(), troubles=(),
    )  # fmt: skip
    row = next(line for line in found._repr_markdown_().splitlines() if "script" in line)
    assert "<script" not in row and row.count("`") == 4 and row.replace("\\|", "").count("|") == 6


def test_rolling_back_moves_the_traffic_and_keeps_the_review(situation: Bring) -> None:
    """The alias is whole again, requests recover, and the review's date stands in SSM."""
    here = failing(situation)
    target = here.connect("deployment_failure")
    plan = decide(target, "roll back")
    done = assessment.run_decision(target, plan, approve(target, plan), "INC-7")
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    (kept,) = checklist_store.list_results(target, "review", "v2")
    (item,) = kept.items
    due = f"{plan.review:%Y-%m-%d %H:%M} UTC"
    assert item.by == "Ada, Grace" and "INC-7" in item.says and due in done.review and due in str(done)
    heard: list[str] = []
    result = asyncio.run(assessment.wait_for_recovery(target, plan, watch=heard.append))
    assert result.recovered and str(result).startswith("RECOVERED: v1")
    left = [float(each.split()[-4]) for each in heard]
    assert len(left) >= 6 and left == sorted(left, reverse=True) and left[-1] <= 1
    assert assessment.assess_deployment(target).serving.endswith("is already rolled back.")
    target.close()


def test_fixing_forward_moves_nothing(situation: Bring) -> None:
    """Traffic stays as it is; the plan says that the rule recommends otherwise, and the check says that it hurts on."""
    here = failing(situation)
    target = here.connect("deployment_failure")
    before = here.alias()
    plan = decide(target, "fix forward")
    assert "fix forward is not what the thirty-minute rule recommends" in plan.reasons
    assessment.run_decision(target, plan, approve(target, plan))
    assert (
        here.alias()["RevisionId"] == before["RevisionId"] and here.calls("UpdateAlias")[-1]["params"]["RoutingConfig"]
    )


def test_a_canary_that_still_fails_is_no_recovery(situation: Bring) -> None:
    """Fixed forward while v2 has its share: the worse of the versions that serve is the answer."""
    target = failing(situation, minutes=1).connect("deployment_failure")
    result = asyncio.run(assessment.wait_for_recovery(target, decide(target, "fix forward")))
    assert result.recovered is False and str(result).startswith("NOT RECOVERED: v2: ")


def test_without_a_decision_it_holds(situation: Bring) -> None:
    """Nobody decided: refused, with what is recommended. A word that is no decision is invalid."""
    here = failing(situation)
    target = here.connect("deployment_failure")
    with pytest.raises(Refused, match="decision-missing") as held:
        decide(target, "")
    assert held.value.now.endswith("Deployments stay frozen.") and "recommended: roll back" in held.value.next
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        decide(target, "revert")
    assert "RoutingConfig" in here.alias()


def test_each_choice_names_its_effect_and_its_target(situation: Bring) -> None:
    """The recommended one comes first; where the traffic is back already, the words say so."""
    here = failing(situation)
    mine = here.connect("deployment_failure")
    assessed = assessment.assess_deployment(mine)
    assert list(assessed.choices.items()) == [
        ("roll back", "Roll back: all traffic from v2 to v1"),
        ("fix forward", "Fix forward: v2 keeps its traffic until a fix is deployed"),
    ]
    without = replace(assessed, destination="", recommended="fix forward")
    assert list(without.choices) == ["fix forward"] and "Recommended: fix forward." in without.question


@pytest.mark.parametrize("review", sampled(["tomorrow", "2020-01-01", "2030-01-01T00:00:00Z"], slice(1)))
def test_the_review_lies_within_24_hours(situation: Bring, review: str) -> None:
    """A date that is none, past, or too far keeps no traffic from moving: the plan says it, and takes 24 hours."""
    here = failing(situation)
    target = here.connect("deployment_failure")
    plan = decide(target, "roll back", review)
    assert any(f"review is {review!r}" in reason for reason in plan.reasons)
    assert plan.review - target.clock.now() <= timedelta(hours=24)
    assessment.run_decision(target, plan, approve(target, plan))
    assert "RoutingConfig" not in here.alias()


def test_it_freezes_once(situation: Bring) -> None:
    """Running it again finds the freeze of the same reason standing; a dry run freezes nothing."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    for dry_run, count in ((True, 0), (False, 1), (False, 1)):
        target = here.connect("deployment_failure", dry_run=dry_run)
        plan = assessment.plan_freeze(target, "v2 fails")
        assessment.freeze_deployments(target, plan, approve(target, plan))
        assert len(freezes.active_freezes(target)) == count


def test_a_freeze_that_fails_is_in_the_result(situation: Bring) -> None:
    """SSM refuses: nothing is raised, because what comes next matters more; the result says that nothing is frozen."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    target = here.connect("deployment_failure")
    plan = assessment.plan_freeze(target, "v2 fails")
    here.ask("chaos", kind="denied", operation="PutParameter", times=1_000_000)
    result = assessment.freeze_deployments(target, plan, approve(target, plan))
    here.ask("chaos")
    assert result.freeze is None and str(result).startswith("NOT FROZEN: ")


def test_what_cannot_be_read_is_told(situation: Bring) -> None:
    """Without log and metrics there is still a recommendation: the rule needs neither."""
    here = failing(situation)
    target = here.connect("deployment_failure")
    for operation in ("StartQuery", "GetMetricData"):
        here.ask("chaos", kind="denied", operation=operation, times=1_000_000)
    here.ask("chaos", kind="denied", operation="StartQuery", times=1_000_000)
    try:
        found = assessment.assess_deployment(target)
    finally:
        here.ask("chaos")
    assert found.recommended == "roll back" and "the log could not be read" in " ".join(found.troubles)


def test_after_a_rollback_each_version_has_its_own_failures(situation: Bring) -> None:
    """What v2 failed at 100 % is not given to v1, which serves again."""
    here = situation("good", history_minutes=30)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    mine = here.connect("deployment_failure")
    plan = rollback.plan_rollback(mine, "1")
    rollback.run_rollback(mine, plan, approve(mine, plan))
    here.ask("advance", seconds=420)
    counts = assessment.assess_deployment(mine).counts
    assert counts["2"].requests > 4_000 and counts["2"].errors > 0.03 * counts["2"].requests
    assert counts["1"].requests > 1_000 and counts["1"].errors < 0.01 * counts["1"].requests
