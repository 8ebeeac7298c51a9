"""A function of the user's own on the sandbox: deployed by the command, its bad build rolled back, its good one promoted."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import aliases, freezes, session
from buddy_ops.aws.session import Target
from buddy_ops.cli import sandbox
from buddy_ops.core import project
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.kinds import URL_5XX
from buddy_ops.core.outcome import Outcome
from buddy_ops.deployment import rollback, rollout
from tests.cli.command_line import invoke
from tests.conftest import approve

pytestmark = pytest.mark.sandbox

REGIONS = ("us-east-1", "eu-west-1")
COUNTED = {"namespace": "Shop", "name": "Failures"}
METRICS = Path(__file__).parents[2] / "buddy_ops_metrics" / "buddy_ops_metrics.py"
HANDLER = """
from buddy_ops_metrics import Metrics
@Metrics("Shop", "http").log_metrics
def handler(event, context):
    status = 500 if int(context.aws_request_id[-2:], 16) % 10 < BAD else 200
    return {"statusCode": status, "body": event["rawPath"]}
"""


@pytest.fixture(scope="module")
def own() -> Iterator[str]:
    """A sandbox without a scenario."""
    with sandbox.running_sandbox(seed=3) as url:
        yield url


def build(path: Path, bad_tenths: int) -> str:
    """A zip of a handler that answers 500 to so many tenths of its requests, and counts them in EMF."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(METRICS, METRICS.name)
        archive.writestr("app.py", HANDLER.replace("BAD", str(bad_tenths)) + f"# {path.name}\n")
    return str(path)


def connect(url: str, region: str, function: str = "shop", metric: Mapping[str, Any] = COUNTED) -> Target:
    """A target without rules, whose failures one metric counts: by default the handler's."""
    return session.connect("sandbox", "test", values=settings_of(url, region, function, metric))


def settings_of(url: str, region: str, function: str, metric: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        **project.read_settings("sandbox")[0],
        "function": function,
        "policy": {},
        "smoke_tests": [],
        "tables": [],
    }
    values["failure_metrics"] = [metric]
    values["aws"] = {**values["aws"], "endpoint_url": url, "region": region}
    return values


def write_environments(folder: Path, url: str) -> list[str]:
    """A project whose environments differ in the region only; their names."""
    for name in ("parameters", "notebooks"):
        (folder / name).mkdir(parents=True)
    written = {region: settings_of(url, region, "shop", COUNTED) for region in REGIONS}
    for region, values in written.items():
        path = folder / "parameters" / f"{region}.yaml"
        path.write_text(json.dumps({"environment": region, "settings": values}))
    return list(written)


def ship(here: Target, artifact: str) -> str:
    """How a canary of a build ends."""
    return str(deploy(here, artifact).ending)


def deploy(here: Target, artifact: str) -> Outcome:
    """A canary of a build."""
    plan = rollout.plan_rollout(here, artifact)
    outcome = rollout.drive_rollout(here, rollout.run_rollout(here, plan, approve(here, plan)))
    here.close()
    return outcome


