"""What a chart of a rollout, a window or an incident shows: panels, lines, limits and events, and the same in words."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from operator import add
from typing import Literal

from buddy_ops.core.settings import HealthSettings
from buddy_ops.core.text import count, date_and_time, duration, exact_percent, figure, percent, time_of_day
from buddy_ops.health import serving
from buddy_ops.health.counts import Counts
from buddy_ops.health.judge import JudgeScores
from buddy_ops.health.log_feed import TICK, FeedTick
from buddy_ops.health.metrics import MINUTE, UNKNOWN_VERSION, MinuteRow
from buddy_ops.health.serving import version_order
from buddy_ops.notebook._chart_layout import Limit, Panel, Picture, Series, Style, time_span
from buddy_ops.notebook._chart_scene import Ink, Point

LEAST_EVIDENCE = 1e-2
"""Evidence below this is drawn here: a smaller value has no meaning."""

MOST_EVIDENCE = 1e9
HISTORY_MINUTES = 10
HALF_MINUTE_S = MINUTE.total_seconds() / 2

MOST_BANDS = 400
"""With more minutes, no confidence band is drawn: it would be narrower than a line."""

STYLES = (
    Style(Ink.STABLE, mark="o"),
    Style(Ink.NEW, (6.0, 2.5), mark="s"),
    Style(Ink.THIRD, (9.0, 2.5, 2.0, 2.5), mark="d"),
    Style(Ink.FOURTH, (3.0, 2.0), mark="^"),
)
"""Of the versions in a chart, the oldest first."""

UNKNOWN_STYLE = Style(Ink.UNKNOWN, (1.5, 2.5), mark="^")

TICKS_A_MINUTE = round(MINUTE / TICK)

PANEL_PIXELS = 125
OTHER_PIXELS = 195
"""Height of title, caption, legend, events and time axis."""


TimedRow = tuple[float, MinuteRow]
"""A minute with its middle, in seconds since 1970."""


@dataclass(frozen=True)
class ScorePoint:
    """The evidence at one poll: that the new version exceeds a limit, and that it is worse than the stable one."""

    at: datetime
    over_limit: float
    worse: float


@dataclass(frozen=True)
class LogPoint:
    """The new version's requests by the log, in up to a minute before a moment."""

    until: datetime
    counts: Counts
    length: timedelta

    @property
    def middle_s(self) -> float:
        """Where it is drawn, as a minute is: in its middle, in seconds since 1970."""
        return (self.until - self.length / 2).timestamp()

    @property
    def error_percent(self) -> float | None:
        """None without requests."""
        if not self.counts.requests:
            return None
        return 100 * self.counts.errors / self.counts.requests

    @property
    def requests_per_minute(self) -> float:
        """Its requests, as if the time were a whole minute."""
        return self.counts.requests * (MINUTE / self.length)


@dataclass
class ChartData:
    """What a chart shows.

    Attributes:
        stages: when each began, the new version's share (0..1) in it, and its name.
        marks: events: a time and a text.
        versions: the versions that have a line, oldest first.
        left_out: how many further versions received requests.
        ticks: of the log, all of a rollout: the new version's.
    """

    title: str
    health: HealthSettings
    rows: list[MinuteRow] = field(default_factory=list)
    ticks: list[FeedTick] = field(default_factory=list)
    scores: list[ScorePoint] = field(default_factory=list)
    stages: list[tuple[datetime, float, str]] = field(default_factory=list)
    marks: list[tuple[datetime, str]] = field(default_factory=list)
    versions: tuple[str, ...] = ()
    left_out: int = 0
    caption: str = ""
    thresholds: JudgeScores | None = None

    @property
    def shown_rows(self) -> list[MinuteRow]:
        """The minutes that are drawn: of a rollout, those from a little before it began."""
        if not self.stages:
            return self.rows
        since = self.stages[0][0] - MINUTE * HISTORY_MINUTES
        return [row for row in self.rows if row.at >= since]

    @property
    def latest_of_log(self) -> list[LogPoint]:
        """Every 10 s the new version's minute before, by the log, after the last minute that CloudWatch has."""
        shown_until = self.rows[-1].at + MINUTE if self.rows else None
        points = []
        for index, tick in enumerate(self.ticks, start=1):
            if shown_until is not None and tick.end <= shown_until:
                continue
            # Where ticks are missing, the last six reach further back than a minute.
            latest = self.ticks[max(0, index - TICKS_A_MINUTE) : index]
            minute = [each.canary for each in latest if each.at >= tick.end - MINUTE]
            points.append(LogPoint(tick.end, reduce(add, minute), len(minute) * TICK))
        return points

    @property
    def events(self) -> list[tuple[datetime, str]]:
        """Where each stage began, and the other events."""
        return [*((at, stage_mark(weight, stage)) for at, weight, stage in self.stages), *self.marks]

    def take_busiest_versions(self) -> None:
        """Give the versions with the most requests a line each."""
        busiest = busiest_versions(self.rows)
        self.versions = tuple(sorted(busiest[: len(STYLES)], key=version_order))
        self.left_out = len(busiest) - len(self.versions)


