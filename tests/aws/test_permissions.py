"""What each role may do by infrastructure.yaml, as the library reads it, and what the runbooks really call."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import yaml

from buddy_ops.aws import aliases, freezes, isolation, permissions, session, signing, versions
from buddy_ops.aws._parameter_names import FORMER_ROOT
from buddy_ops.aws._parameter_names import ROOT as ROOT_OF_NAMES
from buddy_ops.checks import setup
from buddy_ops.checks import status as status_
from buddy_ops.core.fleet_file import FleetTarget
from buddy_ops.core.roles import Role
from buddy_ops.core.settings import Hook
from buddy_ops.deployment import announcements, reenabling, rollback, rollout
from buddy_ops.fleet import audit as fleet_audit_
from buddy_ops.fleet import rollback as fleet_rollback_
from buddy_ops.fleet import status as fleet_status_
from buddy_ops.fleet import target_states, wave_plan
from buddy_ops.fleet.targets import Member, Place
from buddy_ops.health import logs
from buddy_ops.migrations import steps as migration_steps
from buddy_ops.notebook import charts
from buddy_ops.runs import archive, stores, supervisor, verification
from tests.aws import recorded_calls
from tests.aws.iam.check import Variant
from tests.aws.recorded_calls import Call, Context, without_names
from tests.aws.template import ARCHIVE as BUCKET
from tests.aws.template import ROOT, Stack
from tests.checks import proving
from tests.checks.test_readiness import ready
from tests.conftest import Situation, abandon, approve, sampled
from tests.deployment.test_hooks import gate
from tests.incidents.corruption import NAME, corrupted, repair_hash
from tests.migrations.test_schema import shipped
from tests.resilience import harness
from tests.runs.test_archive import sealed

Bring = Callable[..., Situation]
Grants = set[tuple[str, str]]
"""Pairs of an action and the ARN (or pattern) that it may be done on."""

WHERE = {"partition": "aws", "account": "123456789012", "region": "us-east-1"}
FREE = {"sts:GetCallerIdentity"}
"""Needs no permission."""

LONG_NAMES = "arn:aws:scheduler:us-east-1:123456789012:schedule/default/buddy-ops-sandbox-????????-lease-*"

UNRECORDED = {
    # The doctor looks the caller's own role up, and the sandbox's caller has none.
    ("iam:GetRole", "arn:aws:iam::123456789012:role/buddy-ops-sandbox-*"),
    # Failsafes of functions with long names: a test below compares the names.
    *((f"scheduler:{name}Schedule", LONG_NAMES) for name in ("Create", "Get", "Update", "Delete")),
    # Earlier releases write there, until every machine is upgraded.
    *(
        ("ssm:PutParameter", f"arn:aws:ssm:us-east-1:123456789012:parameter/buddy/sandbox/{name}")
        for name in ("freeze/*", "isolation", "records/*")
    ),
}
"""What no run in the sandbox does."""

ALL = (ROOT_OF_NAMES, FORMER_ROOT)

BUILDS = "buddy-builds"

IMAGES = "arn:aws:ecr:us-east-1:123456789012:repository/shop"
OF_IMAGES = {("ecr:BatchGetImage", IMAGES), ("ecr:GetDownloadUrlForLayer", IMAGES)}
"""What the deployer may do with images. The sandbox has no registry."""

OF_BUILDS = {
    ("s3:GetObject", f"arn:aws:s3:::{BUILDS}/*"),
    ("s3:GetObjectVersion", f"arn:aws:s3:::{BUILDS}/*"),
    ("s3:ListBucket", f"arn:aws:s3:::{BUILDS}"),
}
"""What the deployer may do with builds in S3. `aws s3 cp` of the workflow 'run a runbook' needs it, too."""

HOOK = {"name": "gate", "function": "gate:live"}

BY_SERVICES = {
    (f"kms:{name}", "arn:aws:kms:us-east-1:123456789012:key/of-the-builds")
    for name in ("CreateGrant", "Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey*", "ReEncrypt*")
}
"""What Lambda, DynamoDB and S3 do on behalf of their caller. DynamoDB creates grants for a new table, a restored one too.
Source: KMS developer guide, How DynamoDB uses KMS."""

OTHERWISE_CALLED = {
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:HeadBucket": "s3:ListBucket",
    "s3:HeadObject": "s3:GetObject",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
}
SIGNING_KEY = "arn:aws:kms:us-east-1:123456789012:key/0f3b6c1e-2d4a-4c5b-9e8f-7a6b5c4d3e2f"
"""KMS gives each key an ID of its own: every key of a test counts as this one."""


BY_ITEM = {
    "dynamodb:TransactWriteItems": ("dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
    "dynamodb:BatchGetItem": ("dynamodb:BatchGetItem",),
}
"""A transaction is checked by what it does to each item; a migration only updates. Source: DynamoDB developer guide, IAM for transactions."""

RESTORE_WRITES = ("BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem")
"""What a restore does to its target as its caller. Source: DynamoDB developer guide, IAM for backup and restore."""


# The template


TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/buddy-reminders-sandbox"
FUNCTION = "buddy-alexa-skill-sandbox"

STACK = Stack(
    Environment="sandbox",
    FunctionName=FUNCTION,
    SigningKeyArn=SIGNING_KEY,
    BuildBucketName=BUILDS,
    TableArns=[TABLE],
    HookFunctionArns=["arn:aws:lambda:us-east-1:123456789012:function:gate:live"],
    ImageRepositoryArns=[IMAGES],
    KeyArns=["arn:aws:kms:us-east-1:123456789012:key/of-the-builds"],
)


def granted(role: Role | Literal["scheduler"]) -> Grants:
    """What a role of the template may do, through all its policies."""
    return {
        (action, resource)
        for each in STACK.statements(role)
        if each["Effect"] == "Allow"
        for action in as_list(each["Action"])
        for resource in as_list(each["Resource"])
    }


# What runs call


def action(call: str) -> str:
    """IAM's name for a boto3 call: 'lambda:get_alias' is lambda:GetAlias."""
    service, _, operation = call.partition(":")
    name = f"{service}:{''.join(word.capitalize() for word in operation.split('_'))}"
    return OTHERWISE_CALLED.get(name, name)


