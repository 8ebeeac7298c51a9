"""The review of an incident: timeline, figures and the draft of a post-mortem, from archived runs and CloudWatch.

Nothing is guessed: what neither source has is None in the figures and a question in the draft. Where CloudWatch has
deleted its data, the archive alone is enough. The date of a review is parsed and stored here, too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from buddy_ops.aws import checklist_store
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.journal import iso_utc, read_journal
from buddy_ops.core.text import (
    MINUTE,
    count,
    date_and_time,
    duration,
    exact_percent,
    floor_minute,
    percent,
)
from buddy_ops.health import alarms, metrics, monitor
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import MALFORMED, MinuteRow
from buddy_ops.incidents import timeline
from buddy_ops.incidents._templates import render
from buddy_ops.incidents.timeline import Fields, TimelineEvent, parse_moment
from buddy_ops.runs import archive
from buddy_ops.runs.manifest import ManifestEntry
from buddy_ops.runs.stores import JOURNAL

REVIEW_WITHIN = timedelta(hours=24)
"""Source: the deployment guide, 'Emergencies': review within 24 hours."""

LONGEST_WINDOW = timedelta(days=7)
WINDOW_MARGIN = timedelta(minutes=30)
"""Time shown before the first and after the last run of a named incident."""

BUDGET_DAYS = 30
FEWEST_FAILURES = 3
"""Failed requests in one minute that can start an incident. Fewer may be chance at low traffic."""

REVIEW_RUNBOOK = "review/incident_review"
RESPONSE_RUNBOOKS = (
    "emergency/deployment_failure",
    "emergency/data_corruption",
    "rollback/immediate",
    "rollback/gradual",
    "rollback",
)
"""Runbooks that a person opens once an incident is known."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class IncidentFigures:
    """Times and costs of an incident; None where nothing is recorded.

    Attributes:
        onset: the first minute with too many failed requests.
        requests: requests since the onset, and ``failed`` the failed ones of them.
        budget: the share of 30 days' error budget that was used, 0..1 or more.
        review_due: the stored review date, and ``reviewed`` the first review.
    """

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
        """Whether the review was in time."""
        if self.review_due is None:
            return "no date was set"
        due = f"due by {date_and_time(self.review_due)}"
        if self.reviewed is None:
            return f"PENDING: {due}"
        result = "OK"
        if self.reviewed > self.review_due:
            result = "LATE"
        return f"{result}: {due}, reviewed {date_and_time(self.reviewed)}"

    def time_to(self, event: datetime | None) -> str:
        """The time from the onset to an event."""
        if self.onset is None or event is None:
            return UNKNOWN
        return duration(max(timedelta(), event - self.onset))

    def rows(self) -> Iterator[tuple[str, str]]:
        """Each figure's name and text."""
        onset = UNKNOWN
        if self.onset is not None:
            onset = date_and_time(self.onset)
        yield "onset", onset
        yield "time to detect", self.time_to(self.detected)
        yield "time to decide", self.time_to(self.decided)
        yield "time to mitigate", self.time_to(self.mitigated)
        failed = f"{self.failed:,} of {self.requests:,}"
        if self.requests:
            failed += f" ({percent(self.failed / self.requests)})"
        yield "failed requests", failed
        used = UNKNOWN
        if self.budget is not None:
            used = f"{percent(self.budget)} of {BUDGET_DAYS} days"
        yield "error budget used", used
        yield "review within 24 h", self.review


@dataclass(frozen=True)
class IncidentReview:
    """Everything that is recorded of an incident. ``troubles`` say what could not be read; ``questions`` are the
    project's own (``incident_questions``)."""

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
    questions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The incident's name, or the day it began."""
        return self.incident or f"{self.since:%Y-%m-%d}"

    @property
    def people(self) -> list[str]:
        """Everybody who is named in a run's manifest."""
        return sorted({name for run in self.runs for name in run.people})

    def timeline(self) -> str:
        """The timeline as a Markdown table."""
        return render("timeline", review=self)

    def _repr_markdown_(self) -> str:
        return render("summary", review=self)