def busiest_versions(rows: Sequence[MinuteRow]) -> list[str]:
    """The versions that received requests, those with the most first."""
    requests = Counter[str]()
    for row in rows:
        requests.update({version: counts.requests for version, counts in row.counts.items() if counts.requests})
    # Requests of an unknown version have a line of their own.
    return [version for version, _ in requests.most_common() if version != UNKNOWN_VERSION]


def stage_mark(weight: float, stage: str) -> str:
    """The name of a stage in the chart: the new version's share."""
    if weight == 0:
        return "rolled back"
    if stage == "watch":
        return f"{exact_percent(weight)} monitoring"
    return exact_percent(weight)


def build_picture(data: ChartData) -> Picture | None:
    """The picture; None where there is nothing to draw: empty axes would read as health."""
    rows = data.shown_rows
    styles = _styles(data, rows)
    minutes = [(_middle(row), row) for row in rows]
    built = (
        _rates(data, minutes, styles),
        _latency(data, minutes, styles),
        _volume(data, minutes, styles),
        _evidence(data),
    )
    panels = tuple(panel for panel in built if panel is not None)
    if not panels:
        return None
    # Everything that is drawn: minutes at both ends, polls, and events that may be later than the last minute.
    times = [at.timestamp() for row in rows for at in (row.at, row.at + MINUTE)]
    times += [score.at.timestamp() for score in data.scores]
    times += [at.timestamp() for at, _ in data.events]
    since, until = time_span(times)
    notes = (f"{count(data.left_out, 'more version')} not shown",) if data.left_out else ()
    return Picture(
        title=data.title,
        caption=data.caption,
        description=describe(data),
        legend=tuple((serving.name_version(version), style) for version, style in styles.items()),
        panels=panels,
        marks=tuple((at.timestamp(), text) for at, text in data.events),
        since=since,
        until=until,
        height=OTHER_PIXELS + PANEL_PIXELS * len(panels),
        notes=notes,
    )


def _styles(data: ChartData, rows: Sequence[MinuteRow]) -> dict[str, Style]:
    """The style of each version that has a line."""
    # There may be fewer versions than styles.
    styles = dict(zip(data.versions, STYLES, strict=False))
    if any(row.counts[UNKNOWN_VERSION].requests for row in rows if UNKNOWN_VERSION in row.counts):
        styles[UNKNOWN_VERSION] = UNKNOWN_STYLE
    return styles


def _rates(data: ChartData, minutes: Sequence[TimedRow], styles: dict[str, Style]) -> Panel | None:
    def rate(row: MinuteRow, version: str) -> float | None:
        if not is_counted(row, version):
            return None
        own = row.counts[version]
        return 100 * own.errors / own.requests

    def band(row: MinuteRow, version: str) -> tuple[float, float]:
        own = row.counts[version]
        low, high = wilson_interval(own.errors, own.requests)
        return 100 * low, 100 * high

    series = _series(minutes, styles, rate, band)
    series += _log_series(data, styles, lambda point: point.error_percent)
    if not series:
        return None
    limit = 100 * data.health.error_rate
    # The axis always reaches past the limit: a rate far below it must not look high.
    top = max(2 * limit, 1.1 * _highest(series))
    return Panel("Error rate", " %", top=top, series=tuple(series), limits=(Limit(limit, f"limit {limit:g} %"),))


