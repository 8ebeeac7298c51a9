"""An immediate rollback: all traffic to the version that served before, in one write.

Traffic comes first. No metrics, chart, message or archive comes before the write, and none of these can undo it. This
module never decides that a rollback is due.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.aliases import Alias, AliasMoved, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.aws.versions import LATEST, Version, label
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.core.front_end import invocation, parameter
from buddy_ops.core.plan import NOBODY, Approval, Plan
from buddy_ops.core.progress import Progress
from buddy_ops.core.text import join_words, parse_utc
from buddy_ops.deployment._traffic import Traffic, alias_scope, delete_failsafes, recorded_run
from buddy_ops.migrations import schema
from buddy_ops.migrations.schema import SchemaMarker

T = TypeVar("T")

PATIENCE = timedelta(minutes=1)
"""How long a rollback tries on while AWS throttles its calls or cannot be reached."""

PAUSE = timedelta(seconds=3)
"""How far apart these tries are."""

SETTLED = timedelta(minutes=10)
"""For how long after a rollback the same again finds it done. Later it is about the version that was returned to."""

NAMED = 5
"""How many of the newest versions an error names."""

CHECKS_S = 2.0
"""Real seconds that all checks before the write may take together; what is unknown by then is a warning."""


@dataclass(frozen=True, kw_only=True)
class RollbackPlan(Plan):
    """An immediate rollback: the alias's primary becomes ``destination``, without weights.

    Attributes:
        away_from: the versions that lose their traffic.
        alias: as it was read.
    """

    destination: str
    away_from: tuple[str, ...]
    alias: Alias

    @property
    def rejected(self) -> tuple[str, ...]:
        """The versions that no later rollback may return to."""
        # $LATEST is no version that could be marked: its code changes.
        return tuple(version for version in self.away_from if version != LATEST)

    @property
    def came_from(self) -> tuple[str, ...]:
        """The versions that had the traffic when it was made, the alias's primary first."""
        return tuple(dict.fromkeys(filter(None, (*self.covers["from"], *self.away_from))))


@dataclass(frozen=True)
class TrafficMove:
    """The traffic of a rollback, moved.

    Attributes:
        alias: as the write left it.
        already: whether it was there before.
    """

    alias: Alias
    at: datetime
    already: bool


@dataclass(frozen=True)
class RollbackResult:
    """How a rollback ended.

    Attributes:
        serving: the version that serves now.
        away_from: the versions that lost their traffic.
        already: whether the alias was there before.
        dry_run: whether nothing was written.
        failures: what failed after the traffic had moved, a sentence each.
        pending: why AWS has not moved the traffic yet, a sentence; empty: it has.
    """

    serving: str
    away_from: tuple[str, ...]
    at: datetime
    already: bool
    dry_run: bool = False
    failures: tuple[str, ...] = ()
    pending: str = ""

    def __str__(self) -> str:
        if self.dry_run:
            return "DRY RUN: nothing was written."
        if self.pending:
            written = f"NOT YET ROLLED BACK: the rollback to v{self.serving} is written. {self.pending}"
            return "\n".join((written, *self.failures))
        result = f"ROLLED BACK: v{self.serving} receives 100 % of traffic since {self.at:%H:%M} UTC"
        if self.already:
            result = f"Already rolled back: v{self.serving} receives 100 % of traffic"
        others = "".join(f"; v{version} receives none" for version in self.away_from)
        return "\n".join((f"{result}{others}.", *self.failures))


@dataclass
class _Lookups:
    """What a rollback should know of where it goes, each part with the error where it could not be read in time."""

    destination: Version | BuddyError
    primary: Version | BuddyError
    markers: tuple[SchemaMarker | BuddyError, ...]


