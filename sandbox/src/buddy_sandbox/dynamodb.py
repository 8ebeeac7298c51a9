"""What moto's DynamoDB lacks: recovery to a point in time, transactions that cost no copy of the table, and speed.

Knows moto's private names, and corrects its classes where they stand. Every write leaves what stood before it in its
table's past; a restore goes back through that, and so does a transaction that is cancelled. Never keeps a second copy
of a table.
"""

import copy
import json
import re
import time
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import md5
from typing import Any, ClassVar, NamedTuple

from moto.core.exceptions import JsonRESTError
from moto.dynamodb import exceptions as refusals
from moto.dynamodb import responses
from moto.dynamodb.comparisons import AttributeValue, ConditionExpressionParser, get_filter_expression
from moto.dynamodb.models import DynamoDBBackend, dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler, DynamoResult

from buddy_sandbox.wire import AwsError, Throttle

LATEST_S = 300.0
"""How far the latest restorable moment lies behind now. Source: API reference, PointInTimeRecoveryDescription."""

RESTORE_S = 480.0
"""Virtual seconds that a restore takes: on AWS minutes for a small table, and longer for a large one."""

TOKEN_S = 600.0
"""For how long a transaction's token is remembered. Source: API reference, TransactWriteItems."""

RECOVERY_DAYS = 35
ITEM_BYTES = 400 * 1024
EXPRESSION_BYTES = 4096
TRANSACTION_BYTES = 4 * 1024 * 1024
"""Source of these limits: DynamoDB developer guide, quotas."""

EXPRESSIONS = (
    "ConditionExpression",
    "FilterExpression",
    "KeyConditionExpression",
    "ProjectionExpression",
    "UpdateExpression",
)
DATA_CALLS = {"GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "Scan"} | {
    *("BatchGetItem", "BatchWriteItem", "TransactGetItems", "TransactWriteItems"),
}
THROTTLED = {
    "ProvisionedThroughputExceededException": (
        "The level of configured provisioned throughput for the table was exceeded. "
        "Consider increasing your provisioning level with the UpdateTable API."
    ),
    "ThrottlingException": (
        "Throughput exceeds the current capacity of your table or index. DynamoDB is automatically scaling your "
        "table or index so please try again shortly."
    ),
}
ANSWERS_ITEMS = {"Items", "Responses"}
DAY_S = 86400.0
PLAIN_UPDATE = re.compile(r"(SET #\w+ = :\w+(?:, #\w+ = :\w+)*)? ?(REMOVE #\w+(?:, #\w+)*)?")
_PREFIX = refusals.ERROR_TYPE_PREFIX


class Tables:
    """How DynamoDB behaves; one object in a process.

    Attributes that may be set at any time, each with AWS's usual value:
        policy_delay_s: virtual seconds for which a changed resource policy is neither read nor enforced yet.
        throttle.for_s: virtual seconds, from when it is set, for which every read and write of items is throttled.
        throttle_code: how it is refused then, a key of ``THROTTLED``.
    """

    policy_delay_s = 0.0
    throttle_code = "ProvisionedThroughputExceededException"

    def __init__(self) -> None:
        self.throttle = Throttle()
        self._policies: dict[str, tuple[float, Any]] = {}

    def reset(self) -> None:
        """Return every attribute to its usual value."""
        self.__dict__.clear()
        self.__init__()  # type: ignore[misc]

    def check(self, operation: str, body: dict[str, Any], region: str, account: str) -> None:
        """Raise AwsError for a call to a region of an account that AWS would refuse and moto does not."""
        if operation in DATA_CALLS and self.throttle.active():
            raise AwsError(self.throttle_code, THROTTLED[self.throttle_code])
        actions = [(kind, act) for part in body.get("TransactItems", ()) for kind, act in part.items()]
        for owner in (body, *(act for _, act in actions)):
            _check_expressions(owner)
        puts = [body] if operation == "PutItem" else [act for kind, act in actions if kind == "Put"]
        batches = body.get("RequestItems", {}).values() if operation == "BatchWriteItem" else ()
        puts += [part["PutRequest"] for batch in batches for part in batch if "PutRequest" in part]
        if any(item_size(put["Item"]) > ITEM_BYTES for put in puts):
            raise AwsError("ValidationException", "Item size has exceeded the maximum allowed size")
        if (
            operation == "TransactWriteItems"
            and sum(_action_size(*each, _backend(region, account)) for each in actions) > TRANSACTION_BYTES
        ):
            raise AwsError("ValidationException", "The aggregate size of the items in the transaction exceeds 4 MB.")

    def remember(self, backend: Any, arn: str) -> None:
        """Keep a table's policy as it is read and enforced for ``policy_delay_s`` from now on."""
        if self.policy_delay_s > 0:
            shown = self.policy(backend, arn)
            self._policies[arn] = (time.time() + self.policy_delay_s, shown)

    def policy(self, backend: Any, arn: str) -> Any:
        """A table's resource policy as it is read and enforced now, or None."""
        until, before = self._policies.get(arn, (0.0, None))
        return before if time.time() < until else backend.resource_policies.get(arn)

    def policies(self, backend: Any) -> dict[str, Any]:
        """The policies that are enforced now, by the table's ARN."""
        ours = [arn for arn in self._policies if arn.split(":")[3] == backend.region_name]
        known = {*backend.resource_policies, *ours}
        return {arn: policy for arn in known if (policy := self.policy(backend, arn)) is not None}


