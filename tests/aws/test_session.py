"""The door: which AWS a runbook acts on, what it says when it cannot, and what its journal keeps."""

import ast
import asyncio
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import _credentials, aliases, session
from buddy_ops.aws.clock import SystemClock, _Reading
from buddy_ops.core import project
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput
from buddy_ops.core.settings import Settings
from buddy_ops.fleet.targets import READERS
from buddy_ops.incidents import timeline
from buddy_ops.notebook import opening
from tests.conftest import Situation

Bring = Callable[..., Situation]
VALUES = {"function": "buddy-alexa-skill"}
OTHER = "222222222222"


def acting_as(role: str) -> dict[str, Any]:
    return {"function": "shop", "aws": {"region": "us-east-1", "assume_role": role}}


def test_threads_that_share_a_client_share_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps one for each of a fleet's readers: to open one for a call costs more than the call."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost.example")
    settings = Settings(function="shop", aws={"region": "us-east-1"})
    client = session.connect_reader("prod", settings, "t").client("lambda")
    assert client.meta.config.max_pool_connections >= 2 * READERS


@pytest.fixture
def here(situation: Bring) -> Situation:
    return situation("good", history_minutes=0, requests_per_minute=0)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any AWS settings, and without a sandbox; the file in which AWS's own settings may be written."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(tmp_path / "run"))
    return tmp_path / "config"


# Which AWS


