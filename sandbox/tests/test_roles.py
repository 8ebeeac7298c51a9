"""IAM as far as the sandbox has it: who may assume a role, what the role may do then, and what a schedule's role may."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from serving import refusal

from buddy_sandbox.server import Sandbox

ROLE = "arn:aws:iam::123456789012:role/tester"
OTHER = "222222222222"
OTHER_ROLE = f"arn:aws:iam::{OTHER}:role/tester"
MISSING = f"arn:aws:iam::{OTHER}:role/missing"


def document(principal: Any = None, **statement: Any) -> str:
    if principal is not None:
        statement |= {"Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


@pytest.fixture
def clients(sandbox: Sandbox) -> Any:
    """Makes clients, of no role or with a role's keys."""
    sandbox.front.do_reset()

    def make(service: str, credentials: dict[str, Any] | None = None) -> Any:
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        if credentials is not None:
            names = {"aws_access_key_id": "AccessKeyId", "aws_secret_access_key": "SecretAccessKey"}
            names["aws_session_token"] = "SessionToken"
            keys = {ours: credentials[theirs] for ours, theirs in names.items()}
        return boto3.client(service, endpoint_url=sandbox.world.endpoint, region_name="us-east-1", **keys)

    return make


@pytest.mark.parametrize(
    "principal", [None, {"Service": "ec2.amazonaws.com"}, {"AWS": "arn:aws:iam::999999999999:root"}]
)
def test_a_role_that_is_missing_or_trusts_others_is_not_assumed(clients: Any, principal: Any) -> None:
    """Both are AccessDenied. Source: STS API reference, AssumeRole."""
    if principal is not None:
        clients("iam").create_role(RoleName="tester", AssumeRolePolicyDocument=document(principal))
    code, message = refusal(clients("sts").assume_role, RoleArn=ROLE, RoleSessionName="me")
    assert code == "AccessDenied" and message.endswith(f"sts:AssumeRole on resource: {ROLE}")


def test_an_assumed_role_may_do_what_its_policies_allow(clients: Any) -> None:
    """Of our own services and of moto's, whatever their protocol; a condition on ssm:Overwrite holds."""
    iam = clients("iam")
    iam.create_role(RoleName="tester", AssumeRolePolicyDocument=document({"AWS": "123456789012"}))
    actions = ["lambda:List*", "ssm:PutParameter", "sns:ListTopics", "s3:GetObject"]
    condition = {"StringNotEquals": {"ssm:Overwrite": "true"}}
    policy = document(Action=actions, Resource="*", Condition=condition)
    iam.put_role_policy(RoleName="tester", PolicyName="p", PolicyDocument=policy)
    keys = clients("sts").assume_role(RoleArn=ROLE, RoleSessionName="me")["Credentials"]
    assert clients("sts", keys).get_caller_identity()["Arn"].endswith(":assumed-role/tester/me")
    assert clients("lambda", keys).list_functions()["Functions"] == []
    assert clients("sns", keys).list_topics()["Topics"] == []
    put = {"Name": "/a", "Value": "1", "Type": "String"}
    clients("ssm", keys).put_parameter(**put)
    clients("s3").create_bucket(Bucket="builds")
    denied = (
        (clients("lambda", keys).get_function, {"FunctionName": "x"}),
        (clients("sns", keys).create_topic, {"Name": "x"}),
        (clients("ssm", keys).put_parameter, {**put, "Overwrite": True}),
        (clients("cloudwatch", keys).describe_alarms, {}),
        (clients("s3", keys).put_object, {"Bucket": "builds", "Key": "k", "Body": b""}),
    )
    for call, fields in denied:
        assert refusal(call, **fields)[0] in ("AccessDenied", "AccessDeniedException"), call
    assert refusal(clients("s3", keys).get_object, Bucket="builds", Key="k")[0] == "NoSuchKey"


@pytest.fixture
def abroad(clients: Any) -> Any:
    """Makes clients of another account, and of a role in it that trusts the default account."""
    own = {"AccessKeyId": OTHER, "SecretAccessKey": "x", "SessionToken": None}
    iam = clients("iam", own)
    iam.create_role(RoleName="tester", AssumeRolePolicyDocument=document({"AWS": "arn:aws:iam::123456789012:root"}))
    iam.put_role_policy(RoleName="tester", PolicyName="p", PolicyDocument=document(Action="*", Resource="*"))
    return lambda service, keys=own: clients(service, keys)


