"""What a proof creates in AWS for its time, by fixed names: a later run finds what an interrupted one left."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from buddy_ops.aws import dead_letters, failsafe
from buddy_ops.aws._parameter_names import parameter_name
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, NotFound

MARK_TEXT = "written by doctor --prove"


@dataclass(frozen=True)
class Scratch:
    """The names of what a proof creates.

    Attributes:
        alias: the scratch alias. No caller uses it.
        missing: an alias that never exists: what is tried on it changes nothing.
        alarm: the scratch alarm.
        parameter: a mark in Parameter Store that no role may overwrite, so it stays.
        object_key: the same in the archive's bucket, whose objects no role may delete.
    """

    alias: str
    missing: str
    alarm: str
    parameter: str
    object_key: str


def scratch_of(target: Target) -> Scratch:
    """The names for an environment."""
    alias = f"{target.settings.alias}-prove"
    name = f"buddy-ops-{target.environment}-prove"
    prefix = target.settings.archive.where.removeprefix("s3://").partition("/")[2].strip("/")
    return Scratch(
        alias=alias,
        missing=f"{alias}-missing",
        alarm=name,
        parameter=parameter_name(target, "records", "prove", "write-once"),
        object_key="/".join(filter(None, (prefix, name, "write-once.json"))),
    )


def sweep(target: Target) -> list[str]:
    """Delete everything that a proof created, also one that was interrupted; what could not be deleted, in sentences.

    AWS: lambda:DeleteAlias, scheduler:DeleteSchedule, cloudwatch:DeleteAlarms; sqs:GetQueueUrl, ReceiveMessage,
    DeleteMessage where a dead-letter queue is set. All write.
    """
    scratch = scratch_of(target)
    function = target.settings.function
    deletions: list[tuple[str, Callable[[], object]]] = [
        # The schedules first: they act on the aliases.
        ("the schedule of the failing failsafe", partial(failsafe.delete_failing, target)),
        ("the failsafe's test", partial(failsafe.forget_proof, target)),
        (
            f"the alias {scratch.alias}",
            partial(target.client("lambda").delete_alias, FunctionName=function, Name=scratch.alias),
        ),
        (f"the alarm {scratch.alarm}", partial(target.client("cloudwatch").delete_alarms, AlarmNames=[scratch.alarm])),
    ]
    # The messages last: the schedule that sends them is deleted by then.
    if target.settings.lease.dead_letter_arn:
        deletions.append(
            (
                "messages in the dead-letter queue",
                partial(dead_letters.take_own, target, failsafe.failing_name(target), scratch.missing),
            )
        )
    left = []
    for what, delete in deletions:
        try:
            with suppress(NotFound):
                delete()
        except AwsFailed as failure:
            # What cannot be deleted keeps nothing else from being deleted.
            left.append(f"{what} ({failure.what})")
    return left
