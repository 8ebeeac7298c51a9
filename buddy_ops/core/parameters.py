"""A runbook's parameters: what its notebook declares, and the values that a run was given.

Nothing that a notebook contains is evaluated: annotations are looked up, and defaults are literals.
"""

import ast
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from types import GenericAlias
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from buddy_ops.core.documents import Scalars, is_finite, parse_yaml, parse_yaml_mapping
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.settings import OVERRIDES, SECRETIVE, invalid
from buddy_ops.core.text import shorten

_PLAIN: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_VALUES: dict[str, object] = {**_PLAIN, **{f"{name} | None": kind | None for name, kind in _PLAIN.items()}}
ANNOTATIONS: dict[str, Any] = {
    **_VALUES,
    "list": list,
    "dict": dict,
    **{f"list[{name}]": GenericAlias(list, (kind,)) for name, kind in _VALUES.items()},
    **{f"dict[str, {name}]": GenericAlias(dict, (str, kind)) for name, kind in _VALUES.items()},
}
"""The types that a parameters cell may declare, by their annotation. Nothing that a notebook contains is evaluated."""

TEXT = ("str", "str | None")
"""Annotations whose values are taken as they are typed: no part of them is YAML."""

TEXTS: dict[str, Scalars] = {
    **dict.fromkeys((*TEXT, "list[str]", "dict[str, str]"), "text"),
    **dict.fromkeys(("list[str | None]", "dict[str, str | None]"), "text or null"),
}
"""Annotations whose plain YAML scalars are texts as they are written, and not numbers, booleans or dates."""

CELL_CHARACTERS = 64 * 1024
SHOWN = 120
"""Characters of a value in an error."""


@dataclass(frozen=True)
class DeclaredParameter:
    """One line of a notebook's parameters cell: ``name: annotation = default  # meaning``."""

    name: str
    annotation: str
    default: object
    meaning: str = ""


def tagged_source(notebook: Mapping[str, Any]) -> str:
    """The source of a notebook's cell with the tag 'parameters', from the notebook's JSON; '' where it has none."""
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            return "".join(cell["source"])
    return ""


def parse_declarations(cell: str) -> dict[str, DeclaredParameter]:
    """The parameters that a cell's source declares.

    Raises:
        InvalidInput: ``invalid-parameters``: it is not Python, or a default is not a plain value.
    """
    found, lines = {}, cell.splitlines()
    try:
        if len(cell) > CELL_CHARACTERS:
            raise ValueError(f"it has {len(cell):,} characters, and the limit is {CELL_CHARACTERS:,}")
        for line in ast.parse(cell).body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                default = ast.literal_eval(line.value)
                # stages: list[float] = []  # Traffic weights of the stages, in percent
                meaning = lines[(line.end_lineno or 1) - 1].partition("  # ")[2]
                found[line.target.id] = DeclaredParameter(
                    line.target.id, ast.unparse(line.annotation), default, meaning
                )
    # Python's parser answers deep nesting by a RecursionError or a MemoryError.
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise invalid("The parameters cell", [f"cannot be read: {error}"], reference="invalid-parameters") from None
    return found