def test_a_role_of_another_account_acts_there(clients: Any, abroad: Any) -> None:
    """Its keys are of its account, and last as long as AWS says; who has a role there may not assume another's."""
    keys = clients("sts").assume_role(RoleArn=OTHER_ROLE, RoleSessionName="me", DurationSeconds=900)["Credentials"]
    assert clients("sts", keys).get_caller_identity()["Account"] == OTHER
    clients("ssm", keys).put_parameter(Name="/theirs", Value="1", Type="String")
    assert abroad("ssm").get_parameter(Name="/theirs")["Parameter"]["Value"] == "1"
    assert refusal(clients("ssm").get_parameter, Name="/theirs")[0] == "ParameterNotFound"
    code, message = refusal(clients("sts", keys).assume_role, RoleArn=MISSING, RoleSessionName="me")
    me = f"arn:aws:sts::{OTHER}:assumed-role/tester/me"
    assert (code, message) == (
        "AccessDenied",
        f"User: {me} is not authorized to perform: sts:AssumeRole on resource: {MISSING}",
    )


@pytest.mark.parametrize(("service", "code"), [("ssm", "ExpiredTokenException"), ("sns", "ExpiredToken")])
def test_the_keys_of_a_role_expire(sandbox: Sandbox, clients: Any, abroad: Any, service: str, code: str) -> None:
    """In virtual time. Source: STS API reference, AssumeRole, DurationSeconds; 'Common errors', ExpiredToken."""
    keys = clients("sts").assume_role(RoleArn=OTHER_ROLE, RoleSessionName="me", DurationSeconds=900)["Credentials"]
    call = {"ssm": "describe_parameters", "sns": "list_topics"}[service]
    sandbox.front.do_advance(890)
    getattr(clients(service, keys), call)()
    sandbox.front.do_advance(20)
    assert refusal(getattr(clients(service, keys), call)) == (
        code,
        "The security token included in the request is expired",
    )


FUNCTION = f"arn:aws:lambda:us-east-1:{OTHER}:function:shop"
TOPIC = f"arn:aws:sns:us-east-1:{OTHER}:calls"
TABLE = f"arn:aws:dynamodb:us-east-1:{OTHER}:table/orders"


@pytest.mark.parametrize(("service", "operation", "fields", "code", "action"), [
    ("lambda", "get_alias", {"FunctionName": FUNCTION, "Name": "live"}, "AccessDeniedException", "lambda:GetAlias"),
    ("lambda", "invoke", {"FunctionName": FUNCTION}, "AccessDeniedException", "lambda:InvokeFunction"),
    ("lambda", "list_tags", {"Resource": FUNCTION}, "AccessDeniedException", "lambda:ListTags"),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "m"}, "AuthorizationError", "sns:Publish"),
    ("dynamodb", "get_item", {"TableName": TABLE, "Key": {"id": {"S": "1"}}}, "AccessDeniedException",
     "dynamodb:GetItem"),
])  # fmt: skip
def test_a_resource_of_another_account_is_not_reached_by_its_arn(
    clients: Any, abroad: Any, service: str, operation: str, fields: dict[str, Any], code: str, action: str
) -> None:
    """Nor one of the same name of one's own instead. Source: in ``roles.check_account``."""
    for owner in (abroad, clients):
        owner("sns").create_topic(Name="calls")
        owner("dynamodb").create_table(
            TableName="orders",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
    refused, message = refusal(getattr(clients(service), operation), **fields)
    arn = next(value for value in fields.values() if str(value).startswith("arn:"))
    me = "arn:aws:sts::123456789012:user/moto"
    reason = f"because no resource-based policy allows the {action} action"
    assert refused == code
    assert message == f"User: {me} is not authorized to perform: {action} on resource: {arn} {reason}"


@pytest.mark.parametrize(("trusted", "allowed", "fires"), [
    ("scheduler.amazonaws.com", "sns:Publish", True),
    ("scheduler.amazonaws.com", "sns:Subscribe", False),
    ("ec2.amazonaws.com", "sns:Publish", False),
])  # fmt: skip
def test_a_schedule_does_what_its_role_may(
    sandbox: Sandbox, clients: Any, trusted: str, allowed: str, fires: bool
) -> None:
    """A role that does not trust Scheduler, or may not make the call, shows only when the schedule runs."""
    iam = clients("iam")
    iam.create_role(RoleName="tester", AssumeRolePolicyDocument=document({"Service": trusted}))
    policy = document(Action=[allowed], Resource="*")
    iam.put_role_policy(RoleName="tester", PolicyName="p", PolicyDocument=policy)
    topic = clients("sns").create_topic(Name="t")["TopicArn"]
    queue = clients("sqs").create_queue(QueueName="q")["QueueUrl"]
    clients("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:q")
    at = datetime.fromtimestamp(sandbox.world.clock.now(), UTC) + timedelta(minutes=1)
    target = {"Arn": "arn:aws:scheduler:::aws-sdk:sns:publish", "RoleArn": ROLE}
    target["Input"] = json.dumps({"TopicArn": topic, "Message": "m"})
    clients("scheduler").create_schedule(
        Name="s", ScheduleExpression=f"at({at:%Y-%m-%dT%H:%M:%S})", FlexibleTimeWindow={"Mode": "OFF"}, Target=target
    )
    sandbox.front.do_advance(180)
    assert bool(clients("sqs").receive_message(QueueUrl=queue).get("Messages")) is fires
