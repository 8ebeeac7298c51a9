"""Which version served a minute: the one answer that status, charts, monitor, triage and reviews share.

A request belongs to the version that ran it. CloudWatch names that version (ExecutedVersion) while traffic is split,
and the environment's own failure metrics name it in any case. Where neither does, the alias's record says which version
was the primary, as far as it reaches; then the function's log does. What none of them says is unknown, and is never
given to the version that happens to serve now.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import label
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.settings import MetricName
from buddy_ops.core.text import floor_minute, parse_utc
from buddy_ops.health import logs, metrics
from buddy_ops.health.metrics import MALFORMED, MINUTE, UNKNOWN_VERSION, MinuteRow

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import DimensionFilterTypeDef

Value = TypeVar("Value")

MOST_VERSIONS = 8
"""How many of the newest versions that CloudWatch has minutes of are read: each is a query of some ten metrics."""

SERVED_QUERY = f"{logs.OWN_LINES}| filter {logs.REPORTS} | stats count(*) as requests by bin(1m) as minute, version"
"""The requests of each minute and version, by the names of the log's streams."""


LOGGED_SHARE = 0.5
"""The log names the version of a minute if it has this share of the requests: each is logged when it ends."""


@dataclass(frozen=True)
class ServedReading:
    """Minutes by the version that served them.

    Attributes:
        versions: the versions that may have served, oldest first.
        trouble: why there are no rows; None if CloudWatch answered.
        notes: what could not be read beside it, a sentence each.
    """

    rows: tuple[MinuteRow, ...]
    versions: tuple[str, ...]
    trouble: str | None = None
    notes: tuple[str, ...] = ()


def name_version(version: str) -> str:
    """A version as operators read it: 'v2', '$LATEST' or 'unknown version'."""
    if version == UNKNOWN_VERSION:
        return "unknown version"
    return label(version)


def version_order(version: str) -> int:
    """Sorts versions by age, and requests of an unknown version to the end."""
    return int(version) if version.isdecimal() else 2**63


def last_switch(alias: Alias) -> datetime | None:
    """Since when the alias serves the one version that it serves now, by its record; None if that is unknown.

    With no deployment record, or one of other versions, another tool may have moved the alias at any time.
    """
    record = alias.rollout
    if record is None or record.shifting:
        return None
    return parse_utc(record.since) if alias.share(record.left_serving) >= 1.0 else None


def primary_at(alias: Alias | None, minute: datetime) -> str | None:
    """The alias's primary version throughout a minute, by its record; None if the record does not say.

    Only requests that no metric gives to a version need this. While traffic is split, all of them have one.
    """
    if alias is None or alias.rollout is None:
        return None
    record = alias.rollout
    if record.shifting:
        # Before and during the split the stable version is the primary one. Other versions are another tool's work.
        explained = alias.serving == (record.stable_version, record.new_version) or alias.failsafe_triggered
        return record.stable_version if explained else None
    back = record.rolled_back
    # In a gradual rollback the version that was rolled back still has a weight.
    left = record.left_serving
    # While a new version is monitored at 100 %, the primary version receives nothing.
    alone = alias.share(left) >= 1.0
    if not alone and not (alias.draining and alias.primary == left):
        return None
    switched = parse_utc(record.since)
    if minute >= switched:
        return left
    if minute + MINUTE > switched:
        # The minute of the switch has requests of both.
        return None
    if not back:
        return record.stable_version or None
    # A version that a person named may be the second that was rolled back to.
    if not record.stage_ages_s or record.rolled_back_to:
        return None
    # Between the first shift and the rollback, only the new version can have served without weights.
    first_shift = switched - timedelta(seconds=max(record.stage_ages_s))
    if minute >= first_shift:
        return record.new_version
    return record.stable_version if minute + MINUTE <= first_shift else None


def read_served(
    target: Target, alias: Alias | None, since: datetime, until: datetime, also: Iterable[str] = ()
) -> ServedReading:
    """The minutes in [since, until), each request with the version that ran it.

    Args:
        alias: as it is now; None: it was deleted.
        also: versions to read beside those that the alias, its record and CloudWatch name.

    AWS: cloudwatch:ListMetrics, GetMetricData; lambda:GetFunctionConfiguration, logs:StartQuery,
    GetQueryResults where a minute's version is in no metric and no record. Reads only.
    """
    versions, unlisted = candidate_versions(target, alias, also)
    reading = metrics.read_minutes(target, versions, lambda minute: primary_at(alias, minute), since=since, until=until)
    notes = [unlisted] if unlisted else []
    rows = reading.rows
    unknown = [row for row in rows if _is_unknown(row)]
    if unknown:
        rows, unread = _name_by_log(target, rows, versions, since=unknown[0].at, until=unknown[-1].at + MINUTE)
        notes += [unread] if unread else []
    seen = {version for row in rows for version in row.counts if version != UNKNOWN_VERSION}
    return ServedReading(rows, tuple(sorted({*versions, *seen}, key=int)), reading.trouble, tuple(notes))


