"""The account that the contract tests call: the sandbox in this process, AWS itself, or another emulator.

All that they make has a name that begins with ``PREFIX``, and ``sweep`` removes whatever has: what a test left, and what
a run left that was interrupted.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from lambda_serving import package

if TYPE_CHECKING:
    from buddy_sandbox.server import Sandbox

ACCOUNT_ID = os.environ.get("BUDDY_CONTRACT", "")
"""The AWS account to test, named by whoever starts the tests; empty: the sandbox in this process."""

PREFIX = "buddy-contract-"
PARAMETERS = "/buddy-contract"
WAIT_S = 180
"""How long a resource or a permission may take to settle. Source: IAM user guide, 'Changes are not always visible'."""

Answer = TypeVar("Answer")
ASSUMED_BY = ("lambda.amazonaws.com", "scheduler.amazonaws.com")


@dataclass
class Account:
    """One account and region.

    Attributes:
        sandbox: None: what answers is not in this process, and time passes by itself.
    """

    sandbox: "Sandbox | None" = None
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """A client without retries of its own, and without the SDK's checks of parameters."""
        if service not in self.clients:
            config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)  # type: ignore[call-arg]
            own: dict[str, Any] = {}
            if self.sandbox is not None:
                keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox"}
                own = {"endpoint_url": self.sandbox.endpoint, "region_name": "us-east-1", **keys}
            self.clients[service] = boto3.client(service, config=config, **own)
        return self.clients[service]

    @property
    def region(self) -> str:
        return str(self.client("sts").meta.region_name)

    @property
    def number(self) -> str:
        """The account's number."""
        return str(self.client("sts").get_caller_identity()["Account"])

    def now(self) -> float:
        """Seconds since the epoch, as the account's clock has it."""
        return time.time() if self.sandbox is None else self.sandbox.world.clock.now()

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        if self.sandbox is None:
            time.sleep(seconds)
        else:
            self.sandbox.world.clock.advance_to(self.now() + seconds)

    def wait(self, done: Callable[[], Answer], within_s: float = WAIT_S) -> Answer:
        """What ``done`` returns once it is true. Raises TimeoutError."""
        end = self.now() + within_s
        while not (answer := done()):
            if self.now() > end:
                raise TimeoutError(f"not within {within_s} s")
            self.pause(2)
        return answer

    def wait_out(self, call: Callable[..., Answer], said: str, **params: Any) -> Answer:
        """What a call answers once it is no longer refused with these words: a new role can be used some time later."""
        answers: list[Answer] = []

        def accepted() -> bool:
            try:
                answers.append(call(**params))
            except ClientError as error:
                if said not in error.response["Error"]["Message"]:
                    raise
            return bool(answers)

        self.wait(accepted)
        return answers[0]


@contextmanager
def opened(account_id: str = ACCOUNT_ID) -> Iterator[Account]:
    """The account to test, swept before and after. Raises RuntimeError if the credentials are another account's."""
    sandbox = None if account_id else start_sandbox()
    account = Account(sandbox)
    if account_id and account.number != account_id:
        raise RuntimeError(f"the credentials are of account {account.number}, and not of {account_id}")
    try:
        sweep(account)
        yield account
    finally:
        try:
            sweep(account)
        finally:
            if sandbox is not None:
                sandbox.close()


def start_sandbox() -> "Sandbox":
    """A sandbox in this process; its time stands still until a test lets it pass."""
    # A run that is pointed at an account needs none of it.
    from buddy_sandbox.server import Sandbox

    return Sandbox(start=time.time())


def make_role(account: Account) -> str:
    """A role for functions and schedules; its ARN."""
    iam = account.client("iam")
    name = f"{PREFIX}role"
    trust = {"Effect": "Allow", "Principal": {"Service": list(ASSUMED_BY)}, "Action": "sts:AssumeRole"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))
    # No function may write a log: a line that arrives after the sweep would bring its group back.
    allowed = {"Effect": "Allow", "Action": "lambda:UpdateAlias", "Resource": f"arn:*:lambda:*:*:function:{PREFIX}*"}
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    iam.put_role_policy(RoleName=name, PolicyName="contract", PolicyDocument=json.dumps(policy))
    return str(made["Role"]["Arn"])