def resource(service: str, given: dict[str, Any]) -> str:
    """The ARN that IAM checks a call against; '*' where the service knows no narrower one."""
    at = ":".join((WHERE["region"], WHERE["account"]))
    if "FunctionName" in given:
        qualifier = f":{given['Qualifier']}" if "Qualifier" in given else ""
        return f"arn:aws:lambda:{at}:function:{given['FunctionName']}{qualifier}"
    if "GroupName" in given:
        return f"arn:aws:scheduler:{at}:schedule/{given['GroupName']}/{given['Name']}"
    if service == "ssm":
        return f"arn:aws:ssm:{at}:parameter{given.get('Path') or given['Name']}"
    if "ResourceArn" in given:
        return str(given["ResourceArn"])
    if "TableName" in given or "SourceTableName" in given:
        given = {"TableName": given.get("SourceTableName"), **given}
        return f"arn:aws:dynamodb:{at}:table/{given['TableName']}"
    if service == "lambda" and "Resource" in given:
        return str(given["Resource"])
    if "TopicArn" in given:
        return str(given["TopicArn"])
    if service == "dynamodb":
        return f"arn:aws:dynamodb:{at}:table/{given.get('TableName', '')}"
    if "Bucket" in given:
        return f"arn:aws:s3:::{given['Bucket']}"
    if "AlarmName" in given or "AlarmNames" in given:
        return f"arn:aws:cloudwatch:{at}:alarm:{given.get('AlarmName') or given['AlarmNames'][0]}"
    if service == "sqs":
        return f"arn:aws:sqs:{at}:{given.get('QueueName') or given['QueueUrl'].rpartition('/')[2]}"
    if "RoleName" in given:
        return f"arn:aws:iam::{WHERE['account']}:role/{given['RoleName']}"
    if service == "kms":
        return SIGNING_KEY
    return "*"


def made(records: list[dict[str, Any]]) -> set[Call]:
    """Each action of a journal with the resource that it was done on, and what conditions of policies ask about."""
    found: set[Call] = set()
    for record in records:
        if record["kind"] != "aws":
            continue
        service, given = record["call"].split(":")[0], record["parameters"]
        name = action(record["call"])
        if name.startswith("logs:") and name != "logs:DescribeLogGroups":
            # The results of a query are checked against the log group that was queried.
            found.add(Call(name, STACK.arn("logs", f"log-group:/aws/lambda/{FUNCTION}:*")))
        elif name in ("s3:GetObject", "s3:PutObject"):
            version = "Version" if given.get("VersionId") else ""
            found.add(Call(f"{name}{version}", f"arn:aws:s3:::{given['Bucket']}/*"))
        elif name == "iam:SimulatePrincipalPolicy":
            # The sandbox's caller is no role of ours; on AWS it asks about itself.
            found.add(Call(name, STACK.role("buddy-ops-sandbox-deployer")))
        elif name in BY_ITEM:
            # Which tables is not journaled, for their items' sake.
            repairs = records[0]["runbook"] == "data_corruption"
            found |= {Call(each, TABLE) for each in BY_ITEM[name] if repairs or each == "dynamodb:UpdateItem"}
        else:
            found.add(Call(name, resource(service, given), context(name, given)))
        if name == "dynamodb:RestoreTableToPointInTime":
            copy = resource(service, {"TableName": given["TargetTableName"]})
            found |= {Call(f"dynamodb:{each}", copy) for each in RESTORE_WRITES}
        if "RoleArn" in given.get("Target", {}):
            passed = (("iam:PassedToService", "scheduler.amazonaws.com"),)
            found.add(Call("iam:PassRole", given["Target"]["RoleArn"], passed))
    return {each for each in found if each.action not in FREE}


def context(name: str, given: dict[str, Any]) -> Context:
    """The condition keys that AWS derives from a call's parameters, as far as a policy of ours asks about them."""
    if name == "ssm:PutParameter":
        return (("ssm:Overwrite", str(given.get("Overwrite", False)).lower()),)
    if name == "kms:Sign":
        # The journal hides what has 'sign' in its name.
        return (("kms:MessageType", given["MessageType"]), ("kms:SigningAlgorithm", signing.ALGORITHM))
    return ()


