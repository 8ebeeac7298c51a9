"""The runbooks on ministack: what its account has afterwards, asked with a client that is not ours."""

import pytest
from botocore.exceptions import ClientError

from tests.second_opinion.account import Done, Environment, said

pytestmark = pytest.mark.timeout(600)


def canary(here: Environment) -> Done:
    """A canary of a new build, which becomes version 3."""
    return here.runbook("strategies/canary", artifact=here.write_build(), approved_by=["Ada"])


def schedules(here: Environment) -> list[str]:
    """The names of the function's failsafes."""
    found = here.client("scheduler").list_schedules(NamePrefix=here.function)["Schedules"]
    return [each["Name"] for each in found]


def test_canary_of_a_good_build(here: Environment) -> None:
    """It gets all traffic, and no failsafe is left."""
    here.act_as("deployer")
    here.feed_metrics({"2": 0.0, "3": 0.0})
    done = canary(here)
    assert done.returncode == 0, said(done)
    alias = here.alias()
    assert alias["FunctionVersion"] == "3" and "RoutingConfig" not in alias
    assert schedules(here) == []


def test_canary_of_a_bad_build(here: Environment) -> None:
    """Version 3 fails a fifth of its requests: it gets no traffic, and the build before has all."""
    here.act_as("deployer")
    here.feed_metrics({"2": 0.0, "3": 0.2})
    done = canary(here)
    assert done.returncode == 3, said(done)
    assert "ROLLED BACK at 50 %" in said(done) and "v3 error rate 20 %" in said(done)
    alias = here.alias()
    assert alias["FunctionVersion"] == "2" and "RoutingConfig" not in alias
    assert schedules(here) == []


def test_immediate_rollback(here: Environment) -> None:
    """All traffic is back on version 1; asked again, nothing is left to do."""
    here.act_as("responder")
    for _ in range(2):
        done = here.runbook("rollback/immediate", approved_by=["Ada"])
        assert done.returncode == 0, said(done)
        alias = here.alias()
        assert alias["FunctionVersion"] == "1" and "RoutingConfig" not in alias


def test_freeze(here: Environment) -> None:
    """No version is published while deployments are frozen; a rollback works; afterwards a build may be shipped."""
    here.act_as("responder")
    frozen = here.run("freeze", "-e", here.name, "--reason", "fair", "--owner", "Ada")
    assert frozen.returncode == 0, said(frozen)
    (name,) = here.freezes()
    back = here.run("rollback", "-e", here.name, "--approved-by", "Ada", "--yes")
    assert back.returncode == 0, said(back)
    assert here.alias()["FunctionVersion"] == "1"
    here.act_as("deployer")
    refused = canary(here)
    assert refused.returncode == 4 and "REFUSED (frozen)" in said(refused), said(refused)
    assert here.versions() == ["1", "2"]
    forbidden = here.run("unfreeze", name, "-e", here.name)
    assert forbidden.returncode == 1 and "access-denied" in said(forbidden), said(forbidden)
    here.act_as("responder")
    lifted = here.run("unfreeze", name, "-e", here.name)
    assert lifted.returncode == 0, said(lifted)
    assert here.freezes() == []
    here.act_as("deployer")
    planned = here.runbook("strategies/canary", artifact=here.write_build(), approved_by=["Ada"], dry_run=True)
    assert planned.returncode == 0, said(planned)


def test_archive_in_s3_with_object_lock(here: Environment) -> None:
    """The stack's bucket takes a run by TLS only. It keeps it locked, and what is written over it is found."""
    here.act_as("responder")
    s3 = here.client("s3")
    bucket = here.outputs["ArchiveBucket"]
    # As the template says: ministack's CloudFormation leaves it out.
    lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 400}}}
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=lock)
    where = f"s3://{bucket}/runs"
    here.write_settings(archive={"where": where})
    done = here.runbook("rollback/immediate", dry_run=True)
    # The emulator is asked without TLS, which the bucket's policy denies. A run does not end by that.
    assert done.returncode == 0 and "NOT ARCHIVED" in said(done) and "explicit deny" in said(done), said(done)
    s3.delete_bucket_policy(Bucket=bucket)
    uploaded = here.run("runs", "index", "-e", here.name)
    assert uploaded.returncode == 0, said(uploaded)
    (version,) = s3.list_object_versions(Bucket=bucket, Prefix="runs/chain/")["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
    verified = here.run("runs", "verify", "--archive", where, "-e", here.name)
    assert verified.returncode == 0 and "OK: all files of 1 run match" in said(verified), said(verified)
    assert "has no Object Lock" not in said(verified), said(verified)
    changed = s3.list_objects_v2(Bucket=bucket, Prefix="runs/2")["Contents"][0]["Key"]
    s3.put_object(Bucket=bucket, Key=changed, Body=b"another story")
    found = here.run("runs", "verify", "--archive", where, "-e", here.name)
    assert found.returncode == 1 and changed.rpartition("/")[2] in said(found), said(found)


def test_alarms(here: Environment) -> None:
    """The alarms are written, and notify the stack's topic."""
    here.act_as("deployer")
    done = here.runbook("operations/alarms", approved_by=["Ada"])
    assert done.returncode == 0, said(done)
    alarms = here.client("cloudwatch").describe_alarms(AlarmNamePrefix=here.function)["MetricAlarms"]
    assert len(alarms) == 4
    assert all(each["AlarmActions"] == [here.outputs["TopicArn"]] for each in alarms)