TABLES = Tables()


def item_size(item: dict[str, Any]) -> int:
    """Bytes of an item in DynamoDB's JSON: its attributes' names and values."""
    return sum(len(name.encode()) + DynamoType(value).size() for name, value in item.items())


def _check_expressions(owner: dict[str, Any]) -> None:
    for name in EXPRESSIONS:
        size = len(str(owner.get(name) or "").encode())
        if size > EXPRESSION_BYTES:
            exceeded = f"Expression size has exceeded the maximum allowed size; expression size: {size}"
            raise AwsError("ValidationException", f"Invalid {name}: {exceeded}")


def _action_size(kind: str, act: dict[str, Any], backend: DynamoDBBackend) -> int:
    """Bytes that one action of a transaction counts: the item that it writes, or that it reads."""
    if kind == "Put":
        return item_size(act["Item"])
    stored = None
    if act["TableName"] in backend.tables:
        stored = backend.get_item(act["TableName"], act["Key"])
    size = stored.size() if stored is not None else item_size(act["Key"])
    return size + (item_size(act.get("ExpressionAttributeValues", {})) if kind == "Update" else 0)


class Was(NamedTuple):
    """What stood under a key before a write, if anything."""

    at: float
    hash_key: Any
    range_key: Any
    item: Any


class Tee:
    """Stands where a stream's shard would: every write of a table comes through ``add``."""

    transacting: ClassVar[bool] = False

    def __init__(self, table: Any) -> None:
        self._table = table

    def add(self, old: Any, new: Any) -> None:
        either = old or new
        # moto mutates a live item in place, and hands out a copy of the old one: it can be kept.
        self._table.past.append(Was(time.time(), either.hash_key, either.range_key, old))
        if self._table.shard is not None:
            self._table.shard.add(old, new)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table.shard, name)


class RestoredTable(Table):
    """A table that a restore makes: without streams, TTL, tags, recovery, protection or policy of its source."""

    def __init__(self, name: str, source: Table, at: float) -> None:
        capacity = {key: source.throughput[key] for key in ("ReadCapacityUnits", "WriteCapacityUnits")}
        super().__init__(
            name,
            source.account_id,
            source.region_name,
            schema=copy.deepcopy(source.schema),
            attr=copy.deepcopy(source.attr),
            throughput=capacity,
            billing_mode=source.billing_mode,
            sse_specification=copy.deepcopy(source.sse_specification),
        )
        self.indexes, self.global_indexes = copy.deepcopy((source.indexes, source.global_indexes))
        self.items = copy.deepcopy(as_of(source, at))
        self.restored_from, self.restored_to, self.ready = source.table_arn, at, time.time() + RESTORE_S

    def describe(self, base_key: str = "TableDescription") -> dict[str, Any]:
        told: dict[str, Any] = super().describe(base_key=base_key)
        creating = time.time() < self.ready
        told[base_key]["RestoreSummary"] = {
            "SourceTableArn": self.restored_from,
            "RestoreDateTime": datetime.fromtimestamp(self.restored_to, UTC),
            "RestoreInProgress": creating,
        }
        if creating:
            told[base_key] |= {"TableStatus": "CREATING", "ItemCount": 0}
        return told


