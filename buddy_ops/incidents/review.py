"""An incident, put together afterwards: timeline, figures, picture, and the draft of a post-mortem.

Knows the archived runs and what CloudWatch still has of the window. Never guesses: what neither tells is asked of
people in the draft. It works from the archive alone.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.health import alarms, metrics, monitor
from buddy_ops.health.judge import Counts
from buddy_ops.health.metrics import MALFORMED, MINUTE, MinuteRow
from buddy_ops.incidents import timeline
from buddy_ops.incidents.timeline import TimelineEvent, parse_moment
from buddy_ops.runs import archive
from buddy_ops.runs.archive import JOURNAL, ManifestEntry

LONGEST = timedelta(days=7)
AROUND = timedelta(minutes=30)
BUDGET_DAYS = 30
FEWEST_FAILURES = 3
"""So many failures in a minute, and more than the objective allows, are where an incident begins."""

REVIEW = "review/incident_review"
CAUSES = (
    "emergency/deployment_failure",
    "emergency/data_corruption",
    "rollback/immediate",
    "rollback/gradual",
    "rollback",
)
"""Runbooks that a person opens because something burns."""


@dataclass(frozen=True)
class IncidentFigures:
    """When things happened, None where nothing tells; and what it cost. ``budget`` is the share of 30 days' budget."""

    onset: datetime | None
    detected: datetime | None
    decided: datetime | None
    mitigated: datetime | None
    requests: int
    failed: int
    budget: float | None
    review_due: datetime | None
    reviewed: datetime | None

    @property
    def review(self) -> str:
        """Whether the review's date was kept."""
        if self.review_due is None:
            return "no date was set"
        if self.reviewed is None:
            return f"not reviewed yet; due by {_when(self.review_due)}"
        kept = "kept" if self.reviewed <= self.review_due else "NOT kept"
        return f"{kept}: due by {_when(self.review_due)}, reviewed {_when(self.reviewed)}"

    def rows(self) -> Iterator[tuple[str, str]]:
        """Each figure's name and text."""
        yield "began", _when(self.onset)
        for name, at in (("detect", self.detected), ("decide", self.decided), ("mitigate", self.mitigated)):
            yield f"time to {name}", _took(self.onset, at)
        share = f" ({100 * self.failed / self.requests:.2g} %)" if self.requests else ""
        yield "failed requests", f"{self.failed:,} of {self.requests:,}{share}"
        yield (
            "share of the error budget",
            "unknown" if self.budget is None else f"{100 * self.budget:.2g} % of {BUDGET_DAYS} days'",
        )
        yield "review within 24 hours", self.review


@dataclass(frozen=True)
class IncidentReview:
    """Everything that is known of an incident. ``troubles`` say what could not be read."""

    incident: str
    resource: str
    environment: str
    since: datetime
    until: datetime
    runs: tuple[ManifestEntry, ...]
    events: tuple[TimelineEvent, ...]
    rows: tuple[MinuteRow, ...]
    figures: IncidentFigures
    troubles: tuple[str, ...]

    def _repr_markdown_(self) -> str:
        return "\n".join(
            (*_table(("figure", ""), self.figures.rows()), "", *(f"- {_safe(each)}" for each in self.troubles))
        )

    def timeline(self) -> str:
        """The timeline as a Markdown table."""
        rows = ((f"{e.at:%m-%d %H:%M:%S}", e.kind, e.says, f"{e.runbook} {e.run}".strip()) for e in self.events)
        return "\n".join(_table(("UTC", "what", "", "run"), rows))


