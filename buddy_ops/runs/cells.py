"""The cells of a notebook as plain JSON: which are code, and what an earlier execution left in them."""

from collections.abc import Mapping
from typing import Any


def forget_results(notebook: Any) -> None:
    """Delete what earlier executions left in a saved notebook: none of it belongs to this run. Changes ``notebook``."""
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] == "code":
            cell["outputs"] = []
            cell["execution_count"] = None


def source_of(cell: Mapping[str, Any]) -> str:
    """A cell's text; files have it as one text, or as a list of lines."""
    return "".join(cell["source"])