def as_of(table: Any, at: float) -> Any:
    """A table's items as they were at a moment, sharing the items themselves with it."""
    items = {key: dict(part) if table.range_key_attr else part for key, part in table.items.items()}
    for was in reversed(table.past):
        if was.at <= at:
            break
        put_back(table, items, was)
    return _as_moto_keeps(table, items)


def put_back(table: Any, items: Any, was: Was) -> None:
    """Take one write back."""
    part, key = (items.setdefault(was.hash_key, {}), was.range_key) if table.range_key_attr else (items, was.hash_key)
    if was.item is None:
        part.pop(key, None)
    else:
        part[key] = was.item


def _as_moto_keeps(table: Any, items: dict[Any, Any]) -> Any:
    kept = type(table.items)(table.items.default_factory)
    kept.update({key: part for key, part in items.items() if part})
    return kept


def _backend(region: str, account: str) -> DynamoDBBackend:
    """What moto keeps of a region of an account."""
    return dynamodb_backends[account][region]


def denied(operation: str, request: bytes, role: str, region: str, account: str) -> str:
    """Which table's resource policy denies a role this call to a region, as AWS says it; '' if none does."""
    body = json.loads(request or b"{}")
    names = [body["TableName"]] if "TableName" in body else list(body.get("RequestItems", ()))
    for arn, policy in TABLES.policies(_backend(region, account)).items():
        for statement in json.loads(policy.policy_doc)["Statement"]:
            actions, who = statement["Action"], statement["Principal"]
            who = who["AWS"] if isinstance(who, dict) else who
            concerns = arn.rsplit("/", 1)[-1] in names and f"dynamodb:{operation}" in actions
            if concerns and statement["Effect"] == "Deny" and (who == "*" or role in who):
                what = f"is not authorized to perform: dynamodb:{operation} on resource: {arn}"
                return f"User: {role} {what} with an explicit deny in a resource-based policy"
    return ""


# What replaces moto's own


def _stream_shard(table: Any) -> Any:
    return Tee(table)


def _keep_shard(table: Any, shard: Any) -> None:
    table.shard = shard
    table.__dict__.setdefault("past", [])


def _deepcopy(table: Any, memo: dict[int, Any]) -> Any:
    if Tee.transacting:
        return table  # moto means to undo a cancelled transaction by it; we undo from the past
    twin = table.__class__.__new__(table.__class__)
    memo[id(table)] = twin
    twin.__dict__.update(copy.deepcopy(table.__dict__, memo))
    return twin


def _all_items(table: Any) -> list[Item]:
    """In the order of the keys; only those of the partition or segment that is being read."""
    one, segments = table.__dict__.get("reading", (None, (None, None)))
    parts = table.items.values() if one is None else [table.items[one]] if one in table.items else []
    items = [item for part in parts for item in (part.values() if table.range_key_attr else (part,))]
    kept = [each for each in items if each.is_within_segment(segments)]
    return sorted(kept, key=lambda each: tuple(key.cast_value for key in (each.hash_key, each.range_key) if key))


def _reading(read: Callable[..., Any]) -> Callable[..., Any]:
    """``Table.query`` or ``Table.scan``, which sorts and compares every item of the table if it is let."""

    def narrowed(table: Any, *args: Any, **fields: Any) -> Any:
        _refuse_unready(table)
        index = fields.get("index_name") or (args[7] if read.__name__ == "query" and len(args) > 7 else None)
        one = args[0] if read.__name__ == "query" and not index else None
        table.reading = (one, fields.get("segments", (None, None)))
        try:
            return read(table, *args, **fields)
        finally:
            del table.reading

    return narrowed


