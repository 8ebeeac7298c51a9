"""The cells of a notebook as plain JSON: which are code, and what an earlier execution left in them."""

from collections.abc import Mapping
from typing import Any, TypedDict


class Output(TypedDict, total=False):
    """An output of a cell, as nbformat 4 has it; its kind decides which of these it has."""

    output_type: str
    name: str
    text: str | list[str]
    ename: str
    evalue: str
    traceback: list[str]
    # Any program can add a type of its own, whose data may be any JSON.
    data: dict[str, Any]
    metadata: dict[str, object]


class Cell(TypedDict, total=False):
    """A cell, as nbformat 4 has it; only code has outputs."""

    cell_type: str
    id: str
    source: str | list[str]
    metadata: dict[str, Any]
    outputs: list[Output]


class Notebook(TypedDict):
    """What is used here of a notebook's JSON. ``runbooks.is_notebook`` says whether a document has it."""

    cells: list[Cell]
    metadata: dict[str, Any]


def forget_results(notebook: Any) -> None:
    """Delete what earlier executions left in a saved notebook: none of it belongs to this run. Changes ``notebook``."""
    # Widgets' state is of a kernel that is gone; nbclient writes that of this run at its end.
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        # Times of an earlier execution, which JupyterLab records on request.
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] == "code":
            cell["outputs"] = []
            cell["execution_count"] = None


def source_of(cell: Mapping[str, Any]) -> str:
    """A cell's text; files have it as one text, or as a list of lines."""
    return "".join(cell["source"])
