"""Signed archives: a run is signed by the key that its environment's settings name, and whatever else was done shows.

The sandbox's KMS signs; the same signatures are verified without it, by public key and by OpenSSL.
"""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from buddy_ops.aws.session import Target
from buddy_ops.cli.main import app
from buddy_ops.core import redaction
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused
from buddy_ops.runs import archive, retention, signatures, stores, supervisor, verification
from buddy_ops.runs.manifest import ManifestEntry
from buddy_ops.runs.stores import S3Store
from tests.conftest import Situation, intercept
from tests.runs.test_archive import leave
from tests.system.runbooks.test_deaths import tiny

Bring = Callable[..., Situation]
WHERE = "s3://buddy-archive/team/runs"
NOW = datetime(2026, 12, 1, tzinfo=UTC)


@dataclass
class Project:
    """A project whose sandbox environment signs its runs, and a sandbox."""

    here: Situation
    folder: Path
    key: str

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    @property
    def store(self) -> stores.LocalStore:
        return stores.LocalStore(self.root)

    def settings(self, **sign: Any) -> None:
        """Set archive.sign of the environment; nothing: it is left out."""
        file = self.folder / "parameters" / "sandbox.yaml"
        given = yaml.safe_load(file.read_text())
        given["settings"]["archive"] = {"where": given["settings"].get("archive", {}).get("where", "")}
        if sign:
            given["settings"]["archive"]["sign"] = sign
        file.write_text(yaml.safe_dump(given))

    def target(self) -> Target:
        from buddy_ops.aws import session

        return session.connect("sandbox", "runs", quiet=True)

    def sealed(self, name: str, **about: Any) -> ManifestEntry:
        folder = leave(self.root, name, **about)
        facts = archive.build_manifest(folder, redaction.Redactor())
        return archive.append_to_chain(folder, facts, signatures.signer_of(about.get("environment", "sandbox")))

    def verified(self) -> verification.VerificationResult:
        return verification.verify_archive(self.store, check=signatures.check_by_kms())

    def public_key(self, key: str = "") -> Path:
        """The key's public half, as AWS's own command writes it."""
        path = self.folder.parent / f"{(key or self.key)[-12:]}.der"
        path.write_bytes(self.here.client("kms").get_public_key(KeyId=key or self.key)["PublicKey"])
        return path

    def another_key(self, spec: str = "ECC_NIST_P256", usage: str = "SIGN_VERIFY") -> str:
        return str(self.here.client("kms").create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["Arn"])

    def verify(self, *options: str) -> Any:
        return CliRunner().invoke(app, ["runs", "verify", "--archive", str(self.root), *options])


