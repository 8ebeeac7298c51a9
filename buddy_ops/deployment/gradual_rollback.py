"""A gradual rollback: the traffic of a canary goes back in steps, while the stable version keeps serving.

It never takes a step up and never leaves traffic split without a failsafe. It does not wait for metrics: what fails on
the way moves the remaining traffic at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias, AliasMoved
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, InvalidInput, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.outcome import Ending, Outcome
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.text import exact_percent
from buddy_ops.deployment._after_rollback import AfterRollback
from buddy_ops.deployment._traffic import (
    FailsafeLost,
    FailsafeTriggered,
    Traffic,
    alias_scope,
    delete_failsafes,
    foreign_weights,
    recorded_run,
    still_allocating,
)
from buddy_ops.deployment.observation import Observation, Polls, Rollout, observe, show
from buddy_ops.deployment.rollback import which_is_stable
from buddy_ops.health.evidence import RolloutEvidence

STAGE = "rolled-back"
"""The stage of every poll, and of the record: the rollout is closed, and its version marked bad."""


@dataclass(frozen=True, kw_only=True)
class GradualRollbackPlan(Plan):
    """A gradual rollback.

    Attributes:
        steps: the new version's shares (0..1), falling to 0; empty where it has no traffic already.
        step_minutes: how long each step is monitored.
    """

    stable: str
    new: str
    steps: tuple[float, ...]
    step_minutes: float


class _MoveRestNow(Exception):
    """The remaining traffic goes back at once; the message is a sentence that says why."""


@contextmanager
def _move_rest_on_failure(what: str) -> Iterator[None]:
    """Move the remaining traffic at once if AWS fails. A gradual rollback never waits for AWS to recover."""
    try:
        yield
    except AwsFailed as failure:
        raise _MoveRestNow(f"{what}. {failure.what}") from failure


def plan_gradual_rollback(
    target: Target, steps_percent: list[float] | None = None, step_minutes: float = 2
) -> GradualRollbackPlan:
    """Where the canary's share is, and how it goes to 0.

    Args:
        steps_percent: percentages of the traffic, falling; the last step is always 0. None or empty: back through the
            environment's stages. ``[0]``: at once.
        step_minutes: how long each step is monitored.

    AWS: lambda:GetAlias, reads only.

    Raises:
        Refused: ``nothing-to-drain``, ``which-is-stable``, ``weights-not-ours``.
        InvalidInput: ``alias-missing``, ``invalid-parameters``.
    """
    alias = aliases.require_alias(target)
    _require_rollout(target, alias)
    new = ""
    steps: tuple[float, ...] = ()
    if alias.additional is not None:
        new = alias.additional
        steps = _steps(target, alias, steps_percent or [], step_minutes)
    # Found done: the plan has no steps, but names the version that a second run reports on.
    elif alias.rollout is not None:
        new = alias.rollout.new_version
    stable = alias.primary
    way = " → ".join(map(exact_percent, (alias.weight, *steps)))
    calls = [f"lambda:UpdateAlias FunctionVersion={stable} weight {share:g}" for share in steps]
    # A single step needs no failsafe: nothing is left split after it.
    if len(steps) > 1:
        calls.insert(0, "scheduler:CreateSchedule failsafe")
    title = f"v{stable} already serves alone"
    then = ["Nothing changes."]
    if steps:
        title = f"Roll back v{new} on {target.resource} gradually: {way}"
        then = [
            f"v{new} {way}, {step_minutes:g} min per step; v{stable} receives the rest.",
            f"If v{new} fails too often, or a step fails: v{new} 0 % at once.",
            f"v{new} is marked bad (excluded as rollback target).",
        ]
    return GradualRollbackPlan(
        title=title,
        now=aliases.describe_in_sentences(target, alias),
        then=tuple(then),
        calls=tuple(calls),
        undo=(f"Deploy v{new} again: run strategies/canary with its artifact.",),
        covers={
            **alias_scope(target, "rollback"),
            "from": [stable, new],
            "steps": [f"{share:g}" for share in steps],
            "step_minutes": step_minutes,
        },
        stable=stable,
        new=new,
        steps=steps,
        step_minutes=step_minutes,
    )


def run_gradual_rollback(target: Target, plan: GradualRollbackPlan, approval: Approval) -> Rollout:
    """Go down step after step, a poll at a time; the driver waits. A second run finds the work done.

    'abort' moves the remaining traffic at once, 'hold' stays at a step, under its failsafe, and 'promote' goes on to
    the next. Closing the generator leaves the share as it is until the failsafe moves it.

    AWS: lambda:UpdateAlias, scheduler:CreateSchedule, UpdateSchedule, DeleteSchedule (write); lambda:GetAlias,
    cloudwatch:GetMetricData (read).

    Raises:
        Refused: ``approval-void``; AliasMoved where another run rolled back to another version meanwhile.
        AwsFailed: the traffic could not be moved; ``now`` says what is live, and when the failsafe moves it.
    """
    approval.must_cover(plan, target.clock.now())
    run = _Run(target, plan)
    if target.dry_run:
        return run.outcome("dry-run", "Dry run: nothing was written.")
    try:
        reasons = yield from run.to_end()
    except AliasMoved:
        # A failsafe that stayed would fire at another run's weights.
        delete_failsafes(target, run.traffic.run)
        raise
    failures = delete_failsafes(target, run.traffic.run)
    # The traffic is back: what is read on changes nothing of that.
    target.journal.append(
        "rollback", to=plan.stable, away_from=(plan.new,), by=approval.by, already=not plan.steps, reasons=reasons
    )
    uncounted = yield from run.read_on()
    return run.outcome("drained", *reasons, *uncounted, *failures)


class _Run:
    """One run of a plan."""

    def __init__(self, target: Target, plan: GradualRollbackPlan) -> None:
        self.target = target
        self.plan = plan
        self.began = target.clock.now()
        alias = aliases.require_alias(target)
        # The failsafe of the run that split the traffic is taken over.
        run = recorded_run(alias) or target.run
        self.traffic = Traffic(target, alias, run=run, stable=plan.stable, new=plan.new)
        self.evidence = RolloutEvidence(target, plan.stable, plan.new)
        self.paused = False

    def to_end(self) -> Polls[tuple[str, ...]]:
        """Every step; why the last one came early, if it did."""
        reasons: tuple[str, ...] = ()
        try:
            yield from self._go_down()
        except _MoveRestNow as why:
            reasons = (f"The remaining traffic was moved at once: {why}",)
        # Where another run has moved everything already, there is nothing to write. A failsafe leaves the record open:
        # the last step closes it, although no traffic is left to move.
        alias = self.traffic.alias
        if alias.failsafe_triggered or self.plan.new in alias.serving:
            try:
                self._shift(0.0)
            except AwsFailed as failure:
                failure.now = self.traffic.describe()
                raise
        return reasons

    def read_on(self) -> Polls[tuple[str, ...]]:
        """Count the last requests of the new version; what could not be counted."""
        if not self.plan.steps:
            return ()
        after = AfterRollback(self.target, self.evidence, self.target.clock.now())
        self.evidence.rolled_back(after.since)
        yield from after.to_end(self._observe("", 0.0))
        return after.reasons()

    def outcome(self, ending: Ending, *reasons: str) -> Outcome:
        """How it ended, with all requests that were seen on the way."""
        requests, failed = self.evidence.totals()
        return Outcome(
            ending,
            self.plan.stable,
            self.plan.new,
            stage=STAGE,
            began=self.began,
            ended=self.target.clock.now(),
            reasons=reasons,
            requests=requests,
            failed=failed,
        )

    def _go_down(self) -> Polls[None]:
        """Every step but the last.

        Raises:
            _MoveRestNow: a step, the failsafe or the new version failed, or a person aborted.
        """
        if self.plan.steps and self.traffic.alias.additional != self.plan.new:
            raise _MoveRestNow(f"it was moved after the plan was made: it served {self.traffic.alias}.")
        if len(self.plan.steps) > 1:
            with _move_rest_on_failure("the failsafe could not be armed"):
                self.traffic.arm()
        for share in self.plan.steps[:-1]:
            # Another run may have gone further down.
            if share >= self.traffic.weight:
                continue
            with _move_rest_on_failure("a step failed"):
                self._shift(share)
            if self.traffic.alias.additional != self.plan.new:
                raise _MoveRestNow("another run moved it first.")
            yield from self._stay(share)

    def _shift(self, share: float) -> None:
        """Leave the new version this share: a rollback wins over the rollout that it ends."""
        try:
            self.traffic.roll_back((self.plan.new,), leaving=share)
        except AliasMoved as moved:
            if moved.alias.serving != (self.plan.stable,):
                raise
            # Another run has done it already.
        # Also where another run was faster: from here on the requests are counted under the weight that the alias has.
        self.evidence.shifted(self.traffic.read_at, self.traffic.weight)
        self.traffic.confirm_shift(STAGE)

    def _stay(self, share: float) -> Polls[None]:
        """Monitor a step until its time is over."""
        until = self.target.clock.now() + timedelta(minutes=self.plan.step_minutes)
        while True:
            self._check_alias()
            observation = self._observe(self.evidence.read(self.target.clock.now()) or "", share)
            # Metrics may end a step early, but never lengthen it.
            if observation.verdict is not None and observation.verdict.decision == "rollback":
                raise _MoveRestNow(" ".join(observation.verdict.reasons))
            if observation.at >= until and not self.paused:
                return
            order = yield from show(observation, self.evidence)
            if order == "abort":
                raise _MoveRestNow("a person aborted the steps.")
            # In a gradual rollback the next stage is the next step down.
            if order == "promote":
                self.paused = False
                return
            # Without an order a pause goes on, under the failsafe.
            self.paused = order == "hold" or (self.paused and order is None)

    def _check_alias(self) -> None:
        """Read the alias again, and renew the failsafe when it is time."""
        try:
            with _move_rest_on_failure("the alias could not be read"):
                self.traffic.read()
                self.traffic.renew()
        except (AliasMoved, FailsafeTriggered):
            raise _MoveRestNow(f"another run or tool moved the alias: it served {self.traffic.alias}.") from None
        except FailsafeLost as lost:
            raise _MoveRestNow(str(lost)) from lost

    def _observe(self, trouble: str, share: float) -> Observation:
        verdict = self.evidence.verdict(self.target.clock.now(), 60 * self.plan.step_minutes, final=False)
        says = " ".join(verdict.reasons)
        if trouble:
            says = f"Metrics cannot be read: {trouble} The steps continue."
        below = next((step for step in self.plan.steps if step < share), None)
        return observe(self.target, self.evidence, verdict, stage=STAGE, weight=share, next_weight=below, says=says)


def _require_rollout(target: Target, alias: Alias) -> None:
    """Refuse unless a canary beside the stable version has a share, or had one that went back already."""
    if alias.allocating:
        raise still_allocating(alias)
    if alias.additional is None and not _is_drained(alias):
        raise Refused(
            "nothing-to-drain",
            f"{target.resource} serves {alias}: no canary receives traffic.",
            next="To roll back a version that serves alone, open rollback/immediate.",
        )
    if alias.stable is None:
        raise which_is_stable(target, alias)
    if alias.stable != alias.primary:
        # The failsafe of the steps clears the weights, which here would give the new version all traffic.
        next_step = f"Open rollback/immediate: it gives v{alias.stable} 100 % of the traffic in one write."
        reason = f"another tool made v{alias.primary} the primary version (v{alias.stable} is stable)"
        raise foreign_weights(target, alias, reason, next=next_step)


def _is_drained(alias: Alias) -> bool:
    """Whether a rollout's share went back already."""
    record = alias.rollout
    if record is None:
        return False
    rolled_back = record.rolled_back and alias.primary == record.stable_version
    return rolled_back or alias.failsafe_triggered


def _steps(target: Target, alias: Alias, percent: list[float], minutes: float) -> tuple[float, ...]:
    """The shares on the way down from where the alias is."""
    stages = [stage / 100 for stage in reversed(target.settings.rollout.stages_percent)]
    # Without steps of its own it goes back through the stages that it came up.
    steps = [share / 100 for share in percent] or [share for share in stages if share < alias.weight]
    if not steps or steps[-1] != 0:
        steps.append(0.0)
    # Strictly, from where the alias is: a step up would give users more of a version that is to go.
    falling = all(later < earlier for earlier, later in pairwise((alias.weight, *steps)))
    if not falling or steps[-1] < 0 or not 0 < minutes <= 60:
        raise InvalidInput(
            "invalid-parameters",
            f"steps {percent} of {minutes:g} min: steps must fall from the {exact_percent(alias.weight)} that "
            f"v{alias.additional} has now, for example [5, 0]. Each takes more than 0 and at most 60 min.",
            now=f"{target.resource} serves {alias}; nothing was changed.",
            next=f"Correct {parameter('steps')} and {parameter('step_minutes')}; empty steps go back through the "
            "environment's stages.",
        )
    return tuple(steps)
