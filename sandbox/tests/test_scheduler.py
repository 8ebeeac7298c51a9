"""EventBridge Scheduler's rules, one test each, through boto3 alone, on the sandbox's clock."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from botocore.exceptions import ClientError

from buddy_sandbox.situations import Situation

UPDATE_ALIAS = "arn:aws:scheduler:::aws-sdk:lambda:updateAlias"
ROLE = "arn:aws:iam::123456789012:role/scheduler"
OFF = {"Mode": "OFF"}


@dataclass
class Account:
    """A sandbox with a function behind an alias, nobody who talks to it, and Scheduler."""

    here: Situation
    scheduler: Any

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.here.ask("clock")["now"], UTC)

    def wait(self, **span: float) -> None:
        """Let virtual time pass."""
        self.here.ask("advance", seconds=timedelta(**span).total_seconds())

    def at(self, zone: str = "UTC", **span: float) -> str:
        """A one-time expression so far from now, as a clock in that zone says it."""
        return f"at({(self.now + timedelta(**span)).astimezone(ZoneInfo(zone)):%Y-%m-%dT%H:%M:%S})"

    def aim(self, description: str = "fired", **more: Any) -> dict[str, Any]:
        """A universal target that leaves its mark in the alias's Description."""
        payload = {"FunctionName": self.here.function, "Name": "live", "Description": description}
        return {"Arn": UPDATE_ALIAS, "RoleArn": ROLE, "Input": json.dumps(payload), **more}

    def failing(self, attempts: int, **more: Any) -> dict[str, Any]:
        """A universal target whose call always fails: there is no such alias."""
        payload = {"FunctionName": self.here.function, "Name": "missing", "Description": "x"}
        policy = {"MaximumRetryAttempts": attempts, "MaximumEventAgeInSeconds": 3600}
        return {"Arn": UPDATE_ALIAS, "RoleArn": ROLE, "Input": json.dumps(payload), "RetryPolicy": policy, **more}

    def create(self, expression: str, name: str = "one", target: dict[str, Any] | None = None, **more: Any) -> Any:
        fields = {"FlexibleTimeWindow": OFF, "Target": target or self.aim(), **more}
        return self.scheduler.create_schedule(Name=name, ScheduleExpression=expression, **fields)

    def update(self, expression: str, name: str = "one", **more: Any) -> Any:
        fields = {"FlexibleTimeWindow": OFF, "Target": self.aim(), **more}
        return self.scheduler.update_schedule(Name=name, ScheduleExpression=expression, **fields)

    def names(self, **which: str) -> list[str]:
        return [each["Name"] for each in self.scheduler.list_schedules(**which)["Schedules"]]

    def mark(self) -> str:
        """What the last schedule that fired left on the alias."""
        return str(self.here.alias().get("Description", ""))

    def fired(self, operation: str = "UpdateAlias") -> list[datetime]:
        """When the sandbox itself made a call, from its own log."""
        log = self.here.ask("calls")["calls"]
        return [
            datetime.fromisoformat(each["at"])
            for each in log
            if each["operation"] == operation and each["app"] == "sandbox"
        ]

    def queue(self) -> str:
        """A queue's ARN."""
        sqs = self.here.client("sqs")
        url = sqs.create_queue(QueueName="letters")["QueueUrl"]
        return str(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def letters(self) -> list[dict[str, Any]]:
        """What lies in the queue."""
        sqs = self.here.client("sqs")
        url = sqs.get_queue_url(QueueName="letters")["QueueUrl"]
        asked = {"QueueUrl": url, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
        return list(sqs.receive_message(**asked).get("Messages", []))


@pytest.fixture
def account(situation: Callable[..., Situation]) -> Account:
    here = situation("good", history_minutes=0, requests_per_minute=0)
    return Account(here, here.client("scheduler"))


def refusal(call: Callable[..., Any], *args: Any, **params: Any) -> tuple[str, int]:
    """The code and status that a call is refused with."""
    with pytest.raises(ClientError) as refused:
        call(*args, **params)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


CONFLICT, MISSING = ("ConflictException", 409), ("ResourceNotFoundException", 404)
INVALID = ("ValidationException", 400)


# Creating, reading, changing


def test_a_name_is_taken_once(account: Account) -> None:
    """Creating a schedule whose name is there already is a conflict, and leaves the first as it is.

    Source: EventBridge Scheduler API reference, CreateSchedule.
    """
    account.create(account.at(hours=1), Description="first")
    assert refusal(account.create, account.at(hours=2), Description="second") == CONFLICT
    assert account.scheduler.get_schedule(Name="one")["Description"] == "first"


@pytest.mark.parametrize("operation", ["get_schedule", "update_schedule", "delete_schedule"])
def test_a_schedule_that_is_not_there_is_not_found(account: Account, operation: str) -> None:
    """Reading, changing and deleting an unknown schedule all answer ResourceNotFoundException.

    Source: EventBridge Scheduler API reference, GetSchedule, UpdateSchedule and DeleteSchedule.
    """
    more = {"ScheduleExpression": account.at(hours=1), "FlexibleTimeWindow": OFF, "Target": account.aim()}
    fields = more if operation == "update_schedule" else {}
    assert refusal(getattr(account.scheduler, operation), Name="nobody", **fields) == MISSING


def test_what_was_written_is_read(account: Account) -> None:
    """GetSchedule answers every field, with its ARN, its group and when it was made and changed.

    Source: EventBridge Scheduler API reference, GetSchedule.
    """
    expression, target = account.at(hours=1), account.aim(RetryPolicy={"MaximumRetryAttempts": 2})
    arn = account.create(expression, target=target, ActionAfterCompletion="DELETE")["ScheduleArn"]
    made = account.now
    account.wait(minutes=1)
    account.update(expression, Target=target)
    found = account.scheduler.get_schedule(Name="one")
    assert found["Arn"] == arn and arn.endswith(":schedule/default/one")
    assert (found["ScheduleExpression"], found["Target"], found["GroupName"]) == (expression, target, "default")
    assert found["State"] == "ENABLED"
    assert (found["CreationDate"], found["LastModificationDate"]) == (made, made + timedelta(minutes=1))


def test_an_update_replaces_every_field(account: Account) -> None:
    """What an UpdateSchedule does not name is gone, and back at its default.

    Source: EventBridge Scheduler API reference, UpdateSchedule: all values are overridden.
    """
    target = account.aim(RetryPolicy={"MaximumRetryAttempts": 2}, DeadLetterConfig={"Arn": account.queue()})
    more = {"ActionAfterCompletion": "DELETE", "Description": "d", "ScheduleExpressionTimezone": "Asia/Tokyo"}
    account.create(account.at(hours=1), target=target, **more)
    account.update(account.at(minutes=10))
    found = account.scheduler.get_schedule(Name="one")
    assert not {"Description", "ScheduleExpressionTimezone"} & set(found)
    assert found.get("ActionAfterCompletion", "NONE") == "NONE"
    assert not {"RetryPolicy", "DeadLetterConfig"} & set(found["Target"])
    account.wait(minutes=12)
    assert account.mark() == "fired" and account.names() == ["one"]


def test_an_update_moves_the_time(account: Account) -> None:
    """A schedule that was pushed out does not fire at its old time.

    Source: EventBridge Scheduler API reference, UpdateSchedule.
    """
    account.create(account.at(minutes=10))
    account.update(account.at(minutes=30))
    account.wait(minutes=20)
    assert account.fired() == []
    account.wait(minutes=12)
    assert len(account.fired()) == 1


def test_a_deleted_schedule_does_not_fire(account: Account) -> None:
    """DeleteSchedule is the end of it.

    Source: EventBridge Scheduler API reference, DeleteSchedule.
    """
    account.create(account.at(minutes=10))
    account.scheduler.delete_schedule(Name="one")
    account.wait(minutes=20)
    assert account.fired() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"ScheduleExpression": "at(tomorrow)"},
        {"ScheduleExpression": "at(2026-13-01T00:00:00)"},
        {"ScheduleExpression": "at(2026-11-02T03:00:00Z)"},
        {"ScheduleExpression": "every minute"},
        {"ScheduleExpressionTimezone": "Mars/Olympus"},
        {"ScheduleExpressionTimezone": "../../etc/passwd"},
    ],
)
def test_an_expression_must_make_sense(account: Account, fields: dict[str, str]) -> None:
    """Times and time zones are validated when a schedule is made.

    Source: EventBridge Scheduler user guide, 'Schedule types'.
    """
    given = {"ScheduleExpression": account.at(hours=1), **fields}
    assert refusal(account.create, given.pop("ScheduleExpression"), **given) == INVALID
    assert account.names() == []


