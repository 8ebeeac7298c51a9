"""Functions of the user's own: their handlers really run, and CloudWatch and the logs tell what they did."""

import json
import urllib.error
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from buddy_sandbox import events, own_functions
from buddy_sandbox.handlers import MOST_HANGS, MOST_STARTS, Handler
from buddy_sandbox.runtime import Execution
from buddy_sandbox.situations import control
from buddy_sandbox.sources import Caller

GOOD = """
import json
def handler(event, context):
    print("asked for", event["rawPath"])
    emf = {"CloudWatchMetrics": [{"Namespace": "Shop", "Dimensions": [["Version"]], "Metrics": [{"Name": "Orders"}]}]}
    print(json.dumps({"_aws": emf, "Version": context.function_version, "Orders": [1, 1]}))
    return {"statusCode": 200, "body": "ok"}
"""
TENTH = GOOD.replace("200,", "500 if int(context.aws_request_id[-2:], 16) % 10 == 0 else 200,")
RAISES = "import time\ndef handler(event, context):\n    time.sleep(0.25)\n    raise KeyError('no')\n"

Deploy = Callable[..., dict[str, Any]]


def folder(path: Path, source: str, file: str = "app.py") -> str:
    path.mkdir()
    (path / file).write_text(source)
    return str(path)


HOME = ("123456789012", "us-east-1")
"""The account and the region of what says neither."""


def client(url: str, service: str, place: tuple[str, str] = HOME) -> Any:
    keys = {"aws_access_key_id": place[0], "aws_secret_access_key": "test", "region_name": place[1]}
    return boto3.client(service, endpoint_url=url, **keys)


@pytest.fixture
def deploy(sandbox_url: str) -> Deploy:
    """Deploys into an empty account, whose metrics are visible at once: ``deploy(artifact, kind="http")``."""
    control(sandbox_url, "reset", seed=7)
    control(sandbox_url, "set", metrics_delay_s=0, logs_delay_s=0)

    def deploy_here(artifact: str, name: str = "shop", **fields: Any) -> dict[str, Any]:
        fields = {"requests_per_minute": 60, "history_minutes": 5, "kind": "http", **fields}
        return control(sandbox_url, "function", name=name, artifact=artifact, **fields)

    return deploy_here


def refusal(deploy: Deploy, artifact: str, **fields: Any) -> str:
    with pytest.raises(urllib.error.HTTPError) as refused:
        deploy(artifact, **fields)
    return str(json.loads(refused.value.read())["error"])


def minutes(
    url: str,
    name: str,
    namespace: str,
    statistic: str,
    place: tuple[str, str] = HOME,
    last_s: float = 3600,
    **dimensions: str,
) -> list[float]:
    """A statistic of a metric in each of the latest minutes that have any data."""
    now = control(url, "clock")["now"]
    points = client(url, "cloudwatch", place).get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now - last_s,
        EndTime=now,
        Period=60,
        Statistics=[statistic],
    )["Datapoints"]
    return [float(each[statistic]) for each in points]


def total(url: str, name: str, namespace: str = "AWS/Lambda", **dimensions: str) -> float:
    return sum(minutes(url, name, namespace, "Sum", **dimensions))


