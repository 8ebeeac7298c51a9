"""Whether a reply is a whole one from AWS: a proxy may cut it, or answer in AWS's place.

botocore takes a reply without its members for a reply with nothing in it: a cut list of alarms reads as no alarms.
Here such a reply becomes an error that the SDK sends the call again for, as for any other that is lost on its way.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, Shape, StructureShape
from botocore.parsers import ResponseParser, ResponseParserError, ResponseParserFactory
from botocore.utils import parse_timestamp

RETRIED = "RequestTimeout"
"""The SDK repeats a call whose error has this code, within its attempts."""

CODE = "incomplete-reply"
"""The code of our error where every attempt was answered so."""

MARK = "Incomplete"

REQUIRED: dict[str, tuple[str, ...]] = {
    # Lambda
    "AliasConfiguration": ("Name", "FunctionVersion", "RevisionId"),
    "ListAliasesResponse": ("Aliases",),
    "FunctionConfiguration": (
        *("FunctionName", "FunctionArn", "Version", "CodeSha256", "RevisionId", "LastModified", "Role", "Timeout"),
    ),
    "ListVersionsByFunctionResponse": ("Versions",),
    "InvocationResponse": ("StatusCode", "ExecutedVersion"),
    "Concurrency": ("ReservedConcurrentExecutions",),
    "ListTagsResponse": ("Tags",),
    "ListProvisionedConcurrencyConfigsResponse": ("ProvisionedConcurrencyConfigs",),
    "ProvisionedConcurrencyConfigListItem": ("FunctionArn", "RequestedProvisionedConcurrentExecutions", "Status"),
    "GetAccountSettingsResponse": ("AccountLimit", "AccountUsage"),
    "GetPolicyResponse": ("Policy",),
    "ListEventSourceMappingsResponse": ("EventSourceMappings",),
    # Scheduler, CloudWatch
    "GetScheduleOutput": ("ScheduleExpression", "Target"),
    "ScheduleSummary": ("GroupName", "LastModificationDate"),
    "GetMetricDataOutput": ("MetricDataResults",),
    "MetricDataResult": ("Id", "Timestamps", "Values", "StatusCode"),
    "ListMetricsOutput": ("Metrics",),
    "DescribeAlarmsOutput": ("MetricAlarms",),
    "MetricAlarm": ("AlarmName", "StateValue", "StateUpdatedTimestamp"),
    "DescribeAlarmHistoryOutput": ("AlarmHistoryItems",),
    "AlarmHistoryItem": ("AlarmName", "Timestamp", "HistorySummary", "HistoryData"),
    # SSM, STS, SNS, IAM, KMS, Logs
    "GetParametersByPathResult": ("Parameters",),
    "GetParameterResult": ("Parameter",),
    "Parameter": ("Name", "Value"),
    "PutParameterResult": ("Version",),
    "GetCallerIdentityResponse": ("Account", "Arn"),
    "AssumeRoleResponse": ("Credentials",),
    "PublishResponse": ("MessageId",),
    "ListSubscriptionsByTopicResponse": ("Subscriptions",),
    "Subscription": ("Protocol", "SubscriptionArn"),
    "SimulatePolicyResponse": ("EvaluationResults",),
    "GetPublicKeyResponse": ("PublicKey", "SigningAlgorithms"),
    "SignResponse": ("KeyId", "Signature"),
    "VerifyResponse": ("SignatureValid",),
    "StartQueryResponse": ("queryId",),
    "GetQueryResultsResponse": ("status", "results"),
    "DescribeLogGroupsResponse": ("logGroups",),
    # DynamoDB
    # A table that is being deleted is answered without its key.
    "DescribeTableOutput": ("Table", "Table.KeySchema", "Table.AttributeDefinitions"),
    "TableDescription": ("TableStatus", "TableArn", "ItemCount"),
    "DescribeContinuousBackupsOutput": ("ContinuousBackupsDescription",),
    "ContinuousBackupsDescription": ("PointInTimeRecoveryDescription",),
    "PointInTimeRecoveryDescription": ("PointInTimeRecoveryStatus",),
    "ScanOutput": ("Items",),
    "BatchGetItemOutput": ("Responses",),
    "GetResourcePolicyOutput": ("Policy", "RevisionId"),
    "RestoreTableToPointInTimeOutput": ("TableDescription",),
    # S3. An empty listing has no Contents.
    "ListObjectsV2Output": ("Name",),
    "Object": ("Key",),
    "ListObjectVersionsOutput": ("Name",),
    "ObjectVersion": ("Key", "VersionId"),
    "DeleteMarkerEntry": ("Key", "VersionId"),
    "PutObjectOutput": ("ETag",),
    "GetObjectOutput": ("ETag",),
    "HeadObjectOutput": ("ContentLength",),
    "GetObjectLockConfigurationOutput": ("ObjectLockConfiguration",),
    "DefaultRetention": ("Mode",),
}
"""What AWS always sends and we read, by the name of its type in AWS's model. The models demand little of it.