# Firing


@pytest.mark.parametrize("zone", ["", "UTC", "America/New_York", "Asia/Kolkata"])
def test_a_schedule_fires_within_its_minute(account: Account, zone: str) -> None:
    """at() is a time in the given zone, UTC without one; the call comes within the 60 s after it, once.

    Source: EventBridge Scheduler user guide, 'Schedule types': one-time schedules, time zones, 60-second precision.
    """
    account.wait(seconds=60 - account.now.second)
    due = account.now + timedelta(minutes=10)
    more = {"ScheduleExpressionTimezone": zone} if zone else {}
    account.create(account.at(zone or "UTC", minutes=10), **more)
    account.wait(minutes=10)
    account.wait(minutes=1)
    (at,) = account.fired()
    assert due <= at < due + timedelta(minutes=1)
    assert account.mark() == "fired"
    account.wait(hours=25)
    assert len(account.fired()) == 1


def test_nobody_may_rely_on_the_second(account: Account) -> None:
    """Schedules for the same time fire at different seconds of its minute, so that relying on one fails here first.

    Source: EventBridge Scheduler user guide, 'Schedule types': 60-second precision.
    """
    for name in ("one", "two", "three", "four", "five"):
        account.create(account.at(minutes=10), name)
    account.wait(minutes=12)
    assert len({each.second for each in account.fired()}) > 1


