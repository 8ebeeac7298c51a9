"""The immediate rollback, in every state that an alias can be in: traffic first, and nothing can hold it up."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import AliasMoved, RolloutState, decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, InvalidInput, Refused, Throttled
from buddy_ops.core.progress import no_progress
from buddy_ops.deployment import _traffic, rollback, rollout
from buddy_ops.deployment.rollback import RollbackResult
from tests.conftest import Situation, abandon, approve, call_failed, intercept, sampled
from tests.resilience.harness import no_backoff

Bring = Callable[..., Situation]
WRITES = ("UpdateAlias", "CreateAlias", "DeleteAlias", "UpdateFunctionCode", "PublishVersion", "CreateSchedule")
RECORD = RolloutState("beef", "1", "2", "proved", "2026-11-02T00:00:00Z")


@pytest.fixture
def quick(situation: Bring) -> Bring:
    """A situation without history: a rollback needs no measurements."""

    def bring(name: str = "good", **more: Any) -> Situation:
        return situation(name, history_minutes=0, requests_per_minute=0, **more)

    return bring


def publish(here: Situation, label: str) -> str:
    """One more good version, without traffic; its number."""
    return here.publish(here.build("good", label), settle_s=10)


def put(here: Situation, version: str, record: RolloutState | str, **weights: float) -> None:
    """Set the alias by hand, as some earlier run left it."""
    here.client("lambda").update_alias(
        FunctionName=here.function,
        Name="live",
        FunctionVersion=version,
        Description=record if isinstance(record, str) else record.encode(),
        RoutingConfig={"AdditionalVersionWeights": {name.removeprefix("v"): share for name, share in weights.items()}},
    )


def roll_back(here: Situation, version: str = "", **options: Any) -> RollbackResult:
    """Plan, approve, run."""
    mine = here.connect("rollback", **options)
    plan = rollback.plan_rollback(mine, version)
    return rollback.run_rollback(mine, plan, approve(mine, plan))


def served(here: Situation) -> tuple[str, dict[str, float]]:
    """What the alias serves: its version, and the weights beside it."""
    alias = here.alias()
    return alias["FunctionVersion"], alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})


def record(here: Situation) -> RolloutState:
    found = decode_rollout_state(here.alias()["Description"])
    assert found is not None
    return found


def schedules(here: Situation) -> list[str]:
    return [each["Name"] for each in here.client("scheduler").list_schedules()["Schedules"]]


# From every state


def test_a_rollout_under_way_loses_its_traffic(situation: Bring) -> None:
    """At 10 %, stable serves alone again after one write, the new version is noted as bad, and the lease is gone."""
    here = situation("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while not seen.weight:
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    assert served(here) == ("1", {"2": 0.1}) and len(schedules(here)) == 1
    done = roll_back(here)
    assert (done.serving, done.away_from, done.already) == ("1", ("2",), False)
    assert served(here) == ("1", {})
    assert (record(here).stage, record(here).rejected_versions) == ("rolled-back", ("2",))
    assert schedules(here) == []
    # The rollout notices at its next poll, says so, and does not come back.
    writes = len(here.calls(*WRITES))
    with pytest.raises(AliasMoved) as moved:
        next(steps)
    assert moved.value.exit_code == 4 and len(here.calls(*WRITES)) == writes
    assert served(here) == ("1", {})
    mine.close()


def test_a_promoted_version_is_taken_back(situation: Bring) -> None:
    """After 100 %, the version that served before serves again."""
    here = situation("good")
    assert here.ship(here.build("good")).ending == "proved"
    done = roll_back(here)
    assert (done.serving, done.away_from) == ("1", ("2",))
    assert served(here) == ("1", {}) and record(here).rejected_versions == ("2",)


def test_a_watched_version_is_taken_back_and_its_guard_with_it(situation: Bring) -> None:
    """During the watch at 100 % the failsafe stands; the rollback moves the traffic, then deletes it."""
    here = situation("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while seen.stage != "watch":
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    assert served(here) == ("1", {"2": 1.0}) and schedules(here) != []
    assert roll_back(here).serving == "1"
    assert served(here) == ("1", {}) and schedules(here) == []
    steps.close()
    mine.close()


@pytest.mark.parametrize("share", sampled([0.1, 0.8, 1.0], slice(None, None, 3)))
@pytest.mark.parametrize("stage", ["1", "watch", "proved", "unproven", "held"])
def test_the_record_says_which_side_is_stable(quick: Bring, stage: str, share: float) -> None:
    """Another tool made the new version the primary, and gave the old one a share: the old one is returned to."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", replace(RECORD, stage=stage), v1=share)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    assert (plan.destination, plan.away_from) == ("1", ("2",))
    assert "v1 is stable." in " ".join(plan.now)
    assert roll_back(here).serving == "1"
    assert served(here) == ("1", {}) and record(here).rejected_versions == ("2",)


