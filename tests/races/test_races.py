"""Two hands on one alias at the same time: who wins, who is told, and that nothing acknowledged is lost.

Each race is one order of two or three actors' AWS calls, drawn from its seed; a failure shows its seed and its log.
"""

import functools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import boto3
import pytest

from buddy_ops import freeze, pruning, rollback, rollout, runs
from buddy_ops.aliases import Record, decode
from buddy_ops.errors import BuddyError, Refused
from buddy_ops.metrics import MINUTE
from buddy_ops.pruning import Pruned, PrunePlan
from buddy_ops.rollout import Outcome
from buddy_ops.sandbox import builds
from buddy_ops.sandbox.faults import PROFILES
from buddy_ops.target import Target
from tests.conftest import Situation, approve
from tests.races.interleaving import Actor, Race

Bring = Callable[..., Situation]
SAMPLE, WHOLE = range(60), range(60, 200)
RACES = pytest.mark.parametrize("seeds", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.whole)], ids=["sample", "rest"])
SINCE = "2026-11-22T00:00:00Z"


@pytest.fixture(autouse=True)
def a_world_for_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback's checks wait for their turn here, which is no slow answer; and every version is a day old."""
    monkeypatch.setattr(rollback, "CHECKS_S", 60.0)
    monkeypatch.setattr(pruning, "WINDOW", timedelta())


@functools.cache
def client(endpoint: str) -> Any:
    """The tests' own hand in Lambda."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client("lambda", endpoint_url=endpoint, **keys)


@functools.cache
def build(profile: str, label: str) -> bytes:
    """A build's bytes: the same in every race."""
    return builds.build(PROFILES[profile], label)


@functools.cache
def values() -> dict[str, Any]:
    """A short canary: 10 percent for a minute, then the switch and a minute's watch."""
    from buddy_ops import parameters

    settings: dict[str, Any] = parameters.read("sandbox")[0]
    settings["rollout"] |= {"stages_percent": [10, 100], "bake_minutes": 1, "stretch_minutes": 2, "watch_minutes": 1}
    settings["rollout"] |= {"probe_percent": 0, "unreadable_minutes": 3}
    settings["health"] |= {"history_minutes": 5}
    settings["lease"] |= {"minutes": 10}
    return settings


def publish(here: Situation, label: str) -> str:
    """One more version, with nobody's traffic."""
    lam, code = client(here.endpoint), build("good", label)
    lam.update_function_code(FunctionName=here.function, ZipFile=code)
    here.ask("advance", seconds=3)
    version = lam.publish_version(FunctionName=here.function)["Version"]
    here.ask("advance", seconds=3)
    return str(version)


def put(here: Situation, primary: str, record: Record, second: str = "", weight: float = 0.1) -> None:
    """The alias as an earlier run left it."""
    weights = {second: weight} if second else {}
    client(here.endpoint).update_alias(
        FunctionName=here.function, Name="live", FunctionVersion=primary,
        RoutingConfig={"AdditionalVersionWeights": weights}, Description=record.encode(),
    )  # fmt: skip


def live(here: Situation) -> tuple[str, dict[str, float]]:
    """What the alias serves: its version, and the weights beside it."""
    alias = client(here.endpoint).get_alias(FunctionName=here.function, Name="live")
    return alias["FunctionVersion"], alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})


def ship(artifact: str) -> Callable[[Target], Outcome]:
    """Plan and carry out a canary."""

    def work(target: Target) -> Outcome:
        plan = rollout.plan(target, artifact)
        return runs.drive(target, rollout.run(target, plan, approve(target, plan)))

    return work


def take_back(version: str = "", polls: int = 0) -> Callable[[Target], tuple[rollback.RollbackPlan, rollback.Done]]:
    """Plan an immediate rollback, think until somebody's poll, so many minutes later, and carry it out."""

    def work(target: Target) -> tuple[rollback.RollbackPlan, rollback.Done]:
        plan = rollback.plan(target, version)
        target.clock.sleep_until(target.clock.now().replace(second=0, microsecond=0) + polls * MINUTE)
        return plan, rollback.run(target, plan, approve(target, plan))

    return work


def check_no_update_is_lost(race: Race, first: str) -> None:
    """Each write to the alias names the revision that the write before it returned, and keeps what that noted as bad."""
    revision, bad = first, set[str]()
    for index in race.done("lambda:update_alias"):
        event = race.events[index]
        assert event.reply is not None
        assert event.parameters["RevisionId"] == revision, "a write over an unseen one was acknowledged"
        revision = event.reply["RevisionId"]
        record = decode(event.parameters["Description"])
        assert record is not None
        assert bad - {record.to} <= set(record.bad) or len(record.bad) == 3, "an acknowledged bad version was lost"
        bad = set(record.bad)


