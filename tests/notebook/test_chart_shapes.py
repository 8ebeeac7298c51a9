"""Charts of many kinds of data: nothing overprints, no axis misleads, and the picture is said in words."""

import math
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import cast

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.health.counts import NOTHING_KNOWN, Counts, Minute
from buddy_ops.health.judge import Judge
from buddy_ops.health.log_feed import TICK, FeedTick
from buddy_ops.health.metrics import MINUTE, UNKNOWN_VERSION, MinuteRow
from buddy_ops.notebook import _chart_layout, _chart_output, _widgets
from buddy_ops.notebook._chart_model import build_picture, describe
from buddy_ops.notebook._chart_scene import Fill, Ink, Scene, Stroke, Text, text_width
from buddy_ops.notebook.charts import RolloutChart, ScorePoint
from tests.notebook.test_charts import Stand

START = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)

LEAST_TEXT = 11
"""Pixels, at the width at which a chart is shown."""

LIGHT, DARK = "#ffffff", "#111111"
"""The backgrounds of JupyterLab's two themes."""


def chart(rows: list[MinuteRow], caption: str = "30 min to 03:42 UTC.") -> RolloutChart:
    found = RolloutChart(cast(Target, Stand()))
    found.rows = rows
    found.caption = caption
    found.take_busiest_versions()
    return found


def minutes(number: int, **versions: Callable[[int], Counts]) -> list[MinuteRow]:
    """Minutes with what each version (v41=...) had in them, and a p99 where it had requests."""
    rows = []
    for index in range(number):
        counts = {name.removeprefix("v"): count(index) for name, count in versions.items()}
        p99 = {version: 400.0 + 10 * (index % 7) for version, own in counts.items() if own.requests}
        band = {version: (0.9 * value, 30 * value) for version, value in p99.items()}
        rows.append(MinuteRow(START + index * MINUTE, counts, p99, band))
    return rows


def rollout(judge: Judge, rows: list[MinuteRow]) -> RolloutChart:
    """A chart with stages and evidence."""
    found = chart(rows, "03:19 UTC · stage 2, 50 % of traffic\nBaking: 4 min left. No regression so far.")
    found.thresholds = judge.scores()
    found.stages = [(START, 0.1, "1"), (START + 6 * MINUTE, 0.5, "2"), (START + 6.2 * MINUTE, 1.0, "watch")]
    found.scores = [ScorePoint(row.at, 0.4, 0.9) for row in rows]
    return found


def healthy_canary() -> RolloutChart:
    judge = Judge()
    for _ in range(8):
        judge.observe(Minute(0.1, Counts(540, 1), Counts(60)))
    return rollout(judge, minutes(8, v41=lambda n: Counts(540, n % 3), v42=lambda n: Counts(60, int(n == 3))))


def many_marks() -> RolloutChart:
    found = chart(minutes(60, v41=lambda n: Counts(600, 300 * (20 < n < 40))))
    found.marks = [(START + n * MINUTE / 2, f"{'rolled back' if n % 3 else 'alarm'}") for n in range(30, 90)]
    return found


def long_names() -> RolloutChart:
    found = chart(
        minutes(9, v123456789012345678901234567890=lambda n: Counts(60, 1), v7=lambda n: Counts(9)),
        caption="word " * 300,
    )
    found.rows[3].counts[UNKNOWN_VERSION] = Counts(44, 40)
    found.title = (
        "a-function-with-a-very-long-name-of-sixty-four-characters-as-allowed:an-alias-with-a-long-name · prod"
    )
    found.marks = [(START + n * MINUTE, f"ALARM {'a-function-with-a-long-name-' * 4}{n}") for n in range(9)]
    return found


def close_limits() -> RolloutChart:
    found = healthy_canary()
    scores = Judge().scores()
    found.thresholds = type(scores)(scores.errors, scores.slow, 20.5, 20.0, scores.doubt_at, scores.proved_at)
    return found


