"""The proof of a setup (``doctor --prove``): what the doctor reads, and probes that try it on the real account.

A probe writes to scratch resources only: an alias without traffic, schedules, an alarm. They are deleted at the end,
and at the start of the next proof. The alias of the users is never written.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from buddy_ops.aws import aliases, checklist_store, permissions
from buddy_ops.aws.session import Target
from buddy_ops.checks import _probes, _scratch, setup
from buddy_ops.checks._probes import Probe, Proof, Steps, at_once
from buddy_ops.checks.checklists import ANSWERS
from buddy_ops.checks.findings import CheckContext, Finding, State, describe_failure, ok, problem
from buddy_ops.core import text
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.roles import Role

LONGEST = timedelta(minutes=10)

COST = (
    "Cost: below 0.10 USD. About 100 reads of metrics (0.01 USD per 1,000), one alarm for some minutes (0.10 USD per "
    "month), one log query (0.005 USD per GB), a few invocations. Source: price lists of AWS, us-east-1."
)

ALIAS_CALLS = (
    "lambda:CreateAlias {alias}",
    "lambda:UpdateAlias {alias}, several times",
)

PROBES = (
    # Those that wait longest begin first.
    Probe(
        "failsafe runs",
        _probes.failsafe_fires,
        ("lambda:CreateAlias {live}-lease-proof", "scheduler:CreateSchedule that clears its weights"),
        minutes=5,
    ),
    Probe(
        "failsafe fails",
        _probes.failsafe_fails,
        ("scheduler:CreateSchedule that fails", "sqs:DeleteMessage of its message in the dead-letter queue"),
        minutes=5,
    ),
    Probe(
        "alarm delivery",
        _probes.alarm_heard,
        ("cloudwatch:PutMetricAlarm {alarm}", "cloudwatch:SetAlarmState {alarm}: on-call gets a message marked TEST"),
        minutes=1,
    ),
    Probe("stale revision", at_once(_probes.stale_revision), ALIAS_CALLS),
    Probe("smallest weight", at_once(_probes.smallest_weight)),
    Probe("cleared weights", at_once(_probes.cleared_weights)),
    Probe("routing", at_once(_probes.routing), ("lambda:InvokeFunction {alias}, a smoke test",), minutes=1),
    Probe("provisioned", at_once(_probes.provisioned)),
    Probe("metric lag", _probes.metric_lag, minutes=8),
    Probe("log query", _probes.log_query, ("logs:StartQuery",), minutes=4),
    Probe("write once", at_once(_probes.write_once), ("ssm:PutParameter {parameter}, which stays",)),
    Probe("archive bucket", at_once(_probes.archive), ("s3:PutObject {object_key}, which stays",)),
    *(
        Probe(
            f"role {name}",
            at_once(partial(_probes.role, name=name)),
            (f"sts:AssumeRole {name}, and as that role calls that change nothing",),
        )
        for name in permissions.EVERYBODY
    ),
    Probe("build bucket", at_once(_probes.build_bucket)),
)
"""The probes, in the order in which they begin."""


@dataclass(frozen=True, kw_only=True)
class ProofPlan(Plan):
    """What a proof does. ``build``: the build to read, s3://bucket/key; empty: none."""

    build: str


def plan_proof(target: Target, build: str = "") -> ProofPlan:
    """The calls, cost and time of a proof. One approval suffices: no traffic is shifted.

    AWS: lambda:GetAlias, reads only.
    """
    scratch = _scratch.scratch_of(target)
    names = {**vars(scratch), "live": target.settings.alias}
    calls = [call.format(**names) for probe in PROBES for call in probe.calls]
    calls += [f"delete {scratch.alias}, {scratch.alarm} and the schedules", "ssm:PutParameter the dated result"]
    return ProofPlan(
        title=f"Test the setup of {target.environment}: {target.resource}",
        now=tuple(aliases.describe_in_sentences(target, aliases.read_alias(target))),
        then=(
            f"{target.resource} is not changed.",
            f"It takes up to {text.duration(LONGEST)}.",
            COST,
        ),
        calls=tuple(calls),
        undo=("Nothing: what it creates is deleted at its end, and at the start of the next proof.",),
        covers={
            "action": "prove",
            "environment": target.environment,
            "region": target.region,
            "function": target.settings.function,
            "build": build,
        },
        build=build,
    )


