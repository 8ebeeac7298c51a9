"""The papermill engine ``buddy-ops``: true cell states whatever happens, and no orphaned kernel.

papermill loads this module while it is itself being imported, so what uses papermill is imported when a notebook runs.
As a program it executes one notebook for a supervisor (``runs``), and ends when the supervisor does.
"""

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

from buddy_ops.core import redaction
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.files import make_scratch_folder
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.text import escape_terminal
from buddy_ops.runs._failures import Failure, failure_in
from buddy_ops.runs._interrupts import INTERRUPTED, InterruptHandler, handle_signals
from buddy_ops.runs.child_process import Report, end_with_parent, open_report


class Engine:
    """What ``papermill --engine buddy-ops`` calls."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, output_path: str | None = None, **options: Any) -> Any:
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
            execution.execute(nb, kernel_name, output_path, stop, redactor, options)
        failures += filter(None, [failure_in(nb)])
        if stop.reason is not None and not nb.metadata.papermill["exception"]:
            raise KeyboardInterrupt(stop.says)
        return nb

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> Any:
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> Any:
        from papermill.utils import nb_language

        return nb_language(nb, language)


def check_notebook(nb: Any) -> None:
    """Refuse names, types and values that the notebook or its environment does not take.

    Raises:
        InvalidInput: ``invalid-parameters``, ``invalid-settings`` or ``unknown-environment``.
    """
    from buddy_ops.core import parameters, project

    given = nb.metadata.get("papermill", {}).get("parameters", {})
    source = parameters.tagged_source(nb)
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
def _alone(nb: Any) -> Iterator[Redactor]:
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
            del os.environ[redaction.FILE]


# For a supervisor


def main() -> int:
    """Execute the one notebook that comes on stdin as JSON, and report on stdout, a JSON object a line."""
    report = open_report()
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill  # noqa: F401  # meanwhile the supervisor checks what it was given

    line = sys.stdin.readline()
    if line:
        end_with_parent()
        report(ended=_execute(parse_json(line), report))
    return 0


def _execute(job: Mapping[str, Any], report: Report) -> dict[str, Any]:
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
        )
    except PapermillExecutionError as error:
        # The cell's own outputs have the error's data beside its text.
        return asdict(failures[-1] if failures else Failure(error.ename, redactor.redact(error.evalue)))
    except KeyboardInterrupt as stopped:
        return {"name": INTERRUPTED, "text": str(stopped)}
    except Exception as error:
        return {"name": type(error).__name__, "text": redactor.redact(f"The notebook could not be executed: {error}")}
    return {}


if __name__ == "__main__":
    sys.exit(main())
