"""Cleaning up old versions: keeps the newest, and everything that is or may be needed.

Knows which versions nobody can miss. Never deletes one that its plan did not list, and looks again before each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, Refused
from buddy_ops.core.plan import Approval, Plan

WINDOW = timedelta(hours=24)
"""A version that was published within it may still be rolled back to, or be the one that is being watched."""


@dataclass(frozen=True)
class CleanupPlan(Plan):
    """What to delete: ``doomed``, oldest first; ``kept`` says why each other old version stays."""

    to_delete: tuple[str, ...]
    kept: Mapping[str, str]


@dataclass(frozen=True)
class CleanupResult:
    """What was deleted, and what was left because the world had moved meanwhile, with the reason."""

    deleted: tuple[str, ...]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        gone = f"Deleted: v{', v'.join(self.deleted)}." if self.deleted else "Nothing was deleted."
        return "\n".join((gone, *(f"v{version} was spared: {why}" for version, why in self.skipped.items())))


def plan_cleanup(target: Target, keep: int | None = None) -> CleanupPlan:
    """The versions that nobody needs.

    Args:
        keep: how many of the newest stay in any case; absent: as many as the environment's policy says.

    AWS: lambda:ListVersionsByFunction, ListAliases, ListProvisionedConcurrencyConfigs, all pages, reads only.

    Raises:
        Refused: ``not-allowed``: fewer than the policy says.
    """
    fewest = target.settings.policy.keep_versions
    keep = fewest if keep is None else keep
    if keep < fewest:
        raise Refused(
            "not-allowed",
            f"{target.environment} keeps the newest {fewest} versions, and {keep} were asked for.",
            now="Nothing was deleted.",
            next="Keep more, or change `keep_versions` in the environment's file.",
        )
    found = aliases.list_versions(target)
    needed = _needed(target, found)
    old = [str(each["Version"]) for each in found[:-keep]] if keep else [str(each["Version"]) for each in found]
    doomed = tuple(version for version in old if version not in needed)
    kept = {version: needed[version] for version in old if version in needed}
    name = target.settings.function
    return CleanupPlan(
        title=f"Delete {len(doomed)} of {len(found)} versions of {name}",
        now=(
            f"{name} has {len(found)} versions; the newest {keep} stay",
            *(f"v{v} stays: {why}" for v, why in kept.items()),
        ),
        then=(f"v{', v'.join(doomed)} are gone" if doomed else "nothing changes",),
        calls=tuple(f"lambda:DeleteFunction Qualifier={version}" for version in doomed),
        undo=("none: a deleted version cannot be brought back, only shipped anew from its artifact",),
        reasons=(),
        covers={
            "action": "prune",
            "environment": target.environment,
            "function": name,
            "doomed": list(doomed),
        },
        approvals=target.settings.rollout.approvals,
        demand_hash=False,
        to_delete=doomed,
        kept=kept,
    )


def run_cleanup(target: Target, plan: CleanupPlan, approval: Approval) -> CleanupResult:
    """Delete what the plan lists, looking again before each: what an alias has come to need meanwhile is spared.

    AWS: lambda:DeleteFunction with a version's Qualifier, writes.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan)
    deleted: list[str] = []
    spared: dict[str, str] = {}
    for version in () if target.dry_run else plan.to_delete:
        needed = _needed(target, aliases.list_versions(target))
        if version in needed:
            spared[version] = needed[version]
            continue
        try:
            target.client("lambda").delete_function(FunctionName=target.settings.function, Qualifier=version)
        except AwsFailed as failure:
            if failure.code == "ResourceConflictException":
                spared[version] = failure.what  # an alias has taken it between our look and the call
                continue
            # Gone is gone: somebody else deleted it, or we did and were not told.
            if failure.code != "ResourceNotFoundException":
                failure.now = f"{failure.now} Deleted before that: {', '.join(deleted) or 'none'}."
                raise
        deleted.append(version)
    target.journal.append("pruned", deleted=deleted, spared=spared, by=approval.by)
    return CleanupResult(tuple(deleted), spared)


def _needed(target: Target, found: list[dict[str, Any]]) -> dict[str, str]:
    """Versions that must stay, each with its reason."""
    needed: dict[str, str] = {}
    now = target.clock.now()
    for each in found:
        published = datetime.strptime(each["LastModified"], "%Y-%m-%dT%H:%M:%S.%f%z")
        if now - published < WINDOW:
            needed[str(each["Version"])] = "it was published within 24 hours"
    client, name = target.client("lambda"), target.settings.function
    reserved = client.get_paginator("list_provisioned_concurrency_configs").paginate(FunctionName=name)
    for config in (config for page in reserved for config in page["ProvisionedConcurrencyConfigs"]):
        needed[config["FunctionArn"].rsplit(":", 1)[-1]] = "it has provisioned concurrency"
    listed = client.get_paginator("list_aliases").paginate(FunctionName=name)
    for alias in (alias for page in listed for alias in page["Aliases"]):
        record = aliases.decode_rollout_state(alias.get("Description", ""))
        for version in (record.stable_version, record.fallback_version, record.new_version) if record else ():
            needed.setdefault(version, f"alias {alias['Name']} may return to it")
        weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
        for version in (alias["FunctionVersion"], *weights):
            needed[str(version)] = f"alias {alias['Name']} serves it"
    return needed
