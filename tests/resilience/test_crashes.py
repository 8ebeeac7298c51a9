"""A run that is killed before or after any of its AWS calls leaves nothing half-shifted, and running it again converges."""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Situation
from tests.resilience.harness import (
    RUNBOOKS,
    alias_of,
    chosen,
    forget_journal,
    lease_minutes,
    must_be_done,
    must_be_kept,
    must_be_whole,
    parts,
    run_again,
    run_in_child,
    warm_clients,
)

Bring = Callable[..., Situation]


@pytest.fixture(autouse=True)
def warm() -> Iterator[None]:
    with warm_clients():
        yield


@pytest.mark.parametrize(("name", "part"), parts(0))
@pytest.mark.timeout(600)
def test_a_killed_run_leaves_nothing_half_shifted(
    situation: Bring, name: str, part: str, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL before and after each call: within the lease and a minute the alias is whole, no acknowledged line is
    lost, and running again comes to the end that an undisturbed run comes to."""
    runbook = RUNBOOKS[name]
    here = runbook.bring(situation)
    forget_journal(here)
    undisturbed = run_in_child(runbook, here)
    assert undisturbed.ending == runbook.ends
    must_be_done(here, runbook)
    must_be_kept(here, undisturbed.lines)
    points = [(call, after) for call in range(1, len(undisturbed.calls) + 1) for after in (False, True)]
    tried = chosen(points, name, part, one_in=150, kind=lambda point: point[1])
    for call, after in tried:
        here = runbook.bring(situation)
        forget_journal(here)
        served = alias_of(here)
        dead = run_in_child(runbook, here, call, after)
        where = f"{name}, killed {'after' if after else 'before'} call {call}, {dead.calls[call - 1]}"
        # Threads beside the one that died may have begun a call of their own.
        assert dead.ending is None and len(dead.calls) >= call, where
        try:
            must_be_kept(here, dead.lines)
            here.ask("advance", seconds=60 * (lease_minutes() + 1))
            must_be_whole(here, served["FunctionVersion"] if served else None)
            endings = run_again(runbook, here)
            must_be_done(here, runbook)
        except BaseException as error:
            error.add_note(where)
            raise
        assert endings[-1] in (runbook.ends, "already-live"), (where, endings)
    record_property("matrix", ("crash points", name, len(tried)))