def plan_rollback(target: Target, version: str = "", watch: Progress | None = None) -> RollbackPlan:
    """Where the alias is, and where an immediate rollback moves it.

    It is the safe direction: one person's approval suffices in every environment, which is a plan's default.

    Args:
        version: the version to return to; empty: the previous one that is not marked bad. While traffic is split, our
            record says which of the two that is; where it does not, a version must be named.
        watch: called with each wait. With it the call is tried for ``PATIENCE`` while AWS throttles or cannot be
            reached; None: it fails at once.

    AWS: lambda:GetAlias, lambda:GetFunctionConfiguration, dynamodb:GetItem, reads only.

    Raises:
        Refused: ``which-is-stable``, ``no-rollback-target``, ``version-unusable``, ``schema-incompatible``.
        InvalidInput: ``alias-missing``, ``version-missing``.
    """
    if version and not version.isdecimal():
        raise InvalidInput(
            "version-missing",
            f"{version!r} is no published version: a version is a number, for example 41.",
            next=f"Name one of the function's versions ({parameter('to_version')}).",
        )
    # A version that a person names is taken, even one that is marked bad.
    alias = _try_on(target, partial(aliases.require_alias, target), watch)
    destination = version or _destination(target, alias)
    recorded = not version and destination not in alias.serving
    warnings = check_destination(target, alias, destination, recorded=recorded)
    served = alias.serving
    # The failsafe took its traffic, and marks nothing bad: this rollback does.
    if alias.rollout is not None and alias.failsafe_triggered:
        served = (*served, alias.rollout.new_version)
    away_from = tuple(version for version in served if version and version != destination)
    title = f"v{destination} already serves alone"
    calls: tuple[str, ...] = ()
    undo = "Nothing to undo."
    if away_from:
        title = f"Roll back {target.resource} to v{destination}"
        calls = (f"lambda:UpdateAlias FunctionVersion={destination} AdditionalVersionWeights={{}}",)
        undo = f"Roll forward: run strategies/canary with the artifact of v{away_from[0]}."
    marks = (f"v{version} is marked bad (excluded as rollback target)." for version in away_from if version != LATEST)
    return RollbackPlan(
        title=title,
        now=aliases.describe_in_sentences(target, alias),
        then=(f"{target.resource} → v{destination} (100 %), no routing weights.", *marks),
        calls=calls,
        undo=(undo,),
        reasons=(*warnings, *_further_back(alias, destination)),
        covers={
            **alias_scope(target, "rollback"),
            "from": [alias.primary, alias.additional],
            "to": destination,
        },
        destination=destination,
        away_from=away_from,
        alias=alias,
    )


def run_rollback(
    target: Target, plan: RollbackPlan, approval: Approval, watch: Progress | None = None
) -> RollbackResult:
    """Move the traffic, then everything else; a second run finds the work done.

    AWS, Args, Raises: as ``move_traffic``, and scheduler:DeleteSchedule (writes).
    """
    return finish_rollback(target, plan, move_traffic(target, plan, approval, watch))


def move_traffic(target: Target, plan: RollbackPlan, approval: Approval, watch: Progress | None = None) -> TrafficMove:
    """Move the traffic, and nothing else.

    Args:
        watch: as for ``plan_rollback``, here for every call that moves the traffic.

    AWS: lambda:GetAlias, lambda:UpdateAlias (writes).

    Raises:
        Refused: ``approval-void``, ``schema-incompatible``.
        AliasMoved: another run moved the alias at each of ten attempts, or since the plan found nothing to do.
        AwsFailed: AWS could not be reached; ``now`` says what is live, as far as it could be read.
    """
    approval.must_cover(plan, target.clock.now())
    alias = _try_on(target, partial(aliases.require_alias, target), watch)
    already = _is_there(alias, plan.destination)
    if not already and approval.by == NOBODY:
        raise AliasMoved(target, alias)  # no person was asked to approve a plan that changed nothing
    if not already and not target.dry_run:
        _require_schema(target, alias, plan.destination)
        # Without a new version: then it wins over whatever another run writes.
        traffic = Traffic(target, alias, run=target.run, stable=plan.destination)
        _try_on(target, partial(traffic.roll_back, plan.rejected), watch)
        alias = traffic.alias
    return _moved(target, plan, approval, alias, already=already)


