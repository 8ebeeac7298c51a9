"""The CloudWatch alarms on the function: a second line of defence, beside the judge.

Defines which alarms an environment should have, and compares them with those that it has. Never decides a rollout: an
alarm in ALARM is reported, and a rollout under it is allowed, since it may be the fix.

Source: the deployment guide, 'Watching': error rate > 1 %, duration p99 > 6 s, DynamoDB throttled requests > 0. What
the judge counts as a failure, the alarm counts, too.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from buddy_ops.aws.errors import parse_member
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.settings import ALIAS_DIMENSIONS, DEFAULT_ALIAS, CustomAlarm, Settings
from buddy_ops.core.text import count, exact_percent

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import DimensionTypeDef

AlarmFields = dict[str, Any]
"""An alarm, or a part of one, as PutMetricAlarm takes it."""

Dimensions = list["DimensionTypeDef"]

MINUTE_S = 60
RATE_WINDOW_S = 900
"""The error rate is taken over the latest 15 minutes, at every minute. At night, a minute holds too few requests."""

FEWEST_FAILURES = 4
"""Fewer failures within the window say nothing: one failure of one request is not an outage. A good version that fails
0.2 % of its requests has so many in 15 minutes at most in one window of 300, whatever its traffic."""

TEST = "TEST of the alarm's wiring by Buddy Ops: nothing is wrong."
PROOF_POLL = timedelta(seconds=5)
PROOF_POLLS = 12

SHARED: AlarmFields = {
    "ComparisonOperator": "GreaterThanThreshold",
    "ActionsEnabled": True,
    "TreatMissingData": "notBreaching",
}
"""What all alarms have in common."""


@dataclass(frozen=True)
class Alarm:
    """An alarm as CloudWatch holds it. ``state`` is 'OK', 'ALARM' or 'INSUFFICIENT_DATA'."""

    name: str
    state: str
    reason: str
    fields: AlarmFields


@dataclass(frozen=True)
class StateChange:
    """A change of an alarm's state, as its history has it. States are those of ``Alarm``."""

    at: datetime
    alarm: str
    before: str
    state: str
    reason: str


