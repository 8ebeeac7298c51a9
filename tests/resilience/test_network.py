"""A faulty network: whatever is lost, cut, answered twice or by a stranger, a run ends as it says, or with an error that is
true; no bad version outlives its failsafe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from buddy_ops.core.errors import BuddyError
from tests.conftest import Situation, abandon
from tests.resilience.harness import (
    BUSY,
    Drive,
    alias_of,
    begun,
    connect,
    lease_minutes,
    no_backoff,
    promoted,
    roll_back,
    ship,
    warm_clients,
)
from tests.resilience.proxy import Proxy, faulty, story
from tests.resilience.test_faults import must_tell_the_truth

Bring = Callable[..., Situation]
CANARIES = 300
ROLLBACKS = 100
PARTS = 10
"""The whole is cut into this many tests, for the workers to share."""

STAYED = ("proved", "unproven", "deployed", "already-live")
WENT = ("rolled-back", "held", "aborted", "lease-fired", "done")


@pytest.fixture
def proxy(sandbox_url: str) -> Iterator[Proxy]:
    with warm_clients(), no_backoff(), faulty(sandbox_url) as proxy:
        yield proxy


def seeds(whole: int, sample: tuple[int, ...]) -> list[object]:
    """The seeds of a test: every day a sample, and the whole in parts where it is asked for."""
    parts = [pytest.param(range(part, whole, PARTS), id=f"{part}", marks=pytest.mark.whole) for part in range(PARTS)]
    return [pytest.param(sample, id="sample"), *parts]


def through(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, here: Situation, seed: int, drive: Drive) -> str:
    """Drive a runbook through the proxy; its ending, or the error's reference. What it says is compared with the alias."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.struck.clear()
    try:
        # Every fourth network is very bad.
        proxy.disturb(seed, one_in=15 if seed % 4 == 0 else 60)
        try:
            ending = drive(here)
        finally:
            proxy.disturb(seed, one_in=0)
        alias = alias_of(here)
        assert alias is not None and "RoutingConfig" not in alias
        assert ending in STAYED + WENT
        assert alias["FunctionVersion"] == ("2" if ending in STAYED else "1"), ending
        return ending
    except BuddyError as error:
        must_tell_the_truth(here, error)
        return error.reference
    finally:
        monkeypatch.setenv("AWS_ENDPOINT_URL", here.endpoint)


@contextmanager
def explained(where: str, proxy: Proxy) -> Iterator[None]:
    """A failure names the seed, and what the proxy did."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"{where}; {story(proxy)}")
        raise


def must_be_over(here: Situation, bad: bool) -> None:
    """A minute after the failsafe's time traffic is whole, and no bad version has any."""
    here.ask("advance", seconds=60 * (lease_minutes() + 1))
    alias = alias_of(here)
    assert alias is not None and "RoutingConfig" not in alias, alias
    assert not (bad and alias["FunctionVersion"] == "2"), alias


@pytest.mark.parametrize("seeds", seeds(CANARIES, (0, 1, 5, 9, 96)))
@pytest.mark.timeout(1800)
@pytest.mark.whole
def test_canary(
    situation: Bring,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    seeds: tuple[int, ...],
    record_property: Callable[[str, object], None],
) -> None:
    """A canary of a good build or a bad one, through a faulty network."""
    for seed in seeds:
        profile = ("total_failure", "good", "slow")[seed % 3]
        here = situation("good", seed=seed, **BUSY)
        with explained(f"seed {seed}: {profile}", proxy):
            ended = through(proxy, monkeypatch, here, seed, ship(profile))
            must_be_over(here, bad=profile != "good")
        record_property("matrix", ("network", f"canary, {profile}: {ended}", 1))


def shipped_badly(here: Situation) -> None:
    """A rollout of a bad build that was left at its first stage."""
    from buddy_ops.deployment import rollout

    with_target = connect(here, "canary")
    abandon(with_target, rollout.plan_rollout(with_target, here.build("total_failure")))
    with_target.close()


@pytest.mark.parametrize("seeds", seeds(ROLLBACKS, (1, 4)))
@pytest.mark.timeout(1800)
def test_rollback(
    situation: Bring,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    seeds: tuple[int, ...],
    record_property: Callable[[str, object], None],
) -> None:
    """An immediate rollback through a faulty network: it is done, or an error says truly that it is not."""
    for seed in seeds:
        prepare = (shipped_badly, begun, promoted)[seed % 3]
        here = situation("good", seed=seed, requests_per_minute=600, history_minutes=12)
        prepare(here)
        with explained(f"seed {seed}: {prepare.__name__}", proxy):
            ended = through(proxy, monkeypatch, here, seed, roll_back)
            must_be_over(here, bad=prepare is shipped_badly)
        record_property("matrix", ("network", f"rollback, {prepare.__name__}: {ended}", 1))
