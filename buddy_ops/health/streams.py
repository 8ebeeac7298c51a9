"""Both versions compared in streams of events: errors, slow requests, and what a business counts.

A version that keeps its limits may still be worse than the stable one: more errors, slower, fewer sales. Each stream
has two e-processes, on how many of a minute's events are the new version's: is it worse at all, and by more than the
margin? They are exact by the requests that each version really had in the minute, whatever happens to both. Reads
nothing: ``evidence`` feeds whole minutes, once each.

Source: docs/streams.md, docs/sequential-test.md.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from buddy_ops.core.settings import MetricName, SlowerThan, StreamSettings
from buddy_ops.core.text import count, exact_percent, figure, percent
from buddy_ops.health.sequential_test import ComparedByState, EProcess, Mixture, PairedCounts

MORE: Mixture = ((1.5, 0.50), (2.5, 0.30), (5, 0.13), (20, 0.07))
LESS: Mixture = ((0.9, 0.20), (0.8, 0.50), (0.7, 0.10), (0.6, 0.10), (0.4, 0.07), (0.1, 0.03))
"""By how much an event is more often the new version's, or less often. Source: ``benchmarks/judge/streams.py``."""

FIRST_STAKE = 0.8

HOLD_AT = {"more": 35.0, "less": 13.0}
"""1 / the chance to hold a version that is not worse at all (Ville's inequality).

Read for the minutes of a rollout, the three streams of parameters/prod.yaml together hold about 1 % of good builds.

Source: ``benchmarks/judge/streams.py``."""

MARGIN_AT = 2.0
"""The evidence, beside that, that the new version is worse by more than the margin."""

SURELY_AT = 20.0
"""1 / the chance that a version within the margin is called worse by more than it: more requests settle nothing."""

OBJECTIVE_AT = 10.0
"""Where there is an objective: 1 / the chance to call a version that keeps it one that misses it."""

TESTS = 2.0
"""Tests of a stream that may roll back: against stable, and against the objective."""

FEWEST_EVENTS = 5
MOST_TIMES = 100.0


def share_of_events(counts: PairedCounts, ratio: float) -> float:
    """The new version's share of a minute's events, if its rate is ``ratio`` times the stable one's.

    By the requests of both versions, never by the nominal weight. 0 or 1 where one version had none: that says nothing.
    """
    share = counts.canary_requests / max(1, counts.canary_requests + counts.stable_requests)
    return share * ratio / (1.0 - share + share * ratio)


def local_dispersion(minutes: Iterable[tuple[int, int]]) -> float:
    """How much more neighbouring minutes (events, requests) of one version differ than by chance: 1 or more.

    Both versions have the same time of day, so a rate that drifts makes no difference between them; bursts do.
    """
    total = 0.0
    pairs = 0
    events = 0
    for (x0, n0), (x1, n1) in pairwise((min(x, n), n) for x, n in minutes if n > 0):
        events += x1
        # Two neighbours differ by chance as two samples of their common rate do.
        rate = (x0 + x1) / (n0 + n1)
        if 0.0 < rate < 1.0:
            total += (x0 / n0 - x1 / n1) ** 2 / (rate * (1.0 - rate) * (1.0 / n0 + 1.0 / n1))
            pairs += 1
    if events < FEWEST_EVENTS or pairs < 2:
        return 1.0
    return max(1.0, total / pairs)


