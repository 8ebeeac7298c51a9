"""The events of an incident, oldest first: each is a record of a run's journal, or an alarm that changed its state.

An event keeps the record's fields, and figures are computed from those. Its sentence is rendered when it is read.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from buddy_ops.aws.clock import describe_jump
from buddy_ops.aws.errors import is_reading
from buddy_ops.core.outcome import DECISIONS, describe_ending
from buddy_ops.core.text import count, date_and_time, exact_percent, join_words, parse_utc, shorten

Fields = Mapping[str, Any]

SENTENCE_LIMIT = 300
"""Characters of a sentence in the timeline. What is cut is in the run's journal."""

NO_EVENTS = frozenset({"minutes", "parameters", "planned", "stream-history", "ticks"})
"""Kinds of records that carry measurements, parameters or fingerprints only."""

MERGE_WITHIN = timedelta(minutes=1)
"""Calls of one operation that follow each other within this time are one event."""


@dataclass(frozen=True)
class TimelineEvent:
    """One event.

    Attributes:
        kind: the record's kind, or 'alarm'.
        fields: the record; for an alarm its ``alarm`` (name), ``state`` and ``reason``.
        run: the id of the run that recorded it; '' for an alarm.
        times: how many equal calls this event includes.
    """

    at: datetime
    kind: str
    fields: Fields
    run: str = ""
    runbook: str = ""
    times: int = 1

    @property
    def says(self) -> str:
        """The event as a sentence, at most 300 characters."""
        if self.times > 1:
            return f"{self.fields['call']}, {self.times} times"
        # For readers only: figures are computed from the fields, since a sentence that was cut may say the opposite.
        return shorten(describe_record(self.kind, self.fields), SENTENCE_LIMIT)


def timeline_events(records: Iterable[Fields], run: str = "", runbook: str = "") -> list[TimelineEvent]:
    """A run's records as events, oldest first. Reads are left out, and a verdict that repeats the one before it."""
    events: list[TimelineEvent] = []
    last_verdict = None
    for record in records:
        kind = str(record.get("kind", ""))
        if kind == "opened":
            run = str(record.get("run", run))
            runbook = runbook or str(record.get("runbook", ""))
        if kind == "observed":
            # A rollout records a verdict at every poll; only its changes matter to a reader.
            verdict = (record.get("stage"), record.get("decision"))
            if verdict == last_verdict:
                continue
            last_verdict = verdict
        # Without a time it has no place in a timeline.
        at = parse_moment(record.get("at"))
        if at is not None and not _is_quiet(kind, record):
            events.append(TimelineEvent(at, kind, record, run=run, runbook=runbook))
    return merge_in_order([*events, *_unrecorded_ending(events)])


def _unrecorded_ending(events: Iterable[TimelineEvent]) -> Iterator[TimelineEvent]:
    """The ending of a rollout whose run was lost while it read on after its rollback: it has no outcome."""
    last: TimelineEvent | None = None
    for event in events:
        if event.kind in ("taken-back", "outcome") or _is_drained(event):
            last = event
    if last is None or last.kind == "outcome":
        return
    if _is_drained(last):
        fields: Fields = {"version": str(last.fields["to"]).removeprefix("v"), "ending": "drained"}
    else:
        # Records of earlier releases do not say whether the judge or an operator ended it.
        fields = {"version": last.fields.get("version"), "ending": last.fields.get("ending", "rolled-back")}
    yield replace(last, kind="ended", fields=fields)


def _is_drained(event: TimelineEvent) -> bool:
    """Whether a gradual rollback has taken its last step."""
    fields = event.fields
    last_step = (fields.get("stage"), fields.get("weight")) == ("rolled-back", 0)
    return event.kind == "shifted" and last_step and "to" in fields


def merge_in_order(events: Iterable[TimelineEvent]) -> list[TimelineEvent]:
    """Oldest first, and in the order of the records within a second. Repeated calls become one event."""
    merged: list[TimelineEvent] = []
    # Each call is compared with the call before it, not with the first one of its group: a repair writes for minutes.
    previous: TimelineEvent | None = None
    # ``sorted`` keeps the sequence of equal times, which is that of the records.
    for event in sorted(events, key=attrgetter("at")):
        if previous and _repeats(previous, event):
            merged[-1] = replace(merged[-1], times=merged[-1].times + 1)
        else:
            merged.append(event)
        previous = event
    return merged


def _repeats(previous: TimelineEvent, event: TimelineEvent) -> bool:
    return _call(previous) == _call(event) and _call(event) is not None and event.at - previous.at < MERGE_WITHIN


