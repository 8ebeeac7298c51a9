"""Rollouts through the notebook, as papermill executes it on the sandbox, beside the same ones simulated.

Run it with ``python -m benchmarks.judge.end_to_end``; it writes END_TO_END.md beside this file.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf, sqrt
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
from rich.progress import track

from benchmarks.judge.cells import CHUNK
from benchmarks.judge.figures import FEED_FAILED, FEED_LATE, FEED_MINUTES
from benchmarks.judge.rollouts import Bands, FeedRollout, minutes_of
from benchmarks.judge.shipped import BY_TICKS, HISTORY_MINUTES, POLICY, SETTINGS, ramped
from benchmarks.judge.traffic import TICKS, Cell, draw, history
from buddy_ops.cli import sandbox
from buddy_ops.core.project import read_settings
from buddy_ops.core.text import markdown_table
from buddy_ops.health.counts import Counts
from buddy_ops.health.judge import Judge
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES, FaultProfile
from buddy_sandbox.situations import Situation, bring

ROOT = Path(__file__).parents[2]
STABLE = PROFILES["good"].error_rate
LATE = 12
"""The minute from which a late fault is there."""

TRAFFIC = (60, 600, 6000)
CLEAR = (0.05, 0.2, 1.0)

CELLS = (
    *(Cell("bad", traffic, STABLE, rate) for traffic in TRAFFIC for rate in CLEAR),
    *(Cell("late", traffic, STABLE, rate, onset=LATE) for traffic in TRAFFIC for rate in CLEAR),
    *(Cell("good", traffic, STABLE, STABLE) for traffic in TRAFFIC),
)


@dataclass(frozen=True)
class Ended:
    """How a rollout ended.

    Attributes:
        failed: requests of the new version that failed, as the archived outcome says.
        truth: the same, as the sandbox's log has them.
        reached_100: minutes from the first shift until 100 %; None if it was not reached.
        ticks: how many ticks of the log were read.
    """

    ending: str
    failed: int
    truth: int
    reached_100: float | None
    ticks: int


def run_notebook(url: str, folder: Path, cell: Cell, seed: int) -> Ended:
    """Execute notebooks/strategies/canary.ipynb by papermill with prod's stages and ramp, to its end."""
    here = bring(url, "good", folder, seed=seed, requests_per_minute=cell.traffic, log_format="JSON")
    build = FaultProfile("end-to-end", error_rate=cell.p1, onset_s=60 * cell.onset)
    values, _ = read_settings("sandbox")
    values["rollout"]["ramp"] = read_settings("prod")[0]["rollout"]["ramp"]
    if not cell.good:
        values["rollout"]["watch_after_proof_minutes"] = SETTINGS.rollout.watch_after_proof_minutes
    given = {
        "environment": "sandbox",
        "settings": values,
        "artifact": str(builds.write(folder / "build.zip", build, "2.0.0")),
        "approved_by": ["Ada"],
    }
    runs = folder / "run"
    subprocess.run(
        [
            *(str(Path(sys.executable).parent / "papermill"), "notebooks/strategies/canary.ipynb"),
            *(str(folder / "executed.ipynb"), "-y", json.dumps(given)),
        ],
        cwd=ROOT,
        env=os.environ | {"AWS_ENDPOINT_URL": url, "BUDDY_OPS_RUN_FOLDER": str(runs)},
        capture_output=True,
        check=False,  # a rollback is an error of the last cell
    )
    return _read_ended(here, runs / "journal.jsonl")


def _read_ended(here: Situation, journal: Path) -> Ended:
    entries = [json.loads(line) for line in journal.read_text("utf-8").splitlines()]
    (outcome,) = (each for each in entries if each["kind"] == "outcome")
    shifts = [each for each in entries if each["kind"] == "shifted"]
    began = datetime.fromisoformat(shifts[0]["at"])
    at_full = [datetime.fromisoformat(each["at"]) for each in shifts if each["weight"] == 1.0]
    reached_100 = (at_full[0] - began).total_seconds() / 60 if at_full else None
    ticks = sum(len(each["rows"]) for each in entries if each["kind"] == "ticks")
    return Ended(outcome["ending"], outcome["failed"]["2"], _failed_by_log(here, began), reached_100, ticks)


def _failed_by_log(here: Situation, since: datetime) -> int:
    """Requests of version 2 that failed, by the log: each report of one that did not end well."""
    here.ask("advance", seconds=60)
    pages = (
        here.client("logs")
        .get_paginator("filter_log_events")
        .paginate(
            logGroupName=f"/aws/lambda/{here.function}",
            logStreamNamePrefix=f"{since:%Y/%m/%d}/[2]",
            filterPattern='{ $.type = "platform.report" && $.record.status != "success" }',
            startTime=round(since.timestamp() * 1000),
        )
    )
    return sum(len(page["events"]) for page in pages)


