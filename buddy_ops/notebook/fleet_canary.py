"""A fleet's canary in a notebook: its approval, for all waves or one by one, and one table that updates in place."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

from buddy_ops.aws import notifications
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Refused
from buddy_ops.core.plan import Approval
from buddy_ops.core.text import escape_html, show_controls, text_table
from buddy_ops.fleet.canary import FleetOutcome, FleetRun, TargetRow
from buddy_ops.fleet.engine import Engine, open_engine
from buddy_ops.fleet.wave_plan import FleetPlan, PlannedWave
from buddy_ops.notebook._widgets import LiveOutput
from buddy_ops.notebook.approvals import request_approval
from buddy_ops.notebook.fleet import LEFT, TABLE
from buddy_ops.notebook.interrupts import stopped_with
from buddy_ops.notebook.printing import print_escaped
from buddy_ops.runs.manifest import REPORT

HEADS = ("WAVE", "TARGET", "STATE", "SERVES", "WHAT")

STOPPED = (
    "Stopped. Steps in progress on this machine were interrupted, and no further one begins. A failsafe rolls "
    "back traffic that is split. To resume, run this notebook again with the same builds: the same approval counts."
)


@dataclass(frozen=True)
class WaveApprovals:
    """The approval of a fleet's plan as a whole, or of each of its waves before it begins."""

    target: Target
    plan: FleetPlan
    approved_by: Sequence[str]
    approved_plan: str
    whole: Approval | None

    async def of(self, wave: PlannedWave) -> Approval:
        """The approval of a wave. AWS, Raises: as ``request_approval``."""
        if self.whole is not None:
            return self.whole
        own = self.plan.only(wave)
        print_escaped(own)
        return await request_approval(self.target, own, self.approved_by, self.approved_plan)


async def approve_waves(
    target: Target,
    plan: FleetPlan,
    approved_by: Sequence[str] = (),
    approved_plan: str = "",
    each_wave: bool = False,
) -> WaveApprovals:
    """Ask for the approval of a fleet's plan; with ``each_wave`` each wave is asked for when its turn has come.

    AWS, Raises: as ``request_approval``.
    """
    whole = None
    if not each_wave or target.dry_run or not plan.calls:
        whole = await request_approval(target, plan, approved_by, approved_plan)
    else:
        print_escaped("Each wave is approved before it begins. Their plans are now:")
        for wave in plan.waves:
            print_escaped(f"{wave.name}: plan {plan.only(wave).hash}")
    return WaveApprovals(target, plan, approved_by=approved_by, approved_plan=approved_plan, whole=whole)


async def deploy_in_waves(
    target: Target, plan: FleetPlan, approvals: WaveApprovals, scheduler: str = ""
) -> FleetOutcome:
    """Deploy wave by wave under a table of all targets, and notify the team at the start and at the end.

    Args:
        scheduler: the address of a Dask scheduler; empty: DASK_SCHEDULER_ADDRESS, else this machine.

    AWS, Raises: as ``canary.run_fleet`` and ``open_engine``; Stopped: the cell was interrupted.
    """
    table = LiveOutput()
    run = FleetRun(target, plan, lambda rows: table.show(_shown(rows)))
    run.show()
    with stopped_with(lambda: STOPPED), ExitStack() as stack:
        # Also where the cell is interrupted: what was rolled back by then is archived.
        stack.callback(run.archive_rollbacks)

        # Once, when the first wave is approved: until then no cluster starts, and the team is notified of nothing.
        @cache
        def start() -> Engine:
            running = stack.enter_context(open_engine(scheduler, len(plan.targets), run.hear))
            notifications.announce(target, f"Started: {plan.title}.")
            return running

        for wave in () if target.dry_run else run.waves():
            try:
                approval = await approvals.of(wave)
            except Refused as refusal:
                # No wave begins before the one ahead of it: without this approval the deployment ends.
                run.refuse(wave, refusal)
                break
            run.deploy(start, wave, approval)
        return run.finish()


def _shown(rows: Iterable[TargetRow]) -> dict[str, object]:
    """The table of all targets as a MIME bundle."""
    shown = [(row.wave, row.name, row.state.word, row.state.serves, row.says) for row in rows]
    heads = "".join(f"<th scope=col>{head.capitalize()}</th>" for head in HEADS)
    body = "".join(map(_row, rows))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return {
        "text/html": f'{LEFT}<div class="{TABLE}">{table}</div>',
        "text/plain": show_controls("\n".join(text_table(HEADS, shown))),
    }


def _row(row: TargetRow) -> str:
    reports = "".join(
        # From the notebook's folder and from an archived run's: both are two folders below the project's.
        f' <a href="../../runs/{escape_html(result.folder)}/{REPORT}">report</a>'
        for result in row.results
        if result.folder
    )
    cells = (row.wave, row.name, row.state.word, row.state.serves)
    plain = "".join(f"<td>{escape_html(cell)}</td>" for cell in cells)
    return f"<tr>{plain}<td>{escape_html(row.says)}{reports}</td></tr>"
