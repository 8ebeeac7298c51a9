"""The fleet in a notebook: the table of all targets, kept up to date while a person reads it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from buddy_ops.aws.clock import in_thread
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings
from buddy_ops.checks.findings import State
from buddy_ops.core.text import MINUTE, date_and_time, escape_html, floor_minute, show_controls
from buddy_ops.fleet.audit import FleetAudit
from buddy_ops.fleet.pages import audit_table, status_table
from buddy_ops.fleet.status import FleetStatus, TargetStatus, read_fleet
from buddy_ops.fleet.targets import Place
from buddy_ops.notebook import _widgets
from buddy_ops.notebook._widgets import LiveOutput
from buddy_ops.notebook.interrupts import interrupts
from buddy_ops.notebook.prepared import link_runbooks
from buddy_ops.notebook.progress import ProgressLine

TABLE = "buddy-ops-fleet"
LEFT = (
    f"<style>.jp-RenderedHTMLCommon .{TABLE} :is(td,th):not(.number){{{findings.LEFT}}}"
    f".jp-RenderedHTMLCommon .{TABLE} .number.number{{vertical-align:top}}</style>"
)
"""JupyterLab moves every cell of a table to the right. An archived page does not, and removes styles."""

LINKED = 20
"""So many of the worst targets have links to runbooks with their parameters: each is a file."""


async def watch_fleet(target: Target, places: Sequence[Place], watch_minutes: float = 0) -> FleetStatus:
    """Show all targets, the worst first, and read them again each minute while a person is there.

    Args:
        target: the notebook's.
        watch_minutes: for how long; an interrupt ends it, and the last reading stays.

    AWS: as ``read_fleet``.
    """
    output = LiveOutput()
    progress = ProgressLine()
    until = target.clock.now()
    # Headless one reading is enough: a run is not kept open for no reader.
    if _widgets.is_attended():
        until += watch_minutes * MINUTE
    found: FleetStatus | None = None
    try:
        while True:
            # In a worker thread: an interrupt is taken while it reads.
            found = await in_thread(read_fleet, places, progress)
            found = _linked(target, found)
            output.show(_shown(found))
            now = target.clock.now()
            if now >= until:
                return found
            await target.clock.wait(floor_minute(now) + MINUTE)
    except interrupts():
        # Before the first reading there is nothing to leave behind.
        if found is None:
            raise
        return found


def show_audit(target: Target, found: FleetAudit) -> None:
    """Show the table of an audit, and keep each target's result in the journal: the status of the fleet names it."""
    results = {each.member.name: each.word for each in found.targets}
    target.journal.append("fleet-audited", summary=found.summary, results=results)
    LiveOutput().show(_bundle(found.summary, found.at, audit_table(found), found.lines()))


def _linked(target: Target, fleet: FleetStatus) -> FleetStatus:
    """The same with links to runbooks that have the targets' parameters, where a person can follow them."""

    def linked(each: TargetStatus) -> TargetStatus:
        return replace(each, report=link_runbooks(target, each.report))

    worst = [each for each in fleet.targets if each.state in (State.PROBLEM, State.UNKNOWN)][:LINKED]
    return replace(fleet, targets=(*map(linked, worst), *fleet.targets[len(worst) :]))


def _shown(fleet: FleetStatus) -> dict[str, object]:
    return _bundle(fleet.summary, fleet.at, status_table(fleet), fleet.lines())


def _bundle(summary: str, at: datetime, table: str, lines: Sequence[tuple[str, State]]) -> dict[str, object]:
    """A table as a MIME bundle, under its summary."""
    line = f"{summary}. Read at {date_and_time(at)}."
    return {
        "text/html": f'{LEFT}<div class="{TABLE}"><p>{escape_html(line)}</p>{table}</div>',
        "text/plain": show_controls("\n".join((line, *(row for row, _ in lines)))),
    }
