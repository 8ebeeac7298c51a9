"""Which role may run which runbook, and what each role may do on which resources.

``infrastructure.yaml`` is the one list of actions: this module reads it. A test compares it with what the runbooks
call. Never asks AWS.

Source: the service authorization reference. UpdateAlias can be scoped neither to an alias nor to weights. A qualified
call is checked against function:QUALIFIER, any other against the function.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from buddy_ops.core import places
from buddy_ops.core.documents import parse_yaml
from buddy_ops.core.roles import Role
from buddy_ops.core.settings import Settings

TEMPLATE = "infrastructure.yaml"
EVERYBODY: tuple[Role, ...] = ("reader", "auditor", "responder", "deployer")
AUDITING: tuple[Role, ...] = ("auditor", "deployer")
ACTING: tuple[Role, ...] = ("responder", "deployer")

RUNBOOKS: Mapping[str, tuple[Role, ...]] = {
    "start_here": EVERYBODY,
    "status": EVERYBODY,
    "doctor": EVERYBODY,
    "runs": EVERYBODY,
    "archive": ("auditor", *ACTING),
    "fleet/audit": AUDITING,
    "fleet/canary": ("deployer",),
    "fleet/rollback": ACTING,
    "fleet/status": EVERYBODY,
    "operations/monitor": EVERYBODY,
    "review/readiness_audit": AUDITING,
    "review/incident_review": EVERYBODY,
    "rollback/immediate": ACTING,
    "rollback/gradual": ACTING,
    "rollback/database_compatibility": ("responder",),
    "rollback": ACTING,
    "freeze": ("responder",),
    "reenable": ("responder",),
    "prove": ("deployer",),
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
"""Who runs which notebook or command. ``archive`` is the upload of every run to S3, ``freeze`` includes
``unfreeze``, ``prove`` is ``doctor --prove``."""


def required_actions(
    role: Role, environment: str, settings: Settings, where: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The actions that a role may do, by resource.

    Args:
        environment: whose freezes and roles.
        settings: the names of function, alias, schedule group, archive and the failsafe's role.
        where: 'partition', 'account' and 'region'; 'log_group' where it is not Lambda's default.
    """
    names = {
        "AWS::Partition": where["partition"],
        "AWS::AccountId": where["account"],
        "AWS::Region": where["region"],
        "Archive.Arn": f"arn:{where['partition']}:s3:::{settings.archive.bucket}",
        "DeadLetterQueue.Arn": settings.lease.dead_letter_arn or "",
        "Environment": environment,
        "FunctionName": settings.function,
        "LogGroupName": where.get("log_group", ""),
        "AliasName": settings.alias,
        "SigningKeyArn": settings.archive.sign.key if settings.archive.sign is not None else "",
        "SchedulerRoleName": lease_role(settings, where).partition(":role/")[2],
    }
    tables = [
        f"arn:{where['partition']}:dynamodb:{where['region']}:{where['account']}:table/{table.name}"
        for table in settings.tables
    ]
    found: dict[str, tuple[str, ...]] = {}
    for statement in _statements(role, live=settings.alias == Settings.model_fields["alias"].default):
        if "SigningKeyArn" in str(statement["Resource"]) and not names["SigningKeyArn"]:
            continue
        if "DeadLetterQueue.Arn" in str(statement["Resource"]) and not names["DeadLetterQueue.Arn"]:
            continue
        # No setting says where builds come from, or which keys encrypt them.
        if re.search("BuildBucketName|ImageRepositoryArns|KeyArns", str(statement["Resource"])):
            continue
        actions = statement["Action"]
        if isinstance(actions, str):
            actions = [actions]
        given = statement["Resource"]
        if given == "HookFunctionArns":
            given = [
                f"arn:{where['partition']}:lambda:{where['region']}:{where['account']}:function:{hook.function}"
                for hook in settings.hooks
                if hook.function
            ]
        for template in _resources(given, tables, has_log_group=bool(names["LogGroupName"])):
            if "Archive" in template and not settings.archive.bucket:
                continue
            # The template creates no schedule group: it grants the default one.
            granted = template.replace(":schedule/default/", f":schedule/{settings.lease.group}/")
            for one in _of_each_alarm(granted, settings):
                resource = re.sub(r"\$\{([\w:.]+)\}", lambda match: names[match[1]], one)
                found[resource] = (*found.get(resource, ()), *actions)
    return found


def _of_each_alarm(template: str, settings: Settings) -> Iterator[str]:
    """A resource once for each alarm in ``alarms.custom``, where the template names them by its parameter."""
    if "${CustomAlarms}" not in template:
        yield template
        return
    yield from (template.replace("${CustomAlarms}", alarm.name) for alarm in settings.alarms.custom)


def _resources(given: object, tables: Sequence[str], *, has_log_group: bool) -> Iterator[str]:
    """The resources of a statement; one under !If [HasLogGroup, ...] only where there is such a group.

    Args:
        tables: the ARNs that the parameter TableArns has.
    """
    match given:
        case "TableArns":
            yield from tables
        case [",", [str(copies), {"Tables": _}]]:
            # Restored copies of each table: its ARN, and a pattern of the time.
            yield from (copies.replace("${Tables}", table) for table in tables)
        case str():
            yield given
        case ["HasLogGroup", resource, _]:
            if has_log_group:
                yield str(resource)
        case [*several]:
            for one in several:
                yield from _resources(one, tables, has_log_group=has_log_group)


def lease_role(settings: Settings, where: Mapping[str, str]) -> str:
    """The ARN of the role that EventBridge Scheduler assumes when the failsafe runs."""
    return settings.lease.role_arn or settings.lease.default_role(where["account"], where["partition"])


def _statements(role: Role, *, live: bool) -> Iterator[dict[str, Any]]:
    """What the template allows a role, through all policies that are attached to it.

    Args:
        live: whether the alias has its default name: alarms on another one have other names.
    """
    resources = template_resources()
    for policy in resources[f"{role.capitalize()}Role"]["Properties"]["ManagedPolicyArns"]:
        for statement in resources[policy]["Properties"]["PolicyDocument"]["Statement"]:
            match statement:
                # !If [CONDITION, STATEMENT, STATEMENT], read as a plain list.
                case ["IsLive", _, statement_of_others] if not live:
                    yield statement_of_others
                case [_, statement_if_so, _]:
                    # One under another condition is read as if the condition held.
                    yield statement_if_so
                case _:
                    yield statement


@cache
def template_resources() -> dict[str, Any]:
    """The resources of infrastructure.yaml, with CloudFormation's short forms (!Sub, !Ref) as plain values."""
    text = places.shipped_file(TEMPLATE).read_text("utf-8")
    resources: dict[str, Any] = parse_yaml(text, short_forms=True)["Resources"]
    return resources
