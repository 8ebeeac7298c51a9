"""Where the project's files are. It imports nothing else of the library, so that the completion of a shell is fast."""

from pathlib import Path


def project_root() -> Path:
    """The folder that holds parameters/ and notebooks/: the nearest above the working folder, else the library's."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "parameters").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here


def environment_files() -> list[Path]:
    """The environments' files in parameters/, sorted by name."""
    return sorted((project_root() / "parameters").glob("*.yaml"))


def runbook_files() -> dict[str, Path]:
    """The runbooks in notebooks/ by their names, for example 'strategies/canary'."""
    folder = project_root() / "notebooks"
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    }
