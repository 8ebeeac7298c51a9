"""The doctor: whether everything that a rollout or a rollback needs is set up. ``CHECKS`` lists what it checks.

It writes nothing. What cannot be checked, or the role may not read, is UNKNOWN.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from buddy_ops.aws import checklist_store, failsafe, log_events, permissions, signing, stored_builds, versions
from buddy_ops.aws.function_log import LogConfig, default_group
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, label
from buddy_ops.checks._hooks import hooks_state
from buddy_ops.checks._shared import alarm_states, callers_state, describe_freezes, describe_unguarded
from buddy_ops.checks.findings import (
    QUOTED,
    Check,
    CheckContext,
    Finding,
    State,
    info,
    ok,
    problem,
    run_checks,
    unknown,
    warning,
)
from buddy_ops.checks.rollouts import rollout_state
from buddy_ops.core import runtimes, text
from buddy_ops.core.artifacts import StoredObject, parse_artifact
from buddy_ops.core.errors import AccessDenied, AwsFailed, InvalidInput, NotFound, Refused
from buddy_ops.core.kinds import KINDS
from buddy_ops.core.roles import Role
from buddy_ops.health import log_feed, logs, serving

if TYPE_CHECKING:
    from types_boto3_iam.type_defs import ContextEntryTypeDef

SCHEDULER = "scheduler.amazonaws.com"

BY_MINUTES = "rollouts are judged by CloudWatch's minutes, not every 10 s (docs/log-feed.md)"

PROOF = "proof"
PROOF_RECORD = "prove"
"""The kind of a proof's dated result, among those of checklists."""

NOT_EMULATED = "NotImplementedException"
"""The sandbox's answer to a call that it does not have."""


def run_doctor(target: Target, role: Role, build: str = "") -> Iterator[Finding]:
    """Run every check of the setup, and yield each finding.

    Args:
        role: whose list of permissions the caller is compared with.
        build: a build to find in S3, s3://BUCKET/KEY; empty: none.

    AWS: sts:GetCallerIdentity, lambda:GetFunctionConfiguration, GetAlias, GetPolicy, ssm:GetParametersByPath,
    cloudwatch:DescribeAlarms, GetMetricData, ListMetrics, logs:DescribeLogGroups, FilterLogEvents, iam:GetRole,
    SimulatePrincipalPolicy, s3:GetBucketObjectLockConfiguration, HeadBucket, HeadObject, GetObject, ssm:GetParameter,
    kms:GetPublicKey, reads only; lambda:InvokeFunction as a dry run, which runs nothing.
    """
    yield from check_setup(CheckContext(target, role, build=build))


def check_setup(context: CheckContext) -> Iterator[Finding]:
    """The findings of the setup. Without credentials no check can be made, so the finding about them is the last."""
    for finding in run_checks(IDENTITY_CHECKS, context):
        yield finding
        # Every other check would fail for the same reason.
        if finding.state is not State.OK:
            return
    yield from run_checks(CHECKS, context)


def _parameters(context: CheckContext) -> Finding:
    return ok(f"{context.target.environment}: {context.target.resource}")


def _credentials(context: CheckContext) -> Finding:
    target = context.target
    try:
        return ok(f"{target.principal}, account {target.account}, region {target.region}")
    except AwsFailed as failure:
        return problem(failure.what, failure.next)


def _function(context: CheckContext) -> Finding:
    latest = context.configuration
    message = f"{context.target.settings.function} is {latest.state}"
    if latest.usable:
        return ok(message)
    return problem(f"{message}: {latest.reason}", "Repair the function.")


def _runtime(context: CheckContext) -> Finding:
    runtime = context.configuration.settings.get("Runtime")
    if not runtime:
        return ok("none: a container image")
    outdated = runtimes.describe_deprecation(str(runtime), context.target.clock.now().date())
    if outdated:
        return warning(outdated, "Build and test for a newer runtime, and set it in the function's configuration.")
    return ok(str(runtime))


