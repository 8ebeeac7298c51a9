"""The audit of twelve targets in four regions: the findings of each target's own audit, in fewer calls."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import session
from buddy_ops.checks import readiness
from buddy_ops.checks.findings import Finding
from buddy_ops.core import project, redaction
from buddy_ops.fleet import audit, status, targets
from buddy_ops.fleet.audit import FleetAudit
from buddy_ops.runs import archive
from buddy_sandbox.situations import control
from tests.cli.command_line import invoke
from tests.fleet.conftest import FUNCTIONS, REGIONS
from tests.fleet.test_notebooks import execute, lose_a_region
from tests.fleet.test_status import READS, operations
from tests.runs.test_archive import leave

ONCE = ("GetCallerIdentity", "DescribeAlarms", "GetRole", "GetParametersByPath")


def look(*labels: str) -> FleetAudit:
    return audit.audit_fleet(targets.open_fleet(labels, "test"))


def facts(findings: tuple[Finding, ...]) -> list[tuple[str, str, str, str]]:
    return [(each.check, each.state.value, each.message, each.remedy) for each in findings]


def test_the_findings_are_those_of_each_targets_own_audit(fleet: str) -> None:
    """Check by check, state and words: what is read for all targets at once says the same of each."""
    found = {each.member.name: each.audit for each in look("team=payments").targets}
    assert set(found) == {f"pay-{region}" for region in REGIONS}
    for name in ("pay-us-east-1", "pay-eu-west-1"):
        with closing(session.connect(name, "test", quiet=True)) as here:
            own = readiness.run_audit(here)
        assert facts(found[name].findings) == facts(own.findings) and len(own.findings) > 20


@pytest.mark.whole
def test_calls_per_target_fall_as_targets_grow(fleet: str) -> None:
    """What is the same for a region is read once in it, for one function as for three. Nothing is written."""
    counts: list[Counter[str]] = []
    for labels in (("team=payments",), ()):
        before = len(control(fleet, "calls")["calls"])
        look(*labels)
        counts.append(operations(fleet, before))
    one, three = counts
    assert {name: one[name] for name in ONCE} == {name: three[name] for name in ONCE}
    assert one["GetCallerIdentity"] == one["DescribeAlarms"] == len(REGIONS)
    assert three.total() / 12 < one.total() / 4
    assert all(three[name] <= len(FUNCTIONS) * one[name] for name in three)
    assert all(name.startswith((*READS, "Invoke", "Simulate", "StartQuery")) for name in three), three


def test_a_region_that_cannot_be_reached_is_unknown_and_stops_no_other(
    fleet: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its targets are never ready; what is not ready comes first, and decides the exit code."""
    lose_a_region(fleet, "eu-west-1")
    found = look()
    assert [each.word for each in found.targets] == ["NOT READY"] * 9 + ["UNKNOWN"] * 3
    assert {each.member.name for each in found.targets[9:]} == {f"{name}-eu-west-1" for name in FUNCTIONS}
    assert (found.summary, found.exit_code) == ("12 targets: 9 NOT READY, 3 UNKNOWN", 6)
    assert FleetAudit(found.at, found.targets[9:]).exit_code == 1
    told = invoke(capsys, "fleet", "audit", "--label", "team=payments", "--page", "audit.html", "--json")
    assert told.code == 6 and [each["result"] for each in told.data["targets"]] == ["NOT READY"] * 3
    assert (tmp_path / "audit.html").read_text().count("<tr>") == 1 + 3
    assert "3 of 3 targets audited" in told.err


def test_the_notebook_ends_as_the_command(fleet: str, tmp_path: Path) -> None:
    """It lists the targets that are not ready, and leaves each target's result in its journal."""
    _, error = execute("audit.ipynb", tmp_path, labels=["team=payments"])
    assert (error["reference"], error["exit_code"]) == ("fleet-not-ready", 6)
    assert "pay-us-east-1: NOT READY" in error["what"]
    (journal,) = tmp_path.glob("runs/*-fleet-audit-*/journal.jsonl")
    assert '"pay-us-east-1": "NOT READY"' in journal.read_text()


def test_the_status_names_the_last_audit(fleet: str) -> None:
    """Of a fleet, or of one target: the newest that is archived, whatever it was called with; none where there is none."""
    root = project.project_root() / "runs"
    assert set(readiness_of()) == {""}
    fleets = {"kind": "fleet-audited", "results": {"pay-us-east-1": "READY", "pay-eu-west-1": "UNKNOWN"}}
    seal(root, "run-0001", "fleet/audit", "prod", records=[fleets], ended="2026-11-01T03:00:00Z", exit_code=6)
    own = {"ended": "2026-11-02T03:00:00Z", "exit_code": 0}
    seal(root, "run-0002", "review/readiness_audit", "pay-eu-west-1", records=[], **own)
    words = readiness_of()
    assert words == ["READY, 2026-11-02 03:00 UTC", "", "READY, 2026-11-01 03:00 UTC", ""]


def seal(root: Path, name: str, runbook: str, environment: str, *, records: list[Any], **known: Any) -> None:
    """A run that is archived."""
    folder = leave(root, name, records=records, runbook=runbook, environment=environment)
    archive.append_to_chain(folder, archive.build_manifest(folder, redaction.Redactor(), **known))


def readiness_of() -> list[str]:
    """The readiness of pay in each region, by the region's name."""
    found = status.read_fleet(targets.open_fleet(("team=payments",), "test"))
    named = {each.member.name: each.readiness for each in found.targets}
    return [named[name] for name in ("pay-eu-west-1", "pay-ap-northeast-1", "pay-us-east-1", "pay-us-west-2")]
