"""Versions against tables: what is known not to fit gets no traffic, and what is unknown is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import versions
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, Refused
from buddy_ops.deployment import rollback, rollout
from buddy_ops.migrations import definitions, schema
from buddy_ops.migrations.schema import SchemaMarker
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]
QUIET = {"requests_per_minute": 0, "history_minutes": 0}
FOREVER = 1_000_000


def shipped(here: Situation, *ranges: str) -> None:
    """Versions 2, 3, ... that declare these ranges, the last serving after the one before it; all proved."""
    lam = here.client("lambda")
    held = lam.get_function_configuration(FunctionName=here.function)["Environment"]["Variables"]
    for number, declared in enumerate(ranges, start=2):
        code = builds.build(PROFILES["good"], f"{number}.0.0", declared)
        lam.update_function_code(FunctionName=here.function, ZipFile=code)
        here.ask("advance", seconds=10)
        variables = {**held, schema.VARIABLE: declared} if declared else held
        lam.update_function_configuration(FunctionName=here.function, Environment={"Variables": variables})
        here.ask("advance", seconds=10)
        lam.publish_version(FunctionName=here.function, Description="run 0000")
        here.ask("advance", seconds=10)
    last = len(ranges) + 1
    record = RolloutState("0000", str(last - 1), str(last), "proved", "2026-11-02T00:00:00Z")
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion=str(last), Description=record.encode())


def at(mine: Target, version: int, state: str = "contracted") -> SchemaMarker:
    """The reminders' table, with this schema."""
    (table,) = mine.settings.tables
    return schema.write_marker(mine, schema.read_marker(mine, table), version, "reminders_at_minutes", state)


@pytest.fixture
def here(situation: Bring) -> Situation:
    return situation("good", reminders=3, **QUIET)


def ship(mine: Target, artifact: str) -> str:
    plan = rollout.plan_rollout(mine, artifact, "all_at_once")
    return rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan))).new


def test_a_rollback_past_a_contract_is_refused(here: Situation) -> None:
    """Version 2 knows schema 1 and the table has 2: refused in the plan, with what to do instead; nothing is written."""
    shipped(here, "1", "1-2")
    mine = here.connect()
    at(mine, 2)
    with pytest.raises(Refused, match="schema-incompatible") as refused:
        rollback.plan_rollback(mine)
    assert "v2 of" in refused.value.what and "schema 1" in refused.value.what and "has schema 2" in refused.value.what
    assert "operations/migrate_database" in refused.value.next and "rollback of its migration" in refused.value.next
    assert here.alias()["FunctionVersion"] == "3"


