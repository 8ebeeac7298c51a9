"""SIGKILL of a whole run with its kernel: no secret is left in any file that it wrote, in its folder or elsewhere.

The run's home, temporary folder, and the folders of IPython and Jupyter are folders of the test: every byte that the
run left behind is searched, for each secret as it is, in base64 and in hex.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Situation
from tests.system.runbooks.test_deaths import Running, tiny

BIN = Path(sys.executable).parent
LIMIT_S = 60.0

KNOWN = {"SOME_TOKEN": "env-t0ken-aa11-kiln", "DB_PASSWORD": "tr0ub4dor&3<x>/kiln"}
GIVEN = "parameter-s3cret-1-kiln"
BY_FORM = ("ghp_" + "Zz9" * 12, "AKIA" + "ABCDEFGHIJKLMNOP", "npm_" + "Yy8" * 12)
SECRETS = (*KNOWN.values(), GIVEN, *BY_FORM)

SETUP = """import os, time, pathlib, sys
from buddy_ops.notebook.opening import open_runbook
token = api_token
del api_token, at, how, flag, secret
target = open_runbook("tiny", globals())
here = pathlib.Path(os.environ["MOMENTS"])
"""
PRINTED = """print(token, os.environ["SOME_TOKEN"], BY_FORM)
print(os.environ["DB_PASSWORD"], file=sys.stderr, flush=True)
target.journal.append("said", text=[token, BY_FORM])
(here / "printed").touch()
time.sleep(WAIT)"""
WRITTEN = """from buddy_ops.incidents import repair
more = BY_FORM
repair._write_file(target, "conflicts.jsonl", f'{{"value": "{token}", "more": "{more}"}}\\n')
repair._write_file(target, "root_cause.md", f"{os.environ['DB_PASSWORD']} {more}")
(here / "written").touch()
time.sleep(WAIT)"""
ENDED = """def connect(password):
    more = BY_FORM
    raise ValueError(f"cannot connect with {password}, {more}")
(here / "ended").touch()
connect(token)"""

MOMENTS = ("begun", "opened", "printed", "saved", "written", "ended", "archiving")


def moment_reached(moment: str, folder: Path, moments: Path) -> bool:
    """Whether a run has come so far."""
    notebook = folder / "notebook.ipynb"
    if moment == "begun":
        return notebook.exists()
    if moment == "opened":
        return (folder / "journal.jsonl").exists() and b"opened" in (folder / "journal.jsonl").read_bytes()
    if moment == "saved":
        return notebook.exists() and notebook.read_text("utf-8").count("[redacted]") > 3
    if moment == "archiving":
        return (folder / "report.html").exists() or (folder / "manifest.json").exists()
    return (moments / moment).exists()


def forms(secret: str) -> set[bytes]:
    """How a secret may be in a file."""
    content = secret.encode()
    escaped = json.dumps(secret)[1:-1].encode()
    encoded = {base64.b64encode(b" " * offset + content)[4:-4] for offset in range(3)}
    return {content, escaped, secret.replace("&", "&amp;").encode(), content.hex().encode(), *encoded}


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a run with all that it started, at once."""
    pids = [process.pid, *Running(process).descendants()]  # type: ignore[arg-type]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=[] if moment in ("saved", "written") else [pytest.mark.whole]) for moment in MOMENTS],
)
def test_a_kill_leaves_no_secret_behind(situation: Callable[..., Situation], tmp_path: Path, moment: str) -> None:
    """Known secrets and such of a known form, at several moments of a run: no file has one."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    waits = {"printed": 30, "saved": 30, "written": 30}
    said = repr(" ".join(BY_FORM))
    cells = (
        SETUP,
        PRINTED.replace("WAIT", str(waits.get(moment, 0) if moment != "written" else 0)),
        WRITTEN.replace("WAIT", str(waits.get(moment, 0))),
        ENDED,
    )
    notebook = tiny(here.folder / "project", *(cell.replace("BY_FORM", said) for cell in cells))
    document = json.loads(notebook.read_text("utf-8"))
    document["cells"][1]["source"] += '\napi_token: str = ""  # a secret in a parameter'
    notebook.write_text(json.dumps(document), "utf-8")
    home = tmp_path / "home"
    places = {"HOME": ".", "TMPDIR": "tmp", "IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime", "MOMENTS": "at"}
    # The sandbox's token is in the state folder of the user who started it.
    state = os.environ.get("XDG_STATE_HOME", str(Path.home() / ".local" / "state"))
    for name in places.values():
        (home / name).mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [BIN / "buddy-ops", "run", "tiny", "-p", f"api_token={GIVEN}"],
        cwd=notebook.parents[1],
        env={
            **os.environ,
            **KNOWN,
            **{name: str(home / place) for name, place in places.items()},
            "XDG_STATE_HOME": state,
        },
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "said").open("wb"),
    )
    deadline = time.monotonic() + LIMIT_S
    while not moment_reached(moment, here.folder / "run", home / "at"):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text("utf-8")
        time.sleep(0.005)
    kill(process)
    files = [path for folder in (home, here.folder / "run") for path in folder.rglob("*") if path.is_file()]
    texts = {path: path.read_bytes() for path in {*files, *here.folder.glob("index.*")}}
    assert (here.folder / "run" / "notebook.ipynb") in texts
    assert [
        (str(path), secret)
        for path, text in texts.items()
        for secret in SECRETS
        for form in forms(secret)
        if form in text
    ] == []