def check_no_split_without_a_lease(race: Race) -> None:
    """At no moment do weights stand while no lease does."""
    leases, split = set[str](), False
    for event in race.events:
        name = str(event.parameters.get("Name", ""))
        if event.reply is None:
            continue
        if event.operation == "lambda:update_alias":
            split = bool(event.parameters["RoutingConfig"]["AdditionalVersionWeights"])
        elif event.operation == "scheduler:delete_schedule":
            leases.discard(name)
        elif event.operation.startswith("scheduler:") and "-lease" in name:
            leases.add(name)
        assert leases or not split, f"weights stand without a lease after {event.actor}'s {event.operation}"


def check_nothing_moves_later(race: Race) -> None:
    """What is left armed when all have ended takes nobody's traffic away."""
    before = live(race.here)
    assert not before[1], "weights stand, and nobody is there"
    race.advance_to(race.now + timedelta(minutes=15))
    assert live(race.here) == before, "a leftover schedule moved the traffic"


def run(here: Situation, seed: int, enter: Callable[[Race], Callable[[], None]]) -> None:
    """One race: let ``enter`` bring the actors in, let them act, then check what it returned and what always holds."""
    revision = client(here.endpoint).get_alias(FunctionName=here.function, Name="live")["RevisionId"]
    race = Race(here, seed)
    check = enter(race)
    race.run()
    try:
        check_no_update_is_lost(race, revision)
        check_no_split_without_a_lease(race)
        check()
        check_nothing_moves_later(race)
    except AssertionError as failed:
        raise AssertionError(f"{failed}\n{race.told()}") from failed


@pytest.fixture
def each(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., None]]:
    """Runs a race for each seed, shows every seed that failed, and says how many races there were."""

    def every(seeds: range, race: Callable[[int], None]) -> None:
        failed: dict[int, AssertionError] = {}
        for seed in seeds:
            try:
                race(seed)
            except AssertionError as error:
                failed[seed] = error
        with capsys.disabled():
            print(f"\n{request.node.name}: {len(seeds)} races, {len(failed)} failed")
        if failed:
            heads = "\n".join(f"seed {seed}: {str(error).splitlines()[0]}" for seed, error in failed.items())
            raise AssertionError(f"{heads}\n\n{next(iter(failed.values()))}")

    yield every


def ended_well(actor: Actor) -> bool:
    return isinstance(actor.result, Outcome) and actor.result.exit_code == 0


