"""Container images in Amazon ECR: whether one exists, the processor that it is for, and its size. Never writes.

Source: ECR API reference, BatchGetImage and GetDownloadUrlForLayer; OCI image specification, manifest and config.
"""

import hashlib
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core.artifacts import Image
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed, InvalidInput
from buddy_ops.core.text import size

MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
LISTS = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
"""Media types of an image, and of a list of images for several architectures."""

SIZE_LIMIT = 10 * 1024**3
"""Bytes of an image at most, unpacked. Source: AWS Lambda developer guide, quotas."""

CONFIG_LIMIT = 8 * 1024**2
"""Bytes of an image's config that are read: it has a few thousand."""

TIMEOUT_S = 10
ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}
"""Lambda's name of a processor, by the OCI image specification's."""

MISSING = ("ImageNotFound", "RepositoryNotFoundException")


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image.

    Attributes:
        packed: bytes of its layers as the registry holds them, compressed; 0: unknown.
        architecture: Lambda's name of the processor that it is built for; '': unknown.
        unread: why something is unknown, a sentence; '': everything was read.
    """

    packed: int = 0
    architecture: str = ""
    unread: str = ""


def read_image(target: Target, image: Image) -> ImageFacts:
    """Read what a registry has of an image. What may not be read is unknown: AWS checks it with the upload.

    AWS: ecr:BatchGetImage, GetDownloadUrlForLayer, reads only.

    Raises:
        InvalidInput: ``artifact-missing``: no such image; ``artifact-oversized``; ``image-unusable``: a list of images
            for several architectures.
    """
    packed = 0
    try:
        manifest = _read_manifest(target, image)
        packed = _require_deployable(image, manifest)
        config = _read_config(target, image, manifest["config"]["digest"])
    except AwsFailed as failure:
        # A missing repository is an error of the call, a missing image a failure in its reply.
        if failure.code in MISSING:
            raise _missing(image) from None
        return ImageFacts(packed, unread=_unread(image, failure.what))
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        # Only the error's type is shown: the address has a signature that is valid for some minutes.
        return ImageFacts(
            packed, unread=_unread(image, f"Its registry's answer cannot be used ({type(error).__name__})")
        )
    architecture = str(config.get("architecture") or "")
    return ImageFacts(packed, ARCHITECTURES.get(architecture, architecture))


def _require_deployable(image: Image, manifest: Mapping[str, Any]) -> int:
    """Refuse what is no image that Lambda could take; the bytes of the image's layers.

    Source: AWS Lambda developer guide, 'Create a Lambda function using a container image': no multi-architecture image.
    """
    if "manifests" in manifest:
        raise InvalidInput(
            "image-unusable",
            f"{image.uri} is a list of images for several architectures. Lambda takes one image.",
            next="Give the digest of the image for the function's architecture (docker buildx build --platform "
            "linux/amd64 --provenance=false pushes such an image alone).",
        )
    packed = sum(int(layer["size"]) for layer in manifest["layers"])
    if packed > SIZE_LIMIT:
        raise InvalidInput(
            "artifact-oversized",
            f"{image.uri} has {size(packed)} compressed, and Lambda takes {size(SIZE_LIMIT)} unpacked.",
            next="Build a smaller image.",
        )
    return packed


def _read_manifest(target: Target, image: Image) -> dict[str, Any]:
    """The manifest that the digest names. AWS: ecr:BatchGetImage. Raises InvalidInput ``artifact-missing``."""
    found = target.client("ecr").batch_get_image(
        registryId=image.account,
        repositoryName=image.repository,
        imageIds=[{"imageDigest": f"sha256:{image.digest}"}],
        acceptedMediaTypes=[*MANIFESTS, *LISTS],
    )
    if not found["images"]:
        codes = {failure["failureCode"] for failure in found["failures"]}
        if codes & set(MISSING):
            raise _missing(image)
        raise AwsFailed("aws-refused", f"ECR answered {', '.join(codes)}.", next="", code=", ".join(codes))
    return _object(found["images"][0]["imageManifest"].encode(), f"sha256:{image.digest}")


def _read_config(target: Target, image: Image, digest: str) -> dict[str, Any]:
    """An image's config. AWS: ecr:GetDownloadUrlForLayer, and one GET of the address that it answers.

    Raises:
        OSError, ValueError: it could not be downloaded, or is another one than its digest says.
    """
    given = target.client("ecr").get_download_url_for_layer(
        registryId=image.account, repositoryName=image.repository, layerDigest=digest
    )
    url = given["downloadUrl"]
    # urlopen takes other schemes too, file: among them.
    if not url.startswith("https://") and not target.sandbox:
        raise ValueError("no https address")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answered:
        # Content that is cut at the limit has another digest.
        return _object(answered.read(CONFIG_LIMIT), digest)


def _object(content: bytes, digest: str) -> dict[str, Any]:
    """The JSON object with this digest. Raises ValueError for any other content."""
    if digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
        raise ValueError("other content than its digest says")
    found = parse_json(content)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _missing(image: Image) -> InvalidInput:
    return InvalidInput(
        "artifact-missing",
        f"There is no {image.uri}: ECR has no such repository or image.",
        next="Check account, region, repository and digest, and that no lifecycle policy deleted the image.",
    )


def _unread(image: Image, why: str) -> str:
    """The warning where something of an image is unknown."""
    return (
        f"Warning: the image could not be read. {why.rstrip('.')}. AWS checks it with the upload. To read it in the "
        f"plan, the caller needs ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository {image.repository} "
        "(ImageRepositoryArns of infrastructure.yaml)."
    )
