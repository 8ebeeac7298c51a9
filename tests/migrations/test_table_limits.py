"""Migrations of tables at DynamoDB's limits: keys of any type, items that would be too large, and throttling."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from buddy_ops.core.errors import BuddyError
from buddy_ops.migrations import schema
from buddy_ops.migrations import steps as migration_steps
from buddy_ops.migrations.steps import StepResult
from tests.conftest import Situation, approve
from tests.migrations.test_schema import QUIET, shipped

Bring = Callable[..., Situation]
MIGRATION, NAME, KEY = "reminders_at_minutes", "buddy-limits-sandbox", ("owner", "number")


@pytest.mark.parametrize("kinds", [("S", "N"), ("N", "B")])
def test_a_table_at_its_limits_is_migrated(
    situation: Bring, kinds: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers and bytes as keys, two minutes of throttling, and one item that would be too large: that one is left and
    named, all others are done; once it is corrected, the same step completes."""
    here = situation("good", **QUIET)
    shipped(here, "1-2", "1-2")
    dynamodb = here.client("dynamodb")
    dynamodb.create_table(
        TableName=NAME,
        KeySchema=[{"AttributeName": each, "KeyType": kind} for each, kind in zip(KEY, ("HASH", "RANGE"), strict=True)],
        AttributeDefinitions=[
            {"AttributeName": each, "AttributeType": kind} for each, kind in zip(KEY, kinds, strict=True)
        ],
        BillingMode="PAY_PER_REQUEST",
    )

    def item(number: int, size: int = 1) -> dict[str, Any]:
        key = {"S": {"S": f"a/{number}"}, "N": {"N": str(number)}, "B": {"B": bytes([number, 47])}}
        return {"owner": key[kinds[0]], "number": key[kinds[1]], "at": {"S": "08:00"}, "text": {"S": "x" * size}}

    for number in range(20):
        dynamodb.put_item(TableName=NAME, Item=item(number))
    # The largest item that the table takes: another attribute makes it too large.
    fits, refused = 400_000, 410_000
    while refused - fits > 1:
        middle = (fits + refused) // 2
        try:
            dynamodb.put_item(TableName=NAME, Item=item(20, middle))
            fits = middle
        except dynamodb.exceptions.ClientError:
            refused = middle
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["tables"] = [{"name": NAME, "key": list(KEY), "variable": "REMINDERS_TABLE"}]
    with closing(here.connect("migrate_database", values=values)) as mine:
        # The SDK's own attempts take real seconds.
        monkeypatch.setattr(mine, "client", partial(mine.client, attempts=1))
        told: list[str] = []

        def take(step: str) -> StepResult:
            plan = migration_steps.plan_step(mine, MIGRATION, step)
            return migration_steps.run_step(mine, plan, approve(mine, plan), told.append)

        take("expand")
        here.ask("set", dynamodb_throttle_s=0)
        plan = migration_steps.plan_step(mine, MIGRATION, "backfill")
        here.ask("set", dynamodb_throttle_s=120)
        done = migration_steps.run_step(mine, plan, approve(mine, plan), told.append)
        assert any("slowing down, at most until" in line for line in told)
        assert (done.tally.items, done.tally.changed, done.tally.wrong) == (21, 20, 1)
        with pytest.raises(BuddyError, match="migration-incomplete") as error:
            migration_steps.raise_for_failure(done)
        assert "size" in error.value.what and {"S": "a%2F20", "N": "20"}[kinds[0]] in error.value.what
        with pytest.raises(BuddyError, match="it is not converted"):
            migration_steps.raise_for_failure(take("verify"))
        dynamodb.put_item(TableName=NAME, Item=item(20))
        assert take("backfill").tally.left == 0 and take("verify").tally.left == 0
        assert schema.read_marker(mine, mine.settings.tables[0]).state == "verified"
