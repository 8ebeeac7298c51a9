"""Taking traffic back: to the version that served before, in one write.

Knows which version a rollback may return to, and that traffic comes first: no metrics, no chart, no message and no
archive stands before the write, and none of these can undo it. Never decides that a rollback is due.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import Alias, AliasMoved, AliasState, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import NOBODY, Approval, Plan
from buddy_ops.migrations import schema
from buddy_ops.migrations.schema import SchemaMarker

ATTEMPTS = 10
"""Writes against somebody who keeps moving the alias, before we say so: a rollback wins over any rollout."""

CHECKS_S = 2.0
"""Real seconds that all checks before the traffic may take together; what is not known by then is a doubt."""


@dataclass(frozen=True)
class RollbackPlan(Plan):
    """An immediate rollback: the alias's primary becomes ``destination``, without weights."""

    destination: str
    away_from: tuple[str, ...]

    @property
    def came_from(self) -> tuple[str, ...]:
        """The versions that had the traffic when it was made, the alias's primary first."""
        return tuple(dict.fromkeys(filter(None, (*self.covers["from"], *self.away_from))))


@dataclass(frozen=True)
class RollbackResult:
    """How a rollback ended. ``already`` means that the alias was there before we came."""

    serving: str
    away_from: tuple[str, ...]
    at: datetime
    already: bool
    afterwards: tuple[str, ...]

    def __str__(self) -> str:
        verb = "was serving already" if self.already else "serves"
        left = f", and v{', v'.join(self.away_from)} get no traffic" if self.away_from else ""
        return "\n".join((f"v{self.serving} {verb} 100 % of the traffic{left} ({iso_utc(self.at)}).", *self.afterwards))


def plan_rollback(target: Target, version: str = "") -> RollbackPlan:
    """Where the alias is, and where an immediate rollback takes it.

    Args:
        version: the version to return to; empty: the one that served before and that nobody rolled back from. While
            traffic is split, our record says which of the two that is; where it does not, a version must be named.

    AWS: lambda:GetAlias, lambda:GetFunctionConfiguration, dynamodb:GetItem, reads only.

    Raises:
        Refused: ``which-is-stable``, ``no-rollback-target``, ``version-unusable``, ``schema-incompatible``.
        InvalidInput: ``alias-missing``, ``version-missing``.
    """
    if version and not version.isdecimal():
        raise InvalidInput(
            "version-missing",
            f"{version!r} is no published version: a version is a number, for example 41.",
            now="Nothing was changed.",
            next="Name one of the function's versions (parameter to_version).",
        )
    alias = require_alias(target)
    destination = version or _destination(target, alias)
    doubts = check_destination(target, alias, destination)
    lost = alias.rollout.new_version if alias.rollout and alias.failsafe_triggered else None
    away_from = tuple(each for each in (alias.primary, alias.additional, lost) if each not in (None, destination))
    then = f"{target.resource} serves 100 % v{destination}, without weights"
    undo = f"roll forward again: run strategies/canary with the artifact of v{away_from[0]}" if away_from else "nothing"
    return RollbackPlan(
        title=f"Roll {target.resource} back to v{destination}" if away_from else f"v{destination} serves alone already",
        now=tuple(aliases.describe(target, alias).splitlines()),
        then=(then, *(f"v{each} is noted as bad: no later rollback returns to it" for each in away_from)),
        calls=(f"lambda:UpdateAlias FunctionVersion={destination} AdditionalVersionWeights={{}}",) if away_from else (),
        undo=(undo,),
        reasons=tuple(doubts),
        covers={
            "action": "rollback",
            "environment": target.environment,
            "function": target.settings.function,
            "alias": target.settings.alias,
            "from": [alias.primary, alias.additional],
            "to": destination,
        },
        approvals=1,  # traffic back is the safe direction: one person who is awake suffices anywhere
        demand_hash=False,
        destination=destination,
        away_from=away_from,
    )


