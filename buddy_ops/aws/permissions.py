"""Which role may run which runbook, and what each role may do, on which resources.

Knows IAM's names of actions and the ARNs that they are scoped to. ``infrastructure.yaml`` grants the same; a test
compares both with what the runbooks really call. Never asks AWS.

Source: the service authorization reference: UpdateAlias can be scoped neither to an alias nor to weights, and a
qualified call is checked against function:QUALIFIER, any other against the function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from buddy_ops.core.settings import Settings

Role = Literal["reader", "auditor", "responder", "deployer"]
EVERYBODY: tuple[Role, ...] = ("reader", "auditor", "responder", "deployer")
AUDITING: tuple[Role, ...] = ("auditor", "deployer")
ACTING: tuple[Role, ...] = ("responder", "deployer")

RUNBOOKS: Mapping[str, tuple[Role, ...]] = {
    "start_here": EVERYBODY,
    "status": EVERYBODY,
    "doctor": EVERYBODY,
    "runs": EVERYBODY,
    "archive": ("auditor", *ACTING),
    "operations/monitor": EVERYBODY,
    "review/readiness_audit": AUDITING,
    "review/incident_review": EVERYBODY,
    "rollback/immediate": ACTING,
    "rollback/gradual": ACTING,
    "rollback/database_compatibility": ("responder",),
    "rollback": ACTING,
    "freeze": ("responder",),
    "emergency/deployment_failure": ("responder",),
    "emergency/data_corruption": ("responder",),
    "strategies/all_at_once": ("deployer",),
    "strategies/blue_green": ("deployer",),
    "strategies/canary": ("deployer",),
    "operations/alarms": ("deployer",),
    "operations/pre_deployment": ("deployer",),
    "operations/post_deployment": ("deployer",),
    "operations/clean_up_versions": ("deployer",),
    "operations/feature_flags": ("deployer",),
    "operations/migrate_database": ACTING,
}
"""Who runs which notebook or command; ``archive`` is what keeps every run in S3, and ``freeze`` stands for its end,
``unfreeze``, as well."""

FUNCTION = "arn:{partition}:lambda:{region}:{account}:function:{function}"
VERSIONS = FUNCTION + ":*"
ALARMS = "arn:{partition}:cloudwatch:{region}:{account}:alarm:{function}-*"
SCHEDULES = "arn:{partition}:scheduler:{region}:{account}:schedule/{group}/{function}-{alias}-*"
FREEZES = "arn:{partition}:ssm:{region}:{account}:parameter/buddy/{environment}/freeze"
RECORDS = "arn:{partition}:ssm:{region}:{account}:parameter/buddy/{environment}/records/*"
SECRETS = "arn:{partition}:ssm:{region}:{account}:parameter/buddy/{environment}/secrets/*"
ISOLATION = "arn:{partition}:ssm:{region}:{account}:parameter/buddy/{environment}/isolation"
LOG = "arn:{partition}:logs:{region}:{account}:log-group:/aws/lambda/{function}:*"
ROLES = "arn:{partition}:iam::{account}:role/buddy-ops-{environment}-*"
TABLES = "arn:{partition}:dynamodb:{region}:{account}:table/buddy-*-{environment}*"
TOPIC = "arn:{partition}:sns:{region}:{account}:buddy-ops-{environment}"
LEASE_ROLE = "{lease_role}"
ARCHIVE = "arn:{partition}:s3:::{bucket}"


@dataclass(frozen=True)
class Grant:
    """Actions that roles may do on one resource, an ARN with the environment's names in braces."""

    roles: tuple[Role, ...]
    resource: str
    actions: tuple[str, ...]