def _latency(data: ChartData, minutes: Sequence[TimedRow], styles: dict[str, Style]) -> Panel | None:
    def p99(row: MinuteRow, version: str) -> float | None:
        if version not in row.p99_ms or not is_counted(row, version, "slow"):
            return None
        return row.p99_ms[version] / 1000

    def band(row: MinuteRow, version: str) -> tuple[float, float] | None:
        if version not in row.p99_band_ms:
            return None
        low, high = row.p99_band_ms[version]
        return low / 1000, high / 1000

    series = _series(minutes, styles, p99, band)
    if not series:
        return None
    limit = data.health.latency_ms / 1000
    top = max(1.2 * limit, 1.1 * _highest(series))
    return Panel("p99 latency", " s", top=top, series=tuple(series), limits=(Limit(limit, f"limit {limit:g} s"),))


def _series(
    minutes: Sequence[TimedRow],
    styles: dict[str, Style],
    value_of: Callable[[MinuteRow, str], float | None],
    band_of: Callable[[MinuteRow, str], tuple[float, float] | None],
) -> list[Series]:
    """A line of each version that has a value in any minute, with its confidence band where the minutes are few."""
    series = []
    banded = len(minutes) <= MOST_BANDS
    for version, style in styles.items():
        points = []
        bands = []
        for at, row in minutes:
            value = value_of(row, version)
            if value is None:
                continue
            points.append((at, value))
            band = band_of(row, version) if banded else None
            if band is not None:
                bands.append((at, *band))
        if points:
            series.append(Series(style, tuple(points), tuple(bands)))
    return series


def _log_series(
    data: ChartData, styles: dict[str, Style], value_of: Callable[[LogPoint], float | None]
) -> Iterator[Series]:
    """A dotted line of the new version's latest requests by the log; none where CloudWatch has their minutes."""
    values = [(point.middle_s, value_of(point)) for point in data.latest_of_log]
    points = tuple((at, value) for at, value in values if value is not None)
    if not points:
        return
    # The ticks are the new version's, which comes after the stable one.
    new = data.versions[-1]
    style = replace(styles[new], dash=(1.0, 2.0), width=1.2)
    yield Series(style, points, name=f"{serving.name_version(new)} by the log, a minute every 10 s")


def _volume(data: ChartData, minutes: Sequence[TimedRow], styles: dict[str, Style]) -> Panel | None:
    """Requests a minute, and bars where some were throttled."""
    series = []
    for version, style in styles.items():
        counts = [(at, row.counts[version]) for at, row in minutes if version in row.counts]
        # A minute that is not published is a gap, never a zero.
        points = tuple((at, float(own.requests)) for at, own in counts if "requests" not in own.unknown)
        if points:
            series.append(Series(style, points))
    series += _log_series(data, styles, lambda point: point.requests_per_minute)
    throttled = [(at, float(sum(own.throttles for own in row.counts.values()))) for at, row in minutes]
    bars = tuple((at, number) for at, number in throttled if number)
    highest = max([_highest(series), *(number for _, number in bars)])
    if not highest:
        return None
    name = f"throttled, {sum(number for _, number in bars):,.0f} in total"
    return Panel("Requests per minute", "", 1.15 * highest, tuple(series), bars=bars, bars_name=name, share=0.8)


