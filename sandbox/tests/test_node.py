"""Handlers in Node.js: the same protocol and the same virtual time as in Python, and a clear refusal without node."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lambda_serving import package
from test_own_functions import Deploy, deploy, folder, lines, total
from test_own_functions import refusal as refused

from buddy_sandbox import own_functions
from buddy_sandbox.functions import runtime_problem
from buddy_sandbox.log_lines import LogConfig
from buddy_sandbox.runtime import Build, Execution, Request, Runtime

__all__ = ["deploy"]

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")

AT = 1_800_000_000.0
SHOP = """
const table = await Promise.resolve({ ok: 200, bad: 500 });
export const handler = async (event, context) => {
  await new Promise((resolve) => setTimeout(resolve, 250));
  const bad = parseInt(context.awsRequestId.slice(-2), 16) % 10 === 0;
  console.log(JSON.stringify({
    _aws: { CloudWatchMetrics: [{ Namespace: "Shop", Dimensions: [["Version"]], Metrics: [{ Name: "Failures" }] }] },
    Version: context.functionVersion,
    Failures: bad ? 1 : 0,
  }));
  return { statusCode: bad ? table.bad : table.ok, body: event.rawPath };
};
"""


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime("http://127.0.0.1:1")
    yield made
    made.close()


def run(runtime: Runtime, source: str, *, file: str = "app.mjs", event: Any = None, times: int = 1) -> list[Execution]:
    """What some requests to a handler give, one a minute."""
    build = Build(
        function="shop",
        version="1",
        region="us-east-1",
        account="123456789012",
        handler="app.handler",
        environment={},
        timeout_s=3,
        memory_mb=128,
        init_ms=250.0,
        fingerprint=str(abs(hash((source, file)))),
        zipped=package(source, file),
        log=LogConfig("/aws/lambda/shop"),
        runtime="nodejs22.x",
    )
    payload = json.dumps(event).encode()
    return [
        runtime.run(build, Request(payload, f"id-{number}", "arn", AT + 60 * number, 0.0)) for number in range(times)
    ]


@needs_node
@pytest.mark.parametrize(
    ("source", "file", "result"),
    [
        ("export const handler = async (event) => ({ got: event })", "app.mjs", {"got": 7}),
        ("exports.handler = async (event) => event + 1", "app.js", 8),
        ("exports.handler = (event, context, callback) => callback(null, event * 2)", "app.cjs", 14),
        ("exports.handler = (e, c, callback) => { setTimeout(() => callback(null, 'late'), 100) }", "app.js", "late"),
        ("exports.handler = (event, context) => { context.succeed('old') }", "app.js", "old"),
        ("exports.handler = () => {}", "app.js", None),
        ("exports.handler = async () => new Date().toISOString()", "app.js", "2027-01-15T08:00:00.000Z"),
        ("exports.handler = async (e, c) => c.getRemainingTimeInMillis()", "app.js", 3000),
    ],
)
def test_the_forms_of_a_handler(runtime: Runtime, source: str, file: str, result: Any) -> None:
    """Modules and CommonJS, promises, callbacks and the context's own ways, at the request's virtual moment."""
    (done,) = run(runtime, source, file=file, event=7)
    assert (done.status, json.loads(done.payload)) == ("success", result)


@needs_node
def test_timers_cost_virtual_time_and_a_timeout_ends_the_process(runtime: Runtime) -> None:
    """A sleep of seconds is over at once; beyond the timeout it is Lambda's timeout, and the next start is cold."""
    source = """
    let calls = 0;
    export const handler = async (event) => {
      const began = Date.now();
      await new Promise((resolve) => setTimeout(resolve, event));
      calls += 1;
      return [Date.now() - began, calls];
    };
    """
    first, second = run(runtime, source, event=2500, times=2)
    assert (first.init_ms, second.init_ms, first.duration_ms) == (250.0, None, 2501.0)
    assert [json.loads(each.payload) for each in (first, second)] == [[2500, 1], [2500, 2]]
    late, after = run(runtime, source, event=5000, times=2)
    assert (late.status, late.duration_ms, late.hung) == ("timeout", 3000.0, False)
    assert after.init_ms == 250.0, "the process did not survive"


