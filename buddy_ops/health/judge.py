"""Counts to verdict: whether the new version is good, bad or undecided, or whether both versions are affected.

Decides a rollout by a sequential test (``sequential_test``). Reads no clock, no metric and no file: the caller feeds
whole minutes in order, or ticks of a few seconds and then their minutes, and asks for a verdict, after each if it
likes. The error guarantees hold at any traffic. The same minutes and ticks in the same order give the same verdict, so
a resumed rollout is judged as if it had never stopped.

Source: docs/sequential-test.md.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

from buddy_ops.health.alias_failures import AliasFailures
from buddy_ops.health.counts import Counts, Minute, StreamName, Tick
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import ComparedByState, EProcess, PairedCounts, dispersion
from buddy_ops.health.stable_alone import StableTest
from buddy_ops.health.streams import StreamTests
from buddy_ops.health.usual_rate import UsualRate, without_outages
from buddy_ops.health.verdict import NOTHING_COMPARED, Comparison, Decision, Finding, Needed, Verdict

MOST_REQUESTS_NEEDED = 1e7
"""More requests than this are not named as what a decision needs."""


@dataclass(frozen=True, slots=True)
class StreamScores:
    """The evidence in one stream: 1 is none. Draw it on a log axis."""

    slo: float  # the canary is over its limit
    base: float  # the canary is worse than stable
    stable: float  # stable is over the objective
    better: float  # stable is worse than the canary
    stage_ok: float  # the canary is under 2 times the objective, by this stage
    ok: float  # the canary is under 1.5 times the objective, by the whole rollout


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """What a chart draws: the evidence in both streams, and the thresholds that it is read against."""

    errors: StreamScores
    slow: StreamScores
    rollback_at: float
    worse_at: float
    doubt_at: float
    proved_at: float


class _Latest(ComparedByState):
    """The counts of the latest minutes: whole ones, or ticks that fill them.

    Attributes:
        seconds: how long they are together.
    """

    def __init__(self, minutes: int) -> None:
        self.seconds = 0.0
        self._most_s = 60.0 * minutes
        self._parts: deque[tuple[float, PairedCounts]] = deque()

    def add(self, counts: PairedCounts, seconds: float = 60.0) -> None:
        """Add a minute or a part of one, and leave out what is older than the latest minutes."""
        self._parts.append((seconds, counts))
        self.seconds += seconds
        while self.seconds - self._parts[0][0] >= self._most_s:
            self.seconds -= self._parts.popleft()[0]

    @property
    def is_full(self) -> bool:
        """Whether they are as many minutes as are kept."""
        return self.seconds >= self._most_s

    @property
    def total(self) -> PairedCounts:
        """All of their counts."""
        return sum((counts for _, counts in self._parts), PairedCounts())

    def sums(self) -> Iterator[PairedCounts]:
        """The counts of the latest minute, of the latest two, and so on to all of them."""
        seen = PairedCounts()
        length = 0.0
        minutes = 1
        for at, (seconds, counts) in enumerate(reversed(self._parts), start=1):
            seen += counts
            length += seconds
            if length >= 60 * minutes or at == len(self._parts):
                minutes += 1
                yield seen


_Trials = tuple[int, int, float]
"""Events, trials, and the chance of an event in each trial if the versions do not differ."""


class _Stream(ComparedByState):
    """One kind of harm, errors or slow requests: its evidence, and the counts that sentences quote.

    Attributes:
        limit: the objective.
        phi: the dispersion of stable's history, outages left out.
        alone: whether the canary serves everything, in the last minute or tick that was judged.
        latest: the counts of the latest minutes, by ticks where there are any; ``latest_minutes``: of whole minutes.
    """

    def __init__(self, name: StreamName, limit: float, history: Sequence[tuple[int, int]], policy: JudgePolicy) -> None:
        self.name = name
        self.limit = limit
        self.phi = dispersion(without_outages(history, limit))
        self.policy = policy
        self.alone = False
        self._usual_rate = UsualRate(history, limit, self.phi)
        self.clear()

    def clear(self) -> None:
        """Discard all evidence, as at the start."""
        policy = self.policy
        self._usual_rate.forget_rollout()
        self.slo = EProcess(policy.slo_mixture, self.phi, policy.first_stake)
        # The same against the limit of a version alone, from the first minute: evidence against another limit
        # would not count there.
        self.slo_alone = EProcess(policy.slo_mixture, self.phi, policy.first_stake)
        self.stable = EProcess(policy.slo_mixture, self.phi, policy.first_stake)
        self.base = EProcess(policy.base_mixture, self.phi, policy.first_stake)
        self.better = EProcess(policy.base_mixture, self.phi, policy.first_stake)
        self.ok = EProcess(policy.ok_mixture, self.phi)  # a version is good from the start or not at all: no restarts
        self.recent = PairedCounts()  # since the evidence began to grow: what a rollback quotes
        self.latest = _Latest(policy.calm_minutes)
        self.latest_minutes = _Latest(policy.calm_minutes)
        self.next_stage()

    def next_stage(self) -> None:
        """Start the evidence and the counts of a new stage."""
        self.stage_ok = EProcess(self.policy.ok_mixture, self.phi)
        self.stage = PairedCounts()

    def add_minute(self, seen: PairedCounts, share: float, at_most: int = 0) -> None:
        """Add one minute.

        Args:
            share: the chance that a failure is the canary's if the versions do not differ.
            at_most: how many requests the canary may have had, if more than were seen: they count against the evidence
                that it is over a limit, and are not quoted.
        """
        events = seen.canary_events + seen.stable_events
        worse = (seen.canary_events, events, share)
        better = (seen.stable_events, events, 1.0 - share)
        self.add(seen, worse, better, at_most=at_most)
        self.add_stable(seen)

    def add(
        self, seen: PairedCounts, worse: _Trials, better: _Trials, *, at_most: int = 0, seconds: float = 60.0
    ) -> None:
        """Add a minute or a part of one to all evidence but that of stable's own rate.

        Args:
            worse: what the canary's events are compared by; ``better``: those of stable.
        """
        # The evidence of what was before is used up: it has no part in what grows from here.
        if self.slo.value <= 1.0 and self.base.value <= 1.0:
            self.recent = PairedCounts()
        self.recent += seen
        self.stage += seen
        self.latest.add(seen, seconds)
        events = seen.canary_events
        requests = seen.canary_requests
        tried = max(requests, at_most)
        minutes = seconds / 60
        self.slo.update(events, tried, self.limit, minutes)
        # By the minutes before this one: a limit that followed the failures would excuse them.
        self.slo_alone.update(events, tried, self._usual_rate.limit, minutes)
        self.base.update(*worse, minutes)
        self.better.update(*better, minutes)
        self.ok.update(events, requests, 1.5 * self.limit, minutes)
        self.stage_ok.update(events, requests, 2.0 * self.limit, minutes)

    def add_stable(self, seen: PairedCounts) -> None:
        """Add one minute to the evidence of stable's own rate."""
        self.latest_minutes.add(seen)
        self._usual_rate.add(seen.stable_events, seen.stable_requests)
        self.stable.update(seen.stable_events, seen.stable_requests, self.limit)

    @property
    def _measured_by_stable(self) -> bool:
        """Alone, stable's usual rate is the measure, unless the canary was shown to be better than it."""
        return self.alone and self.better.value < self.policy.worse_at

    @property
    def over(self) -> EProcess:
        """The evidence that the canary is over the limit that holds now."""
        return self.slo_alone if self._measured_by_stable else self.slo

    @property
    def limit_now(self) -> float:
        """The objective; alone, stable's usual rate where that is higher."""
        return self._usual_rate.limit if self._measured_by_stable else self.limit

    def has_regressed(self, bake_over: bool) -> bool:
        """Whether the version is to be rolled back. Source: rules S, R and G of docs/sequential-test.md."""
        at = self.policy.rollback_at
        worse_at = self.policy.worse_at
        # Where stable is over the objective too, the canary's being so says little about it: S is silent, R decides.
        if self.over.value >= at and (self.alone or self.base.value >= worse_at > self.stable.value):
            return True
        over_at_end = bake_over and self.stage.canary_rate > 1.2 * self.limit
        # Rule R; and G, once the bake is over.
        return self.base.value >= at and (self.slo.value >= 1.0 / self.policy.gamma or over_at_end)

    @property
    def doubtful(self) -> bool:
        """Whether the canary is too bad to advance, by the whole rollout."""
        worse = self.base.value >= self.policy.worse_at and self.stage.canary_rate > self.limit
        return self.over.value >= self.policy.doubt_at or worse

    def recent_doubt(self, at: float) -> PairedCounts | None:
        """The latest minutes, if a version is too bad by them alone; the evidence of the whole rollout is slower.

        Args:
            at: the evidence from which the new version is; stable is from ``fresh_doubt_at`` on.
        """
        if any(self._evidence(seen.canary_events, seen.canary_requests) >= at for seen in self.latest.sums()):
            return self.latest.total
        of_stable = (self._evidence(seen.stable_events, seen.stable_requests) for seen in self.latest_minutes.sums())
        if not self.cured and any(evidence >= self.policy.fresh_doubt_at for evidence in of_stable):
            return self.latest_minutes.total
        return None

    def _evidence(self, events: int, requests: int) -> float:
        """That these are over the objective, all of it staked at once."""
        fresh = EProcess(self.policy.slo_mixture, self.phi)
        fresh.update(events, requests, self.limit)
        return fresh.value

    @property
    def cured(self) -> bool:
        """Stable is over the objective, the canary better and without harm of its own: it may be the fix."""
        clear = min(self.stable.value, self.better.value) >= self.policy.worse_at
        return clear and self.slo.value < self.policy.doubt_at

    @property
    def blameless(self) -> bool:
        """While stable is over the objective: the canary is shown to be neither worse than it nor the fix."""
        return self.base.value < self.policy.worse_at and not self.cured

    @property
    def calm(self) -> bool:
        """Stable was within the objective over the latest minutes."""
        seen = self.latest_minutes.total
        enough = self.latest_minutes.is_full and seen.stable_requests > 0
        return enough and seen.stable_events <= self.limit * seen.stable_requests

    def stable_test(self) -> StableTest | None:
        """The test of stable after a rollback for this stream; None where the canary was shown to be worse than it."""
        if not self.alone or self.base.value >= self.policy.rollback_at:
            return None
        # Also where the canary was better: what stable always did is no fault that began now.
        limit = self._usual_rate.limit
        return StableTest(
            self.name, limit, mixture=self.policy.slo_mixture, dispersion=self.phi, at=self.policy.worse_at
        )

    def compare(self, counts: PairedCounts) -> Comparison:
        """Counts of this stream with what they are measured by."""
        return Comparison(self.name, self.limit_now, counts)

    def scores(self) -> StreamScores:
        """The evidence now."""
        return StreamScores(
            slo=self.over.value,
            base=self.base.value,
            stable=self.stable.value,
            better=self.better.value,
            stage_ok=self.stage_ok.value,
            ok=self.ok.value,
        )