def review_incident(target: Target, since: str, until: str, incident: str = "", where: str = "") -> IncidentReview:
    """Put an incident together; this counts as its review, unless it was reviewed before.

    Args:
        since: where its window begins, ISO 8601; empty: half an hour before the first run that carries its name.
        until: where it ends; empty: half an hour after the last one.
        incident: its name: runs that carry it belong to it, whenever they were.
        where: the archive; empty: the environment's, or runs/.

    AWS: cloudwatch:DescribeAlarmHistory, GetMetricData, ListMetrics, lambda:GetAlias, logs:StartQuery, GetQueryResults,
    reads only.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    shelf = archive.open_store(where or target.settings.archive.where, target.environment)
    every = [each for each in archive.list_entries(shelf) if each.environment == target.environment]
    begin, end = _window(since, until, [each for each in every if incident and each.incident == incident])
    earlier = [each for each in every if each.runbook == REVIEW and _reviews(each, since, incident)]
    ours = tuple(each for each in every if each.runbook != REVIEW and _belongs(each, begin, end, incident))
    records = {each.folder: _records(shelf.read(f"{each.folder}/{JOURNAL}")) for each in ours}
    told = [event for each in ours for event in timeline.timeline_events(records[each.folder], each.run, each.runbook)]
    rung, unheard = _alarms(target, begin, end)
    during = (each for each in (*told, *rung) if begin <= each.at <= end or each.kind == "review-due")
    seen = timeline.merge_in_order(during)
    rows, unread = _rows(target, begin, end, (record for own in records.values() for record in own))
    reviewed = min((at for each in earlier if (at := parse_moment(each.began))), default=target.clock.now())
    figures = compute_figures(seen, rows, target.settings.health.error_rate, reviewed)
    target.journal.append("reviewed", incident=incident, runs=len(ours), events=len(seen))
    alone = "" if ours else f"no archived run of the window is in {shelf.where}"
    troubles = tuple(filter(None, (unheard, unread, alone)))
    where_ = (target.resource, target.environment)
    return IncidentReview(incident, *where_, begin, end, ours, tuple(seen), rows, figures, troubles)


def compute_figures(
    events: Sequence[TimelineEvent], rows: Sequence[MinuteRow], bound: float, reviewed: datetime | None
) -> IncidentFigures:
    """The figures, from what happened and what was counted. Pure.

    Args:
        events: oldest first.
        rows: minutes, oldest first.
        bound: the share of requests that may fail.
        reviewed: when the incident was first reviewed.
    """
    onset = next((row.at for row in rows if any(_hurts(each, bound) for each in row.counts.values())), None)
    detected = _first(events, onset, _detects)
    decided = _first(events, detected or onset, _decides)
    mitigated = _first(events, detected or onset, _mitigates)
    everything = [counts for row in rows for counts in row.counts.values()]
    after = [counts for row in rows if onset and row.at >= onset for counts in row.counts.values()]
    failed, requests = sum(each.errors for each in after), sum(each.requests for each in after)
    minutes = (rows[-1].at - rows[0].at) / MINUTE + 1 if rows else 0
    month = sum(each.requests for each in everything) / minutes * BUDGET_DAYS * 24 * 60 if minutes else 0
    due = next((at for e in events if e.kind == "review-due" and (at := parse_moment(e.says.split()[-1]))), None)
    return IncidentFigures(
        onset,
        detected,
        decided,
        mitigated,
        requests,
        failed,
        failed / (bound * month) if month else None,
        due,
        reviewed,
    )


def draft_post_mortem(review: IncidentReview) -> str:
    """A post-mortem in Markdown: what is known is filled in, and what only people know is asked."""
    title = review.incident or f"{review.since:%Y-%m-%d}"
    people = sorted({who for entry in review.runs for who in entry.people})
    runs = [f"- `{entry.folder}`: {_safe(entry.runbook)}, {_safe(entry.outcome)}" for entry in review.runs]
    assessed = [f"- {_safe(event.says)}" for event in review.events if event.kind == "assessed"]
    return "\n".join(
        (
            f"# Post-mortem: {_safe(title)}",
            "",
            f"{_safe(review.resource)}, {_safe(review.environment)}, {_when(review.since)} to {_when(review.until)}.",
            f"Acted: {_safe(', '.join(people)) or 'nobody, by the archived runs'}.",
            "",
            "## Summary",
            "",
            "*In three sentences, for somebody who was not there: what happened, whom it hurt, how it ended?*",
            "",
            "## Impact",
            "",
            *_table(("figure", ""), review.figures.rows()),
            "",
            "*What did people notice? Was a reminder or a safety escalation missed? How do we know?*",
            "",
            "## Timeline",
            "",
            review.timeline(),
            "",
            *(f"Not known: {_safe(each)}\n" for each in review.troubles),
            "## Causes",
            "",
            *(assessed or ["- *Which errors did the log show?*"]),
            "- *What in the change caused it? Why did tests, review and canary let it through?*",
            "- *What made it worse, or last longer?*",
            "",
            "## What helped, and where we were lucky",
            "",
            f"- Detected after {_took(review.figures.onset, review.figures.detected)}. *By whom? Could it be sooner?*",
            f"- Mitigated after {_took(review.figures.onset, review.figures.mitigated)}. *What slowed it down?*",
            "- *What went well? What was luck?*",
            "",
            "## What we change",
            "",
            "| what | who | until |",
            "|---|---|---|",
            "| *?* | *?* | *?* |",
            "",
            "## Evidence",
            "",
            *(runs or ["- no archived run"]),
            "",
        )
    )


def write_draft(path: str, text: str) -> None:
    """Write the draft where it is wanted; one that people have begun to fill in is never overwritten.

    Raises:
        Refused: ``draft-exists``.
    """
    if not path:
        return
    file = project.project_root() / path
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as draft:
            draft.write(text)
    except FileExistsError:
        raise Refused(
            "draft-exists",
            f"{path} is there already, and people may have written into it.",
            now="It was left as it is.",
            next="Name another file in draft, or delete that one.",
        ) from None


# What belongs to it


def _window(since: str, until: str, named: Sequence[ManifestEntry]) -> tuple[datetime, datetime]:
    """The window that was asked for, or the one around the runs that carry the incident's name."""
    ran = [
        at
        for each in named
        if each.runbook != REVIEW
        for at in (parse_moment(each.began), parse_moment(each.ended))
        if at
    ]
    if ran:
        since, until = since or str(min(ran) - AROUND), until or str(max(ran) + AROUND)
    begin, end = parse_moment(since), parse_moment(until)
    if begin is None or end is None or not timedelta() < end - begin <= LONGEST:
        raise InvalidInput(
            "invalid-parameters",
            f"since {since!r}, until {until!r}: two times are wanted, at most {LONGEST.days} days apart.",
            now="Nothing was read.",
            next="For example since=2026-11-22T03:00Z and until=2026-11-22T05:00Z; or an incident that runs name.",
        )
    return begin.replace(second=0, microsecond=0), end


