"""Where parameters come from: the files in parameters/ and a notebook's parameters cell.

It finds the project's folder, and injects parameters as papermill does. What a setting means is in ``settings``.
"""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from buddy_ops.core import artifacts, documents, fleet_file, packages, parameters, places, runbooks, settings, text
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.front_end import parameter

project_root = places.project_root

ENVIRONMENT_VARIABLE = "BUDDY_OPS_ENVIRONMENT"
"""The environment that commands and notebooks use where none is given."""

EVENT_BYTES = 6 * 2**20
"""The largest event of a synchronous invocation. Source: Lambda quotas, 'Invocation payload'."""

SANDBOX = "sandbox"
"""The environment where none is named: nothing real is there."""


def default_environment() -> str:
    """The environment that BUDDY_OPS_ENVIRONMENT names; '' where the variable is not set, or is empty.

    Raises:
        InvalidInput: ``unknown-environment``.
    """
    name = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
    if not name:
        return ""
    known = known_environments()
    if name not in known:
        raise InvalidInput(
            "unknown-environment",
            f"{ENVIRONMENT_VARIABLE} is {name[:100]!r}, and there is no such environment."
            + text.did_you_mean(name, known),
            next=f"Set {ENVIRONMENT_VARIABLE} to one of {', '.join(known) or 'the files in parameters/'}, or unset it.",
        )
    return name


def choose_environment(given: str) -> str:
    """The environment of a runbook: the one that is given, else that of BUDDY_OPS_ENVIRONMENT, else the sandbox.

    Raises:
        InvalidInput: ``unknown-environment``.
    """
    return given or default_environment() or SANDBOX


def read_settings(environment: str) -> tuple[dict[str, Any], str]:
    """The settings of an environment, or of a target of the fleet, as plain values, and where they are, for messages.

    Raises:
        InvalidInput: ``no-project``, ``unknown-environment`` or ``invalid-settings``.
    """
    folder = places.require_project() / "parameters"
    path = folder / f"{environment}.yaml"
    # A name with a path in it would read a file outside the folder.
    if environment not in environments():
        named = fleet_target(environment)
        if named is not None:
            return named.replace_in(read_settings(named.environment)[0]), f"{fleet_file.SOURCE}, {environment}"
        known = known_environments()
        raise InvalidInput(
            "unknown-environment",
            f"There is no environment {environment!r}: {folder.name}/ has {', '.join(known[:20]) or 'no files'}."
            + text.did_you_mean(environment, known),
            next=f"Choose one of those, or write parameters/{environment}.yaml.",
        )
    source = f"parameters/{path.name}"
    written = settings.parse_document(_read_text(path), source, environment)
    values, sources = resolve_settings(written, source)
    return settings.validate_settings(values, sources).model_dump(mode="json"), source


def resolve_settings(written: Mapping[str, object], source: str) -> tuple[dict[str, Any], str]:
    """Settings as a file, or papermill -f, gives them, with the content of the files that they name.

    ``extends`` names a base: its settings hold where these write none. ``smoke_tests`` name events.

    Returns:
        The settings, which name no file any more, and the names of their files for messages.

    Raises:
        InvalidInput: ``invalid-settings``.
    """
    values, sources = dict(written), source
    if "extends" in values:
        name = values.pop("extends")
        values = settings.merge_values(_read_base(name, source), values)
        sources = f"{source}, which extends parameters/{name}"
    tests = values.get("smoke_tests")
    if isinstance(tests, list):
        values["smoke_tests"] = [_with_event(test, source) for test in tests]
    return values, sources


