"""The one owner of an alias while a run moves its traffic.

``Traffic`` reads the alias, shifts it, keeps its failsafe armed and rolls it back. The rollout, the gradual and the
immediate rollback drive it. It never decides that traffic must move.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import Alias, AliasMoved, AliasState, RolloutState
from buddy_ops.aws.failsafe import Failsafe, FailsafeMissing
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.front_end import invocation, parameter
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import MINUTE, floor_minute, parse_utc, time_of_day
from buddy_ops.health import former_service

ATTEMPTS = 10
"""How often a rollback writes while another run keeps moving the alias: a rollback wins over any rollout."""

# Not ServiceException: AWS may have failed after the write. Source: Lambda API reference, UpdateAlias, Errors.
REFUSALS = {
    "AccessDeniedException",
    "InvalidParameterValueException",
    "PreconditionFailedException",
    "ResourceConflictException",
    "ResourceNotFoundException",
    "ThrottlingException",
    "TooManyRequestsException",
    "ValidationException",
}
"""Error codes of UpdateAlias after which the call will change nothing any more."""

ALLOCATION_LIMIT = timedelta(minutes=60)
"""How long a run waits until AWS has allocated provisioned concurrency and moves the traffic. AWS names no limit."""

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
        self._unconfirmed: AliasState | None = None

    @property
    def switched(self) -> bool:
        """Whether the new version receives all traffic."""
        return self.weight >= 1.0

    @property
    def weight(self) -> float:
        """The new version's share of the traffic, 0..1."""
        return self.alias.share(self.new)

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

        An edit by another user or tool that leaves the traffic as it was does not end the rollout: the record, and the
        routing that the failsafe protects, are written again.

        AWS: lambda:GetAlias, reads; lambda:UpdateAlias, writes, after such an edit.

        Raises:
            FailsafeTriggered: the failsafe moved the alias.
            AliasMoved: another run or tool moved it.
            BuddyError: ``alias-deleted``.
        """
        alias = aliases.read_alias(self._target)
        if alias is None:
            # No version has traffic now, and the schedule must not act on an alias of this name that comes later.
            delete_failsafes(self._target, self.run)
            raise alias_deleted(self._target, self.stable)
        before = self.alias
        # AWS itself ends an allocation of capacity.
        if self._is_same(alias) or _differ_by_allocation(before, alias):
            self._keep(alias)
            return False
        # Before anything is called a foreign change: it may be our own write, whose answer was lost.
        if self._unconfirmed is not None and self._unconfirmed.matches(alias):
            self._keep(alias)
            self._unconfirmed = None
            return True
        self._require_not_triggered(alias)
        if not self._is_edited(alias):
            self._keep(alias)
            raise AliasMoved(self._target, alias)
        # Against the revision that was just read: another edit in between collides, and is judged again.
        self._write(self._protected_state(), alias)
        self._target.journal.append(
            "record-restored", found=str(alias), description=alias.description, serves=str(self.alias)
        )
        return False

    def shift(self, to: AliasState) -> None:
        """Move the alias in one write. Before the new version gets a weight, the failsafe is armed.

        AWS: scheduler:CreateSchedule, lambda:UpdateAlias, write; after a refusal lambda:GetAlias, reads, and
        scheduler:DeleteSchedule, writes.

        Raises:
            FailsafeTriggered: the failsafe moved it.
            AliasMoved: another run or tool moved it.
            AwsFailed: AWS refused or did not answer. If the write took effect, the next ``read`` says so.
        """
        # Armed first: a run that is killed between the two calls leaves no weight without a failsafe.
        arms = to.additional is not None and self.failsafe is None
        if arms:
            self.arm()
        try:
            self._write(to, self.alias)
        except AwsFailed as failure:
            # A call without an answer might still take effect. Of one that was refused, an attempt before may have.
            if arms and failure.code in REFUSALS and not self.weight and self._is_unchanged():
                self._disarm()
            raise

    def protect(self) -> None:
        """Arm the failsafe and, where the new version is the primary one, make that a weight which it can clear.

        AWS: scheduler:CreateSchedule or UpdateSchedule, lambda:UpdateAlias, write.

        Raises:
            FailsafeTriggered: the failsafe moved it.
            AliasMoved: another run or tool moved it.
        """
        self.arm()
        to = self._protected_state()
        # An UpdateAlias that changes nothing still gives the alias a new revision, at which other writes fail.
        if (to.primary, to.additional, to.weight) != (self.alias.primary, self.alias.additional, self.alias.weight):
            self._write(to, self.alias)

    def confirm_shift(self, stage: str) -> None:
        """Journal a shift that took effect."""
        self._target.journal.append(
            "shifted",
            stage=stage,
            weight=self.weight,
            to=f"v{self.new}",
            stable=self.stable,
            serves=str(self.alias),
        )

    def arm(self) -> None:
        """Arm the failsafe: it clears the alias's weights.

        AWS: scheduler:CreateSchedule or UpdateSchedule, writes.
        """
        self.failsafe = failsafe.arm_split(self._target, self.run)
        if failsafe.needs_renewal(self._target, self.failsafe):
            # The answer took minutes: the schedule may have run already.
            self.failsafe = failsafe.arm_split(self._target, self.run)

    def renew(self) -> None:
        """Renew the failsafe when it is time. A failure is passed over while enough time is left to try again.

        AWS: scheduler:UpdateSchedule, writes; lambda:GetAlias if the schedule is gone.

        Raises:
            FailsafeTriggered: the failsafe moved the alias.
            FailsafeLost: it was deleted, or could not be renewed in time.
            AliasMoved: another run or tool moved the alias.
        """
        if self.failsafe is None or not failsafe.needs_renewal(self._target, self.failsafe):
            return
        try:
            self.failsafe = failsafe.renew(self._target, self.failsafe)
        except FailsafeMissing:
            # A schedule is also gone once it has run: the alias shows that, and then this raises.
            self.read()
            # The alias is as it was, so the schedule has not run: something else removed it.
            raise FailsafeLost("The failsafe was deleted by another user or tool.") from None
        except AwsFailed as failure:
            # The next poll comes in a minute: by then a renewal might come too late.
            if self._target.clock.now() + failsafe.MARGIN + MINUTE >= self.failsafe.until:
                raise FailsafeLost(f"The failsafe could not be renewed. {failure.what}") from failure
            self._pass_over("The failsafe could not be renewed; the next poll tries again.", failure)

    def roll_back(
        self,
        rejected: Iterable[str],
        *,
        stage: str = "rolled-back",
        leaving: float = 0.0,
        attempts: int = ATTEMPTS,
        confirm: bool = True,
    ) -> None:
        """Give the stable version all traffic, even if other runs move the alias meanwhile.

        Another run's write is kept if it removed the new version's traffic, or rolled back to the new version by name.
        A rollback without a new version (the immediate one) wins in any case.

        Args:
            rejected: versions that no later rollback may return to.
            stage: the record's stage from now on.
            leaving: the share (0..1) that the new version keeps for now, a step of a gradual rollback.
            attempts: how often it writes, while other runs keep moving the alias.
            confirm: as for ``aliases.update_alias``.

        AWS: lambda:UpdateAlias, writes; lambda:GetAlias after a collision.

        Raises:
            AliasMoved: see above; or so many writes in a row collided with another run.
        """
        # Each attempt takes over the alias that the last one collided with, with its record: no other run's entry is
        # lost.
        for _ in range(attempts):
            # A person rolled back to the new version by name: that is the newer decision.
            record = self.alias.rollout
            if self.alias.primary == self.new and record is not None and record.stage == "rolled-back":
                raise AliasMoved(self._target, self.alias)
            to = self._rolled_back(rejected, stage, leaving)
            try:
                self._keep(aliases.update_alias(self._target, self.alias, to, confirm=confirm))
                return
            except AliasMoved as moved:
                # Python unbinds ``moved`` where the clause ends.
                collision = moved
                self._keep(moved.alias)
                # Another user or tool wrote over the record: it still says what was rolled out.
                if moved.alias.rollout is None:
                    self.alias = replace(moved.alias, rollout=record)
                # Another run was first: nothing is left to take away.
                if self.new and self.new not in self.alias.serving:
                    raise
        raise collision

    def unmark(self, marked_before: Sequence[str]) -> None:
        """Take the mark 'bad' off the new version, on an alias that is as the rollback left it. Traffic stays.

        The record then says what it says of any rollback that is attributed to no version.

        Args:
            marked_before: the versions that were marked before the rollback: its mark may have replaced the oldest.

        AWS: lambda:UpdateAlias, writes.

        Raises:
            AliasMoved: another run or tool changed it.
        """
        marked = [version for version in self.record.rejected_versions if version != self.new]
        replaced = [version for version in marked_before if version not in (self.new, *marked)]
        record = replace(self.record, stage="held", rejected_versions=())
        for version in (*replaced, *marked):
            record = record.with_rejected(version)
        alias = self.alias
        self._keep(
            aliases.update_alias(self._target, alias, AliasState(alias.primary, alias.additional, alias.weight, record))
        )

    def describe(self) -> str:
        """What is live now and when the failsafe acts, for an error's 'Now'. AWS: lambda:GetAlias, reads only."""
        state = aliases.describe_current_state(self._target, self.alias, self.read_at)
        now = self._target.clock.now()
        # A failsafe whose time is over has acted, or lost its effect: the alias says which.
        if self.failsafe is None or self.failsafe.until <= now or self.alias.primary != self.stable:
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
        record = _since_now(record, self._target.clock.now())
        # What an earlier rollback wrote of itself does not hold for this one.
        record = replace(record, stage=stage, closed_by_run="", rolled_back_to="")
        if record.run != self._target.run:
            record = replace(record, closed_by_run=self._target.run)
        # A person named another version than the one that served before.
        if record.stable_version != self.stable:
            record = replace(record, rolled_back_to=self.stable)
        for version in rejected:
            record = record.with_rejected(version)
        return AliasState(self.stable, self.new if leaving else None, leaving, record)

    def _protected_state(self) -> AliasState:
        """The traffic as it is, with the stable version as the primary one: then a failsafe that runs rolls back.

        A version that serves alone without health check is monitored again: its rollout is in progress.
        """
        record = self.record
        if self.switched and not record.open:
            record = replace(record, stage="watch")
        return AliasState(self.stable, self.new, self.weight, record)

    def _require_not_triggered(self, alias: Alias) -> None:
        """Raise FailsafeTriggered if the failsafe, and nothing else, has moved the alias since it was read last."""
        before = self.alias
        # A failsafe sends weights only, and leaves the Description: the record is the same as before.
        if alias.rollout == before.rollout and alias.failsafe_triggered and not before.failsafe_triggered:
            self._keep(alias)
            raise FailsafeTriggered

    def _is_same(self, alias: Alias) -> bool:
        """Whether the alias is as it was read last: a write of the same values changes the revision alone."""
        return replace(alias, revision=self.alias.revision) == self.alias

    def _is_edited(self, alias: Alias) -> bool:
        """Whether another user or tool left the traffic as it was, and wrote over nothing but the record."""
        before = self.alias
        if before.rollout is None or not before.rollout.open or alias.rollout not in (None, before.rollout):
            return False
        # By the shares, not by the fields: the same traffic may be written with the versions the other way round.
        shares = ((found.share(self.stable), found.share(self.new)) for found in (before, alias))
        return len(set(shares)) == 1

    def _write(self, to: AliasState, held: Alias) -> None:
        """Write the alias, also where another user or tool edits it meanwhile without moving traffic.

        Raises:
            FailsafeTriggered: the failsafe was first.
            AliasMoved: another run or tool moved it.
        """
        # Kept until the answer is there: if it is lost, the next read recognises the write by it.
        self._unconfirmed = to
        for attempt in range(ATTEMPTS):
            try:
                self._keep(aliases.update_alias(self._target, held, to))
            except AliasMoved as moved:
                self._require_not_triggered(moved.alias)
                # Every UpdateAlias gives a new RevisionId, also one that changes nothing: such a collision is no move.
                unmoved = self._is_same(moved.alias) or self._is_edited(moved.alias)
                if attempt + 1 == ATTEMPTS or not unmoved:
                    raise
                held = moved.alias
            else:
                self._unconfirmed = None
                return

    def await_capacity(self) -> Iterator[datetime]:
        """Read the alias until AWS has moved its traffic, after a write; yields when to continue.

        While AWS allocates provisioned concurrency, it leaves the traffic on the version before.

        AWS: lambda:GetAlias, reads only.

        Raises:
            AliasMoved: another run or tool moved it.
            BuddyError: ``capacity-pending``: it lasts too long.
        """
        began = self._target.clock.now()
        while self.alias.allocating:
            now = self._target.clock.now()
            if now - began >= ALLOCATION_LIMIT:
                raise capacity_pending(self._target, self.alias)
            self._target.journal.append("allocating", serves=str(self.alias))
            yield floor_minute(now) + MINUTE
            try:
                self.read()
            except AwsFailed as failure:
                self._pass_over("The alias could not be read; the next poll tries again.", failure)

    def _is_unchanged(self) -> bool:
        """Whether AWS says that the alias is as it was read last. AWS: lambda:GetAlias, reads only."""
        try:
            alias = aliases.read_alias(self._target)
        # Unknown counts as changed: the failsafe then stays, which clears weights that are not there.
        except BuddyError:
            return False
        # By the revision: a write that set the same weights again would have taken effect, too.
        return alias is not None and alias.revision == self.alias.revision

    def _disarm(self) -> None:
        """Delete the failsafe that was armed for a shift which did not happen."""
        self.failsafe = None
        for failure in delete_failsafes(self._target, self.run):
            self._target.journal.append("passed-over", what=failure)

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
    begun = record.stage_ages_s
    if record.stage != "rolled-back":
        begun = (*begun, 0)
    moved = replace(record, since=iso_utc(now), stage_ages_s=tuple(age_s + passed_s for age_s in begun))
    if len(moved.encode()) <= aliases.RECORD_LIMIT:
        return moved
    # A rollback is worth more than the times of the stages before it.
    return replace(moved, stage_ages_s=())


