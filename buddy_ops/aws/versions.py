"""The function's versions: read, upload, configure, publish, call. The alias is never touched here.

$LATEST is shared by all runs, so each write is guarded by what was read of it.
"""

import hashlib
import json
import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypedDict

from buddy_ops.aws.errors import incomplete_reply
from buddy_ops.aws.function_log import LogConfig, reported_s
from buddy_ops.aws.session import Target
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, NotFound
from buddy_ops.core.text import parse_utc

if TYPE_CHECKING:
    from types_boto3_lambda.type_defs import (
        EnvironmentResponseTypeDef,
        FunctionConfigurationResponseTypeDef,
        FunctionConfigurationTypeDef,
    )

    Reply = FunctionConfigurationTypeDef | FunctionConfigurationResponseTypeDef

LATEST = "$LATEST"
NETWORK_S = 2
"""Seconds on the way to a function and back, beyond its own time."""

RARE = ("TenancyConfig", "CapacityProviderConfig", "DurableConfig", "RuntimeConfig", "AcceleratorConfig")
"""Members of a configuration that count where they are set: most functions have none of them."""

TAKEN_OVER = (
    *("Role", "Handler", "Runtime", "Timeout", "MemorySize", "Layers", "VpcConfig", "DeadLetterConfig"),
    *("Architectures", "EphemeralStorage", "FileSystemConfigs", "KMSKeyArn", "LoggingConfig", "TracingConfig"),
    *("SnapStart", "PackageType", "ImageConfigResponse", *RARE),
)
"""What of a function's configuration, beside the environment, a version takes over from $LATEST."""

VARIABLE = "variable "
"""What the name of an environment variable begins with in a configuration."""

TOGETHER = ("Role", "DeadLetterConfig")
"""What two versions must have in common for one alias to serve both. Source: AWS Lambda developer guide, aliases."""

USABLE = ("Active", "Inactive")
"""States in which a version can serve. Lambda sets one that was not invoked for weeks to Inactive, and starts it again
with the next request."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """The configuration of a published version, or of $LATEST.

    Attributes:
        number: '7', or '$LATEST'.
        sha256: the code's CodeSha256.
        revision: the RevisionId that guards a write of $LATEST.
        modified_at: when a version was published, or $LATEST was changed last, in UTC.
        state: 'Active', 'Inactive', 'Pending' or 'Failed'.
        update: 'Successful', 'InProgress' or 'Failed': the last update of $LATEST.
        reason: why AWS left it in this state, or did not update it.
        code_bytes: its package's size.
        log: where and how it writes its log.
        settings: the values of ``TAKEN_OVER``, None for one that is not set; ``RARE`` ones only where they are.
            SnapStart's is its ApplyOn.
        environment: as Lambda shows it. The values may be secrets: they are never shown or journaled.
    """

    number: str
    arn: str
    sha256: str
    revision: str
    modified_at: datetime
    description: str
    state: str
    update: str
    reason: str
    role: str
    timeout_s: int
    code_bytes: int
    log: LogConfig
    settings: Mapping[str, object]
    environment: "EnvironmentResponseTypeDef" = field(repr=False)

    @property
    def usable(self) -> bool:
        """Whether it can serve requests."""
        return self.state in USABLE

    def configuration_with(self, variables: Mapping[str, str]) -> dict[str, object]:
        """What of it a version takes over, by name, with these environment variables."""
        return {**self.settings, **{f"{VARIABLE}{name}": value for name, value in variables.items()}}

    @property
    def configuration(self) -> dict[str, object]:
        """What of it a version takes over, by name; without environment variables that Lambda does not show."""
        return self.configuration_with(self.shown_variables or {})

    @property
    def shown_variables(self) -> dict[str, str] | None:
        """The environment variables; None: Lambda does not show them to this caller."""
        if "Error" in self.environment:
            return None
        return dict(self.environment.get("Variables", {}))

    @property
    def hidden_because(self) -> str:
        """Why Lambda does not show the environment variables; empty if it does."""
        error = self.environment.get("Error")
        if error is None:
            return ""
        return error.get("ErrorCode", "no reason given")

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables.

        Raises:
            BuddyError: ``environment-unreadable``: Lambda does not show them, so that writing the map would lose them.
        """
        if self.shown_variables is not None:
            return self.shown_variables
        raise BuddyError(
            "environment-unreadable",
            f"Lambda does not show the environment variables of {self.arn}: {self.hidden_because}.",
            next="Let the caller decrypt with the function's KMS key (kms:Decrypt).",
        )


