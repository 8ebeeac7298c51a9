"""Rollouts by the log feed, end to end on the sandbox: what a bad build costs, and what a bad log changes."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.checks import setup
from buddy_ops.checks.findings import CheckContext, Finding, State, run_checks
from buddy_ops.core.outcome import Outcome
from buddy_ops.core.roles import Role
from buddy_ops.deployment import rollout
from buddy_ops.deployment.observation import Observation
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.judge import Judge
from buddy_sandbox import builds
from buddy_sandbox.faults import FaultProfile
from tests.conftest import Situation, begun, follow

Bring = Callable[..., Situation]
BAD = "errors_2_percent"
"""The situation in which, and here in the place of whose build, one that fails 20 % is deployed."""

JSON_LOG = {"log_format": "JSON", "history_minutes": 30, "requests_per_minute": 600}


def connect(here: Situation, feed: bool = True, **rollout_settings: Any) -> Target:
    """A target with the stages of prod, and with the feed or without."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["health"]["log_feed"] = feed
    values["rollout"] |= {"stages_percent": [10, 50, 100], "bake_minutes": 5, "ramp": {}, **rollout_settings}
    return here.connect(values=values)


def ended(
    here: Situation, build: str, look: Callable[[Observation], None] = lambda _: None, rate: float = 0.2, **options: Any
) -> Outcome:
    """How a canary ends; ``look`` is called at each poll. The bad build fails this part of its requests."""
    mine = connect(here, **options)
    artifact = here.build(build)
    if build == BAD:
        bad = FaultProfile("errors", error_rate=rate)
        artifact = str(builds.write(Path(here.folder) / "bad.zip", bad, "2.0.0"))
    return follow(mine, begun(mine, artifact), look)


def kinds(here: Situation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (here.folder / "run" / "journal.jsonl").read_text("utf-8").splitlines()]


def test_a_bad_build_fails_few_requests(situation: Bring) -> None:
    """At 600 requests a minute a build that fails 20 % costs a few of them at 10 %, and by minutes tens."""
    failed = {}
    for feed in (True, False):
        here = situation(BAD, **JSON_LOG)
        outcome = ended(here, BAD, feed=feed, ramp=None)
        assert outcome.ending == "rolled-back"
        failed[feed] = outcome.failed["2"]
    assert failed[True] <= 12 and failed[False] >= 3 * failed[True]


@pytest.mark.whole
@pytest.mark.parametrize("traffic", [600, 6000])
def test_with_the_ramp_the_damage_is_that_of_the_simulation(situation: Bring, traffic: int) -> None:
    """5 to 9 requests on average, whatever the rate (benchmarks/judge): in three rollouts together at most 40."""
    failed = {}
    for rate in (0.05, 0.2, 1.0):
        here = situation(BAD, **JSON_LOG | {"requests_per_minute": traffic})
        outcome = ended(here, BAD, rate=rate)
        assert outcome.ending == "rolled-back"
        failed[rate] = outcome.failed["2"]
    assert sum(failed.values()) <= 40, failed


@pytest.mark.whole
def test_a_good_build_is_promoted_sooner(situation: Bring) -> None:
    """It passes the same stages and bakes; the small weights before them take seconds, not minutes."""
    minutes = {}
    for feed in (True, False):
        here = situation("good", **JSON_LOG)
        at_full: list[datetime] = []

        def look(seen: Observation, at_full: list[datetime] = at_full) -> None:
            if seen.weight == 1.0:
                at_full.append(seen.at)

        outcome = ended(here, "good", look, feed=feed)
        assert outcome.ending == "proved"
        minutes[feed] = (at_full[0] - outcome.began).total_seconds() / 60
    assert minutes[True] <= 12 and minutes[True] <= minutes[False] - 3


FLAWED = {"logs_duplicated_rate": 0.2, "logs_shuffled": True, "logs_page_events": 200, "logs_late_rate": 0.02}


@pytest.mark.whole
def test_a_resumed_rollout_has_the_evidence_of_one_that_never_stopped(situation: Bring) -> None:
    """At any poll, all that is read again from the log and from CloudWatch gives the same state of the judge."""
    here = situation("good", **JSON_LOG | FLAWED, logs_late_s=40)
    compared = []

    def look(seen: Observation) -> None:
        live = seen.evidence
        if live is None or seen.at.second not in (0, 30) or seen.at.minute % 3:
            return
        again = RolloutEvidence(live._target, "1", "2", by_log=True)
        again.resume(here.record(), [share for _, share in live.shifts])
        again.read(seen.at)
        if not live.has_minutes_of(seen.at) or seen.at.second:
            live.read(seen.at)
        assert again.judge == live.judge
        assert again.shifts == live.shifts
        compared.append(seen.at)

    assert ended(here, "good", look, bake_minutes=3).ending == "proved"
    assert len(compared) >= 5
    assert any(each["kind"] == "log-lines-late" for each in kinds(here))


