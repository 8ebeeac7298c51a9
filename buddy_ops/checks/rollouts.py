"""What the alias serves, which rollout explains it, and whether the run of that rollout is alive.

A run leaves no sign in AWS but its failsafe: it renews the schedule each time that half of its time is over.
"""

from datetime import datetime, timedelta

from buddy_ops.aws import aliases, failsafe, versions
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.failsafe import Failsafe
from buddy_ops.aws.session import Target
from buddy_ops.checks import result_words
from buddy_ops.checks._shared import WINDOW, missing_alias
from buddy_ops.checks.findings import CheckContext, Finding, NotMeasured, info, ok, problem, unknown, warning
from buddy_ops.core import text
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.front_end import invocation
from buddy_ops.health import serving
from buddy_ops.health.serving import name_version

RECENTLY = timedelta(hours=1)
"""For how long after a rollback the status says that there was one."""


def rollout_state(context: CheckContext) -> Finding:
    """What the alias routes, and whether a deployment record explains it.

    AWS: lambda:GetAlias; while a rollout is in progress scheduler:GetSchedule. Reads only.
    """
    alias, record = context.alias, context.record
    if alias is None:
        return missing_alias(context)
    if versions.LATEST in alias.serving:
        return _alias_on_latest(context.target)
    if record is not None and alias.additional is None and not _explains(record, alias):
        return _moved(context, record)
    if record is not None and alias.failsafe_triggered:
        return _rolled_back_by_failsafe(context, record)
    if alias.additional is None:
        return _one_version(context, alias)
    # From here on two versions are named: by AWS itself, by a rollout, by a gradual rollback, or by another tool.
    if alias.allocating:
        return info(aliases.describe_allocation(alias), "Wait some minutes. AWS then moves the traffic.")
    if alias.stable is None or record is None:
        message = f"{alias}. No deployment record says which version is stable"
        naming = invocation("rollback/immediate", context.target.environment, to_version="VERSION")
        return problem(message, f"Run {naming}.")
    if record.open and alias.stable == alias.primary:
        return _in_progress(context, record)
    if alias.draining:
        return _draining(context, record)
    # A closed record explains no weights: another tool, or a person, set them.
    message = f"{alias}. No open rollout explains these weights; v{alias.stable} is stable"
    return problem(message, f"Run rollback/immediate: it routes all traffic to v{alias.stable}.")


def rolled_back_recently(alias: Alias, now: datetime) -> bool:
    """Whether the traffic was rolled back within ``RECENTLY``, by the record."""
    record = alias.rollout
    switched = serving.last_switch(alias)
    return record is not None and record.rolled_back and switched is not None and now - switched < RECENTLY


def rolled_back_version(alias: Alias) -> str:
    """The version that the last rollback took the traffic from, by the record; empty if it does not say."""
    record = alias.rollout
    if record is None or not record.rolled_back:
        return ""
    marked = [version for version in record.rejected_versions if version != alias.primary]
    if marked:
        return marked[-1]
    # An inconclusive health check marks no version.
    if record.new_version == alias.primary:
        return ""
    return record.new_version


def _alias_on_latest(target: Target) -> Finding:
    """Deployments refuse such an alias, and a rollback has nothing to return to."""
    function = target.settings.function
    message = f"the alias serves {versions.LATEST}: every upload to {function} reaches all users at once"
    back = invocation("rollback/immediate", target.environment, to_version="VERSION")
    remedy = f"Publish a version (aws lambda publish-version --function-name {function}), then point the alias to it: "
    return problem(f"{message}, and no version is kept", f"{remedy}{back}.").named(result_words.ALIAS_ON_LATEST)


def _explains(record: RolloutState, alias: Alias) -> bool:
    """Whether this record's run, or its failsafe, left the alias at the one version that it serves."""
    return alias.failsafe_triggered or serving.last_switch(alias) is not None


def _moved(context: CheckContext, record: RolloutState) -> Finding:
    # The record's run did not do this, so its health and its times say nothing about what serves now.
    message = f"{context.alias}. The deployment record does not explain this: run {record.run} deployed v"
    message += f"{record.new_version}. Another tool, or a person, moved the alias"
    remedy = "Find out who moved it, and whether that was intended."
    return warning(message, remedy).named(result_words.ALIAS_MOVED)


def _one_version(context: CheckContext, alias: Alias) -> Finding:
    """One version has all traffic, as it should."""
    record = alias.rollout
    if record is None:
        return _without_record(context, alias)
    now = context.target.clock.now()
    switched = serving.last_switch(alias)
    if switched is not None and rolled_back_recently(alias, now):
        away = rolled_back_version(alias)
        run = record.closed_by_run or record.run
        since = text.time_of_day(switched, now, ago=True)
        what = "rolled back"
        if away:
            what = f"rolled back v{away}"
        message = f"v{alias.primary} receives 100 % of traffic since {since}; run {run} {what}"
        return info(message, since=switched, version=alias.primary).named(result_words.ROLLED_BACK)
    since = ""
    if switched is not None:
        since = f" since {text.time_of_day(switched, now)}"
    return ok(f"{alias}{since}", since=switched, version=alias.primary)


