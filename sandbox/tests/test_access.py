"""Who is answered: programs of the user who started the sandbox. No web page, whatever a browser lets it send."""

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator
from io import BytesIO
from itertools import cycle, product
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from werkzeug.wrappers import Response

from buddy_sandbox import access, state_file
from buddy_sandbox.server import Sandbox
from buddy_sandbox.situations import control

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SCENARIO = {"name": "good", "overrides": {"history_minutes": 0, "requests_per_minute": 0}}
CONTROLS: dict[str, dict[str, Any]] = {
    "status": {},
    "clock": {},
    "clock/wait": {"client": "test", "pid": os.getpid(), "until": 0, "patience_s": 0},
    "clock/leave": {"client": "test"},
    "advance": {"seconds": 1},
    "scenario": SCENARIO,
    "reset": {},
    "chaos": {},
    "chaos/seen": {},
    "calls": {},
    "set": {"metrics_delay_s": 30},
    "stop": {},
}
SIGNATURE = "AWS4-HMAC-SHA256 Credential=x/20261102/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=x"
UNSIGNED = ("", "Basic eDp4", "Bearer x", SIGNATURE.format("lambda").replace("AWS4-HMAC-SHA256", "Basic"))
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox in this process that does not end itself, with a state folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    inside = Sandbox(start=1_793_577_600.0)
    monkeypatch.setattr(inside.front, "_stop", lambda: None)
    yield inside
    inside.close()


def port_of(sandbox: Sandbox) -> int:
    return int(sandbox.endpoint.rpartition(":")[2])


def hosts(sandbox: Sandbox) -> dict[str | None, bool]:
    """Host headers, and whether the sandbox answers to them. None: without one."""
    port = port_of(sandbox)
    right = [f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"]
    wrong = ["127.0.0.1", f"127.0.0.1:{port + 1}", f"127.0.0.2:{port}", f"evil.example:{port}", f"localhost.:{port}"]
    wrong += [f"localhost.evil.example:{port}", f"127.0.0.1:{port},evil.example", f"a@127.0.0.1:{port}", ""]
    return dict.fromkeys(right, True) | dict.fromkeys(wrong, False) | {None: False}


def pages(sandbox: Sandbox) -> dict[tuple[str | None, str | None], bool]:
    """Origin and Sec-Fetch-Site, and whether a control call may carry them."""
    port = port_of(sandbox)
    foreign = [
        "null",
        "",
        "http://evil.example",
        f"http://127.0.0.1:{port + 1}",
        f"https://127.0.0.1:{port}",
        "file://",
    ]
    foreign += [f"http://127.0.0.1:{port}.evil.example", f"http://127.0.0.1:{port}, http://evil.example"]
    found: dict[tuple[str | None, str | None], bool] = {(origin, None): False for origin in foreign}
    found |= {(None, site): False for site in ("cross-site", "same-site", "Cross-Site", "x")}
    found |= {(None, None): True, (None, "none"): True, (f"http://127.0.0.1:{port}", "same-origin"): True}
    return found


def state(sandbox: Sandbox) -> tuple[object, ...]:
    """What a request could change, cheap to read."""
    world = sandbox.world
    chaos = sandbox.front.chaos
    known = (id(world.functions), world.clock.now(), world.clock.speed, sorted(world.clock.clients))
    return (*known, world.conditions.model_dump_json(), len(world.calls), chaos.seen, chaos.struck)


def send(sandbox: Sandbox, method: str, path: str, body: bytes, headers: dict[str, str | None]) -> Response:
    """One request, without a socket in between; a header that is None is not sent."""
    address, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": address,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": headers.get("Content-Type") or "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(port_of(sandbox)),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
    }
    for name, value in headers.items():
        if value is not None and name != "Content-Type":
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return Response.from_app(sandbox.front, environ)


def test_only_the_right_control_call_is_carried_out(own: Sandbox) -> None:
    """Methods x calls x Host x Origin x token: all right, or it is refused and nothing has changed."""
    tokens = {own.token: True, "": False, own.token[:-1]: False, own.token + "x": False, "\xe9": False, None: False}
    carried_out: set[str] = set()
    refused = 0
    for method, call, (host, host_is_right) in product(METHODS, CONTROLS, hosts(own).items()):
        for (page, page_is_right), (token, token_is_right) in product(pages(own).items(), tokens.items()):
            right = method == "POST" and host_is_right and page_is_right and token_is_right
            wrong = (method != "POST") + (not host_is_right) + (not page_is_right) + (not token_is_right)
            # Two wrong parts are as good as three.
            if wrong > 2 or (wrong == 2 and (method, call) not in {("GET", "reset"), ("POST", "advance")}):
                continue
            before = state(own)
            headers = {"Host": host, "Origin": page[0], "Sec-Fetch-Site": page[1], access.TOKEN_HEADER: token}
            headers["Content-Type"] = "application/json" if right else "text/plain"
            reply = send(own, method, f"/_sandbox/{call}", json.dumps(CONTROLS[call]).encode(), headers)
            assert not [name for name, _ in reply.headers if name.lower().startswith("access-control-")]
            if right:
                assert reply.status_code == 200, (call, host, page, reply.get_data(as_text=True))
                carried_out |= {call} if state(own) != before else set()
            else:
                assert reply.status_code in (403, 405), (method, call, host, page, token, reply.status_code)
                assert state(own) == before, (method, call, host, page, token)
                refused += 1
    assert {"advance", "scenario", "reset", "clock/wait", "clock/leave"} <= carried_out
    assert refused > 2000


