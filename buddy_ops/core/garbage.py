"""Python's search for garbage in cycles: a fifth of the CPU time of a program that imports much and ends soon."""

import atexit
import gc

THRESHOLDS = (50_000, 20, 100)
"""By how many objects more have been made than deleted when the youngest are searched, and after how many searches the
older ones are, too; Python's own are 700, 10, 10 (docs.python.org, gc)."""


def search_rarely() -> None:
    """Search rarely while this program runs, and not at its end, when all memory is free anyway."""
    gc.set_threshold(*THRESHOLDS)
    # What is frozen is not searched.
    atexit.register(gc.freeze)
