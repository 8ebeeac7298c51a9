"""A rollback of many targets: the traffic of all of them first, in order of harm, then everything else.

Each target is rolled back as ``deployment.rollback`` does it for one, with a journal of its own. All of them are moved
from this process with threads: an alias is moved by one call, which takes less time than a process takes to start.
Targets of one place share its connections, and no place waits for another.
"""

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

from buddy_ops.aws import aliases, notifications
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks.findings import State
from buddy_ops.core import text
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.files import allow_open_files
from buddy_ops.core.fleet_file import SOURCE
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import NOBODY, Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import MINUTE, did_you_mean
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan, TrafficMove
from buddy_ops.fleet import traffic
from buddy_ops.fleet.status import table_lines
from buddy_ops.fleet.step import archive_rollback
from buddy_ops.fleet.targets import READERS, Member, Place, attempt, attempt_each, begin_rollback, once_each
from buddy_ops.runs.stores import MANIFEST

T = TypeVar("T")

FILES = 8
"""Open files of a target, at most: its journal, and its connections to AWS."""

RUNBOOK = "fleet/rollback"

NOW = timedelta(minutes=5)
"""What the failed requests per minute are of."""

FAILURES = ("requests", "errors")
"""The series that are read for it."""

# Errors of one target's plan that naming a version solves. In a fleet that takes the target's name as well.
NEEDS_A_VERSION = ("no-rollback-target", "which-is-stable", "version-missing", "version-unusable")

COLUMNS = ("RESULT", "TARGET", "ALIAS", "SERVES", "NEXT STEP")


@dataclass(frozen=True)
class PlannedRollback:
    """One target of the plan.

    Attributes:
        place: how it is reached: targets of one place share AWS's quotas.
        here: acts on it, with its own journal.
        failing: failed requests per minute; None: unknown.
    """

    name: str
    place: str
    here: Target
    plan: RollbackPlan
    failing: float | None

    @property
    def harm(self) -> tuple[bool, bool, float]:
        """Sorts the most failing targets first, then what is unknown, then those without a failure."""
        # False sorts before True. Unknown comes before zero: a target whose metrics are late may be the one that fails.
        return self.failing == 0, self.failing is None, -(self.failing or 0.0)

    def describe_move(self) -> dict[str, object]:
        """For the fleet's journal: the target's own is written after the traffic of all."""
        away_from = list(self.plan.away_from)
        return {"run": self.here.run, "folder": self.here.folder.name, "from": away_from, "to": self.plan.destination}

    @property
    def move(self) -> str:
        """From which versions it goes to which: 'pay-eu-west-1: v2 → v1'."""
        lost = text.join_words(f"v{version}" for version in self.plan.away_from) or f"v{self.plan.destination}"
        rate = "" if not self.failing else f", {text.figure(self.failing)} failed requests per minute"
        return f"{self.name}: {lost} → v{self.plan.destination}{rate}"


@dataclass(frozen=True, kw_only=True)
class FleetRollbackPlan(Plan):
    """One plan over all targets, in order of harm.

    Attributes:
        refused: why a target has no plan, by its name: those are not rolled back.
        members: all targets, by name.
    """

    targets: tuple[PlannedRollback, ...]
    refused: Mapping[str, BuddyError]
    members: Mapping[str, Member]


@dataclass(frozen=True)
class TargetResult:
    """How a target ended.

    Attributes:
        moved: its traffic; None: it was not moved.
        verified: whether the alias was read again, and serves the version alone.
        trouble: what failed; None: nothing.
    """

    name: str
    moved: TrafficMove | None = None
    trouble: BuddyError | None = None
    serves: str = ""
    verified: bool = False
    dry_run: bool = False

    @property
    def word(self) -> str:
        """The result word."""
        if self.trouble is not None:
            return self.trouble.result if self.moved is None else "NOT VERIFIED"
        if self.dry_run:
            return "DRY RUN"
        return "ROLLED BACK" if self.verified else "NOT VERIFIED"

    @property
    def progress(self) -> str:
        """Its name, and how the move of its traffic ended."""
        if self.trouble is not None:
            return f"{self.name}: {self.trouble.result}. {self.trouble.what}"
        if self.moved is None or self.dry_run:
            return f"{self.name}: nothing was written"
        verb = "already at" if self.moved.already else "moved to"
        return f"{self.name}: alias {verb} v{self.moved.alias.primary}"

    @property
    def next_step(self) -> str:
        """What to do about it; empty: nothing."""
        return self.trouble.next if self.trouble is not None else ""

    def to_json(self) -> dict[str, object]:
        """The result as JSON values."""
        return {
            "name": self.name,
            "result": self.word,
            "verified": self.verified,
            "serves": self.serves,
            "error": self.trouble.data() if self.trouble is not None else None,
        }


