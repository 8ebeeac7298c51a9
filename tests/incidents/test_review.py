"""An incident put together, from real runs on the sandbox: with CloudWatch, and from the archive alone."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import notifications
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.deployment import rollback
from buddy_ops.health import alarms, monitor
from buddy_ops.incidents import review as incident_review
from buddy_ops.incidents.review import IncidentReview
from buddy_ops.notebook import approvals, charts
from buddy_ops.runs import archive
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]
pytestmark = pytest.mark.xdist_group("review")


def shelve(here: Situation, run: Target, runbook: str, code: int, **facts: Any) -> None:
    """Archive a run as its supervisor would: its journal as it is, and what it was given."""
    known = {
        "v": 1, "run": run.run, "folder": run.folder.name, "runbook": runbook, "environment": run.environment,
        "began": run.journal.records[0]["at"], "ended": run.journal.records[-1]["at"], "outcome": "done",
        "exit_code": code, "people": ["Ada"], "principal": "", "incident": "", "parameters": {}, "files": {},
    }  # fmt: skip
    archive.append_to_chain(run.folder, known | facts)


def connect(here: Situation, runbook: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Target:
    """A target whose run has a folder of its own in the test's archive."""
    folder = here.folder / "archive" / f"{len(list((here.folder).glob('archive/*')))}-{runbook.replace('/', '-')}"
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(folder))
    return here.connect(runbook, **options)


@pytest.fixture(scope="module")
def history(sandbox_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Situation, str, str]]:
    """An incident, once for all tests here: they only read the account, and each has an archive of its own."""
    here = Situation(sandbox_url, "sandbox", tmp_path_factory.mktemp("incident"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox_url)
        monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "run"))
        here.ask("set", outage=None)
        here.ask("scenario", name="good", environment="sandbox", seed=7, overrides={"history_minutes": 40})
        yield roll_back_a_bad_version(here, monkeypatch)


@pytest.fixture
def burnt(
    history: tuple[Situation, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Situation, str, str]:
    """The incident, with a copy of its archive; its window."""
    there, since, until = history
    shutil.copytree(there.folder / "archive", tmp_path / "archive")
    monkeypatch.setenv("AWS_ENDPOINT_URL", there.endpoint)
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(tmp_path / "run"))
    return Situation(there.endpoint, there.environment, tmp_path), since, until


def roll_back_a_bad_version(here: Situation, monkeypatch: pytest.MonkeyPatch) -> tuple[Situation, str, str]:
    """Version 2 failed 5 % of its requests for ten minutes, an alarm rang, and Ada rolled back; the window."""
    mine = here.connect("setup")
    topic = here.client("sns").create_topic(Name="buddy-ops-sandbox")["TopicArn"]
    values = mine.settings.model_dump(mode="json") | {"alarms": {"topic_arn": topic}, "notify": {"topic_arn": topic}}
    mine = here.connect("setup", values=values)
    wanted = alarms.plan_alarms(mine)
    alarms.write_alarms(mine, wanted, approve(mine, wanted))
    since = mine.clock.now()
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    run = connect(here, "rollback/immediate", monkeypatch, values=values)
    monitor.read_window(run, 30)
    plan = rollback.plan_rollback(run, "1")
    approval = asyncio.run(approvals.request_approval(run, plan, ["Ada"]))
    rollback.run_rollback(run, plan, approval)
    notifications.announce(run, "Rolled back to v1.")
    run.journal.append("review-due", due=(run.clock.now() + timedelta(hours=24)).isoformat(), by=["Ada"])
    shelve(here, run, "rollback/immediate", 0, incident="INC-7")
    here.ask("advance", seconds=600)
    return here, since.isoformat(), run.clock.now().isoformat()


def put_together(here: Situation, since: str, until: str, name: str = "INC-7") -> IncidentReview:
    target = here.connect("incident_review", quiet=True)
    return incident_review.review_incident(target, since, until, name, str(here.folder / "archive"))


def test_everything_that_happened_stands_in_the_timeline(burnt: tuple[Situation, str, str]) -> None:
    """Alarm, opening, approval, write, rollback, message and review's date, oldest first; reads are left out."""
    review = put_together(*burnt)
    kinds = [each.kind for each in review.events]
    assert kinds.index("alarm") < kinds.index("opened") < kinds.index("approved") < kinds.index("rollback")
    assert {"aws", "told", "review-due"} <= set(kinds) and review.events == tuple(
        sorted(review.events, key=lambda each: each.at)
    )
    assert all("get_" not in each.says.split(" ")[0] for each in review.events if each.kind == "aws")
    assert review.troubles == ()


