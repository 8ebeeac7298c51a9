"""One engine for every strategy: publish, test, shift in stages, watch, promote or take back.

Knows stages, bakes and the lease. It is a generator that never sleeps: it yields an Observation and when to come back;
whoever drives it waits. Charts and reports watch it; it imports none of them. The whole state of a rollout lives in the
alias, so any machine can resume, abort or explain it.
"""

from collections.abc import Generator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from buddy_ops.aws import aliases, failsafe, freezes
from buddy_ops.aws.aliases import Alias, AliasMoved, AliasState, RolloutState
from buddy_ops.aws.failsafe import Failsafe, FailsafeMissing
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.outcome import Ending, Outcome, raise_for_ending
from buddy_ops.core.plan import Approval
from buddy_ops.deployment import _publishing, rollback, smoke_tests
from buddy_ops.deployment.observation import (
    ABORTED,
    Observation,
    Order,
    RollbackDecision,
    Rollout,
    rollback_without_blame,
)
from buddy_ops.deployment.rollout_plan import RolloutPlan, check_rules, own_open_rollout, plan_rollout
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.judge import Verdict
from buddy_ops.health.metrics import MINUTE
from buddy_ops.migrations import schema

__all__ = [
    "Observation",
    "Order",
    "Outcome",
    "Rollout",
    "RolloutPlan",
    "drive_rollout",
    "plan_rollout",
    "raise_for_ending",
    "run_rollout",
]


def run_rollout(target: Target, plan: RolloutPlan, approval: Approval) -> Rollout:
    """Carry the plan out, a poll at a time. Closing the generator leaves the alias as it is, under its lease.

    AWS: lambda:UpdateFunctionCode, PublishVersion, UpdateAlias or CreateAlias, InvokeFunction,
    scheduler:CreateSchedule, UpdateSchedule, DeleteSchedule (write); lambda:GetAlias, GetFunctionConfiguration,
    cloudwatch:GetMetricData (read).

    Raises:
        Refused: ``approval-void``, ``smoke-failed``; AliasMoved when somebody else moves the alias.
        AwsFailed: AWS refused or could not be reached; running again resumes.
    """
    approval.must_cover(plan)
    if plan.break_glass is not None:
        target.journal.append(
            "broke-glass", who=plan.break_glass.who, why=plan.break_glass.why, against=plan.violations
        )
    engine = _Engine(target, plan, approval)
    try:
        outcome = yield from engine.run(called_off=approval.order == "abort")
    except AliasMoved as moved:
        # A lease of ours that stayed would fire at the winner's weights; a rollback clears up after us by itself. It
        # clears the weights: where another tool made the new version the primary, it would get all traffic.
        reversed_sides = moved.alias.additional is not None and moved.alias.primary != plan.stable
        if moved.alias.rollout is None or moved.alias.rollout.run != engine.run_id or reversed_sides:
            rollback.delete_failsafes(target, engine.run_id)
        raise
    except AwsFailed as failure:
        # What one call changed is not what an operator asks: it is what serves now.
        failure.now = engine.standing()
        raise
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
    )
    return outcome


def drive_rollout(target: Target, rollout: Rollout) -> Outcome:
    """Drive a rollout to its end without a picture."""
    while True:
        try:
            observation = next(rollout)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        target.clock.sleep_until(observation.wake_at)


