"""Every condition can be set in mid-run and from the beginning of a scenario, and a wrong one changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions as botocore
from botocore.config import Config
from pydantic import ValidationError
from serving import refusal

from buddy_sandbox import builds, conditions, scenarios
from buddy_sandbox.conditions import PLACES, Conditions
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.metrics_store import Metric
from buddy_sandbox.server import Sandbox
from buddy_sandbox.situations import Situation, control

OTHER_ROLE = "arn:aws:iam::123456789012:role/somebody-else"
ABROAD = "222222222222"
OTHER: dict[str, Any] = {
    "requests_per_minute": 60,
    "real_requests_per_minute": 100,
    "metrics_delay_s": 90,
    "metrics_delays_s": {"Errors": 240},
    "metrics_revised_rate": 0.25,
    "metrics_revised_s": 300,
    "outage": "partial",
    "unreachable": "reset",
    "cold_starts_per_minute": 2,
    "logs_delay_s": 60,
    "logs_late_rate": 0.1,
    "logs_late_s": 30,
    "logs_lost_rate": 0.2,
    "logs_duplicated_rate": 0.3,
    "logs_shuffled": True,
    "logs_page_events": 100,
    "logs_throttle_s": 60,
    "client_clock_ahead_s": -600,
    "lambda_update_s": 30,
    "lambda_allocation_s": 600,
    "lambda_snapshot_s": 240,
    "lambda_latest_state": "Failed",
    "lambda_version_state": "Inactive",
    "lambda_update_status": "InProgress",
    "lambda_latest_role": OTHER_ROLE,
    "lambda_kms_denied": True,
    "lambda_zip_limit": 1000,
    "lambda_unzipped_limit": 2000,
    "lambda_storage_limit": 3000,
    "lambda_concurrency": 500,
    "dynamodb_policy_delay_s": 30,
    "dynamodb_throttle_s": 120,
    "dynamodb_throttle_code": "ThrottlingException",
    "ssm_delay_s": 10,
    "ssm_throttle_s": 60,
}
"""Another value than the usual one, for every key."""

Bring = Callable[..., Situation]


@pytest.fixture
def front(sandbox: Sandbox) -> Any:
    sandbox.front.do_scenario("good", overrides={"history_minutes": 0, "reminders": 0})
    return sandbox.front


def test_another_value_is_tested_for_every_key() -> None:
    """The table above is whole, so that a new condition is tested, too."""
    usual = Conditions().model_dump()
    assert OTHER.keys() == usual.keys()
    assert [name for name in OTHER if OTHER[name] == usual[name]] == []


def test_usual_values_are_those_of_the_services(front: Any) -> None:
    """A scenario that says nothing of a condition leaves the service as AWS is."""
    assert front.world.conditions_of(front.world.region("us-east-1")) == Conditions().model_dump()


@pytest.mark.parametrize("name", OTHER)
def test_condition_takes_effect_in_mid_run_and_in_a_scenario(sandbox: Sandbox, name: str) -> None:
    """Each key reaches its service, is shown with its value, and is forgotten by the next scenario."""
    front = sandbox.front
    small = {"history_minutes": 0, "reminders": 0}
    front.do_scenario("good", overrides=small)
    usual = front.do_status()["conditions"]
    assert front.do_set(**{name: OTHER[name]})["conditions"] == {**usual, name: OTHER[name]}
    front.do_scenario("good", overrides={**small, name: OTHER[name]})
    assert front.do_status()["conditions"] == {**usual, name: OTHER[name]}
    if name in PLACES:
        place = PLACES[name]
        assert getattr(attrgetter(place.owner)(front.world), place.attribute) == OTHER[name]
    front.do_scenario("good", overrides=small)
    assert front.do_status()["conditions"] == usual


@pytest.mark.parametrize(
    "wrong",
    [
        {"lambda_storage": 1},
        {"lambda_zip_limit": 0},
        {"lambda_zip_limit": "50 MB"},
        {"lambda_latest_state": "Gone"},
        {"lambda_latest_role": "somebody"},
        {"lambda_kms_denied": "perhaps"},
        {"lambda_concurrency": 99},
        {"dynamodb_throttle_s": -1},
        {"dynamodb_throttle_code": "SlowDown"},
        {"metrics_delays_s": {"Eror": 240}},
        {"metrics_delay_s": float("nan")},
        {"speed": -1},
        {"speed": float("nan")},
    ],
)
def test_wrong_condition_leaves_the_right_one_beside_it_unset(front: Any, wrong: dict[str, Any]) -> None:
    """What is checked is checked before anything takes effect."""
    before = front.do_status()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        front.do_set(ssm_delay_s=10, **wrong)
    assert front.do_status() == before


PLACES_OF_AWS = [(region, account) for region in ("us-east-1", "eu-west-1") for account in ("123456789012", ABROAD)]


@pytest.mark.parametrize("scope", [("eu-west-1", None), (None, ABROAD), ("eu-west-1", ABROAD)])
def test_condition_of_one_region_or_account_holds_there_alone(sandbox: Sandbox, scope: tuple[str, str]) -> None:
    """Every key, also where a region begins later; set everywhere, it holds everywhere again."""
    front, world = sandbox.front, sandbox.world
    front.do_scenario("good", overrides={"history_minutes": 0, "reminders": 0})
    names = [name for name in OTHER if name not in conditions.EVERYWHERE]
    usual = front.do_status()["conditions"]
    for name in names:
        shown = front.do_set(region=scope[0], account=scope[1], **{name: OTHER[name]})["conditions"]
        assert shown[name] == OTHER[name]
    for place in PLACES_OF_AWS:
        inside = all(wanted in (None, own) for wanted, own in zip(scope, place, strict=True))
        found = world.conditions_of(world.region(*place))
        assert [name for name in names if found[name] != (OTHER if inside else usual)[name]] == [], place
    front.do_set(**{name: usual[name] for name in names if name != "metrics_delays_s"}, metrics_delays_s={"Errors": 60})
    front.do_set(metrics_delay_s=61)
    for place in (*PLACES_OF_AWS, ("eu-west-3", ABROAD)):
        found = world.conditions_of(world.region(*place))
        assert {name: found[name] for name in names if not name.startswith("metrics_delay")} == {
            name: usual[name] for name in names if not name.startswith("metrics_delay")
        }
        assert found["metrics_delay_s"] == 61


@pytest.mark.parametrize("name", sorted(conditions.EVERYWHERE))
def test_what_is_the_same_everywhere_cannot_be_set_for_one_region(front: Any, name: str) -> None:
    """It is refused, and nothing changes."""
    before = front.do_status()
    with pytest.raises(ValueError, match=f"{name}: the same in every region and account"):
        front.do_set(region="us-east-1", metrics_delay_s=90, **{name: OTHER[name]})
    assert front.do_status() == before


@pytest.mark.parametrize(("kind", "seen"), [
    ("closed", botocore.ConnectionClosedError),
    ("reset", botocore.ConnectionClosedError),
    ("silent", botocore.ReadTimeoutError),
])  # fmt: skip
def test_region_that_is_unreachable_answers_no_call_from_outside(front: Any, kind: str, seen: type[Exception]) -> None:
    """Of any service; the other regions answer, and within it AWS goes on: its schedules run."""

    def outside(service: str, region: str, patience_s: float = 60) -> Any:
        config = Config(retries={"total_max_attempts": 1}, read_timeout=patience_s)
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": region}
        return boto3.client(service, endpoint_url=front.world.endpoint, config=config, **keys)

    topic = outside("sns", "eu-west-1").create_topic(Name="t")["TopicArn"]
    queue = outside("sqs", "eu-west-1").create_queue(QueueName="q")["QueueUrl"]
    outside("sns", "eu-west-1").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:eu-west-1:123456789012:q"
    )
    outside("scheduler", "eu-west-1").create_schedule(
        Name="s",
        ScheduleExpression="rate(2 minutes)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": topic, "RoleArn": "arn:aws:iam::123456789012:role/scheduler", "Input": "{}"},
    )
    front.do_set(region="eu-west-1", unreachable=kind)
    for service, call in (("lambda", "list_functions"), ("sts", "get_caller_identity"), ("ssm", "describe_parameters")):
        with pytest.raises(seen):
            getattr(outside(service, "eu-west-1", patience_s=0.2), call)()
        getattr(outside(service, "us-east-1"), call)()
    front.do_advance(180)
    front.do_set(region="eu-west-1", unreachable=None)
    assert outside("sqs", "eu-west-1").receive_message(QueueUrl=queue).get("Messages")


def test_build_that_is_bad_in_one_region_is_good_elsewhere(sandbox: Sandbox, tmp_path: Path) -> None:
    """In simulated traffic and where its handler runs."""
    front = sandbox.front
    front.do_scenario("bad_region", overrides={"history_minutes": 0, "reminders": 0, "metrics_delay_s": 0})
    bad = replace(PROFILES["errors_in_eu_west_1"], error_rate=1.0)
    failed = {}
    for region in ("us-east-1", "eu-west-1"):
        lam, function = front.world.client("lambda", region), "buddy-alexa-skill-sandbox"
        lam.update_function_code(FunctionName=function, ZipFile=builds.build(bad, version_label="2.0.0"))
        front.do_advance(60)
        lam.publish_version(FunctionName=function)
        lam.update_alias(FunctionName=function, Name="live", FunctionVersion="2")
        front.do_advance(60)
        begin = front.world.clock.now() // 60 * 60
        front.do_advance(180)
        metric = Metric("AWS/Lambda", "Errors", frozenset({("FunctionName", function)}))
        errors = front.world.region(region).metrics.read(metric, "Average", begin, 1, 120)
        answer = lam.invoke(FunctionName=function, Qualifier="2", Payload=b'{"request": {"type": "LaunchRequest"}}')
        failed[region] = (errors.tolist(), "FunctionError" in answer)
    assert failed == {"us-east-1": ([0.0], False), "eu-west-1": ([1.0], True)}


def test_throttle_ends_by_itself_and_another_change_does_not_prolong_it(front: Any) -> None:
    """It counts from when it was set, and the conditions show the seconds that are left."""
    front.do_set(ssm_throttle_s=60)
    front.do_advance(40)
    left = front.do_set(metrics_delay_s=90)["conditions"]["ssm_throttle_s"]
    assert left == pytest.approx(20)
    assert refusal(front.world.client("ssm").describe_parameters)[0] == "ThrottlingException"
    front.do_advance(21)
    assert front.world.client("ssm").describe_parameters()["Parameters"] == []
    assert front.do_status()["conditions"]["ssm_throttle_s"] == 0


def test_another_role_of_latest_is_published_and_no_alias_can_be_split(front: Any) -> None:
    """Another person's role is on $LATEST and on what is published from it, until the own one is back.

    Source: recorded AWS response, 2025-11: aliases of versions with different roles.
    """
    lam = front.world.client("lambda")
    function = front.world.people.traffic[0].function
    own = lam.get_function_configuration(FunctionName=function)
    front.do_set(lambda_latest_role=OTHER_ROLE)
    latest = lam.get_function_configuration(FunctionName=function)
    assert latest["Role"] == OTHER_ROLE and latest["RevisionId"] != own["RevisionId"]
    version = lam.publish_version(FunctionName=function)["Version"]
    routing = {"AdditionalVersionWeights": {version: 0.1}}
    assert refusal(lam.update_alias, FunctionName=function, Name="live", RoutingConfig=routing) == (
        "InvalidParameterValueException",
        "Specified versions must be associated with the same execution role",
    )
    assert lam.get_function_configuration(FunctionName=function, Qualifier="1")["Role"] == own["Role"]
    front.do_set(lambda_latest_role=None)
    assert lam.get_function_configuration(FunctionName=function)["Role"] == own["Role"]


def test_limits_of_packages_refuse_an_upload(front: Any) -> None:
    """Each limit is refused as AWS does it, and the package is taken once the limit is as usual."""
    lam = front.world.client("lambda")
    upload = {"FunctionName": front.world.people.traffic[0].function, "ZipFile": scenarios.artifact("good")}
    limits = {
        "lambda_zip_limit": "RequestEntityTooLargeException",
        "lambda_unzipped_limit": "InvalidParameterValueException",
        "lambda_storage_limit": "CodeStorageExceededException",
    }
    for name, code in limits.items():
        front.do_set(**{name: 1})
        assert refusal(lam.update_function_code, **upload)[0] == code
        front.do_set(**{name: Conditions.model_fields[name].default})
    lam.update_function_code(**upload)


def test_scenario_decides_the_functions_configuration(front: Any) -> None:
    """Log group and format, KMS key, SnapStart and provisioned concurrency are keys of a scenario."""
    key = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    front.do_scenario(
        "good",
        overrides={
            "history_minutes": 5,
            "log_group": "/skills/buddy",
            "log_format": "JSON",
            "system_log_level": "WARN",
            "kms_key_arn": key,
            "lambda_kms_denied": True,
            "snap_start": True,
            "provisioned_concurrency": 5,
        },
    )
    lam = front.world.client("lambda")
    function = front.world.people.traffic[0].function
    live = lam.get_function_configuration(FunctionName=function, Qualifier="live")
    assert live["LoggingConfig"] == {
        "LogFormat": "JSON",
        "ApplicationLogLevel": "INFO",
        "SystemLogLevel": "WARN",
        "LogGroup": "/skills/buddy",
    }
    assert live["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    assert live["KMSKeyArn"] == key and live["Environment"]["Error"]["ErrorCode"] == "AccessDeniedException"
    provisioned = lam.get_provisioned_concurrency_config(FunctionName=function, Qualifier="live")
    assert (provisioned["Status"], provisioned["AvailableProvisionedConcurrentExecutions"]) == ("READY", 5)


@pytest.mark.parametrize(
    "wrong", [{"log_group": "two words"}, {"log_format": "XML"}, {"deployed": False, "provisioned_concurrency": 1}]
)
def test_wrong_key_of_a_scenario_leaves_the_scenario_that_runs(front: Any, wrong: dict[str, Any]) -> None:
    """It is checked before the account is emptied."""
    before = front.do_status()
    with pytest.raises(ValidationError):
        front.do_scenario("total_failure", overrides=wrong)
    assert front.do_status() == before


def test_refused_change_says_which_key_and_why(situation: Bring) -> None:
    """The control address answers with one line."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    with pytest.raises(OSError, match="400") as refused:
        control(here.endpoint, "set", lambda_zip_limit=0, colour="blue")
    said = refused.value.read().decode()  # type: ignore[attr-defined]
    assert "lambda_zip_limit: Input should be greater than or equal to 1" in said
    assert "colour is no value that can be set" in said
