"""A build before it is deployed: what it is, and whether it fits the function that is to run it. Never writes."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from buddy_ops.aws import images, stored_builds, versions
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, Version, label
from buddy_ops.core import artifacts, packages, project, runtimes
from buddy_ops.core.artifacts import Artifact, Image, PublishedVersion, StoredObject
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.core.text import join_words, size
from buddy_ops.migrations import schema

if TYPE_CHECKING:
    from buddy_ops.aws.versions import CodeSource

ZIP = "Zip"
IMAGE = "Image"

HANDLERS = {"python": (".py", ".pyc", ".so", "/__init__.py"), "nodejs": (".js", ".mjs", ".cjs")}
"""What a handler's module is called in the zip, by the runtime's language.

Source: AWS Lambda developer guide, 'Define Lambda function handler' in Python and in Node.js."""

MACHINES = {0x3E: "x86_64", 0xB7: "arm64"}
"""Lambda's name of a processor, by the e_machine of an ELF file. Source: elf.h, EM_X86_64 and EM_AARCH64."""

SHOWN = 3
"""How many files a sentence names."""


@dataclass(frozen=True)
class Build:
    """A build that was read, and that ``UpdateFunctionCode`` can be given.

    Attributes:
        sha256: the CodeSha256 that Lambda gives it; of an image its digest.
        package: Lambda's PackageType.
        code: what ``UpdateFunctionCode`` is given.
        description: what it is, for the plan.
        schema_range: what it declares; None: nothing, or it cannot be read.
        notes: what is to be said of it, a sentence each.
        size: bytes of the zip, 0 of an image.
        unpacked: bytes of its files.
        names: the files in the zip.
        machines: the processors of its native modules, with one module's name each; of an image that was read its own.
        uploaded: whether the call itself carries the zip.
    """

    sha256: str
    package: str
    code: "CodeSource" = field(repr=False)
    description: str
    schema_range: str | None = None
    notes: tuple[str, ...] = ()
    size: int = 0
    unpacked: int = 0
    names: frozenset[str] = field(default=frozenset(), repr=False)
    machines: Mapping[str, str] = field(default_factory=dict)
    uploaded: bool = False


def read_sha256(target: Target, artifact: str) -> str:
    """The CodeSha256 of what a parameter ``artifact`` names. AWS, Raises: as ``read_build`` and ``read_version``."""
    named = artifacts.parse_artifact(artifact)
    if isinstance(named, PublishedVersion):
        return versions.read_version(target, named.number).sha256
    return read_build(target, named).sha256


def read_build(target: Target, named: Artifact) -> Build:
    """Read a build, wherever it is.

    AWS: as ``stored_builds.read_build`` for a zip in S3, as ``images.read_image`` for an image, else none.

    Raises:
        InvalidInput, Refused: as ``project.read_artifact``, ``packages.check_zip``, ``stored_builds.read_build`` and
            ``images.read_image``;
            ``artifact-elsewhere``: an image of another region; ``artifact-form``: a version is no build.
    """
    if isinstance(named, PublishedVersion):
        raise InvalidInput(
            "artifact-form",
            f"version:{named.number} is a version that exists already, and this needs the build itself.",
            next=artifacts.FORMS,
        )
    if isinstance(named, Image):
        return _image(target, named)
    if isinstance(named, StoredObject):
        return _stored(target, named)
    packed = project.read_artifact(named.path)
    notes: tuple[str, ...] = ()
    if packed.left_out:
        notes = (f"Left out of the zip: {_some(packed.left_out)}.",)
    return _zip(packed.content, {"ZipFile": packed.content}, named.path, notes)


def _image(target: Target, named: Image) -> Build:
    if named.region != target.region:
        raise Refused(
            "artifact-elsewhere",
            f"The image is in {named.region}, and {target.settings.function} in {target.region}. Lambda takes an image "
            "only from the function's own region.",
            next=f"Push the image to a repository in {target.region}, and give that address.",
        )
    found = images.read_image(target, named)
    tables = f"What the image declares of tables is unknown: {schema.VARIABLE} stays as it is in {LATEST}."
    description = f"container image {named.uri}"
    if found.packed:
        description += f", {size(found.packed)} compressed"
    machines = {}
    # Empty where the image could not be read: then its architecture is not compared.
    if found.architecture:
        machines[found.architecture] = "The image"
    notes = tuple(filter(None, (found.unread, tables)))
    return Build(named.digest, IMAGE, {"ImageUri": named.uri}, description, notes=notes, machines=machines)


def _stored(target: Target, named: StoredObject) -> Build:
    found = stored_builds.read_build(target, named)
    packages.check_zip(found.content, str(found.source), stored=True)
    code: CodeSource = {"S3Bucket": found.source.bucket, "S3Key": found.source.key}
    notes: tuple[str, ...] = ()
    # By the object's version where the bucket has one: what was read and approved is then what AWS copies.
    if found.source.version:
        code["S3ObjectVersion"] = found.source.version
    else:
        notes = (
            f"Warning: {found.source.bucket} keeps no versions of its objects. If the object is replaced after the "
            "approval, the run is refused once AWS has copied it; $LATEST has the other code then.",
        )
    return _zip(found.content, code, str(found.source), notes)


