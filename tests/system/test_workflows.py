"""What runs in GitHub Actions: pinned, with no more permissions than it needs, and deaf to what people typed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from buddy_ops.aws import permissions
from buddy_ops.cli import run_parameters
from buddy_ops.core.errors import InvalidInput

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)

HOSTILE = "{note: \"$(touch pwned) `touch pwned` '; touch pwned; '\"} # ${{ github.token }}\n& touch pwned"


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def inputs() -> dict[str, Any]:
    """The inputs of 'run a runbook'; YAML takes the key 'on' for true."""
    found = read(ROOT / ".github/workflows/runbook.yml")[True]["workflow_dispatch"]["inputs"]  # type: ignore[index]
    assert isinstance(found, dict)
    return found


def test_there_are_five() -> None:
    """The tests, a runbook by hand, and by night the audits, of each environment and of the fleet, and longer checks."""
    assert [path.stem for path in WORKFLOWS] == ["audit", "fleet-audit", "nightly", "runbook", "test"]


@each_workflow
def test_no_expression_stands_in_a_script(path: Path) -> None:
    """What people typed reaches a script as a variable only: an expression there would be read as code."""
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step


@each_workflow
def test_permissions_are_minimal(path: Path) -> None:
    """Reading the code, and a token for OIDC where a role is assumed; nothing is inherited."""
    workflow = read(path)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assumes = any("configure-aws-credentials" in step.get("uses", "") for step in job["steps"])
        wanted = {"contents": "read", "id-token": "write"} if assumes else {"contents": "read"}
        assert job.get("permissions", workflow["permissions"]) == wanted
        assert 0 < job["timeout-minutes"] <= 240


@each_workflow
def test_actions_are_pinned(path: Path) -> None:
    """Each by a commit, with the version that it stands for beside it; no checkout keeps its token."""
    used = re.findall(r"uses: (\S+)(.*)", path.read_text("utf-8"))
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) and re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    for step in steps(path):
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def runs_as(runbook: str) -> str:
    """The variable whose role 'run a runbook' assumes for a runbook, as its expression says."""
    (step,) = (
        each for each in steps(ROOT / ".github/workflows/runbook.yml") if "role-to-assume" in each.get("with", {})
    )
    chosen = re.fullmatch(
        r"\$\{\{ contains\(fromJSON\('(\[.*\])'\), inputs\.runbook\) && \(vars\.(\w+) \|\| '\2 is not set'\) "
        r"\|\| vars\.(\w+) \}\}",
        step["with"]["role-to-assume"],
    )
    assert chosen is not None, step
    return str(chosen[2] if runbook in json.loads(chosen[1]) else chosen[3])


@each_workflow
def test_shellcheck_finds_nothing_in_a_script(path: Path) -> None:
    """As bash, which runs them; their variables come from the step."""
    for script in (step["run"] for step in steps(path) if "run" in step):
        command = [BIN / "shellcheck", "--shell=bash", "--exclude=SC2154", "-"]
        done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["audit", "fleet-audit", "runbook"])
def test_a_cancelled_job_archives_what_was_left(name: str) -> None:
    """Its run may be killed before it is archived; the step comes before the upload, and runs in any case."""
    found = steps(ROOT / f".github/workflows/{name}.yml")
    does = [step.get("run", step.get("uses", "")).partition("@")[0] for step in found]
    archiving = does.index(".venv/bin/buddy-ops runs index")
    assert archiving < does.index("actions/upload-artifact")
    assert found[archiving]["if"] == "always()"


def test_the_choices_are_what_the_roles_may_run() -> None:
    """Every notebook that a deployer or a responder may run, each with a role that may; every environment but the
    sandbox; no other."""
    notebooks = {str(p.relative_to(ROOT / "notebooks").with_suffix("")) for p in ROOT.glob("notebooks/**/*.ipynb")}
    roles = {"BUDDY_OPS_ROLE": "deployer", "BUDDY_OPS_RESPONDER_ROLE": "responder"}
    allowed = {name for name, may in permissions.RUNBOOKS.items() if set(may) & set(roles.values())}
    offered = inputs()["runbook"]["options"]
    assert offered == sorted(notebooks & allowed)
    for name in offered:
        wanted = "deployer" if "deployer" in permissions.RUNBOOKS[name] else "responder"
        assert roles[runs_as(name)] == wanted, name
    environments = {path.stem for path in (ROOT / "parameters").glob("*.yaml")} - {"sandbox"}
    assert set(inputs()["environment"]["options"]) == environments
    audited = read(ROOT / ".github/workflows/audit.yml")["jobs"]["audit"]["strategy"]["matrix"]["environment"]
    assert set(audited) <= environments
    assert "auditor" in permissions.RUNBOOKS["review/readiness_audit"]


def test_the_fleets_audit_ends_the_job_with_its_exit_code() -> None:
    """Its last word is the audit's own; a repository without a fleet skips the job, and does not fail every night."""
    (job,) = read(ROOT / ".github/workflows/fleet-audit.yml")["jobs"].values()
    (audit,) = (step for step in job["steps"] if step.get("name") == "audit")
    assert audit["run"] == 'exec .venv/bin/buddy-ops run fleet/audit --environment "$ENVIRONMENT"'
    assert "continue-on-error" not in str(job) and job["if"] == "vars.BUDDY_OPS_FLEET != ''"
    assert audit["env"] == {"ENVIRONMENT": "${{ vars.BUDDY_OPS_FLEET }}"}
    assert "auditor" in permissions.RUNBOOKS["fleet/audit"]


