"""A faulty network between client and sandbox: a real proxy in a thread, whose faults come in bursts from a seed."""

import http.client
import http.server
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import Any
from urllib.parse import urlparse

from buddy_sandbox import state_file
from buddy_sandbox.access import TOKEN_HEADER
from buddy_sandbox.situations import control

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Guest network</body></html>"
READ_TIMEOUT_S = 10
"""How long a client waits for an answer."""

KINDS = (
    *("closed", "closed_after", "reset", "reset_after", "truncated", "cut", "emptied", "bodyless", "twice"),
    *("429", "500", "503", "page", "page_503", "page_after", "pause", "pause_after", "black_hole"),
)
LONGEST = {"pause": 1, "pause_after": 1, "twice": 3, "black_hole": 12}
"""How many requests in a row a burst strikes at most; 6 otherwise."""


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a sandbox, and strikes some of them."""

    daemon_threads = True

    def __init__(self, sandbox: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sandbox = sandbox
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.struck: Counter[str] = Counter()
        self._drawn = random.Random()
        self._one_in = 0.0
        self._burst: tuple[str, int] = ("", 0)
        self._lock = threading.Lock()

    def disturb(self, seed: object, one_in: float) -> None:
        """Begin a burst of faults at one in so many requests; 0: at none."""
        with self._lock:
            self._drawn = random.Random(str(seed))
            self._one_in = one_in
            self._burst = ("", 0)

    def strike(self, kind: str, times: int) -> None:
        """Strike the next requests."""
        with self._lock:
            self._burst = (kind, times)

    def draw(self) -> str:
        """What this request meets; empty: nothing."""
        with self._lock:
            kind, left = self._burst
            if not left and self._one_in and self._drawn.random() < 1 / self._one_in:
                kind = self._drawn.choice(KINDS)
                left = self._drawn.randint(1, LONGEST.get(kind, 6))
            if not left:
                return ""
            self._burst = (kind, left - 1)
            self.struck[kind] += 1
            return kind

    def pass_time(self, longest_s: float, exactly: bool = False) -> None:
        """Let the sandbox's time pass."""
        seconds = longest_s if exactly else self._drawn.uniform(10, longest_s)
        control(self.sandbox, "advance", seconds=seconds)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy
    wbufsize = -1

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = "" if self.path.startswith("/_sandbox/") else self.server.draw()
        if kind == "black_hole":
            self.server.pass_time(READ_TIMEOUT_S, exactly=True)
        if kind in ("closed", "black_hole"):
            return self.drop()
        if kind == "reset":
            return self.drop(reset=True)
        if kind in ("429", "500", "503"):
            return self.reply(int(kind), b"upstream says no\n", {"Content-Type": "text/plain"})
        if kind in ("page", "page_503"):
            return self.reply(503 if kind == "page_503" else 200, PAGE, {"Content-Type": "text/html"})
        if kind == "pause":
            self.server.pass_time(40 * 60)
        status, headers, content = self.forward(body)
        if kind == "twice":
            status, headers, content = self.forward(body)
        if kind == "pause_after":
            self.server.pass_time(40 * 60)
        if kind in ("closed_after", "reset_after"):
            return self.drop(reset=kind == "reset_after")
        if kind == "page_after":
            return self.reply(200, PAGE, {"Content-Type": "text/html"})
        if kind == "cut":
            content = content[: len(content) // 2]
        if kind == "emptied":
            content = b"{}"
        if kind == "bodyless":
            content = b""
        if kind == "truncated" and content:
            self.send_headers(status, headers, len(content))
            self.wfile.write(content[: len(content) // 2])
            return self.drop()
        return self.reply(status, content, headers)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815  # http.server's names

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        where = urlparse(self.server.sandbox)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=300)
        try:
            # The sandbox answers at its own address only, and its clients find no token for the proxy's port.
            own = {"Host": where.netloc, TOKEN_HEADER: state_file.read(self.server.sandbox)}
            connection.request(self.command, self.path, body, {**_other_headers(self.headers, own), **own})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            connection.close()

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_headers(status, headers, len(content))
        self.wfile.write(content)

    def send_headers(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        if status != http.HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def drop(self, reset: bool = False) -> None:
        """Close the connection; with a reset, at once and without a goodbye."""
        self.close_connection = True
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def _other_headers(headers: Message, replaced: Mapping[str, str]) -> dict[str, str]:
    """The headers without those that are replaced, however they are spelled."""
    names = {name.lower() for name in replaced}
    return {name: value for name, value in headers.items() if name.lower() not in names}


@contextmanager
def faulty(sandbox: str) -> Iterator[Proxy]:
    """A proxy before a sandbox, undisturbed at first."""
    with Proxy(sandbox) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def story(proxy: Proxy) -> str:
    """What was struck, for a failure's note."""
    return json.dumps(proxy.struck)
