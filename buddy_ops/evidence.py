"""What is known of a rollout's versions so far: CloudWatch's minutes, fed to the judge once each and in order.

Knows when a minute may be judged, which weight it was served under and how long a stage has baked. Never writes, and
never decides: the verdict is the judge's, what follows from it the rollout's. Built again from the alias's record, it
ends in the same state as the one that ran.
"""

from datetime import datetime, timedelta

from buddy_ops import health, metrics
from buddy_ops.aliases import Record
from buddy_ops.health import Counts, Judge, Minute, Verdict
from buddy_ops.metrics import MINUTE, Row
from buddy_ops.target import Target


class Evidence:
    """The minutes of one rollout and their judge.

    Args:
        stable: the version that served before.
        new: the version being rolled out.
    """

    def __init__(self, target: Target, stable: str, new: str) -> None:
        self._target, self.stable, self.new = target, stable, new
        self._health = target.settings.health
        self.shifts: list[tuple[datetime, float]] = []
        self.rows: list[Row] = []
        self._told = 0
        self._next: datetime | None = None
        self._history: list[Counts] = []
        self._judge: Judge | None = None
        self._stages_begun = 1
        self._bake_from = target.clock.now()
        self._lost = timedelta()

    @property
    def judge(self) -> Judge:
        """The judge; before the first judged minute, one that knows only the history."""
        if self._judge is not None:
            return self._judge
        rollout = self._target.settings.rollout
        policy = health.Policy(
            slo_error_rate=self._health.error_rate,
            slo_slow_rate=self._health.slow_rate,
            slow_bound_s=self._health.latency_ms / 1000,
            on_slow=rollout.on_slow,
            max_stretch_s=60 * rollout.stretch_minutes,
            external_limit_s=60 * rollout.external_minutes,
        )
        return Judge(policy, self._history, stable_name=f"v{self.stable}", canary_name=f"v{self.new}")

    @property
    def requests_per_minute(self) -> float:
        """Stable's traffic over the latest ten minutes that were read."""
        latest = [row.counts[self.stable].requests for row in self.rows[-10:]]
        return sum(latest) / len(latest) if latest else 0.0

    def resume(self, record: Record, weights: list[float]) -> datetime:
        """Take up a rollout where its record stands; when it first shifted traffic."""
        since = datetime.fromisoformat(record.since)
        moments = [since - timedelta(seconds=each) for each in (*record.ago, 0)]
        # The watch is the last stage, whichever strategy began; a stage that was never shifted to has no moment.
        passed = weights[: len(moments)] if record.shifting else weights[-len(moments) :]
        self.shifts = list(zip(moments, passed, strict=False))
        self._bake_from = since
        return moments[0]

    def shifted(self, now: datetime, weight: float) -> None:
        """Traffic was shifted just now: a new stage bakes."""
        self.shifts.append((now, weight))
        self._bake_from, self._lost = now, timedelta()

    def lose(self, unread: timedelta) -> None:
        """Metrics could not be read for this long: the bake clock stood still."""
        self._lost += unread

    def baked_s(self, now: datetime) -> float:
        """Seconds that the present stage has baked, without the time in which metrics could not be read."""
        return (now - self._bake_from - self._lost).total_seconds()

    def read(self, now: datetime) -> str | None:
        """Read and judge every minute that is old enough since the last read; what went wrong, or None.

        CloudWatch publishes late and revises: a minute is judged once, ``late_data_s`` after its end.

        AWS: cloudwatch:GetMetricData, reads only.
        """
        if self._next is None:
            first = self.shifts[0][0] if self.shifts else now
            self._next = _floor(first) - timedelta(minutes=self._health.history_minutes)
        until = _floor(now - timedelta(seconds=self._health.late_data_s))
        reading = metrics.read(self._target, (self.stable, self.new), self._serving, self._next, until)
        if reading.trouble is not None:
            return reading.trouble
        for row in reading.rows:
            self.rows.append(row)
            self._feed(row)
        self._next = max(self._next, until)
        return None

    def fresh(self) -> tuple[Row, ...]:
        """The minutes read since this was last asked."""
        rows = tuple(self.rows[self._told :])
        self._told = len(self.rows)
        return rows

    def verdict(self, now: datetime, bake_s: float, final: bool) -> Verdict:
        """The judge's verdict on all minutes so far."""
        return self.judge.verdict(self.baked_s(now), bake_s, final)

    def totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """Requests and failures by version since the first shift."""
        began = self.shifts[0][0] if self.shifts else None
        judged = [row for row in self.rows if began is not None and row.at + MINUTE > began]
        requests = {version: sum(row.counts[version].requests for row in judged) for version in (self.stable, self.new)}
        failed = {version: sum(row.counts[version].errors for row in judged) for version in (self.stable, self.new)}
        return requests, failed

    def _serving(self, minute: datetime) -> str:
        """The alias's primary in a minute: requests that name no version were its own."""
        switched = self.shifts and self.shifts[-1][1] == 1.0 and minute >= self.shifts[-1][0]
        return self.new if switched else self.stable

    def _feed(self, row: Row) -> None:
        """Judge one minute under the weight that it was served under; minutes before the first shift are history."""
        end = row.at + MINUTE
        if not self.shifts or end <= self.shifts[0][0]:
            self._history.append(row.counts[self.stable])
            return
        judge = self._judge = self.judge
        # A stage began, as far as the judge knows, before the minutes that could be read only after it: so it was when
        # they were read one by one, and so it must be when a resumed run reads them all at once.
        readable = end + timedelta(seconds=self._health.late_data_s)
        begun = sum(moment < readable for moment, _ in self.shifts)
        for _ in range(self._stages_begun, begun):
            judge.next_stage()
        self._stages_begun = max(self._stages_begun, begun)
        weight = [share for moment, share in self.shifts if moment < end][-1]
        # An alias takes up to a minute to route everywhere as it says.
        moved = any(row.at - MINUTE < moment < end for moment, _ in self.shifts)
        before = judge.rebakes
        judge.observe(Minute(weight, row.counts[self.stable], row.counts[self.new], weight_changed=moved))
        if judge.rebakes > before:
            self._bake_from, self._lost = max(self._bake_from, readable), timedelta()


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
