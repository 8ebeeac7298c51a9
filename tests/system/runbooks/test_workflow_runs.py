"""The workflows of GitHub, step by step in a checkout: each ``run:`` as it is written, as the runner starts it.

Actions of others (``uses:``) are not carried out: the checkout is a copy, the credentials are variables, and the AWS CLI,
which GitHub's machines have, is a program of ten lines. What was installed is this environment, except in the test that
carries out ``make install-runner`` as well.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.runs import archive, verification
from buddy_ops.runs.manifest import ManifestEntry
from tests.checks.test_readiness import ready
from tests.conftest import Situation
from tests.resilience.harness import lease_minutes, must_be_whole
from tests.runs.test_archive import alone
from tests.system.runbooks.test_nbval import settled
from tests.system.test_wheels import committed
from tests.system.test_workflows import steps

Bring = Callable[..., Situation]
ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
WORKFLOWS = ROOT / ".github" / "workflows"
LIMIT_S = 150.0

GRACE = {signal.SIGINT: 7.5, signal.SIGTERM: 2.5}
"""Seconds that a cancelled step has after each signal. Source: GitHub's workflow cancellation reference."""

REVIEWED = ("code reviewed", "documentation updated", "on-call notified")
"""Items of the checklist that a person answers for in each environment."""

AWS_CLI = """#!{python}
import sys
import boto3
service, copy, _, source, target = sys.argv[1:]
assert (service, copy) == ("s3", "cp"), sys.argv
bucket, _, key = source.removeprefix("s3://").partition("/")
boto3.client("s3").download_file(bucket, key, target)
"""


