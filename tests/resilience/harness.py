"""Runbooks under the worst: a process killed before and after each of its AWS calls, and AWS failing at each of them.

A runbook registers in ``RUNBOOKS`` once; its crash points and its fault cases are counted from an undisturbed run, so
that both matrices grow by themselves.
"""

import asyncio
import json
import math
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import botocore.client
import botocore.retries.standard
import pytest

from buddy_ops.aws import _credentials, checklist_store, freezes, isolation, tables, versions
from buddy_ops.aws import session as sessions
from buddy_ops.aws.aliases import RolloutState, decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.checks import checklists
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.fleet_file import Fleet, FleetTarget
from buddy_ops.core.journal import JournalFile
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.deployment import cleanup, feature_flags, gradual_rollback, reenabling, rollback, rollout
from buddy_ops.fleet import canary, wave_plan
from buddy_ops.fleet import rollback as fleet_rollback
from buddy_ops.fleet.step import Step, StepResult
from buddy_ops.fleet.targets import Member, Place
from buddy_ops.health import alarms
from buddy_ops.incidents import assessment, containment, repair, schema_rollback
from buddy_ops.migrations import schema
from buddy_ops.migrations import steps as migration_steps
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.checks import proving
from tests.conftest import Situation, abandon, approve, sampled
from tests.health.test_alarms import wired
from tests.incidents import corruption

SLICES = 8
"""The whole of a runbook's points is cut into this many tests, for the workers to share."""

BUSY = {"requests_per_minute": 6000, "history_minutes": 12}
"""So many requests a minute that a verdict needs few calls."""

LOGGED: dict[str, Any] = {"requests_per_minute": 1200, "history_minutes": 12}
"""For builds that are slow: the log of each minute is read for its cold starts, and more requests need more pages."""

JSON_LOG: dict[str, Any] = {"requests_per_minute": 1200, "history_minutes": 12, "log_format": "JSON"}

T = TypeVar("T")
Drive = Callable[[Situation], str]


@dataclass(frozen=True)
class Runbook:
    """How to bring an account to where the runbook begins, and how to run it to its end.

    Attributes:
        page: the notebook or command that it stands for, as ``powers`` names it.
        prepare: what stands before; never disturbed.
        drive: one run, to its end; how it ended.
        ends: how an undisturbed run ends, and what a disturbed one must come to by being run again.
        serves: the version that serves alone then; None where the runbook has nothing to do with traffic.
        daily: whether ``make test`` has a sample of it; those without differ from one that has in its data only.
    """

    name: str
    page: str
    scenario: str
    drive: Drive
    ends: str
    serves: str | None
    prepare: Callable[[Situation], None] = lambda here: None
    overrides: dict[str, Any] = field(default_factory=lambda: dict(BUSY))
    daily: bool = True

    def bring(self, situation: Callable[..., Situation]) -> Situation:
        here = situation(self.scenario, **self.overrides)
        self.prepare(here)
        return here


# The runbooks


ESCALATIONS = {
    "name": "safety-escalations",
    "description": "More than one safety escalation within an hour.",
    "namespace": "Buddy",
    "metric": "SafetyEscalations",
    "threshold": 1,
}


def connect(here: Situation, runbook: str) -> Target:
    """A target with short bakes: the same calls, fewer of them."""
    values = {
        "function": here.function,
        "aws": {"region": "us-east-1"},
        "rollout": {
            "strategies": ["all_at_once", "blue_green", "canary"],
            "stages_percent": [10, 100],
            "bake_minutes": 2,
            "watch_minutes": 10,
            "watch_after_proof_minutes": 0,
        },
        "policy": {"keep_versions": 1},
        "health": {"history_minutes": 10},
        "failure_metrics": [{"namespace": "Buddy", "name": "Apologies"}],
        "smoke_tests": [{"name": "launch", "request": "LaunchRequest"}],
        "flags": ["ENABLE_ENHANCED_SAFETY"],
    }
    return here.connect(runbook, values=values)


def ship(profile: str, strategy: str = "canary") -> Drive:
    """A rollout of a build, by a strategy."""

    def drive(here: Situation) -> str:
        mine = connect(here, strategy)
        try:
            plan = rollout.plan_rollout(mine, here.build(profile), strategy)
            return rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approved(mine, plan))).ending
        finally:
            mine.close()

    return drive


