"""A fleet's canary: waves in order, the targets of a wave side by side, and what trouble rolls back.

Each target's deployment is a step on Dask. What a target serves is always read from its alias. Rollbacks need no
worker: this process writes them at once, whatever the steps do.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Protocol

from buddy_ops.aws import notifications
from buddy_ops.aws.session import Target
from buddy_ops.checks.findings import State as Health
from buddy_ops.core.errors import Aborted, BuddyError, Held, Refused, RolledBack
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.outcome import describe_ending
from buddy_ops.core.plan import Approval, changed_parts
from buddy_ops.core.text import join_words, shorten, tally
from buddy_ops.deployment import rollback
from buddy_ops.fleet import status, targets
from buddy_ops.fleet.step import LOST, Step, StepResult, archive_rollback, journal_result
from buddy_ops.fleet.target_states import DONE, SETTLED, TargetState, read_state
from buddy_ops.fleet.targets import READERS, begin_rollback, is_unreachable
from buddy_ops.fleet.wave_plan import RUNBOOK, FleetPlan, PlannedTarget, PlannedWave

STEP = "strategies/canary"

FOLLOW_S = 10.0
"""Real seconds between two readings of what the targets of running steps serve."""

SAID = 400
"""Characters of a step's own words that are shown."""

ENDINGS = {0: "done", 1: "failed", 3: "rolled-back", 4: "refused", 5: "held"}
"""A run's outcome in its manifest, by its exit code."""

ABORTED = "aborted"
"""The reference of an abort's trouble, and its ending."""

CHANGED_SINCE = "Since the approval these have changed: {}."

# The next steps of the ways to end: see ``FleetOutcome.raise_for_ending``.
UNSETTLED = (
    "`buddy-ops fleet status` shows each target. A failsafe rolls back traffic that is split. To resume, run this "
    "again with the same builds"
)

PLAN_AGAIN = "Run this again: it shows what is left as a new plan. Review it, and approve it."

AFTER_AN_ABORT = (
    "`buddy-ops fleet status` shows each target. To roll back those that serve the build too, run `buddy-ops fleet "
    "rollback`. To deploy again, run this again: its plan is a new one."
)


class Steps(Protocol):
    """Runs steps: ``engine.Engine``."""

    def submit(self, *steps: Step) -> None:
        """Begin steps."""

    def results(self) -> Iterator[StepResult]:
        """The results of all steps, each when it ends. More may be submitted meanwhile."""


@dataclass(frozen=True)
class Trouble:
    """Why a fleet's canary stops.

    Attributes:
        says: a sentence.
        exit_code: what a single canary of this target would end with.
        reference: that of a refusal which no step gave: ``fleet-plan-changed`` or ``fleet-wave-unapproved``; or
            ``ABORTED``.
        next: what to do then.
    """

    target: str
    says: str
    exit_code: int
    reference: str = ""
    next: str = "Fix the build, and deploy it again: targets that serve it already are left as they are."


@dataclass
class TargetRow:
    """One target of the run, as it is shown.

    Attributes:
        doing: what its step does now; empty: nothing.
        results: of its steps, oldest first.
        taken_back: why this run was to roll it back, a sentence for when it did; empty: it was not.
        begun: how many steps this run submitted for it.
        rollback: what rolls it back, with a run of its own; None: nothing was rolled back.
        failure: why it was not rolled back, though it was to be.
    """

    wave: str
    planned: PlannedTarget
    state: TargetState
    doing: str = ""
    results: list[StepResult] = field(default_factory=list)
    taken_back: str = ""
    begun: int = 0
    rollback: Target | None = None
    failure: BuddyError | None = None

    @property
    def name(self) -> str:
        """The target's name."""
        return self.planned.name

    @property
    def running(self) -> bool:
        """Whether a step of it has not ended yet."""
        return self.begun > len(self.results)

    @property
    def serves(self) -> str:
        """The versions that serve, in words."""
        return self.state.serves or "an unknown version"

    @property
    def says(self) -> str:
        """What there is to say of it: what it does, or else what its run said."""
        # Most urgent first: what goes on now, then what this run
        # did to it, then its alias, then its last step's own words.
        ended = [result.trouble.partition("\n")[0] for result in self.results[-1:] if result.trouble]
        taken_back = self.taken_back if self.state.word == "ROLLED BACK" else ""
        return self.doing or taken_back or self.state.says or next(iter(ended), "")


