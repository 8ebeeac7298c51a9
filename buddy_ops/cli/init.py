"""``buddy-ops init``: what the project is for, from flags, questions and the function itself; then its files."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from buddy_ops.checks.function_facts import FunctionFacts, read_function
from buddy_ops.cli import new_project
from buddy_ops.cli.answers import Answer, Line
from buddy_ops.cli.new_project import MANIFEST, Project
from buddy_ops.cli.terminal import confirm, err, is_terminal, say
from buddy_ops.core import places, settings
from buddy_ops.core import project as project_
from buddy_ops.core.errors import AwsFailed, InvalidInput
from buddy_ops.core.kinds import KINDS, Kind
from buddy_ops.core.text import count

EACH = "{environment}"
"""In a function's name: the environment's name."""

ENVIRONMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
"""Source: the parameter Environment of infrastructure.yaml, whose roles are named after it."""

# eu-west-1, us-gov-west-1
REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d{1,2}")


@dataclass(frozen=True)
class Given:
    """What the command line says; '' and () where it says nothing."""

    function: str = ""
    alias: str = ""
    region: str = ""
    kind: str = ""
    environments: tuple[str, ...] = ()
    failure_metric: str = ""


def init(given: Given, *, ask: bool, dry_run: bool) -> Answer:
    """Write a new project into this folder; files that exist are left as they are.

    Args:
        ask: whether a person may be asked for what is missing.

    Raises:
        InvalidInput: ``init-incomplete``, ``invalid-settings``.
        BuddyError: ``init-failed``.
    """
    folder = Path.cwd()
    project, facts = _describe(given, ask)
    release_files = new_project.release_files(project.environments)
    files = {**release_files, **new_project.team_files(project)}
    left = new_project.existing(folder, files)
    new = {name: content for name, content in files.items() if name not in left}
    lines: list[Line] = [*facts.lines(project.function_in(project.environments[0]), project.alias)]
    data = {"folder": folder, "project": project, "function": facts, "dry_run": dry_run, "left": left}
    if dry_run:
        lines += [f"would write: {name}" for name in new] + [f"exists, would be left: {name}" for name in left]
        return Answer({**data, "written": [], "would_write": list(new)}, [*lines, "Dry run: nothing was written."])
    if not os.path.lexists(folder / MANIFEST):
        # A file of the release that was there already, and differs, is the team's: no upgrade may replace it.
        changed = {change.path for change in new_project.changes(folder, release_files)} - set(new)
        # Last: where it is missing, init was interrupted.
        new[MANIFEST] = new_project.manifest(
            {name: text for name, text in release_files.items() if name not in changed}
        )
    new_project.write_new(folder, new)
    lines += [f"wrote: {name}" for name in new]
    lines += [(f"exists, left: {name}", "warning") for name in left]
    first = project.environments[0]
    if new:
        what = f"{project.function} ({project.kind}): {', '.join(project.environments)}"
        lines.append((f"Project written for {what}.", "ok"))
    else:
        lines.append("Nothing to write: every file exists.")
    lines.append(f"Next: check parameters/{first}.yaml, then `buddy-ops doctor -e {first}`.")
    lines.append("To practise: `buddy-ops sandbox start`.")
    return Answer({**data, "written": list(new)}, lines)


def upgrade(*, write: bool, ask: bool) -> Answer:
    """Show what this release changes in the project's runbooks and workflows, and take what the team did not change.

    Args:
        write: take it without a question.
        ask: whether a person may be asked.

    Raises:
        InvalidInput: ``no-project``.
        BuddyError: ``init-failed``.
    """
    folder = places.require_project()
    if not (folder / MANIFEST).is_file():
        raise InvalidInput(
            "no-project",
            f"{folder} has no {MANIFEST}: `buddy-ops init` did not write this project.",
            next="Go to a project that it wrote. Run `buddy-ops init` where only this file is missing.",
        )
    names = [path.stem for path in places.environment_files() if path.stem != new_project.PRACTICE]
    files = new_project.release_files([name for name in names if ENVIRONMENT_NAME.fullmatch(name)] or ["prod"])
    found = new_project.changes(folder, files)
    taken = [change for change in found if not change.edited]
    # What the team has changed is shown, and left.
    edited = [change.path for change in found if change.edited]
    if found:
        say("".join(change.diff for change in found).removesuffix("\n"))
    lines: list[Line] = [(f"changed in the project, left: {name}", "warning") for name in edited]
    diffs = {change.path: change.diff for change in found}
    data = {"folder": folder, "release": new_project.release(), "left": edited, "diff": diffs}
    if not taken:
        if write:
            # Files that the team has made equal to the release's are noted as the release's.
            new_project.take(folder, [], files)
        return Answer({**data, "written": []}, [*lines, "Nothing to take from this release."])
    wanted = write or (ask and confirm(f"Take {count(len(taken), 'file')} of this release?", option="--write"))
    if not wanted:
        lines.append(f"{count(len(taken), 'file')} to take: `buddy-ops init --upgrade --write`.")
        return Answer({**data, "written": [], "would_write": [change.path for change in taken]}, lines)
    new_project.take(folder, taken, files)
    lines += [f"wrote: {change.path}" for change in taken]
    return Answer({**data, "written": [change.path for change in taken]}, lines)


def may_ask(*, yes: bool, as_json: bool) -> bool:
    """Whether a person at a terminal may be asked."""
    return not yes and not as_json and is_terminal(sys.stdin)


def _describe(given: Given, ask: bool) -> tuple[Project, FunctionFacts]:
    """What the project is for, and the function as it is."""
    function = given.function
    if not function and ask:
        function = _ask(
            "Function (its name, not its ARN; the environment replaces {environment} in it)", "", _is_function
        )
    if not function:
        raise InvalidInput(
            "init-incomplete",
            "Missing: --function. No person can be asked for it.",
            next="Give for example `buddy-ops init --function orders-api --kind http --environment prod`.",
        )
    environments = given.environments
    if not environments:
        usual = "prod"
        # The name has a place for the environment's: there is a function for each.
        if EACH in function:
            usual = "dev staging prod"
        if ask:
            usual = _ask("Environments", usual, _are_environments)
        environments = tuple(usual.split())
    if problem := _are_environments(" ".join(environments)):
        raise settings.invalid("--environment", [problem])
    alias = given.alias or settings.DEFAULT_ALIAS
    if not given.alias and ask:
        alias = _ask("Alias", alias, _is_alias)
    region = given.region or _configured_region()
    if not given.region and ask:
        region = _ask("Region", region, _is_region)
    if problem := region and _is_region(region):
        raise settings.invalid("--region", [problem])
    if given.failure_metric and not all(given.failure_metric.rpartition("/")):
        raise settings.invalid("--failure-metric", [f"{given.failure_metric!r} is not NAMESPACE/NAME"])
    project = Project(
        function=function,
        alias=alias,
        region=region,
        kind="custom",
        environments=environments,
        failure_metric=given.failure_metric,
    )
    # Read before the kind is asked for: what calls the function suggests one.
    facts = _read(project)
    kind = given.kind or facts.kind or "custom"
    if not given.kind and ask:
        kind = _ask(f"Kind ({', '.join(KINDS)})", kind, _is_kind)
    elif not given.kind:
        err.print(f"Kind: {kind}. --kind chooses another one ({', '.join(KINDS)}).")
    if problem := _is_kind(kind):
        raise settings.invalid("--kind", [problem])
    return replace(project, kind=cast(Kind, kind), log_group=facts.log_group), facts


def _read(project: Project) -> FunctionFacts:
    """The function as it is, where it can be read."""
    from buddy_ops.aws import session

    values: dict[str, object] = {"function": project.function_in(project.environments[0]), "alias": project.alias}
    if project.region:
        values["aws"] = {"region": project.region}
    settings.validate_settings(values, "buddy-ops init")
    # Where the project has this function already, only its own environment may reach it.
    owners = [name for name, owned in project_.named_aliases().items() if owned.function == values["function"]]
    environment = next(iter(owners), project.environments[0])
    try:
        with err.progress("reading the function"):
            target = session.connect(environment, "init", values=values, quiet=True)
            try:
                return read_function(target)
            finally:
                target.close()
    except (AwsFailed, InvalidInput) as failure:
        return FunctionFacts(unread=(f"The function could not be read: {failure.what}",))


def _configured_region() -> str:
    """The region of this machine's AWS configuration; '' where there is none."""
    # Imported where a region is looked for: an upgrade needs none.
    from botocore.session import Session

    return os.environ.get("AWS_REGION") or Session().get_config_variable("region") or ""


