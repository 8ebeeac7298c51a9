"""The AWS SDK's errors in the operator's words.

Knows which of them mean that nothing happened, and which leave it open. Never calls AWS.
"""

from botocore import exceptions as botocore

from buddy_ops.core.errors import AwsFailed

READS = ("get_", "list_", "describe_", "scan", "query", "batch_get_")


def translate_error(error: Exception, call: str, region: str) -> AwsFailed:
    """An SDK's error in three parts."""
    unchanged = f"{call} changed nothing."
    reads = call.rsplit(":", maxsplit=1)[-1].startswith(READS)
    unknown = unchanged if reads else f"Unknown: {call} may or may not have taken effect."
    again = "Run the same command again: it reads what is live first."
    if isinstance(error, botocore.ClientError):
        code = str(error.response.get("Error", {}).get("Code", "Unknown"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = error.response.get("Error", {}).get("Message", "")
        reference, now, next_step = "aws-refused", unchanged, f"{again} AWS says why above."
        if code.startswith("AccessDenied") or code in ("UnauthorizedOperation", "NotAuthorized"):
            reference, next_step = (
                "access-denied",
                f"Ask for the permission {call}; docs/setup-aws.md lists the roles.",
            )
        elif "ExpiredToken" in code or code in ("UnrecognizedClientException", "InvalidClientTokenId"):
            reference, next_step = "credentials-expired", "Sign in again (`aws sso login`), then run the same again."
        elif status >= 500 or "Throttl" in code or code == "TooManyRequestsException":
            reference, now, next_step = "aws-unavailable", unknown if status >= 500 else unchanged, again
        elif code == "ResourceNotFoundException":
            reference, next_step = (
                "not-found",
                "Check function, alias and region in the environment's parameters/ file.",
            )
        return AwsFailed(reference, f"AWS refused {call}: {code}: {message}", now=now, next=next_step, code=code)
    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError, botocore.TokenRetrievalError)):
        next_step = "Set AWS_PROFILE, or sign in (`aws sso login`), then run the same again."
        what = f"There are no AWS credentials for {call}: {error}."
        return AwsFailed("no-credentials", what, next=next_step, code="no-credentials")
    if isinstance(error, botocore.ParamValidationError):
        return AwsFailed("aws-refused", f"{call} was not sent: {error}", now=unchanged, next=again, code="invalid")
    sent = not isinstance(error, (botocore.EndpointConnectionError, botocore.ConnectTimeoutError))
    return AwsFailed(
        "aws-unreachable",
        f"{call} got no answer: {error}",
        now=unknown if sent else unchanged,
        next=f"Check the network and the region ({region}). {again}",
        code="timeout" if sent else "unreachable",
    )
