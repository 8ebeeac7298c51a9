"""Whether an archive is as it was written: each byte, each file, each folder, and the chain of all runs.

Nothing here writes. What it cannot find, it says.
"""

from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import read_journal
from buddy_ops.runs.manifest import (
    FILES,
    NOTEBOOK,
    REPORT,
    ManifestEntry,
    entry_of_manifest,
    index_rows,
    json_object,
)
from buddy_ops.runs.signatures import SignatureCheck
from buddy_ops.runs.stores import (
    INDEX,
    JOURNAL,
    MANIFEST,
    NAME,
    PAGE,
    SIGNATURE,
    RunStore,
    digest,
    index_of,
    is_page_of,
    read_manifest,
)

MOST_SAID = 5
"""How many problems an error names."""

LIST_PROBLEMS = "`buddy-ops runs verify` lists all problems."


@dataclass(frozen=True)
class VerificationResult:
    """What a verification found. ``beyond`` says what it cannot find.

    Attributes:
        unfinished: folders of runs that were not archived yet.
        pruned: a sentence for each ``runs prune`` that the chain has.
        unsigned: runs that must be signed and are not, and why.
        unknown: what could not be verified, and why.
        signed: how many runs have a signature that is right, for operators; empty: none has.
        elsewhere: a sentence for each run that a fleet's run names and that is in another archive: it is not verified.
    """

    runs: int
    newest: str
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]
    beyond: str
    pruned: tuple[str, ...] = ()
    unsigned: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    signed: str = ""
    elsewhere: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether everything is as it was archived, and signed where it must be."""
        return not (self.problems or self.unsigned or self.unknown)


def require_verified(store: RunStore, *, now: str) -> None:
    """Refuse to act on an archive of which anything was changed.

    Raises:
        BuddyError: ``archive-damaged``.
    """
    problems = verify_archive(store).problems
    if problems:
        raise does_not_verify(store, problems, now=now)


def does_not_verify(store: RunStore, problems: Sequence[str], *, now: str, next: str = LIST_PROBLEMS) -> BuddyError:
    """The error about an archive that is not as it was written; it names the first problems."""
    said = " ".join(problems[:MOST_SAID])
    return BuddyError("archive-damaged", f"{store.where} does not verify: {said}", now=now, next=next)


def verify_archive(store: RunStore, expected: str = "", check: SignatureCheck | None = None) -> VerificationResult:
    """Compare every byte with the manifests, the manifests with their chain, and the chain with the index.

    Args:
        expected: the hash of a manifest that was announced; it must be in the chain, or a run that was pruned.
        check: verifies the signatures; None: only whether each is of its run's manifest.
    """
    problems: list[str] = []
    signatures = check or SignatureCheck()
    folders = store.folders()
    index = store.read(INDEX)
    rows = _rows(index, problems, bool(folders))
    manifests = {name: manifest for name in map(_folder, rows) if (manifest := read_manifest(store, name))}
    # In S3 the chain keeps the manifests of runs that were pruned.
    links = store.chained()
    chained = {**{digest(manifest): manifest for manifest in manifests.values()}, **links}
    # Before the rows are compared: a pruning excuses runs that are older than itself.
    prunings = _prunings(chained.values())
    gone = pruned_runs(chained.values())
    kept: list[bytes] = []
    previous = ""
    if rows:
        previous = str(rows[0].get("previous"))
    # Without this the oldest runs could be cut off: what is left of a chain is a chain.
    if previous and previous not in gone:
        problems.append(
            f"{rows[0].get('folder')}: the chain is broken: the run before it is missing or out of sequence."
        )
    for row in rows:
        name, wanted = _folder(row), str(row.get("sha256"))
        manifest = manifests.get(name)
        # By the index's own hashes: a manifest that was changed is reported once, and not as a broken chain as well.
        if row.get("previous") != previous:
            problems.append(f"{name}: the chain is broken: the run before it is missing or out of sequence.")
        previous = wanted
        if wanted in gone:  # its files are about to be deleted, or were already
            kept += filter(None, [chained.get(wanted)])
        elif manifest is None:
            problems.append(f"{name}: missing. The index names it, but it has no manifest.")
        elif digest(manifest) != wanted:
            problems.append(f"{name}: the manifest was changed.")
        else:
            kept.append(manifest)
            problems += differences(store, name, manifest, folders.get(name, set()))
            problems += _missing_targets(manifest, {*gone, *chained})
            _check_signature(store, manifest, signatures)
    listed = {_folder(row) for row in rows}
    unfinished = [name for name in sorted(folders) if name not in listed and not _is_pruned(store, name, gone)]
    for name in unfinished:
        problems += stray_problems(store, name, folders[name])
    problems += store.strangers()
    # Not green: the whole archive may have been deleted.
    if index is None and not folders and not problems:
        problems.append(f"{store.where}: no run is archived there. Either none was yet, or all were deleted.")
    # With a problem above these would differ as well, and say nothing new. A pruning that was cut off rebuilds them.
    half_pruned = any(_folder(row) not in manifests and row.get("sha256") not in chained for row in rows)
    if not problems and not half_pruned and index != index_of(kept):
        problems.append(f"{INDEX}: does not match the manifests.")
    if not problems and not half_pruned and not is_page_of(store.read(PAGE), kept):
        problems.append(f"{PAGE}: does not match the manifests. `buddy-ops runs index` rebuilds it.")
    if expected and expected not in {*gone, *(row.get("sha256") for row in rows)}:
        problems.append(f"No run has the announced manifest {expected}: the chain was cut off or rewritten.")
    # In S3: versions that were written over or deleted, and whether Object Lock forbids that.
    more, beyond = store.examine(gone.values())
    if store.chain_is_elsewhere and list(links.values()) != kept:
        more = ["The objects under chain/ are not the manifests of the index.", *more]
    signatures.finish()
    return VerificationResult(
        runs=len(rows),
        newest=previous,
        problems=(*problems, *signatures.forged, *more),
        unfinished=tuple(name for name in unfinished if MANIFEST not in folders[name]),
        beyond=beyond,
        pruned=tuple(map(_describe_pruning, prunings)),
        unsigned=tuple(signatures.unsigned),
        # Signatures are verified only where it was asked for; what was not asked is not unknown.
        unknown=tuple(signatures.unknown) if check is not None else (),
        signed=signatures.summary(),
        elsewhere=tuple(said for manifest in kept for said in _targets_elsewhere(manifest, listed)),
    )


def _check_signature(store: RunStore, manifest: bytes, signatures: SignatureCheck) -> None:
    with suppress(BuddyError):  # a manifest that cannot be read is a problem already
        entry = entry_of_manifest(manifest)
        signatures.check(entry, manifest, store.read(f"{entry.folder}/{SIGNATURE}"))


def differences(store: RunStore, folder: str, manifest: bytes, there: set[str]) -> list[str]:
    """What of one run's files is not as its manifest says."""
    try:
        entry = entry_of_manifest(manifest)
    except BuddyError:
        return [f"{folder}: its manifest cannot be read."]
    found = []
    if entry.folder != folder:
        found.append(f"{folder}: was renamed: its manifest says {entry.folder!r}.")
    for name, wanted in entry.files.items():
        # A forged manifest may name a file outside of the archive: that one is not read.
        content = None
        if NAME.fullmatch(name):
            content = store.read(f"{folder}/{name}")
        if content is None:
            found.append(f"{folder}/{name}: missing.")
        elif digest(content) != wanted:
            found.append(f"{folder}/{name}: changed.")
    return found + [f"{folder}/{name}: added." for name in sorted(there - {MANIFEST, SIGNATURE, *entry.files})]


