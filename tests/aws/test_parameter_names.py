"""Freezes, isolations and results belong to a function and its alias, whatever an environment's name is."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest

from buddy_ops.aws import checklist_store, freezes, isolation
from buddy_ops.aws.session import Target
from buddy_ops.core.checklist import ChecklistResult
from buddy_ops.core.errors import Refused
from tests.conftest import Situation

Bring = Callable[..., Situation]
HOUR = timedelta(hours=1)
RECORD = ChecklistResult("post_deployment", "v2", datetime(2026, 11, 2, tzinfo=UTC), "run1", "ada", ())


@pytest.fixture
def mine(situation: Bring) -> Target:
    return situation("good", history_minutes=0, requests_per_minute=0).connect(quiet=True)


def variant(target: Target, environment: str, **settings: str) -> Target:
    """The same account and region, seen from another environment's file."""
    return replace(target, environment=environment, settings=target.settings.model_copy(update=settings))


def stored(target: Target) -> tuple[object, ...]:
    """Everything that the library keeps in SSM, read as the target."""
    return (
        freezes.active_freezes(target),
        isolation.read_isolation(target),
        checklist_store.list_results(target, "post_deployment"),
    )


@pytest.mark.parametrize("other", [{"function": "shop"}, {"alias": "blue"}, {"function": "shop", "alias": "blue"}])
def test_equal_environment_names_share_nothing(mine: Target, other: dict[str, str]) -> None:
    """Two teams' prod in one account are two targets."""
    freezes.create_freeze(mine, "incident", "Ada", HOUR)
    isolation.isolate(mine, "function", mine.settings.tables[0].name)
    checklist_store.write_result(mine, RECORD)
    assert stored(variant(mine, mine.environment, **other)) == ((), None, ())


def test_two_environments_of_one_alias_share_everything(mine: Target) -> None:
    """What is frozen under one name is frozen under the other."""
    freeze = freezes.create_freeze(mine, "incident", "Ada", HOUR)
    isolated = isolation.isolate(mine, "function", mine.settings.tables[0].name)
    checklist_store.write_result(mine, RECORD)
    assert stored(variant(mine, "production")) == ((freeze,), isolated, (RECORD,))
    assert freezes.remove_freeze(variant(mine, "production"), freeze.id) and freezes.active_freezes(mine) == ()


def test_a_freeze_of_an_earlier_release_holds_until_it_is_removed(mine: Target) -> None:
    """The upgrade in the middle of an incident lifts nothing."""
    text = json.dumps({"reason": "incident", "owner": "Ada", "expires": "2099-01-01T00:00:00Z"})
    mine.client("ssm").put_parameter(Name=f"/buddy/{mine.environment}/freeze/old1", Value=text, Type="String")
    with pytest.raises(Refused, match="frozen"):
        freezes.require_unfrozen(mine)
    assert freezes.remove_freeze(mine, "old1") and not freezes.remove_freeze(mine, "old1")
    freezes.require_unfrozen(mine)


def test_an_isolation_of_an_earlier_release_is_undone(mine: Target) -> None:
    """The settings of before are those that the earlier release stored, and are not stored a second time."""
    function = mine.settings.function
    mine.client("lambda").put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    old = isolation.Isolation("function", "table", 7, "run0", "2026-11-02T00:00:00Z")
    name = f"/buddy/{mine.environment}/isolation"
    mine.client("ssm").put_parameter(Name=name, Value=json.dumps(asdict(old)), Type="String")
    assert isolation.isolate(mine, "function", "table") == old
    isolation.remove_isolation(mine)
    assert isolation.read_concurrency(mine) == 7 and isolation.read_isolation(mine) is None


def test_a_result_of_an_earlier_release_counts(mine: Target) -> None:
    """What was checked before the upgrade need not be checked again."""
    path = f"/buddy/{mine.environment}/records/post_deployment/v2"
    text = checklist_store._encode(RECORD, path)
    mine.client("ssm").put_parameter(Name=f"{path}/20261102T0000Z-run1", Value=text, Type="String")
    found = checklist_store.newest_result(mine, "post_deployment", "v2")
    assert found == RECORD and not found.copied
