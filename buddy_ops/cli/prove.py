"""``buddy-ops doctor --prove``: the plan, its approval, the table, the report."""

from collections.abc import Sequence

from buddy_ops.aws import session
from buddy_ops.checks import findings as findings_
from buddy_ops.checks import proof, proof_report
from buddy_ops.checks.findings import Finding, State
from buddy_ops.cli.answers import Answer, Line
from buddy_ops.cli.terminal import err, say
from buddy_ops.core.roles import Role
from buddy_ops.notebook import approvals


def prove(environment: str, role: Role, *, build: str, approved_by: Sequence[str], yes: bool, dry_run: bool) -> Answer:
    """Show the plan, and test the setup once it is approved."""
    target = session.connect(environment, "prove", dry_run=dry_run)
    plan = proof.plan_proof(target, build)
    say(plan)
    data: dict[str, object] = {"environment": environment, "run": target.run, "plan": plan.hash, "dry_run": dry_run}
    if dry_run:
        return Answer({**data, "calls": plan.calls}, ["Dry run: nothing was written."])
    approval = approvals.for_command(target, plan, approved_by, ask=not yes)
    found: list[Finding] = []
    with err.progress("checking") as tell:
        for finding in proof.run_proof(target, plan, approval, role=role, watch=tell):
            found.append(finding)
    state = findings_.overall_state(found)
    lines: list[Line] = [(findings_.text_row(finding), finding.state.value) for finding in found]
    lines.append(findings_.count_states(found))
    proposed = proof_report.propose_settings(target, found)
    if proposed:
        lines.append(f"Settings to change:\n{proposed}")
    lines += filter(None, (proof_report.question(found),))
    lines += proof_report.archive_report(target, plan, approval, found=found, proposed=proposed)
    data |= {"state": state, "findings": found, "settings": proposed, "role": role}
    return Answer(data, lines, 0 if state is State.OK else 1)
