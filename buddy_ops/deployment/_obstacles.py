"""Whether the calls of a rollout can work: obstacles that are known before anyone approves it. Never writes.

AWS refuses each of them, some after the upload or while traffic moves.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from buddy_ops.aws import versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, TOGETHER, Version, label
from buddy_ops.core.errors import AwsFailed, Refused
from buddy_ops.core.front_end import invocation
from buddy_ops.core.packages import MEGABYTE, UNPACKED_LIMIT, ZIPPED_LIMIT
from buddy_ops.core.text import join_words
from buddy_ops.deployment.builds import Build
from buddy_ops.health import callers, former_service

SHOWN = 5
"""How many of the newest published versions a sentence names."""


@dataclass(frozen=True)
class _Limits:
    """The account's limits, in bytes; ``stored`` and ``storage`` are None where they could not be read."""

    zipped: int = ZIPPED_LIMIT
    unpacked: int = UNPACKED_LIMIT
    stored: int | None = None
    storage: int | None = None


def require_published(target: Target, alias: Alias | None) -> None:
    """Refuse an alias that serves $LATEST: an upload would reach all its users at once, and nothing could undo it.

    Raises:
        Refused: ``alias-on-latest``.
    """
    if alias is None or LATEST not in alias.serving:
        return
    function = target.settings.function
    name = target.settings.alias
    raise Refused(
        "alias-on-latest",
        f"{target.resource} serves {LATEST}, the code that was uploaded last. Uploading a build would give it to all "
        "users at once, without a version to return to.",
        next=f"Publish what serves now, and point the alias to it:\n"
        f"  aws lambda publish-version --function-name {function}\n"
        f"  aws lambda update-alias --function-name {function} --name {name} --function-version NUMBER\n"
        "NUMBER is the Version that the first command prints. Then deploy again.",
    )


def require_first_deployment(target: Target) -> Iterator[str]:
    """Refuse to deploy behind an alias that was deleted: an unverified build would receive all traffic at once.

    The sentences say whether it served before, where that is unknown, and what a first deployment does.

    AWS: as ``former_service.read_former_service``, reads only.

    Raises:
        Refused: ``alias-deleted``.
    """
    try:
        served = former_service.read_former_service(target)
    except AwsFailed as failure:
        yield (
            f"Warning: whether {target.resource} served before is unknown. {failure.what} If it did, it was deleted. "
            "Then do not approve this: create the alias again at the version that served."
        )
    else:
        if served is not None:
            raise Refused(
                "alias-deleted",
                f"There is no alias {target.resource}, but it served before: it was deleted. "
                f"{served.describe(target.clock.now())} A deployment would give this build 100 % of traffic at once.",
                next=f"{served.restore(target)} Restore its permissions and triggers. Find out who deleted it. Then "
                "run this again: the new build receives its traffic in stages.",
            )
        yield from _published_before(target)
    yield "Warning: this build receives all traffic at once. A first deployment has no version to roll back to."


def _published_before(target: Target) -> Iterator[str]:
    """A sentence where CloudWatch has no request of the alias, and versions are there that it may have served."""
    published = [label(version.number) for version in versions.list_versions(target)]
    if published:
        verb = "are"
        if len(published) == 1:
            verb = "is"
        yield (
            f"Warning: CloudWatch has no request of {target.resource} in the last {former_service.MEMORY.days} days, "
            f"although {join_words(published[-SHOWN:])} {verb} published. If one of them served, do not approve this. "
            f"{former_service.restore_advice(target, '')}"
        )


def require_able_to_share(target: Target, stable: Version, new: Version) -> None:
    """Refuse a rollout between versions that Lambda does not serve from one alias: every strategy splits its traffic.

    Args:
        new: the version, or $LATEST as it will be published.

    Raises:
        Refused: ``roles-differ``.
    """
    for name in TOGETHER:
        if new.settings[name] == stable.settings[name]:
            continue
        cure = "Deploy a build with the configuration of the version that serves"
        if new.number == LATEST:
            cure = f"Set {name} of {target.settings.function} to {_shown(stable, name)} and deploy again"
        raise Refused(
            "roles-differ",
            f"{label(new.number)} has another {name} than v{stable.number}, which serves: {_shown(new, name)} instead "
            f"of {_shown(stable, name)}. Lambda splits the traffic of an alias only between versions with the same "
            "one.",
            next=f"{cure}. If the change is intended, publish the build yourself (aws lambda update-function-code "
            "--publish). Then route all traffic to that version, which splits none: "
            f"{invocation('rollback/immediate', target.environment, to_version='VERSION')}.",
        )


