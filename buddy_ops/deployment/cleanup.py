"""Clean-up of old versions: the newest stay, and every version that is or may be needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, Conflict, NotFound, Refused
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.text import count, join_words, parse_utc

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
    keep = fewest if keep is None else keep
    if keep < fewest:
        raise Refused(
            "not-allowed",
            f"{target.environment} keeps the newest {fewest} versions, but keep is {keep}.",
            next="Keep more, or change `keep_versions` in the environment's file.",
        )
    versions = aliases.list_versions(target)
    needed = _needed(target, versions)
    # Oldest first, as Lambda lists them.
    old = [str(version["Version"]) for version in versions[: max(0, len(versions) - keep)]]
    to_delete = tuple(version for version in old if version not in needed)
    kept = {version: needed[version] for version in old if version in needed}
    function = target.settings.function
    return CleanupPlan(
        title=f"Delete {len(to_delete)} of {count(len(versions), 'version')} of {function}",
        now=(
            f"{function} has {count(len(versions), 'version')}; the newest {keep} stay.",
            *(f"v{version} stays: {why}." for version, why in kept.items()),
        ),
        then=(f"Deleted: {_list(to_delete)}.",),
        calls=tuple(f"lambda:DeleteFunction Qualifier={version}" for version in to_delete),
        undo=("None: a deleted version cannot be restored, only deployed again from its artifact.",),
        reasons=(),
        covers={"action": "prune", "environment": target.environment, "function": function, "doomed": list(to_delete)},
        approvals=target.settings.rollout.approvals,
        demand_hash=False,
        to_delete=to_delete,
        kept=kept,
    )


def run_cleanup(target: Target, plan: CleanupPlan, approval: Approval) -> CleanupResult:
    """Delete what the plan lists. Before each deletion it checks again whether the version is needed.

    AWS: lambda:DeleteFunction with a version's Qualifier, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan)
    deleted: list[str] = []
    skipped: dict[str, str] = {}
    for version in () if target.dry_run else plan.to_delete:
        needed = _needed(target, aliases.list_versions(target))
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


def _needed(target: Target, versions: list[dict[str, Any]]) -> dict[str, str]:
    """Versions that must stay, each with its reason."""
    needed: dict[str, str] = {}
    now = target.clock.now()
    for version in versions:
        published = parse_utc(version["LastModified"])
        if now - published < WINDOW:
            needed[str(version["Version"])] = "it was published within 24 h"
    client = target.client("lambda")
    function = target.settings.function
    reserved = client.get_paginator("list_provisioned_concurrency_configs").paginate(FunctionName=function)
    for config in (config for page in reserved for config in page["ProvisionedConcurrencyConfigs"]):
        needed[config["FunctionArn"].rsplit(":", 1)[-1]] = "it has provisioned concurrency"
    listed = client.get_paginator("list_aliases").paginate(FunctionName=function)
    for alias in (alias for page in listed for alias in page["Aliases"]):
        record = aliases.decode_rollout_state(alias.get("Description", ""))
        if record is not None:
            for return_version in (record.stable_version, record.fallback_version, record.new_version):
                needed.setdefault(return_version, f"alias {alias['Name']} may roll back to it")
        weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        for served in (alias["FunctionVersion"], *weights):
            needed[str(served)] = f"alias {alias['Name']} serves it"
    return needed


def _list(versions: Sequence[str]) -> str:
    return join_words(f"v{version}" for version in versions) or "none"
