"""The token for a sandbox's control calls, in a file that only the user who started it can read.

A client finds the file by the port of the sandbox's URL. ``buddy_ops.aws.sandbox_control`` reads it by the same rules.
"""

import os
import stat
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
    """Remove a sandbox's file, unless another sandbox has replaced it."""
    with suppress(OSError):
        if path.read_text() == token:
            path.unlink()


def _file(folder: Path, port: int) -> Path:
    return folder / f"{port}.token"
