"""A reply that is cut, or not from AWS, is a failed call: never an empty list, and never an error of Python's."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import botocore.session
import pytest

from buddy_ops.aws import _client, _replies, aliases, freezes, versions
from buddy_ops.core.errors import Throttled, Unreachable
from buddy_ops.health import alarms
from tests.conftest import Situation
from tests.resilience.harness import no_backoff
from tests.resilience.proxy import PAGE, Proxy, faulty

Bring = Callable[..., Situation]
LIBRARY = Path(_replies.__file__).parents[1]
CALLS = (
    *(("lambda", name) for name in ("GetAlias", "UpdateAlias", "PublishVersion", "ListVersionsByFunction", "ListAliases")),
    *(("cloudwatch", name) for name in ("GetMetricData", "DescribeAlarms", "ListMetrics")),
    *(("ssm", name) for name in ("GetParametersByPath", "GetParameter", "PutParameter")),
    *(("scheduler", name) for name in ("CreateSchedule", "UpdateSchedule")),
    *(("sts", "GetCallerIdentity"), ("sns", "Publish"), ("dynamodb", "Scan"), ("logs", "GetQueryResults")),
    ("s3", "ListObjectsV2"),
)  # fmt: skip
FOREIGN = (
    PAGE,
    b"",
    b"{}",
    b"[]",
    b"null",
    b'"ok"',
    b'{"message": "Forbidden"}',
    b'{"Name": "live", "Func',
    b"<a/>",
    b"\xff",
)


def parse(service: str, operation: str, body: bytes, status: int = 200) -> dict[str, Any]:
    model = botocore.session.get_session().get_service_model(service)
    parser = _replies.ParserFactory().create_parser(model.resolved_protocol)
    response = {"status_code": status, "headers": {}, "body": body, "context": {"operation_name": operation}}
    return parser.parse(response, model.operation_model(operation).output_shape)


@pytest.mark.parametrize(("service", "operation"), CALLS)
def test_foreign_answer_is_a_failed_call(service: str, operation: str) -> None:
    """Whatever stands in the body, the SDK is told to try again, and what stays incomplete is an error."""
    for body in FOREIGN:
        reply = parse(service, operation, body)
        assert reply["Error"]["Code"] == _replies.RETRIED, body
        with pytest.raises(_replies.IncompleteReply, match="cut, or not from AWS"):
            _replies.require_complete(reply)


def test_member_of_a_list_may_be_what_is_missing() -> None:
    """A list of aliases of which one has no version."""
    whole = {"Name": "live", "FunctionVersion": "1", "RevisionId": "a"}
    good = parse("lambda", "ListAliases", json.dumps({"Aliases": [whole]}).encode())
    _replies.require_complete(good)
    bad = parse("lambda", "ListAliases", json.dumps({"Aliases": [whole, {"Name": "other"}]}).encode())
    assert "without FunctionVersion" in bad["Error"]["Message"]


@pytest.mark.parametrize(
    ("service", "operation"),
    [("lambda", "GetFunctionConcurrency"), ("scheduler", "DeleteSchedule"), ("dynamodb", "GetItem")],
)
def test_empty_answer_may_be_whole(service: str, operation: str) -> None:
    """No reserved concurrency, nothing to say, no such item."""
    reply = parse(service, operation, b"{}")
    _replies.require_complete(reply)
    assert "Error" not in reply


@pytest.fixture
def proxy(sandbox_url: str) -> Iterator[Proxy]:
    with no_backoff(), faulty(sandbox_url) as proxy:
        yield proxy


@pytest.mark.parametrize("kind", ["page", "page_503", "cut", "emptied", "bodyless", "500"])
def test_cut_or_foreign_answers_are_retried_then_told(
    situation: Bring, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Twice is survived; three times is 'aws-unreachable', whose next step, the same again, works."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    mine = here.connect()
    reads = (aliases.require_alias, versions.list_versions, freezes.active_freezes, alarms.alarms_in_alarm)
    for read in reads:
        told = read(mine)
        proxy.strike(kind, times=2)
        assert read(mine) == told
        proxy.strike(kind, times=3)
        with pytest.raises(Unreachable) as failed:
            read(mine)
        assert failed.value.reference == "aws-unreachable"
        assert failed.value.now.endswith("changed nothing.")
        assert "Run the same command again" in failed.value.next
        assert read(mine) == told


def test_number_of_a_proxy_is_no_error_of_aws(situation: Bring, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's 429 says to check the network; AWS's own is its throttling."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    mine = here.connect()
    proxy.strike("429", times=3)
    with pytest.raises(Unreachable, match="HTTP 429: upstream says no"):
        aliases.read_alias(mine)
    here.ask("chaos", kind="throttled", operation="GetAlias", times=3)
    with pytest.raises(Throttled, match="aws-unavailable"):
        aliases.read_alias(mine)


def test_answer_of_the_skill_that_is_cut(situation: Bring, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invoke is sent once: half an answer is an error that does not say that nothing ran."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    mine = here.connect()
    proxy.strike("cut", times=1)
    with pytest.raises(Unreachable, match="cut, or not from AWS") as failed:
        versions.invoke(mine, "1", {"request": {"type": "LaunchRequest"}}, 8)
    assert failed.value.now.startswith("Unknown")


@pytest.mark.parametrize(
    "sent", [1793588400, 1793588400.0, "1793588400", "2026-11-02T03:00:00Z", "Mon, 02 Nov 2026 03:00:00 GMT"]
)
def test_time_of_a_reply_is_in_utc(sent: str | float) -> None:
    """In each form that a service sends it, whatever this machine's time zone."""
    found = _replies.parse_time(sent)
    assert found == datetime(2026, 11, 2, 3, tzinfo=UTC)
    assert found.utcoffset() == timedelta()


