"""Deploy, monitor, roll back and review AWS Lambda versions.

Each command imports what it needs when it runs, so that a rollback starts fast.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from buddy_ops.aws.permissions import Role
from buddy_ops.cli.terminal import err, open_standard_streams, out, say
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.extras import RUN_PACKAGES, run_extra_missing

if TYPE_CHECKING:
    from buddy_ops.core.parameters import DeclaredParameter

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0], pretty_exceptions_enable=False
)
sandbox = typer.Typer(no_args_is_help=True, help="Manage the local AWS sandbox.")
app.add_typer(sandbox, name="sandbox")
archived = typer.Typer(no_args_is_help=True, help="List, show, compare, verify, index and prune archived runs.")
app.add_typer(archived, name="runs")


P = ParamSpec("P")
Environment = Annotated[str, typer.Option("--environment", "-e", help="Environment (dev, staging, prod, sandbox).")]
Port = Annotated[
    int | None, typer.Option(help="The sandbox's port. Default: as in parameters/sandbox.yaml.", min=0, max=65535)
]
Where = Annotated[str, typer.Option("--archive", help="Folder or s3://bucket/prefix. Default: runs/.")]
Run = Annotated[str, typer.Argument(help="Run ID, for example 7f3a91c2, or the run's folder.")]
Reach = Annotated[str, typer.Option("--environment", "-e", help="Environment whose credentials are used for S3.")]
Names = Annotated[list[str] | None, typer.Option("--approved-by", help="Name of an approver; repeat for each.")]


def exits(command: Callable[P, None]) -> Callable[P, None]:
    """Exit with the code of an operational error, and print its parts on stderr."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _extras_named():
                command(*args, **kwargs)
        except BuddyError as error:
            text = name_options(str(error), command)
            err.print(error.result, style="bold red", end="")
            err.print(text.removeprefix(error.result))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            err.print("Interrupted. Run the same command again: it reads the live state first.")
            raise typer.Exit(1) from None

    return wrapped


