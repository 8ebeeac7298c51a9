"""One plan over twelve targets: what it covers and says, what refuses it, and that its ID outlives its own run."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from buddy_ops.aws import session
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.deployment import rollback, rollout, rollout_plan
from buddy_ops.fleet import engine
from buddy_ops.fleet.wave_plan import FleetPlan, PlannedTarget, plan_fleet
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control
from tests.conftest import abandon, approve
from tests.fleet.conftest import REGIONS, client

PAY = ("team=payments",)
WAVES = """
waves:
  - {name: first, regions: [us-east-1]}
  - {name: middle, regions: [us-west-2, eu-west-1]}
  - {name: last, regions: [ap-northeast-1]}
"""
Plan = Callable[..., FleetPlan]


def declare(more: str, without: str = "") -> None:
    """Add to the fleet's file."""
    file = Path("parameters/fleet.yaml")
    file.write_text(file.read_text().replace(without, "") + more)


@pytest.fixture
def plan(fleet: str, tmp_path: Path) -> Plan:
    """Plans a good build for the fleet, in three waves."""
    declare(WAVES)
    builds.write(tmp_path / "next.zip", PROFILES["good"], "2.0.0")

    def plan_good(
        labels: tuple[str, ...] = PAY, artifact: str = "next.zip", *, dry_run: bool = False, **more: object
    ) -> FleetPlan:
        here = session.connect("pay-us-east-1", "canary", dry_run=dry_run, quiet=True)
        return plan_fleet(here, labels, artifact, **more)  # type: ignore[arg-type]

    return plan_good


def refusal(plan: Plan, **given: object) -> BuddyError:
    with pytest.raises(BuddyError) as refused:
        plan(**given)
    return refused.value


def of(plan: FleetPlan, name: str) -> PlannedTarget:
    return next(target for target in plan.targets if target.name == name)


def test_a_plan_has_each_targets_own_plan(plan: Plan, fleet: str) -> None:
    """Twelve plans under one ID, in three waves; it says what each will be, and covers the policy, too."""
    found = plan(())
    assert [(wave.name, len(wave.targets)) for wave in found.waves] == [("first", 3), ("middle", 6), ("last", 3)]
    text = str(found)
    assert all(f"{target.name}: {target.plan.title} (plan {target.plan.hash})." in text for target in found.targets)
    assert found.title == "Deploy next.zip to 12 of 12 targets in 3 waves by canary"
    assert "The targets of its wave are rolled back" in text and found.approvals == 1
    declare("on_trouble: all\n")
    other = plan(())
    assert other.hash != found.hash and "All targets that this run deployed to are rolled back" in str(other)
    assert [each.plan.hash for each in other.targets] == [each.plan.hash for each in found.targets]


def test_builds_differ_by_target_and_label(plan: Plan, tmp_path: Path) -> None:
    """A name wins over a label, a label over the build for all; what fits nothing, or twice, is refused at once."""
    for name in ("web", "one"):
        builds.write(tmp_path / f"{name}.zip", PROFILES["good"], name)
    found = plan((), artifacts={"team=web": "web.zip", "cart-us-east-1": "one.zip"})
    chosen = {target.name: target.artifact for target in found.targets}
    assert (chosen["cart-us-east-1"], chosen["shop-us-east-1"], chosen["pay-us-east-1"]) == (
        "one.zip",
        "web.zip",
        "next.zip",
    )
    assert len({target.plan.change.sha256 for target in found.targets}) == 3
    wrong = refusal(plan, artifact="", artifacts={"team=wib": "web.zip"})
    assert isinstance(wrong, InvalidInput) and wrong.reference == "fleet-artifacts"
    assert (
        "team=wib is neither a target nor a label of one" in wrong.what and "pay-us-west-2 has no build" in wrong.what
    )
    assert refusal(plan, artifact="gone.zip").reference == "artifact-missing"


