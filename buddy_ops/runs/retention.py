"""Old runs deleted, so that what is left still verifies.

A pruning is a run of its own in the same chain: its manifest names each run that it deletes, and that run's hash. It
is archived before anything is deleted, so that a pruning that is cut off is finished by the next one.
"""

import json
import re
import secrets
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.core.files import make_scratch_folder, write_atomically
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import count, parse_utc
from buddy_ops.runs import archive, verification
from buddy_ops.runs.manifest import ManifestEntry, entry_of_manifest
from buddy_ops.runs.run_facts import RunFacts
from buddy_ops.runs.stores import INDEX, JOURNAL, MANIFEST, LocalStore, RunStore, S3Store, Sign, digest

RUNBOOK = "runs/prune"
# '200', '400d' or '52w'.
KEEP = re.compile(r"(?P<number>\d{1,6})(?P<unit>[dw]?)", re.ASCII)
DAYS = {"d": 1, "w": 7}
LONGEST_DAYS = 365 * 1000
"""Longer ago no calendar has a date for it."""


@dataclass(frozen=True)
class Pruning:
    """What ``runs prune`` would delete: always the oldest runs, so that the rest is one chain."""

    keep: str
    runs: tuple[ManifestEntry, ...]
    kept: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.runs:
            lines = [f"Nothing to prune: {count(self.kept, 'run')}, keep {self.keep}."]
        else:
            lines = [f"{run.folder}  {run.result}  {run.ended_at}  {run.sha256[:12]}" for run in self.runs]
            lines.append(f"{count(len(self.runs), 'run')} to delete, {self.kept} kept (keep {self.keep}).")
        return "\n".join((*lines, *self.notes))


def plan_pruning(store: RunStore, keep: str, now: datetime) -> Pruning:
    """The runs that are older, or more, than what is kept. Nothing is written.

    Args:
        keep: '200' (the newest 200 runs), '400d' (runs that ended within 400 days) or '52w'.
        now: the time that ages are counted from.

    Raises:
        InvalidInput: ``invalid-parameters``.
        BuddyError: ``archive-damaged``: the archive does not verify, so nothing of it is deleted.
    """
    match = KEEP.fullmatch(keep.strip())
    if match is None or int(match["number"]) == 0:
        raise InvalidInput(
            "invalid-parameters",
            f"--keep is {keep!r}. It must be a number of runs, days or weeks, above 0.",
            next="For example --keep 200 (the newest 200 runs), --keep 400d or --keep 52w.",
        )
    verification.require_verified(store, now="Nothing was deleted: the runs may be needed to find the cause.")
    # In S3 index and chain keep what was pruned.
    gone = verification.pruned_runs(store.chained().values())
    entries = [entry for entry in archive.list_entries(store) if entry.sha256 not in gone]
    number = int(match["number"])
    if match["unit"]:
        days = min(number * DAYS[match["unit"]], LONGEST_DAYS)
        old = _ended_before(entries, now - timedelta(days=days))
    else:
        old = tuple(entries[: max(0, len(entries) - number)])
    # Of a run that belongs in S3 and is not there yet, the copy on this machine is the only one.
    notes: tuple[str, ...] = ()
    if isinstance(store, LocalStore):
        old, notes = _uploaded(old)
    return Pruning(keep, old, len(entries) - len(old), notes)


def _ended_before(entries: Sequence[ManifestEntry], limit: datetime) -> tuple[ManifestEntry, ...]:
    """The oldest runs up to the first that ended later, or whose time cannot be read."""
    found = []
    for entry in entries:
        try:
            # Not all that are old enough: what is kept must be one chain, without a hole in it.
            if parse_utc(entry.ended) >= limit:
                break
        except ValueError:
            break
        found.append(entry)
    return tuple(found)


def _uploaded(old: tuple[ManifestEntry, ...]) -> tuple[tuple[ManifestEntry, ...], tuple[str, ...]]:
    """The oldest runs up to the first that S3 should have and has not; and what to say of that one."""
    known: dict[str, set[str]] = {}
    for number, entry in enumerate(old):
        if entry.archive and entry.archive not in known:
            there = archive.open_store(entry.archive, entry.environment)
            known[entry.archive] = {uploaded.folder for uploaded in archive.list_entries(there)}
        if entry.archive and entry.folder not in known[entry.archive]:
            said = f"{entry.folder} is not in {entry.archive} yet, so it and newer runs are kept."
            return old[:number], (f"{said} `buddy-ops runs index` uploads it.",)
    return old, ()


