"""What the log feed promises, through the notebook: papermill executes the canary on the sandbox to its end."""

from pathlib import Path

import pytest

from benchmarks.judge.end_to_end import CELLS, run_notebook
from benchmarks.judge.figures import FEED_MINUTES
from benchmarks.judge.traffic import Cell
from tests.conftest import sampled

MOST_FAILED = {
    ("bad", 60): {0.05: 22, 0.2: 11, 1.0: 11},
    ("bad", 600): {0.05: 13, 0.2: 15, 1.0: 19},
    ("bad", 6000): {0.05: 31, 0.2: 18, 1.0: 18},
    ("late", 60): {0.05: 31, 0.2: 24, 1.0: 53},
    ("late", 600): {0.05: 53, 0.2: 94, 1.0: 411},
    ("late", 6000): {0.05: 124, 0.2: 362, 1.0: 1663},
}
"""Failed requests of one rollout, by simulation (``benchmarks.judge.end_to_end.simulated``): what 1 of 1,000 exceeds, and
for a late fault the mean and four standard deviations. The aims are on their means."""

POLL_MINUTES = 1 / 6
"""A stage ends with a poll."""

DAILY = [Cell("bad", 600, 0.002, 1.0)]


@pytest.mark.timeout(900)  # 6,000 requests a minute, with the log of each
@pytest.mark.parametrize("cell", sampled([cell for cell in CELLS if not cell.good], DAILY), ids=str)
def test_a_bad_build_fails_as_few_requests_as_in_the_simulation(sandbox_url: str, tmp_path: Path, cell: Cell) -> None:
    """It is rolled back; the archived outcome has each failed request that the log has, and they are few."""
    ended = run_notebook(sandbox_url, tmp_path, cell, seed=7)
    assert ended.ending == "rolled-back" and ended.ticks >= 3
    assert ended.failed == ended.truth
    assert 1 <= ended.failed <= MOST_FAILED[cell.suite, cell.traffic][cell.p1]


@pytest.mark.whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.good], ids=str)
def test_a_good_build_is_at_100_percent_in_time(sandbox_url: str, tmp_path: Path, cell: Cell) -> None:
    """The stages and bakes of prod take the time of the simulation, and seconds more until the next poll."""
    ended = run_notebook(sandbox_url, tmp_path, cell, seed=7)
    assert ended.ending == "proved" and ended.ticks >= 50
    assert ended.reached_100 is not None
    assert ended.reached_100 <= FEED_MINUTES[cell.traffic] + 2 * POLL_MINUTES
