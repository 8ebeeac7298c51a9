"""A session in Jupyter, without a supervisor: archived with its page when the last cell ends, or when the kernel does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import nbformat
import pytest
import yaml

from buddy_ops.runs import archive, signatures, verification
from buddy_ops.runs.stores import LocalStore
from tests.conftest import Situation
from tests.system.runbooks.test_deaths import tiny

Bring = Callable[..., Situation]
PARAMETERS = """environment: str = "sandbox"
settings: dict = {}
incident: str = ""
dry_run: bool = False"""
OPEN = """from buddy_ops.notebook.opening import open_runbook
target = open_runbook("session", globals())
target"""
LOOK = """from IPython.display import display
print("looked at", incident)
shown = display({"text/plain": "first"}, raw=True, display_id=True)
shown.update({"text/plain": "second"}, raw=True)"""
LAST = "target.journal.append('rollback', to='1')\nprint('the end')"
PERSON = """import contextlib, nbformat, nbclient
with contextlib.suppress(nbclient.exceptions.CellExecutionError):
    nbclient.NotebookClient(nbformat.read("session.ipynb", 4), kernel_name="python3").execute()"""
CELLS = (PARAMETERS, OPEN, LOOK, LAST)
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture
def project(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one runbook, and a kernel that nobody supervises."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    folder = tiny(here.folder / "project", "pass").parents[1]
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0]["metadata"]["tags"] = ["parameters"]
    cells[2]["outputs"] = [nbformat.v4.new_output("stream", text="left over")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebooks" / "session.ipynb")
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER")
    monkeypatch.chdir(folder)
    return folder


def execute(project: Path, cells: int = 4, **changed: str) -> None:
    """What a person does in JupyterLab: some cells, one after the other; then the kernel is shut down."""
    notebook = nbformat.read(project / "notebooks" / "session.ipynb", 4)
    notebook.cells = notebook.cells[:cells]
    notebook.cells[0].source = notebook.cells[0].source.replace('incident: str = ""', 'incident: str = "inc-7"')
    notebook.cells[2:] = [*notebook.cells[2:], *(nbformat.v4.new_code_cell(source) for source in changed.values())]
    nbformat.write(notebook, project / "session.ipynb")
    # In a process of its own: workers that are forked from this one would inherit the client's event loop.
    subprocess.run([sys.executable, "-c", PERSON], cwd=project, check=True, capture_output=True, timeout=120)


def entries(project: Path) -> tuple[Any, ...]:
    found = archive.list_entries(project / "runs")
    assert verification.verify_archive(LocalStore(project / "runs")).problems == ()
    return found


def code(project: Path, folder: str) -> list[dict[str, Any]]:
    executed = json.loads((project / "runs" / folder / "notebook.ipynb").read_text())
    return [cell for cell in executed["cells"] if cell["cell_type"] == "code"]


def test_a_session_is_archived_when_its_last_cell_ends(project: Path) -> None:
    """Its code as it was executed, its outputs as they were shown, its incident; and a page that opens offline."""
    execute(project)
    (entry,) = entries(project)
    assert (entry.runbook, entry.environment, entry.incident, entry.outcome) == ("session", "sandbox", "inc-7", "done")
    assert set(entry.files) == {"notebook.ipynb", "report.html", "journal.jsonl"} and entry.source["sha256"]
    cells = code(project, entry.folder)
    assert [cell["metadata"]["buddy_ops"]["state"] for cell in cells] == ["done"] * 4
    texts = [output.get("text") or output["data"]["text/plain"] for output in cells[2]["outputs"]]
    assert texts == ["looked at inc-7\n", "second"]
    page = (project / "runs" / entry.folder / "report.html").read_text()
    assert "looked at inc-7" in page and "left over" not in page


@pytest.mark.whole
def test_a_session_whose_kernel_ends_before_is_archived_then(project: Path) -> None:
    """What was executed until then; what was not has no output, whatever the file holds."""
    execute(project, 2)
    (entry,) = entries(project)
    assert [cell["metadata"]["buddy_ops"]["state"] for cell in code(project, entry.folder)] == [
        *("done", "done", "not run", "not run")
    ]
    assert "left over" not in (project / "runs" / entry.folder / "report.html").read_text()


@pytest.mark.whole
def test_what_fails_and_what_is_added_is_in_the_page(project: Path) -> None:
    """A person's own cell, and the error that ended the session."""
    execute(project, 3, mine="print('my own cell')", error="raise ValueError('mine')")
    (entry,) = entries(project)
    cells = code(project, entry.folder)
    assert [cell["metadata"]["buddy_ops"]["state"] for cell in cells[4:]] == ["done", "failed"]
    assert (entry.outcome, entry.exit_code) == ("failed", 1) and cells[5]["outputs"][0]["ename"] == "ValueError"


