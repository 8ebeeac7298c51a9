"""What moto's IAM lacks: who may assume a role, and what an assumed role may do, by its own policies.

An action is allowed where a policy of the role allows it. Resources are compared for parameters only, and of the
conditions only ``ssm:Overwrite``. Callers that are no role may do everything. Knows moto's private names.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from moto.core.request import Request
from moto.core.utils import utcnow
from moto.iam.models import Role, get_account_id_from, iam_backends
from moto.sts.models import sts_backends

from buddy_sandbox.access import signing_region
from buddy_sandbox.runtime import OWN_KEY
from buddy_sandbox.wire import AwsError, Params

PARTITION = "aws"
ACTIONS = {
    "lambda:Invoke": "lambda:InvokeFunction",
    "s3:DELETE": "s3:DeleteObjectVersion",
    "s3:GET": "s3:GetObject",
    "s3:HEAD": "s3:GetObject",
    "s3:PUT": "s3:PutObject",
}
"""IAM's names of calls that have another one. Source: service authorization reference."""

RESOURCES = {
    "lambda": ("FunctionName", "Resource"),
    "dynamodb": ("TableName", "ResourceArn", "SourceTableArn", "BackupArn"),
    "sns": ("TopicArn",),
    "ssm": ("Name",),
}
"""Which members of a call may be the ARN of a resource of another account."""

REFUSALS = {"sns": ("AuthorizationError", 403), "dynamodb": ("AccessDeniedException", 400)}
"""The code and the status of a refused call, where they are not AccessDeniedException and 403."""

_ACCOUNT_OF = re.compile(r"(?:arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:)?(\d{12}):")
_OF_ACCOUNT = re.compile(rf"(?:{re.escape(OWN_KEY)})?(\d{{12}})(?:\.|$)")


@dataclass(frozen=True)
class Caller:
    """Who signed a request.

    Attributes:
        account: its number.
        arn: as GetCallerIdentity answers it.
        role: the ARN of the role that was assumed; empty: none.
        expired: whether its temporary key is.
    """

    account: str
    arn: str
    role: str = ""
    expired: bool = False


def caller(access_key: str) -> Caller:
    """Who signs with a key: an assumed role, a user, or a function, whose keys begin with its account."""
    named = _OF_ACCOUNT.match(access_key)
    account = named[1] if named else get_account_id_from(access_key)
    found = sts_backends[account][PARTITION].get_assumed_role_from_access_key(access_key)
    if found is None:
        return Caller(account, f"arn:{PARTITION}:sts::{account}:user/moto")
    return Caller(account, found.arn, found.role_arn, utcnow() > found.expiration)


def find(arn: str) -> Role | None:
    """The role of this ARN."""
    accounts = [partitions[PARTITION] for partitions in list(iam_backends.values())]
    return next((role for each in accounts for role in each.get_roles() if role.arn == arn), None)


def check_assumption(by: Caller, arn: str) -> None:
    """Raise AwsError where AWS lets the caller not assume a role: it is missing, or does not trust his account.

    Source: STS API reference, AssumeRole: AccessDenied, for a missing role, too.
    """
    role = find(arn)
    root = (by.account, f"arn:{PARTITION}:iam::{by.account}:root", by.role, "*")
    if role is None or not any(_trusts(statement, root) for statement in _statements(role.assume_role_policy_document)):
        said = f"User: {by.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}"
        raise AwsError("AccessDenied", said, status=403)


def check_account(by: Caller, service: str, operation: str, fields: Mapping[str, Any]) -> None:
    """Raise AwsError for a call to a resource of another account. No resource's own policy is looked at.

    Source: Lambda developer guide, 'Granting function access to other accounts'; SNS: AuthorizationError, in the
    knowledge centre's 'How do I resolve authorization errors when trying to add subscribers'.
    """
    for name in RESOURCES.get(service, ()):
        arn = str(fields.get(name) or "")
        if (found := _ACCOUNT_OF.match(arn)) and found[1] != by.account:
            action = _action(service, operation)
            said = f"User: {by.arn} is not authorized to perform: {action} on resource: {arn}"
            code, status = REFUSALS.get(service, ("AccessDeniedException", 403))
            raise AwsError(code, f"{said} because no resource-based policy allows the {action} action", status=status)


def trusts_service(role: Role, service: str) -> bool:
    """Whether a service may assume a role."""
    return any(_trusts(each, (service,)) for each in _statements(role.assume_role_policy_document))


def allows(role: Role, action: str, resource: str = "", context: Params | None = None) -> bool:
    """Whether a policy of a role allows an action; on any resource where none is given."""
    versions = [version for policy in role.managed_policies.values() for version in policy.versions]
    documents = [*role.policies.values(), *(version.document for version in versions if version.is_default)]
    about = [
        each for text in documents for each in _statements(text) if _is_about(each, action, resource, context or {})
    ]
    return any(each["Effect"] == "Allow" for each in about) and all(each["Effect"] != "Deny" for each in about)


def denied(by: Caller, request: Request, service: str, operation: Callable[[], str]) -> str:
    """Why a call of an assumed role is denied, as AWS says it; empty: it is not."""
    # Who one is, one may always ask.
    if not by.role or service == "sts":
        return ""
    action = _action(service, operation().split()[0])
    role = find(by.role)
    body: Params = {}
    resource = ""
    if service == "ssm":
        body = json.loads(request.get_data() or b"{}")
        parameter = body.get("Name") or body.get("Path", "")
        resource = f"arn:{PARTITION}:ssm:{signing_region(request)}:{by.account}:parameter{parameter}"
    context = {"ssm:Overwrite": str(body.get("Overwrite", False)).lower()}
    if role is not None and allows(role, action, resource, context):
        return ""
    missing = f"no identity-based policy allows the {action} action"
    return f"User: {by.arn} is not authorized to perform: {action} because {missing}"


def _action(service: str, operation: str) -> str:
    """IAM's name of a call."""
    name = f"{service}:{operation}"
    return ACTIONS.get(name, name)


def _statements(document: str | dict[str, Any]) -> Iterator[Params]:
    parsed = json.loads(document) if isinstance(document, str) else document
    statements = parsed.get("Statement", [])
    yield from statements if isinstance(statements, list) else [statements]


def _trusts(statement: Params, principals: tuple[str, ...]) -> bool:
    given = statement.get("Principal", {})
    named = [name for value in given.values() for name in _listed(value)] if isinstance(given, dict) else [given]
    return statement.get("Effect") == "Allow" and any(name in principals for name in named)


def _is_about(statement: Params, action: str, resource: str, context: Params) -> bool:
    excluded = statement.get("Condition", {}).get("StringNotEquals", {})
    if any(context.get(key) in _listed(value) for key, value in excluded.items()):
        return False
    if resource and not any(fnmatchcase(resource, pattern) for pattern in _listed(statement["Resource"])):
        return False
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in _listed(statement.get("Action", [])))


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
