"""Commands of the AWS CLI in our texts, checked with botocore's models: service, operation, options and their types.

The CLI is made from the same models. Customisations of its own (`aws s3 cp`, `aws cloudformation deploy`) have none.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import botocore.session
from botocore import xform_name
from botocore.exceptions import UnknownServiceError
from botocore.model import OperationModel

VALUE = "VALUE"
"""What takes the place of a value that only a run has."""

COMMAND = re.compile(
    r"(?<![\w.-])aws (?P<service>[a-z][a-z0-9-]+) (?P<operation>(?:wait )?[a-z][a-z0-9-]+)(?P<rest>[^`)\n|>,]*)"
)
OPTION = re.compile(r"--([a-z][a-z0-9-]*)")
GLOBAL = {"endpoint-url", "region", "query", "output", "profile"}
CUSTOM = {("cloudformation", "deploy"), ("s3", "cp"), ("sso", "login"), ("configure", "list-profiles")}
SESSION = botocore.session.get_session()


def texts(path: Path) -> Iterator[str]:
    """A file's texts: of a program its strings, with ``VALUE`` for what is put into them; else the whole."""
    whole = path.read_text("utf-8")
    if path.suffix != ".py":
        # Shell blocks continue a command on the next line.
        yield whole.replace("\\\n", " ")
        return
    for node in ast.walk(ast.parse(whole)):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def find_commands(text: str) -> list[str]:
    """The commands of the AWS CLI in a text, each as it is copied."""
    return [match[0].rstrip(" .,:;\"'") for match in COMMAND.finditer(text)]


def find_problems(command: str, whole: bool = True) -> list[str]:
    """What the CLI would refuse in this command.

    Args:
        whole: whether every required option must be there: a hint in a sentence names some of them only.
    """
    found = COMMAND.match(command)
    assert found is not None, command
    service, operation = found["service"], found["operation"]
    if (service, operation) in CUSTOM:
        return []
    try:
        model = SESSION.get_service_model(service)
    except UnknownServiceError:
        return [f"there is no service {service}"]
    names = {xform_name(name, "-"): name for name in model.operation_names}
    if operation.startswith("wait "):
        waiters = SESSION.get_waiter_model(service)
        known = {xform_name(name, "-"): waiters.get_waiter(name).operation for name in waiters.waiter_names}
        names = {f"wait {name}": operation for name, operation in known.items()}
    if operation not in names:
        return [f"{service} has no operation {operation}"]
    return _option_problems(model.operation_model(names[operation]), found["rest"], whole)


def _option_problems(operation: OperationModel, rest: str, whole: bool) -> list[str]:
    shape = operation.input_shape
    members = {xform_name(name, "-"): member for name, member in shape.members.items()} if shape else {}
    # A flag may be negated: --no-publish.
    given = [name for name in OPTION.findall(rest) if name not in GLOBAL]
    problems = [f"no option --{name}" for name in given if name.removeprefix("no-") not in members]
    if not whole or shape is None:
        return problems
    required = {xform_name(name, "-") for name in shape.required_members}
    problems += [f"--{name} is missing" for name in sorted(required - set(given))]
    words = shlex.split(rest)
    for option, value in pairwise(words):
        member = members.get(option.removeprefix("--")) if option.startswith("--") else None
        if member is not None and member.type_name in ("integer", "long", "double") and value != VALUE:
            problems += [] if re.fullmatch(r"\d+(\.\d+)?", value) else [f"{option} {value} is no number"]
    return problems
