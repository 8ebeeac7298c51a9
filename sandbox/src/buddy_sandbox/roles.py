"""What moto's IAM lacks: who may assume a role, and what an assumed role may do, by its own policies.

An action is allowed where a policy of the role allows it. Resources are compared for parameters only, and of the
conditions only ``ssm:Overwrite``. Callers that are no role may do everything. Knows moto's private names.
"""

import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from moto.core.request import Request
from moto.iam.models import Role, iam_backends
from moto.sts.models import sts_backends

from buddy_sandbox.access import signing_region
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


def find(account: str, arn: str) -> Role | None:
    """The role of this ARN."""
    name = arn.rpartition("/")[2]
    return next((role for role in iam_backends[account][PARTITION].get_roles() if role.name == name), None)


def assumed_by(account: str, access_key: str) -> str | None:
    """The ARN of the role that a temporary key is of; None where it is of no role."""
    found = sts_backends[account][PARTITION].get_assumed_role_from_access_key(access_key)
    return found.role_arn if found is not None else None


def check_assumption(account: str, request: Request) -> None:
    """Raise AwsError where AWS lets the caller not assume a role: it is missing, or does not trust the account.

    Source: STS API reference, AssumeRole: AccessDenied, for a missing role, too.
    """
    arn = request.form["RoleArn"]
    role = find(account, arn)
    root = (account, f"arn:{PARTITION}:iam::{account}:root", "*")
    if role is None or not any(_trusts(statement, root) for statement in _statements(role.assume_role_policy_document)):
        caller = f"arn:{PARTITION}:sts::{account}:user/moto"
        said = f"User: {caller} is not authorized to perform: sts:AssumeRole on resource: {arn}"
        raise AwsError("AccessDenied", said, status=403)


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


def denied(account: str, request: Request, service: str, operation: Callable[[], str]) -> str:
    """Why a call of an assumed role is denied, as AWS says it; empty: it is not."""
    arn = assumed_by(account, _access_key(request))
    # Who one is, one may always ask.
    if arn is None or service == "sts":
        return ""
    name = f"{service}:{operation().split()[0]}"
    action = ACTIONS.get(name, name)
    role = find(account, arn)
    body: Params = {}
    resource = ""
    if service == "ssm":
        body = json.loads(request.get_data() or b"{}")
        parameter = body.get("Name") or body.get("Path", "")
        resource = f"arn:{PARTITION}:ssm:{signing_region(request)}:{account}:parameter{parameter}"
    context = {"ssm:Overwrite": str(body.get("Overwrite", False)).lower()}
    if role is not None and allows(role, action, resource, context):
        return ""
    missing = f"no identity-based policy allows the {action} action"
    return f"User: {arn} is not authorized to perform: {action} because {missing}"


def _access_key(request: Request) -> str:
    return request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]


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
