"""The archive: what is chained verifies, and whatever was changed, taken away or put elsewhere is found."""

import base64
import html
import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.checks import status
from buddy_ops.checks.findings import Finding, State
from buddy_ops.core import redaction
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.journal import lock_journal
from buddy_ops.runs import archive, diff, pages, stores, verification
from tests.conftest import sampled

HOSTILE = "<script>alert(1)</script>\"'`|](javascript:alert(2))$(id)${x};&"


def notebook(*states: str, source: str = "print(1)", **about: Any) -> dict[str, Any]:
    """An executed notebook: a cell for each state."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {"buddy_ops": {"state": state}},
            "source": source,
            "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": f"{number}\n"}],
        }
        for number, state in enumerate(states)
    ]
    return {"cells": cells, "metadata": {"buddy_ops": about}, "nbformat": 4, "nbformat_minor": 5}


def leave(root: Path, name: str, *states: str, records: list[dict[str, Any]] | None = None, **about: Any) -> Path:
    """A run's folder as its processes left it."""
    folder = root / name
    folder.mkdir(parents=True)
    about = {"run": name[-4:], "runbook": "strategies/canary", "environment": "sandbox", **about}
    (folder / "notebook.ipynb").write_text(json.dumps(notebook(*(states or ("done",)), **about)))
    opened = {"seq": 1, "at": "2026-11-22T03:12:00Z", "kind": "opened", "runbook": "canary", "environment": "sandbox"}
    lines = [json.dumps(each) for each in (opened, *(records or []))]
    (folder / "journal.jsonl").write_text("".join(f"{each}\n" for each in lines))
    return folder


def sealed(root: Path, name: str, *states: str, **about: Any) -> archive.ManifestEntry:
    folder = leave(root, name, *states, **about)
    return archive.append_to_chain(folder, archive.build_manifest(folder, redaction.Redactor()))


def problems(root: Path, expected: str = "") -> tuple[str, ...]:
    return verification.verify_archive(stores.LocalStore(root), expected).problems


def alone(root: Path, target: Path) -> stores.LocalStore:
    """A copy of an archive without what a test keeps beside its runs."""
    for path in root.iterdir():
        if (path / "manifest.json").exists():
            shutil.copytree(path, target / path.name)
    for name in ("index.json", "index.html"):
        shutil.copy(root / name, target / name)
    return stores.LocalStore(target)


# The chain


@pytest.mark.parametrize("name", [".lock", ".index.json.part", ".index.html.part"])
def test_a_link_that_was_planted_in_the_archive_is_not_written_through(tmp_path: Path, name: str) -> None:
    """Another user of a shared folder would have had us empty or overwrite a file of ours."""
    root, target = tmp_path / "runs", tmp_path / "precious"
    target.write_text("precious")
    sealed(root, "run-0001")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(target)
    assert any(name in problem for problem in problems(root))
    sealed(root, "run-0002")
    assert target.read_text() == "precious" and problems(root) == ()


def test_runs_are_chained_and_verify(tmp_path: Path) -> None:
    """Each manifest holds the hash of the one before; the index holds the newest's, and lists the oldest first."""
    first, second, third = (sealed(tmp_path, f"run-000{number}") for number in (1, 2, 3))
    assert (first.previous, second.previous, third.previous) == ("", first.sha256, second.sha256)
    assert archive.list_entries(tmp_path) == (first, second, third)
    found = verification.verify_archive(stores.LocalStore(tmp_path), first.sha256)
    assert (found.problems, found.runs, found.newest) == ((), 3, third.sha256)
    assert "Object Lock" in found.beyond


def test_what_a_repair_leaves_belongs_to_its_run(tmp_path: Path) -> None:
    """The list of conflicts and the root cause: without the secrets that were learned since, and with a hash each."""
    folder = leave(tmp_path, "run-0001")
    redactor = redaction.Redactor()
    redactor.add_secret('s3cr3t-of-"ours"')
    (folder / "conflicts.jsonl").write_text(json.dumps({"item": 'ada/s3cr3t-of-"ours"', "kind": "faulty"}) + "\n")
    (folder / "root_cause.md").write_text('### Root cause\n\n- **table**: s3cr3t-of-"ours"\n')
    entry = archive.append_to_chain(folder, archive.build_manifest(folder, redactor))
    assert {"conflicts.jsonl", "root_cause.md"} < set(entry.files) and problems(tmp_path) == ()
    assert json.loads((folder / "conflicts.jsonl").read_text()) == {"item": "ada/[redacted]", "kind": "faulty"}
    assert (folder / "root_cause.md").read_text() == "### Root cause\n\n- **table**: [redacted]\n"
    (folder / "root_cause.md").write_text("rewritten")
    (folder / "conflicts.jsonl").unlink()
    assert set(problems(tmp_path)) == {"run-0001/conflicts.jsonl: missing.", "run-0001/root_cause.md: changed."}


