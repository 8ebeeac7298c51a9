"""An emulator for each worker and kind, and an environment of its own for each test."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.second_opinion import account, emulators
from tests.second_opinion.account import Environment

Bring = Callable[[str], Environment]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulators.ministack(tmp_path_factory.mktemp("ministack")) as url:
        yield url


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulators.moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="session")
def dynalite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulators.dynalite(tmp_path_factory.mktemp("dynalite")) as url:
        yield url


def environment(url: str, folder: Path, keys: dict[str, str], tables_url: str = "") -> Environment:
    """An environment of its own: two versions, of which the second serves, and a table."""
    here = Environment(url, f"opinion-{next(NUMBERS)}", folder, keys, tables_url=tables_url)
    (folder / "notebooks").symlink_to(emulators.ROOT / "notebooks")
    here.write_settings()
    here.create_table()
    here.create_function()
    first = here.publish("1.0.0", "1-2")
    here.serve(here.publish("2.0.0", "1-2"), before=first)
    return here


@pytest.fixture(scope="session")
def engineer(ministack: str) -> dict[str, str]:
    """The keys of an engineer, who may assume the roles of a stack."""
    return account.become_engineer(ministack)


@pytest.fixture
def deployed(ministack: str, engineer: dict[str, str], tmp_path: Path) -> Callable[..., Environment]:
    """Makes an environment on ministack, under the stack of infrastructure.yaml; its tables may be elsewhere."""

    def deploy(tables_url: str = "") -> Environment:
        found = environment(ministack, tmp_path, engineer, tables_url)
        found.outputs = account.deploy_template(ministack, found.name)
        found.write_settings()
        return found

    return deploy


@pytest.fixture
def here(deployed: Callable[..., Environment]) -> Environment:
    """An environment on ministack alone."""
    return deployed()


@pytest.fixture
def on_moto(moto_server: str, tmp_path: Path) -> Environment:
    """An environment on moto's own server, without a stack."""
    return environment(moto_server, tmp_path, account.ROOT_KEYS)
