"""One engine for every strategy: publish, shift in stages, watch, promote or take back.

Knows stages, bakes and the lease. It is a generator that never sleeps: it yields an Observation and when to come back;
whoever drives it waits. Charts and reports watch it; it imports none of them. The whole state of a rollout lives in the
alias, so any machine can resume, abort or explain it.
"""

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from buddy_ops import aliases, freeze, lease, rollback
from buddy_ops.aliases import Alias, AliasMoved, Record, Shift
from buddy_ops.envelope import RolloutPlan, fired, plan
from buddy_ops.errors import AwsFailed, BuddyError, Held, Refused, RolledBack
from buddy_ops.evidence import Evidence
from buddy_ops.health import Verdict
from buddy_ops.journal import iso
from buddy_ops.lease import Lease, LeaseGone
from buddy_ops.metrics import MINUTE, Row
from buddy_ops.plan import Approval
from buddy_ops.target import Target

__all__ = ["Observation", "Order", "Outcome", "Rollout", "RolloutPlan", "conclude", "plan", "run"]

Order = Literal["abort", "hold", "promote"]
Ending = Literal[
    "proved", "unproven", "deployed", "already-live", "dry-run", "rolled-back", "aborted", "lease-fired", "held"
]
EXIT_CODES: dict[Ending, int] = {"rolled-back": 3, "aborted": 3, "lease-fired": 3, "held": 5}
PUBLISH_POLL = timedelta(seconds=2)
PUBLISH_LIMIT = timedelta(minutes=10)


@dataclass(frozen=True)
class Observation:
    """One poll. ``rows`` are the minutes read since the last one, ``verdict`` what the judge says of all so far.

    Attributes:
        stage: '1', '2', ... or 'publish' or 'watch'.
        weight: the new version's share now, 0..1.
        wake_at: when to call again.
        bake_left_s: seconds until the bake is over, at least 0; None where nothing bakes.
    """

    at: datetime
    stage: str
    weight: float
    rows: tuple[Row, ...]
    verdict: Verdict | None
    evidence: Evidence | None
    wake_at: datetime
    says: str
    bake_left_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended."""

    ending: Ending
    stable: str
    new: str
    stage: str
    began: datetime
    ended: datetime
    reasons: tuple[str, ...]
    requests: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The exit code that the command line documents for this ending."""
        return EXIT_CODES.get(self.ending, 0)

    def __str__(self) -> str:
        return "\n".join((f"{_title(self)} ({(self.ended - self.began) / MINUTE:.0f} min).", *self.reasons))


Rollout = Generator[Observation, Order | None, Outcome]


