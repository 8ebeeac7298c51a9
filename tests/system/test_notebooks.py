"""The notebooks' anatomy: short, without outputs, and with nothing in them that the library should own."""

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core import parameters, places
from tests.system.runbooks import clean

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=places.short_name)

LINE = re.compile(r"[a-z_]+: [^=]+ = .+  # \S.*")
LOOPS = (ast.For, ast.AsyncFor, ast.While)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    """A notebook's cells of one kind; each source is one text."""
    document = json.loads(path.read_text("utf-8"))
    return [{**cell, "source": "".join(cell["source"])} for cell in document["cells"] if cell["cell_type"] == kind]


def is_parameters(cell: dict[str, Any]) -> bool:
    return "parameters" in cell["metadata"].get("tags", [])


def parsed(source: str) -> ast.Module:
    """A cell's syntax; cells may await."""
    return compile(source, "cell", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_there_are_notebooks() -> None:
    """The tests below look at something."""
    assert {"start_here", "canary", "immediate"} <= {path.stem for path in NOTEBOOKS}


@each_notebook
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    """No outputs, execution counts or traces of papermill: executed copies belong to the archive."""
    assert clean.problems(path) == []


@each_notebook
def test_only_the_parameters_show_their_code(path: Path) -> None:
    """JupyterLab opens a runbook with every other code cell collapsed: people read results, and edit parameters."""
    hidden = {cell["id"]: cell["metadata"].get("jupyter", {}).get("source_hidden") for cell in cells(path, "code")}
    assert hidden == {cell["id"]: None if is_parameters(cell) else True for cell in cells(path, "code")}


@each_notebook
def test_a_notebook_is_short(path: Path) -> None:
    """At most 20 cells; code cells have a median of 3 lines and at most 10, the parameters aside."""
    code = [cell["source"] for cell in cells(path, "code") if not is_parameters(cell)]
    lines = [len([line for line in source.splitlines() if line.strip()]) for source in code]
    assert len(cells(path, "code")) + len(cells(path, "markdown")) <= 20
    assert statistics.median(lines) <= 3 and max(lines) <= 10


@each_notebook
def test_a_notebook_leaves_the_work_to_the_library(path: Path) -> None:
    """No definitions, no loops, no boto3 and no shell in any code cell."""
    for cell in cells(path, "code"):
        for node in ast.walk(parsed(cell["source"])):
            assert not isinstance(node, (*LOOPS, *DEFINITIONS)), ast.unparse(node)
            assert not isinstance(node, ast.Import | ast.ImportFrom) or "boto" not in ast.unparse(node)
            assert not isinstance(node, ast.Name) or node.id not in ("boto3", "botocore", "subprocess", "get_ipython")


@each_notebook
def test_an_approval_is_said_once(path: Path) -> None:
    """The approval's cell shows nothing beside what ``request_approval`` itself says."""
    for cell in cells(path, "code"):
        last = parsed(cell["source"]).body[-1]
        assert not (isinstance(last, ast.Expr) and ast.unparse(last) == "approval"), cell["id"]


@each_notebook
def test_the_parameters_explain_themselves(path: Path) -> None:
    """One cell has the tag, and each of its lines is ``name: type = default  # what it means``."""
    (cell,) = (cell for cell in cells(path, "code") if is_parameters(cell))
    lines = cell["source"].splitlines()
    assert all(LINE.fullmatch(line) for line in lines), [line for line in lines if not LINE.fullmatch(line)]
    declared = parameters.parse_declarations(cell["source"])
    assert len(declared) == len(lines)
    # Every default has its own declared type, and the file's two keys stand in every notebook.
    assert parameters.check_parameters(declared, {}, path.stem) == parameters.check_parameters(
        declared, {name: each.default for name, each in declared.items()}, path.stem
    )
    assert (declared["environment"].annotation, declared["environment"].default) == ("str", "")
    assert (declared["settings"].annotation, declared["settings"].default) == ("dict", {})


@each_notebook
def test_a_notebook_opens_with_the_library_and_its_own_name(path: Path) -> None:
    """Right after the parameters, before anything else, they are checked, and the target is connected."""
    code = cells(path, "code")
    at = next(n for n, cell in enumerate(code) if is_parameters(cell))
    assert f'target = open_runbook("{places.short_name(path)}", globals())' in code[at + 1]["source"]


@each_notebook
def test_headings_read_alone_are_the_procedure(path: Path) -> None:
    """One title, then numbered steps without a gap."""
    text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    steps = [int(number) for number in re.findall(r"^## (\d+)\. ", text, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) == len(re.findall(r"^## ", text, re.MULTILINE)) > 0


@each_notebook
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link in the prose is a file that is there."""
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", cell["source"]):
            assert "://" in link or (path.parent / link).resolve().is_file(), link


@each_notebook
def test_cell_ids_are_readable_and_unique(path: Path) -> None:
    """Ids stay as they are from one commit to the next, so that a diff shows what changed."""
    ids = [cell["id"] for kind in ("code", "markdown") for cell in cells(path, kind)]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-z0-9-]{1,64}", each) for each in ids)


def readme_rows() -> list[list[str]]:
    """The cells of the README's table of runbooks."""
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.split("## Runbooks")[1].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def first_minutes(text: str) -> float | None:
    """The first duration that a text names, in minutes."""
    match = re.search(r"\b(\d+|half an|an?) (minute|hour)s?\b", text)
    if match is None:
        return None
    number = {"a": 1.0, "an": 1.0, "half an": 0.5}.get(match[1]) or float(match[1])
    return number * (60 if match[2] == "hour" else 1)


def test_the_readme_and_the_notebooks_take_as_long() -> None:
    """Where a notebook says how long it takes, the README's table says the same."""
    said = {}
    for row in readme_rows()[2:]:
        for name in re.findall(r"\((notebooks/.+\.ipynb)\)", row[1]):
            prose = "\n".join(cell["source"] for cell in cells(ROOT / name, "markdown"))
            if takes := re.search(r"\*\*Takes\*\* ([^.]+)", prose):
                said[name] = (first_minutes(row[3]), first_minutes(takes[1]))
    assert len(said) > 12
    assert {name: both for name, both in said.items() if both[0] != both[1]} == {}


def test_the_readme_has_one_row_for_each_notebook() -> None:
    """The situation, what to open, who does it, how long it takes: one row a notebook, and none for what is not."""
    rows = readme_rows()
    assert rows[0] == ["situation", "open", "who", "takes"]
    assert all(len(row) == 4 and all(row) for row in rows[2:]), "four cells, none of them empty"
    opened = [re.fullmatch(r"\[(.+)\]\((notebooks/.+)\.ipynb\)", row[1]) for row in rows[2:]]
    linked = [match for match in opened if match]
    assert all(match[2] == f"notebooks/{match[1]}" for match in linked)
    assert sorted(ROOT / f"{match[2]}.ipynb" for match in linked) == NOTEBOOKS


DIRTY = {
    "outputs": {"outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}]},
    "an execution count": {"execution_count": 3},
    "traces of papermill": {"metadata": {"papermill": {"duration": 1.0}}},
    "traces of its execution": {"metadata": {"execution": {"iopub.execute_input": "2026-11-22"}}},
}


def write(path: Path, cell: dict[str, Any], metadata: dict[str, Any] | None = None) -> Path:
    plain = {"cell_type": "code", "id": "a", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}
    document = {"cells": [{**plain, **cell}], "metadata": metadata or {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document), "utf-8")
    return path


@pytest.mark.parametrize("what", DIRTY)
def test_the_check_names_what_is_dirty(tmp_path: Path, what: str) -> None:
    """Whatever an execution leaves in a notebook is found, and said in words."""
    assert clean.problems(write(tmp_path / "a.ipynb", {})) == []
    (told,) = clean.problems(write(tmp_path / "a.ipynb", DIRTY[what]))
    assert what in told


def test_the_check_ends_with_1_and_names_each_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``make check`` fails on any notebook that was saved after a run, and names all of them; clean ones pass."""
    write(tmp_path / "clean.ipynb", {})
    assert clean.main([str(tmp_path)]) == 0
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "ran.ipynb", DIRTY["an execution count"])
    write(tmp_path / "executed.ipynb", {}, {"papermill": {"duration": 1.0}})
    (tmp_path / ".ipynb_checkpoints").mkdir()
    write(tmp_path / ".ipynb_checkpoints" / "old.ipynb", DIRTY["outputs"])
    assert clean.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "ran.ipynb" in said and "executed.ipynb" in said
    assert "clean.ipynb" not in said and "old.ipynb" not in said
