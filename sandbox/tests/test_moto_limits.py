"""DynamoDB's and Parameter Store's limits, throttling and eventual consistency, where moto alone is laxer than AWS."""

import json
from typing import Any

import pytest
from serving import refusal

from buddy_sandbox import dynamodb, parameters
from buddy_sandbox.server import Sandbox
from buddy_sandbox.world import World

DENY = json.dumps({"Version": "2012-10-17", "Statement": []})


@pytest.fixture
def world(sandbox: Sandbox) -> World:
    sandbox.front.do_reset()
    return sandbox.world


@pytest.fixture
def ddb(world: World) -> Any:
    """A client, and the table table-1 with a number as its sort key."""
    client = world.client("dynamodb")
    client.create_table(
        TableName="table-1",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "p", "KeyType": "HASH"}, {"AttributeName": "n", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "p", "AttributeType": "S"},
            {"AttributeName": "n", "AttributeType": "N"},
        ],
    )
    return client


@pytest.fixture
def ssm(world: World) -> Any:
    return world.client("ssm")


def item(number: str, text: str = "") -> dict[str, Any]:
    return {"p": {"S": "p"}, "n": {"N": number}, "text": {"S": text}}


def key(number: str) -> dict[str, Any]:
    return {"p": {"S": "p"}, "n": {"N": number}}


def set_text(number: str, text: str) -> dict[str, Any]:
    """The parameters of an UpdateItem, or of an Update in a transaction."""
    return {
        "TableName": "table-1",
        "Key": key(number),
        "UpdateExpression": "SET #t = :t",
        "ExpressionAttributeNames": {"#t": "text"},
        "ExpressionAttributeValues": {":t": {"S": text}},
    }


# DynamoDB


def test_number_keys_work_in_writes_transactions_and_restores(world: World, ddb: Any) -> None:
    """Numbers sort by value, 1 and 1.0 are one key, and a cancelled transaction and a restore bring them back.

    Source: DynamoDB developer guide, data types and naming rules.
    """
    pitr = {"PointInTimeRecoveryEnabled": True}
    ddb.update_continuous_backups(TableName="table-1", PointInTimeRecoverySpecification=pitr)
    for number in ("10", "9", "1"):
        ddb.put_item(TableName="table-1", Item=item(number, "before"))
    world.clock.advance_to(world.clock.now() + 600)
    kept = world.clock.now() - 301
    ddb.update_item(**set_text("1.0", "after"))
    failing = {**set_text("9", "after"), "ConditionExpression": "attribute_not_exists(p)"}
    with pytest.raises(ddb.exceptions.TransactionCanceledException):
        ddb.transact_write_items(TransactItems=[{"Update": set_text("10", "after")}, {"Update": failing}])
    rows = ddb.query(
        TableName="table-1", KeyConditionExpression="p = :p", ExpressionAttributeValues={":p": {"S": "p"}}
    )["Items"]
    assert [(row["n"]["N"], row["text"]["S"]) for row in rows] == [("1", "after"), ("9", "before"), ("10", "before")]
    ddb.restore_table_to_point_in_time(SourceTableName="table-1", TargetTableName="table-2", RestoreDateTime=kept)
    world.clock.advance_to(world.clock.now() + dynamodb.RESTORE_S)
    assert {row["text"]["S"] for row in ddb.scan(TableName="table-2")["Items"]} == {"before"}


def test_expression_over_4_kb_is_refused(ddb: Any) -> None:
    """An expression of more than 4,096 bytes is refused, in a transaction too.

    Source: DynamoDB developer guide, quotas (expression parameters).
    """
    long = {**set_text("1", "x"), "UpdateExpression": "SET #t = :t" + " " * 4096}
    code, message = refusal(ddb.update_item, **long)
    assert (code, message) == (
        "ValidationException",
        "Invalid UpdateExpression: Expression size has exceeded the maximum allowed size; expression size: 4107",
    )
    assert refusal(ddb.transact_write_items, TransactItems=[{"Update": long}]) == (code, message)


