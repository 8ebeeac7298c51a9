"""operations/migrate_database and rollback/database_compatibility as people and CI run them."""

from typing import Any

import pytest

from buddy_ops.migrations import schema
from tests.conftest import Situation
from tests.migrations.test_schema import QUIET, shipped
from tests.migrations.test_steps import NAME, items, put, state, take
from tests.system.runbooks.test_runbooks import Bring, report, run, told_once, writes


@pytest.fixture
def here(situation: Bring) -> Situation:
    """30 reminders; version 3 serves and knows both shapes, version 2 before it knows the old one."""
    here = situation("good", reminders=30, **QUIET)
    shipped(here, "1", "1-2")
    return here


def migrate(step: str, **given: Any) -> Any:
    return run("operations/migrate_database", step=step, **{"approved_by": ["Ada"], **given})


def back(**given: Any) -> Any:
    return run("rollback/database_compatibility", **{"approved_by": ["Ada"], "reason": "drill", **given})


def test_a_migration_headlessly(here: Situation) -> None:
    """Expand, backfill and verify, each approved: every item has both shapes, and the table says so."""
    for step in ("expand", "backfill", "verify"):
        done = migrate(step)
        assert done.returncode == 0, done.stderr
    mine = here.connect()
    assert state(mine) == (1, "verified") and all("at_minutes" in each for each in items(mine).values())
    assert "30 items read" in report(done).read_text("utf-8")


def test_without_approval_nothing_is_migrated(here: Situation) -> None:
    """Nobody approved: exit code 4, told once, and nothing was written."""
    done = migrate("expand", approved_by=[])
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert writes(here) == [] and state(here.connect()) == (1, "")


@pytest.mark.whole
def test_without_a_step_it_ends_with_2(here: Situation) -> None:
    """'Run All' on the notebook as it is does nothing, and says which steps there are."""
    done = migrate("")
    assert done.returncode == 2
    told_once(done.stderr, "unknown-migration")
    assert "expand, backfill, verify, contract, rollback" in done.stderr and writes(here) == []


@pytest.mark.whole
def test_items_that_are_left_end_it_with_1(here: Situation) -> None:
    """An item that cannot be converted: the others are done, and the last cell says how many are left."""
    mine = here.connect()
    put(here, {**items(mine)["reminder-000004"], "at": {"S": "eightish"}})
    take(mine, "expand")
    done = migrate("backfill")
    assert done.returncode == 1
    told_once(done.stderr, "migration-incomplete")
    assert "1 of 30 items" in done.stderr and sum("at_minutes" in each for each in items(mine).values()) == 29


@pytest.mark.whole
def test_a_contract_that_a_version_stands_against_ends_with_4(here: Situation) -> None:
    """A canary still gives the old version a share: refused, naming it, and no item loses anything."""
    mine = here.connect()
    take(mine, "expand", "backfill", "verify")
    here.client("lambda").update_alias(
        FunctionName=here.function, Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}}
    )
    done = migrate("contract")
    assert done.returncode == 4
    told_once(done.stderr, "schema-needed")
    assert "v2 (alias live serves it) is compatible with schema 1" in done.stderr and state(mine) == (1, "verified")


@pytest.mark.whole
def test_the_rollback_across_an_open_migration(here: Situation) -> None:
    """Traffic back, deployments frozen, the migration taken back, a review within 24 hours: on the sandbox's own state."""
    mine = here.connect()
    before = items(mine)
    take(mine, "expand", "backfill")
    done = back(migration=NAME)
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "2" and "RoutingConfig" not in here.alias()
    assert items(mine) == before and state(mine) == (1, "reverted")
    ssm = here.client("ssm")
    path = f"/buddy-ops/{here.function}/live"
    kept = ssm.get_parameters_by_path(Path=path, Recursive=True)["Parameters"]
    names = [each["Name"].removeprefix(path) for each in kept]
    assert any(each.startswith("/freeze/") for each in names) and any(
        each.startswith("/records/review/") for each in names
    )
    log = [each["operation"] for each in here.ask("calls")["calls"] if each["app"] == "buddy-ops"]
    traffic = log.index("UpdateAlias")
    first_put = next(n for n, each in enumerate(log) if each == "PutParameter")
    assert traffic < first_put, "nothing is written before the traffic"
    again = back(migration=NAME)
    assert again.returncode == 0, again.stderr
    assert items(mine) == before and state(mine) == (1, "reverted") and here.alias()["FunctionVersion"] == "2"


@pytest.mark.whole
def test_the_rollback_past_a_contract_is_refused(here: Situation) -> None:
    """Version 2 does not know the contracted table: exit code 4, with what to do instead, and nothing was written."""
    mine = here.connect()
    take(mine, "expand", "backfill", "verify", "contract")
    since = len(writes(here))
    done = back()
    assert done.returncode == 4
    told_once(done.stderr, "schema-incompatible")
    assert "operations/migrate_database" in done.stderr and "run the rollback of its migration first" in done.stderr
    assert here.alias()["FunctionVersion"] == "3" and len(writes(here)) == since
    # What it says to do instead leads there.
    take(mine, "rollback")
    done = back()
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "2" and state(mine) == (1, "expanded")


@pytest.mark.whole
def test_the_rollback_without_approval_ends_with_4(here: Situation) -> None:
    """Nobody decided: nothing was written."""
    done = back(approved_by=[])
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert writes(here) == []


@pytest.mark.whole
def test_a_migration_that_stays_is_told_and_stops_nothing(here: Situation) -> None:
    """The table cannot be written: traffic is back and frozen, the review is set, and the last cell says what is left."""
    mine = here.connect()
    take(mine, "expand", "backfill")
    here.ask("chaos", kind="denied", operation="TransactWriteItems", times=1_000_000)
    done = back(migration=NAME)
    here.ask("chaos")
    assert done.returncode == 1, done.stderr
    told_once(done.stderr, "access-denied")
    assert here.alias()["FunctionVersion"] == "2" and state(mine) == (1, "reverting")
    kept = here.client("ssm").get_parameters_by_path(Path=f"/buddy-ops/{here.function}/live", Recursive=True)[
        "Parameters"
    ]
    assert len(kept) == 2
    take(mine, "rollback")
    assert state(mine) == (1, "reverted")
    assert schema.read_marker(mine, mine.settings.tables[0]).run == mine.run
