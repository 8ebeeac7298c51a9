"""Waves over several targets: trouble in one stops the others and rolls back what the policy says, and the alias decides."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest

from buddy_ops.aws import session
from buddy_ops.core.errors import BuddyError, Refused, RolledBack
from buddy_ops.core.journal import read_journal
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.settings import FailsafeSettings
from buddy_ops.deployment import rollout
from buddy_ops.deployment.rollout_plan import plan_rollout
from buddy_ops.fleet.canary import FleetOutcome, FleetRun, run_fleet
from buddy_ops.fleet.step import Step, StepResult, lost
from buddy_ops.fleet.wave_plan import FleetPlan, plan_fleet
from buddy_ops.incidents import timeline
from buddy_ops.notebook import fleet_canary
from buddy_ops.notebook.fleet_canary import approve_waves, deploy_in_waves
from buddy_ops.runs import archive
from buddy_ops.runs.verification import verify_archive
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control
from tests.conftest import abandon, approve, sampled
from tests.fleet.conftest import REGIONS, client
from tests.fleet.test_wave_plan import PAY, WAVES, declare

SHORT = """
  rollout: {stages_percent: [50, 100], bake_minutes: 5, ramp: null, watch_minutes: 45, watch_after_proof_minutes: 0}
"""


class InThreads:
    """Runs steps in threads of this process, without kernel and archive.

    Args:
        lost: whether the results of all steps are lost, although they run to their end.
        meanwhile: called when a step is submitted.

    Attributes:
        begun: the targets of the steps that were submitted, in order.
    """

    def __init__(self, *, lost: bool = False, meanwhile: Callable[[], object] = list) -> None:
        self.begun: list[str] = []
        self._lost = lost
        self._meanwhile = meanwhile
        self._ended: SimpleQueue[StepResult] = SimpleQueue()
        self._running = 0

    def submit(self, *steps: Step) -> None:
        for step in steps:
            self.begun.append(step.target)
            self._meanwhile()
            self._running += 1
            threading.Thread(target=self._run, args=(step,), daemon=True).start()

    def results(self) -> Iterator[StepResult]:
        while self._running:
            yield self._ended.get()
            self._running -= 1

    def _run(self, step: Step) -> None:
        here = session.connect(step.target, "canary", quiet=True)
        given = step.parameters
        try:
            plan = plan_rollout(here, given["artifact"])
            assert plan.accepts(given["approved_plan"])
            done = rollout.drive_rollout(here, rollout.run_rollout(here, plan, approve(here, plan)))
            result = StepResult(step.target, step.runbook, done.exit_code, done.ending, str(done))
        except BuddyError as error:
            result = StepResult(step.target, step.runbook, error.exit_code, "refused", str(error), error=error.data())
        finally:
            here.close()
        if self._lost:
            result = lost(step, "Its worker was lost.")
        self._ended.put(result)


class Vanishing(InThreads):
    """Loses the first step once it has shifted traffic, as when its worker and the scheduler are killed."""

    def _run(self, step: Step) -> None:
        here = session.connect(step.target, "canary", quiet=True)
        plan = plan_rollout(here, step.parameters["artifact"])
        abandon(here, plan)
        here.close()
        self._ended.put(lost(step, "The connection to the scheduler was lost."))


class Changed(InThreads):
    """Before a step's end is reported, something changes."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self._change = change

    def results(self) -> Iterator[StepResult]:
        for result in super().results():
            self._change()
            yield result


Deploy = Callable[..., FleetOutcome]


@pytest.fixture
def deploy(fleet: str, tmp_path: Path) -> Deploy:
    """Deploys builds to the four targets of the team payments in three waves."""
    declare(WAVES)
    production = Path("parameters/prod.yaml")
    production.write_text(production.read_text() + SHORT)
    for name, profile in (("good", "good"), ("bad", "errors_5_percent"), ("later", "slow_to_fail")):
        builds.write(tmp_path / f"{name}-2.zip", PROFILES[profile], "2.0.0")

    def run(
        policy: str = "", steps: InThreads | None = None, bake: int = 5, build: str = "good-2.zip", **artifacts: str
    ) -> FleetOutcome:
        declare(f"bake_minutes: {bake}\n{policy}")
        here = session.connect("pay-us-east-1", "canary")
        plan = plan_fleet(here, PAY, build, {name.replace("_", "-"): each for name, each in artifacts.items()})
        return run_plan(here, plan, steps or InThreads())

    return run


def run_plan(here: session.Target, plan: FleetPlan, steps: InThreads) -> FleetOutcome:
    @contextmanager
    def opened(run: FleetRun) -> Iterator[InThreads]:
        yield steps

    return run_fleet(here, plan, approve(here, plan), opened)


