"""Control calls carry the token of the sandbox's state file, and the token stays where it is."""

import http.server
import json
import re
import threading
from pathlib import Path
from urllib.parse import urlparse

import pytest

from buddy_ops.aws import sandbox_control, session
from buddy_ops.aws.clock import SandboxClock, SystemClock
from buddy_ops.cli import sandbox
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_sandbox import access, state_file
from tests.aws.test_session import VALUES

pytestmark = pytest.mark.sandbox


def read_clock(endpoint: str) -> tuple[float, float] | None:
    return sandbox_control.ClockFile(endpoint).read()


def test_both_distributions_find_the_same_file(sandbox_url: str) -> None:
    """The library reads what the sandbox wrote, by any name of the loopback address."""
    token = state_file.read(sandbox_url)
    assert len(token) > 40
    assert sandbox_control._read_token(sandbox_url) == token
    assert sandbox_control._read_token(sandbox_url.replace("127.0.0.1", "localhost") + "/") == token
    assert sandbox_control._TOKEN_HEADER == access.TOKEN_HEADER
    assert sandbox_control._REFUSAL_HEADER == access.REFUSAL_HEADER


def test_the_file_says_the_time_of_the_control_call(sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever moves it, and by any name of the loopback address; who may not read it asks."""

    def times_agree() -> float:
        said = sandbox.call_sandbox(sandbox_url, "clock")
        shown = read_clock(sandbox_url.replace("127.0.0.1", "localhost") + "/")
        assert shown == (said["now"], said["machine"] - said["now"])
        return shown[0]

    sandbox.call_sandbox(sandbox_url, "scenario", name="good", overrides={"history_minutes": 0})
    begun = times_agree()
    sandbox.call_sandbox(sandbox_url, "advance", seconds=90.5)
    assert times_agree() == begun + 90.5
    sandbox.call_sandbox(sandbox_url, "set", client_clock_ahead_s=240)
    times_agree()
    assert read_clock(sandbox_url) == (begun + 90.5, 240)
    sandbox.call_sandbox(sandbox_url, "scenario", name="good", overrides={"history_minutes": 0})
    assert times_agree() == begun
    asked = SandboxClock(sandbox_url).now()
    monkeypatch.setattr(sandbox_control.ClockFile, "read", lambda self: None)
    assert SandboxClock(sandbox_url).now() == asked


def test_a_stopped_sandbox_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of its token nor of its time. In a folder that no other test's sandbox uses: one may have its port by then."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with sandbox.running_sandbox() as url:
        files = sorted(state_file.folders()[0].glob(f"{urlparse(url).port}.*"))
        assert [file.suffix for file in files] == [".clock", ".token"]
    assert not any(file.exists() for file in files)


def test_a_clock_follows_the_sandbox_that_took_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one that is gone is not read on, whether it removed its file or was killed; without a file it asks."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    endpoint = "http://127.0.0.1:4599"
    file = sandbox_control.ClockFile(endpoint)
    assert file.read() is None
    token = state_file.write(4599, "one")
    state_file.ClockFile(token).show(1000, 0)
    assert file.read() == (1000, 0)
    state_file.remove(token, "one")
    assert file.read() is None
    state_file.ClockFile(state_file.write(4599, "two")).show(2000, 0)
    assert file.read() == (2000, 0)
    later = state_file.ClockFile(state_file.write(4599, "three"))
    later.show(3000, 5)
    assert file.read() == (3000, 5)
    later.show(3060, 5)
    assert file.read() == (3060, 5)


def test_another_users_sandbox_is_a_clear_message(
    sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither taken for another emulator nor changed; the next step is carried out, and works."""
    before = sandbox.call_sandbox(sandbox_url, "clock")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(tmp_path / "run"))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(BuddyError, match="sandbox-token") as refused:
        sandbox.call_sandbox(sandbox_url, "advance", seconds=60)
    assert sandbox_url in refused.value.what and refused.value.now == "Nothing was changed."
    values = {**VALUES, "aws": {"region": "us-east-1", "endpoint_url": sandbox_url}}
    with pytest.raises(AwsFailed, match="sandbox-token") as unread:
        session.connect("sandbox", "t", values=values, quiet=True)
    assert unread.value.next == refused.value.next
    command = re.search(
        r"`buddy-ops sandbox start --port (\d+)`, and set AWS_ENDPOINT_URL=(\S+)\.$", refused.value.next
    )
    assert command is not None and urlparse(command[2]).port == int(command[1])
    # The port of the message may be in use here.
    with sandbox.running_sandbox() as own:
        monkeypatch.setenv("AWS_ENDPOINT_URL", own)
        assert session.connect("sandbox", "t", values=values, quiet=True).sandbox
    monkeypatch.delenv("XDG_STATE_HOME")
    assert sandbox.call_sandbox(sandbox_url, "clock") == before


def test_a_file_that_others_can_change_is_not_read(
    sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one behind a link: what it says would be sent to whoever listens on the port."""
    token = state_file.read(sandbox_url)
    folder = tmp_path / "buddy-sandbox"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    folder.mkdir(mode=0o700)
    (folder / f"{urlparse(sandbox_url).port}.token").write_text(token)
    assert sandbox_control._read_token(sandbox_url) == token
    folder.chmod(0o770)
    assert sandbox_control._read_token(sandbox_url) == "" and read_clock(sandbox_url) is None
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert sandbox_control._read_token(sandbox_url) == ""


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1@evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_the_token_goes_to_no_other_machine(sandbox_url: str, name: str) -> None:
    """Whatever AWS_ENDPOINT_URL says."""
    port = urlparse(sandbox_url).port
    assert sandbox_control._read_token(f"http://{name}:{port}") == ""


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1", "http://127.0.0.1:99999", "http://127.0.0.1:x", "", "x"])
def test_an_address_without_a_port_has_no_token(endpoint: str) -> None:
    """It fails where it is called, as ever."""
    assert sandbox_control._read_token(endpoint) == ""


def test_the_token_follows_no_redirect(sandbox_url: str) -> None:
    """What listens on a port that a sandbox has left sends its clients to no other address."""
    heard: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{self.server.server_address[1]}/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            heard.append(dict(self.headers))
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        values = {**VALUES, "aws": {"region": "x", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}}
        assert isinstance(session.connect("sandbox", "t", values=values, quiet=True).clock, SystemClock)
        server.shutdown()
    assert heard == []


def test_the_token_is_in_no_log_and_no_command_line() -> None:
    """Neither what the sandbox tells about itself, nor its process, nor a refusal names it."""
    with sandbox.running_sandbox() as url:
        token = state_file.read(url)
        sandbox.call_sandbox(url, "scenario", name="good", overrides={"history_minutes": 0})
        said = [sandbox.call_sandbox(url, name) for name in ("status", "calls", "clock", "chaos/seen")]
        with pytest.raises(BuddyError, match="sandbox-refused") as refused:
            sandbox.call_sandbox(url, "set", no_such_value=1)
        assert token not in json.dumps(said) + str(refused.value)
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert token.encode() not in file.read_bytes() + file.with_name("environ").read_bytes()
            except OSError:
                continue
