"""Executed runs as evidence: a manifest each, chained by hashes, an index of all, and a search for what was changed.

Unfinished runs are archived later. Nothing here executes a run or overwrites an archived file.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from buddy_ops.aws import session
from buddy_ops.core import project, runbooks
from buddy_ops.core.documents import OWN_JSON_BYTES, parse_json
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.files import delete_parts_of, write_atomically
from buddy_ops.core.journal import is_locked, read_journal
from buddy_ops.core.outcome import EXIT_CODES
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.text import shorten
from buddy_ops.runs import pages, provenance, signatures, verification
from buddy_ops.runs.cells import Cell, Notebook, Output, forget_results
from buddy_ops.runs.manifest import (
    EXTRA_FILES,
    FILES,
    NOTEBOOK,
    REPORT,
    ManifestEntry,
    damaged,
    entry_of,
    entry_of_manifest,
    in_order,
    index_rows,
)
from buddy_ops.runs.run_facts import RunFacts
from buddy_ops.runs.stores import (
    INDEX,
    JOURNAL,
    MANIFEST,
    SIGNATURE,
    LocalStore,
    RunStore,
    S3Store,
    Sign,
    digest,
    read_manifest,
)

Record = Mapping[str, object]
"""A line of a journal. It may be of an earlier release, or damaged: what it holds is not taken for granted."""

UNKNOWN = "unknown"
"""The outcome of a run without any record of its end."""


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
        folder = project.project_root() / (text or "runs")
        # The first run makes the folder.
        if folder.exists() and not folder.is_dir():
            raise InvalidInput(
                "archive-unknown",
                f"{shorten(str(folder), 200)!r} is not a folder.",
                next="Name the folder of an archive, or none for runs/ of this project.",
            )
        return LocalStore(folder)
    known = project.environments()
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
    store = where
    if isinstance(store, str | Path):
        store = open_store(store)
    index = store.read(INDEX)
    if index is None:
        return tuple(map(entry_of_manifest, manifests_in_order(store)))
    return tuple(map(entry_of, _parsed(index, store)))


def find_run(store: RunStore, run: str) -> ManifestEntry:
    """The archived run of this id or folder.

    Raises:
        InvalidInput: ``run-unknown``, or ``run-ambiguous``: several runs have this id.
    """
    entries = list_entries(store)
    # A folder's name is the only one of its kind; IDs of earlier releases have four digits, and may come up twice.
    found = [entry for entry in entries if entry.folder == run] or [entry for entry in entries if entry.run == run]
    if not found:
        raise InvalidInput("run-unknown", f"{store.where} has no run {run!r}.", next="`buddy-ops runs list`.")
    if len(found) > 1:
        raise InvalidInput(
            "run-ambiguous",
            f"{len(found)} runs in {store.where} have the ID {run}: {', '.join(entry.folder for entry in found)}.",
            next=f"Give the folder, for example {found[-1].folder}.",
        )
    return found[0]


# Archiving


def build_manifest(folder: Path, redactor: Redactor, **known: Any) -> RunFacts:
    """What a run's manifest says, from its files and what is ``known`` besides; its report is written on the way.

    Everything is cleaned once more: a secret may have been learned after it was written.
    """
    about, states = _cleaned_notebook(folder / NOTEBOOK, redactor)
    records = _cleaned_journal(folder / JOURNAL, redactor)
    for name in EXTRA_FILES:
        _clean_text(folder / name, redactor)
    # What a killed process left half written is not hashed, and would be found as added.
    delete_parts(folder)
    # What the supervisor saw comes last: the files of a run that was killed say otherwise, or nothing.
    said: Any = {**facts_of(folder.name, about, records, states), **known}
    facts: RunFacts = redactor.redact(said)
    facts["targets"] = _as_archived_in(LocalStore(folder.parent), facts["targets"])
    notebook = _notebook_in(folder / NOTEBOOK)
    if notebook is not None:
        compared: provenance.CodeComparison | None = None
        if facts["source"]:
            # Before the report, which shows it beside the cells.
            compared = provenance.compare_with_committed(notebook, facts["source"])
            facts["source"] = {
                **facts["source"],
                "compared_with": compared.reference,
                "differences": list(compared.list_differences),
                "says": compared.says,
            }
        problems = _write_page(folder / REPORT, notebook, facts, compared=compared, redactor=redactor)
        facts["notes"] = [*facts["notes"], *problems]
    elif not (folder / NOTEBOOK).exists():
        write_journal_page(folder, facts, records)
    # Last: the report is one of the files that are hashed.
    facts["files"] = hashes_of(folder)
    return facts


def _write_page(
    path: Path,
    notebook: Notebook,
    facts: RunFacts,
    *,
    compared: provenance.CodeComparison | None,
    redactor: Redactor,
) -> list[str]:
    """Write a run's report; a sentence where its notebook has outputs of which no page can be made."""
    try:
        # Sanitizing may join what comments and unknown tags kept apart.
        page = redactor.redact_page(pages.report_page(notebook, facts, compared))
    except ImportError:
        raise  # it is said which extra to install
    except Exception as error:
        return [f"There is no report: an output of the notebook is not as nbformat 4 has it ({type(error).__name__})."]
    write_atomically(path, page)
    return []