@pytest.mark.parametrize("primary", ["1", "2"])
@pytest.mark.parametrize("kept", ["1", "2"])
def test_weights_that_nobody_recorded_want_a_name(quick: Bring, primary: str, kept: str) -> None:
    """Somebody else's split (by hand, by CodeDeploy) may stand either way round: a person names the version to keep."""
    here = quick()
    publish(here, "2.0.0")
    second, left = "12".replace(primary, ""), "12".replace(kept, "")
    put(here, primary, "by hand", **{f"v{second}": 0.3})
    with pytest.raises(Refused, match="which-is-stable") as refused:
        roll_back(here)
    assert refused.value.exit_code == 4
    assert f"70 % v{primary}, 30 % v{second}" in refused.value.what
    assert "to_version=1" in refused.value.next and "to_version=2" in refused.value.next
    assert here.calls(*WRITES) == []
    assert roll_back(here, kept).serving == kept
    assert served(here) == (kept, {})
    found = record(here)
    assert (found.stable_version, found.new_version, found.rejected_versions) == (kept, left, (left,))


@pytest.mark.parametrize(
    "held",
    [
        replace(RECORD, stable_version="1", new_version="3"),
        replace(RECORD, stable_version="", new_version="2"),
        replace(RECORD, rejected_versions=("1",)),
    ],
    ids=["another rollout", "a first deployment", "stable is bad"],
)
def test_a_record_of_something_else_does_not_decide(quick: Bring, held: RolloutState) -> None:
    """A record that does not name both versions, or that calls its stable one bad, says nothing of who keeps traffic."""
    here = quick()
    for label in ("2.0.0", "3.0.0"):
        publish(here, label)
    put(here, "2", held, v1=0.5)
    with pytest.raises(Refused, match="which-is-stable"):
        roll_back(here)
    assert here.calls(*WRITES) == []