def ship_named(artifact: str) -> Drive:
    """A canary of a build that ``artifact`` names, without a file of this machine."""

    def drive(here: Situation) -> str:
        mine = connect(here, "canary")
        try:
            plan = rollout.plan_rollout(mine, artifact)
            return rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approved(mine, plan))).ending
        finally:
            mine.close()

    return drive


class _InPlace:
    """Runs the steps of a fleet of one target in this process."""

    def __init__(self, mine: Target) -> None:
        self._mine = mine
        self._results: list[StepResult] = []

    def submit(self, *steps: Step) -> None:
        for step in steps:
            plan = rollout.plan_rollout(self._mine, step.parameters["artifact"])
            done = rollout.drive_rollout(self._mine, rollout.run_rollout(self._mine, plan, approved(self._mine, plan)))
            self._results.append(StepResult(step.target, step.runbook, done.exit_code, done.ending))

    def results(self) -> Iterator[StepResult]:
        while self._results:
            yield self._results.pop()


def deploy_fleet(here: Situation) -> str:
    """The canary of a fleet of one target."""
    with closing(connect(here, "fleet-canary")) as mine:
        declared = FleetTarget(name=mine.environment, environment=mine.environment, region=mine.region)
        place = Place((Member(declared, mine.settings),), mine)
        plan = wave_plan.plan_places(mine, Fleet(targets=(declared,)), (place,), {declared.name: here.build("good")})
        outcome = canary.run_fleet(mine, plan, approved(mine, plan), lambda run: nullcontext(_InPlace(mine)))
        outcome.raise_for_ending()
        return outcome.title


def roll_back(here: Situation) -> str:
    """The immediate rollback."""
    mine = connect(here, "immediate")
    plan = rollback.plan_rollback(mine)
    rollback.run_rollback(mine, plan, approved(mine, plan))
    return "done"


def roll_back_fleet(here: Situation) -> str:
    """The rollback of a fleet of one target."""
    mine = connect(here, "fleet-rollback")
    declared = FleetTarget(name=mine.environment, environment=mine.environment, region=mine.region)
    plan = fleet_rollback.plan_rollbacks((Place((Member(declared, mine.settings),), mine),))
    done = fleet_rollback.roll_back_fleet(mine, plan, approved(mine, plan))
    fleet_rollback.raise_for_unfinished(done)
    return "done"


def go_down(here: Situation) -> str:
    """The gradual rollback, in two steps."""
    mine = connect(here, "gradual")
    try:
        plan = gradual_rollback.plan_gradual_rollback(mine, [5], 1)
        return rollout.drive_rollout(
            mine, gradual_rollback.run_gradual_rollback(mine, plan, approved(mine, plan))
        ).ending
    finally:
        mine.close()


def fail(here: Situation) -> str:
    """The runbook of a failed deployment, with the decision to roll back."""
    with closing(connect(here, "deployment_failure")) as mine:
        stopping = assessment.plan_freeze(mine, "a deployment failed")
        assessment.freeze_deployments(mine, stopping, approved(mine, stopping))
        plan = assessment.plan_decision(mine, assessment.assess_deployment(mine), "roll back")
        assessment.run_decision(mine, plan, approved(mine, plan))
        return "done"


def check_before(here: Situation) -> str:
    """The checklist for a build, with everything attested that no check can prove."""
    mine = connect(here, "pre_deployment")
    names = ["tests pass", "code reviewed", "documentation updated", "on-call notified"]
    record = checklists.check_before(mine, here.build("good"), dict.fromkeys(names, "Ada"))
    checklists.store_result(mine, record)
    checklists.raise_for_failed_items(record)
    (kept, *_) = checklist_store.list_results(mine, "pre_deployment")
    assert kept.open == ()
    return "passed"


def check_after(here: Situation) -> str:
    """The checklist for the version that has served for a day; without traffic, people answer for three items."""
    mine = connect(here, "post_deployment")
    names = ["error rate normal", "latency within bounds", "business metrics healthy"]
    record = checklists.check_after(mine, dict.fromkeys(names, "Ada"))
    checklists.store_result(mine, record)
    checklists.raise_for_failed_items(record)
    (kept, *_) = checklist_store.list_results(mine, "post_deployment")
    assert kept.open == ()
    return "passed"


