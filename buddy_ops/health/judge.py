"""Counts to verdict: whether the new version is good, bad or undecided, or whether something else burns.

Knows the sequential test that decides a rollout, and how to say its findings in plain sentences. Never reads a clock, a
metric or a file: the caller feeds whole minutes, in order, and asks. It may ask after every minute, at any traffic: the
error guarantees still hold. The same minutes give the same verdict, so a resumed rollout judges as if never stopped.

Evidence is a betting score: a fair gambler who staked 1 on 'this version is bad' owns that much now. If it is not bad
the score is at most 1 on average, so it passes 800 in fewer than 1 of 800 rollouts, however often anybody looks. Each
stake is spread over how bad the version may be, and since when.

Source: judge.md. Reading a score at any time: Ville's inequality. Given a minute's failures, the canary's are binomial
in the weight (exact); where the weight moved, hypergeometric in n1/(n0+n1), with no larger a score (Hoeffding, 1963).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, exp, inf, log
from typing import Any, Literal

Decision = Literal["promote", "hold", "rollback", "external"]
Mixture = tuple[tuple[float, float], ...]  # (how many times the odds of an event, share of the stake); shares add to 1

_CAP = 1e100  # more evidence than this changes nothing, and a plain float never overflows
_HORIZON_MINUTES = 30  # after the first minute, 1/(30 + minutes so far) of the idle stake is placed each minute


@dataclass(frozen=True, slots=True)
class Counts:
    """One version in one minute: requests, failures, requests over the latency bound, calls throttled unrun."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    throttles: int = 0


@dataclass(frozen=True, slots=True)
class Minute:
    """Both versions in one minute. `weight`: the canary's 0..1 share; `weight_changed`: it moved inside this minute."""

    weight: float
    stable: Counts
    canary: Counts
    weight_changed: bool = False


@dataclass(frozen=True)
class JudgePolicy:
    """What is tolerated, and how sure the judge must be.

    The objectives are the deployment guide's 'Watching' table (error rate < 1 %; p99 < 6 s is 'at most 1 % over 6 s').
    Chances of error, mixtures (fitted by simulation at 6-6,000 requests a minute) and limits are judge.md's, but for
    `fresh_doubt_at`, which `benchmarks/judge` chose.
    """

    slo_error_rate: float = 0.01
    slo_slow_rate: float = 0.01
    slow_bound_s: float = 6.0  # only named in sentences: the counts were made with it
    on_slow: Literal["rollback", "hold"] = "rollback"
    alpha: float = 0.005  # chance to roll back a version that is within the objectives
    alpha_base: float = 0.05  # chance to call one version worse than the other when it is not
    gamma: float = 0.10  # chance to call a version over the objective, once it is surely worse than stable
    doubt_at: float = 2.0  # evidence of the whole rollout at which a bake is stretched
    fresh_doubt_at: float = 5.0  # evidence of the latest minutes alone at which it is
    proved_at: float = 100.0  # 1 / the chance to call a version proved that is over 1.5 times an objective
    early_at: float = 20.0
    early_after_s: float | None = None  # early promotion (180.0) saves minutes and doubles the cost of late faults
    max_stretch_s: float = 600.0
    external_limit_s: float = 3600.0
    calm_minutes: int = 5
    first_stake: float = 0.8  # staked in the first minute; the rest bets on changes that begin later
    slo_mixture: Mixture = ((1.5, 0.10), (2, 0.35), (3.5, 0.17), (7.5, 0.15), (25, 0.10), (150, 0.07), (1e4, 0.06))
    base_mixture: Mixture = ((1.5, 0.07), (2, 0.10), (4, 0.28), (10, 0.30), (50, 0.13), (1000, 0.12))
    ok_mixture: Mixture = ((0.01, 0.30), (0.1, 0.25), (0.3, 0.25), (0.6, 0.20))

    @property
    def rollback_at(self) -> float:
        """The evidence that rolls back: two tests in each of two streams share alpha."""
        return 4.0 / self.alpha

    @property
    def worse_at(self) -> float:
        """The evidence that one version is worse than the other, or that stable is over its objective."""
        return 1.0 / self.alpha_base


