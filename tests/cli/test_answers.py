"""Every command answers: as text or as one JSON document, and an error with its exit code and a next step that works."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.checks import status
from buddy_ops.cli import answers, exit_codes, terminal
from buddy_ops.core import errors
from docs import generate
from tests.cli.command_line import commands_in, invoke
from tests.conftest import Situation
from tests.runs.test_archive import sealed

Bring = Callable[..., Situation]

UNKNOWN: list[tuple[list[str], str, int]] = [
    (["unfreeze", "beef"], "freeze-unknown", 2),
    (["unfreeze", "0123abcd-9f"], "freeze-unknown", 2),
    (["freeze", "--hours", "2"], "freeze-incomplete", 2),
    (["freeze", "--owner", "Ada"], "freeze-incomplete", 2),
    (["rollback", "--to-version", "99", "--yes", "--approved-by", "Ada"], "version-missing", 2),
    (["rollback", "--to-version", "live", "--yes", "--approved-by", "Ada"], "version-missing", 2),
    (["rollback", "--to-version", "1", "--yes"], "approval-missing", 4),
    (["runs", "show", "beef"], "run-unknown", 2),
    (["runs", "sign", "beef"], "run-unknown", 2),
    (["runs", "diff", "beef", "beef"], "run-unknown", 2),
    (["runs", "list", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "show", "beef", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "sign", "beef", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "diff", "beef", "beef", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "verify", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "index", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "prune", "--keep", "9", "--archive", "no/such"], "archive-unknown", 2),
    (["runs", "prune", "--keep", "all"], "invalid-parameters", 2),
    (["runs", "list", "-e", "prodd"], "unknown-environment", 2),
    (["runs", "verify", "--public-key", "no/such.pem"], "public-key-unusable", 2),
    (["run", "strategies/canry"], "notebook-missing", 2),
    (["run", "strategies/canary", "-p", "artefact=x.zip"], "invalid-parameters", 2),
    (["run", "strategies/canary", "-e", "prodd"], "unknown-environment", 2),
    (["runbooks", "canry"], "notebook-missing", 2),
    (["sandbox", "scenario", "goood"], "unknown-scenario", 2),
    (["sandbox", "start", "--scenario", "goood"], "unknown-scenario", 2),
    (["sandbox", "set", "metrics_dely_s=3"], "sandbox-refused", 2),
    (["sandbox", "set", "metrics_delay_s"], "not-key-value", 2),
    (["sandbox", "status", "--port", "1"], "sandbox-not-running", 1),
    (["sandbox", "stop", "--port", "1"], "sandbox-not-running", 1),
    (["rollbak"], "invalid-usage", 2),
    (["runs", "shw"], "invalid-usage", 2),
    (["runs", "show"], "invalid-usage", 2),
    (["doctor", "--role", "nobody"], "invalid-usage", 2),
    (["runs"], "invalid-usage", 2),
    *((words, "unknown-environment", 2) for words in (["rollback", "-e", "prodd"], ["freeze", "-e", "prodd"])),
    *((words, "unknown-environment", 2) for words in (["unfreeze", "x", "-e", "prodd"], ["doctor", "-e", "prodd"])),
]
"""Command lines whose subject does not exist, or is not named: the error and the exit code."""


@pytest.mark.parametrize(
    ("words", "reference", "code"), UNKNOWN, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_does_not_exist_is_an_error_whose_next_step_works(
    two_versions: Situation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    reference: str,
    code: int,
) -> None:
    """The same as text and as JSON, nothing is written, and each command that the next step names ends well."""
    found = invoke(capsys, *words)
    assert found.code == code and found.out.count("\n") <= 12, found
    assert f"({reference})" in found.err and "\nState: " in found.err and "\nNext:  " in found.err
    # A group has no --json of its own; what is wrong with a command line is told as asked all the same.
    as_json = invoke(capsys, *words, "--json")
    assert as_json.code == code
    if words != ["runs"]:
        assert as_json.data["reference"] == reference and as_json.data["exit_code"] == code
        assert {"result", "what", "now", "next"} <= set(as_json.data)
    assert two_versions.calls("UpdateAlias") == [] and two_versions.calls("PutParameter") == []
    for command in commands_in(found.err.partition("\nNext:  ")[2]):
        if command[:2] != ["sandbox", "start"]:
            ended = invoke(capsys, *[word for word in command if word != "NAME"])
            assert ended.code == 0, (command, ended)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rollbak"], "rollback"),
        (["runs", "verfy"], "verify"),
        (["run", "canry"], "strategies/canary"),
        (["run", "rollback/imediate"], "rollback/immediate"),
        (["runbooks", "readines_audit"], "review/readiness_audit"),
        (["doctor", "-e", "sandbx"], "sandbox"),
        (["runs", "list", "-e", "prd"], "prod"),
        (["sandbox", "scenario", "errors_5_prcent"], "errors_5_percent"),
        (["rollback", "--to-verson", "1"], "--to-version"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_name_is_answered_with_the_closest(
    two_versions: Situation, capsys: pytest.CaptureFixture[str], words: list[str], meant: str
) -> None:
    found = invoke(capsys, *words)
    assert found.code == 2 and re.search(
        rf"[Dd]id you mean '?{re.escape(meant)}|Possible options: {meant}", found.err
    ), found.err


# Documents


def test_every_command_with_an_answer_has_json() -> None:
    """All but what runs until it is stopped, or is watched."""
    without = {
        words
        for words, command in generate.command_pairs()
        if "--json" not in [name for p in command.params for name in p.opts]
    }
    assert without <= {"lab", "demo"}


def test_documents_of_all_commands(two_versions: Situation, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing but one JSON document on stdout, its exit code the command's, its times ISO 8601; and what it is about."""
    for name, state in (("2026-11-22T0312Z-canary-prod-run-0001", "done"), ("run-0002", "failed")):
        sealed(tmp_path / "archive", name, state, parameters={"approved_by": ["Ada"]}, incident="INC-7")
    archive = ("--archive", str(tmp_path / "archive"))

    def ask(*words: str, code: int = 0) -> dict[str, Any]:
        found = invoke(capsys, *words, "--json")
        assert (found.code, found.data["exit_code"]) == (code, code), found
        assert not re.search(r"\d\d:\d\d UTC", json.dumps({**found.data, "steps": []})) or words[0] in ("doctor",)
        return found.data

    frozen = ask("freeze", "--reason", "Black Friday", "--owner", "Ada")["created"]
    assert frozen["reason"] == "Black Friday" and frozen["expires"].endswith("Z")
    assert [freeze["id"] for freeze in ask("freeze")["freezes"]] == [frozen["id"]]
    assert ask("unfreeze", frozen["id"]) == {
        "exit_code": 0,
        "environment": "sandbox",
        "removed": frozen["id"],
        "freezes": [],
    }
    doctor = ask("doctor")
    assert doctor["state"] == "ok" and {"check", "state", "message", "remedy"} <= set(doctor["findings"][0])
    dry = ask("rollback", "--to-version", "1", "--dry-run")
    assert dry["rollback"]["dry_run"] and dry["plan"].startswith("p")
    done = ask("rollback", "--to-version", "1", "--yes", "--approved-by", "Ada")
    assert (
        done["rollback"]["serving"] == "1" and done["approved_by"] == ["Ada"] and done["rollback"]["at"].endswith("Z")
    )
    assert two_versions.alias()["FunctionVersion"] == "1"
    listed = ask("runs", "list", *archive)["runs"]
    assert [run["folder"] for run in listed] == ["2026-11-22T0312Z-canary-prod-run-0001", "run-0002"]
    assert ask("runs", "show", "0002", *archive)["run"]["sha256"] == listed[1]["sha256"]
    assert ask("runs", "verify", *archive)["ok"] is True
    assert ask("runs", "diff", "0001", "0002", *archive)["differences"]
    assert ask("runs", "prune", "--keep", "1", "--dry-run", *archive)["runs"] == [listed[0]["folder"]]
    assert ask("runs", "index", *archive)["steps"]
    assert ask("runs", "prune", "--keep", "1", "--yes", *archive)["deleted"] == 1
    assert len(ask("runbooks")["runbooks"]) > 15
    assert ask("runbooks", "canary")["runbook"]["name"] == "strategies/canary"
    assert ask("version")["version"]
    assert ask("sandbox", "status") and ask("sandbox", "set")["keys"] and ask("sandbox", "scenario")["scenarios"]


