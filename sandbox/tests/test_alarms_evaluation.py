"""The sandbox's alarms keep AWS's rules: one test each; alarms are made and read through boto3."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError
from serving import START, Crank, client_of

from buddy_sandbox.alarms import Transition
from buddy_sandbox.cloudwatch import CloudWatch
from buddy_sandbox.metrics_store import MetricStore

TOPIC = "arn:aws:sns:us-east-1:123456789012:alerts"
SIMPLE: dict[str, Any] = {
    "AlarmName": "errors",
    "Namespace": "N",
    "MetricName": "m",
    "Statistic": "Sum",
    "Period": 60,
    "EvaluationPeriods": 1,
    "Threshold": 0.5,
    "ComparisonOperator": "GreaterThanThreshold",
}


@dataclass
class Sandbox:
    """CloudWatch, its metrics and its clock, and a client."""

    client: Any
    service: CloudWatch
    store: MetricStore
    clock: Crank

    def put(self, **changes: Any) -> None:
        """Make or replace the alarm 'errors'; None leaves a parameter out."""
        config = {**SIMPLE, **changes}
        self.client.put_metric_alarm(**{name: value for name, value in config.items() if value is not None})

    def points(self, text: str, metric: str = "m", namespace: str = "N") -> None:
        """A minute for each word, the last one whole at the next evaluation: X breaches, 0 does not, - is missing."""
        words = text.split()
        for at, word in enumerate(words, -len(words)):
            if word != "-":
                value = {"X": 1.0, "0": 0.0}.get(word, 0.0) if word in "X0" else float(word)
                self.store.add(namespace, metric, {}, np.array([self.clock.time + 60 * at]), value)

    def evaluate(self, minutes: int = 1) -> list[Transition]:
        """Let minutes pass, evaluating each."""
        changes = []
        for _ in range(minutes):
            self.clock.time += 60
            changes += self.service.evaluate(self.clock.time)
        return changes

    def state(self, name: str = "errors") -> str:
        return str(self.client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"])

    def refused(self, **changes: Any) -> bool:
        with pytest.raises(ClientError) as error:
            self.put(**changes)
        return bool(error.value.response["Error"]["Code"] == "ValidationError")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One for each test."""
    clock = Crank()
    store = MetricStore(clock)
    service = CloudWatch(store, clock)
    with client_of(service) as client:
        yield Sandbox(client, service, store, clock)


