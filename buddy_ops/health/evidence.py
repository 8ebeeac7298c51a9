"""The evidence of one rollout: CloudWatch's minutes, fed to the judge once each and in order.

Holds when a minute may be judged, under which weight it was served and how long a stage has baked. Never writes and
never decides: the verdict is the judge's, what follows from it the rollout's. Built again from the alias's record, it
ends in the same state as the one that ran.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice, takewhile

from buddy_ops.aws.aliases import RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core.settings import Settings
from buddy_ops.core.text import floor_minute
from buddy_ops.health import metrics
from buddy_ops.health.judge import Counts, Judge, JudgePolicy, Minute, Verdict
from buddy_ops.health.metrics import MINUTE, MinuteRow

IMPLAUSIBLE_REQUESTS = 7.0
"""Silence is no longer chance where this many requests were expected: a Poisson count of mean 7 is 0 with p < 0.001."""

RATE_MINUTES = 60
"""The alias is idle if it had no request for this long; its usual rate is taken over as many minutes."""

RECENT_MINUTES = 15
"""Where traffic is falling, the rate of so many minutes is the lower one, and holds."""

WAIT_MINUTES = 3
"""How long silence that chance explains is left unread, in case its minutes are only late."""

SETTLED_MINUTES = 5
"""A minute that is still empty once this many later ones have arrived will not come any more."""


def judge_policy(settings: Settings) -> JudgePolicy:
    """What an environment tolerates, for the judge; ``benchmarks/judge`` simulates the same."""
    return JudgePolicy(
        slo_error_rate=settings.health.error_rate,
        slo_slow_rate=settings.health.slow_rate,
        slow_bound_s=settings.health.latency_ms / 1000,
        on_slow=settings.rollout.on_slow,
        max_stretch_s=60 * settings.rollout.stretch_minutes,
        external_limit_s=60 * settings.rollout.external_minutes,
    )


class RolloutEvidence:
    """The minutes of one rollout and their judge.

    Args:
        stable: the version that served before.
        new: the version being rolled out.
    """

    def __init__(self, target: Target, stable: str, new: str) -> None:
        self.stable = stable
        self.new = new
        self._target = target
        self._health = target.settings.health
        self.shifts: list[tuple[datetime, float]] = []
        self.rows: list[MinuteRow] = []
        self._shown = 0
        self._next: datetime | None = None
        self._history: list[Counts] = []
        self._judge: Judge | None = None
        self._stages_begun = 1
        self._bake_from = target.clock.now()
        self._lost = timedelta()
        self._missed = 0.0
        self._judges = True
        self._served_at: datetime | None = None  # the latest minute with traffic

    @property
    def judge(self) -> Judge:
        """The judge; before the first judged minute, one that has only the history."""
        if self._judge is not None:
            return self._judge
        policy = judge_policy(self._target.settings)
        return Judge(policy, self._history, stable_name=f"v{self.stable}", canary_name=f"v{self.new}")

    @property
    def requests_per_minute(self) -> float:
        """Stable's traffic over the latest ten minutes that were read."""
        latest = [row.counts[self.stable].requests for row in self.rows[-10:]]
        return sum(latest) / max(1, len(latest))

    def resume(self, record: RolloutState, weights: list[float]) -> datetime:
        """Continue a rollout from its record. Returns when it first shifted traffic."""
        since = datetime.fromisoformat(record.since)
        moments = [since - timedelta(seconds=age_s) for age_s in (*record.stage_ages_s, 0)]
        # The watch is the last stage, whichever strategy began; a stage that was never shifted to has no moment.
        passed = weights[: len(moments)] if record.shifting else weights[-len(moments) :]
        self.shifts = list(zip(moments, passed, strict=False))
        self._bake_from = since
        return moments[0]

    def shifted(self, now: datetime, weight: float) -> None:
        """Traffic was shifted just now: a new stage bakes."""
        self.shifts.append((now, weight))
        self._bake_from = now
        self._lost = timedelta()

    def rolled_back(self, now: datetime) -> None:
        """All traffic was rolled back just now: the minutes that come are counted, and judged no more."""
        self.shifts.append((now, 0.0))
        self._judges = False

    def lose(self, unread: timedelta) -> None:
        """Metrics could not be read for this long: the bake clock was stopped."""
        self._lost += unread

    def baked_s(self, now: datetime) -> float:
        """Seconds that the present stage has baked, without the time in which metrics could not be read."""
        return (now - self._bake_from - self._lost).total_seconds()

    def read(self, now: datetime) -> str | None:
        """Read and judge every minute that is old enough since the last read; what went wrong, or None.

        CloudWatch publishes late and revises: a minute is judged once, ``late_data_s`` after its end. A minute that is
        still not published then is unknown: an answer without data is not an answer of zero. It stops the reading, is
        asked for again at the next poll, and is judged when it arrives. See ``_is_unpublished``.

        AWS: cloudwatch:GetMetricData, reads only.
        """
        if self._next is None:
            first = self.shifts[0][0] if self.shifts else now
            self._next = floor_minute(first) - timedelta(minutes=self._health.history_minutes)
        until = metrics.published_until(self._target, now)
        reading = metrics.read_minutes(self._target, (self.stable, self.new), self._serving, self._next, until)
        if reading.trouble is not None:
            return reading.trouble
        for index, row in enumerate(reading.rows):
            rest = reading.rows[index:]
            # The minute before an unpublished one may itself be published in part only.
            if self._is_unpublished(rest) or (len(rest) > 1 and self._is_unpublished(rest[1:])):
                self._next = row.at
                return self._lag(row.at, until)
            if self._may_still_come(rest):
                self._next = row.at
                return None
            expected = self._expected(row)
            self._missed = self._missed + expected if expected else 0.0
            self.rows.append(row)
            if not row.is_silent:
                self._served_at = row.at
            # What is still incomplete after later minutes have come says nothing of failures: it is not observed.
            if not row.incomplete:
                self._feed(row)
        self._next = max(self._next, until)
        return None

    def _is_unpublished(self, rows: Sequence[MinuteRow]) -> bool:
        """Whether CloudWatch has not published the first of these minutes yet, as far as the others show.

        It is late where a metric of the minute is missing, and where the silence that begins with it is longer than
        chance explains: the expected requests reach ``IMPLAUSIBLE_REQUESTS``. While traffic is split, requests of the
        one version show that the minute is published, unless the other's share of them is that large.

        Args:
            rows: the minute in question, and every later one that was read.
        """
        if not rows[0].incomplete:
            silence = takewhile(lambda expected: expected > 0, map(self._expected, rows))
            if not self._expected(rows[0]) or self._missed + sum(silence) < IMPLAUSIBLE_REQUESTS:
                return False
        later = (row for row in rows[1:] if not row.incomplete and not self._expected(row))
        return len(list(islice(later, SETTLED_MINUTES))) < SETTLED_MINUTES

    def _may_still_come(self, rows: Sequence[MinuteRow]) -> bool:
        """Whether nothing was published of any of these latest minutes, by chance or since they are late.

        At such low traffic this cannot be decided. They delay nothing, and are left unread for a while: a late one is
        judged.
        """
        # The number first: a day of history has thousands of silent minutes to go through.
        silent = len(rows) <= WAIT_MINUTES and all(row.is_silent for row in rows)
        return silent and self._rate(rows[0].at) > 0

    def _expected(self, row: MinuteRow) -> float:
        """How many requests a minute would have had where it shows none; 0 if it shows some of each version."""
        if row.is_silent:
            return self._rate(row.at)
        weight = self._weight(row)
        if self._is_moving(row) or not 0 < weight < 1:
            return 0.0
        stable, new = row.counts[self.stable].requests, row.counts[self.new].requests
        if not new:
            return stable * weight / (1 - weight)
        if not stable:
            return new * (1 - weight) / weight
        return 0.0

    def _rate(self, moment: datetime) -> float:
        """The alias's requests a minute up to its last minute with traffic; 0 if it was idle for the last hour."""
        if self._served_at is None or moment - self._served_at > RATE_MINUTES * MINUTE:
            return 0.0
        latest = self.rows[-2 * RATE_MINUTES :]
        while latest and latest[-1].is_silent:
            latest.pop()
        requests = [sum(counts.requests for counts in row.counts.values()) for row in latest]
        hour = requests[-RATE_MINUTES:]
        recent = requests[-RECENT_MINUTES:]
        return min(sum(hour) / len(hour), sum(recent) / len(recent))

    def _lag(self, since: datetime, until: datetime) -> str:
        """The trouble of minutes that CloudWatch has not published."""
        minutes = (until - since) / MINUTE
        rate = self._rate(since)
        usual = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return (
            f"CloudWatch is late: metrics of {self._target.resource} since {since:%H:%M} UTC ({minutes:.0f} min) are "
            f"missing or incomplete. The usual rate is {usual} requests per minute."
        )

    def fresh(self) -> tuple[MinuteRow, ...]:
        """The minutes read since this was last asked."""
        rows = tuple(self.rows[self._shown :])
        self._shown = len(self.rows)
        return rows

    def verdict(self, now: datetime, bake_s: float, final: bool) -> Verdict:
        """The judge's verdict on all minutes so far."""
        return self.judge.verdict(self.baked_s(now), bake_s, final)

    def totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """Requests and failures by version since the first shift."""
        rows = [row for row in self.rows if self.shifts and row.at + MINUTE > self.shifts[0][0]]
        total = metrics.totals(rows, (self.stable, self.new))
        requests = {version: counts.requests for version, counts in total.items()}
        failed = {version: counts.errors for version, counts in total.items()}
        return requests, failed

    def _serving(self, minute: datetime) -> str:
        """The alias's primary in a minute: requests that name no version were its own."""
        share = next((share for moment, share in reversed(self.shifts) if moment <= minute), 0.0)
        return self.new if share == 1.0 else self.stable

    def _weight(self, row: MinuteRow) -> float:
        """The new version's share, 0..1, at the end of a minute."""
        return next((share for moment, share in reversed(self.shifts) if moment < row.at + MINUTE), 0.0)

    def _is_moving(self, row: MinuteRow) -> bool:
        """Whether traffic was shifted in this minute or the one before: an alias takes up to a minute to follow."""
        return any(row.at - MINUTE < moment < row.at + MINUTE for moment, _ in self.shifts)

    def _feed(self, row: MinuteRow) -> None:
        """Judge one minute under the weight that it was served under; minutes before the first shift are history."""
        end = row.at + MINUTE
        if not self.shifts or end <= self.shifts[0][0]:
            self._history.append(row.counts[self.stable])
            return
        if not self._judges:
            return
        judge = self._judge = self.judge
        # For the judge, a stage began before the minutes that could be read only after it. So it was when they were
        # read one by one, and so it must be when a resumed run reads them all at once.
        readable = end + timedelta(seconds=self._health.late_data_s)
        begun = sum(moment < readable for moment, _ in self.shifts)
        for _ in range(self._stages_begun, begun):
            judge.next_stage()
        self._stages_begun = max(self._stages_begun, begun)
        before = judge.rebakes
        judge.observe(
            Minute(
                weight=self._weight(row),
                stable=row.counts[self.stable],
                canary=row.counts[self.new],
                weight_changed=self._is_moving(row),
            )
        )
        if judge.rebakes > before:
            self._bake_from = max(self._bake_from, readable)
            self._lost = timedelta()
