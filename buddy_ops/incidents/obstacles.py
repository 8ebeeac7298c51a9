"""What is known to prevent the repair of corrupted items, before anything is isolated for it."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from buddy_ops.aws import tables
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Refused
from buddy_ops.core.front_end import parameter
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.settings import TableSettings
from buddy_ops.core.text import date_and_time


@dataclass(frozen=True)
class Obstacle:
    """Why no item can be repaired, and what to do about it. ``chosen``: a person decided against a repair."""

    what: str
    next: str
    chosen: bool = False


def find_obstacle(
    target: Target, table: TableSettings, since: datetime, copy: str
) -> tuple[Obstacle | None, tuple[str, ...]]:
    """What is known already to prevent a repair, and what could not be read.

    The isolation makes the function unavailable for the repair: what can fail for good is found before it.

    AWS: dynamodb:DescribeTable, DescribeContinuousBackups, reads only.
    """
    checks = (
        # One after the other: the first that is found is shown, and nothing more is asked of AWS then.
        partial(_require_key, target, table),
        partial(_require_restorable, target, table.name, since),
        partial(tables.is_copy, target, table.name, at=since, name=copy),
    )
    doubts: list[str] = []
    for check in checks:
        try:
            check()
        except BuddyError as error:
            # A throttled call, or an outage, is no reason to give the repair up.
            if not (isinstance(error, AwsFailed) and error.passing):
                return Obstacle(error.what, error.next), tuple(doubts)
            doubts.append(f"whether the items can be repaired is unknown: {error.what}")
    return None, tuple(doubts)


def _require_key(target: Target, table: TableSettings) -> None:
    """Refuse if parameters/ has another key than the table: no item would be found in the copy."""
    told = target.client("dynamodb").describe_table(TableName=table.name)["Table"]
    key = {element["KeyType"]: element["AttributeName"] for element in told["KeySchema"]}
    # DynamoDB lists a key in this sequence, and so do the settings.
    real = tuple(key[kind] for kind in ("HASH", "RANGE") if kind in key)
    if real != table.key:
        raise Refused(
            "invalid-parameters",
            f"The key of {table.name} is {', '.join(real)}. The settings of {target.environment} have "
            f"{', '.join(table.key)}.",
            next=f"Correct key of {table.name} in parameters/{target.environment}.yaml, and run this again to repair "
            "the items.",
        )


def _require_restorable(target: Target, table: str, since: datetime) -> None:
    """Refuse a time before the earliest one that the table can be restored to."""
    earliest, _ = tables.restorable_window(target, table)
    if since < earliest:
        raise Refused(
            "table-unrecoverable",
            f"{table} can be restored from {date_and_time(earliest)} on. The damage began {date_and_time(since)} or "
            "later.",
            next=f"Set {parameter('onset', iso_utc(earliest))}, and run this again: what was damaged after that is "
            "repaired. For what was damaged before it, find a backup (`aws dynamodb list-backups`).",
        )
