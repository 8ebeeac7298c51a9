"""One sandbox for all tests, brought into a situation by each test that asks for it."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from contract_account import ACCOUNT_ID

from buddy_sandbox.situations import Situation, bring, running

if TYPE_CHECKING:
    from buddy_sandbox.server import Sandbox


def pytest_configure() -> None:
    """No test may see this machine's own AWS settings or look for credentials on the network.

    Those that are pointed at an account need them.
    """
    if ACCOUNT_ID:
        return
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.fixture
def situation(sandbox_url: str, tmp_path: Path) -> Callable[..., Situation]:
    """Brings the sandbox into a situation: ``situation("good", environment="prod", requests_per_minute=60)``."""

    def bring_here(name: str, **options: Any) -> Situation:
        return bring(sandbox_url, name, tmp_path, **options)

    return bring_here


@pytest.fixture(scope="module")
def sandbox() -> "Iterator[Sandbox]":
    """A sandbox in this process."""
    # Where none is needed, its imports would take seconds.
    from buddy_sandbox.server import Sandbox

    inside = Sandbox(start=time.time())
    yield inside
    inside.close()
