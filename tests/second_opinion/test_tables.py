"""Migrations on three engines that are not AWS's: ministack's, moto's and dynalite's."""

from collections.abc import Callable

import pytest

from tests.second_opinion.account import Done, Environment, said

pytestmark = pytest.mark.timeout(600)
OLD, BOTH, NEW = {"at"}, {"at", "at_minutes"}, {"at_minutes"}


def take(here: Environment, step: str) -> Done:
    return here.runbook("operations/migrate_database", step=step, approved_by=["Ada"])


@pytest.mark.parametrize("tables", ["ministack", "moto_server"])
def test_migration_forth_and_back(
    deployed: Callable[..., Environment], request: pytest.FixtureRequest, tables: str
) -> None:
    """Each step leaves the items in the schemas that it promises; the rollback restores what was there before."""
    here = deployed("" if tables == "ministack" else request.getfixturevalue(tables))
    here.act_as("deployer")
    before = here.items()
    steps = ("expand", "backfill", "verify", "contract", "rollback", "rollback")
    for step, attributes in zip(steps, (OLD, BOTH, BOTH, NEW, BOTH, OLD), strict=True):
        done = take(here, step)
        assert done.returncode == 0, said(done)
        assert all(BOTH & set(item) == attributes for item in here.items().values()), step
    assert here.items() == before


def test_migration_on_dynalite(deployed: Callable[..., Environment], dynalite: str) -> None:
    """It has no transactions: the backfill ends in words, no item is changed, and the way back is open."""
    here = deployed(dynalite)
    here.act_as("deployer")
    before = here.items()
    done = take(here, "expand")
    assert done.returncode == 0, said(done)
    refused = take(here, "backfill")
    assert refused.returncode == 1 and "dynamodb:transact_write_items" in said(refused), said(refused)
    take(here, "rollback")
    assert here.items() == before
