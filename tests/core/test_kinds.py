"""What is known of each kind of function, and that its examples are valid settings."""

from datetime import UTC, datetime
from typing import get_args

import pytest

from buddy_ops.core import project, rules, settings
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


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize("counted", [True, False])
def test_a_function_is_unguarded_where_nothing_counts_what_fails_without_an_error(
    kind: Kind, said: bool | None, counted: bool
) -> None:
    """By its kind, unless its setting says so; then the rules refuse a build where they demand a metric, and only there."""
    values = {"function": "f", "kind": kind, "silent_failures": said, "smoke_tests": [KINDS[kind].smoke_test]}
    if counted:
        values["failure_metrics"] = [{"namespace": "Shop", "name": "Failures"}]
    silent = kind != "async" if said is None else said
    for demanded in (False, True):
        found = settings.validate_settings(values | {"policy": {"demand_failure_metric": demanded}}, "example")
        assert bool(found.uncounted_failures) == (silent and not counted)
        facts = rules.DeploymentFacts("canary", datetime(2026, 11, 30, tzinfo=UTC), ci="", principal="", replaced=())
        refused = rules.violations("prod", found, facts)
        assert [each.partition(",")[0] for each in refused] == ["prod requires a metric of failures"] * (
            demanded and silent and not counted
        )