def words(outcome: FleetOutcome) -> list[tuple[str, str]]:
    return [(row.name.removeprefix("pay-"), row.state.word) for row in outcome.rows]


def serving(url: str, region: str) -> str:
    alias = client(url, "lambda", region).get_alias(FunctionName="pay", Name="live")
    assert "RoutingConfig" not in alias
    return str(alias["FunctionVersion"])


def test_a_bad_build_in_one_region_of_the_second_wave(deploy: Deploy, fleet: str) -> None:
    """The first wave stays promoted, the second one is rolled back as a whole, the third one was never touched."""
    steps = InThreads()
    outcome = deploy(steps=steps, pay_eu_west_1="bad-2.zip")
    assert words(outcome) == [
        ("us-east-1", "PROMOTED"),
        ("us-west-2", "ROLLED BACK"),
        ("eu-west-1", "ROLLED BACK"),
        ("ap-northeast-1", "NOT STARTED"),
    ]
    assert [serving(fleet, region) for region in ("us-east-1", "us-west-2", "eu-west-1")] == ["2", "1", "1"]
    assert sorted(steps.begun) == ["pay-eu-west-1", "pay-us-east-1", "pay-us-west-2"]
    touched = {call["region"] for call in control(fleet, "calls")["calls"] if call["operation"] == "UpdateAlias"}
    assert touched == {"us-east-1", "us-west-2", "eu-west-1"}
    with pytest.raises(RolledBack, match=r"1 PROMOTED, 2 ROLLED BACK, 1 NOT STARTED") as ended:
        outcome.raise_for_ending()
    assert ended.value.what.splitlines()[1].startswith("pay-eu-west-1: ROLLED BACK")
    # The good one of the wave was in progress: it was rolled back then, and not at its own end.
    good = next(row for row in outcome.rows if row.name == "pay-us-west-2")
    assert good.taken_back and good.results[0].outcome != "proved"
    (journal,) = [file for file in Path("runs").glob("*/journal.jsonl") if "fleet-wave" in file.read_text()]
    kinds = [line["kind"] for line in read_journal(journal.read_bytes())]
    assert kinds.count("fleet-bake") == 1, "after trouble nothing is waited for"
    require_own_run(journal, "pay-us-west-2", "stopped: pay-eu-west-1: ROLLED BACK")


def require_own_run(journal: Path, target: str, why: str) -> None:
    """The rollback by policy is an archived run of its target, which its review reads and the fleet's run names."""
    facts = archive.build_manifest(journal.parent, Redactor())
    fleets = archive.append_to_chain(journal.parent, facts)
    (own,) = (entry for entry in archive.list_entries() if entry.runbook == "rollback")
    assert (own.environment, own.outcome, own.people) == (target, "done", ("Ada", "Grace"))
    records = read_journal(Path("runs", own.folder, "journal.jsonl").read_bytes())
    says = " ".join(event.says for event in timeline.timeline_events(records))
    assert why in says and "rolled back to v1 from v2, approved by Ada and Grace" in says
    assert "lambda:update_alias" in says and "update_alias" not in journal.read_text()
    (named,) = (each for each in fleets.targets if each["runbook"] == "rollback")
    assert (named["target"], named["sha256"]) == (target, own.sha256)
    assert f'{own.folder}/report.html">{target}, rollback: SUCCEEDED' in Path("runs/index.html").read_text()
    assert verify_archive(archive.open_store()).problems == ()
    Path("runs", own.folder, "journal.jsonl").write_text("")
    assert verify_archive(archive.open_store()).problems


def test_a_step_that_is_lost_is_rolled_back_and_its_rerun_is_a_new_plan(deploy: Deploy, fleet: str) -> None:
    """What the error says comes next is true: without the new plan's ID the same names do not approve it again."""
    outcome = deploy(steps=Vanishing())
    assert words(outcome)[0] == ("us-east-1", "ROLLED BACK") and serving(fleet, "us-east-1") == "1"
    with pytest.raises(BuddyError, match="fleet-unsettled") as ended:
        outcome.raise_for_ending()
    assert "approve it by its ID" in ended.value.next
    here = session.connect("pay-us-east-1", "canary", quiet=True)
    assert plan_fleet(here, PAY, "good-2.zip").demand_hash


def lose_a_run(url: str) -> None:
    """A target's run is lost with half of its traffic shifted, and its failsafe rolls back."""
    with closing(session.connect("pay-us-east-1", "canary", quiet=True)) as lost_run:
        abandon(lost_run, plan_rollout(lost_run, "good-2.zip"))
    control(url, "advance", seconds=60 * (FailsafeSettings().minutes + 1))


