"""What runs beside an action and fails by itself: progress, charts, journal, archive, messages and the terminal.

None of them stops the action, delays it or changes its exit code. Each first failure is kept, to be said at the end.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from buddy_ops.core.progress import Progress

T = TypeVar("T")


class SideChannels:
    """The side channels of a run that failed, each with its first error. Threads may share it."""

    def __init__(self) -> None:
        self._failures: dict[str, str] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def contained(self, channel: str) -> Iterator[None]:
        """Run a block whose error is noted in place of raised. An interrupt still ends it.

        Args:
            channel: what fails, as a sentence begins with it: 'the chart'.
        """
        try:
            yield
        # Whatever a library of charts or terminals raises, the traffic matters more.
        except Exception as error:
            self.note(channel, error)

    def attempt(self, channel: str, call: Callable[[], T]) -> T | None:
        """What a call returns; None where it fails."""
        # A list, since an error ends the block silently: what was there before is then the last.
        found: list[T | None] = [None]
        with self.contained(channel):
            found.append(call())
        return found[-1]

    def note(self, channel: str, error: BaseException) -> None:
        """Keep a channel's first failure."""
        with self._lock:
            self._failures.setdefault(channel, f"{type(error).__name__}: {error}".rstrip(": "))

    def adopt(self, owner: str, other: "SideChannels") -> None:
        """Keep the failures of another run's side channels, too, with its name: 'the journal of pay-eu-west-1'."""
        with other._lock:
            found = {f"{channel} of {owner}": why for channel, why in other._failures.items()}
        with self._lock:
            self._failures = found | self._failures

    def watch(self, progress: Progress) -> Progress:
        """The same callback, without what it raises: an action reports its progress and goes on."""

        def report(line: str) -> None:
            with self.contained("the progress"):
                progress(line)

        return report

    def unsaid(self) -> list[str]:
        """A sentence for each failure that was not returned here before."""
        with self._lock:
            channels = [channel for channel in self._failures if channel not in self._said]
            self._said.update(channels)
            return [describe_failure(channel, self._failures[channel]) for channel in channels]


def describe_failure(channel: str, why: str) -> str:
    """What an operator reads of a channel that failed."""
    return f"{channel[:1].upper()}{channel[1:]} failed ({why}). The action was not affected."
