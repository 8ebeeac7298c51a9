"""What an operator is told: the parts of an error, their layout, the exit codes, and that the README explains each."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from buddy_ops.core import errors, outcome
from buddy_ops.core.errors import AwsFailed, BuddyError, Held, InvalidInput, Refused, RolledBack, exit_code_of

ROOT = Path(__file__).parents[2]
KINDS = {"BuddyError", "AwsFailed", "InvalidInput", "RolledBack", "Refused", "Held"}
KEBAB = re.compile(r"[a-z]+(-[a-z]+)*")


def test_an_error_reads_as_an_operator_expects() -> None:
    """Reference, what happened, the state of AWS and the next step, each on its own, in this order."""
    error = Refused("alias-moved", "The alias moved.", now="v41 serves 100 %.", next="Open start_here.")
    assert str(error) == "alias-moved\n\nThe alias moved.\n\nNow:  v41 serves 100 %.\nNext: Open start_here."


def test_a_notebook_shows_no_stack() -> None:
    """In a notebook the reader is an operator: the error's kind and its three parts, and no frames of ours."""
    error = Held("held", "What.", now="Now.", next="Next.")
    assert error._render_traceback_() == [f"Held: {error}"]


def test_an_aws_failure_keeps_awss_own_name_for_it() -> None:
    """``code`` is for programs, the text is for people."""
    error = AwsFailed("not-found", "What.", now="Now.", next="Next.", code="ResourceNotFoundException")
    assert error.code == "ResourceNotFoundException" and "not-found" in str(error)


CODES = {BuddyError: 1, AwsFailed: 1, InvalidInput: 2, RolledBack: 3, Refused: 4, Held: 5}


@pytest.mark.parametrize("kind", CODES)
def test_exit_codes_are_those_of_the_design(kind: type[BuddyError]) -> None:
    """1 failed, 2 wrong usage, 3 rolled back, 4 refused, 5 held: by class, and by name for an executed notebook."""
    assert kind.exit_code == exit_code_of(kind.__name__) == CODES[kind]
    assert issubclass(kind, BuddyError)


@pytest.mark.parametrize("name", ["ZeroDivisionError", "KeyboardInterrupt", "", "DeadKernelError"])
def test_an_error_that_is_not_ours_is_a_failure(name: str) -> None:
    """Whatever else ends a notebook, the exit code is 1."""
    assert exit_code_of(name) == 1


def test_every_error_keeps_its_exit_code_in_a_notebook() -> None:
    """An executed notebook has only an error's name: whoever runs notebooks maps each name of the library to its code."""
    wanted = {}
    for path in sorted((ROOT / "buddy_ops").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            bases = {ast.unparse(each) for each in node.bases} if isinstance(node, ast.ClassDef) else set()
            if path.name != "errors.py" and isinstance(node, ast.ClassDef) and (base := KINDS & bases):
                wanted[node.name] = exit_code_of(base.pop())
    assert wanted["AliasMoved"] == 4
    code = "import sys; import buddy_ops.aws.aliases; from buddy_ops.core import errors; print(*map(errors.exit_code_of, sys.argv[1:]))"
    run = subprocess.run([sys.executable, "-c", code, *wanted], cwd=ROOT, capture_output=True, text=True, check=True)
    assert dict(zip(wanted, map(int, run.stdout.split()), strict=True)) == wanted


def test_the_docstring_draws_the_whole_hierarchy() -> None:
    """The picture in the module's docstring has every kind with its exit code."""
    drawn = dict(re.findall(r"(\w+) +(\d)  \w", errors.__doc__ or ""))
    assert drawn == {kind.__name__: str(code) for kind, code in CODES.items()}


def constants(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression may be: a constant, or either side of an if."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def named(node: ast.AST) -> Iterator[str]:
    """The references that one piece of syntax names: an error's first argument, or a value for ``reference``."""
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        if called.rpartition(".")[2] in KINDS or called == "super().__init__":
            yield from constants(node.args[0] if node.args else None)
        yield from (text for each in node.keywords if each.arg == "reference" for text in constants(each.value))
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for name, value in zip(target.elts, node.value.elts, strict=True):
                    yield from constants(value) if ast.unparse(name) == "reference" else ()
            elif ast.unparse(target) == "reference":
                yield from constants(node.value)
    elif isinstance(node, ast.FunctionDef):
        after = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        for argument, default in zip(after, node.args.defaults, strict=True):
            yield from constants(default) if argument.arg == "reference" else ()


def references() -> set[str]:
    """Every reference that the library can raise."""
    found: set[str] = {ending for ending, code in outcome.EXIT_CODES.items() if code}
    for path in (ROOT / "buddy_ops").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found.update(named(node))
    return found


def headings() -> set[str]:
    """The references that the README explains: those in its headings ### `reference`, `another`."""
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    return {name for line in lines if line.startswith("### ") for name in re.findall(r"`([^`]+)`", line)}


def test_references_are_found_in_the_code() -> None:
    """The search for references sees each way in which the library names one."""
    found = references()
    direct, inherited, chosen, assigned, default, given, ending = (
        *("port-taken", "alias-moved", "version-missing", "access-denied"),
        *("invalid-settings", "invalid-parameters", "rolled-back"),
    )
    assert {direct, inherited, chosen, assigned, default, given, ending} <= found


def test_references_are_kebab_case() -> None:
    """A reference can be an anchor: lower-case words with hyphens."""
    assert sorted(each for each in references() if not KEBAB.fullmatch(each)) == []


def test_every_reference_is_explained_in_the_readme() -> None:
    """Whatever an operator is told can be looked up: the README has a heading with the reference's name."""
    assert sorted(references() - headings()) == []


def test_the_readme_explains_nothing_that_cannot_happen() -> None:
    """A heading whose reference is gone from the code goes too."""
    assert sorted(headings() - references()) == []
