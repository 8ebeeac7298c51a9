"""YAML and JSON from outside: nothing is read differently from what its author sees, and nothing takes long."""

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core import documents, project, settings
from buddy_ops.core.documents import DEPTH, parse_json, parse_yaml
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.project import project_root

ROOT = project_root()

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join(['*' + before] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
"""306 bytes that stand for 43 million values."""


@pytest.mark.parametrize(
    "text",
    ["010", "22:30", "0042", "yes", "No", "on", "2026-11-22", "2026-11-22T03:12:00Z", "0x1F", "0o17", "1_000", "1:2:3"],
)
def test_what_yaml_1_1_changes_stays_a_text(text: str) -> None:
    """A number, a boolean or a date is only what YAML 1.2 calls one."""
    assert parse_yaml(text) == text
    assert parse_yaml(f"{{a: [{text}]}}") == {"a": [text]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("-3", -3), ("1e3", 1000.0), ("2.50", 2.5), ("true", True), ("null", None), ("~", None), ("'5'", "5")],
)
def test_values_have_their_types(text: str, value: object) -> None:
    """Numbers, booleans and nulls as YAML 1.2 writes them."""
    assert parse_yaml(text) == value and type(parse_yaml(text)) is type(value)


def test_texts_are_taken_as_they_are_written() -> None:
    """Where texts are wanted, a plain scalar is one, whatever it looks like."""
    assert parse_yaml("[010, yes, null, 1e3, 'null', ~]", "text") == ["010", "yes", "null", "1e3", "null", "~"]
    assert parse_yaml("{a: null, b: 'null', c: 1.10}", "text or null") == {"a": None, "b": "null", "c": "1.10"}


def test_a_section_that_is_there_twice_is_refused_with_file_and_line() -> None:
    """The second policy: would silently replace the first: an environment without rules."""
    text = (ROOT / "parameters" / "prod.yaml").read_text("utf-8")
    first = next(number for number, line in enumerate(text.splitlines(), 1) if line == "  policy:")
    second = len(text.splitlines()) + 1
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        settings.parse_yaml_text("prod", f"{text}  policy: {{}}\n", "parameters/prod.yaml")
    assert "parameters/prod.yaml: 1 problem" in refused.value.what
    assert f"in line {second}: the key 'policy' is given twice, the first time in line {first}" in refused.value.what


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: {c: 1,\n  c: 2}", "in line 3: the key 'c' is given twice, the first time in line 2"),
        ("{1: a, true: b}", "the key True is given twice"),
        ("{<<: {a: 1}, <<: {b: 1}}", "the key '<<' is given twice"),
        ("a: .nan", "in line 1: a value that does not fit its tag, or a number that is not finite"),
        ("a: 1e999", "a number that is not finite"),
        ("a: &x [*x]", "an alias that contains itself"),
        ("[" * 100_000, f"more than {DEPTH} levels"),
        ("a: !!python/object/apply:os.system [ls]", "python/object/apply:os.system' is not allowed"),
        ("a: !!timestamp 2026-99-99", "timestamp' is not allowed"),
        ("a: !!set {b}", "set' is not allowed"),
        ("{[]: 1}", "a key must not be a list"),
        ("x" * 300_000, "the limit is 262,144"),
        ("a: \0", "characters that YAML does not have"),
        (BOMB, "more than 20,000 values, with each alias counted"),
        ("9" * 5000, "in line 1"),
    ],
)
def test_what_cannot_be_read_is_one_error_with_its_line(text: str, problem: str) -> None:
    """Never a hang, never another kind of exception."""
    with pytest.raises(ValueError, match=r".") as error:
        parse_yaml(text)
    assert problem in str(error.value)


def test_an_alias_and_a_merge_may_be_used() -> None:
    """Bounded is not forbidden; a key of its own replaces a merged one, which is no duplicate."""
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, x: 3}\ntwo: [*b, *b]\nthree: {<<: [{x: 8}, *b]}\n"
    found = parse_yaml(text)
    assert found["one"] == {"x": 3, "y": 2} and found["two"] == [{"x": 1, "y": 2}] * 2
    assert found["three"] == {"x": 8, "y": 2}


