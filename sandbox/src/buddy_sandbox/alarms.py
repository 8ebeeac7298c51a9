"""CloudWatch's alarms: which it accepts, when their state changes, and what it remembers of them.

Knows how CloudWatch evaluates alarms, missing data included. Never delivers a notification: a ``Transition`` says which
actions are due.
"""

import json
import math
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from buddy_sandbox.metric_math import MathError, Sheet, Stored
from buddy_sandbox.metrics_store import BASIC, MINUTE_S, Metric, MetricStore, UnknownStatistic, statistic
from buddy_sandbox.publication import Clock
from buddy_sandbox.wire import AwsError, Params

SPARE_PERIODS = 2
"""How many points more than it evaluates an alarm looks at. The user guide's examples look at 5 for 3."""
MAX_METRICS = 10
MAX_ACTIONS = 5
PAGE_ALARMS = 100
DAY_S = 86_400
ACTIONS = {"OK": "OKActions", "ALARM": "AlarmActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}
STATES = ("INSUFFICIENT_DATA", "ALARM", "OK")
TREATMENTS = ("missing", "notBreaching", "breaching", "ignore")
_LISTS: Params = {members: [] for members in ACTIONS.values()}
"""What DescribeAlarms shows empty rather than not at all."""

SIMPLE = ("Namespace", "MetricName", "Dimensions", "Period", "Unit", "Statistic", "ExtendedStatistic")
FOREIGN = ("ThresholdMetricId", "EvaluationCriteria", "EvaluationInterval", "WarmUpConfiguration")
BREACHES: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}


@dataclass(frozen=True)
class Transition:
    """A change of state. ``actions`` are the ARNs to notify; none while the alarm's actions are disabled."""

    alarm: str
    arn: str
    description: str
    old: str
    new: str
    reason: str
    at: float
    actions: tuple[str, ...]

    @property
    def message(self) -> str:
        """What CloudWatch publishes to a topic about it, but for the alarm's configuration (``Trigger``)."""
        _, _, _, region, account, *_ = self.arn.split(":")
        content = {
            "AlarmName": self.alarm,
            "AlarmDescription": self.description or None,
            "AWSAccountId": account,
            "NewStateValue": self.new,
            "NewStateReason": self.reason,
            "StateChangeTime": utc(self.at).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000",
            "Region": region,
            "AlarmArn": self.arn,
            "OldStateValue": self.old,
        }
        return json.dumps(content)


