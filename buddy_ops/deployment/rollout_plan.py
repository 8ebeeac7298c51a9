"""What a rollout may do, before it begins: its plan, and whether it may begin at all.

Knows the environment's policy, and how to tell this rollout from anybody else's on the alias. Never writes.
"""

import html
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from buddy_ops.aws import aliases, checklist_store, freezes
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core import rules as rules_
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.plan import Plan
from buddy_ops.core.rules import BreakGlass, DeploymentFacts
from buddy_ops.health import alarms
from buddy_ops.migrations import schema

WATCH_WINDOW = timedelta(hours=24)
"""For how long a version that was not proved is watched on by whoever runs its rollout again."""

CONFIGURED = ("Role", "Handler", "Runtime", "Timeout", "MemorySize", "Layers", "VpcConfig", "DeadLetterConfig")
"""What of a function's configuration, beside the environment, a version takes over from $LATEST."""


@dataclass(frozen=True)
class RolloutPlan(Plan):
    """The envelope of a rollout: approving it approves every alias state in ``then``, the automatic rollback included.

    Attributes:
        glass: who goes against the environment's rules, and why; None where nobody does.
        against: the rules that this goes against.
        strategy: 'all_at_once', 'blue_green' or 'canary'.
        artifact: the zip's bytes; empty where only the configuration changes.
        variables: environment variables that the new version sets, or takes away (None).
        base: the version whose environment they change; empty: $LATEST's.
        stable: the version that serves now; empty for an initial deployment.
        stages: the new version's shares, fractions that rise to 1.0.
        known: the version that has this code already, or empty.
        resumes: the record of this same rollout, when it is under way already.
    """

    break_glass: BreakGlass | None
    violations: tuple[str, ...]
    strategy: str
    artifact: bytes = field(repr=False)
    variables: Mapping[str, str | None]
    base: str
    sha256: str
    stable: str
    stages: tuple[float, ...]
    known: str
    resumes: RolloutState | None

    def _repr_markdown_(self) -> str:
        if not self.violations:
            return super()._repr_markdown_()
        who = html.escape(str(self.break_glass)) if self.break_glass else "This would be refused"
        listed = "".join(f"<li>{html.escape(each)}</li>" for each in self.violations)
        red = '<div class="alert alert-danger" style="color: #b00020">'
        return f"{red}<b>Against the rules. {who}</b><ul>{listed}</ul></div>\n\n{super()._repr_markdown_()}"

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
    """What shipping ``artifact``, or the code that serves with other environment ``variables``, would do here.

    Args:
        artifact: path of the zip, relative to the project's root. With ``variables`` it is the serving version's own
            and may be empty, unless $LATEST holds other code.
        strategy: 'all_at_once', 'blue_green' or 'canary'; the environment's policy must allow it.
        variables: a change of configuration: what to set, or to take away (None).
        break_glass: who goes against the environment's rules, and why; one person's approval suffices then.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, ssm:GetParametersByPath,
    cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``function-missing``, ``alias-missing``,
            ``break-glass-incomplete``.
        Refused: ``not-allowed``, ``rollout-under-way``, ``weights-not-ours``, ``frozen``, ``code-differs``.
    """
    glass = rules_.parse_break_glass(break_glass or {})
    alias = aliases.read_alias(target)
    what = _what(target, alias, artifact, variables)
    resumes = own_open_rollout(target, alias, what.known)
    if resumes is None:
        freezes.require_unfrozen(target)
    elif resumes.shifting and strategy != "canary":
        raise _under_way(target, alias, resumes)
    stable = "" if alias is None else (resumes.stable_version if resumes else alias.primary)
    live = resumes is None and alias is not None and alias.primary == what.known
    against = () if live else check_rules(target, strategy, what.sha256, alias, glass, resumes is not None)
    rollout = target.settings.rollout
    stages = tuple(percent / 100 for percent in rollout.stages_percent) if strategy == "canary" else (1.0,)
    name = f"v{what.known}" if what.known else "a new version"
    changed = {"variables": dict(what.variables)} if what.base else {}
    return RolloutPlan(
        title=_title(target, what.told(name), strategy, resumes, "live" if live else "" if stable else "first"),
        now=_now(target, alias, what.known, "configuration" if what.base else "code"),
        then=("nothing changes",) if live else _then(target, stable, name, stages),
        calls=() if live else _calls(what.known, stages, stable, not what.base, bool(what.variables)),
        undo=(
            f"rollback/immediate returns the traffic to v{stable}" if stable else "there is nothing to return to yet",
        ),
        reasons=(
            *(f"AGAINST THE RULES: {each}" for each in against),
            *((str(glass),) if glass else ()),
            *_reasons(target, alias, what.known, strategy),
            *what.drift,
        ),
        covers={**_covers(target, strategy, glass), "from": stable, "code": what.sha256, **changed},
        approvals=min(1, rollout.approvals) if glass else rollout.approvals,
        demand_hash=rollout.demand_plan_hash,
        break_glass=glass,
        violations=against,
        strategy=strategy,
        artifact=what.archive,
        variables=what.variables,
        base=what.base,
        sha256=what.sha256,
        stable=stable,
        stages=stages,
        known=what.known,
        resumes=resumes,
    )