def test_an_empty_map_clears_the_weights(account: Account) -> None:
    """A universal target's Input reaches the API as it is: lambda:updateAlias with an empty map takes the weights away.

    Source: EventBridge Scheduler user guide, 'Universal targets'; that the empty map survives is ours to prove on AWS.
    """
    lam, name = account.here.client("lambda"), account.here.function
    lam.update_function_configuration(FunctionName=name, Description="another, so that it is a new version")
    account.wait(minutes=1)
    lam.publish_version(FunctionName=name)
    account.wait(minutes=1)
    lam.update_alias(FunctionName=name, Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.1}})
    payload = {"FunctionName": name, "Name": "live", "RoutingConfig": {"AdditionalVersionWeights": {}}}
    account.create(account.at(minutes=5), target=account.aim() | {"Input": json.dumps(payload)})
    assert "RoutingConfig" in account.here.alias()
    account.wait(minutes=7)
    assert "RoutingConfig" not in account.here.alias()
    assert account.here.alias()["FunctionVersion"] == "1"


@pytest.mark.parametrize(("after", "left"), [("DELETE", []), ("NONE", ["one"])])
def test_a_schedule_is_deleted_after_completion_if_it_says_so(account: Account, after: str, left: list[str]) -> None:
    """ActionAfterCompletion DELETE takes a one-time schedule away once it has fired; NONE leaves it, and it stays silent.

    Source: EventBridge Scheduler user guide, 'Deleting a schedule after completion'.
    """
    account.create(account.at(minutes=5), ActionAfterCompletion=after)
    assert account.names() == ["one"]
    account.wait(minutes=7)
    assert account.names() == left
    account.wait(hours=25)
    assert len(account.fired()) == 1


