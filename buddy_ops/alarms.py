"""The alarms on the function: a second line, beside the judge.

Knows which alarms an environment should have, and how they differ from those that it has. Never decides a rollout: an
alarm that burns is told, and a rollout under it is allowed, since it may be the fix.

Source: the deployment guide, 'Watching': error rate > 1 %, duration p99 > 6 s, DynamoDB throttled requests > 0, safety
escalations > 1 per hour.
"""

from dataclasses import dataclass
from typing import Any

from buddy_ops.plan import Approval, Plan
from buddy_ops.target import Target, pages

MINUTE_S, HOUR_S = 60, 3600
FEWEST_REQUESTS = 20
"""Below this many requests a minute an error rate says nothing: one failure of one request is not an outage."""


@dataclass(frozen=True)
class Alarm:
    """An alarm as CloudWatch holds it. ``state`` is 'OK', 'ALARM' or 'INSUFFICIENT_DATA'."""

    name: str
    state: str
    reason: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class AlarmPlan(Plan):
    """Alarms to write: those that are missing, and those that differ from what they should be."""

    wanted: tuple[dict[str, Any], ...]


def wanted(target: Target) -> tuple[dict[str, Any], ...]:
    """The alarms that the environment should have, as PutMetricAlarm takes them. Pure but for the target's names."""
    settings = target.settings
    name = settings.function
    alias = [{"Name": "FunctionName", "Value": name}, {"Name": "Resource", "Value": target.resource}]
    shared: dict[str, Any] = {
        "ComparisonOperator": "GreaterThanThreshold",
        "AlarmActions": [settings.alarms.topic_arn] if settings.alarms.topic_arn else [],
        "TreatMissingData": "notBreaching",
    }
    health = settings.health
    rate = f"IF(inv >= {FEWEST_REQUESTS}, 100 * err / inv, 0)"
    found = [
        {
            "AlarmName": f"{name}-error-rate",
            "AlarmDescription": f"More than {100 * health.error_rate:g} % of requests to {target.resource} fail.",
            "Metrics": [
                _stat("inv", "AWS/Lambda", "Invocations", alias),
                _stat("err", "AWS/Lambda", "Errors", alias),
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
        *(_throttled_table(name, table) for table in settings.alarms.tables),
    ]
    return tuple({**shared, **each} for each in found)


def read(target: Target) -> tuple[Alarm, ...]:
    """The alarms whose names begin with the function's. AWS: cloudwatch:DescribeAlarms, every page, reads only."""
    found = pages(target, "cloudwatch", "describe_alarms", AlarmNamePrefix=target.settings.function)
    return tuple(
        Alarm(each["AlarmName"], each["StateValue"], each.get("StateReason", ""), each)
        for page in found
        for each in page["MetricAlarms"]
    )


def burning(target: Target) -> tuple[Alarm, ...]:
    """Those that are in ALARM now."""
    return tuple(alarm for alarm in read(target) if alarm.state == "ALARM")


def plan(target: Target) -> AlarmPlan:
    """What it takes to have the alarms as they should be; an empty plan where they are. AWS: DescribeAlarms, reads."""
    there = {alarm.name: alarm.fields for alarm in read(target)}
    changes = tuple((each, differences(each, there.get(each["AlarmName"]))) for each in wanted(target))
    needed = tuple((each, how) for each, how in changes if how)
    return AlarmPlan(
        title=f"Write {len(needed)} of {len(changes)} alarms of {target.settings.function}",
        now=tuple(f"{each['AlarmName']}: {'; '.join(how) or 'as it should be'}" for each, how in changes),
        then=tuple(f"{each['AlarmName']}: {each['AlarmDescription']}" for each, _ in needed) or ("nothing changes",),
        calls=tuple(f"cloudwatch:PutMetricAlarm {each['AlarmName']}" for each, _ in needed),
        undo=("an alarm that was not there is deleted in the console; one that differed is written anew",),
        reasons=() if target.settings.alarms.topic_arn else ("no topic is configured: these alarms would tell nobody",),
        covers={"action": "alarms", "environment": target.environment, "wanted": [each for each, _ in needed]},
        approvals=target.settings.rollout.approvals,
        demand_hash=False,
        wanted=tuple(each for each, _ in needed),
    )


def run(target: Target, plan: AlarmPlan, approval: Approval) -> tuple[str, ...]:
    """Write them; the names written. Writing an alarm keeps its state. AWS: cloudwatch:PutMetricAlarm, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan)
    for each in () if target.dry_run else plan.wanted:
        target.call("cloudwatch", "put_metric_alarm", **each)
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


def test(target: Target, name: str) -> None:
    """Prove an alarm's wiring by a notification that says that it is a test; the next evaluation sets the state right.

    AWS: cloudwatch:SetAlarmState, writes the state for a minute at most.
    """
    reason = "TEST of the alarm's wiring by Buddy Ops: nothing is wrong."
    target.call("cloudwatch", "set_alarm_state", AlarmName=name, StateValue="ALARM", StateReason=reason)


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