@pytest.mark.parametrize("positions", sampled([500, 2000], {500}))
def test_every_flipped_byte_is_found(tmp_path: Path, positions: int) -> None:
    """Any single byte of an archived run, of the index or of its page, at so many positions at least."""
    for name in ("run-0001", "run-0002"):
        sealed(tmp_path, name)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) == 10
    step = max(1, sum(path.stat().st_size for path in files) // (positions * 5 // 4))
    tried = 0
    for path in files:
        content = path.read_bytes()
        for at in range(0, len(content), step):
            changed = bytes((content[at] ^ 1 << at % 8,))
            path.write_bytes(content[:at] + changed + content[at + 1 :])
            assert problems(tmp_path), (path, at)
            tried += 1
        path.write_bytes(content)
    assert tried >= positions and problems(tmp_path) == ()


def test_a_run_that_is_gone_is_missed(tmp_path: Path) -> None:
    """Its folder alone, its line alone, or both: the chain has a hole."""
    for number in (1, 2, 3):
        sealed(tmp_path, f"run-000{number}")
    shutil.move(tmp_path / "run-0002", tmp_path.parent / "elsewhere")
    assert any("run-0002: missing" in each for each in problems(tmp_path))
    forged = [path.read_bytes() for path in sorted(tmp_path.glob("run-*/manifest.json"))]
    stores.LocalStore(tmp_path).rebuild(forged)
    assert any("run-0003: the chain is broken" in each for each in problems(tmp_path))


def test_a_cut_off_end_is_missed_by_what_was_announced(tmp_path: Path) -> None:
    """The newest run and its line are gone: the rest fits together, and the announced hash is not in it."""
    for number in (1, 2):
        last = sealed(tmp_path, f"run-000{number}")
    shutil.rmtree(tmp_path / "run-0002")
    assert any("run-0002: missing" in each for each in problems(tmp_path))
    stores.LocalStore(tmp_path).rebuild([(tmp_path / "run-0001" / "manifest.json").read_bytes()])
    assert problems(tmp_path) == ()
    assert any("cut off or rewritten" in each for each in problems(tmp_path, last.sha256))


def test_reordered_runs_are_noticed(tmp_path: Path) -> None:
    """The lines of the index in another order are not the chain."""
    for number in (1, 2, 3):
        sealed(tmp_path, f"run-000{number}")
    manifests = [path.read_bytes() for path in sorted(tmp_path.glob("run-*/manifest.json"))]
    stores.LocalStore(tmp_path).rebuild([manifests[1], manifests[0], manifests[2]])
    assert any("out of sequence" in each for each in problems(tmp_path))


def test_what_was_added_is_noticed(tmp_path: Path) -> None:
    """A file in a run's folder, a run that the chain does not know, and an index that is gone."""
    sealed(tmp_path, "run-0001")
    (tmp_path / "run-0001" / "more.txt").write_text("x")
    assert problems(tmp_path) == ("run-0001/more.txt: added.",)
    (tmp_path / "run-0001" / "more.txt").unlink()
    shutil.copytree(tmp_path / "run-0001", tmp_path / "run-0009")
    assert any("run-0009: not in the index" in each for each in problems(tmp_path))
    shutil.rmtree(tmp_path / "run-0009")
    (tmp_path / "index.json").unlink()
    assert any("index.json: missing" in each for each in problems(tmp_path))


def _seal_some(root: str, first: int) -> None:
    for number in range(first, first + 5):
        sealed(Path(root), f"run-{number:04d}")


def test_runs_that_end_at_the_same_moment_all_land(tmp_path: Path) -> None:
    """Four processes archive five runs each, at once: twenty in one chain that verifies."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_seal_some, args=(str(tmp_path), 10 * number)) for number in range(4)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert len(archive.list_entries(tmp_path)) == 20 and problems(tmp_path) == ()


def test_a_death_between_manifest_and_index_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever archives next writes the line that is missing, and chains to it."""
    sealed(tmp_path, "run-0001")
    with monkeypatch.context() as patch:
        patch.setattr(stores.LocalStore, "_append", lambda *_: os.close(-1))
        with pytest.raises(OSError):
            sealed(tmp_path, "run-0002")
    sealed(tmp_path, "run-0003")
    assert [each.folder for each in archive.list_entries(tmp_path)] == ["run-0001", "run-0002", "run-0003"]
    assert problems(tmp_path) == ()


def test_the_index_is_never_rebuilt_over_a_loss(tmp_path: Path) -> None:
    """A line whose manifest is gone is the only trace of a run: rebuilding refuses, and leaves it."""
    for number in (1, 2):
        sealed(tmp_path, f"run-000{number}")
    shutil.rmtree(tmp_path / "run-0002")
    with pytest.raises(BuddyError, match="archive-damaged"):
        archive.rebuild_index(stores.LocalStore(tmp_path))
    assert len(archive.list_entries(tmp_path)) == 2
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(BuddyError, match="archive-damaged"):
        archive.list_entries(tmp_path)


def test_a_rebuilt_index_is_the_same(tmp_path: Path) -> None:
    """Byte for byte, from the manifests alone, in the order of the chain and not of the names."""
    for number in (3, 1, 2):
        sealed(tmp_path, f"run-000{number}")
    before = {name: (tmp_path / name).read_bytes() for name in ("index.json", "index.html")}
    for name in before:
        (tmp_path / name).unlink()
    assert archive.rebuild_index(stores.LocalStore(tmp_path)) == 3
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_page_of_an_earlier_release_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is above the rows may be as that release wrote it, and as nobody else; the next run writes it anew."""
    sealed(tmp_path, "run-0001")
    head = pages.index_head().encode()
    page = tmp_path / "index.html"
    rows = page.read_bytes().removeprefix(head)
    page.write_bytes(b"<!doctype html><table>" + rows)
    assert any("index.html: does not match" in problem for problem in problems(tmp_path))
    monkeypatch.setattr(pages, "FORMER_HEADS", {stores.digest(b"<!doctype html><table>")})
    assert problems(tmp_path) == ()
    page.write_bytes(b"<!doctype html><table>" + rows.replace(b"canary", b"start_here"))
    assert any("index.html: does not match" in problem for problem in problems(tmp_path))
    sealed(tmp_path, "run-0002")
    assert page.read_bytes().startswith(head) and problems(tmp_path) == ()


def test_an_unknown_run_and_an_unknown_archive_are_named(tmp_path: Path) -> None:
    """What was asked for, and what to do."""
    sealed(tmp_path, "run-0001")
    assert archive.find_run(stores.LocalStore(tmp_path), "0001").folder == "run-0001"
    with pytest.raises(InvalidInput, match="run-unknown"):
        archive.find_run(stores.LocalStore(tmp_path), "beef")
    with pytest.raises(InvalidInput, match="archive-unknown"):
        archive.open_store("s3://nobodys/bucket")


# What nobody finished


@pytest.mark.parametrize(
    ("states", "records", "ending"),
    [
        (("done", "interrupted", "not run"), [], ("killed", 1)),
        (("done", "failed"), [], ("failed", 1)),
        (("done", "refused", "not run"), [], ("refused", 4)),
        (("done", "failed"), [{"kind": "outcome", "ending": "rolled-back"}], ("rolled-back", 3)),
        (("done", "interrupted"), [{"kind": "outcome", "ending": "proved"}], ("killed", 1)),
        (("done", "done"), [{"kind": "outcome", "ending": "proved"}], ("proved", 0)),
        (("done", "done"), [], ("done", 0)),
    ],
)
def test_an_adopted_run_tells_the_truth(
    tmp_path: Path, states: tuple[str, ...], records: list[dict[str, Any]], ending: tuple[str, int]
) -> None:
    """How it ended is read from its cells and its journal; its times from its journal; and that nobody watched."""
    later = [{"seq": 2, "at": "2026-11-22T03:20:00Z", **each} for each in (*records, {"kind": "aws", "call": "x:y"})]
    leave(tmp_path, "run-0001", *states, records=later, began="2026-11-22T03:12:00Z")
    assert archive.archive_unfinished(tmp_path) == ["run-0001"]
    (entry,) = archive.list_entries(tmp_path)
    assert (entry.outcome, entry.exit_code) == ending
    assert (entry.began, entry.ended) == ("2026-11-22T03:12:00Z", "2026-11-22T03:20:00Z")
    assert "archived later" in entry.notes[0] and problems(tmp_path) == ()


def test_a_session_without_a_notebook_is_adopted_by_its_journal(tmp_path: Path) -> None:
    """Jupyter and the terminal leave a journal alone: its runbook, its people and what it did are kept."""
    folder = tmp_path / "run-0001"
    folder.mkdir()
    records = [
        {"at": "2026-11-22T03:12:00Z", "kind": "opened", "run": "0001", "runbook": "canary", "environment": "sandbox"},
        {"at": "2026-11-22T03:13:00Z", "kind": "approved", "by": ["Ada"], "principal": "arn:x", "plan": "p1"},
    ]
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records) + '{"torn')
    archive.archive_unfinished(tmp_path)
    (entry,) = archive.list_entries(tmp_path)
    assert (entry.runbook, entry.people, entry.principal) == ("strategies/canary", ("Ada",), "arn:x")
    assert entry.outcome == "unknown" and problems(tmp_path) == ()


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "{}", '{"cells": [{}], "metadata": {}}', '{"cells": 5}'])
def test_a_run_with_a_broken_notebook_is_archived_without_its_secrets(tmp_path: Path, content: str) -> None:
    """What is no notebook has no report; its bytes are kept, and cleaned as a text."""
    folder = leave(tmp_path, "run-0001")
    (folder / "notebook.ipynb").write_text(content + " ghp_" + "Zz9" * 12)
    assert archive.archive_unfinished(tmp_path) == ["run-0001"]
    assert "Zz9Zz9" not in (folder / "notebook.ipynb").read_text() and not (folder / "report.html").exists()
    assert problems(tmp_path) == ()


@pytest.mark.parametrize("row", [b'{"sha256": 5}', b'{"sha256"' + b"[" * 5000, b'{"sha256": "\xff"}'])
def test_a_run_is_archived_beside_a_damaged_index(tmp_path: Path, row: bytes) -> None:
    """The damage is reported by a verification, and ends no run."""
    sealed(tmp_path, "run-0001")
    index = (tmp_path / "index.json").read_bytes().splitlines(keepends=True)
    (tmp_path / "index.json").write_bytes(b"".join([index[0], row + b",\n", *index[1:]]))
    (tmp_path / "index.html").unlink()
    assert sealed(tmp_path, "run-0002").folder == "run-0002"
    assert problems(tmp_path)


def test_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    """Whoever may still write to a journal holds it; once it is let go, the run can be archived."""
    folder = leave(tmp_path, "run-0001", "interrupted")
    held = lock_journal(folder / "journal.jsonl")
    assert archive.archive_unfinished(tmp_path) == []
    held.close()
    assert archive.archive_unfinished(tmp_path) == ["run-0001"]


# Pages


def test_hostile_values_are_harmless_in_every_page(tmp_path: Path) -> None:
    """Markup, quotes and shell characters from parameters, people and errors stay text."""
    entry = sealed(
        tmp_path, "run-0001", "failed", incident=HOSTILE, parameters={"incident": HOSTILE, "approved_by": [HOSTILE]}
    )
    assert entry.people == (HOSTILE,) and entry.incident == HOSTILE
    for page in ((tmp_path / "index.html").read_text(), (tmp_path / "run-0001" / "report.html").read_text()):
        assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
        assert re.search(r"<meta http-equiv=Content-Security-Policy content=\"default-src 'none'", page)
    said = pages.step_summary({**vars(entry), "trouble": f"{HOSTILE}\n# {HOSTILE}"}, entry.sha256)
    assert not set("<>`$[]();!'\"") & set(re.sub(r"&#\d+;", "", said).replace("> ", ""))
    assert all(line.count("|") == 3 for line in said.splitlines() if line.startswith("|"))


def test_outputs_are_sanitized(tmp_path: Path) -> None:
    """Of HTML only what formats is left; scripts, handlers, pictures from elsewhere and odd types are not."""
    folder = leave(tmp_path, "run-0001")
    document = json.loads((folder / "notebook.ipynb").read_text())
    bundle = {
        "text/html": "<table><tr><td onclick='a()'>kept</td></tr></table><script>b()</script><img src=//x onerror=c()>",
        "text/plain": "",
    }
    other = {"application/javascript": "d()", "image/svg+xml": "<svg onload=e()></svg>", "text/plain": "plain"}
    shown = {"text/markdown": "[x](javascript:f()) <iframe src=//y></iframe> **bold**", "text/plain": ""}
    document["cells"][0]["outputs"] = [
        {"output_type": "display_data", "data": each, "metadata": {}} for each in (bundle, other, shown)
    ]
    (folder / "notebook.ipynb").write_text(json.dumps(document))
    archive.build_manifest(folder, redaction.Redactor())
    page = (folder / "report.html").read_text()
    tags = re.findall(r"<[a-z]+[^>]*>", page)
    assert "<td>kept</td>" in page and "<strong>bold</strong>" in page
    assert not [tag for tag in tags if re.match(r"<(script|iframe|svg|img|object|embed|form|base)\b", tag)]
    assert not [tag for tag in tags if re.search(r"\son\w+=|javascript:", tag)]


def test_a_picture_says_in_words_what_it_shows(tmp_path: Path) -> None:
    """Its description is the alternative text; a live drawing whose kernel was killed leaves its caption."""
    folder = leave(tmp_path, "run-0001")
    document = json.loads((folder / "notebook.ipynb").read_text())
    plain = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    described = {"image/png": {"alt": 'v2: error rate 4.6 % (limit 1 %) "quoted" <b>'}}
    live = "<style>.buddy-ops-chart{}</style><svg aria-label='v1'><text>0 %</text><text>20 %</text></svg>"
    outputs: tuple[tuple[dict[str, str], dict[str, object]], ...] = (
        ({"image/png": plain, "text/plain": "caption"}, described),
        ({"image/png": plain, "text/plain": "only a text"}, {"image/png": 7}),
        ({"text/html": live, "text/plain": "03:12 UTC · stage 1"}, {}),
    )
    document["cells"][0]["outputs"] = [
        {"output_type": "display_data", "data": data, "metadata": metadata} for data, metadata in outputs
    ]
    (folder / "notebook.ipynb").write_text(json.dumps(document))
    archive.build_manifest(folder, redaction.Redactor())
    page = (folder / "report.html").read_text()
    assert 'alt="v2: error rate 4.6 % (limit 1 %) &quot;quoted&quot; &lt;b&gt;"' in page
    assert 'alt="only a text"' in page and 'alt=""' not in page
    assert "<pre>03:12 UTC · stage 1</pre>" in page and "20 %" not in page


def test_what_is_red_for_people_is_red_in_the_page(tmp_path: Path) -> None:
    """What burns, in the colours that JupyterLab shows; and what is against the rules. No style from outside comes along."""
    signs = tuple(Finding("error rate", state, "found") for state in State)
    step = status.NextStep("why", "rollback/immediate", {"environment": "prod", "to_version": "1"})
    hostile = "<b class='problem' style='position:fixed;color:#fff' onclick='a()'>outside</b>"
    folder = leave(tmp_path, "run-0001")
    document = json.loads((folder / "notebook.ipynb").read_text())
    outputs = ({"text/html": status.StatusReport("live", signs, (step, step))._repr_html_()}, {"text/html": hostile})
    document["cells"][0]["outputs"] = [
        {"output_type": "display_data", "data": {**each, "text/plain": ""}, "metadata": {}} for each in outputs
    ]
    (folder / "notebook.ipynb").write_text(json.dumps(document))
    archive.build_manifest(folder, redaction.Redactor())
    page = (folder / "report.html").read_text()
    style, _, body = page.partition("</style>")
    for state in State:
        assert f'<b class="{state}">{state.label}</b>' in body
        assert re.search(rf"\.{state}\b[^{{}}]*{{color:{state.colour}}}", style), state
    assert '<p class="verdict"><b class="problem">ERROR RATE HIGH</b>: ' in body and ".verdict{font-size:130%}" in style
    assert "<pre class=\"code\">environment = 'prod'\nto_version = '1'</pre>" in html.unescape(body)
    assert re.search(r"\.code{[^}]*white-space:pre-wrap", style)
    assert '<b class="problem">outside</b>' in body and "style=" not in body


# Two runs


def test_a_comparison_tells_what_differs_and_not_when(tmp_path: Path) -> None:
    """Plan, people, figures, verdicts and code; ids, times and request numbers are none of it."""

    def records(at: str, by: str, failed: int, decision: str) -> list[dict[str, Any]]:
        return [
            {"at": at, "kind": "approved", "plan": "p1", "title": "Ship", "by": [by], "principal": "arn:x"},
            {"at": at, "kind": "aws", "call": "lambda:update_alias", "parameters": {}, "request": at},
            {"at": at, "kind": "observed", "stage": "1", "decision": decision},
            {"at": at, "kind": "outcome", "ending": "proved", "failed": {"2": failed}},
        ]

    one = sealed(tmp_path, "run-0001", records=records("2026-11-22T03:12:00Z", "Ada", 3, "promote"))
    same = sealed(tmp_path, "run-0002", records=records("2026-11-23T04:00:00Z", "Ada", 3, "promote"))
    other = sealed(tmp_path, "run-0003", records=records("2026-11-24T05:00:00Z", "Grace", 9, "hold"))
    shelf = stores.LocalStore(tmp_path)
    assert diff.compare_runs(shelf, one, same) == ()
    found = {each.what: (each.first, each.second) for each in diff.compare_runs(shelf, one, other)}
    assert found == {
        "people": (["Ada"], ["Grace"]),
        "figure failed": ({"2": 3}, {"2": 9}),
        "verdicts": (["1: promote"], ["1: keep baking"]),
    }


def test_a_comparison_uses_the_result_words(tmp_path: Path) -> None:
    """As ``runs list`` does, and the incident's timeline: the words of the manifest and the journal are internal."""

    def ended(folder: str, ending: str) -> archive.ManifestEntry:
        records = [{"at": "2026-11-22T03:12:00Z", "kind": "outcome", "ending": ending}]
        return sealed(tmp_path, folder, records=records)

    one = ended("run-0001", "lease-fired")
    other = ended("run-0002", "unproven")
    found = {each.what: str(each) for each in diff.compare_runs(stores.LocalStore(tmp_path), one, other)}
    words = "\n  - ROLLED BACK by failsafe\n  + SUCCEEDED, health check inconclusive"
    assert found["result"] == f"result:{words}" and found["figure ending"] == f"figure ending:{words}"
    assert "outcome" not in found


# What others left


@pytest.mark.parametrize("forged", ["0" * 64, "x", "0" * 65, ""])
def test_a_changed_end_of_the_index_breaks_no_chain(tmp_path: Path, forged: str) -> None:
    """It is found; the next run follows the newest manifest that there is, and not what somebody wrote there."""
    first = sealed(tmp_path, "run-0001")
    index = (tmp_path / "index.json").read_text()
    (tmp_path / "index.json").write_text(index.replace(f'"newest":"{first.sha256}"', f'"newest":"{forged}"'))
    assert problems(tmp_path)
    assert sealed(tmp_path, "run-0002").previous == first.sha256
    assert problems(tmp_path) == ()


def test_a_key_that_is_there_twice_makes_no_manifest(tmp_path: Path) -> None:
    """Readers would differ on the outcome: listing, indexing and verifying say that it cannot be used."""
    sealed(tmp_path, "run-0001")
    path = tmp_path / "run-0001" / "manifest.json"
    path.write_text(path.read_text().replace('"v": 1,', '"outcome": "rolled-back",\n "v": 1,', 1))
    assert problems(tmp_path) == ("run-0001: the manifest was changed.",)
    with pytest.raises(BuddyError, match="archive-damaged"):
        archive.rebuild_index(stores.LocalStore(tmp_path))


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_a_lock_that_is_no_file_is_one_clear_error(tmp_path: Path, what: str) -> None:
    """Nothing waits for it, and nothing is lost: moved away, the run is archived."""
    root = tmp_path / "runs"
    sealed(root, "run-0001")
    (root / ".lock").unlink()
    (root / ".lock").mkdir() if what == "folder" else os.mkfifo(root / ".lock")
    with pytest.raises(BuddyError, match="archive-damaged") as refused:
        sealed(root, "run-0002")
    assert "Move .lock away" in refused.value.next
    (root / ".lock").rename(tmp_path / "away")
    assert archive.archive_unfinished(root) == ["run-0002"] and problems(root) == ()


ODD_ABOUT: list[dict[str, Any]] = [
    {"parameters": {"approved_by": 5}}, {"parameters": {"approved_by": "Ada"}}, {"parameters": ["x"]}, {"run": [1]},
    {"source": "x"}, {"source": {"notebook": 5, "settings": 7}}, {"source": {"notebook": "../../x", "commit": "--help"}},
    {"library": [1]}, {"library": {"clean": [], "changed": 5}}, {"runbook": {"a": 1}}, {"environment": []}, {"archive": 5},
]  # fmt: skip
ODD_RECORDS: list[dict[str, Any]] = [
    {"kind": "approved"}, {"kind": "approved", "by": 5, "principal": 7}, {"kind": "approved", "by": [{"a": 1}]},
    {"kind": "parameters", "values": [1]}, {"kind": "outcome"}, {"kind": "outcome", "ending": {}}, {"kind": 5, "at": 7},
]  # fmt: skip
ODD_OUTPUTS: list[Any] = [
    5, {"output_type": "zzz"}, {"output_type": "stream"}, {"output_type": "error", "traceback": 5},
    {"output_type": "display_data", "data": {"image/png": 5}}, {"output_type": "display_data", "data": {"text/html": 7}},
]  # fmt: skip


def test_whatever_a_lost_run_left_is_archived(tmp_path: Path) -> None:
    """One run with odd content stops no other; each has a manifest that can be read, and all of them verify."""
    for number, about in enumerate(ODD_ABOUT):
        leave(tmp_path, f"run-1{number:03}", **about)
    for number, record in enumerate(ODD_RECORDS):
        leave(tmp_path, f"run-2{number:03}", records=[record])
    for number, output in enumerate(ODD_OUTPUTS):
        folder = leave(tmp_path, f"run-3{number:03}")
        document = json.loads((folder / "notebook.ipynb").read_text())
        document["cells"][0] |= {"outputs": [output], "metadata": {"buddy_ops": {"state": ["x"]}}}
        (folder / "notebook.ipynb").write_text(json.dumps(document))
    leave(tmp_path, "run-9999")
    expected = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert archive.archive_unfinished(tmp_path) == expected
    assert sorted(entry.folder for entry in archive.list_entries(tmp_path)) == expected and problems(tmp_path) == ()
    assert archive.list_entries(tmp_path)[1].people == ("Ada",)


def test_a_pipe_in_a_runs_folder_is_not_waited_for(tmp_path: Path) -> None:
    """In place of its journal, where a lock is looked for."""
    leave(tmp_path, "run-0001")
    (tmp_path / "run-0002").mkdir()
    os.mkfifo(tmp_path / "run-0002" / "journal.jsonl")
    assert archive.archive_unfinished(tmp_path) == ["run-0001"]
    assert problems(tmp_path) == ("run-0002/journal.jsonl: is no file.",)


def test_times_rights_and_order_of_files_do_not_matter(tmp_path: Path) -> None:
    """A copy by another tool is the same archive."""
    for number in (2, 1, 3):
        sealed(tmp_path / "runs", f"run-000{number}")
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o444)
    assert problems(tmp_path / "copy") == ()


def test_a_token_that_only_the_page_joins_is_not_in_it(tmp_path: Path) -> None:
    """A long comment keeps its parts apart in the notebook; the page has no comments."""
    token = "ghp_" + "Zz9" * 12
    folder = leave(tmp_path, "run-0001")
    document = json.loads((folder / "notebook.ipynb").read_text())
    split = f"<p>{token[:9]}<!-- {'x ' * 1000} -->{token[9:]}</p>"
    document["cells"][0]["outputs"] = [{"output_type": "display_data", "data": {"text/html": split}, "metadata": {}}]
    (folder / "notebook.ipynb").write_text(json.dumps(document))
    archive.build_manifest(folder, redaction.Redactor())
    assert token not in (folder / "report.html").read_text()
