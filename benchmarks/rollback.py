"""``buddy-ops rollback --yes`` (plan, guarded write, verification) against the guide's two calls of the AWS CLI.


Run it with ``python -m benchmarks.rollback``; both act on one sandbox, and the ratio is what counts. The AWS CLI is
installed into build/awscli, where nothing of this project sees it.
"""

import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import boto3

from benchmarks.run import timed
from buddy_ops.cli import sandbox
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES

ROUNDS = 9
FUNCTION = "buddy-alexa-skill-sandbox"
CLI = Path("build/awscli")


def main() -> None:
    """Measure in pairs and print the ratios."""
    aws, ours = cli(), str(Path(sys.executable).parent / "buddy-ops")
    with sandbox.running_sandbox() as url:
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": url}
        lam = publish(url)
        named = ["--function-name", FUNCTION, "--name", "live"]
        update = [aws, "lambda", "update-alias", *named, "--function-version", "1", "--routing-config"]
        calls = [[*update, '{"AdditionalVersionWeights":{}}'], [aws, "lambda", "get-alias", *named]]
        rollback = [ours, "rollback", "--to-version", "1", "--yes", "--approved-by", "A"]
        pairs = []
        for round_ in range(ROUNDS + 1):
            bad(lam)
            mine = timed(rollback, environment)
            bad(lam)
            guide = sum(timed(call, environment) for call in calls)
            assert lam.get_alias(FunctionName=FUNCTION, Name="live")["FunctionVersion"] == "1"
            if round_:  # the first pair warms caches
                pairs.append((mine, guide))
                print(f"buddy-ops {mine:.2f} s, two calls of aws {guide:.2f} s, ratio {mine / guide:.2f}")
    ratios = [mine / guide for mine, guide in pairs]
    print(f"median ratio {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f} (aim: at most 0.6)")


def cli() -> str:
    """The AWS CLI, from PyPI, in a place of its own."""
    if not (CLI / "bin/aws").exists():
        venv.create(CLI, with_pip=True)
        subprocess.run([CLI / "bin/pip", "install", "-q", "awscli"], check=True)
        subprocess.run([CLI / "bin/python", "-m", "compileall", "-q", CLI / "lib"], check=False)
    return str(CLI / "bin/aws")


def publish(url: str) -> Any:
    """A second version; a client to move the alias with."""
    sandbox.call_sandbox(url, "scenario", name="good", overrides={"history_minutes": 0, "requests_per_minute": 0})
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    lam = boto3.client("lambda", endpoint_url=url, **keys)
    code = builds.write(Path("build/bad.zip"), PROFILES["total_failure"], "2.0.0").read_bytes()
    lam.update_function_code(FunctionName=FUNCTION, ZipFile=code)
    sandbox.call_sandbox(url, "advance", seconds=10)
    lam.publish_version(FunctionName=FUNCTION)
    sandbox.call_sandbox(url, "advance", seconds=10)
    return lam


def bad(lam: Any) -> None:
    """Version 2 serves."""
    weights: dict[str, Any] = {"AdditionalVersionWeights": {}}
    lam.update_alias(FunctionName=FUNCTION, Name="live", FunctionVersion="2", RoutingConfig=weights, Description="")


if __name__ == "__main__":
    main()
