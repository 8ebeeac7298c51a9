"""Values that a shell completes: names of files of the project. No AWS call, and no import of a library."""

from contextlib import suppress
from pathlib import Path

import click

from buddy_ops.cli.terminal import say
from buddy_ops.core import places

SHELLS = ("bash", "fish", "zsh")
"""The shells whose completion this command can print."""

VARIABLE = "_BUDDY_OPS_COMPLETE"
"""The variable with which a shell asks for what it offers. Its name follows from the command's."""

MOST_RUNS = 200
"""How many of the newest runs are offered."""


def environments(typed: str) -> list[str]:
    """The environments that begin with what is typed."""
    return [path.stem for path in places.environment_files() if path.stem.startswith(typed)]


def runbooks(typed: str) -> list[str]:
    """The runbooks that begin with what is typed."""
    return [name for name in places.runbook_files() if name.startswith(typed)]


def runs(typed: str) -> list[str]:
    """The newest runs in runs/: their IDs, and their folders' names where one is being typed."""
    folders: list[Path] = []
    with suppress(OSError):
        folders = sorted((path for path in (places.project_root() / "runs").iterdir() if path.is_dir()), reverse=True)
    names = [folder.name for folder in folders[:MOST_RUNS]]
    # 2026-11-22T0312Z-canary-prod-7f3a91c2
    ids = list(dict.fromkeys(name.rpartition("-")[2] for name in names))
    return [run for run in ids if run.startswith(typed)] or [name for name in names if name.startswith(typed)]


def print_script(context: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    """Print what a shell reads once, so that it completes this command from then on."""
    # click parses a line in this way to complete it: then nothing may be printed.
    if shell and not context.resilient_parsing:
        from click.shell_completion import get_completion_class

        found = get_completion_class(shell)
        if found is not None:
            say(found(context.command, {}, "buddy-ops", VARIABLE).source())
        context.exit()
