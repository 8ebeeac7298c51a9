"""The simulated requests: one draw, served to every policy.

Every tick's requests fall into bands by a uniform number of their own (0-0.1 %, 0.1-0.3 %, and so on to 50-100 %), and
a minute's are those of its ticks.
A policy that gives the new version a weight of 25 % sends it the first four bands, so all policies see the same
requests, and each request fails in the same way whichever policy sent it to that version.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

WEIGHTS = (0.0, 0.00094, 0.001, 0.003, 0.009, 0.0094, 0.01, 0.027, 0.03, 0.10, 0.25, 0.50, 1.0)
"""A level is an index into this: the bands below it are the new version's."""
DAY = 1440
TAIL = 200
"""Later minutes, or ticks, are drawn by so many at once."""
TICK_S = 10
TICKS = 60 // TICK_S
"""In a minute."""
SLOW_RATE = 0.002  # of both versions: the latency stream is healthy everywhere, and may raise false alarms


@dataclass(frozen=True)
class Cell:
    """One situation. Rates are fractions; `p1` holds from minute `onset` on, `p0` before.

    `fault` = (first minute, minutes, rate): requests of both versions fail at that rate too. `clump` > 1: failures come
    in bursts of that mean size (geometric), each within one version's tick.
    """

    suite: str
    traffic: int
    p0: float
    p1: float
    onset: int = 0
    fault: tuple[int, int, float] | None = None
    clump: float = 1.0

    @property
    def good(self) -> bool:
        return self.p1 <= self.p0


@dataclass(frozen=True)
class Requests:
    """What each level of weight would see: arrays (rollouts, minutes, levels), cumulated over the bands.

    `n`: requests below the level; `x1`, `x0`: how many of them fail on the new version and on stable; `slow`. `ticks`:
    the same requests, by tick instead of by minute.
    """

    cell: Cell
    n: Ints
    x1: Ints
    x0: Ints
    slow: Ints
    ticks: "Requests | None" = None

    def split(self, level: Ints, minute: int) -> tuple[Ints, Ints, Ints, Ints]:
        """(n1, x1, n0, x0) per rollout in a minute in which rollout r has weight level[r]."""
        rows = np.arange(len(level))
        n, x1, x0 = self.n[:, minute], self.x1[:, minute], self.x0[:, minute]
        return n[rows, level], x1[rows, level], n[:, -1] - n[rows, level], x0[:, -1] - x0[rows, level]


def _failures(rng: np.random.Generator, n: Ints, rate: NDArray[np.float64], clump: float) -> Ints:
    if clump <= 1:
        return np.asarray(rng.binomial(n, np.broadcast_to(rate, n.shape)), dtype=np.int64)
    bursts = rng.poisson(n * rate / clump)
    more = rng.negative_binomial(np.maximum(bursts, 1), 1 / clump) * (bursts > 0)
    return np.minimum(n, np.asarray(bursts + more, dtype=np.int64))


def draw(cell: Cell, rollouts: int, minutes: int, rng: np.random.Generator) -> Requests:
    """Draw the first minutes of so many rollouts."""
    widths = np.diff(WEIGHTS)
    n = rng.poisson(cell.traffic / TICKS * widths, size=(rollouts, minutes * TICKS, len(widths))).astype(np.int64)
    at = np.arange(minutes * TICKS) // TICKS
    p0 = _rates(cell, at, cell.p0)
    p1 = _rates(cell, at, np.where(at >= cell.onset, cell.p1, cell.p0))
    x0 = _failures(rng, n, p0[None, :, None], cell.clump)
    x1 = _failures(rng, n, p1[None, :, None], cell.clump)
    slow = rng.binomial(n, SLOW_RATE)
    by_tick = [_levels(a) for a in (n, x1, x0, slow)]
    by_minute = (a.reshape(rollouts, minutes, TICKS, len(WEIGHTS)).sum(axis=2) for a in by_tick)
    return Requests(cell, *by_minute, ticks=Requests(cell, *by_tick))


def _rates(cell: Cell, at: Ints, own: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """The chance of a failure in each of these minutes: a version's own, and that of a fault of something else."""
    rates = np.broadcast_to(np.asarray(own, dtype=np.float64), at.shape)
    if cell.fault is None:
        return rates
    first, lasts, rate = cell.fault
    failing = (at >= first) & (at < first + lasts)
    return np.where(failing, rates + (1 - rates) * rate, rates)


def _levels(bands: Ints) -> Ints:
    return np.concatenate([np.zeros_like(bands[:, :, :1]), bands.cumsum(axis=2)], axis=2)


def tail(cell: Cell, size: int, rng: np.random.Generator, parts: int = 1) -> tuple[Ints, Ints, Ints]:
    """Later minutes of one rollout at 100 %, or ``parts`` of each: requests, failures, slow ones of the new version."""
    n = rng.poisson(cell.traffic / parts, size).astype(np.int64)
    return n, _failures(rng, n, np.array(cell.p1), cell.clump), rng.binomial(n, SLOW_RATE)


def stable_alone(cell: Cell, first: int, minutes: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Minutes of stable from ``first`` on, when all traffic is back on it: (requests, failures, slow)."""
    at = np.arange(first, first + minutes)
    n = rng.poisson(cell.traffic, minutes).astype(np.int64)
    x0, slow = _failures(rng, n, _rates(cell, at, cell.p0), cell.clump), rng.binomial(n, SLOW_RATE)
    return list(zip(n.tolist(), x0.tolist(), slow.tolist(), strict=True))


def history(cell: Cell, minutes: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Stable's minutes before a rollout."""
    n = rng.poisson(cell.traffic, minutes).astype(np.int64)
    x0, slow = _failures(rng, n, np.array(cell.p0), cell.clump), rng.binomial(n, SLOW_RATE)
    return list(zip(n.tolist(), x0.tolist(), slow.tolist(), strict=True))
