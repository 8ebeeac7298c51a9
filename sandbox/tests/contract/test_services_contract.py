"""What the runbooks take for granted of the services beside Lambda: one rule a test, with its source."""

import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from contract_account import PARAMETERS, PREFIX, Account
from serving import refusal

MISSING = f"{PREFIX}none"


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# EventBridge Scheduler


def schedule(account: Account, role: str, function: str, at: float, **more: Any) -> dict[str, Any]:
    """A one-time schedule that takes the weights away from the alias live, as a rollout's failsafe does."""
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:lambda:updateAlias",
        "RoleArn": role,
        "Input": json.dumps(
            {"FunctionName": function, "Name": "live", "RoutingConfig": {"AdditionalVersionWeights": {}}}
        ),
        "RetryPolicy": {"MaximumRetryAttempts": 3, "MaximumEventAgeInSeconds": 900},
    }
    return {
        "Name": f"{PREFIX}schedule-{round(at)}",
        "ScheduleExpression": f"at({moment(at):%Y-%m-%dT%H:%M:%S})",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "ActionAfterCompletion": "DELETE",
        "Target": target,
        **more,
    }


def test_schedule_is_made_once_replaced_whole_and_deleted(account: Account, role: str, function: str) -> None:
    """A second one of its name conflicts; an update replaces all that it has; then it is not found.

    Source: EventBridge Scheduler API reference, CreateSchedule, UpdateSchedule.
    """
    scheduler = account.client("scheduler")
    given = schedule(account, role, function, account.now() + 3600, Description="first")
    account.wait_out(scheduler.create_schedule, "to assume the role", **given)
    assert refusal(scheduler.create_schedule, **given)[0] == "ConflictException"
    found = scheduler.get_schedule(Name=given["Name"])
    assert (found["Target"]["Input"], found["Description"], found["GroupName"]) == (
        given["Target"]["Input"],
        "first",
        "default",
    )
    later = schedule(account, role, function, account.now() + 7200, Name=given["Name"])
    scheduler.update_schedule(**later)
    found = scheduler.get_schedule(Name=given["Name"])
    assert found["ScheduleExpression"] == later["ScheduleExpression"] and "Description" not in found
    assert given["Name"] in [each["Name"] for each in scheduler.list_schedules(NamePrefix=PREFIX)["Schedules"]]
    scheduler.delete_schedule(Name=given["Name"])
    for call in (scheduler.get_schedule, scheduler.delete_schedule):
        assert refusal(call, Name=given["Name"])[0] == "ResourceNotFoundException"
    assert refusal(scheduler.update_schedule, **later)[0] == "ResourceNotFoundException"


def test_schedule_takes_the_weights_away_and_deletes_itself(account: Account, role: str, function: str) -> None:
    """The failsafe of a rollout: within two minutes of its time, whoever is there.

    Source: EventBridge Scheduler user guide, universal targets and one-time schedules (60 s precision).
    """
    lam, scheduler = account.client("lambda"), account.client("scheduler")
    alias = {"FunctionName": function, "Name": "live"}
    weights = {"AdditionalVersionWeights": {"2": 0.1}}
    before = lam.update_alias(**alias, FunctionVersion="1", RoutingConfig=weights)
    given = schedule(account, role, function, account.now() + 60)
    account.wait_out(scheduler.create_schedule, "to assume the role", **given)
    account.wait(lambda: "RoutingConfig" not in lam.get_alias(**alias), within_s=240)
    after = lam.get_alias(**alias)
    assert after["FunctionVersion"] == "1" and after["RevisionId"] != before["RevisionId"]
    names = {"NamePrefix": given["Name"]}
    account.wait(lambda: not scheduler.list_schedules(**names)["Schedules"], within_s=240)


# CloudWatch


