"""The recovery from damaged data, step by step: what it refuses, what it leaves to a person, and what it never touches."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from buddy_ops.aws import item_writes, tables
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.incidents import containment, examples, repair
from buddy_ops.incidents.containment import ContainmentPlan
from buddy_ops.incidents.repair import DamageScope
from buddy_ops.migrations import schema
from buddy_sandbox import reminders
from tests.conftest import Situation, approve
from tests.incidents.corruption import (
    NAME,
    QUIET,
    corrupted,
    corrupting,
    damage,
    isolated,
    later,
    parameters,
    put,
    table,
)

Bring = Callable[..., Situation]


@pytest.fixture
def here(situation: Bring) -> Situation:
    """Thirty reminders; see ``corrupted``."""
    here = situation("good", reminders=30, **QUIET)
    corrupted(here)
    return here


@pytest.fixture
def mine(here: Situation) -> Iterator[Target]:
    with closing(here.connect("data_corruption")) as target:
        yield target


def stopped(mine: Target, **known: Any) -> tuple[ContainmentPlan, DamageScope]:
    """The damage stopped, the copy made, and what was found."""
    plan = containment.plan_containment(mine, **known)
    containment.contain_damage(mine, plan, approve(mine, plan))
    containment.restore_table_copy(mine, plan)
    return plan, repair.determine_scope(mine, plan)


def finish(mine: Target, plan: ContainmentPlan, found: DamageScope, *chosen: str) -> str:
    """The rest, to the end."""
    repairing = repair.plan_repair(mine, found, chosen)
    agreed = approve(mine, repairing)
    done = repair.run_repair(mine, repairing, agreed)
    told = repair.verify_repair(mine, plan, repairing, done)
    return f"{told} {containment.end_containment(mine, plan, repairing, agreed)}"


def kinds(found: DamageScope) -> dict[str, str]:
    return {each.name.split("/")[1]: each.kind for each in found.found}


def test_what_was_found_is_told_apart(here: Situation, mine: Target) -> None:
    """One damaged, one conflict, one edit, one created, one deleted; and no value of any of them is shown."""
    _, found = stopped(mine)
    assert kinds(found) == {
        "reminder-000001": "damaged",
        "reminder-000002": "invalid_value",
        "reminder-000003": "edited",
        "reminder-000004": "deleted",
        "reminder-009000": "created",
    }
    told = found._repr_markdown_() + str(mine.journal.records)
    assert "their own" not in told and "12:34" not in told and "`amzn1.ask.account.00000/reminder-000001`" in told
    assert "30 items now, 30 as of" in str(found)


def test_conflicts_are_kept_unless_a_person_names_them(here: Situation, mine: Target) -> None:
    """Kept by default, byte for byte; one that is named says again what it said before the damage."""
    before = table(here)
    plan, found = stopped(mine)
    finish(mine, plan, found)
    assert table(here)["reminder-000002"] == before["reminder-000002"]
    plan, found = stopped(mine)
    (conflict,) = found.conflicts
    finish(mine, plan, found, conflict.name)
    assert table(here)["reminder-000002"] == table(here, plan.copy)["reminder-000002"]
    assert repair.determine_scope(mine, plan).conflicts == ()


@pytest.mark.parametrize("kind", ["created_invalid", "new"])
def test_conflicts_can_be_named_by_their_kind(here: Situation, mine: Target, kind: str) -> None:
    """An invalid item that v2 created has no earlier state: restoring deletes it; a valid one is kept. The kind's name
    of earlier releases means the same."""
    put(here, [reminders.damaged(later(here, reminders.reminder(9001, 1), "2"))])
    put(here, [later(here, table(here)["reminder-000005"], "2", at="11:11")])
    plan, found = stopped(mine)
    assert (kinds(found)["reminder-009001"], kinds(found)["reminder-000005"]) == ("created_invalid", "suspect_writer")
    finish(mine, plan, found, kind)
    now = table(here)
    assert "reminder-009001" not in now and now["reminder-000005"]["at"] == {"S": "11:11"}


def test_a_name_that_is_no_conflict_is_refused(mine: Target) -> None:
    """A misspelt item, or one that is not in doubt: nothing is repaired."""
    _, found = stopped(mine)
    with pytest.raises(InvalidInput, match="unknown-conflict"):
        repair.plan_repair(mine, found, ["amzn1.ask.account.00001/reminder-000003"])


def test_the_tables_schema_is_none_of_its_items(here: Situation, mine: Target) -> None:
    """A migration that begins meanwhile is no item that was created; one that changes the schema is refused."""
    (reminding,) = mine.settings.tables
    held = schema.write_marker(mine, schema.read_marker(mine, reminding), 1, "reminders_at_minutes", "expanded")
    plan, found = stopped(mine)
    assert schema.KEY not in str(found.found) and "30 items now, 30 as of" in str(found)
    schema.write_marker(mine, held, 2, "reminders_at_minutes", "contracted")
    with pytest.raises(Refused, match="schema-changed"):
        repair.determine_scope(mine, plan)


def test_what_somebody_changes_before_the_repair_stands(here: Situation, mine: Target) -> None:
    """An item that moved between the comparison and the repair is left, told, and judged anew by the next run."""
    plan, found = stopped(mine)
    put(here, [later(here, table(here)["reminder-000001"], "1", at="10:10", medication="aspirin")])
    moved = table(here)["reminder-000001"]
    repairing = repair.plan_repair(mine, found)
    done = repair.run_repair(mine, repairing, approve(mine, repairing))
    assert (len(done.written), len(done.conflicts)) == (0, 1) and "run this again" in str(done)
    assert table(here)["reminder-000001"] == moved
    check = repair.verify_repair(mine, plan, repairing, done)
    assert not check.untouched and "Other items changed meanwhile" in str(check)
    assert repair.determine_scope(mine, plan).of("damaged") == ()


def test_damage_that_goes_on_keeps_the_isolation(here: Situation, mine: Target) -> None:
    """New damage after the repair: an error, and nobody is let in."""
    plan, found = stopped(mine)
    repairing = repair.plan_repair(mine, found)
    done = repair.run_repair(mine, repairing, approve(mine, repairing))
    put(here, [reminders.damaged(later(here, table(here)["reminder-000007"], "2"))])
    with pytest.raises(BuddyError, match="repair-incomplete"):
        repair.verify_repair(mine, plan, repairing, done)
    assert isolated(here)


def test_nobody_is_let_in_while_the_version_serves(here: Situation, mine: Target) -> None:
    """Somebody put the corrupting version back: refused, and the isolation stands."""
    plan, found = stopped(mine)
    repairing = repair.plan_repair(mine, found)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    with pytest.raises(Refused, match="still-corrupting"):
        containment.end_containment(mine, plan, repairing, approve(mine, repairing))
    assert isolated(here)


def test_without_a_version_to_go_back_to_it_is_isolated_all_the_same(here: Situation, mine: Target) -> None:
    """No rollout is recorded: the plan says that nothing takes the traffic, and the damage is stopped."""
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description="")
    plan = containment.plan_containment(mine)
    assert plan.back is None and any("no rollback: " in each for each in plan.reasons)
    containment.contain_damage(mine, plan, approve(mine, plan))
    assert here.alias()["FunctionVersion"] == "2" and isolated(here) and len(parameters(here, "freeze")) == 1
    named = containment.plan_containment(mine, version="2", to_version="1")
    containment.contain_damage(mine, named, approve(mine, named))
    assert here.alias()["FunctionVersion"] == "1" and len(parameters(here, "freeze")) == 1


def test_a_traffic_that_cannot_be_moved_does_not_keep_it_from_being_isolated(here: Situation, mine: Target) -> None:
    """Each step is tried whatever became of the one before; then the first failure is told."""
    plan = containment.plan_containment(mine)
    here.ask("chaos", kind="denied", operation="UpdateAlias", times=99)
    with pytest.raises(BuddyError, match="access-denied"):
        containment.contain_damage(mine, plan, approve(mine, plan))
    here.ask("chaos")
    assert isolated(here) and len(parameters(here, "freeze")) == 1


def test_a_moment_that_is_too_late_is_seen(here: Situation, mine: Target) -> None:
    """The copy holds items of the corrupting version: the plan of the repair says so."""
    damage(here, "reminder-000009")
    onset = tables.restorable_window(mine, NAME)[1].isoformat()
    _, found = stopped(mine, onset=onset)
    assert any("choose an earlier onset" in each for each in repair.plan_repair(mine, found).reasons)


@pytest.mark.parametrize(
    ("known", "reference"),
    [
        ({"table": "another"}, "no-such-table"),
        ({"how": "both"}, "invalid-parameters"),
        ({"version": "9"}, "version-missing"),
        ({"version": "v2"}, "version-missing"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    here: Situation, mine: Target, known: dict[str, str], reference: str
) -> None:
    """Each with its own reference, and nothing is isolated."""
    with pytest.raises(BuddyError, match=reference):
        containment.plan_containment(mine, **known)
    assert not isolated(here) and here.alias()["FunctionVersion"] == "2"


def test_a_key_that_the_settings_have_wrong_is_found_before_it_is_isolated(here: Situation) -> None:
    """No item would be found in the copy: the damage is stopped, and nothing is isolated for a repair."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["tables"][0]["key"] = ["user_id"]
    with closing(here.connect("data_corruption", values=values)) as mine:
        plan = containment.plan_containment(mine)
        assert plan.obstacle is not None and "parameters/sandbox.yaml" in plan.obstacle.next
        containment.contain_damage(mine, plan, approve(mine, plan))
    assert here.alias()["FunctionVersion"] == "1" and not isolated(here)


