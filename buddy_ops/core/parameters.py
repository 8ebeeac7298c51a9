"""A runbook's parameters: what its notebook declares, and the values that a run was given.

Nothing that a notebook contains is evaluated: annotations are looked up, and defaults are literals.
"""

import ast
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import GenericAlias
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.settings import OVERRIDES, SECRETIVE, from_yaml, invalid

_PLAIN: dict[str, Any] = {"str": str, "int": int, "float": float, "bool": bool}
_VALUES = {**_PLAIN, **{f"{name} | None": kind | None for name, kind in _PLAIN.items()}}
ANNOTATIONS: dict[str, Any] = {
    **_VALUES,
    "list": list,
    "dict": dict,
    **{f"list[{name}]": GenericAlias(list, (kind,)) for name, kind in _VALUES.items()},
    **{f"dict[str, {name}]": GenericAlias(dict, (str, kind)) for name, kind in _VALUES.items()},
}
"""The types that a parameters cell may declare, by their annotation. Nothing that a notebook contains is evaluated."""


@dataclass(frozen=True)
class DeclaredParameter:
    """One line of a notebook's parameters cell: ``name: annotation = default  # meaning``."""

    name: str
    annotation: str
    default: Any
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
        for line in ast.parse(cell).body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                default = ast.literal_eval(line.value)
                meaning = lines[(line.end_lineno or 1) - 1].partition("  # ")[2]
                found[line.target.id] = DeclaredParameter(
                    line.target.id, ast.unparse(line.annotation), default, meaning
                )
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise invalid("The parameters cell", [f"cannot be read: {error}"], reference="invalid-parameters") from None
    return found


def parse_pair(text: str) -> tuple[str, Any]:
    """A name and its value from NAME=VALUE as typed, the value in YAML. Raises ValueError for anything else."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("no '='")
    return name, from_yaml(value)


def check_parameters(
    parameters: Mapping[str, DeclaredParameter], given: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Every parameter's value: what was given where it fits its annotation, its default where nothing was given.

    Raises:
        InvalidInput: ``invalid-parameters``, with every unknown name and wrong type at once.
    """
    problems = [f"{name}: no such parameter; {_nearest(name, parameters)}" for name in given if name not in parameters]
    values = {name: parameter.default for name, parameter in parameters.items()}
    for name in given.keys() & parameters.keys():
        try:
            kind = TypeAdapter(ANNOTATIONS[parameters[name].annotation], config=ConfigDict(coerce_numbers_to_str=True))
            values[name] = kind.validate_python(given[name])
        except ValidationError as error:
            shown = name if name in SECRETIVE else f"{name}: {given[name]!r}"
            problems += [f"{shown}: {each['msg']}" for each in error.errors()]
        except KeyError:
            problems.append(f"{name}: type {parameters[name].annotation} is not one of {', '.join(ANNOTATIONS)}")
    if problems:
        raise invalid(source, sorted(problems), reference="invalid-parameters")
    return values


def _nearest(name: str, parameters: Mapping[str, DeclaredParameter]) -> str:
    import difflib

    close = difflib.get_close_matches(name, parameters, n=1)
    return f"did you mean {close[0]}?" if close else f"it takes {', '.join(parameters)}"


def rollout_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``rollout`` that a runbook's parameters replace; an empty value replaces nothing."""
    return {setting: values[name] for name, setting in OVERRIDES.items() if values.get(name) not in (None, [], "")}


def parameter_cells(executed: list[str]) -> tuple[dict[str, DeclaredParameter], list[str]]:
    """What the latest parameters cell declares, and the names that papermill's cell after it assigns."""
    declared: dict[str, DeclaredParameter] = {}
    injected: list[str] = []
    for source in executed:
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError, InvalidInput):
            if source.startswith("# Parameters\n"):
                targets = [line.targets[0] for line in ast.parse(source).body if isinstance(line, ast.Assign)]
                injected = [name.id for name in targets if isinstance(name, ast.Name)]
            elif "environment: str" in source:
                declared, injected = parse_declarations(source), []
    return declared, injected