def _differ_by_allocation(one: Alias, other: Alias) -> bool:
    """Whether AWS alone changed an alias: its weight 1.0, while it allocates capacity, came or went."""
    if (one.primary, one.description) != (other.primary, other.description):
        return False
    # In either direction: an allocation begins, or ends.
    return any(moving.allocating and at_rest.additional is None for moving, at_rest in ((one, other), (other, one)))


def alias_deleted(target: Target, stable: str) -> BuddyError:
    """The alias was there when the rollout was planned or began; ``stable`` served before."""
    return BuddyError(
        "alias-deleted",
        f"The alias {target.resource} was deleted since the rollout was planned.",
        now="The alias does not exist. This run changed nothing after that.",
        next=f"v{stable} served before. {former_service.restore_advice(target, stable)} "
        "Restore its permissions and triggers. Find out who deleted it. Then run this again.",
    )


def capacity_pending(target: Target, alias: Alias) -> BuddyError:
    """AWS has not moved the traffic within ``ALLOCATION_LIMIT`` after the write."""
    settings = target.settings
    read = f"aws lambda get-provisioned-concurrency-config --function-name {settings.function}"
    return BuddyError(
        "capacity-pending",
        f"{aliases.describe_allocation(alias)} This has lasted for {ALLOCATION_LIMIT / MINUTE:g} min.",
        now=f"{target.resource} serves {alias}. The change to v{alias.primary} is written; AWS completes it.",
        next=f"Read the reason: `{read} --qualifier {settings.alias}`. Lower or delete the provisioned concurrency of "
        f"{settings.alias}: v{alias.primary} then serves without it. Check the alias with start_here.",
    )


