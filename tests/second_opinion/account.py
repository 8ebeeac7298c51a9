"""An account of an emulator, and an environment in it: stack, function, alias and table, as docs/setup-aws.md has them.

Only standard means lead a runbook there: AWS_ENDPOINT_URL and keys in the environment, and the machine's clock.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import boto3
import yaml

from buddy_ops.aws._client import Service
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.core.text import floor_minute
from buddy_ops.migrations import schema
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from tests.second_opinion.emulators import ACCOUNT, ROOT

REGION = "us-east-1"
ROOT_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""Of the account's owner. An emulator refuses the owner nothing."""

CHECKED_OTHERWISE = (
    ("lambda:ListAliases", "*"),  # for GetAlias
    ("ssm:GetParametersByPath", "*"),  # whatever the path
    ("logs:StartQuery", "*"),  # on the log group's ARN without ':*'
    ("logs:GetQueryResults", "*"),
    ("iam:SimulatePrincipalPolicy", "*"),  # whatever the role
)
"""What ministack demands of a role that AWS does not: no role of the template has it."""

BUDDY_OPS = Path(sys.executable).parent / "buddy-ops"
MEDICATIONS = ("aspirin", "insulin", "ramipril")

Done = subprocess.CompletedProcess[str]


def client(url: str, service: str) -> Any:
    """A boto3 client of an emulator."""
    return boto3.client(
        service, endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )


def deploy_template(url: str, environment: str) -> dict[str, str]:
    """Create the stack of infrastructure.yaml for an environment, as docs/setup-aws.md says; its outputs."""
    given = {
        "Environment": environment,
        "FunctionName": f"buddy-alexa-skill-{environment}",
        "TrustedPrincipals": f"arn:aws:iam::{ACCOUNT}:role/Engineers",
        "TableArns": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/buddy-reminders-{environment}",
        "SchedulerRoleName": f"scheduler-{environment}",
    }
    cloudformation = client(url, "cloudformation")
    name = f"buddy-ops-{environment}"
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=(ROOT / "infrastructure.yaml").read_text("utf-8"),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}


def said(done: Done) -> str:
    """What a command printed."""
    return done.stdout + done.stderr


def become_engineer(url: str) -> dict[str, str]:
    """Create the role of single sign-on that may assume the stack's roles, and assume it; its keys."""
    role = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    iam = client(url, "iam")
    arn = iam.create_role(RoleName="Engineers", AssumeRolePolicyDocument=trust(role))["Role"]["Arn"]
    allow(url, "Engineers", [("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/buddy-ops-*")])
    keys = client(url, "sts").assume_role(RoleArn=arn, RoleSessionName="ada")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }


def trust(principal: dict[str, str]) -> str:
    """A trust policy."""
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def allow(url: str, role: str, actions: Iterable[tuple[str, str]]) -> None:
    """Allow a role actions, each on its resource."""
    statements = [{"Effect": "Allow", "Action": action, "Resource": resource} for action, resource in actions]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    client(url, "iam").put_role_policy(RoleName=role, PolicyName="more", PolicyDocument=policy)


