"""Checks that more than one list runs: a version's traffic against its limits, alarms, freezes."""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.checks.findings import CheckContext, Finding, NotMeasured, info, ok, problem, unknown, warning
from buddy_ops.core import text
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.front_end import invocation
from buddy_ops.health import alarms, former_service, metrics, serving
from buddy_ops.health.lateness import IMPLAUSIBLE_REQUESTS, RATE_MINUTES, usual_rate
from buddy_ops.health.metrics import UNKNOWN_VERSION, MetricsReading
from buddy_ops.health.serving import ServedReading, name_version, version_order

Measure = Literal["errors", "slow", "throttles"]
"""What is counted of a version's requests, by the name of its field in ``Counts``."""

DAY = timedelta(hours=24)
"""How far back requests are counted, where none arrive now."""

LATE_MINUTES = 3
"""With so many unpublished minutes at its end, a rate is of the past."""

SHOWN = 5
"""How many of the newest published versions a finding names."""

NO_REQUESTS = (
    "Check whether the callers still reach the alias, and whether CloudWatch is late. Check again in 5 min: until "
    "then nothing shows that the version is healthy."
)


@dataclass(frozen=True)
class VersionRate:
    """How many of a version's requests failed, were slow or were throttled.

    Attributes:
        limit: the share of requests that is allowed, 0..1.
        minutes: the beginning of each minute, its count and its requests.
        unpublished: the beginnings of the latest minutes whose count CloudWatch has not published, or only in part.
    """

    version: str
    limit: float
    minutes: tuple[tuple[datetime, int, int], ...]
    unpublished: tuple[datetime, ...] = ()

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
            return f"{name_version(self.version)} no requests"
        share = f"{text.percent(self.count / self.requests)} of {text.count(self.requests, 'request')}"
        return f"{name_version(self.version)} {share}{condition} (limit {text.exact_percent(self.limit)})"

    def require_published(self) -> None:
        """Return if CloudWatch has published the latest minutes: else the rate is of the past.

        Raises:
            NotMeasured: it has not.
        """
        if len(self.unpublished) >= LATE_MINUTES:
            since = f"{name_version(self.version)}: not published by CloudWatch since {self.unpublished[0]:%H:%M} UTC"
            raise NotMeasured(f"{since}; before that {self.describe()}")


def version_rates(reading: MetricsReading | ServedReading, measure: Measure, limit: float = 0.0) -> list[VersionRate]:
    """The rate of each version over all minutes that were read.

    Raises:
        NotMeasured: CloudWatch could not be read.
    """
    if reading.trouble is not None:
        raise NotMeasured(reading.trouble)
    # A version that received traffic for a part of the window is in some of the rows only.
    minutes = defaultdict(list)
    unpublished = defaultdict[str, list[datetime]](list)
    for row in reading.rows:
        for version, counts in row.counts.items():
            count: int = getattr(counts, measure)
            # What was published in part shows that a rate is high, but never that it is low.
            if counts.seen and counts.unknown & {measure, "requests"} and count <= limit * counts.requests:
                unpublished[version].append(row.at)
                continue
            minutes[version].append((row.at, count, counts.requests))
            if counts.seen:
                unpublished[version].clear()
    return [
        VersionRate(version, limit, tuple(minutes[version]), unpublished=tuple(unpublished[version]))
        for version in sorted({*minutes, *unpublished}, key=version_order)
    ]


def serving_rates(alias: Alias, rates: list[VersionRate]) -> list[VersionRate]:
    """The rates of the versions that serve now, and of requests whose version is unknown since then.

    Raises:
        NotMeasured: a version that serves received no requests that are known to be its own, or CloudWatch is late.
    """
    own = [rate for rate in rates if rate.version in alias.serving]
    known_until = max((at for rate in own for at, _, requests in rate.minutes if requests), default=None)
    # Requests of an unknown version before that may be those of a version that serves no more.
    for rate in rates:
        if rate.version == UNKNOWN_VERSION:
            since = rate if known_until is None else rate.starting_at(known_until + text.MINUTE)
            own += [since] if since.requests else []
    if any(rate.count > 1 and rate.over_limit for rate in own):
        return own
    for rate in own:
        rate.require_published()
    busy = {rate.version for rate in own if rate.requests}
    routed = [version for version in alias.serving if alias.share(version)]
    idle = [f"{name_version(version)} received no requests" for version in routed if version not in busy]
    if idle:
        raise NotMeasured("; ".join((*idle, *(rate.describe() for rate in own if rate.requests))))
    return own


