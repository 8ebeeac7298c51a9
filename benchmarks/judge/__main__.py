"""`python -m benchmarks.judge`: simulate, print a table, write RESULTS.md and judge.png beside this file."""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.judge import figures, report, streams
from benchmarks.judge.cells import CHUNK, OURS, Sums, plan, simulate
from benchmarks.judge.figures import Results
from benchmarks.judge.traffic import Cell

Chunk = tuple[Cell, int, tuple[int, ...], bool]
"""A cell, how many of its rollouts, their seed, and whether the log feed is simulated, too."""


def chunks(share: float, seed: int, feed: bool) -> list[Chunk]:
    """The work, in pieces of at most ``CHUNK`` rollouts; the longest first, so that the bar ends evenly."""
    work: list[Chunk] = []
    for number, (cell, rollouts) in enumerate(plan()):
        left = max(20, round(rollouts * share))
        for part in range(0, left, CHUNK):
            work.append((cell, min(CHUNK, left - part), (seed, number, part), feed))
    return sorted(work, key=lambda chunk: chunk[0].traffic)


def run(chunk: Chunk) -> tuple[Cell, dict[str, Sums]]:
    return chunk[0], simulate(*chunk)


def measure(work: list[Chunk], pool: Pool, advance: Callable[[int], None]) -> Results:
    """All cells, summed over their chunks."""
    results: Results = {(cell, ""): Sums() for cell, _ in plan()}
    for cell, sums in pool.imap_unordered(run, work):
        for name, part in sums.items():
            results.setdefault((cell, name), Sums()).merge(part)
        advance(sums[OURS].rollouts)
    order = {cell: number for number, (cell, _) in enumerate(plan())}
    return {key: results[key] for key in sorted(results, key=lambda key: order[key[0]]) if key[1]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rollouts; writes nothing unless --out")
    parser.add_argument("--share", type=float, default=1.0, help="this part of the rollouts, for example 0.25")
    parser.add_argument(
        "--feed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the judge by the log feed, too",
    )
    parser.add_argument("--out", type=Path, help="where RESULTS.md and judge.png go (default: beside this module)")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    console = Console()
    began = time.perf_counter()
    timings = figures.timings()
    share = 0.05 if options.quick else options.share
    out = options.out or (None if options.quick else Path(__file__).parent)
    work = chunks(share, options.seed, options.feed)
    worse_work = [] if out is None else streams.chunks(share)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with multiprocessing.Pool(options.processes) as pool, Progress(*columns) as progress:
        total = sum(chunk[1] for chunk in work) + sum(chunk[1] for chunk in worse_work)
        task = progress.add_task("rollouts", total=total)
        advance = partial(progress.advance, task)
        results = measure(work, pool, advance)
        worse = streams.measure(worse_work, pool, advance)
        pool.close()
        pool.join()
    heading, *rows = report.table(results)
    grid = Table(*heading)
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
    if options.quick:
        console.print("Quick: a rate of 0.1 % cannot be told from 200 rollouts a cell; one bad draw is a miss here.")
    for what, measured, holds in figures.targets(results):
        console.print(f"{'[green]holds[/]' if holds else '[red]misses[/]'}  {what}: {measured}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        count = sum(sums.rollouts for (_, name), sums in results.items() if name == OURS)
        minutes = (time.perf_counter() - began) / 60
        busy = sum(os.times()[:4]) / 60
        note = (
            f"{count:,} rollouts of ours, seed {options.seed}, {options.processes} processes:\n"
            f"{busy:.0f} minutes of CPU time, in {minutes:.0f} minutes."
        )
        (out / "RESULTS.md").write_text(report.markdown(results, timings, note), encoding="utf-8")
        report.picture(results, out / "judge.png")
        (out / "STREAMS.md").write_text(streams.page(worse), encoding="utf-8")
        console.print(f"Written: {out / 'RESULTS.md'}, {out / 'STREAMS.md'}, {out / 'judge.png'}")


if __name__ == "__main__":
    main()
