"""Builds as zip files: what Lambda would refuse, or what would harm the reader, is found before it is used.

The directory at a zip's end is checked first, and nothing is unpacked that it does not allow. Then every file is
unpacked once, in pieces that are thrown away, to check its checksum.
"""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.text import shorten

MEGABYTE = 1024**2
ZIPPED_LIMIT = 50 * MEGABYTE
UNPACKED_LIMIT = 250 * MEGABYTE
"""Bytes of a zip that is sent with the call, and of a build once it is unpacked, its layers included, at most.

Lambda counts the request, in which the zip is base64, and allows 256 KB beside it: 'Request must be smaller than
70167211 bytes for the UpdateFunctionCode operation'. Source: AWS Lambda developer guide, quotas."""

DIRECTORY_LIMIT = 10 * 1024**2
"""Bytes of the directory at a zip's end: about 100,000 files."""

IGNORE_FILE = ".lambdaignore"
"""A file at a folder's top with what is not packed, in the form of .gitignore. Source: lambroll, which named it."""

NEVER_PACKED = (".env*", ".git", ".aws/", "__pycache__/", ".venv/", "venv/", IGNORE_FILE)
"""What no build needs, and what may hold secrets: no line of an ignore file includes it."""

KEYS = (".pem", ".key")
KEY_STORES = (".p12", ".pfx", ".jks")
"""Endings of files that may hold a private key, and of those that are made to."""

WILDCARDS = {"**/": "(?:[^/]+/)*", "/**": "/.+", "*": "[^/]*", "?": "[^/]"}

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


def check_zip(content: bytes, path: str, *, stored: bool = False) -> None:
    """Check a build's zip.

    Args:
        stored: whether Lambda copies it from S3: then the limit of an upload does not hold.

    Raises:
        InvalidInput: ``artifact-not-a-zip``, ``artifact-damaged``, ``artifact-unsafe`` or ``artifact-oversized``.
    """
    if not stored:
        require_size(len(content), path)
    if not zipfile.is_zipfile(io.BytesIO(content)):
        # A zip begins with its first file's header; what says where everything is comes last.
        if content.startswith(b"PK\x03\x04"):
            raise _damaged(path, "its end is missing: it was cut off")
        raise InvalidInput(
            "artifact-not-a-zip",
            f"{path} ({len(content):,} bytes) is not a zip file.",
            next="Build again; Lambda takes a zip.",
        )
    # Before Python reads the directory: of a million entries it makes a gigabyte of objects.
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
        raise InvalidInput(
            "artifact-oversized",
            f"{path} has {_megabytes(size)} MB, and Lambda takes {_megabytes(ZIPPED_LIMIT)} MB with the call.",
            next="Upload the zip to a bucket in the function's region (aws s3 cp ZIP s3://BUCKET/KEY), and give "
            "s3://BUCKET/KEY.",
        )


@dataclass(frozen=True)
class Packed:
    """A build's zip. ``left_out``: what of its folder is not in it; of a folder that is left out its name alone."""

    content: bytes
    left_out: tuple[str, ...] = ()


def pack_folder(folder: Path, path: str) -> Packed:
    """A folder as a zip: the same files give the same bytes, so that an approved hash still fits an hour later.

    Left out is what ``NEVER_PACKED`` matches, what ``IGNORE_FILE`` names, virtual environments and private keys.

    Raises:
        InvalidInput: ``artifact-unsafe``: a link leads out of the folder; ``artifact-damaged`` or
            ``artifact-oversized``.
    """
    inside = folder.resolve()
    found, left_out = _choose(folder)
    for file in found:
        name = file.relative_to(folder).as_posix()
        if not file.resolve().is_relative_to(inside):
            raise _unsafe(path, f"{name!r} is a link to {str(file.resolve())!r}, outside the folder")
        # Left out in silence, it would be missing in the version.
        if not file.is_file():
            raise _unsafe(path, f"{name!r} is neither a file nor a folder, or a link to a folder or to nothing")
    # After the check of links: here files are read, and a link may lead anywhere.
    keys = {file for file in found if _is_private_key(file)}
    files = [file for file in found if file not in keys]
    left_out += [file.relative_to(folder).as_posix() for file in keys]
    if not files:
        raise _damaged(path, "there is no file in it")
    require_size(sum(file.stat().st_size for file in files), path)
    packed = io.BytesIO()
    # Stored, not deflated: zlib's output differs between its versions, and CodeSha256 must not.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            # The first time that a zip can hold, Unix as the system, and one of two modes: nothing of this machine is
            # in it.
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            # All may read it: Lambda does not run the code as the file's owner.
            mode = 0o100644
            if file.stat().st_mode & 0o100:
                mode = 0o100755
            entry.external_attr = mode << 16
            archive.writestr(entry, file.read_bytes())
    content = packed.getvalue()
    check_zip(content, path)
    return Packed(content, tuple(sorted(left_out)))