def run_rollback(target: Target, plan: RollbackPlan, approval: Approval) -> RollbackResult:
    """Move the traffic, then everything else; a second run reports 'already'.

    AWS: lambda:GetAlias, lambda:UpdateAlias (writes), scheduler:DeleteSchedule (writes).

    Raises:
        Refused: ``approval-void``, ``schema-incompatible``.
        AliasMoved: somebody moved the alias again at each of ten attempts, or since the plan found nothing to do.
        AwsFailed: AWS could not be reached; ``now`` says what is live, as far as it could be read.
    """
    approval.must_cover(plan)
    alias = require_alias(target)
    # Where the lease came first, the record still says that a rollout is under way: it is closed.
    already = (alias.primary, alias.additional) == (plan.destination, None) and not alias.failsafe_triggered
    if not already and approval.by == NOBODY:
        raise AliasMoved(target, alias)  # nobody was asked to approve a plan that changed nothing
    if not already and not target.dry_run:
        _refuse_misfit(target, alias, plan.destination)
        alias = shift_all_traffic(target, alias, plan.destination, plan.away_from)
    target.journal.append("rollback", to=plan.destination, away_from=plan.away_from, by=approval.by, already=already)
    afterwards = [] if target.dry_run else delete_failsafes(target, alias.rollout.run if alias.rollout else "")
    if target.dry_run:
        afterwards = ["Dry run: nothing was written."]
    return RollbackResult(
        alias.primary, () if target.dry_run else plan.away_from, target.clock.now(), already, tuple(afterwards)
    )


def _refuse_misfit(target: Target, alias: Alias, destination: str) -> None:
    """Ask the tables once more, right before the traffic: a migration may have gone on while the plan was read."""
    if target.settings.tables:
        _misfits(target, alias, destination, _looked_up(target, alias, destination))


def shift_all_traffic(
    target: Target,
    alias: Alias,
    destination: str,
    bad: tuple[str, ...],
    stage: str = "rolled-back",
    only_from: str = "",
    leaving: float = 0.0,
) -> Alias:
    """Give ``destination`` all the traffic, whoever else moves the alias meanwhile.

    Args:
        alias: the alias as it was read last.
        bad: versions that no later rollback may return to.
        stage: what the record says from now on.
        only_from: the version that shall lose its traffic: once somebody else has taken it away, or has rolled back to
            it by name, what they did stands. Empty: ``destination`` wins in any case.
        leaving: the share that ``only_from`` keeps for now, 0..1, under a lease: a step on its way down.

    Raises:
        AliasMoved: somebody else took ``only_from`` away or went back to it, or moves the alias again and again.

    AWS: lambda:UpdateAlias, writes; lambda:GetAlias after a collision.
    """
    for _ in range(ATTEMPTS):
        alone = alias.primary == only_from and alias.additional is None
        if alone and alias.rollout and alias.rollout.stage == "rolled-back":
            raise AliasMoved(target, alias)
        left = next(
            (each for each in (alias.additional, alias.primary) if each not in (None, destination)), alias.primary
        )
        record = alias.rollout or RolloutState(target.run, destination, left, stage, "")
        by = "" if record.run == target.run else target.run
        record = replace(record, stage=stage, since=iso_utc(target.clock.now()), closed_by_run=by)
        for version in bad:
            record = record.with_rejected(version)
        try:
            return aliases.update_alias(
                target, alias, AliasState(destination, only_from if leaving else None, leaving, record)
            )
        except AliasMoved as moved:
            alias, last = moved.alias, moved
            if only_from and only_from not in (alias.primary, alias.additional):
                raise
    raise last


def delete_failsafes(target: Target, run: str) -> list[str]:
    """Delete a run's lease and guard after the traffic is where it belongs; what fails is told, never raised."""
    told = []
    for which in ("lease", "guard"):
        try:
            failsafe.disarm(target, which, run)
        except BuddyError as error:
            told.append(f"The {which} could not be deleted ({error.what}); it is harmless and deletes itself.")
    return told


def check_destination(target: Target, alias: Alias, destination: str) -> list[str]:
    """What speaks against ``destination``: doubts are returned, known obstacles refuse.

    AWS: lambda:GetFunctionConfiguration twice, reads only; dynamodb:GetItem for each table, unless both versions know
    the same schema: then what serves answers for the tables.

    Raises:
        Refused: ``version-unusable``, ``schema-incompatible``.
        InvalidInput: ``version-missing``.
    """
    found = _looked_up(target, alias, destination)
    there, here = found[destination], found[alias.primary]
    if isinstance(there, InvalidInput):
        raise there
    if isinstance(there, BuddyError):
        return [f"whether v{destination} can serve is unknown: {there.what}"]
    if there.get("State", "Active") not in ("Active", "Inactive"):
        raise Refused(
            "version-unusable",
            f"v{destination} of {target.settings.function} is {there['State']}: "
            f"{there.get('StateReason', 'no reason given')}.",
            now=f"{target.resource} serves {alias}; nothing was changed.",
            next="Name another version, or roll forward with strategies/canary.",
        )
    doubts = _misfits(target, alias, destination, found)
    if isinstance(here, BuddyError):
        return [*doubts, f"whether v{alias.primary} has other settings than v{destination} is unknown: {here.what}"]
    return doubts + [
        f"{name} differs: v{destination} has {_show(there, name)}, v{alias.primary} has {_show(here, name)}"
        for name in ("Role", "DeadLetterConfig")
        if there.get(name) != here.get(name)
    ]