@dataclass(frozen=True)
class FleetRollback:
    """How all targets ended, those that were not rolled back first."""

    plan: FleetRollbackPlan
    results: tuple[TargetResult, ...]
    dry_run: bool

    @property
    def open(self) -> tuple[TargetResult, ...]:
        """The targets that are not known to be rolled back."""
        return tuple(each for each in self.results if not (each.verified or (self.dry_run and each.trouble is None)))

    @property
    def exit_code(self) -> int:
        """0 only if every alias is verified."""
        # Unlike a single rollback, whose refusal has a code of its
        # own: of many targets each may have failed differently.
        return 1 if self.open else 0

    @property
    def summary(self) -> str:
        """How many targets are rolled back: 'ROLLED BACK: 11 of 12 targets'."""
        if self.dry_run:
            return f"DRY RUN: nothing was written. {text.count(len(self.open), 'target')} cannot be rolled back"
        number = len(self.results) - len(self.open)
        word = "ROLLED BACK" if number else "NOT ROLLED BACK"
        return f"{word}: {number} of {text.count(len(self.results), 'target')}"

    def lines(self) -> list[tuple[str, State]]:
        """The targets as a table of text, a line each, with the state of each."""
        rows = [(each.word, each.name, self._resource(each.name), each.serves, each.next_step) for each in self.results]
        states = [State.OK if each not in self.open else State.PROBLEM for each in self.results]
        return table_lines(COLUMNS, rows, states)

    def _resource(self, name: str) -> str:
        settings = self.plan.members[name].settings
        return f"{settings.function}:{settings.alias}, {settings.aws.region or 'default region'}"

    def to_json(self) -> dict[str, object]:
        """The whole as JSON values."""
        return {
            "plan": self.plan.hash,
            "summary": self.summary,
            "exit_code": self.exit_code,
            "targets": [each.to_json() for each in self.results],
        }

    def _repr_html_(self) -> str:
        """The same as a table."""
        escape = text.escape_html
        rows = []
        for each in self.results:
            label = findings_.html_label(State.PROBLEM if each in self.open else State.OK, each.word)
            label = f'<span style="white-space:nowrap">{label}</span>'
            rows.append((label, *map(escape, (each.name, self._resource(each.name), each.serves, each.next_step))))
        return f"<p>{escape(self.summary)}</p>{findings_.html_table(rows, ('Result', *HEADS))}"

    def __repr__(self) -> str:
        return "\n".join((self.summary, *(line for line, _ in self.lines())))


HEADS = ("Target", "Alias", "Serves", "Next step")


def plan_rollbacks(
    places: Sequence[Place],
    names: Sequence[str] = (),
    to_version: Sequence[str] = (),
    watch: Progress = no_progress,
    *,
    dry_run: bool = False,
) -> FleetRollbackPlan:
    """What rolling back these targets would do: each by the rules of ``rollback.plan_rollback``.

    Args:
        names: only these targets; empty: all of the places.
        to_version: versions to return to, each as 'pay-eu-west-1=41'; without one the previous that is not marked bad.

    AWS: as ``plan_rollback``, for each target; cloudwatch:GetMetricData once for about 100 targets. Reads only.

    Raises:
        InvalidInput: ``fleet-selection``: there is no such target.
    """
    versions = dict(_named_version(each) for each in to_version)
    members = {member.name: member for place in places for member in place.members}
    _require_known((*names, *versions), members)
    chosen = {name: member for name, member in members.items() if name in names or not names}
    # A thousand targets may have a journal each. 256 are for everything else in this process.
    allow_open_files(FILES * len(chosen) + 256)
    # A thread for each place, which waits for pools of its own: a place that times out delays no other.
    with _garbage_kept(), ThreadPoolExecutor(max(1, len(places))) as pool:
        planned = pool.map(lambda place: _plan_place(place, chosen, versions, watch, dry_run=dry_run), places)
        found = {name: each for part in planned for name, each in part.items()}
    targets = [each for each in found.values() if isinstance(each, PlannedRollback)]
    refused = {name: error for name, error in found.items() if isinstance(error, BuddyError)}
    targets.sort(key=lambda each: (each.harm, each.name))
    return _plan(tuple(targets), refused, chosen)


