"""What was executed, beside what was committed: a notebook that somebody edited does not pass for the runbook."""

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buddy_ops.core import project as core_project
from buddy_ops.core import redaction
from buddy_ops.runs import archive, provenance, verification
from buddy_ops.runs.stores import LocalStore, digest

ROOT = Path(__file__).parents[2]
CELLS = {
    "parameters": "environment = 'sandbox'\napproved_by: list[str] = []",
    "plan": "plan = make_plan()",
    "approval": "approval = request_approval(target, plan)",
    "action": "run_rollout(target, plan, approval)",
}


def document(cells: dict[str, str], **about: Any) -> dict[str, Any]:
    code = [
        {
            "cell_type": "code",
            "id": name,
            "metadata": {"tags": [name] if "parameters" in name else []},
            "source": source,
        }
        | {"outputs": [], "execution_count": None}
        for name, source in cells.items()
    ]
    heading = {"cell_type": "markdown", "id": "head", "metadata": {}, "source": "# Canary"}
    return {"cells": [heading, *code], "metadata": {"buddy_ops": about}, "nbformat": 4, "nbformat_minor": 5}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one runbook is committed."""
    for name in ("parameters", "notebooks/strategies"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notebooks" / "strategies" / "canary.ipynb").write_text(json.dumps(document(CELLS)))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "Add the runbook")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def executed(project: Path, cells: dict[str, str]) -> tuple[archive.ManifestEntry, str]:
    """The manifest and the report of a run of a notebook with these cells."""
    source = project / "notebooks" / "strategies" / "canary.ipynb"
    source.write_text(json.dumps(document(cells)))
    folder = project / "runs" / "run-0001"
    folder.mkdir(parents=True)
    about = {
        "run": "0001",
        "parameters": {"environment": "sandbox", "approved_by": []},
        "source": provenance.describe_source(source),
        "library": provenance.describe_library(),
    }
    injected = {"injected-parameters": "# Parameters\nenvironment = 'sandbox'\n"}
    ran = {"parameters": cells["parameters"], **injected, **cells}
    (folder / "notebook.ipynb").write_text(json.dumps(document(ran, **about)))
    (folder / "journal.jsonl").write_text("")
    entry = archive.append_to_chain(folder, archive.build_manifest(folder, redaction.Redactor()))
    assert verification.verify_archive(LocalStore(folder.parent)).problems == ()
    return entry, (folder / "report.html").read_text()


def test_the_manifest_names_what_was_executed(project: Path) -> None:
    """The notebook's hash, the commit, the library's version; and that nothing differs."""
    entry, page = executed(project, CELLS)
    source = (project / "notebooks" / "strategies" / "canary.ipynb").read_bytes()
    assert entry.source["notebook"] == "notebooks/strategies/canary.ipynb"
    assert entry.source["sha256"] == digest(source) and len(entry.source["commit"]) == 40
    assert entry.source["differences"] == [] and entry.source["compared_with"].startswith("commit ")
    assert entry.library["version"] and entry.library["clean"] in (True, False) and len(entry.library["commit"]) == 40
    assert '<p class="ok"><strong>The executed code is as committed' in page and "DIFFERS" not in page


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({**CELLS, "approval": "approval = Approval(('Ada', 'Grace'))"}, "cell 5 was changed"),
        (
            {name: CELLS[name] for name in ("parameters", "plan", "action")},
            "cell 4 of the committed runbook was removed",
        ),
        ({**CELLS, "more": "print('done')"}, "cell 7 was added"),
        ({name: CELLS[name] for name in ("parameters", "plan", "action", "approval")}, "cell 6 was moved"),
        ({**CELLS, "parameters": CELLS["parameters"].replace("[]", "['Ada']")}, "cell 2 was changed"),
    ],
    ids=["forged", "cut out", "added", "moved", "default"],
)
def test_an_edited_notebook_is_shown_in_red(project: Path, changed: dict[str, str], says: str) -> None:
    """Each cell that differs is named in the manifest, and marked in the report."""
    entry, page = executed(project, changed)
    assert entry.source["differences"] == [says]
    assert '<p class="differs"><strong>DIFFERS FROM THE COMMITTED RUNBOOK (commit' in page
    assert ".differs{color:#b00020" in page
    assert page.count('<div class="differs">') == 1


def test_the_cell_that_was_cut_out_is_in_the_report(project: Path) -> None:
    """What the reader misses: the source of the approval."""
    _, page = executed(project, {name: CELLS[name] for name in ("parameters", "plan", "action")})
    assert "<pre>-approval = request_approval(target, plan)</pre>" in page


def test_a_forged_tag_hides_no_cell(project: Path) -> None:
    """A cell that says it was injected by papermill, and assigns what nobody gave, is one that was added."""
    forged = {**CELLS, "injected-parameters-2": "approved_by = ['Ada']"}
    ran = document(forged)
    ran["cells"][-1]["metadata"]["tags"] = ["injected-parameters"]
    ran["metadata"]["buddy_ops"] = {"parameters": {"approved_by": []}}
    source = provenance.describe_source(project / "notebooks" / "strategies" / "canary.ipynb")
    found = provenance.compare_with_committed(ran, source)
    assert list(map(str, found.differences)) == ["cell 6 was added"]


def test_a_runbook_that_was_never_committed_differs_as_a_whole(project: Path) -> None:
    """Every cell of it was added."""
    file = project / "notebooks" / "mine.ipynb"
    file.write_text(json.dumps(document(CELLS)))
    found = provenance.compare_with_committed(document(CELLS), provenance.describe_source(file))
    assert len(found.differences) == len(CELLS) and "which has no notebooks/mine.ipynb" in found.reference


def test_without_a_repository_the_release_is_compared(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed wheel has the release's runbooks; without either, the report says that nothing was compared."""
    (project / ".git").rename(project / "no-git")
    source = provenance.describe_source(project / "notebooks" / "strategies" / "canary.ipynb")
    assert source["commit"] == ""
    changed = document({**CELLS, "approval": "pass"})
    assert provenance.compare_with_committed(changed, source).says.startswith("UNKNOWN: ")
    monkeypatch.setattr(provenance, "RELEASED", project / "notebooks")
    found = provenance.compare_with_committed(changed, source)
    assert found.reference.startswith("release ") and list(map(str, found.differences)) == ["cell 4 was changed"]


