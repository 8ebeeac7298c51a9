"""What a run's manifest says, as data: the names of a run's files, one entry, and the index's lines.

Nothing here reads or writes a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.outcome import describe_ending
from buddy_ops.runs import pages
from buddy_ops.runs.stores import JOURNAL, digest, index_line

NOTEBOOK, REPORT = "notebook.ipynb", "report.html"
EXTRA_FILES = ("conflicts.jsonl", "root_cause.md")
"""What repairing a table leaves in its run's folder."""

FILES = (NOTEBOOK, REPORT, JOURNAL, *EXTRA_FILES)
"""What a run's folder can hold besides its manifest."""


@dataclass(frozen=True)
class ManifestEntry:
    """An archived run, as its manifest says. Times are ISO 8601 in UTC; ``sha256`` is the manifest's own hash.

    Attributes:
        source: the notebook that was executed: its path, its SHA-256, what it was compared with, and the differences.
        library: the library's version, commit, and whether its files were as committed.
        pruned: of a run of ``runs prune``: which runs it deleted.
        unsigned: why its environment's key did not sign it; empty: it was signed, or was not to be.
        plan_id: the ID of the last plan that it made; empty: it made none.
        targets: of a fleet's run: the runs of its targets, each with ``target``, ``runbook``, ``folder``, ``sha256`` of
            its manifest, and ``outcome``. One that is in another archive has ``elsewhere``.
    """

    run: str
    folder: str
    runbook: str
    environment: str
    began: str
    ended: str
    outcome: str
    exit_code: int
    people: tuple[str, ...]
    principal: str
    incident: str
    parameters: dict[str, object]
    files: dict[str, str]
    previous: str
    sha256: str
    trouble: str = ""
    notes: tuple[str, ...] = ()
    archive: str = ""
    source: dict[str, object] = field(default_factory=dict)
    library: dict[str, object] = field(default_factory=dict)
    pruned: dict[str, object] = field(default_factory=dict)
    unsigned: str = ""
    plan_id: str = ""
    targets: tuple[dict[str, object], ...] = ()

    @property
    def result(self) -> str:
        """The outcome as operators read it."""
        return describe_ending(self.outcome)

    @property
    def ended_at(self) -> str:
        """When it ended, as operators read it; a damaged manifest's text as it is."""
        return pages.readable_time(self.ended)

    @property
    def pruned_hashes(self) -> dict[str, str]:
        """The manifests of the runs that this one deleted, oldest first, and their folders' names."""
        runs = self.pruned.get("runs")
        if not isinstance(runs, dict):
            return {}
        return {str(sha256): str(folder) for sha256, folder in runs.items()}


# Made once: pydantic builds a validator for it, and an index has a row for each run.
ENTRY = TypeAdapter(ManifestEntry)


def entry_of(facts: Mapping[str, object]) -> ManifestEntry:
    """An entry from a line of the index; fields that a later release added are passed over.

    Raises:
        BuddyError: ``archive-damaged``.
    """
    try:
        return ENTRY.validate_python(
            {known.name: facts[known.name] for known in fields(ManifestEntry) if known.name in facts}
        )
    except ValidationError:
        raise damaged(f"What is archived of run {facts.get('run')!r}") from None


def entry_of_manifest(manifest: bytes) -> ManifestEntry:
    """An entry from a manifest's bytes.

    Raises:
        BuddyError: ``archive-damaged``.
    """
    try:
        # Of a key that is there twice readers may take either value.
        json_object(manifest)
        return entry_of(json_object(index_line(manifest)))
    except (ValueError, TypeError, RecursionError):
        raise damaged("A manifest") from None


def json_object(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else."""
    found = parse_json(content, unique=True)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def index_rows(index: bytes) -> list[dict[str, object]]:
    """The index's lines. Raises ValueError."""
    rows = json_object(index).get("runs")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list of runs")
    return rows


def in_order(manifests: list[bytes]) -> list[bytes]:
    """Oldest first, as they are chained; what is in no chain comes last. The oldest follows a run that is not there."""
    present = {digest(manifest) for manifest in manifests}
    # Which manifests follow which one. The run before the oldest may have been pruned: it then begins the chain.
    after: dict[str, list[bytes]] = {}
    for manifest in manifests:
        previous = str(json_object(manifest).get("previous"))
        if previous not in present:
            previous = ""
        after.setdefault(previous, []).append(manifest)
    # The first run of all has no previous one, and sorts before those whose previous one is not there.
    after.get("", []).sort(key=lambda manifest: str(json_object(manifest).get("previous")))
    found: list[bytes] = []
    previous = ""
    # Each manifest is taken once, so that a circle ends, too.
    while after.get(previous):
        found.append(after[previous].pop(0))
        previous = digest(found[-1])
    return found + [manifest for rest in after.values() for manifest in rest]


def damaged(what: str) -> BuddyError:
    """The error about a file of the archive that cannot be read."""
    return BuddyError(
        "archive-damaged",
        f"{what} cannot be read.",
        next="`buddy-ops runs verify` lists all problems. `buddy-ops runs index` rebuilds a missing index.",
    )
