"""Checks that more than one list runs: a version's traffic against its limits, alarms, freezes."""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from buddy_ops.checks.findings import CheckContext, Finding, NotMeasured, info, ok, problem, warning
from buddy_ops.core import text
from buddy_ops.health import alarms
from buddy_ops.health.metrics import MetricsReading

Measure = Literal["errors", "slow", "throttles"]
"""What is counted of a version's requests, by the name of its field in ``Counts``."""


@dataclass(frozen=True)
class VersionRate:
    """How many of a version's requests failed, were slow or were throttled.

    Attributes:
        limit: the share of requests that is allowed, 0..1.
        minutes: the beginning of each minute, its count and its requests.
    """

    version: str
    limit: float
    minutes: tuple[tuple[datetime, int, int], ...]

    @property
    def count(self) -> int:
        """The requests that failed, were slow or were throttled."""
        return sum(count for _, count, _ in self.minutes)

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(requests for _, _, requests in self.minutes)

    @property
    def over_limit(self) -> bool:
        """Whether the share of requests is above the limit."""
        return self.count > self.limit * self.requests

    def starting_at(self, since: datetime) -> "VersionRate":
        """The same rate without the minutes before ``since``."""
        return replace(self, minutes=tuple(minute for minute in self.minutes if minute[0] >= since))

    def onset(self) -> datetime:
        """The first minute over the limit. The rate since then is not lower than the whole."""
        # Minutes within the limit are left out only before it, so the rate cannot fall below the limit.
        return next(at for at, count, requests in self.minutes if count > self.limit * requests)

    def describe(self, condition: str = "") -> str:
        """'v2 4.8 % of 8,966 requests (limit 1 %)'; ``condition`` follows the requests: ' over 6 s'."""
        if not self.requests:
            return f"v{self.version} no requests"
        share = f"{text.percent(self.count / self.requests)} of {text.count(self.requests, 'request')}"
        return f"v{self.version} {share}{condition} (limit {text.exact_percent(self.limit)})"


def version_rates(reading: MetricsReading, measure: Measure, limit: float = 0.0) -> list[VersionRate]:
    """The rate of each version over all minutes that were read.

    Raises:
        NotMeasured: CloudWatch could not be read.
    """
    if reading.trouble is not None:
        raise NotMeasured(reading.trouble)
    # A version that received traffic for a part of the window is in some of the rows only.
    minutes = defaultdict(list)
    for row in reading.rows:
        for version, counts in row.counts.items():
            minutes[version].append((row.at, getattr(counts, measure), counts.requests))
    return [VersionRate(version, limit, tuple(minutes[version])) for version in sorted(minutes, key=int)]


def rollout_state(context: CheckContext) -> Finding:
    """What the alias routes, and whether a deployment record explains it."""
    alias, record = context.alias, context.record
    if alias is None:
        message = f"alias {context.target.resource} does not exist"
        return warning(message, "The first run of strategies/canary creates it.")
    if record is not None and record.open and alias.stable == alias.primary:
        rollout = f"run {record.run} of v{record.new_version}"
        # A run closes its record itself. An open one without weights was rolled back from outside.
        if alias.failsafe_triggered:
            message = f"{rollout} stopped responding at stage {record.stage}. The failsafe rolled it back"
            return info(message, "Run the same artifact again: it closes the record.")
        stage = "monitoring at 100 %" if record.stage == "watch" else f"stage {record.stage}"
        since = text.time_of_day(text.parse_utc(record.since), context.target.clock.now(), ago=True)
        return info(f"{alias}: {rollout} in progress, {stage} since {since}", "Wait for its end, or resume it.")
    if alias.additional is None:
        return ok(str(alias))
    if alias.stable is None:
        message = f"{alias}. No deployment record says which version is stable"
        return problem(message, "Run rollback/immediate with to_version.")
    if alias.draining:
        return info(f"{alias}: a gradual rollback of v{alias.additional} is in progress", "Wait for its end.")
    # A closed record explains no weights: another tool, or a person, set them.
    message = f"{alias}. No open rollout explains these weights; v{alias.stable} is stable"
    return problem(message, f"Run rollback/immediate: it routes all traffic to v{alias.stable}.")


def alarm_states(context: CheckContext) -> Finding:
    """The alarms' states, in AWS's names: one in ALARM is a problem, none at all a warning."""
    there = context.alarms
    if not there:
        return warning("no alarms configured", "operations/alarms creates them.")
    number = text.count(len(there), "alarm")
    firing = [alarm for alarm in there if alarm.state == "ALARM"]
    if firing:
        reasons = "; ".join(f"{alarm.name}: {alarm.reason}" for alarm in firing)
        return problem(f"{len(firing)} of {number} in ALARM. {reasons}", "Open start_here.", firing=firing)
    waiting = [alarm.name for alarm in there if alarm.state != "OK"]
    if waiting:
        # A new alarm, or one on a function without traffic, has no data yet.
        return ok(f"{number}, {len(waiting)} of them INSUFFICIENT_DATA")
    return ok(f"{number}, all OK")


def alarms_complete(context: CheckContext) -> Finding:
    """Whether every alarm that the environment should have exists, and is configured as it should be."""
    there = {alarm.name: alarm.fields for alarm in context.alarms}
    wanted = {fields["AlarmName"]: fields for fields in alarms.wanted_alarms(context.target)}
    wrong = [name for name, fields in wanted.items() if alarms.differences(fields, there.get(name))]
    if wrong:
        # Each alarm's name begins with the function's name; without it the list is short enough to read.
        names = ", ".join(name.removeprefix(f"{context.target.settings.function}-") for name in wrong)
        message = f"{len(wrong)} of {text.count(len(wanted), 'alarm')} missing or changed: {names}"
        return problem(message, "operations/alarms creates or updates them.")
    return ok(f"all {len(wanted)} alarms configured")


def describe_freezes(context: CheckContext) -> str:
    """The freezes in force; empty if there are none."""
    return "; ".join(map(str, context.freezes))
