"""The contract tests' account, and a function in it."""

from collections.abc import Iterator

import pytest
from contract_account import PREFIX, Account, build, make_role, opened, settled


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def role(account: Account) -> str:
    """The ARN of a role that Lambda and Scheduler can assume."""
    return make_role(account)


@pytest.fixture(scope="module")
def function(account: Account, role: str) -> str:
    """A function with the versions 1 and 2, and the alias live, which points at 1."""
    lam, name = account.client("lambda"), f"{PREFIX}function"
    given = {"Role": role, "Runtime": "python3.12", "Handler": "app.handler", "Code": {"ZipFile": build(1)}}
    account.wait_out(lam.create_function, "cannot be assumed", FunctionName=name, **given)
    settled(account, name)
    lam.publish_version(FunctionName=name)
    lam.update_function_code(FunctionName=name, ZipFile=build(2))
    settled(account, name)
    lam.publish_version(FunctionName=name)
    lam.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    return name
