"""What AWS would refuse is found before anyone approves, with its own cause; the advice of each refusal is carried out."""

import shlex
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from botocore import xform_name

from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.deployment import cleanup, feature_flags, rollback, rollout
from buddy_ops.deployment.rollout_plan import RolloutPlan
from tests.conftest import Situation, abandon, approve, intercept, sampled

Bring = Callable[..., Situation]
SAFETY = "ENABLE_ENHANCED_SAFETY"
OTHER = "arn:aws:iam::123456789012:role/another"


@pytest.fixture
def quiet(situation: Bring) -> Situation:
    return situation("good", history_minutes=0, requests_per_minute=0)


def ask(here: Situation, artifact: str, strategy: str = "canary", **options: Any) -> RolloutPlan:
    return rollout.plan_rollout(here.connect(**options), artifact, strategy)


STRATEGIES = ("canary", "blue_green", "all_at_once")


def must_refuse(here: Situation, reference: str, artifact: str, strategy: str = "canary") -> Refused:
    """The plan refuses, and nothing was written."""
    before = len(here.calls("UpdateFunctionCode", "PublishVersion", "CreateSchedule", "UpdateAlias"))
    with pytest.raises(Refused, match=reference) as refused:
        ask(here, artifact, strategy)
    assert len(here.calls("UpdateFunctionCode", "PublishVersion", "CreateSchedule", "UpdateAlias")) == before
    assert refused.value.now == "Nothing was changed."
    return refused.value


def published(mine: Target, plan: RolloutPlan) -> str:
    """Carry a plan out until its version gets traffic; its number."""
    abandon(mine, plan)
    mine.close()
    return str(
        mine.client("lambda").list_versions_by_function(FunctionName=mine.settings.function)["Versions"][-1]["Version"]
    )


# The role


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"blue_green"}))
def test_another_execution_role(quiet: Situation, strategy: str) -> None:
    """No alias is split across roles: the plan says so; both ways out that it names work."""
    here = quiet
    artifact = here.build("good")
    role = here.client("lambda").get_function_configuration(FunctionName=here.function)["Role"]
    here.ask("set", lambda_latest_role=OTHER)
    refused = must_refuse(here, "roles-differ", artifact, strategy)
    assert OTHER in refused.what and f"Set Role of {here.function} to {role}" in refused.next
    here.ask("set", lambda_latest_role=None)
    assert ask(here, artifact, strategy).calls
    here.ask("set", lambda_latest_role=OTHER)
    assert (
        "update-function-code --publish" in refused.next
        and "rollback/immediate with to_version=VERSION" in refused.next
    )
    number = here.publish(artifact)
    mine = here.connect()
    back = rollback.plan_rollback(mine, number)
    assert rollback.run_rollback(mine, back, approve(mine, back)).serving == number


def test_version_with_another_role(quiet: Situation) -> None:
    """A build that was published with another role is found, too."""
    here = quiet
    here.ask("set", lambda_latest_role=OTHER)
    artifact = here.build("good")
    here.publish(artifact)
    here.ask("set", lambda_latest_role=None)
    refused = must_refuse(here, "roles-differ", artifact)
    assert refused.what.startswith("v2 has another Role than v1")


# Sizes


def test_zip_that_is_too_large(quiet: Situation) -> None:
    """Over the limit of the call, or of what is unpacked: the plan says so; a smaller build is deployed."""
    here = quiet
    artifact = here.build("good")
    for limit in ("lambda_zip_limit", "lambda_unzipped_limit"):
        here.ask("set", **{limit: 100})
        refused = must_refuse(here, "artifact-too-large", artifact)
        assert "100 bytes" in refused.what and "smaller zip" in refused.next
        here.ask("set", **{limit: 250 * 1024**2})
        assert ask(here, artifact).calls