@pytest.mark.whole
def test_what_follows_the_last_cell_is_a_run_of_its_own(project: Path) -> None:
    """An archived run is never written to: the records of a cell that is executed again go to another folder."""
    execute(project, 4, again="target.journal.append('rollback', to='2')\nprint('again')")
    first, second = entries(project)
    assert first.folder != second.folder and second.previous == first.sha256
    assert "'again'" in json.dumps(code(project, second.folder)) and "'again'" not in json.dumps(
        code(project, first.folder)
    )


def test_a_review_finds_a_session_that_is_not_archived(project: Path) -> None:
    """A kernel that still runs, or was killed, left a journal: its incident and its records belong to the review."""
    folder = project / "runs" / "run-0001"
    folder.mkdir(parents=True)
    records = [
        {"kind": "opened", "run": "0001", "folder": folder.name, "runbook": "immediate", "environment": "sandbox"},
        {"kind": "parameters", "values": {"incident": "inc-7", "approved_by": ["Ada"]}},
        {"kind": "rollback", "to": "1"},
    ]
    lines = [
        json.dumps({"seq": number, "at": "2026-11-22T03:12:00Z", **each}) for number, each in enumerate(records, 1)
    ]
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in lines))
    ((entry, _),) = archive.list_with_unfinished(LocalStore(project / "runs"))
    assert (entry.incident, entry.people, entry.runbook) == ("inc-7", ("Ada",), "immediate")
    assert archive.archive_unfinished(project / "runs") == ["run-0001"]
    (archived,) = entries(project)
    assert archived.incident == "inc-7" and archived.people == ("Ada",)


@pytest.mark.whole
def test_a_runbook_that_was_damaged_meanwhile_ends_no_session(project: Path) -> None:
    """The file on disk is no notebook any more: the cells are executed, and archived when the kernel ends."""
    file = project / "notebooks" / "session.ipynb"
    document = nbformat.read(file, 4)
    document.cells[0].source += "\nopen('notebooks/session.ipynb', 'w').write('{')"
    nbformat.write(document, file)
    execute(project)
    (entry,) = entries(project)
    assert (
        entry.runbook == "session" and entry.outcome == "done" and "the end" in json.dumps(code(project, entry.folder))
    )


@pytest.mark.whole
def test_a_session_is_signed_where_its_environment_has_a_key(project: Path) -> None:
    """No supervisor does it: the kernel signs, and no record of that reaches the journal that is archived."""
    kms = boto3.client("kms", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1", **KEYS)
    key = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
    file = project / "parameters" / "sandbox.yaml"
    given = yaml.safe_load(file.read_text())
    given["settings"]["archive"] = {"sign": {"key": key}}
    file.write_text(yaml.safe_dump(given))
    execute(project)
    (entry,) = entries(project)
    found = verification.verify_archive(LocalStore(project / "runs"), check=signatures.check_by_kms())
    assert found.is_ok and found.signed.startswith("SIGNED: 1 run"), (found, entry.unsigned)
    # The record of the settings names the key.
    assert '"call": "kms:' not in (project / "runs" / entry.folder / "journal.jsonl").read_text()
