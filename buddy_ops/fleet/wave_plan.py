"""What a fleet's canary would do: each target's own plan by wave, and one plan over all of them. Never writes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.core.fleet_file import SOURCE, Fleet, parse_labels
from buddy_ops.core.front_end import parameter
from buddy_ops.core.plan import Plan
from buddy_ops.core.text import count, join_words
from buddy_ops.deployment.rollout_plan import RolloutPlan, in_red, plan_rollout
from buddy_ops.fleet import targets as targets_
from buddy_ops.fleet.engine import require_engine
from buddy_ops.fleet.targets import READERS, Member, Place, attempt_each, is_unreachable, once_each

RUNBOOK = "fleet/canary"

AFTERWARDS = {
    "stop": "Nothing more is rolled back.",
    "wave": "The targets of its wave are rolled back, those in progress too.",
    "all": "All targets that this run deployed to are rolled back, those in progress too.",
}
"""What ``on_trouble`` means, a sentence each."""


@dataclass(frozen=True)
class PlannedTarget:
    """One target of a fleet's plan.

    Attributes:
        place: how it is reached; targets of one place share AWS's quotas.
        here: reads for it.
        plan: its own plan.
    """

    member: Member
    place: str
    artifact: str
    here: Target
    plan: RolloutPlan

    @property
    def name(self) -> str:
        """The target's name."""
        return self.member.name

    @property
    def covers(self) -> Mapping[str, Any]:
        """What an approval of the fleet's plan covers of it: the same before, during and after its deployment."""
        # A target that this plan has deployed to: what was approved is the plan from before that.
        if self.live and self.plan.former is not None:
            return self.plan.former[0]
        return self.plan.covers

    @property
    def live(self) -> bool:
        """Whether the build serves already, and nothing will be changed."""
        return not self.plan.calls


Repeat = Callable[[Iterable[str]], dict[str, PlannedTarget | BuddyError]]
"""Plans these targets, or says why one cannot be planned."""


@dataclass(frozen=True)
class PlannedWave:
    """Targets that are deployed to side by side."""

    name: str
    targets: tuple[PlannedTarget, ...]


@dataclass(frozen=True, kw_only=True)
class FleetPlan(Plan):
    """One plan over all targets. Its ID stays the same while its targets are deployed to, so that a rerun resumes it.

    Attributes:
        unreachable: targets that cannot be reached, which the policy leaves out, and why.
        repeat: plans targets of it again, by their names.
    """

    waves: tuple[PlannedWave, ...]
    fleet: Fleet
    unreachable: Mapping[str, BuddyError]
    repeat: Repeat

    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        """All targets, in the order of their waves."""
        return tuple(target for wave in self.waves for target in wave.targets)

    @property
    def under_way(self) -> bool:
        """Whether a target's rollout is in progress, which can be aborted instead."""
        return any(target.plan.under_way for target in self.targets)

    @property
    def abort_scope(self) -> str:
        """Which targets an abort rolls back: not those that serve the build already."""
        return join_words(target.name for target in self.targets if target.plan.under_way)

    def accepts(self, plan_hash: str) -> bool:
        """Whether an approval of this ID is one of this plan: it is valid now, or was when a target's rollout began."""
        # The time is part of the ID, and approvals expire. A rerun
        # after the expiry resumes what began while it was valid.
        moments = {target.plan.began for target in self.targets} - {None}
        return super().accepts(plan_hash) or any(
            super(FleetPlan, replace(self, made_at=moment)).accepts(plan_hash) for moment in moments
        )

    def only(self, wave: PlannedWave) -> "FleetPlan":
        """The plan of one wave, with an ID of its own."""
        return _fleet_plan(self.fleet, (wave,), {}, made_at=self.made_at, repeat=self.repeat)

    def _repr_markdown_(self) -> str:
        return in_red(_by_target(self.targets, _alarming)) + super()._repr_markdown_()