def parse_pair(text: str, declared: Mapping[str, DeclaredParameter] | None = None) -> tuple[str, object]:
    """A name and its value from NAME=VALUE as typed: a text as it is, any other value in YAML.

    Args:
        declared: the parameters that the runbook declares; what is not among them is YAML.

    Raises:
        ValueError: no pair, no YAML, or no UTF-8.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("it has no '='")
    if not _is_utf8(text):
        raise ValueError("it is not UTF-8")
    if declared and name in declared:
        return name, parse_value(value, declared[name].annotation)
    return name, parse_value(value, "")


def parse_value(text: str, annotation: str) -> object:
    """The value of a parameter as it is typed. Raises ValueError."""
    if annotation in TEXT:
        return text
    return parse_yaml(text, TEXTS.get(annotation, "typed"))


def parse_values(text: str, declared: Mapping[str, DeclaredParameter]) -> dict[str, Any]:
    """The values in a YAML mapping of parameters: texts as they are written. Raises ValueError."""
    kinds = {name: TEXTS[parameter.annotation] for name, parameter in declared.items() if parameter.annotation in TEXTS}
    return parse_yaml_mapping(text, kinds)


def describe_numbers(declared: Mapping[str, DeclaredParameter], given: Mapping[str, object]) -> list[str]:
    """Sentences on text parameters that arrived as whole numbers: what was typed may have been another text."""
    return [
        f"Warning: {name} arrived as the number {given[name]}. papermill makes numbers of texts such as 010 (-p) and "
        f"22:30 (-y). If another text was meant, give it with papermill -r {name} TEXT, or with buddy-ops run."
        for name in given
        if name in declared and declared[name].annotation in TEXT and type(given[name]) is int
    ]


def _is_utf8(text: str) -> bool:
    """Whether a text can be written: bytes of the command line that are not UTF-8 come as halves of characters."""
    with suppress(UnicodeEncodeError):
        text.encode()
        return True
    return False


def check_parameters(
    parameters: Mapping[str, DeclaredParameter], given: Mapping[str, object], source: str
) -> dict[str, Any]:
    """Every parameter's value: what was given where it fits its annotation, its default where nothing was given.

    Raises:
        InvalidInput: ``invalid-parameters``, with every unknown name and wrong type at once.
    """
    problems = [
        f"{shorten(str(name), SHOWN)}: no such parameter; {_nearest(str(name), parameters)}"
        for name in given
        if name not in parameters
    ]
    values = {name: parameter.default for name, parameter in parameters.items()}
    for name in given.keys() & parameters.keys():
        value = given[name]
        shown = name
        if name not in SECRETIVE:
            shown = f"{name}: {shorten(repr(value), SHOWN)}"
        annotation = parameters[name].annotation
        try:
            kind: TypeAdapter[object] = TypeAdapter(ANNOTATIONS[annotation], config=ConfigDict(allow_inf_nan=False))
            if annotation in TEXTS:
                value = _as_texts(value)
            # Also in a plain list or dict, whose values pydantic does not look at.
            if not is_finite(value):
                raise ValueError("NaN and infinities are not allowed")
            values[name] = kind.validate_python(value)
        except ValidationError as error:
            problems += [f"{shown}: {problem['msg']}{_cure(name, problem['type'])}" for problem in error.errors()]
        except ValueError as error:
            problems.append(f"{shown}: {error}")
        except KeyError:
            problems.append(f"{name}: type {annotation} is not one of {', '.join(ANNOTATIONS)}")
    if problems:
        # The names were gone through as a set: sorted, the same mistakes give the same text.
        raise invalid(source, sorted(problems), reference="invalid-parameters")
    return values


def _as_texts(value: object) -> object:
    """A value, or the values of a list or mapping: whole numbers and times as the text that they are written in.

    Other numbers and booleans stay what they are, and are refused: whether 1000.0 was 1e3 cannot be told any more.
    """
    if isinstance(value, list | tuple):
        return [_as_text(part) for part in value]
    if isinstance(value, dict):
        return {key: _as_text(part) for key, part in value.items()}
    return _as_text(value)


def _as_text(value: object) -> object:
    # A reader of YAML 1.1 makes a time of 2026-11-22T03:12:00Z.
    if isinstance(value, datetime | date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, str) and not _is_utf8(value):
        raise ValueError("it is not UTF-8")
    # Not of its subclass bool: True was never the text of a number.
    if type(value) is int:
        return str(value)
    return value


def _cure(name: str, problem: str) -> str:
    """What to do about a text that arrived as something else."""
    if problem != "string_type":
        return ""
    return f". papermill -p changes texts such as 1e3 or None; -r does not: papermill -r {name} TEXT"


def _nearest(name: str, parameters: Mapping[str, DeclaredParameter]) -> str:
    # Imported where a name is wrong only.
    import difflib

    close = difflib.get_close_matches(name, parameters, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"it takes {', '.join(parameters)}"


def rollout_overrides(values: Mapping[str, object]) -> dict[str, object]:
    """The settings of ``rollout`` that a runbook's parameters replace; an empty value replaces nothing."""
    return {setting: values[name] for name, setting in OVERRIDES.items() if values.get(name) not in (None, [], "")}


def write_values(source: str, values: Mapping[str, object]) -> str:
    """The source of a parameters cell with other values in its declarations; names that it lacks are left out.

    Raises:
        ValueError: it is no Python.
    """
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    # The parser counts bytes.
    lines = source.encode().splitlines(keepends=True)
    for statement in statements:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        value = statement.value
        if statement.target.id not in values or value is None or value.lineno != value.end_lineno:
            continue
        line = lines[value.lineno - 1]
        written = repr(values[statement.target.id]).encode()
        lines[value.lineno - 1] = line[: value.col_offset] + written + line[value.end_col_offset :]
    return b"".join(lines).decode()


def parameter_cells(executed: list[str]) -> tuple[dict[str, DeclaredParameter], list[str]]:
    """What the latest parameters cell declares, and the names that papermill's cell after it assigns."""
    declared: dict[str, DeclaredParameter] = {}
    injected: list[str] = []
    for source in executed:
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError, InvalidInput):
            # papermill begins its own cell so, behind the one with the tag.
            if source.startswith("# Parameters\n"):
                targets = [line.targets[0] for line in ast.parse(source).body if isinstance(line, ast.Assign)]
                injected = [name.id for name in targets if isinstance(name, ast.Name)]
            elif "environment: str" in source:
                declared, injected = parse_declarations(source), []
    return declared, injected
