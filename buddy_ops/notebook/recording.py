"""A session in Jupyter as an archived run: its cells and outputs are kept, and archived when the last cell ends.

No supervisor does this for such a run. When the kernel ends before, or opens another run, what was
executed until then is archived. Nothing here stops a cell: what fails is said, and ``buddy-ops runs index`` is left.
"""

import atexit
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, TypedDict

from buddy_ops.aws.session import Target
from buddy_ops.core import project, runbooks
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.files import write_atomically
from buddy_ops.core.journal import JournalFile
from buddy_ops.notebook import page
from buddy_ops.notebook._shell import current_shell
from buddy_ops.notebook.printing import print_escaped
from buddy_ops.runs import archive, cells, provenance, signatures
from buddy_ops.runs._failures import failure_of
from buddy_ops.runs.manifest import NOTEBOOK, ManifestEntry
from buddy_ops.runs.stores import JOURNAL, MANIFEST, S3Store

OUTPUTS = ("stream", "display_data", "execute_result", "error")
Output = dict[str, Any]


class Executed(TypedDict):
    """A cell that was executed. ``id`` is empty where the front end gave none."""

    id: str
    source: str
    outputs: list[Output]
    state: str
    execution_count: int | None


_recorded: list["InteractiveRun"] = []
"""The run that this kernel records, if it does."""


def record_session(target: Target, runbook: str, values: Mapping[str, object]) -> None:
    """Record the notebook that opened this target, if it runs in a kernel that no supervisor watches.

    Args:
        runbook: the notebook's name.
        values: its parameters.
    """
    if os.environ.get("BUDDY_OPS_RUN_FOLDER"):
        return  # its supervisor archives it
    shown = {name: value for name, value in values.items() if name != "settings"}
    target.journal.append("parameters", values=shown)
    shell = _kernel_shell()
    if shell is None:
        return
    # A second runbook in the same kernel ends the record of the first.
    while _recorded:
        _recorded.pop().close()
    run = InteractiveRun(target, shell, runbook, shown, given_settings=values.get("settings"))
    _recorded.append(run)
    # Without another cell the kernel's end is the last moment to archive it.
    atexit.register(run.close)


def _kernel_shell() -> Any:
    """The kernel's shell; None outside a kernel."""
    shell = current_shell()
    # IPython in a terminal has a shell and no kernel.
    if getattr(shell, "kernel", None) is None:
        return None
    return shell


