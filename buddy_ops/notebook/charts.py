"""Charts of a rollout, a window or an incident: error rate, p99 latency and requests by version, and what happened.

A chart is updated in place and left behind as one PNG. It decides nothing.
"""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from operator import itemgetter

from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.text import count, exact_percent, parse_utc, percent, show_controls
from buddy_ops.deployment.observation import Observation
from buddy_ops.health import alarms, metrics, serving
from buddy_ops.health.metrics import MINUTE, MinuteRow
from buddy_ops.health.monitor import MetricsWindow
from buddy_ops.health.serving import version_order
from buddy_ops.incidents.review import IncidentReview, chart_mark
from buddy_ops.notebook import _chart_output, _widgets
from buddy_ops.notebook._chart_layout import lay_out
from buddy_ops.notebook._chart_model import ChartData, ScorePoint, build_picture, describe
from buddy_ops.notebook._chart_scene import Scene
from buddy_ops.notebook._widgets import LiveOutput

FRAME_S = 1.0
"""Shortest real time between two frames: polls of a sandbox come faster than a person can see."""

DRAWING_SHARE = 0.1
"""Largest part of the time that goes into drawing: a busy machine draws fewer frames, and the rollout goes on."""

STAGE_NAMES = {"watch": "monitoring", "rolled-back": "rolling back"}

SOURCES = {True: "the log decides", False: "CloudWatch decides"}

Bundle = dict[str, str]
"""An output by its MIME types."""


def stage_name(stage: str) -> str:
    """How an observation's stage reads: 'stage 1', 'monitoring'."""
    return STAGE_NAMES.get(stage, f"stage {stage}")


def recent_chart(
    target: Target, alias: Alias | None, minutes: int = 30, came_from: Sequence[str] = ()
) -> "RolloutChart | None":
    """Requests, error rate, p99 latency and throttles of what the alias serves, over CloudWatch's latest minutes.

    The alias's recorded moves are marked, and when alarms went to ALARM and left it. If the metrics cannot be read, the
    chart is a sentence that says so.

    Args:
        came_from: versions that received traffic before the alias's last change.

    AWS: as ``serving.read_served``; ``alarms.read_recent_changes``. Reads only.
    """
    if alias is None:
        return None
    until = metrics.published_until(target, target.clock.now())
    since = until - minutes * MINUTE
    reading = serving.read_served(target, alias, since=since, until=until, also=came_from)
    chart = RolloutChart(target)
    chart.rows = list(reading.rows)
    chart.take_busiest_versions()
    chart.caption = reading.trouble or _rates(reading.rows, f"{minutes} min to {until:%H:%M} UTC")
    chart.caption = "\n".join((chart.caption, *reading.notes))
    if chart.rows:
        marks = sorted([*_moves(alias), *_alarms(target, since)], key=itemgetter(0))
        # What happened after the latest minute that CloudWatch has is marked where that one ends.
        chart.marks = [(min(at, until), text) for at, text in marks if at >= since]
    return chart


def _moves(alias: Alias) -> list[tuple[datetime, str]]:
    """When the alias's last rollout moved traffic, by its record."""
    record = alias.rollout
    if record is None:
        return []
    since = parse_utc(record.since)
    began = [since - timedelta(seconds=age) for age in record.stage_ages_s]
    stages = began
    if not record.rolled_back:
        stages = [*began, since]
    # Records of earlier releases have no shares. The end of a rollback has none either.
    shares: tuple[float, ...] = ()
    if len(record.shares_percent) == len(stages):
        shares = record.shares_percent
    marks = []
    for index, at in enumerate(stages):
        share = exact_percent(shares[index] / 100) if shares else f"stage {index + 1}"
        marks.append((at, f"v{record.new_version} {share}"))
    if record.rolled_back:
        marks.append((since, f"rolled back to v{record.left_serving}"))
    elif not shares and not record.shifting:
        marks[-1] = (since, f"v{record.new_version} 100 %")
    return marks