def keep_alarms(here: Situation) -> str:
    """The alarms, and one of them set off as a test; how many are not as they should be then."""
    values = connect(here, "values").settings.model_dump() | {
        "alarms": {"topic_arn": TOPIC, "tables": ["reminders"], "custom": [ESCALATIONS]}
    }
    mine = here.connect("alarms", values=values)
    try:
        plan = alarms.plan_alarms(mine, f"{here.function}-error-rate")
        approval = approved(mine, plan)
        alarms.write_alarms(mine, plan, approval)
        alarms.raise_for_unproven(asyncio.run(alarms.prove_alarms(mine, plan, approval)))
        return f"{len(alarms.plan_alarms(mine).wanted)} of {len(alarms.wanted_alarms(mine))} alarms missing"
    finally:
        mine.close()


def freeze_all(here: Situation) -> str:
    """A freeze."""
    mine = connect(here, "freeze")
    freezes.create_freeze(mine, "a release", "Ada", timedelta(hours=2))
    return "frozen" if freezes.active_freezes(mine) else "lifted"


def lift_all(here: Situation) -> str:
    """The end of every freeze."""
    mine = connect(here, "freeze")
    for each in freezes.active_freezes(mine):
        freezes.remove_freeze(mine, each.id)
    return "frozen" if freezes.active_freezes(mine) else "lifted"


def reenable(here: Situation) -> str:
    """The end of an isolation: the function's concurrency is what it was before."""
    mine = connect(here, "reenable")
    plan = reenabling.plan_reenabling(mine)
    reenabling.run_reenabling(mine, plan, approved(mine, plan))
    left = "isolated" if isolation.read_isolation(mine) else "re-enabled"
    return f"{left}, concurrency {isolation.read_concurrency(mine)}"


def prove_setup(here: Situation) -> str:
    """The proof of the setup; how much it left. What it could not try, or found wrong, is an error."""
    found = proving.prove(proving.connect(here))
    failed = [each for each in found.values() if each.state in ("problem", "unknown")]
    if failed:
        says = "; ".join(f"{each.check}: {each.message}" for each in failed)
        raise BuddyError("not-ready", says, now="Nothing on the alias was changed.", next="Run it again.")
    return f"{len(proving.left_behind(here))} left"


def clean_up(here: Situation) -> str:
    """The clean-up of old versions."""
    mine = connect(here, "clean_up_versions")
    plan = cleanup.plan_cleanup(mine, keep=1)
    cleanup.run_cleanup(mine, plan, approved(mine, plan))
    return f"{len(versions.list_versions(mine))} versions"


def turn_flag(here: Situation) -> str:
    """A feature flag, through a canary."""
    mine = connect(here, "feature_flags")
    try:
        plan = feature_flags.plan_flags(mine, {"ENABLE_ENHANCED_SAFETY": True})
        return rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approved(mine, plan))).ending
    finally:
        mine.close()


def recover(here: Situation) -> str:
    """The recovery from damaged data; how many items the table has then, and how many of them are damaged."""
    mine = here.connect("data_corruption")
    try:
        stopping = containment.plan_containment(mine)
        containment.contain_damage(mine, stopping, approved(mine, stopping))
        containment.restore_table_copy(mine, stopping)
        repairing = repair.plan_repair(mine, repair.determine_scope(mine, stopping))
        agreed = approved(mine, repairing)
        done = repair.run_repair(mine, repairing, agreed)
        repair.verify_repair(mine, stopping, repairing, done)
        containment.end_containment(mine, stopping, repairing, agreed)
    finally:
        mine.close()
    items = corruption.table(here).values()
    off = corruption.isolated(here) or corruption.parameters(here, "isolation")
    broken = sum(each["at"]["S"] == "" and each["written_by"]["S"] == "2" for each in items)
    return f"{len(items)} items, {broken} damaged, Buddy is {'off' if off else 'on'}"


