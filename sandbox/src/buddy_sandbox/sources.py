"""Where the events of a function come from, and what becomes of those that fail: callers, a queue, a stream, retries.

Knows which messages wait. Never runs a handler. The queue, its dead-letter queue and the stream exist as metrics only.

Source: Lambda developer guide, 'Handling errors for an SQS event source', 'Configuring partial batch response with
Kinesis Data Streams', 'How Lambda handles errors and retries with asynchronous invocation'; SQS developer guide,
'Available CloudWatch metrics for Amazon SQS'.
"""

import heapq
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from buddy_sandbox import events
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.runtime import Execution

BATCH = 10
"""Messages or records in a batch at most: Lambda's default for SQS."""

VISIBILITY_S = 60.0
"""When a message that failed is received again: six times the function's timeout, as Lambda's guide recommends."""

MOST_RECEIVES = 3
"""Receives after which a message goes to the dead-letter queue (maxReceiveCount)."""

RETRIES_S = (60.0, 120.0)
"""When Lambda tries an asynchronous event again: a minute after the first error, two after the second."""

RECORDS = 5
"""Records that come to the stream for each batch that is read: half of what fits, so that a backlog shrinks again."""

RECORD_S = 24 * 3600.0
"""How long a stream keeps a record."""


class Message(NamedTuple):
    """A message, a record or an event that has been sent."""

    identifier: str
    sent: float
    received: int = 0


class Count(NamedTuple):
    """What a minute's end tells: a metric, its namespace and dimensions, and its value."""

    namespace: str
    dimensions: dict[str, str]
    metric: str
    value: float
    unit: str = "Count"


@dataclass
class Caller:
    """Requests that come once, and whose failures only the caller sees."""

    kind: str
    event: dict[str, Any] | None

    def take(self, request_id: str, at: float) -> tuple[dict[str, Any], list[Message]]:
        """The event of one request, and the messages in it."""
        return events.event(self.kind, request_id, at, self.event), []

    def request_id(self, own: str, batch: Sequence[Message]) -> str:
        """The ID under which a request runs: one of its own."""
        return own

    def failures(self, batch: Sequence[Message], done: Execution) -> tuple[int, ...]:
        """Which messages of a batch failed, by their places in it."""
        return ()

    def end(self, batch: Sequence[Message], failed: Sequence[int], at: float) -> None:
        """Take note of how the messages of a batch ended."""

    def refuse(self, request_id: str, at: float) -> None:
        """Take note of a request that Lambda throttled."""

    def counts(self, now: float) -> list[Count]:
        """What CloudWatch is told at the end of a minute."""
        return []


@dataclass
class _Waiting(Caller):
    """Messages that wait until they may be received."""

    function: str
    alias: str
    region: str
    account: str
    waiting: list[tuple[float, int, Message]] = field(default_factory=list)
    number: int = 0
    sent: int = 0
    received: int = 0
    dead: int = 0
    gone: int = 0

    def wait(self, message: Message, until: float) -> None:
        self.number += 1
        heapq.heappush(self.waiting, (until, self.number, message))

    def receive(self, request_id: str, at: float, most: int) -> list[Message]:
        """Those that may be received again, oldest first, and new ones in the places that are left."""
        batch: list[Message] = []
        while self.waiting and self.waiting[0][0] <= at and len(batch) < most:
            batch.append(heapq.heappop(self.waiting)[2])
        fresh = [Message(_identifier(request_id, place), at) for place in range(most - len(batch))]
        self.sent += len(fresh)
        return [each._replace(received=each.received + 1) for each in (*batch, *fresh)]

    def refuse(self, request_id: str, at: float) -> None:
        size = BATCH if self.kind == "sqs" else 1
        self.sent += size
        for place in range(size):
            self.wait(Message(_identifier(request_id, place), at), at)


@dataclass
class Queue(_Waiting):
    """An SQS queue whose messages come in batches, with partial batch responses and a dead-letter queue."""

    def take(self, request_id: str, at: float) -> tuple[dict[str, Any], list[Message]]:
        batch = self.receive(request_id, at, BATCH)
        self.received += len(batch)
        records = [events.sqs_record(each, self.event, self.region, self.account, self._name) for each in batch]
        return {"Records": records}, batch

    def failures(self, batch: Sequence[Message], done: Execution) -> tuple[int, ...]:
        return reported([each.identifier for each in batch], done)

    def end(self, batch: Sequence[Message], failed: Sequence[int], at: float) -> None:
        self.gone += len(batch) - len(failed)
        for place in failed:
            message = batch[place]
            if message.received >= MOST_RECEIVES:
                self.dead += 1
            else:
                self.wait(message, at + VISIBILITY_S)

    def counts(self, now: float) -> list[Count]:
        queue, letters = {"QueueName": self._name}, {"QueueName": f"{self.function}-dlq"}
        visible = sum(until <= now for until, _, _ in self.waiting)
        told = [
            Count("AWS/SQS", queue, "NumberOfMessagesSent", self.sent),
            Count("AWS/SQS", queue, "NumberOfMessagesReceived", self.received),
            Count("AWS/SQS", queue, "NumberOfMessagesDeleted", self.gone),
            Count("AWS/SQS", queue, "ApproximateNumberOfMessagesVisible", visible),
            Count("AWS/SQS", queue, "ApproximateNumberOfMessagesNotVisible", len(self.waiting) - visible),
            Count("AWS/SQS", letters, "ApproximateNumberOfMessagesVisible", self.dead),
        ]
        if self.waiting:
            age = now - min(message.sent for _, _, message in self.waiting)
            told.append(Count("AWS/SQS", queue, "ApproximateAgeOfOldestMessage", age, "Seconds"))
        self.sent = self.received = self.gone = 0
        return told

    @property
    def _name(self) -> str:
        return f"{self.function}-queue"


