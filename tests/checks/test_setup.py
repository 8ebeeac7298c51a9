"""The doctor: what it finds, what it says to do about it, and that it changes nothing."""

import fnmatch
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from buddy_ops.aws import checklist_store, failsafe, freezes, permissions
from buddy_ops.aws.session import Target
from buddy_ops.checks import setup
from buddy_ops.checks.findings import CheckContext, Finding
from buddy_ops.core import project
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.errors import AccessDenied
from buddy_ops.core.settings import validate_settings
from buddy_ops.deployment import rollout
from tests.checks.proving import delete_role
from tests.conftest import Situation, abandon, intercept

Bring = Callable[..., Situation]
LEASE_ROLE = "arn:aws:iam::123456789012:role/buddy-ops-scheduler"


def examine(here: Situation, role: permissions.Role = "deployer", **changes: Any) -> dict[str, Finding]:
    """Every finding by its name."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    for part, fields in changes.items():
        values[part] = {**values[part], **fields} if isinstance(fields, dict) else fields
    with closing(here.connect("doctor", quiet=True, values=values)) as mine:
        return {each.check: each for each in setup.run_doctor(mine, role)}


def make_role(here: Situation, service: str = "scheduler.amazonaws.com") -> None:
    """The scheduler's role, as infrastructure.yaml makes it."""
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]}
    iam = here.client("iam")
    for each in iam.list_roles()["Roles"]:
        delete_role(here, each["RoleName"])
    iam.create_role(
        RoleName="buddy-ops-scheduler", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", **trust})
    )


def answering(target: Target, granted: str = "*", **decisions: str) -> list[dict[str, Any]]:
    """IAM's simulator, which the sandbox lacks, at the door of the SDK; the questions that it was asked.

    Args:
        granted: the pattern of schedules that a policy allows; a name outside it is denied.
    """
    asked: list[dict[str, Any]] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        asked.append(dict(params))

    def answer(**_: Any) -> tuple[AWSResponse, dict[str, Any]]:
        (resource,) = asked[-1]["ResourceArns"]
        name = resource.partition(":schedule/")[2]
        usual = "allowed" if not name or fnmatch.fnmatch(name, granted) else "implicitDeny"
        results = [
            {"EvalActionName": each, "EvalDecision": decisions.get(each.split(":")[1], usual)}
            for each in asked[-1]["ActionNames"]
        ]
        # The first page of two: the simulator may answer in parts.
        more = len(results) > 1 and "Marker" not in asked[-1]
        page = results[:1] if more else results[1:] or results
        parsed = {"EvaluationResults": page, "IsTruncated": more, "Marker": "next", "ResponseMetadata": {}}
        return AWSResponse("", 200, {}, None), parsed

    target.session.register("provide-client-params.iam.SimulatePrincipalPolicy", note)
    target.session.register("before-call.iam.SimulatePrincipalPolicy", answer)
    return asked


def test_a_healthy_environment_has_no_problem(situation: Bring) -> None:
    """With role, queue, metrics and a live alias nothing is a problem or unknown; the sandbox has no IAM to ask."""
    here = situation("good")
    make_role(here)
    found = examine(here, lease={"dead_letter_arn": "arn:aws:sqs:us-east-1:123456789012:dead"})
    assert {each.check for each in found.values() if each.state == "problem"} == set()
    assert {each.check for each in found.values() if each.state == "unknown"} == set()
    assert found["permissions"].state == "info" and "sandbox" in found["permissions"].message
    assert {name for name, each in found.items() if each.state == "warning"} == {"alarms", "archive", "channels"}
    assert found["alias"].message == "100 % v1" and "user/" in found["credentials"].message


def test_it_never_writes(situation: Bring) -> None:
    """Whatever it calls begins with a word for looking."""
    here = situation("good")
    with closing(here.connect()) as mine:
        list(setup.run_doctor(mine, "deployer"))
        calls = {each["call"].split(":")[1] for each in mine.journal.records if each["kind"] == "aws"}
    assert len(calls) >= 9
    assert {each.split("_")[0] for each in calls} <= {"get", "list", "describe", "filter", "simulate"}


