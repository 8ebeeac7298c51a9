"""Executed runs as evidence: a manifest each, chained by hashes, an index of all, and a search for what was changed.

Unfinished runs are archived later. Nothing here executes a run or overwrites an archived file.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from buddy_ops.aws import session
from buddy_ops.core import project, runbooks
from buddy_ops.core.documents import OWN_JSON_BYTES, parse_json
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.files import write_atomically
from buddy_ops.core.journal import is_locked, read_journal
from buddy_ops.core.outcome import EXIT_CODES, describe_ending
from buddy_ops.core.redaction import Redactor
from buddy_ops.runs import pages
from buddy_ops.runs.stores import (
    INDEX,
    MANIFEST,
    PAGE,
    LocalStore,
    RunStore,
    S3Store,
    digest,
    index_line,
    index_of,
    page_of,
)

NOTEBOOK, REPORT, JOURNAL = "notebook.ipynb", "report.html", "journal.jsonl"
EXTRA_FILES = ("conflicts.jsonl", "root_cause.md")
"""What repairing a table leaves in its run's folder."""

FILES = (NOTEBOOK, REPORT, JOURNAL, *EXTRA_FILES)
"""What a run's folder can hold besides its manifest."""

NAME = re.compile(r"(?!\.{1,2}$)[\w.:-]{1,200}", re.ASCII)
"""What a run's folder and a file in it can be called; nothing outside the archive is named so."""

UNKNOWN = "unknown"
"""The outcome of a run without any record of its end."""


@dataclass(frozen=True)
class ManifestEntry:
    """An archived run, as its manifest says. Times are ISO 8601 in UTC; ``sha256`` is the manifest's own hash."""

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
    parameters: dict[str, Any]
    files: dict[str, str]
    previous: str
    sha256: str
    trouble: str = ""
    notes: tuple[str, ...] = ()
    archive: str = ""

    @property
    def result(self) -> str:
        """The outcome as operators read it."""
        return describe_ending(self.outcome)

    @property
    def ended_at(self) -> str:
        """When it ended, as operators read it; a damaged manifest's text as it is."""
        return pages.readable_time(self.ended)


@dataclass(frozen=True)
class VerificationResult:
    """What a verification found. ``beyond`` says what it cannot find."""

    runs: int
    newest: str
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]
    beyond: str


def open_store(where: str | Path = "", environment: str = "") -> RunStore:
    """The archive in a folder or at an address.

    Args:
        where: a folder, or 's3://bucket/prefix'; empty: the project's runs/.
        environment: through whose settings S3 is reached; empty: the one whose file names this archive.

    Raises:
        InvalidInput: ``archive-unknown``.
    """
    text = str(where)
    if not text.startswith("s3://"):
        return LocalStore(project.project_root() / (text or "runs"))
    known = sorted(path.stem for path in (project.project_root() / "parameters").glob("*.yaml"))
    owners = [name for name in known if _archive_of(name).rstrip("/") == text.rstrip("/")]
    if not (environment or owners):
        raise InvalidInput(
            "archive-unknown",
            f"No environment's settings have {text} as archive.where.",
            next="Name the environment whose credentials and region reach it, with -e.",
        )
    return S3Store(session.connect(environment or owners[0], "runs", quiet=True), text)


def list_entries(where: str | Path | RunStore = "") -> tuple[ManifestEntry, ...]:
    """Every archived run, oldest first: as the index says, or the manifests where there is no index.

    Raises:
        BuddyError: ``archive-damaged``.
    """
    store = open_store(where) if isinstance(where, str | Path) else where
    index = store.read(INDEX)
    if index is None:
        return tuple(_entry(parse_json(index_line(each))) for each in _in_order(_manifests_in(store)))
    return tuple(_entry(each) for each in _parsed(index, store))


def find_run(store: RunStore, run: str) -> ManifestEntry:
    """The archived run of this id or folder; the newest, where an id came up twice. Raises ``run-unknown``."""
    found = [each for each in list_entries(store) if run in (each.run, each.folder)]
    if not found:
        raise InvalidInput("run-unknown", f"{store.where} has no run {run!r}.", next="`buddy-ops runs list`.")
    return found[-1]


# Archiving


