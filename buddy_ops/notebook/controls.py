"""The buttons beside a live chart: what a person orders a rollout to do, and how far it is.

Knows which orders there are, and which the environment's policy allows. Never carries one out: the rollout does.
"""

import asyncio
import html
from datetime import datetime
from typing import Protocol, cast

from buddy_ops.aws.session import Target
from buddy_ops.deployment.observation import Observation, Order
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, WidgetPanel

PROMOTE, SURELY = "Promote now", "Promote: sure?"


class RolloutControls(Protocol):
    """How whoever drives a rollout waits between two polls."""

    async def until(self, observation: Observation) -> Order | None:
        """Wait for the next poll; an order ends the wait at once."""

    def close(self) -> None:
        """No more orders are taken."""


def attach_controls(target: Target) -> RolloutControls:
    """Buttons where a person is there to press them, else nothing but the wait."""
    return ButtonControls(target) if _widgets.is_attended() and _widgets.load_ipywidgets() else NoControls(target)


class NoControls:
    """Nobody orders anything: the clock is waited for."""

    def __init__(self, target: Target) -> None:
        self._clock = target.clock

    async def until(self, observation: Observation) -> Order | None:
        await self._clock.wait(observation.wake_at)
        return None

    def close(self) -> None:
        """Nothing was shown."""


class ButtonControls:
    """Abort, hold and promote, live while traffic is shared; above them the stage and what is left of its bake."""

    def __init__(self, target: Target) -> None:
        self._target, self._clicks = target, ClickQueue()
        self._given: list[str] = []
        shown = _widgets.load_ipywidgets()
        auto = shown.Layout(width="auto")
        self._progress = shown.HTML()
        self._abort = self._clicks.button("Abort now: traffic back", "abort", "danger", layout=auto)
        self._hold = self._clicks.button("Hold", "hold", layout=auto)
        self._promote = self._clicks.button(PROMOTE, "promote", layout=auto)
        buttons = [self._abort, self._hold]
        # Where CI promotes, a person at a notebook does not hurry it.
        if target.settings.policy.by_hand:
            buttons.append(self._promote)
        self._panel = WidgetPanel(self._progress, shown.HBox(buttons))

    async def until(self, observation: Observation) -> Order | None:
        shared = observation.evidence is not None and observation.weight > 0
        for button in (self._abort, self._hold, self._promote):
            button.disabled = not shared
        waiting = asyncio.ensure_future(self._target.clock.wait(observation.wake_at))
        try:
            while not waiting.done():
                now = await asyncio.to_thread(self._target.clock.now)
                self._progress.value = html.escape(progress(observation, now))
                click = await self._clicks.take(waiting)
                if click and shared and (order := self._order(click, now)):
                    return order
            waiting.result()
            return None
        finally:
            waiting.cancel()

    def close(self) -> None:
        self._panel.replace(f"Ordered: {', '.join(self._given)}." if self._given else "No order was given.")

    def _order(self, click: str, now: datetime) -> Order | None:
        """What a click orders; a promotion wants a second one."""
        if click == "promote" and self._promote.description == PROMOTE:
            self._promote.description, self._promote.button_style = SURELY, "warning"
            return None
        order = cast(Order, "go on" if click == "hold" and self._hold.description == "Go on" else click)
        self._promote.description, self._promote.button_style = PROMOTE, ""
        self._hold.description = "Go on" if order == "hold" else "Hold"
        self._given.append(f"{order} at {now:%H:%M} UTC")
        self._target.journal.append("ordered", order=order)
        return order


def progress(observation: Observation, now: datetime) -> str:
    """Where a rollout is, what is left of its bake, and when it looks again, as one line."""
    ahead = f"next look in {_clock((observation.wake_at - now).total_seconds())}"
    if observation.verdict is None:
        return f"{observation.says} {ahead.capitalize()}."
    stage = "watching" if observation.stage == "watch" else f"stage {observation.stage}"
    told = [f"{stage}, {100 * observation.weight:g} % of the traffic", ahead]
    if observation.bake_left_s:
        left_s = observation.bake_left_s - (now - observation.at).total_seconds()
        told.insert(1, f"{_clock(left_s)} of its bake left" if left_s > 0 else "its bake is over")
    return " · ".join(told)


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02}"