def _ask(question: str, default: str, problem_of: Callable[[str], str]) -> str:
    """A person's answer, asked until it is valid; Enter takes the default."""
    prompt = f"{question}: "
    if default:
        prompt = f"{question} [{default}]: "
    while True:
        try:
            answer = input(prompt).strip() or default
        except EOFError:
            raise InvalidInput(
                "init-incomplete",
                f"No answer to: {question}.",
                next="Run it in a terminal, or give all values as options: `buddy-ops init --help`.",
            ) from None
        problem = problem_of(answer)
        if not problem:
            return answer
        say(problem, "warning")


def _problem_of_setting(values: dict[str, object]) -> str:
    try:
        settings.validate_settings(values, "answer")
    except InvalidInput as error:
        return error.what
    return ""


def _is_function(text: str) -> str:
    return _problem_of_setting({"function": text.replace(EACH, "x")})


def _is_alias(text: str) -> str:
    return _problem_of_setting({"function": "x", "alias": text})


def _is_region(text: str) -> str:
    if REGION.fullmatch(text):
        return ""
    return f"{text!r} is no region, for example eu-west-1"


def _is_kind(text: str) -> str:
    if text in KINDS:
        return ""
    return f"kind: {text!r} is none of {', '.join(KINDS)}"


def _are_environments(text: str) -> str:
    names: Sequence[str] = text.split()
    for name in names:
        if not ENVIRONMENT_NAME.fullmatch(name) or name == new_project.PRACTICE:
            return f"{name!r} is no name of an environment: a-z, 0-9 and -, at most 20 characters, and not sandbox"
    if len(set(names)) != len(names) or not names:
        return "name each environment once, and at least one"
    return ""