def hashes_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that a run left in its folder."""
    return {name: digest((folder / name).read_bytes()) for name in FILES if (folder / name).exists()}


def write_journal_page(folder: Path, facts: RunFacts, records: Sequence[Record]) -> None:
    """The page of a run that left a journal only: a command, or a session whose kernel was killed."""
    lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    text: Cell = {"cell_type": "markdown", "metadata": {}, "source": "This run left no notebook. Its journal:"}
    journal: Output = {"output_type": "stream", "name": "stdout", "text": lines}
    cell: Cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": [journal]}
    # Where only the terminal's commands are installed there is nothing that makes pages.
    with suppress(ModuleNotFoundError):
        write_atomically(folder / REPORT, pages.report_page({"cells": [text, cell], "metadata": {}}, facts))


def write_unexecuted(source: Path, notebook: Path, about: Mapping[str, object]) -> None:
    """Write the notebook of a run that ended before its first cell."""
    document = parse_json(source.read_text(encoding="utf-8"))
    document["metadata"]["buddy_ops"] = about
    # Results that were saved in the runbook's file are of another execution.
    forget_results(document)
    for cell in document["cells"]:
        cell["metadata"]["buddy_ops"] = {"state": "not run"}
    write_atomically(notebook, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def append_to_chain(folder: Path, facts: Mapping[str, object], sign: Sign | None = None) -> ManifestEntry:
    """Chain a finished run to those beside its folder, sign it, and add it to their index."""
    try:
        return entry_of_manifest(LocalStore(folder.parent).add(folder, facts, sign))
    except (BuddyError, OSError):
        # Without a manifest the report would read as forged. `runs index` makes it anew.
        if not (folder / MANIFEST).exists():
            (folder / REPORT).unlink(missing_ok=True)
        raise


def unarchived_entry(folder: Path, about: Mapping[str, object], known: Mapping[str, object]) -> ManifestEntry:
    """What is known of a run whose files could not be completed: it is in no chain."""
    return _outside_chain({**facts_of(folder.name, about, [], []), **known})


def _outside_chain(facts: Mapping[str, object]) -> ManifestEntry:
    """The entry of a run without a manifest."""
    return entry_of({**facts, "files": {}, "previous": "", "sha256": ""})


def archive_unfinished(root: Path) -> list[str]:
    """Archive unfinished runs: runs whose supervisor was killed, sessions in Jupyter, commands.

    A run in progress holds its journal, and is skipped; so is a folder that no run leaves (``verify`` says why).
    Returns the folders' names.
    """
    adopted = []
    store = LocalStore(root)
    for name, files in store.folders().items():
        if MANIFEST in files or is_locked(root / name / JOURNAL):
            continue
        delete_parts(root / name)
        # To archive a folder that somebody put there would make it evidence.
        if verification.stray_problems(store, name, files) + store.oddities(name):
            continue
        redactor, note, target = _reached_for(root / name)
        notes = ["The run ended without its supervisor and was archived later."]
        if note:
            notes.append(note)
        sign = None
        if target is not None:
            sign = signatures.signer(target)
        append_to_chain(root / name, build_manifest(root / name, redactor, notes=notes), sign)
        adopted.append(name)
    return adopted


def delete_parts(folder: Path) -> None:
    """Delete what a write left that a kill cut off; the file itself has its old content. A signature comes later."""
    for name in (*FILES, MANIFEST, SIGNATURE):
        delete_parts_of(folder / name)
    (folder / SIGNATURE).unlink(missing_ok=True)


def rebuild_index(store: RunStore) -> int:
    """Rebuild the index from the manifests. Returns the number of runs.

    Raises:
        BuddyError: ``archive-damaged``: a run does not verify, or the index names a run that is missing. The index is
            kept: it is the only trace of that run.
    """
    with store.locked():
        manifests = manifests_in_order(store)
        problems = _reasons_not_to_index(store, manifests)
        if problems:
            raise verification.does_not_verify(
                store,
                problems,
                now="The index was not changed.",
                next=f"{verification.LIST_PROBLEMS} Find the cause of each, and move away what does not belong there. "
                "If the index itself is wrong, delete index.json. Then run this again.",
            )
        store.rebuild(manifests)
    return len(manifests)


def _reasons_not_to_index(store: RunStore, manifests: list[bytes]) -> list[str]:
    """Why the manifests that are there are not the archive as it was."""
    # A missing index is what is to be rebuilt: then only the manifests can be compared with each other.
    index = store.read(INDEX)
    rows: list[dict[str, object]] = []
    if index:
        rows = _parsed(index, store)
    known = {str(row.get("sha256")): str(row.get("folder")) for row in rows}
    present = {digest(manifest) for manifest in manifests}
    # What a pruning names may be missing. Everything else that the index has must be there, as it was.
    gone = verification.pruned_runs([*manifests, *store.chained().values()])
    found = [
        f"{folder}: its manifest is changed or gone."
        for sha256, folder in known.items()
        if sha256 not in present and sha256 not in gone
    ]
    folders = store.folders()
    previous = ""
    for number, manifest in enumerate(manifests):
        entry = entry_of_manifest(manifest)
        if index and entry.sha256 not in known and not store.chain_is_elsewhere:
            found.append(f"{entry.folder}: not in the index: it was added, or removed from the index.")
        elif entry.sha256 not in gone:
            found += verification.differences(store, entry.folder, manifest, folders.get(entry.folder, set()))
        # Only the oldest run may follow one that is not there, and only one that a pruning names.
        if entry.previous != previous and not (number == 0 and entry.previous in gone):
            found.append(f"{entry.folder}: the chain is broken: the run before it is missing or out of sequence.")
        previous = entry.sha256
    return found


def list_with_unfinished(store: RunStore) -> list[tuple[ManifestEntry, RunStore]]:
    """Every archived run, then those of this machine that are not archived there yet; and where each one's files are.

    A run in progress is among them. Nothing is written.
    """
    found: list[tuple[ManifestEntry, RunStore]] = [(entry, store) for entry in list_entries(store)]
    if isinstance(store, LocalStore):
        local = store
    else:
        # Runs that S3 did not take yet are archived here.
        local = LocalStore(project.project_root() / "runs")
        known = {entry.folder for entry, _ in found}
        found += [(entry, local) for entry in list_entries(local) if entry.folder not in known]
    listed = {entry.folder for entry, _ in found}
    for name, files in local.folders().items():
        if name in listed or MANIFEST in files or not files & {NOTEBOOK, JOURNAL}:
            continue
        about, states = _about_and_states(_parsed_notebook(local.read(f"{name}/{NOTEBOOK}") or b""))
        records = read_journal(local.read(f"{name}/{JOURNAL}") or b"")
        # A folder of which nothing can be said is left out: `runs verify` reports it.
        with suppress(BuddyError, KeyError, TypeError):
            found.append((_outside_chain(facts_of(name, about, records, states)), local))
    return found


def upload_run(store: RunStore, folder: Path, sign: Sign | None = None) -> ManifestEntry:
    """Archive a sealed run in S3 as well, in the chain there, and sign its manifest there."""
    facts = parse_json((folder / MANIFEST).read_bytes())
    facts.pop("unsigned", None)  # was said of the manifest here
    facts["targets"] = _as_archived_in(store, facts.get("targets", ()))
    return entry_of_manifest(store.add(folder, facts, sign))


def sign_run(store: RunStore, run: str) -> ManifestEntry:
    """Sign a run that was archived without a signature. The caller needs the permission to sign.

    Raises:
        InvalidInput: ``run-unknown``, ``run-ambiguous``, ``no-signing-key``.
        Refused: ``run-already-signed``.
        BuddyError: ``archive-damaged``: a run that does not verify is not signed.
        AwsFailed: as ``signing.sign_digest``.
    """
    entry = find_run(store, run)
    name = entry.folder
    sign = signatures.signer_of(entry.environment)
    if sign is None:
        raise InvalidInput(
            "no-signing-key",
            f"No key signs the runs of {entry.environment or 'this environment'}.",
            next=f"Set archive.sign in parameters/{entry.environment or 'ENVIRONMENT'}.yaml. docs/archive.md says how.",
        )
    if store.read(f"{name}/{SIGNATURE}") is not None:
        raise Refused(
            "run-already-signed", f"{name} has a signature.", next="`buddy-ops runs verify` says whether it is right."
        )
    # A signature says that the run is as it was archived: of one that was changed it would be wrong for ever.
    verification.require_verified(store, now="Nothing was signed.")
    store.attach(name, sign(store.read(f"{name}/{MANIFEST}") or b""))
    return entry


# What a run's files say


def ending(records: Sequence[Record], states: list[str]) -> tuple[str, int]:
    """Outcome and exit code of a run whose supervisor was lost."""
    codes: dict[str, int] = {str(ending): code for ending, code in EXIT_CODES.items()}
    codes |= {"refused": Refused.exit_code, "failed": BuddyError.exit_code}
    endings = ["", *(str(each.get("ending", "")) for each in records if each.get("kind") in ("outcome", "fleet-ended"))]
    ended = endings[-1]
    stopped = next((state for state in states if state != "done"), "")
    # A refusal is a result of its own, whatever the journal says of steps before it.
    if stopped == "refused":
        return "refused", Refused.exit_code
    # A rollout that ended badly raises: its cell failed because of the ending, which says more.
    if stopped == "failed" and not codes.get(ended):
        return "failed", BuddyError.exit_code
    if stopped not in ("", "failed"):
        return "killed", BuddyError.exit_code
    if ended:
        return ended, codes.get(ended, 0)
    # Commands have no cells. What they did is in their journal.
    acted = any(each.get("kind") in ("rollback", "frozen", "lifted", "pruned") for each in records)
    if states or acted:
        return "done", 0
    return UNKNOWN, BuddyError.exit_code


def facts_of(folder: str, about: Mapping[str, object], records: Sequence[Record], states: list[str]) -> RunFacts:
    """What a run's notebook and journal say of it, as its manifest has it."""
    opened = next((each for each in records if each.get("kind") == "opened"), {})
    approved = [each for each in records if each.get("kind") == "approved"]
    # These files may hold anything: a run of which they say nothing usable is archived all the same.
    values = runbooks.mapping_in(about, "parameters")
    for record in records:
        if record.get("kind") == "parameters" and not values:
            values = runbooks.mapping_in(record, "values")
    # The last approval is that of the last plan; approvers are all who approved any.
    principal = next((record.get("principal") for record in reversed(approved)), "")
    plans = ["", *(plan for each in records if (plan := _text(each.get("plan"))))]
    ended = about.get("began")
    if records:
        ended = records[-1].get("at")
    # What the supervisor observed is in ``known`` and replaces this; without a supervisor it is all there is.
    outcome, code = ending(records, states)
    return {
        "v": 1,
        "run": _text(about.get("run") or opened.get("run")),
        "folder": folder,
        "runbook": _text(about.get("runbook")) or project.runbook_name(_text(opened.get("runbook"))),
        "environment": _text(about.get("environment") or opened.get("environment")),
        "began": _text(about.get("began") or opened.get("at")),
        "ended": _text(ended),
        "outcome": outcome,
        "exit_code": code,
        "people": [
            *dict.fromkeys(
                (*_names(values.get("approved_by")), *(who for record in approved for who in _names(record.get("by"))))
            )
        ],
        "principal": _text(principal),
        "incident": str(values.get("incident", "")),
        "plan_id": plans[-1],
        "parameters": values,
        "trouble": "",
        "notes": [],
        "archive": _text(about.get("archive")),
        "source": runbooks.mapping_in(about, "source"),
        "library": runbooks.mapping_in(about, "library"),
        "targets": [_target_run(record) for record in records if record.get("kind") == "fleet-step"],
    }


