"""The dead-letter queue of the failsafe: the messages of our own failed schedules, those of tests.

Source: EventBridge Scheduler user guide, 'Configuring a dead-letter queue': the message has the schedule's ARN as an
attribute, and the target's input as its body.
"""

from collections.abc import Iterator

from buddy_ops.aws._client_types import Message, QueueClient
from buddy_ops.aws.session import Target

HIDDEN_S = 20
"""For how many seconds a message that was read is hidden from other readers, also one that is not ours."""

READS = 4
"""SQS answers a read from some of its servers: so many reads in a row find nothing before a queue counts as read."""

MOST_READS = 50
"""So many reads at most: a queue may be full of messages that are not ours."""


def take_own(target: Target, schedule: str, alias: str) -> int:
    """Delete the messages that a schedule of ours left in the dead-letter queue; how many there were.

    Args:
        schedule: its name.
        alias: the alias in its input, which no other schedule has.

    AWS: sqs:GetQueueUrl, ReceiveMessage, DeleteMessage, writes. Other messages are hidden for ``HIDDEN_S``.

    Raises:
        NotFound: there is no such queue.
    """
    client = target.client("sqs")
    arn = target.settings.lease.dead_letter_arn or ""
    # 'arn:aws:sqs:eu-west-1:111122223333:dead-letters'
    *_, account, name = arn.split(":")
    url = client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    found = 0
    for message in _read(client, url):
        of = message.get("MessageAttributes", {}).get("SCHEDULE_ARN", {}).get("StringValue", "")
        if of.endswith(f"/{schedule}") or f'"{alias}"' in message.get("Body", ""):
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            found += 1
    return found


def _read(client: QueueClient, url: str) -> Iterator[Message]:
    """The queue's messages, until some reads find none."""
    empty = 0
    for _ in range(MOST_READS):
        reply = client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=HIDDEN_S, MessageAttributeNames=["SCHEDULE_ARN"]
        )
        messages = reply.get("Messages", [])
        empty = 0 if messages else empty + 1
        yield from messages
        if empty == READS:
            return
