"""The files of a project: what ``buddy-ops init`` writes into an empty folder, and what a later release changes.

Environments' files belong to the team from the start. Runbooks, workflows, schema, template and lock belong to the
release: a list of their hashes, ``MANIFEST``, says which of them the team has changed.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from importlib import metadata
from pathlib import Path
from string import Template

from buddy_ops.core import places, settings
from buddy_ops.core.documents import parse_json, parse_yaml
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.files import write_atomically
from buddy_ops.core.kinds import KINDS, Kind
from buddy_ops.core.runbooks import is_notebook

MANIFEST = ".buddy-ops.json"
"""The release that wrote a project's files, and their hashes as it wrote them."""

TEMPLATES = Path(__file__).parent / "project"
SCHEMAS = ("settings.schema.json", "fleet.schema.json")
PRACTICE = "sandbox"
PRESETS = ("dev", "staging", "prod")
"""Environments that have a template of their own. Any other name has that of staging, or of prod if it begins so."""

# A checkout installs itself, and a project the release that wrote it.
INSTALL = "      - run: make install-runner\n"
INSTALL_RELEASE = """\
      - run: |
          python -m venv .venv
          .venv/bin/pip install --quiet --require-hashes -r requirements/buddy-ops.txt
          .venv/bin/pip install --quiet --no-deps buddy-ops=={version}
"""
OFFERED = "options: [dev, staging, prod]"
AUDITED = "environment: [staging, prod]"
"""What the workflows of a checkout have, and those of a project have in another form."""


@dataclass(frozen=True)
class Project:
    """What a project is for.

    Attributes:
        function: its name; the environment's name replaces '{environment}' in it.
        environments: beside the sandbox.
        region: '' where the profile or AWS_REGION decides.
        log_group: '' where it is Lambda's default.
        failure_metric: NAMESPACE/NAME of a metric that counts failures by version; '' for none.
    """

    function: str
    alias: str
    region: str
    kind: Kind
    environments: tuple[str, ...]
    log_group: str = ""
    failure_metric: str = ""

    def function_in(self, environment: str) -> str:
        """The function of an environment."""
        return self.function.replace("{environment}", environment)


@dataclass(frozen=True)
class Change:
    """A file of the release that is not as in the project.

    Attributes:
        diff: from the project's to the release's, unified; of a notebook its cells, as text.
        edited: whether the project's was changed since it was written: it is left as it is.
    """

    path: str
    content: str
    diff: str
    edited: bool


def team_files(project: Project) -> dict[str, str]:
    """The files that belong to the team, by their path.

    Raises:
        InvalidInput: ``invalid-settings``.
    """
    found = {}
    for environment in (*project.environments, PRACTICE):
        path = f"parameters/{environment}.yaml"
        found[path] = _environment_file(project, environment)
        settings.parse_yaml_text(environment, found[path], path)
    for environment in project.environments:
        found[f"infrastructure/{environment}.json"] = _template_parameters(project, environment)
    found[".gitignore"] = (TEMPLATES / "gitignore").read_text("utf-8")
    return found


def release_files(environments: Sequence[str]) -> dict[str, str]:
    """The files that belong to this release, by their path.

    Args:
        environments: those that the workflows offer.
    """
    notebooks = places.shipped_file("notebooks")
    found = {
        f"notebooks/{path.relative_to(notebooks).as_posix()}": path.read_text("utf-8")
        for path in sorted(notebooks.rglob("*.ipynb"))
        if ".ipynb_checkpoints" not in path.parts
    }
    audited = [name for name in environments if name != "dev"] or environments
    for name in ("runbook", "audit", "fleet-audit"):
        path = f".github/workflows/{name}.yml"
        text = places.shipped_file(path).read_text("utf-8")
        text = text.replace(INSTALL, INSTALL_RELEASE.format(version=release()))
        text = text.replace(OFFERED, f"options: [{', '.join(environments)}]")
        found[path] = text.replace(AUDITED, f"environment: [{', '.join(audited)}]")
    metrics = places.shipped_file("buddy_ops_metrics/buddy_ops_metrics.py")
    found["buddy_ops_metrics.py"] = metrics.read_text("utf-8")
    found["infrastructure.yaml"] = places.shipped_file("infrastructure.yaml").read_text("utf-8")
    for name in SCHEMAS:
        found[f"parameters/{name}"] = Path(settings.__file__).with_name(name).read_text("utf-8")
    found["requirements/buddy-ops.txt"] = places.shipped_file("requirements/run.txt").read_text("utf-8")
    return found


