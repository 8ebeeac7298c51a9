"""The record of a run: every step, AWS call, verdict and approval, one JSON object a line.

Knows what a record looks like. Never opens a file: where lines go is injected, and so is the time.
"""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any


class Journal:
    """Appends records and keeps them for the notebook to show.

    A line that cannot be written (a full disk) never stops the run: traffic matters more. The failure is kept in
    ``trouble`` for the report to say.

    Args:
        write: takes one line without its newline, and has it on disk when it returns.
        now: the run's clock.
        clean: takes secrets out of a record before anything else sees it.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        now: Callable[[], datetime],
        clean: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self._write = write
        self._now = now
        self._clean = clean
        self.records: list[dict[str, Any]] = []
        self.trouble: str | None = None
        # Tables are read and written by several threads.
        self._lock = threading.Lock()

    def append(self, kind: str, **fields: Any) -> None:
        """Append one record: ``seq``, ``at`` (ISO 8601 UTC), ``kind``, then the fields, which must be JSON values."""
        now = iso_utc(self._now())
        with self._lock:
            self._append(now, kind, fields)

    def _append(self, now: str, kind: str, fields: dict[str, Any]) -> None:
        head = {"seq": len(self.records) + 1, "at": now, "kind": kind}
        entry = head | self._clean(fields) | head
        self.records.append(entry)
        try:
            line = json.dumps(entry, default=lambda value: self._clean(str(value)))
        except Exception as error:  # a value's own words may raise anything
            self.trouble = f"the journal could not be written: record {head['seq']} is no JSON: {error}"
            line = json.dumps(head)
        try:
            self._write(line)
        except OSError as error:
            self.trouble = f"the journal could not be written: {error}"


def iso_utc(moment: datetime) -> str:
    """ISO 8601 in UTC to the second, for example 2026-11-22T03:12:00Z."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
