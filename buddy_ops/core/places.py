"""Where the project's files are. It imports nothing else of the library, so that the completion of a shell is fast."""

import re
from pathlib import Path

BASE_FILE = re.compile(r"([a-zA-Z0-9_-]+\.)?defaults\.yaml")
"""The name of a file in parameters/ that environments extend, and that is no environment itself."""

FLEET_FILE = "fleet.yaml"
"""The file in parameters/ with the targets of a fleet."""

LIBRARY = Path(__file__).resolve().parents[1]

IN_WHEEL = {
    "notebooks": "runbooks",
    "infrastructure.yaml": "aws/infrastructure.yaml",
    "buddy_ops_metrics/buddy_ops_metrics.py": "cli/project/buddy_ops_metrics.py",
    ".github/workflows/runbook.yml": "cli/project/runbook.yml",
    ".github/workflows/audit.yml": "cli/project/audit.yml",
    ".github/workflows/fleet-audit.yml": "cli/project/fleet-audit.yml",
    "requirements/run.txt": "cli/project/run.txt",
}
"""Where a wheel has what a checkout has at its root, as pyproject.toml says."""


def project_root() -> Path:
    """The folder that holds parameters/ and notebooks/: the nearest above the working folder, else the library's."""
    here = Path.cwd()
    for folder in (here, *here.parents, LIBRARY.parent):
        if (folder / "parameters").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def require_project() -> Path:
    """The project's folder.

    Raises:
        InvalidInput: ``no-project``.
    """
    root = project_root()
    if (root / "parameters").is_dir() and (root / "notebooks").is_dir():
        return root
    # Imported here: a completion never fails, and does without.
    from buddy_ops.core.errors import InvalidInput

    raise InvalidInput(
        "no-project",
        f"There is no project here: neither {root} nor a folder above it has parameters/ and notebooks/.",
        next="Go to the project's folder, or write a project into an empty one with `buddy-ops init`.",
    )


def shipped_file(name: str) -> Path:
    """A file or folder that this release brings for projects: in a wheel, or at the root of a checkout.

    Args:
        name: its path in the checkout, for example 'notebooks' or '.github/workflows/runbook.yml'.
    """
    installed = LIBRARY / IN_WHEEL[name]
    if installed.exists():
        return installed
    return LIBRARY.parent / name


def environment_files() -> list[Path]:
    """The environments' files in parameters/, sorted by name: not the bases that they extend, and not the fleet's."""
    found = sorted((project_root() / "parameters").glob("*.yaml"))
    return [path for path in found if not BASE_FILE.fullmatch(path.name) and path.name != FLEET_FILE]


def runbook_files() -> dict[str, Path]:
    """The runbooks in notebooks/ by their names, for example 'strategies/canary'."""
    folder = project_root() / "notebooks"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    }


def short_name(path: Path) -> str:
    """A runbook's name in folders and commands: 'canary'; of a fleet's 'fleet-canary', beside strategies/canary."""
    if path.parent.name == "fleet":
        return f"fleet-{path.stem}"
    return path.stem


def find_runbook(short: str) -> str:
    """The name in full of the runbook with this short name, for example 'strategies/canary'; empty: there is none."""
    return next((name for name, path in runbook_files().items() if short_name(path) == short), "")
