"""The one owner of an alias while a run moves its traffic.

``Traffic`` reads the alias, shifts it, keeps its failsafe armed and rolls it back. The rollout, the gradual and the
immediate rollback drive it. It never decides that traffic must move.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import Alias, AliasMoved, AliasState, RolloutState
from buddy_ops.aws.failsafe import Failsafe, FailsafeMissing
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import MINUTE, parse_utc, time_of_day

ATTEMPTS = 10
"""How often a rollback writes while another run keeps moving the alias: a rollback wins over any rollout."""

CLOSING_WINDOW = timedelta(hours=24)
"""How long a later run of the same build may still close a rollout whose health check was inconclusive."""


class FailsafeLost(Exception):
    """No failsafe protects the traffic as it is now, so it must go back; the message is a sentence that says why."""


class FailsafeTriggered(Exception):
    """The failsafe has moved all traffic to the stable version."""


class Traffic:
    """The traffic of one alias, and the failsafe that rolls it back if this run is lost.

    Attributes:
        run: whose failsafes these are: the run that began the rollout.
        stable: the version that receives all traffic in a rollback.
        new: the version that loses its traffic then. Empty before it is published, and where a rollback moves the alias
            whatever it serves.
        alias: the alias as it was last read or written.
        read_at: when that was.
        failsafe: the schedule that this run armed or took over; None before.
    """

    def __init__(self, target: Target, alias: Alias, *, run: str, stable: str, new: str = "") -> None:
        self.run = run
        self.stable = stable
        self.new = new
        self.alias = alias
        self.read_at = target.clock.now()
        self.failsafe: Failsafe | None = None
        self._target = target
        self._protected_revision = ""
        self._unconfirmed: AliasState | None = None

    @property
    def switched(self) -> bool:
        """Whether the new version receives all traffic."""
        return self.alias.serving == (self.new,)

    @property
    def weight(self) -> float:
        """The new version's share of the traffic, 0..1."""
        return 1.0 if self.switched else self.alias.weight

    @property
    def record(self) -> RolloutState:
        """The rollout's record on the alias.

        Raises:
            AliasMoved: it has none: another run or tool wrote over it.
        """
        if self.alias.rollout is None:
            raise AliasMoved(self._target, self.alias)
        return self.alias.rollout

    def read(self) -> bool:
        """Read the alias again; True if a write of this run took effect although its answer was lost.

        AWS: lambda:GetAlias, reads only.

        Raises:
            FailsafeTriggered: the failsafe moved the alias.
            AliasMoved: another run or tool moved it.
            BuddyError: ``alias-deleted``.
        """
        alias = aliases.read_alias(self._target)
        if alias is None:
            raise alias_deleted(self._target)
        before = self.alias
        self._keep(alias)
        # A write of the same values changes the revision alone.
        if replace(alias, revision=before.revision) == before:
            return False
        if self._unconfirmed is not None and self._unconfirmed.matches(alias):
            self._unconfirmed = None
            return True
        if alias.rollout == before.rollout and alias.failsafe_triggered:
            raise FailsafeTriggered
        raise AliasMoved(self._target, alias)

    def shift(self, to: AliasState) -> None:
        """Move the alias in one write. Before traffic is split, the failsafe is armed.

        AWS: scheduler:CreateSchedule, lambda:UpdateAlias, write.

        Raises:
            AliasMoved: another run or tool moved it.
            AwsFailed: AWS refused or did not answer. If the write took effect, the next ``read`` says so.
        """
        # Armed first: a run that is killed between the two calls leaves no split without a failsafe.
        if to.additional is not None and self.failsafe is None:
            self.arm()
        # Kept until the answer is there: if it is lost, the next read recognises the write by it.
        self._unconfirmed = to
        self._keep(aliases.update_alias(self._target, self.alias, to))
        self._unconfirmed = None

    def confirm_shift(self, stage: str) -> None:
        """Journal a shift that took effect. After a switch, replace the split's failsafe with one for the switch.

        AWS: scheduler:DeleteSchedule, CreateSchedule, write.

        Raises:
            FailsafeLost: the failsafe of the switch could not be armed.
        """
        self._target.journal.append(
            "shifted", stage=stage, weight=self.weight, to=f"v{self.new}", serves=str(self.alias)
        )
        if not self.switched:
            return
        try:
            # First: a split's failsafe that fires changes the revision, which makes the switch's failsafe void.
            failsafe.disarm(self._target, failsafe.SPLIT, self.run)
        except AwsFailed as failure:
            self._pass_over("The failsafe of the split could not be deleted; no weights are left to clear.", failure)
        try:
            self.arm()
        except AwsFailed as failure:
            raise FailsafeLost(f"The failsafe of the switch could not be armed. {failure.what}") from failure

    def arm(self) -> None:
        """Arm the failsafe that fits the alias as it is: of a split, or of a switch.

        AWS: scheduler:CreateSchedule or UpdateSchedule, writes.
        """
        # A split is undone by clearing its weights; a switch must name the version to return to.
        if not self.switched:
            self.failsafe = failsafe.arm_split(self._target, self.run)
            return
        self.failsafe = failsafe.arm_switch(self._target, self.stable, self.alias.revision, self.run)
        self._protected_revision = self.alias.revision

    def renew(self) -> None:
        """Renew the failsafe when it is time. A failure is passed over while enough time is left to try again.

        AWS: scheduler:UpdateSchedule, writes; lambda:GetAlias if the schedule is gone.

        Raises:
            FailsafeTriggered: the failsafe moved the alias.
            FailsafeLost: it was deleted, or could not be renewed in time.
            AliasMoved: another run or tool moved the alias.
        """
        if self.failsafe is None:
            return
        # The failsafe of a switch works for one revision only; a write of the same values changes it.
        void = self.switched and self._protected_revision != self.alias.revision
        if not void and not failsafe.needs_renewal(self._target, self.failsafe):
            return
        try:
            if self.switched:
                self.arm()
            else:
                self.failsafe = failsafe.renew(self._target, self.failsafe)
        except FailsafeMissing:
            self.read()
            raise FailsafeLost("The failsafe was deleted by another user or tool.") from None
        except AwsFailed as failure:
            if self._target.clock.now() + failsafe.MARGIN + MINUTE >= self.failsafe.until:
                raise FailsafeLost(f"The failsafe could not be renewed. {failure.what}") from failure
            self._pass_over("The failsafe could not be renewed; the next poll tries again.", failure)

    def roll_back(self, rejected: Iterable[str], *, stage: str = "rolled-back", leaving: float = 0.0) -> None:
        """Give the stable version all traffic, even if other runs move the alias meanwhile.

        Another run's write is kept if it removed the new version's traffic, or rolled back to the new version by name.
        A rollback without a new version (the immediate one) wins in any case.

        Args:
            rejected: versions that no later rollback may return to.
            stage: the record's stage from now on.
            leaving: the share (0..1) that the new version keeps for now, a step of a gradual rollback.

        AWS: lambda:UpdateAlias, writes; lambda:GetAlias after a collision.

        Raises:
            AliasMoved: see above; or ten writes in a row collided with another run.
        """
        for _ in range(ATTEMPTS):
            # A person rolled back to the new version by name: that is the newer decision.
            if self.switched and self.alias.rollout and self.alias.rollout.stage == "rolled-back":
                raise AliasMoved(self._target, self.alias)
            try:
                self._keep(aliases.update_alias(self._target, self.alias, self._rolled_back(rejected, stage, leaving)))
                return
            except AliasMoved as moved:
                collision = moved
                self._keep(moved.alias)
                # Another run was first: nothing is left to take away.
                if self.new and self.new not in self.alias.serving:
                    raise
        raise collision

    def describe(self) -> str:
        """What is live now and when the failsafe acts, for an error's 'Now'. AWS: lambda:GetAlias, reads only."""
        state = aliases.describe_current_state(self._target, self.alias, self.read_at)
        now = self._target.clock.now()
        # A failsafe whose time is over has acted, or lost its effect: the alias says which.
        if self.failsafe is None or self.failsafe.until <= now:
            return state
        until = time_of_day(self.failsafe.until, now)
        return f"{state} Automatic rollback to v{self.stable} at {until} unless this runbook runs again before."

    def _rolled_back(self, rejected: Iterable[str], stage: str, leaving: float) -> AliasState:
        record = self.alias.rollout
        if record is None:
            # No run of ours shifted this traffic: the record says what this rollback found.
            left = self.alias.primary
            if self.alias.additional not in (None, self.stable):
                left = self.alias.additional
            record = RolloutState(self._target.run, self.stable, left, stage, since="")
        closed_by = "" if record.run == self._target.run else self._target.run
        record = _since_now(record, self._target.clock.now())
        record = replace(record, stage=stage, closed_by_run=closed_by)
        for version in rejected:
            record = record.with_rejected(version)
        return AliasState(self.stable, self.new if leaving else None, leaving, record)

    def _keep(self, alias: Alias) -> None:
        self.alias = alias
        self.read_at = self._target.clock.now()

    def _pass_over(self, what: str, failure: AwsFailed) -> None:
        """Journal a failure that need not stop the run."""
        self._target.journal.append("passed-over", what=what, because=failure.what)


