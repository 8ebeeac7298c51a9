"""The callback by which a long action reports its progress."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Takes one short line for each step."""


def no_progress(line: str) -> None:
    """Report nothing."""
