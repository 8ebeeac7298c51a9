"""The kernel of a run: of this interpreter, and in surroundings of its own.

What a person has in HOME (a kernelspec named python3, startup files, an IPython profile) is not loaded, and a TMPDIR
that is full or too long for a socket's name is not used.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from queue import Empty
from typing import IO, Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from buddy_ops.core.files import make_scratch_folder
from buddy_ops.runs.child_process import describe_last_output

LONGEST_FOLDER = 70
"""Characters of a folder for sockets: a socket's name may have 107 on Linux, 103 on macOS."""


ANSWER_S = 1
"""Seconds in which a kernel that has started answers; one that has not is asked again."""


class PromptClient(AsyncKernelClient):
    """Begins when the kernel answers.

    jupyter_client's own waits for 0.2 s without a message first, so that none of before comes between. nbclient passes
    over messages that belong to no cell of its own.
    """

    async def wait_for_ready(self, timeout: float = float("inf")) -> None:  # type: ignore[override]
        """Wait until the kernel answers and its output arrives.

        Raises:
            RuntimeError: it ended, or did not answer in ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.kernel_info()
            with suppress(Empty):
                reply = await self.get_shell_msg(timeout=ANSWER_S)
                # The state that it sent with its answer: without it the first cell's output could be lost, too.
                await self.get_iopub_msg(timeout=ANSWER_S)
                self._handle_kernel_info_reply(reply)
                return
            if not await self.is_alive():
                raise RuntimeError("The kernel ended before it answered")
            if time.monotonic() > deadline:
                raise RuntimeError(f"The kernel did not answer in {timeout:g} seconds")


class PrivateKernel(AsyncKernelManager):
    """Talks over this user's files: other users of the machine could listen on loopback ports."""

    transport = "ipc"
    client_factory = PromptClient
    stderr: IO[bytes] | None = None
    """Where a kernel's stderr goes; a runbook's own output is in its notebook."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """This interpreter's kernel, whatever is installed under the notebook's kernel name."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, language="python", display_name="Python 3")

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start it as jupyter_client does."""
        # Output that we have not read yet waits in memory: by default ZeroMQ drops what is beyond 1,000 messages.
        self.context.rcvhwm = 0
        # Jupyter's own default is one name in the working folder, which two runs at a time would share.
        self._folder = make_scratch_folder(LONGEST_FOLDER)
        self.ip = f"{self._folder.name}/kernel"
        self.connection_file = f"{self._folder.name}/connection.json"
        with suppress(OSError):
            self.stderr = tempfile.TemporaryFile(dir=self._folder.name)  # noqa: SIM115
        streams = "--IPKernelApp.exec_lines=__import__('buddy_ops.runs._kernel')"
        options["extra_arguments"] = [*options.get("extra_arguments", ()), streams]
        options["env"] = {**options.get("env", os.environ), "IPYTHONDIR": f"{self._folder.name}/ipython"}
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=self.stderr or subprocess.DEVNULL, **options)

    def last_words(self) -> str:
        """The last line that the kernel wrote to its stderr, as a sentence; '' if there is none."""
        if self.stderr is None:
            return ""
        with suppress(OSError):
            self.stderr.seek(0)
            return describe_last_output(self.stderr.read().decode(errors="replace"))
        return ""
