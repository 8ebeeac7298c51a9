"""Latency is judged without cold starts: who is blamed, what is read of the log, and what happens without it."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buddy_ops.aws.function_log import Report, parse_report
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AccessDenied, AwsFailed, Throttled
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import rollout
from buddy_ops.health import cold_starts
from buddy_ops.health.cold_starts import ColdStartReader, without_cold_starts
from buddy_ops.health.counts import Counts, Minute
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.judge import Judge
from buddy_ops.health.metrics import MINUTE, MinuteRow
from buddy_sandbox import builds
from buddy_sandbox.faults import FaultProfile
from tests.conftest import Situation, approve, intercept, sampled

Bring = Callable[..., Situation]
JSON = {"log_format": "JSON"}
OWN_GROUP = {"log_group": "/skills/all"}
BOUND_MS = 6000.0

# Who is blamed


def ends(here: Situation, artifact: str, prepare: Callable[[Target], None] = lambda _: None) -> Outcome:
    """How a canary ends."""
    mine = here.connect()
    prepare(mine)
    plan = rollout.plan_rollout(mine, artifact)
    outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    mine.close()
    return outcome


CONFIGURATIONS: tuple[dict[str, Any], ...] = ({}, JSON, OWN_GROUP, JSON | OWN_GROUP)
SAMPLE = (1, 4)
"""Seeds that were rolled back at 10 % when all requests were judged."""

SEEDS = [
    pytest.param(seed, CONFIGURATIONS[(seed - 1) % 4], marks=[] if seed in SAMPLE else [pytest.mark.whole])
    for seed in range(20)
]


@pytest.mark.parametrize(("seed", "more"), sampled(SEEDS, slice(1)))
def test_slow_cold_starts_blame_nobody(situation: Bring, seed: int, more: dict[str, Any]) -> None:
    """At 60 requests a minute, half of the cold starts slow: the build stays, and the outcome says what was left out."""
    here = situation("cold_starts", seed=seed, history_minutes=70, **more)
    outcome = ends(here, here.build("slow_cold_starts"))
    assert outcome.ending in ("proved", "unproven"), outcome.reasons
    assert "cold start" in outcome.reasons[-1] and "took over 6 s" in outcome.reasons[-1]
    assert here.alias()["FunctionVersion"] == "2"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(1, 20))])
def test_a_build_with_slow_warm_requests_is_rolled_back(situation: Bring, seed: int) -> None:
    """One request in ten takes 6.5 s, and so does every second cold start: that is found without the cold starts."""
    here = situation("cold_starts", seed=seed, history_minutes=70)
    slow = FaultProfile("slow", slow_rate=0.1, slow_ms=6500.0, cold_slow_rate=0.5)
    outcome = ends(here, str(builds.write(Path(here.folder) / "slow.zip", slow, "2.0.0")))
    assert outcome.ending == "rolled-back" and "over 6 s" in outcome.reasons[0]
    assert here.alias()["FunctionVersion"] == "1"


def test_a_good_rollout_reads_no_log(situation: Bring) -> None:
    """Where no request is slow, no log is read."""
    here = situation("good", history_minutes=70)
    assert ends(here, here.build("good")).ending == "proved"
    assert here.calls("FilterLogEvents") == []


# Without the log


def failing(failure: AwsFailed, times: float = float("inf")) -> Callable[[Target], None]:
    """Let reads of the log fail, the first so many of them."""
    left = itertools.count()

    def fail(send: Any, service: str, operation: str, **fields: Any) -> Any:
        if operation == "filter_log_events" and next(left) < times:
            raise failure
        return send(service, operation, **fields)

    return lambda mine: intercept(mine, fail)


DENIED = AccessDenied(
    "access-denied", "AWS refused logs:FilterLogEvents.", now="", next="", code="AccessDeniedException"
)
SLOW_DOWN = Throttled("throttled", "AWS throttled logs:FilterLogEvents.", now="", next="", code="ThrottlingException")


MINUTES_AS_BEFORE = 14
"""So long a canary with seed 1 lasted until it was rolled back, when all requests were judged."""


@pytest.mark.parametrize(
    ("more", "prepare", "says"),
    sampled(
        [
            ({}, failing(DENIED), "AWS refused logs:FilterLogEvents"),
            ({}, failing(SLOW_DOWN), "AWS throttled logs:FilterLogEvents"),
            ({"logs_delay_s": 3600}, lambda _: None, "are in its log"),
            (JSON | {"system_log_level": "WARN"}, lambda _: None, "SystemLogLevel WARN"),
            (JSON | OWN_GROUP | {"system_log_level": "WARN"}, lambda _: None, "SystemLogLevel WARN"),
        ],
        slice(None, None, 3),
    ),
    ids=["denied", "throttled", "late", "no reports", "no reports in a group of its own"],
)
def test_without_the_log_all_requests_are_judged(
    situation: Bring, more: dict[str, Any], prepare: Callable[[Target], None], says: str
) -> None:
    """What cannot be read is unknown: the rollout ends as it did before, a poll later at most, and says why."""
    here = situation("cold_starts", seed=1, history_minutes=70, **more)
    outcome = ends(here, here.build("slow_cold_starts"), prepare)
    assert (outcome.ending, outcome.stage) == ("rolled-back", "1")
    assert (outcome.ended - outcome.began) / MINUTE <= MINUTES_AS_BEFORE + 1
    assert says in outcome.reasons[-1] and "all requests are judged" in outcome.reasons[-1]


@pytest.mark.whole
def test_a_rollout_that_never_reads_a_log_ends_as_it_did(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``MINUTES_AS_BEFORE`` says."""
    here = situation("cold_starts", seed=1, history_minutes=70)
    monkeypatch.setattr(ColdStartReader, "ask", lambda *_: None)
    outcome = ends(here, here.build("slow_cold_starts"))
    assert (outcome.ending, outcome.stage) == ("rolled-back", "1")
    assert (outcome.ended - outcome.began) / MINUTE <= MINUTES_AS_BEFORE