def _belongs(entry: ManifestEntry, begin: datetime, end: datetime, incident: str) -> bool:
    began, ended = parse_moment(entry.began), parse_moment(entry.ended)
    named = bool(incident) and entry.incident == incident
    return named or (began is not None and ended is not None and began <= end and ended >= begin)


def _reviews(entry: ManifestEntry, since: str, incident: str) -> bool:
    return entry.incident == incident if incident else entry.parameters.get("since") == since


def _records(journal: bytes | None) -> list[dict[str, Any]]:
    """A journal's records; a line that was torn is none."""
    found = []
    for line in (journal or b"").decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found += [record] if isinstance(record, dict) else []
    return found


def _alarms(target: Target, begin: datetime, end: datetime) -> tuple[list[TimelineEvent], str]:
    """Every alarm of the function that changed its state, without our own tests; what could not be read."""
    pages = target.client("cloudwatch").get_paginator("describe_alarm_history")
    found = []
    try:
        for page in pages.paginate(HistoryItemType="StateUpdate", StartDate=begin, EndDate=end):
            for item in page["AlarmHistoryItems"]:
                state = json.loads(item["HistoryData"])["newState"]
                reason = str(state.get("stateReason", ""))
                if item["AlarmName"].startswith(target.settings.function) and reason != alarms.TEST:
                    says = f"{item['AlarmName']} is {state['stateValue']}: {reason}"
                    found.append(TimelineEvent(item["Timestamp"], "alarm", says[: timeline.SHORT]))
    except BuddyError as error:
        return found, f"which alarms went off: {error.what}"
    except MALFORMED as error:
        return found, f"which alarms went off: CloudWatch's answer cannot be read: {error}"
    return found, ""


