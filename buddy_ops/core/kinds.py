"""The kinds of function: by whom each is called, how long the caller waits, and which failures Lambda does not see.

Data only. Sentences on a kind are made where they are shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["alexa", "http", "sqs", "stream", "async", "custom"]
"""``settings.kind``."""


@dataclass(frozen=True)
class KindFacts:
    """What is known of one kind of function.

    Attributes:
        caller: who waits for an answer; empty: the caller does not wait.
        waits_s: how long it waits, in seconds; None: it does not, or that is unknown.
        timeout_advice: what else the function's time-out should fit; empty: nothing.
        silent_failure: a failure that is no error of Lambda, in the plural; empty: none is known.
        smoke_test: an example of an entry of ``smoke_tests``.
        signals: metrics of AWS that show such failures of the alias as a whole, as entries of ``failure_metrics``; what
            is in capitals is the reader's to fill in.
    """

    caller: str = ""
    waits_s: float | None = None
    timeout_advice: str = ""
    silent_failure: str = ""
    smoke_test: Mapping[str, Any] = field(default_factory=dict)
    signals: tuple[Mapping[str, Any], ...] = ()


URL_5XX = {
    "namespace": "AWS/Lambda",
    "name": "Url5xxCount",
    "dimensions": {"FunctionName": "{function}", "Resource": "{resource}"},
}
"""Answers of a function URL with a status of 5xx. Source: Lambda developer guide, 'Monitoring Lambda function URLs'."""

REST_5XX = {"namespace": "AWS/ApiGateway", "name": "5XXError", "dimensions": {"ApiName": "API", "Stage": "STAGE"}}
"""Source: API Gateway developer guide, 'Amazon API Gateway dimensions and metrics' (REST APIs)."""

HTTP_API_5XX = {"namespace": "AWS/ApiGateway", "name": "5xx", "dimensions": {"ApiId": "ID"}}
"""Source: API Gateway developer guide, 'Monitor CloudWatch metrics for HTTP APIs'."""

TARGET_5XX = {
    "namespace": "AWS/ApplicationELB",
    "name": "HTTPCode_Target_5XX_Count",
    "dimensions": {"TargetGroup": "targetgroup/NAME/ID", "LoadBalancer": "app/NAME/ID"},
}
"""Source: Application Load Balancers user guide, 'CloudWatch metrics for your Application Load Balancer'."""

DEAD_LETTERS = {
    "namespace": "AWS/SQS",
    "name": "ApproximateNumberOfMessagesVisible",
    "dimensions": {"QueueName": "DEAD-LETTER-QUEUE"},
    "statistic": "Maximum",
    "expression": "IF(DIFF({metric}) > 0, DIFF({metric}), 0)",
}
"""Messages that came to a dead-letter queue: the growth of its count. A message that SQS moves there is not in
NumberOfMessagesSent. Source: SQS developer guide, 'Available CloudWatch metrics for Amazon SQS'; CloudWatch user guide,
'Using metric math' (DIFF)."""

EVENTS_DROPPED = {
    "namespace": "AWS/Lambda",
    "name": "AsyncEventsDropped",
    "dimensions": {"FunctionName": "{function}", "Resource": "{resource}"},
}
"""Events that were dropped unprocessed. Source: Lambda developer guide, 'Types of metrics for Lambda functions'."""

CAUGHT = "failures that the handler catches"

KINDS: Mapping[Kind, KindFacts] = {
    "alexa": KindFacts(
        caller="Alexa",
        # Source: reports of developers; official for device APIs only.
        waits_s=8,
        silent_failure="apologies",
        smoke_test={"name": "launch", "request": "LaunchRequest"},
    ),
    "http": KindFacts(
        caller="API Gateway",
        # The default of REST APIs, which HTTP APIs exceed by a second. A load balancer and a function URL wait longer.
        # Source: API Gateway developer guide, 'Quotas for configuring and running a REST API' (integration timeout).
        waits_s=29,
        silent_failure="answers with a status of 500 or more",
        smoke_test={
            "name": "health",
            "event": {"rawPath": "/health", "requestContext": {"http": {"method": "GET", "path": "/health"}}},
            "status": 200,
        },
        signals=(URL_5XX, HTTP_API_5XX, REST_5XX, TARGET_5XX),
    ),
    "sqs": KindFacts(
        # Source: Lambda developer guide, 'Creating and configuring an Amazon SQS event source mapping'.
        timeout_advice="the queue's visibility timeout should be at least 6 times as long",
        silent_failure="messages that a partial batch response reports as failed",
        smoke_test={
            "name": "message",
            "event": {
                "Records": [
                    {
                        "messageId": "smoke-test",
                        "receiptHandle": "smoke-test",
                        "body": "{}",
                        "attributes": {"ApproximateReceiveCount": "1"},
                        "messageAttributes": {},
                        "eventSource": "aws:sqs",
                        "eventSourceARN": "arn:aws:sqs:REGION:ACCOUNT:QUEUE",
                        "awsRegion": "REGION",
                    }
                ]
            },
            "expect": [{"path": "batchItemFailures[0]", "absent": True}],
        },
        signals=(DEAD_LETTERS,),
    ),
    "stream": KindFacts(
        timeout_advice="a batch that is retried blocks its shard: bound the mapping's retries and the records' age",
        silent_failure="records that a partial batch response reports as failed",
        smoke_test={
            "name": "record",
            "event": {
                "Records": [
                    {
                        "eventSource": "aws:kinesis",
                        "eventName": "aws:kinesis:record",
                        "eventID": "shardId-000000000000:1",
                        "eventSourceARN": "arn:aws:kinesis:REGION:ACCOUNT:stream/STREAM",
                        "awsRegion": "REGION",
                        "kinesis": {"partitionKey": "smoke-test", "sequenceNumber": "1", "data": "e30="},
                    }
                ]
            },
            "expect": [{"path": "batchItemFailures[0]", "absent": True}],
        },
        signals=(DEAD_LETTERS,),
    ),
    "async": KindFacts(
        # Lambda tries an event twice more, so an event that fails is three failures of the function.
        timeout_advice="Lambda tries a failed event twice more: set a dead-letter queue or a destination for the rest",
        smoke_test={"name": "event", "event": {}},
        signals=(EVENTS_DROPPED, DEAD_LETTERS),
    ),
    "custom": KindFacts(silent_failure=CAUGHT, smoke_test={"name": "event", "event": {}}),
}
"""Every kind's facts."""