def _read_base(name: object, source: str) -> dict[str, Any]:
    """The settings of the file that an environment's file extends.

    Raises:
        InvalidInput: ``invalid-settings``.
    """
    if not isinstance(name, str) or not places.BASE_FILE.fullmatch(name):
        shown = text.shorten(repr(name), parameters.SHOWN)
        form = "defaults.yaml or NAME.defaults.yaml, in the same folder"
        raise settings.invalid(source, [f"settings.extends: {shown} is no name of a base: {form}"])
    folder = places.require_project() / "parameters"
    path = folder / name
    if not os.path.lexists(path):
        raise settings.invalid(source, [f"settings.extends: there is no parameters/{name}"])
    # A link that leads out of the folder would read another project's rules.
    if path.resolve().parent != folder.resolve():
        raise settings.invalid(source, [f"settings.extends: parameters/{name} is a link out of the folder"])
    values = settings.parse_document(_read_text(path), f"parameters/{name}")
    # One level: which file a value is from is seen in two files, and there are no circles.
    if "extends" in values:
        raise settings.invalid(f"parameters/{name}", ["settings.extends: a base extends no other file"])
    return values


def read_fleet() -> fleet_file.Fleet:
    """The targets of parameters/fleet.yaml.

    Raises:
        InvalidInput: ``no-project``, ``no-fleet`` or ``invalid-settings``.
    """
    path = places.require_project() / fleet_file.SOURCE
    if not path.exists():
        raise InvalidInput(
            "no-fleet",
            f"There is no {fleet_file.SOURCE}: it names the targets of a fleet.",
            next=f"Write {fleet_file.SOURCE} (docs/fleet.md has an example), or use `buddy-ops status -e ENVIRONMENT`.",
        )
    fleet = fleet_file.parse_fleet(_read_text(path))
    known = set(environments())
    problems = [
        f"{target.name}: this is the name of an environment, too" for target in fleet.expanded if target.name in known
    ]
    problems += [
        f"{target.name}: there is no parameters/{target.environment}.yaml"
        for target in fleet.targets
        if target.environment not in known
    ]
    if problems:
        raise settings.invalid(fleet_file.SOURCE, problems)
    return fleet


def _read_text(path: Path) -> str:
    """The text of a file in parameters/. What is not UTF-8 becomes marks that no key and no value passes with.

    Raises:
        InvalidInput: ``invalid-settings``.
    """
    try:
        if not path.is_file():
            raise OSError(errno.EINVAL, "it is not a file")
        with path.open("rb") as file:
            content = file.read(documents.YAML_CHARACTERS * 4 + 4)  # more than that is too large, however much it is
    except OSError as error:
        raise settings.invalid(f"parameters/{path.name}", [f"cannot be read: {error.strerror}"]) from None
    return content.decode(errors="replace")


def _with_event(test: object, source: str) -> object:
    """A smoke test with the event itself in place of its file's name."""
    if isinstance(test, dict) and isinstance(test.get("event"), str):
        return {**test, "event": _read_event(test["event"], source)}
    return test