def _since_now(record: RolloutState, now: datetime) -> RolloutState:
    """The record with ``now`` as the beginning of its stage, and the ages of the earlier ones as of now."""
    if not record.since:
        return replace(record, since=iso_utc(now))
    passed_s = round((now - parse_utc(record.since)).total_seconds())
    # A step of a gradual rollback is no stage of its own: the Description holds no list of all steps.
    begun = record.stage_ages_s if record.stage == "rolled-back" else (*record.stage_ages_s, 0)
    moved = replace(record, since=iso_utc(now), stage_ages_s=tuple(age_s + passed_s for age_s in begun))
    if len(moved.encode()) <= aliases.RECORD_LIMIT:
        return moved
    # A rollback is worth more than the times of the stages before it.
    return replace(moved, stage_ages_s=())


def alias_deleted(target: Target) -> BuddyError:
    """The alias was there when the rollout was planned or began."""
    return BuddyError(
        "alias-deleted",
        f"The alias {target.resource} was deleted since the rollout was planned.",
        now="The alias does not exist. This run changed nothing after that.",
        next="Find out who deleted it. strategies/canary creates it again.",
    )


def delete_failsafes(target: Target, run: str) -> list[str]:
    """Delete a run's failsafes once its traffic is where it belongs; a sentence for each that could not be deleted.

    AWS: scheduler:DeleteSchedule, writes.
    """
    failures = []
    # Both, since a killed run may have left either.
    for which in (failsafe.SPLIT, failsafe.SWITCH):
        try:
            failsafe.disarm(target, which, run)
        except BuddyError as error:
            failures.append(f"A failsafe could not be deleted: {error.what} It changes nothing and deletes itself.")
    return failures


