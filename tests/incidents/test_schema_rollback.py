"""A rollback after a migration: the traffic goes back first, whatever is wrong with what follows it."""

from collections.abc import Callable
from contextlib import closing

import pytest

from buddy_ops.aws import freezes
from buddy_ops.core.errors import BuddyError
from buddy_ops.incidents import schema_rollback
from tests.conftest import Situation, approve
from tests.migrations.test_schema import QUIET, shipped

Bring = Callable[..., Situation]


def test_an_unknown_migration_keeps_no_traffic_from_moving(situation: Bring) -> None:
    """The plan says it, the traffic goes back, and the end says what is true; its next step ends well."""
    here = situation("good", reminders=3, **QUIET)
    shipped(here, "1-2", "1-2")
    with closing(here.connect("database_compatibility")) as mine:
        plan = schema_rollback.plan_schema_rollback(
            mine, migration="reminders_in_seconds", reason="drill", review="tomorrow"
        )
        assert any("review is 'tomorrow'" in reason for reason in plan.reasons)
        assert any("There is no migration 'reminders_in_seconds'" in reason for reason in plan.reasons)
        agreed = approve(mine, plan)
        schema_rollback.move_traffic(mine, plan, agreed)
        assert here.alias()["FunctionVersion"] == plan.back.destination == "2"
        with pytest.raises(BuddyError, match="unknown-migration") as error:
            schema_rollback.raise_for_unreverted(schema_rollback.revert_migration(mine, plan, agreed))
        assert error.value.exit_code == 1 and "v2 receives the traffic" in error.value.now
        assert "Choose one of: reminders_at_minutes" in error.value.next


def test_a_rollback_that_fails_freezes_all_the_same(situation: Bring) -> None:
    """The version still fails, so no other build may be added to it: the error says what moved and what is frozen."""
    here = situation("good", reminders=3, **QUIET)
    shipped(here, "1-2", "1-2")
    with closing(here.connect("database_compatibility")) as mine:
        plan = schema_rollback.plan_schema_rollback(mine, reason="drill")
        here.ask("chaos", kind="denied", operation="UpdateAlias", times=1_000_000)
        with pytest.raises(BuddyError, match="access-denied") as error:
            schema_rollback.move_traffic(mine, plan, approve(mine, plan))
        (frozen,) = freezes.active_freezes(mine)
        assert f"Deployments are frozen: {frozen}." in error.value.now
    assert here.alias()["FunctionVersion"] == "3"
