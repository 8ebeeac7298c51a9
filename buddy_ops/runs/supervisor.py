"""Runbooks executed headlessly: whichever process is lost, the run is archived as it ended.

A notebook is validated, executed by a process of its own, and archived. How it ended comes from the data of the error
that a cell raised, if one did.
"""

import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from buddy_ops.aws import notifications, session
from buddy_ops.aws.session import Target
from buddy_ops.core import front_end, parameters, places, project, redaction, runbooks
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.extras import require_run_packages
from buddy_ops.core.files import make_lasting_folder, make_scratch_folder
from buddy_ops.core.journal import lock_journal
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import did_you_mean, shorten
from buddy_ops.runs import archive, pages, provenance, retention, signatures, verification
from buddy_ops.runs._failures import Failure
from buddy_ops.runs._interrupts import DIED, INTERRUPTED, TIMED_OUT
from buddy_ops.runs.manifest import NOTEBOOK, REPORT, ManifestEntry
from buddy_ops.runs.run_facts import RunFacts
from buddy_ops.runs.stores import JOURNAL, MANIFEST, LocalStore, S3Store, Sign
from buddy_ops.runs.worker import KILLED, Worker, start_worker

if TYPE_CHECKING:
    from buddy_ops.runs.engine import Job

OUTCOMES = {INTERRUPTED: "interrupted", TIMED_OUT: "timed-out", DIED: "killed", KILLED: "killed"}
"""The outcome of a run that ended by an error of this name."""

LOOK_S = 20.0
"""Seconds that archiving waits for AWS: for the caller and the function's environment."""


@dataclass(frozen=True)
class ExecutedRun:
    """An executed runbook. ``trouble`` is what its failing cell said, or None; ``told`` what the archive has to say.

    ``error`` is the same as ``trouble`` for programs: the error's data, empty where it is none of the library's.
    """

    folder: Path
    notebook: Path
    report: Path | None
    exit_code: int
    trouble: str | None
    entry: ManifestEntry
    told: tuple[str, ...] = ()
    error: Mapping[str, object] = field(default_factory=dict)


def run_notebook(
    notebook: str,
    given: Mapping[str, object],
    *,
    folder: Path | None = None,
    progress: Progress = no_progress,
    archive_to: str | None = None,
    cell_timeout_s: float | None = None,
    worker: Worker | None = None,
) -> ExecutedRun:
    """Execute a runbook, and archive it however it ends.

    Args:
        notebook: its path, relative to the project's root; 'strategies/canary' suffices.
        given: its parameters; names and types are checked before a kernel starts.
        folder: where the run is archived; absent: a new folder in runs/.
        progress: called for each step, with one short line.
        archive_to: 's3://bucket/prefix', for the archive besides the folder; absent: as the environment's settings say.
        cell_timeout_s: how long a cell may take; absent: as long as it likes.
        worker: the process that executes it; absent: one is started once the parameters are checked.

    Raises:
        InvalidInput: ``extra-missing``, ``notebook-missing``, ``not-a-runbook``, ``invalid-parameters``,
            ``invalid-settings``, and what ``project.read_artifact`` raises.
        AwsFailed: ``sandbox-not-running``.
    """
    # Before anything is made: without the packages nothing could execute or archive the run.
    require_run_packages()
    source = find_notebook(notebook)
    short = places.short_name(source)
    values = parameters.check_parameters(runbooks.read_declarations(source), given, short)
    if "environment" in values:
        values["environment"] = project.choose_environment(values["environment"])
        given = {**given, "environment": values["environment"]}  # what the notebook is given, its archive shows
    # What is wrong with a file is said before a folder is made, or AWS is asked.
    project.check_files(values)
    with make_scratch_folder() as private, nullcontext(worker) if worker else start_worker() as running:
        # Meanwhile it imports papermill.
        here = session.connect(
            values["environment"],
            short,
            values=values.get("settings"),
            replaced=parameters.rollout_overrides(values),
            quiet=True,
            dry_run=values.get("dry_run", False),
        )
        progress = here.side.watch(progress)
        shared = redaction.new_file(private)
        here.redactor.share_with_kernel(shared)
        here.redactor.add_secrets_of({name: value for name, value in given.items() if isinstance(value, str)})
        # Locked until the notebook has ended: `runs index` archives an unlocked run as an unfinished one.
        folder, held = _claim_writable(here, folder or here.folder)
        if archive_to is None:
            archive_to = here.settings.archive.where
        about: RunFacts = {
            "run": here.run,
            "runbook": project.runbook_name(short),
            "environment": here.environment,
            "began": here.now(),
            "parameters": {name: value for name, value in values.items() if name != "settings"},
            "archive": archive_to,
            "folder": folder.name,
            "source": {
                **provenance.describe_source(source),
                "settings": provenance.describe_settings(here.environment, values.get("settings")),
            },
            "library": provenance.describe_library(),
        }
        progress(f"{short} on {here.environment}, run {here.run}")
        # Not before the redactor shares what it learns: the kernel must have the function's secrets, too.
        looking = _BackgroundLookup(here)
        job = _job(here, source, folder, about=about, given=given, shared=shared, cell_timeout_s=cell_timeout_s)
        ended = running.execute(job, progress)
        held.close()
        progress("archiving")
        done = _archive(here, source, folder, about=about, failure=ended, looking=looking)
        return replace(done, told=(*running.failures, *here.side.unsaid(), *done.told))


