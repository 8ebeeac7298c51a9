"""``buddy-ops init``: a project in an empty folder, all of it or nothing, and no file of the team is ever overwritten."""

import builtins
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from buddy_ops.checks import function_facts
from buddy_ops.cli import init, new_project
from buddy_ops.cli.new_project import MANIFEST, Project
from buddy_ops.core import places, project, settings
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.kinds import KINDS, Kind
from tests.cli.command_line import Ended, invoke
from tests.conftest import Situation, sampled

ROOT = Path(__file__).parents[2]
Run = Callable[..., Ended]
FLAGS = ("--function", "orders-api", "--region", "eu-west-1", "--kind", "http")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``buddy-ops init`` in an empty folder, without credentials."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke(capsys, "init", *words)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("kind", sampled(KINDS, slice(None, None, 3)))
def test_every_environment_of_a_new_project_is_valid(kind: str, run: Run, tmp_path: Path) -> None:
    """Of each kind and preset: read by the library, and by an editor through the schema that its first line names."""
    words = ("--function", "orders-{environment}", "--alias", "blue", "--region", "eu-west-1", "--kind", kind)
    words += ("--failure-metric", "My/Shop/Failures")
    assert run(*words, "-e", "dev", "-e", "staging", "-e", "prod", "-e", "prod-eu", "-e", "qa").code == 0
    for name in ("dev", "staging", "prod", "prod-eu", "qa", "sandbox"):
        path = tmp_path / "parameters" / f"{name}.yaml"
        values, _ = project.read_settings(name)
        assert (values["function"], values["alias"]) == (f"orders-{name}", "blue")
        assert values["aws"]["region"] == "eu-west-1" and values["kind"] == kind
        metric = values["failure_metrics"][0]
        assert (metric["namespace"], metric["name"]) == ("My/Shop", "Failures")
        named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", path.read_text("utf-8").splitlines()[0])
        assert named is not None
        schema = json.loads((path.parent / named[1]).read_text("utf-8"))
        jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), schema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_example_in_a_comment_is_valid(kind: Kind) -> None:
    """Each smoke test and metric that a person may take out of its comment."""
    text = new_project.team_files(Project("orders", "live", "", kind, ("prod",)))["parameters/prod.yaml"]
    for name in ("smoke_tests", "failure_metrics"):
        block = text.partition(f"  {name}: []")[2].partition("\n  failure_metrics")[0]
        examples = [yaml.safe_load(line.strip().removeprefix("# -")) for line in block.splitlines() if "# - " in line]
        assert name == "failure_metrics" or len(examples) == 1
        settings.validate_settings({"function": "orders", "kind": kind, name: examples}, "examples")