def test_alarm_is_stored_replaced_and_set(account: Account) -> None:
    """A new one has no data; its state can be set; what is unknown is not found; a deleted one is gone.

    Source: CloudWatch API reference, PutMetricAlarm, SetAlarmState; recorded AWS responses, 2025-09, test_set_alarm.
    """
    cloudwatch, name = account.client("cloudwatch"), f"{PREFIX}alarm"
    rate = [
        {"Id": "errors", "ReturnData": False, "MetricStat": stat("Errors")},
        {"Id": "all", "ReturnData": False, "MetricStat": stat("Invocations")},
        {"Id": "rate", "ReturnData": True, "Expression": "IF(all >= 20, 100 * errors / all, 0)", "Label": "rate"},
    ]
    rule = {"Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 3}
    more = {"DatapointsToAlarm": 2, "TreatMissingData": "notBreaching", "ActionsEnabled": False}
    cloudwatch.put_metric_alarm(AlarmName=name, Metrics=rate, **rule, **more)
    (alarm,) = account.wait(lambda: cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"])
    assert alarm["StateValue"] == "INSUFFICIENT_DATA" and len(alarm["Metrics"]) == 3
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="contract")

    def history() -> list[dict[str, Any]]:
        items = cloudwatch.describe_alarm_history(AlarmName=name, HistoryItemType="StateUpdate")["AlarmHistoryItems"]
        return [item for item in items if "to ALARM" in item["HistorySummary"]]

    account.wait(history)
    assert (
        refusal(cloudwatch.set_alarm_state, AlarmName=MISSING, StateValue="OK", StateReason="r")[0]
        == "ResourceNotFound"
    )
    cloudwatch.delete_alarms(AlarmNames=[name])
    assert cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"] == []


def stat(metric: str, function: str = MISSING) -> dict[str, Any]:
    dimensions = [{"Name": "FunctionName", "Value": function}, {"Name": "Resource", "Value": f"{function}:live"}]
    own = {"Namespace": "AWS/Lambda", "MetricName": metric, "Dimensions": dimensions}
    return {"Metric": own, "Period": 60, "Stat": "Sum"}


def test_metric_that_does_not_exist_is_an_answer_without_points(account: Account) -> None:
    """Complete, and empty: absence is no zero, and no error.

    Source: CloudWatch API reference, GetMetricData; recorded AWS response, 2025-09-19, test_get_metric_with_no_results.
    """
    cloudwatch, now = account.client("cloudwatch"), account.now()
    span = {"StartTime": moment(now - 3600), "EndTime": moment(now)}
    queries = [{"Id": "m", "MetricStat": stat("Invocations")}]
    (found,) = cloudwatch.get_metric_data(MetricDataQueries=queries, **span)["MetricDataResults"]
    assert (found["Id"], found["Values"], found["Timestamps"], found["StatusCode"]) == ("m", [], [], "Complete")
    assert refusal(cloudwatch.get_metric_data, MetricDataQueries=queries * 2, **span)[0] == "ValidationError"
    turned = {"StartTime": span["EndTime"], "EndTime": span["StartTime"]}
    assert refusal(cloudwatch.get_metric_data, MetricDataQueries=queries, **turned)[0] == "ValidationError"


# CloudWatch Logs


def test_log_is_written_filtered_and_queried(account: Account) -> None:
    """What was put is found by a pattern and by a query; what does not exist is refused.

    Source: CloudWatch Logs API reference; recorded AWS responses, 2026-02, test_logs_groups, test_logs_queries.
    """
    logs, group = account.client("logs"), f"{PREFIX}log"
    logs.create_log_group(logGroupName=group)
    assert refusal(logs.create_log_group, logGroupName=group)[0] == "ResourceAlreadyExistsException"
    logs.create_log_stream(logGroupName=group, logStreamName="s")
    at = round(account.now() * 1000)
    lines = ["REPORT RequestId: a\tDuration: 9.00 ms\t\n", '{"type": "platform.report"}']
    events = [{"timestamp": at, "message": line} for line in lines]
    logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=events)

    def found(pattern: str) -> list[str]:
        page = logs.filter_log_events(logGroupName=group, filterPattern=pattern, startTime=at - 1, endTime=at + 1)
        return [event["message"] for event in page["events"]]

    account.wait(lambda: len(found("")) == 2)
    assert found('"REPORT RequestId"') == lines[:1] and found('{ $.type = "platform.report" }') == lines[1:]
    span = {"startTime": round(at / 1000) - 60, "endTime": round(at / 1000) + 60}

    def rows() -> list[Any]:
        query = logs.start_query(logGroupName=group, queryString="fields @message", **span)["queryId"]
        account.wait(lambda: logs.get_query_results(queryId=query)["status"] == "Complete")
        results: list[Any] = logs.get_query_results(queryId=query)["results"]
        return results

    assert len(account.wait(lambda: rows() if len(rows()) == 2 else [])) == 2
    for call, params in (
        (logs.filter_log_events, {"logGroupName": MISSING}),
        (logs.start_query, {"logGroupName": MISSING, "queryString": "fields @message", **span}),
    ):
        assert refusal(call, **params)[0] == "ResourceNotFoundException"


