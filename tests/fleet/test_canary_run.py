"""The runbook fleet/canary as it is run: supervised, its steps on a real cluster of this machine, and archived."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from buddy_ops.runs import archive, supervisor
from buddy_ops.runs.verification import verify_archive
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control
from tests.conftest import ROOT
from tests.fleet.conftest import FUNCTIONS, REGIONS, client
from tests.fleet.test_canary import SHORT, serving
from tests.fleet.test_engine import started_scheduler, worker
from tests.fleet.test_wave_plan import WAVES, declare


@pytest.fixture
def project(fleet: str, tmp_path: Path) -> Path:
    """The fleet's project with the shipped runbooks, three waves, and a good and a bad build."""
    (tmp_path / "notebooks").rmdir()
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    production = Path("parameters/prod.yaml")
    production.write_text(production.read_text() + SHORT)
    builds.write(tmp_path / "next.zip", PROFILES["good"], "2.0.0")
    builds.write(tmp_path / "bad.zip", PROFILES["total_failure"], "2.0.0")
    return tmp_path


def deploy(**given: object) -> supervisor.ExecutedRun:
    return supervisor.run_notebook("fleet/canary", {"environment": "pay-us-east-1", "approved_by": ["Ada"], **given})


def test_a_fleets_run_names_its_targets_runs_and_verifies(project: Path, fleet: str) -> None:
    """Two targets in one wave, one with a bad build: one report, and each run by the hash of its manifest."""
    pairs = {"pay-us-west-2": "next.zip", "pay-eu-west-1": "bad.zip"}
    file = Path("parameters/fleet.yaml")
    file.write_text(file.read_text().replace(", ".join(REGIONS), "us-west-2, eu-west-1"))
    done = deploy(environment="pay-us-west-2", labels=["team=payments"], artifacts=pairs)
    assert done.exit_code == 3 and done.entry.outcome == "rolled-back", done.trouble
    assert [serving(fleet, region) for region in ("us-west-2", "eu-west-1")] == ["1", "1"]
    (back,) = (each for each in done.entry.targets if each["runbook"] == "rollback")
    runs = {each["target"]: each for each in done.entry.targets if each is not back}
    entries = {entry.sha256: entry for entry in archive.list_entries()}
    assert {entries[each["sha256"]].environment for each in runs.values()} == set(pairs)
    assert runs["pay-eu-west-1"]["outcome"] == "rolled-back"
    assert verify_archive(archive.open_store()).problems == ()
    index = Path("runs/index.html").read_text()
    assert f'{runs["pay-eu-west-1"]["folder"]}/report.html">pay-eu-west-1: ' in index
    assert f'{back["folder"]}/report.html">pay-us-west-2, rollback: SUCCEEDED' in index
    assert entries[back["sha256"]].environment == "pay-us-west-2"
    assert done.report is not None and "ROLLED BACK" in done.report.read_text()
    (project / "runs" / runs["pay-eu-west-1"]["folder"] / "journal.jsonl").write_text("")
    assert verify_archive(archive.open_store()).problems


@pytest.fixture(params=["this machine", "a scheduler"])
def scheduler(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the steps run: '' for a cluster that the run starts, or the address of a scheduler with two workers."""
    with ExitStack() as stack:
        address = ""
        if request.param == "a scheduler":
            address, _ = stack.enter_context(started_scheduler(tmp_path))
            for name in ("first", "second"):
                stack.enter_context(worker(address, tmp_path / name, threads=3))
        yield address


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.parametrize(
    ("policy", "first"), [("on_trouble: wave", ("2", "PROMOTED")), ("on_trouble: all", ("1", "ROLLED BACK"))]
)
def test_a_build_that_fails_in_one_region_of_the_second_wave(
    project: Path, fleet: str, scheduler: str, policy: str, first: tuple[str, str]
) -> None:
    """Twelve targets: the first wave stays or is rolled back by policy, the second is rolled back, the third untouched.

    It ends the same on a cluster of this machine and on two workers of a scheduler that runs already.
    """
    declare(f"{WAVES}bake_minutes: 5\n{policy}\n")
    done = deploy(artifact="next.zip", artifacts={"pay-eu-west-1": "bad.zip"}, scheduler=scheduler)
    assert done.exit_code == 3, done.trouble
    versions = {
        (function, region): client(fleet, "lambda", region).get_alias(FunctionName=function, Name="live")
        for function in FUNCTIONS
        for region in REGIONS
    }
    assert not any("RoutingConfig" in alias and alias["RoutingConfig"] for alias in versions.values())
    serve = {where: alias["FunctionVersion"] for where, alias in versions.items()}
    assert {serve[function, "us-east-1"] for function in FUNCTIONS} == {first[0]}
    assert {serve[function, region] for function in FUNCTIONS for region in REGIONS[1:]} == {"1"}
    touched = {call["region"] for call in control(fleet, "calls")["calls"] if call["operation"] == "UpdateAlias"}
    assert touched == {"us-east-1", "us-west-2", "eu-west-1"}
    assert len(done.entry.targets) == 9 and verify_archive(archive.open_store()).problems == ()
    assert done.report is not None and done.report.read_text().count(first[1]) >= 3
