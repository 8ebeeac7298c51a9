"""What a rollout would do, before it begins: its plan, and whether the environment's rules allow it. Never writes."""

import html
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from buddy_ops.aws import aliases, checklist_store, freezes
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core import rules as rules_
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.plan import ChecklistResult, Plan
from buddy_ops.core.rules import BreakGlass, DeploymentFacts
from buddy_ops.core.text import count, exact_percent, time_of_day
from buddy_ops.deployment._traffic import own_open_rollout, rollout_under_way
from buddy_ops.health import alarms
from buddy_ops.migrations import schema

CONFIGURED = ("Role", "Handler", "Runtime", "Timeout", "MemorySize", "Layers", "VpcConfig", "DeadLetterConfig")
"""What of a function's configuration, beside the environment, a version takes over from $LATEST."""


@dataclass(frozen=True)
class RequestedChange:
    """What is deployed: a build, or the serving version with other environment variables.

    Attributes:
        sha256: the code's CodeSha256.
        known: the version that already has this code and configuration, or empty.
        base: the version whose environment ``variables`` change; empty: $LATEST's, with the code in ``archive``.
        variables: environment variables that the new version sets, or removes (None).
        archive: the zip's bytes; empty where only the configuration changes.
        drift: how $LATEST differs from the version that serves, a sentence each.
    """

    sha256: str
    known: str
    base: str = ""
    variables: Mapping[str, str | None] = field(default_factory=dict)
    archive: bytes = field(default=b"", repr=False)
    drift: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The new version by its number, if it has one, and what is new in it."""
        name = f"v{self.known}" if self.known else "a new version"
        if not self.base:
            return name
        settings = ", ".join(f"{variable}={value}" for variable, value in self.variables.items())
        return f"v{self.base} with {settings} as {name}"


@dataclass(frozen=True, kw_only=True)
class RolloutPlan(Plan):
    """A rollout. Approving it approves every alias state in ``then``, the automatic rollback included.

    Attributes:
        break_glass: who overrides the environment's rules, and why; None if they are not overridden.
        violations: the rules that this violates.
        strategy: 'all_at_once', 'blue_green' or 'canary'.
        change: what is deployed.
        stable: the version that serves now; empty for a first deployment.
        stages: the new version's shares, fractions that rise to 1.0.
        resumes: the record of this same rollout, when it is in progress already.
    """

    break_glass: BreakGlass | None
    violations: tuple[str, ...]
    strategy: str
    change: RequestedChange
    stable: str
    stages: tuple[float, ...]
    resumes: RolloutState | None

    def _repr_markdown_(self) -> str:
        if not self.violations:
            return super()._repr_markdown_()
        who = "This deployment would be refused"
        if self.break_glass:
            who = html.escape(str(self.break_glass))
        listed = "".join(f"<li>{html.escape(rule)}</li>" for rule in self.violations)
        red = '<div class="alert alert-danger" style="color: #b00020">'
        return f"{red}<b>Violates the rules. {who}</b><ul>{listed}</ul></div>\n\n{super()._repr_markdown_()}"

    @property
    def under_way(self) -> bool:
        """Whether this resumes a rollout that an earlier run began."""
        return self.resumes is not None


def plan_rollout(
    target: Target,
    artifact: str,
    strategy: str = "canary",
    variables: Mapping[str, str | None] | None = None,
    break_glass: Mapping[str, str] | None = None,
) -> RolloutPlan:
    """What deploying ``artifact``, or the serving code with other environment ``variables``, would do here.

    Args:
        artifact: path of the zip, relative to the project's root. With ``variables`` it is the serving version's own
            and may be empty, unless $LATEST holds other code.
        strategy: 'all_at_once', 'blue_green' or 'canary'; the environment's rules must allow it.
        variables: a change of configuration: what to set, or to remove (None).
        break_glass: who overrides the environment's rules, and why; one person's approval suffices then.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, ssm:GetParametersByPath,
    cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``function-missing``, ``alias-missing``,
            ``break-glass-incomplete``.
        Refused: ``not-allowed``, ``rollout-under-way``, ``weights-not-ours``, ``frozen``, ``code-differs``.
    """
    override = rules_.parse_break_glass(break_glass or {})
    alias = aliases.read_alias(target)
    change = _requested_change(target, alias, artifact, variables)
    resumes = own_open_rollout(target, alias, change.known)
    stable = ""
    if resumes is not None:
        stable = resumes.stable_version
        # A switch at once would skip the verdict of the split that is in progress.
        if resumes.shifting and strategy != "canary":
            raise rollout_under_way(target, alias, resumes)
    else:
        freezes.require_unfrozen(target)
        if alias is not None:
            stable = alias.primary
    # A plan that changes nothing violates no rule.
    live = resumes is None and alias is not None and alias.primary == change.known
    violated: tuple[str, ...] = ()
    if not live:
        violated = check_rules(
            target, alias, change.sha256, strategy=strategy, break_glass=override, resumes=resumes is not None
        )
    rollout = target.settings.rollout
    stages = tuple(percent / 100 for percent in rollout.stages_percent) if strategy == "canary" else (1.0,)
    return RolloutPlan(
        title=_title(target, change, strategy, stable=stable, resumes=resumes, live=live),
        now=_now(target, alias, change),
        then=_then(target, change, stable, stages=stages, live=live),
        calls=_calls(change, stable, stages, live=live),
        undo=(f"rollback/immediate returns all traffic to v{stable}." if stable else "There is no earlier version.",),
        reasons=(*_overrides(violated, override), *_reasons(target, alias, change.known, strategy), *change.drift),
        covers=_covers(target, strategy, change, stable=stable, override=override),
        # In an emergency one person's approval suffices.
        approvals=min(1, rollout.approvals) if override else rollout.approvals,
        demand_hash=rollout.demand_plan_hash,
        break_glass=override,
        violations=violated,
        strategy=strategy,
        change=change,
        stable=stable,
        stages=stages,
        resumes=resumes,
    )


def check_rules(
    target: Target,
    alias: Alias | None,
    sha256: str,
    *,
    strategy: str,
    break_glass: BreakGlass | None,
    resumes: bool = False,
) -> tuple[str, ...]:
    """The rules that a deployment violates, where a person overrides them or this is a dry run; none: it may begin.

    AWS: ssm:GetParametersByPath where a checklist's result is demanded, reads only.

    Raises:
        Refused: ``not-allowed``, with every violated rule at once.
    """
    principal = target.principal if target.settings.policy.ci_principals else ""
    facts = DeploymentFacts(
        strategy,
        target.clock.now(),
        ci=target.ci,
        principal=principal,
        replaced=target.replaced,
        records=_checklist_results(target, alias, sha256, resumes=resumes),
        resumes=resumes,
    )
    # The time between deployments counts from a version that stayed, not from one that was rolled back.
    record = alias.rollout if alias else None
    if alias and record and alias.primary == record.new_version and record.stage in ("proved", "unproven"):
        facts = replace(facts, serving=record.new_version, since=datetime.fromisoformat(record.since))
    violated = rules_.violations(target.environment, target.settings, facts)
    if violated and break_glass is None and not target.dry_run:
        raise Refused(
            "not-allowed",
            f"The rules of {target.environment} do not allow this deployment:\n"
            + "\n".join(f"  - {rule}" for rule in violated),
            next="Do what the rules ask for. For emergencies set break_glass={who: NAME, why: REASON}; everyone in "
            "notify is informed.",
        )
    return violated


def describe_build(sha256: str) -> str:
    """A build's name in checklists' results: the beginning of its hash, in letters that a parameter's path may have."""
    return b64decode(sha256)[:8].hex()


