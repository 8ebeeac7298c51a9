"""Migrations step by step: in order, on condition, resumable, and never past a version that needs the old shape."""

import json
import os
import random
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from buddy_ops.aws import tables
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.migrations import schema
from buddy_ops.migrations import steps as migration_steps
from buddy_ops.migrations.steps import BackfillTally, StepResult
from buddy_sandbox import reminders
from tests.conftest import Situation, approve, sampled
from tests.migrations.test_schema import QUIET, shipped

Bring = Callable[..., Situation]
NAME, TABLE, KEY = "reminders_at_minutes", "buddy-reminders-sandbox", ("user_id", "reminder_id")


@pytest.fixture
def here(situation: Bring) -> Situation:
    """30 reminders, and version 3 serves: it knows both shapes, and version 2 before it as well."""
    here = situation("good", reminders=30, **QUIET)
    shipped(here, "1-2", "1-2")
    return here


def take(mine: Target, *steps: str) -> StepResult:
    """Take the steps; the last one's end."""
    for step in steps:
        plan = migration_steps.plan_step(mine, NAME, step)
        done = migration_steps.run_step(mine, plan, approve(mine, plan))
    return done


def items(mine: Target) -> dict[str, Any]:
    """Every reminder, by its id."""
    found = [item for page, _ in tables.parallel_scan(mine, TABLE, lambda page: None) for item in page.items]
    return {each["reminder_id"]["S"]: each for each in found if each["user_id"] != {"S": schema.KEY}}


def state(mine: Target) -> tuple[int, str]:
    (table,) = mine.settings.tables
    marker = schema.read_marker(mine, table)
    return marker.version, marker.state


def minutes(at: str) -> str:
    return str(60 * int(at[:2]) + int(at[3:]))


def put(here: Situation, item: dict[str, Any]) -> None:
    here.client("dynamodb").put_item(TableName=TABLE, Item=item)


def test_a_migration_goes_its_way(here: Situation) -> None:
    """Expand changes no item, backfill gives each both shapes, verify proves it, contract takes the old one away."""
    mine = here.connect()
    before = items(mine)
    take(mine, "expand")
    assert items(mine) == before and state(mine) == (1, "expanded")
    done = take(mine, "backfill")
    assert (done.tally.items, done.tally.changed, done.tally.left) == (30, 30, 0)
    both = {name: {**item, "at_minutes": {"N": minutes(item["at"]["S"])}} for name, item in before.items()}
    assert items(mine) == both
    take(mine, "verify")
    assert state(mine) == (1, "verified")
    take(mine, "contract")
    assert state(mine) == (2, "contracted")
    assert items(mine) == {name: {k: v for k, v in item.items() if k != "at"} for name, item in both.items()}
    take(mine, "verify")


def test_a_contract_is_taken_back(here: Situation) -> None:
    """Rollback makes the old attribute anew beside the new one; once more, and the new one is gone: all is as before."""
    mine = here.connect()
    before = items(mine)
    take(mine, "expand", "backfill", "verify", "contract", "rollback")
    assert state(mine) == (1, "expanded")
    assert {name: item["at"] for name, item in items(mine).items()} == {n: item["at"] for n, item in before.items()}
    take(mine, "rollback")
    assert state(mine) == (1, "reverted") and items(mine) == before
    take(mine, "expand")


def test_steps_out_of_order_are_refused(here: Situation) -> None:
    """Each step says what comes before it, and changes nothing."""
    mine = here.connect()

    def refused(*steps: str) -> None:
        for step in steps:
            with pytest.raises(Refused, match="migration-order"):
                migration_steps.plan_step(mine, NAME, step)

    refused("backfill", "verify", "contract", "rollback")
    take(mine, "expand")
    refused("contract")
    take(mine, "backfill", "verify", "contract")
    refused("expand", "backfill", "contract")
    with pytest.raises(InvalidInput, match="unknown-migration"):
        migration_steps.plan_step(mine, "reminders_in_seconds", "expand")
    with pytest.raises(InvalidInput, match="unknown-migration"):
        migration_steps.plan_step(mine, NAME, "")


