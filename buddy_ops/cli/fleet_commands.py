"""``buddy-ops fleet``: several targets as one."""

from collections.abc import Sequence
from pathlib import Path

import click

from buddy_ops.cli.answers import Answer, Commands, Line, answers
from buddy_ops.cli.options import json_option
from buddy_ops.cli.terminal import err
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.files import write_atomically

commands = Commands("fleet", help="Show and check the targets of parameters/fleet.yaml.")

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
