"""The targets of parameters/fleet.yaml, grouped by how AWS is reached: one session for each account, region and role.

Reads files and opens sessions; the first call to AWS is the caller's.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from buddy_ops.aws import session
from buddy_ops.aws.clock import Clock, SystemClock
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core import settings as settings_
from buddy_ops.core.errors import AwsFailed, BuddyError, Unreachable
from buddy_ops.core.fleet_file import FleetTarget, parse_labels
from buddy_ops.core.settings import Settings
from buddy_ops.core.text import join_words

T = TypeVar("T")

READERS = 16
"""So many targets of a place are read, or moved, at once: an answer takes AWS about 50 ms."""


@dataclass(frozen=True)
class Member:
    """A target of the fleet, with its settings."""

    declared: FleetTarget
    settings: Settings

    @property
    def name(self) -> str:
        """The target's name."""
        return self.declared.name


@dataclass(frozen=True)
class Place:
    """Targets that are reached alike: one region, and one profile or role.

    Attributes:
        reader: reads for all of them; None where no session could be opened.
        trouble: why there is no reader.
    """

    members: tuple[Member, ...]
    reader: Target | None
    trouble: BuddyError | None = None

    @property
    def name(self) -> str:
        """The region, and the role or profile, for progress."""
        aws = self.members[0].settings.aws
        return " as ".join(filter(None, (aws.region or "the default region", aws.assume_role or aws.profile)))

    def target(self, member: Member) -> Target:
        """The target of one member, with the clients of all."""
        assert self.reader is not None
        return self.reader.beside(member.name, member.settings, base_environment=member.declared.environment)


def read_members(labels: Mapping[str, str]) -> tuple[Member, ...]:
    """The targets that have all of these labels, as the fleet's file lists them.

    Raises:
        InvalidInput: ``no-fleet``, ``fleet-selection``, ``invalid-settings``.
    """
    plain = {}
    found = []
    for declared in project.read_fleet().select(labels):
        # A thousand targets may extend the same few files: each is read once.
        if declared.environment not in plain:
            plain[declared.environment] = project.read_settings(declared.environment)[0]
        values = declared.replace_in(plain[declared.environment])
        found.append(Member(declared, settings_.validate_settings(values, f"fleet target {declared.name}")))
    return tuple(found)


def open_fleet(labels: Sequence[str], runbook: str) -> tuple[Place, ...]:
    """The targets with all of these labels, each as 'team=payments', grouped as ``open_places`` has them.

    Raises:
        InvalidInput: as ``parse_labels`` and ``read_members``.
    """
    return open_places(read_members(parse_labels(tuple(labels))), runbook)


def open_places(members: tuple[Member, ...], runbook: str) -> tuple[Place, ...]:
    """The members by region and role, each group with a session; one that cannot be opened does not stop the others."""
    grouped = defaultdict[tuple[str | None, ...], list[Member]](list)
    for member in members:
        aws = member.settings.aws
        # All that decides which credentials and connections a call
        # has; what differs in anything of it cannot share a client.
        grouped[aws.region, aws.profile, aws.assume_role, aws.endpoint_url].append(member)
    return tuple(_open(tuple(group), runbook) for group in grouped.values())


def connect_fleet(places: Sequence[Place], runbook: str, *, dry_run: bool) -> Target:
    """What keeps a fleet's own record, and is asked for its rules and channels: those of the first that is reached.

    Raises:
        InvalidInput, AwsFailed: as ``session.connect``.
    """
    opened = [place for place in places if place.reader is not None]
    # Where none was reached, the first one's error is raised by ``connect`` itself.
    member = (*opened, *places)[0].members[0]
    target = session.connect(member.name, runbook, dry_run=dry_run)
    return replace(target, environment="fleet", base_environment=member.declared.environment)


def begin_rollback(beside: Target, member: Member, *, dry_run: bool, held: bool = False) -> Target:
    """What rolls one member back, with a run of its own and the clients of another target of its place.

    Args:
        held: as of ``Target.acting_beside``.
    """
    return beside.acting_beside(
        member.name,
        member.settings,
        base_environment=member.declared.environment,
        runbook="rollback",
        dry_run=dry_run,
        held=held,
    )


def is_unreachable(found: object) -> bool:
    """Whether this is an error of a target that cannot be reached: AWS does not answer there, or is unavailable."""
    return isinstance(found, AwsFailed) and (found.passing or found.reference == "sandbox-not-running")


def attempt(read: Callable[[], T]) -> T | BuddyError:
    """What a call returns, or the error that it raised."""
    try:
        return read()
    except BuddyError as error:
        return error


def attempt_each(
    place: Place, members: Sequence[Member], read: Callable[[Member], T], pool: ThreadPoolExecutor
) -> dict[str, T | BuddyError]:
    """What a call returns for each of these members of a place by its name, or the error that it raised.

    The first one shows whether the place answers: else each member would wait for its own time-out.
    """
    if place.trouble is not None:
        return dict.fromkeys((member.name for member in members), place.trouble)
    if not members:
        return {}
    first = attempt(partial(read, members[0]))
    # A refusal or a throttled call came at once, and says nothing of the others.
    if isinstance(first, Unreachable):
        return dict.fromkeys((member.name for member in members), first)
    others = pool.map(lambda member: attempt(partial(read, member)), members[1:])
    return {member.name: each for member, each in zip(members, (first, *others), strict=True)}


def once_each(lines: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """What plans of targets say, by their names: each line once, with the targets that have it unless all have."""
    holders = defaultdict[str, list[str]](list)
    for name, own in lines.items():
        for line in dict.fromkeys(own):
            holders[line].append(name)
    for line, names in holders.items():
        yield line if len(names) == len(lines) else f"{join_words(names)}: {line}"


def clock_of(places: Sequence[Place]) -> Clock:
    """The clock of the first place that could be opened, else this machine's."""
    own: Clock = SystemClock()
    return next((place.reader.clock for place in places if place.reader is not None), own)


def _open(members: tuple[Member, ...], runbook: str) -> Place:
    first = members[0]
    try:
        return Place(members, session.connect_reader(first.name, first.settings, runbook))
    except BuddyError as error:
        return Place(members, None, error)
