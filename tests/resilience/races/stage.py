"""What races share: the account that they begin in, what the actors do, and what always holds of the alias.

Each race is one order of some actors' AWS calls, drawn from its seed; a failure shows its seed and its log.
"""

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import boto3
import pytest

from buddy_ops.aws.aliases import RolloutState, decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.deployment import rollback, rollout
from buddy_ops.deployment.rollback import RollbackPlan
from buddy_ops.deployment.rollout import Outcome
from buddy_ops.health.metrics import MINUTE
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.conftest import Situation, approve
from tests.resilience.races.interleaving import Race

Bring = Callable[..., Situation]
Each = Callable[[range, Callable[[int], None]], None]
"""Runs a race for each seed."""

SINCE = "2026-11-22T00:00:00Z"
SAMPLE, WHOLE = range(3), range(3, 200)
RACES = pytest.mark.parametrize("seeds", [SAMPLE, pytest.param(WHOLE, marks=pytest.mark.whole)], ids=["sample", "rest"])
RACED: set[str] = set()
"""The notebooks and commands that race with something, as ``powers`` names them."""


def races(*pages: str) -> pytest.MarkDecorator:
    """Marks a test as 200 races of these notebooks or commands, a sample of them every day."""
    RACED.update(pages)
    return RACES


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
    settings: dict[str, Any] = project.read_settings("sandbox")[0]
    settings["rollout"] |= {"stages_percent": [10, 100], "bake_minutes": 1, "stretch_minutes": 2, "watch_minutes": 1}
    settings["rollout"] |= {"unreadable_minutes": 3}
    settings["health"] |= {"history_minutes": 5}
    settings["lease"] |= {"minutes": 10}
    settings["schema_range"] = "1-2"
    return settings


def publish(here: Situation, label: str) -> str:
    """One more version, with nobody's traffic."""
    lam, code = client(here.endpoint), build("good", label)
    lam.update_function_code(FunctionName=here.function, ZipFile=code)
    here.ask("advance", seconds=3)
    version = lam.publish_version(FunctionName=here.function)["Version"]
    here.ask("advance", seconds=3)
    return str(version)


def put(here: Situation, primary: str, record: RolloutState, second: str = "", weight: float = 0.1) -> None:
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


def variables(here: Situation, version: str) -> dict[str, str]:
    """A version's environment."""
    held = client(here.endpoint).get_function_configuration(FunctionName=here.function, Qualifier=version)
    return dict(held.get("Environment", {}).get("Variables", {}))


def ship(artifact: str, strategy: str = "canary") -> Callable[[Target], Outcome]:
    """Plan and carry out a rollout."""

    def work(target: Target) -> Outcome:
        plan = rollout.plan_rollout(target, artifact, strategy)
        return rollout.drive_rollout(target, rollout.run_rollout(target, plan, approve(target, plan)))

    return work


def take_back(version: str = "", polls: int = 0) -> Callable[[Target], RollbackPlan]:
    """Plan an immediate rollback, think until somebody's poll, so many minutes later, and carry it out; its plan."""

    def work(target: Target) -> RollbackPlan:
        plan = rollback.plan_rollback(target, version)
        target.clock.sleep_until(target.clock.now().replace(second=0, microsecond=0) + polls * MINUTE)
        done = rollback.run_rollback(target, plan, approve(target, plan))
        assert done.serving == plan.destination
        return plan

    return work


def check_no_update_is_lost(race: Race, first: str) -> None:
    """Each write to the alias names the revision that the write before it returned, and keeps what that noted as bad."""
    revision, bad = first, set[str]()
    for index in race.done("lambda:update_alias"):
        event = race.events[index]
        assert event.reply is not None
        assert event.parameters["RevisionId"] == revision, "a write over an unseen one was acknowledged"
        revision = event.reply["RevisionId"]
        record = decode_rollout_state(event.parameters["Description"])
        assert record is not None
        assert bad - {record.new_version} <= set(record.rejected_versions) or len(record.rejected_versions) == 3, (
            "an acknowledged bad version was lost"
        )
        bad = set(record.rejected_versions)


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
