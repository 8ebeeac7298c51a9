"""A build, or a changed configuration, becomes a version: upload, configure, publish, wait until it can serve.

$LATEST is shared by all runs, so each write is guarded by the revision that was read. The alias is never touched here.
"""

from datetime import datetime, timedelta

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, Version
from buddy_ops.core.errors import BuddyError, Conflict, Refused
from buddy_ops.core.plan import Approval
from buddy_ops.core.text import join_words
from buddy_ops.deployment.observation import Observation, Polls
from buddy_ops.deployment.rollout_plan import RolloutPlan, merge_variables

POLL = timedelta(seconds=2)
LIMIT = timedelta(minutes=10)
"""How long AWS may take to apply an update."""

COLLISION_POLLS = 30
"""How often a run searches for the one that changed $LATEST, ``POLL`` apart."""

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
    description = _description(target, plan, approval)
    try:
        latest = versions.read_version(target)
        # Only what differs is written: another run of the same plan may have done a part already.
        if latest.sha256 != plan.change.sha256:
            versions.upload_code(target, plan.change.archive, latest.revision)
        latest = yield from _wait_until_settled(target, alias, LATEST)
        wanted = _environment(target, plan, latest)
        if latest.variables != wanted:
            versions.update_environment(target, wanted, latest.revision)
            latest = yield from _wait_until_settled(target, alias, LATEST)
        version = versions.publish_version(target, latest, description)
        yield from _wait_until_settled(target, alias, version)
    except Conflict as failure:
        publisher = yield from _find_publisher(target, began, own=description)
        raise _collided(target, alias, publisher, failure) from failure
    return version


def restore_latest(target: Target, plan: RolloutPlan) -> list[str]:
    """Remove a configuration that was rolled back from $LATEST, so that no later build deploys it; what failed.

    AWS: lambda:UpdateFunctionConfiguration, writes, guarded by RevisionId.
    """
    if not plan.change.base:
        return []
    try:
        latest = versions.read_version(target)
        # Another run may have changed it since: then it is not ours to restore.
        if latest.variables == _environment(target, plan, latest):
            before = versions.read_version(target, plan.change.base).variables
            versions.update_environment(target, before, latest.revision)
    except BuddyError as error:
        return [
            f"Warning: $LATEST still has the configuration that was rolled back; the next build would deploy it. "
            f"{error.what}"
        ]
    return []


def _environment(target: Target, plan: RolloutPlan, latest: Version) -> dict[str, str]:
    """The environment variables of the new version."""
    start = versions.read_version(target, plan.change.base) if plan.change.base else latest
    return merge_variables(start.variables, plan.change.variables)


def _description(target: Target, plan: RolloutPlan, approval: Approval) -> str:
    """The version's Description: the run, and who changed which variable. ``flag_history`` shows it."""
    description = f"run {target.run}"
    if plan.change.base:
        changes = ", ".join(f"{name}={value}" for name, value in plan.change.variables.items())
        description = f"{description}: {changes} by {join_words(approval.by)}"
    return description[:DESCRIPTION_LIMIT]


def _find_publisher(target: Target, since: datetime, *, own: str) -> Polls[str]:
    """Who changed $LATEST while this run published; a general answer if it does not show itself in time.

    Args:
        own: the Description of the version that this run publishes.
    """
    for _ in range(COLLISION_POLLS):
        alias = aliases.read_alias(target)
        if alias is not None:
            newest = versions.list_versions(target)[-1]
            if alias.rollout is not None and alias.rollout.open and alias.rollout.run != target.run:
                return f"Run {alias.rollout.run}"
            # A version that was there before says nothing about the present.
            if newest.modified_at >= since and newest.description != own:
                return f"The publisher of v{newest.number} ({newest.description or 'no description'})"
        yield _waiting(target, "Another run changed $LATEST. Waiting to find out which one.")
    return "Another user or tool"


def _collided(target: Target, alias: Alias | None, publisher: str, failure: Conflict) -> Refused:
    return Refused(
        "rollout-under-way",
        f"{publisher} changed $LATEST of {target.settings.function} while this run was publishing. {failure.what}",
        now=f"{target.resource} serves {alias}; this run shifted nothing.",
        next="Let the other rollout end, then deploy again. start_here shows it.",
    )


def _wait_until_settled(target: Target, alias: Alias | None, number: str) -> Polls[Version]:
    """Wait until AWS has applied $LATEST's update, or a version is ready; its configuration then.

    botocore's waiters (function_updated_v2, published_version_active) sleep in real time: here the clock waits, which
    is the sandbox's virtual one too, and other observers of the rollout run meanwhile.
    """
    deadline = target.clock.now() + LIMIT
    what = "the update" if number == LATEST else f"v{number}"
    while True:
        version = versions.read_version(target, number)
        if version.update == "Successful" and version.usable:
            return version
        if "Failed" in (version.update, version.state) or target.clock.now() > deadline:
            raise BuddyError(
                "publish-failed",
                f"AWS did not apply {what} of {target.settings.function}: "
                f"{version.update}, {version.state}: {version.reason}.",
                now=f"{target.resource} is untouched: it serves {alias}.",
                next="Correct the build and run again.",
            )
        yield _waiting(target, f"AWS is still applying {what}.")


def _waiting(target: Target, says: str) -> Observation:
    now = target.clock.now()
    return Observation(now, "publish", 0.0, wake_at=now + POLL, says=says)
