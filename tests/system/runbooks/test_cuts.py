"""Nothing that is no secret is cut out of the archived runs of the demo and of any runbook.

Each text that a redactor changes is noted with what it was before, in whichever process of a run: without redaction the
archive would have exactly these texts instead. The processes are forks of the test's, so that they note it, too.
"""

import base64
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.cli import demo
from buddy_ops.core import _pictures, redaction
from buddy_ops.core.redaction import MARK, Redactor
from buddy_ops.runs import supervisor
from tests import programs
from tests.conftest import Situation, sampled
from tests.system.runbooks.test_deaths import tiny
from tests.system.runbooks.test_nbval import CASES, ROOT

Cuts = Callable[[], list[tuple[str, str]]]
SAMPLE = {"a failed deployment"}


@pytest.fixture
def cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuts]:
    """What was cut until now: each text before and after."""
    monkeypatch.delenv("BUDDY_TESTS_FRESH", raising=False)
    programs.install()
    notes = tmp_path / "cuts.jsonl"
    without, clean_field, clean_picture = redaction._without, Redactor._clean_field, _pictures.clean

    def note(before: Any, after: Any) -> Any:
        if before != after:
            line = json.dumps([before, after], default=str) + "\n"
            file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, line.encode("utf-8", "replace"))
            os.close(file)
        return after

    def noted_field(self: Redactor, name: Any, value: Any) -> Any:
        after = clean_field(self, name, value)
        return note(value, after) if after == MARK else after

    monkeypatch.setattr(redaction, "_without", lambda text, spans: note(text, without(text, spans)))
    monkeypatch.setattr(Redactor, "_clean_field", noted_field)
    monkeypatch.setattr(_pictures, "clean", lambda encoded, is_clean: note(encoded, clean_picture(encoded, is_clean)))
    yield lambda: [tuple(json.loads(line)) for line in notes.read_text("utf-8").splitlines()] if notes.exists() else []
    if not os.environ.get("BUDDY_TESTS_FRESH"):
        programs.install()


def archived(folder: Path) -> dict[str, str]:
    """Every file of an archive."""
    return {path.name: path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()}


def pieces_cut(before: str, after: str) -> tuple[str, ...]:
    """What the marks in a text are in place of."""
    match = re.fullmatch("(.+?)".join(map(re.escape, after.split(MARK))), before, re.DOTALL)
    assert match is not None, (before, after)
    return match.groups()


@pytest.mark.timeout(360)
@pytest.mark.parametrize(
    "name",
    sampled(CASES, SAMPLE),
)
def test_nothing_is_cut_out_of_a_runbook(
    situation: Callable[..., Situation], cuts: Cuts, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Outputs, pictures, journal, report and manifest are as they would be without redaction."""
    case = CASES[name]
    here = situation(case.scenario, **case.overrides)
    case.prepare(here)
    if (here.folder / "parameters").exists():  # the case has a project of its own
        monkeypatch.chdir(here.folder)
    for number, (notebook, given) in enumerate(case.notebooks.items()):
        parameters = {"environment": here.environment, **given(here)}
        done = supervisor.run_notebook(notebook, parameters, folder=here.folder / "runs" / f"run-{number}")
        assert done.exit_code == 0, done.trouble
    texts = archived(here.folder / "runs")
    assert sum(name == "report.html" for name in texts) and "manifest.json" in texts
    assert cuts() == []
    assert [name for name, text in texts.items() if MARK in text] == []


@pytest.mark.whole
@pytest.mark.timeout(360)
def test_nothing_is_cut_out_of_the_demo(cuts: Cuts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of its canaries, with their pictures."""
    for folder in ("notebooks", "parameters"):
        shutil.copytree(ROOT / folder, tmp_path / "project" / folder)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER", raising=False)
    assert demo.main().exit_code == 0
    reports = list((tmp_path / "project" / "runs").glob("*/report.html"))
    assert len(reports) == 2 and all("data:image/png" in report.read_text("utf-8") for report in reports)
    assert cuts() == []
    assert [name for name, text in archived(tmp_path / "project" / "runs").items() if MARK in text] == []


def test_a_cut_is_noted_in_each_process(
    situation: Callable[..., Situation], cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter-test: secrets in an output, a journal, a field and a picture are cut, and nothing beside them."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    secret = "ghp_" + "Zz9" * 12
    password = "k4-Tz.plum99"
    picture = base64.b64encode(b"no PNG " + secret.encode()).decode()
    cells = (
        "from buddy_ops.notebook.opening import open_runbook\ndel at, how, flag, secret\n"
        "target = open_runbook('tiny', globals())",
        f"print('2 of 4,711 failed', {secret!r}, 'sha256', 'ab12' * 16)",
        f"target.journal.append('said', text='with {secret} at 03:12', password={password!r})",
        f"from IPython.display import display\ndisplay({{'image/jpeg': {picture!r}, 'text/plain': 'x'}}, raw=True)",
    )
    notebook = tiny(here.folder / "project", *cells)
    monkeypatch.chdir(notebook.parents[1])
    done = supervisor.run_notebook("tiny", {"environment": "sandbox"}, folder=here.folder / "runs" / "run")
    assert done.exit_code == 0, done.trouble
    noted = cuts()
    assert {"with [redacted] at 03:12", MARK, ""} <= {after for _, after in noted}
    removed = {piece for before, after in noted if after for piece in pieces_cut(before, after)}
    assert {secret, password} <= removed
    assert all(piece in (secret, password) or piece in picture for piece in removed), removed
    text = (here.folder / "runs" / "run" / "notebook.ipynb").read_text("utf-8")
    assert f"2 of 4,711 failed {MARK} sha256 " + "ab12" * 16 in text
