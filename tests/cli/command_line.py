"""The commands, run in this process."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from buddy_ops.cli.main import app
from buddy_ops.core.documents import parse_json

COMMAND = re.compile(r"`(buddy-ops [^`]+)`")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        found: dict[str, Any] = parse_json(self.out)
        return found


def invoke(capsys: pytest.CaptureFixture[str], *words: str) -> Ended:
    """Run a command."""
    capsys.readouterr()
    code = app(list(words), standalone_mode=False)
    said = capsys.readouterr()
    return Ended(code or 0, said.out, said.err)


def commands_in(text: str) -> Sequence[list[str]]:
    """The commands that a text names, as words without 'buddy-ops'."""
    return [shlex.split(command)[1:] for command in COMMAND.findall(text)]
