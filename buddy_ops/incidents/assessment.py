"""A deployment that failed: what the new version's log says, and whether to roll back or to fix forward.

Knows the thirty-minute rule, and which log lines are errors. Never decides: it recommends, with its reasons, and a
person says which; if nobody does, nothing moves.

Source: the deployment guide, 'Emergencies': stop, assess, decide, execute, communicate, review within 24 hours.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from buddy_ops.aws import aliases, checklist_store, freezes, tables
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Watch
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import Approval, ChecklistItem, ChecklistResult, Plan
from buddy_ops.core.text import escape_markdown
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan
from buddy_ops.health import metrics
from buddy_ops.health.judge import Counts
from buddy_ops.health.metrics import MALFORMED, MINUTE

RULE = timedelta(minutes=30)
REVIEW_WITHIN = timedelta(hours=24)
LONGEST_WINDOW = timedelta(hours=6)
LINES = 10_000
"""Rows that Logs Insights answers at most. Source: CloudWatch Logs API reference, StartQuery."""

ERROR_LINES = (
    "fields @timestamp, @message | parse @logStream /\\[(?<version>[^\\]]+)\\]/ "
    '| filter version = "{version}" and @message not like /^(START|END|REPORT) / '
    "and @message like /(?i)\\berror\\b|exception|timed out|exited|fatal|apologised/ "
    f"| sort @timestamp desc | limit {LINES}"
)
NAMED = re.compile(r"\b((?:\w+\.)*\w+(?:Error|Exception|Fault))\b")
VARYING = re.compile(r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b|\b\d[\w:.-]*\b|[\w-]{25,}")
SHOWN = 160

Choice = Literal["roll back", "fix forward"]


@dataclass(frozen=True)
class ErrorKind:
    """Error lines of one kind. ``first`` and ``last`` as the log has them; ``example`` is the newest, cut."""

    name: str
    lines: int
    first: str
    last: str
    example: str


@dataclass(frozen=True)
class Assessment:
    """What is known of a failed deployment. ``counts`` by version; ``destination`` is '' where there is none."""

    version: str
    deployed: datetime
    at: datetime
    counts: dict[str, Counts]
    kinds: tuple[ErrorKind, ...]
    destination: str
    serving: str
    recommended: Choice
    reasons: tuple[str, ...]
    troubles: tuple[str, ...]

    def _repr_markdown_(self) -> str:
        rows = [
            f"| `{_cell(k.name)}` | {k.lines:,} | {k.first} | {k.last} | `{_cell(k.example)}` |" for k in self.kinds
        ]
        table = ["| error lines | how many | first | last | newest |", "|---|---|---|---|---|", *rows]
        shares = [f"v{version}: {_share(counts)}" for version, counts in self.counts.items()]
        return "\n".join(
            (
                f"**v{self.version}**, deployed {_minutes(self.at - self.deployed)} ago. {self.serving}",
                "",
                *(f"- {_cell(each)}" for each in (*shares, *self.troubles)),
                "",
                *(table if rows else ["No error line of this version was logged."]),
                "",
                f"**Recommended: {self.recommended}.**",
                "",
                *(f"- {_cell(each)}" for each in self.reasons),
            )
        )

    def __str__(self) -> str:
        return f"{self.recommended}: {' '.join(self.reasons)}"


@dataclass(frozen=True)
class FreezePlan(Plan):
    """A freeze of the environment, unless one of this incident stands."""

    reason: str
    hours: float
    standing: bool


@dataclass(frozen=True)
class DecisionPlan(Plan):
    """What was decided; ``back`` is the rollback, or None to fix forward."""

    version: str
    back: RollbackPlan | None
    review: datetime


# Stop


def plan_freeze(target: Target, reason: str, hours: float = 4) -> FreezePlan:
    """Halt every deployment of the environment. AWS: ssm:GetParametersByPath, reads only."""
    standing = any(each.reason == reason.strip() for each in freezes.active_freezes(target))
    return FreezePlan(
        title=f"Freeze deployments to {target.environment}" if not standing else "Frozen already",
        now=tuple(f"frozen: {each}" for each in freezes.active_freezes(target)) or ("nothing is frozen",),
        then=(f"no deployment begins and no rollout goes on for {hours:g} hours; a rollback does",),
        calls=() if standing else (f"ssm:PutParameter a freeze: {reason}",),
        undo=("lift it when the fix is ready; it ends by itself",),
        reasons=(),
        covers={"action": "freeze", "environment": target.environment, "reason": reason.strip(), "hours": hours},
        approvals=1,  # stopping is the safe direction
        demand_hash=False,
        reason=reason.strip(),
        hours=hours,
        standing=standing,
    )


def freeze_deployments(target: Target, plan: FreezePlan, approval: Approval) -> str:
    """Freeze; what came of it. SSM being down is told and holds nothing up: the traffic matters more.

    AWS: ssm:PutParameter, writes.

    Raises:
        Refused: ``approval-void``.
        InvalidInput: ``freeze-incomplete``.
    """
    approval.must_cover(plan)
    if plan.standing or target.dry_run:
        return "Dry run: nothing was frozen." if target.dry_run else "Deployments are frozen already."
    try:
        created = freezes.create_freeze(target, plan.reason, ", ".join(approval.by), timedelta(hours=plan.hours))
        return f"Frozen: {created}."
    except AwsFailed as failure:
        return f"NOT frozen: {failure.what} Tell those who deploy, and go on."


# Assess


def assess_deployment(target: Target, watch: Watch = tables.ignore_progress) -> Assessment:
    """The newest deployment behind the alias, its errors, and what the thirty-minute rule recommends.

    AWS: lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData, logs:StartQuery, GetQueryResults, reads.

    Raises:
        InvalidInput: ``alias-missing``, ``version-missing``.
    """
    alias = rollback.require_alias(target)
    version, now = suspect_version(alias), target.clock.now()
    deployed = _deployed(target, alias, version)
    since = max(deployed, now - LONGEST_WINDOW)
    destination, obstacle = _destination(target, alias)
    doubts = rollback.check_destination(target, alias, destination) if destination else []
    counts, unread = _counts(target, alias, version, destination, since)
    kinds, unlogged = _kinds(target, version, since, watch)
    recommended, reasons = recommend_decision(now - deployed, destination, obstacle, doubts)
    taken = destination == alias.primary and alias.additional is None
    serving = f"{target.resource} serves {alias}" + ("; its traffic was taken back already." if taken else ".")
    troubles = tuple(filter(None, (unread, unlogged)))
    lines = {kind.name: kind.lines for kind in kinds}
    target.journal.append("assessed", version=version, recommended=recommended, reasons=reasons, error_lines=lines)
    return Assessment(version, deployed, now, counts, kinds, destination, serving, recommended, reasons, troubles)


def suspect_version(alias: Alias) -> str:
    """The version that was deployed last: the one with a share, the one that a rollout brought, or what serves."""
    record = alias.rollout
    return alias.canary or alias.additional or (record.new_version if record is not None else alias.primary)


def recommend_decision(
    age: timedelta, destination: str, obstacle: str, doubts: Iterable[str]
) -> tuple[Choice, tuple[str, ...]]:
    """The thirty-minute rule, with its reasons. Pure.

    Args:
        age: how long ago the version was deployed.
        destination: the version that a rollback would return to; '' where there is none.
        obstacle: why there is none.
        doubts: what speaks against the destination, without forbidding it.
    """
    told, doubts = f"It was deployed {_minutes(age)} ago", tuple(doubts)
    if not destination:
        return "fix forward", (f"There is nothing to roll back to: {obstacle}", f"{told}.")
    back = f"v{destination} can take the traffic in one write"
    if age < RULE:
        return "roll back", (f"{told}, less than {_minutes(RULE)}: roll back.", f"{back}.", *doubts)
    return "fix forward", (
        f"{told}, more than {_minutes(RULE)}: weigh fixing forward. People have used it, and may have data that "
        f"v{destination} does not know.",
        f"If it hurts people now, roll back all the same: {back}.",
        *doubts,
    )


def kind_of(message: str) -> str:
    """The kind of an error line: the error's name, or the line without what differs from one request to the next."""
    try:
        document = json.loads(message)
        message = str(document.get("errorType") or document.get("message") or message)
    except (ValueError, AttributeError):
        pass
    if named := NAMED.search(message):
        return named[1]
    for known in ("Task timed out", "Runtime exited"):
        if known in message:
            return known
    return " ".join(VARYING.sub("…", message.splitlines()[0] if message.strip() else "an empty line").split())[:80]