def run_pruning(
    store: RunStore, plan: Pruning, by: Sequence[str], now: datetime, *, sign: Sign | None = None
) -> ManifestEntry:
    """Archive the pruning as a run, then delete the runs that it names. Returns its entry.

    In S3 only the runs' folders are deleted: index and chain keep their manifests.

    Args:
        by: who pruned.
        sign: signs its manifest.

    Raises:
        Refused: ``archive-locked``: Object Lock keeps some of them; the rest is deleted.
        AwsFailed: it cannot be signed, so nothing was deleted; or S3 refused.
    """
    if sign is not None:
        # Without a signature its record would excuse nothing, and the runs that it deletes would be missing.
        sign(b"Whether this caller may sign.")
    run = secrets.token_hex(4)
    name = f"{now:%Y-%m-%dT%H%MZ}-prune-{run}"
    # Archived before anything is deleted: a pruning that is cut off is then finished, and nothing reads as missing.
    with ExitStack() as held:
        if isinstance(store, LocalStore):
            folder = store.root / name
        else:
            folder = Path(held.enter_context(make_scratch_folder())) / name
        facts = _write_record(folder, run, plan, by=by, now=now)
        entry = entry_of_manifest(store.add(folder, facts, sign))
    finish_pruning(store)
    return entry


def _write_record(folder: Path, run: str, plan: Pruning, *, by: Sequence[str], now: datetime) -> RunFacts:
    """Write the files of a run that says what is pruned. Returns what its manifest says."""
    folder.mkdir(parents=True)
    at = iso_utc(now)
    runs: dict[str, object] = {entry.sha256: entry.folder for entry in plan.runs}
    folders = [entry.folder for entry in plan.runs]
    opened: dict[str, object] = {"kind": "opened", "run": run, "folder": folder.name, "runbook": RUNBOOK}
    pruned: dict[str, object] = {"kind": "runs-pruned", "keep": plan.keep, "by": list(by), "runs": folders}
    records = [{"seq": number, "at": at, **record} for number, record in enumerate((opened, pruned), 1)]
    write_atomically(folder / JOURNAL, "".join(f"{json.dumps(record)}\n" for record in records))
    about = {"runbook": RUNBOOK, "parameters": {"keep": plan.keep}}
    facts = archive.facts_of(folder.name, about, records, [])
    facts["outcome"] = "done"
    facts["exit_code"] = 0
    facts["people"] = list(by)
    facts["notes"] = [f"{count(len(runs), 'run')} pruned: {', '.join(folders)}"]
    facts["pruned"] = {"keep": plan.keep, "runs": runs}
    archive.write_journal_page(folder, facts, records)
    facts["files"] = archive.hashes_of(folder)
    return facts


def finish_pruning(store: RunStore) -> list[str]:
    """Delete the runs that a pruning in the chain names, and locally take them out of the index: their folders' names.

    Raises:
        Refused: ``archive-locked``: Object Lock keeps some of them.
        AwsFailed: S3 refused.
    """
    if isinstance(store, LocalStore):
        return _finish_here(store)
    assert isinstance(store, S3Store)
    there = store.folders()
    deleted = [name for name in verification.pruned_runs(store.chained().values()).values() if name in there]
    # All of them are tried: of a run under a longer retention the others must not wait.
    locked = {name: number for name in deleted if (number := store.delete(name))}
    if locked:
        raise Refused(
            "archive-locked",
            f"Object Lock still keeps {count(len(locked), 'run')} of {count(len(deleted), 'run')}, from "
            f"{min(locked)} to {max(locked)}.",
            now="The pruning is recorded, and the other runs are deleted. `buddy-ops runs verify` accepts both.",
            next="Run the same command again once their retention is over.",
        )
    return deleted


def _finish_here(store: LocalStore) -> list[str]:
    with store.locked():
        manifests = archive.manifests_in_order(store)
        gone = verification.pruned_runs(manifests)
        # All prunings of the chain, not the last one alone: an earlier one may have been cut off.
        deleted = [name for name in gone.values() if _is_there(store, name, gone)]
        for name in deleted:
            _delete(store.root / name)
        # The index after the folders: cut off in between, `verify` finds nothing red, and the next pruning gets here.
        listed = [manifest for manifest in manifests if digest(manifest) not in gone]
        if gone and store.read(INDEX) is not None and len(listed) < len(archive.list_entries(store)):
            store.rebuild(listed)
    return deleted


def _is_there(store: LocalStore, name: str, gone: dict[str, str]) -> bool:
    """Whether a folder is still that of the run that was pruned, or what is left of it."""
    manifest = store.read(f"{name}/{MANIFEST}")
    # A kill between the manifest, which goes last, and its folder leaves an empty one.
    if manifest is None:
        return (store.root / name).is_dir() and not any((store.root / name).iterdir())
    # Another run may have been archived under this name since.
    return digest(manifest) in gone


def _delete(folder: Path) -> None:
    """Delete a run's folder. The manifest goes last: until then the folder shows what it is."""
    for path in folder.iterdir():
        if path.name == MANIFEST:
            continue
        # A link is deleted, and never what it leads to.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / MANIFEST).unlink(missing_ok=True)
    folder.rmdir()
