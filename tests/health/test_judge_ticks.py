"""The judge on ticks: what it makes of ticks of a minute is what it makes of minutes."""

from dataclasses import replace

import pytest

from buddy_ops.health.judge import Judge, Minute, StreamName, Tick
from tests.health.recorded_rollouts import ROLLOUTS, arithmetic, by_minutes, digest, recorded_digests


def judged_as_recorded(feed: str) -> list[int]:
    """The rollouts that are judged otherwise than recorded."""
    machine, *recorded = recorded_digests()
    if machine != arithmetic():
        pytest.skip("this C library rounds exp() or log() otherwise")
    how = by_minutes if feed == "minutes" else by_ticks
    return [number for number in range(ROLLOUTS) if digest(number, how) != recorded[number]]


def by_ticks(judge: Judge, minute: Minute, first: bool) -> None:
    """A minute as one tick of 60 seconds; what a tick says otherwise, or does not say, as a minute."""
    if minute.weight_changed or minute.canary_requests_at_most or minute.canary.cold or minute.stable.cold:
        judge.observe(minute)
        return
    unread: set[StreamName] = set(minute.unread)
    if first:
        unread.add("slow")
    stable = minute.stable
    judge.observe_tick(Tick(60, minute.weight, minute.canary, stable.errors, stable.slow, unread=frozenset(unread)))
    judge.observe(replace(minute, judged_by_ticks=True))


@pytest.mark.parametrize("feed", ["minutes", "ticks"])
def test_recorded_rollouts_are_judged_as_before_bit_for_bit(feed: str) -> None:
    """500 rollouts of every kind, all scores and verdicts of each minute; also where each minute is a tick."""
    assert judged_as_recorded(feed) == []
