"""The corruption runbook as people and CI run it, judged by the table itself."""

import json
import random
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from test_reminders import say

from buddy_ops.aws import freezes
from buddy_ops.incidents import containment
from buddy_ops.runs import archive, verification
from buddy_sandbox import reminders
from tests.conftest import Situation, sampled
from tests.incidents.corruption import (
    QUIET,
    corrupting,
    damage,
    delete,
    isolated,
    later,
    parameters,
    put,
    table,
)
from tests.runs.test_archive import alone
from tests.system.runbooks.test_runbooks import execute, executed, progress, report, run, told_once, writes

Bring = Callable[..., Situation]
RUNBOOK = "emergency/data_corruption"


def hash_of(done: "Any") -> str:
    """The hash of the plan that a refused run asks for."""
    (found,) = set(re.findall(r"approved_plan=(p[0-9a-f]{24})", done.stderr))
    return str(found)


@pytest.mark.parametrize("size", sampled([50, 250], {50}))
def test_the_drill(situation: Bring, size: int) -> None:
    """Of 5,000 items 700 damaged, 50 of them edited later, 300 others edited, 100 created, 20 deleted: 650 are repaired,
    50 are listed for a choice, and everything else stands as it is, byte for byte. Or a fifth of all that."""
    edited_later, repaired = size // 5, 13 * size // 5
    here = situation("good", reminders=20 * size, **QUIET)
    before = table(here)
    corrupting(here)
    names = sorted(before)
    random.Random(7).shuffle(names)
    broken, rest = names[: edited_later + repaired], names[edited_later + repaired :]
    edited, gone = rest[: 6 * size // 5], rest[-2 * size // 25 :]
    damage(here, *broken)
    damaged = table(here)
    # Version 1 still served some people: their edits and deletions are valid, on damaged items too.
    put(here, [later(here, damaged[each], "1", medication="their own") for each in broken[:edited_later]])
    put(here, [later(here, before[each], "1", at="12:34") for each in edited])
    put(here, [reminders.reminder(9000 + n, int(here.ask("clock")["now"])) for n in range(2 * size // 5)])
    for each in gone:
        delete(here, before[each])
    here.ask("advance", seconds=60)
    now = table(here)
    out = here.folder / "out.ipynb"
    papermill = ("papermill", f"notebooks/{RUNBOOK}.ipynb", str(out), "-f", "parameters/sandbox.yaml")
    first = execute(*papermill, "-y", "{approved_by: [Ada]}")
    # What was found is known, and nobody has agreed to its repair: Buddy is off, and no item was written.
    assert first.returncode == 1 and table(here) == now and isolated(here)
    assert here.alias()["FunctionVersion"] == "1" and len(parameters(here, "freeze")) == 1
    second = execute(*papermill, "-y", f"{{approved_by: [Ada], approved_plan: {hash_of(first)}}}")
    assert second.returncode == 0, second.stderr
    expected = now | {each: before[each] for each in broken[edited_later:]}
    assert table(here) == expected and len(expected) == 20 * size + 2 * size // 5 - len(gone)
    conflicts = [json.loads(line) for line in (here.folder / "run" / "conflicts.jsonl").read_text().splitlines()]
    assert {each["item"].split("/")[1] for each in conflicts} == set(broken[:edited_later])
    assert {each["kind"] for each in conflicts} == {"invalid_value"}
    assert not isolated(here) and here.alias()["FunctionVersion"] == "1"
    assert "their own" not in json.dumps(conflicts) and len(parameters(here, "freeze")) == 1
    text = json.dumps(executed(out))
    assert f"{repaired} repaired. Every other item is unchanged, byte for byte" in text
    assert len(progress(executed(out), "verify")) == 1
    # An item is somebody's health: what it says is in neither the notebook nor the journal.
    kept = text + (here.folder / "run" / "journal.jsonl").read_text()
    assert "their own" not in kept and not any(each in kept for each in reminders.MEDICATIONS[1:])
    assert (here.folder / "run" / "root_cause.md").exists() and len(parameters(here, "records")) == 1


@pytest.fixture
def broken(situation: Bring) -> Situation:
    """Sixty reminders, of which version 2 has damaged two."""
    here = situation("good", reminders=60, **QUIET)
    corrupting(here)
    damage(here, "reminder-000001", "reminder-000002")
    return here


@pytest.mark.whole
def test_run_again_after_its_end_it_looks_and_stops_nobody(broken: Situation) -> None:
    """The same parameters once more: compared again, exit code 0, Buddy on all the while; new damage is found, too."""
    first = run(RUNBOOK, approved_by=["Ada"])
    given: dict[str, Any] = {"approved_by": ["Ada"], "approved_plan": hash_of(first)}
    assert run(RUNBOOK, **given).returncode == 0
    repaired, since = table(broken), len(writes(broken))
    again = run(RUNBOOK, **given)
    assert again.returncode == 0, again.stderr
    assert table(broken) == repaired and not isolated(broken)
    assert set(writes(broken)[since:]) <= {"PutParameter", "Scan"} and len(parameters(broken, "freeze")) == 1
    put(broken, [reminders.damaged(later(broken, repaired["reminder-000007"], "2"))])
    more = run(RUNBOOK, **given)
    assert more.returncode == 4 and not isolated(broken)
    assert run(RUNBOOK, approved_by=["Ada"], approved_plan=hash_of(more)).returncode == 0
    assert table(broken) == repaired and not isolated(broken)


def test_what_it_leaves_is_archived(broken: Situation) -> None:
    """Refused for its repair, then done: what conflicts and the root cause are stands in the runs' manifests, and every
    byte of both runs verifies."""
    put(broken, [later(broken, table(broken)["reminder-000002"], "1", medication="their own")])
    first = run(RUNBOOK, approved_by=["Ada"])
    done = run(RUNBOOK, approved_by=["Ada"], approved_plan=hash_of(first))
    assert (first.returncode, done.returncode) == (4, 0), done.stderr
    halted, repaired = archive.list_entries(broken.folder)
    assert set(halted.files) == {"notebook.ipynb", "report.html", "journal.jsonl", "conflicts.jsonl"}
    assert set(repaired.files) == {*halted.files, "root_cause.md"}
    assert '"item": "' in (report(done).parent / "conflicts.jsonl").read_text("utf-8")
    assert verification.verify_archive(alone(broken.folder, broken.folder / "alone")).problems == ()


def test_without_a_name_nothing_happens(broken: Situation) -> None:
    """Refused, exit code 4, before anything is written: no isolation, no freeze, no copy, the version serves on."""
    done = run(RUNBOOK)
    assert done.returncode == 4 and writes(broken) == []
    told_once(done.stderr, "approval-missing")
    assert broken.alias()["FunctionVersion"] == "2" and not isolated(broken)


@pytest.mark.whole
def test_a_repair_that_nobody_agreed_to_leaves_buddy_off(broken: Situation) -> None:
    """Another plan's hash, or none: refused, exit code 4; no item was written, and the error says what stands."""
    before = table(broken)
    for given in ({}, {"approved_plan": "p000000000000"}):
        done = run(RUNBOOK, approved_by=["Ada"], **given)
        assert done.returncode == 4
        told_once(done.stderr, "approval-void" if given else "approval-missing")
        assert "No item was written. The isolation and the freeze are active." in done.stderr
    assert table(broken) == before and isolated(broken)
    assert "TransactWriteItems" not in writes(broken)


@pytest.mark.whole
def test_a_table_that_cannot_be_restored_is_stopped_all_the_same(broken: Situation) -> None:
    """The failure path: without point-in-time recovery the traffic goes back and deployments are frozen, Buddy is on,
    and the corrupted items are listed; exit code 1, since they stay corrupted."""
    off = {"PointInTimeRecoveryEnabled": False}
    broken.client("dynamodb").update_continuous_backups(
        TableName="buddy-reminders-sandbox", PointInTimeRecoverySpecification=off
    )
    before = table(broken)
    done = run(RUNBOOK, approved_by=["Ada"])
    assert done.returncode == 1
    told_once(done.stderr, "table-unrecoverable")
    assert "has no point-in-time recovery" in done.stderr and "Nothing is isolated" in done.stderr
    assert broken.alias()["FunctionVersion"] == "1" and not isolated(broken) and table(broken) == before
    assert len(parameters(broken, "freeze")) == 1
    kept = report(done).parent
    listed = [json.loads(line)["item"] for line in (kept / "conflicts.jsonl").read_text("utf-8").splitlines()]
    assert [each.split("/")[1] for each in listed] == ["reminder-000001", "reminder-000002"]
    assert (kept / "root_cause.md").exists()


@pytest.mark.whole
def test_a_restore_that_fails_leaves_the_damage_stopped(broken: Situation) -> None:
    """AWS refuses the copy: exit code 1; the traffic is away, Buddy is off, and the next run goes on from there."""
    broken.ask("chaos", kind="denied", operation="RestoreTableToPointInTime", times=99)
    done = run(RUNBOOK, approved_by=["Ada"])
    assert done.returncode == 1
    told_once(done.stderr, "access-denied")
    assert broken.alias()["FunctionVersion"] == "1" and isolated(broken)
    broken.ask("chaos")
    again = run(RUNBOOK, approved_by=["Ada"])
    last = run(RUNBOOK, approved_by=["Ada"], approved_plan=hash_of(again))
    assert last.returncode == 0, last.stderr
    assert all(each["at"]["S"] for each in table(broken).values()) and not isolated(broken)


def test_a_dry_run_shows_both_plans_and_writes_nothing(broken: Situation) -> None:
    """Every cell runs, and nothing is written."""
    done = run(RUNBOOK, dry_run=True)
    assert done.returncode == 0, done.stderr
    assert writes(broken) == [] and "Dry run: nothing was compared" in str(
        executed(report(done).parent / "notebook.ipynb")
    )


@pytest.mark.whole
def test_the_function_can_be_pointed_at_the_copy(broken: Situation) -> None:
    """The README's way to switch tables: stopped with writes denied, the freeze lifted, the variable shipped at once."""
    done = run(RUNBOOK, isolate="writes", approved_by=["Ada"])
    assert done.returncode == 4 and not isolated(broken)
    before = table(broken)
    with closing(broken.connect("freeze")) as mine:
        assert [freezes.remove_freeze(mine, each.id) for each in freezes.active_freezes(mine)] == [True]
        copy = containment.plan_containment(mine, version="2").copy
    given = {"variables": {"REMINDERS_TABLE": copy}, "watch_minutes": 0, "approved_by": ["Ada"]}
    # $LATEST has the code that corrupts: what serves is given.
    shipped = run("strategies/all_at_once", artifact=broken.build("good", "1.0.0"), **given)
    assert shipped.returncode == 0, shipped.stderr
    assert broken.alias()["FunctionVersion"] == "3"
    held = len(table(broken, copy))
    say(broken, "SetReminderIntent", medication="aspirin", time="08:00")
    assert len(table(broken, copy)) == held + 1 and table(broken) == before
    assert all(each["at"]["S"] for each in table(broken, copy).values())
