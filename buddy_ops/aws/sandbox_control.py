"""The sandbox's control address, as every process of ours calls it.

A control call carries a token. The sandbox writes it to a file that only the user who started it can read. It keeps its
time in a file beside it.
"""

import json
import mmap
import os
import stat
import struct
import tempfile
import urllib.request
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from buddy_ops.core.documents import parse_json

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names of this machine's loopback address."""

TOKEN_WRONG = "The sandbox at {} refused the control call: its token is not in this user's state folder."
TOKEN_NEXT = (
    "Use the sandbox as the user who started it, with the same HOME and XDG_STATE_HOME. Or start one of your own: "
    "`buddy-ops sandbox start --port 4600`, and set AWS_ENDPOINT_URL=http://127.0.0.1:4600."
)

STATE_BYTES = 1024
"""More than any of the sandbox's files has."""

_TOKEN_HEADER = "X-Sandbox-Token"
_REFUSAL_HEADER = "X-Sandbox-Refusal"
# The time in seconds since 1970, and by how many seconds the client's machine is ahead, as the sandbox writes them.
_CLOCK = struct.Struct("<dd")


def ask_sandbox(endpoint: str, path: str, fields: Mapping[str, object], timeout_s: float = 60) -> dict[str, Any]:
    """One call of the sandbox's control address. Raises OSError when nothing answers there."""
    request = urllib.request.Request(
        f"{endpoint.rstrip('/')}/_sandbox/{path}",
        data=json.dumps(fields).encode(),
        headers={"Content-Type": "application/json", _TOKEN_HEADER: _read_token(endpoint)},
    )
    with _opener().open(request, timeout=timeout_s) as reply:
        answer: dict[str, Any] = parse_json(reply.read())
    return answer


def token_is_wrong(error: HTTPError) -> bool:
    """Whether a sandbox refused a control call because of its token: another user started it."""
    return error.headers.get(_REFUSAL_HEADER) == "token"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token would go along, and the sandbox sends none."""

    def redirect_request(self, *_: object) -> None:
        return None


@cache
def _opener() -> urllib.request.OpenerDirector:
    """What asks the sandbox: a proxy meant for the internet must not be asked for the loopback address."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def _read_token(endpoint: str) -> str:
    """The token of the sandbox at a loopback URL; '' if there is none."""
    return _read_state(endpoint, "token").decode("ascii", "replace")


class ClockFile:
    """The file in which the sandbox at a URL keeps its time. It is held open.

    A run reads the time several times for each AWS call, and a control call takes longer than most of them.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._opened: _OpenedClock | None = None

    def read(self) -> tuple[float, float] | None:
        """The sandbox's time, and by how many seconds its client's machine is ahead; None where no file says."""
        opened = self._opened
        if opened is None or not opened.is_current():
            opened = self._opened = self._open()
        if opened is None:
            return None
        return opened.read()

    def _open(self) -> "_OpenedClock | None":
        for folder, file in _find_state(self._endpoint, "clock"):
            with suppress(OSError, ValueError):
                if _is_private(folder):
                    return _OpenedClock(file)
        return None


class _OpenedClock:
    """A clock's file, open and in memory: threads that read it wait for no disk and not for each other.

    Raises:
        OSError: it cannot be read. ValueError: it is empty.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._content = mmap.mmap(self._descriptor, _CLOCK.size, access=mmap.ACCESS_READ)

    def is_current(self) -> bool:
        """Whether the file is there still: a sandbox that ends removes it, and its successor replaces it."""
        return os.fstat(self._descriptor).st_nlink > 0

    def read(self) -> tuple[float, float]:
        """The time, and by how many seconds the client's machine is ahead."""
        now, ahead_s = _CLOCK.unpack_from(self._content)
        return now, ahead_s


def _read_state(endpoint: str, kind: str) -> bytes:
    """A file that the sandbox at a loopback URL keeps; empty without one. The sandbox's ``state_file`` writes it."""
    for folder, file in _find_state(endpoint, kind):
        with suppress(OSError):
            if _is_private(folder):
                return _read_file(file)
    return b""


def _find_state(endpoint: str, kind: str) -> list[tuple[str, str]]:
    """Where such a file may be, each with its folder."""
    with suppress(ValueError):
        where = urlsplit(endpoint)
        # Never for another machine: it would learn the token.
        if where.hostname in LOOPBACK:
            state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
            # The sandbox uses the second folder where it cannot write into the first.
            user = os.getuid() if hasattr(os, "getuid") else "user"
            folders = (f"{state}/buddy-sandbox", f"{tempfile.gettempdir()}/buddy-sandbox-{user}")
            return [(folder, f"{folder}/{where.port}.{kind}") for folder in folders]
    return []


def _read_file(path: str) -> bytes:
    """The content of a small file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, STATE_BYTES)
    finally:
        os.close(descriptor)


def _is_private(folder: str) -> bool:
    """Whether it is a folder of this user's own, no link, that no other user can read or change."""
    found = os.lstat(folder)
    if not hasattr(os, "getuid"):
        return stat.S_ISDIR(found.st_mode)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