def _missing_targets(manifest: bytes, known: set[str]) -> list[str]:
    """The runs that a fleet's run names and this archive does not have as they were."""
    with suppress(BuddyError):  # a manifest that cannot be read is a problem already
        entry = entry_of_manifest(manifest)
        return [
            f"{entry.folder}: its run on {each.get('target')}, {each.get('folder')}, is missing or was changed."
            for each in entry.targets
            if each.get("sha256") and not each.get("elsewhere") and each["sha256"] not in known
        ]
    return []


def _targets_elsewhere(manifest: bytes, listed: Container[str]) -> list[str]:
    """The runs that a fleet's run names and that are in another archive. One that came later is verified as any."""
    with suppress(BuddyError):
        entry = entry_of_manifest(manifest)
        return [
            f"{entry.folder}: its run on {each.get('target')}, {each.get('folder')}, is in another archive. It was not "
            "verified."
            for each in entry.targets
            if each.get("elsewhere") and each.get("folder") not in listed
        ]
    return []


def stray_problems(store: RunStore, folder: str, there: set[str]) -> list[str]:
    """Why a folder that is not in the index is none that a run leaves. Empty: it can be archived, or is in progress."""
    if MANIFEST in there:
        added = store.half_added()
        if added is not None and added == store.read(f"{folder}/{MANIFEST}"):
            return []  # the next run, or `runs index`, writes its line
        return [f"{folder}: not in the index: it was added, or removed from the index."]
    if store.is_in_progress(folder):
        return []
    # A kill may leave a signature before its manifest is written; it is made anew.
    found = [f"{folder}/{name}: added." for name in sorted(there - {SIGNATURE, *FILES})]
    if REPORT in there:
        found.append(
            f"{folder}: has a report but no manifest: the manifest was deleted, the folder was added, or the run was "
            f"killed while it was archived. Only in the last case: delete its {REPORT}, then `buddy-ops runs index`."
        )
    if JOURNAL not in there:
        found.append(f"{folder}: has no journal, so no run left it.")
    named = _folders_named_in(store, folder, there) - {folder}
    if named:
        found.append(f"{folder}: was renamed: its files say {', '.join(sorted(named))}.")
    return found