def test_what_is_not_configured_is_a_finding_with_a_remedy(situation: Bring) -> None:
    """No failure metric, no dead-letter queue and no alarm are warnings; no lease role is a problem."""
    here = situation("good")
    delete_role(here)
    found = examine(here, failure_metrics=[])
    for name in ("failure metrics", "dead-letter queue", "alarms"):
        assert found[name].state == "warning" and found[name].remedy
    assert found["failsafe role"].state == "problem" and "infrastructure.yaml" in found["failsafe role"].remedy


def test_a_metric_that_nobody_publishes_is_told(situation: Bring) -> None:
    """A failure metric that is configured and was never seen would count nothing."""
    found = examine(situation("good"), failure_metrics=[{"namespace": "Buddy", "name": "Apologys"}])
    assert found["failure metrics"].state == "warning" and "Buddy/Apologys" in found["failure metrics"].message


def test_streams_have_data_and_one_counts_the_business(situation: Bring) -> None:
    """A counter that no version publishes compares nothing, with the alias's dimensions or with others."""
    here = situation("good")
    assert examine(here)["streams"].message == "errors, latency, reminders"
    missing = {"namespace": "Buddy", "name": "Orders"}
    dimensions = {"FunctionName": "{function}", "ExecutedVersion": "{version}", "Shop": "main"}
    other = {"namespace": "Buddy", "name": "RemindersSet", "dimensions": dimensions}
    for events in (missing, other):
        found = examine(here, streams=[{"name": "sales", "events": events, "worse": "less"}])["streams"]
        assert found.state == "warning" and f"sales (Buddy/{events['name']}" in found.message and found.remedy
    plain = examine(here, streams=[{"name": "errors", "events": "errors"}])["streams"]
    assert plain.state == "info" and "none counts your business" in plain.message and "docs/streams.md" in plain.remedy
    assert examine(here, streams=[])["streams"].state == "ok"


def test_a_role_that_trusts_another_service_is_a_problem(situation: Bring) -> None:
    """A lease whose role Scheduler cannot assume would fail when it is needed."""
    here = situation("good")
    make_role(here, "ec2.amazonaws.com")
    assert examine(here)["failsafe role"].state == "problem"


def test_a_function_that_does_not_exist_is_one_problem(situation: Bring) -> None:
    """What hangs on the function is unknown, not a problem of its own, and the rest is looked at all the same."""
    here = situation("good")
    make_role(here)
    found = examine(here, function="no-such-function")
    assert [name for name, each in found.items() if each.state == "problem"] == ["function"]
    assert found["alias"].state == "unknown" and found["freeze"].state == "ok"


def test_before_the_first_deployment_the_alias_is_to_come(situation: Bring) -> None:
    """No alias is what the first run finds: a warning that says so."""
    found = examine(situation("first_deployment"))
    assert found["alias"].state == "warning" and "creates it" in found["alias"].remedy


def test_weights_are_told_by_whose_they_are(situation: Bring) -> None:
    """A rollout of ours that is under way is a warning; weights that nobody owns are a problem."""
    here = situation("good")
    first = here.connect()
    plan = rollout.plan_rollout(first, here.build("good"))
    abandon(first, plan)
    first.close()
    found = examine(here)
    assert found["alias"].state == "warning" and first.run in found["alias"].message
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description="by hand")
    found = examine(here)
    assert found["alias"].state == "problem" and "rollback/immediate" in found["alias"].remedy
    assert found["record"].state == "ok" and "not ours" in found["record"].message


def test_a_lease_that_fired_is_told(situation: Bring) -> None:
    """A record that says under way, on an alias without weights, is what a dead run leaves."""
    here = situation("good")
    record = '{"v":1,"run":"7f3a","from":"1","to":"2","stage":"1","since":"2026-11-02T03:00:00Z"}'
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description=record)
    assert examine(here)["record"].state == "warning"


