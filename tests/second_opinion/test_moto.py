"""The runbooks on moto's own server, as far as it goes: its functions have no RevisionId."""

import pytest

from tests.second_opinion.account import Environment, said

pytestmark = pytest.mark.timeout(600)


def test_immediate_rollback(on_moto: Environment) -> None:
    """What moto leaves out of the version that serves afterwards is a warning, and no obstacle."""
    done = on_moto.runbook("rollback/immediate", approved_by=["Ada"])
    assert done.returncode == 0, said(done)
    alias = on_moto.alias()
    assert alias["FunctionVersion"] == "1"


def test_freeze(on_moto: Environment) -> None:
    """Created, listed and removed."""
    frozen = on_moto.run("freeze", "-e", on_moto.name, "--reason", "fair", "--owner", "Ada")
    assert frozen.returncode == 0, said(frozen)
    (name,) = on_moto.freezes()
    lifted = on_moto.run("unfreeze", name, "-e", on_moto.name)
    assert lifted.returncode == 0 and on_moto.freezes() == [], said(lifted)


@pytest.mark.parametrize("runbook", ["operations/clean_up_versions", "strategies/canary"])
def test_reply_without_a_member(on_moto: Environment, runbook: str) -> None:
    """Where the RevisionId is needed, the missing one is named, and nothing is changed."""
    given = {"artifact": on_moto.write_build()} if runbook == "strategies/canary" else {}
    done = on_moto.runbook(runbook, approved_by=["Ada"], **given)
    assert done.returncode == 1 and "without RevisionId" in said(done) and "Traceback" not in said(done), said(done)
    assert on_moto.versions() == ["1", "2"]