def merge_variables(environment: Mapping[str, str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """An environment with ``variables`` set in it, or removed (None)."""
    return {name: value for name, value in {**environment, **variables}.items() if value is not None}


def _checklist_results(
    target: Target, alias: Alias | None, sha256: str, *, resumes: bool
) -> dict[str, ChecklistResult | None]:
    """The newest result of each checklist that the rules demand. AWS: ssm:GetParametersByPath, reads only."""
    if resumes:
        return {}
    subjects = {"pre_deployment": describe_build(sha256)}
    # Before the first deployment there is none that could have been checked.
    if alias:
        subjects["post_deployment"] = f"v{alias.primary}"
    return {
        checklist: checklist_store.newest_result(target, checklist, subjects[checklist])
        for checklist in target.settings.policy.records
        if checklist in subjects
    }


# What is deployed


def _requested_change(
    target: Target, alias: Alias | None, artifact: str, variables: Mapping[str, str | None] | None
) -> RequestedChange:
    archive = project.read_artifact(artifact) if artifact or variables is None else b""
    versions = {str(version["Version"]): version for version in aliases.list_versions(target)}
    latest = aliases.get_configuration(target)
    if variables is None:
        change = _new_build(alias, archive, versions, latest)
    else:
        change = _new_configuration(target, alias, variables, versions=versions)
        if not change.known:
            _require_same_code(target, change, latest, archive)
        change = replace(change, archive=archive)
    if change.known or alias is None or alias.primary not in versions:
        return change
    return replace(change, drift=_drift(latest, versions[alias.primary], change))


def _new_build(
    alias: Alias | None, archive: bytes, versions: Mapping[str, Any], latest: Mapping[str, Any]
) -> RequestedChange:
    """A build, with the range of schemas that it declares as a variable of its version."""
    sha256 = aliases.code_sha256(archive)
    schema_range = schema.declared_schema(archive)
    variables: dict[str, str | None] = {}
    if schema_range != aliases.environment_variables(latest).get(schema.VARIABLE):
        variables[schema.VARIABLE] = schema_range
    # Lambda publishes a build once; its code alone says which version it is.
    candidates = [*_on_alias(alias), *sorted(versions, key=int, reverse=True)]
    known = next((version for version in candidates if _has_code(versions, version, sha256)), "")
    return RequestedChange(sha256, known, variables=variables, archive=archive)


def _new_configuration(
    target: Target, alias: Alias | None, variables: Mapping[str, str | None], *, versions: Mapping[str, Any]
) -> RequestedChange:
    """The serving code with other environment variables."""
    if alias is None:
        raise InvalidInput(
            "alias-missing",
            f"There is no alias {target.resource}: no version serves whose configuration could change.",
            next="Deploy a first build with strategies/canary: it creates the alias.",
        )
    # The same change again starts from where it started before, so that it is recognised and not added twice.
    base = _base_version(alias, versions, variables)
    sha256 = str(versions[base]["CodeSha256"])
    environment = merge_variables(aliases.environment_variables(versions[base]), variables)
    # Lambda publishes nothing new where the last version is the same.
    for version in (*_on_alias(alias), max(versions, key=int)):
        if _has_code(versions, version, sha256) and environment == aliases.environment_variables(versions[version]):
            return RequestedChange(sha256, version, base, variables)
    return RequestedChange(sha256, "", base, variables)


def _base_version(alias: Alias, versions: Mapping[str, Any], variables: Mapping[str, str | None]) -> str:
    """The version whose configuration a change starts from: the serving one, or where this same change came from."""
    record = alias.rollout
    if record is None or not {record.stable_version, record.new_version} <= set(versions):
        return alias.primary
    before = aliases.environment_variables(versions[record.stable_version])
    after = aliases.environment_variables(versions[record.new_version])
    return record.stable_version if after == merge_variables(before, variables) else alias.primary


def _on_alias(alias: Alias | None) -> list[str]:
    """The version that is being rolled out, and the one that serves."""
    if alias is None:
        return []
    if alias.rollout is not None and alias.rollout.open:
        return [alias.rollout.new_version, alias.primary]
    return [alias.primary]


def _has_code(versions: Mapping[str, Any], version: str, sha256: str) -> bool:
    return version in versions and versions[version]["CodeSha256"] == sha256


def _require_same_code(target: Target, change: RequestedChange, latest: Mapping[str, Any], archive: bytes) -> None:
    """$LATEST may hold a build that was rolled back: its code must not be deployed along with a flag."""
    available = aliases.code_sha256(archive) if archive else str(latest["CodeSha256"])
    if available != change.sha256:
        raise Refused(
            "code-differs",
            f"v{change.base} serves, but $LATEST of {target.settings.function} (or the given artifact) has other code. "
            "Only the configuration may change.",
            next=f"Give the zip that v{change.base} was deployed from (parameter artifact).",
        )


def _drift(latest: Mapping[str, Any], stable: Mapping[str, Any], change: RequestedChange) -> tuple[str, ...]:
    """What else the new version takes over from $LATEST that the serving one does not have: names, never values."""
    fields = [name for name in CONFIGURED if latest.get(name) != stable.get(name)]
    if not change.base:
        new = aliases.environment_variables(latest)
        old = aliases.environment_variables(stable)
        fields += sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
    if not fields:
        return ()
    return (f"Warning: $LATEST differs from v{stable['Version']}, and the new version takes over: {', '.join(fields)}",)


# How the plan reads


def _title(
    target: Target, change: RequestedChange, strategy: str, *, stable: str, resumes: RolloutState | None, live: bool
) -> str:
    if live:
        return f"{change.name} is already live on {target.resource}"
    if resumes is not None:
        stage = f"stage {resumes.stage}" if resumes.shifting else resumes.stage
        since = time_of_day(datetime.fromisoformat(resumes.since), target.clock.now())
        return f"Resume run {resumes.run}: {change.name} on {target.resource} ({stage} since {since})"
    first = "" if stable else " (first deployment)"
    return f"Deploy {change.name} to {target.resource} by {strategy}{first}"


def _now(target: Target, alias: Alias | None, change: RequestedChange) -> tuple[str, ...]:
    serves = f"{target.resource} serves {alias}." if alias else f"There is no alias {target.resource} yet."
    what = "configuration" if change.base else "build"
    if change.known:
        return (serves, f"v{change.known} already has this {what}.")
    return (serves, f"New {what} (not published before).")


def _then(
    target: Target, change: RequestedChange, stable: str, *, stages: tuple[float, ...], live: bool
) -> tuple[str, ...]:
    if live:
        return ("Nothing changes.",)
    version = f"v{change.known}" if change.known else "the new version"
    if not stable:
        return (f"{target.resource} is created → {version} (100 %).",)
    shift = f"{target.resource} → {version} (100 %), in one step."
    if len(stages) > 1:
        shares = " → ".join(map(exact_percent, stages))
        shift = f"{target.resource} shifts {version} {shares}; v{stable} receives the rest."
    fallback = f"On failed analysis, manual abort, or loss of this run: automatic rollback to v{stable} (100 %)."
    return (shift, fallback)


def _calls(change: RequestedChange, stable: str, stages: tuple[float, ...], *, live: bool) -> tuple[str, ...]:
    """The writing calls of a rollout that goes well, in their sequence."""
    if live:
        return ()
    calls = []
    if not change.known:
        if not change.base:
            calls.append("lambda:UpdateFunctionCode")
        if change.variables:
            calls.append("lambda:UpdateFunctionConfiguration environment")
        calls.append("lambda:PublishVersion")
    if not stable:
        return (*calls, "lambda:CreateAlias")
    shares = [stage for stage in stages if stage < 1]
    if shares:
        calls.append("scheduler:CreateSchedule failsafe")
    calls += [f"lambda:UpdateAlias weight {share:g}" for share in shares]
    return (*calls, "lambda:UpdateAlias new version alone, no weights", "scheduler:CreateSchedule failsafe")


def _overrides(violated: tuple[str, ...], override: BreakGlass | None) -> Iterator[str]:
    for rule in violated:
        yield f"VIOLATES THE RULES: {rule}"
    if override is not None:
        yield str(override)


def _reasons(target: Target, alias: Alias | None, known: str, strategy: str) -> Iterator[str]:
    rollout = target.settings.rollout
    if strategy == "canary":
        yield (
            f"Bake time {rollout.bake_minutes:g} min per stage; then up to {rollout.watch_minutes:g} min of monitoring "
            "at 100 %."
        )
    else:
        yield f"{rollout.watch_minutes:g} min of monitoring after the switch."
    if strategy in rollout.smoke_tested:
        tests = count(len(target.settings.smoke_tests), "smoke test")
        yield f"{tests} must pass before the new version receives traffic."
    if alias and alias.rollout and known in alias.rollout.rejected_versions:
        yield f"Warning: this build was rolled back before (as v{known})."
    # Alarms are shown and refuse nothing: this build may be what ends them.
    try:
        firing = alarms.alarms_in_alarm(target)
    except BuddyError as error:
        yield f"Warning: the alarms' states are unknown. {error.what}"
        return
    for alarm in firing:
        yield f"Warning: {alarm.name} is in ALARM. The deployment is allowed, since it may be the fix."


# What its approval covers


def _covers(
    target: Target, strategy: str, change: RequestedChange, *, stable: str, override: BreakGlass | None
) -> dict[str, Any]:
    """What the approval covers, by the keys that the plan's hash has always had."""
    settings = target.settings
    covers = {
        "action": "rollout",
        "environment": target.environment,
        "function": settings.function,
        "alias": settings.alias,
        "strategy": strategy,
        "policy": settings.rollout.model_dump(mode="json"),
        "rules": settings.policy.model_dump(mode="json"),
        "glass": str(override or ""),
        "health": settings.health.model_dump(mode="json"),
        "from": stable,
        "code": change.sha256,
    }
    if change.base:
        covers["variables"] = dict(change.variables)
    return covers