@contextmanager
def _extras_named() -> Iterator[None]:
    """Say which extra to install where a package of it is missing; any other missing module is a defect."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in RUN_PACKAGES:
            raise run_extra_missing(package) from error
        raise


def name_options(text: str, command: Callable[..., None]) -> str:
    """A text for operators with a command's options in place of a runbook's parameters: '--to-version'."""
    for name in signature(command).parameters:
        if "_" in name:
            text = re.sub(rf"\b{name}\b", f"--{name.replace('_', '-')}", text)
    return text


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        say(f"buddy-ops {metadata.version('buddy-ops')}")
        raise typer.Exit


@app.callback(help=(__doc__ or "").splitlines()[0])
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """The options before a command, and what is done before each."""
    open_standard_streams()


@app.command()
@exits
def run(
    notebook: Annotated[str, typer.Argument(help="Runbook, for example strategies/canary.")],
    environment: Environment = "sandbox",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", help="NAME=VALUE; a text as typed, others in YAML."),
    ] = None,
    parameters: Annotated[str, typer.Option(help="More parameters, as one YAML mapping.")] = "{}",
    archive: Annotated[
        str | None,
        typer.Option(help="s3://bucket/prefix, besides runs/. Default: archive.where of the environment."),
    ] = None,
    cell_timeout: Annotated[
        float | None, typer.Option(help="Time limit per cell in seconds. Default: none.", min=1)
    ] = None,
) -> None:
    """Run a runbook headlessly, and archive its notebook and report. The exit code is the result."""
    from buddy_ops.core import runbooks
    from buddy_ops.runs import supervisor

    try:
        declared = runbooks.read_declarations(supervisor.find_notebook(notebook))
        given = {
            "environment": environment,
            **parse_mapping(parameters, declared),
            **parse_parameters(parameter or [], declared),
        }
        with err.progress("starting") as tell:
            done = supervisor.run_notebook(
                notebook, given, progress=tell, archive_to=archive, cell_timeout_s=cell_timeout
            )
    except BuddyError as error:
        # The run did not start, so the summary for CI has no manifest to read.
        supervisor.write_error_summary(notebook, environment, error)
        raise
    for line in filter(None, (done.trouble, *done.told)):
        err.print(line)
    supervisor.write_step_summary(done)
    out.print(f"report: {done.report or done.notebook}")
    raise typer.Exit(done.exit_code)


@app.command()
@exits
def rollback(
    environment: Environment = "sandbox",
    to_version: Annotated[
        str, typer.Option(help="Rollback target. Default: the previous version that is not marked bad.")
    ] = "",
    approved_by: Names = None,
    incident: Annotated[str, typer.Option(help="Name of the incident; the review finds its runs by this name.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; requires --approved-by.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the plan and stop.")] = False,
) -> None:
    """Roll back: route all traffic to the previous version now."""
    from buddy_ops.aws import session
    from buddy_ops.deployment import rollback
    from buddy_ops.notebook import approvals

    target = session.connect(environment, "rollback", dry_run=dry_run)
    given = {"to_version": to_version, "approved_by": list(approved_by or ()), "incident": incident}
    target.journal.append("parameters", values=given)
    plan = rollback.plan_rollback(target, to_version, say)
    # Not through rich: importing it would delay the rollback.
    say(plan)
    if yes or dry_run:
        approval = approvals.from_parameters(target, plan, approved_by or ())
    else:
        approval = approvals.in_terminal(target, plan)
    done = rollback.run_rollback(target, plan, approval, say)
    say(done)
    if done.pending:
        done = rollback.drive_rollback(target, done)
        say(done)
    if target.settings.notify.topic_arn or target.settings.notify.slack_webhook:
        # Imported after the traffic has moved, and only where there is a channel.
        from buddy_ops.deployment import announcements

        say(announcements.announce_rollback(target, plan, done))
    for line in target.side.unsaid():
        say(target.redactor.redact(line))


@app.command()
@exits
def freeze(
    environment: Environment = "sandbox",
    reason: Annotated[str, typer.Option(help="Reason for the freeze. Without it: list the active freezes.")] = "",
    owner: Annotated[str, typer.Option(help="Contact person, who also removes the freeze.")] = "",
    hours: Annotated[float, typer.Option(help="Duration in hours.", min=0, max=336)] = 4,
) -> None:
    """Freeze deployments of an environment. Rollbacks are never blocked. Without a reason: list the freezes."""
    from datetime import timedelta

    from buddy_ops.aws import freezes, session

    target = session.connect(environment, "freeze", quiet=not reason)
    if reason or owner:
        out.print(f"Frozen: {freezes.create_freeze(target, reason, owner, timedelta(hours=hours))}.")
        return
    active = "\n".join(map(str, freezes.active_freezes(target)))
    out.print(active or f"No active freeze in {environment}.")


@app.command()
@exits
def unfreeze(
    id: Annotated[str, typer.Argument(help="Freeze ID, as `buddy-ops freeze` lists it.")],
    environment: Environment = "sandbox",
) -> None:
    """Remove a freeze."""
    from buddy_ops.aws import freezes, session

    target = session.connect(environment, "unfreeze")
    removed = freezes.remove_freeze(target, id)
    out.print(f"Freeze {id} removed." if removed else f"Freeze {id} does not exist.")
    for active in freezes.active_freezes(target):
        out.print(f"Still frozen: {active}")


@app.command()
@exits
def reenable(
    environment: Environment = "sandbox",
    approved_by: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; requires --approved-by.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the plan and stop.")] = False,
) -> None:
    """Re-enable a function that was isolated: restore its concurrency, or its access to the table."""
    from buddy_ops.aws import session
    from buddy_ops.deployment import reenabling
    from buddy_ops.notebook import approvals

    target = session.connect(environment, "reenable", dry_run=dry_run)
    plan = reenabling.plan_reenabling(target)
    say(plan)
    if yes or dry_run:
        approval = approvals.from_parameters(target, plan, approved_by or ())
    else:
        approval = approvals.in_terminal(target, plan)
    say(reenabling.run_reenabling(target, plan, approval))


@app.command()
@exits
def status(
    environment: Environment = "sandbox",
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
) -> None:
    """Show the live version, its status and the recommended action. Reads only; exit code 1: unknown, 6: act."""
    from buddy_ops.aws import session
    from buddy_ops.checks import status as status_

    report = status_.read_status(session.connect(environment, "status", quiet=True))
    if as_json:
        out.print_json(data=report.to_json())
    else:
        say(report)
    raise typer.Exit(report.exit_code)


@app.command()
@exits
def doctor(
    environment: Environment = "sandbox",
    role: Annotated[Role, typer.Option(help="Role whose permissions the caller needs.")] = "deployer",
) -> None:
    """Check that deployments and rollbacks can work. Reads only; exit code 1: a problem, or a check that failed."""
    from buddy_ops.aws import session
    from buddy_ops.checks import findings as findings_
    from buddy_ops.checks import setup as doctor_

    colours = {"ok": "green", "warning": "yellow", "problem": "bold red", "unknown": "cyan"}
    target = session.connect(environment, "doctor", quiet=True)
    with err.progress("checking"):
        findings = list(doctor_.run_doctor(target, role))
    for finding in findings:
        row = findings_.text_row(finding)
        out.print(row, style=colours.get(finding.state), markup=False, highlight=False, soft_wrap=True)
    unchecked = findings_.names_in_state(findings, findings_.State.UNKNOWN)
    if unchecked:
        out.print(f"UNKNOWN: {unchecked} could not be checked.", highlight=False, soft_wrap=True)
    out.print(findings_.count_states(findings), highlight=False)
    raise typer.Exit(0 if findings_.overall_state(findings) is findings_.State.OK else 1)


@app.command()
@exits
def lab(
    port: Annotated[int, typer.Option(help="JupyterLab's port.", min=1, max=65535)] = 8888,
    speed: Annotated[float, typer.Option(help="Clock speed (10 = 10x real time).", min=0, max=10_000)] = 10.0,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Start JupyterLab with the runbooks and a local AWS sandbox."""
    from buddy_ops.cli import sandbox as sandboxes
    from buddy_ops.core import project

    with sandboxes.running_sandbox(speed=speed, scenario="good", port=sandboxes.default_port()) as endpoint:
        out.print(f"Sandbox running at {endpoint}, clock speed {speed:g}x.")
        sandboxes.serve_lab(project.project_root(), port, browser, endpoint)


