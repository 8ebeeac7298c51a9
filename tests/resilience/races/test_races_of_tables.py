"""Two hands on one table at the same time: its schema and its items agree, and nobody's write is lost."""

from collections.abc import Callable
from typing import Any

from buddy_ops.aws import isolation
from buddy_ops.aws.freezes import active_freezes as freezes
from buddy_ops.aws.freezes import create_freeze as freeze
from buddy_ops.aws.isolation import Isolation
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Refused
from buddy_ops.deployment import reenabling
from buddy_ops.health.metrics import MINUTE
from buddy_ops.incidents import containment, repair
from buddy_ops.migrations import definitions, schema
from buddy_ops.migrations import steps as migration_steps
from buddy_ops.migrations.steps import StepResult
from buddy_sandbox import reminders
from tests.conftest import Situation, approve
from tests.incidents import corruption
from tests.migrations.test_schema import shipped
from tests.resilience.races.interleaving import Actor, Race
from tests.resilience.races.stage import Bring, Each, live, races, run, take_back, values

MIGRATION = definitions.read_migrations()[0]
HOUR = 60 * MINUTE
QUIET = {"requests_per_minute": 0, "history_minutes": 0}


# Migrations


def step(name: str) -> Callable[[Target], StepResult]:
    """Plan a step of the migration and take it, to its end."""

    def work(target: Target) -> StepResult:
        plan = migration_steps.plan_step(target, MIGRATION.name, name)
        done = migration_steps.run_step(target, plan, approve(target, plan))
        migration_steps.raise_for_failure(done)
        return done

    return work


def take(here: Situation, *steps: str) -> None:
    """Steps that nobody disturbs."""
    mine = here.connect(quiet=True, values=values())
    for each in steps:
        step(each)(mine)
    mine.close()


def marker(here: Situation) -> schema.SchemaMarker:
    """What the table says of its schema."""
    mine = here.connect(quiet=True, values=values())
    try:
        return schema.read_marker(mine, mine.settings.tables[0])
    finally:
        mine.close()


def at(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def change(target: Target, item: dict[str, Any], minutes: int, old: bool) -> None:
    """What the skill does when somebody moves a reminder: the old code knows one shape, the newer one writes both."""
    key = {name: item[name] for name in ("user_id", "reminder_id")}
    said: dict[str, Any] = {":at": {"S": at(minutes)}}
    sets = "SET #at = :at"
    if not old:
        said[":minutes"] = {"N": str(minutes)}
        sets += ", at_minutes = :minutes"
    target.client("dynamodb").update_item(TableName=corruption.NAME, Key=key, UpdateExpression=sets,
        ExpressionAttributeNames={"#at": "at"}, ExpressionAttributeValues=said,
    )  # fmt: skip


def user(items: list[dict[str, Any]], old: bool) -> Callable[[Target], None]:
    """Somebody who moves three reminders, forgets one and sets one; by ``old`` code where the table is in its shape."""

    def work(target: Target) -> None:
        for number in range(3):
            known = schema.read_marker(target, target.settings.tables[0]).version if old else 0
            change(target, items[number], 600 + number, old=known == definitions.FIRST)
        key = {name: items[3][name] for name in ("user_id", "reminder_id")}
        target.client("dynamodb").delete_item(TableName=corruption.NAME, Key=key)
        change(target, reminders.reminder(9000, 1), 603, old=False)

    return work


STEPS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    ((), "expand", "expand"),
    (("expand",), "backfill", "backfill"),
    (("expand", "backfill"), "verify", "verify"),
    (("expand", "backfill", "verify"), "contract", "contract"),
    (("expand", "backfill"), "rollback", "rollback"),
    (("expand", "backfill", "verify", "contract"), "rollback", "rollback"),
    (("expand", "backfill", "verify"), "contract", "rollback"),
    (("expand", "backfill", "verify"), "contract", "backfill"),
    (("expand",), "backfill", "rollback"),
)
"""What was done before, and what two people do then."""


@races("operations/migrate_database")
def test_two_people_migrate_one_table(situation: Bring, each: Each, seeds: range) -> None:
    """The table says what its items are, every reminder is as its person left it, and both people are done, or one is
    told who was first."""

    def race(seed: int) -> None:
        before, first, second = STEPS[seed % len(STEPS)]
        here = situation("good", seed=seed, reminders=6, **QUIET)
        take(here, *before)
        items = list(corruption.table(here).values())
        was = {each["reminder_id"]["S"]: each for each in items if each["user_id"] != {"S": schema.KEY}}
        theirs = list(was.values())
        old = first == second == "rollback"

        def enter(race: Race) -> Callable[[], None]:
            people = (
                race.enter("aaaa", step(first), values=values()),
                race.enter("bbbb", step(second), values=values(), within=15),
            )
            race.enter("uuuu", user(theirs, old), values=values(), within=30)

            def check() -> None:
                assert any(person.error is None for person in people), "nobody is done"
                for person in people:
                    check_told(person, {"aaaa": "bbbb", "bbbb": "aaaa"}[person.name])
                check_items(here, was, [each["reminder_id"]["S"] for each in theirs])

            return check

        run(here, seed, enter)

    each(seeds, race)


