"""Every form of a build: what fits the function is shipped as it was approved, what does not is refused before."""

import io
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from buddy_ops.aws import versions
from buddy_ops.aws.versions import Version
from buddy_ops.checks import setup
from buddy_ops.checks.findings import CheckContext, run_checks
from buddy_ops.core.artifacts import parse_artifact
from buddy_ops.core.errors import BuddyError, InvalidInput, Refused
from buddy_ops.deployment import builds, rollout
from buddy_sandbox import builds as skill
from buddy_sandbox.faults import PROFILES
from tests.conftest import Situation, approve, sampled
from tests.resilience import harness

Bring = Callable[..., Situation]
DIGEST = "0123456789abcdef" * 4
X86 = b"\x7fELF" + bytes(14) + b"\x3e\x00"
ARM = b"\x7fELF" + bytes(14) + b"\xb7\x00"


@pytest.fixture
def quiet(situation: Bring) -> Situation:
    return situation("good", history_minutes=0, requests_per_minute=0)


def unpacked(folder: Path, profile: str) -> str:
    """A build as a folder, with what is no part of it."""
    with zipfile.ZipFile(io.BytesIO(skill.build(PROFILES[profile], version_label="2.0.0"))) as archive:
        archive.extractall(folder)
    (folder / ".env").write_text("PASSWORD=x")
    return str(folder)


def named(here: Situation, form: str, profile: str, tmp_path: Path) -> str:
    """What ``artifact`` is for a build in one of its forms."""
    content = skill.build(PROFILES[profile], version_label="2.0.0")
    if form == "folder":
        return unpacked(tmp_path / "build", profile)
    if form == "stored":
        harness.store(here, content)
        return harness.STORED
    here.publish(here.build(profile))
    # The other tool goes on: $LATEST is another build by now.
    here.client("lambda").update_function_code(
        FunctionName=here.function, ZipFile=skill.build(PROFILES["good"], version_label="9.0.0")
    )
    here.ask("advance", seconds=60)
    return "version:2"


@pytest.mark.parametrize(("profile", "ends"), sampled([("total_failure", "rolled-back"), ("good", "proved")], slice(1)))
@pytest.mark.parametrize("form", ["folder", "stored", "version"])
def test_a_canary_of_each_form(situation: Bring, tmp_path: Path, form: str, profile: str, ends: str) -> None:
    """A bad build is rolled back, a good one promoted; of a version nothing is uploaded or published."""
    here = situation(profile, **harness.BUSY)
    artifact = named(here, form, profile, tmp_path)
    before = len(here.calls("UpdateFunctionCode", "PublishVersion"))
    assert harness.ship_named(artifact)(here) == ends
    written = [call["operation"] for call in here.calls("UpdateFunctionCode", "PublishVersion")][before:]
    assert written == ([] if form == "version" else ["UpdateFunctionCode", "PublishVersion"])
    assert here.alias()["FunctionVersion"] == ("2" if ends == "proved" else "1")


def test_the_plan_says_what_the_build_is_and_what_was_left_out(quiet: Situation, tmp_path: Path) -> None:
    """Package type, size, runtime, architecture and region."""
    with closing(quiet.connect()) as mine:
        said = " ".join(rollout.plan_rollout(mine, unpacked(tmp_path / "build", "good")).reasons)
    assert "Build: zip" in said and "kB unpacked" in said and "Left out of the zip: .env." in said
    assert "$LATEST: Zip, " in said and "x86_64, us-east-1" in said


def test_the_object_that_was_approved_is_deployed(quiet: Situation) -> None:
    """It is replaced between plan and upload: the version of the plan is what Lambda is given."""
    first = harness.store(quiet, skill.build(PROFILES["good"], version_label="2.0.0"))
    with closing(quiet.connect()) as mine:
        plan = rollout.plan_rollout(mine, harness.STORED)
        assert f"versionId={first}" in " ".join(plan.reasons)
        quiet.client("s3").put_object(Bucket="buddy-builds", Key="good.zip", Body=b"another")
        steps = rollout.run_rollout(mine, plan, approve(mine, plan))
        while not quiet.calls("PublishVersion"):
            mine.clock.sleep_until(next(steps).wake_at)
        steps.close()
        assert versions.read_version(mine, "2").sha256 == plan.change.sha256