def test_changed_files_of_the_library_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that somebody edited in parameters/ makes the tree unclean."""
    monkeypatch.setattr(provenance, "LIBRARY", project / "notebooks")
    assert provenance.describe_library()["clean"] is True
    (project / "parameters" / "prod.yaml").write_text("function: x\n")
    facts = provenance.describe_library()
    assert facts["clean"] is False and facts["changed"] == ["?? parameters/prod.yaml"]


def test_results_that_were_saved_in_a_notebook_are_not_archived(tmp_path: Path) -> None:
    """A run that never began has no output, whatever its file holds from an earlier execution."""
    saved = document(CELLS)
    saved["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "v2 was approved by Grace\n"}]
    saved["cells"][2]["execution_count"] = 7
    saved["cells"][2]["metadata"]["execution"] = {"shell.execute_reply": "2026-11-22T03:12:00Z"}
    saved["metadata"]["widgets"] = {"state": "approved"}
    (tmp_path / "source.ipynb").write_text(json.dumps(saved))
    archive.write_unexecuted(tmp_path / "source.ipynb", tmp_path / "notebook.ipynb", {"run": "0001"})
    written = (tmp_path / "notebook.ipynb").read_text()
    assert "Grace" not in written and "widgets" not in written and "2026-11-22" not in written
    assert all(cell["execution_count"] is None for cell in json.loads(written)["cells"] if cell["cell_type"] == "code")


# What hides a change


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_change_that_git_was_told_to_overlook_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """git status says nothing of such a file; without a change the flag alone says nothing either."""
    monkeypatch.setattr(provenance, "LIBRARY", project / "notebooks")
    file = project / "notebooks" / "strategies" / "canary.ipynb"
    git(project, "update-index", flag, str(file))
    assert provenance.describe_library()["clean"] is True
    file.write_text("{}")
    facts = provenance.describe_library()
    assert facts["clean"] is False
    assert set(facts["changed"]) == {"strategies/canary.ipynb (hidden from git status)"}


def test_a_file_that_git_ignores_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that nobody committed is executed all the same; what Python itself leaves is none."""
    monkeypatch.setattr(provenance, "LIBRARY", project / "notebooks")
    (project / ".git" / "info" / "exclude").write_text("*.py\n__pycache__\n.ipynb_checkpoints\n")
    for name in ("__pycache__/x.pyc", ".ipynb_checkpoints/canary.ipynb"):
        (project / "notebooks" / name).parent.mkdir()
        (project / "notebooks" / name).write_text("")
    assert provenance.describe_library()["clean"] is True
    (project / "notebooks" / "sitecustomize.py").write_text("")
    assert set(provenance.describe_library()["changed"]) == {"!! notebooks/sitecustomize.py"}