def _evidence(data: ChartData) -> Panel | None:
    if not data.scores:
        return None
    over_limit: list[Point] = []
    worse: list[Point] = []
    for score in data.scores:
        at = score.at.timestamp()
        over_limit.append((at, max(LEAST_EVIDENCE, score.over_limit)))
        worse.append((at, max(LEAST_EVIDENCE, score.worse)))
    limits = []
    if data.thresholds is not None:
        rollback_at = data.thresholds.rollback_at
        worse_at = data.thresholds.worse_at
        limits.append(Limit(rollback_at, f"rollback threshold {figure(rollback_at)}"))
        limits.append(Limit(worse_at, f"worse-than-stable threshold {figure(worse_at)}", (1.5, 2.5)))
    series = (
        Series(Style(Ink.NEW), tuple(over_limit), name="over limit"),
        Series(Style(Ink.THIRD, (2.0, 2.0), width=2.2), tuple(worse), name="worse than stable"),
    )
    # Far above the thresholds and the highest value: neither is drawn along the top.
    top = min(MOST_EVIDENCE, max([1e4, *(3 * value for _, value in over_limit + worse)]))
    return Panel("Evidence", "", top=top, series=series, limits=tuple(limits), bottom=LEAST_EVIDENCE, share=0.8)


def _highest(series: Sequence[Series]) -> float:
    return max((value for line in series for _, value in line.points), default=0.0)


def describe(data: ChartData) -> str:
    """What the chart shows, in words, for people who do not see it: figures with their limits first."""
    return " ".join(part.strip() for part in _described(data) if part.strip())


def _described(data: ChartData) -> Iterator[str]:
    rows = data.shown_rows
    yield f"{data.title}."
    if rows:
        yield f"{date_and_time(rows[0].at)} to {time_of_day(rows[-1].at + MINUTE, rows[0].at)}."
    of_log = data.latest_of_log
    for version in _styles(data, rows):
        name = serving.name_version(version)
        counts = [row.counts[version] for row in rows if version in row.counts]
        requests = sum(own.requests for own in counts)
        if not requests:
            # The log may have requests of a version of which CloudWatch has no minute yet.
            if not of_log or version != data.versions[-1]:
                yield f"{name}: no requests."
            continue
        errors = sum(own.errors for own in counts)
        rate = f"error rate {percent(errors / requests)} (limit {exact_percent(data.health.error_rate)})"
        sentence = f"{name}: {count(requests, 'request')}, {rate}"
        slowest = max((row.p99_ms[version] for row in rows if version in row.p99_ms), default=None)
        if slowest is not None:
            limit = duration(data.health.latency_ms / 1000)
            sentence += f", p99 latency {_latency_text(slowest)} in the slowest minute (limit {limit})"
        yield f"{sentence}."
    if of_log:
        latest = of_log[-1]
        failed = f"{latest.counts.errors:,} of {count(latest.counts.requests, 'request')} failed"
        new = serving.name_version(data.versions[-1])
        yield f"{new} by the log, in {duration(latest.length)} to {latest.until:%H:%M:%S} UTC: {failed}."
    if data.left_out:
        yield f"{count(data.left_out, 'more version')} not shown."
    if throttled := sum(own.throttles for row in rows for own in row.counts.values()):
        yield f"{count(throttled, 'request')} throttled."
    if data.scores:
        last = data.scores[-1]
        sentence = f"Evidence: over limit {_evidence_text(last.over_limit)}"
        if data.thresholds is not None:
            sentence += f" (rollback threshold {figure(data.thresholds.rollback_at)})"
        yield f"{sentence}, worse than stable {_evidence_text(last.worse)}."
    if events := sorted(data.events):
        yield f"Events: {', '.join(f'{at:%H:%M} UTC {text}' for at, text in events)}."
    yield ". ".join(line.rstrip(".") for line in data.caption.splitlines() if line.strip()) + "."


def _latency_text(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.2g} s"


def _evidence_text(value: float) -> str:
    if value < 1e6:
        return figure(value)
    return "above 1,000,000"


def is_counted(row: MinuteRow, version: str, figure: Literal["errors", "slow"] = "errors") -> bool:
    """Whether CloudWatch has published the version's figure of this minute; else it is a gap, never a zero."""
    own = row.counts.get(version)
    if own is None or own.requests == 0:
        return False
    return not own.unknown or not own.unknown & {"requests", figure}


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


def _middle(row: MinuteRow) -> float:
    """The middle of a row's minute, in seconds since 1970."""
    return row.at.timestamp() + HALF_MINUTE_S
