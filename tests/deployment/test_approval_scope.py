"""What an approval is for: everything the version will be, one deployment, and a limited time."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import RARE, TAKEN_OVER
from buddy_ops.core.errors import Refused
from buddy_ops.core.plan import Approval
from buddy_ops.deployment import cleanup, rollback, rollout
from buddy_ops.deployment.rollout_plan import RolloutPlan
from buddy_ops.health import alarms
from buddy_ops.notebook import approvals
from tests.conftest import Situation, abandon, approve, drive, intercept, sampled

Bring = Callable[..., Situation]
HOURS = 3600.0


@pytest.fixture
def quiet(situation: Bring) -> Situation:
    return situation("good", history_minutes=0, requests_per_minute=0)


def configure(here: Situation, **change: Any) -> None:
    """Another user or tool changes $LATEST."""
    here.client("lambda").update_function_configuration(FunctionName=here.function, **change)
    here.ask("advance", seconds=10)


def given(mine: Target, plan: RolloutPlan, approved_plan: str = "") -> Approval:
    return approvals.from_parameters(mine, plan, ["Ada", "Grace"], approved_plan)


def must_be_void(mine: Target, plan: RolloutPlan, approved_plan: str) -> str:
    """The approval is refused; the advice works; what was said."""
    with pytest.raises(Refused, match="approval-void") as void:
        given(mine, plan, approved_plan)
    assert plan.hash in void.value.next and given(mine, plan, plan.hash).plan_hash == plan.hash
    return void.value.what


# What it covers


CHANGES: dict[str, dict[str, Any]] = {
    "Timeout": {"Timeout": 3},
    "MemorySize": {"MemorySize": 1024},
    "Handler": {"Handler": "lambda_function.other"},
    "Runtime": {"Runtime": "python3.12"},
    "TracingConfig": {"TracingConfig": {"Mode": "Active"}},
    "EphemeralStorage": {"EphemeralStorage": {"Size": 1024}},
    "variable TABLE": {"Environment": {"Variables": {"TABLE": "reminders-of-another", "PIN": "not-for-plans"}}},
}


@pytest.mark.parametrize("named", CHANGES)
def test_changed_configuration_voids_the_approval(quiet: Situation, named: str) -> None:
    """Another user changes $LATEST between plan and approval: the refusal names what changed, and never a value."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    before = rollout.plan_rollout(mine, artifact)
    configure(here, **CHANGES[named])
    after = rollout.plan_rollout(mine, artifact)
    assert before.hash != after.hash
    said = must_be_void(mine, after, before.hash)
    assert f"these have changed: {named}" in said or f", {named}" in said or f"and {named}" in said
    with pytest.raises(Refused, match="approval-void"):
        next(rollout.run_rollout(mine, after, approve(mine, before)))
    assert "reminders-of-another" not in f"{said}{mine.journal.records}{after}" and "not-for-plans" not in str(
        after.covers
    )


def test_every_member_of_the_configuration_is_covered(quiet: Situation) -> None:
    """Role, layers, VPC, file systems and all else that a version takes over: another value is another plan."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    covered = plan.covers["configuration"]
    assert {"Role", "Handler", "Layers", "VpcConfig", "FileSystemConfigs", "KMSKeyArn", "LoggingConfig"} <= set(covered)
    for name in set(TAKEN_OVER) - set(RARE):
        other = replace(plan, covers={**plan.covers, "configuration": {**covered, name: "another"}})
        assert name in covered and other.hash != plan.hash and not plan.accepts(other.hash)
        assert {part for part, digits in other.fingerprints().items() if plan.fingerprints()[part] != digits} == {name}


ANOTHER_WAY = {
    "FunctionName",
    "Code",
    "Description",
    "Publish",
    "PublishTo",
    "Environment",
    "Tags",
    "CodeSigningConfigArn",
}
"""What of CreateFunction is no member of a version's configuration, is named otherwise, or is covered by itself."""


def test_everything_that_can_be_configured_is_covered(quiet: Situation) -> None:
    """As the SDK's own model of Lambda says: what AWS adds later fails here, and not in an approval."""
    model = quiet.client("lambda").meta.service_model
    configurable = set(model.shape_for("CreateFunctionRequest").members) - ANOTHER_WAY
    assert {name.replace("ImageConfig", "ImageConfigResponse") for name in configurable} == set(TAKEN_OVER)


