"""The archive in S3: written once, chained by conditional writes, kept locally where S3 is down, and verified."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from click.testing import CliRunner

from buddy_ops.aws.errors import translate_error
from buddy_ops.cli.main import app
from buddy_ops.core import redaction
from buddy_ops.core.errors import AccessDenied, BuddyError
from buddy_ops.runs import archive, retention, supervisor, verification
from buddy_ops.runs.stores import LocalStore, S3Store
from tests.conftest import Situation, intercept
from tests.runs.test_archive import leave, sealed
from tests.system.runbooks.test_deaths import tiny

Bring = Callable[..., Situation]
WHERE = "s3://buddy-archive/team/runs"


class Bucket:
    """A bucket with Object Lock in the sandbox, and what a test does to it behind the library's back."""

    def __init__(self, here: Situation, lock: bool = True) -> None:
        self.here, self.client = here, here.client("s3")
        self.client.create_bucket(Bucket="buddy-archive", ObjectLockEnabledForBucket=lock)
        if lock:
            rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 2}}
            self.client.put_object_lock_configuration(
                Bucket="buddy-archive", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
            )

    def shelf(self) -> S3Store:
        return S3Store(self.here.connect(quiet=True), WHERE)

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket="buddy-archive", Key=f"team/runs/{name}", Body=content)


@pytest.fixture
def bucket(situation: Bring) -> Iterator[Bucket]:
    yield Bucket(situation("good", history_minutes=0, requests_per_minute=0))


def put(bucket: Bucket, root: Path, name: str, **about: Any) -> archive.ManifestEntry:
    sealed(root, name, **about)
    return archive.upload_run(bucket.shelf(), root / name)


def test_runs_in_s3_are_chained_and_verify(bucket: Bucket, tmp_path: Path) -> None:
    """Each run's files, its manifest, a link of the chain, the index and its page; Object Lock is told of."""
    first, second = put(bucket, tmp_path, "run-0001"), put(bucket, tmp_path, "run-0002")
    assert (first.previous, second.previous) == ("", first.sha256)
    assert archive.list_entries(bucket.shelf()) == (first, second)
    found = verification.verify_archive(bucket.shelf(), first.sha256)
    assert (found.problems, found.newest, found.runs) == ((), second.sha256, 2)
    assert "Object Lock (governance, 2 days)" in found.beyond
    assert archive.find_run(bucket.shelf(), "0002") == second


def test_a_fleets_run_in_s3_says_which_of_its_targets_runs_are_not_there(bucket: Bucket, tmp_path: Path) -> None:
    """Uploaded with one of two: that one is named by its hash in S3, the other by no link, until it comes, too."""
    names = ("run-0001", "run-0002")
    targets = [{"target": f"pay-{sealed(tmp_path, name).run}", "folder": name, "sha256": "0" * 64} for name in names]
    folder = leave(tmp_path, "run-0003")
    facts = archive.build_manifest(folder, redaction.Redactor(), targets=[*targets])
    archive.append_to_chain(folder, facts)
    assert verification.verify_archive(LocalStore(tmp_path)).problems == ()
    there = archive.upload_run(bucket.shelf(), tmp_path / "run-0001")
    fleet = archive.upload_run(bucket.shelf(), tmp_path / "run-0003")
    assert [each.get("elsewhere", False) for each in fleet.targets] == [False, True]
    assert fleet.targets[0]["sha256"] == there.sha256
    page = (bucket.shelf().read("index.html") or b"").decode()
    assert 'href="run-0001/report.html">pay-0001' in page and 'href="run-0002' not in page
    assert "pay-0002: , in another archive" in page
    found = verification.verify_archive(bucket.shelf())
    assert found.problems == () and found.elsewhere == (
        "run-0003: its run on pay-0002, run-0002, is in another archive. It was not verified.",
    )
    archive.upload_run(bucket.shelf(), tmp_path / "run-0002")
    found = verification.verify_archive(bucket.shelf())
    assert found.problems == () == found.elsewhere


