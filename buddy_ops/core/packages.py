"""Builds as zip files: what Lambda would refuse, or what would harm the reader, is found before it is used.

The directory at a zip's end is checked first, and nothing is unpacked that it does not allow. Then every file is
unpacked once, in pieces that are thrown away, to check its checksum.
"""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.text import shorten

ZIPPED_LIMIT = 50 * 1024**2
UNPACKED_LIMIT = 250 * 1024**2
"""Bytes of a zip that is sent with the call, and of a build once it is unpacked, its layers included, at most.

Source: AWS Lambda developer guide, quotas."""

DIRECTORY_LIMIT = 10 * 1024**2
"""Bytes of the directory at a zip's end: about 100,000 files."""

RATIO_LIMIT = 200
"""How much larger a file of more than ``RATIO_FREE`` bytes may be unpacked. Source code has 3 to 10."""

RATIO_FREE = 10 * 1024**2
PIECE = 1024**2
NAME_LIMIT = 255
PATH_LIMIT = 4000
"""Bytes of a file's name, and of its path. Source: limits.h of Linux, without the folder that Lambda unpacks into."""

LINK_LIMIT = 4096
"""Bytes of a symbolic link's target."""

END = struct.Struct("<4s4H2LH")
"""The last record of a zip. Source: PKWARE APPNOTE 4.3.16."""

UNREADABLE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError,
    OverflowError, IndexError,
)  # fmt: skip
"""What Python raises for damaged zips."""