def group_errors(lines: Iterable[tuple[str, str]]) -> tuple[ErrorKind, ...]:
    """Error lines (time, message), newest first, by kind; the most frequent kind first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for at, message in lines:
        found.setdefault(kind_of(message), []).append((at, message))
    kinds = (
        ErrorKind(name, len(own), own[-1][0][:19], own[0][0][:19], " ".join(own[0][1].split())[:SHOWN])
        for name, own in found.items()
    )
    return tuple(sorted(kinds, key=lambda kind: (-kind.lines, kind.name)))


def _kinds(target: Target, version: str, since: datetime, watch: Watch) -> tuple[tuple[ErrorKind, ...], str]:
    query = ERROR_LINES.replace("{version}", version)
    try:
        rows = metrics.query_log(target, query, since, target.clock.now(), watch)
        kinds = group_errors((row["@timestamp"], row["@message"]) for row in rows)
    except AwsFailed as failure:
        return (), f"the log cannot be read: {failure.what}"
    except MALFORMED as error:
        return (), f"the log's answer cannot be read: {type(error).__name__}: {error}"
    return kinds, f"only the newest {LINES:,} error lines are counted" if len(rows) == LINES else ""


def _counts(
    target: Target, alias: Alias, version: str, destination: str, since: datetime
) -> tuple[dict[str, Counts], str]:
    """Requests and failures since the deployment, of the version and of what it is compared with."""
    versions = tuple(dict.fromkeys(filter(None, (version, destination, alias.primary))))
    until = target.clock.now() - timedelta(seconds=target.settings.health.late_data_s)
    begin, end = (moment.replace(second=0, microsecond=0) for moment in (since, until))
    reading = metrics.read_minutes(target, versions, lambda _: alias.primary, begin, end)
    return {each: total_counts(row.counts[each] for row in reading.rows) for each in versions}, (
        f"metrics cannot be read: {reading.trouble}" if reading.trouble else ""
    )


def total_counts(counts: Iterable[Counts]) -> Counts:
    """Counts of several minutes as one."""
    found = list(counts)
    return Counts(**{name: sum(getattr(each, name) for each in found) for name in ("requests", "errors", "slow")})


def _deployed(target: Target, alias: Alias, version: str) -> datetime:
    """When the version got its first traffic, by the alias's record; else when it was published."""
    record = alias.rollout
    if record is not None and record.new_version == version and record.stage not in ("rolled-back", "held"):
        return datetime.fromisoformat(record.since) - timedelta(seconds=max(record.stage_ages_s, default=0))
    published: str = aliases.get_configuration(target, version)["LastModified"]
    return datetime.strptime(published, "%Y-%m-%dT%H:%M:%S.%f%z")


