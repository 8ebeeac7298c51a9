"""The main job in a minute: a bad build rolls itself back, a good one reaches 100 %, on a sandbox of its own.

Knows which runs to make and what they must end with. Everything it shows comes from the archived runs and the sandbox.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from buddy_ops.aws import session
from buddy_ops.cli import sandbox
from buddy_ops.core import project
from buddy_ops.core.plan import Approval
from buddy_ops.deployment import rollout
from buddy_ops.runs import supervisor

BUILDS = (("errors_5_percent", "a build that fails 5 % of its requests", 3), ("good", "a good build", 0))
HISTORY_S = 190 * 60
"""Buddy's time before the first canary: the judge wants three hours of stable's minutes."""


@dataclass(frozen=True)
class DemoRow:
    """One row of the table: how a run ended."""

    what: str
    ending: str
    stage: str
    stable: str
    new: str
    failed: str
    minutes: float
    report: Path
    as_expected: bool


def main(out: Console, err: Console) -> int:
    """Run it; 0 if both runs ended as they should, else 1."""
    with err.status("starting the sandbox") as status, sandbox.running_sandbox() as endpoint:
        before = os.environ.get("AWS_ENDPOINT_URL")
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        try:
            status.update("deploying Buddy's first build")
            first = deploy_first(endpoint)
            lines = []
            for name, what, expected in BUILDS:
                status.update(f"shipping {what}")
                lines.append(run_canary(name, what, expected, sandbox.write_build(name), status.update))
        finally:
            os.environ.pop("AWS_ENDPOINT_URL", None)
            if before is not None:
                os.environ["AWS_ENDPOINT_URL"] = before
    out.print(f"First deployment: {first}", highlight=False)
    out.print(results_table(lines))
    for line in lines:
        out.print(f"report of {line.what}:\n  {line.report}", highlight=False)
    if all(line.as_expected for line in lines):
        return 0
    out.print("[bold red]A run did not end as it should: open its report.[/]")
    return 1


def deploy_first(endpoint: str) -> str:
    """Deploy the first build with the library, as any runbook would, then let people talk to Buddy for three hours."""
    artifact = sandbox.load_scenario(endpoint, "first_deployment", "sandbox")
    here = session.connect("sandbox", "first_deployment")
    plan = rollout.plan_rollout(here, str(artifact), "all_at_once")
    approval = Approval(plan.hash, ("the demo",), here.clock.now(), here.principal)
    outcome = rollout.drive_rollout(here, rollout.run_rollout(here, plan, approval))
    here.close()
    sandbox.call_sandbox(endpoint, "advance", seconds=HISTORY_S)
    return outcome.reasons[0]


def run_canary(name: str, what: str, expected: int, artifact: Path, tell: Any) -> DemoRow:
    """One canary through papermill."""
    given = {"environment": "sandbox", "artifact": str(artifact), "approved_by": ["the demo"]}
    done = supervisor.run_notebook("strategies/canary", given, progress=lambda step: tell(f"shipping {what}: {step}"))
    records = [json.loads(line) for line in (done.folder / "journal.jsonl").read_text().splitlines()]
    ended: dict[str, Any] = next((each for each in records if each["kind"] == "outcome"), {})
    if not ended:
        return DemoRow(what, f"failed: {done.trouble}", "", "", "", "", 0.0, done.report or done.notebook, False)
    shares = [f"{100 * each['weight']:g} %" for each in records if each["kind"] == "shifted"]
    stable, new = ended["stable"], ended["new"]
    rates = {version: _rate(ended, version) for version in (stable, new)}
    failed = f"{ended['failed'][new]:,}"
    root = project.project_root()
    report = (done.report or done.notebook).relative_to(root)
    good = done.exit_code == expected
    return DemoRow(
        what, ended["ending"], " → ".join(shares), rates[stable], rates[new], failed, ended["minutes"], report, good
    )


def results_table(lines: list[DemoRow]) -> Table:
    """What happened, a column a run, so that it fits a narrow terminal."""
    shown = Table(title="Two canaries of Buddy, in Buddy's time", title_justify="left")
    shown.add_column("")
    for line in lines:
        shown.add_column(line.what, overflow="fold")
    rows: tuple[tuple[str, Callable[[DemoRow], str]], ...] = (
        ("reached", lambda line: line.stage),
        ("stable fails", lambda line: line.stable),
        ("new fails", lambda line: line.new),
        ("its failed requests", lambda line: line.failed),
        ("took", lambda line: f"{line.minutes:.0f} min"),
        ("verdict", lambda line: f"[{'green' if line.as_expected else 'bold red'}]{line.ending}[/]"),
    )
    for name, show in rows:
        shown.add_row(name, *(show(line) for line in lines))
    return shown


def _rate(ended: dict[str, Any], version: str) -> str:
    requests, failed = ended["requests"].get(version, 0), ended["failed"].get(version, 0)
    return f"v{version}: {100 * failed / requests:.2f} % of {requests:,}" if requests else f"v{version}: no requests"
