"""The runbooks: what each is for, and its parameters, from the notebooks' own files. Nothing in them is executed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buddy_ops.cli.answers import Line
from buddy_ops.core import places, runbooks
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.text import did_you_mean

# 'Rolls back v2.' of 'Rolls back v2. Then ...'; not 'v2' of 'v2.1'.
SENTENCE = re.compile(r".*?[.!?](?=\s|$)", re.DOTALL)
# [canary](../strategies/canary.ipynb)
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class ListedRunbook:
    """A runbook.

    Attributes:
        title: its heading.
        purpose: its first sentence.
    """

    name: str
    title: str
    purpose: str


@dataclass(frozen=True)
class RunbookParameter:
    """A parameter of a runbook, as its parameters cell declares it."""

    name: str
    type: str
    default: object
    meaning: str


@dataclass(frozen=True)
class DescribedRunbook(ListedRunbook):
    """A runbook and its parameters.

    Attributes:
        about: its introduction, as plain text.
        command: a command that runs it with its defaults.
    """

    about: str
    parameters: tuple[RunbookParameter, ...]
    command: str

    def lines(self) -> list[Line]:
        """For a terminal: each parameter on a line of its own, its meaning below."""
        lines: list[Line] = [(f"{self.name}: {self.title}", "info"), "", self.about, "", "Parameters (-p NAME=VALUE):"]
        for parameter in self.parameters:
            lines.append(f"  {parameter.name}: {parameter.type} = {parameter.default!r}")
            if parameter.meaning:
                lines.append(f"      {parameter.meaning}")
        return [*lines, "", self.command]


def list_runbooks() -> tuple[ListedRunbook, ...]:
    """Every runbook of the project that can be read."""
    found = []
    places.require_project()
    for name, path in places.runbook_files().items():
        try:
            title, about = _introduction(runbooks.read_runbook(path))
        except InvalidInput as error:
            title, about = "", f"cannot be read: {error.what}"
        found.append(ListedRunbook(name, title, _first_sentence(about)))
    return tuple(found)


def list_lines(listed: Sequence[ListedRunbook]) -> list[Line]:
    """The list for a terminal."""
    lines: list[Line] = []
    for runbook in listed:
        lines += [(f"{runbook.name}: {runbook.title}", "info"), f"    {runbook.purpose}"]
    return [*lines, "", "`buddy-ops runbooks NAME` shows a runbook's parameters."]


def describe_runbook(name: str) -> DescribedRunbook:
    """A runbook and its parameters.

    Args:
        name: 'strategies/canary', or 'canary' where one runbook has this name.

    Raises:
        InvalidInput: ``notebook-missing``, ``not-a-runbook`` or ``invalid-parameters``.
    """
    full, path = _find(name)
    title, about = _introduction(runbooks.read_runbook(path))
    # The environment is an option of its own.
    declared = [each for each in runbooks.read_declarations(path).values() if each.name != "environment"]
    return DescribedRunbook(
        name=full,
        title=title,
        purpose=_first_sentence(about),
        about=about,
        parameters=tuple(RunbookParameter(each.name, each.annotation, each.default, each.meaning) for each in declared),
        command=f"buddy-ops run {full} -e ENVIRONMENT",
    )


def _find(name: str) -> tuple[str, Path]:
    places.require_project()
    files = places.runbook_files()
    wanted = name.removeprefix("notebooks/").removesuffix(".ipynb")
    # A fleet's canary is fleet-canary: 'canary' is that of strategies/.
    if wanted not in files:
        wanted = places.find_runbook(wanted) or wanted
    if wanted in files:
        return wanted, files[wanted]
    named_so = [full for full in files if full.rpartition("/")[2] == wanted]
    if len(named_so) == 1:
        return named_so[0], files[named_so[0]]
    raise InvalidInput(
        "notebook-missing",
        f"There is no runbook {name[:200]!r}.{did_you_mean(wanted, files)}",
        next="`buddy-ops runbooks` lists them.",
    )


def _introduction(notebook: dict[str, Any]) -> tuple[str, str]:
    """Heading and text of the first Markdown cell, without marks of Markdown."""
    cells = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    text = LINK.sub(r"\1", next(cells, "")).replace("**", "").replace("*", "")
    heading, _, rest = text.strip().partition("\n")
    return heading.lstrip("# "), rest.strip()


def _first_sentence(text: str) -> str:
    found = SENTENCE.match(text)
    if found is not None:
        text = found[0]
    return " ".join(text.split())