def _refusing(act: Callable[..., Any]) -> Callable[..., Any]:
    def unless_ready(table: Any, *args: Any, **fields: Any) -> Any:
        _refuse_unready(table)
        return act(table, *args, **fields)

    return unless_ready


def _refuse_unready(table: Any) -> None:
    if time.time() < getattr(table, "ready", 0.0):
        raise refusals.ResourceNotFoundException()


def _serialized(handler: Any, result: Any) -> Any:
    """Items as JSON at once: moto's serializer takes 2 ms for each."""
    answer = result.result
    if isinstance(answer, dict) and ANSWERS_ITEMS & answer.keys():
        headers = {"Content-Type": "application/x-amz-json-1.0", **handler.response_headers}
        return 200, headers, json.dumps(answer, default=_plain)
    return _moto_serialized(handler, result)


class _Answer(DynamoResult):
    """A result that keeps moto's own values, since ``_serialized`` writes them down."""

    def __init__(self, result: Any) -> None:
        if isinstance(result, dict) and ANSWERS_ITEMS & result.keys():
            self._result = result
        else:
            super().__init__(result)


class _Reader(ConditionExpressionParser):
    """Reads a condition down to its tree, in which values stand by their names."""

    def _lookup_expression_attribute_value(self, name: str) -> Any:
        return name

    def _make_op_condition(self, node: Any) -> Any:
        return node


@lru_cache(maxsize=256)
def _read(expression: str, names: frozenset[tuple[str, str]]) -> tuple[Any, list[str], list[str]]:
    reader = _Reader(expression, dict(names), {})
    tree = _moto_parse(reader)
    return tree, reader.expr_attr_names_found, reader.expr_attr_values_found


def _parse(parser: Any) -> Any:
    """A condition that was read before is not read again: that takes moto 1 ms, for each item of a transaction."""
    if not parser.condition_expression:
        return _moto_parse(parser)
    names = frozenset((parser.expression_attribute_names or {}).items())
    tree, names_found, values_found = _read(parser.condition_expression, names)
    parser.expr_attr_names_found.extend(names_found)
    parser.expr_attr_values_found.extend(values_found)
    return parser._make_op_condition(tree)


def _make_operand(parser: Any, node: Any) -> Any:
    if node.kind == parser.Kind.EXPRESSION_ATTRIBUTE_VALUE:
        return AttributeValue(parser._lookup_expression_attribute_value(node.text))
    return _moto_make_operand(parser, node)


def _plain(value: Any) -> Any:
    if isinstance(value, DynamoType):
        return {value.type: value.value}
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(repr(value))


def _transact_write_items(backend: Any, transact_items: list[dict[str, Any]]) -> None:
    before = {name: len(table.past) for name, table in backend.tables.items()}
    Tee.transacting = True
    try:
        _moto_transact(backend, transact_items)
    except Exception:
        for name, length in before.items():
            table = backend.tables[name]
            for was in reversed(table.past[length:]):
                put_back(table, table.items, was)
            del table.past[length:]
        raise
    finally:
        Tee.transacting = False


def _transact_once(handler: Any) -> Any:
    """A token that came before is answered as before, and nothing is written twice."""
    token = handler.body.get("ClientRequestToken")
    # The order of an item's attributes says nothing. A binary value is no JSON.
    asked = json.dumps(handler.body["TransactItems"], sort_keys=True, default=repr)
    known = handler.dynamodb_backend.__dict__.setdefault("tokens", {})
    at, before = known.get(token, (0.0, None))
    if token and before is not None and time.time() - at < TOKEN_S:
        if before != asked:
            message = "Request was issued with the same token and different parameters"
            raise JsonRESTError(_PREFIX + "IdempotentParameterMismatchException", message)
        return DynamoResult({})
    answer = _moto_transact_answer(handler)
    known[token] = (time.time(), asked)
    return answer


