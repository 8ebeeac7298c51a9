"""The buttons beside a live chart: what they say, what a click orders, and the line about the progress."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.deployment import rollout
from buddy_ops.deployment.observation import Observation
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.verdict import Verdict
from buddy_ops.notebook import controls
from buddy_ops.notebook.charts import RolloutChart
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]
NOW = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
LIMIT_S = 60
"""More than any of these tests takes: each ends what it waits for."""

TWO = cast(RolloutEvidence, SimpleNamespace(stable="1", new="2"))
SEEN = Observation(
    NOW, "1", 0.1, wake_at=NOW + timedelta(seconds=44), says="Inconclusive.", next_weight=0.5, evidence=TWO
)


@pytest.mark.parametrize(
    ("stage", "weight", "next_weight", "label"),
    [
        ("1", 0.1, 0.5, "Promote v2 to 50 %"),
        ("2", 0.5, 1.0, "Promote v2 to 100 %"),
        ("watch", 1.0, None, "End the monitoring of v2"),
        ("rolled-back", 0.5, 0.1, "Reduce v2 to 10 %"),
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

    def __init__(self, *rows: Any, works_reloaded: str = "") -> None:
        self.left = ""
        self.rows = rows

    def replace(self, line: str) -> None:
        self.left = line


class Pressing:
    """The buttons, and a person who presses them by the words on them, also those that are not shown any more."""

    def __init__(self, target: Target) -> None:
        self.buttons = controls.ButtonControls(target)
        self.seen: dict[str, Any] = {}

    @property
    def labels(self) -> list[str]:
        shown = [*self.buttons._buttons.children, *self.buttons._confirmation.children]
        self.seen |= {button.description: button for button in shown}
        return [button.description for button in shown]

    async def press(self, observation: Observation, *labels: str) -> object:
        """What the clicks order, the stage being this one; None if nothing."""
        waiting = asyncio.create_task(self.buttons.until(observation))
        await self.settle()
        for label in labels:
            assert label in self.labels or label in self.seen
            self.seen[label].click()
            await self.settle()
        if not waiting.done():
            waiting.cancel()
            return None
        return waiting.result()

    async def settle(self) -> None:
        """Until the clicks have been taken."""
        await asyncio.sleep(0.01)
        while not self.buttons._clicks._queue.empty():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)

    @property
    def said(self) -> str:
        return str(self.buttons._message.value)


@pytest.fixture
def target(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setattr(controls, "WidgetPanel", Panel)
    found: Target = situation("good", history_minutes=0, requests_per_minute=0).connect()

    async def wait(until: datetime) -> None:
        await asyncio.sleep(LIMIT_S)

    monkeypatch.setattr(found, "clock", SimpleNamespace(now=lambda: NOW, wait=wait))
    return found


SECOND = replace(SEEN, stage="2", weight=0.5, next_weight=1.0)


def test_each_button_names_its_effect_and_its_target(target: Target) -> None:
    """Pause becomes Resume, a promotion is confirmed on a button of its own, and another click withdraws the question."""

    async def click() -> None:
        person = Pressing(target)
        assert await person.press(SEEN) is None
        first = ["Abort: all traffic back to v1", "Pause at 10 %", "Promote v2 to 50 %"]
        assert person.labels == first
        assert await person.press(SEEN, first[2], first[2]) is None  # a double click confirms nothing
        assert person.labels == [*first, "Confirm: promote v2 to 50 %", "Cancel"]
        assert await person.press(SEEN, "Cancel") is None and person.labels == first
        assert await person.press(SEEN, first[2], "Pause at 10 %") == "hold"
        assert person.labels == [first[0], "Resume at 10 %", first[2]]
        assert await person.press(SEEN, "Pause at 10 %") is None  # the second click of two
        assert await person.press(SEEN, "Resume at 10 %") == "go on" and person.labels == first
        assert await person.press(SEEN, first[2], "Confirm: promote v2 to 50 %") == "promote"
        assert await person.press(SECOND, first[0]) == "abort"
        person.buttons.close()
        panel = cast(Any, person.buttons._panel)
        assert panel.left.startswith("Operator actions: paused ")
        assert ", aborted " in panel.left and panel.left.endswith(" UTC.")

    asyncio.run(click())


@pytest.mark.parametrize("label", ["Pause at 10 %", "Promote v2 to 50 %", "Confirm: promote v2 to 50 %"])
def test_a_button_of_an_earlier_stage_does_nothing_and_says_so(target: Target, label: str) -> None:
    """The stage changes under the finger: the next one is neither paused nor skipped by a click that meant another."""

    async def click() -> None:
        person = Pressing(target)
        assert await person.press(SEEN, "Promote v2 to 50 %") is None
        assert person.labels[-2] == "Confirm: promote v2 to 50 %"
        assert await person.press(SECOND, label) is None
        assert "Not done: that button was for an earlier state. v2 receives 50 % of traffic now." in person.said
        assert person.labels == ["Abort: all traffic back to v1", "Pause at 50 %", "Promote v2 to 100 %"]
        assert await person.press(SECOND, "Pause at 50 %") == "hold" and person.said == ""

    asyncio.run(click())


def test_without_shared_traffic_there_are_no_buttons(target: Target) -> None:
    """Nothing is disabled: what cannot be done has no button."""

    async def look() -> None:
        person = Pressing(target)
        assert await person.press(replace(SEEN, weight=0.0, evidence=None)) is None and person.labels == []
        assert await person.press(SEEN) is None and len(person.labels) == 3
        assert await person.press(replace(SEEN, weight=0.0)) is None and person.labels == []

    asyncio.run(look())


def test_a_stage_is_announced_once_and_not_each_second(target: Target) -> None:
    """Who listens to the page hears stage and verdict when they change, and no countdown."""

    async def listen() -> list[str]:
        person = Pressing(target)
        heard: list[str] = []
        person.buttons._announced.observe(lambda change: heard.append(change["new"]), "value")
        for seen in (SEEN, SEEN, SECOND):
            await person.press(seen)
        return heard

    first, second = asyncio.run(listen())
    assert ">stage 1, v2 at 10 %<" in first and ">stage 2, v2 at 50 %<" in second


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
