"""The known policies, re-implemented from their documentation: vectorised over rollouts.

All poll once a minute and see metrics one minute late: at minute t the newest readable minute is t - 2. A policy
answers each poll with the weight level of every rollout until the next; -1 is 'rolled back', for good.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.traffic import DAY, WEIGHTS, Ints, Requests

Bools = NDArray[np.bool_]
STAGES = tuple(WEIGHTS.index(weight) for weight in (0.10, 0.25, 0.50, 1.0))
BAKE = 5  # minutes
SLO = 0.01


@dataclass(frozen=True)
class Seen:
    """Readable minutes 0..t-2, as arrays (rollouts, minutes)."""

    n1: Ints
    x1: Ints
    n0: Ints
    x0: Ints

    def last(self, minutes: int) -> "Seen":
        return Seen(*(a[:, max(0, a.shape[1] - minutes) :] for a in (self.n1, self.x1, self.n0, self.x0)))


Poll = Callable[[int, Seen, Ints], Ints]
"""(minute, what is readable, levels now) -> levels from now on."""


@dataclass(frozen=True)
class Outcomes:
    rolled_back: Bools
    failed: NDArray[np.float64]  # extra failed requests up to 24 h, each canary request counted at p1 - p0


def play(requests: Requests, poll: Poll, minutes: int = 30) -> Outcomes:
    """Run one policy over the requests; what stands at the end stands to the end of the day."""
    cell, rollouts = requests.cell, requests.n.shape[0]
    level = np.full(rollouts, STAGES[0])
    seen: list[tuple[Ints, Ints, Ints, Ints]] = []
    exposed = np.zeros(rollouts)
    for minute in range(minutes):
        if minute:
            shape = (rollouts, 0)
            columns = zip(*seen[: max(0, minute - 1)], strict=True)
            readable = [np.stack(c, axis=1) for c in columns] or [np.zeros(shape, dtype=np.int64)] * 4
            level = np.where(level < 0, -1, poll(minute, Seen(*readable), level))
        counts = requests.split(np.maximum(level, 0), minute)
        seen.append(counts)
        exposed += counts[0] * (minute >= cell.onset)
    rolled_back = level < 0
    exposed += np.where(rolled_back, 0.0, cell.traffic * float(DAY - minutes))
    return Outcomes(rolled_back, exposed * (cell.p1 - cell.p0))


def _staged(minute: int, level: Ints, failed: Bools) -> Ints:
    """5-minute stages of 10, 25, 50 and 100 %, taken back where `failed`."""
    stage = STAGES[min(minute // BAKE, len(STAGES) - 1)]
    return np.where(failed, -1, np.where(level < 0, -1, stage))


def guide_script(minute: int, seen: Seen, level: Ints) -> Ints:
    """After each bake, more than one error of any version in the last 5 minutes; nothing after the last bake."""
    due = minute % BAKE == 0 and minute <= BAKE * len(STAGES)
    window = seen.last(BAKE - 1)  # of the last 5 minutes, 4 are readable
    return _staged(minute, level, due & ((window.x0 + window.x1).sum(axis=1) > 1))


def guide_intent(minute: int, seen: Seen, level: Ints) -> Ints:
    """After each bake, the new version's error rate over the last 5 minutes is above 1 %."""
    due = minute % BAKE == 0 and minute <= BAKE * len(STAGES)
    window = seen.last(BAKE - 1)
    return _staged(minute, level, due & (window.x1.sum(axis=1) > SLO * window.n1.sum(axis=1)))


def codedeploy(points: int, of_canary: bool) -> Poll:
    """Canary10Percent5Minutes, alarm 'error rate > 1 %' for so many points; minutes without data are skipped."""

    def poll(minute: int, seen: Seen, level: Ints) -> Ints:
        if minute > BAKE:
            return level
        n, x = (seen.n1, seen.x1) if of_canary else (seen.n0 + seen.n1, seen.x0 + seen.x1)
        breaching = (x > SLO * n) & (n > 0)
        run = np.zeros(len(level), dtype=np.int64)  # breaching points in a row, up to the newest
        for column in range(n.shape[1]):
            run = np.where(n[:, column] == 0, run, np.where(breaching[:, column], run + 1, 0))
        shifted = STAGES[-1] if minute >= BAKE else STAGES[0]
        return np.where(run >= points, -1, shifted)

    return poll


