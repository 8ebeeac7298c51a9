"""Values that a shell completes: names of files of the project. No AWS call, and no import of a library."""

from contextlib import suppress
from pathlib import Path

from buddy_ops.core import places

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
    ids = list(dict.fromkeys(name.rpartition("-")[2] for name in names))
    return [run for run in ids if run.startswith(typed)] or [name for name in names if name.startswith(typed)]
