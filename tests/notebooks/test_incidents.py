"""The runbooks of an incident, as people and CI run them: each in a process of its own, judged by the sandbox's state."""

from collections.abc import Callable

from buddy_ops import rollout
from tests.conftest import Situation, approve
from tests.notebooks.test_runbooks import execute, executed, pictures, report, run, told_once, writes

Bring = Callable[..., Situation]


def begun(here: Situation, profile: str = "good") -> None:
    """A canary at 10 %, whose run is gone."""
    mine = here.connect("canary")
    plan = rollout.plan(mine, here.build(profile))
    steps = rollout.run(mine, plan, approve(mine, plan))
    for seen in steps:
        if seen.weight:
            break
        mine.clock.sleep_until(seen.wake_at)
    steps.close()
    mine.close()


# rollback/gradual


def test_gradual_takes_the_share_away_in_steps(situation: Bring) -> None:
    """Under stock papermill: two steps, stable serves alone at the end, no schedule stays, one picture tells of it."""
    here = situation("good")
    begun(here)
    out = here.folder / "out.ipynb"
    done = execute(
        *("papermill", "notebooks/rollback/gradual.ipynb", str(out), "-f", "parameters/sandbox.yaml"),
        *("-y", "{approved_by: [Ada], steps: [5, 0], step_minutes: 1}"),
    )
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    assert len(pictures(executed(out))) == 1


def test_gradual_without_a_name_does_nothing(situation: Bring) -> None:
    """Refused, exit code 4; the share stays as it was, under the lease that was there."""
    here = situation("good")
    begun(here)
    before, written = here.alias(), writes(here)
    done = run("rollback/gradual")
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert here.alias()["RoutingConfig"] == before["RoutingConfig"] and writes(here) == written


def test_gradual_where_nothing_is_under_way_names_the_right_runbook(situation: Bring) -> None:
    """One version alone: refused with exit code 4 before anybody is asked."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    done = run("rollback/gradual", approved_by=["Ada"])
    assert done.returncode == 4
    told_once(done.stderr, "nothing-to-drain")
    assert "rollback/immediate" in done.stderr and writes(here) == []


def test_gradual_takes_a_failing_version_away_at_once(situation: Bring) -> None:
    """A build that fails everything does not get its fifteen minutes at 5 %: the judge's first word ends it."""
    here = situation("total_failure")
    begun(here, "total_failure")
    began = here.ask("status")["now"]
    done = run("rollback/gradual", steps=[5], step_minutes=15, approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert "RoutingConfig" not in here.alias() and here.alias()["FunctionVersion"] == "1"
    assert here.ask("status")["now"] - began < 6 * 60
    assert "taken away at once" in str(executed(report(done).parent / "notebook.ipynb"))