@dataclass(frozen=True)
class FleetOutcome:
    """How a fleet's canary ended: what each target serves, as its alias says.

    Attributes:
        trouble: what stopped it; None: nothing did.
        left_out: targets that were not reached, and why.
        failures: what failed beside the deployments, a sentence each.
    """

    rows: tuple[TargetRow, ...]
    trouble: Trouble | None
    left_out: Mapping[str, str]
    dry_run: bool = False
    failures: tuple[str, ...] = ()

    @property
    def unsettled(self) -> tuple[TargetRow, ...]:
        """Targets of which it is not known what serves, or that were to be rolled back and were not."""
        return tuple(
            row for row in self.rows if row.state.word not in SETTLED or (row.taken_back and row.state.word in DONE)
        )

    @property
    def exit_code(self) -> int:
        """0: all targets serve their build; 1 where one is unknown or was not reached; else as the trouble says."""
        if self.dry_run:
            return 0
        # A target that may serve the wrong build outweighs whatever
        # else happened: the run must not end as a clean rollback.
        if self.unsettled:
            return BuddyError.exit_code
        code = self.trouble.exit_code if self.trouble is not None else 0
        # With on_trouble 'stop' trouble may end the fleet without a rollback: then 3 would say what did not happen.
        if code == RolledBack.exit_code and not any(row.state.word == "ROLLED BACK" for row in self.rows):
            return BuddyError.exit_code
        return code or (BuddyError.exit_code if self.left_out else 0)

    @property
    def aborted(self) -> bool:
        """Whether a person ended it in place of an approval."""
        return self.trouble is not None and self.trouble.reference == ABORTED

    @property
    def ending(self) -> str:
        """How it ended, as a run's outcome in its manifest."""
        return ABORTED if self.aborted and self.exit_code == Aborted.exit_code else ENDINGS[self.exit_code]

    @property
    def title(self) -> str:
        """The result in one line: 'ROLLED BACK: 3 PROMOTED, 2 ROLLED BACK, 7 NOT STARTED'."""
        kind = describe_ending(self.ending)
        if self.dry_run:
            return "DRY RUN: nothing was changed"
        return f"{kind}: {tally((*(row.state.word for row in self.rows), *len(self.left_out) * ('NOT REACHED',)))}"

    def __str__(self) -> str:
        lines = [f"{self.title}."]
        if self.trouble is not None:
            lines.append(": ".join(filter(None, (self.trouble.target, self.trouble.says))))
        lines += [f"{name} was not reached: {why}" for name, why in self.left_out.items()]
        lines += [f"{row.name} serves {row.serves}. {row.says}" for row in self.unsettled]
        return "\n".join([*lines, *self.failures])

    def raise_for_ending(self) -> None:
        """Raise an error with the exit code, unless all targets serve their build: a notebook's last cell.

        Raises:
            RolledBack: ``rolled-back``. Aborted: ``aborted``. Held: ``held``. BuddyError: ``fleet-unsettled``.
            Refused: ``fleet-plan-changed``, ``fleet-wave-unapproved``, ``fleet-step-refused``.
        """
        if not self.exit_code:
            return
        says = str(self)
        now = f"{join_words(f'{row.name} serves {row.serves}' for row in self.rows)}."
        facts = {row.name: row.state.word for row in self.rows} | dict.fromkeys(self.left_out, "NOT REACHED")
        if self.trouble is None or self.exit_code == BuddyError.exit_code:
            # A resumed plan keeps its ID (``FleetPlan.accepts``). A
            # rollback ends that: what follows it is another deployment.
            approved = ": the same approval counts."
            if any(row.state.word == "ROLLED BACK" for row in self.rows):
                approved = ". A target was rolled back, so that the plan is a new one: approve it by its ID."
            following = self.trouble.next if self.trouble is not None and self.aborted else f"{UNSETTLED}{approved}"
            raise BuddyError("fleet-unsettled", says, now=now, next=following, facts=facts)
        following = self.trouble.next
        if self.aborted:
            raise Aborted(ABORTED, says, now=now, next=following, facts=facts)
        if self.exit_code == RolledBack.exit_code:
            raise RolledBack("rolled-back", says, now=now, next=following, facts=facts)
        if self.exit_code == Held.exit_code:
            raise Held("held", says, now=now, next=following, facts=facts)
        if self.trouble.reference == "fleet-plan-changed":
            raise Refused("fleet-plan-changed", says, now=now, next=following, facts=facts)
        if self.trouble.reference == "fleet-wave-unapproved":
            raise Refused("fleet-wave-unapproved", says, now=now, next=following, facts=facts)
        raise Refused("fleet-step-refused", says, now=now, next=following, facts=facts)