def flagger(threshold: int) -> Poll:
    """Each minute: a success rate below 99 %, or no data, is a failed check (cumulative) and stays; else a step up.

    Its steps are one minute each, five to a stage, so that it bakes as long as the others do.
    """
    state: list[tuple[Ints, Ints]] = []

    def poll(minute: int, seen: Seen, level: Ints) -> Ints:
        zeros = np.zeros(len(level), dtype=np.int64)
        failed, passed = state[-1] if minute > 1 else (zeros, zeros)
        running = (level >= 0) & (level < STAGES[-1])
        give_up = running & (failed >= threshold)
        n, x = (seen.n1[:, -1], seen.x1[:, -1]) if seen.n1.shape[1] else (zeros, zeros)
        bad = (n == 0) | (x > SLO * n)
        failed, passed = failed + (running & ~give_up & bad), passed + (running & ~give_up & ~bad)
        state.append((failed, passed))
        return np.where(give_up, -1, STAGES[0] + passed // BAKE)

    return poll


def argo(failure_limit: int) -> Poll:
    """Each minute of the steps: failures above the limit abort, and so do five errors (no data) in a row."""
    state: list[tuple[Ints, Ints]] = []

    def poll(minute: int, seen: Seen, level: Ints) -> Ints:
        zeros = np.zeros(len(level), dtype=np.int64)
        failures, errors = state[-1] if minute > 1 else (zeros, zeros)
        if minute > BAKE * (len(STAGES) - 1):
            return level
        n, x = (seen.n1[:, -1], seen.x1[:, -1]) if seen.n1.shape[1] else (zeros, zeros)
        errors = np.where(n == 0, errors + 1, 0)
        failures = failures + ((n > 0) & (x > SLO * n))
        state.append((failures, errors))
        return _staged(minute, level, (failures > failure_limit) | (errors >= 5))

    return poll


def _mann_whitney(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """z of 'a is larger than b' per row, tie- and continuity-corrected; NaN entries are missing points."""
    m, n = (~np.isnan(a)).sum(axis=1), (~np.isnan(b)).sum(axis=1)
    larger = (a[:, :, None] > b[:, None, :]).sum(axis=(1, 2)) + 0.5 * (a[:, :, None] == b[:, None, :]).sum(axis=(1, 2))
    both = np.concatenate([a, b], axis=1)
    ties = (both[:, :, None] == both[:, None, :]).sum(axis=2)  # NaN equals nothing: 0, against 1 for a lone point
    tied = np.where(ties > 0, ties**2 - 1.0, 0.0).sum(axis=1)
    total = m + n
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.sqrt(m * n / 12 * (total + 1 - tied / (total * (total - 1.0))))
        z = (larger - m * n / 2 - 0.5) / sigma
    return np.where(np.isfinite(z), z, -np.inf)


def _rates(x: Ints, n: Ints) -> NDArray[np.float64]:
    return np.where(n > 0, x / np.maximum(n, 1), np.nan)


def _mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.nansum(rates, axis=1) / (~np.isnan(rates)).sum(axis=1))


def kayenta(minute: int, seen: Seen, level: Ints) -> Ints:
    """Each 5 minutes, growing window: the 98 % interval of the shift lies above a quarter of its estimate."""
    if minute % BAKE or minute > BAKE * (len(STAGES) - 1):
        return _staged(minute, level, np.zeros(len(level), dtype=bool))
    canary, baseline = _rates(seen.x1, seen.n1), _rates(seen.x0, seen.n0)
    with np.errstate(all="ignore"):
        shifts = (canary[:, :, None] - baseline[:, None, :]).reshape(len(level), -1)
        empty: Bools = np.all(np.isnan(shifts), axis=1)
        estimate = np.nanmedian(np.where(empty[:, None], 0.0, shifts), axis=1)
        higher = _mean(canary) >= _mean(baseline)
    # The interval's lower end lies above d exactly where the test of 'shifted by d' is rejected.
    z = _mann_whitney(canary - 0.25 * np.abs(estimate)[:, None], baseline)
    return _staged(minute, level, ~empty & higher & (estimate > 0) & (z > 2.3263))


def pipecd(limit: int) -> Poll:
    """Each 5 minutes, that window only: Mann-Whitney p <= .05 is a failure; more than the limit rolls back."""
    counted: list[Ints] = []

    def poll(minute: int, seen: Seen, level: Ints) -> Ints:
        failures = counted[-1] if minute > 1 else np.zeros(len(level), dtype=np.int64)
        if minute % BAKE == 0 and minute <= BAKE * (len(STAGES) - 1):
            window = seen.last(BAKE - 1)
            z = _mann_whitney(_rates(window.x1, window.n1), _rates(window.x0, window.n0))
            failures = failures + (z >= 1.96)
        counted.append(failures)
        return _staged(minute, level, failures > limit)

    return poll


def peers() -> dict[str, Poll]:
    """Fresh peers, in the table's order: some remember, so make them anew for each draw."""
    return {
        "the guide's script, as written": guide_script,
        "its intent: > 1 % over 5 min": guide_intent,
        "CodeDeploy Canary10Percent5Minutes, alias alarm 1 of 1": codedeploy(1, False),
        "the same, 3 of 3": codedeploy(3, False),
        "the same, alarm on the new version, 1 of 1": codedeploy(1, True),
        "Flagger, threshold 5": flagger(5),
        "Argo, failureLimit 1": argo(1),
        "Argo, failureLimit 3": argo(3),
        "Kayenta (Mann-Whitney, each 5 min)": kayenta,
        "PipeCD (Mann-Whitney, failures > 0)": pipecd(0),
    }