def delete_failsafes(target: Target, run: str) -> list[str]:
    """Delete a run's failsafe once its traffic is where it belongs; a sentence if it could not be deleted.

    AWS: scheduler:DeleteSchedule, writes.
    """
    try:
        failsafe.disarm(target, run)
    except BuddyError as error:
        # A sentence, no error: it clears weights, and none is left.
        return [f"A failsafe could not be deleted: {error.what} It changes nothing and deletes itself."]
    return []


def recorded_run(alias: Alias) -> str:
    """The run that the alias's record names; empty if it has no record."""
    if alias.rollout is None:
        return ""
    return alias.rollout.run


def alias_scope(target: Target, action: str) -> dict[str, object]:
    """What the hash of every plan that moves this alias covers, beside the change itself."""
    return {
        "action": action,
        "environment": target.environment,
        "region": target.region,
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
        if alias.allocating:
            raise still_allocating(alias)
        if alias.additional is not None:
            clearing = invocation("rollback/immediate", target.environment, to_version="VERSION")
            next_step = f"Find out who shifts traffic (CodeDeploy?). {clearing} clears weights."
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
            next=f"Run {invocation('rollback/immediate', target.environment)}: it returns the traffic to the stable "
            f"version, or asks for it ({parameter('to_version')}).",
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


def still_allocating(alias: Alias) -> Refused:
    """The refusal to shift traffic while AWS completes the last shift."""
    return Refused(
        "weights-not-ours",
        aliases.describe_allocation(alias),
        next=f"Wait some minutes until v{alias.primary} serves alone, then run this again.",
    )


def _may_be_closed(target: Target, alias: Alias, record: RolloutState) -> bool:
    """Whether a later run may still monitor a version at 100 %: its health check was inconclusive, or goes on."""
    # A first deployment has no stable version: there is nothing to compare it with.
    age = target.clock.now() - datetime.fromisoformat(record.since)
    inconclusive = record.stage == "unproven" and bool(record.stable_version) and age < CLOSING_WINDOW
    monitored = record.monitors_at(target.clock.now())
    return (inconclusive or monitored) and alias.primary == record.new_version
