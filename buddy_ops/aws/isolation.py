"""Isolation: stop the function, or its writes, and restore the settings of before.

Two ways: concurrency 0 (no request is served), or a table policy that denies writes to the function's role (reads
still work). The settings of before are stored in SSM before anything is changed, so that another machine can restore
them after a killed run.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from buddy_ops.aws import versions
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AlreadyExists, BuddyError, NotFound
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import date_and_time, parse_utc

How = Literal["function", "writes"]
STATEMENT = "BuddyOpsIsolation"
DENIED = tuple(
    f"dynamodb:{name}"
    for name in (
        *("PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"),
        *("PartiQLInsert", "PartiQLUpdate", "PartiQLDelete"),
    )
)


@dataclass(frozen=True)
class Isolation:
    """What is isolated. ``before`` is the reserved concurrency that the function had, None for none.

    What a table's policy said before needs no memory: ours is one statement with a name, and goes as it came.
    """

    how: How
    table: str
    before: int | None
    run: str
    since: str

    def __str__(self) -> str:
        what = "the function's concurrency is 0"
        if self.how == "writes":
            what = f"{self.table} denies writes to the function's role"
        return f"isolated since {date_and_time(parse_utc(self.since))} by run {self.run}: {what}"


def read_isolation(target: Target) -> Isolation | None:
    """The current isolation, or None. AWS: ssm:GetParameter, reads only.

    Raises:
        BuddyError: ``isolation-unreadable``.
    """
    try:
        text = str(target.client("ssm").get_parameter(Name=_memory(target))["Parameter"]["Value"])
    except NotFound:
        return None
    try:
        known = Isolation(**json.loads(text))
        parse_utc(known.since)
        if known.how in ("function", "writes") and (known.before is None or isinstance(known.before, int)):
            return known
    except (ValueError, TypeError):
        pass
    raise BuddyError(
        "isolation-unreadable",
        f"{_memory(target)} was not written by Buddy Ops.",
        now="Nothing was changed. Whether the function is isolated is unknown.",
        next="Read it with `aws ssm get-parameter`, set the function's concurrency manually, and delete the parameter.",
    )


def isolate(target: Target, how: How, table: str) -> Isolation:
    """Isolate the function, or repeat the current isolation. The settings of before are stored first.

    AWS: ssm:GetParameter, lambda:GetFunctionConcurrency or GetFunctionConfiguration, dynamodb:DescribeTable,
    GetResourcePolicy (read); ssm:PutParameter without overwriting, then lambda:PutFunctionConcurrency or
    dynamodb:PutResourcePolicy (write).
    """
    known = read_isolation(target) or _remember(target, how, table)
    while True:
        _act(target, known)
        standing = read_isolation(target)
        if standing == known:
            break
        # Somebody lifted it between our look and our act: what was there before is remembered again.
        known = standing or _store(target, known)
    target.journal.append("isolated", how=known.how, table=known.table, before=known.before)
    return known


def _act(target: Target, known: Isolation) -> None:
    if known.how == "function":
        target.client("lambda").put_function_concurrency(**_function(target), ReservedConcurrentExecutions=0)
        return
    arn, policy, revision = _policy(target, known.table)
    role = versions.read_version(target).role
    ours = {"Sid": STATEMENT, "Effect": "Deny", "Principal": {"AWS": role}, "Action": list(DENIED), "Resource": arn}
    _put_policy(target, arn, [*_others(policy), ours], policy, revision)


def remove_isolation(target: Target) -> str:
    """Restore the settings of before the isolation; what was done, in a sentence. AWS: as ``isolate``, and deletes.

    The stored settings are deleted last, so that a run after a kill can restore them again.
    """
    known = read_isolation(target)
    if known is None:
        return "Nothing was isolated."
    if known.how == "function" and known.before is None:
        target.client("lambda").delete_function_concurrency(**_function(target))
        told = "The function runs again, without reserved concurrency as before."
    elif known.how == "function" and known.before is not None:
        target.client("lambda").put_function_concurrency(**_function(target), ReservedConcurrentExecutions=known.before)
        told = f"The function's reserved concurrency is {known.before} again, as before."
        if known.before == 0:
            told += " It was turned off before the isolation: `aws lambda delete-function-concurrency` turns it on."
    else:
        arn, policy, revision = _policy(target, known.table)
        _put_policy(target, arn, _others(policy), policy, revision)
        told = f"{known.table} can be written again."
    with suppress(NotFound):
        target.client("ssm").delete_parameter(Name=_memory(target))
    target.journal.append("released", how=known.how, before=known.before)
    if _stands(target, known):
        _store(target, known)
        told += " Another run isolated it again meanwhile; that isolation is still active."
    return told


def _stands(target: Target, known: Isolation) -> bool:
    """Whether somebody who still read the memory isolated it after we gave back what was there before."""
    if known.how == "function":
        return known.before != 0 and _reserved(target) == 0
    _, policy, _ = _policy(target, known.table)
    return len(_others(policy)) < len(policy.get("Statement", []))


def _remember(target: Target, how: How, table: str) -> Isolation:
    before = _reserved(target) if how == "function" else None
    known = _store(target, Isolation(how, table, before, target.run, iso_utc(target.clock.now())))
    if known.before == 0 and (now := _reserved(target)) != 0:
        # We saw the 0 of somebody's isolation, who had lifted it before this was remembered.
        known = _store(target, replace(known, before=now), overwrite=True)
    return known


def _store(target: Target, known: Isolation, overwrite: bool = False) -> Isolation:
    """Keep it, unless somebody was first, or we were and were not told: theirs says what was there before."""
    value = json.dumps(asdict(known))
    try:
        target.client("ssm").put_parameter(Name=_memory(target), Value=value, Type="String", Overwrite=overwrite)
    except AlreadyExists:
        return read_isolation(target) or known
    return known


def _reserved(target: Target) -> int | None:
    told = target.client("lambda").get_function_concurrency(**_function(target))
    return told.get("ReservedConcurrentExecutions")


def _policy(target: Target, table: str) -> tuple[str, dict[str, Any], str]:
    """A table's ARN, its policy (empty if it has none) and the revision to guard a change with."""
    arn = str(target.client("dynamodb").describe_table(TableName=table)["Table"]["TableArn"])
    try:
        reply = target.client("dynamodb").get_resource_policy(ResourceArn=arn)
    except NotFound:
        return arn, {}, "NO_POLICY"
    return arn, json.loads(reply["Policy"]), str(reply["RevisionId"])


def _others(policy: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for each in policy.get("Statement", []) if each.get("Sid") != STATEMENT]


def _put_policy(
    target: Target, arn: str, statements: list[dict[str, Any]], policy: Mapping[str, Any], revision: str
) -> None:
    if statements == policy.get("Statement", []):
        return
    guarded: dict[str, Any] = {"ResourceArn": arn, "ExpectedRevisionId": revision}
    if statements:
        document = json.dumps({"Version": "2012-10-17", **policy, "Statement": statements})
        target.client("dynamodb").put_resource_policy(**guarded, Policy=document)
    else:
        target.client("dynamodb").delete_resource_policy(**guarded)


def _function(target: Target) -> dict[str, str]:
    return {"FunctionName": target.settings.function}


def _memory(target: Target) -> str:
    return f"/buddy/{target.environment}/isolation"
