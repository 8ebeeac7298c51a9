"""What real AWS refused, and in which words: each request is made again here, and the answer must be the same.

The table has a row for each recorded refusal of a call that the sandbox serves itself; {arn} stands for the function's
ARN, {none} for that of a function that does not exist. Members of successful answers are compared below it.

Source: recorded AWS responses (localstack/localstack, Apache-2.0), 2023-03 to 2026-02; the group says which test.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from lambda_serving import ROLE, package

from buddy_sandbox.server import Sandbox
from buddy_sandbox.world import World

FUNCTION = "fn"
START = datetime(2026, 11, 1, tzinfo=UTC)
PREFIX = "arn:aws:lambda:us-east-1:123456789012:function"
STALE = (
    "The Revision Id provided does not match the latest Revision Id. "
    "Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
)
UNQUALIFIED = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
    "Please specify either a function name or an unqualified function ARN."
)
BELOW_MINIMUM = "decreases account's UnreservedConcurrentExecution below its minimum value of [100]."
UPDATING = "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
RANGE = (
    "failed to satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, "
    "Member must have value greater than or equal to 0.0, Member must not be null]"
)
NO_TAGS = "Tags on function aliases and versions are not supported. Please specify a function ARN."
INVALID = "InvalidParameterValueException"
NOT_FOUND = "ResourceNotFoundException"
CONFLICT = "ResourceConflictException"
VALIDATION = "ValidationException"
PRECONDITION = "PreconditionFailedException"
THROTTLED = "TooManyRequestsException"
NO_CONFIG = "ProvisionedConcurrencyConfigNotFoundException"
UNCHECKED = Config(parameter_validation=False, retries={"total_max_attempts": 1})  # type: ignore[call-arg]
"""A client that sends what the SDK itself would refuse."""

KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
STATUS = {NOT_FOUND: 404, CONFLICT: 409, PRECONDITION: 412, THROTTLED: 429, NO_CONFIG: 404}
"""Lambda's HTTP status of each code; 400 for all others."""


class Row(NamedTuple):
    """A recorded refusal: the call, and AWS's code and message."""

    recorded: str
    operation: str
    params: dict[str, Any]
    code: str
    message: str


def alias(**params: Any) -> dict[str, Any]:
    return {"FunctionName": FUNCTION, "Name": "live", **params}


def weights(**share: float) -> dict[str, Any]:
    return {"AdditionalVersionWeights": {name.strip("_"): weight for name, weight in share.items()}}


def qualified(qualifier: str, function: str = FUNCTION, **params: Any) -> dict[str, Any]:
    return {"FunctionName": function, "Qualifier": qualifier, **params}


def provisioning(qualifier: str, count: int = 1, function: str = FUNCTION) -> dict[str, Any]:
    return qualified(qualifier, function, ProvisionedConcurrentExecutions=count)


