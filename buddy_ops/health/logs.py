"""Logs Insights on the function's log: any query, and cold starts by version.

Lambda writes the init duration of a new environment into its report of the request in the log, and into no standard
metric. Each version has a log group and a format of its own, and functions may share a group.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.function_log import LogConfig, default_group
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, NotFound
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import count, duration, join_words
from buddy_ops.health.metrics import MALFORMED

INIT_BOUND_MS = 2000.0
"""A cold start should take less. Source: the deployment guide, 'Watching'."""

QUERY_POLL = timedelta(seconds=1)
QUERY_POLLS = 60

OWN_LINES = "parse @logStream /\\/(?:{function})?\\[(?<version>[^\\]]+)\\]/ | filter version like /./ "
"""The beginning of a query: the lines of our function, with the version that wrote each.

A stream is DATE/[VERSION]ID, in a group that functions may share DATE/FUNCTION[VERSION]ID.
"""

REPORTS = '@type = "REPORT" or type = "platform.report"'
"""The condition of a query that Lambda's reports fulfil, one for each request, in a log of text or of JSON."""

COLD_STARTS_QUERY = (
    f"{OWN_LINES}"
    f"| filter {REPORTS} "
    "| fields coalesce(@initDuration, record.metrics.initDurationMs) as init_ms "
    "| stats count(*) as invocations, count(init_ms) as cold, pct(init_ms, 95) as init by version"
)


@dataclass(frozen=True)
class ColdStarts:
    """Environments that a version started in a window: how many invocations did, of how many, and their init time."""

    version: str
    invocations: int
    cold: int
    p95_init_ms: float | None

    @property
    def is_slow(self) -> bool:
        """Whether more than one start in twenty took longer than the bound."""
        return self.p95_init_ms is not None and self.p95_init_ms >= INIT_BOUND_MS

    def __str__(self) -> str:
        init = "" if self.p95_init_ms is None else f", p95 init {self.p95_init_ms / 1000:.1f} s"
        name = versions.label(self.version)
        return f"{name}: {count(self.cold, 'cold start')} in {count(self.invocations, 'invocation')}{init}"


@dataclass(frozen=True)
class ColdStartsReading:
    """What the log answered; ``trouble`` says why ``found`` is empty where it could not be read."""

    found: tuple[ColdStarts, ...]
    trouble: str | None = None

    def __str__(self) -> str:
        if self.trouble is not None:
            return self.trouble
        bound = duration(INIT_BOUND_MS / 1000)
        slow = [starts for starts in self.found if starts.is_slow]
        advice = [f"v{starts.version} cold starts exceed {bound}. Reduce the package size." for starts in slow]
        return "\n".join([*map(str, self.found), *advice]) or "No invocation was logged."


def served_versions(target: Target) -> tuple[str, ...]:
    """The versions that the alias serves, and those of its record, newest first; without any, $LATEST.

    AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``function-missing``.
    """
    alias = aliases.read_alias(target)
    if alias is None:
        return (versions.LATEST,)
    found = set(alias.serving)
    if alias.rollout is not None:
        found |= {alias.rollout.stable_version, alias.rollout.new_version}
    published = sorted(filter(str.isdecimal, found), key=int, reverse=True)
    return tuple(published) or (versions.LATEST,)


def read_log_configs(target: Target, numbers: Collection[str]) -> dict[str, LogConfig]:
    """The log configuration of versions, by number; one that cannot be read has Lambda's default.

    AWS: lambda:GetFunctionConfiguration, reads only.
    """
    configs = {}
    for number in numbers:
        try:
            configs[number] = versions.read_version(target, number).log
        except BuddyError:
            # A version that was deleted, or that the role may not read: its log may well be where logs usually are.
            configs[number] = LogConfig(default_group(target.settings.function))
    return configs


def groups_of(configs: Mapping[str, LogConfig]) -> tuple[str, ...]:
    """The log groups of versions, each once."""
    return tuple(dict.fromkeys(config.group for config in configs.values()))


