"""Is everything in place? One finding for each thing that a rollout or a rollback needs, with what to do about it.

Knows what to look at before a runbook is started. Never writes, and never guesses: what may not be looked at, or cannot
be, is 'unknown'.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from buddy_ops.aws import aliases, freezes, permissions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.permissions import Role
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput
from buddy_ops.health import alarms

if TYPE_CHECKING:
    from types_boto3_cloudwatch.type_defs import DimensionFilterTypeDef
    from types_boto3_iam.type_defs import ContextEntryTypeDef

State = Literal["ok", "warning", "problem", "unknown"]
Told = tuple[State, str, str]
"""A check's answer: how it is, what was seen, what to do ('' where there is nothing to do)."""

ALEXA_S = 8
"""Alexa gives up on a skill after this long. Source: reports of developers; official for device APIs only."""

SCHEDULER = "scheduler.amazonaws.com"
TELL = "Set settings.notify.slack_webhook or topic_arn: nobody else hears of a deployment."
SHORT = 160
"""Characters of an answer that is quoted: an emulator without the call may answer with a page."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    state: State
    says: str
    do: str = ""


@dataclass
class _Patient:
    """What the checks look at, each part read once."""

    target: Target
    role: Role

    @cached_property
    def configuration(self) -> dict[str, Any]:
        return aliases.get_configuration(self.target)

    @cached_property
    def alias(self) -> Alias | None:
        return aliases.read_alias(self.target)


def run_doctor(target: Target, role: Role) -> Iterator[Finding]:
    """Look at everything, one finding after the other; without credentials the first is the last.

    Args:
        role: whose list of permissions the caller is compared with.

    AWS: sts:GetCallerIdentity, lambda:GetFunctionConfiguration, GetAlias, ssm:GetParametersByPath,
    cloudwatch:DescribeAlarms, ListMetrics, logs:DescribeLogGroups, iam:GetRole, SimulatePrincipalPolicy,
    s3:GetBucketObjectLockConfiguration, ssm:GetParameter, reads only.
    """
    yield Finding("parameters", "ok", f"{target.environment}: {target.resource}")
    patient = _Patient(target, role)
    credentials = _look("credentials", _credentials, patient)
    yield credentials
    if credentials.state == "ok":
        for name, check in CHECKS:
            yield _look(name, check, patient)


def _where(target: Target) -> dict[str, str]:
    return {"partition": target.principal.split(":")[1], "account": target.account, "region": target.region}


def _look(name: str, check: Callable[[_Patient], Told], patient: _Patient) -> Finding:
    """One check; whatever it runs into is its finding, and hides no other."""
    try:
        return Finding(name, *check(patient))
    except InvalidInput as error:
        # The function is missing: that is one problem, and what hangs on it cannot be told.
        return Finding(name, "problem" if name == "function" else "unknown", error.what, error.next)
    except BuddyError as error:
        return Finding(name, "problem", error.what, error.next)


def _credentials(patient: _Patient) -> Told:
    target = patient.target
    return "ok", f"{target.principal}, account {target.account}, region {target.region}", ""


def _function(patient: _Patient) -> Told:
    state = patient.configuration.get("State", "Active")
    says = f"{patient.target.settings.function} is {state}"
    if state in ("Active", "Inactive"):
        return "ok", says, ""
    return "problem", f"{says}: {patient.configuration.get('StateReason', 'no reason given')}", "Repair the function."


def _timeout(patient: _Patient) -> Told:
    timeout_s = int(patient.configuration["Timeout"])
    says = f"{timeout_s} s; Alexa waits {ALEXA_S} s"
    if timeout_s < ALEXA_S:
        return "ok", says, ""
    return "warning", says, f"Set it below {ALEXA_S} s, so that a request that hangs counts as failed in time."


def _alias(patient: _Patient) -> Told:
    alias = patient.alias
    if alias is None:
        return "warning", f"there is no {patient.target.resource}", "The first run of strategies/canary creates it."
    if alias.additional is None:
        return "ok", str(alias), ""
    if alias.stable is None:
        return "problem", f"{alias}, and nothing says which is stable", "Run rollback/immediate with to_version."
    if alias.stable != alias.primary:
        says = f"{alias}, and v{alias.stable} is stable: another tool made v{alias.primary} the primary"
        return "problem", says, f"rollback/immediate gives v{alias.stable} all traffic."
    if alias.rollout is not None and alias.rollout.open:
        return (
            "warning",
            f"{alias}: run {alias.rollout.run} is under way",
            "Let it end, or resume it with its artifact.",
        )
    if alias.draining:
        return "warning", f"{alias}: v{alias.additional}'s share is being taken away in steps", "Let it end."
    return "problem", f"{alias}, and no rollout under way owns these weights", "rollback/immediate clears them."


def _record(patient: _Patient) -> Told:
    alias = patient.alias
    if alias is None or not alias.description:
        return "ok", "none: no rollout was recorded yet", ""
    if alias.rollout is None:
        return "ok", "the Description is not ours: the first rollout keeps its beginning as a note", ""
    record = alias.rollout
    versions = f"v{record.stable_version or '?'} to v{record.new_version}"
    says = f"run {record.run}: {versions}, {record.stage} since {record.since}"
    if alias.failsafe_triggered:
        return "warning", f"{says}; its lease has taken the traffic back", "Run the same artifact again: it closes it."
    return "ok", says, ""


def _freeze(patient: _Patient) -> Told:
    standing = freezes.active_freezes(patient.target)
    if not standing:
        return "ok", "none", ""
    return "warning", "; ".join(map(str, standing)), "No deployment begins until it ends; a rollback does."


def _permissions(patient: _Patient) -> Told:
    return allowed(patient.target, patient.role)


def allowed(target: Target, role: Role, arn: str = "") -> Told:
    """What IAM would decide of all that a role needs. It sees a principal's policies, not those of resources.

    Args:
        arn: whose policies; empty: the caller's.

    AWS: iam:GetRole, SimulatePrincipalPolicy, reads only.
    """
    needed = permissions.required_actions(role, target.environment, target.settings, _where(target))
    count = sum(map(len, needed.values()))
    try:
        source = arn or _policy_source(target)
        refused = [
            f"{each} on {resource}"
            for resource, actions in needed.items()
            # The doctor's own: whoever may ask for less than this does not get here.
            if ":role/buddy-ops-" not in resource or "iam:PassRole" in actions
            for each in _refused(target, source, resource, actions)
        ]
    except AwsFailed as failure:
        who = arn or "the caller"
        return "unknown", failure.what[:SHORT], f"Ask whoever owns the account whether {who} may do what a {role} may."
    if refused:
        return "problem", f"{role} lacks {'; '.join(refused)}", "infrastructure.yaml has a role that may."
    return "ok", f"IAM would allow what a {role} needs ({count} actions)", ""


def _refused(target: Target, source: str, resource: str, actions: tuple[str, ...]) -> list[str]:
    """The actions that IAM would not allow, every page."""
    service: ContextEntryTypeDef = {
        "ContextKeyName": "iam:PassedToService",
        "ContextKeyValues": [SCHEDULER],
        "ContextKeyType": "string",
    }
    pages = (
        target.client("iam")
        .get_paginator("simulate_principal_policy")
        .paginate(PolicySourceArn=source, ActionNames=list(actions), ResourceArns=[resource], ContextEntries=[service])
    )
    return [
        result["EvalActionName"]
        for page in pages
        for result in page["EvaluationResults"]
        if result["EvalDecision"] != "allowed"
    ]


def _policy_source(target: Target) -> str:
    """The caller's ARN as IAM's simulator takes it: an assumed role's session becomes the role."""
    head, _, rest = target.principal.partition(":assumed-role/")
    if not rest:
        return target.principal
    name = rest.split("/")[0]
    try:
        # A role of single sign-on has a path, which its sessions' ARNs do not tell.
        return str(target.client("iam").get_role(RoleName=name)["Role"]["Arn"])
    except AwsFailed:
        return f"{head.replace(':sts:', ':iam:')}:role/{name}"