def test_a_broken_file_of_migrations_stops_no_rollback(
    here: Situation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be compared is a doubt in the plan, and the traffic moves."""
    shipped(here, "1-2", "2")
    mine = here.connect()
    at(mine, 2)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "parameters").mkdir()
    (tmp_path / definitions.FILE).write_text("import nowhere\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    plan = rollback.plan_rollback(mine)
    assert any("is unknown: parameters/migrations.py cannot be used" in each for each in plan.reasons)
    rollback.run_rollback(mine, plan, approve(mine, plan))
    assert here.alias()["FunctionVersion"] == "2"


def test_a_rollback_that_fits_goes_on(here: Situation) -> None:
    """Both shapes known: no doubt is told, and the traffic moves."""
    shipped(here, "1-2", "2")
    mine = here.connect()
    at(mine, 2)
    plan = rollback.plan_rollback(mine)
    assert plan.reasons == () and rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "2"


def test_versions_that_know_the_same_ask_no_table(here: Situation) -> None:
    """What serves answers for the tables: the way back is no worse for them, and a call shorter."""
    shipped(here, "1-2", "1-2")
    mine = here.connect()
    before = len(here.calls("GetItem"))
    plan = rollback.plan_rollback(mine)
    assert plan.reasons == () and rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "2"
    assert len(here.calls("GetItem")) == before


def test_a_contract_between_plan_and_traffic_is_seen(here: Situation) -> None:
    """The plan found schema 1; when a person has approved it the table has 2: refused before the traffic."""
    shipped(here, "1", "1-2")
    mine = here.connect()
    plan = rollback.plan_rollback(mine)
    at(mine, 2)
    with pytest.raises(Refused, match="schema-incompatible"):
        rollback.run_rollback(mine, plan, approve(mine, plan))
    assert here.alias()["FunctionVersion"] == "3"


@pytest.mark.parametrize("kind", ["denied", "silent"])
def test_what_is_unknown_only_warns(here: Situation, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that cannot be read, or not in time, is a doubt in the plan: the rollback goes on."""
    shipped(here, "1", "1-2")
    mine = here.connect()
    at(mine, 2)
    here.ask("chaos", kind=kind, operation="GetItem", times=FOREVER)
    plan = rollback.plan_rollback(mine)
    assert any("the schema of a table is unknown" in each for each in plan.reasons)
    done = rollback.run_rollback(mine, plan, approve(mine, plan))
    here.ask("chaos")
    assert done.serving == "2"


def test_a_version_that_declares_nothing_only_warns(here: Situation) -> None:
    """Unless the environment's file speaks for it: then it is known, and refused."""
    shipped(here, "", "1-2")
    mine = here.connect()
    mine.settings = mine.settings.model_copy(update={"schema_range": None})
    at(mine, 2)
    (doubt,) = rollback.plan_rollback(mine).reasons
    assert "v2 declares no SCHEMA_RANGE" in doubt
    mine.settings = mine.settings.model_copy(update={"schema_range": "1"})
    with pytest.raises(Refused, match="schema-incompatible"):
        rollback.plan_rollback(mine)


def test_taking_a_canary_back_asks_no_table(here: Situation) -> None:
    """What serves already is never refused: its weights beside it are cleared in any case."""
    shipped(here, "1", "1-2")
    mine = here.connect()
    here.client("lambda").update_alias(
        FunctionName=here.function,
        Name="live",
        FunctionVersion="2",
        RoutingConfig={"AdditionalVersionWeights": {"3": 0.1}},
    )
    at(mine, 2)
    plan = rollback.plan_rollback(mine, "2")
    assert rollback.run_rollback(mine, plan, approve(mine, plan)).serving == "2"


@pytest.mark.parametrize(("declared", "table"), [("1", 2), ("2", 1)], ids=["an old build", "one that is too new"])
def test_a_build_that_does_not_fit_gets_no_traffic(here: Situation, declared: str, table: int) -> None:
    """It is published, since only then it is known what it declares, and refused before any shift."""
    mine = here.connect()
    at(mine, table)
    artifact = str(builds.write(here.folder / "build.zip", PROFILES["good"], "2.0.0", declared))
    with pytest.raises(Refused, match="schema-incompatible") as refused:
        ship(mine, artifact)
    assert ("rollback of its migration" if declared == "1" else "expand, backfill, verify") in refused.value.next
    assert here.alias()["FunctionVersion"] == "1" and here.calls("UpdateAlias") == []


def test_a_rollout_declares_what_the_build_says(here: Situation) -> None:
    """The file in the zip becomes the version's variable, the others stay; a build that says nothing declares nothing."""
    mine = here.connect()
    first = str(builds.write(here.folder / "first.zip", PROFILES["good"], "2.0.0", "1-2"))
    second = str(builds.write(here.folder / "second.zip", PROFILES["good"], "3.0.0"))
    held = []
    for artifact in (first, second):
        version = ship(mine, artifact)
        reply = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier=version)
        held.append(reply["Environment"]["Variables"])
    table = {"REMINDERS_TABLE": "buddy-reminders-sandbox"}
    assert held == [{**table, schema.VARIABLE: "1-2"}, table]


def test_a_marker_is_written_on_condition(here: Situation) -> None:
    """Of two that migrate one table the second is told by whom; a repeated own write is none."""
    mine, theirs = here.connect(run="aaaa"), here.connect(run="bbbb")
    (table,) = mine.settings.tables
    fresh = schema.read_marker(mine, table)
    assert (fresh.version, fresh.there) == (1, False)
    first = schema.write_marker(mine, fresh, 1, "reminders_at_minutes", "expanded")
    assert schema.write_marker(mine, fresh, 1, "reminders_at_minutes", "expanded") == first
    with pytest.raises(Refused, match="migration-moved") as refused:
        schema.write_marker(theirs, fresh, 1, "reminders_at_minutes", "expanded")
    assert "run aaaa" in refused.value.what
    assert schema.read_marker(theirs, table) == first


def test_a_table_that_says_something_unreadable_is_unknown(here: Situation) -> None:
    """A marker that somebody wrote by hand is a doubt, not an error."""
    mine = here.connect()
    (table,) = mine.settings.tables
    item: dict[str, Any] = {"user_id": {"S": "#schema"}, "reminder_id": {"S": "#schema"}, "version": {"S": "two"}}
    here.client("dynamodb").put_item(TableName=table.name, Item=item)
    (doubt,) = schema.compare_schemas(mine, versions.read_version(mine, "1"), schema.read_markers(mine))
    assert "no valid schema version" in doubt
    missing = replace(SchemaMarker(table), table=table.model_copy(update={"name": "buddy-none-sandbox"}))
    with pytest.raises(AwsFailed):
        schema.write_marker(mine, missing, 1, "m", "expanded")
