"""What a rollout may do, before it begins: its plan, and whether it may begin at all.

Knows the environment's policy, and how to tell this rollout from anybody else's on the alias. Never writes.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from buddy_ops import alarms, aliases, freeze, parameters
from buddy_ops.aliases import Alias, Record
from buddy_ops.errors import BuddyError, Refused
from buddy_ops.plan import Plan
from buddy_ops.target import Target

WATCH_WINDOW = timedelta(hours=24)
"""For how long a version that was not proved is watched on by whoever runs its rollout again."""


@dataclass(frozen=True)
class RolloutPlan(Plan):
    """The envelope of a rollout: approving it approves every alias state in ``then``, the automatic rollback included.

    Attributes:
        artifact: the zip's bytes.
        stable: the version that serves now; empty for an initial deployment.
        stages: the new version's shares, fractions that rise to 1.0.
        known: the version that has this code already, or empty.
        resumes: the record of this same rollout, when it is under way already.
    """

    artifact: bytes = field(repr=False)
    sha256: str
    stable: str
    stages: tuple[float, ...]
    known: str
    resumes: Record | None


def plan(target: Target, artifact: str, strategy: str = "canary") -> RolloutPlan:
    """What shipping ``artifact`` would do here.

    Args:
        artifact: path of the zip, relative to the project's root.
        strategy: 'all_at_once', 'blue_green' or 'canary'; the environment's policy must allow it.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, ssm:GetParametersByPath,
    cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``function-missing``.
        Refused: ``strategy-not-allowed``, ``rollout-under-way``, ``weights-not-ours``, ``frozen``.
    """
    policy = target.settings.rollout
    archive = parameters.artifact(artifact)
    if strategy not in policy.strategies:
        raise Refused(
            "strategy-not-allowed",
            f"{target.environment} ships by {', '.join(policy.strategies)}, not by {strategy}.",
            now="Nothing was changed.",
            next="Use the notebook of an allowed strategy, or change `strategies` in the parameters/ file.",
        )
    sha256 = aliases.code_sha256(archive)
    alias = aliases.read(target)
    known = aliases.published(target, sha256) or ""
    resumes = mine(target, alias, known)
    if resumes is None:
        freeze.refuse(target)
    stable = "" if alias is None else (resumes.source if resumes else alias.primary)
    stages = tuple(percent / 100 for percent in policy.stages_percent) if strategy == "canary" else (1.0,)
    name = f"v{known}" if known else "a new version"
    return RolloutPlan(
        title=f"Ship {name} to {target.resource} by {strategy}" + (", the first deployment" if alias is None else ""),
        now=_now(target, alias, known),
        then=_then(target, stable, name, stages),
        calls=_calls(known, stages, stable),
        undo=(
            f"rollback/immediate returns the traffic to v{stable}" if stable else "there is nothing to return to yet",
        ),
        reasons=_reasons(target, alias, known),
        covers={
            "action": "rollout",
            "environment": target.environment,
            "function": target.settings.function,
            "alias": target.settings.alias,
            "from": stable,
            "code": sha256,
            "strategy": strategy,
            "policy": policy.model_dump(mode="json"),
            "health": target.settings.health.model_dump(mode="json"),
        },
        approvals=policy.approvals,
        demand_hash=policy.demand_plan_hash,
        artifact=archive,
        sha256=sha256,
        stable=stable,
        stages=stages,
        known=known,
        resumes=resumes,
    )


def mine(target: Target, alias: Alias | None, known: str) -> Record | None:
    """The record of a rollout of this same code, if one is under way.

    Raises:
        Refused: ``rollout-under-way`` or ``weights-not-ours``: it is anybody else's.
    """
    if alias is None:
        return None
    record = alias.record
    if record is not None and record.to == known and _unclosed(target, alias, record):
        return record
    if record is not None and record.open:
        if record.to == known:
            return record
        if alias.fired:
            return None
        raise Refused(
            "rollout-under-way",
            f"Run {record.run} is rolling v{record.to} out on {target.resource} (stage {record.stage}, "
            f"since {record.since}).",
            now=f"{target.resource} serves {alias}; nothing was changed.",
            next=f"Let it end, run strategies/canary with the artifact of v{record.to} to resume it, or take it back "
            "with rollback/immediate.",
        )
    if alias.second is not None:
        raise Refused(
            "weights-not-ours",
            f"{target.resource} serves {alias}, and no rollout of ours put those weights there.",
            now="Nothing was changed.",
            next="Find out who shifts traffic (CodeDeploy?); rollback/immediate clears the weights.",
        )
    return None


def _unclosed(target: Target, alias: Alias, record: Record) -> bool:
    """Whether a rollout ended unproven and still has its 24 hours: a later run watches on, and may close it."""
    young = target.clock.now() - datetime.fromisoformat(record.since) < WATCH_WINDOW
    return record.stage == "unproven" and bool(record.source) and alias.primary == record.to and young


def _now(target: Target, alias: Alias | None, known: str) -> tuple[str, ...]:
    serves = f"{target.resource} serves {alias}" if alias else f"there is no alias {target.resource} yet"
    code = f"v{known} has exactly this code already" if known else "no published version has this code"
    return serves, code


def _then(target: Target, stable: str, name: str, stages: tuple[float, ...]) -> tuple[str, ...]:
    if not stable:
        return (f"{target.resource} is created and serves 100 % {name}",)
    shares = " → ".join(f"{100 * stage:g} %" for stage in stages)
    return (
        f"{target.resource} gives {name} {shares}, and v{stable} the rest",
        f"or, by verdict, by order or when this run dies: 100 % v{stable}",
    )


def _calls(known: str, stages: tuple[float, ...], stable: str) -> tuple[str, ...]:
    publish = () if known else ("lambda:UpdateFunctionCode", "lambda:PublishVersion")
    if not stable:
        return (*publish, "lambda:CreateAlias")
    shifts = tuple(f"lambda:UpdateAlias weight {stage:g}" for stage in stages if stage < 1)
    switch = ("lambda:UpdateAlias new version alone, no weights", "scheduler:CreateSchedule the guard")
    return (*publish, *(("scheduler:CreateSchedule the lease",) * bool(shifts)), *shifts, *switch)


def _reasons(target: Target, alias: Alias | None, known: str) -> tuple[str, ...]:
    policy = target.settings.rollout
    told = [
        f"each stage bakes {policy.bake_minutes:g} minutes, and the new version is watched for at most "
        f"{policy.watch_minutes:g} after 100 %, or until it is proved healthy"
    ]
    if alias and alias.record and known in alias.record.bad:
        told.append(f"v{known} was taken back before: it ships again because a person asks for it by its artifact")
    try:
        burning = alarms.burning(target)
    except BuddyError as error:
        return (*told, f"whether alarms burn is unknown: {error.what}")
    told += [f"ALARM {each.name} burns now; shipping is allowed, since this may be the fix" for each in burning]
    return tuple(told)
