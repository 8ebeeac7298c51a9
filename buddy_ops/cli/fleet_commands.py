"""``buddy-ops fleet``: several targets as one."""

from collections.abc import Sequence
from pathlib import Path

import click

from buddy_ops.cli.answers import Answer, Commands, Line, answers
from buddy_ops.cli.options import json_option
from buddy_ops.cli.terminal import err

commands = Commands("fleet", help="Show the targets of parameters/fleet.yaml.")


@commands.command("status")
@click.option("--label", multiple=True, help="NAME=VALUE: only targets with this label; repeat to narrow.")
@click.option("--page", default="", help="Write one HTML page to this file, too.")
@json_option
@answers
def fleet_status(label: Sequence[str], page: str, as_json: bool) -> Answer:
    """Show all targets, the worst first. Reads only; exit code 6: act on at least one, 1: at least one unknown."""
    from buddy_ops.core.fleet_file import parse_labels
    from buddy_ops.fleet import pages, status, targets

    places = targets.open_places(targets.read_members(parse_labels(tuple(label))), "fleet/status")
    with err.progress("reading") as tell:
        found = status.read_fleet(places, tell)
    lines: list[Line] = [(line, state.value) for line, state in found.lines()]
    if page:
        Path(page).write_text(pages.status_page(found), encoding="utf-8")
        lines.append(f"page: {page}")
    return Answer({**found.to_json(), "page": page or None}, [*lines, found.summary], found.exit_code)
