"""Builds: reproducible zips of the skill, each with its fault profile."""

import io
import zipfile
from pathlib import Path

import pytest

from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES

GOOD = PROFILES["good"]


def entries(zipped: bytes) -> list[zipfile.ZipInfo]:
    """What a sound zip holds."""
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert archive.testzip() is None
        return archive.infolist()


def test_the_same_build_has_the_same_bytes() -> None:
    """Nothing of machine or moment is in a build: sorted names, fixed date and permissions, no compression."""
    zipped = builds.build(GOOD)
    assert zipped == builds.build(GOOD, "1.0.0")
    packed = entries(zipped)
    assert [entry.filename for entry in packed] == sorted(entry.filename for entry in packed)
    assert {entry.date_time for entry in packed} == {(1980, 1, 1, 0, 0, 0)}
    assert {(entry.external_attr >> 16, entry.create_system) for entry in packed} == {(0o100644, 3)}
    assert {entry.compress_type for entry in packed} == {zipfile.ZIP_STORED}


def test_label_and_profile_tell_builds_apart() -> None:
    """Two labels, or two profiles, give different bytes and so another CodeSha256."""
    made = {builds.build(profile, label) for profile in PROFILES.values() for label in ("1.0.0", "1.0.1")}
    assert len(made) == 2 * len(PROFILES)


def test_a_build_holds_the_skill() -> None:
    """The handler, the fault logic, the profile and the label are there, and little else."""
    names = {entry.filename for entry in entries(builds.build(GOOD))}
    assert names == {"lambda_function.py", "faults.py", "fault_profile.json", "build.json"}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_profile_travels_in_the_zip(profile: builds.FaultProfile) -> None:
    """What went in is read back."""
    assert builds.read_profile(builds.build(profile)) == profile


def test_a_zip_without_a_profile_is_a_good_build() -> None:
    """Any other zip is taken for a good build."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", "")
    assert builds.find_profile(packed.getvalue()) is None
    assert builds.read_profile(packed.getvalue()) == GOOD


def test_what_is_no_zip_has_no_profile() -> None:
    """Bytes that are no zip raise rather than pass for a good build."""
    with pytest.raises(zipfile.BadZipFile):
        builds.read_profile(b"no zip")


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    """A build is written whole under its name, replacing what was there, and leaves nothing else behind."""
    path = tmp_path / "build" / "skill.zip"
    assert builds.write(path, GOOD, "1.0.0") == path
    builds.write(path, GOOD, "1.0.1")
    assert path.read_bytes() == builds.build(GOOD, "1.0.1")
    assert [each.name for each in path.parent.iterdir()] == ["skill.zip"]
    assert path.stat().st_mode & 0o777 == 0o644
