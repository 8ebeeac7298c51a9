"""A function whose failures nothing counts: said before the approval, by the doctor and in the status, and refused by rules."""

from collections.abc import Callable

import pytest

from buddy_ops.checks import setup, status
from buddy_ops.core.errors import Refused
from buddy_ops.deployment import rollout
from buddy_sandbox.situations import Situation

UNGUARDED = "UNGUARDED: answers with a status of 500 or more would not count as failures"


def test_an_unguarded_build_is_told_in_red_and_refused_where_the_rules_demand(
    situation: Callable[..., Situation],
) -> None:
    """A build that answers 500 to everybody would be promoted: those who approve it are told, prod refuses it."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    values = here.connect(quiet=True).settings.model_dump(mode="json") | {"kind": "http"}
    guarded = rollout.plan_rollout(here.connect(values=values), here.build("good"))
    assert guarded.alerts == ()
    values["failure_metrics"] = []
    target = here.connect(values=values)
    plan = rollout.plan_rollout(target, here.build("good"))
    assert plan.alerts == (f"{UNGUARDED}. Set failure_metrics.",) and plan.alerts[0] in str(plan)
    assert "alert-danger" in plan._repr_markdown_().partition(UNGUARDED)[0]
    (found,) = (each for each in setup.run_doctor(target, "deployer") if each.check == "failure metrics")
    assert (found.state, found.message) == ("warning", UNGUARDED)
    assert UNGUARDED in str(status.read_status(target))

    values["policy"]["demand_failure_metric"] = True
    target = here.connect(values=values)
    with pytest.raises(Refused, match="not-allowed") as refused:
        rollout.plan_rollout(target, here.build("good"))
    assert "requires a metric of failures, and failure_metrics is empty" in refused.value.what
    (found,) = (each for each in setup.run_doctor(target, "deployer") if each.check == "failure metrics")
    assert found.state == "problem"
