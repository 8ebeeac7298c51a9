"""Builds in S3: which version of the object it is, and its bytes. Never writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NotRequired, TypedDict

from buddy_ops.aws.session import Target
from buddy_ops.core.artifacts import StoredObject
from buddy_ops.core.errors import AwsFailed, InvalidInput, NotFound, Refused
from buddy_ops.core.packages import MEGABYTE, UNPACKED_LIMIT

MISSING = ("404", "NoSuchBucket", "NoSuchVersion")
UNVERSIONED = "null"
"""The version that S3 gives an object of a bucket without versioning."""


@dataclass(frozen=True)
class StoredBuild:
    """A zip as it was read from S3.

    Attributes:
        source: the object; its ``version`` is empty only where the bucket keeps no versions.
        content: the zip's bytes.
    """

    source: StoredObject
    content: bytes


def read_build(target: Target, wanted: StoredObject) -> StoredBuild:
    """Read a zip from S3, with the version of the object that was read.

    AWS: s3:HeadBucket (the permission is s3:ListBucket), s3:HeadObject, GetObject (s3:GetObject, s3:GetObjectVersion),
    reads only.

    Raises:
        InvalidInput: ``artifact-missing`` or ``artifact-oversized``.
        Refused: ``artifact-elsewhere``: the bucket is in another region.
    """
    source = find_build(target, wanted)
    with _explained(wanted):
        return StoredBuild(source, target.client("s3").get_object(**_where(source))["Body"].read())


def find_build(target: Target, wanted: StoredObject) -> StoredObject:
    """The object of a build that Lambda could take, with its version. Its bytes are not read.

    AWS, Raises: as ``read_build``, without s3:GetObject's bytes.
    """
    client = target.client("s3")
    with _explained(wanted):
        found = client.head_bucket(Bucket=wanted.bucket).get("BucketRegion", "")
        _require_region(target, wanted, found)
        about = client.head_object(**_where(wanted))
    size = about["ContentLength"]
    # The bytes are held in memory, and a zip is not larger than what it unpacks to.
    if size > UNPACKED_LIMIT:
        raise InvalidInput(
            "artifact-oversized",
            f"{wanted} has {size / MEGABYTE:,.0f} MB, and Lambda takes {UNPACKED_LIMIT // MEGABYTE} MB unpacked.",
            next="Build a smaller zip: move dependencies and data into a layer, or ship a container image.",
        )
    version = about.get("VersionId", "")
    return replace(wanted, version="" if version == UNVERSIONED else version)


def require_readable(target: Target, wanted: StoredObject) -> StoredObject:
    """Find a build, and read its first byte: only that shows whether a key that encrypts it may be used.

    AWS, Raises: as ``read_build``.
    """
    source = find_build(target, wanted)
    with _explained(wanted):
        target.client("s3").get_object(**_where(source), Range="bytes=0-0")
    return source


@contextmanager
def _explained(wanted: StoredObject) -> Iterator[None]:
    """Say what S3's refusals mean for this object."""
    try:
        yield
    except AwsFailed as failure:
        if isinstance(failure, NotFound) or failure.code in MISSING:
            raise InvalidInput(
                "artifact-missing",
                f"There is no {wanted}: S3 has no such bucket, object or version.",
                next="Check bucket, key and versionId, and that the object was not deleted.",
            ) from None
        # S3 gives no reason with an answer to HEAD.
        if failure.code == "403":
            failure.next = (
                f"The caller needs s3:ListBucket on {wanted.bucket}, s3:GetObject and s3:GetObjectVersion on its "
                "objects (BuildBucketName of infrastructure.yaml), and kms:Decrypt where a key encrypts them."
            )
        raise


def _require_region(target: Target, wanted: StoredObject, found: str) -> None:
    """Lambda copies a zip from buckets of its own region only. Source: Lambda API reference, UpdateFunctionCode."""
    if found in ("", target.region):
        return
    raise Refused(
        "artifact-elsewhere",
        f"The bucket {wanted.bucket} is in {found}, and {target.settings.function} in {target.region}. Lambda takes a "
        "zip only from a bucket in the function's own region.",
        next=f"Copy the zip into a bucket in {target.region}, and give that address.",
    )


class _Where(TypedDict):
    Bucket: str
    Key: str
    VersionId: NotRequired[str]


def _where(source: StoredObject) -> _Where:
    where: _Where = {"Bucket": source.bucket, "Key": source.key}
    if source.version:
        where["VersionId"] = source.version
    return where
