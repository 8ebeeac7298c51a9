"""The proof of a setup: nothing is found in a right one, what is wrong is found with its cure, nothing is left."""

import io
import json
from collections.abc import Callable

import pytest

from buddy_ops.aws import checklist_store
from buddy_ops.checks import _scratch, proof, proof_report, setup
from buddy_ops.checks._probes import Proof
from buddy_ops.checks.findings import CheckContext, NotMeasured
from buddy_ops.core.text import MINUTE
from buddy_ops.runs import archive, verification
from buddy_ops.runs.stores import LocalStore, S3Store
from tests.checks import proving
from tests.cli.command_line import invoke
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]


@pytest.fixture
def here(situation: Bring) -> Situation:
    """Everything is set up."""
    found = situation("good", **proving.CALM)
    proving.set_up(found)
    return found


def test_a_right_setup_has_no_finding(here: Situation) -> None:
    """Every check and probe is OK, within ten minutes; nothing is left, and the users' alias was never written."""
    revision = here.alias()["RevisionId"]
    began = here.ask("clock")["now"]
    mine = proving.connect(here)
    found = proving.prove(mine)
    assert here.ask("clock")["now"] - began <= 600
    # The doctor asks IAM's simulator, which the sandbox has not; and the function's log is text here.
    open_ = {each.check: each.state for each in found.values() if each.state != "ok"}
    assert open_.keys() == {"permissions", "log feed"} and open_["log feed"] == "info"
    assert {probe.name for probe in proof.PROBES} | {"clean-up", "dated result"} <= found.keys()
    assert proving.left_behind(here) == []
    assert here.alias()["RevisionId"] == revision
    kept = checklist_store.newest_result(mine, setup.PROOF_RECORD, here.function)
    assert kept is not None and kept.open == () and kept.run == mine.run


def test_only_versions_that_can_serve_are_tried(here: Situation) -> None:
    """A list of versions does not have their states: each is read by itself."""
    mine = proving.connect(here)
    assert Proof(CheckContext(mine)).versions == ("1", "2")
    here.ask("set", lambda_version_state="Failed")
    with pytest.raises(NotMeasured):
        _ = Proof(CheckContext(mine)).versions


def test_a_dry_run_writes_nothing_and_says_what_it_would(here: Situation, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls, cost and time; no call of it writes."""
    since = len(here.ask("calls")["calls"])
    done = invoke(capsys, "doctor", "--prove", "--dry-run")
    assert done.code == 0
    for said in ("lambda:CreateAlias live-prove", "0.10 USD", "up to 10 min", "not changed", "Dry run"):
        assert said in done.out, said
    called = {each["operation"] for each in here.ask("calls", since=since)["calls"]}
    assert {name for name in called if not name.startswith(("Get", "List", "Describe"))} == set()


def test_without_approval_nothing_happens(
    situation: Bring, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not type the environment's name is refused with 4; so are approvers that are missing."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for words in ((), ("--yes",)):
        done = invoke(capsys, "doctor", "--prove", *words)
        assert done.code == 4 and "REFUSED" in done.err
    assert here.calls("CreateAlias", "CreateSchedule", "PutMetricAlarm") == []


def test_options_of_a_proof_need_a_proof(capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor alone writes nothing, so there is nothing to approve."""
    done = invoke(capsys, "doctor", "--yes", "--approved-by", "Ada")
    assert done.code == 2 and "--prove" in done.err


def test_what_an_interrupted_proof_left_is_swept(here: Situation) -> None:
    """By a later proof, before its own probes; also what is in the dead-letter queue, but no message of others."""
    queue = here.client("sqs").get_queue_url(QueueName="dead-letters")["QueueUrl"]
    here.client("sqs").send_message(QueueUrl=queue, MessageBody='{"Name": "live"}')
    mine = proving.connect(here)
    names = _scratch.scratch_of(mine)
    here.client("sqs").send_message(QueueUrl=queue, MessageBody=json.dumps({"Name": names.missing}))
    for name in (names.alias, "live-lease-proof"):
        here.client("lambda").create_alias(FunctionName=here.function, Name=name, FunctionVersion="1")
    assert len(proving.left_behind(here)) == 4
    found = proving.prove(mine)
    assert found["clean-up"].state == found["stale revision"].state == "ok"
    assert proving.left_behind(here) == ['{"Name": "live"}']


def test_what_cannot_be_deleted_is_told(here: Situation) -> None:
    """A problem that names it, and every other thing is deleted."""
    here.ask("chaos", kind="denied", operation="DeleteAlarms", times=100)
    found = proving.prove(proving.connect(here))
    here.ask("chaos")
    assert found["clean-up"].state == "problem" and "the alarm buddy-ops-sandbox-prove" in found["clean-up"].message
    assert proving.left_behind(here) == ["buddy-ops-sandbox-prove"]


def test_the_report_is_archived_here_and_in_the_bucket(here: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its table; what is archived verifies."""
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "runs" / "2026-11-02T0007Z-prove-sandbox-1"))
    mine = proving.connect(here)
    plan = proof.plan_proof(mine)
    approval = approve(mine, plan)
    found = list(proof.run_proof(mine, plan, approval, probes=()))
    mine.clock.sleep_until(mine.clock.now() + MINUTE)
    (told,) = proof_report.archive_report(mine, plan, approval, found, "-a\n+b")
    assert told.startswith("Archived as 2026-11-02T0007Z-prove-sandbox-1")
    page = (mine.folder / "report.html").read_text("utf-8")
    assert "clean-up" in page and "Test the setup of sandbox" in page
    local = LocalStore(mine.folder.parent)
    shelf = S3Store(mine, mine.settings.archive.where)
    for store in (local, shelf):
        (entry,) = archive.list_entries(store)
        assert entry.runbook == "doctor --prove" and entry.began == mine.journal.records[0]["at"] < entry.ended
        assert verification.verify_archive(store).problems == ()