@dataclass(frozen=True, slots=True)
class StreamReading:
    """What one stream shows.

    Attributes:
        what: the events in a sentence: 'error rate', 'requests over 283 ms', 'sales'.
        of: what they are counted of, in the singular.
        recent: the counts since the evidence began to grow; ``total``: of the rollout.
        evidence: that the new version is worse by more than the margin (1 / p).
        at_all: that it is worse than the stable one at all (1 / p).
        phi: the dispersion of the history.
        silent: why nothing is compared, in a sentence; empty: it is.
    """

    spec: StreamSettings
    what: str
    of: str
    recent: PairedCounts
    total: PairedCounts
    evidence: float
    at_all: float
    phi: float
    silent: str = ""

    @property
    def allowed(self) -> str:
        """The margin: 'at most 1.5 times', 'at most 10 % less'."""
        if self.spec.worse == "less":
            return f"at most {exact_percent(self.spec.margin)} less"
        return f"at most {_ratio(self.spec):g} times"

    def compare(self, new: str, stable: str, counts: PairedCounts) -> str:
        """'v42 error rate 0.9 % (54 of 6,000 requests), v41 0.2 % (108 of 54,000) in the same minutes'."""
        rate = percent(counts.canary_rate)
        of_new = f"{new} {self.what} {rate} ({counts.canary_events:,} of {count(counts.canary_requests, self.of)})"
        other = percent(counts.stable_events / max(1, counts.stable_requests))
        return (
            f"{of_new}, {stable} {other} ({counts.stable_events:,} of {counts.stable_requests:,}) in the same minutes"
        )

    def difference(self, stable: str) -> str:
        """'4.5 times the rate of v41', '31 % less than v41'."""
        rate = self.recent.stable_events / max(1, self.recent.stable_requests)
        if not rate:
            return f"more than {stable} has"
        times = self.recent.canary_rate / rate
        if self.spec.worse == "less":
            return f"{percent(1.0 - times)} less than {stable}"
        return f"{figure(times)} times the rate of {stable}"

    def line(self, new: str, stable: str) -> str:
        """'latency: v42 requests over 283 ms 10 %, v41 9.9 %; at most 1.25 times is allowed: not worse (...)'."""
        if self.silent:
            return f"{self.spec.name}: {self.silent}."
        rate = percent(self.total.stable_events / max(1, self.total.stable_requests))
        both = f"{new} {self.what} {percent(self.total.canary_rate)}, {stable} {rate}"
        return f"{self.spec.name}: {both}; {self.allowed} is allowed: {self.result}."

    @property
    def result(self) -> str:
        """What was found, and with how few counts it would not have been."""
        if self.silent:
            return self.silent
        if self.is_certain:
            return "worse"
        if _holds(self.spec, self.at_all, self.evidence):
            return "probably worse"
        if self.found_from is None:
            return "too little traffic to find a difference"
        if self.spec.worse == "more":
            return f"not worse (found from {self.found_from:.2g} times on)"
        return f"not worse (found from {percent(1.0 - self.found_from)} less on)"

    @property
    def is_certain(self) -> bool:
        """Whether more requests would not change it: the new version is worse by more than the margin."""
        return self.evidence >= SURELY_AT

    @property
    def found_from(self) -> float | None:
        """How many times stable's rate would probably be found with the counts of the rollout; None: nothing would."""
        total = self.total
        events = total.canary_events + total.stable_events
        allowed = _ratio(self.spec)
        tests = [(share_of_events(total, 1.0), HOLD_AT[self.spec.worse]), (share_of_events(total, allowed), MARGIN_AT)]

        def is_found(ratio: float) -> bool:
            share = share_of_events(total, ratio)
            # The mean log-evidence of this ratio; 1 for the mixture's other parts.
            return all(events * _divergence(share, null) / self.phi >= log(at) + 1.0 for null, at in tests)

        far = MOST_TIMES if self.spec.worse == "more" else 0.0
        if not events or not 0.0 < tests[0][0] < 1.0 or not is_found(far):
            return None
        near = allowed
        # 30 halvings of at most 100 times: the two digits that are shown are right.
        for _ in range(30):
            middle = (near + far) / 2
            near, far = (near, middle) if is_found(middle) else (middle, far)
        return far


def _ratio(spec: StreamSettings) -> float:
    """How many times stable's rate is allowed."""
    return 1.0 + spec.margin if spec.worse == "more" else 1.0 - spec.margin


def _holds(spec: StreamSettings, at_all: float, evidence: float) -> bool:
    """Whether a stage waits: the new version is worse than the stable one, and rather by more than the margin."""
    return at_all >= HOLD_AT[spec.worse] and evidence >= MARGIN_AT


def _divergence(share: float, null: float) -> float:
    """The mean log-evidence of one event against a chance ``null``, where the chance is ``share``."""
    gain = share * log(share / null) if share else 0.0
    return gain + (1.0 - share) * log((1.0 - share) / (1.0 - null))


