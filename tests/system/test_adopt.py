"""docs/adopt.md as a stranger follows it: from the wheels alone, in an empty folder, each command as it is written."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adopt.md").read_text("utf-8")
BLOCK = re.compile(
    r"(?:^`(?P<path>[\w./-]+)`(?:[^\n]|\n(?!\n))*:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.DOTALL | re.M
)
EXIT_CODE = re.compile(r"# exit code (\d)$")
HTTP = ("Write the project", "HTTP")
WAYS = (HTTP, ("SQS",), ("Asynchronous events",), (*HTTP, "Versions that another tool publishes"))
"""The sections with commands that are followed in one folder."""

EACH_WAY = pytest.mark.parametrize(
    "way", [WAYS[0], *(pytest.param(way, marks=pytest.mark.whole) for way in WAYS[1:])], ids=lambda way: way[-1]
)

AWS = """#!{python}
import os, sys
import botocore.session
words = sys.argv[1:]
given = {{name: words[words.index(name) + 1] for name in words if name.startswith("--") and name != "--publish"}}
client = botocore.session.get_session().create_client("lambda", given["--region"], endpoint_url=os.environ["SANDBOX"])
name = given["--function-name"]
if words[:2] == ["lambda", "wait"]:
    client.get_waiter(words[2].replace("-", "_")).wait(FunctionName=name, Qualifier=given["--qualifier"])
else:
    zipped = open(given["--zip-file"].removeprefix("fileb://"), "rb").read()
    print(client.update_function_code(FunctionName=name, ZipFile=zipped, Publish=True)["Version"])
"""
"""The two commands of the AWS CLI on the page, for the port that the test has: the CLI itself is not installed here."""


@dataclass(frozen=True)
class Step:
    """A file to write (``path``), or a command with its exit code."""

    text: str
    path: str = ""
    exit_code: int = 0


def steps(section: str) -> Iterator[Step]:
    """What a section of the page tells to do, in its order."""
    (text,) = (part for part in re.split(r"^## ", PAGE, flags=re.M) if part.startswith(f"{section}\n"))
    for block in BLOCK.finditer(text):
        if block["path"]:
            yield Step(block["text"], block["path"])
        if block["language"] != "sh":
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            code = EXIT_CODE.search(line)
            yield Step(line, exit_code=int(code[1]) if code else 0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH with the command of the two built wheels; no module of the checkout is importable."""
    built, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site-packages")
    for folder in (ROOT, ROOT / "sandbox"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    for wheel in built.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    program = (
        "import buddy_ops, buddy_sandbox; "
        f"assert buddy_ops.__file__.startswith({str(site)!r}) and buddy_sandbox.__file__.startswith({str(site)!r}); "
        "from buddy_ops.cli.main import app; app()"
    )
    script = tmp_path_factory.mktemp("bin") / "buddy-ops"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -P -c "{program}" "$@"\n')
    script.chmod(0o755)
    aws = script.with_name("aws")
    aws.write_text(AWS.format(python=sys.executable))
    aws.chmod(0o755)
    (script.parent / "python").symlink_to(sys.executable)
    return f"{script.parent}:{os.environ['PATH']}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def follow(step: Step, folder: Path, path: str, port: int) -> float:
    """Write a step's file, or run its command as it is written; the seconds that it took."""
    if step.path:
        (folder / step.path).parent.mkdir(exist_ok=True)
        (folder / step.path).write_text(step.text)
        return 0.0
    if step.text.startswith("pip install"):
        return 0.0  # the wheels are installed already, and tests have no network
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BUDDY_OPS", "PYTHON"))}
    environment = {**kept, "PATH": path, "AWS_EC2_METADATA_DISABLED": "true", "SANDBOX": f"http://127.0.0.1:{port}"}
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", step.text], cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == step.exit_code, f"{step.text}\n{done.stdout}\n{done.stderr}"
    return time.monotonic() - began


@pytest.mark.timeout(600)
@EACH_WAY
def test_the_page_works_as_it_is_written(way: tuple[str, ...], path: str, tmp_path: Path) -> None:
    """Each command of the sections, with the exit code that the page says."""
    port = free_port()
    taken = 0.0
    try:
        for step in (step for section in way for step in steps(section)):
            taken += follow(step, tmp_path, path, port)
            if step.text.startswith("buddy-ops init"):
                # The only difference: other tests have a sandbox at the usual port.
                practice = tmp_path / "parameters" / "sandbox.yaml"
                practice.write_text(practice.read_text("utf-8").replace("4599", str(port)))
            if step.exit_code == 3:
                print(f"{way[-1]}: rolled back {taken:.0f} s after the page's first command")
    finally:
        # The page's last command stops it, too, unless one before it failed.
        stop = ["bash", "-c", "buddy-ops sandbox stop"]
        subprocess.run(stop, cwd=tmp_path, env={**os.environ, "PATH": path}, check=False, capture_output=True)


def test_every_command_of_the_page_is_followed() -> None:
    """No block of commands is outside the sections that the test above follows."""
    sections = dict.fromkeys(section for way in WAYS for section in way)
    followed = [step.text for section in sections for step in steps(section) if not step.path]
    everywhere = [
        line for block in BLOCK.finditer(PAGE) if block["language"] == "sh" for line in block["text"].splitlines()
    ]
    assert followed == everywhere
    assert all(shlex.split(line, comments=True) for line in everywhere)
