"""The token for a sandbox's control calls, and its time, in files that only the user who started it can read.

A client finds them by the port of the sandbox's URL. ``buddy_ops.aws.sandbox_control`` reads them by the same rules.
"""

import os
import stat
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from buddy_sandbox.access import NAMES


class NoStateFolder(Exception):
    """There is no folder that only this user can read and write."""


def folders() -> list[Path]:
    """Where state files may be: XDG_STATE_HOME, by default ~/.local/state; where that cannot be written, /tmp."""
    state = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))  # noqa: PTH111
    user = os.getuid() if hasattr(os, "getuid") else "user"
    either = (state / "buddy-sandbox", Path(tempfile.gettempdir()) / f"buddy-sandbox-{user}")
    # Without a home "~" stays as it is.
    return [folder for folder in either if folder.is_absolute()]


def is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's own, no link, that no other user can read or change."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):
        return stat.S_ISDIR(found.st_mode)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


CLOCK = struct.Struct("<dd")
"""The virtual time in epoch seconds, and by how many seconds the clock of a client's machine is ahead."""


class ClockFile:
    """The time, where a client reads it without a call.

    Args:
        token: the sandbox's token file, which this one lies beside.
    """

    def __init__(self, token: Path) -> None:
        path = _clock(token)
        handle, part = tempfile.mkstemp(dir=path.parent)
        # Unbuffered: a reader finds each time whole, as one write.
        self._file = os.fdopen(handle, "wb", buffering=0)
        Path(part).replace(path)

    def show(self, now: float, ahead_s: float) -> None:
        """Replace the time that the file says."""
        self._file.seek(0)
        self._file.write(CLOCK.pack(now, ahead_s))


def _clock(token: Path) -> Path:
    return token.with_suffix(".clock")


def write(port: int, token: str) -> Path:
    """Write a sandbox's file, and replace the one that an earlier sandbox left.

    Raises:
        NoStateFolder: no place for it is private.
    """
    for folder in folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_private(folder):
                continue
            # Created with mode 0600, under a name that nobody can foresee.
            handle, part = tempfile.mkstemp(dir=folder)
        except OSError:
            continue
        with os.fdopen(handle, "w") as file:
            file.write(token)
        return Path(part).replace(_file(folder, port))
    tried = " and ".join(map(str, folders()))
    raise NoStateFolder(f"no private folder for the token: tried {tried}. Set XDG_STATE_HOME to a folder of your own")


def read(endpoint: str) -> str:
    """The token of the sandbox at a loopback URL; '' if there is none."""
    name, _, port = urlsplit(endpoint).netloc.rpartition(":")
    # Never for another machine: it would learn the token.
    if name.lower() not in NAMES or not port.isdecimal():
        return ""
    for folder in folders():
        with suppress(OSError):
            if is_private(folder):
                return _file(folder, int(port)).read_text()
    return ""


def remove(path: Path, token: str) -> None:
    """Remove a sandbox's files, unless another sandbox has replaced them."""
    with suppress(OSError):
        if path.read_text() == token:
            _clock(path).unlink(missing_ok=True)
            path.unlink()


def _file(folder: Path, port: int) -> Path:
    return folder / f"{port}.token"
