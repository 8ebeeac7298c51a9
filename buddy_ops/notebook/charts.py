"""Charts of a rollout: error rate and p99 latency by version with their limits, and the evidence of a regression.

A chart is updated in place and left behind as one PNG. It decides nothing.
"""

import base64
import io
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.text import count, exact_percent, percent, show_controls
from buddy_ops.deployment.observation import Observation
from buddy_ops.health import judge, metrics, serving
from buddy_ops.health.metrics import MINUTE, UNKNOWN_VERSION, MinuteRow
from buddy_ops.health.monitor import MetricsWindow
from buddy_ops.health.serving import version_order
from buddy_ops.incidents.review import IncidentReview, chart_mark
from buddy_ops.notebook._widgets import LiveOutput

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind people can distinguish; the lines differ in style too.
STABLE = "#0072B2"
NEW = "#D55E00"
WORSE = "#009E73"
LIMIT = "#CC0000"
MUTED = "#666666"

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

DAY = timedelta(days=1)

LEAST_EVIDENCE = 1e-2
"""Evidence below this is drawn here: a smaller value has no meaning."""

FRAME_S = 1.0
"""Shortest real time between two frames: polls of a sandbox come faster than a person can see."""

DRAWING_SHARE = 0.1
"""Largest part of the time that goes into drawing: a busy machine draws fewer frames, and the rollout goes on."""

HISTORY_MINUTES = 10

STAGE_NAMES = {"watch": "monitoring", "rolled-back": "rolling back"}


def stage_name(stage: str) -> str:
    """How an observation's stage reads: 'stage 1', 'monitoring'."""
    return STAGE_NAMES.get(stage, f"stage {stage}")


@dataclass(frozen=True)
class ScorePoint:
    """The evidence at one poll: that the new version exceeds a limit, and that it is worse than the stable one."""

    at: datetime
    over_limit: float
    worse: float


def recent_chart(
    target: Target, alias: Alias | None, minutes: int = 30, came_from: Sequence[str] = ()
) -> "RolloutChart | None":
    """Error rate and p99 latency of what the alias serves, over the latest minutes that CloudWatch has.

    If the metrics cannot be read, the chart is a sentence that says so.

    Args:
        came_from: versions that received traffic before the alias's last change.

    AWS: as ``serving.read_served``, reads only.
    """
    if alias is None:
        return None
    until = metrics.published_until(target, target.clock.now())
    reading = serving.read_served(target, alias, since=until - minutes * MINUTE, until=until, also=came_from)
    chart = RolloutChart(target)
    chart.rows = list(reading.rows)
    chart.versions = _busiest_versions(reading.rows)
    chart.caption = reading.trouble or _rates(reading.rows, f"{minutes} min to {until:%H:%M} UTC")
    chart.caption = "\n".join((chart.caption, *reading.notes))
    switched = serving.last_switch(alias)
    if switched is not None and switched >= until - minutes * MINUTE:
        chart.marks = [(switched, str(alias))]
    return chart


def _rates(rows: Sequence[MinuteRow], window: str) -> str:
    """The error rate of each version, and of the requests whose version is unknown."""
    versions = {version for row in rows for version, own in row.counts.items() if own.requests}
    if not versions:
        return f"{window}: no requests. Whether the version is healthy is unknown."
    parts = []
    for version, own in sorted(metrics.totals(rows, versions).items(), key=lambda item: version_order(item[0])):
        name = serving.name_version(version)
        parts.append(f"{name} error rate {percent(own.errors / own.requests)} of {count(own.requests, 'request')}")
    return f"{window}: {'; '.join(parts)}."


def incident_chart(target: Target, review: IncidentReview) -> "RolloutChart | None":
    """Error rate and p99 latency during the incident, with its events marked; None where no minute has data."""
    chart = RolloutChart(target)
    chart.rows = list(review.rows)
    chart.versions = _busiest_versions(review.rows)
    if chart.versions is None:
        return None
    chart.caption = "; ".join(f"{name}: {text}" for name, text in review.figures.rows())
    chart.marks = [(event.at, chart_mark(event)) for event in review.events if chart_mark(event)]
    return chart


def _busiest_versions(rows: Sequence[MinuteRow]) -> tuple[str, str] | None:
    """The two versions with the most requests, the older first; the same twice where there is one."""
    requests = Counter[str]()
    for row in rows:
        requests.update({version: counts.requests for version, counts in row.counts.items() if counts.requests})
    known = Counter({version: number for version, number in requests.items() if version != UNKNOWN_VERSION})
    # Requests of an unknown version have a line of their own; alone they are all that there is.
    busiest = sorted((version for version, _ in (known or requests).most_common(2)), key=version_order)
    if not busiest:
        return None
    return busiest[0], busiest[-1]


