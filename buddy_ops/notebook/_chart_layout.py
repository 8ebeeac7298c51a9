"""Where everything in a chart is drawn: panels under each other, their axes, and texts that never overprint.

No text is within a panel: names and limits have a line above it, events have rows of their own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from buddy_ops.core.text import count
from buddy_ops.notebook._chart_scene import Fill, Ink, Point, Scene, Stroke, Text, shorten_to, text_width, wrap

TimePoint = TypeVar("TimePoint", bound=tuple[float, ...])

WIDTH = 900
"""Pixels. JupyterLab beside its file browser and an archived report show that much without making it smaller."""

RIGHT = 24
LEAST_LEFT = 64
LINE = 17.0
"""From one line of text to the next."""

CAPTION_LINES = 6
EVENT_ROWS = 4
EVENT_GAP = 10.0
HEADER = 26.0
PANEL_GAP = 12.0
LEAST_BAR = 4.0
LEAST_SPAN_S = 300.0
GAP_S = 90.0
"""Two minutes that are further apart have a missing one between them."""

BAND_OPACITY = 0.12
DENSE = 2.0
"""Where minutes are closer than this, in pixels, they are drawn by columns."""

COLUMN = 3.0
"""Pixels. The mean of a column's minutes is a line, and from the smallest to the largest value is an area."""

MARKED_POINTS = 70
"""A line of at most so many points has a mark at each."""

# Seconds between two ticks of the time axis, from a minute to half a day.
MINUTES = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
DAY_S = 86400

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    ink: Ink
    dash: tuple[float, ...] = ()
    mark: str = ""
    width: float = 1.8


@dataclass(frozen=True)
class Series:
    """A line: points of a time (seconds since 1970) and a value, and bands of a time, a low and a high value."""

    style: Style
    points: tuple[Point, ...]
    bands: tuple[tuple[float, float, float], ...] = ()
    name: str = ""
    """Shown above the panel; empty where the chart's own legend has it."""


@dataclass(frozen=True)
class Limit:
    """A horizontal line with its name."""

    value: float
    name: str
    dash: tuple[float, ...] = (5.0, 3.0)


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        unit: what a tick's number has behind it.
        top: the largest value, from lines and limits, never from bands.
        bottom: the smallest value; above 0 the axis is logarithmic.
        bars: times and heights of vertical bars, named ``bars_name``.
        share: of the height that all panels have.
    """

    title: str
    unit: str
    top: float
    series: tuple[Series, ...]
    limits: tuple[Limit, ...] = ()
    bars: tuple[Point, ...] = ()
    bars_name: str = ""
    bottom: float = 0.0
    share: float = 1.0


@dataclass(frozen=True)
class Picture:
    """A chart before it has places.

    Attributes:
        legend: names and styles of the versions.
        marks: events: a time (seconds since 1970) and a text; ``notes`` follow the legend.
        since: where the time axis begins, and ``until`` where it ends, in seconds since 1970.
    """

    title: str
    caption: str
    description: str
    legend: tuple[tuple[str, Style], ...]
    panels: tuple[Panel, ...]
    marks: tuple[tuple[float, str], ...]
    since: float
    until: float
    height: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Frame:
    """A panel's place, and what a time and a value are in pixels."""

    picture: Picture
    left: float
    top: float
    bottom: float
    panel: Panel

    def x(self, at: float) -> float:
        return _x(self.picture, self.left, at)

    def y(self, value: float) -> float:
        """Clipped to the panel."""
        panel = self.panel
        if panel.bottom > 0:
            # A value below the axis, as 0, has no logarithm.
            span = math.log(panel.top / panel.bottom)
            share = math.log(max(value, panel.bottom) / panel.bottom) / span
        else:
            share = value / panel.top
        return self.bottom - min(1.0, max(0.0, share)) * (self.bottom - self.top)


