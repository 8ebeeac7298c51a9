"""One engine for every strategy: publish, test, shift in stages, monitor, then promote or roll back.

A rollout is a generator that never sleeps: it yields an observation per poll, with the time of the next one, and its
driver waits. Its whole state is in the alias, so that any machine can resume, abort or explain it. Between polls it is
in one of the states below.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from buddy_ops.aws import aliases, failsafe, freezes, versions
from buddy_ops.aws.aliases import Alias, AliasMoved, AliasState, RolloutState
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, Refused, Unobservable
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.outcome import Ending, Outcome
from buddy_ops.core.plan import Approval
from buddy_ops.core.text import MINUTE, exact_percent, parse_utc, time_of_day
from buddy_ops.deployment import _approval, _publishing, hooks, ramp, smoke_tests
from buddy_ops.deployment._after_rollback import AfterRollback, is_stopped_by_interrupt, remove_mark
from buddy_ops.deployment._traffic import (
    FailsafeLost,
    FailsafeTriggered,
    Traffic,
    alias_deleted,
    delete_failsafes,
    own_open_rollout,
)
from buddy_ops.deployment.observation import Observation, Order, Polls, Rollout, next_poll, observe, show
from buddy_ops.deployment.rollout_plan import RolloutPlan, check_rules, plan_rollout
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.log_feed import TICK
from buddy_ops.health.stable_alone import StableTest
from buddy_ops.health.verdict import Verdict
from buddy_ops.migrations import schema

__all__ = ["Observation", "Order", "Outcome", "Rollout", "RolloutPlan", "drive_rollout", "plan_rollout", "run_rollout"]


@dataclass(frozen=True)
class Starting:
    """The alias decides where the rollout begins, or is resumed."""


@dataclass(frozen=True)
class Preparing:
    """The build becomes a version, is tested, and receives its first traffic."""


@dataclass(frozen=True)
class Baking:
    """Traffic is split until the verdict. ``ramp``: this is a short stage before the policy's own."""

    ramp: bool


@dataclass(frozen=True)
class Watching:
    """The new version receives all traffic, and is monitored."""


@dataclass(frozen=True)
class Healthy:
    """The new version is shown to be healthy and stays, also if this run is lost. It is monitored until ``until``."""

    until: datetime


@dataclass(frozen=True)
class Promoting:
    """A stage or the watch has passed: the next write follows.

    Attributes:
        seen: the poll that decided it.
        by_operator: whether a person decided it.
    """

    passed: Baking | Watching | Healthy
    seen: Observation
    by_operator: bool = False


@dataclass(frozen=True)
class RollingBack:
    """All traffic goes back to the stable version.

    Attributes:
        ending: the rollout's ending then. With any but 'held' the new version is marked bad.
        reasons: a sentence each.
        unshown: the poll that decided it, where it was not yielded yet.
    """

    ending: Ending
    reasons: tuple[str, ...]
    unshown: Observation | None = None

    @property
    def stable_test(self) -> StableTest | None:
        """What stable is tested by afterwards; None unless the judge decided, with nothing to compare with at 100 %."""
        if self.ending != "rolled-back" or self.unshown is None or self.unshown.verdict is None:
            return None
        return self.unshown.verdict.stable_test


@dataclass(frozen=True)
class Ended:
    """Nothing is left to do."""

    outcome: Outcome


Step = Starting | Preparing | Baking | Watching | Healthy | Promoting | RollingBack
State = Step | Ended

FORMER_PROBE = 0.01
"""The weight of the stage before the policy's own in records of an earlier release, which have no shares."""

ABORTED = RollingBack("aborted", ("A person aborted the rollout.",))


def run_rollout(target: Target, plan: RolloutPlan, approval: Approval) -> Rollout:
    """Carry the plan out, a poll at a time. Closing the generator leaves the alias as it is, under its failsafe.

    AWS: lambda:UpdateFunctionCode, PublishVersion, UpdateAlias or CreateAlias, InvokeFunction,
    scheduler:CreateSchedule, UpdateSchedule, DeleteSchedule (write); lambda:GetAlias, GetFunctionConfiguration,
    cloudwatch:GetMetricData (read).

    Raises:
        Refused: ``approval-void``, ``smoke-failed``; AliasMoved when another run or tool moves the alias.
        AwsFailed: AWS refused or could not be reached; running again resumes.
    """
    approval.must_cover(plan, target.clock.now())
    if plan.break_glass is not None:
        target.journal.append(
            "broke-glass", who=plan.break_glass.who, why=plan.break_glass.why, against=plan.violations
        )
    began = target.clock.now()
    alias = aliases.read_alias(target)
    # The plan of a rollout with stages does not cover 100 % for the new version at once.
    if alias is None and plan.stable:
        raise alias_deleted(target, plan.stable)
    if alias is None:
        outcome = yield from _deploy_first(target, plan, approval, began=began)
    else:
        outcome = yield from _Run(target, plan, approval, alias=alias, began=began).to_end()
    # A clock that jumped, or a machine that slept, makes times and bakes in this outcome other than they were meant.
    jumps = [jump.describe() for jump in target.clock.jumps if jump.at >= began]
    outcome = replace(outcome, reasons=(*outcome.reasons, *jumps))
    target.journal.append(
        "outcome",
        ending=outcome.ending,
        stable=outcome.stable,
        new=outcome.new,
        stage=outcome.stage,
        minutes=round((outcome.ended - outcome.began) / MINUTE, 1),
        requests=outcome.requests,
        failed=outcome.failed,
        reasons=outcome.reasons,
        lateness=outcome.lateness,
        compared=outcome.compared,
    )
    return outcome