def test_item_over_400_kb_is_refused(ddb: Any) -> None:
    """An item is at most 400 KB, whichever call writes it; a refused update changes nothing.

    Source: DynamoDB developer guide, quotas (items).
    """
    large = "x" * (400 * 1024)
    ddb.put_item(TableName="table-1", Item=item("1", "small"))
    exceeded = ("ValidationException", "Item size has exceeded the maximum allowed size")
    assert refusal(ddb.put_item, TableName="table-1", Item=item("2", large)) == exceeded
    batch = {"table-1": [{"PutRequest": {"Item": item("2", large)}}]}
    assert refusal(ddb.batch_write_item, RequestItems=batch) == exceeded
    update = refusal(ddb.update_item, **set_text("1", large))
    assert update == ("ValidationException", "Item size to update has exceeded the maximum allowed size")
    assert ddb.get_item(TableName="table-1", Key=key("1"))["Item"]["text"]["S"] == "small"


def test_transaction_is_limited_by_actions_and_by_bytes(ddb: Any) -> None:
    """A transaction has at most 100 actions, on items of 4 MB in total.

    Source: DynamoDB API reference, TransactWriteItems.
    """
    many = [{"Put": {"TableName": "table-1", "Item": item(str(number))}} for number in range(101)]
    assert refusal(ddb.transact_write_items, TransactItems=many)[0] == "ValidationException"
    large = [{"Put": {"TableName": "table-1", "Item": item(str(number), "x" * 45_000)}} for number in range(100)]
    code, message = refusal(ddb.transact_write_items, TransactItems=large)
    assert (code, "4 MB" in message) == ("ValidationException", True)
    assert ddb.scan(TableName="table-1")["Count"] == 0
    ddb.transact_write_items(TransactItems=large[:90])


def test_transaction_is_repeated_whatever_the_order_of_attributes(ddb: Any) -> None:
    """A token that comes again with the same item is answered as before, also if its attributes come in another order.

    Source: recorded AWS response, 2025-10-08, test_dynamodb_idempotent_writing.
    """
    for row in ({"p": {"S": "p"}, "n": {"N": "1"}}, {"n": {"N": "1"}, "p": {"S": "p"}}):
        ddb.transact_write_items(TransactItems=[{"Put": {"TableName": "table-1", "Item": row}}], ClientRequestToken="t")
    other = [{"Put": {"TableName": "table-1", "Item": item("2")}}]
    code, _ = refusal(ddb.transact_write_items, TransactItems=other, ClientRequestToken="t")
    assert code == "IdempotentParameterMismatchException"


@pytest.mark.parametrize("code", sorted(dynamodb.THROTTLED))
def test_items_can_be_throttled_for_a_while(world: World, ddb: Any, code: str) -> None:
    """Reads and writes of items are throttled for the time set; the table can be described.

    Source: DynamoDB developer guide, error handling.
    """
    world.tables.throttle_code = code
    world.tables.throttle.for_s = 120
    assert refusal(ddb.get_item, TableName="table-1", Key=key("1"))[0] == code
    assert refusal(ddb.put_item, TableName="table-1", Item=item("1"))[0] == code
    ddb.describe_table(TableName="table-1")
    world.clock.advance_to(world.clock.now() + 121)
    ddb.put_item(TableName="table-1", Item=item("1"))


def test_restore_without_point_in_time_recovery_is_refused(ddb: Any) -> None:
    """A table whose point-in-time recovery is off cannot be restored.

    Source: DynamoDB API reference, RestoreTableToPointInTime.
    """
    given = {"SourceTableName": "table-1", "TargetTableName": "table-2", "UseLatestRestorableTime": True}
    code, message = refusal(ddb.restore_table_to_point_in_time, **given)
    assert (code, "table-1" in message) == ("PointInTimeRecoveryUnavailableException", True)


def test_resource_policy_is_read_late(world: World, ddb: Any) -> None:
    """A policy that was put or deleted is neither read nor enforced before the delay has passed.

    Source: DynamoDB API reference, PutResourcePolicy and GetResourcePolicy (eventually consistent).
    """
    arn = ddb.describe_table(TableName="table-1")["Table"]["TableArn"]
    world.tables.policy_delay_s = 30
    ddb.put_resource_policy(ResourceArn=arn, Policy=DENY)
    assert refusal(ddb.get_resource_policy, ResourceArn=arn)[0] == "PolicyNotFoundException"
    world.clock.advance_to(world.clock.now() + 31)
    assert ddb.get_resource_policy(ResourceArn=arn)["Policy"] == DENY
    ddb.delete_resource_policy(ResourceArn=arn)
    assert ddb.get_resource_policy(ResourceArn=arn)["Policy"] == DENY
    world.clock.advance_to(world.clock.now() + 31)
    assert refusal(ddb.get_resource_policy, ResourceArn=arn)[0] == "PolicyNotFoundException"


