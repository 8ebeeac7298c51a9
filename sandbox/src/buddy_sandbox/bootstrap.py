"""Runs inside a worker process: imports a build's handler and answers requests, one JSON line each way.

Knows Lambda's Python runtime: context, error payloads, what happens at a timeout. Never imports the rest of Buddy Ops.
Sleeping costs virtual time only, and every clock that a handler reads stands at the invocation's virtual instant.
"""

import importlib
import io
import json
import os
import sys
import time
import traceback
from types import SimpleNamespace
from typing import Any

# time-machine pulls pytest in where it can, which would make each cold start five times as long.
sys.modules["pytest"] = None  # type: ignore[assignment]
import time_machine  # noqa: E402

del sys.modules["pytest"]


class TimedOut(BaseException):
    """The function's timeout has come; not an Exception, so that no handler swallows it."""


class Moment:
    """Virtual time: stands still but for sleeps. ``left_s`` is what remains until the timeout."""

    def __init__(self, at: float) -> None:
        self.coordinates = time_machine.travel(at, tick=False).start()
        self.begin(at, float("inf"))

    def begin(self, at: float, timeout_s: float) -> None:
        self.coordinates.move_to(at)
        self.left_s, self.slept_s, self.over = timeout_s, 0.0, False

    def sleep(self, seconds: Any) -> None:
        self.over = self.over or seconds >= self.left_s
        passes = min(seconds, self.left_s)
        self.left_s -= passes
        self.slept_s += passes
        self.coordinates.shift(passes)
        if self.over:
            raise TimedOut


class Lines(io.TextIOBase):
    """Standard output and error: each line goes to the log."""

    def __init__(self, send: Any) -> None:
        self._send, self._begun = send, ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._send({"line": line})
        return len(text)

    def end(self) -> None:
        if self._begun:
            self.write("\n")


def failure(kind: str, error: BaseException, message: str | None = None) -> dict[str, Any]:
    """Lambda's payload for an error, without the frames of this module. Paths read as they do on AWS."""
    root = os.environ["LAMBDA_TASK_ROOT"]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)]
    stack = [text.replace(root, "/var/task") for text in traceback.format_list(frames)]
    return {"errorMessage": str(error) if message is None else message, "errorType": kind, "stackTrace": stack}


def load(handler: str) -> Any:
    """The handler function. Raises whatever the import raises."""
    module, _, function = handler.rpartition(".")
    return getattr(importlib.import_module(module.replace("/", ".")), function)


def load_failure(handler: str, error: Exception) -> dict[str, Any]:
    """Why ``load`` failed, as Lambda says it."""
    module, _, function = handler.rpartition(".")
    if isinstance(error, ImportError):
        return failure("Runtime.ImportModuleError", error, f"Unable to import module '{module}': {error}")
    if isinstance(error, AttributeError) and function in str(error):
        return failure("Runtime.HandlerNotFound", error, f"Handler '{function}' missing on module '{module}'")
    if isinstance(error, SyntaxError):
        return failure("Runtime.UserCodeSyntaxError", error, f"Syntax error in module '{module}': {error}")
    return failure(type(error).__name__, error)


def answer(function: Any, message: dict[str, Any], moment: Moment) -> dict[str, Any]:
    """Run one request: {"result": JSON text}, {"error": payload} or {"timeout": true}."""
    moment.begin(message["at"], message["timeout_s"])
    os.environ["SANDBOX_VERSION_AGE_S"] = str(message["age_s"])
    context = SimpleNamespace(
        aws_request_id=message["request_id"],
        invoked_function_arn=message["arn"],
        function_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
        function_version=os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
        memory_limit_in_mb=os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        log_group_name=os.environ["AWS_LAMBDA_LOG_GROUP_NAME"],
        log_stream_name=os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
        identity=None,
        client_context=None,
        get_remaining_time_in_millis=lambda: int(moment.left_s * 1000),
    )
    reply: dict[str, Any] = {}
    try:
        reply = {"result": function(json.loads(message["event"]), context)}
        reply = {"result": json.dumps(reply["result"], ensure_ascii=False)}
    except TimedOut:
        pass
    except Exception as error:
        # With a result at hand, what failed was writing it down.
        kind = "Runtime.MarshalError" if reply else type(error).__name__
        reply = {"error": failure(kind, error, f"Unable to marshal response: {error}" if reply else None)}
    return {"timeout": True} if moment.over else reply


def main() -> None:
    """Say {"ready": null} or {"ready": payload of an import error}, then answer until the parent goes away."""
    commands, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)

    def send(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    lines = Lines(send)
    sys.stdout = sys.stderr = lines
    start = json.loads(commands.readline())
    moment = Moment(start["at"])
    time.sleep = moment.sleep
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    try:
        function, problem = load(start["handler"]), None
    except Exception as error:
        function, problem = None, load_failure(start["handler"], error)
    send({"ready": problem})
    for command in commands:
        reply = answer(function, json.loads(command), moment)
        lines.end()
        send({**reply, "slept_s": moment.slept_s})


if __name__ == "__main__":
    main()
