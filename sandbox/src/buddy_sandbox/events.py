"""The events that a function of each kind receives, and how its answers are read.

Source: Lambda developer guide, 'Creating and managing Lambda function URLs' (payload format 2.0), 'Using Lambda with
Amazon SQS', 'Using Lambda with Kinesis' (records, partial batch responses).
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Protocol

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


class Sent(Protocol):
    """A message or a record."""

    @property
    def identifier(self) -> str: ...

    @property
    def sent(self) -> float: ...

    @property
    def received(self) -> int: ...


def sqs_record(message: Sent, body: dict[str, Any] | None, region: str, account: str, queue: str) -> dict[str, Any]:
    """A message as Lambda passes it on; ``body`` is its body, by default with a number of its own."""
    text = json.dumps({"id": message.identifier} if body is None else body)
    return {
        "messageId": message.identifier,
        "receiptHandle": f"handle-{message.identifier}",
        "body": text,
        "attributes": {
            "ApproximateReceiveCount": str(message.received),
            "SentTimestamp": str(int(message.sent * 1000)),
            "SenderId": "sandbox",
            "ApproximateFirstReceiveTimestamp": str(int(message.sent * 1000)),
        },
        "messageAttributes": {},
        "md5OfBody": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{region}:{account}:{queue}",
        "awsRegion": region,
    }


def kinesis_record(record: Sent, data: dict[str, Any] | None, region: str, account: str, stream: str) -> dict[str, Any]:
    """A record as Lambda passes it on; ``data`` is its content, by default with a number of its own."""
    text = json.dumps({"id": record.identifier} if data is None else data)
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "sandbox",
            "sequenceNumber": record.identifier,
            "data": base64.b64encode(text.encode()).decode(),
            "approximateArrivalTimestamp": record.sent,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shardId-000000000000:{record.identifier}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{account}:role/sandbox",
        "awsRegion": region,
        "eventSourceARN": f"arn:aws:kinesis:{region}:{account}:stream/{stream}",
    }


_MAKERS = {"http": _http, "alexa": _alexa}


def _merged(into: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``into`` with the members of ``given``; objects within are merged, too."""
    merged = dict(into)
    for name, value in given.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