def _timeout(context: CheckContext) -> Finding:
    timeout_s = context.configuration.timeout_s
    facts = KINDS[context.target.settings.kind]
    if facts.waits_s is None:
        return ok("; ".join(filter(None, (f"{timeout_s} s", facts.timeout_advice))))
    message = f"{timeout_s} s; {facts.caller} waits {facts.waits_s:g} s"
    # After the caller gave up, a request still runs and counts as a success: its user got no answer.
    if timeout_s < facts.waits_s:
        return ok(message)
    remedy = f"Set it below {facts.waits_s:g} s, so that a request that hangs counts as failed in time."
    return warning(message, remedy)


def _alias(context: CheckContext) -> Finding:
    finding = rollout_state(context)
    # While traffic moves, no other rollout can start.
    if finding.state is State.INFO:
        return replace(finding, state=State.WARNING)
    return finding


def _record(context: CheckContext) -> Finding:
    alias = context.alias
    if alias is None or not alias.description:
        return ok("none: no rollout was recorded yet")
    record = alias.rollout
    if record is None:
        return ok("the alias's Description is not ours: the first rollout keeps its start as a note")
    since = text.time_of_day(text.parse_utc(record.since), context.target.clock.now())
    versions = f"v{record.stable_version or '?'} to v{record.new_version}"
    message = f"run {record.run}: {versions}, stage {record.stage} since {since}"
    if alias.failsafe_triggered:
        remedy = "Run the same artifact again: it closes the record."
        return warning(f"{message}; the run stopped responding and the failsafe rolled it back", remedy)
    return ok(message)


def _freeze(context: CheckContext) -> Finding:
    if context.freezes:
        return warning(describe_freezes(context), "Deployments are blocked until it ends. Rollbacks are not.")
    return ok("none in force")


def _permissions(context: CheckContext) -> Finding:
    return check_permissions(context, context.role)


def check_permissions(context: CheckContext, role: Role, arn: str = "") -> Finding:
    """Whether IAM allows everything that a role needs, by the principal's policies; it does not see resource policies.

    Args:
        arn: the principal; empty: the caller.

    AWS: iam:GetRole, SimulatePrincipalPolicy, reads only.
    """
    target = context.target
    granted = permissions.required_actions(role, target.environment, target.settings, context.arn_fields)
    needed = {_own_schedule(target, resource): actions for resource, actions in granted.items()}
    arms = any("scheduler:CreateSchedule" in actions for actions in needed.values())
    try:
        source = arn or _policy_source(target)
        refused = [
            f"{action} on {resource}"
            for resource, actions in needed.items()
            # Reading Buddy Ops' own roles is for this check alone: without it, the check does not get here.
            if ":role/buddy-ops-" not in resource or "iam:PassRole" in actions
            for action in _refused(target, source, resource, actions)
        ]
    except AwsFailed as failure:
        remedy = f"Ask the account's owner whether {arn or 'the caller'} has the permissions of a {role}."
        if target.sandbox and failure.code == NOT_EMULATED:
            return info("the sandbox has no IAM to ask: every call is allowed")
        return unknown(failure.what[:QUOTED], remedy)
    if refused:
        remedy = "infrastructure.yaml has a role with these permissions."
        return problem(f"{role} lacks {'; '.join(refused)}", remedy)
    message = f"IAM allows the {text.count(sum(map(len, needed.values())), 'action')} that a {role} needs"
    if arms:
        message += f", and to create the failsafe's schedule {failsafe.schedule_name(target)}"
    return ok(message)


def _own_schedule(target: Target, resource: str) -> str:
    """A pattern of schedules as the name that this target's run creates: IAM must allow that very one."""
    group, _, name = resource.rpartition("/")
    if ":schedule/" in resource and name.endswith("*"):
        return f"{group}/{failsafe.schedule_name(target)}"
    return resource


