"""What is installed: environment.yml, pyproject.toml and the locks say the same, and none names where it comes from."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
SANDBOX = tomllib.loads((ROOT / "sandbox" / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
INSTALLED_BY = {
    "core": [],
    "run": ["run", "fleet"],
    "sandbox": ["run", "fleet", "sandbox"],
    "dev": ["run", "lab", "fleet", "sandbox", "verify", "notify", "dev", "docs"],
    "lab": ["run", "lab", "fleet", "sandbox"],
}
"""Which extras each lock installs, as the Makefile's ``lock`` makes them."""

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")


def environment() -> dict[str, Any]:
    """environment.yml."""
    found = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def pins(lock: Path) -> dict[str, list[Version]]:
    """The versions that a lock pins, by name; a name may be there once for each Python."""
    found: dict[str, list[Version]] = {}
    for line in lock.read_text("utf-8").splitlines():
        if match := PIN.match(line):
            found.setdefault(canonicalize_name(match[1]), []).append(Version(match[2]))
    return found


def test_environment_yml_holds_python_and_pip_only() -> None:
    """conda brings Python and pip; everything else is this project, from this folder, through pip."""
    found = environment()
    plain = [each for each in found["dependencies"] if isinstance(each, str)]
    (nested,) = (each for each in found["dependencies"] if not isinstance(each, str))
    assert [re.split(r"[<>=! ]", each)[0] for each in plain] == ["python", "pip"]
    assert list(nested) == ["pip"] and len(nested["pip"]) == 2
    assert found["name"] == PROJECT["name"]


def test_environment_yml_points_at_this_project_with_extras_that_exist() -> None:
    """pip installs the sandbox's folder, then this one with everything a person needs."""
    sandbox, line = environment()["dependencies"][-1]["pip"]
    assert sandbox == "-e sandbox"
    match = re.fullmatch(r"-e \.\[([\w,-]+)\]", line)
    assert match is not None
    assert set(match[1].split(",")) == set(PROJECT["optional-dependencies"])


def test_environment_yml_asks_for_the_same_python() -> None:
    """conda's range of Python is pyproject's."""
    assert environment()["dependencies"][0] == f"python{PROJECT['requires-python']}"
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_place(lock: Path) -> None:
    """No registry, index, folder or direct address: a lock says what, pip's own settings say from where."""
    for line in lock.read_text("utf-8").splitlines():
        assert "://" not in line and " @ " not in line, line
        assert not re.match(r"\s*(-i|-f|-e|-r|-c|--(extra-)?index-url|--find-links|--trusted-host)\b", line), line
        assert not line.startswith(("/", "./", "../", "file:")), line


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_package_in_a_lock_has_its_hash(lock: Path) -> None:
    """Each requirement is pinned to one version, and followed by at least one SHA-256."""
    text = re.sub(r"\\\n\s*", " ", lock.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^\]]*\])?==\S+", line), line
        hashes = re.findall(r"--hash=(\S+)", line)
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), line


def direct() -> list[tuple[str, Requirement]]:
    """Every direct dependency of both projects, with each lock that must have it."""
    found = []
    for lock, extras in INSTALLED_BY.items():
        lines = [*PROJECT["dependencies"]]
        for extra in extras:
            lines += SANDBOX["dependencies"] if extra == "sandbox" else PROJECT["optional-dependencies"][extra]
        found += [(lock, Requirement(line)) for line in lines if not line.startswith(PROJECT["name"])]
    return found


@pytest.mark.parametrize(("lock", "wanted"), direct(), ids=lambda each: each if isinstance(each, str) else each.name)
def test_every_dependency_is_locked_within_its_range(lock: str, wanted: Requirement) -> None:
    """What pyproject asks for is in the lock, in a version that it allows."""
    found = pins(ROOT / "requirements" / f"{lock}.txt").get(canonicalize_name(wanted.name), [])
    assert found, f"{wanted.name} is not in requirements/{lock}.txt: run make lock"
    assert all(wanted.specifier.contains(each, prereleases=True) for each in found)


def test_every_extra_has_a_lock() -> None:
    """An extra that no lock installs would be installed unpinned."""
    assert {each for extras in INSTALLED_BY.values() for each in extras} == set(PROJECT["optional-dependencies"])
    assert set(INSTALLED_BY) | {"uv"} == {path.stem for path in LOCKS}


def test_locks_agree_with_one_another() -> None:
    """A package has the same versions in every lock, so that what was tested is what runs."""
    seen: dict[str, list[Version]] = {}
    for lock in LOCKS:
        for name, versions in pins(lock).items():
            assert seen.setdefault(name, versions) == versions, name


def test_moto_is_pinned_exactly() -> None:
    """The sandbox leans on private names of moto: another version must be chosen on purpose."""
    (moto,) = (Requirement(each) for each in SANDBOX["dependencies"] if each.startswith("moto"))
    assert [each.operator for each in moto.specifier] == ["=="]


def test_a_runner_installs_no_jupyterlab() -> None:
    """Executing notebooks in CI needs neither JupyterLab nor the sandbox."""
    assert not {"jupyterlab", "moto", "flask", "pytest"} & set(pins(ROOT / "requirements" / "run.txt"))


def test_the_terminals_commands_install_nothing_of_jupyter() -> None:
    """status, rollback, freeze and doctor take botocore, pydantic and what prints: no kernel, no chart."""
    heavy = {
        "boto3",
        "ipykernel",
        "ipython",
        "matplotlib",
        "nbformat",
        "numpy",
        "pandas",
        "papermill",
        "pygments",
        "rich",
    }
    assert not heavy & set(pins(ROOT / "requirements" / "core.txt"))


def test_the_stack_is_in_the_environment() -> None:
    """What people use in their own cells is installed with the notebooks."""
    stack = {"boto3", "ipywidgets", "jupyterlab", "matplotlib", "nbval", "pandas", "papermill", "pytest"}
    assert stack <= set(pins(ROOT / "requirements" / "dev.txt"))
    assert stack - {"nbval", "pytest"} <= set(pins(ROOT / "requirements" / "lab.txt"))


def test_the_sandbox_extra_is_the_distribution_beside_it() -> None:
    """``buddy-ops[sandbox]`` brings buddy-sandbox, and nothing of it is listed twice."""
    assert PROJECT["optional-dependencies"]["sandbox"] == [SANDBOX["name"]]
