"""Copies of the runbooks that a status recommends, with its parameters in their parameters cells: one click opens one.

JupyterLab's links carry no parameters. A copy shows them where a person would have typed them, and says nothing else
than the committed runbook.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.checks.next_steps import GUIDE, NextStep
from buddy_ops.checks.status import StatusReport
from buddy_ops.core import parameters, project, runbooks
from buddy_ops.core.files import write_atomically
from buddy_ops.notebook import _widgets

FOLDER = "build/prepared"
"""Below the project's root, where git ignores it."""

KEPT = 20
"""How many runs' copies are kept."""

LINK = re.compile(r"(\]\()([^():#\s]+\.ipynb)")
"""A link from one runbook to another, in Markdown."""


def link_runbooks(target: Target, report: StatusReport) -> StatusReport:
    """The same report with links to runbooks that have the recommended parameters, where a person can follow them."""
    if not _widgets.is_attended():
        return report
    return target.side.attempt("the links that carry parameters", partial(_link, target, report)) or report


def _link(target: Target, report: StatusReport) -> StatusReport:
    steps = tuple(_prepare(target, step) for step in report.steps)
    _delete_old()
    return replace(report, steps=steps)


def _prepare(target: Target, step: NextStep) -> NextStep:
    """The step with a link to its copy; as it is, where there is nothing to carry."""
    # The reader of start_here is there already.
    if not step.runbook or step.runbook == target.runbook == GUIDE:
        return step
    root = project.project_root()
    source = root / "notebooks" / f"{step.runbook}.ipynb"
    # A fleet's status links the same runbook for several targets.
    copy = root / FOLDER / target.run / step.parameters["environment"] / f"{step.runbook}.ipynb"
    document = runbooks.read_runbook(source)
    declared = runbooks.read_declarations(source)
    for cell in document["cells"]:
        _fill(cell, declared, step.parameters, source=source, copy=copy)
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(copy, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    # JupyterLab follows a link from the folder of the notebook that is open, which is the kernel's.
    return replace(step, link=os.path.relpath(copy, Path.cwd()))


def _fill(
    cell: dict[str, Any],
    declared: Mapping[str, parameters.DeclaredParameter],
    values: Mapping[str, str],
    *,
    source: Path,
    copy: Path,
) -> None:
    """Write the values into a parameters cell, and make a text's links lead to the same notebooks from the copy."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        cell["source"] = LINK.sub(lambda match: match[1] + _from_copy(match[2], source, copy), text)
    elif "parameters" in cell["metadata"].get("tags", ()):
        typed = {
            name: parameters.parse_value(value, declared[name].annotation)
            for name, value in values.items()
            if name in declared
        }
        cell["source"] = parameters.write_values(text, typed)


def _from_copy(link: str, source: Path, copy: Path) -> str:
    return os.path.relpath(source.parent / link, copy.parent)


def _delete_old() -> None:
    """Delete the copies of all runs but the latest."""
    folders = [folder for folder in (project.project_root() / FOLDER).iterdir() if folder.is_dir()]
    folders.sort(key=lambda folder: folder.stat().st_mtime)
    for folder in folders[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
