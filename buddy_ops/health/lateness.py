"""How late CloudWatch's metrics of one alias are: the newest minute that has data, per metric, and the longest lag.

Measures only. Whether a minute may be judged is ``evidence``'s to say.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from buddy_ops.aws.session import Target
from buddy_ops.core.text import duration, figure, time_of_day
from buddy_ops.health.metrics import EMITTED_PER_REQUEST, MINUTE, MetricsReading

IMPLAUSIBLE_REQUESTS = 7.0
"""Silence is no longer chance where this many requests were expected: a Poisson count of mean 7 is 0 with p < 0.001."""

TOLERATED = timedelta(minutes=3)
"""A lag of ``late_data_s`` and this delays judging and promotion; metrics that are later cannot be read."""

RATE_MINUTES = 60
"""An alias is idle if it had no request for this long; its usual rate is taken over as many minutes."""

RECENT_MINUTES = 15
"""Where traffic is falling, the rate of so many minutes is the lower one, and holds."""

LAMBDA_METRICS = ("Invocations", "Errors", "Duration")
"""Every request gives a sample of each."""


def usual_rate(requests: Sequence[float]) -> float:
    """Requests a minute that are usual, by those of the latest minutes, oldest first."""
    hour = requests[-RATE_MINUTES:]
    recent = requests[-RECENT_MINUTES:]
    return min(sum(hour) / len(hour), sum(recent) / len(recent))


class Lateness:
    """The lag of each metric that a rollout is judged by.

    Attributes:
        emission: by failure metric, samples per request. One that never had any cannot show that it is late. One that
            has a sample for each request shows it like Lambda's own metrics, minute by minute (``metrics``). One that
            has samples for failures alone shows it once its silence is longer than chance explains.
        longest: by metric, the longest lag that was seen.
    """

    def __init__(self, target: Target) -> None:
        self._resource = target.resource
        self._tolerated = timedelta(seconds=target.settings.health.late_data_s) + TOLERATED
        self._newest: dict[str, datetime] = {}
        self._since: datetime | None = None
        self._at: datetime | None = None
        self._rate = 0.0
        self.emission: dict[str, float] = {}
        self.longest: dict[str, timedelta] = {}

    def note(self, reading: MetricsReading, since: datetime) -> None:
        """Record what a read shows. ``since``: the first minute that it asked for."""
        self._since = self._since or since
        for metric, samples in reading.emission.items():
            self.emission.setdefault(metric, samples)
        newest = dict(reading.newest)
        # Throttled calls alone: Lambda publishes no other metric of them, and CloudWatch is up to that minute.
        if not newest:
            newest = {metric: row.at for row in reading.rows if not row.is_silent for metric in LAMBDA_METRICS}
        for metric, minute in newest.items():
            self._newest[metric] = max(minute, self._newest.get(metric, minute))

    def measure(self, now: datetime, rate: float) -> None:
        """Measure the lags at a poll. ``rate``: the alias's usual requests per minute, 0 if it is idle."""
        self._at = now
        self._rate = rate
        for metric, lag in self._lags(now).items():
            self.longest[metric] = max(lag, self.longest.get(metric, timedelta()))

    def conceals_failures(self, minute: datetime, rate: Callable[[datetime], float]) -> bool:
        """Whether a metric that has samples for failures alone has been silent up to a minute for too long."""
        for metric, samples in self.emission.items():
            newest = self._newest.get(metric)
            if newest is not None and 0 < samples < EMITTED_PER_REQUEST:
                silent = (minute - newest) / MINUTE
                if silent > 0 and silent * rate(minute) * samples >= IMPLAUSIBLE_REQUESTS:
                    return True
        return False

    @property
    def beyond_tolerance(self) -> bool:
        """Whether a metric is so late that it cannot be read."""
        return any(lag > self._tolerated for lag in self._current().values())

    def is_too_old(self, minute: datetime, now: datetime) -> bool:
        """Whether a minute is not complete so long after its end that metrics cannot be read."""
        return now - (minute + MINUTE) > self._tolerated + MINUTE

    def trouble(self, now: datetime, blocked: datetime | None) -> str:
        """What is late, in a sentence.

        Args:
            blocked: the first minute that cannot be judged.
        """
        usual = f"The usual rate is {figure(self._rate)} requests per minute."
        late = {metric: lag for metric, lag in self._current().items() if lag > self._tolerated}
        if late:
            named = "; ".join(f"{metric} has no data after {self._end(metric, now)}" for metric in late)
            return f"CloudWatch is late by {duration(max(late.values()))} for {self._resource}: {named}. {usual}"
        since = blocked or now
        return (
            f"CloudWatch is late by {duration(now - since)} for {self._resource}: metrics since "
            f"{time_of_day(since, now)} are missing or incomplete. {usual}"
        )

    def describe(self) -> str:
        """The newest minute of each metric and the longest lag, in sentences; empty before the first read."""
        if self._at is None or not self._newest:
            return ""
        named = "; ".join(f"{metric} until {self._end(metric, self._at)}" for metric in sorted(self._newest))
        if not self.longest:
            return f"Metrics read: {named}."
        metric = max(self.longest, key=lambda metric: self.longest[metric])
        return f"Metrics read: {named}. Longest lag: {duration(self.longest[metric])} ({metric})."

    def _current(self) -> dict[str, timedelta]:
        return {} if self._at is None else self._lags(self._at)

    def _lags(self, now: datetime) -> dict[str, timedelta]:
        """By metric, the time since the end of its newest minute, where silence of that length is no chance."""
        found = {}
        for metric in (*LAMBDA_METRICS, *self.emission):
            ended = self._newest.get(metric, self._since)
            samples = 1.0 if metric in LAMBDA_METRICS else self.emission[metric]
            if ended is None or not samples:
                continue
            lag = max(timedelta(), now - ended - MINUTE)
            # With few requests, or few failures, a silence of some minutes is no lag.
            if lag / MINUTE * self._rate * samples >= IMPLAUSIBLE_REQUESTS:
                found[metric] = lag
        return found

    def _end(self, metric: str, now: datetime) -> str:
        ended = self._newest.get(metric, self._since)
        return "-" if ended is None else time_of_day(ended + MINUTE, now)