def lay_out(picture: Picture) -> Scene:
    """The picture with every place."""
    scene = Scene(WIDTH, picture.height, picture.description)
    scene.shapes.append(Fill([_rectangle(0, 0, WIDTH, picture.height)], Ink.CARD))
    y = 24.0
    # From top to bottom: title, caption, legend, events, panels, times. Each begins where the one before it ended.
    title = shorten_to(picture.title, WIDTH - 32, 15, bold=True)
    scene.shapes.append(Text(title, 16, y, size=15, bold=True))
    y += 4
    caption = wrap(picture.caption, WIDTH - 32)
    if len(caption) > CAPTION_LINES:
        caption = [*caption[: CAPTION_LINES - 1], shorten_to(" ".join(caption[CAPTION_LINES - 1 :]), WIDTH - 32)]
    for line in caption:
        y += LINE
        scene.shapes.append(Text(line, 16, y))
    y += LINE + 6
    y = _draw_row(scene, 16, y, _legend(picture))
    # One left edge for all panels: a moment is at the same place in each of them.
    left = max([LEAST_LEFT, *(24 + text_width(label, 12) for panel in picture.panels for _, label in _ticks(panel))])
    y += LINE * _draw_events(scene, picture, left, y + LINE)
    # The times are drawn last, but their height is needed first: the panels get what is left.
    local = _local_name(picture.until)
    end = picture.height - (2 * LINE + 9 if local else LINE + 11)
    # What is left of the height, for all panels by their shares.
    shared = end - y - (HEADER + PANEL_GAP) * len(picture.panels)
    shares = sum(panel.share for panel in picture.panels)
    for panel in picture.panels:
        top = y + HEADER + PANEL_GAP
        bottom = top + shared * panel.share / shares
        _draw_panel(scene, _Frame(picture, left, top=top, bottom=bottom, panel=panel), top - 12)
        y = bottom
    _draw_times(scene, picture, left, y, local=local)
    return scene


def _legend(picture: Picture) -> Iterator[tuple[str, Style | None]]:
    yield from picture.legend
    for note in picture.notes:
        yield note, None


def _draw_row(scene: Scene, x: float, y: float, entries: Iterable[tuple[str, Style | None]]) -> float:
    """Names with samples of their lines, in as many rows as they need; the last row's baseline."""
    began = x
    for name, style in entries:
        shown = shorten_to(name, WIDTH - began - 60)
        needed = text_width(shown, 12) + (34 if style else 0)
        # The first name of a row stays in it, however wide it is.
        if x > began and x + needed > WIDTH - 16:
            x = began
            y += LINE
        if style is not None:
            _draw_sample(scene, style, x, y - 4)
            x += 34
        scene.shapes.append(Text(shown, x, y))
        x += text_width(shown, 12) + 20
    return y


def _draw_sample(scene: Scene, style: Style, x: float, y: float) -> None:
    scene.shapes.append(Stroke([[(x, y), (x + 28, y)]], style.ink, style.width, style.dash))
    if style.mark:
        scene.shapes.append(Fill([_mark(style.mark, x + 14, y)], style.ink))


def _draw_events(scene: Scene, picture: Picture, left: float, y: float) -> int:
    """Names of the events, each beside its line, where there is room; the number of rows that they take."""
    labels, hidden = _place_events(picture, left, WIDTH - 8.0)
    if hidden:
        # The note about them takes room from the others, so that these are placed once more.
        more = f"+ {count(hidden, 'event')}"
        labels, hidden = _place_events(picture, left, WIDTH - 8.0 - text_width(more, 12) - 20)
        more = f"+ {count(hidden, 'event')}"
        scene.shapes.append(Text(more, WIDTH - 8, y, anchor="end"))
    scene.shapes += [Text(text, x, y + LINE * row) for row, x, text in labels]
    # Without any event no row is kept free.
    return 1 + max((row for row, _, _ in labels), default=-1)


