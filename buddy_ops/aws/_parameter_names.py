"""The names of our parameters in SSM, and lists of them. A target is an account, a region, a function and an alias.

SSM is separate in each account and region, so the names have the function and the alias. Its limits are 15 levels and
1011 characters with the ARN; the longest function (64), alias (128) and record have 8 levels and about 500 characters.

Source: AWS Systems Manager API reference, PutParameter, Name.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from buddy_ops.aws.session import Target

if TYPE_CHECKING:
    from types_boto3_ssm.type_defs import ParameterTypeDef

ROOT = "/buddy-ops"
FORMER_ROOT = "/buddy"
"""Where earlier releases wrote, by environment. It is read and cleared, never written: their freezes still hold."""


def parameter_name(target: Target, *parts: str) -> str:
    """The name under which something of the function and the alias is written."""
    return "/".join((ROOT, target.settings.function, target.settings.alias, *parts))


def former_name(target: Target, *parts: str) -> str:
    """The name under which earlier releases wrote it."""
    return "/".join((FORMER_ROOT, target.environment, *parts))


def readable_names(target: Target, *parts: str) -> tuple[str, str]:
    """The names under which it may be found, the current one first."""
    return parameter_name(target, *parts), former_name(target, *parts)


def list_parameters(target: Target, *parts: str, recursive: bool = False) -> "Iterator[ParameterTypeDef]":
    """The parameters under both names, those of the current one first.

    AWS: ssm:GetParametersByPath, every page, reads only.
    """
    pages = target.client("ssm").get_paginator("get_parameters_by_path")
    for path in readable_names(target, *parts):
        for page in pages.paginate(Path=path, Recursive=recursive):
            yield from page["Parameters"]


class RegionParameters:
    """All of our parameters in an account and region, for many targets at once.

    AWS: ssm:GetParametersByPath, every page, reads only.
    """

    def __init__(self, target: Target) -> None:
        self._by_target: dict[str, list[ParameterTypeDef]] = {}
        pages = target.client("ssm").get_paginator("get_parameters_by_path")
        # A target's own parts begin after its function and alias; in earlier releases after the environment.
        for root, levels in ((ROOT, 4), (FORMER_ROOT, 3)):
            for page in pages.paginate(Path=root, Recursive=True):
                for parameter in page["Parameters"]:
                    # '/buddy-ops/shop-prod/live/freeze/7f3a': an empty part comes before the first slash.
                    own = "/".join(parameter["Name"].split("/")[:levels])
                    self._by_target.setdefault(own, []).append(parameter)

    def of(self, target: Target, part: str) -> "list[ParameterTypeDef]":
        """A target's parameters of one part, for example 'freeze', those of the current names first."""
        found = []
        for own, path in zip(readable_names(target), readable_names(target, part), strict=True):
            stored = self._by_target.get(own, [])
            # An isolation is one parameter of that name, freezes are parameters below it.
            found += [each for each in stored if each["Name"] == path or each["Name"].startswith(f"{path}/")]
        return found
