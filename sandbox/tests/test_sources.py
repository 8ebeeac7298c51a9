"""Queues, streams and retries: what fails comes back as on AWS, and CloudWatch is told of it."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_own_functions import Deploy, deploy, folder, minutes, total

from buddy_sandbox import sources
from buddy_sandbox.runtime import Execution
from buddy_sandbox.situations import control

__all__ = ["deploy"]

WORKER = """
def handler(event, context):
    marks = "0123"[:BAD]
    failed = [each["messageId"] for each in event["Records"] if each["messageId"][-1] in marks]
    return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}
"""
RAISES = "def handler(event, context):\n    raise ValueError('no')\n"


def ended(result: Any, *, failed: bool = False) -> Execution:
    return Execution(json.dumps(result).encode(), "error" if failed else "success", ["no"], 1.0, None)


def maximum(url: str, name: str, namespace: str, **dimensions: str) -> float:
    return max(minutes(url, name, namespace, "Maximum", **dimensions), default=-1.0)


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (None, ()),
        ({}, ()),
        ("fine", ()),
        ({"batchItemFailures": None}, ()),
        ({"batchItemFailures": []}, ()),
        ({"batchItemFailures": [{"itemIdentifier": "b"}]}, (1,)),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, (0, 1, 2)),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, (0, 1, 2)),
        ({"batchItemFailures": [{"identifier": "b"}]}, (0, 1, 2)),
        ({"batchItemFailures": [{"itemIdentifier": "unknown"}]}, (0, 1, 2)),
        ({"batchItemFailures": ["b"]}, (0, 1, 2)),
    ],
)
def test_a_partial_batch_response_is_read_as_lambda_does(answer: Any, failed: tuple[int, ...]) -> None:
    """Empty is success; an identifier that is none is a failure of the whole batch, as an error is.

    Source: Lambda developer guide, 'Success and failure conditions'.
    """
    assert sources.reported(["a", "b", "c"], ended(answer)) == failed
    assert sources.reported(["a", "b", "c"], ended(answer, failed=True)) == (0, 1, 2)


def test_failed_messages_return_once_visible_and_end_in_the_dead_letter_queue() -> None:
    """A message is received three times, a visibility timeout apart; no message is lost or counted twice."""
    queue = sources.source("sqs", None, function="work", alias="live", region="us-east-1")
    counts: dict[str, int] = {}
    for number in range(4):
        at = number * sources.VISIBILITY_S
        event, batch = queue.take(f"{number:032x}", at)
        assert len(batch) == len(event["Records"]) == sources.BATCH
        for record in event["Records"]:
            counts[record["messageId"]] = counts.get(record["messageId"], 0) + 1
            assert record["attributes"]["ApproximateReceiveCount"] == str(counts[record["messageId"]])
        first = [place for place, message in enumerate(batch) if message.identifier.endswith("00") and number < 3]
        queue.end(batch, first, at)
    assert sorted(counts.values()) == [1] * 10 + [3] * 10
    told = {(each.dimensions["QueueName"], each.metric): each.value for each in queue.counts(1000.0)}
    sent, gone = told["work-queue", "NumberOfMessagesSent"], told["work-queue", "NumberOfMessagesDeleted"]
    dead = told["work-dlq", "ApproximateNumberOfMessagesVisible"]
    waiting = told["work-queue", "ApproximateNumberOfMessagesVisible"]
    assert dead == 10 and sent == gone + dead + waiting


def test_throttled_messages_wait_in_the_queue() -> None:
    """They are visible, and later batches take them first."""
    queue = sources.source("sqs", None, function="work", alias="live", region="us-east-1")
    queue.refuse("0" * 32, 10.0)
    told = {(each.dimensions["QueueName"], each.metric): each.value for each in queue.counts(70.0)}
    assert told["work-queue", "ApproximateNumberOfMessagesVisible"] == sources.BATCH
    assert told["work-queue", "ApproximateAgeOfOldestMessage"] == 60
    _, batch = queue.take("1" * 32, 80.0)
    assert {message.sent for message in batch} == {10.0}


def test_a_stream_reads_on_from_the_first_record_that_failed() -> None:
    """Until it succeeds, the same record comes first, and grows old."""
    stream = sources.source("stream", {"id": 1}, function="feed", alias="live", region="us-east-1")
    event, batch = stream.take("1" * 32, 0.0)
    assert json.loads(base64.b64decode(event["Records"][0]["kinesis"]["data"])) == {"id": 1}
    stream.end(batch, [2, 3], 0.0)
    event, again = stream.take("2" * 32, 60.0)
    assert again[0] == batch[2] and len(again) == sources.RECORDS - 2 + sources.RECORDS
    assert event["Records"][0]["kinesis"]["sequenceNumber"] == batch[2].identifier
    stream.end(again, [], 60.0)
    assert stream.take("3" * 32, 61.0)[1][0].sent == 61.0


def test_an_asynchronous_event_is_tried_three_times_and_then_dropped() -> None:
    """After a minute, and after two more, under the request ID of the first attempt.

    Source: Lambda developer guide, 'How Lambda handles errors and retries with asynchronous invocation'; AWS re:Post,
    knowledge-center/lambda-function-duplicate-invocations.
    """
    calls = sources.source("async", None, function="mail", alias="live", region="us-east-1")
    _, first = calls.take("1" * 32, 0.0)
    calls.end(first, calls.failures(first, ended({}, failed=True)), 0.0)
    for at, received in ((30.0, 1), (60.0, 2), (100.0, 1), (180.0, 3)):
        own = f"{int(at):032x}"
        _, batch = calls.take(own, at)
        assert batch[0].received == received
        assert calls.request_id(own, batch) == (first[0].identifier if received > 1 else own)
        calls.end(batch, [0] if received > 1 else [], at)
    told = {(len(each.dimensions), each.metric): each.value for each in calls.counts(240.0)}
    assert told[1, "AsyncEventsDropped"] == told[2, "AsyncEventsDropped"] == 1
    assert told[2, "AsyncEventsReceived"] == 3


def test_a_worker_that_fails_part_of_its_batches_is_seen_in_the_queue_alone(
    deploy: Deploy, sandbox_url: str, tmp_path: Path
) -> None:
    """Lambda counts no error; messages come back, and the dead-letter queue grows."""
    artifact = folder(tmp_path / "bad", WORKER.replace("BAD", "1"))
    deploy(artifact, name="work", kind="sqs", requests_per_minute=30, history_minutes=10)
    assert total(sandbox_url, "Invocations", FunctionName="work") > 200
    assert total(sandbox_url, "Errors", FunctionName="work") == 0
    queue = {"QueueName": "work-queue"}
    sent, received = (
        total(sandbox_url, f"NumberOfMessages{what}", "AWS/SQS", **queue) for what in ("Sent", "Received")
    )
    assert sent < received
    assert maximum(sandbox_url, "ApproximateNumberOfMessagesVisible", "AWS/SQS", QueueName="work-dlq") > 50
    assert maximum(sandbox_url, "ApproximateAgeOfOldestMessage", "AWS/SQS", **queue) > sources.VISIBILITY_S


@pytest.mark.parametrize(("source", "oldest"), [("def handler(event, context):\n    pass\n", 0.0), (RAISES, 500_000.0)])
def test_a_stream_grows_old_while_its_batches_fail(
    deploy: Deploy, sandbox_url: str, tmp_path: Path, source: str, oldest: float
) -> None:
    """IteratorAge is that of the last record of each batch, in milliseconds.

    Source: Lambda developer guide, 'Types of metrics for Lambda functions', performance metrics.
    """
    deploy(folder(tmp_path / "feed", source), name="feed", kind="stream", requests_per_minute=30, history_minutes=10)
    age = maximum(sandbox_url, "IteratorAge", "AWS/Lambda", FunctionName="feed", Resource="feed:live")
    assert age == oldest if oldest == 0 else age > oldest


def test_slices_of_time_do_not_change_what_a_queue_receives(
    deploy: Callable[..., Any], sandbox_url: str, tmp_path: Path
) -> None:
    """Both versions take from one queue in the order of time, however often anything looks."""
    artifact = folder(tmp_path / "bad", WORKER.replace("BAD", "2"))
    seen = []
    for slices in (1, 20):
        control(sandbox_url, "reset", seed=7)
        control(sandbox_url, "set", metrics_delay_s=0)
        deploy(artifact, name="work", kind="sqs", requests_per_minute=30, history_minutes=0)
        for _ in range(slices):
            control(sandbox_url, "advance", seconds=600 / slices)
        names = ("NumberOfMessagesSent", "NumberOfMessagesReceived", "NumberOfMessagesDeleted")
        queues = [total(sandbox_url, name, "AWS/SQS", QueueName="work-queue") for name in names]
        seen.append(
            (queues, maximum(sandbox_url, "ApproximateNumberOfMessagesVisible", "AWS/SQS", QueueName="work-dlq"))
        )
    assert seen[0] == seen[1]
