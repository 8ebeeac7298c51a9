"""The environment's alarms, written against the sandbox: present, idempotent, repaired, and wired."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.health import alarms
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]


def wired(here: Situation) -> tuple[Target, str]:
    """A target whose alarms tell a topic, and the queue that hears it."""
    topic = here.client("sns").create_topic(Name="buddy-alarms")["TopicArn"]
    queue = here.client("sqs").create_queue(QueueName="pager")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:123456789012:pager"
    here.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["alarms"]["topic_arn"] = topic
    return here.connect(values=values), queue


def apply(target: Target) -> tuple[str, ...]:
    plan = alarms.plan_alarms(target)
    return alarms.write_alarms(target, plan, approve(target, plan))


def heard(here: Situation, queue: str) -> list[dict[str, Any]]:
    found = here.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(json.loads(each["Body"])["Message"]) for each in found]


def test_all_four_are_created_once(situation: Bring) -> None:
    """The first plan writes all four kinds of alarm, the second none."""
    here = situation("good")
    target, _ = wired(here)
    written = apply(target)
    assert [name.removeprefix(f"{here.function}-") for name in written] == [
        "error-rate", "latency-p99", "safety-escalations", "throttled-buddy-reminders-sandbox",
    ]  # fmt: skip
    assert alarms.plan_alarms(target).wanted == ()
    assert apply(target) == ()


def test_two_aliases_of_one_function_have_alarms_of_their_own(situation: Bring) -> None:
    """Writing those of one environment leaves those of the other as they are, and neither counts the other's."""
    here = situation("good")
    live, _ = wired(here)
    here.client("lambda").create_alias(FunctionName=here.function, Name="beta", FunctionVersion="1")
    beta = here.connect(values=live.settings.model_dump(mode="json") | {"alias": "beta"})
    first, second = apply(live), apply(beta)
    assert not set(first) & set(second) and all(name.startswith(f"{here.function}:beta-") for name in second)
    assert alarms.plan_alarms(live).wanted == () and alarms.plan_alarms(beta).wanted == ()
    assert {alarm.name for alarm in alarms.read_alarms(live)} == set(first)
    assert {alarm.name for alarm in alarms.read_alarms(beta)} >= set(second)
    for name in second:
        here.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a test")
    assert alarms.alarms_in_alarm(live) == ()


def test_another_functions_alarm_is_not_ours(situation: Bring) -> None:
    """Its name begins like our function's: its ALARM says nothing about us. One of our function without an alias does."""
    here = situation("good")
    target, _ = wired(here)
    apply(target)
    (fields,) = (each for each in alarms.wanted_alarms(target) if each["AlarmName"].endswith("latency-p99"))
    for function in (f"{here.function}2", f"{here.function}-eu"):
        other = [{"Name": "FunctionName", "Value": function}]
        here.client("cloudwatch").put_metric_alarm(**{**fields, "AlarmName": f"{function}-slow", "Dimensions": other})
        here.client("cloudwatch").set_alarm_state(
            AlarmName=f"{function}-slow", StateValue="ALARM", StateReason="a test"
        )
    assert alarms.alarms_in_alarm(target) == ()
    whole = [{"Name": "FunctionName", "Value": here.function}]
    here.client("cloudwatch").put_metric_alarm(**{**fields, "AlarmName": f"{here.function}-slow", "Dimensions": whole})
    here.client("cloudwatch").set_alarm_state(
        AlarmName=f"{here.function}-slow", StateValue="ALARM", StateReason="a test"
    )
    assert [alarm.name for alarm in alarms.alarms_in_alarm(target)] == [f"{here.function}-slow"]


def test_an_alarm_that_drifted_is_repaired(situation: Bring) -> None:
    """A threshold that somebody changed is told and written anew; the other alarms are left alone."""
    here = situation("good")
    target, _ = wired(here)
    apply(target)
    name = f"{here.function}-latency-p99"
    fields = next(each for each in alarms.wanted_alarms(target) if each["AlarmName"] == name)
    here.client("cloudwatch").put_metric_alarm(**{**fields, "Threshold": 60000.0})
    plan = alarms.plan_alarms(target)
    assert f"{name}: Threshold is 60000.0" in plan.now
    assert [each["AlarmName"] for each in plan.wanted] == [name]
    apply(target)
    assert alarms.plan_alarms(target).wanted == ()


def proved(target: Target, test: str) -> tuple[alarms.Wiring, ...]:
    plan = alarms.plan_alarms(target, test)
    return asyncio.run(alarms.prove_alarms(target, plan, approve(target, plan)))