'Table.KeySchema' is a member of the member: another reply with the same type may lack it.
"""


DRY_RUN = ("InvocationResponse", 204)
"""Lambda's answer to a dry run: its status alone. Source: Lambda API reference, Invoke."""


class IncompleteReply(ResponseParserError):
    """Every attempt of a call was answered in part, or by something that is not AWS."""


class ParserFactory(ResponseParserFactory):
    """Makes botocore's parsers, each with a check of what it made of a reply."""

    def __init__(self) -> None:
        super().__init__()
        self.set_parser_defaults(timestamp_parser=parse_time)

    def create_parser(self, protocol_name: str) -> "_Parser":
        return _Parser(super().create_parser(protocol_name))


def parse_time(value: str | float) -> datetime:
    """A reply's time, in UTC. botocore takes each through the machine's time zone: a sixth of a rollout's CPU time."""
    with suppress(ValueError, OverflowError):
        return datetime.fromtimestamp(float(value), UTC)
    # HTTP dates, and what else AWS may come to send.
    found: datetime = parse_timestamp(str(value))
    return found


def require_complete(reply: Mapping[str, Any]) -> None:
    """Raise for a reply that stayed incomplete in every attempt.

    Raises:
        IncompleteReply: with what is wrong with it.
    """
    error = reply.get("Error")
    if isinstance(error, Mapping) and error.get(MARK):
        raise IncompleteReply(error["Message"])


class _Parser(ResponseParser):
    """A parser of botocore's, in front of another one."""

    def __init__(self, parser: ResponseParser) -> None:
        super().__init__()
        self._parser = parser

    def parse(self, response: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        """The reply; an error where it is incomplete, or is none of AWS's. An operation may have no output."""
        if _is_page(response):
            return _incomplete(response, "a web page")
        try:
            parsed = self._parser.parse(response, shape)
        # Whatever a parser does not expect, it meets with an error of any kind.
        except Exception as error:
            return _incomplete(response, f"{type(error).__name__}: {error}")
        if not isinstance(parsed, dict):
            return _incomplete(response, "no object")
        status = response["status_code"]
        # An error has none of the operation's members.
        if status < 300 and isinstance(shape, StructureShape) and (shape.name, status) != DRY_RUN:
            missing = next(_missing(parsed, shape), None)
            if missing is not None:
                return _incomplete(response, f"without {missing}")
        return parsed


def _is_page(response: Mapping[str, Any]) -> bool:
    body = response.get("body")
    if not isinstance(body, bytes):
        return False  # a stream, which is read later
    # '<!doctype html' has 14 characters.
    return body.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _missing(parsed: Mapping[str, Any], shape: StructureShape) -> Iterator[str]:
    """The members that AWS always sends and this reply lacks, the reply's own first."""
    for name in (*shape.required_members, *REQUIRED.get(shape.name, ())):
        value: Any = parsed
        for part in name.split("."):
            value = (value or {}).get(part)
        if value is None:
            yield name
    for name, member in shape.members.items():
        value = parsed.get(name)
        # A list of 20 whole aliases may have one that is cut.
        if isinstance(member, ListShape) and isinstance(member.member, StructureShape):
            for item in value or ():
                yield from _missing(item, member.member)
        elif isinstance(member, StructureShape) and isinstance(value, Mapping):
            yield from _missing(value, member)


def _incomplete(response: Mapping[str, Any], why: str) -> dict[str, Any]:
    """An error in the place of the reply. It has none of its headers: a proxy's time is not AWS's."""
    status = response["status_code"]
    message = f"a reply that is cut, or not from AWS (HTTP {status}, {why})"
    return {
        "Error": {"Code": RETRIED, "Message": message, MARK: True},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