@dataclass(frozen=True)
class AlarmPlan(Plan):
    """Alarms to write (missing, or not as defined), and names of alarms to trigger as a test."""

    wanted: tuple[AlarmFields, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """Whether an alarm's test reached a confirmed subscriber, and what was seen."""

    alarm: str
    proved: bool
    says: str

    def __str__(self) -> str:
        return f"{self.alarm}: {self.says}"


def name_prefix(settings: Settings) -> str:
    """What the names of an environment's alarms begin with.

    Environments that are other aliases of one function have alarms of their own: no function's name has a colon.
    """
    return _prefix(settings.function, settings.alias)


def _prefix(function: str, alias: str) -> str:
    return f"{function}-" if alias == DEFAULT_ALIAS else f"{function}:{alias}-"


def wanted_alarms(target: Target) -> tuple[AlarmFields, ...]:
    """The alarms that the environment should have. Pure but for the target's names."""
    settings = target.settings
    prefix = name_prefix(settings)
    alias = target.fill(ALIAS_DIMENSIONS)
    bound_ms = settings.health.latency_ms
    topic = settings.alarms.topic_arn
    shared = {**SHARED, "AlarmActions": [topic] if topic else []}
    own = (
        _error_rate(target, alias),
        {
            "AlarmName": f"{prefix}latency-p99",
            "AlarmDescription": f"One request in a hundred to {target.resource} takes over {bound_ms} ms.",
            **_metric("AWS/Lambda", "Duration", alias),
            "Period": MINUTE_S,
            "ExtendedStatistic": "p99",
            # 'ignore' needs 1,000 requests a minute for a p99, and never fires below.
            "EvaluateLowSampleCountPercentile": "evaluate",
            "Threshold": float(bound_ms),
            "EvaluationPeriods": 3,
            "DatapointsToAlarm": 2,
        },
        *(_custom(target, alarm) for alarm in settings.alarms.custom),
    )
    throttled = (_throttled_table(prefix, table) for table in watched_tables(settings))
    return tuple({**shared, **fields} for fields in (*own, *throttled))


def _error_rate(target: Target, alias: Dimensions) -> AlarmFields:
    """Failed requests in percent: Lambda's errors, and what the environment's ``failure_metrics`` count.

    A request that fails in both counts twice here. So the alarm may fire a little early, never late. In a window in
    which one of them has no datapoint, the sum takes 0 for it.

    It counts failures, not requests: at 8 requests a minute, or at one in three minutes, an outage of all of them is an
    outage. The window slides by a minute, so at full traffic an outage fires after its first minute.
    """
    settings = target.settings
    queries = [
        _sum("inv", "AWS/Lambda", "Invocations", dimensions=alias, period_s=RATE_WINDOW_S),
        _sum("err", "AWS/Lambda", "Errors", dimensions=alias, period_s=RATE_WINDOW_S),
    ]
    names = ["err"]
    for index, metric in enumerate(settings.failure_metrics):
        # 'failed0' is a number of failures; 'counted0' the metric that an expression makes it of.
        own = f"failed{index}"
        names.append(own)
        id = f"counted{index}" if metric.expression else own
        dimensions = target.fill(metric.of_alias)
        query = _sum(id, metric.namespace, metric.name, dimensions=dimensions, period_s=RATE_WINDOW_S)
        query["MetricStat"]["Stat"] = metric.statistic
        queries.append(query)
        if metric.expression:
            expression = metric.expression.replace("{metric}", id)
            queries.append({"Id": own, "Expression": expression, "ReturnData": False})
    failed = " + ".join(names)
    limit = settings.health.error_rate
    description = f"More than {exact_percent(limit)} of requests to {target.resource} fail"
    if settings.failure_metrics:
        description += f", or are counted as {' or '.join(metric.name for metric in settings.failure_metrics)}"
    return {
        "AlarmName": f"{name_prefix(settings)}error-rate",
        "AlarmDescription": f"{description}.",
        "Metrics": [
            *queries,
            {
                "Id": "rate",
                "Expression": f"IF({failed} >= {FEWEST_FAILURES}, 100 * ({failed}) / inv, 0)",
                "Label": "error rate, %",
                "ReturnData": True,
            },
        ],
        "Threshold": 100 * limit,
        "EvaluationPeriods": 1,
        "DatapointsToAlarm": 1,
    }


def _custom(target: Target, alarm: CustomAlarm) -> AlarmFields:
    """An alarm of the environment's own."""
    dimensions = alarm.dimensions or ALIAS_DIMENSIONS
    statistic = "ExtendedStatistic" if alarm.statistic.startswith("p") else "Statistic"
    return {
        "AlarmName": f"{name_prefix(target.settings)}{alarm.name}",
        "AlarmDescription": alarm.description,
        **_metric(alarm.namespace, alarm.metric, target.fill(dimensions)),
        "Period": alarm.period_s,
        statistic: alarm.statistic,
        "ComparisonOperator": alarm.comparison,
        "TreatMissingData": alarm.missing_data,
        "Threshold": alarm.threshold,
        "EvaluationPeriods": alarm.periods,
        "DatapointsToAlarm": alarm.datapoints,
    }


def _throttled_table(prefix: str, table: str) -> AlarmFields:
    """Throttled requests of a table. FILL: alarms on AWS/DynamoDB metrics alone ignore missing data and would stick."""
    own: Dimensions = [{"Name": "TableName", "Value": table}]
    return {
        "AlarmName": f"{prefix}throttled-{table}",
        "AlarmDescription": f"DynamoDB throttles requests to {table}.",
        "Metrics": [
            _sum("reads", "AWS/DynamoDB", "ReadThrottleEvents", dimensions=own),
            _sum("writes", "AWS/DynamoDB", "WriteThrottleEvents", dimensions=own),
            {"Id": "throttled", "Expression": "FILL(reads, 0) + FILL(writes, 0)", "ReturnData": True},
        ],
        "Threshold": 0.0,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 1,
    }


def _metric(namespace: str, name: str, dimensions: Dimensions) -> AlarmFields:
    return {"Namespace": namespace, "MetricName": name, "Dimensions": dimensions}


def _sum(id: str, namespace: str, name: str, *, dimensions: Dimensions, period_s: int = MINUTE_S) -> AlarmFields:
    stat = {"Metric": _metric(namespace, name, dimensions), "Period": period_s, "Stat": "Sum"}
    return {"Id": id, "MetricStat": stat, "ReturnData": False}


def watched_tables(settings: Settings) -> tuple[str, ...]:
    """The tables with an alarm on throttled requests: ``alarms.tables``, or else those that the function writes."""
    return settings.alarms.tables or tuple(table.name for table in settings.tables)


def read_alarms(target: Target) -> tuple[Alarm, ...]:
    """The alarms whose names begin with the function's, without those of other functions and aliases.

    AWS: cloudwatch:DescribeAlarms, every page, reads only.
    """
    return own_alarms(target, _list_alarms(target, target.settings.function))


def list_alarms(target: Target) -> tuple[Alarm, ...]:
    """Every metric alarm of the account in the region.

    AWS: cloudwatch:DescribeAlarms, every page, reads only.
    """
    return tuple(_list_alarms(target, ""))


def own_alarms(target: Target, there: Iterable[Alarm]) -> tuple[Alarm, ...]:
    """Those of some alarms that are the function's and the alias's."""
    begins = target.settings.function
    return tuple(alarm for alarm in there if alarm.name.startswith(begins) and _is_about(target, alarm))


def own_names(target: Target) -> Callable[[str], bool]:
    """Whether an alarm of this name is this environment's; of one that was deleted the name itself decides.

    AWS: cloudwatch:DescribeAlarms, every page, once, reads only.
    """
    there = {alarm.name: alarm for alarm in _list_alarms(target, target.settings.function)}
    return lambda name: _is_about(target, there.get(name, Alarm(name, "", "", {})))


def _list_alarms(target: Target, begins: str) -> Iterator[Alarm]:
    """The alarms whose names begin so; empty: all."""
    pages = target.client("cloudwatch").get_paginator("describe_alarms")
    # CloudWatch takes no prefix of length 0. Source: API reference, DescribeAlarms.
    found = pages.paginate(AlarmNamePrefix=begins) if begins else pages.paginate()
    for page in found:
        for alarm in page["MetricAlarms"]:
            yield Alarm(alarm["AlarmName"], alarm["StateValue"], alarm.get("StateReason", ""), dict(alarm))


def _is_about(target: Target, alarm: Alarm) -> bool:
    """Whether an alarm's metrics are the function's and the alias's; one that names neither is taken by its name."""
    queries = alarm.fields.get("Metrics") or [{"MetricStat": {"Metric": alarm.fields}}]
    dimensions = [
        (dimension["Name"], dimension["Value"])
        for query in queries
        for dimension in query.get("MetricStat", {}).get("Metric", {}).get("Dimensions", ())
    ]
    functions = {value for name, value in dimensions if name == "FunctionName"}
    resources = {value for name, value in dimensions if name == "Resource"}
    if functions:
        # One without an alias is about all of the function's requests.
        return target.settings.function in functions and (not resources or target.resource in resources)
    prefixes = {_prefix(named.function, named.alias) for named in project.named_aliases().values()} | {
        name_prefix(target.settings)
    }
    # A function's name may begin as another's.
    matching = [prefix for prefix in prefixes if alarm.name.startswith(prefix)]
    return max(matching, key=len, default="") == name_prefix(target.settings)


def alarms_in_alarm(target: Target) -> tuple[Alarm, ...]:
    """Those that are in ALARM now."""
    return tuple(alarm for alarm in read_alarms(target) if alarm.state == "ALARM")


def read_state_changes(target: Target, since: datetime, until: datetime, alarm: str = "") -> Iterator[StateChange]:
    """The changes of an alarm's state, the oldest first; empty: of every alarm of the account.

    AWS: cloudwatch:DescribeAlarmHistory, every page, reads only.
    """
    pages = target.client("cloudwatch").get_paginator("describe_alarm_history")
    asked: dict[str, Any] = {"HistoryItemType": "StateUpdate", "ScanBy": "TimestampAscending"}
    if alarm:
        asked["AlarmName"] = alarm
    for page in pages.paginate(StartDate=since, EndDate=until, **asked):
        for item in page["AlarmHistoryItems"]:
            change = parse_json(item["HistoryData"])
            state = change["newState"]
            yield StateChange(
                at=item["Timestamp"],
                alarm=item["AlarmName"],
                before=change.get("oldState", {}).get("stateValue", ""),
                state=state["stateValue"],
                reason=str(state.get("stateReason", "")),
            )


def read_recent_changes(target: Target, since: datetime) -> list[StateChange]:
    """The changes of the function's own alarms since then, the oldest first.

    AWS: cloudwatch:DescribeAlarms; DescribeAlarmHistory of each alarm whose state changed since then. Reads only.
    """
    now = target.clock.now()
    changed = [alarm.name for alarm in read_alarms(target) if alarm.fields["StateUpdatedTimestamp"] >= since]
    changes = [change for name in changed for change in read_state_changes(target, since, now, name)]
    return sorted(changes, key=lambda change: change.at)


def plan_alarms(target: Target, test: str = "") -> AlarmPlan:
    """What to write so that the alarms are as defined; an empty plan where they are.

    Args:
        test: an alarm to trigger as a test, by its name, or 'all'. It notifies on-call, so it must be asked for.

    AWS: cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``invalid-parameters``: no such alarm.
    """
    wanted = {fields["AlarmName"]: fields for fields in wanted_alarms(target)}
    tests = _tests(test, tuple(wanted))
    present = {alarm.name: alarm.fields for alarm in read_alarms(target)}
    found = {name: differences(fields, present.get(name)) for name, fields in wanted.items()}
    needed = tuple(wanted[name] for name, how in found.items() if how)
    names = [fields["AlarmName"] for fields in needed]
    effects = [f"{fields['AlarmName']}: {fields['AlarmDescription']}" for fields in needed]
    effects += [f"{name} enters ALARM as a test, and its subscribers receive a message marked TEST" for name in tests]
    # The alarms that are to be written: one that is changed meanwhile makes it another plan.
    covers: dict[str, Any] = {
        "action": "alarms",
        "environment": target.environment,
        "region": target.region,
        "wanted": list(needed),
    }
    if tests:
        covers["tests"] = list(tests)
    unheard = "no topic is configured (alarms.topic_arn), so these alarms notify no one"
    return AlarmPlan(
        title=f"Write {len(needed)} of {count(len(wanted), 'alarm')} of {target.settings.function}",
        now=tuple(f"{name}: {'; '.join(how) or 'as defined'}" for name, how in found.items()),
        then=tuple(effects) or ("nothing changes",),
        calls=(
            *(f"cloudwatch:PutMetricAlarm {name}" for name in names),
            *(f"cloudwatch:SetAlarmState {name}" for name in tests),
        ),
        undo=("delete a created alarm in the CloudWatch console; set a changed one back manually",),
        reasons=() if target.settings.alarms.topic_arn else (unheard,),
        covers=covers,
        approvals=target.settings.rollout.approvals,
        demand_hash=False,
        made_at=target.clock.now(),
        valid_hours=target.settings.policy.approval_hours,
        wanted=needed,
        tests=tests,
    )


def _tests(test: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The alarms that ``test`` asks for."""
    if not test:
        return ()
    if test == "all":
        return names
    if test in names:
        return (test,)
    raise InvalidInput(
        "invalid-parameters",
        f"{parameter('test_alarm')}: there is no alarm {test!r}.",
        next=f"Choose 'all', or one of: {', '.join(names)}.",
    )


def write_alarms(target: Target, plan: AlarmPlan, approval: Approval) -> tuple[str, ...]:
    """Write them; the names written. Writing an alarm keeps its state. AWS: cloudwatch:PutMetricAlarm, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan, target.clock.now())
    if not target.dry_run:
        for fields in plan.wanted:
            # It replaces the whole alarm: what is not sent would be CloudWatch's default. Source: API reference.
            target.client("cloudwatch").put_metric_alarm(**fields)
    return tuple(fields["AlarmName"] for fields in plan.wanted)


def differences(wanted: AlarmFields, present: AlarmFields | None) -> list[str]:
    """How an alarm differs from its definition, a phrase each."""
    if present is None:
        return ["missing"]
    found = []
    for key, value in wanted.items():
        actual = present.get(key)
        # An empty list may be missing in CloudWatch's answer.
        if _unordered(actual) == _unordered(value) or (not actual and not value):
            continue
        found.append(f"{key} differs" if isinstance(value, list) else f"{key} is {actual!r}")
    return found


async def prove_alarms(
    target: Target, plan: AlarmPlan, approval: Approval, watch: Progress = no_progress
) -> tuple[Wiring, ...]:
    """Trigger the plan's test alarms, and check that each notifies its topic. The next evaluation resets the state.

    Args:
        watch: called with a line of progress for each alarm.

    AWS: cloudwatch:SetAlarmState, writes the state for a minute at most; cloudwatch:DescribeAlarms,
    DescribeAlarmHistory, sns:ListSubscriptionsByTopic, reads.

    Raises:
        Refused: ``approval-void``.
    """
    watch = target.side.watch(watch)
    approval.must_cover(plan, target.clock.now())
    if target.dry_run or not plan.tests:
        return ()
    firing = {alarm.name for alarm in alarms_in_alarm(target)}
    subscribers = confirmed_subscribers(target)
    began = target.clock.now()
    found = []
    for number, name in enumerate(plan.tests, start=1):
        # An action runs when the state changes: an alarm that is in ALARM already would show nothing.
        if name in firing:
            wiring = Wiring(name, False, "already in ALARM, so it was not tested")
        else:
            watch(f"Testing {name}: {number} of {len(plan.tests)}, up to a minute each")
            target.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason=TEST)
            wiring = await _wiring(target, name, began)
        if not subscribers:
            wiring = Wiring(name, False, f"{wiring.says}; the topic has no confirmed subscription")
        found.append(wiring)
        target.journal.append("alarm-tested", alarm=name, proved=wiring.proved, says=wiring.says)
    return tuple(found)