def test_each_alarms_test_arrives_and_says_that_it_is_one(situation: Bring) -> None:
    """The wiring is proved by a message a piece that ends at the pager and says TEST; all are themselves a minute later."""
    here = situation("good")
    target, queue = wired(here)
    names = apply(target)
    here.ask("advance", seconds=300)
    heard(here, queue)
    wirings = proved(target, "all")
    assert [each.alarm for each in wirings] == list(names) and all(each.proved for each in wirings)
    alarms.raise_for_unproven(wirings)
    messages = heard(here, queue)
    assert sorted(each["AlarmName"] for each in messages) == sorted(names)
    assert all(each["NewStateReason"].startswith("TEST") for each in messages)
    here.ask("advance", seconds=120)
    assert alarms.alarms_in_alarm(target) == ()


def test_nothing_is_set_off_unless_it_is_asked_for(situation: Bring) -> None:
    """No test in the plan, or a dry run: no SetAlarmState, and the pager stays silent. A wrong name is refused."""
    here = situation("good")
    target, queue = wired(here)
    apply(target)
    assert proved(target, "") == ()
    target.dry_run = True
    assert proved(target, "all") == ()
    assert here.calls("SetAlarmState") == [] and heard(here, queue) == []
    with pytest.raises(InvalidInput, match="there is no alarm 'pager'"):
        alarms.plan_alarms(target, "pager")


def test_an_alarm_that_reaches_nobody_is_told(situation: Bring) -> None:
    """Without a topic, with a topic that is gone and with one that nobody listens to, the test proves nothing."""
    here = situation("good")
    target, _ = wired(here)
    topic = target.settings.alarms.topic_arn
    for subscription in here.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]:
        here.client("sns").unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
    apply(target)
    name = f"{here.function}-error-rate"
    (wiring,) = proved(target, name)
    assert not wiring.proved and "no confirmed subscription" in wiring.says
    with pytest.raises(BuddyError, match="alarm-silent"):
        alarms.raise_for_unproven([wiring])
    here = situation("good")
    silent = here.connect()
    apply(silent)
    (wiring,) = proved(silent, name)
    assert not wiring.proved and "no notification" in wiring.says


def test_an_alarm_whose_actions_were_switched_off_is_repaired(situation: Bring) -> None:
    """A muted alarm differs from what it should be, and is written anew."""
    here = situation("good")
    target, _ = wired(here)
    apply(target)
    name = f"{here.function}-error-rate"
    here.client("cloudwatch").disable_alarm_actions(AlarmNames=[name])
    assert f"{name}: ActionsEnabled is False" in alarms.plan_alarms(target).now
    assert apply(target) == (name,)


@pytest.mark.parametrize("environment", ["dev", "staging", "prod", "sandbox"])
def test_every_shipped_environment_has_all_four(situation: Bring, environment: str) -> None:
    """The tables that an environment's file names are watched, without being named twice; other names replace them."""
    here = situation("first_deployment", environment=environment)
    target = here.connect(quiet=True)
    name = f"buddy-alexa-skill-{environment}"
    assert [each["AlarmName"] for each in alarms.wanted_alarms(target)] == [
        f"{name}-{kind}"
        for kind in ("error-rate", "latency-p99", "safety-escalations", f"throttled-buddy-reminders-{environment}")
    ]
    values = target.settings.model_dump(mode="json")
    values["alarms"]["tables"] = ["one", "two"]
    named = [each["AlarmName"] for each in alarms.wanted_alarms(here.connect(quiet=True, values=values))]
    assert named[3:] == [f"{name}-throttled-one", f"{name}-throttled-two"]


def test_a_custom_alarm_is_what_its_setting_says(situation: Bring) -> None:
    """Buddy's is what CloudWatch always had; another may watch any metric, with the alias's names where it asks for them."""
    here = situation("first_deployment")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["alarms"]["custom"].append({
        "name": "age", "description": "Late.", "namespace": "AWS/SQS", "metric": "ApproximateAgeOfOldestMessage",
        "dimensions": {"QueueName": "{alias}-jobs"}, "statistic": "p99.5", "threshold": 300, "periods": 3, "datapoints": 2,
        "comparison": "GreaterThanOrEqualToThreshold", "missing_data": "breaching",
    })  # fmt: skip
    target = here.connect(values=values)
    escalations, age = (
        each
        for each in alarms.wanted_alarms(target)
        if each["AlarmName"][len(here.function) + 1 :] in ("safety-escalations", "age")
    )
    assert escalations == {
        "AlarmName": f"{here.function}-safety-escalations",
        "AlarmDescription": "More than one safety escalation within an hour.",
        "Namespace": "Buddy", "MetricName": "SafetyEscalations",
        "Dimensions": [{"Name": "FunctionName", "Value": here.function}, {"Name": "Resource", "Value": f"{here.function}:live"}],
        "Period": 3600, "Statistic": "Sum", "Threshold": 1.0, "EvaluationPeriods": 1, "DatapointsToAlarm": 1,
        "ComparisonOperator": "GreaterThanThreshold", "ActionsEnabled": True, "TreatMissingData": "notBreaching", "AlarmActions": [],
    }  # fmt: skip
    assert age["Dimensions"] == [{"Name": "QueueName", "Value": "live-jobs"}]
    assert (age["ExtendedStatistic"], age["TreatMissingData"], age["Period"]) == ("p99.5", "breaching", 60)
    with pytest.raises(InvalidInput, match="must not exceed a day"):
        here.connect(values=values | {"alarms": {"custom": [values["alarms"]["custom"][1] | {"period_s": 86400}]}})


