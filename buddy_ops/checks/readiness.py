"""The readiness audit: would a rollback, and a restore of the tables, work right now?

To add a check, write a function that reads a ``CheckContext`` and returns a finding, and add it to ``CHECKS``::

    def _provisioned_concurrency(context: CheckContext) -> Finding:
        if context.configuration.settings["..."] is None:
            return problem("what is wrong", "What to do about it.")
        return ok("what was found")

    CHECKS = (..., Check("provisioned concurrency", _provisioned_concurrency, runbook="operations/..."))

``problem`` makes the audit fail, and so does ``unknown``, which may hide one; ``warning`` does not. If the function
raises, the finding is UNKNOWN. A check writes nothing to AWS, and each action that it calls is allowed to its roles in
``infrastructure.yaml``.

The audit also runs every check of ``setup`` (the doctor).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import cast, get_args

from buddy_ops.aws import versions
from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks import setup
from buddy_ops.checks._shared import alarms_complete
from buddy_ops.checks.findings import Check, CheckContext, Finding, State, ok, problem, run_checks, warning
from buddy_ops.core import text
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.roles import Role
from buddy_ops.deployment import cleanup, smoke_tests
from buddy_ops.health import alarms
from buddy_ops.migrations import schema
from buddy_ops.runs.manifest import ManifestEntry

REHEARSE_WITHIN = timedelta(days=90)
REHEARSALS = ("rollback/immediate", "rollback/gradual", "emergency/deployment_failure", "rollback")
"""The runbooks whose archived run shows that a rollback works."""

TARGET = "rollback target"


@dataclass(frozen=True)
class Audit:
    """Every finding, and the verdict on them."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings because of which a rollback would fail, or on-call would not be notified that one is due."""
        return findings_.in_state(self.findings, State.PROBLEM)

    def __str__(self) -> str:
        """The verdict: NOT READY, UNKNOWN or READY, the problems, and whether the rollback target can serve."""
        destinations = [finding for finding in self.findings if finding.check == TARGET]
        ready = [finding for finding in destinations if finding.state in (State.OK, State.WARNING)]
        healthy = "".join(f" Rollback target v{finding.facts['version']} {finding.state.label}." for finding in ready)
        unchecked = findings_.names_in_state(self.findings, State.UNKNOWN)
        if self.problems:
            names = ", ".join(finding.check for finding in self.problems)
            verdict = f"NOT READY: {text.count(len(self.problems), 'problem')} ({names})."
            if unchecked:
                verdict += f" Not checked: {unchecked}."
            return f"{verdict}{healthy}"
        if unchecked:
            return f"UNKNOWN: {unchecked} could not be checked. {findings_.count_states(self.findings)}.{healthy}"
        word = "READY"
        # No finding about the version to return to: nothing shows that a rollback works.
        if not ready:
            word = "UNKNOWN"
        return f"{word}: {findings_.count_states(self.findings)}.{healthy}"

    def _repr_markdown_(self) -> str:
        return f"**{self}**\n\n{findings_.markdown_table(self.findings)}"


def run_audit(target: Target, role: str = "auditor", where: str = "", watch: Progress = no_progress) -> Audit:
    """Run every check of the setup and of this module.

    Args:
        role: whose permissions the caller should have.
        where: the archive, for the last rehearsal; empty: the environment's, or runs/.
        watch: called before each check.

    AWS: what the doctor reads; lambda:GetFunctionConfiguration, InvokeFunction, ListVersionsByFunction, ListAliases,
    ListProvisionedConcurrencyConfigs, ListTags, cloudwatch:DescribeAlarms, sns:ListSubscriptionsByTopic,
    ssm:GetParametersByPath, dynamodb:DescribeTable, DescribeContinuousBackups; runs the skill's code.

    Raises:
        InvalidInput: ``invalid-parameters``: no such role.
    """
    watch = target.side.watch(watch)
    if role not in get_args(Role):
        raise InvalidInput(
            "invalid-parameters",
            f"role: there is no role {role!r}.",
            now="Nothing was checked.",
            next=f"Choose one of: {', '.join(get_args(Role))}.",
        )
    # One context: the setup and the audit share what they read.
    context = CheckContext(target, cast(Role, role), where)
    watch("checking the setup")
    return audit_context(context, watch)


