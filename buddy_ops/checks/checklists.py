"""The checklists before and after a deployment. Each item is checked, or attested by the name of a person.

An item that no check could decide and no person attested is open. An attestation does not override a failed check.

Source: the deployment guide, 'Checklists'.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Literal

from buddy_ops.aws import aliases, checklist_store, versions
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings
from buddy_ops.checks._shared import (
    Measure,
    VersionRate,
    alarms_complete,
    describe_freezes,
    missing_alias,
    version_rates,
)
from buddy_ops.checks.findings import (
    Check,
    CheckContext,
    Finding,
    NotMeasured,
    State,
    info,
    ok,
    ok_if,
    problem,
    unknown,
)
from buddy_ops.core import text, windows
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.errors import InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.people import clean_name, require_readable
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.deployment import builds, rollout_plan, smoke_tests
from buddy_ops.health import former_service

# The deployment guide's time in which a version at 100 % may still be rolled back.
ROLLBACK_WINDOW = timedelta(hours=24)
LOOK_BACK = timedelta(minutes=60)
"""How much of the latest traffic is checked."""

ANSWERS: dict[State, Literal["yes", "no", "unknown", "pending"]] = {
    State.OK: "yes",
    State.WARNING: "yes",
    State.INFO: "pending",
    State.PROBLEM: "no",
    State.UNKNOWN: "unknown",
}
"""The state of an item by its check's result. Only 'yes' closes an item."""


class NoRequests(NotMeasured):
    """CloudWatch was read, and the version received no requests."""


ItemSeen = Callable[[ChecklistItem], None]
"""Called with each item as soon as it is checked."""


def ignore_item(item: ChecklistItem) -> None:
    """Ignore the item."""


def checklist_subject(target: Target, artifact: str, attested: Collection[str] = ()) -> str:
    """The build that a result before a deployment is for, identified by its content.

    Args:
        attested: the items that a person attests.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``artifact-form``, ``unknown-item``.
    """
    # Before the build is read, which may be a large file.
    _require_known_items("pre_deployment", _checks_before(target), attested)
    return rollout_plan.describe_build(builds.read_sha256(target, artifact))


def check_before(
    target: Target,
    artifact: str,
    attested: Mapping[str, str] | None = None,
    reached: tuple[str, ...] = (),
    seen: ItemSeen = ignore_item,
) -> ChecklistResult:
    """Whether a build may be deployed, item by item.

    Args:
        artifact: the build; the result is for it and no other.
        attested: the person who attests an item, by the item's name.
        reached: the channels that accepted the announcement, as ``notifications.announce`` returns them.
        seen: called with each item as soon as it is checked.

    AWS: lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData, DescribeAlarms, ssm:GetParametersByPath,
    reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``artifact-form``, ``unknown-item``.
    """
    build = checklist_subject(target, artifact, attested or {})
    context = CheckContext(target, notified=reached)
    return _go_through("pre_deployment", build, _checks_before(target), attested or {}, context=context, seen=seen)


def check_after(
    target: Target,
    attested: Mapping[str, str] | None = None,
    seen: ItemSeen = ignore_item,
    watch: Progress = no_progress,
) -> ChecklistResult:
    """Whether the version that serves is healthy, item by item. Its smoke tests invoke it.

    Args:
        attested: the person who attests an item, by the item's name.
        seen: called with each item as soon as it is checked.
        watch: called before each smoke test.

    AWS: lambda:GetAlias, cloudwatch:GetMetricData, reads only; lambda:InvokeFunction, runs the skill's code.

    Raises:
        InvalidInput: ``alias-missing``, ``unknown-item``.
    """
    context = CheckContext(target, watch=watch)
    # Without an alias no item makes sense: that is an error, not an open checklist.
    context.alias = aliases.require_alias(target)
    subject = f"v{context.alias.primary}"
    return _go_through("post_deployment", subject, AFTER, attested or {}, context=context, seen=seen)


def store_result(target: Target, record: ChecklistResult) -> str:
    """Store the result where the strategies read it, and say where. AWS: ssm:PutParameter, writes."""
    if target.dry_run:
        return "Dry run: the result was not stored."
    return f"Stored as {checklist_store.write_result(target, record)}."


