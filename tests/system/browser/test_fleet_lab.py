"""The fleet's rollback in a real JupyterLab: what a person sees before and after all traffic has moved."""

import shutil

import pytest

from tests.fleet.conftest import fleet  # noqa: F401
from tests.fleet.test_rollback import deployed, serving  # noqa: F401
from tests.system.browser.conftest import Lab, Person

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(400), pytest.mark.whole]


@pytest.fixture
def fleet_lab(lab: Lab, deployed: str) -> str:  # noqa: F811
    """The fleet's files in the folder that this module's JupyterLab serves; the sandbox's URL."""
    for name in ("fleet.yaml", "prod.yaml"):
        shutil.copy(f"parameters/{name}", lab.folder / "parameters" / name)
    return deployed


def test_a_fleets_rollback_waits_for_a_person(fleet_lab: str, person: Person) -> None:
    """'Run All' stops at the gate with no alias moved; the right word moves all; the table and the chart are readable."""
    person.lab.fill("fleet/rollback", labels=["team=payments"], watch_minutes=4)
    person.open("fleet/rollback")
    person.run_all()
    person.await_gate()
    person.assert_accessible("fleet-rollback-gate")
    assert set(serving(fleet_lab).values()) == {"2"}
    person.approve("sandbox", "Ada", "Approve")
    person.sees("ROLLED BACK: 4 of 4 targets")
    assert {version for name, version in serving(fleet_lab).items() if name.startswith("pay-")} == {"1"}
    person.sees("pay-us-west-2")
    person.assert_accessible("fleet-rollback-live")
    person.await_idle()
    person.picture("fleet-rollback-done")