def rollout_state(context: CheckContext) -> Finding:
    """What the alias routes, and whether a deployment record explains it."""
    alias, record = context.alias, context.record
    if alias is None:
        return missing_alias(context)
    if versions.LATEST in alias.serving:
        return _alias_on_latest(context.target)
    if record is not None and alias.additional is None and not _explains(record, alias):
        # Its run did not do this, so its health and its times say nothing about what serves now.
        message = f"{alias}. The deployment record does not explain this: run {record.run} deployed v"
        message += f"{record.new_version}. Another tool, or a person, moved the alias"
        return warning(message, "Find out who moved it, and whether that was intended.")
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
    if alias.allocating:
        return info(aliases.describe_allocation(alias), "Wait some minutes. AWS then moves the traffic.")
    if alias.stable is None:
        message = f"{alias}. No deployment record says which version is stable"
        return problem(
            message, f"Run {invocation('rollback/immediate', context.target.environment, to_version='VERSION')}."
        )
    if alias.draining:
        return info(f"{alias}: a gradual rollback of v{alias.additional} is in progress", "Wait for its end.")
    # A closed record explains no weights: another tool, or a person, set them.
    message = f"{alias}. No open rollout explains these weights; v{alias.stable} is stable"
    return problem(message, f"Run rollback/immediate: it routes all traffic to v{alias.stable}.")


def _alias_on_latest(target: Target) -> Finding:
    """Deployments refuse such an alias, and a rollback has nothing to return to."""
    function = target.settings.function
    message = f"the alias serves {versions.LATEST}: every upload to {function} reaches all users at once"
    back = invocation("rollback/immediate", target.environment, to_version="VERSION")
    remedy = f"Publish a version (aws lambda publish-version --function-name {function}), then point the alias to it: "
    return warning(f"{message}, and no version is kept", f"{remedy}{back}.")


def _explains(record: RolloutState, alias: Alias) -> bool:
    """Whether this record's run, or its failsafe, left the alias at the one version that it serves."""
    return alias.failsafe_triggered or serving.last_switch(alias) is not None


def missing_alias(context: CheckContext) -> Finding:
    """Whether the alias was deleted, or nothing was ever deployed behind it."""
    target = context.target
    message = f"alias {target.resource} does not exist"
    try:
        served = former_service.read_former_service(target)
        if served is not None:
            told = served.describe(target.clock.now()).removesuffix(".")
            return problem(f"{message}. It was deleted. Every caller gets an error. {told}", served.restore(target))
        published = [version.number for version in versions.list_versions(target)]
    except AwsFailed as failure:
        return unknown(f"{message}. Whether one was deleted is unknown. {failure.what}", failure.next)
    if published:
        message += f", although {text.join_words(f'v{number}' for number in published[-SHOWN:])} are published"
        return unknown(f"{message}. It may have been deleted", former_service.restore_advice(target, ""))
    return warning(f"{message}: nothing was ever deployed", "The first run of strategies/canary creates it.")


def traffic_state(context: CheckContext) -> Finding:
    """Whether requests arrive as they did before: no requests at all are no sign of health."""
    target = context.target
    until = context.metrics_until
    requests = metrics.read_requests(target, until - DAY, until)
    if not requests:
        return unknown(f"no requests in the last {text.duration(DAY)}", NO_REQUESTS)
    last = max(requests)
    silent = until - last - text.MINUTE
    rate = usual_rate([requests.get(last - age * text.MINUTE, 0.0) for age in reversed(range(RATE_MINUTES))])
    usual = text.figure(rate)
    at = text.time_of_day(last, target.clock.now())
    if rate * (silent / text.MINUTE) >= IMPLAUSIBLE_REQUESTS:
        message = f"no requests for {text.duration(silent)}, since {at}; {usual} per minute were usual before"
        return unknown(message, NO_REQUESTS, silent=silent)
    return ok(f"{usual} requests per minute; the last at {at}")


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
    blind = [alarm.name for alarm in there if alarm.state != "OK"]
    if blind:
        # A new alarm has no data for its first minutes. One that stays so watches nothing.
        message = f"{len(blind)} of {number} without data (INSUFFICIENT_DATA): {', '.join(blind)}"
        return unknown(message, "Check again in 5 min. Then compare their metrics and dimensions (operations/alarms).")
    return ok(f"{number}, all OK")


def alarms_complete(context: CheckContext) -> Finding:
    """Whether every alarm that the environment should have exists, and is configured as it should be."""
    there = {alarm.name: alarm.fields for alarm in context.alarms}
    wanted = {fields["AlarmName"]: fields for fields in alarms.wanted_alarms(context.target)}
    wrong = [name for name, fields in wanted.items() if alarms.differences(fields, there.get(name))]
    if wrong:
        # Each alarm's name begins alike; without that the list is short enough to read.
        prefix = alarms.name_prefix(context.target.settings)
        names = ", ".join(name.removeprefix(prefix) for name in wrong)
        message = f"{len(wrong)} of {text.count(len(wanted), 'alarm')} missing or changed: {names}"
        return problem(message, "operations/alarms creates or updates them.")
    return ok(f"all {len(wanted)} alarms configured")


def describe_freezes(context: CheckContext) -> str:
    """The freezes in force; empty if there are none."""
    return "; ".join(map(str, context.freezes))
