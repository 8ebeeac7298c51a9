"""A build, or a changed configuration, becomes a version: upload, configure, publish, wait until it can serve.

$LATEST is shared by all runs, so each write is guarded by the revision that was read. The alias is never touched here.
"""

from datetime import datetime, timedelta

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, Version
from buddy_ops.core.errors import BuddyError, Busy, Conflict, Refused
from buddy_ops.core.plan import Approval, differing_names
from buddy_ops.core.text import join_words
from buddy_ops.deployment import _obstacles
from buddy_ops.deployment.observation import Observation, Polls
from buddy_ops.deployment.requested_change import merge_variables
from buddy_ops.deployment.rollout_plan import RolloutPlan

POLL = timedelta(seconds=2)
LIMIT = timedelta(minutes=10)
"""How long AWS may take to apply an update."""

COLLISION_POLLS = 30
"""How often a run searches for the one that changed $LATEST, ``POLL`` apart."""

DESCRIPTION_LIMIT = 256
"""Characters of a version's Description. Source: Lambda API reference, PublishVersion."""


class _CodeChanged(Exception):
    """$LATEST has other code than the plan, which brings none of its own; the message is a sentence."""


def publish_build(target: Target, plan: RolloutPlan, alias: Alias | None, approval: Approval) -> Polls[str]:
    """Make the plan's change a version that can serve; its number.

    AWS: lambda:UpdateFunctionCode, UpdateFunctionConfiguration, PublishVersion (write);
    lambda:GetFunctionConfiguration (read).

    Raises:
        Refused: ``rollout-under-way``: another run publishes; ``latest-changed``, ``function-failed``.
        BuddyError: ``publish-failed``, ``function-busy``.
    """
    began = target.clock.now()
    description = _description(target, plan, approval)
    while True:
        try:
            return (yield from _publish(target, plan, alias, description))
        except Busy as failure:
            # Another update began between our read and our write. Once it is applied, it is compared with the plan.
            if target.clock.now() > began + LIMIT:
                raise
            yield _waiting(target, failure.what)
        except (Conflict, _CodeChanged) as failure:
            publisher = yield from _find_publisher(target, began, own=description)
            raise _collided(target, alias, publisher, str(failure.args[0])) from failure


def _publish(target: Target, plan: RolloutPlan, alias: Alias | None, description: str) -> Polls[str]:
    """One attempt, in which $LATEST is what the plan showed from the first read to the published version."""
    latest = yield from _wait_until_idle(target, alias)
    # Only what differs is written: another run of the same plan may have done a part already.
    # After a failed update the same code is sent again: AWS takes a new update, and publishes nothing before.
    if latest.sha256 != plan.change.sha256 and plan.change.build is None:
        # A change of the configuration alone was planned on this code, and brings none of its own.
        raise _CodeChanged(f"$LATEST of {target.settings.function} has other code now.")
    build = plan.change.build
    if build is not None and (latest.sha256 != build.sha256 or latest.update == "Failed"):
        # Each update gives $LATEST a new revision: it is read again before the next write.
        versions.upload_code(target, build.code, build.sha256, latest.revision)
        latest = yield from _wait_until_settled(target, alias, LATEST)
    # A version that takes the environment over as it is can be published by who may not read it.
    if plan.change.variables:
        wanted = _environment(target, plan, latest)
        if latest.variables != wanted:
            versions.update_environment(target, wanted, latest.revision)
            latest = yield from _wait_until_settled(target, alias, LATEST)
    _require_as_planned(target, plan, alias, latest)
    # With the hash and revision of what was just compared: AWS refuses to publish anything else.
    number = versions.publish_version(target, latest, description)
    version = yield from _wait_until_settled(target, alias, number)
    # Again, of the version itself: it is what receives the traffic.
    _require_as_planned(target, plan, alias, version)
    return number


