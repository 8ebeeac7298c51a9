"""The alarms on the function: a second line, beside the judge.

Knows which alarms an environment should have, and how they differ from those that it has. Never decides a rollout: an
alarm that burns is told, and a rollout under it is allowed, since it may be the fix.

Source: the deployment guide, 'Watching': error rate > 1 %, duration p99 > 6 s, DynamoDB throttled requests > 0, safety
escalations > 1 per hour. What the judge counts as a failure, the alarm counts, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.settings import Settings

MINUTE_S, HOUR_S = 60, 3600
FEWEST_REQUESTS = 20
"""Below this many requests a minute an error rate says nothing: one failure of one request is not an outage."""

TEST = "TEST of the alarm's wiring by Buddy Ops: nothing is wrong."
PROOF_POLL, PROOF_POLLS = timedelta(seconds=5), 12


@dataclass(frozen=True)
class Alarm:
    """An alarm as CloudWatch holds it. ``state`` is 'OK', 'ALARM' or 'INSUFFICIENT_DATA'."""

    name: str
    state: str
    reason: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class AlarmPlan(Plan):
    """Alarms to write: those that are missing, and those that differ from what they should be; and those to set off."""

    wanted: tuple[dict[str, Any], ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """Whether an alarm's test reached its topic, and what was seen."""

    alarm: str
    proved: bool
    says: str

    def __str__(self) -> str:
        return f"{self.alarm}: {self.says}"


def wanted_alarms(target: Target) -> tuple[dict[str, Any], ...]:
    """The alarms that the environment should have, as PutMetricAlarm takes them. Pure but for the target's names."""
    settings = target.settings
    name = settings.function
    alias = [{"Name": "FunctionName", "Value": name}, {"Name": "Resource", "Value": target.resource}]
    shared: dict[str, Any] = {
        "ComparisonOperator": "GreaterThanThreshold",
        "ActionsEnabled": True,
        "AlarmActions": [settings.alarms.topic_arn] if settings.alarms.topic_arn else [],
        "TreatMissingData": "notBreaching",
    }
    health = settings.health
    # A request that fails and that Buddy counts, too, counts twice here: this may ring a little early, never late. In a
    # minute in which one of them has no point, the sum takes 0 for it.
    buddys = [_stat(f"failed{i}", each.namespace, each.name, alias) for i, each in enumerate(settings.failure_metrics)]
    failed = " + ".join(("err", *(each["Id"] for each in buddys)))
    rate = f"IF(inv >= {FEWEST_REQUESTS}, 100 * ({failed}) / inv, 0)"
    counted = " or ".join(each.name for each in settings.failure_metrics)
    found = [
        {
            "AlarmName": f"{name}-error-rate",
            "AlarmDescription": f"More than {100 * health.error_rate:g} % of requests to {target.resource} fail"
            + (f", or are counted as {counted}." if counted else "."),
            "Metrics": [
                _stat("inv", "AWS/Lambda", "Invocations", alias),
                _stat("err", "AWS/Lambda", "Errors", alias),
                *buddys,
                {"Id": "rate", "Expression": rate, "Label": "error rate, %", "ReturnData": True},
            ],
            "Threshold": 100 * health.error_rate,
            "EvaluationPeriods": 3,
            "DatapointsToAlarm": 2,
        },
        {
            "AlarmName": f"{name}-latency-p99",
            "AlarmDescription": f"One request in a hundred to {target.resource} takes over {health.latency_ms} ms.",
            **_metric("AWS/Lambda", "Duration", alias, MINUTE_S, "p99"),
            # 'ignore' would want 1,000 requests a minute for a p99, and never fire below.
            "EvaluateLowSampleCountPercentile": "evaluate",
            "Threshold": float(health.latency_ms),
            "EvaluationPeriods": 3,
            "DatapointsToAlarm": 2,
        },
        {
            "AlarmName": f"{name}-safety-escalations",
            "AlarmDescription": "More than one safety escalation within an hour.",
            **_metric("Buddy", "SafetyEscalations", alias, HOUR_S, "Sum"),
            "Threshold": 1.0,
            "EvaluationPeriods": 1,
            "DatapointsToAlarm": 1,
        },
        *(_throttled_table(name, table) for table in watched_tables(settings)),
    ]
    return tuple({**shared, **each} for each in found)


