"""What a rollout would do, before it begins: its plan, and whether the environment's rules allow it. Never writes."""

import html
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from buddy_ops.aws import aliases, checklist_store, freezes, versions
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, TAKEN_OVER, Version
from buddy_ops.core import project
from buddy_ops.core import rules as rules_
from buddy_ops.core.checklist import ChecklistResult
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.core.plan import Plan
from buddy_ops.core.rules import BreakGlass, DeploymentFacts
from buddy_ops.core.text import count, exact_percent, join_words, parse_utc, time_of_day
from buddy_ops.deployment import _obstacles
from buddy_ops.deployment._traffic import alias_scope, own_open_rollout, rollout_under_way
from buddy_ops.health import alarms
from buddy_ops.migrations import schema


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
        doubts: what may keep it from working, a sentence each.
        expected: the configuration that the new version is to have, by name; None where it is published already.
        shows_variables: whether ``expected`` has the environment variables: a caller may not be allowed to read them.
    """

    sha256: str
    known: str
    base: str = ""
    variables: Mapping[str, str | None] = field(default_factory=dict)
    archive: bytes = field(default=b"", repr=False)
    drift: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    expected: Mapping[str, object] | None = field(default=None, repr=False)
    shows_variables: bool = True

    @property
    def name(self) -> str:
        """The new version by its number, if it has one, and what is new in it."""
        name = "a new version"
        if self.known:
            name = f"v{self.known}"
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

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, GetAccountSettings,
    GetPolicy, cloudwatch:GetMetricData, where there is no alias as ``former_service.read_former_service``,
    ssm:GetParametersByPath, cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``function-missing``, ``alias-missing``,
            ``break-glass-incomplete``.
        Refused: ``not-allowed``, ``rollout-under-way``, ``weights-not-ours``, ``frozen``, ``code-differs``,
            ``alias-deleted``, ``alias-on-latest``, ``roles-differ``,
            ``artifact-too-large``, ``code-storage-full``, ``function-failed``.
    """
    override = rules_.parse_break_glass(break_glass or {})
    alias = aliases.read_alias(target)
    _obstacles.require_published(target, alias)
    first: tuple[str, ...] = ()
    if alias is None:
        first = tuple(_obstacles.require_first_deployment(target))
    change = _requested_change(target, alias, artifact, variables)
    resumes = own_open_rollout(target, alias, change.known)
    # A switch at once would skip the verdict of the split that is in progress.
    if resumes is not None and resumes.shifting and strategy != "canary":
        raise rollout_under_way(target, alias, resumes)
    # A rollout that is in progress may be resumed during a freeze: left alone, its traffic would stay split.
    if resumes is None:
        freezes.require_unfrozen(target)
    draft = _Draft(target=target, alias=alias, change=change, strategy=strategy, resumes=resumes)
    violated: tuple[str, ...] = ()
    # A plan that changes nothing violates no rule.
    if not draft.live:
        violated = check_rules(
            target, alias, change.sha256, strategy=strategy, break_glass=override, resumes=resumes is not None
        )
    approvals = target.settings.rollout.approvals
    if override is not None:
        approvals = min(1, approvals)  # in an emergency one person's approval suffices
    return RolloutPlan(
        title=draft.title(),
        now=draft.now(),
        then=draft.then(),
        calls=draft.calls(),
        undo=draft.undo(),
        reasons=(*_overrides(violated, override), *first, *draft.reasons(), *change.drift, *change.doubts),
        covers=draft.covers(override),
        approvals=approvals,
        demand_hash=target.settings.rollout.demand_plan_hash,
        break_glass=override,
        violations=violated,
        strategy=strategy,
        change=change,
        stable=draft.stable,
        stages=draft.stages,
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
    # Who calls is asked of AWS, so only rules that name CI's principals ask.
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
        facts = replace(facts, serving=record.new_version, since=parse_utc(record.since))
    violated = rules_.violations(target.environment, target.settings, facts)
    # A dry run shows what the rules forbid.
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
    """What is deployed, once it is known that it can be."""
    archive = project.read_artifact(artifact) if artifact or variables is None else b""
    published = {version.number: version for version in versions.list_versions(target)}
    latest = versions.read_version(target)
    if variables is None:
        change = _new_build(alias, archive, published, latest)
    else:
        if alias is None:
            raise aliases.alias_missing(target)
        change = _new_configuration(alias, variables, published)
        if not change.known:
            _require_same_code(target, change, latest, archive)
        change = replace(change, archive=archive)
    stable = published.get(alias.primary) if alias else None
    new = published.get(change.known, latest)
    if stable is not None and change.known != stable.number:
        _obstacles.require_able_to_share(target, stable, new)
    if change.known:
        return change
    doubts = list(_obstacles.require_ready(target, latest))
    if archive and latest.sha256 != change.sha256:
        doubts += _obstacles.require_fitting(target, archive, latest)
    doubts += _hidden_variables(latest, stable, change)
    start = published[change.base] if change.base else latest
    expected: Mapping[str, object] = latest.settings
    shows_variables = bool(change.variables) or start.shown_variables is not None
    if shows_variables:
        expected = latest.configuration_with(merge_variables(start.variables, change.variables))
    change = replace(change, doubts=tuple(doubts), expected=expected, shows_variables=shows_variables)
    if stable is None:
        return change
    return replace(change, drift=_drift(latest, stable, change))


def _new_build(
    alias: Alias | None, archive: bytes, published: Mapping[str, Version], latest: Version
) -> RequestedChange:
    """A build, with the range of schemas that it declares as a variable of its version."""
    sha256 = versions.code_sha256(archive)
    schema_range = schema.declared_schema(archive)
    # Lambda publishes a build once; its code alone says which version it is.
    candidates = [*_on_alias(alias), *sorted(published, key=int, reverse=True)]
    known = next((number for number in candidates if _has_code(published, number, sha256)), "")
    variables: dict[str, str | None] = {}
    held = latest.shown_variables
    if held is None and schema_range is not None and not known:
        raise _schema_range_unwritable(latest)
    if held is not None and schema_range != held.get(schema.VARIABLE):
        variables[schema.VARIABLE] = schema_range
    return RequestedChange(sha256, known, variables=variables, archive=archive)


def _new_configuration(
    alias: Alias, variables: Mapping[str, str | None], published: Mapping[str, Version]
) -> RequestedChange:
    """The serving code with other environment variables."""
    # The same change again starts from where it started before, so that it is recognised and not added twice.
    base = _base_version(alias, published, variables)
    sha256 = published[base].sha256
    environment = merge_variables(published[base].variables, variables)
    # Lambda publishes nothing new where the last version is the same.
    for number in (*_on_alias(alias), max(published, key=int)):
        if _has_code(published, number, sha256) and environment == published[number].shown_variables:
            return RequestedChange(sha256, number, base, variables)
    return RequestedChange(sha256, "", base, variables)


def _base_version(alias: Alias, published: Mapping[str, Version], variables: Mapping[str, str | None]) -> str:
    """The version whose configuration a change starts from: the serving one, or where this same change came from."""
    record = alias.rollout
    if record is None or not {record.stable_version, record.new_version} <= set(published):
        return alias.primary
    before = published[record.stable_version].shown_variables
    after = published[record.new_version].shown_variables
    if before is None or after is None:
        return alias.primary
    return record.stable_version if after == merge_variables(before, variables) else alias.primary


def _on_alias(alias: Alias | None) -> list[str]:
    """The version that is being rolled out, and the one that serves."""
    if alias is None:
        return []
    if alias.rollout is not None and alias.rollout.open:
        return [alias.rollout.new_version, alias.primary]
    return [alias.primary]


def _has_code(published: Mapping[str, Version], number: str, sha256: str) -> bool:
    return number in published and published[number].sha256 == sha256


def _require_same_code(target: Target, change: RequestedChange, latest: Version, archive: bytes) -> None:
    """$LATEST may hold a build that was rolled back: its code must not be deployed along with a flag."""
    available = versions.code_sha256(archive) if archive else latest.sha256
    if available != change.sha256:
        raise Refused(
            "code-differs",
            f"v{change.base} serves, but $LATEST of {target.settings.function} (or the given artifact) has other code. "
            "Only the configuration may change.",
            next=f"Give the zip that v{change.base} was deployed from (parameter artifact).",
        )


def _drift(latest: Version, stable: Version, change: RequestedChange) -> tuple[str, ...]:
    """What else the new version takes over from $LATEST that the serving one does not have: names, never values."""
    fields = [name for name in TAKEN_OVER if latest.settings[name] != stable.settings[name]]
    new = latest.shown_variables
    old = stable.shown_variables
    if not change.base and new is not None and old is not None:
        fields += sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
    if not fields:
        return ()
    return (f"Warning: $LATEST differs from v{stable.number}, and the new version takes over: {', '.join(fields)}",)


def _hidden_variables(latest: Version, stable: Version | None, change: RequestedChange) -> Iterator[str]:
    """A sentence on environment variables that Lambda does not show, although a new build does not depend on them."""
    if change.base:
        return
    hidden = [version for version in (latest, stable) if version is not None and version.shown_variables is None]
    if not hidden:
        return
    names = join_words(versions.label(version.number) for version in hidden)
    unknown = []
    if stable is not None:
        unknown.append(f"whether they differ from those of v{stable.number}")
    if latest in hidden:
        unknown += ["whether they declare a schema", "whether someone changes them before the build is published"]
    yield (
        f"Warning: Lambda does not show the environment variables of {names} ({hidden[0].hidden_because}: the caller "
        f"lacks kms:Decrypt for the function's key). The new version takes over those of {LATEST} as they are. "
        f"It is unknown {join_words(unknown)}."
    )


def _schema_range_unwritable(latest: Version) -> BuddyError:
    """The error of a build whose schema range would replace variables that are not shown."""
    return BuddyError(
        "environment-unreadable",
        f"The build declares {schema.FILE}, which becomes a variable of its version. Lambda does not show the "
        f"environment variables of {latest.arn} ({latest.hidden_because}): writing one would lose the others.",
        next="Let the caller decrypt with the function's KMS key (kms:Decrypt), or deploy as a caller who may.",
    )


# How the plan reads


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A rollout before it is put into words: each part of its plan is a method."""

    target: Target
    alias: Alias | None
    change: RequestedChange
    strategy: str
    resumes: RolloutState | None

    @property
    def stable(self) -> str:
        """The version that serves before; empty for a first deployment."""
        if self.resumes is not None:
            return self.resumes.stable_version
        if self.alias is not None:
            return self.alias.primary
        return ""

    @property
    def live(self) -> bool:
        """Whether the change is what serves already."""
        return self.resumes is None and self.alias is not None and self.alias.primary == self.change.known

    @property
    def healthy(self) -> bool:
        """Whether this resumes the monitoring of a version that was shown to be healthy."""
        return self.resumes is not None and self.resumes.stage == "proved"

    @property
    def stages(self) -> tuple[float, ...]:
        """The new version's shares, 0..1."""
        if self.strategy != "canary":
            return (1.0,)
        return tuple(percent / 100 for percent in self.target.settings.rollout.stages_percent)

    def title(self) -> str:
        """The plan in one line."""
        name = self.change.name
        resource = self.target.resource
        if self.live:
            return f"{name} is already live on {resource}"
        if self.resumes is not None:
            if self.resumes.stage == "proved":
                until = time_of_day(parse_utc(self.resumes.monitored_until), self.target.clock.now())
                return f"Resume the monitoring of {name} on {resource} (healthy, until {until})"
            stage = self.resumes.stage
            if self.resumes.shifting:
                stage = f"stage {stage}"
            since = time_of_day(parse_utc(self.resumes.since), self.target.clock.now())
            return f"Resume run {self.resumes.run}: {name} on {resource} ({stage} since {since})"
        title = f"Deploy {name} to {resource} by {self.strategy}"
        if not self.stable:
            title += " (first deployment)"
        return title

    def now(self) -> tuple[str, ...]:
        """What serves, and whether the change was published before."""
        serves = f"There is no alias {self.target.resource} yet."
        if self.alias is not None:
            serves = f"{self.target.resource} serves {self.alias}."
        what = "configuration" if self.change.base else "build"
        known = f"New {what} (not published before)."
        if self.change.known:
            known = f"v{self.change.known} already has this {what}."
        return (serves, known)

    def then(self) -> tuple[str, ...]:
        """Every state of the alias that the rollout may leave."""
        if self.live:
            return ("Nothing changes.",)
        version = "the new version"
        if self.change.known:
            version = f"v{self.change.known}"
        if self.healthy:
            kept = f"{self.target.resource} → {version} (100 %), as now, also if this run is lost."
            return (kept, f"On failed analysis or manual abort: rollback to v{self.stable} (100 %).")
        if not self.stable:
            return (f"{self.target.resource} is created → {version} (100 %).",)
        shift = f"{self.target.resource} → {version} (100 %), in one step."
        if len(self.stages) > 1:
            shares = " → ".join(map(exact_percent, self.stages))
            shift = f"{self.target.resource} shifts {version} {shares}; v{self.stable} receives the rest."
        fallback = "On failed analysis, manual abort, or loss of this run: automatic rollback to "
        return (shift, f"{fallback}v{self.stable} (100 %).")

    def undo(self) -> tuple[str, ...]:
        """How the rollout is undone."""
        if not self.stable:
            return ("There is no earlier version.",)
        return (f"rollback/immediate returns all traffic to v{self.stable}.",)

    def calls(self) -> tuple[str, ...]:
        """The writing calls of a rollout that succeeds, in their sequence."""
        if self.live:
            return ()
        if self.healthy:
            return (f"lambda:UpdateAlias v{self.stable} alone, in a rollback only",)
        calls = []
        if not self.change.known:
            if not self.change.base:
                calls.append("lambda:UpdateFunctionCode")
            if self.change.variables:
                calls.append("lambda:UpdateFunctionConfiguration environment")
            calls.append("lambda:PublishVersion")
        if not self.stable:
            return (*calls, "lambda:CreateAlias")
        # The failsafe comes before the first weight that it protects, and is in force until the new version is alone.
        calls.append("scheduler:CreateSchedule failsafe")
        calls += [f"lambda:UpdateAlias weight {share:g}" for share in self.stages]
        return (*calls, "lambda:UpdateAlias new version alone, no weights", "scheduler:DeleteSchedule failsafe")

    def reasons(self) -> Iterator[str]:
        """The bake times, the smoke tests, and warnings."""
        settings = self.target.settings
        watch = f"{settings.rollout.watch_minutes:g} min of monitoring"
        if self.strategy == "canary":
            yield f"Bake time {settings.rollout.bake_minutes:g} min per stage; then up to {watch} at 100 %."
        else:
            yield f"{watch} after the switch."
        after = settings.rollout.watch_after_proof_minutes
        if self.strategy == "canary" and after and settings.rollout.watch_minutes:
            yield f"A healthy build is monitored for up to {after:g} min more, and stays if this run is lost."
        if self.strategy in settings.rollout.smoke_tested:
            tests = count(len(settings.smoke_tests), "smoke test")
            yield f"{tests} must pass before the new version receives traffic."
        if self.alias and self.alias.rollout and self.change.known in self.alias.rollout.rejected_versions:
            yield f"Warning: this build was rolled back before (as v{self.change.known})."
        if self.stable and self.resumes is None and not self.live:
            yield from _obstacles.describe_failsafe_name(self.target)
            yield from _obstacles.describe_callers(self.target)
        # Alarms are shown and refuse nothing: this build may be what ends them.
        try:
            firing = alarms.alarms_in_alarm(self.target)
        except BuddyError as error:
            yield f"Warning: the alarms' states are unknown. {error.what}"
            return
        for alarm in firing:
            yield f"Warning: {alarm.name} is in ALARM. The deployment is allowed, since it may be the fix."

    def covers(self, override: BreakGlass | None) -> dict[str, object]:
        """What the approval covers, by the keys that the plan's hash has always had."""
        settings = self.target.settings
        covers = {
            **alias_scope(self.target, "rollout"),
            "strategy": self.strategy,
            "policy": settings.rollout.model_dump(mode="json"),
            "rules": settings.policy.model_dump(mode="json"),
            "glass": str(override or ""),
            "health": settings.health.model_dump(mode="json"),
            "from": self.stable,
            "code": self.change.sha256,
        }
        if self.change.base:
            covers["variables"] = dict(self.change.variables)
        return covers


def _overrides(violated: tuple[str, ...], override: BreakGlass | None) -> Iterator[str]:
    """The rules that the plan violates, and who overrides them."""
    for rule in violated:
        yield f"VIOLATES THE RULES: {rule}"
    if override is not None:
        yield str(override)
