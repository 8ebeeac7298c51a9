"""``buddy-ops fleet``: several targets as one."""

from collections.abc import Sequence
from pathlib import Path

import click

from buddy_ops.cli.answers import Answer, Commands, Line, answers
from buddy_ops.cli.options import approved_by_option, dry_run_option, json_option, yes_option
from buddy_ops.cli.terminal import err, say
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.files import write_atomically

commands = Commands("fleet", help="Show, check and roll back the targets of parameters/fleet.yaml.")

labels_option = click.option(
    "--label", multiple=True, help="NAME=VALUE: only targets with this label; repeat to narrow."
)


@commands.command("status")
@labels_option
@click.option("--page", default="", help="Write one HTML page to this file, too.")
@click.option(
    "--watch",
    type=click.FloatRange(min=0),
    default=0,
    is_flag=False,
    flag_value=60,
    help="With --page: read and write it again every so many seconds (60), until Ctrl-C.",
)
@json_option
@answers
def fleet_status(label: Sequence[str], page: str, watch: float, as_json: bool) -> Answer:
    """Show all targets, the worst first. Reads only; exit code 6: act on at least one, 1: at least one unknown."""
    from buddy_ops.fleet import pages, status, targets

    if watch and not page:
        raise InvalidInput("invalid-usage", "--watch belongs to --page.", next="Add --page FILE, or leave it out.")
    places = targets.open_fleet(label, "fleet/status")
    with err.progress("reading") as tell:
        if page:
            clock = targets.clock_of(places)
            found = pages.keep_page(Path(page), watch, lambda: status.read_fleet(places, tell), clock)
        else:
            found = status.read_fleet(places, tell)
    lines: list[Line] = [(line, state.value) for line, state in found.lines()]
    if page:
        lines.append(f"page: {page}")
    return Answer({**found.to_json(), "page": page or None}, [*lines, found.summary], found.exit_code)


@commands.command("audit")
@labels_option
@click.option("--page", default="", help="Write one HTML page to this file, too.")
@json_option
@answers
def fleet_audit(label: Sequence[str], page: str, as_json: bool) -> Answer:
    """Check that a rollback of each target would work now. Exit code 6: at least one is not ready, 1: unknown."""
    from buddy_ops.fleet import audit, pages, targets

    places = targets.open_fleet(label, "fleet/audit")
    with err.progress("reading") as tell:
        found = audit.audit_fleet(places, watch=tell)
    lines: list[Line] = [(line, state.value) for line, state in found.lines()]
    if page:
        write_atomically(Path(page), pages.audit_page(found))
        lines.append(f"page: {page}")
    return Answer({**found.to_json(), "page": page or None}, [*lines, found.summary], found.exit_code)


@commands.command("rollback")
@labels_option
@click.option("--target", multiple=True, help="Name of a target; repeat for each. Default: all that have the labels.")
@click.option(
    "--to-version",
    multiple=True,
    help="NAME=VERSION: rollback target of one. Default: the previous version that is not marked bad.",
)
@approved_by_option
@click.option("--incident", default="", help="Name of the incident; the review finds its runs by this name.")
@yes_option
@dry_run_option
@json_option
@answers
def fleet_rollback(
    label: Sequence[str],
    target: Sequence[str],
    to_version: Sequence[str],
    approved_by: Sequence[str],
    incident: str,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> Answer:
    """Roll back many targets at once, the most failing first. Exit code 0: every alias was verified."""
    from buddy_ops.fleet import rollback, targets
    from buddy_ops.notebook import approvals

    places = targets.open_fleet(label, "fleet/rollback")
    here = targets.connect_fleet(places, "fleet-rollback", dry_run=dry_run)
    given = {"label": label, "target": target, "to_version": to_version, "approved_by": approved_by}
    here.journal.append("parameters", values={**given, "incident": incident})
    with err.progress("planning") as tell:
        plan = rollback.plan_rollbacks(places, target, to_version, tell, dry_run=dry_run)
    say(plan)
    approval = approvals.for_command(here, plan, approved_by, ask=not (yes or dry_run))
    done = rollback.roll_back_fleet(here, plan, approval, err.print, incident)
    told = rollback.announce_rollbacks(here, done)
    lines: list[Line] = [(line, state.value) for line, state in done.lines()]
    notes = [here.redactor.redact(line) for line in here.side.unsaid()]
    data: dict[str, object] = {"run": here.run, "approved_by": approval.by, **done.to_json(), "notes": notes}
    return Answer(data, [*lines, done.summary, *filter(None, [str(told)]), *notes], done.exit_code)
