"""docs/container/Dockerfile, as far as it can be checked without Docker: what it is built from, and as whom it runs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/container/Dockerfile").read_text("utf-8")
INSTRUCTIONS = [
    tuple(line.split(" ", 1))
    for line in re.sub(r"\\\n\s*", "", TEXT).splitlines()
    if line.strip() and not line.startswith("#")
]


def arguments(name: str) -> list[str]:
    """What follows each instruction of this name."""
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def test_the_image_is_pinned_and_this_release_is_installed_from_the_lock() -> None:
    """A patch release of Python, every package by its hash, and buddy-ops in the version of this checkout."""
    defaults = dict(each.split("=", 1) for each in arguments("ARG"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", defaults["PYTHON"])
    assert defaults["RELEASE"] == project["version"]
    installs = [command for script in arguments("RUN") for command in script.split("&& ") if " install " in command]
    assert len(installs) == 2
    assert "--require-hashes -r /tmp/requirements/buddy-ops.txt" in installs[0] and "--no-deps" in installs[1]
    assert arguments("COPY") == ["requirements/ /tmp/requirements/"]


def test_the_container_does_not_run_as_root() -> None:
    """A user of its own, from before the entry point."""
    names = [instruction for instruction, _ in INSTRUCTIONS]
    (user,) = arguments("USER")
    assert any(f"--uid {user} " in script and script.startswith("useradd ") for script in arguments("RUN"))
    assert names.index("USER") < names.index("ENTRYPOINT") and names.count("FROM") == 1


def test_shellcheck_finds_nothing_in_its_scripts() -> None:
    """As sh, which runs them."""
    for script in arguments("RUN"):
        command = [Path(sys.executable).parent / "shellcheck", "--shell=sh", "--exclude=SC2154", "-"]
        done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout
