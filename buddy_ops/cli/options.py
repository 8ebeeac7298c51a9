"""Options that several commands have."""

import os
from typing import Annotated

import typer

from buddy_ops.cli import completion

FALLBACK = "sandbox"
"""The environment where none is given: nothing real is there."""


def choose_environment(context: typer.Context, given: str) -> str:
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


Environment = Annotated[
    str,
    typer.Option(
        "--environment",
        "-e",
        help="Environment (dev, staging, prod, sandbox). Default: BUDDY_OPS_ENVIRONMENT, else sandbox.",
        callback=choose_environment,
        autocompletion=completion.environments,
        show_default=False,
    ),
]
Port = Annotated[
    int | None, typer.Option(help="The sandbox's port. Default: as in parameters/sandbox.yaml.", min=0, max=65535)
]
Names = Annotated[list[str] | None, typer.Option("--approved-by", help="Name of an approver; repeat for each.")]


def checked_environment(context: typer.Context, given: str) -> str:
    """The environment of -e, where one is given: a misspelt one must not read as none.

    Raises:
        InvalidInput: ``unknown-environment``.
    """
    if given and not context.resilient_parsing:
        from buddy_ops.core import project

        project.read_settings(given)
    return given