Watch = Callable[[Iterable[TargetRow]], object]


class FleetRun:
    """One run of a fleet's plan.

    Args:
        target: keeps the fleet's own record.
        watch: called with all rows whenever one has changed.
    """

    def __init__(self, target: Target, plan: FleetPlan, watch: Watch = list) -> None:
        # Set once, by whichever thread is first: the run's own, or the follower's. It is never cleared.
        self.trouble: Trouble | None = None
        self._lock = threading.Lock()
        self._approval: Approval | None = None
        self._target = target
        self._plan = plan
        self._watch = watch
        self._left_out = {name: error.what for name, error in plan.unreachable.items()}
        self._failures: list[str] = []
        self._rows = {
            planned.name: TargetRow(wave.name, planned, _before(planned))
            for wave in plan.waves
            for planned in wave.targets
        }

    def show(self) -> None:
        """Show all rows. A page that cannot be drawn stops nothing."""
        with self._target.side.contained("showing the fleet"):
            self._watch(self._rows.values())

    def hear(self, target: str, runbook: str, line: str) -> None:
        """Show a line of a step's progress. Called in the engine's thread."""
        row = self._rows[target]
        row.doing = line
        # That thread serves the cluster's connections, and must not wait for AWS.
        threading.Thread(target=self._look, args=(row, line), daemon=True).start()

    def _look(self, row: TargetRow, line: str) -> None:
        state = read_state(row.planned)
        # The step may have ended meanwhile.
        if row.doing == line:
            row.state = state
            self.show()

    def waves(self) -> Iterator[PlannedWave]:
        """The waves that have something to deploy, each when its turn has come; none after trouble.

        Between two waves it waits, and then reads the status of what this run deployed.
        """
        deployed: list[PlannedWave] = []
        for wave in self._plan.waves:
            # A rerun finds earlier waves live: they are neither deployed again, nor baked for a second time.
            if all(planned.live for planned in wave.targets):
                continue
            # Before a wave, not after one: after the last there is nothing left to stop.
            if deployed and self._plan.fleet.bake_minutes and not self._has_stopped():
                self._bake()
            if self._has_stopped():
                return
            yield wave
            deployed.append(wave)

    def deploy(self, steps: Callable[[], Steps], wave: PlannedWave, approval: Approval) -> None:
        """Deploy to a wave's targets side by side. After trouble the rest of it does not start.

        Args:
            steps: opens what the steps run on. An abort needs none.

        Raises:
            Refused: ``approval-void``.
        """
        # An approval is of the whole fleet, or, where the operator approves wave by wave, of this wave's own plan.
        approved = self._plan if self._plan.accepts(approval.plan_hash) else self._plan.only(wave)
        approval.must_cover(approved, approval.at)
        self._approval = approval
        if approval.order == "abort":
            self._abort(approved)
            return
        running = steps()
        self._journal("fleet-wave", wave=wave.name, targets=[planned.name for planned in wave.targets])
        # The plan may be hours old when a later wave's turn comes: each target is planned again, and compared.
        waiting = deque(self._planned_again(wave))
        if self._has_stopped():
            return
        # One by one: what has not been submitted when there is trouble never begins.
        for _ in range(min(len(waiting), self._plan.fleet.side_by_side)):
            self._begin(running, waiting.popleft())
        ended = threading.Event()
        follower = threading.Thread(target=self._follow, args=(wave.name, ended), daemon=True)
        follower.start()
        try:
            for result in running.results():
                row = self._rows[result.target]
                self._end(row, result)
                # Such a step only closed what its failsafe had rolled back: that is no trouble of this build.
                if row.planned.plan.closes and row.state.word == "ROLLED BACK" and not self._has_stopped():
                    self._begin_after_closing(running, row, wave.name)
                    continue
                # By what the alias serves, and not by the step's exit
                # code: a step that was lost may have promoted its build.
                passed = row.state.word in DONE or (row.state.word == "UNKNOWN" and self._goes_on)
                if not passed:
                    self._judge(row, result, wave.name)
                if waiting and not self._has_stopped():
                    self._begin(running, waiting.popleft())
        finally:
            # The follower may be rolling back: the wave does not end before it has.
            ended.set()
            follower.join()
        if self._has_stopped():
            # A step that began late, or ended after the rollback, may have moved its traffic once more.
            self._take_back(self._affected(wave.name))

    def _judge(self, row: TargetRow, result: StepResult, wave: str) -> None:
        """Stop for a target that does not serve its build; or say more of what the fleet stopped for."""
        trouble = Trouble(row.name, _why(row, result), _code(row, result))
        # The follower saw the rollback minutes ago, without its reason. The step's own report has it.
        if self.trouble is not None and self.trouble.target == row.name:
            self.trouble = trouble
        self._stop(trouble, wave)

    def refuse(self, wave: PlannedWave, refusal: Refused) -> None:
        """Stop before a wave that was not approved."""
        self._stop_before(wave, "fleet-wave-unapproved", refusal.what, refusal.next)

    def finish(self) -> FleetOutcome:
        """What each target serves at the end. The team is notified of it."""
        with ThreadPoolExecutor(READERS) as pool:
            # All aliases are read again: other runs and failsafes may have moved one since its step ended.
            states = pool.map(lambda row: read_state(row.planned), self._rows.values())
            for row, state in zip(self._rows.values(), states, strict=True):
                row.state = state
                row.doing = ""
                # The process of a step whose end was not reported may be there still.
                if state.word == "NOT STARTED" and row.results and row.results[-1].outcome == LOST:
                    row.state = TargetState("UNKNOWN", state.serves, "Its run's end is unknown: it may begin yet.")
        outcome = FleetOutcome(
            tuple(self._rows.values()),
            self.trouble,
            self._left_out,
            dry_run=self._target.dry_run,
            failures=tuple(dict.fromkeys(self._failures)),
        )
        self.show()
        # Without an approval nothing was started.
        if self._approval is not None and not self._target.dry_run:
            # Before the archives, which upload files: the team is notified as soon as all traffic is where it stays.
            told = notifications.announce(self._target, f"Ended: {self._plan.title}. {outcome}").failures
            outcome = replace(outcome, failures=(*outcome.failures, *told))
        self.archive_rollbacks()
        self._journal(
            "fleet-ended",
            says=outcome.title,
            ending=outcome.ending,
            exit_code=outcome.exit_code,
            targets={row.name: f"{row.state.word}: {row.state.serves}" for row in outcome.rows},
        )
        return outcome

    def _has_stopped(self) -> bool:
        return self.trouble is not None

    @property
    def _goes_on(self) -> bool:
        return self._plan.fleet.unreachable == "go_on"

    def _planned_again(self, wave: PlannedWave) -> list[PlannedTarget]:
        """The wave's targets as they are to be deployed to now: exactly what was approved, or trouble."""
        fresh = self._plan.repeat(planned.name for planned in wave.targets)
        changed = []
        ready = []
        for planned in wave.targets:
            found = fresh[planned.name]
            row = self._rows[planned.name]
            # A place without an answer is the policy's to judge; any other error is a change since the approval.
            if isinstance(found, BuddyError) and is_unreachable(found):
                row.state = TargetState("UNKNOWN", says=found.what)
                if not (self._goes_on or self._has_stopped()):
                    self._stop(Trouble(row.name, found.what, BuddyError.exit_code), wave.name)
            elif isinstance(found, BuddyError):
                changed.append(f"{planned.name}: {found.result} ({found.reference}). {found.what}")
            elif found.covers != planned.covers:
                parts = changed_parts(found.covers, planned.covers)
                changed.append(f"{planned.name}: {join_words(parts)}")
            else:
                row.planned = found
                row.state = _before(found)
                ready += [] if found.live else [found]
        if changed and not self._has_stopped():
            says = CHANGED_SINCE.format("; ".join(changed))
            self._stop_before(wave, "fleet-plan-changed", says, PLAN_AGAIN)
        return ready

    def _stop_before(self, wave: PlannedWave, reference: str, says: str, following: str) -> None:
        """Begin neither this wave nor a later one. Nothing is rolled back: no target is in trouble."""
        says = f"Wave {wave.name} was not started. {says}"
        self.trouble = Trouble(target="", says=says, exit_code=Refused.exit_code, reference=reference, next=following)
        self._journal("fleet-trouble", says=says)

    def _begin(self, running: Steps, planned: PlannedTarget) -> None:
        # Before it is submitted: a rollback counts a target that may have been deployed to.
        self._rows[planned.name].begun += 1
        assert self._approval is not None
        running.submit(_step(planned, self._approval))

    def _begin_after_closing(self, running: Steps, row: TargetRow, wave: str) -> None:
        """Deploy to a target whose lost rollout its first step has closed: that was approved with the fleet's plan."""
        found = self._plan.repeat([row.name])[row.name]
        if isinstance(found, BuddyError):
            self._stop(Trouble(row.name, found.what, found.exit_code), wave)
            return
        covers = found.covers
        # The closed rollout is the last deployment now, unless another tool removed its record. All else is to be as
        # it was approved.
        if found.plan.former is not None:
            covers = found.plan.former[0]
        changed = changed_parts(covers, row.planned.covers)
        if changed:
            says = CHANGED_SINCE.format(join_words(changed))
            self._stop(Trouble(row.name, says, Refused.exit_code, "fleet-plan-changed", PLAN_AGAIN), wave)
            return
        row.planned = found
        row.state = _before(found)
        self._begin(running, found)

    def _end(self, row: TargetRow, result: StepResult) -> None:
        """Note a step's end, and read what its target serves."""
        row.results.append(result)
        row.doing = ""
        row.state = read_state(row.planned)
        said = result.trouble.partition("\n")[0]
        journal_result(self._target.journal, result, wave=row.wave, serves=row.state.serves, says=said)
        self.show()

    def _stop(self, trouble: Trouble, wave: str) -> None:
        """Begin no further target, and roll back what the policy says."""
        # The follower and the run's own thread may find trouble at once: the first is recorded, and rolls back.
        with self._lock:
            if self.trouble is not None:
                return
            self.trouble = trouble
        self._journal("fleet-trouble", target=trouble.target, says=trouble.says)
        self._take_back(self._affected(wave))

    def _affected(self, wave: str) -> list[TargetRow]:
        """The targets that the policy rolls back, as far as this run deployed to them, or may have."""
        policy = self._plan.fleet.on_trouble
        # The rows of running steps are as old as their last line of progress.
        self._read_running()
        return [
            row
            for row in self._rows.values()
            if policy == "all" or (policy == "wave" and row.wave == wave)
            # UNKNOWN too: its alias may serve the build. Without a stable
            # version, in a first deployment, nothing can be returned to.
            if row.begun and row.state.word in ("PROMOTED", "RUNNING", "UNKNOWN") and row.planned.plan.stable
        ]

    def _read_running(self) -> list[TargetRow]:
        """Read again what the targets serve whose steps are running; these targets."""
        running = [row for row in self._rows.values() if row.running]
        with ThreadPoolExecutor(READERS) as pool:
            for row, state in zip(running, pool.map(lambda row: read_state(row.planned), running), strict=True):
                # Its step may have ended meanwhile.
                if row.running:
                    row.state = state
        return running

    def _follow(self, wave: str, ended: threading.Event) -> None:
        """Show what the running steps' targets serve, and act on a rollback minutes before its step ends."""
        while not ended.wait(FOLLOW_S):
            for row in self._read_running():
                # A rollout that is resumed may begin as one that its failsafe rolled back.
                if row.state.word == "ROLLED BACK" and not row.planned.plan.under_way:
                    self._stop(Trouble(row.name, "Its traffic was rolled back.", RolledBack.exit_code), wave)
            if self._has_stopped():
                # A step that had shifted nothing yet has gone on.
                self._take_back(self._affected(wave))
            self.show()

    def _take_back(self, rows: Sequence[TargetRow], why: str = "Rolled back by the policy on_trouble.") -> None:
        """Roll targets back, all at once: this process writes, so that no worker has to be free."""
        with ThreadPoolExecutor(READERS) as pool:
            for row in pool.map(self._roll_back, rows):
                row.taken_back = why
                row.state = read_state(row.planned)
                if row.failure is not None:
                    self._failures.append(f"{row.name} was not rolled back: {row.failure.what}")
        self.show()

    def _roll_back(self, row: TargetRow) -> TargetRow:
        """Roll one target back to the version that served before, or note why not; the same row.

        AWS: as ``plan_rollback`` and ``run_rollback``, which writes.
        """
        here = self._acting_on(row)

        def say(line: str) -> None:
            row.doing = line

        # It may be tried more than once: only what the last attempt failed with counts.
        row.failure = None
        try:
            plan = rollback.plan_rollback(here, row.planned.plan.stable, say)
            assert self._approval is not None
            # The fleet's approval includes the policy on_trouble. As a rollback
            # of one target it has that target's plan ID, and the names.
            own = replace(self._approval, plan_hash=plan.hash, at=here.clock.now(), order="")
            says = f"{plan.title}, for the fleet's plan {self._approval.plan_hash}"
            here.journal.append("approved", **own.facts(says))
            rollback.run_rollback(here, plan, own, say)
        except BuddyError as error:
            row.failure = error
        finally:
            row.doing = ""
            # It may have waited for AWS: the sandbox's time would wait for it from now on.
            here.close()
        return row

    def _acting_on(self, row: TargetRow) -> Target:
        """What rolls a target back, with one run of its own however often that is tried."""
        # The follower and the run's own thread may roll the same target back: both act with one run.
        with self._lock:
            if row.rollback is None:
                row.rollback = begin_rollback(row.planned.here, row.planned.member, dry_run=False)
                assert self.trouble is not None
                says = ": ".join(filter(None, (self.trouble.target, self.trouble.says)))
                row.rollback.journal.append("fleet-trouble", fleet=self._target.run, says=says)
            return row.rollback

    def archive_rollbacks(self) -> None:
        """Archive the rollbacks' own runs, once. It takes time: all traffic has moved before."""
        for row in self._rows.values():
            here = row.rollback
            # Cleared first: a notebook's cell calls this once more when it ends, after ``finish``.
            row.rollback = None
            if here is not None:
                with self._target.side.contained(f"archiving the rollback of {row.name}"):
                    archive_rollback(self._target, here, row.failure, row.state.serves)
                self._target.side.adopt(row.name, here.side)

    def _abort(self, plan: FleetPlan) -> None:
        """Roll back a plan's targets whose rollout is in progress: a person chose that in place of the approval."""
        assert self._approval is not None
        # Targets that serve the build already stay: an abort ends what
        # is in progress, and ``fleet rollback`` is for the others.
        rows = [self._rows[planned.name] for planned in plan.targets if planned.plan.under_way]
        in_progress = join_words(row.name for row in rows)
        says = f"{join_words(self._approval.by)} aborted it. In progress: {in_progress}."
        self.trouble = Trouble(
            target="", says=says, exit_code=Aborted.exit_code, reference=ABORTED, next=AFTER_AN_ABORT
        )
        self._journal("fleet-trouble", says=says)
        self._take_back(rows, "Rolled back: the fleet's deployment was aborted.")

    def _bake(self) -> None:
        """Wait between two waves, then read the status of what this run deployed: a problem is trouble."""
        clock = self._target.clock
        until = clock.now() + timedelta(minutes=self._plan.fleet.bake_minutes)
        self._journal("fleet-bake", until=iso_utc(until))
        try:
            clock.sleep_until(until)
        finally:
            # From here on this process waits for workers, and the sandbox's time must not wait for it.
            self._target.close()
        deployed = [row for row in self._rows.values() if row.begun and row.state.word == "PROMOTED"]
        found = status.read_fleet(targets.open_places(tuple(row.planned.member for row in deployed), RUNBOOK))
        for each in found.targets:
            # An unknown status stops nothing here, for example that of a target without requests at night.
            if each.report.state is Health.PROBLEM and not self._has_stopped():
                row = self._rows[each.member.name]
                self._stop(Trouble(row.name, f"After the bake: {each.report.verdict}", RolledBack.exit_code), row.wave)

    def _journal(self, kind: str, **fields: object) -> None:
        self._target.journal.append(kind, **fields)


