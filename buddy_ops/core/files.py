"""Files that are written whole or not at all, and folders for files that are not kept."""

import os
import re
import resource
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# /dev/shm is memory: it takes a file where every disk is full.
SCRATCH = ("", "/tmp", "/var/tmp", "/dev/shm")  # a private folder is made in it
"""Where a folder for a run's own files may be made, in this sequence; '' is TMPDIR, or the system's default."""

PREFIX = "buddy-ops-"

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""Create a file that is not there: whatever was put in its place, a link above all, is not written to."""


def write_atomically(path: Path, content: bytes | str, *, sync: bool = False) -> None:
    """Replace a file's content in one step: after a crash, and for each reader, it is the old content or the new.

    The new content is first in a file beside it whose name cannot be predicted. A kill leaves that file.

    Args:
        content: a text is written as UTF-8.
        sync: have the content on disk before the name points at it, so that it outlasts a power failure.
    """
    if isinstance(content, str):
        content = content.encode()
    # Beside the file: only within one file system is a name replaced in one step.
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    # The rights of any new file, which the umask narrows; tempfile would make it readable by this user only.
    descriptor = os.open(part, CREATE, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        part.replace(path)
    # An interrupt, too, leaves nothing behind.
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def is_part(name: str, of: str) -> bool:
    """Whether a file is what a killed process left of writing ``of``; earlier releases gave it a fixed name."""
    return re.fullmatch(rf"\.{re.escape(of)}(\.[0-9a-f]{{16}})?\.part", name) is not None


def delete_parts_of(path: Path) -> None:
    """Delete what killed processes left of writing this file; the file itself has its old content."""
    with suppress(OSError):
        for entry in list(path.parent.iterdir()):
            if is_part(entry.name, path.name):
                with suppress(OSError):  # a folder of that name is none of ours
                    entry.unlink()


def make_scratch_folder(longest: int | None = None) -> "tempfile.TemporaryDirectory[str]":
    """A folder that only this user can read, at the first place that takes one; it is deleted at the end.

    Args:
        longest: the most characters that its path may have.

    Raises:
        OSError: no place takes a file.
    """

    def make(place: str | None) -> "tempfile.TemporaryDirectory[str]":
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=place)
        try:
            if longest is not None and len(folder.name) > longest:
                raise OSError(f"{folder.name} has more than {longest} characters")
            _require_space(folder.name)
        except OSError:
            folder.cleanup()
            raise
        return folder

    return _at_first_place(make)


def make_lasting_folder() -> Path:
    """The same, and it stays. Raises OSError."""

    def make(place: str | None) -> Path:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        _require_space(folder)
        return Path(folder)

    return _at_first_place(make)


def _at_first_place(make: Callable[[str | None], T]) -> T:
    failed = OSError("no folder for temporary files")
    for place in SCRATCH:
        try:
            return make(place or None)
        except OSError as error:
            failed = error
    raise failed


def _require_space(folder: str) -> None:
    """Raise OSError where a folder takes no file: a full disk may still take folders."""
    probe = Path(folder) / "probe"
    probe.write_bytes(b"0")
    probe.unlink()


def allow_open_files(number: int) -> None:
    """Let this process have so many files open at once, as far as the system allows it: often 1,024 is the default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number
    if hard != resource.RLIM_INFINITY:
        wanted = min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
