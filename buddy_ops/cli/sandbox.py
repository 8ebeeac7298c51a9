"""The local AWS sandbox from outside its process: start, stop, control, load a scenario; and JupyterLab beside it.

The only module that imports ``buddy_sandbox``. Nothing that runs against AWS imports this module.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypedDict
from urllib.error import HTTPError
from urllib.parse import urlparse

from buddy_ops.aws.sandbox_control import TOKEN_NEXT, TOKEN_WRONG, ask_sandbox, token_is_wrong
from buddy_ops.core import packages, parameters, project
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import UNCHANGED, BuddyError, InvalidInput
from buddy_ops.core.text import did_you_mean

START_LIMIT_S = 30.0


def default_port() -> int:
    """The port in parameters/sandbox.yaml, which the notebooks use."""
    return urlparse(str(project.read_settings("sandbox")[0]["aws"]["endpoint_url"])).port or 4599


def endpoint(port: int | None = None) -> str:
    """The sandbox's URL: at ``port``, else AWS_ENDPOINT_URL, else at the default port."""
    if port is None and os.environ.get("AWS_ENDPOINT_URL"):
        return os.environ["AWS_ENDPOINT_URL"]
    if port is None:
        port = default_port()
    return f"http://127.0.0.1:{port}"


def start_sandbox(port: int, *, seed: int = 7, speed: float = 0.0, owner: int | None = None) -> str:
    """Start a sandbox in a process of its own; its URL.

    Raises:
        BuddyError: ``port-taken``, ``sandbox-not-started``; ``sandbox-extra-missing`` without the extra.
    """
    command = [sys.executable, "-m", "buddy_sandbox.server", f"--port={port}", f"--seed={seed}", f"--speed={speed}"]
    if owner is not None:
        command.append(f"--owner={owner}")
    # A file, not a pipe: no one reads the sandbox's later output, and a full pipe would block it.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            # Ctrl-C in a terminal interrupts a whole session: the sandbox ends by a call, or with its owner.
            start_new_session=True,
        )
        assert process.stdout is not None
        # It prints one line once it answers; without one it has ended.
        line = process.stdout.readline()
        if line:
            return str(parse_json(line)["endpoint"])
        process.wait()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["no output"])[-1]
    if last.startswith("port-taken"):
        raise BuddyError(
            "port-taken",
            f"Port {port} is in use ({last}).",
            next="Check whether it is a sandbox: `buddy-ops sandbox status`. Or use another port with --port, and set "
            "AWS_ENDPOINT_URL to it.",
        )
    if "ModuleNotFoundError" in last:
        raise BuddyError(
            "sandbox-extra-missing",
            f"The sandbox's packages are not installed ({last}).",
            next="Run `make install`, or install buddy-ops[sandbox].",
        )
    raise BuddyError("sandbox-not-started", f"The sandbox did not start: {last}", next="See CONTRIBUTING.")


@contextlib.contextmanager
def running_sandbox(*, port: int = 0, seed: int = 7, speed: float = 0.0, scenario: str | None = None) -> Iterator[str]:
    """A sandbox while the block runs; its URL."""
    # The sandbox stops when its owner's process ends, also after a crash.
    url = start_sandbox(port, seed=seed, speed=speed, owner=os.getpid())
    try:
        if scenario:
            load_scenario(url, scenario, "sandbox")
        yield url
    finally:
        with contextlib.suppress(BuddyError):
            call_sandbox(url, "stop")
        _await_stop(url)


