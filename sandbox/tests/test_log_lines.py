"""The lines that Lambda writes into a log of text and of JSON, by level, group and stream.

Source: Telemetry API event schema reference; Lambda developer guide, 'Configuring advanced logging controls'.
"""

import json
from typing import Any

import pytest
from serving import START

from buddy_sandbox import log_lines
from buddy_sandbox.log_lines import Invocation, LogConfig

DONE = Invocation(
    function="buddy",
    version="7",
    arn="arn:aws:lambda:us-east-1:123456789012:function:buddy:live",
    request_id="459921b5-681c-4a96-beb0-81e0aa586026",
    at=START,
    duration_ms=2599.4,
    init_ms=549.04,
    memory_mb=128,
    own=("plain", '{"level": "debug", "message": "details"}', '{"level": "ERROR", "message": "no dose"}'),
)
ERROR = {"errorMessage": "'x'", "errorType": "KeyError", "stackTrace": []}
FAILED = Invocation(**{**vars(DONE), "status": "error", "error": ERROR, "text": "[ERROR] KeyError: 'x'"})
TIMEOUT = Invocation(**{**vars(DONE), "status": "timeout", "text": "Task timed out after 2.60 seconds"})


def kinds(invocation: Invocation, **levels: str) -> list[str]:
    """Type and status of each line, or the line itself where it has no type."""
    found = []
    for line in log_lines.write(LogConfig("/skills", json=True, **levels), invocation):
        document: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        kind = str(document.get("type", "")).removeprefix("platform.")
        status = document.get("record", {}).get("status", "")
        found.append(f"{kind} {status}".strip() or document.get("message", document.get("errorType", line)))
    return found


def test_text_log() -> None:
    """START, the handler's lines, END and REPORT, with Init Duration after a cold start."""
    lines = list(log_lines.write(LogConfig("/skills"), DONE))
    assert lines[0] == f"START RequestId: {DONE.request_id} Version: 7"
    assert lines[-1] == (
        f"REPORT RequestId: {DONE.request_id}\tDuration: 2599.40 ms\tBilled Duration: 2600 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 64 MB\tInit Duration: 549.04 ms\t"
    )


def test_json_report_is_as_documented() -> None:
    """The members of platform.report, platform.initStart and platform.start, in their documented order."""
    lines = list(log_lines.write(LogConfig("/skills", json=True), DONE))
    assert lines[-1] == (
        '{"time":"2026-11-22T03:00:03.148Z","type":"platform.report","record":{"requestId":"' + DONE.request_id + '",'
        '"metrics":{"durationMs":2599.4,"billedDurationMs":2600,"memorySizeMB":128,"maxMemoryUsedMB":64,'
        '"initDurationMs":549.04},"status":"success"}}'
    )
    first, second = map(json.loads, lines[:2])
    assert first["record"]["initializationType"] == "on-demand" and first["record"]["functionVersion"] == "7"
    assert second["record"] == {"requestId": DONE.request_id, "functionArn": DONE.arn, "version": "7"}


@pytest.mark.parametrize(
    ("invocation", "levels", "found"),
    [
        (DONE, {}, ["initStart", "start", "plain", "no dose", "report success"]),
        (DONE, {"application_level": "ERROR"}, ["initStart", "start", "no dose", "report success"]),
        (DONE, {"system_level": "WARN"}, ["plain", "no dose"]),
        (
            DONE,
            {"system_level": "DEBUG", "application_level": "FATAL"},
            ["initStart", "start", "runtimeDone success", "report success"],
        ),
        (FAILED, {"system_level": "WARN"}, ["plain", "no dose", "KeyError", "runtimeDone error", "report error"]),
        (TIMEOUT, {"system_level": "WARN"}, ["plain", "no dose", "runtimeDone timeout", "report timeout"]),
    ],
)
def test_levels_filter_a_json_log(invocation: Invocation, levels: dict[str, str], found: list[str]) -> None:
    """Lambda reports a failure at WARN and a success at INFO; a line without a level is INFO.

    Source: Lambda developer guide, system log level event mapping.
    """
    assert kinds(invocation, **levels) == found


def test_stream_in_a_shared_group_has_the_functions_name() -> None:
    """DATE/[VERSION]ID in Lambda's own group, DATE/FUNCTION[VERSION]ID in another one."""
    own = log_lines.stream(LogConfig("/aws/lambda/buddy"), "buddy", "7", START)
    shared = log_lines.stream(LogConfig("/skills"), "buddy", "7", START)
    assert own.startswith("2026/11/22/[7]") and shared.startswith("2026/11/22/buddy[7]")
