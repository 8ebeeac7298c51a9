"""What a new project's files take from the function as it is: whether it exists, its alias, log group and callers.

It writes nothing, and goes on where the caller may not read: what could not be read is said.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from buddy_ops.aws.function_log import default_group
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, NotFound
from buddy_ops.core.kinds import Kind
from buddy_ops.health.callers import list_invokers

if TYPE_CHECKING:
    from types_boto3_lambda.type_defs import AliasConfigurationResponseTypeDef, FunctionConfigurationResponseTypeDef

T = TypeVar("T")
FUNCTION_URL = "a function URL"
HTTP_CALLERS = ("apigateway.amazonaws.com", "elasticloadbalancing.amazonaws.com", "vpc-lattice.amazonaws.com")
ALEXA_CALLERS = ("alexa-appkit.amazon.com", "alexa-connectedhome.amazon.com")
STREAMS = ("kinesis", "dynamodb", "kafka", "rds", "mq")
"""Services in the ARN of an event source that Lambda polls in batches, other than SQS."""


@dataclass(frozen=True)
class FunctionFacts:
    """The function as it is in AWS.

    Attributes:
        exists: None where it could not be read.
        runtime: for example 'python3.13'; '' for a container image.
        package: 'Zip' or 'Image'.
        log_group: '' where it is Lambda's default.
        alias_version: the version that the alias serves; '' where there is no such alias.
        callers: what calls the function: services by their principals, event sources by their services.
        kind: what kind of function its callers suggest; None where they suggest none.
        unread: what could not be read, in words.
    """

    exists: bool | None = None
    runtime: str = ""
    package: str = ""
    timeout_s: int = 0
    log_group: str = ""
    alias_version: str = ""
    callers: tuple[str, ...] = ()
    kind: Kind | None = None
    unread: tuple[str, ...] = ()

    def lines(self, function: str, alias: str) -> list[str]:
        """For a person."""
        lines = list(self.unread)
        if self.exists is False:
            lines.append(f"{function} does not exist yet.")
        if self.exists:
            served = f"no alias {alias} yet"
            if self.alias_version:
                served = f"alias {alias} serves v{self.alias_version}"
            kind = ""
            if self.callers:
                kind = f"; called by {', '.join(self.callers)}"
            lines.append(f"{function}: {self.runtime or self.package}, timeout {self.timeout_s} s, {served}{kind}.")
        return lines


def read_function(target: Target) -> FunctionFacts:
    """Read the function, its alias and what calls it.

    AWS: lambda:GetFunctionConfiguration, GetAlias, GetPolicy, ListEventSourceMappings, ListFunctionUrlConfigs, reads
    only. No role of infrastructure.yaml has the last two: a new project is written with a person's own credentials.
    """
    client = target.client("lambda")
    function, alias = target.settings.function, target.settings.alias
    try:
        found: FunctionConfigurationResponseTypeDef = client.get_function_configuration(FunctionName=function)
    except NotFound:
        return FunctionFacts(exists=False)
    except AwsFailed as failure:
        return FunctionFacts(unread=(f"{function} could not be read: {failure.what}",))
    unread: list[str] = []
    group = found.get("LoggingConfig", {}).get("LogGroup", "")
    if group == default_group(function):
        group = ""
    # From here on what cannot be read is noted: the function exists, and that is the most that is needed.
    served: AliasConfigurationResponseTypeDef | None = _read(
        partial(client.get_alias, FunctionName=function, Name=alias), "the alias", unread
    )
    callers = _read_callers(target, unread)
    return FunctionFacts(
        exists=True,
        runtime=found.get("Runtime", ""),
        package=found.get("PackageType", "Zip"),
        timeout_s=found["Timeout"],
        log_group=group,
        alias_version=served["FunctionVersion"] if served else "",
        callers=tuple(callers),
        kind=guess_kind(callers),
        unread=tuple(unread),
    )


def guess_kind(callers: list[str]) -> Kind | None:
    """The kind of function that its callers suggest; None where they suggest none."""
    if any(caller in ALEXA_CALLERS for caller in callers):
        return "alexa"
    if FUNCTION_URL in callers or any(caller in HTTP_CALLERS for caller in callers):
        return "http"
    if "sqs" in callers:
        return "sqs"
    if any(caller in STREAMS for caller in callers):
        return "stream"
    # Any other service of AWS, as S3, SNS or EventBridge: it does not wait for an answer.
    if any(caller.endswith(".amazonaws.com") for caller in callers):
        return "async"
    return None


def _read_callers(target: Target, unread: list[str]) -> list[str]:
    """What calls the function or its alias, each once."""
    client = target.client("lambda")
    function, alias = target.settings.function, target.settings.alias
    found: set[str] = set()
    # A caller of the alias is named in the alias's own policy, not in the function's.
    for qualifier in ("", alias):
        found |= _read(partial(list_invokers, target, qualifier), "the resource policy", unread) or set()
    # A mapping belongs to the function or to its alias: AWS lists those of the name that is asked for.
    for name in (function, f"{function}:{alias}"):
        sources = _read(partial(client.list_event_source_mappings, FunctionName=name), "event sources", unread)
        if sources is None:
            continue
        for mapping in sources["EventSourceMappings"]:
            service = "kafka"
            # A self-managed Kafka has no ARN.
            if arn := mapping.get("EventSourceArn", ""):
                service = arn.split(":")[2]
            found.add(service)
    urls = _read(partial(client.list_function_url_configs, FunctionName=function), "the function URL", unread)
    if urls and urls["FunctionUrlConfigs"]:
        found.add(FUNCTION_URL)
    return sorted(found)


def _read(read: Callable[[], T], what: str, unread: list[str]) -> T | None:
    """What a read returns; None where there is no such thing, or it could not be read, which is noted once."""
    try:
        return read()
    except NotFound:
        return None
    except AwsFailed as failure:
        line = f"Could not read {what}: {failure.what}"
        if line not in unread:
            unread.append(line)
        return None