def a_gap() -> list[MinuteRow]:
    known = minutes(30, v41=lambda n: Counts(600, 1))
    return [row for n, row in enumerate(known) if not 8 < n < 19 or n == 12]


def no_latency() -> list[MinuteRow]:
    return [MinuteRow(START + n * MINUTE, {"41": Counts(60, 1, unknown=frozenset({"slow"}))}) for n in range(9)]


def throttled_only() -> list[MinuteRow]:
    return [MinuteRow(START + n * MINUTE, {"41": Counts(throttles=900 * (n > 4))}) for n in range(9)]


def many_versions() -> list[MinuteRow]:
    served = {str(40 + n): Counts(100 + n, n) for n in range(7)}
    return [MinuteRow(START + n * MINUTE, dict(served), dict.fromkeys(served, 400.0)) for n in range(30)]


def four_series() -> RolloutChart:
    """The benchmark's day: four lines of rates and latency, two of evidence."""
    rows = minutes(1440, v41=lambda n: Counts(300, n % 3), v42=lambda n: Counts(300, n % 5))
    found = rollout(Judge(), rows)
    found.stages = found.stages[:1]
    return found


def by_the_log() -> RolloutChart:
    """An hour that is polled every 10 s; CloudWatch has all minutes but the last three."""
    judge = Judge()
    found = rollout(judge, minutes(57, v41=lambda n: Counts(540, n % 3), v42=lambda n: Counts(60, int(n == 3))))
    found.ticks = [FeedTick(START + n * TICK, Counts(10, int(n == 350))) for n in range(358)]
    found.scores = [ScorePoint(START + n * TICK, 0.4, 0.9) for n in range(360)]
    return found


SHAPES: dict[str, Callable[[], RolloutChart]] = {
    "a healthy canary": healthy_canary,
    "total failure": lambda: chart(minutes(30, v41=lambda n: Counts(600, 600))),
    "one request a minute": lambda: chart(minutes(30, v41=lambda n: Counts(1, n == 4))),
    "a gap": lambda: chart(a_gap()),
    "one minute": lambda: chart(minutes(1, v41=lambda n: Counts(600, 1))),
    "a day of four series": four_series,
    "by the log": by_the_log,
    "many marks": many_marks,
    "long names": long_names,
    "close limits": close_limits,
    "no latency": lambda: chart(no_latency()),
    "very large values": lambda: chart(minutes(30, v41=lambda n: Counts(98_765_432 + n, 12_345_678, throttles=7))),
    "throttled only": lambda: chart(throttled_only()),
    "seven versions": lambda: chart(many_versions()),
    "a week": lambda: chart(minutes(10080, v41=lambda n: Counts(6, n % 50 == 0))[::7]),
}


def scene_of(name: str) -> Scene:
    found = SHAPES[name]().scene()
    assert found is not None
    return found


