"""The sandbox as a process: started, found, brought into situations, reset and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import boto3
import botocore.exceptions
import pytest
from botocore.exceptions import ClientError

from buddy_ops.cli import sandbox
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_sandbox import conditions
from buddy_sandbox.conditions import Conditions
from buddy_sandbox.scenarios import Scenario
from tests.aws.test_session import web
from tests.conftest import Situation, sampled

pytestmark = pytest.mark.sandbox

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def second() -> Iterator[str]:
    """Another sandbox beside the worker's own."""
    with sandbox.running_sandbox(seed=11) as url:
        yield url


def client(url: str, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=url, **keys)


def functions(url: str) -> list[str]:
    return [each["FunctionName"] for each in client(url, "lambda").list_functions()["Functions"]]


# Its process


def test_two_sandboxes_stand_side_by_side(situation: Bring, second: str) -> None:
    """Each has its own port, seed, account and time; nothing done in one is seen in the other."""
    here = situation("good", history_minutes=0)
    sandbox.call_sandbox(second, "scenario", name="night", environment="prod", seed=11)
    assert functions(here.endpoint) == ["buddy-alexa-skill-sandbox"] and functions(second) == ["buddy-alexa-skill-prod"]
    before = here.ask("clock")["now"]
    sandbox.call_sandbox(second, "advance", seconds=3600)
    assert here.ask("clock")["now"] == before
    assert (here.ask("status")["seed"], sandbox.call_sandbox(second, "status")["seed"]) == (7, 11)
    client(second, "ssm").put_parameter(Name="/buddy/x", Value="1", Type="String")
    assert here.client("ssm").get_parameters(Names=["/buddy/x"])["Parameters"] == []


def test_a_taken_port_is_a_clear_message(sandbox_url: str) -> None:
    """Starting where something listens already names the port, changes nothing, and says what can be done."""
    port = int(sandbox_url.rpartition(":")[2])
    with pytest.raises(BuddyError, match="port-taken") as refused:
        sandbox.start_sandbox(port)
    assert str(port) in refused.value.what and "--port" in refused.value.next
    assert sandbox.call_sandbox(sandbox_url, "status")["sandbox"] is True


@pytest.mark.whole
def test_a_port_that_another_program_holds_is_a_clear_message() -> None:
    """It need not be a sandbox that listens there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(BuddyError, match="port-taken"):
            sandbox.start_sandbox(other.getsockname()[1])


def launch() -> tuple[subprocess.Popen[str], str]:
    """A sandbox's process, and its URL."""
    command = [sys.executable, "-m", "buddy_sandbox.server", "--port=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["endpoint"]


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only waits for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", sampled(["stop", "SIGTERM"], slice(1)))
def test_stopping_ends_the_process(how: str) -> None:
    """``stop``, or SIGTERM, ends the process with 0, says nothing, and frees the port."""
    process, url = launch()
    try:
        if how == "stop":
            assert sandbox.call_sandbox(url, "stop") == {"stopping": True}
        else:
            process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, ("", ""))
    with pytest.raises(BuddyError, match="sandbox-not-running") as gone:
        sandbox.call_sandbox(url, "status")
    assert "buddy-ops sandbox start" in gone.value.next
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))


