"""``buddy-ops fleet``: several targets as one."""

from pathlib import Path
from typing import Annotated

import typer

from buddy_ops.cli.answers import Answer, Commands, Json, Line, answers
from buddy_ops.cli.terminal import err

commands = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Show the targets of parameters/fleet.yaml.", rich_markup_mode=None
)

Labels = Annotated[
    list[str] | None, typer.Option("--label", help="NAME=VALUE: only targets with this label; repeat to narrow.")
]


@commands.command("status")
@answers
def fleet_status(
    label: Labels = None,
    page: Annotated[str, typer.Option(help="Write one HTML page to this file, too.")] = "",
    as_json: Json = False,
) -> Answer:
    """Show all targets, the worst first. Reads only; exit code 6: act on at least one, 1: at least one unknown."""
    from buddy_ops.core.fleet_file import parse_labels
    from buddy_ops.fleet import pages, status, targets

    places = targets.open_places(targets.read_members(parse_labels(tuple(label or ()))), "fleet/status")
    with err.progress("reading") as tell:
        found = status.read_fleet(places, tell)
    lines: list[Line] = [(line, state.value) for line, state in found.lines()]
    if page:
        Path(page).write_text(pages.status_page(found), encoding="utf-8")
        lines.append(f"page: {page}")
    return Answer({**found.to_json(), "page": page or None}, [*lines, found.summary], found.exit_code)
