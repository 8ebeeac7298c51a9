"""Records as sentences, and what follows from them: no AWS, no files."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.health import metrics
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import MinuteRow
from buddy_ops.incidents import review as incident_review
from buddy_ops.incidents import timeline
from buddy_ops.incidents.timeline import TimelineEvent

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def minute(number: float) -> datetime:
    return START + timedelta(minutes=number)


ROOT = Path(__file__).parents[2]


def record(kind: str, at: float = 0, **fields: Any) -> dict[str, Any]:
    return {"seq": 1, "at": minute(at).isoformat(), "kind": kind, **fields}


def event(at: float, kind: str, runbook: str = "", **fields: Any) -> TimelineEvent:
    return TimelineEvent(minute(at), kind, fields, "a", runbook)


def observed(at: float, decision: str) -> dict[str, Any]:
    return record("observed", at, stage="1", weight=0.1, decision=decision, says="v2 fails")


def test_an_abort_is_no_approval() -> None:
    """A plan's ID with an abort in place of the approval says so; both name the people."""
    given: dict[str, Any] = {"by": ["Ada"], "plan": "p1", "title": "Deploy"}
    assert event(0, "approved", **given).says == "Ada approved plan p1: Deploy"
    assert event(0, "approved", **given, order="abort").says == "Ada aborted plan p1: Deploy"


def test_a_verdict_is_told_when_it_changes() -> None:
    """Ten minutes of 'hold' are one event; the verdict that ends it is another; reads of AWS are none."""
    records = [
        record("opened", run="7f3a", runbook="strategies/canary"),
        record("aws", call="lambda:get_alias", parameters={}),
        *(observed(at, "hold") for at in range(1, 11)),
        observed(11, "rollback"),
        record("aws", 12, call="lambda:update_alias", parameters={"FunctionVersion": "1", "Description": "{}"}),
    ]
    found = timeline.timeline_events(records)
    assert [(each.kind, each.at) for each in found] == [
        ("opened", minute(0)), ("observed", minute(1)), ("observed", minute(11)), ("aws", minute(12)),
    ]  # fmt: skip
    assert found[-1].says == 'lambda:update_alias {"FunctionVersion": "1"}' and found[0].run == "7f3a"


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("ordered", {"order": "hold"}, "operator action: pause"),
        ("observed", {"decision": "hold", "stage": "1", "says": "x"}, "verdict keep baking at stage 1: x"),
        ("decided", {"decision": "roll back", "by": ["Ada", "Grace"]}, "Ada and Grace decided: roll back"),
        ("review-due", {"due": "2026-11-23T03:00:00Z"}, "a review is due by 2026-11-23 03:00 UTC"),
        ("shifted", {"to": "v2", "weight": 0.125, "serves": "x"}, "v2 receives 12.5 %: x"),
        ("rollback", {"to": "1", "away_from": ["2"], "by": ["Ada"], "already": False},
         "rolled back to v1 from v2, approved by Ada"),
        ("recovery", {"says": "Recovered", "requests": 1200, "failed": 1}, "Recovered: 1 of 1,200 requests failed"),
        ("lifted", {"other": 1}, 'lifted: {"other": 1}'),
        ("cold-starts", {"minute": "2026-11-23T03:00:00Z", "counts": {"1": [54, 0, 0, 0], "2": [6, 3, 4, 2]}},
         "slow requests that were cold starts, and are not judged: v2 2 of 3"),
        ("record-restored", {"found": "v1", "description": "by hand", "serves": "v1"},
         "the alias was edited without a change of its traffic (v1): the record was written again"),
        ("of another release", {"x": 1}, 'of another release: {"x": 1}'),
    ],
)  # fmt: skip
def test_a_record_is_a_sentence_in_the_words_of_operators(kind: str, fields: dict[str, Any], sentence: str) -> None:
    """Internal values have their words, times and shares are readable; a record without its fields is shown as it is."""
    assert timeline.describe_record(kind, fields) == sentence


def test_calls_of_one_operation_are_told_as_one() -> None:
    """A hundred writes of a repair are a line; another run's, another operation's and a later one are not."""
    write, shift = ({"call": f"dynamodb:{each}_items", "parameters": {}} for each in ("transact_write", "batch_write"))
    records = [record("aws", at / 100, **write) for at in range(100)]
    records += [record("aws", 1, **shift), record("aws", 1, **write), record("aws", 9, **write)]
    says = [each.says for each in timeline.timeline_events(records)]
    one = "dynamodb:transact_write_items"
    assert says == [f"{one}, 100 times", "dynamodb:batch_write_items", one, one]
    assert len(timeline.merge_in_order([TimelineEvent(START, "aws", records[0], run) for run in ("7f3a", "91c2")])) == 2