def _update_item(backend: Any, table_name: str, key: Any, update_expression: str, *args: Any, **fields: Any) -> Any:
    """A plain 'SET #a = :b REMOVE #c' on an item that is there, without the tree that moto makes and walks for each."""
    table, item = backend.get_table(table_name), backend.get_item(table_name, key)
    plain = PLAIN_UPDATE.fullmatch(update_expression or "")
    names, values = (fields.get(f"expression_attribute_{each}") or {} for each in ("names", "values"))
    changed = [names.get(name) for name in re.findall(r"#\w+", update_expression or "")]
    if (
        plain is None
        or item is None
        or args
        or fields.get("attribute_updates")
        or fields.get("expected")
        or set(changed) & {None, *table.table_key_attrs}
    ):
        return _moto_update_item(backend, table_name, key, update_expression, *args, **fields)
    if not get_filter_expression(fields.get("condition_expression"), names, values).expr(item):
        told = fields.get("return_values_on_condition_check_failure") == "ALL_OLD"
        raise refusals.ConditionalCheckFailed(item=item.to_json()["Attributes"] if told else None)
    given = re.findall(r"(#\w+) = (:\w+)", plain[1] or "")
    removed = [names[name] for name in re.findall(r"#\w+", plain[2] or "")]
    replaced = {*(names[name] for name, _ in given), *removed}
    kept = sum(len(name.encode()) + value.size() for name, value in item.attrs.items() if name not in replaced)
    if kept + item_size({names[name]: values[value] for name, value in given}) > ITEM_BYTES:
        raise refusals.ItemSizeToUpdateTooLarge
    old = Item(item.hash_key, item.range_key, attrs={})
    old.attrs.update(item.attrs)
    for name, value in given:
        item.attrs[names[name]] = DynamoType(values[value])
    for name in removed:
        item.attrs.pop(name, None)
    table.stream_shard.add(old, item)
    return item


def _put_resource_policy(backend: Any, resource_arn: str, *args: Any, **fields: Any) -> Any:
    TABLES.remember(backend, resource_arn)
    return _moto_put_policy(backend, resource_arn, *args, **fields)


def _delete_resource_policy(backend: Any, resource_arn: str, *args: Any, **fields: Any) -> Any:
    TABLES.remember(backend, resource_arn)
    return _moto_delete_policy(backend, resource_arn, *args, **fields)


def _get_resource_policy(backend: Any, resource_arn: str) -> Any:
    policy = TABLES.policy(backend, resource_arn)
    if policy is None and resource_arn.rsplit("/", 1)[-1] in backend.tables:
        missing = f"Resource-based policy not found for the provided ResourceArn: {resource_arn}"
        raise refusals.PolicyNotFoundException(missing)
    return policy or _moto_get_policy(backend, resource_arn)


def _describe_continuous_backups(backend: Any, table_name: str) -> dict[str, Any]:
    table = backend.tables.get(table_name)
    if table is None:
        raise refusals.TableNotFoundException(table_name)
    told = dict(table.continuous_backups["PointInTimeRecoveryDescription"])
    if told["PointInTimeRecoveryStatus"] == "ENABLED":
        earliest, latest = _window(table)
        told |= {"EarliestRestorableDateTime": earliest, "LatestRestorableDateTime": latest}
    return {"ContinuousBackupsStatus": "ENABLED", "PointInTimeRecoveryDescription": told}


def _update_continuous_backups(backend: Any, table_name: str, point_in_time_spec: dict[str, Any]) -> dict[str, Any]:
    table = backend.tables.get(table_name)
    if table is None:
        raise refusals.TableNotFoundException(table_name)
    enabled = table.continuous_backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    if not point_in_time_spec["PointInTimeRecoveryEnabled"]:
        told = {"PointInTimeRecoveryStatus": "DISABLED"}
    else:
        if not enabled:
            # Switched on, or on again: what was before cannot be restored.
            table.past.clear()
            table.recoverable_since = time.time()
        days = point_in_time_spec.get("RecoveryPeriodInDays", RECOVERY_DAYS)
        told = {"PointInTimeRecoveryStatus": "ENABLED", "RecoveryPeriodInDays": days}
    table.continuous_backups["PointInTimeRecoveryDescription"] = told
    return _describe_continuous_backups(backend, table_name)


def _window(table: Any) -> tuple[float, float]:
    days = table.continuous_backups["PointInTimeRecoveryDescription"]["RecoveryPeriodInDays"]
    earliest = max(table.recoverable_since, time.time() - days * DAY_S)
    return earliest, max(earliest, time.time() - LATEST_S)


