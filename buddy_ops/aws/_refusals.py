"""AWS's refusals by code and message: the cause of each, and what ends it.

One code has many causes: InvalidParameterValueException says that a package is too large, that a layer does not exist
and that two versions have different roles. What is not listed here is shown in AWS's words alone.

Source: recorded AWS responses, 2023 to 2026; AWS's developer guides and API references; public reports where noted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from buddy_ops.core.errors import AwsFailed, Busy, Conflict

AGAIN = "Then run the same command again."
INVALID = "InvalidParameterValueException"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One cause.

    Attributes:
        service: boto3's name of the service that says it; empty: any.
        code: AWS's error code.
        says: a regular expression that the message matches; its named groups are given to ``next``.
        next: what ends it.
        kind: the error that it becomes; None: the one of its code.
    """

    service: str = ""
    code: str
    says: str = ""
    reference: str = "aws-refused"
    next: str
    kind: type[AwsFailed] | None = None


REFUSALS = (
    # What is sent
    Refusal(
        service="lambda",
        code="RequestEntityTooLargeException",
        reference="artifact-too-large",
        next="Lambda takes a zip of at most 50 MB with the call. Build a smaller one (dependencies into a layer), or "
        "upload it to S3 and give s3://BUCKET/KEY.",
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"Unzipped size must be smaller than (?P<limit>\d+) bytes",
        reference="artifact-too-large",
        next="The build and its layers may have {limit} bytes unpacked. Build a smaller zip, and deploy that.",
    ),
    Refusal(
        service="lambda",
        code="CodeStorageExceededException",
        reference="code-storage-full",
        next="Delete versions that are not needed (operations/clean_up_versions, for every function of the account), "
        f"or ask AWS for more code storage (Service Quotas, Lambda). {AGAIN}",
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"same execution role",
        reference="roles-differ",
        next="Lambda splits no alias between versions with different execution roles. Give $LATEST the role of the "
        "version that serves, and deploy again.",
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"\$LATEST is not supported for an alias",
        reference="alias-on-latest",
        next="Publish $LATEST as a version, and point the alias to it; then every later build can be rolled back.",
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"CodeSHA256 .* is different from current CodeSHA256",
        next="Another run uploaded other code. Let it end. " + AGAIN,
        kind=Conflict,
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"Layer version (?P<layer>\S+) does not exist",
        next=f"The layer {{layer}} was deleted. Configure $LATEST with a version of it that exists. {AGAIN}",
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"decreases account's UnreservedConcurrentExecution below its minimum value of \[(?P<least>\d+)\]",
        next="AWS keeps {least} concurrent executions of the account unreserved. Lower the reserved concurrency of "
        f"another function, or ask AWS for a higher limit (Service Quotas, Lambda). {AGAIN}",
    ),
    Refusal(
        service="lambda",
        code=INVALID,
        says=r"should not be lower than function's total provisioned concurrency \[(?P<count>\d+)\]",
        next="The function has a provisioned concurrency of {count}. Delete it (aws lambda "
        f"delete-provisioned-concurrency-config). {AGAIN}",
    ),
    # What the function does at the moment
    Refusal(
        service="lambda",
        code="ResourceConflictException",
        says=r"currently in the following state: (?P<state>\w+)",
        reference="function-busy",
        next="Wait until the function is Active: it is {state}. If it is Failed, correct what its StateReason names. "
        f"{AGAIN}",
        kind=Busy,
    ),
    Refusal(
        service="lambda",
        code="ResourceConflictException",
        says=r"An update is in progress",
        reference="function-busy",
        next=f"Wait until AWS has applied the update (aws lambda wait function-updated-v2). {AGAIN}",
        kind=Busy,
    ),
    # What does not exist
    Refusal(
        service="lambda",
        code="ResourceNotFoundException",
        says=r"Functions from '(?P<other>[^']+)' are not reachable in this region",
        reference="not-found",
        next=f"Set aws.region in the environment's parameters/ file to {{other}}. {AGAIN}",
    ),
    Refusal(
        service="lambda",
        code="ResourceNotFoundException",
        reference="not-found",
        next="Check function and alias in the environment's parameters/ file, the region and the account.",
    ),
    Refusal(
        service="scheduler",
        code="ResourceNotFoundException",
        reference="not-found",
        next="If the message names a schedule group: create it, or correct lease.group in the environment's "
        f"parameters/ file. {AGAIN}",
    ),
    Refusal(
        service="dynamodb",
        code="ResourceNotFoundException",
        reference="not-found",
        next="Check tables in the environment's parameters/ file, the region and the account.",
    ),
    Refusal(
        service="logs",
        code="ResourceNotFoundException",
        reference="not-found",
        next="Lambda creates a function's log group with its first log entry: there is nothing to read yet.",
    ),
    Refusal(
        service="cloudwatch",
        code="ResourceNotFound",
        reference="not-found",
        next="The alarm does not exist. Create the alarms with operations/alarms.",
    ),
    Refusal(
        service="sns",
        code="NotFound",
        reference="not-found",
        next="Check the ARN of the topic in the environment's parameters/ file (alarms.topic_arn, notify.topic_arn).",
    ),
    # Keys and roles
    *(
        Refusal(
            service="lambda",
            code=code,
            reference="kms-key-unusable",
            next="Let the function's execution role use the KMS key of its variables (kms:Decrypt), and check that the "
            f"key is enabled. {AGAIN}",
        )
        for code in (
            *("KMSAccessDeniedException", "KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException"),
        )
    ),
    *(
        Refusal(
            service="kms",
            code=code,
            reference="signing-key-unusable",
            next="Set archive.sign.key in the environment's parameters/ file to the ARN of a KMS key that is enabled, "
            "for SIGN_VERIFY, of the type ECC_NIST_P256, and in the environment's region. Then sign the run with "
            "`buddy-ops runs sign`.",
        )
        for code in (
            *("NotFoundException", "DisabledException", "KMSInvalidStateException", "InvalidKeyUsageException"),
            *("InvalidArnException", "UnsupportedOperationException"),
        )
    ),
    Refusal(
        service="scheduler",
        code="ValidationException",
        says=r"execution role .* must allow .* to assume the role",
        reference="failsafe-role-unusable",
        next="The failsafe's role does not trust EventBridge Scheduler. Deploy infrastructure.yaml, or correct "
        f"lease.role_arn. {AGAIN}",
    ),
    Refusal(
        service="scheduler",
        code="ServiceQuotaExceededException",
        next="Delete schedules that are not needed, or ask AWS for more (Service Quotas, EventBridge Scheduler). "
        f"{AGAIN}",
    ),
)

DENIED = re.compile(r"is not authorized to perform: (?P<action>[\w:*]+)(?: on resource: (?P<resource>\S+))?")
"""What AWS says of a permission that lacks. It need not be that of the call: a schedule also takes iam:PassRole."""


def find(call: str, code: str, message: str) -> tuple[Refusal, str] | None:
    """The cause of a refusal of a call such as 'lambda:update_alias', and its next step; None: it is not listed."""
    service = call.partition(":")[0]
    # The first that fits: a refusal with a message is listed before the one of its code alone.
    for refusal in REFUSALS:
        if refusal.service in ("", service) and refusal.code == code:
            match = re.search(refusal.says, message)
            if match:
                return refusal, _filled(refusal.next, match.groupdict())
    return None


def denied_permission(call: str, message: str) -> str:
    """The permission that lacks, in AWS's spelling and on its resource where the message says it."""
    match = DENIED.search(message)
    if match is None:
        service, _, operation = call.partition(":")
        return f"{service}:{''.join(word.capitalize() for word in operation.split('_'))}"
    # The resource may end AWS's sentence.
    resource = (match["resource"] or "").rstrip(".,")
    return f"{match['action']} on {resource}" if resource else match["action"]


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text