def raise_for_failed_items(record: ChecklistResult) -> None:
    """Return if every item is 'yes'.

    Raises:
        Refused: ``checklist-open``, with every item that is not.
    """
    findings.raise_listing(
        Refused,
        "checklist-open",
        title=f"{record.checklist} of {record.subject}: {len(record.open)} of {len(record.items)} items are open.",
        entries=[f"{item.name}: {item.state}: {item.says}" for item in record.open],
        next_step="Fix every failed check. For manual checks, enter the name of the person who verified it: "
        f"{parameter('attested', {'ITEM': 'NAME'})}.",
    )


def _checks_before(target: Target) -> tuple[Check, ...]:
    """The tests that the environment's settings name, which a person attests; then the items of every environment."""
    return (*(Check(name, _attested_only) for name in target.settings.policy.testing), *BEFORE)


def _go_through(
    checklist: str,
    subject: str,
    checks: tuple[Check, ...],
    attested: Mapping[str, str],
    *,
    context: CheckContext,
    seen: ItemSeen,
) -> ChecklistResult:
    # Before the first check: smoke tests invoke the function, and a misspelt item is an error all the same.
    _require_known_items(checklist, checks, attested)
    require_readable(tuple(attested.values()), "attested")
    items = []
    for finding in findings.run_checks(checks, context):
        item = _item(finding, clean_name(attested.get(finding.check, "")))
        items.append(item)
        seen(item)
    target = context.target
    return ChecklistResult(
        checklist, subject, at=target.clock.now(), run=target.run, principal=target.principal, items=tuple(items)
    )


def _require_known_items(checklist: str, checks: tuple[Check, ...], attested: Collection[str]) -> None:
    known = [check.name for check in checks]
    strange = sorted(set(attested) - set(known))
    if strange:
        raise InvalidInput(
            "unknown-item",
            f"{checklist} has no item {', '.join(map(repr, strange))}.",
            next=f"Attest one of: {', '.join(known)}.",
        )


def _item(finding: Finding, attested_by: str) -> ChecklistItem:
    """The result of the check; where it is unknown, the attestation."""
    # A person may only decide what no check decided: a name does not override a failed check.
    if finding.state is State.UNKNOWN and attested_by:
        says = "attested"
        if not finding.facts.get("manual"):
            says = f"attested; the check is unknown: {finding.message}"
        return ChecklistItem(finding.check, "yes", says, attested_by)
    return ChecklistItem(finding.check, ANSWERS[finding.state], finding.message)


def _attested_only(context: CheckContext) -> Finding:
    return unknown("not attested yet", manual=True)


# Before


def _rollback_target(context: CheckContext) -> Finding:
    """After the deployment, a rollback returns to the version that serves now: that version must be healthy.

    Raises:
        AwsFailed: there is no alias, and whether one served before is unknown.
    """
    alias = context.alias
    if alias is None:
        # An alias that was deleted is no first deployment: what served is to be created again.
        if former_service.read_former_service(context.target) is not None:
            return missing_alias(context)
        return ok("first deployment: there is no version to return to")
    name = f"v{alias.primary}"
    if context.record is not None and alias.primary in context.record.rejected_versions:
        return problem(f"a rollback would return to {name}, which is marked bad")
    version = versions.read_version(context.target, alias.primary)
    if not version.usable:
        return problem(f"a rollback would return to {name}, which is {version.state}")
    try:
        errors = _error_rate(context)
    except NoRequests as reason:
        # A version without recent requests can still be returned to.
        return ok(f"a rollback returns to {name}, which is {version.state}; {reason}")
    except NotMeasured as reason:
        return unknown(f"a rollback returns to {name}, which is {version.state}; {reason}")
    return replace(errors, message=f"a rollback returns to {name}, which is {version.state}; {errors.message}")


def _on_call(context: CheckContext) -> Finding:
    if context.notified:
        return ok(f"notified by {', '.join(context.notified)}")
    return unknown("no notification channel accepted a message")


def _deployment_window(context: CheckContext) -> Finding:
    # A freeze overrides the window, as it does when a rollout starts.
    if context.freezes:
        return problem(f"frozen: {describe_freezes(context)}")
    rules = context.target.settings.policy
    now = context.target.clock.now()
    obstacle = windows.find_obstacle(rules, now)
    if not rules.window:
        return ok_if(not obstacle, obstacle or "no deployment window is set: any time")
    message = windows.describe_windows(rules.window)
    return ok_if(not obstacle, f"{message}; {obstacle or 'local time ' + windows.local_times(rules.window, now)}")