def write_step_summary(done: ExecutedRun) -> None:
    """Add a summary in Markdown to the step's page, where a CI platform keeps one (GITHUB_STEP_SUMMARY)."""
    _add_summary({**vars(done.entry), "notes": (*done.entry.notes, *done.told)}, done.entry.sha256)


def write_error_summary(notebook: str, environment: str, error: BuddyError) -> None:
    """Add a summary of a run that ended before a kernel started: it has no archive."""
    about = {"runbook": notebook, "environment": environment, "exit_code": error.exit_code, "trouble": str(error)}
    about["outcome"] = outcome_of(error)
    _add_summary(redaction.Redactor().redact(about), "")


def _add_summary(facts: Mapping[str, object], digest: str) -> None:
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        # Appended: the step's other commands write to the same file. A summary that fails changes no exit code.
        with suppress(OSError), Path(path).open("a", encoding="utf-8", errors="replace") as file:
            file.write(pages.step_summary(facts, digest))


def index_archive(where: str = "", environment: str = "") -> Iterator[str]:
    """Archive unfinished runs, upload what S3 lacks, and rebuild the index. Yields a line for each step.

    Args:
        where: a folder, or 's3://bucket/prefix'; then the runs in runs/ that belong there and are not.
        environment: through whose settings S3 is reached.
    """
    store = archive.open_store(where, environment)
    if isinstance(store, LocalStore):
        # First: the folders of a pruning that was cut off are half deleted, and must not be taken for damaged runs.
        for folder in retention.finish_pruning(store):
            yield f"{folder}: pruned"
        for folder in archive.archive_unfinished(store.root):
            yield f"{folder}: archived"
        local = store.root
        missing = [each for each in archive.list_entries(store) if each.archive]
    else:
        local = project.project_root() / "runs"
        missing = [each for each in archive.list_entries() if each.archive.rstrip("/") == store.where]
    for there in sorted({each.archive for each in missing}):
        bucket = store
        if not isinstance(bucket, S3Store):
            bucket = archive.open_store(there, environment)
        # By the folder's name: in S3 a run has another manifest, since the chain there is another one.
        known = {each.folder for each in archive.list_entries(bucket)}
        for each in missing:
            if each.archive == there and each.folder not in known:
                archive.upload_run(bucket, local / each.folder, signatures.signer_of(each.environment))
                yield f"{each.folder}: uploaded to {there}"
    yield f"{archive.rebuild_index(store)} run(s) in {store.where}"
    # What does not belong in the folder is no run, so nothing above it has read it.
    strange: tuple[str, ...] = ()
    if isinstance(store, LocalStore):
        strange = verification.verify_archive(store).problems
    if strange:
        raise verification.does_not_verify(
            store,
            strange,
            now="All other runs are archived.",
            next=f"{verification.LIST_PROBLEMS} Find the cause, and move away what does not belong.",
        )