@pytest.mark.parametrize(
    "where", sampled(["primary", "weight", "other alias", "returns", "silent"], slice(None, None, 3))
)
def test_a_contract_waits_for_every_aliased_version(situation: Bring, where: str) -> None:
    """Primary or weighted, on any alias, or where an open rollout may return to; undeclared counts as needing it."""
    here = situation("good", reminders=3, **QUIET)
    shipped(here, "" if where == "silent" else "1", "1-2")
    lam, mine = here.client("lambda"), here.connect()
    take(mine, "expand", "backfill", "verify")
    live: dict[str, Any] = {"FunctionName": here.function, "Name": "live"}
    weights = {"AdditionalVersionWeights": {"2": 0.05}}
    record = json.dumps({"v": 1, "run": "aaaa", "from": "2", "to": "3", "stage": "watch", "since": "2026-11-02T00:00Z"})
    if where in ("primary", "silent"):
        lam.update_alias(**live, FunctionVersion="2")
    elif where == "weight":
        lam.update_alias(**live, FunctionVersion="3", RoutingConfig=weights)
    elif where == "other alias":
        lam.create_alias(FunctionName=here.function, Name="staging", FunctionVersion="2")
    else:
        lam.update_alias(**live, FunctionVersion="3", Description=record)
    with pytest.raises(Refused, match="schema-needed") as refused:
        migration_steps.plan_step(mine, NAME, "contract")
    assert "v2 (" in refused.value.what and ("alias staging" in refused.value.what) == (where == "other alias")
    assert all("at" in item for item in items(mine).values())


def test_a_rollback_that_came_first_stops_the_contract(situation: Bring) -> None:
    """Between plan and contract somebody moved the alias to an old version: refused, and the table is as it was."""
    here = situation("good", reminders=3, **QUIET)
    shipped(here, "1", "1-2")
    mine = here.connect()
    take(mine, "expand", "backfill", "verify")
    plan = migration_steps.plan_step(mine, NAME, "contract")
    assert any("no rollback to v2" in each for each in plan.reasons)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    with pytest.raises(Refused, match="schema-needed"):
        migration_steps.run_step(mine, plan, approve(mine, plan))
    assert state(mine) == (1, "verified") and all("at" in item for item in items(mine).values())


def test_the_way_back_waits_for_versions_that_know_the_old_shape(here: Situation) -> None:
    """A version that writes the new shape alone would undo it: refused until none serves."""
    mine = here.connect()
    take(mine, "expand", "backfill", "verify", "contract")
    shipped_late = here.client("lambda")
    held = {"REMINDERS_TABLE": TABLE, schema.VARIABLE: "2"}
    shipped_late.update_function_configuration(FunctionName=here.function, Environment={"Variables": held})
    here.ask("advance", seconds=10)
    version = shipped_late.publish_version(FunctionName=here.function)["Version"]
    shipped_late.update_alias(FunctionName=here.function, Name="live", FunctionVersion=version)
    with pytest.raises(Refused, match="schema-needed") as refused:
        migration_steps.plan_step(mine, NAME, "rollback")
    assert f"v{version} (alias live serves it) is compatible with schema 2" in refused.value.what


def test_what_cannot_be_converted_is_left_and_told(here: Situation) -> None:
    """One item with no time of day: backfill does the others, verify is not passed, and contract is refused."""
    mine = here.connect()
    odd = {**reminders.reminder(7, 1), "at": {"S": "eightish"}}
    put(here, odd)
    take(mine, "expand")
    done = take(mine, "backfill")
    assert (done.tally.changed, done.tally.left) == (29, 1)
    assert "reminder-000007" in done.tally.examples[0] and "eightish" not in str(done)
    with pytest.raises(BuddyError, match="migration-incomplete"):
        migration_steps.raise_for_failure(done)
    assert take(mine, "verify").tally.left == 1 and state(mine) == (1, "expanded")
    with pytest.raises(Refused, match="migration-order"):
        migration_steps.plan_step(mine, NAME, "contract")
    assert items(mine)["reminder-000007"] == odd


