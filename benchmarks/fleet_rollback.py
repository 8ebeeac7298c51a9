"""``buddy-ops fleet rollback`` of 100 targets in four regions against ``buddy-ops rollback`` of one, in pairs.

Run it with ``python -m benchmarks.fleet_rollback``. Each is timed from its start to the line that says that its last
alias was moved; both act on one sandbox, and the ratio is what counts.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks.fleet import write_project
from buddy_ops.aws.aliases import RolloutState
from buddy_ops.cli import sandbox

TARGETS = 100
ROUNDS = 5
RECORD = RolloutState("0001", stable_version="1", new_version="2", stage="proved", since="2026-11-01T00:00:00Z")
BY = ("--yes", "--approved-by", "A")


def main() -> None:
    """Measure in pairs and print the ratios."""
    with tempfile.TemporaryDirectory() as folder, sandbox.running_sandbox() as url:
        functions = write_project(Path(folder), TARGETS)
        publish(url, functions)
        ratios = []
        for round_ in range(ROUNDS + 1):
            serve_second_version(url, functions)
            one = timed(url, folder, "ROLLED BACK", "rollback", "-e", "tf0", *BY)
            serve_second_version(url, functions)
            every = timed(url, folder, f"({TARGETS} of", "fleet", "rollback", *BY)
            if round_:  # the first pair warms caches
                ratios.append(every / one)
                print(f"one {one:.2f} s, the last of {TARGETS} {every:.2f} s, ratio {every / one:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} (aim: at most 3)")


def client(url: str, region: str) -> Any:
    """A client to set the stage with."""
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": region}
    return boto3.client("lambda", endpoint_url=url, **keys)


def publish(url: str, functions: dict[str, list[str]]) -> None:
    """Each function, with a second version."""
    for region, names in functions.items():
        sandbox.call_sandbox(url, "functions", names=names, regions=[region])
        for name in names:
            client(url, region).update_function_configuration(FunctionName=name, Description="another version")
    sandbox.call_sandbox(url, "advance", seconds=60)
    for region, names in functions.items():
        for name in names:
            client(url, region).publish_version(FunctionName=name)
    sandbox.call_sandbox(url, "advance", seconds=60)


def serve_second_version(url: str, functions: dict[str, list[str]]) -> None:
    """As a deployment leaves each alias."""
    for region, names in functions.items():
        lam = client(url, region)
        for name in names:
            alias = {"FunctionName": name, "Name": "live", "FunctionVersion": "2", "Description": RECORD.encode()}
            lam.update_alias(**alias)
    sandbox.call_sandbox(url, "advance", seconds=60)


def timed(url: str, folder: str, until: str, *words: str) -> float:
    """Seconds from the start of a command until it says so."""
    command = [str(Path(sys.executable).parent / "buddy-ops"), *words]
    environment = {**os.environ, "AWS_ENDPOINT_URL": url}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    took = 0.0
    for line in process.stdout or ():
        said.append(line)
        if until in line and not took:
            took = time.perf_counter() - began
    assert process.wait() == 0 and took, "".join(said)
    return took


if __name__ == "__main__":
    main()
