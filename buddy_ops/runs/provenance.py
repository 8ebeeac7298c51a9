"""What was executed: the library's version and commit, and how the notebook differs from the committed runbook.

The committed runbook is the notebook in git's HEAD. Without a repository it is the notebook that the installed release
has (``buddy_ops/runbooks`` in the wheel). Nothing here writes, and nothing here raises: what is unknown is said.
"""

import ast
import base64
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from importlib import metadata
from pathlib import Path
from typing import Literal, TypedDict

import buddy_ops
from buddy_ops.core import project, settings
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.plan import differing_names
from buddy_ops.core.redaction import MARK
from buddy_ops.runs.cells import Cell, Notebook, source_of

LIBRARY = Path(buddy_ops.__file__).parent
RELEASED = LIBRARY / "runbooks"
"""The release's runbooks in an installed wheel; a checkout has no such folder."""

GIT_S = 10.0
"""Seconds that git may take."""

GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")
"""Variables that send git to another repository than the one of the folder that is asked about."""

MADE_ALONG = ("__pycache__", ".ipynb_checkpoints", ".DS_Store")
"""What Python, Jupyter and macOS leave beside files; git does not commit it."""

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python raises for a cell's source that is no Python, or is nested too deeply."""

MOST_CHANGED = 20
Change = Literal["changed", "added", "removed", "moved"]


@dataclass(frozen=True)
class CellDifference:
    """A code cell that is not as in the committed runbook.

    Attributes:
        executed: its number among all cells of the executed notebook, from 1; None where it was removed.
        committed: its number among all cells of the committed one; None where it was added.
        lines: a unified diff from the committed to the executed source, without heads.
    """

    change: Change
    executed: int | None
    committed: int | None
    lines: tuple[str, ...]

    def __str__(self) -> str:
        if self.executed is None:
            return f"cell {self.committed} of the committed runbook was removed"
        return f"cell {self.executed} was {self.change}"


class LibraryFacts(TypedDict):
    """What ``describe_library`` says, as a manifest has it."""

    version: str
    commit: str
    clean: bool | None
    changed: list[str]