def test_every_targets_refusal_is_named_at_once(plan: Plan, fleet: str) -> None:
    """A freeze in one region, no function in another: one refusal with both, by target, and nothing is planned."""
    frozen = {"reason": "launch day", "owner": "Ana", "expires": "2100-01-01T00:00:00Z"}
    stored = {"Name": "/buddy-ops/pay/live/freeze/x", "Value": str(frozen).replace("'", '"'), "Type": "String"}
    client(fleet, "ssm", "us-west-2").put_parameter(**stored)
    client(fleet, "lambda", "eu-west-1").delete_function(FunctionName="pay")
    refused = refusal(plan)
    assert isinstance(refused, Refused) and refused.reference == "fleet-plan-refused"
    assert set(refused.facts) == {"pay-us-west-2", "pay-eu-west-1"}
    assert "pay-us-west-2: REFUSED (frozen)" in refused.what and "launch day" in refused.what


def test_a_target_that_cannot_be_reached_follows_the_policy(plan: Plan, fleet: str) -> None:
    """By default it refuses the plan; with go_on it is left out, named, and the approval covers that."""
    parameters = Path("parameters")
    away = (parameters / "prod.yaml").read_text().replace("environment: prod", "environment: other")
    (parameters / "other.yaml").write_text(away.replace(fleet, "http://127.0.0.1:9"))
    lost = "  - {name: lost, environment: other, region: us-east-1, labels: {team: payments}}\n"
    declare(f"{lost}{WAVES}", without=WAVES)
    refused = refusal(plan)
    assert set(refused.facts) == {"lost"} and "unreachable" in refused.next
    declare("unreachable: go_on\n")
    found = plan()
    assert list(found.unreachable) == ["lost"] and "lost cannot be reached and is left out" in str(found)
    assert [len(wave.targets) for wave in found.waves] == [1, 2, 1]
    declare("", without=lost)
    assert plan().hash != found.hash


@pytest.mark.whole
def test_the_id_stays_while_its_targets_are_deployed_to(plan: Plan, fleet: str) -> None:
    """While one target's rollout is in progress and once it is live: the same ID; after a rollback another one."""
    first = plan()
    one = of(first, "pay-us-east-1")
    here = session.connect("pay-us-east-1", "canary", quiet=True)
    abandon(here, one.plan)
    during = plan()
    assert during.under_way and during.hash == first.hash and not first.under_way
    resumed = rollout_plan.plan_rollout(here, "next.zip")
    rollout.drive_rollout(here, rollout.run_rollout(here, resumed, approve(here, resumed)))
    here.close()
    after = plan()
    assert of(after, "pay-us-east-1").live and not after.under_way
    assert after.accepts(first.hash) and after.hash == first.hash
    # An approval that was valid when the rollout began is one of what is left of it, however long the bakes last.
    assert replace(after, made_at=after.made_at and after.made_at.replace(year=2100)).accepts(first.hash)
    assert not first.accepts("p" + "0" * 24)
    undo = rollback.plan_rollback(here, "")
    rollback.run_rollback(here, undo, approve(here, undo))
    control(fleet, "advance", seconds=60)
    back = plan()
    assert not back.accepts(first.hash) and back.demand_hash
    assert {each.name for each in back.targets if not each.live} == {f"pay-{region}" for region in REGIONS}


def test_a_plan_that_could_not_start_is_refused_before_its_approval(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Dask, or a scheduler that answers; a dry run needs neither."""
    monkeypatch.setattr(engine, "CONNECT_S", 1)
    assert refusal(plan, scheduler="tcp://127.0.0.1:9").reference == "scheduler-unreachable"
    assert plan(scheduler="tcp://127.0.0.1:9", dry_run=True).calls
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find(name))
    missing = refusal(plan)
    assert missing.reference == "extra-missing" and "pip install 'buddy-ops[fleet]'" in missing.next
    assert plan(dry_run=True).calls
