"""Pictures of a rollout: the interval they draw, the size they keep, and the words under them."""

import asyncio
import gc
import html
import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import IPython.display
import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core import settings as settings_
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.journal import Journal
from buddy_ops.core.side_channels import SideChannels
from buddy_ops.deployment.rollout import Observation, Outcome, Rollout
from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.judge import Judge
from buddy_ops.health.log_feed import FeedTick
from buddy_ops.health.metrics import UNKNOWN_VERSION, MinuteRow
from buddy_ops.notebook import _chart_layout, charts, live
from buddy_ops.notebook._chart_model import build_picture, wilson_interval
from buddy_ops.notebook._chart_scene import Ink
from buddy_ops.notebook.charts import RolloutChart
from tests.conftest import Situation

START = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
Bring = Callable[..., Situation]
MINUTE = timedelta(minutes=1)
SETTINGS = settings_.validate_settings({"function": "buddy"}, "test")


class Now:
    """A clock on which nothing is ever waited for."""

    def now(self) -> datetime:
        return START

    async def wait(self, moment: datetime) -> None:
        """Come back at once."""


@dataclass
class Stand:
    """What a picture looks at of a target."""

    settings: settings_.Settings = SETTINGS
    resource: str = "buddy:live"
    environment: str = "prod"
    clock: Now = field(default_factory=Now)
    side: SideChannels = field(default_factory=SideChannels)
    journal: Journal = field(default_factory=lambda: Journal(lambda line: None, lambda: START))


@dataclass
class Seen:
    """What a picture looks at of the evidence."""

    stable: str
    new: str
    judge: Judge
    source: str = ""
    changes: list[tuple[datetime, bool]] = field(default_factory=list)

    def source_changes(self) -> list[tuple[datetime, bool]]:
        return self.changes


def target() -> Target:
    return cast(Target, Stand())


def row(at: datetime, stable: Counts, new: Counts | None = None) -> MinuteRow:
    """One minute of v41, and of v42 if it is there."""
    counts = {"41": stable} if new is None else {"41": stable, "42": new}
    return MinuteRow(at, counts, {version: 400.0 for version, each in counts.items() if each.requests})


def observation(
    at: datetime,
    weight: float,
    rows: Sequence[MinuteRow],
    judge: Judge | None,
    stage: str = "1",
    left_s: float | None = 180.0,
) -> Observation:
    verdict = judge.verdict(60.0, 300.0) if judge else None
    evidence = cast(RolloutEvidence, Seen("41", "42", judge)) if judge else None
    says = " ".join(verdict.reasons) if verdict else "Waiting until AWS has taken in the upload."
    return Observation(
        at,
        stage,
        weight,
        wake_at=at + MINUTE,
        says=says,
        rows=tuple(rows),
        verdict=verdict,
        evidence=evidence,
        bake_left_s=left_s,
    )


