"""Container images in the plan: what the registry has of one, and what follows where it may not be read."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from buddy_ops.aws import images, versions
from buddy_ops.core.artifacts import parse_artifact
from buddy_ops.core.errors import AwsFailed, InvalidInput, Refused
from buddy_ops.deployment import builds
from tests.conftest import Situation, intercept

Bring = Callable[..., Situation]
GIGABYTE = 1024**3
OCI = "application/vnd.oci.image.manifest.v1+json"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """A registry with one image, which a test changes before it is read."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.config = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
        self.served: bytes | None = None
        self.layers = [3 * 1024**2, 40 * 1024**2]
        self.manifest: dict[str, Any] | None = None
        self.answer: dict[str, Any] = {}
        self.refused: dict[str, str] = {}
        self.calls: list[dict[str, Any]] = []

    @property
    def content(self) -> bytes:
        """The image's manifest."""
        layers = [{"digest": digest(b"x"), "size": size} for size in self.layers]
        whole = {"mediaType": OCI, "config": {"digest": digest(self.config)}, "layers": layers}
        return json.dumps(self.manifest or whole).encode()

    @property
    def uri(self) -> str:
        return f"123456789012.dkr.ecr.us-east-1.amazonaws.com/team/shop@{digest(self.content)}"

    def __call__(self, send: Any, service: str, operation: str, **given: Any) -> Any:
        if service != "ecr":
            return send(service, operation, **given)
        self.calls.append({"operation": operation, **given})
        if operation in self.refused:
            code = self.refused[operation]
            raise AwsFailed("aws-refused", f"AWS answered {code}.", next="Ask.", code=code)
        if operation == "get_download_url_for_layer":
            return {"downloadUrl": f"{self.url}/secret-signature"}
        return {"images": [{"imageManifest": self.content.decode()}], "failures": [], **self.answer}


@pytest.fixture
def registry() -> Iterator[Registry]:
    class Blob(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(kept.config if kept.served is None else kept.served)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Blob) as server:
        kept = Registry(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield kept
        server.shutdown()


def read(here: Situation, registry: Registry, architecture: str = "x86_64") -> builds.Build:
    """The build that a plan reads, compared with a function of images."""
    with closing(here.connect(quiet=True)) as mine:
        intercept(mine, registry)
        build = builds.read_build(mine, parse_artifact(registry.uri))
        found = versions.read_version(mine)
        settings = {**found.settings, "PackageType": "Image", "Runtime": None, "Architectures": [architecture]}
        assert list(builds.require_runnable(mine, build, replace(found, settings=settings))) == []
        return build


def test_an_image_is_read(situation: Bring, registry: Registry) -> None:
    """By its digest, in the registry of its account; the plan has its size, and no warning."""
    build = read(situation("first_deployment"), registry)
    assert build.description.endswith(", 43.0 MB compressed") and build.machines == {"x86_64": "The image"}
    assert not any("Warning" in note for note in build.notes)
    # Lambda's CodeSha256 of an image is its digest (recorded: ResolvedImageUri ends with it).
    assert (f"sha256:{build.sha256}", build.code) == (digest(registry.content), {"ImageUri": registry.uri})
    manifest, config = registry.calls
    assert (manifest["registryId"], manifest["repositoryName"]) == ("123456789012", "team/shop")
    assert manifest["imageIds"] == [{"imageDigest": digest(registry.content)}]
    assert config["layerDigest"] == digest(registry.config)


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        ({"answer": {"images": [], "failures": [{"failureCode": "ImageNotFound"}]}}, "artifact-missing"),
        ({"refused": {"batch_get_image": "RepositoryNotFoundException"}}, "artifact-missing"),
        ({"manifest": {"mediaType": images.LISTS[1], "manifests": []}}, "image-unusable"),
        ({"layers": [6 * GIGABYTE, 5 * GIGABYTE]}, "artifact-oversized"),
        ({"config": b'{"architecture": "arm64"}'}, "architecture-differs"),
        ({"config": b'{"architecture": "s390x"}'}, "architecture-differs"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_lambda_would_refuse_is_refused(
    situation: Bring, registry: Registry, change: dict[str, Any], reference: str
) -> None:
    """Before the approval: nothing is uploaded."""
    vars(registry).update(change)
    with pytest.raises((InvalidInput, Refused)) as refused:
        read(situation("first_deployment"), registry)
    assert refused.value.reference == reference


@pytest.mark.parametrize(
    ("change", "sized"),
    [
        ({"refused": {"batch_get_image": "AccessDeniedException"}}, False),
        ({"answer": {"images": [], "failures": [{"failureCode": "KmsError"}]}}, False),
        ({"answer": {"images": [{"imageManifest": "{}"}]}}, False),
        ({"refused": {"get_download_url_for_layer": "AccessDeniedException"}}, True),
        ({"served": b"a page of a proxy"}, True),
        ({"url": "http://127.0.0.1:1"}, True),
        ({"url": "file:///etc/passwd#"}, True),
    ],
    ids=str,
)
def test_what_may_not_be_read_is_a_warning(
    situation: Bring, registry: Registry, change: dict[str, Any], sized: bool
) -> None:
    """One sentence with the permissions; the rollout may go on, and no address with a signature is shown."""
    vars(registry).update(change)
    build = read(situation("first_deployment"), registry)
    (warning,) = (note for note in build.notes if note.startswith("Warning"))
    assert "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository team/shop" in warning
    assert "secret-signature" not in warning and build.machines == {}
    assert ("compressed" in build.description) == sized


def test_an_image_fits_no_function_of_zips(situation: Bring, registry: Registry) -> None:
    with closing(situation("first_deployment").connect(quiet=True)) as mine:
        intercept(mine, registry)
        build = builds.read_build(mine, parse_artifact(registry.uri))
        with pytest.raises(Refused, match="package-type-differs"):
            list(builds.require_runnable(mine, build, versions.read_version(mine)))


def test_an_arm_image_fits_an_arm_function(situation: Bring, registry: Registry) -> None:
    """OCI's names of processors are not Lambda's."""
    registry.config = b'{"architecture": "arm64"}'
    assert read(situation("first_deployment"), registry, "arm64").machines == {"arm64": "The image"}