def build_manifest(folder: Path, redactor: Redactor, **known: Any) -> dict[str, Any]:
    """What a run's manifest says, from its files and what is ``known`` besides; its report is written on the way.

    Everything is cleaned once more: a secret may have been learned after it was written.
    """
    about, states = _cleaned_notebook(folder / NOTEBOOK, redactor)
    records = _cleaned_journal(folder / JOURNAL, redactor)
    for name in EXTRA_FILES:
        _clean_text(folder / name, redactor)
    opened = next((each for each in records if each.get("kind") == "opened"), {})
    approved = [each for each in records if each.get("kind") == "approved"]
    values = about.get("parameters", {})
    # What the supervisor observed is in ``known`` and replaces this; without a supervisor it is all there is.
    outcome, code = _ending(records, states)
    facts: dict[str, Any] = {
        "v": 1,
        "run": about.get("run") or opened.get("run", ""),
        "folder": folder.name,
        "runbook": about.get("runbook") or project.runbook_name(opened.get("runbook", "")),
        "environment": about.get("environment") or opened.get("environment", ""),
        "began": about.get("began") or opened.get("at", ""),
        "ended": records[-1].get("at", "") if records else about.get("began", ""),
        "outcome": outcome,
        "exit_code": code,
        "people": [
            *dict.fromkeys(map(str, (*values.get("approved_by", ()), *(who for x in approved for who in x["by"]))))
        ],
        "principal": approved[-1].get("principal", "") if approved else "",
        "incident": str(values.get("incident", "")),
        "parameters": values,
        "trouble": "",
        "notes": [],
        "archive": about.get("archive", ""),
    }
    facts = redactor.redact(facts | known)
    notebook = _notebook_in(folder / NOTEBOOK)
    if notebook is not None:
        # Sanitizing may join what comments and unknown tags kept apart.
        page = redactor.redact_page(pages.report_page(notebook, facts))
        (folder / REPORT).write_text(page, encoding="utf-8")
    return facts | {"files": {name: digest((folder / name).read_bytes()) for name in FILES if (folder / name).exists()}}


