"""The failsafe: an automatic rollback timer outside this machine, on EventBridge Scheduler.

From the first traffic of a new version to its last, a schedule clears the alias's weights unless the run renews it. All
that time the stable version is the alias's primary, even while the new one receives 100 %: as a weight of 1.0. So the
schedule names no version and no RevisionId. It works also on an alias that was edited meanwhile. It changes nothing on
an alias without weights: after the rollout, or when another tool deploys.

Source: facts measured of Scheduler: one-minute precision; an update replaces every field; the input is not validated
when the schedule is made; changes close to the fire time may still run the old one.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from buddy_ops.aws.session import Target
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed, Conflict, NotFound, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import parse_utc

if TYPE_CHECKING:
    from types_boto3_scheduler.type_defs import CreateScheduleInputTypeDef, TargetTypeDef

UPDATE_ALIAS = "scheduler:::aws-sdk:lambda:updateAlias"
"""Scheduler's universal target for the one call that the failsafe makes, without 'arn' and partition.

Source: Universal in aws-cdk's aws-scheduler-targets, which begins it with the partition of the stack.
"""

MARGIN = timedelta(minutes=3)
"""A renewal closer to the fire time than this may come too late."""

IN_NAME = "lease"
"""In the name of the schedule. The names are in AWS: they do not change."""

SETTLED = timedelta(minutes=2)
"""Within this time a run that armed a failsafe has shifted its traffic, or never will: a call takes 40 s at most."""

MINUTE = timedelta(minutes=1)
"""Scheduler's precision."""

PROOF_POLLS = 5
"""After how many minutes a test of the failsafe has failed."""

PROOF_RUN = "proof000"
FAILING_RUN = "fails000"
"""In the names of tests' schedules, where others have a run's id of this length: IAM must allow such names."""

NAME_LIMIT = 64
"""Characters of a schedule's name. Source: EventBridge Scheduler API reference, CreateSchedule."""


@dataclass(frozen=True)
class Failsafe:
    """A schedule. It rolls back at ``until``, unless it is renewed or deleted before."""

    name: str
    until: datetime
    payload: str


class FailsafeMissing(Exception):
    """The schedule does not exist any more: it ran, or was deleted. Read the alias again."""


def arm_split(target: Target, run: str = "") -> Failsafe:
    """Create the failsafe of a run, or renew it. AWS: scheduler:CreateSchedule or UpdateSchedule, writes.

    Raises:
        AwsFailed: it could not be created; then no traffic may be shifted.
    """
    # The empty map clears the weights: a call that leaves RoutingConfig out may keep them.
    payload = {
        "FunctionName": target.settings.function,
        "Name": target.settings.alias,
        "RoutingConfig": {"AdditionalVersionWeights": {}},
    }
    return _put(target, _name(target, IN_NAME, run), json.dumps(payload))


def needs_renewal(target: Target, failsafe: Failsafe) -> bool:
    """Whether less than half of the time is left, or so little that a renewal may come too late."""
    left = failsafe.until - target.clock.now()
    return left < max(timedelta(minutes=target.settings.lease.minutes) / 2, MARGIN)


def renew(target: Target, failsafe: Failsafe) -> Failsafe:
    """Set the time of the rollback later. AWS: scheduler:UpdateSchedule, writes every field.

    Raises:
        FailsafeMissing: it ran, or was deleted.
    """
    renewed = replace(failsafe, until=_next_fire(target))
    try:
        target.client("scheduler").update_schedule(**_fields(target, renewed))
    except NotFound as failure:
        raise FailsafeMissing from failure
    _note_armed(target, renewed)
    return renewed


def read_failsafe(target: Target, run: str) -> Failsafe | None:
    """A run's failsafe as AWS has it; None: it ran, or was deleted. AWS: scheduler:GetSchedule, reads only.

    Raises:
        AwsFailed: it could not be read, or another tool wrote it.
    """
    name = _name(target, IN_NAME, run)
    try:
        schedule = target.client("scheduler").get_schedule(Name=name, GroupName=target.settings.lease.group)
    except NotFound:
        return None
    # Its name can be taken by another tool: a schedule of another form is no failsafe, and is not renewed.
    try:
        until = parse_utc(schedule["ScheduleExpression"].removeprefix("at(").removesuffix(")"))
        return Failsafe(name, until, schedule["Target"]["Input"])
    except (ValueError, KeyError) as error:
        raise AwsFailed(
            "aws-refused",
            f"The schedule {name} was not written by Buddy Ops ({error}).",
            next=f"Read it with `aws scheduler get-schedule --name {name}`.",
            code="malformed",
        ) from None


def renewed_at(target: Target, failsafe: Failsafe) -> datetime:
    """When a failsafe was armed, or renewed last: the last sign of its run."""
    return failsafe.until - timedelta(minutes=target.settings.lease.minutes)