def label(number: str) -> str:
    """A version as operators read it: 'v7', or '$LATEST'."""
    if number.isdecimal():
        return f"v{number}"
    return number


def read_version(target: Target, number: str = LATEST) -> Version:
    """A version's configuration, or that of $LATEST. AWS: lambda:GetFunctionConfiguration, reads only.

    Raises:
        InvalidInput: ``function-missing`` or ``version-missing``.
    """
    function = target.settings.function
    client = target.client("lambda")
    reference = "version-missing"
    missing = f"version {number} of {function}"
    try:
        if number != LATEST:
            return _version(client.get_function_configuration(FunctionName=function, Qualifier=number))
        # IAM checks a call with a Qualifier against another resource than one without.
        reference = "function-missing"
        missing = f"function {function}"
        return _version(client.get_function_configuration(FunctionName=function))
    except NotFound:
        raise InvalidInput(
            reference,
            f"There is no {missing} in {target.region}.",
            next="Check function and region in the environment's parameters/ file, and which account you use.",
        ) from None


def list_versions(target: Target) -> list[Version]:
    """All published versions, oldest first, every page. AWS: lambda:ListVersionsByFunction, reads only."""
    pages = target.client("lambda").get_paginator("list_versions_by_function")
    listed = (
        _version(reply) for page in pages.paginate(FunctionName=target.settings.function) for reply in page["Versions"]
    )
    return [version for version in listed if version.number != LATEST]


def code_sha256(archive: bytes) -> str:
    """The CodeSha256 that Lambda gives the bytes of a zip."""
    return b64encode(hashlib.sha256(archive).digest()).decode()


class CodeSource(TypedDict, total=False):
    """What ``UpdateFunctionCode`` is given: a zip's bytes, a zip in S3, or an image."""

    ZipFile: bytes
    S3Bucket: str
    S3Key: str
    S3ObjectVersion: str
    ImageUri: str


def upload_code(target: Target, code: CodeSource, sha256: str, revision: str) -> None:
    """Put a build into $LATEST. AWS: lambda:UpdateFunctionCode, writes; guarded by RevisionId.

    Args:
        sha256: the build's CodeSha256.

    Raises:
        Conflict: another run changed $LATEST.
    """
    function = target.settings.function
    try:
        target.client("lambda").update_function_code(FunctionName=function, RevisionId=revision, **code)
    except AwsFailed:
        # The SDK's own retry fails after a first attempt that took effect and was not answered.
        if read_version(target).sha256 != sha256:
            raise


def update_environment(target: Target, variables: Mapping[str, str], revision: str) -> None:
    """Replace the whole environment of $LATEST. AWS: lambda:UpdateFunctionConfiguration, writes; guarded by RevisionId.

    Raises:
        Conflict: another run changed $LATEST.
        AwsFailed: without AWS's message, which may repeat every value.
    """
    function = target.settings.function
    try:
        target.client("lambda").update_function_configuration(
            FunctionName=function, Environment={"Variables": dict(variables)}, RevisionId=revision
        )
    except AwsFailed as failure:
        if read_version(target).variables == variables:
            return  # as with the upload, it took effect without an answer
        failure.what = f"AWS refused the environment of {function}: {failure.code}."
        failure.args = (failure.what,)
        raise failure from None


def publish_version(target: Target, latest: Version, description: str) -> str:
    """Publish $LATEST, as ``latest`` was read, as a version; its number.

    Lambda returns the last version, and says nothing, if that has the same code and configuration.

    AWS: lambda:PublishVersion, writes; guarded by CodeSha256 and RevisionId.

    Raises:
        Conflict: another run changed $LATEST.
    """
    try:
        reply = target.client("lambda").publish_version(
            FunctionName=target.settings.function,
            CodeSha256=latest.sha256,
            RevisionId=latest.revision,
            Description=description,
        )
        return reply["Version"]
    except AwsFailed:
        # As with the upload, it may have been published without an answer.
        for newest in list_versions(target)[-1:]:
            same = newest.environment == latest.environment
            # Two environments that are not shown look alike.
            if latest.shown_variables is None:
                same = newest.description == description
            if newest.sha256 == latest.sha256 and same:
                return newest.number
        raise