def move_as_planned(target: Target, plan: RollbackPlan, approval: Approval, watch: Progress) -> TrafficMove:
    """As ``move_traffic``, in one call where the alias is still as the plan has it: AWS compares its RevisionId.

    Whether AWS has moved the traffic yet is for the caller to read, after all of its targets: others wait for this one.

    AWS: lambda:UpdateAlias (writes), and as ``move_traffic`` where the alias changed since.

    Raises: as ``move_traffic``.
    """
    if not plan.calls or target.dry_run or _is_there(plan.alias, plan.destination):
        return move_traffic(target, plan, approval, watch)
    approval.must_cover(plan, target.clock.now())
    _require_schema(target, plan.alias, plan.destination)
    traffic = Traffic(target, plan.alias, run=target.run, stable=plan.destination)
    try:
        _try_on(target, partial(traffic.roll_back, plan.rejected, attempts=1, confirm=False), watch)
    # The alias is not as it was planned with: from here on it is read first, and the rollback wins over other runs.
    except AliasMoved:
        return move_traffic(target, plan, approval, watch)
    return _moved(target, plan, approval, traffic.alias, already=False)


def _is_there(alias: Alias, destination: str) -> bool:
    """Whether an alias serves the destination, or will once AWS has allocated its capacity."""
    there = alias.serving == (destination,) or (alias.allocating and alias.primary == destination)
    # Where the failsafe came first, the record still says that a rollout is in progress: it is closed.
    return there and not alias.failsafe_triggered


def _moved(target: Target, plan: RollbackPlan, approval: Approval, alias: Alias, *, already: bool) -> TrafficMove:
    """From here on nothing can stop or undo the rollback."""
    target.journal.append("rollback", to=plan.destination, away_from=plan.away_from, by=approval.by, already=already)
    return TrafficMove(alias, target.clock.now(), already)


def finish_rollback(target: Target, plan: RollbackPlan, moved: TrafficMove) -> RollbackResult:
    """What comes after the traffic: the failsafe of a rollout that was in progress is deleted.

    AWS: scheduler:DeleteSchedule, writes.
    """
    alias = moved.alias
    if target.dry_run:
        return RollbackResult(alias.primary, (), moved.at, moved.already, dry_run=True)
    failures = tuple(delete_failsafes(target, recorded_run(alias)))
    pending = aliases.describe_allocation(alias)
    return RollbackResult(alias.primary, plan.away_from, moved.at, moved.already, failures=failures, pending=pending)


def await_rollback(target: Target, result: RollbackResult) -> Iterator[datetime]:
    """Wait until AWS has moved the traffic of a rollback, if it has not yet; yields when to continue.

    AWS: lambda:GetAlias, reads only.

    Raises:
        AliasMoved: another run or tool moved the alias.
        BuddyError: ``capacity-pending``: AWS has not allocated provisioned concurrency within an hour.
    """
    if not result.pending:
        return
    alias = aliases.require_alias(target)
    yield from Traffic(target, alias, run=recorded_run(alias), stable=result.serving).await_capacity()


def drive_rollback(target: Target, result: RollbackResult) -> RollbackResult:
    """Wait as ``await_rollback`` says; the result once the traffic has moved."""
    for wake_at in await_rollback(target, result):
        target.clock.sleep_until(wake_at)
    if not result.pending:
        return result
    return replace(result, at=target.clock.now(), pending="")