def ship(url: str, package: bytes, weight: float, name: str = "shop") -> None:
    """Publish a package as version 2, and give it a share of the traffic for five minutes."""
    lam = client(url, "lambda")
    lam.update_function_code(FunctionName=name, ZipFile=package)
    control(url, "advance", seconds=60)
    lam.publish_version(FunctionName=name)
    lam.update_alias(FunctionName=name, Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": weight}})
    control(url, "advance", seconds=300)


def lines(url: str, name: str = "shop") -> list[str]:
    pages = client(url, "logs").get_paginator("filter_log_events").paginate(logGroupName=f"/aws/lambda/{name}")
    return [event["message"] for page in pages for event in page["events"]]


# Its requests


def test_every_request_invokes_the_handler_of_the_version_that_routing_picks(
    deploy: Deploy, sandbox_url: str, tmp_path: Path
) -> None:
    """Function URL metrics, EMF metrics with the version, and report lines tell of each request.

    Source: Lambda developer guide, 'Monitoring Lambda function URLs'.
    """
    (found,) = deploy(folder(tmp_path / "good", GOOD))["functions"]
    assert found["kind"] == "http" and found["requests"]["copied"] == 0
    here = {"FunctionName": "shop", "Resource": "shop:live"}
    asked = total(sandbox_url, "UrlRequestCount", **here)
    assert asked == total(sandbox_url, "Invocations", **here) == found["requests"]["real"]
    assert total(sandbox_url, "Url5xxCount", **here) == total(sandbox_url, "Errors", **here) == 0
    assert total(sandbox_url, "Orders", "Shop", Version="1") == 2 * asked

    ship(sandbox_url, own_functions.read_package(folder(tmp_path / "tenth", TENTH)), 0.5)
    second = total(sandbox_url, "Orders", "Shop", Version="2") / 2
    assert 100 < second < 200
    assert second / 20 < total(sandbox_url, "Url5xxCount", **here) < second / 5
    assert total(sandbox_url, "Errors", **here) == 0, "Lambda counts no status of HTTP"
    assert total(sandbox_url, "Invocations", **here, ExecutedVersion="2") == second
    said = lines(sandbox_url)
    assert sum("asked for /" in line for line in said) == sum(line.startswith("REPORT") for line in said) > second


def test_a_handler_that_raises_is_an_error_with_its_own_text_and_sleeps(
    deploy: Deploy, sandbox_url: str, tmp_path: Path
) -> None:
    """Errors, 5xx of the function URL, virtual durations, and the error line under the request's own id."""
    deploy(folder(tmp_path / "raises", RAISES), requests_per_minute=20)
    here = {"FunctionName": "shop", "Resource": "shop:live"}
    asked = total(sandbox_url, "Invocations", **here)
    assert asked == total(sandbox_url, "Errors", **here) == total(sandbox_url, "Url5xxCount", **here) > 0
    assert total(sandbox_url, "Duration", **here) == pytest.approx(251 * asked)
    said = lines(sandbox_url)
    assert sum(line.startswith("[ERROR] KeyError: 'no'") for line in said) == asked
    assert len({line for line in said if line.startswith("REPORT")}) == asked


def test_the_same_seed_gives_the_same_figures_however_time_is_sliced(
    deploy: Deploy, sandbox_url: str, tmp_path: Path
) -> None:
    """With few real requests the others copy; how time passed does not matter, and each request has its own id."""
    artifact = folder(tmp_path / "tenth", TENTH)
    here = {"FunctionName": "shop", "Resource": "shop:live"}
    seen = []
    for slices in (1, 7):
        control(sandbox_url, "reset", seed=7)
        control(sandbox_url, "set", metrics_delay_s=0, logs_delay_s=0, real_requests_per_minute=10)
        deploy(artifact, requests_per_minute=100, history_minutes=0)
        for _ in range(slices):
            control(sandbox_url, "advance", seconds=420 / slices)
        (found,) = control(sandbox_url, "status")["functions"]
        seen.append((found["requests"], total(sandbox_url, "Url5xxCount", **here), sorted(lines(sandbox_url))))
    assert seen[0] == seen[1]
    counts, failed, said = seen[0]
    assert 40 < counts["real"] < 110 and counts["copied"] > 5 * counts["real"] and failed > 0
    assert len({line for line in said if line.startswith("REPORT")}) == counts["real"] + counts["copied"]


def test_a_handler_that_ends_its_process_is_started_only_so_often_a_minute(
    deploy: Deploy, sandbox_url: str, tmp_path: Path
) -> None:
    """What cannot be imported would start a process for each request."""
    source = "raise RuntimeError('broken')\ndef handler(event, context):\n    pass\n"
    (found,) = deploy(folder(tmp_path / "broken", source), history_minutes=2)["functions"]
    assert found["requests"]["real"] <= 3 * MOST_STARTS < found["requests"]["copied"]
    here = {"FunctionName": "shop"}
    assert (
        total(sandbox_url, "Errors", **here)
        == total(sandbox_url, "Invocations", **here)
        == sum(found["requests"].values())
    )


class Hanging:
    """An invoker of a handler that waits until its timeout."""

    def run_version(self, *_: str, **__: Any) -> Execution:
        return Execution(b"{}", "timeout", ["late"], 10_000.0, None, hung=True)


def test_few_requests_a_minute_wait_in_real_time_until_their_timeout() -> None:
    """The others of the minute take over that outcome."""
    handler = Handler(Caller("custom", None), Hanging(), "shop", "live", "1")
    for second in range(100):
        ended = handler.run(f"r{second}", 0.6 * second, chosen=True, draw=second / 100)
        assert ended.done.status == "timeout"
    assert (handler.real, handler.copied) == (MOST_HANGS, 100 - MOST_HANGS)


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (b'{"statusCode": 404}', 404),
        (b'{"statusCode": "503"}', 503),
        (b'{"hello": 1}', 200),
        (b'"hello"', 200),
        (b'{"statusCode": "bad"}', 502),
        (None, 502),
    ],
)
def test_status_of_a_function_url(result: bytes | None, status: int) -> None:
    """Without a status it is 200; an error of the function is 502.

    Source: Lambda developer guide, 'Invoking Lambda function URLs', response payload format.
    """
    assert events.http_status(result) == status


