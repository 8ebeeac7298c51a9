"""What can be changed while a scenario runs: traffic, how late and how well CloudWatch answers, the client's clock.

Knows the values, their limits and where in the world each takes effect. A scenario file may begin with any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from buddy_sandbox.publication import Lateness

if TYPE_CHECKING:
    from buddy_sandbox.world import World

Seconds = Annotated[float, Field(ge=0, le=3600)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Conditions(BaseModel):
    """The settable values.

    Attributes:
        requests_per_minute: how much traffic the alias has.
        metrics_delay_s: when a request becomes visible in CloudWatch, seconds after it.
        metrics_delays_s: the same for single metrics, by name, for example ``{Errors: 240}``.
        metrics_revised_rate: the share of a minute's requests that CloudWatch adds later, as a revision.
        metrics_revised_s: how much later, seconds.
        outage: what reads of metrics do. 'error': InternalServiceFault. 'partial': every second point, PartialData.
            'empty': no points. 'duplicated': each point twice.
        client_clock_ahead_s: how far the clock of the machines that use the sandbox is ahead of AWS's; may be negative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Annotated[float, Field(ge=0, le=100_000)] = 600
    metrics_delay_s: Seconds = 60
    metrics_delays_s: dict[str, Seconds] = {}
    metrics_revised_rate: Rate = 0
    metrics_revised_s: Seconds = 0
    outage: Literal["error", "partial", "empty", "duplicated"] | None = None
    client_clock_ahead_s: Annotated[float, Field(ge=-86_400, le=86_400)] = 0

    def changed(self, changes: Mapping[str, Any]) -> Conditions:
        """These with some values replaced; of ``metrics_delays_s``, only the metrics that are named.

        Raises pydantic's ValidationError (a ValueError) for an unknown name or a value outside its limits.
        """
        values = {name: getattr(self, name) for name in Conditions.model_fields}
        delays = changes.get("metrics_delays_s")
        if isinstance(delays, dict):
            changes = {**changes, "metrics_delays_s": {**self.metrics_delays_s, **delays}}
        return Conditions.model_validate({**values, **changes})

    def apply(self, world: World) -> None:
        """Let these hold from now on."""
        world.conditions = self
        world.metrics.publication.change(
            Lateness(
                delay_s=self.metrics_delay_s,
                delays_s=self.metrics_delays_s,
                revised_rate=self.metrics_revised_rate,
                revised_s=self.metrics_revised_s,
            )
        )
        world.cloudwatch.outage = self.outage
        if world.people.traffic is not None:
            world.people.traffic.requests_per_minute = self.requests_per_minute