def candidate_versions(target: Target, alias: Alias | None, also: Iterable[str] = ()) -> tuple[list[str], str]:
    """The versions that may have served, oldest first, and what could not be read of them.

    They are those of the alias and its record, and the newest of which CloudWatch has minutes behind this alias.

    AWS: cloudwatch:ListMetrics, every page, reads only.
    """
    known = set(also)
    if alias is not None:
        known |= set(alias.serving)
        if alias.rollout is not None:
            known |= {alias.rollout.stable_version, alias.rollout.new_version}
    trouble = ""
    listed: set[str] = set()
    try:
        # Without weights only our own metrics may name a version.
        metrics_of_ours = (metric for metric in target.settings.failure_metrics if not metric.dimensions)
        own = ((metric.namespace, metric.name) for metric in metrics_of_ours)
        for namespace, name in (("AWS/Lambda", "Invocations"), *own):
            listed |= published_versions(target, namespace, name)
        known |= set(sorted(listed, key=int)[-MOST_VERSIONS:])
    except AwsFailed as failure:
        trouble = f"Other versions that served are unknown. {failure.what}"
    except MALFORMED as error:
        trouble = f"Other versions that served are unknown. CloudWatch's answer could not be read ({error})."
    return sorted((version for version in known if version.isdecimal()), key=int), trouble


def is_published(target: Target, metric: MetricName) -> bool:
    """Whether CloudWatch has a metric with its dimensions, of any version, within the last two weeks.

    AWS: cloudwatch:ListMetrics, every page (one may be empty), reads only.
    """
    if not metric.dimensions:
        return bool(published_versions(target, metric.namespace, metric.name))
    pages = target.client("cloudwatch").get_paginator("list_metrics")
    # A filter without a value is one of the name alone.
    dimensions: list[DimensionFilterTypeDef] = [
        {"Name": named["Name"], "Value": named["Value"]} for named in target.fill(metric.of_alias)
    ]
    dimensions += [{"Name": name} for name in metric.of_version if name not in metric.of_alias]
    listed = pages.paginate(Namespace=metric.namespace, MetricName=metric.name, Dimensions=dimensions)
    return any(page["Metrics"] for page in listed)


def published_versions(target: Target, namespace: str, name: str) -> set[str]:
    """The versions behind this alias of which CloudWatch has a metric, within the last two weeks.

    AWS: cloudwatch:ListMetrics, every page (one may be empty), reads only.
    """
    dimensions: list[DimensionFilterTypeDef] = [
        {"Name": "FunctionName", "Value": target.settings.function},
        {"Name": "Resource", "Value": target.resource},
        {"Name": "ExecutedVersion"},
    ]
    pages = target.client("cloudwatch").get_paginator("list_metrics")
    found = set()
    for page in pages.paginate(Namespace=namespace, MetricName=name, Dimensions=dimensions):
        for metric in page["Metrics"]:
            named = {dimension["Name"]: dimension["Value"] for dimension in metric.get("Dimensions", ())}
            found.add(named.get("ExecutedVersion", ""))
    return {version for version in found if version.isdecimal()}


def _is_unknown(row: MinuteRow) -> bool:
    unknown = row.counts.get(UNKNOWN_VERSION)
    return unknown is not None and unknown.requests > 0


def _name_by_log(
    target: Target, rows: Sequence[MinuteRow], versions: Collection[str], *, since: datetime, until: datetime
) -> tuple[tuple[MinuteRow, ...], str]:
    """The rows with the version that the log names in each unknown minute, and why it could not be read.

    Args:
        versions: those whose logs are read.

    AWS: lambda:GetFunctionConfiguration, logs:StartQuery, GetQueryResults, reads only.
    """
    try:
        configs = logs.read_log_configs(target, versions)
        # A version that reports only its failures would leave the minute to another one.
        logs.require_reports(configs)
        found = logs.query_log(target, SERVED_QUERY, since, until, groups=logs.groups_of(configs))
        served: dict[datetime, dict[str, int]] = {}
        for line in found:
            # '2026-11-22 03:12:00.000', in UTC.
            minute = floor_minute(parse_utc(f"{line['minute'][:19]}Z"))
            served.setdefault(minute, {})[line["version"]] = int(line["requests"])
    except AwsFailed as failure:
        return tuple(rows), f"The log does not say which version served. {failure.what}"
    except MALFORMED as error:
        return tuple(rows), f"The log does not say which version served. Its answer could not be read ({error})."
    return tuple(_named(row, served.get(row.at, {})) for row in rows), ""


def _named(row: MinuteRow, served: Mapping[str, int]) -> MinuteRow:
    """The row with its unknown requests given to the only version that the log has in this minute.

    Args:
        served: requests in the log, by version.
    """
    # $LATEST and other versions may have been called directly: then the log does not say who served the alias.
    if not _is_unknown(row) or len(served) != 1 or not (version := next(iter(served))).isdecimal():
        return row
    # A few of many: another version serves the alias, and its own log is elsewhere or has no reports.
    if served[version] < LOGGED_SHARE * row.counts[UNKNOWN_VERSION].requests:
        return row
    counts = dict(row.counts)
    unknown = counts.pop(UNKNOWN_VERSION)
    counts[version] = counts[version] + unknown if version in counts else unknown
    return replace(
        row,
        counts=counts,
        p99_ms=_renamed(row.p99_ms, version),
        p99_band_ms=_renamed(row.p99_band_ms, version),
    )


def _renamed(values: dict[str, Value], version: str) -> dict[str, Value]:
    """The values with the unknown version's under this one."""
    return {version if name == UNKNOWN_VERSION else name: value for name, value in values.items()}
