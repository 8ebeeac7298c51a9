"""Time and bytes of one frame of a live chart: four series of 1,440 points with their bands, the evidence below them.

Run it with ``python -m benchmarks.charts``. A frame is drawn in a worker thread, at most one a second; a rollout on AWS
draws one a minute.
"""

import os
import statistics
import time
from datetime import UTC, datetime

from buddy_ops.aws import session
from buddy_ops.cli import sandbox
from buddy_ops.health.judge import Counts, Judge
from buddy_ops.health.metrics import MINUTE, MinuteRow
from buddy_ops.notebook.charts import RolloutChart, ScorePoint

FRAMES, POINTS = 9, 1440
START = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)


def main() -> None:
    """Measure and print."""
    with sandbox.running_sandbox() as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        picture = RolloutChart(session.connect("sandbox", "benchmark", quiet=True))
    picture.versions, picture.thresholds = ("41", "42"), Judge().scores()
    for n in range(POINTS):
        at, p99 = START + n * MINUTE, {"41": 400.0 + n % 50, "42": 450.0 + n % 70}
        band = {version: (0.9 * ms, 1.2 * ms) for version, ms in p99.items()}
        picture.rows.append(MinuteRow(at, {"41": Counts(300, n % 3), "42": Counts(300, n % 5)}, p99, band))
        picture.scores.append(ScorePoint(at, 1.0 + n % 7, 0.3 + n % 5))
    picture.png()
    times = []
    for _ in range(FRAMES):
        began = time.perf_counter()
        frame = picture.png()
        times.append(1000 * (time.perf_counter() - began))
    print(f"a frame: {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f}), {len(frame):,} bytes")


if __name__ == "__main__":
    main()