def test_a_new_project_has_everything_that_its_workflows_and_its_stack_need(run: Run, tmp_path: Path) -> None:
    """Notebooks byte for byte, the workflows for its environments, the lock that they install, template and parameters."""
    ended = run(*FLAGS, "-e", "staging", "-e", "prod", "--json")
    assert ended.code == 0 and sorted(ended.data["written"]) == sorted(content(tmp_path))
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        assert (tmp_path / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    for name in ("runbook", "fleet-audit", "audit"):
        text = (tmp_path / f".github/workflows/{name}.yml").read_text("utf-8")
        assert "make " not in text and "-r requirements/buddy-ops.txt" in text
    assert "options: [staging, prod]" in (tmp_path / ".github/workflows/runbook.yml").read_text("utf-8")
    assert "environment: [staging, prod]" in text
    assert (tmp_path / "requirements/buddy-ops.txt").read_bytes() == (ROOT / "requirements/run.txt").read_bytes()
    template = (tmp_path / "infrastructure.yaml").read_text("utf-8")
    for name, value in json.loads((tmp_path / "infrastructure/prod.json").read_text("utf-8"))["Parameters"].items():
        assert re.search(rf"^  {name}:$", template, re.M) and isinstance(value, str)
    assert {"/runs/", "/build/", ".ipynb_checkpoints/"} <= set((tmp_path / ".gitignore").read_text().split())


@pytest.mark.parametrize(
    ("words", "reference"),
    [
        ((), "init-incomplete"),
        (("--yes",), "init-incomplete"),
        (("--function", "arn:aws:lambda:x"), "invalid-settings"),
        ((*FLAGS, "--alias", "a b"), "invalid-settings"),
        ((*FLAGS, "--kind", "web"), "invalid-settings"),
        ((*FLAGS, "--region", "Ireland"), "invalid-settings"),
        ((*FLAGS, "-e", "sandbox"), "invalid-settings"),
        ((*FLAGS, "-e", "../prod"), "invalid-settings"),
        ((*FLAGS, "-e", "prod", "-e", "prod"), "invalid-settings"),
        ((*FLAGS, "--failure-metric", "Failures"), "invalid-settings"),
        ((*FLAGS, "--write"), "invalid-usage"),
        ((*FLAGS, "--upgrade"), "invalid-usage"),
    ],
)
def test_what_is_missing_or_wrong_is_one_error(
    words: tuple[str, ...], reference: str, run: Run, tmp_path: Path
) -> None:
    """Before anything is written."""
    ended = run(*words)
    assert ended.code == 2 and f"({reference})" in ended.err
    assert content(tmp_path) == {}


def test_a_dry_run_lists_the_files_and_writes_none(run: Run, tmp_path: Path) -> None:
    """The same files that the run then writes."""
    ended = run(*FLAGS, "--dry-run", "--json")
    assert content(tmp_path) == {} and ended.data["written"] == []
    run(*FLAGS)
    assert sorted({*ended.data["would_write"], MANIFEST}) == sorted(content(tmp_path))


def test_no_file_is_overwritten(run: Run, tmp_path: Path) -> None:
    """Whatever is there, a link to nothing too, is named, and left byte for byte."""
    run(*FLAGS)
    names = sorted(content(tmp_path))
    for name in names:
        (tmp_path / name).write_text(f"mine: {name}")
    (tmp_path / names[0]).unlink()
    (tmp_path / names[0]).symlink_to("nowhere")
    before = content(tmp_path)
    ended = run(*FLAGS, "--json")
    assert content(tmp_path) == before and (tmp_path / names[0]).is_symlink()
    assert sorted({*ended.data["left"], MANIFEST}) == names and ended.data["written"] == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_nothing_is_left_of_an_init_that_fails(
    error: BaseException, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its files: what was written is deleted, its folders too, and the team's own files stay."""
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / "prod.yaml").write_text("mine")
    files = {**new_project.release_files(["prod"]), MANIFEST: "{}"}
    write = new_project.write_atomically
    for number in range(len(files)):
        left = iter([*[None] * number, error])

        def failing(path: Path, text: str, left: Iterator[Any] = left) -> None:
            if failure := next(left):
                raise failure
            write(path, text)

        monkeypatch.setattr(new_project, "write_atomically", failing)
        with pytest.raises(type(error) if isinstance(error, KeyboardInterrupt) else BuddyError):
            new_project.write_new(tmp_path, files)
        assert content(tmp_path) == {"parameters/prod.yaml": b"mine"}
        assert [path.name for path in tmp_path.iterdir()] == ["parameters"]


def test_a_file_in_place_of_a_folder_ends_it_cleanly(run: Run, tmp_path: Path) -> None:
    """The error names the file that could not be written."""
    (tmp_path / "notebooks").write_text("mine")
    ended = run(*FLAGS)
    assert ended.code == 1 and "(init-failed)" in ended.err and "notebooks/" in ended.err
    assert content(tmp_path) == {"notebooks": b"mine"}


def test_a_person_is_asked_until_the_answers_are_valid(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter takes what is in brackets; what is given as an option is not asked."""
    answers = iter(
        ["orders api", "orders-{environment}", "dev sandbox", "dev prod", "", "nowhere", "eu-west-1", "web", "http"]
    )
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr(builtins, "input", answer)
    monkeypatch.setattr(init, "is_terminal", lambda stream: True)
    assert run("--alias", "blue").code == 0
    assert list(answers) == [] and not any(question.startswith("Alias") for question in asked)
    assert project.environments() == ["dev", "prod", "sandbox"]
    assert project.read_settings("dev")[0]["function"] == "orders-dev"


def test_an_interrupted_question_writes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, and the end of the input."""
    monkeypatch.setattr(init, "is_terminal", lambda stream: True)
    for error, code in ((KeyboardInterrupt(), 1), (EOFError(), 2)):

        def interrupted(question: str, error: BaseException = error) -> str:
            raise error

        monkeypatch.setattr(builtins, "input", interrupted)
        assert run().code == code
        assert content(tmp_path) == {}


def test_the_function_is_read_where_it_can_be(
    situation: Callable[..., Situation], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it exists, and what its alias serves; without credentials that is said, and the files are the same."""
    here = situation("good", history_minutes=0)
    found = run("--function", here.function, "--region", "us-east-1", "--kind", "custom", "--dry-run", "--json").data
    assert found["function"]["exists"] is True and found["function"]["alias_version"] == "1"
    assert found["function"]["runtime"].startswith("python") and found["function"]["timeout_s"] > 0
    missing = run("--function", "unheard-of", "--region", "us-east-1", "--kind", "custom", "--dry-run", "--json").data
    assert missing["function"]["exists"] is False
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    unread = run("--function", here.function, "--region", "us-east-1", "--kind", "custom", "--dry-run", "--json").data
    assert unread["function"]["exists"] is None and "could not be read" in unread["function"]["unread"][0]
    assert unread["would_write"] == found["would_write"]


@pytest.mark.parametrize(
    ("callers", "kind"),
    [
        ([], None),
        (["alexa-appkit.amazon.com"], "alexa"),
        (["apigateway.amazonaws.com"], "http"),
        (["elasticloadbalancing.amazonaws.com", "events.amazonaws.com"], "http"),
        ([function_facts.FUNCTION_URL], "http"),
        (["sqs"], "sqs"),
        (["dynamodb"], "stream"),
        (["kinesis"], "stream"),
        (["s3.amazonaws.com"], "async"),
        (["arn:aws:iam::123456789012:role/other"], None),
    ],
)
def test_the_kind_is_guessed_by_what_calls_the_function(callers: list[str], kind: str | None) -> None:
    """A guess only: --kind, or the person who is asked, decides."""
    assert function_facts.guess_kind(callers) == kind


# --upgrade


@pytest.fixture
def upgraded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A project of an older release; the newer one changes a notebook, a workflow and the template, and has one more."""
    run(*FLAGS)
    newer = new_project.release_files(["prod"])
    notebook = json.loads(newer["notebooks/start_here.ipynb"])
    notebook["cells"][0]["source"] = ["# A newer heading\n"]
    newer["notebooks/start_here.ipynb"] = json.dumps(notebook)
    newer[".github/workflows/audit.yml"] += "# newer\n"
    newer["infrastructure.yaml"] += "# newer\n"
    newer["notebooks/newer.ipynb"] = newer["notebooks/start_here.ipynb"]
    monkeypatch.setattr(new_project, "release_files", lambda environments: newer)
    return newer


CHANGED = [".github/workflows/audit.yml", "infrastructure.yaml", "notebooks/newer.ipynb", "notebooks/start_here.ipynb"]


def test_an_upgrade_shows_what_changed_and_writes_nothing(upgraded: dict[str, str], run: Run, tmp_path: Path) -> None:
    """A unified diff, of a notebook its cells; the files stay until --write."""
    before = content(tmp_path)
    ended = run("--upgrade")
    assert "+# newer" in ended.out and "+# A newer heading" in ended.out and "--- /dev/null" in ended.out
    assert "4 files to take: `buddy-ops init --upgrade --write`" in ended.out
    assert sorted(run("--upgrade", "--json").data["diff"]) == CHANGED
    assert run("--upgrade", "--write", "--dry-run").code == 0
    assert content(tmp_path) == before


def test_an_upgrade_takes_what_the_team_did_not_change(upgraded: dict[str, str], run: Run, tmp_path: Path) -> None:
    """Edited files, and all that is the team's, stay byte for byte; a second upgrade finds these only."""
    mine = tmp_path / "infrastructure.yaml"
    mine.write_text(mine.read_text("utf-8") + "# mine\n")
    (tmp_path / "parameters" / "prod.yaml").write_text("mine: true")
    ended = run("--upgrade", "--write", "--json")
    assert ended.data["left"] == ["infrastructure.yaml"]
    assert sorted(ended.data["written"]) == [name for name in CHANGED if name != "infrastructure.yaml"]
    assert mine.read_text("utf-8").endswith("# mine\n")
    assert (tmp_path / "parameters" / "prod.yaml").read_text() == "mine: true"
    for name in ended.data["written"]:
        assert (tmp_path / name).read_text("utf-8") == upgraded[name]
    assert run("--upgrade", "--write", "--json").data["written"] == []


def test_a_notebook_that_was_only_run_is_not_the_teams(upgraded: dict[str, str], run: Run, tmp_path: Path) -> None:
    """JupyterLab saves outputs and counts in it; a changed parameter makes it the team's."""
    path = tmp_path / "notebooks" / "start_here.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code |= {"execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "seen"}]}
    path.write_text(json.dumps(notebook))
    assert "notebooks/start_here.ipynb" not in run("--upgrade", "--json").data["left"]
    code["source"] = ['environment: str = "prod"']
    path.write_text(json.dumps(notebook))
    assert "notebooks/start_here.ipynb" in run("--upgrade", "--json").data["left"]