def _restore_table_to_point_in_time(handler: Any) -> Any:
    body, backend = handler.body, handler.dynamodb_backend
    source_name, name = body.get("SourceTableName") or body.get("SourceTableArn"), body["TargetTableName"]
    try:
        source = backend.get_table(source_name)
    except refusals.ResourceNotFoundException:
        raise refusals.TableNotFoundException(source_name) from None
    if name in backend.tables:
        raise refusals.TableAlreadyExistsException(name)
    if source.continuous_backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] != "ENABLED":
        raise refusals.PointInTimeRecoveryUnavailable(source.name)
    earliest, latest = _window(source)
    asked = body.get("RestoreDateTime")
    at = latest if body.get("UseLatestRestorableTime") or asked is None else _epoch(asked)
    if not earliest <= at <= latest:
        message = "RestoreDateTime must be between EarliestRestorableDateTime and LatestRestorableDateTime"
        raise JsonRESTError(_PREFIX + "InvalidRestoreTimeException", message)
    backend.tables[name] = restored = RestoredTable(name, source, at)  # type: ignore[abstract]
    return DynamoResult(restored.describe())


def _epoch(moment: Any) -> float:
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment)


def _get_keys_value(backend: Any, table: Any, keys: dict[str, Any]) -> Any:
    """A key's values; refused unless they have the types of the table's key. Source: API reference, GetItem."""
    values = _moto_get_keys_value(backend, table, keys)
    for value, kind in zip(values, (table.hash_key_type, table.range_key_type), strict=True):
        if value is not None and value.type != kind:
            raise AwsError("ValidationException", "The provided key element does not match the schema")
    return values


def _is_within_segment(item: Item, segments: tuple[Any, Any]) -> bool:
    """As moto has it, and of a key of bytes, too."""
    segment, total = segments
    if total is None:
        return True
    value = item.hash_key.value
    data = value if isinstance(value, bytes) else str(value).encode()
    return bool(md5(data, usedforsecurity=False).digest()[0] % total == segment)


_moto_parse, _moto_make_operand = ConditionExpressionParser.parse, ConditionExpressionParser._make_operand
_moto_serialized = DynamoHandler.serialized
_moto_get_keys_value = DynamoDBBackend.get_keys_value
_moto_update_item = DynamoDBBackend.update_item
_moto_put_policy, _moto_get_policy = DynamoDBBackend.put_resource_policy, DynamoDBBackend.get_resource_policy
_moto_delete_policy = DynamoDBBackend.delete_resource_policy
_moto_transact = DynamoDBBackend.transact_write_items
_moto_transact_answer = DynamoHandler.transact_write_items


@cache
def install() -> None:
    """Put ours in moto's place; once in a process."""
    ours: dict[Any, dict[str, Any]] = {
        Table: {
            "stream_shard": property(_stream_shard, _keep_shard),
            "__deepcopy__": _deepcopy,
            "all_items": _all_items,
            "query": _reading(Table.query),
            "scan": _reading(Table.scan),
            "put_item": _refusing(Table.put_item),
            "get_item": _refusing(Table.get_item),
        },
        Item: {"is_within_segment": _is_within_segment},
        DynamoDBBackend: {
            "get_keys_value": _get_keys_value,
            "transact_write_items": _transact_write_items,
            "update_item": _update_item,
            "describe_continuous_backups": _describe_continuous_backups,
            "update_continuous_backups": _update_continuous_backups,
            "put_resource_policy": _put_resource_policy,
            "get_resource_policy": _get_resource_policy,
            "delete_resource_policy": _delete_resource_policy,
        },
        DynamoHandler: {
            "transact_write_items": _transact_once,
            "restore_table_to_point_in_time": _restore_table_to_point_in_time,
            "serialized": _serialized,
        },
        ConditionExpressionParser: {"parse": _parse, "_make_operand": _make_operand},
        responses: {"DynamoResult": _Answer},
    }
    for owner, members in ours.items():
        for name, member in members.items():
            setattr(owner, name, member)