def call_sandbox(url: str, operation: str, **fields: object) -> dict[str, Any]:
    """One control call.

    Raises:
        BuddyError: ``sandbox-not-running``, ``sandbox-token`` or ``sandbox-refused``.
    """
    try:
        # 'advance' simulates hours of traffic before it answers.
        return ask_sandbox(url, operation, fields, timeout_s=300)
    except HTTPError as error:
        if token_is_wrong(error):
            raise BuddyError("sandbox-token", TOKEN_WRONG.format(url), next=TOKEN_NEXT) from None
        # A failure of the sandbox's own, with status 500, is a page of HTML.
        reason = error.read().decode(errors="replace")
        now = "The sandbox may have changed something before it failed."
        with contextlib.suppress(ValueError, TypeError, KeyError):
            reason = parse_json(reason)["error"]
            now = UNCHANGED
        raise InvalidInput(
            "sandbox-refused",
            f"The sandbox refused {operation!r}: {reason}.",
            now=now,
            next="Correct the request. `buddy-ops sandbox set` lists the values that can be set.",
        ) from None
    except (OSError, HTTPException) as error:  # it may stop in the middle of its reply
        raise BuddyError(
            "sandbox-not-running",
            f"No sandbox is running at {url} ({error}).",
            next="Start it with `buddy-ops sandbox start`.",
        ) from None


class OwnFunction(TypedDict):
    """A function of the user's own: the members of the sandbox's control call ``function``."""

    name: str
    artifact: str
    region: str
    account: str
    kind: str
    handler: str
    runtime: str
    requests_per_minute: float
    event: dict[str, Any] | None


def read_event(file: Path | None) -> dict[str, Any] | None:
    """The event in a JSON file; None without one.

    Raises:
        InvalidInput: ``not-an-event``.
    """
    if file is None:
        return None
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise InvalidInput(
            "not-an-event",
            f"No event can be read from {file}: {error}.",
            next='Write a JSON object, for example {"rawPath": "/cart"}.',
        ) from None
    return found


def start_or_find(port: int, *, seed: int, speed: float) -> str:
    """The URL of the sandbox at a port, started if none runs there. Raises as ``start_sandbox`` does."""
    try:
        return start_sandbox(port, seed=seed, speed=speed)
    except BuddyError as error:
        url = endpoint(port)
        if error.reference != "port-taken":
            raise
        # Another program may have the port: then the first error says more.
        try:
            call_sandbox(url, "status")
        except BuddyError:
            raise error from None
        return url


def deploy_function(url: str, wanted: OwnFunction) -> dict[str, Any]:
    """Deploy a function of the user's own, and let its traffic begin; what the sandbox says of it.

    Raises:
        InvalidInput: ``sandbox-refused``, and what ``packages.pack_folder`` raises.
    """
    path = Path(wanted["artifact"])
    with tempfile.TemporaryDirectory() as folder:
        if path.is_dir():
            # As a deployment packs it: .lambdaignore holds, and no secret of the folder is packed.
            packed = Path(folder) / f"{path.resolve().name}.zip"
            packed.write_bytes(packages.pack_folder(path, wanted["artifact"]).content)
            path = packed
        if path.exists():
            # The sandbox is another process, perhaps in another folder.
            wanted = {**wanted, "artifact": str(path.absolute())}
        functions = call_sandbox(url, "function", **wanted)["functions"]
    mine = (wanted["name"], wanted["region"], wanted["account"])
    return dict(next(each for each in functions if (each["function"], each["region"], each["account"]) == mine))


def list_scenarios() -> list[tuple[str, str]]:
    """Name and description of each scenario."""
    from buddy_sandbox import scenarios as known

    return [(name, known.read(name).description) for name in known.names()]


def condition_keys() -> list[tuple[str, object, str, str]]:
    """Name, default, limits and meaning of each value that can be set in mid-run."""
    from buddy_sandbox import conditions

    return [(key.name, key.default, key.limits, key.meaning) for key in conditions.declared_keys()]


def scenario_keys() -> list[tuple[str, object, str, str]]:
    """The same for each value that can be set only when a scenario is loaded."""
    from buddy_sandbox import conditions, scenarios

    in_mid_run = {name for name, *_ in condition_keys()}
    about_the_scenario = {"description", "ends"}
    return [
        (key.name, key.default, key.limits, key.meaning)
        for key in conditions.declared_keys(scenarios.Scenario)
        if key.name not in in_mid_run | about_the_scenario
    ]


