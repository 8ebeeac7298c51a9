"""Isolation: stop the function, or its writes, and restore the settings of before.

Two ways: concurrency 0 (no request is served), or a table policy that denies writes to the function's role (reads
still work). The settings of before are stored in SSM before anything is changed, so that another machine can restore
them after a killed run.
"""

import json
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from buddy_ops.aws import versions
from buddy_ops.aws._parameter_names import parameter_name, readable_names
from buddy_ops.aws._settling import read_settled
from buddy_ops.aws.errors import parse_member
from buddy_ops.aws.session import Target
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AlreadyExists, AwsFailed, BuddyError, NotFound, Throttled
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import date_and_time, parse_utc

if TYPE_CHECKING:
    from types_boto3_ssm.type_defs import ParameterTypeDef

How = Literal["function", "writes"]
Statement = Mapping[str, object]
WAYS: Mapping[How, str] = {
    "function": "Isolation by concurrency 0",
    "writes": "Isolation by denying writes",
}
PATIENCE = timedelta(minutes=1)
"""For how long an isolation is tried on while AWS throttles it or cannot be reached."""

PAUSE = timedelta(seconds=3)
"""How far apart these tries are."""

MEMORY = "isolation"
"""The parameter with the settings of before."""

STATEMENT = "BuddyOpsIsolation"
# Statements of PartiQL have actions of their own. A transaction is checked as the writes in it.
# Source: DynamoDB developer guide, "IAM security policies with PartiQL", "Using IAM with DynamoDB transactions".
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

    A table's policy needs no ``before``: our statement has a name, so that it alone is removed. ``also`` is the other
    way where it was tried first and may have taken effect: both are undone.

    Attributes:
        by: the name of the caller, as AWS has it; empty in what earlier releases stored.
    """

    how: How
    table: str
    before: int | None
    run: str
    since: str
    also: How | None = None
    by: str = ""

    def __str__(self) -> str:
        what = "the function's concurrency is 0"
        if self.how == "writes":
            what = f"{self.table} denies writes to the function's role"
        return f"isolated since {date_and_time(parse_utc(self.since))} by {self.who}: {what}"

    @property
    def who(self) -> str:
        """The caller and the run."""
        if not self.by:
            return f"run {self.run}"
        return f"{self.by} (run {self.run})"


def read_isolation(target: Target) -> Isolation | None:
    """The current isolation, or None. AWS: ssm:GetParameter, reads only.

    Raises:
        BuddyError: ``isolation-unreadable``.
    """
    for name in readable_names(target, MEMORY):
        with suppress(NotFound):
            return _decode(name, str(target.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]))
    return None


def select_isolation(parameters: "Sequence[ParameterTypeDef]") -> Isolation | None:
    """The isolation in some parameters of a target. Raises as ``read_isolation``."""
    if not parameters:
        return None
    return _decode(parameters[0]["Name"], parameters[0]["Value"])


def _decode(name: str, text: str) -> Isolation:
    """An isolation from its parameter. Raises BuddyError ``isolation-unreadable``."""
    try:
        isolation = Isolation(**parse_json(text, unique=True))
        parse_utc(isolation.since)
        known = isolation.how in get_args(How) and isolation.also in (None, *get_args(How))
        if known and isinstance(isolation.before, int | None) and isinstance(isolation.by, str):
            return isolation
    except (ValueError, TypeError):
        pass
    raise BuddyError(
        "isolation-unreadable",
        f"{name} was not written by Buddy Ops.",
        now="Nothing was changed. Whether the function is isolated is unknown.",
        next="Read it with `aws ssm get-parameter`, set the function's concurrency manually, and delete the parameter.",
    )


def isolate(target: Target, how: How, table: str) -> Isolation:
    """Isolate the function, or repeat the current isolation. The settings of before are stored first.

    AWS: ssm:GetParameter, lambda:GetFunctionConcurrency or GetFunctionConfiguration, dynamodb:DescribeTable,
    GetResourcePolicy (read); ssm:PutParameter without overwriting, then lambda:PutFunctionConcurrency or
    dynamodb:PutResourcePolicy (write).
    """
    # What is stored already has the settings of before: to read them now would store a concurrency of 0.
    isolation = read_isolation(target) or _remember(target, how, table)
    while True:
        _apply(target, isolation)
        stored = read_settled(target, partial(read_isolation, target), partial(operator.eq, isolation))
        if stored == isolation:
            break
        # Another run removed it between our read and our write: the settings of before are stored again.
        isolation = stored or _store(target, isolation)
    target.journal.append("isolated", how=isolation.how, table=isolation.table, before=isolation.before)
    return isolation


@dataclass(frozen=True)
class IsolationOutcome:
    """Whether something is isolated, and why a way was not taken.

    Attributes:
        isolation: what is isolated; None: AWS refused both ways.
        refused: what AWS said to each way that it refused, a sentence each.
        failure: the first failure, where nothing is isolated.
    """

    isolation: Isolation | None
    refused: tuple[str, ...] = ()
    failure: BuddyError | None = None


def isolate_either_way(target: Target, how: How, table: str) -> IsolationOutcome:
    """Isolate in one way, or in the other where AWS refuses the first. A passing failure is tried on for ``PATIENCE``.

    AWS: as ``isolate``, and ssm:PutParameter with overwriting or DeleteParameter after a refusal.
    """
    deadline = target.clock.now() + PATIENCE
    while True:
        failures: list[BuddyError] = []
        refused: list[str] = []
        for attempt in (partial(isolate, target, how, table), partial(_isolate_instead, target, failures)):
            try:
                return IsolationOutcome(attempt(), tuple(refused))
            except BuddyError as failure:
                failures.append(failure)
                refused.append(f"{WAYS[_stored_way(target) or how]} failed. {failure.what}")
            if _stored_way(target) is None:
                # What was set before could not be stored, so nothing may be changed.
                break
        passing = any(isinstance(failure, AwsFailed) and failure.passing for failure in failures)
        if passing and target.clock.now() < deadline:
            target.clock.sleep_until(target.clock.now() + PAUSE)
            continue
        if not passing:
            _forget_refused(target)
        return IsolationOutcome(None, tuple(refused), failures[0])


def provisioned_concurrency(target: Target) -> int:
    """How much provisioned concurrency the function has on all its versions and aliases: AWS reserves no less.

    AWS: lambda:ListProvisionedConcurrencyConfigs, every page, reads only.
    """
    pages = target.client("lambda").get_paginator("list_provisioned_concurrency_configs")
    found = pages.paginate(FunctionName=target.settings.function)
    return sum(
        config.get("RequestedProvisionedConcurrentExecutions", 0)
        for page in found
        for config in page.get("ProvisionedConcurrencyConfigs", [])
    )


def _stored_way(target: Target) -> How | None:
    with suppress(BuddyError):
        stored = read_isolation(target)
        return stored.how if stored else None
    return None


def _isolate_instead(target: Target, failures: Sequence[BuddyError]) -> Isolation:
    """Isolate in the other way than the stored isolation, which failed. The stored concurrency of before is kept."""
    failed = read_isolation(target)
    if failed is None:
        raise NotFound("not-found", "No isolation is stored.", next="Run this again.", code="ParameterNotFound")
    how: How = "writes" if failed.how == "function" else "function"
    before = failed.before
    if how == "function" and failed.also != "function":
        before = read_concurrency(target)
    # A call without an answer may have taken effect: then both ways are undone in the end.
    failure = failures[-1]
    uncertain = isinstance(failure, AwsFailed) and failure.passing and not isinstance(failure, Throttled)
    also = failed.how if uncertain or failed.also == failed.how else None
    isolation = replace(failed, how=how, before=before, also=also)
    _store(target, isolation, overwrite=True)
    _apply(target, isolation)
    target.journal.append("isolated", how=how, table=isolation.table, before=before)
    return isolation


def _forget_refused(target: Target) -> None:
    """Delete the stored settings of an isolation that AWS refused in both ways, if nothing is isolated."""
    with suppress(BuddyError):
        stored = read_isolation(target)
        if stored is not None and stored.run == target.run:
            _forget(target)


def _forget(target: Target) -> None:
    """Delete the stored settings. AWS: ssm:DeleteParameter, writes."""
    for name in readable_names(target, MEMORY):
        with suppress(NotFound):
            target.client("ssm").delete_parameter(Name=name)


def _apply(target: Target, isolation: Isolation) -> None:
    if isolation.how == "function":
        _set_concurrency(target, 0)
        return
    policy = _read_policy(target, isolation.table)
    ours = {
        "Sid": STATEMENT,
        "Effect": "Deny",
        "Principal": {"AWS": versions.read_version(target).role},
        "Action": list(DENIED),
        "Resource": policy.arn,
    }
    _put_statements(target, policy, [*policy.others, ours])


def remove_isolation(target: Target) -> str:
    """Restore the settings of before the isolation; what was done, in a sentence. AWS: as ``isolate``, and deletes.

    The stored settings are deleted last, so that a run after a kill can restore them again.
    """
    isolation = read_isolation(target)
    if isolation is None:
        return "Nothing was isolated."
    before = isolation.before
    message = _undo(target, isolation)
    if isolation.also is not None:
        try:
            _undo(target, replace(isolation, how=isolation.also))
        except AwsFailed as failure:
            # It failed when it was tried, most probably without an effect.
            message += f" {WAYS[isolation.also]}, which failed, could not be undone. {failure.what}"
    _forget(target)
    target.journal.append("released", how=isolation.how, before=before)
    # A policy is still read as it was for some seconds: that is no isolation by another run.
    if read_settled(target, partial(_is_active, target, isolation), operator.not_):
        _store(target, isolation)
        message += " Another run isolated it again meanwhile; that isolation is still active."
    return message


def _undo(target: Target, isolation: Isolation) -> str:
    """Restore what one way changed; what was done, in a sentence."""
    before = isolation.before
    if isolation.how == "writes":
        policy = _read_policy(target, isolation.table)
        _put_statements(target, policy, policy.others)
        return f"{isolation.table} can be written again."
    if before is None:
        target.client("lambda").delete_function_concurrency(FunctionName=target.settings.function)
        return "The function runs again, without reserved concurrency as before."
    _set_concurrency(target, before)
    message = f"The function's reserved concurrency is {before} again, as before."
    if before == 0:
        message += " It was turned off before the isolation: `aws lambda delete-function-concurrency` turns it on."
    return message


def _is_active(target: Target, isolation: Isolation) -> bool:
    """Whether another run, which still read the parameter, isolated it after the settings of before were restored."""
    if isolation.how == "function":
        return isolation.before != 0 and read_concurrency(target) == 0
    policy = _read_policy(target, isolation.table)
    return policy.others != policy.statements


def _remember(target: Target, how: How, table: str) -> Isolation:
    before = None
    if how == "function":
        before = read_concurrency(target)
    since = iso_utc(target.clock.now())
    by = ""
    with suppress(BuddyError):  # stopping the damage does not depend on STS
        by = target.principal.rpartition("/")[2]
    isolation = _store(target, Isolation(how=how, table=table, before=before, run=target.run, since=since, by=by))
    if isolation.before == 0:
        now = read_concurrency(target)
        if now != 0:
            # The 0 was that of another isolation, which was removed before this one was stored.
            isolation = _store(target, replace(isolation, before=now), overwrite=True)
    return isolation


def _store(target: Target, isolation: Isolation, overwrite: bool = False) -> Isolation:
    """Store it, unless there is one already, which holds the settings of before; the one that is stored.

    The stored one may be this run's own: a first attempt that took effect without an answer.
    """
    # A record without ``also`` can be read by earlier releases.
    value = json.dumps({name: value for name, value in asdict(isolation).items() if name != "also" or value})
    try:
        target.client("ssm").put_parameter(
            Name=parameter_name(target, MEMORY), Value=value, Type="String", Overwrite=overwrite
        )
    except AlreadyExists:
        return read_settled(target, partial(read_isolation, target), bool) or isolation
    return isolation


def read_concurrency(target: Target) -> int | None:
    """The function's reserved concurrency; None for none. AWS: lambda:GetFunctionConcurrency, reads only."""
    reply = target.client("lambda").get_function_concurrency(FunctionName=target.settings.function)
    return reply.get("ReservedConcurrentExecutions")