@app.command()
@exits
def demo() -> None:
    """Run two canaries on a sandbox: a bad build that is rolled back, and a good one that reaches 100 %."""
    from buddy_ops.cli import demo as demo_

    raise typer.Exit(demo_.main())


@sandbox.command("start")
@exits
def sandbox_start(
    port: Port = None,
    scenario: Annotated[str, typer.Option(help="Scenario to load.")] = "good",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 7,
    speed: Annotated[
        float,
        typer.Option(
            help="Clock speed (10 = 10x real time). 0: the clock advances when runbooks wait.", min=0, max=10_000
        ),
    ] = 0,
) -> None:
    """Start the sandbox in the background, and load a scenario."""
    from buddy_ops.cli import sandbox as sandboxes

    endpoint = sandboxes.start_sandbox(sandboxes.default_port() if port is None else port, seed=seed, speed=speed)
    out.print(f"Sandbox running at {endpoint}.")
    _load_scenario(endpoint, scenario, "sandbox")


@sandbox.command("stop")
@exits
def sandbox_stop(port: Port = None) -> None:
    """Stop the sandbox. All its data is deleted."""
    from buddy_ops.cli import sandbox as sandboxes

    sandboxes.call_sandbox(sandboxes.endpoint(port), "stop")
    out.print("Sandbox stopped.")


@sandbox.command("status")
@exits
def sandbox_status(port: Port = None) -> None:
    """Show the sandbox's time and traffic."""
    from buddy_ops.cli import sandbox as sandboxes

    out.print_json(data=sandboxes.call_sandbox(sandboxes.endpoint(port), "status"))


@sandbox.command("scenario")
@exits
def sandbox_scenario(
    name: Annotated[str | None, typer.Argument(help="Scenario. Without it: list the scenarios.")] = None,
    environment: Environment = "sandbox",
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE that replaces the scenario's own; repeatable.")
    ] = None,
    port: Port = None,
) -> None:
    """Reset the sandbox, load a scenario, and write its build."""
    from buddy_ops.cli import sandbox as sandboxes

    if name is None:
        for scenario, description in sandboxes.list_scenarios():
            out.print(f"{scenario:<20} {description}")
        out.print("\nKeys for --set, beside those that `buddy-ops sandbox set` lists:\n")
        for key in sandboxes.scenario_keys():
            _print_key(*key)
        return
    _load_scenario(sandboxes.endpoint(port), name, environment, changes or [])


@sandbox.command("set")
@exits
def sandbox_set(
    changes: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE, for example metrics_delay_s=240.")] = None,
    port: Port = None,
) -> None:
    """Change the conditions of a running scenario. Without an argument: list them, with their values and limits."""
    from buddy_ops.cli import sandbox as sandboxes

    wanted = sandboxes.parse_changes(changes or [])
    values = sandboxes.call_sandbox(sandboxes.endpoint(port), "set", **wanted)["conditions"]
    for name, _, limits, meaning in sandboxes.condition_keys():
        _print_key(name, values[name], limits, meaning)


