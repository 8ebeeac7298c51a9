"""The latest traffic of many aliases, in few calls: requests, failures, slow and throttled requests by minute.

Of the alias as a whole: which version a request ran on is for the target's own status to say.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from buddy_ops.aws.session import Target
from buddy_ops.checks import result_words
from buddy_ops.checks.findings import Check, CheckContext, Finding, NotMeasured, ok, problem, unknown
from buddy_ops.core import text
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.text import MINUTE
from buddy_ops.health import metrics
from buddy_ops.health.lateness import IMPLAUSIBLE_REQUESTS, usual_rate

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import MetricDataQueryTypeDef

WINDOW = timedelta(minutes=60)
"""What is read, and drawn."""

RECENT = timedelta(minutes=15)
"""What the rates are of."""

NOTHING_ARRIVES = "Check whether the callers still reach the alias, and whether CloudWatch is late."


@dataclass(frozen=True)
class AliasMinute:
    """One minute of an alias as a whole: numbers of requests; ``p99_ms`` is None where none ran."""

    at: datetime
    requests: int
    errors: int
    slow: int
    throttles: int
    p99_ms: float | None


@dataclass(frozen=True)
class AliasTraffic:
    """The latest minutes of one alias, oldest first."""

    minutes: tuple[AliasMinute, ...]
    until: datetime

    def since(self, start: datetime) -> "AliasTraffic":
        """The same without what was before."""
        return AliasTraffic(tuple(minute for minute in self.minutes if minute.at >= start), self.until)

    @property
    def requests(self) -> int:
        """All requests that ran."""
        return sum(minute.requests for minute in self.minutes)

    @property
    def errors(self) -> int:
        """The requests that failed."""
        return sum(minute.errors for minute in self.minutes)

    @property
    def error_rate(self) -> float | None:
        """The share of failed requests, 0..1; None without requests."""
        return self.errors / self.requests if self.requests else None

    @property
    def p99_ms(self) -> float | None:
        """The p99 of the latest minute that has one."""
        return next((minute.p99_ms for minute in reversed(self.minutes) if minute.p99_ms is not None), None)


def read_traffic(
    reader: Target, targets: Sequence[Target], window: timedelta = WINDOW, series: Sequence[str] = metrics.SUMMARY
) -> dict[str, AliasTraffic | BuddyError]:
    """The traffic of many aliases of one account and region, by the target's name, or why it could not be read.

    Args:
        series: those that are read, besides the failure metrics; figures of others are 0.

    AWS: cloudwatch:GetMetricData, once for about 100 targets, reads only.
    """
    found: dict[str, AliasTraffic | BuddyError] = {}
    # One call has one range of time, and environments may have different lateness of their metrics.
    until = max((metrics.published_until(target, target.clock.now()) for target in targets), default=None)
    if until is None:
        return found
    for batch in _batches(targets, series):
        queries = [query for _, own in batch for query in own]
        try:
            values = metrics.read_series(reader, queries, until - window, until)
        except BuddyError as error:
            # One batch that fails leaves the others' figures.
            found |= {target.environment: error for target, _ in batch}
            continue
        for index, (target, _) in enumerate(batch):
            found[target.environment] = _traffic(target, values, f"of{index}", until, window)
    return found


def _batches(
    targets: Sequence[Target], series: Sequence[str]
) -> "list[list[tuple[Target, list[MetricDataQueryTypeDef]]]]":
    """The targets with their queries, as many in a batch as one call takes."""
    batches: list[list[tuple[Target, list[MetricDataQueryTypeDef]]]] = []
    room = 0
    for target in targets:
        own = metrics.summary_queries(target, f"of{len(batches[-1]) if batches else 0}", series)
        if len(own) > room:
            # IDs must be unique within a call only: each batch counts from 0.
            own = metrics.summary_queries(target, "of0", series)
            batches.append([])
            room = metrics.MOST_QUERIES
        batches[-1].append((target, own))
        room -= len(own)
    return batches


def _traffic(
    target: Target,
    values: Mapping[str, Mapping[datetime, float]],
    suffix: str,
    until: datetime,
    window: timedelta,
) -> AliasTraffic:
    failures = [f"failed{index}" for index in range(len(target.settings.failure_metrics))]

    def count(name: str, at: datetime) -> int:
        return round(values.get(name + suffix, {}).get(at, 0.0))

    minutes = []
    # CloudWatch leaves out minutes without a value: each one is named, so that a gap is a zero and not a shorter hour.
    for age in range(int(window / MINUTE), 0, -1):
        at = until - age * MINUTE
        requests = count("requests", at)
        errors = sum(count(name, at) for name in ("errors", *failures))
        p99_ms = values.get("p99" + suffix, {}).get(at)
        minutes.append(
            AliasMinute(
                at,
                requests,
                # At most one failure per request: a request may both apologise and fail.
                errors=min(requests, errors),
                slow=min(requests, count("slow", at)),
                throttles=count("throttles", at),
                p99_ms=p99_ms,
            )
        )
    return AliasTraffic(tuple(minutes), until)


def traffic_checks(read: AliasTraffic | BuddyError) -> list[Check]:
    """The checks of an alias's traffic, by the names that the target's own status has for them.

    Args:
        read: the traffic, or why it could not be read: then each is unknown.
    """

    def recent(context: CheckContext) -> AliasTraffic:
        if isinstance(read, BuddyError):
            raise read
        # No minute from before the last switch: it says nothing of the version that serves.
        return read.since(context.measured_since(RECENT))

    def hour(context: CheckContext) -> AliasTraffic:
        if isinstance(read, BuddyError):
            raise read
        return read

    return [
        Check("error rate", lambda context: _error_rate(recent(context), context.target)),
        Check("latency", lambda context: _latency(recent(context), context.target)),
        Check("throttles", lambda context: _throttles(recent(context))),
        Check("traffic", lambda context: _requests_arrive(hour(context), context.target.clock.now())),
    ]


def _error_rate(traffic: AliasTraffic, target: Target) -> Finding:
    """Whether more requests fail than the environment allows."""
    return _rate("errors", traffic, target.settings.health.error_rate)


def _latency(traffic: AliasTraffic, target: Target) -> Finding:
    """Whether more requests are slow than the environment allows."""
    health = target.settings.health
    return _rate("slow", traffic, health.slow_rate, f" over {text.duration(health.latency_ms / 1000)}")


def _throttles(traffic: AliasTraffic) -> Finding:
    """Whether Lambda rejected requests."""
    throttled = sum(minute.throttles for minute in traffic.minutes)
    if not throttled:
        return ok("none")
    return problem(f"{text.count(throttled, 'request')} throttled in the last {text.duration(RECENT)}")


def _requests_arrive(traffic: AliasTraffic, now: datetime) -> Finding:
    """Whether requests arrive as they did before: no requests at all are no sign of health."""
    busy = [minute.at for minute in traffic.minutes if minute.requests or minute.throttles]
    if not busy:
        message = f"no requests in the last {text.duration(WINDOW)}"
        return unknown(message, NOTHING_ARRIVES).named(result_words.NO_TRAFFIC)
    last = busy[-1]
    silent = traffic.until - last - MINUTE
    rate = usual_rate([minute.requests for minute in traffic.minutes if minute.at <= last])
    at = text.time_of_day(last, now)
    if rate * (silent / MINUTE) >= IMPLAUSIBLE_REQUESTS:
        message = f"no requests since {at}; {text.figure(rate)} per minute were usual before"
        return unknown(message, NOTHING_ARRIVES).named(result_words.NO_TRAFFIC)
    return ok(f"{text.figure(rate)} requests per minute; the last at {at}")


def _rate(what: str, traffic: AliasTraffic, limit: float, condition: str = "") -> Finding:
    if not traffic.requests:
        raise NotMeasured(f"no requests in the last {text.duration(RECENT)}", result_words.NO_TRAFFIC)
    number: int = sum(getattr(minute, what) for minute in traffic.minutes)
    share = number / traffic.requests
    described = (
        f"{text.percent(share)} of {text.count(traffic.requests, 'request')}{condition} "
        f"(limit {text.exact_percent(limit)})"
    )
    # One failed request of a handful is no outage.
    if number > 1 and share > limit:
        return problem(described, number=share, limit=limit)
    return ok(described, number=share, limit=limit)