def run_fleet(
    target: Target, plan: FleetPlan, approval: Approval, steps: Callable[[FleetRun], AbstractContextManager[Steps]]
) -> FleetOutcome:
    """Run an approved plan to its end.

    Args:
        steps: opens what the steps run on, for example ``partial(open_engine, ...)``.

    AWS: as ``plan_rollout``, ``read_state`` and ``run_rollback``, which writes; the steps as ``run_rollout``.
    """
    run = FleetRun(target, plan)
    with steps(run) as running:
        for wave in run.waves():
            run.deploy(lambda: running, wave, approval)
    return run.finish()


def _before(planned: PlannedTarget) -> TargetState:
    """What a target's plan says of it before its turn."""
    if planned.live:
        return TargetState("ALREADY LIVE", f"100 % v{planned.plan.change.known}")
    if planned.plan.under_way:
        return TargetState("WAITING", says="Its rollout is in progress.")
    return TargetState("WAITING", f"100 % v{planned.plan.stable}" if planned.plan.stable else "")


def _step(planned: PlannedTarget, approval: Approval) -> Step:
    """The deployment of one target, by its own plan."""
    given: dict[str, object] = {"artifact": planned.artifact, "approved_plan": planned.plan.hash}
    if planned.plan.approvals:
        given["approved_by"] = list(approval.by)
    if planned.plan.break_glass is not None:
        given["break_glass"] = asdict(planned.plan.break_glass)
    return Step(planned.name, STEP, given, planned.place)


def _why(row: TargetRow, result: StepResult) -> str:
    """Why a target is in trouble, in a sentence or two."""
    said = str(result.error.get("what") or result.trouble).split("\n")
    return shorten(" ".join(filter(None, said)) or row.state.says or f"It is {row.state.word}.", SAID)


def _code(row: TargetRow, result: StepResult) -> int:
    """The exit code of a target's trouble: the alias says what happened, its run says why."""
    # A rollout that is inconclusive ('held') rolls back as well: only its exit code tells it from a regression.
    if row.state.word == "ROLLED BACK":
        return Held.exit_code if result.exit_code == Held.exit_code else RolledBack.exit_code
    # A refusal changed nothing only where the alias says so; else
    # the target is in an unknown state, whatever its run said.
    refused = row.state.word == "NOT STARTED" and result.exit_code == Refused.exit_code
    return Refused.exit_code if refused else BuddyError.exit_code
