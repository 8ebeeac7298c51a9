"""The readiness of a fleet: would a rollback of each target work now? One report, the worst first.

The findings are those of each target's own audit (``checks.readiness``). What is the same for all functions of an
account and region is read once for all of them. Writes nothing; the smoke tests invoke each rollback target.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from buddy_ops.aws import aliases, freezes
from buddy_ops.aws._parameter_names import RegionParameters
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks import readiness, status
from buddy_ops.checks.findings import CheckContext, Finding, State
from buddy_ops.checks.readiness import Audit
from buddy_ops.core import text
from buddy_ops.core.errors import ActionNeeded, BuddyError, Unreachable
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.roles import Role
from buddy_ops.fleet.status import SEVERITY, table_lines
from buddy_ops.fleet.targets import READERS, Member, Place, attempt, attempt_each, clock_of
from buddy_ops.health import alarms
from buddy_ops.health.alarms import Alarm
from buddy_ops.runs import archive
from buddy_ops.runs.manifest import ManifestEntry

COLUMNS = ("RESULT", "TARGET", "ALIAS", "FOUND")
WORDS = {State.PROBLEM: "NOT READY", State.UNKNOWN: "UNKNOWN"}


@dataclass(frozen=True)
class TargetAudit:
    """The audit of one target."""

    member: Member
    where: str
    audit: Audit

    @property
    def state(self) -> State:
        """PROBLEM, else UNKNOWN, else OK."""
        return findings_.overall_state(self.audit.findings)

    @property
    def word(self) -> str:
        """NOT READY, UNKNOWN or READY."""
        return WORDS.get(self.state, "READY")

    @property
    def found(self) -> tuple[Finding, ...]:
        """What is not OK, the worst first."""
        worse = [finding for finding in self.audit.findings if finding.state not in (State.OK, State.INFO)]
        return tuple(sorted(worse, key=lambda finding: SEVERITY[finding.state]))

    @property
    def summary(self) -> str:
        """The names of the checks that decide, in a line."""
        deciding = self.state if self.state is not State.OK else State.WARNING
        names = findings_.names_in_state(self.audit.findings, deciding)
        return f"{deciding.label}: {names}" if names else ""

    def to_json(self) -> dict[str, object]:
        """The audit as JSON values."""
        return {
            "name": self.member.name,
            "labels": dict(self.member.declared.labels),
            "result": self.word,
            "state": self.state.value,
            "verdict": str(self.audit),
            "findings": [
                {"check": each.check, "state": each.state.value, "message": each.message, "remedy": each.remedy}
                for each in self.audit.findings
            ],
        }


@dataclass(frozen=True)
class FleetAudit:
    """All targets that were asked for, the worst first."""

    at: datetime
    targets: tuple[TargetAudit, ...]

    @property
    def exit_code(self) -> int:
        """6 where any target is not ready, 1 where any is unknown, else 0."""
        states = {target.state for target in self.targets}
        # An unknown target does not hide one that is not ready: 6 comes before 1.
        worst = next((state for state in (State.PROBLEM, State.UNKNOWN) if state in states), State.OK)
        return status.EXIT_CODES.get(worst, 0)

    @property
    def summary(self) -> str:
        """How many targets have which result: '12 targets: 1 NOT READY, 11 READY'."""
        words = (target.word for target in self.targets)
        return f"{text.count(len(self.targets), 'target')}: {text.tally(words)}"

    def lines(self) -> list[tuple[str, State]]:
        """The targets as a table of text, a line each, with the state of each."""
        rows = [(each.word, each.member.name, each.where, each.summary) for each in self.targets]
        return table_lines(COLUMNS, rows, [each.state for each in self.targets])

    def to_json(self) -> dict[str, object]:
        """The whole as JSON values."""
        return {
            "at": iso_utc(self.at),
            "exit_code": self.exit_code,
            "summary": self.summary,
            "targets": [target.to_json() for target in self.targets],
        }


@dataclass(frozen=True)
class _Shared:
    """What was read once for all targets of a place; an error stands for what could not be."""

    alarms: tuple[Alarm, ...] | BuddyError
    parameters: RegionParameters | BuddyError


def audit_fleet(places: Sequence[Place], role: Role = "auditor", watch: Progress = no_progress) -> FleetAudit:
    """Audit all targets. One that cannot be read is unknown, and stops no other.

    Args:
        role: whose permissions the caller should have.

    AWS: as ``readiness.run_audit``; once for each account and region: sts:GetCallerIdentity, cloudwatch:DescribeAlarms,
    ssm:GetParametersByPath, and once for each that is named: iam:GetRole, sns:ListSubscriptionsByTopic,
    s3:GetBucketObjectLockConfiguration, kms:GetPublicKey. Runs the skills' code.
    """
    clock = clock_of(places)
    found: list[TargetAudit] = []
    total = sum(len(place.members) for place in places)
    entries = _Archives()
    with ThreadPoolExecutor(READERS) as pool:
        # One place after the other: within one, ``READERS`` targets are audited at once already.
        for place in places:
            for audited in _audit_place(place, role, entries, pool):
                found.append(audited)
                watch(f"{place.name}: {len(found)} of {text.count(total, 'target')} audited")
            if place.reader is not None:
                # Otherwise the sandbox's time would wait for this reader while other places are audited.
                place.reader.close()
    return FleetAudit(clock.now(), tuple(sorted(found, key=_rank)))


def raise_for_audit(found: FleetAudit) -> None:
    """Return if every target is ready.

    Raises:
        ActionNeeded: ``fleet-not-ready``.
        BuddyError: ``fleet-readiness-unknown``.
    """
    title = f"{found.summary}."
    next_step = "Each row of the table has the next steps. Begin with the first."
    not_ready = _entries(found, State.PROBLEM)
    unknown = _entries(found, State.UNKNOWN)
    findings_.raise_listing(ActionNeeded, "fleet-not-ready", title=title, entries=not_ready, next_step=next_step)
    findings_.raise_listing(BuddyError, "fleet-readiness-unknown", title=title, entries=unknown, next_step=next_step)


def _entries(found: FleetAudit, state: State) -> list[str]:
    """The targets in this state, a line each."""
    return [f"{target.member.name}: {target.audit}" for target in found.targets if target.state is state]


def _rank(target: TargetAudit) -> tuple[int, int, str]:
    """The worst first: by state, then by the number of problems."""
    return SEVERITY[target.state], -len(target.audit.problems), target.member.name


class _Archives:
    """The archived runs, read once for each archive."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ManifestEntry, ...] | BuddyError] = {}

    def of(self, member: Member) -> tuple[ManifestEntry, ...] | BuddyError:
        """Those of a target's archive, or why they could not be read."""
        where = member.settings.archive.where
        # Most targets share one archive, whose listing in S3 takes a call for each page. An error is kept as well.
        if where not in self._known:
            read: Callable[[], tuple[ManifestEntry, ...]] = partial(_list_entries, where, member.name)
            self._known[where] = attempt(read)
        return self._known[where]


