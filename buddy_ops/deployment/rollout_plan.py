"""What a rollout would do, before it begins: its plan, and whether the environment's rules allow it. Never writes."""

import hashlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from buddy_ops.aws import aliases, checklist_store, freezes, versions
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import VARIABLE
from buddy_ops.core import palette
from buddy_ops.core import rules as rules_
from buddy_ops.core.checklist import ChecklistResult
from buddy_ops.core.errors import BuddyError, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import Plan
from buddy_ops.core.rules import BreakGlass, DeploymentFacts
from buddy_ops.core.text import count, escape_html, exact_percent, join_words, parse_utc, time_of_day
from buddy_ops.deployment import _obstacles, hooks, ramp
from buddy_ops.deployment._traffic import alias_scope, own_open_rollout, rollout_under_way
from buddy_ops.deployment.requested_change import RequestedChange, request_change
from buddy_ops.health import alarms, log_feed

RED = f'<div class="alert alert-danger" style="{palette.PROBLEM.colours};padding:.4em .7em">'
"""The start of a box for what must not be overlooked."""


NOT_FOUND = (
    "With few requests only large differences are found. At 60 a minute neither 0.9 % errors instead of 0.2 % nor 30 % "
    "fewer events of a counter are found (docs/streams.md)."
)
"""What streams cannot do, for who approves. Source: benchmarks/judge/STREAMS.md."""

DIGEST_LETTERS = 64
"""Letters of an image's digest; the base64 of a zip's has 44."""


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
        follows: the ``mark`` of the deployment record that this rollout comes after; empty if there is none.
        alerts: those of ``reasons`` that are shown in red.
        began: when the rollout began that is in progress or made the change live; None: it is unknown.
        closes: whether this only closes a rollout whose run was lost, and which its failsafe rolled back.
    """

    break_glass: BreakGlass | None
    violations: tuple[str, ...]
    strategy: str
    change: RequestedChange
    stable: str
    stages: tuple[float, ...]
    resumes: RolloutState | None
    follows: str = ""
    alerts: tuple[str, ...] = ()
    began: datetime | None = None
    closes: bool = False

    def _repr_markdown_(self) -> str:
        shown = in_red(self.alerts) + super()._repr_markdown_()
        if not self.violations:
            return shown
        who = "This deployment would be refused"
        if self.break_glass:
            who = _one_line(str(self.break_glass))
        listed = "".join(f"<li>{_one_line(rule)}</li>" for rule in self.violations)
        return f"{RED}<b>Violates the rules. {who}</b><ul>{listed}</ul></div>\n\n{shown}"

    @property
    def under_way(self) -> bool:
        """Whether this resumes a rollout that an earlier run began."""
        return self.resumes is not None


def in_red(alerts: Iterable[str]) -> str:
    """Warnings as boxes in Markdown."""
    return "".join(f"{RED}<b>{_one_line(alert)}</b></div>\n\n" for alert in alerts)


def _one_line(text: str) -> str:
    """A text in HTML within Markdown, where an empty line would end the HTML."""
    return escape_html(" ".join(text.split()))


def plan_rollout(
    target: Target,
    artifact: str,
    strategy: str = "canary",
    variables: Mapping[str, str | None] | None = None,
    break_glass: Mapping[str, str] | None = None,
    *,
    new_configuration: bool = False,
) -> RolloutPlan:
    """What deploying ``artifact``, or the serving code with other environment ``variables``, would do here.

    Args:
        artifact: the build, in one of the forms of ``artifacts.FORMS``. With ``variables`` it is the serving
            version's own and may be empty, unless $LATEST holds other code.
        strategy: 'all_at_once', 'blue_green' or 'canary'; the environment's rules must allow it.
        variables: a change of configuration: what to set, or to remove (None).
        break_glass: who overrides the environment's rules, and why; one person's approval suffices then.
        new_configuration: whether ``artifact`` is published with $LATEST's configuration although a version has its
            code with another one.

    AWS: lambda:GetAlias, GetFunctionConfiguration, ListVersionsByFunction, GetAccountSettings,
    GetPolicy, cloudwatch:GetMetricData, where there is no alias as ``former_service.read_former_service``,
    ssm:GetParametersByPath, cloudwatch:DescribeAlarms, reads only.

    Raises:
        InvalidInput: ``artifact-missing``, ``artifact-not-a-zip``, ``function-missing``, ``alias-missing``,
            ``break-glass-incomplete``.
        Refused: ``not-allowed``, ``rollout-under-way``, ``weights-not-ours``, ``frozen``, ``code-differs``,
            ``alias-deleted``, ``alias-on-latest``, ``roles-differ``,
            ``artifact-too-large``, ``code-storage-full``, ``function-failed``, ``artifact-elsewhere``,
            ``package-type-differs``, ``architecture-differs``, ``handler-missing``, ``version-not-active``.
    """
    # First what makes any plan impossible, then what is deployed, then whether the rules allow it.
    override = rules_.parse_break_glass(break_glass or {})
    alias = aliases.read_alias(target)
    _obstacles.require_published(target, alias)
    first: tuple[str, ...] = ()
    if alias is None:
        first = tuple(_obstacles.require_first_deployment(target))
    change = request_change(target, alias, artifact, variables, new_configuration=new_configuration)
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
    plan = RolloutPlan(
        title=draft.title(),
        now=draft.now(),
        then=draft.then(),
        calls=draft.calls(),
        undo=draft.undo(),
        reasons=(*_overrides(violated, override), *first, *draft.reasons(), *change.drift, *change.doubts),
        covers=draft.covers(override),
        approvals=approvals,
        # The names that approved this build before it was rolled back do not approve it again.
        demand_hash=target.settings.rollout.demand_plan_hash or draft.rolled_back,
        made_at=target.clock.now(),
        valid_hours=target.settings.policy.approval_hours,
        # By this a void approval can say that it was used, in place of only being another plan's.
        former=draft.former(override),
        break_glass=override,
        violations=violated,
        strategy=strategy,
        change=change,
        stable=draft.stable,
        stages=draft.stages,
        resumes=resumes,
        follows=draft.follows,
        alerts=tuple(draft.alerts()),
        began=draft.began,
        closes=draft.closes,
    )
    # By these a later run can say what has changed since an approval.
    target.journal.append("planned", plan=plan.hash, covers=plan.fingerprints())
    return plan


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
    principal = ""
    if target.settings.policy.ci_principals:
        principal = target.principal
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
    record = _record_of(alias)
    if alias and record and alias.primary == record.new_version and record.stage in ("proved", "unproven"):
        facts = replace(facts, serving=record.new_version, since=parse_utc(record.since))
    violated = rules_.violations(target.environment, target.settings, facts)
    # A dry run shows what the rules forbid.
    if violated and break_glass is None and not target.dry_run:
        raise Refused(
            "not-allowed",
            f"The rules of {target.environment} do not allow this deployment:\n"
            + "\n".join(f"  - {rule}" for rule in violated),
            next="Do what the rules ask for. For emergencies set "
            f"{parameter('break_glass', {'who': 'NAME', 'why': 'REASON'})}; everyone in notify is informed.",
        )
    return violated


def describe_build(sha256: str) -> str:
    """A build's name in checklists' results: the beginning of its hash, in letters that a parameter's path may have."""
    # An image's is its digest, in hexadecimal already.
    if len(sha256) == DIGEST_LETTERS:
        return sha256[:16]
    return b64decode(sha256)[:8].hex()