class Alarms:
    """CloudWatch's alarm operations, and the evaluation behind them.

    Attributes:
        alarms: as DescribeAlarms shows them, by name.
        history: as DescribeAlarmHistory shows it, oldest first.
        on_transition: hears of what SetAlarmState changes, at once. What ``evaluate`` changes, it returns.
    """

    def __init__(self, store: MetricStore, clock: Clock, arn_prefix: str) -> None:
        self.store = store
        self.clock = clock
        self.alarms: dict[str, Params] = {}
        self.history: list[Params] = []
        self.on_transition: Callable[[Transition], None] = lambda _: None
        self._arn_prefix = arn_prefix
        self._alarms_lock = threading.RLock()

    def put_metric_alarm(self, params: Params) -> None:
        name, now = params["AlarmName"], utc(self.clock.now())
        config = {"ActionsEnabled": True, **params, "AlarmConfigurationUpdatedTimestamp": now}
        check(config)
        config.pop("Tags", None)
        with self._alarms_lock:
            known = self.alarms.get(
                name, {"StateValue": "INSUFFICIENT_DATA", "StateReason": "Unchecked: Initial alarm creation"}
            )
            dates = dict.fromkeys(("StateUpdatedTimestamp", "StateTransitionedTimestamp"), now)
            state = {each: value for each, value in {**dates, **known}.items() if each.startswith("State")}
            done = "updated" if name in self.alarms else "created"
            self.alarms[name] = {**config, **state, "AlarmArn": self._arn_prefix + name}
            self._note(name, now, "ConfigurationUpdate", f'Alarm "{name}" {done}', {"type": done, "alarm": config})

    def delete_alarms(self, params: Params) -> None:
        if len(params["AlarmNames"]) > PAGE_ALARMS:
            raise invalid(f"The collection AlarmNames must not have a size greater than {PAGE_ALARMS}.")
        now = utc(self.clock.now())
        with self._alarms_lock:
            for name in params["AlarmNames"]:
                if self.alarms.pop(name, None):
                    self._note(name, now, "ConfigurationUpdate", f'Alarm "{name}" deleted', {"type": "deleted"})

    def describe_alarms(self, params: Params) -> Params:
        names, prefix, action = (
            params.get("AlarmNames"),
            params.get("AlarmNamePrefix", ""),
            params.get("ActionPrefix", ""),
        )
        if (names and prefix) or "ChildrenOfAlarmName" in params or "ParentsOfAlarmName" in params:
            raise invalid("AlarmNamePrefix excludes AlarmNames; the sandbox has no composite alarms.")
        with self._alarms_lock:
            found = [
                {**_LISTS, **({} if "Metrics" in alarm else {"Dimensions": []}), **alarm}
                for name, alarm in sorted(self.alarms.items())
                if (name in names if names else name.startswith(prefix))
                and params.get("StateValue") in (None, alarm["StateValue"])
                and (not action or any(arn.startswith(action) for arn in _arns(alarm)))
                and "MetricAlarm" in params.get("AlarmTypes", ["MetricAlarm"])
            ]
        return {"CompositeAlarms": [], **self._page(params, "MetricAlarms", found)}

    def describe_alarm_history(self, params: Params) -> Params:
        since = seconds(params["StartDate"]) if "StartDate" in params else -math.inf
        until = seconds(params["EndDate"]) if "EndDate" in params else math.inf
        found = [
            item
            for item in self.history
            if params.get("AlarmName") in (None, item["AlarmName"])
            and params.get("HistoryItemType") in (None, item["HistoryItemType"])
            and since <= seconds(item["Timestamp"]) <= until
        ]
        forward = params.get("ScanBy") == "TimestampAscending"
        return self._page(params, "AlarmHistoryItems", found if forward else found[::-1])

    def set_alarm_state(self, params: Params) -> None:
        if params["StateValue"] not in STATES:
            unknown = f"Value '{params['StateValue']}' at 'stateValue' failed to satisfy constraint"
            among = f"Member must satisfy enum value set: [{', '.join(STATES)}]"
            raise AwsError("ValidationError", f"1 validation error detected: {unknown}: {among}")
        with self._alarms_lock:
            alarm = self.alarms.get(params["AlarmName"])
            if alarm is None:
                raise AwsError("ResourceNotFound", "", status=404)
            state, reason = params["StateValue"], params["StateReason"]
            moved = self._move(alarm, self.clock.now(), state, reason, params.get("StateReasonData"))
        if moved:
            self.on_transition(moved)

    def enable_alarm_actions(self, params: Params, *, enabled: bool = True) -> None:
        with self._alarms_lock:
            for name in params["AlarmNames"]:
                self.alarms.get(name, {})["ActionsEnabled"] = enabled

    def disable_alarm_actions(self, params: Params) -> None:
        self.enable_alarm_actions(params, enabled=False)

    def acted(self, transition: Transition, action: str, failure: str | None = None) -> None:
        """Note in the history that an action was delivered, or why it was not."""
        summary = f"Failed to execute action {action}" if failure else f"Successfully executed action {action}"
        data = {"notificationResource": action, "error": failure}
        self._note(transition.alarm, utc(transition.at), "Action", summary, data)

    def evaluate(self, now: float) -> list[Transition]:
        """Look at every alarm's metrics, and say which changed state; the caller delivers the actions.

        Called once a minute. An alarm looks at whole, published periods; the newest ends with the last such minute.
        """
        changes = []
        with self._alarms_lock:
            for _, alarm in sorted(self.alarms.items()):
                periods = alarm["EvaluationPeriods"] + SPARE_PERIODS
                end = self.store.publication.horizon(now=now).until // MINUTE_S * MINUTE_S

                def read(stat: Mapping[str, Any], periods: int = periods, end: float = end) -> Stored:
                    start, metric = end - periods * stat["Period"], Metric.of(stat["Metric"])
                    where = (metric, stat["Stat"], start, periods, stat["Period"])
                    return Stored(start, stat["Period"], self.store.read(*where, unit=stat.get("Unit"), now=now))

                series = Sheet(queries(alarm), read).series(watched(alarm))[0]
                state = _state(alarm, series.values.tolist())
                if state not in (None, alarm["StateValue"]) and not _too_few(alarm, read):
                    changes.append(self._move(alarm, now, str(state), _reason(alarm, str(state), series)))
        return [change for change in changes if change]

    def _move(self, alarm: Params, now: float, state: str, reason: str, data: str | None = None) -> Transition | None:
        """Set an alarm's state; a transition if that is another than before."""
        old = {"stateValue": alarm["StateValue"], "stateReason": alarm["StateReason"]}
        alarm |= {
            "StateValue": state,
            "StateReason": reason,
            "StateReasonData": data,
            "StateUpdatedTimestamp": utc(now),
        }
        if state == old["stateValue"]:
            return None
        alarm["StateTransitionedTimestamp"] = utc(now)
        change = {"oldState": old, "newState": {"stateValue": state, "stateReason": reason}}
        summary = f"Alarm updated from {old['stateValue']} to {state}"
        self._note(alarm["AlarmName"], utc(now), "StateUpdate", summary, change)
        actions = tuple(alarm.get(ACTIONS[state], ())) if alarm["ActionsEnabled"] else ()
        names = alarm["AlarmName"], alarm["AlarmArn"], alarm.get("AlarmDescription", "")
        return Transition(*names, old["stateValue"], state, reason, now, actions)

    def _note(self, name: str, at: datetime, kind: str, summary: str, data: Mapping[str, Any]) -> None:
        item = {"AlarmName": name, "AlarmType": "MetricAlarm", "HistoryItemType": kind, "HistorySummary": summary}
        text = json.dumps({"version": "1.0", **data}, default=str)
        self.history.append({**item, "Timestamp": at, "HistoryData": text})

    def _page(self, params: Params, name: str, found: Sequence[Params]) -> Params:
        size = params.get("MaxRecords", PAGE_ALARMS)
        now, offset = opened(params, self.clock.now())
        more = closed(now, offset + size) if len(found) > offset + size else None
        return {name: found[offset : offset + size], "NextToken": more}