def _choose(folder: Path) -> tuple[list[Path], list[str]]:
    """What of a folder is packed, in order, and the names of what is left out. No link to a folder is followed."""
    # Twice: as the first lines, and again behind the ignore file's, so that no line of it includes them.
    rules = [*map(_ignore_rule, NEVER_PACKED), *_read_ignore_file(folder)]
    never = rules[: len(NEVER_PACKED)]
    found = []
    left_out = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        here = Path(place)
        # os.walk goes only into the folders that are left in its own list.
        for name in list(folders):
            each = here / name
            relative = each.relative_to(folder).as_posix() + "/"
            if _matches(rules, relative) or _matches(never, relative) or (each / "pyvenv.cfg").is_file():
                folders.remove(name)
                left_out.append(relative)
            elif each.is_symlink():
                found.append(each)
        for name in names:
            relative = (here / name).relative_to(folder).as_posix()
            if _matches(rules, relative) or _matches(never, relative):
                left_out.append(relative)
            else:
                found.append(here / name)
    return sorted(found), left_out


def _raise(error: OSError) -> None:
    raise error


def _read_ignore_file(folder: Path) -> list["_IgnoreRule"]:
    file = folder / IGNORE_FILE
    # A link in its place may lead anywhere: it is packed, and refused, as any other.
    if file.is_symlink() or not file.is_file():
        return []
    lines = (line.strip() for line in file.read_text(errors="replace").splitlines())
    return [_ignore_rule(line) for line in lines if line.strip("/") and not line.startswith("#")]


@dataclass(frozen=True)
class _IgnoreRule:
    """A line of an ignore file. ``includes``: it takes back what a line before it left out."""

    pattern: re.Pattern[str]
    includes: bool


def _ignore_rule(line: str) -> _IgnoreRule:
    """A line as .gitignore reads it: *, ?, ** for folders, / at its end for folders alone, ! to include again.

    Source: gitignore(5), 'Pattern format'.
    """
    includes = line.startswith("!")
    line = line.removeprefix("!")
    folders_only = line.endswith("/")
    line = line.rstrip("/")
    # A pattern with a slash counts from the folder's top, others match at any depth.
    if "/" not in line:
        line = f"**/{line}"
    tokens = re.split(r"(\*\*/|/\*\*$|\*|\?)", line.removeprefix("/"))
    regex = "".join(WILDCARDS.get(token) or re.escape(token) for token in tokens)
    # Names of folders end with a slash here.
    ending = "/?"
    if folders_only:
        ending = "/"
    return _IgnoreRule(re.compile(regex + ending), includes)


def _matches(rules: list[_IgnoreRule], name: str) -> bool:
    """Whether the last line that matches a name leaves it out."""
    matching = [rule for rule in rules if rule.pattern.fullmatch(name)]
    return bool(matching) and not matching[-1].includes


def _is_private_key(file: Path) -> bool:
    """Whether a file holds a private key. Certificates of others, as requests ships them, are packed."""
    if file.suffix in KEY_STORES:
        return True
    if file.suffix not in KEYS and not file.name.startswith("id_"):
        return False
    return b"PRIVATE KEY-----" in file.read_bytes()


def _check_end(content: bytes, path: str) -> None:
    """Check how large the directory says it is, before a reader makes objects of it."""
    start = content.rfind(b"PK\x05\x06")
    if start < 0 or len(content) - start < END.size:
        raise _damaged(path, "its end is missing: it was cut off")
    _, _, _, _, entries, directory, _, _ = END.unpack_from(content, start)
    if entries == 0:
        raise _damaged(path, "there is no file in it")
    # A locator before the end says where a 64-bit directory is, and readers prefer that one.
    # It has 20 bytes, of which the signature is the first four.
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
        # Bits 0 and 6: encrypted, and strongly encrypted. Source: PKWARE APPNOTE 4.4.4.
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
    # Only zips of Unix (3) have a file's mode in their attributes. Source: PKWARE APPNOTE 4.4.2.
    kind = 0
    if entry.create_system == 3:
        kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise _unsafe(path, f"{entry.filename!r} is neither a file, nor a folder, nor a link")
    if kind == stat.S_IFLNK and entry.file_size > LINK_LIMIT:
        raise _unsafe(path, f"{entry.filename!r} is a link with a target of {entry.file_size:,} bytes")
    read = 0
    piece = target = b""
    with archive.open(entry) as file:
        while piece := file.read(PIECE):
            read += len(piece)
            # A link's target is one piece: LINK_LIMIT is less.
            target = piece
            # A zip bomb unpacks to more than its directory says.
            if read > entry.file_size:
                break
    if read != entry.file_size:
        raise _damaged(path, f"{entry.filename!r} has not the {entry.file_size:,} bytes that its directory says")
    if kind != stat.S_IFLNK:
        return None
    return target.decode(errors="replace")


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
    return InvalidInput("artifact-damaged", f"{path} is damaged: {problem}.", next="Build again, or download it again.")


def _unsafe(path: str, problem: str) -> InvalidInput:
    return InvalidInput("artifact-unsafe", f"{path} is not a safe build: {problem}.", next="Build again without it.")


def _oversized(path: str, problem: str) -> InvalidInput:
    return InvalidInput(
        "artifact-oversized", f"{path} {problem}.", next="Leave out what the function does not need, or use layers."
    )
