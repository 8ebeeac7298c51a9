"""The buttons beside a live chart: what an operator can do to a rollout, and a line about its progress.

The environment's rules decide which buttons there are. The rollout acts on a click, not this module.
"""

import asyncio
from datetime import datetime
from typing import Protocol

from buddy_ops.aws.session import Target
from buddy_ops.core.text import escape_html, exact_percent
from buddy_ops.deployment.observation import Observation, Order
from buddy_ops.health.verdict import Decision
from buddy_ops.health.wording import describe_bake
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import ClickQueue, Widget, WidgetPanel, alert
from buddy_ops.notebook.charts import stage_name

DONE: dict[Order, str] = {
    "abort": "aborted",
    "hold": "paused",
    "go on": "resumed",
    "promote": "promoted",
    "stop": "ended",
}
"""How each operator action reads afterwards. The keys are data of the journal."""


VERDICTS: dict[Decision, str] = {
    "promote": "no regression, stage complete",
    "hold": "no decision yet",
    "rollback": "regression, rolling back",
    "external": "both versions fail",
}
"""The judge's decisions as screen readers say them."""

RELOADED = (
    "The page was reloaded, so the chart and the result of this cell do not appear here. The buttons work. "
    f"To see the rollout again: {_widgets.RUN_AGAIN} It is resumed then."
)

UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap"
"""For text that only screen readers say."""


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
    """Abort, pause and promote while two versions share the traffic; above them a line about the progress.

    A pause and a promotion are for the stage that their buttons name: each stage has buttons of its own, and a click on
    one of an earlier stage does nothing. No button is ever disabled: where there is nothing to do there is no button.
    """

    def __init__(self, target: Target) -> None:
        widgets = _widgets.load_ipywidgets()
        self._target = target
        self._clicks = ClickQueue()
        self._given: list[str] = []
        self._paused = False
        # A promotion needs two clicks: the first one asks, the second one, on another button, confirms.
        self._confirming = False
        self._stage = ("", 0.0)
        self._shown: Observation | None = None
        # How often the buttons were made; a click carries the number of its button.
        self._made = 0
        self._abort: Widget | None = None
        self._progress = widgets.HTML()
        # Said to screen readers, and only when stage or verdict change: not each second.
        self._announced = widgets.HTML()
        self._announced.add_class("buddy-ops-live")
        self._message = widgets.HTML()
        self._buttons = widgets.HBox()
        self._confirmation = widgets.HBox()
        rows = (self._progress, self._announced, self._message, self._buttons, self._confirmation)
        self._panel = WidgetPanel(*rows, works_reloaded=RELOADED)

    async def until(self, observation: Observation) -> Order | None:
        # A page that is gone, or a front end's error, must not end the rollout.
        with self._target.side.contained("the buttons"):
            self._show_stage(observation)
        # The wait and the buttons at once: whichever comes first ends this poll.
        waiting = asyncio.ensure_future(self._target.clock.wait(observation.wake_at))
        try:
            while not waiting.done():
                # The sandbox's clock answers over HTTP, so the time is read in a worker thread.
                now = await asyncio.to_thread(self._target.clock.now)
                with self._target.side.contained("the buttons"):
                    self._progress.value = escape_html(progress(observation, now))
                click = await self._clicks.take(waiting)
                order = self._order(click) if click and _is_shared(observation) else None
                if order:
                    self._given.append(f"{DONE[order]} {now:%H:%M}")
                    self._target.journal.append("ordered", order=order)
                    return order
            # Where the wait itself failed, the rollout must not poll on without one.
            waiting.result()
            return None
        finally:
            waiting.cancel()

    def close(self) -> None:
        actions = "none"
        if self._given:
            actions = f"{', '.join(self._given)} UTC"
        with self._target.side.contained("the buttons"):
            self._panel.replace(f"Operator actions: {actions}.")

    def _show_stage(self, observation: Observation) -> None:
        """The buttons of this observation's stage: new ones where the stage is another."""
        self._shown = observation
        stage = (observation.stage, observation.weight)
        shared = _is_shared(observation)
        if shared and (stage != self._stage or not self._buttons.children):
            self._stage = stage
            self._make_buttons()
        elif not shared:
            self._buttons.children = ()
            self._confirmation.children = ()
        announced = announcement(observation)
        if announced != self._announced.value:
            self._announced.value = announced

    def _make_buttons(self) -> None:
        """Make the buttons for what is shown. "Abort" stays: its effect is the same in each stage."""
        observation = self._shown
        assert observation is not None and observation.evidence is not None
        self._made += 1
        self._confirming = False
        self._confirmation.children = ()
        if self._abort is None:
            text = f"Abort: all traffic back to v{observation.evidence.stable}"
            self._abort = self._clicks.button(text, "abort", "danger")
        verb = "Pause"
        if self._paused:
            verb = "Resume"
        pause = self._clicks.button(f"{verb} at {exact_percent(observation.weight)}", f"{verb.lower()} {self._made}")
        buttons = [self._abort, pause]
        # Where only CI may deploy, an operator cannot skip a bake time.
        if self._target.settings.policy.by_hand:
            buttons.append(self._clicks.button(promotion_label(observation), f"promote {self._made}"))
        self._buttons.children = tuple(buttons)

    def _order(self, click: str) -> Order | None:
        """What a click means for the rollout; None while a promotion is not confirmed, and for an outdated button."""
        kind, _, made = click.partition(" ")
        if made and int(made) != self._made:
            self._say(self._outdated())
            return None
        order: Order | None = None
        # "Abort" has no number: its effect is the same in every stage, so that it is never outdated.
        if kind == "abort":
            order = "abort"
        elif kind == "pause":
            order = "hold"
        elif kind == "resume":
            order = "go on"
        elif kind == "confirm" and self._confirming:
            order = "promote"
        # Any other click takes the question back.
        self._confirming = kind == "promote"
        if order:
            self._paused = order == "hold"
        with self._target.side.contained("the buttons"):
            self._say("")
            self._ask_for_confirmation()
            if order in ("hold", "go on"):
                self._make_buttons()
        return order

    def _ask_for_confirmation(self) -> None:
        if not self._confirming or self._shown is None:
            self._confirmation.children = ()
        elif not self._confirmation.children:
            label = promotion_label(self._shown)
            text = f"Confirm: {label[:1].lower()}{label[1:]}"
            confirm = self._clicks.button(text, f"confirm {self._made}", "primary")
            self._confirmation.children = (confirm, self._clicks.button("Cancel", f"cancel {self._made}"))

    def _outdated(self) -> str:
        if self._shown is None or self._shown.evidence is None:
            return ""
        now = f"v{self._shown.evidence.new} receives {exact_percent(self._shown.weight)} of traffic now"
        return f"Not done: that button was for an earlier state. {now}. Use the buttons below."

    def _say(self, problem: str) -> None:
        with self._target.side.contained("the buttons"):
            self._message.value = alert(problem)


def _is_shared(observation: Observation) -> bool:
    """Whether two versions are compared under traffic: then there is something to abort, pause or promote."""
    return observation.evidence is not None and observation.weight > 0


def promotion_label(observation: Observation) -> str:
    """What a promotion does now, as a button says it."""
    version = "the new version"
    if observation.evidence is not None:
        version = f"v{observation.evidence.new}"
    if observation.stage == "watch":
        return f"End the monitoring of {version}"
    if observation.next_weight is None:
        return f"End this stage of {version}"
    verb = "Promote"
    # In a gradual rollback the next step is down.
    if observation.next_weight <= observation.weight:
        verb = "Reduce"
    return f"{verb} {version} to {exact_percent(observation.next_weight)}"


def announcement(observation: Observation) -> str:
    """Stage and verdict as a screen reader says them, as HTML that is not visible."""
    text = stage_name(observation.stage)
    if observation.evidence is not None:
        text = f"{text}, v{observation.evidence.new} at {exact_percent(observation.weight)}"
    if observation.verdict is not None:
        text = f"{text}: {VERDICTS[observation.verdict.decision]}"
    return f'<span style="{UNSEEN}">{escape_html(text)}</span>'


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