@needs_node
@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("exports.handler = async () => { throw new TypeError('no') }", "TypeError", "no"),
        ("exports.handler = () => { throw new RangeError('sync') }", "RangeError", "sync"),
        ("exports.handler = (e, c, callback) => callback(new Error('given'))", "Error", "given"),
        ("exports.other = 1", "Runtime.HandlerNotFound", "app.handler is undefined or not exported"),
        ("require('none-such'); exports.handler = 1", "Runtime.ImportModuleError", "none-such"),
        ("exports.handler = async () => { process.exit(3) }", "Runtime.ExitError", "exit status 3"),
    ],
)
def test_errors_of_a_handler(runtime: Runtime, source: str, kind: str, message: str) -> None:
    """As Lambda's runtime reports them: type, message and trace, and a line that a filter on ERROR finds."""
    (done,) = run(runtime, source, file="app.js")
    error = json.loads(done.payload)
    assert done.status == "error" and error["errorType"] == kind and message in error["errorMessage"]
    assert "Error" in done.lines[-1]
    assert not any("bootstrap" in line for line in error.get("trace", []))


def test_traffic_invokes_a_handler_in_node(deploy: Deploy, sandbox_url: str, tmp_path: Path) -> None:
    """Found by its file; statuses, durations, metrics in the console's lines and the log tell of its requests."""
    artifact = folder(tmp_path / "shop", SHOP, "index.mjs")
    if shutil.which("node") is None:
        assert "no node is in its PATH" in refused(deploy, artifact)
        return
    deploy(artifact, requests_per_minute=60)
    here = {"FunctionName": "shop", "Resource": "shop:live"}
    asked = total(sandbox_url, "Invocations", **here)
    failed = total(sandbox_url, "Url5xxCount", **here)
    assert asked > 200 and asked / 20 < failed < asked / 5
    assert total(sandbox_url, "Failures", "Shop", Version="1") == failed
    assert total(sandbox_url, "Duration", **here) == pytest.approx(251 * asked)
    assert sum("\tINFO\t{" in line for line in lines(sandbox_url)) == asked


def test_without_node_a_handler_in_node_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By one clear error, before anything is created."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (
        runtime_problem("nodejs22.x") == "the sandbox runs nodejs where node is installed, and no node is in its PATH"
    )
    assert runtime_problem("python3.13") == "" and "python and nodejs only" in runtime_problem("java21")


def test_other_runtimes_are_refused(deploy: Deploy, tmp_path: Path) -> None:
    """Nothing is created for them."""
    assert "python and nodejs only" in refused(deploy, folder(tmp_path / "a", "x = 1"), runtime="java21", handler="a.B")
    assert own_functions.find_handler(package(SHOP, "index.mjs")) == ("index.handler", "nodejs22.x")
    assert own_functions.find_handler(package("exports.x = 1", "app.js"), "app.x") == ("app.x", "nodejs22.x")


class Slow(BaseHTTPRequestHandler):
    """Answers once it was asked a second time, by another connection: so the first waits for real."""

    asked = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/wait":
            self.asked.wait(10)
        self.asked.set()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *_: Any) -> None:
        pass


@needs_node
@pytest.mark.parametrize("client", ["fetch", "http"])
def test_a_timer_does_not_overtake_a_call_to_another_host(runtime: Runtime, client: str) -> None:
    """While an answer is awaited for real, time does not jump to a timer, such as that of an SDK's own timeout."""
    Slow.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    get = {
        "fetch": "(url) => fetch(url).then((reply) => reply.text())",
        "http": """(url) => new Promise((resolve, reject) => http.get(url, (reply) => {
            let text = ""; reply.on("data", (part) => { text += part; }); reply.on("end", () => resolve(text));
        }).on("error", reject))""",
    }[client]
    source = f"""
    import http from "node:http";
    const get = {get};
    export const handler = async (event) => {{
      const late = new Promise((resolve) => setTimeout(resolve, 2900, "late"));
      const first = Promise.race([get(event + "/wait"), late]);
      return [await get(event + "/now"), await first];
    }};
    """
    try:
        (done,) = run(runtime, source, event=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert json.loads(done.payload) == ["answer", "answer"] and done.duration_ms < 2000
