"""Contract tests: DynamoDB's own rules for recovery, transactions and reads, each with where it is written down."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from buddy_ops.cli import sandbox

NAME = "reminders"
KEY = [{"AttributeName": "user", "KeyType": "HASH"}, {"AttributeName": "id", "KeyType": "RANGE"}]
TYPES = [{"AttributeName": name, "AttributeType": "S"} for name in ("user", "id", "at")]
BY_TIME = {"KeySchema": [{"AttributeName": "at", "KeyType": "HASH"}], "Projection": {"ProjectionType": "ALL"}}
LOCALLY = {
    "KeySchema": [{"AttributeName": "user", "KeyType": "HASH"}, {"AttributeName": "at", "KeyType": "RANGE"}],
    "Projection": {"ProjectionType": "KEYS_ONLY"},
}


class Account:
    """An empty account with one table."""

    def __init__(self, url: str, client: Any) -> None:
        self._url, self.client = url, client

    def pass_time(self, minutes: float) -> None:
        sandbox.call_sandbox(self._url, "advance", seconds=60 * minutes)

    def now(self) -> datetime:
        return datetime.fromtimestamp(sandbox.call_sandbox(self._url, "clock")["now"], UTC)

    def put(self, id: str, at: str, table: str = NAME, **more: Any) -> None:
        item = {"user": {"S": "ann"}, "id": {"S": id}, "at": {"S": at}, **more}
        self.client.put_item(TableName=table, Item=item)

    def items(self, table: str = NAME) -> dict[str, str]:
        """The items' times by their ids."""
        found = self.client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        return {each["id"]["S"]: each["at"]["S"] for page in found for each in page["Items"]}

    def recoverable(self, **more: Any) -> None:
        specification = {"PointInTimeRecoveryEnabled": True, **more}
        self.client.update_continuous_backups(TableName=NAME, PointInTimeRecoverySpecification=specification)

    def window(self) -> dict[str, Any]:
        told = self.client.describe_continuous_backups(TableName=NAME)["ContinuousBackupsDescription"]
        return dict(told["PointInTimeRecoveryDescription"])

    def restore(self, at: datetime | None = None, name: str = "restored") -> dict[str, Any]:
        when = {"RestoreDateTime": at} if at else {"UseLatestRestorableTime": True}
        reply = self.client.restore_table_to_point_in_time(SourceTableName=NAME, TargetTableName=name, **when)
        return dict(reply["TableDescription"])