def test_a_rollout_from_a_bad_version_can_be_rolled_back(quick: Bring) -> None:
    """While it is under way its source is the stable version, even if somebody once rolled back from it."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "1", replace(RECORD, stage="1", rejected_versions=("1",)), v2=0.1)
    assert roll_back(here).serving == "1"


def reverse(here: Situation) -> None:
    """Another tool makes the new version the primary and leaves our record: v1 keeps 80 %."""
    here.client("lambda").update_alias(
        FunctionName=here.function,
        Name="live",
        FunctionVersion="2",
        RoutingConfig={"AdditionalVersionWeights": {"1": 0.8}},
    )


def test_a_reversed_rollout_is_not_resumed(situation: Bring) -> None:
    """A lease armed at reversed weights would give the new version everything: refused; the rollback undoes it."""
    here = situation("good")
    artifact = here.build("good")
    mine = here.connect()
    abandon(mine, rollout.plan_rollout(mine, artifact))
    mine.close()
    reverse(here)
    before = here.alias()["RevisionId"]
    for build in (artifact, here.build("good", "3.0.0")):
        with pytest.raises(Refused, match="weights-not-ours") as refused:
            rollout.plan_rollout(here.connect(), build)
        assert "rollback/immediate" in refused.value.next
    assert here.alias()["RevisionId"] == before
    assert roll_back(here).serving == "1"
    assert served(here) == ("1", {}) and record(here).rejected_versions == ("2",) and schedules(here) == []


def test_a_reversed_rollout_leaves_no_lease(situation: Bring) -> None:
    """The run whose weights another tool reversed ends; its lease, which would clear the old version's share, goes."""
    here = situation("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while not seen.weight:
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    reverse(here)
    with pytest.raises(AliasMoved):
        next(steps)
    mine.close()
    assert schedules(here) == []
    here.ask("advance", seconds=3600)
    assert served(here) == ("2", {"1": 0.8})


def test_twice_says_already(quick: Bring) -> None:
    """A second rollback changes nothing on the alias and says that it was done."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    first = rollback.run_rollback(mine, plan, approve(mine, plan))
    before = here.alias()
    second = rollback.run_rollback(mine, plan, approve(mine, plan))
    assert (first.already, second.already) == (False, True)
    assert here.alias()["RevisionId"] == before["RevisionId"]
    assert str(second).startswith("Already rolled back: v1 receives 100 %")


def test_rolling_back_to_what_serves_changes_nothing(quick: Bring) -> None:
    """Naming the version that serves alone is done already, and the plan says so."""
    here = quick()
    before = here.alias()["RevisionId"]
    mine = here.connect()
    plan = rollback.plan_rollback(mine, "1")
    assert plan.title == "v1 already serves alone"
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).already
    assert here.alias()["RevisionId"] == before


# Where to


def test_a_version_can_be_named(quick: Bring) -> None:
    """to_version comes before what the record says."""
    here = quick()
    for label in ("2.0.0", "3.0.0"):
        publish(here, label)
    put(here, "3", replace(RECORD, stable_version="2", new_version="3"))
    assert roll_back(here, "1").serving == "1"
    assert served(here) == ("1", {}) and record(here).rejected_versions == ("3",)


def test_a_bad_version_is_never_returned_to(quick: Bring) -> None:
    """A version that was rolled back from is passed over: the one before it is chosen."""
    here = quick()
    for label in ("2.0.0", "3.0.0"):
        publish(here, label)
    put(here, "3", replace(RECORD, stable_version="2", new_version="3", rejected_versions=("2",), fallback_version="1"))
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    assert plan.destination == "1"
    assert roll_back(here).serving == "1"
    assert record(here).rejected_versions == ("2", "3")


def test_a_bad_version_can_be_named_explicitly(quick: Bring) -> None:
    """A person who names a bad version gets it: they may know better."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", replace(RECORD, rejected_versions=("1",)))
    assert roll_back(here, "1").serving == "1"


@pytest.mark.parametrize(
    "held",
    [
        "",
        "release of March, by hand",
        replace(RECORD, rejected_versions=("1",)).encode(),
        replace(RECORD, stable_version="", new_version="2").encode(),
    ],
    ids=["nothing", "a note", "all bad", "first deployment"],
)
def test_without_a_known_target_it_refuses(quick: Bring, held: str) -> None:
    """Where no earlier version is known to be good, nothing is written, and the refusal says what can be done."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", held)
    with pytest.raises(Refused, match="no-rollback-target") as refused:
        roll_back(here)
    assert refused.value.exit_code == 4
    assert "100 % v2" in refused.value.what and "to_version" in refused.value.next
    assert served(here) == ("2", {}) and here.calls(*WRITES) == []
    assert roll_back(here, "1").serving == "1"


def test_a_version_that_cannot_run_is_refused(quick: Bring) -> None:
    """A rollback to a version that Lambda calls Failed would be an outage: refused, and another version can be named."""
    here = quick()
    for label in ("2.0.0", "3.0.0"):
        publish(here, label)
    put(here, "3", replace(RECORD, stable_version="2", new_version="3"))
    mine = here.connect("rollback")

    call_failed(mine, "2", "the image was deleted")
    with pytest.raises(Refused, match="version-unusable") as refused:
        rollback.plan_rollback(mine)
    assert "v2 of" in refused.value.what and "the image was deleted" in refused.value.what
    assert "serves 100 % v3" in refused.value.now and "Name another version" in refused.value.next
    plan = rollback.plan_rollback(mine, "1")
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "1"


def test_after_a_rollback_another_goes_no_further(quick: Bring) -> None:
    """A second mind, right after: a plain rollback neither swings back nor goes further back; it is done already."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    roll_back(here)
    before = here.alias()["RevisionId"]
    assert roll_back(here).already
    assert served(here) == ("1", {}) and here.alias()["RevisionId"] == before


def test_a_missing_version_is_a_clear_message(quick: Bring) -> None:
    """A version that does not exist is refused before anything is written."""
    here = quick()
    with pytest.raises(InvalidInput, match="version-missing") as refused:
        roll_back(here, "17")
    assert "version 17" in refused.value.what and here.calls(*WRITES) == []


