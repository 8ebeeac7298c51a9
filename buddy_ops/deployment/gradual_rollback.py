"""Taking a canary's traffic away in steps, or at once, while stable keeps serving.

Knows the way down. Never takes a step up, never leaves traffic split without a lease, and waits for no metrics: what
goes wrong on the way takes the rest away at once.
"""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from buddy_ops.aws import aliases, failsafe
from buddy_ops.aws.aliases import Alias, AliasMoved
from buddy_ops.aws.failsafe import Failsafe, FailsafeMissing
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, InvalidInput, Refused
from buddy_ops.core.outcome import Ending, Outcome
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.deployment import rollback
from buddy_ops.deployment.observation import Observation, Order, Rollout
from buddy_ops.health.evidence import RolloutEvidence
from buddy_ops.health.metrics import MINUTE


@dataclass(frozen=True)
class GradualRollbackPlan(Plan):
    """The way down: ``steps`` are the new version's shares, 0..1, falling to 0; none where it has none already."""

    stable: str
    new: str
    steps: tuple[float, ...]
    step_minutes: float


def plan_gradual_rollback(
    target: Target, steps_percent: list[float] | None = None, step_minutes: float = 2
) -> GradualRollbackPlan:
    """Where the canary's share is, and how it goes to 0.

    Args:
        steps_percent: percentages of the traffic, falling; the way always ends at 0. None or empty: back through the
            environment's stages. ``[0]``: at once.
        step_minutes: how long each step is watched.

    AWS: lambda:GetAlias, reads only.

    Raises:
        Refused: ``nothing-to-drain``, ``which-is-stable``, ``weights-not-ours``.
        InvalidInput: ``alias-missing``, ``invalid-parameters``.
    """
    alias = rollback.require_alias(target)
    stable, new = alias.primary, alias.additional or (alias.rollout.new_version if alias.rollout else "")
    if alias.additional is None and not _drained(alias):
        raise Refused(
            "nothing-to-drain",
            f"{target.resource} serves {alias}: no canary has a share that could be taken away.",
            now="Nothing was changed.",
            next="To leave the version that serves alone, open rollback/immediate.",
        )
    if alias.stable is None:
        raise rollback.which_is_stable(target, alias)
    if alias.stable != alias.primary:
        # The lease of the steps clears the weights, which here would give the new version everything.
        raise Refused(
            "weights-not-ours",
            f"{target.resource} serves {alias}, and v{alias.stable} is the stable version: another tool made "
            f"v{alias.primary} the primary one.",
            now="Nothing was changed.",
            next=f"Open rollback/immediate: it gives v{alias.stable} 100 % of the traffic in one write.",
        )
    steps = _steps(target, alias, steps_percent or [], step_minutes) if alias.additional is not None else ()
    way = " → ".join(f"{100 * share:g} %" for share in (alias.weight, *steps))
    return GradualRollbackPlan(
        title=f"Take v{new} out of {target.resource}: {way}" if steps else f"v{stable} serves alone already",
        now=tuple(aliases.describe(target, alias).splitlines()),
        then=(
            f"v{new} goes {way}, {step_minutes:g} minutes a step, and v{stable} serves the rest",
            f"where v{new} fails too often, or this run cannot go on: 0 % at once",
            f"v{new} is noted as bad: no later rollback returns to it",
        )
        if steps
        else ("nothing changes",),
        calls=(
            *(("scheduler:CreateSchedule the lease",) * (len(steps) > 1)),
            *(f"lambda:UpdateAlias FunctionVersion={stable} weight {share:g}" for share in steps),
        ),
        undo=(f"ship v{new} again: run strategies/canary with its artifact",),
        reasons=(),
        covers={
            "action": "rollback",
            "environment": target.environment,
            "function": target.settings.function,
            "alias": target.settings.alias,
            "from": [stable, new],
            "steps": [f"{share:g}" for share in steps],
            "step_minutes": step_minutes,
        },
        approvals=1,  # the safe direction, as in rollback/immediate
        demand_hash=False,
        stable=stable,
        new=new,
        steps=steps,
        step_minutes=step_minutes,
    )


