"""Two hands on one alias at the same time: who wins, who is told, and that nothing acknowledged is lost."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws import failsafe, freezes
from buddy_ops.aws.aliases import RolloutState, decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.deployment import cleanup, feature_flags, gradual_rollback, rollback, rollout
from buddy_ops.deployment.cleanup import CleanupPlan, CleanupResult
from buddy_ops.deployment.rollback import RollbackPlan
from buddy_ops.deployment.rollout import Outcome
from buddy_ops.incidents import assessment, schema_rollback
from buddy_ops.migrations import steps as migration_steps
from tests.conftest import Situation, approve, sampled
from tests.resilience.races.interleaving import Actor, Race
from tests.resilience.races.stage import (
    SINCE,
    Bring,
    Each,
    client,
    live,
    publish,
    put,
    races,
    run,
    ship,
    take_back,
    values,
    variables,
)


def ended_well(actor: Actor) -> bool:
    return isinstance(actor.result, Outcome) and actor.result.exit_code == 0


FLAG = "ENABLE_ENHANCED_SAFETY"


def turn(artifact: str = "") -> Callable[[Target], Outcome]:
    """Plan and carry out the turn of a flag, by a canary."""

    def work(target: Target) -> Outcome:
        plan = feature_flags.plan_flags(target, {FLAG: True}, strategy="canary", artifact=artifact)
        return rollout.drive_rollout(target, rollout.run_rollout(target, plan, approve(target, plan)))

    return work


@pytest.mark.parametrize("first", sampled(["canary", "flag"], {"canary"}))
# A fleet's canary runs strategies/canary on each target.
@races("strategies/canary", "operations/feature_flags", "fleet/canary")
def test_of_two_rollouts_one_wins(situation: Bring, each: Each, seeds: range, first: str) -> None:
    """One of two builds, or of a build and a flag, is shipped and nothing of the other with it; the other run is
    refused, changes no traffic after that and names the winner."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=10)
        # $LATEST may hold the build's code by then: whoever turns the flag has given the code that serves, or not.
        served = here.build("good", "1.0.0") if seed % 2 else ""
        work = ship(here.build("good", "2.0.0")) if first == "canary" else turn(served)
        other = ship(here.build("good", "3.0.0"))

        def enter(race: Race) -> Callable[[], None]:
            early = race.random.random() < 0.5
            a = race.enter("aaaa", work, values=values(), within=0 if early else 30)
            b = race.enter("bbbb", other, values=values(), within=30 if early else 0)

            def check() -> None:
                winners = [actor for actor in (a, b) if ended_well(actor)]
                assert len(winners) == 1, f"{len(winners)} rollouts won"
                (winner,) = winners
                loser = b if winner is a else a
                assert isinstance(loser.error, Refused), f"the loser ended with {type(loser.error).__name__}"
                if loser.error.reference != "code-differs" or loser is b or served:
                    assert loser.error.reference in ("alias-moved", "rollout-under-way"), loser.error.reference
                    assert winner.name in loser.error.what, "the loser was not told by whom"
                assert live(here) == (winner.result.new, {})
                turned = FLAG in variables(here, winner.result.new)
                assert turned == (first == "flag" and winner is a), "a change was shipped with another's rollout"

            return check

        run(here, seed, enter)

    each(seeds, race)


def fail(target: Target) -> RollbackPlan:
    """The runbook of a failed deployment, with the decision to roll back; where the traffic went."""
    stopping = assessment.plan_freeze(target, "a deployment failed")
    assessment.freeze_deployments(target, stopping, approve(target, stopping))
    plan = assessment.plan_decision(target, assessment.assess_deployment(target), "roll back")
    assessment.run_decision(target, plan, approve(target, plan))
    assert plan.back is not None
    return plan.back


def go_back_across(target: Target) -> RollbackPlan:
    """The rollback of a version that met a migration; where the traffic went."""
    plan = schema_rollback.plan_schema_rollback(target, migration="reminders_at_minutes", reason="drill")
    approval = approve(target, plan)
    schema_rollback.move_traffic(target, plan, approval)
    reverted = schema_rollback.revert_migration(target, plan, approval)
    schema_rollback.store_review(target, plan, approval)
    schema_rollback.raise_for_unreverted(reverted)
    return plan.back


