"""The judge's verdicts in sentences, rendered from their fields."""

from math import ceil, floor, log10
from typing import TYPE_CHECKING

from buddy_ops.core.text import count, exact_percent, percent

if TYPE_CHECKING:
    from buddy_ops.health.judge import Comparison, Figures, Needed, Verdict

SMALLEST_P = 1e-6
"""No p below this is claimed: no model of traffic is more exact."""


def reasons(verdict: "Verdict") -> tuple[str, ...]:
    """Full sentences with versions, requests and rates, the decisive one first."""
    figures = verdict.figures
    fixes = (
        f"{figures.canary_name} may be the fix: {_compare(figures, fix, stable_first=True)}." for fix in figures.fixes
    )
    return tuple(_capitalised(text) for text in (*RENDER[verdict.finding](verdict), *fixes))


def _regression(verdict: "Verdict") -> list[str]:
    figures = verdict.figures
    compared = _compared(figures)
    said = [f"{_compare(figures, compared, with_limit=True)}."]
    if compared.counts.stable_requests and figures.worse >= figures.policy.worse_at:
        said.append(f"{_p_value(figures.worse)} that the difference is random.")
    significance = f" ({_p_value(figures.over)})" if figures.over >= 1 / figures.policy.gamma else ""
    said.append(f"Over the {exact_percent(compared.limit)} limit{significance}.")
    return said


def _external(verdict: "Verdict") -> list[str]:
    figures = verdict.figures
    policy = figures.policy
    if verdict.expired:
        ending = f"This has lasted {figures.minutes:.0f} min (limit {policy.external_limit_s / 60:g} min)."
    else:
        ending = (
            f"The rollout waits until {figures.stable_name} is within its limits for {policy.calm_minutes} min; "
            "then the stage bakes again."
        )
    return [
        f"{figures.stable_name} is affected too: {figures.canary_name} is not shown to be the cause.",
        f"{_compare(figures, _compared(figures), stable_first=True)}.",
        ending,
    ]


def _unread(verdict: "Verdict") -> list[str]:
    return ["No metrics for this stage yet."]


def _throttled(verdict: "Verdict") -> list[str]:
    figures = verdict.figures
    return [
        f"{count(figures.throttled, 'request')} throttled in the last {figures.minutes:.0f} min "
        "(not attributed to a version). Raise the concurrency limit."
    ]


def _doubt(verdict: "Verdict") -> list[str]:
    figures = verdict.figures
    return [_needs(verdict.needed), f"{_compare(figures, _compared(figures), with_limit=True)}."]


def _recent(verdict: "Verdict") -> list[str]:
    figures = verdict.figures
    compared = _compared(figures)
    counts = compared.counts
    stable_first = counts.stable_events * counts.canary_requests > counts.canary_events * counts.stable_requests
    what = "errors" if compared.stream == "errors" else "slow requests"
    return [
        f"Inconclusive: too many {what} in the last {figures.minutes:.0f} min to advance.",
        f"{_compare(figures, compared, stable_first=stable_first, with_limit=True)}.",
    ]


def _baking(verdict: "Verdict") -> list[str]:
    left = f"Baking: {ceil(verdict.figures.minutes)} min left."
    if _is_idle(verdict.figures):
        return [left, _idle(verdict.figures)]
    return [f"{left} No regression so far.", _stage(verdict.figures)]


def _baked(verdict: "Verdict") -> list[str]:
    if _is_idle(verdict.figures):
        return [_idle(verdict.figures)]
    return ["Bake complete. No regression.", _stage(verdict.figures)]


def _inconclusive(verdict: "Verdict") -> list[str]:
    return [_needs(verdict.needed), _stage(verdict.figures)]


def _healthy(verdict: "Verdict") -> list[str]:
    policy = verdict.figures.policy
    confidence = f"{exact_percent(1 - 1 / policy.proved_at)} confidence"
    slow = f"Requests over {policy.slow_bound_s:g} s are below {exact_percent(1.5 * policy.slo_slow_rate)}"
    return [
        f"Healthy: error rate is below {exact_percent(1.5 * policy.slo_error_rate)} with {confidence}.",
        f"{slow} with {confidence}.",
        _stage(verdict.figures),
    ]


RENDER = {
    "regression": _regression,
    "external": _external,
    "unread": _unread,
    "throttled": _throttled,
    "doubt": _doubt,
    "recent": _recent,
    "baking": _baking,
    "baked": _baked,
    "inconclusive": _inconclusive,
    "healthy": _healthy,
}


def _compared(figures: "Figures") -> "Comparison":
    assert figures.compared is not None
    return figures.compared


def _is_idle(figures: "Figures") -> bool:
    return not _compared(figures).counts.canary_requests


def _idle(figures: "Figures") -> str:
    return f"{figures.canary_name} received no requests in this stage; it will advance on time only (no evidence)."


def _stage(figures: "Figures") -> str:
    if _is_idle(figures):
        return f"{figures.canary_name} received no requests in this stage."
    return f"{_compare(figures, _compared(figures))}."


def _compare(
    figures: "Figures", compared: "Comparison", *, stable_first: bool = False, with_limit: bool = False
) -> str:
    """'v42 error rate 3.1 % (20 of 640 requests), v41 0.21 % (12 of 5,760) in the same minutes'."""
    counts = compared.counts
    sides = [
        (figures.canary_name, counts.canary_events, counts.canary_requests),
        (figures.stable_name, counts.stable_events, counts.stable_requests),
    ]
    if stable_first:
        sides.reverse()
    (name, events, requests), (other, other_events, other_requests) = sides
    what = "error rate" if compared.stream == "errors" else f"requests over {figures.policy.slow_bound_s:g} s"
    limit = f", limit {exact_percent(compared.limit)}" if with_limit else ""
    first = f"{name} {what} {_share(events, requests)} ({events:,} of {count(requests, 'request')}{limit})"
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
    rounded = ceil(p * 10**digits - 1e-9) / 10**digits
    return f"p < {rounded:.{digits}f}"


def _needs(needed: "Needed | None") -> str:
    if needed is None:
        return "Inconclusive: more requests at the present rates would not settle it soon."
    requests = f"Inconclusive: need about {count(needed.requests, 'more request')}"
    if needed.minutes is None:
        return f"{requests} (no traffic at present)."
    return f"{requests} (~{ceil(needed.minutes)} min)."


def _capitalised(text: str) -> str:
    """A sentence begins with a capital; 'p < 0.05' and a version's name ('v42') stay as they are."""
    return text[0].upper() + text[1:] if text[1].isalpha() else text