def release() -> str:
    """The version of this release."""
    return metadata.version("buddy-ops")


def write_new(folder: Path, files: Mapping[str, str]) -> None:
    """Write files that do not exist, all or none: after an error or an interrupt, what was written is deleted again.

    Raises:
        BuddyError: ``init-failed``.
    """
    made: list[Path] = []
    name = ""
    try:
        for name, content in files.items():
            path = folder / name
            missing = [parent for parent in path.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir()
                made.append(parent)
            made.append(path)
            write_atomically(path, content)
    except BaseException as error:
        # A folder comes after the files in it, and is deleted only when it is empty.
        for path in reversed(made):
            with suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                else:
                    path.unlink()
        if not isinstance(error, OSError):
            raise
        raise BuddyError(
            "init-failed",
            f"{name} could not be written: {error.strerror}.",
            now="What had been written was deleted again.",
            next="Correct the folder, or choose another one. Then run the same command again.",
        ) from None


def existing(folder: Path, names: Iterable[str]) -> list[str]:
    """Which of these files exist already, as links to nothing too."""
    return [name for name in names if os.path.lexists(folder / name)]


def manifest(files: Mapping[str, str]) -> str:
    """The text of ``MANIFEST`` for the release's files as they were written."""
    return _manifest({name: digest(name, content) for name, content in files.items()})


def _manifest(hashes: Mapping[str, str]) -> str:
    return json.dumps({"release": release(), "files": dict(sorted(hashes.items()))}, indent=2) + "\n"


def read_manifest(folder: Path) -> dict[str, str]:
    """The hashes of the files that init wrote; empty where there is no readable list."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return {str(name): str(value) for name, value in parse_json((folder / MANIFEST).read_bytes())["files"].items()}
    return {}


def changes(folder: Path, files: Mapping[str, str]) -> list[Change]:
    """The release's files that are not as in the project."""
    known = read_manifest(folder)
    found = []
    for name, content in files.items():
        path = folder / name
        ours = ""
        if path.is_file():
            ours = path.read_text("utf-8", errors="replace")
        if digest(name, ours) == digest(name, content):
            continue
        # A file without a hash in the list was there before init: it is the team's, too.
        edited = bool(ours) and known.get(name) != digest(name, ours)
        found.append(Change(name, content, _diff(name, ours, content), edited))
    return found


def take(folder: Path, taken: Iterable[Change], files: Mapping[str, str]) -> None:
    """Replace the project's files by the release's, each in one step, and note which are the release's now.

    Raises:
        BuddyError: ``init-failed``.
    """
    name = MANIFEST
    try:
        for change in taken:
            name = change.path
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, change.content)
        # Also files that were made equal to the release's by other means: from now on they are the release's.
        different = {change.path for change in changes(folder, files)}
        now = {path: digest(path, content) for path, content in files.items() if path not in different}
        write_atomically(folder / MANIFEST, _manifest({**read_manifest(folder), **now}))
    except OSError as error:
        raise BuddyError(
            "init-failed",
            f"{name} could not be written: {error.strerror}.",
            now="Each file is whole: as it was, or as in this release.",
            next="Correct the folder. Then run the same command again.",
        ) from None


def digest(name: str, content: str) -> str:
    """The SHA-256 of a file's content. Of a notebook its cells count, and not what JupyterLab saves beside them."""
    return hashlib.sha256(_as_text(name, content).encode()).hexdigest()


