"""Options that several commands have."""

import os
from collections.abc import Callable

import click

from buddy_ops.cli import completion

# ``project.SANDBOX`` is the same. Its module imports pydantic and YAML, which a completion does without.
FALLBACK = "sandbox"
"""The environment where none is given: nothing real is there."""

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def offer(find: Callable[[str], list[str]]) -> Completer:
    """What a shell completes a value with, found by what is typed so far."""

    def complete(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
        return find(typed)

    return complete


def choose_environment(context: click.Context, parameter: click.Parameter, given: str) -> str:
    """The environment of -e, else of BUDDY_OPS_ENVIRONMENT, else the sandbox.

    Raises:
        InvalidInput: ``unknown-environment``.
    """
    if given or context.resilient_parsing:
        return given
    # Imported only where the variable has to be checked: a completion and --help do without.
    if not os.environ.get("BUDDY_OPS_ENVIRONMENT"):
        return FALLBACK
    from buddy_ops.core import project

    return project.default_environment() or FALLBACK


def check_environment(context: click.Context, parameter: click.Parameter, given: str) -> str:
    """The environment of -e, where one is given: a misspelt one must not read as none.

    Raises:
        InvalidInput: ``unknown-environment``.
    """
    if given and not context.resilient_parsing:
        from buddy_ops.core import project

        project.read_settings(given)
    return given


environment_option = click.option(
    "--environment",
    "-e",
    default="",
    help="Environment (dev, staging, prod, sandbox). Default: BUDDY_OPS_ENVIRONMENT, else sandbox.",
    callback=choose_environment,
    shell_complete=offer(completion.environments),
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document on stdout; progress and messages go to stderr.",
)
port_option = click.option(
    "--port", type=click.IntRange(0, 65535), help="The sandbox's port. Default: as in parameters/sandbox.yaml."
)
approved_by_option = click.option("--approved-by", multiple=True, help="Name of an approver; repeat for each.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation; approvers must be named.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
