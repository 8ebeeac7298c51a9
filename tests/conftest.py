"""A sandbox for the tests: one process a worker, brought into a situation by each test that asks for it."""

import gc
import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import pytest

from buddy_ops.aws import session
from buddy_ops.aws.aliases import RolloutState, decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.cli import sandbox
from buddy_ops.core import project
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.deployment import rollout
from buddy_ops.deployment.rollout import Observation, Order, Outcome
from buddy_ops.deployment.rollout_plan import RolloutPlan
from buddy_sandbox import situations
from tests import programs

ROOT = Path(__file__).parents[1]
WHOLE = bool(os.environ.get("BUDDY_TESTS_FRESH"))
"""Whether ``make test-all`` runs."""


def sampled(cases: Iterable[Any], daily: Container[Any] | slice) -> list[Any]:
    """The cases of a matrix, for ``parametrize``: ``make test`` runs those in ``daily``, or a slice; ``make test-all`` all."""
    all_cases = list(cases)
    if isinstance(daily, slice):
        kept = set(range(len(all_cases))[daily])
    else:
        kept = {number for number, case in enumerate(all_cases) if case in daily}
    return [_case(case, number in kept) for number, case in enumerate(all_cases)]


def _case(case: Any, daily: bool) -> Any:
    """A case for ``parametrize`` from its values, or from what ``pytest.param`` made."""
    made = (
        case if isinstance(case, type(pytest.param())) else pytest.param(*(case if isinstance(case, tuple) else [case]))
    )
    return made if daily else made._replace(marks=(*made.marks, pytest.mark.whole))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the crash, fault and race matrices covered, a line for each runbook or pair: only what passed."""
    tally = Counter[tuple[str, str]]()
    for report in terminalreporter.stats.get("passed", ()):
        for key, value in report.user_properties:
            if key == "matrix":
                kind, name, count = value
                tally[kind, name] += count
    if tally:
        terminalreporter.section("matrices: what passed")
    for (kind, name), count in sorted(tally.items()):
        terminalreporter.line(f"{kind:<13}{name:<55}{count:>6,}")


def _check_file(file: Any) -> None:
    """Raise OSError for a file that is not open, as ``os.fsync`` does."""
    os.fstat(file if isinstance(file, int) else file.fileno())


def pytest_configure() -> None:
    """No test may see this machine's own AWS settings, whether it is CI, or search for credentials on the network."""
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    # Each kernel and supervisor would compile the library again: a fifth of a notebook's CPU time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "CI", "GITHUB_ACTIONS"):
        os.environ.pop(name, None)
    for name in ("BUDDY_OPS_ENVIRONMENT", "NO_COLOR", "FORCE_COLOR"):
        os.environ.pop(name, None)
    # A shell starts what goes to the background with SIGINT ignored, nohup with SIGHUP. Our programs keep what they
    # inherit, and tests send them both.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    # Each target opens a session of its own, and would parse the models of its services again: 0.2 s of CPU time.
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    if not WHOLE:
        # Tests kill processes and never the machine: what a process has written is there. A disk takes 3 to 10 ms.
        os.fsync = _check_file
    programs.install()


def pytest_collection_finish() -> None:
    """Do not search for garbage in what was imported and collected, again and again: an eighth of the CPU time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


KERNEL_FOLDERS = ("tests/resilience/", "tests/system/runbooks/", "tests/system/browser/")
FIRST = ("tests/aws/test_permissions.py", "tests/system/browser/", "tests/system/runbooks/", "tests/resilience/")
"""The folders whose tests take longest, longest first."""

LAST_OF_ALL = "tests/fleet/test_engine.py"
"""It uses Dask in the test's own process, whose programs start by exec from then on."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a process, and begin with what takes longest, so that no worker ends with it alone."""

    def rank(item: pytest.Item) -> int:
        if LAST_OF_ALL in item.nodeid:
            return len(FIRST) + 1
        places = [number for number, place in enumerate(FIRST) if place in item.nodeid]
        return places[0] if places else len(FIRST)

    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"sandbox_url", "situation", "two_versions"}:
            item.add_marker("sandbox")
        if any(folder in item.nodeid for folder in KERNEL_FOLDERS):
            item.add_marker("kernel")
    items.sort(key=rank)


