"""The process of a run's kernel, started before what it is to run is known.

Imports little: the engine starts the process first, and imports papermill while the kernel imports what it needs.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, TypedDict

from buddy_ops.core.files import make_scratch_folder

LONGEST_FOLDER = 70
"""Characters of a folder for sockets: a socket's name may have 107 on Linux, 103 on macOS."""


class KernelStart(TypedDict):
    """What a kernel is started with: ipykernel's arguments, its environment and its working folder."""

    arguments: list[str]
    environment: dict[str, str]
    cwd: str


class KernelProcess:
    """Ends by itself if this process ends before it said what to run. Raises OSError where it cannot be started."""

    def __init__(self) -> None:
        # Jupyter's own default is one name in the working folder, which two runs at a time would share.
        self._folder = make_scratch_folder(LONGEST_FOLDER)
        self.folder = self._folder.name
        self.stderr: IO[bytes] | None = None
        with suppress(OSError):
            self.stderr = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P: else a file of the working folder could take the place of a module (docs.python.org, command line).
            [sys.executable, "-P", "-m", "buddy_ops.runs._kernel"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # a runbook's own output is in its notebook
            stderr=self.stderr or subprocess.DEVNULL,
            # ipykernel reads it when it is imported, and ends with this process.
            env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
            start_new_session=True,  # a signal to its group reaches what its cells started
        )

    def begin(self, start: KernelStart) -> "subprocess.Popen[bytes]":
        """Let it run a kernel. It may have ended already: ``stderr`` says why."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(start).encode() + b"\n")
        return self._process
