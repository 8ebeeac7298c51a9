"""What the judge tolerates, and how sure it must be."""

from dataclasses import dataclass
from typing import Literal

from buddy_ops.health.counts import StreamName
from buddy_ops.health.sequential_test import Mixture
from buddy_ops.health.streams import TESTS


@dataclass(frozen=True)
class JudgePolicy:
    """What is tolerated, and how sure the judge must be.

    The objectives are the deployment guide's 'Watching' table (error rate < 1 %; p99 < 6 s is 'at most 1 % over 6 s').
    The mixtures were fitted by simulation at 6 to 6,000 requests a minute; `benchmarks/judge` chose `fresh_doubt_at`.
    """

    slo_error_rate: float = 0.01
    slo_slow_rate: float = 0.01
    slow_bound_s: float = 6.0  # only named in sentences: the counts were made with it
    on_slow: Literal["rollback", "hold"] = "rollback"
    on_alias_failures: Literal["rollback", "hold"] = "rollback"
    has_alias_metrics: bool = False  # whether a metric counts failures of the alias as a whole: one more test
    rollback_streams: int = 0  # of the compared streams, those that may roll back
    alpha: float = 0.005  # chance to roll back a version that is within the objectives
    alpha_base: float = 0.05  # chance to call one version worse than the other when it is not
    gamma: float = 0.10  # chance to call a version over the objective, once it is surely worse than stable
    doubt_at: float = 2.0  # evidence of the whole rollout at which a bake is stretched
    fresh_doubt_at: float = 5.0  # evidence of the latest minutes alone at which it is
    early_doubt_at: float = 1.5  # the same below these weights (0..1), where waiting costs little
    early_below: float = 0.0  # where the latest evidence is a minute's
    early_below_by_ticks: float = 0.0  # where it is a tick's
    proved_at: float = 100.0  # 1 / the chance to call a version healthy that is over 1.5 times an objective
    early_at: float = 20.0
    early_after_s: float | None = None  # early promotion (180.0) saves minutes and doubles the cost of late faults
    max_stretch_s: float = 600.0
    external_limit_s: float = 3600.0
    calm_minutes: int = 5
    first_stake: float = 0.8  # staked in the first minute or tick; the rest waits for changes that begin later
    # Most on 4.5 times the limit: of six mixtures this one cost the fewest failures where a build fails 5 %.
    slo_mixture: Mixture = (
        *((1.5, 0.10), (2, 0.22), (4.5, 0.48), (10, 0.06)),
        *((25, 0.05), (150, 0.04), (1e4, 0.05)),
    )
    base_mixture: Mixture = ((1.5, 0.07), (2, 0.10), (4, 0.28), (10, 0.30), (50, 0.13), (1000, 0.12))
    ok_mixture: Mixture = ((0.01, 0.30), (0.1, 0.25), (0.3, 0.25), (0.6, 0.20))

    def objective(self, stream: StreamName) -> float:
        """The configured limit of a stream, 0..1."""
        return self.slo_error_rate if stream == "errors" else self.slo_slow_rate

    @property
    def rollback_at(self) -> float:
        """The evidence that rolls back: all tests that may roll back share alpha.

        Two in each of two streams, that of the alias, and those of compared streams.
        """
        tests = 5.0 if self.has_alias_metrics else 4.0
        return (tests + TESTS * self.rollback_streams) / self.alpha

    @property
    def worse_at(self) -> float:
        """The evidence that one version is worse than the other, or that stable is over its objective."""
        return 1.0 / self.alpha_base