ROUTING = "test_notfound_and_invalid_routingconfigs"
PROVISIONED = "test_provisioned_concurrency_exceptions"
RESERVED = "test_function_concurrency_exceptions"
REVISIONS = "test_function_revisions"
REFUSED = (
    Row("test_alias_lifecycle", "get_function", qualified("none"), NOT_FOUND, "Function not found: {arn}:none"),
    Row("test_alias_lifecycle", "get_function", {"FunctionName": f"{PREFIX}:{FUNCTION}:none"}, NOT_FOUND, "Function not found: {arn}:none"),
    Row(
        "test_alias_naming",
        "create_alias",
        alias(Name="2024", FunctionVersion="1"),
        VALIDATION,
        "1 validation error detected: Value '2024' at 'name' failed to satisfy constraint: Member must satisfy regular "
        "expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)",
    ),
    Row("test_non_existent_alias_update", "update_alias", alias(Name="none", FunctionVersion="1"), NOT_FOUND, "Alias not found: {arn}:none"),
    Row(ROUTING, "get_alias", alias(Name="none"), NOT_FOUND, "Cannot find alias arn: {arn}:none"),
    Row(ROUTING, "create_alias", alias(FunctionVersion="1"), CONFLICT, "Alias already exists: {arn}:live"),
    Row(ROUTING, "create_alias", {"FunctionName": "none", "Name": "new", "FunctionVersion": "1"}, NOT_FOUND, "Function not found: {none}:1"),
    Row(
        ROUTING,
        "create_alias",
        alias(Name="new", FunctionVersion="1", RoutingConfig=weights(_1=0.5)),
        INVALID,
        "Invalid function version 1. Function version 1 is already included in routing configuration.",
    ),
    Row(
        ROUTING,
        "create_alias",
        alias(Name="new", FunctionVersion="1", RoutingConfig=weights(_2=-1.0)),
        VALIDATION,
        f"1 validation error detected: Value '{{{{2=-1.0}}}}' at 'routingConfig.additionalVersionWeights' {RANGE}",
    ),
    Row(
        ROUTING,
        "create_alias",
        alias(Name="new", FunctionVersion="1", RoutingConfig=weights(_2=2.0)),
        VALIDATION,
        f"1 validation error detected: Value '{{{{2=2.0}}}}' at 'routingConfig.additionalVersionWeights' {RANGE}",
    ),
    Row(
        ROUTING,
        "create_alias",
        alias(Name="new", FunctionVersion="1", RoutingConfig=weights(_1=0.5, _2=0.5)),
        INVALID,
        "Number of items in AdditionalVersionWeights cannot be greater than 1",
    ),
    Row(ROUTING, "create_alias", alias(Name="new", FunctionVersion="1", RoutingConfig=weights(_10=0.5)), NOT_FOUND, "Function not found: {arn}:10"),
    Row(ROUTING, "create_alias", alias(Name="new", FunctionVersion="10"), NOT_FOUND, "Function not found: {arn}:10"),
    Row(
        ROUTING,
        "create_alias",
        alias(Name="new", FunctionVersion="$LATEST", RoutingConfig=weights(_1=0.5)),
        INVALID,
        "$LATEST is not supported for an alias pointing to more than 1 version",
    ),
    Row(
        ROUTING,
        "create_alias",
        alias(Name="new", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"$LATEST": 0.5}}),
        VALIDATION,
        "1 validation error detected: Value '{{$LATEST=0.5}}' at 'routingConfig.additionalVersionWeights' failed to satisfy "
        "constraint: Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must "
        "have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]",
    ),
    Row("test_lambda_alias_moving", "invoke", qualified("none"), NOT_FOUND, "Function not found: {arn}:none"),
    Row("test_invoke_exceptions", "invoke", {"FunctionName": "none"}, NOT_FOUND, "Function not found: {none}:$LATEST"),
    Row("test_delete_on_nonexisting_version", "delete_function", {"FunctionName": "none"}, NOT_FOUND, "Function not found: {none}"),
    Row("test_delete_on_nonexisting_version", "delete_function", qualified("7", "none"), NOT_FOUND, "Function not found: {none}"),
    Row("test_ops_on_nonexisting_fn", "get_function", {"FunctionName": "none"}, NOT_FOUND, "Function not found: {none}"),
    Row("test_ops_on_nonexisting_fn", "get_function_configuration", {"FunctionName": "none"}, NOT_FOUND, "Function not found: {none}"),
    Row("test_ops_on_nonexisting_fn", "get_function_concurrency", {"FunctionName": "none"}, NOT_FOUND, "Function not found: {none}"),
    Row("test_ops_on_nonexisting_version", "get_function", qualified("1221"), NOT_FOUND, "Function not found: {arn}:1221"),
    Row("test_ops_on_nonexisting_version", "get_function_configuration", qualified("1221"), NOT_FOUND, "Function not found: {arn}:1221"),
    *(
        Row(
            "test_get_function_wrong_region",
            operation,
            {"FunctionName": f"arn:aws:lambda:eu-west-3:123456789012:function:{FUNCTION}"},
            NOT_FOUND,
            "Functions from 'eu-west-3' are not reachable in this region ('us-east-1')",
        )
        for operation in ("delete_function", "get_function", "get_function_concurrency", "get_function_configuration", "invoke")
    ),
    *(
        Row(
            "test_lambda_code_location_s3_errors",
            "update_function_code",
            {"FunctionName": FUNCTION, "S3Bucket": bucket, "S3Key": "none.zip"},
            INVALID,
            f"Error occurred while GetObject. S3 Error Code: {said}",
        )
        for bucket, said in (
            ("no-such-bucket", "NoSuchBucket. S3 Error Message: The specified bucket does not exist"),
            ("builds", "NoSuchKey. S3 Error Message: The specified key does not exist."),
        )
    ),
    Row(PROVISIONED, "get_provisioned_concurrency_config", qualified("1", "none"), NOT_FOUND, "Function not found: {none}:1"),
    Row(PROVISIONED, "get_provisioned_concurrency_config", qualified("noalias", "none"), NOT_FOUND, "Cannot find alias arn: {none}:noalias"),
    Row(PROVISIONED, "get_provisioned_concurrency_config", qualified("noalias"), NOT_FOUND, "Cannot find alias arn: {arn}:noalias"),
    Row(PROVISIONED, "get_provisioned_concurrency_config", qualified("10"), NOT_FOUND, "Function not found: {arn}:10"),
    Row(PROVISIONED, "get_provisioned_concurrency_config", qualified("$LATEST"), INVALID, "The function resource provided must be an alias or a published version."),
    Row(PROVISIONED, "get_provisioned_concurrency_config", qualified("1"), NO_CONFIG, "No Provisioned Concurrency Config found for this function"),
    Row(PROVISIONED, "delete_provisioned_concurrency_config", qualified("1", "none"), NOT_FOUND, "Function not found: {none}:1"),
    Row(PROVISIONED, "delete_provisioned_concurrency_config", qualified("noalias"), NOT_FOUND, "Cannot find alias arn: {arn}:noalias"),
    Row(PROVISIONED, "delete_provisioned_concurrency_config", qualified("10"), NOT_FOUND, "Function not found: {arn}:10"),
    Row(PROVISIONED, "delete_provisioned_concurrency_config", qualified("$LATEST"), INVALID, "The function resource provided must be an alias or a published version."),
    Row(PROVISIONED, "list_provisioned_concurrency_configs", {"FunctionName": "none"}, NOT_FOUND, "Function not found: {none}"),
    Row(PROVISIONED, "put_provisioned_concurrency_config", provisioning("noalias", function="none"), NOT_FOUND, "Cannot find alias arn: {none}:noalias"),
    Row(PROVISIONED, "put_provisioned_concurrency_config", provisioning("1", function="none"), NOT_FOUND, "Function not found: {none}:1"),
    Row(PROVISIONED, "put_provisioned_concurrency_config", provisioning("doesnotexist"), NOT_FOUND, "Cannot find alias arn: {arn}:doesnotexist"),
    Row(PROVISIONED, "put_provisioned_concurrency_config", provisioning("10"), NOT_FOUND, "Function not found: {arn}:10"),
    Row(PROVISIONED, "put_provisioned_concurrency_config", provisioning("$LATEST"), INVALID, "Provisioned Concurrency Configs cannot be applied to unpublished function versions."),
    Row(
        PROVISIONED,
        "put_provisioned_concurrency_config",
        provisioning("1", 0),
        VALIDATION,
        "1 validation error detected: Value '0' at 'provisionedConcurrentExecutions' failed to satisfy constraint: Member "
        "must have value greater than or equal to 1",
    ),
    Row(
        "test_provisioned_concurrency_limits",
        "put_provisioned_concurrency_config",
        provisioning("1", 1001),
        INVALID,
        "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000].",
    ),
    Row("test_provisioned_concurrency_limits", "put_provisioned_concurrency_config", provisioning("1", 901), INVALID, f"Specified ConcurrentExecutions for function {BELOW_MINIMUM}"),
    Row(RESERVED, "put_function_concurrency", {"FunctionName": "none", "ReservedConcurrentExecutions": 1}, NOT_FOUND, "Function not found: {none}:$LATEST"),
    Row(RESERVED, "put_function_concurrency", {"FunctionName": "none", "ReservedConcurrentExecutions": 5000}, NOT_FOUND, "Function not found: {none}:$LATEST"),
    Row(RESERVED, "put_function_concurrency", {"FunctionName": f"{PREFIX}:{FUNCTION}:1", "ReservedConcurrentExecutions": 1}, INVALID, UNQUALIFIED),
    *(
        Row("test_function_concurrency_limits", "put_function_concurrency", {"FunctionName": FUNCTION, "ReservedConcurrentExecutions": count}, INVALID, f"Specified ReservedConcurrentExecutions for function {BELOW_MINIMUM}")
        for count in (901, 1001)
    ),
    Row(f"{REVISIONS}_basic", "update_function_code", {"FunctionName": FUNCTION, "ZipFile": package(), "RevisionId": "stale"}, PRECONDITION, STALE),
    Row(f"{REVISIONS}_basic", "update_function_configuration", {"FunctionName": FUNCTION, "RevisionId": "stale"}, PRECONDITION, STALE),
    Row(f"{REVISIONS}_version_and_alias", "publish_version", {"FunctionName": FUNCTION, "RevisionId": "stale"}, PRECONDITION, STALE),
    Row(f"{REVISIONS}_version_and_alias", "update_alias", alias(RevisionId="stale"), PRECONDITION, STALE),
    Row(
        f"{REVISIONS}_permissions",
        "add_permission",
        {"FunctionName": FUNCTION, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "RevisionId": "stale"},
        PRECONDITION,
        "The Revision Id provided does not match the latest Revision Id. Call the GetPolicy API to retrieve the latest Revision Id",
    ),
    Row("test_lambda_permission_versioning", "get_policy", qualified("1"), NOT_FOUND, "The resource you requested does not exist."),
    Row("test_publish_with_wrong_sha256", "publish_version", {"FunctionName": FUNCTION, "CodeSha256": "other"}, INVALID, "CodeSHA256 (other) is different from current CodeSHA256 in $LATEST ({sha256}). Please try again with the CodeSHA256 in $LATEST."),
    Row("test_tag_exceptions", "tag_resource", {"Resource": f"{PREFIX}:none", "Tags": {"a": "b"}}, NOT_FOUND, "Function not found: {none}"),
    Row("test_tag_exceptions", "tag_resource", {"Resource": f"{PREFIX}:{FUNCTION}", "Tags": {}}, INVALID, "An error occurred and the request cannot be processed."),
    Row("test_tag_exceptions", "tag_resource", {"Resource": f"{PREFIX}:{FUNCTION}:none", "Tags": {"a": "b"}}, INVALID, NO_TAGS),
    Row("test_tag_versions", "tag_resource", {"Resource": f"{PREFIX}:{FUNCTION}:1", "Tags": {"a": "b"}}, INVALID, NO_TAGS),
    Row("test_tag_versions", "tag_resource", {"Resource": f"{PREFIX}:{FUNCTION}:$LATEST", "Tags": {"a": "b"}}, INVALID, NO_TAGS),
    Row("test_tag_limits", "tag_resource", {"Resource": f"{PREFIX}:{FUNCTION}", "Tags": {f"k{n}": "v" for n in range(51)}}, INVALID, "Number of tags exceeds resource tag limit."),
    Row(
        "test_snapstart_exceptions",
        "update_function_configuration",
        {"FunctionName": FUNCTION, "SnapStart": {"ApplyOn": "invalidOption"}},
        VALIDATION,
        "1 validation error detected: Value 'invalidOption' at 'snapStart.applyOn' failed to satisfy constraint: Member must "
        "satisfy enum value set: [PublishedVersions, None]",
    ),
)  # fmt: skip
"""Each is made in an account in which fn has the versions 1 and 2, and the alias live, which points at 1."""


