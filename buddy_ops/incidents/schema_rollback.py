"""The rollback of a version that met a migration: traffic first, then the freeze, the tables and the people.

Knows the order of the deployment guide's third scenario. A known misfit refuses before anything is changed; after the
traffic nothing raises: what fails is told, and the last cell says it. Never decides that a rollback is due.
"""

from dataclasses import dataclass
from datetime import datetime

from buddy_ops.aws import aliases
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan
from buddy_ops.incidents import assessment
from buddy_ops.migrations import schema
from buddy_ops.migrations import steps as migration_steps
from buddy_ops.migrations.steps import Tell


@dataclass(frozen=True)
class SchemaRollbackPlan(Plan):
    """A rollback with what follows it; ``migration`` is taken back as well, if it is named."""

    back: RollbackPlan
    migration: str
    reason: str
    freeze_hours: float
    review: datetime


@dataclass(frozen=True)
class RevertResult:
    """What became of the migration: told in words, and the error that the last cell raises, if there is one."""

    says: str
    trouble: BuddyError | None = None

    def __str__(self) -> str:
        return self.says


def plan_schema_rollback(
    target: Target, version: str = "", migration: str = "", reason: str = "", freeze_hours: float = 4, review: str = ""
) -> SchemaRollbackPlan:
    """Where the traffic goes, once it is known that the version there fits the tables or that nobody can tell.

    Neither the freeze nor the migration is looked at here: they come after the traffic, and may not hold it up.

    AWS: lambda:GetAlias, GetFunctionConfiguration, dynamodb:GetItem, reads only.

    Raises:
        Refused: ``schema-incompatible``, and what ``rollback.plan_rollback`` raises.
        InvalidInput: ``unknown-migration``, ``invalid-parameters``.
    """
    due = assessment.parse_review_date(target, review)
    if migration:
        migration_steps.find_migration(target, migration)
    back = rollback.plan_rollback(target, version)
    taken_back = (f"{migration} is taken back, if no version that serves needs the new shape",) * bool(migration)
    return SchemaRollbackPlan(
        title=back.title,
        now=back.now,
        then=(
            *back.then,
            f"deployments are frozen for {freeze_hours:g} hours",
            *taken_back,
            f"the incident is reviewed by {iso_utc(due)}",
        ),
        calls=(
            *back.calls,
            "ssm:PutParameter the freeze",
            *(("dynamodb:TransactWriteItems each item",) * bool(migration)),
            "ssm:PutParameter the review's date",
        ),
        undo=back.undo,
        reasons=back.reasons or (f"v{back.destination} knows the schema of every table of {target.environment}",),
        covers={**back.covers, "migration": migration, "reason": reason.strip(), "hours": freeze_hours},
        approvals=1,  # as every rollback: one person who is awake
        demand_hash=False,
        back=back,
        migration=migration,
        reason=reason,
        freeze_hours=freeze_hours,
        review=due,
    )


def move_traffic(target: Target, plan: SchemaRollbackPlan, approval: Approval) -> str:
    """The traffic, then the freeze; what was done, in lines. AWS: as ``rollback.run_rollback`` and
    ``failures.stop``, writes.

    Raises:
        Refused: ``approval-void``; and what the rollback raises: then nothing was frozen.
    """
    approval.must_cover(plan)
    done = rollback.run_rollback(target, plan.back, _covering(approval, plan.back))
    try:
        stopping = assessment.plan_freeze(target, plan.reason, plan.freeze_hours)
        frozen = assessment.freeze_deployments(target, stopping, _covering(approval, stopping))
    except BuddyError as error:
        frozen = f"NOT frozen: {error.what} Tell those who deploy, and go on."
    return f"{done}\n{frozen}"


def verify_compatibility(target: Target, plan: SchemaRollbackPlan) -> str:
    """Whether what serves now fits the tables, in lines. AWS: as ``plan``, reads only."""
    serving = plan.back.destination
    try:
        serving = rollback.require_alias(target).primary
        held = aliases.get_configuration(target, serving)
        doubts = schema.compare_schemas(target, serving, held, schema.read_markers(target))
    except BuddyError as error:
        return f"v{serving} does NOT fit, or nobody can tell: {error.what} {error.next}"
    return "\n".join(doubts) or f"v{serving} knows the schema of every table of {target.environment}."


def revert_migration(
    target: Target, plan: SchemaRollbackPlan, approval: Approval, tell: Tell = migration_steps.no_progress
) -> RevertResult:
    """Take the named migration back, if there is one and nobody has. AWS: as ``migrations.run``, writes."""
    if not plan.migration:
        standing = [str(each) for each in schema.read_markers(target) if not isinstance(each, BuddyError)]
        return RevertResult("\n".join(("No migration is taken back.", *standing)))
    try:
        marker = schema.read_marker(target, migration_steps.find_migration(target, plan.migration)[1])
        if (marker.migration, marker.state) == (plan.migration, "reverted"):
            return RevertResult(f"It was taken back already: {marker}.")
        undoing = migration_steps.plan_step(target, plan.migration, "rollback")
        done = migration_steps.run_step(target, undoing, _covering(approval, undoing), tell)
        migration_steps.raise_for_failure(done)
    except BuddyError as error:
        return RevertResult(f"{plan.migration} was NOT taken back: {error.what}", error)
    return RevertResult(str(done))


def store_review(target: Target, plan: SchemaRollbackPlan, approval: Approval, incident: str = "") -> str:
    """Note when the incident is reviewed. AWS: ssm:PutParameter, writes; what fails is told."""
    bad = ", ".join(plan.back.away_from) or plan.back.destination
    return assessment.store_review_date(target, plan.review, bad, approval.by, incident)


def raise_for_unreverted(reverted: RevertResult) -> None:
    """The last cell: nothing if all was done; the error of the migration if it was not taken back."""
    if reverted.trouble is not None:
        raise reverted.trouble


def _covering(approval: Approval, part: Plan) -> Approval:
    """The approval of the whole, for one part of it."""
    return Approval(part.hash, approval.by, approval.at, approval.principal)