def _named_version(given: str) -> tuple[str, str]:
    """A target's name and a version, from 'pay-eu-west-1=41'.

    Raises:
        InvalidInput: ``fleet-selection``.
    """
    name, equals, version = given.partition("=")
    if not equals or not version.isdecimal():
        raise InvalidInput(
            "fleet-selection",
            f"{given[:100]!r} names no target and version.",
            next=f"Give {parameter('to_version', ['NAME=VERSION'])}, for example pay-eu-west-1=41.",
        )
    return name, version


def _require_known(names: Iterable[str], members: Mapping[str, Member]) -> None:
    for name in names:
        if name not in members:
            raise InvalidInput(
                "fleet-selection",
                f"No target that was selected is called {name[:100]!r}.{did_you_mean(name, list(members))}",
                next=f"Choose among the targets of {SOURCE}: {', '.join(list(members)[:20])}.",
            )


def _plan_place(
    place: Place, chosen: Mapping[str, Member], versions: Mapping[str, str], watch: Progress, *, dry_run: bool
) -> dict[str, PlannedRollback | BuddyError]:
    """Each chosen target's plan, or why there is none."""
    members = [member for member in place.members if member.name in chosen]
    reader = place.reader
    if not members or reader is None:
        return {member.name: _trouble(place) for member in members}

    def plan(member: Member) -> tuple[Target, RollbackPlan]:
        # Held, until ``_release_journals``: the fleet's own journal has every move before the first one.
        here = begin_rollback(reader, member, dry_run=dry_run, held=True)
        return here, rollback.plan_rollback(here, versions.get(member.name, ""))

    # Meanwhile: the plans do not wait for it.
    figures = _Figures(reader, [place.target(member) for member in members])
    with ThreadPoolExecutor(READERS) as pool:
        plans = attempt_each(place, members, plan, pool)
    failing: dict[str, float] = {}
    # Where no target can be rolled back there is no sequence to find, and nothing to wait for.
    if not all(isinstance(each, BuddyError) for each in plans.values()):
        failing = figures.wait()
        watch(f"{place.name}: {text.count(len(members), 'target')} planned")
    found: dict[str, PlannedRollback | BuddyError] = {}
    for name, each in plans.items():
        if isinstance(each, BuddyError):
            found[name] = _naming_target(name, each)
        else:
            found[name] = PlannedRollback(name, place.name, *each, failing.get(name))
    return found


def _naming_target(name: str, error: BuddyError) -> BuddyError:
    """The error with the parameter of the fleet's rollback, where a version must be named."""
    if error.reference in NEEDS_A_VERSION:
        error.next = f"Name the version to return to: {parameter('to_version', [f'{name}=VERSION'])}. {error.next}"
    return error


def _trouble(place: Place) -> BuddyError:
    assert place.trouble is not None
    return place.trouble


class _Figures:
    """Failed requests per minute of some targets, read in a thread: no rollback waits long for a metric."""

    def __init__(self, reader: Target, targets: Sequence[Target]) -> None:
        self._found: dict[str, float] = {}
        self._thread = threading.Thread(target=self._read, args=(reader, targets), daemon=True)
        self._thread.start()

    def wait(self) -> dict[str, float]:
        """Those that are known within ``rollback.CHECKS_S``."""
        self._thread.join(rollback.CHECKS_S)
        return dict(self._found)

    def _read(self, reader: Target, targets: Sequence[Target]) -> None:
        read = attempt(partial(traffic.read_traffic, reader, targets, NOW, FAILURES))
        for name, hour in read.items() if isinstance(read, dict) else ():
            # Without a request nothing is known: CloudWatch may be late.
            if isinstance(hour, traffic.AliasTraffic) and (recent := hour.since(hour.until - NOW)).requests:
                self._found[name] = recent.errors / (NOW / MINUTE)


