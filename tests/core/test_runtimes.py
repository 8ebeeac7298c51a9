"""Deprecated runtimes: the table, and what is said of it on a day."""

import json
from datetime import date
from importlib import resources

import pytest

from buddy_ops.core import runtimes


def test_the_dates_are_aws_own() -> None:
    """As the installed cfn-lint has them, which follows AWS's page: a newer one brings newer dates."""
    theirs = json.loads((resources.files("cfnlint") / "data/AdditionalSpecs/LmbdRuntimeLifecycle.json").read_text())
    updatable = {name: each for name, each in theirs.items() if each["update-block"]}
    assert {name: (each["deprecated"], each["update-block"]) for name, each in updatable.items()} == runtimes.DATES


@pytest.mark.parametrize(
    ("runtime", "day", "says"),
    [
        ("python3.12", "2026-11-30", ""),
        ("python3.99", "2036-11-30", ""),
        ("python3.11", "2027-03-31", ""),
        ("python3.11", "2027-04-01", "AWS deprecates the runtime python3.11 on 2027-06-30"),
        ("python3.11", "2027-06-30", "python3.11 is deprecated since 2027-06-30"),
        ("python3.11", "2027-08-30", "Lambda will refuse updates of functions with it from 2027-08-31"),
        ("python3.11", "2027-08-31", "Lambda refuses updates of functions with it from 2027-08-31"),
    ],
)
def test_what_is_said_on_a_day(runtime: str, day: str, says: str) -> None:
    said = runtimes.describe_deprecation(runtime, date.fromisoformat(day))
    assert says in said and bool(says) == bool(said)
