"""The demo: on a sandbox of its own, a bad build is rolled back, and a good one reaches 100 %.

Everything that it shows comes from the archived runs and from the sandbox.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buddy_ops.aws import session
from buddy_ops.cli import sandbox
from buddy_ops.cli.answers import Answer, Line
from buddy_ops.cli.terminal import err
from buddy_ops.core import project
from buddy_ops.core.journal import read_journal
from buddy_ops.core.outcome import describe_ending
from buddy_ops.core.plan import Approval
from buddy_ops.core.progress import Progress
from buddy_ops.core.text import exact_percent, percent
from buddy_ops.deployment import rollout
from buddy_ops.runs import supervisor
from buddy_ops.runs.stores import JOURNAL

BUILDS = (("errors_5_percent", "build with 5 % errors", 3), ("good", "good build", 0))
"""Scenario, description, and the exit code that its canary must have."""

HISTORY_S = 190 * 60
"""Traffic before the first canary: the health check compares with three hours of the stable version."""


@dataclass(frozen=True)
class DemoRow:
    """How a run ended, as text."""

    build: str
    result: str
    report: Path
    as_expected: bool
    weights: str = ""
    stable: str = ""
    new: str = ""
    failed: str = ""
    minutes: float = 0.0


def main() -> Answer:
    """Run the demo; exit code 0 if both runs ended as they must, else 1."""
    with err.progress("starting the sandbox") as tell, sandbox.running_sandbox() as endpoint:
        # The variable, which the run's worker and its kernel inherit.
        before = os.environ.get("AWS_ENDPOINT_URL")
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        try:
            tell("deploying the first build")
            first = deploy_first(endpoint)
            rows = []
            for scenario, build, exit_code in BUILDS:
                artifact = sandbox.write_build(scenario)
                rows.append(run_canary(build, exit_code, artifact, tell))
        finally:
            os.environ.pop("AWS_ENDPOINT_URL", None)
            if before is not None:
                os.environ["AWS_ENDPOINT_URL"] = before
    lines: list[Line] = [f"First deployment: {first}", "", "Two canaries of Buddy Ops' example, in the sandbox's time"]
    for row in rows:
        lines += row_lines(row)
    passed = all(row.as_expected for row in rows)
    if not passed:
        lines.append(("FAILED: a run did not end as expected. Open its report.", "problem"))
    return Answer({"first_deployment": first, "runs": rows}, lines, 0 if passed else 1)


def deploy_first(endpoint: str) -> str:
    """Deploy the first build as any runbook would, then let the sandbox simulate three hours of traffic."""
    artifact = sandbox.load_scenario(endpoint, "first_deployment", "sandbox")
    target = session.connect("sandbox", "first_deployment")
    plan = rollout.plan_rollout(target, str(artifact), "all_at_once")
    approval = Approval(plan.hash, ("the demo",), target.clock.now(), target.principal)
    outcome = rollout.drive_rollout(target, rollout.run_rollout(target, plan, approval))
    # The sandbox's time waits for every client that may still sleep.
    target.close()
    sandbox.call_sandbox(endpoint, "advance", seconds=HISTORY_S)
    return outcome.reasons[0]


def run_canary(build: str, exit_code: int, artifact: Path, tell: Progress) -> DemoRow:
    """One canary through papermill."""
    parameters = {"environment": "sandbox", "artifact": str(artifact), "approved_by": ["the demo"]}
    done = supervisor.run_notebook(
        "strategies/canary", parameters, progress=lambda step: tell(f"deploying the {build}: {step}")
    )
    report = done.report or done.notebook
    records = read_journal((done.folder / JOURNAL).read_bytes())
    outcome: dict[str, Any] = next((record for record in records if record["kind"] == "outcome"), {})
    if not outcome:
        return DemoRow(build, f"FAILED: {done.trouble}", report, as_expected=False)
    weights = [exact_percent(record["weight"]) for record in records if record["kind"] == "shifted"]
    return DemoRow(
        build,
        describe_ending(outcome["ending"]),
        report.relative_to(project.project_root()),
        as_expected=done.exit_code == exit_code,
        weights=" → ".join(weights),
        stable=_error_rate(outcome, outcome["stable"]),
        new=_error_rate(outcome, outcome["new"]),
        failed=f"{outcome['failed'][outcome['new']]:,}",
        minutes=outcome["minutes"],
    )


def row_lines(row: DemoRow) -> list[Line]:
    """A run's result: a line each, so that a narrow terminal cuts none."""
    return [
        "",
        (f"{row.build}: {row.result}", "ok" if row.as_expected else "problem"),
        f"  traffic weight        {row.weights}",
        f"  error rate, stable    {row.stable}",
        f"  error rate, new       {row.new}",
        f"  failed requests, new  {row.failed}",
        f"  duration              {row.minutes:.0f} min",
        f"  report                {row.report}",
    ]


def _error_rate(outcome: dict[str, Any], version: str) -> str:
    requests = outcome["requests"].get(version, 0)
    if not requests:
        return f"v{version}: no requests"
    return f"v{version}: {percent(outcome['failed'].get(version, 0) / requests)} of {requests:,} requests"
