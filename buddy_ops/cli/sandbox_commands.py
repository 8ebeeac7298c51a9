"""``buddy-ops sandbox``: the local AWS sandbox."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from buddy_ops.cli.answers import Answer, Commands, Json, answers
from buddy_ops.cli.options import Environment, Port
from buddy_ops.cli.terminal import err

commands = typer.Typer(cls=Commands, no_args_is_help=True, help="Manage the local AWS sandbox.", rich_markup_mode=None)


@commands.command("start")
@answers
def sandbox_start(
    port: Port = None,
    scenario: Annotated[str, typer.Option(help="Scenario to load.")] = "good",
    function: Annotated[
        str, typer.Option(help="Name of a function of your own, instead of a scenario. Its handler is really invoked.")
    ] = "",
    artifact: Annotated[str, typer.Option(help="Zip or folder of its good build, which serves as version 1.")] = "",
    region: Annotated[
        str,
        typer.Option(
            envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
            show_default=False,
            help="Its region. The same name in another region is another function.",
        ),
    ] = "us-east-1",
    kind: Annotated[str, typer.Option(help="What invokes it: http, sqs, stream, async, alexa or custom.")] = "custom",
    handler: Annotated[str, typer.Option(help="As in Lambda's configuration. Default: found in the artifact.")] = "",
    runtime: Annotated[str, typer.Option(help="As in Lambda's configuration. Default: found in the artifact.")] = "",
    requests_per_minute: Annotated[float, typer.Option(help="Traffic of its alias live.", min=0, max=100_000)] = 600,
    event: Annotated[
        Path | None, typer.Option(help="JSON file with members that replace those of the kind's own event.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 7,
    speed: Annotated[
        float,
        typer.Option(
            help="Clock speed (10 = 10x real time). 0: the clock advances when runbooks wait.", min=0, max=10_000
        ),
    ] = 0,
    as_json: Json = False,
) -> Answer:
    """Start the sandbox in the background with a scenario, or with a function of your own.

    With --function, a sandbox that runs already gets the function, too.
    """
    from buddy_ops.cli import sandbox as sandboxes

    number = sandboxes.default_port() if port is None else port
    if function:
        wanted = sandboxes.OwnFunction(
            name=function,
            artifact=artifact,
            region=region,
            kind=kind,
            handler=handler,
            runtime=runtime,
            requests_per_minute=requests_per_minute,
            event=sandboxes.read_event(event),
        )
        endpoint = sandboxes.start_or_find(number, seed=seed, speed=speed)
        with err.progress(f"deploying {function}"):
            data = sandboxes.deploy_function(endpoint, wanted)
        lines = [
            f"Sandbox running at {endpoint}.",
            f"Version 1 of {function} in {region} is {artifact}. It serves the alias live.",
            "Its traffic invokes the handler.",
            "To use it in this shell:",
            f"export AWS_ENDPOINT_URL={endpoint}",
        ]
        return Answer({"endpoint": endpoint, **data}, lines)
    sandboxes.require_scenario(scenario)
    endpoint = sandboxes.start_sandbox(number, seed=seed, speed=speed)
    loaded = _load_scenario(endpoint, scenario, "sandbox")
    return Answer(loaded.data, [f"Sandbox running at {endpoint}.", *loaded.lines])


@commands.command("stop")
@answers
def sandbox_stop(port: Port = None, as_json: Json = False) -> Answer:
    """Stop the sandbox. All its data is deleted."""
    from buddy_ops.cli import sandbox as sandboxes

    endpoint = sandboxes.endpoint(port)
    sandboxes.call_sandbox(endpoint, "stop")
    return Answer({"endpoint": endpoint, "stopped": True}, ["Sandbox stopped."])


@commands.command("status")
@answers
def sandbox_status(port: Port = None, as_json: Json = False) -> Answer:
    """Show the sandbox's time and traffic, as JSON."""
    from buddy_ops.cli import sandbox as sandboxes

    found = sandboxes.call_sandbox(sandboxes.endpoint(port), "status")
    return Answer(found, [json.dumps(found, indent=2, ensure_ascii=False)])


@commands.command("scenario")
@answers
def sandbox_scenario(
    name: Annotated[str | None, typer.Argument(help="Scenario. Without it: list the scenarios.")] = None,
    environment: Environment = "",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE that replaces the scenario's own; repeatable.")
    ] = None,
    port: Port = None,
    as_json: Json = False,
) -> Answer:
    """Reset the sandbox, load a scenario, and write its build."""
    from buddy_ops.cli import sandbox as sandboxes

    if name is not None:
        return _load_scenario(sandboxes.endpoint(port), name, environment, changes or [])
    scenarios = [{"name": scenario, "meaning": meaning} for scenario, meaning in sandboxes.list_scenarios()]
    keys = [_key(*key) for key in sandboxes.scenario_keys()]
    lines = [f"{scenario['name']:<20} {scenario['meaning']}" for scenario in scenarios]
    lines.append("\nKeys for --set, beside those that `buddy-ops sandbox set` lists:\n")
    return Answer({"scenarios": scenarios, "keys": keys}, [*lines, *_key_lines(keys)])


@commands.command("set")
@answers
def sandbox_set(
    changes: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE, for example metrics_delay_s=240.")] = None,
    function: Annotated[str, typer.Option(help="Change requests_per_minute of this function only.")] = "",
    region: Annotated[str, typer.Option(help="Region of that function. Default: each that has one.")] = "",
    port: Port = None,
    as_json: Json = False,
) -> Answer:
    """Change the conditions of a running scenario. Without an argument: list them, with their values and limits."""
    from buddy_ops.cli import sandbox as sandboxes

    wanted = sandboxes.parse_changes(changes or [])
    if function:
        wanted |= {"function": function, "region": region or None}
    values = sandboxes.call_sandbox(sandboxes.endpoint(port), "set", **wanted)["conditions"]
    keys = [_key(name, values[name], limits, meaning) for name, _, limits, meaning in sandboxes.condition_keys()]
    return Answer({"keys": keys}, _key_lines(keys))


def _key(name: str, value: object, limits: str, meaning: str) -> dict[str, object]:
    """A key that can be set."""
    return {"name": name, "value": value, "limits": limits, "meaning": meaning}


def _key_lines(keys: Sequence[Mapping[str, object]]) -> list[str]:
    """Each key with its value as it is typed, and its meaning with its limits on a line of its own."""
    lines = []
    for key in keys:
        limits = f" ({key['limits']})" if key["limits"] else ""
        lines += [f"{key['name']}={json.dumps(key['value'])}", f"    {key['meaning']}{limits}"]
    return lines


def _load_scenario(endpoint: str, name: str, environment: str, changes: Sequence[str] = ()) -> Answer:
    from buddy_ops.cli import sandbox as sandboxes

    overrides = sandboxes.parse_changes(changes)
    with err.progress(f"loading {name}"):
        artifact = sandboxes.load_scenario(endpoint, name, environment, **overrides)
    command = f"buddy-ops run strategies/canary -e {environment} -p artifact={artifact} -p 'approved_by=[YOUR-NAME]'"
    data = {"endpoint": endpoint, "environment": environment, "scenario": name, "artifact": artifact}
    return Answer(
        {**data, "next": command}, [f"Scenario {name} loaded. Its build is {artifact}. To deploy it:", command]
    )
