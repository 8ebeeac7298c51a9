"""A runbook's notebook file: read as data, with limits, and refused where it is none. Nothing in it is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buddy_ops.core import documents, parameters
from buddy_ops.core.errors import InvalidInput

SIZE_LIMIT = 10 * 1024**2
"""Bytes of a runbook's file. Runbooks have about 20 KB; one with its outputs saved may have some megabytes."""

TAG = "parameters"


def read_runbook(path: Path) -> dict[str, Any]:
    """A runbook's notebook, in nbformat 4.

    Raises:
        InvalidInput: ``not-a-runbook``: no notebook, one in another format or language, or without parameters.
    """
    try:
        size = path.stat().st_size
        if size > SIZE_LIMIT:
            raise _not_a_runbook(path, f"it has {size:,} bytes, and the limit is {SIZE_LIMIT:,}")
        # A pipe or a device has no size, and no end.
        if not path.is_file():
            raise _not_a_runbook(path, "it is not a file")
        with path.open("rb") as file:
            document = documents.parse_json(file.read(SIZE_LIMIT + 1), unique=True)
    except OSError as error:
        raise _not_a_runbook(path, f"it cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise _not_a_runbook(path, f"it is not JSON ({error})") from None
    if problem := _problem(document):
        raise _not_a_runbook(path, problem)
    found: dict[str, Any] = document
    return found


def read_declarations(path: Path) -> dict[str, parameters.DeclaredParameter]:
    """The parameters that a runbook's file declares.

    Raises:
        InvalidInput: ``not-a-runbook`` or ``invalid-parameters``.
    """
    return parameters.parse_declarations(parameters.tagged_source(read_runbook(path)))


def is_notebook(document: object) -> bool:
    """Whether a document has the form of a notebook, whatever its language is."""
    if not isinstance(document, dict):
        return False
    cells, metadata = document.get("cells"), document.get("metadata")
    return isinstance(metadata, dict) and isinstance(cells, list) and all(map(_is_cell, cells))


def mapping_in(values: Mapping[str, object], key: str) -> dict[str, Any]:
    """The mapping under a key; an empty one where something else is there."""
    found = values.get(key)
    if isinstance(found, dict):
        return found
    return {}


def _problem(document: object) -> str:
    """Why a document is not a runbook; '' where it is one."""
    if not isinstance(document, dict):
        return "it is not a notebook"
    if "nbformat" not in document:
        return "it is not a notebook"
    if document["nbformat"] != 4:
        return f"it has nbformat {document['nbformat']!r}, and 4 is needed"
    if not isinstance(document.get("nbformat_minor", 0), int):
        return "its nbformat_minor is not a number"
    cells, metadata = document.get("cells"), document.get("metadata")
    if not isinstance(cells, list) or not isinstance(metadata, dict):
        return "it has no list of cells, or no metadata"
    if language := _foreign_language(metadata):
        return f"its kernel is for {language}, and not for Python"
    for number, cell in enumerate(cells, 1):
        if not _is_cell(cell):
            return f"its cell {number} is not a cell of nbformat 4"
    tagged = [cell for cell in cells if TAG in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        return f"it has {len(tagged) or 'no'} cells with the tag 'parameters', and one is needed"
    return ""


def _foreign_language(metadata: Mapping[str, object]) -> str:
    for section, key in (("kernelspec", "language"), ("language_info", "name")):
        part = metadata.get(section, {})
        if not isinstance(part, dict):
            return f"no known language ({section} is not a mapping)"
        language = part.get(key, "python")
        if str(language).lower() not in ("python", "ipython"):
            return repr(language)
    return ""


def _is_cell(cell: object) -> bool:
    """Whether it has the members that are used here and by papermill, in the types of nbformat 4."""
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return False
    source, metadata = cell.get("source"), cell.get("metadata")
    if not isinstance(source, list):
        source = [source]
    if not isinstance(metadata, dict) or not all(isinstance(line, str) for line in source):
        return False
    tags = metadata.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return False
    return cell["cell_type"] != "code" or isinstance(cell.get("outputs"), list)


def _not_a_runbook(path: Path, problem: str) -> InvalidInput:
    return InvalidInput(
        "not-a-runbook",
        f"{path.name} is not a runbook: {problem}.",
        next="Choose a notebook in notebooks/. `git checkout` brings a damaged one back.",
    )