class RolloutChart:
    """A rollout, a window or an incident as one picture."""

    def __init__(self, target: Target) -> None:
        self._health = target.settings.health
        self._side = target.side
        self._title = f"{target.resource} · {target.environment}"
        self.rows: list[MinuteRow] = []
        self.scores: list[ScorePoint] = []
        self.stages: list[tuple[datetime, float, str]] = []
        self.marks: list[tuple[datetime, str]] = []
        self.versions: tuple[str, str] | None = None
        self.caption = ""
        self.thresholds: judge.JudgeScores | None = None
        self._output = LiveOutput()
        self._next_frame_at = -math.inf

    def add(self, observation: Observation) -> None:
        """Add a poll."""
        self.rows += observation.rows
        self.caption = _caption(observation)
        if observation.evidence is None:
            return
        self.versions = (observation.evidence.stable, observation.evidence.new)
        scores = observation.evidence.judge.scores()
        self.thresholds = scores
        over_limit = max(scores.errors.slo, scores.slow.slo)
        worse = max(scores.errors.base, scores.slow.base)
        self.scores.append(ScorePoint(observation.at, over_limit, worse))
        if not self.stages or self.stages[-1][1:] != (observation.weight, observation.stage):
            self.stages.append((observation.at, observation.weight, observation.stage))

    def show_window(self, window: MetricsWindow) -> None:
        """Replace what is drawn by a window's minutes."""
        self.rows = list(window.rows)
        self.versions = _busiest_versions(window.rows)
        self.caption = str(window)

    def end(self, outcome: Outcome) -> None:
        """Add how it ended."""
        self.caption = str(outcome)

    def show(self, final: bool = False) -> None:
        """Update the picture in place, if the last frame is old enough. The final one is always drawn."""
        # Frames are paced for human eyes: in real time, whatever clock the rollout runs on.
        began = time.perf_counter()
        if not final and began < self._next_frame_at:
            return
        bundle = {"text/plain": show_controls(self.caption)}
        picture = self._side.attempt("the chart", self.png) if self.versions is not None else None
        if picture is not None:
            bundle["image/png"] = base64.b64encode(picture).decode()
        # Without its picture the caption is shown.
        with self._side.contained("the live output"):
            self._output.show(bundle, metadata={"image/png": {"alt": self.caption}})
        ended = time.perf_counter()
        self._next_frame_at = began + max(FRAME_S, (ended - began) / DRAWING_SHARE)

    def _repr_png_(self) -> bytes | None:
        # Without a request there is nothing to draw: empty axes look like health.
        if not self.rows or self.versions is None:
            return None
        return self._side.attempt("the chart", self.png)

    def __repr__(self) -> str:
        return show_controls(self.caption)

    def png(self) -> bytes:
        """The picture as a PNG file."""
        with _own_style():
            return self._draw()

    def _draw(self) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # A Figure of its own: pyplot's global state is not safe in callbacks and threads.
        figure = Figure(figsize=(10, 7.6), dpi=90)
        FigureCanvasAgg(figure)
        caption = _wrap(self.caption)
        # Below the last line of the caption, there is room for the marks of the stages.
        top = min(0.83, 0.90 - 0.021 * len(caption.splitlines()))
        figure.subplots_adjust(left=0.08, right=0.98, top=top, bottom=0.07, hspace=0.16)
        heights = [3, 3, 2] if self.scores else [3, 3]
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        rows = self.rows
        if self.stages:
            began = self.stages[0][0]
            rows = [row for row in rows if row.at >= began - MINUTE * HISTORY_MINUTES]
        self._draw_rates(panels[0], rows)
        self._draw_latency(panels[1], rows)
        if self.scores:
            self._draw_evidence(panels[2])
        for axes in panels:
            self._mark_events(axes, labelled=axes is panels[0])
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
        _label_times(panels[-1])
        figure.text(0.08, 0.965, self._title, fontsize=12, fontweight="bold", va="center")
        figure.text(0.08, 0.942, caption, fontsize=9, va="top", linespacing=1.35)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def _draw_rates(self, axes: "Axes", rows: Sequence[MinuteRow]) -> None:
        for version, colour, style in self._lines(rows):
            counted = [row for row in rows if _is_counted(row, version)]
            times = [_middle(row) for row in counted]
            counts = [row.counts[version] for row in counted]
            rates = [100 * own.errors / own.requests for own in counts]
            axes.plot(*_with_gaps(times, rates), style, color=colour, label=serving.name_version(version), lw=1.8, ms=3)
            bands = [wilson_interval(own.errors, own.requests) for own in counts]
            _shade(axes, times, [(100 * low, 100 * high) for low, high in bands], colour)
        limit = 100 * self._health.error_rate
        _draw_limit(axes, limit, f"limit {limit:g} %")
        axes.set_ylabel("error rate, %", fontsize=9)
        axes.set_ylim(0, max(2.5 * limit, axes.get_ylim()[1]))
        axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)

    def _draw_latency(self, axes: "Axes", rows: Sequence[MinuteRow]) -> None:
        for version, colour, style in self._lines(rows):
            measured = [row for row in rows if version in row.p99_ms and _is_counted(row, version, "slow")]
            latencies = [row.p99_ms[version] / 1000 for row in measured]
            axes.plot(*_with_gaps([_middle(row) for row in measured], latencies), style, color=colour, lw=1.8, ms=3)
            banded = [row for row in measured if version in row.p99_band_ms]
            bands = [row.p99_band_ms[version] for row in banded]
            seconds = [(low / 1000, high / 1000) for low, high in bands]
            _shade(axes, [_middle(row) for row in banded], seconds, colour)
        limit = self._health.latency_ms / 1000
        _draw_limit(axes, limit, f"limit {limit:g} s")
        axes.set_ylabel("p99 latency, s", fontsize=9)
        axes.set_ylim(0, max(1.3 * limit, axes.get_ylim()[1]))

    def _draw_evidence(self, axes: "Axes") -> None:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_power_of_ten)
        times = [_days(score.at) for score in self.scores]
        over_limit = [max(LEAST_EVIDENCE, score.over_limit) for score in self.scores]
        worse = [max(LEAST_EVIDENCE, score.worse) for score in self.scores]
        axes.plot(times, over_limit, "-", color=NEW, lw=1.8, label="over error limit")
        axes.plot(times, worse, ":", color=WORSE, lw=2.2, label="worse than stable")
        if self.thresholds is not None:
            _draw_limit(axes, self.thresholds.rollback_at, "rollback threshold")
            _draw_limit(axes, self.thresholds.worse_at, "worse-than-stable threshold", style=":")
        axes.set_ylim(LEAST_EVIDENCE, min(1e9, max(1e5, 3 * max(over_limit + worse))))
        axes.set_ylabel("evidence of\nregression (log scale)", fontsize=9)
        axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)

    def _lines(self, rows: Sequence[MinuteRow]) -> Sequence[tuple[str, str, str]]:
        """Version, colour and style of each line."""
        if self.versions is None:
            return ()
        stable, new = self.versions
        styles = {new: (NEW, "s--"), stable: (STABLE, "o-")}
        lines = [(version, *styles[version]) for version in dict.fromkeys((stable, new)) if version != UNKNOWN_VERSION]
        if any(UNKNOWN_VERSION in row.counts for row in rows):
            lines.append((UNKNOWN_VERSION, MUTED, "^:"))
        return lines

    def _mark_events(self, axes: "Axes", labelled: bool) -> None:
        """A line for each event, and one where each stage began, with its traffic weight above the upper panel."""
        for at, text in self.marks:
            axes.axvline(_days(at), color=MUTED, lw=0.8, ls="--")
            if labelled:
                _annotate(axes, text, at, (2, -2), rotation=90, va="top", fontsize=7)
        last = self.scores[-1].at if self.scores else None
        for at, weight, stage in self.stages:
            axes.axvline(_days(at), color=MUTED, lw=0.8, ls=":")
            if labelled and at == last:
                # At the right edge a text to the right of its line would be cut off.
                _annotate(axes, _stage_mark(weight, stage), at, (-3, 2), ha="right")
            elif labelled:
                _annotate(axes, _stage_mark(weight, stage), at, (3, 2))