@pytest.mark.parametrize("zone", ["UTC", "IST-5:30"])
@pytest.mark.parametrize("name", SHAPES)
def test_no_text_overprints_another(name: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text's box is free of every other one and lies within the picture."""
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    scene = scene_of(name)
    monkeypatch.undo()
    time.tzset()
    require_free_texts(scene)


def require_free_texts(scene: Scene) -> None:
    for text in scene.texts:
        left, top, right, bottom = text.box
        assert left >= 0 and right <= scene.width and top >= 0 and bottom <= scene.height, text
        assert text.size >= LEAST_TEXT and text.text.strip()
    for one, other in combinations(scene.texts, 2):
        (left, top, right, bottom), (left2, top2, right2, bottom2) = one.box, other.box
        assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top, (one, other)


@pytest.mark.parametrize("name", SHAPES)
def test_no_panel_is_empty(name: str) -> None:
    """Each has a point or a bar, and is as high as a person can read."""
    picture = build_picture(SHAPES[name]())
    assert picture is not None
    for panel in picture.panels:
        assert any(series.points for series in panel.series) or panel.bars, panel.title
    scene = _chart_layout.lay_out(picture)
    assert scene.height <= 720 and scene.width == 900


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_is_drawn_outside(name: str) -> None:
    """Bands and lines are clipped to their panel, and every number is one."""
    scene = scene_of(name)
    for shape in scene.shapes:
        if isinstance(shape, Stroke | Fill):
            for x, y in (point for path in shape.paths for point in path):
                assert math.isfinite(x) and -0.1 <= x <= scene.width + 0.1
                assert math.isfinite(y) and -0.1 <= y <= scene.height + 0.1


def test_the_measured_width_is_the_drawn_one() -> None:
    """Boxes that were compared are those of the texts as matplotlib draws them."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer = RendererAgg(900, 100, 72)
    for bold in (False, True):
        font = FontProperties(family="DejaVu Sans", size=12, weight="bold" if bold else "normal")
        for text in ("Error rate", "v42 50 % monitoring", "10⁻²", "1,234,567 requests · 03:12 UTC"):
            drawn, _, _ = renderer.get_text_width_height_descent(text, font, False)
            assert text_width(text, 12, bold=bold) == pytest.approx(drawn, abs=0.06 * drawn + 1)


def test_a_healthy_canary_does_not_look_like_an_outage() -> None:
    """The error rate's axis comes from lines and limit: 1 failure of 60 has a band to 9 %, and a limit of 1 %."""
    picture = build_picture(healthy_canary())
    assert picture is not None
    rate, latency = picture.panels[:2]
    assert max(high for series in rate.series for _, _, high in series.bands) > 8
    assert rate.top == pytest.approx(2.0)
    # A p99's band of 12 s is above the limit of 6 s; the line is below half a second.
    assert latency.top == pytest.approx(7.2)


def test_no_spike_is_lost_in_a_day() -> None:
    """One bad minute of 1,440 reaches as high as it was."""
    rows = minutes(1440, v41=lambda n: Counts(300, 150 if n == 777 else 0))
    picture = build_picture(chart(rows))
    assert picture is not None and picture.panels[0].top == pytest.approx(55)
    scene = _chart_layout.lay_out(picture)
    areas = [shape for shape in scene.shapes if isinstance(shape, Stroke) and shape.ink == Ink.STABLE]
    top_of_panel = min(y for stroke in areas for path in stroke.paths for _, y in path)
    bottom = max(y for stroke in areas[:2] for path in stroke.paths for _, y in path)
    assert bottom - top_of_panel > 80, "the spike is a line of its own"


def test_throttles_and_requests_have_a_panel() -> None:
    """Requests by version and the calls that were turned away are drawn even where no request ran."""
    picture = build_picture(chart(throttled_only()))
    assert picture is not None
    assert [panel.title for panel in picture.panels] == ["Requests per minute"]
    assert len(picture.panels[0].bars) == 4 and "3,600" in picture.panels[0].bars_name
    unknown = [MinuteRow(START, {"41": Counts(60, unknown=NOTHING_KNOWN)})]
    assert build_picture(chart(unknown)) is None


def test_a_description_says_what_the_picture_says() -> None:
    """Versions, rates with their limits, requests, throttles, events and the verdict, figures first."""
    found = chart(
        minutes(30, v41=lambda n: Counts(5400, 5), v42=lambda n: Counts(600, 30, throttles=n // 29)),
        "ROLLED BACK: v41 receives 100 % (6 min).\nOver the 1 % limit.",
    )
    found.marks = [(START + 3 * MINUTE, "v42 10 %"), (START + 9 * MINUTE, "ALARM error-rate")]
    assert describe(found) == (
        "buddy:live · prod. 2026-11-22 03:12 UTC to 03:42 UTC. "
        "v41: 162,000 requests, error rate 0.093 % (limit 1 %), p99 latency 460 ms in the slowest minute (limit 6 s). "
        "v42: 18,000 requests, error rate 5 % (limit 1 %), p99 latency 460 ms in the slowest minute (limit 6 s). "
        "1 request throttled. Events: 03:15 UTC v42 10 %, 03:21 UTC ALARM error-rate. "
        "ROLLED BACK: v41 receives 100 % (6 min). Over the 1 % limit."
    )


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio, 1 to 21. Source: WCAG 2.2."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def darkened(colour: str) -> str:
    """A colour of the PNG under the filter of the dark theme. Source: W3C, Filter Effects, 'invert', 'hue-rotate'."""
    amount, turn = re.fullmatch(r"invert\((\S+)\) hue-rotate\((\d+)deg\)", _chart_output.DARK_FILTER).groups()  # type: ignore[union-attr]
    share = float(amount)
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    values = [value * (1 - 2 * share) + share for value in values]
    cosine, sine = math.cos(math.radians(int(turn))), math.sin(math.radians(int(turn)))
    matrix = (
        (0.213 + cosine * 0.787 - sine * 0.213, 0.715 - cosine * 0.715 - sine * 0.715, 0.072 - cosine * 0.072 + sine * 0.928),
        (0.213 - cosine * 0.213 + sine * 0.143, 0.715 + cosine * 0.285 + sine * 0.140, 0.072 - cosine * 0.072 - sine * 0.283),
        (0.213 - cosine * 0.213 - sine * 0.787, 0.715 - cosine * 0.715 + sine * 0.715, 0.072 + cosine * 0.928 + sine * 0.072),
    )  # fmt: skip
    turned = [sum(factor * value for factor, value in zip(row, values, strict=True)) for row in matrix]
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, value))):02x}" for value in turned)