def load_scenario(url: str, name: str, environment: str, **overrides: object) -> Path:
    """Reset the sandbox and load a scenario; the path of its build, relative to the project's root.

    Raises:
        InvalidInput: ``unknown-scenario``.
    """
    require_scenario(name)
    call_sandbox(url, "scenario", name=name, environment=environment, overrides=overrides)
    return write_build(name)


def require_scenario(name: str) -> None:
    """Refuse a scenario that does not exist. Raises InvalidInput ``unknown-scenario``."""
    from buddy_sandbox import scenarios as known

    if name not in known.names():
        raise InvalidInput(
            "unknown-scenario",
            f"Scenario {name!r} does not exist.{did_you_mean(name, known.names())}",
            next=f"Use one of: {', '.join(known.names())}.",
        )


def parse_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """Values to set, from KEY=VALUE as typed; ``metrics_delays_s.Errors=240`` sets one entry of a mapping.

    Raises:
        InvalidInput: ``not-key-value``.
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        try:
            key, value = parameters.parse_pair(pair)
            name, _, entry = key.strip().partition(".")
            if not name:
                raise ValueError("no name")
        except ValueError:
            raise InvalidInput(
                "not-key-value",
                f"{pair!r} is not KEY=VALUE. Nothing was changed.",
                next="Write for example metrics_delay_s=240. `buddy-ops sandbox set` lists the values.",
            ) from None
        # a.x=1 a.y=2 are two entries of one mapping; a=1 a.x=2 is not.
        if name in changes and not (entry and isinstance(changes[name], dict) and entry not in changes[name]):
            raise InvalidInput(
                "not-key-value",
                f"{pair!r} sets {name} a second time. Nothing was changed.",
                next="Give each value once.",
            )
        if entry:
            changes.setdefault(name, {})[entry] = value
        else:
            changes[name] = value
    return changes


def write_build(name: str) -> Path:
    """Write a scenario's build to build/; its path relative to the project's root."""
    from buddy_sandbox import scenarios as known

    path = Path("build") / f"{name}.zip"
    file = project.project_root() / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(known.artifact(name))
    return path


def lab_command(root: Path, port: int, browser: bool) -> list[str]:
    """The command that starts JupyterLab: on loopback only, with its token, and for its own pages only.

    What is given here comes before the user's own Jupyter configuration, which may be meant for another server.
    """
    return [
        sys.executable,
        "-m",
        "buddy_ops.cli._lab",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.allow_remote_access=False",
        "--ServerApp.allow_origin=",
        "--ServerApp.allow_origin_pat=",
        "--ServerApp.allow_credentials=False",
        "--ServerApp.allow_unauthenticated_access=False",
        "--ServerApp.identity_provider_class=jupyter_server.auth.identity.PasswordIdentityProvider",
        "--ServerApp.disable_check_xsrf=False",
        f"--ServerApp.port={port}",
        "--LabApp.default_url=/lab/tree/notebooks/start_here.ipynb",
        f"--ServerApp.open_browser={browser}",
        # JupyterLab refuses to run as root, which a container's user is, without this.
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]


def serve_lab(root: Path, port: int, browser: bool, url: str) -> None:
    """Run JupyterLab in the foreground until it is stopped."""
    # The sandbox runs beside it, so that is what a runbook is for where nothing else is said.
    # The person's own variables come before the first of these, and none before the last.
    environment = {project.ENVIRONMENT_VARIABLE: project.SANDBOX, **os.environ, "AWS_ENDPOINT_URL": url}
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(lab_command(root, port, browser), env=environment, check=False)


def _await_stop(url: str) -> None:
    """Wait until a stopped sandbox no longer replies, so that its port is free again."""
    deadline = time.monotonic() + 5.0
    with contextlib.suppress(BuddyError):
        # Real time: the sandbox's own ends with it.
        while time.monotonic() < deadline:
            call_sandbox(url, "clock")
            time.sleep(0.05)
