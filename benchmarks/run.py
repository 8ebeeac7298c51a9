"""A whole canary through ``buddy-ops run`` against papermill on an empty notebook, in turn in the same environment.

Run it with ``python -m benchmarks.run``; the ratio is what counts, the seconds are this machine's.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from buddy_ops.cli import sandbox

ROUNDS = 9


def main() -> None:
    """Measure in pairs and print the ratios."""
    commands = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder, sandbox.running_sandbox() as url:
        empty = Path(folder) / "empty.ipynb"
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        empty.write_text(json.dumps({"cells": [], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
        environment = {**os.environ, "AWS_ENDPOINT_URL": url, "BUDDY_OPS_RUN_FOLDER": f"{folder}/run"}
        # Installed packages have their bytecode. Without this a checkout would be compiled in each run, by itself.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        pairs = []
        for round_ in range(ROUNDS + 1):
            artifact = sandbox.load_scenario(url, "good", "sandbox")
            canary = [
                commands / "buddy-ops",
                "run",
                "strategies/canary",
                "-p",
                f"artifact={artifact}",
                "-p",
                "approved_by=[A]",
            ]
            ours = timed([str(each) for each in canary], environment)
            theirs = timed([str(commands / "papermill"), str(empty), f"{folder}/out.ipynb"], environment)
            if round_:  # the first pair warms caches
                pairs.append((ours, theirs))
                print(f"canary {ours:.2f} s, papermill on an empty notebook {theirs:.2f} s, ratio {ours / theirs:.2f}")
    ratios = [ours / theirs for ours, theirs in pairs]
    print(f"median ratio {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} (aim: at most 1.6)")


def timed(command: list[str], environment: dict[str, str]) -> float:
    """Wall seconds of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
