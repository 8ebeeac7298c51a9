"""An archive that somebody with write access changed: whatever was done to its files and folders is found.

``verify`` names it, and ``index`` does not make it look right: no forged, renamed or linked folder is archived.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from buddy_ops.core.errors import BuddyError
from buddy_ops.runs import supervisor, verification
from buddy_ops.runs.stores import LocalStore
from tests.runs.test_archive import leave, sealed

RUNS = ("run-0001", "run-0002", "run-0003")
UNFINISHED = "run-0004"
REPAIRED = (
    *("the index hard-linked", "the index's page linked", "the lock linked"),
    *("a half-written index", "a half-written page, linked", "a half-written manifest"),
)
"""What ``runs index`` may put right: it replaces the file by the one that the manifests give, or deletes the half."""

Change = Callable[[Path], None]


@pytest.fixture
def archived(tmp_path: Path) -> Path:
    """Three archived runs, and one that nobody archived yet."""
    root = tmp_path / "runs"
    for name in RUNS:
        # No two files of the archive have the same content.
        sealed(root, name, records=[{"seq": 2, "kind": "aws", "call": "lambda:get_alias", "request": name}])
    leave(root, UNFINISHED)
    assert found(root) == ()
    return root


def found(root: Path) -> tuple[str, ...]:
    return verification.verify_archive(LocalStore(root)).problems


def refuse_or_repair(root: Path) -> None:
    """What ``runs index`` does; it may refuse."""
    with suppress(BuddyError):
        list(supervisor.index_archive(str(root)))


def files(root: Path, run: str) -> list[Path]:
    return sorted((root / run).iterdir())


def changes(root: Path) -> Iterator[tuple[str, Change]]:
    """Each change, and its name. They are made one at a time."""
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    for run in RUNS:
        yield f"{run} removed", lambda root, run=run: shutil.rmtree(root / run)
        yield f"{run} renamed", lambda root, run=run: (root / run).rename(root / f"{run}-b")
        yield f"{run} renamed, hidden", lambda root, run=run: (root / run).rename(root / f".{run}")
        yield f"{run} copied", lambda root, run=run: shutil.copytree(root / run, root / "run-0009")
        yield f"{run} linked to elsewhere", lambda root, run=run: link_folder(root / run, elsewhere)
        yield f"{run} named twice by a link", lambda root, run=run: (root / "run-0009").symlink_to(root / run)
        yield f"{run} hidden file", lambda root, run=run: write(root / run / ".notes")
        yield (
            f"{run} checkpoint folder",
            lambda root, run=run: write(root / run / ".ipynb_checkpoints" / "notebook.ipynb"),
        )
        yield f"{run} folder", lambda root, run=run: (root / run / "more").mkdir()
        yield f"{run} odd name", lambda root, run=run: write(root / run / "report.html\u200b")
        yield f"{run} pipe", lambda root, run=run: os.mkfifo(root / run / "pipe")
        yield f"{run} line break in a name", lambda root, run=run: write(root / run / "a\nb")
        for path in files(root, run):
            name = f"{run}/{path.name}"
            yield f"{name} removed", lambda root, name=name: (root / name).unlink()
            yield f"{name} emptied", lambda root, name=name: (root / name).write_bytes(b"")
            yield f"{name} longer", lambda root, name=name: append(root / name)
            yield f"{name} renamed", lambda root, name=name: (root / name).rename(root / f"{name}.bak")
            yield f"{name} hidden", lambda root, name=name: hide(root / name)
            yield f"{name} linked to elsewhere", lambda root, name=name: link_file(root / name, elsewhere)
            yield f"{name} hard-linked", lambda root, name=name: link_hard(root / name, elsewhere)
            yield f"{name} pipe", lambda root, name=name: pipe(root / name)
            yield f"{name} added beside", lambda root, name=name: shutil.copy(root / name, root / f"{name}.txt")
            for other in RUNS:
                if other != run:
                    there = f"{other}/{path.name}"
                    yield f"{name} of {other}", lambda root, a=name, b=there: shutil.copy(root / b, root / a)
                    yield f"{name} swapped", lambda root, a=name, b=there: swap(root / a, root / b)
    yield "first and second swapped", lambda root: swap(root / RUNS[0], root / RUNS[1])
    yield "second and third swapped", lambda root: swap(root / RUNS[1], root / RUNS[2])
    yield "a report without a manifest", lambda root: write(root / "run-0009" / "report.html")
    yield "a report in the unfinished run", lambda root: write(root / UNFINISHED / "report.html")
    yield (
        "a manifest in the unfinished run",
        lambda root: shutil.copy(root / RUNS[2] / "manifest.json", root / UNFINISHED),
    )
    yield "a file in the unfinished run", lambda root: write(root / UNFINISHED / "more.txt")
    yield "a link in the unfinished run", lambda root: link_file(root / UNFINISHED / "notebook.ipynb", elsewhere)
    yield "the unfinished run without its journal", lambda root: (root / UNFINISHED / "journal.jsonl").unlink()
    yield "an empty folder", lambda root: (root / "run-0009").mkdir()
    yield "a hidden folder", lambda root: write(root / ".run-0009" / "report.html")
    yield "a hidden file", lambda root: write(root / ".report.html")
    yield "a file beside the runs", lambda root: write(root / "report.html")
    yield "a link beside the runs", lambda root: (root / "latest").symlink_to(root / RUNS[2])
    yield "a link to nothing", lambda root: (root / "latest").symlink_to(root / "nothing")
    yield "the index hard-linked", lambda root: link_hard(root / "index.json", elsewhere)
    yield "the index's page linked", lambda root: link_file(root / "index.html", elsewhere)
    yield "a half-written index", lambda root: write(root / ".index.json.0123456789abcdef.part")
    yield "a half-written page, linked", lambda root: (root / ".index.html.part").symlink_to(elsewhere)
    yield "the lock linked", lambda root: link_file(root / ".lock", elsewhere)
    yield "a half-written manifest", lambda root: write(root / UNFINISHED / ".manifest.json.0123456789abcdef.part")
    yield "a half-written signature", lambda root: write(root / RUNS[0] / ".signature.json.0123456789abcdef.part")
    yield "a signature that is none", lambda root: write(root / RUNS[0] / "signature.json")
    yield "a forged run at the end", forge


def write(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("added")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def hide(path: Path) -> None:
    path.rename(path.with_name(f".{path.name}"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swap(one: Path, other: Path) -> None:
    aside = one.parent.parent.parent / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def link_folder(path: Path, elsewhere: Path) -> None:
    """The same content, by a link that leads out of the archive."""
    shutil.move(path, elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)


def link_file(path: Path, elsewhere: Path) -> None:
    shutil.move(path, elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)


def link_hard(path: Path, elsewhere: Path) -> None:
    os.link(path, elsewhere / path.name)


def forge(root: Path) -> None:
    """A run that fits the chain, and that the index does not have."""
    index, page = (root / "index.json").read_bytes(), (root / "index.html").read_bytes()
    sealed(root, "run-0009")
    (root / "index.json").write_bytes(index)
    (root / "index.html").write_bytes(page)


def restore(root: Path, backup: Path) -> None:
    shutil.rmtree(root)
    shutil.rmtree(root.parent / "elsewhere", ignore_errors=True)
    shutil.copytree(backup, root)


def assert_all_found(root: Path, part: slice, record_property: Callable[[str, object], None]) -> None:
    backup = root.parent / "backup"
    shutil.copytree(root, backup)
    tried = list(changes(root))[part]
    for name, change in tried:
        restore(root, backup)
        (root.parent / "elsewhere").mkdir(exist_ok=True)
        change(root)
        assert found(root), name
        refuse_or_repair(root)
        assert found(root) or name in REPAIRED, f"{name}: runs index made it look right"
    record_property("matrix", ("archive", "changes to files and folders", len(tried)))


def test_changed_files_and_folders_are_found(archived: Path, record_property: Callable[[str, object], None]) -> None:
    """Every fifth change."""
    assert_all_found(archived, slice(0, None, 5), record_property)


@pytest.mark.whole
@pytest.mark.parametrize("first", range(1, 5))
def test_all_changed_files_and_folders_are_found(
    archived: Path, first: int, record_property: Callable[[str, object], None]
) -> None:
    """The rest of the changes."""
    assert_all_found(archived, slice(first, None, 5), record_property)


def flip(root: Path, first: int, step: int) -> int:
    """Flip single bits of every file of the archive; how many were tried. Each must be found."""
    tried = 0
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock"):
        if path.parent.name == UNFINISHED:
            continue  # it has no hashes yet
        content = path.read_bytes()
        for at in range(first, len(content), step):
            changed = bytes((content[at] ^ 1 << at % 8,))
            path.write_bytes(content[:at] + changed + content[at + 1 :])
            assert found(root), (path, at)
            tried += 1
        path.write_bytes(content)
    assert found(root) == ()
    return tried


@pytest.mark.whole
@pytest.mark.timeout(1800)
def test_every_flipped_byte_of_an_archive_is_found(
    archived: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each byte of each file; a sample of them is in tests/runs."""
    record_property("matrix", ("archive", "flipped bytes", flip(archived, 0, 1)))
