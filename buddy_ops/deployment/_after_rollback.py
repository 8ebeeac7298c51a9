"""What is still read after a rollback, when the traffic is back and nothing is at stake any more.

The last requests of the new version are counted: they were not published yet when the verdict came. After a rollback
from 100 % stable is tested as well: if it fails too, the new version is not the cause. Nothing here moves traffic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.text import MINUTE, count, floor_minute, time_of_day
from buddy_ops.deployment._traffic import Traffic
from buddy_ops.deployment.observation import Observation, Polls, next_poll, show
from buddy_ops.health.evidence import RolloutEvidence, judge_policy
from buddy_ops.health.lateness import TOLERATED
from buddy_ops.health.metrics import MinuteRow
from buddy_ops.health.sequential_test import PairedCounts
from buddy_ops.health.stable_alone import MOST_MINUTES, StableTest

STAGE = "rolled-back"
"""The stage of an observation from here on."""


@dataclass
class AfterRollback:
    """Reads on after all traffic went back to the stable version, once ``RolloutEvidence.rolled_back`` was called.

    Attributes:
        since: when the traffic went back, or was found to be back.
        test: what stable is tested by; None where the new version was compared with it.
        counted: whether the minutes of every request of the new version were read.
        both_fail: whether stable was shown to be over the limit that the new version was rolled back for.
    """

    target: Target
    evidence: RolloutEvidence
    since: datetime
    test: StableTest | None = None
    counted: bool = field(default=False, init=False)
    both_fail: bool = field(default=False, init=False)
    _stable: PairedCounts = field(default_factory=PairedCounts, init=False)
    _tested: int = field(default=0, init=False)
    _trouble: str = field(default="", init=False)

    def to_end(self, decided: Observation | None = None) -> Polls[None]:
        """Show that the traffic is back, then read each minute until all that is asked for was read.

        The order 'stop' ends the reading.

        Args:
            decided: the poll that decided the rollback, where it was not shown yet: its minutes belong in the chart.
        """
        seen = self._observation(self.target.clock.now())
        if decided is not None:
            seen = replace(decided, stage=STAGE, weight=0.0, says=f"{seen.says} {decided.says}")
        # The driver shows this at once and comes back without a wait.
        order = yield from show(replace(seen, wake_at=seen.at), self.evidence)
        while order != "stop":
            now = self.target.clock.now()
            self._read(now)
            if now >= self._last_reading and not self._is_testing(now):
                return
            order = yield from show(self._observation(now), self.evidence)

    def reasons(self) -> tuple[str, ...]:
        """What the outcome must say of the reading, a sentence each."""
        said = []
        if self.test is not None:
            said.append(self._say_of_stable(self.test))
        if not self.counted:
            since = time_of_day(self._counted_until, self.target.clock.now())
            uncounted = f"Requests of v{self.evidence.new} after {since} are not counted."
            said.append(" ".join(filter(None, (uncounted, self._trouble))))
        return tuple(said)

    @property
    def _settled(self) -> datetime:
        """The first minute that stable served alone: an alias takes up to a minute to follow."""
        return floor_minute(self.since) + 2 * MINUTE

    @property
    def _late(self) -> timedelta:
        return timedelta(seconds=self.target.settings.health.late_data_s)

    @property
    def _last_reading(self) -> datetime:
        """From when CloudWatch has all requests of the new version."""
        return self._settled + self._late

    @property
    def _last_test(self) -> datetime:
        """When CloudWatch has all minutes that stable is tested in."""
        return self._settled + MOST_MINUTES * MINUTE + self._late

    @property
    def _counted_until(self) -> datetime:
        if not self.evidence.rows:
            return self.since
        return self.evidence.rows[-1].at + MINUTE

    def _read(self, now: datetime) -> None:
        self._trouble = self.evidence.read(now) or ""
        # Once all was read, a later failure takes nothing from it.
        self.counted = self.counted or (now >= self._last_reading and not self._trouble)
        if self.test is None or self.both_fail:
            return
        read = [self._events(row, self.test) for row in self._stable_rows()]
        # A minute whose cold starts are not read yet is tested at a later poll.
        minutes = [counts for counts in read if counts is not None]
        self._tested = len(minutes)
        self.both_fail, self._stable = self.test.counts_until_over(minutes)

    def _is_testing(self, now: datetime) -> bool:
        """Whether minutes of stable are still to be tested; late ones are waited for as long as in a rollout."""
        if self.test is None or self.both_fail or now >= self._last_test + TOLERATED:
            return False
        return self._counted_until < self._settled + MOST_MINUTES * MINUTE

    def _stable_rows(self) -> Sequence[MinuteRow]:
        until = self._settled + MOST_MINUTES * MINUTE
        return [row for row in self.evidence.rows if self._settled <= row.at < until and not row.incomplete]

    def _events(self, row: MinuteRow, test: StableTest) -> tuple[int, int] | None:
        """Stable's failed or slow requests, and all requests, of a minute; None where they are not known yet."""
        if test.stream == "slow":
            # It starts many environments at once when all traffic is back.
            return self.evidence.read_slow_requests(row, self.evidence.stable)
        counts = row.counts[self.evidence.stable]
        return counts.errors, counts.requests

    def _say_of_stable(self, test: StableTest) -> str:
        stable = f"v{self.evidence.stable}"
        blamed = f"v{self.evidence.new} stays marked bad."
        if not self._stable.stable_requests:
            return f"{stable} was not tested alone: no minute of it with requests was read. {blamed}"
        measured = test.describe(f"{stable} alone:", self._stable, judge_policy(self.target.settings))
        if self.both_fail:
            return f"Both versions fail. After the rollback {measured}."
        return f"{measured} in {count(self._tested, 'minute')} after the rollback. {blamed}"

    def _observation(self, now: datetime) -> Observation:
        counted = time_of_day(self._last_reading, now)
        says = [
            f"ROLLED BACK: v{self.evidence.stable} receives 100 %.",
            f"The last requests of v{self.evidence.new} are counted until {counted}.",
        ]
        if self.test is not None:
            tested = time_of_day(self._last_test, now)
            says.append(
                f"v{self.evidence.stable} alone is tested until {tested} at the latest. "
                f"If it fails too, v{self.evidence.new} is not marked bad."
            )
        says.append("You can stop this cell: the rollback is complete.")
        # By CloudWatch's minutes, also where the log decided: nothing is urgent any more.
        return Observation(now, STAGE, 0.0, wake_at=next_poll(now), says=" ".join(says))


def remove_mark(traffic: Traffic, marked_before: Sequence[str]) -> str:
    """Take the mark 'bad' of this rollback off the new version; a sentence for the outcome.

    The traffic stays. Nothing is written if another run or tool has changed the alias since the rollback.

    Args:
        traffic: as the rollback left it.
        marked_before: the versions that were marked bad before the rollback, oldest first.

    AWS: lambda:UpdateAlias, writes.
    """
    try:
        traffic.unmark(marked_before)
    except BuddyError as error:
        # The traffic is back: an error would read as a rollback that failed.
        return (
            f"v{traffic.new} is still marked bad, since the record could not be written. {error.what} "
            "A new deployment of the same build removes the mark."
        )
    return f"v{traffic.new} is not marked bad."


def is_stopped_by_interrupt(observation: Observation | None) -> bool:
    """Whether an interrupt ends only the reading after a rollback: the driver then sends the order 'stop'."""
    return observation is not None and observation.stage == STAGE and not observation.weight