def migrate(following: dict[str, tuple[str, ...]]) -> Drive:
    """What is left of a migration, step by step; one segment, since calls in several threads have no order."""

    def drive(here: Situation) -> str:
        values = connect(here, "values").settings.model_dump() | MIGRATED
        with closing(here.connect("migrate_database", values=values)) as mine, pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "SEGMENTS", 1)
            while steps := following.get(state := schema.read_marker(mine, mine.settings.tables[0]).state):
                for step in steps:
                    plan = migration_steps.plan_step(mine, "reminders_at_minutes", step)
                    migration_steps.run_step(mine, plan, approved(mine, plan))
        return state

    return drive


def roll_back_across(here: Situation) -> str:
    """The rollback of a version that met a migration."""
    values = connect(here, "values").settings.model_dump() | MIGRATED
    with closing(here.connect("database_compatibility", values=values)) as mine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "SEGMENTS", 1)
        plan = schema_rollback.plan_schema_rollback(mine, migration="reminders_at_minutes", reason="drill")
        approval = approved(mine, plan)
        schema_rollback.move_traffic(mine, plan, approval)
        reverted = schema_rollback.revert_migration(mine, plan, approval)
        schema_rollback.store_review(mine, plan, approval)
        schema_rollback.raise_for_unreverted(reverted)
        return "done"


FORTH = {"": ("expand",), "expanded": ("backfill", "verify"), "verified": ("contract",), "contracting": ("contract",)}
BACK = dict.fromkeys(("expanded", "contracted", "reverting"), ("rollback",))
"""The steps that each state of the table leads to."""

MIGRATED: dict[str, Any] = {
    "schema_range": "1-2",
    "tables": [{"name": "buddy-reminders-sandbox", "key": ["user_id", "reminder_id"], "variable": "REMINDERS_TABLE"}],
}


def approved(mine: Target, plan: Plan) -> Approval:
    """As a gate does it: with the caller's principal, wherever it is known."""
    return Approval(plan.hash, approve(mine, plan).by, mine.clock.now(), mine.account)


# What stands before


def expanded(here: Situation) -> None:
    """Version 2 serves after version 1, and a migration is open."""
    promoted(here)
    migrate({"": ("expand", "backfill")})(here)


def contracted(here: Situation) -> None:
    """A migration that was carried out."""
    migrate(FORTH)(here)


def begun(here: Situation) -> None:
    """A canary at 10 %, whose run is gone."""
    mine = connect(here, "canary")
    plan = rollout.plan_rollout(mine, here.build("good"))
    abandon(mine, plan)
    mine.close()


def promoted(here: Situation) -> None:
    """Version 2 serves, after version 1."""
    publish(here, "2.0.0", run="0000")
    record = RolloutState("0000", "1", "2", "proved", "2026-11-02T00:00:00Z")
    here.client("lambda").update_alias(
        FunctionName=here.function, Name="live", FunctionVersion="2", Description=record.encode()
    )


def publish(here: Situation, label: str, run: str = "") -> str:
    """One more version. ``run``: the run of ours that published it."""
    client = here.client("lambda")
    client.update_function_code(FunctionName=here.function, ZipFile=builds.build(PROFILES["good"], version_label=label))
    here.ask("advance", seconds=60)
    description = f"run {run}" if run else ""
    return str(client.publish_version(FunctionName=here.function, Description=description)["Version"])


def aged(here: Situation) -> None:
    """Four versions, a day old, of which the first serves."""
    for label in ("2.0.0", "3.0.0", "4.0.0"):
        publish(here, label)
    here.ask("advance", seconds=25 * 3600)


STORED = "s3://buddy-builds/good.zip"


def stored(here: Situation) -> None:
    """A build in a bucket that keeps versions."""
    store(here, builds.build(PROFILES["good"], version_label="2.0.0"))


def store(here: Situation, content: bytes, *, versioned: bool = True) -> str:
    """Put a zip at ``STORED``; the object's version."""
    client = here.client("s3")
    client.create_bucket(Bucket="buddy-builds")
    if versioned:
        client.put_bucket_versioning(Bucket="buddy-builds", VersioningConfiguration={"Status": "Enabled"})
    return str(client.put_object(Bucket="buddy-builds", Key="good.zip", Body=content).get("VersionId", ""))