@dataclass(frozen=True)
class RequestedChange:
    """What is to be shipped, as ``RolloutPlan`` has it; ``drift`` is how $LATEST differs, where it is published."""

    archive: bytes
    variables: Mapping[str, str | None]
    base: str
    sha256: str
    known: str
    drift: Sequence[str]

    def told(self, name: str) -> str:
        change = ", ".join(f"{key}={value}" for key, value in self.variables.items())
        return f"v{self.base} with {change} as {name}" if self.base else name


def _what(
    target: Target, alias: Alias | None, artifact: str, variables: Mapping[str, str | None] | None
) -> RequestedChange:
    archive = project.read_artifact(artifact) if artifact or variables is None else b""
    found = {str(each["Version"]): each for each in aliases.list_versions(target)}
    latest = aliases.get_configuration(target)
    given = aliases.code_sha256(archive) if archive else str(latest["CodeSha256"])
    if variables is None:
        base, sha256, environment = "", given, None
        range_ = schema.declared_schema(archive)
        told = aliases.environment_variables(latest).get(schema.VARIABLE)
        variables = {} if range_ == told else {schema.VARIABLE: range_}
    else:
        base = _base(target, alias, found, variables)
        sha256, environment = (
            str(found[base]["CodeSha256"]),
            merge_variables(aliases.environment_variables(found[base]), variables),
        )
    known = _known(alias, found, sha256, environment)
    if not known:
        _refuse_other_code(target, base, sha256, given)
    stable = found.get(alias.primary) if alias else None
    return RequestedChange(archive, variables, base, sha256, known, [] if known else _drift(latest, stable, base))


def check_rules(
    target: Target, strategy: str, sha256: str, alias: Alias | None, glass: BreakGlass | None, resumes: bool = False
) -> tuple[str, ...]:
    """The rules that a deployment goes against, where somebody breaks the glass or only looks; none: it may begin.

    AWS: ssm:GetParametersByPath where a record is demanded, reads only.

    Raises:
        Refused: ``not-allowed``, with every rule at once.
    """
    rules = target.settings.policy
    record = alias.rollout if alias else None
    stayed = alias and record and alias.primary == record.new_version and record.stage in ("proved", "unproven")
    subjects = {"pre_deployment": describe_build(sha256), "post_deployment": f"v{alias.primary}" if alias else ""}
    facts = DeploymentFacts(
        strategy,
        target.clock.now(),
        ci=target.ci,
        principal=target.principal if rules.ci_principals else "",
        replaced=target.replaced,
        serving=record.new_version if record and stayed else "",
        since=datetime.fromisoformat(record.since) if record and stayed else None,
        # Before the first deployment there is none to have been checked.
        records={
            each: checklist_store.newest_result(target, each, subjects[each])
            for each in rules.records
            if subjects[each] and not resumes
        },
        resumes=resumes,
    )
    against = rules_.violations(target.environment, target.settings, facts)
    if against and glass is None and not target.dry_run:
        raise Refused(
            "not-allowed",
            f"The rules of {target.environment} forbid this:\n" + "\n".join(f"  - {each}" for each in against),
            now="Nothing was shifted.",
            next="Do what they ask for. If it cannot wait: break_glass={who: NAME, why: REASON}; everybody is told.",
        )
    return against


def describe_build(sha256: str) -> str:
    """A build's name in records: the beginning of its hash, in letters that a parameter's path may have."""
    return b64decode(sha256)[:8].hex()