def is_kept(target: Target, failsafe: Failsafe) -> bool:
    """Whether its run still renews a failsafe: it does so each time that half of the time is over."""
    # Two polls may pass until it does, or until AWS takes the call.
    return not needs_renewal(target, replace(failsafe, until=failsafe.until + 2 * MINUTE))


def disarm(target: Target, run: str = "") -> bool:
    """Delete a run's failsafe; False if it does not exist. AWS: scheduler:DeleteSchedule, writes."""
    return _delete(target, _name(target, IN_NAME, run))


def delete_strays(target: Target) -> Generator[datetime, None, None]:
    """Delete the failsafes that lost runs left on this alias, before new traffic is shifted. Yields when to continue.

    One that was armed within ``SETTLED`` may belong to a run that is about to shift. It is deleted later, when that
    run's write would show on the alias: read the alias after this.

    AWS: scheduler:ListSchedules, every page, GetSchedule, reads; scheduler:DeleteSchedule, writes.
    """
    prefix = _name(target, IN_NAME, target.run).removesuffix(target.run)
    pages = target.client("scheduler").get_paginator("list_schedules")
    found = [
        schedule
        for page in pages.paginate(NamePrefix=prefix)
        for schedule in page["Schedules"]
        if schedule["GroupName"] == target.settings.lease.group and _is_own(target, schedule["Name"])
    ]
    # Oldest first: those that are settled are deleted before anything is waited for.
    for schedule in sorted(found, key=lambda schedule: schedule["LastModificationDate"]):
        settled = schedule["LastModificationDate"] + SETTLED
        if settled > target.clock.now():
            yield settled
        _delete(target, schedule["Name"])
        target.journal.append("stray-failsafe-deleted", name=schedule["Name"])


def _is_own(target: Target, name: str) -> bool:
    """Whether a schedule is of this alias: function 'a-b' with alias 'c' has the names of 'a' with alias 'b-c'."""
    try:
        schedule = target.client("scheduler").get_schedule(Name=name, GroupName=target.settings.lease.group)
        given = parse_json(schedule["Target"]["Input"])
        return (given["FunctionName"], given["Name"]) == (target.settings.function, target.settings.alias)
    # It ran meanwhile, or another tool wrote it in another form: neither is to be deleted.
    except (NotFound, KeyError, TypeError, ValueError):
        return False


def prove_failsafe(target: Target, primary: str, second: str) -> Generator[datetime, None, None]:
    """Test the failsafe at a scratch alias without traffic: it must clear the weights. Yields when to continue.

    Scheduler does not validate a schedule's input when it is made: a role that may not act, or an input that Lambda
    refuses, shows only when it runs.

    AWS: lambda:CreateAlias, scheduler:CreateSchedule, lambda:DeleteAlias, scheduler:DeleteSchedule (write);
    lambda:GetAlias (read).

    Raises:
        Refused: ``lease-unproven``: it did not clear the weights within 5 min.
    """
    where = _scratch_alias(target)
    name = _name(target, IN_NAME, PROOF_RUN)
    # A test that was interrupted leaves its alias, and CreateAlias refuses one that exists.
    _forget(target, where, name)
    target.client("lambda").create_alias(
        **where, FunctionVersion=primary, RoutingConfig={"AdditionalVersionWeights": {second: 0.5}}
    )
    try:
        fires = target.clock.now() + MINUTE
        target.client("scheduler").create_schedule(**_fields(target, Failsafe(name, fires, _clearing_weights(where))))
        for _ in range(PROOF_POLLS):
            yield target.clock.now() + MINUTE
            # An alias without weights has no RoutingConfig in AWS's answers, as recorded.
            if not target.client("lambda").get_alias(**where).get("RoutingConfig"):
                target.journal.append("lease-proved", alias=where["Name"])
                return
    finally:
        _forget(target, where, name)
    raise Refused(
        "lease-unproven",
        f"The failsafe test of {fires:%H:%M} UTC did not clear the weights of the scratch alias "
        f"{where['FunctionName']}:{where['Name']}.",
        now=f"No traffic was shifted on {target.resource}. The scratch alias was deleted.",
        next="Check the dead-letter queue, and that the scheduler's role may call lambda:UpdateAlias on the function.",
    )


def forget_proof(target: Target) -> None:
    """Delete what an interrupted test of the failsafe left.

    AWS: lambda:DeleteAlias, scheduler:DeleteSchedule, writes.
    """
    _forget(target, _scratch_alias(target), _name(target, IN_NAME, PROOF_RUN))


def _scratch_alias(target: Target) -> dict[str, str]:
    """The alias that a test of the failsafe acts on, as Lambda's calls name it."""
    return {"FunctionName": target.settings.function, "Name": f"{target.settings.alias}-lease-proof"}