@dataclass
class Events(_Waiting):
    """Asynchronous invocations: Lambda tries an event that failed twice more, in the place of a new one."""

    def take(self, request_id: str, at: float) -> tuple[dict[str, Any], list[Message]]:
        batch = self.receive(request_id, at, 1)
        return events.event(self.kind, request_id, at, self.event), batch

    def request_id(self, own: str, batch: Sequence[Message]) -> str:
        """That of the first attempt: each later one has it, too.

        Source: AWS re:Post, knowledge-center/lambda-function-duplicate-invocations.
        """
        return batch[0].identifier

    def failures(self, batch: Sequence[Message], done: Execution) -> tuple[int, ...]:
        return tuple(range(len(batch))) if done.failed else ()

    def end(self, batch: Sequence[Message], failed: Sequence[int], at: float) -> None:
        for place in failed:
            message = batch[place]
            if message.received > len(RETRIES_S):
                self.dead += 1
            else:
                self.wait(message, at + RETRIES_S[message.received - 1])

    def counts(self, now: float) -> list[Count]:
        names = ({"FunctionName": self.function}, {"FunctionName": self.function, "Resource": self._resource})
        told = [
            Count("AWS/Lambda", name, metric, value)
            for name in names
            for metric, value in (("AsyncEventsReceived", self.sent), ("AsyncEventsDropped", self.dead))
        ]
        self.sent = self.dead = 0
        return told

    @property
    def _resource(self) -> str:
        return f"{self.function}:{self.alias}"


@dataclass
class Stream(Caller):
    """A Kinesis stream of one shard: a batch that fails is read again, from its first failed record on."""

    function: str
    region: str
    account: str
    records: deque[Message] = field(default_factory=deque)

    def take(self, request_id: str, at: float) -> tuple[dict[str, Any], list[Message]]:
        self.refuse(request_id, at)
        while self.records[0].sent < at - RECORD_S:
            self.records.popleft()
        batch = [self.records[place] for place in range(min(BATCH, len(self.records)))]
        stream = f"{self.function}-stream"
        records = [events.kinesis_record(each, self.event, self.region, self.account, stream) for each in batch]
        return {"Records": records}, batch

    def failures(self, batch: Sequence[Message], done: Execution) -> tuple[int, ...]:
        return reported([each.identifier for each in batch], done)

    def end(self, batch: Sequence[Message], failed: Sequence[int], at: float) -> None:
        for _ in range(min(failed, default=len(batch))):
            self.records.popleft()

    def refuse(self, request_id: str, at: float) -> None:
        self.records.extend(
            Message(str(int(_identifier(request_id, n).replace("-", ""), 16)), at) for n in range(RECORDS)
        )


def _identifier(request_id: str, place: int) -> str:
    """A message's id: of the form of a request's, and no other's."""
    return f"{place:x}{request_id[1:]}"


def source(
    kind: str, event: dict[str, Any] | None, *, function: str, alias: str, region: str, account: str = ACCOUNT
) -> Caller:
    """Where the events of a kind come from."""
    if kind == "sqs":
        return Queue(kind, event, function, alias, region, account)
    if kind == "async":
        return Events(kind, event, function, alias, region, account)
    if kind == "stream":
        return Stream(kind, event, function, region, account)
    return Caller(kind, event)


def reported(identifiers: Sequence[str], done: Execution) -> tuple[int, ...]:
    """Which messages a partial batch response reports, by their places; all of them if it is invalid, or if it failed.

    Source: Lambda developer guide, 'Success and failure conditions'.
    """
    whole = tuple(range(len(identifiers)))
    if done.failed:
        return whole
    answer = json.loads(done.payload)
    if not isinstance(answer, dict):
        return ()
    items = answer.get("batchItemFailures") or []
    named = {item.get("itemIdentifier") if isinstance(item, dict) else None for item in items}
    if not named <= set(identifiers):
        return whole
    return tuple(place for place in whole if identifiers[place] in named)
