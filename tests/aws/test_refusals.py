"""AWS's refusals, by code and message: each has its own cause, and none a guess.

Codes and messages: recorded AWS responses, 2023 to 2026, and AWS's documentation.
"""

import pytest
from botocore.exceptions import ClientError

from buddy_ops.aws.errors import translate_error
from buddy_ops.core.errors import AccessDenied, AwsFailed, Busy, Conflict, NotFound, Throttled

ARN = "arn:aws:lambda:us-east-1:111111111111:function:buddy"
INVALID = "InvalidParameterValueException"


def refused(call: str, code: str, message: str, status: int = 400) -> AwsFailed:
    """Our error for a refusal of AWS."""
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_error(ClientError(response, call), call, "us-east-1")  # type: ignore[arg-type]


CAUSES = [
    ("lambda:update_function_code", "RequestEntityTooLargeException", "Request must be smaller than 70167211 bytes",
     "artifact-too-large", AwsFailed, "smaller one"),
    ("lambda:update_function_code", INVALID, "Unzipped size must be smaller than 262144000 bytes",
     "artifact-too-large", AwsFailed, "262144000 bytes unpacked"),
    ("lambda:publish_version", "CodeStorageExceededException", "Code storage limit exceeded.",
     "code-storage-full", AwsFailed, "operations/clean_up_versions"),
    ("lambda:update_alias", INVALID, "Specified versions must be associated with the same execution role",
     "roles-differ", AwsFailed, "the role of the version that serves"),
    ("lambda:update_alias", INVALID, "$LATEST is not supported for an alias pointing to more than 1 version",
     "alias-on-latest", AwsFailed, "Publish $LATEST"),
    ("lambda:publish_version", INVALID, "CodeSHA256 (aaaa) is different from current CodeSHA256 in $LATEST (bbbb). Please "
     "try again with the CodeSHA256 in $LATEST.", "aws-refused", Conflict, "Another run uploaded other code"),
    ("lambda:publish_version", INVALID, f"Layer version {ARN}:9 does not exist.", "aws-refused", AwsFailed, f"{ARN}:9 was deleted"),
    ("lambda:update_function_code", "ResourceConflictException", "The operation cannot be performed at this time. An update "
     f"is in progress for resource: {ARN}", "function-busy", Busy, "function-updated-v2"),
    ("lambda:update_function_code", "ResourceConflictException", "The operation cannot be performed at this time. The "
     "function is currently in the following state: Pending", "function-busy", Busy, "it is Pending"),
    ("lambda:get_alias", "ResourceNotFoundException", "Functions from 'eu-west-1' are not reachable in this region "
     "('us-east-1')", "not-found", NotFound, "aws.region in the environment's parameters/ file to eu-west-1"),
    ("lambda:get_alias", "ResourceNotFoundException", f"Function not found: {ARN}", "not-found", NotFound, "function and alias"),
    ("scheduler:create_schedule", "ResourceNotFoundException", "Schedule group buddy does not exist.",
     "not-found", NotFound, "lease.group"),
    ("dynamodb:get_item", "ResourceNotFoundException", "Requested resource not found: Table: bad-table not found",
     "not-found", NotFound, "tables in the environment"),
    ("logs:start_query", "ResourceNotFoundException", "The specified log group does not exist.", "not-found", NotFound,
     "nothing to read yet"),
    ("cloudwatch:set_alarm_state", "ResourceNotFound", "", "not-found", NotFound, "operations/alarms"),
    ("sns:publish", "NotFound", "Topic does not exist", "not-found", NotFound, "ARN of the topic"),
    ("lambda:put_function_concurrency", INVALID, "Specified ReservedConcurrentExecutions for function decreases account's "
     "UnreservedConcurrentExecution below its minimum value of [100].", "aws-refused", AwsFailed, "keeps 100 concurrent"),
    ("lambda:put_function_concurrency", INVALID, " ReservedConcurrentExecutions  0 should not be lower than function's total "
     "provisioned concurrency [7].", "aws-refused", AwsFailed, "provisioned concurrency of 7"),
    ("scheduler:create_schedule", "ValidationException", "The execution role you provide must allow AWS EventBridge "
     "Scheduler to assume the role.", "failsafe-role-unusable", AwsFailed, "lease.role_arn"),
    ("lambda:invoke", "KMSAccessDeniedException", "Lambda was unable to decrypt the environment variables",
     "kms-key-unusable", AwsFailed, "kms:Decrypt"),
    ("lambda:update_alias", "PreconditionFailedException", "The Revision Id provided does not match the latest Revision Id.",
     "aws-refused", Conflict, "reads the current state first"),
    ("lambda:invoke", "TooManyRequestsException", "Rate Exceeded.", "aws-unavailable", Throttled, "again"),
    ("lambda:update_alias", "ValidationException", "1 validation error detected", "aws-refused", AwsFailed, "Correct what AWS names"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "code", "message", "reference", "kind", "advice"), CAUSES)
def test_cause_of_a_refusal(
    call: str, code: str, message: str, reference: str, kind: type[AwsFailed], advice: str
) -> None:
    """The reference, the kind and the next step fit the message; AWS's own words stay."""
    error = refused(call, code, message)
    assert (error.reference, type(error)) == (reference, kind)
    assert advice in error.next and message in error.what and "{" not in error.next


def test_publish_refused_for_another_reason_is_no_collision() -> None:
    """An InvalidParameterValueException of PublishVersion that does not name the code's hash is nobody's upload."""
    error = refused("lambda:publish_version", INVALID, "An error occurred and the request cannot be processed.")
    assert type(error) is AwsFailed


@pytest.mark.parametrize(
    ("call", "message", "permission"),
    [
        ("scheduler:create_schedule", "User: arn:aws:sts::1:assumed-role/a/b is not authorized to perform: iam:PassRole on "
         "resource: arn:aws:iam::1:role/buddy-ops-scheduler because no identity-based policy allows the iam:PassRole action",
         "iam:PassRole on arn:aws:iam::1:role/buddy-ops-scheduler;"),
        ("lambda:get_alias", "no", "lambda:GetAlias;"),
    ],
)  # fmt: skip
def test_denied_permission_is_spelled_as_in_iam(call: str, message: str, permission: str) -> None:
    """The permission that lacks is the one that AWS names, which need not be the call's own."""
    error = refused(call, "AccessDeniedException", message, 403)
    assert isinstance(error, AccessDenied) and f"Ask for the permission {permission}" in error.next