class Judge(ComparedByState):
    """The judge of one rollout: feed it whole minutes in order, ask for a verdict at any time.

    A minute that could not be read is not observed (and the caller holds); one without traffic is observed with zero
    requests. Judges that saw the same minutes, ticks and `next_stage()` calls in the same order are equal. `rebakes`
    says how often the evidence was cleared after an external fault: when it grows, the caller restarts its bake clock.

    Ticks show the canary sooner than minutes do. Each second of it is shown once: by a tick, whose minute then follows
    with ``judged_by_ticks``, or by its minute. The caller may change from the one to the other at any time, by what it
    saw before, and never by the figures of the time that it leaves out.
    """

    def __init__(
        self,
        policy: JudgePolicy | None = None,
        history: Sequence[Counts] = (),
        *,
        stable_name: str = "stable",
        canary_name: str = "the new version",
        streams: StreamTests | None = None,
    ) -> None:
        """Begin without evidence.

        Args:
            policy: what is tolerated.
            history: stable's minutes before the rollout: dispersion and usual rate.
            stable_name: the stable version in sentences.
            canary_name: the new one.
            streams: what both are compared in; the caller feeds it.
        """
        self.streams = streams or StreamTests()
        self.policy = policy or JudgePolicy()
        self.stable_name = stable_name
        self.canary_name = canary_name
        self.rebakes = 0
        errors = [(counts.errors, counts.requests) for counts in history]
        slow = [(counts.slow, counts.requests) for counts in history]
        self._errors = _Stream("errors", self.policy.slo_error_rate, errors, self.policy)
        self._slow = _Stream("slow", self.policy.slo_slow_rate, slow, self.policy)
        self._streams = (self._errors, self._slow)
        shared = [(counts.shared, counts.requests) for counts in history if self.policy.has_alias_metrics]
        self._alias = AliasFailures(shared, self.policy.slo_error_rate, self.policy)
        self._latest: deque[Minute] = deque(maxlen=self.policy.calm_minutes)
        self._served = _Latest(self.policy.calm_minutes)
        self._cold = 0
        self._cold_slow = 0
        self._weight = 0.0  # in the latest minute or tick
        self._minute_weight = 0.0  # in the latest minute: minutes come later than ticks
        self._by_ticks = False  # whether the latest evidence of the canary is a tick's
        self._stage_is_read = False
        self._external: _Stream | None = None  # where stable is affected, from its first minute until it has been calm
        self._external_minutes = 0

    def observe(self, minute: Minute) -> None:
        """Weigh one whole minute; each once, in order. Of one that ticks have shown only stable is weighed."""
        stable = minute.stable
        canary = minute.canary
        share = minute.weight
        if minute.weight_changed:
            # No weight held for all of the minute. By the requests the test stays valid: docs/sequential-test.md.
            share = canary.requests / max(1, stable.requests + canary.requests)
        if "errors" not in minute.unread:
            seen = _paired((canary.errors, canary.requests), (stable.errors, stable.requests))
            self._add_minute(self._errors, minute, seen, share)
        # Cold starts make any version slow for a moment: the minute in which its share grows says nothing of latency.
        rises = minute.weight > self._minute_weight or (minute.weight_changed and minute.weight == self._minute_weight)
        if not rises and "slow" not in minute.unread:
            if stable.cold or canary.cold:
                # The versions differ in cold starts. Without them a slow request is the canary's by its warm requests.
                share = canary.warm[1] / max(1, stable.warm[1] + canary.warm[1])
            self._add_minute(self._slow, minute, _paired(canary.warm, stable.warm), share)
            if not minute.judged_by_ticks:
                self._leave_out_cold_starts(canary)
        if minute.shared is not None and "errors" not in minute.unread:
            # While an alias follows a shift, either weight may hold: the larger one excuses more.
            weight = max(minute.weight, self._minute_weight)
            if self._alias.update(minute.shared, stable.requests + canary.requests, weight):
                self._rebake()
        self._minute_weight = minute.weight
        self._latest.append(minute)
        if not minute.judged_by_ticks:
            self._by_ticks = False
            self._serve(canary, minute.weight)
        self._follow_external()

    @staticmethod
    def _add_minute(stream: _Stream, minute: Minute, seen: PairedCounts, share: float) -> None:
        if minute.judged_by_ticks:
            stream.add_stable(seen)
        else:
            stream.add_minute(seen, share, minute.canary_requests_at_most)

    def observe_tick(self, tick: Tick) -> None:
        """Weigh some seconds of the canary, and stable's failures in them; each once, in order.

        Where the weight moved, each comparison is made with the weight that shows less. A cold start is no slow
        request of the version that is tested to be the slower one, and stays one of the other: it speaks against
        neither version, and stable's requests need not be known.
        """
        canary = tick.canary
        weight = tick.weight
        least = weight if tick.least_weight is None else tick.least_weight
        beside = weight < 1.0
        if "errors" not in tick.unread:
            x1 = min(canary.errors, canary.requests)
            x0 = tick.stable_errors
            worse = (x1, x1 + x0, weight)
            better = (x0, x1 + x0, 1.0 - least)
            seen = PairedCounts(x1, canary.requests, x0, stable_unread=beside)
            self._errors.add(seen, worse, better, seconds=tick.seconds)
        if "slow" not in tick.unread:
            x1, warm = canary.warm
            x0 = tick.stable_slow - tick.stable_cold_slow
            worse = (x1, x1 + tick.stable_slow, weight)
            better = (x0, x0 + canary.slow, 1.0 - least)
            self._slow.add(PairedCounts(x1, warm, x0, stable_unread=beside), worse, better, seconds=tick.seconds)
            self._leave_out_cold_starts(canary)
        self._by_ticks = True
        self._serve(canary, weight, tick.seconds)

    def _leave_out_cold_starts(self, canary: Counts) -> None:
        """Count the cold starts that latency is judged without."""
        self._cold += canary.cold
        self._cold_slow += canary.cold_slow

    def _serve(self, canary: Counts, weight: float, seconds: float = 60.0) -> None:
        """Follow the canary's traffic."""
        self._weight = weight
        for stream in self._streams:
            stream.alone = self._alone
        self._served.add(PairedCounts(canary_requests=canary.requests), seconds)
        self._stage_is_read = True

    def next_stage(self) -> None:
        """A new stage begins: its own counts start afresh, the evidence goes on."""
        self._stage_is_read = False
        for stream in self._streams:
            stream.next_stage()

    def _follow_external(self) -> None:
        """Enter an external fault, count its minutes, and discard all evidence once stable has been calm again."""
        if self._minute_weight >= 1.0:
            return  # there is no stable version to compare with
        if self._external is None:
            affected = (s for s in self._streams if s.stable.value >= self.policy.worse_at and s.blameless)
            self._external = next(affected, None)
        if self._external is None:
            return
        self._external_minutes += 1
        if all(stream.calm for stream in self._streams):
            self._external = None
            self._external_minutes = 0
            self._rebake()

    def _rebake(self) -> None:
        """Discard all evidence: something else affected both versions."""
        self.rebakes += 1
        for stream in self._streams:
            stream.clear()
        self._alias.clear()

    @property
    def _alone(self) -> bool:
        """Whether the canary serves everything."""
        return self._weight >= 1.0

    @property
    def proved(self) -> bool:
        """Whether both streams are shown to be under 1.5 times their objectives."""
        return all(stream.ok.value >= self.policy.proved_at for stream in self._streams)

    def scores(self) -> JudgeScores:
        """The evidence now, and its thresholds, for a chart."""
        return JudgeScores(
            errors=self._errors.scores(),
            slow=self._slow.scores(),
            rollback_at=self.policy.rollback_at,
            worse_at=self.policy.worse_at,
            doubt_at=self.policy.doubt_at,
            proved_at=self.policy.proved_at,
        )

    def verdict(self, baked_s: float, bake_s: float, final: bool = False, accepted: Collection[str] = ()) -> Verdict:
        """Say what to do now; asking changes nothing.

        Args:
            baked_s: seconds that this stage has baked, without the time in which metrics could not be read.
            bake_s: seconds that it is to bake.
            final: the stage at 100 %, which is promoted only when shown to be healthy; the caller's watch limit ends it
                otherwise.
            accepted: streams in which a person has accepted a worse version: they hold it no more.
        """
        over = baked_s >= bake_s
        expired = not final and baked_s >= bake_s + self.policy.max_stretch_s
        for stream in self._streams:
            # First what rolls back: no doubt may delay it.
            if stream.has_regressed(over):
                return self._regression(stream, expired)
        # Stable fails as well: to return to it would not help.
        if self._external and self._external.blameless and not self._alone:
            return replace(
                self._verdict("external", "external", self._external.compare(self._external.latest_minutes.total)),
                cause=self._external.name,
                expired=self._external_minutes * 60 >= self.policy.external_limit_s,
                minutes=self._external_minutes,
            )
        alias = self._alias_verdict(expired)
        if alias is not None:
            return alias
        # Within its limits, and worse than stable, in a stream that may roll back.
        worse = self.streams.find_rollback(self.policy.rollback_at)
        if worse is not None:
            return replace(self._verdict("rollback", "worse"), worse_in=worse)
        if self.policy.early_after_s is not None and baked_s >= self.policy.early_after_s:
            over = over or all(stream.stage_ok.value >= self.policy.early_at for stream in self._streams)
        # Then what holds the stage.
        doubt = self._doubt(accepted, advancing=over and not final)
        if doubt is not None:
            return replace(doubt, expired=expired)
        # The stage's counts, in the stream that is nearer to its objective.
        nearest = max(self._streams, key=lambda stream: stream.stage.canary_rate / stream.limit)
        compared = nearest.compare(nearest.stage)
        if not over:
            baking = self._verdict("hold", "baking", compared)
            return replace(baking, minutes=(bake_s - baked_s) / 60)
        if not final:
            return self._verdict("promote", "baked", compared)
        if self.proved:
            return self._verdict("promote", "healthy", compared)
        inconclusive = self._verdict("hold", "inconclusive", compared)
        return replace(inconclusive, needed=self._needed(self._requests_to_prove()))

    def _verdict(self, decision: Decision, finding: Finding, compared: Comparison = NOTHING_COMPARED) -> Verdict:
        fixes = (stream for stream in self._streams if stream.cured and stream.stage.has_stable)
        return Verdict(
            decision,
            finding,
            policy=self.policy,
            stable_name=self.stable_name,
            canary_name=self.canary_name,
            rebakes=self.rebakes,
            compared=compared,
            fixes=tuple(fix.compare(fix.stage) for fix in fixes),
            cold=self._cold,
            cold_slow=self._cold_slow,
            streams=self.streams.read(),
        )

    def _regression(self, stream: _Stream, expired: bool) -> Verdict:
        kept = stream is self._slow and self.policy.on_slow == "hold"
        return replace(
            self._verdict("hold" if kept else "rollback", "regression", stream.compare(stream.recent)),
            cause=stream.name,
            expired=kept and expired,
            worse=stream.base.value,
            over=stream.over.value,
            stable_test=None if kept else stream.stable_test(),
        )

    def _alias_verdict(self, expired: bool) -> Verdict | None:
        """What follows from failures of the alias as a whole, while two versions share its traffic; None: nothing."""
        alias = self._alias
        if self._alone:
            return None
        if alias.is_common and alias.minutes:
            external = self._verdict("external", "alias-failures", Comparison("errors", alias.usual, alias.latest))
            lasted = alias.minutes * 60 >= self.policy.external_limit_s
            return replace(external, cause="errors", expired=lasted, minutes=alias.minutes)
        if alias.over < self.policy.doubt_at:
            return None
        compared = Comparison("errors", alias.limit, alias.recent)
        if alias.over < self.policy.rollback_at or self.policy.on_alias_failures == "hold":
            held = self._verdict("hold", "alias-failures", compared)
            return replace(held, cause="errors", expired=expired, over=alias.over)
        found = self._verdict("rollback", "alias-failures", compared)
        return replace(found, cause="errors", over=alias.over, stable_test=alias.stable_test())

    def _doubt(self, accepted: Collection[str], *, advancing: bool) -> Verdict | None:
        """The first reason to stay: nothing read, throttled calls, doubt by the whole rollout or its latest minutes."""
        if not self._stage_is_read:
            return self._verdict("hold", "unread")
        throttled = sum(minute.stable.throttles + minute.canary.throttles for minute in self._latest)
        if throttled:
            found = self._verdict("hold", "throttled")
            return replace(found, cause="throttles", throttled=throttled, minutes=len(self._latest))
        for stream in self._streams:
            if stream.doubtful:
                found = self._verdict("hold", "doubt", stream.compare(stream.recent))
                return replace(found, cause=stream.name, needed=self._needed(self._requests_to_settle(stream)))
            recent = stream.recent_doubt(self._fresh_doubt_at) if advancing else None
            if recent is not None:
                found = self._verdict("hold", "recent", stream.compare(recent))
                return replace(found, cause=stream.name, minutes=ceil(stream.latest.seconds / 60))
        worse = self.streams.find_worse(accepted)
        if worse is not None:
            return replace(self._verdict("hold", "worse"), worse_in=worse)
        return None

    @property
    def _fresh_doubt_at(self) -> float:
        """The evidence of the latest minutes alone at which a stage waits."""
        policy = self.policy
        below = policy.early_below_by_ticks if self._by_ticks else policy.early_below
        return policy.early_doubt_at if self._weight < below else policy.fresh_doubt_at

    def _needed(self, requests: float | None) -> Needed | None:
        """Canary requests, and minutes at the traffic of the latest minutes; None if it is beyond all reason."""
        if requests is None or requests > MOST_REQUESTS_NEEDED:
            return None
        served = self._served.total.canary_requests
        return Needed(ceil(requests), requests * (self._served.seconds / 60) / served if served else None)

    def _requests_to_prove(self) -> float:
        """Canary requests until both streams are shown to be healthy, if their present rates go on."""
        at = self.policy.proved_at
        missing = [stream for stream in self._streams if stream.ok.value < at]
        return max(s.ok.trials_to(at, s.stage.canary_rate, 1.5 * s.limit) or inf for s in missing)

    def _requests_to_settle(self, stream: _Stream) -> float | None:
        """Canary requests until a doubt becomes a rollback (rule S or R) or goes away, if its present rates go on."""
        seen = stream.recent
        policy = self.policy
        failures = max(1, seen.stable_events + seen.canary_events)
        worse_at = 1e-9 if self._alone else policy.worse_at  # alone, it is compared with nothing
        # Rule S and rule R: each needs both kinds of evidence, and so as many requests as the slower of the two.
        paths = []
        for slo_at, base_at in ((policy.rollback_at, worse_at), (1.0 / policy.gamma, policy.rollback_at)):
            slo = _trials_to(stream.over, slo_at, seen.canary_rate, stream.limit_now)
            base = _trials_to(stream.base, base_at, seen.canary_events / failures, self._weight)
            paths.append(max(slo, base * seen.canary_requests / failures))
        if min(paths) < inf:
            return min(paths)
        return stream.over.trials_to(policy.doubt_at, seen.canary_rate, stream.limit_now)


def _paired(canary: tuple[int, int], stable: tuple[int, int]) -> PairedCounts:
    """The (events, requests) of both versions in a minute. Late data may show a failure before its request."""
    return PairedCounts(min(canary), canary[1], min(stable), stable[1])


def _trials_to(process: EProcess, value: float, rate: float, chance: float) -> float:
    """As ``trials_to``; 0 where the value is reached, inf where it will not be."""
    if process.value >= value:
        return 0.0
    return process.trials_to(value, rate, chance) or inf
