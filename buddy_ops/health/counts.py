"""What a verdict is made from: requests and failures of the versions in a minute, or in a tick of some seconds."""

from dataclasses import dataclass
from typing import Literal

StreamName = Literal["errors", "slow"]
Figure = Literal["requests", "errors", "slow", "throttles"]
NOTHING_KNOWN: frozenset[Figure] = frozenset(("requests", "errors", "slow", "throttles"))
"""All figures of ``Counts``: what is unknown while nothing was published."""


@dataclass(frozen=True, slots=True)
class Counts:
    """One version in one minute: requests, failures, requests over the latency bound, calls throttled unrun.

    Attributes:
        cold: the requests that were cold starts, where that was asked; ``cold_slow``: those over the latency bound.
        shared: those of ``errors`` that only a metric of the alias as a whole counts.
        unknown: the figures of which only a part was published, or nothing: each is what was seen, and may be more. A
            sum is unknown where any of its terms is.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    throttles: int = 0
    unknown: frozenset[Figure] = frozenset()
    cold: int = 0
    cold_slow: int = 0
    shared: int = 0

    @property
    def seen(self) -> bool:
        """Whether anything was seen: a request, or a call that was throttled."""
        return bool(self.requests or self.throttles)

    @property
    def warm(self) -> tuple[int, int]:
        """Slow requests and all requests, without the cold starts that are known."""
        return self.slow - self.cold_slow, self.requests - self.cold

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            slow=self.slow + other.slow,
            throttles=self.throttles + other.throttles,
            unknown=self.unknown | other.unknown,
            cold=self.cold + other.cold,
            cold_slow=self.cold_slow + other.cold_slow,
            shared=self.shared + other.shared,
        )


@dataclass(frozen=True, slots=True)
class Minute:
    """Both versions in one minute.

    Attributes:
        weight: the canary's 0..1 share.
        weight_changed: it moved inside this minute.
        unread: the streams of which this minute shows nothing.
        shared: failures that no version can be given, since only a metric of the alias as a whole counts them; None:
            there is no such metric, or one version had all requests.
        canary_requests_at_most: where requests of the canary may not be published yet, how many it may have had.
        judged_by_ticks: ticks have shown the canary's part of it already. It is read for stable's own figures,
            throttled calls and failures of the alias as a whole.
    """

    weight: float
    stable: Counts
    canary: Counts
    weight_changed: bool = False
    unread: frozenset[StreamName] = frozenset()
    canary_requests_at_most: int = 0
    shared: int | None = None
    judged_by_ticks: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Some seconds of both versions, read from the function's log: of stable only its failures, not its requests.

    Attributes:
        seconds: its length, at most 60.
        weight: the canary's 0..1 share; where it moved in this tick, or may have, the larger one.
        canary: its requests that began in this tick, with all cold starts known.
        stable_errors: stable's failures.
        stable_slow: its slow requests, cold starts among them; ``stable_cold_slow``: how many of them were.
        least_weight: the smaller share where it moved; None: it did not.
        unread: the streams of which this tick shows nothing.
    """

    seconds: float
    weight: float
    canary: Counts
    stable_errors: int = 0
    stable_slow: int = 0
    stable_cold_slow: int = 0
    least_weight: float | None = None
    unread: frozenset[StreamName] = frozenset()