GRAPHICS = [ink for ink in Ink if ink not in (Ink.TEXT, Ink.GRID, Ink.CARD)]


@pytest.mark.parametrize("ink", GRAPHICS)
def test_lines_have_contrast_in_both_themes(ink: Ink) -> None:
    """3:1 on the chart's own card, light and darkened."""
    assert contrast(ink.value, Ink.CARD.value) >= 3
    assert contrast(darkened(ink.value), darkened(Ink.CARD.value)) >= 3


def test_texts_have_contrast_in_both_themes() -> None:
    """4.5:1; and the card is next to invisible on a page of its theme."""
    assert contrast(Ink.TEXT.value, Ink.CARD.value) >= 4.5
    assert contrast(darkened(Ink.TEXT.value), darkened(Ink.CARD.value)) >= 4.5
    assert contrast(Ink.CARD.value, LIGHT) < 1.05 and contrast(darkened(Ink.CARD.value), DARK) < 1.05


def test_a_live_frame_is_svg_and_the_last_one_a_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's page gets the fast form; what is saved shows in every viewer. Both have a description."""
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    shown: list[dict[str, str]] = []
    found = healthy_canary()
    monkeypatch.setattr(found._output, "show", lambda bundle, **_: shown.append(bundle))
    found.show()
    found.show(final=True)
    live, last = shown
    assert set(live) == {"text/html", "text/plain"} and set(last) == {"text/html", "image/png", "text/plain"}
    assert all(page["text/html"].startswith(_chart_output.THEMES) for page in shown)
    assert (
        live["text/html"]
        .removeprefix(_chart_output.THEMES)
        .startswith('<svg class="buddy-ops-chart" role="img" aria-label="buddy:live · prod.')
    )
    assert 'alt="buddy:live · prod.' in last["text/html"] and f'{last["image/png"]}"' in last["text/html"]


@pytest.mark.parametrize("name", ["a day of four series", "by the log"])
def test_a_live_frame_is_small(name: str) -> None:
    """Four series of 1,440 points, their limits and the evidence: at most 60 kB."""
    assert len(_chart_output.svg(scene_of(name))) <= 60_000


