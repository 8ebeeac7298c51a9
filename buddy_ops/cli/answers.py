"""How every command answers: as text, or with ``--json`` as one JSON document on stdout and nothing else there.

A command returns an ``Answer``. An error is an answer too: with its exit code, its reference and the next step.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import wraps
from pathlib import PurePath
from typing import IO, Any, ParamSpec

import click

from buddy_ops.cli.terminal import err, out, say
from buddy_ops.core import front_end
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.extras import RUN_PACKAGES, run_extra_missing
from buddy_ops.core.front_end import FrontEnd

P = ParamSpec("P")
JSON_OPTION = "--json"
Line = str | tuple[str, str]
"""A line of text, or one with a style of ``terminal.STYLES``."""

RUNBOOKS = {"buddy-ops rollback": "rollback/immediate"}
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
        with _only_documents(as_json) as stdout, front_end.used(_front_end(kwargs)):
            try:
                with _extras_named():
                    answer = command(*args, **kwargs)
            except BuddyError as error:
                raise click.exceptions.Exit(answer_error(error, stdout if as_json else None)) from None
            except KeyboardInterrupt:
                err.print("Interrupted. Run the same command again: it reads the live state first.")
                raise click.exceptions.Exit(1) from None
            if answer is None:
                return
            if as_json:
                write_document({"exit_code": answer.exit_code, **answer.data}, stdout)
            else:
                for line in answer.lines:
                    text, style = line if isinstance(line, tuple) else (line, "")
                    say(text, style)
            # Outside of its standalone mode click returns this code from ``main``.
            raise click.exceptions.Exit(answer.exit_code)

    return wrapped


def _front_end(given: Mapping[str, object]) -> FrontEnd:
    """How the reader gives the parameters of the command that runs."""
    context = click.get_current_context()
    words = context.command_path
    environment = given.get("environment")
    if not isinstance(environment, str):
        environment = ""
    # Its parameters are given with -p, whatever options the command has for itself.
    if words == front_end.RUN.command:
        return dataclasses.replace(front_end.RUN, environment=environment)
    return FrontEnd(words, options_of(context.command), RUNBOOKS.get(words, ""), environment)


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
    # A set has no order, and the same state is to give the same document.
    if isinstance(value, set | frozenset):
        return sorted(map(as_json_value, value))
    if isinstance(value, list | tuple):
        return [as_json_value(part) for part in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        # NaN and infinities are not JSON.
        if not math.isfinite(value):
            return None
        return value
    if isinstance(value, PurePath):
        return value.as_posix()
    return str(value)


def options_of(command: click.Command) -> dict[str, str]:
    """A command's options by the names of their parameters: '--to-version' for 'to_version'."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {option.name: option.opts[0] for option in options if option.name}


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


class Commands(click.Group):
    """The commands; what is wrong with a command line is an error like any other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names as the help shows them: in the order in which a reader needs them."""
        return list(self.commands)

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
        words = args
        if words is None:
            words = sys.argv[1:]
        # Not click's own standalone mode, which prints errors in another form and ends with codes of its own.
        try:
            code = super().main(
                args,
                prog_name="buddy-ops",
                complete_var=complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except click.Abort:
            err.print("Cancelled.")
            code = 1
        except (BuddyError, click.ClickException) as error:
            if isinstance(error, click.ClickException):
                error = usage_error(error)
            # What is wrong with the line was found before its options were read.
            code = answer_error(error, sys.stdout if JSON_OPTION in words else None)
        if not standalone_mode:
            return code
        # A command without an answer returns no code.
        if not isinstance(code, int):
            code = 0
        sys.exit(code)


def usage_error(error: click.ClickException) -> InvalidInput:
    """The error about a command line that cannot be read."""
    command = "buddy-ops"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        command = error.ctx.command_path
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return InvalidInput("invalid-usage", f"{command} needs a command.", next=f"`{command} --help` lists them.")
    return InvalidInput(
        "invalid-usage",
        error.format_message(),
        next=f"`{command} --help` lists the arguments and options of this command.",
    )