def _refused(target: Target, source: str, resource: str, actions: tuple[str, ...]) -> list[str]:
    """The actions that IAM would not allow, from every page of its answer."""
    paginator = target.client("iam").get_paginator("simulate_principal_policy")
    # The roles may pass a role to Scheduler only: without this key IAM would deny it.
    service: ContextEntryTypeDef = {
        "ContextKeyName": "iam:PassedToService",
        "ContextKeyValues": [SCHEDULER],
        "ContextKeyType": "string",
    }
    pages = paginator.paginate(
        PolicySourceArn=source, ActionNames=list(actions), ResourceArns=[resource], ContextEntries=[service]
    )
    results = (result for page in pages for result in page["EvaluationResults"])
    return [result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"]


def _policy_source(target: Target) -> str:
    """The caller's ARN as IAM's simulator takes it: an assumed role's session becomes the role."""
    head, _, rest = target.principal.partition(":assumed-role/")
    if not rest:
        return target.principal
    name = rest.split("/")[0]
    try:
        # A role of single sign-on has a path, which its sessions' ARNs leave out.
        return str(target.client("iam").get_role(RoleName=name)["Role"]["Arn"])
    except AwsFailed:
        return f"{head.replace(':sts:', ':iam:')}:role/{name}"


def _failsafe_role(context: CheckContext) -> Finding:
    arn = permissions.lease_role(context.target.settings, context.arn_fields)
    try:
        role = context.target.client("iam").get_role(RoleName=arn.rsplit("/", 1)[-1])["Role"]
    except NotFound:
        return problem(f"{arn} does not exist, so no failsafe can be created", "Deploy infrastructure.yaml.")
    except AwsFailed as failure:
        return unknown(failure.what[:QUOTED], f"Ask whether {arn} exists and trusts {SCHEDULER}.")
    # IAM returns the trust policy as JSON: who is trusted may be a string or a list in it.
    if SCHEDULER not in json.dumps(role.get("AssumeRolePolicyDocument", "")):
        return problem(f"{arn} does not trust {SCHEDULER}", "Deploy infrastructure.yaml.")
    return ok(arn)


def _dead_letters(context: CheckContext) -> Finding:
    # Scheduler retries a failsafe and then drops it. Only a dead-letter queue shows that this happened.
    queue = context.target.settings.lease.dead_letter_arn
    if queue:
        return ok(queue)
    return warning("none: a failsafe that fails leaves no trace", "Set `lease.dead_letter_arn` in parameters/.")


def _failure_metrics(context: CheckContext) -> Finding:
    target = context.target
    configured = target.settings.failure_metrics
    if target.settings.uncounted_failures:
        return describe_unguarded(target)
    if not configured:
        return ok("none: only errors of Lambda are failures")
    unseen = [metric.full_name for metric in configured if not serving.is_published(target, metric)]
    # A metric without the version's dimension counts for no version, and would look like no failures.
    if unseen:
        if any(metric.dimensions for metric in configured if metric.full_name in unseen):
            message = f"{', '.join(unseen)}: not published in the last two weeks"
            return warning(message, "Check names and dimensions in settings.failure_metrics.")
        message = f"{', '.join(unseen)}: not published by version for {target.resource} in the last two weeks"
        remedy = "Publish it with each request, 0 too, with FunctionName, Resource and ExecutedVersion."
        return warning(message, remedy)
    return ok(", ".join(metric.full_name for metric in configured))


def _streams(context: CheckContext) -> Finding:
    """Whether each stream that both versions are compared in has data, and whether one counts the business."""
    target = context.target
    streams = target.settings.streams
    if not streams:
        return ok("none: a version within its limits is not compared with the stable one")
    counters = {stream.name: stream.metrics for stream in streams if stream.metrics}
    unseen = [
        f"{name} ({metric.full_name})"
        for name, metrics in counters.items()
        for metric in metrics
        if not serving.is_published(target, metric)
    ]
    if unseen:
        message = f"{', '.join(unseen)}: not published by version in the last two weeks, so nothing is compared"
        return warning(message, "Publish it with each request, 0 too; or correct names and dimensions in streams.")
    names = ", ".join(stream.name for stream in streams)
    if not counters:
        message = f"{names}; none counts your business, so a version that sells less is not held"
        return info(message, "Add a counter to streams, for example of sales (docs/streams.md).")
    return ok(names)


def _alarms(context: CheckContext) -> Finding:
    finding = alarm_states(context)
    # An alarm concerns the version that is live: the setup is complete.
    if finding.state is State.PROBLEM:
        return replace(finding, state=State.WARNING)
    if finding.state is State.OK and not context.target.settings.alarms.topic_arn:
        return warning(f"{finding.message}, but no topic is configured", "Set settings.alarms.topic_arn.")
    return finding


def _log_group(context: CheckContext) -> Finding:
    """Whether the logs of the function and of the versions that serve can be read, and have what is read in them."""
    target = context.target
    configs: dict[str, LogConfig] = {}
    # The check of the function reports that it is missing. Its log group may exist.
    with suppress(InvalidInput):
        configs = logs.read_log_configs(target, logs.served_versions(target))
        # Also that of $LATEST: the next build is published with it.
        configs[LATEST] = context.configuration.log
    # Where no version can be read, Lambda's own name is what can be checked.
    groups = logs.groups_of(configs) or [default_group(target.settings.function)]
    for name in groups:
        # The first page has it: names are sorted, and the prefix itself comes before longer names. Source: CloudWatch
        # Logs API reference, DescribeLogGroups.
        listed = target.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        # Groups with longer names begin alike.
        found = [group for group in listed if group["logGroupName"] == name]
        if not found:
            return warning(
                f"{name} does not exist: cold starts are unknown", "Lambda creates it with the first log entry."
            )
        if found[0].get("logGroupClass") == "DELIVERY":
            return warning(
                f"{name} has the class DELIVERY: it cannot be searched, so cold starts are unknown",
                "Set another log group in the function's LoggingConfig.",
            )
    silent = [label(number) for number, config in configs.items() if not config.reports]
    if silent:
        return warning(
            f"{text.join_words(silent)}: no reports of successful requests in the JSON log (SystemLogLevel WARN), so "
            "cold starts and the durations of smoke tests are unknown, and rollouts judge cold starts, too",
            "Set SystemLogLevel in the function's LoggingConfig to INFO, and publish.",
        )
    mute = [label(number) for number, config in configs.items() if not config.errors]
    if mute:
        return warning(
            f"{text.join_words(mute)}: no error lines in the JSON log (ApplicationLogLevel FATAL), so an assessment of "
            "an incident names few causes",
            "Set ApplicationLogLevel in the function's LoggingConfig to ERROR or lower, and publish.",
        )
    formats = {config.group: " (JSON)" if config.is_json else "" for config in configs.values()}
    return ok(text.join_words(f"{name}{formats.get(name, '')}" for name in groups))


def _log_feed(context: CheckContext) -> Finding:
    """Whether the caller may read the log as a rollout does every 10 s, by reading one line of it."""
    target = context.target
    if not target.settings.health.log_feed:
        return ok(f"off (health.log_feed): {BY_MINUTES}")
    latest = context.configuration
    serving = context.alias.serving if context.alias is not None else ()
    pair = [*(versions.read_version(target, number) for number in serving), latest]
    why = log_feed.why_not(target.settings, pair)
    if why:
        remedy = "docs/log-feed.md names what the log feed needs."
        if not all(version.log.is_json for version in pair):
            remedy = "Set LogFormat in the function's LoggingConfig to JSON, and publish; both versions need it."
        return info(f"{BY_MINUTES}. {why}", remedy)
    group = latest.log.group
    calls = (
        f"a rollout reads {group} every 10 s: about {log_feed.CALLS_PER_MINUTE} FilterLogEvents a minute, of 5 a "
        "second that an account has in a region; JSON logs are larger than text, and billed by volume"
    )
    if context.role not in permissions.ACTING:
        # A reader and an auditor have no permission for it, by design, and roll nothing out.
        return ok(f"{calls}; not tried as {context.role}")
    try:
        log_events.try_search(target, group)
    except AccessDenied:
        where = f"arn:{target.partition}:logs:{target.region}:{target.account}:log-group:{group}:*"
        return warning(
            f"the caller may not read {group} (logs:FilterLogEvents): {BY_MINUTES}, and cold starts are unknown",
            f"Grant logs:FilterLogEvents on {where}, as infrastructure.yaml does, or set health.log_feed to false.",
        )
    except NotFound:
        return warning(
            f"{group} does not exist: {BY_MINUTES}",
            "Lambda creates it with the first log entry. If requests were served, allow the function's role to write "
            "logs (AWSLambdaBasicExecutionRole).",
        )
    return ok(calls)


def _channels(context: CheckContext) -> Finding:
    """The notification channels. A secret's existence is checked; it is never decrypted."""
    target = context.target
    notify = target.settings.notify
    secrets = {channel.name: channel.url for channel in notify.channels}
    if notify.slack_webhook is not None:
        secrets = {"Slack": notify.slack_webhook, **secrets}
    # A Slack webhook and a topic do without the package.
    if notify.channels and importlib.util.find_spec("apprise") is None:
        names = text.join_words(channel.name for channel in notify.channels)
        message = f"{names}: the package apprise is not installed here"
        return problem(message, "Install it with `pip install 'buddy-ops[notify]'`, also where CI runs.")
    unread = []
    for channel, where in secrets.items():
        kind, _, name = where.partition(":")
        if kind == "env":
            if not os.environ.get(name):
                return problem(f"the variable {name} with the address of {channel} is not set", f"Set {name}.")
        elif context.role == "reader":
            # A reader has no permission for secrets, by design: that it cannot look is no problem.
            unread.append(f"the address of {channel} is in ssm:{name}, which a reader may not read")
        else:
            try:
                target.client("ssm").get_parameter(Name=name, WithDecryption=False)
            except AwsFailed as failure:
                message = f"the address of {channel} could not be read from ssm:{name}: {failure.what}"
                return problem(message[:QUOTED], f"Store it in {name}.")
    if unread:
        return info("; ".join(unread))
    if not secrets and notify.topic_arn is None:
        return warning("no channel, no topic", "Set settings.notify: slack_webhook, channels or topic_arn.")
    return ok(", ".join([*secrets, *filter(None, [notify.topic_arn])]))


def _build(context: CheckContext) -> Finding:
    """Whether a build in S3 can be shipped: it can be read, Lambda can take it, and a later upload changes nothing."""
    if not context.build:
        return ok("none named (--build s3://BUCKET/KEY)")
    wanted = parse_artifact(context.build)
    if not isinstance(wanted, StoredObject):
        raise InvalidInput("invalid-usage", "--build names no object in S3.", next="Give s3://BUCKET/KEY.")
    try:
        found = stored_builds.require_readable(context.target, wanted)
    except (InvalidInput, Refused) as error:
        return problem(error.what[:QUOTED], error.next)
    except AwsFailed as failure:
        # S3 answers a HEAD that it denies without a reason.
        if isinstance(failure, AccessDenied) or failure.code == "403":
            return problem(f"the caller may not read {wanted}", failure.next)
        raise
    if not found.version:
        message = (
            f"{found} can be read, but its bucket keeps no versions: an upload during a rollout replaces the build"
        )
        return warning(message, f"Turn on versioning for {found.bucket}.")
    return ok(str(found))


def _archive(context: CheckContext) -> Finding:
    """Whether executed runs are stored where they cannot be changed."""
    target = context.target
    bucket = target.settings.archive.bucket
    if not bucket:
        return warning("executed runs stay in runs/ on this machine", "Set settings.archive.where to a bucket.")
    try:
        lock = target.client("s3").get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    except NotFound:
        # Enabled later, it does not protect the runs that were archived before.
        message = f"{bucket} has no Object Lock: archived runs can be changed"
        return warning(message, "Create a bucket with Object Lock, and set archive.where to it.")
    except AwsFailed as failure:
        return problem(failure.what[:QUOTED], f"Deploy infrastructure.yaml, or correct archive.where ({bucket}).")
    state = lock.get("ObjectLockEnabled", "not enabled")
    return ok(f"{target.settings.archive.where}, Object Lock {state}")


def _signing_key(context: CheckContext) -> Finding:
    """Whether the key that signs archived runs is there, is of the right type, and is the one that is expected."""
    rule = context.target.settings.archive.sign
    if rule is None:
        return ok("none: runs are not signed (archive.sign)")
    try:
        reply = context.target.client("kms").get_public_key(KeyId=rule.key)
    except AwsFailed as failure:
        return problem(failure.what[:QUOTED], failure.next)
    if signing.ALGORITHM not in reply.get("SigningAlgorithms", ()):
        found = f"{reply.get('KeySpec')} for {reply.get('KeyUsage')}"
        return problem(f"{rule.key} is {found}: it cannot sign", "Set archive.sign.key to a key ECC_NIST_P256.")
    sha256 = hashlib.sha256(reply["PublicKey"]).hexdigest()
    if rule.public_key_sha256 not in (None, sha256):
        message = f"the public key of {rule.key} has the SHA-256 {sha256}, not that of archive.sign.public_key_sha256"
        return problem(message, "Find out who changed the key or the setting.")
    return ok(f"{rule.key}, SHA-256 of its public key {sha256}")


def _proof(context: CheckContext) -> Finding:
    """Whether the setup was proved here, not too long ago."""
    target = context.target
    demanded = target.settings.policy.proof_days
    if not demanded:
        return ok("not demanded (policy.proof_days)")
    remedy = f"Run `buddy-ops doctor --prove -e {target.environment}`."
    found = checklist_store.newest_result(target, PROOF_RECORD, target.settings.function)
    if found is None:
        return problem("this setup was never tested", remedy)
    now = target.clock.now()
    age = text.count((now - found.at).days, "day")
    if wrong := found.problems((), now):
        return problem(f"the proof of run {found.run} {text.join_words(wrong)}", remedy)
    if found.open:
        names = text.join_words(item.name for item in found.open)
        return problem(f"the last proof, {age} ago, failed: {names}", f"Correct what it found. {remedy}")
    if now - found.at > timedelta(days=demanded):
        return problem(f"the last proof was {age} ago (policy.proof_days: {demanded})", remedy)
    return ok(f"tested {age} ago, on {found.at:%Y-%m-%d}, by run {found.run}")


IDENTITY_CHECKS = (Check("parameters", _parameters), Check("credentials", _credentials))

CHECKS = (
    Check("function", _function, required=True),
    Check("runtime", _runtime),
    Check("timeout", _timeout),
    Check("alias", _alias, runbook="rollback/immediate"),
    Check("record", _record, runbook="strategies/canary"),
    Check("freeze", _freeze, runbook="start_here"),
    Check("permissions", _permissions),
    Check("failsafe role", _failsafe_role),
    Check("dead-letter queue", _dead_letters),
    Check("callers", callers_state),
    Check("failure metrics", _failure_metrics, runbook="operations/monitor"),
    Check("streams", _streams),
    Check("alarms", _alarms, runbook="operations/alarms"),
    Check("log group", _log_group),
    Check("log feed", _log_feed),
    Check("channels", _channels),
    Check("hooks", hooks_state),
    Check("build", _build),
    Check("archive", _archive),
    Check("signing key", _signing_key),
    Check(PROOF, _proof),
)
