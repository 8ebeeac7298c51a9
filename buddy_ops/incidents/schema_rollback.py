"""The rollback of a version after a migration: traffic first, then the freeze, the table, and the review's date.

A known incompatibility refuses before anything is changed. After the traffic nothing raises: a failure is in the
result, and the notebook's last cell raises it.

Source: the deployment guide, third scenario.
"""

from dataclasses import dataclass
from datetime import datetime

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import UNCHANGED, BuddyError, InvalidInput
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.progress import Progress, no_progress
from buddy_ops.core.text import date_and_time
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollback import RollbackPlan, RollbackResult
from buddy_ops.incidents import assessment
from buddy_ops.incidents import review as incident_review
from buddy_ops.incidents.assessment import FreezeResult
from buddy_ops.incidents.containment import ContainmentResult
from buddy_ops.migrations import schema
from buddy_ops.migrations import steps as migration_steps
from buddy_ops.migrations.steps import StepResult


@dataclass(frozen=True)
class SchemaRollbackPlan(Plan):
    """A rollback and what follows it. ``migration`` is rolled back, too, unless it is ''."""

    back: RollbackPlan
    migration: str
    reason: str
    freeze_hours: float
    review: datetime


@dataclass(frozen=True)
class RevertResult:
    """What became of the migration.

    Attributes:
        migration: its name; '' if none was to be rolled back.
        markers: the tables' schemas, where nothing was done.
        step: the migration's rollback, if it was run.
        trouble: the error that the last cell raises.
    """

    migration: str
    markers: tuple[str, ...] = ()
    step: StepResult | None = None
    trouble: BuddyError | None = None

    def __str__(self) -> str:
        if self.trouble is not None:
            return f"FAILED: {self.migration} was not rolled back: {self.trouble.what}"
        if self.step is not None:
            return str(self.step)
        what = "No migration was rolled back."
        if self.migration:
            what = f"{self.migration} was already rolled back."
        return "\n".join((what, *self.markers))


def plan_schema_rollback(
    target: Target, version: str = "", migration: str = "", reason: str = "", freeze_hours: float = 4, review: str = ""
) -> SchemaRollbackPlan:
    """Where the traffic goes, once that version is compatible with the tables or nothing is known against it.

    Freezes and the migration are not read here: they come after the traffic, and must not delay it.

    AWS: lambda:GetAlias, GetFunctionConfiguration, dynamodb:GetItem, reads only.

    Raises:
        Refused: ``schema-incompatible``, and what ``rollback.plan_rollback`` raises.
        InvalidInput: ``alias-missing``, ``version-missing``. An unknown migration, or a wrong date of the review, is in
            the plan, and keeps no traffic from moving.
    """
    due = incident_review.choose_review_date(target, review)
    back = rollback.plan_rollback(target, version, no_progress)
    then = [*back.then, f"deployments are frozen for {freeze_hours:g} h"]
    calls = [*back.calls, "ssm:PutParameter freeze"]
    doubts = due.doubts
    if migration:
        try:
            migration_steps.find_migration(target, migration)
            then.append(f"{migration} is rolled back, if no version that serves needs the new schema")
            calls.append("dynamodb:TransactWriteItems each item")
        except InvalidInput as error:
            # A wrong name must not keep the traffic from being rolled back: the last cell raises it.
            doubts += (f"no migration is rolled back: {error.what} {error.next}",)
    compatible = f"v{back.destination} is compatible with the schema of every table of {target.environment}"
    return SchemaRollbackPlan(
        title=back.title,
        now=back.now,
        then=(*then, f"the incident is reviewed by {date_and_time(due.at)}"),
        calls=(*calls, "ssm:PutParameter review date"),
        undo=back.undo,
        reasons=(*(back.reasons or (compatible,)), *doubts),
        # One approval is for all of it: the traffic, the table and the freeze.
        covers={**back.covers, "migration": migration, "reason": reason.strip(), "hours": freeze_hours},
        back=back,
        migration=migration,
        reason=reason,
        freeze_hours=freeze_hours,
        review=due.at,
    )


