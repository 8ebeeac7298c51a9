"""The sandbox's time: stops until a client waits, or runs at a chosen speed.

Knows who is waiting and until when. Never knows what happens as time passes: the ``world`` does.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

SILENT_CLIENT_GRACE_S = 20.0
"""Real seconds after which a registered client that says nothing no longer holds time back."""


@dataclass
class Client:
    """A program that waits on this clock. It holds time back while it works, that is while ``until`` is not ahead."""

    pid: int | None
    until: float = 0.0
    asking: bool = False
    heard: float = field(default_factory=time.monotonic)

    def alive(self) -> bool:
        """Whether it still counts: its process exists, and it asks just now or was heard of within the grace."""
        if self.pid is not None and not exists(self.pid):
            return False
        return self.asking or time.monotonic() - self.heard < SILENT_CLIENT_GRACE_S


class Clock:
    """Virtual seconds since the epoch.

    Args:
        start: where time begins, seconds since the epoch.
        advance: called with the instant to move to; it must end by calling ``set``. Calls never overlap.
        speed: clock speed (10 = 10x real time); 0 is stepped: time moves only when every registered client waits.
    """

    def __init__(self, start: float, advance: Callable[[float], None], speed: float = 0.0) -> None:
        self._now = start
        self._advance = advance
        self.speed = speed
        self.clients: dict[str, Client] = {}
        self._changed = threading.Condition()
        self._moving = threading.Lock()
        self._stopped = False

    def now(self) -> float:
        """Seconds since the epoch, virtual."""
        return self._now

    def utc(self) -> datetime:
        """The same as an aware datetime."""
        return datetime.fromtimestamp(self._now, UTC)

    def set(self, now: float) -> None:
        """Say that time has come to ``now`` (only what advances the world calls this)."""
        with self._changed:
            self._now = max(self._now, now)
            self._changed.notify_all()

    def advance_to(self, until: float) -> None:
        """Move time on, with all that happens on the way."""
        with self._moving:
            if until > self._now and not self._stopped:
                self._advance(until)

    def stop(self) -> None:
        """Never move again, and send away who waits: a world that begins anew has another clock."""
        with self._moving:
            self._stopped = True

    def wait(self, client: str, pid: int | None, until: float, patience_s: float) -> bool:
        """Wait for ``until`` at most ``patience_s`` real seconds. True once it has come.

        In stepped mode the client is registered by its first wait. Time advances to the earliest wake-up when every
        registered client waits, so nobody's sleep expires something that another still means to renew.
        """
        deadline = time.monotonic() + patience_s
        with self._changed:
            me = self.clients.setdefault(client, Client(pid))
            me.until, me.asking = until, True
        try:
            while self._now < until and time.monotonic() < deadline and not self._stopped:
                earliest = self._earliest_wake_up()
                if earliest is not None and self._moving.acquire(blocking=False):
                    self._moving.release()
                    self.advance_to(earliest)
                    continue
                with self._changed:
                    if self._now < until:
                        self._changed.wait(min(0.05, max(0.001, deadline - time.monotonic())))
        finally:
            with self._changed:
                me.heard, me.asking = time.monotonic(), False
        return self._now >= until

    def leave(self, client: str) -> None:
        """Forget a client that will not wait again."""
        with self._changed:
            self.clients.pop(client, None)
            self._changed.notify_all()

    def tick(self, real_s: float) -> None:
        """In live mode: let ``real_s`` real seconds' worth of time pass."""
        if self.speed <= 0:
            return
        with self._moving:
            # Whoever sets the speed to 0 and advances after it finds time standing still.
            if self.speed > 0:
                self._advance(self._now + real_s * self.speed)

    def _earliest_wake_up(self) -> float | None:
        if self.speed > 0:
            return None
        with self._changed:
            for name in [name for name, client in self.clients.items() if not client.alive()]:
                del self.clients[name]
            earliest = min((client.until for client in self.clients.values()), default=None)
        # One whose moment has come is at work, until it waits again.
        return earliest if earliest is not None and earliest > self._now else None


def exists(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
