"""CloudWatch's alarms: what they are, when their state changes, and what they remember of it.

Knows which alarms CloudWatch accepts and how it evaluates them, missing data included. Never delivers a notification:
a ``Transition`` says which actions are due, and who delivers one may note it down with ``acted``.
"""

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from buddy_ops.sandbox import metric_math
from buddy_ops.sandbox.metric_math import MathError, Sheet, Stored
from buddy_ops.sandbox.metrics_store import BASIC, MINUTE_S, Floats, Metric, MetricStore, UnknownStatistic, statistic
from buddy_ops.sandbox.wire import AwsError

Config = Mapping[str, Any]
"""An alarm as PutMetricAlarm describes it."""

SPARE_PERIODS = 2
"""How many points more than it evaluates an alarm looks at. The user guide's examples look at 5 for 3."""
MAX_METRICS = 10
MAX_ACTIONS = 5
DAY_S = 86_400
ACTIONS = {"OK": "OKActions", "ALARM": "AlarmActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}
TREATMENTS = ("missing", "notBreaching", "breaching", "ignore")
SIMPLE = ("Namespace", "MetricName", "Dimensions", "Period", "Unit", "Statistic", "ExtendedStatistic")
FOREIGN = ("ThresholdMetricId", "EvaluationCriteria", "EvaluationInterval", "WarmUpConfiguration")
BREACHES: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}


@dataclass
class Alarm:
    """An alarm and its state. Times are seconds since the epoch."""

    config: Config
    arn: str
    configured_at: float
    updated_at: float
    transitioned_at: float
    state: str = "INSUFFICIENT_DATA"
    reason: str = "Unchecked: Initial alarm creation"
    reason_data: str = ""


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


@dataclass(frozen=True)
class Event:
    """An item of an alarm's history."""

    alarm: str
    at: float
    kind: str
    summary: str
    data: str


@dataclass
class AlarmBook:
    """Every alarm, by name, and what happened to them, oldest first."""

    store: MetricStore
    arn_prefix: str
    alarms: dict[str, Alarm] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)

    def put(self, config: Config, now: float) -> None:
        """Create an alarm, or replace all of one but its state. Raises AwsError."""
        check(config)
        name = config["AlarmName"]
        known = self.alarms.get(name)
        if known:
            known.config, known.configured_at = config, now
        else:
            self.alarms[name] = Alarm(config, self.arn_prefix + name, now, now, now)
        data = {"type": "Update" if known else "Create", "updatedAlarm" if known else "createdAlarm": config}
        self._note(name, now, "ConfigurationUpdate", f'Alarm "{name}" {"updated" if known else "created"}', data)

    def delete(self, names: Iterable[str], now: float) -> None:
        """Forget alarms; names that do not exist are passed over."""
        for name in names:
            if self.alarms.pop(name, None):
                self._note(name, now, "ConfigurationUpdate", f'Alarm "{name}" deleted', {"type": "Delete"})

    def acted(self, transition: Transition, action: str, now: float, failure: str | None = None) -> None:
        """Note that an action was delivered, or why it was not."""
        summary = f"Failed to execute action {action}" if failure else f"Successfully executed action {action}"
        data = {"actionState": "Failed" if failure else "Succeeded", "notificationResource": action, "error": failure}
        self._note(transition.alarm, now, "Action", summary, data)

    def move(self, name: str, state: str, reason: str, data: str, now: float) -> Transition | None:
        """Set an alarm's state; a transition if that is another than before."""
        alarm = self.alarms[name]
        old, alarm.updated_at = alarm.state, now
        old_reason, alarm.reason, alarm.reason_data = alarm.reason, reason, data
        if state == old:
            return None
        alarm.state, alarm.transitioned_at = state, now
        change = {
            "oldState": {"stateValue": old, "stateReason": old_reason},
            "newState": {"stateValue": state, "stateReason": reason},
        }
        self._note(name, now, "StateUpdate", f"Alarm updated from {old} to {state}", change)
        enabled = alarm.config.get("ActionsEnabled", True)
        actions = tuple(alarm.config.get(ACTIONS[state], ())) if enabled else ()
        return Transition(name, alarm.arn, alarm.config.get("AlarmDescription", ""), old, state, reason, now, actions)

    def evaluate(self, now: float) -> list[Transition]:
        """Look at every alarm's metrics, and say which changed state. Called once a minute."""
        changes = []
        for name, alarm in sorted(self.alarms.items()):
            series = self._recent(alarm.config, now)
            points = series.values
            state = _state(alarm.config, points)
            if state is None or state == alarm.state or self._too_few(alarm.config, series, now):
                continue
            reason, data = _reason(alarm, state, series, now)
            changes.append(self.move(name, state, reason, data, now))
        return [change for change in changes if change]

    def _recent(self, config: Config, now: float) -> Stored:
        """The points of an alarm's evaluation range: whole, published periods, the newest ending last minute."""
        periods = config["EvaluationPeriods"] + SPARE_PERIODS
        end = (now - self.store.delay_s) // MINUTE_S * MINUTE_S

        def read(stat: Mapping[str, Any]) -> Stored:
            start = end - periods * stat["Period"]
            return self._read(stat, start, periods, now)

        asked = queries(config)
        return Sheet(asked, read).series(watched(asked))[0]

    def _read(self, stat: Mapping[str, Any], start: float, periods: int, now: float) -> Stored:
        where = stat["Metric"]
        dimensions = frozenset((each["Name"], each["Value"]) for each in where.get("Dimensions", []))
        metric = Metric(where["Namespace"], where["MetricName"], dimensions)
        values = self.store.read(metric, stat["Stat"], start, periods, stat["Period"], unit=stat.get("Unit"), now=now)
        return Stored(start, stat["Period"], values)

    def _too_few(self, config: Config, series: Stored, now: float) -> bool:
        """Whether the alarm sits out periods with too few samples for its percentile, and there is one.

        Source: CloudWatch user guide, 'Percentile-based CloudWatch alarms and low data samples'.
        """
        if config.get("EvaluateLowSampleCountPercentile") != "ignore":
            return False
        percent = float(config["ExtendedStatistic"].removeprefix("p")) / 100
        needed = 10 / max(min(percent, 1 - percent), 1e-9)
        stat = {**queries(config)[0]["MetricStat"], "Stat": "SampleCount"}
        counts = self._read(stat, series.start, len(series.values), now).values
        evaluated = counts[~np.isnan(counts)][-config["EvaluationPeriods"] :]
        return bool((evaluated < needed - 1e-6).any())

    def _note(self, name: str, at: float, kind: str, summary: str, data: Mapping[str, Any]) -> None:
        text = json.dumps({"version": "1.0", **data}, default=str)
        self.history.append(Event(name, at, kind, summary, text))