def test_an_interrupted_upgrade_goes_on(
    upgraded: dict[str, str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of its writes: each file is whole, and after the next upgrade none counts as the team's."""
    write = new_project.write_atomically
    for number in range(len(CHANGED) + 1):
        left = iter([*[False] * number, True])

        def interrupted(path: Path, text: str, left: Iterator[bool] = left) -> None:
            if next(left, False):
                raise KeyboardInterrupt
            write(path, text)

        monkeypatch.setattr(new_project, "write_atomically", interrupted)
        run("--upgrade", "--write")
    monkeypatch.setattr(new_project, "write_atomically", write)
    assert run("--upgrade", "--write").code == 0
    known = new_project.read_manifest(tmp_path)
    assert known == {name: new_project.digest(name, text) for name, text in upgraded.items()}


def test_only_a_project_that_init_wrote_is_upgraded(run: Run, tmp_path: Path) -> None:
    """In a folder below none, the library's own checkout must not be taken for one."""
    ended = run("--upgrade", "--write")
    assert ended.code == 2 and "(no-project)" in ended.err


def test_an_init_that_was_killed_is_completed(run: Run, tmp_path: Path) -> None:
    """The list of hashes is written last: with it missing, whole files of the release still count as the release's."""
    run(*FLAGS)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / "infrastructure.yaml").write_text("mine")
    (tmp_path / "notebooks" / "start_here.ipynb").unlink()
    run(*FLAGS)
    known = new_project.read_manifest(tmp_path)
    assert set(new_project.release_files(["prod"])) - set(known) == {"infrastructure.yaml"}


def test_a_text_that_yaml_would_read_as_something_else_is_quoted() -> None:
    """A function's name may be a number."""
    files = new_project.team_files(Project("100", "null", "", "custom", ("prod",)))
    assert 'function: "100"' in files["parameters/prod.yaml"] and 'alias: "null"' in files["parameters/prod.yaml"]


def test_the_files_of_a_release_are_where_the_wheel_and_the_checkout_have_them() -> None:
    """Each is in this checkout."""
    assert all(places.shipped_file(name).exists() for name in places.IN_WHEEL)
