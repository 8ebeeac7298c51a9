"""The alarms on the function: a second line, beside the judge.

Knows their names and states. Never decides a rollout: an alarm that burns is told, and a rollout under it is allowed,
since it may be the fix.
"""

from dataclasses import dataclass

from buddy_ops.target import Target


@dataclass(frozen=True)
class Alarm:
    """An alarm as CloudWatch holds it. ``state`` is 'OK', 'ALARM' or 'INSUFFICIENT_DATA'."""

    name: str
    state: str
    reason: str


def read(target: Target) -> tuple[Alarm, ...]:
    """The alarms whose names begin with the function's. AWS: cloudwatch:DescribeAlarms, every page, reads only."""
    found: list[Alarm] = []
    token: dict[str, str] = {}
    while True:
        page = target.call("cloudwatch", "describe_alarms", AlarmNamePrefix=target.settings.function, **token)
        found += [
            Alarm(each["AlarmName"], each["StateValue"], each.get("StateReason", "")) for each in page["MetricAlarms"]
        ]
        if not page.get("NextToken"):
            return tuple(found)
        token = {"NextToken": page["NextToken"]}


def burning(target: Target) -> tuple[Alarm, ...]:
    """Those that are in ALARM now."""
    return tuple(alarm for alarm in read(target) if alarm.state == "ALARM")