def test_the_log_goes_on_where_cloudwatch_has_nothing_yet() -> None:
    """A point every 10 s, each of the minute before it, from the last minute of CloudWatch on; and the same in words."""
    found = by_the_log()
    points = found.latest_of_log
    assert [point.until for point in points] == [START + 57 * MINUTE + n * TICK for n in range(1, 17)]
    assert [point.counts.requests for point in points] == [60] * 16
    assert [point.error_percent for point in points if point.counts.errors] == [pytest.approx(100 / 60)] * 6
    assert "v42 by the log, in 1 min to 04:11:40 UTC: 0 of 60 requests failed." in describe(found)
    rate, _, volume, _ = (build_picture(found) or pytest.fail("no picture")).panels
    for panel in (rate, volume):
        (of_log,) = [series for series in panel.series if series.name]
        assert of_log.name == "v42 by the log, a minute every 10 s" and len(of_log.points) == 16
    found.ticks = found.ticks[:2]
    found.rows = found.rows[:0]
    assert [point.requests_per_minute for point in found.latest_of_log] == [60, 60]
    found.rows = by_the_log().rows
    assert not found.latest_of_log and "by the log" not in describe(found)


def test_the_svg_is_the_scene() -> None:
    """A path's steps add up to where the scene has its points, within a pixel."""
    scene = scene_of("a healthy canary")
    strokes = [shape for shape in scene.shapes if isinstance(shape, Stroke)]
    drawn = re.findall(r'<path d="([^"]*)" fill="none"', _chart_output.svg(scene))
    assert len(drawn) == len(strokes)
    for path, stroke in zip(drawn, strokes, strict=True):
        for part, points in zip(path.split("M")[1:], stroke.paths, strict=True):
            place = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", part)]
            xs, ys = place[0::2], place[1::2]
            assert len(xs) == len(ys) == len(points)
            assert sum(xs) == pytest.approx(points[-1][0], abs=0.11)
            assert sum(ys) == pytest.approx(points[-1][1], abs=0.11)


@pytest.mark.parametrize(("words", "cut"), [(60, False), (300, True)])
def test_a_caption_that_is_cut_says_so(words: int, cut: bool) -> None:
    """Its last line ends with an ellipsis; the whole text is beside the picture."""
    found = healthy_canary()
    found.caption = "word " * words
    scene = found.scene()
    assert scene is not None
    lines = [shape.text for shape in scene.shapes if isinstance(shape, Text) and shape.text.startswith("word")]
    assert lines[-1].endswith("…") is cut and not any(line.endswith("…") for line in lines[:-1])


def test_outside_text_is_no_markup() -> None:
    """Titles, captions and alarms come from outside."""
    found = healthy_canary()
    found.title = found.caption = '<script>alert("x")</script>'
    found.marks = [(START + timedelta(minutes=1), '"><img onerror=x>')]
    scene = found.scene()
    assert scene is not None
    for page in (_chart_output.svg(scene), _chart_output.kept_bundle(scene)["text/html"]):
        assert "<script" not in page and "<img onerror" not in page


def test_ticks_rise() -> None:
    """Every axis has at least two ticks, evenly set."""
    for top in (0.003, 0.02, 1.7, 7.2, 55.0, 110.0, 1.2e3, 9.9e8):
        ticks = _chart_layout._ticks(_chart_layout.Panel("", "", top, ()))
        steps = {round((high - low) / top, 6) for (low, _), (high, _) in pairwise(ticks)}
        assert len(ticks) >= 3 and len(steps) == 1 and ticks[-1][0] <= top


OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="open files are not listed here")
def test_texts_are_measured_in_a_forked_process_and_in_threads() -> None:
    """A kernel is forked from a warm process, whose open files it does not have; frames are drawn in worker threads."""
    text_width("a")
    child = os.fork()
    if child == 0:
        try:
            for file in list(OPEN_FILES.iterdir()):
                with suppress(OSError):
                    if file.readlink().suffix == ".ttf":
                        os.close(int(file.name))
            os._exit(0 if text_width("Ж") > 0 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    letters = [chr(number) for number in range(0x410, 0x450)]
    with ThreadPoolExecutor(4) as pool:
        assert all(width > 0 for width in pool.map(text_width, letters))
