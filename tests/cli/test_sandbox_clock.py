"""The sandbox's time: it moves when everybody waits, no further than the first who wakes, and nobody dead holds it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import failsafe
from buddy_ops.aws.clock import SandboxClock
from buddy_ops.cli import sandbox
from buddy_sandbox import clock as clock_
from buddy_sandbox.clock import Clock
from tests.conftest import Situation

pytestmark = pytest.mark.sandbox

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[2]
ME = os.getpid()
GONE = 2**22 + 1
"""No process has this number: Linux gives none above 2**22."""


class Moved:
    """A clock that starts at 0, and every instant that it was moved to."""

    def __init__(self, speed: float = 0.0) -> None:
        self.steps: list[float] = []
        self.clock = Clock(0.0, self._advance, speed)

    def _advance(self, until: float) -> None:
        self.steps.append(until)
        self.clock.set(until)

    def wait(self, client: str, until: float, patience_s: float = 0.02, pid: int | None = ME) -> bool:
        return self.clock.wait(client, pid, until, patience_s)


# Who holds time, and who lets it go


def test_time_stands_still_while_nobody_waits() -> None:
    """Nothing moves by itself in stepped mode, however long it takes."""
    moved = Moved()
    moved.clock.tick(3600.0)
    assert moved.clock.now() == 0.0 and moved.steps == []


def test_one_who_waits_moves_time_to_where_it_wakes() -> None:
    """A single client's wait costs no real time, and moves time exactly as far as it asked."""
    moved = Moved()
    assert moved.wait("a", 100.0)
    assert moved.clock.now() == 100.0
    assert moved.wait("a", 50.0), "a moment that has passed is not waited for"
    assert moved.clock.now() == 100.0


def test_one_who_works_holds_time() -> None:
    """Time does not pass a client that woke up and has not waited again; then it moves to the earlier of the two."""
    moved = Moved()
    assert moved.wait("worker", 10.0)
    assert not moved.wait("sleeper", 100.0)
    assert moved.clock.now() == 10.0
    assert moved.wait("worker", 60.0)
    assert not moved.wait("sleeper", 100.0)
    assert moved.clock.now() == 60.0
    assert moved.wait("worker", 150.0) is False
    assert moved.clock.now() == 100.0, "the sleeper wakes first"
    assert moved.wait("sleeper", 100.0)


