"""The log feed: what a tick counts, whatever pages, order, duplicates, lateness and midnight do to the log."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.aws import versions
from buddy_ops.aws.function_log import LogConfig, Report
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.core.errors import AccessDenied
from buddy_ops.core.text import floor_minute
from buddy_ops.health import log_feed, metrics
from buddy_ops.health.counts import Counts
from buddy_ops.health.log_feed import TICK, FeedTick, LogFeed, LogLine, Ticks
from tests.conftest import Situation, intercept, sampled

Bring = Callable[..., Situation]
START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
START_MS = START.timestamp() * 1000
LAG = timedelta(seconds=20)
BOUND_MS = 6000.0
DENIED = AccessDenied(
    "access-denied", "AWS refused logs:FilterLogEvents.", now="", next="", code="AccessDeniedException"
)


def line(number: int, at_s: float = 5.0, version: str = "2", ingested_s: float = 0.0, **report: Any) -> LogLine:
    """The report of a request that began so many seconds after START."""
    begun_ms = START_MS + 1000 * at_s
    request = f"request-{number}"
    made = Report(request, **{"duration_ms": 100.0, **report})
    return LogLine(f"event-{number}", version, begun_ms, round(begun_ms + 1000 * ingested_s), request, made)


def counted(line: LogLine) -> LogLine:
    """The line of a failure metric of the same request."""
    return line._replace(event=f"{line.event}-metric", report=None)


def again(line: LogLine, after_s: float = 60.5, version: str = "2") -> LogLine:
    """The next attempt of the same request."""
    later_ms = round(1000 * after_s)
    return line._replace(
        event=f"{line.event}-{after_s}",
        version=version,
        begun_ms=line.begun_ms + later_ms,
        ingested_ms=line.ingested_ms + later_ms,
    )


def buffer() -> Ticks:
    return Ticks("1", "2", START, lag=LAG, bound_ms=BOUND_MS)


def cut(*lines: LogLine) -> FeedTick:
    """The first tick."""
    ticks = buffer()
    ticks.add(lines)
    (first,) = ticks.cut_until(START + TICK + LAG)
    return first


# What a tick counts


def test_a_tick_counts_both_versions() -> None:
    """Requests, failures, slow requests and cold starts of the new version; of stable all but its requests."""
    slow: dict[str, Any] = {"duration_ms": 7000.0}
    new = [line(1), line(2, failed=True), line(3, **slow), line(4, start_ms=300.0), line(5, start_ms=9000.0, **slow)]
    old = [line(6, version="1", failed=True), line(7, version="1", **slow), line(8, version="1", start_ms=1.0, **slow)]
    other = [line(9, version="7", failed=True), line(10, at_s=10.0, failed=True)]
    counts = Counts(5, 1, slow=2, cold=2, cold_slow=1)
    expected = FeedTick(START, counts, stable_errors=1, stable_slow=2, stable_cold_slow=1)
    assert cut(*new, *old, *other) == expected


def test_a_request_fails_once() -> None:
    """It may both raise and have a line of a failure metric; a line without its request is one failure."""
    raised = line(1, failed=True)
    apologised = line(2)
    nameless = counted(line(3))._replace(request="")
    tick = cut(raised, counted(raised), apologised, counted(apologised), line(3), nameless)
    assert (tick.canary.requests, tick.canary.errors) == (3, 3)
    assert cut(counted(line(4, version="1")), line(5, version="1", failed=True)).stable_errors == 2


@pytest.mark.parametrize("after_s", [0.2, 12, 60.5, 121])
def test_each_attempt_of_a_request_counts(after_s: float) -> None:
    """As in CloudWatch: Lambda tries an event again under the same request ID, or delivers it twice at once.

    An attempt that raised after it was counted by a failure metric is one failure, and so is one that is read twice.
    """
    first = line(1, failed=True)
    second = again(first, after_s)
    last = again(line(1), 2 * after_s)
    beside = again(line(2, failed=True), after_s, version="1")
    lines = [first, second, last, beside, counted(first), line(2, failed=True)]
    if after_s > LAG.total_seconds():
        lines += [counted(second), counted(last)]
    ticks = buffer()
    ticks.add([*lines, *(each._replace(event=f"{each.event}-twice") for each in lines)])
    found = ticks.cut_until(START + 26 * TICK + LAG)
    of_last = 1 if counted(last) in lines else 0
    assert sum(tick.canary.requests for tick in found) == 4
    assert sum(tick.canary.errors for tick in found) == 3 + of_last
    assert sum(tick.stable_errors for tick in found) == 1


def test_a_failure_that_is_counted_in_the_next_tick_is_not_lost() -> None:
    """Where a metric's line comes a tick after its request, the failure is one of the requests there."""
    ticks = buffer()
    ticks.add([line(1, at_s=9.9), counted(line(1, at_s=10.1)), line(2, at_s=21.0)])
    found = ticks.cut_until(START + 3 * TICK + LAG)
    assert [(tick.canary.requests, tick.canary.errors) for tick in found] == [(1, 0), (0, 0), (1, 1)]


