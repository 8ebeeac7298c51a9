"""Old runs are pruned, and what is left verifies: the chain itself says what was deleted, by whom and when."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from buddy_ops.cli.main import app
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.runs import archive, retention, supervisor, verification
from buddy_ops.runs.stores import LocalStore
from tests.runs.test_archive import leave, problems, sealed

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Five archived runs, one a day."""
    root = tmp_path / "runs"
    for number in range(1, 6):
        sealed(root, f"run-000{number}", records=[{"seq": 2, "at": f"2026-11-2{number}T03:20:00Z", "kind": "aws"}])
    return LocalStore(root)


def prune(store: LocalStore, keep: str) -> archive.ManifestEntry:
    return retention.run_pruning(store, retention.plan_pruning(store, keep, NOW), ("Ada",), NOW)


def test_what_is_left_verifies_and_says_what_was_pruned(store: LocalStore) -> None:
    """The oldest runs are gone; their hashes are in the chain, and an announced one is still accepted."""
    oldest = archive.list_entries(store)[0]
    entry = prune(store, "2")
    found = verification.verify_archive(store, oldest.sha256)
    assert found.problems == () and found.unfinished == ()
    assert found.pruned[0].startswith("3 pruned at 2026-12-01 00:00 UTC by Ada, from run-0001 to run-0003")
    assert [each.folder for each in archive.list_entries(store)] == ["run-0004", "run-0005", entry.folder]
    assert not (store.root / "run-0001").exists()
    sealed(store.root, "run-0006")
    assert problems(store.root) == ()


def test_runs_are_pruned_by_age(store: LocalStore) -> None:
    """Those that ended more than seven days ago: before 24 November."""
    assert [run.folder for run in retention.plan_pruning(store, "7d", NOW).runs] == ["run-0001", "run-0002", "run-0003"]
    assert retention.plan_pruning(store, "2w", NOW).runs == ()
    assert retention.plan_pruning(store, "5", NOW).runs == () and len(retention.plan_pruning(store, "4", NOW).runs) == 1


def test_a_pruned_archive_is_pruned_again(store: LocalStore) -> None:
    """The record of the first pruning is a run like others: the second one names it."""
    first = prune(store, "3")
    second = prune(store, "1")
    assert problems(store.root) == ()
    assert [each.folder for each in archive.list_entries(store)] == [first.folder, second.folder]
    third = prune(store, "1")
    assert problems(store.root) == () and first.folder in third.pruned_hashes.values()


def test_a_run_that_is_missing_besides_is_still_found(store: LocalStore) -> None:
    """A pruning excuses the runs that it names, and no other."""
    prune(store, "3")
    shutil.rmtree(store.root / "run-0004")
    assert any("run-0004: missing" in each for each in problems(store.root))


def test_the_oldest_run_deleted_without_a_pruning_is_found(store: LocalStore) -> None:
    """Its folder and its line: the chain does not begin."""
    shutil.rmtree(store.root / "run-0001")
    (store.root / "index.json").unlink()
    assert problems(store.root)
    with pytest.raises(BuddyError, match="archive-damaged"):
        archive.rebuild_index(store)


@pytest.mark.parametrize("point", range(8))
def test_a_pruning_that_was_cut_off_is_finished(store: LocalStore, monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    """Killed before any of its deletions: nothing is red, and ``runs index`` finishes it."""
    calls = 0
    real: dict[str, Callable[..., object]] = {"unlink": Path.unlink, "rmdir": Path.rmdir}

    def counted(name: str) -> Callable[..., object]:
        def call(path: Path, *arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls > point:
                raise KeyboardInterrupt
            return real[name](path, *arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(Path, name, counted(name))
        with pytest.raises(KeyboardInterrupt):
            prune(store, "2")
    assert [each for each in problems(store.root) if "empty" not in each] == []
    list(supervisor.index_archive(str(store.root)))
    assert problems(store.root) == () and not (store.root / "run-0001").exists()


def test_an_archive_that_does_not_verify_is_not_pruned(store: LocalStore) -> None:
    """What was changed may be needed to find out how."""
    (store.root / "run-0001" / "report.html").write_text("forged")
    with pytest.raises(BuddyError, match="archive-damaged"):
        retention.plan_pruning(store, "2", NOW)
    with pytest.raises(InvalidInput, match="invalid-parameters"):
        retention.plan_pruning(store, "all", NOW)


def test_runs_that_s3_does_not_have_are_kept(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy on this machine may be the only one."""
    folder = leave(store.root, "run-0006", archive="s3://bucket/runs")
    archive.append_to_chain(folder, archive.build_manifest(folder, archive.Redactor()))
    sealed(store.root, "run-0007")
    elsewhere = LocalStore(store.root.parent / "bucket")
    monkeypatch.setattr(archive, "open_store", lambda where, environment="": elsewhere)
    plan = retention.plan_pruning(store, "1", NOW)
    assert plan.runs[-1].folder == "run-0005" and "run-0006 is not in s3://bucket/runs yet" in str(plan)


def test_the_command_lists_then_asks(store: LocalStore) -> None:
    """A dry run and a No delete nothing; --yes does."""
    arguments = ["runs", "prune", "--keep", "4", "--archive", str(store.root)]
    for more, answer in ((["--dry-run"], ""), ([], "n\n")):
        done = CliRunner().invoke(app, [*arguments, *more], input=answer)
        assert done.exit_code == 0 and "run-0001" in done.output and "1 run to delete, 4 kept" in done.output
        assert (store.root / "run-0001").exists()
    done = CliRunner().invoke(app, [*arguments, "--yes"])
    assert done.exit_code == 0 and "SUCCEEDED: 1 pruned." in done.output and not (store.root / "run-0001").exists()
    done = CliRunner().invoke(app, ["runs", "verify", "--archive", str(store.root)])
    assert done.exit_code == 0 and "1 pruned at" in done.output


def test_an_id_that_came_up_twice_is_refused_with_its_candidates(tmp_path: Path) -> None:
    """Old ids have four digits, so two runs may share one: a folder says which is meant."""
    sealed(tmp_path, "monday-0001")
    second = sealed(tmp_path, "sunday-0001")
    with pytest.raises(InvalidInput, match="run-ambiguous") as refused:
        archive.find_run(LocalStore(tmp_path), "0001")
    assert "monday-0001, sunday-0001" in refused.value.what
    assert archive.find_run(LocalStore(tmp_path), "sunday-0001") == second
    assert json.loads((tmp_path / "sunday-0001" / "manifest.json").read_text())["run"] == "0001"


@pytest.mark.parametrize("keep", ["999999d", "999999w"])
def test_an_age_before_all_calendars_keeps_everything(store: LocalStore, keep: str) -> None:
    """Nothing is that old."""
    assert retention.plan_pruning(store, keep, NOW).runs == ()


def test_an_archive_that_is_not_there_is_not_taken_for_a_good_one(tmp_path: Path) -> None:
    """A misspelt folder and a file are errors; an empty folder has no run, which may be because all were deleted."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "file"):
        for command in (["verify"], ["list"], ["index"], ["prune", "--keep", "1"]):
            done = CliRunner().invoke(app, ["runs", *command, "--archive", str(tmp_path / name)])
            assert done.exit_code == 2 and "archive-unknown" in done.output and not (tmp_path / "nowhere").exists()
    done = CliRunner().invoke(app, ["runs", "verify", "--archive", str(tmp_path / "empty")])
    assert done.exit_code == 1 and "no run is archived there" in done.output and "index.json" not in done.output