def review_incident(target: Target, since: str, until: str, incident: str = "", where: str = "") -> IncidentReview:
    """Collect what is recorded of an incident. This counts as its review, unless there was an earlier one.

    Args:
        since: start of the window, ISO 8601; empty: half an hour before the first run with the incident's name.
        until: its end; empty: half an hour after the last of these runs.
        incident: its name: runs with this name belong to it, whenever they were.
        where: the archive; empty: the environment's, or runs/.

    AWS: cloudwatch:DescribeAlarmHistory, DescribeAlarms, GetMetricData, ListMetrics, lambda:GetAlias, logs:StartQuery,
    GetQueryResults, reads only.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    store = archive.open_store(where or target.settings.archive.where, target.environment)
    # Sessions that are not archived yet, and runs in progress, belong to the incident, too; this run itself does not.
    found = [(entry, there) for entry, there in archive.list_with_unfinished(store) if entry.run != target.run]
    # Other environments may share the archive.
    entries = [entry for entry, _ in found if entry.environment == target.environment]
    places = {entry.folder: there for entry, there in found}
    # The window, the runs in it or with the incident's name, their records as events, then alarms and minutes.
    begin, end = _window(since, until, [entry for entry in entries if incident and entry.incident == incident])
    reviews = [entry for entry in entries if entry.runbook == REVIEW_RUNBOOK and _reviews(entry, since, incident)]
    responses = [entry for entry in entries if entry.runbook != REVIEW_RUNBOOK]
    runs = [entry for entry in responses if _belongs(entry, begin, end, incident)]
    records: list[Fields] = []
    events: list[TimelineEvent] = []
    for entry in runs:
        journal = read_journal(places[entry.folder].read(f"{entry.folder}/{JOURNAL}") or b"")
        records += journal
        events += timeline.timeline_events(journal, entry.run, entry.runbook)
    alarm_events, alarm_trouble = _alarm_events(target, begin, end)
    # A review date is stored for a time after the window.
    events = [event for event in events + alarm_events if begin <= event.at <= end or event.kind == "review-due"]
    events = timeline.merge_in_order(events)
    rows, rows_trouble = _minute_rows(target, begin, end, records)
    reviewed = min((at for entry in reviews if (at := parse_moment(entry.began))), default=target.clock.now())
    target.journal.append("reviewed", incident=incident, runs=len(runs), events=len(events))
    no_runs = ""
    if not runs:
        no_runs = f"{store.where} has no archived run of this window"
    return IncidentReview(
        incident=incident,
        resource=target.resource,
        environment=target.environment,
        since=begin,
        until=end,
        runs=tuple(runs),
        events=tuple(events),
        rows=rows,
        figures=compute_figures(events, rows, target.settings.health.error_rate, reviewed),
        troubles=tuple(filter(None, (alarm_trouble, rows_trouble, no_runs))),
        questions=target.settings.incident_questions,
    )


def compute_figures(
    events: Sequence[TimelineEvent], rows: Sequence[MinuteRow], limit: float, reviewed: datetime | None
) -> IncidentFigures:
    """The figures, from events and counts. Pure.

    Args:
        events: oldest first.
        rows: minutes, oldest first.
        limit: the share of requests that may fail.
        reviewed: when the incident was first reviewed.
    """
    # The counts say when users were affected first; an alarm or a person comes later.
    onset = next((row.at for row in rows if any(_too_many_failed(c, limit) for c in row.counts.values())), None)
    detected = _first(events, onset, _detects)
    requests = 0
    failed = 0
    all_requests = 0
    for row in rows:
        for counts in row.counts.values():
            all_requests += counts.requests
            if onset and row.at >= onset:
                requests += counts.requests
                failed += counts.errors
    budget = None
    if all_requests:
        # Of the failures that the limit allows in 30 days, at the traffic of this window.
        minutes = (rows[-1].at - rows[0].at) / MINUTE + 1
        budget = failed / (limit * all_requests / minutes * BUDGET_DAYS * 24 * 60)
    # An archive of an earlier release may lack the field: then no date is known.
    due_dates = (parse_moment(event.fields.get("due")) for event in events if event.kind == "review-due")
    return IncidentFigures(
        onset=onset,
        detected=detected,
        # Not before it was detected: a rollback of the day before is another incident's.
        decided=_first(events, detected or onset, _decides),
        mitigated=_first(events, detected or onset, _mitigates),
        requests=requests,
        failed=failed,
        budget=budget,
        review_due=next(filter(None, due_dates), None),
        reviewed=reviewed,
    )


def draft_post_mortem(review: IncidentReview) -> str:
    """A post-mortem in Markdown: records are filled in, and everything else is a question in italics."""
    return render("post_mortem", review=review)


def write_draft(path: str, text: str) -> None:
    """Write the draft to a new file, relative to the project; an existing file is never overwritten.

    Raises:
        Refused: ``draft-exists``.
    """
    if not path:
        return
    file = project.project_root() / path
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # "x" creates the file or fails, so that two reviews at once cannot overwrite each other.
        with file.open("x", encoding="utf-8") as draft:
            draft.write(text)
    except FileExistsError:
        raise Refused(
            "draft-exists",
            f"{path} already exists, and may contain answers.",
            now="The file was not changed.",
            next="Name another file in draft, or delete that one.",
        ) from None


# The review's date


def parse_time(name: str, text: str, *, until: datetime, after: datetime | None = None) -> datetime:
    """A parameter that is a time in ISO 8601, in UTC unless it has another offset.

    Args:
        name: the parameter's name.
        until: the latest time that is allowed; and it must be later than ``after``.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    moment = parse_moment(text)
    limits = f"up to {date_and_time(until)}"
    if after is not None:
        limits = f"after {date_and_time(after)} and {limits}"
    if moment is None or moment > until or (after is not None and moment <= after):
        raise InvalidInput(
            "invalid-parameters",
            f"{name} is {text!r}. It must be an ISO 8601 time {limits}.",
            next=f"For example {name} = {iso_utc(until)}",
        )
    return moment