def _without_record(context: CheckContext, alias: Alias) -> Finding:
    """An alias that Buddy Ops never moved; or that another tool moved just now, as the metrics or the log show."""
    last: dict[str, datetime] = {}
    try:
        for row in context.traffic(WINDOW).rows:
            last |= {version: row.at for version, counts in row.counts.items() if counts.requests}
    except (BuddyError, NotMeasured):
        last.clear()  # the checks of the metrics say so
    before = [version for version in last if version.isdecimal() and version not in alias.serving]
    if not before:
        return ok(str(alias), version=alias.primary)
    served = max(before, key=lambda version: last[version])
    until = text.time_of_day(last[served] + text.MINUTE, context.target.clock.now())
    message = f"{alias}. {name_version(served)} served until {until}, and no deployment record explains the change. "
    message += "Another tool, or a person, moved the alias"
    remedy = "Find out who moved it, and whether that was intended."
    return warning(message, remedy, before=served).named(result_words.ALIAS_MOVED)


def _rolled_back_by_failsafe(context: CheckContext, record: RolloutState) -> Finding:
    # A run closes its record itself. An open one without weights was rolled back from outside.
    since = text.time_of_day(text.parse_utc(record.since), context.target.clock.now())
    message = (
        f"run {record.run} of v{record.new_version} stopped responding at {_stage(record)}. The failsafe rolled it "
        f"back: v{record.stable_version} receives 100 % of traffic. That stage began at {since}"
    )
    remedy = "Run the same artifact again, or roll back: both close the record."
    return problem(message, remedy, version=record.new_version, since=text.parse_utc(record.since)).named(
        result_words.STALLED
    )


def _in_progress(context: CheckContext, record: RolloutState) -> Finding:
    now = context.target.clock.now()
    since = text.time_of_day(text.parse_utc(record.since), now, ago=True)
    what = f"{context.alias}: run {record.run} of v{record.new_version} in progress, {_stage(record)} since {since}"
    return _with_failsafe(context, what, record=record, word=result_words.ROLLING_OUT)


def _draining(context: CheckContext, record: RolloutState) -> Finding:
    what = f"{context.alias}: a gradual rollback of v{record.new_version} is in progress"
    return _with_failsafe(context, what, record=record, word=result_words.ROLLING_BACK)


def _with_failsafe(context: CheckContext, what: str, *, record: RolloutState, word: str) -> Finding:
    """Whether the run that splits the traffic renews its failsafe.

    AWS: scheduler:GetSchedule; lambda:GetAlias where there is no schedule. Reads only.
    """
    target = context.target
    version = record.new_version
    try:
        found = failsafe.read_failsafe(target, record.run)
        # A run that ended since the alias was read has deleted its failsafe: that is no lost run.
        if found is None and aliases.read_alias(target) != context.alias:
            message = f"{what}. The alias has changed since it was read"
            return unknown(message, "Check again in 1 min.", version=version).named(word)
    except AwsFailed as failure:
        message = f"{what}. Whether its run is alive is unknown. {failure.what}"
        return unknown(message, failure.next, version=version).named(word)
    stalled = _why_stalled(target, found, f"v{record.stable_version}")
    facts = {"version": version, "since": text.parse_utc(record.since), "share": context.deployed.share(version)}
    if stalled:
        return problem(f"{what}. {stalled}", "Roll it back, or resume it.", **facts).named(result_words.STALLED)
    assert found is not None
    renewed = text.time_of_day(failsafe.renewed_at(target, found), target.clock.now(), ago=True)
    return info(f"{what}. Its run renewed the failsafe at {renewed}", "Wait for its end.", **facts).named(word)


def _why_stalled(target: Target, found: Failsafe | None, stable: str) -> str:
    """Why the traffic of a rollout is not in the hands of a run, a sentence; empty: it is."""
    now = target.clock.now()
    if found is None:
        return "It has no failsafe: nothing rolls it back if its run is lost"
    due = text.time_of_day(found.until, now)
    if found.until <= now:
        return f"Its run was lost. The failsafe was due at {due}, and has not rolled it back"
    if failsafe.is_kept(target, found):
        return ""
    renewed = text.time_of_day(failsafe.renewed_at(target, found), now, ago=True)
    return f"Its run was lost: it last renewed the failsafe at {renewed}. The failsafe rolls back to {stable} at {due}"


def _stage(record: RolloutState) -> str:
    if record.stage == "watch":
        return "monitoring at 100 %"
    return f"stage {record.stage}"
