"""The fewest requests with which any judge could decide, and the fewest failures that they cost.

Source: Wald's bound for sequential tests. A judge that is wrong about versions within the objective with chance at most
gamma, and about versions that make no difference with chance at most alpha, needs on average at least this many canary
requests.
"""

from math import inf, log

GAMMA, ALPHA, THETA = 0.10, 0.005, 0.01


def _kl(p: float, q: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q), in nats."""
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            total += a * log(a / b) if b > 0 else inf
    return total


def requests(p0: float, p1: float, weight: float = 0.10) -> float:
    """Canary requests that any judge needs on average to see that p1 is over the objective and worse than p0."""
    low, high = p0, p1

    def per_request(p: float) -> float:
        return _kl(p1, p) + (1 - weight) / weight * _kl(p0, p)

    for _ in range(200):  # convex in p: a ternary search
        third = (high - low) / 3
        left, right = low + third, high - third
        low, high = (low, right) if per_request(left) < per_request(right) else (left, high)
    return max(log(1 / GAMMA) / _kl(p1, THETA), log(1 / ALPHA) / per_request((low + high) / 2))


def failures(p0: float, p1: float, weight: float = 0.10) -> float:
    """Extra failed requests until then."""
    return requests(p0, p1, weight) * (p1 - p0)