def _plan(
    targets: tuple[PlannedRollback, ...], refused: Mapping[str, BuddyError], members: Mapping[str, Member]
) -> FleetRollbackPlan:
    moved = [target for target in targets if target.plan.calls]
    total = text.count(len(members), "target")
    left_out = (f"Not rolled back: {name}. {error.what} Next: {error.next}" for name, error in refused.items())
    # A hundred targets often share one warning: it is shown once, so that the one which differs is seen.
    warnings = once_each({target.name: target.plan.reasons for target in targets})
    calls = (f"lambda:UpdateAlias on {text.count(len(moved), 'alias', 'aliases')}, without weights",)
    title = f"Roll back {len(moved)} of {total}" if moved else f"No rollback of {total}: nothing to move"
    return FleetRollbackPlan(
        title=title,
        now=tuple(f"{target.name}: {target.plan.now[0]}" for target in targets),
        then=tuple(target.move if target.plan.calls else f"{target.name}: {target.plan.title}" for target in targets),
        calls=calls if moved else (),
        undo=tuple(once_each({target.name: target.plan.undo for target in moved})),
        reasons=(*left_out, *warnings),
        covers={"action": "rollback", "targets": {target.name: target.plan.hash for target in targets}},
        targets=targets,
        refused=refused,
        members=members,
    )


def roll_back_fleet(
    target: Target, plan: FleetRollbackPlan, approval: Approval, watch: Progress = no_progress, incident: str = ""
) -> FleetRollback:
    """Move all traffic at once, in order of harm, then verify each alias; a second run finds the work done.

    Args:
        target: keeps the fleet's own record.
        incident: its name, by which a target's review finds that target's own run.

    AWS: as ``rollback.move_as_planned``, ``rollback.finish_rollback`` and ``rollback.drive_rollback``, for each target.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan, target.clock.now())
    targets = [_with_open_run(planned, plan.members[planned.name]) for planned in plan.targets]
    if incident:
        for planned in targets:
            planned.here.journal.append("parameters", values={"incident": incident})
    moves = {each.name: each.describe_move() for each in targets}
    # On disk before the first call: if this process is killed now, this line alone says where all traffic was to go.
    target.journal.append("moving", says=f"moves the traffic of {text.count(len(moves), 'target')}", targets=moves)
    try:
        with _garbage_kept():
            moved = _each(targets, partial(_move, approval), watch)
    # After an interrupt, too: what was moved is in these journals alone.
    finally:
        _release_journals(targets)
    results = {each.name: each for each in moved}
    # Second step: only where the write succeeded is there something to verify. The others keep their error.
    ended = [planned for planned in targets if results[planned.name].trouble is None]
    verified = _each(ended, lambda planned: _verify(planned, results[planned.name]), no_progress)
    results |= {each.name: each for each in verified}
    results |= {name: TargetResult(name, trouble=error) for name, error in plan.refused.items()}
    # Those that need a person come first.
    done = sorted(results.values(), key=lambda each: (each.verified, each.name))
    found = FleetRollback(plan, tuple(done), dry_run=target.dry_run)
    target.journal.append("fleet-rolled-back", says=found.summary, plan=plan.hash)
    # Last, and contained: an archive that cannot be written must not hide which targets were rolled back.
    with target.side.contained("archiving the targets' runs"):
        for planned in targets:
            result = results[planned.name]
            archive_rollback(target, planned.here, result.trouble, result.serves)
    for planned in targets:
        target.side.adopt(planned.name, planned.here.side)
    return found


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect garbage afterwards: Python walks through all that is imported for it, while traffic waits."""
    # A caller may have disabled it: then it stays so.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _release_journals(targets: Sequence[PlannedRollback]) -> None:
    """Write the targets' own journals, which came after the traffic of all: a line on disk takes as long as a call."""
    with ThreadPoolExecutor(READERS) as pool:
        for planned in targets:
            pool.submit(planned.here.journal.release)


def _with_open_run(planned: PlannedRollback, member: Member) -> PlannedRollback:
    """The same; with a new run where its own is archived, as when a cell is run again."""
    here = planned.here
    if not (here.folder / MANIFEST).exists():
        return planned
    return replace(planned, here=begin_rollback(here, member, dry_run=here.dry_run, held=True))


