"""Each part of a fleet's canary is killed at random moments: only good versions serve, and a rerun ends the work."""

import json
import os
import random
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from buddy_ops.core.settings import FailsafeSettings
from buddy_ops.runs import archive
from buddy_ops.runs.verification import verify_archive
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control
from tests.conftest import ROOT
from tests.fleet.conftest import REGIONS, client, write_project
from tests.fleet.test_canary import SHORT
from tests.fleet.test_engine import alive, started_scheduler, wait_for, worker
from tests.fleet.test_wave_plan import declare

FLEET = REGIONS[:3]
WAVES = f"""
waves:
  - {{name: first, regions: [{FLEET[0]}]}}
  - {{name: second, regions: [{FLEET[1]}, {FLEET[2]}]}}
bake_minutes: 5
"""
CALLS = 250
"""An undisturbed run makes more calls than that."""

MOMENTS = 20


@pytest.fixture
def url(sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One function in three regions, in two waves, and a good and a bad build; the sandbox's URL."""
    control(sandbox_url, "reset", seed=7)
    control(sandbox_url, "set", metrics_delay_s=0, logs_delay_s=0)
    first = str(builds.write(tmp_path / "first.zip", PROFILES["good"], "1.0.0"))
    builds.write(tmp_path / "good.zip", PROFILES["good"], "2.0.0")
    builds.write(tmp_path / "bad.zip", PROFILES["total_failure"], "2.0.0")
    for region in FLEET:
        control(sandbox_url, "function", name="pay", artifact=first, region=region, requests_per_minute=600)
    folder = write_project(tmp_path, sandbox_url, {"pay": "payments"})
    (folder / "notebooks").rmdir()
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(folder)
    fleet, production = Path("parameters/fleet.yaml"), Path("parameters/prod.yaml")
    fleet.write_text(fleet.read_text().replace(", ".join(REGIONS), ", ".join(FLEET)))
    declare(WAVES)
    production.write_text(production.read_text() + SHORT)
    yield sandbox_url
    control(sandbox_url, "chaos")


def begin(artifacts: dict[str, str], scheduler: str = "") -> "subprocess.Popen[bytes]":
    """The fleet's canary, as a person starts it."""
    given = json.dumps({"artifacts": artifacts, "approved_by": ["Ada"], "scheduler": scheduler})
    command = [sys.executable, "-m", "buddy_ops.cli.main", "run", "fleet/canary", "-e", f"pay-{FLEET[0]}"]
    return subprocess.Popen(
        [*command, "--parameters", given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def descendants(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *descendants(child))]


def kill_coordinator(run: "subprocess.Popen[bytes]") -> None:
    """Kill the fleet's own run: its supervisor, its engine and its kernel; then its workers and steps end themselves."""
    engines = children(run.pid)
    kernels = [kernel for engine in engines for kernel in children(engine)]
    others = [each for kernel in kernels for each in descendants(kernel)]
    for each in (run.pid, *engines, *kernels):
        os.kill(each, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, others)))


@pytest.mark.whole
@pytest.mark.kernel
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("fresh_processes")
@pytest.mark.parametrize(
    ("victim", "moment"),
    [(victim, each) for victim in ("worker", "scheduler", "coordinator") for each in range(MOMENTS)],
)
def test_whatever_is_killed_only_good_versions_serve(url: str, tmp_path: Path, victim: str, moment: int) -> None:
    """At even moments all builds are good, and a rerun deploys what is left. At odd ones one target of the last wave gets
    a bad build, and everything is rolled back.
    """
    artifacts = {f"pay-{region}": "good.zip" for region in FLEET}
    if moment % 2:
        artifacts[f"pay-{FLEET[2]}"] = "bad.zip"
    declare(f"on_trouble: {'all' if moment % 2 else 'stop'}\n")
    call = random.Random(f"{victim} {moment}").randrange(1, CALLS)
    steps: list[int] = []
    with ExitStack() as stack:
        scheduler = ""
        workers: list[subprocess.Popen[str]] = []
        if victim != "coordinator":
            scheduler, process = stack.enter_context(started_scheduler(tmp_path))
            workers = [stack.enter_context(worker(scheduler, tmp_path / name, threads=2)) for name in ("a", "b")]
        run = begin(artifacts, scheduler)
        control(url, "chaos", kind="silent", call=call, after=bool(moment % 4 // 2))
        wait_for(lambda: control(url, "chaos/seen")["struck"] or run.poll() is not None)
        assert control(url, "chaos/seen")["struck"] == 1, f"call {call} was never made"
        if victim == "coordinator":
            kill_coordinator(run)
        elif victim == "scheduler":
            process.kill()
        else:
            steps += descendants(workers[moment % 4 // 2].pid)
            workers[moment % 4 // 2].kill()
        control(url, "chaos")
        run.wait()
        for each in workers:
            steps += descendants(each.pid)
    # The processes of a worker's steps end themselves when it is gone.
    wait_for(lambda: not any(map(alive, steps)))
    control(url, "advance", seconds=60 * (FailsafeSettings().minutes + 1))
    serving = [alias(url, region) for region in FLEET]
    assert all(version in good_versions(url, region) for version, region in zip(serving, FLEET, strict=True))
    again = begin(artifacts)
    code = again.wait()
    if moment % 2:
        # A build that was rolled back is not approved by the same names again.
        assert code in (3, 4)
    else:
        assert code == 0
        assert [alias(url, region) for region in FLEET] == ["2", "2", "2"]
    assert all(alias(url, region) in good_versions(url, region) for region in FLEET)
    archive.archive_unfinished(tmp_path / "runs")
    assert verify_archive(archive.open_store()).problems == ()


def alias(url: str, region: str) -> str:
    """The one version that serves; there are no weights."""
    found = client(url, "lambda", region).get_alias(FunctionName="pay", Name="live")
    assert "RoutingConfig" not in found or not found["RoutingConfig"].get("AdditionalVersionWeights"), found
    return str(found["FunctionVersion"])


def good_versions(url: str, region: str) -> set[str]:
    """The versions that are not the bad build."""
    lam = client(url, "lambda", region)
    bad = b64encode(sha256(Path("bad.zip").read_bytes()).digest()).decode()
    versions = lam.list_versions_by_function(FunctionName="pay")["Versions"]
    return {each["Version"] for each in versions if each["CodeSha256"] != bad}