def _call(event: TimelineEvent) -> tuple[object, ...] | None:
    """What two calls must share to be one event; None for an event that is no call."""
    if event.kind != "aws" or "call" not in event.fields:
        return None
    # A call that failed, and the same one that was taken, are two events.
    return event.run, event.fields["call"], event.fields.get("failed")


def _is_quiet(kind: str, record: Fields) -> bool:
    return kind in NO_EVENTS or (kind == "aws" and is_reading(str(record.get("call", ""))))


def parse_moment(text: object) -> datetime | None:
    """A record's time, in UTC; None for anything else."""
    try:
        return parse_utc(str(text))
    except (ValueError, OverflowError):
        return None


def describe_record(kind: str, fields: Fields) -> str:
    """A record as a sentence. A kind or fields of another release are shown as JSON."""
    # A run on several targets says which one each record is about.
    if "target" in fields:
        rest = {name: value for name, value in fields.items() if name != "target"}
        return f"{fields['target']}: {describe_record(kind, rest)}"
    sentence = SENTENCES.get(kind)
    try:
        if callable(sentence):
            return sentence(fields)
        if sentence is not None:
            return sentence.format_map({name: _readable(name, value) for name, value in fields.items()}).strip()
    except (KeyError, TypeError, ValueError, AttributeError):
        # An archive keeps records of every release; a review must show them all.
        pass
    rest = {name: value for name, value in fields.items() if name not in ("seq", "at", "kind")}
    return f"{kind}: {_json(rest)}"