def test_full_code_storage(quiet: Situation) -> None:
    """The plan says it; deleting old versions with the runbook that it names makes room."""
    here = quiet
    for label in ("1.1.0", "1.2.0", "1.3.0"):
        here.publish(here.build("good", label))
    lam = here.client("lambda")
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="4")
    here.ask("advance", seconds=25 * 3600)
    used = lam.get_account_settings()["AccountUsage"]["TotalCodeSize"]
    here.ask("set", lambda_storage_limit=used + 10)
    artifact = here.build("good", "2.0.0")
    refused = must_refuse(here, "code-storage-full", artifact)
    assert "operations/clean_up_versions" in refused.next
    mine = here.connect(values={**project.read_settings("sandbox")[0], "policy": {"keep_versions": 1}})
    plan = cleanup.plan_cleanup(mine)
    cleanup.run_cleanup(mine, plan, approve(mine, plan))
    mine = here.connect()
    assert published(mine, rollout.plan_rollout(mine, artifact)) == "5"


def test_unreadable_limits_are_a_doubt(quiet: Situation) -> None:
    """A caller without lambda:GetAccountSettings gets the plan, with a warning."""
    here = quiet
    here.ask("chaos", kind="denied", operation="GetAccountSettings", times=3)
    plan = ask(here, here.build("good"))
    here.ask("chaos")
    assert any("code storage" in each and "unknown" in each for each in plan.reasons)


def test_refusals_of_aws_name_their_own_cause(quiet: Situation) -> None:
    """Where a limit shrinks after the plan, AWS's refusal is told with its cause; what it advises works."""
    here = quiet
    artifact = here.build("good")
    causes = {
        "lambda_zip_limit": ("artifact-too-large", 100, 50 * 1024**2),
        "lambda_unzipped_limit": ("artifact-too-large", 100, 250 * 1024**2),
        "lambda_storage_limit": ("code-storage-full", 100, 75 * 1024**3),
    }
    for name, (reference, small, usual) in causes.items():
        mine = here.connect()
        plan = rollout.plan_rollout(mine, artifact)
        here.ask("set", **{name: small})
        with pytest.raises(BuddyError, match=reference) as failed:
            published(mine, plan)
        assert "serves 100 % v1" in failed.value.now
        here.ask("set", **{name: usual})
        mine.close()
    mine = here.connect()
    assert published(mine, rollout.plan_rollout(mine, artifact)) == "2"


# States


def test_failed_function_is_told_as_such(quiet: Situation) -> None:
    """State Failed refuses in the plan; when the function is Active, the same works; rollbacks are not affected."""
    here = quiet
    artifact = here.build("good")
    here.ask("set", lambda_latest_state="Failed")
    refused = must_refuse(here, "function-failed", artifact)
    assert "is Failed: " in refused.what and "rollbacks work" in refused.next
    mine = here.connect()
    back = rollback.plan_rollback(mine, "1")
    assert rollback.run_rollback(mine, back, approve(mine, back)).serving == "1"
    here.ask("set", lambda_latest_state=None)
    assert ask(here, artifact).calls


@pytest.mark.parametrize(
    "condition", sampled([{"lambda_latest_state": "Pending"}, {"lambda_update_status": "InProgress"}], slice(1))
)
def test_busy_function_is_no_other_rollout(quiet: Situation, condition: dict[str, str]) -> None:
    """The plan warns, publishing waits, and what does not end is told as what it is; later the same works."""
    here = quiet
    artifact = here.build("good")
    here.ask("set", **condition)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    assert any("Publishing waits" in each for each in plan.reasons)
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = next(steps)
    assert "Waiting until AWS has created or updated the function" in seen.says
    with pytest.raises(BuddyError, match="function-busy") as busy:
        for seen in steps:
            mine.clock.sleep_until(seen.wake_at)
    assert "another" not in busy.value.what and "function-updated-v2" in busy.value.next
    here.ask("set", **dict.fromkeys(condition, None))
    mine.close()
    mine = here.connect()
    assert published(mine, rollout.plan_rollout(mine, artifact)) == "2"