def watched_tables(settings: Settings) -> tuple[str, ...]:
    """The tables whose throttled requests ring: those that ``alarms.tables`` names, else those the function writes."""
    return settings.alarms.tables or tuple(table.name for table in settings.tables)


def read_alarms(target: Target) -> tuple[Alarm, ...]:
    """The alarms whose names begin with the function's. AWS: cloudwatch:DescribeAlarms, every page, reads only."""
    pages = target.client("cloudwatch").get_paginator("describe_alarms")
    return tuple(
        Alarm(alarm["AlarmName"], alarm["StateValue"], alarm.get("StateReason", ""), dict(alarm))
        for page in pages.paginate(AlarmNamePrefix=target.settings.function)
        for alarm in page["MetricAlarms"]
    )


def alarms_in_alarm(target: Target) -> tuple[Alarm, ...]:
    """Those that are in ALARM now."""
    return tuple(alarm for alarm in read_alarms(target) if alarm.state == "ALARM")


def plan_alarms(target: Target, test: str = "") -> AlarmPlan:
    """What it takes to have the alarms as they should be; an empty plan where they are.

    Args:
        test: an alarm to set off as a test, by its name, or 'all'. It tells whoever is on call, so it is asked for.

    AWS: cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``invalid-parameters``: no such alarm.
    """
    should = tuple(each["AlarmName"] for each in wanted_alarms(target))
    if test and test not in (*should, "all"):
        raise InvalidInput(
            "invalid-parameters",
            f"test_alarm: there is no alarm {test!r}.",
            next=f"Choose 'all', or one of: {', '.join(should)}.",
        )
    tests = should if test == "all" else (test,) * bool(test)
    there = {alarm.name: alarm.fields for alarm in read_alarms(target)}
    changes = tuple((each, differences(each, there.get(each["AlarmName"]))) for each in wanted_alarms(target))
    needed = tuple((each, how) for each, how in changes if how)
    return AlarmPlan(
        title=f"Write {len(needed)} of {len(changes)} alarms of {target.settings.function}",
        now=tuple(f"{each['AlarmName']}: {'; '.join(how) or 'as it should be'}" for each, how in changes),
        then=(
            *(f"{each['AlarmName']}: {each['AlarmDescription']}" for each, _ in needed),
            *(f"{name} goes off as a test, and whoever it tells reads TEST" for name in tests),
        )
        or ("nothing changes",),
        calls=(
            *(f"cloudwatch:PutMetricAlarm {each['AlarmName']}" for each, _ in needed),
            *(f"cloudwatch:SetAlarmState {name}" for name in tests),
        ),
        undo=("an alarm that was not there is deleted in the console; one that differed is written anew",),
        reasons=() if target.settings.alarms.topic_arn else ("no topic is configured: these alarms would tell nobody",),
        covers={"action": "alarms", "environment": target.environment, "wanted": [each for each, _ in needed]}
        | ({"tests": list(tests)} if tests else {}),
        approvals=target.settings.rollout.approvals,
        demand_hash=False,
        wanted=tuple(each for each, _ in needed),
        tests=tests,
    )


def write_alarms(target: Target, plan: AlarmPlan, approval: Approval) -> tuple[str, ...]:
    """Write them; the names written. Writing an alarm keeps its state. AWS: cloudwatch:PutMetricAlarm, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan)
    for each in () if target.dry_run else plan.wanted:
        target.client("cloudwatch").put_metric_alarm(**each)
    return tuple(each["AlarmName"] for each in plan.wanted)


def differences(should: dict[str, Any], there: dict[str, Any] | None) -> list[str]:
    """How an alarm differs from what it should be, a phrase each."""
    if there is None:
        return ["missing"]
    found = []
    for key, value in should.items():
        have = there.get(key)
        same = _plain(have) == _plain(value) or (not have and not value)
        if not same:
            found.append(f"{key} is {have!r}" if not isinstance(value, list) else f"{key} differs")
    return found


async def prove_alarms(
    target: Target, plan: AlarmPlan, approval: Approval, watch: Callable[[str], None] = lambda _: None
) -> tuple[Wiring, ...]:
    """Set the plan's alarms off as a test, and see each tell its topic; the next evaluation sets the state right.

    Args:
        watch: hears of each alarm that goes off.

    AWS: cloudwatch:SetAlarmState, writes the state for a minute at most; cloudwatch:DescribeAlarms,
    DescribeAlarmHistory, sns:ListSubscriptionsByTopic, reads.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan)
    states = {alarm.name: alarm.state for alarm in read_alarms(target)}
    began = target.clock.now()
    found = []
    for name in () if target.dry_run else plan.tests:
        if states.get(name) == "ALARM":
            found.append(Wiring(name, False, "it burns now, so that a test would say nothing"))
            continue
        watch(f"{name} goes off: {len(found) + 1} of {len(plan.tests)}, up to a minute each")
        target.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason=TEST)
        told = await _delivered(target, name, began)
        found.append(Wiring(name, told.startswith("Success"), told or "it told nobody within a minute"))
    heard = confirmed_subscribers(target) if found else ""
    wirings = tuple(each if heard else Wiring(each.alarm, False, f"{each.says}; nobody listens") for each in found)
    for each in wirings:
        target.journal.append("alarm-tested", alarm=each.alarm, proved=each.proved, says=each.says)
    return wirings


