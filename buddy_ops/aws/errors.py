"""AWS's errors in the operator's words, by what they say of the state after the call."""

from typing import Any

from botocore import exceptions as botocore

from buddy_ops.aws import _refusals, _replies
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import (
    AccessDenied,
    AlreadyExists,
    AwsFailed,
    Conflict,
    NotFound,
    Throttled,
    TimedOut,
    Unreachable,
)

READING = (
    *("get_", "list_", "describe_", "start_query", "simulate_", "head_", "scan", "query", "batch_get_"),
    *("sign", "verify"),  # of KMS
)
"""Prefixes of boto3's operations that change nothing."""

KINDS: dict[type[AwsFailed], tuple[str, ...]] = {
    NotFound: (
        "NotFound",  # of SNS
        "AWS.SimpleQueueService.NonExistentQueue",
        "NotFoundException",
        "NoSuchEntity",
        "NoSuchEntityException",
        "NoSuchKey",
        "ObjectLockConfigurationNotFoundError",
        "ParameterNotFound",
        "PolicyNotFoundException",
        "ProvisionedConcurrencyConfigNotFoundException",
        "ResourceNotFound",  # of CloudWatch
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    ),
    AlreadyExists: ("ParameterAlreadyExists", "TableAlreadyExistsException"),
    Conflict: (
        "409",
        "412",
        "ConditionalRequestConflict",
        "ConflictException",
        "PreconditionFailed",
        "PreconditionFailedException",
        "ResourceConflictException",
    ),
    AccessDenied: ("AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"),
    Throttled: (
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingError",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        # Another transaction holds the item: DynamoDB takes the request later.
        "TransactionConflict",
        "TransactionInProgressException",
    ),
}
"""AWS's error codes, by the error that they become."""

AGAIN = "Run the same command again: it reads the current state first."


def is_reading(call: str) -> bool:
    """Whether a call such as 'lambda:get_alias' changes nothing."""
    return call.partition(":")[2].startswith(READING)


def translate_error(error: Exception, call: str, region: str) -> AwsFailed:
    """The SDK's error of a call such as 'lambda:get_alias', as one of ours."""
    if isinstance(error, botocore.ClientError):
        if error.response.get("Error", {}).get(_replies.MARK):
            return incomplete_reply(error.response["Error"]["Message"], call, region)
        return _refused(error, call, region)
    if isinstance(error, _replies.IncompleteReply):
        return incomplete_reply(str(error), call, region)
    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.TokenRetrievalError)):
        next_step = "Set AWS_PROFILE, or sign in (`aws sso login`), then run the same command again."
        what = f"There are no AWS credentials for {call}: {error}."
        return AwsFailed("no-credentials", what, next=next_step, code="no-credentials")
    unchanged = f"{call} changed nothing."
    if isinstance(error, botocore.ParamValidationError):
        return AwsFailed("aws-refused", f"{call} was not sent: {error}", now=unchanged, next=AGAIN, code="invalid")
    what = f"{call} got no answer: {error}"
    next_step = f"Check the network and the region ({region}). {AGAIN}"
    # Without a connection nothing was sent. After that the call may have been carried out, whatever broke.
    if isinstance(error, (botocore.EndpointConnectionError, botocore.ConnectTimeoutError)):
        return Unreachable("aws-unreachable", what, now=unchanged, next=next_step, code="unreachable")
    return TimedOut("aws-unreachable", what, now=_unknown(call), next=next_step, code="timeout")


def incomplete_reply(what: str, call: str, region: str) -> Unreachable:
    """The error of a call whose every attempt was answered in part, or by something between us and AWS."""
    return Unreachable(
        "aws-unreachable",
        f"{call} got {what}.",
        now=_unknown(call),
        next=f"Check the network, its proxies and the region ({region}). {AGAIN}",
        code=_replies.CODE,
    )


def parse_member(text: str, call: str, region: str) -> Any:
    """The JSON in a member of a reply.

    Raises:
        Unreachable: ``aws-unreachable``: it is no JSON.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        raise incomplete_reply(f"no JSON: {error}", call, region) from None


def _unknown(call: str) -> str:
    """The state after a call that may have been carried out."""
    if is_reading(call):
        return f"{call} changed nothing."
    return f"Unknown: {call} may or may not have taken effect."


def _refused(error: botocore.ClientError, call: str, region: str) -> AwsFailed:
    code = str(error.response.get("Error", {}).get("Code", "Unknown"))
    message = error.response.get("Error", {}).get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code.isdecimal() and not call.startswith("s3:"):
        # AWS names its errors, S3's answers to HEAD excepted: a number alone is the status of something in between.
        what = f"a reply that is not from AWS (HTTP {code}: {message.strip()[:200] or 'empty'})"
        return incomplete_reply(what, call, region)
    kind = next((kind for kind, codes in KINDS.items() if code in codes), AwsFailed)
    refusal = _refusals.find(call, code, message)
    reference = "aws-refused"
    now = f"{call} changed nothing."
    next_step = "Correct what AWS names above. The same command repeats the call: it reads the current state first."
    if refusal is not None:
        reference = refusal[0].reference
        next_step = refusal[1]
        kind = refusal[0].kind or kind
    elif kind is AccessDenied:
        reference = "access-denied"
        permission = _refusals.denied_permission(call, message)
        next_step = f"Ask for the permission {permission}; docs/setup-aws.md lists the roles."
    elif kind is Conflict:
        next_step = AGAIN
    elif "ExpiredToken" in code or code in ("UnrecognizedClientException", "InvalidClientTokenId"):
        reference = "credentials-expired"
        next_step = "Sign in again (`aws sso login`), then run the same command again."
    # AWS may have carried it out before it failed. A 4xx is decided before anything is done.
    elif status >= 500:
        reference = "aws-unavailable"
        now = _unknown(call)
        next_step = AGAIN
    elif kind is Throttled:
        reference = "aws-unavailable"
        next_step = AGAIN
    elif kind is NotFound:
        reference = "not-found"
        next_step = "Check the names in the environment's parameters/ file, the region and the account."
    return kind(reference, f"AWS refused {call}: {code}: {message}", now=now, next=next_step, code=code)
