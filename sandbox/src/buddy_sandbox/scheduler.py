"""EventBridge Scheduler that executes: at() and rate(), universal targets, retries, dead letters.

Knows Scheduler's rules, and when each schedule is due on the sandbox's clock. Never waits: the world asks ``due`` and
calls ``fire``.
"""

import json
import re
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from botocore import xform_name

from buddy_sandbox import roles
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.wire import AwsError, Params, Service

TRUSTED = "scheduler.amazonaws.com"
READS = (
    *("get", "describe", "list", "poll", "receive", "search", "scan"),
    *("query", "select", "read", "lookup", "discover", "validate"),
    *("batchGet", "transactGet", "invokeModel"),
)
"""Actions beginning so cannot be universal targets. Source: EventBridge Scheduler user guide, 'Unsupported actions'."""
RETRY_S = 60.0
UNITS_S = {"minute": 60, "hour": 3600, "day": 86400}


@dataclass
class Schedule:
    """A schedule as it was last written. ``fires_at`` is None once it has nothing more to do."""

    group: str
    name: str
    fields: Params
    created: float
    changed: float
    fires_at: float | None
    due_since: float | None = None
    attempts: int = 0


class Scheduler(Service):
    """Scheduler's API and its clockwork.

    Args:
        now: virtual epoch seconds.
        invoke: calls (service, operation, parameters) against the sandbox; raises whatever the SDK raises.
        region: of the ARNs.
        account: of the ARNs.
    """

    name = "scheduler"

    def __init__(
        self,
        now: Callable[[], float],
        invoke: Callable[[str, str, Params], Any],
        region: str = "us-east-1",
        account: str = ACCOUNT,
    ) -> None:
        super().__init__()
        self._now, self._invoke = now, invoke
        self._place = f"{region}:{account}"
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget every schedule."""
        self._schedules: dict[tuple[str, str], Schedule] = {}
        self._groups = {"default"}

    # The API.

    def create_schedule(self, params: Params) -> Params:
        with self._lock:
            key = self._key(params)
            if key in self._schedules:
                raise AwsError("ConflictException", f"Schedule {key[1]} already exists.")
            self._schedules[key] = self._schedule(key, params, self._now())
            return {"ScheduleArn": self._arn(key)}

    def update_schedule(self, params: Params) -> Params:
        with self._lock:
            old = self._find(params)
            key = (old.group, old.name)
            self._schedules[key] = self._schedule(key, params, old.created)
            return {"ScheduleArn": self._arn(key)}

    def get_schedule(self, params: Params) -> Params:
        with self._lock:
            found = self._find(params)
        return {**self._shown(found), **{k: v for k, v in found.fields.items() if k != "ClientToken"}}

    def delete_schedule(self, params: Params) -> None:
        with self._lock:
            found = self._find(params)
            del self._schedules[found.group, found.name]

    def list_schedules(self, params: Params) -> Params:
        with self._lock:
            found = [
                each
                for key, each in sorted(self._schedules.items())
                if params.get("GroupName", key[0]) == key[0] and each.name.startswith(params.get("NamePrefix", ""))
            ]
        start, size = int(params.get("NextToken", 0)), params.get("MaxResults", 100)
        shown = [{**self._shown(each), "Target": {"Arn": each.fields["Target"]["Arn"]}} for each in found]
        more = {"NextToken": str(start + size)} if start + size < len(shown) else {}
        return {"Schedules": shown[start : start + size], **more}

    def create_schedule_group(self, params: Params) -> Params:
        with self._lock:
            if params["Name"] in self._groups:
                raise AwsError("ConflictException", f"Schedule group {params['Name']} already exists.")
            self._groups.add(params["Name"])
        return {"ScheduleGroupArn": f"arn:aws:scheduler:{self._place}:schedule-group/{params['Name']}"}

    def get_schedule_group(self, params: Params) -> Params:
        if params["Name"] not in self._groups:
            raise AwsError("ResourceNotFoundException", f"Schedule group {params['Name']} does not exist.")
        return {"Name": params["Name"], "State": "ACTIVE"}

    # The clockwork.

    def next_due(self) -> float | None:
        """When the next schedule fires, epoch seconds."""
        with self._lock:
            times = [each.fires_at for each in self._schedules.values() if each.fires_at is not None]
        return min(times, default=None)

    def fire(self) -> None:
        """Run every schedule that is due now. A call that fails is tried again as its RetryPolicy says."""
        now = self._now()
        with self._lock:
            due = [each for each in self._schedules.values() if each.fires_at is not None and each.fires_at <= now]
        for schedule in sorted(due, key=lambda each: each.fires_at or 0.0):
            self._run(schedule, now)

    def _run(self, schedule: Schedule, now: float) -> None:
        schedule.due_since = schedule.due_since if schedule.due_since is not None else now
        target = schedule.fields["Target"]
        policy = {"MaximumRetryAttempts": 185, "MaximumEventAgeInSeconds": 86400} | target.get("RetryPolicy", {})
        try:
            self._call(target)
        except Exception as failure:
            schedule.attempts += 1
            aged = now + RETRY_S - schedule.due_since > policy["MaximumEventAgeInSeconds"]
            if schedule.attempts <= policy["MaximumRetryAttempts"] and not aged:
                schedule.fires_at = now + RETRY_S
                return
            self._give_up(schedule, failure)
        self._finish(schedule)

    def _call(self, target: Params) -> None:
        arn = target["Arn"]
        if match := re.fullmatch(r"arn:aws[a-z-]*:scheduler:::aws-sdk:([a-z0-9-]+):(\w+)", arn):
            service, action = match.groups()
            _require_allowed(target["RoleArn"], f"{service}:{action}")
            self._invoke(service, xform_name(action), json.loads(target.get("Input", "{}")))
        elif ":lambda:" in arn:
            payload = {"FunctionName": arn, "InvocationType": "Event", "Payload": target.get("Input", "{}").encode()}
            self._invoke("lambda", "invoke", payload)
        elif ":sns:" in arn:
            self._invoke("sns", "publish", {"TopicArn": arn, "Message": target.get("Input", "{}")})
        elif ":sqs:" in arn:
            self._invoke("sqs", "send_message", {"QueueUrl": _queue_url(arn), "MessageBody": target.get("Input", "{}")})
        else:
            raise AwsError("ValidationException", f"the sandbox has no target like {arn}")

    def _give_up(self, schedule: Schedule, failure: Exception) -> None:
        letter = schedule.fields["Target"].get("DeadLetterConfig", {}).get("Arn")
        if letter:
            body = {"QueueUrl": _queue_url(letter), "MessageBody": schedule.fields["Target"].get("Input", "{}")}
            error = {"DataType": "String", "StringValue": type(failure).__name__}
            # A queue that is not there, or that the role may not write, loses the event: nobody is told.
            with suppress(Exception):
                _require_allowed(schedule.fields["Target"]["RoleArn"], "sqs:SendMessage")
                self._invoke("sqs", "send_message", {**body, "MessageAttributes": {"ERROR_CODE": error}})

    def _finish(self, schedule: Schedule) -> None:
        """One-time schedules end, and are deleted if they say so; recurring ones wait for their next turn."""
        with self._lock:
            every = _rate_s(schedule.fields["ScheduleExpression"])
            schedule.attempts, schedule.due_since = 0, None
            schedule.fires_at = None if every is None else self._now() + every
            mine = self._schedules.get((schedule.group, schedule.name))
            once = every is None and schedule.fields.get("ActionAfterCompletion") == "DELETE"
            # It may have been written anew while it ran: then that one stays.
            if once and mine is schedule:
                del self._schedules[schedule.group, schedule.name]

    # Shared steps.

    def _schedule(self, key: tuple[str, str], params: Params, created: float) -> Schedule:
        fields = {name: value for name, value in params.items() if name not in ("Name", "GroupName")}
        match = re.fullmatch(r"arn:aws[a-z-]*:scheduler:::aws-sdk:[^:]+:(\w+)", fields["Target"]["Arn"])
        if match and match.group(1).startswith(READS):
            raise AwsError("ValidationException", f"{match.group(1)} is not supported as a universal target.")
        if fields.get("FlexibleTimeWindow", {}).get("Mode") not in ("OFF", "FLEXIBLE"):
            raise AwsError("ValidationException", "FlexibleTimeWindow must be OFF or FLEXIBLE.")
        fires = _first_fire(fields, key[1], self._now())
        if fields.get("State") == "DISABLED":
            fires = None
        return Schedule(*key, fields, created, self._now(), fires)

    def _key(self, params: Params) -> tuple[str, str]:
        group = params.get("GroupName", "default")
        if group not in self._groups:
            raise AwsError("ResourceNotFoundException", f"Schedule group {group} does not exist.")
        return group, params["Name"]

    def _find(self, params: Params) -> Schedule:
        key = self._key(params)
        if key not in self._schedules:
            raise AwsError("ResourceNotFoundException", f"Schedule {key[1]} does not exist.")
        return self._schedules[key]

    def _shown(self, schedule: Schedule) -> Params:
        moments = {"CreationDate": schedule.created, "LastModificationDate": schedule.changed}
        return {
            "Arn": self._arn((schedule.group, schedule.name)),
            "GroupName": schedule.group,
            "Name": schedule.name,
            "State": schedule.fields.get("State", "ENABLED"),
            **{name: datetime.fromtimestamp(at, UTC) for name, at in moments.items()},
        }

    def _arn(self, key: tuple[str, str]) -> str:
        return f"arn:aws:scheduler:{self._place}:schedule/{key[0]}/{key[1]}"


def _first_fire(fields: Params, name: str, now: float) -> float | None:
    """When a schedule fires first. One-time schedules run somewhere within their minute: 60 s is the precision.

    Source: EventBridge Scheduler user guide, 'Schedule types': one-time schedules, 60-second precision.
    """
    expression = fields["ScheduleExpression"]
    if (every := _rate_s(expression)) is not None:
        return now + every
    match = re.fullmatch(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)", expression)
    try:
        zone = ZoneInfo(fields.get("ScheduleExpressionTimezone") or "UTC")
        at = datetime.fromisoformat(match.group(1)).replace(tzinfo=zone).timestamp() if match else None
    except (ValueError, KeyError):
        at = None
    if at is None:
        raise AwsError("ValidationException", f"Invalid Schedule Expression {expression}.")
    # Deterministic, but not on the dot: who relies on the second will be wrong on AWS.
    late = zlib.crc32(name.encode()) % 60
    return max(at + late, now)


def _rate_s(expression: str) -> float | None:
    match = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    return float(match.group(1)) * UNITS_S[match.group(2)] if match else None


def _require_allowed(arn: str, action: str) -> None:
    """Raise AwsError where a schedule's role does not trust Scheduler, or may not do this.

    A role that does not exist may do everything: many a test names one. AWS refuses to create the schedule then.
    """
    role = roles.find(arn)
    if role is not None and not (roles.trusts_service(role, TRUSTED) and roles.allows(role, action)):
        raise AwsError("AccessDeniedException", f"{arn} is not authorized to perform: {action}")


def _queue_url(arn: str) -> str:
    *_, account, queue = arn.split(":")
    return f"https://queue.amazonaws.com/{account}/{queue}"