def _folders_named_in(store: RunStore, folder: str, there: set[str]) -> set[str]:
    """The names of their own folder that a run's notebook and journal have. Those of earlier releases have none."""
    found = set()
    if NOTEBOOK in there:
        # A kill left it half written, or its engine had no supervisor.
        with suppress(ValueError, TypeError, KeyError):
            notebook = json_object(store.read(f"{folder}/{NOTEBOOK}") or b"")
            found.add(str(notebook["metadata"]["buddy_ops"]["folder"]))
    if JOURNAL in there:
        records = read_journal(store.read(f"{folder}/{JOURNAL}") or b"")
        found |= {str(record["folder"]) for record in records if record["kind"] == "opened" and "folder" in record}
    return found


def _rows(index: bytes | None, problems: list[str], anything: bool) -> list[dict[str, object]]:
    if index is None:
        # An archive without any run is said in other words.
        if anything:
            problems.append(f"{INDEX}: missing.")
        return []
    try:
        return index_rows(index)
    except ValueError:
        problems.append(f"{INDEX}: cannot be read.")
        return []


def _folder(row: dict[str, object]) -> str:
    return str(row.get("folder"))


def _prunings(manifests: Iterable[bytes]) -> list[ManifestEntry]:
    """The runs of ``runs prune`` among these."""
    found = []
    for manifest in manifests:
        try:
            entry = entry_of_manifest(manifest)
        except BuddyError:
            continue  # said where its run is verified
        if entry.pruned_hashes:
            found.append(entry)
    return found


def pruned_runs(manifests: Iterable[bytes]) -> dict[str, str]:
    """The runs that ``runs prune`` deleted, as the manifests of its own runs say: their hashes and folders."""
    return {sha256: folder for entry in _prunings(manifests) for sha256, folder in entry.pruned_hashes.items()}


def _is_pruned(store: RunStore, name: str, gone: dict[str, str]) -> bool:
    """Whether a folder is left over from a pruning that was cut off."""
    manifest = read_manifest(store, name)
    return manifest is not None and digest(manifest) in gone


def _describe_pruning(entry: ManifestEntry) -> str:
    folders = list(entry.pruned_hashes.values())
    who = ", ".join(entry.people) or entry.principal
    if who:
        who = f" by {who}"
    return f"{len(folders)} pruned at {entry.ended_at}{who}, from {folders[0]} to {folders[-1]} (run {entry.run})."