def _covers(target: Target, strategy: str, glass: BreakGlass | None) -> dict[str, Any]:
    """What every approval of a rollout here stands for, whatever is shipped."""
    settings = target.settings
    return {
        "action": "rollout",
        "environment": target.environment,
        "function": settings.function,
        "alias": settings.alias,
        "strategy": strategy,
        "policy": settings.rollout.model_dump(mode="json"),
        "rules": settings.policy.model_dump(mode="json"),
        "glass": str(glass or ""),
        "health": settings.health.model_dump(mode="json"),
    }


def merge_variables(environment: Mapping[str, str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """An environment with ``variables`` set in it, or taken away (None)."""
    return {name: value for name, value in {**environment, **variables}.items() if value is not None}


def _base(target: Target, alias: Alias | None, found: Mapping[str, Any], variables: Mapping[str, str | None]) -> str:
    """The version whose configuration a change starts from: the serving one, or where this same change came from."""
    if alias is None:
        raise InvalidInput(
            "alias-missing",
            f"There is no alias {target.resource}: nothing serves whose configuration could change.",
            now="Nothing was changed.",
            next="Deploy a first build with strategies/canary: it creates the alias.",
        )
    record = alias.rollout
    if record is not None and {record.stable_version, record.new_version} <= set(found):
        source, to = found[record.stable_version], found[record.new_version]
        if aliases.environment_variables(to) == merge_variables(aliases.environment_variables(source), variables):
            return record.stable_version
    return alias.primary


def _known(alias: Alias | None, found: Mapping[str, Any], sha256: str, environment: Mapping[str, str] | None) -> str:
    """The version that is this change already: one that is being rolled out, or serves, or was published last."""

    def same(version: str) -> bool:
        if version not in found or found[version]["CodeSha256"] != sha256:
            return False
        return environment is None or aliases.environment_variables(found[version]) == environment

    rolling = alias.rollout.new_version if alias and alias.rollout and alias.rollout.open else ""
    # Lambda publishes nothing new where the last version is the same; an older one's code alone is enough for a build.
    newest = sorted(found, key=int, reverse=True)[: None if environment is None else 1]
    return next((each for each in (rolling, alias.primary if alias else "", *newest) if same(each)), "")


def _refuse_other_code(target: Target, base: str, sha256: str, held: str) -> None:
    """$LATEST may hold a build that was taken back: its code never ships along with a flag."""
    if held != sha256:
        raise Refused(
            "code-differs",
            f"v{base} serves, and $LATEST of {target.settings.function} (or the artifact given) has other code: only "
            "the configuration is to change.",
            now="Nothing was changed.",
            next=f"Give the zip that v{base} was shipped from (parameter artifact).",
        )


def _drift(latest: Mapping[str, Any], stable: Mapping[str, Any] | None, base: str) -> list[str]:
    """What else of $LATEST the new version takes over, that the serving one does not have: names, never values."""
    if stable is None:
        return []
    fields = [each for each in CONFIGURED if latest.get(each) != stable.get(each)]
    here, there = aliases.environment_variables(latest), aliases.environment_variables(stable)
    if not base:
        fields += sorted(each for each in here.keys() | there.keys() if here.get(each) != there.get(each))
    version = stable["Version"]
    return [
        f"$LATEST is configured otherwise than v{version}, and the new version with it: {', '.join(fields)}"
    ] * bool(fields)


def own_open_rollout(target: Target, alias: Alias | None, known: str) -> RolloutState | None:
    """The record of a rollout of this same code, if one is under way.

    Raises:
        Refused: ``rollout-under-way`` or ``weights-not-ours``: it is anybody else's.
    """
    if alias is None:
        return None
    record = alias.rollout
    split = alias.additional is not None and record is not None and (record.open or _unclosed(target, alias, record))
    if (
        record is not None
        and split
        and (alias.primary, alias.additional) != (record.stable_version, record.new_version)
    ):
        # A lease clears the weights: armed again, it would give all traffic to what another tool made the primary.
        raise Refused(
            "weights-not-ours",
            f"{target.resource} serves {alias}: another tool changed the weights of run {record.run}, which rolls "
            f"v{record.new_version} out after v{record.stable_version}.",
            now="Nothing was changed.",
            next="Open rollback/immediate: it returns the traffic to the stable version, or asks for it (to_version).",
        )
    if record is not None and record.new_version == known and _unclosed(target, alias, record):
        return record
    if record is not None and record.open:
        if record.new_version == known:
            return record
        if alias.failsafe_triggered:
            return None
        raise _under_way(target, alias, record)
    if alias.additional is not None:
        raise Refused(
            "weights-not-ours",
            f"{target.resource} serves {alias}, and no rollout of ours put those weights there.",
            now="Nothing was changed.",
            next="Find out who shifts traffic (CodeDeploy?); rollback/immediate with to_version clears the weights.",
        )
    return None


def _under_way(target: Target, alias: Alias | None, record: RolloutState) -> Refused:
    return Refused(
        "rollout-under-way",
        f"Run {record.run} is rolling v{record.new_version} out on {target.resource} (stage {record.stage}, "
        f"since {record.since}).",
        now=f"{target.resource} serves {alias}; nothing was changed.",
        next=f"Let it end, run strategies/canary with the artifact of v{record.new_version} to resume it, or "
        "take it back with rollback/immediate.",
    )


def _unclosed(target: Target, alias: Alias, record: RolloutState) -> bool:
    """Whether a rollout ended unproven and still has its 24 hours: a later run watches on, and may close it."""
    young = target.clock.now() - datetime.fromisoformat(record.since) < WATCH_WINDOW
    return record.stage == "unproven" and bool(record.stable_version) and alias.primary == record.new_version and young


def _title(target: Target, what: str, strategy: str, resumes: RolloutState | None, how: str) -> str:
    if how == "live":
        return f"{what} is live on {target.resource} already"
    if resumes is not None:
        stage = resumes.stage if not resumes.shifting else f"stage {resumes.stage}"
        return f"Go on with run {resumes.run}: {what} on {target.resource} ({stage} since {resumes.since})"
    return f"Ship {what} to {target.resource} by {strategy}" + (", the first deployment" if how == "first" else "")


def _now(target: Target, alias: Alias | None, known: str, what: str) -> tuple[str, ...]:
    serves = f"{target.resource} serves {alias}" if alias else f"there is no alias {target.resource} yet"
    code = f"v{known} has exactly this {what} already" if known else f"no published version has this {what}"
    return serves, code


def _then(target: Target, stable: str, name: str, stages: tuple[float, ...]) -> tuple[str, ...]:
    if not stable:
        return (f"{target.resource} is created and serves 100 % {name}",)
    shares = " → ".join(f"{100 * stage:g} %" for stage in stages)
    return (
        f"{target.resource} gives {name} {shares}, and v{stable} the rest"
        if len(stages) > 1
        else f"{target.resource} serves {name} alone, at once",
        f"or, by verdict, by order or when this run dies: 100 % v{stable}",
    )


def _calls(known: str, stages: tuple[float, ...], stable: str, code: bool, variables: bool) -> tuple[str, ...]:
    configure = ("lambda:UpdateFunctionConfiguration the environment",) * variables
    publish = () if known else (*(("lambda:UpdateFunctionCode",) * code), *configure, "lambda:PublishVersion")
    if not stable:
        return (*publish, "lambda:CreateAlias")
    shifts = tuple(f"lambda:UpdateAlias weight {stage:g}" for stage in stages if stage < 1)
    switch = ("lambda:UpdateAlias new version alone, no weights", "scheduler:CreateSchedule the guard")
    return (*publish, *(("scheduler:CreateSchedule the lease",) * bool(shifts)), *shifts, *switch)


def _reasons(target: Target, alias: Alias | None, known: str, strategy: str) -> tuple[str, ...]:
    policy = target.settings.rollout
    staged = (
        f"each stage bakes {policy.bake_minutes:g} minutes, and the new version is watched for at most "
        f"{policy.watch_minutes:g} after 100 %, or until it is proved healthy"
    )
    switched = f"the new version is watched for {policy.watch_minutes:g} minutes after the switch"
    told = [staged if strategy == "canary" else switched]
    if strategy in policy.smoke_tested:
        told.append(f"{len(target.settings.smoke_tests)} smoke tests must pass before it gets any traffic")
    if alias and alias.rollout and known in alias.rollout.rejected_versions:
        told.append(f"v{known} was taken back before: it ships again because a person asks for it by its artifact")
    try:
        burning = alarms.alarms_in_alarm(target)
    except BuddyError as error:
        return (*told, f"whether alarms burn is unknown: {error.what}")
    told += [f"ALARM {each.name} burns now; shipping is allowed, since this may be the fix" for each in burning]
    return tuple(told)
