"""What the judge decides: the decision with what it rests on, and the same in sentences, rendered from the fields."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from buddy_ops.core.text import count, exact_percent
from buddy_ops.health.counts import StreamName
from buddy_ops.health.judge_policy import JudgePolicy
from buddy_ops.health.sequential_test import PairedCounts
from buddy_ops.health.stable_alone import StableTest
from buddy_ops.health.streams import StreamReading
from buddy_ops.health.wording import describe_bake, limit_text, measured, p_value, share

Decision = Literal["promote", "hold", "rollback", "external"]
Finding = Literal[
    "regression",
    "external",
    "unread",
    "cold-starts",
    "log-silent",
    "throttled",
    "doubt",
    "recent",
    "baking",
    "baked",
    "inconclusive",
    "healthy",
    "alias-failures",
    "worse",
]


@dataclass(frozen=True, slots=True)
class Needed:
    """What a decision still needs: canary requests, and minutes at the present traffic (None: there is none)."""

    requests: int
    minutes: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both versions in one stream over the same minutes, with the limit (0..1) that holds there."""

    stream: StreamName
    limit: float
    counts: PairedCounts


NOTHING_COMPARED = Comparison("errors", 0.0, PairedCounts())
"""Where no counts decided."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do now, and why. ``reasons`` renders it.

    Attributes:
        decision: 'promote' (to the next stage; in the last one: healthy, stop watching), 'hold' (stay), 'rollback', or
            'external' (stable is affected too: stay, attributed to neither version).
        finding: the rule that decided.
        needed: what would settle a doubt or show that the version is healthy, where that can be said.
        expired: staying has lasted as long as the policy allows (bake and stretch, or an external fault's hour): roll
            back without marking the version bad, exit code 5. The last stage ends by the caller's watch limit instead.
        cause: the stream behind a rollback, a doubt or an external fault: 'errors', 'slow', 'throttles'; else ''.
        rebakes: how often the evidence was cleared after an external fault; when it has grown, restart the bake clock.
        compared: the counts that decided; of 'alias-failures' those of the alias, in the canary's place.
        fixes: streams in which the canary may repair stable.
        worse: evidence that the canary is worse than stable, ``over``: that it is over the objective (1 / p).
        throttled: calls throttled in the latest minutes.
        minutes: of the bake that are left, of the external fault so far, or that were checked.
        stable_test: what stable is tested by after this rollback; None if the new version was compared with it.
        worse_in: of 'worse' the stream in which the canary is worse than stable; ``streams``: what all of them show.
        cold: cold starts of the canary that its latency is judged without; ``cold_slow``: those over the bound.
        cold_trouble: why other cold starts are judged, in sentences: they are unknown.
    """

    decision: Decision
    finding: Finding
    policy: JudgePolicy
    stable_name: str
    canary_name: str
    needed: Needed | None = None
    expired: bool = False
    cause: StreamName | Literal["throttles", ""] = ""
    rebakes: int = 0
    compared: Comparison = NOTHING_COMPARED
    fixes: tuple[Comparison, ...] = ()
    worse: float = 1.0
    over: float = 1.0
    throttled: int = 0
    minutes: float = 0.0
    cold: int = 0
    cold_slow: int = 0
    cold_trouble: str = ""
    stable_test: StableTest | None = None
    worse_in: StreamReading | None = None
    streams: tuple[StreamReading, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Full sentences with versions, requests and rates, the decisive one first."""
        return _reasons(self)


def _reasons(verdict: Verdict) -> tuple[str, ...]:
    """Full sentences with versions, requests and rates, the decisive one first."""
    said = _finding(verdict)
    for fix in verdict.fixes:
        said.append(f"{verdict.canary_name} may be the fix: {_compare(verdict, fix, stable_first=True)}.")
    if verdict.cold:
        said.append(_cold_starts(verdict))
    if verdict.cold_trouble:
        said.append(verdict.cold_trouble)
    # A sentence begins with a capital; 'p < 0.05' and a version's name ('v42') stay as they are.
    return tuple(text[0].upper() + text[1:] if text[1].isalpha() else text for text in said)


def _finding(verdict: Verdict) -> list[str]:
    match verdict.finding:
        case "unread":
            return ["No metrics for this stage yet."]
        case "cold-starts":
            return [
                f"The log of {verdict.canary_name} or {verdict.stable_name} cannot be read yet: slow requests may be "
                "cold starts. The next check decides."
            ]
        case "log-silent":
            return [
                f"The log shows no request of {verdict.canary_name} in this stage yet. CloudWatch's minutes decide."
            ]
        case "throttled":
            return [
                f"{count(verdict.throttled, 'request')} throttled in the last {verdict.minutes:.0f} min "
                "(not attributed to a version). Raise the concurrency limit."
            ]
        case "regression":
            return _regression(verdict)
        case "external":
            return _external(verdict)
        case "alias-failures":
            return _alias_failures(verdict)
        case "doubt":
            return [_needs(verdict.needed), f"{_compare(verdict, verdict.compared, with_limit=True)}."]
        case "recent":
            return _recent(verdict)
        case "worse":
            return _worse(verdict)
        case "inconclusive":
            return [_needs(verdict.needed), _stage(verdict)]
        case "healthy":
            return [*_healthy(verdict), _stage(verdict)]
    # What is left is 'baking' and 'baked'.
    left = f"{describe_bake(60 * verdict.minutes if verdict.finding == 'baking' else 0.0)}."
    if not verdict.compared.counts.canary_requests:
        idle = f"{verdict.canary_name} received no requests in this stage"
        return [left, f"{idle}; it will advance on time only (no evidence)."]
    return [f"{left} No regression so far.", _stage(verdict)]


def _cold_starts(verdict: Verdict) -> str:
    """'Latency is judged without 23 cold starts of v42; 12 took over 6 s.'"""
    bound = f"{verdict.policy.slow_bound_s:g} s"
    left_out = f"Latency is judged without {count(verdict.cold, 'cold start')} of {verdict.canary_name}"
    return f"{left_out}; {verdict.cold_slow:,} took over {bound}."


def _regression(verdict: Verdict) -> list[str]:
    compared = verdict.compared
    said = [f"{_compare(verdict, compared, with_limit=True)}."]
    if compared.counts.has_stable and verdict.worse >= verdict.policy.worse_at:
        said.append(f"{p_value(verdict.worse)} that the difference is random.")
    significance = f" ({p_value(verdict.over)})" if verdict.over >= 1 / verdict.policy.gamma else ""
    said.append(f"Over the {limit_text(verdict.policy, compared.stream, compared.limit)} limit{significance}.")
    objective = verdict.policy.objective(compared.stream)
    if compared.limit > objective:
        usual = f"The limit is the usual rate of {verdict.stable_name}"
        said.append(f"{usual}, which is over {exact_percent(objective)}.")
    return said


def _external(verdict: Verdict) -> list[str]:
    stable = verdict.stable_name
    return [
        f"{stable} is affected too: {verdict.canary_name} is not shown to be the cause.",
        f"{_compare(verdict, verdict.compared, stable_first=True)}.",
        _wait(verdict),
    ]


def _wait(verdict: Verdict) -> str:
    """For how long a fault that is no version's is waited for."""
    policy = verdict.policy
    if verdict.expired:
        return f"This has lasted {verdict.minutes:.0f} min (limit {policy.external_limit_s / 60:g} min)."
    until = f"{verdict.stable_name} is within its limits for {policy.calm_minutes} min"
    return f"The rollout waits until {until}, then bakes again."


def _alias_failures(verdict: Verdict) -> list[str]:
    compared = verdict.compared
    counts = compared.counts
    policy = verdict.policy
    rate = measured(
        "The alias as a whole:",
        policy,
        "errors",
        events=counts.canary_events,
        requests=counts.canary_requests,
        limit=compared.limit,
    )
    source = "These failures name no version."
    if verdict.decision == "external":
        return [f"{rate}. {source}", f"They began before {verdict.canary_name} received traffic.", _wait(verdict)]
    if verdict.over < policy.rollback_at:
        return [f"Inconclusive: {rate}.", source]
    return [f"{rate}, since {verdict.canary_name} received traffic ({p_value(verdict.over)}).", source]


def _recent(verdict: Verdict) -> list[str]:
    counts = verdict.compared.counts
    stable_first = counts.stable_events * counts.canary_requests > counts.canary_events * counts.stable_requests
    what = "errors" if verdict.compared.stream == "errors" else "slow requests"
    return [
        f"Inconclusive: too many {what} in the last {verdict.minutes:.0f} min to advance.",
        f"{_compare(verdict, verdict.compared, stable_first=stable_first, with_limit=True)}.",
    ]


def _worse(verdict: Verdict) -> list[str]:
    worse = verdict.worse_in
    assert worse is not None
    said = [f"{worse.compare(verdict.canary_name, verdict.stable_name, worse.recent)}."]
    difference = f"This is {worse.difference(verdict.stable_name)}"
    if worse.is_certain:
        said.append(f"{difference}; {worse.allowed} is allowed ({p_value(worse.evidence)}).")
    else:
        random = f"{p_value(worse.at_all)} that the difference is random"
        said.append(f"{difference} ({random}); {worse.allowed} is allowed.")
    if verdict.decision == "hold" and not worse.is_certain:
        said.append("Inconclusive: the stage waits for more requests.")
    elif verdict.expired:
        said.append(f"No decision came within {verdict.policy.max_stretch_s / 60:g} min after the bake.")
    elif verdict.decision == "hold":
        said.append("The rollout waits for a decision: promote the stage if the change is intended, or abort.")
        said.append(f"A larger margin of '{worse.spec.name}' in settings.streams allows it.")
    return said


def _healthy(verdict: Verdict) -> list[str]:
    policy = verdict.policy
    # 1.5 times, as ``ok`` tests it.
    errors = exact_percent(1.5 * policy.slo_error_rate)
    slow = exact_percent(1.5 * policy.slo_slow_rate)
    confidence = exact_percent(1 - 1 / policy.proved_at)
    left_out = " (without cold starts)" if verdict.cold else ""
    return [
        f"Healthy: error rate is below {errors} with {confidence} confidence.",
        f"Requests over {policy.slow_bound_s:g} s{left_out} are below {slow} with {confidence} confidence.",
    ]


def _stage(verdict: Verdict) -> str:
    if not verdict.compared.counts.canary_requests:
        return f"{verdict.canary_name} received no requests in this stage."
    return f"{_compare(verdict, verdict.compared)}."


def _compare(verdict: Verdict, compared: Comparison, *, stable_first: bool = False, with_limit: bool = False) -> str:
    """'v42 error rate 3.1 % (20 of 640 requests), v41 0.21 % (12 of 5,760) in the same minutes'.

    Ticks do not count stable's requests: '...; v41 had 12 failed requests in the same time'.
    """
    counts = compared.counts
    limit = compared.limit if with_limit else None
    if counts.stable_unread:
        first = measured(
            verdict.canary_name,
            verdict.policy,
            compared.stream,
            events=counts.canary_events,
            requests=counts.canary_requests,
            limit=limit,
        )
        kind = "failed request" if compared.stream == "errors" else "slow request"
        return f"{first}; {verdict.stable_name} had {count(counts.stable_events, kind)} in the same time"
    sides = [
        (verdict.canary_name, counts.canary_events, counts.canary_requests),
        (verdict.stable_name, counts.stable_events, counts.stable_requests),
    ]
    if stable_first:
        sides.reverse()
    (name, events, requests), (other, other_events, other_requests) = sides
    first = measured(name, verdict.policy, compared.stream, events=events, requests=requests, limit=limit)
    if not other_requests:
        return f"{first}; {other} received no requests in the same minutes"
    second = f"{other} {share(other_events, other_requests)} ({other_events:,} of {other_requests:,})"
    return f"{first}, {second} in the same minutes"


def _needs(needed: Needed | None) -> str:
    if needed is None:
        return "Inconclusive: more requests at the present rates would not decide it soon."
    requests = f"Inconclusive: need about {count(needed.requests, 'more request')}"
    if needed.minutes is None:
        return f"{requests} (no traffic at present)."
    return f"{requests} (~{ceil(needed.minutes)} min)."
