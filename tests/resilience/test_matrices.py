"""The crash, fault and race matrices leave no runbook out that changes anything."""

import importlib
from pathlib import Path

from buddy_ops.aws import permissions
from tests.resilience import harness
from tests.resilience.races import stage

RACES = Path(__file__).parent / "races"
WATCHING = {"reader", "auditor"}
"""Roles that may change nothing but the archive; the tests of what each role may do say so of both."""


def writing() -> set[str]:
    """The notebooks and commands that none of these roles may run: they change something."""
    return {name for name, roles in permissions.RUNBOOKS.items() if not WATCHING & set(roles)}


def test_every_runbook_that_writes_is_killed_and_failed() -> None:
    """A notebook or command that is added to those that write must register in the harness of crashes and faults."""
    assert writing() == {each.page for each in harness.RUNBOOKS.values()}


def test_every_runbook_that_writes_races_with_something() -> None:
    """A notebook or command that is added to those that write must have a race."""
    for path in RACES.glob("test_*.py"):
        importlib.import_module(f"tests.resilience.races.{path.stem}")
    assert writing() == stage.RACED
