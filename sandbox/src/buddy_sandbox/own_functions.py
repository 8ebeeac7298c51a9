"""Functions of the user's own: deployed from a zip or a folder, with traffic that really invokes their handlers.

Knows how to find the handler, and what is in the account before a runbook comes. Never decides how a request ends.
"""

import ast
import io
import os
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from botocore.exceptions import ClientError
from pydantic import BaseModel, ConfigDict, Field

from buddy_sandbox import builds, log_lines
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.functions import runtime_problem
from buddy_sandbox.handlers import HandlerTraffic
from buddy_sandbox.region import HOME, AccountNumber, RegionName, salt
from buddy_sandbox.scenarios import ALIAS, Profile, create_roles
from buddy_sandbox.traffic import Traffic
from buddy_sandbox.wire import AwsError, Params
from buddy_sandbox.world import World

PYTHON = "python3.12"
NODEJS = "nodejs22.x"
SKILL = "lambda_function.handler"
"""The handler of a build with a fault profile."""

TIMEOUT_S = 10
LEFT_OUT = (".git", ".venv", "__pycache__", ".env")
"""Names in a folder that no package holds."""

MODULES = ("lambda_function", "app", "main", "handler", "index")
CALLED = ("lambda_handler", "handler", "main")
NODE_FILES = (".mjs", ".js", ".cjs")
_EXPORTED = re.compile(rb"exports\.(\w+)\s*=|export\s+(?:async\s+)?(?:function|const|let)\s+(\w+)")
IMAGE = "a container image cannot run in the sandbox: it starts no containers. Give a zip or a folder of the same code"


FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9-_]{1,64}$")]


class OwnFunction(BaseModel):
    """A function to deploy.

    Attributes:
        artifact: path of a zip or a folder: version 1, which serves.
        region: where it is; a function of the same name in another region is another function.
        account: whose it is. Callers of another account than the default one assume the role buddy-ops there.
        handler: as Lambda's Handler; empty: found in the artifact.
        runtime: as Lambda's Runtime; empty: found in the artifact.
        event: members that replace those of the kind's own event.
        history_minutes: for how long version 1 has served when the function is ready.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FunctionName
    artifact: str
    region: RegionName = HOME
    account: AccountNumber = ACCOUNT
    kind: Literal["alexa", "http", "sqs", "stream", "async", "custom"] = "custom"
    handler: str = ""
    runtime: str = ""
    requests_per_minute: Annotated[float, Field(ge=0, le=100_000)] = 600
    event: dict[str, Any] | None = None
    history_minutes: Annotated[int, Field(ge=0, le=24 * 60)] = 60


class Many(BaseModel):
    """Functions to make at once, of each name in each region of each account, with traffic that is quiet.

    Attributes:
        build: fault profile of version 1, which serves.
        requests_per_minute: of each function.
        history_minutes: for how long version 1 has served when the functions are ready.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: Annotated[list[FunctionName], Field(min_length=1, max_length=10_000)]
    regions: Annotated[list[RegionName], Field(min_length=1)] = [HOME]
    accounts: Annotated[list[AccountNumber], Field(min_length=1)] = [ACCOUNT]
    build: Profile = "good"
    requests_per_minute: Annotated[float, Field(ge=0, le=100_000)] = 60
    history_minutes: Annotated[int, Field(ge=0, le=24 * 60)] = 60


def make_many(world: World, wanted: Many) -> None:
    """Make the functions, and let time pass while they serve, once for all.

    Raises:
        ValueError: one of them exists already.
    """
    places = [world.region(region, account) for account in wanted.accounts for region in wanted.regions]
    every = [(place, name) for place in places for name in wanted.names]
    for account in wanted.accounts:
        create_roles(world, account)
    package = builds.build(PROFILES[wanted.build], version_label="1.0.0")
    try:
        for place, name in every:
            place.functions.create_function(_configuration(name, place.account, PYTHON, SKILL, package))
            place.log_store.group(log_lines.default_group(name))
    except AwsError as refused:
        raise ValueError(refused.message) from None
    world.clock.advance_to(world.clock.now() + 60)
    for place, name in every:
        place.functions.publish_version({"FunctionName": name})
    world.clock.advance_to(world.clock.now() + 60)
    since = world.clock.now()
    for place, name in every:
        place.functions.create_alias({"FunctionName": name, "Name": ALIAS, "FunctionVersion": "1"})
        own = salt(place.account, place.name, f"{name}:{ALIAS}")
        place.people.use_quietly(Traffic(name, ALIAS, wanted.requests_per_minute, salt=own), since)
    world.clock.advance_to(since + 60 * wanted.history_minutes)