def raise_for_unproven(wirings: Sequence[Wiring]) -> None:
    """The last cell of operations/alarms: an error where a test did not reach a subscriber.

    Raises:
        BuddyError: ``alarm-silent``.
    """
    silent = [wiring for wiring in wirings if not wiring.proved]
    if silent:
        lines = "".join(f"\n  - {wiring}" for wiring in silent)
        raise BuddyError(
            "alarm-silent",
            f"{len(silent)} of {count(len(wirings), 'tested alarm')} did not reach a confirmed subscriber:{lines}",
            now="The alarms are written. The next evaluation resets a tested alarm's state.",
            next="Check alarms.topic_arn in parameters/<env>.yaml, and the topic's confirmed subscriptions.",
        )


def confirmed_subscribers(target: Target) -> str:
    """The protocols of the topic's confirmed subscriptions: 'sqs, email'; '' where there is none.

    AWS: sns:ListSubscriptionsByTopic, every page, reads only.
    """
    topic = target.settings.alarms.topic_arn
    if not topic:
        return ""
    pages = target.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
    every = [subscription for page in pages for subscription in page["Subscriptions"]]
    # An unconfirmed subscription has the word 'PendingConfirmation' in place of its ARN.
    return ", ".join(entry["Protocol"] for entry in every if entry["SubscriptionArn"].startswith("arn:"))