# Parameter Store


def test_parameter_is_not_overwritten_unasked(account: Account) -> None:
    """The lock of a freeze and of an isolation: the second writer is refused, and the first value stays.

    Source: Systems Manager API reference, PutParameter.
    """
    ssm, name = account.client("ssm"), f"{PARAMETERS}/freeze/1"
    ssm.put_parameter(Name=name, Value="first", Type="String")
    assert refusal(ssm.put_parameter, Name=name, Value="second", Type="String")[0] == "ParameterAlreadyExists"
    assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == "first"
    listed = account.wait(lambda: ssm.get_parameters_by_path(Path=PARAMETERS, Recursive=True)["Parameters"])
    assert [each["Name"] for each in listed] == [name]
    ssm.delete_parameter(Name=name)
    for call in (ssm.get_parameter, ssm.delete_parameter):
        assert refusal(call, Name=name)[0] == "ParameterNotFound"


# S3


def test_object_is_written_once_and_locked(account: Account) -> None:
    """A conditional put refuses a key that exists; a locked version cannot be deleted without bypassing its retention.

    Source: S3 user guide, conditional writes and Object Lock.
    """
    s3, bucket = account.client("s3"), f"{PREFIX}{uuid.uuid4().hex[:12]}"
    where = (
        {} if account.region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": account.region}}
    )
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True, **where)
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled"
    until = moment(account.now() + 86_400)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until, "ChecksumAlgorithm": "SHA256"}
    made = s3.put_object(Bucket=bucket, Key="run", Body=b"first", IfNoneMatch="*", **lock)
    code, _ = refusal(
        s3.put_object, Bucket=bucket, Key="run", Body=b"second", IfNoneMatch="*", ChecksumAlgorithm="SHA256"
    )
    assert code == "PreconditionFailed"
    assert s3.get_object(Bucket=bucket, Key="run")["Body"].read() == b"first"
    assert refusal(s3.delete_object, Bucket=bucket, Key="run", VersionId=made["VersionId"])[0] == "AccessDenied"
    assert refusal(s3.get_object, Bucket=bucket, Key="none")[0] == "NoSuchKey"


# DynamoDB


@pytest.fixture(scope="module")
def table(account: Account) -> str:
    ddb, name = account.client("dynamodb"), f"{PREFIX}table"
    ddb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    account.wait(lambda: ddb.describe_table(TableName=name)["Table"]["TableStatus"] == "ACTIVE")
    return name