def deploy(world: World, wanted: OwnFunction) -> None:
    """Create a function with version 1 behind the alias, and let time pass while it serves.

    Raises:
        ValueError: the artifact cannot run here, or the function cannot be created.
    """
    package = read_package(wanted.artifact)
    handler, runtime = wanted.handler, wanted.runtime
    if not handler or not runtime:
        found = find_handler(package, handler)
        handler, runtime = found[0], runtime or found[1]
    if problem := runtime_problem(runtime):
        raise ValueError(f"runtime {runtime}: {problem}")
    configuration = _configuration(wanted.name, wanted.account, runtime, handler, package)
    region = world.region(wanted.region, wanted.account)
    invoke = partial(world.invoke, region=wanted.region, account=wanted.account)
    try:
        invoke("lambda", "create_function", configuration)
    except ClientError as refused:
        raise ValueError(refused.response["Error"]["Message"]) from None
    create_roles(world, wanted.account)
    region.log_store.group(log_lines.default_group(wanted.name))
    world.clock.advance_to(world.clock.now() + 60)
    version = invoke("lambda", "publish_version", {"FunctionName": wanted.name})["Version"]
    alias = {"FunctionName": wanted.name, "Name": ALIAS, "FunctionVersion": version}
    world.clock.advance_to(world.clock.now() + 60)
    invoke("lambda", "create_alias", alias)
    what = HandlerTraffic(wanted.kind, wanted.event)
    own = salt(wanted.account, wanted.region, f"{wanted.name}:{ALIAS}")
    region.people.use(Traffic(wanted.name, ALIAS, wanted.requests_per_minute, handler=what, salt=own))
    world.clock.advance_to(world.clock.now() + 60 * wanted.history_minutes)


def _configuration(name: str, account: str, runtime: str, handler: str, package: bytes) -> Params:
    """The members of CreateFunction."""
    return {
        "FunctionName": name,
        "Role": f"arn:aws:iam::{account}:role/{name}",
        "Runtime": runtime,
        "Handler": handler,
        "Timeout": TIMEOUT_S,
        "MemorySize": 256,
        "Code": {"ZipFile": package},
    }


def describe(world: World) -> list[dict[str, object]]:
    """The user's own functions, and how many of their requests were real, for ``buddy-ops sandbox status``."""
    return [
        {
            "account": region.account,
            "region": region.name,
            "function": traffic.function,
            "alias": traffic.alias,
            "kind": traffic.handler.kind,
            "requests_per_minute": traffic.requests_per_minute,
            "requests": region.people.invoked(traffic),
        }
        for region in world.regions
        for traffic in region.people.traffic
        if traffic.handler is not None
    ]


def read_package(artifact: str) -> bytes:
    """A zip's bytes, or a folder as a zip: the same bytes for the same files.

    Raises:
        ValueError: there is no such file or folder, or it is a container image.
    """
    path = Path(artifact)
    if ".dkr.ecr." in artifact or "@sha256:" in artifact:
        raise ValueError(IMAGE)
    if path.is_dir():
        return _pack(path)
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(f"{artifact} is no zip and no folder")
    return path.read_bytes()


def find_handler(package: bytes, named: str = "") -> tuple[str, str]:
    """The Handler of a package (MODULE.FUNCTION, by the usual names, unless it is named), and its runtime.

    Raises:
        ValueError: there is none, or more than one.
    """
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        names = set(archive.namelist())
        if named:
            module = named.rpartition(".")[0]
            in_node = any(module + suffix in names for suffix in NODE_FILES)
            return named, NODEJS if in_node and f"{module}.py" not in names else PYTHON
        found = [
            (f"{module}.{function}", PYTHON if suffix == ".py" else NODEJS)
            for module in MODULES
            for suffix in (".py", *NODE_FILES)
            if module + suffix in names
            for function in _functions(archive.read(module + suffix), suffix)
            if function in CALLED
        ]
    if len(found) != 1:
        several = ", ".join(handler for handler, _ in found)
        seen = f"several could be it: {several}" if found else "the artifact has none of a usual name"
        raise ValueError(f"which handler is it? {seen}. Name it, as in Lambda's configuration: --handler app.handler")
    return found[0]


def _functions(source: bytes, suffix: str) -> list[str]:
    """The names of the functions that a module defines or exports."""
    if suffix != ".py":
        return sorted({(found[1] or found[2]).decode() for found in _EXPORTED.finditer(source)})
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [each.name for each in module.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]


def _pack(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(_files(folder)):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (0o100755 if os.access(path, os.X_OK) else 0o100644) << 16
            archive.writestr(entry, path.read_bytes())
    return packed.getvalue()


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder; no links, which could lead out of it."""
    for path in folder.iterdir():
        if path.is_symlink() or path.name in LEFT_OUT:
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