def _claim_writable(here: Target, wanted: Path) -> tuple[Path, IO[bytes]]:
    """A folder for the run and its journal's lock: where it belongs, or else a temporary one."""
    try:
        return _claim(wanted, here.run)
    except OSError as error:
        here.side.note(f"writing to {wanted.parent}", error)
    # Not deleted: the run is archived in it.
    return _claim(make_lasting_folder() / wanted.name, here.run)


def _claim(folder: Path, run: str) -> tuple[Path, IO[bytes]]:
    """A folder that nothing was archived in yet, and its journal's lock: an archived run is never written to.

    Raises:
        OSError: it takes none.
    """
    free = folder
    if (folder / MANIFEST).exists():
        free = folder.with_name(f"{folder.name}-{run}")
    while (free / MANIFEST).exists():
        free = folder.with_name(f"{folder.name}-{secrets.token_hex(4)}")
    free.mkdir(parents=True, exist_ok=True)
    return free, lock_journal(free / JOURNAL)


def _job(
    here: Target,
    source: Path,
    folder: Path,
    *,
    about: RunFacts,
    given: Mapping[str, object],
    shared: str,
    cell_timeout_s: float | None,
) -> "Job":
    """The job that the worker executes. ``shared`` is the file through which its kernel learns of secrets."""
    return {
        "source": str(source),
        "notebook": str(folder / NOTEBOOK),
        "parameters": dict(given),
        "about": about,
        "cwd": str(project.project_root()),
        "cell_timeout_s": cell_timeout_s,
        "patterns": here.settings.archive.redact,
        "innocent": here.settings.model_dump(mode="json"),
        "environment": {
            "BUDDY_OPS_RUN_FOLDER": str(folder),
            "BUDDY_OPS_RUN": here.run,
            redaction.FILE: shared,
            front_end.VARIABLE: "run",
        },
    }


class _BackgroundLookup:
    """Slow reads that no cell waits for: the caller, the function's secrets, the imports of the report."""

    def __init__(self, here: Target) -> None:
        self._here = here
        self.principal = ""
        # Until it was read: archiving does not wait for it longer than LOOK_S.
        self.note = "The function's environment could not be read in time, so its values were not searched for."
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(LOOK_S)

    def _look(self) -> None:
        self.note = self._here.learn_secrets()
        # Without an answer of STS the manifest names no caller, and is written all the same.
        with suppress(BuddyError):
            self.principal = self._here.principal
        pages.preload()


def _archive(
    here: Target,
    source: Path,
    folder: Path,
    *,
    about: RunFacts,
    failure: Failure | None,
    looking: _BackgroundLookup,
) -> ExecutedRun:
    """Write the run's manifest, chain it, announce it, and upload it where its environment has an archive in S3."""
    looking.wait()
    # Secrets that the kernel learned are in the shared file only.
    here.redactor.reload_shared()
    code, said = 0, ""
    if failure is not None:
        code, said = failure.exit_code, failure.message
    notes = list(filter(None, [looking.note]))
    known = {"exit_code": code, "ended": here.now(), "trouble": said, "notes": notes, **_outcome(failure)}
    told: list[str] = []
    # The folder's archive comes first: S3 may be out of reach, and the run is complete without it.
    sign = signatures.signer(here)
    try:
        if not (folder / NOTEBOOK).exists():
            # The file may have been deleted or damaged since it was read: then the journal is what is archived.
            with suppress(OSError, ValueError, KeyError, TypeError):
                archive.write_unexecuted(source, folder / NOTEBOOK, about)
        facts = archive.build_manifest(folder, here.redactor, **known)
        facts["principal"] = facts["principal"] or looking.principal
        entry = archive.append_to_chain(folder, facts, sign)
    # A full disk, a damaged index: the run has ended as it has ended.
    except Exception as error:
        entry = archive.unarchived_entry(folder, here.redactor.redact(about), known)
        told.append(_not_archived(here, folder, error))
    else:
        told += _say_unsigned(entry, "")
        if about["archive"]:
            entry, more = _upload(here, folder, about["archive"], entry, sign=sign)
            told += more
    if entry.source.get("differences"):
        told.append(str(entry.source["says"]))
    if entry.people and not here.dry_run:
        archived = "It was NOT archived."
        if entry.sha256:
            # The hash reveals an archive that was rewritten, wherever the message was sent: `runs verify --newest`.
            archived = f"Archived as {entry.folder}, manifest {entry.sha256}."
        said = f"{entry.runbook} ended: {entry.result}. {archived}"
        told += notifications.announce(here, said).failures
    page = folder / REPORT
    done = ExecutedRun(
        folder,
        folder / NOTEBOOK,
        report=page if page.exists() else None,
        exit_code=code,
        trouble=None,
        entry=entry,
        told=tuple(told),
    )
    if failure is None:
        return done
    # Redacted last: archiving may have learned more secrets.
    data = here.redactor.redact(dict(failure.data))
    return replace(done, trouble=here.redactor.redact(failure.message), error=data)