def _destination(target: Target, alias: Alias) -> tuple[str, str]:
    """Where a rollback would go, or '' and why it cannot."""
    try:
        return rollback.plan_rollback(target).destination, ""
    except BuddyError as error:
        return "", error.what


# Decide and execute


def plan_decision(target: Target, assessment: Assessment, decision: str, review: str = "") -> DecisionPlan:
    """What was decided, as a plan. Without a decision there is none: hold.

    Args:
        decision: 'roll back' or 'fix forward'.
        review: when the incident is reviewed, ISO 8601, within 24 hours; empty: at their end.

    AWS: lambda:GetAlias, GetFunctionConfiguration, reads only.

    Raises:
        Refused: ``decision-missing``; and what a rollback's plan refuses.
        InvalidInput: ``invalid-parameters``.
    """
    due = parse_review_date(target, review)
    choose = f"Give decision: 'roll back' or 'fix forward' (recommended: {assessment.recommended})."
    hold = f"Hold: {assessment.serving} Deployments stay frozen."
    if not decision:
        what = f"Nobody has decided what to do about v{assessment.version}."
        raise Refused("decision-missing", what, now=hold, next=choose)
    if decision not in get_args(Choice):
        raise InvalidInput("invalid-parameters", f"decision is {decision!r}.", now=hold, next=choose)
    back = rollback.plan_rollback(target) if decision == "roll back" else None
    forward = f"v{assessment.version} keeps what traffic it has until a fix ships by strategies/canary"
    against = decision != assessment.recommended
    return DecisionPlan(
        title=back.title if back else f"Fix v{assessment.version} forward",
        now=back.now if back else (assessment.serving,),
        then=(*(back.then if back else (forward,)), f"the incident is reviewed by {iso_utc(due)}"),
        calls=back.calls if back else (),
        undo=back.undo if back else ("decide again: run this runbook again",),
        reasons=(*assessment.reasons, *(("this is not what the rule recommends: a person decides",) * against)),
        covers={
            **(back.covers if back else {"environment": target.environment, "function": target.settings.function}),
            "action": "rollback" if back else "fix forward",
            "version": assessment.version,
        },
        approvals=1,
        demand_hash=False,
        version=assessment.version,
        back=back,
        review=due,
    )


