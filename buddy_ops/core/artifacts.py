"""What a rollout can deploy, by the text that names it: a file, an object in S3, a container image or a version."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.front_end import parameter

IMAGE = re.compile(
    r"(?P<registry>\d{12}\.dkr[.-]ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z0-9.-]+)/(?P<repository>[a-z0-9._/-]+)"
    r"(?::(?P<tag>[\w.-]+))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)
"""An image in Amazon ECR. Source: Amazon ECR user guide, 'Pulling an image'."""

# s3://builds/shop/7.zip?versionId=3HL4kqtJ
STORED = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>[^?]+)(?:\?(?P<query>.*))?")
PUBLISHED = re.compile(r"version:(?P<number>[1-9]\d*)")

FORMS = (
    "Give a zip or a folder (relative to the project), s3://BUCKET/KEY, "
    "s3://BUCKET/KEY?versionId=ID, an image ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY@sha256:DIGEST, or "
    "version:NUMBER."
)


@dataclass(frozen=True)
class LocalFile:
    """A zip, or a folder to pack. ``path`` is relative to the project."""

    path: str


@dataclass(frozen=True)
class StoredObject:
    """A zip in S3. ``version`` is the object's version; empty: the newest one when the plan is made."""

    bucket: str
    key: str
    version: str = ""

    def __str__(self) -> str:
        address = f"s3://{self.bucket}/{self.key}"
        if not self.version:
            return address
        return f"{address}?versionId={self.version}"


@dataclass(frozen=True)
class Image:
    """A container image in Amazon ECR, by the digest of its content."""

    uri: str
    region: str
    digest: str

    @property
    def account(self) -> str:
        """The account of its registry."""
        return self.uri[:12]

    @property
    def repository(self) -> str:
        """Its repository's name, without the registry."""
        return self.uri.partition("/")[2].partition("@")[0]


@dataclass(frozen=True)
class PublishedVersion:
    """A version of the function that another tool published."""

    number: str


Artifact = LocalFile | StoredObject | Image | PublishedVersion


def parse_artifact(text: str) -> Artifact:
    """What a parameter ``artifact`` names.

    Raises:
        InvalidInput: ``artifact-form``: it begins as one of the forms and is none; ``image-not-pinned``.
    """
    if text.startswith("s3:"):
        return _stored(text)
    if text.startswith("version:"):
        found = PUBLISHED.fullmatch(text)
        if found is None:
            raise _no_form(text, "after version: comes a number, for example version:7")
        return PublishedVersion(found["number"])
    # Before the check of addresses: an image that is copied with https:// gets an error about images.
    if re.match(r"(?:https?://)?\d{12}\.dkr[.-]ecr", text):
        return _image(text)
    if "://" in text or text.startswith(("arn:", "oci:", "docker:")):
        raise _no_form(text, "no build is read from such an address")
    return LocalFile(text)


def _stored(text: str) -> StoredObject:
    found = STORED.fullmatch(text)
    if found is None:
        raise _no_form(text, "an object is s3://BUCKET/KEY")
    # With blank values: '?versionId=' is refused, and not taken for the newest version.
    query = dict(parse_qsl(found["query"] or "", keep_blank_values=True))
    version = query.pop("versionId", "")
    if query or (found["query"] is not None and not version):
        raise _no_form(text, "after ? comes versionId=ID, and nothing else")
    return StoredObject(found["bucket"], found["key"], version)


def _image(text: str) -> Image:
    found = IMAGE.fullmatch(text)
    if found is None:
        raise _no_form(text, "an image is REGISTRY/REPOSITORY@sha256:DIGEST")
    if found["digest"] is None:
        tag = found["tag"] or "latest"
        raise InvalidInput(
            "image-not-pinned",
            f"{text} names an image by the tag {tag!r}. A tag can be moved to another image after the approval.",
            next=f"Give the digest: {found['registry']}/{found['repository']}@sha256:DIGEST. This command prints it:\n"
            f"  aws ecr describe-images --region {found['region']} --repository-name {found['repository']} "
            f"--image-ids imageTag={tag} --query 'imageDetails[0].imageDigest' --output text",
        )
    # A tag beside the digest says nothing: the digest alone decides.
    uri = f"{found['registry']}/{found['repository']}@sha256:{found['digest']}"
    return Image(uri, found["region"], found["digest"])


def _no_form(text: str, why: str) -> InvalidInput:
    return InvalidInput(
        "artifact-form",
        f"{text[:200]!r} names no build: {why}.",
        next=f"{FORMS} The parameter is {parameter('artifact')}.",
    )