def _clearing_weights(where: dict[str, str]) -> str:
    """The input of a schedule that clears an alias's weights."""
    return json.dumps({**where, "RoutingConfig": {"AdditionalVersionWeights": {}}})


def let_one_fail(target: Target, alias: str) -> str:
    """Create a schedule that fails within two minutes, at an alias that does not exist; its name.

    It is not tried again, so its message goes to the dead-letter queue at once.

    AWS: scheduler:CreateSchedule, writes.
    """
    name = failing_name(target)
    where = {"FunctionName": target.settings.function, "Name": alias}
    at = _on_the_second(target.clock.now() + MINUTE)
    fields = _fields(target, Failsafe(name, at, _clearing_weights(where)))
    fields["Target"]["RetryPolicy"] = {"MaximumRetryAttempts": 0}
    target.client("scheduler").create_schedule(**fields)
    return name


def failing_name(target: Target) -> str:
    """The name of the schedule that ``let_one_fail`` creates."""
    return _name(target, IN_NAME, FAILING_RUN)


def delete_failing(target: Target) -> bool:
    """Delete that schedule; False if it does not exist. AWS: scheduler:DeleteSchedule, writes."""
    return _delete(target, failing_name(target))


def _delete(target: Target, name: str) -> bool:
    try:
        target.client("scheduler").delete_schedule(Name=name, GroupName=target.settings.lease.group)
    except NotFound:
        return False
    return True


def _forget(target: Target, alias: dict[str, str], schedule: str) -> None:
    """Delete what a test leaves, also one that was interrupted."""
    deletions = (
        partial(target.client("lambda").delete_alias, **alias),
        partial(target.client("scheduler").delete_schedule, Name=schedule, GroupName=target.settings.lease.group),
    )
    # Each for itself: a test may have been interrupted between the two.
    for delete in deletions:
        with suppress(NotFound):
            delete()


def _put(target: Target, name: str, payload: str) -> Failsafe:
    failsafe = Failsafe(name, _next_fire(target), payload)
    fields = _fields(target, failsafe)
    # A run that is resumed, and an attempt whose answer was lost, find their own schedule.
    try:
        target.client("scheduler").create_schedule(**fields)
    except Conflict:
        target.client("scheduler").update_schedule(**fields)
    _note_armed(target, failsafe)
    return failsafe


def _note_armed(target: Target, failsafe: Failsafe) -> None:
    """Journal when it rolls back: who stops the run is told that time."""
    target.journal.append("failsafe-armed", name=failsafe.name, until=iso_utc(failsafe.until))


def _name(target: Target, which: str, run: str = "") -> str:
    """One schedule for each run, so that no run deletes the failsafe of another.

    infrastructure.yaml lets the roles write both forms of the name.
    """
    if run:
        which = f"{which}-{run}"
    full = f"{target.settings.function}-{target.settings.alias}"
    if len(full) + 1 + len(which) > NAME_LIMIT:
        # Long names that begin alike must not share a schedule.
        full = f"buddy-ops-{target.environment}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    return f"{full}-{which}"


def schedule_name(target: Target) -> str:
    """The name that a run of this target gives its failsafe."""
    return _name(target, IN_NAME, target.run)


def _next_fire(target: Target) -> datetime:
    """When a failsafe that is made now rolls back, to the second: Scheduler takes no fractions."""
    return _on_the_second(target.clock.now() + timedelta(minutes=target.settings.lease.minutes))


def _on_the_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def _fields(target: Target, failsafe: Failsafe) -> "CreateScheduleInputTypeDef":
    """All fields of a schedule: an update sets those that it does not name to their defaults."""
    settings = target.settings.lease
    role = settings.role_arn or settings.default_role(target.account, target.partition)
    partition = role.split(":")[1]
    call: TargetTypeDef = {
        "Arn": f"arn:{partition}:{UPDATE_ALIAS}",
        "RoleArn": role,
        "Input": failsafe.payload,
        # By default Scheduler tries 185 times within 24 hours, and could clear the weights of a later deployment.
        "RetryPolicy": {"MaximumRetryAttempts": 10, "MaximumEventAgeInSeconds": 900},
    }
    if settings.dead_letter_arn:
        call["DeadLetterConfig"] = {"Arn": settings.dead_letter_arn}
    return {
        "Name": failsafe.name,
        "GroupName": settings.group,
        "ScheduleExpression": f"at({failsafe.until:%Y-%m-%dT%H:%M:%S})",
        "ScheduleExpressionTimezone": "UTC",
        # A window would delay the rollback by up to its length.
        "FlexibleTimeWindow": {"Mode": "OFF"},
        # So a schedule that does not exist has run, also where all its attempts failed.
        "ActionAfterCompletion": "DELETE",
        "Target": call,
    }
