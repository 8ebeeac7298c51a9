"""A build, or a changed configuration, becomes a version: upload, configure, publish, wait until it can serve.

Knows $LATEST, which everybody shares: each write is guarded by the revision that was read. Never touches the alias.
"""

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.plan import Approval
from buddy_ops.deployment.observation import Observation, Order
from buddy_ops.deployment.rollout_plan import RolloutPlan, merge_variables

POLL = timedelta(seconds=2)
LIMIT = timedelta(minutes=10)
COLLISION_POLLS = 30
COLLISIONS = ("PreconditionFailedException", "ResourceConflictException", "InvalidParameterValueException")
"""What Lambda answers when $LATEST is no longer what we put there."""

DESCRIPTION_LIMIT = 256
"""Characters of a version's Description. Source: Lambda API reference, PublishVersion."""

Waiting = Generator[Observation, Order | None, Any]


def publish_build(
    target: Target, plan: RolloutPlan, alias: Alias | None, approval: Approval
) -> Generator[Observation, Order | None, str]:
    """Make what the plan ships a version that can serve; its number.

    AWS: lambda:UpdateFunctionCode, UpdateFunctionConfiguration, PublishVersion (write);
    lambda:GetFunctionConfiguration (read).

    Raises:
        Refused: ``rollout-under-way``: somebody else publishes.
        BuddyError: ``publish-failed``.
    """
    try:
        latest = aliases.get_configuration(target)
        if latest["CodeSha256"] != plan.sha256:
            aliases.upload_code(target, plan.artifact, latest["RevisionId"])
        latest = yield from _settled(target, alias, None)
        wanted = _environment(target, plan, latest)
        if aliases.environment_variables(latest) != wanted:
            aliases.update_environment(target, wanted, latest["RevisionId"])
            latest = yield from _settled(target, alias, None)
        version = aliases.publish_version(target, latest, _description(target, plan, approval))
        yield from _settled(target, alias, version)
    except AwsFailed as failure:
        if failure.code not in COLLISIONS:
            raise
        yield from _tell_collision(target, alias, failure)
    return version


def restore_latest(target: Target, plan: RolloutPlan) -> list[str]:
    """Take a configuration that did not stay out of $LATEST, so that no later build ships it; what fails is told.

    AWS: lambda:UpdateFunctionConfiguration, writes, guarded by RevisionId.
    """
    if not plan.base:
        return []
    try:
        latest = aliases.get_configuration(target)
        if aliases.environment_variables(latest) == _environment(target, plan, latest):
            before = aliases.environment_variables(aliases.get_configuration(target, plan.base))
            aliases.update_environment(target, before, latest["RevisionId"])
    except BuddyError as error:
        return [f"$LATEST still has the configuration that was taken back, and a next build would: {error.what}"]
    return []


def _environment(target: Target, plan: RolloutPlan, latest: dict[str, Any]) -> dict[str, str]:
    """The environment that the new version shall have."""
    start = aliases.get_configuration(target, plan.base) if plan.base else latest
    return merge_variables(aliases.environment_variables(start), plan.variables)


def _description(target: Target, plan: RolloutPlan, approval: Approval) -> str:
    """What the version says of itself: the run, and who changed which flag; ``flags.history`` reads it."""
    change = ", ".join(f"{name}={value}" for name, value in plan.variables.items()) if plan.base else ""
    said = f"run {target.run}" + (f": {change} by {' and '.join(approval.by)}" if change else "")
    return said[:DESCRIPTION_LIMIT]


def _tell_collision(target: Target, alias: Alias | None, failure: AwsFailed) -> Waiting:
    """Somebody else changed $LATEST while we published: wait until it shows who, then say so."""
    run = ""
    for _ in range(COLLISION_POLLS):
        seen = aliases.read_alias(target)
        record = seen.rollout if seen else None
        newest = str(aliases.list_versions(target)[-1].get("Description", "")) if seen else ""
        publisher = newest.removeprefix("run ").split(":")[0] if newest.startswith("run ") else ""
        if record is not None and record.open and record.run != target.run:
            run = record.run
        elif publisher and publisher != target.run:
            run = publisher
        if run:
            break
        yield _waits(target, "Who else publishes?")
    raise Refused(
        "rollout-under-way",
        f"{f'Run {run}' if run else 'Somebody else'} changed $LATEST of {target.settings.function} while this run was "
        f"publishing its own. {failure.what}",
        now=f"{target.resource} serves {alias}; this run shifted nothing.",
        next="Let the other rollout end, then ship again; start_here shows it.",
    ) from failure


def _settled(
    target: Target, alias: Alias | None, version: str | None
) -> Generator[Observation, Order | None, dict[str, Any]]:
    """Wait until $LATEST's update, or a version, has settled; its configuration then, with the RevisionId then."""
    deadline = target.clock.now() + LIMIT
    what = f"v{version}" if version else "the update"
    while True:
        settings = aliases.get_configuration(target, version)
        update, state = settings.get("LastUpdateStatus", "Successful"), settings.get("State", "Active")
        if update == "Successful" and state in ("Active", "Inactive"):
            return settings
        if "Failed" in (update, state) or target.clock.now() > deadline:
            reason = settings.get("StateReason") or settings.get("LastUpdateStatusReason") or "no reason given"
            raise BuddyError(
                "publish-failed",
                f"AWS did not take in {what} of {target.settings.function}: {update}, {state}: {reason}.",
                now=f"{target.resource} is untouched: it serves {alias}.",
                next="Correct the build and run again.",
            )
        yield _waits(target, f"Waiting until AWS has taken in {what}.")


def _waits(target: Target, says: str) -> Observation:
    now = target.clock.now()
    return Observation(now, "publish", 0.0, (), None, None, now + POLL, says)
