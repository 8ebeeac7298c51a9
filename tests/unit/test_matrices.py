"""The crash and fault matrices leave no runbook out that changes anything."""

from buddy_ops import powers
from tests.chaos import harness

WATCHING = {"reader", "auditor"}
"""Roles that may change nothing but the archive; the tests of what each role may do say so of both."""


def writing() -> set[str]:
    """The notebooks and commands that none of these roles may run: they change something."""
    return {name for name, roles in powers.RUNBOOKS.items() if not WATCHING & set(roles)}


def test_every_runbook_that_writes_is_killed_and_failed() -> None:
    """A notebook or command that is added to those that write must register in the harness of crashes and faults."""
    assert writing() == {each.page for each in harness.RUNBOOKS.values()}
