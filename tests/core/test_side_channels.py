"""What fails beside an action is noted once, and never raised."""

import pytest

from buddy_ops.core.side_channels import SideChannels


def fail(line: str = "") -> None:
    raise OSError(28, "No space left on device")


def test_each_channel_is_said_once_with_its_first_error() -> None:
    """Ten frames that could not be drawn are one sentence."""
    side = SideChannels()
    for error in (ValueError("first"), ValueError("second")):
        with side.contained("the chart"):
            raise error
    assert side.unsaid() == ["The chart failed (ValueError: first). The action was not affected."]
    with side.contained("the chart"):
        raise ValueError("third")
    assert side.unsaid() == []


def test_progress_that_cannot_be_shown_stops_nobody() -> None:
    """Whatever the callback raises."""
    side = SideChannels()
    side.watch(fail)("half way")
    assert side.unsaid() == [
        "The progress failed (OSError: [Errno 28] No space left on device). The action was not affected."
    ]
    assert side.attempt("the chart", lambda: 3) == 3
    assert side.attempt("the chart", fail) is None


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_failure(stop: type[BaseException]) -> None:
    """A person who stops the action stops it."""
    side = SideChannels()
    with pytest.raises(stop), side.contained("the chart"):
        raise stop
    assert side.unsaid() == []