def drive_rollout(target: Target, rollout: Rollout) -> Outcome:
    """Drive a rollout to its end without a chart. An interrupt after a rollback ends only what is still read."""
    order: Order | None = None
    while True:
        try:
            observation = rollout.send(order)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        try:
            target.clock.sleep_until(observation.wake_at)
        except KeyboardInterrupt:
            if not is_stopped_by_interrupt(observation):
                raise
            order = "stop"


def _deploy_first(target: Target, plan: RolloutPlan, approval: Approval, *, began: datetime) -> Rollout:
    """Create the alias. Nothing served before, so there is nothing to compare with or to roll back to."""
    ending: Ending = "dry-run"
    version = plan.change.known
    stage = ""
    reason = "Dry run: nothing was written."
    if not target.dry_run:
        try:
            version = yield from _publish(target, plan, None, approval)
            _require_schema(target, version)
            # Without a version before there is nothing to compare with: the health check is inconclusive.
            since = iso_utc(target.clock.now())
            record = RolloutState(run=target.run, stable_version="", new_version=version, stage="unproven", since=since)
            # Without an alias as it was read before: it is created, which AWS refuses if another run was first.
            aliases.update_alias(target, None, AliasState(version, None, 0.0, record))
        except AwsFailed as failure:
            failure.now = aliases.describe_current_state(target, None, began)
            raise
        ending = "deployed"
        stage = record.stage
        reason = f"The alias {target.resource} was created → v{version} (100 %)."
    return Outcome(ending, plan.stable, version, stage=stage, began=began, ended=target.clock.now(), reasons=(reason,))


def _publish(target: Target, plan: RolloutPlan, alias: Alias | None, approval: Approval) -> Polls[str]:
    """Make the plan's change a version that passed its smoke tests; its number.

    Raises:
        Refused: ``frozen``, ``not-allowed``, ``smoke-failed``, ``rollout-under-way``.
    """
    _require_allowed(target, plan, alias)
    if alias is not None and alias.rollout is not None:
        # A run that was killed right before its end left a failsafe, which would fire at this rollout's weights.
        delete_failsafes(target, alias.rollout.run)
    version = plan.change.known
    if not version:
        version = yield from _publishing.publish_build(target, plan, alias, approval)
    if plan.strategy in target.settings.rollout.smoke_tested:
        smoke_tests.require_passing(target, version)
    yield from hooks.require_before_traffic(target, version, stable=plan.stable, follows=plan.follows)
    return version


def _require_allowed(target: Target, plan: RolloutPlan, alias: Alias | None) -> None:
    """Ask again for freezes and for the environment's rules: minutes may have passed since the plan."""
    freezes.require_unfrozen(target)
    check_rules(target, alias, plan.change.sha256, strategy=plan.strategy, break_glass=plan.break_glass)


def _require_schema(target: Target, version: str) -> None:
    """Compare the schemas that a version is compatible with to the tables', before it receives traffic."""
    if target.settings.tables:
        schema.require_compatible(target, versions.read_version(target, version))