def _alarms(target: Target, since: datetime) -> list[tuple[datetime, str]]:
    """When each alarm went to ALARM and left it; none where that cannot be read: the page names that elsewhere."""
    marks: list[tuple[datetime, str]] = []
    prefix = alarms.name_prefix(target.settings)
    with target.side.contained("the alarms in the chart"):
        for change in alarms.read_recent_changes(target, since):
            name = change.alarm.removeprefix(prefix)
            if change.state == "ALARM":
                marks.append((change.at, f"ALARM {name}"))
            elif change.before == "ALARM":
                marks.append((change.at, f"{name} {change.state}"))
    return marks


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
    """Requests, error rate and p99 latency during the incident, with its events; None where no minute has data."""
    chart = RolloutChart(target)
    chart.rows = list(review.rows)
    chart.take_busiest_versions()
    chart.caption = "; ".join(f"{name}: {text}" for name, text in review.figures.rows())
    chart.marks = [(event.at, chart_mark(event)) for event in review.events if chart_mark(event)]
    if chart.scene() is None:
        return None
    return chart


class RolloutChart(ChartData):
    """A rollout, a window or an incident as one picture."""

    def __init__(self, target: Target) -> None:
        super().__init__(f"{target.resource} · {target.environment}", target.settings.health)
        self._side = target.side
        self._output = LiveOutput()
        self._next_frame_at = -math.inf

    def add(self, observation: Observation) -> None:
        """Add a poll."""
        self.rows += observation.rows
        self.ticks += observation.ticks
        self.caption = _caption(observation)
        if observation.evidence is None:
            return
        # The stable one first: the styles are given in this sequence, and the log's line is the last one's.
        self.versions = tuple(dict.fromkeys((observation.evidence.stable, observation.evidence.new)))
        self.marks = [(at, SOURCES[by_log]) for at, by_log in observation.evidence.source_changes()]
        scores = observation.evidence.judge.scores()
        self.thresholds = scores
        # The stronger of failures and latency: either of them alone decides.
        over_limit = max(scores.errors.slo, scores.slow.slo)
        worse = max(scores.errors.base, scores.slow.base)
        self.scores.append(ScorePoint(observation.at, over_limit, worse))
        if not self.stages or self.stages[-1][1:] != (observation.weight, observation.stage):
            self.stages.append((observation.at, observation.weight, observation.stage))

    def show_window(self, window: MetricsWindow) -> None:
        """Replace what is drawn by a window's minutes."""
        self.rows = list(window.rows)
        self.take_busiest_versions()
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
        # A page that a person looks at takes the fast form; a saved one shows only a PNG in every viewer.
        draw = self._kept_picture
        if _widgets.is_attended() and not final:
            draw = self._live_frame
        bundle = {"text/plain": show_controls(self.caption), **(self._side.attempt("the chart", draw) or {})}
        # Without its picture the caption is shown.
        with self._side.contained("the live output"):
            self._output.show(bundle, metadata=self._metadata(bundle))
        ended = time.perf_counter()
        self._next_frame_at = began + max(FRAME_S, (ended - began) / DRAWING_SHARE)

    def scene(self) -> Scene | None:
        """The picture; None where there is nothing to draw."""
        picture = build_picture(self)
        if picture is None:
            return None
        return lay_out(picture)

    def _live_frame(self) -> Bundle:
        scene = self.scene()
        if scene is None:
            return {}
        return {"text/html": _chart_output.svg(scene)}

    def _kept_picture(self) -> Bundle:
        scene = self.scene()
        if scene is None:
            return {}
        return _chart_output.kept_bundle(scene)

    def _metadata(self, bundle: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """The alternative text of a picture, where the output has one."""
        if "image/png" not in bundle:
            return {}
        return {"image/png": {"alt": show_controls(describe(self))}}

    def _repr_mimebundle_(self, **_: object) -> tuple[Mapping[str, str], Mapping[str, object]]:
        bundle = self._side.attempt("the chart", self._kept_picture) or {}
        return {"text/plain": repr(self), **bundle}, self._metadata(bundle)

    def __repr__(self) -> str:
        return show_controls(self.caption)

    def png(self) -> bytes:
        """The picture as a PNG file; empty where there is nothing to draw."""
        scene = self.scene()
        if scene is None:
            return b""
        return _chart_output.png(scene)


def _caption(observation: Observation) -> str:
    """When, which stage, and what the poll says; what is left of the bake time is said there, and nowhere else."""
    head = f"{observation.at:%H:%M} UTC"
    if observation.verdict is None:
        return f"{head} · {observation.says}"
    stage = f"{stage_name(observation.stage)}, {exact_percent(observation.weight)} of traffic"
    source = ""
    if observation.evidence is not None:
        source = observation.evidence.source
    return "\n".join(filter(None, (f"{head} · {stage}", observation.says, source)))