def _set_concurrency(target: Target, reserved: int) -> None:
    target.client("lambda").put_function_concurrency(
        FunctionName=target.settings.function, ReservedConcurrentExecutions=reserved
    )


@dataclass(frozen=True)
class _TablePolicy:
    """A table's resource policy, an empty ``document`` if it has none, and the revision that guards a change."""

    arn: str
    document: Mapping[str, Any]
    revision: str

    @property
    def statements(self) -> list[Statement]:
        return list(self.document.get("Statement", []))

    @property
    def others(self) -> list[Statement]:
        """The statements that are not ours."""
        return [statement for statement in self.statements if statement.get("Sid") != STATEMENT]


def _read_policy(target: Target, table: str) -> _TablePolicy:
    arn = target.client("dynamodb").describe_table(TableName=table)["Table"]["TableArn"]
    try:
        reply = target.client("dynamodb").get_resource_policy(ResourceArn=arn)
    except NotFound:
        # AWS's word for a policy that must not exist yet when ours is written. Source: DynamoDB API reference,
        # PutResourcePolicy, ExpectedRevisionId.
        return _TablePolicy(arn, {}, "NO_POLICY")
    document = parse_member(reply["Policy"], "dynamodb:get_resource_policy", target.region)
    return _TablePolicy(arn, document, reply["RevisionId"])


def _put_statements(target: Target, policy: _TablePolicy, statements: list[Statement]) -> None:
    if statements == policy.statements:
        return
    client = target.client("dynamodb")
    if not statements:
        client.delete_resource_policy(ResourceArn=policy.arn, ExpectedRevisionId=policy.revision)
        return
    # The policy's own version and Id win, where it has some.
    document = json.dumps({"Version": "2012-10-17", **policy.document, "Statement": statements})
    client.put_resource_policy(ResourceArn=policy.arn, ExpectedRevisionId=policy.revision, Policy=document)
