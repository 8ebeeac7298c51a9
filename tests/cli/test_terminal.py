"""A command goes on when nothing can be printed, and its exit code stays its own."""

import errno
import io
import subprocess
import sys
from pathlib import Path
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
    out = terminal.Console("stdout")
    out.print("moved", style="ok")
    out.print_json(data={"moved": True})


def test_progress_goes_on_and_what_the_step_raises_is_raised(broken: Any) -> None:
    """An error of the action is not one of the terminal."""
    out = terminal.Console("stdout")
    with out.progress("starting") as tell:
        tell("half way")
    with pytest.raises(OSError, match="of the action"), out.progress("starting") as tell:
        tell("half way")
        raise OSError("of the action")


OPENS_A_FILE = """
import sys
from buddy_ops.cli.main import app
app(["runs", "list"], standalone_mode=False)
with open(sys.argv[1], "w") as file:
    file.write(str(file.fileno()))
"""


def test_a_closed_stream_is_no_files_number(tmp_path: Path) -> None:
    """Before each command: else the journal would be stdout, and what a program prints would be in it."""
    path = tmp_path / "number"
    closed = 'exec "$@" <&- >&- 2>&-'
    line = ["/bin/sh", "-c", closed, "sh", sys.executable, "-c", OPENS_A_FILE, str(path)]
    subprocess.run(line, check=True, timeout=60)
    assert int(path.read_text()) > 2