def test_another_repository_is_not_asked(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a variable of the environment, nor by a replaced object in this one."""
    changed = document({**CELLS, "approval": "pass"})
    file = project / "notebooks" / "strategies" / "canary.ipynb"
    source = provenance.describe_source(file)
    assert list(map(str, provenance.compare_with_committed(changed, source).differences)) == ["cell 4 was changed"]
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.describe_source(file)["commit"] == source["commit"]
    monkeypatch.delenv("GIT_DIR")
    (project / "forged").write_text(json.dumps(changed))
    there = ["git", "hash-object", "-w", "forged"]
    forged = subprocess.run(there, cwd=project, check=True, capture_output=True, text=True).stdout.strip()
    there = ["git", "rev-parse", "HEAD:notebooks/strategies/canary.ipynb"]
    true = subprocess.run(there, cwd=project, check=True, capture_output=True, text=True).stdout.strip()
    git(project, "replace", true, forged)
    assert list(map(str, provenance.compare_with_committed(changed, source).differences)) == ["cell 4 was changed"]


DEEP = ("x = " + "(" * 3000, "x = " + "-" * 20_000 + "1", "x = " + "[" * 3000 + "]" * 3000, "x = 1\0", "x = \udc80")


@pytest.mark.parametrize(
    "source",
    ["approved_by = more = ['Ada']", "x = None", "approved_by = ['Ada', 'Grace']", "approved_by[0] = 'Ada'", "reason = 'x'",
     "approved_by = ['Ada'] or act()", *DEEP],
)  # fmt: skip
def test_no_injected_cell_hides_what_it_does(project: Path, source: str) -> None:
    """Only the values that the run was given, each by its own name; what Python cannot read is a cell of its own."""
    ran = document({**CELLS, "injected-parameters-2": source})
    ran["cells"][-1]["metadata"]["tags"] = ["injected-parameters"]
    ran["metadata"]["buddy_ops"] = {"parameters": {"approved_by": ["Ada"], "reason": "because of [redacted]"}}
    committed = provenance.describe_source(project / "notebooks" / "strategies" / "canary.ipynb")
    found = provenance.compare_with_committed(ran, committed)
    assert list(map(str, found.differences)) == ["cell 6 was added"]
    true = "approved_by = ['Ada']\nreason = 'because of [redacted]'"
    ran["cells"][-1]["source"] = true
    assert provenance.compare_with_committed(ran, committed).differences == ()


@pytest.mark.parametrize("source", DEEP)
def test_a_cell_that_python_cannot_read_ends_no_archiving(project: Path, source: str) -> None:
    """In a session, too, where the parameters cell is compared by what it declares."""
    ran = document({**CELLS, "parameters": source}, interactive=True)
    committed = provenance.describe_source(project / "notebooks" / "strategies" / "canary.ipynb")
    assert list(map(str, provenance.compare_with_committed(ran, committed).differences)) == ["cell 2 was changed"]


def test_settings_that_were_given_are_told(project: Path) -> None:
    """prod's function under rules of one's own: the manifest names each setting that is not the file's."""
    (project / "parameters" / "prod.yaml").write_text((ROOT / "parameters" / "prod.yaml").read_text())
    committed = core_project.read_settings("prod")[0]
    assert provenance.describe_settings("prod", {}) == provenance.describe_settings("prod", committed) == []
    given = {**committed, "policy": {}, "function": "another"}
    found = provenance.describe_settings("prod", given)
    assert [each.split(" was ")[0] for each in found] == ["setting function", "setting policy"]
    assert "parameters/nowhere.yaml cannot be read" in provenance.describe_settings("nowhere", given)[0]
    source = provenance.describe_source(project / "notebooks" / "strategies" / "canary.ipynb") | {"settings": found}
    compared = provenance.compare_with_committed(document(CELLS), source)
    assert (
        compared.differs
        and compared.says.startswith("DIFFERS FROM THE COMMITTED RUNBOOK")
        and "policy" in compared.says
    )
    compared = provenance.compare_with_committed(document(CELLS), {"settings": found})
    assert compared.says.startswith("DIFFERS FROM THE COMMITTED SETTINGS") and "UNKNOWN" in compared.says


def test_what_was_changed_in_an_installed_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a repository the wheel's own list of hashes is compared: a changed module, and one that was added."""
    library = tmp_path / "buddy_ops"
    (library / "__pycache__").mkdir(parents=True)
    (library / "__pycache__" / "a.pyc").write_text("")
    content = {"a.py": b"1", "b.py": b"2"}
    listed = []
    for name, text in content.items():
        (library / name).write_bytes(text)
        file = metadata.PackagePath(f"buddy_ops/{name}")
        file.hash = metadata.FileHash(f"sha256={provenance._urlsafe(hashlib.sha256(text).digest())}")
        file.dist = SimpleNamespace(locate_file=lambda path: tmp_path / path)  # type: ignore[assignment]
        listed.append(file)
    monkeypatch.setattr(provenance, "LIBRARY", library)
    monkeypatch.setattr(provenance.metadata, "files", lambda _: listed)
    assert provenance._not_as_released() == []
    (library / "a.py").write_text("3")
    (library / "approvals.py").write_text("")
    assert provenance._not_as_released() == ["buddy_ops/a.py", "buddy_ops/approvals.py (added)"]
