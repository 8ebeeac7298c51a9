"""The terminal as every command prints to it: a command goes on when nothing can be printed.

The reader of a pipe may have gone, a disk may be full, a session may have ended. Texts come from outside in part, so no
terminal and no CI log obeys them.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING, cast

import typer

from buddy_ops.core.progress import Progress
from buddy_ops.core.text import escape_terminal

if TYPE_CHECKING:
    from rich.console import Console

STANDARD = (0, 1, 2)
"""The numbers of stdin, stdout and stderr."""


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that the caller has closed.

    The next file or connection that is opened would have its number, and what is printed would go there.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def _lost_quietly(name: str) -> Iterator[None]:
    """Print; where that fails, print nothing more to this stream."""
    try:
        yield
    # ValueError: the stream is closed.
    except (OSError, ValueError):
        _silence(getattr(sys, name))


def _silence(stream: IO[str] | None) -> None:
    """Let a stream lead nowhere. Python flushes it at its end, and would replace the command's exit code by its own."""
    with suppress(OSError, ValueError, AttributeError):
        number = cast(IO[str], stream).fileno()
        if number in STANDARD:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


class LazyConsole:
    """A console of rich, imported when it prints for the first time: a rollback does not need it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console

        class Lasting(Console):
            """rich itself ends the program when a pipe's reader has gone."""

            def on_broken_pipe(self) -> None:
                _silence(self.file)

        # Without soft wrapping, a path or a command would be cut when the output goes to a file. Without markup,
        # "[redacted]" and "buddy-ops[run]" are texts, not styles.
        return Lasting(stderr=self._name == "stderr", soft_wrap=True, markup=False)

    def print(self, *values: object, **options: object) -> None:
        """Print, with rich's own options."""
        shown = [escape_terminal(value) if isinstance(value, str) else value for value in values]
        with _lost_quietly(self._name):
            self._console.print(*shown, **options)  # type: ignore[arg-type]

    def print_json(self, *, data: object) -> None:
        """Print as JSON. Characters that a terminal obeys are escaped as JSON has it."""
        self.print(json.dumps(data, indent=2, ensure_ascii=False))

    @contextmanager
    def progress(self, line: str) -> Iterator[Progress]:
        """Show the latest line of a long step: in place in a terminal, else one after the other."""
        if not self._console.is_terminal:
            yield self.print
            return
        status = self._console.status(escape_terminal(line))

        def update(line: str) -> None:
            with _lost_quietly(self._name):
                status.update(escape_terminal(line))

        with _lost_quietly(self._name):
            status.start()
        try:
            yield update
        finally:
            with _lost_quietly(self._name):
                status.stop()


out = LazyConsole("stdout")
err = LazyConsole("stderr")


def say(value: object) -> None:
    """Print on stdout without rich: importing it would delay a rollback."""
    with _lost_quietly("stdout"):
        typer.echo(escape_terminal(str(value)))
