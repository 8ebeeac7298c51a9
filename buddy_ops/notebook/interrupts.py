"""An interrupted cell ends in a sentence: what happens to the traffic now, and how to go on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Stopped
from buddy_ops.core.text import exact_percent, parse_utc, show_controls, time_of_day
from buddy_ops.notebook._shell import current_shell


def interrupts() -> tuple[type[BaseException], ...]:
    """What Kernel > Interrupt raises: in a cell that awaits it is asyncio's CancelledError."""
    # Not imported: a rollback in a terminal does without it.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return (KeyboardInterrupt,)
    return (KeyboardInterrupt, asyncio.CancelledError)


@contextmanager
def stopped_with(describe: Callable[[], str]) -> Iterator[None]:
    """Let an interrupt end the cell with this sentence. "Run All" goes no further.

    Raises:
        Stopped: the cell was interrupted.
    """
    try:
        yield
    except BaseException as error:
        # The sentence of an inner step is nearer to what happened.
        if isinstance(error, Stopped) or not isinstance(error, interrupts()):
            raise
        raise Stopped(describe()) from None


def describe_stopped_traffic(target: Target, weight: float = 0.0, new: str = "", stable: str = "") -> str:
    """What an interrupt means for split traffic; empty where none was shifted.

    Args:
        weight: the new version's share (0..1) as it was shown last; 0: as this run's journal has it, because a shift
            takes effect before it is shown.
        new: the new version's number.
        stable: the number of the version that the failsafe gives all traffic.
    """
    moves = [record for record in target.journal.records if record["kind"] in ("shifted", "taken-back", "rollback")]
    if moves and not weight:
        weight = float(moves[-1].get("weight", 0.0))
        new = str(moves[-1].get("to", "")).removeprefix("v")
        stable = str(moves[-1].get("stable", ""))
    if not weight:
        return ""
    armed = [record for record in target.journal.records if record["kind"] == "failsafe-armed"]
    moment = f"within {target.settings.lease.minutes} min"
    if armed:
        moment = f"at {time_of_day(parse_utc(str(armed[-1]['until'])), target.clock.now())}"
    stays = exact_percent(weight)
    if new:
        stays = f"{stays} on v{new}"
    back_to = "the stable version"
    if stable:
        back_to = f"v{stable}"
    return (
        f"Traffic stays at {stays}. The failsafe routes all of it to {back_to} {moment} unless you run this cell again."
    )


def show_interrupts_in_a_sentence(target: Target) -> None:
    """Let each interrupted cell of this kernel say in a sentence how to go on."""
    shell = current_shell()
    if shell is None:
        return

    def show(
        shell: Any, kind: type, interrupt: BaseException, trace: TracebackType | None, tb_offset: int | None = None
    ) -> list[str]:
        line = str(interrupt)
        if not isinstance(interrupt, Stopped):
            line = "Stopped. This cell has not finished. A call that it made to AWS may have taken effect. "
            line += describe_stopped_traffic(target) or "To continue, run this cell again."
        # IPython's own way to report an error, with the sentence in place of a traceback.
        shell._showtraceback(kind, line, [show_controls(line)])
        return [line]

    shell.set_custom_exc(interrupts(), show)
