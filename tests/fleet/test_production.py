"""Which targets are production, without a read of the fleet's file for each of them."""

from pathlib import Path

import pytest

from buddy_ops.aws import session
from buddy_ops.core import project
from buddy_ops.core.settings import Settings
from tests.fleet.conftest import write_project


def test_a_target_beside_another_knows_its_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its environment's name, also once the fleet's file is gone: status asks it of each of 1,000 targets."""
    monkeypatch.chdir(write_project(tmp_path, "https://example.invalid", {"pay": "payments"}))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    reader = session.connect_reader("pay-eu-west-1", Settings(function="pay"), "test")
    assert reader.is_production and project.base_environment("pay-eu-west-1") == "prod"
    Path("parameters/fleet.yaml").unlink()
    beside = reader.beside("pay-us-west-2", Settings(function="pay"), base_environment="prod")
    assert beside.is_production
    assert not reader.beside("cart", Settings(function="cart"), base_environment="dev").is_production