@dataclass
class Job:
    """A job on a machine of GitHub's: its checkout, and what its steps find in their environment."""

    workflow: str
    folder: Path
    given: Mapping[str, Mapping[str, str]]
    environment: dict[str, str]
    codes: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def scripts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The steps that run a script, by their names."""
        for step in steps(WORKFLOWS / f"{self.workflow}.yml"):
            if "run" in step:
                yield step.get("name", step["run"]), step

    def is_due(self, condition: str) -> bool:
        """Whether a step runs now: as the runner decides it, for the conditions that there are."""
        failed = any(self.codes.values())
        if condition == "always()":
            return True
        if condition == "inputs.build != ''":
            return not failed and self.given["inputs"]["build"] != ""
        assert condition == "", condition
        return not failed

    def begin(self, name: str, step: Mapping[str, Any]) -> "subprocess.Popen[str]":
        """Start a step's script as the runner does where no shell is named.

        Source: GitHub's workflow syntax, jobs.<job_id>.steps[*].shell.
        """
        own = {}
        for variable, expression in step.get("env", {}).items():
            found = re.fullmatch(r"\$\{\{ (inputs|matrix)\.(\w+) \}\}", expression)
            assert found is not None, expression
            own[variable] = self.given[found[1]][found[2]]
        script = self.folder.parent / "script.sh"
        script.write_text(step["run"], "utf-8")
        return subprocess.Popen(
            ["bash", "-e", str(script)],
            cwd=self.folder,
            env={**self.environment, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.said[name], _ = process.communicate(timeout=LIMIT_S)
        self.codes[name] = process.returncode

    def run(self, until: str = "") -> "Job":
        """Run the steps that are left; with ``until``, those before it."""
        for name, step in self.scripts():
            if name == until:
                break
            if name not in self.codes and self.is_due(step.get("if", "")):
                self.end(name, self.begin(name, step))
        return self

    def summary(self) -> str:
        path = Path(self.environment["GITHUB_STEP_SUMMARY"])
        return path.read_text("utf-8") if path.exists() else ""

    def must_be_archived(self) -> ManifestEntry:
        """The one run is archived whole, and the index names it: what the last step uploads."""
        runs = self.folder / "runs"
        (entry,) = archive.list_entries(runs)
        assert set(entry.files) == {"notebook.ipynb", "report.html", "journal.jsonl"}
        assert verification.verify_archive(alone(runs, self.folder.parent / "alone")).problems == ()
        assert entry.run in (runs / "index.html").read_text("utf-8")
        return entry


def pretend_installed(environment: Path) -> None:
    """Let ``make install-runner`` find what it would install, newer than the locks."""
    (environment / "bin").mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (environment / "bin" / "buddy-ops").symlink_to(BIN / "buddy-ops")
    (environment / "bin" / "uv").touch()
    (environment / ".run").touch()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A machine of GitHub's: ``job("runbook", runbook="strategies/canary", environment="staging")``."""
    folder = tmp_path / "checkout"
    for path in committed("."):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    cli = tmp_path / "bin" / "aws"
    cli.parent.mkdir()
    cli.write_text(AWS_CLI.format(python=sys.executable), "utf-8")
    cli.chmod(0o755)

    def start(workflow: str, installed: bool = True, **given: str) -> Job:
        monkeypatch.delenv("BUDDY_OPS_RUN_FOLDER", raising=False)
        if installed:
            pretend_installed(folder / ".venv")
        environment = {
            **os.environ,
            "PATH": f"{cli.parent}:{os.environ['PATH']}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        }
        inputs = {"parameters": "{}", "build": "", **given}
        return Job(workflow, folder, {"inputs": inputs, "matrix": given}, environment)

    return start


def uploaded(here: Situation, profile: str) -> str:
    """A build in a bucket, which no version has yet; its address."""
    here.client("s3").create_bucket(Bucket="builds")
    here.client("s3").upload_file(here.build(profile, "9.0.0"), "builds", f"{profile}.zip")
    return f"s3://builds/{profile}.zip"


def canary(here: Situation, profile: str, **parameters: Any) -> dict[str, str]:
    """What a person types to ship a build."""
    return {
        "runbook": "strategies/canary",
        "environment": here.environment,
        "build": uploaded(here, profile),
        "parameters": json.dumps({"approved_by": ["Ada"], **parameters}),
    }


@pytest.mark.parametrize(
    ("profile", "code", "serves"),
    [pytest.param("good", 0, "2", marks=pytest.mark.whole), ("errors_5_percent", 3, "1")],
)
def test_a_build_is_shipped_or_rolled_back(
    situation: Bring, job: Callable[..., Job], profile: str, code: int, serves: str
) -> None:
    """From the bucket to the alias: the job's exit code is the run's, its archive is whole, and the summary names it."""
    here = situation("good", environment="staging", requests_per_minute=3000, history_minutes=30)
    done = job("runbook", **canary(here, profile)).run()
    assert done.codes["run"] == code, done.said["run"]
    assert all(other == 0 for name, other in done.codes.items() if name != "run"), done.said
    assert here.alias()["FunctionVersion"] == serves and "RoutingConfig" not in here.alias()
    entry = done.must_be_archived()
    assert (entry.exit_code, entry.people, entry.environment) == (code, ("Ada",), "staging")
    assert entry.result in done.summary() and entry.sha256 in done.summary()


@pytest.mark.whole
def test_a_runner_installs_what_a_runbook_needs(situation: Bring, job: Callable[..., Job]) -> None:
    """``make install-runner`` as well, into the checkout: a bad build is rolled back by what it installed."""
    here = situation("good", environment="staging", requests_per_minute=3000, history_minutes=30)
    done = job("runbook", installed=False, **canary(here, "errors_5_percent")).run()
    assert done.codes["make install-runner"] == 0, done.said
    assert done.codes["run"] == 3, done.said["run"]
    done.must_be_archived()


@pytest.mark.whole
def test_prod_is_shipped_to_as_its_rules_demand(situation: Bring, job: Callable[..., Job]) -> None:
    """The checklist of the build, then the plan, then two people's approval of its ID: three jobs, in the hours allowed."""
    here = situation("good", environment="prod", requests_per_minute=3000, history_minutes=30)
    settled(here)
    here.ask("advance", seconds=9 * 3600)
    attested = dict.fromkeys(("the build has served in staging", "canary monitoring is watched", *REVIEWED), "Ada")
    given = canary(here, "good") | {"parameters": json.dumps({"attested": attested})}
    checked = job("runbook", **given | {"runbook": "operations/pre_deployment"}).run()
    assert checked.codes["run"] == 0, checked.said["run"]
    planned = job("runbook", **given | {"parameters": "{dry_run: true}"}).run()
    assert planned.codes["run"] == 0, planned.said["run"]
    (plan,) = set(re.findall(r"\bp[0-9a-f]{8,}\b", planned.summary()))
    approved = json.dumps({"approved_by": ["Ada", "Grace"], "approved_plan": plan})
    done = job("runbook", **given | {"parameters": approved}).run()
    assert done.codes["run"] == 0, done.said["run"]
    assert here.alias()["FunctionVersion"] == "3" and "RoutingConfig" not in here.alias()


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def cancel(process: "subprocess.Popen[str]", seconds: Mapping[signal.Signals, float]) -> None:
    """End a step as GitHub does: signals to its first process, each with a time to end, then the whole tree is killed."""
    for number, wait_s in seconds.items():
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
    if process.poll() is None:
        for each in (*descendants(process.pid), process.pid):
            os.kill(each, signal.SIGKILL)


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [
        pytest.param(GRACE, "interrupted", id="it ends in time"),
        pytest.param({}, "killed", id="it is killed", marks=pytest.mark.whole),
    ],
)
def test_a_cancelled_canary_is_archived_and_its_traffic_taken_back(
    situation: Bring, job: Callable[..., Job], seconds: Mapping[signal.Signals, float], outcome: str
) -> None:
    """The run archives itself if it may, or else the step behind it does; the failsafe takes back the split traffic."""
    here = situation("good", environment="staging", requests_per_minute=600, history_minutes=30)
    done = job("runbook", **canary(here, "good")).run(until="run")
    step = dict(done.scripts())["run"]
    process = done.begin("run", step)
    # The first look at the metrics of the split traffic gets no answer: the canary stays where it is.
    wait_for(process, lambda: "RoutingConfig" in here.alias())
    here.ask("chaos", kind="silent", operation="GetMetricData", times=99)
    wait_for(process, lambda: here.ask("chaos/seen")["struck"])
    cancel(process, seconds)
    here.ask("chaos")
    done.end("run", process)
    assert done.codes["run"] == (1 if seconds else -signal.SIGKILL), done.said["run"]
    done.run()
    assert done.codes["archive what was left"] == 0, done.said
    entry = done.must_be_archived()
    assert (entry.outcome, entry.people, entry.runbook) == (outcome, ("Ada",), "strategies/canary")
    assert "RoutingConfig" in here.alias()
    here.ask("advance", seconds=60 * (lease_minutes() + 1))
    must_be_whole(here, "1")


def wait_for(process: "subprocess.Popen[str]", what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.whole
@pytest.mark.parametrize("code", [0, 1])
def test_the_nightly_audit_ends_as_it_found_things(situation: Bring, job: Callable[..., Job], code: int) -> None:
    """0 where a rollback would work, 1 where an alarm is gone; archived and summed up."""
    here, target = ready(situation, environment="staging")
    if code:
        here.client("cloudwatch").delete_alarms(AlarmNames=[f"{here.function}-error-rate"])
    done = job("audit", environment="staging")
    given = {"environment": "staging", "settings": target.settings.model_dump(mode="json")}
    (done.folder / "parameters" / "staging.yaml").write_text(json.dumps(given))
    done.run()
    assert done.codes["audit"] == code, done.said["audit"]
    assert all(other == 0 for name, other in done.codes.items() if name != "audit"), done.said
    entry = done.must_be_archived()
    assert (entry.runbook, entry.exit_code) == ("review/readiness_audit", code)
    assert entry.result in done.summary()