@dataclass
class Environment:
    """A function behind its alias, a table with reminders, and a project whose only environment this is.

    Attributes:
        project: a folder with parameters/ and the notebooks; runs are archived in it.
        keys: the caller's, as variables of the environment.
        outputs: those of its stack.
        role: whose role of the stack a command assumes; empty: none.
        tables_url: where DynamoDB is another emulator's; empty: it is not.
    """

    url: str
    name: str
    project: Path
    keys: dict[str, str]
    outputs: dict[str, str] = field(default_factory=dict)
    role: str = ""
    tables_url: str = ""

    @property
    def function(self) -> str:
        """The function's name."""
        return f"buddy-alexa-skill-{self.name}"

    @property
    def table(self) -> str:
        """The table's name."""
        return f"buddy-reminders-{self.name}"

    def client(self, service: str) -> Any:
        """A boto3 client of the emulator."""
        return client(self._endpoint(service), service)

    def _endpoint(self, service: str) -> str:
        return self.tables_url if service == "dynamodb" and self.tables_url else self.url

    def _endpoints(self) -> dict[str, str]:
        """The endpoints as variables of the environment; where they differ, each service has its own."""
        if not self.tables_url:
            return {"AWS_ENDPOINT_URL": self.url}
        return {f"AWS_ENDPOINT_URL_{service.upper()}": self._endpoint(service) for service in get_args(Service)}

    def write_settings(self, **changed: Any) -> None:
        """Write the environment's file: the sandbox's, for this environment, with short bakes."""
        document = yaml.safe_load((ROOT / "parameters" / "sandbox.yaml").read_text("utf-8"))
        settings = document["settings"]
        settings["function"] = self.function
        settings["aws"] = {"region": REGION}
        if self.role:
            settings["aws"]["assume_role"] = self.outputs[f"{self.role.title()}RoleArn"]
        # A running rollout polls at each full minute.
        settings["rollout"] |= {"stages_percent": [50, 100], "bake_minutes": 0.1, "watch_minutes": 2}
        # What the test puts is there at once.
        settings["health"] = {"late_data_s": 0, "history_minutes": 60}
        settings["tables"][0]["name"] = self.table
        if self.outputs:
            role, queue = self.outputs["SchedulerRoleArn"], self.outputs["DeadLetterArn"]
            settings["lease"] = {"role_arn": role, "dead_letter_arn": queue}
            settings["alarms"]["topic_arn"] = self.outputs["TopicArn"]
        folder = self.project / "parameters"
        folder.mkdir(exist_ok=True)
        document |= {"environment": self.name, "settings": settings | changed}
        (folder / f"{self.name}.yaml").write_text(yaml.safe_dump(document), "utf-8")

    def act_as(self, role: str) -> None:
        """Let the commands assume a role of the stack from now on, for example 'deployer'."""
        self.role = role
        allow(self.url, f"buddy-ops-{self.name}-{role}", CHECKED_OTHERWISE)
        self.write_settings()

    def run(self, *words: str, limit_s: float = 600) -> Done:
        """One command of ours, in the project."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return subprocess.run(
            [BUDDY_OPS, *words],
            cwd=self.project,
            env=environment | self.keys | self._endpoints() | {"AWS_EC2_METADATA_DISABLED": "true"},
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def runbook(self, name: str, **parameters: Any) -> Done:
        """``buddy-ops run`` with these parameters."""
        given = [word for key, value in parameters.items() for word in ("-p", f"{key}={as_typed(value)}")]
        return self.run("run", name, "-e", self.name, *given)

    def write_build(self) -> str:
        """A new build in the project; its path there."""
        (self.project / "build.zip").write_bytes(builds.build(PROFILES["good"], "3.0.0", "1-2"))
        return "build.zip"

    def alias(self) -> dict[str, Any]:
        """The alias as the emulator answers it."""
        return dict(self.client("lambda").get_alias(FunctionName=self.function, Name="live"))

    def versions(self) -> list[str]:
        """The numbers of the published versions."""
        found = self.client("lambda").list_versions_by_function(FunctionName=self.function)["Versions"]
        return [each["Version"] for each in found if each["Version"] != "$LATEST"]

    def freezes(self) -> list[str]:
        """The IDs of the environment's freezes."""
        found = self.client("ssm").get_parameters_by_path(
            Path=f"/buddy-ops/{self.function}/live/freeze", Recursive=True
        )
        return [each["Name"].rpartition("/")[2] for each in found["Parameters"]]

    def create_function(self) -> None:
        """The function, without a version."""
        lam = self.client("lambda")
        role = f"skill-{self.name}"
        by_lambda = trust({"Service": "lambda.amazonaws.com"})
        self.client("iam").create_role(RoleName=role, AssumeRolePolicyDocument=by_lambda)
        self.client("logs").create_log_group(logGroupName=f"/aws/lambda/{self.function}")
        lam.create_function(
            FunctionName=self.function,
            Runtime="python3.11",
            Role=f"arn:aws:iam::{ACCOUNT}:role/{role}",
            Handler="lambda_function.handler",
            Timeout=7,
            MemorySize=256,
            Code={"ZipFile": builds.build(PROFILES["good"], "0.0.0")},
            Environment={"Variables": {"REMINDERS_TABLE": self.table}},
        )
        lam.get_waiter("function_active_v2").wait(FunctionName=self.function, WaiterConfig={"Delay": 1})

    def publish(self, label: str, declared: str = "1") -> str:
        """One more version, which declares the schemas that it is compatible with; its number."""
        lam = self.client("lambda")
        updated = lam.get_waiter("function_updated_v2")
        code = builds.build(PROFILES["good"], label, declared)
        lam.update_function_code(FunctionName=self.function, ZipFile=code)
        updated.wait(FunctionName=self.function, WaiterConfig={"Delay": 1})
        variables = {"REMINDERS_TABLE": self.table, schema.VARIABLE: declared}
        lam.update_function_configuration(FunctionName=self.function, Environment={"Variables": variables})
        updated.wait(FunctionName=self.function, WaiterConfig={"Delay": 1})
        return str(lam.publish_version(FunctionName=self.function)["Version"])

    def serve(self, version: str, before: str) -> None:
        """The alias serves a version that a rollout brought there, after the one before it."""
        since = datetime.now(UTC) - timedelta(days=2)
        record = RolloutState("0000", before, version, "proved", f"{since:%Y-%m-%dT%H:%M:%SZ}")
        given = {"FunctionName": self.function, "Name": "live", "FunctionVersion": version}
        self.client("lambda").create_alias(**given, Description=record.encode())

    def create_table(self, reminders: int = 30) -> None:
        """The table, with reminders of schema 1 that version 1 wrote."""
        dynamodb = self.client("dynamodb")
        dynamodb.create_table(
            TableName=self.table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[
                {"AttributeName": "user_id", "KeyType": "HASH"},
                {"AttributeName": "reminder_id", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "user_id", "AttributeType": "S"},
                {"AttributeName": "reminder_id", "AttributeType": "S"},
            ],
        )
        dynamodb.get_waiter("table_exists").wait(TableName=self.table, WaiterConfig={"Delay": 1})
        for number in range(reminders):
            dynamodb.put_item(TableName=self.table, Item=reminder(number))

    def items(self) -> dict[str, dict[str, Any]]:
        """Every reminder, by its id."""
        pages = self.client("dynamodb").get_paginator("scan").paginate(TableName=self.table)
        found = [item for page in pages for item in page["Items"]]
        return {each["reminder_id"]["S"]: each for each in found if each["user_id"] != {"S": schema.KEY}}

    def feed_metrics(self, error_rates: dict[str, float], *, weight: float = 0.5, requests: int = 6000) -> None:
        """Put the metrics that Lambda and the skill would publish: an hour of history, and the next half hour.

        No emulator publishes them per version. ministack answers TC(6000:) with the average: a duration of 0.1 ms
        makes that no slow request. In each minute the last of ``error_rates``, by version, serves the share
        ``weight`` of the requests, the first one the rest.
        """
        stable, *new = error_rates
        shares = {stable: 1.0 - weight * bool(new)} | dict.fromkeys(new, weight)
        now = floor_minute(datetime.now(UTC))
        data: list[dict[str, Any]] = []
        skill: list[dict[str, Any]] = []
        for at in (now + timedelta(minutes=minute) for minute in range(-60, 30)):
            whole = [{"Name": "FunctionName", "Value": self.function}]
            alias = [*whole, {"Name": "Resource", "Value": f"{self.function}:live"}]
            failed = {version: round(requests * shares[version] * rate) for version, rate in error_rates.items()}
            data += lambda_metrics(whole, at, requests, sum(failed.values()))
            data += lambda_metrics(alias, at, requests, sum(failed.values()))
            skill.append(metric("Apologies", alias, at, [0.0], [requests - sum(failed.values())]))
            for version, share in shares.items():
                mine = [*alias, {"Name": "ExecutedVersion", "Value": version}]
                number = round(requests * share)
                data += lambda_metrics(mine, at, number, failed[version])
                skill.append(metric("Apologies", mine, at, [0.0], [number - failed[version]]))
        cloudwatch = self.client("cloudwatch")
        for namespace, points in (("AWS/Lambda", data), ("Buddy", skill)):
            for begin in range(0, len(points), 500):
                cloudwatch.put_metric_data(Namespace=namespace, MetricData=points[begin : begin + 500])


