"""``buddy-ops sandbox``: the local AWS sandbox."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from buddy_ops.cli.answers import Answer, Commands, answers
from buddy_ops.cli.options import environment_option, json_option, port_option
from buddy_ops.cli.terminal import err

commands = Commands("sandbox", help="Manage the local AWS sandbox.")


@commands.command("start")
@port_option
@click.option("--scenario", default="good", show_default=True, help="Scenario to load.")
@click.option(
    "--function",
    default="",
    help="Name of a function of your own, instead of a scenario. Its handler is really invoked.",
)
@click.option("--artifact", default="", help="Zip or folder of its good build, which serves as version 1.")
@click.option(
    "--region",
    default="us-east-1",
    envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
    show_envvar=True,
    help="Its region. The same name in another region is another function.",
)
@click.option(
    "--account",
    default="123456789012",
    show_default=True,
    help="Its account. Settings reach another one than the default by `aws.assume_role`.",
)
@click.option(
    "--kind", default="custom", show_default=True, help="What invokes it: http, sqs, stream, async, alexa or custom."
)
@click.option("--handler", default="", help="As in Lambda's configuration. Default: found in the artifact.")
@click.option("--runtime", default="", help="As in Lambda's configuration. Default: found in the artifact.")
@click.option(
    "--requests-per-minute",
    type=click.FloatRange(0, 100_000),
    default=600,
    show_default=True,
    help="Traffic of its alias live.",
)
@click.option(
    "--event",
    type=click.Path(path_type=Path),
    help="JSON file with members that replace those of the kind's own event.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="Random seed.")
@click.option(
    "--speed",
    type=click.FloatRange(0, 10_000),
    default=0,
    show_default=True,
    help="Clock speed (10 = 10x real time). 0: the clock advances when runbooks wait.",
)
@json_option
@answers
def sandbox_start(
    port: int | None,
    scenario: str,
    function: str,
    artifact: str,
    region: str,
    account: str,
    kind: str,
    handler: str,
    runtime: str,
    requests_per_minute: float,
    event: Path | None,
    seed: int,
    speed: float,
    as_json: bool,
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
            account=account,
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
@port_option
@json_option
@answers
def sandbox_stop(port: int | None, as_json: bool) -> Answer:
    """Stop the sandbox. All its data is deleted."""
    from buddy_ops.cli import sandbox as sandboxes

    endpoint = sandboxes.endpoint(port)
    sandboxes.call_sandbox(endpoint, "stop")
    return Answer({"endpoint": endpoint, "stopped": True}, ["Sandbox stopped."])


@commands.command("status")
@port_option
@json_option
@answers
def sandbox_status(port: int | None, as_json: bool) -> Answer:
    """Show the sandbox's time and traffic, as JSON."""
    from buddy_ops.cli import sandbox as sandboxes

    found = sandboxes.call_sandbox(sandboxes.endpoint(port), "status")
    return Answer(found, [json.dumps(found, indent=2, ensure_ascii=False)])


@commands.command("scenario")
@click.argument("name", required=False, help="Scenario. Without it: list the scenarios.")
@environment_option
@click.option("--set", "changes", multiple=True, help="KEY=VALUE that replaces the scenario's own; repeatable.")
@port_option
@json_option
@answers
def sandbox_scenario(
    name: str | None, environment: str, changes: Sequence[str], port: int | None, as_json: bool
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
@click.argument("changes", nargs=-1, help="KEY=VALUE, for example metrics_delay_s=240.")
@click.option("--function", default="", help="Change requests_per_minute of this function only.")
@click.option("--region", default="", help="Only in this region. Default: in each.")
@click.option("--account", default="", help="Only in this account. Default: in each.")
@port_option
@json_option
@answers
def sandbox_set(
    changes: Sequence[str], function: str, region: str, account: str, port: int | None, as_json: bool
) -> Answer:
    """Change the conditions of a running scenario. Without an argument: list them, with their values and limits."""
    from buddy_ops.cli import sandbox as sandboxes

    wanted = sandboxes.parse_changes(changes or [])
    chosen = {"function": function, "region": region, "account": account}
    wanted |= {name: value for name, value in chosen.items() if value}
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
