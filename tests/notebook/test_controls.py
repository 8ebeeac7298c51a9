"""The buttons beside a live chart: what they say, what a click orders, and the line about the progress."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.deployment import rollout
from buddy_ops.deployment.observation import Observation
from buddy_ops.health.judge import Verdict
from buddy_ops.notebook import controls
from buddy_ops.notebook.charts import RolloutChart
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]
NOW = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
SEEN = Observation(NOW, "1", 0.1, wake_at=NOW + timedelta(seconds=44), says="Inconclusive.", next_weight=0.5)


@pytest.mark.parametrize(
    ("stage", "weight", "next_weight", "label"),
    [
        ("1", 0.1, 0.5, "Promote to 50 %"),
        ("2", 0.5, 1.0, "Promote to 100 %"),
        ("watch", 1.0, None, "End monitoring"),
        ("rolled-back", 0.5, 0.1, "Reduce to 10 %"),
    ],
)
def test_a_promotion_names_its_target(stage: str, weight: float, next_weight: float | None, label: str) -> None:
    """The button says where the traffic goes."""
    seen = replace(SEEN, stage=stage, weight=weight, next_weight=next_weight)
    assert controls.promotion_label(seen) == label


@pytest.mark.parametrize(
    ("left_s", "line"),
    [
        (134.0, "stage 1, 10 % of traffic · Baking: 3 min left · next check in 0:30"),
        (10.0, "stage 1, 10 % of traffic · Baking: 1 min left · next check in 0:30"),
        (0.0, "stage 1, 10 % of traffic · Bake complete · next check in 0:30"),
        (None, "stage 1, 10 % of traffic · next check in 0:30"),
    ],
)
def test_the_progress_counts_down(left_s: float | None, line: str) -> None:
    """Stage, weight, and what is left of the bake and of the wait."""
    seen = replace(SEEN, verdict=cast(Verdict, object()), bake_left_s=left_s)
    assert controls.progress(seen, NOW + timedelta(seconds=14)) == line


class Panel:
    """What is left of the buttons."""

    def __init__(self, *rows: Any) -> None:
        self.left = ""

    def replace(self, line: str) -> None:
        self.left = line


def test_clicks_give_orders_and_a_promotion_needs_two(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause becomes Resume, a promotion is confirmed by its target, and another click withdraws the question."""
    monkeypatch.setattr(controls, "WidgetPanel", Panel)
    target: Target = situation("good", history_minutes=0, requests_per_minute=0).connect()

    async def click() -> controls.ButtonControls:
        buttons = controls.ButtonControls(target)
        buttons._promotion = "Promote to 50 %"
        assert buttons._order("promote") is None
        assert buttons._promote.description == "Confirm: promote to 50 %"
        assert buttons._order("pause") == "hold"
        assert (buttons._promote.description, buttons._pause.description) == ("Promote to 50 %", "Resume")
        assert buttons._order("pause") == "go on" and buttons._pause.description == "Pause"
        assert buttons._order("promote") is None and buttons._order("promote") == "promote"
        assert buttons._order("abort") == "abort"
        return buttons

    buttons = asyncio.run(click())
    buttons.close()
    assert buttons._panel.left == "Operator actions: none."  # type: ignore[attr-defined]


def test_a_promotion_that_the_next_stage_overtakes_is_dropped(
    situation: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was clicked, or half confirmed, for a stage does not promote the next one; an abort is kept."""
    monkeypatch.setattr(controls, "WidgetPanel", Panel)
    target: Target = situation("good", history_minutes=0, requests_per_minute=0).connect()
    seen = replace(SEEN, evidence=cast(Any, object()), wake_at=target.clock.now())
    later = replace(seen, stage="2", weight=0.5, next_weight=1.0)

    async def click(observation: Observation, *clicks: str) -> object:
        buttons = controls.ButtonControls(target)
        await buttons.until(seen)
        buttons._confirming = True
        for name in clicks:
            buttons._clicks._queue.put_nowait(name)
        late = replace(observation, wake_at=target.clock.now() + timedelta(seconds=1))
        return await buttons.until(late)

    assert asyncio.run(click(seen, "promote")) == "promote"
    assert asyncio.run(click(later, "promote")) is None
    assert asyncio.run(click(later, "promote", "promote", "abort")) == "abort"


@pytest.mark.parametrize("scenario", ["good", "errors_5_percent"])
def test_one_bake_statement_in_caption_and_progress(situation: Bring, scenario: str) -> None:
    """Chart and controls never differ on what is left of the bake time, at no poll and at no moment between two."""
    here = situation(scenario)
    target = here.connect()
    plan = rollout.plan_rollout(target, here.build(scenario))
    steps = rollout.run_rollout(target, plan, approve(target, plan))
    chart = RolloutChart(target)
    said: set[str] = set()
    try:
        while True:
            seen = next(steps)
            chart.add(seen)
            for moment in (seen.at, seen.at + timedelta(seconds=40)):
                found = {
                    statement.lower()
                    for text in (chart.caption, controls.progress(seen, moment))
                    for statement in re.findall(r"(?i)baking: \d+ min left|bake complete|bake time[^·]*", text)
                }
                assert len(found) <= 1, (seen.says, controls.progress(seen, moment))
                said |= found
            target.clock.sleep_until(seen.wake_at)
    except StopIteration:
        assert "bake complete" in said or any(statement.startswith("baking") for statement in said)