@dataclass(frozen=True)
class CodeComparison:
    """An executed notebook beside the committed one.

    Attributes:
        reference: the committed one's name; empty where there is none to compare with.
        settings: the settings of the run that are not those of the environment's file, a phrase each.
    """

    reference: str
    differences: tuple[CellDifference, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether something is known to differ."""
        return bool(self.differences or self.settings)

    @property
    def list_differences(self) -> tuple[str, ...]:
        """Everything that differs, a phrase each."""
        return (*map(str, self.differences), *self.settings)

    @property
    def says(self) -> str:
        """The result, for operators."""
        unknown = "UNKNOWN: there is no committed runbook to compare the executed code with."
        if not self.reference and not self.settings:
            return unknown
        if not self.differs:
            return f"The executed code is as committed ({self.reference})."
        listed = "; ".join(self.list_differences)
        if not self.reference:
            return f"DIFFERS FROM THE COMMITTED SETTINGS: {listed}. {unknown}"
        return f"DIFFERS FROM THE COMMITTED RUNBOOK ({self.reference}): {listed}."


def describe_source(source: Path) -> dict[str, str]:
    """A notebook's path, SHA-256 and committed version, for its run's manifest."""
    root = project.project_root()
    path = source.resolve()
    shown = path
    # git has its paths from the project's root; a notebook elsewhere is in no commit.
    if path.is_relative_to(root.resolve()):
        shown = path.relative_to(root.resolve())
    with suppress(OSError):
        commit = _git(root, "rev-parse", "HEAD")
        return {"notebook": shown.as_posix(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "commit": commit}
    return {"notebook": shown.as_posix(), "sha256": "", "commit": ""}


def describe_library() -> LibraryFacts:
    """The library's version, commit, and whether all that decides a run was as committed.

    ``clean`` is None where that is unknown; ``changed`` names files that are not as committed, or as released.
    """
    commit = _git(LIBRARY, "rev-parse", "HEAD")
    facts: LibraryFacts = {"version": "", "commit": commit, "clean": None, "changed": []}
    with suppress(metadata.PackageNotFoundError):
        facts["version"] = metadata.version("buddy-ops")
    if commit:
        # Notebooks and rules decide a run as the library does.
        folders = (LIBRARY, *(project.project_root() / name for name in ("notebooks", "parameters")))
        changed: list[str] | None = list(dict.fromkeys(line for folder in folders for line in _uncommitted(folder)))
    else:
        # An installed wheel is in no repository.
        changed = _not_as_released()
    if changed is not None:
        facts["clean"] = not changed
        facts["changed"] = changed[:MOST_CHANGED]
    return facts


def describe_settings(environment: str, given: object) -> list[str]:
    """Which settings of a run are not those of its environment's file, a phrase each.

    Args:
        given: the parameter ``settings``; empty where the file was read.
    """
    if not isinstance(given, Mapping) or not given:
        return []
    try:
        resolved, source = project.resolve_settings(given, "settings")
        ours = settings.validate_settings(resolved, source).model_dump(mode="json")
        theirs = project.read_settings(environment)[0]
    except InvalidInput:
        return [f"the settings were given as a parameter, and parameters/{environment}.yaml cannot be read"]
    return [
        f"setting {name} was given as a parameter, and is not that of parameters/{environment}.yaml"
        for name in differing_names(ours, theirs)
    ]


def compare_with_committed(notebook: Notebook, source: Mapping[str, object]) -> CodeComparison:
    """An executed notebook beside the committed runbook.

    Args:
        notebook: its JSON, as it was executed.
        source: what ``describe_source`` said when the run began.
    """
    content, reference = _committed(str(source.get("notebook", "")), str(source.get("commit", "")))
    named = source.get("settings")
    given: tuple[str, ...] = ()
    if isinstance(named, list):
        given = tuple(map(str, named))
    if not reference:
        return CodeComparison("", settings=given)
    try:
        # Of a runbook that was never committed every cell was added.
        committed: Notebook = {"cells": [], "metadata": {}}
        if content:
            committed = parse_json(content)
        about = notebook["metadata"].get("buddy_ops", {})
        values = about.get("parameters", {})
        found = _differences(committed["cells"], notebook["cells"], values)
        if about.get("interactive"):
            # A person in Jupyter gives parameters by editing their cell; the manifest has the values.
            found = [difference for difference in found if not _changes_values_only(difference, committed, notebook)]
        return CodeComparison(reference, tuple(found), given)
    except (ValueError, KeyError, TypeError):
        return CodeComparison("", settings=given)


def _committed(path: str, commit: str) -> tuple[bytes, str]:
    """The committed notebook, and what it is called; no bytes where the commit has no such file."""
    root = project.project_root()
    # It is from the run's own files, which may have been edited.
    if re.fullmatch(r"[0-9a-f]{40,64}", commit) and path:
        # './': from the project's folder, which may be one of a larger repository (git-scm.com, gitrevisions).
        content = _git_bytes(root, "cat-file", "blob", f"{commit}:./{path}")
        if content is not None:
            return content, f"commit {commit[:12]}"
        return b"", f"commit {commit[:12]}, which has no {path}"
    # Without a commit the project has no repository: what is installed is then the only other copy.
    released = RELEASED / path.removeprefix("notebooks/")
    if path and released.is_file():
        with suppress(metadata.PackageNotFoundError):
            return released.read_bytes(), f"release {metadata.version('buddy-ops')}"
    return b"", ""


def _differences(
    committed: Sequence[Cell], executed: Sequence[Cell], values: Mapping[str, object]
) -> list[CellDifference]:
    """Every code cell that differs, in the executed notebook's order, then what was removed."""
    theirs = {number: cell for number, cell in enumerate(committed, 1) if cell["cell_type"] == "code"}
    ours = {number: cell for number, cell in enumerate(executed, 1) if cell["cell_type"] == "code"}
    # One cell only: papermill injects one, and a second could have another content.
    injected = next((number for number, cell in ours.items() if _is_injected(cell, values)), None)
    ours.pop(injected, None)  # type: ignore[arg-type]
    pairs = _pairs(theirs, ours)
    found: list[CellDifference] = []
    furthest = 0
    for number, cell in ours.items():
        partner = pairs.get(number)
        if partner is None:
            found.append(CellDifference("added", number, None, _diff("", source_of(cell))))
            continue
        lines = _diff(source_of(theirs[partner]), source_of(cell))
        if lines:
            found.append(CellDifference("changed", number, partner, lines))
        # The same text in another place may do something else, as an approval behind what it approves.
        elif partner < furthest:
            found.append(CellDifference("moved", number, partner, ()))
        furthest = max(furthest, partner)
    gone = [number for number in theirs if number not in pairs.values()]
    return found + [CellDifference("removed", None, number, _diff(source_of(theirs[number]), "")) for number in gone]


def _changes_values_only(difference: CellDifference, committed: Notebook, notebook: Notebook) -> bool:
    """Whether a parameters cell declares the same names and types as the committed one, with other plain values."""
    if difference.change != "changed" or difference.executed is None or difference.committed is None:
        return False
    ours = notebook["cells"][difference.executed - 1]
    theirs = committed["cells"][difference.committed - 1]
    declared = _declared(ours)
    return "parameters" in theirs["metadata"].get("tags", ()) and declared is not None and declared == _declared(theirs)


def _declared(cell: Cell) -> list[tuple[str, str]] | None:
    """The names and types that a parameters cell declares; None where it does anything else."""
    found: list[tuple[str, str]] = []
    try:
        for statement in ast.parse(source_of(cell)).body:
            if isinstance(statement, ast.Assign) and _assigns_again(statement, found):
                continue
            if not isinstance(statement, ast.AnnAssign) or statement.value is None:
                return None
            # Raises ValueError for what is no literal: a call in a default would be executed.
            ast.literal_eval(statement.value)
            found.append((ast.unparse(statement.target), ast.unparse(statement.annotation)))
    except UNREADABLE:
        return None
    return found


def _assigns_again(statement: ast.Assign, declared: Sequence[tuple[str, str]]) -> bool:
    """Whether a plain value is given to a declared parameter below its declaration, as one that was copied there."""
    ast.literal_eval(statement.value)
    names = [ast.unparse(target) for target in statement.targets]
    return len(names) == 1 and names[0] in [name for name, _ in declared]


def _pairs(theirs: Mapping[int, Cell], ours: Mapping[int, Cell]) -> dict[int, int]:
    """Which executed cell is which committed one: by its text, else by its id."""
    # Each committed cell is one executed cell at most: a copy of it was added.
    free = dict(theirs)
    pairs: dict[int, int] = {}
    for number, cell in ours.items():
        same = [there for there, other in free.items() if source_of(other) == source_of(cell)]
        # Where a text comes twice, the cell of the same id is meant.
        same.sort(key=lambda there: free[there].get("id") != cell.get("id"))
        if same:
            pairs[number] = same[0]
            del free[same[0]]
    # What has no partner of its text was changed, if its id is still there.
    for number, cell in ours.items():
        named = [there for there, other in free.items() if cell.get("id") and other.get("id") == cell.get("id")]
        if number not in pairs and named:
            pairs[number] = named[0]
            del free[named[0]]
    return pairs


def _is_injected(cell: Cell, values: Mapping[str, object]) -> bool:
    """Whether papermill wrote this cell: plain assignments of the values that the run was given, and nothing else."""
    # The tag alone proves nothing: a person who edits the notebook can write it.
    if "injected-parameters" not in cell["metadata"].get("tags", ()):
        return False
    try:
        for statement in ast.parse(source_of(cell)).body:
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                return False
            target = statement.targets[0]
            value = ast.literal_eval(statement.value)
            # Settings are not among the manifest's parameters: they are compared with the environment's file.
            if isinstance(target, ast.Name) and target.id == "settings":
                continue
            if not isinstance(target, ast.Name) or not _was_given(values, target.id, value):
                return False
    except UNREADABLE:
        return False
    return True


def _was_given(values: Mapping[str, object], name: str, value: object) -> bool:
    """Whether a run was given this value. A secret in it is redacted in the notebook and in the manifest."""
    if name not in values:
        return False
    known = values[name]
    if MARK in str(known):
        return MARK in str(value)
    # As texts, too: the manifest has a date or a tuple in JSON's types.
    return value == known or str(value) == str(known)


def _diff(before: str, after: str) -> tuple[str, ...]:
    lines = unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    return tuple(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; '' where there is no git, no repository, or no such thing in it."""
    return (_git_bytes(folder, *arguments) or b"").decode(errors="replace").strip()


def _git_bytes(folder: Path, *arguments: str) -> bytes | None:
    with suppress(OSError, subprocess.SubprocessError):
        # Without optional locks: another git command of a person must not fail because of us. Without replaced
        # objects: `git replace` would show another content under a commit's own hash.
        command = ["git", "--no-optional-locks", "--no-replace-objects", "-C", str(folder), *arguments]
        environment = {name: value for name, value in os.environ.items() if name not in GIT_PLACES}
        return subprocess.run(command, capture_output=True, check=True, timeout=GIT_S, env=environment).stdout
    return None


def _uncommitted(folder: Path) -> list[str]:
    """The files of a folder that are not as committed, new ones too, and those that git was told not to look at."""
    # Ignored files, too: a module that .gitignore names is imported like any other.
    said = _git(folder, *["status", "--porcelain", "--untracked-files=all", "--ignored=matching", "--", "."])
    changed = [line.strip() for line in said.splitlines()]
    seen = [line for line in changed if not set(line[2:].strip().split("/")) & set(MADE_ALONG)]
    return [*seen, *_hidden_changes(folder)]


def _hidden_changes(folder: Path) -> Iterator[str]:
    """Changed files that git was told to take for unchanged (assume-unchanged, skip-worktree)."""
    for line in _git(folder, *["ls-files", "-v", "-z", "--", "."]).split("\0"):
        mark, _, name = line.partition(" ")
        # `ls-files -v` marks assume-unchanged by a small letter, skip-worktree by S (git-scm.com, git-ls-files).
        if not mark.islower() and mark != "S":
            continue
        committed = _git_bytes(folder, "cat-file", "blob", f"HEAD:./{name}")
        with suppress(OSError):
            if committed != (folder / name).read_bytes():
                yield f"{name} (hidden from git status)"


def _not_as_released() -> list[str] | None:
    """The files of an installed wheel that are not as its list of hashes says; None without such a list."""
    try:
        # The list has the wheel's metadata and the installed commands, too, which say nothing of the code.
        listed = [file for file in metadata.files("buddy-ops") or () if file.hash and file.parts[0] == LIBRARY.name]
    except metadata.PackageNotFoundError:
        return None
    if not listed:
        return None
    changed = []
    for file in listed:
        path = Path(str(file.locate()))
        content = b""
        if path.is_file():
            content = path.read_bytes()
        # The list names the algorithm: 'sha256=...' today.
        if file.hash and _urlsafe(hashlib.new(file.hash.mode, content).digest()) != file.hash.value:
            changed.append(str(file))
    # A module that was added can take the place of another one when it is imported.
    known = {str(file) for file in listed}
    present = (path for path in sorted(LIBRARY.rglob("*")) if path.is_file() and not set(path.parts) & set(MADE_ALONG))
    added = (path.relative_to(LIBRARY.parent).as_posix() for path in present)
    return changed + [f"{name} (added)" for name in added if name not in known]


def _urlsafe(content: bytes) -> str:
    """As a wheel's RECORD has a hash: base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