@pytest.mark.parametrize(
    "build", ["", "s3://builds/skill.zip", "$(touch pwned)", "--recursive", "s3://b/'; touch pwned"]
)
@pytest.mark.parametrize("name", ["fetch the build", "run"])
def test_hostile_input_reaches_the_command_as_it_is(tmp_path: Path, name: str, build: str) -> None:
    """The scripts themselves, run by bash with quotes, backticks and substitutions in every input: one argument stays
    one argument, and nothing of it is executed."""
    (script,) = (each["run"] for each in steps(ROOT / ".github/workflows/runbook.yml") if each.get("name") == name)
    for program in (tmp_path / ".venv/bin/buddy-ops", tmp_path / "bin/aws"):
        program.parent.mkdir(parents=True)
        program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > told\n')
        program.chmod(0o755)
    given = {"ENVIRONMENT": HOSTILE, "RUNBOOK": HOSTILE, "PARAMETERS": HOSTILE, "BUILD": build}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env={"PATH": path, **given}, check=False, capture_output=True)
    assert not (tmp_path / "pwned").exists()
    told = (tmp_path / "told").read_text().split("\0")[:-1] if (tmp_path / "told").exists() else []
    if name == "run":
        artifact = ["--parameter", "artifact=build/skill.zip"] if build else []
        assert told == ["run", HOSTILE, "--environment", HOSTILE, "--parameters", HOSTILE, *artifact]
    elif build.startswith("s3://"):
        assert told[-2:] == [build, "build/skill.zip"] and done.returncode == 0
    else:
        assert told == [] and done.returncode == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("approved_by: [Ada", "is not a YAML mapping"),
        ("[Ada]", "is not a YAML mapping"),
        ("", "is not a YAML mapping"),
        ("{1: 2}", "is not a YAML mapping"),
        ("{environment: prod}", "must not contain environment"),
        ("{settings: {}, environment: prod}", "must not contain environment and settings"),
        ("{settings: {notify: s3cr3t}}", "--parameters must not contain settings."),
    ],
)
def test_parameters_of_ci_are_a_mapping(text: str, problem: str) -> None:
    """Anything else is refused; so is another environment than the one that reviewers approved."""
    with pytest.raises(InvalidInput, match="invalid-parameters") as refused:
        run_parameters.parse_mapping(text)
    assert problem in refused.value.what and "s3cr3t" not in str(refused.value)


def test_parameters_of_ci_keep_their_types() -> None:
    """Names, lists and booleans arrive as they were meant."""
    assert run_parameters.parse_mapping("{approved_by: [Ada, Grace], dry_run: true}") == {
        "approved_by": ["Ada", "Grace"],
        "dry_run": True,
    }