def lambda_metrics(dimensions: list[dict[str, str]], at: datetime, requests: int, failed: int) -> list[dict[str, Any]]:
    """One minute of Lambda's own metrics."""
    return [
        metric("Invocations", dimensions, at, [1.0], [requests]),
        metric("Errors", dimensions, at, [0.0, 1.0], [requests - failed, failed]),
        metric("Duration", dimensions, at, [0.1], [requests]),
    ]


def metric(
    name: str, dimensions: list[dict[str, str]], at: datetime, values: list[float], counts: list[int]
) -> dict[str, Any]:
    """One datapoint of PutMetricData. AWS takes no count of 0."""
    seen = [(value, count) for value, count in zip(values, counts, strict=True) if count]
    return {
        "MetricName": name,
        "Dimensions": dimensions,
        "Timestamp": at,
        "Values": [value for value, _ in seen],
        "Counts": [count for _, count in seen],
    }


def reminder(number: int) -> dict[str, Any]:
    """A reminder as the skill writes it."""
    return {
        "user_id": {"S": f"user-{number % 7}"},
        "reminder_id": {"S": f"reminder-{number:06}"},
        "medication": {"S": MEDICATIONS[number % len(MEDICATIONS)]},
        "at": {"S": f"{number % 24:02}:30"},
        "schema_version": {"N": "1"},
        "written_at": {"N": "1793500000"},
        "written_by": {"S": "1"},
    }


def as_typed(value: object) -> str:
    """A parameter's value as a person types it."""
    return value if isinstance(value, str) else json.dumps(value)
