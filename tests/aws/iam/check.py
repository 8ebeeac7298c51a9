"""``make check-aws``: each recorded call and each abuse, evaluated by iam-simulate against infrastructure.yaml.

Prints a table. Exits with 1 if a call that a role needs is denied, an abuse is allowed, or a grant is never used. Needs
node, and ``npm ci`` in this folder.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict, cast, get_args

from buddy_ops.aws import failsafe, permissions
from buddy_ops.aws.session import Target
from buddy_ops.core.roles import Role
from buddy_ops.core.settings import Settings
from buddy_ops.health import alarms
from tests.aws import recorded_calls
from tests.aws.recorded_calls import Call
from tests.aws.template import ACCOUNT, ROOT, Stack

HERE = Path(__file__).parent
ROLES = (*get_args(Role), "scheduler")
EVERY_ROLE = "every role"
FEWEST_ABUSES = 30


class Answer(TypedDict):
    """What the engine says to a call: its result, and the Sids of the statements that allow it."""

    result: str
    sids: list[str]


@dataclass(frozen=True)
class Variant:
    """A stack to evaluate against: names, region and partition."""

    name: str
    stack: Stack

    @classmethod
    def of(cls, name: str, *, region: str = "us-east-1", partition: str = "aws", **parameters: str) -> "Variant":
        """A stack with every option in use."""
        at = f"arn:{partition}:{{}}:{region}:{ACCOUNT}:"
        given = {
            "Environment": "staging",
            "FunctionName": "buddy-alexa-skill-staging",
            "SigningKeyArn": f"{at.format('kms')}key/of-the-runs",
            "KeyArns": f"{at.format('kms')}key/of-the-builds",
            "TableArns": f"{at.format('dynamodb')}table/buddy-reminders-staging",
            "BuildBucketName": "buddy-builds",
            "HookFunctionArns": f"{at.format('lambda')}function:gate:live",
            **parameters,
        }
        return cls(name, Stack(region, partition, **given))

    def calls(self, calls: frozenset[Call]) -> list[Call]:
        """Calls with this stack's names, in an order that is always the same."""
        return sorted(self._filled(call) for call in calls)

    def _filled(self, call: Call) -> Call:
        given = self.stack.parameters
        function = given["FunctionName"]
        settings = SimpleNamespace(function=function, alias=given["AliasName"])
        target = SimpleNamespace(settings=settings, environment=given["Environment"], run="7f3a12bc")
        table = given["TableArns"][0].rpartition("/")[2]
        names = {
            "AlarmPrefix": alarms.name_prefix(cast(Settings, settings)),
            "Failsafe": failsafe.schedule_name(cast(Target, target)),
            "HookFunctionArn": given["HookFunctionArns"][0],
            "KeyArn": given["KeyArns"][0],
            "Other": f"{function[:59]}-prod",
            "OtherTable": f"{table}-prod",
            "Table": table,
        }
        resource = call.resource
        if given["LogGroupName"]:
            resource = resource.replace("/aws/lambda/${FunctionName}:", "${LogGroupName}:")
        context = tuple((key, self.stack.filled(value, names)) for key, value in call.context)
        return Call(call.action, self.stack.filled(resource, names), context)

    def grants(self, role: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """A role's statements, one for each action and resource, with a Sid that is the same in every variant."""
        for policy, document in self.stack.documents(role).items():
            for statement in document["Statement"]:
                for action in _listed(statement["Action"]):
                    for place, resource in enumerate(_listed(statement["Resource"])):
                        sid = f"{policy} {statement['Sid']} {action} {place}"
                        yield sid, {**statement, "Sid": sid, "Action": action, "Resource": resource}

    def resource_policy(self, call: Call) -> dict[str, Any] | None:
        """The policy of what is called, where the template has one that allows something."""
        resources = self.stack.resources
        if call.resource == self.stack.arn("kms", "key/of-the-topic"):
            found = resources["TopicKey"]["Properties"]["KeyPolicy"]
        elif call.resource.startswith(f"arn:{self.stack.partition}:kms:"):
            # As AWS makes it, and as the template demands it of a key: it leaves the rest to IAM.
            found = {**resources["TopicKey"]["Properties"]["KeyPolicy"]}
            found["Statement"] = [each for each in found["Statement"] if each["Sid"] == "Account"]
        else:
            return None
        return cast(dict[str, Any], found)


VARIANTS = (
    Variant.of("us-east-1"),
    Variant.of("another alias, log group and role", AliasName="next", LogGroupName="skills", SchedulerRoleName="mine"),
    Variant.of("49 letters", FunctionName="f" * 49),
    Variant.of("longest names", FunctionName="f" * 64, AliasName="a" * 128, Environment="e" * 20),
    Variant.of("China", region="cn-north-1", partition="aws-cn"),
    Variant.of("GovCloud", region="us-gov-west-1", partition="aws-us-gov"),
)


def main() -> int:
    """Evaluate, print, and return the exit code."""
    _write_statements(VARIANTS[0].stack)
    problems: list[str] = []
    granted: dict[str, set[str]] = {role: set() for role in ROLES}
    used: dict[str, set[str]] = {role: set() for role in ROLES}
    print(f"{'stack':36}{'role':12}{'needed':>8}{'denied':>8}{'abuses':>8}{'allowed':>9}")
    for variant in VARIANTS:
        needed = _evaluate(variant, _needed)
        abused = _evaluate(variant, _abuses)
        for role in ROLES:
            denied = [
                f"{variant.name}: {role} needs {call}: {answer['result']}"
                for call, answer in needed[role]
                if answer["result"] != "Allowed"
            ]
            allowed = [
                f"{variant.name}: {role} must not {call}: {answer['result']}"
                for call, answer in abused[role]
                if answer["result"] not in ("ImplicitlyDenied", "ExplicitlyDenied")
            ]
            figures = f"{len(needed[role]):8}{len(denied):8}{len(abused[role]):8}{len(allowed):9}"
            print(f"{variant.name:36}{role:12}{figures}")
            problems += denied + allowed
            if len(abused[role]) < FEWEST_ABUSES:
                problems.append(f"{role}: {len(abused[role])} abuses, fewer than {FEWEST_ABUSES}")
            granted[role] |= {sid for sid, grant in variant.grants(role) if grant["Effect"] == "Allow"}
            used[role] |= {sid for _, answer in needed[role] for sid in answer["sids"]}
    for role in ROLES:
        unused = sorted(granted[role] - used[role])
        print(f"{role}: {len(granted[role])} grants, {len(unused)} unused")
        problems += [f"{role} never uses {sid}" for sid in unused]
    print(*problems, sep="\n")
    return min(len(problems), 1)


def _write_statements(stack: Stack) -> None:
    """Each statement as a policy of its own into build/policies, for parliament."""
    folder = ROOT / "build" / "policies"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for role in ROLES:
        for policy, document in stack.documents(role).items():
            for statement in document["Statement"]:
                text = json.dumps({"Version": document["Version"], "Statement": [statement]}, indent=1)
                (folder / f"{policy}.{statement['Sid']}.json").write_text(text, "utf-8")


def _needed(role: str) -> frozenset[Call]:
    """What a role's runbooks were recorded to call, and what others call as this role."""
    recorded = recorded_calls.load()
    runbooks = [name for name, roles in permissions.RUNBOOKS.items() if role in roles]
    found = frozenset[Call]().union(*(recorded[name] for name in runbooks))
    others = recorded_calls.load(HERE / "by_others.txt")
    if role != "scheduler":
        found |= others[EVERY_ROLE]
    return found | others.get(role, frozenset())


def _abuses(role: str) -> frozenset[Call]:
    listed = recorded_calls.load(HERE / "abuses.txt")
    return listed[EVERY_ROLE] | listed[role]


def _evaluate(variant: Variant, calls_of: Callable[[str], frozenset[Call]]) -> dict[str, list[tuple[Call, Answer]]]:
    """The engine's answer to each call of each role."""
    calls = {role: variant.calls(calls_of(role)) for role in ROLES}
    asked = {
        role: {
            "principal": variant.stack.filled(f"${{{role.capitalize()}Role.Arn}}", {}),
            "policy": {"Version": "2012-10-17", "Statement": [grant for _, grant in variant.grants(role)]},
            "requests": [
                {
                    "action": call.action,
                    "resource": call.resource,
                    "context": dict(call.context),
                    "resourcePolicy": variant.resource_policy(call),
                }
                for call in calls[role]
            ],
        }
        for role in ROLES
    }
    done = subprocess.run(
        ["node", HERE / "evaluate.mjs"],
        input=json.dumps({"account": ACCOUNT, "roles": asked}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answers = json.loads(done.stdout)
    return {role: list(zip(calls[role], answers[role], strict=True)) for role in ROLES}


def _listed(value: object) -> list[str]:
    return value if isinstance(value, list) else [str(value)]


if __name__ == "__main__":
    sys.exit(main())
