"""A table that a version corrupts, for tests: what it did, and what people did meanwhile."""

import json
from typing import Any

from buddy_ops.incidents import containment, repair
from buddy_sandbox import builds, reminders
from buddy_sandbox.faults import PROFILES
from tests.conftest import Situation

NAME = "buddy-reminders-sandbox"
QUIET = {"requests_per_minute": 0, "history_minutes": 10}
Items = dict[str, dict[str, Any]]


def table(here: Situation, name: str = NAME) -> Items:
    """All items of a table by their reminder's name."""
    pages = here.client("dynamodb").get_paginator("scan").paginate(TableName=name, ConsistentRead=True)
    return {each["reminder_id"]["S"]: each for page in pages for each in page["Items"]}


def put(here: Situation, items: list[dict[str, Any]]) -> None:
    for first in range(0, len(items), 25):
        requests = [{"PutRequest": {"Item": item}} for item in items[first : first + 25]]
        here.client("dynamodb").batch_write_item(RequestItems={NAME: requests})


def delete(here: Situation, item: dict[str, Any]) -> None:
    key = {name: item[name] for name in ("user_id", "reminder_id")}
    here.client("dynamodb").delete_item(TableName=NAME, Key=key)


def corrupting(here: Situation) -> None:
    """Version 2, which corrupts, is live after version 1."""
    lam = here.client("lambda")
    lam.update_function_code(FunctionName=here.function, ZipFile=builds.build(PROFILES["corrupting"], "2.0.0"))
    here.ask("advance", seconds=60)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=60)
    record = {"v": 1, "run": "5eed", "from": "1", "to": "2", "stage": "proved", "since": "2026-11-02T00:00Z"}
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2", Description=json.dumps(record))


def later(here: Situation, item: dict[str, Any], version: str, **changes: str) -> dict[str, Any]:
    """An item as a version writes it now."""
    said = {name: {"S": value} for name, value in changes.items()}
    return item | said | {"written_by": {"S": version}, "written_at": {"N": str(int(here.ask("clock")["now"]))}}


def damage(here: Situation, *names: str) -> None:
    """Let version 2 damage items; time goes on until the second before it can be restored."""
    items = table(here)
    put(here, [reminders.damaged(later(here, items[each], "2")) for each in names])
    here.ask("advance", seconds=600)


def isolated(here: Situation) -> bool:
    reserved = here.client("lambda").get_function_concurrency(FunctionName=here.function)
    return bool(reserved.get("ReservedConcurrentExecutions") == 0)


def parameters(here: Situation, kind: str) -> list[str]:
    found = here.client("ssm").get_parameters_by_path(
        Path=f"/buddy-ops/buddy-alexa-skill-sandbox/live/{kind}", Recursive=True
    )["Parameters"]
    return [str(each["Value"]) for each in found]


def corrupted(here: Situation) -> None:
    """Two of the reminders are damaged, one of which somebody edited; another was edited, one deleted, one created."""
    items = table(here)
    corrupting(here)
    damage(here, "reminder-000001", "reminder-000002")
    put(here, [later(here, table(here)["reminder-000002"], "1", medication="their own")])
    put(here, [later(here, items["reminder-000003"], "1", at="12:34"), reminders.reminder(9000, 1)])
    delete(here, items["reminder-000004"])


def repair_hash(here: Situation) -> str:
    """The hash of the repair that would be planned; the copy that it needs is there afterwards."""
    mine = here.connect("data_corruption", quiet=True)
    try:
        plan = containment.plan_containment(mine)
        containment.restore_table_copy(mine, plan)
        return repair.plan_repair(mine, repair.determine_scope(mine, plan)).hash
    finally:
        mine.close()