def _as_text(name: str, content: str) -> str:
    """A file's content with plain ends of lines; a notebook's cells as text."""
    content = content.replace("\r\n", "\n")
    if not name.endswith(".ipynb"):
        return content
    try:
        notebook = parse_json(content)
    except ValueError:
        return content
    if not is_notebook(notebook):
        return content
    cells = []
    for cell in notebook["cells"]:
        tags = " ".join(cell["metadata"].get("tags", []))
        # The outputs are left out: a runbook that was run in place is no edited one.
        cells.append(f"# [{cell['cell_type']}] {tags}".rstrip() + "\n" + "".join(cell["source"]) + "\n")
    return "\n".join(cells)


def _diff(name: str, ours: str, theirs: str) -> str:
    before, after = (_as_text(name, text).splitlines(keepends=True) for text in (ours, theirs))
    source = f"a/{name}"
    # As git says it of a file that is new.
    if not ours:
        source = "/dev/null"
    return "".join(unified_diff(before, after, fromfile=source, tofile=f"b/{name}"))


def _environment_file(project: Project, environment: str) -> str:
    """An environment's file, with comments."""
    prepared = "staging"
    if environment in (*PRESETS, PRACTICE):
        prepared = environment
    elif environment.startswith("prod"):
        prepared = "prod"
    text = (TEMPLATES / f"{prepared}.yaml").read_text("utf-8")
    if not project.region and environment != PRACTICE:
        # Without its only key the section would be null, which no setting is.
        text = text.replace("    region: $region\n", "").replace(
            "  aws: #", "  aws: {} # region: AWS_REGION or the profile's;"
        )
    values = {
        "environment": environment,
        "function": project.function_in(environment),
        "alias": project.alias,
        "region": project.region or "us-east-1",
        "kind": project.kind,
        "by_kind": _by_kind(project.kind, project.failure_metric),
    }
    # $name, since braces are YAML's own.
    return Template(text).substitute({name: _scalar(value) for name, value in values.items()})


def _by_kind(kind: Kind, failure_metric: str) -> str:
    """Smoke tests, none yet, with an example of this kind as a comment; and the metric of failures, if there is one."""
    facts = KINDS[kind]
    silent = "beside Lambda's Errors"
    if facts.silent_failure:
        silent = f"Lambda's Errors counts no {facts.silent_failure}"
    lines = ["  smoke_tests: [] # a new version must pass them before it gets traffic; write your own, for example:"]
    lines.append(f"    # - {json.dumps(facts.smoke_test)}")
    namespace, _, name = failure_metric.rpartition("/")
    metrics: list[dict[str, str]] = []
    if failure_metric:
        metrics = [{"namespace": namespace, "name": name}]
    lines.append(f"  failure_metrics: {json.dumps(metrics)} # {silent}: metrics that count failures")
    if facts.signals:
        lines.append("    # of AWS, for the alias as a whole:")
    lines += [f"    # - {json.dumps(signal)}" for signal in facts.signals]
    return "\n".join(lines)


def _scalar(value: str) -> str:
    """A text as a plain YAML scalar where YAML reads it as this text, else with quotes."""
    with suppress(ValueError):
        # A block of lines is YAML already. A plain 007, no or null would be read as something else.
        if "\n" in value or parse_yaml(value) == value:
            return value
    return json.dumps(value)


def _template_parameters(project: Project, environment: str) -> str:
    """Parameters of infrastructure.yaml for `aws cloudformation deploy --parameter-overrides file://...`.

    Source: aws-cli pull request 5443, the form of CodePipeline.
    """
    values = {
        "Environment": environment,
        "FunctionName": project.function_in(environment),
        "AliasName": project.alias,
        "LogGroupName": project.log_group,
        "TrustedPrincipals": "arn:aws:iam::123456789012:role/Engineers",
        "CiSubject": "",
        "AuditSubject": "",
        "TableArns": "",
        "BuildBucketName": "",
        "HookFunctionArns": "",
        "ImageRepositoryArns": "",
    }
    return json.dumps({"Parameters": values}, indent=2) + "\n"