def _markers(target: Target, there: Any, here: Any) -> tuple[SchemaMarker | BuddyError, ...]:
    """The tables' schema, where it can make a difference between the version to return to and the one that serves."""
    if isinstance(there, BuddyError) or isinstance(here, BuddyError):
        return schema.read_markers(target)
    known = schema.schema_range_of(target, there)
    return () if known is not None and known == schema.schema_range_of(target, here) else schema.read_markers(target)


def _misfits(target: Target, alias: Alias, destination: str, found: Mapping[str, Any]) -> list[str]:
    """Whether the tables' schema is one that ``destination`` knows; what serves already is not asked.

    Raises:
        Refused: ``schema-incompatible``.
    """
    if destination in (alias.primary, alias.stable) or isinstance(found[destination], BuddyError):
        return []
    markers = found["schema"]
    return schema.compare_schemas(
        target, destination, found[destination], [markers] if isinstance(markers, BuddyError) else markers
    )


def _looked_up(target: Target, alias: Alias, destination: str) -> dict[str, Any]:
    """Both versions' configuration and the tables' schema, or why each is unknown; none is waited for over CHECKS_S."""
    looks: dict[str, Callable[[], Any]] = {
        destination: lambda: aliases.get_configuration(target, destination),
        alias.primary: lambda: aliases.get_configuration(target, alias.primary),
        "schema": lambda: _markers(target, found[destination], found[alias.primary]),
    }
    late = AwsFailed(
        "aws-unreachable",
        f"no answer within {CHECKS_S:g} s.",
        now="Nothing was changed.",
        next="Go on.",
        code="timeout",
    )
    found: dict[str, Any] = dict.fromkeys(looks, late)

    def look() -> None:
        for name, each in looks.items():
            try:
                found[name] = each()
            except BuddyError as error:
                found[name] = error

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(CHECKS_S)
    return dict(found)


def require_alias(target: Target) -> Alias:
    """The alias, which must be there to be taken back. AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``alias-missing``.
    """
    alias = aliases.read_alias(target)
    if alias is None:
        raise InvalidInput(
            "alias-missing",
            f"{target.settings.function} has no alias {target.settings.alias}: nothing was ever deployed behind it.",
            now="Nothing was changed.",
            next="Deploy a first build with strategies/canary: it creates the alias.",
        )
    return alias


def _destination(target: Target, alias: Alias) -> str:
    """The version to return to. While traffic is split that is the stable one, which serves already.

    Raises:
        Refused: ``which-is-stable``, ``no-rollback-target``.
    """
    record = alias.rollout
    if alias.stable is None:
        raise which_is_stable(target, alias)
    if alias.additional is not None or alias.failsafe_triggered:
        return alias.stable
    if record is not None:
        if record.stage in ("rolled-back", "held") and alias.primary == record.stable_version:
            return alias.primary  # done already; to go further back, a person names the version
        candidates = (
            (record.stable_version, record.fallback_version)
            if alias.primary == record.new_version
            else (record.fallback_version,)
        )
        for version in candidates:
            if version and version != alias.primary and version not in record.rejected_versions:
                return version
    bad = (
        f"; v{', v'.join(record.rejected_versions)} {'is' if len(record.rejected_versions) == 1 else 'are'} known bad"
        if record and record.rejected_versions
        else ""
    )
    raise Refused(
        "no-rollback-target",
        f"{target.resource} serves {alias}, and no earlier version is known to return to{bad}.",
        now="Nothing was changed.",
        next="Name a version (parameter to_version), or roll forward with strategies/canary.",
    )


def which_is_stable(target: Target, alias: Alias) -> Refused:
    """Traffic is split between two versions, and no record of ours says which one to keep: a person decides."""
    first, second = f"v{alias.primary}", f"v{alias.additional}"
    return Refused(
        "which-is-stable",
        f"{target.resource} serves {alias}. No deployment record says which of {first} and {second} is the stable one.",
        now="Nothing was changed.",
        next=f"Find out which version is good. Then name it: rollback/immediate with to_version {alias.primary} keeps "
        f"{first}, with to_version {alias.additional} keeps {second}.",
    )


def _show(configuration: dict[str, Any], name: str) -> str:
    return str(configuration.get(name, "none"))