def test_time_moves_to_the_earliest_wake_up_only() -> None:
    """With many waiting at once, each is woken at its own moment, in order, and none later than it asked."""
    moved = Moved()
    woken: list[tuple[float, float]] = []

    def sleep(name: str, moments: list[float]) -> None:
        for moment in moments:
            while not moved.wait(name, moment, 1.0):
                pass
            woken.append((moment, moved.clock.now()))
        moved.clock.leave(name)

    plans = {"a": [10.0, 40.0, 90.0], "b": [20.0, 30.0, 100.0], "c": [95.0]}
    for name in plans:
        moved.wait(name, 0.0)
    threads = [threading.Thread(target=sleep, args=item) for item in plans.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [at for _, at in woken] == [asked for asked, _ in woken]
    assert sorted(asked for asked, _ in woken) == moved.steps == [10.0, 20.0, 30.0, 40.0, 90.0, 95.0, 100.0]


def test_one_who_leaves_holds_nothing() -> None:
    """A client that says it will not wait again no longer counts."""
    moved = Moved()
    moved.wait("worker", 10.0)
    assert not moved.wait("sleeper", 100.0)
    moved.clock.leave("worker")
    moved.clock.leave("nobody")
    assert moved.wait("sleeper", 100.0)


def test_one_whose_process_is_gone_is_dropped() -> None:
    """A client without a process holds nothing back, from the next wait on."""
    moved = Moved()
    moved.wait("dead", 10.0, pid=GONE)
    assert moved.wait("sleeper", 100.0)
    assert "dead" not in moved.clock.clients


def test_one_who_is_silent_is_dropped_after_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that lives and says nothing is forgotten after the grace, and counts again once it waits."""
    moved = Moved()
    moved.wait("silent", 10.0)
    assert not moved.wait("sleeper", 100.0)
    monkeypatch.setattr(clock_, "SILENT_CLIENT_GRACE_S", 0.0)
    assert moved.wait("sleeper", 100.0)
    monkeypatch.undo()
    moved.wait("silent", 100.0)
    assert not moved.wait("sleeper", 200.0)


def test_time_never_goes_back() -> None:
    """Setting or advancing to a moment that has passed changes nothing."""
    moved = Moved()
    moved.clock.advance_to(100.0)
    moved.clock.advance_to(50.0)
    moved.clock.set(20.0)
    assert moved.clock.now() == 100.0 and moved.steps == [100.0]


def test_in_live_mode_time_moves_by_itself() -> None:
    """With a speed, waiting moves nothing: real time does, that many virtual seconds for each of its own."""
    moved = Moved(speed=60.0)
    assert not moved.wait("a", 100.0)
    assert moved.clock.now() == 0.0
    moved.clock.tick(2.0)
    assert moved.clock.now() == 120.0
    assert moved.wait("a", 100.0)


# Real programs on a real sandbox


@pytest.fixture
def here(situation: Bring) -> Situation:
    return situation("good", history_minutes=0, requests_per_minute=0)


def wait(here: Situation, client: str, seconds: float, patience_s: float = 0.1) -> bool:
    """Wait so far from now as a client of this process; whether the moment came."""
    until = here.ask("clock")["now"] + seconds
    return bool(here.ask("clock/wait", client=client, pid=ME, until=until, patience_s=patience_s)["reached"])


WORKER = """
import sys
from datetime import timedelta
from buddy_ops.aws.clock import SandboxClock
mine = SandboxClock(sys.argv[1])
mine.sleep_until(mine.now() + timedelta(seconds=1))
print("at work", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(here: Situation) -> Any:
    """A program of its own that has waited once, and works ever since."""
    command = [sys.executable, "-c", WORKER, here.endpoint]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    yield process
    process.kill()
    process.communicate()


def test_a_killed_program_lets_time_go(here: Situation, worker: subprocess.Popen[str]) -> None:
    """While a program works, time waits for it; once it is killed, time goes on without it."""
    assert not wait(here, "other", 60.0)
    worker.kill()
    worker.wait()
    assert wait(here, "other", 60.0, patience_s=20.0)


def test_a_closed_target_lets_time_go(here: Situation) -> None:
    """``target.close()`` is the polite way out: nobody waits for a runbook that has ended."""
    mine = here.connect(quiet=True)
    mine.clock.sleep_until(mine.clock.now() + timedelta(seconds=1))
    assert not wait(here, "other", 60.0)
    mine.close()
    assert wait(here, "other", 60.0, patience_s=20.0)


def test_one_programs_sleep_never_expires_anothers_lease(here: Situation) -> None:
    """A sleep of three hours passes at the pace of a program that renews its lease each minute: the lease never fires."""
    keeper, sleeper = here.connect(), here.connect()
    armed = failsafe.arm_split(keeper)
    keeper.clock.sleep_until(keeper.clock.now())
    stop = threading.Event()
    renewals: list[datetime] = []

    def keep() -> None:
        held = armed
        while not stop.is_set():
            if failsafe.needs_renewal(keeper, held):
                held = failsafe.renew(keeper, held)
                renewals.append(held.until)
            keeper.clock.sleep_until(keeper.clock.now() + timedelta(minutes=1))
        keeper.close()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        end = sleeper.clock.now() + timedelta(hours=3)
        sleeper.clock.sleep_until(end)
    finally:
        stop.set()
        sleeper.close()
        thread.join()
    assert len(renewals) >= 15 and renewals[-1] > end
    fired = [each for each in here.ask("calls")["calls"] if each["operation"] == "UpdateAlias"]
    assert fired == []


def test_a_reset_forgets_who_waited(here: Situation, situation: Bring) -> None:
    """Time begins anew with a scenario, and a client of the time before neither holds it nor moves it."""
    start = here.ask("clock")["now"]
    wait(here, "worker", 10.0)
    assert not wait(here, "sleeper", 7200.0)
    again = situation("good", history_minutes=0, requests_per_minute=0)
    assert again.ask("clock")["now"] == start and again.ask("status")["waiting"] == 0
    assert wait(again, "other", 60.0, patience_s=20.0)


def test_one_who_waits_across_a_reset_does_not_move_the_new_time(
    here: Situation, situation: Bring, worker: subprocess.Popen[str]
) -> None:
    """A wait that is under way when the sandbox is reset (a runbook that nobody stopped) leaves the new time alone."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(wait(here, "sleeper", 7200.0, patience_s=1.5)))
    thread.start()
    while here.ask("status")["waiting"] < 2:
        pass
    again = situation("good", history_minutes=0, requests_per_minute=0)
    begun = again.ask("clock")["now"]
    # Nobody holds the old time any more.
    worker.kill()
    worker.wait()
    thread.join()
    assert answers == [False]
    assert again.ask("clock")["now"] == begun


def test_live_time_runs_by_itself() -> None:
    """A sandbox with a speed needs nobody to move it: time comes to whoever waits for it."""
    with sandbox.running_sandbox(speed=6000.0, scenario="night") as url:
        begun = sandbox.call_sandbox(url, "status")
        assert begun["speed"] == 6000.0
        until = begun["now"] + 600
        there = sandbox.call_sandbox(url, "clock/wait", client="x", pid=ME, until=until, patience_s=20)
        assert there["reached"]
        assert SandboxClock(url).now().timestamp() > begun["now"] + 599


def test_speed_can_be_changed_under_way(here: Situation) -> None:
    """``set speed`` turns live mode on and off; stepped mode goes on from where time is."""
    before = here.ask("clock")["now"]
    here.ask("set", speed=6000)
    assert here.ask("clock/wait", client="x", pid=ME, until=before + 300, patience_s=20)["reached"]
    here.ask("set", speed=0)
    here.ask("clock/leave", client="x")
    stopped = here.ask("advance", seconds=0)["now"]
    assert wait(here, "y", 60.0, patience_s=20.0)
    assert here.ask("clock")["now"] == stopped + 60