@pytest.mark.parametrize("build", ["apologises", "apologises_5_percent"])
def test_an_outage_that_only_apologises_rings(situation: Bring, build: str) -> None:
    """Lambda sees no error at all, and the pager goes off all the same; without the metric nobody would hear of it."""
    here = situation("good", stable=build)
    target, queue = wired(here)
    apply(target)
    here.ask("advance", seconds=600)
    assert [each.name for each in alarms.alarms_in_alarm(target)] == [f"{here.function}-error-rate"]
    (message,) = heard(here, queue)
    assert message["AlarmDescription"].endswith("fail, or are counted as Apologies.")
    blind = here.connect(values=target.settings.model_dump(mode="json") | {"failure_metrics": []})
    apply(blind)
    here.ask("advance", seconds=600)
    assert alarms.alarms_in_alarm(blind) == ()


def test_the_most_failure_metrics_fit_into_an_alarm(situation: Bring) -> None:
    """As many as an environment may name are ten metrics with Lambda's own two, which CloudWatch takes; one more is refused."""
    here = situation("first_deployment")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    most = [{"namespace": "Buddy", "name": f"Failures{i}"} for i in range(8)]
    target = here.connect(values=values | {"failure_metrics": most})
    assert f"{here.function}-error-rate" in apply(target)
    with pytest.raises(InvalidInput, match="failure_metrics"):
        here.connect(values=values | {"failure_metrics": [*most, most[0]]})


@pytest.mark.parametrize(("build", "alarm"), [("errors_5_percent", "error-rate"), ("slow", "latency-p99")])
def test_an_alarm_burns_when_people_are_hurt(situation: Bring, build: str, alarm: str) -> None:
    """Failures over 1 %, or a p99 over 6 s, reach the pager within minutes; healthy traffic does not."""
    here = situation(build, stable=build)
    target, queue = wired(here)
    apply(target)
    here.ask("advance", seconds=600)
    assert [each.name for each in alarms.alarms_in_alarm(target)] == [f"{here.function}-{alarm}"]
    assert any(each["AlarmName"] == f"{here.function}-{alarm}" for each in heard(here, queue))


def test_healthy_traffic_burns_nothing(situation: Bring) -> None:
    """Half an hour of a good version leaves every alarm at OK or without data."""
    here = situation("good")
    target, _ = wired(here)
    apply(target)
    here.ask("advance", seconds=1800)
    assert alarms.alarms_in_alarm(target) == ()


@pytest.mark.parametrize(("rate", "build"), [(8, "total_failure"), (1, "total_failure"), (8, "apologises")])
def test_an_outage_at_night_rings(situation: Bring, rate: float, build: str) -> None:
    """At few requests a minute, all failing, the error rate is not 0: the alarm fires and stays."""
    here = situation("good", stable=build, requests_per_minute=rate, history_minutes=0)
    target, _ = wired(here)
    apply(target)
    here.ask("advance", seconds=1_200)
    for _ in range(4):
        firing = [each.name for each in alarms.alarms_in_alarm(target)]
        assert firing == [f"{here.function}-error-rate"]
        here.ask("advance", seconds=1_200)


@pytest.mark.parametrize(("build", "after_s"), [("total_failure", 150), ("errors_5_percent", 330)])
def test_an_outage_in_full_traffic_rings_at_once(situation: Bring, build: str, after_s: int) -> None:
    """The longer window delays little: the first minute of an outage is over the limit, and the third one of 5 %."""
    here = situation("good", history_minutes=30)
    target, _ = wired(here)
    apply(target)
    here.ask("advance", seconds=300)
    assert alarms.alarms_in_alarm(target) == ()
    here.ship_by_hand(build)
    here.ask("advance", seconds=after_s)
    assert [each.name for each in alarms.alarms_in_alarm(target)] == [f"{here.function}-error-rate"]


def test_a_good_version_at_low_traffic_rings_nothing(situation: Bring) -> None:
    """Three hours of few requests, of which one in five hundred fails: a single failure is no outage."""
    here = situation("good", requests_per_minute=30, history_minutes=0)
    target, queue = wired(here)
    apply(target)
    here.ask("advance", seconds=10_800)
    assert alarms.alarms_in_alarm(target) == () and heard(here, queue) == []