def test_update_that_ends_is_waited_for(quiet: Situation) -> None:
    """Somebody's update of a minute ago is still being applied: the rollout begins after it."""
    here = quiet
    artifact = here.build("good")
    here.ask("set", lambda_update_s=120)
    here.client("lambda").update_function_configuration(FunctionName=here.function, Description="a note")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    assert published(mine, plan) == "2"


def test_failed_update_is_replaced(quiet: Situation) -> None:
    """The last update failed: the plan says so, and the upload is a new one."""
    here = quiet
    here.ask("set", lambda_update_status="Failed")
    artifact = here.build("good")
    plan = ask(here, artifact)
    assert any("the last update" in each and "failed" in each for each in plan.reasons)
    here.ask("set", lambda_update_status=None)
    mine = here.connect()
    assert published(mine, rollout.plan_rollout(mine, artifact)) == "2"


# Somebody else uploads


def test_code_of_another_pipeline_is_not_published(quiet: Situation) -> None:
    """Between our upload and our publish another pipeline uploads: nothing is published or shifted; again, it works."""
    here = quiet
    artifact = here.build("good")
    other = here.build("total_failure", "9.9.9")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact)
    replace_code(here, mine, other)
    with pytest.raises(Refused, match="latest-changed") as refused:
        published(mine, plan)
    assert "changed the code meanwhile" in refused.value.what
    assert "serves 100 % v1; this run shifted nothing" in refused.value.now
    assert here.calls("PublishVersion") == [] and here.alias()["FunctionVersion"] == "1"
    mine = here.connect()
    assert published(mine, rollout.plan_rollout(mine, artifact)) == "2"
    label = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier="2")["CodeSha256"]
    assert label == plan.change.sha256


def replace_code(here: Situation, mine: Target, other: str) -> None:
    """Another pipeline uploads as soon as ours has."""
    from pathlib import Path

    done: list[str] = []

    def interfering(send: Any, service: str, operation: str, **given: Any) -> Any:
        reply = send(service, operation, **given)
        if operation == "update_function_code" and not done:
            done.append(operation)
            here.ask("advance", seconds=10)
            here.client("lambda").update_function_code(FunctionName=here.function, ZipFile=Path(other).read_bytes())
        return reply

    intercept(mine, interfering)


@pytest.mark.parametrize(
    ("change", "named"),
    sampled([({"Timeout": 3}, "Timeout"), ({"MemorySize": 1024}, "MemorySize"),
     ({"Environment": {"Variables": {"TABLE": "reminders-of-another"}}}, "variable TABLE")], slice(2, 3)),
)  # fmt: skip
def test_configuration_that_changes_after_the_plan(quiet: Situation, change: dict[str, Any], named: str) -> None:
    """Somebody changes $LATEST after the approval: nothing is published; the next plan shows it."""
    here = quiet
    artifact = here.build("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, artifact, "all_at_once")
    here.client("lambda").update_function_configuration(FunctionName=here.function, **change)
    here.ask("advance", seconds=10)
    with pytest.raises(Refused, match="latest-changed") as refused:
        published(mine, plan)
    assert named in refused.value.what and here.calls("PublishVersion") == []
    mine = here.connect()
    again = rollout.plan_rollout(mine, artifact, "all_at_once")
    assert any("takes over" in each for each in again.reasons)
    assert published(mine, again) == "2"


# An alias on $LATEST


def run_command(here: Situation, command: str, **values: str) -> dict[str, Any]:
    """Run a line of the AWS command line with boto3."""
    for name, value in values.items():
        command = command.replace(name, value)
    aws, service, operation, *options = shlex.split(command)
    assert aws == "aws"
    client = here.client(service)
    method = xform_name(operation.replace("-", "_"))
    members = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[method]).input_shape.members
    given = {}
    for option, value in zip(options[::2], options[1::2], strict=True):
        (name,) = [each for each in members if xform_name(each) == option.removeprefix("--").replace("-", "_")]
        given[name] = value
    return dict(getattr(client, method)(**given))


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"canary"}))
def test_alias_on_latest_is_refused(quiet: Situation, strategy: str) -> None:
    """A canary would upload to everybody at once; the commands that the refusal names make the next deployment work."""
    here = quiet
    lam = here.client("lambda")
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="$LATEST")
    artifact = here.build("good")
    refused = must_refuse(here, "alias-on-latest", artifact, strategy)
    publish, point = [line.strip() for line in refused.next.splitlines() if line.strip().startswith("aws ")]
    number = run_command(here, publish)["Version"]
    run_command(here, point, NUMBER=number)
    assert here.alias()["FunctionVersion"] == number == "1"
    mine = here.connect()
    assert published(mine, rollout.plan_rollout(mine, artifact)) == "2"


