"""What we start listens to this machine only, and JupyterLab asks for its token."""

import http.client
import json
import socket
import stat
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
    """The command names the loopback address, allows no other origin, and nothing in it touches token or password."""
    command = sandbox.lab_command(Path("/project"), 8888, browser=True)
    assert {"--ServerApp.ip=127.0.0.1", "--ServerApp.allow_origin=", "--ServerApp.allow_origin_pat="} <= set(command)
    assert not any("token" in part.lower() for part in command)


def status_of(url: str, **headers: str) -> int:
    """The status of a GET."""
    return get(url, headers)[0]


def sharing_of(url: str, **headers: str) -> str | None:
    """The origin whose pages may read the answer to a GET."""
    return get(url, headers)[1]


def get(url: str, headers: dict[str, str]) -> tuple[int, str | None]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return int(reply.status), reply.headers["Access-Control-Allow-Origin"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Access-Control-Allow-Origin"]


def test_a_stranger_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and kernels are refused without the token, and with it to pages of other sites and under other names.

    That holds where the user's own configuration is open to all and has an empty token, and no other user can read ours.
    """
    pytest.importorskip("jupyterlab")
    monkeypatch.setenv("JUPYTER_TOKEN", "")
    for name in ("config", "runtime"):
        monkeypatch.setenv(f"JUPYTER_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("HOME", str(tmp_path))
    anyone = {"allow_origin": "*", "allow_remote_access": True, "ip": "0.0.0.0", "disable_check_xsrf": True}
    anyone |= {"allow_unauthenticated_access": True, "allow_credentials": True, "token": ""}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": anyone, "IdentityProvider": {"token": ""}})
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*sandbox.lab_command(tmp_path, port, browser=False), "--ServerApp.port_retries=0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while server.poll() is None and not answers("127.0.0.1", port):
                time.sleep(0.05)
            for path in ("api/contents", "api/kernels"):
                assert status_of(f"http://127.0.0.1:{port}/{path}") == 403
            assert not answers(ELSEWHERE, port)
            # A kernel's websocket, too, which no browser keeps a page from opening.
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            upgrade |= {"Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "Origin": f"http://127.0.0.1:{port}"}
            for path in ("api/kernels/x/channels?token=", "api/events/subscribe", "terminals/websocket/1"):
                connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=10)
                connection.request("GET", f"/{path}", headers=upgrade)
                # To the page where one logs in, or refused: never 101, switching protocols.
                assert connection.getresponse().status in (302, 403, 404), path
                connection.close()
            # Written soon after the port is open.
            while not (files := list((tmp_path / "runtime").glob("jpserver-*.json"))):
                time.sleep(0.05)
            assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
            token = json.loads(files[0].read_text())["token"]
            assert len(token) >= 32
            assert token.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
            allowed = {"Authorization": f"token {token}"}
            kernels = f"http://127.0.0.1:{port}/api/kernels"
            assert status_of(kernels, **allowed) == 200
            assert status_of(kernels, **allowed, Host="evil.example") == 403
            # A page that has no token, only the cookie of the person at the browser.
            assert sharing_of(kernels, Origin="http://evil.example") is None
        finally:
            server.kill()