async def _wiring(target: Target, name: str, since: datetime) -> Wiring:
    """Wait until CloudWatch notes in the alarm's history whether its action was executed."""
    for _ in range(PROOF_POLLS):
        found = read_action(target, name, since)
        if found is not None:
            return found
        await target.clock.wait(target.clock.now() + PROOF_POLL)
    return unheard(name)


def read_action(target: Target, name: str, since: datetime) -> Wiring | None:
    """Whether an alarm's action was executed, by the alarm's history; None: nothing is noted yet.

    AWS: cloudwatch:DescribeAlarmHistory, reads only.
    """
    reply = target.client("cloudwatch").describe_alarm_history(
        AlarmName=name, HistoryItemType="Action", StartDate=since, EndDate=since + timedelta(hours=1)
    )
    for item in reply["AlarmHistoryItems"]:
        action = parse_member(item["HistoryData"], "cloudwatch:describe_alarm_history", target.region)
        failed = action.get("error") or action.get("actionState", "Succeeded") != "Succeeded"
        return Wiring(name, not failed, item["HistorySummary"])
    return None


def unheard(name: str) -> Wiring:
    """What is to be said of an alarm whose action nothing is noted of."""
    return Wiring(name, False, "no notification within a minute")


def _unordered(value: Any) -> Any:
    """A value without the order that AWS does not keep."""
    if isinstance(value, dict):
        return {key: _unordered(part) for key, part in value.items()}
    if isinstance(value, list):
        return sorted((_unordered(part) for part in value), key=str)
    return value
