"""Which source decides each moment: ticks or minutes, never both and never neither, whatever is late or missing."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.core.text import floor_minute
from buddy_ops.health.counts import Counts
from buddy_ops.health.judging_order import JudgingStep, order
from buddy_ops.health.log_feed import TICK, FeedTick
from buddy_ops.health.metrics import MINUTE, MinuteRow

SHIFT = datetime(2026, 11, 22, 23, 41, 17, tzinfo=UTC)
FIRST = floor_minute(SHIFT)
FIRST_TICK = FIRST + TICK
TICK_LAG = timedelta(seconds=20)
MINUTE_LAG = timedelta(minutes=2)
MINUTES = 14


def minute(index: int, requests: int = 60, errors: int = 0) -> MinuteRow:
    """A minute of version 2, counted from that of the shift."""
    counts = {"1": Counts(requests), "2": Counts(requests, errors)}
    return MinuteRow(FIRST + index * MINUTE, counts)


def ticks_of(row: MinuteRow, missing: int = 0) -> list[FeedTick]:
    """The six ticks of a minute, five in that of the shift; the last lacks some requests."""
    first = max(row.at, FIRST_TICK)
    number = round((row.at + MINUTE - first) / TICK)
    each, rest = divmod(row.counts["2"].requests, number)
    found = [FeedTick(first + index * TICK, Counts(each)) for index in range(number)]
    found[-1] = replace(found[-1], canary=Counts(each + rest - missing, row.counts["2"].errors))
    return found


def judged(rows: Sequence[MinuteRow], ticks: Sequence[FeedTick]) -> tuple[JudgingStep, ...]:
    return order(rows, ticks, new="2", first_shift=SHIFT, tick_lag=TICK_LAG, minute_lag=MINUTE_LAG).steps


def by_minutes(steps: Sequence[JudgingStep]) -> list[int]:
    """The minutes that CloudWatch decides."""
    return [round((step.at - FIRST) / MINUTE) for step in steps if step.row is not None and not step.by_ticks]


def seconds(steps: Sequence[JudgingStep]) -> list[datetime]:
    """The starts of all that the new version is judged by, in tens of seconds."""
    found = []
    for step in steps:
        if step.tick is not None:
            found.append(step.at)
        elif not step.by_ticks:
            found += [at for index in range(6) if (at := step.at + index * TICK) >= FIRST_TICK]
    return found


def test_ticks_decide_where_they_agree() -> None:
    """Every minute is judged by its ticks, each of them before its minute, and the minute tells what is left."""
    rows = [minute(index) for index in range(MINUTES)]
    steps = judged(rows, [tick for row in rows for tick in ticks_of(row)])
    assert by_minutes(steps) == [] and len(steps) == MINUTES + 6 * MINUTES - 1
    assert [step.due for step in steps] == sorted(step.due for step in steps)


def test_without_ticks_the_minutes_decide_as_they_come() -> None:
    """Nothing changes for a rollout without a feed."""
    rows = [minute(index) for index in range(MINUTES)]
    steps = judged(rows, [])
    assert [step.row for step in steps] == rows and by_minutes(steps) == list(range(MINUTES))


def test_two_minutes_that_differ_end_the_feed_and_five_that_agree_begin_it() -> None:
    """Each minute that differs is judged by CloudWatch; after the second, all that follow, until five agreed."""
    rows = [minute(index) for index in range(MINUTES)]
    missing = {2: 9, 3: 9}
    steps = judged(rows, [tick for index, row in enumerate(rows) for tick in ticks_of(row, missing.get(index, 0))])
    # The five that agree are 4 to 8; the ticks of 9 decide once 8 was judged.
    assert by_minutes(steps) == [2, 3, 4, 5, 6, 7, 8]
    assert seconds(steps) == [FIRST_TICK + index * TICK for index in range(6 * MINUTES - 1)]


def test_small_differences_add_up() -> None:
    """Two thirds of the failures are missing in the ticks, one a minute: that is found by the sum."""
    rows = [minute(index, requests=6, errors=1) for index in range(6)]
    ticks = [replace(tick, canary=replace(tick.canary, errors=0)) for row in rows for tick in ticks_of(row)]
    assert by_minutes(judged(rows, ticks))[:2] == [0, 1]


def test_one_request_at_the_edge_of_a_minute_is_no_difference() -> None:
    """It may be counted in either of two minutes."""
    rows = [minute(0, 60), minute(1, 61), minute(2, 60)]
    ticks = [tick for row in rows for tick in ticks_of(minute(round((row.at - FIRST) / MINUTE), 60))]
    assert by_minutes(judged(rows, ticks)) == []


@st.composite
def rollouts(draw: st.DrawFn, agree: bool = False) -> tuple[list[MinuteRow], list[FeedTick]]:
    """Minutes of which some are incomplete or differ from their ticks, and of which some ticks were not read."""
    rows = []
    ticks: list[FeedTick] = []
    for index in range(MINUTES):
        row = minute(index, errors=draw(st.integers(0, 2)))
        ticks += ticks_of(row, missing=0 if agree else draw(st.sampled_from([0, 0, 0, 1, 9])))
        if draw(st.integers(0, 9)) == 0:
            counts = {version: replace(each, unknown=frozenset(("errors",))) for version, each in row.counts.items()}
            row = replace(row, counts=counts)
        rows.append(row)
    if agree:
        return rows, ticks
    gaps = draw(st.lists(st.tuples(st.integers(0, len(ticks) - 1), st.integers(1, 20)), max_size=3))
    unread = {index for start, length in gaps for index in range(start, start + length)}
    return rows, [tick for index, tick in enumerate(ticks) if index not in unread]


@given(rollouts())
def test_each_second_is_judged_once(rollout: tuple[list[MinuteRow], list[FeedTick]]) -> None:
    """At any switch from ticks to minutes and back no second is judged twice, and none is left out."""
    rows, ticks = rollout
    incomplete = {row.at for row in rows if row.incomplete}
    expected = [FIRST_TICK + index * TICK for index in range(6 * MINUTES - 1)]
    found = seconds(judged(rows, ticks))
    assert found == sorted(set(found))
    assert {at for at in expected if floor_minute(at) not in incomplete} <= set(found) <= set(expected)


@given(rollouts(agree=True), st.integers(0, 60 * MINUTES))
def test_what_was_judged_stays(rollout: tuple[list[MinuteRow], list[FeedTick]], second: int) -> None:
    """At any moment, that was judged which a resumed rollout judges first: the figures decide, not when they came."""
    rows, ticks = rollout
    now = FIRST + timedelta(seconds=second)
    seen = judged(
        [row for row in rows if row.at + MINUTE + MINUTE_LAG <= now],
        [tick for tick in ticks if tick.end + TICK_LAG <= now],
    )
    assert seen == tuple(step for step in judged(rows, ticks) if step.due <= now)


@given(rollouts())
def test_ticks_that_decide_were_borne_out(rollout: tuple[list[MinuteRow], list[FeedTick]]) -> None:
    """No minute that differs by more than 5 % and one request is judged by its ticks."""
    rows, ticks = rollout
    for step in judged(rows, ticks):
        if step.row is None or not step.by_ticks:
            continue
        own = [tick.canary.requests for tick in ticks if floor_minute(tick.at) == step.at]
        counted = step.row.counts["2"].requests
        assert abs(sum(own) - counted) <= 1 + 0.05 * counted
