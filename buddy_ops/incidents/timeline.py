"""What happened, from the records of runs: one sentence an event, in the order of time.

Knows what each kind of record means to a reader. Pure: the records come from wherever they are kept.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

Fields = Mapping[str, Any]
SHORT = 300
READS = ("get_", "list_", "describe_", "start_query", "simulate_", "head_", "scan", "query", "batch_get")
"""How boto3's operations that change nothing begin."""

QUIET = frozenset({"minutes"})
TOGETHER = timedelta(minutes=1)
"""Calls of one operation that follow each other so closely are told as one event."""


@dataclass(frozen=True)
class TimelineEvent:
    """One thing that happened. ``kind`` is the record's, or 'alarm'; ``run`` is '' for what no run of ours did."""

    at: datetime
    kind: str
    says: str
    run: str = ""
    runbook: str = ""


def timeline_events(records: Iterable[Fields], run: str = "", runbook: str = "") -> list[TimelineEvent]:
    """A run's records as events, oldest first; a verdict is told when it changes, and reads not at all."""
    found: list[TimelineEvent] = []
    verdict = ""
    for record in records:
        kind = str(record.get("kind", ""))
        if kind == "opened":
            run, runbook = str(record.get("run", run)), runbook or str(record.get("runbook", ""))
        if kind == "observed":
            before, verdict = verdict, f"{record.get('stage')} {record.get('decision')}"
            if verdict == before:
                continue
        says = describe_record(kind, record)
        at = parse_moment(record.get("at"))
        if says and at is not None:
            found.append(TimelineEvent(at, kind, _cut(says, SHORT), run, runbook))
    return merge_in_order(found)


def merge_in_order(found: Iterable[TimelineEvent]) -> list[TimelineEvent]:
    """Oldest first; of the same moment in the order in which they were recorded. Repeated calls are told as one."""
    told: list[TimelineEvent] = []
    times = 1
    for each in sorted(found, key=attrgetter("at")):
        last = told[-1] if told else None
        if last and _repeats(last, each):
            times += 1
            told[-1] = replace(last, says=f"{_operation(each)}, {times} times")
        else:
            told.append(each)
            times = 1
    return told


def _repeats(last: TimelineEvent, each: TimelineEvent) -> bool:
    same = (last.kind, last.run, _operation(last)) == ("aws", each.run, _operation(each))
    return each.kind == "aws" and same and each.at - last.at < TOGETHER


def _operation(call: TimelineEvent) -> str:
    return call.says.partition(" ")[0].rstrip(",")


