"""The evidence of one rollout: the log's ticks and CloudWatch's minutes, fed to the judge once each and in order.

Holds when a minute may be judged, under which weight it was served and how long a stage has baked. Never writes and
never decides: the verdict is the judge's, what follows from it the rollout's. Built again from the alias's record, it
ends in the same state as the one that ran.

Every poll reads the latest minutes again. A minute is settled, and judged, ``late_data_s`` after its end at the
soonest, once all of its figures are known: silence needs a second witness (see ``_is_unpublished``). What CloudWatch
revises later is judged again. The failures of minutes that are not settled are weighed at every poll while CloudWatch
is late, and while the new version receives all traffic: they may roll back, and pass nothing.

Where the log can be read every 10 s, ticks show the new version before its minutes do: ``judging_order``.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import dropwhile, islice, pairwise, takewhile
from math import log

from buddy_ops.aws import versions
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.settings import Settings, SlowerThan
from buddy_ops.core.text import count, duration, floor_minute
from buddy_ops.health import judging_order, log_feed, metrics
from buddy_ops.health.cold_starts import ColdStartReader
from buddy_ops.health.counts import Counts, Minute, StreamName, Tick
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.judging_order import JudgingOrder, JudgingStep
from buddy_ops.health.lateness import IMPLAUSIBLE_REQUESTS, RATE_MINUTES, Lateness, usual_rate
from buddy_ops.health.log_feed import TICK, FeedTick, LogFeed, floor_tick
from buddy_ops.health.metrics import MINUTE, MinuteRow, StreamHistory
from buddy_ops.health.sequential_test import PairedCounts
from buddy_ops.health.streams import StreamTest, StreamTests
from buddy_ops.health.verdict import Verdict

WAIT_MINUTES = 3
"""How long silence that chance explains is left unread, in case its minutes are only late."""

SETTLED_MINUTES = 5
"""A minute that is still empty once this many later ones have arrived will not come any more."""

FEWEST_AFTER = 2
"""So many later minutes with requests show how much traffic there is: the latest one may be published in part."""

READ_AGAIN_MINUTES = 15
"""For how long CloudWatch's revisions of a judged minute are read."""

BUSIEST_OF_MINUTES = 15
"""A minute that may be published in part is taken for as busy as the busiest of so many before it."""


NOTHING_JUDGED = JudgingOrder((), datetime.min.replace(tzinfo=UTC), trusts_ticks=True)


def judge_policy(settings: Settings) -> JudgePolicy:
    """What an environment tolerates, for the judge; ``benchmarks/judge`` simulates the same."""
    return JudgePolicy(
        slo_error_rate=settings.health.error_rate,
        slo_slow_rate=settings.health.slow_rate,
        slow_bound_s=settings.health.latency_ms / 1000,
        on_slow=settings.rollout.on_slow,
        on_alias_failures=settings.rollout.on_alias_failures,
        has_alias_metrics=any(not metric.by_version for metric in settings.failure_metrics),
        rollback_streams=sum(stream.on == "rollback" for stream in settings.streams),
        max_stretch_s=60 * settings.rollout.stretch_minutes,
        external_limit_s=60 * settings.rollout.external_minutes,
        # On a rung of the ramp a minute more costs little; by the log's ticks, any stage waits for seconds only.
        early_below=settings.rollout.stages_percent[0] / 100,
        early_below_by_ticks=1.0,
    )