def test_a_rerun_after_a_failsafe_closes_the_lost_rollout_and_deploys_again(deploy: Deploy, fleet: str) -> None:
    """A target's run is lost, and its failsafe rolls back. The rerun has the same plan ID, says so, and ends the work."""
    declare("bake_minutes: 0\n")
    here = session.connect("pay-us-east-1", "canary", quiet=True)
    plan = plan_fleet(here, PAY, "good-2.zip")
    lose_a_run(fleet)
    again = plan_fleet(here, PAY, "good-2.zip")
    assert again.accepts(plan.hash)
    shown = str(again)
    assert "its failsafe rolled back" in shown and "the build is deployed again, from its first stage" in shown
    steps = InThreads()
    outcome = run_plan(here, again, steps)
    assert {word for _, word in words(outcome)} == {"PROMOTED"} and outcome.exit_code == 0
    assert steps.begun[:2] == ["pay-us-east-1", "pay-us-east-1"] and len(steps.begun) == 5
    assert [result.outcome for result in outcome.rows[0].results] == ["lease-fired", "proved"]
    assert {serving(fleet, region) for region in REGIONS} == {"2"}


def test_another_build_is_not_deployed_after_a_lost_rollout_was_closed(deploy: Deploy, fleet: str) -> None:
    """Only what was approved is deployed again: meanwhile the file holds another build."""
    lose_a_run(fleet)
    steps = Changed(partial(shutil.copy, "later-2.zip", "good-2.zip"))
    outcome = deploy("on_trouble: stop", steps=steps)
    assert steps.begun == ["pay-us-east-1"] and outcome.exit_code == 4
    assert words(outcome)[0] == ("us-east-1", "ROLLED BACK")
    assert "pay-us-east-1: Since the approval these have changed: the code." in str(outcome)
    with pytest.raises(Refused, match="fleet-plan-changed"):
        outcome.raise_for_ending()


@pytest.mark.whole
def test_a_closed_rollout_whose_record_was_removed_is_deployed_again(deploy: Deploy, fleet: str) -> None:
    """Another tool overwrote the alias's description: nothing of what was approved differs."""
    lose_a_run(fleet)
    lam = client(fleet, "lambda", REGIONS[0])
    steps = Changed(partial(lam.update_alias, FunctionName="pay", Name="live", Description="by another tool"))
    assert words(deploy("on_trouble: stop", steps=steps))[0] == ("us-east-1", "PROMOTED")


@pytest.mark.whole
def test_everything_back_leaves_what_was_live_before(deploy: Deploy, fleet: str) -> None:
    """With on_trouble: all the first wave is rolled back, too; nothing is left of the build."""
    outcome = deploy("on_trouble: all", pay_eu_west_1="bad-2.zip")
    assert [word for _, word in words(outcome)] == ["ROLLED BACK", "ROLLED BACK", "ROLLED BACK", "NOT STARTED"]
    assert {serving(fleet, region) for region in REGIONS} == {"1"} and outcome.exit_code == 3


@pytest.mark.whole
def test_a_hold_stops_later_waves_and_nothing_more(deploy: Deploy, fleet: str) -> None:
    """on_trouble: stop; the others of its wave run on to their own end."""
    outcome = deploy("on_trouble: stop", pay_us_west_2="bad-2.zip")
    assert [word for _, word in words(outcome)] == ["PROMOTED", "ROLLED BACK", "PROMOTED", "NOT STARTED"]


@pytest.mark.whole
def test_the_alias_decides_where_every_result_is_lost_and_a_rerun_deploys_nothing(deploy: Deploy, fleet: str) -> None:
    """All workers' reports are lost, and all targets serve the build: it succeeded. A rerun has nothing to do."""
    steps = InThreads(lost=True)
    first = deploy(steps=steps)
    assert {word for _, word in words(first)} == {"PROMOTED"} and first.exit_code == 0 and len(steps.begun) == 4
    again = InThreads()
    here = session.connect("pay-us-east-1", "canary", quiet=True)
    outcome = run_plan(here, plan_fleet(here, PAY, "good-2.zip"), again)
    assert {word for _, word in words(outcome)} == {"ALREADY LIVE"} and outcome.exit_code == 0 and not again.begun


def test_a_rerun_after_a_lost_coordinator_goes_on_by_the_same_approval(deploy: Deploy, fleet: str) -> None:
    """The run ends between two waves: the plan keeps its ID, and only what is left is deployed."""
    declare("bake_minutes: 0\n")
    here = session.connect("pay-us-east-1", "canary", quiet=True)
    plan = plan_fleet(here, PAY, "good-2.zip")
    approval = approve(here, plan)
    run = FleetRun(here, plan)
    waves = run.waves()
    run.deploy(InThreads, next(waves), approval)
    rest = plan_fleet(here, PAY, "good-2.zip")
    assert rest.accepts(approval.plan_hash)
    steps = InThreads()
    outcome = run_plan(here, rest, steps)
    assert [word for _, word in words(outcome)] == ["ALREADY LIVE", "PROMOTED", "PROMOTED", "PROMOTED"]
    assert sorted(steps.begun) == ["pay-ap-northeast-1", "pay-eu-west-1", "pay-us-west-2"]


