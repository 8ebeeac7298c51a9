"""The assessment of a failed deployment: the new version's error log, and whether to roll back or to fix forward.

It recommends, with reasons, by the thirty-minute rule. A person decides; until then nothing moves.

Source: the deployment guide, 'Emergencies': stop, assess, decide, execute, communicate, review within 24 hours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, get_args

from buddy_ops.aws import aliases, freezes, versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.freezes import Freeze
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import (
    MINUTE,
    date_and_time,
    duration,
    escape_markdown,
    exact_percent,
    floor_minute,
    join_words,
    markdown_table,
    percent,
)
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan, RollbackResult
from buddy_ops.health import metrics, serving
from buddy_ops.health.counts import Counts
from buddy_ops.health.metrics import UNKNOWN_VERSION
from buddy_ops.health.serving import name_version
from buddy_ops.incidents import review as incident_review
from buddy_ops.incidents.error_lines import ErrorKind, read_error_kinds

ROLLBACK_AGE = timedelta(minutes=30)
"""Younger deployments are rolled back. Source: the deployment guide, the thirty-minute rule."""

LONGEST_WINDOW = timedelta(hours=6)
Choice = Literal["roll back", "fix forward"]


@dataclass(frozen=True)
class Assessment:
    """What is known about a failed deployment.

    Attributes:
        counts: requests and failures since the deployment, by version.
        destination: the version that a rollback would return to; '' where there is none.
        resource: function and alias, and ``serves`` the alias in words.
        rolled_back: whether the alias serves only ``destination`` already.
        troubles: what could not be read.
    """

    version: str
    deployed: datetime
    at: datetime
    counts: Mapping[str, Counts]
    kinds: tuple[ErrorKind, ...]
    destination: str
    resource: str
    serves: str
    rolled_back: bool
    recommended: Choice
    reasons: tuple[str, ...]
    troubles: tuple[str, ...]

    @property
    def serving(self) -> str:
        """What the alias serves, as a sentence."""
        if self.rolled_back:
            return f"{self.resource} serves {self.serves}; v{self.version} is already rolled back."
        return f"{self.resource} serves {self.serves}."

    @property
    def question(self) -> str:
        """What has to be decided, and what is recommended."""
        return f"Decide about v{self.version}. Recommended: {self.recommended}. Until then the traffic does not change."

    @property
    def choices(self) -> dict[str, str]:
        """What each decision does, and to which version; the recommended one first."""
        # A choice that cannot be carried out has no button: without a version to return to only the fix is left.
        effects: dict[Choice, str] = {
            "fix forward": f"Fix forward: v{self.version} keeps its traffic until a fix is deployed"
        }
        if self.rolled_back:
            effects["roll back"] = f"Roll back: v{self.destination} keeps all traffic"
        elif self.destination:
            effects["roll back"] = f"Roll back: all traffic from v{self.version} to v{self.destination}"
        return {choice: effects[choice] for choice in sorted(effects, key=lambda choice: choice != self.recommended)}

    def _repr_markdown_(self) -> str:
        kinds = "No error lines of this version in the log."
        if self.kinds:
            kinds = markdown_table(
                ("Error", "Lines", "First", "Last", "Latest example"),
                ((f"`{_cell(k.name)}`", f"{k.lines:,}", k.first, k.last, f"`{_cell(k.example)}`") for k in self.kinds),
            )
        failures = (f"{name_version(version)}: {describe_failures(own)}" for version, own in self.counts.items())
        return "\n\n".join((
            f"**v{self.version}**, deployed {duration(self.at - self.deployed)} ago. {self.serving}",
            _bullets((*failures, *self.troubles)),
            kinds,
            f"**Recommended: {self.recommended}.**",
            _bullets(self.reasons),
        ))  # fmt: skip

    def __str__(self) -> str:
        return f"{self.recommended}: {' '.join(self.reasons)}"


@dataclass(frozen=True)
class FreezePlan(Plan):
    """A freeze of the environment. ``already`` means that a freeze with the same reason is active."""

    reason: str
    hours: float
    already: bool


@dataclass(frozen=True)
class FreezeResult:
    """How a freeze ended. ``freeze`` is the active one, or None: then ``trouble`` says why, or it was a dry run."""

    freeze: Freeze | None = None
    already: bool = False
    trouble: str = ""

    def __str__(self) -> str:
        if self.freeze is None and not self.trouble:
            return "Dry run: nothing was frozen."
        if self.freeze is None:
            return f"NOT FROZEN: {self.trouble} Ask your team not to deploy, and continue."
        if self.already:
            return f"Deployments were already frozen: {self.freeze}."
        return f"Deployments are frozen: {self.freeze}."


@dataclass(frozen=True)
class DecisionPlan(Plan):
    """The decision about a version; ``back`` is the rollback, None to fix forward; ``review`` is its date."""

    version: str
    back: RollbackPlan | None
    review: datetime


@dataclass(frozen=True)
class DecisionResult:
    """What was done: the rollback, None if it is fixed forward; and whether the review's date was stored, in words."""

    version: str
    rollback: RollbackResult | None
    review: str

    def __str__(self) -> str:
        if self.rollback is None:
            unchanged = f"Traffic was not changed. Lift the freeze, then fix v{self.version} with strategies/canary."
            return f"{unchanged}\n{self.review}"
        return f"{self.rollback}\n{self.review}"


