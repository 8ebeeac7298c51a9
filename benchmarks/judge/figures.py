"""The figures that the benchmark reports, from its sums: each a function of what was measured, none of it printing."""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from statistics import median

from benchmarks.judge import bounds
from benchmarks.judge.cells import BASELINES, CLAIRVOYANT, CLEAR, DAY_LONG, FEED, OURS, RAMP, SLIGHT, TRAFFIC, Sums
from benchmarks.judge.opponents import peers
from benchmarks.judge.traffic import Cell
from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.judge import Judge
from buddy_ops.health.judge_policy import JudgePolicy

Results = dict[tuple[Cell, str], Sums]


def pick(results: Results, policy: str, wanted: Callable[[Cell], bool]) -> dict[Cell, Sums]:
    return {cell: sums for (cell, name), sums in results.items() if name == policy and wanted(cell)}


def has_feed(results: Results) -> bool:
    """Whether the log feed was simulated, too."""
    return any(name == FEED for _, name in results)


def is_good(cell: Cell) -> bool:
    return cell.suite == "good" and cell.p0 <= 0.008


def is_slight(cell: Cell) -> bool:
    return cell.suite == "bad" and cell.p1 in SLIGHT


def is_clear(cell: Cell) -> bool:
    return cell.suite == "bad" and cell.p1 in CLEAR


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def geometric(values: Iterable[float]) -> float:
    return math.exp(mean(math.log(max(value, 1e-9)) for value in values))


def false_rollback(results: Results, policy: str) -> tuple[float, float]:
    """(worst cell, mean over cells) of good versions rolled back."""
    shares = [sums.share("rolled back") for sums in pick(results, policy, is_good).values()]
    return max(shares), mean(shares)


def missed(results: Results, policy: str) -> tuple[float, float]:
    """Mean over cells of bad versions left standing: (1.5-2 %, >= 5 %)."""
    slight, clear = (pick(results, policy, wanted).values() for wanted in (is_slight, is_clear))
    return mean(sums.missed for sums in slight), mean(sums.missed for sums in clear)


def failed(results: Results, policy: str, traffic: int) -> float:
    """Extra failed requests: geometric mean over the cells with p1 >= 5 %."""
    cells = pick(results, policy, lambda cell: is_clear(cell) and cell.traffic == traffic)
    return geometric(sums.mean_failed for sums in cells.values())


def ratios(results: Results, other: str, wanted: Callable[[Cell], bool]) -> dict[Cell, float]:
    """Our extra failed requests over those of another policy that watches to 24 h, per cell."""
    theirs = pick(results, other, wanted)
    ours = pick(results, DAY_LONG, wanted)
    return {cell: ours[cell].mean_failed / theirs[cell].mean_failed for cell in theirs}


def bound_ratios(results: Results, wanted: Callable[[Cell], bool]) -> dict[Cell, float]:
    """Our extra failed requests over the fewest that any judge could cause."""
    ours = pick(results, OURS, wanted)
    return {cell: sums.mean_failed / bounds.failures(cell.p0, cell.p1) for cell, sums in ours.items()}


def careful_peers(results: Results) -> list[str]:
    """Peers that roll back at most 1 % of good versions in their worst cell."""
    return [name for name in peers() if false_rollback(results, name)[0] <= 0.01]


def best_careful_peer(results: Results) -> str | None:
    careful = careful_peers(results)
    return min(careful, key=lambda name: mean(failed(results, name, n) for n in TRAFFIC), default=None)