# Parameter Store


def test_parameter_is_read_late(world: World, ssm: Any) -> None:
    """Reads show what was there before a write until the delay has passed; writes see each other.

    Source: Systems Manager user guide, Parameter Store (eventual consistency is not documented as excluded).
    """
    ssm.put_parameter(Name="/a/b", Value="old", Type="String")
    world.parameters.delay_s = 10
    ssm.put_parameter(Name="/a/b", Value="new", Type="String", Overwrite=True)
    ssm.put_parameter(Name="/a/c", Value="new", Type="String")
    assert ssm.get_parameter(Name="/a/b")["Parameter"]["Value"] == "old"
    assert [each["Name"] for each in ssm.get_parameters_by_path(Path="/a")["Parameters"]] == ["/a/b"]
    code, _ = refusal(ssm.put_parameter, Name="/a/c", Value="other", Type="String")
    assert code == "ParameterAlreadyExists"
    world.clock.advance_to(world.clock.now() + 11)
    assert ssm.get_parameter(Name="/a/b")["Parameter"]["Value"] == "new"
    ssm.delete_parameter(Name="/a/b")
    assert ssm.get_parameter(Name="/a/b")["Parameter"]["Value"] == "new"
    world.clock.advance_to(world.clock.now() + 11)
    assert refusal(ssm.get_parameter, Name="/a/b")[0] == "ParameterNotFound"


def test_parameter_value_over_4_kb_is_refused(ssm: Any) -> None:
    """A standard parameter has at most 4,096 characters, an advanced one 8,192.

    Source: Systems Manager user guide, parameter tiers.
    """
    code, message = refusal(ssm.put_parameter, Name="/a", Value="x" * 4097, Type="String")
    assert (code, message.split(".")[0]) == (
        "ValidationException",
        "Standard tier parameters support a maximum parameter value of 4096 characters",
    )
    ssm.put_parameter(Name="/a", Value="x" * parameters.ADVANCED_CHARACTERS, Type="String", Tier="Advanced")


def test_parameter_that_exists_is_not_overwritten_unasked(ssm: Any) -> None:
    """PutParameter without Overwrite refuses a name that exists, and keeps its value.

    Source: Systems Manager API reference, PutParameter; garystafford/emr-demo issue 1 (the message).
    """
    ssm.put_parameter(Name="/a", Value="1", Type="String")
    code, message = refusal(ssm.put_parameter, Name="/a", Value="2", Type="String")
    assert code == "ParameterAlreadyExists"
    assert (
        message
        == "The parameter already exists. To overwrite this value, set the overwrite option in the request to true."
    )
    assert ssm.get_parameter(Name="/a")["Parameter"]["Value"] == "1"


def test_parameters_can_be_throttled_for_a_while(world: World, ssm: Any) -> None:
    """Every call is throttled for the time set.

    Source: aws-ia/terraform-aws-control_tower_account_factory issue 271 (code and message).
    """
    world.parameters.throttle.for_s = 60
    assert refusal(ssm.put_parameter, Name="/a", Value="1", Type="String") == ("ThrottlingException", "Rate exceeded")
    world.clock.advance_to(world.clock.now() + 61)
    ssm.put_parameter(Name="/a", Value="1", Type="String")


# Logs


def test_log_group_can_be_deleted(world: World) -> None:
    """DeleteLogGroup removes a group with its events, and refuses one that does not exist.

    Source: recorded AWS response, 2026-02-03, test_resource_does_not_exist (the refusal).
    """
    logs = world.client("logs")
    logs.create_log_group(logGroupName="g")
    logs.delete_log_group(logGroupName="g")
    assert logs.describe_log_groups(logGroupNamePrefix="g")["logGroups"] == []
    gone = ("ResourceNotFoundException", "The specified log group does not exist.")
    assert refusal(logs.delete_log_group, logGroupName="g") == gone