def test_an_object_without_versions_is_said_to_be_so(quiet: Situation) -> None:
    """Nothing pins it: its SHA-256 is compared after the upload."""
    harness.store(quiet, skill.build(PROFILES["good"], version_label="2.0.0"), versioned=False)
    with closing(quiet.connect()) as mine:
        assert "keeps no versions" in " ".join(rollout.plan_rollout(mine, harness.STORED).reasons)


def test_two_versions_of_one_build_are_two_approvals(quiet: Situation) -> None:
    """The code alone does not say which of them a person named."""
    quiet.publish(quiet.build("good"))
    quiet.publish(quiet.build("total_failure"))
    assert quiet.publish(quiet.build("good")) == "4"
    with closing(quiet.connect()) as mine:
        plans = [rollout.plan_rollout(mine, f"version:{number}") for number in (2, 4)]
    assert plans[0].change.sha256 == plans[1].change.sha256 and plans[0].hash != plans[1].hash
    assert plans[0].calls[0].startswith("scheduler:")


def elsewhere(here: Situation) -> str:
    region = "eu-west-1"
    here.client("s3").create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": region})
    return "s3://far-away/a.zip"


def unreadable(here: Situation) -> str:
    harness.store(here, b"no zip")
    return harness.STORED


MISMATCHES: dict[str, tuple[Callable[[Situation], str], str, str]] = {
    "no bucket": (lambda here: "s3://nothing-there/a.zip", "artifact-missing", "no such bucket"),
    "another region": (elsewhere, "artifact-elsewhere", "is in eu-west-1"),
    "no zip": (unreadable, "artifact-not-a-zip", "is not a zip"),
    "no version": (lambda here: "version:99", "version-missing", "version 99"),
    "an image that is not there": (
        lambda here: f"123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:{DIGEST}",
        "artifact-missing",
        "no such repository",
    ),
    "an image elsewhere": (
        lambda here: f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop@sha256:{DIGEST}",
        "artifact-elsewhere",
        "The image is in eu-west-1",
    ),
    "no object": (lambda here: unreadable(here) + ".none", "artifact-missing", "good.zip.none"),
    "no such object version": (lambda here: unreadable(here) + "?versionId=0123456789", "artifact-missing", "012345"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_cannot_be_deployed_is_refused_before_approval(quiet: Situation, name: str) -> None:
    """In three parts: what happened, AWS's state, the next step; nothing was written."""
    make, reference, problem = MISMATCHES[name]
    artifact = make(quiet)
    with closing(quiet.connect()) as mine, pytest.raises(BuddyError, match=reference) as refused:
        rollout.plan_rollout(mine, artifact)
    assert isinstance(refused.value, InvalidInput | Refused)
    assert problem in refused.value.what and refused.value.next
    assert not quiet.calls("UpdateFunctionCode", "PublishVersion", "UpdateAlias")


def latest(here: Situation, **settings: Any) -> Version:
    """$LATEST with other settings."""
    with closing(here.connect()) as mine:
        found = versions.read_version(mine)
    return replace(found, settings={**found.settings, "Layers": None, **settings})


def zipped(tmp_path: Path, contents: dict[str, bytes]) -> str:
    path = tmp_path / "build.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return str(path)


PYTHON = {"Runtime": "python3.13", "Handler": "app.main.handler", "Architectures": ["x86_64"]}
NODE = {"Runtime": "nodejs22.x", "Handler": "dist/index.handler", "Architectures": ["arm64"]}
LAYER = {"Layers": [{"Arn": "arn:aws:lambda:us-east-1:123456789012:layer:datadog:1"}]}


@pytest.mark.parametrize(
    ("settings", "contents", "refused"),
    [
        (PYTHON, {"app/main.py": b""}, ""),
        (PYTHON, {"app/main/__init__.py": b""}, ""),
        (PYTHON, {"app/main.cpython-313-x86_64-linux-gnu.so": X86}, ""),
        (PYTHON, {"./app/main.py": b""}, ""),
        (PYTHON, {"src/app/main.py": b""}, "handler-missing"),
        (PYTHON | LAYER, {"src/app/main.py": b""}, "warns"),
        (PYTHON, {"app/main.py": b"", "lib/x.so": ARM}, "architecture-differs"),
        (PYTHON, {"app/main.py": b"", "lib/x.so.1": X86}, ""),
        (PYTHON, {"app/main.py": b"", "lib/x.so": ARM, "lib/y.so": X86}, ""),
        (PYTHON, {"app/main.py": b"", "lib/x.so": b"INPUT(libc.so.6)"}, ""),
        (PYTHON | {"Architectures": None}, {"app/main.py": b"", "x.so": ARM}, "architecture-differs"),
        (NODE, {"dist/index.mjs": b""}, ""),
        (NODE, {"dist/index.cjs": b"", "x.so": X86}, "architecture-differs"),
        (NODE, {"index.js": b""}, "handler-missing"),
        ({"Runtime": "java21", "Handler": "shop.Main::handle"}, {"shop/Main.class": b""}, ""),
        ({"Runtime": "provided.al2023", "Handler": "bootstrap"}, {"bootstrap": X86}, ""),
        ({"Runtime": None, "Handler": None, "PackageType": "Image"}, {"a.py": b""}, "package-type-differs"),
    ],
)
def test_a_zip_is_held_against_the_configuration(
    quiet: Situation, tmp_path: Path, settings: dict[str, Any], contents: dict[str, bytes], refused: str
) -> None:
    """Handler, architecture and package type; what a layer may have is a warning."""
    wanted = latest(quiet, **settings)
    with closing(quiet.connect()) as mine:
        build = builds.read_build(mine, parse_artifact(zipped(tmp_path, contents)))
        if refused in ("", "warns"):
            assert bool(list(builds.require_runnable(mine, build, wanted))) == bool(refused)
            return
        with pytest.raises(Refused, match=refused):
            list(builds.require_runnable(mine, build, wanted))


def test_a_deprecated_runtime_is_told(quiet: Situation) -> None:
    """By the plan and by the doctor: AWS still takes builds for it, so neither refuses."""
    wanted = latest(quiet, Runtime="python3.9")
    with closing(quiet.connect()) as mine:
        build = builds.read_build(mine, parse_artifact(quiet.build("good")))
        (told,) = builds.require_runnable(mine, build, wanted)
        context = CheckContext(mine)
        context.__dict__["configuration"] = wanted
        (finding,) = run_checks([check for check in setup.CHECKS if check.name == "runtime"], context)
    assert "python3.9 is deprecated since 2025-12-15" in told and finding.message in told
    assert finding.state == "warning"


def test_a_published_version_has_its_own_configuration(quiet: Situation) -> None:
    """To publish it again with another one would be another version: refused, and nothing is ignored."""
    with closing(quiet.connect()) as mine, pytest.raises(InvalidInput, match="invalid-parameters") as refused:
        rollout.plan_rollout(mine, "version:1", new_configuration=True)
    assert "leave one of them out" in refused.value.what


def test_the_sandbox_answers_to_an_image_as_aws_does(quiet: Situation) -> None:
    """Its functions are zips, and it says why it creates no other."""
    lam = quiet.client("lambda")
    uri = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:{DIGEST}"
    with pytest.raises(ClientError, match="don't provide ImageUri when updating a function with packageType Zip"):
        lam.update_function_code(FunctionName=quiet.function, ImageUri=uri)
    role = "arn:aws:iam::123456789012:role/shop"
    with pytest.raises(ClientError, match="no container images"):
        lam.create_function(FunctionName="shop", Role=role, PackageType="Image", Code={"ImageUri": uri})
