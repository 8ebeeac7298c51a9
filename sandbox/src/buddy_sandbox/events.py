"""The events that a function of each kind receives, and how its answers are read.

Source: Lambda developer guide, 'Creating and managing Lambda function URLs' (payload format 2.0), 'Using Lambda with
Amazon SQS', 'Using Lambda with Kinesis' (records, partial batch responses).
"""

import json
from datetime import UTC, datetime
from typing import Any

KINDS = ("alexa", "http", "sqs", "stream", "async", "custom")
BAD_GATEWAY = 502
"""What a caller of a function URL sees of a function's error or timeout."""


def event(kind: str, request_id: str, at: float, given: dict[str, Any] | None) -> dict[str, Any]:
    """The event of one request at ``at`` (epoch seconds); members of ``given`` come before the kind's own."""
    made = _MAKERS[kind](request_id, at) if kind in _MAKERS else {}
    return _merged(made, given or {})


def http_status(result: bytes | None) -> int:
    """The status that a function URL answers: of what the handler returned (JSON), or of an error (None).

    Without a statusCode Lambda assumes 200.
    """
    if result is None:
        return BAD_GATEWAY
    answer = json.loads(result)
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return 200
    try:
        return int(answer["statusCode"])
    except (TypeError, ValueError):
        return BAD_GATEWAY


def _http(request_id: str, at: float) -> dict[str, Any]:
    when = datetime.fromtimestamp(at, UTC)
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/",
        "rawQueryString": "",
        "headers": {"accept": "*/*", "host": "sandbox.lambda-url.local", "user-agent": "buddy-sandbox"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "sandbox",
            "domainName": "sandbox.lambda-url.local",
            "domainPrefix": "sandbox",
            "http": {
                "method": "GET",
                "path": "/",
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": "buddy-sandbox",
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": f"{when:%d/%b/%Y:%H:%M:%S +0000}",
            "timeEpoch": int(at * 1000),
        },
        "isBase64Encoded": False,
    }


def _alexa(request_id: str, at: float) -> dict[str, Any]:
    user = {"userId": "amzn1.ask.account.sandbox"}
    application = {"applicationId": "amzn1.ask.skill.sandbox"}
    return {
        "version": "1.0",
        "session": {
            "new": True,
            "sessionId": f"amzn1.echo-api.session.{request_id}",
            "application": application,
            "user": user,
        },
        "context": {"System": {"application": application, "user": user}},
        "request": {
            "type": "LaunchRequest",
            "requestId": f"amzn1.echo-api.request.{request_id}",
            "timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "locale": "en-US",
        },
    }


_MAKERS = {"http": _http, "alexa": _alexa}


def _merged(into: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``into`` with the members of ``given``; objects within are merged, too."""
    merged = dict(into)
    for name, value in given.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