def _target_run(record: Record) -> dict[str, object]:
    """A run on a target of a fleet, from the fleet's journal."""
    named = {name: _text(record.get(name)) for name in ("target", "runbook", "folder", "outcome")}
    return {**named, "sha256": _text(record.get("manifest"))}


def _as_archived_in(store: RunStore, targets: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """A fleet's targets' runs with the hashes of their manifests in this archive: each archive has its own chain."""
    found = []
    for each in targets:
        manifest = read_manifest(store, str(each.get("folder", "")))
        kept = {name: value for name, value in each.items() if name != "elsewhere"}
        if manifest is not None:
            kept["sha256"] = digest(manifest)
        elif kept.get("sha256"):
            kept["elsewhere"] = True
        found.append(kept)
    return found


def _text(value: object) -> str:
    """A text of a run's files; '' for anything else."""
    if isinstance(value, str):
        return value
    return ""


def _names(value: object) -> list[str]:
    """Names in a run's files: a list of them, or one."""
    if not isinstance(value, list | tuple):
        value = [value]
    return [str(name) for name in value if name is not None]


def _cleaned_notebook(path: Path, redactor: Redactor) -> tuple[Mapping[str, object], list[str]]:
    """What a notebook says of its run, and the states of its code cells. It is cleaned where it stands."""
    document = _notebook_in(path)
    if document is None:
        # Damaged, it may have secrets all the same.
        _clean_text(path, redactor)
        return {}, []
    cleaned = redactor.redact(document)
    if cleaned != document:
        write_atomically(path, json.dumps(cleaned, indent=1, ensure_ascii=False) + "\n")
    return _about_and_states(cleaned)


def _notebook_in(path: Path) -> Notebook | None:
    """The notebook in a run's folder; None where there is none, or where its file is damaged."""
    with suppress(OSError):
        return _parsed_notebook(path.read_bytes())
    return None


def _parsed_notebook(content: bytes) -> Notebook | None:
    """A notebook's JSON; None for anything else."""
    with suppress(ValueError):
        document = parse_json(content, limit=OWN_JSON_BYTES)
        if runbooks.is_notebook(document):
            found: Notebook = document
            return found
    return None


def _about_and_states(notebook: Notebook | None) -> tuple[Mapping[str, object], list[str]]:
    """What a notebook says of its run, and the states of its code cells; nothing where there is none."""
    if notebook is None:
        return {}, []
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    states = [str(runbooks.mapping_in(cell["metadata"], "buddy_ops").get("state", "done")) for cell in code]
    return runbooks.mapping_in(notebook["metadata"], "buddy_ops"), states


def _cleaned_journal(path: Path, redactor: Redactor) -> Sequence[Record]:
    """A journal's records; its file is cleaned too. A line that was torn stays one."""
    text = _text_in(path)
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
    if cleaned == record:
        return line
    return json.dumps(cleaned)


def _text_in(path: Path) -> str:
    """A file's text; '' where there is none."""
    if not path.exists():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _clean_text(path: Path, redactor: Redactor) -> None:
    """Clean a text file, if there is one."""
    text = _text_in(path)
    cleaned = redactor.redact(text)
    if cleaned != text:
        write_atomically(path, cleaned)


def _reached_for(folder: Path) -> tuple[Redactor, str, session.Target | None]:
    """A redactor for a run of the past, what it could not learn, and the run's environment where it can be reached."""
    about, _ = _cleaned_notebook(folder / NOTEBOOK, Redactor())
    opened = next((each for each in _cleaned_journal(folder / JOURNAL, Redactor()) if each.get("kind") == "opened"), {})
    environment = str(about.get("environment") or opened.get("environment", ""))
    # Without AWS the run is archived all the same: its secrets are then found by their form only, which it says.
    try:
        here = session.connect(environment, "runs", quiet=True)
    except BuddyError as error:
        return (
            Redactor(),
            f"The function's environment could not be read, so its values were not searched for: {error.what}",
            None,
        )
    return here.redactor, here.learn_secrets(), here


def _archive_of(environment: str) -> str:
    with suppress(InvalidInput):
        return str(project.read_settings(environment)[0]["archive"]["where"])
    return ""


def _parsed(index: bytes, store: RunStore) -> list[dict[str, object]]:
    try:
        return index_rows(index)
    except ValueError:
        raise damaged(f"{store.where}/{INDEX}") from None


def manifests_in_order(store: RunStore) -> list[bytes]:
    """Every manifest there is, oldest first as they are chained.

    Raises:
        BuddyError: ``archive-damaged``.
    """
    found = []
    for name in sorted(name for name, files in store.folders().items() if MANIFEST in files):
        if (content := store.read(f"{name}/{MANIFEST}")) is not None:
            try:
                entry = entry_of_manifest(content)
            except BuddyError:
                raise damaged(f"{store.where}/{name}/{MANIFEST}") from None
            # A copy under another name would be in the chain twice.
            if entry.folder != name:
                raise damaged(f"{store.where}/{name}: was renamed or copied: its manifest is of {entry.folder}, and")
            found.append(content)
    return in_order(found)