def test_a_session_that_is_not_archived_belongs_to_its_incident(burnt: tuple[Situation, str, str]) -> None:
    """Without ``runs index``: its kernel still runs, or was killed. The review writes nothing of it."""
    here, since, until = burnt
    folder = here.folder / "archive" / "session"
    folder.mkdir()
    records = [
        {"kind": "opened", "run": "5e55", "runbook": "immediate", "environment": "sandbox"},
        {"kind": "parameters", "values": {"incident": "INC-7"}},
        {"kind": "rollback", "version": "1", "already": True},
    ]
    lines = [json.dumps({"seq": number, "at": until, **each}) for number, each in enumerate(records, 1)]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    review = put_together(here, since, until)
    assert [run.folder for run in review.runs][-1] == "session"
    assert "5e55" in {event.run for event in review.events}
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]


def test_the_figures_are_the_sandboxes(burnt: tuple[Situation, str, str]) -> None:
    """Onset within two minutes of the shift; detected by the alarm after it; mitigated at the rollback; 5 % of ten minutes."""
    here, since, until = burnt
    review = put_together(here, since, until)
    figures = review.figures
    (alarm, *_) = (each.at for each in review.events if each.kind == "alarm" and "error-rate is ALARM" in each.says)
    (back,) = (each.at for each in review.events if each.kind == "rollback")
    assert figures.onset is not None and review.since + timedelta(
        minutes=1
    ) <= figures.onset <= review.since + timedelta(minutes=4)
    assert figures.detected == alarm and figures.mitigated == back
    assert figures.decided is not None and alarm < figures.decided <= back
    assert figures.failed == pytest.approx(0.05 * 600 * 11, rel=0.35)
    assert figures.budget is not None and 0.0005 < figures.budget < 0.005
    assert figures.review.startswith("OK")


def test_the_archive_alone_suffices(burnt: tuple[Situation, str, str]) -> None:
    """Where CloudWatch says nothing any more: timeline, onset, failures and picture come from the journals."""
    here, since, until = burnt
    fresh = put_together(here, since, until)
    here.ask("chaos", kind="denied", operation="GetMetricData", times=1_000_000)
    try:
        review = put_together(here, since, until)
    finally:
        here.ask("chaos")
    assert "from the archived journals" in " ".join(review.troubles)
    assert review.figures.onset == fresh.figures.onset and review.figures.mitigated == fresh.figures.mitigated
    assert 0 < review.figures.failed <= fresh.figures.failed
    drawn = charts.incident_chart(here.connect("incident_review"), review)
    assert drawn is not None and drawn.png().startswith(b"\x89PNG")
    assert "rolled back" in [text for _, text in drawn.marks]


def test_the_draft_is_filled_in_and_asks_the_rest(burnt: tuple[Situation, str, str], tmp_path: Path) -> None:
    """Figures, people and timeline stand in it; a draft that is there is never overwritten."""
    here, since, until = burnt
    text = incident_review.draft_post_mortem(put_together(here, since, until))
    assert "Post-mortem: INC-7" in text and "Responders: Ada." in text and "| time to mitigate | " in text
    assert text.count("?*") >= 8 and "is ALARM" in text and "Was a reminder or a safety escalation missed?" in text
    file = tmp_path / "post-mortem.md"
    incident_review.write_draft(str(file), text)
    assert file.read_text() == text
    with pytest.raises(Refused, match="draft-exists"):
        incident_review.write_draft(str(file), "other")
    assert file.read_text() == text


def test_only_what_belongs_to_it_is_taken(burnt: tuple[Situation, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of another environment, and of another time under another name, are not part of it."""
    here, since, until = burnt
    for facts in ({"environment": "prod"}, {"began": "2020-01-01T00:00:00Z", "ended": "2020-01-01T00:10:00Z"}):
        other = connect(here, "immediate", monkeypatch)
        shelve(here, other, "rollback/immediate", 0, incident="INC-8", **facts)
    assert len(put_together(here, since, until).runs) == 1
    assert len(put_together(here, since, until, "INC-8").runs) == 2


@pytest.mark.whole
def test_its_name_alone_finds_its_window(burnt: tuple[Situation, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour before the first run that carries it to half an hour after the last; a name that none carries: none."""
    here, *_ = burnt
    named = connect(here, "immediate", monkeypatch)
    times = {"began": "2026-11-02T03:20:00Z", "ended": "2026-11-02T03:30:00Z"}
    shelve(here, named, "rollback/immediate", 0, incident="INC-9", **times)
    found = put_together(here, "", "", "INC-9")
    assert (f"{found.since:%H:%M}", f"{found.until:%H:%M}") == ("02:50", "04:00")
    assert f"{put_together(here, '2026-11-02T03:00Z', '', 'INC-9').since:%H:%M}" == "03:00"
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        put_together(here, "", "", "INC-10")


@pytest.mark.parametrize(
    ("since", "until"),
    [("", ""), ("2026-11-22", "yesterday"), ("2026-11-22T04:00Z", "2026-11-22T03:00Z"), ("2026-01-01", "2026-02-01")],
)
def test_a_window_that_cannot_be_is_refused(situation: Bring, since: str, until: str) -> None:
    """Two times at most a week apart are wanted; nothing is read before."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        put_together(here, since, until)
    assert here.calls("GetMetricData", "DescribeAlarmHistory") == []
