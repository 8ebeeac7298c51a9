"""What the doctor finds about hooks, and about a build in S3: nothing is run, sent or written."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.checks import setup
from buddy_ops.checks.findings import Check, CheckContext, Finding, run_checks
from buddy_ops.core.errors import AwsFailed
from buddy_ops.core.roles import Role
from tests.conftest import ROOT, Situation, intercept
from tests.deployment.test_hooks import gate

Bring = Callable[..., Situation]
RAISES = "def handler(event, context): raise ValueError(event)"


def found(here: Situation, hooks: Any = (), role: Role = "deployer", build: str = "") -> dict[str, Finding]:
    """The doctor's findings about hooks and build."""
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    mine = here.connect(quiet=True, values={**values, "hooks": [{"name": "gate", **hook} for hook in hooks]})
    checks = [check for check in setup.CHECKS if check.name in ("hooks", "build")]
    findings = run_checks(checks, CheckContext(mine, role, build=build))
    return {finding.check: finding for finding in findings}


@pytest.fixture
def here(situation: Bring) -> Situation:
    """A function with the hook's function beside it."""
    there = situation("first_deployment")
    gate(there, RAISES)
    return there


@pytest.mark.parametrize(
    ("hook", "role", "state", "says"),
    [
        ({"function": "gate"}, "deployer", "ok", "gate (function gate)"),
        ({"function": "gate:live"}, "deployer", "ok", "gate (function gate:live)"),
        ({"function": "gate:none"}, "deployer", "problem", "there is no function gate:none"),
        ({"function": "none"}, "deployer", "problem", "there is no function none"),
        ({"function": "none"}, "reader", "info", "only a deployer may ask the function none"),
        ({"url": "env:HOOK"}, "deployer", "ok", "gate (webhook)"),
        ({"url": "env:HOOK"}, "reader", "ok", "gate (webhook)"),
        ({"url": "env:NONE"}, "deployer", "problem", "its address could not be read"),
        ({"url": "env:PLAIN"}, "deployer", "problem", "does not begin with https://"),
        ({"url": "env:LOST"}, "deployer", "warning", "the host of its address was not found"),
        ({"url": "ssm:/hook"}, "deployer", "ok", "gate (webhook)"),
        ({"url": "ssm:/none"}, "deployer", "problem", "its address could not be read"),
        ({"url": "ssm:/none"}, "auditor", "info", "only a deployer may ask the webhook"),
        ({"notebook": "hooks/none"}, "reader", "problem", "there is no notebooks/hooks/none.ipynb"),
        ({"notebook": "start_here"}, "deployer", "problem", "has no parameter event"),
        ({"notebook": "hooks/good"}, "deployer", "ok", "gate (notebook hooks/good)"),
        ({"notebook": "hooks/broken"}, "deployer", "problem", "broken.ipynb is not a runbook"),
    ],
)
def test_each_hook_is_checked(
    here: Situation, monkeypatch: pytest.MonkeyPatch, hook: dict[str, Any], role: Role, state: str, says: str
) -> None:
    """An address is never shown; a finding that is not OK names the hook and a next step."""
    monkeypatch.setenv("HOOK", "http://127.0.0.1:1/secret-path")
    monkeypatch.setenv("PLAIN", "http://example.com/secret-path")
    monkeypatch.setenv("LOST", f"https://{'x' * 70}/secret-path")
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    here.client("ssm").put_parameter(
        Name="/hook", Value="https://localhost/secret-path", Type="SecureString", Overwrite=True
    )
    project = here.folder / "project"
    shutil.copytree(ROOT / "parameters", project / "parameters", dirs_exist_ok=True)
    for name, source in (("good", "event: dict = {}\n"), ("broken", "")):
        document = json.loads((ROOT / "notebooks/start_here.ipynb").read_text("utf-8"))
        (declared,) = (cell for cell in document["cells"] if "parameters" in cell["metadata"].get("tags", ()))
        declared["source"] = f"environment: str = ''\nsettings: dict = {{}}\n{source}"
        (project / "notebooks/hooks").mkdir(parents=True, exist_ok=True)
        (project / f"notebooks/hooks/{name}.ipynb").write_text(json.dumps(document) if source else "{")
    shutil.copy(ROOT / "notebooks/start_here.ipynb", project / "notebooks")
    monkeypatch.chdir(project)
    finding = found(here, [hook], role)["hooks"]
    assert (finding.state, says in finding.message) == (state, True), finding
    assert "gate" in finding.message and "secret-path" not in str(finding)
    assert bool(finding.remedy) == (state in ("problem", "warning"))


def test_the_worst_hook_decides_and_no_function_runs(here: Situation) -> None:
    """A role that may not invoke is told what to deploy; a dry run leaves no log entry."""
    none = {"function": "none"}
    finding = found(here, [{"function": "gate"}, none, {"notebook": "hooks/none"}])["hooks"]
    assert finding.state == "problem" and "function none; gate: there is no notebooks/" in finding.message
    here.ask("chaos", kind="denied", operation="Invoke", times=100)
    finding = found(here, [{"function": "gate"}])["hooks"]
    here.ask("chaos")
    assert finding.state == "problem" and "HookFunctionArns" in finding.remedy
    groups = here.client("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/gate")["logGroups"]
    assert groups == []
    assert found(here)["hooks"].state == "ok"


def test_a_build_in_s3_is_checked(here: Situation) -> None:
    """Readable, and in a bucket that keeps versions; what is missing or denied is a problem."""
    s3 = here.client("s3")
    for bucket in ("builds-plain", "builds-kept"):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket="builds-kept", VersioningConfiguration={"Status": "Enabled"})
    for bucket in ("builds-plain", "builds-kept"):
        s3.put_object(Bucket=bucket, Key="app.zip", Body=b"x")
    assert found(here)["build"].state == "ok"
    kept = found(here, build="s3://builds-kept/app.zip")["build"]
    assert kept.state == "ok" and "?versionId=" in kept.message
    plain = found(here, build="s3://builds-plain/app.zip")["build"]
    assert plain.state == "warning" and "keeps no versions" in plain.message
    missing = found(here, build="s3://builds-kept/none.zip")["build"]
    assert missing.state == "problem" and "There is no s3://builds-kept/none.zip" in missing.message
    assert found(here, build="app.zip")["build"].state != "ok"


def test_a_build_that_may_not_be_read_names_the_permissions(here: Situation) -> None:
    """S3 gives no reason with an answer to HEAD."""
    mine = here.connect(quiet=True)

    def deny(send: Any, service: str, operation: str, **fields: Any) -> Any:
        if operation == "head_bucket":
            raise AwsFailed("aws-refused", "403", next="", code="403")
        return send(service, operation, **fields)

    intercept(mine, deny)
    (finding,) = run_checks([Check("build", setup._build)], CheckContext(mine, build="s3://builds-kept/app.zip"))
    assert finding.state == "problem" and "BuildBucketName" in finding.remedy