def run_decision(target: Target, plan: DecisionPlan, approval: Approval, incident: str = "") -> tuple[str, ...]:
    """Move the traffic if that was decided, then keep the review's date; what was done, a sentence each.

    AWS: lambda:UpdateAlias, scheduler:DeleteSchedule, ssm:PutParameter (write).

    Raises:
        Refused: ``approval-void``, and what the rollback raises.
    """
    approval.must_cover(plan)
    target.journal.append("decided", decision="roll back" if plan.back else "fix forward", by=approval.by)
    told = [f"v{plan.version} keeps what it has: a fix ships by strategies/canary once the freeze is lifted."]
    if plan.back is not None:
        covering = Approval(plan.back.hash, approval.by, approval.at, approval.principal)
        told = str(rollback.run_rollback(target, plan.back, covering)).splitlines()
    return (*told, store_review_date(target, plan.review, plan.version, approval.by, incident))


async def wait_for_recovery(
    target: Target, plan: DecisionPlan, minutes: int = 2, watch: Watch = tables.ignore_progress
) -> str:
    """Wait for whole minutes after the decision, and say whether requests fail as little as they should.

    AWS: cloudwatch:GetMetricData, lambda:GetAlias, reads only.
    """
    alias = rollback.require_alias(target)
    # An alias takes up to a minute to route everywhere as it says.
    since = target.clock.now().replace(second=0, microsecond=0) + 2 * MINUTE
    until = since + minutes * MINUTE
    complete = until + timedelta(seconds=target.settings.health.late_data_s + 30)
    while not target.dry_run and (left := complete - target.clock.now()) > timedelta():
        watch(f"waiting for {since:%H:%M} to {until:%H:%M} UTC to be complete: {left / MINUTE:.1f} minutes to go")
        await target.clock.wait(target.clock.now() + min(left, MINUTE))
    serving = [each for each in (alias.primary, alias.additional) if each]
    reading = metrics.read_minutes(target, serving, lambda _: alias.primary, since, until)
    counted = {each: total_counts(row.counts[each] for row in reading.rows if each in row.counts) for each in serving}
    asked = [each for each in serving if counted[each].requests]
    if reading.trouble or not asked:
        return f"Whether it helped is unknown: {reading.trouble or 'nobody sent a request'}."
    worst = max(asked, key=lambda each: counted[each].errors / counted[each].requests)
    seen, bound = counted[worst], target.settings.health.error_rate
    verdict = "Recovered" if seen.errors <= bound * seen.requests else "NOT recovered"
    target.journal.append("recovery", says=verdict, requests=seen.requests, failed=seen.errors)
    return f"{verdict}: v{worst}: {_share(seen)} in {minutes} minutes; at most {100 * bound:g} % may."


def parse_review_date(target: Target, text: str) -> datetime:
    """When an incident is reviewed: as a person says, within 24 hours; at their end if nobody does.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    now = target.clock.now()
    try:
        due = datetime.fromisoformat(text) if text else now + REVIEW_WITHIN
        due = due if due.tzinfo else due.replace(tzinfo=UTC)
        if not now < due <= now + REVIEW_WITHIN:
            raise ValueError("it must lie within the next 24 hours")
    except (ValueError, TypeError) as error:
        raise InvalidInput(
            "invalid-parameters",
            f"review: {text!r}: {error}.",
            now="Nothing was changed by this.",
            next=f"For example {iso_utc(now + REVIEW_WITHIN / 2)}; empty: in 24 hours.",
        ) from None
    return due


def store_review_date(target: Target, review: datetime, version: str, by: Iterable[str], incident: str) -> str:
    """Write down when the incident is reviewed; what fails is told: it stops no recovery. AWS: ssm:PutParameter."""
    due, people = iso_utc(review), tuple(by)
    target.journal.append("review-due", due=due, by=people, version=version, incident=incident)
    if target.dry_run:
        return f"Dry run: the review by {due} was not noted."
    open_ = ChecklistItem(
        "reviewed", "no", f"due by {due}" + (f", incident {incident}" if incident else ""), ", ".join(people)
    )
    try:
        record = ChecklistResult("review", f"v{version}", target.clock.now(), target.run, target.principal, (open_,))
        checklist_store.write_result(target, record)
    except AwsFailed as failure:
        return f"The review by {due} could not be noted: {failure.what}"
    return f"To be reviewed by {due}: review/incident_review."


def _share(counts: Counts) -> str:
    if not counts.requests:
        return "no requests"
    return f"{counts.errors:,} of {counts.requests:,} requests failed ({100 * counts.errors / counts.requests:.2g} %)"


def _minutes(age: timedelta) -> str:
    minutes = round(age / MINUTE)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _cell(text: str) -> str:
    """A text from a log, harmless in a Markdown table."""
    return escape_markdown(text).replace("`", "'")