@pytest.mark.parametrize(
    "stops",
    [(45,), pytest.param((3, 11, 30, 31, 60), marks=pytest.mark.whole), pytest.param((), marks=pytest.mark.whole)],
)
def test_a_run_that_is_lost_and_resumed_decides_as_one_that_was_not(situation: Bring, stops: tuple[int, ...]) -> None:
    """Runs that end at these polls and are resumed at once: the same shifts, the same minutes and ticks, the same end."""
    flawed = JSON_LOG | FLAWED | {"logs_late_s": 40, "requests_per_minute": 150}
    ran = [carried_out(situation("good", **flawed), each) for each in ((), stops)]
    assert ran[0] == ran[1]
    assert ran[0][0] == "proved"


def carried_out(here: Situation, stops: tuple[int, ...]) -> tuple[str, list[tuple[datetime, float]], Judge]:
    """How a canary ends, when it shifted traffic, and what its judge has seen; runs end at the polls ``stops``."""
    polls = 0
    artifact = here.build("good")
    while True:
        mine = connect(here, bake_minutes=2)
        steps = begun(mine, artifact)
        try:
            while True:
                seen = next(steps)
                polls += 1
                if seen.evidence is not None:
                    last = seen.evidence
                if polls in stops:
                    steps.close()
                    break
                mine.clock.sleep_until(seen.wake_at)
        except StopIteration as end:
            return end.value.ending, last.shifts, last.judge
        finally:
            mine.close()


def sources(seen: list[str]) -> list[str]:
    """What decided, each change once."""
    return [each for index, each in enumerate(seen) if index == 0 or each != seen[index - 1]]


@pytest.mark.parametrize("build", [pytest.param("good", marks=pytest.mark.whole), "errors_5_percent"])
def test_where_lines_are_lost_the_minutes_decide(situation: Bring, build: str) -> None:
    """After two minutes that differ CloudWatch decides, and says so; the build ends as without a feed."""
    here = situation(build, **JSON_LOG, logs_lost_rate=0.2)
    said: list[str] = []

    def look(seen: Observation) -> None:
        if seen.evidence is not None:
            said.append(seen.evidence.source)

    outcome = ended(here, build, look)
    assert outcome.ending == ("proved" if build == "good" else "rolled-back")
    if build == "good":
        assert "does not show the same requests" in said[-1]


@pytest.mark.parametrize(
    ("log", "traffic"),
    [
        ({"logs_lost_rate": 1.0}, 600),
        pytest.param({"logs_lost_rate": 1.0}, 6000, marks=pytest.mark.whole),
        pytest.param({"logs_late_rate": 1.0, "logs_late_s": 60}, 6000, marks=pytest.mark.whole),
    ],
)
def test_a_silent_log_passes_no_rung_of_the_ramp(situation: Bring, log: dict[str, float], traffic: int) -> None:
    """Lines that are lost, or a minute late, are no good news: a build that fails everything waits at the first weight."""
    here = situation(BAD, **JSON_LOG | log | {"requests_per_minute": traffic})
    said: list[str] = []
    outcome = ended(here, BAD, lambda seen: said.append(seen.says), rate=1.0)
    assert outcome.ending == "rolled-back"
    assert any("The log shows no request of v2 in this stage yet." in each for each in said)
    # Three minutes at the first weight, which sends three requests in 30 s.
    assert outcome.failed["2"] <= 40


@pytest.mark.whole  # a throttled poll itself has a test in tests/health
def test_a_throttled_log_delays_and_the_minutes_go_on(situation: Bring) -> None:
    """While the log cannot be read the minutes decide; then ticks do again. No time is judged twice."""
    here = situation("good", **JSON_LOG)
    said: list[str] = []

    def look(seen: Observation) -> None:
        if seen.evidence is None:
            return
        if len(said) == 30:
            here.ask("set", logs_throttle_s=400)
        said.append(seen.evidence.source)

    outcome = ended(here, "good", look)
    assert outcome.ending == "proved"
    found = [each.split(" decide")[0] for each in sources(said)]
    assert found[0] == found[-1] == "The log" and "CloudWatch's minutes" in found
    assert "ThrottlingException" in " ".join(said)


