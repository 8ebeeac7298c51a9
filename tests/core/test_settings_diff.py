"""Changes to a parameters/ file as a diff."""

import pytest

from buddy_ops.core import project
from buddy_ops.core.settings import parse_yaml_text
from buddy_ops.core.settings_diff import propose_changes

TEXT = """\
# a comment
environment: dev
settings:
  function: buddy-dev
  health:
    late_data_s: 120 # why
    error_rate: 0.01

  lease: # the failsafe
    minutes: 20
"""


def added_and_removed(diff: str) -> list[str]:
    return [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_a_value_is_replaced_in_its_line() -> None:
    """Its comment stays, and so does every other line."""
    diff = propose_changes(TEXT, {"health.late_data_s": 240}, "parameters/dev.yaml")
    assert diff.startswith("--- a/parameters/dev.yaml\n+++ b/parameters/dev.yaml\n")
    assert added_and_removed(diff) == ["-    late_data_s: 120 # why", "+    late_data_s: 240 # why"]


def test_what_is_missing_is_added() -> None:
    """A key to its section, a section to the file; several changes are one diff."""
    changes = {"lease.prove": True, "alarms.topic_arn": "arn:aws:sns:us-east-1:123456789012:t"}
    found = added_and_removed(propose_changes(TEXT, changes, "dev.yaml"))
    assert found == [
        "+    prove: true",
        "+  alarms:",
        '+    topic_arn: "arn:aws:sns:us-east-1:123456789012:t"',
    ]


def test_what_is_there_already_is_no_change() -> None:
    """The diff is empty."""
    assert propose_changes(TEXT, {"health.late_data_s": 120}, "dev.yaml") == ""


def test_a_section_in_one_line_is_refused() -> None:
    """A diff that does not set the value is worse than none."""
    text = "environment: dev\nsettings:\n  function: f\n  lease: {minutes: 20}\n"
    with pytest.raises(ValueError):
        propose_changes(text, {"lease.prove": True}, "dev.yaml")


@pytest.mark.parametrize("environment", ["dev", "staging", "prod", "sandbox"])
def test_the_shipped_files_can_be_changed(environment: str) -> None:
    """Every setting that a proof may find wrong, in every file; what results is valid."""
    text = (project.project_root() / "parameters" / f"{environment}.yaml").read_text("utf-8")
    queue = "arn:aws:sqs:us-east-1:123456789012:dead"
    changes: dict[str, object] = {"health.late_data_s": 300, "lease.dead_letter_arn": queue}
    changes["alarms.topic_arn"] = queue.replace("sqs", "sns")
    diff = propose_changes(text, changes, f"parameters/{environment}.yaml")
    lines = added_and_removed(diff)
    assert len(lines) >= 3 and all(line.startswith("+") for line in lines)
    parse_yaml_text(environment, text, environment)