def test_every_kind_that_is_recorded_has_its_sentence() -> None:
    """A reader of a timeline never meets a raw record of this release."""
    sources = (path.read_text("utf-8") for path in (ROOT / "buddy_ops").rglob("*.py"))
    kinds = {kind for text in sources for kind in re.findall(r'journal\.append\(\s*"([a-z-]+)"', text)}
    assert len(kinds) > 30 and kinds - set(timeline.SENTENCES) - timeline.NO_EVENTS == set()


@pytest.mark.parametrize(
    "records",
    [
        [{}],
        [{"kind": "shifted", "at": "2026-11-22T03:00:00Z"}],
        [{"kind": "rollback", "at": "2026-11-22T03:00:00Z", "by": 7, "away_from": None}],
        [{"kind": "outcome", "at": "soon"}],
        [{"kind": None, "at": None}],
    ],
)
def test_a_record_of_another_make_stops_nothing(records: list[dict[str, Any]]) -> None:
    """What lacks its fields is told as it stands; what lacks a time is left out."""
    assert all(isinstance(each.says, str) for each in timeline.timeline_events(records))


def test_minutes_survive_the_journal() -> None:
    """Rows that were journaled come back as they were; what is no row is left out, and empty minutes are not kept."""
    rows = [MinuteRow(minute(n), {"1": Counts(600, n, 2, 1), "2": Counts()}, {"1": 812.5}) for n in range(3)]
    kept = metrics.rows_to_json([*rows, MinuteRow(minute(3), {"1": Counts()})])
    assert list(metrics.rows_from_json([*kept, ["soon", {}], [], None, [minute(4).isoformat(), {"1": [1]}]])) == rows  # type: ignore[list-item]


def rows(failing_from: int, failing_until: int, length: int = 60) -> list[MinuteRow]:
    """600 requests a minute, of which 60 fail in between."""
    return [
        MinuteRow(minute(n), {"1": Counts(600, 60 if failing_from <= n < failing_until else 1)}) for n in range(length)
    ]  # fmt: skip


def test_the_figures_of_an_incident() -> None:
    """Onset by the counts; detected by the alarm, decided by the approval, mitigated by the rollback; cost by the counts."""
    events = [
        event(5, "alarm", alarm="fn-error-rate", state="ALARM", reason="an old one"),
        event(12, "alarm", alarm="fn-error-rate", state="OK", reason="is ALARM no more"),
        event(13, "alarm", alarm="fn-error-rate", state="ALARM", reason="2 datapoints"),
        event(16, "opened", "rollback/immediate"),
        event(17, "approved", "rollback/immediate", by=["Ada"], plan="p1", title="Roll back"),
        event(18, "rollback", "rollback/immediate", to="1", away_from=["2"], by=["Ada"], already=False),
        event(19, "rollback", "rollback/immediate", to="1", away_from=[], by=["Ada"], already=True),
        event(20, "review-due", due=minute(1440).isoformat()),
    ]
    figures = incident_review.compute_figures(events, rows(10, 20), 0.01, minute(600))
    assert (figures.onset, figures.detected) == (minute(10), minute(13))
    assert (figures.decided, figures.mitigated) == (minute(17), minute(18))
    assert figures.failed == 10 * 60 + 40 and figures.requests == 50 * 600
    assert figures.budget == pytest.approx(640 / (0.01 * 600 * 60 * 24 * 30))
    assert figures.review.startswith("OK:")
    late = incident_review.compute_figures(events, rows(10, 20), 0.01, minute(1441))
    assert late.review.startswith("LATE:")


def test_what_nothing_tells_is_unknown() -> None:
    """No counts and no events: every figure says that it is unknown, and none is made up."""
    figures = dict(incident_review.compute_figures([], [], 0.01, None).rows())
    assert figures["onset"] == figures["time to detect"] == figures["time to mitigate"] == "unknown"
    assert figures["error budget used"] == "unknown" and figures["review within 24 h"] == "no date was set"


