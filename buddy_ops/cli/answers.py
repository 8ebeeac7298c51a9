"""How every command answers: as text, or with ``--json`` as one JSON document on stdout and nothing else there.

A command returns an ``Answer``. An error is an answer too: with its exit code, its reference and the next step.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import wraps
from inspect import signature
from pathlib import PurePath
from typing import IO, Annotated, Any, ParamSpec

import typer
from typer.core import TyperGroup
from typer.models import OptionInfo

from buddy_ops.cli.terminal import err, out, say
from buddy_ops.core import front_end
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.extras import RUN_PACKAGES, run_extra_missing
from buddy_ops.core.front_end import FrontEnd

P = ParamSpec("P")
JSON_OPTION = "--json"
Json = Annotated[
    bool, typer.Option(JSON_OPTION, help="Print one JSON document on stdout; progress and messages go to stderr.")
]
Line = str | tuple[str, str]
"""A line of text, or one with a style of ``terminal.STYLES``."""

RUNBOOKS = {"rollback": "rollback/immediate"}
"""The runbooks whose work a command does."""


@dataclass(frozen=True)
class Answer:
    """What a command found or did.

    Attributes:
        data: the same for programs; times are ISO 8601 in UTC. ``exit_code`` is added.
        lines: for a person.
        exit_code: the command's exit code.
    """

    data: Mapping[str, object]
    lines: Sequence[Line] = ()
    exit_code: int = 0


def answers(command: Callable[P, Answer | None]) -> Callable[P, None]:
    """Let a command answer on stdout, and end with its exit code; an error too."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("as_json"))
        with _only_documents(as_json) as stdout, front_end.used(_front_end_of(command, kwargs)):
            try:
                with _extras_named():
                    answer = command(*args, **kwargs)
            except BuddyError as error:
                raise typer.Exit(answer_error(error, stdout if as_json else None)) from None
            except KeyboardInterrupt:
                err.print("Interrupted. Run the same command again: it reads the live state first.")
                raise typer.Exit(1) from None
            if answer is None:
                return
            if as_json:
                write_document({"exit_code": answer.exit_code, **answer.data}, stdout)
            else:
                for line in answer.lines:
                    text, style = line if isinstance(line, tuple) else (line, "")
                    say(text, style)
            raise typer.Exit(answer.exit_code)

    return wrapped


def _front_end_of(command: Callable[..., object], given: Mapping[str, object]) -> FrontEnd:
    """How the reader gives the parameters of this command."""
    name = command.__name__.replace("_", " ")
    environment = str(given.get("environment") or "")
    if name == "run":
        return dataclasses.replace(front_end.RUN, environment=environment)
    return FrontEnd(f"buddy-ops {name}", options_of(command), RUNBOOKS.get(name, ""), environment)


def answer_error(error: BuddyError, stdout: IO[str] | None) -> int:
    """Print an error on stderr, or as a document; its exit code."""
    if stdout is not None:
        write_document(error.data(), stdout)
    else:
        text = str(error)
        err.print(error.result, style="problem", end="")
        err.print(text.removeprefix(error.result))
    return error.exit_code


def write_document(data: Mapping[str, object], stdout: IO[str]) -> None:
    """Print a JSON document on a stream that is, or was, stdout."""
    out.print_json(data=as_json_value(data), stream=stdout)


def as_json_value(value: object) -> Any:
    """A value of the library as JSON has it: dataclasses are objects, times ISO 8601 in UTC, durations seconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]
        return {name: as_json_value(getattr(value, name)) for name in names}
    if isinstance(value, BuddyError):
        return as_json_value(value.data())
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return as_json_value(value.value)
    if isinstance(value, Mapping):
        return {str(key): as_json_value(part) for key, part in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(as_json_value, value))
    if isinstance(value, list | tuple):
        return [as_json_value(part) for part in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        # NaN and infinities are not JSON.
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, PurePath):
        return value.as_posix()
    return str(value)


def options_of(command: Callable[..., object]) -> dict[str, str]:
    """A command's options by the names of their parameters: '--to-version' for 'to_version'."""
    found = {}
    for name, parameter in signature(command).parameters.items():
        for about in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(about, OptionInfo):
                # In an annotation, typer takes the first name of an option for its default.
                declared = [about.default, *(about.param_decls or ())]
                long = [option for option in declared if isinstance(option, str) and option.startswith("--")]
                found[name] = long[0] if long else f"--{name.replace('_', '-')}"
    return found


@contextmanager
def _only_documents(as_json: bool) -> Iterator[IO[str]]:
    """The stream for a document. Whatever else is printed, by whatever part, goes to stderr meanwhile."""
    stdout = sys.stdout
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        yield stdout


@contextmanager
def _extras_named() -> Iterator[None]:
    """Say which extra to install where a package of it is missing; any other missing module is a defect."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in RUN_PACKAGES:
            raise run_extra_missing(package) from error
        raise


class Commands(TyperGroup):
    """The commands; what is wrong with a command line is an error like any other."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command of a command line."""
        words = sys.argv[1:] if args is None else args
        try:
            code = super().main(
                args,
                prog_name="buddy-ops",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except typer.Abort:
            err.print("Cancelled.")
            code = 1
        # What reads the command line has no public class for its errors.
        except Exception as error:
            found = error if isinstance(error, BuddyError) else usage_error(error)
            if found is None:
                raise
            code = answer_error(found, sys.stdout if JSON_OPTION in words else None)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def usage_error(error: Exception) -> InvalidInput | None:
    """The error about a command line that cannot be read; None for any other exception."""
    describe = getattr(error, "format_message", None)
    context = getattr(error, "ctx", None)
    if describe is None:
        return None
    command = context.command_path if context is not None else "buddy-ops"
    if type(error).__name__ == "NoArgsIsHelpError":
        return InvalidInput("invalid-usage", f"{command} needs a command.", next=f"`{command} --help` lists them.")
    return InvalidInput(
        "invalid-usage", describe(), next=f"`{command} --help` lists the arguments and options of this command."
    )