def test_stopping_ends_what_it_started(situation: Bring) -> None:
    """The worker processes that ran a build's handler go with the sandbox."""
    process, url = launch()
    try:
        sandbox.call_sandbox(url, "scenario", name="good", overrides={"history_minutes": 0, "requests_per_minute": 0})
        reply = client(url, "lambda").invoke(
            FunctionName="buddy-alexa-skill-sandbox",
            Qualifier="live",
            Payload=b'{"request": {"type": "LaunchRequest"}}',
        )
        assert reply["StatusCode"] == 200
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("needs /proc")
        workers = {
            int(each) for tid in children.parents[1].iterdir() for each in (tid / "children").read_text().split()
        }
        assert workers
        sandbox.call_sandbox(url, "stop")
        process.wait(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert [pid for pid in workers if is_running(pid)] == []


def test_it_listens_on_loopback_only(sandbox_url: str) -> None:
    """Nobody else on the network reaches it."""
    assert sandbox_url.startswith("http://127.0.0.1:")
    port = int(sandbox_url.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    held = [fields[1] for fields in listening if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port]
    assert held and all(each.startswith("0100007F:") for each in held)


# Situations


def test_a_reset_forgets_everything(situation: Bring) -> None:
    """Functions, schedules, metrics, logs, calls, outages, clients and moto's own services are as on the first day."""
    here = situation("good", history_minutes=10)
    here.client("ssm").put_parameter(
        Name="/buddy-ops/buddy-alexa-skill-sandbox/live/freeze/1", Value="x", Type="String"
    )
    here.client("sqs").create_queue(QueueName="letters")
    here.client("sns").create_topic(Name="alarms")
    here.client("dynamodb").create_table(
        TableName="reminders",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    here.client("cloudwatch").put_metric_data(Namespace="Mine", MetricData=[{"MetricName": "x", "Value": 1.0}])
    here.client("scheduler").create_schedule(
        Name="one",
        ScheduleExpression="rate(1 hour)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": "arn:aws:scheduler:::aws-sdk:lambda:updateAlias", "RoleArn": "arn:aws:iam::123456789012:role/r"},
    )
    here.ask("clock/wait", client="x", pid=os.getpid(), until=0, patience_s=0)
    here.ask("set", outage="error", metrics_delay_s=5)
    status = here.ask("reset", seed=3)
    assert (status["seed"], status["calls"], status["waiting"], status["traffic"]) == (3, 0, 0, {})
    assert status["time"] == "2026-11-02T00:00:00+00:00"
    assert functions(here.endpoint) == []
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    assert here.client("cloudwatch").list_metrics()["Metrics"] == []
    assert here.client("logs").describe_log_groups()["logGroups"] == []
    assert here.client("sns").list_topics()["Topics"] == []
    assert here.client("dynamodb").list_tables()["TableNames"] == []
    assert "QueueUrls" not in here.client("sqs").list_queues()
    with pytest.raises(ClientError, match="ParameterNotFound"):
        here.client("ssm").get_parameter(Name="/buddy-ops/buddy-alexa-skill-sandbox/live/freeze/1")


def test_a_situation_begins_the_same_each_time(situation: Bring) -> None:
    """Whatever went before, the same scenario and seed stand at the same moment with the same figures."""

    def begin() -> tuple[float, Any]:
        here = situation("errors_5_percent", history_minutes=30)
        pages = here.client("cloudwatch").get_paginator("list_metrics").paginate(Namespace="AWS/Lambda")
        names = sorted(each["MetricName"] for page in pages for each in page["Metrics"])
        return here.ask("clock")["now"], (names, here.ask("status"), here.alias()["FunctionVersion"])

    first = begin()
    situation("night", environment="prod")
    assert begin() == first


def test_the_list_of_situations_is_whole() -> None:
    """Every scenario has a description, and the ones that a canary must cope with are there."""
    found = dict(sandbox.list_scenarios())
    wanted = "good errors_2_percent total_failure slow slow_to_fail night outage bursts throttling apologises first_deployment"
    assert set(wanted.split()) <= set(found)
    assert all(len(description) > 10 for description in found.values())


@pytest.mark.parametrize("name", [name for name, _ in sandbox.list_scenarios()])
def test_every_situation_can_be_set_up(situation: Bring, name: str) -> None:
    """A function stands there, its alias serves the version that it should, and traffic is as the file says."""
    here = situation(name, history_minutes=1)
    assert functions(here.endpoint) == [here.function]
    aliases = here.client("lambda").list_aliases(FunctionName=here.function)["Aliases"]
    serves = {"first_deployment": [], "corruption": ["2"]}.get(name, ["1"])
    assert [each["FunctionVersion"] for each in aliases] == serves
    assert here.ask("status")["traffic"]["function"] == here.function


def test_an_unknown_situation_is_a_clear_message(situation: Bring) -> None:
    """The refusal lists those there are, and the sandbox stays as it was."""
    here = situation("good", history_minutes=0)
    with pytest.raises(InvalidInput, match="unknown-scenario") as refused:
        sandbox.load_scenario(here.endpoint, "goood", "sandbox")
    assert "goood" in refused.value.what and "good, " in refused.value.next
    for name in ("goood", "../scenarios/good"):
        with pytest.raises(InvalidInput, match="sandbox-refused"):
            sandbox.call_sandbox(here.endpoint, "scenario", name=name)
    assert here.alias()["FunctionVersion"] == "1"


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("scenario", {"name": "good", "overrides": {"colour": "blue"}}),
        ("scenario", {"name": "good", "overrides": {"requests_per_minute": -1}}),
        ("scenario", {"name": "good", "overrides": {"build": 7}}),
        ("set", {"colour": "blue"}),
        ("set", {"metrics_delay_s": "soon"}),
        ("set", {"outage": "nonsense"}),
        ("set", {"metrics_delays_s": {"Errors": -1}}),
        ("set", {"metrics_revised_rate": 2}),
        ("advance", {"seconds": "soon"}),
        ("advance", {}),
        ("nonsense", {}),
    ],
)
def test_a_wrong_word_is_refused_and_changes_nothing(situation: Bring, what: str, fields: dict[str, Any]) -> None:
    """The control address refuses what it does not know, and the situation stays."""
    here = situation("good", history_minutes=0)
    before = here.ask("status")
    with pytest.raises(InvalidInput, match="sandbox-refused"):
        sandbox.call_sandbox(here.endpoint, what, **fields)
    assert here.ask("status") == before and here.alias()["FunctionVersion"] == "1"