def announce_rollbacks(target: Target, done: FleetRollback) -> notifications.DeliveryReport:
    """Notify the team once for the fleet. AWS: as ``notifications.announce``."""
    if done.dry_run or not done.plan.calls:
        return notifications.DeliveryReport((), ())
    unfinished = text.join_words(result.name for result in done.open)
    also = f" Not rolled back: {unfinished}." if unfinished else ""
    return notifications.announce(target, f"{done.plan.title}. {done.summary}.{also}")


def raise_for_unfinished(done: FleetRollback) -> None:
    """Return if every alias is verified.

    Raises:
        BuddyError: ``fleet-rollback-unfinished``.
    """
    findings_.raise_listing(
        BuddyError,
        "fleet-rollback-unfinished",
        title=f"{done.summary}.",
        entries=[
            f"{each.name}: {each.trouble.what if each.trouble is not None else each.serves} {each.next_step}".rstrip()
            for each in done.open
        ],
        next_step="Do what each of them asks for, then run this again: targets that are rolled back stay as they are.",
    )


def _each(
    targets: Sequence[PlannedRollback], act: Callable[[PlannedRollback], TargetResult], watch: Progress
) -> list[TargetResult]:
    """Act on all targets at once. Each place has threads of its own: one without an answer delays no other place."""
    by_place: dict[str, list[PlannedRollback]] = {}
    for planned in targets:
        by_place.setdefault(planned.place, []).append(planned)
    pools = [(ThreadPoolExecutor(READERS), planned) for planned in by_place.values()]
    found = []
    try:
        # In turn from each place, in order of harm.
        futures = [pool.submit(act, each) for pool, planned in pools for each in planned]
        for future in as_completed(futures):
            found.append(future.result())
            watch(f"{found[-1].progress} ({len(found)} of {text.count(len(targets), 'target')})")
    finally:
        # After an interrupt no place goes on while another one is waited for.
        for pool, _ in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool, _ in pools:
            pool.shutdown()
    return found


def _move(approval: Approval, planned: PlannedRollback) -> TargetResult:
    """Move one target's traffic, whatever happens to the others."""
    here = planned.here
    # A plan that changes nothing needs no approval, and must not move an alias that changed since.
    people = approval.by if planned.plan.calls else NOBODY
    own = replace(approval, plan_hash=planned.plan.hash, by=people)
    here.journal.append("approved", **own.facts(planned.plan.title))
    try:
        moved = rollback.move_as_planned(here, planned.plan, own, no_progress)
        return TargetResult(planned.name, moved, dry_run=here.dry_run)
    except BuddyError as error:
        return TargetResult(planned.name, trouble=error)
    # A defect at one target must not stop the loop: the traffic of all others is still to be moved.
    except Exception as error:
        return TargetResult(planned.name, trouble=_defect(planned, error))


def _verify(planned: PlannedRollback, moved: TargetResult) -> TargetResult:
    """Read the alias again, once AWS has moved its traffic."""
    assert moved.moved is not None
    here = planned.here
    if moved.dry_run:
        return moved
    try:
        result = rollback.finish_rollback(here, planned.plan, moved.moved)
        alias = aliases.require_alias(here)
        at = moved.moved.at
        # With provisioned concurrency AWS moves the traffic minutes
        # after the write, which ``move_as_planned`` did not wait for.
        if pending := aliases.describe_allocation(alias):
            at = rollback.drive_rollback(here, replace(result, pending=pending)).at
            alias = aliases.require_alias(here)
    except BuddyError as error:
        return replace(moved, trouble=error)
    except Exception as error:
        return replace(moved, trouble=_defect(planned, error))
    # By the alias as AWS returns it now, not by the answer to the write: another run may have moved it in between.
    verified = alias.serving == (planned.plan.destination,)
    return replace(moved, moved=replace(moved.moved, at=at), serves=str(alias), verified=verified)


def _defect(planned: PlannedRollback, error: Exception) -> BuddyError:
    """What is not an error of ours or of AWS ends this target only."""
    return BuddyError(
        "fleet-target-failed",
        f"The rollback of {planned.name} failed unexpectedly: {type(error).__name__}: {error}.",
        now="What its alias serves is unknown.",
        next=f"Run `buddy-ops rollback -e {planned.name}`.",
    )