def run_gradual_rollback(target: Target, plan: GradualRollbackPlan, approval: Approval) -> Rollout:
    """Go down step after step, a poll at a time; whoever drives it waits. A second run finds the work done.

    'abort' takes the rest away at once, 'hold' stays at a step, under its lease, and 'promote' goes on to the next.
    Closing the generator leaves the share as it is until the lease takes it away.

    AWS: lambda:UpdateAlias, scheduler:CreateSchedule, UpdateSchedule, DeleteSchedule (write); lambda:GetAlias,
    cloudwatch:GetMetricData (read).

    Raises:
        Refused: ``approval-void``; AliasMoved where somebody else rolled back to another version meanwhile.
        AwsFailed: the traffic could not be moved; ``now`` says what is live, and when the lease moves it.
    """
    approval.must_cover(plan)
    descent = _GradualRollback(target, plan)
    if target.dry_run:
        return descent.outcome("dry-run", ("Dry run: nothing was written.",))
    try:
        reasons = yield from descent.go()
    except AliasMoved:
        rollback.delete_failsafes(target, descent.run_id)  # a lease that stayed would fire at somebody else's weights
        raise
    told = rollback.delete_failsafes(target, descent.run_id)
    target.journal.append(
        "rollback", to=plan.stable, away_from=(plan.new,), by=approval.by, already=not plan.steps, reasons=reasons
    )
    return descent.outcome("drained", (*reasons, *told))