def _lease_role(patient: _Patient) -> Told:
    arn = permissions.lease_role(patient.target.settings, _where(patient.target))
    try:
        role = patient.target.client("iam").get_role(RoleName=arn.rsplit("/", 1)[-1])["Role"]
    except AwsFailed as failure:
        if failure.code in ("NoSuchEntity", "NoSuchEntityException"):
            return "problem", f"there is no {arn}, so that no lease can be armed", "Deploy infrastructure.yaml."
        return "unknown", failure.what[:SHORT], f"Ask whether {arn} exists and trusts {SCHEDULER}."
    if SCHEDULER not in json.dumps(role.get("AssumeRolePolicyDocument", "")):
        return "problem", f"{arn} does not trust {SCHEDULER}", "Deploy infrastructure.yaml."
    return "ok", arn, ""


def _dead_letters(patient: _Patient) -> Told:
    queue = patient.target.settings.lease.dead_letter_arn
    if queue:
        return "ok", queue, ""
    return "warning", "none: a lease that cannot act leaves no trace", "Set settings.lease.dead_letter_arn."


def _failure_metrics(patient: _Patient) -> Told:
    target = patient.target
    configured = target.settings.failure_metrics
    if not configured:
        says = "none: a version that only apologises would look healthy"
        return "warning", says, "Let Buddy count its apologies, and name the metric in settings.failure_metrics."
    unseen = [f"{each.namespace}/{each.name}" for each in configured if not _seen(target, each.namespace, each.name)]
    if unseen:
        says = f"{', '.join(unseen)}: not seen by version on {target.resource} in the last two weeks"
        return "warning", says, "Publish it with each request, 0 too, with FunctionName, Resource and ExecutedVersion."
    return "ok", ", ".join(f"{each.namespace}/{each.name}" for each in configured), ""