def check_zip(content: bytes, path: str) -> None:
    """Check a build's zip.

    Raises:
        InvalidInput: ``artifact-not-a-zip``, ``artifact-damaged``, ``artifact-unsafe`` or ``artifact-oversized``.
    """
    require_size(len(content), path)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        if content.startswith(b"PK\x03\x04"):
            raise _damaged(path, "its end is missing: it was cut off")
        raise InvalidInput(
            "artifact-not-a-zip",
            f"{path} ({len(content):,} bytes) is not a zip file.",
            next="Build the skill again; Lambda takes a zip.",
        )
    _check_end(content, path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_directory(archive.infolist(), path)
            links = {
                entry.filename: target
                for entry in archive.infolist()
                if (target := _check_entry(archive, entry, path)) is not None
            }
            for name, target in links.items():
                _check_link(name, target, links, path)
    except UNREADABLE as error:
        raise _damaged(path, str(error) or type(error).__name__) from None


def require_size(size: int, path: str) -> None:
    """Refuse a zip that is too large to upload to Lambda; ``size`` in bytes. Raises ``artifact-oversized``."""
    if size > ZIPPED_LIMIT:
        raise _oversized(path, f"has {_megabytes(size)} MB, and Lambda takes {_megabytes(ZIPPED_LIMIT)} MB")


def pack_folder(folder: Path, path: str) -> bytes:
    """A folder as a zip: the same files give the same bytes, so that an approved hash still fits an hour later.

    Raises:
        InvalidInput: ``artifact-unsafe``: a link leads out of the folder; ``artifact-damaged`` or
            ``artifact-oversized``.
    """
    inside = folder.resolve()
    found = sorted(file for file in folder.rglob("*") if "__pycache__" not in file.parts)
    for file in found:
        name = file.relative_to(folder).as_posix()
        if not file.resolve().is_relative_to(inside):
            raise _unsafe(path, f"{name!r} is a link to {str(file.resolve())!r}, outside the folder")
        # Left out in silence, it would be missing in the version.
        if not file.is_file() and (file.is_symlink() or not file.is_dir()):
            raise _unsafe(path, f"{name!r} is neither a file nor a folder, or a link to a folder or to nothing")
    files = [file for file in found if file.is_file()]
    if not files:
        raise _damaged(path, "there is no file in it")
    require_size(sum(file.stat().st_size for file in files), path)
    packed = io.BytesIO()
    # Stored, not deflated: zlib's output differs between its versions, and CodeSha256 must not.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (0o100755 if file.stat().st_mode & 0o100 else 0o100644) << 16
            archive.writestr(entry, file.read_bytes())
    content = packed.getvalue()
    check_zip(content, path)
    return content


def _check_end(content: bytes, path: str) -> None:
    """Check how large the directory says it is, before a reader makes objects of it."""
    start = content.rfind(b"PK\x05\x06")
    if start < 0 or len(content) - start < END.size:
        raise _damaged(path, "its end is missing: it was cut off")
    _, _, _, _, entries, directory, _, _ = END.unpack_from(content, start)
    if entries == 0:
        raise _damaged(path, "there is no file in it")
    # A locator before the end says where a 64-bit directory is, and readers prefer that one.
    if directory > DIRECTORY_LIMIT or content[: start - 16].endswith(b"PK\x06\x07"):
        raise _oversized(path, "has more files than a zip without 64-bit extensions, or very long names")


def _check_directory(entries: list[zipfile.ZipInfo], path: str) -> None:
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED_LIMIT:
        limit = _megabytes(UNPACKED_LIMIT)
        raise _oversized(path, f"has {_megabytes(unpacked)} MB unpacked, and Lambda takes {limit} MB")
    names: set[str] = set()
    for entry in entries:
        _check_name(entry, path)
        # As it is unpacked: ./a.py and a.py are one file, and the later one would replace the other.
        name = str(PurePosixPath(entry.filename))
        if name in names:
            raise _damaged(path, f"it has {name!r} twice")
        names.add(name)
        if entry.flag_bits & 0x41:
            raise _unsafe(path, f"{name!r} is encrypted, and Lambda cannot read it")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _unsafe(path, f"{name!r} is compressed with method {entry.compress_type}, and not with deflate")
        if entry.file_size > max(RATIO_FREE, RATIO_LIMIT * entry.compress_size):
            raise _unsafe(
                path,
                f"{name!r} grows from {entry.compress_size:,} to {entry.file_size:,} bytes, as a zip bomb does",
            )
    files = {str(PurePosixPath(entry.filename)) for entry in entries if not entry.is_dir()}
    for name in names:
        inside_a_file = files.intersection(str(parent) for parent in PurePosixPath(name).parents)
        if inside_a_file:
            raise _damaged(path, f"{min(inside_a_file)!r} is a file and a folder")


def _check_name(entry: zipfile.ZipInfo, path: str) -> None:
    name = entry.orig_filename
    parts = name.replace("\\", "/").split("/")
    if not name.strip("/") or name.startswith(("/", "\\")) or name[1:2] == ":":
        raise _unsafe(path, f"{name!r} is an absolute name")
    if ".." in parts:
        raise _unsafe(path, f"{name!r} leads out of the build")
    if "\\" in name or not name.isprintable():
        raise _unsafe(path, f"{name!r} has characters that no file's name has on Lambda")
    if any(len(part.encode()) > NAME_LIMIT for part in parts) or len(name.encode()) > PATH_LIMIT:
        raise _unsafe(path, f"{shorten(name, 60)!r} is longer than a file's name can be on Lambda")
    if not entry.is_dir() and parts[-1] in ("", "."):
        raise _unsafe(path, f"{name!r} is the name of a folder, and not of a file")


def _check_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str) -> str | None:
    """Unpack one file in pieces: its size and its checksum must be as the directory says. Returns a link's target."""
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise _unsafe(path, f"{entry.filename!r} is neither a file, nor a folder, nor a link")
    if kind == stat.S_IFLNK and entry.file_size > LINK_LIMIT:
        raise _unsafe(path, f"{entry.filename!r} is a link with a target of {entry.file_size:,} bytes")
    read = 0
    piece = target = b""
    with archive.open(entry) as file:
        while piece := file.read(PIECE):
            read += len(piece)
            target = piece
            if read > entry.file_size:
                break
    if read != entry.file_size:
        raise _damaged(path, f"{entry.filename!r} has not the {entry.file_size:,} bytes that its directory says")
    return target.decode(errors="replace") if kind == stat.S_IFLNK else None


def _check_link(name: str, target: str, links: Mapping[str, str], path: str) -> None:
    """Follow a link's target step by step: it must stay inside, and not lead through another link, which could turn."""
    place = name.split("/")[:-1]
    inside = not target.startswith("/")
    for part in target.split("/"):
        if part == "..":
            inside = inside and bool(place)
            place = place[:-1]
        elif part not in ("", "."):
            place = [*place, part]
        if "/".join(place) in links and part != target.rsplit("/", maxsplit=1)[-1]:
            inside = False
    if not inside:
        raise _unsafe(path, f"{name!r} is a link to {target!r}, which may lead out of the build")


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:,.1f}".removesuffix(".0")


def _damaged(path: str, problem: str) -> InvalidInput:
    return InvalidInput(
        "artifact-damaged", f"{path} is damaged: {problem}.", next="Build the skill again, or download it again."
    )


def _unsafe(path: str, problem: str) -> InvalidInput:
    return InvalidInput(
        "artifact-unsafe", f"{path} is not a safe build: {problem}.", next="Build the skill again without it."
    )


def _oversized(path: str, problem: str) -> InvalidInput:
    return InvalidInput(
        "artifact-oversized", f"{path} {problem}.", next="Leave out what the skill does not need, or use layers."
    )