def check_destination(target: Target, alias: Alias, destination: str, *, recorded: bool = False) -> list[str]:
    """The warnings about a rollback to ``destination``, a sentence each; known obstacles refuse.

    Args:
        recorded: whether only the alias's record names it.

    AWS: lambda:GetFunctionConfiguration twice, reads only; dynamodb:GetItem for each table, unless both versions are
    compatible with the same schemas: then what serves shows that the tables fit.

    Raises:
        Refused: ``version-unusable``, ``schema-incompatible``; ``no-rollback-target``: the recorded one was deleted.
        InvalidInput: ``version-missing``.
    """
    found = _look_up(target, alias, destination)
    new = found.destination
    if isinstance(new, InvalidInput):
        raise _does_not_exist(target, alias, destination, new)
    if isinstance(new, BuddyError):
        return [f"Warning: whether v{destination} can serve is unknown. {new.what}"]
    if not new.usable:
        raise Refused(
            "version-unusable",
            f"v{destination} of {target.settings.function} is {new.state}: {new.reason}.",
            now=f"{target.resource} serves {alias}; nothing was changed.",
            next="Name another version, or roll forward with strategies/canary.",
        )
    # A known obstacle refuses; what is unknown only warns, since the traffic must not wait for it.
    warnings = _compare_schemas(target, alias, destination, found)
    old = found.primary
    if isinstance(old, BuddyError):
        return [*warnings, f"Warning: the settings of v{alias.primary} are unknown. {old.what}"]
    if recorded and old.number.isdecimal():
        warnings += _describe_record(alias, new, old)
    # Warnings only: AWS refuses to split traffic between such versions, and a rollback splits none.
    for name in versions.TOGETHER:
        if new.settings[name] != old.settings[name]:
            warnings.append(
                f"Warning: {name} differs: v{destination} has {new.settings[name] or 'none'}, v{alias.primary} has "
                f"{old.settings[name] or 'none'}."
            )
    return warnings


def _does_not_exist(target: Target, alias: Alias, version: str, missing: InvalidInput) -> BuddyError:
    """The error about a destination that does not exist, with the versions that do.

    AWS: lambda:ListVersionsByFunction, reads only.
    """
    if missing.reference != "version-missing":
        return missing
    others = "a version that exists"
    # Only an error is waiting for this answer.
    with suppress(BuddyError):
        others = join_words(reversed(_newest_usable(target, alias))) or "none exists that is not marked bad"
    forward = "or roll forward with strategies/canary"
    record = alias.rollout
    if record is None or version not in (record.stable_version, record.fallback_version):
        return InvalidInput(
            "version-missing",
            f"There is no version {version} of {target.settings.function} in {target.region}.",
            next=f"Name another version ({parameter('to_version')}): {others}; {forward}.",
        )
    return Refused(
        "no-rollback-target",
        f"v{version} of {target.settings.function}, which the deployment record names as the version to return to, was "
        "deleted (by operations/clean_up_versions, or another tool).",
        now=f"{target.resource} serves {alias}; nothing was changed.",
        next=f"Name a version ({parameter('to_version')}): {others}; {forward}.",
    )


def which_is_stable(target: Target, alias: Alias) -> Refused:
    """The refusal where traffic is split and no record of ours says which version to keep: a person decides."""
    return Refused(
        "which-is-stable",
        f"{target.resource} serves {alias}. No deployment record says which of v{alias.primary} and "
        f"v{alias.additional} is the stable one.",
        next=f"Find out which version is good. {_keeping(target, alias.primary)}, and "
        f"{_keeping(target, alias.additional or '')}.",
    )


def _keeping(target: Target, version: str) -> str:
    """How to keep a version."""
    return f"{invocation('rollback/immediate', target.environment, to_version=version)} keeps v{version}"


def _try_on(target: Target, call: Callable[[], T], watch: Progress | None) -> T:
    """A call's result, tried again for ``PATIENCE``: what AWS throttles now it takes in some seconds.

    Raises:
        AwsFailed: the call's, where trying again cannot help, or after the last try.
    """
    deadline = target.clock.now() + PATIENCE
    while True:
        try:
            return call()
        except AwsFailed as failure:
            again = target.clock.now() + PAUSE
            # A refusal, as by missing permissions, is the same a minute later: it is reported at once.
            if watch is None or not failure.passing or again > deadline:
                raise
            target.journal.append("failed", says=failure.what)
            report = target.side.watch(watch)
            report(f"{failure.what} Trying again every {PAUSE.seconds} s until {deadline:%H:%M:%S} UTC.")
            target.clock.sleep_until(again)