def published_by_others(here: Situation) -> None:
    """Another tool published version 2, and uploaded more since; it serves nobody."""
    publish(here, "2.0.0")
    here.client("lambda").update_function_code(
        FunctionName=here.function, ZipFile=builds.build(PROFILES["total_failure"], version_label="3.0.0")
    )
    here.ask("advance", seconds=60)


def alarmed(here: Situation) -> None:
    """Every alarm of the environment's file is there."""
    mine = here.connect("alarms")
    plan = alarms.plan_alarms(mine)
    alarms.write_alarms(mine, plan, approve(mine, plan))


def served(here: Situation) -> None:
    """Version 2 has served for a day."""
    promoted(here)
    here.ask("advance", seconds=25 * 3600)


def heard(here: Situation) -> None:
    """A topic with somebody who listens, for alarms to tell."""
    wired(here)


def frozen(here: Situation) -> None:
    """Two freezes."""
    for _ in range(2):
        freeze_all(here)


def isolated(here: Situation) -> None:
    """The function, which had a limit of its own, was stopped by a run that is gone."""
    here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=5)
    isolation.isolate(connect(here, "data_corruption"), "function", "")


TOPIC = "arn:aws:sns:us-east-1:123456789012:buddy-alarms"
RECOVERED = "30 items, 0 damaged, Buddy is on"
QUIET = {"requests_per_minute": 0, "history_minutes": 0}
TABLE = {**QUIET, "reminders": 3}
RUNBOOKS = {
    each.name: each
    for each in (
        Runbook("canary_good", "strategies/canary", "good", ship("good"), "proved", "2"),
        Runbook("canary_bad", "strategies/canary", "total_failure", ship("total_failure"), "rolled-back", "1"),
        Runbook("canary_fleet", "fleet/canary", "good", deploy_fleet, "SUCCEEDED: 1 PROMOTED", "2"),
        # Judged every 10 s by the log.
        Runbook(
            "canary_bad_by_log",
            "strategies/canary",
            "total_failure",
            ship("total_failure"),
            "rolled-back",
            "1",
            overrides=JSON_LOG,
        ),
        Runbook(
            "canary_good_by_log",
            "strategies/canary",
            "good",
            ship("good"),
            "proved",
            "2",
            overrides=JSON_LOG,
            daily=False,
        ),
        Runbook(
            "canary_resumed_by_log",
            "strategies/canary",
            "good",
            ship("good"),
            "proved",
            "2",
            begun,
            overrides=JSON_LOG,
            daily=False,
        ),
        Runbook("canary_stored", "strategies/canary", "good", ship_named(STORED), "proved", "2", stored, daily=False),
        Runbook(
            "canary_published",
            "strategies/canary",
            "good",
            ship_named("version:2"),
            "proved",
            "2",
            published_by_others,
            daily=False,
        ),
        Runbook("canary_resumed", "strategies/canary", "good", ship("good"), "proved", "2", begun),
        Runbook(
            "blue_green_good", "strategies/blue_green", "good", ship("good", "blue_green"), "proved", "2", daily=False
        ),
        # It passes its smoke tests: only traffic shows what is wrong with it.
        Runbook(
            "blue_green_bad",
            "strategies/blue_green",
            "slow",
            ship("slow", "blue_green"),
            "rolled-back",
            "1",
            overrides=LOGGED,
        ),
        Runbook("all_at_once_good", "strategies/all_at_once", "good", ship("good", "all_at_once"), "proved", "2"),
        Runbook(
            "all_at_once_bad",
            "strategies/all_at_once",
            "slow",
            ship("slow", "all_at_once"),
            "rolled-back",
            "1",
            overrides=LOGGED,
            daily=False,
        ),
        Runbook(
            "first_deployment", "strategies/canary", "first_deployment", ship("good"), "deployed", "1", overrides=QUIET
        ),
        Runbook("rollback_mid_rollout", "rollback/immediate", "good", roll_back, "done", "1", begun),
        Runbook("rollback_promoted", "rollback", "good", roll_back, "done", "1", promoted, QUIET),
        Runbook("rollback_fleet", "fleet/rollback", "good", roll_back_fleet, "done", "1", promoted, QUIET),
        Runbook("gradual", "rollback/gradual", "good", go_down, "drained", "1", begun),
        Runbook("deployment_failure", "emergency/deployment_failure", "good", fail, "done", "1", begun, QUIET),
        Runbook("pre_deployment", "operations/pre_deployment", "good", check_before, "passed", None, alarmed, QUIET),
        Runbook("post_deployment", "operations/post_deployment", "good", check_after, "passed", None, served, QUIET),
        Runbook("alarms", "operations/alarms", "good", keep_alarms, "0 of 4 alarms missing", None, heard, QUIET),
        Runbook("freeze", "freeze", "good", freeze_all, "frozen", None, overrides=QUIET),
        Runbook("lift", "freeze", "good", lift_all, "lifted", None, frozen, QUIET),
        Runbook("reenable", "reenable", "good", reenable, "re-enabled, concurrency 5", None, isolated, QUIET),
        Runbook("prove", "prove", "good", prove_setup, "0 left", None, proving.set_up, QUIET),
        Runbook(
            "data_corruption",
            "emergency/data_corruption",
            "good",
            recover,
            RECOVERED,
            "1",
            corruption.corrupted,
            {"reminders": 30, **QUIET},
        ),
        Runbook("feature_flags", "operations/feature_flags", "good", turn_flag, "proved", "2"),
        Runbook(
            "database_compatibility",
            "rollback/database_compatibility",
            "good",
            roll_back_across,
            "done",
            "1",
            expanded,
            TABLE,
        ),
        Runbook("migrate", "operations/migrate_database", "good", migrate(FORTH), "contracted", None, overrides=TABLE),
        Runbook(
            "migrate_back", "operations/migrate_database", "good", migrate(BACK), "reverted", None, contracted, TABLE
        ),
        Runbook("clean_up_versions", "operations/clean_up_versions", "good", clean_up, "2 versions", None, aged, QUIET),
    )
}
"""Every runbook there is: a later one is covered by being added here."""