def verdict(points: Sequence[bool | None], needed: int, periods: int, missing: str) -> str | None:
    """The state that an evaluation range stands for; None: keep the present one.

    Args:
        points: whether each breaches, the oldest first; None is missing.
        needed: how many breaching points make an alarm (M).
        periods: out of how many (N).
        missing: how missing points are treated.

    Source: CloudWatch user guide, 'Configuring how CloudWatch alarms treat missing data'.
    """
    real = [point for point in points if point is not None][-periods:]
    breaching, short = real.count(True), periods - len(real)
    if short == 0 or False in real or missing in ("breaching", "notBreaching"):
        filled = short if missing == "breaching" else 0
        return "ALARM" if breaching + filled >= needed else "OK"
    if breaching >= needed:
        return "ALARM"
    if missing == "ignore":
        return None
    # Only breaching points, fewer than needed: an alarm all the same once the oldest of them is old enough.
    age = len(points) - points.index(True) if breaching else 0
    return "ALARM" if age >= needed else "INSUFFICIENT_DATA"


def queries(config: Config) -> list[dict[str, Any]]:
    """What an alarm watches, as metric queries."""
    if "Metrics" in config:
        return list(config["Metrics"])
    stat = config.get("Statistic") or config["ExtendedStatistic"]
    metric = {"Metric": config, "Period": config["Period"], "Stat": stat}
    return [{"Id": "m1", "MetricStat": metric | ({"Unit": config["Unit"]} if "Unit" in config else {})}]


def watched(asked: Sequence[Mapping[str, Any]]) -> str:
    """The Id of the query whose result is compared with the threshold."""
    return str(next(query["Id"] for query in asked if query.get("ReturnData", True)))


def check(config: Config) -> None:
    """Raises AwsError for an alarm that CloudWatch, or the sandbox, does not take."""
    periods = config["EvaluationPeriods"]
    actions = [config.get(each, ()) for each in ACTIONS.values()]
    low = config.get("EvaluateLowSampleCountPercentile")
    percentile = config.get("ExtendedStatistic", "").startswith("p")
    rules = (
        (not any(each in config for each in FOREIGN), f"The sandbox evaluates none of {', '.join(FOREIGN)}"),
        ("WallClockWindow" not in config.get("EvaluationWindow", {}), "The sandbox has no wall clock window"),
        (("MetricName" in config) != ("Metrics" in config), "Specify either MetricName or Metrics"),
        (
            "Metrics" not in config or not any(each in config for each in SIMPLE),
            f"Metrics excludes {', '.join(SIMPLE)}",
        ),
        (config.get("ComparisonOperator") in BREACHES, "The sandbox has no such ComparisonOperator"),
        ("Threshold" in config, "Threshold is required"),
        (1 <= config.get("DatapointsToAlarm", periods) <= periods, "DatapointsToAlarm is at most EvaluationPeriods"),
        (all(len(each) <= MAX_ACTIONS for each in actions), f"A state has at most {MAX_ACTIONS} actions"),
        (all(arn.startswith("arn:") for each in actions for arn in each), "Invalid arn syntax"),
        (
            config.get("TreatMissingData", "missing") in TREATMENTS,
            f"TreatMissingData is one of {', '.join(TREATMENTS)}",
        ),
        (low is None or (percentile and low in ("evaluate", "ignore")), "EvaluateLowSampleCountPercentile is invalid"),
    )
    for holds, otherwise in rules:
        if not holds:
            raise AwsError("ValidationError", otherwise)
    _check_metrics(config)