def verdict(points: Sequence[bool | None], needed: int, periods: int, missing: str) -> str | None:
    """The state that an evaluation range stands for; None: keep the present one.

    ``points`` say whether each breaches, the oldest first (None: missing); ``needed`` of ``periods`` make an alarm.

    Source: CloudWatch user guide, 'Configuring how CloudWatch alarms treat missing data'.
    """
    real = [point for point in points if point is not None][-periods:]
    breaching, short = real.count(True), periods - len(real)
    if short == 0 or False in real or missing in ("breaching", "notBreaching"):
        return "ALARM" if breaching + (short if missing == "breaching" else 0) >= needed else "OK"
    if breaching >= needed or missing == "ignore":
        return "ALARM" if breaching >= needed else None
    # Only breaching points, fewer than needed: an alarm all the same once the oldest of them is old enough.
    age = len(points) - points.index(True) if breaching else 0
    return "ALARM" if age >= needed else "INSUFFICIENT_DATA"


def queries(alarm: Mapping[str, Any]) -> list[Params]:
    """What an alarm watches, as metric queries."""
    if "Metrics" in alarm:
        return list(alarm["Metrics"])
    stat = {"Metric": alarm, "Period": alarm["Period"], "Stat": alarm.get("Statistic") or alarm["ExtendedStatistic"]}
    return [{"Id": "m1", "MetricStat": {**stat, **({"Unit": alarm["Unit"]} if "Unit" in alarm else {})}}]