@dataclass(frozen=True)
class RecoveryCheck:
    """Requests and failures after a decision, of the serving version with the highest error rate.

    Attributes:
        version: '' where no request was counted.
        limit: the error rate that the environment allows, 0..1.
        minutes: how many minutes were counted.
        trouble: why nothing was counted.
    """

    version: str
    counts: Counts
    limit: float
    minutes: int
    trouble: str = ""

    @property
    def recovered(self) -> bool | None:
        """Whether the error rate is within the limit; None for unknown."""
        if not self.version:
            return None
        return self.counts.errors <= self.limit * self.counts.requests

    @property
    def result(self) -> str:
        """The same as the word that operators read first."""
        return {True: "RECOVERED", False: "NOT RECOVERED", None: "UNKNOWN"}[self.recovered]

    def __str__(self) -> str:
        if self.recovered is None:
            return f"{self.result}: {self.trouble}."
        failures = describe_failures(self.counts)
        return f"{self.result}: v{self.version}: {failures} in {self.minutes} min (limit {exact_percent(self.limit)})."


# Stop


def plan_freeze(target: Target, reason: str, hours: float = 4) -> FreezePlan:
    """A freeze of all deployments of the environment. AWS: ssm:GetParametersByPath, reads only."""
    reason = reason.strip()
    active = freezes.active_freezes(target)
    already = any(freeze.reason == reason for freeze in active)
    title = f"Freeze deployments to {target.environment}"
    calls: tuple[str, ...] = (f"ssm:PutParameter freeze: {reason}",)
    if already:
        title = "Deployments are already frozen"
        calls = ()
    return FreezePlan(
        title=title,
        now=tuple(f"frozen: {freeze}" for freeze in active) or ("no freeze",),
        then=(f"no deployment starts and no rollout continues for {hours:g} h; rollbacks are not blocked",),
        calls=calls,
        undo=("lift the freeze when the fix is ready; it also expires",),
        covers={"action": "freeze", "environment": target.environment, "reason": reason, "hours": hours},
        reason=reason,
        hours=hours,
        already=already,
    )


def freeze_deployments(target: Target, plan: FreezePlan, approval: Approval) -> FreezeResult:
    """Freeze deployments. A failure of SSM is in the result, and does not stop the runbook.

    AWS: ssm:GetParametersByPath (read), PutParameter (write).

    Raises:
        Refused: ``approval-void``.
        InvalidInput: ``freeze-incomplete``.
    """
    approval.must_cover(plan, target.clock.now())
    return freeze_or_say(target, plan.reason, plan.hours, approval.by)


