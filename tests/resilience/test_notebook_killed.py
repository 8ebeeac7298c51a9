"""The same death through the notebook: runner and kernel are killed at chosen calls, and AWS ends what they began."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Situation
from tests.resilience.harness import lease_minutes, must_be_whole

ROOT = Path(__file__).parents[2]
RUN = "import sys; from buddy_ops.runs import supervisor; supervisor.run_notebook('strategies/canary', "
LIMIT_S = 90.0


@pytest.mark.whole
@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.parametrize(
    ("operation", "after"),
    [("PublishVersion", True), ("CreateSchedule", True), ("UpdateAlias", False), ("UpdateAlias", True)],
)
def test_a_killed_notebook_leaves_nothing_half_shifted(
    situation: Callable[..., Situation], operation: str, after: bool
) -> None:
    """SIGKILL of the runner and its kernel while a call has no answer yet: the alias is whole within the lease and a
    minute, and the next run ships the build."""
    here = situation("good", requests_per_minute=6000)
    artifact = here.build("good")
    here.ask("chaos", kind="silent", operation=operation, after=after)
    given = {"environment": "sandbox", "artifact": artifact, "approved_by": ["Ada"]}
    folder = here.folder / "killed"
    code = f"from pathlib import Path; {RUN}{given!r}, folder=Path({str(folder)!r}))"
    # A kernel leads a session of its own: it is found through the environment that it inherited.
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + LIMIT_S
    while not here.ask("chaos/seen")["struck"] and runner.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert here.ask("chaos/seen")["struck"] == 1
    for each in (*_descendants(runner.pid), runner.pid):
        os.kill(each, signal.SIGKILL)
    runner.wait()
    here.ask("chaos")
    here.ask("advance", seconds=60 * (lease_minutes() + 1))
    must_be_whole(here, "1")
    endings = [here.ship(artifact).ending for _ in range(2)]
    assert endings[-1] in ("proved", "already-live") and here.alias()["FunctionVersion"] == "2"


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs: only ours are ever killed."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_descendants(child)]
    return found
