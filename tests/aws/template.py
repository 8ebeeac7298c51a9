"""infrastructure.yaml as CloudFormation resolves it, for any names, region and partition.

Independent of how the library reads the template.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ACCOUNT = "123456789012"
ARCHIVE = "buddy-archive"
BUCKETS = {"Archive": ARCHIVE, "AccessLogs": "buddy-access-logs"}
"""CloudFormation makes these names up."""
SUFFIXES = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}
NO_VALUE = object()


@dataclass(frozen=True)
class Function:
    """A short form of the template, such as !Sub, with its argument."""

    name: str
    value: Any


class Loader(yaml.SafeLoader):
    """Reads short forms as ``Function``."""


def _short_form(loader: Loader, tag: str, node: yaml.Node) -> Function:
    if isinstance(node, yaml.ScalarNode):
        return Function(tag, node.value)
    assert isinstance(node, yaml.SequenceNode)
    return Function(tag, loader.construct_sequence(node, deep=True))


Loader.add_multi_constructor("!", _short_form)


@cache
def template() -> dict[str, Any]:
    """The template with its short forms."""
    found = yaml.load((ROOT / "infrastructure.yaml").read_text("utf-8"), Loader)
    assert isinstance(found, dict)
    return found


class Stack:
    """The template deployed with parameters, in a region."""

    def __init__(self, region: str = "us-east-1", partition: str = "aws", **parameters: str | list[str]) -> None:
        self.region = region
        self.partition = partition
        self.parameters: dict[str, Any] = {
            name: self._value(each["Type"], parameters.get(name, each.get("Default", "")))
            for name, each in template()["Parameters"].items()
        }
        self.pseudo: dict[str, Any] = {
            "AWS::Partition": partition,
            "AWS::Region": region,
            "AWS::AccountId": ACCOUNT,
            "AWS::URLSuffix": SUFFIXES[partition],
            "AWS::NoValue": NO_VALUE,
        }

    @staticmethod
    def _value(kind: str, value: str | list[str]) -> str | list[str]:
        if kind == "CommaDelimitedList" and isinstance(value, str):
            return value.split(",")
        return value

    def arn(self, service: str, rest: str) -> str:
        """An ARN in this stack's region and account."""
        return f"arn:{self.partition}:{service}:{self.region}:{ACCOUNT}:{rest}"

    def role(self, name: str) -> str:
        """A role's ARN: IAM has no regions."""
        return f"arn:{self.partition}:iam::{ACCOUNT}:role/{name}"

    @cached_property
    def resources(self) -> dict[str, Any]:
        """The resources, with every function and condition resolved."""
        found = {name: self._resolved(each) for name, each in template()["Resources"].items()}
        assert all(isinstance(each, dict) for each in found.values())
        return found

    def documents(self, role: str) -> dict[str, dict[str, Any]]:
        """The policies of a role, by their names: managed ones, and those inside it.

        Args:
            role: 'reader', 'auditor', 'responder', 'deployer' or 'scheduler'.
        """
        properties = self.resources[f"{role.capitalize()}Role"]["Properties"]
        managed = {
            name: self.resources[name]["Properties"]["PolicyDocument"] for name in properties["ManagedPolicyArns"]
        }
        return managed | {each["PolicyName"]: each["PolicyDocument"] for each in properties.get("Policies", [])}

    def statements(self, role: str) -> Iterator[dict[str, Any]]:
        """Every statement of a role's policies."""
        for document in self.documents(role).values():
            yield from document["Statement"]

    def _resolved(self, node: Any) -> Any:
        match node:
            case Function():
                return self._applied(node.name, node.value)
            case dict():
                values = {name: self._resolved(value) for name, value in node.items()}
                return {name: value for name, value in values.items() if value is not NO_VALUE}
            case list():
                return [value for value in map(self._resolved, node) if value is not NO_VALUE]
        return node

    def _applied(self, name: str, value: Any) -> Any:
        match name, value:
            case "If", [condition, yes, no]:
                return self._resolved(yes if self._resolved(template()["Conditions"][condition]) else no)
            case "Not", [condition]:
                return not self._resolved(condition)
            case "Equals", [left, right]:
                return self._resolved(left) == self._resolved(right)
            case "Join", [separator, parts]:
                return separator.join(self._resolved(parts))
            case "Split", [separator, text]:
                return self._resolved(text).split(separator)
            case "Sub", [text, names]:
                return self.filled(text, self._resolved(names))
            case "Sub", text:
                return self.filled(text, {})
            case "Ref" | "GetAtt", reference:
                return self._reference(reference)
        raise AssertionError(f"!{name} is not supported here")

    def filled(self, text: str, names: Mapping[str, str]) -> str:
        """A text with ${NAME} replaced: by one of the names, a parameter, a pseudo parameter or a resource's ARN."""
        return re.sub(r"\$\{([\w:.]+)\}", lambda match: names.get(match[1]) or str(self._reference(match[1])), text)

    def _reference(self, name: str) -> Any:
        """What a parameter, a pseudo parameter, a resource or one of its attributes is."""
        values = self.pseudo | self.parameters
        if name in values:
            return values[name]
        match name.removesuffix(".Arn"):
            case bucket if bucket in BUCKETS:
                if name == bucket:
                    return BUCKETS[bucket]
                return f"arn:{self.partition}:s3:::{BUCKETS[bucket]}"
            case "TopicKey":
                return self.arn("kms", "key/of-the-topic")
            case "Topic":
                return self.arn("sns", f"buddy-ops-{self.parameters['Environment']}")
            case "DeadLetterQueue":
                return self.arn("sqs", "dead-letters")
            case "SchedulerRole":
                return self.role(self.parameters["SchedulerRoleName"])
            case role if role.endswith("Role"):
                kind = role.removesuffix("Role").lower()
                return self.role(f"buddy-ops-{self.parameters['Environment']}-{kind}")
        return name