def attacks() -> list[tuple[str, str, bytes, str]]:
    """Calls that change something: method, path, body and the service that a signature would name."""
    invocation = "/2015-03-31/functions/buddy-alexa-skill-sandbox/invocations"
    return [
        ("POST", invocation, b'{"request": {"type": "LaunchRequest"}}', "lambda"),
        ("POST", "/2015-03-31/functions", json.dumps({"FunctionName": "x", "Code": {}}).encode(), "lambda"),
        ("DELETE", "/2015-03-31/functions/buddy-alexa-skill-sandbox", b"", "lambda"),
        ("POST", "/", b"Action=CreateTopic&Name=owned&Version=2010-03-31", "sns"),
        ("GET", "/?Action=CreateTopic&Name=owned&Version=2010-03-31", b"", "sns"),
        ("POST", "/", b'{"Name": "/owned", "Value": "1", "Type": "String"}', "ssm"),
        ("PUT", "/owned", b"", "s3"),
        ("POST", "/moto-api/reset", b"", "s3"),
        ("GET", "/owned/?X-Amz-Credential=x%2F20261102%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature=x", b"", "s3"),
    ]


def holdings(sandbox: Sandbox) -> tuple[list[str], ...]:
    """What the account has, as AWS lists it."""
    ask = sandbox.world.client
    return (
        [function["FunctionName"] for function in ask("lambda").list_functions()["Functions"]],
        [topic["TopicArn"] for topic in ask("sns").list_topics()["Topics"]],
        [parameter["Name"] for parameter in ask("ssm").describe_parameters()["Parameters"]],
        [bucket["Name"] for bucket in ask("s3").list_buckets()["Buckets"]],
    )


def test_a_page_cannot_call_aws(own: Sandbox) -> None:
    """Neither without a signature, nor with one from a page or under another name; nothing runs and nothing changes."""
    own.front.do_scenario(**SCENARIO)
    held = holdings(own)
    before = state(own)
    right = f"127.0.0.1:{port_of(own)}"
    # What a browser sends without a preflight, and JSON.
    types = cycle(("text/plain", FORM, "multipart/form-data; boundary=x", "application/json"))
    for method, path, body, service in attacks():
        signed = SIGNATURE.format(service)
        wrong: list[dict[str, str | None]] = [
            {"Host": host, "Authorization": authorization}
            for host, authorization in product(hosts(own), [None, *UNSIGNED])
        ]
        wrong += [{"Host": host, "Authorization": signed} for host, is_right in hosts(own).items() if not is_right]
        wrong += [
            {"Host": right, "Authorization": signed, "Origin": origin, "Sec-Fetch-Site": site}
            for origin, site in [*pages(own), (own.endpoint, None), ("http://evil.example", "none")]
            if (origin, site) not in {(None, None), (None, "none")}
        ]
        for headers in wrong:
            given = {"Content-Type": next(types), "X-Amz-Target": "AmazonSSM.PutParameter", **headers}
            assert send(own, method, path, body, given).status_code == 403, (method, path, headers)
        preflight = {"Host": right, "Origin": "http://evil.example", "Access-Control-Request-Method": method}
        for headers in ({**preflight}, {"Host": right, "Authorization": signed}):
            assert send(own, "OPTIONS", path, b"", headers).status_code == 403
    assert state(own) == before
    assert holdings(own) == held


def test_an_sdk_is_answered_with_any_credentials(own: Sandbox) -> None:
    """At each of its names; what is not signed is refused with a sentence that says what to do."""
    for endpoint in (own.endpoint, own.endpoint.replace("127.0.0.1", "localhost")):
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "thing", "region_name": "us-east-1"}
        # moto's state is that of the process: topics of other tests may be there.
        reply = boto3.client("sns", endpoint_url=endpoint, **keys).list_topics()
        assert reply["ResponseMetadata"]["HTTPStatusCode"] == 200
        unsigned = send(own, "GET", "/", b"", {"Host": endpoint.removeprefix("http://")})
        assert "Use an AWS SDK with any credentials." in unsigned.get_data(as_text=True)


def test_a_refusal_reads_as_an_aws_error(own: Sandbox) -> None:
    """An SDK that meets one shows its sentence."""
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    client = boto3.client("ssm", endpoint_url=own.endpoint, **keys)

    def from_a_page(request: Any, **_: Any) -> None:
        request.headers["Origin"] = "null"

    client.meta.events.register("before-send", from_a_page)
    with pytest.raises(ClientError, match="Web pages may not call the sandbox"):
        client.describe_parameters()


