"""The rollback of twelve targets in four regions: traffic first, in order of harm, each alias verified."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import session
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import JournalFile, read_journal
from buddy_ops.core.plan import Approval
from buddy_ops.deployment import rollout
from buddy_ops.fleet import rollback, targets
from buddy_ops.fleet.recovery import read_recoveries
from buddy_ops.fleet.rollback import FleetRollback, FleetRollbackPlan, TargetResult
from buddy_ops.runs import archive, verification
from buddy_ops.runs.stores import LocalStore, digest
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control
from tests.cli.command_line import Ended, invoke
from tests.conftest import approve
from tests.fleet.conftest import FUNCTIONS, REGIONS, client
from tests.fleet.test_notebooks import execute, lose_a_region, outputs

Ship = Callable[[str, str, str], None]
RECORD = RolloutState("0001", stable_version="1", new_version="2", stage="proved", since="2026-11-01T00:00:00Z")


@pytest.fixture
def deployed(fleet: str, tmp_path: Path) -> str:
    """Version 2 serves everywhere, after version 1; in us-west-2 pay fails half of its requests, and shop some."""
    faults = {("pay", "us-west-2"): "total_failure", ("shop", "us-west-2"): "errors_5_percent"}
    for region in REGIONS:
        for function in FUNCTIONS:
            profile = faults.get((function, region), "good")
            code = Path(builds.write(tmp_path / f"{profile}2.zip", PROFILES[profile], "2.0.0")).read_bytes()
            client(fleet, "lambda", region).update_function_code(FunctionName=function, ZipFile=code)
    control(fleet, "advance", seconds=60)
    for region in REGIONS:
        for function in FUNCTIONS:
            client(fleet, "lambda", region).publish_version(FunctionName=function)
    control(fleet, "advance", seconds=60)
    for region in REGIONS:
        for function in FUNCTIONS:
            move(fleet, function, region, "2", RECORD.encode())
    control(fleet, "advance", seconds=10 * 60)
    return fleet


def move(url: str, function: str, region: str, version: str, description: str) -> None:
    alias = {"FunctionName": function, "Name": "live", "FunctionVersion": version, "Description": description}
    client(url, "lambda", region).update_alias(**alias)


def serving(url: str) -> dict[str, str]:
    """The version of each alias."""
    return {
        f"{function}-{region}": client(url, "lambda", region).get_alias(FunctionName=function, Name="live")[
            "FunctionVersion"
        ]
        for region in REGIONS
        for function in FUNCTIONS
    }


def moved(url: str) -> list[dict[str, Any]]:
    """Our writes to aliases, in their order."""
    calls = [call for call in control(url, "calls")["calls"] if call["app"] == "buddy-ops"]
    return [call for call in calls if call["operation"] == "UpdateAlias"]


def plan(*labels: str, **options: Any) -> FleetRollbackPlan:
    return rollback.plan_rollbacks(targets.open_fleet(labels, "test"), **options)


def run(made: FleetRollbackPlan, watch: Callable[[str], None] = print) -> FleetRollback:
    places = targets.open_fleet((), "test")
    with closing(targets.connect_fleet(places, "fleet-rollback", dry_run=False)) as here:
        approval = Approval(made.hash, ("Ada",), here.clock.now(), "arn:aws:sts::123456789012:user/test")
        return rollback.roll_back_fleet(here, made, approval, watch)


def roll_back(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    return invoke(capsys, "fleet", "rollback", "--yes", "--approved-by", "Ada", "--json", *words)


def test_what_cannot_be_rolled_back_is_named_and_stops_no_other(
    deployed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A region without an answer, and a target without a known former version: the eight others are on version 1."""
    move(deployed, "cart", "us-east-1", "2", "")
    lose_a_region(deployed, "eu-west-1")
    done = roll_back(capsys)
    assert done.code == 1 and done.data["summary"] == "ROLLED BACK: 8 of 12 targets"
    results = {each["name"]: each for each in done.data["targets"]}
    lost = {f"{function}-eu-west-1" for function in FUNCTIONS}
    assert {name for name, each in results.items() if not each["verified"]} == lost | {"cart-us-east-1"}
    assert {results[name]["error"]["reference"] for name in lost} == {"sandbox-not-running"}
    refused = results["cart-us-east-1"]["error"]
    assert refused["reference"] == "no-rollback-target" and "--to-version cart-us-east-1=VERSION" in refused["next"]
    versions = serving(deployed)
    assert {name for name, version in versions.items() if version == "2"} == lost | {"cart-us-east-1"}
    assert f"Not rolled back: {min(lost)}" in done.err
    done = roll_back(capsys, "--target", "cart-us-east-1", "--to-version", "cart-us-east-1=1")
    assert done.code == 0 and serving(deployed)["cart-us-east-1"] == "1"