def audit_context(context: CheckContext, watch: Progress = no_progress) -> Audit:
    """Run every check on what the context has, and on what is read where it has nothing.

    AWS: as ``run_audit``.
    """
    target = context.target
    findings = (*setup.check_setup(context), *run_checks((*CHECKS, *_table_checks(target), REHEARSAL), context, watch))
    audit = Audit(findings)
    problems = [finding.check for finding in audit.problems]
    target.journal.append("audited", says=str(audit), problems=problems)
    return audit


def raise_for_problems(audit: Audit) -> None:
    """Return if the audit found no problem, and every check was made.

    Raises:
        BuddyError: ``not-ready`` or ``readiness-unknown``, exit code 1.
    """
    runbooks = dict.fromkeys(finding.runbook for finding in audit.problems if finding.runbook)
    findings_.raise_listing(
        BuddyError,
        "not-ready",
        title=str(audit),
        entries=[f"{finding.check}: {finding.message}" for finding in audit.problems],
        next_step=" ".join(("Follow the next steps in the table.", *(f"Open {runbook}." for runbook in runbooks))),
    )
    unknowns = findings_.in_state(audit.findings, State.UNKNOWN)
    findings_.raise_listing(
        BuddyError,
        "readiness-unknown",
        title=str(audit),
        entries=[f"{finding.check}: {finding.message}" for finding in unknowns],
        next_step="What could not be checked may stop a rollback. Follow the next steps in the table (often a missing "
        "permission of the role), then run this again.",
    )


def _rollback_target(context: CheckContext) -> Finding:
    """Whether the version exists, is active and is compatible with the tables' schema, by the plan of a rollback."""
    target = context.target
    plan = context.rollback_plan
    # The plan reads no table if both versions know the same schema. The audit checks the tables themselves.
    schema.require_compatible(target, versions.read_version(target, plan.destination))
    message = f"v{plan.destination} can serve"
    if plan.reasons:
        message = f"v{plan.destination}: {'; '.join(plan.reasons)}"
        return warning(message, "Read this before you roll back.", version=plan.destination)
    return ok(message, version=plan.destination)


def _smoke_tests(context: CheckContext) -> Finding:
    # The version that would get all traffic is invoked itself, by its number: the alias stays as it is.
    version = context.rollback_plan.destination
    results = smoke_tests.run_smoke_tests(context.target, version)
    failed = [str(result) for result in results if result.trouble]
    if failed:
        return problem(f"v{version}: {'; '.join(failed)}", "Deploy a working build: a rollback would not help.")
    return ok(f"v{version} passed {text.count(len(results), 'smoke test')}")


def _subscribers(context: CheckContext) -> Finding:
    # An email address that was never confirmed is subscribed, and receives nothing.
    confirmed = alarms.confirmed_subscribers(context.target)
    if confirmed:
        return ok(f"subscribed: {confirmed}")
    return problem("the alarms' topic has no confirmed subscription", "Subscribe on-call, then trigger a test alarm.")


def _stale_freezes(context: CheckContext) -> Finding:
    # A freeze that expired blocks nothing. One that was forgotten says that no one owns it any more.
    stale = context.expired_freezes
    if stale:
        return warning(f"expired, not removed: {'; '.join(map(str, stale))}", "Remove them: buddy-ops unfreeze ID.")
    return ok("none")


def _versions(context: CheckContext) -> Finding:
    plan = cleanup.plan_cleanup(context.target)
    kept = f"the newest {context.target.settings.policy.keep_versions} and those in use"
    if plan.to_delete:
        return warning(f"{text.count(len(plan.to_delete), 'version')} besides {kept}", "Delete them.")
    return ok(f"no more than {kept}")