def test_a_wave_whose_plan_has_changed_does_not_start(deploy: Deploy, fleet: str) -> None:
    """A freeze during the first wave: the second one does not start, the first one stays; exit code 4."""
    frozen = {"reason": "launch", "owner": "Ana", "expires": "2100-01-01T00:00:00Z"}
    stored = {"Name": "/buddy-ops/pay/live/freeze/x", "Value": json.dumps(frozen), "Type": "String"}
    steps = InThreads(meanwhile=lambda: client(fleet, "ssm", "eu-west-1").put_parameter(**stored))
    outcome = deploy(steps=steps)
    assert [word for _, word in words(outcome)] == ["PROMOTED", "NOT STARTED", "NOT STARTED", "NOT STARTED"]
    with pytest.raises(Refused, match=r"pay-eu-west-1: REFUSED \(frozen\)") as refused:
        outcome.raise_for_ending()
    assert refused.value.reference == "fleet-plan-changed" and steps.begun == ["pay-us-east-1"]


def test_a_build_that_fails_during_the_bake_is_rolled_back(deploy: Deploy, fleet: str) -> None:
    """Its canary ended healthy; the status after the bake is a problem, so that no further wave starts."""
    outcome = deploy(bake=30, build="later-2.zip")
    assert [word for _, word in words(outcome)] == ["ROLLED BACK", "NOT STARTED", "NOT STARTED", "NOT STARTED"]
    assert outcome.trouble is not None and "ERROR RATE HIGH" in outcome.trouble.says and outcome.exit_code == 3
    assert outcome.rows[0].results[0].outcome in ("proved", "unproven")


AWAY = {
    "unreachable: stop": ["PROMOTED", "NOT STARTED", "UNKNOWN", "NOT STARTED"],
    "unreachable: go_on": ["PROMOTED", "PROMOTED", "UNKNOWN", "PROMOTED"],
}


@pytest.mark.parametrize("policy", sampled(AWAY, {"unreachable: stop"}))
def test_a_region_that_becomes_unreachable_follows_the_policy(deploy: Deploy, fleet: str, policy: str) -> None:
    """After the first wave one region answers no call: the others stop or go on, and the target is named, never OK."""
    steps = InThreads(meanwhile=lambda: control(fleet, "set", region="eu-west-1", unreachable="closed"))
    outcome = deploy(policy, steps=steps)
    control(fleet, "set", region="eu-west-1", unreachable=None)
    assert [word for _, word in words(outcome)] == AWAY[policy] and outcome.exit_code == 1
    assert "pay-eu-west-1 serves an unknown version" in str(outcome) and "pay-eu-west-1" not in steps.begun
    with pytest.raises(BuddyError) as raised:
        outcome.raise_for_ending()
    assert raised.value.reference == "fleet-unsettled" and raised.value.facts["pay-eu-west-1"] == "UNKNOWN"


def test_each_wave_is_approved_by_its_own_id(deploy: Deploy, fleet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headless, one wave's ID deploys that wave and no other; the error names the next wave's ID, which goes on there."""
    declare("bake_minutes: 0\n")
    steps = InThreads()
    monkeypatch.setattr(fleet_canary, "open_engine", lambda *_: nullcontext(steps))
    here = session.connect("pay-us-east-1", "canary", quiet=True)

    def run(approved_plan: str) -> FleetOutcome:
        plan = plan_fleet(here, PAY, "good-2.zip")
        approvals = asyncio.run(approve_waves(here, plan, ["Ada"], approved_plan, each_wave=True))
        return asyncio.run(deploy_in_waves(here, plan, approvals))

    plan = plan_fleet(here, PAY, "good-2.zip")
    first, second, _ = (plan.only(wave).hash for wave in plan.waves)
    outcome = run(first)
    assert [word for _, word in words(outcome)] == ["PROMOTED", "NOT STARTED", "NOT STARTED", "NOT STARTED"]
    with pytest.raises(Refused) as refused:
        outcome.raise_for_ending()
    assert refused.value.reference == "fleet-wave-unapproved" and second in refused.value.next
    assert steps.begun == ["pay-us-east-1"]
    rest = plan_fleet(here, PAY, "good-2.zip")
    assert rest.only(rest.waves[1]).accepts(second) and not rest.only(rest.waves[1]).accepts(first)