def test_a_locked_bucket_takes_runs_whatever_the_sdk_is_told(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting that leaves checksums out is for stores that know none; S3 demands one where it locks objects."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    entry = put(bucket, tmp_path, "run-0001")
    assert archive.list_entries(bucket.shelf()) == (entry,)
    assert verification.verify_archive(bucket.shelf()).problems == ()


def test_every_object_of_a_run_is_written_once(bucket: Bucket, tmp_path: Path) -> None:
    """Uploading the same run again, because an answer was lost, writes nothing twice and chains nothing twice."""
    entry = put(bucket, tmp_path, "run-0001")
    assert archive.upload_run(bucket.shelf(), tmp_path / "run-0001") == entry
    versions = bucket.client.list_object_versions(Bucket="buddy-archive")["Versions"]
    kept = [each["Key"] for each in versions if "index" not in each["Key"]]
    assert len(kept) == len(set(kept)) == 5 and verification.verify_archive(bucket.shelf()).problems == ()


def test_what_a_repair_leaves_is_uploaded_with_its_run(bucket: Bucket, tmp_path: Path) -> None:
    """The list of conflicts and the root cause stand beside notebook, page and journal, as they are here."""
    folder = leave(tmp_path, "run-0001")
    for name in ("conflicts.jsonl", "root_cause.md"):
        (folder / name).write_text(f"{name}\n")
    archive.append_to_chain(folder, archive.build_manifest(folder, redaction.Redactor()))
    archive.upload_run(bucket.shelf(), folder)
    for name in ("conflicts.jsonl", "root_cause.md"):
        assert bucket.shelf().read(f"run-0001/{name}") == f"{name}\n".encode()
    assert verification.verify_archive(bucket.shelf()).problems == ()


def test_an_upload_that_broke_off_is_finished(bucket: Bucket, tmp_path: Path) -> None:
    """The link was written and the rest was not: the same run takes its own link, not another."""
    sealed(tmp_path, "run-0001")
    facts = json.loads((tmp_path / "run-0001" / "manifest.json").read_bytes())
    link, _ = bucket.shelf()._chain(facts)
    entry = archive.upload_run(bucket.shelf(), tmp_path / "run-0001")
    assert json.loads(link)["folder"] == entry.folder and verification.verify_archive(bucket.shelf()).problems == ()
    assert len(archive.list_entries(bucket.shelf())) == 1


def test_runs_that_end_at_the_same_moment_all_land_in_s3(bucket: Bucket, tmp_path: Path) -> None:
    """Six uploads at once, each over connections of its own: six links, one chain, an index with all of them."""
    names = [f"run-000{number}" for number in range(6)]
    for name in names:
        sealed(tmp_path, name)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: archive.upload_run(bucket.shelf(), tmp_path / name), names))
    assert sorted(each.folder for each in archive.list_entries(bucket.shelf())) == names
    assert verification.verify_archive(bucket.shelf()).problems == ()


def test_what_others_wrote_over_or_deleted_is_found(bucket: Bucket, tmp_path: Path) -> None:
    """A changed file, a forged manifest with its index, a deleted object: versions tell, even where hashes fit."""
    put(bucket, tmp_path, "run-0001")
    put(bucket, tmp_path, "run-0002")
    page = bucket.shelf().read("run-0001/report.html")
    assert page is not None
    bucket.put("run-0001/report.html", page.replace(b"done", b"gone"))
    assert any("run-0001/report.html: changed" in each for each in verification.verify_archive(bucket.shelf()).problems)
    bucket.put("run-0001/report.html", page)
    assert verification.verify_archive(bucket.shelf()).problems == (
        "run-0001/report.html was written or deleted after the run.",
    )
    bucket.client.delete_object(Bucket="buddy-archive", Key="team/runs/run-0002/journal.jsonl")
    assert any(
        "run-0002/journal.jsonl: missing" in each for each in verification.verify_archive(bucket.shelf()).problems
    )


def test_another_content_under_a_runs_name_is_a_conflict(bucket: Bucket, tmp_path: Path) -> None:
    """Nothing is overwritten: the run stays on this machine, and the error names the object."""
    sealed(tmp_path, "run-0001")
    bucket.put("run-0001/notebook.ipynb", b"{}")
    with pytest.raises(BuddyError, match="archive-conflict") as refused:
        archive.upload_run(bucket.shelf(), tmp_path / "run-0001")
    assert "run-0001/notebook.ipynb" in refused.value.what
    assert bucket.shelf().read("run-0001/notebook.ipynb") == b"{}"


def test_without_object_lock_that_is_said(situation: Bring, tmp_path: Path) -> None:
    """A bucket that lets everything be rewritten verifies, and the verification says what it cannot find."""
    plain = Bucket(situation("good", history_minutes=0, requests_per_minute=0), lock=False)
    put(plain, tmp_path, "run-0001")
    found = verification.verify_archive(plain.shelf())
    assert found.problems == () and "has no Object Lock" in found.beyond


