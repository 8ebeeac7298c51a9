"""The project's files for workers that do not share its disk, and what their runs leave back to the project's archive.

A worker that does not see the fleet's own marker file unpacks the files, which Dask sends to each worker once.
"""

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buddy_ops.core import project
from buddy_ops.core.artifacts import LocalFile, parse_artifact
from buddy_ops.core.documents import parse_json
from buddy_ops.runs import archive, signatures
from buddy_ops.runs.manifest import FILES, ManifestEntry
from buddy_ops.runs.stores import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from distributed import Worker

FOLDERS = ("parameters", "notebooks")
"""What a runbook reads of the project, besides its build."""

RETURNED = (*FILES, MANIFEST, SIGNATURE)


@dataclass(frozen=True)
class Copy:
    """Files of the project, by the path of each; a plugin of Dask brings them to each worker.

    Attributes:
        packed: a zip.
    """

    packed: bytes

    @property
    def name(self) -> str:
        """The plugin's name: of equal files one copy is sent."""
        return f"buddy-ops-{hashlib.sha256(self.packed).hexdigest()[:16]}"


def copy_project(root: Path) -> Copy:
    """What a runbook reads of a project."""
    found = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))]
    return Copy(_pack({str(path.relative_to(root)): path.read_bytes() for path in found if path.is_file()}))


def copy_build(artifact: str) -> tuple[str, Copy] | None:
    """The build of a parameter ``artifact`` and its path in the copy; None where it is not on this machine.

    Raises:
        InvalidInput: as ``project.read_artifact``.
    """
    if not artifact or not isinstance(parse_artifact(artifact), LocalFile):
        return None
    build = project.read_artifact(artifact).content
    name = f"build-{hashlib.sha256(build).hexdigest()[:16]}.zip"
    return name, Copy(_pack({name: build}))


def _pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for name, content in files.items():
            # Without the files' times: equal files make equal bytes, whose hash names the copy.
            file.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


@dataclass(frozen=True)
class Source:
    """Where a worker finds the project.

    Attributes:
        folder: where it is for the fleet's own run.
        marker: a file in it, which a worker sees where the disk is the same; empty: the machine is the same.
        copies: names of the plugins that bring its files elsewhere.
        artifact: the build's path in these copies; empty: it is not among them.
    """

    folder: str
    marker: str = ""
    copies: tuple[str, ...] = ()
    artifact: str = ""

    @contextmanager
    def open(self, worker: "Worker") -> Iterator[Path]:
        """The project's folder on this worker's machine: itself, or a copy that is deleted at the end."""
        # A path may exist on two disks. A file that was made for this run exists on one.
        if not self.marker or Path(self.marker).exists():
            yield Path(self.folder)
            return
        with tempfile.TemporaryDirectory(prefix="buddy-ops-") as folder:
            for name in self.copies:
                plugin: Any = worker.plugins[name]
                with zipfile.ZipFile(io.BytesIO(plugin.copy.packed)) as packed:
                    packed.extractall(folder)
            yield Path(folder)


def read_run(folder: Path) -> dict[str, bytes]:
    """The files of an archived run."""
    return {name: (folder / name).read_bytes() for name in RETURNED if (folder / name).exists()}


def keep_run(name: str, environment: str, files: Mapping[str, bytes]) -> ManifestEntry:
    """Archive a run of a worker elsewhere in the project's own runs/, chained and signed there.

    Raises:
        OSError, BuddyError: it could not be written.
    """
    folder = project.project_root() / "runs" / name
    folder.mkdir(parents=True)
    # Only the names that a run has: no path from another machine is written here.
    for each in FILES:
        if each in files:
            (folder / each).write_bytes(files[each])
    facts = dict(parse_json(files[MANIFEST]))
    facts.pop("unsigned", None)  # was said of the manifest there
    # The chain is this archive's: the manifest of the worker names a predecessor that only exists there.
    return archive.append_to_chain(folder, facts, signatures.signer_of(environment))


@contextmanager
def open_source(root: Path) -> Iterator[Source]:
    """The project as a source for workers anywhere."""
    with tempfile.NamedTemporaryFile(prefix=".buddy-ops-fleet-", dir=root) as marker:
        yield Source(str(root), marker.name)