SETTLED = {"already-live"}
"""Endings of a run that finds the work done."""


# A process that dies


@dataclass
class Death:
    """What is left of a run: how it ended, or None if it was killed; its calls; the journal lines it acknowledged."""

    ending: str | None
    calls: list[str]
    lines: list[str]


def run_in_child(runbook: Runbook, here: Situation, call: int = 0, after: bool = False) -> Death:
    """Drive a runbook in a process of its own, which kills itself at its ``call``-th AWS call (0: never)."""
    mouth, ear = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mouth)
        _live(runbook, here, call, after, ear)
    os.close(ear)
    with os.fdopen(mouth, encoding="utf-8") as file:
        told = [json.loads(line) for line in file]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.WEXITSTATUS(status) == 0, f"{runbook.name}: {told[-1]}"
    ending = next((each["ending"] for each in told if "ending" in each), None)
    return Death(ending, [x["call"] for x in told if "call" in x], [x["line"] for x in told if "line" in x])


def _live(runbook: Runbook, here: Situation, call: int, after: bool, ear: int) -> None:
    """The child: it tells of each call and each acknowledged line, and never returns."""

    def tell(**what: str) -> None:
        os.write(ear, json.dumps(what).encode() + b"\n")

    send, write, count = botocore.client.BaseClient._make_api_call, JournalFile.__call__, 0
    counting = threading.Lock()

    def counted(self: Any, operation: str, parameters: Any) -> Any:
        nonlocal count
        with counting:  # tables are read and written by several threads
            count += 1
            mine = count
            tell(call=operation)
        if mine == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return send(self, operation, parameters)
        finally:
            if mine == call:
                os.kill(os.getpid(), signal.SIGKILL)

    def acknowledged(self: Any, line: str) -> None:
        write(self, line)
        for each in line.splitlines():
            tell(line=each)

    code = 1
    try:
        botocore.client.BaseClient._make_api_call = counted
        JournalFile.__call__ = acknowledged  # type: ignore[method-assign]
        tell(ending=runbook.drive(here))
        code = 0
    except BaseException as error:
        tell(error=repr(error))
    finally:
        os._exit(code)


# What must hold


def lease_minutes() -> int:
    """After how many minutes a lease has fired, whoever lives."""
    return sessions.connect("sandbox", "test", quiet=True).settings.lease.minutes


