"""What the kernel of a run loads at its start: it ends fast, and log records in quick succession are sent together.

``logging`` flushes its stream after each record. In a kernel each flush is a message of its own: 50,000 records are
50,000 messages, and ZeroMQ drops messages that a busy reader has not read yet. A record after a pause is sent at once.
Of a burst, a kernel that is killed can lose the last ``BURST_S`` seconds.
"""

import atexit
import gc
import logging
import sys
import time
from typing import Any

BURST_S = 0.05
"""Records that follow faster than this are sent together, after so many seconds at the latest."""

_flushed: dict[int, float] = {}
_flush = logging.StreamHandler.flush


def flush_together(handler: "logging.StreamHandler[Any]") -> None:
    """Flush a handler's stream. If it is the kernel's and was flushed a moment ago, its own timer sends the rest."""
    stream = handler.stream
    # Only ipykernel's OutStream has a timer that sends what is left; any other stream is flushed as always.
    if stream in (sys.stdout, sys.stderr) and hasattr(stream, "flush_interval"):
        now = time.monotonic()
        if now - _flushed.get(id(stream), 0.0) < BURST_S:
            return
        _flushed[id(stream)] = now
        stream.flush_interval = BURST_S
    _flush(handler)


logging.StreamHandler.flush = flush_together  # type: ignore[assignment,method-assign]

# At exit Python would search all that was imported for garbage, 0.3 s in which the archive waits.
atexit.register(gc.freeze)
