"""Where parameters come from: the files in parameters/ and a notebook's parameters cell.

It finds the project's folder, and injects parameters as papermill does. What a setting means is in ``settings``.
"""

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from buddy_ops.core import parameters, settings
from buddy_ops.core.errors import InvalidInput


def read_settings(environment: str) -> tuple[dict[str, Any], str]:
    """The settings of parameters/ENVIRONMENT.yaml as plain values, and the file's name for messages.

    Raises:
        InvalidInput: ``unknown-environment`` or ``invalid-settings``.
    """
    folder = project_root() / "parameters"
    path = folder / f"{environment}.yaml"
    # A name with a path in it would read a file outside the folder.
    known = sorted(each.stem for each in folder.glob("*.yaml"))
    if environment not in known:
        raise InvalidInput(
            "unknown-environment",
            f"There is no environment {environment!r}: {folder.name}/ has {', '.join(known) or 'no files'}.",
            next=f"Choose one of those, or write parameters/{environment}.yaml.",
        )
    # What is not UTF-8 is read with marks that no key and no value passes with.
    text = path.read_text(encoding="utf-8", errors="replace")
    parsed = settings.parse_yaml_text(environment, text, f"parameters/{path.name}")
    return parsed.model_dump(mode="json"), f"parameters/{path.name}"


def environment_of_function(function: object) -> str | None:
    """The environment whose file names this function; None where none does."""
    for path in sorted((project_root() / "parameters").glob("*.yaml")):
        with suppress(InvalidInput):
            if read_settings(path.stem)[0]["function"] == function:
                return path.stem
    return None


def declared_parameters(runbook: str) -> dict[str, parameters.DeclaredParameter]:
    """What the parameters cell of a runbook's file declares; nothing where there is no such file."""
    for path in (project_root() / "notebooks").rglob(f"{runbook}.ipynb"):
        return parameters.parse_declarations(parameters.tagged_source(json.loads(path.read_text(encoding="utf-8"))))
    return {}


def runbook_name(name: str) -> str:
    """A notebook's name in full, for example 'strategies/canary' for 'canary'; any other name as it is."""
    folder = project_root() / "notebooks"
    found = next(folder.rglob(f"{name}.ipynb"), None) if name else None
    return str(found.relative_to(folder).with_suffix("")) if found else name


def read_artifact(path: str) -> bytes:
    """A build's bytes, from a path relative to the project's root: a zip, or a folder to pack.

    Raises:
        InvalidInput: ``artifact-missing`` or ``artifact-not-a-zip``.
    """
    root = project_root()
    file = root / path
    try:
        # The project itself, or what is around it, is no build.
        if path and file.is_dir() and file.resolve() not in (root, *root.parents):
            return _pack(file)
        content = file.read_bytes() if path and file.is_file() else None
    except (OSError, ValueError):  # no right to read it, or no system has such a path
        content = None
    if content is None:
        raise InvalidInput(
            "artifact-missing",
            f"There is no build at {path!r} (relative to the project)." if path else "No build is given.",
            next="Give the path of the zip, or of the folder, to ship: parameter artifact.",
        )
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise InvalidInput(
            "artifact-not-a-zip",
            f"{path} ({len(content):,} bytes) is not a zip file.",
            next="Build the skill again; Lambda takes a zip.",
        )
    return content


def _pack(folder: Path) -> bytes:
    """A folder as a zip: the same files give the same bytes, so that an approved hash still fits an hour later."""
    packed = io.BytesIO()
    # Stored, not deflated: zlib's output differs between its versions, and CodeSha256 must not.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file() and "__pycache__" not in each.parts):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (0o100755 if file.stat().st_mode & 0o100 else 0o100644) << 16
            archive.writestr(entry, file.read_bytes())
    return packed.getvalue()


def project_root() -> Path:
    """The folder that holds parameters/ and notebooks/: the nearest above the working folder, else the library's."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "parameters").is_dir() and (folder / "notebooks").is_dir():
            return folder
    return here