def _print_key(name: str, value: object, limits: str, meaning: str) -> None:
    """A key that can be set: its value as it is typed, what it may be, and its meaning on a line of its own."""
    out.print(f"{name}={json.dumps(value)}", markup=False, highlight=False)
    out.print(f"    {meaning} ({limits})" if limits else f"    {meaning}", markup=False, highlight=False)


def _load_scenario(endpoint: str, name: str, environment: str, changes: Sequence[str] = ()) -> None:
    from buddy_ops.cli import sandbox as sandboxes

    overrides = sandboxes.parse_changes(changes)
    with err.progress(f"loading {name}"):
        artifact = sandboxes.load_scenario(endpoint, name, environment, **overrides)
    out.print(f"Scenario {name} loaded. Its build is {artifact}. To deploy it:")
    out.print(f"buddy-ops run strategies/canary -e {environment} -p artifact={artifact} -p approved_by=[YOUR-NAME]")


@archived.command("list")
@exits
def runs_list(where: Where = "", environment: Reach = "") -> None:
    """List the archived runs, oldest first."""
    from buddy_ops.runs import archive

    for entry in archive.list_entries(archive.open_store(_existing(where), environment)):
        people = ", ".join(entry.people) or entry.principal
        result = f"{entry.result:<36} {entry.exit_code}  {entry.ended_at}"
        line = f"{entry.folder:<48} {result}  {people}  {entry.incident}"
        out.print(line.rstrip())


@archived.command("show")
@exits
def runs_show(run: Run, where: Where = "", environment: Reach = "") -> None:
    """Show a run's manifest."""
    from dataclasses import asdict

    from buddy_ops.runs import archive

    out.print_json(data=asdict(archive.find_run(archive.open_store(_existing(where), environment), run)))


@archived.command("verify")
@exits
def runs_verify(
    where: Where = "",
    environment: Reach = "",
    newest: Annotated[str, typer.Option(help="Hash of a manifest that was announced: it must be in the chain.")] = "",
    public_key: Annotated[
        list[str] | None,
        typer.Option(help="File with the public key of the signatures; repeatable. Without it, AWS KMS verifies them."),
    ] = None,
) -> None:
    """Check all files against their checksums, and all signatures. Exit code 1: changed, missing, unsigned, unknown."""
    from buddy_ops.core.text import count
    from buddy_ops.runs import archive, signatures, verification

    store = archive.open_store(_existing(where), environment)
    check = signatures.check_by_keys(public_key) if public_key else signatures.check_by_kms(environment)
    found = verification.verify_archive(store, newest, check)
    for problem in found.problems:
        out.print(f"CHANGED: {problem}", style="bold red")
    for run in found.unsigned:
        out.print(f"NOT SIGNED: {run}", style="bold red")
    for unverified in found.unknown:
        out.print(f"UNKNOWN: {unverified}", style="bold red")
    for folder in found.unfinished:
        out.print(f"{folder}: not archived yet. Run `buddy-ops runs index`.")
    for pruning in found.pruned:
        out.print(pruning)
    if found.problems:
        out.print(f"FAILED: {count(len(found.problems), 'problem')} in {count(found.runs, 'run')}.")
    else:
        out.print(f"OK: all files of {count(found.runs, 'run')} match their checksums.")
    if found.signed:
        out.print(found.signed)
    out.print(f"Newest manifest: {found.newest or 'none'}.")
    out.print(found.beyond)
    raise typer.Exit(0 if found.is_ok else 1)


@archived.command("sign")
@exits
def runs_sign(run: Run, where: Where = "", environment: Reach = "") -> None:
    """Sign a run that could not be signed when it was archived. Read its report first."""
    from buddy_ops.runs import archive

    entry = archive.sign_run(archive.open_store(_existing(where), environment), run)
    out.print(f"SUCCEEDED: {entry.folder} is signed, manifest {entry.sha256}.")


@archived.command("index")
@exits
def runs_index(where: Where = "", environment: Reach = "") -> None:
    """Archive unfinished runs, upload what is missing in S3, and rebuild the index."""
    from buddy_ops.runs import supervisor

    for line in supervisor.index_archive(_existing(where), environment):
        out.print(line)