def _place_events(picture: Picture, left: float, right: float) -> tuple[list[tuple[int, float, str]], int]:
    """Row, place and text of each event that has room, and how many have none."""
    placed: list[tuple[int, float, str]] = []
    taken: list[list[tuple[float, float]]] = [[] for _ in range(EVENT_ROWS)]
    hidden = 0
    # The same event twice, as from two journals, has one name.
    for at, text in dict.fromkeys(sorted(picture.marks)):
        shown = shorten_to(text, (WIDTH - left) / 3)
        width = text_width(shown, 12)
        line = _x(picture, left, at)
        # Right of its line, or left of it where the picture ends.
        places = [start for start in (line + 4, line - 4 - width) if start >= 8 and start + width <= right]
        free = (
            (row, start)
            for row, others in enumerate(taken)
            for start in places
            if all(start >= end + EVENT_GAP or start + width + EVENT_GAP <= begin for begin, end in others)
        )
        found = next(free, None)
        if found is None:
            hidden += 1
            continue
        row, start = found
        taken[row].append((start, start + width))
        placed.append((row, start, shown))
    return placed, hidden


def _draw_panel(scene: Scene, frame: _Frame, header: float) -> None:
    panel = frame.panel
    right = WIDTH - RIGHT
    _draw_header(scene, frame, header)
    # At most one for each 24 pixels: the labels need a line each, with some space between them.
    ticks = _ticks(panel, (frame.bottom - frame.top) / 24)
    grid = [[(frame.left, frame.y(value)), (right, frame.y(value))] for value, _ in ticks]
    scene.shapes.append(Stroke(grid, Ink.GRID))
    scene.shapes += [Text(label, frame.left - 8, frame.y(value) + 4, anchor="end") for value, label in ticks]
    scene.shapes.append(
        Stroke([[(frame.left, frame.top), (frame.left, frame.bottom), (right, frame.bottom)]], Ink.MARK)
    )
    if panel.bars:
        # However few requests were throttled beside thousands, the bar can be seen.
        tops = [(frame.x(at), min(frame.y(value), frame.bottom - LEAST_BAR)) for at, value in panel.bars]
        bars = [[(x, frame.bottom), (x, y)] for x, y in tops]
        scene.shapes.append(Stroke(bars, Ink.LIMIT, 3.0))
    # The bands before, the lines last: nothing covers a version's line.
    for series in panel.series:
        scene.shapes += _band(frame, series)
    # Not through the texts above a panel.
    events = [[(frame.x(at), frame.top), (frame.x(at), frame.bottom)] for at, _ in frame.picture.marks]
    if events:
        scene.shapes.append(Stroke(events, Ink.MARK, 1.0, (3.0, 3.0)))
    for limit in panel.limits:
        line = [(frame.left, frame.y(limit.value)), (right, frame.y(limit.value))]
        scene.shapes.append(Stroke([line], Ink.LIMIT, 1.4, limit.dash))
    for series in panel.series:
        scene.shapes += _line(frame, series)


def _draw_header(scene: Scene, frame: _Frame, y: float) -> None:
    """A panel's title, and samples and names of its limits and of series of its own."""
    panel = frame.panel
    x = 16.0
    scene.shapes.append(Text(panel.title, x, y, bold=True))
    x += text_width(panel.title, 12, bold=True) + 20
    entries: list[tuple[str, Style | None]] = [(line.name, line.style) for line in panel.series if line.name]
    entries += [(limit.name, Style(Ink.LIMIT, limit.dash, width=1.4)) for limit in panel.limits]
    if panel.bars:
        entries.append((panel.bars_name, Style(Ink.LIMIT, width=6.0)))
    _draw_row(scene, x, y, entries)


