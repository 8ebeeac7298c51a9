"""Whether an alias that does not exist served before, and which version: its record was deleted with it.

Such an alias is no first deployment. CloudWatch keeps which requests called it; nothing else does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.text import MINUTE, count, floor_minute, join_words, percent, time_of_day
from buddy_ops.health import metrics, serving
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import UNKNOWN_VERSION, MinuteRow
from buddy_ops.health.serving import name_version, version_order

MEMORY = timedelta(days=14)
"""How far back requests are searched: CloudWatch keeps minutes for 15 days."""

RECENT = timedelta(hours=3)
"""The last part of its service, by version: longer than a rollout with its monitoring."""

EDGE = timedelta(minutes=5)
"""The versions of so much time at each end of it are compared. In a shorter time the smaller share may be missing."""


@dataclass(frozen=True)
class VersionService:
    """What a version served in the last part of the service: ``until`` is the end of its latest minute, in UTC."""

    version: str
    counts: Counts
    until: datetime

    def describe(self, now: datetime) -> str:
        """The version, its requests, its failures and until when it served, without a full stop."""
        failed = percent(self.counts.errors / self.counts.requests)
        served = f"{name_version(self.version)} served {count(self.counts.requests, 'request')} ({failed} failed)"
        return f"{served} until {time_of_day(self.until, now, ago=True)}"


@dataclass(frozen=True)
class FormerService:
    """What CloudWatch has of an alias that does not exist any more.

    Attributes:
        requests: all requests within ``MEMORY``.
        last: the latest minute with requests, in UTC.
        versions: those that served within the last ``RECENT`` of it, oldest first.
        version: the one to return to: it served both first and last in that time, or else alone at the end; empty if
            there is no such one.
        steady: whether ``version`` served both first and last.
        notes: what could not be read, a sentence each.
    """

    requests: int
    last: datetime
    versions: tuple[VersionService, ...]
    version: str
    steady: bool
    notes: tuple[str, ...]

    def describe(self, now: datetime) -> str:
        """That it served, which versions did, and until when: sentences."""
        at = time_of_day(self.last, now, ago=True)
        sentences = [f"It received {count(self.requests, 'request')} in the last {MEMORY.days} days, the last at {at}."]
        if self.versions:
            sentences.append(f"{join_words(service.describe(now) for service in self.versions)}.")
        else:
            sentences.append("Which version served is unknown.")
        return " ".join((*sentences, *self.notes))

    def restore(self, target: Target) -> str:
        """How the alias is created again at the version that served: a deployment would serve an unverified build."""
        named = [service.version for service in self.versions if service.version.isdecimal()]
        advice = restore_advice(target, self.version, named)
        others = [name_version(version) for version in named if version != self.version]
        if not self.version or self.steady or not others:
            return advice
        # At 100 % it may still have been monitored.
        new = name_version(self.version)
        return f"{advice} If {new} was not shown to be healthy, create it at {join_words(others, 'or')} instead."


def restore_advice(target: Target, version: str, others: Sequence[str] = ()) -> str:
    """The command that creates the alias again, a sentence.

    Args:
        version: the one that served; empty: a person chooses it.
        others: the versions to choose from, where more than one may have been the right one.
    """
    if version:
        return f"Create it again: `{aliases.create_command(target, version)}`."
    choice = "VERSION is the one that served before"
    if others:
        choice = f"VERSION is the one of your choice: {join_words(map(name_version, others), 'or')}"
    return f"Create it again ({choice}): `{aliases.create_command(target, 'VERSION')}`."


def read_former_service(target: Target) -> FormerService | None:
    """What an alias that does not exist served within ``MEMORY``; None: CloudWatch has no request of it.

    AWS: cloudwatch:GetMetricData; where it has some, as ``serving.read_served``. Reads only.

    Raises:
        AwsFailed: whether it served is unknown.
    """
    until = floor_minute(target.clock.now()) + MINUTE
    requests = metrics.read_requests(target, until - MEMORY, until)
    if not requests:
        return None
    last = max(requests)
    reading = serving.read_served(target, None, last - RECENT, last + MINUTE)
    busy = [row for row in reading.rows if _served(row)]
    first: set[str] = set()
    at_end: set[str] = set()
    if busy:
        first = _served_in(busy, busy[0].at)
        # EDGE up to the end of the last minute.
        at_end = _served_in(busy, busy[-1].at - EDGE + MINUTE)
    # In the middle of a rollout both serve, and the stable version served before.
    steady = _only_known(first & at_end)
    notes = reading.notes
    if reading.trouble is not None:
        notes = (reading.trouble, *notes)
    return FormerService(
        requests=round(sum(requests.values())),
        last=last,
        versions=tuple(_services(busy)),
        version=steady or _only_known(at_end),
        steady=bool(steady),
        notes=notes,
    )


def _served(row: MinuteRow) -> set[str]:
    """The versions with requests in a minute, an unknown one included."""
    return {version for version, counts in row.counts.items() if counts.requests}


def _served_in(rows: Iterable[MinuteRow], since: datetime) -> set[str]:
    """The versions with requests within ``EDGE`` from a minute on."""
    return set[str]().union(*(_served(row) for row in rows if since <= row.at < since + EDGE))


def _only_known(served: set[str]) -> str:
    """The one version in a set; empty if there are several, or if it is unknown."""
    (version, *others) = served or {UNKNOWN_VERSION}
    return "" if others or version == UNKNOWN_VERSION else version


def _services(rows: Sequence[MinuteRow]) -> Iterable[VersionService]:
    found = set[str]().union(*(_served(row) for row in rows))
    totals = metrics.totals(rows, found)
    for version in sorted(found, key=version_order):
        latest = max(row.at for row in rows if version in _served(row))
        yield VersionService(version, totals[version], latest + MINUTE)