@dataclass(frozen=True)
class ReviewDate:
    """When an incident is reviewed. ``ignored``: why that is not the time which was given; empty: it is."""

    at: datetime
    ignored: str = ""

    def __str__(self) -> str:
        shown = date_and_time(self.at)
        if not self.ignored:
            return shown
        return f"{shown} ({self.ignored})"

    @property
    def doubts(self) -> tuple[str, ...]:
        """For a plan's reasons."""
        return tuple(filter(None, (self.ignored,)))


def choose_review_date(target: Target, text: str) -> ReviewDate:
    """When the incident is reviewed: within the next 24 hours; at their end if ``text`` is empty or no such time.

    A wrong date must not keep traffic from being rolled back.
    """
    now = target.clock.now()
    latest = now + REVIEW_WITHIN
    if not text:
        return ReviewDate(latest)
    try:
        return ReviewDate(parse_time("review", text, after=now, until=latest))
    except InvalidInput as error:
        return ReviewDate(latest, f"the review is in 24 h: {error.what}")


def store_review_date(target: Target, due: datetime, version: str, by: Iterable[str], incident: str) -> str:
    """Store when the incident is reviewed; a failure is returned in words, because it must not stop a recovery.

    AWS: ssm:PutParameter, writes.
    """
    people = tuple(by)
    shown = date_and_time(due)
    # In the journal first: there the review finds the date, also where it could not be stored.
    target.journal.append("review-due", due=iso_utc(due), by=people, version=version, incident=incident)
    if target.dry_run:
        return f"Dry run: the review date {shown} was not stored."
    says = f"due by {iso_utc(due)}"
    if incident:
        says += f", incident {incident}"
    item = ChecklistItem("reviewed", "no", says, ", ".join(people))
    result = ChecklistResult(
        checklist="review",
        subject=f"v{version}",
        at=target.clock.now(),
        run=target.run,
        principal=target.principal,
        items=(item,),
    )
    try:
        checklist_store.write_result(target, result)
    except (AwsFailed, Refused) as failure:
        return f"The review date {shown} was NOT STORED: {failure.what}"
    return f"Review due by {shown}. Open {REVIEW_RUNBOOK} before that."


# What belongs to the incident


def _window(since: str, until: str, named: Sequence[ManifestEntry]) -> tuple[datetime, datetime]:
    """The window that was asked for, or the one around the runs with the incident's name."""
    times = [
        at
        for entry in named
        if entry.runbook != REVIEW_RUNBOOK
        for at in (parse_moment(entry.began), parse_moment(entry.ended))
        if at
    ]
    if times:
        since = since or str(min(times) - WINDOW_MARGIN)
        until = until or str(max(times) + WINDOW_MARGIN)
    begin = parse_moment(since)
    end = parse_moment(until)
    if begin is None or end is None or not timedelta() < end - begin <= LONGEST_WINDOW:
        raise InvalidInput(
            "invalid-parameters",
            f"The window is {since!r} to {until!r}. Both must be ISO 8601 times, at most {LONGEST_WINDOW.days} days "
            "apart.",
            next=f"For example {parameter('since', '2026-11-22T03:00Z')} and "
            f"{parameter('until', '2026-11-22T05:00Z')}, or {parameter('incident', 'NAME')}, a name that runs have.",
        )
    return floor_minute(begin), end


def _belongs(entry: ManifestEntry, begin: datetime, end: datetime, incident: str) -> bool:
    if incident and entry.incident == incident:
        return True
    began = parse_moment(entry.began)
    ended = parse_moment(entry.ended)
    # A run that overlaps with the window at either end belongs to it.
    return began is not None and ended is not None and began <= end and ended >= begin