def test_condition_that_fails_changes_nothing_and_returns_the_item(account: Account, table: str) -> None:
    """Source: DynamoDB API reference, PutItem; recorded AWS response, 2025-10-08, test_return_values_on_conditions_check_failure."""
    ddb = account.client("dynamodb")
    ddb.put_item(TableName=table, Item={"id": {"S": "a"}, "n": {"N": "1"}})
    second = {"TableName": table, "Item": {"id": {"S": "a"}, "n": {"N": "2"}}}
    asked = {"ConditionExpression": "attribute_not_exists(id)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    with pytest.raises(ClientError) as refused:
        ddb.put_item(**second, **asked)
    assert refused.value.response["Error"]["Code"] == "ConditionalCheckFailedException"
    assert refused.value.response["Item"] == {"id": {"S": "a"}, "n": {"N": "1"}}  # type: ignore[typeddict-item]


def test_transaction_is_all_or_nothing_and_repeatable(account: Account, table: str) -> None:
    """Each action has its reason; a token makes the second request answer as the first.

    Source: DynamoDB API reference, TransactWriteItems; recorded AWS responses, 2025-10-08, test_transaction_write_canceled,
    test_dynamodb_idempotent_writing.
    """
    ddb = account.client("dynamodb")
    fresh = {"Put": {"TableName": table, "Item": {"id": {"S": "t1"}}}}
    failing = {"Put": {"TableName": table, "Item": {"id": {"S": "t2"}}, "ConditionExpression": "attribute_exists(id)"}}
    with pytest.raises(ddb.exceptions.TransactionCanceledException) as refused:
        ddb.transact_write_items(TransactItems=[fresh, failing])
    reasons = [reason["Code"] for reason in refused.value.response["CancellationReasons"]]
    assert reasons == ["None", "ConditionalCheckFailed"]
    assert "Item" not in ddb.get_item(TableName=table, Key={"id": {"S": "t1"}}, ConsistentRead=True)
    token = uuid.uuid4().hex
    for number in ("1", "1", "2"):
        put = {"Put": {"TableName": table, "Item": {"id": {"S": "t3"}, "n": {"N": number}}}}
        given = {"TransactItems": [put], "ClientRequestToken": token}
        if number == "2":
            assert refusal(ddb.transact_write_items, **given)[0] == "IdempotentParameterMismatchException"
        else:
            ddb.transact_write_items(**given)


def test_limits_of_items_expressions_and_transactions(account: Account, table: str) -> None:
    """An item of 400 KB, an expression of 4 KB, 100 actions: what is over is refused.

    Source: DynamoDB developer guide, quotas.
    """
    ddb, large = account.client("dynamodb"), {"S": "x" * 400 * 1024}
    assert refusal(ddb.put_item, TableName=table, Item={"id": {"S": "l"}, "text": large})[0] == "ValidationException"
    long = {"UpdateExpression": "SET #n = :n" + " " * 4096, "ExpressionAttributeNames": {"#n": "n"}}
    key = {"TableName": table, "Key": {"id": {"S": "l"}}, "ExpressionAttributeValues": {":n": {"N": "1"}}}
    assert refusal(ddb.update_item, **key, **long)[0] == "ValidationException"
    many = [{"Put": {"TableName": table, "Item": {"id": {"S": f"m{number}"}}}} for number in range(101)]
    assert refusal(ddb.transact_write_items, TransactItems=many)[0] == "ValidationException"


def test_tables_that_cannot_be_restored(account: Account, table: str) -> None:
    """Without point-in-time recovery there is nothing to restore from; a table that does not exist is not found.

    Source: DynamoDB API reference, RestoreTableToPointInTime, DescribeTable.
    """
    ddb = account.client("dynamodb")
    given = {"SourceTableName": table, "TargetTableName": f"{table}-restored", "UseLatestRestorableTime": True}
    code = "PointInTimeRecoveryUnavailableException"
    assert refusal(ddb.restore_table_to_point_in_time, **given)[0] == code
    assert refusal(ddb.describe_table, TableName=MISSING)[0] == "ResourceNotFoundException"
    policy = refusal(ddb.get_resource_policy, ResourceArn=ddb.describe_table(TableName=table)["Table"]["TableArn"])
    assert policy[0] == "PolicyNotFoundException"


# SNS and STS


def test_topic_takes_messages_with_a_text(account: Account) -> None:
    """Nothing is sent to a topic that does not exist, nor without a text.

    Source: recorded AWS responses, 2023-08, TestSNSPublishCrud.
    """
    sns = account.client("sns")
    topic = sns.create_topic(Name=f"{PREFIX}topic")["TopicArn"]
    assert sns.publish(TopicArn=topic, Subject="contract", Message="m")["MessageId"]
    assert sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"] == []
    assert refusal(sns.publish, TopicArn=topic, Message="") == ("InvalidParameter", "Invalid parameter: Empty message")
    assert refusal(sns.publish, TopicArn=f"{topic}-none", Message="m") == ("NotFound", "Topic does not exist")


def test_caller_has_an_account_and_an_arn(account: Account) -> None:
    """Source: STS API reference, GetCallerIdentity."""
    found = account.client("sts").get_caller_identity()
    assert len(found["Account"]) == 12 and found["Arn"].split(":")[4] == found["Account"]
    assert abs(time.time() - account.now()) < 3600 or account.sandbox is not None