LAST = threading.local()
"""The target that a thread connected last."""


class Situation(situations.Situation):
    """A sandbox in a situation, with the library's own way to act in it."""

    def connect(self, runbook: str = "test", **options: Any) -> Target:
        """A target without the environment's rules on when, by whom and after what; those have tests of their own."""
        free = {**project.read_settings(self.environment)[0], "policy": {}}
        free["rollout"]["smoke_tested"] = ["all_at_once", "blue_green"]
        # What is watched once a version is healthy has tests of its own.
        free["rollout"]["watch_after_proof_minutes"] = 0
        # The sandbox's time stands still for 20 s while a target that has waited once is at work: the thread's last one
        # is idle now. It is counted again as soon as it waits.
        if (last := getattr(LAST, "target", None)) is not None:
            last.clock.close()
        LAST.target = session.connect(self.environment, runbook, **{"values": free, **options})
        return LAST.target

    def publish(self, build: str, settle_s: float = 60) -> str:
        """One more version, of the zip at this path, without traffic; its number. Time passes while it settles."""
        lam = self.client("lambda")
        lam.update_function_code(FunctionName=self.function, ZipFile=Path(build).read_bytes())
        self.ask("advance", seconds=settle_s)
        version = str(lam.publish_version(FunctionName=self.function)["Version"])
        self.ask("advance", seconds=settle_s)
        return version

    def ship_by_hand(self, profile: str) -> None:
        """A build that serves at once, behind an alias whose Description says nothing."""
        version = self.publish(self.build(profile))
        self.client("lambda").update_alias(FunctionName=self.function, Name="live", FunctionVersion=version)

    def record(self) -> RolloutState:
        """The deployment record on the alias, which must have one."""
        found = decode_rollout_state(self.alias()["Description"])
        assert found is not None
        return found

    def ship(self, artifact: str, **options: Any) -> Outcome:
        """A whole canary, without notebook and picture."""
        here = self.connect(**options)
        plan = rollout.plan_rollout(here, artifact)
        outcome = rollout.drive_rollout(here, rollout.run_rollout(here, plan, approve(here, plan)))
        here.close()
        return outcome


@contextmanager
def monitored(here: Situation, **rollout_settings: Any) -> Iterator[Target]:
    """A target with short stages, that monitors a healthy version for 45 minutes."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"] |= {"watch_after_proof_minutes": 45, "stages_percent": [50, 100], "bake_minutes": 2}
    values["rollout"] |= rollout_settings
    mine = here.connect(values=values)
    try:
        yield mine
    finally:
        mine.close()


def begun(mine: Target, artifact: str, strategy: str = "canary") -> rollout.Rollout:
    """A rollout of a build, before its first poll."""
    plan = rollout.plan_rollout(mine, artifact, strategy)
    return rollout.run_rollout(mine, plan, approve(mine, plan))


def driven_to_end(mine: Target, steps: rollout.Rollout, seen: Observation, order: Order | None = None) -> Outcome:
    """Drive a rollout from an observation to its end; ``order`` is given at the next poll."""
    try:
        while True:
            mine.clock.sleep_until(seen.wake_at)
            seen = steps.send(order)
            order = None
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def intercept(mine: Target, call: Callable[..., Any]) -> None:
    """Let ``call(send, service, operation, **fields)`` answer each AWS call of a target; ``send`` passes one on."""
    perform = mine.perform

    def answer(service: str, operation: str, parameters: dict[str, Any], sent: Any) -> Any:
        def send(service: str, operation: str, **fields: Any) -> Any:
            return perform(service, operation, fields, sent)

        return call(send, service, operation, **parameters)

    mine.perform = answer  # type: ignore[method-assign]


def two_environments(here: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with one environment more, 'beta': the alias of this name of the sandbox's function, at version 1."""
    here.client("lambda").create_alias(FunctionName=here.function, Name="beta", FunctionVersion="1")
    folder = here.folder / "project"
    for name in ("parameters", "notebooks"):
        shutil.copytree(ROOT / name, folder / name)
    values, _ = project.read_settings("sandbox")
    beta = {"environment": "beta", "settings": {**values, "alias": "beta"}}
    (folder / "parameters" / "beta.yaml").write_text(json.dumps(beta), "utf-8")
    monkeypatch.chdir(folder)