def targets(results: Results) -> list[tuple[str, str, bool]]:
    """(what must hold, what was measured, whether it holds)."""
    good = pick(results, OURS, is_good)
    anywhere = pick(results, OURS, lambda c: c.suite == "good")
    clumped = pick(results, OURS, lambda c: c.suite == "clumped" and c.traffic >= 600)
    gone = max(s.missed for s in pick(results, OURS, lambda c: is_clear(c) and c.traffic >= 60).values())
    night = max(s.missed for s in pick(results, DAY_LONG, is_clear).values())
    ratio = ratios(results, CLAIRVOYANT, is_clear)
    faults = pick(results, OURS, lambda c: c.fault is not None and c.traffic >= 600 and c.fault[0] < 15)
    blamed = max(sums.blamed_beside_stable / sums.rollouts for sums in faults.values())
    usual = [sums.share("rolled back") for sums in pick(results, OURS, lambda c: c.suite == "usual").values()]
    mean_ratio, middle = mean(ratio.values()), geometric(ratio.values())
    with_feed = feed_targets(results) if has_feed(results) else []
    return [
        ("false rollback <= 0.1 % in every cell with p0 <= 0.8 %", *worst_blame(good, 0.001)),
        ("false rollback <= 0.5 % anywhere (p0 = 1 % too)", *worst_blame(anywhere, 0.005)),
        ("clumped errors: false rollback <= 0.5 % at >= 600 a minute", *worst_blame(clumped, 0.005)),
        ("nothing missed at p1 >= 5 % and >= 60 a minute", f"{gone:.2%} missed in the worst cell", gone == 0),
        ("nothing missed at p1 >= 5 %, watched to 24 h", f"{night:.2%} missed in the worst cell", night == 0),
        (
            "failed requests <= 1.2 x clairvoyant on average",
            f"{mean_ratio:.2f} (geometric {middle:.2f}, worst cell {max(ratio.values()):.2f})",
            mean_ratio <= 1.2,
        ),
        ("external faults blamed <= 1 % at >= 600 a minute, stable beside it", f"{blamed:.2%}", blamed <= 0.01),
        (
            "stable and new both at 1.3 % for ever: blamed <= 1 % at any traffic",
            " / ".join(f"{share:.2%}" for share in usual),
            max(usual) <= 0.01,
        ),
        *blame_targets(results),
        *late_targets(results),
        *ramp_targets(results),
        *with_feed,
    ]


def worst_blame(cells: dict[Cell, Sums], most: float) -> tuple[str, bool]:
    """The false rollbacks of the worst cell, and whether they are at most this share."""
    worst = max(cells.values(), key=lambda sums: (sums.share("rolled back"), sums.interval("rolled back")[1]))
    share = worst.share("rolled back")
    upper = worst.interval("rolled back")[1]
    told = f"{share:.2%} of {worst.rollouts:,} in the worst cell (95 % interval to {upper:.2%})"
    return told, share <= most


def with_error(cells: Collection[Sums]) -> str:
    """The mean of these cells' failed requests, with its standard error."""
    error = math.sqrt(sum(sums.failed_error**2 for sums in cells)) / len(cells)
    return f"{mean(sums.mean_failed for sums in cells):,.2f} ± {error:.2f}"


def from_100(results: Results, wanted: Callable[[Cell], bool]) -> Sums:
    """All rollouts of these cells: its ``excused`` is the share of their rollbacks from 100 %."""
    together = Sums()
    for sums in pick(results, OURS, wanted).values():
        together.merge(sums)
    return together


def begins_at_100(cell: Cell) -> bool:
    """A clear fault of something else that begins when all traffic is on the new version."""
    return cell.fault is not None and cell.fault[0] >= 12 and cell.fault[2] >= 0.05


def blame_targets(results: Results) -> list[tuple[str, str, bool]]:
    """After a rollback from 100 %: who is blamed once stable was tested alone."""
    faults = [s.excused for s in pick(results, OURS, lambda c: begins_at_100(c) and c.traffic >= 600).values()]
    excused = {
        p0: from_100(results, lambda c, p0=p0: c.suite in ("bad", "late") and c.p0 == p0).excused for p0 in BASELINES
    }
    told = ", ".join(f"{share:.2%} (stable fails {p0:.1%})" for p0, share in excused.items())
    return [
        (
            "external faults (5 to 90 %, 10 minutes) at 100 %, >= 600 a minute: not blamed >= 99 %",
            f"{min(faults):.2%} in the worst cell",
            min(faults) >= 0.99,
        ),
        ("bad versions rolled back from 100 %: excused <= 1 %", told, max(excused.values()) <= 0.01),
    ]


def ramp_targets(results: Results) -> list[tuple[str, str, bool]]:
    """With the ramp, at 6,000 requests a minute: what a bad version costs in the worst cell, and a good one's time."""
    found = []
    for rate, most in ((0.2, 12), (1.0, 18)):
        cells = pick(results, RAMP, lambda c, rate=rate: (c.suite, c.traffic, c.p1) == ("bad", 6000, rate))
        worst = max(cells.values(), key=lambda sums: sums.mean_failed)
        what = f"{rate:.0%} fail, 6,000 a minute, with the ramp: failed <= {most}"
        found.append((what, f"{with_error([worst])} in the worst cell", worst.mean_failed <= most))
    good = pick(results, RAMP, lambda c: is_good(c) and c.traffic == 6000).values()
    slowest = max(median(sums.reached) for sums in good)
    busy = pick(results, RAMP, lambda c: is_good(c) and c.traffic >= 60)
    return [
        *found,
        ("a good version at 6,000 a minute, with the ramp: at 100 % within 18 min", f"{slowest:g} min", slowest <= 18),
        (
            "with the ramp: false rollback <= 0.1 % in every cell with p0 <= 0.8 %, >= 60 a minute",
            *worst_blame(busy, 0.001),
        ),
    ]


