"""Builds that keep every limit and are worse than the stable version, end to end on the sandbox."""

import json
from collections.abc import Callable

import pytest

from buddy_ops.deployment import rollout
from buddy_ops.health.evidence import RolloutEvidence
from tests.conftest import Situation, approve, begun, drive, sampled

Bring = Callable[..., Situation]


@pytest.mark.parametrize(
    ("build", "traffic", "within_minutes", "said"),
    sampled(
        [
            ("errors_below_limit", 6000, 6, "v2 error rate 0."),
            ("twice_as_slow", 600, 5, "v2 requests over 2"),
            ("fewer_reminders", 6000, 6, "v2 reminders "),
        ],
        slice(-1, None),
    ),
)
def test_a_worse_build_is_held_and_given_back_without_blame(
    situation: Bring, build: str, traffic: int, within_minutes: int, said: str
) -> None:
    """The stage stays for a decision; without one the traffic goes back after the stretch, and nothing is marked bad."""
    here = situation("good", requests_per_minute=traffic)
    mine = here.connect()
    steps = begun(mine, here.build(build))
    seen = next(steps)
    shifted = None
    while "waits for a decision" not in seen.says:
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
        shifted = shifted or (seen.at if seen.weight else None)
    assert shifted is not None and (seen.at - shifted).total_seconds() <= 60 * within_minutes
    assert seen.stage == "1" and said in seen.says
    outcome = rollout.drive_rollout(mine, steps)
    mine.close()
    assert (outcome.ending, outcome.exit_code) == ("held", 5)
    assert said in outcome.reasons[0]
    assert len(outcome.compared) == 3
    assert [line for line in outcome.compared if said in line and line.endswith("is allowed: worse.")]
    assert here.record().rejected_versions == ()


def test_a_promotion_past_a_hold_is_remembered(situation: Bring) -> None:
    """The next stages ask for no decision on the same stream, in a resumed run neither; journal and result say so."""
    here = situation("good", requests_per_minute=6000)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("fewer_reminders"))
    waited: list[str] = []

    def promote(seen: rollout.Observation) -> rollout.Order | None:
        if "waits for a decision" in seen.says:
            waited.append(seen.stage)
            return "promote"
        return None

    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while seen.stage != "2":
        order = promote(seen)
        mine.clock.sleep_until(seen.wake_at)
        seen = steps.send(order)
    steps.close()
    assert (waited, here.record().accepted) == (["1"], ("reminders",))
    outcome = drive(mine, rollout.plan_rollout(mine, here.build("fewer_reminders")), promote)
    assert (waited, outcome.ending) == (["1"], "proved")
    assert outcome.compared[2].endswith("is allowed: worse. An operator promoted v2 nevertheless.")
    lines = [json.loads(line) for line in (here.folder / "run" / "journal.jsonl").read_text("utf-8").splitlines()]
    (accepted,) = [line for line in lines if line["kind"] == "worse-accepted"]
    assert (accepted["stream"], accepted["stage"]) == ("reminders", "1") and accepted["says"].startswith("v2 reminders")


def test_an_operator_may_choose_rollback(situation: Bring) -> None:
    """Then a worse version is rolled back within its stage, and marked bad."""
    here = situation("good", requests_per_minute=6000)
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["streams"][2]["on"] = "rollback"
    outcome = here.ship(here.build("fewer_reminders"), values=values)
    assert (outcome.ending, outcome.stage) == ("rolled-back", "1")
    assert "v2 reminders " in outcome.reasons[0] and "5 % less is allowed" in outcome.reasons[1]


def test_a_resumed_rollout_compares_as_if_it_had_never_stopped(situation: Bring) -> None:
    """The bounds and the evidence are read again from what was before the first shift, and are the same."""
    here = situation("good", requests_per_minute=600)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while seen.evidence is None or len(seen.evidence.shifts) < 2:
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    ran = seen.evidence
    steps.close()
    again = RolloutEvidence(mine, "1", "2")
    again.resume(here.record(), [0.1, 0.5, 1.0])
    assert again.read(seen.at) is None
    mine.close()
    assert again.judge.streams == ran.judge.streams
    readings = again.judge.streams.read()
    assert [reading.total.canary_requests > 100 for reading in readings] == [True, True, True]
    assert readings[1].what.startswith("requests over 2")


@pytest.mark.parametrize("level", sampled(["INFO", "WARN"], {"WARN"}))
def test_cold_starts_are_no_slower_version(situation: Bring, level: str) -> None:
    """A version with a tenth of the traffic has more of them for each request; a log without reports leaves them in."""
    here = situation(
        "good",
        stable="slower_cold_starts",
        requests_per_minute=600,
        cold_starts_per_minute=30,
        log_format="JSON",
        system_log_level=level,
    )
    outcome = here.ship(here.build("slower_cold_starts"))
    assert outcome.ending == ("proved" if level == "INFO" else "held")
