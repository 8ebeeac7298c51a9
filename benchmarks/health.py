"""The judge's own cost: importing it, and judging 24 h of minutes again on a resume.

Run it with ``python -m benchmarks.health``; each figure is also given as a ratio to starting Python at all.
"""

import random
import statistics
import subprocess
import sys
import time

MINUTES = 24 * 60
ROUNDS = 7


def main() -> None:
    """Measure and print."""
    bare = statistics.median(started("pass") for _ in range(ROUNDS))
    ours = statistics.median(started("import buddy_ops.health.judge") for _ in range(ROUNDS))
    print(f"import:  {1000 * (ours - bare):.0f} ms more than a bare start ({1000 * bare:.0f} ms), {ours / bare:.2f} x")
    took = statistics.median(rebuilt() for _ in range(ROUNDS))
    print(f"rebuild: {MINUTES:,} minutes judged in {1000 * took:.1f} ms, {took / bare:.2f} x (aims: 50 ms each)")


def started(code: str) -> float:
    """Wall seconds of a Python that runs one line."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def rebuilt() -> float:
    """Wall seconds of feeding a day to a new judge and asking for its verdict."""
    from buddy_ops.health.counts import Counts, Minute
    from buddy_ops.health.judge import Judge

    dice = random.Random(1)
    day = [
        Minute(0.1, Counts(540, dice.randint(0, 3), dice.randint(0, 2)), Counts(60, dice.randint(0, 1), 0))
        for _ in range(MINUTES)
    ]
    began = time.perf_counter()
    judge = Judge(history=[minute.stable for minute in day[:180]])
    for minute in day:
        judge.observe(minute)
    judge.verdict(300.0, 300.0)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