class _Run:
    """One run of a plan on an alias that exists.

    Attributes:
        began: when the rollout began; after a resumption, when its first run shifted traffic.
        started: when this run began.
        seen: the last observation.
        unread_since: since when metrics or alias cannot be read.
        failing_since: since when the next write fails.
        healthy: whether the new version was shown to be healthy, and is monitored on.
        trouble: why metrics or alias could not be read at the last poll, so that nothing may begin.
        delay: why judging takes longer than usual.
    """

    def __init__(self, target: Target, plan: RolloutPlan, approval: Approval, *, alias: Alias, began: datetime) -> None:
        self.target = target
        self.plan = plan
        self.approval = approval
        self.settings = target.settings.rollout
        run = target.run
        if plan.resumes is not None:
            run = plan.resumes.run  # the failsafe of the run that began the rollout goes on
        self.traffic = Traffic(target, alias, run=run, stable=plan.stable, new=plan.change.known)
        self.evidence = RolloutEvidence(target, plan.stable, plan.change.known, by_log=True)
        self.hooks = hooks.Hooks(target, stable=plan.stable, follows=plan.follows)
        self.stages = plan.stages
        self.began = began
        self.started = began
        self.paused = False
        self.frozen = ""  # why no stage may begin, if deployments are frozen
        self.seen: Observation | None = None
        self.unread_since: datetime | None = None
        self.failing_since: datetime | None = None
        self.healthy = False
        self.trouble = ""
        self.delay = ""

    def to_end(self) -> Rollout:
        """Go from state to state."""
        try:
            state: State = Starting()
            while not isinstance(state, Ended):
                try:
                    state = yield from self._next_state(state)
                except FailsafeTriggered:
                    # Any read or write of any state may be the first to find that.
                    state = self._failsafe_triggered()
                except FailsafeLost as lost:
                    state = RollingBack("held", (str(lost),))
        except AliasMoved as moved:
            if self._is_out_of_custody(moved.alias):
                delete_failsafes(self.target, self.traffic.run)
            if not (self.healthy and self.traffic.new in moved.alias.serving):
                raise
            # A later deployment or an edit takes nothing from a rollout that has succeeded.
            ended = time_of_day(self.target.clock.now(), self.target.clock.now())
            state = self._end("proved", f"Monitoring ended at {ended}. {moved.what}", stage="proved")
        except AwsFailed as failure:
            # An operator does not ask what one call changed, but what serves now.
            failure.now = self.traffic.describe()
            raise
        return state.outcome

    def _next_state(self, state: Step) -> Polls[State]:
        match state:
            case Starting():
                return self._first_state()
            case Preparing():
                self.traffic.new = yield from _publish(self.target, self.plan, self.traffic.alias, self.approval)
                if self.target.settings.lease.prove:
                    yield from self._prove_failsafe()
                yield from self._delete_stray_failsafes()
                return self._begin()
            case Promoting():
                return (yield from self._promote(state))
            case RollingBack():
                return (yield from self._roll_back(state))
            case Baking() | Watching() | Healthy():
                return (yield from self._poll())

    def _is_out_of_custody(self, alias: Alias) -> bool:
        """Whether our failsafe has nothing left to protect, or would do harm, on an alias that was moved.

        It stays as long as our version has a weight, no matter who set it: failsafe and weight go together. But it
        clears the weights: where another tool made the new version the primary one, that would give it all traffic.
        """
        return self.traffic.new not in alias.serving or alias.primary != self.traffic.stable

    # Before traffic

    def _first_state(self) -> State:
        """Where the rollout begins, or is resumed: the alias decides, as it is now."""
        alias = self.traffic.alias
        if self.target.dry_run:
            return self._end("dry-run", "Dry run: nothing was written.")
        # This version serves alone already: as the plan said, or because another run of it was faster.
        if self.traffic.switched and self.plan.resumes is None:
            return self._already_live()
        record = own_open_rollout(self.target, alias, self.traffic.new)
        if self.plan.resumes is None:
            # Another run began since the plan was made, or the version to compare with is another one.
            if record is not None or alias.primary != self.plan.stable:
                raise AliasMoved(self.target, alias)
            _approval.require_unused(self.target, self.plan, alias)
            return Preparing()
        if record is None:
            # Since the plan was made, the rollout that it resumes was closed or rolled back.
            if self.traffic.switched:
                return self._already_live()
            raise AliasMoved(self.target, alias)
        self.traffic.run = record.run
        self._take_over(record)
        if alias.failsafe_triggered:
            return self._failsafe_triggered()
        if self.approval.order == "abort":
            return ABORTED
        return self._resume(record)

    def _already_live(self) -> Ended:
        record = self.traffic.alias.rollout
        failures: list[str] = []
        # Another rollout's schedules are not ours to delete.
        if record is not None and record.new_version == self.traffic.new:
            # A run that was killed at its very end left its schedules behind.
            failures = delete_failsafes(self.target, record.run)
        reason = f"v{self.traffic.new} has this code, and {self.target.resource} serves {self.traffic.alias}."
        return self._end("already-live", reason, *failures)

    def _take_over(self, record: RolloutState) -> None:
        """Know the stages and times of the run before: what it shifted is counted and judged, too."""
        # Rungs before the first stage are not in the settings' stages: the record's shares say which ones were.
        if record.probe:
            self.stages = self._ramp_and_stages(record)
        self.began = self.evidence.resume(*self._served_shares(record))

    def _resume(self, record: RolloutState) -> State:
        """Go on with the rollout at its record's stage."""
        self._require_known_share(record)
        self.target.journal.append("resumed", run=record.run, stage=record.stage, of=f"v{self.traffic.new}")
        if record.stage == "proved":
            self.healthy = True
            return self._state_of_alias()  # a healthy version stays: it needs no failsafe
        try:
            self.traffic.protect()
        except AwsFailed as failure:
            if not record.open:
                raise  # the new version already serves alone, and no failsafe of ours threatens that
            return RollingBack("held", (f"The failsafe could not be armed. {failure.what}",))
        return self._state_of_alias()

    def _prove_failsafe(self) -> Polls[None]:
        """See a failsafe fire at a scratch alias, before traffic depends on one."""
        for wake_at in failsafe.prove_failsafe(self.target, self.traffic.stable, self.traffic.new):
            says = "Waiting for the failsafe to fire on a scratch alias."
            yield Observation(self.target.clock.now(), "prove", 0.0, wake_at=wake_at, says=says)

    def _served_shares(self, record: RolloutState) -> tuple[RolloutState, list[float]]:
        """The record, and the new version's share in each of its stages, as far as they are known."""
        if record.shares:
            return record, list(record.shares)
        if record.shifting:
            return record, list(self.stages)
        # A record of an earlier release has no shares. Stages that the settings do not have are not judged.
        first = max(0, len(record.stage_ages_s) + 1 - len(self.stages))
        return replace(record, stage_ages_s=record.stage_ages_s[first:]), list(self.stages)

    def _require_known_share(self, record: RolloutState) -> None:
        """Refuse to go on where a record of an earlier release has the number of a stage, and the settings have others.

        Raises:
            Refused: ``stages-differ``.
        """
        if record.shares or not record.shifting:
            return
        stage = int(record.stage)
        if self.stages[stage - 1 : stage] == (self.traffic.weight,):
            return
        raise Refused(
            "stages-differ",
            f"v{self.traffic.new} has {exact_percent(self.traffic.weight)} of the traffic in stage {record.stage}. The "
            f"settings have other stages: {', '.join(map(exact_percent, self.stages))}.",
            now=f"{self.target.resource} serves {self.traffic.alias}; nothing was changed. The failsafe of run "
            f"{record.run} rolls back unless the rollout is resumed.",
            next="Set rollout.stages_percent as it was when the rollout began, then run this again; or roll back with "
            "rollback/immediate.",
        )

    def _delete_stray_failsafes(self) -> Polls[None]:
        """Delete what a lost run left armed for a shift that never happened: it would roll this rollout back."""
        try:
            for wake_at in failsafe.delete_strays(self.target):
                says = "Waiting until a failsafe of another run is known to protect no traffic."
                yield Observation(self.target.clock.now(), "prove", 0.0, wake_at=wake_at, says=says)
                # Where that run did shift its traffic, this one ends.
                self.traffic.read()
        except AwsFailed as failure:
            what = "Failsafes of earlier runs could not be listed."
            self.target.journal.append("passed-over", what=what, because=failure.what)

    def _begin(self) -> State:
        """Read the minutes before, then shift to the first stage."""
        # Not the one from the constructor: a new build has its number only now.
        self.evidence = RolloutEvidence(self.target, self.traffic.stable, self.traffic.new, by_log=True)
        trouble = self.evidence.read(self.target.clock.now())
        if not self.evidence.is_readable:
            raise Unobservable(
                "metrics-unreadable",
                f"The rollout did not begin: it could not be monitored. {trouble}",
                now=f"{self.target.resource} serves {self.traffic.alias}; nothing was shifted.",
                next="Check whether CloudWatch has an outage or is late (setting late_data_s), and if the role may "
                "call cloudwatch:GetMetricData. Then run this again.",
            )
        # Publishing and proving take minutes: meanwhile deployments may be frozen, or a table migrated.
        _require_allowed(self.target, self.plan, self.traffic.alias)
        _require_schema(self.target, self.traffic.new)
        # The other strategies switch at once: their plan has no smaller weight before that.
        if len(self.plan.stages) > 1:
            rungs = ramp.first_rungs(
                self.target.settings, self._delay, self.evidence.requests_per_minute, self.plan.stages[0]
            )
            self.stages = (*rungs, *self.plan.stages)
        state = self._shift_up()
        # A rollout begins with its first traffic: the minutes of publishing and of the failsafe's test are not counted.
        self.began = self.evidence.shifts[0][0]
        return state

    # Stages

    def _ramp_and_stages(self, record: RolloutState) -> tuple[float, ...]:
        """The stages of a rollout that began with a ramp: what was, and what is still to come."""
        first_stage = self.plan.stages[0]
        rungs = [share for share in record.shares or (FORMER_PROBE,) if share < first_stage]
        if not rungs:
            return self.plan.stages
        following = ramp.next_rungs(self.target.settings, self._delay, rungs[-1], first_stage)
        return (*rungs, *following, *self.plan.stages)

    @property
    def _delay(self) -> ramp.Delay:
        """How late failures are judged now."""
        if self.evidence.decided_by_ticks:
            return ramp.by_ticks(TICK.total_seconds(), self.evidence.tick_lag.total_seconds())
        return ramp.by_minutes(self.target.settings)

    def _state_of_alias(self) -> Baking | Watching | Healthy:
        record = self.traffic.record
        if record.shifting:
            return Baking(ramp=record.probe and self.traffic.weight < self.plan.stages[0])
        if record.stage == "proved":
            return Healthy(parse_utc(record.monitored_until or record.since))
        return Watching()

    def _next_weight(self) -> float | None:
        """The new version's share in the next stage; None at 100 %. A run may resume with other stages."""
        return next((share for share in self.stages if share > self.traffic.weight), None)

    def _shift_up(self) -> State:
        """Give the new version the next stage's share."""
        now = self.target.clock.now()
        weight = self._next_weight() or 1.0
        stage = "watch"
        if weight < 1.0:
            stage = "1"
            if self.traffic.weight:
                stage = str(int(self.traffic.record.stage) + 1)
        # At 100 %, too, the stable version stays the primary one: then the failsafe protects the new version's watch.
        self.traffic.shift(AliasState(self.traffic.stable, self.traffic.new, weight, self._record(stage, weight, now)))
        return self._shifted()

    def _shifted(self) -> State:
        """The write took effect: from now on the stage bakes."""
        self.failing_since = None
        record = self.traffic.record
        # The record's time, not now: the answer to the write may have been lost until this poll.
        self.evidence.shifted(parse_utc(record.since), self.traffic.weight)
        self.traffic.confirm_shift(record.stage)
        return self._state_of_alias()

    def _record(self, stage: str, weight: float, now: datetime) -> RolloutState:
        """The alias's record for a new stage of this rollout."""
        alias = self.traffic.alias
        old = alias.rollout
        if old is not None and old.new_version == self.traffic.new and old.open:
            passed_s = round((now - parse_utc(old.since)).total_seconds())
            # From these a resumed run knows under which weight each minute was served.
            ages_s = tuple(age_s + passed_s for age_s in (*old.stage_ages_s, 0))
            accepted = self.evidence.accepted
            record = replace(old, stage=stage, since=iso_utc(now), stage_ages_s=ages_s, accepted=accepted)
            # The shares are of all stages, or of none: one alone would be taken for the first stage's.
            if old.shares:
                record = record.with_share(weight)
            return record
        record = RolloutState(
            self.target.run,
            self.traffic.stable,
            self.traffic.new,
            stage=stage,
            since=iso_utc(now),
            probe=len(self.stages) > len(self.plan.stages),
            follows=self.plan.follows,
        ).with_share(weight)
        if old is None:
            return replace(record, note=alias.description[:60])
        fallback = old.fallback_version
        if alias.primary == old.new_version:
            fallback = old.stable_version
        record = replace(record, fallback_version=fallback, note=old.note)
        for version in old.rejected_versions:
            if version != self.traffic.new:
                record = record.with_rejected(version)
        if old.open:
            # Its failsafe fired, and no run has closed it: this one does.
            record = record.with_rejected(old.new_version)
        return record

    def _poll(self) -> Polls[State]:
        """One look at the alias and the metrics, or at the log alone, and what follows from it."""
        now = self.target.clock.now()
        only_log = self.evidence.polls_log and self.evidence.has_minutes_of(now)
        if only_log:
            self.evidence.read_ticks(now)
        else:
            self._read(now)
        observation, following = self._judge(now, journaled=not only_log)
        if only_log and isinstance(following, Promoting):
            # No step forward by what was read of the alias, of freezes and of the minutes some seconds ago.
            self._read(now)
            observation, following = self._judge(now, journaled=True)
        self.seen = observation
        state = self._state_of_alias()
        # What was decided is shown with the next state's first poll: a rollback waits for no chart.
        if following is not None:
            return following
        order = yield from show(observation, self.evidence)
        if order == "abort":
            return ABORTED
        # Without an order a pause goes on.
        self.paused = order == "hold" or (self.paused and order is None)
        # A person may shorten a bake, but not override a freeze.
        if order == "promote" and not self.frozen:
            return Promoting(state, observation, by_operator=True)
        return state

    def _read(self, now: datetime) -> None:
        """Read the alias, freezes and metrics, and renew the failsafe."""
        trouble = ""
        try:
            if self.traffic.read() and self.traffic.record.open:
                self._shifted()
            if self.traffic.record.stage == "proved" and self.traffic.failsafe is not None:
                # The answer to the write that says so was lost.
                self._release()
                self.healthy = True
            self.traffic.renew()
        except AwsFailed as failure:
            # The metrics get their turn: a verdict does not wait until the alias can be read.
            trouble = failure.what
        self._read_freezes()
        self.delay = self.evidence.read(now) or ""
        if not self.evidence.is_readable:
            trouble = " ".join(filter(None, (trouble, self.delay)))
            self.delay = ""
        self.trouble = trouble

    def _judge(self, now: datetime, *, journaled: bool) -> tuple[Observation, Promoting | RollingBack | None]:
        """What was found, and what follows from it."""
        state = self._state_of_alias()
        verdict = self.evidence.verdict(now, self._bake_s(state), final=not isinstance(state, Baking))
        # Between full minutes, a verdict that stays says nothing new.
        if self.seen is None or self.seen.verdict is None or self.seen.verdict.decision != verdict.decision:
            journaled = True
        observation = self._observe(now, state, verdict, journaled=journaled)
        return observation, self._decide(observation, state, verdict, self.trouble)

    def _read_freezes(self) -> None:
        self.frozen = ""
        try:
            if freezes.active_freezes(self.target):
                self.frozen = "Deployments were frozen"
        except AwsFailed as failure:
            # What cannot be read may be a freeze: no stage begins, and traffic stays where it is.
            self.frozen = f"Freezes could not be read ({failure.what})"

    def _bake_s(self, state: Baking | Watching | Healthy) -> float:
        """How many seconds a stage bakes."""
        if self.plan.stages == (1.0,):
            # A switch at once is watched for the whole time, healthy or not.
            return 60.0 * self.settings.watch_minutes
        if state == Baking(ramp=True):
            return self._delay.rung_s
        return 60.0 * self.settings.bake_minutes

    def _observe(
        self, now: datetime, state: Baking | Watching | Healthy, verdict: Verdict, *, journaled: bool
    ) -> Observation:
        says = " ".join(filter(None, (*verdict.reasons, self.delay)))
        stage = self.traffic.record.stage
        until = None
        if self.trouble:
            says = f"Metrics cannot be read: {self.trouble}"
        if isinstance(state, Healthy):
            stage = "watch"
            until = state.until
            says = (
                f"HEALTHY: v{self.traffic.new} stays at 100 %. It is monitored until {time_of_day(until, now)}; "
                f"you can stop this run without effect on the traffic. {says}"
            )
        return observe(
            self.target,
            self.evidence,
            verdict,
            stage=stage,
            weight=self.traffic.weight,
            next_weight=self._next_weight(),
            says=says,
            bake_left_s=max(0.0, self._bake_s(state) - self.evidence.baked_s(now)),
            monitored_until=until,
            journaled=journaled,
        )

    def _decide(
        self, observation: Observation, state: Baking | Watching | Healthy, verdict: Verdict, trouble: str
    ) -> Promoting | RollingBack | None:
        """What follows from the verdict; None to stay."""
        # A regression in the minutes that were read counts, even if the latest cannot be read.
        if verdict.decision == "rollback":
            return RollingBack("rolled-back", verdict.reasons, observation)
        if isinstance(state, Healthy):
            # What cannot be read takes no traffic from a healthy version. A doubt prolongs the watch.
            over = observation.at >= state.until
            if over and (verdict.decision == "promote" or observation.at >= self._longest_watch()):
                return Promoting(state, observation)
            return None
        if trouble:
            self.unread_since = self.unread_since or observation.at
            if self._is_over(self.unread_since, observation.at):
                why = f"Metrics or the alias could not be read for {self.settings.unreadable_minutes:g} min. {trouble}"
                return RollingBack("held", (why,), observation)
            return None
        self.unread_since = None
        if isinstance(state, Watching):
            # A watch also ends by time: the alarms go on, and a later run may close it as healthy.
            over = self.evidence.judged_until(observation.at) >= self._longest_watch()
            if verdict.decision == "promote" or over:
                return Promoting(state, observation)
        # Its time is over without a decision: traffic does not stay split on a doubt.
        if verdict.expired:
            return RollingBack("held", verdict.reasons, observation)
        if isinstance(state, Watching):
            return None
        if self.frozen:
            # A freeze stops every step forward, but traffic does not stay split for as long as it lasts.
            longest_s = self._bake_s(state) + 60 * self.settings.stretch_minutes
            if self.evidence.baked_s(observation.at) >= longest_s:
                return RollingBack("held", (f"{self.frozen} while traffic was split.",), observation)
            return None
        if verdict.decision == "promote" and not self.paused:
            return Promoting(state, observation)
        return None

    def _longest_watch(self) -> datetime:
        """When the watch at 100 % ends at the latest: after a resumption its time begins anew."""
        # Not from the first run's shift alone: a run that resumes hours later would close the watch at its first poll.
        began = max(self.started, self.evidence.shifts[-1][0])
        return began + timedelta(minutes=self.settings.watch_minutes)

    def _is_over(self, since: datetime, now: datetime) -> bool:
        """Whether a trouble has lasted for as long as the settings allow."""
        return now - since >= timedelta(minutes=self.settings.unreadable_minutes)

    def _promote(self, state: Promoting) -> Polls[State]:
        """Shift to the next stage, or close the rollout after the watch. If AWS fails, the next poll decides again."""
        passed = state.passed
        if state.by_operator:
            self._accept(state.seen)
        # A healthy version has passed its hooks already: they were asked when its watch ended.
        if not isinstance(passed, Healthy):
            unmoved = yield from self._ask_hooks(state, passed)
            if unmoved is not None:
                return unmoved
        try:
            if isinstance(passed, Baking):
                return self._shift_up()
            ending, reasons = self._close(state)
        except AwsFailed as failure:
            now = self.target.clock.now()
            self.failing_since = self.failing_since or now
            if self._is_over(self.failing_since, now):
                if not isinstance(passed, Baking):
                    raise  # traffic is where it belongs; only the record is missing
                return RollingBack("held", (f"The next stage could not be reached. {failure.what}",))
            order = yield from self._retry_later(state.seen, failure)
            if order == "abort":
                return ABORTED
            return passed
        # From here on nothing of ours is left that could move the traffic.
        failures = self._release()
        order = yield from self._await_capacity()
        if order == "abort":
            return ABORTED
        # The record of a healthy version says until when: this run, or a later one, monitors it to then.
        if self.traffic.record.monitors_at(self.target.clock.now()):
            self.healthy = True
            return self._state_of_alias()
        return self._end(ending, *reasons, *failures)

    def _accept(self, seen: Observation) -> None:
        """Remember in what a person promoted a worse version: only another stream holds it again."""
        if seen.verdict is None or seen.verdict.worse_in is None or not seen.verdict.worse_in.is_certain:
            return
        worse = seen.verdict.worse_in
        self.evidence.accepted = (*self.evidence.accepted, worse.spec.name)
        says = worse.compare(f"v{self.traffic.new}", f"v{self.traffic.stable}", worse.recent)
        self.target.journal.append("worse-accepted", stream=worse.spec.name, stage=seen.stage, says=says)

    def _ask_hooks(self, state: Promoting, passed: Baking | Watching) -> Polls[State | None]:
        """What follows from the hooks' answers; None where none of them holds or refuses."""
        now = self.target.clock.now()
        if isinstance(passed, Baking):
            answer = self.hooks.ask("before_stage", self.traffic.new, self._next_weight() or 1.0)
            # As long as an inconclusive verdict may hold a stage, a hook may.
            longest_s = self._bake_s(passed) + 60 * self.settings.stretch_minutes
            over = self.evidence.baked_s(now) >= longest_s
        else:
            answer = self.hooks.ask("after_traffic", self.traffic.new, 1.0)
            over = now >= self._longest_watch() + self.settings.stretch_minutes * MINUTE
        if answer.decision == "go":
            return None
        # A hook's refusal is a reason of its own, and marks the build bad as a regression does.
        if answer.decision == "refuse":
            return RollingBack("rolled-back", (answer.says,))
        if over:
            return RollingBack("held", (answer.says,))
        seen = replace(state.seen, at=now, wake_at=next_poll(now), says=answer.says)
        if (yield from show(seen, self.evidence)) == "abort":
            return ABORTED
        return passed

    def _close(self, promoting: Promoting) -> tuple[Ending, tuple[str, ...]]:
        """The watch is over, or the new version healthy: the record says so. It becomes the primary one.

        A healthy one is monitored on: then the record says until when.
        """
        now = self.target.clock.now()
        record = self.traffic.record
        verdict = self.evidence.verdict(now, self._bake_s(Watching()), final=True)
        ending: Ending = "unproven"
        if self.evidence.judge.proved and verdict.finding not in ("doubt", "worse"):
            ending = "proved"
        until = min(now + timedelta(minutes=self.settings.watch_after_proof_minutes), self._longest_watch())
        # A person who promotes ends the monitoring, too. A watch that went on already is not begun again.
        watching = isinstance(promoting.passed, Watching) and not promoting.by_operator
        goes_on = ending == "proved" and watching and until > now
        monitored_until = ""
        if goes_on:
            monitored_until = iso_utc(until)
        elif not record.monitors_at(now):
            monitored_until = record.monitored_until
        # 'unproven' keeps its times: a later run reads the same minutes and more, and may close the rollout.
        closed = replace(record, stage=ending, monitored_until=monitored_until)
        # A resumed watch may find its record closed already: an unneeded write would give the alias another revision.
        if closed != record:
            self.traffic.shift(AliasState(self.traffic.new, None, 0.0, closed))
        reasons = verdict.reasons
        if self.trouble:
            reasons = (*reasons, f"At the end of the monitoring metrics could not be read. {self.trouble}")
        return ending, reasons

    def _release(self) -> list[str]:
        """A version at 100 % stays from now on, also if this run is lost: delete its failsafes; what failed."""
        self.traffic.failsafe = None
        return delete_failsafes(self.target, self.traffic.run)

    def _await_capacity(self) -> Polls[Order | None]:
        """Wait until AWS has moved the traffic after the last write; 'abort' if a person ordered that meanwhile.

        Raises: as ``Traffic.await_capacity``.
        """
        for wake_at in self.traffic.await_capacity():
            alias = self.traffic.alias
            says = aliases.describe_allocation(alias)
            stage = self.traffic.record.stage
            seen = Observation(self.target.clock.now(), stage, self.traffic.weight, wake_at=wake_at, says=says)
            if (yield from show(seen, self.evidence)) == "abort":
                return "abort"
        return None

    def _retry_later(self, seen: Observation, failure: AwsFailed) -> Polls[Order | None]:
        """Show the last observation, with the failure, while a write waits for the next poll."""
        now = self.target.clock.now()
        self.target.journal.append("failed", says=failure.what)
        says = f"{failure.what} The next try is in 1 min."
        return (yield from show(replace(seen, at=now, wake_at=next_poll(now), says=says), self.evidence))

    # Endings

    def _roll_back(self, state: RollingBack) -> Polls[Ended]:
        """Roll back, again at every poll until AWS lets us or the failsafe has done it."""
        # After an inconclusive health check the same build may be deployed again.
        stage_after = "rolled-back"
        rejected = [self.traffic.new]
        if state.ending == "held":
            stage_after = "held"
            rejected = []
        # The outcome names the stage and the share that were rolled back; the alias has neither afterwards.
        weight = self.traffic.weight
        stage = ""
        began = self.began
        marked_before: tuple[str, ...] = ()
        if self.traffic.alias.rollout is not None:
            stage = self.traffic.alias.rollout.stage
            began = parse_utc(self.traffic.alias.rollout.since)
            marked_before = self.traffic.alias.rollout.rejected_versions
        while True:
            try:
                self.traffic.roll_back(rejected, stage=stage_after)
                break
            except AwsFailed as failure:
                # While the failsafe is armed, AWS itself rolls back if no try succeeds.
                # Scheduler fires within a minute of its time.
                armed = self.traffic.failsafe
                if self.seen is None or armed is None or self.target.clock.now() >= armed.until + MINUTE:
                    raise
                yield from self._retry_later(self.seen, failure)
        self.target.journal.append(
            "taken-back",
            version=self.traffic.new,
            serves=str(self.traffic.alias),
            reasons=state.reasons,
            ending=state.ending,
        )
        # Only now, since none of this may delay the traffic.
        after = AfterRollback(self.target, self.evidence, self.target.clock.now(), test=state.stable_test)
        back_since = after.since
        if state.ending == "lease-fired":
            back_since = began  # when the failsafe acted is unknown: in this stage no traffic of it is expected
        self.evidence.rolled_back(back_since)
        failures = [
            *delete_failsafes(self.target, self.traffic.run),
            *_publishing.restore_latest(self.target, self.plan),
        ]
        if self.traffic.alias.allocating:
            yield from self._await_capacity()
            after.since = self.target.clock.now()
        yield from after.to_end(state.unshown)
        failures += self.hooks.announce_rollback(self.traffic.new)
        ending = state.ending
        reasons = [*state.reasons, *after.reasons()]
        if after.both_fail:
            ending = "external"
            reasons = [*after.reasons(), *state.reasons, remove_mark(self.traffic, marked_before)]
        return self._end(ending, *reasons, *failures, stage=stage, weight=weight)

    def _failsafe_triggered(self) -> RollingBack:
        """The record says that a rollout is in progress, and the weights are gone: close it and say so."""
        record = self.traffic.record
        since = time_of_day(parse_utc(record.since), self.target.clock.now())
        reason = (
            f"Run {record.run} stopped renewing its failsafe (stage {record.stage} since {since}). The failsafe "
            f"shifted all traffic to v{self.traffic.stable}."
        )
        return RollingBack("lease-fired", (reason,))

    def _end(self, ending: Ending, *reasons: str, stage: str = "", weight: float = 0.0) -> Ended:
        if not stage and self.traffic.alias.rollout is not None:
            stage = self.traffic.alias.rollout.stage
        requests, failed = self.evidence.totals() if self.evidence.shifts else ({}, {})
        return Ended(
            Outcome(
                ending,
                self.traffic.stable,
                self.traffic.new,
                stage=stage,
                began=self.began,
                ended=self.target.clock.now(),
                reasons=reasons,
                requests=requests,
                failed=failed,
                weight=weight,
                lateness=" ".join(filter(None, (self.evidence.describe_sources(), self.evidence.lateness.describe()))),
                compared=self.evidence.describe_streams(),
            )
        )