def test_a_freeze_is_told_and_a_slow_timeout(situation: Bring) -> None:
    """Who froze and until when; and a timeout that Alexa does not wait for."""
    from datetime import timedelta

    here = situation("good")
    with closing(here.connect()) as mine:
        freezes.create_freeze(mine, "audit", "Grace", timedelta(hours=1))
    here.client("lambda").update_function_configuration(FunctionName=here.function, Timeout=8)
    found = examine(here)
    assert found["freeze"].state == "warning" and "Grace" in found["freeze"].message
    assert found["timeout"].state == "warning"


@pytest.mark.parametrize("role", ["reader", "auditor", "responder", "deployer"])
def test_a_caller_that_may_do_everything_is_ok(situation: Bring, role: permissions.Role) -> None:
    """IAM is asked about each action on its own resource, as the role that the session stands for, every page."""
    here = situation("good")
    with closing(here.connect(quiet=True)) as mine:
        mine.__dict__["_caller"] = {"Account": "123456789012", "Arn": "arn:aws:sts::123456789012:assumed-role/ops/ada"}
        asked = answering(mine)
        found = {each.check: each for each in setup.run_doctor(mine, role)}
    assert found["permissions"].state == "ok"
    assert {each["PolicySourceArn"] for each in asked} == {"arn:aws:iam::123456789012:role/ops"}
    passing = [each["ResourceArns"] for each in asked if "iam:PassRole" in each["ActionNames"]]
    assert bool(passing) is (role in permissions.ACTING) and all(each == [LEASE_ROLE] for each in passing)


def test_what_the_caller_may_not_do_is_named(situation: Bring) -> None:
    """A missing permission is a problem that names action and resource."""
    here = situation("good")
    with closing(here.connect(quiet=True)) as mine:
        answering(mine, UpdateAlias="implicitDeny", PublishVersion="explicitDeny")
        found = {each.check: each for each in setup.run_doctor(mine, "deployer")}["permissions"]
    assert found.state == "problem"
    assert (
        "lambda:UpdateAlias on arn:aws:lambda:us-east-1" in found.message and "lambda:PublishVersion" in found.message
    )
    assert "GetAlias" not in found.message


LONG = "buddy-alexa-skill-for-production-in-germany-and-austria"


