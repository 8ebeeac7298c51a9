"""Emulators of AWS that are not ours, each in a process of its own. ``make test-second-opinion`` installs them.

What each of them lacks is in docs/second-opinion.md.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build" / "emulators"
ACCOUNT = "123456789012"


def ministack(folder: Path) -> AbstractContextManager[str]:
    """ministack: every service that the runbooks use, with CloudFormation, and functions that run."""
    port = free_port()
    command = [str(INSTALLED / "python" / "bin" / "ministack")]
    settings = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "MINISTACK_ACCOUNT_ID": ACCOUNT, "AUTH": "true"}
    return running(command, port, folder, ready="Running on", **settings)


def moto_server(folder: Path) -> AbstractContextManager[str]:
    """moto's own server, without what the sandbox adds to it."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "moto_server"), "--port", str(port)]
    return running(command, port, folder, ready="Running on", MOTO_ACCOUNT_ID=ACCOUNT)


def dynalite(folder: Path) -> AbstractContextManager[str]:
    """dynalite: DynamoDB alone, without transactions and backups."""
    port = free_port()
    command = ["node", str(INSTALLED / "node_modules" / "dynalite" / "cli.js"), "--port", str(port)]
    command += ["--createTableMs", "0"]
    return running(command, port, folder, ready="listening")


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, folder: Path, ready: str, **settings: str) -> Iterator[str]:
    """A server as a child process; its URL once it prints ``ready``. It writes its files to ``folder``."""
    server = subprocess.Popen(
        command,
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PYTHONUNBUFFERED": "1",
            **settings,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    with server.stdout as lines, (folder / "emulator.log").open("w") as log:
        for line in lines:
            log.write(line)
            if ready in line:
                break
        else:
            raise AssertionError(f"{command[0]} ended: {(folder / 'emulator.log').read_text()}")
        rest = Thread(target=log.writelines, args=[lines])
        rest.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()
            rest.join()