@dataclass
class Recorded:
    """The account, and its clients by service."""

    world: World
    sha256: str = ""
    clients: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, service: str) -> Any:
        return self.clients.setdefault(service, self.world.client(service))


@pytest.fixture(scope="module")
def account(sandbox: Sandbox) -> Iterator[Recorded]:
    found = Recorded(sandbox.world)
    lam = sandbox.world.client("lambda")
    sandbox.world.client("s3").create_bucket(Bucket="builds")
    lam.create_function(
        FunctionName=FUNCTION, Role=ROLE, Runtime="python3.12", Handler="app.handler", Code={"ZipFile": package()}
    )
    for source in ("", "x = 1\n"):
        sandbox.world.clock.advance_to(sandbox.world.clock.now() + 5)
        found.sha256 = lam.update_function_code(
            FunctionName=FUNCTION, ZipFile=package(source + "def handler(event, context):\n    return event\n")
        )["CodeSha256"]
        sandbox.world.clock.advance_to(sandbox.world.clock.now() + 5)
        lam.publish_version(FunctionName=FUNCTION)
    lam.create_alias(FunctionName=FUNCTION, Name="live", FunctionVersion="1")
    yield found


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row.recorded}-{row.operation}")
def test_lambda_refuses_as_recorded(account: Recorded, row: Row) -> None:
    """The same code, HTTP status and message."""
    lam = boto3.client("lambda", endpoint_url=account.world.endpoint, config=UNCHECKED, **KEYS)
    with pytest.raises(ClientError) as refused:
        getattr(lam, row.operation)(**row.params)
    said = refused.value.response
    message = row.message.format(arn=f"{PREFIX}:{FUNCTION}", none=f"{PREFIX}:none", sha256=account.sha256)
    found = (said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"], said["Error"]["Message"])
    assert found == (row.code, STATUS.get(row.code, 400), message)


UNTYPED = (
    ("create_alias", alias(Name="new", FunctionVersion="$LATEST", RoutingConfig=weights(_1=0.5))),
    ("put_function_concurrency", {"FunctionName": FUNCTION, "ReservedConcurrentExecutions": 901}),
    ("put_provisioned_concurrency_config", provisioning("1", 901)),
    ("put_provisioned_concurrency_config", provisioning("1", 1001)),
)


@pytest.mark.parametrize(("operation", "params"), UNTYPED)
def test_some_refusals_of_lambda_have_no_type(account: Recorded, operation: str, params: dict[str, Any]) -> None:
    """The member Type is missing where AWS leaves it out.

    Source: recorded AWS responses, 2025-11-25, test_notfound_and_invalid_routingconfigs, test_function_concurrency_limits,
    test_provisioned_concurrency_limits.
    """
    with pytest.raises(ClientError) as refused:
        getattr(account.world.client("lambda"), operation)(**params)
    assert "Type" not in refused.value.response


def test_invocation_by_an_invalid_name_is_refused(account: Recorded) -> None:
    """A name that no function can have is invalid, not missing.

    Source: recorded AWS response, 2025-11-25, test_invalid_invoke.
    """
    name = "arn:aws:lambda:us-east-1:123400000000@function:myfn"
    lam = boto3.client("lambda", endpoint_url=account.world.endpoint, config=UNCHECKED, **KEYS)
    with pytest.raises(ClientError) as refused:
        lam.invoke(FunctionName=name)
    error = refused.value.response["Error"]
    assert error["Code"] == VALIDATION
    assert error["Message"].startswith(
        f"1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: Member must satisfy "
        "regular expression pattern: "
    )


def test_function_that_is_created_and_published_at_once(account: Recorded) -> None:
    """The answer is version 1 under the function's own ARN. The version takes another RevisionId when it is Active.

    Source: recorded AWS response, 2025-11-25, test_publish_version_on_create.
    """
    lam, clock = account.world.client("lambda"), account.world.clock
    given = {"Role": ROLE, "Runtime": "python3.12", "Handler": "app.handler", "Code": {"ZipFile": package()}}
    made = lam.create_function(FunctionName="at-once", Publish=True, **given)
    assert (made["Version"], made["FunctionArn"], made["State"]) == ("1", f"{PREFIX}:at-once", "Pending")
    clock.advance_to(clock.now() + 5)
    version = lam.get_function_configuration(**qualified("1", "at-once"))
    assert version["FunctionArn"] == f"{PREFIX}:at-once:1"
    latest = lam.get_function_configuration(**qualified("$LATEST", "at-once"))
    assert len({made["RevisionId"], version["RevisionId"], latest["RevisionId"]}) == 3
    again = lam.publish_version(FunctionName="at-once")
    assert (again["Version"], again["RevisionId"]) == ("1", version["RevisionId"])


def test_tags_rotate_the_revision(account: Recorded) -> None:
    """TagResource and UntagResource give $LATEST another RevisionId: a write with the one of before is refused.

    Source: recorded AWS response, 2025-11-25, TestLambdaTags::test_tag_lifecycle.
    """
    lam = account.world.client("lambda")
    seen = [lam.get_function_configuration(FunctionName=FUNCTION)["RevisionId"]]
    for change in (
        lambda: lam.tag_resource(Resource=f"{PREFIX}:{FUNCTION}", Tags={"a": "b"}),
        lambda: lam.untag_resource(Resource=f"{PREFIX}:{FUNCTION}", TagKeys=["a"]),
    ):
        change()
        seen.append(lam.get_function_configuration(FunctionName=FUNCTION)["RevisionId"])
    assert len(set(seen)) == 3
    with pytest.raises(lam.exceptions.PreconditionFailedException):
        lam.update_function_configuration(FunctionName=FUNCTION, RevisionId=seen[0], MemorySize=256)


def test_tail_of_an_invocation_ends_as_recorded(account: Recorded) -> None:
    """A REPORT line ends with a tab, and the tail with the end of its last line.

    Source: recorded AWS response, 2025-11, TestLambdaFeatures::test_invocation_with_logs.
    """
    reply = account.world.client("lambda").invoke(**qualified("1"), Payload=b"{}", LogType="Tail")
    tail = base64.b64decode(reply["LogResult"]).decode()
    assert tail.splitlines()[0].startswith("START RequestId: ")
    assert tail.endswith(" ms\t\n")


CONFIGURATION = {
    *("Architectures", "CodeSha256", "CodeSize", "Description", "EphemeralStorage", "FunctionArn", "FunctionName"),
    *("Handler", "LastModified", "LoggingConfig", "MemorySize", "PackageType", "RevisionId", "Role", "Runtime"),
    *("SnapStart", "Timeout", "TracingConfig", "Version"),
}
NEWER = {"ConfigSha256", "ResponseMetadata"}
"""What AWS added after the recordings, and what the SDK adds."""

SETTLED = CONFIGURATION | {"RuntimeVersionConfig", "State", "LastUpdateStatus"}
ALIAS = {"AliasArn", "Description", "FunctionVersion", "Name", "RevisionId"}
PROVISIONING = {
    *("AllocatedProvisionedConcurrentExecutions", "LastModified", "RequestedProvisionedConcurrentExecutions", "Status"),
    "AvailableProvisionedConcurrentExecutions",
}


def members(answer: dict[str, Any]) -> set[str]:
    return answer.keys() - NEWER


def test_answers_have_the_recorded_members(account: Recorded) -> None:
    """No member is missing and none is too many, from the creation of a function to the deletion of an alias.

    Source: recorded AWS responses, 2025-11-25, test_alias_lifecycle, test_version_lifecycle, test_publish_version_on_create,
    TestLambdaProvisionedConcurrency, test_reserved_concurrency.
    """
    lam, clock = account.world.client("lambda"), account.world.clock
    named = {"FunctionName": "members"}
    made = lam.create_function(
        **named, Role=ROLE, Runtime="python3.12", Handler="app.handler", Code={"ZipFile": package()}
    )
    assert members(made) == CONFIGURATION | {"RuntimeVersionConfig", "State", "StateReason", "StateReasonCode"}
    assert (made["State"], made["StateReason"], made["StateReasonCode"]) == (
        "Pending",
        "The function is being created.",
        "Creating",
    )
    clock.advance_to(clock.now() + 5)
    assert members(lam.get_function_configuration(**named)) == SETTLED
    updated = lam.update_function_code(**named, ZipFile=package("x = 2"))
    assert members(updated) == SETTLED | {"LastUpdateStatusReason", "LastUpdateStatusReasonCode"}
    assert (updated["LastUpdateStatusReason"], updated["LastUpdateStatusReasonCode"]) == (
        "The function is being created.",
        "Creating",
    )
    clock.advance_to(clock.now() + 5)
    published = lam.publish_version(**named)
    assert members(published) == SETTLED
    assert (published["State"], published["LastUpdateStatus"]) == ("Active", "Successful")
    whole = lam.get_function(**named)
    assert members(whole) == {"Code", "Configuration"} and whole["Code"].keys() == {"Location", "RepositoryType"}
    assert [members(row) for row in lam.list_versions_by_function(**named)["Versions"]] == [CONFIGURATION] * 2
    assert members(lam.create_alias(**named, Name="live", FunctionVersion="1")) == ALIAS
    split = weights(_1=0.1)
    lam.update_function_code(**named, ZipFile=package("x = 3"))
    clock.advance_to(clock.now() + 5)
    lam.publish_version(**named)
    routed = lam.update_alias(**named, Name="live", FunctionVersion="2", RoutingConfig=split)
    assert members(routed) == ALIAS | {"RoutingConfig"} and routed["RoutingConfig"] == split
    assert members(lam.update_alias(**named, Name="live", RoutingConfig={"AdditionalVersionWeights": {}})) == ALIAS
    assert members(lam.put_function_concurrency(**named, ReservedConcurrentExecutions=0)) == {
        "ReservedConcurrentExecutions"
    }
    assert members(lam.get_function_concurrency(**named)) == {"ReservedConcurrentExecutions"}
    lam.delete_function_concurrency(**named)
    assert members(lam.get_function_concurrency(**named)) == set()
    provisioned = lam.put_provisioned_concurrency_config(**provisioning("live", function="members"))
    assert members(provisioned) == PROVISIONING and provisioned["AllocatedProvisionedConcurrentExecutions"] == 0
    deleted = lam.delete_alias(**named, Name="live")
    assert deleted["ResponseMetadata"]["HTTPStatusCode"] == 204


LOGS = (
    ("get_log_events", {"logStreamName": "none"}, NOT_FOUND, "The specified log stream does not exist."),
    ("filter_log_events", {"limit": 10_001}, "InvalidParameterException", "1 validation error detected: Value '10001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 10000"),
    ("get_log_events", {"logStreamName": "s", "limit": 10_001}, "InvalidParameterException", "1 validation error detected: Value '10001' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 10000"),
    ("filter_log_events", {"nextToken": "unknown"}, "InvalidParameterException", "The specified nextToken is invalid."),
    ("get_log_events", {"logStreamName": "s", "nextToken": "unknown"}, "InvalidParameterException", "The specified nextToken is invalid."),
    ("put_log_events", {"logStreamName": "none", "logEvents": [{"timestamp": 1, "message": "m"}]}, NOT_FOUND, "The specified log stream does not exist."),
    ("put_log_events", {"logStreamName": "s", "logEvents": [{"timestamp": 2, "message": "m"}, {"timestamp": 1, "message": "m"}]}, "InvalidParameterException", "Log events in a single PutLogEvents request must be in chronological order."),
    ("create_log_group", {}, "ResourceAlreadyExistsException", "The specified log group already exists"),
    ("create_log_group", {"logGroupName": "x" * 513}, "InvalidParameterException", "Invalid LogGroup or LogStream, both must have length less than or equal to 512."),
    ("create_log_stream", {"logStreamName": "s"}, "ResourceAlreadyExistsException", "The specified log stream already exists"),
    ("describe_log_streams", {"logGroupName": "none"}, NOT_FOUND, "The specified log group does not exist."),
    ("describe_log_streams", {"logGroupIdentifier": "group"}, VALIDATION, "LogGroup name and LogGroup ARN are mutually exclusive parameters."),
    ("delete_log_group", {"logGroupName": "none"}, NOT_FOUND, "The specified log group does not exist."),
)  # fmt: skip


@pytest.mark.parametrize(("operation", "params", "code", "message"), LOGS)
def test_logs_refuse_as_recorded(
    account: Recorded, operation: str, params: dict[str, Any], code: str, message: str
) -> None:
    """The same code and message of CloudWatch Logs.

    Source: recorded AWS responses, test_logs_groups, test_logs_streams and test_logs_events.
    """
    logs = boto3.client("logs", endpoint_url=account.world.endpoint, config=UNCHECKED, **KEYS)
    names = {each["logGroupName"] for each in logs.describe_log_groups()["logGroups"]}
    if "group" not in names:
        logs.create_log_group(logGroupName="group")
        logs.create_log_stream(logGroupName="group", logStreamName="s")
    with pytest.raises(ClientError) as refused:
        getattr(logs, operation)(**{"logGroupName": "group", **params})
    error = refused.value.response["Error"]
    assert (error["Code"], error["Message"]) == (code, message)


def test_log_groups_and_streams_have_the_recorded_members(account: Recorded) -> None:
    """Counters are there while they are 0, and a put answers with a token for older clients.

    Source: recorded AWS responses, 2026-02, test_describe_log_groups_with_prefix, test_describe_log_streams_with_prefix,
    test_put_log_events_too_old.
    """
    logs = account.world.client("logs")
    logs.create_log_group(logGroupName="counted")
    logs.create_log_stream(logGroupName="counted", logStreamName="s")
    put = logs.put_log_events(
        logGroupName="counted", logStreamName="s", logEvents=[{"timestamp": 1, "message": "too old"}]
    )
    assert members(put) == {"nextSequenceToken", "rejectedLogEventsInfo"}
    (group,) = logs.describe_log_groups(logGroupNamePrefix="counted")["logGroups"]
    assert (group["storedBytes"], group["metricFilterCount"], group["deletionProtectionEnabled"]) == (0, 0, False)
    (stream,) = logs.describe_log_streams(logGroupName="counted")["logStreams"]
    assert stream["storedBytes"] == 0


EXPRESSIONS = (
    *(
        " rate(10 minutes)",
        "rate( 10 minutes )",
        "rate()",
        "rate(-10 minutes)",
        "rate(10 minutess)",
        "rate(10 seconds)",
    ),
    *("rate(10 years)", "rate(10)", "rate(foo minutes)", "at(2021-12-31)", "at(2021-12-31T23:59:59Z)", "cron()"),
    *(
        "cron(0 1 * * * *)",
        "cron(0 dummy ? * MON-FRI *)",
        "cron(7 20 * * NOT *)",
        "cron(71 8 1 * ? *)",
        "cron(INVALID)",
    ),
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_scheduler_refuses_expressions_as_recorded(account: Recorded, expression: str) -> None:
    """An expression that makes no sense is refused with itself in the message.

    Source: recorded AWS responses, tests_create_schedule_with_invalid_schedule_expression.
    """
    with pytest.raises(ClientError) as refused:
        account.world.client("scheduler").create_schedule(
            Name="s",
            ScheduleExpression=expression,
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": "arn:aws:sqs:us-east-1:123456789012:queue", "RoleArn": ROLE},
        )
    error = refused.value.response["Error"]
    assert (error["Code"], error["Message"]) == (VALIDATION, f"Invalid Schedule Expression {expression}.")


def test_query_of_an_unknown_group_is_refused_as_recorded(account: Recorded) -> None:
    """Logs Insights has words of its own for a group that does not exist.

    Source: recorded AWS responses, test_start_query_log_group_not_found.
    """
    asked = {"startTime": 0, "endTime": 1, "queryString": "fields @message"}
    with pytest.raises(ClientError) as refused:
        account.world.client("logs").start_query(logGroupName="none", **asked)
    error = refused.value.response["Error"]
    assert error["Code"] == NOT_FOUND
    assert error["Message"].startswith(
        "Log group 'none' does not exist for account ID '123456789012' (Service: AWSLogs;"
    )


def test_lists_of_an_alarm_are_shown_when_empty(account: Recorded) -> None:
    """An alarm without actions or dimensions has empty lists of them, and the answer has one of composite alarms.

    Source: recorded AWS responses, 2025-09-19, test_delete_alarm, test_store_tags.
    """
    cloudwatch = account.world.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="bare",
        Namespace="n",
        MetricName="m",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanThreshold",
    )
    shown = cloudwatch.describe_alarms(AlarmNames=["bare"])
    (alarm,) = shown["MetricAlarms"]
    assert shown["CompositeAlarms"] == []
    assert [alarm[name] for name in ("OKActions", "AlarmActions", "InsufficientDataActions", "Dimensions")] == [[]] * 4
    cloudwatch.delete_alarms(AlarmNames=["bare"])


DATUM = "The parameters MetricData.member.1"
SET = {"SampleCount": 1.0, "Sum": 1.0, "Minimum": 1.0, "Maximum": 1.0}
DAY = {"StartTime": START, "EndTime": START + timedelta(days=1)}
CLOUDWATCH = (
    (
        "get_metric_statistics",
        {**DAY, "Period": 1},
        "InvalidParameterCombination",
        "You have requested up to 86400 datapoints, which exceeds the limit of 1440. You may reduce the datapoints "
        "requested by increasing Period, or decreasing the time range.",
    ),
    (
        "get_metric_statistics",
        {"StartTime": START, "EndTime": START, "Period": 60},
        "InvalidParameterValue",
        "The parameter StartTime must be less than the parameter EndTime.",
    ),
    (
        "put_metric_data",
        {"Value": 1.0, "Values": [1.0]},
        "InvalidParameterCombination",
        f"{DATUM}.Value and MetricData.member.1.Values are mutually exclusive and you have specified both.",
    ),
    (
        "put_metric_data",
        {"Value": 1.0, "StatisticValues": SET},
        "InvalidParameterCombination",
        f"{DATUM}.Value and MetricData.member.1.StatisticValues are mutually exclusive and you have specified both.",
    ),
    (
        "put_metric_data",
        {"Values": [1.0, 2.0], "Counts": [1.0]},
        "InvalidParameterValue",
        f"{DATUM}.Values and MetricData.member.1.Counts must be of the same size.",
    ),
    (
        "set_alarm_state",
        {"StateValue": "INVALID"},
        "ValidationError",
        "1 validation error detected: Value 'INVALID' at 'stateValue' failed to satisfy constraint: Member must satisfy "
        "enum value set: [INSUFFICIENT_DATA, ALARM, OK]",
    ),
    ("set_alarm_state", {"StateValue": "OK"}, "ResourceNotFound", ""),
)


@pytest.mark.parametrize(("operation", "params", "code", "message"), CLOUDWATCH)
def test_cloudwatch_refuses_as_recorded(
    account: Recorded, operation: str, params: dict[str, Any], code: str, message: str
) -> None:
    """The same code and message of CloudWatch.

    Source: recorded AWS responses, test_invalid_amount_of_datapoints, test_put_metric_data_validation and
    test_set_alarm_invalid_input.
    """
    given = {
        "get_metric_statistics": {"Namespace": "n", "MetricName": "m", "Statistics": ["Sum"], **params},
        "put_metric_data": {"Namespace": "n", "MetricData": [{"MetricName": "m", **params}]},
        "set_alarm_state": {"AlarmName": "none", "StateReason": "r", **params},
    }
    with pytest.raises(ClientError) as refused:
        getattr(account.world.client("cloudwatch"), operation)(**given[operation])
    error = refused.value.response["Error"]
    assert (error["Code"], error.get("Message") or "") == (code, message)


TOPIC = "arn:aws:sns:us-east-1:123456789012:known"
ELEMENTS = "Invalid parameter: TopicArn Reason: An ARN must have at least 6 elements, not"
SNS = (
    ({"TopicArn": "topic"}, "InvalidParameter", 400, f"{ELEMENTS} 1"),
    ({"TopicArn": "arn:topic"}, "InvalidParameter", 400, f"{ELEMENTS} 2"),
    ({"TopicArn": ""}, "InvalidParameter", 400, f"{ELEMENTS} 1"),
    ({"TopicArn": TOPIC.replace("us-east-1", "eu-west-1")}, "InvalidParameter", 400, "Invalid parameter: TopicArn"),
    ({"TopicArn": f"{TOPIC}-not"}, "NotFound", 404, "Topic does not exist"),
    ({"Message": ""}, "InvalidParameter", 400, "Invalid parameter: Empty message"),
    ({"Message": "x" * 262_145}, "InvalidParameter", 400, "Invalid parameter: Message too long"),
    ({"Subject": ""}, "InvalidParameter", 400, "Invalid parameter: Subject"),
)


@pytest.mark.parametrize(("params", "code", "status", "message"), SNS)
def test_sns_refuses_messages_as_recorded(
    account: Recorded, params: dict[str, Any], code: str, status: int, message: str
) -> None:
    """The same code, HTTP status and message of Publish.

    Source: recorded AWS responses, 2023-08 to 2024-09, TestSNSPublishCrud.
    """
    sns = account.world.client("sns")
    sns.create_topic(Name="known")
    sns.publish(TopicArn=TOPIC, Message="one that is taken")
    with pytest.raises(ClientError) as refused:
        sns.publish(**{"TopicArn": TOPIC, "Message": "m", **params})
    said = refused.value.response
    assert (said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    assert said["Error"]["Message"] == message
