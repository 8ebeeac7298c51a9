"""The papermill engine ``buddy-ops``: true cell states whatever happens, and no orphaned kernel.

papermill loads this module while it is itself being imported, so what uses papermill is imported when a notebook runs.
As a program it executes one notebook for a supervisor (``runs``), and ends when the supervisor does.
"""

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypedDict

from buddy_ops.core import garbage, redaction
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.files import make_scratch_folder
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.text import escape_terminal
from buddy_ops.runs._failures import Failure, failure_in
from buddy_ops.runs._interrupts import INTERRUPTED, InterruptHandler, handle_signals
from buddy_ops.runs._kernel_process import KernelProcess
from buddy_ops.runs.child_process import Report, end_with_parent, open_report

if TYPE_CHECKING:
    from nbformat import NotebookNode


class Engine:
    """What ``papermill --engine buddy-ops`` calls."""

    @classmethod
    def execute_notebook(
        cls, nb: "NotebookNode", kernel_name: str, output_path: str | None = None, **options: Any
    ) -> "NotebookNode":
        """Execute a notebook; papermill's own signature.

        Args:
            nb: the notebook, parameters injected.
            kernel_name: which kernel.
            output_path: where it is saved, at each cell and each second.
            options: papermill's; ``execution_timeout`` is a cell's, in seconds.

        Raises:
            InvalidInput: ``invalid-parameters``, ``invalid-settings``; before a kernel starts.
            KeyboardInterrupt: a signal ended the run between two cells.
        """
        from buddy_ops.runs import execution

        stop, given = InterruptHandler(), options.pop("redactor", None)
        if given is None:  # a supervisor has checked already
            check_notebook(nb)
        failures: list[Failure] = options.pop("failures", [])
        with nullcontext(given) if given else _alone(nb) as redactor, handle_signals(stop.by_signal):
            execution.execute(nb, kernel_name, output_path, stop=stop, redactor=redactor, options=options)
        # Read before papermill raises: its own error has the text only, and not the error's data.
        failures += filter(None, [failure_in(nb)])
        # A cell that was interrupted has an error, for which papermill raises. Between two cells there is none.
        if stop.reason is not None and not nb.metadata.papermill["exception"]:
            raise KeyboardInterrupt(stop.says)
        return nb

    @classmethod
    def nb_kernel_name(cls, nb: "NotebookNode", name: str | None = None) -> str:
        from papermill.utils import nb_kernel_name

        return str(nb_kernel_name(nb, name))

    @classmethod
    def nb_language(cls, nb: "NotebookNode", language: str | None = None) -> str:
        from papermill.utils import nb_language

        return str(nb_language(nb, language))


def check_notebook(nb: "NotebookNode") -> None:
    """Refuse names, types and values that the notebook or its environment does not take.

    Raises:
        InvalidInput: ``invalid-parameters``, ``invalid-settings`` or ``unknown-environment``.
    """
    from buddy_ops.core import parameters, project

    # papermill keeps there what it injected, before any kernel has seen it.
    given = nb.metadata.get("papermill", {}).get("parameters", {})
    source = parameters.tagged_source(nb)
    # Any notebook can be run with this engine; without a parameters cell there is nothing to check.
    if not source and not given:
        return
    declared = parameters.parse_declarations(source)
    for warning in parameters.describe_numbers(declared, given):
        print(escape_terminal(str(warning)), file=sys.stderr)
    values = parameters.check_parameters(declared, given, "The notebook's parameters")
    if "environment" in values and "settings" in values:
        environment = project.choose_environment(values["environment"])
        project.check_settings({**values, "environment": environment})


@contextmanager
def _alone(nb: "NotebookNode") -> Iterator[Redactor]:
    """A redactor for a run without a supervisor: it shares a private file with its kernel, and asks AWS itself."""
    from buddy_ops.aws import session
    from buddy_ops.core import project

    given = nb.metadata.get("papermill", {}).get("parameters", {})
    with make_scratch_folder() as folder:
        os.environ[redaction.FILE] = redaction.new_file(folder)
        redactor = Redactor(file=os.environ[redaction.FILE])
        try:
            environment = project.choose_environment(given.get("environment", ""))
            here = session.connect(environment, "engine", values=given.get("settings"), quiet=True)
            redactor = here.redactor
            # Meanwhile the kernel starts.
            threading.Thread(target=here.learn_secrets, daemon=True).start()
        except BuddyError as error:
            said = f"Outputs are searched for secrets by their form only: {error.what}"
            print(escape_terminal(said), file=sys.stderr)
        try:
            yield redactor
        finally:
            # The file is deleted with its folder: a later run in this process must not write to it.
            del os.environ[redaction.FILE]


# For a supervisor


class Job(TypedDict):
    """What a supervisor has executed: a notebook's path, what it is given, and what must be redacted in it."""

    source: str
    notebook: str
    parameters: dict[str, object]
    about: Mapping[str, object]
    cwd: str
    cell_timeout_s: float | None
    patterns: Sequence[str]
    innocent: Mapping[str, object]
    environment: dict[str, str]


def main() -> int:
    """Execute the one notebook that comes on stdin as JSON, and report on stdout, a JSON object a line."""
    report = open_report()
    garbage.search_rarely()
    kernel_process = None
    # Where none can be started the run says why, once it has a job.
    with suppress(OSError):
        kernel_process = KernelProcess()
    # `jsonschema` would compile a grammar of IRIs, which takes 1.7 s of CPU time.
    # papermill would import boto3 for notebooks in S3, which takes 0.1 s; ours are files.
    for unneeded in ("rfc3987_syntax", "boto3"):
        sys.modules.setdefault(unneeded, None)  # type: ignore[arg-type]
    import papermill  # noqa: F401  # meanwhile the supervisor checks what it was given

    # Until then the supervisor checks what it was given; without a line it refused the run.
    line = sys.stdin.readline()
    if line:
        end_with_parent()
        report(ended=_execute(parse_json(line), report, kernel_process))
    return 0


def _execute(job: Job, report: Report, kernel_process: KernelProcess | None) -> dict[str, object]:
    """Execute it. Returns the fields of its ``Failure``; none where it ended without one."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    failures: list[Failure] = []
    os.environ.update(job["environment"])
    redactor = Redactor(job["patterns"], os.environ[redaction.FILE])
    redactor.never_redact(job["innocent"])
    try:
        papermill.execute_notebook(
            job["source"],
            None,
            parameters=job["parameters"],
            engine_name="buddy-ops",
            kernel_name="python3",
            cwd=job["cwd"],
            progress_bar=False,
            execution_timeout=job["cell_timeout_s"],
            redactor=redactor,
            save_to=job["notebook"],
            about=job["about"],
            tell=report,
            failures=failures,
            kernel_process=kernel_process,
        )
    except PapermillExecutionError as error:
        # The cell's own outputs have the error's data beside its text.
        if failures:
            return asdict(failures[-1])
        return asdict(Failure(error.ename, redactor.redact(error.evalue)))
    except KeyboardInterrupt as stopped:
        return {"name": INTERRUPTED, "text": str(stopped)}
    except Exception as error:
        return {"name": type(error).__name__, "text": redactor.redact(f"The notebook could not be executed: {error}")}
    return {}


if __name__ == "__main__":
    sys.exit(main())