# Variables that the caller may not decrypt

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def encrypt(here: Situation) -> None:
    """Variables of $LATEST and of a new version that serves, under a key that the caller may not use."""
    lam = here.client("lambda")
    lam.update_function_configuration(
        FunctionName=here.function, KMSKeyArn=KEY, Environment={"Variables": {"TABLE": "reminders", SAFETY: "true"}}
    )
    here.ask("advance", seconds=10)
    number = here.publish(here.build("good", "1.5.0"))
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion=number)
    here.ask("set", lambda_kms_denied=True)


@pytest.mark.parametrize("strategy", sampled(STRATEGIES, {"all_at_once"}))
def test_variables_that_cannot_be_decrypted(quiet: Situation, strategy: str) -> None:
    """A build takes the environment over as it is: the plan says what it could not see, and the version has it all."""
    here = quiet
    encrypt(here)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good", "2.0.0"), strategy)
    doubts = [each for each in plan.reasons if "does not show the environment variables" in each]
    assert len(doubts) == 1 and "unknown" in doubts[0] and "kms:Decrypt" in doubts[0]
    number = published(mine, plan)
    here.ask("set", lambda_kms_denied=False)
    assert here.calls("UpdateFunctionConfiguration")[1:] == []
    shown = here.client("lambda").get_function_configuration(FunctionName=here.function, Qualifier=number)
    assert shown["Environment"]["Variables"] == {"TABLE": "reminders", SAFETY: "true"}


def test_variables_of_the_serving_version_alone(quiet: Situation) -> None:
    """$LATEST has no key any more, the version that serves has: the comparison is a doubt."""
    here = quiet
    encrypt(here)
    here.client("lambda").update_function_configuration(FunctionName=here.function, KMSKeyArn="")
    here.ask("advance", seconds=10)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good", "2.0.0"))
    (doubt,) = [each for each in plan.reasons if "does not show the environment variables" in each]
    assert "v2" in doubt
    assert published(mine, plan) == "3"


def test_what_must_write_variables_still_refuses(quiet: Situation) -> None:
    """A flag, or a build that declares its schema, replaces the whole map: the others would be lost."""
    here = quiet
    encrypt(here)
    mine = here.connect()
    with pytest.raises(BuddyError, match="environment-unreadable") as refused:
        feature_flags.plan_flags(mine, {SAFETY: False})
    assert "kms:Decrypt" in refused.value.next
    build = here.build("good", "2.0.0")
    with zipfile.ZipFile(build, "a") as archive:
        archive.writestr("schema_range", "1-2")
    with pytest.raises(BuddyError, match="environment-unreadable") as refused:
        rollout.plan_rollout(mine, build)
    assert "schema_range" in refused.value.what
    here.ask("set", lambda_kms_denied=False)
    assert rollout.plan_rollout(mine, build).calls


def test_flags_of_versions_that_can_be_read(quiet: Situation) -> None:
    """One version's variables are hidden: the others are listed."""
    here = quiet
    encrypt(here)
    told = feature_flags.describe_flags(here.connect())
    assert "v2 serves: its flags are unknown" in told