def _line(frame: _Frame, series: Series) -> Iterator[Stroke | Fill]:
    style = series.style
    lines = []
    ranges = []
    spikes = []
    marked = []
    over = min((frame.y(limit.value) for limit in frame.panel.limits), default=-math.inf)
    sparse = len(series.points) <= MARKED_POINTS
    for run in _runs(series.points):
        if _is_dense(frame, run):
            columns = _columns(frame, run)
            lines.append([(x, mean) for x, _, mean, _ in columns])
            ranges.append([(x, low) for x, low, _, _ in columns] + [(x, high) for x, _, _, high in reversed(columns)])
            spikes += [[(x, mean), (x, high)] for x, _, mean, high in columns if high < over <= mean]
            continue
        places = [(frame.x(at), frame.y(value)) for at, value in run]
        # A minute between two gaps has no line: its mark is all that there is of it.
        if len(run) > 1:
            lines.append(places)
        if sparse or len(run) == 1:
            marked += places
    if ranges:
        yield Fill(ranges, style.ink, 0.3)
    if spikes:
        # A minute over the limit, whose neighbours hide it in the mean.
        yield Stroke(spikes, style.ink, 1.2)
    if lines:
        yield Stroke(lines, style.ink, style.width, style.dash)
    if marked:
        yield Fill([_mark(style.mark or "o", x, y) for x, y in marked], style.ink)


def _band(frame: _Frame, series: Series) -> Iterator[Fill]:
    """Confidence bands, clipped to the panel. Where minutes are dense, their smallest and largest values are drawn."""
    paths = []
    for run in _runs(series.bands):
        if len(run) < 2 or _is_dense(frame, run):
            continue
        lower = [(frame.x(at), frame.y(low)) for at, low, _ in run]
        upper = [(frame.x(at), frame.y(high)) for at, _, high in run]
        paths.append(upper + lower[::-1])
    if paths:
        yield Fill(paths, series.style.ink, BAND_OPACITY)


def _is_dense(frame: _Frame, run: Sequence[TimePoint]) -> bool:
    """Whether more minutes lie side by side than a screen can show."""
    return len(run) > 2 and (frame.x(run[-1][0]) - frame.x(run[0][0])) / (len(run) - 1) < DENSE


def _columns(frame: _Frame, run: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """For each column of pixels its place, and those of its smallest, mean and largest value: no spike is lost."""
    found = []
    wide_s = COLUMN * (frame.picture.until - frame.picture.since) / (WIDTH - RIGHT - frame.left)
    begin = 0
    while begin < len(run):
        at = run[begin][0]
        end = begin + 1
        while end < len(run) and run[end][0] < at + wide_s:
            end += 1
        values = [run[index][1] for index in range(begin, end)]
        mean = sum(values) / len(values)
        middle = (at + run[end - 1][0]) / 2
        found.append((frame.x(middle), frame.y(min(values)), frame.y(mean), frame.y(max(values))))
        begin = end
    return found


def _runs(points: Sequence[TimePoint]) -> list[list[TimePoint]]:
    """The points between two missing minutes."""
    runs: list[list[TimePoint]] = []
    last = -math.inf
    for point in points:
        if point[0] - last > GAP_S:
            runs.append([])
        runs[-1].append(point)
        last = point[0]
    return runs


def _x(picture: Picture, left: float, at: float) -> float:
    return left + (at - picture.since) / (picture.until - picture.since) * (WIDTH - RIGHT - left)


def time_span(times: Sequence[float]) -> tuple[float, float]:
    """Where a time axis begins and ends that shows all of these."""
    begin = min(times)
    end = max(times)
    missing = max(0.0, LEAST_SPAN_S - (end - begin))
    return begin - missing / 2, end + missing / 2


def _ticks(panel: Panel, most: float = 5.0) -> list[tuple[float, str]]:
    """Values and texts of a vertical axis, at most so many."""
    if panel.bottom > 0:
        low = math.ceil(math.log10(panel.bottom))
        high = math.floor(math.log10(panel.top))
        step = max(1, math.ceil((high - low + 1) / max(2.0, most)))
        return [(10.0**power, f"10{str(power).translate(SUPERSCRIPT)}") for power in range(low, high + 1, step)]
    return axis_ticks(panel.top, panel.unit, most)


def axis_ticks(top: float, unit: str, most: float = 5.0) -> list[tuple[float, str]]:
    """Values and texts of an axis from 0, at most so many."""
    # 0.999 and 1.001: binary fractions miss a round number by a hair.
    rough = top / max(2.0, min(5.0, most))
    size = 10.0 ** math.floor(math.log10(rough))
    distance = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough * 0.999)
    values = [index * distance for index in range(int(top / distance * 1.001) + 1)]
    return [(value, f"{_short(value)}{unit}") for value in values]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            divided = value / (1e3 if letter == "k" else size)
            return f"{divided:.4g}{letter}"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _draw_times(scene: Scene, picture: Picture, left: float, y: float, *, local: str) -> None:
    """UTC under each tick, and local time in a second line where it differs."""
    scene.shapes.append(Text("UTC", 8, y + LINE + 3))
    if local:
        scene.shapes.append(Text(shorten_to(local, 40), 8, y + 2 * LINE + 3))
    ticks = _time_ticks(picture.since, picture.until, (WIDTH - RIGHT - left) / (picture.until - picture.since))
    lines = [[(_x(picture, left, at), y), (_x(picture, left, at), y + 4)] for at, _ in ticks]
    scene.shapes.append(Stroke(lines, Ink.MARK))
    for at, label in ticks:
        x = _x(picture, left, at)
        # It would run into the word UTC.
        if x - text_width(label, 12) / 2 < 8 + 44:
            continue
        scene.shapes.append(Text(label, x, y + LINE + 3, anchor="middle"))
        if local:
            # Each with its own offset: summer time may begin or end in between.
            scene.shapes.append(
                Text(f"{datetime.fromtimestamp(at).astimezone():%H:%M}", x, y + 2 * LINE + 3, anchor="middle")
            )