def _require_as_planned(target: Target, plan: RolloutPlan, alias: Alias | None, version: Version) -> None:
    """Compare code and configuration with what was approved: $LATEST belongs to everyone who may upload.

    Raises:
        Refused: ``latest-changed``.
    """
    # What the plan could not see cannot be compared with it: the plan said so.
    found = dict(version.settings)
    if plan.change.shows_variables:
        found = version.configuration_with(version.variables)
    changed = differing_names(plan.change.expected, found)
    if version.sha256 != plan.change.sha256:
        changed.insert(0, "the code")
    if not changed:
        return
    whose = f"$LATEST of {target.settings.function}"
    if version.number != LATEST:
        whose = f"v{version.number}, which was published from $LATEST of {target.settings.function},"
    raise Refused(
        "latest-changed",
        f"{whose} is not what the plan showed: another user or tool changed {join_words(changed)} meanwhile.",
        now=f"{target.resource} serves {alias}; this run shifted nothing.",
        next="Find out who changed it (CloudTrail: UpdateFunctionCode, UpdateFunctionConfiguration). Then run this "
        "again: the new plan shows $LATEST as it is.",
    )


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
        # The rollback itself is done: this is a sentence in its outcome.
        return [
            f"Warning: $LATEST still has the configuration that was rolled back; the next build would deploy it. "
            f"{error.what}"
        ]
    return []


def _environment(target: Target, plan: RolloutPlan, latest: Version) -> dict[str, str]:
    """The environment variables of the new version."""
    start = latest
    if plan.change.base:
        start = versions.read_version(target, plan.change.base)
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
            if alias.rollout is not None and alias.rollout.open and alias.rollout.run != target.run:
                return f"Run {alias.rollout.run}"
            # A version that was there before says nothing about the present.
            for newest in versions.list_versions(target)[-1:]:
                if newest.modified_at >= since and newest.description != own:
                    return f"The publisher of v{newest.number} ({newest.description or 'no description'})"
        yield _waiting(target, "Another run changed $LATEST. Waiting to find out which one.")
    return "Another user or tool"


def _collided(target: Target, alias: Alias | None, publisher: str, reason: str) -> Refused:
    return Refused(
        "rollout-under-way",
        f"{publisher} changed $LATEST of {target.settings.function} while this run was publishing. {reason}",
        now=f"{target.resource} serves {alias}; this run shifted nothing.",
        next="Let the other rollout end, then deploy again. start_here shows it.",
    )


def _wait_until_idle(target: Target, alias: Alias | None) -> Polls[Version]:
    """Wait until AWS works on nothing of $LATEST; its configuration then.

    Raises:
        Refused: ``function-failed``.
        BuddyError: ``function-busy``.
    """
    # AWS refuses an update during another one (ResourceConflictException: 'An update is in progress'): that one is
    # waited for. Source: AWS CLI issue 6585.
    deadline = target.clock.now() + LIMIT
    while True:
        latest = versions.read_version(target)
        if latest.state == "Failed":
            raise _obstacles.function_failed(target, latest)
        if latest.state != "Pending" and latest.update != "InProgress":
            return latest
        status = f"State {latest.state}, last update {latest.update}: {latest.reason}"
        if target.clock.now() > deadline:
            raise BuddyError(
                "function-busy",
                f"AWS is still creating or updating {target.settings.function} after {LIMIT.seconds // 60} min "
                f"({status}).",
                now=f"{target.resource} is untouched: it serves {alias}.",
                next="Wait until AWS has ended (aws lambda wait function-updated-v2 --function-name "
                f"{target.settings.function}), then run this again.",
            )
        yield _waiting(target, f"Waiting until AWS has created or updated the function ({status}).")


def _wait_until_settled(target: Target, alias: Alias | None, number: str) -> Polls[Version]:
    """Wait until AWS has applied $LATEST's update, or a version is ready; its configuration then.

    botocore's waiters (function_updated_v2, published_version_active) sleep in real time: here the clock waits, which
    is the sandbox's virtual one too, and other observers of the rollout run meanwhile.
    """
    deadline = target.clock.now() + LIMIT
    what = f"v{number}"
    if number == LATEST:
        what = "the update"
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
