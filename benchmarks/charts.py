"""A frame of a live chart beside plain matplotlib: four series of 1,440 points with bands, and the evidence below them.

Run it with ``python -m benchmarks.charts``. A frame is drawn in a worker thread, at most one a second; a rollout on AWS
draws one a minute. Both draw the same rows in turn, so that their ratio does not depend on the machine's load.
"""

import io
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from buddy_ops.aws import session
from buddy_ops.cli import sandbox
from buddy_ops.health.counts import Counts
from buddy_ops.health.judge import Judge
from buddy_ops.health.metrics import MINUTE, MinuteRow
from buddy_ops.notebook import _chart_output
from buddy_ops.notebook._chart_model import wilson_interval
from buddy_ops.notebook.charts import RolloutChart, ScorePoint

FRAMES = 9
POINTS = 1440
START = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)


def a_day() -> RolloutChart:
    """The chart that is drawn."""
    with sandbox.running_sandbox() as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        picture = RolloutChart(session.connect("sandbox", "benchmark", quiet=True))
    picture.versions = ("41", "42")
    picture.thresholds = Judge().scores()
    for n in range(POINTS):
        at = START + n * MINUTE
        p99 = {"41": 400.0 + n % 50, "42": 450.0 + n % 70}
        band = {version: (0.9 * ms, 1.2 * ms) for version, ms in p99.items()}
        picture.rows.append(MinuteRow(at, {"41": Counts(300, n % 3), "42": Counts(300, n % 5)}, p99, band))
        picture.scores.append(ScorePoint(at, 1.0 + n % 7, 0.3 + n % 5))
    return picture


def live_frame(picture: RolloutChart) -> bytes:
    """What a frame sends to the page."""
    scene = picture.scene()
    assert scene is not None
    return _chart_output.svg(scene).encode()


def plain_frame(picture: RolloutChart) -> bytes:
    """The same lines and bands by matplotlib's own functions, as a PNG of the same size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.6), dpi=90)
    FigureCanvasAgg(figure)
    rates, latency, requests, evidence = figure.subplots(4, 1, sharex=True)
    times = [row.at for row in picture.rows]
    for version in picture.versions:
        counts = [row.counts[version] for row in picture.rows]
        rates.plot(times, [100 * own.errors / own.requests for own in counts], "o-", ms=3, label=version)
        bands = [wilson_interval(own.errors, own.requests) for own in counts]
        rates.fill_between(times, [100 * low for low, _ in bands], [100 * high for _, high in bands], alpha=0.15)
        latency.plot(times, [row.p99_ms[version] / 1000 for row in picture.rows], "o-", ms=3)
        limits = [row.p99_band_ms[version] for row in picture.rows]
        latency.fill_between(times, [low / 1000 for low, _ in limits], [high / 1000 for _, high in limits], alpha=0.15)
        requests.plot(times, [own.requests for own in counts])
    evidence.plot(times, [score.over_limit for score in picture.scores])
    evidence.plot(times, [score.worse for score in picture.scores], ":")
    evidence.set_yscale("log")
    rates.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def timed(draw: Callable[[], bytes]) -> tuple[float, int]:
    """Milliseconds and bytes of one drawing."""
    began = time.perf_counter()
    size = len(draw())
    return 1000 * (time.perf_counter() - began), size


def main() -> None:
    """Measure and print."""
    picture = a_day()
    draws = {
        "live frame (SVG)": lambda: live_frame(picture),
        "last picture (PNG)": picture.png,
        "plain matplotlib (PNG)": lambda: plain_frame(picture),
    }
    for draw in draws.values():
        draw()
    measured: dict[str, list[tuple[float, int]]] = {name: [] for name in draws}
    for _ in range(FRAMES):
        for name, draw in draws.items():
            measured[name].append(timed(draw))
    for name, found in measured.items():
        times = [milliseconds for milliseconds, _ in found]
        print(
            f"{name}: {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f}), {found[0][1]:,} bytes"
        )
    *_, plain = measured.values()
    for name, found in list(measured.items())[:-1]:
        ratios = [own / other for (own, _), (other, _) in zip(found, plain, strict=True)]
        print(f"{name}, as a ratio to plain: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