def build(number: int) -> bytes:
    """A harmless build that answers with its number."""
    return package(f"def handler(event, context):\n    return {{'number': {number}}}\n")


def settled(account: Account, name: str) -> dict[str, Any]:
    """A function's configuration, once nothing is pending."""
    lam = account.client("lambda")

    def configuration() -> dict[str, Any]:
        found: dict[str, Any] = lam.get_function_configuration(FunctionName=name)
        is_settled = found["State"] == "Active" and found["LastUpdateStatus"] == "Successful"
        return found if is_settled else {}

    return account.wait(configuration)


def sweep(account: Account) -> list[str]:
    """Remove what the contract tests made, whichever run it was; what was removed.

    Raises:
        ExceptionGroup: something could not be removed. The rest was.
    """
    removed: list[str] = []
    failures: list[Exception] = []
    for kind, remove in KINDS.items():
        for name in list(_names(account, kind)):
            try:
                remove(account, name)
                removed.append(f"{kind} {name}")
            except (ClientError, TimeoutError) as error:
                failures.append(error)
    if failures:
        raise ExceptionGroup("left behind", failures)
    return removed


def left(account: Account) -> list[str]:
    """What the contract tests made and what is still there."""
    return [f"{kind} {name}" for kind in KINDS for name in _names(account, kind)]


def _names(account: Account, kind: str) -> Iterator[str]:
    service, operation, member, key = LISTED[kind]
    pages = account.client(service).get_paginator(operation)
    given = {"ssm": {"Path": PARAMETERS, "Recursive": True}}.get(service, {})
    for page in pages.paginate(**given):
        for each in page.get(member, ()):
            name = each if key is None else each[key]
            # A topic has an ARN only; the groups of functions have their names in them.
            if PREFIX in name or name.startswith(PARAMETERS):
                yield name


LISTED: dict[str, tuple[str, str, str, str | None]] = {
    "schedule": ("scheduler", "list_schedules", "Schedules", "Name"),
    "alarm": ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
    "function": ("lambda", "list_functions", "Functions", "FunctionName"),
    "log group": ("logs", "describe_log_groups", "logGroups", "logGroupName"),
    "parameter": ("ssm", "get_parameters_by_path", "Parameters", "Name"),
    "table": ("dynamodb", "list_tables", "TableNames", None),
    "topic": ("sns", "list_topics", "Topics", "TopicArn"),
    "bucket": ("s3", "list_buckets", "Buckets", "Name"),
    "role": ("iam", "list_roles", "Roles", "RoleName"),
}
"""How each kind is listed: service, operation, member of the reply, and the member that is the name."""


def _remove_table(account: Account, name: str) -> None:
    ddb = account.client("dynamodb")
    # One that is being made or removed cannot be removed.
    account.wait(lambda: ddb.describe_table(TableName=name)["Table"]["TableStatus"] != "CREATING")
    with suppress(ddb.exceptions.ResourceInUseException):
        ddb.delete_table(TableName=name)
    account.wait(lambda: name not in ddb.list_tables()["TableNames"])


def _remove_bucket(account: Account, name: str) -> None:
    s3 = account.client("s3")
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=name):
        for version in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
            key = {"Key": version["Key"], "VersionId": version["VersionId"]}
            s3.delete_object(Bucket=name, **key, BypassGovernanceRetention=True)
    s3.delete_bucket(Bucket=name)


def _remove_role(account: Account, name: str) -> None:
    iam = account.client("iam")
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


KINDS: dict[str, Callable[[Account, str], object]] = {
    "schedule": lambda account, name: account.client("scheduler").delete_schedule(Name=name),
    "alarm": lambda account, name: account.client("cloudwatch").delete_alarms(AlarmNames=[name]),
    "function": lambda account, name: account.client("lambda").delete_function(FunctionName=name),
    "log group": lambda account, name: account.client("logs").delete_log_group(logGroupName=name),
    "parameter": lambda account, name: account.client("ssm").delete_parameter(Name=name),
    "table": _remove_table,
    "topic": lambda account, name: account.client("sns").delete_topic(TopicArn=name),
    "bucket": _remove_bucket,
    "role": _remove_role,
}
"""How each kind is removed."""