def watched(alarm: Mapping[str, Any]) -> str:
    """The Id of the query whose result is compared with the threshold."""
    return str(next(query["Id"] for query in queries(alarm) if query.get("ReturnData", True)))


def check(alarm: Mapping[str, Any]) -> None:
    """Raises AwsError for an alarm that CloudWatch, or the sandbox, does not take."""
    periods, given = alarm["EvaluationPeriods"], [each for each in ("Statistic", "ExtendedStatistic") if each in alarm]
    low, percentile = alarm.get("EvaluateLowSampleCountPercentile"), alarm.get("ExtendedStatistic", "").startswith("p")
    single = len(given) == 1 and "Namespace" in alarm and "Period" in alarm
    rules = (
        (not any(each in alarm for each in FOREIGN), f"The sandbox evaluates none of {', '.join(FOREIGN)}"),
        ("WallClockWindow" not in alarm.get("EvaluationWindow", {}), "The sandbox has no wall clock window"),
        (("MetricName" in alarm) != ("Metrics" in alarm), "Specify either MetricName or Metrics"),
        ("Metrics" not in alarm or not any(each in alarm for each in SIMPLE), f"Metrics excludes {', '.join(SIMPLE)}"),
        ("Metrics" in alarm or single, "Namespace, Period and one of Statistic and ExtendedStatistic are required"),
        (all((alarm[each] in BASIC) == (each == "Statistic") for each in given), "This statistic is not supported"),
        (alarm.get("ComparisonOperator") in BREACHES, "The sandbox has no such ComparisonOperator"),
        ("Threshold" in alarm, "Threshold is required"),
        (1 <= alarm.get("DatapointsToAlarm", periods) <= periods, "DatapointsToAlarm is at most EvaluationPeriods"),
        (all(len(alarm.get(each, ())) <= MAX_ACTIONS for each in ACTIONS.values()), "Too many actions for a state"),
        (all(arn.startswith("arn:") for arn in _arns(alarm)), "Invalid arn syntax"),
        (alarm.get("TreatMissingData", "missing") in TREATMENTS, f"TreatMissingData is one of {', '.join(TREATMENTS)}"),
        (low is None or (percentile and low in ("evaluate", "ignore")), "EvaluateLowSampleCountPercentile is invalid"),
    )
    for holds, otherwise in rules:
        if not holds:
            raise invalid(otherwise)
    _check_queries(queries(alarm), periods)


def _check_queries(asked: Sequence[Params], periods: int) -> None:
    stats = [query["MetricStat"] for query in asked if "MetricStat" in query]
    if len(stats) > MAX_METRICS or sum(query.get("ReturnData", True) for query in asked) != 1:
        raise invalid(f"Metrics has exactly one element with ReturnData true, and at most {MAX_METRICS} metrics")
    for stat in stats:
        longest = DAY_S if stat["Period"] < 3600 else 7 * DAY_S
        if stat["Period"] % MINUTE_S or stat["Period"] * periods > longest:
            raise invalid("A period is a multiple of 60 s, and all of them together at most a day")
    try:
        for stat in stats:
            statistic(stat["Stat"])
        # A trial run, so that an expression that cannot be evaluated is refused now.
        tried = Sheet(asked, lambda stat: Stored(0.0, stat["Period"], np.zeros(1))).series(watched({"Metrics": asked}))
    except (UnknownStatistic, MathError) as error:
        raise invalid(f"Invalid metrics list: {error}") from None
    if len(tried) != 1:
        raise invalid("An alarm watches a single time series")


