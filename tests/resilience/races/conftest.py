"""What every race needs: a world in which waiting for a turn is no slowness, and a tally of seeds."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from functools import cached_property

import pytest

from buddy_ops.aws import tables
from buddy_ops.aws.session import Target
from buddy_ops.checks.findings import CheckContext
from buddy_ops.deployment import cleanup, rollback
from tests.resilience.races.stage import Each


@pytest.fixture(autouse=True)
def a_world_for_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback's checks wait for their turn here, which is no slow answer; and every version is a day old.

    Python 3.11 locks a cached property for all instances: an actor that waits for its turn inside would lock others out.
    """
    monkeypatch.setattr(rollback, "CHECKS_S", 60.0)
    monkeypatch.setattr(cleanup, "WINDOW", timedelta())
    for each in (*vars(Target).values(), *vars(CheckContext).values()):
        if isinstance(each, cached_property):
            monkeypatch.setattr(each, "lock", nullcontext(), raising=False)


@pytest.fixture(autouse=True)
def one_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor's calls come one after the other: threads of its own would have no order."""
    monkeypatch.setattr(tables, "SEGMENTS", 1)
    monkeypatch.setitem(tables.parallel_scan.__kwdefaults__, "segments", 1)


@pytest.fixture
def each(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Each]:
    """Runs a race for each seed, shows every seed that failed, and says how many races there were."""

    def every(seeds: range, race: Callable[[int], None]) -> None:
        failed: dict[int, AssertionError] = {}
        for seed in seeds:
            try:
                race(seed)
            except AssertionError as error:
                failed[seed] = error
        record_property("matrix", ("races", request.node.originalname, len(seeds) - len(failed)))
        if failed:
            heads = "\n".join(f"seed {seed}: {str(error).splitlines()[0]}" for seed, error in failed.items())
            raise AssertionError(f"{heads}\n\n{next(iter(failed.values()))}")

    yield every