def plan_fleet(
    target: Target,
    labels: Sequence[str],
    artifact: str,
    artifacts: Mapping[str, str] | None = None,
    break_glass: Mapping[str, str] | None = None,
    scheduler: str = "",
) -> FleetPlan:
    """What deploying to the targets with these labels would do, in waves. Reads with threads.

    Where it would change something, the cluster for its steps is checked, too: nothing is approved that cannot start.
    While a rollout is in progress that is a warning, since it can be aborted all the same.

    Args:
        target: keeps the fleet's own record.
        labels: each as NAME=VALUE; empty: all targets.
        artifact: the build for all targets, in one of the forms of ``artifacts.FORMS``.
        artifacts: other builds, by a target's name or by a label as NAME=VALUE.
        break_glass: who overrides the environments' rules, and why.
        scheduler: where its steps are to run, as of ``open_engine``.

    AWS: as ``plan_rollout``, for each target.

    Raises:
        InvalidInput: ``no-fleet``, ``invalid-settings``, ``fleet-selection``, ``fleet-artifacts``, and what
            ``project.check_artifact`` and ``require_engine`` raise.
        BuddyError: as ``require_engine``.
        Refused: ``fleet-plan-refused``, with every target's reasons at once.
    """
    fleet = project.read_fleet()
    members = targets_.read_members(parse_labels(tuple(labels)))
    builds = _choose_artifacts(members, artifact, artifacts or {})
    # Before any call to AWS: a wrong path is reported at once, and not once for each target.
    for build in dict.fromkeys(builds.values()):
        project.check_artifact(build)
    plan = plan_places(
        target, fleet, places=targets_.open_places(members, RUNBOOK), builds=builds, break_glass=break_glass
    )
    if plan.calls and not target.dry_run:
        try:
            require_engine(scheduler)
        except BuddyError as error:
            # An abort needs no cluster.
            if not plan.under_way:
                raise
            warning = f"Warning: only an abort can be carried out. {error.what} {error.next}"
            return replace(plan, reasons=(*plan.reasons, warning))
    return plan


def plan_places(
    target: Target,
    fleet: Fleet,
    places: Sequence[Place],
    builds: Mapping[str, str],
    break_glass: Mapping[str, str] | None = None,
) -> FleetPlan:
    """As ``plan_fleet``, with each target's build by its name. AWS: as ``plan_rollout``, for each target.

    Raises:
        Refused: ``fleet-plan-refused``, with every target's reasons at once.
    """

    def repeat(names: Iterable[str]) -> dict[str, PlannedTarget | BuddyError]:
        return plan_targets(places, set(names), builds, dict(break_glass or {}), dry_run=target.dry_run)

    found = repeat(builds)
    troubles = {name: each for name, each in found.items() if isinstance(each, BuddyError)}
    unreachable = {name: error for name, error in troubles.items() if is_unreachable(error)}
    # Where no target is reached there is nothing to deploy to, whatever the policy says.
    stops = fleet.unreachable == "stop" or len(unreachable) == len(found)
    refused = {name: error for name, error in troubles.items() if stops or name not in unreachable}
    if refused:
        raise _refused(refused, len(found))
    waves = []
    members = [member for place in places for member in place.members]
    for name, declared in fleet.in_waves([member.declared for member in members]):
        planned = (found[each.name] for each in declared)
        waves.append(PlannedWave(name, tuple(each for each in planned if isinstance(each, PlannedTarget))))
    chosen = tuple(wave for wave in waves if wave.targets)
    plan = _fleet_plan(fleet, chosen, unreachable, made_at=target.clock.now(), repeat=repeat)
    target.journal.append("planned", plan=plan.hash, covers=plan.fingerprints())
    return plan


def _choose_artifacts(members: Sequence[Member], artifact: str, artifacts: Mapping[str, str]) -> dict[str, str]:
    """Each target's build, by its name: its own, else its label's, else the one for all.

    Raises:
        InvalidInput: ``fleet-artifacts``.
    """
    labelled = {
        member.name: {f"{name}={value}" for name, value in member.declared.labels.items()} for member in members
    }
    known = {*labelled, *(label for labels in labelled.values() for label in labels)}
    problems = [f"{key} is neither a target nor a label of one" for key in artifacts if key not in known]
    found = {}
    for name, labels in labelled.items():
        fitting = sorted({artifacts[label] for label in labels if label in artifacts})
        if name in artifacts:
            fitting = [artifacts[name]]
        elif not fitting and artifact:
            fitting = [artifact]
        # Two labels of a target may name different builds: neither is chosen by chance.
        if len(fitting) != 1:
            problems.append(f"{name} has {count(len(fitting), 'build') if fitting else 'no build'}")
        found[name] = fitting[0] if fitting else ""
    if problems:
        raise InvalidInput(
            "fleet-artifacts",
            f"Each target needs one build: {'; '.join(problems)}.",
            next=f"Give {parameter('artifact')} for all, and others by a target's name or a label: "
            f"{parameter('artifacts', {'team=payments': 'pay.zip'})}.",
        )
    return found


def plan_targets(
    places: Sequence[Place],
    names: set[str],
    builds: Mapping[str, str],
    break_glass: Mapping[str, str],
    *,
    dry_run: bool,
) -> dict[str, PlannedTarget | BuddyError]:
    """Each named target's plan, or why there is none, side by side. AWS: as ``plan_rollout``, for each."""

    def plan(place: Place, member: Member) -> PlannedTarget:
        here = replace(place.target(member), dry_run=dry_run)
        own = plan_rollout(here, builds[member.name], "canary", break_glass=break_glass)
        return PlannedTarget(member, place.name, artifact=builds[member.name], here=here, plan=own)

    def plan_place(place: Place) -> dict[str, PlannedTarget | BuddyError]:
        chosen = [member for member in place.members if member.name in names]
        return attempt_each(place, chosen, partial(plan, place), pool)

    # Two pools: a task that waits for others of its own pool can take the thread that they need.
    with ThreadPoolExecutor(READERS) as pool, ThreadPoolExecutor(READERS) as starters:
        return {name: each for planned in starters.map(plan_place, places) for name, each in planned.items()}


