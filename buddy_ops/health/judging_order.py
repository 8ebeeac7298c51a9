"""Which source decides each moment of a rollout, the log feed's ticks or CloudWatch's minutes, and in which order.

A minute counts once: by its ticks, if all of them were judged and CloudWatch then shows the same, else as CloudWatch
has it. Ticks that were judged before their minute came, and that it does not bear out, are taken out again, as a minute
is that CloudWatch revises. After two such minutes the minutes decide, until five have agreed. All of this follows from
the figures alone, in the order in which they are due, so that a rollout that is resumed is judged like one that never
stopped. Never judges.

Source: docs/log-feed.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import add

from buddy_ops.core.text import floor_minute
from buddy_ops.health.counts import Counts
from buddy_ops.health.log_feed import TICK, FeedTick, floor_tick
from buddy_ops.health.metrics import MINUTE, MinuteRow

APART = 0.05
"""The two sources differ by more than this share of the requests, or of the failures, and by more than one."""

STRIKES = 2
"""After so many differences the minutes decide."""

AGREEING = 5
"""After so many minutes that agree the ticks decide again."""


@dataclass(frozen=True)
class JudgingStep:
    """What is judged next: a tick or a minute.

    Attributes:
        due: when it can be known, if nothing is late.
        by_ticks: of a minute, whether its ticks were judged: only what they do not hold is left of it.
    """

    at: datetime
    due: datetime
    tick: FeedTick | None = None
    row: MinuteRow | None = None
    by_ticks: bool = False


@dataclass(frozen=True)
class JudgingOrder:
    """What is judged, in this order.

    Attributes:
        until: up to when the new version is judged.
        trusts_ticks: whether the ticks that follow decide.
    """

    steps: tuple[JudgingStep, ...]
    until: datetime
    trusts_ticks: bool


@dataclass
class _Trust:
    """How well the ticks agree with the minutes so far.

    Attributes:
        compared: minutes since the last difference, with the ticks' requests and failures less CloudWatch's.
    """

    compared: list[tuple[datetime, int, int]] = field(default_factory=list)
    requests: int = 0
    failures: int = 0
    strikes: int = 0
    agreed: int = 0

    @property
    def holds(self) -> bool:
        return self.strikes < STRIKES

    def differing(self, at: datetime, ticks: Counts, minute: Counts) -> list[datetime]:
        """Compare a minute; the minutes in which the sources differ, if by too much, this one and all together."""
        requests = ticks.requests - minute.requests
        failures = ticks.errors - minute.errors
        self.compared.append((at, requests, failures))
        self.requests += minute.requests
        self.failures += minute.errors
        # A request at the edge of a minute, and of the next one, may be counted in either.
        apart = _apart(requests, minute.requests) or _apart(failures, minute.errors)
        all_requests = sum(each for _, each, _ in self.compared)
        all_failures = sum(each for _, _, each in self.compared)
        apart = apart or _apart(all_requests, self.requests) or _apart(all_failures, self.failures)
        if not apart:
            self.agreed += 1
            if self.agreed >= AGREEING:
                self.strikes = 0
            return []
        found = [minute for minute, *differences in self.compared if any(differences)]
        self.strikes += 1
        self.agreed = 0
        self.compared = []
        self.requests = 0
        self.failures = 0
        return found


def _apart(difference: int, count: int) -> bool:
    return abs(difference) > 1 + APART * count


def order(
    rows: Sequence[MinuteRow],
    ticks: Sequence[FeedTick],
    *,
    new: str,
    first_shift: datetime,
    tick_lag: timedelta,
    minute_lag: timedelta,
) -> JudgingOrder:
    """Order what was read for the judge.

    Args:
        rows: the minutes of the rollout that are settled, oldest first and without a gap.
        ticks: those that were cut.
        new: the new version.
        tick_lag: how long after its end a tick is due; ``minute_lag``: a minute.
    """
    by_start = {tick.at: tick for tick in ticks}
    unborne: set[datetime] = set()
    while True:
        # Without those ticks later ones may be judged otherwise, so the whole way is gone once more. Each time more of
        # the minutes are known, so it ends.
        walk = _Walk(rows, by_start, unborne, new=new, first_shift=first_shift)
        walk.go(tick_lag, minute_lag)
        if walk.unborne <= unborne:
            return JudgingOrder(tuple(walk.steps), walk.until, walk.trust.holds)
        unborne |= walk.unborne


class _Walk:
    """One way through the rollout, where the ticks of some minutes are known to be wrong.

    Attributes:
        until: up to when the new version was judged.
        trust: in the ticks.
        unborne: minutes that were judged by ticks, and that CloudWatch does not bear out.
    """

    def __init__(
        self,
        rows: Sequence[MinuteRow],
        ticks: Mapping[datetime, FeedTick],
        excluded: set[datetime],
        *,
        new: str,
        first_shift: datetime,
    ) -> None:
        self.steps: list[JudgingStep] = []
        self.unborne: set[datetime] = set()
        self.until = floor_tick(first_shift)
        self._rows = rows
        self._ticks = ticks
        self._excluded = excluded
        self._new = new
        self._first_tick = self.until
        self.trust = _Trust()

    def go(self, tick_lag: timedelta, minute_lag: timedelta) -> None:
        for row in self._rows:
            due = row.at + MINUTE + minute_lag
            self._judge_ticks(due, tick_lag)
            self._judge_minute(row, due)
        self._judge_ticks(None, tick_lag)

    def _judge_ticks(self, before: datetime | None, lag: timedelta) -> None:
        """Judge the ticks that are due before a moment, or all."""
        while True:
            tick = self._ticks.get(self.until)
            if tick is None or floor_minute(tick.at) in self._excluded or not self._may_judge(tick):
                return
            due = tick.end + lag
            if before is not None and due >= before:
                return
            self._add(JudgingStep(tick.at, due, tick=tick))
            self.until = tick.end

    def _may_judge(self, tick: FeedTick) -> bool:
        """Whether ticks decide here: what began with a minute's ticks goes on to the end of that minute."""
        minute = floor_minute(tick.at)
        return self.trust.holds or self.until > max(minute, self._first_tick)

    def _judge_minute(self, row: MinuteRow, due: datetime) -> None:
        begun = max(row.at, self._first_tick)
        by_ticks = self.until >= row.at + MINUTE
        # Only some of its ticks were judged: the minute decides, and they are taken out.
        if not by_ticks and self.until > begun:
            self.unborne.add(row.at)
        own = [self._ticks.get(begun + index * TICK) for index in range(round((row.at + MINUTE - begun) / TICK))]
        seen = [tick.canary for tick in own if tick is not None]
        if not row.incomplete and len(seen) == len(own):
            counts = row.counts[self._new]
            # The log does not show failures that only a metric of the whole alias counts.
            counts = replace(counts, errors=counts.errors - counts.shared)
            self.unborne.update(self.trust.differing(row.at, reduce(add, seen, Counts()), counts))
        if not row.incomplete:
            self._add(JudgingStep(row.at, due, row=row, by_ticks=by_ticks))
        self.until = max(self.until, row.at + MINUTE)

    def _add(self, step: JudgingStep) -> None:
        # Ticks that had to wait for the minute before them are due with it.
        if self.steps and self.steps[-1].due > step.due:
            step = replace(step, due=self.steps[-1].due)
        self.steps.append(step)
