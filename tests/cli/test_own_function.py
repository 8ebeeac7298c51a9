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
from buddy_ops.health import alarms
from tests.cli.command_line import invoke
from tests.conftest import approve

pytestmark = pytest.mark.sandbox

ACCOUNT = "123456789012"
Place = tuple[str, str]
"""A region and an account."""

REGIONS: dict[str, Place] = {"usual": ("us-east-1", ACCOUNT), "other": ("eu-west-1", ACCOUNT)}
ACCOUNTS: dict[str, Place] = {"usual": ("us-east-1", ACCOUNT), "other": ("us-east-1", "222222222222")}
"""Two environments, by their names, whose functions have one name."""

ALARM: dict[str, Any] = {
    "AlarmName": "errors",
    "Namespace": "AWS/Lambda",
    "MetricName": "Errors",
    "Statistic": "Sum",
    "Period": 60,
    "EvaluationPeriods": 1,
    "Threshold": 1000,
    "ComparisonOperator": "GreaterThanThreshold",
}
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


def settings_of(url: str, place: Place, function: str, metric: Mapping[str, Any] = COUNTED) -> dict[str, Any]:
    """Settings without rules, by which one metric counts failures: by default the handler's."""
    region, account = place
    values = {
        **project.read_settings("sandbox")[0],
        "function": function,
        "policy": {},
        "smoke_tests": [],
        "tables": [],
    }
    values["failure_metrics"] = [metric]
    values["aws"] = {**values["aws"], "endpoint_url": url, "region": region}
    if account != ACCOUNT:
        values["aws"]["assume_role"] = f"arn:aws:iam::{account}:role/buddy-ops"
    return values


def write_environments(folder: Path, url: str, places: Mapping[str, Place], function: str) -> None:
    """A project whose environments differ in the region or the account only."""
    for name in ("parameters", "notebooks"):
        (folder / name).mkdir(parents=True)
    for name, place in places.items():
        path = folder / "parameters" / f"{name}.yaml"
        path.write_text(json.dumps({"environment": name, "settings": settings_of(url, place, function)}))


def ship(here: Target, artifact: str) -> str:
    """How a canary of a build ends."""
    return str(deploy(here, artifact).ending)


def deploy(here: Target, artifact: str) -> Outcome:
    """A canary of a build."""
    plan = rollout.plan_rollout(here, artifact)
    outcome = rollout.drive_rollout(here, rollout.run_rollout(here, plan, approve(here, plan)))
    here.close()
    return outcome


@pytest.mark.parametrize(("function", "places"), [
    pytest.param("shop", REGIONS, id="regions", marks=pytest.mark.whole),
    pytest.param("cart", ACCOUNTS, id="accounts", marks=pytest.mark.whole),
])  # fmt: skip
def test_a_bad_build_is_rolled_back_while_a_good_one_is_promoted_elsewhere(
    own: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    places: dict[str, Place],
) -> None:
    """Nothing but the handler decides how a request ends: Lambda counts no error of a build that answers 500.

    The two functions of one name share nothing: versions, alias, deployment record, failsafe, freezes, alarms, runs. Settings
    of one environment are refused under the name of the other, whose rules would not hold.
    """
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"rawPath": "/cart"}))
    good = build(tmp_path / "good.zip", 0)
    words = ["--port", own.rpartition(":")[2], "--function", function, "--kind", "http", "--requests-per-minute", "200"]
    for region, account in places.values():
        more = ["--artifact", good, "--event", str(event), "--region", region, "--account", account, "--json"]
        started = invoke(capsys, "sandbox", "start", *words, *more)
        assert (started.code, started.data["kind"]) == (0, "http")
        assert (started.data["region"], started.data["account"]) == (region, account)
        assert started.data["requests"]["copied"] == 0
    write_environments(tmp_path / "project", own, places, function)
    monkeypatch.chdir(tmp_path / "project")
    targets = [session.connect(name, "test") for name in places]
    assert [(each.region, each.account) for each in targets] == list(places.values())
    artifacts = [build(tmp_path / "better.zip", 0), build(tmp_path / "worse.zip", 1)]
    with ThreadPoolExecutor(len(targets)) as both:
        assert list(both.map(ship, targets, artifacts)) == ["proved", "rolled-back"]
    first, second = (session.connect(name, "test") for name in places)
    alias, other = aliases.require_alias(first), aliases.require_alias(second)
    assert (alias.serving, other.serving) == (("2",), ("1",))
    assert alias.rollout is not None and alias.rollout.rejected_versions == ()
    assert other.rollout is not None and other.rollout.rejected_versions == ("2",)
    for each in (first, second):
        assert each.client("scheduler").list_schedules()["Schedules"] == []
    freezes.create_freeze(second, "outage", "Ada", timedelta(hours=1))
    assert [len(freezes.active_freezes(each)) for each in (first, second)] == [0, 1]
    second.client("cloudwatch").put_metric_alarm(**ALARM)
    assert [len(alarms.list_alarms(each)) for each in (first, second)] == [0, 1]
    # The good one is rolled back, too: in its own place only.
    plan = rollback.plan_rollback(first)
    rollback.run_rollback(first, plan, approve(first, plan))
    assert aliases.require_alias(first).serving == ("1",) and aliases.require_alias(second) == other
    for name, each in zip(places, (first, second), strict=True):
        each.close()
        journals = list((tmp_path / "project/runs").glob(f"*-test-{name}-*/journal.jsonl"))
        used = [json.loads(path.read_text().splitlines()[0])["settings"]["aws"] for path in journals]
        wanted = project.read_settings(name)[0]["aws"]
        assert [(aws["region"], aws.get("assume_role")) for aws in used] == [
            (wanted["region"], wanted.get("assume_role"))
        ] * 2
    region, _ = places["other"]
    with pytest.raises(InvalidInput, match=f"{function}:live in {region}, which is other's, not usual's"):
        session.connect("usual", "test", values=project.read_settings("other")[0])


@pytest.mark.whole
def test_without_a_counter_the_status_of_a_function_url_decides(
    own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Url5xxCount names no version: a build that answers 500 after the shift is rolled back all the same.

    Source: Lambda developer guide, 'Monitoring Lambda function URLs'.
    """
    words = ("--port", own.rpartition(":")[2], "--function", "plain", "--kind", "http", "--requests-per-minute=300")
    assert invoke(capsys, "sandbox", "start", "--artifact", build(tmp_path / "good.zip", 0), *words).code == 0
    values = settings_of(own, REGIONS["usual"], "plain", URL_5XX)
    outcome = deploy(session.connect("sandbox", "test", values=values), build(tmp_path / "bad.zip", 5))
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
