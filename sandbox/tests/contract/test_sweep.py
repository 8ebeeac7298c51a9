"""The contract tests leave nothing in an account, also where a run of them was killed; and touch nothing else."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from contract_account import (
    ACCOUNT_ID,
    PARAMETERS,
    PREFIX,
    Account,
    build,
    left,
    make_role,
    opened,
    start_sandbox,
    sweep,
)

FOLDER = Path(__file__).parent
OWN = "123456789012"

pytestmark = pytest.mark.skipif(bool(ACCOUNT_ID), reason="they need a sandbox of their own")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """An account that is reached as AWS is: by the environment's endpoint, keys and region."""
    sandbox = start_sandbox()
    for name, value in (
        ("AWS_ENDPOINT_URL", sandbox.endpoint),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ):
        monkeypatch.setenv(name, value)
    account = Account()
    try:
        yield account
    finally:
        sweep(account)
        sandbox.close()


def test_run_that_is_killed_is_swept_by_the_next(elsewhere: Account) -> None:
    """Time is still in that sandbox, so that the run waits where its first function settles, until it is killed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / "test_lambda_contract.py")]
    run = subprocess.Popen(command, env={**os.environ, "BUDDY_CONTRACT": OWN}, stdout=subprocess.DEVNULL)
    try:
        while not elsewhere.client("lambda").list_functions()["Functions"]:
            assert run.poll() is None, "it ended by itself"
            time.sleep(0.2)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert left(elsewhere) == [f"function {PREFIX}function", f"role {PREFIX}role"]
    with opened(OWN) as account:
        assert left(account) == []


def test_another_account_is_left_alone(elsewhere: Account) -> None:
    """Credentials of an account that was not named: nothing is made and nothing removed."""
    elsewhere.client("ssm").put_parameter(Name=f"{PARAMETERS}/1", Value="v", Type="String")
    with pytest.raises(RuntimeError, match=f"of account {OWN}, and not of 210987654321"), opened("210987654321"):
        pytest.fail("opened")
    assert left(elsewhere) == [f"parameter {PARAMETERS}/1"]


def test_everything_of_ours_is_swept_and_nothing_else(elsewhere: Account) -> None:
    """One of each kind, a locked object included; what has another name stays."""
    for name in (f"{PREFIX}one", "one"):
        make_each(elsewhere, name)
    make_role(elsewhere)
    assert len(left(elsewhere)) == 9
    assert len(sweep(elsewhere)) == 9
    assert left(elsewhere) == [] == sweep(elsewhere)
    assert [each["FunctionName"] for each in elsewhere.client("lambda").list_functions()["Functions"]] == ["one"]
    assert elsewhere.client("s3").head_object(Bucket="one", Key="run")["ObjectLockMode"] == "GOVERNANCE"


def make_each(account: Account, name: str) -> None:
    """One of each kind but a role."""
    role = f"arn:aws:iam::{OWN}:role/{name}"
    given = {"Role": role, "Runtime": "python3.12", "Handler": "app.handler", "Code": {"ZipFile": build(1)}}
    account.client("lambda").create_function(FunctionName=name, **given)
    account.client("scheduler").create_schedule(
        Name=name,
        ScheduleExpression="at(2100-01-01T00:00:00)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": f"arn:aws:sqs:us-east-1:{OWN}:{name}", "RoleArn": role},
    )
    metric = {"Namespace": "n", "MetricName": "m", "Statistic": "Sum", "Period": 60}
    rule = {"Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1}
    account.client("cloudwatch").put_metric_alarm(AlarmName=name, **metric, **rule)
    account.client("logs").create_log_group(logGroupName=f"/aws/lambda/{name}")
    path = f"{PARAMETERS}/{name}" if name.startswith(PREFIX) else f"/{name}"
    account.client("ssm").put_parameter(Name=path, Value="v", Type="String")
    account.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    account.client("sns").create_topic(Name=name)
    s3 = account.client("s3")
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    lock = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": datetime(2100, 1, 1, tzinfo=UTC)}
    s3.put_object(Bucket=name, Key="run", Body=b"locked", ChecksumAlgorithm="SHA256", **lock)
