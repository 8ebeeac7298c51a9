"""The kernel of a run: of this interpreter, in a process that may have started already, in surroundings of its own.

What a person has in HOME (a kernelspec named python3, startup files, an IPython profile) is not loaded, and a TMPDIR
that is full or too long for a socket's name is not used.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from buddy_ops.runs._kernel_process import KernelProcess
from buddy_ops.runs.child_process import describe_last_output

ANSWER_S = 1
"""Seconds in which a kernel that has started answers; one that has not is asked again."""


END_POLL_S = 0.01
"""Seconds between two questions whether a kernel that was asked to end has ended."""


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
    process: KernelProcess | None = None
    """The process that runs it; absent: one is started with it."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """This interpreter's kernel, whatever is installed under the notebook's kernel name; its arguments only."""
        return KernelSpec(argv=["-f", "{connection_file}"], language="python", display_name="Python 3")

    async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
        """Start it as jupyter_client does."""
        # Output that we have not read yet waits in memory: by default ZeroMQ drops what is beyond 1,000 messages.
        self.context.rcvhwm = 0
        self.process = self.process or KernelProcess()
        self.ip = f"{self.process.folder}/kernel"
        self.connection_file = f"{self.process.folder}/connection.json"
        options["env"] = {**options.get("env", os.environ), "IPYTHONDIR": f"{self.process.folder}/ipython"}
        await super().start_kernel(**options)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        """Let the process run it, where jupyter_client would start one."""
        assert self.process is not None and isinstance(self.provisioner, LocalProvisioner)
        cwd = options.get("cwd") or Path.cwd()
        begun = self.process.begin({"arguments": kernel_cmd, "environment": options["env"], "cwd": str(cwd)})
        self.provisioner.process = begun
        # It leads its session.
        self.provisioner.pid = self.provisioner.pgid = begun.pid
        self._reconcile_connection_info(self.provisioner.connection_info)

    async def _async_wait(self, pollinterval: float = END_POLL_S) -> None:
        """Wait for its end; jupyter_client asks ten times a second, and a run ends with its kernel."""
        await super()._async_wait(END_POLL_S)

    def last_words(self) -> str:
        """The last line that the kernel wrote to its stderr, as a sentence; '' if there is none."""
        if self.process is None or self.process.stderr is None:
            return ""
        with suppress(OSError):
            self.process.stderr.seek(0)
            return describe_last_output(self.process.stderr.read().decode(errors="replace"))
        return ""
