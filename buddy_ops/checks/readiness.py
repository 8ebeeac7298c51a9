"""Would a rollback work right now? The doctor's findings, and what only a rollback and a restore would show.

Knows what must stand before it is needed, and the runbook that mends each finding. Never writes; its smoke tests run
the skill's code in the version that a rollback would return to.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast, get_args

from buddy_ops.aws import aliases, freezes, tables
from buddy_ops.aws.permissions import Role
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Watch
from buddy_ops.checks import setup
from buddy_ops.checks.setup import Finding, Told
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput
from buddy_ops.core.text import escape_markdown
from buddy_ops.deployment import cleanup, rollback, smoke_tests
from buddy_ops.health import alarms
from buddy_ops.migrations import schema
from buddy_ops.runs import archive

REHEARSE_WITHIN = timedelta(days=90)
REHEARSALS = ("rollback/immediate", "rollback/gradual", "emergency/deployment_failure", "rollback")
MENDS = {
    "alias": "rollback/immediate",
    "record": "strategies/canary",
    "freeze": "start_here",
    "alarms": "operations/alarms",
    "failure metrics": "operations/monitor",
    "alarms complete": "operations/alarms",
    "alarms heard": "operations/alarms",
    "rollback target": "strategies/canary",
    "smoke tests": "strategies/canary",
    "stale freezes": "start_here",
    "versions": "operations/clean_up_versions",
    "rehearsal": "rollback/immediate",
}
"""Which runbook mends a finding; what none of them mends, the finding itself says."""

MARKS = {"problem": "**✗ problem**", "warning": "⚠ warning", "unknown": "? unknown", "ok": "ok"}
"""How each state is shown, the worst first."""


@dataclass(frozen=True)
class Audit:
    """Every finding, and the verdict on them."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What stands in the way of a rollback, or of hearing that one is due."""
        return tuple(each for each in self.findings if each.state == "problem")

    def __str__(self) -> str:
        counts = {state: sum(each.state == state for each in self.findings) for state in MARKS}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return f"A rollback would {'NOT ' if self.problems else ''}work right now ({told})."

    def _repr_markdown_(self) -> str:
        rows = (
            f"| {each.check} | {MARKS[each.state]} | {escape_markdown(each.says)} | "
            f"{escape_markdown(each.do)} | {remedies(each)} |"
            for each in sorted(self.findings, key=lambda each: list(MARKS).index(each.state))
        )
        head = ("| what | state | found | to do | open |", "|---|---|---|---|---|")
        return "\n".join((f"**{self}**", "", *head, *rows))


def run_audit(target: Target, role: str = "auditor", where: str = "", watch: Watch = tables.ignore_progress) -> Audit:
    """Look at everything.

    Args:
        role: whose permissions the caller should have.
        where: the archive, for the last rehearsal; empty: the environment's, or runs/.
        watch: hears of what has been, or is now being looked at.

    AWS: what the doctor reads; lambda:GetFunctionConfiguration, InvokeFunction, ListVersionsByFunction, ListAliases,
    ListProvisionedConcurrencyConfigs, ListTags, cloudwatch:DescribeAlarms, sns:ListSubscriptionsByTopic,
    ssm:GetParametersByPath, dynamodb:DescribeTable, DescribeContinuousBackups; runs the skill's code.

    Raises:
        InvalidInput: ``invalid-parameters``: no such role.
    """
    if role not in get_args(Role):
        raise InvalidInput(
            "invalid-parameters",
            f"role: there is no role {role!r}.",
            now="Nothing was looked at.",
            next=f"Choose one of: {', '.join(get_args(Role))}.",
        )
    found: list[Finding] = []
    for each in setup.run_doctor(target, cast(Role, role)):
        watch(f"looked at {each.check}")
        found.append(each)
    for name, check in CHECKS:
        watch(f"looking at {name}")
        found.append(_look(name, check, target))
    watch("looking at the tables and the last rehearsal")
    found += _tables(target)
    found.append(_look("rehearsal", lambda here: _rehearsal(here, where), target))
    audit = Audit(tuple(found))
    problems = [each.check for each in audit.problems]
    target.journal.append("audited", says=str(audit), problems=problems)
    return audit


def raise_for_problems(audit: Audit) -> None:
    """The last cell of review/readiness_audit: an error where a rollback would not work.

    Raises:
        BuddyError: ``not-ready``, exit code 1.
    """
    if audit.problems:
        listed = "\n".join(f"  - {each.check}: {each.says}" for each in audit.problems)
        runbooks = dict.fromkeys(filter(None, map(remedies, audit.problems)))
        raise BuddyError(
            "not-ready",
            f"{audit}\n{listed}",
            now="Nothing was changed.",
            next=f"Open {', '.join(runbooks)}." if runbooks else "Do what the table says, then run this again.",
        )


def remedies(finding: Finding) -> str:
    """The runbook that mends a finding; '' where there is nothing to mend, or none does."""
    return "" if finding.state == "ok" else MENDS.get(finding.check, "")


def _look(name: str, check: Callable[[Target], Told], target: Target) -> Finding:
    """One check; what it runs into is its finding, and hides no other."""
    try:
        return Finding(name, *check(target))
    except AwsFailed as failure:
        return Finding(name, "unknown", failure.what[: setup.SHORT], failure.next)
    except BuddyError as error:
        return Finding(name, "problem", error.what, error.next)


def _on_call(target: Target) -> Told:
    """Whether those on call, who are asleep now, would be let do it: by the policies of the template's role."""
    partition = target.principal.split(":")[1]
    role = f"arn:{partition}:iam::{target.account}:role/buddy-ops-{target.environment}-responder"
    return setup.allowed(target, "responder", role)


