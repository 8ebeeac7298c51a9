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