def test_a_run_that_s3_did_not_take_is_kept_and_uploaded_later(
    situation: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 is down: a loud note, the run's own exit code, a sealed local folder; ``runs index`` uploads it once."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    project = tiny(here.folder / "project", "print('said')").parents[1]
    file = project / "parameters" / "sandbox.yaml"
    given = yaml.safe_load(file.read_text())
    given["settings"]["archive"] = {"where": WHERE}
    file.write_text(yaml.safe_dump(given))
    monkeypatch.chdir(project)
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER")
    done = supervisor.run_notebook("tiny", {"environment": "sandbox"})
    assert done.exit_code == 0 and any(f"NOT ARCHIVED in {WHERE}" in each for each in done.told)
    assert (
        verification.verify_archive(archive.open_store()).problems == () and archive.list_entries()[0].archive == WHERE
    )
    bucket = Bucket(here)
    told = list(supervisor.index_archive())
    assert any("uploaded" in each for each in told), told
    assert not any("uploaded" in each for each in supervisor.index_archive(WHERE))
    (entry,) = archive.list_entries(WHERE)
    assert entry.folder == done.folder.name and verification.verify_archive(bucket.shelf()).problems == ()
    again = supervisor.run_notebook("tiny", {"environment": "sandbox"})
    assert again.told == (f"Archived in {WHERE}/{again.entry.folder}.",) and again.entry.previous == entry.sha256
    assert [each.run for each in archive.list_entries(WHERE)] == [entry.run, again.entry.run]


# Retention in S3


def prune(bucket: Bucket, keep: str) -> archive.ManifestEntry:
    plan = retention.plan_pruning(bucket.shelf(), keep, bucket.shelf()._target.clock.now())
    return retention.run_pruning(bucket.shelf(), plan, ("Ada",), bucket.shelf()._target.clock.now())


def keys(bucket: Bucket, folder: str) -> list[str]:
    """Every version of a run's objects."""
    listed = bucket.client.list_object_versions(Bucket="buddy-archive", Prefix=f"team/runs/{folder}/")
    return [each["Key"] for each in (*listed.get("Versions", ()), *listed.get("DeleteMarkers", ()))]


def test_runs_in_s3_are_pruned_and_the_rest_verifies(situation: Bring, tmp_path: Path) -> None:
    """The folders go, with every version; the chain keeps the manifests, an announced hash is still accepted, and new
    runs follow. A second pruning, which names the first one's record, leaves a chain that verifies, too."""
    bucket = Bucket(situation("good", history_minutes=0, requests_per_minute=0), lock=False)
    first = put(bucket, tmp_path, "run-0001")
    for number in range(2, 5):
        put(bucket, tmp_path, f"run-000{number}")
    record = prune(bucket, "2")
    found = verification.verify_archive(bucket.shelf(), first.sha256)
    assert found.problems == () and found.unfinished == () and "2 pruned at" in found.pruned[0]
    assert (keys(bucket, "run-0001"), len(keys(bucket, "run-0003")) > 0) == ([], True)
    put(bucket, tmp_path, "run-0005")
    prune(bucket, "1")
    assert (
        keys(bucket, record.folder) == [] and verification.verify_archive(bucket.shelf(), first.sha256).problems == ()
    )
    assert archive.rebuild_index(bucket.shelf()) == 2  # the second record, and the run that it kept
    put(bucket, tmp_path, "run-0006")
    assert verification.verify_archive(bucket.shelf()).problems == ()


def test_a_run_that_was_deleted_in_s3_without_a_record_is_found(situation: Bring, tmp_path: Path) -> None:
    """As a lifecycle rule would do it; so too one that no record names, beside a pruning."""
    bucket = Bucket(situation("good", history_minutes=0, requests_per_minute=0), lock=False)
    for number in range(1, 5):
        put(bucket, tmp_path, f"run-000{number}")
    prune(bucket, "3")
    bucket.shelf().delete("run-0002")
    problems = verification.verify_archive(bucket.shelf()).problems
    assert problems[0] == "run-0002: missing. The index names it, but it has no manifest."


def test_what_object_lock_keeps_is_deleted_once_its_retention_is_over(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded, refused by S3, said; the archive verifies meanwhile, and the same command deletes it once the days are over."""
    for number in range(1, 4):
        put(bucket, tmp_path, f"run-000{number}")
    arguments = ["runs", "prune", "--keep", "2", "--archive", WHERE, "-e", "sandbox", "--yes"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 4 and "archive-locked" in done.output and "1 run of 1 run, from run-0001" in done.output
    assert keys(bucket, "run-0001") and verification.verify_archive(bucket.shelf()).problems == ()
    bucket.here.ask("advance", seconds=3 * 24 * 3600)
    done = CliRunner().invoke(app, ["runs", "prune", "--keep", "3", "--archive", WHERE, "-e", "sandbox", "--yes"])
    assert done.exit_code == 0, done.output
    assert keys(bucket, "run-0001") == [] and verification.verify_archive(bucket.shelf()).problems == ()


def test_a_caller_who_may_not_delete_in_s3_is_told_so(bucket: Bucket, tmp_path: Path) -> None:
    """No role of the template may: that is no lock, and the permission is named. A caller who may finishes it."""
    for number in range(1, 3):
        put(bucket, tmp_path, f"run-000{number}")
    bucket.here.ask("advance", seconds=3 * 24 * 3600)
    shelf = bucket.shelf()

    def answer(send: Any, service: str, operation: str, **given: Any) -> Any:
        if operation == "delete_object":
            refused = {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}
            raise translate_error(ClientError(refused, operation), f"{service}:{operation}", "us-east-1")  # type: ignore[arg-type]
        return send(service, operation, **given)

    intercept(shelf._target, answer)
    plan = retention.plan_pruning(shelf, "1", shelf._target.clock.now())
    with pytest.raises(AccessDenied) as refused:
        retention.run_pruning(shelf, plan, ("Ada",), shelf._target.clock.now())
    assert "s3:DeleteObject" in refused.value.next and verification.verify_archive(bucket.shelf()).problems == ()
    assert retention.finish_pruning(bucket.shelf()) == ["run-0001"] and keys(bucket, "run-0001") == []