def test_the_most_failing_target_is_moved_first(deployed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By failed requests per minute; what is unknown comes next, what has no failure last. Journals have each move."""
    made = plan()
    assert [each.name for each in made.targets[:2]] == ["pay-us-west-2", "shop-us-west-2"]
    harms = [each.failing or 0.0 for each in made.targets]
    assert harms == sorted(harms, reverse=True) and harms[0] > harms[1] > 1 and harms[-1] == 0.0
    control(deployed, "set", outage="error")
    unknown = plan()
    control(deployed, "set", outage=None)
    assert {each.failing for each in unknown.targets} == {None}
    # One thread for each region: the sequence of its writes is that of the plan.
    monkeypatch.setattr(rollback, "READERS", 1)
    done = run(made)
    assert done.exit_code == 0 and set(serving(deployed).values()) == {"1"}
    ends = {}
    for each in made.targets:
        records = read_journal((each.here.folder / "journal.jsonl").read_bytes())
        assert [record["kind"] for record in records if record["kind"] in ("opened", "approved", "rollback")] == [
            "opened",
            "approved",
            "rollback",
        ]
        (ends[each.name],) = (number for number, call in enumerate(moved(deployed)) if is_of(call, each.here))
    assert ends["pay-us-west-2"] < ends["shop-us-west-2"] < ends["cart-us-west-2"]


def test_no_call_that_can_wait_comes_before_the_last_alias_is_moved(deployed: str) -> None:
    """Until then: the alias and both versions of each target, once, and one write. Then failsafes and verification."""
    before = len(control(deployed, "calls")["calls"])
    done = run(plan())
    assert done.exit_code == 0
    calls = [call["operation"] for call in control(deployed, "calls")["calls"][before:] if call["service"] == "lambda"]
    last = len(calls) - calls[::-1].index("UpdateAlias")
    assert Counter(calls[:last]) == {"GetAlias": 12, "GetFunctionConfiguration": 24, "UpdateAlias": 12}
    assert Counter(calls[last:]) == {"GetAlias": 12}
    every = [call["operation"] for call in control(deployed, "calls")["calls"][before:]]
    assert every.index("DeleteSchedule") > len(every) - every[::-1].index("UpdateAlias") - 1


def test_an_alias_that_changed_since_the_plan_is_read_again(deployed: str) -> None:
    """AWS refuses the write by the revision that was planned. What another run rolled back meanwhile stays as it is."""
    made = plan("team=payments")
    edited, done_already = (each.here.region for each in made.targets[:2])
    move(deployed, "pay", edited, "2", "edited by a person")
    rolled_back = replace(RECORD, stage="rolled-back", rejected_versions=("2",), closed_by_run="0002")
    move(deployed, "pay", done_already, "1", rolled_back.encode())
    done = run(made)
    assert done.exit_code == 0 and {each.word for each in done.results} == {"ROLLED BACK"}
    written = Counter((call["region"], call["status"]) for call in moved(deployed))
    assert written == {(region, 200): 1 for region in REGIONS if region != done_already} | {
        (edited, 412): 1,
        (done_already, 412): 1,
    }
    kept = client(deployed, "lambda", done_already).get_alias(FunctionName="pay", Name="live")
    assert kept["Description"] == rolled_back.encode()


def is_of(call: dict[str, Any], here: session.Target) -> bool:
    return (call["region"], call["params"]["FunctionName"]) == (here.region, here.settings.function)


def test_a_rollback_that_is_killed_is_ended_by_the_next(
    deployed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was moved stays as it is and is written no second time; the rest is moved, and every alias verified.

    The journals have what was moved; the fleet's own has it before the first write.
    """
    monkeypatch.setattr(rollback, "READERS", 1)
    turns = threading.Semaphore(5)
    killed = threading.Event()
    move_one = rollback._move

    def move_in_turn(*given: Any) -> TargetResult:
        """Five are moved, and each place's next one waits until the run is killed."""
        if not turns.acquire(blocking=False):
            killed.wait()
        return move_one(*given)

    def kill(line: str) -> None:
        if "(3 of 12" in line:
            killed.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(rollback, "_move", move_in_turn)
    with pytest.raises(KeyboardInterrupt):
        run(plan(), kill)
    before = len(moved(deployed))
    assert 3 <= before < 12
    journals = [read_journal(path.read_bytes()) for path in tmp_path.glob("runs/*-rollback-*/journal.jsonl")]
    kinds = Counter(record["kind"] for records in journals for record in records)
    assert kinds["rollback"] == before and kinds["opened"] == 12 + 1
    (moving,) = [record for records in journals for record in records if record["kind"] == "moving"]
    assert moving["targets"].keys() == serving(deployed).keys()
    assert {each["to"] for each in moving["targets"].values()} == {"1"}
    again = plan()
    assert len([each for each in again.targets if each.plan.calls]) == 12 - before
    done = run(again)
    assert done.exit_code == 0 and {each.word for each in done.results} == {"ROLLED BACK"}
    assert len(moved(deployed)) == 12 and set(serving(deployed).values()) == {"1"}


def test_the_error_rates_fall_after_the_rollback(deployed: str) -> None:
    """Before: the five minutes up to the move. Since: nothing until a whole minute is published, then the good version."""
    places = targets.open_fleet((), "test")
    done = run(plan("team=payments"))
    at_once = {each.name: each for each in read_recoveries(places, done)}
    assert set(at_once) == {f"pay-{region}" for region in REGIONS}
    failing = at_once["pay-us-west-2"]
    assert failing.before is not None and failing.before > 0.2 and (failing.after, failing.minutes) == (None, 0)
    control(deployed, "advance", seconds=6 * 60)
    later = {each.name: each for each in read_recoveries(places, done)}["pay-us-west-2"]
    assert later.before == failing.before and later.minutes >= 2
    assert later.after is not None and later.after < 0.05


def test_the_same_again_moves_nothing_and_has_runs_of_its_own(deployed: str) -> None:
    """A cell that is run again: AWS refuses the write by its revision, and what is archived already is not written to."""
    made = plan(names=["pay-us-west-2"])
    assert [run(made).exit_code for _ in range(2)] == [0, 0]
    assert [call["status"] for call in moved(deployed)] == [200, 412]
    store = LocalStore(Path("runs"))
    assert len({entry.folder for entry in archive.list_entries(store)}) == 2
    assert verification.verify_archive(store).problems == ()


def test_each_targets_own_run_is_stored_in_s3(deployed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the environment's archive is there; without the bucket the traffic moves all the same, and a sentence says so."""
    where = "s3://buddy-archive/runs"
    production = Path("parameters/prod.yaml")
    production.write_text(production.read_text() + f"  archive: {{where: '{where}'}}\n")
    done = roll_back(capsys, "--target", "pay-us-west-2", "--target", "shop-eu-west-1")
    assert done.code == 0
    assert sorted(said.partition(" in ")[0] for said in done.data["notes"]) == [
        "Archiving the rollback of pay-us-west-2",
        "Archiving the rollback of shop-eu-west-1",
    ]
    client(deployed, "s3", REGIONS[0]).create_bucket(Bucket="buddy-archive", ObjectLockEnabledForBucket=True)
    assert run(plan(names=["cart-us-east-1"])).exit_code == 0
    (entry,) = archive.list_entries(archive.open_store(where, "cart-us-east-1"))
    assert (entry.environment, entry.runbook) == ("cart-us-east-1", "rollback")
    assert verification.verify_archive(archive.open_store(where, "cart-us-east-1")).problems == ()


def test_a_targets_journal_that_cannot_be_written_is_told(
    deployed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traffic moves all the same; the command says which journal is missing."""

    def fail(self: JournalFile, line: str) -> None:
        raise OSError("No space left on device")

    made = plan(names=["pay-us-west-2"])
    monkeypatch.setattr(JournalFile, "__call__", fail)
    with closing(targets.connect_fleet(targets.open_fleet((), "test"), "fleet-rollback", dry_run=False)) as here:
        done = rollback.roll_back_fleet(here, made, Approval(made.hash, ("Ada",), here.clock.now(), ""))
    assert serving(deployed)["pay-us-west-2"] == "1" and done.exit_code == 0
    assert any(said.startswith("The journal of pay-us-west-2 failed (OSError: No space") for said in here.side.unsaid())


def test_a_canary_in_progress_detects_it_and_ends(deployed: str, tmp_path: Path) -> None:
    """The fleet's rollback wins: the canary's version loses its share, and its run says that another one moved it."""
    with closing(session.connect("shop-us-east-1", "canary")) as mine:
        build = builds.write(tmp_path / "third.zip", PROFILES["good"], "3.0.0")
        planned = rollout.plan_rollout(mine, str(build))
        steps = rollout.run_rollout(mine, planned, approve(mine, planned))
        seen = next(each for each in steps if each.weight or mine.clock.sleep_until(each.wake_at))
        assert seen.weight
        mine.clock.close()
        done = run(plan("team=web", names=["shop-us-east-1"]))
        assert done.exit_code == 0 and serving(deployed)["shop-us-east-1"] == "2"
        mine.clock.sleep_until(seen.wake_at)
        with pytest.raises((BuddyError, StopIteration)):
            steps.send(None)
    assert serving(deployed)["shop-us-east-1"] == "2"


def test_an_alias_that_moved_since_the_plan_is_verified_by_what_it_serves(deployed: str) -> None:
    """A dry run and a plan of nothing change nothing; the exit code is 0 only where every alias was read again."""
    made = plan(dry_run=True)
    with closing(targets.connect_fleet(targets.open_fleet((), "test"), "fleet-rollback", dry_run=True)) as here:
        approval = Approval(made.hash, ("dry run",), here.clock.now(), "")
        done = rollback.roll_back_fleet(here, made, approval)
    assert (done.exit_code, moved(deployed), set(serving(deployed).values())) == (0, [], {"2"})
    assert done.summary.startswith("DRY RUN")


def test_the_notebook_rolls_back_and_raises_for_the_rest(deployed: str, tmp_path: Path) -> None:
    """Approved by a parameter; the table has each target, and what is not rolled back is the error."""
    move(deployed, "pay", "eu-west-1", "2", "")
    document, error = execute(
        "rollback.ipynb", tmp_path, labels=["team=payments"], approved_by=["Ada"], incident="outage-7"
    )
    assert (error["reference"], error["exit_code"]) == ("fleet-rollback-unfinished", 1)
    assert "pay-eu-west-1: " in error["what"] and "pay-us-east-1" not in error["what"]
    shown = [output for cell in document["cells"] for output in cell.get("outputs", ()) if "text/html" in str(output)]
    assert "ROLLED BACK: 3 of 4 targets" in str(shown)
    (picture,) = (each for each in outputs(document) if "image/png" in each)
    assert "pay-us-west-2: " in "".join(picture["text/plain"]) and "pay-eu-west-1" not in "".join(picture["text/plain"])
    folder = next(tmp_path.glob("runs/*-fleet-rollback-*"))
    steps = [each for each in read_journal((folder / "journal.jsonl").read_bytes()) if each["kind"] == "fleet-step"]
    manifests = {each["target"]: tmp_path / "runs" / each["folder"] / "manifest.json" for each in steps}
    assert set(manifests) == {f"pay-{region}" for region in REGIONS if region != "eu-west-1"}
    assert {each["manifest"] for each in steps} == {digest(path.read_bytes()) for path in manifests.values()}
    # By the incident's name a target's review finds its own run.
    assert {json.loads(path.read_bytes())["incident"] for path in manifests.values()} == {"outage-7"}
    assert verification.verify_archive(LocalStore(tmp_path / "runs")).problems == ()
    done, refused = execute("rollback.ipynb", tmp_path, labels=["team=web"])
    assert refused["reference"] == "approval-missing" and done["cells"]
    assert {name for name, version in serving(deployed).items() if version == "1"} == {
        f"pay-{region}" for region in REGIONS if region != "eu-west-1"
    }
