"""Notebooks that are no runbooks: one clear error each."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core import runbooks
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.project import project_root

CELL: dict[str, Any] = {
    "cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [], "source": ["keep: int = 3"],
}  # fmt: skip
GOOD: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [CELL]}
BAD: dict[str, tuple[object, str]] = {
    "text": ("{", "it is not JSON"),
    "deep": ("[" * 100_000, "it is not JSON (has more than 60 levels)"),
    "not text": (b"\xff\xfe\x00", "it is not JSON"),
    "list": ([], "it is not a notebook"),
    "empty": ({}, "it is not a notebook"),
    "nbformat 3": ({"nbformat": 3, "worksheets": [], "metadata": {}}, "it has nbformat 3, and 4 is needed"),
    "a minor that is none": (GOOD | {"nbformat_minor": {}}, "its nbformat_minor is not a number"),
    "no cells": ({"nbformat": 4, "metadata": {}}, "it has no list of cells"),
    "no metadata": ({"nbformat": 4, "cells": []}, "it has no list of cells, or no metadata"),
    "cells are texts": (GOOD | {"cells": ["x"]}, "its cell 1 is not a cell"),
    "a cell without source": (GOOD | {"cells": [{"cell_type": "code", "metadata": {}}]}, "its cell 1 is not a cell"),
    "a cell without tags": (GOOD | {"cells": [CELL | {"metadata": {"tags": 5}}]}, "its cell 1 is not a cell"),
    "no parameters": (GOOD | {"cells": [CELL | {"metadata": {}}]}, "it has no cells with the tag 'parameters'"),
    "two of them": (GOOD | {"cells": [CELL, CELL]}, "it has 2 cells with the tag 'parameters'"),
    "R": (GOOD | {"metadata": {"kernelspec": {"language": "R", "name": "ir"}}}, "its kernel is for 'R'"),
    "Julia": (GOOD | {"metadata": {"language_info": {"name": "julia"}}}, "its kernel is for 'julia'"),
    "no kernelspec": (GOOD | {"metadata": {"kernelspec": 5}}, "kernelspec is not a mapping"),
    "a key twice": ('{"nbformat": 4, "nbformat": 4}', "the key 'nbformat' is given twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_runbook_is_refused(tmp_path: Path, name: str) -> None:
    """With its name and the reason."""
    document, problem = BAD[name]
    path = tmp_path / "canary.ipynb"
    if isinstance(document, bytes):
        path.write_bytes(document)
    else:
        path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(InvalidInput, match="not-a-runbook") as refused:
        runbooks.read_declarations(path)
    assert "canary.ipynb is not a runbook: " in refused.value.what and problem in refused.value.what


def test_a_notebook_of_100_mb_is_not_read(tmp_path: Path) -> None:
    """Its size is asked first."""
    with (tmp_path / "canary.ipynb").open("wb") as file:
        file.truncate(100 * 1024**2)
    with pytest.raises(InvalidInput, match="it has 104,857,600 bytes, and the limit is 10,485,760"):
        runbooks.read_runbook(tmp_path / "canary.ipynb")


@pytest.mark.parametrize("path", sorted((project_root() / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_every_runbook_is_one(path: Path) -> None:
    """With the environment among its parameters."""
    assert "environment" in runbooks.read_declarations(path)


@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, what: str) -> None:
    """A pipe has no end, and a device none either."""
    path = tmp_path / "canary.ipynb"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(InvalidInput, match=r"not-a-runbook(.|\n)*it is not a file"):
        runbooks.read_runbook(path)


@pytest.mark.parametrize("folder", ["rollback", "emergency"])
def test_what_is_done_in_an_incident_can_be_named_after_it(folder: str) -> None:
    """The review finds its runs by this name; headless runs, sessions and the terminal's command have it."""
    paths = sorted((project_root() / "notebooks" / folder).glob("*.ipynb"))
    assert len(paths) >= 2
    for path in paths:
        declared = runbooks.read_declarations(path)
        assert declared["incident"].annotation == "str" and declared["incident"].default == "", path