def _list_entries(where: str, environment: str) -> tuple[ManifestEntry, ...]:
    return archive.list_entries(archive.open_store(where, environment))


def _audit_place(place: Place, role: Role, archives: _Archives, pool: ThreadPoolExecutor) -> Iterator[TargetAudit]:
    if place.reader is None:
        assert place.trouble is not None
        yield from (_unreadable(member, place.trouble) for member in place.members)
        return
    # Before the targets are made: each takes the answers of the session as it is then.
    place.reader.share_answers()
    targets = [place.target(member) for member in place.members]
    # Without an answer to the first, each check would wait for its own time-out.
    read = attempt_each(place, place.members[:1], lambda member: aliases.read_alias(place.target(member)), pool)
    first = read[place.members[0].name]
    if isinstance(first, Unreachable):
        yield from (_unreadable(member, first) for member in place.members)
        return
    shared = _Shared(
        alarms=attempt(partial(alarms.list_alarms, place.reader)),
        parameters=attempt(partial(RegionParameters, place.reader)),
    )
    contexts = [
        _context(target, role, shared, archives.of(member))
        for member, target in zip(place.members, targets, strict=True)
    ]
    audits = pool.map(readiness.audit_context, contexts)
    for member, target, audit in zip(place.members, targets, audits, strict=True):
        yield TargetAudit(member, f"{target.resource}, {target.region}", audit)


def _unreadable(member: Member, trouble: BuddyError) -> TargetAudit:
    settings = member.settings
    where = ", ".join(filter(None, (f"{settings.function}:{settings.alias}", settings.aws.region)))
    return TargetAudit(member, where, Audit((status.unreadable_alias(trouble),)))


def _context(
    target: Target, role: Role, shared: _Shared, archived: tuple[ManifestEntry, ...] | BuddyError
) -> CheckContext:
    """What the checks of a target read, with what was read for all of them.

    What could not be read for all is read by the target's own checks, which then say why it cannot be.
    """
    context = CheckContext(target, role)
    if isinstance(shared.alarms, tuple):
        context.alarms = alarms.own_alarms(target, shared.alarms)
    if isinstance(shared.parameters, RegionParameters):
        stored = shared.parameters.of(target, freezes.PART)
        context.freezes = freezes.select_active(target, stored)
        context.expired_freezes = freezes.select_expired(target, stored)
    if isinstance(archived, tuple):
        context.archived = archived
    return context
