"""Regions and accounts are apart: what is done in one is neither seen in another nor changes anything there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_own_functions import GOOD, RAISES, client, folder, minutes

from buddy_sandbox import own_functions
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.situations import control

OTHER = "222222222222"
HERE, THERE, ABROAD = (ACCOUNT, "us-east-1"), (ACCOUNT, "eu-west-1"), (OTHER, "us-east-1")
ROLE = "arn:aws:iam::{}:role/buddy-ops-scheduler"
Place = tuple[str, str]
"""An account and a region."""

KEYS = [{"AttributeName": "id", "KeyType": "HASH"}]

Clients = Callable[[str], Any]


def publish(ask: Clients, package: bytes) -> None:
    ask("lambda").update_function_code(FunctionName="shop", ZipFile=package)


def split(ask: Clients, _: bytes) -> None:
    ask("lambda").publish_version(FunctionName="shop")
    weights = {"AdditionalVersionWeights": {"2": 0.5}}
    ask("lambda").update_alias(FunctionName="shop", Name="live", RoutingConfig=weights, Description="moved")


def limit(ask: Clients, _: bytes) -> None:
    ask("lambda").put_function_concurrency(FunctionName="shop", ReservedConcurrentExecutions=0)


def alarm(ask: Clients, _: bytes) -> None:
    """An alarm that is in ALARM at once, and tells a topic."""
    topic = ask("sns").create_topic(Name="on-call")["TopicArn"]
    ask("cloudwatch").put_metric_alarm(
        AlarmName="shop-errors",
        Namespace="AWS/Lambda",
        MetricName="Invocations",
        Dimensions=[{"Name": "FunctionName", "Value": "shop"}],
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
        AlarmActions=[topic],
    )


def freeze(ask: Clients, _: bytes) -> None:
    ask("ssm").put_parameter(Name="/buddy-ops/shop/live/freeze", Value="stop", Type="String", Overwrite=True)


def schedule(ask: Clients, _: bytes) -> None:
    """Moves the alias two minutes later."""
    move = {"FunctionName": "shop", "Name": "live", "FunctionVersion": "1", "Description": "by schedule"}
    role = ROLE.format(ask("sts").get_caller_identity()["Account"])
    ask("scheduler").create_schedule(
        Name="failsafe",
        ScheduleExpression="rate(2 minutes)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": "arn:aws:scheduler:::aws-sdk:lambda:updateAlias", "RoleArn": role, "Input": json.dumps(move)},
    )


def count(ask: Clients, _: bytes) -> None:
    ask("cloudwatch").put_metric_data(Namespace="Shop", MetricData=[{"MetricName": "Orders", "Value": 1}])


def table(ask: Clients, _: bytes) -> None:
    attributes = [{"AttributeName": "id", "AttributeType": "S"}]
    more = {"AttributeDefinitions": attributes, "BillingMode": "PAY_PER_REQUEST"}
    ask("dynamodb").create_table(TableName="orders", KeySchema=KEYS, **more)


def queue(ask: Clients, _: bytes) -> None:
    ask("sqs").create_queue(QueueName="letters")


ACTS = (publish, split, limit, alarm, freeze, schedule, count, table, queue)


def look(url: str, place: Place) -> dict[str, Any]:
    """Everything that a region of an account shows, in which nothing is random."""

    def ask(service: str) -> Any:
        return client(url, service, place)

    now = control(url, "clock")["now"]
    metrics = sorted(ask("cloudwatch").list_metrics()["Metrics"], key=json.dumps)
    queries = [
        {"Id": f"m{n}", "MetricStat": {"Metric": metric, "Period": 60, "Stat": "Sum"}}
        for n, metric in enumerate(metrics)
    ]
    series = ask("cloudwatch").get_metric_data(MetricDataQueries=queries, StartTime=now - 3600, EndTime=now)
    pages = ask("logs").get_paginator("filter_log_events").paginate(logGroupName="/aws/lambda/shop")
    alias = ask("lambda").get_alias(FunctionName="shop", Name="live")
    history = ask("cloudwatch").describe_alarm_history()["AlarmHistoryItems"]
    return {
        "alias": {name: alias.get(name) for name in ("AliasArn", "FunctionVersion", "RoutingConfig", "Description")},
        "versions": [
            each["Version"] for each in ask("lambda").list_versions_by_function(FunctionName="shop")["Versions"]
        ],
        "reserved": ask("lambda").get_function_concurrency(FunctionName="shop").get("ReservedConcurrentExecutions"),
        "metrics": metrics,
        "series": [(each["Timestamps"], each["Values"]) for each in series["MetricDataResults"]],
        "logs": [event["message"] for page in pages for event in page["events"]],
        "alarms": [each["AlarmArn"] for each in ask("cloudwatch").describe_alarms()["MetricAlarms"]],
        "alarm history": [each["HistorySummary"] for each in history],
        "topics": ask("sns").list_topics()["Topics"],
        "parameters": [each["Name"] for each in ask("ssm").describe_parameters()["Parameters"]],
        "schedules": [each["Arn"] for each in ask("scheduler").list_schedules()["Schedules"]],
        "tables": ask("dynamodb").list_tables()["TableNames"],
        "queues": ask("sqs").list_queues().get("QueueUrls", []),
    }


def place_of(arn: str) -> Place:
    """The account and the region that an ARN names."""
    _, _, _, region, account, *_ = arn.split(":")
    return account, region


def begin(url: str, artifact: str) -> None:
    """The same function in two regions and two accounts, with traffic in each."""
    control(url, "reset", seed=7)
    control(url, "set", metrics_delay_s=0, logs_delay_s=0)
    for account, region in (HERE, THERE, ABROAD):
        fields = {"requests_per_minute": 30, "history_minutes": 1, "kind": "http", "account": account, "region": region}
        control(url, "function", name="shop", artifact=artifact, **fields)


def act(url: str, place: Place, package: bytes) -> None:
    """Everything that a runbook and its operators do, in one region of one account."""
    for each in ACTS:
        each(lambda service: client(url, service, place), package)
        control(url, "advance", seconds=60)


@pytest.mark.parametrize("acting", [HERE, ABROAD])
def test_whatever_is_done_in_one_place_leaves_the_others_as_they_were(
    sandbox_url: str, tmp_path: Path, acting: Place
) -> None:
    """Traffic goes on in all; each idle one shows, to the last digit, what it shows when nothing is done anywhere."""
    artifact = folder(tmp_path / "good", GOOD)
    package = own_functions.read_package(folder(tmp_path / "raises", RAISES))
    begin(sandbox_url, artifact)
    before = look(sandbox_url, acting)
    control(sandbox_url, "advance", seconds=60 * len(ACTS))
    untouched = {idle: look(sandbox_url, idle) for idle in (HERE, THERE, ABROAD) if idle != acting}
    for idle, shown in untouched.items():
        assert place_of(shown["alias"]["AliasArn"]) == idle

    begin(sandbox_url, artifact)
    assert look(sandbox_url, acting) == before
    act(sandbox_url, acting, package)
    after = look(sandbox_url, acting)
    for idle, shown in untouched.items():
        assert look(sandbox_url, idle) == shown, idle
    assert [name for name in after if after[name] == before[name]] == [], "each act is seen where it was done"
    assert {place_of(arn) for arn in after["alarms"] + after["schedules"]} == {acting}
    assert after["alias"]["Description"] == "by schedule"


def test_requests_of_two_places_are_drawn_apart(sandbox_url: str, tmp_path: Path) -> None:
    """The same seed gives each function requests of its own."""
    begin(sandbox_url, folder(tmp_path / "good", GOOD))
    control(sandbox_url, "advance", seconds=600)
    here, there, abroad = (set(look(sandbox_url, each)["logs"]) for each in (HERE, THERE, ABROAD))
    for one, other in ((here, there), (here, abroad), (there, abroad)):
        assert one and not one & {line for line in other if line.startswith("REPORT")}


def test_a_function_of_another_region_is_not_reached(sandbox_url: str, tmp_path: Path) -> None:
    """Neither by name nor by ARN.

    Source: Lambda's own words in a ResourceNotFoundException.
    """
    control(sandbox_url, "reset", seed=7)
    artifact = folder(tmp_path / "good", GOOD)
    fields = {"requests_per_minute": 30, "history_minutes": 0, "region": THERE[1]}
    (found,) = control(sandbox_url, "function", name="shop", artifact=artifact, **fields)["functions"]
    assert (found["account"], found["region"]) == THERE
    lam = client(sandbox_url, "lambda", HERE)
    assert lam.list_functions()["Functions"] == []
    for name in ("shop", f"arn:aws:lambda:{THERE[1]}:{ACCOUNT}:function:shop"):
        with pytest.raises(lam.exceptions.ResourceNotFoundException):
            lam.get_function(FunctionName=name)


def test_conditions_hold_in_every_region_also_in_one_that_begins_later(sandbox_url: str, tmp_path: Path) -> None:
    """What is set once is as late, or as broken, everywhere."""
    control(sandbox_url, "reset", seed=7)
    control(sandbox_url, "set", outage="empty", metrics_delay_s=0)
    artifact = folder(tmp_path / "good", GOOD)
    for account, region in (HERE, THERE):
        fields = {"requests_per_minute": 30, "history_minutes": 3, "account": account, "region": region}
        control(sandbox_url, "function", name="shop", artifact=artifact, **fields)

    def invocations(place: Place) -> float:
        dimensions = {"FunctionName": "shop"}
        return sum(minutes(sandbox_url, "Invocations", "AWS/Lambda", "Sum", place, last_s=600, **dimensions))

    assert [invocations(place) for place in (HERE, THERE)] == [0, 0]
    control(sandbox_url, "set", outage=None)
    assert min(invocations(place) for place in (HERE, THERE)) > 0
    control(sandbox_url, "set", function="shop", region=THERE[1], requests_per_minute=0)
    rates = [each["requests_per_minute"] for each in control(sandbox_url, "status")["functions"]]
    assert rates == [30, 0]
