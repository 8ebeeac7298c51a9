"""Files are written whole or not at all, and nothing that was planted beside them is followed."""

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core import files
from buddy_ops.core.files import delete_parts_of, is_part, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_content_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    """Text is UTF-8; the mode is that of any new file; no other file is left."""
    path = tmp_path / "index.json"
    for content in ("ä", b"bytes"):
        write_atomically(path, content, sync=True)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    (tmp_path / "other").write_text("")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode and names(tmp_path) == ["index.json", "other"]


@pytest.mark.parametrize("planted", [".index.json.part", ".index.json.0000000000000000.part"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_planted_beside_a_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, kind: str
) -> None:
    """Whoever may write the folder, and guesses the name, gets nothing written elsewhere, and stops nothing for long."""
    target, folder = tmp_path / "elsewhere", tmp_path / "runs"
    folder.mkdir()
    if kind == "link":
        target.write_text("theirs")
    if "link" in kind:
        (folder / planted).symlink_to(target)
    elif kind == "folder":
        (folder / planted).mkdir()
    else:
        os.mkfifo(folder / planted)
    tokens = iter(("0" * 16, "1" * 16, "2" * 16))
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: next(tokens))
    try:
        write_atomically(folder / "index.json", "ours")
    except FileExistsError:
        assert planted.count("0") == 16  # the very name was guessed: refused, and the next write has another name
        write_atomically(folder / "index.json", "ours")
    assert (folder / "index.json").read_text() == "ours" and names(folder) == [planted, "index.json"]
    assert target.read_text() == "theirs" if kind == "link" else not target.exists()


def test_a_link_in_the_files_own_place_is_replaced(tmp_path: Path) -> None:
    """The link goes, what it leads to stays."""
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / "index.json").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "index.json", "ours")
    assert (tmp_path / "elsewhere").read_text() == "theirs" and not (tmp_path / "index.json").is_symlink()


@pytest.mark.parametrize("fails", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "index.json"
    write_atomically(path, "old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    content: Any = "new"
    with monkeypatch.context() as patch:
        if fails == "fsync":
            patch.setattr(os, "fsync", full)
        elif fails == "replace":
            patch.setattr(Path, "replace", full)
        else:
            content = 7  # cannot be written
        with pytest.raises((OSError, TypeError)):
            write_atomically(path, content, sync=True)
    assert path.read_text() == "old" and names(tmp_path) == ["index.json"]


def test_what_a_kill_left_is_told_from_other_names_and_deleted(tmp_path: Path) -> None:
    """The names of this release and of earlier ones; no folder, and nothing that only looks alike."""
    stale = [".index.json.part", ".index.json.0123456789abcdef.part"]
    others = [".index.json.0123.part", ".index.jsonx.part", "index.json.part", ".index.html.part"]
    for name in (*stale, *others):
        (tmp_path / name).write_text("half")
    assert [is_part(name, "index.json") for name in (*stale, *others)] == [True, True, False, False, False, False]
    delete_parts_of(tmp_path / "index.json")
    assert names(tmp_path) == sorted(others)
    (tmp_path / stale[0]).mkdir()
    delete_parts_of(tmp_path / "index.json")
    delete_parts_of(tmp_path / "missing" / "index.json")
    assert stale[0] in names(tmp_path)


def test_more_files_may_be_open_where_the_system_allows_it() -> None:
    """A fleet's rollback has a journal for each target; 1,024 open files are a usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        files.allow_open_files(600)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(600, hard), hard)
        files.allow_open_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(600, hard), "it is never lowered"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
