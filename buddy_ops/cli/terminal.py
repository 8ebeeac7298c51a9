"""The terminal as every command prints to it: a command goes on when nothing can be printed.

The reader of a pipe may have gone, a disk may be full, a session may have ended. Texts come from outside in part, so no
terminal and no CI log obeys them. No line is wrapped or cut: what is copied from it must be whole.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, cast

from buddy_ops.core.errors import Refused
from buddy_ops.core.progress import Progress
from buddy_ops.core.text import escape_terminal, shorten

STANDARD = (0, 1, 2)
"""The numbers of stdin, stdout and stderr."""

STYLES = {"ok": "32", "warning": "33", "problem": "1;31", "unknown": "36", "info": "34"}
"""Colours of terminals, by what they mean. The words of a line say it too."""

CLEAR_LINE = "\r\x1b[2K"


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
def _lost_quietly(stream: IO[str] | None) -> Iterator[None]:
    """Print; where that fails, print nothing more to this stream."""
    try:
        yield
    # ValueError: the stream is closed.
    except (OSError, ValueError):
        _silence(stream)


def _silence(stream: IO[str] | None) -> None:
    """Let a stream lead nowhere. Python flushes it at its end, and would replace the command's exit code by its own."""
    with suppress(OSError, ValueError, AttributeError):
        number = cast(IO[str], stream).fileno()
        if number in STANDARD:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person's terminal shows this stream, and can move in a line."""
    with suppress(OSError, ValueError, AttributeError):
        return os.environ.get("TERM", "") not in ("dumb", "unknown") and stream.isatty()
    return False


def has_colours(stream: IO[str]) -> bool:
    """Whether colours may be printed: NO_COLOR decides, then FORCE_COLOR, then whether it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


class Console:
    """A standard stream by its name: the stream that has this name when something is printed."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def stream(self) -> IO[str]:
        """The stream."""
        return cast(IO[str], getattr(sys, self._name))

    def print(self, *values: object, style: str = "", end: str = "\n", stream: IO[str] | None = None) -> None:
        """Print values as a text, all lines as they are.

        Args:
            style: one of ``STYLES``, for the first line; empty: none.
            stream: where it goes instead, a stream that had this name before.
        """
        shown = escape_terminal(" ".join(map(str, values)))
        into = stream or self.stream
        with _lost_quietly(into):
            if style and has_colours(into):
                first, line_end, rest = shown.partition("\n")
                shown = f"\x1b[{STYLES[style]}m{first}\x1b[0m{line_end}{rest}"
            print(_encodable(shown, into), end=end, file=into, flush=True)

    def print_json(self, *, data: object, stream: IO[str] | None = None) -> None:
        """Print as JSON. Characters that a terminal obeys are escaped as JSON has it."""
        self.print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False), stream=stream)

    @contextmanager
    def progress(self, line: str) -> Iterator[Progress]:
        """Show the latest line of a long step: in place in a terminal, else one after the other."""
        if not is_terminal(self.stream):
            yield self.print
            return
        self._show(line)
        try:
            yield self._show
        finally:
            with _lost_quietly(self.stream):
                print(CLEAR_LINE, end="", file=self.stream, flush=True)

    def _show(self, line: str) -> None:
        """Show a line in place of the last one. It goes by, and is never copied, so it is cut where it is too long."""
        width = shutil.get_terminal_size().columns
        shown = shorten(escape_terminal(line).replace("\n", " "), max(width - 1, 10))
        with _lost_quietly(self.stream):
            print(f"{CLEAR_LINE}{_encodable(shown, self.stream)}", end="", file=self.stream, flush=True)


def _encodable(text: str, stream: IO[str]) -> str:
    """A text that the stream's encoding has: an arrow must not silence a terminal without arrows."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


out = Console("stdout")
err = Console("stderr")


def say(value: object, style: str = "") -> None:
    """Print on stdout."""
    out.print(value, style=style)


def confirm(question: str, *, option: str) -> bool:
    """Ask a person yes or no; Enter is no.

    Args:
        option: answers it without a person.

    Raises:
        Refused: ``approval-missing``: no person can answer.
    """
    try:
        return input(f"{question} [y/N]: ").strip().lower() in ("y", "yes")
    except EOFError:
        raise Refused(
            "approval-missing", f"No person confirmed this: {question}", next=f"Run it again with {option}."
        ) from None