def freeze_or_say(target: Target, reason: str, hours: float, by: Iterable[str]) -> FreezeResult:
    """Freeze, unless a freeze with this reason is active.

    A failure of AWS is in the result and is not raised: the traffic and the data matter more than the freeze.

    AWS: ssm:GetParametersByPath (read), PutParameter (write).

    Raises:
        InvalidInput: ``freeze-incomplete``.
    """
    if target.dry_run:
        return FreezeResult()
    try:
        # The reason identifies the incident: a second run must not create a second freeze.
        for freeze in freezes.active_freezes(target):
            if freeze.reason == reason.strip():
                return FreezeResult(freeze, already=True)
        return FreezeResult(freezes.create_freeze(target, reason, ", ".join(by), freezes.lasting(hours)))
    except AwsFailed as failure:
        return FreezeResult(trouble=failure.what)


# Assess


def assess_deployment(target: Target, watch: Progress = no_progress) -> Assessment:
    """The newest deployment behind the alias, its errors, and what the thirty-minute rule recommends.

    AWS: lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData, logs:StartQuery, GetQueryResults, reads.

    Raises:
        InvalidInput: ``alias-missing``, ``version-missing``.
    """
    # What was deployed and when; where a rollback would lead; what happened since; then what is recommended.
    alias = aliases.require_alias(target)
    version = suspect_version(alias)
    now = target.clock.now()
    deployed = _deployed(target, alias, version)
    since = max(deployed, now - LONGEST_WINDOW)
    destination, obstacle, doubts = _destination(target, alias)
    # The stable version is counted, too: the same failures in both mean that the build may not be the cause.
    compared = tuple(dict.fromkeys(filter(None, (version, destination, alias.primary))))
    until = metrics.published_until(target, now)
    reading = serving.read_served(target, alias, since=floor_minute(since), until=until, also=compared)
    # Requests of no known version are shown as such, not left out.
    if any(UNKNOWN_VERSION in row.counts for row in reading.rows):
        compared = (*compared, UNKNOWN_VERSION)
    kinds, unlogged = read_error_kinds(target, version, since, watch)
    unmeasured = ""
    if reading.trouble:
        unmeasured = f"metrics could not be read: {reading.trouble}"
    recommended, reasons = recommend_decision(now - deployed, destination, obstacle, doubts)
    target.journal.append(
        "assessed",
        version=version,
        recommended=recommended,
        reasons=reasons,
        error_lines={kind.name: kind.lines for kind in kinds},
    )
    return Assessment(
        version=version,
        deployed=deployed,
        at=now,
        counts=metrics.totals(reading.rows, compared),
        kinds=kinds,
        destination=destination,
        resource=target.resource,
        serves=str(alias),
        rolled_back=destination == alias.primary and alias.additional is None,
        recommended=recommended,
        reasons=reasons,
        troubles=tuple(filter(None, (unlogged, unmeasured, *reading.notes))),
    )


def suspect_version(alias: Alias) -> str:
    """The version that was deployed last: the canary, the one of the last rollout, or what serves."""
    # The version with a share of the traffic is the newest one, whatever a record says.
    if alias.canary or alias.additional:
        return alias.canary or alias.additional or ""
    if alias.rollout is None:
        return alias.primary
    return alias.rollout.new_version