@dataclass(frozen=True, slots=True)
class Needed:
    """What a decision still wants: canary requests, and minutes at the present traffic (None: there is none)."""

    requests: int
    minutes: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do now, and why.

    Attributes:
        decision: 'promote' (to the next stage; in the last one: proved, stop watching), 'hold' (stay), 'rollback', or
            'external' (stable suffers too: stay, blame nobody).
        reasons: full sentences with versions, requests, failures and rates, the decisive one first.
        needed: what would settle a doubt or prove the version, where that can be said.
        expired: staying has lasted as long as the policy allows (bake and stretch, or an external fault's hour): take
            the traffic back without blame, exit code 5. The last stage ends by the caller's watch limit instead.
        cause: the stream behind a rollback, a doubt or an external fault: 'errors', 'slow', 'throttles'; else ''.
        rebakes: how often the evidence was cleared after an external fault; when it has grown, restart the bake clock.
    """

    decision: Decision
    reasons: tuple[str, ...]
    needed: Needed | None = None
    expired: bool = False
    cause: str = ""
    rebakes: int = 0


@dataclass(frozen=True, slots=True)
class StreamScores:
    """The scores of one stream as plain odds: 1 is no evidence; draw them on a log axis."""

    slo: float  # the canary is over the objective
    base: float  # the canary is worse than stable
    stable: float  # stable is over the objective
    better: float  # stable is worse than the canary
    stage_ok: float  # the canary is under 2 times the objective, by this stage
    ok: float  # the canary is under 1.5 times the objective, by the whole rollout


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """What a chart draws: the scores of both streams, and the thresholds that they are read against."""

    errors: StreamScores
    slow: StreamScores
    rollback_at: float
    worse_at: float
    doubt_at: float
    proved_at: float


class _State:
    """Mutable, and equal when all it holds is equal: a rebuilt judge can be compared with the one that ran."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)


class _Score(_State):
    """One betting score: `odds` is what it is worth now, `parts` each multiple's portion, `idle` what is not staked."""

    def __init__(self, mixture: Mixture, phi: float, first_stake: float) -> None:
        self.mixture, self.phi, self.first_stake = mixture, phi, first_stake
        self.parts = [0.0] * len(mixture)
        self.odds, self.idle, self.minutes = 1.0, 1.0, 0
        self.chance, self.rows = -1.0, list[tuple[float, float, float]]()

    def table(self, chance: float) -> list[tuple[float, float, float]]:
        """Per multiple m: its share, the gain ln m of an event, the cost ln(1 + chance (m - 1)) of a trial."""
        phi = self.phi  # the dispersion divides both: a fair score stays fair (Jensen), and bursts count less
        return [(share, log(m) / phi, log(1 + chance * (m - 1)) / phi) for m, share in self.mixture]

    def update(self, events: int, trials: int, chance: float) -> None:
        """Add a minute of `events` in `trials`, each of `chance` if nothing is wrong; an empty one leaves the stake."""
        if trials <= 0 or not 0.0 < chance < 1.0:
            return
        if chance != self.chance:
            self.chance, self.rows = chance, self.table(chance)
        stake = self.idle / (_HORIZON_MINUTES + self.minutes) if self.minutes else self.first_stake
        self.minutes += 1
        self.idle -= stake
        parts = [
            (part + v * stake) * exp(llr if (llr := events * gain - trials * cost) < 200.0 else 200.0)
            for part, (v, gain, cost) in zip(self.parts, self.rows, strict=True)
        ]
        self.parts = parts if max(parts) < _CAP else [min(part, _CAP) for part in parts]
        self.odds = self.idle + sum(self.parts)

    def trials_to(self, odds: float, rate: float, chance: float) -> float | None:
        """About how many trials at this rate of events bring the score to `odds`; None if they lead away from it."""
        drift = max(rate * gain - cost for _, gain, cost in self.table(chance))
        distance = log(odds) - log(max(self.odds, 1e-300))
        return distance / drift if drift * distance > 0 else None


class _Tally(_State):
    """Events and requests: x1 of n1 of the canary's, x0 of n0 of stable's."""

    def __init__(self, minutes: Iterable[tuple[int, int, int, int]] = ()) -> None:
        self.x1 = self.n1 = self.x0 = self.n0 = 0
        for minute in minutes:
            self.add(*minute)

    def add(self, x1: int, n1: int, x0: int, n0: int) -> None:
        self.x1, self.n1, self.x0, self.n0 = self.x1 + x1, self.n1 + n1, self.x0 + x0, self.n0 + n0

    @property
    def rate(self) -> float:
        return self.x1 / self.n1 if self.n1 else 0.0


class _Stream(_State):
    """One kind of harm, errors or slow requests: its scores, and the counts that sentences quote."""

    def __init__(self, name: str, theta: float, phi: float, policy: JudgePolicy) -> None:
        self.name, self.theta, self.phi, self.policy = name, theta, phi, policy
        self.clear()

    def clear(self) -> None:
        """Forget all evidence, as at the start."""
        policy, phi, first = self.policy, self.phi, self.policy.first_stake
        self.slo, self.stable = (_Score(policy.slo_mixture, phi, first) for _ in range(2))
        self.base, self.better = (_Score(policy.base_mixture, phi, first) for _ in range(2))
        self.ok = _Score(policy.ok_mixture, phi, 1.0)  # a version is good from the start or not at all: no restarts
        self.recent = _Tally()  # since the evidence began to grow: what a rollback quotes
        self.latest: deque[tuple[int, int, int, int]] = deque(maxlen=policy.calm_minutes)
        self.next_stage()

    def next_stage(self) -> None:
        self.stage_ok = _Score(self.policy.ok_mixture, self.phi, 1.0)
        self.stage = _Tally()

    def update(self, x1: int, n1: int, x0: int, n0: int, share: float) -> None:
        """Add one minute; `share` is the chance that a failure is the canary's if versions do not matter."""
        x1, x0 = min(x1, n1), min(x0, n0)  # late data may show a failure before its request
        if self.slo.odds <= 1.0 and self.base.odds <= 1.0:
            self.recent = _Tally()
        for tally in (self.recent, self.stage):
            tally.add(x1, n1, x0, n0)
        self.latest.append((x1, n1, x0, n0))
        self.slo.update(x1, n1, self.theta)
        self.stable.update(x0, n0, self.theta)
        self.base.update(x1, x0 + x1, share)
        self.better.update(x0, x0 + x1, 1.0 - share)
        self.ok.update(x1, n1, 1.5 * self.theta)
        self.stage_ok.update(x1, n1, 2.0 * self.theta)

    def condemned(self, alone: bool, bake_over: bool) -> bool:
        """Whether the version is to be rolled back. Source: rules S, R and G of judge.md."""
        at, worse = self.policy.rollback_at, self.policy.worse_at
        # Where stable burns too, being over the objective says little about the version: S is silent, R decides.
        if self.slo.odds >= at and (alone or self.base.odds >= worse > self.stable.odds):
            return True
        over = self.slo.odds >= 1.0 / self.policy.gamma or (bake_over and self.stage.rate > 1.2 * self.theta)
        return self.base.odds >= at and over

    @property
    def doubtful(self) -> bool:
        worse = self.base.odds >= self.policy.worse_at and self.stage.rate > self.theta
        return self.slo.odds >= self.policy.doubt_at or worse

    @property
    def fresh_doubt(self) -> str:
        """Who looks bad by the latest minutes alone, 'canary' or 'stable'; the whole rollout's score is slower."""
        seen = _Tally()
        for minute in reversed(self.latest):
            seen.add(*minute)
            sides = (("canary", seen.x1, seen.n1), ("stable", seen.x0, seen.n0))
            for who, x, n in sides[: 1 if self.cured else 2]:
                fresh = _Score(self.policy.slo_mixture, self.phi, 1.0)
                fresh.update(x, n, self.theta)
                if fresh.odds >= self.policy.fresh_doubt_at:
                    return who
        return ""

    @property
    def cured(self) -> bool:
        """Stable is over the objective, the canary better and without harm of its own: it may be the fix."""
        return min(self.stable.odds, self.better.odds) >= self.policy.worse_at and self.slo.odds < self.policy.doubt_at

    @property
    def blameless(self) -> bool:
        """While stable burns: the canary is neither shown to be the worse one nor to be the fix."""
        return self.base.odds < self.policy.worse_at and not self.cured

    @property
    def calm(self) -> bool:
        """Stable was within the objective over the latest minutes."""
        seen = _Tally(self.latest)
        return len(self.latest) == self.latest.maxlen and seen.n0 > 0 and seen.x0 <= self.theta * seen.n0

    def evidence(self) -> StreamScores:
        scores = (self.slo, self.base, self.stable, self.better, self.stage_ok, self.ok)
        return StreamScores(*(score.odds for score in scores))


def dispersion(minutes: Iterable[tuple[int, int]]) -> float:
    """Pearson's dispersion of per-minute counts (events, requests) against their pooled rate.

    1.0 means independent events, bursts give more. Floored at 1, and 1 where fewer than 5 events were seen. Feed 3 h of
    minutes at least, 24 h at low traffic.
    """
    seen = [(min(x, n), n) for x, n in minutes if n > 0]
    events, requests = sum(x for x, _ in seen), sum(n for _, n in seen)
    if events < 5 or events == requests or len(seen) < 2:
        return 1.0
    rate = events / requests
    chi2 = sum((x - n * rate) ** 2 / (n * rate * (1 - rate)) for x, n in seen)
    return max(1.0, chi2 / (len(seen) - 1))


class Judge(_State):
    """The judge of one rollout: feed it whole minutes in order, ask for a verdict whenever you like.

    A minute that could not be read is not observed (and the caller holds); one without traffic is observed with zero
    requests. Judges that saw the same minutes and the same `next_stage()` calls between them are equal. `rebakes` says
    how often the evidence was cleared after an external fault: when it grows, the caller restarts its bake clock.
    """

    def __init__(
        self,
        policy: JudgePolicy | None = None,
        history: Sequence[Counts] = (),
        *,
        stable_name: str = "stable",
        canary_name: str = "the new version",
    ) -> None:
        """Begin without evidence; `history` are stable's minutes before the rollout, for their dispersion."""
        self.policy = policy = policy or JudgePolicy()
        self.stable_name, self.canary_name = stable_name, canary_name
        errors = dispersion((c.errors, c.requests) for c in history)
        slow = dispersion((c.slow, c.requests) for c in history)
        self._errors = _Stream("errors", policy.slo_error_rate, errors, policy)
        self._slow = _Stream("slow", policy.slo_slow_rate, slow, policy)
        self._streams = (self._errors, self._slow)
        self._latest: deque[Minute] = deque(maxlen=policy.calm_minutes)
        self._weight, self._stage_minutes, self._external_minutes, self.rebakes = 0.0, 0, 0, 0
        self._external: _Stream | None = None  # where stable burns, from its first minute until it has been calm

    def observe(self, minute: Minute) -> None:
        """Weigh one whole minute; each once, in order."""
        stable, canary, weight = minute.stable, minute.canary, minute.weight
        n0, n1 = stable.requests, canary.requests
        share = n1 / max(1, n0 + n1) if minute.weight_changed else weight
        self._errors.update(canary.errors, n1, stable.errors, n0, share)
        # Cold starts make any version slow for a moment: the minute in which its share grows says nothing of latency.
        if not (weight > self._weight or (minute.weight_changed and weight == self._weight)):
            self._slow.update(canary.slow, n1, stable.slow, n0, share)
        self._weight = weight
        self._latest.append(minute)
        self._stage_minutes += 1
        self._follow_external()

    def next_stage(self) -> None:
        """A new stage begins: its own counts start afresh, the evidence goes on."""
        self._stage_minutes = 0
        for stream in self._streams:
            stream.next_stage()

    def _follow_external(self) -> None:
        """Enter an external fault, count its minutes, and forget all evidence once stable has been calm again."""
        if self._weight >= 1.0:
            return  # stable serves nothing: there is nobody to compare with
        burning = (s for s in self._streams if s.stable.odds >= self.policy.worse_at and s.blameless)
        self._external = self._external or next(burning, None)
        self._external_minutes += self._external is not None
        if self._external and all(stream.calm for stream in self._streams):
            self._external, self._external_minutes, self.rebakes = None, 0, self.rebakes + 1
            for stream in self._streams:
                stream.clear()

    @property
    def proved(self) -> bool:
        """Whether both streams are shown to be under 1.5 times their objectives."""
        return all(stream.ok.odds >= self.policy.proved_at for stream in self._streams)

    def scores(self) -> JudgeScores:
        """The evidence now, and its thresholds, for a chart."""
        p = self.policy
        errors, slow = (stream.evidence() for stream in self._streams)
        return JudgeScores(errors, slow, p.rollback_at, p.worse_at, p.doubt_at, p.proved_at)

    def verdict(self, baked_s: float, bake_s: float, final: bool = False) -> Verdict:
        """Say what to do now; asking changes nothing.

        Args:
            baked_s: seconds that this stage has baked, without the time in which metrics could not be read.
            bake_s: seconds that it is to bake.
            final: the stage at 100 %, which is promoted only when proved; the caller's watch limit ends it *unproven*.
        """
        policy, over, burning = self.policy, baked_s >= bake_s, self._external
        expired = not final and baked_s >= bake_s + policy.max_stretch_s
        for stream in self._streams:
            if stream.condemned(self._weight >= 1.0, over):
                kept = stream is self._slow and policy.on_slow == "hold"
                told, cause = self._tell_condemned(stream), stream.name
                return self._say("hold" if kept else "rollback", *told, expired=kept and expired, cause=cause)
        if burning and burning.blameless and self._weight < 1.0:
            given_up = self._external_minutes * 60 >= policy.external_limit_s
            return self._say("external", *self._tell_external(burning), expired=given_up, cause=burning.name)
        if policy.early_after_s is not None and baked_s >= policy.early_after_s:
            over = over or all(stream.stage_ok.odds >= policy.early_at for stream in self._streams)
        if doubt := self._doubt(over and not final, expired):
            return doubt
        if not over:
            left = _count((bake_s - baked_s) / 60, "minute")
            return self._say("hold", f"The bake has {left} to go.", self._tell_stage())
        if final and not self.proved:
            at, scores = policy.proved_at, [(s.ok, s.stage.rate, 1.5 * s.theta) for s in self._streams]
            needed = self._needed(max(ok.trials_to(at, rate, b) or inf for ok, rate, b in scores if ok.odds < at))
            return self._say("hold", f"{self._tell_stage()} Not proved yet.", _tell_needed(needed), needed=needed)
        proof = f"Proved, but for 1 chance in {policy.proved_at:.0f}: it keeps within 1.5 times what is allowed."
        return self._say("promote", self._tell_stage(), proof if final else "")

    def _doubt(self, advancing: bool, expired: bool) -> Verdict | None:
        """The first reason to stay: nothing read, throttled calls, doubt by the whole rollout or its latest minutes."""
        if not self._stage_minutes:
            return self._say("hold", "No minute of this stage has been read yet.", expired=expired)
        if throttled := sum(minute.stable.throttles + minute.canary.throttles for minute in self._latest):
            calls = f"{_count(throttled, 'throttled call')} in the last {_count(len(self._latest), 'minute')}"
            told = f"{calls} ran on no version, so nobody is blamed; raise the concurrency limit."
            return self._say("hold", told, expired=expired, cause="throttles")
        for stream in self._streams:
            if stream.doubtful:
                needed = self._needed(self._requests_to_settle(stream))
                told = f"{self._compare(stream, stream.recent)}: too many to go on, too few to tell."
                return self._say("hold", told, _tell_needed(needed), needed=needed, expired=expired, cause=stream.name)
            if advancing and (who := stream.fresh_doubt):
                told = f"{self._compare(stream, _Tally(stream.latest), who == 'stable')}: too many just now to go on."
                return self._say("hold", told, expired=expired, cause=stream.name)
        return None

    def _needed(self, requests: float | None) -> Needed | None:
        """Canary requests, and minutes at the traffic of the latest minutes; None if it is beyond all reason."""
        if requests is None or requests > 1e7:
            return None
        served = sum(minute.canary.requests for minute in self._latest)
        return Needed(ceil(requests), requests * len(self._latest) / served if served else None)

    def _requests_to_settle(self, stream: _Stream) -> float | None:
        """Canary requests until a doubt becomes a rollback (rule S or R) or goes away, if its present rates go on."""
        seen, policy, paths = stream.recent, self.policy, []
        failures = max(1, seen.x0 + seen.x1)
        worse_at = policy.worse_at if self._weight < 1.0 else 1e-9  # alone, it is compared with nothing
        for slo_at, base_at in ((policy.rollback_at, worse_at), (1.0 / policy.gamma, policy.rollback_at)):
            slo = stream.slo.trials_to(slo_at, seen.rate, stream.theta) or inf
            base = stream.base.trials_to(base_at, seen.x1 / failures, self._weight) or inf
            slo, base = (0.0 if stream.slo.odds >= slo_at else slo), (0.0 if stream.base.odds >= base_at else base)
            paths.append(max(slo, base * seen.n1 / failures))
        return min(paths) if min(paths) < inf else stream.slo.trials_to(policy.doubt_at, seen.rate, stream.theta)

    def _say(self, decision: Decision, *told: str, needed: Needed | None = None, **more: Any) -> Verdict:
        cured = [stream for stream in self._streams if stream.cured and stream.stage.n0]
        fixes = [f"{self._compare(s, s.stage, True)}: {self.canary_name} may be the fix." for s in cured]
        # A sentence begins with a capital, but a version's name ('v42') stays as it is.
        said = [text[0].upper() + text[1:] if text[1].isalpha() else text for text in (*told, *fixes) if text]
        return Verdict(decision, tuple(said), needed, rebakes=self.rebakes, **more)

    def _compare(self, stream: _Stream, seen: _Tally, stable_first: bool = False) -> str:
        """E.g. 'v42 fails 3.1 % of 640 requests (20 failures), v41 0.2 % of 5,760 (12) in the same minutes'."""
        errors = stream is self._errors
        verb, noun = ("fails", "failure") if errors else (f"takes over {self.policy.slow_bound_s:g} s on", "slow one")
        sides = [(self.canary_name, seen.x1, seen.n1), (self.stable_name, seen.x0, seen.n0)]
        (name, x, n), (other, y, m) = reversed(sides) if stable_first else sides
        first = f"{name} {verb} {_rate(x, n)} of {_count(n, 'request')} ({_count(x, noun)})"
        second = f"{'' if errors else 'on '}{_rate(y, m)} of {m:,} ({y:,})" if m else "served none"
        return f"{first}, {other} {second} in the same minutes"

    def _tell_condemned(self, stream: _Stream) -> tuple[str, str]:
        told, allowed = self._compare(stream, stream.recent), f"At most {_rate(stream.theta, 1)} is allowed"
        if stream.recent.n0 and (odds := int(min(stream.base.odds, 1e6))) >= self.policy.worse_at:
            told += f"; the odds that this is chance are below 1 in {odds:,}"
        if (odds := int(min(stream.slo.odds, 1e6))) >= 1.0 / self.policy.gamma:
            allowed += f"; the odds that a version within that does as badly are below 1 in {odds:,}"
        return f"{told}.", f"{allowed}."

    def _tell_external(self, stream: _Stream) -> tuple[str, str]:
        told = self._compare(stream, _Tally(stream.latest), stable_first=True)
        told += f": {self.stable_name} suffers too, so nothing shows that {self.canary_name} is the cause."
        if self._external_minutes * 60 >= self.policy.external_limit_s:
            lasted = _count(self._external_minutes, "minute")
            return told, f"This has lasted {lasted}, the limit: give up, and blame nobody."
        calm = f"{self.stable_name} has been within its objectives for {_count(self.policy.calm_minutes, 'minute')}"
        return told, f"Nothing advances until {calm}; then the evidence is cleared and the stage bakes again."

    def _tell_stage(self) -> str:
        """The stage's counts, in the stream that is nearer to its objective."""
        if not self._errors.stage.n1:
            return f"No request has reached {self.canary_name} in this stage: it passes by time, and nothing is proved."
        stream = max(self._streams, key=lambda s: s.stage.rate / s.theta)
        return f"{self._compare(stream, stream.stage)}."


def _count(n: float, noun: str) -> str:
    return f"{ceil(n):,} {noun}{'' if ceil(n) == 1 else 's'}"


def _rate(x: float, n: float) -> str:
    """A share in per cent with the digits that matter: '0 %', '0.04 %', '3.1 %', '1 %', '100 %'."""
    percent = 100.0 * x / n if n else 0.0
    return f"{percent:.{2 if percent < 0.1 else 1}f}".rstrip("0").rstrip(".") + " %"


def _tell_needed(needed: Needed | None) -> str:
    if needed is None:
        return "At its present rates no number of requests would settle it soon."
    minutes = needed.minutes
    when = "but none come" if minutes is None else f"some {_count(minutes, 'minute')} at the present traffic"
    return f"About {_count(needed.requests, 'more request')} would settle it, {when}."
