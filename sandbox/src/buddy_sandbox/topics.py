"""What moto's SNS lacks: which messages Publish refuses, and in which words.

Knows moto's private names. Source: recorded AWS responses, 2023-08 to 2024-09, TestSNSPublishCrud; SNS API reference,
Publish (the size of a message).
"""

from collections.abc import Mapping

from moto.sns.models import sns_backends

from buddy_sandbox.wire import AwsError

MOST_BYTES = 262_144
ARN_PARTS = 6


def check(fields: Mapping[str, str], region: str, account: str) -> None:
    """Raise AwsError for a message to a topic that AWS would not take."""
    if fields.get("Action") != "Publish" or "TopicArn" not in fields:
        return
    arn = fields["TopicArn"]
    parts = arn.split(":")
    if len(parts) < ARN_PARTS:
        raise _invalid(f"TopicArn Reason: An ARN must have at least {ARN_PARTS} elements, not {len(parts)}")
    if parts[3] != region:
        raise _invalid("TopicArn")
    if arn not in sns_backends[account][region].topics:
        raise AwsError("NotFound", "Topic does not exist", status=404)
    if not fields.get("Message"):
        raise _invalid("Empty message")
    if len(fields["Message"].encode()) > MOST_BYTES:
        raise _invalid("Message too long")
    if fields.get("Subject") == "":
        raise _invalid("Subject")


def _invalid(what: str) -> AwsError:
    return AwsError("InvalidParameter", f"Invalid parameter: {what}")