def test_a_bad_build_is_rolled_back_while_a_good_one_is_promoted_in_another_region(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the handler decides how a request ends: Lambda counts no error of a build that answers 500.

    The two functions of one name share nothing: versions, alias, deployment record, failsafe, freezes, runs. Settings of
    one environment are refused under the name of the other, whose rules would not hold.
    """
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"rawPath": "/cart"}))
    good = build(tmp_path / "good.zip", 0)
    words = ["--port", own.rpartition(":")[2], "--function", "shop", "--kind", "http", "--requests-per-minute", "200"]
    for region in REGIONS:
        more = ["--artifact", good, "--event", str(event), "--region", region, "--json"]
        started = invoke(capsys, "sandbox", "start", *words, *more)
        assert started.code == 0 and (started.data["region"], started.data["kind"]) == (region, "http")
        assert started.data["requests"]["copied"] == 0
    names = write_environments(tmp_path / "project", own)
    monkeypatch.chdir(tmp_path / "project")
    targets = [session.connect(name, "test") for name in names]
    artifacts = [build(tmp_path / "better.zip", 0), build(tmp_path / "worse.zip", 1)]
    with ThreadPoolExecutor(len(targets)) as both:
        assert list(both.map(ship, targets, artifacts)) == ["proved", "rolled-back"]
    first, second = (session.connect(name, "test") for name in names)
    alias, other = aliases.require_alias(first), aliases.require_alias(second)
    assert (alias.serving, other.serving) == (("2",), ("1",))
    assert alias.rollout is not None and alias.rollout.rejected_versions == ()
    assert other.rollout is not None and other.rollout.rejected_versions == ("2",)
    for each in (first, second):
        assert each.client("scheduler").list_schedules()["Schedules"] == []
    freezes.create_freeze(second, "outage", "Ada", timedelta(hours=1))
    assert [len(freezes.active_freezes(each)) for each in (first, second)] == [0, 1]
    # The good one is rolled back, too: in its own region only.
    plan = rollback.plan_rollback(first)
    rollback.run_rollback(first, plan, approve(first, plan))
    assert aliases.require_alias(first).serving == ("1",) and aliases.require_alias(second) == other
    for name, each in zip(names, (first, second), strict=True):
        each.close()
        journals = list((tmp_path / "project/runs").glob(f"*-test-{name}-*/journal.jsonl"))
        regions = {json.loads(path.read_text().splitlines()[0])["settings"]["aws"]["region"] for path in journals}
        assert len(journals) == 2 and regions == {name}
    with pytest.raises(InvalidInput, match="shop:live in eu-west-1, which is eu-west-1's, not us-east-1's"):
        session.connect("us-east-1", "test", values=project.read_settings("eu-west-1")[0])


@pytest.mark.whole
def test_without_a_counter_the_status_of_a_function_url_decides(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Url5xxCount names no version: a build that answers 500 after the shift is rolled back all the same.

    Source: Lambda developer guide, 'Monitoring Lambda function URLs'.
    """
    words = ("--port", own.rpartition(":")[2], "--function", "plain", "--kind", "http", "--requests-per-minute=300")
    assert invoke(capsys, "sandbox", "start", "--artifact", build(tmp_path / "good.zip", 0), *words).code == 0
    outcome = deploy(connect(own, REGIONS[0], "plain", URL_5XX), build(tmp_path / "bad.zip", 5))
    assert outcome.ending == "rolled-back" and "These failures name no version." in outcome.reasons


def test_an_own_function_that_cannot_start_is_refused(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its reason is the sandbox's, and an event that is none is refused before anything is sent."""
    port = own.rpartition(":")[2]
    refused = invoke(capsys, "sandbox", "start", "--port", port, "--function", "none", "--artifact", "nothing.zip")
    assert refused.code == 2 and "nothing.zip is no zip and no folder" in refused.err
    event = tmp_path / "event.json"
    event.write_text("[]")
    words = ("--function", "none", "--artifact", "x", "--event", str(event))
    assert "not-an-event" in invoke(capsys, "sandbox", "start", "--port", port, *words).err


def test_a_folder_is_packed_as_a_deployment_packs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """.lambdaignore holds, and what is never packed stays out of the sandbox, too."""
    for name, text in {"app.py": "", ".env": "KEY=1", "notes.txt": "", ".lambdaignore": "notes.txt"}.items():
        (tmp_path / name).write_text(text)
    packed: list[str] = []

    def keep(url: str, action: str, artifact: str, **_: object) -> dict[str, object]:
        packed.extend(zipfile.ZipFile(artifact).namelist())
        return {"functions": [{"function": "shop", "region": "us-east-1", "account": "123456789012"}]}

    monkeypatch.setattr(sandbox, "call_sandbox", keep)
    wanted: Any = {"name": "shop", "artifact": str(tmp_path), "region": "us-east-1", "account": "123456789012"}
    sandbox.deploy_function("http://127.0.0.1:1", wanted)
    assert packed == ["app.py"]