def rollback_target(target: Target, alias: Alias) -> str:
    """The version that a rollback without ``to_version`` would go to, by the record; empty: it would refuse.

    Whether that version exists and can serve is not checked. Asks nothing of AWS.
    """
    if alias.stable is None:
        return ""
    # The stable version serves already, beside the new one or alone after its failsafe: no earlier one is searched for.
    if alias.additional is not None or alias.failsafe_triggered:
        return alias.stable
    record = alias.rollout
    if record is None or _is_done(target, alias, record):
        return ""
    return _first_good(alias, record)


def _destination(target: Target, alias: Alias) -> str:
    """The version to return to. While traffic is split that is the stable one, which serves already.

    Raises:
        Refused: ``which-is-stable``, ``no-rollback-target``.
    """
    if alias.stable is None:
        raise which_is_stable(target, alias)
    if version := rollback_target(target, alias):
        return version
    record = alias.rollout
    marked = ""
    if record is not None:
        if _is_done(target, alias, record):
            return alias.primary  # to go further back so soon, a person names the version
        if record.rejected_versions:
            marked = f" Marked bad: {join_words(f'v{version}' for version in record.rejected_versions)}."
    named = _list_versions(target, alias)
    raise Refused(
        "no-rollback-target",
        f"{target.resource} serves {alias}, and no earlier version is known to return to.{marked}",
        next=f"Name a version ({parameter('to_version')}){named}, or roll forward with strategies/canary.",
    )


def _first_good(alias: Alias, record: RolloutState) -> str:
    """The latest version before the one that serves, by the record, that is not marked bad; empty if none is known."""
    # While the rollout's own version serves, the one before it is the nearest; else only the one before that is left.
    candidates = [record.fallback_version]
    if alias.primary == record.new_version:
        candidates.insert(0, record.stable_version)
    elif alias.primary == record.rolled_back_to:
        candidates.clear()  # what served before a version that a person named is not known
    good = (version for version in candidates if version not in ("", alias.primary, *record.rejected_versions))
    return next(good, "")


def _describe_record(alias: Alias, new: Version, old: Version) -> list[str]:
    """A sentence where the versions do not bear out the record, which others may write. No metric is waited for.

    Args:
        new: the version that the record names as the one before.
        old: the one that serves.
    """
    record = alias.rollout
    if record is None:
        return []
    doubts = []
    # Lambda counts versions up: one that served before has the lower number, unless a rollback returned to it.
    if int(new.number) > int(old.number):
        doubts.append(f"v{new.number} was published after v{old.number}.")
    if record.new_version == old.number and not old.description.startswith(f"run {record.run}"):
        doubts.append(f"v{old.number} was not published by run {record.run}, which the record names.")
    if not doubts:
        return []
    only = f"Warning: only the deployment record says that v{new.number} served before v{old.number}."
    return [" ".join((only, *doubts, "Compare with the releases that you know."))]


def version_before(alias: Alias) -> str:
    """After a rollback: the version before the one that was returned to, by the record; empty if there is none."""
    record = alias.rollout
    if record is None or not record.rolled_back or alias.serving != (record.stable_version,):
        return ""
    before = record.fallback_version
    if before in (alias.primary, *record.rejected_versions):
        return ""
    return before


def _is_done(target: Target, alias: Alias, record: RolloutState) -> bool:
    """Whether the record's rollout was rolled back just now, or there is no version before the one that serves."""
    # After another tool's change the record says nothing of what serves now.
    if not record.rolled_back or alias.primary != record.left_serving:
        return False
    if target.clock.now() - parse_utc(record.since) < SETTLED:
        return True
    # Later it is asked for another version: where none is known, a person names it.
    return not version_before(alias) and not record.rolled_back_to


