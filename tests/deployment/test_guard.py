"""The failsafe and the new version's traffic come and go together, whatever happens to the run or to the alias."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from buddy_ops.aws import failsafe
from buddy_ops.aws.aliases import RolloutState, decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.deployment import gradual_rollback, rollback, rollout
from buddy_ops.deployment.observation import StageOrder
from tests.conftest import Situation, abandon, approve, intercept, sampled

Bring = Callable[..., Situation]
STRATEGIES = ("canary", "blue_green", "all_at_once")


def shares(here: Situation) -> dict[str, float]:
    """What each version receives of the traffic, as the alias says."""
    alias = here.alias()
    weights = alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    found = {alias["FunctionVersion"]: 1.0 - sum(weights.values()), **weights}
    return {version: share for version, share in found.items() if share}


def schedules(here: Situation) -> list[str]:
    return [schedule["Name"] for schedule in here.client("scheduler").list_schedules()["Schedules"]]


def edit(here: Situation, **fields: Any) -> None:
    """Write the alias as another tool does: without a RevisionId."""
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", **fields)


def provision(here: Situation) -> None:
    """Give the alias provisioned concurrency, and wait until it is allocated."""
    here.client("lambda").put_provisioned_concurrency_config(
        FunctionName=here.function, Qualifier="live", ProvisionedConcurrentExecutions=1
    )
    here.ask("advance", seconds=200)


@contextmanager
def begun(here: Situation, strategy: str, stage: str, build: str = "good") -> Iterator[tuple[Target, rollout.Rollout]]:
    """A rollout that has reached a stage, and waits for its next poll."""
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build(build), strategy)
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while seen.stage != stage:
        mine.clock.sleep_until(seen.wake_at)
        seen = steps.send("promote" if seen.weight else None)
    mine.clock.sleep_until(seen.wake_at)
    yield mine, steps
    steps.close()
    mine.close()


def to_end(mine: Target, steps: rollout.Rollout) -> rollout.Outcome:
    return rollout.drive_rollout(mine, steps)


# T3


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"all_at_once"}))
def test_a_run_that_is_lost_at_100_percent_is_rolled_back(situation: Bring, strategy: str) -> None:
    """Until the verdict a schedule returns the traffic, and the next run says so."""
    here = situation("good", history_minutes=20)
    with begun(here, strategy, "watch") as (mine, steps):
        assert shares(here) == {"2": 1.0}
        steps.close()
        here.ask("advance", seconds=60 * (mine.settings.lease.minutes + 1))
    assert shares(here) == {"1": 1.0} and schedules(here) == []
    assert here.ship(here.build("good")).ending == "lease-fired"


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"canary"}))
def test_no_write_gives_traffic_before_a_schedule_would_take_it_back(situation: Bring, strategy: str) -> None:
    """At each write of the alias until the verdict, the schedule is there, and it would return all traffic to v1."""
    here = situation("good", history_minutes=20)
    mine = here.connect()
    guarded = []

    def watch(send: Any, service: str, operation: str, **given: Any) -> Any:
        if operation == "update_alias":
            proved = decode_rollout_state(given["Description"]).stage == "proved"  # type: ignore[union-attr]
            guarded.append(proved or (given["FunctionVersion"] == "1" and len(schedules(here)) == 1))
        return send(service, operation, **given)

    intercept(mine, watch)
    plan = rollout.plan_rollout(mine, here.build("good"), strategy)
    assert rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan))).ending == "proved"
    mine.close()
    assert len(guarded) >= 2 and all(guarded)
    assert shares(here) == {"2": 1.0} and here.alias()["FunctionVersion"] == "2" and schedules(here) == []


def test_a_failsafe_that_stays_changes_nothing_after_the_verdict(situation: Bring) -> None:
    """A run that is lost right after its last write leaves its schedule: it acts on no later deployment."""
    here = situation("good", history_minutes=20)
    assert here.ship(here.build("good")).ending == "proved"
    failsafe.arm_split(here.connect(), "dead")
    version = here.publish(here.build("good", "3.0.0"))
    edit(here, FunctionVersion=version, RoutingConfig={"AdditionalVersionWeights": {}})
    here.ask("advance", seconds=60 * 30)
    assert shares(here) == {version: 1.0} and schedules(here) == []


def test_a_watch_that_an_earlier_release_began_is_guarded_when_it_is_resumed(situation: Bring) -> None:
    """The new version was the primary one then: a run that resumes it makes it a weight, before it can be lost."""
    here = situation("good", history_minutes=20)
    version = here.publish(here.build("good"))
    since = here.connect().clock.now().isoformat()
    edit(here, FunctionVersion=version, Description=RolloutState("beef", "1", "2", "watch", since).encode())
    mine = here.connect()
    abandon(mine, rollout.plan_rollout(mine, here.build("good"), "blue_green"))
    mine.close()
    assert shares(here) == {"2": 1.0}
    here.ask("advance", seconds=60 * (mine.settings.lease.minutes + 1))
    assert shares(here) == {"1": 1.0}


# T4


def same(here: Situation) -> dict[str, Any]:
    alias = here.alias()
    return {"FunctionVersion": alias["FunctionVersion"], "RoutingConfig": alias["RoutingConfig"]}


EDITS: dict[str, Callable[[Situation], dict[str, Any]]] = {
    "description": lambda here: {"Description": "edited"},
    "empty": lambda here: {"Description": ""},
    "rewritten": same,
    "both": lambda here: {**same(here), "Description": "edited"},
    "other way round": lambda here: {
        "FunctionVersion": "2",
        "RoutingConfig": {"AdditionalVersionWeights": {v: s for v, s in shares(here).items() if v == "1"}},
    },
}


PLACES = (("canary", "1"), ("canary", "watch"), ("blue_green", "watch"))
EDITED = [(edited, *place) for edited in EDITS for place in PLACES]
EDITED_DAILY = {("other way round", "canary", "watch")}


@pytest.mark.parametrize(("edited", "strategy", "stage"), sampled(EDITED, EDITED_DAILY))
def test_an_edit_that_moves_no_traffic_is_repaired(situation: Bring, edited: str, strategy: str, stage: str) -> None:
    """The record and its routing are written again: the rollout goes on, and a rollback finds its target."""
    here = situation("good", history_minutes=20)
    with begun(here, strategy, stage) as (mine, steps):
        before = shares(here)
        edit(here, **EDITS[edited](here))
        next(steps)
        assert shares(here) == before and here.alias()["FunctionVersion"] == "1"
        found = decode_rollout_state(here.alias()["Description"])
        assert found is not None and (found.stage, found.stable_version) == (stage, "1")
        assert rollback.plan_rollback(here.connect()).destination == "1"
        assert to_end(mine, steps).ending == "proved"
    assert shares(here) == {"2": 1.0} and schedules(here) == []


@pytest.mark.parametrize(
    ("edited", "strategy", "stage"),
    sampled(
        [case for case in EDITED if case[0] != "other way round" and case[1:] != ("canary", "watch")],
        {("both", "canary", "1")},
    ),
)
def test_an_edit_does_not_disarm_the_failsafe(situation: Bring, edited: str, strategy: str, stage: str) -> None:
    """The run is lost before it sees the edit: the schedule returns the traffic all the same."""
    here = situation("good", history_minutes=20)
    with begun(here, strategy, stage) as (mine, steps):
        steps.close()
        edit(here, **EDITS[edited](here))
        here.ask("advance", seconds=60 * (mine.settings.lease.minutes + 1))
    assert shares(here) == {"1": 1.0}


@pytest.mark.parametrize(
    ("edited", "order"),
    sampled(
        [(edited, order) for edited in EDITS for order in ("promote", "abort")],
        {("description", "promote"), ("both", "abort")},
    ),
)
def test_an_edit_right_before_a_write_is_no_collision(situation: Bring, edited: str, order: rollout.Order) -> None:
    """The next stage, or the rollback, is written although the RevisionId has changed since the poll."""
    here = situation("good", history_minutes=20)
    with begun(here, "canary", "1") as (_, steps):
        next(steps)
        edit(here, **EDITS[edited](here))
        if order == "promote":
            assert steps.send(order).weight == 0.5
            assert shares(here) == {"1": 0.5, "2": 0.5}
        else:
            steps.send(order)
            assert shares(here) == {"1": 1.0}
            found = decode_rollout_state(here.alias()["Description"])
            assert found is not None and found.rejected_versions == ("2",)


def test_a_share_that_another_tool_set_keeps_the_failsafe(situation: Bring) -> None:
    """A run that ends since its weight was changed leaves the failsafe as long as its version has one."""
    here = situation("good", history_minutes=20)
    with begun(here, "canary", "1") as (mine, steps):
        edit(here, Description="by hand", RoutingConfig={"AdditionalVersionWeights": {"2": 0.3}})
        with pytest.raises(Refused, match="alias-moved"):
            next(steps)
        assert len(schedules(here)) == 1
        here.ask("advance", seconds=60 * (mine.settings.lease.minutes + 1))
    assert shares(here) == {"1": 1.0}


def test_a_weight_that_was_removed_takes_the_failsafe_with_it(situation: Bring) -> None:
    """Once the version has no traffic, nothing of the run is left that could act on the alias."""
    here = situation("good", history_minutes=20)
    with begun(here, "canary", "1") as (_, steps):
        edit(here, Description="by hand", RoutingConfig={"AdditionalVersionWeights": {}})
        with pytest.raises(Refused, match="alias-moved"):
            next(steps)
    assert schedules(here) == []


# T6


@pytest.mark.parametrize("code", sampled(["TooManyRequestsException", "InvalidParameterValueException"], slice(1)))
def test_a_failsafe_for_a_shift_that_was_refused_is_deleted(situation: Bring, code: str) -> None:
    """The first UpdateAlias is refused: the next run of the same build is not rolled back by the schedule of this."""
    here = situation("good", history_minutes=20)
    with refusing(here, code) as mine:
        plan = rollout.plan_rollout(mine, here.build("good"))
        with pytest.raises(AwsFailed):
            to_end(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert schedules(here) == []
    assert here.ship(here.build("good")).ending == "proved"


@pytest.mark.parametrize("code", ["PreconditionFailedException", "TooManyRequestsException"])
def test_a_failsafe_stays_where_a_refused_shift_may_have_taken_effect(situation: Bring, code: str) -> None:
    """The answer of the first attempt was lost, the SDK's second one is refused, and the alias cannot be read."""
    here = situation("good", history_minutes=20)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("total_failure"))
    shifted = False

    def answer(send: Any, service: str, operation: str, **given: Any) -> Any:
        nonlocal shifted
        if operation == "update_alias":
            send(service, operation, **given)
            shifted = True
            raise AwsFailed("aws-refused", "AWS refused lambda:update_alias", next="Run it again.", code=code)
        if operation == "get_alias" and shifted:
            raise AwsFailed("aws-unreachable", "AWS does not answer.", next="Run it again.", code="timeout")
        return send(service, operation, **given)

    intercept(mine, answer)
    with pytest.raises(AwsFailed):
        to_end(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    mine.close()
    assert shares(here)["2"] > 0 and len(schedules(here)) == 1
    here.ask("advance", seconds=60 * (mine.settings.lease.minutes + 1))
    assert shares(here) == {"1": 1.0}


def delayed(here: Situation, mine: Target, delayed_call: str, *, before: bool) -> None:
    """Let AWS take longer than the failsafe's time for the first of these calls: on its way there, or back."""
    minutes = mine.settings.lease.minutes + 2
    calls: list[str] = []

    def answer(send: Any, service: str, operation: str, **given: Any) -> Any:
        late = operation == delayed_call and operation not in calls
        calls.append(operation)
        if late and before:
            here.ask("advance", seconds=60 * minutes)
        reply = send(service, operation, **given)
        if late and not before:
            here.ask("advance", seconds=60 * minutes)
        return reply

    intercept(mine, answer)


def test_a_failsafe_that_acts_before_a_write_arrives_is_named(situation: Bring) -> None:
    """The next stage takes longer than the failsafe: it ends as a rollback by the failsafe, not as another's move."""
    here = situation("good", history_minutes=20)
    with begun(here, "canary", "1") as (mine, steps):
        next(steps)
        delayed(here, mine, "update_alias", before=True)
        steps.send("promote")
        assert to_end(mine, steps).ending == "lease-fired"
    assert shares(here) == {"1": 1.0} and schedules(here) == []


def test_a_schedule_whose_answer_takes_minutes_is_made_anew(situation: Bring) -> None:
    """Its time is over when its answer comes: no traffic is shifted under it."""
    here = situation("good", history_minutes=20)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    delayed(here, mine, "create_schedule", before=False)
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while not seen.weight:
        mine.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    assert shares(here)["2"] > 0 and len(schedules(here)) == 1
    assert to_end(mine, steps).ending == "proved"
    mine.close()


@pytest.mark.parametrize("minutes", sampled([0, 1, 10], slice(1)))
def test_a_stray_failsafe_is_deleted_before_a_shift(situation: Bring, minutes: float) -> None:
    """A run that is lost between its schedule and its shift takes nothing from the next one."""
    here = situation("good", history_minutes=20)
    failsafe.arm_split(here.connect(), "dead")
    here.ask("advance", seconds=60 * minutes)
    assert here.ship(here.build("good")).ending == "proved"
    assert shares(here) == {"2": 1.0} and schedules(here) == []


@contextmanager
def refusing(here: Situation, code: str) -> Iterator[Target]:
    """A target whose UpdateAlias AWS refuses."""
    mine = here.connect()
    error = AwsFailed("aws-refused", f"AWS refused lambda:update_alias: {code}", next="Run it again.", code=code)

    def refuse(send: Any, service: str, operation: str, **given: Any) -> Any:
        if operation == "update_alias":
            raise error
        return send(service, operation, **given)

    intercept(mine, refuse)
    yield mine
    mine.close()


# T2


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"canary"}))
def test_a_rollout_under_provisioned_concurrency_ends_when_the_traffic_has_moved(
    situation: Bring, strategy: str
) -> None:
    """AWS leaves the traffic on v1 until it has allocated capacity for v2: nothing says v2 before that."""
    here = situation("good", history_minutes=20)
    provision(here)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"), strategy)
    said = []
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    with pytest.raises(StopIteration) as end:
        while True:
            seen = next(steps)
            if "allocating" in seen.says:
                said.append(seen.says)
                assert shares(here) == {"1": 1.0} and seen.weight == 0.0
            mine.clock.sleep_until(seen.wake_at)
    mine.close()
    assert end.value.value.ending == "proved" and "Until then v1 receives 100 %" in said[0]
    assert shares(here) == {"2": 1.0} and schedules(here) == []


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"blue_green"}))
def test_a_bad_build_under_provisioned_concurrency_is_rolled_back_at_once(situation: Bring, strategy: str) -> None:
    """Until its verdict the new version is a weight: taking that away needs no capacity."""
    here = situation("slow", history_minutes=20)
    provision(here)
    assert here.ship(here.build("slow")).ending == "rolled-back"
    assert shares(here) == {"1": 1.0} and schedules(here) == []


