"""What we start listens to this machine only, and JupyterLab asks for its token."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import pytest

from buddy_ops.cli import sandbox

pytestmark = pytest.mark.kernel

ELSEWHERE = "127.0.0.2"
"""An address of this machine besides the one that is listened on; a server on all addresses would answer there."""


def answers(host: str, port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def test_the_sandbox_listens_on_loopback_only(sandbox_url: str) -> None:
    """It answers at 127.0.0.1, and at no other address."""
    where = urlparse(sandbox_url)
    assert where.hostname == "127.0.0.1" and where.port is not None
    assert answers("127.0.0.1", where.port) and not answers(ELSEWHERE, where.port)


def test_jupyterlab_is_started_on_loopback_with_its_token() -> None:
    """The command names the loopback address, and nothing in it touches token, password or origin."""
    command = sandbox.lab_command(Path("/project"), 8888, browser=True)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert not any(word in each.lower() for each in command for word in ("token", "password", "origin", "xsrf"))


def test_a_stranger_without_the_token_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that this command starts refuses its files and kernels to whoever has no token."""
    pytest.importorskip("jupyterlab")
    for name in ("JUPYTER_TOKEN", "JUPYTER_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*sandbox.lab_command(tmp_path, port, browser=False), "--ServerApp.port_retries=0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None and not answers("127.0.0.1", port):
                time.sleep(0.05)
            for path in ("api/contents", "api/kernels"):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                    opener.open(f"http://127.0.0.1:{port}/{path}", timeout=10)
                assert refused.value.code == 403
            assert not answers(ELSEWHERE, port)
        finally:
            server.kill()