def test_whatever_is_printed_meanwhile_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Also by code that knows nothing of --json."""

    def talkative(as_json: bool = False) -> answers.Answer:
        print("from a library")
        terminal.say("on the way")
        return answers.Answer({"at": datetime(2026, 11, 29, 3, 58, tzinfo=timezone(timedelta(hours=1)))}, ["text"], 5)

    command = answers.click.Command("talk", callback=answers.answers(talkative))
    with pytest.raises(answers.click.exceptions.Exit) as ended, answers.click.Context(command) as context:
        context.invoke(command, as_json=True)
    said = capsys.readouterr()
    assert ended.value.exit_code == 5 and json.loads(said.out) == {"exit_code": 5, "at": "2026-11-29T02:58:00Z"}
    assert said.err == "from a library\non the way\n"


def test_values_as_json_has_them() -> None:
    class Word(StrEnum):
        ONE = "one"

    @dataclass
    class Thing:
        when: datetime
        word: Word
        _hidden: int = 0

    thing = Thing(datetime(2026, 1, 2, tzinfo=UTC), Word.ONE)
    assert answers.as_json_value(thing) == {"when": "2026-01-02T00:00:00Z", "word": "one"}
    assert answers.as_json_value([timedelta(minutes=2), float("nan"), float("inf"), 1.5]) == [120.0, None, None, 1.5]
    assert answers.as_json_value({3: {Path("a/b")}}) == {"3": ["a/b"]}


# What is documented


def test_the_page_of_the_commands_is_as_the_code_has_it() -> None:
    """`python -m docs.generate` writes it; each command has its exit codes there."""
    page = generate.COMMANDS_PAGE.read_text("utf-8")
    assert generate.commands_page(page) == page
    assert set(exit_codes.COMMANDS) == {words for words, _ in generate.command_pairs()}


def test_exit_codes_are_those_of_the_code() -> None:
    """A runbook may end with each code of an error, `status` with its own; and what the matrix above met is documented."""
    classes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BuddyError)
    }
    assert set(exit_codes.COMMANDS["run"]) == {0, *classes}
    assert set(exit_codes.COMMANDS["status"]) == {0, 2, *status.EXIT_CODES.values()}
    for words, _, code in UNKNOWN:
        command = " ".join(words[:2]) if " ".join(words[:2]) in exit_codes.COMMANDS else words[0]
        assert code in exit_codes.COMMANDS.get(command, {2: ""}), words


# What is copied is whole


COPIED = {
    "id",
    "run",
    "folder",
    "sha256",
    "newest",
    "artifact",
    "next",
    "command",
    "plan",
    "name",
    "removed",
    "manifest",
}
"""Keys whose values a person copies."""


def copied(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [text for name, part in value.items() for text in copied(part, name)]
    if isinstance(value, list):
        return [text for part in value for text in copied(part, key)]
    return [value] if key in COPIED and isinstance(value, str) and value else []


@pytest.mark.parametrize(
    ("columns", "is_terminal"),
    [
        (40, True),
        *(pytest.param(columns, tty, marks=pytest.mark.whole) for columns in (80, 200) for tty in (True, False)),
        pytest.param(40, False, marks=pytest.mark.whole),
    ],
)
def test_what_is_copied_is_whole_in_one_line(
    two_versions: Situation,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    columns: int,
    is_terminal: bool,
) -> None:
    """Every ID, hash, path and command of the data, at any width, in a terminal and in a pipe."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(terminal, "is_terminal", lambda stream: is_terminal)
    name = "2026-11-22T0312Z-operations-clean_up_versions-staging-run-0001"
    sealed(tmp_path / "archive", name, "done")
    sealed(tmp_path / "archive", "run-0002", "failed")
    archive = ("--archive", str(tmp_path / "archive"))
    freeze = invoke(capsys, "freeze", "--reason", "a long reason " * 9, "--owner", "Ada", "--json").data["created"][
        "id"
    ]
    for words in (
        ("freeze",), ("runs", "list", *archive), ("runs", "show", "0001", *archive), ("runs", "verify", *archive),
        ("runs", "prune", "--keep", "1", "--dry-run", *archive), ("runbooks",), ("runbooks", "canary"), ("version",),
        ("rollback", "--to-version", "1", "--dry-run"), ("sandbox", "set"), ("sandbox", "scenario"),
        ("sandbox", "scenario", "good"),
    ):  # fmt: skip
        data = invoke(capsys, *words, "--json").data
        lines = re.sub(r"\x1b\[[0-9;]*m", "", invoke(capsys, *words).out).splitlines()
        shown = {"sha256", "run"} if words[:2] == ("runs", "list") else set()
        for text in copied({key: value for key, value in data.items() if key != "run" or words[0] == "runs"}):
            if not (shown and re.fullmatch(r"[0-9a-f]{64}|\w{4}", text)):
                assert any(text in line for line in lines) or text == name.rpartition("-")[2], (words, text, lines)
    assert freeze


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_cuts_no_option_and_no_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, command in generate.command_pairs():
        said = invoke(capsys, *words.split(), "--help").out
        lines = said.splitlines()
        for option in (name for parameter in command.params for name in parameter.opts if name.startswith("-")):
            assert any(option in line for line in lines), (words, option)
        assert not re.search(r"\w-$", said, re.MULTILINE), (words, said)
        whole = " ".join(said.split())
        for text in re.findall(r"`buddy-ops [^`]+`|s3://\S+|strategies/canary", whole):
            assert any(text in line for line in lines), (words, text, said)


