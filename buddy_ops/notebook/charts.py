"""Pictures of a rollout: error rate and p99 by version against their bounds, and the evidence, stage by stage.

Knows how a picture is drawn, updated in place and left behind as one PNG. Never decides anything: it watches a rollout
and waits on the target's clock.
"""

import base64
import io
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment.observation import Observation
from buddy_ops.health import judge, metrics
from buddy_ops.health.metrics import MINUTE, MinuteRow
from buddy_ops.incidents.review import IncidentReview, chart_mark, version_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STABLE, NEW, WORSE, BOUND, MUTED = "#0072B2", "#D55E00", "#009E73", "#CC0000", "#666666"
"""Okabe and Ito's blue, vermilion and green: told apart by colour-blind people; lines differ in style too."""

FLOOR = 1e-2
"""Evidence below this is drawn here: less says nothing more."""

FRAME_S = 1.0
"""Real seconds between two frames: polls of a sandbox come faster than anybody looks."""

HISTORY_MINUTES = 10


@dataclass(frozen=True)
class ScorePoint:
    """How strong the evidence is at one poll: that too much fails, and that the new version is the worse one."""

    at: datetime
    harm: float
    worse: float


def recent_chart(
    target: Target, alias: Alias | None, minutes: int = 30, came_from: Sequence[str] = ()
) -> "RolloutChart | None":
    """Error rate and p99 of what the alias serves, over the latest minutes that CloudWatch has.

    Metrics that cannot be read are a sentence in its place.

    Args:
        came_from: the versions that had the traffic before the alias's last switch, its primary first.

    AWS: cloudwatch:GetMetricData, reads only.
    """
    if alias is None:
        return None
    now = target.clock.now()
    switched = datetime.fromisoformat(alias.rollout.since) if alias.rollout else now
    versions = list(dict.fromkeys(filter(None, (alias.primary, alias.additional, *came_from))))
    until = now.replace(second=0, microsecond=0) - timedelta(seconds=target.settings.health.late_data_s)

    def serving(at: datetime) -> str:
        return came_from[0] if came_from and at < switched else alias.primary

    reading = metrics.read_minutes(target, versions, serving, until - minutes * MINUTE, until)
    picture = RolloutChart(target)
    picture.rows, picture.versions = list(reading.rows), (versions[0], versions[-1])
    requests = sum(row.counts[version].requests for row in reading.rows for version in versions)
    failed = sum(row.counts[version].errors for row in reading.rows for version in versions)
    rate = f", {100 * failed / requests:.2g} %" if requests else ""
    picture.caption = (
        reading.trouble or f"{minutes} minutes to {until:%H:%M} UTC: {failed:,} of {requests:,} requests failed{rate}."
    )
    return picture


def incident_chart(target: Target, review: IncidentReview) -> "RolloutChart | None":
    """Error rate and latency during the incident, with its events marked; None where no minute has data."""
    requests = Counter[str]()
    for row in review.rows:
        requests.update({version: counts.requests for version, counts in row.counts.items()})
    if not requests:
        return None
    busiest = sorted((version for version, _ in requests.most_common(2)), key=version_number)
    chart = RolloutChart(target)
    chart.rows = list(review.rows)
    chart.versions = (busiest[0], busiest[-1])
    chart.caption = "; ".join(f"{name}: {text}" for name, text in review.figures.rows())
    chart.marks = [(event.at, chart_mark(event)) for event in review.events if chart_mark(event)]
    return chart


