"""Clean-up of old versions: the newest stay, and every version that is or may be needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import Version
from buddy_ops.core.errors import AwsFailed, Conflict, NotFound, Refused
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.text import count, join_words

WINDOW = timedelta(hours=24)
"""A version that was published within it may still be monitored, or be needed for a rollback."""


@dataclass(frozen=True, kw_only=True)
class CleanupPlan(Plan):
    """What to delete.

    Attributes:
        to_delete: the versions, oldest first.
        kept: why each other old version stays.
    """

    to_delete: tuple[str, ...]
    kept: Mapping[str, str]


@dataclass(frozen=True)
class CleanupResult:
    """What was deleted, and what was not, with the reason: it came into use since the plan was made."""

    deleted: tuple[str, ...]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"v{version} was not deleted: {why}." for version, why in self.skipped.items()]
        return "\n".join((f"Deleted: {_list(self.deleted)}.", *lines))


def plan_cleanup(target: Target, keep: int | None = None) -> CleanupPlan:
    """The versions that can be deleted.

    Args:
        keep: how many of the newest stay in any case; absent: as many as the environment's rules say.

    AWS: lambda:ListVersionsByFunction, ListAliases, ListProvisionedConcurrencyConfigs, all pages, reads only.

    Raises:
        Refused: ``not-allowed``: fewer than the rules say.
    """
    fewest = target.settings.policy.keep_versions
    if keep is None:
        keep = fewest
    if keep < fewest:
        raise Refused(
            "not-allowed",
            f"{target.environment} keeps the newest {fewest} versions, but keep is {keep}.",
            next="Keep more, or change `keep_versions` in the environment's file.",
        )
    published = versions.list_versions(target)
    needed = _needed(target, published)
    # Oldest first, as Lambda lists them.
    # Not below 0: a negative end would count from the end of the list.
    old = [version.number for version in published[: max(0, len(published) - keep)]]
    to_delete = tuple(version for version in old if version not in needed)
    kept = {version: needed[version] for version in old if version in needed}
    function = target.settings.function
    return CleanupPlan(
        title=f"Delete {len(to_delete)} of {count(len(published), 'version')} of {function}",
        now=(
            f"{function} has {count(len(published), 'version')}; the newest {keep} stay.",
            *(f"v{version} stays: {why}." for version, why in kept.items()),
        ),
        then=(f"Deleted: {_list(to_delete)}.",),
        calls=tuple(f"lambda:DeleteFunction Qualifier={version}" for version in to_delete),
        undo=("None: a deleted version cannot be restored, only deployed again from its artifact.",),
        reasons=(),
        covers={
            "action": "prune",
            "environment": target.environment,
            "region": target.region,
            "account": target.account,
            "function": function,
            "doomed": list(to_delete),
        },
        approvals=target.settings.rollout.approvals,
        demand_hash=False,
        made_at=target.clock.now(),
        valid_hours=target.settings.policy.approval_hours,
        to_delete=to_delete,
        kept=kept,
    )


def run_cleanup(target: Target, plan: CleanupPlan, approval: Approval) -> CleanupResult:
    """Delete what the plan lists. Before each deletion it checks again whether the version is needed.

    AWS: lambda:DeleteFunction with a version's Qualifier, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan, target.clock.now())
    deleted: list[str] = []
    skipped: dict[str, str] = {}
    to_delete = plan.to_delete
    if target.dry_run:
        to_delete = ()
    for version in to_delete:
        needed = _needed(target, versions.list_versions(target))
        if version in needed:
            skipped[version] = needed[version]
            continue
        try:
            target.client("lambda").delete_function(FunctionName=target.settings.function, Qualifier=version)
        except Conflict as failure:
            # An alias came to serve it between our check and the call.
            skipped[version] = failure.what.rstrip(".")
            continue
        except NotFound:
            # It is gone: another user deleted it, or we did and the answer was lost.
            pass
        except AwsFailed as failure:
            failure.now = f"{failure.now} Deleted before that: {_list(deleted)}."
            raise
        deleted.append(version)
    target.journal.append("pruned", deleted=deleted, spared=skipped, by=approval.by)
    return CleanupResult(tuple(deleted), skipped)


def _needed(target: Target, published: list[Version]) -> dict[str, str]:
    """Versions that must stay, each with its reason."""
    now = target.clock.now()
    needed = {
        version.number: "it was published within 24 h" for version in published if now - version.modified_at < WINDOW
    }
    pages = target.client("lambda").get_paginator("list_provisioned_concurrency_configs")
    for page in pages.paginate(FunctionName=target.settings.function):
        for config in page["ProvisionedConcurrencyConfigs"]:
            # The ARN ends with the qualifier: 'arn:aws:lambda:eu-west-1:123456789012:function:pay:41'.
            needed[config["FunctionArn"].rsplit(":", 1)[-1]] = "it has provisioned concurrency"
    for alias in aliases.list_aliases(target):
        record = alias.rollout
        if record is not None:
            # All three: which one a rollback returns to depends on how the rollout goes on.
            for return_version in (record.stable_version, record.fallback_version, record.new_version):
                needed.setdefault(return_version, f"alias {alias.name} may roll back to it")
        # Last, since it is the strongest reason.
        for version in alias.serving:
            needed[version] = f"alias {alias.name} serves it"
    return needed


def _list(versions: Sequence[str]) -> str:
    return join_words(f"v{version}" for version in versions) or "none"