@pytest.mark.parametrize("sent", ["soon", "", {}, [1]])
def test_foreign_time_is_a_failed_call(sent: object) -> None:
    """A time that is none makes the reply one that is not from AWS."""
    reply = parse("scheduler", "GetSchedule", json.dumps({"CreationDate": sent}).encode())
    assert reply["Error"]["Code"] == _replies.RETRIED


SERVICES = get_args(_client.Service)
NO_MEMBER = {
    *("Action", "ManagedPolicyArns", "PolicyDocument", "Properties", "Resource", "Resources", "Statement"),  # a policy
    *("LogGroupName", "SigningKeyArn"),  # what we send
    *("InteractiveRun", "ParameterTypeDef"),
}
"""Keys like members' names of what is none of AWS's replies."""

TESTED_FOR = {
    *("EarliestRestorableDateTime", "LatestRestorableDateTime"),  # of an enabled recovery
    "AlarmActions",  # of an alarm that has some
    *("Input", "Rule", "DefaultRetention", "ObjectLockRetainUntilDate"),  # within a try
    *("AlarmDescription", "DimensionTypeDef", "MetricStat", "UpdateExpression"),  # of a request of ours
    *("Body", "Payload"),  # streams, which botocore adds
    *("Error", "HTTPHeaders", "Message", "ResponseMetadata"),  # what botocore adds
}
"""Members that a reply may lack, and whose readers expect that."""


def required_names() -> set[str]:
    """Every member that some reply must have, by AWS's models and by ``REQUIRED``."""
    found = {name.rpartition(".")[2] for names in _replies.REQUIRED.values() for name in names}
    session = botocore.session.get_session()
    for service in SERVICES:
        model = session.get_service_model(service)
        found |= {
            name for shape in model.shape_names for name in getattr(model.shape_for(shape), "required_members", ())
        }
    return found


def indexed_names() -> dict[str, str]:
    """Each key like a member's name that the library indexes, with a place; an assignment is none."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Subscript(slice=ast.Constant(value=str(name)), ctx=ast.Load()):
                    found[name] = f"{path.relative_to(LIBRARY)}:{node.lineno}"
    return {name: place for name, place in found.items() if re.fullmatch(r"[A-Z]+[a-z]\w*", name)}


def test_a_member_that_is_indexed_is_required() -> None:
    """A member that AWS's model lets a reply lack is demanded of it in ``REQUIRED``, or read with ``get``."""
    indexed = indexed_names()
    assert {"FunctionVersion", "TableStatus"} <= indexed.keys()
    expected = required_names() | NO_MEMBER | TESTED_FOR
    loose = {name: place for name, place in indexed.items() if name not in expected}
    assert not loose
    assert indexed.keys() >= NO_MEMBER | TESTED_FOR, "remove what is no longer indexed"