def test_a_log_of_text_is_not_read(situation: Bring) -> None:
    """Its reports do not tell failures: the minutes decide, and say why."""
    here = situation(BAD, **JSON_LOG | {"log_format": "Text"})
    said: list[str] = []

    def look(seen: Observation) -> None:
        if seen.evidence is not None:
            said.append(seen.evidence.source)

    assert ended(here, BAD, look).ending == "rolled-back"
    assert set(said) == {
        "CloudWatch's minutes decide. The log of v1 is text (LogFormat), whose reports do not show failures."
    }
    assert here.calls("FilterLogEvents") == []


@pytest.mark.whole
def test_between_minutes_only_the_log_is_read(situation: Bring) -> None:
    """Alias, freezes and CloudWatch are asked once a minute, and before each step forward."""
    here = situation("good", **JSON_LOG)
    outcome = ended(here, "good", bake_minutes=2)
    minutes = (outcome.ended - outcome.began).total_seconds() / 60
    assert len(here.calls("FilterLogEvents")) >= 10 * minutes
    assert len(here.calls("GetMetricData")) <= minutes + 12


@pytest.mark.parametrize(
    ("log_format", "says"), [("JSON", "The log decides, every 10 s"), ("Text", "is text (LogFormat)")]
)
def test_the_plan_names_the_source(situation: Bring, log_format: str, says: str) -> None:
    """Before anything is shifted: which source will decide, why not the log, and which differences are not found."""
    here = situation("good", **JSON_LOG | {"log_format": log_format, "history_minutes": 0})
    with closing(connect(here)) as mine:
        reasons = rollout.plan_rollout(mine, here.build("good")).reasons
    assert any(says in reason for reason in reasons)
    assert any(reason.startswith("With few requests only large differences are found.") for reason in reasons)


def examined(here: Situation, role: Role = "deployer", feed: bool = True) -> Finding:
    """What the doctor finds of the feed."""
    with closing(connect(here, feed)) as mine:
        (found,) = run_checks([each for each in setup.CHECKS if each.name == "log feed"], CheckContext(mine, role))
    return found


QUIET = {"history_minutes": 0, "requests_per_minute": 0}


@pytest.mark.parametrize(
    ("role", "feed", "log_format", "state", "says", "searches"),
    [
        ("deployer", True, "JSON", State.OK, "about 12 FilterLogEvents a minute, of 5 a second", 1),
        ("responder", True, "JSON", State.OK, "about 12 FilterLogEvents a minute, of 5 a second", 1),
        ("auditor", True, "JSON", State.OK, "not tried as auditor", 0),
        ("reader", True, "JSON", State.OK, "not tried as reader", 0),
        ("deployer", True, "Text", State.INFO, "The log of v1 is text (LogFormat)", 0),
        ("deployer", False, "JSON", State.OK, "off (health.log_feed)", 0),
    ],
)
def test_doctor_reads_a_line_of_the_log(
    situation: Bring, role: Role, feed: bool, log_format: str, state: State, says: str, searches: int
) -> None:
    """One call where the feed is on and the role reads it in a rollout; what it costs is told."""
    here = situation("good", log_format=log_format, **QUIET)
    found = examined(here, role, feed)
    assert (found.state, len(here.calls("FilterLogEvents"))) == (state, searches)
    assert says in found.message
    assert ("LogFormat in the function's LoggingConfig" in found.remedy) == (log_format == "Text")


def test_doctor_names_a_log_that_may_not_be_read(situation: Bring) -> None:
    """The permission, and on which resource, before a rollout meets it."""
    here = situation("good", log_format="JSON", **QUIET)
    here.ask("chaos", kind="denied", operation="FilterLogEvents", times=9)
    found = examined(here)
    here.ask("chaos")
    assert found.state is State.WARNING and "logs:FilterLogEvents" in found.message
    assert f":us-east-1:123456789012:log-group:/aws/lambda/{here.function}:* " in found.remedy.replace(",", " ")


def test_doctor_names_a_log_that_is_not_there(situation: Bring) -> None:
    """It begins to exist with the first line, which the function's own role must be allowed to write."""
    here = situation("good", log_format="JSON", **QUIET)
    here.client("logs").delete_log_group(logGroupName=f"/aws/lambda/{here.function}")
    found = examined(here)
    assert found.state is State.WARNING and "does not exist" in found.message
    assert "AWSLambdaBasicExecutionRole" in found.remedy
