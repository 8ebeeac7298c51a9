"""The clock of this machine jumps in a wait: the rollout ends as it does without, and as late."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import rollout
from tests.conftest import Situation, abandon, drive, sampled
from tests.resilience.harness import warm_clients

Bring = Callable[..., Situation]
WAITS = ("publish", "1", "watch", "resume")
"""The stage in whose first wait the clock jumps; ``resume``: between a run that is lost and the one that resumes it."""

STEPS_S = (-3600, -600, 600, 3600)
BUILDS = ("good", "errors_5_percent")
SAMPLE = {("1", 3600, "errors_5_percent"), ("watch", -3600, "good")}


def cases() -> list[object]:
    found = []
    for wait in WAITS:
        for build in BUILDS:
            if wait == "watch" and build != "good":
                continue  # a bad build is rolled back before
            for step_s in STEPS_S:
                marks = [] if (wait, step_s, build) in SAMPLE else [pytest.mark.whole]
                found.append(pytest.param(wait, step_s, build, id=f"{wait}{step_s:+}-{build}", marks=marks))
    return found


def ship(here: Situation, build: str, wait: str, step_s: float) -> Outcome:
    """A canary; its clock, and that of whoever connects later, jumps once."""
    artifact = here.build(build)
    if wait == "resume":
        lost = here.connect(quiet=True)
        abandon(lost, rollout.plan_rollout(lost, artifact))
        lost.close()
        here.ask("set", client_clock_ahead_s=step_s)
    mine = here.connect(quiet=True)
    plan = rollout.plan_rollout(mine, artifact)
    stages: list[str] = []

    def step(seen: rollout.Observation) -> None:
        if seen.stage == wait and wait not in stages:
            here.ask("set", client_clock_ahead_s=step_s)
        stages.append(seen.stage)

    outcome = drive(mine, plan, step)
    assert wait == "resume" or wait in stages
    return outcome


@pytest.fixture(autouse=True)
def warm() -> Iterator[None]:
    with warm_clients():
        yield


@pytest.mark.parametrize(("wait", "step_s", "build"), sampled(cases(), slice(1)))
@pytest.mark.timeout(300)
def test_a_step_of_the_clock_changes_no_ending(situation: Bring, wait: str, step_s: float, build: str) -> None:
    """Ten minutes and an hour, both ways, in each kind of wait."""
    found = []
    for jump_s in (0, step_s):
        here = situation("good")
        outcome = ship(here, build, wait, jump_s)
        found.append((outcome, here.alias()["FunctionVersion"], here.ask("clock")["now"]))
    (usual, served, ended), (jumped, serves, ends) = found
    assert (jumped.ending, jumped.exit_code, serves) == (usual.ending, usual.exit_code, served)
    assert jumped.requests == usual.requests and jumped.failed == usual.failed
    assert ends == pytest.approx(ended, abs=5)
    assert abs(jumped.ended - usual.ended) <= timedelta(seconds=5)
    noticed = [reason for reason in jumped.reasons if "clock jumped" in reason]
    assert len(noticed) == (wait != "resume") and not any("clock jumped" in reason for reason in usual.reasons)
