"""The four key metrics, read from the sandbox: each is told by version, and each goes over its threshold when it should."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.core.errors import InvalidInput
from buddy_ops.health import monitor
from buddy_ops.health.monitor import MetricsWindow
from buddy_ops.notebook import _widgets, charts, live
from tests.conftest import Situation, sampled

Bring = Callable[..., Situation]


def over(look: MetricsWindow) -> list[str]:
    """The metrics that some version has too much of."""
    return [metric.name for metric in look.metrics if any(bad for _, bad in metric.values)]


@pytest.mark.parametrize(
    ("scenario", "stable", "metric"),
    sampled(
        [
            ("good", "good", []),
            ("good", "errors_5_percent", ["error rate"]),
            ("good", "slow", ["latency p99"]),
            ("throttling", "good", ["throttles"]),
            ("good", "cold_starts", ["cold start"]),
        ],
        slice(None, None, 2),
    ),
)
def test_each_metric_is_told_when_it_is_over(
    situation: Bring, scenario: str, stable: str, metric: list[str]
) -> None:  # fmt: skip
    """A healthy version passes no threshold, and each fault passes exactly its own."""
    here = situation(scenario, stable=stable, history_minutes=20)
    here.ask("advance", seconds=600)
    look = monitor.read_window(here.connect("monitor"), 30)
    assert over(look) == metric and look.troubles == ()
    assert [each.version for each in look.seen] == ["1"] and look.seen[0].counts.requests > 5000


def test_versions_stand_side_by_side(situation: Bring) -> None:
    """During and after a rollout both versions are told, each with its own failures; the bad one alone is marked."""
    here = situation("errors_5_percent")
    here.ship(here.build("errors_5_percent"))
    look = monitor.read_window(here.connect("monitor"), 30)
    stable, new = look.seen
    assert (stable.version, new.version) == ("1", "2")
    assert new.counts.requests < stable.counts.requests and new.counts.errors > 0.02 * new.counts.requests
    (rates, *_) = look.metrics
    assert [bad for _, bad in rates.values] == [False, True] and "rollback/immediate" in look._repr_markdown_()
    assert new.cold is not None and new.cold.invocations > 0


def test_a_window_of_the_past_is_as_it_was(situation: Bring) -> None:
    """A window that ended an hour ago holds its own minutes, and nothing of what came after."""
    here = situation("good", history_minutes=30)
    target = here.connect("monitor")
    until = target.clock.now()
    here.ask("advance", seconds=3600)
    look = monitor.read_window(target, 20, until.isoformat())
    assert len(look.rows) == 20 and look.rows[-1].at < until and look.until <= until
    assert look.seen[0].counts.requests == pytest.approx(20 * 600, rel=0.1)


@pytest.mark.whole
def test_a_person_who_looks_on_sees_it_go_on(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attended, the window moves on minute by minute, and the log is asked every ten; headless it ends at once."""
    here = situation("good", history_minutes=30)
    target = here.connect("monitor")
    frames: list[str] = []
    monkeypatch.setattr(charts.RolloutChart, "show", lambda self, final=False: frames.append(self.caption))
    asyncio.run(live.watch_metrics(target, 15, "", 25))
    assert len(set(frames)) == 1 and len(here.calls("StartQuery")) == 1
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    began = target.clock.now()
    frames.clear()
    asyncio.run(live.watch_metrics(target, 15, "", 25))
    target.close()
    assert target.clock.now() - began >= timedelta(minutes=24)
    assert 24 <= len(set(frames)) <= 27 and len(here.calls("StartQuery")) - 1 == 3


@pytest.mark.parametrize(
    "given",
    [
        (0, ""),
        (60, "yesterday"),
        (60, "2020-01-01"),
        (1e300, ""),
        (60, "0001-01-01T00:30"),
        (60, "0001-01-01T00:00+14:00"),
    ],
)
def test_a_window_that_cannot_be_is_refused(situation: Bring, given: tuple[Any, ...]) -> None:
    """Too long, too old, or no time at all: refused before CloudWatch is asked."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        monitor.read_window(here.connect("monitor"), *given)
    assert here.calls("GetMetricData") == []


def test_what_cannot_be_read_is_told(situation: Bring) -> None:
    """Without metrics, list or log the picture says so, and calls nothing healthy."""
    here = situation("good", history_minutes=10)
    target = here.connect("monitor")
    for operation in ("GetMetricData", "ListMetrics", "StartQuery"):
        here.ask("chaos", kind="denied", operation=operation, times=1_000_000)
        look = monitor.read_window(target, 5)
        here.ask("chaos")
        assert len(look.troubles) == 1, operation


def test_nothing_deployed_is_refused(situation: Bring) -> None:
    """No alias: nobody is served, and there is nothing to watch."""
    with pytest.raises(InvalidInput, match="alias-missing"):
        monitor.read_window(situation("first_deployment").connect("monitor"), 5)
