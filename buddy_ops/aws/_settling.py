"""Reads that lag behind writes: AWS shows a parameter or a policy as it was written after some seconds only."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from buddy_ops.aws.session import Target

T = TypeVar("T")

SETTLES = timedelta(seconds=20)
"""After so long a read is believed. AWS promises no time; a parameter of SSM is seen within a few seconds."""

PAUSE = timedelta(seconds=2)


def read_settled(target: Target, read: Callable[[], T], expected: Callable[[T], bool]) -> T:
    """What ``read`` returns as soon as it is as ``expected``, or else after ``SETTLES``."""
    deadline = target.clock.now() + SETTLES
    while True:
        found = read()
        now = target.clock.now()
        if expected(found) or now >= deadline:
            return found
        target.clock.sleep_until(now + PAUSE)