def run_proof(
    target: Target,
    plan: ProofPlan,
    approval: Approval,
    role: Role = "deployer",
    watch: Progress = no_progress,
    *,
    probes: Sequence[Probe] = PROBES,
) -> Iterator[Finding]:
    """Run the doctor's checks and every probe, and yield each finding; at the end, store the dated result.

    AWS: as ``setup.run_doctor``; the plan's calls, which write.

    Raises:
        Refused: ``approval-void``.
    """
    approval.must_cover(plan, target.clock.now())
    if target.dry_run:
        return
    watch = target.side.watch(watch)
    proof = Proof(CheckContext(target, role, build=plan.build), plan.build)
    found: list[Finding] = []
    for finding in setup.check_setup(proof.context):
        # That an earlier proof is missing or old is what this one corrects.
        if finding.check == setup.PROOF:
            continue
        found.append(finding)
        yield finding
    # Without credentials nothing can be tried.
    if any(finding.check == "credentials" and finding.state is not State.OK for finding in found):
        return
    watch("deleting what an interrupted proof left")
    _scratch.sweep(target)
    try:
        for finding in _drive(proof, probes, watch):
            found.append(finding)
            yield finding
    finally:
        watch("deleting the scratch resources")
        # Also where the probes were interrupted; what a kill leaves, the next proof deletes first.
        left = _scratch.sweep(target)
    tidied = _tidied(left)
    yield tidied
    yield _recorded(target, [*found, tidied])


def _drive(proof: Proof, probes: Sequence[Probe], watch: Progress) -> Iterator[Finding]:
    """Run the probes at the same time: while one waits, the others go on."""
    clock = proof.target.clock
    began = clock.now()
    # Where times are equal the number decides: probes begin in the order of ``PROBES``.
    due = [(began, number) for number in range(len(probes))]
    # A generator does nothing until it is asked for its next step.
    steps: list[Steps] = [probe.run(proof) for probe in probes]
    try:
        while due:
            at, number = heapq.heappop(due)
            clock.sleep_until(at)
            watch(f"{len(due) + 1} of {text.count(len(probes), 'probe')} left: {probes[number].name}")
            try:
                heapq.heappush(due, (next(steps[number]), number))
            except StopIteration as end:
                yield _named(end.value, probes[number])
            except Exception as error:
                yield _named(describe_failure(error), probes[number])
    finally:
        # After an interrupt, too: a probe may delete its own scratch resources where it ends.
        for each in steps:
            each.close()


def _named(finding: Finding, probe: Probe) -> Finding:
    return replace(finding, check=probe.name)


def _tidied(left: list[str]) -> Finding:
    if left:
        remedy = "Delete it in the console, or run the proof again: it tries again."
        finding = problem(f"not deleted: {'; '.join(left)}", remedy)
    else:
        finding = ok("every scratch resource is deleted")
    return replace(finding, check="clean-up")


# The dated result


def _recorded(target: Target, found: Sequence[Finding]) -> Finding:
    """Store the dated result. AWS: ssm:PutParameter, writes."""
    failed = [finding for finding in found if finding.state in (State.PROBLEM, State.UNKNOWN)]
    items = [ChecklistItem(finding.check, ANSWERS[finding.state], finding.message) for finding in failed]
    ending = "failed"
    if not failed:
        items = [ChecklistItem("setup tested", "yes", f"{len(found)} findings")]
        ending = "done"
    result = ChecklistResult(
        checklist=setup.PROOF_RECORD,
        subject=target.settings.function,
        at=target.clock.now(),
        run=target.run,
        principal=target.principal,
        items=tuple(items),
    )
    target.journal.append("outcome", ending=ending, says=str(result))
    try:
        name = checklist_store.write_result(target, result)
    except AwsFailed as failure:
        return replace(describe_failure(failure), check="dated result")
    return replace(ok(name), check="dated result")
