"""However late CloudWatch is with whichever metric: no bad build passes, and a good one is delayed or named as held."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from buddy_ops.core.errors import Refused
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import rollout
from buddy_ops.health.metrics import MINUTE
from tests.conftest import Situation, drive, sampled
from tests.resilience.harness import warm_clients

Bring = Callable[..., Situation]
METRICS = ("all", "Errors", "Duration", "Invocations", "Apologies")
LAGS = ("1", "2", "3", "4", "6", "10", "30", "growing")
"""Minutes, or a minute more every two minutes once the new version has traffic."""

BUILDS = ("total_failure", "errors_5_percent", "apologises", "good")
LONGEST_TOLERATED_MIN = 4
HISTORY_MINUTES = 190


class Cell(NamedTuple):
    """One case. ``begins``: when CloudWatch becomes late, before the rollout or once the new version has traffic."""

    metric: str
    lag: str
    build: str
    begins: str

    @property
    def is_tolerated(self) -> bool:
        """Whether a good build is to be promoted."""
        return self.lag != "growing" and int(self.lag) <= LONGEST_TOLERATED_MIN


SAMPLE = {
    Cell("all", "4", "total_failure", "before"),
    Cell("Errors", "10", "total_failure", "during"),
    Cell("Apologies", "30", "apologises", "during"),
    Cell("Invocations", "growing", "errors_5_percent", "during"),
    Cell("all", "4", "good", "before"),
    Cell("Duration", "6", "good", "during"),
}


def cells() -> Iterator[object]:
    for metric in METRICS:
        for lag in LAGS:
            for build in BUILDS:
                for begins in ("before", "during"):
                    cell = Cell(metric, lag, build, begins)
                    if lag == "growing" and begins == "before":
                        continue
                    yield pytest.param(cell, id="-".join(cell), marks=[] if cell in SAMPLE else [pytest.mark.whole])


def conditions(metric: str, delay_s: float) -> dict[str, object]:
    """The sandbox's values for this delay of one metric, or of all."""
    if metric == "all":
        return {"metrics_delay_s": delay_s}
    return {"metrics_delays_s": {metric: delay_s}}


def ship(here: Situation, cell: Cell) -> Outcome:
    """A canary, during which CloudWatch may become late."""
    mine = here.connect(quiet=True)
    plan = rollout.plan_rollout(mine, here.build(cell.build))
    since = None

    def delay(seen: rollout.Observation) -> None:
        nonlocal since
        if seen.weight and since is None and cell.begins == "during":
            since = mine.clock.now()
        if since is not None and cell.lag == "growing":
            minutes = min(30.0, 1 + (mine.clock.now() - since) / MINUTE / 2)
            here.ask("set", **conditions(cell.metric, 60 * minutes))
        elif since is not None:
            here.ask("set", **conditions(cell.metric, 60 * float(cell.lag)))

    return drive(mine, plan, delay)


@pytest.fixture(autouse=True)
def warm() -> Iterator[None]:
    with warm_clients():
        yield


@pytest.mark.parametrize("cell", sampled(list(cells()), slice(None, None, 2)))
@pytest.mark.timeout(300)
def test_no_lag_lets_a_bad_build_pass(
    situation: Bring, cell: Cell, record_property: Callable[[str, object], None]
) -> None:
    """A bad build never ends promoted. A good one does up to 4 minutes of lag; later it ends with exit code 5, the
    stable version alone, and a sentence that names the lag."""
    given: dict[str, object] = {}
    if cell.begins == "before":
        given = conditions(cell.metric, 60 * float(cell.lag))
    here = situation("good", history_minutes=HISTORY_MINUTES, **given)
    try:
        outcome = ship(here, cell)
        ending, exit_code, said = outcome.ending, outcome.exit_code, str(outcome)
    except Refused as refused:
        ending, exit_code, said = refused.reference, refused.exit_code, refused.what
    alias = here.alias()
    serves = (alias["FunctionVersion"], alias.get("RoutingConfig", {}).get("AdditionalVersionWeights") or None)
    if cell.build != "good":
        assert exit_code in (3, 5) and serves == ("1", None), said
        assert exit_code == 3 or "CloudWatch is late by" in said
    elif cell.is_tolerated:
        assert ending == "proved" and exit_code == 0 and serves == ("2", None), said
    else:
        assert exit_code == 5 and serves == ("1", None), said
        assert "CloudWatch is late by" in said
        metric = "Buddy/Apologies" if cell.metric == "Apologies" else cell.metric
        assert metric == "all" or f"{metric} has no data after" in said
    record_property("matrix", ("lag", cell.metric, 1))