@dataclass(frozen=True)
class InvocationResult:
    """A version's answer.

    Attributes:
        payload: the JSON that it returned.
        failure: Lambda's FunctionError; None: it raised nothing.
        version: the number of the version that answered.
        took_s: its own time, a cold start included, in seconds; None: Lambda did not report it.
    """

    payload: object
    failure: str | None
    version: str
    took_s: float | None


def invoke(target: Target, version: str, event: Mapping[str, object], within_s: float) -> InvocationResult:
    """Call a version once. AWS: lambda:InvokeFunction; runs the function's code.

    Args:
        within_s: how long its answer is waited for at least, in seconds.

    Raises:
        TimedOut: it did not answer in time.
        Unreachable: its answer was cut on the way.
    """
    # Sent once: a request that is repeated may act twice.
    client = target.client("lambda", attempts=1, read_timeout_s=math.ceil(within_s) + NETWORK_S)
    reply = client.invoke(
        FunctionName=target.settings.function, Qualifier=version, LogType="Tail", Payload=json.dumps(event).encode()
    )
    try:
        payload = parse_json(reply["Payload"].read() or b"{}")
    except ValueError as error:
        raise incomplete_reply(
            f"an answer that is cut, or not from AWS (no JSON: {error})", "lambda:invoke", target.region
        ) from None
    return InvocationResult(
        payload=payload,
        failure=reply.get("FunctionError"),
        version=reply.get("ExecutedVersion", ""),
        # Lambda's own figures do not include this machine's network.
        took_s=reported_s(b64decode(reply.get("LogResult", "")).decode(errors="replace")),
    )


def ask_function(
    target: Target, name: str, event: Mapping[str, object], *, within_s: float, limit: int
) -> tuple[bytes, str]:
    """Call another function once. AWS: lambda:InvokeFunction; runs that function's code.

    Args:
        name: NAME or NAME:ALIAS.
        within_s: how long its answer is waited for, in seconds.
        limit: how many bytes of the answer are read.

    Returns:
        What it returned, and Lambda's FunctionError; '' where it raised nothing.

    Raises:
        TimedOut: it did not answer in time.
    """
    client = target.client("lambda", attempts=1, read_timeout_s=math.ceil(within_s))
    name, _, qualifier = name.partition(":")
    payload = json.dumps(event).encode()
    # Only a call with a qualifier is checked against function:QUALIFIER.
    if qualifier:
        reply = client.invoke(FunctionName=name, Qualifier=qualifier, Payload=payload)
    else:
        reply = client.invoke(FunctionName=name, Payload=payload)
    return reply["Payload"].read(limit), reply.get("FunctionError", "")


def require_invocable(target: Target, name: str) -> None:
    """Ask whether the caller could call another function. AWS: lambda:InvokeFunction as a dry run; runs no code.

    Args:
        name: NAME or NAME:ALIAS.

    Raises:
        NotFound: there is no such function or alias.
        AccessDenied: the caller may not invoke it.

    Source: Lambda API reference, Invoke, InvocationType DryRun.
    """
    client = target.client("lambda", attempts=1)
    name, _, qualifier = name.partition(":")
    if qualifier:
        client.invoke(FunctionName=name, Qualifier=qualifier, InvocationType="DryRun")
    else:
        client.invoke(FunctionName=name, InvocationType="DryRun")


def _version(reply: "Reply") -> Version:
    """The one place that reads a configuration as Lambda returns it."""
    return Version(
        number=reply["Version"],
        arn=reply["FunctionArn"],
        sha256=reply["CodeSha256"],
        revision=reply["RevisionId"],
        modified_at=parse_utc(reply["LastModified"]),
        description=reply.get("Description", ""),
        # ListVersionsByFunction gives no states, as recorded: to see one, read the version by itself.
        state=reply.get("State", "Active"),
        update=reply.get("LastUpdateStatus", "Successful"),
        reason=reply.get("StateReason") or reply.get("LastUpdateStatusReason") or "no reason given",
        role=reply["Role"],
        timeout_s=reply["Timeout"],
        code_bytes=reply.get("CodeSize", 0),
        log=LogConfig.of(reply),
        # Whether AWS has made the snapshot yet differs between $LATEST and its version.
        settings={name: reply.get(name) for name in TAKEN_OVER if name in reply or name not in RARE}
        | {"SnapStart": reply.get("SnapStart", {}).get("ApplyOn")},
        environment=reply.get("Environment", {}),
    )
