"""The dead-man's switch: schedules outside this machine that take traffic back if nobody renews them.

Knows EventBridge Scheduler. The *lease* stands while weights stand and clears them; the *guard* stands during the
watch after a switch and names the version to return to. Never looks at metrics.

Source: facts measured of Scheduler: one-minute precision; an update replaces every field; the input is not validated
when the schedule is made; changes close to the fire time may still run the old one.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import Conflict, NotFound, Refused

UPDATE_ALIAS = "arn:aws:scheduler:::aws-sdk:lambda:updateAlias"
"""Scheduler's universal target for the one call that a lease makes."""

MARGIN = timedelta(minutes=3)
"""A renewal closer to the fire time than this may come too late."""

MINUTE = timedelta(minutes=1)
PROOF_POLLS = 5
NAME_LIMIT = 64
"""Characters of a schedule's name. Source: EventBridge Scheduler API reference, CreateSchedule."""


@dataclass(frozen=True)
class Failsafe:
    """A schedule that is armed. ``until`` is when it fires unless it is renewed or disarmed."""

    name: str
    until: datetime
    payload: str


class FailsafeMissing(Exception):
    """The schedule is no longer there: it fired, or somebody deleted it. Read the alias again."""


def arm_split(target: Target, run: str = "") -> Failsafe:
    """Arm the lease, or renew one that is there. AWS: scheduler:CreateSchedule or UpdateSchedule, writes.

    Raises:
        AwsFailed: it could not be armed; then no traffic may be split.
    """
    payload = {
        "FunctionName": target.settings.function,
        "Name": target.settings.alias,
        "RoutingConfig": {"AdditionalVersionWeights": {}},
    }
    return _put(target, _name(target, "lease", run), json.dumps(payload))


def arm_switch(target: Target, version: str, revision: str, run: str = "") -> Failsafe:
    """Arm the guard of a switch: it returns the alias to ``version`` if nobody has moved it since ``revision``.

    AWS: scheduler:CreateSchedule or UpdateSchedule, writes.
    """
    payload = {
        "FunctionName": target.settings.function,
        "Name": target.settings.alias,
        "FunctionVersion": version,
        "RoutingConfig": {"AdditionalVersionWeights": {}},
        "RevisionId": revision,
    }
    return _put(target, _name(target, "guard", run), json.dumps(payload))


def needs_renewal(target: Target, lease: Failsafe) -> bool:
    """Whether it is time to renew: under half is left, or little enough that a renewal could come too late."""
    left = lease.until - target.clock.now()
    return left < max(timedelta(minutes=target.settings.lease.minutes) / 2, MARGIN)


def renew(target: Target, lease: Failsafe) -> Failsafe:
    """Push the fire time out. AWS: scheduler:UpdateSchedule, writes every field.

    Raises:
        LeaseGone: it fired, or was deleted.
    """
    fields = _fields(target, lease.name, lease.payload)
    try:
        target.client("scheduler").update_schedule(**fields)
    except NotFound as failure:
        raise FailsafeMissing from failure
    return Failsafe(lease.name, _fires_at(fields), lease.payload)


def disarm(target: Target, which: str, run: str = "") -> bool:
    """Delete the 'lease' or the 'guard'; False if it was gone already. AWS: scheduler:DeleteSchedule, writes."""
    try:
        target.client("scheduler").delete_schedule(
            Name=_name(target, which, run), GroupName=target.settings.lease.group
        )
    except NotFound:
        return False
    return True


def prove_failsafe(target: Target, primary: str, second: str) -> Generator[datetime, None, None]:
    """Let a lease fire at a scratch alias that nobody calls, and see that it clears the weights; yields when to go on.

    Scheduler does not validate a schedule's input when it is made: a role that may not act, or an input that Lambda
    refuses, shows only when it fires.

    AWS: lambda:CreateAlias, scheduler:CreateSchedule, lambda:DeleteAlias, scheduler:DeleteSchedule (write);
    lambda:GetAlias (read).

    Raises:
        Refused: ``lease-unproven``: it did not clear the weights within five minutes.
    """
    function, scratch = target.settings.function, f"{target.settings.alias}-lease-proof"
    where = {"FunctionName": function, "Name": scratch}
    name = _name(target, "proof")
    _forget(target, where, name)
    target.client("lambda").create_alias(
        **where, FunctionVersion=primary, RoutingConfig={"AdditionalVersionWeights": {second: 0.5}}
    )
    try:
        fields = _fields(target, name, json.dumps({**where, "RoutingConfig": {"AdditionalVersionWeights": {}}}))
        fires = target.clock.now() + MINUTE
        target.client("scheduler").create_schedule(**{**fields, "ScheduleExpression": _at(fires)})
        for _ in range(PROOF_POLLS):
            yield target.clock.now() + MINUTE
            if not target.client("lambda").get_alias(**where).get("RoutingConfig"):
                target.journal.append("lease-proved", alias=scratch)
                return
    finally:
        _forget(target, where, name)
    raise Refused(
        "lease-unproven",
        f"A lease armed for {fires:%H:%M} UTC did not clear the weights of the scratch alias {function}:{scratch}.",
        now=f"Nothing was shifted on {target.resource}; the scratch alias is deleted.",
        next="See the dead-letter queue, and whether the scheduler's role may call lambda:UpdateAlias on the function.",
    )


def _forget(target: Target, alias: dict[str, str], schedule: str) -> None:
    """Delete what a proof leaves, also one that was interrupted."""
    deletions = (
        partial(target.client("lambda").delete_alias, **alias),
        partial(target.client("scheduler").delete_schedule, Name=schedule, GroupName=target.settings.lease.group),
    )
    for delete in deletions:
        with suppress(NotFound):
            delete()


def _put(target: Target, name: str, payload: str) -> Failsafe:
    fields = _fields(target, name, payload)
    try:
        target.client("scheduler").create_schedule(**fields)
    except Conflict:
        target.client("scheduler").update_schedule(**fields)
    return Failsafe(name, _fires_at(fields), payload)


def _name(target: Target, which: str, run: str = "") -> str:
    """One schedule for each run: nobody who clears up after one rollout deletes the lease of another."""
    which = f"{which}-{run}" if run else which
    full = f"{target.settings.function}-{target.settings.alias}"
    room = NAME_LIMIT - len(which) - 1
    if len(full) > room:
        # Two long names that begin alike must not share a schedule.
        full = f"{full[: room - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    return f"{full}-{which}"


def _fields(target: Target, name: str, payload: str) -> dict[str, Any]:
    settings = target.settings.lease
    fires = target.clock.now() + timedelta(minutes=settings.minutes)
    role = settings.role_arn or settings.default_role(target.account)
    aim: dict[str, Any] = {
        "Arn": UPDATE_ALIAS,
        "RoleArn": role,
        "Input": payload,
        "RetryPolicy": {"MaximumRetryAttempts": 10, "MaximumEventAgeInSeconds": 900},
    }
    if settings.dead_letter_arn:
        aim["DeadLetterConfig"] = {"Arn": settings.dead_letter_arn}
    return {
        "Name": name,
        "GroupName": settings.group,
        "ScheduleExpression": _at(fires),
        "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": aim,
    }


def _at(moment: datetime) -> str:
    return f"at({moment:%Y-%m-%dT%H:%M:%S})"


def _fires_at(fields: dict[str, Any]) -> datetime:
    return datetime.strptime(fields["ScheduleExpression"] + "+0000", "at(%Y-%m-%dT%H:%M:%S)%z")