def test_the_settings_region_comes_first(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's file, then AWS_REGION (which boto3 itself ignores), then the profile's own region."""
    alone.write_text("[profile buddy]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_PROFILE", "buddy")
    assert session.connect("dev", "t", values=VALUES, quiet=True).region == "eu-west-3"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert session.connect("dev", "t", values=VALUES, quiet=True).region == "eu-west-1"
    chosen = {**VALUES, "aws": {"region": "us-west-2"}}
    assert session.connect("dev", "t", values=chosen, quiet=True).region == "us-west-2"


def test_without_a_region_nothing_is_guessed(alone: Path) -> None:
    """No region anywhere is a clear message, and no region is assumed."""
    with pytest.raises(InvalidInput, match="no-region") as refused:
        session.connect("dev", "t", values=VALUES, quiet=True)
    assert "AWS_REGION" in refused.value.next


def test_an_environment_may_name_the_role_that_acts(
    here: Situation, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard credentials take it on, under the run's own name; without any credentials the first call says so."""
    monkeypatch.setattr(_credentials, "is_sandbox", lambda endpoint: False)
    now = datetime.fromtimestamp(here.ask("clock")["now"], UTC)
    monkeypatch.setattr(SystemClock, "now", lambda _: now)  # the sandbox's credentials last an hour of its own time
    role = "arn:aws:iam::123456789012:role/buddy-ops-prod-deployer"
    trust = {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}
    here.client("iam").create_role(
        RoleName="buddy-ops-prod-deployer",
        AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
    )
    acting = {**VALUES, "aws": {"region": "us-east-1", "endpoint_url": here.endpoint, "assume_role": role}}
    with pytest.raises(AwsFailed, match="no-credentials"):
        assert session.connect("prod", "t", values=acting, quiet=True).principal
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assumed = session.connect("prod", "t", values=acting, quiet=True, run="7f3a")
    assert assumed.principal == "arn:aws:sts::123456789012:assumed-role/buddy-ops-prod-deployer/buddy-ops-7f3a"
    with pytest.raises(InvalidInput, match="invalid-settings"):
        session.connect("prod", "t", values={**VALUES, "aws": {"assume_role": "deployer"}}, quiet=True)


def test_a_role_of_another_account_acts_on_the_sandbox_too(here: Situation, tmp_path: Path) -> None:
    """Its keys are renewed as virtual time passes, and are in no journal."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "app.py").write_text("def handler(event, context):\n    return event\n")
    shop = {"name": "shop", "artifact": str(tmp_path / "shop"), "account": OTHER, "requests_per_minute": 0}
    here.ask("function", **shop, history_minutes=0)
    mine = here.connect(values=acting_as(f"arn:aws:iam::{OTHER}:role/buddy-ops"), run="7f3a")
    assert mine.sandbox and mine.account == OTHER
    assert mine.principal == f"arn:aws:sts::{OTHER}:assumed-role/buddy-ops/buddy-ops-7f3a"
    first = mine.session.get_credentials().access_key
    here.ask("advance", seconds=3 * 3600)
    alias = mine.client("lambda").get_alias(FunctionName="shop", Name="live")
    assert alias["AliasArn"].split(":")[4] == OTHER
    keys = mine.session.get_credentials()
    assert keys.access_key != first
    assert mine.redactor.redact(f"{keys.secret_key} {keys.token}") == "[redacted] [redacted]"


@pytest.mark.parametrize("role", [f"arn:aws:iam::{OTHER}:role/missing", "arn:aws:iam::123456789012:role/closed"])
def test_a_role_that_may_not_be_assumed_is_a_clear_message(here: Situation, role: str) -> None:
    """It is missing, or it trusts others only; as AWS says it, at the first call."""
    trust = {"Effect": "Allow", "Principal": {"AWS": "999999999999"}, "Action": "sts:AssumeRole"}
    here.client("iam").create_role(
        RoleName="closed", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    with pytest.raises(AwsFailed, match="access-denied") as refused:
        assert here.connect(values=acting_as(role)).principal
    assert f"sts:AssumeRole on resource: {role}" in refused.value.what


def test_a_profile_that_is_not_there_is_named(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the environment's file or AWS_PROFILE names it."""
    chosen = {**VALUES, "aws": {"region": "us-east-1", "profile": "buddy-staging"}}
    with pytest.raises(InvalidInput, match="no-profile") as refused:
        session.connect("dev", "t", values=chosen, quiet=True)
    assert "buddy-staging" in refused.value.what
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    with pytest.raises(InvalidInput, match="no-profile") as refused:
        session.connect("dev", "t", values={**VALUES, "aws": {"region": "us-east-1"}}, quiet=True)
    assert "elsewhere" in refused.value.what


def test_a_sandbox_that_does_not_run_is_a_clear_message(alone: Path) -> None:
    """The address is named, nothing was read or written, and the next step is a command."""
    with pytest.raises(AwsFailed, match="sandbox-not-running") as refused:
        session.connect("sandbox", "t", values={**VALUES, "aws": {"region": "x", "endpoint_url": "http://127.0.0.1:9"}})
    assert "http://127.0.0.1:9" in refused.value.what and refused.value.now == "Nothing was changed."
    assert "buddy-ops sandbox start" in refused.value.next


@contextmanager
def web(status: int, body: bytes) -> Iterator[str]:
    """Some other program that speaks HTTP on this machine; its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"<html>hello</html>"), (200, b"[]"), (200, b"{}")])
def test_another_program_on_the_port_is_not_taken_for_the_sandbox(alone: Path, status: int, body: bytes) -> None:
    """Whatever else answers at the endpoint, time is the system's, and the first AWS call tells what is wrong."""
    with web(status, body) as url:
        mine = session.connect(
            "sandbox", "t", values={**VALUES, "aws": {"region": "x", "endpoint_url": url}}, quiet=True
        )
        assert not mine.sandbox and isinstance(mine.clock, SystemClock)


def test_the_environments_endpoint_gives_way_to_the_variable(here: Situation) -> None:
    """AWS_ENDPOINT_URL comes before the file, so that two sandboxes can be used at a time."""
    values = {**VALUES, "aws": {"region": "us-east-1", "endpoint_url": "http://127.0.0.1:9"}}
    mine = here.connect(values=values, quiet=True)
    assert mine.endpoint_url == here.endpoint and mine.sandbox


def test_the_sandbox_never_sees_credentials(here: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sandbox no key of a real account is used, even where one lies ready."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    mine = here.connect(quiet=True)
    assert mine.session.get_credentials().access_key == "sandbox"
    assert aliases.read_alias(mine) is not None


@pytest.mark.parametrize(
    "name", ["../parameters/sandbox", "..", "sandbox.yaml", "", "Sandbox", "/etc/passwd", "prod\0"]
)
def test_an_unknown_environment_is_refused(here: Situation, name: str) -> None:
    """Only the files in parameters/ are environments: no path, no other spelling; those there are are listed."""
    with pytest.raises(InvalidInput, match="unknown-environment") as refused:
        session.connect(name, "t", quiet=True)
    assert "dev, prod, sandbox, staging" in refused.value.what


def test_a_target_says_where_it_acts(here: Situation) -> None:
    """Environment, function, alias, whose account, region and run stand in the banner; a dry run says so first."""
    mine = here.connect(run="7f3a")
    shown = mine._repr_markdown_()
    for part in ("sandbox", here.function, "`live`", here.endpoint, "us-east-1", "7f3a", mine.principal):
        assert part in shown
    assert "Dry run" not in shown
    assert here.connect(dry_run=True)._repr_markdown_().startswith("**Dry run: nothing will be written.**")


def test_production_has_a_red_banner(here: Situation) -> None:
    """White on red, which is readable in both themes; the sandbox has none, whatever its environment is called."""
    mine = here.connect()
    assert mine._repr_html_() is None
    prod = replace(mine, environment="prod", sandbox=False, endpoint_url=None)
    shown = prod._repr_html_() or ""
    assert "background:#b00020" in shown and "PRODUCTION</b> prod: function buddy-alexa-skill-sandbox" in shown
    assert f"AWS account {mine.account}" in shown and "us-east-1" in shown


# Its calls


def test_a_call_is_journaled_without_payloads(here: Situation) -> None:
    """Service, operation, parameters and AWS's request id are kept; code, secrets and people's words are not."""
    mine = here.connect()
    lam = mine.client("lambda").get_function_configuration(FunctionName=here.function)
    secret = {"Variables": {"TOKEN": "hunter2"}}
    mine.client("lambda").update_function_configuration(FunctionName=here.function, Environment=secret)
    mine.client("ssm").put_parameter(Name="/x", Value="hunter2", Type="SecureString")
    mine.client("lambda", attempts=1).invoke(
        FunctionName=here.function, Qualifier="1", Payload=b'{"request": "hunter2"}'
    )
    text = (here.folder / "run" / "journal.jsonl").read_text()
    told = [json.loads(line) for line in text.splitlines()]
    assert [each["kind"] for each in told] == ["opened", "aws", "aws", "aws", "aws"]
    assert told[1]["call"] == "lambda:get_function_configuration"
    assert told[1]["parameters"] == {"FunctionName": here.function}
    assert told[1]["request"] == lam["ResponseMetadata"]["RequestId"]
    assert "hunter2" not in text


def test_a_failed_call_is_journaled_with_its_code(here: Situation) -> None:
    """AWS's own name for the failure stands in the journal, and in the error."""
    mine = here.connect()
    with pytest.raises(AwsFailed) as failed:
        mine.client("lambda").get_alias(FunctionName=here.function, Name="nobody")
    assert failed.value.code == "ResourceNotFoundException" and failed.value.reference == "not-found"
    assert mine.journal.records[-1]["failed"] == "ResourceNotFoundException"


def test_a_journal_that_cannot_be_written_stops_nothing(here: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be made, or a full disk, is told by ``side``; calls and records go on."""
    (here.folder / "file").write_text("in the way")
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "file" / "run"))
    mine = here.connect()
    assert aliases.read_alias(mine) is not None
    (said,) = mine.side.unsaid()
    assert said.startswith("The journal failed (NotADirectoryError:")
    assert [each["kind"] for each in mine.journal.records] == ["opened", "aws"]


def test_a_quiet_target_leaves_no_file(here: Situation) -> None:
    """A command that only looks leaves nothing behind."""
    aliases.read_alias(here.connect(quiet=True))
    assert not (here.folder / "run").exists()


def test_a_function_that_is_not_there_is_named(here: Situation) -> None:
    """Function and region stand in the message, and nothing was written."""
    with pytest.raises(InvalidInput, match="function-missing") as refused:
        aliases.read_alias(
            here.connect(values={**VALUES, "function": "buddy-alexa-skill-sandbax", "aws": {"region": "us-east-1"}})
        )
    assert "buddy-alexa-skill-sandbax" in refused.value.what and "us-east-1" in refused.value.what


def test_what_is_sent_to_lambda_invoke_is_sent_once(alone: Path) -> None:
    """A smoke test acts: it is not repeated by the SDK. A read is tried three times."""
    with web(500, b"{}") as url:
        values = {**VALUES, "aws": {"region": "us-east-1", "endpoint_url": url}}
        mine = session.connect("sandbox", "t", values=values, quiet=True)
        assert mine.client("lambda", attempts=1).meta.config.retries["total_max_attempts"] == 1
        assert mine.client("lambda").meta.config.retries["total_max_attempts"] == 3
        with pytest.raises(TypeError, match="attempts=1"):
            mine.client("lambda").invoke(FunctionName="f")


# Its time


class Watch(SystemClock):
    """A system's clock whose readings a test sets, in seconds."""

    elapsed_s = 1000.0
    machine_s = datetime(2026, 11, 2, 3, 0, tzinfo=UTC).timestamp()

    def _read(self) -> _Reading:
        return _Reading(self.elapsed_s, self.machine_s)


def test_this_machines_clock_is_corrected_by_awss() -> None:
    """A laptop that is minutes off would set a failsafe in the past: a reply's Date corrects it, seconds do not."""
    clock = Watch()
    began = clock.now()
    assert clock.correct(began + timedelta(minutes=7), began) == timedelta(minutes=7)
    assert clock.now() == began + timedelta(minutes=7)
    assert clock.correct(began, clock.now()) == -timedelta(minutes=7)
    assert clock.correct(began + timedelta(seconds=2), clock.now()) == timedelta()
    assert clock.now() == began


@pytest.mark.parametrize("step_s", [-3600, -600, 600, 3600])
def test_a_step_of_this_machines_clock_changes_nothing(step_s: float) -> None:
    """A resume, a migrated VM or NTP sets the machine's clock: elapsed time counts, so no wait is cut or lengthened."""
    clock = Watch()
    began = clock.now()
    clock.machine_s += step_s
    clock.elapsed_s += 30
    assert clock.now() == began + timedelta(seconds=30)
    assert clock.now() and [jump.by_s for jump in clock.jumps] == [step_s - 30]
    clock.machine_s += 2
    assert clock.now() and len(clock.jumps) == 1


@pytest.mark.parametrize("wait", ["sleep_until", "wait"])
def test_a_machine_that_is_suspended_in_a_wait_is_noticed(monkeypatch: pytest.MonkeyPatch, wait: str) -> None:
    """Its clocks agree afterwards, and the run did not execute: the jump says for how long."""
    clock = Watch()
    began = clock.now()

    def pass_time(seconds: float) -> None:
        # The third slice takes an hour.
        slices.append(seconds)
        passed = 3600.0 if len(slices) == 3 else seconds
        clock.elapsed_s += passed
        clock.machine_s += passed

    async def pass_time_later(seconds: float) -> None:
        pass_time(seconds)

    slices: list[float] = []
    monkeypatch.setattr(time, "sleep", pass_time)
    monkeypatch.setattr(asyncio, "sleep", pass_time_later)
    until = began + timedelta(seconds=60)
    if wait == "wait":
        asyncio.run(clock.wait(until))
    else:
        clock.sleep_until(until)
    (jump,) = clock.jumps
    assert jump.suspended and jump.by_s == 3600 and jump.at == clock.now()
    assert "did not execute for 60 min" in jump.describe()


def test_a_jump_of_the_clock_is_journalled_once(here: Situation) -> None:
    """With the next call of AWS, whatever waits."""
    mine = here.connect()
    mine.client("lambda").list_aliases(FunctionName=here.function)
    here.ask("set", client_clock_ahead_s=3600)
    for _ in range(2):
        mine.clock.sleep_until(mine.clock.now() + timedelta(minutes=1))
        mine.client("lambda").list_aliases(FunctionName=here.function)
    jumps = [record for record in mine.journal.records if record["kind"] == "clock-jumped"]
    assert [(record["by_s"], record["suspended"]) for record in jumps] == [(3600, False)]
    assert "clock jumped" in timeline.describe_record("clock-jumped", jumps[0])


def test_a_reply_that_was_long_on_its_way_sets_no_clock_back() -> None:
    """Its Date is from between sending and arrival: it says nothing against a clock that has gone on since."""
    clock = Watch()
    sent = clock.now()
    clock.elapsed_s += 40 * 60
    assert clock.correct(sent + timedelta(seconds=1), sent) == timedelta()
    assert clock.now() == sent + timedelta(minutes=40)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_a_clock_that_is_off_is_corrected_by_the_first_reply(here: Situation, ahead_s: float) -> None:
    """The journal says by how much; later steps of the machine's clock change nothing."""
    here.ask("set", client_clock_ahead_s=ahead_s)
    mine = here.connect()
    assert mine.principal
    assert abs(mine.clock.now().timestamp() - here.ask("clock")["now"]) <= 1
    corrections = [record["corrected_by_s"] for record in mine.journal.records if record["kind"] == "clock"]
    assert corrections == [pytest.approx(-ahead_s, abs=1)]
    here.ask("set", client_clock_ahead_s=-ahead_s)
    assert abs(mine.clock.now().timestamp() - here.ask("clock")["now"]) <= 1


def test_the_sandboxs_time_is_the_runs(here: Situation) -> None:
    """Runs, journals and folders tell Buddy's time, not this machine's."""
    mine = here.connect()
    assert mine.clock.now().timestamp() == here.ask("clock")["now"]
    assert mine.journal.records[0]["at"] == "2026-11-02T00:02:00Z"


# From a notebook


CELL = """environment: str = "sandbox"  # which file
settings: dict = {}  # the environment's settings
stages: list[float] = []  # percent
bake_minutes: float | None = None  # minutes
dry_run: bool = False  # only show
"""


def notebook(injected: str = "", *others: str) -> dict[str, Any]:
    """What a kernel's namespace holds after the parameters cell, papermill's own, and perhaps others."""
    cells = [CELL, *([f"# Parameters\n{injected}"] if injected else []), *others]
    namespace: dict[str, Any] = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


def test_a_notebook_opens_with_its_defaults(here: Situation) -> None:
    """Without parameters the environment's file decides everything."""
    mine = opening.open_runbook("t", notebook())
    assert (mine.environment, mine.runbook, mine.dry_run) == ("sandbox", "t", False)
    assert mine.settings.rollout.stages_percent == (10, 50, 100)


def test_what_papermill_injects_is_checked_and_typed(here: Situation) -> None:
    """'false' is not true, and a given policy replaces the file's."""
    namespace = notebook('dry_run = "true"\nstages = [20, 100]\nbake_minutes = 2\n')
    mine = opening.open_runbook("t", namespace)
    assert mine.dry_run is True and namespace["dry_run"] is True
    assert mine.settings.rollout.stages_percent == (20, 100) and mine.settings.rollout.bake_minutes == 2.0
    assert opening.open_runbook("t", notebook('dry_run = "false"\n')).dry_run is False


def test_a_misspelt_parameter_is_refused_before_any_call(here: Situation) -> None:
    """Stock papermill injects any name: the setup cell refuses it, with all other problems, before AWS is asked."""
    before = here.ask("status")["calls"]
    with pytest.raises(InvalidInput, match="invalid-parameters") as refused:
        opening.open_runbook("t", notebook('stagse = [20, 100]\nbake_minutes = "ten"\n'))
    assert "stagse" in refused.value.what and "did you mean stages?" in refused.value.what
    assert "bake_minutes" in refused.value.what and "2 problems" in refused.value.what
    assert here.ask("status")["calls"] == before


def test_a_person_may_edit_the_cell_and_run_it_again(here: Situation) -> None:
    """In JupyterLab the latest run of the parameters cell counts, not what was injected before it."""
    edited = CELL.replace("bake_minutes: float | None = None", "bake_minutes: float | None = 3")
    mine = opening.open_runbook("t", notebook("bake_minutes = 2\n", edited))
    assert mine.settings.rollout.bake_minutes == 3.0


def test_a_policy_that_makes_no_sense_is_refused_before_any_call(here: Situation) -> None:
    """Stages that do not rise are refused by the parameter's name."""
    before = here.ask("status")["calls"]
    with pytest.raises(InvalidInput, match="invalid-settings") as refused:
        opening.open_runbook("t", notebook("stages = [50, 10]\n"))
    assert "stages must rise" in refused.value.what
    assert here.ask("status")["calls"] == before


# Builds


@pytest.mark.parametrize(
    ("path", "reference"),
    [
        ("", "artifact-missing"),
        ("nope.zip", "artifact-missing"),
        ("..", "artifact-missing"),
        ("README.md", "artifact-not-a-zip"),
    ],
)
def test_a_build_that_cannot_be_shipped_is_named(path: str, reference: str) -> None:
    """No path, a missing file, what is around the project and a file that is no zip are told apart, before AWS is asked."""
    with pytest.raises(BuddyError, match=reference) as refused:
        project.read_artifact(path)
    assert refused.value.exit_code == 2 and path in refused.value.what


def test_paths_start_at_the_projects_root(here: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the kernel was started, parameters/, artifacts and runs/ are the project's."""
    root = Path(__file__).parents[2]
    for folder in (root, root / "notebooks" / "strategies", here.folder):
        monkeypatch.chdir(folder)
        assert project.project_root() == root
        assert project.read_settings("prod")[0]["function"] == "buddy-alexa-skill-prod"


def test_a_file_that_papermill_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: Path) -> None:
    """papermill -f takes the second of two policy: sections, and drops the first: the run is refused."""
    for name in ("parameters", "notebooks"):
        (tmp_path / name).mkdir()
    text = "environment: prod\nsettings:\n  function: buddy\n  policy: {hours_between: 24}\n  policy: {}\n"
    (tmp_path / "parameters" / "prod.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="in line 5: the key 'policy' is given twice, the first time in line 4"):
        session.connect("prod", "canary", values={"function": "buddy", "policy": {}})


def test_another_environments_function_is_refused(situation: Bring) -> None:
    """Settings of prod under the name of the sandbox are refused: freezes and policy go by the environment's name."""
    here = situation("good")
    values = dict(project.read_settings("prod")[0])
    with pytest.raises(InvalidInput, match="prod's, not sandbox's"):
        session.connect("sandbox", "test", values=values)
    assert here.calls("GetAlias") == []


def test_runs_have_ids_of_eight_digits(here: Situation) -> None:
    """Of 10,000 runs two have the same id with a probability of 1 %; of four digits, 300 sufficed."""
    ids = {here.connect(quiet=True).run for _ in range(20)}
    assert len(ids) == 20 and all(re.fullmatch("[0-9a-f]{8}", run) for run in ids)


WALL_CLOCK = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time"}


def test_only_this_package_reads_the_machines_clock() -> None:
    """Elsewhere a time is a target's, so that it is AWS's, or the sandbox's."""
    library = Path(session.__file__).parents[1]
    found = []
    for path in library.rglob("*.py"):
        text = path.read_text("utf-8")
        if path.parent.name != "aws" and any(name in text for name in WALL_CLOCK):
            called = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
            found += [f"{path.relative_to(library)}: {name}" for name in called & WALL_CLOCK]
    assert found == []
