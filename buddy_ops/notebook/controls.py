"""The buttons beside a live chart: what an operator can do to a rollout, and a line about its progress.

The environment's rules decide which buttons there are. The rollout acts on a click, not this module.
"""

import asyncio
from datetime import datetime
from typing import Protocol

from buddy_ops.aws.session import Target
from buddy_ops.core.text import escape_html, exact_percent
from buddy_ops.deployment.observation import Observation, Order
from buddy_ops.health._wording import describe_bake
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, WidgetPanel
from buddy_ops.notebook.charts import stage_name

DONE: dict[Order, str] = {
    "abort": "aborted",
    "hold": "paused",
    "go on": "resumed",
    "promote": "promoted",
    "stop": "ended",
}
"""How each operator action reads afterwards. The keys are data of the journal."""


class RolloutControls(Protocol):
    """How the driver of a rollout waits between two polls."""

    async def until(self, observation: Observation) -> Order | None:
        """Wait for the next poll; an operator action ends the wait at once."""

    def close(self) -> None:
        """Remove the buttons."""


def attach_controls(target: Target) -> RolloutControls:
    """Buttons where a person can press them, else only the wait."""
    controls: RolloutControls = NoControls(target)
    if _widgets.is_attended() and _widgets.load_ipywidgets():
        with target.side.contained("the buttons"):
            controls = ButtonControls(target)
    return controls


class NoControls:
    """No buttons: only the wait for the next poll."""

    def __init__(self, target: Target) -> None:
        self._clock = target.clock

    async def until(self, observation: Observation) -> Order | None:
        await self._clock.wait(observation.wake_at)
        return None

    def close(self) -> None:
        """Nothing was shown."""


class ButtonControls:
    """Abort, pause and promote, active while two versions share the traffic; above them a line about the progress."""

    def __init__(self, target: Target) -> None:
        widgets = _widgets.load_ipywidgets()
        wide_as_its_text = widgets.Layout(width="auto")
        self._target = target
        self._clicks = ClickQueue()
        self._given: list[str] = []
        self._paused = False
        # A promotion needs two clicks: the first one asks, the second one confirms.
        self._confirming = False
        self._promotion = ""
        self._stage = ("", 0.0)
        self._progress = widgets.HTML()
        self._abort = self._clicks.button("Abort and roll back", "abort", "danger", layout=wide_as_its_text)
        self._pause = self._clicks.button("Pause", "pause", layout=wide_as_its_text)
        self._promote = self._clicks.button("Next stage", "promote", layout=wide_as_its_text)
        buttons = [self._abort, self._pause]
        # Where only CI may deploy, an operator cannot skip a bake time.
        if target.settings.policy.by_hand:
            buttons.append(self._promote)
        self._panel = WidgetPanel(self._progress, widgets.HBox(buttons))

    async def until(self, observation: Observation) -> Order | None:
        shared = observation.evidence is not None and observation.weight > 0
        if (observation.stage, observation.weight) != self._stage:
            # What was clicked, or half confirmed, for the stage before must not skip this one.
            self._stage = (observation.stage, observation.weight)
            self._confirming = False
            self._clicks.drop("promote")
        self._promotion = promotion_label(observation)
        # A page that is gone, or a front end's error, must not end the rollout.
        with self._target.side.contained("the buttons"):
            for button in (self._abort, self._pause, self._promote):
                button.disabled = not shared
            self._label_buttons()
        waiting = asyncio.ensure_future(self._target.clock.wait(observation.wake_at))
        try:
            while not waiting.done():
                # The sandbox's clock answers over HTTP, so the time is read in a worker thread.
                now = await asyncio.to_thread(self._target.clock.now)
                with self._target.side.contained("the buttons"):
                    self._progress.value = escape_html(progress(observation, now))
                click = await self._clicks.take(waiting)
                order = self._order(click) if click and shared else None
                if order:
                    self._given.append(f"{DONE[order]} {now:%H:%M}")
                    self._target.journal.append("ordered", order=order)
                    return order
            waiting.result()
            return None
        finally:
            waiting.cancel()

    def close(self) -> None:
        actions = f"{', '.join(self._given)} UTC" if self._given else "none"
        with self._target.side.contained("the buttons"):
            self._panel.replace(f"Operator actions: {actions}.")

    def _order(self, click: str) -> Order | None:
        """What a click means for the rollout; a promotion needs a second click."""
        confirmed = self._confirming
        self._confirming = click == "promote" and not confirmed
        order: Order | None = None
        if click == "abort":
            order = "abort"
        elif click == "pause":
            order = "go on" if self._paused else "hold"
        elif confirmed:
            order = "promote"
        if order:
            self._paused = order == "hold"
        with self._target.side.contained("the buttons"):
            self._label_buttons()
        return order

    def _label_buttons(self) -> None:
        self._pause.description = "Resume" if self._paused else "Pause"
        self._promote.button_style = "warning" if self._confirming else ""
        self._promote.description = self._promotion
        if self._confirming:
            self._promote.description = f"Confirm: {self._promotion[:1].lower()}{self._promotion[1:]}"


def promotion_label(observation: Observation) -> str:
    """What a promotion does now, as a button says it."""
    if observation.stage == "watch":
        return "End monitoring"
    if observation.next_weight is None:
        return "Next stage"
    verb = "Promote" if observation.next_weight > observation.weight else "Reduce"
    return f"{verb} to {exact_percent(observation.next_weight)}"


def progress(observation: Observation, now: datetime) -> str:
    """Stage, traffic weight, what the poll found to be left of the bake time, and the wait, as one line."""
    next_check = f"next check in {_minutes((observation.wake_at - now).total_seconds())}"
    if observation.verdict is None:
        return f"{observation.says} {next_check.capitalize()}."
    parts = [f"{stage_name(observation.stage)}, {exact_percent(observation.weight)} of traffic"]
    left_s = observation.bake_left_s
    # At 100 % the time for which the version is monitored goes on after its bake.
    if left_s is not None and (left_s > 0 or observation.stage.isdecimal()):
        # The verdict's own words: a countdown would contradict them, since a minute counts once it is judged.
        parts.append(describe_bake(left_s))
    return " · ".join((*parts, next_check))


def _minutes(seconds: float) -> str:
    """A countdown: '0:14'."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02}"