def _further_back(alias: Alias, destination: str) -> list[str]:
    """How to go back further, where the rollback is done already."""
    before = version_before(alias)
    if not before or destination != alias.primary:
        return []
    named = parameter("to_version", before)
    return [f"If v{alias.primary} fails, too: name the version before it ({named}), v{before}."]


def _list_versions(target: Target, alias: Alias) -> str:
    """The newest versions that a person can name, in words: those that exist and are not marked bad.

    AWS: lambda:ListVersionsByFunction, reads only. A failure leaves the list out: the error matters more.
    """
    try:
        good = _newest_usable(target, alias)
    except BuddyError:
        return ""
    if not good:
        return ""
    return f": {join_words(good, 'or')}"


def usable_versions(target: Target, alias: Alias) -> list[str]:
    """The newest versions that a rollback may go to, oldest first: they exist, serve nothing and are not marked bad.

    AWS: lambda:ListVersionsByFunction, reads only.
    """
    marked: tuple[str, ...] = ()
    if alias.rollout is not None:
        marked = alias.rollout.rejected_versions
    published = versions.list_versions(target)
    good = [version.number for version in published if version.number not in (*alias.serving, *marked)]
    return good[-NAMED:]


def _newest_usable(target: Target, alias: Alias) -> list[str]:
    """The versions of ``usable_versions`` as operators read them."""
    return [label(number) for number in usable_versions(target, alias)]


def _require_schema(target: Target, alias: Alias, destination: str) -> None:
    """Check the tables again right before the write: a migration may have gone on while the plan was read."""
    if target.settings.tables:
        _compare_schemas(target, alias, destination, _look_up(target, alias, destination))


def _compare_schemas(target: Target, alias: Alias, destination: str, found: _Lookups) -> list[str]:
    """The warnings about the tables' schemas; none for a version that serves already.

    Raises:
        Refused: ``schema-incompatible``.
    """
    # What serves shows that the tables fit it: no answer of DynamoDB could forbid the way back to it.
    if destination in (alias.primary, alias.stable) or isinstance(found.destination, BuddyError):
        return []
    return schema.compare_schemas(target, found.destination, found.markers)


def _look_up(target: Target, alias: Alias, destination: str) -> _Lookups:
    """What a rollback should know, as far as AWS answers within ``CHECKS_S``."""
    late = AwsFailed("aws-unreachable", f"No answer within {CHECKS_S:g} s.", next="Continue.", code="timeout")
    found = _Lookups(late, late, (late,))

    def look_up() -> None:
        found.destination = _version_or_error(target, destination)
        found.primary = found.destination
        if alias.primary != destination:
            found.primary = _version_or_error(target, alias.primary)
        found.markers = _markers(target, found)

    # A call that hangs must not delay the rollback: its thread is left behind, with what it still finds.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(CHECKS_S)
    # A copy: that thread may still write into ``found``, while this is decided by.
    return replace(found)


def _version_or_error(target: Target, number: str) -> Version | BuddyError:
    try:
        return versions.read_version(target, number)
    except BuddyError as error:
        return error


def _markers(target: Target, found: _Lookups) -> tuple[SchemaMarker | BuddyError, ...]:
    """The tables' schemas, unless both versions are compatible with the same ones."""
    new = found.destination
    old = found.primary
    try:
        if not isinstance(new, BuddyError) and not isinstance(old, BuddyError):
            # What serves shows that the tables fit it, and so they fit the other one: no table has to be read.
            schemas = schema.schema_range_of(target, new)
            if schemas is not None and schemas == schema.schema_range_of(target, old):
                return ()
        return schema.read_markers(target)
    except BuddyError as error:
        return (error,)