def test_a_canarys_own_verdict_detects_and_decides() -> None:
    """Where the judge took the traffic back, nobody had to notice and nobody had to decide."""
    events = [
        event(14, "observed", "strategies/canary", stage="1", decision="rollback", says="v2 fails"),
        event(14, "taken-back", "strategies/canary", version="2", serves="100 % v1", reasons=[]),
    ]
    figures = incident_review.compute_figures(events, rows(10, 14), 0.01, None)
    assert figures.detected == figures.decided == figures.mitigated == minute(14)


@pytest.mark.parametrize(
    ("kind", "fields", "ending"),
    [
        (
            "taken-back",
            {"version": "2", "serves": "100 % v1", "reasons": [], "ending": "aborted"},
            "ABORTED by operator",
        ),
        ("taken-back", {"version": "2", "serves": "100 % v1", "reasons": []}, "ROLLED BACK"),
        ("shifted", {"to": "v2", "stage": "rolled-back", "weight": 0.0, "serves": "100 % v1"}, "ROLLED BACK gradually"),
    ],
)
def test_a_run_that_was_lost_after_its_rollback_has_its_ending(kind: str, fields: dict[str, Any], ending: str) -> None:
    """Killed while it counts the last requests, it records no outcome: the review has the ending all the same, once."""
    lost = [record("shifted", 12, to="v2", stage="1", weight=0.1, serves=""), record(kind, 14, **fields)]
    said = [each.says for each in timeline.timeline_events(lost)]
    assert said[-1] == f"rollout of v2 ended: {ending}. Its run stopped before the last requests were counted."
    outcome = record("outcome", 18, ending="rolled-back", new="2", reasons=[], failed={}, requests={})
    kinds = [each.kind for each in timeline.timeline_events([*lost, outcome])]
    assert kinds == ["shifted", kind, "outcome"]
    assert [each.kind for each in timeline.timeline_events(lost[:1])] == ["shifted"]


def test_an_idle_rollback_is_no_mitigation_however_long_its_sentence_is() -> None:
    """The fields decide, not the sentence: one of 300 characters that was cut once made a rollback of nothing the end."""
    many = [str(version) for version in range(100, 200)]
    idle = {"to": "1", "away_from": many, "by": ["Ada"], "already": True}
    events = timeline.timeline_events([
        record("rollback", 12, **idle),
        record("rollback", 18, **idle | {"already": False}),
    ])  # fmt: skip
    assert all(len(each.says) <= 300 for each in events)
    assert incident_review.compute_figures(events, rows(10, 20), 0.01, None).mitigated == minute(18)
    assert [incident_review.chart_mark(each) for each in events] == ["", "rolled back"]


def test_an_archive_that_lacks_a_field_gives_unknown() -> None:
    """A review's date or an alarm's state that was not recorded is not read from a sentence."""
    events = [event(12, "alarm", says="fn is ALARM"), event(13, "review-due", says=f"by {minute(1440).isoformat()}")]
    figures = incident_review.compute_figures(events, rows(10, 20), 0.01, minute(20))
    assert figures.detected is None and figures.review == "no date was set"


def test_who_stops_damage_decides_and_mitigates() -> None:
    """The approval of the stop is the decision; the damage ends with the isolation, whoever served then."""
    events = [
        event(14, "approved", "emergency/data_corruption", by=["Ada"], plan="p1", title="Stop v2"),
        event(15, "isolated", "emergency/data_corruption", how="function", table="reminders"),
    ]
    figures = incident_review.compute_figures(events, rows(10, 14), 0.01, None)
    assert (figures.decided, figures.mitigated) == (minute(14), minute(15))


def test_hostile_text_does_no_harm() -> None:
    """Markup, links, pipes and backticks from a journal are text in every table."""
    says = "<script>alert(1)</script> | [x](javascript:alert(1)) ![y](http://evil/) `z` **b**\n# heading"
    events = (event(0, "told", text=says, reached=[], troubles=[]), event(1, says, **{says: says}))
    figures = incident_review.compute_figures([], [], 0.01, None)
    found = incident_review.IncidentReview(says, "fn:live", says, START, START, (), events, (), figures, (says,))
    for text in (found.timeline(), incident_review.draft_post_mortem(found), found._repr_markdown_()):
        assert "<script" not in text and not re.search(r"(?<!\\)\]\(", text) and "\n# heading" not in text
