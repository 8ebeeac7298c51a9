"""Phrases of the judge's sentences: rates, limits and p-values, and what is left of a bake."""

from math import ceil, floor, log10

from buddy_ops.core.text import count, exact_percent, percent
from buddy_ops.health.counts import StreamName
from buddy_ops.health.judge_policy import JudgePolicy

SMALLEST_P = 1e-6
"""No p below this is claimed: no model of traffic is more exact."""


def describe_bake(left_s: float) -> str:
    """What is left of a stage's bake time (seconds): the one statement of verdicts, charts and controls.

    Only a minute that was judged counts: the time that passes until the next poll shortens nothing.
    """
    # Rounded first: 300.0000001 s are 5 min, not 6.
    return f"Baking: {ceil(round(left_s / 60, 6))} min left" if left_s > 0 else "Bake complete"


def limit_text(policy: JudgePolicy, stream: StreamName, limit: float) -> str:
    """The limit that held: as it was configured, or a measured rate."""
    raised = limit > policy.objective(stream)
    return percent(limit) if raised else exact_percent(limit)


def measured(
    name: str, policy: JudgePolicy, stream: StreamName, events: int, requests: int, *, limit: float | None = None
) -> str:
    """'v42 error rate 3.1 % (20 of 640 requests, limit 1 %)'. Without ``limit`` none is named."""
    what = "error rate" if stream == "errors" else f"requests over {policy.slow_bound_s:g} s"
    against = "" if limit is None else f", limit {limit_text(policy, stream, limit)}"
    return f"{name} {what} {share(events, requests)} ({events:,} of {count(requests, 'request')}{against})"


def share(events: int, requests: int) -> str:
    """The rate of events among requests: '3.1 %'."""
    return percent(events / max(1, requests))


def p_value(evidence: float) -> str:
    """'p < 0.0005' for evidence of 2,263: 1 / evidence, rounded up to one digit."""
    p = max(1 / evidence, SMALLEST_P)
    digits = -floor(log10(p))
    # 1e-9 keeps a p of 0.05 from becoming 0.06 by the last bit of a float.
    rounded = ceil(p * 10**digits - 1e-9) / 10**digits
    return f"p < {rounded:.{digits}f}"
