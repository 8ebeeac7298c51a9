"""Builds of the Buddy skill: reproducible zips, each with the fault profile it is to show.

Knows how to pack and how to read a profile back. Never talks to AWS, and never runs what it packs.
"""

import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

from buddy_sandbox.faults import PROFILES, FaultProfile

PROFILE_FILE = "fault_profile.json"
LABEL_FILE = "build.json"
SCHEMA_FILE = "schema_range"
_SKILL = Path(__file__).parent / "skill"


def build(profile: FaultProfile, version_label: str = "1.0.0", schema_range: str = "") -> bytes:
    """A zip of the skill that behaves as ``profile`` says: the same bytes for the same arguments, on any machine.

    ``schema_range``: the shapes of a reminder that it knows, for example '1-2'; empty: it declares none, and knows 1.
    """
    contents = {path.name: path.read_bytes().replace(b"\r\n", b"\n") for path in _SKILL.glob("*.py")}
    contents[PROFILE_FILE] = profile.to_json().encode()
    contents[LABEL_FILE] = (json.dumps({"label": version_label, "profile": profile.name}) + "\n").encode()
    if schema_range:
        contents[SCHEMA_FILE] = schema_range.encode()
    packed = io.BytesIO()
    # Stored, not deflated: zlib's output differs between its versions, and CodeSha256 must not.
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, contents[name])
    return packed.getvalue()


def write(
    path: str | os.PathLike[str], profile: FaultProfile, version_label: str = "1.0.0", schema_range: str = ""
) -> Path:
    """``build`` into a file, all or nothing; missing folders are made. Gives the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(build(profile, version_label, schema_range))
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def find_profile(zip_bytes: bytes) -> FaultProfile | None:
    """The profile that a zip carries, or None.

    Raises:
        zipfile.BadZipFile: not a zip.
        ValueError: it carries one that cannot be read.
    """
    with zipfile.ZipFile(io.BytesIO(zip_bytes)) as archive:
        if PROFILE_FILE not in archive.namelist():
            return None
        return FaultProfile.from_json(archive.read(PROFILE_FILE))


def read_profile(zip_bytes: bytes) -> FaultProfile:
    """The profile that a zip carries; one that carries none is a good build. Raises as ``find_profile`` does."""
    return find_profile(zip_bytes) or PROFILES["good"]
