"""Bad builds: one clear error each, before anything is read from AWS."""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buddy_ops.core import packages, project
from buddy_ops.core.errors import InvalidInput

Files = dict[str, bytes]


def zipped(files: Files, *, method: int = zipfile.ZIP_DEFLATED, modes: dict[str, int] | None = None) -> bytes:
    """A zip with these files; ``modes`` are the Unix modes of some."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = method
            entry.create_system = 3
            entry.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(entry, content)
    return packed.getvalue()


GOOD = zipped({"lambda_function.py": b"print(1)\n" * 400, "lib/x.py": b"y = 2\n"})
DIRECTORY = b"PK\x01\x02"


def in_directory(content: bytes, offset: int, form: str, value: int) -> bytes:
    """A zip whose first directory record says something else."""
    at = content.index(DIRECTORY) + offset
    size = struct.calcsize(form)
    return content[:at] + struct.pack(form, value) + content[at + size :]


def linked(target: bytes) -> bytes:
    return zipped({"a.py": b"1", "lib/link": target}, modes={"lib/link": 0o120777})


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        packed = io.BytesIO(GOOD)
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("lib/x.py", b"another")
    return packed.getvalue()


def overlapping() -> bytes:
    """A directory with 300 names for one file of 1 MB: nothing but the directory's sum tells."""
    one = zipped({"0000": bytes(1024**2)})
    start, end = one.index(DIRECTORY), one.rindex(b"PK\x05\x06")
    record = one[start:end]
    records = b"".join(record[:46] + f"{number:04}".encode() for number in range(300))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 300, 300, len(records), start, 0)
    return one[:start] + records + tail


BAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "text": (lambda: b"no zip", "artifact-not-a-zip", "is not a zip file"),
    "empty": (lambda: b"", "artifact-not-a-zip", "is not a zip file"),
    "cut": (lambda: GOOD[:-30], "artifact-damaged", "it was cut off"),
    "half": (lambda: GOOD[: len(GOOD) // 2], "artifact-damaged", "it was cut off"),
    "no files": (lambda: zipped({}), "artifact-damaged", "there is no file in it"),
    "checksum": (lambda: in_directory(GOOD, 16, "<L", 7), "artifact-damaged", "Bad CRC-32"),
    "flipped": (lambda: GOOD[:70] + bytes([GOOD[70] ^ 255]) + GOOD[71:], "artifact-damaged", ""),
    "encrypted": (lambda: in_directory(GOOD, 8, "<H", 1), "artifact-unsafe", "is encrypted"),
    "lzma": (lambda: zipped({"a": b"1"}, method=zipfile.ZIP_LZMA), "artifact-unsafe", "not with deflate"),
    "says less": (lambda: in_directory(GOOD, 24, "<L", 5), "artifact-damaged", "lambda_function.py"),
    "says more": (lambda: in_directory(GOOD, 24, "<L", 9_000_000), "artifact-damaged", "lambda_function.py"),
    "bomb": (lambda: zipped({"zeros": bytes(40 * 1024**2)}), "artifact-unsafe", "as a zip bomb does"),
    "300 MB": (lambda: in_directory(GOOD, 24, "<L", 300 * 1024**2), "artifact-oversized", "Lambda takes 250 MB"),
    "overlapping": (overlapping, "artifact-oversized", "has 300 MB unpacked"),
    "out": (lambda: zipped({"../../etc/cron.d/x": b"1"}), "artifact-unsafe", "leads out of the build"),
    "absolute": (lambda: zipped({"/etc/x": b"1"}), "artifact-unsafe", "absolute name"),
    "drive": (lambda: zipped({"C:/x": b"1"}), "artifact-unsafe", "absolute name"),
    "backslash": (lambda: zipped({"a\\b": b"1"}), "artifact-unsafe", "characters"),
    "control": (lambda: zipped({"a\x1b[2J": b"1"}), "artifact-unsafe", "characters"),
    "link out": (lambda: linked(b"../../secret"), "artifact-unsafe", "is a link to '../../secret'"),
    "link to root": (lambda: linked(b"/etc/passwd"), "artifact-unsafe", "is a link to '/etc/passwd'"),
    "device": (lambda: zipped({"a": b""}, modes={"a": 0o020644}), "artifact-unsafe", "neither a file"),
    "file and folder": (lambda: zipped({"a": b"1", "a/b": b"2"}), "artifact-damaged", "is a file and a folder"),
    "twice": (twice, "artifact-damaged", "it has 'lib/x.py' twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_zip_is_refused(tmp_path: Path, name: str) -> None:
    """With its name and what is wrong with it."""
    make, reference, problem = BAD[name]
    path = tmp_path / "skill.zip"
    path.write_bytes(make())
    with pytest.raises(InvalidInput) as refused:
        project.read_artifact(str(path))
    assert refused.value.reference == reference
    assert problem in refused.value.what and str(path) in refused.value.what


def test_a_good_zip_comes_in(tmp_path: Path) -> None:
    """A link inside, an executable, an empty folder."""
    good = zipped(
        {"a.py": b"1", "bin/run": b"#!", "lib/link": b"../a.py", "empty/": b""},
        modes={"lib/link": 0o120777, "bin/run": 0o100755, "empty/": 0o040755},
    )
    (tmp_path / "skill.zip").write_bytes(good)
    assert project.read_artifact(str(tmp_path / "skill.zip")).content == good


def test_a_link_through_a_link_is_refused() -> None:
    """Each alone stays inside; together they do not."""
    packed = zipped(
        {"a.py": b"1", "deep/in/up": b"../..", "out": b"deep/in/up/../x"},
        modes={"deep/in/up": 0o120777, "out": 0o120777},
    )
    with pytest.raises(InvalidInput, match="may lead out of the build"):
        packages.check_zip(packed, "skill.zip")


def test_a_file_over_50_mb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file of 8 GB takes no memory."""
    path = tmp_path / "skill.zip"
    with path.open("wb") as file:
        file.truncate(8 * 1024**3)
    with pytest.raises(InvalidInput, match="has 8,192 MB, and Lambda takes 50 MB"):
        project.read_artifact(str(path))


def test_a_directory_of_a_million_files_is_not_read() -> None:
    """Its objects alone would take a gigabyte."""
    huge = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 40 * 1024**2, 0, 0)
    with pytest.raises(InvalidInput, match="artifact-oversized"):
        packages.check_zip(GOOD[: GOOD.rindex(b"PK\x05\x06")] + huge, "skill.zip")


def test_a_folder_with_a_link_out_is_not_packed(tmp_path: Path) -> None:
    """What is outside, a credentials file perhaps, would ship."""
    folder = tmp_path / "skill"
    folder.mkdir()
    (folder / "a.py").write_text("1")
    (tmp_path / "secret").write_text("s3cr3t")
    (folder / "b.py").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidInput, match=r"'b\.py' is a link to"):
        project.read_artifact(str(folder))
    (folder / "b.py").unlink()
    (folder / "b.py").symlink_to(folder / "a.py")
    assert zipfile.ZipFile(io.BytesIO(project.read_artifact(str(folder)).content)).namelist() == ["a.py", "b.py"]


def test_an_empty_folder_is_no_build(tmp_path: Path) -> None:
    """Lambda refuses a zip without files."""
    (tmp_path / "skill").mkdir()
    with pytest.raises(InvalidInput, match="there is no file in it"):
        project.read_artifact(str(tmp_path / "skill"))


@pytest.mark.parametrize(
    ("first", "second"), [("a.py", "./a.py"), ("lib/a.py", "lib//a.py"), ("lib/a.py", "lib/./a.py"), ("lib/", "./lib")]
)
def test_one_file_under_two_names_is_refused(first: str, second: str) -> None:
    """The later one replaces the other when Lambda unpacks them: what was reviewed is not what runs."""
    with pytest.raises(InvalidInput, match=r"it has '(lib/a|a)\.py' twice|it has 'lib' twice"):
        packages.check_zip(zipped({first: b"1", second: b"2"}), "skill.zip")


@pytest.mark.parametrize("name", [".", "a/.", "x" * 256, "/".join(["x" * 200] * 21)])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    """Lambda would fail when it unpacks it."""
    with pytest.raises(InvalidInput, match="artifact-unsafe"):
        packages.check_zip(zipped({"a.py": b"1", name: b"2"}), "skill.zip")


def test_what_other_packers_write_comes_in(tmp_path: Path) -> None:
    """bsdtar begins each name with './'; a name of 255 bytes is long enough."""
    good = zipped({"./": b"", "./lambda_function.py": b"1", "./lib/": b"", "./lib/x.py": b"2", "./" + "y" * 255: b"3"})
    packages.check_zip(good, "skill.zip")


@pytest.mark.parametrize("what", ["link to a folder", "link to nothing", "pipe", "a name with an escape code"])
def test_a_folder_is_packed_whole_or_not_at_all(tmp_path: Path, what: str) -> None:
    """What would be left out in silence, or could not be unpacked, is named."""
    folder = tmp_path / "skill"
    (folder / "lib").mkdir(parents=True)
    (folder / "a.py").write_text("1")
    (folder / "lib" / "b.py").write_text("2")
    if what == "link to a folder":
        (folder / "more").symlink_to(folder / "lib")
    elif what == "link to nothing":
        (folder / "more").symlink_to(folder / "nothing")
    elif what == "pipe":
        os.mkfifo(folder / "more")
    else:
        (folder / "more\x1b[2J").write_text("3")
    with pytest.raises(InvalidInput, match="artifact-unsafe") as refused:
        project.read_artifact(str(folder))
    assert "more" in refused.value.what and "\x1b" not in refused.value.what


def test_a_build_that_cannot_be_read_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there: 'no build' would send its reader after the wrong thing."""
    (tmp_path / "skill.zip").write_bytes(GOOD)

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InvalidInput, match="artifact-missing") as refused:
        project.read_artifact(str(tmp_path / "skill.zip"))
    assert "cannot be read: Permission denied" in refused.value.what


LEFT_OUT = (
    *(".env", ".env.prod", "app/.env.local", ".git/config", "app/__pycache__/a.pyc", ".venv/bin/python", "venv/x"),
    *("other/pyvenv.cfg", "other/lib/x.py", ".aws/credentials", "key.pem", "app/id_rsa", "store.p12"),
)


def written(folder: Path, name: str, content: str = "1") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def names_in(packed: packages.Packed) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(packed.content)).namelist()


def test_secrets_and_what_no_build_needs_are_not_packed(tmp_path: Path) -> None:
    """Whatever the ignore file says; certificates that are not private are packed, and a virtual environment's links
    refuse nothing."""
    for name in LEFT_OUT:
        written(tmp_path, name, "-----BEGIN RSA PRIVATE KEY-----\n")
    for name in ("app/a.py", "cacert.pem", "environment.py", "app/id_generator.py"):
        written(tmp_path, name, "-----BEGIN CERTIFICATE-----\n")
    (tmp_path / ".venv" / "bin" / "python3").symlink_to("/usr/bin/env")
    written(tmp_path, packages.IGNORE_FILE, "!.env\n!.git\n!**/id_rsa\n!key.pem\n!__pycache__/\n")
    packed = project.read_artifact(str(tmp_path))
    assert names_in(packed) == ["app/a.py", "app/id_generator.py", "cacert.pem", "environment.py"]
    assert {".env", ".git/", ".venv/", "other/", "key.pem", "app/id_rsa"} <= set(packed.left_out)


@pytest.mark.parametrize(
    ("lines", "left_out"),
    [
        ("*.md", {"README.md", "docs/a.md", "docs/old/b.md"}),
        ("/README.md", {"README.md"}),
        ("docs/", {"docs/"}),
        ("docs/*.md", {"docs/a.md"}),
        ("docs/**", {"docs/a.md", "docs/old/"}),
        ("**/old", {"docs/old/"}),
        ("docs/**/b.md", {"docs/old/b.md"}),
        ("a.m?", {"docs/a.md"}),
        ("a.py/", set()),
        ("# a comment\n\n*.md\n!README.md", {"docs/a.md", "docs/old/b.md"}),
    ],
)
def test_the_ignore_file_reads_as_gitignore(tmp_path: Path, lines: str, left_out: set[str]) -> None:
    """Each form of a line, against the same files."""
    names = {"a.py", "README.md", "docs/a.md", "docs/old/b.md"}
    for name in names:
        written(tmp_path, name)
    written(tmp_path, packages.IGNORE_FILE, lines)
    packed = project.read_artifact(str(tmp_path))
    assert set(packed.left_out) == left_out | {packages.IGNORE_FILE}
    gone = {name for name in names for each in left_out if name == each or (each[-1] == "/" and name.startswith(each))}
    assert set(names_in(packed)) == names - gone


def test_a_zip_over_the_limit_of_an_upload_is_sent_to_s3() -> None:
    """The request that AWS counts, with the zip in base64, has room for a zip of exactly 50 MB."""
    packages.require_size(packages.ZIPPED_LIMIT, "a.zip")
    assert packages.ZIPPED_LIMIT * 4 / 3 + 1000 < 70_167_211
    with pytest.raises(InvalidInput, match="artifact-oversized") as refused:
        packages.require_size(packages.ZIPPED_LIMIT + 1, "a.zip")
    assert "s3://BUCKET/KEY" in refused.value.next
