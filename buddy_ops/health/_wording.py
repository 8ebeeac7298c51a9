"""The judge's verdicts in sentences, rendered from their fields."""

from math import ceil, floor, log10
from typing import TYPE_CHECKING

from buddy_ops.core.text import count, exact_percent, percent

if TYPE_CHECKING:
    from buddy_ops.health.judge import Comparison, JudgePolicy, Needed, StreamName, Verdict

SMALLEST_P = 1e-6
"""No p below this is claimed: no model of traffic is more exact."""


def reasons(verdict: "Verdict") -> tuple[str, ...]:
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


def _finding(verdict: "Verdict") -> list[str]:
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


def describe_bake(left_s: float) -> str:
    """What is left of a stage's bake time (seconds): the one statement of verdicts, charts and controls.

    Only a minute that was judged counts: the time that passes until the next poll shortens nothing.
    """
    # Rounded first: 300.0000001 s are 5 min, not 6.
    return f"Baking: {ceil(round(left_s / 60, 6))} min left" if left_s > 0 else "Bake complete"


def _cold_starts(verdict: "Verdict") -> str:
    """'Latency is judged without 23 cold starts of v42; 12 took over 6 s.'"""
    bound = f"{verdict.policy.slow_bound_s:g} s"
    left_out = f"Latency is judged without {count(verdict.cold, 'cold start')} of {verdict.canary_name}"
    return f"{left_out}; {verdict.cold_slow:,} took over {bound}."


def _regression(verdict: "Verdict") -> list[str]:
    compared = verdict.compared
    said = [f"{_compare(verdict, compared, with_limit=True)}."]
    if compared.counts.has_stable and verdict.worse >= verdict.policy.worse_at:
        said.append(f"{_p_value(verdict.worse)} that the difference is random.")
    significance = f" ({_p_value(verdict.over)})" if verdict.over >= 1 / verdict.policy.gamma else ""
    said.append(f"Over the {_limit(verdict.policy, compared.stream, compared.limit)} limit{significance}.")
    objective = _objective(verdict.policy, compared.stream)
    if compared.limit > objective:
        usual = f"The limit is the usual rate of {verdict.stable_name}"
        said.append(f"{usual}, which is over {exact_percent(objective)}.")
    return said


def _objective(policy: "JudgePolicy", stream: "StreamName") -> float:
    """The configured limit of a stream, 0..1."""
    return policy.slo_error_rate if stream == "errors" else policy.slo_slow_rate


def _limit(policy: "JudgePolicy", stream: "StreamName", limit: float) -> str:
    """The limit that held: as it was configured, or a measured rate."""
    raised = limit > _objective(policy, stream)
    return percent(limit) if raised else exact_percent(limit)


def measured(
    name: str, policy: "JudgePolicy", stream: "StreamName", events: int, requests: int, *, limit: float | None = None
) -> str:
    """'v42 error rate 3.1 % (20 of 640 requests, limit 1 %)'. Without ``limit`` none is named."""
    what = "error rate" if stream == "errors" else f"requests over {policy.slow_bound_s:g} s"
    against = "" if limit is None else f", limit {_limit(policy, stream, limit)}"
    return f"{name} {what} {_share(events, requests)} ({events:,} of {count(requests, 'request')}{against})"


def _external(verdict: "Verdict") -> list[str]:
    stable = verdict.stable_name
    return [
        f"{stable} is affected too: {verdict.canary_name} is not shown to be the cause.",
        f"{_compare(verdict, verdict.compared, stable_first=True)}.",
        _wait(verdict),
    ]


def _wait(verdict: "Verdict") -> str:
    """For how long a fault that is no version's is waited for."""
    policy = verdict.policy
    if verdict.expired:
        return f"This has lasted {verdict.minutes:.0f} min (limit {policy.external_limit_s / 60:g} min)."
    until = f"{verdict.stable_name} is within its limits for {policy.calm_minutes} min"
    return f"The rollout waits until {until}, then bakes again."


def _alias_failures(verdict: "Verdict") -> list[str]:
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
    return [f"{rate}, since {verdict.canary_name} received traffic ({_p_value(verdict.over)}).", source]


def _recent(verdict: "Verdict") -> list[str]:
    counts = verdict.compared.counts
    stable_first = counts.stable_events * counts.canary_requests > counts.canary_events * counts.stable_requests
    what = "errors" if verdict.compared.stream == "errors" else "slow requests"
    return [
        f"Inconclusive: too many {what} in the last {verdict.minutes:.0f} min to advance.",
        f"{_compare(verdict, verdict.compared, stable_first=stable_first, with_limit=True)}.",
    ]


def _worse(verdict: "Verdict") -> list[str]:
    worse = verdict.worse_in
    assert worse is not None
    said = [f"{worse.compare(verdict.canary_name, verdict.stable_name, worse.recent)}."]
    difference = f"This is {worse.difference(verdict.stable_name)}"
    if worse.is_certain:
        said.append(f"{difference}; {worse.allowed} is allowed ({_p_value(worse.evidence)}).")
    else:
        random = f"{_p_value(worse.at_all)} that the difference is random"
        said.append(f"{difference} ({random}); {worse.allowed} is allowed.")
    if verdict.decision == "hold" and not worse.is_certain:
        said.append("Inconclusive: the stage waits for more requests.")
    elif verdict.expired:
        said.append(f"No decision came within {verdict.policy.max_stretch_s / 60:g} min after the bake.")
    elif verdict.decision == "hold":
        said.append("The rollout waits for a decision: promote the stage if the change is intended, or abort.")
        said.append(f"A larger margin of '{worse.spec.name}' in settings.streams allows it.")
    return said


def _healthy(verdict: "Verdict") -> list[str]:
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


def _stage(verdict: "Verdict") -> str:
    if not verdict.compared.counts.canary_requests:
        return f"{verdict.canary_name} received no requests in this stage."
    return f"{_compare(verdict, verdict.compared)}."


def _compare(
    verdict: "Verdict", compared: "Comparison", *, stable_first: bool = False, with_limit: bool = False
) -> str:
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
    second = f"{other} {_share(other_events, other_requests)} ({other_events:,} of {other_requests:,})"
    return f"{first}, {second} in the same minutes"


def _share(events: int, requests: int) -> str:
    return percent(events / max(1, requests))


def _p_value(evidence: float) -> str:
    """'p < 0.0005' for evidence of 2,263: 1 / evidence, rounded up to one digit."""
    p = max(1 / evidence, SMALLEST_P)
    digits = -floor(log10(p))
    # 1e-9 keeps a p of 0.05 from becoming 0.06 by the last bit of a float.
    rounded = ceil(p * 10**digits - 1e-9) / 10**digits
    return f"p < {rounded:.{digits}f}"


def _needs(needed: "Needed | None") -> str:
    if needed is None:
        return "Inconclusive: more requests at the present rates would not decide it soon."
    requests = f"Inconclusive: need about {count(needed.requests, 'more request')}"
    if needed.minutes is None:
        return f"{requests} (no traffic at present)."
    return f"{requests} (~{ceil(needed.minutes)} min)."