def test_late_lines_are_left_out() -> None:
    """A line that is ingested after its tick was due is not counted, also where the tick is cut later."""
    lines = [line(1), line(2, ingested_s=22.5), line(3, ingested_s=23.5)]
    ticks = buffer()
    ticks.add(lines)
    (tick,) = ticks.cut_until(START + TICK + LAG)
    assert tick.canary.requests == 2 and ticks.late == {"2": 1}
    ticks.add([line(4)])
    assert ticks.late == {"2": 2}
    resumed = buffer()
    resumed.add(lines)
    assert resumed.cut_until(START + 2 * TICK + LAG)[0] == tick


def numbered(number: int, request: int, metric: bool, **options: Any) -> LogLine:
    """A line that other lines of the same request may be among."""
    made = line(number, **options)._replace(request=f"request-{request}")
    return counted(made) if metric else made


LINES = st.builds(
    numbered,
    st.integers(0, 100),
    request=st.integers(0, 20),
    metric=st.sampled_from([False, False, False, True]),
    at_s=st.floats(0, 59, allow_nan=False),
    version=st.sampled_from("12"),
    ingested_s=st.floats(0, 30, allow_nan=False),
    failed=st.booleans(),
    duration_ms=st.sampled_from([100.0, 6500.0]),
    start_ms=st.sampled_from([None, None, 250.0]),
)


@given(
    st.lists(LINES, max_size=60, unique_by=(lambda each: each.event, lambda each: (each.request, each.begun_ms))),
    st.data(),
)
def test_pages_order_and_duplicates_change_nothing(lines: list[LogLine], data: st.DataObject) -> None:
    """Read once at the end, or at each poll again, in any order and any line several times: the ticks are the same."""
    end = START + 6 * TICK + LAG
    once = buffer()
    once.add(lines)
    polled = buffer()
    found: list[FeedTick] = []
    for poll in range(8):
        now = START + (poll + 1) * TICK
        readable = [each for each in lines if each.ingested_ms + 2000 <= now.timestamp() * 1000]
        polled.add(data.draw(st.permutations(readable + readable[: poll * 3])))
        found += polled.cut_until(now)
    assert found == once.cut_until(end) and len(found) == 6


# Where the feed can be used

JSON = LogConfig("/aws/lambda/f", is_json=True)


def version(here: Target, **more: Any) -> Version:
    return replace(versions.read_version(here, "1"), **{"log": JSON, "timeout_s": 8, **more})


def test_why_the_feed_cannot_be_used(situation: Bring) -> None:
    """Each reason is a sentence; a log of JSON with reports has none."""
    mine = situation("good", history_minutes=0).connect(quiet=True)
    on = mine.settings
    usable = version(mine)
    assert log_feed.why_not(on, [usable, usable]) == ""
    off = on.model_copy(update={"health": on.health.model_copy(update={"log_feed": False})})
    assert log_feed.why_not(off, [usable]) == "The setting health.log_feed is off."
    for other, says in (
        ({"log": replace(JSON, is_json=False)}, "is text (LogFormat)"),
        ({"log": replace(JSON, reports=False)}, "SystemLogLevel WARN"),
        ({"timeout_s": 60}, "may last 60 s (Timeout)"),
    ):
        assert says in log_feed.why_not(on, [usable, version(mine, **other)])
    metric = on.failure_metrics[0]
    for changed, says in (({"expression": "{metric} * 1"}, "cannot be counted in the log"), ({"name": "a b"}, "a b")):
        changed_metric = metric.model_copy(update=changed)
        assert says in log_feed.why_not(on.model_copy(update={"failure_metrics": (changed_metric,)}), [usable])
    fast = on.model_copy(update={"health": on.health.model_copy(update={"late_data_s": 10})})
    assert "come as early" in log_feed.why_not(fast, [usable])