@pytest.mark.parametrize("word", ["$LATEST", "live", "v1"])
def test_only_a_published_version_can_be_named(quick: Bring, word: str) -> None:
    """$LATEST is whatever was uploaded last, and an alias is no version: neither may serve people."""
    here = quick()
    with pytest.raises((InvalidInput, Refused)):
        roll_back(here, word)
    assert served(here) == ("1", {}) and here.calls(*WRITES) == []


def test_without_an_alias_there_is_nothing_to_roll_back(situation: Bring) -> None:
    """Before the first deployment the refusal says so."""
    here = situation("first_deployment")
    with pytest.raises(InvalidInput, match="alias-missing") as refused:
        roll_back(here)
    assert "start_here names the version that served" in refused.value.next


def test_another_role_is_told_and_does_not_refuse(quick: Bring) -> None:
    """A version that runs under another role or with another dead-letter queue is a doubt in the plan, not an obstacle."""
    here = quick()
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Role="arn:aws:iam::123456789012:role/other")
    here.ask("advance", seconds=10)
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    assert any(reason.startswith("Warning: Role differs: v1 has ") for reason in rollback.plan_rollback(mine).reasons)
    assert roll_back(here).serving == "1"


# Against others


class Mover:
    """Somebody who moves the alias just before each of our writes, so many times."""

    def __init__(self, here: Situation, mine: Target, times: int) -> None:
        self.here, self.left, self.attempts = here, times, 0
        intercept(mine, self)

    def __call__(self, send: Any, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        if operation == "update_alias":
            self.attempts += 1
            if self.left:
                self.left -= 1
                put(self.here, "2", RECORD, v1=0.5)
        return send(service, operation, **fields)


def test_a_rollback_wins_over_whoever_moves_the_alias(quick: Bring) -> None:
    """A 412 is answered by reading again and trying again: three collisions later the traffic is where it belongs."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    mover = Mover(here, mine, times=3)
    done = rollback.run_rollback(mine, plan, approve(mine, plan))
    assert (done.serving, mover.attempts) == ("1", 4)
    assert served(here) == ("1", {}) and record(here).rejected_versions == ("2",)
    assert [call["status"] for call in here.calls("UpdateAlias")] == [412, 412, 412, 200]


def test_a_mover_who_never_stops_is_told(quick: Bring) -> None:
    """After ten attempts the error says that somebody keeps moving the alias, and what it serves."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    mover = Mover(here, mine, times=1000)
    with pytest.raises(AliasMoved) as moved:
        rollback.run_rollback(mine, plan, approve(mine, plan))
    assert mover.attempts == _traffic.ATTEMPTS
    assert "50 % v2, 50 % v1" in moved.value.now


def test_a_stale_look_at_the_alias_does_not_matter(quick: Bring) -> None:
    """Between plan and run others may write what they like: the run reads again first."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    put(here, "2", "moved by hand", v1=0.5)
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "1"
    assert served(here) == ("1", {}) and record(here).rejected_versions == ("2",)


def test_the_write_that_was_not_answered_is_not_made_twice(quick: Bring) -> None:
    """If the reply is lost after the write took effect, re-reading finds the alias where it should be, and it is done."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    lost = AwsFailed("aws-unreachable", "no answer", now="Unknown.", next="Again.", code="timeout")

    def call(send: Any, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        reply = send(service, operation, **fields)
        if operation == "update_alias":
            raise lost
        return reply

    intercept(mine, call)
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "1"
    assert len(here.calls("UpdateAlias")) == 1 and served(here) == ("1", {})


# Traffic first


def test_the_traffic_is_moved_before_all_else(quick: Bring) -> None:
    """The first call that writes is the one that moves the traffic; no metric is read before or after it."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    roll_back(here)
    log = [each for each in here.ask("calls")["calls"] if each["app"] not in ("", "sandbox")]
    writes = [each["operation"] for each in log if each["operation"] in (*WRITES, "DeleteSchedule")]
    assert writes == ["UpdateAlias", "DeleteSchedule"]
    assert not [each for each in log if each["service"] in ("cloudwatch", "logs", "ssm", "sns")]


def test_nothing_that_fails_afterwards_stops_it(quick: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that cannot be deleted is told in a sentence, after the traffic was moved."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    failure = AwsFailed("access-denied", "AWS refused scheduler:delete_schedule", now="", next="", code="AccessDenied")

    def refuse(*_: Any) -> bool:
        raise failure

    monkeypatch.setattr(failsafe, "disarm", refuse)
    done = roll_back(here)
    assert served(here) == ("1", {})
    assert len(done.failures) == 1
    assert all(failure.startswith("A failsafe could not be deleted: AWS refused") for failure in done.failures)


def test_it_works_without_metrics_and_without_a_disk(quick: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """CloudWatch's outage and a journal that cannot be written stop nobody; that the journal failed is kept."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    here.ask("set", outage="error")
    (here.folder / "file").write_text("in the way")
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "file" / "run"))
    mine = here.connect("rollback")
    plan = rollback.plan_rollback(mine)
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "1"
    assert served(here) == ("1", {})
    assert any(record["kind"] == "rollback" for record in mine.journal.records)
    (said,) = mine.side.unsaid()
    assert said.startswith("The journal failed (NotADirectoryError:")


