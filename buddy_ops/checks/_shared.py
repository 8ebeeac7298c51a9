"""Checks that more than one list runs: a version's traffic against its limits, alarms, freezes."""

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from buddy_ops.aws import versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.checks import result_words
from buddy_ops.checks.findings import CheckContext, Finding, NotMeasured, info, ok, problem, unknown, warning
from buddy_ops.core import text
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.health import alarms, callers, former_service, logs, metrics
from buddy_ops.health.lateness import IMPLAUSIBLE_REQUESTS, RATE_MINUTES, usual_rate
from buddy_ops.health.metrics import UNKNOWN_VERSION, MetricsReading
from buddy_ops.health.serving import ServedReading, name_version, version_order

Measure = Literal["errors", "slow", "throttles"]
"""What is counted of a version's requests, by the name of its field in ``Counts``."""

WINDOW = timedelta(minutes=15)
"""How much of the latest traffic the status checks."""

PAST_WINDOW = f"in the last {text.duration(WINDOW)}"

DAY = timedelta(hours=24)
"""How far back requests are counted, where none arrive now."""

LATE_MINUTES = 3
"""With so many unpublished minutes at its end, a rate is of the past."""

SHOWN = 5
"""How many of the newest published versions a finding names."""

METRICS_LATE = "Until CloudWatch publishes them, no rate says how the version is now."

MOSTLY_PAST = "Most requests do not use the alias: a rollback does not help them either."