def test_a_situation_whose_build_is_unknown_is_refused(situation: Bring) -> None:
    """An override that names no fault profile leaves the sandbox as it was."""
    here = situation("good", history_minutes=0)
    with pytest.raises(InvalidInput, match="sandbox-refused"):
        sandbox.call_sandbox(here.endpoint, "scenario", name="good", overrides={"stable": "nonsense"})
    assert here.alias()["FunctionVersion"] == "1"


def test_a_sandbox_that_has_much_to_complain_of_still_answers() -> None:
    """What it says on stderr is never waited for: nobody reads it, and a full pipe would stop every call."""
    with sandbox.running_sandbox() as url:
        address = ("127.0.0.1", urlparse(url).port)
        for _ in range(1500):
            with socket.create_connection(address, timeout=5) as nonsense:
                nonsense.sendall(b"NONSENSE\r\n\r\n")
                nonsense.recv(1000)
        assert sandbox.call_sandbox(url, "status")["sandbox"]


# What it says of itself


def test_the_call_log_tells_who_asked_what(situation: Bring) -> None:
    """Each AWS call is kept with its virtual time, parameters, answer and the program that made it; secrets are not."""
    here = situation("good", history_minutes=0)
    since = here.ask("status")["calls"]
    with pytest.raises(ClientError):
        here.client("lambda").update_alias(FunctionName=here.function, Name="live", RevisionId="wrong")
    here.client("ssm").put_parameter(Name="/secret", Value="hunter2", Type="SecureString")
    update, put = here.ask("calls", since=since)["calls"]
    assert (update["service"], update["operation"], update["status"]) == ("lambda", "UpdateAlias", 412)
    assert update["error"] == "PreconditionFailedException"
    assert update["params"] == {"FunctionName": here.function, "Name": "live", "RevisionId": "wrong"}
    assert update["app"] == "" and update["at"] == here.ask("status")["time"]
    assert (put["service"], put["operation"]) == ("ssm", "PutParameter")
    assert "hunter2" not in json.dumps(here.ask("calls"))


def test_replies_carry_virtual_time(situation: Bring) -> None:
    """The Date header is the sandbox's own, ours and moto's alike: whoever corrects a clock by it learns Buddy's time."""
    here = situation("good", history_minutes=0)
    for service, call in (("lambda", "list_functions"), ("ssm", "describe_parameters")):
        date = getattr(here.client(service), call)()["ResponseMetadata"]["HTTPHeaders"]["date"]
        assert date == "Mon, 02 Nov 2026 00:02:00 GMT"


def test_an_unknown_call_is_an_aws_error(situation: Bring) -> None:
    """What the sandbox does not have is refused in AWS's own form, not with a broken reply."""
    here = situation("good", history_minutes=0)
    with pytest.raises(ClientError, match="NotImplementedException"):
        here.client("lambda").list_layers()