def test_a_dry_run_writes_nothing(quick: Bring) -> None:
    """The plan is shown, the alias stays, and no sentence claims that anything moved."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    done = roll_back(here, dry_run=True)
    assert str(done) == "DRY RUN: nothing was written."
    assert served(here) == ("2", {}) and here.calls(*WRITES, "DeleteSchedule") == []


def test_an_approval_of_another_plan_is_void(quick: Bring) -> None:
    """What was approved is what runs: another destination is another plan."""
    here = quick()
    for label in ("2.0.0", "3.0.0"):
        publish(here, label)
    put(here, "3", replace(RECORD, stable_version="2", new_version="3"))
    mine = here.connect()
    approval = approve(mine, rollback.plan_rollback(mine))
    with pytest.raises(Refused, match="approval-void"):
        rollback.run_rollback(mine, rollback.plan_rollback(mine, "1"), approval)
    assert served(here) == ("3", {}) and here.calls(*WRITES) == []


def test_the_journal_tells_what_was_done(quick: Bring) -> None:
    """Where to, away from what, and who approved stand in one record."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    rollback.run_rollback(mine, plan, approve(mine, plan))
    (told,) = (each for each in mine.journal.records if each["kind"] == "rollback")
    assert (told["to"], told["away_from"], told["by"], told["already"]) == ("1", ("2",), ("Ada", "Grace"), False)


@pytest.mark.whole
def test_a_rolled_back_build_can_ship_again_when_a_person_asks(situation: Bring) -> None:
    """Bad means that no rollback returns there; shipping it again by its artifact is allowed, and the plan says so."""
    here = situation("good")
    artifact = here.build("good")
    here.ship(artifact)
    roll_back(here)
    mine = here.connect()
    assert any(
        "this build was rolled back before (as v2)" in reason for reason in rollout.plan_rollout(mine, artifact).reasons
    )
    assert here.ship(artifact).ending == "proved"
    assert "2" not in record(here).rejected_versions


def test_what_the_alias_says_is_told_in_words(quick: Bring) -> None:
    """Which version serves, whose rollout put it there, and which versions nobody returns to."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", replace(RECORD, rejected_versions=("3", "4")))
    mine = here.connect()
    told = aliases.describe(mine, aliases.read_alias(mine))
    for part in (
        f"{here.function}:live serves 100 % v2.",
        "v2 was deployed by run beef at",
        "(replacing v1)",
        "Marked bad (excluded as rollback target): ",
        "v3, v4",
    ):
        assert part in told


# What cannot be read, or is throttled


KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize("environment", ["sandbox", "prod"])
def test_variables_that_cannot_be_decrypted_are_a_doubt(quick: Bring, environment: str) -> None:
    """On-call may not use the function's KMS key: the plan says what it could not see, and the traffic moves."""
    here = quick(environment=environment)
    lam = here.client("lambda")
    lam.update_function_configuration(
        FunctionName=here.function, KMSKeyArn=KEY, Environment={"Variables": {"TABLE": "reminders"}}
    )
    here.ask("advance", seconds=10)
    publish(here, "2.0.0")
    publish(here, "3.0.0")
    put(here, "3", replace(RECORD, stable_version="2", new_version="3"))
    here.ask("set", lambda_kms_denied=True)
    mine = here.connect("rollback")
    plan = rollback.plan_rollback(mine)
    assert any("does not show the environment variables" in each for each in plan.reasons)
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "2"
    assert served(here) == ("2", {})


