"""Logs Insights on the function's log: any query, and cold starts by version.

Lambda writes the init duration of a new environment into the log's REPORT line, and into no standard metric.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import count, duration
from buddy_ops.health.metrics import MALFORMED

INIT_BOUND_MS = 2000.0
"""A cold start should take less. Source: the deployment guide, 'Watching'."""

QUERY_POLL = timedelta(seconds=1)
QUERY_POLLS = 60

COLD_STARTS_QUERY = (
    'filter @type = "REPORT" | parse @logStream /\\[(?<version>[^\\]]+)\\]/ '
    "| stats count(*) as invocations, count(@initDuration) as cold, pct(@initDuration, 95) as init by version"
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
        return f"v{self.version}: {count(self.cold, 'cold start')} in {count(self.invocations, 'invocation')}{init}"


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


def query_log(
    target: Target, query: str, since: datetime, until: datetime, watch: Progress = no_progress
) -> list[dict[str, str]]:
    """What Logs Insights answers about the function's log: one mapping of fields per row.

    Args:
        watch: called with a line of progress at each poll.

    AWS: logs:StartQuery, logs:GetQueryResults, reads only; Logs Insights bills the data that it scans.

    Raises:
        AwsFailed: ``query-unfinished``, and whatever AWS refuses.
    """
    group = f"/aws/lambda/{target.settings.function}"
    client = target.client("logs")
    started = client.start_query(
        logGroupName=group,
        queryString=query,
        startTime=int(since.timestamp()),
        endTime=int(until.timestamp()),
    )
    for poll in range(QUERY_POLLS):
        watch(f"Searching the log of {target.settings.function} (poll {poll + 1} of at most {QUERY_POLLS})")
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
    """Cold starts by version. AWS: as ``query_log``.

    Raises:
        AwsFailed: as ``query_log``.
    """
    rows = query_log(target, COLD_STARTS_QUERY, since, until)
    return tuple(
        ColdStarts(
            version=row["version"],
            invocations=int(row["invocations"]),
            cold=int(row["cold"]),
            p95_init_ms=float(row["init"]) if row.get("init") else None,
        )
        for row in sorted(rows, key=lambda row: row["version"])
    )


def describe_cold_starts(target: Target, since: datetime, until: datetime) -> ColdStartsReading:
    """As ``read_cold_starts``, but a log that cannot be read is reported, never raised."""
    try:
        return ColdStartsReading(read_cold_starts(target, since, until))
    except AwsFailed as failure:
        return ColdStartsReading((), f"Cold starts are unknown. {failure.what}")
    except MALFORMED as error:
        return ColdStartsReading((), f"Cold starts are unknown. The log's answer could not be read ({error}).")