def test_a_repair_shows_values_now_and_after_it(here: Situation, mine: Target) -> None:
    """Examples stand in the plan, and so above its approval: never a private value, long ones cut, and redacted."""
    mine.redactor.add_secret("a-very-secret-value")
    put(here, [reminders.damaged(later(here, table(here)["reminder-000005"], "2", note="n" * 500))])
    put(here, [later(here, table(here)["reminder-000006"], "2", at="", note="a-very-secret-value")])
    _, found = stopped(mine)
    plan = repair.plan_repair(mine, found)
    for shown in (str(plan), plan._repr_markdown_()):
        assert 'amzn1.ask.account.00000/reminder-000001: at is "", restored to "01:07"' in shown
        assert (
            "medication changes (private, not shown)" in shown
            and f'"{"n" * 60}…" (500 characters), restored to missing' in shown
        )
        assert "a-very-secret-value" not in shown and not any(each in shown for each in reminders.MEDICATIONS)
    open_ = mine.settings.tables[0].model_copy(update={"private": ()})
    described = examples.describe_changes(plan.changes, open_, str)
    assert any('medication is "neforpubi", restored to "ibuprofen"' in line for line in described)


def test_a_repair_leaves_what_dynamodb_does_not_take(
    here: Situation, mine: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One item is refused: the others are repaired, traffic is enabled, and the last cell names the item."""
    damage(here, "reminder-000007")
    plan, found = stopped(mine)
    request_of = item_writes.request_of

    def refuse(table: str, key: Any, change: Any, first: Any = ()) -> Any:
        if change.expected["reminder_id"] == {"S": "reminder-000007"}:
            raise item_writes.DoesNotFit("too large")
        return request_of(table, key, change, first)

    monkeypatch.setattr(tables, "request_of", refuse)
    repairing = repair.plan_repair(mine, found)
    agreed = approve(mine, repairing)
    done = repair.run_repair(mine, repairing, agreed)
    assert [name for name, _ in done.refused] == ["amzn1.ask.account.00002/reminder-000007"]
    assert "NOT restored: DynamoDB does not take 1 item" in str(done)
    assert "INCOMPLETE: 1 item" in str(repair.verify_repair(mine, plan, repairing, done))
    containment.end_containment(mine, plan, repairing, agreed)
    assert not isolated(here) and table(here)["reminder-000001"]["at"] == {"S": "01:07"}
    with pytest.raises(BuddyError, match="repair-incomplete") as error:
        repair.raise_for_incomplete(plan, done)
    assert "reminder-000007: too large" in error.value.what and plan.copy in error.value.next


def test_another_table_with_the_copys_name_is_not_taken_for_it(here: Situation, mine: Target) -> None:
    """Refused: comparing with it would repair nonsense."""
    plan = containment.plan_containment(mine)
    here.client("dynamodb").create_table(
        TableName=plan.copy,
        KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(BuddyError, match="restore-collides"):
        containment.restore_table_copy(mine, plan)


def test_a_moment_that_cannot_be_restored_yet_is_waited_for(here: Situation, mine: Target) -> None:
    """The last five minutes: the restore waits, and says so."""
    said: list[str] = []
    onset = mine.clock.now().isoformat()
    plan = containment.plan_containment(mine, onset=onset)
    containment.restore_table_copy(mine, plan, said.append)
    assert any("can be restored" in each for each in said) and "is restored" in said[-1]


def test_only_writes_are_denied_where_that_is_asked_for(here: Situation, mine: Target) -> None:
    """The function keeps its concurrency, the repair is not denied, and the policy is gone in the end."""
    plan, found = stopped(mine, how="writes")
    assert not isolated(here)
    assert "can be written again" in finish(mine, plan, found)
    dynamodb = here.client("dynamodb")
    arn = dynamodb.describe_table(TableName=NAME)["Table"]["TableArn"]
    with pytest.raises(dynamodb.exceptions.PolicyNotFoundException):
        dynamodb.get_resource_policy(ResourceArn=arn)


def test_the_review_finds_what_is_known(here: Situation, mine: Target) -> None:
    """The template names the version, the counts, the copy and the date; the conflicts are listed without values."""
    plan, found = stopped(mine)
    repairing = repair.plan_repair(mine, found)
    done = repair.run_repair(mine, repairing, approve(mine, repairing))
    template = repair.root_cause_facts(mine, plan, found, done, mine.clock.now())._repr_markdown_()
    assert "v2" in template and plan.copy in template and "1 damaged" in template
    (line,) = (mine.folder / "conflicts.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line) == {
        "item": "amzn1.ask.account.00000/reminder-000002",
        "kind": "invalid_value",
        "faults": ["at does not match its pattern"],
        "changed": ["at", "medication"],
        "by": "1",
    }


def test_a_canarys_share_is_taken_away_as_well(situation: Bring) -> None:
    """While the corrupting version has only a share of the traffic, the stable one takes all of it."""
    here = situation("good", reminders=30, **QUIET)
    corrupting(here)
    weights = {"AdditionalVersionWeights": {"2": 0.1}}
    record = {"v": 1, "run": "5eed", "from": "1", "to": "2", "stage": "1", "since": "2026-11-02T00:00Z"}
    here.client("lambda").update_alias(
        FunctionName=here.function,
        Name="live",
        FunctionVersion="1",
        RoutingConfig=weights,
        Description=json.dumps(record),
    )
    damage(here, "reminder-000001")
    with closing(here.connect("data_corruption")) as mine:
        plan, found = stopped(mine)
        assert plan.bad == ("2",) and "RoutingConfig" not in here.alias()
        finish(mine, plan, found)
    assert all(each["at"]["S"] for each in table(here).values())