def alias_scope(target: Target, action: str) -> dict[str, object]:
    """What the hash of every plan that moves this alias covers, beside the change itself."""
    return {
        "action": action,
        "environment": target.environment,
        "function": target.settings.function,
        "alias": target.settings.alias,
    }


def own_open_rollout(target: Target, alias: Alias | None, version: str) -> RolloutState | None:
    """The record of a rollout of ``version`` that is in progress, or that a later run may still close.

    Raises:
        Refused: ``rollout-under-way`` or ``weights-not-ours``: another run or tool shifts the traffic.
    """
    if alias is None:
        return None
    record = alias.rollout
    # No rollout of ours is in progress: weights, if there are any, are another tool's.
    if record is None or not (record.open or _may_be_closed(target, alias, record)):
        if alias.additional is not None:
            next_step = "Find out who shifts traffic (CodeDeploy?). rollback/immediate with to_version clears weights."
            raise foreign_weights(target, alias, "no run of Buddy Ops set these weights", next=next_step)
        return None
    expected = (record.stable_version, record.new_version)
    if alias.additional is not None and (alias.primary, alias.additional) != expected:
        # A split's failsafe clears the weights: here it would give all traffic to what another tool made the primary.
        raise foreign_weights(
            target,
            alias,
            f"another tool changed the weights of run {record.run}, which deploys v{record.new_version} "
            f"(replacing v{record.stable_version})",
            next="Open rollback/immediate: it returns the traffic to the stable version, or asks for it (to_version).",
        )
    if record.new_version == version:
        return record
    # One that lost its traffic to the failsafe blocks no other build.
    if record.open and not alias.failsafe_triggered:
        raise rollout_under_way(target, alias, record)
    return None


def rollout_under_way(target: Target, alias: Alias | None, record: RolloutState) -> Refused:
    """The refusal of any other rollout while this one is in progress."""
    since = time_of_day(datetime.fromisoformat(record.since), target.clock.now())
    return Refused(
        "rollout-under-way",
        f"Run {record.run} is deploying v{record.new_version} on {target.resource} (stage {record.stage} since "
        f"{since}).",
        now=f"{target.resource} serves {alias}; nothing was changed.",
        next=f"Let it end, resume it (strategies/canary with the artifact of v{record.new_version}), or roll it back "
        "(rollback/immediate).",
    )


def foreign_weights(target: Target, alias: Alias, reason: str, *, next: str) -> Refused:
    """The refusal to shift traffic that another tool shifts."""
    return Refused("weights-not-ours", f"{target.resource} serves {alias}, and {reason}.", next=next)


def _may_be_closed(target: Target, alias: Alias, record: RolloutState) -> bool:
    """Whether a rollout ended with an inconclusive health check, and a later run may still monitor and close it."""
    # A first deployment has no stable version: there is nothing to compare it with.
    age = target.clock.now() - datetime.fromisoformat(record.since)
    inconclusive = record.stage == "unproven" and bool(record.stable_version)
    return inconclusive and alias.primary == record.new_version and age < CLOSING_WINDOW
