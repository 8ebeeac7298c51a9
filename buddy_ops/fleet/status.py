"""The status of a fleet: one line for each target, the worst first, in few calls to AWS.

A short form of each target's own status: what the alias serves, its rates as a whole, alarms, freezes and isolations.
What explains them takes more calls, and is in the target's own status, which every line names. Writes nothing. What
cannot be read is UNKNOWN, never OK.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from buddy_ops.aws import aliases, freezes, isolation
from buddy_ops.aws._parameter_names import RegionParameters
from buddy_ops.aws.aliases import Alias
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST
from buddy_ops.checks import findings as findings_
from buddy_ops.checks import result_words, status
from buddy_ops.checks.findings import Check, CheckContext, Finding, State, ok, run_checks
from buddy_ops.checks.next_steps import ALARMS, CORRUPTION, GUIDE, MONITOR, ROLLBACK, NextStep, check_again
from buddy_ops.checks.rollouts import rollout_state
from buddy_ops.checks.status import StatusReport, Subject
from buddy_ops.core import text
from buddy_ops.core.errors import AccessDenied, ActionNeeded, BuddyError, Unreachable
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.fleet import traffic
from buddy_ops.fleet.last_audits import read_last_audits
from buddy_ops.fleet.targets import READERS, Member, Place, attempt, attempt_each, clock_of
from buddy_ops.fleet.traffic import AliasTraffic
from buddy_ops.health import alarms
from buddy_ops.health.alarms import Alarm
from buddy_ops.health.serving import name_version

if TYPE_CHECKING:
    from types_boto3_ssm.type_defs import ParameterTypeDef

T = TypeVar("T")

PLACES_AT_ONCE = 4
"""So many regions and accounts are read at once: each has quotas of its own."""

SEVERITY = {state: rank for rank, state in enumerate(State)}

COLUMNS = ("RESULT", "TARGET", "ALIAS", "SERVES", "ERRORS", "P99", "PER MIN")

MORE = "Its own status explains this:"

RUNBOOKS = {
    result_words.ISOLATED: CORRUPTION,
    result_words.SPLIT_UNKNOWN: ROLLBACK,
    result_words.ERRORS_HIGH: ROLLBACK,
    result_words.LATENCY_HIGH: ROLLBACK,
    result_words.STALLED: ROLLBACK,
    result_words.THROTTLED: MONITOR,
    result_words.ALARM: MONITOR,
    result_words.ALARMS_BLIND: ALARMS,
}
"""The runbook to open for a result word, once the target's own status was read. Its plan is approved as ever."""


@dataclass(frozen=True)
class TargetStatus:
    """One target of the fleet, in short.

    Attributes:
        account: the AWS account's number; empty where the caller's is unknown.
        deployed: when its version began to serve, where the deployment record says it.
        traffic: the latest hour; None where it could not be read.
        readiness: result word and time of its last archived audit; empty: none is archived.
    """

    member: Member
    report: StatusReport
    account: str
    deployed: datetime | None
    traffic: AliasTraffic | None
    readiness: str = ""

    @property
    def state(self) -> State:
        """That of the report, or WARNING where nothing is worse than that."""
        # A single status counts a warning as OK. In a table it has its own colour, and is sorted above what is OK.
        if self.report.state is State.OK and findings_.in_state(self.report.findings, State.WARNING):
            return State.WARNING
        return self.report.state

    @property
    def recent(self) -> AliasTraffic | None:
        """The minutes that the rates are of."""
        return self.traffic.since(self.traffic.until - traffic.RECENT) if self.traffic is not None else None

    @property
    def subject(self) -> Subject:
        """What the report is of."""
        assert self.report.subject is not None
        return self.report.subject

    @property
    def versions(self) -> str:
        """The versions that serve, with their shares where there are two: 'v7', 'v7 90 %, v8 10 %'."""
        shares = self.subject.versions
        if len(shares) == 1:
            return name_version(*shares)
        return ", ".join(f"{name_version(version)} {text.percent(share)}" for version, share in shares.items())

    @property
    def where(self) -> str:
        """The alias, its region, and its account where that is known."""
        subject = self.subject
        return ", ".join(filter(None, (f"{subject.function}:{subject.alias}", subject.region, self.account)))

    @property
    def figures(self) -> tuple[str, str, str]:
        """Error rate, p99 latency and requests per minute, in words; empty where there are none."""
        recent = self.recent
        if recent is None or recent.error_rate is None:
            return "", "", ""
        p99 = text.duration(recent.p99_ms / 1000) if recent.p99_ms is not None else ""
        return text.percent(recent.error_rate), p99, text.figure(recent.requests / len(recent.minutes))

    def to_json(self) -> dict[str, object]:
        """The target as JSON values: its report's, its name and labels, and its traffic by minute."""
        hour = self.traffic.minutes if self.traffic is not None else ()
        recent = self.recent
        return {
            "name": self.member.name,
            "labels": dict(self.member.declared.labels),
            "account": self.account,
            **self.report.to_json(),
            "deployed": iso_utc(self.deployed) if self.deployed is not None else None,
            "error_rate": recent.error_rate if recent is not None else None,
            "p99_ms": recent.p99_ms if recent is not None else None,
            "requests": [minute.requests for minute in hour],
            "readiness": self.readiness,
        }


