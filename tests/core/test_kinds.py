"""What is known of each kind of function, and that its examples are valid settings."""

from typing import get_args

import pytest

from buddy_ops.core import project, settings
from buddy_ops.core.kinds import KINDS, Kind


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_kinds_examples_are_valid_settings(kind: Kind) -> None:
    """Its smoke test can be copied into an environment's file, and the page lists the kind with how long callers wait."""
    facts = KINDS[kind]
    values = {"function": "f", "kind": kind, "smoke_tests": [facts.smoke_test]}
    assert settings.validate_settings(values, "example").kind == kind
    page = (project.project_root() / "docs/kinds.md").read_text("utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{kind}`"))
    assert facts.silent_failure in row
    assert facts.waits_s is None or f"{facts.waits_s:g} s" in row


def test_a_function_is_custom_and_has_no_smoke_tests_by_default() -> None:
    """Nothing of an Alexa skill is assumed of a function that does not say what it is."""
    found = settings.validate_settings({"function": "f"}, "example")
    assert (found.kind, found.smoke_tests, found.alarms.custom) == ("custom", (), ())
