"""The wheels hold everything that the code reads, and the commands work from them, with no checkout beside."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from buddy_ops.core import places
from tests.runs.test_archive import sealed

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by distribution, built as pip builds them; no network."""
    built = {}
    for name, folder in (("buddy_ops", ROOT), ("buddy_sandbox", ROOT / "sandbox")):
        target = tmp_path_factory.mktemp(name)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
        (built[name],) = target.glob("*.whl")
    return built


def committed(*folders: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *folders],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]


def expected() -> dict[str, dict[str, str]]:
    """For each wheel its files, and where each comes from."""
    ours = {path: path for path in committed("buddy_ops")}
    ours |= {path.replace("notebooks/", "buddy_ops/runbooks/", 1): path for path in committed("notebooks")}
    ours |= {f"buddy_ops/{there}": here for here, there in places.IN_WHEEL.items() if (ROOT / here).is_file()}
    theirs = {path.removeprefix("sandbox/src/"): path for path in committed("sandbox/src")}
    return {"buddy_ops": ours, "buddy_sandbox": theirs}


@pytest.mark.parametrize("name", ["buddy_ops", "buddy_sandbox"])
def test_a_wheel_has_every_file_of_the_tree_and_no_other(wheels: dict[str, Path], name: str) -> None:
    """Code, templates, rules, schema, scenarios, runbooks, the CloudFormation template: byte for byte."""
    wanted = expected()[name]
    with zipfile.ZipFile(wheels[name]) as wheel:
        found = {path: wheel.read(path) for path in wheel.namelist() if ".dist-info/" not in path}
    assert sorted(found) == sorted(wanted)
    assert [path for path, source in wanted.items() if found[path] != (ROOT / source).read_bytes()] == []
    assert len([path for path in wanted if not path.endswith(".py")]) > 10


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the library, unpacked: what pip puts into site-packages."""
    target = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheels["buddy_ops"]) as wheel:
        wheel.extractall(target)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the installed wheel, from a folder that is no project; no module of the checkout is importable."""
    # The checkout is installed in this environment by a path: ours comes first.
    program = (
        "import sys, buddy_ops; "
        f"assert buddy_ops.__file__.startswith({str(installed)!r}), buddy_ops.__file__; "
        "from buddy_ops.cli.main import app; app()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BUDDY_OPS"))}
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=folder, env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_installed_commands_work_without_a_checkout(installed: Path, tmp_path: Path) -> None:
    """The version, the help, and an archive: verified where it is whole, and where a byte was changed."""
    done = run(installed, tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"buddy-ops {VERSION}\n"), done.stderr
    done = run(installed, tmp_path, "--help")
    assert done.returncode == 0 and "doctor" in done.stdout
    sealed(tmp_path / "archive", "run-0001")
    done = run(installed, tmp_path, "runs", "verify", "--archive", "archive")
    assert done.returncode == 0 and "OK: all files of 1 run" in done.stdout, done.stderr
    (tmp_path / "archive" / "run-0001" / "report.html").write_text("changed")
    done = run(installed, tmp_path, "runs", "verify", "--archive", "archive")
    assert done.returncode == 1 and "CHANGED: run-0001/report.html: changed." in done.stdout


def test_what_the_code_reads_is_found_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Rules for secrets, templates of pages and reviews, the template of the roles: each is read once."""
    program = (
        "from buddy_ops.core.redaction import Redactor; "
        "assert '[redacted]' in Redactor().redact('AKIA' + 'Q3EGRVX5N4JDLZ2M'); "
        "from buddy_ops.aws import permissions; assert permissions.template_resources(); "
        "from buddy_ops.runs import pages; pages.preload(); "
        "from buddy_ops.runs import provenance; assert provenance.RELEASED.is_dir(); "
        "assert provenance.describe_library()['clean'] is True, provenance.describe_library()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.whole
def test_a_command_outside_a_project_says_how_to_begin(installed: Path, tmp_path: Path) -> None:
    """One error, of the same reference, whatever the command needs of a project; init then writes one."""
    for command in ("status -e prod", "rollback -e prod --yes", "runbooks", "runbooks canary", "run strategies/canary"):
        done = run(installed, tmp_path, *command.split())
        assert done.returncode == 2 and "(no-project)" in done.stderr and "`buddy-ops init`" in done.stderr, command
        assert list(tmp_path.iterdir()) == []
    done = run(installed, tmp_path, "init", "--function", "orders", "--region", "eu-west-1", "--kind", "http")
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        assert (tmp_path / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    done = run(installed, tmp_path / "notebooks", "runbooks")
    assert done.returncode == 0 and "strategies/canary: " in done.stdout
    done = run(installed, tmp_path, "status", "-e", "prod")
    assert done.returncode == 1 and "no-project" not in done.stderr, done.stderr
