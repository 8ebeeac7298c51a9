"""A deleted alias is no first deployment: an unverified build would receive all traffic at once."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.aws import aliases
from buddy_ops.checks import checklists, status
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.deployment import rollout, rollout_plan
from tests.conftest import Situation, abandon, approve, intercept

Bring = Callable[..., Situation]

DAY_S = 24 * 3600


def delete_alias(here: Situation) -> None:
    here.client("lambda").delete_alias(FunctionName=here.function, Name="live")


def create_as_told(here: Situation, advice: str, version: str = "") -> None:
    """Run the command of an error's next step."""
    found = re.search(r"`aws lambda create-alias (--[^`]+)`", advice)
    assert found is not None
    given = found.group(1).replace("VERSION", version).split()
    options = dict(zip(given[::2], given[1::2], strict=True))
    here.client("lambda").create_alias(
        FunctionName=options["--function-name"], Name=options["--name"], FunctionVersion=options["--function-version"]
    )


def refusal(here: Situation, artifact: str, strategy: str = "canary", **options: Any) -> Refused:
    """What the plan refuses with."""
    with pytest.raises(Refused, match="alias-deleted") as refused:
        rollout_plan.plan_rollout(here.connect(), artifact, strategy, **options)
    assert here.calls("UpdateFunctionCode", "PublishVersion", "CreateAlias") == []
    return refused.value


def test_the_status_names_what_served_days_ago(situation: Bring) -> None:
    """The refusals send to start_here: it has the same answer as the plan."""
    here = situation("good", history_minutes=30)
    delete_alias(here)
    here.ask("advance", seconds=2 * DAY_S)
    report = status.read_status(here.connect("status", quiet=True))
    (finding,) = [each for each in report.findings if each.check == "alias"]
    assert report.exit_code == 6 and "v1 served" in finding.message
    create_as_told(here, finding.remedy)
    assert here.alias()["FunctionVersion"] == "1"


@pytest.mark.parametrize("strategy", ["canary", "blue_green", "all_at_once"])
def test_a_deleted_alias_is_no_first_deployment(situation: Bring, strategy: str) -> None:
    """Refused, with the version that served and until when; what it advises brings the usual rollout."""
    here = situation("good", history_minutes=30)
    delete_alias(here)
    here.ask("advance", seconds=2 * DAY_S)
    artifact = here.build("good")
    error = refusal(here, artifact, strategy)
    assert re.search(r"v1 served [0-9,]+ requests .* until 20\d\d-\d\d-\d\d \d\d:\d\d UTC", error.what), error.what
    assert "--function-version 1 " in error.next
    create_as_told(here, error.next)
    plan = rollout_plan.plan_rollout(here.connect(), artifact, strategy)
    assert plan.stable == "1" and "scheduler:CreateSchedule failsafe" in plan.calls


def test_the_advice_leads_to_the_usual_canary(situation: Bring) -> None:
    """Created again, the alias is guarded as ever: a bad build is rolled back to the version that served."""
    here = situation("good", history_minutes=30)
    delete_alias(here)
    bad = here.build("total_failure")
    create_as_told(here, refusal(here, bad).next)
    outcome = here.ship(bad)
    assert outcome.ending == "rolled-back" and here.alias()["FunctionVersion"] == "1"


def test_deleted_while_a_rollout_was_under_way(situation: Bring) -> None:
    """Two versions served at the end: the one that served before the split is named."""
    here = situation("good", history_minutes=60)
    artifact = here.build("total_failure")
    mine = here.connect()
    abandon(mine, rollout_plan.plan_rollout(mine, artifact))
    mine.close()
    here.ask("advance", seconds=180)
    delete_alias(here)
    here.ask("advance", seconds=300)
    with pytest.raises(Refused, match="alias-deleted") as refused:
        rollout_plan.plan_rollout(here.connect(), artifact)
    error = refused.value
    assert "v1 " in error.what and "v2 " in error.what and "--function-version 1 " in error.next