def must_be_whole(here: Situation, before: str | None) -> None:
    """No weights are left, and what serves was serving before or was promoted by a verdict."""
    alias = alias_of(here)
    if alias is None:
        assert before is None
        return
    assert "RoutingConfig" not in alias, alias
    if alias["FunctionVersion"] == before:
        return
    record = decode_rollout_state(alias.get("Description", ""))
    assert record is not None, alias
    if record.stage == "rolled-back" and record.stable_version == alias["FunctionVersion"]:
        return  # it served before the version that was taken back
    assert (record.new_version, record.stable_version) == (alias["FunctionVersion"], before or ""), alias
    # The rollout was closed at 100 %: by a verdict, or since its time was over.
    assert record.stage in ("proved", "unproven"), alias
    watched = [line for line in journal(here) if line["kind"] == "observed" and line["stage"] == "watch"]
    assert not before or watched, alias


def must_be_done(here: Situation, runbook: Runbook) -> None:
    """The runbook's end: one version serves alone, and no schedule is left that could still move it."""
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    alias = alias_of(here)
    if runbook.serves is not None:
        assert alias is not None and alias["FunctionVersion"] == runbook.serves and "RoutingConfig" not in alias


def must_be_kept(here: Situation, lines: list[str]) -> None:
    """Every acknowledged line stands in the journal, in order, and can be read; each target of a fleet has its own."""
    found = [path.read_text(encoding="utf-8").splitlines() for path in journals(here)]
    for own in found:
        assert [line for line in own if line in lines] == [line for line in lines if line in own]
        for line in own:
            json.loads(line)
    assert {line for own in found for line in own} >= set(lines)


def journals(here: Situation) -> list[Path]:
    return list(here.folder.glob("*/journal.jsonl"))


def journal(here: Situation) -> list[dict[str, Any]]:
    path = here.folder / "run" / "journal.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def forget_journal(here: Situation) -> None:
    for path in journals(here):
        path.unlink()


def alias_of(here: Situation) -> dict[str, Any] | None:
    client = here.client("lambda")
    try:
        return here.alias()
    except client.exceptions.ResourceNotFoundException:
        return None


def run_again(runbook: Runbook, here: Situation) -> list[str]:
    """Run until it ends as it should: once, or once more where the first run only tells that the lease fired."""
    endings: list[str] = []
    while len(endings) < 2 and (not endings or endings[-1] not in {runbook.ends, *SETTLED}):
        endings.append(runbook.drive(here))
    return endings


@contextmanager
def no_backoff() -> Iterator[None]:
    """The SDK's retries follow at once: they sleep in real time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.retries.standard.ExponentialBackoff, "delay_amount", lambda *_: 0.0)
        yield


@contextmanager
def warm_clients() -> Iterator[None]:
    """One session for all targets: what it has loaded of the services' models is loaded once."""
    made: dict[bool, Any] = {}
    make = _credentials.open_session

    def session(settings: Any, sandbox: bool) -> Any:
        return made.setdefault(sandbox, make(settings, sandbox))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_credentials, "open_session", session)
        yield


def parts(turn: int) -> list[Any]:
    """(runbook, part) for pytest: every day a sample, and the whole in slices where it is asked for.

    Args:
        turn: every day one matrix (0) samples one half of the runbooks, another (1) the other half.
    """
    daily = [name for name, runbook in RUNBOOKS.items() if runbook.daily]
    return sampled(
        [(name, part) for name in RUNBOOKS for part in ("sample", *map(str, range(SLICES)))],
        {(name, "sample") for name in daily[turn::2]},
    )


def chosen(points: list[T], name: str, part: str, one_in: int, kind: Callable[[T], object] = lambda _: None) -> list[T]:
    """The points of a part: a slice of all, or the sample.

    The sample is one in ``one_in`` of each kind of point, at least one, drawn with a seed that is the runbook's name.
    """
    if part != "sample":
        return points[int(part) :: SLICES]
    drawn, sample = random.Random(name), []
    for kind_ in sorted({kind(point) for point in points}, key=str):
        own = [point for point in points if kind(point) == kind_]
        sample += drawn.sample(own, math.ceil(len(own) / one_in))
    return sample
