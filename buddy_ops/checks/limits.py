"""Why requests are not served: a limit of concurrency, or an isolation by a person."""

from buddy_ops.aws import isolation
from buddy_ops.aws.session import Target
from buddy_ops.checks._shared import WINDOW, describe_period, version_rates
from buddy_ops.checks.findings import CheckContext, Finding, info, ok, problem, unknown, warning
from buddy_ops.core import text
from buddy_ops.core.errors import BuddyError

UNRESERVED_MINIMUM = 100
"""So many concurrent executions AWS keeps for functions without a reservation.

Source: Lambda developer guide, 'Configuring reserved concurrency'.
"""

QUOTA_CODE = "L-B99A9384"
"""Lambda's quota of concurrent executions, in Service Quotas."""


def isolation_state(context: CheckContext) -> Finding:
    """Whether a person stopped the function, or its writes, on purpose.

    AWS: ssm:GetParameter, lambda:GetFunctionConcurrency, reads only.
    """
    found = context.isolation
    if found is None:
        return ok("none")
    target = context.target
    since = text.time_of_day(text.parse_utc(found.since), target.clock.now(), ago=True)
    remedy = "Re-enable it once the cause is gone: buddy-ops reenable."
    facts = {"since": text.parse_utc(found.since), "by": found.who}
    if found.how == "writes":
        message = (
            f"{found.table} denies writes to the function since {since}, by {found.who}. Users cannot save changes"
        )
        return problem(message, remedy, **facts)
    reserved = isolation.read_concurrency(target)
    # The record is ours, the limit is AWS's: a person may have removed the one without the other.
    if reserved == 0:
        message = f"the function is stopped (concurrency 0) since {since}, by {found.who}. No request is served"
        return problem(message, remedy, **facts)
    limit = "has no reserved concurrency"
    if reserved is not None:
        limit = f"has a reserved concurrency of {reserved}"
    message = f"the isolation of {since} by {found.who} is still recorded, but the function {limit}"
    return warning(f"{message}: it was turned on outside Buddy Ops", remedy, **facts)


def throttles(context: CheckContext) -> Finding:
    """Throttled requests, and which limit rejected them. Each runs on no version, so no error rate includes it.

    AWS: as ``CheckContext.traffic``; where requests are throttled lambda:GetFunctionConcurrency, GetAccountSettings.
    """
    rates = version_rates(context.traffic(WINDOW), "throttles")
    throttled = sum(rate.count for rate in rates)
    period = describe_period(context)
    if throttled:
        message = f"{text.count(throttled, 'request')} throttled {period}"
        if _is_stopped(context):
            return info(f"{message}: the function is isolated", throttled=throttled)
        first = min(at for rate in rates for at, count, _ in rate.minutes if count)
        since = text.time_of_day(first, context.target.clock.now())
        cause, remedy, facts = _cause(context.target)
        return problem(f"{message}, since {since}: {cause}", remedy, throttled=throttled, since=first, **facts)
    if not any(rate.requests for rate in rates):
        return unknown(f"no requests {period}")
    return ok(f"none {period}")


def _is_stopped(context: CheckContext) -> bool:
    """Whether an isolation of the function is recorded."""
    try:
        found = context.isolation
    except BuddyError:
        return False  # the check of the isolation says so
    return found is not None and found.how == "function"


def _cause(target: Target) -> tuple[str, str, dict[str, object]]:
    """Which limit rejects requests, what to do about it, and the command that raises it."""
    function = f"--function-name {target.settings.function} --region {target.region}"
    try:
        reserved = isolation.read_concurrency(target)
        account = target.client("lambda").get_account_settings()["AccountLimit"]
    except BuddyError as error:
        return f"which limit is unknown ({error.what})", "Raise the function's concurrency limit.", {}
    limit = account.get("ConcurrentExecutions", 0)
    if reserved == 0:
        command = f"aws lambda delete-function-concurrency {function}"
        cause = "the function's reserved concurrency is 0, and no isolation of Buddy Ops is recorded"
        return cause, "Find out who set it. Then remove that concurrency limit.", {"reserved": 0, "command": command}
    if reserved is not None:
        # A reservation is taken from what is unreserved, of which AWS keeps 100.
        free = max(0, account.get("UnreservedConcurrentExecutions", 0) - UNRESERVED_MINIMUM)
        cause = f"the function's reserved concurrency is {reserved}"
        if free:
            wanted = reserved + min(reserved, free)
            command = f"aws lambda put-function-concurrency {function} --reserved-concurrent-executions {wanted}"
            remedy = f"Raise the function's concurrency limit to {wanted}."
            return cause, remedy, {"reserved": reserved, "command": command}
        cause += f", and the account's limit of {limit:,} leaves none to add"
    elif limit:
        cause = f"the account's limit is {limit:,} concurrent executions"
    else:
        cause = "the account's limit is reached"
    # Only AWS raises the account's limit: a command can no more than ask for it. 1,000 is the usual one, and a new
    # account may have less. Source: Lambda developer guide, 'Lambda quotas'.
    command = (
        f"aws service-quotas request-service-quota-increase --service-code lambda --quota-code {QUOTA_CODE} "
        f"--desired-value {max(2 * limit, 1000)} --region {target.region}"
    )
    remedy = "Ask AWS to raise the account's concurrency limit, or stop another function that uses it up."
    return cause, remedy, {"limit": limit, "command": command}
