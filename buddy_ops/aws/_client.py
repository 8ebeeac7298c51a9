"""What every botocore client of ours does around a call: journal it, learn from the reply, translate errors.

botocore calls ``creating-client-class`` before it builds a client's class. ``add_recorder`` puts ``Recorder`` in front
of its bases there, so that paginators are covered too, and so are errors from before a request is built.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from io import BytesIO
from typing import Any, Literal, Protocol

from botocore import exceptions as botocore
from botocore import xform_name
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody

from buddy_ops.aws import _replies
from buddy_ops.aws.clock import Clock
from buddy_ops.core.redaction import Redactor

SDK_ERRORS = (botocore.BotoCoreError, botocore.ClientError, ResponseParserError)
Fields = dict[str, Any]
"""A call's parameters, or its reply, whatever the service."""

Send = Callable[[Fields], Fields]
Service = Literal[
    "cloudwatch", "dynamodb", "ecr", "iam", "kms", "lambda", "logs", "s3", "scheduler", "sns", "sqs", "ssm", "sts"
]

NOT_JOURNALED = frozenset(
    {
        *("ZipFile", "Payload", "Environment", "Value", "MetricDataQueries", "ClientContext", "Body"),
        *("TransactItems", "RequestItems", "ExclusiveStartKey", "Key", "Item", "ExpressionAttributeValues"),
    }
)
"""Parameters that are long, secret, or about people."""


class Performer(Protocol):
    """What sends a client's calls: the session's ``Target``."""

    def perform(self, service: str, operation: str, parameters: Fields, send: Send) -> Fields: ...


class Recorder:
    """The base class in front of a client's own: hands each call to its target."""

    target: Performer | None = None
    """None: a client that botocore makes for itself, to assume a role."""

    meta: Any
    """botocore's ClientMeta, whose stubs lack what is read here."""

    def _make_api_call(self, operation_name: str, api_params: Fields) -> Fields:
        send: Send = partial(_send_whole, partial(super()._make_api_call, operation_name))  # type: ignore[misc]
        if self.target is None:
            return send(api_params)
        # botocore sends a call again whose answer did not come in time, although the code has run.
        if operation_name == "Invoke" and self.meta.config.retries["total_max_attempts"] > 1:
            raise TypeError("invoke runs the skill's code, so it is sent once: use client('lambda', attempts=1).")
        return self.target.perform(self.meta.service_model.service_name, xform_name(operation_name), api_params, send)


def _send_whole(send: Send, parameters: Fields) -> Fields:
    """Send a call; an answer that is cut, or not from AWS, is an error of the call."""
    reply = send(parameters)
    _replies.require_complete(reply)
    return reply


def for_target(client: Any, target: Any) -> Any:
    """The same client, with its connections and its limiter, whose calls another target sends and journals."""
    # Not copy.copy: a client asks itself for attributes that the copy does not have yet.
    other = object.__new__(type(client))
    other.__dict__.update(client.__dict__)
    other.target = target
    return other


def add_recorder(base_classes: list[type], **_: object) -> None:
    """Handler of botocore's ``creating-client-class``."""
    base_classes.insert(0, Recorder)


def read_body(reply: Fields) -> None:
    """Read a reply's stream now: the connection may break while it is read, and that is an error of the call."""
    for name in ("Payload", "Body"):
        if isinstance(reply.get(name), StreamingBody):
            content = reply[name].read()
            # Callers read it as they read botocore's own.
            reply[name] = StreamingBody(BytesIO(content), len(content))


def learn_time(clock: Clock, reply: Mapping[str, Any], sent: datetime) -> timedelta:
    """Set the clock by AWS's; by how much it changed.

    An error's reply carries the time too, above all one that says that our clock is off.

    Args:
        sent: the clock's time before the call was sent.
    """
    # An error of the connection has no reply, and an incomplete reply has no headers: the clock stays as it is.
    with suppress(KeyError, ValueError, TypeError):
        return clock.correct(parsedate_to_datetime(reply["ResponseMetadata"]["HTTPHeaders"]["date"]), sent)
    return timedelta()


def learn_secrets(redactor: Redactor, service: str, reply: Fields) -> None:
    """Note values that no archive may hold: a function's environment variables, and decrypted parameters."""
    if service == "lambda":
        for configuration in (reply, reply.get("Configuration", {}), *reply.get("Versions", ())):
            redactor.add_secrets_of(configuration.get("Environment", {}).get("Variables", {}), strict=False)
    elif service == "ssm":
        for parameter in (reply.get("Parameter", {}), *reply.get("Parameters", ())):
            if parameter.get("Type") == "SecureString":
                redactor.add_secret(parameter.get("Value", ""), shortest=4)