def test_a_log_that_is_throttled_once_is_read_at_the_next_poll(situation: Bring) -> None:
    """Then nothing is unknown, and nobody is blamed."""
    here = situation("cold_starts", seed=1, history_minutes=70)
    outcome = ends(here, here.build("slow_cold_starts"), failing(SLOW_DOWN, times=1))
    assert outcome.ending == "proved" and "unknown" not in " ".join(outcome.reasons)


# One minute after the other


def minute(situation: Bring, **more: Any) -> tuple[RolloutEvidence, Target, Any]:
    """Evidence of a version at 50 %, shifted now, and the versions' cold starts slow; at a whole minute."""
    here = situation("cold_starts", history_minutes=70, **more)
    here.publish(here.build("slow_cold_starts"))
    routing = {"AdditionalVersionWeights": {"2": 0.5}}
    here.ask("advance", seconds=-here.ask("clock")["now"] % 60)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", RoutingConfig=routing)
    mine = here.connect()
    now = mine.clock.now()
    found = RolloutEvidence(mine, "1", "2")
    found.shifted(now, 0.5)
    return found, mine, now


@pytest.mark.whole
def test_a_resumed_run_judges_the_same(situation: Bring) -> None:
    """A run that reads all minutes at once leaves out the same cold starts as one that read them one by one."""
    found, mine, now = minute(situation)
    for _ in range(12):
        mine.clock.sleep_until(mine.clock.now() + MINUTE)
        found.read(mine.clock.now())
        verdict = found.verdict(mine.clock.now(), 300, final=False)
    resumed = RolloutEvidence(mine, "1", "2")
    resumed.shifted(now, 0.5)
    resumed.read(mine.clock.now())
    assert resumed.verdict(mine.clock.now(), 300, final=False) == verdict
    assert resumed.judge == found.judge and verdict.cold_slow > 0


