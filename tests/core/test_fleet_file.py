"""The fleet's file: what is wrong is named, all of it at once; targets are expanded, selected and merged."""

from pathlib import Path

import pytest

from buddy_ops.core import fleet_file, project
from buddy_ops.core.errors import InvalidInput

GOOD = """
targets:
  - name: pay
    environment: prod
    regions: [eu-west-1, us-east-1]
    labels: {team: payments, tier: "1"}
  - {name: shop, environment: prod, function: shop-x, alias: beta, region: us-west-2}
"""
WAVES = """
waves:
  - {name: first, targets: [pay-eu-west-1]}
  - {name: rest, labels: {team: payments}, regions: [us-east-1]}
  - {name: last, regions: [us-west-2]}
"""
ENVIRONMENT = "environment: prod\nsettings: {function: pay, aws: {profile: own}}\n"


@pytest.fixture
def parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / "prod.yaml").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "parameters"


def test_targets_are_environments_with_their_own_values(parameters: Path) -> None:
    """A target has its environment's settings but for what it replaces; the file itself is no environment."""
    (parameters / "fleet.yaml").write_text(GOOD)
    assert project.environments() == ["prod"]
    assert project.known_environments() == ["prod", "pay-eu-west-1", "pay-us-east-1", "shop"]
    values, source = project.read_settings("pay-us-east-1")
    assert (values["function"], values["aws"]["region"], values["aws"]["profile"]) == ("pay", "us-east-1", "own")
    assert source == "parameters/fleet.yaml, pay-us-east-1"
    values, _ = project.read_settings("shop")
    assert (values["function"], values["alias"], values["aws"]["region"]) == ("shop-x", "beta", "us-west-2")
    assert [project.base_environment(name) for name in ("prod", "shop", "none")] == ["prod", "prod", "none"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("targets: []", "targets: Tuple should have at least 1 item"),
        ("targets: 5", "targets: Input should be a valid tuple"),
        ("- a", "Input should be a valid dictionary"),
        (GOOD.replace("name: shop", "name: Shop!"), "targets.1.name: String should match pattern"),
        (GOOD.replace("region: us-west-2", "region: a, regions: [b]"), "targets.1: give region or regions, not both"),
        (GOOD.replace("eu-west-1, us", "us-east-1, us"), "targets.0: regions: one is given twice"),
        (GOOD.replace("name: shop", "name: pay-eu-west-1"), "targets of the same name: pay-eu-west-1"),
        (GOOD.replace("name: shop", "name: prod"), "prod: this is the name of an environment, too"),
        (GOOD.replace("name: shop, environment: prod", "name: shop, environment: prd"), "no parameters/prd.yaml"),
        (GOOD.replace("team: payments", "team: pay ments"), "targets.0.labels: 'pay ments': letters, digits"),
        (GOOD.replace("alias: beta", "colour: red"), "targets.1.colour: Extra inputs are not permitted"),
        (GOOD.replace("targets:", "targets: {"), "parameters/fleet.yaml: 1 problem"),
        (GOOD + WAVES.replace("us-west-2", "us-east-1"), "shop is in no wave"),
        (GOOD + WAVES.replace("us-west-2", "us-east-1"), "pay-us-east-1 is in rest and last"),
        (GOOD + WAVES.replace("name: last", "name: rest"), "rest: two waves have this name"),
        (GOOD + WAVES.replace("[us-west-2]", "[us-west-1]"), "last: no target belongs to it"),
        (GOOD + WAVES.replace("[pay-eu-west-1]", "[pay]"), "first: there is no target pay"),
        (GOOD + WAVES.replace(", regions: [us-west-2]", ""), "waves.2: give targets, labels or regions"),
        (GOOD + "on_trouble: nothing", "on_trouble: Input should be 'stop', 'wave' or 'all'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(parameters: Path, content: str, said: str) -> None:
    (parameters / "fleet.yaml").write_text(content)
    with pytest.raises(InvalidInput) as refused:
        project.read_fleet()
    assert refused.value.reference == "invalid-settings" and said in refused.value.what
    # What was wrong with the fleet's file hides no environment.
    assert project.read_settings("prod")[0]["function"] == "pay"


def test_without_a_file_there_is_no_fleet(parameters: Path) -> None:
    with pytest.raises(InvalidInput, match=r"There is no parameters/fleet.yaml") as refused:
        project.read_fleet()
    assert refused.value.reference == "no-fleet" and project.fleet_target("pay") is None


def test_labels_narrow_the_selection(parameters: Path) -> None:
    (parameters / "fleet.yaml").write_text(GOOD)
    fleet = project.read_fleet()
    chosen = fleet.select(fleet_file.parse_labels(("team=payments", "tier=1")))
    assert [target.name for target in chosen] == ["pay-eu-west-1", "pay-us-east-1"]
    assert len(fleet.select({})) == 3
    for wrong in ("team", "=x", "a b=c"):
        with pytest.raises(InvalidInput, match="is no label"):
            fleet_file.parse_labels((wrong,))


def test_targets_keep_the_order_of_their_waves(parameters: Path) -> None:
    """A wave has what all of its criteria fit; a selection leaves waves out, and without waves there is one."""
    (parameters / "fleet.yaml").write_text(GOOD + WAVES)
    fleet = project.read_fleet()

    def names(labels: dict[str, str]) -> list[tuple[str, list[str]]]:
        return [(name, [each.name for each in found]) for name, found in fleet.in_waves(fleet.select(labels))]

    assert names({}) == [("first", ["pay-eu-west-1"]), ("rest", ["pay-us-east-1"]), ("last", ["shop"])]
    assert names({"team": "payments"}) == [("first", ["pay-eu-west-1"]), ("rest", ["pay-us-east-1"])]
    (parameters / "fleet.yaml").write_text(GOOD)
    fleet = project.read_fleet()
    assert names({}) == [("all", ["pay-eu-west-1", "pay-us-east-1", "shop"])]