def _refused(troubles: Mapping[str, BuddyError], of: int) -> Refused:
    reasons = "\n".join(
        f"  - {name}: {error.result} ({error.reference}). {error.what}" for name, error in troubles.items()
    )
    return Refused(
        "fleet-plan-refused",
        f"{len(troubles)} of {count(of, 'target')} cannot be deployed to:\n{reasons}",
        next=f"Do what each of them asks for, or leave targets out ({parameter('labels')}). "
        f"{SOURCE} says whether targets that cannot be reached are left out (unreachable).",
        facts={name: error.data() for name, error in troubles.items()},
    )


def _fleet_plan(
    fleet: Fleet,
    waves: tuple[PlannedWave, ...],
    unreachable: Mapping[str, BuddyError],
    *,
    made_at: datetime | None,
    repeat: Repeat,
) -> FleetPlan:
    planned = [target for wave in waves for target in wave.targets]
    plans = [target.plan for target in planned]
    changed = [target for target in planned if not target.live]
    return FleetPlan(
        title=_title(waves, changed, len(planned)),
        now=tuple(f"{target.name}: {target.plan.now[0]}" for target in planned),
        then=tuple(_then(fleet, waves)),
        calls=tuple(_by_target(planned, lambda plan: plan.calls)),
        undo=tuple(_by_target(planned, lambda plan: plan.undo if plan.calls else ())),
        reasons=(*_by_target(planned, lambda plan: plan.reasons), *_left_out(unreachable)),
        covers={
            "action": "fleet canary",
            # What decides how far a bad build comes is approved, too: the
            # sequence of waves, their bake, and what trouble rolls back.
            "waves": [{"name": wave.name, "targets": [target.name for target in wave.targets]} for wave in waves],
            "on trouble": fleet.on_trouble,
            "bake": fleet.bake_minutes,
            "unreachable": [fleet.unreachable, *sorted(unreachable)],
            "targets": {target.name: target.covers for target in planned},
        },
        # One approval is for all targets, so the strictest of their environments' rules holds.
        approvals=max(plan.approvals for plan in plans),
        demand_hash=any(plan.demand_hash for plan in plans),
        made_at=made_at,
        valid_hours=min(plan.valid_hours for plan in plans),
        waves=waves,
        fleet=fleet,
        unreachable=unreachable,
        repeat=repeat,
    )


def _title(waves: Sequence[PlannedWave], changed: Sequence[PlannedTarget], of: int) -> str:
    if not changed:
        return f"{count(of, 'target')}: each build is live already"
    builds = list(dict.fromkeys(target.artifact for target in changed))
    named = builds[0] if len(builds) == 1 else f"{len(builds)} builds"
    return f"Deploy {named} to {len(changed)} of {count(of, 'target')} in {count(len(waves), 'wave')} by canary"


def _then(fleet: Fleet, waves: Sequence[PlannedWave]) -> Iterator[str]:
    """Each wave with its targets' own plans, and what happens in between."""
    for number, wave in enumerate(waves, 1):
        if number > 1 and fleet.bake_minutes:
            yield f"Bake time {fleet.bake_minutes:g} min. A target whose status is a problem then stops the fleet."
        yield f"Wave {number} of {len(waves)}, {wave.name}: {count(len(wave.targets), 'target')} side by side."
        yield from (f"{target.name}: {target.plan.title} (plan {target.plan.hash})." for target in wave.targets)
        closed = join_words(target.name for target in wave.targets if target.plan.closes)
        if closed:
            yield f"{closed}: once that rollout is closed, the build is deployed again, from its first stage."
    yield (f"If one target does not stay on its new version, later waves do not start. {AFTERWARDS[fleet.on_trouble]}")


def _left_out(unreachable: Mapping[str, BuddyError]) -> Iterator[str]:
    for name, error in unreachable.items():
        yield f"Warning: {name} cannot be reached and is left out. {error.what}"


def _alarming(plan: RolloutPlan) -> tuple[str, ...]:
    """What a target's plan shows in red."""
    return (*(f"VIOLATES THE RULES: {rule}" for rule in plan.violations), *plan.alerts)


def _by_target(targets: Sequence[PlannedTarget], lines: Callable[[RolloutPlan], Iterable[str]]) -> Iterator[str]:
    return once_each({target.name: lines(target.plan) for target in targets})
