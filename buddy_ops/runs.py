"""Runbooks executed headlessly: papermill underneath, a folder with notebook and report as the result.

Knows how a notebook is validated, executed and turned into a page. Never knows what a runbook does; how it ended comes
from the error that its last cell raised, if it raised one.
"""

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buddy_ops import parameters, settings, target
from buddy_ops.errors import InvalidInput, exit_code_of
from buddy_ops.rollout import Outcome, Rollout
from buddy_ops.target import Target


@dataclass(frozen=True)
class Run:
    """An executed runbook. ``trouble`` is what its failing cell said, or None."""

    folder: Path
    notebook: Path
    report: Path | None
    exit_code: int
    trouble: str | None


def drive(target: Target, rollout: Rollout) -> Outcome:
    """Drive a rollout to its end without a picture."""
    while True:
        try:
            observation = next(rollout)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        target.clock.sleep_until(observation.wake_at)


def run(
    notebook: str,
    given: Mapping[str, Any],
    *,
    folder: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Execute a runbook.

    Args:
        notebook: its path, relative to the project's root; 'strategies/canary' suffices.
        given: its parameters; names and types are checked before a kernel starts.
        folder: where the run is archived; absent: a new folder in runs/.
        progress: told of each step, a short line each.

    Raises:
        InvalidInput: ``notebook-missing``, ``invalid-parameters``, ``invalid-settings``.
        AwsFailed: ``sandbox-not-running``.
    """
    nbformat = _nbformat()
    tell = progress or (lambda _: None)
    source = find(notebook)
    document = nbformat.read(source, as_version=4)
    declared = settings.declared(_parameters_cell(document, source))
    values = settings.check(declared, given, source.stem)
    opened = target.connect(
        values["environment"], source.stem, values=values.get("settings"), replaced=target.overrides(values), quiet=True
    )
    folder = folder or opened.folder
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "notebook.ipynb"
    tell(f"{source.stem} on {opened.environment}, run {opened.run}")
    trouble = _execute(source, out, dict(given), {"BUDDY_OPS_RUN_FOLDER": str(folder), "BUDDY_OPS_RUN": opened.run})
    tell("writing the report")
    report = write_report(out)
    return Run(folder, out, report, 0 if trouble is None else exit_code_of(trouble[0]), trouble and trouble[1])


def find(notebook: str) -> Path:
    """The file of a runbook. Raises InvalidInput ``notebook-missing``."""
    root = parameters.project_root()
    for path in (root / notebook, root / "notebooks" / notebook, root / "notebooks" / f"{notebook}.ipynb"):
        if path.is_file():
            return path
    known = sorted(str(path.relative_to(root / "notebooks")) for path in (root / "notebooks").rglob("*.ipynb"))
    raise InvalidInput(
        "notebook-missing",
        f"There is no runbook {notebook!r}.",
        now=settings.UNTOUCHED,
        next=f"Choose one of: {', '.join(each.removesuffix('.ipynb') for each in known)}.",
    )


def write_report(notebook: Path) -> Path | None:
    """The executed notebook as one HTML page that opens offline; None if it cannot be made."""
    nbformat = _nbformat()
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="lab",
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        mermaid_js_url="",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4))
    report = notebook.with_name("report.html")
    report.write_text(page, encoding="utf-8")
    return report


def _nbformat() -> Any:
    """The nbformat package, without its slowest import.

    JupyterLab's jsonschema extra builds a grammar, 1.4-2 s in every process; nothing here validates IRIs.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import nbformat

    return nbformat


def _execute(source: Path, out: Path, given: dict[str, Any], environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Run it; the name and text of the error that ended it, or None. The kernel inherits ``environment``."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        papermill.execute_notebook(
            str(source),
            str(out),
            parameters=given,
            kernel_name="python3",
            kernel_manager_class=_private_kernel(),
            cwd=str(parameters.project_root()),
            progress_bar=False,
        )
    except PapermillExecutionError as failure:
        return failure.ename, failure.evalue
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return None


def _private_kernel() -> Any:
    """Kernels that talk over files of this user's, not over loopback ports that anybody on the machine may listen to.

    What a kernel says on its own stderr is the machinery's: what a runbook says is in its notebook.
    """
    from jupyter_client.manager import AsyncKernelManager

    class PrivateKernel(AsyncKernelManager):
        transport = "ipc"

        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            # Jupyter's own default is one name in the working folder, which two runs at a time would share.
            self._sockets = tempfile.TemporaryDirectory(prefix="buddy-ops-")
            self.ip = f"{self._sockets.name}/kernel"
            await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    return PrivateKernel


def _parameters_cell(document: Any, source: Path) -> str:
    for cell in document.cells:
        if "parameters" in cell.metadata.get("tags", []):
            return str(cell.source)
    raise InvalidInput(
        "notebook-missing",
        f"{source.name} has no cell with the tag 'parameters', so it is not a runbook.",
        now=settings.UNTOUCHED,
        next="Choose a notebook from notebooks/.",
    )
