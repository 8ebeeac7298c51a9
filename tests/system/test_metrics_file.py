"""The file that a user copies beside a handler: what it counts, and that no handler notices it."""

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest

from buddy_ops.cli import sandbox
from buddy_sandbox.situations import control

FILE = Path(__file__).parents[2] / "buddy_ops_metrics" / "buddy_ops_metrics.py"
CONTEXT = SimpleNamespace(
    function_name="shop",
    function_version="7",
    invoked_function_arn="arn:aws-cn:lambda:cn-north-1:123456789012:function:shop:live",
)
V2 = {"version": "2.0"}
BATCH = {"Records": [{"messageId": "a"}, {"messageId": "b"}, {"messageId": "c"}]}


@pytest.fixture
def file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("buddy_ops_metrics", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one line in the format that a request printed."""
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("kind", "event", "response", "failures"),
    [
        ("http", V2, {"statusCode": 499}, 0),
        ("http", V2, {"statusCode": 500}, 1),
        ("http", V2, {"statusCode": "503"}, 1),
        ("http", V2, {"statusCode": "none"}, 1),
        ("http", V2, "text", 0),
        ("http", {}, {"statusCode": 200}, 0),
        ("http", {}, "text", 1),
        ("http", None, None, 1),
        *[
            (kind, BATCH, response, failures)
            for kind in ("sqs", "stream")
            for response, failures in (
                (None, 0),
                ({}, 0),
                ({"batchItemFailures": []}, 0),
                ({"batchItemFailures": None}, 0),
                ({"batchItemFailures": [{"itemIdentifier": "b"}]}, 1),
                ({"batchItemFailures": [{"itemIdentifier": ""}]}, 3),
                ({"batchItemFailures": [{"wrong": "b"}]}, 3),
                ({"batchItemFailures": "b"}, 3),
            )
        ],
        ("alexa", {}, {"response": {}}, 0),
        ("async", {}, None, 0),
        ("custom", {}, {"statusCode": 500}, 0),
    ],
)
def test_each_kind_counts_its_own_failures(
    file: ModuleType, capsys: pytest.CaptureFixture[str], kind: str, event: Any, response: Any, failures: int
) -> None:
    """A request is one failure at most, whatever its batch holds; each request is a sample of both series.

    Source: Lambda developer guide, 'Implementing partial batch responses'; API Gateway developer guide, 'Create AWS
    Lambda proxy integrations for HTTP APIs'.
    """
    handler = file.Metrics("Shop", kind).log_metrics(lambda event, context: response)
    assert handler(event, CONTEXT) is response
    found = counted(capsys)
    assert (found["Requests"], found["Failures"]) == (1, min(1, failures))
    assert found.get("FailedItems", failures) == failures
    (directive,) = found["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["FunctionName", "Resource"], ["FunctionName", "Resource", "ExecutedVersion"]]
    assert (found["FunctionName"], found["Resource"], found["ExecutedVersion"]) == ("shop", "shop:live", "7")
    assert {each["Name"] for each in directive["Metrics"]} <= set(found)


@pytest.mark.parametrize("error", [KeyError("no"), SystemExit(1)])
def test_an_error_is_the_handlers_own_and_counts_at_lambda_alone(
    file: ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    """Counted in both, a request would be two failures."""

    @file.Metrics("Shop", "http").log_metrics
    def handler(event: Any, context: Any) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        handler(V2, CONTEXT)
    assert raised.value is error
    found = counted(capsys)
    assert (found["Requests"], found["Failures"]) == (1, 0)


def test_business_counters_begin_at_zero_in_each_request(file: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """What a request that timed out had counted is none of the next one's, and a number that is none spoils no line."""
    metrics = file.Metrics("Shop", counters=["Orders"])
    metrics.add_metric("Orders", value=5)

    @metrics.log_metrics
    def handler(event: list[Any], context: Any) -> None:
        for value in event:
            metrics.add_metric(name="Orders", value=value)

    handler([1, 2.5, math.nan, math.inf, "many", None], CONTEXT)
    assert counted(capsys)["Orders"] == 3.5
    handler([], CONTEXT)
    assert counted(capsys)["Orders"] == 0


def test_a_rule_of_ones_own_decides(file: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Also in place of the kind's; an answer that it cannot read is a failure."""
    metrics = file.Metrics("Shop", "http", failed=lambda event, response: "sorry" in response["says"])
    for response, failures in (({"says": "Hello", "statusCode": 500}, 0), ({"says": "I am sorry"}, 1), ({}, 1)):
        metrics.log_metrics(lambda event, context, response=response: response)({}, CONTEXT)
        assert counted(capsys)["Failures"] == failures


def test_nothing_reaches_the_caller(file: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A context without its names, as in a unit test of the handler, costs the metrics, not the answer."""
    assert file.Metrics("Shop", "http").log_metrics(lambda event, context: 7)(V2, None) == 7
    assert "no metrics" in capsys.readouterr().out
    metrics = file.Metrics("Shop")
    for number in range(300):
        metrics.add_metric(f"M{number}")
    handler = metrics.log_metrics(lambda event, context: [metrics.add_metric(f"M{number}") for number in range(300)])
    handler({}, CONTEXT)
    assert len(counted(capsys)["_aws"]["CloudWatchMetrics"][0]["Metrics"]) == 100


# On Lambda's runtime


HANDLER = """
import time
from buddy_ops_metrics import Metrics
@Metrics("Shop", KIND).log_metrics
def handler(event, context):
    what = event.get("what")
    if what == "raise":
        raise KeyError("no")
    if what == "hang":
        time.sleep(60)
    if what == "partial":
        return {"batchItemFailures": [{"itemIdentifier": "a"}]}
    return {"statusCode": 500 if what == "500" else 200}
"""


@pytest.fixture(scope="module")
def own() -> Iterator[str]:
    with sandbox.running_sandbox(seed=3) as url:
        control(url, "reset", seed=7)
        control(url, "set", metrics_delay_s=0)
        yield url


def client(url: str, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=url, **keys)


def sums(url: str, name: str, namespace: str, metric: str, **more: str) -> list[float]:
    now = control(url, "clock")["now"]
    points = client(url, "cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[
            {"Name": key, "Value": value}
            for key, value in {"FunctionName": name, "Resource": f"{name}:live", **more}.items()
        ],
        StartTime=now - 3600,
        EndTime=now + 3600,
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    return [float(each["Sum"]) for each in points]


@pytest.mark.sandbox
@pytest.mark.parametrize(
    ("kind", "what", "failures", "errors"),
    [
        pytest.param("http", "200", 0, 0, marks=pytest.mark.whole),
        ("http", "500", 1, 0),
        ("http", "raise", 0, 1),
        ("http", "hang", 0, 1),
        ("sqs", "partial", 1, 0),
    ],
)
def test_a_request_of_a_real_handler_is_counted_once(
    own: str, tmp_path: Path, kind: str, what: str, failures: int, errors: int
) -> None:
    """CloudWatch has each failure in Lambda's Errors or in Failures, by the version that ran, and in both for none."""
    (tmp_path / "app.py").write_text(HANDLER.replace("KIND", repr(kind)))
    (tmp_path / FILE.name).write_bytes(FILE.read_bytes())
    name = f"{kind}-{what}"
    given = {"requests_per_minute": 0, "history_minutes": 0, "kind": kind}
    control(own, "function", name=name, artifact=str(tmp_path), **given)
    client(own, "lambda").invoke(FunctionName=name, Qualifier="live", Payload=json.dumps({"what": what}))
    assert sums(own, name, "AWS/Lambda", "Errors") == [errors]
    assert sum(sums(own, name, "Shop", "Failures", ExecutedVersion="1")) == failures
    assert sum(sums(own, name, "Shop", "Failures")) == failures