def _destination(target: Target) -> Told:
    """Present, active, schema-compatible: what a rollback's own plan looks at."""
    plan = rollback.plan_rollback(target)
    # A rollback between two versions that know the same schema asks no table; whether either fits, this must know.
    schema.require_compatible(target, plan.destination, aliases.get_configuration(target, plan.destination))
    says = f"v{plan.destination}"
    if plan.reasons:
        return "warning", f"{says}: {'; '.join(plan.reasons)}", "Know this before you roll back."
    return "ok", f"{says} is there, and nothing speaks against it", ""


def _smoke(target: Target) -> Told:
    version = rollback.plan_rollback(target).destination
    failed = [result for result in smoke_tests.run_smoke_tests(target, version) if result.trouble]
    if failed:
        return "problem", f"v{version}: {'; '.join(map(str, failed))}", "Ship a build that works: it is the way out."
    return "ok", f"v{version} passed {len(target.settings.smoke_tests)}", ""


def _alarms(target: Target) -> Told:
    wrong = alarms.plan_alarms(target).wanted
    if wrong:
        return "problem", f"missing or changed: {', '.join(each['AlarmName'] for each in wrong)}", "Write them anew."
    return "ok", f"all {len(alarms.wanted_alarms(target))} are as they should be", ""


def _heard(target: Target) -> Told:
    heard = alarms.confirmed_subscribers(target)
    if not heard:
        return "problem", "nobody is subscribed to the alarms' topic", "Subscribe those on call, and test an alarm."
    return "ok", f"by {heard}", ""


def _freezes(target: Target) -> Told:
    stale = freezes.expired_freezes(target)
    if stale:
        return "warning", f"forgotten: {'; '.join(map(str, stale))}", "Lift them."
    return "ok", "none is stale", ""


def _versions(target: Target) -> Told:
    plan, kept = cleanup.plan_cleanup(target), target.settings.policy.keep_versions
    if plan.to_delete:
        return "warning", f"{len(plan.to_delete)} more than the newest {kept} and those in use", "Clean up."
    return "ok", f"no more than the newest {kept} and those in use", ""


def _owner(target: Target) -> Told:
    """Whether another tool owns the function, and with it perhaps the alias: its next run would undo a rollback."""
    arn = target.client("lambda").get_function_configuration(FunctionName=target.settings.function)["FunctionArn"]
    tags = target.client("lambda").list_tags(Resource=arn)["Tags"]
    stack = tags.get("aws:cloudformation:stack-name")
    named = any("terraform" in f"{key} {value}".casefold() for key, value in tags.items())
    owner = f"the CloudFormation stack {stack}" if stack else "Terraform" if named else ""
    if owner:
        says = f"{owner} owns the function; if it owns the alias too, it sees each rollout as drift, and may undo it"
        return (
            "warning",
            says,
            "Make it ignore description, version and routing (docs/setup-aws.md, Alias ownership).",
        )
    return "ok", "no stack and no Terraform tag on the function", ""


CHECKS: tuple[tuple[str, Callable[[Target], Told]], ...] = (
    ("rollback target", _destination),
    ("smoke tests", _smoke),
    ("alarms complete", _alarms),
    ("alarms heard", _heard),
    ("stale freezes", _freezes),
    ("versions", _versions),
    ("owner", _owner),
    ("those on call", _on_call),
)


def _tables(target: Target) -> Iterator[Finding]:
    """Whether each table can be restored to any second, and cannot be deleted by mistake."""
    names = dict.fromkeys((*(table.name for table in target.settings.tables), *target.settings.alarms.tables))
    if not names:
        yield Finding("tables", "warning", "none is named", "Name them in settings.tables, so that this looks at them.")
    for name in names:
        yield replace(_look("tables", lambda here, name=name: _table(here, name), target), check=f"table {name}")  # type: ignore[misc]


def _table(target: Target, name: str) -> Told:
    described = target.client("dynamodb").describe_table(TableName=name)["Table"]
    backups = target.client("dynamodb").describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    restorable = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    wanting = [
        what
        for what, there in (
            ("point-in-time restore", restorable),
            ("deletion protection", described.get("DeletionProtectionEnabled", False)),
        )
        if not there
    ]
    if wanting:
        do = "Turn it on: aws dynamodb update-continuous-backups, and update-table --deletion-protection-enabled."
        return "problem", f"{' and '.join(wanting)} off", do
    return "ok", "point-in-time restore and deletion protection are on", ""


def _rehearsal(target: Target, where: str) -> Told:
    """When a rollback last went well here, by the archived runs."""
    shelf = archive.open_store(where or target.settings.archive.where, target.environment)
    ended = [each.ended for each in archive.list_entries(shelf) if _rehearsed(target, each)]
    if not ended:
        return "warning", f"no rollback of {target.environment} is archived in {shelf.where}", "Rehearse one."
    last = datetime.fromisoformat(max(ended))
    says = f"a rollback went well {(target.clock.now() - last).days} days ago, on {last:%Y-%m-%d}"
    if target.clock.now() - last > REHEARSE_WITHIN:
        return "warning", says, f"Rehearse one every {REHEARSE_WITHIN.days} days."
    return "ok", says, ""


def _rehearsed(target: Target, entry: archive.ManifestEntry) -> bool:
    own = entry.environment == target.environment and entry.runbook in REHEARSALS
    return own and entry.exit_code == 0 and not entry.parameters.get("dry_run")