def _check_metrics(config: Config) -> None:
    if "MetricName" in config:
        given = [each for each in ("Statistic", "ExtendedStatistic") if each in config]
        if len(given) != 1 or not all(each in config for each in ("Namespace", "Period")):
            raise AwsError(
                "ValidationError", "Namespace, Period and one of Statistic and ExtendedStatistic are required"
            )
        if (config[given[0]] in BASIC) != (given[0] == "Statistic"):
            raise AwsError("ValidationError", f"The value {config[given[0]]} for parameter {given[0]} is not supported")
    asked = queries(config)
    stats = [query["MetricStat"] for query in asked if "MetricStat" in query]
    if len(stats) > MAX_METRICS or sum(query.get("ReturnData", True) for query in asked) != 1:
        message = f"Metrics must have exactly one element with ReturnData true, and at most {MAX_METRICS} metrics"
        raise AwsError("ValidationError", message)
    try:
        metric_math.check(asked)
        for stat in stats:
            statistic(stat["Stat"])
            span_s = stat["Period"] * config["EvaluationPeriods"]
            if stat["Period"] % MINUTE_S or span_s > (DAY_S if stat["Period"] < 3600 else 7 * DAY_S):
                raise AwsError(
                    "ValidationError", "Periods are multiples of 60 s, and all of them together at most a day"
                )
        # A trial run, so that an expression that cannot be evaluated is refused now.
        tried = Sheet(asked, lambda stat: Stored(0.0, stat["Period"], np.zeros(1))).series(watched(asked))
    except UnknownStatistic as error:
        raise AwsError("ValidationError", f"The value {error} for parameter Stat is not supported") from None
    except MathError as error:
        raise AwsError("ValidationError", f"Invalid metrics list: {error}") from None
    if len(tried) != 1:
        raise AwsError("ValidationError", "An alarm watches a single time series")


def _state(config: Config, points: Floats) -> str | None:
    breaches, _ = BREACHES[config["ComparisonOperator"]]
    seen = [None if np.isnan(point) else bool(breaches(point, config["Threshold"])) for point in points]
    spaces = {query["MetricStat"]["Metric"]["Namespace"] for query in queries(config) if "MetricStat" in query}
    # AWS: alarms on DynamoDB's metrics ignore missing data, whatever they are told.
    missing = "ignore" if "AWS/DynamoDB" in spaces else config.get("TreatMissingData", "missing")
    periods = config["EvaluationPeriods"]
    return verdict(seen, config.get("DatapointsToAlarm", periods), periods, missing)


def _reason(alarm: Alarm, state: str, series: Stored, now: float) -> tuple[str, str]:
    """Why an alarm has come to a state, in words and as JSON."""
    config, periods = alarm.config, alarm.config["EvaluationPeriods"]
    there = [(series.start + at * series.period_s, v) for at, v in enumerate(series.values.tolist()) if v == v][
        -periods:
    ]
    breaches, words = BREACHES[config["ComparisonOperator"]]
    hits = sum(breaches(value, config["Threshold"]) == (state == "ALARM") for _, value in there)
    shown = ", ".join(f"{value} ({datetime.fromtimestamp(at, UTC):%d/%m/%y %H:%M:%S})" for at, value in there)
    data = {
        "version": "1.0",
        "queryDate": datetime.fromtimestamp(now, UTC).isoformat(),
        "period": series.period_s,
        "recentDatapoints": [value for _, value in there],
        "threshold": config["Threshold"],
    }
    unknown = f"{periods - len(there)} datapoint{'s were' if periods - len(there) != 1 else ' was'}"
    if state == "INSUFFICIENT_DATA":
        return f"Insufficient Data: {unknown} unknown.", json.dumps(data)
    verb = "was" if hits == 1 else "were"
    text = (
        f"Threshold Crossed: {hits} out of the last {len(there)} datapoints [{shown}] {verb} "
        f"{'' if state == 'ALARM' else 'not '}{words} the threshold ({config['Threshold']})"
    )
    if not there:
        treated = "Breaching" if state == "ALARM" else "NonBreaching"
        text = f"Threshold Crossed: no datapoints were received and missing datapoints were treated as [{treated}]"
    needed = config.get("DatapointsToAlarm", periods)
    minimum = f"minimum {needed} datapoint{'' if needed == 1 else 's'} for {alarm.state} -> {state} transition"
    return f"{text} ({minimum}).", json.dumps(data)