def size(png: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize(
    ("events", "requests", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (10, 1000, 0.00544, 0.01830),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_the_band_is_wilsons_interval(events: int, requests: int, low: float, high: float) -> None:
    """The 95 % interval has the published values (the last: Newcombe 1998, table I, without continuity correction)."""
    assert wilson_interval(events, requests) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_band_holds_the_share_it_stands_for(requests: int, share: float) -> None:
    """0 <= low <= observed share <= high <= 1, for any counts."""
    events = round(share * requests)
    low, high = wilson_interval(events, requests)
    assert 0.0 <= low <= events / requests + 1e-12 and events / requests - 1e-12 <= high <= 1.0


def test_a_picture_keeps_its_size() -> None:
    """With history only, in a stage, with total failure, in the watch and after: one size, so that nothing jumps."""
    picture, judge = RolloutChart(target()), Judge()
    sizes = set()
    picture.add(observation(START, 0.0, [row(START - n * MINUTE, Counts(600, 1)) for n in (3, 2, 1)], judge))
    sizes.add(size(picture.png()))
    judge.observe(Minute(0.1, Counts(540), Counts(60, 60, 60)))
    rows = [row(START, Counts(540), Counts(60, 60, 60)), row(START + MINUTE, Counts(0), Counts(0))]
    picture.add(observation(START + 2 * MINUTE, 0.1, rows, judge))
    sizes.add(size(picture.png()))
    picture.add(
        observation(START + 3 * MINUTE, 1.0, [row(START + 2 * MINUTE, Counts(0), Counts(600, 6))], judge, "watch")
    )
    sizes.add(size(picture.png()))
    picture.end(Outcome("rolled-back", "41", "42", "1", START, START + 9 * MINUTE, ("reason " * 90,)))
    sizes.add(size(picture.png()))
    assert len(sizes) == 1
    width, height = sizes.pop()
    assert 600 <= width <= 1600 and 400 <= height <= 1200


def test_a_picture_is_a_small_file() -> None:
    """A day of minutes still gives a PNG that an archive of a thousand runs can keep."""
    picture, judge = RolloutChart(target()), Judge()
    judge.observe(Minute(0.5, Counts(300, 1), Counts(300, 2)))
    rows = [row(START + n * MINUTE, Counts(300, n % 3), Counts(300, n % 5)) for n in range(1440)]
    picture.add(observation(START, 0.5, rows, judge))
    assert len(picture.png()) < 300_000


def test_a_minute_without_data_is_a_gap() -> None:
    """Neither silence nor a minute whose failures are unpublished is joined by a line, or drawn as 0."""
    late = Counts(300, 0, unknown=frozenset({"errors"}))
    own = [Counts(300, 3), Counts(300, 3), Counts(), late, Counts(300, 3)]
    picture = RolloutChart(target())
    picture.rows = [MinuteRow(START + n * MINUTE, {"41": counts}) for n, counts in enumerate(own)]
    picture.take_busiest_versions()
    built = build_picture(picture)
    assert built is not None
    rates = built.panels[0].series[0].points
    assert [round((at - START.timestamp()) / 60, 1) for at, _ in rates] == [0.5, 1.5, 4.5]
    assert [len(run) for run in _chart_layout._runs(rates)] == [2, 1]


def test_requests_of_an_unknown_version_have_a_line_of_their_own() -> None:
    """They are drawn in no version's colour, and empty axes are not drawn at all."""
    picture = RolloutChart(target())
    picture.rows = [MinuteRow(START, {"41": Counts(300, 1), UNKNOWN_VERSION: Counts(40, 4)})]
    picture.take_busiest_versions()
    assert picture.versions == ("41",)
    built = build_picture(picture)
    assert built is not None
    assert [(name, style.ink) for name, style in built.legend] == [
        ("v41", Ink.STABLE),
        ("unknown version", Ink.UNKNOWN),
    ]
    picture.rows = [MinuteRow(START, {"41": Counts()})]
    picture.take_busiest_versions()
    assert picture.scene() is None and set(picture._repr_mimebundle_()[0]) == {"text/plain"}


def test_stages_are_marked_once_each() -> None:
    """A mark stands where weight or stage changed, not at every poll."""
    picture, judge = RolloutChart(target()), Judge()
    for minute, (weight, stage) in enumerate([(0.1, "1"), (0.1, "1"), (0.5, "2"), (0.5, "2"), (0.0, "2")]):
        picture.add(observation(START + minute * MINUTE, weight, (), judge, stage))
    assert [(weight, stage) for _, weight, stage in picture.stages] == [(0.1, "1"), (0.5, "2"), (0.0, "2")]


def test_another_source_is_marked_where_it_begins_to_decide() -> None:
    """The log's 10-second ticks or CloudWatch's minutes; what is judged anew is marked anew."""
    picture, judge = RolloutChart(target()), Judge()
    seen = observation(START, 0.1, (), judge)
    assert seen.evidence is not None
    evidence = cast(Seen, seen.evidence)
    evidence.changes = [(START, False), (START + MINUTE, True)]
    picture.add(replace(seen, ticks=(FeedTick(START, Counts(9)),)))
    assert picture.marks == [(START, "CloudWatch decides"), (START + MINUTE, "the log decides")]
    assert [tick.canary.requests for tick in picture.ticks] == [9]
    evidence.changes = []
    picture.add(seen)
    assert picture.marks == []


def test_the_caption_says_when_where_and_what() -> None:
    """Time, stage, share, what is left of the bake, and the judge's own sentences."""
    picture, judge = RolloutChart(target()), Judge()
    judge.observe(Minute(0.1, Counts(540, 1), Counts(60)))
    seen = observation(START, 0.1, (), judge)
    picture.add(seen)
    assert seen.verdict is not None
    assert picture.caption == f"03:12 UTC · stage 1, 10 % of traffic\n{' '.join(seen.verdict.reasons)}"
    picture.add(observation(START, 1.0, (), judge, "watch", None))
    assert picture.caption.startswith("03:12 UTC · monitoring, 100 % of traffic\n")
    picture.add(observation(START, 0.0, (), None, "publish", None))
    assert picture.caption == "03:12 UTC · Waiting until AWS has taken in the upload."


def test_the_last_caption_is_the_outcome() -> None:
    """What stays in the notebook says how it ended and why."""
    picture = RolloutChart(target())
    picture.end(Outcome("proved", "41", "42", "watch", START, START + 17 * MINUTE, ("Proved.",)))
    assert picture.caption == "SUCCEEDED: v42 receives 100 %; healthy (17 min).\nProved."


@dataclass
class Page:
    """A notebook's output area: what was displayed, and each update of it."""

    shown: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)

    def display(self, bundle: dict[str, Any], **options: Any) -> "Page":
        assert options.pop("display_id") is True
        self.shown.append(bundle)
        self.check(bundle, options)
        return self

    def update(self, bundle: dict[str, Any], **options: Any) -> None:
        self.updates.append(bundle)
        self.check(bundle, options)

    def check(self, bundle: dict[str, Any], options: dict[str, Any]) -> None:
        """Pictures can be heard too: each says in words what it shows."""
        assert set(options) == {"metadata", "raw"}
        assert html.escape(options["metadata"]["image/png"]["alt"]) in bundle.get("text/html", "") or len(bundle) == 1


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    found = Page()
    monkeypatch.setattr(IPython.display, "display", found.display)
    return found


def script(interrupt: bool) -> Rollout:
    """A rollout of two polls."""
    judge = Judge()
    judge.observe(Minute(0.1, Counts(540, 1), Counts(60)))
    yield observation(START, 0.1, [row(START, Counts(540, 1), Counts(60))], judge)
    if interrupt:
        raise KeyboardInterrupt
    yield observation(START + MINUTE, 0.1, (), judge)
    return Outcome("proved", "41", "42", "watch", START, START + MINUTE, ("Proved.",))


def test_a_live_picture_leaves_one_picture(page: Page) -> None:
    """One display, then updates of it only; the last one is a PNG with the outcome as its text."""
    outcome = asyncio.run(live.watch_rollout(target(), script(interrupt=False)))
    assert outcome.ending == "proved"
    assert len(page.shown) == 1
    last = page.updates[-1]
    assert set(last) == {"image/png", "text/html", "text/plain"} and last["text/plain"] == str(outcome)


def test_an_interrupted_picture_says_how_to_go_on(page: Page) -> None:
    """Stopping the cell leaves a picture whose words say that traffic stays, and that running again resumes."""
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(live.watch_rollout(target(), script(interrupt=True)))
    # What nobody asked of the loop is logged once it is collected: here, and not within another test's ast.parse, which
    # CPython 3.11 ends with a SystemError then.
    gc.collect()
    last = [*page.shown, *page.updates][-1]
    assert last["text/plain"].startswith(
        "Stopped. Traffic stays at 10 % on v42. The failsafe routes all of it to v41 within "
    )
    assert "unless you run this cell again" in last["text/plain"]


def test_a_rollout_that_never_began_leaves_words_only(page: Page) -> None:
    """An error before the first poll shows no empty axes."""

    def refuse() -> Rollout:
        raise ValueError("refused")
        yield observation(START, 0.0, (), None)

    with pytest.raises(ValueError, match="refused"):
        asyncio.run(live.watch_rollout(target(), refuse()))
    assert [set(each) for each in page.shown] == [{"text/plain"}]


def test_frames_are_paced_for_human_eyes(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls of a sandbox come faster than anybody looks: between two frames lies ``FRAME_S``, but for the last."""
    monkeypatch.setattr(charts, "FRAME_S", math.inf)
    asyncio.run(live.watch_rollout(target(), script(interrupt=False)))
    assert len(page.shown) + len(page.updates) <= 2


@pytest.mark.parametrize(("zone", "said"), [("UTC", ["03:12", "UTC"]), ("CET-1", ["03:12", "04:12", "CET", "UTC"])])
def test_times_are_utc_with_local_time_in_the_margin(
    zone: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tick is UTC; where the clock on the wall says something else, that stands below it, and is named."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    scene = drawn().scene()
    monkeypatch.undo()
    time.tzset()
    assert scene is not None
    shown = {text.text for text in scene.texts}
    assert {text for text in shown if text in ("UTC", "CET") or text.endswith(":12")} == set(said)


def drawn() -> RolloutChart:
    """A chart with something to draw."""
    chart = RolloutChart(target())
    chart.add(observation(START, 0.1, [row(START, Counts(600, 1), Counts(60, 1))], Judge()))
    return chart


def test_a_persons_matplotlib_settings_are_not_used() -> None:
    """LaTeX is nowhere called for, and afterwards the person's settings are as they were."""
    plain = drawn().png()
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "font.size": 40}):
        assert drawn().png() == plain
        assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["font.size"] == 40


@pytest.mark.parametrize("text", ["$", "$$", "costs $5 or $6", r"$\frac{1}{", "50 %", "_a_^b^ {x}"])
def test_a_dollar_is_a_character(text: str) -> None:
    """Texts come from outside: function names, reasons, versions."""
    chart = drawn()
    chart.caption = text
    chart.marks = [(START, text)]
    chart.title = text
    assert chart.png().startswith(b"\x89PNG")


def test_a_chart_that_cannot_be_drawn_leaves_its_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll goes on, and what failed is said once."""
    shown: list[dict[str, object]] = []
    chart = drawn()
    monkeypatch.setattr(chart._output, "show", lambda bundle, **_: shown.append(bundle))
    monkeypatch.setattr(chart, "scene", lambda: 1 / 0)
    chart.show(final=True)
    assert shown == [{"text/plain": chart.caption}]
    assert set(chart._repr_mimebundle_()[0]) == {"text/plain"}
    assert chart._side.unsaid() == [
        "The chart failed (ZeroDivisionError: division by zero). The action was not affected."
    ]


def test_the_recent_chart_marks_moves_and_alarms(situation: Bring) -> None:
    """The last half hour: requests by version, the stages of the rollout by the alias's record, and alarms since when."""
    here = situation("errors_5_percent")
    assert here.ship(here.build("errors_5_percent")).ending == "rolled-back"
    mine = here.connect()
    alarm = mine.settings.function + "-error-rate"
    cloudwatch = mine.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName=alarm, Namespace="AWS/Lambda", MetricName="Errors", ComparisonOperator="GreaterThanThreshold",
        EvaluationPeriods=1, Threshold=1, Period=60, Statistic="Sum",
    )  # fmt: skip
    for state in ("ALARM", "OK", "ALARM"):
        cloudwatch.set_alarm_state(AlarmName=alarm, StateValue=state, StateReason="test")
    chart = charts.recent_chart(mine, aliases.read_alias(mine))
    assert chart is not None and chart.versions == ("1", "2")
    texts = [text for _, text in chart.marks]
    assert texts == ["v2 10 %", "rolled back to v1", "ALARM error-rate", "error-rate OK", "ALARM error-rate"]
    assert [at for at, _ in chart.marks] == sorted(at for at, _ in chart.marks)
    built = build_picture(chart)
    assert built is not None and [panel.title for panel in built.panels] == [
        "Error rate", "p99 latency", "Requests per minute",
    ]  # fmt: skip
    description = chart._repr_mimebundle_()[1]["image/png"]["alt"]
    assert "v2: " in description and "Events: " in description and "rolled back to v1" in description


def test_the_recent_chart_is_drawn_without_the_right_to_read_alarms(
    situation: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is not marked, and is said; the metrics are drawn."""
    mine = situation("good", history_minutes=20).connect()

    def refuse(*_: object) -> None:
        raise AwsFailed("aws-refused", "AWS refused cloudwatch:describe_alarms.", next="Ask.", code="AccessDenied")

    monkeypatch.setattr(charts.alarms, "read_recent_changes", refuse)
    chart = charts.recent_chart(mine, aliases.read_alias(mine))
    assert chart is not None and chart.marks == [] and chart.scene() is not None
    assert any("the alarms in the chart" in line.lower() for line in mine.side.unsaid())