def test_a_tick_waits_for_the_longest_request() -> None:
    """A request that lasts as long as Lambda lets it has its report by then."""
    lags = [log_feed.lag_of([replace_timeout(seconds)]).total_seconds() for seconds in (3, 8, 9, 30)]
    assert lags == [20, 20, 21, 42]


def replace_timeout(seconds: int) -> Version:
    """A version that is of no interest but for its time-out."""
    known = dict.fromkeys(
        ("number", "arn", "sha256", "revision", "description", "state", "update", "reason", "role"), ""
    )
    rest = {"modified_at": START, "code_bytes": 0, "log": JSON, "settings": {}, "environment": {}}
    return Version(timeout_s=seconds, **known, **rest)  # type: ignore[arg-type]


# On the sandbox


def split(here: Situation, build: str, share: float = 0.4) -> tuple[Target, LogFeed]:
    """Traffic on two versions, and the feed of their rollout."""
    mine = here.connect(quiet=True)
    number = here.publish(here.build(build), settle_s=5)
    routing = {"AdditionalVersionWeights": {number: share}}
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", RoutingConfig=routing)
    pair = [versions.read_version(mine, each) for each in ("1", number)]
    return mine, LogFeed(mine, pair, mine.clock.now())


def poll(mine: Target, feed: LogFeed, polls: int) -> list[FeedTick]:
    """Read the log every 10 s."""
    for _ in range(polls):
        mine.clock.sleep_until(mine.clock.now() + TICK)
        feed.read(mine.clock.now())
    return feed.ticks


def of_minute(ticks: Sequence[FeedTick], at: datetime) -> Counts:
    found = Counts()
    for tick in ticks:
        if at <= tick.at < at + metrics.MINUTE:
            found += tick.canary
    return found


def assert_as_cloudwatch(mine: Target, ticks: Sequence[FeedTick], pair: tuple[str, str] = ("1", "2")) -> None:
    """The whole minutes of the ticks are those that CloudWatch has."""
    stable_version, new_version = pair
    first = floor_minute(ticks[0].at) + metrics.MINUTE
    until = floor_minute(ticks[-1].end)
    mine.clock.sleep_until(mine.clock.now() + 2 * metrics.MINUTE)
    rows = metrics.read_minutes(mine, pair, lambda _: stable_version, first, until).rows
    assert len(rows) >= 2
    for row in rows:
        found = of_minute(ticks, row.at)
        wanted = row.counts[new_version]
        assert wanted.requests > 50 and abs(found.requests - wanted.requests) <= 1
        assert abs(found.errors - wanted.errors) <= 1
        stable = sum(tick.stable_errors for tick in ticks if row.at <= tick.at < row.at + metrics.MINUTE)
        assert abs(stable - row.counts[stable_version].errors) <= 1


FLAWS = {"logs_duplicated_rate": 0.3, "logs_shuffled": True, "logs_page_events": 25}


@pytest.mark.parametrize(
    ("build", "more"),
    sampled(
        [
            ("errors_5_percent", {}),
            ("apologises", FLAWS),
            ("timeouts", {"log_group": "/skills/all"}),
            ("errors_5_percent", {"logs_late_rate": 0.3, "logs_late_s": 8}),
        ],
        slice(None, None, 2),
    ),
    ids=["errors", "apologies in shuffled pages", "time-outs in a shared group", "late lines"],
)
def test_ticks_count_what_cloudwatch_counts(situation: Bring, build: str, more: dict[str, Any]) -> None:
    """Requests and failures of a version are the same in both sources, whatever kind of failures they are."""
    here = situation("good", history_minutes=3, requests_per_minute=300, log_format="JSON", **more)
    mine, feed = split(here, build)
    ticks = poll(mine, feed, 20)
    assert sum(tick.canary.errors for tick in ticks) > 3
    assert_as_cloudwatch(mine, ticks)
    mine.close()


RAISES_A_THIRD = """
def handler(event, context):
    if int(context.aws_request_id[-3:], 16) % 3 == 0:
        raise ValueError("no")
"""