def test_a_disabled_schedule_is_silent_until_it_is_enabled(account: Account) -> None:
    """A schedule does not fire while DISABLED; enabling one whose time has passed may fire it at once, and does here.

    Source: EventBridge Scheduler user guide, 'Schedule state'.
    """
    expression = account.at(minutes=5)
    account.create(expression, State="DISABLED")
    account.wait(minutes=10)
    assert account.fired() == [] and account.scheduler.get_schedule(Name="one")["State"] == "DISABLED"
    account.update(expression, State="ENABLED")
    account.wait(seconds=1)
    assert len(account.fired()) == 1


def test_a_rate_fires_again_and_again(account: Account) -> None:
    """rate(5 minutes) calls every five minutes until it is deleted.

    Source: EventBridge Scheduler user guide, 'Schedule types': rate-based schedules.
    """
    account.create("rate(5 minutes)")
    account.wait(minutes=21)
    fired = account.fired()
    assert [later - sooner for sooner, later in pairwise(fired)] == [timedelta(minutes=5)] * 3
    account.scheduler.delete_schedule(Name="one")
    account.wait(minutes=21)
    assert len(account.fired()) == 4


# Failing


@pytest.mark.parametrize("attempts", [0, 3])
def test_a_failed_call_is_tried_again_and_then_goes_to_the_dead_letter_queue(account: Account, attempts: int) -> None:
    """After its first call and MaximumRetryAttempts more, the Input lies in the dead-letter queue with the error's name.

    Source: EventBridge Scheduler user guide, 'Configuring a dead-letter queue' and RetryPolicy in the API reference.
    """
    account.queue()
    target = account.failing(attempts, DeadLetterConfig={"Arn": account.queue()})
    account.create(account.at(minutes=5), target=target, ActionAfterCompletion="DELETE")
    account.wait(minutes=30)
    assert len(account.fired()) == 1 + attempts
    (letter,) = account.letters()
    assert letter["Body"] == target["Input"]
    assert letter["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "ResourceNotFoundException"
    # Deleted even so.
    assert account.names() == []


def test_an_event_that_is_too_old_is_not_tried_again(account: Account) -> None:
    """MaximumEventAgeInSeconds ends the retries even when attempts are left.

    Source: EventBridge Scheduler API reference, RetryPolicy.
    """
    target = account.failing(100)
    target["RetryPolicy"]["MaximumEventAgeInSeconds"] = 300
    account.create(account.at(minutes=5), target=target)
    account.wait(minutes=30)
    fired = account.fired()
    assert 1 < len(fired) <= 6 and fired[-1] - fired[0] <= timedelta(seconds=300)


def test_a_retry_that_succeeds_is_the_end_of_it(account: Account) -> None:
    """Once the call works, nothing is retried and nothing reaches the dead-letter queue.

    Source: EventBridge Scheduler user guide, 'Retry policy'.
    """
    target = account.failing(10, DeadLetterConfig={"Arn": account.queue()})
    account.create(account.at(minutes=5), target=target)
    account.wait(minutes=8)
    failed = len(account.fired())
    account.here.client("lambda").create_alias(FunctionName=account.here.function, Name="missing", FunctionVersion="1")
    account.wait(minutes=30)
    assert 0 < failed < 10 and len(account.fired()) == failed + 1
    assert account.letters() == []


def test_a_dead_letter_queue_that_is_not_there_loses_the_event_only(account: Account) -> None:
    """The queue is not validated; without it the event is lost, and the schedule ends as any other.

    Source: EventBridge Scheduler user guide, 'Configuring a dead-letter queue'.
    """
    missing = {"Arn": "arn:aws:sqs:us-east-1:123456789012:nowhere"}
    account.create(
        account.at(minutes=5), target=account.failing(0, DeadLetterConfig=missing), ActionAfterCompletion="DELETE"
    )
    account.create(account.at(minutes=9), "later")
    account.wait(minutes=20)
    assert account.names() == ["later"] and account.mark() == "fired"


# Targets


@pytest.mark.parametrize(
    "action",
    [
        *("lambda:getAlias", "dynamodb:describeTable", "s3:listBuckets", "sqs:receiveMessage", "dynamodb:scan"),
        *("dynamodb:query", "s3:selectObjectContent", "logs:searchLogs", "cloudtrail:lookupEvents"),
        *("servicediscovery:discoverInstances", "swf:pollForActivityTask", "qldb:readBlock", "events:validateX"),
        *("dynamodb:batchGetItem", "dynamodb:transactGetItems", "bedrockruntime:invokeModel"),
    ],
)
def test_an_action_that_only_reads_cannot_be_a_target(account: Account, action: str) -> None:
    """Read-only actions are refused when the schedule is made.

    Source: EventBridge Scheduler user guide, 'Universal targets': unsupported actions.
    """
    target = account.aim() | {"Arn": f"arn:aws:scheduler:::aws-sdk:{action}"}
    assert refusal(account.create, account.at(hours=1), target=target) == INVALID


@pytest.mark.parametrize("payload", ["{}", '{"Nonsense": 1}', "not JSON"])
def test_the_input_is_not_validated_when_a_schedule_is_made(account: Account, payload: str) -> None:
    """Whatever the Input says, the schedule is taken; it shows only when the call fails, and stops nothing else.

    Source: EventBridge Scheduler user guide, 'Universal targets': the service does not validate the parameters.
    """
    policy = {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
    account.create(account.at(minutes=5), "wrong", account.aim() | {"Input": payload, "RetryPolicy": policy})
    account.create(account.at(minutes=9), "right")
    account.wait(minutes=12)
    assert account.mark() == "fired"


def test_a_queue_can_be_a_target(account: Account) -> None:
    """A templated target gets the Input as its message.

    Source: EventBridge Scheduler user guide, 'Templated targets'.
    """
    account.create(account.at(minutes=5), target={"Arn": account.queue(), "RoleArn": ROLE, "Input": "time to go"})
    account.wait(minutes=7)
    assert [each["Body"] for each in account.letters()] == ["time to go"]


# Groups


def test_groups_keep_names_apart(account: Account) -> None:
    """The same name may be in two groups; listing, reading and deleting look into the group that is named.

    Source: EventBridge Scheduler user guide, 'Managing a schedule group'.
    """
    account.scheduler.create_schedule_group(Name="buddy")
    account.create(account.at(hours=1), Description="default's")
    account.create(account.at(hours=1), GroupName="buddy", Description="buddy's")
    assert account.scheduler.get_schedule(Name="one")["Description"] == "default's"
    assert account.scheduler.get_schedule(Name="one", GroupName="buddy")["Description"] == "buddy's"
    assert account.names() == ["one", "one"] and account.names(GroupName="buddy") == ["one"]
    account.scheduler.delete_schedule(Name="one", GroupName="buddy")
    assert account.names(GroupName="buddy") == [] and account.names() == ["one"]


def test_a_group_must_be_there(account: Account) -> None:
    """A schedule in an unknown group is refused; a group is made once.

    Source: EventBridge Scheduler API reference, CreateSchedule and CreateScheduleGroup.
    """
    assert refusal(account.create, account.at(hours=1), GroupName="buddy") == MISSING
    assert refusal(account.scheduler.get_schedule_group, Name="buddy") == MISSING
    account.scheduler.create_schedule_group(Name="buddy")
    assert account.scheduler.get_schedule_group(Name="buddy")["State"] == "ACTIVE"
    assert refusal(account.scheduler.create_schedule_group, Name="buddy") == CONFLICT


def test_lists_come_in_pages(account: Account) -> None:
    """MaxResults cuts the list, and NextToken goes on where it was cut; NamePrefix chooses.

    Source: EventBridge Scheduler API reference, ListSchedules.
    """
    for number in range(5):
        account.create(account.at(hours=1), f"s{number}")
    account.create(account.at(hours=1), "other")
    pages = account.scheduler.get_paginator("list_schedules").paginate(NamePrefix="s", PaginationConfig={"PageSize": 2})
    found = [[each["Name"] for each in page["Schedules"]] for page in pages]
    assert found == [["s0", "s1"], ["s2", "s3"], ["s4"]]