def _read_event(name: str, source: str) -> dict[str, object]:
    """The event in a JSON file of the project: from here on it is part of the settings, which a plan's ID covers.

    Raises:
        InvalidInput: ``invalid-settings``.
    """
    root = project_root().resolve()
    where = f"settings.smoke_tests: the event {name!r}"
    try:
        path = (root / name).resolve()
        # A path that leads out of the project would read another person's file.
        if not path.is_relative_to(root) or not path.is_file():
            raise settings.invalid(source, [f"{where} is no file of the project"])
        with path.open("rb") as file:
            event = documents.parse_json(file.read(EVENT_BYTES + 1), limit=EVENT_BYTES, unique=True, finite=True)
    except OSError as error:
        raise settings.invalid(source, [f"{where} cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise settings.invalid(source, [f"{where}: {error}"]) from None
    if not isinstance(event, dict):
        raise settings.invalid(source, [f"{where} must be a JSON object"])
    return event


def environments() -> list[str]:
    """The environments that have a file in parameters/."""
    return [path.stem for path in places.environment_files()]


def known_environments() -> list[str]:
    """The environments, and the targets of the fleet: each can be named wherever an environment can."""
    # A fleet's file that is wrong keeps no environment from being named.
    with suppress(InvalidInput):
        return [*environments(), *(target.name for target in read_fleet().expanded)]
    return environments()


def fleet_target(name: str) -> fleet_file.FleetTarget | None:
    """The target of the fleet of this name; None where there is none, or no fleet.

    Raises:
        InvalidInput: ``invalid-settings``: the fleet's file is wrong.
    """
    if not (project_root() / fleet_file.SOURCE).exists():
        return None
    return next((target for target in read_fleet().expanded if target.name == name), None)


def base_environment(name: str) -> str:
    """The environment whose file has the rules: of a target of the fleet its environment, else the name itself."""
    with suppress(InvalidInput):
        if name not in environments() and (target := fleet_target(name)) is not None:
            return target.environment
    return name


class NamedAlias(NamedTuple):
    """An alias as settings name it. Where region, profile and role are None, this machine's configuration decides."""

    function: str
    alias: str
    region: str | None
    profile: str | None
    assume_role: str | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "NamedAlias":
        """The alias of some settings, which need not be valid."""
        reached = values.get("aws")
        aws = reached if isinstance(reached, Mapping) else {}
        where = (aws.get("region"), aws.get("profile"), aws.get("assume_role"))
        return cls(values.get("function", ""), values.get("alias", settings.DEFAULT_ALIAS), *where)


def named_aliases() -> dict[str, NamedAlias]:
    """The alias of each environment that has a valid file in parameters/."""
    found = {}
    for name in environments():
        with suppress(InvalidInput):
            # A file that is wrong names no alias. What is wrong with it is said where that environment is used.
            found[name] = NamedAlias.of(read_settings(name)[0])
    return found


def declared_parameters(runbook: str) -> dict[str, parameters.DeclaredParameter]:
    """What the parameters cell of a runbook's file declares, by its short name; nothing where there is no such file."""
    name = places.find_runbook(runbook)
    if not name:
        return {}
    return runbooks.read_declarations(places.runbook_files()[name])


def runbook_name(name: str) -> str:
    """A notebook's name in full, for example 'strategies/canary' for 'canary'; any other name as it is."""
    return places.find_runbook(name) or name


def check_files(values: Mapping[str, Any]) -> None:
    """Read the files that a runbook's parameters name, the environment's and the build, for what is wrong with them.

    Raises:
        InvalidInput: as ``read_settings`` and ``read_artifact``.
    """
    check_settings(values)
    if values.get("artifact"):
        check_artifact(str(values["artifact"]))


def check_settings(values: Mapping[str, Any]) -> None:
    """Check the settings of a runbook's parameters: those that were given, or else its environment's.

    Raises:
        InvalidInput: as ``read_settings``.
    """
    if values.get("settings"):
        given, source = resolve_settings(values["settings"], "settings")
    else:
        given, source = read_settings(str(values["environment"]))
    settings.validate_settings(given, source, parameters.rollout_overrides(values))


def check_artifact(text: str) -> None:
    """Check what a parameter ``artifact`` names, as far as that is known without AWS: a local build is read.

    Raises:
        InvalidInput: as ``artifacts.parse_artifact`` and ``read_artifact``.
    """
    named = artifacts.parse_artifact(text)
    if isinstance(named, artifacts.LocalFile):
        read_artifact(named.path)


def read_artifact(path: str) -> packages.Packed:
    """A build's zip, from a path relative to the project's root: a zip, or a folder to pack.

    Raises:
        InvalidInput: ``artifact-missing``, and what ``packages.check_zip`` and ``packages.pack_folder`` raise.
    """
    root = project_root()
    file = root / path
    problem = "No build is given."
    if path:
        problem = f"There is no build at {path!r} (relative to the project)."
    try:
        # The project itself, or what is around it, is no build.
        if path and file.is_dir() and file.resolve() not in (root, *root.parents):
            return packages.pack_folder(file, path)
        content = None
        # Its size first: a file of gigabytes is not read to be refused.
        if path and file.is_file():
            packages.require_size(file.stat().st_size, path)
            content = file.read_bytes()
    except ValueError:  # no system has such a path
        content = None
    except OSError as error:
        problem = f"The build at {path!r} cannot be read: {error.strerror}."
        content = None
    if content is None:
        raise InvalidInput(
            "artifact-missing",
            problem,
            next=f"{artifacts.FORMS} The parameter is {parameter('artifact')}.",
        )
    packages.check_zip(content, path)
    return packages.Packed(content)