def expand(here: Situation) -> None:
    """A migration is open."""
    mine = here.connect(quiet=True, values=values())
    plan = migration_steps.plan_step(mine, "reminders_at_minutes", "expand")
    migration_steps.run_step(mine, plan, approve(mine, plan))
    mine.close()


ROLLOUTS: dict[str, tuple[str, tuple[str, ...], range]] = {
    "canary": ("strategies/canary", ("good", "total_failure"), range(14, 22)),
    # It passes its smoke tests: only traffic shows what is wrong with it.
    "blue_green": ("strategies/blue_green", ("good", "slow"), range(14, 27)),
    "all_at_once": ("strategies/all_at_once", ("good", "slow"), range(14, 27)),
    "flag": ("operations/feature_flags", ("good",), range(14, 24)),
}
"""Each rollout's page, its builds, and which of its calls are those around its first shift of traffic."""

BACKS: dict[str, Callable[[Target], RollbackPlan]] = {"failure": fail, "compatibility": go_back_across}
BACKED = [(how, "immediate") for how in ROLLOUTS] + [("canary", back) for back in BACKS]


@pytest.mark.parametrize(("how", "back"), sampled(BACKED, slice(None, None, 2)))
@races(
    *(page for page, *_ in ROLLOUTS.values()),
    *("rollback", "rollback/immediate", "rollback/database_compatibility", "emergency/deployment_failure"),
)
def test_a_rollback_wins_over_a_rollout(situation: Bring, each: Each, seeds: range, how: str, back: str) -> None:
    """Whatever a rollout does at the same time, good build or bad, the rollback's destination serves alone at the end."""
    _, profiles, around = ROLLOUTS[how]

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=10, reminders=3 * (back == "compatibility"))
        publish(here, "1.5.0")
        put(here, "2", RolloutState("old0", "1", "2", "proved", SINCE))
        if back == "compatibility":
            expand(here)
        work = turn() if how == "flag" else ship(here.build(profiles[seed % len(profiles)], "3.0.0"), how)
        named = ("", "1", "2", "1")[seed // 2 % 4] if back == "immediate" else ""

        def enter(race: Race) -> Callable[[], None]:
            shipper = race.enter("cccc", work, values=values())
            # One that finds its destination serving already is of interest around the first shift.
            when = {"since": around[0], "within": around[-1]} if named == "2" else {"within": 45}
            thinks = 0 if named == "2" else race.random.choice((0, 0, 1, 2, 3, 4))
            returns = BACKS[back] if back in BACKS else take_back(named, thinks)
            person = race.enter("dddd", returns, values=values(), **when)

            def check() -> None:
                assert person.error is None, f"the rollback ended with {person.error and person.error.reference}"
                moved = race.done("lambda:update_alias", "dddd")
                looked = race.done("lambda:get_alias", "cccc")
                if moved and looked and looked[0] < moved[-1]:
                    assert live(here) == (person.result.destination, {}), "the rollback did not win"
                    late = [index for index in race.done("lambda:update_alias", "cccc") if index > moved[-1]]
                    assert not late, "the rollout wrote to the alias after the rollback"
                if shipper.error is not None:
                    assert isinstance(shipper.error, Refused), f"the rollout ended with {shipper.error.reference}"
                    assert "dddd" in shipper.error.what, "the rollout was not told by whom"

            return check

        run(here, seed, enter)

    each(seeds, race)


# A fleet's rollback does this for each target; tests/fleet races it with a canary.
@races("rollback/immediate", "rollback", "fleet/rollback")
def test_two_rollbacks_are_both_done(situation: Bring, each: Each, seeds: range) -> None:
    """Two people who roll back at once are both told that it is done, and the traffic is where they meant it to be."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=0, requests_per_minute=0)
        publish(here, "1.5.0")
        publish(here, "1.6.0")
        states: list[tuple[Any, ...]] = [
            ("3", RolloutState("old0", "2", "3", "watch", SINCE, fallback_version="1")),
            ("3", RolloutState("old0", "2", "3", "proved", SINCE, fallback_version="1", rejected_versions=("7",))),
            ("2", RolloutState("old0", "2", "3", "1", SINCE, fallback_version="1"), "3"),
            ("2", RolloutState("old0", "2", "3", "1", SINCE, fallback_version="1")),
        ]
        put(here, *states[seed % len(states)])
        named = ("", "", "1")[seed // 4 % 3]

        def enter(race: Race) -> Callable[[], None]:
            people = [race.enter(name, take_back(named), values=values()) for name in ("dddd", "eeee")]

            def check() -> None:
                for person in people:
                    assert person.error is None, f"one ended with {person.error and person.error.reference}"
                    assert person.result.destination == (named or "2")
                assert live(here) == (named or "2", {})
                record = decode_rollout_state(
                    client(here.endpoint).get_alias(FunctionName=here.function, Name="live")["Description"]
                )
                assert record is not None and record.stage == "rolled-back" and "3" in record.rejected_versions

            return check

        run(here, seed, enter)

    each(seeds, race)


def drain(target: Target) -> Outcome:
    """Take a canary's share away in two steps, a minute each."""
    plan = gradual_rollback.plan_gradual_rollback(target, [5, 0], 1)
    return rollout.drive_rollout(target, gradual_rollback.run_gradual_rollback(target, plan, approve(target, plan)))


@races("rollback/gradual", "rollback/immediate")
def test_an_immediate_rollback_wins_over_a_gradual_one(situation: Bring, each: Each, seeds: range) -> None:
    """Where somebody goes back at once, to whichever version, while another goes down in steps: that version serves
    alone, and the other is done, or told by whom it was not."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=0, requests_per_minute=0)
        publish(here, "1.5.0")
        publish(here, "1.6.0")
        armed = here.connect(quiet=True, values=values())
        failsafe.arm_split(armed, "old0")
        put(here, "2", RolloutState("old0", "2", "3", "1", SINCE, fallback_version="1"), "3", 0.5)
        named = ("", "1", "3", "2")[seed % 4]

        def enter(race: Race) -> Callable[[], None]:
            slow = race.enter("hhhh", drain, values=values())
            fast = race.enter("dddd", take_back(named, race.random.choice((0, 0, 1, 2))), values=values(), within=14)

            def check() -> None:
                assert fast.error is None, f"the immediate rollback ended with {fast.error and fast.error.reference}"
                assert live(here) == (fast.result.destination, {}), "the immediate rollback did not win"
                if slow.error is not None:
                    assert slow.error.reference in ("alias-moved", "nothing-to-drain"), slow.error.reference
                    assert fast.result.destination in slow.error.what + slow.error.now, "nobody was told what serves"
                else:
                    assert slow.result.ending == "drained"
                assert here.client("scheduler").list_schedules()["Schedules"] == [], "a schedule is left"

            return check

        run(here, seed, enter)

    each(seeds, race)


@races("operations/clean_up_versions")
def test_a_clean_up_spares_what_a_rollback_needs(situation: Bring, each: Each, seeds: range) -> None:
    """Whatever is deleted meanwhile, a rollback's target is not; one that a person names is there, or the error says."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=0, requests_per_minute=0)
        for number in range(4):
            publish(here, f"1.{number + 5}.0")
        states: list[tuple[Any, ...]] = [
            ("5", RolloutState("old0", "4", "5", "proved", SINCE, fallback_version="3")),
            ("5", RolloutState("old0", "4", "5", "proved", SINCE, fallback_version="3", rejected_versions=("4",))),
            ("4", RolloutState("old0", "4", "5", "1", SINCE, fallback_version="3"), "5"),
            ("5", RolloutState("old0", "4", "5", "watch", SINCE, fallback_version="3")),
        ]
        put(here, *states[seed % len(states)])
        named = ("", "2", "", "1")[seed // 4 % 4]
        expected = named or ("4", "3", "4", "4")[seed % len(states)]

        def clean(target: Target) -> tuple[CleanupPlan, CleanupResult]:
            plan = cleanup.plan_cleanup(target, keep=1)
            return plan, cleanup.run_cleanup(target, plan, approve(target, plan))

        def enter(race: Race) -> Callable[[], None]:
            before = live(here)
            back = race.enter("dddd", take_back(named), values=values())
            cleaner = race.enter("ffff", clean, values=values())

            def check() -> None:
                pages = client(here.endpoint).get_paginator("list_versions_by_function")
                found = pages.paginate(FunctionName=here.function)
                there = {each["Version"] for page in found for each in page["Versions"]}
                assert cleaner.error is None, f"the clean-up ended with {cleaner.error and cleaner.error.reference}"
                assert not there & set(cleaner.result[1].deleted)
                serves, weights = live(here)
                assert serves in there and set(weights) <= there
                if back.error is None:
                    assert (serves, weights) == (expected, {})
                    assert back.result.destination == expected
                else:
                    assert named and named not in there, f"the rollback ended with {back.error.reference}"
                    assert isinstance(back.error, BuddyError) and named in back.error.what
                    assert live(here) == before, "a rollback that failed moved the traffic"
                    rollback.run_rollback(
                        again := here.connect(quiet=True),
                        rollback.plan_rollback(again),
                        approve(again, rollback.plan_rollback(again)),
                    )

            return check

        run(here, seed, enter)

    each(seeds, race)


@races("freeze")
def test_no_canary_advances_after_a_freeze(situation: Bring, each: Each, seeds: range) -> None:
    """A canary looks for freezes before each step forward; one that was acknowledged by then stops it, until lifted."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=10)
        artifact = here.build("good")

        def stop(target: Target) -> None:
            freezes.create_freeze(target, "incident", "Ada", timedelta(hours=1))
            if seed % 3 == 0:
                target.clock.sleep_until(target.clock.now() + timedelta(minutes=2))
                freezes.remove_freeze(target, target.run)

        def enter(race: Race) -> Callable[[], None]:
            canary = race.enter("cccc", ship(artifact), values=values())
            ice = race.enter("gggg", stop, values=values(), within=30)

            def check() -> None:
                assert ice.error is None
                check_freeze(race)
                if canary.error is not None:
                    assert canary.error.reference == "frozen", f"the canary ended with {canary.error.reference}"
                    assert not race.done("lambda:update_alias", "cccc") and live(here) == ("1", {})
                else:
                    assert canary.result.ending in ("proved", "unproven", "held"), canary.result.ending
                    assert live(here) == ("1" if canary.result.ending == "held" else "2", {})

            return check

        run(here, seed, enter)

    each(seeds, race)


def check_freeze(race: Race) -> None:
    """Before each step forward there was a look for freezes since the run last waited, and none stood at that look."""
    frozen = saw = looked = False
    share = 0.0
    for event in race.events:
        if event.actor == "cccc" and event.operation == "wake":
            looked = False
        if event.reply is None:
            continue
        if event.operation == "ssm:put_parameter":
            frozen = True
        elif event.operation == "ssm:delete_parameter":
            frozen = False
        elif event.actor == "cccc" and event.operation == "ssm:get_parameters_by_path":
            looked, saw = True, frozen
        elif event.actor == "cccc" and event.operation == "lambda:update_alias":
            weights = event.parameters["RoutingConfig"]["AdditionalVersionWeights"]
            before, share = share, weights.get("2", float(event.parameters["FunctionVersion"] == "2"))
            if share > before:
                assert looked, "a step forward without a look for freezes since the run last waited"
                assert not saw, "a step forward after a freeze was seen"


def test_the_same_seed_gives_the_same_race(situation: Bring) -> None:
    """A failure's seed shows the same order of calls again."""
    told = []
    for _ in range(2):
        here = situation("good", seed=5, history_minutes=10)
        race = Race(here, 5)
        race.enter("aaaa", ship(here.build("good")), values=values())
        race.enter("bbbb", take_back("1"), values=values(), within=30)
        race.run()
        told.append([(event.actor, event.operation, event.code) for event in race.events])
    assert told[0] == told[1]