def parse_moment(text: object) -> datetime | None:
    """A record's time, in UTC; None for what is none."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def describe_record(kind: str, fields: Fields) -> str:
    """A record as a sentence; '' for what says nothing to a reader. A kind that is not known is told as it stands."""
    if kind in QUIET:
        return ""
    if kind in TOLD:
        try:
            return TOLD[kind](fields)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # a record of another make: as it stands
    rest = {key: value for key, value in fields.items() if key not in ("seq", "at", "kind")}
    return f"{kind}: {json.dumps(rest, ensure_ascii=False, default=str)}"


def _opened(fields: Fields) -> str:
    return f"{fields['runbook']} was opened{' as a dry run' if fields.get('dry_run') else ''}"


def _aws(fields: Fields) -> str:
    operation = fields["call"].partition(":")[2]
    if operation.startswith(READS):
        return ""
    given = {key: value for key, value in fields["parameters"].items() if key != "Description"}
    failed = f", which failed: {fields['failed']}" if fields.get("failed") else ""
    shown = f" {json.dumps(given, ensure_ascii=False, default=str)}" if given else ""
    return _cut(f"{fields['call']}{shown}", SHORT - 60) + failed


def _outcome(fields: Fields) -> str:
    failed = ", ".join(
        f"v{version}: {count:,} of {fields['requests'][version]:,} requests failed"
        for version, count in fields.get("failed", {}).items()
    )
    return f"the rollout of v{fields['new']} ended {fields['ending']}: {' '.join(fields['reasons'])} {failed}".strip()


def _rollback(fields: Fields) -> str:
    away = f", away from v{', v'.join(fields['away_from'])}" if fields["away_from"] else ""
    return f"traffic to v{fields['to']}{away}, by {_people(fields)}{' (it was there)' if fields['already'] else ''}"


def _told(fields: Fields) -> str:
    reached = ", ".join(fields["reached"]) or "nobody"
    return f"told {reached}: {fields['text']} {' '.join(fields['troubles'])}".strip()


def _assessed(fields: Fields) -> str:
    lines = ", ".join(f"{count:,} × {name}" for name, count in fields["error_lines"].items())
    return f"v{fields['version']} was assessed ({lines or 'no error lines'}); recommended: {fields['recommended']}"


def _recorded(fields: Fields) -> str:
    if fields["checklist"] == "review":
        return f"the date of its review was kept, for {fields['subject']}"
    return f"{fields['checklist']} of {fields['subject']}: {', '.join(fields['open']) or 'nothing'} open"


def _repaired(fields: Fields) -> str:
    counts = f"{fields['written']:,} items of {fields['table']} were written back, {fields['kept']:,} conflicts kept"
    return f"{counts}, {fields['gave_way']:,} left to whoever changed them meanwhile, by {_people(fields)}"


def _migrated(fields: Fields) -> str:
    counts = f"{fields['changed']:,} items changed, {fields['left']:,} left"
    return f"{fields['step']} of {fields['migration']}: {counts}, by {_people(fields)}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _people(fields: Fields) -> str:
    return " and ".join(fields["by"])


TOLD: Mapping[str, Callable[[Fields], str]] = {
    "opened": _opened,
    "aws": _aws,
    "approved": lambda x: f"{_people(x)} approved plan {x['plan']}: {x['title']}",
    "refused": lambda x: f"{_people(x)} refused plan {x['plan']}: {x['title']}",
    "shifted": lambda x: f"{x['to']} got {100 * x['weight']:g} %: {x['serves']}",
    "observed": lambda x: f"verdict {x['decision']} at stage {x['stage']}: {x['says']}",
    "taken-back": lambda x: f"v{x['version']} was taken back: {x['serves']}. {' '.join(x['reasons'])}",
    "outcome": _outcome,
    "rollback": _rollback,
    "frozen": lambda x: f"{x['owner']} froze deployments until {x['expires']}: {x['reason']}",
    "lifted": lambda x: f"freeze {x['id']} was lifted",
    "smoke": lambda x: f"smoke test {x['test']} of v{x['version']}: {x['trouble'] or 'passed'}",
    "told": _told,
    "ordered": lambda x: f"a person ordered {x['order']}",
    "assessed": _assessed,
    "decided": lambda x: f"{_people(x)} decided: {x['decision']}",
    "review-due": lambda x: f"a review is due by {x['due']}",
    "recovery": lambda x: f"{x['says']}: {x['failed']:,} of {x['requests']:,} requests failed",
    "passed-over": lambda x: f"passed over: {x['what']} {x['because']}",
    "failed": lambda x: f"failed: {x['says']}",
    "audited": lambda x: str(x["says"]),
    "resumed": lambda x: f"run {x['run']} was gone on with, at stage {x['stage']} of {x['of']}",
    "lease-proved": lambda x: f"a lease cleared the weights of the scratch alias {x['alias']}, as it must",
    "broke-glass": lambda x: f"{x['who']} broke the glass: {x['why']} (against: {'; '.join(x['against'])})",
    "alarm-tested": lambda x: f"test of {x['alarm']}: {x['says']}",
    "recorded": _recorded,
    "isolated": lambda x: (
        f"isolated: {'nobody is served' if x['how'] == 'function' else 'nothing writes ' + x['table']}"
    ),
    "released": lambda x: "the isolation was lifted",
    "scoped": lambda x: f"{x['table']} beside {x['copy']}: {x['says']}",
    "repaired": _repaired,
    "verified": lambda x: f"{x['table']} after the repair: {x['says']}",
    "schema": lambda x: f"{x['table']} has schema {x['version']}: {x['migration']} is {x['state']}",
    "migrated": _migrated,
    "pruned": lambda x: f"{_people(x)} deleted {len(x['deleted'])} versions: {', '.join(x['deleted'])}",
    "reviewed": lambda x: f"an incident was reviewed, with {x['runs']} runs",
}
"""How each kind of record is told."""
