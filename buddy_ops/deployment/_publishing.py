"""A build, or a changed configuration, becomes a version: upload, configure, publish, wait until it can serve.

$LATEST is shared by all runs, so each write is guarded by the revision that was read. The alias is never touched here.
"""

from datetime import datetime, timedelta
from typing import Any

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.plan import Approval
from buddy_ops.core.text import join_words, parse_utc
from buddy_ops.deployment.observation import Observation, Polls
from buddy_ops.deployment.rollout_plan import RolloutPlan, merge_variables

POLL = timedelta(seconds=2)
LIMIT = timedelta(minutes=10)
"""How long AWS may take to apply an update."""

COLLISION_POLLS = 30
COLLISIONS = ("PreconditionFailedException", "ResourceConflictException", "InvalidParameterValueException")
"""What Lambda answers when $LATEST is no longer as this run left it."""

DESCRIPTION_LIMIT = 256
"""Characters of a version's Description. Source: Lambda API reference, PublishVersion."""


def publish_build(target: Target, plan: RolloutPlan, alias: Alias | None, approval: Approval) -> Polls[str]:
    """Make the plan's change a version that can serve; its number.

    AWS: lambda:UpdateFunctionCode, UpdateFunctionConfiguration, PublishVersion (write);
    lambda:GetFunctionConfiguration (read).

    Raises:
        Refused: ``rollout-under-way``: another run publishes.
        BuddyError: ``publish-failed``.
    """
    began = target.clock.now()
    try:
        latest = aliases.get_configuration(target)
        # Only what differs is written: another run of the same plan may have done a part already.
        if latest["CodeSha256"] != plan.change.sha256:
            aliases.upload_code(target, plan.change.archive, latest["RevisionId"])
        latest = yield from _wait_until_settled(target, alias, None)
        wanted = _environment(target, plan, latest)
        if aliases.environment_variables(latest) != wanted:
            aliases.update_environment(target, wanted, latest["RevisionId"])
            latest = yield from _wait_until_settled(target, alias, None)
        version = aliases.publish_version(target, latest, _description(target, plan, approval))
        yield from _wait_until_settled(target, alias, version)
    except AwsFailed as failure:
        if failure.code not in COLLISIONS:
            raise
        publisher = yield from _find_publisher(target, began)
        raise _collided(target, alias, publisher, failure) from failure
    return version


def restore_latest(target: Target, plan: RolloutPlan) -> list[str]:
    """Remove a configuration that was rolled back from $LATEST, so that no later build deploys it; what failed.

    AWS: lambda:UpdateFunctionConfiguration, writes, guarded by RevisionId.
    """
    if not plan.change.base:
        return []
    try:
        latest = aliases.get_configuration(target)
        # Another run may have changed it since: then it is not ours to restore.
        if aliases.environment_variables(latest) == _environment(target, plan, latest):
            before = aliases.environment_variables(aliases.get_configuration(target, plan.change.base))
            aliases.update_environment(target, before, latest["RevisionId"])
    except BuddyError as error:
        return [
            f"Warning: $LATEST still has the configuration that was rolled back; the next build would deploy it. "
            f"{error.what}"
        ]
    return []


def _environment(target: Target, plan: RolloutPlan, latest: dict[str, Any]) -> dict[str, str]:
    """The environment variables of the new version."""
    start = aliases.get_configuration(target, plan.change.base) if plan.change.base else latest
    return merge_variables(aliases.environment_variables(start), plan.change.variables)


def _description(target: Target, plan: RolloutPlan, approval: Approval) -> str:
    """The version's Description: the run, and who changed which variable. ``flag_history`` shows it."""
    description = _run_label(target)
    if plan.change.base:
        changes = ", ".join(f"{name}={value}" for name, value in plan.change.variables.items())
        description = f"{description}: {changes} by {join_words(approval.by)}"
    return description[:DESCRIPTION_LIMIT]


def _run_label(target: Target) -> str:
    return f"run {target.run}"


def _find_publisher(target: Target, since: datetime) -> Polls[str]:
    """Who changed $LATEST while this run published; a general answer if it does not show itself in time."""
    for _ in range(COLLISION_POLLS):
        alias = aliases.read_alias(target)
        if alias is not None:
            newest = aliases.list_versions(target)[-1]
            if alias.rollout is not None and alias.rollout.open and alias.rollout.run != target.run:
                return f"Run {alias.rollout.run}"
            # A version that was there before says nothing about the present.
            description = str(newest.get("Description", ""))
            if parse_utc(newest["LastModified"]) >= since and not description.startswith(_run_label(target)):
                return f"The publisher of v{newest['Version']} ({description or 'no description'})"
        yield _waiting(target, "Another run changed $LATEST. Waiting to find out which one.")
    return "Another user or tool"


def _collided(target: Target, alias: Alias | None, publisher: str, failure: AwsFailed) -> Refused:
    return Refused(
        "rollout-under-way",
        f"{publisher} changed $LATEST of {target.settings.function} while this run was publishing. {failure.what}",
        now=f"{target.resource} serves {alias}; this run shifted nothing.",
        next="Let the other rollout end, then deploy again. start_here shows it.",
    )


def _wait_until_settled(target: Target, alias: Alias | None, version: str | None) -> Polls[dict[str, Any]]:
    """Wait until AWS has applied $LATEST's update, or a version is ready; its configuration then."""
    deadline = target.clock.now() + LIMIT
    what = f"v{version}" if version else "the update"
    while True:
        latest = aliases.get_configuration(target, version)
        update = latest.get("LastUpdateStatus", "Successful")
        state = latest.get("State", "Active")
        if update == "Successful" and state in ("Active", "Inactive"):
            return latest
        if "Failed" in (update, state) or target.clock.now() > deadline:
            reason = latest.get("StateReason") or latest.get("LastUpdateStatusReason") or "no reason given"
            raise BuddyError(
                "publish-failed",
                f"AWS did not apply {what} of {target.settings.function}: {update}, {state}: {reason}.",
                now=f"{target.resource} is untouched: it serves {alias}.",
                next="Correct the build and run again.",
            )
        yield _waiting(target, f"AWS is still applying {what}.")


def _waiting(target: Target, says: str) -> Observation:
    now = target.clock.now()
    return Observation(now, "publish", 0.0, wake_at=now + POLL, says=says)