def recommend_decision(
    age: timedelta, destination: str, obstacle: str, doubts: Iterable[str]
) -> tuple[Choice, tuple[str, ...]]:
    """The thirty-minute rule, with its reasons. Pure.

    Args:
        age: time since the version was deployed.
        destination: the version that a rollback would return to; '' where there is none.
        obstacle: why there is none.
        doubts: what speaks against the destination, without forbidding it.
    """
    deployed = f"The version was deployed {duration(age)} ago"
    if not destination:
        return "fix forward", (f"No rollback target: {obstacle}", f"{deployed}.")
    possible = f"A rollback to v{destination} takes one UpdateAlias call."
    if age < ROLLBACK_AGE:
        return "roll back", (f"{deployed}, less than {duration(ROLLBACK_AGE)}: roll back.", possible, *doubts)
    return "fix forward", (
        f"{deployed}, more than {duration(ROLLBACK_AGE)}: consider fixing forward. Users may have data that "
        f"v{destination} cannot read.",
        f"If users are affected now, roll back all the same. {possible}",
        *doubts,
    )


def _deployed(target: Target, alias: Alias, version: str) -> datetime:
    """When the version first received traffic, by the alias's record; else when it was published."""
    record = alias.rollout
    # After a rollback the record's time is that of the rollback.
    if record is not None and record.new_version == version and not record.rolled_back:
        # ``since`` is of the latest stage; the greatest age is how long before it the first one began.
        return datetime.fromisoformat(record.since) - timedelta(seconds=max(record.stage_ages_s, default=0))
    return versions.read_version(target, version).modified_at


def _destination(target: Target, alias: Alias) -> tuple[str, str, Sequence[str]]:
    """The version that a rollback would return to and its doubts; '' and why there is none."""
    try:
        destination = rollback.plan_rollback(target).destination
    except BuddyError as error:
        # An assessment is made also where nothing can be returned to: then it recommends a fix.
        return "", error.what, ()
    return destination, "", rollback.check_destination(target, alias, destination)


# Decide and execute


def plan_decision(target: Target, assessment: Assessment, decision: str, review: str = "") -> DecisionPlan:
    """The decision as a plan.

    Args:
        decision: 'roll back' or 'fix forward'.
        review: when the incident is reviewed, ISO 8601, within 24 hours; empty: at their end.

    AWS: lambda:GetAlias, GetFunctionConfiguration, reads only.

    Raises:
        Refused: ``decision-missing``; and what a rollback's plan refuses.
        InvalidInput: ``invalid-parameters``.
    """
    due = incident_review.choose_review_date(target, review)
    state = f"{assessment.serving} Deployments stay frozen."
    choices = join_words((parameter("decision", choice) for choice in get_args(Choice)), "or")
    choose = f"Set {choices} (recommended: {assessment.recommended})."
    if not decision:
        what = f"No decision about v{assessment.version} was given."
        raise Refused("decision-missing", what, now=state, next=choose)
    if decision not in get_args(Choice):
        raise InvalidInput("invalid-parameters", f"{decision!r} is no decision.", now=state, next=choose)
    reasons = (*assessment.reasons, *due.doubts)
    if decision != assessment.recommended:
        reasons = (*reasons, f"{decision} is not what the thirty-minute rule recommends")
    reviewed = f"the incident is reviewed by {date_and_time(due.at)}"
    forward = DecisionPlan(
        title=f"Fix v{assessment.version} forward",
        now=(assessment.serving,),
        then=(f"traffic stays as it is until a fix of v{assessment.version} is deployed", reviewed),
        calls=(),
        undo=("run this runbook again with another decision",),
        reasons=reasons,
        covers={
            "environment": target.environment,
            "function": target.settings.function,
            "action": decision,
            "version": assessment.version,
        },
        version=assessment.version,
        back=None,
        review=due.at,
    )
    if decision == "fix forward":
        return forward
    # With a callback it is tried on while AWS throttles. Without one it would fail at the first throttled call.
    back = rollback.plan_rollback(target, watch=no_progress)
    return replace(
        forward,
        title=back.title,
        now=back.now,
        then=(*back.then, reviewed),
        calls=back.calls,
        undo=back.undo,
        covers={**back.covers, "action": "rollback", "version": assessment.version},
        back=back,
    )


