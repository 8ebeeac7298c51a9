"""S3's rule about uploads into a bucket that locks its objects."""

from typing import Any

import pytest
from botocore.config import Config
from serving import refusal

from buddy_sandbox.server import Sandbox

RULE = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}


@pytest.fixture
def s3(sandbox: Sandbox) -> Any:
    """A client that sends a checksum only where its operation always needs one."""
    import boto3

    sandbox.front.do_reset()
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    config = Config(request_checksum_calculation="when_required", retries={"total_max_attempts": 1})  # type: ignore[call-arg]
    client = boto3.client("s3", endpoint_url=sandbox.world.endpoint, config=config, **keys)
    client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    client.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=RULE)
    client.create_bucket(Bucket="plain")
    return client


def test_an_upload_that_object_lock_applies_to_needs_a_checksum(s3: Any) -> None:
    """By the bucket's own retention, or by the upload's; in another bucket none is needed."""
    code, message = refusal(s3.put_object, Bucket="locked", Key="a", Body=b"a")
    assert code == "InvalidRequest" and message.startswith("Content-MD5 OR x-amz-checksum-")
    s3.put_object(Bucket="plain", Key="a", Body=b"a")


@pytest.mark.parametrize("given", [{"ChecksumAlgorithm": "SHA256"}, {"ContentMD5": "DMF1ucDxtqgxw5niaXcmYQ=="}])
def test_a_checksum_of_either_kind_is_enough(s3: Any, given: dict[str, str]) -> None:
    """SHA-256 by the SDK, or MD5 by the caller."""
    s3.put_object(Bucket="locked", Key="a", Body=b"a", **given)
    assert s3.get_object(Bucket="locked", Key="a")["Body"].read() == b"a"