def move_traffic(target: Target, plan: SchemaRollbackPlan, approval: Approval) -> ContainmentResult:
    """Roll the traffic back, then freeze deployments: also where the rollback fails, so that no other build is added.

    AWS: as ``rollback.run_rollback`` and ``assessment.freeze_or_say``, writes.

    Raises:
        Refused: ``approval-void``: nothing was changed. And what the rollback raises, after the freeze.
    """
    approval.must_cover(plan, target.clock.now())
    moved: RollbackResult | None = None
    failure: BuddyError | None = None
    try:
        moved = rollback.run_rollback(target, plan.back, assessment.approve_part(approval, plan.back), no_progress)
    except BuddyError as error:
        failure = error
    try:
        frozen = assessment.freeze_or_say(target, plan.reason, plan.freeze_hours, approval.by)
    except BuddyError as error:
        # The traffic has moved, so an invalid reason or time must not end the run here.
        frozen = FreezeResult(trouble=error.what)
    if failure is not None:
        failure.now = f"{failure.now} {frozen}"
        raise failure
    return ContainmentResult(rollback=moved, freeze=frozen)


def verify_compatibility(target: Target, plan: SchemaRollbackPlan) -> str:
    """Whether the version that serves now is compatible with the tables, a line for each doubt.

    AWS: as ``plan_schema_rollback``, reads only.
    """
    # Where the alias cannot be read, it is most likely what the rollback gave the traffic to.
    serving = plan.back.destination
    try:
        serving = aliases.require_alias(target).primary
        doubts = schema.compare_schemas(target, versions.read_version(target, serving), schema.read_markers(target))
    except BuddyError as error:
        return f"UNKNOWN or incompatible: v{serving}: {error.what} {error.next}"
    return "\n".join(doubts) or f"OK: v{serving} is compatible with the schema of every table of {target.environment}."


def revert_migration(
    target: Target, plan: SchemaRollbackPlan, approval: Approval, tell: Progress = no_progress
) -> RevertResult:
    """Roll the named migration back, unless that was done already. AWS: as ``migration_steps.run_step``, writes."""
    if not plan.migration:
        markers = schema.read_markers(target)
        return RevertResult("", tuple(str(marker) for marker in markers if not isinstance(marker, BuddyError)))
    try:
        _, table = migration_steps.find_migration(target, plan.migration)
        marker = schema.read_marker(target, table)
        # A second run of the notebook, or another person, did it before.
        if marker.migration == plan.migration and marker.state == "reverted":
            return RevertResult(plan.migration, (str(marker),))
        # Planned only now: while the version that was rolled back served, the new schema was still needed.
        step_plan = migration_steps.plan_step(target, plan.migration, "rollback")
        step = migration_steps.run_step(target, step_plan, assessment.approve_part(approval, step_plan), tell)
        migration_steps.raise_for_failure(step)
    except BuddyError as error:
        trouble = error
        if isinstance(error, InvalidInput):
            # It is no wrong usage any more: the traffic was moved.
            trouble = BuddyError(error.reference, error.what, next=error.next)
        if trouble.now == UNCHANGED:
            trouble.now = f"v{plan.back.destination} receives the traffic. No item was changed."
        return RevertResult(plan.migration, trouble=trouble)
    return RevertResult(plan.migration, step=step)


def store_review(target: Target, plan: SchemaRollbackPlan, approval: Approval, incident: str = "") -> str:
    """Store when the incident is reviewed. AWS: ssm:PutParameter, writes; a failure is in the sentence."""
    versions = ", ".join(plan.back.away_from) or plan.back.destination
    return incident_review.store_review_date(target, plan.review, versions, by=approval.by, incident=incident)


def raise_for_unreverted(reverted: RevertResult) -> None:
    """The last cell: raise the migration's error, if there is one."""
    if reverted.trouble is not None:
        raise reverted.trouble
