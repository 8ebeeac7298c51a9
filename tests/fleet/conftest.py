"""A fleet on the sandbox: three functions in each of four regions, in a project of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1")
FUNCTIONS = ("cart", "pay", "shop")

ENVIRONMENT = """
environment: prod
settings:
  function: shop
  kind: custom
  aws: {{endpoint_url: "{url}"}}
"""
TARGET = """
  - name: {function}
    environment: prod
    function: {function}
    regions: [{regions}]
    labels: {{team: {team}}}
"""


def write_project(folder: Path, url: str, functions: dict[str, str]) -> Path:
    """A project with one environment and a fleet of these functions, by name and team, in all regions."""
    (folder / "notebooks").mkdir()
    parameters = folder / "parameters"
    parameters.mkdir()
    (parameters / "prod.yaml").write_text(ENVIRONMENT.format(url=url))
    regions = ", ".join(REGIONS)
    targets = "".join(
        TARGET.format(function=function, regions=regions, team=team) for function, team in functions.items()
    )
    (parameters / "fleet.yaml").write_text(f"targets:{targets}")
    return folder


def client(url: str, service: str, region: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": region}
    return boto3.client(service, endpoint_url=url, **keys)


@pytest.fixture
def fleet(sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Twelve aliases, each with 60 requests per minute to a good version 1; the sandbox's URL."""
    control(sandbox_url, "reset", seed=7)
    control(sandbox_url, "set", metrics_delay_s=0, logs_delay_s=0)
    good = str(builds.write(tmp_path / "good.zip", PROFILES["good"], "1.0.0"))
    for region in REGIONS:
        for function in FUNCTIONS:
            traffic = {"requests_per_minute": 60, "history_minutes": 0}
            control(sandbox_url, "function", name=function, artifact=good, region=region, **traffic)
    control(sandbox_url, "advance", seconds=20 * 60)
    teams = {"cart": "web", "pay": "payments", "shop": "web"}
    monkeypatch.chdir(write_project(tmp_path, sandbox_url, teams))
    return sandbox_url


@pytest.fixture
def ship(fleet: str, tmp_path: Path) -> Callable[[str, str, str], None]:
    """Put all traffic of a function in a region on a build with this fault, at once."""

    def ship_by_hand(function: str, region: str, profile: str) -> None:
        lam = client(fleet, "lambda", region)
        build = builds.write(tmp_path / f"{profile}.zip", PROFILES[profile], "2.0.0")
        lam.update_function_code(FunctionName=function, ZipFile=Path(build).read_bytes())
        control(fleet, "advance", seconds=60)
        version = lam.publish_version(FunctionName=function)["Version"]
        control(fleet, "advance", seconds=60)
        lam.update_alias(FunctionName=function, Name="live", FunctionVersion=version)

    return ship_by_hand