def test_what_is_missing_is_refused_in_aws_own_form(situation: Bring) -> None:
    """Neither we nor moto have it: every SDK reads an error that names it, and tries once."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    calls = {
        "iam": ("simulate_principal_policy", {"PolicySourceArn": "arn:aws:iam::123456789012:role/x"}),
        "lambda": ("get_runtime_management_config", {"FunctionName": here.function}),
    }
    for service, (operation, parameters) in calls.items():
        more = {"ActionNames": ["s3:GetObject"]} if service == "iam" else {}
        with pytest.raises(botocore.exceptions.ClientError, match=f"sandbox has no {service}:") as refused:
            getattr(here.client(service), operation)(**parameters, **more)
        assert refused.value.response["Error"]["Code"] == "NotImplementedException"
        assert refused.value.response["ResponseMetadata"]["RetryAttempts"] == 0


# Conditions


def test_conditions_are_set_in_mid_run(situation: Bring) -> None:
    """Each value takes effect at once, what is not named stays, and a reset forgets them."""
    here = situation("good", history_minutes=0, metrics_delays_s={"Errors": 240})
    changed = here.ask("set", metrics_delay_s=90, metrics_delays_s={"Duration": 300}, client_clock_ahead_s=-600)
    assert changed["conditions"]["metrics_delays_s"] == {"Errors": 240, "Duration": 300}
    assert (changed["conditions"]["metrics_delay_s"], changed["conditions"]["requests_per_minute"]) == (90, 600)
    said = here.ask("clock")
    assert said["machine"] == said["now"] - 600
    here.ask("reset", seed=7)
    assert here.ask("status")["conditions"]["metrics_delays_s"] == {}


def test_changes_are_typed_as_key_and_value() -> None:
    """YAML's scalars, a dot for an entry of a mapping; anything else is one clear message."""
    typed = ["metrics_delay_s=240", "metrics_delays_s.Errors=300", "metrics_delays_s.Duration=0", "outage=null"]
    assert sandbox.parse_changes(typed) == {
        "metrics_delay_s": 240,
        "metrics_delays_s": {"Errors": 300, "Duration": 0},
        "outage": None,
    }
    wrong = [["metrics_delay_s"], ["=240"], [""], ["outage=["], ["outage=*x"]]
    wrong += [["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"], ["a.b=1", "a.b=2"]]
    for pairs in wrong:
        with pytest.raises(InvalidInput, match="not-key-value"):
            sandbox.parse_changes(pairs)


@pytest.mark.parametrize(
    ("status", "body"), [(400, b'{"error": "too late"}'), (500, b"<h1>too late</h1>"), (400, b"[]")]
)
def test_any_refusal_is_a_clear_message(status: int, body: bytes) -> None:
    """The reason is shown whether the sandbox answers as it does to a wrong value, or has failed itself."""
    with web(status, body) as url, pytest.raises(InvalidInput, match="sandbox-refused") as refused:
        sandbox.call_sandbox(url, "set")
    assert ("too late" in refused.value.what) == (b"too late" in body) and "'set'" in refused.value.what
    assert (refused.value.now == "Nothing was changed.") == (b"error" in body)


def test_documentation_has_every_key() -> None:
    """docs/sandbox.md has the table of keys as the sandbox declares them."""
    text = (ROOT / "docs" / "sandbox.md").read_text()
    settable = [key for key in conditions.declared_keys(Scenario) if key.name not in ("description", "ends")]
    own = [key for key in settable if key.name not in Conditions.model_fields]
    for table in (conditions.declared_keys(), own):
        assert conditions.markdown(table) in text
    assert [key.name for key in conditions.declared_keys(Scenario) if not key.meaning] == []


def test_conditions_in_a_terminal(situation: Bring) -> None:
    """`sandbox set` changes and lists, `scenario --set` begins with them, and a wrong name says what can be set."""
    here = situation("good", history_minutes=0)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "AWS_ENDPOINT_URL": here.endpoint}
        line = [sys.executable, "-m", "buddy_ops.cli.main", "sandbox", *arguments]
        return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)

    done = run("set", "metrics_delays_s.Errors=240", "outage=partial")
    assert done.returncode == 0
    assert 'metrics_delays_s={"Errors": 240.0}' in done.stdout and 'outage="partial"' in done.stdout
    assert "lambda_kms_denied=false\n    whether callers" in done.stdout
    refused = run("set", "metrics_dely_s=240")
    assert refused.returncode == 2 and "metrics_dely_s is no value" in refused.stderr
    assert "buddy-ops sandbox set" in refused.stderr and "metrics_delay_s" in run("set").stdout
    assert run("scenario", "good", "--set", "metrics_delay_s=30", "--set", "history_minutes=0").returncode == 0
    conditions = here.ask("status")["conditions"]
    assert (conditions["metrics_delay_s"], conditions["outage"]) == (30, None)