def _checklist_results(
    target: Target, alias: Alias | None, sha256: str, *, resumes: bool
) -> dict[str, ChecklistResult | None]:
    """The newest result of each checklist that the rules demand. AWS: ssm:GetParametersByPath, reads only."""
    # A rollout that was allowed to begin is not held by a checklist that has expired since: its traffic is split.
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
    def rolled_back(self) -> bool:
        """Whether this build was rolled back before, and is to be deployed again."""
        record = _record_of(self.alias)
        return record is not None and self.resumes is None and self.change.known in record.rejected_versions

    @property
    def follows(self) -> str:
        """The mark of the record before: once a deployment has ended, the approvals before it are void."""
        if self.resumes is not None:
            return self.resumes.follows
        return mark_of(self.alias)

    @property
    def began(self) -> datetime | None:
        """When the rollout began that brought this change, or brings it."""
        record = _record_of(self.alias)
        if record is None or record.new_version != self.change.known or record.rolled_back:
            return None
        # ``since`` is of the stage that is on now; the first of the ages is how long before it the first stage began.
        return parse_utc(record.since) - timedelta(seconds=next(iter(record.stage_ages_s), 0))

    @property
    def closes(self) -> bool:
        """Whether a rollout that its failsafe rolled back has only to be closed."""
        return self.resumes is not None and self.alias is not None and self.alias.failsafe_triggered

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
            if self.closes:
                return f"Close run {self.resumes.run}, which was lost: its failsafe rolled back {name} on {resource}"
            if self.resumes.stage == "proved":
                until = time_of_day(parse_utc(self.resumes.monitored_until), self.target.clock.now())
                return f"Resume the monitoring of {name} on {resource} (healthy, until {until})"
            # Stages have numbers: '2'. Others have names, as 'watch'.
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
        what = "build"
        if self.change.base:
            what = "configuration"
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
        if self.closes:
            return (
                f"{self.target.resource} → v{self.stable} (100 %), as now, and {version} is marked bad.",
                "To deploy the same build again, run this once more, and approve its plan.",
            )
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
        if self.closes:
            return (f"lambda:UpdateAlias v{self.stable} alone, as now", "scheduler:DeleteSchedule failsafe")
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
            for action, done in (("rollback", "Rolled back"), ("hold", "Paused for a decision")):
                names = [stream.name for stream in settings.streams if stream.on == action]
                if names and self.stable:
                    yield f"{done} if worse than v{self.stable} in {join_words(names, 'or')} (setting streams)."
            if settings.streams and self.stable:
                yield NOT_FOUND
            if settings.rollout.ramp is not None:
                delay = ramp.by_minutes(settings)
                yield (
                    f"Where traffic is high, smaller weights come first, {delay.rung_s / 60:g} min each: the new "
                    f"version gets about {ramp.failures_unseen(settings, delay):g} requests until a failure can be "
                    f"seen, then {ramp.factor(settings, delay):g} times as many."
                )
        else:
            yield f"{watch} after the switch."
        if self.stable and settings.health.log_feed:
            yield self.source()
        after = settings.rollout.watch_after_proof_minutes
        if self.strategy == "canary" and after and settings.rollout.watch_minutes:
            yield f"A healthy build is monitored for up to {after:g} min more, and stays if this run is lost."
        yield from self.alerts()
        if settings.smoke_tests and self.strategy in settings.rollout.smoke_tested:
            tests = count(len(settings.smoke_tests), "smoke test")
            yield f"{tests} must pass before the new version receives traffic."
        if not self.live:
            yield from hooks.describe_hooks(self.target)
        if self.rolled_back:
            yield f"Warning: this build was rolled back before (as v{self.change.known})."
        if self.stable and self.resumes is None and not self.live:
            yield from _obstacles.describe_callers(self.target)
        # Alarms are shown and refuse nothing: this build may be what ends them.
        try:
            firing = alarms.alarms_in_alarm(self.target)
        except BuddyError as error:
            yield f"Warning: the alarms' states are unknown. {error.what}"
            return
        for alarm in firing:
            yield f"Warning: {alarm.name} is in ALARM. The deployment is allowed, since it may be the fix."

    def source(self) -> str:
        """Which source decides."""
        numbers = (self.stable, self.change.known or versions.LATEST)
        try:
            pair = [versions.read_version(self.target, number) for number in numbers]
        except BuddyError as error:
            return f"Warning: whether the log can be read every 10 s is unknown. {error.what}"
        return log_feed.describe(self.target.settings, pair)

    def alerts(self) -> Iterator[str]:
        """Warnings that are shown in red: what this deployment is not protected by."""
        settings = self.target.settings
        if self.live:
            return
        if settings.uncounted_failures:
            yield f"UNGUARDED: {settings.uncounted_failures} would not count as failures. Set failure_metrics."
        if not settings.smoke_tests:
            yield "WARNING: no smoke tests are configured (smoke_tests in the environment's file)."

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
            # By these a bad build is found and rolled back: without them another deployment would be approved.
            "failsafe": settings.lease.model_dump(mode="json"),
            "smoke_tests": [test.model_dump(mode="json") for test in settings.smoke_tests],
            "failure_metrics": [
                metric.model_dump(mode="json", exclude_defaults=True) for metric in settings.failure_metrics
            ],
            "streams": [stream.model_dump(mode="json") for stream in settings.streams],
            "from": self.stable,
            "code": self.change.sha256,
            "configuration": _covered(self.change.expected),
        }
        # Only where there are any: an environment without hooks has the plan IDs that it had before there were hooks.
        if settings.hooks:
            covers["hooks"] = [hook.model_dump(mode="json") for hook in settings.hooks]
        if self.change.base:
            covers["variables"] = dict(self.change.variables)
        if self.change.named:
            covers["version"] = self.change.known
        if self.follows:
            covers["after"] = self.follows
        return covers

    def former(self, override: BreakGlass | None) -> tuple[Mapping[str, object], str] | None:
        """What the approval covered before the deployment that ended last, and a sentence on that one."""
        record = _record_of(self.alias)
        if record is None or self.resumes is not None:
            return None
        covers = self.covers(override)
        # An approval from before that deployment could not cover the mark of its record.
        del covers["after"]
        # The same change is live by that deployment, which began at another version.
        if self.live and self.began is not None:
            covers["from"] = record.stable_version
        if record.follows:
            covers["after"] = record.follows
        return covers, aliases.describe_record(record, self.target.clock.now())


def mark_of(alias: Alias | None) -> str:
    """The mark of the record on an alias; empty if it has none."""
    record = _record_of(alias)
    if record is None:
        return ""
    return record.mark


def _record_of(alias: Alias | None) -> RolloutState | None:
    if alias is None:
        return None
    return alias.rollout


def _covered(configuration: Mapping[str, object]) -> dict[str, object]:
    """A configuration as a plan's hash covers it: of a variable's value, which may be a secret, only the SHA-256."""
    covered = dict(configuration)
    for name, value in configuration.items():
        if name.startswith(VARIABLE):
            covered[name] = hashlib.sha256(str(value).encode()).hexdigest()
    return covered


def _overrides(violated: tuple[str, ...], override: BreakGlass | None) -> Iterator[str]:
    """The rules that the plan violates, and who overrides them."""
    for rule in violated:
        yield f"VIOLATES THE RULES: {rule}"
    if override is not None:
        yield str(override)