class InteractiveRun:
    """The cells that a person executes from the one that opened the target on, with their outputs."""

    def __init__(
        self, target: Target, shell: Any, runbook: str, values: Mapping[str, object], *, given_settings: object
    ) -> None:
        self._target, self._shell = target, shell
        settings = provenance.describe_settings(target.environment, given_settings)
        self._source = next((project.project_root() / "notebooks").rglob(f"{runbook}.ipynb"), None)
        self._document: dict[str, Any] = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        # A damaged file does not end the session: what is executed is archived without the file's other cells.
        with suppress(InvalidInput):
            if self._source is not None:
                self._document = runbooks.read_runbook(self._source)
        source: dict[str, object] = {}
        if self._source is not None:
            source = {**provenance.describe_source(self._source), "settings": settings}
        self._about = {
            "run": target.run,
            "runbook": project.runbook_name(runbook),
            "environment": target.environment,
            "began": target.journal.records[0]["at"],
            "parameters": dict(values),
            "archive": target.settings.archive.where,
            "folder": target.folder.name,
            "source": source,
            "library": provenance.describe_library(),
            "interactive": True,
        }
        self._executed: list[Executed] = []
        self._recorder = _Recorder(shell)
        # What was executed before this cell left no trace but its source: the parameters, as a rule.
        # IPython counts from 1, so the first is empty. The last is this cell itself.
        for text in shell.history_manager.input_hist_raw[1:-1]:
            name = ""
            # Every runbook's parameters cell declares it.
            if "environment: str" in text:
                name = self._parameters_cell()
            self._executed.append({"id": name, "source": text, "outputs": [], "state": "done", "execution_count": None})
        shell.events.register("post_run_cell", self._after_cell)

    def _parameters_cell(self) -> str:
        """The id of the runbook's cell that a person edits: its text says nothing of which cell it is."""
        tagged = (cell for cell in self._document["cells"] if "parameters" in cell["metadata"].get("tags", ()))
        return next((str(cell.get("id", "")) for cell in tagged), "")

    def _after_cell(self, result: Any) -> None:
        try:
            self._keep(result)
            if self._is_last(self._executed[-1]):
                # Archiving gives later records a folder of their own.
                folder = self._target.folder
                self._archive()
                print_escaped(f"Archived as {folder.name}.")
                self._upload(folder)
        except Exception as error:
            said = self._target.redactor.redact_with_shared(f"{type(error).__name__}: {error}")
            print_escaped(f"NOT ARCHIVED: {said}\n`buddy-ops runs index` archives this run once the kernel has ended.")

    def _keep(self, result: Any) -> None:
        outputs = self._recorder.take()
        state = "done"
        if not result.success:
            failure = failure_of(outputs)
            stopped = isinstance(result.error_in_exec, KeyboardInterrupt)
            state = "failed"
            if stopped:
                state = "interrupted"
            elif failure and failure.is_refusal:
                state = "refused"
        cell: Executed = {
            "id": getattr(result.info, "cell_id", None) or "",
            "source": result.info.raw_cell,
            "outputs": outputs,
            "state": state,
            "execution_count": result.execution_count,
        }
        self._executed.append(cell)

    def _is_last(self, executed: Executed) -> bool:
        code = [cell for cell in self._document["cells"] if cell["cell_type"] == "code"]
        return bool(code) and _is_same(code[-1], executed)

    def close(self) -> None:
        """Archive what was executed until now, because the kernel ends or another run begins."""
        self._shell.events.unregister("post_run_cell", self._after_cell)
        self._recorder.close()
        atexit.unregister(self.close)
        if self._executed and (self._target.folder / JOURNAL).exists():
            try:
                self._archive()
            except Exception as error:
                # At the end of the process the kernel's own streams may be closed.
                print_escaped(f"NOT ARCHIVED: {type(error).__name__}. Run `buddy-ops runs index`.", file=sys.__stderr__)

    def _archive(self) -> ManifestEntry:
        """Write the notebook, its report and its manifest. Later records go to another folder."""
        folder = self._target.folder
        if (folder / MANIFEST).exists():
            raise BuddyError(
                "archive-damaged", f"{folder.name} has a manifest already.", next="`buddy-ops runs verify`."
            )
        redactor = self._target.redactor
        document = redactor.redact(self._notebook())
        write_atomically(folder / NOTEBOOK, json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n")
        states = [cell["metadata"]["buddy_ops"]["state"] for cell in document["cells"] if cell["cell_type"] == "code"]
        outcome, code = archive.ending(self._target.journal.records, [state for state in states if state != "not run"])
        entry = archive.append_to_chain(
            folder,
            archive.build_manifest(folder, redactor, outcome=outcome, exit_code=code),
            signatures.signer(self._target),
        )
        if entry.unsigned:
            print_escaped(f"NOT SIGNED: {entry.unsigned}\n`buddy-ops runs sign {folder.name}` signs it.")
        self._executed.clear()
        _continue_elsewhere(self._target)
        # A folder's name ends with its run's ID of eight digits: see ``_continue_elsewhere``.
        later = {"folder": self._target.folder.name, "run": self._target.folder.name[-8:], "began": entry.ended}
        self._about = {**self._about, **later}
        return entry

    def _upload(self, folder: Path) -> None:
        where = self._target.settings.archive.where
        if not where:
            return
        try:
            archive.upload_run(S3Store(self._target, where), folder, signatures.signer(self._target))
            print_escaped(f"Archived in {where}.")
        except BuddyError as error:
            print_escaped(f"NOT ARCHIVED in {where}: {error.what}\n`buddy-ops runs index` uploads it.")

    def _notebook(self) -> dict[str, Any]:
        """The runbook's cells as they were executed last, then those that are none of it."""
        # A copy: the next archive of this kernel begins with the runbook's cells again.
        document = deepcopy(self._document)
        cells.forget_results(document)
        document["metadata"]["buddy_ops"] = self._about
        left = list(self._executed)
        for cell in document["cells"]:
            cell["metadata"]["buddy_ops"] = {"state": "not run"}
            found: list[Executed] = []
            if cell["cell_type"] == "code":
                found = [executed for executed in left if _is_same(cell, executed)]
            # Of a cell that was executed several times, the last one counts.
            if found:
                _fill(cell, found[-1])
                left = [executed for executed in left if executed not in found]
        for number, executed in enumerate(left):
            extra: dict[str, Any] = {"cell_type": "code", "id": executed["id"] or f"extra-{number}", "metadata": {}}
            _fill(extra, executed)
            document["cells"].append(extra)
        return document


def _is_same(cell: Mapping[str, Any], executed: Executed) -> bool:
    """Whether an execution is of this cell of the runbook: by its id, or by its text."""
    named = executed["id"] and cell.get("id") == executed["id"]
    return bool(named) or cells.source_of(cell).strip() == executed["source"].strip()


def _fill(cell: dict[str, Any], executed: Executed) -> None:
    cell["source"] = executed["source"]
    cell["outputs"] = executed["outputs"]
    cell["execution_count"] = executed["execution_count"]
    cell["metadata"]["buddy_ops"] = {"state": executed["state"]}


def _continue_elsewhere(target: Target) -> None:
    """Let later records of a target begin a folder of their own: what is archived is never written to."""
    run = secrets.token_hex(4)
    folder = target.folder.with_name(f"{target.folder.name[: -len(target.run) - 1]}-{run}")
    opened = {
        "seq": 1,
        "at": target.journal.records[-1]["at"],
        "kind": "opened",
        "run": run,
        "folder": folder.name,
        "runbook": target.runbook,
        "environment": target.environment,
        "continues": target.folder.name,
    }
    target.folder = folder
    target.journal.continue_in(JournalFile(folder / JOURNAL), opened)


class _Recorder:
    """Keeps what a kernel publishes for the cell that is executed: the messages that JupyterLab shows."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._session = shell.kernel.session
        self._send: Callable[..., object] = self._session.send
        # Streams, displays and errors have no other place in common that they pass.
        self._session.send = self._record
        self._outputs: list[Output] = []
        self._displays: dict[str, list[Output]] = {}
        self._clear_next = False

    def close(self) -> None:
        self._session.send = self._send

    def take(self) -> list[Output]:
        """The outputs since the last call."""
        # What is printed becomes a message only then.
        sys.stdout.flush()
        sys.stderr.flush()
        taken, self._outputs = self._outputs, []
        return taken

    def _record(self, stream: object, what: object, content: object = None, *rest: object, **options: object) -> object:
        kind = str(what)
        said = content
        # A whole message, or the name of its type with the content beside it.
        if isinstance(what, dict):
            kind = what["msg_type"]
            said = what["content"]
        if isinstance(said, dict):
            self._take_message(kind, said)
        return self._send(stream, what, content, *rest, **options)

    def _take_message(self, kind: str, said: Mapping[str, Any]) -> None:
        if kind == "clear_output":
            # With ``wait`` the outputs are cleared once the next one comes. Source: Jupyter messaging, clear_output.
            self._clear_next = bool(said.get("wait"))
            if not self._clear_next:
                self._outputs.clear()
            return
        # A chart that was updated is one output with its last content, wherever the cell first displayed it.
        if kind == "update_display_data":
            for shown in self._displays.get(str((said.get("transient") or {}).get("display_id")), ()):
                shown.update(data=dict(said["data"]), metadata=dict(said["metadata"]))
        if kind not in OUTPUTS or said.get("metadata") == page.UNRECORDED:
            return
        if self._clear_next:
            self._outputs.clear()
            self._clear_next = False
        # nbformat has no such member: it is for front ends, while the kernel runs.
        fields = {name: value for name, value in said.items() if name != "transient"}
        last = self._outputs[-1] if self._outputs else {}
        if kind == "stream" and last.get("output_type") == kind and last.get("name") == said["name"]:
            last["text"] += said["text"]
            return
        output = {"output_type": kind, **fields}
        self._outputs.append(output)
        display = (said.get("transient") or {}).get("display_id")
        if display:
            self._displays.setdefault(str(display), []).append(output)