def _seen(target: Target, namespace: str, name: str) -> bool:
    """Whether CloudWatch has the metric for a version behind the alias."""
    own: list[DimensionFilterTypeDef] = [
        {"Name": "FunctionName", "Value": target.settings.function},
        {"Name": "Resource", "Value": target.resource},
        {"Name": "ExecutedVersion"},
    ]
    return bool(
        target.client("cloudwatch").list_metrics(Namespace=namespace, MetricName=name, Dimensions=own)["Metrics"]
    )


def _alarms(patient: _Patient) -> Told:
    target = patient.target
    there = alarms.read_alarms(target)
    if not there:
        return "warning", "none", "operations/alarms writes them."
    burning = [alarm.name for alarm in there if alarm.state == "ALARM"]
    if burning:
        return "warning", f"{', '.join(burning)} burn now", "Open start_here before anything else."
    if not target.settings.alarms.topic_arn:
        return "warning", f"{len(there)}, and no topic is configured", "Set settings.alarms.topic_arn."
    return "ok", f"{len(there)}, none burns", ""


def _log_group(patient: _Patient) -> Told:
    try:
        configuration = patient.configuration
    except InvalidInput:
        configuration = {}
    default = f"/aws/lambda/{patient.target.settings.function}"
    name = configuration.get("LoggingConfig", {}).get("LogGroup", default)
    groups = patient.target.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    if any(group["logGroupName"] == name for group in groups):
        return "ok", name, ""
    return "warning", f"there is no {name}: cold starts are unknown", "Lambda makes it when the function first logs."


def _channels(patient: _Patient) -> Told:
    """Who hears of deployments; a secret is looked for and never decrypted."""
    target, told = patient.target, patient.target.settings.notify
    topic = [told.topic_arn] if told.topic_arn else []
    if told.slack_webhook is None:
        return ("ok" if topic else "warning"), ", ".join(["no Slack", *topic]), "" if topic else TELL
    kind, _, name = told.slack_webhook.partition(":")
    if kind == "env" and not os.environ.get(name):
        return "problem", f"Slack's address should be in the variable {name}, which is not set", f"Set {name}."
    if kind == "ssm" and patient.role == "reader":
        return "unknown", f"Slack's address is in ssm:{name}, which a reader does not open", ""
    if kind == "ssm":
        try:
            target.client("ssm").get_parameter(Name=name, WithDecryption=False)
        except AwsFailed as failure:
            return "problem", f"Slack's address should be in ssm:{name}: {failure.what}"[:SHORT], f"Put it into {name}."
    return "ok", ", ".join(["Slack", *topic]), ""


def _archive(patient: _Patient) -> Told:
    """Whether executed runs are kept where nobody rewrites them."""
    bucket = patient.target.settings.archive.bucket
    if not bucket:
        return "warning", "executed runs stay in runs/ on this machine", "Set settings.archive.where to a bucket."
    try:
        lock = patient.target.client("s3").get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    except AwsFailed as failure:
        if failure.code == "ObjectLockConfigurationNotFoundError":
            return "warning", f"{bucket} has no Object Lock: what is archived can change", "Make it anew with one."
        return "problem", failure.what[:SHORT], f"Deploy infrastructure.yaml, or correct archive.where ({bucket})."
    state = lock.get("ObjectLockEnabled", "not enabled")
    return "ok", f"{patient.target.settings.archive.where}, Object Lock {state}", ""


CHECKS: tuple[tuple[str, Callable[[_Patient], Told]], ...] = (
    ("function", _function),
    ("timeout", _timeout),
    ("alias", _alias),
    ("record", _record),
    ("freeze", _freeze),
    ("permissions", _permissions),
    ("lease role", _lease_role),
    ("dead letters", _dead_letters),
    ("failure metrics", _failure_metrics),
    ("alarms", _alarms),
    ("log group", _log_group),
    ("channels", _channels),
    ("archive", _archive),
)
