"""An account in which everything is set up as docs/setup-aws.md says, for proofs of it."""

import json
from collections.abc import Callable
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.checks import proof
from buddy_ops.checks.findings import Finding
from buddy_ops.core.roles import Role
from buddy_ops.health import alarms
from tests.aws.template import Stack
from tests.conftest import Situation, approve

Bring = Callable[..., Situation]

ACCOUNT = "123456789012"
TOPIC = f"arn:aws:sns:us-east-1:{ACCOUNT}:buddy-ops-sandbox"
QUEUE = f"arn:aws:sqs:us-east-1:{ACCOUNT}:dead-letters"
ARCHIVE, BUILDS = "buddy-archive", "buddy-builds"
BUILD = f"s3://{BUILDS}/skill.zip"
ROLES: tuple[Role, ...] = ("reader", "auditor", "responder", "deployer")
RETENTION = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
CALM: dict[str, Any] = {"requests_per_minute": 30, "history_minutes": 5}


STACK = Stack(Environment="sandbox", FunctionName="buddy-alexa-skill-sandbox", BuildBucketName=BUILDS)


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trust(**principal: str) -> str:
    return document({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})


def allow(*actions: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": "*"}


def set_up(here: Situation) -> None:
    """The template, with a build bucket; two versions; alarms; people who listen."""
    sns, sqs, iam, s3 = (here.client(service) for service in ("sns", "sqs", "iam", "s3"))
    sns.create_topic(Name="buddy-ops-sandbox")
    sqs.create_queue(QueueName="pager")
    sqs.create_queue(QueueName="dead-letters")
    sns.subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=f"arn:aws:sqs:us-east-1:{ACCOUNT}:pager")
    watch_queue(here)
    for role in ROLES:
        name = f"buddy-ops-sandbox-{role}"
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(AWS=ACCOUNT))
        for policy, content in STACK.documents(role).items():
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(content))
    s3.create_bucket(Bucket=ARCHIVE, ObjectLockEnabledForBucket=True)
    s3.put_object_lock_configuration(Bucket=ARCHIVE, ObjectLockConfiguration=RETENTION)
    s3.create_bucket(Bucket=BUILDS)
    s3.put_bucket_versioning(Bucket=BUILDS, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=BUILDS, Key="skill.zip", Body=b"a build")
    here.publish(here.build("good"))
    mine = connect(here)
    plan = alarms.plan_alarms(mine)
    alarms.write_alarms(mine, plan, approve(mine, plan))
    # Until they are evaluated for the first time, alarms have no data.
    here.ask("advance", seconds=180)
    mine.close()


def delete_role(here: Situation, name: str = "buddy-ops-scheduler") -> None:
    """A role, and its policies first."""
    iam = here.client("iam")
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def watch_queue(here: Situation, **changes: Any) -> None:
    """The template's alarm on the dead-letter queue."""
    fields: dict[str, Any] = {
        "AlarmName": "buddy-ops-sandbox-lease-dead-letters",
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateNumberOfMessagesVisible",
        "Dimensions": [{"Name": "QueueName", "Value": "dead-letters"}],
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "AlarmActions": [TOPIC],
    }
    here.client("cloudwatch").put_metric_alarm(**fields | changes)


def connect(here: Situation, **changes: Any) -> Target:
    """A target whose settings name all of it; ``changes`` are fields of sections, or sections."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["lease"]["dead_letter_arn"] = QUEUE
    values["alarms"]["topic_arn"] = TOPIC
    values["notify"]["topic_arn"] = TOPIC
    values["archive"]["where"] = f"s3://{ARCHIVE}/runs"
    for part, fields in changes.items():
        values[part] = {**values[part], **fields} if isinstance(fields, dict) else fields
    return here.connect("prove", values=values)


def prove(mine: Target, build: str = BUILD) -> dict[str, Finding]:
    """Every finding by its name; the target is closed."""
    try:
        plan = proof.plan_proof(mine, build)
        return {each.check: each for each in proof.run_proof(mine, plan, approve(mine, plan))}
    finally:
        mine.close()


def left_behind(here: Situation) -> list[str]:
    """What a proof has created and not deleted, but for the two marks that no role may delete."""
    listed = here.client("lambda").list_aliases(FunctionName=here.function)["Aliases"]
    found = [each["Name"] for each in listed if each["Name"] != "live"]
    found += [each["Name"] for each in here.client("scheduler").list_schedules()["Schedules"]]
    named = here.client("cloudwatch").describe_alarms(AlarmNamePrefix="buddy-ops-sandbox-prove")["MetricAlarms"]
    found += [each["AlarmName"] for each in named]
    # Messages that a reader has taken are hidden for a while.
    here.ask("advance", seconds=60)
    url = here.client("sqs").get_queue_url(QueueName="dead-letters")["QueueUrl"]
    read = here.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return found + [each["Body"] for each in read.get("Messages", [])]