# Colours


@pytest.mark.parametrize(
    ("variables", "tty", "coloured"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)
def test_colours_are_for_terminals(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    tty: bool,
    coloured: bool,
) -> None:
    """NO_COLOR, FORCE_COLOR and TERM say so; the words are the same."""
    for name in ("TERM", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: tty, raising=False)
    terminal.say("ROLLED BACK: v1\nsecond line", "ok")
    said = capsys.readouterr().out
    assert said == ("\x1b[32mROLLED BACK: v1\x1b[0m\nsecond line\n" if coloured else "ROLLED BACK: v1\nsecond line\n")


# The environment


def test_the_variable_names_the_environment(
    situation: Bring, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explicit -e comes first; an unknown name in the variable is an error that names it, before any call."""
    here = situation("good", environment="dev")
    monkeypatch.setenv("BUDDY_OPS_ENVIRONMENT", "dev")
    assert "No active freeze in dev." in invoke(capsys, "freeze").out
    assert invoke(capsys, "freeze", "-e", "staging", "--json").data["environment"] == "staging"
    monkeypatch.setenv("BUDDY_OPS_ENVIRONMENT", "prodd")
    for words in (("freeze",), ("rollback", "--dry-run"), ("doctor",), ("run", "start_here")):
        found = invoke(capsys, *words)
        assert found.code == 2 and "BUDDY_OPS_ENVIRONMENT is 'prodd'" in found.err and "Did you mean prod?" in found.err
    assert here.calls("GetParametersByPath")