def test_no_rollback_for_errors_waits_for_the_log(two_versions: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where errors decide, the log is not read at all."""
    mine = two_versions.connect()
    found = RolloutEvidence(mine, "1", "2")
    now = mine.clock.now().replace(second=0, microsecond=0)
    found.shifted(now, 0.1)

    def read(*_: Any) -> None:
        raise AssertionError("the log was read")

    monkeypatch.setattr(ColdStartReader, "_find", read)
    found._append(MinuteRow(now + 2 * MINUTE, {"1": Counts(5400), "2": Counts(600, 300, slow=300)}))
    found._judge_due()
    verdict = found.verdict(now + 5 * MINUTE, 300, final=False)
    assert (verdict.decision, verdict.cause) == ("rollback", "errors")


def test_no_stage_passes_while_the_log_is_awaited(two_versions: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency is unknown until the next poll: the bake's end waits for it, and says so."""
    mine = two_versions.connect()
    found = RolloutEvidence(mine, "1", "2")
    now = mine.clock.now().replace(second=0, microsecond=0)
    found.shifted(now, 0.1)
    for index in range(1, 8):
        slow = int(index == 7)
        found._append(MinuteRow(now + index * MINUTE, {"1": Counts(54), "2": Counts(6, slow=slow)}))
    found._judge_due()

    def late(*_: Any) -> None:
        raise cold_starts._Unreadable("no reports yet", passing=True)

    monkeypatch.setattr(ColdStartReader, "_find", late)
    found._read_at = now + 10 * MINUTE
    for _ in range(2):  # asked twice in one poll, as at a promotion
        verdict = found.verdict(now + 10 * MINUTE, 300, final=False)
        assert (verdict.decision, verdict.finding) == ("hold", "cold-starts")
    assert "cannot be read yet" in verdict.reasons[0]
    found._read_at = now + 11 * MINUTE
    verdict = found.verdict(now + 11 * MINUTE, 300, final=False)
    assert verdict.finding != "cold-starts" and "1 minute" in verdict.cold_trouble


def test_an_environment_writes_to_the_stream_of_its_first_day(situation: Bring) -> None:
    """After midnight (UTC) warm requests are in the stream of the day before, and cold starts in a new one."""
    here = situation("cold_starts", history_minutes=10, cold_starts_per_minute=5)
    here.ask("advance", seconds=86_400 + 300 - here.ask("clock")["now"] % 86_400)
    mine = here.connect()
    at = mine.clock.now().replace(second=0, microsecond=0) - 3 * MINUTE
    assert (at.hour, at.minute) == (0, 2)
    prefix = {"logGroupName": f"/aws/lambda/{here.function}", "filterPattern": '"REPORT RequestId"'}
    span = {"startTime": round(at.timestamp() * 1000), "endTime": round((at + 2 * MINUTE).timestamp() * 1000)}
    events = here.client("logs").filter_log_events(**prefix, **span)["events"]
    streams = {event["logStreamName"][:10] for event in events}
    assert len(streams) == 2
    slow = sum(each.duration_ms > BOUND_MS for each in _parsed(events, at))
    counts = Counts(len(_parsed(events, at)), slow=slow)
    reader = ColdStartReader(mine, ("1",))
    reader._minutes[at] = cold_starts._Minute({"1": counts})
    assert reader.read(mine.clock.now()) and not reader.trouble
    found = reader.counts(MinuteRow(at, {"1": counts}), "1")
    assert found.cold == sum(each.start_ms is not None for each in _parsed(events, at)) > 0
    assert found.cold_slow == slow


def _parsed(events: list[dict[str, Any]], at: Any) -> list[Report]:
    begins_in = cold_starts._begins_in(at)
    reports = [(parse_report(event["message"]), event["timestamp"]) for event in events]
    return [report for report, written in reports if report is not None and begins_in(report, written)]


# Exactness

REQUEST = st.tuples(st.booleans(), st.booleans())
"""Whether a request was a cold start, and whether it was slow."""


def reports(requests: list[tuple[bool, bool]], first: int = 0) -> list[Report]:
    """What Lambda reports of them."""
    return [
        Report(str(first + index), 6500.0 if slow else 180.0, 650.0 if cold else None)
        for index, (cold, slow) in enumerate(requests)
    ]


@given(st.lists(REQUEST, max_size=60))
def test_what_is_left_are_the_warm_requests(requests: list[tuple[bool, bool]]) -> None:
    """With the cold starts removed, the counts are those of the warm requests."""
    counts = Counts(len(requests), slow=sum(slow for _, slow in requests))
    found = without_cold_starts(counts, reports(requests), BOUND_MS)
    warm = [slow for cold, slow in requests if not cold]
    assert found is not None and found.warm == (sum(warm), len(warm))


@given(st.lists(REQUEST, max_size=60), st.lists(REQUEST, max_size=10))
def test_requests_of_others_hide_no_slow_one(
    requests: list[tuple[bool, bool]], others: list[tuple[bool, bool]]
) -> None:
    """The log also has requests that named the version itself: of the alias's, no fewer are left than are warm."""
    counts = Counts(len(requests), slow=sum(slow for _, slow in requests))
    found = without_cold_starts(counts, reports(requests) + reports(others, first=100), BOUND_MS)
    warm = [slow for cold, slow in requests if not cold]
    assert found is not None and found.warm[0] >= sum(warm) and found.warm[1] >= len(warm)
    assert found.warm[0] <= counts.slow and found.cold >= found.cold_slow >= 0


@given(st.lists(REQUEST, min_size=1, max_size=60), st.data())
def test_missing_reports_are_unknown(requests: list[tuple[bool, bool]], data: st.DataObject) -> None:
    """Without a slow request's report, or with too few, nothing is known of the minute."""
    counts = Counts(len(requests), slow=sum(slow for _, slow in requests))
    kept = data.draw(st.lists(st.sampled_from(requests), max_size=len(requests) - 1))
    if sum(slow for _, slow in kept) < counts.slow:
        assert without_cold_starts(counts, reports(kept), BOUND_MS) is None


def test_versions_that_differ_in_cold_starts_alone_are_alike() -> None:
    """A slow request is the new version's by the warm requests, however many cold starts either version had."""
    for stable, canary in ((Counts(90, slow=1), Counts(10, slow=1, cold=8, cold_slow=1)), (Counts(90), Counts(10))):
        judge = Judge()
        for _ in range(60):
            judge.observe(Minute(0.1, stable, canary))
        assert judge.scores().slow.base <= 1.0
    few_of_stable = Judge()
    for _ in range(30):
        # Of 50 warm requests of each one is slow: no difference, though stable serves 90 %.
        stable = Counts(90, slow=21, cold=40, cold_slow=20)
        few_of_stable.observe(Minute(0.1, stable, Counts(50, slow=1, cold=0)))
    assert few_of_stable.scores().slow.base <= 2.0


def test_a_report_in_two_minutes_is_asked_of_both() -> None:
    """Whether CloudWatch counts a cold start before or after its init, its report is found."""
    at = cold_starts.datetime.fromisoformat("2026-11-29T02:58:00+00:00")
    written_ms = round((at + timedelta(seconds=61)).timestamp() * 1000)
    cold = Report("a", 500.0, 2000.0)
    assert cold_starts._begins_in(at)(cold, written_ms)
    assert cold_starts._begins_in(at + MINUTE)(cold, written_ms)
    warm = Report("b", 500.0)
    assert not cold_starts._begins_in(at)(warm, written_ms)
    assert cold_starts._begins_in(at + MINUTE)(warm, written_ms)


def test_cold_starts_of_stable_excuse_no_slow_build(situation: Bring) -> None:
    """After a rollback from 100 % for latency, stable starts many slow environments: it is tested without them."""
    here = situation("cold_starts", seed=1, history_minutes=70)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["smoke_tested"] = []
    mine = here.connect(values=values)
    slow = builds.write(Path(here.folder) / "slow.zip", FaultProfile("slow", slow_rate=0.2, slow_ms=6500.0), "2.0.0")
    plan = rollout.plan_rollout(mine, str(slow), "all_at_once")
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    try:
        while True:
            seen = next(steps)
            if seen.stage == "rolled-back":
                here.ask("set", cold_starts_per_minute=20)
            mine.clock.sleep_until(seen.wake_at)
    except StopIteration as end:
        outcome: Outcome = end.value
    mine.close()
    assert outcome.ending == "rolled-back" and "over 6 s" in outcome.reasons[0]
    assert any("v1 alone" in reason and "stays marked bad" in reason for reason in outcome.reasons), outcome.reasons