@pytest.mark.parametrize("named", RARE)
def test_a_rare_member_counts_where_it_is_set(quiet: Situation, named: str) -> None:
    """A runtime of one's own, an accelerator: set after the approval, the approval is void and nothing is published."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    assert named not in plan.covers["configuration"]

    def configured(send: Any, service: str, operation: str, **given: Any) -> Any:
        reply = send(service, operation, **given)
        return reply | {named: {"Set": "x"}} if operation == "get_function_configuration" else reply

    intercept(mine, configured)
    said = must_be_void(mine, rollout.plan_rollout(mine, artifact), plan.hash)
    assert named in said
    with pytest.raises(Refused, match="latest-changed") as refused:
        drive(mine, plan, lambda _: None)
    assert named in refused.value.what and here.calls("PublishVersion") == []


def test_what_changed_is_named_by_another_run(quiet: Situation, monkeypatch: Any, tmp_path: Any) -> None:
    """The plan of a run before is in its journal; without that journal the refusal says what an ID covers."""
    here = quiet
    artifact = here.build("good")
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(tmp_path / "runs" / "2026-11-02T0000Z-canary-sandbox-aaaa"))
    first = rollout.plan_rollout(here.connect(), artifact)
    configure(here, MemorySize=1024)
    mine = here.connect(quiet=True)
    plan = rollout.plan_rollout(mine, artifact)
    monkeypatch.setattr(approvals.project, "project_root", lambda: tmp_path)
    assert must_be_void(mine, plan, first.hash).endswith("these have changed: MemorySize.")
    assert "configuration" in must_be_void(mine, plan, "p000000000000")


# For one use


def test_approval_is_for_one_use(quiet: Situation) -> None:
    """Deployed, then rolled back: the ID, the names alone and the approval itself approve nothing again."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    approval = given(mine, plan, plan.hash)
    abandon(mine, plan)
    mine = here.connect()
    back = rollback.plan_rollback(mine)
    rollback.run_rollback(mine, back, approve(mine, back))
    with pytest.raises(Refused, match="approval-void"):
        next(rollout.run_rollout(mine, plan, approval))
    again = rollout.plan_rollout(mine, artifact)
    assert again.hash != plan.hash
    with pytest.raises(Refused, match="approval-missing") as missing:
        given(mine, again)
    assert again.hash in missing.value.next
    said = must_be_void(mine, again, plan.hash)
    assert "for one deployment" in said and "v2 was rolled back by run" in said
    abandon(mine, again)