def _power_of_ten(value: float, _: object) -> str:
    """A tick of a logarithmic axis: 10⁴. matplotlib's own labels are formulas, and no text here is one."""
    exponent = round(math.log10(value))
    return f"10{str(exponent).translate(SUPERSCRIPT)}"


@contextmanager
def _own_style() -> Iterator[None]:
    """Draw as matplotlib does by itself: a person's settings may need LaTeX, or hide what an operator must see.

    A ``$`` in a text is a character, not the beginning of a formula.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        yield


def _stage_mark(weight: float, stage: str) -> str:
    if weight == 0:
        return "rolled back"
    return f"{exact_percent(weight)} monitoring" if stage == "watch" else exact_percent(weight)


def _annotate(axes: "Axes", text: str, at: datetime, offset: tuple[int, int], **options: Any) -> None:
    """A text at the top of the panel, ``offset`` points from the line at ``at``."""
    style: dict[str, Any] = {"fontsize": 8, "color": MUTED, "ha": "left", **options}
    axes.annotate(
        text, (_days(at), 1.0), xycoords=("data", "axes fraction"), xytext=offset, textcoords="offset points", **style
    )


def _draw_limit(axes: "Axes", at: float, text: str, style: str = "--") -> None:
    """A limit with its name at the left, where no verdict is drawn."""
    axes.axhline(at, color=LIMIT, lw=1, ls=style)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (3, 2), "textcoords": "offset points"}
    axes.annotate(text, (0, at), ha="left", va="bottom", fontsize=8, color=LIMIT, **place)


def _is_counted(row: MinuteRow, version: str, figure: Literal["errors", "slow"] = "errors") -> bool:
    """Whether CloudWatch has published the version's figure of this minute; else it is a gap, never a zero."""
    own = row.counts.get(version)
    return own is not None and own.requests > 0 and not own.unknown & {"requests", figure}