def _rows(
    target: Target, begin: datetime, end: datetime, records: Iterable[dict[str, Any]]
) -> tuple[tuple[MinuteRow, ...], str]:
    """The window's minutes: CloudWatch's, where it still has them, else those that the journals kept."""
    trouble = ""
    try:
        look = monitor.read_window(target, (end - begin) / MINUTE, end.isoformat())
        if any(counts.requests for row in look.rows for counts in row.counts.values()):
            return look.rows, "; ".join(look.troubles)
        trouble = "CloudWatch has no requests in the window (any more)"
    except BuddyError as error:
        trouble = f"CloudWatch has forgotten the window, or cannot be read: {error.what}"
    kept: dict[datetime, MinuteRow] = {}
    for record in records:
        if record.get("kind") == "minutes" and isinstance(record.get("rows"), list):
            for row in metrics.rows_from_json(record["rows"]):
                # What was read last is most complete; a minute may be known of more versions by one run than another.
                before = kept.get(row.at, MinuteRow(row.at, {}))
                kept[row.at] = MinuteRow(row.at, before.counts | row.counts, before.p99_ms | row.p99_ms)
    rows = tuple(kept[at] for at in sorted(kept) if begin <= at <= end)
    return rows, f"{trouble}; {len(rows)} minutes are from the archived journals"


# When it was what


def _hurts(counts: Counts, bound: float) -> bool:
    return counts.errors >= FEWEST_FAILURES and counts.errors > bound * counts.requests


def _first(events: Iterable[TimelineEvent], after: datetime | None, what: Any) -> datetime | None:
    # An event of the minute in which it began may stand a few seconds before the first count.
    return next((e.at for e in events if what(e) and (after is None or e.at >= after)), None)


def _detects(event: TimelineEvent) -> bool:
    burning = event.kind == "alarm" and " is ALARM" in event.says
    return burning or _condemns(event) or (event.kind == "opened" and event.runbook in CAUSES)


def _decides(event: TimelineEvent) -> bool:
    approved = event.kind == "approved" and event.runbook.startswith(("rollback", "emergency/data_corruption"))
    return approved or _condemns(event) or event.kind in ("decided", "ordered")


def _condemns(event: TimelineEvent) -> bool:
    return event.kind == "observed" and event.says.startswith("verdict rollback")


def _mitigates(event: TimelineEvent) -> bool:
    return event.kind in ("taken-back", "rollback", "isolated") and not event.says.endswith("(it was there)")


def chart_mark(event: TimelineEvent) -> str:
    """What stands above the picture for an event; '' for most."""
    if event.kind == "alarm":
        return "alarm" if " is ALARM" in event.says else ""
    if event.kind == "shifted":
        return event.says.partition(":")[0].replace(" got", "")
    return {"taken-back": "taken back", "rollback": "rolled back", "frozen": "frozen"}.get(event.kind, "")


def version_number(version: str) -> int:
    """A version to sort by."""
    return int(version) if version.isdecimal() else 0


# How it is written


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(map(_safe, row))} |" for row in rows)]


def _safe(text: str) -> str:
    """A text from a journal or from AWS, harmless in Markdown: no markup, no links, one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{sign}" if sign in "|`[]*_!" else sign for sign in plain)


def _when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else "unknown"


def _took(since: datetime | None, at: datetime | None) -> str:
    if since is None or at is None:
        return "unknown"
    return f"{max(0.0, (at - since) / MINUTE):.0f} minutes"
