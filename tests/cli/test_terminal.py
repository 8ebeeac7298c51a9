"""A command goes on when nothing can be printed, and its exit code stays its own."""

import errno
import io
from typing import Any

import pytest

from buddy_ops.cli import terminal


class Broken(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.fixture(
    params=[OSError(errno.EIO, "gone"), OSError(errno.ENOSPC, "full"), BrokenPipeError(), ValueError("closed")],
    ids=repr,
)
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    stream = Broken(request.param)
    monkeypatch.setattr("sys.stdout", stream)
    return stream


def test_what_cannot_be_printed_is_dropped(broken: Any) -> None:
    """Each way to print, and each error that a stream may raise."""
    terminal.say("moved")
    out = terminal.LazyConsole("stdout")
    out.print("moved", style="bold")
    out.print_json(data={"moved": True})


def test_progress_goes_on_and_what_the_step_raises_is_raised(broken: Any) -> None:
    """An error of the action is not one of the terminal."""
    out = terminal.LazyConsole("stdout")
    with out.progress("starting") as tell:
        tell("half way")
    with pytest.raises(OSError, match="of the action"), out.progress("starting") as tell:
        tell("half way")
        raise OSError("of the action")