@archived.command("prune")
@exits
def runs_prune(
    keep: Annotated[str, typer.Option(help="What is kept: 200 (the newest 200 runs), 400d (days) or 52w (weeks).")],
    where: Where = "",
    environment: Annotated[
        str, typer.Option("--environment", "-e", help="Environment whose key signs the record, and whose S3 is read.")
    ] = "",
    approved_by: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    dry_run: Annotated[bool, typer.Option(help="List the runs that would be deleted, and stop.")] = False,
) -> None:
    """Delete the oldest runs of an archive. What is kept still verifies, and says what was deleted."""
    from datetime import UTC, datetime
    from getpass import getuser

    from buddy_ops.runs import archive, retention, signatures

    store = archive.open_store(_existing(where), environment)
    plan = retention.plan_pruning(store, keep, datetime.now(UTC))
    out.print(str(plan))
    if dry_run:
        return
    if not plan.runs:
        retention.finish_pruning(store)  # one that was cut off, or met runs that S3 still kept
        return
    if not yes and not typer.confirm("Delete these runs? This cannot be undone"):
        out.print("Nothing was deleted.")
        return
    by = approved_by or (getuser(),)
    sign = signatures.pruning_signer(plan.runs, environment)
    entry = retention.run_pruning(store, plan, by, datetime.now(UTC), sign=sign)
    out.print(f"SUCCEEDED: {len(plan.runs)} pruned. Recorded as {entry.folder}, manifest {entry.sha256}.")


@archived.command("diff")
@exits
def runs_diff(first: Run, second: Run, where: Where = "", environment: Reach = "") -> None:
    """Compare two runs: plan, figures, verdicts and people, but not times."""
    from buddy_ops.runs import archive, diff

    store = archive.open_store(_existing(where), environment)
    differences = diff.compare_runs(store, archive.find_run(store, first), archive.find_run(store, second))
    for difference in differences:
        out.print(str(difference))
    if not differences:
        out.print("No differences, except for times.")


def _existing(where: str) -> str:
    """The archive that an option names. A misspelt folder must not read as an archive in which nothing is wrong.

    Raises:
        InvalidInput: ``archive-unknown``.
    """
    from buddy_ops.core import project

    if where and not where.startswith("s3://") and not (project.project_root() / where).is_dir():
        raise InvalidInput(
            "archive-unknown",
            f"There is no folder {where[:200]!r} (relative to the project).",
            next="Give the folder of an archive with --archive, or none for runs/ of this project.",
        )
    return where


def parse_mapping(text: str, declared: "Mapping[str, DeclaredParameter] | None" = None) -> dict[str, object]:
    """A YAML mapping of parameters, without the environment: that is an option, where reviewers see it.

    Args:
        declared: the runbook's parameters: those that are texts are taken as they are written.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    from buddy_ops.core import parameters

    try:
        given = parameters.parse_values(text, declared or {})
    except ValueError as error:
        problem = f"is not a YAML mapping that can be used: {error}"
    else:
        hidden = sorted({"environment", "settings"} & set(given))
        if not hidden:
            return given
        problem = f"must not contain {' and '.join(hidden)}"
    raise InvalidInput(
        "invalid-parameters",
        f"--parameters {problem}.",
        next="For example: --parameters '{approved_by: [Ada, Grace], dry_run: true}', with -e for the environment.",
    )


def parse_parameters(pairs: list[str], declared: "Mapping[str, DeclaredParameter] | None" = None) -> dict[str, object]:
    """NAME=VALUE pairs; a text's value as typed, other values as YAML. Raises InvalidInput ``invalid-parameters``."""
    from buddy_ops.core import parameters, settings
    from buddy_ops.core.text import shorten

    given: dict[str, object] = {}
    for pair in pairs:
        try:
            name, value = parameters.parse_pair(pair, declared)
            if name in given:
                raise ValueError(f"{name} is given twice")
        except ValueError as error:
            # The value of a parameter that may hold a secret is not repeated.
            name = pair.partition("=")[0]
            shown = name if name in settings.SECRETIVE else shorten(pair, parameters.SHOWN)
            raise InvalidInput(
                "invalid-parameters",
                f"-p {shown} is not NAME=VALUE with a YAML value ({error}).",
                next="For example: -p artifact=build/skill.zip -p 'approved_by=[Ada, Grace]'.",
            ) from None
        given[name] = value
    return given


if __name__ == "__main__":
    sys.exit(app())
