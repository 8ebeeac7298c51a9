"""Parameters in the words of what the reader uses; and no sentence names them otherwise."""

import ast
import re
from pathlib import Path

import pytest

from buddy_ops.core import front_end, places, runbooks
from buddy_ops.core.front_end import FrontEnd, again, invocation, parameter

ROLLBACK = FrontEnd(
    "buddy-ops rollback", {"to_version": "--to-version", "approved_by": "--approved-by"}, "rollback/immediate", "prod"
)
LIBRARY = Path(front_end.__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "value", "notebook", "run", "command"),
    [
        ("to_version", None, "to_version", "-p to_version=...", "--to-version"),
        ("to_version", "3", "to_version=3", "-p to_version=3", "--to-version 3"),
        ("approved_by", ["Ada", "Grace H"], 'approved_by=["Ada", "Grace H"]', "-p 'approved_by=[Ada, Grace H]'", "--approved-by Ada --approved-by 'Grace H'"),
        ("minutes", 90, "minutes=90", "-p minutes=90", "-p minutes=90"),
        ("dry_run", True, "dry_run=True", "-p dry_run=true", "-p dry_run=true"),
        ("break_glass", {"who": "Ada"}, 'break_glass={"who": "Ada"}', "-p 'break_glass={who: Ada}'", "-p 'break_glass={who: Ada}'"),
    ],
)  # fmt: skip
def test_a_parameter_in_each_front_end(
    name: str, value: front_end.Value | None, notebook: str, run: str, command: str
) -> None:
    assert parameter(name, value) == notebook
    with front_end.used(front_end.RUN):
        assert parameter(name, value) == run
    with front_end.used(ROLLBACK):
        assert parameter(name, value) == command


def test_a_runbook_in_each_front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invocation("rollback/immediate", "prod", to_version="3") == "rollback/immediate with to_version=3"
    with front_end.used(ROLLBACK):
        assert invocation("rollback/immediate", to_version="3") == "`buddy-ops rollback -e prod --to-version 3`"
        assert invocation("strategies/canary", "dev") == "`buddy-ops run strategies/canary -e dev`"
        assert again("the cells") == "Run `buddy-ops rollback` again with the same arguments"
    monkeypatch.setenv(front_end.VARIABLE, "run")
    assert (
        invocation("rollback/immediate", "prod", to_version="3")
        == "`buddy-ops run rollback/immediate -e prod -p to_version=3`"
    )


def test_no_sentence_of_the_library_names_a_parameter_itself() -> None:
    """The names that cannot be other words: each is rendered by ``parameter``."""
    declared = {name for path in places.runbook_files().values() for name in runbooks.read_declarations(path)}
    names = "|".join(sorted(name for name in declared if "_" in name))
    every = "|".join(sorted(declared))
    bare = re.compile(
        rf"\b(?:{names})\b|\bparameter (?:{every})\b|\bSet (?:{every})\b(?!\.)|\b(?:{every})=(?![\"'])|\((?:{every})[):]"
    )
    found = []
    for path in sorted(LIBRARY.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in prose:
                continue
            if " " in node.value.strip() and bare.search(node.value) and not is_about_settings(path, node.value):
                found.append(f"{path.relative_to(LIBRARY)}:{node.lineno}: {node.value[:90]}")
    assert not found


def is_about_settings(path: Path, text: str) -> bool:
    """Meanings of settings, and examples of ``buddy-ops run`` itself."""
    return (
        path.name in ("settings.py", "run_parameters.py", "sandbox_commands.py")
        or "settings." in text
        or "papermill" in text
    )
