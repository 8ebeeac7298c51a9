"""What a notebook's first code cell calls: from its parameters cell to the target that it acts on."""

from typing import Any

from buddy_ops.aws.session import Target, connect
from buddy_ops.core import parameters, project
from buddy_ops.notebook._shell import current_shell
from buddy_ops.notebook._widgets import follow_errors
from buddy_ops.notebook.interrupts import show_interrupts_in_a_sentence
from buddy_ops.notebook.printing import print_escaped
from buddy_ops.notebook.recording import record_session


def open_runbook(runbook: str, namespace: dict[str, Any]) -> Target:
    """The target of a notebook, from its parameters cell; call it as ``open_runbook("canary", globals())``.

    The notebook's own cell declares names, types and defaults. What papermill injected after it is checked against
    that, all problems at once, before any AWS call; values come back into the notebook in their declared types.

    Raises:
        InvalidInput: ``invalid-parameters``, and what ``project.check_files`` and ``connect`` raise.
    """
    # First, so that an error in what follows is brought into view, too.
    follow_errors()
    declared, injected = parameters.parameter_cells(namespace.get("In", []))
    # A front end that runs cells without history leaves nothing to read there.
    declared = declared or project.declared_parameters(runbook)
    # Names that papermill injected and the notebook does not declare, too: each of them is refused.
    given = {name: namespace[name] for name in injected if name in namespace}
    given |= {name: namespace[name] for name in declared if name in namespace}
    for warning in parameters.describe_numbers(declared, {name: given[name] for name in injected if name in given}):
        print_escaped(warning)
    values = parameters.check_parameters(declared, given, f"parameters of {runbook}")
    values["environment"] = project.choose_environment(values["environment"])
    if values.get("settings"):
        values["settings"], _ = project.resolve_settings(values["settings"], "settings")
    # Before AWS is asked: a wrong path is a mistake in the cell above.
    project.check_files(values)
    namespace.update(values)
    target = connect(
        values["environment"],
        runbook,
        values=values.get("settings"),
        replaced=parameters.rollout_overrides(values),
        dry_run=values.get("dry_run", False),
    )
    # What a runbook prints comes from outside in part: descriptions, log lines, what AWS and people say.
    namespace["print"] = print_escaped
    with target.side.contained("recording the session"):
        record_session(target, runbook, values)
    report_side_failures(target)
    show_interrupts_in_a_sentence(target)
    return target


def report_side_failures(target: Target) -> None:
    """Print what failed beside the action, once each, after the cell in which it failed."""
    shell = current_shell()
    if shell is None:
        return

    def report(_: object) -> None:
        for line in target.side.unsaid():
            print_escaped(target.redactor.redact(line))

    shell.events.register("post_run_cell", report)