def test_what_old_code_writes_meanwhile_is_taken_up(here: Situation) -> None:
    """A reminder set by an old version after the backfill fails verify, and the next backfill does it."""
    mine = here.connect()
    take(mine, "expand", "backfill")
    put(here, reminders.reminder(99, 1))
    changed = {**items(mine)["reminder-000001"], "at": {"S": "23:59"}}
    put(here, changed)
    assert take(mine, "verify").tally.left == 2
    assert take(mine, "backfill").tally.changed == 2
    assert items(mine)["reminder-000001"]["at_minutes"] == {"N": "1439"}
    take(mine, "verify")
    assert state(mine) == (1, "verified")


def test_a_frozen_environment_migrates_nothing_but_back(here: Situation) -> None:
    """A freeze refuses expand, backfill and contract; verify and the way back go on."""
    from buddy_ops.aws import freezes

    mine = here.connect()
    take(mine, "expand", "backfill")
    freezes.create_freeze(mine, "incident", "Ada", timedelta(hours=1))
    for step in ("expand", "backfill"):
        with pytest.raises(Refused, match="frozen"):
            migration_steps.plan_step(mine, NAME, step)
    take(mine, "verify")
    take(mine, "rollback")
    assert state(mine) == (1, "reverted")


def test_a_dry_run_writes_nothing(here: Situation) -> None:
    """The plan is shown, and the table says nothing of it."""
    mine = here.connect(dry_run=True)
    take(mine, "expand")
    assert state(mine) == (1, "") and here.calls("PutItem", "TransactWriteItems") == []


def test_progress_has_a_rate_and_the_time_left() -> None:
    """Counted by the run's clock; where no time has passed neither is made up."""
    began = datetime(2026, 11, 2, tzinfo=UTC)
    said = migration_steps.describe_progress(
        BackfillTally(items=500, changed=400), 2000, began, began + timedelta(seconds=5)
    )
    assert said == "500 of about 2,000 items, 400 changed, 0 left; 100 items/s, about 15 s left"
    assert (
        migration_steps.describe_progress(BackfillTally(items=500), 100, began, began)
        == "500 of about 500 items, 0 changed, 0 left"
    )


def test_the_skill_speaks_the_same_time_in_both_shapes(situation: Bring) -> None:
    """Versions that know 1, 1-2 and 2 read what each other stored, as far as their ranges allow; 1 fails on 2 alone."""
    here = situation("good", reminders=3, **QUIET)
    shipped(here, "1", "1-2", "2")
    lam = here.client("lambda")

    def ask(version: str, intent: str, user: str, **slots: str) -> dict[str, Any]:
        request = {"type": "IntentRequest", "requestId": f"{user}-{intent}", "intent": {"name": intent}}
        request["intent"] |= {"slots": {name: {"value": value} for name, value in slots.items()}}  # type: ignore[operator]
        event = {"session": {"user": {"userId": user}}, "request": request}
        reply = lam.invoke(FunctionName=here.function, Qualifier=version, Payload=json.dumps(event).encode())
        return {**json.loads(reply["Payload"].read()), "failed": reply.get("FunctionError")}

    def said(version: str, user: str) -> str:
        reply = ask(version, "ReadRemindersIntent", user)
        return str(reply["failed"] or reply["response"]["outputSpeech"]["ssml"])

    for version in ("2", "3", "4"):
        ask(version, "SetReminderIntent", f"user-{version}", medication="aspirin", time="08:05")
    right = "<speak>You have 1 reminders: aspirin at 08:05.</speak>"
    assert [said(version, "user-2") for version in ("2", "3")] == [right, right]
    assert [said(version, "user-3") for version in ("2", "3", "4")] == [right, right, right]
    assert [said(version, "user-4") for version in ("3", "4")] == [right, right]
    assert said("2", "user-4") == "Unhandled"