def simulated(cell: Cell, rollouts: int, seed: int) -> tuple[list[int], list[float]]:
    """The same by simulation: failed requests of each rollout from the onset on, and minutes until 100 %."""
    rng = np.random.default_rng(seed)
    fresh = pickle.dumps(Judge(POLICY, [Counts(*counts) for counts in history(cell, HISTORY_MINUTES, rng)]))
    failed = []
    reached_100 = []
    for first in range(0, rollouts, CHUNK):
        number = min(CHUNK, rollouts - first)
        requests = draw(cell, number, 64, rng)
        assert requests.ticks is not None
        for row in range(number):
            rollout = FeedRollout(pickle.loads(fresh), cell, ramped(cell.traffic, BY_TICKS))
            counted = _Counted(rollout, minutes_of(requests.ticks, row, rng, TICKS))
            rollout.run(iter(counted))
            failed.append(counted.failed)
            if rollout.reached_100 < inf:
                reached_100.append(rollout.reached_100 / 60)
    return failed, reached_100


class _Counted:
    """Ticks that count the failed requests of those that a rollout has served."""

    def __init__(self, rollout: FeedRollout, bands: Iterator[Bands]) -> None:
        self.failed = 0
        self._rollout = rollout
        self._bands = bands

    def __iter__(self) -> Iterator[Bands]:
        for number, tick in enumerate(self._bands):
            yield tick
            # The one at which it ends is not asked for the next, and was not served.
            if number >= self._rollout.cell.onset * TICKS:
                level, _ = self._rollout.stages[self._rollout.stage]
                self.failed += tick[1][level]


def measure(cells: Sequence[Cell], seeds: int) -> dict[Cell, list[Ended]]:
    """So many rollouts of each cell, one after another."""
    found: dict[Cell, list[Ended]] = {cell: [] for cell in cells}
    with sandbox.running_sandbox() as url:
        for seed in track(range(1, seeds + 1), "seeds"):
            for cell in cells:
                with tempfile.TemporaryDirectory() as folder:
                    found[cell].append(run_notebook(url, Path(folder), cell, seed))
    return found


def page(found: Mapping[Cell, Sequence[Ended]], rollouts: int) -> str:
    """The table of what was measured beside the simulation."""
    rows = (_row(cell, ended, *simulated(cell, rollouts, seed=7)) for cell, ended in found.items() if ended)
    return HEAD.format(rollouts=rollouts) + markdown_table(COLUMNS, rows) + "\n"


HEAD = """# End to end, measured

Written by `python -m benchmarks.judge.end_to_end`. Each rollout is notebooks/strategies/canary.ipynb, executed by
papermill on the sandbox in virtual time: JSON log, prod's stages and ramp, stable fails 0.2 %. *Failed* are the new
version's failed requests of the archived outcome; *by the log* is in how many rollouts the sandbox's log has the same
number. The aims are those of RESULTS.md, on average, and count what fails beyond stable's rate: a twenty-fifth less at
5 %. Rollouts of each cell that are simulated, by ticks: {rollouts}.

"""

COLUMNS = (
    *("requests a minute", "new version fails", "rollouts", "ended", "by the log"),
    *("failed: mean ± standard error (most)", "simulated: mean", "99.9 %", "aim"),
    *("minutes to 100 %", "simulated", "aim"),
)


def _row(cell: Cell, ended: Sequence[Ended], failed: Sequence[int], reached_100: Sequence[float]) -> tuple[str, ...]:
    own = [each.failed for each in ended]
    error = stdev(own) / sqrt(len(own)) if len(own) > 1 else 0.0
    minutes = [each.reached_100 for each in ended if each.reached_100 is not None]
    endings = Counter(each.ending for each in ended)
    same = sum(each.failed == each.truth for each in ended)
    what = "0.2 %, as stable" if cell.good else f"{cell.p1:.0%}"
    if cell.onset:
        what += f" from minute {cell.onset}"
    aim = FEED_LATE[cell.traffic] if cell.onset else 0
    if cell.suite == "bad":
        aim = dict(zip(CLEAR, FEED_FAILED[cell.traffic], strict=True))[cell.p1]
    return (
        f"{cell.traffic:,}",
        what,
        str(len(ended)),
        ", ".join(f"{number} {ending}" for ending, number in endings.items()),
        "-" if cell.good else f"{same} of {len(ended)}",
        "-" if cell.good else f"{mean(own):.1f} ± {error:.1f} ({max(own)})",
        "-" if cell.good else f"{mean(failed):.1f}",
        "-" if cell.good else f"{np.quantile(failed, 0.999):.0f}",
        f"{aim}" if aim and (not cell.onset or cell.p1 == CLEAR[0]) else "-",
        f"{mean(minutes):.1f}" if minutes else "-",
        f"{median(reached_100):.1f}" if reached_100 else "-",
        f"{FEED_MINUTES[cell.traffic]:g}" if cell.good else "-",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge.end_to_end", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="rollouts of each cell (half a minute to four each)")
    parser.add_argument("--simulated", type=int, default=1000, help="rollouts of each cell that are simulated")
    options = parser.parse_args()
    written = Path(__file__).with_name("END_TO_END.md")
    written.write_text(page(measure(CELLS, options.seeds), options.simulated), encoding="utf-8")


if __name__ == "__main__":
    main()
