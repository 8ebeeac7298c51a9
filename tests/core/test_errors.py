"""What an operator is told: the parts of an error, their layout, the exit codes, and that the docs explain each."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from buddy_ops.core import errors
from buddy_ops.core.errors import AwsFailed, BuddyError, Held, InvalidInput, Refused, RolledBack, exit_code_of
from docs import generate

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


PROSE = (ROOT / "docs" / "reference" / "errors.md").read_text("utf-8")


def references() -> set[str]:
    """Every reference that the library can raise."""
    return {place.reference for place in generate.raised()}


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


def test_every_reference_is_explained_in_the_docs() -> None:
    """Whatever an operator reads can be looked up: docs/reference/errors.md has its heading and a text."""
    texts = generate.explained(PROSE)
    assert sorted(each for each in references() if not texts.get(each)) == []


def test_the_docs_explain_nothing_that_cannot_happen() -> None:
    """A heading whose reference is gone from the code goes too."""
    assert sorted(set(generate.explained(PROSE)) - references()) == []


def test_the_docs_fail_on_a_reference_without_prose() -> None:
    """The build of the documentation stops where a reference has no text, or a heading has no reference."""
    with pytest.raises(ValueError, match=r"without prose: \['port-taken'\]"):
        generate.errors_page(PROSE.replace("## `port-taken`\n", ""))
    with pytest.raises(ValueError, match=r"not in the code: \['no-such-thing'\]"):
        generate.errors_page(PROSE + "\n## `no-such-thing`\nText.\n")
    assert "exit code 4" in generate.errors_page(PROSE)