@pytest.mark.parametrize("role", ["responder", "deployer"])
def test_the_failsafes_own_name_is_asked_for(situation: Bring, role: permissions.Role) -> None:
    """IAM is asked about the very schedule that a run creates, in its group; a name outside the role's pattern fails."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    with closing(here.connect(quiet=True)) as mine:
        usual = f"default/{here.function}-live-*"
        asked = answering(mine, granted=usual)
        name = failsafe.schedule_name(mine)
        found = setup.check_permissions(CheckContext(mine, role), role)
        assert found.state == "ok" and f"the failsafe's schedule {name}" in found.message
        (resource,) = {each["ResourceArns"][0] for each in asked if "scheduler:CreateSchedule" in each["ActionNames"]}
        assert resource.endswith(f":schedule/default/{name}")
    with closing(here.connect(quiet=True)) as mine:
        mine.settings = mine.settings.model_copy(update={"function": LONG})
        answering(mine, granted=f"default/{LONG}-live-*")
        name = failsafe.schedule_name(mine)
        found = setup.check_permissions(CheckContext(mine, role), role)
        assert len(name) <= 64 and found.state == "problem"
        assert f"scheduler:CreateSchedule on arn:aws:scheduler:us-east-1:123456789012:schedule/default/{name}" in (
            found.message
        )
    # What infrastructure.yaml grants is enough, for any run.
    with closing(here.connect(quiet=True)) as mine:
        mine.settings = mine.settings.model_copy(update={"function": LONG})
        answering(mine, granted="default/buddy-ops-sandbox-*")
        assert setup.check_permissions(CheckContext(mine, role), role).state == "ok"


def refuse_simulation(mine: Target) -> None:
    """A caller who may not ask IAM."""

    def refused(send: Any, service: str, operation: str, **given: Any) -> Any:
        if operation == "simulate_principal_policy":
            raise AccessDenied(
                "access-denied", "AWS refused iam:simulate_principal_policy.", next="Ask.", code="denied"
            )
        return send(service, operation, **given)

    intercept(mine, refused)


def test_a_role_with_a_path_is_looked_up(situation: Bring) -> None:
    """Single sign-on's roles have a path, which a session's ARN does not tell: IAM is asked for it."""
    here = situation("good")
    here.client("iam").create_role(RoleName="sso", Path="/aws-reserved/", AssumeRolePolicyDocument="{}")
    with closing(here.connect(quiet=True)) as mine:
        mine.__dict__["_caller"] = {"Account": "123456789012", "Arn": "arn:aws:sts::123456789012:assumed-role/sso/ada"}
        asked = answering(mine)
        list(setup.run_doctor(mine, "reader"))
    assert {each["PolicySourceArn"] for each in asked} == {"arn:aws:iam::123456789012:role/aws-reserved/sso"}


def test_without_credentials_there_is_one_finding(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot sign in is told that, and nothing that follows from it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    from buddy_ops.aws import session

    found = list(setup.run_doctor(session.connect("dev", "doctor", quiet=True), "deployer"))
    assert [(each.check, each.state) for each in found] == [("parameters", "ok"), ("credentials", "problem")]


def test_the_command_ends_by_what_it_found(situation: Bring) -> None:
    """Exit code 1 with a problem or what is unknown, 0 with warnings only, 2 for an environment that does not exist; light to import."""
    here = situation("good")
    delete_role(here)
    code = (
        "import sys\n"
        "from buddy_ops.cli import main as cli\n"
        "try: cli.app(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit as end: print('exit', end.code)\n"
        "except cli.click.exceptions.Exit as end: print('exit', end.exit_code)\n"
        "print('heavy:', sorted({'pandas', 'matplotlib'} & set(sys.modules)))\n"
    )

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "buddy_ops.cli.main", "doctor", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"}
        )
        return done.returncode, done.stdout + done.stderr

    status, said = run()
    assert status == 1 and "failsafe role" in said and "1 PROBLEM" in said
    make_role(here)
    status, said = run("--role", "responder")
    assert status == 0 and "PROBLEM" not in said and "WARNING" in said
    here.ask("chaos", kind="denied", operation="DescribeAlarms", times=10_000)
    status, said = run("--role", "responder")
    here.ask("chaos")
    assert status == 1 and "PROBLEM" not in said and "UNKNOWN: alarms could not be checked" in said
    assert run("-e", "nowhere")[0] == 2 and run("--role", "king")[0] == 2
    light = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=False)
    assert "heavy: []" in light.stdout, light.stdout + light.stderr


def test_slack_and_the_archive_are_looked_for(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """None configured is a warning; configured and missing is a problem that names the place; nothing is decrypted."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    found = examine(here)
    assert (found["channels"].state, found["archive"].state) == ("warning", "warning")
    missing = {"archive": {"where": "s3://buddy-runs-nowhere"}}
    found = examine(here, notify={"slack_webhook": "env:BUDDY_SLACK"}, **missing)
    assert found["channels"].state == "problem" and "BUDDY_SLACK" in found["channels"].message
    assert found["archive"].state == "problem"
    in_ssm = {"slack_webhook": "ssm:/buddy/sandbox/secrets/slack"}
    assert examine(here, notify=in_ssm)["channels"].state == "problem"
    # That a reader may not read secrets is by design: nothing is unknown, and no doctor ends with 1 for it.
    assert examine(here, "reader", notify=in_ssm)["channels"].state == "info"
    here.client("ssm").put_parameter(Name="/buddy/sandbox/secrets/slack", Value="https://x", Type="SecureString")
    here.client("s3").create_bucket(Bucket="buddy-runs-locked", ObjectLockEnabledForBucket=True)
    here.client("s3").create_bucket(Bucket="buddy-runs-open")
    monkeypatch.setenv("BUDDY_SLACK", "https://y")
    found = examine(here, notify=in_ssm, archive={"where": "s3://buddy-runs-locked/prod"})
    assert (found["channels"].state, found["archive"].state) == ("ok", "ok") and "https" not in found[
        "channels"
    ].message
    found = examine(here, notify={"slack_webhook": "env:BUDDY_SLACK"}, archive={"where": "s3://buddy-runs-open"})
    assert (found["channels"].state, found["archive"].state) == ("ok", "warning")
    pages = {"slack_webhook": "env:BUDDY_SLACK", "channels": [{"name": "PagerDuty", "url": "env:BUDDY_PAGER"}]}
    missing_secret = examine(here, notify=pages)["channels"]
    assert missing_secret.state == "problem" and "BUDDY_PAGER with the address of PagerDuty" in missing_secret.message
    monkeypatch.setenv("BUDDY_PAGER", "pagerduty://z")
    assert examine(here, notify=pages)["channels"].message == "Slack, PagerDuty"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "apprise" else find(name))
    without_package = examine(here, notify=pages)["channels"]
    assert without_package.state == "problem" and "buddy-ops[notify]" in without_package.remedy


