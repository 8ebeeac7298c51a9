"""The environment that is used where none is given."""

import pytest

from buddy_ops.core import project
from buddy_ops.core.errors import InvalidInput


@pytest.mark.parametrize(("value", "environment"), [("prod", "prod"), (" staging ", "staging"), ("", ""), (None, "")])
def test_the_default_environment(value: str | None, environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(project.ENVIRONMENT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(project.ENVIRONMENT_VARIABLE, value)
    assert project.default_environment() == environment


def test_an_unknown_name_in_the_variable_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(project.ENVIRONMENT_VARIABLE, "../prodd")
    with pytest.raises(InvalidInput, match="BUDDY_OPS_ENVIRONMENT") as error:
        project.default_environment()
    assert error.value.reference == "unknown-environment" and "../prodd" in error.value.what
    assert "dev, prod, sandbox, staging" in error.value.next


def test_a_runbook_without_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given comes first, then the variable, then the sandbox: nothing real is there."""
    monkeypatch.delenv("BUDDY_OPS_ENVIRONMENT", raising=False)
    assert (project.choose_environment(""), project.choose_environment("dev")) == ("sandbox", "dev")
    monkeypatch.setenv("BUDDY_OPS_ENVIRONMENT", "prod")
    assert (project.choose_environment(""), project.choose_environment("dev")) == ("prod", "dev")
