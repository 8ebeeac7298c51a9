"""Everything the sandbox simulates, moved through virtual time together.

Knows the order in which things happen as time passes. Never speaks HTTP: ``server`` does.
"""

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any

import boto3
import time_machine
from botocore.config import Config

from buddy_sandbox import dynamodb, keys, parameters
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.clock import Clock
from buddy_sandbox.cloudwatch import CloudWatch
from buddy_sandbox.conditions import EVERYWHERE, OF_ALL_REGIONS, PLACES, Conditions
from buddy_sandbox.lambda_api import Lambda
from buddy_sandbox.logs import LogStore
from buddy_sandbox.metrics_store import MetricStore
from buddy_sandbox.region import HOME, Region
from buddy_sandbox.runtime import Runtime
from buddy_sandbox.traffic import People
from buddy_sandbox.wire import Params

MINUTE_S = 60.0
WORKERS = 48
"""Warm processes: of four regions with three functions each, two versions and a spare one."""
STEPPED_START = datetime(2026, 11, 2, 0, 0, tzinfo=UTC).timestamp()
"""Where stepped time begins: always the same, so that a run can be repeated to the second."""


class World:
    """AWS accounts; a region of one begins with the first call to it.

    Args:
        endpoint: the sandbox's own URL, for whatever calls back.
        seed: random seed.
        speed: clock speed (10 = 10x real time); 0 is stepped.
        start: where time begins, epoch seconds.
    """

    def __init__(self, endpoint: str, seed: int, speed: float, start: float) -> None:
        dynamodb.install()
        parameters.install()
        keys.install()
        self.endpoint, self.seed = endpoint, seed
        self.clock = Clock(start, self._advance, speed)
        # moto reads the time itself, all over; it shall read ours.
        self._travel = time_machine.travel(datetime.fromtimestamp(start, UTC), tick=False)
        self._traveller = self._travel.start()
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._regions_lock = threading.Lock()
        self.calls: list[dict[str, Any]] = []
        self.show: Callable[[float, float], None] = lambda now, ahead_s: None
        """Told of each change of the time, and of by how much a client's machine is ahead of it, in seconds."""
        self._build()

    def _build(self) -> None:
        self.tables, self.parameters = dynamodb.TABLES, parameters.PARAMETERS
        self.tables.reset()
        self.parameters.reset()
        self.runtime = Runtime(self.endpoint, idle_workers=WORKERS)
        self.conditions = Conditions()
        self._scoped: list[tuple[str | None, str | None, dict[str, Any]]] = []
        self._regions: dict[tuple[str, str], Region] = {}
        self.region(HOME)

    def region(self, name: str, account: str = ACCOUNT) -> Region:
        """A region; one that was not used before is empty, with the conditions that hold everywhere."""
        with self._regions_lock:
            if (account, name) not in self._regions:
                invoke = partial(self.invoke, region=name, account=account)
                made = Region(name, account, self.clock, self.runtime, self.seed, invoke)
                holding = self.conditions
                for own_region, own_account, changes in self._scoped:
                    if own_region in (None, name) and own_account in (None, account):
                        holding = holding.changed(changes)
                made.hold(holding, Conditions.model_fields)
                self._regions[account, name] = made
            return self._regions[account, name]

    @property
    def regions(self) -> list[Region]:
        """Every region that was used, of each account, in the order in which they began."""
        with self._regions_lock:
            return list(self._regions.values())

    def set_conditions(self, changes: dict[str, Any]) -> None:
        """Let conditions hold everywhere, also where they were set apart.

        Raises pydantic's ValidationError (a ValueError).
        """
        changed = self.conditions.changed(changes)
        self._scoped = [
            (region, account, {name: value for name, value in own.items() if name not in changes})
            for region, account, own in self._scoped
        ]
        self.hold(changed, changes)

    def set_conditions_of(self, region: str | None, account: str | None, changes: dict[str, Any]) -> None:
        """Let conditions hold in one region, one account or both, also where they begin later; None: any.

        Raises ValueError for those that hold everywhere, and pydantic's ValidationError.
        """
        if shared := sorted(EVERYWHERE & changes.keys()):
            raise ValueError(f"{', '.join(shared)}: the same in every region and account")
        # All are checked before any takes effect.
        changed = {each: each.conditions.changed(changes) for each in self.chosen(region, account)}
        self._scoped.append((region, account, changes))
        for each, holding in changed.items():
            each.hold(holding, changes)

    def hold(self, conditions: Conditions, names: Iterable[str]) -> None:
        """Let conditions hold everywhere from now on; only what is named takes effect."""
        chosen = set(names)
        own = Conditions.model_fields.keys()
        # A scenario is conditions with more fields, which are no part of the world.
        self.conditions = Conditions.model_validate({name: getattr(conditions, name) for name in own})
        self.show_time()
        for name in chosen & PLACES.keys():
            place = PLACES[name]
            if place.owner.startswith(OF_ALL_REGIONS):
                setattr(attrgetter(place.owner)(self), place.attribute, getattr(conditions, name))
        changes = {name: getattr(conditions, name) for name in chosen & own}
        for region in self.regions:
            # What was set for this region alone stays as it is.
            region.hold(region.conditions.changed(changes), chosen)

    def conditions_of(self, region: Region) -> dict[str, Any]:
        """The values that hold now in a region of an account; of a throttle, the seconds that are left."""
        values = region.conditions.model_dump() | {name: getattr(self.conditions, name) for name in EVERYWHERE}
        for name, place in PLACES.items():
            owner = attrgetter(place.owner)(self if name in EVERYWHERE else region)
            values[name] = getattr(owner, place.attribute)
        return values

    def chosen(self, region: str | None, account: str | None) -> list[Region]:
        """The regions that were used of one name, of one account, or both; None: of any."""
        return [each for each in self.regions if region in (None, each.name) and account in (None, each.account)]

    @property
    def functions(self) -> Lambda:
        """Lambda where scenarios are."""
        return self.region(HOME).functions

    @property
    def metrics(self) -> MetricStore:
        """The metrics where scenarios are."""
        return self.region(HOME).metrics

    @property
    def log_store(self) -> LogStore:
        """The logs where scenarios are."""
        return self.region(HOME).log_store

    @property
    def cloudwatch(self) -> CloudWatch:
        """CloudWatch where scenarios are."""
        return self.region(HOME).cloudwatch

    @property
    def people(self) -> People:
        """The people who use a scenario's function."""
        return self.region(HOME).people

    def reset(self, seed: int | None = None, start: float | None = None) -> None:
        """Empty accounts again, with the same or another seed; time goes on unless ``start`` is given."""
        self.runtime.close()
        self.seed = self.seed if seed is None else seed
        self.calls.clear()
        if start is not None:
            self.clock.stop()
            self.clock = Clock(start, self._advance, self.clock.speed)
            self._traveller.move_to(datetime.fromtimestamp(start, UTC), tick=False)
        self._build()
        self.show_time()

    def show_time(self) -> None:
        """Say what time it is to those who read it without a call."""
        self.show(self.clock.now(), self.conditions.client_clock_ahead_s)

    def invoke(
        self, service: str, operation: str, parameters: Params, region: str = HOME, account: str = ACCOUNT
    ) -> Any:
        """Call the sandbox as any client would: for schedules, and for setting scenarios up."""
        return getattr(self.client(service, region, account), operation)(**parameters)

    def client(self, service: str, region: str = HOME, account: str = ACCOUNT) -> Any:
        """An SDK client of this sandbox."""
        key = (service, region, account)
        if key not in self._clients:
            session = boto3.Session(aws_access_key_id=account, aws_secret_access_key="sandbox", region_name=region)
            config = Config(retries={"total_max_attempts": 1}, user_agent_appid="sandbox")  # type: ignore[call-arg]
            self._clients[key] = session.client(service, endpoint_url=self.endpoint, config=config)
        return self._clients[key]

    def close(self) -> None:
        """End what was started: workers, and the hold on this process's time."""
        self.runtime.close()
        self._travel.stop()

    def _advance(self, until: float) -> None:
        """Move through every minute boundary and every schedule on the way to ``until``."""
        while (now := self.clock.now()) < until:
            boundary = (now // MINUTE_S + 1) * MINUTE_S
            regions = self.regions
            due = [at for region in regions if (at := region.scheduler.next_due()) is not None]
            step = min(until, boundary, *(max(at, now) for at in due))
            for region in regions:
                region.people.advance(now, step)
            self._traveller.move_to(datetime.fromtimestamp(step, UTC), tick=False)
            # Before those who wait for it go on.
            self.show(step, self.conditions.client_clock_ahead_s)
            self.clock.set(step)
            for region in regions:
                region.scheduler.fire()
            if step == boundary:
                for region in regions:
                    region.evaluate_alarms()


class LiveTicker:
    """Lets time run by itself in live mode."""

    EVERY_S = 0.1

    def __init__(self, world: World) -> None:
        self._world, self._stop = world, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.EVERY_S):
            self._world.clock.tick(self.EVERY_S)

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()