def test_what_follows_a_refused_request_is_not_read(own: Sandbox) -> None:
    """A page's body could be a second request with all headers right: the connection ends with the first answer."""
    port = port_of(own)
    inner = f"POST /_sandbox/advance HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{access.TOKEN_HEADER}: {own.token}\r\n"
    inner += "Content-Length: 14\r\n\r\n" + '{"seconds": 1}'
    before = own.world.clock.now()
    for length in (f"Content-Length: {len(inner)}", "Content-Length: 0", "Transfer-Encoding: chunked", "X: x"):
        outer = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://evil.example\r\n{length}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall((outer + inner).encode())
            said = b""
            while part := connection.recv(65536):
                said += part
        assert said.count(b"HTTP/1.1 ") == 1 and b" 403 " in said.splitlines()[0], length
    assert own.world.clock.now() == before


def test_bodies_are_bounded(own: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their declared length before anything is read, and by what comes where none is declared."""
    host, token = f"127.0.0.1:{port_of(own)}", {access.TOKEN_HEADER: own.token}
    monkeypatch.setattr(access, "AWS_LIMIT_BYTES", 4096)
    before = state(own)
    signed = {"Authorization": SIGNATURE.format("sns"), "Content-Type": FORM}
    for path, headers, limit in (("/_sandbox/advance", token, access.CONTROL_LIMIT_BYTES), ("/", signed, 4096)):
        body = json.dumps({"seconds": 1, "x": "x" * limit}).encode()
        for declared in (True, False):
            connection = http.client.HTTPConnection(host, timeout=10)
            connection.request("POST", path, body if declared else iter([body]), headers, encode_chunked=not declared)
            reply = connection.getresponse()
            assert (reply.status, f"{limit:,} bytes" in reply.read().decode()) == (413, True)
            connection.close()
    assert state(own) == before


def test_a_body_that_is_no_object_changes_nothing(own: Sandbox) -> None:
    """It is not taken for an empty one."""
    before = state(own)
    for body in (b"[]", b"0", b'"x"', b"seconds=1", b"{", b"\xff", b"[" * 100_000):
        headers = {"Host": f"127.0.0.1:{port_of(own)}", access.TOKEN_HEADER: own.token}
        assert send(own, "POST", "/_sandbox/reset", body, headers).status_code == 400
    assert state(own) == before


# The token


def test_the_token_is_in_a_file_that_nobody_else_reads(own: Sandbox, tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700, whatever the umask; gone when the sandbox is."""
    folder = tmp_path / "state" / "buddy-sandbox"
    file = folder / f"{port_of(own)}.token"
    clock = file.with_suffix(".clock")
    assert sorted(folder.iterdir()) == [clock, file] and file.read_text() == own.token
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, file, clock)] == [0o700, 0o600, 0o600]
    before = os.umask(0)
    try:
        other = state_file.write(1, "t")
        assert stat.S_IMODE(other.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    state_file.remove(other, "another sandbox's")
    assert other.exists()
    state_file.remove(other, "t")
    assert not other.exists()


def test_tokens_differ_and_end_with_their_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One sandbox's token opens no other."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = Sandbox(start=1.8e9), Sandbox(start=1.8e9)
    assert first.token != second.token and state_file.read(first.endpoint) == first.token
    headers = {"Host": f"127.0.0.1:{port_of(second)}", access.TOKEN_HEADER: first.token}
    assert send(second, "POST", "/_sandbox/status", b"", headers).status_code == 403
    assert control(second.endpoint, "status")["sandbox"] is True
    for sandbox in (second, first):
        sandbox.close()
        assert state_file.read(sandbox.endpoint) == ""


@pytest.mark.parametrize("how", ["link", "open", "file"])
def test_a_folder_that_others_can_reach_is_not_used(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A link, a folder that others can read, a file in its place: the next place is used, and nothing is followed."""
    state, temporary, elsewhere = tmp_path / "state", tmp_path / "tmp", tmp_path / "elsewhere"
    for folder in (state, temporary, elsewhere):
        folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    places = state_file.folders()
    assert [place.parent for place in places] == [state, temporary]
    for place in places:
        written = state_file.write(1, "t")
        assert written.parent == place and state_file.read("http://127.0.0.1:1") == "t"
        written.unlink()
        place.rmdir()
        if how == "link":
            place.symlink_to(elsewhere)
        elif how == "open":
            place.mkdir()
            place.chmod(0o750)
        else:
            place.touch()
    with pytest.raises(state_file.NoStateFolder, match="XDG_STATE_HOME"):
        state_file.write(1, "t")
    assert state_file.read("http://127.0.0.1:1") == "" and list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "endpoint", ["http://evil.example:{}", "http://127.0.0.1@evil.example:{}", "http://127.0.0.1.evil.example:{}", "x"]
)
def test_the_token_goes_to_no_other_machine(own: Sandbox, endpoint: str) -> None:
    """A URL that is not loopback has no token, though a sandbox listens on that port here."""
    assert state_file.read(own.endpoint) == own.token
    assert state_file.read(endpoint.format(port_of(own))) == ""
