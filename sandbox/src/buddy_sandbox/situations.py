"""The sandbox for tests: started in a process of its own, brought into a situation, acted in and looked at.

with running(seed=7) as url:
    here = bring(url, "good", folder=tmp_path, requests_per_minute=60)
    here.client("lambda").get_alias(FunctionName=here.function, Name="live")
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from buddy_sandbox import builds, state_file
from buddy_sandbox.access import TOKEN_HEADER
from buddy_sandbox.faults import PROFILES


@dataclass
class Situation:
    """A sandbox in a situation. ``folder`` is where builds are written."""

    endpoint: str
    environment: str
    folder: Path

    @property
    def function(self) -> str:
        """The function's name in this environment."""
        return f"buddy-alexa-skill-{self.environment}"

    def client(self, service: str) -> Any:
        """A boto3 client that speaks to the sandbox."""
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=self.endpoint, **keys)

    def ask(self, what: str, **fields: Any) -> dict[str, Any]:
        """One control call, for example ``ask("advance", seconds=60)``."""
        return control(self.endpoint, what, **fields)

    def build(self, profile: str, label: str = "2.0.0") -> str:
        """Write a build's zip; its path."""
        return str(builds.write(self.folder / f"{profile}-{label}.zip", PROFILES[profile], label))

    def alias(self) -> dict[str, Any]:
        """The alias as AWS answers it: FunctionVersion, and the weights if there are any."""
        return dict(self.client("lambda").get_alias(FunctionName=self.function, Name="live"))

    def calls(self, *operations: str) -> list[dict[str, Any]]:
        """The sandbox's own log of the calls it answered, those that a test makes itself left out."""
        log = self.ask("calls")["calls"]
        return [call for call in log if call["operation"] in operations and call["app"] not in ("", "sandbox")]


def control(endpoint: str, what: str, **fields: Any) -> dict[str, Any]:
    """One call of the control address, with the token of the sandbox's state file.

    Raises:
        urllib.error.HTTPError: the sandbox refuses it; the body says why.
    """
    request = urllib.request.Request(
        f"{endpoint.rstrip('/')}/_sandbox/{what}",
        data=json.dumps(fields).encode(),
        headers={"Content-Type": "application/json", TOKEN_HEADER: state_file.read(endpoint)},
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


@contextmanager
def running(seed: int = 7) -> Iterator[str]:
    """A sandbox of its own for as long as the block lasts; its URL."""
    command = [sys.executable, "-m", "buddy_sandbox.server", "--port=0", f"--seed={seed}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["endpoint"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def bring(
    url: str, name: str, folder: Path, environment: str = "sandbox", seed: int = 7, **overrides: Any
) -> Situation:
    """Reset a sandbox into a scenario, with some of its values replaced."""
    control(url, "set", outage=None)
    control(url, "scenario", name=name, environment=environment, seed=seed, overrides=overrides)
    return Situation(url, environment, folder)