def _upload(
    here: Target, folder: Path, where: str, entry: ManifestEntry, *, sign: Sign | None
) -> tuple[ManifestEntry, list[str]]:
    """Upload an archived run to its environment's archive in S3; its entry there, and what is to be said of it."""
    try:
        uploaded = archive.upload_run(S3Store(here, where), folder, sign)
    except BuddyError as error:
        return entry, [
            f"NOT ARCHIVED in {where}: {error.what}\n"
            f"The run is on this machine only, in {folder}. Upload it with `buddy-ops runs index`."
        ]
    return uploaded, [*_say_unsigned(uploaded, where), f"Archived in {where}/{uploaded.folder}."]


def _not_archived(here: Target, folder: Path, error: Exception) -> str:
    """What is to be said of a run whose folder could not be completed."""
    why = f"{type(error).__name__}: {error}"
    if isinstance(error, BuddyError):
        why = error.what
    return (
        f"NOT ARCHIVED: {here.redactor.redact(why)}. What could be written of the run is in {folder}.\n"
        "Once that folder can be written to, `buddy-ops runs index` archives it."
    )


def _say_unsigned(entry: ManifestEntry, where: str) -> list[str]:
    """That a run's manifest was not signed, why, and how it can be; empty: it was, or was not to be."""
    if not entry.unsigned:
        return []
    place, option = "", ""
    if where:
        place, option = f" in {where}", f" --archive {where}"
    return [
        f"NOT SIGNED{place}: {entry.unsigned}\n"
        f"Sign it with `buddy-ops runs sign {entry.folder}{option}`, as a role that may (kms:Sign)."
    ]


def _outcome(failure: Failure | None) -> dict[str, str]:
    """The outcome that the run's error tells; without one the journal's."""
    if failure is None:
        return {}
    if failure.name in OUTCOMES:
        return {"outcome": OUTCOMES[failure.name]}
    if failure.exit_code in (3, 5):
        # A rollout's ending is its error's reference. Errors without data begin with it.
        return {"outcome": failure.reference or failure.text.partition("\n")[0]}
    return {"outcome": {2: "invalid", 4: "refused"}.get(failure.exit_code, "failed")}


def outcome_of(error: BuddyError) -> str:
    """The outcome of a run that ended by this error before a kernel started."""
    return _outcome(Failure.of_error(error))["outcome"]


def find_notebook(notebook: str) -> Path:
    """The file of a runbook. Raises InvalidInput ``notebook-missing`` or ``no-project``."""
    root = places.require_project()
    for path in (root / notebook, root / "notebooks" / notebook, root / "notebooks" / f"{notebook}.ipynb"):
        with suppress(OSError, ValueError):  # no system has such a path
            if path.is_file():
                return path
    known = list(places.runbook_files())
    name = notebook.removesuffix(".ipynb")
    raise InvalidInput(
        "notebook-missing",
        f"There is no runbook {shorten(notebook, 200)!r}.{did_you_mean(name, known)}",
        next=f"Choose one of: {', '.join(known)}. `buddy-ops runbooks` says what each is for.",
    )