def values(here: Situation, **changes: dict[str, Any]) -> dict[str, Any]:
    found = here.connect(quiet=True).settings.model_dump(mode="json")
    for part, fields in changes.items():
        found[part] |= fields
    return found


def notebook(here: Situation, name: str, **given: Any) -> list[dict[str, Any]]:
    """Run a notebook; its journal."""
    done = supervisor.run_notebook(name, {"environment": "sandbox", **given}, folder=here.folder / "runs" / name)
    return [json.loads(line) for line in (done.folder / "journal.jsonl").read_text("utf-8").splitlines()]


def shipping(here: Situation, artifact: str, **options: Any) -> list[dict[str, Any]]:
    """A canary as its notebook drives it, without a kernel."""
    with closing(here.connect(**options)) as mine:
        plan = rollout.plan_rollout(mine, artifact)
        outcome = rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
        logs.describe_cold_starts(mine, outcome.began, outcome.ended)
        return mine.journal.records


def canary(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """A good build through the notebook; a bad one, one with slow cold starts, a first one, an interrupted one and a
    proved lease without."""
    here = bring("good")
    yield notebook(here, "strategies/canary", artifact=here.build("good"), approved_by=["Ada"])
    here = bring("total_failure")
    yield shipping(here, here.build("total_failure"))
    here = bring("cold_starts", seed=1)
    yield shipping(here, here.build("slow_cold_starts"))
    here = bring("first_deployment")
    yield shipping(here, here.build("good", "1.0.0"))
    here = bring("good")
    artifact = here.build("good")
    with closing(here.connect()) as first:
        plan = rollout.plan_rollout(first, artifact)
        abandon(first, plan, stage="2")
    yield first.journal.records
    yield shipping(here, artifact)
    here = bring("good")
    yield shipping(here, here.build("good"), values=values(here, lease={"prove": True}))
    here = bring("good")
    harness.store(here, Path(here.build("good")).read_bytes())
    gate(here, 'def handler(event, context):\n    return {"decision": "go"}\n')
    yield shipping(here, harness.STORED, values={**values(here), "hooks": [HOOK]})


def all_at_once(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """A first deployment, which creates the alias."""
    here = bring("first_deployment", requests_per_minute=0)
    yield notebook(here, "strategies/all_at_once", artifact=here.build("good", "1.0.0"), approved_by=["Ada"])


def blue_green(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good")
    given = telling(here)
    given["policy"]["records"] = {"pre_deployment": 1}
    glass = {"who": "Ada", "why": "nobody has checked it"}
    more = {"settings": given, "break_glass": glass, "approved_by": ["Ada"]}
    yield notebook(here, "strategies/blue_green", artifact=here.build("good"), **more)


def immediate(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = shifted(bring)
    former = telling(here, "/buddy/sandbox/secrets/slack")
    yield notebook(here, "rollback/immediate", settings=former, approved_by=["Ada"])


def going_down(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """In steps of a lease's half: it is armed anew, and renewed. Slow requests are looked up."""
    here = shifted(bring, "cold_starts", "slow_cold_starts")
    given = {"settings": telling(here), "approved_by": ["Ada"]}
    yield notebook(here, "rollback/gradual", steps=[5], step_minutes=15, **given)


def watching(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    yield notebook(bring("good", history_minutes=10), "operations/monitor", minutes=10)


def auditing(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here, target = ready(bring)
    given = target.settings.model_dump(mode="json")
    yield notebook(here, "review/readiness_audit", settings=given, archive=str(here.folder / "archive"))


def telling(here: Situation, secret: str = f"/buddy-ops/{FUNCTION}/live/secrets/slack") -> dict[str, Any]:
    """Settings with both of the team's channels: the topic of the template, and a webhook in SSM that nobody answers."""
    topic = here.client("sns").create_topic(Name="buddy-ops-sandbox")["TopicArn"]
    here.client("ssm").put_parameter(Name=secret, Value="http://127.0.0.1:9/x", Type="SecureString", Overwrite=True)
    return values(here, notify={"topic_arn": topic, "slack_webhook": f"ssm:{secret}"})


def reviewing(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good", history_minutes=10)
    now = datetime.fromtimestamp(here.ask("status")["now"], UTC)
    window = {"since": (now - timedelta(minutes=10)).isoformat(), "until": now.isoformat()}
    yield notebook(here, "review/incident_review", archive=str(here.folder / "archive"), **window)


def failed(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """A failed deployment, rolled back."""
    here = shifted(bring)
    given = {"decision": "roll back", "approved_by": ["Ada"]}
    yield notebook(here, "emergency/deployment_failure", settings=telling(here), **given)


def rollback_command(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = shifted(bring)
    with closing(here.connect(values=telling(here))) as mine:
        plan = rollback.plan_rollback(mine)
        announcements.announce_rollback(mine, plan, rollback.run_rollback(mine, plan, approve(mine, plan)))
        yield mine.journal.records


def shifted(bring: Bring, name: str = "good", profile: str = "good") -> Situation:
    """A canary stands at 10 %."""
    here = bring(name)
    with closing(here.connect()) as first:
        plan = rollout.plan_rollout(first, here.build(profile))
        abandon(first, plan)
    return here


def looking(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """start_here where somebody ships, and where nothing was ever deployed."""
    yield notebook(shifted(bring), "start_here")
    with closing(bring("first_deployment").connect()) as mine:
        charts.recent_chart(mine, aliases.read_alias(mine))
        yield mine.journal.records


def status(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    for name in ("good", "first_deployment"):
        with closing(bring(name).connect()) as mine:
            status_.read_status(mine)
            yield mine.journal.records
    # A canary whose failsafe is read; and requests that a limit throttles.
    for here in (shifted(bring), bring("throttling", history_minutes=10)):
        here.client("lambda").put_function_concurrency(FunctionName=here.function, ReservedConcurrentExecutions=20)
        here.ask("advance", seconds=7 * 60)
        with closing(here.connect()) as mine:
            status_.read_status(mine)
            yield mine.journal.records


def fleet_of(here: Situation) -> Place:
    """The sandbox's function as a fleet of one target."""
    declared = FleetTarget(name="sandbox", environment="sandbox", region="us-east-1")
    settings = here.connect(quiet=True).settings
    return Place((Member(declared, settings),), session.connect_reader("sandbox", settings, "fleet"))


def fleet_status(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    place = fleet_of(bring("good", history_minutes=10))
    fleet_status_.read_fleet((place,))
    assert place.reader is not None
    # All parameters at once saves calls. Where that is refused, each target's own are read.
    yield [each for each in place.reader.journal.records if each.get("parameters", {}).get("Path") not in ALL]
    place.reader.close()


def fleet_audit(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    place = fleet_of(bring("good", history_minutes=10))
    fleet_audit_.audit_fleet((place,))
    assert place.reader is not None
    yield [each for each in place.reader.journal.records if each.get("parameters", {}).get("Path") not in ALL]
    place.reader.close()


def fleet_canary(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """The plan, a target's step, and what the fleet's own process reads of it."""
    here = bring("good", history_minutes=10)
    place = fleet_of(here)
    artifact = here.build("good")
    planned = wave_plan.plan_targets((place,), {"sandbox"}, {"sandbox": artifact}, {}, dry_run=False)["sandbox"]
    assert place.reader is not None and isinstance(planned, wave_plan.PlannedTarget)
    yield shipping(here, artifact)
    assert target_states.read_state(planned).word == "PROMOTED"
    yield place.reader.journal.records
    place.reader.close()


def fleet_rollback(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = shifted(bring)
    with closing(here.connect(values=telling(here))) as mine:
        declared = FleetTarget(name="sandbox", environment="sandbox", region="us-east-1")
        plan = fleet_rollback_.plan_rollbacks((Place((Member(declared, mine.settings),), mine),))
        done = fleet_rollback_.roll_back_fleet(mine, plan, approve(mine, plan))
        fleet_rollback_.announce_rollbacks(mine, done)
        (planned,) = plan.targets
        yield [*mine.journal.records, *planned.here.journal.records]


def reenabled(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good", requests_per_minute=0, history_minutes=0)
    for how in ("function", "writes"):
        isolation.isolate(here.connect(), how, NAME)
        with closing(here.connect()) as mine:
            plan = reenabling.plan_reenabling(mine)
            reenabling.run_reenabling(mine, plan, approve(mine, plan))
            yield mine.journal.records


def examined(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good")
    given = values(here, archive={"sign": {"key": signing_key(here)}}, policy={"proof_days": 90})
    with closing(here.connect(values=given)) as mine:
        list(setup.run_doctor(mine, "deployer"))
        yield mine.journal.records


def proved(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good", **proving.CALM)
    proving.set_up(here)
    mine = proving.connect(here)
    proving.prove(mine)
    yield mine.journal.records


def freezing(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    with closing(bring("good").connect()) as mine:
        standing = freezes.create_freeze(mine, "drill", "Ada", timedelta(hours=1))
        assert freezes.active_freezes(mine)
        assert freezes.remove_freeze(mine, standing.id)
        yield mine.journal.records


def alarming(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good")
    topic = here.client("sns").create_topic(Name="buddy-ops-sandbox")["TopicArn"]
    given = values(here, alarms={"topic_arn": topic})
    yield notebook(here, "operations/alarms", settings=given, approved_by=["Ada"], test_alarm="all")


def checking_before(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good", history_minutes=10)
    yield notebook(here, "operations/pre_deployment", artifact=here.build("good"))


def checking_after(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    yield notebook(bring("good", history_minutes=10), "operations/post_deployment")


def cleaning(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good", requests_per_minute=0, history_minutes=0)
    for label in ("2.0.0", "3.0.0"):
        code = Path(here.build("good", label)).read_bytes()
        here.client("lambda").update_function_code(FunctionName=here.function, ZipFile=code)
        here.ask("advance", seconds=3)
        here.client("lambda").publish_version(FunctionName=here.function)
    here.ask("advance", seconds=48 * 3600)
    yield notebook(here, "operations/clean_up_versions", keep=1, approved_by=["Ada"])


def flagging(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good")
    turn = {"ENABLE_ENHANCED_SAFETY": True}
    yield notebook(here, "operations/feature_flags", turn=turn, strategy="canary", approved_by=["Ada"])


def archived(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """A run goes to S3 and is signed, and its supervisor learns what it must not hold."""
    yield uploading(bring("good", requests_per_minute=0, history_minutes=0))


def uploading(here: Situation) -> list[dict[str, Any]]:
    here.client("s3").create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    root = Path(tempfile.mkdtemp(dir=here.folder))
    sealed(root, "run-0001")
    with closing(here.connect(quiet=True)) as mine:
        archive.upload_run(stores.S3Store(mine, f"s3://{BUCKET}"), root / "run-0001")
        signing.sign_digest(mine, signing_key(here), hashlib.sha256(b"a manifest").digest())
        assert mine.learn_secrets() == ""
        return mine.journal.records


def signing_key(here: Situation) -> str:
    made = here.client("kms").create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    return str(made["KeyMetadata"]["Arn"])


def archive_read(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """What ``buddy-ops runs`` asks S3, whoever put it there."""
    here = bring("good", requests_per_minute=0, history_minutes=0)
    uploading(here)
    with closing(session.connect("sandbox", "runs", quiet=True)) as mine:
        shelf = stores.S3Store(mine, f"s3://{BUCKET}")
        assert archive.list_entries(shelf) and verification.verify_archive(shelf).problems == ()
        mine.learn_secrets()
        assert not signing.verify_digest(mine, signing_key(here), hashlib.sha256(b"a manifest").digest(), b"")
        yield mine.journal.records


def corrupting(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """Stopped and not repaired, then repaired, through the notebook; then isolated by the table's policy."""
    here = bring("good", reminders=30, requests_per_minute=0, history_minutes=10)
    corrupted(here)
    yield notebook(here, "emergency/data_corruption", approved_by=["Ada"])
    seen = repair_hash(here)
    yield notebook(here, "emergency/data_corruption", approved_by=["Ada"], approved_plan=seen)
    with closing(here.connect()) as mine:
        isolation.isolate(mine, "writes", NAME)
        isolation.remove_isolation(mine)
        yield mine.journal.records


def migrating(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    """One step through the notebook, all others without a kernel."""
    here = bring("good", reminders=3, requests_per_minute=0, history_minutes=0)
    shipped(here, "1-2")
    yield notebook(here, "operations/migrate_database", step="expand", approved_by=["Ada"])
    with closing(here.connect()) as mine:
        for step in ("backfill", "verify", "contract", "rollback"):
            plan = migration_steps.plan_step(mine, "reminders_at_minutes", step)
            migration_steps.run_step(mine, plan, approve(mine, plan))
        yield mine.journal.records


def across_a_migration(bring: Bring) -> Iterator[list[dict[str, Any]]]:
    here = bring("good", reminders=3, requests_per_minute=0, history_minutes=0)
    shipped(here, "1", "1-2")
    with closing(here.connect()) as mine:
        plan = migration_steps.plan_step(mine, "reminders_at_minutes", "expand")
        migration_steps.run_step(mine, plan, approve(mine, plan))
    yield notebook(here, "rollback/database_compatibility", migration="reminders_at_minutes", approved_by=["Ada"])


DRIVERS: dict[str, Callable[[Bring], Iterator[list[dict[str, Any]]]]] = {
    "start_here": looking,
    "status": status,
    "doctor": examined,
    "runs": archive_read,
    "archive": archived,
    "rollback/immediate": immediate,
    "rollback/gradual": going_down,
    "fleet/audit": fleet_audit,
    "fleet/canary": fleet_canary,
    "fleet/rollback": fleet_rollback,
    "fleet/status": fleet_status,
    "operations/monitor": watching,
    "review/readiness_audit": auditing,
    "review/incident_review": reviewing,
    "emergency/deployment_failure": failed,
    "emergency/data_corruption": corrupting,
    "rollback": rollback_command,
    "freeze": freezing,
    "reenable": reenabled,
    "prove": proved,
    "strategies/all_at_once": all_at_once,
    "strategies/blue_green": blue_green,
    "strategies/canary": canary,
    "operations/alarms": alarming,
    "operations/pre_deployment": checking_before,
    "operations/post_deployment": checking_after,
    "operations/clean_up_versions": cleaning,
    "operations/feature_flags": flagging,
    "operations/migrate_database": migrating,
    "rollback/database_compatibility": across_a_migration,
}


DAILY = {"archive", "fleet/canary", "freeze", "reenable", "rollback/immediate"}
"""Those that ``make test`` drives: a rollout, rollbacks, with and without a kernel, and what writes elsewhere."""


# The comparisons


def test_every_runbook_has_roles_and_is_driven() -> None:
    """A notebook that is added must say who runs it, and be driven here: nothing escapes the comparison."""
    paths = (each.relative_to(ROOT / "notebooks") for each in ROOT.glob("notebooks/**/*.ipynb"))
    notebooks = {str(each.with_suffix("")) for each in paths if ".ipynb_checkpoints" not in each.parts}
    assert sorted(notebooks - set(permissions.RUNBOOKS)) == []
    assert set(DRIVERS) == set(permissions.RUNBOOKS)


@pytest.mark.parametrize("role", get_args(Role))
def test_the_template_grants_what_the_library_says(role: Role, situation: Bring) -> None:
    """Action by action and ARN by ARN, the library reads from infrastructure.yaml what stands there."""
    here = situation("first_deployment")
    settings = here.connect(
        quiet=True,
        values=values(
            here,
            archive={"where": f"s3://{BUCKET}", "sign": {"key": SIGNING_KEY}},
            lease={"dead_letter_arn": proving.QUEUE},
        ),
    ).settings
    settings = settings.model_copy(update={"hooks": (Hook.model_validate(HOOK),)})
    needed = permissions.required_actions(role, "sandbox", settings, WHERE)
    said = {(each, where) for where, actions in needed.items() for each in actions}
    assert granted(role) - OF_BUILDS - OF_IMAGES - BY_SERVICES == said


def test_each_role_may_do_what_was_recorded_and_nothing_else() -> None:
    """By ``recorded_calls.txt``: no call lacks its grant, on the very resource, and no grant goes without a call."""
    kept = recorded_calls.load()
    assert set(kept) == set(DRIVERS)
    compare({name: set(Variant("sandbox", STACK).calls(found)) for name, found in kept.items()})


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sampled(DRIVERS, DAILY))
def test_a_runbook_calls_nothing_but_what_was_recorded(situation: Bring, name: str) -> None:
    """A run's calls are in the file, and each role of the runbook may make them."""
    calls = set().union(*map(made, DRIVERS[name](situation)))
    for role in permissions.RUNBOOKS[name]:
        assert missing(role, calls) == []
    assert {without_names(each) for each in calls} - recorded_calls.load()[name] == set()


@pytest.mark.whole
@pytest.mark.timeout(900)  # it drives every runbook
def test_each_role_may_do_what_its_runbooks_do_and_nothing_else(situation: Bring) -> None:
    """Recorded from runs: no call lacks its grant, on the very resource, and no grant goes without a call."""
    calls = {name: set().union(*map(made, drive(situation))) for name, drive in DRIVERS.items()}
    compare(calls)
    # What another engine evaluates is what was recorded.
    fresh = {name: {without_names(each) for each in found} for name, found in calls.items()}
    kept = recorded_calls.load()
    written = ROOT / "build" / recorded_calls.FILE.name
    written.parent.mkdir(exist_ok=True)
    written.write_text(recorded_calls.dump(fresh), "utf-8")
    missing_in_file = {
        name: fresh[name] - kept.get(name, set()) for name in fresh if fresh[name] - kept.get(name, set())
    }
    assert not missing_in_file, f"copy {written} to tests/aws/"
    assert {each.action for found in kept.values() for each in found} == {
        each.action for found in fresh.values() for each in found
    }


def compare(calls: dict[str, set[Call]]) -> None:
    """Each role's grants with what its runbooks call."""
    for role in get_args(Role):
        runbooks = [name for name, roles in permissions.RUNBOOKS.items() if role in roles]
        recorded = set().union(*(calls[name] for name in runbooks))
        assert missing(role, recorded) == []
        pairs = {(each.action, each.resource) for each in recorded}
        unused = {grant for grant in granted(role) if not any(allows(grant, each) for each in pairs)}
        assert sorted(unused - UNRECORDED - OF_IMAGES - BY_SERVICES) == []
        compared = len({name for name, _ in pairs})
        print(f"{role}: {compared} actions, {len(pairs)} with their resources, from {len(runbooks)} runbooks")


def missing(role: Role, calls: set[Call]) -> list[tuple[str, str]]:
    """The calls that no grant of a role allows, in their order."""
    grants = granted(role)
    pairs = {(each.action, each.resource) for each in calls}
    return sorted(each for each in pairs if not any(allows(grant, each) for grant in grants))


def allows(grant: tuple[str, str], call: tuple[str, str]) -> bool:
    return grant[0] == call[0] and fnmatchcase(call[1], grant[1])


@pytest.mark.parametrize("role", ["reader", "auditor", "responder"])
def test_only_the_deployer_brings_code_in(role: Role) -> None:
    """Neither a reader, an auditor nor a responder may change code, publish or create an alias."""
    assert {name for name, _ in granted(role)}.isdisjoint(
        {"lambda:UpdateFunctionCode", "lambda:PublishVersion", "lambda:CreateAlias"}
    )


def test_a_reader_changes_nothing() -> None:
    """Whatever the reader's policy names begins with a word for looking."""
    looking = r"\w+:(Get|List|Describe|Simulate|StartQuery|Verify)"
    assert all(re.match(looking, name) for name, _ in granted("reader"))


def test_a_reader_sees_no_secret_and_misses_nothing(situation: Bring) -> None:
    """Lambda shows no variables to a caller who may not decrypt. Of all roles the reader may not, and needs none."""
    denied = {
        role: [each["Sid"] for each in STACK.statements(role) if each["Effect"] == "Deny"] for role in get_args(Role)
    }
    assert denied == {"reader": ["Variables"], "auditor": [], "responder": [], "deployer": []}
    (statement,) = STACK.documents("reader")["no-secrets"]["Statement"]
    assert (statement["Action"], statement["Resource"]) == ("kms:Decrypt", "*") and "Condition" not in statement

    here = situation("good", history_minutes=20)
    lam = here.client("lambda")
    lam.update_function_configuration(
        FunctionName=here.function, KMSKeyArn=SIGNING_KEY, Environment={"Variables": {"API_TOKEN": "not-for-readers"}}
    )
    here.ask("advance", seconds=10)
    number = here.publish(here.build("good", "1.5.0"))
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion=number)
    here.ask("advance", seconds=20 * 60)
    seen = []
    for hidden in (False, True):
        here.ask("set", lambda_kms_denied=hidden)
        with closing(here.connect()) as mine:
            seen.append([str(status_.read_status(mine)), *map(str, setup.run_doctor(mine, "reader"))])
            assert (versions.read_version(mine, number).shown_variables is None) == hidden
    assert seen[0] == seen[1]


def test_an_auditor_changes_nothing_but_the_archive() -> None:
    """Besides looking it sends smoke tests, writes down what it saw, and signs that."""
    own = {name for name, _ in granted("auditor") - granted("reader")}
    assert {name for name in own if not re.match(r"\w+:(Get|List|Describe)", name)} == {
        "kms:Sign", "lambda:InvokeFunction", "s3:PutObject",
    }  # fmt: skip


def test_nobody_deletes_the_function_itself() -> None:
    """Deleting is granted on versions only; on everything only CloudWatch's and Logs' reads, and names of schedules."""
    for role in get_args(Role):
        assert {where for name, where in granted(role) if name == "lambda:DeleteFunction"} <= {
            "arn:aws:lambda:us-east-1:123456789012:function:buddy-alexa-skill-sandbox:*"
        }
        everywhere = {name for name, where in granted(role) if where == "*"}
        others = everywhere - {"scheduler:ListSchedules", "lambda:GetAccountSettings"}
        assert {name.split(":")[0] for name in others} <= {"cloudwatch", "logs"}


def test_the_scheduler_moves_the_alias_and_nothing_else(situation: Bring) -> None:
    """What a lease calls is what the scheduler's role may; only Scheduler, from this account, may be it."""
    from buddy_ops.aws import failsafe

    assert {name for name, _ in granted("scheduler")} == {"lambda:UpdateAlias", "sqs:SendMessage"}
    assert failsafe.UPDATE_ALIAS.endswith("lambda:updateAlias")
    (trust,) = STACK.resources["SchedulerRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": WHERE["account"]}}


def test_ci_is_deployer_or_responder_for_as_long_as_it_asks() -> None:
    """The subject of 'run a runbook' may assume these two roles and no other, and each lets it stay to the end."""
    job = yaml.safe_load((ROOT / ".github/workflows/runbook.yml").read_text("utf-8"))["jobs"]["run"]
    (asked,) = (step["with"]["role-duration-seconds"] for step in job["steps"] if "role-to-assume" in str(step))
    resources = Stack(CiSubject="repo:OWNER/NAME:environment:prod").resources
    roles = {name: each["Properties"] for name, each in resources.items() if each["Type"] == "AWS::IAM::Role"}
    trusting = {name for name, each in roles.items() if "environment:prod" in str(each["AssumeRolePolicyDocument"])}
    assert trusting == {"DeployerRole", "ResponderRole"}
    assert {roles[name]["MaxSessionDuration"] for name in trusting} == {asked}


def test_pass_role_is_for_the_scheduler_alone() -> None:
    """The scheduler's role may be handed to the scheduler, and to no other service."""
    for role in ("responder", "deployer"):
        (passing,) = (each for each in STACK.statements(role) if each["Action"] == "iam:PassRole")
        assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}}


def test_the_archive_is_locked_versioned_encrypted_and_private() -> None:
    """An archived run can be neither rewritten nor read by the public, survives the stack, and who reads it is logged."""
    bucket = STACK.resources["Archive"]
    properties = bucket["Properties"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert properties["ObjectLockEnabled"] is True and properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert all(properties["PublicAccessBlockConfiguration"].values())
    assert properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert properties["LoggingConfiguration"]["DestinationBucketName"] == "buddy-access-logs"


def test_a_lease_that_cannot_act_is_heard_of() -> None:
    """Messages in the dead-letter queue and Scheduler's failed calls both reach the topic."""
    alarms = [each["Properties"] for each in STACK.resources.values() if each["Type"] == "AWS::CloudWatch::Alarm"]
    assert {each["MetricName"] for each in alarms} == {"ApproximateNumberOfMessagesVisible", "TargetErrorCount"}
    assert all(each["AlarmActions"] == [STACK.arn("sns", "buddy-ops-sandbox")] for each in alarms)


def test_notifications_are_encrypted_and_alarms_may_encrypt_them() -> None:
    """Alarms cannot use AWS's managed key of SNS. The queue has SQS's own keys: with them the scheduler needs none."""
    resources = STACK.resources
    assert resources["Topic"]["Properties"]["KmsMasterKeyId"] == STACK.arn("kms", "key/of-the-topic")
    assert resources["DeadLetterQueue"]["Properties"]["SqsManagedSseEnabled"] is True
    key = resources["TopicKey"]["Properties"]
    using = {
        str(principal): as_list(each["Action"])
        for each in key["KeyPolicy"]["Statement"]
        for principal in each["Principal"].values()
    }
    publishers = [STACK.role(f"buddy-ops-sandbox-{role}") for role in ("responder", "deployer")]
    encrypting = ["kms:Decrypt", "kms:GenerateDataKey*"]
    assert using["cloudwatch.amazonaws.com"] == using[str(publishers)] == encrypting
    telling = {
        role for role in get_args(Role) if ("sns:Publish", STACK.arn("sns", "buddy-ops-sandbox")) in granted(role)
    }
    assert telling == {"responder", "deployer"}
    assert key["EnableKeyRotation"] is True


@pytest.mark.parametrize("role", get_args(Role))
def test_no_role_may_overwrite_a_freeze_or_a_result(role: Role) -> None:
    """Each grant of PutParameter that reaches them has the condition, and none of DeleteParameter reaches a result."""
    here = "parameter/buddy-ops/buddy-alexa-skill-sandbox/live"
    freeze, result = (STACK.arn("ssm", f"{here}/{name}") for name in ("freeze/x", "records/x/y/z"))
    found = set()
    for statement in STACK.statements(role):
        reached = {
            name for name in (freeze, result) if any(fnmatchcase(name, each) for each in as_list(statement["Resource"]))
        }
        actions = as_list(statement["Action"])
        if reached and "ssm:PutParameter" in actions:
            assert statement["Condition"] == {"StringNotEquals": {"ssm:Overwrite": "true"}}, statement
            found |= reached
        assert result not in reached or "ssm:DeleteParameter" not in actions
    assert found == {"responder": {freeze, result}, "deployer": {result}}.get(role, set())


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_a_failsafe_of_every_name_may_be_written(situation: Bring) -> None:
    """A function's name may have 64 characters, an alias's more: AWS takes the schedule's name, and the roles' grants cover it."""
    from buddy_ops.aws import failsafe

    with closing(situation("first_deployment").connect(quiet=True)) as mine:
        names = set()
        for function in ("f" * length for length in (1, 30, 44, 45, 46, 49, 60, 64)):
            for alias in ("a", "live", "l" * 64, "l" * 128):
                mine.settings = mine.settings.model_copy(update={"function": function, "alias": alias})
                name = failsafe.schedule_name(mine)
                assert re.fullmatch(r"[0-9a-zA-Z_.-]{1,64}", name)
                names.add(name)
                patterns = (f"{function}-{alias}-lease-*", LONG_NAMES.rpartition("/")[2])
                assert sum(fnmatchcase(name, pattern) for pattern in patterns) == 1
        assert len(names) == 8 * 4
    for role in ("responder", "deployer"):
        creating = {where for name, where in granted(role) if name == "scheduler:CreateSchedule"}
        default = "arn:aws:scheduler:us-east-1:123456789012:schedule/default"
        assert creating == {f"{default}/buddy-alexa-skill-sandbox-live-lease-*", LONG_NAMES}


@pytest.mark.parametrize("role", get_args(Role))
def test_no_role_reaches_a_table_that_is_not_named(role: Role) -> None:
    """Another environment's table, and one whose name only begins like ours: neither is read nor written."""
    others = (
        "buddy-reminders-sandbox2",
        "buddy-user-sandbox-devices-prod",
        "buddy-reminders-sandbox-prod",
        "buddy-reminders-prod",
    )
    for action, where in granted(role):
        if action.startswith("dynamodb:"):
            assert not any(fnmatchcase(f"{TABLE.rpartition('/')[0]}/{name}", where) for name in others), (action, where)
    copies = {where for action, where in granted(role) if action.startswith("dynamodb:")} - {TABLE}
    assert copies <= {f"{TABLE}-20??????T??????"}


def test_the_workflow_may_read_its_build() -> None:
    """'run a runbook' fetches the build as the deployer, from the bucket of the template's parameter."""
    job = yaml.safe_load((ROOT / ".github/workflows/runbook.yml").read_text("utf-8"))["jobs"]["run"]
    assert sum("aws s3 cp" in step.get("run", "") for step in job["steps"]) == 1
    assert granted("deployer") >= OF_BUILDS | OF_IMAGES
    assert not any(granted(role) & (OF_BUILDS | OF_IMAGES) for role in ("reader", "auditor", "responder"))


def test_keys_decrypt_through_services_only() -> None:
    """Who may decrypt the function's variables does so through Lambda, DynamoDB or S3, never by KMS directly."""
    found = [
        each for role in ("responder", "deployer") for each in STACK.statements(role) if "kms:Decrypt" in each["Action"]
    ]
    assert len(found) == 2
    for statement in found:
        via = statement["Condition"]["StringEquals"]["kms:ViaService"]
        assert [service.partition(".")[0] for service in via] == ["dynamodb", "lambda", "s3"]
