"""``buddy-ops fleet status`` and ``audit`` of 10, 100 and 1,000 targets in four regions of the sandbox, in one run.

Run it with ``python -m benchmarks.fleet``. What one more target costs is what counts; the seconds are this machine's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from buddy_ops.cli import sandbox

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1")
SIZES = (10, 100, 1_000)

ENVIRONMENT = """
environment: prod
settings:
  function: shop
  kind: custom
"""


def main() -> None:
    """Measure each size and print."""
    with tempfile.TemporaryDirectory() as folder, sandbox.running_sandbox() as url:
        for size in SIZES:
            names = write_project(Path(folder) / str(size), size)
            sandbox.call_sandbox(url, "reset")
            began = time.perf_counter()
            for region, functions in names.items():
                sandbox.call_sandbox(url, "functions", names=functions, regions=[region])
            took = time.perf_counter() - began
            print(f"{size:>5,} functions made in {took:.1f} s; each has served for an hour")
            for command in ("status", "audit"):
                measure(url, Path(folder) / str(size), size, command)


def write_project(folder: Path, size: int) -> dict[str, list[str]]:
    """A project whose fleet has this many targets; the functions of each region."""
    functions: dict[str, list[str]] = {region: [] for region in REGIONS}
    for number in range(size):
        functions[REGIONS[number % len(REGIONS)]].append(f"f{number}")
    targets = [
        {"name": f"t{function}", "environment": "prod", "function": function, "region": region}
        for region, own in functions.items()
        for function in own
    ]
    (folder / "parameters").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "parameters" / "prod.yaml").write_text(ENVIRONMENT)
    (folder / "parameters" / "fleet.yaml").write_text(json.dumps({"targets": targets}))
    return functions


def measure(url: str, project: Path, size: int, what: str) -> None:
    """One command in a process of its own, and the calls that it made."""
    before = len(sandbox.call_sandbox(url, "calls")["calls"])
    command = [str(Path(sys.executable).parent / "buddy-ops"), "fleet", what, "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "AWS_ENDPOINT_URL": url}, cwd=project, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    assert done.returncode in (0, 6), done.stderr
    calls = Counter(call["operation"] for call in sandbox.call_sandbox(url, "calls", since=before)["calls"])
    found = json.loads(done.stdout)["summary"]
    print(f"      {what} in {took:.1f} s, {1000 * took / size:.0f} ms and {calls.total() / size:.1f} calls a target")
    print(f"      {found}; all calls: {dict(calls)}")


if __name__ == "__main__":
    main()