def test_an_immediate_rollback_says_which_version_still_serves(situation: Bring) -> None:
    """After the verdict a rollback needs capacity, too: the result says that v2 serves until AWS has allocated it."""
    here = situation("good", history_minutes=20)
    assert here.ship(here.build("good")).ending == "proved"
    provision(here)
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    done = rollback.run_rollback(mine, plan, approve(mine, plan))
    assert shares(here) == {"2": 1.0} and not str(done).startswith("ROLLED BACK")
    assert "v2 receives 100 %" in str(done) and "v1 receives 100 %" not in str(done)
    with pytest.raises(Refused, match="allocating"):
        gradual_rollback.plan_gradual_rollback(mine)
    again = rollback.plan_rollback(mine)
    waiting = rollback.run_rollback(mine, again, approve(mine, again))
    assert waiting.already and "v2 receives 100 %" in str(waiting)
    assert "ROLLED BACK: v1 receives 100 %" in str(rollback.drive_rollback(mine, done))
    assert shares(here) == {"1": 1.0}
    last = rollback.plan_rollback(mine)
    assert "v1 receives 100 %" in str(rollback.run_rollback(mine, last, approve(mine, last)))
    mine.close()


def test_capacity_that_is_never_allocated_is_an_error(situation: Bring) -> None:
    """The run waits for an hour, then says what serves and how to go on."""
    here = situation("good", history_minutes=20)
    provision(here)
    mine = here.connect()

    def never(send: Any, service: str, operation: str, **given: Any) -> Any:
        reply = send(service, operation, **given)
        if operation == "get_alias" and reply["FunctionVersion"] == "2":
            reply["RoutingConfig"] = {"AdditionalVersionWeights": {"1": 1.0}}
        return reply

    intercept(mine, never)
    plan = rollout.plan_rollout(mine, here.build("good"))
    with pytest.raises(BuddyError, match="capacity-pending") as failed:
        to_end(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    mine.close()
    assert "serves 100 % v1" in failed.value.now and "get-provisioned-concurrency-config" in failed.value.next


# T8


def staged(here: Situation, stages: list[float], **options: Any) -> Target:
    """A target with these stages, in percent."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["stages_percent"] = stages
    return here.connect(values=values, **options)


def reach(here: Situation, stages: list[float], weight: float) -> None:
    """A rollout of these stages whose run is lost at a weight."""
    mine = staged(here, stages)
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    while seen.weight < weight:
        mine.clock.sleep_until(seen.wake_at)
        seen = steps.send("promote" if seen.weight else None)
    steps.close()
    mine.close()


@pytest.mark.parametrize("stages", sampled([[10, 100], [5, 100], [1, 2, 5, 10, 20, 50, 100], [60, 100]], slice(1)))
def test_a_resumed_rollout_knows_the_share_of_every_minute(situation: Bring, stages: list[float]) -> None:
    """The record says which share each stage had, whatever stages the run has that resumes it."""
    here = situation("good", history_minutes=20)
    reach(here, [10, 20, 50, 100], 0.5)
    mine = staged(here, stages)
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    assert seen.evidence is not None
    assert [weight for _, weight in seen.evidence.shifts] == [0.1, 0.2, 0.5]
    assert seen.weight == 0.5 and seen.next_weight == next(stage / 100 for stage in stages if stage > 50)
    steps.close()
    mine.close()


@pytest.mark.whole
def test_a_record_without_shares_is_not_resumed_under_other_stages(situation: Bring) -> None:
    """A record of an earlier release has the stage's number only: with other stages that means another share."""
    here = situation("good", history_minutes=20)
    reach(here, [10, 20, 50, 100], 0.2)
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and record.shares == (0.1, 0.2)
    edit(here, Description=replace(record, shares_percent=()).encode())
    mine = staged(here, [10, 50, 100])
    plan = rollout.plan_rollout(mine, here.build("good"))
    before = here.alias()["RevisionId"]
    with pytest.raises(Refused, match="stages-differ") as refused:
        to_end(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert here.alias()["RevisionId"] == before and "stages_percent" in refused.value.next
    mine.close()
    mine = staged(here, [10, 20, 50, 100])
    plan = rollout.plan_rollout(mine, here.build("good"))
    assert to_end(mine, rollout.run_rollout(mine, plan, approve(mine, plan))).ending == "proved"
    mine.close()


def test_a_record_that_is_too_long_leaves_out_the_shares() -> None:
    """The Description holds 256 characters: the note goes first, then the shares."""
    record = RolloutState("beef", "100", "101", "9", "2026-11-02T00:00:00Z", tuple(range(1000, 1024)), note="n" * 60)
    for share in range(25):
        record = record.with_share(share / 25)
    assert len(record.encode()) <= 256 and decode_rollout_state(record.encode()) == replace(
        record, note="", shares_percent=()
    )
    short = RolloutState("beef", "1", "2", "1", "2026-11-02T00:00:00Z").with_share(0.005)
    assert decode_rollout_state(short.encode()) == short and '"pct":[0.5]' in short.encode()


# T14


def test_a_promotion_that_was_given_for_another_stage_is_refused(situation: Bring) -> None:
    """The stage changed before the order arrived: it promotes nothing. An abort is obeyed in any stage."""
    here = situation("good", history_minutes=20)
    with begun(here, "canary", "1") as (mine, steps):
        seen = next(steps)
        stale = StageOrder("promote", seen.stage, seen.weight)
        assert steps.send(stale).weight == 0.5
        mine.clock.sleep_until(seen.wake_at)
        assert steps.send(stale).weight == 0.5
        steps.send(StageOrder("abort", seen.stage, seen.weight))
        assert shares(here) == {"1": 1.0}