# A kill, and other people's writes


def killed_backfill(endpoint: str, folder: str, after: int) -> int:
    """Backfill in a process of its own that is killed right before its ``after``-th transaction; transactions begun."""
    mouth, ear = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mouth)
        os.environ["BUDDY_OPS_RUN_FOLDER"] = folder
        begun, lock = 0, threading.Lock()
        send = Target.perform

        def counted(self: Target, service: str, operation: str, *given: Any) -> dict[str, Any]:
            nonlocal begun
            if operation == "transact_write_items":
                with lock:
                    begun += 1
                    os.write(ear, b".")
                    if begun == after:
                        os.kill(os.getpid(), signal.SIGKILL)
            return send(self, service, operation, *given)

        Target.perform = counted  # type: ignore[method-assign]
        try:
            from buddy_ops.aws import session

            take(session.connect("sandbox", "migrate_database"), "backfill")
        finally:
            os._exit(0)
    os.close(ear)
    with os.fdopen(mouth, "rb") as file:
        begun = len(file.read())
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return begun


class Writer(threading.Thread):
    """People who change their reminders all the time, by the old shape or by both, and whose changes must be kept."""

    def __init__(self, here: Situation, count: int, seed: int) -> None:
        super().__init__(daemon=True)
        keys = {"aws_access_key_id": "people", "aws_secret_access_key": "people", "region_name": "us-east-1"}
        self.client = boto3.client("dynamodb", endpoint_url=here.endpoint, **keys)
        self.chance, self.count, self.seed, self.kept = random.Random(seed), count, seed, dict[str, dict[str, Any]]()
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            # Each writer has reminders of its own, so that the last write is known.
            number = self.chance.randrange(self.seed, self.count, 2)
            item: dict[str, Any] = reminders.reminder(number, self.chance.randrange(10**6), "people")
            at = f"{self.chance.randrange(24):02d}:{self.chance.randrange(60):02d}"
            item |= {"at": {"S": at}} | ({"at_minutes": {"N": minutes(at)}} if self.seed else {})
            self.client.put_item(TableName=TABLE, Item=item)
            self.kept[item["reminder_id"]["S"]] = item


@pytest.mark.timeout(170)
@pytest.mark.parametrize(
    ("count", "transactions"),
    [
        (1_500, (1, 6, 4)),
        pytest.param(5_000, (2, 22, 15), marks=pytest.mark.whole),
        pytest.param(20_000, (5, 90, 60), marks=pytest.mark.whole),
    ],
)
def test_a_backfill_killed_at_three_points_ends_complete(
    situation: Bring, count: int, transactions: tuple[int, ...], record_property: Callable[[str, object], None]
) -> None:
    """Thousands of items; SIGKILL early, midway and late, while two people write: run again it ends complete, every item has
    both shapes, and each change that was acknowledged to a person stands."""
    here = situation("good", reminders=count, **QUIET)
    shipped(here, "1-2", "1-2")
    mine = here.connect()
    before = items(mine)
    take(mine, "expand")
    writers = [Writer(here, count, seed) for seed in (0, 1)]
    for writer in writers:
        writer.start()
    begun = [
        killed_backfill(here.endpoint, str(here.folder / f"killed{n}"), after) for n, after in enumerate(transactions)
    ]
    take(mine, "backfill")
    for writer in writers:
        writer.ending.set()
        writer.join()
    done = take(mine, "backfill", "verify")
    assert done.tally.left == 0 and done.tally.items == count and state(mine) == (1, "verified")
    kept = {name: item for writer in writers for name, item in writer.kept.items()}
    found = items(mine)
    assert len(found) == count
    for name, item in found.items():
        expected = {**before[name], **kept.get(name, {})}
        assert item == {**expected, "at_minutes": {"N": minutes(expected["at"]["S"])}}, name
    record_property("changes_kept", len(kept))
    print(f"killed after {begun} transactions; {len(kept)} people's changes kept")