@pytest.fixture
def project(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    here = situation("good", history_minutes=0, requests_per_minute=0)
    folder = tiny(here.folder / "project", "print('said')").parents[1]
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER")
    made = Project(here, folder, "")
    made.key = made.another_key()
    made.settings(key=made.key)
    yield made


def rewritten(project: Project, name: str, change: Callable[[dict[str, Any]], None], key: str = "") -> None:
    """What a person with write access can do: change a run, chain all later ones anew, rebuild the index.

    Args:
        key: with which key of theirs they sign all runs again; empty: they leave the signatures as they are.
    """
    manifests = []
    previous = ""
    for entry in archive.list_entries(project.store):
        path = project.root / entry.folder / "manifest.json"
        facts = json.loads(path.read_bytes())
        if entry.folder == name:
            change(facts)
        manifests.append(stores.chain_entry(facts, previous))
        previous = stores.digest(manifests[-1])
        path.write_bytes(manifests[-1])
        if key:
            content = signatures._sign(project.target(), key, manifests[-1])
            (path.parent / "signature.json").write_bytes(content)
    project.store.rebuild(manifests)


# What is signed verifies


def test_signed_runs_verify_by_kms_by_public_key_and_by_openssl(project: Project) -> None:
    """One signature, three ways to verify it; the last two need no AWS, and OpenSSL needs nothing of ours."""
    for name in ("run-0001", "run-0002"):
        project.sealed(name)
    found = project.verified()
    assert found.is_ok and found.signed.startswith("SIGNED: 2 runs")
    public = project.public_key()
    offline = verification.verify_archive(project.store, check=signatures.check_by_keys([str(public)]))
    assert offline.is_ok and offline.signed == found.signed
    folder = project.root / "run-0001"
    signature = project.folder / "signature"
    signature.write_bytes(base64.b64decode(json.loads((folder / "signature.json").read_text())["signature"]))
    command = ["openssl", "dgst", "-sha256", "-verify", str(public), "-keyform", "DER", "-signature", str(signature)]
    said = subprocess.run([*command, str(folder / "manifest.json")], capture_output=True, text=True, check=True)
    assert said.stdout == "Verified OK\n"
    done = project.verify("--public-key", str(public))
    assert (done.exit_code, "SIGNED: 2 runs" in done.output) == (0, True), done.output


def test_an_archive_without_signatures_verifies_as_before(project: Project) -> None:
    """Where no settings name a key nothing is asked of KMS, nothing is written, and nothing is missed."""
    project.settings()
    entry = project.sealed("run-0001")
    assert entry.unsigned == "" and not (project.root / "run-0001" / "signature.json").exists()
    assert project.verified().is_ok and project.here.calls("Verify", "Sign") == []
    assert project.verify().exit_code == 0


def test_an_executed_run_is_signed_here_and_in_s3(project: Project) -> None:
    """Each archive has a chain of its own, so each manifest has its own signature. The journal has no trace of it."""
    project.here.client("s3").create_bucket(Bucket="buddy-archive", ObjectLockEnabledForBucket=True)
    done = supervisor.run_notebook("tiny", {"environment": "sandbox"}, archive_to=WHERE)
    assert (done.exit_code, done.told) == (0, (f"Archived in {WHERE}/{done.folder.name}.",))
    assert project.verified().is_ok
    bucket = S3Store(project.target(), WHERE)
    found = verification.verify_archive(bucket, check=signatures.check_by_kms())
    assert found.is_ok and found.signed
    here, there = (
        project.store.read(f"{done.folder.name}/signature.json"),
        bucket.read(f"{done.folder.name}/signature.json"),
    )
    assert here is not None and there is not None and here != there
    assert b"kms:" not in (done.folder / "journal.jsonl").read_bytes()


def test_an_upload_that_broke_off_before_its_signature_is_signed(project: Project) -> None:
    """The link stands, and the rest was not written: the same link is signed, once."""
    project.here.client("s3").create_bucket(Bucket="buddy-archive", ObjectLockEnabledForBucket=True)
    bucket = S3Store(project.target(), WHERE)
    project.sealed("run-0001")
    bucket._chain(json.loads((project.root / "run-0001" / "manifest.json").read_bytes()))
    for _ in range(2):
        archive.upload_run(bucket, project.root / "run-0001", signatures.signer_of("sandbox"))
    found = verification.verify_archive(bucket, check=signatures.check_by_kms())
    assert found.is_ok and found.signed


def test_a_kill_between_signature_and_manifest_leaves_a_run_that_is_archived_later(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature is there and its manifest is not: what the problem says is done, and ``runs index`` signs anew."""
    real = stores.write_atomically

    def killed(path: Path, content: bytes | str, *, sync: bool = False) -> None:
        if path.name == "manifest.json":
            raise KeyboardInterrupt
        real(path, content, sync=sync)

    project.sealed("run-0001")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stores, "write_atomically", killed)
        project.sealed("run-0002")
    assert (project.root / "run-0002" / "signature.json").exists()
    (problem,) = project.verified().problems
    assert "delete its report.html, then `buddy-ops runs index`" in problem
    (project.root / "run-0002" / "report.html").unlink()
    assert project.verified().is_ok
    list(supervisor.index_archive(str(project.root)))
    assert project.verified().signed.startswith("SIGNED: 2 runs") and project.verified().is_ok


# What was changed is found


def test_every_flipped_byte_of_signature_and_manifest_is_found(project: Project) -> None:
    """Each byte of the signature's file and of the signed manifest, in two bits by turns; by public key, without KMS."""
    project.sealed("run-0001")
    known = signatures.check_by_keys([str(project.public_key())])

    def is_ok() -> bool:
        check = signatures.SignatureCheck(known.rules, known.verify)
        return verification.verify_archive(project.store, check=check).is_ok

    tried = 0
    for name in ("signature.json", "manifest.json"):
        path = project.root / "run-0001" / name
        content = path.read_bytes()
        for at in range(len(content)):
            bit = (0x01, 0x20)[at % 2]
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            assert not is_ok(), (name, at, bit)
            tried += 1
        path.write_bytes(content)
    assert tried > 900 and is_ok()


def test_a_chain_that_was_rewritten_is_found(project: Project) -> None:
    """Outcome and people forged, all later runs chained anew, the index rebuilt: without signatures that verifies."""
    for name in ("run-0001", "run-0002", "run-0003"):
        project.sealed(name)
    rewritten(project, "run-0001", lambda facts: facts.update(people=["Mallory"]))
    assert [each.partition(": ")[0] for each in project.verified().problems] == [
        f"run-000{number}/signature.json" for number in (1, 2, 3)
    ]
    assert "was changed after it was signed" in project.verified().problems[0]
    for name in ("run-0001", "run-0002", "run-0003"):
        (project.root / name / "signature.json").unlink()
    assert len(project.verified().unsigned) == 3 and verification.verify_archive(project.store).problems == ()
    assert project.verify().exit_code == 1 and "NOT SIGNED: run-0001: it has no signature." in project.verify().output


def test_a_signature_of_another_key_is_found(project: Project) -> None:
    """Who can write the archive cannot say which key counts: that is in parameters/. Nor can they lie about the key."""
    project.sealed("run-0001")
    theirs = project.another_key()
    rewritten(project, "run-0001", lambda facts: facts.update(people=["Mallory"]), theirs)
    assert f"is of another key, {theirs}. Expected: {project.key}." in project.verified().problems[0]
    path = project.root / "run-0001" / "signature.json"
    path.write_text(path.read_text().replace(theirs, project.key))
    assert "the signature is wrong" in project.verified().problems[0]
    offline = verification.verify_archive(project.store, check=signatures.check_by_keys([str(project.public_key())]))
    assert "the signature is wrong" in offline.problems[0]


def test_a_signature_of_another_run_is_found(project: Project) -> None:
    for name in ("run-0001", "run-0002"):
        project.sealed(name)
    first, second = (project.root / name / "signature.json" for name in ("run-0001", "run-0002"))
    second.write_bytes(first.read_bytes())
    assert "run-0002/signature.json: is of another manifest" in project.verified().problems[0]
    second.write_text("{}")
    assert project.verified().problems == ("run-0002/signature.json: cannot be read.",)


def test_runs_before_the_day_need_no_signature_but_none_may_follow_a_signed_one(project: Project) -> None:
    """``since`` excuses runs of before; a forged run that is dated back, behind a signed one, is not excused."""
    project.settings()
    project.sealed("run-0001")
    project.settings(key=project.key, since="2026-11-23")
    assert project.verified().is_ok
    project.sealed("run-0002")
    project.settings()
    project.sealed("run-0003")
    project.settings(key=project.key, since="2026-11-23")
    assert project.verified().unsigned == ("run-0003: it has no signature.",)
    project.settings(key=project.key, since="2026-11-22")
    assert len(project.verified().unsigned) == 2
    project.settings(key=project.key)
    assert len(project.verified().unsigned) == 2


# What cannot be verified


def test_without_access_to_the_key_the_result_is_unknown(project: Project) -> None:
    """Neither right nor wrong: exit code 1, the reason, and one call only. A public key helps."""
    for name in ("run-0001", "run-0002"):
        project.sealed(name)
    project.here.ask("chaos", kind="denied", operation="Verify", times=9)
    done = project.verify()
    assert done.exit_code == 1 and "UNKNOWN: 2 signatures could not be verified: AWS refused kms:verify" in done.output
    assert project.here.ask("chaos/seen")["struck"] == 1
    assert project.verify("--public-key", str(project.public_key())).exit_code == 0
    project.settings()
    done = project.verify()
    assert done.exit_code == 1 and "Give --public-key FILE." in done.output
    assert project.verify("--public-key", str(project.public_key())).exit_code == 0


def test_only_the_expected_public_key_counts(project: Project) -> None:
    """The settings may name its SHA-256: a file that was exchanged is not believed."""
    entry = project.sealed("run-0001")
    public, other = project.public_key(), project.public_key(project.another_key())
    assert "the signature is wrong" in project.verify("--public-key", str(other)).output
    project.settings(key=project.key, public_key_sha256=stores.digest(public.read_bytes()))
    done = project.verify("--public-key", str(other))
    assert done.exit_code == 1 and f"no --public-key is that of {project.key}" in done.output
    assert project.verify("--public-key", str(other), "--public-key", str(public)).exit_code == 0
    for text in ("no key", ""):
        other.write_text(text)
        with pytest.raises(InvalidInput, match="public-key-unusable"):
            signatures.check_by_keys([str(other)])
    assert entry.unsigned == ""


# What could not be signed


FAILURES = {
    "denied": ("AccessDenied", lambda project: project.here.ask("chaos", kind="denied", operation="Sign", times=9)),
    "throttled": ("Throttling", lambda project: project.here.ask("chaos", kind="throttled", operation="Sign", times=9)),
    "unavailable": (
        "InternalServer",
        lambda project: project.here.ask("chaos", kind="error", operation="Sign", times=9),
    ),
    "no answer": ("no answer", lambda project: project.here.ask("chaos", kind="closed", operation="Sign", times=9)),
    "disabled": (
        "DisabledException",
        lambda project: project.here.client("kms").disable_key(KeyId=project.key.rpartition("/")[2]),
    ),
    "no such key": (
        "NotFoundException",
        lambda project: project.settings(key=f"{project.key[:-36]}00000000-0000-0000-0000-000000000000"),
    ),
    "for encryption": (
        "InvalidKeyUsageException",
        lambda project: project.settings(key=project.another_key("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")),
    ),
    "RSA": ("InvalidKeyUsageException", lambda project: project.settings(key=project.another_key("RSA_2048"))),
}


SAMPLED = ("denied", "no answer", "disabled", "RSA")
"""What make test tries of them."""


@pytest.mark.parametrize(
    "cause", [pytest.param(cause, marks=() if cause in SAMPLED else pytest.mark.whole) for cause in FAILURES]
)
def test_a_run_that_cannot_be_signed_is_archived_and_says_why(project: Project, cause: str) -> None:
    """The run is as it was; manifest and index say in red that it is not signed, and what ends that is carried out."""
    said, fail = FAILURES[cause]
    fail(project)
    entry = project.sealed("run-0001")
    assert said in entry.unsigned and not (project.root / "run-0001" / "signature.json").exists()
    assert '<strong class="failed" title="' in (project.root / "index.html").read_text()
    assert verification.verify_archive(project.store).problems == ()
    (found,) = project.verified().unsigned
    assert found == f"run-0001: {entry.unsigned}"
    project.here.ask("chaos")
    project.here.client("kms").enable_key(KeyId=project.key.rpartition("/")[2])
    project.settings(key=project.key)
    done = CliRunner().invoke(app, ["runs", "sign", "run-0001", "--archive", str(project.root)])
    assert done.exit_code == 0 and project.verified().is_ok and project.verified().signed
    with pytest.raises(Refused, match="run-already-signed"):
        archive.sign_run(project.store, "run-0001")


def test_a_run_that_cannot_be_signed_keeps_its_exit_code(project: Project) -> None:
    """Told on stderr and in the step's summary, for each archive; S3 has it too, with the reason."""
    project.here.client("s3").create_bucket(Bucket="buddy-archive", ObjectLockEnabledForBucket=True)
    project.here.ask("chaos", kind="denied", operation="Sign", times=9)
    done = supervisor.run_notebook("tiny", {"environment": "sandbox"}, archive_to=WHERE)
    project.here.ask("chaos")
    assert done.exit_code == 0 and [each.partition(": ")[0] for each in done.told] == [
        *("NOT SIGNED", f"NOT SIGNED in {WHERE}", f"Archived in {WHERE}/{done.folder.name}.")
    ]
    (entry,) = archive.list_entries(S3Store(project.target(), WHERE))
    assert "AccessDenied" in entry.unsigned
    command = done.told[1].partition("`buddy-ops ")[2].partition("`")[0].split()
    # The settings do not name this archive: the environment is said.
    assert CliRunner().invoke(app, [*command, "-e", "sandbox"]).exit_code == 0
    found = verification.verify_archive(S3Store(project.target(), WHERE), check=signatures.check_by_kms())
    assert found.is_ok and found.signed


def test_what_fails_unexpectedly_leaves_the_run_archived(project: Project) -> None:
    """A defect in signing is a reason like others."""
    folder = leave(project.root, "run-0001")
    facts = archive.build_manifest(folder, redaction.Redactor())

    def broken(manifest: bytes) -> bytes:
        raise MemoryError("no more")

    assert archive.append_to_chain(folder, facts, broken).unsigned == "MemoryError: no more"


def test_only_what_verifies_is_signed_later(project: Project) -> None:
    """A forged archive is not signed by a person who means well; a run that no key signs is told so."""
    project.settings()
    project.sealed("run-0001")
    with pytest.raises(InvalidInput, match="no-signing-key"):
        archive.sign_run(project.store, "run-0001")
    project.settings(key=project.key)
    (project.root / "run-0001" / "report.html").write_text("forged")
    with pytest.raises(BuddyError, match="archive-damaged"):
        archive.sign_run(project.store, "run-0001")


# Prunings


def test_a_pruning_is_signed_and_an_unsigned_one_excuses_nothing(project: Project) -> None:
    """Its record deletes runs: forged without the key it is red, whatever environment it names."""
    for number in range(1, 5):
        project.sealed(f"run-000{number}")
    plan = retention.plan_pruning(project.store, "3", NOW)
    sign = signatures.pruning_signer(plan.runs)
    retention.run_pruning(project.store, plan, ("Ada",), NOW, sign=sign)
    assert project.verified().is_ok and project.verified().pruned
    plan = retention.plan_pruning(project.store, "3", NOW)
    entry = retention.run_pruning(project.store, plan, ("Mallory",), NOW)
    assert verification.verify_archive(project.store).problems == ()
    assert project.verified().unsigned == (f"{entry.folder}: it has no signature.",)


def test_a_pruning_that_cannot_be_signed_deletes_nothing(project: Project) -> None:
    for number in range(1, 3):
        project.sealed(f"run-000{number}")
    project.here.ask("chaos", kind="denied", operation="Sign", times=9)
    arguments = ["runs", "prune", "--keep", "1", "--archive", str(project.root), "--yes"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1 and "access-denied" in done.output and "kms:Sign" in done.output
    assert [entry.folder for entry in archive.list_entries(project.store)] == ["run-0001", "run-0002"]
    project.here.ask("chaos")
    assert CliRunner().invoke(app, arguments).exit_code == 0 and project.verified().is_ok


# The target without a journal


def test_signing_leaves_no_record_in_an_archived_journal(project: Project) -> None:
    """The journal's hash is in the manifest that is signed."""
    with_journal = project.here.connect("tiny")
    before = len(with_journal.journal.records)
    values = with_journal.settings.model_dump(mode="json")
    values["archive"]["sign"] = {"key": project.key}
    mine = project.here.connect("tiny", values=values)
    sign = signatures.signer(mine)
    assert sign is not None and sign(b"a manifest") and len(mine.journal.records) == before
    calls: list[str] = []

    def denied(send: Any, service: str, operation: str, **given: Any) -> Any:
        calls.append(operation)
        raise AwsFailed("aws-refused", "no", next="none", code="X")

    intercept(mine, denied)
    assert sign(b"a manifest") and calls == []