def _smoke_tests_ready(context: CheckContext) -> Finding:
    settings = context.target.settings
    strategies = [name for name in settings.rollout.strategies if name in settings.rollout.smoke_tested]
    if not settings.smoke_tests or not strategies:
        return unknown("no strategy of this environment runs smoke tests before traffic")
    tests = text.count(len(settings.smoke_tests), "smoke test")
    return ok(f"{tests} before traffic, in {', '.join(strategies)}")


BEFORE = (
    Check("smoke tests are ready", _smoke_tests_ready),
    Check("code reviewed", _attested_only),
    Check("documentation updated", _attested_only),
    Check("rollback target healthy", _rollback_target),
    Check("alarms in place", alarms_complete),
    Check("on-call notified", _on_call),
    Check("deployment window open", _deployment_window),
)


# After


def _smoke_tests(context: CheckContext) -> Finding:
    results = smoke_tests.run_smoke_tests(context.target, context.deployed.primary, context.watch)
    failed = [str(result) for result in results if result.trouble]
    if not results:
        return unknown("the environment has no smoke tests")
    if failed:
        return problem("; ".join(failed))
    return ok(f"{len(results)} of {len(results)} passed")


def _serving_rate(context: CheckContext, measure: Measure, limit: float) -> VersionRate:
    """The rate of the version that serves, over the last hour or since it was deployed.

    Raises:
        NoRequests: the version received no requests.
        NotMeasured: CloudWatch could not be read, or is late.
    """
    version = context.deployed.primary
    record = context.record
    reading = context.traffic(LOOK_BACK)
    since = context.metrics_until - LOOK_BACK
    if record is not None and record.new_version == version:
        # Its first minute is shared with the version before it.
        since = max(since, text.floor_minute(text.parse_utc(record.since)) + text.MINUTE)
    for rate in version_rates(reading, measure, limit):
        own = rate.starting_at(since)
        # During a rollout the other version has rates as well; the checklist is about the primary version.
        if own.version == version and own.requests:
            own.require_published()
            return own
    raise NoRequests(f"v{version} received no requests since {since:%H:%M} UTC")


def _error_rate(context: CheckContext) -> Finding:
    rate = _serving_rate(context, "errors", context.target.settings.health.error_rate)
    return ok_if(not rate.over_limit, f"error rate {rate.describe()}")


def _latency(context: CheckContext) -> Finding:
    health = context.target.settings.health
    rate = _serving_rate(context, "slow", health.slow_rate)
    return ok_if(not rate.over_limit, rate.describe(f" over {text.duration(health.latency_ms / 1000)}"))


def _business_metrics(context: CheckContext) -> Finding:
    """Requests that succeeded for Lambda, and failed by the skill's own metrics."""
    target = context.target
    if not target.settings.failure_metrics:
        return unknown("settings.failure_metrics names none")
    limit = target.settings.health.error_rate
    all_errors = _serving_rate(context, "errors", limit)
    # A second reading without these metrics counts what Lambda itself reports as failed.
    lambda_only = CheckContext(replace(target, settings=target.settings.model_copy(update={"failure_metrics": ()})))
    lambda_only.alias = context.alias
    failed = all_errors.count - _serving_rate(lambda_only, "errors", limit).count
    names = ", ".join(metric.name for metric in target.settings.failure_metrics)
    message = f"{names}: {failed:,} in {text.count(all_errors.requests, 'request')} (limit {text.exact_percent(limit)})"
    return ok_if(failed <= limit * all_errors.requests, message)


def _rollback_window(context: CheckContext) -> Finding:
    """Closed 24 hours after the version reached 100 %, if it was not rolled back."""
    alias = context.deployed
    record = context.record
    if record is None:
        return unknown("no deployment record on this alias")
    now = context.target.clock.now()
    began = text.parse_utc(record.since)
    if record.new_version != alias.primary or record.stage not in ("proved", "unproven"):
        ended = aliases.ENDED.get(record.stage, f"at stage {record.stage}")
        return problem(f"v{record.new_version} {ended} since {text.time_of_day(began, now)}")
    # A finished rollout's record begins when its version was left at 100 %.
    closes = began + ROLLBACK_WINDOW
    if now >= closes:
        return ok(f"closed at {text.date_and_time(closes)}")
    return info(f"open until {text.date_and_time(closes)}")


AFTER = (
    Check("smoke tests pass", _smoke_tests),
    Check("error rate normal", _error_rate),
    Check("latency within bounds", _latency),
    Check("business metrics healthy", _business_metrics),
    Check("rollback window closed", _rollback_window),
)
