"""Every cell of every notebook runs under nbval: a parameterised copy of each, against the sandbox.

nbval-lax fails on a cell that raises, so each notebook is given what it needs to end well. How a runbook refuses and
fails is told by the tests of its area.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import papermill
import pytest

from tests.checks.test_readiness import ready
from tests.conftest import Situation, sampled
from tests.incidents.corruption import corrupted, repair_hash
from tests.migrations.test_schema import shipped
from tests.resilience.harness import aged, alarmed, begun, promoted
from tests.system.runbooks.test_runbooks import ROOT, Bring, execute

Parameters = Callable[[Situation], Mapping[str, Any]]
QUIET = {"requests_per_minute": 0, "history_minutes": 0}


@dataclass(frozen=True)
class Case:
    """A situation, and the notebooks that run in it, in this order, by one process.

    Attributes:
        notebooks: by its path below notebooks/, what each is given besides the environment.
        prepare: what stands before the first of them.
    """

    notebooks: Mapping[str, Parameters]
    scenario: str = "good"
    overrides: Mapping[str, Any] = field(default_factory=lambda: QUIET)
    prepare: Callable[[Situation], None] = lambda here: None


def ship(here: Situation, label: str, **more: Any) -> dict[str, Any]:
    """What a strategy's notebook takes."""
    return {"artifact": here.build("good", label), "approved_by": ["Ada"], **more}


def ready_settings(here: Situation) -> dict[str, Any]:
    """An environment in which a rollback would work; its settings."""
    _, target = ready(lambda *_, **__: here)
    return target.settings.model_dump(mode="json")


def settled(here: Situation) -> None:
    """Version 2 has served for a day, and every alarm is there."""
    promoted(here)
    alarmed(here)
    here.ask("advance", seconds=25 * 3600)


def fleet_of_one(here: Situation) -> None:
    """A project around the copies, with a fleet of the sandbox's function alone."""
    shutil.copytree(ROOT / "parameters", here.folder / "parameters")
    shutil.copytree(ROOT / "notebooks", here.folder / "notebooks")
    fleet = "targets: [{name: buddy, environment: sandbox, region: us-east-1}]"
    (here.folder / "parameters" / "fleet.yaml").write_text(fleet)


def fleet_in_a_rollout(here: Situation) -> None:
    """The same, whose function is in a rollout."""
    fleet_of_one(here)
    begun(here)


def fleet_that_is_ready(here: Situation) -> None:
    """The same, in which a rollback would work."""
    fleet_of_one(here)
    written = {"environment": here.environment, "settings": ready_settings(here)}
    (here.folder / "parameters" / "sandbox.yaml").write_text(json.dumps(written))


BEFORE = dict.fromkeys(("tests pass", "code reviewed", "documentation updated", "on-call notified"), "Ada")
AFTER = dict.fromkeys(("error rate normal", "latency within bounds", "business metrics healthy"), "Ada")
CASES = {
    "an audit": Case(
        {"review/readiness_audit": lambda here: {}, "fleet/audit": lambda here: {}}, prepare=fleet_that_is_ready
    ),
    "a rollout under way": Case({"rollback/gradual": lambda here: {"approved_by": ["Ada"]}}, prepare=begun),
    "a failed deployment": Case(
        {"emergency/deployment_failure": lambda here: {"decision": "roll back", "approved_by": ["Ada"]}}, prepare=begun
    ),
    "damaged data": Case(
        {"emergency/data_corruption": lambda here: {"approved_by": ["Ada"], "approved_plan": repair_hash(here)}},
        overrides={"reminders": 30, **QUIET},
        prepare=corrupted,
    ),
    "shipping": Case(
        {
            "start_here": lambda here: {},
            "operations/monitor": lambda here: {"minutes": 5},
            "review/incident_review": lambda here: {"since": "2026-11-01T23:00Z", "until": "2026-11-02T01:00Z"},
            "operations/alarms": lambda here: {"approved_by": ["Ada"]},
            "operations/feature_flags": lambda here: {"turn": {"ENABLE_ENHANCED_SAFETY": True}, "approved_by": ["Ada"]},
            "strategies/canary": lambda here: ship(here, "2.0.0", watch_minutes=1),
            "rollback/immediate": lambda here: {"approved_by": ["Ada"]},
            "strategies/blue_green": lambda here: ship(here, "3.0.0", watch_minutes=1),
        }
    ),
    "initial deployment": Case(
        {"strategies/all_at_once": lambda here: ship(here, "1.0.0")},
        scenario="first_deployment",
    ),
    "a migration": Case(
        {
            "operations/migrate_database": lambda here: {"step": "expand", "approved_by": ["Ada"]},
            "rollback/database_compatibility": lambda here: {
                "migration": "reminders_at_minutes",
                "approved_by": ["Ada"],
            },
        },
        overrides={**QUIET, "reminders": 3},
        prepare=lambda here: shipped(here, "1", "1-2"),
    ),
    "checklists": Case(
        {
            "operations/pre_deployment": lambda here: {"artifact": here.build("good"), "attested": BEFORE},
            "operations/post_deployment": lambda here: {"attested": AFTER},
        },
        prepare=settled,
    ),
    "a fleet that is rolled back": Case(
        {"fleet/rollback": lambda here: {"approved_by": ["Ada"]}}, prepare=fleet_in_a_rollout
    ),
    "a fleet": Case(
        {
            "fleet/status": lambda here: {},
            "fleet/canary": lambda here: {"artifact": here.build("good"), "approved_by": ["Ada"], "dry_run": True},
        },
        overrides={"history_minutes": 70},
        prepare=fleet_of_one,
    ),
    "old versions": Case(
        {"operations/clean_up_versions": lambda here: {"keep": 1, "approved_by": ["Ada"]}}, prepare=aged
    ),
}
"""Every notebook there is, in at least one case: a new one joins the case that suits it, or brings its own."""


DAILY = {"a fleet that is rolled back"}


@pytest.mark.timeout(360)
@pytest.mark.parametrize("name", sampled(CASES, DAILY))
def test_every_cell_runs_under_nbval(situation: Bring, name: str) -> None:
    """pytest --nbval-lax executes the case's notebooks cell by cell, and none of them raises."""
    case = CASES[name]
    here = situation(case.scenario, **case.overrides)
    case.prepare(here)
    copies = [
        parameterised(notebook, here, given(here), number)
        for number, (notebook, given) in enumerate(case.notebooks.items())
    ]
    done = execute(
        *("pytest", "--nbval-lax", "-p", "no:xdist", "-p", "no:cacheprovider", "--nbval-cell-timeout", "60"),
        *("-o", "addopts=", "-q", "-x", *map(str, copies)),
        limit_s=300,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def parameterised(notebook: str, here: Situation, given: Mapping[str, Any], number: int) -> Path:
    """A copy with its parameters injected as papermill does it, in a folder of its own; its path."""
    source = ROOT / "notebooks" / f"{notebook}.ipynb"
    copy = here.folder / str(number) / source.name
    copy.parent.mkdir()
    papermill.execute_notebook(source, copy, {"environment": here.environment, **given}, prepare_only=True)
    return copy


def test_every_notebook_is_run_under_nbval() -> None:
    """A notebook that is added must join a case."""
    paths = (each.relative_to(ROOT / "notebooks") for each in ROOT.glob("notebooks/**/*.ipynb"))
    there = {str(each.with_suffix("")) for each in paths if ".ipynb_checkpoints" not in each.parts}
    assert {notebook for case in CASES.values() for notebook in case.notebooks} == there