def _reviews(entry: ManifestEntry, since: str, incident: str) -> bool:
    if incident:
        return entry.incident == incident
    # Without a name an incident is known by its window only: an earlier review had the same beginning.
    return entry.parameters.get("since") == since


def _alarm_events(target: Target, begin: datetime, end: datetime) -> tuple[list[TimelineEvent], str]:
    """Every change of an alarm of this environment, without our own tests; and what could not be read."""
    events: list[TimelineEvent] = []
    try:
        is_own = alarms.own_names(target)
        for change in alarms.read_state_changes(target, begin, end):
            fields = {"alarm": change.alarm, "state": change.state, "reason": change.reason}
            # A test alarm is no alarm of an incident.
            if is_own(change.alarm) and change.reason != alarms.TEST:
                events.append(TimelineEvent(change.at, "alarm", fields))
    except BuddyError as error:
        return events, f"alarm history: {error.what}"
    except MALFORMED as error:
        return events, f"alarm history: CloudWatch's reply is malformed: {error}"
    return events, ""


def _minute_rows(
    target: Target, begin: datetime, end: datetime, records: Iterable[Fields]
) -> tuple[tuple[MinuteRow, ...], str]:
    """The window's minutes from CloudWatch, or from the journals where CloudWatch has none any more."""
    try:
        window = monitor.read_window(target, (end - begin) / MINUTE, end.isoformat())
        # CloudWatch keeps minutes for 15 days: of an older incident only the
        # journals have them. Source: CloudWatch user guide, metrics retention.
        if any(counts.requests for row in window.rows for counts in row.counts.values()):
            return window.rows, "; ".join(window.troubles)
        trouble = "CloudWatch has no requests in this window (any more)"
    except BuddyError as error:
        trouble = f"CloudWatch metrics of this window could not be read: {error.what}"
    known: dict[datetime, MinuteRow] = {}
    for record in records:
        if record.get("kind") == "minutes" and isinstance(record.get("rows"), list):
            for row in metrics.rows_from_json(record["rows"]):
                # The last reading is the most complete one; a run may have read other versions of the same minute.
                before = known.get(row.at, MinuteRow(row.at, {}))
                known[row.at] = MinuteRow(row.at, before.counts | row.counts, before.p99_ms | row.p99_ms)
    rows = tuple(known[at] for at in sorted(known) if begin <= at <= end)
    return rows, f"{trouble}; {count(len(rows), 'minute')} from the archived journals"


# What an event means for the figures


def _too_many_failed(counts: Counts, limit: float) -> bool:
    return counts.errors >= FEWEST_FAILURES and counts.errors > limit * counts.requests


def _first(
    events: Iterable[TimelineEvent], after: datetime | None, matches: Callable[[TimelineEvent], bool]
) -> datetime | None:
    for event in events:
        if matches(event) and (after is None or event.at >= after):
            return event.at
    return None


def _detects(event: TimelineEvent) -> bool:
    opened = event.kind == "opened" and event.runbook in RESPONSE_RUNBOOKS
    return opened or _is_alarm(event) or _is_rollback_verdict(event)


def _decides(event: TimelineEvent) -> bool:
    # An approved rollout is no decision about an incident; an approved rollback or containment is.
    if event.kind == "approved":
        return event.runbook.startswith(("rollback", "emergency/data_corruption"))
    return event.kind in ("decided", "ordered") or _is_rollback_verdict(event)


def _mitigates(event: TimelineEvent) -> bool:
    if event.kind == "rollback":
        # 'already': the traffic was there before, so this run changed nothing.
        return event.fields.get("already") is not True
    return event.kind in ("taken-back", "isolated")


def _is_alarm(event: TimelineEvent) -> bool:
    return event.kind == "alarm" and event.fields.get("state") == "ALARM"


def _is_rollback_verdict(event: TimelineEvent) -> bool:
    return event.kind == "observed" and event.fields.get("decision") == "rollback"


def chart_mark(event: TimelineEvent) -> str:
    """The label of an event in the chart; '' for an event that is not marked."""
    if _is_alarm(event):
        return "alarm"
    if event.kind in ("taken-back", "rollback") and _mitigates(event):
        return "rolled back"
    weight = event.fields.get("weight")
    if event.kind == "shifted" and isinstance(weight, (int, float)):
        return f"{event.fields.get('to', UNKNOWN)} {exact_percent(weight)}"
    if event.kind == "frozen":
        return "frozen"
    return ""
