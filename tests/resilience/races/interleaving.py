"""Several actors on one sandbox, one AWS call at a time, in an order that a seed draws.

Knows turns and time. Each actor is a thread with a Target of its own; its calls wait until it is its turn, so exactly
one actor runs at any moment, and the same seed gives the same order again. Time stands still while anybody has a turn
to take; when all sleep it goes on to the earliest wake-up. Never knows what an actor does.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.journal import Journal
from tests.conftest import Situation, intercept

CLIENTS: dict[tuple[str | int, ...], Any] = {}
"""AWS clients are made once, and copied for each target: making them takes longer than a race."""

PATIENCE_S = 60.0
"""Real seconds after which an actor that neither calls nor ends is stuck."""


@dataclass(frozen=True)
class Event:
    """One AWS call of an actor, or its waking up ('wake'). ``reply`` is None where AWS refused, with ``code``."""

    actor: str
    operation: str
    parameters: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] | None = None
    code: str = ""


class Actor:
    """One person or program. ``result`` is what its work returned, ``error`` the BuddyError that it ended with."""

    def __init__(self, name: str, target: Target, work: Callable[[Target], Any], after: int, once: str) -> None:
        self.name, self.target, self.work, self.after, self.once = name, target, work, after, once
        self.state = "waiting"
        self.wake_at = datetime.max.replace(tzinfo=UTC)
        self.go = threading.Semaphore(0)
        self.result: Any = None
        self.error: BuddyError | None = None
        self.crash: BaseException | None = None


class HeldClock:
    """Time as the interleaving tells it: sleeping gives the turn away."""

    jumps = ()

    def __init__(self, race: "Race", actor: Actor) -> None:
        self._race, self._actor = race, actor

    def now(self) -> datetime:
        return self._race.now

    def sleep_until(self, moment: datetime) -> None:
        if moment > self._race.now:
            self._actor.wake_at = moment
            self._race.park(self._actor, "asleep")
            self._race.events.append(Event(self._actor.name, "wake"))

    async def wait(self, moment: datetime) -> None:
        self.sleep_until(moment)

    def correct(self, server: datetime) -> None:
        """The interleaving's time is AWS's time."""

    def close(self) -> None:
        """Nobody is registered anywhere."""


class Race:
    """Actors, the order of their calls, and the log of what happened."""

    def __init__(self, here: Situation, seed: int) -> None:
        self.here, self.seed = here, seed
        self.random = random.Random(seed)
        self.now = datetime.fromtimestamp(here.ask("clock")["now"], UTC)
        self.events: list[Event] = []
        self.actors: list[Actor] = []
        self._changed = threading.Condition()

    def enter(
        self,
        name: str,
        work: Callable[[Target], Any],
        *,
        since: int = 0,
        within: int = 0,
        once: str = "",
        **options: Any,
    ) -> Actor:
        """One more actor: it comes in after a drawn number of the others' calls, ``since`` to ``within``.

        Args:
            once: an operation; the calls are counted from the first time that it has succeeded.
        """
        target = self.here.connect(name, quiet=True, run=name, **options)
        actor = Actor(name, target, work, self.random.randint(since, max(since, within)), once)
        target.clock = HeldClock(self, actor)
        make = target._create_client

        def create(service: Any, *options: int) -> Any:
            if (service, *options) not in CLIENTS:
                CLIENTS[service, *options] = make(service, *options)
            made = CLIENTS[service, *options]
            copied = object.__new__(type(made))
            copied.__dict__.update(made.__dict__)
            return copied

        target._create_client = create  # type: ignore[method-assign]
        target.journal = Journal(lambda _: None, target.clock.now)

        def call(send: Any, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
            self.park(actor, "ready")
            noted = (name, f"{service}:{operation}", parameters)
            try:
                reply: dict[str, Any] = send(service, operation, **parameters)
            except AwsFailed as failure:
                self.events.append(Event(*noted, code=failure.code))
                raise
            self.events.append(Event(*noted, reply=reply))
            return reply

        intercept(target, call)
        self.actors.append(actor)
        return actor

    def run(self) -> None:
        """Let everybody act until all have ended. An actor may prefer to run on: each seed has its own temper."""
        weights = {actor.name: self.random.choice((1, 1, 2, 5)) for actor in self.actors}
        threads = [threading.Thread(target=self._act, args=(actor,), daemon=True) for actor in self.actors]
        for thread in threads:
            thread.start()
        while True:
            awake = [actor for actor in self.actors if actor.state in ("ready", "asleep")]
            for actor in self.actors:
                if actor.state == "waiting" and (self._due(actor) or not awake):
                    actor.state = "ready"
                    awake.append(actor)
            if ready := [actor for actor in self.actors if actor.state == "ready"]:
                self._let(self.random.choices(ready, [weights[actor.name] for actor in ready])[0])
            elif awake:
                self.advance_to(min(actor.wake_at for actor in awake))
                for actor in awake:
                    if actor.wake_at <= self.now:
                        actor.state = "ready"
            else:
                break
        for thread in threads:
            thread.join(PATIENCE_S)
        for actor in self.actors:
            if actor.crash is not None:
                raise actor.crash

    def _due(self, actor: Actor) -> bool:
        began = (self.done(actor.once) or [len(self.events)])[0] if actor.once else 0
        return len(self.events) >= began + actor.after + bool(actor.once)

    def advance_to(self, moment: datetime) -> None:
        """Let the sandbox's time go on."""
        if moment > self.now:
            self.here.ask("advance", seconds=(moment - self.now).total_seconds())
            self.now = moment

    def park(self, actor: Actor, state: str) -> None:
        """Called by an actor's own thread: give the turn away, and come back when it is given again."""
        with self._changed:
            actor.state = state
            self._changed.notify_all()
        actor.go.acquire()

    def _let(self, actor: Actor) -> None:
        """Give an actor the turn until it gives it back."""
        actor.state = "running"
        actor.go.release()
        with self._changed:
            if not self._changed.wait_for(lambda: actor.state != "running", PATIENCE_S):
                raise AssertionError(f"seed {self.seed}: {actor.name} neither calls AWS nor ends")

    def _act(self, actor: Actor) -> None:
        actor.go.acquire()
        try:
            actor.result = actor.work(actor.target)
        except BuddyError as error:
            actor.error = error
        except BaseException as crash:
            actor.crash = crash
        with self._changed:
            actor.state = "ended"
            self._changed.notify_all()

    # What happened

    def done(self, operation: str, actor: str = "") -> list[int]:
        """Where in the log an operation succeeded."""
        return [
            index
            for index, event in enumerate(self.events)
            if event.operation == operation and event.reply is not None and actor in ("", event.actor)
        ]

    def told(self) -> str:
        """The whole race, a line an event: what a failing test shows."""
        lines = [f"seed {self.seed}"]
        for event in self.events:
            shown = {
                k: v for k, v in event.parameters.items() if k in ("RoutingConfig", "FunctionVersion", "Qualifier")
            }
            lines.append(f"  {event.actor:<10}{event.operation} {shown or ''} {event.code}")
        lines += [f"{actor.name}: {actor.result or actor.error!s}" for actor in self.actors]
        return "\n".join(lines)
