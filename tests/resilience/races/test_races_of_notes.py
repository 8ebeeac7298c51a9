"""Two hands on what stands beside the alias: freezes, alarms, and the records of checklists."""

from collections.abc import Callable
from datetime import timedelta

from buddy_ops.aws import checklist_store, freezes
from buddy_ops.aws.session import Target
from buddy_ops.checks import checklists, proof
from buddy_ops.checks.findings import Finding
from buddy_ops.core.checklist import ChecklistResult
from buddy_ops.core.errors import BuddyError
from buddy_ops.health import alarms
from tests.conftest import approve
from tests.resilience.harness import ESCALATIONS
from tests.resilience.races.interleaving import Race
from tests.resilience.races.stage import Bring, Each, publish, races, run, values

QUIET = {"requests_per_minute": 0, "history_minutes": 0}


def stop(hours: float) -> Callable[[Target], freezes.Freeze]:
    """Freeze."""
    return lambda target: freezes.create_freeze(target, f"for {hours:g} hours", "Ada", timedelta(hours=hours))


def lift_first(target: Target) -> str:
    """Look at what is frozen, and lift the first of it by its id; that id."""
    standing = freezes.active_freezes(target)
    return standing[0].id if standing and freezes.remove_freeze(target, standing[0].id) else ""


@races("freeze")
def test_a_freeze_stands_until_it_is_lifted_by_its_id(situation: Bring, each: Each, seeds: range) -> None:
    """Two freezes and two people who lift what they see: each one that was acknowledged and not lifted stands, and of
    two who lift the same one is told that it was gone."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, **QUIET)

        def enter(race: Race) -> Callable[[], None]:
            cold = [race.enter(name, stop(hours), values=values()) for name, hours in (("aaaa", 1), ("bbbb", 2))]
            warm = [race.enter(name, lift_first, values=values(), within=3) for name in ("cccc", "dddd")]

            def check() -> None:
                assert all(actor.error is None for actor in warm)
                lifted = [actor.result for actor in warm if actor.result]
                for actor in cold:
                    # A freeze that is lifted at once is not there to be read back.
                    gone = isinstance(actor.error, BuddyError) and actor.error.reference == "freeze-unconfirmed"
                    assert actor.error is None or (gone and actor.name in lifted), actor.error
                assert len(lifted) == len(set(lifted)), "two were told that they lifted the same"
                standing = {each.id: each for each in freezes.active_freezes(here.connect(quiet=True, values=values()))}
                kept = {actor.name: actor.result for actor in cold if actor.name not in lifted}
                assert standing == kept, "a freeze that was acknowledged does not stand, or one that was lifted does"

            return check

        run(here, seed, enter)

    each(seeds, race)


def keep_alarms(target: Target) -> tuple[str, ...]:
    """Write what alarms there should be."""
    plan = alarms.plan_alarms(target)
    return alarms.write_alarms(target, plan, approve(target, plan))


@races("operations/alarms")
def test_alarms_written_twice_are_as_they_should_be(situation: Bring, each: Each, seeds: range) -> None:
    """Two people write the alarms while somebody mutes one and deletes another: who looks after it all, sees four."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, **QUIET)
        given = values() | {"alarms": {"tables": ["reminders"], "custom": [ESCALATIONS]}}
        mine = here.connect(quiet=True, values=given)
        names = [each["AlarmName"] for each in alarms.wanted_alarms(mine)]
        if seed % 2:
            keep_alarms(mine)
            here.client("cloudwatch").delete_alarms(AlarmNames=[names[seed % 4]])
            here.client("cloudwatch").disable_alarm_actions(AlarmNames=[names[(seed + 1) % 4]])

        def enter(race: Race) -> Callable[[], None]:
            people = [race.enter(name, keep_alarms, values=given, within=4) for name in ("aaaa", "bbbb")]

            def check() -> None:
                assert all(person.error is None for person in people)
                assert sorted(alarm.name for alarm in alarms.read_alarms(mine)) == sorted(names) and len(names) == 4
                assert alarms.plan_alarms(mine).wanted == (), "an alarm is not as it should be"
                written = {name for person in people for name in person.result}
                assert written == ({names[seed % 4], names[(seed + 1) % 4]} if seed % 2 else set(names))

            return check

        run(here, seed, enter)

    each(seeds, race)


def check_before(artifact: str) -> Callable[[Target], ChecklistResult]:
    """The checklist before a deployment, kept."""

    def work(target: Target) -> ChecklistResult:
        record = checklists.check_before(target, artifact, {"code reviewed": target.run})
        checklists.store_result(target, record)
        return record

    return work


def check_after(target: Target) -> ChecklistResult:
    """The checklist after a deployment, kept."""
    record = checklists.check_after(target, {"error rate normal": target.run})
    checklists.store_result(target, record)
    return record


@races("operations/pre_deployment", "operations/post_deployment")
def test_no_checklists_record_is_lost(situation: Bring, each: Each, seeds: range) -> None:
    """Two people go through the same checklist at the same minute: both records stand, each with its person's name."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, **QUIET)
        checklist = ("pre_deployment", "post_deployment")[seed % 2]
        work = check_after if seed % 2 else check_before(here.build("good"))
        given = values() | {"smoke_tests": []}  # each would start the skill anew

        def enter(race: Race) -> Callable[[], None]:
            people = [race.enter(name, work, values=given, within=8) for name in ("aaaa", "bbbb")]

            def check() -> None:
                assert all(person.error is None for person in people)
                kept = checklist_store.list_results(here.connect(quiet=True, values=values()), checklist)
                assert {each.run: each.items for each in kept} == {
                    person.name: person.result.items for person in people
                }, "a record is lost"
                named = {item.by for each in kept for item in each.items if item.by}
                assert named == {"aaaa", "bbbb"}

            return check

        run(here, seed, enter)

    each(seeds, race)


def prove_failsafe(target: Target) -> list[Finding]:
    """A proof, as far as it creates an alias and a schedule."""
    plan = proof.plan_proof(target)
    probes = [probe for probe in proof.PROBES if probe.name == "failsafe runs"]
    return list(proof.run_proof(target, plan, approve(target, plan), probes=probes))


@races("prove")
def test_two_proofs_leave_nothing(situation: Bring, each: Each, seeds: range) -> None:
    """One may find what the other took away, and says so; both end, and nothing of either is left."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, **QUIET)
        publish(here, "2.0.0")

        def enter(race: Race) -> Callable[[], None]:
            actors = [race.enter(name, prove_failsafe, values=values(), within=40) for name in ("aaaa", "bbbb")]

            def check() -> None:
                assert [actor.error for actor in actors] == [None, None]
                aliases = here.client("lambda").list_aliases(FunctionName=here.function)["Aliases"]
                assert [alias["Name"] for alias in aliases] == ["live"]
                assert here.client("scheduler").list_schedules()["Schedules"] == []

            return check

        run(here, seed, enter)

    each(seeds, race)
