"""The environment's alarms, written against the sandbox: present, idempotent, repaired, and wired."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops import alarms
from buddy_ops.target import Target
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]


def wired(here: Situation) -> tuple[Target, str]:
    """A target whose alarms tell a topic, and the queue that hears it."""
    topic = here.client("sns").create_topic(Name="buddy-alarms")["TopicArn"]
    queue = here.client("sqs").create_queue(QueueName="pager")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:123456789012:pager"
    here.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["alarms"] = {"topic_arn": topic, "tables": ["reminders"]}
    return here.connect(values=values), queue


def apply(target: Target) -> tuple[str, ...]:
    plan = alarms.plan(target)
    return alarms.run(target, plan, approve(target, plan))


def heard(here: Situation, queue: str) -> list[dict[str, Any]]:
    found = here.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(json.loads(each["Body"])["Message"]) for each in found]


def test_all_four_are_created_once(situation: Bring) -> None:
    """The first plan writes all four kinds of alarm, the second none."""
    here = situation("good")
    target, _ = wired(here)
    written = apply(target)
    assert [name.removeprefix(f"{here.function}-") for name in written] == [
        "error-rate", "latency-p99", "safety-escalations", "throttled-reminders",
    ]  # fmt: skip
    assert alarms.plan(target).wanted == ()
    assert apply(target) == ()


def test_an_alarm_that_drifted_is_repaired(situation: Bring) -> None:
    """A threshold that somebody changed is told and written anew; the other alarms are left alone."""
    here = situation("good")
    target, _ = wired(here)
    apply(target)
    name = f"{here.function}-latency-p99"
    fields = next(each for each in alarms.wanted(target) if each["AlarmName"] == name)
    here.client("cloudwatch").put_metric_alarm(**{**fields, "Threshold": 60000.0})
    plan = alarms.plan(target)
    assert f"{name}: Threshold is 60000.0" in plan.now
    assert [each["AlarmName"] for each in plan.wanted] == [name]
    apply(target)
    assert alarms.plan(target).wanted == ()


def test_a_test_notification_arrives_and_says_that_it_is_one(situation: Bring) -> None:
    """The wiring is proved by a message that ends at the pager and says TEST; the alarm is itself again a minute later."""
    here = situation("good")
    target, queue = wired(here)
    apply(target)
    here.ask("advance", seconds=300)
    heard(here, queue)
    alarms.test(target, f"{here.function}-error-rate")
    (message,) = heard(here, queue)
    assert message["NewStateReason"].startswith("TEST") and message["AlarmName"] == f"{here.function}-error-rate"
    here.ask("advance", seconds=120)
    assert alarms.burning(target) == ()


@pytest.mark.parametrize(("build", "alarm"), [("errors_5_percent", "error-rate"), ("slow", "latency-p99")])
def test_an_alarm_burns_when_people_are_hurt(situation: Bring, build: str, alarm: str) -> None:
    """Failures over 1 %, or a p99 over 6 s, reach the pager within minutes; healthy traffic does not."""
    here = situation(build, stable=build)
    target, queue = wired(here)
    apply(target)
    here.ask("advance", seconds=600)
    assert [each.name for each in alarms.burning(target)] == [f"{here.function}-{alarm}"]
    assert any(each["AlarmName"] == f"{here.function}-{alarm}" for each in heard(here, queue))


def test_healthy_traffic_burns_nothing(situation: Bring) -> None:
    """Half an hour of a good version leaves every alarm at OK or without data."""
    here = situation("good")
    target, _ = wired(here)
    apply(target)
    here.ask("advance", seconds=1800)
    assert alarms.burning(target) == ()
