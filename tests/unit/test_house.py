"""The map of the house in CONTRIBUTING, and the layers that `make check` holds the imports to: the same."""

import re
import tomllib
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {path.stem for path in (ROOT / "buddy_ops").glob("*.py")} - {"__init__"}


def layers() -> dict[str, int]:
    """Each module's layer in pyproject, counted from the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layered,) = (each["layers"] for each in contracts if each["type"] == "layers")
    return {
        name.strip().removeprefix("buddy_ops."): number
        for number, line in enumerate(layered)
        for name in line.split("|")
    }


def floors() -> dict[str, int]:
    """Each module's floor on the map, counted from the top."""
    table = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("| floor | rooms |")[1].split("\n\n")[0]
    rows = [line.split("|")[2] for line in table.splitlines()[2:] if not line.startswith("| beside ")]
    return {name: number for number, row in enumerate(rows) for name in re.findall(r"`(\w+)`", row)}


def test_every_module_has_a_layer() -> None:
    """A module that stands in none may import whatever it likes."""
    assert set(layers()) == MODULES


def test_every_module_is_on_the_map() -> None:
    """Whoever looks for a room finds it; what is not there is not on the map."""
    assert set(floors()) == MODULES


def test_the_map_and_the_layers_agree() -> None:
    """What is on a higher floor stands in no lower layer."""
    layer, floor = layers(), floors()
    assert [(a, b) for a, b in product(MODULES, MODULES) if floor[a] < floor[b] and layer[a] > layer[b]] == []