def require_reports(configs: Mapping[str, LogConfig]) -> None:
    """Do nothing if the logs of all versions have Lambda's reports: only then requests can be counted by them.

    Raises:
        AwsFailed: ``reports-not-logged``.
    """
    silent = [versions.label(number) for number, config in configs.items() if not config.reports]
    if silent:
        raise AwsFailed(
            "reports-not-logged",
            f"The log of {join_words(silent)} has no reports of successful requests (SystemLogLevel WARN).",
            next="Set SystemLogLevel in the function's LoggingConfig to INFO. It holds from the next version on.",
            code="reports-not-logged",
        )


def query_log(
    target: Target,
    query: str,
    since: datetime,
    until: datetime,
    watch: Progress = no_progress,
    *,
    groups: Collection[str] = (),
) -> list[dict[str, str]]:
    """What Logs Insights answers about the function's log: one mapping of fields per row.

    Args:
        query: ``{function}`` in it is replaced by the function's name.
        watch: called with a line of progress at each poll.
        groups: the log groups to search, one after another; by default Lambda's own for the function. One that does
            not exist is left out, unless no other exists.

    AWS: logs:StartQuery, logs:GetQueryResults, reads only; Logs Insights bills the data that it scans.

    Raises:
        AwsFailed: ``query-unfinished``, and whatever AWS refuses.
    """
    # A function's name has no sign that a regular expression reads as another.
    query = query.replace("{function}", target.settings.function)
    rows = []
    missing: NotFound | None = None
    found = False
    for group in groups or [default_group(target.settings.function)]:
        try:
            rows += _query_group(target, group, query, since=since, until=until, watch=watch)
            found = True
        except NotFound as failure:
            missing = failure
    if missing is not None and not found:
        raise missing
    return rows


def _query_group(
    target: Target, group: str, query: str, *, since: datetime, until: datetime, watch: Progress
) -> list[dict[str, str]]:
    watch = target.side.watch(watch)
    client = target.client("logs")
    started = client.start_query(
        logGroupName=group,
        queryString=query,
        startTime=int(since.timestamp()),
        endTime=int(until.timestamp()),
    )
    for poll in range(QUERY_POLLS):
        watch(f"Searching the log {group} (poll {poll + 1} of at most {QUERY_POLLS})")
        reply = client.get_query_results(queryId=started["queryId"])
        if reply["status"] == "Complete":
            return [{cell["field"]: cell["value"] for cell in row} for row in reply["results"]]
        target.clock.sleep_until(target.clock.now() + QUERY_POLL)
    raise AwsFailed(
        "query-unfinished",
        f"The query on {group} did not finish within {QUERY_POLLS} polls (status {reply['status']}).",
        next="Use a shorter window, or open Logs Insights in the console.",
        code="timeout",
    )


def read_cold_starts(target: Target, since: datetime, until: datetime) -> tuple[ColdStarts, ...]:
    """Cold starts by version, in the logs of the versions that the alias serves and of its record.

    AWS: lambda:GetAlias, GetFunctionConfiguration, and as ``query_log``.

    Raises:
        AwsFailed: ``reports-not-logged``: a version logs no report of most requests; and as ``query_log``.
    """
    configs = read_log_configs(target, served_versions(target))
    require_reports(configs)
    rows = query_log(target, COLD_STARTS_QUERY, since, until, groups=groups_of(configs))
    return tuple(
        ColdStarts(
            version=row["version"],
            invocations=int(row["invocations"]),
            cold=int(row["cold"]),
            # Logs Insights leaves out a field without a value.
            p95_init_ms=float(row["init"]) if row.get("init") else None,
        )
        for row in sorted(rows, key=lambda row: row["version"])
    )


def describe_cold_starts(target: Target, since: datetime, until: datetime) -> ColdStartsReading:
    """As ``read_cold_starts``, but a log that cannot be read is reported, never raised."""
    try:
        return ColdStartsReading(read_cold_starts(target, since, until))
    except BuddyError as failure:
        return ColdStartsReading((), f"Cold starts are unknown. {failure.what}")
    except MALFORMED as error:
        return ColdStartsReading((), f"Cold starts are unknown. The log's answer could not be read ({error}).")