@dataclass(frozen=True)
class FleetStatus:
    """All targets that were asked for, the worst first."""

    at: datetime
    targets: tuple[TargetStatus, ...]

    @property
    def state(self) -> State:
        """PROBLEM where any target has one, else UNKNOWN where any is unknown, else OK."""
        states = {target.report.state for target in self.targets}
        return next((state for state in (State.PROBLEM, State.UNKNOWN) if state in states), State.OK)

    @property
    def exit_code(self) -> int:
        """As of a single status: 6 where action is needed, 1 for unknown, else 0."""
        return status.EXIT_CODES.get(self.state, result_words.FINE)

    @property
    def summary(self) -> str:
        """How many targets have which result word: '12 targets: 1 ERROR RATE HIGH, 11 OK'."""
        words = (target.report.word for target in self.targets)
        return f"{text.count(len(self.targets), 'target')}: {text.tally(words)}"

    def lines(self) -> list[tuple[str, State]]:
        """The targets as a table of text, a line each, with the state of each."""
        rows = [(each.report.word, each.member.name, each.where, each.versions, *each.figures) for each in self.targets]
        return table_lines(COLUMNS, rows, [each.state for each in self.targets])

    def to_json(self) -> dict[str, object]:
        """The whole as JSON values."""
        return {
            "at": iso_utc(self.at),
            "state": self.state.value,
            "exit_code": self.exit_code,
            "summary": self.summary,
            "targets": [target.to_json() for target in self.targets],
        }


def table_lines(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], states: Sequence[State]
) -> list[tuple[str, State]]:
    """A table of text, a line for each row, with the row's state."""
    return list(zip(text.text_table(head, rows), (State.OK, *states), strict=True))


@dataclass(frozen=True)
class _Shared:
    """What was read once for all targets of a place; an error stands for what could not be."""

    account: str
    alarms: tuple[Alarm, ...] | BuddyError
    parameters: RegionParameters | BuddyError
    traffic: dict[str, AliasTraffic | BuddyError]


def read_fleet(places: Sequence[Place], watch: Progress = no_progress) -> FleetStatus:
    """Read all targets, several regions and accounts side by side. One that cannot be reached delays no other.

    AWS: sts:GetCallerIdentity, cloudwatch:DescribeAlarms, ssm:GetParametersByPath (once for each account and region),
    cloudwatch:GetMetricData (once for about 100 targets), lambda:GetAlias (each target); where something is to be
    explained as ``checks.rollouts`` and ``checks.limits``. Reads only.
    """
    found: list[TargetStatus] = []
    clock = clock_of(places)
    total = sum(len(place.members) for place in places)
    # Two pools, since a place waits for its targets: in one pool the places could take all threads, and wait forever.
    with ThreadPoolExecutor(PLACES_AT_ONCE) as several, ThreadPoolExecutor(READERS) as pool:
        reading = [several.submit(_read_place, place, pool, clock.now()) for place in places]
        for place in as_completed(reading):
            found += place.result()
            watch(f"reading: {len(found)} of {text.count(total, 'target')} done")
    # Once for all: it reads the local archive, and nothing of AWS.
    audits = read_last_audits()
    known = (replace(each, readiness=audits.get(each.member.name, "")) for each in found)
    return FleetStatus(clock.now(), tuple(sorted(known, key=_rank)))


def raise_for_status(fleet: FleetStatus) -> None:
    """Return if no target needs action, and every check was made.

    Raises:
        ActionNeeded: ``fleet-needs-action``.
        BuddyError: ``fleet-unknown``.
    """
    title = f"{fleet.summary}."
    problems = _entries(fleet, State.PROBLEM)
    unknowns = _entries(fleet, State.UNKNOWN)
    next_step = "Begin with the first: its row in the table has the command and the runbook."
    findings_.raise_listing(ActionNeeded, "fleet-needs-action", title=title, entries=problems, next_step=next_step)
    findings_.raise_listing(BuddyError, "fleet-unknown", title=title, entries=unknowns, next_step=next_step)


def _entries(fleet: FleetStatus, state: State) -> list[str]:
    """The targets in this state, a line each."""
    return [
        f"{target.member.name}: {target.report.verdict}" for target in fleet.targets if target.report.state is state
    ]


def _rank(target: TargetStatus) -> tuple[int, int, float, str]:
    """The worst first: by state and result word, then by failed requests."""
    # A word that has no rank comes after all that have one.
    last = len(result_words.PRECEDENCE)
    failed = target.recent.errors if target.recent is not None else 0
    word = result_words.PRECEDENCE.get(target.report.word, last)
    return SEVERITY[target.state], word, -failed, target.member.name