def check_told(person: Actor, other: str) -> None:
    if person.error is not None:
        assert person.error.reference in ("migration-moved", "migration-order"), str(person.error)
        assert other in person.error.what, "the loser was not told by whom"


def check_items(here: Situation, was: dict[str, Any], names: list[str]) -> None:
    """Each item in the shape that the table says, and at the time that its person chose."""
    says, found = marker(here), corruption.table(here)
    found = {name: item for name, item in found.items() if item["user_id"] != {"S": schema.KEY}}
    chosen = {names[0]: 600, names[1]: 601, names[2]: 602, "reminder-009000": 603}
    assert set(found) == ({*names} - {names[3]}) | {"reminder-009000"}, "an item is lost, or came back"
    old = says.version == MIGRATION.source
    for name, item in found.items():
        shown = item.get("at") if old else item.get("at_minutes")
        assert shown is not None, f"{name} cannot be read by a version that knows schema {says.version} ({says.state})"
        minutes = int(item["at_minutes"]["N"]) if not old else 60 * int(shown["S"][:2]) + int(shown["S"][3:])
        if name in chosen:
            assert minutes == chosen[name], f"what somebody chose for {name} is lost"
            continue
        before = was[name]
        asked = before["at"]["S"] if "at" in before else at(int(before["at_minutes"]["N"]))
        assert at(minutes) == asked, f"{name} has another time"
        both = says.state in ("verified", "expanded") and "at_minutes" in item
        assert ("at" in item) == (says.state != "contracted"), f"{name} is not {says.state}"
        assert says.state != "verified" or both, f"{name} is not verified"
        assert says.state != "reverted" or "at_minutes" not in item, f"{name} is not reverted"


@races("operations/migrate_database", "rollback/immediate")
def test_no_version_serves_that_cannot_read_the_table(situation: Bring, each: Each, seeds: range) -> None:
    """Contract against a rollback to a version that needs the old shape: one of them gives way, and says why; at no
    moment does that version serve while items are without the old attribute."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, reminders=3, **QUIET)
        shipped(here, "1", "1-2")
        take(here, "expand", "backfill", "verify")

        def enter(race: Race) -> Callable[[], None]:
            migrates = race.enter("aaaa", step("contract"), values=values(), within=3)
            thinks = race.random.choice((0, 0, 0, 0, 1))
            returns = race.enter("dddd", take_back("", thinks), values=values(), within=6)

            def check() -> None:
                check_the_old_version_reads_everything(race)
                assert (migrates.error is None) != (returns.error is None), "nobody won, or both"
                if returns.error is None:
                    assert isinstance(migrates.error, Refused) and migrates.error.reference == "schema-needed"
                    assert "v2" in migrates.error.what and live(here) == ("2", {})
                    assert marker(here).version == 1
                    assert all("at" in item for item in corruption.table(here).values() if "medication" in item)
                else:
                    assert isinstance(returns.error, Refused) and returns.error.reference == "schema-incompatible"
                    assert live(here) == ("3", {}) and marker(here).state == "contracted"

            return check

        run(here, seed, enter)

    each(seeds, race)


def check_the_old_version_reads_everything(race: Race) -> None:
    serves, contracted = "3", False
    for event in race.events:
        if event.reply is None:
            continue
        if event.operation == "lambda:update_alias":
            serves = event.parameters["FunctionVersion"]
        contracted |= event.operation == "dynamodb:transact_write_items"
        assert not (contracted and serves == "2"), f"v2 cannot read the table after {event.actor}'s {event.operation}"


# Damaged data


def recover(target: Target) -> str:
    """The recovery from damaged data, to its end; what the lifting says."""
    stopping = containment.plan_containment(target)
    containment.contain_damage(target, stopping, approve(target, stopping))
    containment.restore_table_copy(target, stopping)
    repairing = repair.plan_repair(target, repair.determine_scope(target, stopping))
    agreed = approve(target, repairing)
    done = repair.run_repair(target, repairing, agreed)
    repair.verify_repair(target, stopping, repairing, done)
    return containment.end_containment(target, stopping, repairing, agreed)


def correct(item: dict[str, Any]) -> Callable[[Target], None]:
    """Somebody puts one reminder right by hand, with a version that is well."""

    def work(target: Target) -> None:
        written = {"written_by": {"S": "1"}, "written_at": {"N": str(int(target.clock.now().timestamp()))}}
        right = item | written | {"medication": {"S": "their own"}, "at": {"S": "07:07"}}
        target.client("dynamodb").put_item(TableName=corruption.NAME, Item=right)

    return work


def reserved(here: Situation) -> int | None:
    """The function's reserved concurrency."""
    told: dict[str, Any] = here.client("lambda").get_function_concurrency(FunctionName=here.function)
    return told.get("ReservedConcurrentExecutions")