def run_decision(target: Target, plan: DecisionPlan, approval: Approval, incident: str = "") -> DecisionResult:
    """Move the traffic if that was decided, then store the review's date.

    AWS: lambda:UpdateAlias, scheduler:DeleteSchedule, ssm:PutParameter (write).

    Raises:
        Refused: ``approval-void``, and what the rollback raises.
    """
    approval.must_cover(plan, target.clock.now())
    decision: Choice = "fix forward"
    if plan.back is not None:
        decision = "roll back"
    # Before the traffic moves: the review counts the time to the decision from this record.
    target.journal.append("decided", decision=decision, by=approval.by)
    moved = None
    # The traffic first: users do not wait for the review's date.
    if plan.back is not None:
        moved = rollback.run_rollback(target, plan.back, approve_part(approval, plan.back), no_progress)
    stored = incident_review.store_review_date(target, plan.review, plan.version, by=approval.by, incident=incident)
    return DecisionResult(plan.version, moved, stored)


def approve_part(approval: Approval, part: Plan) -> Approval:
    """The approval of a plan as the approval of a plan that it contains."""
    return replace(approval, plan_hash=part.hash)


async def wait_for_recovery(
    target: Target, plan: DecisionPlan, minutes: int = 2, watch: Progress = no_progress
) -> RecoveryCheck:
    """Wait for full minutes after the decision, and compare the error rate with its limit.

    AWS: cloudwatch:GetMetricData, lambda:GetAlias, reads only.
    """
    watch = target.side.watch(watch)
    alias = aliases.require_alias(target)
    # An alias takes up to a minute to route everywhere as it says.
    since = floor_minute(target.clock.now()) + 2 * MINUTE
    until = since + minutes * MINUTE
    complete = until + timedelta(seconds=target.settings.health.late_data_s + 30)
    # A dry run has moved nothing, so there is nothing to wait for.
    while not target.dry_run and (left := complete - target.clock.now()) > timedelta():
        watch(f"waiting for metrics of {since:%H:%M} to {until:%H:%M} UTC: {left / MINUTE:.1f} minutes to go")
        await target.clock.wait(target.clock.now() + min(left, MINUTE))
    limit = target.settings.health.error_rate
    reading = serving.read_served(target, alias, since=since, until=until)
    # A version without a share has no requests, which is no gap in the counts.
    counted = metrics.totals(reading.rows, [version for version in alias.serving if alias.share(version)])
    known = {version: own for version, own in counted.items() if own.requests}
    # A canary that still fails must not hide behind the many good requests of the stable version.
    worst = max(known, key=lambda version: known[version].errors / known[version].requests, default="")
    result = RecoveryCheck(worst, known.get(worst, Counts()), limit, minutes)
    trouble = reading.trouble or _unmeasured(counted)
    # A version that still fails is reported as such, even where other counts are missing.
    if trouble and result.recovered is not False:
        # No requests, or counts that CloudWatch has not published yet, are no sign of a recovery.
        return RecoveryCheck("", Counts(), limit, minutes, trouble=trouble)
    target.journal.append(
        "recovery",
        says=result.result,
        requests=result.counts.requests,
        failed=result.counts.errors,
    )
    return result


def _unmeasured(counted: Mapping[str, Counts]) -> str:
    """Why the failures of the versions that serve are not known; empty if they are."""
    idle = [f"v{version}" for version, own in counted.items() if not own.requests]
    if idle:
        return f"{join_words(idle)} received no requests"
    if any(own.unknown & {"requests", "errors"} for own in counted.values()):
        return "CloudWatch has not published all failures yet"
    return ""


def describe_failures(counts: Counts) -> str:
    """Failed requests of all, with their share."""
    if not counts.requests:
        return "no requests"
    share = percent(counts.errors / counts.requests)
    return f"{counts.errors:,} of {counts.requests:,} requests failed ({share})"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_cell(line)}" for line in lines)


def _cell(text: str) -> str:
    """A text from a log, as plain text in Markdown."""
    return escape_markdown(text, keep_code=False)