@pytest.fixture
def account(sandbox_url: str) -> Account:
    import boto3
    from botocore.config import Config

    sandbox.call_sandbox(sandbox_url, "reset")
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    config = Config(retries={"total_max_attempts": 1})
    here = Account(sandbox_url, boto3.client("dynamodb", endpoint_url=sandbox_url, config=config, **keys))
    here.client.create_table(
        TableName=NAME,
        KeySchema=KEY,
        AttributeDefinitions=TYPES,
        BillingMode="PAY_PER_REQUEST",
        GlobalSecondaryIndexes=[{"IndexName": "by-time", **BY_TIME}],
        LocalSecondaryIndexes=[{"IndexName": "locally", **LOCALLY}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"},
        Tags=[{"Key": "team", "Value": "buddy"}],
        DeletionProtectionEnabled=True,
    )
    return here


def refused(call: Callable[..., Any], *args: Any, **fields: Any) -> str:
    """AWS's name for why a call was refused."""
    with pytest.raises(ClientError) as error:
        call(*args, **fields)
    return str(error.value.response["Error"]["Code"])


# Recovery to a point in time


def test_a_restore_holds_what_stood_at_that_second(account: Account) -> None:
    """Every kind of write before the moment is in it, and none after. Source: API reference, RestoreTableToPointInTime."""
    account.recoverable()
    for id in ("kept", "edited", "deleted", "patched"):
        account.put(id, "08:00")
    account.pass_time(1)
    then = account.now()
    account.pass_time(1)
    account.put("edited", "23:00")
    account.put("created", "09:00")
    account.client.delete_item(TableName=NAME, Key={"user": {"S": "ann"}, "id": {"S": "deleted"}})
    account.client.update_item(
        TableName=NAME,
        Key={"user": {"S": "ann"}, "id": {"S": "patched"}},
        UpdateExpression="SET #at = :at",
        ExpressionAttributeNames={"#at": "at"},
        ExpressionAttributeValues={":at": {"S": "10:00"}},
    )
    before = account.items()
    account.pass_time(10)
    account.restore(then)
    account.pass_time(10)
    assert account.items("restored") == dict.fromkeys(("kept", "edited", "deleted", "patched"), "08:00")
    assert account.items() == before == {"kept": "08:00", "edited": "23:00", "created": "09:00", "patched": "10:00"}


def test_a_restored_table_is_another_table(account: Account) -> None:
    """What is written to either afterwards stays there. Source: API reference, RestoreTableToPointInTime ('a new table')."""
    account.recoverable()
    account.put("a", "08:00")
    account.pass_time(10)
    account.restore()
    account.pass_time(10)
    account.put("a", "09:00", "restored")
    assert account.items() == {"a": "08:00"} and account.items("restored") == {"a": "09:00"}


def test_a_restore_takes_keys_and_indexes_and_nothing_else(account: Account) -> None:
    """Streams, TTL, tags, recovery and protection are to be set anew. Source: API reference, RestoreTableToPointInTime;
    developer guide, 'Restore a table in DynamoDB'."""
    ttl = {"Enabled": True, "AttributeName": "gone_at"}
    account.client.update_time_to_live(TableName=NAME, TimeToLiveSpecification=ttl)
    account.recoverable()
    account.pass_time(10)
    account.restore()
    account.pass_time(10)
    told = account.client.describe_table(TableName="restored")["Table"]
    assert told["KeySchema"] == KEY and told["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert [each["IndexName"] for each in told["GlobalSecondaryIndexes"]] == ["by-time"]
    assert [each["IndexName"] for each in told["LocalSecondaryIndexes"]] == ["locally"]
    assert told["DeletionProtectionEnabled"] is False and "StreamSpecification" not in told
    time_to_live = account.client.describe_time_to_live(TableName="restored")["TimeToLiveDescription"]
    assert time_to_live["TimeToLiveStatus"] == "DISABLED"
    assert account.client.list_tags_of_resource(ResourceArn=told["TableArn"])["Tags"] == []
    backups = account.client.describe_continuous_backups(TableName="restored")["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"] == {"PointInTimeRecoveryStatus": "DISABLED"}


def test_a_restored_table_is_being_created_for_a_while(account: Account) -> None:
    """Until it is ACTIVE it can be described, and neither read nor written. Source: API reference, TableDescription,
    RestoreSummary, ResourceNotFoundException ('its status might not be ACTIVE')."""
    account.recoverable()
    account.put("a", "08:00")
    account.pass_time(10)
    told = account.restore()
    assert told["TableStatus"] == "CREATING" and told["RestoreSummary"]["RestoreInProgress"] is True
    assert refused(account.items, "restored") == "ResourceNotFoundException"
    assert refused(account.put, "b", "09:00", "restored") == "ResourceNotFoundException"
    account.pass_time(10)
    told = account.client.describe_table(TableName="restored")["Table"]
    assert told["TableStatus"] == "ACTIVE" and told["RestoreSummary"]["RestoreInProgress"] is False
    assert account.items("restored") == {"a": "08:00"}


def test_a_table_without_recovery_cannot_be_restored(account: Account) -> None:
    """Source: API reference, PointInTimeRecoveryUnavailableException."""
    assert account.window() == {"PointInTimeRecoveryStatus": "DISABLED"}
    assert refused(account.restore) == "PointInTimeRecoveryUnavailableException"


def test_only_moments_in_the_window_can_be_restored(account: Account) -> None:
    """From when recovery was switched on to five minutes ago. Source: API reference, InvalidRestoreTimeException,
    PointInTimeRecoveryDescription."""
    account.pass_time(10)
    account.recoverable()
    on = account.now()
    account.pass_time(30)
    window = account.window()
    assert window["EarliestRestorableDateTime"] == on
    assert window["LatestRestorableDateTime"] == account.now() - timedelta(minutes=5)
    for at in (on - timedelta(seconds=1), account.now() - timedelta(minutes=4)):
        assert refused(account.restore, at) == "InvalidRestoreTimeException"
    account.restore(window["EarliestRestorableDateTime"], "first")
    account.restore(window["LatestRestorableDateTime"], "last")


def test_the_window_is_as_long_as_the_recovery_period(account: Account) -> None:
    """35 days unless another number is given. Source: API reference, PointInTimeRecoverySpecification."""
    account.recoverable()
    assert account.window()["RecoveryPeriodInDays"] == 35
    account.recoverable(RecoveryPeriodInDays=1)
    account.pass_time(3 * 24 * 60)
    assert account.window()["EarliestRestorableDateTime"] == account.now() - timedelta(days=1)


def test_switching_recovery_off_and_on_forgets_what_was(account: Account) -> None:
    """Source: developer guide, 'Restore a table in DynamoDB' ('you reset the start time')."""
    account.recoverable()
    account.pass_time(60)
    off = {"PointInTimeRecoveryEnabled": False}
    account.client.update_continuous_backups(TableName=NAME, PointInTimeRecoverySpecification=off)
    assert refused(account.restore) == "PointInTimeRecoveryUnavailableException"
    account.recoverable()
    assert account.window()["EarliestRestorableDateTime"] == account.now()
    assert refused(account.restore, account.now() - timedelta(minutes=30)) == "InvalidRestoreTimeException"


def test_a_restore_never_overwrites(account: Account) -> None:
    """Source: API reference, TableAlreadyExistsException, TableNotFoundException."""
    account.recoverable()
    account.pass_time(10)
    assert refused(account.restore, name=NAME) == "TableAlreadyExistsException"
    restore = account.client.restore_table_to_point_in_time
    missing = {"SourceTableName": "nowhere", "TargetTableName": "new", "UseLatestRestorableTime": True}
    assert refused(restore, **missing) == "TableNotFoundException"


def test_a_table_without_a_stream_is_recovered_as_well(account: Account) -> None:
    """Recovery needs no stream, and a partition key suffices. Source: developer guide, 'Enable point-in-time recovery'."""
    client = account.client
    plain = {"AttributeDefinitions": TYPES[:1], "KeySchema": KEY[:1], "BillingMode": "PAY_PER_REQUEST"}
    client.create_table(TableName="plain", **plain)
    on = {"PointInTimeRecoveryEnabled": True}
    client.update_continuous_backups(TableName="plain", PointInTimeRecoverySpecification=on)
    client.put_item(TableName="plain", Item={"user": {"S": "ann"}, "n": {"N": "1"}})
    account.pass_time(1)
    then = account.now()
    account.pass_time(1)
    client.put_item(TableName="plain", Item={"user": {"S": "ann"}, "n": {"N": "2"}})
    client.put_item(TableName="plain", Item={"user": {"S": "bob"}})
    account.pass_time(10)
    client.restore_table_to_point_in_time(SourceTableName="plain", TargetTableName="again", RestoreDateTime=then)
    account.pass_time(10)
    assert client.scan(TableName="again")["Items"] == [{"user": {"S": "ann"}, "n": {"N": "1"}}]


# Transactions


def change(id: str, at: str, expected: str) -> dict[str, Any]:
    """A conditional write within a transaction."""
    item = {"user": {"S": "ann"}, "id": {"S": id}, "at": {"S": at}}
    condition = {"ConditionExpression": "#at = :at", "ExpressionAttributeNames": {"#at": "at"}}
    return {
        "Put": {"TableName": NAME, "Item": item, **condition, "ExpressionAttributeValues": {":at": {"S": expected}}}
    }


def test_a_cancelled_transaction_leaves_no_trace(account: Account) -> None:
    """Neither in the table nor in what can be restored. Source: API reference, TransactWriteItems ('all or nothing')."""
    account.recoverable()
    account.put("a", "08:00")
    account.put("b", "08:00")
    changes = [change("a", "09:00", "08:00"), change("b", "09:00", "07:00")]
    with pytest.raises(ClientError) as error:
        account.client.transact_write_items(TransactItems=changes)
    assert [each["Code"] for each in error.value.response["CancellationReasons"]] == ["None", "ConditionalCheckFailed"]
    assert account.items() == {"a": "08:00", "b": "08:00"}
    account.pass_time(10)
    account.restore()
    account.pass_time(10)
    assert account.items("restored") == {"a": "08:00", "b": "08:00"}


def test_a_transaction_with_a_known_token_is_not_made_twice(account: Account) -> None:
    """Within ten minutes, and not for another request. Source: API reference, TransactWriteItems, ClientRequestToken."""
    account.put("a", "08:00")
    transact = account.client.transact_write_items
    for _ in range(2):
        transact(TransactItems=[change("a", "09:00", "08:00")], ClientRequestToken="one")
    other = [change("a", "10:00", "09:00")]
    code = refused(transact, TransactItems=other, ClientRequestToken="one")
    assert code == "IdempotentParameterMismatchException" and account.items() == {"a": "09:00"}
    account.pass_time(11)
    transact(TransactItems=other, ClientRequestToken="one")
    assert account.items() == {"a": "10:00"}


def test_a_backup_is_a_copy(account: Account) -> None:
    """What is written after an on-demand backup is not in it. Source: API reference, CreateBackup."""
    account.put("a", "08:00")
    arn = account.client.create_backup(TableName=NAME, BackupName="one")["BackupDetails"]["BackupArn"]
    account.put("a", "09:00")
    account.client.restore_table_from_backup(TargetTableName="copy", BackupArn=arn)
    assert account.items("copy") == {"a": "08:00"}


# Reads


def test_segments_share_a_table_out(account: Account) -> None:
    """Each item is in one segment, whatever the pages. Source: API reference, Scan, TotalSegments."""
    wanted = []
    for n in range(60):
        item = {"user": {"S": f"user-{n // 2}"}, "id": {"S": str(n)}, "at": {"S": "08:00"}, "b": {"B": b"\x00\xff"}}
        account.client.put_item(TableName=NAME, Item=item)
        wanted.append(item)
    found: list[dict[str, Any]] = []
    pages = account.client.get_paginator("scan")
    for segment in range(4):
        asked = pages.paginate(TableName=NAME, Segment=segment, TotalSegments=4, PaginationConfig={"PageSize": 3})
        found += [each for page in asked for each in page["Items"]]
    assert sorted(found, key=lambda each: int(each["id"]["S"])) == wanted


def test_a_query_reads_one_partition_in_order(account: Account) -> None:
    """By the sort key, and by an index across partitions. Source: API reference, Query."""
    for id in ("c", "a", "b"):
        account.put(id, "08:00")
    account.client.put_item(TableName=NAME, Item={"user": {"S": "bob"}, "id": {"S": "d"}, "at": {"S": "08:00"}})
    query = account.client.query
    one = query(TableName=NAME, KeyConditionExpression="#u = :u", ExpressionAttributeNames={"#u": "user"},
                ExpressionAttributeValues={":u": {"S": "ann"}}, ConsistentRead=True)  # fmt: skip
    assert [each["id"]["S"] for each in one["Items"]] == ["a", "b", "c"]
    nobody = query(TableName=NAME, KeyConditionExpression="#u = :u", ExpressionAttributeNames={"#u": "user"},
                   ExpressionAttributeValues={":u": {"S": "eve"}})  # fmt: skip
    assert nobody["Items"] == []
    all_of = query(TableName=NAME, IndexName="by-time", KeyConditionExpression="#at = :at",
                   ExpressionAttributeNames={"#at": "at"}, ExpressionAttributeValues={":at": {"S": "08:00"}})  # fmt: skip
    assert {each["id"]["S"] for each in all_of["Items"]} == {"a", "b", "c", "d"}


# Keys


def test_a_key_of_another_type_is_refused(account: Account) -> None:
    """Source: API reference, GetItem; developer guide, 'The provided key element does not match the schema'."""
    for wrong in ({"user": {"N": "1"}, "id": {"S": "a"}}, {"user": {"S": "ann"}, "id": {"B": b"a"}}):
        assert refused(account.client.get_item, TableName=NAME, Key=wrong) == "ValidationException"
        assert refused(account.client.delete_item, TableName=NAME, Key=wrong) == "ValidationException"


def test_a_table_with_a_key_of_bytes_is_read_in_segments(account: Account) -> None:
    """Every item is in one segment. Source: API reference, Scan ('Segment', 'TotalSegments')."""
    account.client.create_table(
        TableName="bytes",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "B"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for number in range(20):
        account.client.put_item(TableName="bytes", Item={"id": {"B": bytes([255, number])}})
    scans = [account.client.scan(TableName="bytes", Segment=segment, TotalSegments=4) for segment in range(4)]
    found = [each["id"]["B"] for scan in scans for each in scan["Items"]]
    assert sorted(found) == [bytes([255, number]) for number in range(20)]