class _GradualRollback:
    """One way down: what it holds of the world, and its steps."""

    def __init__(self, target: Target, plan: GradualRollbackPlan) -> None:
        self.target, self.plan = target, plan
        self.began = self.read_at = target.clock.now()
        self.alias = rollback.require_alias(target)
        self.run_id = self.alias.rollout.run if self.alias.rollout else target.run
        self.evidence = RolloutEvidence(target, plan.stable, plan.new)
        self.lease: Failsafe | None = None
        self.holding = False

    def go(self) -> Generator[Observation, Order | None, tuple[str, ...]]:
        """Every step; why the last one came early, if it did."""
        why = ""
        if self.plan.steps and self.alias.additional != self.plan.new:
            why = f"it was moved after the plan was made: it served {self.alias}."
        elif len(self.plan.steps) > 1:
            why = self._arm()
        for share in self.plan.steps[:-1]:
            if not why and share < self.alias.weight:  # another run may have gone further down
                why = self._step(share) or (yield from self._stay(share))
        if self.alias.failsafe_triggered or self.plan.new in (self.alias.primary, self.alias.additional):
            try:
                self._shift(0.0)
            except AwsFailed as failure:
                failure.now = self._standing()
                raise
        if self.plan.steps:
            yield self._observe("", 0.0)
        return (f"The rest was taken away at once: {why}",) if why else ()

    def _arm(self) -> str:
        """Arm the lease of whoever shifted the traffic, anew; why it could not be, or ''."""
        try:
            self.lease = failsafe.arm_split(self.target, self.run_id)
        except AwsFailed as failure:
            return f"the lease could not be armed. {failure.what}"
        return ""

    def _step(self, share: float) -> str:
        """One step down; why the rest must go at once, or ''."""
        try:
            self._shift(share)
        except AwsFailed as failure:
            return f"a step failed. {failure.what}"
        return "" if self.alias.additional == self.plan.new else "somebody else took it away first."

    def _shift(self, share: float) -> None:
        """Leave the new version this share: a rollback wins over the rollout that it ends."""
        stable, new = self.plan.stable, self.plan.new
        try:
            self.alias = rollback.shift_all_traffic(
                self.target, self.alias, stable, (new,), only_from=new, leaving=share
            )
        except AliasMoved as moved:
            if (moved.alias.primary, moved.alias.additional) != (stable, None):
                raise
            self.alias = moved.alias  # somebody else has done it
        self.read_at = self.target.clock.now()
        self.evidence.shifted(self.read_at, self.alias.weight)
        where = {"weight": self.alias.weight, "to": f"v{new}", "serves": str(self.alias)}
        self.target.journal.append("shifted", stage="rolled-back", **where)

    def _stay(self, share: float) -> Generator[Observation, Order | None, str]:
        """Watch a step until it is over: '' to go on, or why the rest must go at once."""
        until = self.target.clock.now() + timedelta(minutes=self.plan.step_minutes)
        while True:
            if why := self._look():
                return why
            seen = self._observe(self.evidence.read(self.target.clock.now()) or "", share)
            if seen.verdict is not None and seen.verdict.decision == "rollback":
                return " ".join(seen.verdict.reasons)
            if seen.at >= until and not self.holding:
                return ""
            order = yield seen
            if order == "abort":
                return "a person ordered it."
            if order == "promote":
                self.holding = False
                return ""
            self.holding = order == "hold" or (self.holding and order is None)

    def _look(self) -> str:
        """Read the alias again, and renew the lease when it is due; why the rest must go at once, or ''."""
        try:
            alias = rollback.require_alias(self.target)
            self.read_at = self.target.clock.now()
            if alias.revision != self.alias.revision:
                self.alias = alias
                return f"somebody else moved the alias: it served {alias}."
            if self.lease is not None and failsafe.needs_renewal(self.target, self.lease):
                self.lease = failsafe.renew(self.target, self.lease)
        except FailsafeMissing:
            return "the lease was deleted by somebody else."
        except AwsFailed as failure:
            return f"the alias or its lease could not be reached. {failure.what}"
        return ""

    def _observe(self, trouble: str, share: float) -> Observation:
        now = self.target.clock.now()
        verdict = self.evidence.verdict(now, 60 * self.plan.step_minutes, final=False)
        says = f"Metrics cannot be read: {trouble} Steps go on." if trouble else " ".join(verdict.reasons)
        self.target.journal.append("observed", stage="rolled-back", weight=share, decision=verdict.decision, says=says)
        wake_at = now.replace(second=0, microsecond=0) + MINUTE if share else now
        rows = self.evidence.fresh()
        return Observation(now, "rolled-back", share, rows, verdict, self.evidence, wake_at, says)

    def _standing(self) -> str:
        told = aliases.describe_current_state(self.target, self.alias, self.read_at)
        if self.lease is not None and self.lease.until > self.target.clock.now():
            told += f" The lease takes what v{self.plan.new} still has away at {self.lease.until:%H:%M} UTC."
        return told

    def outcome(self, ending: Ending, reasons: tuple[str, ...]) -> Outcome:
        """How it ended, with all requests that were seen on the way."""
        now, plan = self.target.clock.now(), self.plan
        return Outcome(ending, plan.stable, plan.new, "rolled-back", self.began, now, reasons, *self.evidence.totals())


def _drained(alias: Alias) -> bool:
    """Whether a rollout's share was taken away already, by whomever."""
    record = alias.rollout
    return record is not None and (
        alias.failsafe_triggered or (record.stage in ("rolled-back", "held") and alias.primary == record.stable_version)
    )


def _steps(target: Target, alias: Alias, percent: list[float], minutes: float) -> tuple[float, ...]:
    """The shares on the way down from where the alias is."""
    policy = [each / 100 for each in reversed(target.settings.rollout.stages_percent) if each / 100 < alias.weight]
    steps = [each / 100 for each in percent] or policy
    steps = steps if steps and steps[-1] == 0 else [*steps, 0.0]
    falling = all(later < earlier for earlier, later in pairwise((alias.weight, *steps)))
    if not falling or steps[-1] < 0 or not 0 < minutes <= 60:
        raise InvalidInput(
            "invalid-parameters",
            f"steps {percent} of {minutes:g} minutes: steps must fall from the {100 * alias.weight:g} % that "
            f"v{alias.additional} has now, for example [5, 0], and last above 0 and at most 60 minutes each.",
            now=f"{target.resource} serves {alias}; nothing was changed.",
            next="Correct steps and step_minutes; empty steps go back through the environment's stages.",
        )
    return tuple(steps)
