"""Whether a fleet's rollback helped: each target's error rate before its traffic moved, and since."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from buddy_ops.core.text import MINUTE, floor_minute
from buddy_ops.fleet import traffic
from buddy_ops.fleet.rollback import FleetRollback
from buddy_ops.fleet.targets import Place
from buddy_ops.fleet.traffic import AliasTraffic

BEFORE = timedelta(minutes=5)
"""The minutes before the move that its error rate is compared with."""


@dataclass(frozen=True)
class Recovery:
    """One target's error rates as shares, 0..1; None: no request was published.

    Attributes:
        requests: since the move, and how many of them ``failed``.
        minutes: whole minutes since the move that are published.
        limit: what its environment allows.
    """

    name: str
    before: float | None
    requests: int
    failed: int
    minutes: int
    limit: float

    @property
    def after(self) -> float | None:
        """The error rate since the move."""
        return self.failed / self.requests if self.requests else None

    @property
    def harm(self) -> tuple[float, float, str]:
        """Sorts what still is over its limit first, then what failed most before."""
        after = self.after or 0.0
        # One failed request of a handful is no outage.
        fails = self.failed > 1 and after > self.limit
        return -after if fails else 0.0, -(self.before or 0.0), self.name


def read_recoveries(places: Sequence[Place], done: FleetRollback) -> list[Recovery]:
    """The targets whose traffic moved, the worst first. What cannot be read has no rates.

    AWS: cloudwatch:GetMetricData, once for about 100 targets, reads only.
    """
    # Also of those whose verification failed: their rates say whether the move helped.
    moved = {each.name: each.moved.at for each in done.results if each.moved is not None}
    found = []
    for place in places:
        members = [member for member in place.members if member.name in moved]
        if place.reader is None or not members:
            continue
        read = traffic.read_traffic(place.reader, [place.target(member) for member in members])
        for member in members:
            hour = read[member.name]
            limit = member.settings.health.error_rate
            if isinstance(hour, AliasTraffic):
                found.append(_recovery(member.name, hour, floor_minute(moved[member.name]), limit))
            else:
                found.append(Recovery(member.name, before=None, requests=0, failed=0, minutes=0, limit=limit))
    return sorted(found, key=lambda each: each.harm)


def _recovery(name: str, hour: AliasTraffic, moved: datetime, limit: float) -> Recovery:
    """The minute of the move itself had requests of both versions: it is in neither rate."""
    earlier = tuple(minute for minute in hour.minutes if moved - BEFORE <= minute.at < moved)
    later = hour.since(moved + MINUTE)
    before = AliasTraffic(earlier, hour.until).error_rate
    return Recovery(
        name, before=before, requests=later.requests, failed=later.errors, minutes=len(later.minutes), limit=limit
    )