@races("emergency/data_corruption")
def test_two_people_recover_one_table(situation: Bring, each: Each, seeds: range) -> None:
    """Damaged items are whole again, what a person put right meanwhile stands, the function has the concurrency that it
    had, and nobody's freeze is lifted."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, reminders=6, **QUIET)
        whole = corruption.table(here)
        corruption.corrupted(here)
        damaged = corruption.table(here)["reminder-000001"]
        had = (None, 5)[seed % 2]
        if had is not None:
            here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=had)
        other = here.connect(quiet=True, run="gggg", values=values())
        freeze(other, "a release of Alexa", "Grace", 72 * HOUR)

        def enter(race: Race) -> Callable[[], None]:
            late = race.random.choice((0, 20, 60, 90))
            people = (
                race.enter("aaaa", recover, values=values()),
                race.enter("bbbb", recover, values=values(), since=late, within=late + 30),
            )
            # What is damaged has just been read: the next call may write it back.
            race.enter("uuuu", correct(damaged), values=values(), once="dynamodb:batch_get_item", within=6)

            def check() -> None:
                for person in people:
                    assert person.error is None, f"{person.name} ended with {person.error}"
                items = corruption.table(here)
                assert items["reminder-000001"]["medication"] == {"S": "their own"}, "a person's correction is lost"
                assert items["reminder-000002"]["medication"] == {"S": "their own"}, "a person's edit is lost"
                assert items["reminder-000003"]["at"] == {"S": "12:34"} and "reminder-000004" not in items
                assert items["reminder-000005"] == whole["reminder-000005"] and "reminder-009000" in items
                assert corruption.parameters(here, "isolation") == [], "an isolation is remembered"
                assert reserved(here) == had, f"the function's concurrency is {reserved(here)}, and was {had}"
                reasons = {each.reason for each in freezes(other)}
                assert "a release of Alexa" in reasons, "somebody's freeze was lifted"
                assert len(reasons) == 2

            return check

        run(here, seed, enter)
        other.close()

    each(seeds, race)


def isolate_and_lift(target: Target) -> Isolation:
    """What a recovery does of it: between the two a table is restored, which takes a minute at least."""
    known = isolation.isolate(target, "function", corruption.NAME)
    target.clock.sleep_until(target.clock.now() + MINUTE)
    isolation.remove_isolation(target)
    return known


def reenable(target: Target) -> str:
    """What `buddy-ops reenable` does."""
    plan = reenabling.plan_reenabling(target)
    return reenabling.run_reenabling(target, plan, approve(target, plan))


@races("reenable")
def test_two_people_reenable_one_function(situation: Bring, each: Each, seeds: range) -> None:
    """Both are done, whoever comes first: the concurrency of before is restored once, and nothing is left."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, reminders=1, **QUIET)
        here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=5)
        isolation.isolate(here.connect("data_corruption", quiet=True), "function", corruption.NAME)

        def enter(race: Race) -> Callable[[], None]:
            people = [race.enter(name, reenable, values=values(), within=6) for name in ("aaaa", "bbbb")]

            def check() -> None:
                assert [person.error for person in people] == [None, None]
                assert corruption.parameters(here, "isolation") == []
                assert reserved(here) == 5

            return check

        run(here, seed, enter)

    each(seeds, race)


@races("emergency/data_corruption")
def test_what_was_isolated_twice_is_lifted(situation: Bring, each: Each, seeds: range) -> None:
    """However two isolations and their ends fall together, the function has the concurrency that it had before."""

    def race(seed: int) -> None:
        here = situation("good", seed=seed, reminders=1, **QUIET)
        had = (None, 5)[seed % 2]
        if had is not None:
            here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=had)

        def enter(race: Race) -> Callable[[], None]:
            early = race.enter("aaaa", isolate_and_lift, values=values())
            people = (early, race.enter("bbbb", isolate_and_lift, values=values(), within=12))

            def check() -> None:
                for person in people:
                    assert person.error is None, f"{person.name} ended with {person.error}"
                    assert person.result.before == had
                assert corruption.parameters(here, "isolation") == []
                assert reserved(here) == had, f"the function's concurrency is {reserved(here)}, and was {had}"

            return check

        run(here, seed, enter)

    each(seeds, race)