def _time_ticks(since: float, until: float, pixels_a_second: float) -> list[tuple[float, str]]:
    """Times and texts of the time axis."""
    # The widest label that there is.
    needed = text_width("00 Nov", 12) + 18
    steps = [*MINUTES, *(days * DAY_S for days in (1, 2, 7, 14))]
    step = next((step for step in steps if step * pixels_a_second >= needed), steps[-1])
    # Beyond a day, midnight has the day's name in place of 00:00.
    label = _label_day if until - since > DAY_S else _label_minute
    first = math.ceil(since / step)
    return [(index * step, label(index * step)) for index in range(first, int(until // step) + 1)]


def _label_minute(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M}"


def _label_day(at: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    if at % DAY_S == 0:
        return f"{moment:%d %b}"
    return f"{moment:%H:%M}"


def _local_name(at: float) -> str:
    """The name of the local time; empty where it is UTC."""
    local = datetime.fromtimestamp(at).astimezone()
    if not local.utcoffset():
        return ""
    return local.tzname() or "local"


def _rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _circle(x: float, y: float) -> list[Point]:
    return [(x + 2.7 * math.cos(turn * math.pi / 4), y + 2.7 * math.sin(turn * math.pi / 4)) for turn in range(8)]


def _square(x: float, y: float) -> list[Point]:
    return _rectangle(x - 2.4, y - 2.4, x + 2.4, y + 2.4)


def _triangle(x: float, y: float) -> list[Point]:
    return [(x, y - 3.2), (x + 3.0, y + 2.4), (x - 3.0, y + 2.4)]


def _diamond(x: float, y: float) -> list[Point]:
    return [(x, y - 3.4), (x + 3.4, y), (x, y + 3.4), (x - 3.4, y)]


MARKS: dict[str, Callable[[float, float], list[Point]]] = {
    "o": _circle,
    "s": _square,
    "^": _triangle,
    "d": _diamond,
}


def _mark(kind: str, x: float, y: float) -> list[Point]:
    return MARKS[kind](x, y)