def run(target: Target, plan: RolloutPlan, approval: Approval) -> Rollout:
    """Carry the plan out, a poll at a time. Closing the generator leaves the alias as it is, under its lease.

    AWS: lambda:UpdateFunctionCode, PublishVersion, UpdateAlias or CreateAlias, scheduler:CreateSchedule,
    UpdateSchedule, DeleteSchedule (write); lambda:GetAlias, GetFunctionConfiguration, cloudwatch:GetMetricData (read).

    Raises:
        Refused: ``approval-void``; AliasMoved when somebody else moves the alias.
        AwsFailed: AWS refused or could not be reached; running again resumes.
    """
    approval.must_cover(plan)
    engine = _Engine(target, plan)
    outcome = yield from engine.run()
    target.journal.record(
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


def conclude(outcome: Outcome) -> None:
    """The last cell of a strategy's notebook: nothing if it ended as asked, a short error with its exit code if not.

    Raises:
        RolledBack: exit code 3.
        Held: exit code 5.
    """
    if outcome.exit_code == 0:
        return
    kind = RolledBack if outcome.exit_code == 3 else Held
    raise kind(
        outcome.ending,
        str(outcome),
        now=f"v{outcome.stable} serves 100 % of the traffic; v{outcome.new} gets none.",
        next="Read the reasons above and the error log of the new version, correct the build and ship again.",
    )


class _Engine:
    """One run of a plan: what it holds of the world, and its steps."""

    def __init__(self, target: Target, plan: RolloutPlan) -> None:
        self.target, self.plan, self.policy = target, plan, target.settings.rollout
        self.new = plan.known
        self.stages = plan.stages
        self.began = self.started = self.polled = target.clock.now()
        self.unread_since: datetime | None = None
        self.holding = False
        self.frozen = False
        self.lease: Lease | None = None
        self.alias: Alias | None = None
        self.evidence: Evidence | None = None

    def run(self) -> Rollout:
        """Publish, then stage after stage, then the watch."""
        self.alias = aliases.read(self.target)
        if self.target.dry_run:
            return self._outcome("dry-run", ("Dry run: nothing was written.",))
        if self.alias and self.plan.known and self.alias.primary == self.plan.known and self.plan.resumes is None:
            return self._outcome("already-live", (f"v{self.new} has this code and serves {self.alias}.",))
        if self.plan.resumes and self.alias and fired(self.alias):
            return self._lease_fired()
        if self.plan.resumes is None:
            freeze.refuse(self.target)
        if not self.new:
            yield from self._publish()
        if self.alias is None:
            return self._deploy_first()
        if self.target.settings.lease.prove and self.plan.resumes is None:
            yield from self._prove_lease()
        self._begin_judging()
        while True:
            outcome = yield from self._bake()
            if outcome is not None:
                return outcome
            outcome = self._advance()
            if outcome is not None:
                return outcome

    # Publishing

    def _publish(self) -> Generator[Observation, Order | None, None]:
        """Upload, wait until AWS has taken it in, publish, wait until the version can serve."""
        target = self.target
        latest = aliases.configuration(target)
        if latest["CodeSha256"] != self.plan.sha256:
            aliases.upload(target, self.plan.artifact, latest["RevisionId"])
        latest = yield from self._settled(None)
        self.new = aliases.publish(target, self.plan.sha256, latest["RevisionId"], f"run {target.run}")
        yield from self._settled(self.new)

    def _settled(self, version: str | None) -> Generator[Observation, Order | None, dict[str, str]]:
        """Wait until $LATEST's update, or a version, has settled; its configuration then, with the RevisionId then."""
        deadline = self.target.clock.now() + PUBLISH_LIMIT
        what = f"v{version}" if version else "the upload"
        while True:
            settings = aliases.configuration(self.target, version)
            update, state = settings.get("LastUpdateStatus", "Successful"), settings.get("State", "Active")
            if update == "Successful" and state in ("Active", "Inactive"):
                return settings
            now = self.target.clock.now()
            if "Failed" in (update, state) or now > deadline:
                reason = settings.get("StateReason") or settings.get("LastUpdateStatusReason") or "no reason given"
                raise BuddyError(
                    "publish-failed",
                    f"AWS did not take in {what} of {self.target.settings.function}: {update}, {state}: {reason}.",
                    now=f"{self.target.resource} is untouched: it serves {self.alias}.",
                    next="Correct the build and run again.",
                )
            says = f"Waiting until AWS has taken in {what}."
            yield Observation(now, "publish", 0.0, (), None, None, now + PUBLISH_POLL, says)

    def _deploy_first(self) -> Outcome:
        """There is no alias: create it. Nothing served before, so there is nothing to compare with or return to."""
        record = Record(self.target.run, "", self.new, "unproven", iso(self.target.clock.now()))
        self.alias = aliases.shift(self.target, None, Shift(self.new, None, 0.0, record))
        return self._outcome(
            "deployed", (f"The alias {self.target.resource} was created: it serves 100 % v{self.new}.",)
        )

    def _prove_lease(self) -> Generator[Observation, Order | None, None]:
        """Where the policy demands it: see a lease fire before traffic depends on one."""
        for wake_at in lease.prove(self.target, self.plan.stable, self.new):
            says = "Waiting for a lease to fire at a scratch alias."
            yield Observation(self.target.clock.now(), "prove", 0.0, (), None, None, wake_at, says)

    # Stages

    def _begin_judging(self) -> None:
        """Read the minutes before, then shift to the first stage or pick up the one under way."""
        self.evidence = Evidence(self.target, self.plan.stable, self.new)
        resumed = self.plan.resumes
        if resumed is not None:
            self.stages = self._with_probe(resumed.probe)
            self.began = self.evidence.resume(resumed, list(self.stages))
            self.lease = lease.arm(self.target) if resumed.stage.isdigit() else self._guard()
            self.target.journal.record("resumed", run=resumed.run, stage=resumed.stage, of=f"v{self.new}")
            return
        trouble = self.evidence.read(self.began)
        if trouble is not None:
            raise Refused(
                "metrics-unreadable",
                f"The rollout did not begin, since it would be blind: {trouble}",
                now=f"{self.target.resource} serves {self.alias}; nothing was shifted.",
                next="See whether CloudWatch has an outage, and whether the role may call cloudwatch:GetMetricData.",
            )
        probe = self.policy.probe_percent
        busy = self.evidence.requests_per_minute >= self.policy.probe_from_requests_per_minute
        self.stages = self._with_probe(bool(probe) and busy and probe / 100 < self.stages[0])
        self._shift(0)
        self.began = self.evidence.shifts[0][0]

    def _with_probe(self, probing: bool) -> tuple[float, ...]:
        return (self.policy.probe_percent / 100, *self.plan.stages) if probing else self.plan.stages

    @property
    def _stage(self) -> int:
        """The stage under way, from 0; the watch is the last."""
        record = self.alias.record if self.alias else None
        return int(record.stage) - 1 if record is not None and record.stage.isdigit() else len(self.stages) - 1

    def _shift(self, stage: int) -> None:
        """Give the new version the stage's share. The lease stands before weights do, the guard after a switch."""
        assert self.alias is not None and self.evidence is not None
        weight, now = self.stages[stage], self.target.clock.now()
        record = self._record("watch" if weight == 1.0 else str(stage + 1), now)
        if weight < 1.0:
            if self.lease is None:
                self.lease = lease.arm(self.target)
            to = Shift(self.plan.stable, self.new, weight, record)
        else:
            to = Shift(self.new, None, 0.0, record)
        self.alias = aliases.shift(self.target, self.alias, to)
        self.evidence.shifted(now, weight)
        self.target.journal.record(
            "shifted", stage=record.stage, weight=weight, to=f"v{self.new}", serves=str(self.alias)
        )
        if weight == 1.0:
            self.lease = self._guard()
            lease.disarm(self.target, "lease")

    def _guard(self) -> Lease:
        assert self.alias is not None
        return lease.guard(self.target, self.plan.stable, self.alias.revision)

    def _record(self, stage: str, now: datetime) -> Record:
        """The alias's record for a new stage of this run."""
        assert self.alias is not None
        old = self.alias.record
        if old is not None and old.to == self.new and old.open:
            ago = (*old.ago, 0)
            passed = round((now - datetime.fromisoformat(old.since)).total_seconds())
            return replace(old, stage=stage, since=iso(now), ago=tuple(each + passed for each in ago))
        prev = "" if old is None else (old.source if self.alias.primary == old.to else old.prev)
        note = self.alias.description[:60] if old is None else old.note
        probe = len(self.stages) > len(self.plan.stages)
        record = Record(self.target.run, self.plan.stable, self.new, stage, iso(now), prev=prev, note=note, probe=probe)
        for version in old.bad if old else ():
            record = record.with_bad(version) if version != self.new else record
        # A rollout whose lease fired, and that nobody closed, is closed by the next one.
        return record.with_bad(old.to) if old is not None and old.open else record

    def _bake(self) -> Generator[Observation, Order | None, Outcome | None]:
        """Poll once a minute until the stage is over: None to go on, an Outcome to end."""
        while True:
            now = self.target.clock.now()
            trouble = self._look(now)
            if isinstance(trouble, Outcome):
                return trouble
            observation = self._observe(now, trouble)
            decision = self._decide(now, observation.verdict, trouble)
            if decision == "promote":
                return None
            if isinstance(decision, Outcome):
                # The minutes that decided belong in the picture too.
                yield replace(observation, wake_at=now, weight=0.0)
                return decision
            order = yield observation
            if order == "abort":
                return self._take_back("aborted", ("A person aborted the rollout.",), bad=True)
            self.holding = order == "hold" or (self.holding and order is None)
            if order == "promote" and not self.frozen:
                return None

    def _look(self, now: datetime) -> Outcome | str | None:
        """Check that the alias is as we left it, renew the lease, read the new minutes; what could not be read."""
        assert self.alias is not None and self.evidence is not None and self.lease is not None
        try:
            alias = aliases.read(self.target)
            if (alias is None or alias.revision != self.alias.revision) and (outcome := self._moved(alias)):
                return outcome
            self.frozen = bool(freeze.read(self.target))
        except AwsFailed as failure:
            return failure.what
        try:
            if lease.due(self.target, self.lease):
                self.lease = lease.renew(self.target, self.lease)
        except LeaseGone:
            alias = aliases.read(self.target)
            if alias != self.alias and (outcome := self._moved(alias)):
                return outcome
            return self._held("The lease was deleted by somebody else, so the traffic does not stay split.")
        except AwsFailed as failure:
            return self._held(f"The lease could not be renewed, so the traffic does not stay split. {failure.what}")
        return self.evidence.read(now)

    def _moved(self, alias: Alias | None) -> Outcome | None:
        """The alias has another RevisionId: the lease or guard fired, somebody else acted, or rewrote the same."""
        if alias is None:
            raise BuddyError(
                "alias-deleted",
                f"The alias {self.target.resource} was deleted while this run was under way.",
                now="The alias does not exist; this run changed nothing after that.",
                next="Find out who deleted it; strategies/canary creates it again.",
            )
        held, self.alias = self.alias, alias
        assert held is not None
        if replace(alias, revision=held.revision) == held:
            return None
        if alias.record == held.record and fired(alias):
            return self._lease_fired()
        raise AliasMoved(self.target, alias)

    def _observe(self, now: datetime, trouble: str | None) -> Observation:
        assert self.evidence is not None and self.alias is not None
        stage, record = self._stage, self.alias.record
        if trouble is not None:
            self.evidence.lose(now - self.polled)
        self.polled = now
        bake_s = self._bake_s
        verdict = self.evidence.verdict(now, bake_s, final=self.stages[stage] == 1.0)
        wake_at = now.replace(second=0, microsecond=0) + MINUTE
        says = f"Metrics cannot be read: {trouble}" if trouble else " ".join(verdict.reasons)
        label = record.stage if record else ""
        left = max(0.0, bake_s - self.evidence.baked_s(now))
        self.target.journal.record(
            "observed", stage=label, weight=self.stages[stage], decision=verdict.decision, says=says
        )
        return Observation(
            now, label, self.stages[stage], self.evidence.fresh(), verdict, self.evidence, wake_at, says, left
        )

    @property
    def _bake_s(self) -> float:
        probing = len(self.stages) > len(self.plan.stages) and self._stage == 0
        return 60.0 * (self.policy.probe_minutes if probing else self.policy.bake_minutes)

    def _decide(
        self, now: datetime, verdict: Verdict | None, trouble: str | None
    ) -> Outcome | Literal["promote"] | None:
        """Act on the verdict; None to stay."""
        assert verdict is not None and self.evidence is not None
        if trouble is not None:
            self.unread_since = self.unread_since or now
            if now - self.unread_since >= timedelta(minutes=self.policy.unreadable_minutes):
                return self._held(
                    f"Metrics could not be read for {self.policy.unreadable_minutes:g} minutes. {trouble}"
                )
            return None
        self.unread_since = None
        if verdict.decision == "rollback":
            return self._take_back("rolled-back", verdict.reasons, bad=True)
        final = self.stages[self._stage] == 1.0
        watched_s = (now - max(self.started, self.evidence.shifts[-1][0])).total_seconds()
        if final and (verdict.decision == "promote" or watched_s >= 60 * self.policy.watch_minutes):
            return "promote"
        if verdict.expired:
            return self._held(*verdict.reasons)
        if self.frozen and not final:
            # A freeze stops every step forward; it does not leave traffic split for as long as it lasts.
            longest_s = self._bake_s + 60 * self.policy.stretch_minutes
            over = self.evidence.baked_s(now) >= longest_s
            return self._held("Deployments were frozen while traffic was split.") if over else None
        return "promote" if verdict.decision == "promote" and not self.holding and not final else None

    def _advance(self) -> Outcome | None:
        """The next stage, or the close after the last."""
        assert self.evidence is not None and self.alias is not None
        stage = self._stage
        if self.stages[stage] < 1.0:
            self._shift(stage + 1)
            return None
        ending: Ending = "proved" if self.evidence.judge.proved else "unproven"
        reasons = self.evidence.verdict(self.target.clock.now(), self._bake_s, final=True).reasons
        assert self.alias.record is not None
        # 'unproven' keeps its times: a later run reads the same minutes and more, and may close the rollout.
        record = replace(self.alias.record, stage=ending)
        self.alias = aliases.shift(self.target, self.alias, Shift(self.new, None, 0.0, record))
        return self._outcome(ending, (*reasons, *rollback.tidy(self.target)))

    # Endings

    def _take_back(self, ending: Ending, reasons: tuple[str, ...], bad: bool) -> Outcome:
        assert self.alias is not None
        stage = self.alias.record.stage if self.alias.record else ""
        versions = (self.new,) if bad else ()
        kept: Literal["rolled-back", "held"] = "rolled-back" if bad else "held"
        self.alias = rollback.take_back(self.target, self.alias, self.plan.stable, versions, kept)
        self.target.journal.record("taken-back", version=self.new, serves=str(self.alias), reasons=reasons)
        return self._outcome(ending, (*reasons, *rollback.tidy(self.target)), stage)

    def _held(self, *reasons: str) -> Outcome:
        return self._take_back("held", reasons, bad=False)

    def _lease_fired(self) -> Outcome:
        """The alias says that a rollout of ours is under way, and has no weights: close it and tell."""
        assert self.alias is not None and self.alias.record is not None
        record = self.alias.record
        told = (
            f"Run {record.run} gave v{record.to} a share of the traffic (stage {record.stage}, since {record.since}) "
            f"and stopped renewing its lease; the lease took that share away, and v{self.plan.stable} serves alone.",
        )
        return self._take_back("lease-fired", told, bad=True)

    def _outcome(self, ending: Ending, reasons: tuple[str, ...], stage: str = "") -> Outcome:
        requests, failed = self.evidence.totals() if self.evidence else ({}, {})
        stage = stage or (self.alias.record.stage if self.alias and self.alias.record else "")
        now = self.target.clock.now()
        return Outcome(ending, self.plan.stable, self.new, stage, self.began, now, reasons, requests, failed)


def _title(outcome: Outcome) -> str:
    new, stable = f"v{outcome.new}", f"v{outcome.stable}"
    return {
        "proved": f"{new} serves 100 % and is proved healthy",
        "unproven": f"{new} serves 100 %; its health is not proved",
        "deployed": f"{new} is the first deployment and serves 100 %",
        "already-live": f"{new} was live already; nothing was changed",
        "dry-run": "Dry run: nothing was changed",
        "rolled-back": f"{new} was taken back at stage {outcome.stage}; {stable} serves 100 %",
        "aborted": f"{new} was taken back by order at stage {outcome.stage}; {stable} serves 100 %",
        "lease-fired": f"{new} lost its traffic when its run died; {stable} serves 100 %",
        "held": f"{new} was taken back without a verdict at stage {outcome.stage}; {stable} serves 100 %",
    }[outcome.ending]
