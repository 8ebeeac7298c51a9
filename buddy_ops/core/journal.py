"""The record of a run: every step, AWS call, verdict and approval, one JSON object a line.

``Journal`` makes the records, ``JournalFile`` writes their lines. The time is injected, and so is where lines go.
"""

import fcntl
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from buddy_ops.core.documents import parse_json
from buddy_ops.core.side_channels import SideChannels


class Journal:
    """Appends records and keeps them for the notebook to show.

    A line that cannot be written (a full disk) never stops the run: traffic matters more. ``side`` keeps the failure.

    Args:
        write: takes a line, or several, without the last newline, and has them on disk when it returns.
        now: the run's clock.
        clean: takes secrets out of a record before anything else sees it.
        side: the side channels of the run; absent: the journal's own.
        held: whether records are made and written by ``release`` only: where others come first, and another journal
            names them. Taking secrets out of a record takes longer than many a call.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        now: Callable[[], datetime],
        clean: Callable[[Any], Any] = lambda value: value,
        side: SideChannels | None = None,
        *,
        held: bool = False,
    ) -> None:
        self._write = write
        self._held: list[tuple[str, str, dict[str, object]]] | None = [] if held else None
        self._now = now
        self._clean = clean
        self.records: list[dict[str, Any]] = []
        self.side = side or SideChannels()
        # Tables are read and written by several threads.
        self._lock = threading.Lock()

    def append(self, kind: str, **fields: object) -> None:
        """Append one record: ``seq``, ``at`` (ISO 8601 UTC), ``kind``, then the fields, which must be JSON values."""
        now = iso_utc(self._now())
        with self._lock:
            if self._held is not None:
                self._held.append((now, kind, fields))
                return
            line = self._record(now, kind, fields)
            with self.side.contained("the journal"):
                self._write(line)

    def release(self) -> None:
        """Write the records that were held, at once, and each further one when it comes."""
        with self._lock:
            lines = [self._record(*held) for held in self._held or ()]
            self._held = None
            if lines:
                with self.side.contained("the journal"):
                    self._write("\n".join(lines))

    def continue_in(self, write: Callable[[str], None], opened: dict[str, object]) -> None:
        """Write what follows elsewhere, because what was written is archived. ``opened`` is its first record.

        Nothing is written until there is a next record.
        """
        pending = [json.dumps(opened)]

        def write_after(line: str) -> None:
            # Deleted once it is written: if that fails, the next record tries it again.
            while pending:
                write(pending[0])
                del pending[0]
            write(line)

        with self._lock:
            self._write = write_after

    def _record(self, now: str, kind: str, fields: dict[str, object]) -> str:
        """Keep one record, and make its line."""
        head = {"seq": len(self.records) + 1, "at": now, "kind": kind}
        # The head twice: first in the line, and no field takes its place.
        entry = head | self._clean(fields) | head
        self.records.append(entry)
        try:
            return json.dumps(entry, default=lambda value: self._clean(str(value)))
        except Exception as error:  # a value's own words may raise anything
            self.side.note("the journal", error)
            return json.dumps(head)


def iso_utc(moment: datetime) -> str:
    """ISO 8601 in UTC to the second, for example 2026-11-22T03:12:00Z."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


class JournalFile:
    """Appends lines to a file. Each is on disk before the call returns, so that a killed run keeps it.

    The file is locked while the process lives, so that no run is archived that still goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: IO[bytes] | None = None

    def __call__(self, line: str) -> None:
        # At the first line: a target that is only read leaves no folder.
        if self._lock is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock_journal(self._path)
        with self._path.open("a+b") as file:
            if _ends_in_a_torn_line(file):
                file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _ends_in_a_torn_line(file: IO[bytes]) -> bool:
    """Whether a full disk or a kill left the last line without its end."""
    if file.tell() == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def read_journal(content: bytes) -> list[dict[str, Any]]:
    """A journal's records. A line that a kill or a full disk left incomplete is skipped."""
    records = []
    for line in content.splitlines():
        # Bytes that are not UTF-8 are a torn line too: UnicodeDecodeError is a ValueError.
        with suppress(ValueError, RecursionError):
            record = parse_json(line)
            if isinstance(record, dict) and "kind" in record:
                records.append(record)
    return records


def is_locked(path: Path) -> bool:
    """Whether a process that may still write holds a journal's lock."""
    # A pipe in its place would be waited for; what cannot be opened is no run's journal.
    with suppress(OSError), open(path, "rb", opener=_without_waiting) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def lock_journal(path: Path) -> IO[bytes]:
    """Lock a journal for as long as the file that is returned stays open, at most while the process lives."""
    file = path.open("ab")
    # Shared: the supervisor and the run's kernel both hold it. `is_locked` asks for it exclusively.
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_SH)
    return file
