"""What an operator is told: the parts of an error, their layout, the exit codes, and that the docs explain each."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buddy_ops.core import errors
from buddy_ops.core.errors import AwsFailed, BuddyError, Held, InvalidInput, Refused, RolledBack
from docs import generate

ROOT = Path(__file__).parents[2]
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, BuddyError)}
KEBAB = re.compile(r"[a-z]+(-[a-z]+)*")


def test_an_error_reads_as_an_operator_expects() -> None:
    """Reference, what happened, the state of AWS and the next step, each on its own, in this order."""
    error = Refused("alias-moved", "The alias moved.", now="v41 serves 100 %.", next="Open start_here.")
    assert str(error) == (
        "REFUSED (alias-moved)\n\nThe alias moved.\n\nState: v41 serves 100 %.\nNext:  Open start_here."
    )


def test_nothing_was_changed_unless_an_error_says_otherwise() -> None:
    """Most errors end a command before its first write, so that is what an error says where it is given nothing."""
    assert InvalidInput("unknown-flag", "What.", next="Next.").now == "Nothing was changed."


def test_a_notebook_shows_no_stack() -> None:
    """In a notebook the reader is an operator: the result and the three parts, no class and no frames of ours."""
    error = Held("held", "What.", now="Now.", next="Next.")
    assert error._render_traceback_() == [str(error)] and str(error).startswith("INCONCLUSIVE (held)\n")


def test_a_notebook_keeps_an_errors_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads an executed notebook finds reference, exit code and facts as data."""
    published: list[dict[str, Any]] = []
    shell = SimpleNamespace(display_pub=SimpleNamespace(publish=published.append))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    error = Refused("frozen", "What.", next="Next.", facts={"owner": "Ada"})
    error._render_traceback_()
    assert published == [{errors.MIME_TYPE: error.data()}]
    assert (error.data()["reference"], error.data()["exit_code"], error.data()["facts"]) == (
        "frozen",
        4,
        {"owner": "Ada"},
    )


def test_an_aws_failure_keeps_awss_own_name_for_it() -> None:
    """``code`` is for programs, the text is for people."""
    error = AwsFailed("not-found", "What.", now="Now.", next="Next.", code="ResourceNotFoundException")
    assert error.code == "ResourceNotFoundException" and "not-found" in str(error)


CODES = {BuddyError: 1, AwsFailed: 1, InvalidInput: 2, RolledBack: 3, Refused: 4, Held: 5}


@pytest.mark.parametrize("kind", CODES)
def test_exit_codes_are_those_of_the_design(kind: type[BuddyError]) -> None:
    """1 failed, 2 wrong usage, 3 rolled back, 4 refused, 5 inconclusive."""
    assert kind.exit_code == CODES[kind] and issubclass(kind, BuddyError)


def test_the_docstring_draws_the_whole_hierarchy() -> None:
    """The picture in the module's docstring has every kind with its exit code."""
    drawn = dict(re.findall(r"(\w+) +(\d)  \w", errors.__doc__ or ""))
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BuddyError)]
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in kinds}


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