GRANTS = (
    Grant(EVERYBODY, FUNCTION, ("lambda:GetAlias", "lambda:GetFunctionConfiguration")),
    # Its environment, so that no archive keeps it.
    Grant(EVERYBODY, VERSIONS, ("lambda:GetFunctionConfiguration",)),
    Grant(EVERYBODY, ARCHIVE, ("s3:GetBucketObjectLockConfiguration", "s3:ListBucket", "s3:ListBucketVersions")),
    Grant(EVERYBODY, ARCHIVE + "/*", ("s3:GetObject",)),
    Grant(("auditor", *ACTING), ARCHIVE + "/*", ("s3:PutObject",)),
    Grant(
        EVERYBODY,
        "*",
        (
            "cloudwatch:DescribeAlarmHistory",
            "cloudwatch:DescribeAlarms",
            "cloudwatch:GetMetricData",
            "cloudwatch:ListMetrics",
            "logs:DescribeLogGroups",
        ),
    ),
    Grant(EVERYBODY, LOG, ("logs:StartQuery", "logs:GetQueryResults")),
    Grant(EVERYBODY, FREEZES, ("ssm:GetParametersByPath",)),
    Grant(EVERYBODY, LEASE_ROLE, ("iam:GetRole",)),
    Grant(EVERYBODY, ROLES, ("iam:GetRole", "iam:SimulatePrincipalPolicy")),
    Grant(ACTING, FUNCTION, ("lambda:ListAliases", "lambda:UpdateAlias")),
    Grant(
        ACTING, SCHEDULES, ("scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:UpdateSchedule")
    ),  # going down in steps takes a lease, too
    Grant(ACTING, LEASE_ROLE, ("iam:PassRole",)),
    Grant(
        ("auditor", *ACTING),
        TABLES,
        ("dynamodb:DescribeContinuousBackups", "dynamodb:DescribeTable", "dynamodb:GetItem"),
    ),
    Grant(ACTING, TABLES, ("dynamodb:PutItem", "dynamodb:Scan", "dynamodb:UpdateItem")),
    Grant(("responder",), FREEZES + "/*", ("ssm:PutParameter", "ssm:DeleteParameter")),
    Grant(ACTING, RECORDS, ("ssm:PutParameter",)),
    Grant(ACTING, TOPIC, ("sns:Publish",)),
    Grant(ACTING, SECRETS, ("ssm:GetParameter",)),
    Grant(("deployer",), RECORDS, ("ssm:GetParametersByPath",)),
    Grant(("responder",), ISOLATION, ("ssm:DeleteParameter", "ssm:GetParameter", "ssm:PutParameter")),
    Grant(
        ("responder",),
        FUNCTION,
        ("lambda:DeleteFunctionConcurrency", "lambda:GetFunctionConcurrency", "lambda:PutFunctionConcurrency"),
    ),
    Grant(
        ("responder",),
        TABLES,
        (
            *("dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:RestoreTableToPointInTime"),
            *("dynamodb:DeleteResourcePolicy", "dynamodb:GetResourcePolicy", "dynamodb:PutResourcePolicy"),
            *("dynamodb:BatchWriteItem", "dynamodb:Query"),  # a restore writes the copy as its caller
        ),
    ),
    Grant(
        ("deployer",),
        FUNCTION,
        (
            "lambda:CreateAlias",
            "lambda:DeleteAlias",
            "lambda:PublishVersion",
            "lambda:UpdateFunctionCode",
            "lambda:UpdateFunctionConfiguration",
        ),
    ),
    Grant(
        AUDITING,
        FUNCTION,
        (
            "lambda:ListAliases",
            "lambda:ListProvisionedConcurrencyConfigs",
            "lambda:ListTags",
            "lambda:ListVersionsByFunction",
        ),
    ),
    Grant(AUDITING, VERSIONS, ("lambda:InvokeFunction",)),  # smoke tests
    # A version, never the function: without a qualifier the resource is the function itself.
    Grant(("deployer",), VERSIONS, ("lambda:DeleteFunction",)),
    Grant(
        ("deployer",),
        ALARMS,
        ("cloudwatch:PutMetricAlarm", "cloudwatch:SetAlarmState"),
    ),
    Grant(AUDITING, TOPIC, ("sns:ListSubscriptionsByTopic",)),
)


def required_actions(
    role: Role, environment: str, settings: Settings, where: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The actions that a role may do, by resource.

    Args:
        environment: whose freezes and roles.
        settings: the names of function, alias, schedule group and the lease's role.
        where: 'partition', 'account' and 'region'.
    """
    names = {
        **where,
        "environment": environment,
        "function": settings.function,
        "alias": settings.alias,
        "group": settings.lease.group,
        "lease_role": lease_role(settings, where),
        "bucket": settings.archive.bucket,
    }
    found: dict[str, tuple[str, ...]] = {}
    for grant in GRANTS:
        if role in grant.roles and (settings.archive.bucket or "{bucket}" not in grant.resource):
            resource = grant.resource.format(**names)
            found[resource] = found.get(resource, ()) + grant.actions
    return found


def lease_role(settings: Settings, where: Mapping[str, str]) -> str:
    """The ARN of the role that EventBridge Scheduler assumes to take traffic away."""
    return settings.lease.role_arn or settings.lease.default_role(where["account"], where["partition"])