@pytest.mark.parametrize(
    ("content", "strict", "problem"),
    [
        ("[" * 100_000, False, "levels"),
        ("[" * 500 + "]" * 500, False, f"more than {DEPTH} levels"),
        ('{"a":1,"b":{"c":1,"c":2}}', True, "the key 'c' is given twice"),
        ("[NaN]", True, "NaN is not a number of JSON"),
        ("[1e999]", True, "a number is too large"),
        ("9" * 5000, False, "4300 digits"),
        (b"\xff", False, "utf-8"),
        ("[" + "[]," * 2_000_000 + "1]", False, "more than 2,000,000 values"),
    ],
)
def test_json_that_cannot_be_read_is_a_value_error(content: str | bytes, strict: bool, problem: str) -> None:
    """Not a RecursionError, not a MemoryError."""
    with pytest.raises(ValueError, match=problem):
        parse_json(content, unique=strict, finite=strict)


def test_json_has_a_limit_in_bytes() -> None:
    """The bytes are counted before they are parsed."""
    with pytest.raises(ValueError, match="has 11 bytes; the limit is 10"):
        parse_json(b'{"a": "bcd"', limit=10)


@pytest.mark.parametrize("content", ['["\\ud800"]', '["\\uD83D"]'])
def test_half_a_character_does_not_come_in(content: str) -> None:
    """It could be neither printed nor saved: everything that shows it would end in UnicodeEncodeError."""
    assert parse_json(content) == ["?"]
    assert parse_json('["\\ud83d\\ude00"]') == ["😀"]


def test_commas_in_texts_are_no_values() -> None:
    """A notebook may print a table of numbers."""
    assert parse_json(json.dumps(["1,2" * 1_500_000]))[0].startswith("1,2")


# One place


def calls(tree: ast.Module) -> list[str]:
    """The dotted names that a module calls."""
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


EXECUTING = {"eval", "exec", "compile", "__import__", "get_type_hints", "typing.get_type_hints"}
PARSING = {"json.load", "json.loads", "yaml.load", "yaml.safe_load", "zipfile.is_zipfile"}
PROGRAMS = ["buddy_ops", "sandbox/src", "docs", "notebooks"]


def modules(folder: str) -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8")))
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "_build" not in path.parts
    ]


@pytest.mark.parametrize("folder", PROGRAMS)
def test_nothing_from_outside_is_executed(folder: str) -> None:
    """No annotation, no default and no expression of a notebook or a file is evaluated."""
    found = {name for name, tree in modules(folder) if EXECUTING & set(calls(tree))}
    assert not found


def test_one_place_parses_what_comes_from_outside() -> None:
    """Every other module asks it: each limit holds everywhere. (import-linter keeps the same for yaml.)"""
    allowed = {"buddy_ops/core/documents.py", "buddy_ops/core/packages.py"}
    found = {name for name, tree in modules("buddy_ops") if PARSING & set(calls(tree))}
    assert found <= allowed


FILES = [*ROOT.glob("parameters/*.yaml"), *ROOT.glob("sandbox/src/buddy_sandbox/scenarios/*.yaml")]
FILES += [*ROOT.glob(".github/workflows/*.yml"), ROOT / "infrastructure.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_ours_is_read_by_it(path: Path) -> None:
    """The sandbox, GitHub and CloudFormation read theirs with parsers of their own: no key is in them twice."""
    found: dict[str, Any] = documents.parse_yaml(path.read_text("utf-8"), short_forms=True)
    assert found


@pytest.mark.parametrize("what", ["pipe", "folder", "link to nothing"])
def test_a_file_of_settings_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """One error that names it; the other environments can still be used."""
    for name in ("parameters", "notebooks"):
        (tmp_path / name).mkdir()
    good = (ROOT / "parameters" / "sandbox.yaml").read_text("utf-8")
    (tmp_path / "parameters" / "sandbox.yaml").write_text(good)
    path = tmp_path / "parameters" / "odd.yaml"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        project.read_settings("odd")
    assert "parameters/odd.yaml" in refused.value.what and "it is not a file" in refused.value.what
    assert list(project.named_aliases()) == ["sandbox"] and project.read_settings("sandbox")[0]
