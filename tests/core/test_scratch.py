"""Folders for short-lived files: at the first place that takes one."""

import tempfile
from pathlib import Path

import pytest

from buddy_ops.core import files


def test_a_full_or_missing_place_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR may be full, or gone."""
    monkeypatch.setattr(files, "SCRATCH", (str(tmp_path / "gone"), str(tmp_path)))
    with files.make_scratch_folder() as folder:
        assert Path(folder).parent == tmp_path and Path(folder).stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []
    assert files.make_lasting_folder().parent == tmp_path


def test_a_name_that_is_too_long_for_a_socket_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is left there."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with files.make_scratch_folder(70) as folder:
        assert len(folder) <= 70
    assert list(long.iterdir()) == []


def test_no_place_at_all_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last place's own error."""
    monkeypatch.setattr(files, "SCRATCH", (str(tmp_path / "gone"),))
    with pytest.raises(FileNotFoundError):
        files.make_scratch_folder()