def _with_gaps(times: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A line's points with a break wherever a minute is missing between two of them."""
    found_times: list[float] = []
    found_values: list[float] = []
    for at, value in zip(times, values, strict=True):
        if found_times and at - found_times[-1] > 1.5 * MINUTE / DAY:
            found_times.append(at)
            found_values.append(math.nan)
        found_times.append(at)
        found_values.append(value)
    return found_times, found_values


def _shade(axes: "Axes", times: Sequence[float], bands: Sequence[tuple[float, float]], colour: str) -> None:
    """A confidence band, with the gaps of its line."""
    gapped, lows = _with_gaps(times, [low for low, _ in bands])
    _, highs = _with_gaps(times, [high for _, high in bands])
    axes.fill_between(gapped, lows, highs, color=colour, alpha=0.15, lw=0)


def wilson_interval(events: int, requests: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson), as fractions. Source: Wilson 1927."""
    if requests == 0:
        return 0.0, 1.0
    share = events / requests
    square = z * z
    centre = share + square / (2 * requests)
    half = z * math.sqrt(share * (1 - share) / requests + square / (4 * requests * requests))
    scale = 1 + square / requests
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _caption(observation: Observation) -> str:
    """When, which stage, what is left of its bake time, and the verdict's sentences."""
    head = f"{observation.at:%H:%M} UTC"
    if observation.verdict is None:
        return f"{head} · {observation.says}"
    parts = [head, f"{stage_name(observation.stage)}, {exact_percent(observation.weight)} of traffic"]
    if observation.bake_left_s:
        parts.append(f"bake time left {observation.bake_left_s / 60:.0f} min")
    return f"{' · '.join(parts)}\n{observation.says}"


def _wrap(text: str) -> str:
    import textwrap

    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, 140)]
    return "\n".join(lines[:6])


def _middle(row: MinuteRow) -> float:
    """The middle of a row's minute, in matplotlib's unit."""
    return _days(row.at + MINUTE / 2)


def _days(moment: datetime) -> float:
    """A time in matplotlib's unit: days since 1970."""
    return moment.timestamp() / 86400


def _label_times(axes: "Axes") -> None:
    """UTC under each tick, and local time in a second line where it differs."""
    from matplotlib.dates import AutoDateLocator, num2date
    from matplotlib.ticker import FuncFormatter

    local = num2date(axes.get_xlim()[1]).astimezone()
    with_local = bool(local.utcoffset())

    def label(day: float, _: object) -> str:
        at = num2date(day, tz=UTC)
        local_time = f"\n{at.astimezone():%H:%M}" if with_local else ""
        return f"{at:%H:%M}{local_time}"

    axes.xaxis.set_major_locator(AutoDateLocator(tz=UTC))
    axes.xaxis.set_major_formatter(FuncFormatter(label))
    names = f"UTC\n{local:%Z}" if with_local else "UTC"
    place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (-26, -8), "textcoords": "offset points"}
    axes.annotate(names, (0, 0), ha="right", va="top", fontsize=9, color=MUTED, **place)