def _readable(name: str, value: Any) -> str:
    """A field's value as a reader expects it."""
    if name == "by":
        return join_words(value)
    if isinstance(value, (list, tuple)):
        return SEPARATORS.get(name, ", ").join(map(str, value))
    if name in ("due", "expires") and (at := parse_moment(value)):
        return date_and_time(at)
    if name in WORDS:
        return WORDS[name].get(str(value), str(value))
    if name == "weight":
        return exact_percent(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _opened(fields: Fields) -> str:
    if fields.get("dry_run"):
        return f"{fields['runbook']} was opened as a dry run"
    return f"{fields['runbook']} was opened"


def _approved(fields: Fields) -> str:
    verb = "aborted" if fields.get("order") == "abort" else "approved"
    return f"{join_words(fields['by'])} {verb} plan {fields['plan']}: {fields['title']}"


def _alarm(fields: Fields) -> str:
    # CloudWatch's reason is a long list of datapoints. For an alarm that ends, it answers no question.
    if fields["state"] == "OK":
        return f"{fields['alarm']} is OK"
    return f"{fields['alarm']} is {fields['state']}: {fields['reason']}"


def _aws(fields: Fields) -> str:
    # An alias's Description is the record of its rollout: other events say it in words.
    given = {key: value for key, value in fields["parameters"].items() if key != "Description"}
    call = str(fields["call"])
    if given:
        call = f"{call} {_json(given)}"
    if fields.get("failed"):
        # The failure must stay visible, however long the parameters are.
        return f"{shorten(call, SENTENCE_LIMIT - 60)}, which failed: {fields['failed']}"
    return call


def _outcome(fields: Fields) -> str:
    failed = [
        f"v{version}: {count:,} of {fields['requests'][version]:,} requests failed"
        for version, count in fields.get("failed", {}).items()
    ]
    ending = describe_ending(fields["ending"])
    return " ".join((f"rollout of v{fields['new']} ended: {ending}.", *fields["reasons"], ", ".join(failed))).strip()


def _cold_starts(fields: Fields) -> str:
    versions = [
        f"v{version} {slow_cold:,} of {slow:,}" for version, (_, slow, _, slow_cold) in fields["counts"].items() if slow
    ]
    return f"slow requests that were cold starts, and are not judged: {', '.join(versions)}"


def _ended(fields: Fields) -> str:
    ending = describe_ending(fields["ending"])
    return f"rollout of v{fields['version']} ended: {ending}. Its run stopped before the last requests were counted."


def _rollback(fields: Fields) -> str:
    if fields["already"]:
        # A second rollback is often run to be sure; it must not read as if it had moved traffic.
        return f"v{fields['to']} already received 100 % of traffic; nothing was changed"
    left = ", ".join(f"v{version}" for version in fields["away_from"]) or "no other version"
    return f"rolled back to v{fields['to']} from {left}, approved by {join_words(fields['by'])}"


def _notified(fields: Fields) -> str:
    reached = ", ".join(fields["reached"]) or "no channel"
    return f"notified {reached}: {fields['text']} {' '.join(fields['troubles'])}".strip()


def _assessed(fields: Fields) -> str:
    lines = ", ".join(f"{count:,} × {name}" for name, count in fields["error_lines"].items()) or "no error lines"
    return f"v{fields['version']} was assessed ({lines}); recommended: {fields['recommended']}"


def _recorded(fields: Fields) -> str:
    if fields["checklist"] == "review":
        return f"review date of {fields['subject']} stored"
    return f"{fields['checklist']} of {fields['subject']}: {', '.join(fields['open']) or 'nothing'} open"


def _isolated(fields: Fields) -> str:
    if fields["how"] == "function":
        return "isolated: the function's concurrency is 0, no request is served"
    return f"isolated: writes to {fields['table']} are denied"


def _fleet_step(fields: Fields) -> str:
    ended = f"{fields['runbook']} ended: {describe_ending(fields['outcome'])}. It serves {fields['serves']}."
    if fields["says"]:
        ended += f" {fields['says']}"
    return ended


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


SEPARATORS = {"reasons": " ", "against": "; "}
"""Between the values of a list, where it is not a comma."""

WORDS: Mapping[str, Mapping[str, str]] = {
    "order": {"hold": "pause", "go on": "resume", "abort": "abort and roll back"},
    "decision": DECISIONS,
}
"""What operators call a value that the journal has under an internal name, by field."""

SENTENCES: Mapping[str, str | Callable[[Fields], str]] = {
    "opened": _opened,
    "clock": lambda x: f"this machine's time was corrected by {x['corrected_by_s']:+.1f} s, to AWS's time",
    "clock-jumped": lambda x: describe_jump(x["by_s"], suspended=x["suspended"]),
    "aws": _aws,
    "alarm": _alarm,
    "approved": _approved,
    "refused": "{by} did not approve plan {plan}: {title}",
    "shifted": "{to} receives {weight}: {serves}",
    "allocating": "AWS is still allocating provisioned concurrency: {serves}",
    "failsafe-armed": "failsafe {name} was armed: it rolls back at {until} unless it is renewed",
    "stray-failsafe-deleted": "failsafe {name} of a lost run was deleted: it protected no traffic",
    "record-restored": "the alias was edited without a change of its traffic ({found}): the record was written again",
    "cold-starts": _cold_starts,
    "cold-starts-unread": "cold starts could not be read from the log: {why}",
    "log-feed-unread": "the log could not be read, and CloudWatch's minutes decided meanwhile: {why}",
    "log-lines-late": lambda x: f"{count(sum(x['lines'].values()), 'log line')} came too late to be judged",
    "observed": "verdict {decision} at stage {stage}: {says}",
    "worse-accepted": "an operator promoted stage {stage}, held by stream {stream}: {says}",
    "taken-back": "v{version} was rolled back: {serves}. {reasons}",
    "outcome": _outcome,
    "ended": _ended,
    "rollback": _rollback,
    "frozen": "{owner} froze deployments until {expires}: {reason}",
    "lifted": "freeze {id} was removed",
    "smoke": lambda x: f"smoke test {x['test']} of v{x['version']}: {x['trouble'] or 'passed'}",
    "hook": "hook {hook}, {point}: {answer}. {says}",
    "told": _notified,
    "ordered": "operator action: {order}",
    "assessed": _assessed,
    "decided": "{by} decided: {decision}",
    "review-due": "a review is due by {due}",
    "recovery": "{says}: {failed} of {requests} requests failed",
    "passed-over": "skipped: {what} {because}",
    "failed": "error: {says}",
    "audited": "{says}",
    "fleet-audited": "{summary}",
    "moving": "{says}",
    "fleet-rolled-back": "{says}",
    "resumed": "run {run} of {of} was resumed at stage {stage}",
    "lease-proved": "failsafe test passed: the schedule cleared the weights of alias {alias}",
    "broke-glass": "{who} used the emergency override: {why} (rules not met: {against})",
    "alarm-tested": "test alarm {alarm}: {says}",
    "recorded": _recorded,
    "isolated": _isolated,
    "released": "the isolation was removed",
    "scoped": "{table} compared with {copy}: {says}",
    "repaired": "{by} restored {written} items of {table}; kept {kept} conflicts, and {gave_way} that had changed",
    "verified": "{table} compared again after the repair: {says}",
    "schema": "{table} has schema {version}: {migration} is {state}",
    "migrated": "{by} ran {step} of {migration}: {changed} items changed, {left} left",
    "pruned": "{by} deleted versions {deleted}",
    "fleet-wave": "wave {wave} began: {targets}",
    "fleet-bake": "bake between two waves until {until}",
    "fleet-step": _fleet_step,
    "fleet-trouble": "the fleet's deployment stopped: {says}",
    "fleet-ended": "the fleet's deployment ended: {says}",
    "reviewed": "the incident was reviewed, with {runs} runs",
}
"""Each kind of record as a sentence: a format of its fields, or a function where a field decides the words."""
