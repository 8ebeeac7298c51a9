"""What differs between two archived runs: what was planned, what was measured, what was decided and by whom.

It pairs the records of two runs that say the same at another time. Never compares times, ids or what AWS numbers by
itself.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buddy_ops.aws.errors import is_reading
from buddy_ops.core import runbooks
from buddy_ops.core.documents import OWN_JSON_BYTES, parse_json
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import read_journal
from buddy_ops.core.outcome import describe_decision, describe_ending
from buddy_ops.runs.cells import source_of
from buddy_ops.runs.manifest import NOTEBOOK, ManifestEntry
from buddy_ops.runs.stores import JOURNAL, RunStore

PASSING = {"seq", "at", "kind", "request", "run", "expires", "id", "principal"}
"""Fields of a record that differ in every run."""

COMPARED_OTHERWISE = ("aws", "observed", "opened", "parameters")
"""Kinds of records whose number says nothing, or whose content is compared by itself."""

Facts = dict[str, object]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in both runs; None where a run has none of it."""

    what: str
    first: object
    second: object

    def __str__(self) -> str:
        return f"{self.what}:\n  - {_said(self.first)}\n  + {_said(self.second)}"


def compare_runs(store: RunStore, first: ManifestEntry, second: ManifestEntry) -> tuple[Difference, ...]:
    """Every difference, in the order in which a reader asks: how, who, what, figures, verdicts, actions, code."""
    one, other = _facts(store, first), _facts(store, second)
    names = [*one, *(name for name in other if name not in one)]
    return tuple(Difference(name, one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name))


def _facts(store: RunStore, entry: ManifestEntry) -> Facts:
    """All of a run that can be compared, by name."""
    records = read_journal(store.read(f"{entry.folder}/{JOURNAL}") or b"")
    facts: Facts = {name: getattr(entry, name) for name in ("runbook", "environment", "result", "exit_code")}
    facts |= {"people": list(entry.people), "principal": entry.principal, "incident": entry.incident}
    # The approvers are compared as people: the parameter has only those who were named in advance.
    facts |= {f"parameter {name}": value for name, value in entry.parameters.items() if name != "approved_by"}
    for record in _of(records, "approved"):
        facts |= {"plan": record.get("title"), "plan's hash": record.get("plan")}
    for record in _of(records, "outcome"):
        facts |= {f"figure {name}": value for name, value in record.items() if name not in PASSING}
        facts["figure ending"] = describe_ending(str(record.get("ending")))
    facts["verdicts"] = _verdicts(records)
    facts["traffic"] = [f"{record.get('to')} {100 * record.get('weight', 0):g} %" for record in _of(records, "shifted")]
    # How many records of each kind there are, for example restored records or operator actions: their texts have times.
    others = Counter(str(record["kind"]) for record in records if record["kind"] not in COMPARED_OTHERWISE)
    facts |= {f"records {kind}": count for kind, count in sorted(others.items())}
    calls = Counter(map(_call, _of(records, "aws")))
    # How often it looked depends on how long it took.
    facts |= {f"calls {call}": count for call, count in sorted(calls.items()) if not _looks(call)}
    return facts | _code(f"{entry.folder}/{NOTEBOOK}", store.read(f"{entry.folder}/{NOTEBOOK}") or b"{}")


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def _call(record: Record) -> str:
    """A call's name, and how it failed if it did: the same call fails in one run and not in the other."""
    if "failed" in record:
        return f"{record['call']} failed: {record['failed']}"
    return str(record["call"])


def _verdicts(records: Sequence[Record]) -> list[str]:
    """The verdicts one after the other, each with its stage; what is said again and again is one."""
    found: list[str] = []
    for record in _of(records, "observed"):
        verdict = f"{record.get('stage')}: {describe_decision(str(record.get('decision')))}"
        if verdict not in found[-1:]:
            found.append(verdict)
    return found


def _looks(call: str) -> bool:
    return is_reading(call) and " failed" not in call


def _code(name: str, notebook: bytes) -> Facts:
    """The notebook's own code, cell by cell, and each cell's state; what was injected are parameters."""
    facts: Facts = {}
    try:
        document = parse_json(notebook, limit=OWN_JSON_BYTES)
    except ValueError:
        raise BuddyError(
            "archive-damaged", f"{name} cannot be read.", next="`buddy-ops runs verify` lists all problems."
        ) from None
    # A run without a notebook, and one whose file is damaged, have no code to compare.
    if not runbooks.is_notebook(document):
        return facts
    for cell in document["cells"]:
        if cell["cell_type"] == "code" and "injected-parameters" not in cell["metadata"].get("tags", ()):
            # By the cell's id: a cell that was added in front would shift the numbers of all that follow.
            facts[f"cell {cell.get('id')}"] = source_of(cell)
            facts[f"cell {cell.get('id')} ended"] = runbooks.mapping_in(cell["metadata"], "buddy_ops").get("state")
    return facts


def _said(value: object) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