def test_approval_is_void_after_an_inconclusive_rollback(quiet: Situation) -> None:
    """A rollout that was rolled back without a verdict, too, has used its approval; a new one deploys it again."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    record = aliases_record(here, mine, stage="held")
    again = rollout.plan_rollout(mine, artifact)
    assert record and again.hash != plan.hash
    with pytest.raises(Refused, match="approval-void") as void:
        next(rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert "a deployment of" in void.value.what
    abandon(mine, again)


def aliases_record(here: Situation, mine: Target, stage: str) -> str:
    """A record of a rollout that has ended, on an alias that serves v1."""
    from buddy_ops.aws.aliases import RolloutState

    text = RolloutState("aaaa", "1", "2", stage=stage, since="2026-11-02T00:00:01Z").encode()
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description=text)
    return text


def test_interrupted_rollout_resumes_with_its_approval(quiet: Situation) -> None:
    """The run is lost at the first stage: the same ID resumes it, and so it does where the hours are over."""
    here = quiet
    artifact = here.build("good")
    for builds in range(2):
        mine = here.connect()
        plan = rollout.plan_rollout(mine, artifact)
        abandon(mine, plan)
        if not builds:
            # A record was there before: the resumed plan is the same one for all that.
            mine = here.connect()
            back = rollback.plan_rollback(mine)
            rollback.run_rollback(mine, back, approve(mine, back))
    here.ask("advance", seconds=5 * HOURS)
    mine = here.connect()
    resumed = rollout.plan_rollout(mine, artifact)
    assert resumed.resumes is not None and given(mine, resumed, plan.hash).plan_hash == resumed.hash


# For a time


@pytest.mark.parametrize(("hours", "passed", "valid"), sampled([(4, 1, True), (4, 3.9, True), (4, 4.1, False),
                                                        (4, 72, False), (48, 30, True), (48, 49, False)], slice(None, None, 2)))  # fmt: skip
def test_plan_id_expires(quiet: Situation, hours: float, passed: float, valid: bool) -> None:
    """An ID is accepted for as long as the rules say; then the refusal says that it has expired."""
    here = quiet
    artifact = here.build("good")
    values = here.connect().settings.model_dump(mode="json")
    values["policy"]["approval_hours"] = hours
    first = rollout.plan_rollout(here.connect(values=values), artifact)
    here.ask("advance", seconds=passed * HOURS)
    mine = here.connect(values=values)
    plan = rollout.plan_rollout(mine, artifact)
    if valid:
        assert given(mine, plan, first.hash).plan_hash == plan.hash
        return
    assert f"has expired: a plan ID is valid for {hours} h at most" in must_be_void(mine, plan, first.hash)


def test_approval_expires_before_its_deployment(quiet: Situation) -> None:
    """A notebook that was approved in the evening does not deploy in the morning."""
    here = quiet
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    approval = approve(mine, plan)
    here.ask("advance", seconds=8 * HOURS)
    with pytest.raises(Refused, match="approval-void") as void:
        next(rollout.run_rollout(mine, plan, approval))
    assert "has expired: it was given at 00:0" in void.value.what
    assert here.calls("UpdateFunctionCode", "UpdateAlias") == []


@pytest.mark.parametrize(("hours", "said"), [(5, "has expired: it was given at 00:0"), (-1, "is dated in the future")])
@pytest.mark.parametrize("kind", ["rollout", "clean up", "alarms"])
def test_an_approval_is_for_a_time_whatever_it_is_for(quiet: Situation, kind: str, hours: float, said: str) -> None:
    """A cell that is executed hours later, or after the clock was set back: nothing is written."""
    here = quiet
    for number in range(3):
        here.publish(here.build("good", f"3.0.{number}"))
    here.ask("advance", seconds=30 * HOURS)
    values = here.connect().settings.model_dump(mode="json")
    values["policy"] = {"keep_versions": 2}
    mine = here.connect(values=values)
    makes: dict[str, Any] = {
        "rollout": (lambda: rollout.plan_rollout(mine, here.build("good")), rollout.run_rollout),
        "clean up": (lambda: cleanup.plan_cleanup(mine, 2), cleanup.run_cleanup),
        "alarms": (lambda: alarms.plan_alarms(mine), alarms.write_alarms),
    }
    make, run = makes[kind]
    plan = make()
    assert plan.calls
    approval = replace(approve(mine, plan), at=mine.clock.now() - timedelta(hours=hours))
    with pytest.raises(Refused, match="approval-void") as void:
        next(iter(run(mine, plan, approval)))
    assert said.partition(" at ")[0] in void.value.what
    assert here.calls("UpdateAlias", "UpdateFunctionCode", "DeleteFunction", "PutMetricAlarm") == []
    again = make()
    run(mine, again, approve(mine, again))


# A version that exists already


def test_reverted_build_says_what_it_keeps(quiet: Situation) -> None:
    """An old version is used again with its old time-out and variables: the plan names each difference."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    abandon(mine, rollout.plan_rollout(mine, artifact))
    mine = here.connect()
    back = rollback.plan_rollback(mine)
    rollback.run_rollback(mine, back, approve(mine, back))
    assert not any("as it was published" in each for each in rollout.plan_rollout(mine, artifact).reasons)
    configure(here, Timeout=3, Environment={"Variables": {"TABLE": "new-table"}})
    plan = rollout.plan_rollout(mine, artifact)
    (told,) = [each for each in plan.reasons if "as it was published" in each]
    assert "v2 has this code already" in told and "Timeout" in told and "variable TABLE" in told
    assert "new-table" not in str(plan) and plan.change.known == "2"


@pytest.mark.parametrize("strategy", sampled(["canary", "all_at_once"], slice(1)))
def test_configuration_alone_can_be_deployed(quiet: Situation, strategy: str) -> None:
    """The build serves, and $LATEST has another time-out: the plan says so, and the way that it names deploys it."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    abandon(mine, rollout.plan_rollout(mine, artifact, "all_at_once"), weight=1.0)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="2", Description="",
                                       RoutingConfig={"AdditionalVersionWeights": {}})  # fmt: skip
    configure(here, Timeout=3)
    mine = here.connect()
    live = rollout.plan_rollout(mine, artifact, strategy)
    assert "is already live" in live.title and not live.calls
    assert any("Timeout" in each and "set new_configuration" in each for each in live.reasons)
    plan = rollout.plan_rollout(mine, artifact, strategy, new_configuration=True)
    assert plan.calls and plan.change.known == "" and plan.stable == "2"
    abandon(mine, plan)
    shown = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier="3")
    assert shown["Timeout"] == 3 and shown["CodeSha256"] == plan.change.sha256
    resumed = rollout.plan_rollout(here.connect(), artifact, strategy, new_configuration=True)
    assert resumed.resumes is not None and resumed.change.known == "3" and resumed.hash == plan.hash
