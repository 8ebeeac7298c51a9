"""What is still read after a rollback, when the traffic is back and nothing is at stake any more.

The last requests of the new version are counted: they were not published yet when the verdict came. Nothing here
moves traffic, and no failure here changes how the rollout ended.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from buddy_ops.aws.session import Target
from buddy_ops.core.text import MINUTE, floor_minute, time_of_day
from buddy_ops.deployment.observation import Observation, Polls, next_poll, show
from buddy_ops.health.evidence import RolloutEvidence

STAGE = "rolled-back"
"""The stage of an observation from here on."""


@dataclass
class AfterRollback:
    """Reads on after all traffic went back to the stable version, once ``RolloutEvidence.rolled_back`` was called.

    Attributes:
        since: when the traffic went back, or was found to be back.
        counted: whether the minutes of every request of the new version were read.
    """

    target: Target
    evidence: RolloutEvidence
    since: datetime
    counted: bool = field(default=False, init=False)
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
            if now >= self._last_reading:
                return
            order = yield from show(self._observation(now), self.evidence)

    def reasons(self) -> tuple[str, ...]:
        """What the outcome must say of the reading, a sentence each."""
        if self.counted:
            return ()
        why = f" {self._trouble}" if self._trouble else ""
        since = time_of_day(self._counted_until, self.target.clock.now())
        return (f"Requests of v{self.evidence.new} after {since} are not counted.{why}",)

    @property
    def _last_reading(self) -> datetime:
        """From when CloudWatch has all requests of the new version: an alias takes up to a minute to follow."""
        late = timedelta(seconds=self.target.settings.health.late_data_s)
        return floor_minute(self.since) + 2 * MINUTE + late

    @property
    def _counted_until(self) -> datetime:
        rows = self.evidence.rows
        return rows[-1].at + MINUTE if rows else self.since

    def _read(self, now: datetime) -> None:
        self._trouble = self.evidence.read(now) or ""
        self.counted = now >= self._last_reading and not self._trouble

    def _observation(self, now: datetime) -> Observation:
        until = time_of_day(self._last_reading, now)
        says = (
            f"ROLLED BACK: v{self.evidence.stable} receives 100 %. "
            f"The last requests of v{self.evidence.new} are counted until {until}. You can stop this cell: "
            "the rollback is complete."
        )
        return Observation(now, STAGE, 0.0, wake_at=next_poll(now), says=says)


def is_stopped_by_interrupt(observation: Observation | None) -> bool:
    """Whether an interrupt ends only the reading after a rollback: the driver then sends the order 'stop'."""
    return observation is not None and observation.stage == STAGE and not observation.weight