def raise_for_unproven(wirings: Sequence[Wiring]) -> None:
    """The last cell of operations/alarms: an error where a test did not reach anybody.

    Raises:
        BuddyError: ``alarm-silent``.
    """
    silent = [str(each) for each in wirings if not each.proved]
    if silent:
        raise BuddyError(
            "alarm-silent",
            f"{len(silent)} of {len(wirings)} tested alarms did not prove that they reach anybody:\n"
            + "\n".join(f"  - {each}" for each in silent),
            now="The alarms are written; the next evaluation sets a tested alarm's state right.",
            next="See alarms.topic_arn in the environment's file, and the topic's confirmed subscriptions.",
        )


def confirmed_subscribers(target: Target) -> str:
    """Who is subscribed to the alarms' topic, and confirmed it: 'sqs, email'; '' where nobody is.

    AWS: sns:ListSubscriptionsByTopic, every page, reads only.
    """
    topic = target.settings.alarms.topic_arn
    if topic is None:
        return ""
    pages = target.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
    every = [each for page in pages for each in page["Subscriptions"]]
    return ", ".join(each["Protocol"] for each in every if each["SubscriptionArn"].startswith("arn:"))


async def _delivered(target: Target, name: str, since: datetime) -> str:
    """What CloudWatch noted of the alarm's action: it says itself whether it could reach the topic."""
    cloudwatch, until = target.client("cloudwatch"), since + timedelta(hours=1)
    for _ in range(PROOF_POLLS):
        reply = cloudwatch.describe_alarm_history(
            AlarmName=name, HistoryItemType="Action", StartDate=since, EndDate=until
        )
        items = reply["AlarmHistoryItems"]
        if items:
            return str(items[0]["HistorySummary"])
        await target.clock.wait(target.clock.now() + PROOF_POLL)
    return ""


def _throttled_table(function: str, table: str) -> dict[str, Any]:
    """Throttled requests of a table. FILL: alarms on AWS/DynamoDB metrics alone ignore missing data and would stick."""
    own = [{"Name": "TableName", "Value": table}]
    return {
        "AlarmName": f"{function}-throttled-{table}",
        "AlarmDescription": f"DynamoDB throttles requests to {table}.",
        "Metrics": [
            _stat("reads", "AWS/DynamoDB", "ReadThrottleEvents", own),
            _stat("writes", "AWS/DynamoDB", "WriteThrottleEvents", own),
            {"Id": "throttled", "Expression": "FILL(reads, 0) + FILL(writes, 0)", "ReturnData": True},
        ],
        "Threshold": 0.0,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 1,
    }


def _metric(namespace: str, name: str, dimensions: list[dict[str, str]], period_s: int, stat: str) -> dict[str, Any]:
    kind = "ExtendedStatistic" if stat.startswith("p") else "Statistic"
    return {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions, "Period": period_s, kind: stat}


def _stat(id: str, namespace: str, name: str, dimensions: list[dict[str, str]]) -> dict[str, Any]:
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions}
    return {"Id": id, "MetricStat": {"Metric": metric, "Period": MINUTE_S, "Stat": "Sum"}, "ReturnData": False}


def _plain(value: Any) -> Any:
    """A value without the order that AWS does not keep."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_plain(each) for each in value), key=str)
    return value
