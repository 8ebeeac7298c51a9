"""Repair and backfill in items a second against a plain loop of conditional puts, in turn in the same run.

Run it with ``python -m benchmarks.tables``; the ratio is what counts, the rates are this machine's and moto's.
"""

import statistics
import time

import boto3

from buddy_ops.aws import session, tables
from buddy_ops.aws.session import Target
from buddy_ops.aws.tables import Change
from buddy_ops.cli import sandbox
from buddy_ops.core import project
from buddy_ops.core.plan import Approval
from buddy_ops.migrations import schema
from buddy_ops.migrations import steps as migration_steps

ITEMS = 5000
ALONE = 1000
ROUNDS = 5
NAME, KEY = "buddy-reminders-sandbox", ("user_id", "reminder_id")


def main() -> None:
    """Measure in pairs and print the ratios."""
    ratios: dict[str, list[float]] = {"repair": [], "backfill": []}
    for _ in range(ROUNDS):
        with sandbox.running_sandbox() as url:
            quiet = {"reminders": ITEMS, "history_minutes": 0, "requests_per_minute": 0}
            sandbox.call_sandbox(url, "scenario", name="good", overrides=quiet)
            values = project.read_settings("sandbox")[0] | {"aws": {"region": "us-east-1", "endpoint_url": url}}
            here = session.connect("sandbox", "bench", values=values, quiet=True)
            step(here, "expand")
            backfill = rate(ITEMS, lambda: step(here, "backfill"))  # noqa: B023
            changes = [taken(item) for item in everything(here)]
            ours = rate(ITEMS - ALONE, lambda: list(tables.write_item(here, NAME, KEY, changes[ALONE:])))  # noqa: B023
            plain = rate(ALONE, lambda: put_one_by_one(here, changes[:ALONE]))  # noqa: B023
            assert all("taken_at" in item and "at_minutes" in item for item in everything(here))
            here.close()
        ratios["repair"].append(ours / plain)
        ratios["backfill"].append(backfill / plain)
        print(f"items/s: repair {ours:,.0f}, backfill {backfill:,.0f}, a loop of puts {plain:,.0f}")
    for name, found in ratios.items():
        print(f"{name}: median ratio {statistics.median(found):.1f}, {min(found):.1f} to {max(found):.1f} (aim: 5)")


def step(here: Target, name: str) -> None:
    """One step of a migration."""
    plan = migration_steps.plan_step(here, "reminders_at_minutes", name)
    approval = Approval(plan.hash, ("bench",), here.clock.now(), "bench")
    assert migration_steps.run_step(here, plan, approval).tally.left == 0


def everything(here: Target) -> list[tables.Item]:
    """All items but the one that carries the table's schema."""
    found = [item for page, _ in tables.parallel_scan(here, NAME, lambda page: None) for item in page.items]
    return [item for item in found if item[KEY[0]] != {"S": schema.KEY}]


def taken(item: tables.Item) -> Change:
    return Change(item, {**item, "taken_at": {"N": "1"}})


def put_one_by_one(here: Target, changes: list[Change]) -> None:
    """What a script would do: one conditional put after the other."""
    keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench"}
    client = boto3.client("dynamodb", region_name=here.region, endpoint_url=here.endpoint_url, **keys)
    for change in changes:
        assert change.expected is not None
        client.put_item(
            TableName=NAME,
            Item=change.desired,
            ConditionExpression="written_at = :at AND attribute_not_exists(taken_at)",
            ExpressionAttributeValues={":at": change.expected["written_at"]},
        )


def rate(count: int, work: "object") -> float:
    """Items a second."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