class _Engine:
    """One run of a plan: what it holds of the world, and its steps."""

    def __init__(self, target: Target, plan: RolloutPlan, approval: Approval) -> None:
        self.target, self.plan, self.policy, self.approval = target, plan, target.settings.rollout, approval
        self.run_id = plan.resumes.run if plan.resumes else target.run
        self.new = plan.known
        self.stages = plan.stages
        self.began = self.started = self.polled = target.clock.now()
        self.unread_since: datetime | None = None
        self.failing_since: datetime | None = None
        self.holding = False
        self.frozen = ""
        self.lease: Failsafe | None = None
        self.guarded = ""
        self.intended: AliasState | None = None
        self.alias: Alias | None = None
        self.read_at = self.began
        self.evidence: RolloutEvidence | None = None
        self.seen: Observation | None = None
        self.untold: Observation | None = None

    def run(self, called_off: bool = False) -> Rollout:
        """Publish, test, then stage after stage, then the watch; or only the way back from where it stands."""
        self.alias = aliases.read_alias(self.target)
        if self.target.dry_run:
            return self._outcome("dry-run", ("Dry run: nothing was written.",))
        live = (
            self.alias and self.plan.known and self.alias.primary == self.plan.known and self.alias.additional is None
        )
        if self.alias and live and self.plan.resumes is None:
            record = self.alias.rollout
            # A run that was killed at its very end left its schedules behind.
            ours = record is not None and record.new_version == self.new
            told = rollback.delete_failsafes(self.target, record.run) if record is not None and ours else []
            return self._outcome("already-live", (f"v{self.new} has this code and serves {self.alias}.", *told))
        if self.plan.resumes and self.alias and self.alias.failsafe_triggered:
            return (yield from self._take_back(self._lease_fired()))
        if self.plan.resumes and called_off:
            return (yield from self._take_back(ABORTED))
        if self.plan.resumes is None:
            begun = own_open_rollout(self.target, self.alias, self.new) is not None
            if self.alias is not None and (begun or self.alias.primary != self.plan.stable):
                raise AliasMoved(self.target, self.alias)
            freezes.require_unfrozen(self.target)
            self._permit()
            if self.alias is not None and self.alias.rollout is not None:
                # A run that was killed at its very end left a lease, which would fire at this rollout's weights.
                rollback.delete_failsafes(self.target, self.alias.rollout.run)
        if not self.new:
            self.new = yield from _publishing.publish_build(self.target, self.plan, self.alias, self.approval)
        if self.plan.resumes is None and self.plan.strategy in self.policy.smoke_tested:
            smoke_tests.require_passing(self.target, self.new)
        if self.alias is None:
            return self._deploy_first()
        if self.target.settings.lease.prove and self.plan.resumes is None:
            yield from self._prove_lease()
        back = self._begin_judging()
        while back is None:
            back = yield from self._bake()
            if back is None:
                ended = yield from self._advance()
                if isinstance(ended, Outcome):
                    return ended
                back = ended
        return (yield from self._take_back(back))

    def standing(self) -> str:
        """What is live now, read again or as it was last read, and what happens if nobody does anything."""
        told = aliases.describe_current_state(self.target, self.alias, self.read_at)
        if self.lease is not None and self.lease.until > self.target.clock.now():
            until = f"{self.lease.until:%H:%M} UTC"
            told += f" Unless a run of the same build goes on, v{self.new} loses its traffic at {until}."
        return told

    # Before traffic

    def _refuse_misfit(self) -> None:
        """What a version can read and write is known once it is published, and compared before it gets any traffic."""
        if self.target.settings.tables:
            schema.require_compatible(self.target, self.new, aliases.get_configuration(self.target, self.new))

    def _permit(self) -> None:
        """Ask the environment's rules again, unless they are broken by name."""
        check_rules(self.target, self.plan.strategy, self.plan.sha256, self.alias, self.plan.break_glass)

    def _deploy_first(self) -> Outcome:
        """There is no alias: create it. Nothing served before, so there is nothing to compare with or return to."""
        self._refuse_misfit()
        record = RolloutState(self.target.run, "", self.new, "unproven", iso_utc(self.target.clock.now()))
        self.alias = aliases.update_alias(self.target, None, AliasState(self.new, None, 0.0, record))
        return self._outcome(
            "deployed", (f"The alias {self.target.resource} was created: it serves 100 % v{self.new}.",)
        )

    def _prove_lease(self) -> Generator[Observation, Order | None, None]:
        """Where the policy demands it: see a lease fire before traffic depends on one."""
        for wake_at in failsafe.prove_failsafe(self.target, self.plan.stable, self.new):
            says = "Waiting for a lease to fire at a scratch alias."
            yield Observation(self.target.clock.now(), "prove", 0.0, (), None, None, wake_at, says)

    # Stages

    def _begin_judging(self) -> RollbackDecision | None:
        """Read the minutes before, then shift to the first stage or pick up the one under way."""
        self.evidence = RolloutEvidence(self.target, self.plan.stable, self.new)
        resumed = self.plan.resumes
        if resumed is not None:
            self.stages = self._with_probe(resumed.probe)
            self.began = self.evidence.resume(resumed, list(self.stages))
            self.target.journal.append("resumed", run=resumed.run, stage=resumed.stage, of=f"v{self.new}")
            try:
                self.lease = failsafe.arm_split(self.target, self.run_id) if resumed.shifting else self._guard()
            except AwsFailed as failure:
                if not resumed.open:
                    raise  # it serves alone, for good, and nothing of ours threatens that
                return rollback_without_blame(
                    f"The lease could not be armed, so the traffic does not stay split. {failure.what}"
                )
            return None
        trouble = self.evidence.read(self.began)
        if trouble is not None:
            raise Refused(
                "metrics-unreadable",
                f"The rollout did not begin, since it would be blind: {trouble}",
                now=f"{self.target.resource} serves {self.alias}; nothing was shifted.",
                next="See whether CloudWatch has an outage or is late (setting late_data_s), and whether the role may "
                "call cloudwatch:GetMetricData. Then run this again.",
            )
        # Publishing and proving take minutes: somebody froze deployments or migrated a table, or the window has closed.
        freezes.require_unfrozen(self.target)
        self._permit()
        self._refuse_misfit()
        probe = self.policy.probe_percent
        busy = self.evidence.requests_per_minute >= self.policy.probe_from_requests_per_minute
        self.stages = self._with_probe(bool(probe) and busy and probe / 100 < self.stages[0])
        back = self._shift(0)
        self.began = self.evidence.shifts[0][0]
        return back

    def _with_probe(self, probing: bool) -> tuple[float, ...]:
        return (self.policy.probe_percent / 100, *self.plan.stages) if probing else self.plan.stages

    @property
    def _stage(self) -> int:
        """The stage under way, from 0; the watch is the last."""
        record = self.alias.rollout if self.alias else None
        return int(record.stage) - 1 if record is not None and record.shifting else len(self.stages) - 1

    def _shift(self, stage: int) -> RollbackDecision | None:
        """Give the new version the stage's share. The lease stands before weights do, the guard after a switch."""
        assert self.alias is not None and self.evidence is not None
        weight, now = self.stages[stage], self.target.clock.now()
        record = self._record("watch" if weight == 1.0 else str(stage + 1), now)
        if weight < 1.0:
            if self.lease is None:
                self.lease = failsafe.arm_split(self.target, self.run_id)
            to = AliasState(self.plan.stable, self.new, weight, record)
        else:
            to = AliasState(self.new, None, 0.0, record)
        self.intended = to
        self._hold(aliases.update_alias(self.target, self.alias, to))
        return self._shifted(to)

    def _shifted(self, to: AliasState) -> RollbackDecision | None:
        """The alias is where we meant it to be: from now on the stage bakes, and a switch is guarded."""
        assert self.evidence is not None
        weight = 1.0 if to.additional is None else to.weight
        self.intended = None
        self.evidence.shifted(datetime.fromisoformat(to.rollout.since), weight)
        self.target.journal.append(
            "shifted", stage=to.rollout.stage, weight=weight, to=f"v{self.new}", serves=str(self.alias)
        )
        if weight < 1.0:
            return None
        try:
            # Before the guard: a lease that fires gives the alias another revision, and the guard is void.
            failsafe.disarm(self.target, "lease", self.run_id)
        except AwsFailed as failure:
            self._pass_over("The lease could not be deleted; it clears weights that are not there.", failure)
        try:
            self.lease = self._guard()
        except AwsFailed as failure:
            return rollback_without_blame(f"The guard could not be armed, so the switch does not stand. {failure.what}")
        return None

    def _guard(self) -> Failsafe:
        assert self.alias is not None
        armed = failsafe.arm_switch(self.target, self.plan.stable, self.alias.revision, self.run_id)
        self.guarded = self.alias.revision
        return armed

    def _hold(self, alias: Alias) -> None:
        self.alias, self.read_at = alias, self.target.clock.now()

    def _pass_over(self, what: str, failure: AwsFailed) -> None:
        """Something failed that need not stop us now: it stands in the journal."""
        self.target.journal.append("passed-over", what=what, because=failure.what)

    def _record(self, stage: str, now: datetime) -> RolloutState:
        """The alias's record for a new stage of this run."""
        assert self.alias is not None
        old = self.alias.rollout
        if old is not None and old.new_version == self.new and old.open:
            ago = (*old.stage_ages_s, 0)
            passed = round((now - datetime.fromisoformat(old.since)).total_seconds())
            return replace(old, stage=stage, since=iso_utc(now), stage_ages_s=tuple(each + passed for each in ago))
        prev = (
            ""
            if old is None
            else (old.stable_version if self.alias.primary == old.new_version else old.fallback_version)
        )
        note = self.alias.description[:60] if old is None else old.note
        probe = len(self.stages) > len(self.plan.stages)
        record = RolloutState(
            self.target.run,
            self.plan.stable,
            self.new,
            stage,
            iso_utc(now),
            fallback_version=prev,
            note=note,
            probe=probe,
        )
        for version in old.rejected_versions if old else ():
            record = record.with_rejected(version) if version != self.new else record
        # A rollout whose lease fired, and that nobody closed, is closed by the next one.
        return record.with_rejected(old.new_version) if old is not None and old.open else record

    def _bake(self) -> Generator[Observation, Order | None, RollbackDecision | None]:
        """Poll once a minute until the stage is over: None to go on."""
        while True:
            now = self.target.clock.now()
            trouble = self._look(now)
            if isinstance(trouble, RollbackDecision):
                return trouble
            observation = self.seen = self._observe(now, trouble)
            decision = self._decide(now, observation.verdict, trouble)
            if decision == "promote":
                return None
            if isinstance(decision, RollbackDecision):
                self.untold = observation
                return decision
            order = yield observation
            if order == "abort":
                return ABORTED
            self.holding = order == "hold" or (self.holding and order is None)
            if order == "promote" and not self.frozen:
                return None

    def _look(self, now: datetime) -> RollbackDecision | str | None:
        """Check that the alias is as we left it, renew the lease, read the new minutes; what could not be read.

        One failure leaves the others their turn: a verdict does not wait until the alias or a freeze can be read.
        """
        assert self.alias is not None and self.evidence is not None
        trouble: str | None = None
        try:
            alias = aliases.read_alias(self.target)
            if (alias is None or alias.revision != self.alias.revision) and (back := self._moved(alias)):
                return back
            self.read_at = now
            if back := self._renew(now):
                return back
        except AwsFailed as failure:
            trouble = failure.what
        try:
            self.frozen = "Deployments were frozen" if freezes.active_freezes(self.target) else ""
        except AwsFailed as failure:
            self.frozen = f"Whether deployments are frozen could not be read ({failure.what})"
        unread = self.evidence.read(now)
        return " ".join(filter(None, (trouble, unread))) or None

    def _renew(self, now: datetime) -> RollbackDecision | None:
        """Renew the lease or the guard when it is time; what cannot be renewed takes the traffic back in time."""
        assert self.alias is not None and self.lease is not None
        watching = self.stages[self._stage] == 1.0
        if not failsafe.needs_renewal(self.target, self.lease) and (
            not watching or self.guarded == self.alias.revision
        ):
            return None
        try:
            # A guard names the revision that it protects; somebody may have rewritten the same.
            self.lease = self._guard() if watching else failsafe.renew(self.target, self.lease)
        except FailsafeMissing:
            alias = aliases.read_alias(self.target)
            if alias != self.alias and (back := self._moved(alias)):
                return back
            return rollback_without_blame("The lease was deleted by somebody else, so the traffic does not stay split.")
        except AwsFailed as failure:
            if now + failsafe.MARGIN + MINUTE < self.lease.until:
                self._pass_over("The lease could not be renewed; it is tried again at the next poll.", failure)
                return None
            return rollback_without_blame(
                f"The lease could not be renewed, so the traffic does not stay split. {failure.what}"
            )
        return None

    def _moved(self, alias: Alias | None) -> RollbackDecision | None:
        """The alias has another RevisionId: the lease or guard fired, somebody else acted, or rewrote the same."""
        if alias is None:
            raise BuddyError(
                "alias-deleted",
                f"The alias {self.target.resource} was deleted while this run was under way.",
                now="The alias does not exist; this run changed nothing after that.",
                next="Find out who deleted it; strategies/canary creates it again.",
            )
        left = self.alias
        self._hold(alias)
        assert left is not None
        if replace(alias, revision=left.revision) == left:
            return None
        if self.intended is not None and self.intended.matches(alias):
            # A write of ours whose answer was lost. One that only closes the record is made again.
            return self._shifted(self.intended) if self.intended.rollout.open else None
        if alias.rollout == left.rollout and alias.failsafe_triggered:
            return self._lease_fired()
        raise AliasMoved(self.target, alias)

    def _observe(self, now: datetime, trouble: str | None) -> Observation:
        assert self.evidence is not None and self.alias is not None
        stage, record = self._stage, self.alias.rollout
        if trouble is not None:
            self.evidence.lose(now - self.polled)
        self.polled = now
        bake_s = self._bake_s
        verdict = self.evidence.verdict(now, bake_s, final=self.stages[stage] == 1.0)
        wake_at = now.replace(second=0, microsecond=0) + MINUTE
        says = f"Metrics cannot be read: {trouble}" if trouble else " ".join(verdict.reasons)
        label = record.stage if record else ""
        left = max(0.0, bake_s - self.evidence.baked_s(now))
        self.target.journal.append(
            "observed", stage=label, weight=self.stages[stage], decision=verdict.decision, says=says
        )
        return Observation(
            now, label, self.stages[stage], self.evidence.fresh(), verdict, self.evidence, wake_at, says, left
        )

    @property
    def _bake_s(self) -> float:
        if self.plan.stages == (1.0,):
            return 60.0 * self.policy.watch_minutes  # a switch at once is watched for as long as it says, proved or not
        probing = len(self.stages) > len(self.plan.stages) and self._stage == 0
        return 60.0 * (self.policy.probe_minutes if probing else self.policy.bake_minutes)

    def _decide(
        self, now: datetime, verdict: Verdict | None, trouble: str | None
    ) -> RollbackDecision | Literal["promote"] | None:
        """What follows from the verdict; None to stay."""
        assert verdict is not None and self.evidence is not None
        if verdict.decision == "rollback":
            return RollbackDecision("rolled-back", verdict.reasons, bad=True)
        if trouble is not None:
            self.unread_since = self.unread_since or now
            if now - self.unread_since >= timedelta(minutes=self.policy.unreadable_minutes):
                limit = f"{self.policy.unreadable_minutes:g} minutes"
                return rollback_without_blame(f"Metrics or the alias could not be read for {limit}. {trouble}")
            return None
        self.unread_since = None
        final = self.stages[self._stage] == 1.0
        watched_s = (now - max(self.started, self.evidence.shifts[-1][0])).total_seconds()
        if final and (verdict.decision == "promote" or watched_s >= 60 * self.policy.watch_minutes):
            return "promote"
        if verdict.expired:
            return rollback_without_blame(*verdict.reasons)
        if self.frozen and not final:
            # A freeze stops every step forward; it does not leave traffic split for as long as it lasts.
            longest_s = self._bake_s + 60 * self.policy.stretch_minutes
            over = self.evidence.baked_s(now) >= longest_s
            return rollback_without_blame(f"{self.frozen} while traffic was split.") if over else None
        return "promote" if verdict.decision == "promote" and not self.holding and not final else None

    def _advance(self) -> Generator[Observation, Order | None, Outcome | RollbackDecision | None]:
        """The next stage, or the close after the last. What AWS fails is left to the next poll, which decides anew."""
        try:
            ended = self._shift(self._stage + 1) if self.stages[self._stage] < 1.0 else self._close()
        except AwsFailed as failure:
            now = self.target.clock.now()
            self.failing_since = self.failing_since or now
            if now - self.failing_since >= timedelta(minutes=self.policy.unreadable_minutes):
                if self.stages[self._stage] == 1.0:
                    raise  # only the record is wanting
                return rollback_without_blame(f"The next stage could not be reached. {failure.what}")
            return ABORTED if (yield self._again(failure)) == "abort" else None
        self.failing_since = None
        return ended

    def _close(self) -> Outcome:
        """The watch is over: the record says how."""
        assert self.evidence is not None and self.alias is not None and self.alias.rollout is not None
        ending: Ending = "proved" if self.evidence.judge.proved else "unproven"
        reasons = self.evidence.verdict(self.target.clock.now(), self._bake_s, final=True).reasons
        # 'unproven' keeps its times: a later run reads the same minutes and more, and may close the rollout.
        self.intended = AliasState(self.new, None, 0.0, replace(self.alias.rollout, stage=ending))
        self._hold(aliases.update_alias(self.target, self.alias, self.intended))
        return self._outcome(ending, (*reasons, *rollback.delete_failsafes(self.target, self.run_id)))

    def _again(self, failure: AwsFailed) -> Observation:
        """What is seen while a write is waited for."""
        assert self.seen is not None
        now = self.target.clock.now()
        self.target.journal.append("failed", says=failure.what)
        self.seen, told = replace(self.seen, rows=()), self.seen
        says = f"{failure.what} It is tried again in a minute."
        return replace(told, at=now, wake_at=now.replace(second=0, microsecond=0) + MINUTE, says=says)

    # Endings

    def _take_back(self, back: RollbackDecision) -> Generator[Observation, Order | None, Outcome]:
        """Take the traffic back, at every poll again until AWS lets us or does it by itself."""
        assert self.alias is not None
        stage = self.alias.rollout.stage if self.alias.rollout else ""
        versions = (self.new,) if back.bad else ()
        kept: Literal["rolled-back", "held"] = "rolled-back" if back.bad else "held"
        while True:
            try:
                self._hold(
                    rollback.shift_all_traffic(
                        self.target, self.alias, self.plan.stable, versions, kept, only_from=self.new
                    )
                )
                break
            except AwsFailed as failure:
                if self.seen is None or self.lease is None or self.target.clock.now() >= self.lease.until + MINUTE:
                    raise
                yield self._again(failure)
        self.target.journal.append("taken-back", version=self.new, serves=str(self.alias), reasons=back.reasons)
        if self.untold is not None:
            # The minutes that decided belong in the picture too.
            yield replace(self.untold, rows=self.seen.rows if self.seen else (), wake_at=self.untold.at, weight=0.0)
        told = (
            *rollback.delete_failsafes(self.target, self.run_id),
            *_publishing.restore_latest(self.target, self.plan),
        )
        return self._outcome(back.ending, (*back.reasons, *told), stage)

    def _lease_fired(self) -> RollbackDecision:
        """The alias says that a rollout of ours is under way, and has no weights: close it and tell."""
        assert self.alias is not None and self.alias.rollout is not None
        record = self.alias.rollout
        told = (
            f"Run {record.run} gave v{record.new_version} a share of the traffic (stage "
            f"{record.stage}, since {record.since}) "
            f"and stopped renewing its lease; the lease took that share away, and v{self.plan.stable} serves alone."
        )
        return RollbackDecision("lease-fired", (told,), bad=True)

    def _outcome(self, ending: Ending, reasons: tuple[str, ...], stage: str = "") -> Outcome:
        requests, failed = self.evidence.totals() if self.evidence else ({}, {})
        stage = stage or (self.alias.rollout.stage if self.alias and self.alias.rollout else "")
        now = self.target.clock.now()
        return Outcome(ending, self.plan.stable, self.new, stage, self.began, now, reasons, requests, failed)