def _owner(context: CheckContext) -> Finding:
    """Whether another tool owns the function, and perhaps its alias: its next run would undo a rollback."""
    target = context.target
    arn = context.configuration.arn
    tags = target.client("lambda").list_tags(Resource=arn)["Tags"]
    stack = tags.get("aws:cloudformation:stack-name")
    # CloudFormation tags what it creates. Terraform does not, but many modules add a tag with its name.
    if stack:
        owner = f"the CloudFormation stack {stack}"
    elif any("terraform" in f"{key} {value}".casefold() for key, value in tags.items()):
        owner = "Terraform"
    else:
        return ok("no CloudFormation or Terraform tag on the function")
    message = f"{owner} owns the function; if it owns the alias too, it treats each rollout as drift, and may undo it"
    return warning(message, "Let it ignore the alias's description, version and routing (docs/other-tools.md).")


def _responder_permissions(context: CheckContext) -> Finding:
    """Whether on-call may roll back, by the policies of the template's role. They need not be signed in for this."""
    target = context.target
    fields = context.arn_fields
    arn = f"arn:{fields['partition']}:iam::{fields['account']}:role/buddy-ops-{target.environment}-responder"
    return setup.check_permissions(context, "responder", arn)


def _table(context: CheckContext, name: str) -> Finding:
    """Whether the table can be restored to any second, and cannot be deleted by mistake."""
    # Both are off by default, and neither can be enabled for the time before the data was lost.
    dynamodb = context.target.client("dynamodb")
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    enabled = {
        "point-in-time recovery": recovery == "ENABLED",
        "deletion protection": dynamodb.describe_table(TableName=name)["Table"].get("DeletionProtectionEnabled", False),
    }
    disabled = [feature for feature, on in enabled.items() if not on]
    if disabled:
        remedy = "Enable it: aws dynamodb update-continuous-backups, and update-table --deletion-protection-enabled."
        return problem(f"{text.join_words(disabled)} off", remedy)
    return ok("point-in-time recovery and deletion protection on")


def _table_checks(target: Target) -> Iterator[Check]:
    """One check for each table of the environment."""
    # A table may be in both lists: once is enough.
    names = dict.fromkeys((*(table.name for table in target.settings.tables), *target.settings.alarms.tables))
    if not names:
        remedy = "Name them in settings.tables, so that the audit checks them."
        yield Check("tables", lambda _: warning("none configured", remedy))
    for name in names:
        yield Check(f"table {name}", partial(_table, name=name))


def _rehearsal(context: CheckContext) -> Finding:
    """When a rollback last succeeded here, by the archived runs."""
    target = context.target
    # A dry run, a failed run and another environment's run show nothing about this one.
    ended = [entry.ended for entry in context.archived if _is_rehearsal(target, entry)]
    if not ended:
        return warning(f"no rollback of {target.environment} is archived", "Rehearse a rollback.")
    last = text.parse_utc(max(ended))
    since = target.clock.now() - last
    message = f"a rollback succeeded {text.count(since.days, 'day')} ago, on {last:%Y-%m-%d}"
    if since > REHEARSE_WITHIN:
        return warning(message, f"Rehearse a rollback every {REHEARSE_WITHIN.days} days.")
    return ok(message)


def _is_rehearsal(target: Target, entry: ManifestEntry) -> bool:
    own = entry.environment == target.environment and entry.runbook in REHEARSALS
    return own and entry.exit_code == 0 and not entry.parameters.get("dry_run")


CHECKS = (
    Check(TARGET, _rollback_target, runbook="strategies/canary", required=True),
    Check("smoke tests", _smoke_tests, runbook="strategies/canary", required=True),
    Check("alarms complete", alarms_complete, runbook="operations/alarms"),
    Check("alarm subscribers", _subscribers, runbook="operations/alarms"),
    Check("stale freezes", _stale_freezes, runbook="start_here"),
    Check("versions", _versions, runbook="operations/clean_up_versions"),
    Check("owner", _owner),
    Check("on-call permissions", _responder_permissions),
)

REHEARSAL = Check("rehearsal", _rehearsal, runbook="rollback/immediate")