@pytest.mark.parametrize("operation", ["GetAlias", "UpdateAlias"])
def test_throttled_rollback_tries_on_for_a_minute_and_says_so(quick: Bring, operation: str) -> None:
    """AWS throttles for half a minute: the traffic moves all the same. Without end: the error after a minute."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    told: list[str] = []
    with no_backoff():
        here.ask("chaos", kind="throttled", operation=operation, times=3 * 8)
        mine = here.connect("rollback")
        plan = rollback.plan_rollback(mine, watch=told.append)
        done = rollback.run_rollback(mine, plan, approve(mine, plan), told.append)
        assert done.serving == "1" and served(here) == ("1", {})
        assert len(told) == 8 and "Trying again every 3 s until" in told[0]
        put(here, "2", RECORD)
        here.ask("chaos", kind="throttled", operation=operation, times=10_000)
        began = mine.clock.now()
        with pytest.raises(Throttled):
            roll_back_patiently(mine)
        here.ask("chaos")
    assert 50 <= (mine.clock.now() - began).total_seconds() <= 70
    assert served(here) == ("2", {})


def roll_back_patiently(mine: Target) -> RollbackResult:
    plan = rollback.plan_rollback(mine, watch=no_progress)
    return rollback.run_rollback(mine, plan, approve(mine, plan), no_progress)


def test_rollback_that_is_denied_does_not_wait(quick: Bring) -> None:
    """Only what passes by itself is tried again; a terminal that is gone does not matter."""
    here = quick()
    publish(here, "2.0.0")
    put(here, "2", RECORD)
    mine = here.connect("rollback")
    plan = rollback.plan_rollback(mine)
    here.ask("chaos", kind="denied", operation="UpdateAlias", times=10_000)
    began = mine.clock.now()
    with pytest.raises(AwsFailed, match="access-denied"):
        rollback.run_rollback(mine, plan, approve(mine, plan), no_progress)
    assert (mine.clock.now() - began).total_seconds() < 5

    def gone(line: str) -> None:
        raise BrokenPipeError

    with no_backoff():
        here.ask("chaos", kind="throttled", operation="UpdateAlias", times=3)
        assert rollback.run_rollback(mine, plan, approve(mine, plan), gone).serving == "1"


# From a stable version that fails later, and to a version that does not exist


def rolled_back_once(quick: Bring) -> Situation:
    """v3 was rolled back to v2, and v1 served before: what the engine leaves."""
    here = quick()
    publish(here, "2.0.0")
    publish(here, "3.0.0")
    put(here, "3", replace(RECORD, stable_version="2", new_version="3", fallback_version="1"))
    assert roll_back(here).serving == "2"
    return here


def test_failing_stable_goes_to_the_version_before_it(quick: Bring) -> None:
    """Hours after a rollback the version that was returned to fails: the same command goes to the one before."""
    here = rolled_back_once(quick)
    mine = here.connect()
    soon = rollback.plan_rollback(mine)
    assert soon.title == "v2 already serves alone" and "v1" in soon.reasons[-1] and "to_version" in soon.reasons[-1]
    here.ask("advance", seconds=2 * 3600)
    plan = rollback.plan_rollback(mine)
    assert (plan.destination, plan.away_from) == ("1", ("2",))
    done = rollback.run_rollback(mine, plan, approve(mine, plan))
    assert (done.serving, done.already) == ("1", False) and served(here) == ("1", {})
    assert set(record(here).rejected_versions) == {"2", "3"}
    # There is no version before v1: it says so, and does not go back to a bad one.
    here.ask("advance", seconds=2 * 3600)
    with pytest.raises(Refused, match="no-rollback-target"):
        rollback.plan_rollback(mine)


def test_further_back_at_once_by_its_name(quick: Bring) -> None:
    """Right after a rollback the plan names the version before; naming it works."""
    here = rolled_back_once(quick)
    assert roll_back(here, "1").serving == "1"


@pytest.mark.parametrize("stage", ["proved", "rolled-back"])
def test_deleted_target_is_told_as_deleted(quick: Bring, stage: str) -> None:
    """A clean-up deleted the version to return to: the refusal says so, and names those that exist; one of them works."""
    here = quick()
    for label in ("2.0.0", "3.0.0", "4.0.0"):
        publish(here, label)
    old = replace(RECORD, stable_version="3", new_version="4", fallback_version="2", stage=stage)
    put(here, "4" if stage == "proved" else "3", old)
    here.ask("advance", seconds=3600)
    gone = "3" if stage == "proved" else "2"
    here.client("lambda").delete_function(FunctionName=here.function, Qualifier=gone)
    with pytest.raises(Refused, match="no-rollback-target") as refused:
        roll_back(here)
    assert f"v{gone} of" in refused.value.what and "was deleted" in refused.value.what
    assert "account" not in refused.value.next
    named = refused.value.next.partition("(to_version): ")[2].partition(";")[0]
    assert gone not in named and "1" in named
    assert roll_back(here, "1").serving == "1"


def test_version_that_never_was(quick: Bring) -> None:
    """A number that nobody published is wrong input, with those that exist."""
    here = quick()
    publish(here, "2.0.0")
    with pytest.raises(InvalidInput, match="version-missing") as wrong:
        roll_back(here, "77")
    assert "v2" in wrong.value.next


def test_from_latest_to_a_version(quick: Bring) -> None:
    """An alias on $LATEST is pointed to a version by its number; $LATEST is not marked bad."""
    here = quick()
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="$LATEST")
    done = roll_back(here, "1")
    assert done.serving == "1" and served(here) == ("1", {})
    assert record(here).rejected_versions == ()


def test_without_a_record_the_refusal_names_the_versions_that_exist(situation: Bring) -> None:
    """Another tool moved the alias: which version is good, nobody knows, but the ones to choose from are listed."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    here.ship_by_hand("errors_5_percent")
    here.ship_by_hand("total_failure")
    with pytest.raises(Refused, match="no-rollback-target") as refused:
        rollback.plan_rollback(here.connect(quiet=True))
    assert "(to_version): v1 or v2, or roll forward" in refused.value.next
    assert rollback.plan_rollback(here.connect(quiet=True), "1").destination == "1"