def write_unexecuted(source: Path, notebook: Path, about: Mapping[str, Any]) -> None:
    """Write the notebook of a run that ended before its first cell."""
    document = parse_json(source.read_text(encoding="utf-8"))
    document["metadata"]["buddy_ops"] = about
    for cell in document["cells"]:
        cell["metadata"]["buddy_ops"] = {"state": "not run"}
    write_atomically(notebook, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def append_to_chain(folder: Path, facts: Mapping[str, Any]) -> ManifestEntry:
    """Chain a finished run to those beside its folder, and add it to their index."""
    return _entry(parse_json(index_line(LocalStore(folder.parent).add(folder, facts))))


def archive_unfinished(root: Path) -> list[str]:
    """Archive unfinished runs: runs whose supervisor was killed, sessions in Jupyter, commands.

    A run in progress holds its journal, and is skipped. Returns the folders' names.
    """
    adopted = []
    for name, files in LocalStore(root).folders().items():
        if MANIFEST in files or not files & {NOTEBOOK, JOURNAL} or is_locked(root / name / JOURNAL):
            continue
        redactor, note = _redactor_of(root / name)
        notes = ["The run ended without its supervisor and was archived later.", *([note] if note else [])]
        append_to_chain(root / name, build_manifest(root / name, redactor, notes=notes))
        adopted.append(name)
    return adopted


def rebuild_index(store: RunStore) -> int:
    """Rebuild the index from the manifests. Returns the number of runs.

    Raises:
        BuddyError: ``archive-damaged``: the index names a run that is missing. It is kept as the only trace of it.
    """
    manifests = _in_order(_manifests_in(store))
    index = store.read(INDEX)
    known = {str(each.get("sha256")) for each in _parsed(index, store)} if index else set()
    if gone := known - {digest(each) for each in manifests}:
        raise BuddyError(
            "archive-damaged",
            f"{store.where}: the index names {len(gone)} manifest(s) that are changed or gone.",
            now="The index was not changed.",
            next="`buddy-ops runs verify` lists them. Find the cause, delete index.json, then run this again.",
        )
    store.rebuild(manifests)
    return len(manifests)


def upload_run(store: RunStore, folder: Path) -> ManifestEntry:
    """Archive a sealed run in S3 as well, in the chain there."""
    facts = parse_json((folder / MANIFEST).read_bytes())
    return _entry(parse_json(index_line(store.add(folder, facts))))


# Verifying


def verify_archive(store: RunStore, expected: str = "") -> VerificationResult:
    """Compare every byte with the manifests, the manifests with their chain, and the chain with the index.

    Args:
        expected: the hash of a manifest that was announced; it must be in the chain.
    """
    problems: list[str] = []
    folders, index = store.folders(), store.read(INDEX)
    rows, manifests = _rows(index, problems, bool(folders)), []
    previous = ""
    for row in rows:
        name = str(row.get("folder"))
        # A name from a forged index must not lead out of the archive.
        manifest = store.read(f"{name}/{MANIFEST}") if NAME.fullmatch(name) else None
        if manifest is None:
            problems.append(f"{name}: missing. The index names it, but it has no manifest.")
        elif digest(manifest) != row.get("sha256"):
            problems.append(f"{name}: the manifest was changed.")
        else:
            manifests.append(manifest)
            problems += _differences(store, name, manifest, folders.get(name, set()))
        if row.get("previous") != previous:
            problems.append(f"{name}: the chain is broken: the run before it is missing or out of sequence.")
        previous = str(row.get("sha256"))
    listed = {str(row.get("folder")) for row in rows}
    strays = [name for name, files in folders.items() if MANIFEST in files and name not in listed]
    problems += [f"{name}: not in the index: it was added, or removed from the index." for name in strays]
    # With a problem above these would differ as well, and say nothing new.
    if not problems and index != index_of(manifests):
        problems.append(f"{INDEX}: does not match the manifests.")
    if not problems and store.read(PAGE) != page_of(manifests):
        problems.append(f"{PAGE}: does not match the manifests. `buddy-ops runs index` rebuilds it.")
    if expected and expected not in [row.get("sha256") for row in rows]:
        problems.append(f"No run has the announced manifest {expected}: the chain was cut off or rewritten.")
    more, beyond = store.examine(manifests)
    unfinished = [name for name, files in folders.items() if MANIFEST not in files]
    return VerificationResult(len(rows), previous, (*problems, *more), tuple(unfinished), beyond)


def _rows(index: bytes | None, problems: list[str], anything: bool) -> list[dict[str, Any]]:
    if index is None:
        problems += [f"{INDEX}: missing."] if anything else []
        return []
    try:
        return _listed(index)
    except ValueError:
        problems.append(f"{INDEX}: cannot be read.")
        return []


def _differences(store: RunStore, folder: str, manifest: bytes, there: set[str]) -> list[str]:
    """What of one run's files is not as its manifest says."""
    try:
        files = _entry(_object(index_line(manifest))).files
    except (ValueError, RecursionError, BuddyError):
        return [f"{folder}: its manifest cannot be read."]
    found = []
    for name, wanted in files.items():
        content = store.read(f"{folder}/{name}") if NAME.fullmatch(name) else None
        if content is None:
            found.append(f"{folder}/{name}: missing.")
        elif digest(content) != wanted:
            found.append(f"{folder}/{name}: changed.")
    return found + [f"{folder}/{name}: added." for name in sorted(there - {MANIFEST, *files})]


# What a run's files say


def _ending(records: list[dict[str, Any]], states: list[str]) -> tuple[str, int]:
    """Outcome and exit code of a run whose supervisor was lost."""
    codes: dict[str, int] = {str(ending): code for ending, code in EXIT_CODES.items()}
    ended = next((str(each["ending"]) for each in reversed(records) if each.get("kind") == "outcome"), "")
    stopped = next((state for state in states if state != "done"), "")
    # A refusal is a result of its own, whatever the journal says of steps before it.
    if stopped == "refused":
        return "refused", Refused.exit_code
    if stopped and not (stopped == "failed" and codes.get(ended)):
        return ("failed" if stopped == "failed" else "killed"), BuddyError.exit_code
    if ended:
        return ended, codes.get(ended, 0)
    acted = any(each.get("kind") in ("rollback", "frozen", "lifted", "pruned") for each in records)
    return ("done", 0) if states or acted else (UNKNOWN, BuddyError.exit_code)


def _cleaned_notebook(path: Path, redactor: Redactor) -> tuple[dict[str, Any], list[str]]:
    """What a notebook says of its run, and the states of its code cells. It is cleaned where it stands."""
    document = _notebook_in(path)
    if document is None:
        _clean_text(path, redactor)
        return {}, []
    cleaned = redactor.redact(document)
    if cleaned != document:
        write_atomically(path, json.dumps(cleaned, indent=1, ensure_ascii=False) + "\n")
    code = [cell for cell in cleaned["cells"] if cell["cell_type"] == "code"]
    states = [str(runbooks.mapping_in(cell["metadata"], "buddy_ops").get("state", "done")) for cell in code]
    return runbooks.mapping_in(cleaned["metadata"], "buddy_ops"), states


def _notebook_in(path: Path) -> dict[str, Any] | None:
    """The notebook in a run's folder; None where there is none, or where its file is damaged."""
    with suppress(OSError, ValueError):
        document = parse_json(path.read_bytes(), limit=OWN_JSON_BYTES)
        if runbooks.is_notebook(document):
            found: dict[str, Any] = document
            return found
    return None


def _cleaned_journal(path: Path, redactor: Redactor) -> list[dict[str, Any]]:
    """A journal's records; its file is cleaned too. A line that was torn stays one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = [_cleaned_line(line, redactor) for line in text.splitlines()]
    cleaned = "".join(f"{line}\n" for line in lines)
    if cleaned != text:
        write_atomically(path, cleaned)
    return read_journal(cleaned.encode())


def _cleaned_line(line: str, redactor: Redactor) -> str:
    """A line of a journal without secrets; byte for byte the same where it has none."""
    try:
        record = parse_json(line)
    except ValueError:
        return redactor.redact(line)
    cleaned = redactor.redact(record)
    return line if cleaned == record else json.dumps(cleaned)


def _clean_text(path: Path, redactor: Redactor) -> None:
    """Clean a text file, if there is one."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    cleaned = redactor.redact(text)
    if cleaned != text:
        write_atomically(path, cleaned)


def _redactor_of(folder: Path) -> tuple[Redactor, str]:
    """A redactor for a run of the past, and what it could not learn."""
    about, _ = _cleaned_notebook(folder / NOTEBOOK, Redactor())
    opened = next((each for each in _cleaned_journal(folder / JOURNAL, Redactor()) if each.get("kind") == "opened"), {})
    environment = about.get("environment") or opened.get("environment", "")
    try:
        here = session.connect(environment, "runs", quiet=True)
    except BuddyError as error:
        return (
            Redactor(),
            f"The function's environment could not be read, so its values were not searched for: {error.what}",
        )
    return here.redactor, here.learn_secrets()


def _archive_of(environment: str) -> str:
    with suppress(InvalidInput):
        return str(project.read_settings(environment)[0]["archive"]["where"])
    return ""


def _object(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises ValueError for anything else."""
    found = parse_json(content, unique=True)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _listed(index: bytes) -> list[dict[str, Any]]:
    """The index's lines. Raises ValueError."""
    rows = _object(index).get("runs")
    if not isinstance(rows, list) or not all(isinstance(each, dict) for each in rows):
        raise ValueError("no list of runs")
    return rows


def _parsed(index: bytes, store: RunStore) -> list[dict[str, Any]]:
    try:
        return _listed(index)
    except ValueError:
        raise _damaged(f"{store.where}/{INDEX}") from None


def _damaged(what: str) -> BuddyError:
    return BuddyError(
        "archive-damaged",
        f"{what} cannot be read.",
        next="`buddy-ops runs verify` lists all problems. `buddy-ops runs index` rebuilds a missing index.",
    )


def _manifests_in(store: RunStore) -> list[bytes]:
    """Every manifest there is, in the order of their folders' names. Raises BuddyError ``archive-damaged``."""
    found = []
    for name in sorted(name for name, files in store.folders().items() if MANIFEST in files):
        if (content := store.read(f"{name}/{MANIFEST}")) is not None:
            try:
                _entry(_object(index_line(content)))
            except (ValueError, TypeError, RecursionError):
                raise _damaged(f"{store.where}/{name}/{MANIFEST}") from None
            found.append(content)
    return found


def _in_order(manifests: list[bytes]) -> list[bytes]:
    """Oldest first, as they are chained; what is in no chain comes last."""
    after: dict[str, list[bytes]] = {}
    for each in manifests:
        after.setdefault(str(_object(each).get("previous")), []).append(each)
    found, previous = [], ""
    while after.get(previous):
        found.append(after[previous].pop(0))
        previous = digest(found[-1])
    return found + [each for rest in after.values() for each in rest]


ENTRY = TypeAdapter(ManifestEntry)


def _entry(facts: Mapping[str, Any]) -> ManifestEntry:
    """An entry from a line of the index; fields that a later release added are passed over.

    Raises:
        BuddyError: ``archive-damaged``.
    """
    try:
        return ENTRY.validate_python(
            {each.name: facts[each.name] for each in fields(ManifestEntry) if each.name in facts}
        )
    except ValidationError:
        raise _damaged(f"What is archived of run {facts.get('run')!r}") from None