NO_REQUESTS = (
    "Check whether the callers still reach the alias, and whether CloudWatch is late. Until requests arrive, nothing "
    "shows that the version is healthy."
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
            late = f"{name_version(self.version)}: not published by CloudWatch since {self.unpublished[0]:%H:%M} UTC"
            if self.requests:
                late += f"; before that {self.describe()}"
            raise NotMeasured(late, result_words.METRICS_LATE)


def version_rates(reading: MetricsReading | ServedReading, measure: Measure, limit: float = 0.0) -> list[VersionRate]:
    """The rate of each version over all minutes that were read.

    Raises:
        NotMeasured: CloudWatch could not be read.
    """
    if reading.trouble is not None:
        raise NotMeasured(reading.trouble)
    # A version that received traffic for a part of the window is in some of the rows only.
    minutes = defaultdict(list)
    # Only the latest ones count: a published minute after them shows that CloudWatch has caught up.
    unpublished = defaultdict[str, list[datetime]](list)
    for row in reading.rows:
        for version, counts in row.counts.items():
            count: int = getattr(counts, measure)
            # What was published in part shows that a rate is high, but never that it is low.
            if counts.seen and counts.unknown & {measure, "requests"} and count <= limit * counts.requests:
                unpublished[version].append(row.at)
                continue
            minutes[version].append((row.at, count, counts.requests))
            # A later minute that is published shows that CloudWatch has caught up.
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
            since = rate
            if known_until is not None:
                since = rate.starting_at(known_until + text.MINUTE)
            if since.requests:
                own.append(since)
    # Over the limit by what is published so far is said at once. Within it shows nothing yet.
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


def describe_period(context: CheckContext) -> str:
    """The time that the rates are of: ``WINDOW``, or less after a rollback or a deployment."""
    since = context.traffic_since(WINDOW)
    if since > context.metrics_until - WINDOW:
        return f"since {text.time_of_day(since, context.target.clock.now())}"
    return PAST_WINDOW


def missing_alias(context: CheckContext) -> Finding:
    """Whether the alias was deleted, or nothing was ever deployed behind it."""
    target = context.target
    message = f"alias {target.resource} does not exist"
    try:
        served = former_service.read_former_service(target)
        if served is not None:
            told = served.describe(target.clock.now()).removesuffix(".")
            remedy = served.restore(target)
            message += f". It was deleted. Every caller gets an error. {told}"
            return problem(message, remedy, version=served.version).named(result_words.ALIAS_MISSING)
        published = [version.number for version in versions.list_versions(target)]
    except AwsFailed as failure:
        return unknown(f"{message}. Whether one was deleted is unknown. {failure.what}", failure.next)
    if published:
        message += f", although {text.join_words(f'v{number}' for number in published[-SHOWN:])} are published"
        remedy = former_service.restore_advice(target, "")
        return unknown(f"{message}. It may have been deleted", remedy).named(result_words.ALIAS_MISSING)
    remedy = "The first run of strategies/canary creates it."
    return warning(f"{message}: nothing was ever deployed", remedy).named(result_words.NOT_DEPLOYED)


def traffic_state(context: CheckContext) -> Finding:
    """Whether requests arrive as they did before: no requests at all are no sign of health."""
    target = context.target
    until = context.metrics_until
    requests = metrics.read_requests(target, until - DAY, until)
    if not requests:
        message = f"no requests in the last {text.duration(DAY)}"
        return unknown(message, NO_REQUESTS).named(result_words.NO_TRAFFIC)
    last = max(requests)
    silent = until - last - text.MINUTE
    rate = usual_rate([requests.get(last - age * text.MINUTE, 0.0) for age in reversed(range(RATE_MINUTES))])
    usual = text.figure(rate)
    at = text.time_of_day(last, target.clock.now())
    # A silence counts by the requests that it lacks: a function with one an hour may be silent for half an hour.
    if rate * (silent / text.MINUTE) >= IMPLAUSIBLE_REQUESTS:
        # The log tells a silence of the callers from one of CloudWatch.
        ran = _logged_requests(target, last + 2 * text.MINUTE, until)
        if ran:
            message = f"CloudWatch has no metrics since {at}, and the function's log has {text.count(ran, 'request')}"
            return unknown(message, METRICS_LATE, since=last).named(result_words.METRICS_LATE)
        message = f"no requests for {text.duration(silent)}, since {at}; {usual} per minute were usual before"
        if ran is None:
            message += ". The function's log does not say whether CloudWatch is only late"
        return unknown(message, NO_REQUESTS, silent=silent, since=last).named(result_words.NO_TRAFFIC)
    return ok(f"{usual} requests per minute; the last at {at}")


def _logged_requests(target: Target, since: datetime, until: datetime) -> int | None:
    """How many requests the function's log has: it is not as late as the metrics. None: they cannot be counted.

    AWS: lambda:GetFunctionConfiguration, logs:StartQuery, GetQueryResults, reads only.
    """
    if since >= until:
        return 0
    try:
        return sum(found.invocations for found in logs.read_cold_starts(target, since, until))
    except BuddyError:
        return None


def describe_unguarded(target: Target) -> Finding:
    """What to say where nothing counts the function's failures but Lambda's own errors."""
    message = f"UNGUARDED: {target.settings.uncounted_failures} would not count as failures"
    remedy = "Publish a metric of them (docs/kinds.md has a decorator), and name it in settings.failure_metrics."
    if target.settings.policy.demand_failure_metric:
        return problem(message, remedy)
    return warning(message, remedy)


def alarm_states(context: CheckContext) -> Finding:
    """The alarms' states, in AWS's names: one in ALARM is a problem, one that notifies no person a warning."""
    there = context.alarms
    if not there:
        remedy = "operations/alarms creates them. Until then on-call is not paged."
        return warning("no alarms configured", remedy).named(result_words.ALARMS_BLIND)
    number = text.count(len(there), "alarm")
    firing = [alarm for alarm in there if alarm.state == "ALARM"]
    # The worst first: an alarm in ALARM, one that sees nothing, and then what is missing.
    if firing:
        names = text.join_words(alarm.name for alarm in firing)
        reasons = "; ".join(f"{alarm.name}: {alarm.reason}" for alarm in firing)
        message = f"{len(firing)} of {number} in ALARM: {names}"
        return problem(message, "Open start_here.", firing=firing).detailed(reasons)
    blind = [alarm.name for alarm in there if alarm.state != "OK"]
    if blind:
        # A new alarm has no data for its first minutes. One that stays so watches nothing.
        message = f"{len(blind)} of {number} without data (INSUFFICIENT_DATA): {', '.join(blind)}"
        remedy = "Compare their metrics and dimensions (operations/alarms)."
        return unknown(message, remedy, blind=blind).named(result_words.ALARMS_BLIND)
    silent = [alarm.name for alarm in there if not alarm.fields.get("ActionsEnabled", True)]
    missing = {fields["AlarmName"] for fields in alarms.wanted_alarms(context.target)} - {alarm.name for alarm in there}
    gaps = []
    if silent:
        gaps.append(f"actions of {text.join_words(silent)} are disabled")
    if missing:
        verb = "does"
        if len(missing) > 1:
            verb = "do"
        gaps.append(f"{text.join_words(sorted(missing))} {verb} not exist")
    if gaps:
        message = f"{'; '.join(gaps)}: on-call would not be paged"
        return warning(message, "operations/alarms creates and enables them.").named(result_words.ALARMS_BLIND)
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


def callers_state(context: CheckContext) -> Finding:
    """Whether requests use the alias, which is all that a rollout and a rollback move."""
    target = context.target
    if context.alias is None:
        return info("there is no alias that requests could call", "See the check of the alias.")
    found = callers.read_callers(target)
    if found.mostly_past:
        return problem(" ".join((*found.signs, MOSTLY_PAST)), callers.remedy(target))
    if found.signs:
        return warning(" ".join((*found.signs, *found.unread)), callers.remedy(target))
    if found.unread:
        return unknown(" ".join(found.unread), "Check again in 5 min.")
    if not found.requests:
        return info(callers.NOT_MEASURED)
    return ok(f"no request of the last 24 h bypassed {target.resource}")