# A record that others wrote


def test_a_forged_record_is_followed_with_a_doubt_only(situation: Bring) -> None:
    """The record names another run, or a version that was published later: the plan doubts it; a true one it does not."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    mine = here.connect()
    abandon(mine, rollout.plan_rollout(mine, here.build("good", "2.0.0")))
    here.publish(here.build("good", "3.0.0"))
    for run, named, doubt in (
        (mine.run, "1", ""),
        (mine.run, "3", "v3 was published after v2."),
        ("beef", "1", "v2 was not published by run beef"),
    ):
        record = RolloutState(run, named, "2", stage="proved", since="2026-11-02T00:00:00Z")
        here.client("lambda").update_alias(
            FunctionName=here.function,
            Name="live",
            FunctionVersion="2",
            Description=record.encode(),
            RoutingConfig={"AdditionalVersionWeights": {}},
        )
        plan = rollback.plan_rollback(here.connect())
        doubts = [each for each in plan.reasons if "only the deployment record says" in each]
        assert plan.destination == named and bool(doubts) == bool(doubt) and doubt in "".join(doubts)


@pytest.mark.parametrize(
    "values",
    [{"run": "a\u001b[2J"}, {"run": "x" * 65}, {"from": "1 <b>"}, {"to": "2\u202e"}, {"stage": "**proved**"}, {"prev": "../1"},
     {"bad": ["1|2"]}, {"by": "a b"}, {"after": "soon"}],
)  # fmt: skip
def test_a_record_with_foreign_text_is_none(values: dict[str, Any]) -> None:
    """What the alias's Description holds reaches plans and terminals only as our runs write it."""
    good = {"v": 1, "run": "7f3a", "from": "1", "to": "2", "stage": "proved", "since": "2026-11-02T00:00:00Z"}
    assert decode_rollout_state(json.dumps(good)) is not None
    assert decode_rollout_state(json.dumps(good | values)) is None
