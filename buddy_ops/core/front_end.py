"""Parameters and runbooks as the reader of a sentence gives them: in a notebook, as options, or with ``buddy-ops run``.

A process has one front end. Sentences for operators name a parameter with ``parameter`` and a runbook to run with
``invocation``, so that the same sentence is right in each of them.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

VARIABLE = "BUDDY_OPS_FRONT_END"
"""Set to 'run' for the kernel of ``buddy-ops run``: its parameters are given with -p."""

Value = str | int | float | bool | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class FrontEnd:
    """How parameters are given to what runs in this process.

    Attributes:
        command: the command that runs, for example 'buddy-ops rollback'; empty: a notebook.
        options: the command's options by the names of their parameters, for example '--to-version' for 'to_version'.
        runbook: the runbook that the command does the work of, for example 'rollback/immediate'.
        environment: the environment that was given; empty: none.
    """

    command: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    runbook: str = ""
    environment: str = ""

    def parameter(self, name: str, value: Value | None) -> str:
        """A parameter, with a value where one is given."""
        if not self.command:
            return name if value is None else f"{name}={_literal(value)}"
        if name in self.options:
            return _option(self.options[name], value)
        if value is None:
            return f"-p {name}=..."
        return f"-p {shlex.quote(f'{name}={_yaml(value)}')}"


NOTEBOOK = FrontEnd()
RUN = FrontEnd("buddy-ops run", {"environment": "-e"})
_used: list[FrontEnd] = []


def current() -> FrontEnd:
    """The front end of this process."""
    if _used:
        return _used[-1]
    if os.environ.get(VARIABLE) == "run":
        return RUN
    return NOTEBOOK


@contextmanager
def used(front_end: FrontEnd) -> Iterator[None]:
    """A command's front end while it runs."""
    _used.append(front_end)
    try:
        yield
    finally:
        _used.pop()


def parameter(name: str, value: Value | None = None) -> str:
    """A parameter as the reader gives it: 'to_version=3', '--to-version 3' or '-p to_version=3'.

    Args:
        value: the value to give; absent: the name alone. A placeholder is in capitals: 'NAME'.
    """
    return current().parameter(name, value)


def option(name: str) -> str:
    """An argument that only a command has, and no runbook: '--owner', or 'owner' elsewhere."""
    return current().options.get(name, name)


def again(what: str) -> str:
    """How to go on after a refusal, without a full stop.

    Args:
        what: what is run again in a notebook, for example 'the cells from the plan on'.
    """
    here = current()
    if not here.command:
        return f"Run {what} again"
    return f"Run `{here.command}` again with the same arguments"


def invocation(runbook: str, environment: str = "", **values: Value) -> str:
    """How to run a runbook with these parameters: in a notebook its name and the parameters, else a command.

    Args:
        environment: where; empty: the environment of the command that runs.
    """
    here = current()
    where = environment or here.environment
    if not here.command:
        given = ", ".join(NOTEBOOK.parameter(name, value) for name, value in values.items())
        return " with ".join(filter(None, (runbook, given)))
    # A command can do the work of one runbook by itself; all others are given to `buddy-ops run`.
    if here.runbook == runbook:
        front_end, words = here, [here.command]
    else:
        front_end, words = RUN, [RUN.command, runbook]
    if where:
        words.append(f"-e {where}")
    words += [front_end.parameter(name, value) for name, value in values.items()]
    return f"`{' '.join(words)}`"


def _option(option: str, value: Value | None) -> str:
    """An option of a command; repeated for each part of a list."""
    if value is None or value is True:
        return option
    if isinstance(value, str | int | float):
        value = [str(value)]
    return " ".join(f"{option} {shlex.quote(str(part))}" for part in value)


def _literal(value: Value) -> str:
    """A value in a parameters cell; a text without its quotes, as sentences name it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(list(value), ensure_ascii=False)


def _yaml(value: Value) -> str:
    """A value for -p."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {part}' for key, part in value.items())}}}"
    return f"[{', '.join(value)}]"