class RolloutChart:
    """What a rollout looked like so far."""

    def __init__(self, target: Target) -> None:
        self._health = target.settings.health
        self._title = f"{target.resource} · {target.environment}"
        self.rows: list[MinuteRow] = []
        self.scores: list[ScorePoint] = []
        self.stages: list[tuple[datetime, float, str]] = []
        self.marks: list[tuple[datetime, str]] = []
        self.versions: tuple[str, str] | None = None
        self.caption = ""
        self.thresholds: judge.JudgeScores | None = None
        self._handle: Any = None
        self._drawn = -math.inf

    def add(self, observation: Observation) -> None:
        """Take in a poll."""
        self.rows += observation.rows
        self.caption = _caption(observation)
        if observation.evidence is not None:
            self.versions = (observation.evidence.stable, observation.evidence.new)
            now = observation.evidence.judge.scores()
            self.thresholds = now
            harm, worse = max(now.errors.slo, now.slow.slo), max(now.errors.base, now.slow.base)
            self.scores.append(ScorePoint(observation.at, harm, worse))
            if not self.stages or self.stages[-1][1:] != (observation.weight, observation.stage):
                self.stages.append((observation.at, observation.weight, observation.stage))

    def end(self, outcome: Outcome) -> None:
        """Take in how it ended."""
        self.caption = str(outcome)

    def show(self, final: bool = False) -> None:
        """Update the picture in place, if the last frame is old enough. The last one is always drawn."""
        # Pacing for human eyes, in real time whatever clock the rollout runs on.
        if not final and time.perf_counter() - self._drawn < FRAME_S:
            return
        self._drawn = time.perf_counter()
        from IPython.display import display

        if self.versions is None:
            bundle = {"text/plain": self.caption}
        else:
            bundle = {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.caption}
        alt = {"image/png": {"alt": self.caption}}
        if self._handle is None:
            self._handle = display(bundle, metadata=alt, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        elif self._handle:
            self._handle.update(bundle, metadata=alt, raw=True)

    def _repr_png_(self) -> bytes | None:
        return self.png() if self.rows else None

    def __repr__(self) -> str:
        return self.caption

    def png(self) -> bytes:
        """The picture as a PNG file."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        # A Figure of our own: pyplot's global state is not safe in callbacks and threads.
        figure = Figure(figsize=(10, 7.6), dpi=90)
        FigureCanvasAgg(figure)
        figure.subplots_adjust(left=0.08, right=0.98, top=0.83, bottom=0.07, hspace=0.16)
        judged = bool(self.scores)
        panels = figure.subplots(2 + judged, 1, sharex=True, height_ratios=(3, 3, 2)[: 2 + judged])
        rates, latency = panels[:2]
        began = self.stages[0][0] if self.stages else None
        rows = [row for row in self.rows if began is None or row.at >= began - MINUTE * HISTORY_MINUTES]
        self._draw_rates(rates, rows)
        self._draw_latency(latency, rows)
        if judged:
            self._draw_evidence(panels[2])
        for axes in panels:
            self._mark_stages(axes, labelled=axes is rates)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
        _label_times(panels[-1])
        figure.text(0.08, 0.965, self._title, fontsize=12, fontweight="bold", va="center")
        figure.text(0.08, 0.942, _wrap(self.caption), fontsize=9, va="top", linespacing=1.35)
        file = io.BytesIO()
        figure.savefig(file, format="png")
        return file.getvalue()

    def _draw_rates(self, axes: "Axes", rows: Sequence[MinuteRow]) -> None:
        for version, colour, style in self._lines():
            seen = [row for row in rows if version in row.counts and row.counts[version].requests]
            times = [_day(row.at + MINUTE / 2) for row in seen]
            shares = [(row.counts[version].errors, row.counts[version].requests) for row in seen]
            bands = [wilson_interval(errors, requests) for errors, requests in shares]
            axes.plot(times, [100 * x / n for x, n in shares], style, color=colour, label=f"v{version}", lw=1.8, ms=3)
            low, high = [100 * each[0] for each in bands], [100 * each[1] for each in bands]
            axes.fill_between(times, low, high, color=colour, alpha=0.15, lw=0)
        bound = 100 * self._health.error_rate
        _bound(axes, bound, f"{bound:g} % allowed")
        axes.set_ylabel("failed requests, %", fontsize=9)
        axes.set_ylim(0, max(2.5 * bound, axes.get_ylim()[1]))
        axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)

    def _draw_latency(self, axes: "Axes", rows: Sequence[MinuteRow]) -> None:
        for version, colour, style in self._lines():
            seen = [(_day(row.at + MINUTE / 2), row.p99_ms[version] / 1000) for row in rows if version in row.p99_ms]
            axes.plot([at for at, _ in seen], [p99 for _, p99 in seen], style, color=colour, lw=1.8, ms=3)
            known = [
                (_day(row.at + MINUTE / 2), row.p99_band_ms[version]) for row in rows if version in row.p99_band_ms
            ]
            low, high = [band[0] / 1000 for _, band in known], [band[1] / 1000 for _, band in known]
            axes.fill_between([at for at, _ in known], low, high, color=colour, alpha=0.15, lw=0)
        bound = self._health.latency_ms / 1000
        _bound(axes, bound, f"{bound:g} s allowed")
        axes.set_ylabel("p99 latency, s", fontsize=9)
        axes.set_ylim(0, max(1.3 * bound, axes.get_ylim()[1]))

    def _draw_evidence(self, axes: "Axes") -> None:
        axes.set_yscale("log")
        times = [_day(each.at) for each in self.scores]
        harm, worse = [max(FLOOR, each.harm) for each in self.scores], [max(FLOOR, each.worse) for each in self.scores]
        axes.plot(times, harm, "-", color=NEW, lw=1.8, label="too many failures")
        axes.plot(times, worse, ":", color=WORSE, lw=2.2, label="worse than stable")
        marks = self.thresholds
        if marks is not None:
            _bound(axes, marks.rollback_at, f"{marks.rollback_at:,.0f}: taken back")
            _bound(axes, marks.worse_at, f"{marks.worse_at:,.0f}: surely worse", style=":")
        axes.set_ylim(FLOOR, min(1e9, max(1e5, 3 * max(harm + worse))))
        axes.set_ylabel("odds against chance", fontsize=9)
        axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)

    def _lines(self) -> Sequence[tuple[str, str, str]]:
        if self.versions is None:
            return ()
        both = ((self.versions[0], STABLE, "o-"), (self.versions[1], NEW, "s--"))
        return both if self.versions[0] != self.versions[1] else both[:1]

    def _mark_stages(self, axes: "Axes", labelled: bool) -> None:
        """A line where each stage began, its share above the uppermost panel; and one for each thing that happened."""
        for at, text in self.marks:
            axes.axvline(_day(at), color=MUTED, lw=0.8, ls="--")
            if labelled:
                where = {"xycoords": ("data", "axes fraction"), "xytext": (2, -2), "textcoords": "offset points"}
                upright = {"rotation": 90, "ha": "left", "va": "top", "fontsize": 7, "color": MUTED}
                axes.annotate(text, (_day(at), 1.0), **where, **upright)  # type: ignore[arg-type]
        last = self.scores[-1].at if self.scores else None
        for at, weight, stage in self.stages:
            axes.axvline(_day(at), color=MUTED, lw=0.8, ls=":")
            text = "taken back" if weight == 0 else f"{100 * weight:g} %" + (" watch" if stage == "watch" else "")
            if labelled:
                ending = at == last
                axes.annotate(
                    text,
                    (_day(at), 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(-3 if ending else 3, 2),
                    textcoords="offset points",
                    ha="right" if ending else "left",
                    fontsize=8,
                    color=MUTED,
                )


def _bound(axes: "Axes", at: float, text: str, style: str = "--") -> None:
    """A bound with its name at the left, where no verdict is drawn."""
    axes.axhline(at, color=BOUND, lw=1, ls=style)
    where = {"xycoords": ("axes fraction", "data"), "xytext": (3, 2), "textcoords": "offset points"}
    axes.annotate(text, (0, at), ha="left", va="bottom", fontsize=8, color=BOUND, **where)  # type: ignore[arg-type]


def wilson_interval(events: int, requests: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson), as fractions. Source: Wilson 1927."""
    if requests == 0:
        return 0.0, 1.0
    share, square = events / requests, z * z
    centre = share + square / (2 * requests)
    half = z * math.sqrt(share * (1 - share) / requests + square / (4 * requests * requests))
    return max(0.0, (centre - half) / (1 + square / requests)), min(1.0, (centre + half) / (1 + square / requests))


def _caption(observation: Observation) -> str:
    head = f"{observation.at:%H:%M} UTC"
    if observation.verdict is None:
        return f"{head} · {observation.says}"
    left = f", {observation.bake_left_s / 60:.0f} min of bake left" if observation.bake_left_s else ""
    stage = "watch" if observation.stage == "watch" else f"stage {observation.stage}"
    return (
        f"{head} · {stage}, {100 * observation.weight:g} %{left} · {observation.verdict.decision}\n{observation.says}"
    )


def _wrap(text: str) -> str:
    import textwrap

    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, 140)]
    return "\n".join(lines[:6])


def _day(moment: datetime) -> float:
    """A moment as matplotlib counts them: days since 1970."""
    return moment.timestamp() / 86400


def _label_times(axes: "Axes") -> None:
    """UTC under each tick, as everywhere; below it, smaller in meaning, what the clock on the wall says."""
    from matplotlib.dates import AutoDateLocator, num2date
    from matplotlib.ticker import FuncFormatter

    wall = num2date(axes.get_xlim()[1]).astimezone()
    abroad = bool(wall.utcoffset())

    def told(day: float, _: object) -> str:
        at = num2date(day, tz=UTC)
        return f"{at:%H:%M}" + (f"\n{at.astimezone():%H:%M}" if abroad else "")

    axes.xaxis.set_major_locator(AutoDateLocator(tz=UTC))
    axes.xaxis.set_major_formatter(FuncFormatter(told))
    names = "UTC" + (f"\n{wall:%Z}" if abroad else "")
    margin = {"xycoords": "axes fraction", "xytext": (-8, -8), "textcoords": "offset points"}
    axes.annotate(names, (0, 0), ha="right", va="top", fontsize=9, color=MUTED, **margin)  # type: ignore[arg-type]