def _arns(alarm: Mapping[str, Any]) -> list[str]:
    return [arn for each in ACTIONS.values() for arn in alarm.get(each, ())]


def _state(alarm: Params, points: Sequence[float]) -> str | None:
    breaches, _ = BREACHES[alarm["ComparisonOperator"]]
    seen = [None if math.isnan(point) else breaches(point, alarm["Threshold"]) for point in points]
    spaces = [query["MetricStat"]["Metric"]["Namespace"] for query in queries(alarm) if "MetricStat" in query]
    # AWS: alarms on DynamoDB's metrics ignore missing data, whatever they are told.
    missing = "ignore" if "AWS/DynamoDB" in spaces else alarm.get("TreatMissingData", "missing")
    periods = int(alarm["EvaluationPeriods"])
    return verdict(seen, alarm.get("DatapointsToAlarm", periods), periods, missing)


def _too_few(alarm: Params, read: Callable[[Mapping[str, Any]], Stored]) -> bool:
    """Whether the alarm sits out periods with too few samples for its percentile, and there is one.

    Source: CloudWatch user guide, 'Percentile-based CloudWatch alarms and low data samples'.
    """
    if alarm.get("EvaluateLowSampleCountPercentile") != "ignore":
        return False
    share = float(alarm["ExtendedStatistic"].removeprefix("p")) / 100
    counts = read({**queries(alarm)[0]["MetricStat"], "Stat": "SampleCount"}).values
    evaluated = counts[~np.isnan(counts)][-alarm["EvaluationPeriods"] :]
    return bool((evaluated < 10 / max(min(share, 1 - share), 1e-9) - 1e-6).any())


def _reason(alarm: Params, state: str, series: Stored) -> str:
    """Why an alarm has come to a state, about as CloudWatch words it."""
    points = [(series.start + at * series.period_s, value) for at, value in enumerate(series.values.tolist())]
    there = [point for point in points if not math.isnan(point[1])][-alarm["EvaluationPeriods"] :]
    missing = alarm["EvaluationPeriods"] - len(there)
    if state == "INSUFFICIENT_DATA":
        return f"Insufficient Data: {missing} datapoint{'s were' if missing > 1 else ' was'} unknown."
    breaches, words = BREACHES[alarm["ComparisonOperator"]]
    hits = sum(breaches(value, alarm["Threshold"]) == (state == "ALARM") for _, value in there)
    shown = ", ".join(f"{value} ({utc(at):%d/%m/%y %H:%M:%S})" for at, value in there)
    treated = f", {missing} missing datapoints were treated as [{alarm.get('TreatMissingData', 'missing')}]"
    return (
        f"Threshold Crossed: {hits} out of the last {len(there)} datapoints [{shown}] "
        f"{'was' if hits == 1 else 'were'} {'' if state == 'ALARM' else 'not '}{words} the threshold "
        f"({alarm['Threshold']}){treated if missing else ''}."
    )


def invalid(message: str) -> AwsError:
    """A request that CloudWatch cannot make sense of."""
    return AwsError("ValidationError", message)


def seconds(time: datetime) -> float:
    """A request's time, seconds since the epoch (one without a zone is UTC)."""
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def utc(time: float) -> datetime:
    """A time for an answer."""
    return datetime.fromtimestamp(time, UTC)


def opened(params: Params, now: float) -> tuple[float, int]:
    """As of when a paged answer is, and from which item on this page is. Raises AwsError."""
    as_of, _, offset = params.get("NextToken", f"{now!r}/0").partition("/")
    try:
        return float(as_of), int(offset)
    except ValueError:
        raise AwsError("InvalidNextToken", "The next token specified is invalid.") from None


def closed(as_of: float, offset: int) -> str:
    """The token of the next page. All pages of an answer show the same moment."""
    return f"{as_of!r}/{offset}"
