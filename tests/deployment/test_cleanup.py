"""Cleaning up old versions: what goes, and what stays whatever its number."""

from collections.abc import Callable

import pytest

from buddy_ops.core.errors import Refused
from buddy_ops.deployment import cleanup
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]


def publish(here: Situation, count: int) -> None:
    """Publish this many more versions, each of its own code."""
    lam = here.client("lambda")
    for number in range(count):
        code = builds.build(PROFILES["good"], f"9.{number}.0")
        lam.update_function_code(FunctionName=here.function, ZipFile=code)
        here.ask("advance", seconds=3)
        lam.publish_version(FunctionName=here.function)


def there(here: Situation) -> list[int]:
    pages = here.client("lambda").get_paginator("list_versions_by_function").paginate(FunctionName=here.function)
    return [int(each["Version"]) for page in pages for each in page["Versions"] if each["Version"] != "$LATEST"]


@pytest.fixture
def crowded(situation: Bring) -> Situation:
    """Sixty versions, two days old; live serves v1, a canary of v5 and v9 stands on another alias."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    publish(here, 59)
    weights = {"AdditionalVersionWeights": {"9": 0.1}}
    here.client("lambda").create_alias(
        FunctionName=here.function, Name="other", FunctionVersion="5", RoutingConfig=weights
    )
    here.ask("advance", seconds=48 * 3600)
    return here


def test_the_ten_newest_and_everything_in_use_stay(crowded: Situation) -> None:
    """Of sixty versions on two pages, the ten newest and every version that an alias serves are left."""
    target = crowded.connect()
    plan = cleanup.plan_cleanup(target)
    assert set(plan.kept) == {"1", "5", "9"}
    done = cleanup.run_cleanup(target, plan, approve(target, plan))
    assert len(done.deleted) == 47 and done.skipped == {}
    assert there(crowded) == [1, 5, 9, *range(51, 61)]
    assert cleanup.plan_cleanup(target).to_delete == ()


@pytest.mark.parametrize("fewest", [3, 10])
def test_the_rules_of_the_environment_are_the_floor(crowded: Situation, fewest: int) -> None:
    """One fewer than ``keep_versions`` is refused; as many and more are kept; nothing said means as many."""
    values = crowded.connect(quiet=True).settings.model_dump(mode="json")
    target = crowded.connect(values=values | {"policy": {"keep_versions": fewest}})
    for keep in (0, fewest - 1):
        with pytest.raises(Refused, match="not-allowed") as refused:
            cleanup.plan_cleanup(target, keep)
        assert f"sandbox keeps the newest {fewest} versions, but keep is {keep}." in str(refused.value)
    for keep, newest in ((None, fewest), (fewest, fewest), (fewest + 2, fewest + 2)):
        doomed = {int(each) for each in cleanup.plan_cleanup(target, keep).to_delete}
        assert doomed == set(range(1, 61 - newest)) - {1, 5, 9}
    assert there(crowded) == [*range(1, 61)]


def test_what_an_alias_takes_meanwhile_is_spared(crowded: Situation) -> None:
    """A version that comes into use between the plan and its deletion stays, and is told."""
    target = crowded.connect()
    plan = cleanup.plan_cleanup(target)
    crowded.client("lambda").update_alias(FunctionName=crowded.function, Name="other", FunctionVersion="20")
    done = cleanup.run_cleanup(target, plan, approve(target, plan))
    assert "serves it" in done.skipped["20"] and 20 in there(crowded)


def test_a_young_version_stays(situation: Bring) -> None:
    """A version inside its 24 hours is never deleted."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    publish(here, 12)
    assert cleanup.plan_cleanup(here.connect()).to_delete == ()


def test_a_version_with_provisioned_concurrency_stays(crowded: Situation) -> None:
    """Provisioned concurrency on an old version keeps it."""
    crowded.client("lambda").put_provisioned_concurrency_config(
        FunctionName=crowded.function, Qualifier="7", ProvisionedConcurrentExecutions=1
    )
    assert cleanup.plan_cleanup(crowded.connect()).kept["7"] == "it has provisioned concurrency"


def test_a_rollback_target_stays(situation: Bring) -> None:
    """What a rollback would return to stays, however old."""
    here = situation("good", history_minutes=10)
    here.ship(here.build("good"))
    here.ask("set", requests_per_minute=0)
    publish(here, 12)
    here.ask("advance", seconds=48 * 3600)
    assert cleanup.plan_cleanup(here.connect()).kept["1"] == "alias live may roll back to it"
