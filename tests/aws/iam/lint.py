"""``make check-aws``: findings of parliament in the statements that ``check`` wrote into build/policies.

Runs in an environment that has parliament and nothing of this project. Its command line cannot accept a finding in one
place. Exits with 1 if there is a finding that is not accepted here, or one that is accepted and no longer found.
"""

import sys
from pathlib import Path

from parliament import analyze_policy_string

ACCEPTED = {
    # It takes the policy of a table for that of a stream. AWS's list of actions has both.
    ("ResponderPolicy.Repair", "RESOURCE_MISMATCH"),
    # DescribeAlarms by a prefix is checked against '*'. The others have no resources.
    ("ReaderPolicy.Metrics", "RESOURCE_STAR"),
}
"""Statement and kind of a finding."""

found = {
    (path.stem, finding.issue)
    for path in Path("build/policies").glob("*.json")
    for finding in analyze_policy_string(path.read_text("utf-8")).findings
}
print(f"parliament: {len(found)} findings, {len(found & ACCEPTED)} of them accepted")
print(*sorted(found ^ ACCEPTED), sep="\n")
sys.exit(found != ACCEPTED)
