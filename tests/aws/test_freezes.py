"""A freeze is what AWS says it is, read back after it was written."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws import freezes
from buddy_ops.core.errors import AwsFailed, BuddyError
from tests.conftest import Situation, intercept

Bring = Callable[..., Situation]
HOUR = timedelta(hours=1)


@pytest.fixture
def here(situation: Bring) -> Situation:
    return situation("good", history_minutes=0, requests_per_minute=0)


def test_run_again_says_when_the_first_one_ends(here: Situation) -> None:
    """A cell that is run again 20 minutes later creates nothing new, and says so by the time of the first."""
    mine = here.connect()
    first = freezes.create_freeze(mine, "incident", "Ada", HOUR)
    here.ask("advance", seconds=1200)
    assert freezes.create_freeze(mine, "incident", "Ada", HOUR) == first
    assert freezes.active_freezes(mine) == (first,)


def test_run_again_after_its_end_freezes_again(here: Situation) -> None:
    """The first one is still in SSM, expired: success would say 'frozen' where nothing is."""
    mine = here.connect()
    first = freezes.create_freeze(mine, "incident", "Ada", HOUR)
    here.ask("advance", seconds=3700)
    second = freezes.create_freeze(mine, "incident", "Ada", HOUR)
    assert second.id != first.id and freezes.active_freezes(mine) == (second,)


def test_read_that_lags_is_waited_for(here: Situation) -> None:
    """SSM shows a parameter some seconds after it was written."""
    here.ask("set", ssm_delay_s=9)
    mine = here.connect()
    began = mine.clock.now()
    freeze = freezes.create_freeze(mine, "incident", "Ada", HOUR)
    assert timedelta(seconds=9) <= mine.clock.now() - began < timedelta(seconds=20)
    assert freezes.active_freezes(mine) == (freeze,)


def test_freeze_that_aws_does_not_show_is_an_error(here: Situation) -> None:
    """Whether it is frozen is unknown; the list that the next step asks for tells."""
    mine = here.connect()

    def hide(send: Any, service: str, operation: str, **given: Any) -> Any:
        reply = send(service, operation, **given)
        return {**reply, "Parameters": []} if operation == "get_parameters_by_path" else reply

    intercept(mine, hide)
    with pytest.raises(BuddyError, match="freeze-unconfirmed") as unconfirmed:
        freezes.create_freeze(mine, "incident", "Ada", HOUR)
    assert "unknown" in unconfirmed.value.now and "`buddy-ops freeze`" in unconfirmed.value.next
    assert [freeze.reason for freeze in freezes.active_freezes(here.connect())] == ["incident"]


def test_freeze_that_may_not_be_read_may_exist(here: Situation) -> None:
    """The write was accepted, the read that follows is refused: the error does not say that nothing was changed."""
    here.ask("chaos", kind="denied", operation="GetParametersByPath", times=1)
    with pytest.raises(AwsFailed, match="access-denied") as refused:
        freezes.create_freeze(here.connect(), "incident", "Ada", HOUR)
    assert (
        refused.value.now.startswith("SSM accepted /buddy-ops/buddy-alexa-skill-sandbox/live/freeze/")
        and "unknown" in refused.value.now
    )
    assert len(freezes.active_freezes(here.connect())) == 1
