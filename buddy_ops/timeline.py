"""What happened, from the records of runs: one sentence an event, in the order of time.

Knows what each kind of record means to a reader. Pure: the records come from wherever they are kept.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Fields = Mapping[str, Any]
SHORT = 300
READS = ("get_", "list_", "describe_", "start_query", "simulate_", "head_", "scan", "query", "batch_get")
"""How boto3's operations that change nothing begin."""

QUIET = frozenset({"minutes"})


@dataclass(frozen=True, order=True)
class Event:
    """One thing that happened. ``kind`` is the record's, or 'alarm'; ``run`` is '' for what no run of ours did."""

    at: datetime
    kind: str
    says: str
    run: str = ""
    runbook: str = ""


def events(records: Iterable[Fields], run: str = "", runbook: str = "") -> list[Event]:
    """A run's records as events, oldest first; a verdict is told when it changes, and reads not at all."""
    found: list[Event] = []
    verdict = ""
    for record in records:
        kind = str(record.get("kind", ""))
        if kind == "opened":
            run, runbook = str(record.get("run", run)), runbook or str(record.get("runbook", ""))
        if kind == "observed":
            before, verdict = verdict, f"{record.get('stage')} {record.get('decision')}"
            if verdict == before:
                continue
        says = tell(kind, record)
        at = moment(record.get("at"))
        if says and at is not None:
            found.append(Event(at, kind, says[:SHORT], run, runbook))
    return sorted(found)


def moment(text: object) -> datetime | None:
    """A record's time, in UTC; None for what is none."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def tell(kind: str, fields: Fields) -> str:
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
    return f"{fields['call']} {json.dumps(given, ensure_ascii=False, default=str)}"[: SHORT - 60] + failed


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
}
"""How each kind of record is told."""