def test_a_person_names_the_version_after_a_switch(situation: Bring) -> None:
    """Another version served alone shortly before the last one: both are named, and which is a person's choice."""
    here = situation("good", history_minutes=60)
    here.ship_by_hand("good")
    here.ask("advance", seconds=900)
    delete_alias(here)
    here.ask("advance", seconds=300)
    artifact = here.build("good", "3.0.0")
    with pytest.raises(Refused, match="alias-deleted") as refused:
        rollout_plan.plan_rollout(here.connect(), artifact)
    error = refused.value
    assert "v1 " in error.what and "v2 " in error.what
    assert "If v2 was not shown to be healthy, create it at v1 instead" in error.next
    create_as_told(here, error.next)
    assert rollout_plan.plan_rollout(here.connect(), artifact).stable == "2"


def test_unreadable_metrics_are_not_never(situation: Bring) -> None:
    """Whether it served is unknown: the plan says so to whoever approves it, and what would happen."""
    here = situation("good", history_minutes=30)
    delete_alias(here)
    artifact = here.build("good")
    mine = here.connect()

    def blind(send: Any, service: str, operation: str, **given: Any) -> Any:
        if service == "cloudwatch" and operation == "get_metric_data":
            here.ask("chaos", kind="denied", operation="GetMetricData", times=1)
        return send(service, operation, **given)

    intercept(mine, blind)
    plan = rollout_plan.plan_rollout(mine, artifact)
    here.ask("chaos")
    (doubt,) = [each for each in plan.reasons if "served before is unknown" in each]
    assert "do not approve" in doubt and any("receives all traffic at once" in each for each in plan.reasons)


def test_a_first_deployment_stays_one_step(situation: Bring) -> None:
    """No request ever came by the alias: one step, and the plan says what that means."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    delete_alias(here)
    here.ask("advance", seconds=3600)
    artifact = here.build("good", "2.0.0")
    mine = here.connect()
    plan = rollout_plan.plan_rollout(mine, artifact)
    assert "(first deployment)" in plan.title
    assert any("all traffic at once" in each for each in (*plan.then, *plan.reasons))
    # A version is published, and CloudWatch may only be late: a person decides.
    (doubt,) = [each for each in plan.reasons if "although v1 is published" in each]
    assert "--function-version VERSION" in doubt
    outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    mine.close()
    assert outcome.new == "2" and here.alias()["FunctionVersion"] == "2"


def test_who_needs_the_alias_is_told_that_it_may_have_been_deleted(situation: Bring) -> None:
    """Not "nothing was ever deployed": that advice would deploy an unverified build to everybody."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    delete_alias(here)
    mine = here.connect()
    with pytest.raises(InvalidInput, match="alias-missing") as missing:
        aliases.require_alias(mine)
    assert "nothing was ever deployed" not in missing.value.what
    assert "start_here" in missing.value.next and "deleted" in missing.value.next
    (told,) = aliases.describe_in_sentences(mine, None)
    assert "nothing was ever deployed" not in told


def test_the_checklist_before_a_deployment_fails(situation: Bring) -> None:
    """There is a version to return to: the alias only lost it."""
    here = situation("good", history_minutes=30)
    delete_alias(here)
    record = checklists.check_before(here.connect(), here.build("good"))
    (item,) = [each for each in record.items if each.name == "rollback target healthy"]
    assert item.state == "no" and "It was deleted" in item.says


def test_a_first_deployment_of_all_has_no_doubt(situation: Bring) -> None:
    """Nothing was ever published: there is nothing to be unsure of."""
    here = situation("first_deployment")
    plan = rollout_plan.plan_rollout(here.connect(), here.build("good"))
    assert any("all traffic at once" in each for each in plan.reasons)
    assert not any("create-alias" in each or "unknown" in each for each in plan.reasons)