def require_fitting(target: Target, build: Build, latest: Version) -> Iterator[str]:
    """Refuse a build that is too large for Lambda, or for the account's storage; what is unknown, a sentence each.

    AWS: lambda:GetAccountSettings, reads only.

    Raises:
        Refused: ``artifact-too-large`` or ``code-storage-full``.
    """
    limits = _Limits()
    try:
        limits = _read_limits(target)
    except AwsFailed as failure:
        # The limits on one package are the same for every account: they are checked all the same.
        yield f"Warning: whether the account has code storage left is unknown. {failure.what}"
    size = build.size
    # Lambda's limit is on the request: a zip that it fetches from S3 may be larger.
    if build.uploaded and size > limits.zipped:
        raise _too_large(target, f"The zip has {_megabytes(size)}, and Lambda takes {_megabytes(limits.zipped)}")
    if build.unpacked > limits.unpacked:
        limit = _megabytes(limits.unpacked)
        has = _megabytes(build.unpacked)
        raise _too_large(target, f"The build has {has} unpacked; Lambda runs {limit}, layers included")
    if limits.stored is None or limits.storage is None:
        return
    # The upload replaces $LATEST's package, and the version takes the same again.
    needed = max(limits.stored + size, limits.stored - latest.code_bytes + 2 * size)
    if needed > limits.storage:
        raise Refused(
            "code-storage-full",
            f"The account's code storage is full: {_megabytes(limits.stored)} of {_megabytes(limits.storage)} are "
            f"used, and this build takes {_megabytes(2 * size)}.",
            next="Delete versions that are not needed with operations/clean_up_versions, for every function of the "
            "account, or ask AWS for more code storage (Service Quotas, Lambda). Then run this again.",
        )


def require_ready(target: Target, latest: Version) -> Iterator[str]:
    """Refuse a function that AWS failed to create; a sentence where AWS is still busy with it.

    Raises:
        Refused: ``function-failed``.
    """
    function = target.settings.function
    if latest.state == "Failed":
        raise function_failed(target, latest)
    if latest.state == "Pending":
        yield f"Warning: {function} is Pending: {latest.reason}. Publishing waits until AWS has created it."
    if latest.update == "InProgress":
        yield f"Warning: an update of {function} is in progress: {latest.reason}. Publishing waits for its end."
    if latest.update == "Failed":
        yield (
            f"Warning: the last update of {function} failed: {latest.reason}. The upload is a new update; it fails, "
            "too, if this cause remains."
        )


def function_failed(target: Target, latest: Version) -> Refused:
    """The refusal to change a function that is Failed: AWS takes no update of it."""
    return Refused(
        "function-failed",
        f"{target.settings.function} is Failed: {latest.reason}. AWS takes no code and no configuration for it.",
        next="Correct what this reason names (role, VPC, KMS key) until the function is Active, then run this again. "
        "The published versions are not affected: rollbacks work.",
    )


def describe_callers(target: Target) -> Iterator[str]:
    """A sentence for each sign that callers do not use the alias: a share on it does not protect them.

    AWS: as ``callers.read_callers``.
    """
    found = callers.read_callers(target)
    for sign in found.signs:
        yield f"Warning: {sign}"
    if found.signs:
        yield callers.remedy(target)
    for failure in found.unread:
        yield f"Warning: whether callers use the alias is unknown. {failure}"
    # None is no 0: what could not be read is said above.
    if found.requests == 0:
        yield callers.NOT_MEASURED


def _read_limits(target: Target) -> _Limits:
    reply = target.client("lambda").get_account_settings()
    limit = reply["AccountLimit"]
    return _Limits(
        limit.get("CodeSizeZipped", ZIPPED_LIMIT),
        limit.get("CodeSizeUnzipped", UNPACKED_LIMIT),
        stored=reply["AccountUsage"].get("TotalCodeSize"),
        storage=limit.get("TotalCodeSize"),
    )


def _too_large(target: Target, what: str) -> Refused:
    return Refused(
        "artifact-too-large",
        f"{what}. AWS would refuse the upload to {target.settings.function}.",
        next="Build a smaller zip: move dependencies and data into a layer, or leave out what does not run. Then "
        "deploy that.",
    )


def _shown(version: Version, name: str) -> str:
    return str(version.settings[name] or "none")


def _megabytes(size: int) -> str:
    if size < MEGABYTE:
        return f"{size:,} bytes"
    return f"{size / MEGABYTE:,.1f} MB"