def test_the_key_that_signs_archived_runs_is_checked(situation: Bring) -> None:
    """None, a good one with its fingerprint, another fingerprint, another type, and one that is disabled."""
    here = situation("good", history_minutes=0)
    kms = here.client("kms")

    def made(spec: str) -> str:
        return str(kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"])

    def found(**sign: str) -> Finding:
        return examine(here, archive={"sign": sign or None})["signing key"]

    key = made("ECC_NIST_P256")
    sha256 = hashlib.sha256(kms.get_public_key(KeyId=key)["PublicKey"]).hexdigest()
    assert found().state == "ok" and "not signed" in found().message
    assert found(key=key).state == "ok" and sha256 in found(key=key, public_key_sha256=sha256).message
    other = found(key=key, public_key_sha256="0" * 64)
    assert other.state == "problem" and f"has the SHA-256 {sha256}" in other.message
    assert "RSA_2048 for SIGN_VERIFY: it cannot sign" in found(key=made("RSA_2048")).message
    kms.disable_key(KeyId=key.rpartition("/")[2])
    assert found(key=key).state == "problem" and "archive.sign.key" in found(key=key).remedy


def test_a_proof_is_demanded_where_the_rules_say_so(situation: Bring) -> None:
    """Never proved, proved, failed, too old and overwritten: each is told with the command; elsewhere none is asked for."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    assert examine(here)["proof"].state == "ok" and "not demanded" in examine(here)["proof"].message

    def stored(**item: Any) -> str:
        with closing(here.connect()) as mine:
            items = (ChecklistItem(**{"name": "routing", "state": "yes", "says": "1 s", **item}),)
            result = ChecklistResult("prove", here.function, mine.clock.now(), mine.run, mine.principal, items)
            return checklist_store.write_result(mine, result)

    def found() -> Finding:
        return examine(here, policy={"proof_days": 1})["proof"]

    assert found().state == "problem" and "never tested" in found().message
    assert "doctor --prove -e sandbox" in found().remedy
    stored()
    assert found().state == "ok" and found().message.startswith("tested 0 days ago")
    here.ask("advance", seconds=60)
    stored(state="no", says="60 s")
    assert found().state == "problem" and "failed: routing" in found().message
    here.ask("advance", seconds=60)
    name = stored()
    here.ask("advance", seconds=25 * 3600)
    assert found().state == "problem" and "1 day ago (policy.proof_days: 1)" in found().message
    stored()
    assert found().state == "ok"
    ssm = here.client("ssm")
    (newest,) = (
        each for each in ssm.get_parameters_by_path(Path="/buddy-ops/buddy-alexa-skill-sandbox/live/records/prove", Recursive=True)["Parameters"]
        if each["Name"] > name
    )  # fmt: skip
    ssm.put_parameter(Name=newest["Name"], Value=newest["Value"], Type="String", Overwrite=True)
    assert found().state == "problem" and "overwritten" in found().message


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_staging_and_prod_demand_a_proof_as_shipped(environment: str) -> None:
    """A failsafe is tested before each rollout, and the whole setup every 90 days."""
    settings = validate_settings(project.read_settings(environment)[0], environment)
    assert settings.lease.prove and settings.policy.proof_days == 90
