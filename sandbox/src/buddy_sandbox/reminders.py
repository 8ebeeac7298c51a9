"""Buddy's reminders in a situation: a table with items, and what a corrupting version does to them.

Knows the items that the skill writes (``skill/lambda_function.py``). Simulated requests write nothing: what people and
a corrupting version did to the table before a runbook comes is written here.
"""

import random
from typing import Any

from buddy_sandbox.faults import PROFILES
from buddy_sandbox.region import HOME
from buddy_sandbox.world import World

MEDICATIONS = ("aspirin", "ibuprofen", "insulin", "metformin", "ramipril", "simvastatin")
TAKEN_A_MINUTE = 0.02
"""The share of all reminders that people take, and so write, in a minute."""

A_BATCH = 25
Item = dict[str, dict[str, str]]


def table_of(environment: str) -> str:
    """The name of an environment's table."""
    return f"buddy-reminders-{environment}"


def create(world: World, environment: str, count: int, region: str = HOME) -> None:
    """A region's table, recoverable to any second and protected from deletion, with reminders of version 1."""
    name, keys = table_of(environment), {"user_id": "HASH", "reminder_id": "RANGE"}
    world.invoke(
        "dynamodb",
        "create_table",
        {
            "TableName": name,
            "KeySchema": [{"AttributeName": each, "KeyType": kind} for each, kind in keys.items()],
            "AttributeDefinitions": [{"AttributeName": each, "AttributeType": "S"} for each in keys],
            "BillingMode": "PAY_PER_REQUEST",
            "DeletionProtectionEnabled": True,
        },
        region,
    )
    recoverable = {"PointInTimeRecoveryEnabled": True, "RecoveryPeriodInDays": 35}
    change = {"TableName": name, "PointInTimeRecoverySpecification": recoverable}
    world.invoke("dynamodb", "update_continuous_backups", change, region)
    write(world, environment, [reminder(number, int(world.clock.now())) for number in range(count)], region)


def reminder(number: int, at: int, version: str = "1") -> Item:
    """The ``number``-th reminder, as a version of the skill writes it; three belong to each person."""
    return {
        "user_id": {"S": f"amzn1.ask.account.{number // 3:05d}"},
        "reminder_id": {"S": f"reminder-{number:06d}"},
        "medication": {"S": MEDICATIONS[number % len(MEDICATIONS)]},
        "at": {"S": f"{number % 24:02d}:{number * 7 % 60:02d}"},
        "schema_version": {"N": "1"},
        "written_at": {"N": str(at)},
        "written_by": {"S": version},
    }


def corrupt(world: World, environment: str, count: int, minutes: int) -> None:
    """Let people take their medicine for some minutes while a corrupting version 2 notes it down."""
    chance, rate = random.Random(world.seed), PROFILES["corrupting"].corrupt_rate
    for _ in range(minutes):
        world.clock.advance_to(world.clock.now() + 60)
        now = int(world.clock.now())
        taken = [reminder(number, now, "2") for number in chance.sample(range(count), int(count * TAKEN_A_MINUTE))]
        noted = [item | {"taken_at": {"N": str(now)}} for item in taken]
        write(world, environment, [damaged(item) if chance.random() < rate else item for item in noted])


def damaged(item: Item) -> Item:
    """An item as a corrupting build writes it."""
    return item | {"medication": {"S": item["medication"]["S"][::-1]}, "at": {"S": ""}}


def write(world: World, environment: str, items: list[Item], region: str = HOME) -> None:
    """Put items into the table."""
    for first in range(0, len(items), A_BATCH):
        puts: list[Any] = [{"PutRequest": {"Item": item}} for item in items[first : first + A_BATCH]]
        world.invoke("dynamodb", "batch_write_item", {"RequestItems": {table_of(environment): puts}}, region)