def test_asynchronous_events_that_are_tried_again(situation: Bring) -> None:
    """Each attempt is a request in both sources; it has the request ID of the first one, and fails again."""
    here = situation("no_traffic", history_minutes=0)
    source = here.folder / "app" / "app.py"
    source.parent.mkdir()
    source.write_text(RAISES_A_THIRD)
    here.ask("function", name="mail", artifact=str(source.parent), kind="async", requests_per_minute=240)
    lam = here.client("lambda")
    pair = ("2", "3")
    for number in pair:
        logging: Any = {"LogFormat": "JSON"}
        lam.update_function_configuration(FunctionName="mail", Description=number, LoggingConfig=logging)
        here.ask("advance", seconds=10)
        lam.publish_version(FunctionName="mail")
    lam.update_alias(
        FunctionName="mail", Name="live", FunctionVersion="2", RoutingConfig={"AdditionalVersionWeights": {"3": 0.4}}
    )
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    mine = here.connect(quiet=True, values=values | {"function": "mail", "failure_metrics": []})
    feed = LogFeed(mine, [versions.read_version(mine, each) for each in pair], mine.clock.now())
    ticks = poll(mine, feed, 24)
    assert_as_cloudwatch(mine, ticks, pair)
    reported = [request for _, request in feed._buffer._failed]
    assert len(reported) > len(set(reported)), "an event that failed on one version failed on the other, too"
    mine.close()


def test_lost_lines_are_missing(situation: Bring) -> None:
    """What is not in the log is not in the ticks: the order of judging compares both sources."""
    here = situation("good", history_minutes=3, log_format="JSON", logs_lost_rate=0.3)
    mine, feed = split(here, "good")
    ticks = poll(mine, feed, 12)
    share = sum(tick.canary.requests for tick in ticks) / (100 * 0.4 * len(ticks))
    assert 0.5 < share < 0.9
    mine.close()


def test_midnight(situation: Bring) -> None:
    """Environments that start after midnight write to the streams of the new day, and the others to those of before."""
    here = situation("good", history_minutes=3, requests_per_minute=300, log_format="JSON", cold_starts_per_minute=60)
    now = datetime.fromtimestamp(here.ask("status")["now"], UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=(midnight - now).total_seconds() - 120)
    here.ask("set", requests_per_minute=300)
    mine, feed = split(here, "errors_5_percent")
    ticks = poll(mine, feed, 24)
    assert ticks[0].at < midnight < ticks[-1].at
    assert_as_cloudwatch(mine, ticks)
    mine.close()


def test_a_throttled_log_is_read_later(situation: Bring) -> None:
    """A poll that AWS throttles says so, and the next one reads what it missed: each tick is cut once."""
    here = situation("good", history_minutes=3, requests_per_minute=300, log_format="JSON")
    mine, feed = split(here, "errors_5_percent")
    poll(mine, feed, 6)
    here.ask("set", logs_throttle_s=25)
    cut_before = len(feed.ticks)
    poll(mine, feed, 1)
    assert "ThrottlingException" in feed.trouble and not feed.ended and len(feed.ticks) == cut_before
    ticks = poll(mine, feed, 14)
    assert feed.trouble == "" and [tick.at for tick in ticks] == [ticks[0].at + n * TICK for n in range(len(ticks))]
    assert_as_cloudwatch(mine, ticks)
    mine.close()


def test_a_log_that_may_not_be_read_ends_the_feed(situation: Bring) -> None:
    """No poll is tried again where the role has no permission."""
    here = situation("good", history_minutes=3, log_format="JSON")
    mine, feed = split(here, "good")
    asked: list[str] = []

    def deny(send: Any, service: str, operation: str, **fields: Any) -> Any:
        if operation == "filter_log_events":
            asked.append(operation)
            raise DENIED
        return send(service, operation, **fields)

    intercept(mine, deny)
    poll(mine, feed, 3)
    assert feed.ended and len(asked) == 1 and "refused" in feed.trouble
    mine.close()


def test_more_pages_than_a_poll_reads(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy function has its minutes: the feed ends."""
    here = situation("good", history_minutes=3, requests_per_minute=300, log_format="JSON", logs_page_events=5)
    monkeypatch.setattr(log_feed, "MOST_PAGES", 3)
    mine, feed = split(here, "good")
    poll(mine, feed, 6)
    assert "more than 3 pages" in feed.trouble and feed.ended and feed.ticks == []
    mine.close()