FEED_FAILED = {60: (9, 5, 6), 600: (7, 6, 6), 6000: (9, 6, 6)}
"""By requests a minute: the most failed requests of versions that fail 5, 20 and 100 %, with the log feed."""

FEED_LATE = {60: 17, 600: 31, 6000: 80}
"""The same of a version that begins to fail 5 % at minute 12."""

FEED_MINUTES = {60: 10, 600: 11.5, 6000: 13}
"""The most minutes until a good version has all traffic."""


def feed_failed(results: Results, suite: str, traffic: int, p1: float, onset: int = 0) -> list[Sums]:
    """With the log feed: the cells of such a version, one for each rate of the stable one."""
    wanted = pick(results, FEED, lambda c: (c.suite, c.traffic, c.p1, c.onset) == (suite, traffic, p1, onset))
    return list(wanted.values())


def feed_targets(results: Results) -> list[tuple[str, str, bool]]:
    """With the log feed and its ramp: what bad versions cost, and the worst cell of good ones.

    Failed requests are means over the rates of the stable version.
    """
    found = []
    for traffic, most in FEED_FAILED.items():
        cells = [feed_failed(results, "bad", traffic, p1) for p1 in CLEAR]
        cells.append(feed_failed(results, "late", traffic, 0.05, 12))
        lost = [mean(sums.mean_failed for sums in each) for each in cells]
        limits = (*most, FEED_LATE[traffic])
        what = f"{traffic:,} a minute, with the log feed: 5, 20, 100 % fail, and 5 % from minute 12: failed <= "
        holds = all(cost <= limit for cost, limit in zip(lost, limits, strict=True))
        found.append((what + " / ".join(map(str, limits)), " / ".join(map(with_error, cells)), holds))
    good = pick(results, FEED, is_good)
    slowest = [max(median(s.reached) for c, s in good.items() if c.traffic == traffic) for traffic in FEED_MINUTES]
    limits = tuple(FEED_MINUTES.values())
    found.append(
        (
            "good versions with the log feed, at 60 / 600 / 6,000 a minute: at 100 % within "
            + " / ".join(f"{limit:g}" for limit in limits)
            + " min",
            " / ".join(f"{minutes:.1f}" for minutes in slowest),
            all(minutes <= limit for minutes, limit in zip(slowest, limits, strict=True)),
        )
    )
    clumped = pick(results, FEED, lambda c: c.suite == "clumped")
    return [
        *found,
        ("with the log feed: false rollback <= 0.1 % in every cell with p0 <= 0.8 %", *worst_blame(good, 0.001)),
        ("with the log feed: clumped errors: false rollback <= 0.5 %", *worst_blame(clumped, 0.005)),
    ]


def late_targets(results: Results) -> list[tuple[str, str, bool]]:
    """A fault that begins at minute 30, at 600 requests a minute: the worst cell's failed requests."""
    found = []
    for rate, most in ((0.05, 70), (1.0, 1300)):
        cells = pick(results, OURS, lambda c, rate=rate: (c.suite, c.traffic, c.onset, c.p1) == ("late", 600, 30, rate))
        worst = max(cells.values(), key=lambda sums: sums.mean_failed)
        what = f"{rate:.0%} fail from minute 30, 600 a minute: failed <= {most:,}"
        found.append((what, f"{with_error([worst])} in the worst cell", worst.mean_failed <= most))
    return found


def timings() -> dict[str, float]:
    """Milliseconds, best of five: a day of minutes judged at 100 % and at 50 %; importing the module."""
    measured = {}
    for name, weight in (("24 h of minutes judged, at 100 %", 1.0), ("24 h of minutes judged, at 50 %", 0.5)):
        canary, stable = Counts(int(6000 * weight), 12, 12), Counts(int(6000 * (1 - weight)), 12, 12)
        minute = Minute(weight, stable, canary)
        measured[name] = min(_judge_day(minute) for _ in range(5))
    code = "import time; t = time.perf_counter(); import buddy_ops.health.judge; print(1e3 * (time.perf_counter() - t))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    measured["importing buddy_ops.health.judge"] = min(float(run.stdout) for run in runs)
    return measured


def _judge_day(minute: Minute) -> float:
    began = time.perf_counter()
    judge = Judge(JudgePolicy())
    for _ in range(1440):
        judge.observe(minute)
    return 1e3 * (time.perf_counter() - began)