KEEP = "KEEP"
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize(
    ("needed", "points", "states"),
    [
        (3, "0 - X - X", ("OK", "OK", "OK", "OK")),
        (3, "0 - - - -", ("OK", "OK", "OK", "OK")),
        (3, "- - - - -", ("INSUFFICIENT_DATA", KEEP, "ALARM", "OK")),
        (3, "0 X X - X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (3, "- - X - -", ("ALARM", KEEP, "ALARM", "OK")),
        (2, "0 - X - X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (2, "0 0 X 0 X", ("ALARM", "ALARM", "ALARM", "ALARM")),
        (2, "0 - X - -", ("OK", "OK", "ALARM", "OK")),
        (2, "- - - - 0", ("OK", "OK", "ALARM", "OK")),
        (2, "- - - X -", ("ALARM", KEEP, "ALARM", "OK")),
        (3, "- - - - X", ("INSUFFICIENT_DATA", KEEP, "ALARM", "OK")),
    ],
)
def test_missing_data(sandbox: Sandbox, needed: int, points: str, states: tuple[str, ...], treatment: str) -> None:
    """The tables of the guide, for 3 of 3 and 2 of 3. Source: user guide, 'alarms treat missing data'."""
    expected = states[TREATMENTS.index(treatment)]
    for before in ("OK", "ALARM"):
        sandbox.put(AlarmName=before, EvaluationPeriods=3, DatapointsToAlarm=needed, TreatMissingData=treatment)
        sandbox.client.set_alarm_state(AlarmName=before, StateValue=before, StateReason="test")
    sandbox.points(points)
    sandbox.evaluate()
    assert [sandbox.state(name) for name in ("OK", "ALARM")] == (
        ["OK", "ALARM"] if expected == KEEP else [expected] * 2
    )


def test_a_new_alarm_has_insufficient_data(sandbox: Sandbox) -> None:
    """An alarm begins as INSUFFICIENT_DATA. Source: API reference, PutMetricAlarm."""
    sandbox.put()
    assert sandbox.state() == "INSUFFICIENT_DATA"


def test_an_update_keeps_the_state_and_replaces_all_else(sandbox: Sandbox) -> None:
    """Updating an alarm leaves its state and overwrites its configuration. Source: API reference, PutMetricAlarm."""
    sandbox.put(AlarmDescription="old", AlarmActions=[TOPIC])
    sandbox.points("X")
    sandbox.evaluate()
    sandbox.put(Threshold=100.0)
    (alarm,) = sandbox.client.describe_alarms()["MetricAlarms"]
    assert (alarm["StateValue"], alarm["Threshold"], alarm.get("AlarmDescription")) == ("ALARM", 100.0, None)
    assert alarm.get("AlarmActions", []) == []
    assert sandbox.evaluate()[0].new == "OK"


@pytest.mark.parametrize(
    ("operator", "breaching"),
    [
        ("GreaterThanThreshold", "0 0 1"),
        ("GreaterThanOrEqualToThreshold", "0 1 1"),
        ("LessThanThreshold", "1 0 0"),
        ("LessThanOrEqualToThreshold", "1 1 0"),
    ],
)
def test_comparison_operators(sandbox: Sandbox, operator: str, breaching: str) -> None:
    """The statistic is the first operand. Source: API reference, PutMetricAlarm."""
    for value, expected in zip(("4", "5", "6"), breaching.split(), strict=True):
        sandbox.put(AlarmName=value, MetricName=value, Threshold=5.0, ComparisonOperator=operator)
        sandbox.points(value, metric=value)
        sandbox.evaluate()
        assert sandbox.state(value) == ("ALARM" if expected == "1" else "OK")


def test_only_whole_published_minutes_are_evaluated(sandbox: Sandbox) -> None:
    """An alarm does not judge a minute that is still being published. Source: user guide, 'Evaluating an alarm'."""
    sandbox.put(ComparisonOperator="LessThanThreshold", Threshold=60.0)
    sandbox.store.add("N", "m", {}, START - 120 + np.arange(240.0), 1.0)
    sandbox.clock.time = START - 30
    assert [change.new for change in sandbox.evaluate(4)] == ["OK"]


def test_actions_are_those_of_the_new_state(sandbox: Sandbox) -> None:
    """A transition names the actions of the state it leads to, once. Source: user guide, 'Alarm actions'."""
    sandbox.put(AlarmActions=[TOPIC, TOPIC + "2"], OKActions=[TOPIC + "-ok"], TreatMissingData="notBreaching")
    sandbox.points("X X")
    changes = sandbox.evaluate(6)
    assert [(change.old, change.new, change.actions) for change in changes] == [
        ("INSUFFICIENT_DATA", "ALARM", (TOPIC, TOPIC + "2")),
        ("ALARM", "OK", (TOPIC + "-ok",)),
    ]
    assert changes[0].at == START + 60
    message = json.loads(changes[0].message)
    assert (message["NewStateValue"], message["StateChangeTime"]) == ("ALARM", "2026-11-22T03:01:00.000+0000")
    assert changes[0].reason.startswith("Threshold Crossed: 1 out of the last 1 datapoints [1.0 (22/11/26 02:59:00)]")


def test_disabled_actions(sandbox: Sandbox) -> None:
    """Without its actions an alarm changes state and notifies nobody. Source: API reference, DisableAlarmActions."""
    sandbox.put(AlarmActions=[TOPIC])
    sandbox.client.disable_alarm_actions(AlarmNames=["errors"])
    sandbox.points("X")
    assert [(change.new, change.actions) for change in sandbox.evaluate()] == [("ALARM", ())]
    sandbox.client.enable_alarm_actions(AlarmNames=["errors"])
    assert sandbox.client.describe_alarms()["MetricAlarms"][0]["ActionsEnabled"] is True


def test_set_alarm_state_lasts_until_the_next_evaluation(sandbox: Sandbox) -> None:
    """SetAlarmState runs the actions, and the alarm returns to what it is. Source: API reference, SetAlarmState."""
    heard: list[Transition] = []
    sandbox.service.on_transition = heard.append
    sandbox.put(AlarmActions=[TOPIC])
    sandbox.points("0 0")
    sandbox.evaluate()
    sandbox.client.set_alarm_state(AlarmName="errors", StateValue="ALARM", StateReason="rehearsal")
    assert [(change.new, change.actions, change.reason) for change in heard] == [("ALARM", (TOPIC,), "rehearsal")]
    assert [change.new for change in sandbox.evaluate()] == ["OK"]
    with pytest.raises(ClientError, match="ResourceNotFound"):
        sandbox.client.set_alarm_state(AlarmName="none", StateValue="OK", StateReason="")


def test_metric_math(sandbox: Sandbox) -> None:
    """An alarm watches the one expression that returns data. Source: facts/aws.md, 4."""

    def metric(query_id: str) -> dict[str, Any]:
        stat = {"Metric": {"Namespace": "N", "MetricName": query_id}, "Period": 60, "Stat": "Sum"}
        return {"Id": query_id, "MetricStat": stat, "ReturnData": False}

    rate = {"Id": "rate", "Expression": "IF(inv >= 20, 100*err/inv, 0)", "ReturnData": True}
    simple: dict[str, Any] = dict.fromkeys(("Namespace", "MetricName", "Statistic", "Period"))
    sandbox.put(
        **simple, Metrics=[metric("inv"), metric("err"), rate], Threshold=1.0, EvaluationPeriods=3, DatapointsToAlarm=2
    )
    sandbox.points("100 10 100", metric="inv")
    sandbox.points("2 9 3", metric="err")
    sandbox.evaluate()
    assert sandbox.state() == "ALARM"
    assert sandbox.client.describe_alarms()["MetricAlarms"][0]["Metrics"][2] == rate
    assert sandbox.refused(**simple, Metrics=[metric("inv"), rate])
    assert sandbox.refused(**simple, Metrics=[metric("inv"), {**rate, "Expression": "inv +"}])
    assert sandbox.refused(**simple, Metrics=[{**metric("inv"), "ReturnData": True}, metric("err"), rate])
    assert sandbox.refused(Metrics=[metric("inv"), metric("err"), rate])


def test_fill_makes_a_point_of_every_minute(sandbox: Sandbox) -> None:
    """With FILL an alarm on a silent metric leaves ALARM. Source: facts/aws.md, 5."""
    stat = {"Metric": {"Namespace": "AWS/DynamoDB", "MetricName": "m"}, "Period": 60, "Stat": "Sum"}
    metrics = [{"Id": "m", "MetricStat": stat, "ReturnData": False}, {"Id": "e", "Expression": "FILL(m, 0)"}]
    sandbox.put(Namespace=None, MetricName=None, Statistic=None, Period=None, Metrics=metrics)
    sandbox.points("X", namespace="AWS/DynamoDB")
    assert [change.new for change in sandbox.evaluate(3)] == ["ALARM", "OK"]


def test_dynamodb_alarms_ignore_missing_data(sandbox: Sandbox) -> None:
    """Alarms on AWS/DynamoDB keep their state without data, whatever they are told. Source: facts/aws.md, 5."""
    sandbox.put(Namespace="AWS/DynamoDB", TreatMissingData="notBreaching")
    sandbox.points("X", namespace="AWS/DynamoDB")
    assert [change.new for change in sandbox.evaluate(10)] == ["ALARM"]


def test_percentiles_of_few_samples(sandbox: Sandbox) -> None:
    """With 'ignore', a p95 of under 200 samples changes nothing. Source: user guide, 'low data samples'."""
    percentile = {"Statistic": None, "ExtendedStatistic": "p95"}
    sandbox.put(**percentile)
    sandbox.put(AlarmName="careful", **percentile, EvaluateLowSampleCountPercentile="ignore")
    for samples in (199, 200):
        sandbox.store.add("N", "m", {}, sandbox.clock.time + np.linspace(-59, -1, samples), 1.0)
        sandbox.evaluate()
        assert sandbox.state() == "ALARM"
        assert sandbox.state("careful") == ("ALARM" if samples >= 200 else "INSUFFICIENT_DATA")


def test_longer_periods_slide(sandbox: Sandbox) -> None:
    """The evaluation window slides with each evaluation, minute by minute. Source: API reference, EvaluationWindow."""
    sandbox.put(Period=300, Threshold=2.5)
    sandbox.points("0 0 X X X 0 0 0 0 0")
    sandbox.clock.time -= 480
    assert [(change.new, (change.at - START) / 60) for change in sandbox.evaluate(12)] == [
        ("OK", -7),
        ("ALARM", -4),
        ("OK", -1),
    ]


def test_history(sandbox: Sandbox) -> None:
    """Creation, changes of state and deletion are remembered, the newest first. Source: API, DescribeAlarmHistory."""
    sandbox.put(AlarmActions=[TOPIC])
    sandbox.points("X")
    (change,) = sandbox.evaluate()
    sandbox.service.acted(change, TOPIC)
    sandbox.client.delete_alarms(AlarmNames=["errors", "none"])
    assert sandbox.client.describe_alarms()["MetricAlarms"] == []
    items = sandbox.client.describe_alarm_history(AlarmName="errors")["AlarmHistoryItems"]
    assert [item["HistorySummary"] for item in items] == [
        'Alarm "errors" deleted',
        f"Successfully executed action {TOPIC}",
        "Alarm updated from INSUFFICIENT_DATA to ALARM",
        'Alarm "errors" created',
    ]
    assert json.loads(items[2]["HistoryData"])["newState"]["stateValue"] == "ALARM"
    asked = {"HistoryItemType": "StateUpdate", "StartDate": START, "EndDate": START + 60}
    assert len(sandbox.client.describe_alarm_history(**asked)["AlarmHistoryItems"]) == 1
    assert sandbox.client.describe_alarm_history(StartDate=START + 61)["AlarmHistoryItems"] == []


def test_describe_alarms_filters_and_pages(sandbox: Sandbox) -> None:
    """Alarms are chosen by name, prefix, state or action, and paged. Source: API reference, DescribeAlarms."""
    for at in range(120):
        sandbox.put(AlarmName=f"a{at:03d}", AlarmActions=[TOPIC] if at % 2 else [])
    pages = sandbox.client.get_paginator("describe_alarms").paginate(PaginationConfig={"PageSize": 50})
    assert [len(page["MetricAlarms"]) for page in pages] == [50, 50, 20]

    def names(**params: Any) -> list[str]:
        return [alarm["AlarmName"] for alarm in sandbox.client.describe_alarms(**params)["MetricAlarms"]]

    assert names(AlarmNamePrefix="a11") == [f"a11{at}" for at in range(10)]
    assert names(AlarmNames=["a007", "b"]) == ["a007"]
    assert len(names(ActionPrefix=TOPIC, MaxRecords=100)) == 60
    assert names(StateValue="ALARM") == names(AlarmTypes=["CompositeAlarm"]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"DatapointsToAlarm": 2},
        {"ExtendedStatistic": "p99"},
        {"Statistic": None},
        {"Statistic": None, "ExtendedStatistic": "p200"},
        {"Statistic": None, "ExtendedStatistic": "Sum"},
        {"Threshold": None},
        {"ComparisonOperator": "GreaterThanUpperThreshold"},
        {"Period": 90},
        {"Period": None},
        {"EvaluationPeriods": 1_441},
        {"TreatMissingData": "zero"},
        {"EvaluateLowSampleCountPercentile": "ignore"},
        {"AlarmActions": [TOPIC] * 6},
        {"AlarmActions": ["topic"]},
        {"MetricName": None},
    ],
)
def test_alarms_that_aws_refuses(sandbox: Sandbox, changes: dict[str, Any]) -> None:
    """An alarm that makes no sense is a ValidationError. Source: API reference, PutMetricAlarm."""
    assert sandbox.refused(**changes)
    assert sandbox.client.describe_alarms()["MetricAlarms"] == []