@RACES
def test_of_two_canaries_one_wins(situation: Bring, each: Callable[..., None], seeds: range) -> None:
    """One of two builds is shipped; the other run is refused, changes no traffic after that and names the winner."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=10)
        artifacts = [here.build("good", label) for label in ("2.0.0", "3.0.0")]

        def enter(race: Race) -> Callable[[], None]:
            a = race.enter("aaaa", ship(artifacts[0]), values=values())
            b = race.enter("bbbb", ship(artifacts[1]), values=values(), within=30)

            def check() -> None:
                winners = [actor for actor in (a, b) if ended_well(actor)]
                assert len(winners) == 1, f"{len(winners)} canaries won"
                (winner,) = winners
                loser = b if winner is a else a
                assert isinstance(loser.error, Refused), f"the loser ended with {type(loser.error).__name__}"
                assert loser.error.reference in ("alias-moved", "rollout-under-way")
                assert winner.name in loser.error.what, "the loser was not told by whom"
                assert live(here) == (winner.result.new, {})

            return check

        run(here, seed, enter)

    each(seeds, race)


@RACES
def test_a_rollback_wins_over_a_canary(situation: Bring, each: Callable[..., None], seeds: range) -> None:
    """Whatever a canary does at the same time, good build or bad, the rollback's destination serves alone at the end."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=10)
        publish(here, "1.5.0")
        put(here, "2", Record("old0", "1", "2", "proved", SINCE))
        artifact = here.build(("good", "total_failure")[seed % 2], "3.0.0")
        named = ("", "1", "2", "1")[seed // 2 % 4]

        def enter(race: Race) -> Callable[[], None]:
            canary = race.enter("cccc", ship(artifact), values=values())
            # One that finds its destination serving already is of interest around the canary's first shift.
            when = {"since": 14, "within": 21} if named == "2" else {"within": 45}
            thinks = 0 if named == "2" else race.random.choice((0, 0, 1, 2, 3, 4))
            back = race.enter("dddd", take_back(named, thinks), values=values(), **when)

            def check() -> None:
                assert back.error is None, f"the rollback ended with {back.error and back.error.reference}"
                plan, done = back.result
                assert done.serving == plan.destination
                moved = race.done("lambda:update_alias", "dddd")
                looked = race.done("lambda:get_alias", "cccc")
                if moved and looked and looked[0] < moved[-1]:
                    assert live(here) == (plan.destination, {}), "the rollback did not win"
                    late = [index for index in race.done("lambda:update_alias", "cccc") if index > moved[-1]]
                    assert not late, "the canary wrote to the alias after the rollback"
                if canary.error is not None:
                    assert isinstance(canary.error, Refused), f"the canary ended with {canary.error.reference}"
                    assert "dddd" in canary.error.what, "the canary was not told by whom"

            return check

        run(here, seed, enter)

    each(seeds, race)


@RACES
def test_two_rollbacks_are_both_done(situation: Bring, each: Callable[..., None], seeds: range) -> None:
    """Two people who roll back at once are both told that it is done, and the traffic is where they meant it to be."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=0, requests_per_minute=0)
        publish(here, "1.5.0")
        publish(here, "1.6.0")
        states: list[tuple[Any, ...]] = [
            ("3", Record("old0", "2", "3", "watch", SINCE, prev="1")),
            ("3", Record("old0", "2", "3", "proved", SINCE, prev="1", bad=("7",))),
            ("2", Record("old0", "2", "3", "1", SINCE, prev="1"), "3"),
            ("2", Record("old0", "2", "3", "1", SINCE, prev="1")),
        ]
        put(here, *states[seed % len(states)])
        named = ("", "", "1")[seed // 4 % 3]

        def enter(race: Race) -> Callable[[], None]:
            people = [race.enter(name, take_back(named), values=values()) for name in ("dddd", "eeee")]

            def check() -> None:
                for person in people:
                    assert person.error is None, f"one ended with {person.error and person.error.reference}"
                    assert person.result[1].serving == person.result[0].destination == (named or "2")
                assert live(here) == (named or "2", {})
                record = decode(client(here.endpoint).get_alias(FunctionName=here.function, Name="live")["Description"])
                assert record is not None and record.stage == "rolled-back" and "3" in record.bad

            return check

        run(here, seed, enter)

    each(seeds, race)


@RACES
def test_a_clean_up_spares_what_a_rollback_needs(situation: Bring, each: Callable[..., None], seeds: range) -> None:
    """Whatever is deleted meanwhile, a rollback's target is not; one that a person names is there, or the error says."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=0, requests_per_minute=0)
        for number in range(4):
            publish(here, f"1.{number + 5}.0")
        states: list[tuple[Any, ...]] = [
            ("5", Record("old0", "4", "5", "proved", SINCE, prev="3")),
            ("5", Record("old0", "4", "5", "proved", SINCE, prev="3", bad=("4",))),
            ("4", Record("old0", "4", "5", "1", SINCE, prev="3"), "5"),
            ("5", Record("old0", "4", "5", "watch", SINCE, prev="3")),
        ]
        put(here, *states[seed % len(states)])
        named = ("", "2", "", "1")[seed // 4 % 4]
        expected = named or ("4", "3", "4", "4")[seed % len(states)]

        def clean(target: Target) -> tuple[PrunePlan, Pruned]:
            plan = pruning.plan(target, keep=1)
            return plan, pruning.run(target, plan, approve(target, plan))

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
                    assert back.result[1].serving == expected
                else:
                    assert named and named not in there, f"the rollback ended with {back.error.reference}"
                    assert isinstance(back.error, BuddyError) and named in back.error.what
                    assert live(here) == before, "a rollback that failed moved the traffic"
                    rollback.run(
                        again := here.connect(quiet=True), rollback.plan(again), approve(again, rollback.plan(again))
                    )

            return check

        run(here, seed, enter)

    each(seeds, race)


@RACES
def test_no_canary_advances_after_a_freeze(situation: Bring, each: Callable[..., None], seeds: range) -> None:
    """A canary looks for freezes before each step forward; one that was acknowledged by then stops it, until lifted."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, history_minutes=10)
        artifact = here.build("good")

        def stop(target: Target) -> None:
            freeze.set(target, "incident", "Ada", timedelta(hours=1))
            if seed % 3 == 0:
                target.clock.sleep_until(target.clock.now() + timedelta(minutes=2))
                freeze.lift(target, target.run)

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