class RolloutEvidence:
    """The minutes of one rollout and their judge.

    Args:
        stable: the version that served before.
        new: the version being rolled out.
        by_log: whether the log's ticks may decide.

    Attributes:
        accepted: streams in which a person promoted the new version although it is worse.
    """

    def __init__(self, target: Target, stable: str, new: str, *, by_log: bool = False) -> None:
        self.stable = stable
        self.new = new
        self._target = target
        self._health = target.settings.health
        self._failure_metrics = [metric.full_name for metric in target.settings.failure_metrics]
        self._has_alias_metrics = judge_policy(target.settings).has_alias_metrics
        self.shifts: list[tuple[datetime, float]] = []
        self.rows: list[MinuteRow] = []
        # How many of the rows ``fresh`` has returned.
        self._shown = 0
        # The first minute that is not settled.
        self._next: datetime | None = None
        self._history: list[Counts] = []
        # Whether minutes of history were settled after the judge had begun.
        self._lacks_history = False
        self._judge: Judge | None = None
        # How many stages the judge has begun.
        self._stages_begun = 1
        self._bake_from = target.clock.now()
        self._absent = ""  # the version that had no request in the latest minutes, while the other had some
        self._missed = 0.0  # how many of its requests were due there
        self._silent = 0.0  # the same of the alias, in the latest minutes without any request
        self._judges = True
        self._served_at: datetime | None = None  # the latest minute with traffic
        # The minutes of the last read that are not settled, and the first of them that should have been published.
        self._young: tuple[MinuteRow, ...] = ()
        self._blocked: datetime | None = None
        self._unanswered = False
        self._read_at = self._bake_from
        self.lateness = Lateness(target)
        self._pair = (stable, new)
        self._cold_starts = ColdStartReader(target, self._pair)
        self._streams = target.settings.streams
        self.accepted: tuple[str, ...] = ()
        self._stream_history: StreamHistory | None = None
        self._by_log = by_log
        self._feed: LogFeed | None = None
        self._why_not_feed = ""
        self._ticks_shown = 0
        self._judged = NOTHING_JUDGED

    @property
    def judge(self) -> Judge:
        """The judge; before the first judged minute, one that has only the history."""
        if self._judge is not None:
            return self._judge
        policy = judge_policy(self._target.settings)
        return Judge(
            policy,
            self._history,
            stable_name=f"v{self.stable}",
            canary_name=f"v{self.new}",
            streams=self._stream_tests(),
        )

    def _stream_tests(self) -> StreamTests:
        """The tests of the streams; before the first shift there are none."""
        if self._stream_history is None:
            return StreamTests()
        errors = [(counts.errors, counts.requests) for counts in self._history]
        tests = []
        known = zip(self._streams, self._stream_history.minutes, self._stream_history.bounds_ms, strict=True)
        for spec, minutes, bound_ms in known:
            tests.append(StreamTest(spec, errors if spec.events == "errors" else minutes, bound_ms))
        return StreamTests(tests)

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
        self.accepted = record.accepted
        return moments[0]

    def shifted(self, now: datetime, weight: float) -> None:
        """Traffic was shifted just now: a new stage bakes."""
        self.shifts.append((now, weight))
        self._bake_from = now

    def rolled_back(self, now: datetime) -> None:
        """All traffic was rolled back just now: the minutes that come are counted, and judged no more."""
        self.shifts.append((now, 0.0))
        self._judges = False

    def judged_until(self, now: datetime) -> datetime:
        """``now``, less the time by which judging is behind: minutes that CloudWatch has not published are not judged.

        ``late_data_s`` is part of every bake, and not counted as being behind. Where ticks decide, they and the minutes
        must be there.
        """
        if self._next is None:
            return now
        behind = max(timedelta(), metrics.published_until(self._target, now) - self._next)
        if self._feed is not None and self.decided_by_ticks:
            behind = max(behind, floor_tick(now - self._feed.lag) - self._judged.until)
        return now - behind

    def baked_s(self, now: datetime) -> float:
        """Seconds that the present stage has baked: the time that was judged."""
        return max(0.0, (self.judged_until(now) - self._bake_from).total_seconds())

    @property
    def is_readable(self) -> bool:
        """Whether the last read was answered, and CloudWatch is not so late that this counts as unreadable."""
        too_late = self._blocked is not None and (
            self.lateness.beyond_tolerance or self.lateness.is_too_old(self._blocked, self._read_at)
        )
        return not self._unanswered and not too_late

    @property
    def decided_by_ticks(self) -> bool:
        """Whether the new version is judged by the log's ticks now, and not by CloudWatch's minutes."""
        if not self._log_versions:
            return False
        if self._feed is None or self._next is None:
            return True
        return self._judged.trusts_ticks and self._judged.until > self._next

    @property
    def polls_log(self) -> bool:
        """Whether the log is to be read every 10 s."""
        feed = self._feed
        return feed is not None and not feed.ended and self._judges and self._judged.trusts_ticks

    @property
    def tick_lag(self) -> timedelta:
        """How long after its end a tick is judged."""
        return log_feed.lag_of(self._log_versions)

    @property
    def source(self) -> str:
        """Which source decides, and why not the log's ticks, in a sentence or two; empty without health.log_feed."""
        if not self._by_log or not self._health.log_feed:
            return ""
        if self.decided_by_ticks:
            return f"The log decides, every 10 s and {duration(self.tick_lag)} late."
        minutes = "CloudWatch's minutes decide."
        if self._feed is None:
            return f"{minutes} {self._why_not_feed}".strip()
        if not self._judged.trusts_ticks:
            return f"{minutes} The log does not show the same requests."
        return f"{minutes} {self._feed.trouble or 'The log is read again.'}"

    def source_changes(self) -> list[tuple[datetime, bool]]:
        """When another source began to decide, by the minutes that are judged, and whether it is the log."""
        first = self._first_shift
        minutes = [(max(first, step.at), step.by_ticks) for step in self._judged.steps if step.row is not None]
        began = (first, self._feed is not None)
        return [after for before, after in pairwise([began, *minutes]) if before[1] != after[1]]

    def describe_sources(self) -> str:
        """Which source decided how much of the rollout, in a sentence or two; empty without health.log_feed."""
        steps = self._judged.steps
        by_log = sum(step.row is not None and step.by_ticks for step in steps)
        minutes = sum(step.row is not None for step in steps)
        ticks = sum(step.tick is not None for step in steps)
        if not ticks:
            return self.source
        by_cloudwatch = f"CloudWatch for {count(minutes - by_log, 'minute')}"
        return f"The log decided for {count(ticks, 'tick')} of 10 s, {by_cloudwatch}."

    def has_minutes_of(self, now: datetime) -> bool:
        """Whether this minute's poll of CloudWatch was made: until the next one only the log has news."""
        return self._next is not None and floor_minute(self._read_at) == floor_minute(now)

    @cached_property
    def _log_versions(self) -> tuple[Version, ...]:
        """Both versions if the log's ticks may decide; else empty."""
        if not self._by_log:
            return ()
        health = self._target.settings.health
        try:
            # Without the setting nothing is asked.
            pair = tuple(versions.read_version(self._target, each) for each in self._pair) if health.log_feed else ()
        except BuddyError as failure:
            self._why_not_feed = failure.what
            return ()
        self._why_not_feed = log_feed.why_not(self._target.settings, pair)
        return () if self._why_not_feed else pair

    def read_ticks(self, now: datetime) -> None:
        """Read what the log has of both versions since the last poll, and judge it.

        AWS: logs:FilterLogEvents, and once lambda:GetFunctionConfiguration, reads only.
        """
        if not self.shifts or not self._judges or not self._log_versions:
            return
        if self._feed is None:
            self._feed = LogFeed(self._target, self._log_versions, self._first_shift)
        self._feed.read(now)
        self._judge_due()

    def read(self, now: datetime) -> str | None:
        """Read the minutes since the last judged one, and judge those that are settled; what is missing, or None.

        A minute of which CloudWatch has not published everything is unknown: an answer without data is not an answer of
        zero. It stops the judging, is asked for again at the next poll, and is judged when it arrives. Up to a
        tolerated lag (``is_readable``) this costs time only.

        The log's ticks are read, too.

        AWS: cloudwatch:GetMetricData, reads only, and as ``read_ticks``.
        """
        missing = self._read_minutes(now)
        self.read_ticks(now)
        return missing

    def _read_minutes(self, now: datetime) -> str | None:
        first = self._first_minute(now)
        if self._next is None:
            self._next = first
        # Judged minutes are among them: CloudWatch may revise them.
        since = max(first, self._next - READ_AGAIN_MINUTES * MINUTE)
        self._read_at = now
        # Until this read is answered.
        self._unanswered = True
        try:
            bounds_ms = self._read_stream_bounds(first)
        except AwsFailed as failure:
            return failure.what
        reading = metrics.read_minutes(
            self._target,
            (self.stable, self.new),
            self._serving,
            since,
            until=floor_minute(now),
            bounds_ms=bounds_ms,
        )
        self._unanswered = reading.trouble is not None
        if reading.trouble is not None:
            return reading.trouble
        self.lateness.note(reading, since)
        per_request = [self.lateness.emission.get(metric, 0.0) for metric in self._failure_metrics]
        rows = [self._attributed(row.with_emission(per_request)) for row in reading.rows]
        self._revise([row for row in rows if row.at < self._next])
        return self._settle([row for row in rows if row.at >= self._next], now)

    def _read_stream_bounds(self, first: datetime) -> tuple[float | None, ...] | None:
        """The bounds of the streams, fixed by what was before the first shift; None until there is one.

        They are read once, from minutes that CloudWatch revises no more: a resumed run finds the same.

        AWS: cloudwatch:GetMetricData, reads only.

        Raises:
            AwsFailed: it could not be read.
        """
        if not self.shifts or not self._streams:
            return None
        if self._stream_history is None:
            until = floor_minute(self._first_shift) - READ_AGAIN_MINUTES * MINUTE
            self._stream_history = metrics.read_stream_history(self._target, self.stable, first, until)
        return self._stream_history.bounds_ms

    def _first_minute(self, now: datetime) -> datetime:
        """The first minute that is read: the judge's history, and the hour that tells the alias's usual rate."""
        first = self.shifts[0][0] if self.shifts else now
        return floor_minute(first) - max(RATE_MINUTES, self._health.history_minutes) * MINUTE

    def _attributed(self, row: MinuteRow) -> MinuteRow:
        """A minute without doubts about a version that had no share of its traffic."""
        requests = sum(counts.requests for counts in row.counts.values())
        throttles = sum(counts.throttles for counts in row.counts.values())
        # Throttled calls account for the requests that are missing: the silence is Lambda's, not CloudWatch's.
        if throttles and not requests and self._rate(row.at) - throttles < IMPLAUSIBLE_REQUESTS:
            return row.believed()
        weight = self._weight(row)
        if self._is_moving(row):
            # Requests before the first weight and after the last name no version.
            idle = [version for version, counts in row.counts.items() if not counts.requests]
        else:
            idle = [version for version, share in ((self.stable, 1 - weight), (self.new, weight)) if not share]
        if not requests or len(idle) != 1:
            return row
        known = replace(row.counts[idle[0]], unknown=frozenset())
        return replace(row, counts={**row.counts, idle[0]: known})

    def _settle(self, rows: Sequence[MinuteRow], now: datetime) -> str | None:
        """Judge the first of these minutes as far as they are settled; what is missing of the others, or None."""
        until = metrics.published_until(self._target, now)
        self._young = ()
        self._blocked = None
        for index, row in enumerate(rows):
            rest = rows[index:]
            if row.at >= until:
                self._young = tuple(rest)
                break
            # The minute before an unpublished one may itself be published in part only.
            due_next = len(rest) > 1 and rest[1].at < until
            if self._is_unpublished(rest) or (due_next and self._is_unpublished(rest[1:])):
                self._young = tuple(rest)
                self._blocked = row.at
                break
            if self._may_still_come(rest, until):
                self._young = tuple(rest)
                break
            if row.is_silent:
                # Each silent minute may be chance, and all of them together not.
                self._silent += self._expected_silent(rest)
            else:
                self._silent = 0.0
                absent = self._absent_version(row)
                self._missed = self._expected(row) + (self._missed if absent == self._absent else 0.0)
                self._absent = absent
            self._append(row)
        self._judge_due()
        for row in self._young:
            if self._blocked or self._is_alone(row):
                self._ask_for_cold_starts(row)
        self.lateness.measure(now, self._rate(now))
        if self._blocked is None:
            return None
        return self.lateness.trouble(now, self._blocked)

    def _append(self, row: MinuteRow) -> None:
        """A settled minute: what it does not show, there was not."""
        # What is still incomplete after later minutes have come says nothing of failures: it is not observed.
        if not row.incomplete:
            row = row.believed()
            self._ask_for_cold_starts(row)
            self._note_history(row)
        self.rows.append(row)
        if not row.is_silent:
            self._served_at = row.at
        self._next = row.at + MINUTE

    def _revise(self, rows: Sequence[MinuteRow]) -> None:
        """Judge the rollout anew where CloudWatch has revised a judged minute: it then shows more of it."""
        revised = False
        for row in rows:
            index = round((row.at - self.rows[0].at) / MINUTE)
            old = self.rows[index]
            grown = any(
                counts.requests > old.counts[version].requests or counts.errors > old.counts[version].errors
                for version, counts in row.counts.items()
            )
            grown = grown or row.shared_failures > old.shared_failures
            grown = grown or (bool(old.measured) and row.measured != old.measured)
            completed = old.incomplete and not row.incomplete
            if (grown or completed) and not row.incomplete:
                self.rows[index] = row.believed()
                self._ask_for_cold_starts(self.rows[index])
                revised = True
        if revised and self._judges:
            self._judge_anew()

    def _ask_for_cold_starts(self, row: MinuteRow) -> None:
        if self.shifts and row.at + MINUTE > self._first_shift and "slow" not in row.unknown:
            self._cold_starts.ask(row)

    def _ask_for_compared_cold_starts(self) -> None:
        """Ask for the cold starts of the minutes by which the new version is slower than stable."""
        for row in self.rows:
            if row.at < self._first_shift or self._is_moving(row) or row.incomplete:
                continue
            for spec, pair in zip(self._streams, self._compared(row), strict=True):
                if pair is None or not isinstance(spec.events, SlowerThan):
                    continue
                if pair.canary_events * pair.stable_requests > pair.stable_events * pair.canary_requests:
                    self._cold_starts.ask(row, compared=True)

    def _judge_anew(self) -> None:
        bake_from = self._bake_from
        rebakes = self.judge.rebakes
        self._judge = None
        self._history = []
        self._lacks_history = False
        self._stages_begun = 1
        for row in self.rows:
            if not row.incomplete:
                self._note_history(row)
        self._judged = self._order()
        for step in self._judged.steps:
            self._judge_step(step)
        # The bake begins again only where this way has one more fault of both versions that ended.
        if self.judge.rebakes <= rebakes:
            self._bake_from = bake_from

    def _is_unpublished(self, rows: Sequence[MinuteRow]) -> bool:
        """Whether CloudWatch has not published the first of these minutes yet, as far as the others show.

        It is late where a figure of the minute is unknown, and where the silence that begins with it is longer than
        chance explains: the expected requests reach ``IMPLAUSIBLE_REQUESTS``. While traffic is split, requests of the
        one version show that the minute is published, unless the other's share of them is that large. Minutes without
        any request say nothing of one version: they are late until later minutes have requests of any.

        Args:
            rows: the minute in question, and every later one that was read.
        """
        if self.lateness.conceals_failures(rows[0].at, self._rate):
            return True
        first = rows[0]
        # All figures are there, and requests of each version that is due.
        if not first.incomplete and not self._expected(first):
            return False
        if first.is_silent:
            # Silence of the whole alias, for as long as it lasts; or of one version beside the other.
            minutes = len(list(takewhile(lambda row: row.is_silent, rows)))
            missing = self._silent + minutes * self._expected_silent(rows)
        else:
            absent = self._absent_version(first)
            serving = (row for row in rows if not row.is_silent)
            run = takewhile(lambda row: self._absent_version(row) == absent, serving)
            missing = sum(map(self._expected, run)) + (self._missed if absent == self._absent else 0.0)
        # Chance explains it.
        if not first.incomplete and missing < IMPLAUSIBLE_REQUESTS:
            return False
        # Chance does not: it is late, until enough later ones have come.
        later = (row for row in rows[1:] if not row.incomplete)
        shown = (row for row in later if not self._expected(row) or (first.is_silent and not row.is_silent))
        return len(list(islice(shown, SETTLED_MINUTES))) < SETTLED_MINUTES

    def _may_still_come(self, rows: Sequence[MinuteRow], until: datetime) -> bool:
        """Whether nothing was published of any of these latest minutes, by chance or since they are late.

        At such low traffic this cannot be decided. They delay nothing, and are left unread for a while: a late one is
        judged.
        """
        # The number first: a day of history has thousands of silent minutes to go through.
        due = sum(row.at < until for row in rows[: WAIT_MINUTES + 1])
        silent = due <= WAIT_MINUTES and all(row.is_silent for row in rows)
        return silent and self._rate(rows[0].at) > 0

    def _expected(self, row: MinuteRow) -> float:
        """How many requests a minute would have had where it shows none; 0 if it shows some of each version.

        Where one version has requests, the chance that the other has none by routing is that of so many in none.
        """
        if row.is_silent:
            rate = self._rate(row.at)
            # The function's own count bounds the alias's, where it is there.
            return rate if row.function_requests is None else min(rate, row.function_requests)
        weight = self._weight(row)
        if self._is_moving(row) or not 0 < weight < 1:
            return 0.0
        stable, new = row.counts[self.stable].requests, row.counts[self.new].requests
        if not new:
            # (1 - w)^n, the chance of none by routing, is a Poisson chance e^-m of none: m = -n log(1 - w) are due.
            return -stable * log(1 - weight)
        if not stable:
            return -new * log(weight)
        return 0.0

    def _absent_version(self, row: MinuteRow) -> str:
        """The version that has no request in a minute in which the other has some; empty if it is not due."""
        if not self._expected(row):
            return ""
        return self.stable if row.counts[self.new].requests else self.new

    def _expected_silent(self, rows: Sequence[MinuteRow]) -> float:
        """How many requests the first of these minutes would have had, which shows none: as many as before and after.

        At night traffic may fall to a request in some minutes: two of them show how much is left of it.
        """
        expected = self._expected(rows[0])
        after = list(dropwhile(lambda row: row.is_silent, rows[: RATE_MINUTES if expected else 0]))
        while after and after[-1].is_silent:
            after.pop()
        if sum(not row.is_silent for row in after) < FEWEST_AFTER:
            return expected
        return min(expected, sum(counts.requests for row in after for counts in row.counts.values()) / len(after))

    def _rate(self, moment: datetime) -> float:
        """The alias's requests a minute up to its last minute with traffic; 0 if it was idle for the last hour."""
        if self._served_at is None or moment - self._served_at > RATE_MINUTES * MINUTE:
            return 0.0
        latest = self.rows[-2 * RATE_MINUTES :]
        while latest and latest[-1].is_silent:
            latest.pop()
        return usual_rate([sum(counts.requests for counts in row.counts.values()) for row in latest])

    def fresh_ticks(self) -> tuple[FeedTick, ...]:
        """The ticks read since this was last asked."""
        ticks = self._feed.ticks if self._feed is not None else []
        found = tuple(ticks[self._ticks_shown :])
        self._ticks_shown = len(ticks)
        return found

    def fresh(self) -> tuple[MinuteRow, ...]:
        """The minutes read since this was last asked."""
        rows = tuple(self.rows[self._shown :])
        self._shown = len(self.rows)
        return rows

    def verdict(self, now: datetime, bake_s: float, final: bool) -> Verdict:
        """The judge's verdict on all minutes so far. Late minutes that are not settled count for a rollback alone.

        Where slow requests matter, their cold starts are read first, but only when errors do not decide: no rollback
        waits for a log. One for latency waits until the next poll at the longest, and no stage passes meanwhile.

        AWS: logs:FilterLogEvents, lambda:GetFunctionConfiguration, reads only; as a rule not at all.
        """
        verdict = self._verdict(now, bake_s, final)
        slower = verdict.worse_in is not None and isinstance(verdict.worse_in.spec.events, SlowerThan)
        if slower:
            self._ask_for_compared_cold_starts()
        if (slower or verdict.decision != "rollback") and self._judges and self._cold_starts.read(self._read_at):
            self._judge_anew()
            verdict = self._verdict(now, bake_s, final)
        if verdict.decision == "promote" and self._cold_starts.awaits_any(self._next or now):
            verdict = replace(verdict, decision="hold", finding="cold-starts")
        if verdict.decision == "promote" and self._is_log_silent(now):
            verdict = replace(verdict, decision="hold", finding="log-silent")
        return replace(verdict, cold_trouble=self._cold_starts.trouble)

    def _is_log_silent(self, now: datetime) -> bool:
        """Whether nothing shows a request of the new version in this stage, where one is due.

        Lines may be late or lost, so ticks without a request pass no stage before a minute of it is settled.
        """
        began = self._bake_from
        if self._feed is None or self._next is None or self._next > began:
            return False
        if any(tick.canary.requests for tick in self._feed.ticks if tick.end > began):
            return False
        _, share = self.shifts[-1]
        return self._rate(now) * share * self.baked_s(now) / MINUTE.total_seconds() >= 1

    def read_slow_requests(self, row: MinuteRow, version: str) -> tuple[int, int] | None:
        """A version's slow requests and requests of a minute, without cold starts; None where the next poll decides.

        AWS: logs:FilterLogEvents, lambda:GetFunctionConfiguration, reads only.
        """
        self._cold_starts.read(self._read_at)
        if self._cold_starts.is_awaited(row.at):
            return None
        return self._cold_starts.counts(row, version).warm

    def _verdict(self, now: datetime, bake_s: float, final: bool) -> Verdict:
        baked_s = self.baked_s(now)
        verdict = self.judge.verdict(baked_s, bake_s, final, self.accepted)
        ahead = self._judge_of_young()
        if verdict.decision == "rollback" or ahead is None:
            return verdict
        early = ahead.verdict(baked_s, bake_s, final, self.accepted)
        return early if early.decision == "rollback" else verdict

    def _judge_of_young(self) -> Judge | None:
        """A judge that has also seen what is known of the minutes that are not settled; None if that is nothing.

        Where nothing is missing they are judged soon: then their time comes as usual, but at 100 %, where each minute
        costs most.
        """
        judge = None
        for index, row in enumerate(self._young):
            if row.at < self._judged.until and self._feed is not None:
                continue  # ticks have shown it
            counts = row.counts[self.new]
            alone = self._is_alone(row)
            if not (counts.errors or counts.slow) or row.at + MINUTE <= self._first_shift:
                continue  # it cannot roll back
            if not (self._blocked or alone):
                continue  # it is judged soon
            passed = any(not later.is_silent for later in self._young[index + 1 :])
            unread = self._unread_streams(row)
            # A part of a minute's requests with all of the alias's failures would look like an outage.
            minute = replace(self._minute(row, unread), shared=None)
            if not passed and alone:
                minute = replace(minute, canary_requests_at_most=self._requests_at_most())
            elif not passed or len(unread) > 1:
                # Of the latest minute that is shown, the failures may be there and the requests in part only.
                continue
            judge = judge or deepcopy(self.judge)
            judge.observe(minute)
        return judge

    def _is_alone(self, row: MinuteRow) -> bool:
        """Whether the new version had all requests of a minute: its failures are compared with no other's."""
        return self._weight(row) == 1.0 and not self._is_moving(row)

    def _requests_at_most(self) -> int:
        """How many requests the latest minute may have had, as far as the minutes before it tell."""
        latest = self.rows[-BUSIEST_OF_MINUTES:]
        return max((sum(counts.requests for counts in row.counts.values()) for row in latest), default=0)

    def _unread_streams(self, row: MinuteRow) -> frozenset[StreamName]:
        """The streams of which a minute that is not settled tells nothing fair.

        Failures that were seen are a part of all, and count. They would blame one version where those of the other are
        missing.
        """
        both: frozenset[StreamName] = frozenset(("errors", "slow"))
        serving = [counts for counts in row.counts.values() if counts.requests]
        requests = sum(counts.requests for counts in serving)
        # More samples of failures than requests: their metric is ahead of Lambda's. 5 %, as COMPLETE_SHARE leaves.
        ahead = any(sum(samples) > 1.05 * requests + 1 for samples in zip(*row.failure_samples.values(), strict=True))
        if ahead or self._expected(row) >= IMPLAUSIBLE_REQUESTS:
            return both
        unread: set[StreamName] = set()
        if len({"errors" in counts.unknown for counts in serving}) > 1:
            unread.add("errors")
        if "slow" in row.unknown:
            unread.add("slow")
        return frozenset(unread)

    @property
    def _first_shift(self) -> datetime:
        return self.shifts[0][0] if self.shifts else self._read_at

    def describe_streams(self) -> tuple[str, ...]:
        """What each stream showed, a line each; nothing where the versions never shared the traffic."""
        if not any(0 < share < 1 for _, share in self.shifts):
            return ()
        lines = []
        for reading in self.judge.streams.read():
            line = reading.line(f"v{self.new}", f"v{self.stable}")
            if reading.spec.name in self.accepted:
                line = f"{line} An operator promoted v{self.new} nevertheless."
            lines.append(line)
        return tuple(lines)

    def totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """Requests and failures by version since the first shift, those that were seen of late minutes included."""
        late = self._young if self._blocked else ()
        rows = [row for row in (*self.rows, *late) if self.shifts and row.at + MINUTE > self._first_shift]
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

    def _is_history(self, row: MinuteRow) -> bool:
        """Whether a minute ended before the first shift."""
        return not self.shifts or row.at + MINUTE <= self.shifts[0][0]

    def _note_history(self, row: MinuteRow) -> None:
        # The hour that tells the usual rate may be longer than the history that the judge is to have.
        first = floor_minute(self._first_shift) - self._health.history_minutes * MINUTE
        if self._is_history(row) and row.at >= first:
            self._history.append(row.counts[self.stable])
            self._lacks_history = self._judge is not None

    def _order(self) -> JudgingOrder:
        """What was read since the first shift, as it is judged."""
        if not self.shifts:
            return NOTHING_JUDGED
        return judging_order.order(
            [row for row in self.rows if not self._is_history(row)],
            self._feed.ticks if self._feed is not None else (),
            new=self.new,
            first_shift=self._first_shift,
            tick_lag=self.tick_lag,
            minute_lag=timedelta(seconds=self._health.late_data_s),
        )

    def _judge_due(self) -> None:
        """Judge what was read and is not judged yet; all of it anew where that changes what was."""
        if not self._judges or not self.rows:
            return
        ordered = self._order()
        judged = self._judged.steps
        # The first ticks are judged before the last minutes of history are settled.
        if self._lacks_history or ordered.steps[: len(judged)] != judged:
            self._judge_anew()
            return
        self._judged = ordered
        for step in ordered.steps[len(judged) :]:
            self._judge_step(step)

    def _judge_step(self, step: JudgingStep) -> None:
        """Judge one tick or minute under the weight that it was served under."""
        judge = self._judge = self.judge
        # For the judge, a stage began before what could be read only after it. So it was when that was read step by
        # step, and so it must be when a resumed run reads all at once.
        begun = sum(moment < step.due for moment, _ in self.shifts)
        for _ in range(self._stages_begun, begun):
            judge.next_stage()
        self._stages_begun = max(self._stages_begun, begun)
        before = judge.rebakes
        if step.tick is not None:
            judge.observe_tick(self._tick(step.tick))
        if step.row is not None:
            judge.observe(replace(self._minute(step.row), judged_by_ticks=step.by_ticks))
            if self._stream_history is not None:
                requests = step.row.counts[self.new].requests
                judge.streams.update(self._compared(step.row), requests, moving=self._is_moving(step.row))
        if judge.rebakes > before:
            self._bake_from = max(self._bake_from, step.due)

    def _tick(self, tick: FeedTick) -> Tick:
        """A tick with the weights that may have held in it: an alias takes up to a minute to follow."""
        held = [share for moment, share in self.shifts if tick.at - MINUTE < moment < tick.end]
        before = [share for moment, share in self.shifts if moment <= tick.at - MINUTE]
        weights = [*before[-1:], *held] if before else [0.0, *held]
        return Tick(
            TICK.total_seconds(),
            max(weights),
            tick.canary,
            stable_errors=tick.stable_errors,
            stable_slow=tick.stable_slow,
            stable_cold_slow=tick.stable_cold_slow,
            least_weight=min(weights) if held else None,
        )

    def _minute(self, row: MinuteRow, unread: frozenset[StreamName] = frozenset()) -> Minute:
        if self._cold_starts.is_awaited(row.at):
            unread |= {"slow"}
        stable = self._cold_starts.counts(row, self.stable)
        canary = self._cold_starts.counts(row, self.new)
        shared = None
        if self._has_alias_metrics and not self._is_alone(row):
            # Also where by chance one version had all requests of the minute: such minutes are no fair sample.
            shared = row.shared_failures + stable.shared + canary.shared
            stable = replace(stable, errors=stable.errors - stable.shared, shared=0)
            canary = replace(canary, errors=canary.errors - canary.shared, shared=0)
        return Minute(
            weight=self._weight(row),
            stable=stable,
            canary=canary,
            weight_changed=self._is_moving(row),
            unread=unread,
            shared=shared,
        )

    def _compared(self, row: MinuteRow) -> list[PairedCounts | None]:
        """The counts of both versions in each stream; None where they are unknown."""
        found: list[PairedCounts | None] = []
        for index, spec in enumerate(self._streams):
            if spec.events != "errors" and not row.measured:
                found.append(None)
                continue
            new = self._counted(row, self.new, index)
            found.append(PairedCounts(*new, *self._counted(row, self.stable, index)))
        return found

    def _counted(self, row: MinuteRow, version: str, index: int) -> tuple[int, int]:
        """A version's events in a stream, and of how many."""
        counts = row.counts[version]
        if self._streams[index].events == "errors":
            return counts.errors, counts.requests
        events, total = row.measured[version][index]
        bound_ms = self._stream_history.bounds_ms[index] if self._stream_history is not None else None
        if bound_ms is not None:
            cold_events, cold = self._cold_starts.over(row, version, bound_ms)
            return max(0, events - cold_events), max(0, counts.requests - cold)
        return events, counts.requests if total is None else total