def _zip(content: bytes, code: "CodeSource", name: str, notes: tuple[str, ...]) -> Build:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        machines = {
            machine: entry.filename
            for entry in entries
            if (machine := _machine(archive, entry)) is not None
        }  # fmt: skip
    unpacked = sum(entry.file_size for entry in entries)
    return Build(
        versions.code_sha256(content),
        ZIP,
        code,
        f"zip {name}, {size(len(content))}, {size(unpacked)} unpacked",
        schema_range=schema.declared_schema(content),
        notes=notes,
        size=len(content),
        unpacked=unpacked,
        names=frozenset(str(PurePosixPath(entry.filename)) for entry in entries),
        machines=machines,
        uploaded="ZipFile" in code,
    )


def _machine(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str | None:
    """The processor that a native module is compiled for; None for other files."""
    # In the middle, too: libssl.so.3.
    if not PurePosixPath(entry.filename).name.partition(".so")[1]:
        return None
    with archive.open(entry) as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF":
        return None
    # e_machine is at byte 18 of the header, and both of Lambda's processors are little-endian. Source: elf.h.
    return MACHINES.get(int.from_bytes(head[18:20], "little"))


def require_runnable(target: Target, build: Build, latest: Version) -> Iterator[str]:
    """Refuse a build that the function's configuration cannot run; a sentence for what may keep it from running.

    Raises:
        Refused: ``package-type-differs``, ``architecture-differs`` or ``handler-missing``.
    """
    function = target.settings.function
    package = latest.settings.get("PackageType") or ZIP
    if build.package != package:
        cure = "Give an image by its digest"
        if package == ZIP:
            cure = "Give a zip"
        raise Refused(
            "package-type-differs",
            f"The build is of the package type {build.package}, and {function} of {package}. Lambda never changes the "
            "package type of a function.",
            next=f"{cure}, or create another function.",
        )
    _check_architecture(function, build, latest)
    if build.package == IMAGE:
        return
    outdated = runtimes.describe_deprecation(str(latest.settings.get("Runtime")), target.clock.now().date())
    if outdated:
        yield f"Warning: {outdated}."
    yield from _check_handler(function, build, latest)


def _check_architecture(function: str, build: Build, latest: Version) -> None:
    wanted = _architecture(latest)
    # A build without native modules runs anywhere. One may also bring modules for both processors.
    if not build.machines or wanted in build.machines:
        return
    machine, module = min(build.machines.items())
    option = "for Python: pip install"
    if build.package == IMAGE:
        option = "docker build"
    raise Refused(
        "architecture-differs",
        f"{module} is compiled for {machine}, and {function} runs on {wanted}.",
        next=f"Build for {wanted} ({option} --platform), or change the function's architecture.",
    )


def _check_handler(function: str, build: Build, latest: Version) -> Iterator[str]:
    handler = str(latest.settings.get("Handler") or "")
    runtime = str(latest.settings.get("Runtime") or "")
    endings = next((endings for language, endings in HANDLERS.items() if runtime.startswith(language)), ())
    # What follows the last dot is the function in it.
    module = handler.rpartition(".")[0]
    # Other languages name a handler in other ways (Java: a class), so that nothing can be said of its file.
    if not endings or not module:
        return
    path = module
    if runtime.startswith("python"):
        path = module.replace(".", "/")
    if any(f"{path}{ending}" in build.names for ending in endings):
        return
    # cpython-313-x86_64-linux-gnu.so and the like.
    if any(name.startswith(f"{path}.") and name.endswith(".so") for name in build.names):
        return
    problem = f"{function} has the handler {handler}, and the build has no {path}{endings[0]}"
    if latest.settings.get("Layers"):
        yield f"Warning: {problem}. A layer may have it."
        return
    raise Refused(
        "handler-missing",
        f"{problem}. Every request would fail.",
        next=f"Pack the build so that {path}{endings[0]} is at its top, without a folder around it; or set the "
        "function's handler, and run this again.",
    )


def describe_version(target: Target, version: Version) -> str:
    """What runs a version, for the plan: package type, size, runtime, architecture and region."""
    parts = [str(version.settings.get("PackageType") or ZIP)]
    if version.code_bytes:
        parts.append(size(version.code_bytes))
    runtime = version.settings.get("Runtime")
    if runtime:
        parts.append(str(runtime))
    return f"{label(version.number)}: {', '.join([*parts, _architecture(version), target.region])}"


def _architecture(version: Version) -> str:
    """The processor that runs a version. Source: Lambda API reference, Architectures: the default is x86_64."""
    found = version.settings.get("Architectures")
    if isinstance(found, list) and found:
        return str(found[0])
    return "x86_64"


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    if more > 0:
        return f"{', '.join(names[:SHOWN])} and {more} more"
    return join_words(names)