def _read_place(place: Place, pool: ThreadPoolExecutor, now: datetime) -> list[TargetStatus]:
    if place.reader is None:
        assert place.trouble is not None
        return [_without_session(member, place.trouble, now) for member in place.members]
    targets = [place.target(member) for member in place.members]
    found = attempt_each(place, place.members, lambda member: aliases.read_alias(place.target(member)), pool)
    first = found[place.members[0].name]
    # The alarms, parameters and metrics of that place would each wait for their own time-out, and say the same.
    if isinstance(first, Unreachable):
        shared = _Shared("", first, first, {target.environment: first for target in targets})
        return [_status(*each, shared, first) for each in zip(place.members, targets, strict=True)]
    reader = place.reader
    # Each of the four may be denied or fail alone: the others are shown all the same.
    account = attempt(lambda: reader.account)
    shared = _Shared(
        account=account if isinstance(account, str) else "",
        alarms=attempt(partial(alarms.list_alarms, reader)),
        parameters=attempt(partial(RegionParameters, reader)),
        traffic=traffic.read_traffic(reader, targets),
    )
    return [
        _status(member, target, shared, found[member.name])
        for member, target in zip(place.members, targets, strict=True)
    ]


def _without_session(member: Member, trouble: BuddyError, now: datetime) -> TargetStatus:
    settings = member.settings
    subject = Subject(member.name, settings.function, alias=settings.alias, region=settings.aws.region or "", at=now)
    again = NextStep(MORE, GUIDE, {"environment": member.name})
    report = StatusReport(trouble.what, (status.unreadable_alias(trouble),), (again,), subject)
    return TargetStatus(member, report, account="", deployed=None, traffic=None)


def _status(member: Member, target: Target, shared: _Shared, alias: Alias | BuddyError | None) -> TargetStatus:
    context = CheckContext(target)
    others = [
        Check("isolation", partial(_isolation, shared)),
        Check("alarms", partial(_alarms, shared)),
        Check("freeze", partial(_freeze, shared)),
    ]
    read = shared.traffic[target.environment]
    hour = read if isinstance(read, AliasTraffic) else None
    if isinstance(alias, BuddyError):
        findings = (status.unreadable_alias(alias), *run_checks(others, context))
        subject = status.status_subject(target, None)
        report = StatusReport(f"What is live is unknown: {alias.what}", findings, (check_again(target, MORE),), subject)
        return TargetStatus(member, report, account=shared.account, deployed=None, traffic=hour)
    context.alias = alias
    # Without an alias there are no requests to judge: ``rollout`` says that there is none.
    checks = [Check("rollout", _rollout)]
    if alias is not None:
        checks += traffic.traffic_checks(read)
    findings = tuple(run_checks([*checks, *others], context))
    subject = status.status_subject(target, alias)
    report = StatusReport(aliases.describe(target, alias), findings, (), subject)
    # In two steps, since the runbook is chosen by the report's own result word.
    report = replace(report, steps=_steps(target, report))
    record = alias.rollout if alias is not None else None
    deployed = text.parse_utc(record.since) if record is not None else None
    return TargetStatus(member, report, account=shared.account, deployed=deployed, traffic=hour)


def _steps(target: Target, report: StatusReport) -> tuple[NextStep, ...]:
    """Its own status, then the runbook that its result word is for."""
    first = check_again(target, MORE)
    if report.word not in RUNBOOKS:
        return (first,)
    return (first, NextStep("Then act:", RUNBOOKS[report.word], {"environment": target.environment}))


def _rollout(context: CheckContext) -> Finding:
    alias = context.alias
    if alias is None or alias.rollout is not None or alias.additional is not None or LATEST in alias.serving:
        return rollout_state(context)
    # Whether another tool moved it just now only its metrics by version, or its log, could tell.
    return ok(f"{alias}. Buddy Ops has not deployed it", version=alias.primary)


def _alarms(shared: _Shared, context: CheckContext) -> Finding:
    if isinstance(shared.alarms, BuddyError):
        raise shared.alarms
    context.alarms = alarms.own_alarms(context.target, shared.alarms)
    return status.ALARMS.run(context)


def _freeze(shared: _Shared, context: CheckContext) -> Finding:
    stored = _own_parameters(shared, context.target, freezes.PART)
    if stored is not None:
        # Given to the target's own check in place of its own call: one reading is for all of the region.
        context.freezes = freezes.select_active(context.target, stored)
    return status.FREEZE.run(context)


def _isolation(shared: _Shared, context: CheckContext) -> Finding:
    stored = _own_parameters(shared, context.target, isolation.MEMORY)
    if stored is not None:
        context.isolation = isolation.select_isolation(stored)
    return status.ISOLATION.run(context)


def _own_parameters(shared: _Shared, target: Target, part: str) -> "list[ParameterTypeDef] | None":
    """A target's own of the parameters that were read for all; None where the caller may read only each target's.

    Raises:
        BuddyError: they could not be read.
    """
    if isinstance(shared.parameters, AccessDenied):
        return None
    if isinstance(shared.parameters, BuddyError):
        raise shared.parameters
    return shared.parameters.of(target, part)