def call_failed(mine: Target, version: str, reason: str) -> None:
    """Let Lambda say that a version is Failed."""

    def failed(send: Any, service: str, operation: str, **given: Any) -> Any:
        reply = send(service, operation, **given)
        if operation == "get_function_configuration" and given.get("Qualifier") == version:
            reply |= {"State": "Failed", "StateReason": reason}
        return reply

    intercept(mine, failed)


def approve(here: Target, plan: Plan) -> Approval:
    """An approval of this plan, by nobody in particular."""
    return Approval(plan.hash, ("Ada", "Grace"), here.clock.now(), "arn:aws:sts::123456789012:user/test")


def abandon(mine: Target, plan: RolloutPlan, stage: str = "", weight: float = 0.0) -> None:
    """A rollout until its new version has traffic, or is at this stage or weight; then its run is gone."""
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    for seen in steps:
        if seen.weight and stage in ("", seen.stage) and weight in (0.0, seen.weight):
            break
        mine.clock.sleep_until(seen.wake_at)
    steps.close()


def drive(mine: Target, plan: RolloutPlan, at_each: Callable[[rollout.Observation], Order | None]) -> rollout.Outcome:
    """Carry a plan out to its end, as ``follow`` does."""
    return follow(mine, rollout.run_rollout(mine, plan, approve(mine, plan)), at_each)


def follow(
    mine: Target, steps: rollout.Rollout, at_each: Callable[[rollout.Observation], Order | None]
) -> rollout.Outcome:
    """Go on with a rollout to its end, and close the target.

    Args:
        at_each: is called with each poll, before its wait, and returns an order or None.
    """
    order: Order | None = None
    try:
        while True:
            seen = steps.send(order)
            order = at_each(seen)
            mine.clock.sleep_until(seen.wake_at)
    except StopIteration as end:
        outcome: rollout.Outcome = end.value
        return outcome
    finally:
        mine.close()


@pytest.fixture
def fresh_processes() -> Iterator[None]:
    """Programs of ours start as they do outside the tests: by exec, with nothing imported."""
    programs.uninstall()
    yield
    programs.install()


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    with sandbox.running_sandbox(seed=7) as url:
        yield url


@pytest.fixture
def situation(sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Situation]:
    """Brings the sandbox into a situation: ``situation("good", environment="prod", requests_per_minute=60)``."""

    def bring(name: str, environment: str = "sandbox", seed: int = 7, **overrides: Any) -> Situation:
        monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox_url)
        monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(tmp_path / "run"))
        sandbox.call_sandbox(sandbox_url, "set", outage=None)
        sandbox.call_sandbox(
            sandbox_url, "scenario", name=name, environment=environment, seed=seed, overrides=overrides
        )
        return Situation(sandbox_url, environment, tmp_path)

    return bring


@pytest.fixture
def two_versions(situation: Callable[..., Situation]) -> Situation:
    """v2 is live, v1 served before."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    lam = here.client("lambda")
    lam.update_function_configuration(FunctionName=here.function, Description="so that it is another version")
    here.ask("advance", seconds=10)
    lam.publish_version(FunctionName=here.function)
    here.ask("advance", seconds=10)
    lam.update_alias(FunctionName=here.function, Name="live", FunctionVersion="2")
    return here