def test_event_replaces_members_of_the_kinds_own() -> None:
    """Method and path are set beside what is there."""
    given = {"rawPath": "/orders", "requestContext": {"http": {"method": "POST", "path": "/orders"}}}
    made = events.event("http", "r", 0.0, given)
    assert (made["version"], made["rawPath"]) == ("2.0", "/orders")
    assert made["requestContext"]["http"]["method"] == "POST" and made["requestContext"]["http"]["protocol"]
    assert events.event("custom", "r", 0.0, None) == {}
    assert events.event("alexa", "r", 0.0, None)["request"]["type"] == "LaunchRequest"


# Its deployment


def test_several_functions_have_traffic_of_their_own(deploy: Deploy, sandbox_url: str, tmp_path: Path) -> None:
    """Their requests differ, and one's rate changes alone or with all."""
    artifact = folder(tmp_path / "good", GOOD)
    deploy(artifact)
    deploy(artifact, name="stock", history_minutes=0)
    control(sandbox_url, "advance", seconds=600)
    counts = [total(sandbox_url, "Invocations", FunctionName=name) for name in ("shop", "stock")]
    assert min(counts) > 500 and counts[0] != counts[1]
    rates = [each["requests_per_minute"] for each in control(sandbox_url, "set", logs_delay_s=1)["functions"]]
    assert rates == [60, 60]
    control(sandbox_url, "set", function="stock", requests_per_minute=30)
    rates = [each["requests_per_minute"] for each in control(sandbox_url, "status")["functions"]]
    assert rates == [60, 30]
    rates = [each["requests_per_minute"] for each in control(sandbox_url, "set", requests_per_minute=5)["functions"]]
    assert rates == [5, 5]


def test_what_cannot_run_is_refused_with_the_reason(deploy: Deploy, tmp_path: Path) -> None:
    """Images, missing files, no handler or several, and a name that is taken."""
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:" + "0" * 64
    assert "container image cannot run in the sandbox" in refusal(deploy, image)
    assert "is no zip and no folder" in refusal(deploy, str(tmp_path / "none"))
    assert "--handler app.handler" in refusal(deploy, folder(tmp_path / "empty", "", "readme.md"))
    two = folder(tmp_path / "two", GOOD)
    (tmp_path / "two" / "main.py").write_text(GOOD)
    assert "app.handler, main.handler" in refusal(deploy, two)
    assert deploy(two, handler="main.handler", history_minutes=0)["functions"]
    assert "already exist" in refusal(deploy, two, handler="main.handler")


def test_a_folder_is_packed_without_secrets_and_links(tmp_path: Path) -> None:
    """The same bytes for the same files; never .env, .git or what a link leads to."""
    path = tmp_path / "app"
    folder(path, GOOD)
    (path / ".git").mkdir()
    for name in (".env", ".git/config", "data.txt"):
        (path / name).write_text("secret")
    (path / "out").symlink_to(tmp_path)
    packed = own_functions.read_package(str(path))
    (tmp_path / "app.zip").write_bytes(packed)
    with zipfile.ZipFile(tmp_path / "app.zip") as archive:
        assert archive.namelist() == ["app.py", "data.txt"]
    assert packed == own_functions.read_package(str(tmp_path / "app.zip")) == own_functions.read_package(str(path))
