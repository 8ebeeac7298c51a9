"""The calls of every runbook as ``recorded_calls.txt`` keeps them: without the sandbox's names, for stacks of any names.

``test_permissions.py`` records, and compares with the file. ``tests.aws.iam.check`` has them evaluated.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("recorded_calls.txt")

Context = tuple[tuple[str, str], ...]
"""Condition keys of a call with their values, such as ('ssm:Overwrite', 'false')."""


class Call(NamedTuple):
    """A call as IAM checks it."""

    action: str
    resource: str
    context: Context = ()

    def __str__(self) -> str:
        return " ".join([self.action, self.resource, *(f"{key}={value}" for key, value in self.context)])

    @classmethod
    def parse(cls, text: str) -> "Call":
        """The call of a line."""
        action, resource, *context = text.split(" ")
        pairs = (pair.partition("=") for pair in context)
        return cls(action, resource, tuple((key, value) for key, _, value in pairs))


def without_names(call: Call) -> Call:
    """A call that a run of the sandbox made, with placeholders for what a stack names and a run makes up."""
    name = "buddy-alexa-skill-sandbox"
    where = call.resource
    for pattern, placeholder in (
        ("^arn:aws:lambda:.*:function:gate:live", "${HookFunctionArn}"),
        ("buddy-builds/.*", "${BuildBucketName}/good.zip"),
        ("buddy-builds", "${BuildBucketName}"),
        (rf"{name}-live-lease-[\w-]+", "${Failsafe}"),
        (rf"alarm:{name}-", "alarm:${AlarmPrefix}"),
        (r"buddy-reminders-sandbox-20\d{6}T\d{6}", "${Table}-20261129T031200"),
        ("buddy-reminders-sandbox", "${Table}"),
        (rf"function:{name}:\d+", "function:${FunctionName}:7"),
        (rf"function:{name}:live", "function:${FunctionName}:${AliasName}"),
        (f"buddy-ops/{name}/live/", "buddy-ops/${FunctionName}/${AliasName}/"),
        (name, "${FunctionName}"),
        ("role/buddy-ops-scheduler", "role/${SchedulerRoleName}"),
        (r"/freeze/.+", "/freeze/run-1"),
        (r"/records/(?!prove/)[^/]+/[^/]+", "/records/checklist/7"),
        (r"/records/checklist/7/.+", "/records/checklist/7/run-1"),
        ("sandbox", "${Environment}"),
        (r"(/records/prove/[^/]+)/.+", r"\1/run-1"),
        (r"arn:aws:kms:.*", "${SigningKeyArn}"),
        (r"arn:aws:sqs:.*:dead-letters", "${DeadLetterQueue.Arn}"),
        ("buddy-archive/.*", "buddy-archive/run-1/report.html"),
        ("^arn:aws:", "arn:${AWS::Partition}:"),
        ("us-east-1", "${AWS::Region}"),
        ("123456789012", "${AWS::AccountId}"),
    ):
        where = re.sub(pattern, placeholder, where)
    return call._replace(resource=where)


def dump(calls: Mapping[str, Iterable[Call]]) -> str:
    """The text of the file: a runbook a paragraph, a call a line."""
    return "".join(
        f"{runbook}\n" + "".join(f"  {line}\n" for line in sorted(map(str, calls[runbook])))
        for runbook in sorted(calls)
    )


def load(file: Path = FILE) -> dict[str, frozenset[Call]]:
    """The calls of each paragraph of a file, by the paragraph's heading. Lines that begin with '#' are comments."""
    found: dict[str, set[Call]] = {}
    heading = ""
    for line in file.read_text("utf-8").splitlines():
        if line.startswith(" "):
            found[heading].add(Call.parse(line.strip()))
        elif line and not line.startswith("#"):
            heading = line
            found[heading] = set()
    return {name: frozenset(calls) for name, calls in found.items()}