class StreamTest(ComparedByState):
    """The test of one stream.

    Args:
        spec: what is compared, and how.
        history: stable's (events, requests) of each minute before the rollout.
        bound_ms: the bound of a stream of slow requests; None: the history has none.
    """

    def __init__(self, spec: StreamSettings, history: Sequence[tuple[int, int]], bound_ms: float | None = None) -> None:
        self.spec = spec
        self.bound_ms = bound_ms
        self.phi = local_dispersion(history)
        mixture = MORE if spec.worse == "more" else LESS
        self._worse = EProcess(mixture, self.phi, FIRST_STAKE)
        self._at_all = EProcess(mixture, self.phi, FIRST_STAKE)
        self._over = EProcess(mixture, self.phi, FIRST_STAKE)
        self._served = 0
        self._recent = PairedCounts()
        self._total = PairedCounts()

    def update(self, minute: PairedCounts, requests: int) -> None:
        """Add one minute of both versions; ``requests``: those of the new version.

        A request has at most one event; what is counted beyond that is left out.
        """
        self._served += requests
        if self._served < self.spec.from_requests:
            return
        seen = PairedCounts(
            min(minute.canary_events, minute.canary_requests),
            minute.canary_requests,
            min(minute.stable_events, minute.stable_requests),
            minute.stable_requests,
        )
        if not (seen.canary_requests and seen.stable_requests):
            return
        if self._worse.value <= 1.0:
            self._recent = PairedCounts()
        self._recent += seen
        self._total += seen
        events = seen.canary_events + seen.stable_events
        self._worse.update(seen.canary_events, events, share_of_events(seen, _ratio(self.spec)))
        self._at_all.update(seen.canary_events, events, share_of_events(seen, 1.0))
        if self.spec.objective is not None:
            self._over.update(seen.canary_events, seen.canary_requests, self.spec.objective)

    @property
    def evidence(self) -> float:
        """That the new version is worse by more than the margin: 1 is none."""
        return self._worse.value

    @property
    def _misses_objective(self) -> bool:
        return self.spec.objective is None or self._over.value >= OBJECTIVE_AT

    @property
    def holds(self) -> bool:
        """Whether a stage waits for more requests, or for a decision. No version that keeps its objective does."""
        return self._misses_objective and _holds(self.spec, self._at_all.value, self.evidence)

    def is_worse(self, at: float) -> bool:
        """Whether the new version is worse by more than the margin (evidence of ``at``), and misses the objective."""
        return self._misses_objective and self.evidence >= at

    def read(self) -> StreamReading:
        """What it shows now."""
        silent = ""
        if isinstance(self.spec.events, SlowerThan) and self.bound_ms is None:
            silent = "not compared: the history has no durations"
        elif not self._total.canary_requests:
            silent = "not compared: too few requests"
        elif isinstance(self.spec.events, MetricName) and not (self._total.canary_events + self._total.stable_events):
            silent = "not compared: its metric has no events"
        return StreamReading(
            self.spec,
            what=self._what(),
            of="request" if self.spec.of == "requests" else self.spec.of.name,
            recent=self._recent,
            total=self._total,
            evidence=self.evidence,
            at_all=self._at_all.value,
            phi=self.phi,
            silent=silent,
        )

    def _what(self) -> str:
        if self.spec.events == "errors":
            return "error rate"
        if isinstance(self.spec.events, SlowerThan) and self.bound_ms is not None:
            return f"requests over {figure(self.bound_ms)} ms"
        return self.spec.name


class StreamTests(ComparedByState):
    """The tests of all streams of a rollout. They depend on nothing else that is judged: the order does not matter."""

    def __init__(self, tests: Sequence[StreamTest] = ()) -> None:
        self._tests = tuple(tests)

    def update(self, minute: Sequence[PairedCounts | None], requests: int, *, moving: bool) -> None:
        """Add one whole minute of both versions.

        Args:
            minute: the counts of each stream; None: unknown.
            requests: of the new version in it.
            moving: whether traffic was shifted in it, or just before: new environments are slow for a moment.
        """
        for test, counts in zip(self._tests, minute, strict=True):
            if counts is not None and not (moving and isinstance(test.spec.events, SlowerThan)):
                test.update(counts, requests)

    def find_rollback(self, at: float) -> StreamReading | None:
        """The first stream that rolls back, with evidence of ``at`` that the new version is worse."""
        worse = (test for test in self._tests if test.spec.on == "rollback" and test.is_worse(at))
        return next((test.read() for test in worse), None)

    def find_worse(self, accepted: Collection[str] = ()) -> StreamReading | None:
        """The first stream that is not accepted and for which a stage waits, whatever its action."""
        worse = (test for test in self._tests if test.spec.name not in accepted and test.holds)
        return next((test.read() for test in worse), None)

    def read(self) -> tuple[StreamReading, ...]:
        """What each shows now."""
        return tuple(test.read() for test in self._tests)
