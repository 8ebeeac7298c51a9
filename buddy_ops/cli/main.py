"""Deploy, monitor, roll back and review AWS Lambda versions.

Each command imports what it needs when it runs, so that a rollback starts fast.
"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from buddy_ops.cli import archive_commands, completion, fleet_commands, sandbox_commands
from buddy_ops.cli.answers import Answer, Commands, Json, Line, answers
from buddy_ops.cli.options import Environment, Names
from buddy_ops.cli.terminal import err, open_standard_streams, out, say
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.roles import Role

if TYPE_CHECKING:
    from buddy_ops.deployment.rollback import RollbackResult

DEFAULT_FREEZE_HOURS = 4

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help=__doc__.splitlines()[0],
    pretty_exceptions_enable=False,
    # Without rich's boxes: they cut the names of options in a narrow terminal.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
app.add_typer(sandbox_commands.commands, name="sandbox")
app.add_typer(archive_commands.commands, name="runs")
app.add_typer(fleet_commands.commands, name="fleet")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        say(f"buddy-ops {metadata.version('buddy-ops')}")
        raise typer.Exit


@app.callback(help=(__doc__ or "").splitlines()[0])
def main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """The options before a command, and what is done before each."""
    open_standard_streams()


@app.command()
@answers
def run(
    notebook: Annotated[
        str,
        typer.Argument(
            help="Runbook, for example strategies/canary. The command runbooks lists them.",
            autocompletion=completion.runbooks,
        ),
    ],
    environment: Environment = "",
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
    as_json: Json = False,
) -> Answer:
    """Run a runbook headlessly, and archive its notebook and report. The exit code is the result."""
    from buddy_ops.cli.run_parameters import parse_mapping, parse_parameters
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
    data = {"result": done.entry.result, "run": done.entry, "folder": done.folder, "notebook": done.notebook}
    data |= {"report": done.report, "error": done.error, "notes": done.told}
    return Answer(data, [f"report: {done.report or done.notebook}"], done.exit_code)


@app.command("init")
@answers
def init_(
    function: Annotated[
        str, typer.Option(help="Name of the Lambda function. {environment} in it is replaced by the environment.")
    ] = "",
    alias: Annotated[str, typer.Option(help="Alias that serves the users. Default: live.")] = "",
    region: Annotated[str, typer.Option(help="Region. Default: that of the profile or AWS_REGION.")] = "",
    kind: Annotated[
        str, typer.Option(help="alexa, http, sqs, stream, async or custom. Default: by what calls the function.")
    ] = "",
    environment: Annotated[
        list[str] | None, typer.Option("--environment", "-e", help="Environment; repeat for each. Default: prod.")
    ] = None,
    failure_metric: Annotated[
        str, typer.Option(help="NAMESPACE/NAME of a metric that counts failures which Lambda's Errors does not see.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: what is missing is an error.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and stop.")] = False,
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Show what this release changes in runbooks and workflows.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="With --upgrade: take it, except in files that you changed.")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Write a project into this folder: parameters/, notebooks/, workflows, template. No file is overwritten."""
    from buddy_ops.cli import init

    ask = init.may_ask(yes=yes, as_json=as_json)
    given = init.Given(function, alias, region, kind, tuple(environment or ()), failure_metric)
    if write and not upgrade:
        raise InvalidInput("invalid-usage", "--write belongs to --upgrade.", next="Add --upgrade, or leave it out.")
    if upgrade:
        if given != init.Given():
            raise InvalidInput(
                "invalid-usage",
                "--upgrade takes no description of the function: parameters/ has it.",
                next="Give --upgrade with --write, --dry-run, --yes or --json only.",
            )
        return init.upgrade(write=write and not dry_run, ask=ask and not dry_run)
    return init.init(given, ask=ask, dry_run=dry_run)


@app.command("runbooks")
@answers
def runbooks_(
    name: Annotated[
        str | None,
        typer.Argument(help="Runbook, for its parameters. Without it: the list.", autocompletion=completion.runbooks),
    ] = None,
    as_json: Json = False,
) -> Answer:
    """List the runbooks, or show the parameters of one."""
    from buddy_ops.cli import runbook_list

    if name is None:
        listed = runbook_list.list_runbooks()
        return Answer({"runbooks": listed}, runbook_list.list_lines(listed))
    described = runbook_list.describe_runbook(name)
    return Answer({"runbook": described}, described.lines())


@app.command()
@answers
def rollback(
    environment: Environment = "",
    to_version: Annotated[
        str, typer.Option(help="Rollback target. Default: the previous version that is not marked bad.")
    ] = "",
    approved_by: Names = None,
    incident: Annotated[str, typer.Option(help="Name of the incident; the review finds its runs by this name.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; approvers must be named.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Json = False,
) -> Answer:
    """Roll back: route all traffic to the previous version now."""
    from buddy_ops.aws import session
    from buddy_ops.deployment import rollback
    from buddy_ops.notebook import approvals

    target = session.connect(environment, "rollback", dry_run=dry_run)
    given = {"to_version": to_version, "approved_by": list(approved_by or ()), "incident": incident}
    target.journal.append("parameters", values=given)
    plan = rollback.plan_rollback(target, to_version, say)
    say(plan)
    if yes or dry_run:
        approval = approvals.from_parameters(target, plan, approved_by or ())
    else:
        approval = approvals.in_terminal(target, plan)
    done = rollback.run_rollback(target, plan, approval, say)
    say(done, _rollback_style(done))
    if done.pending:
        done = rollback.drive_rollback(target, done)
        say(done, _rollback_style(done))
    if target.settings.notify.topic_arn or target.settings.notify.slack_webhook:
        # Imported after the traffic has moved, and only where there is a channel.
        from buddy_ops.deployment import announcements

        say(announcements.announce_rollback(target, plan, done))
    notes = [target.redactor.redact(line) for line in target.side.unsaid()]
    data: dict[str, object] = {"environment": environment, "run": target.run, "plan": plan.hash, "title": plan.title}
    data |= {"approved_by": approval.by, "rollback": done, "notes": notes}
    return Answer(data, notes)


@app.command()
@answers
def freeze(
    environment: Environment = "",
    reason: Annotated[str, typer.Option(help="Reason for the freeze. Without it: list the active freezes.")] = "",
    owner: Annotated[str, typer.Option(help="Contact person, who also removes the freeze.")] = "",
    hours: Annotated[float | None, typer.Option(help="Duration in hours. Default: 4.", min=0, max=336)] = None,
    as_json: Json = False,
) -> Answer:
    """Freeze deployments of an environment. Rollbacks are never blocked. Without options: list the freezes."""
    from datetime import timedelta

    from buddy_ops.aws import freezes, session

    asked = bool(reason or owner or hours is not None)
    target = session.connect(environment, "freeze", quiet=not asked)
    if asked:
        lasts = timedelta(hours=DEFAULT_FREEZE_HOURS if hours is None else hours)
        created = freezes.create_freeze(target, reason, owner, lasts)
        return Answer({"environment": environment, "created": created}, [(f"Frozen: {created}.", "warning")])
    active = freezes.active_freezes(target)
    none = f"No active freeze in {environment}."
    return Answer({"environment": environment, "freezes": active}, [*map(str, active)] or [none])


@app.command()
@answers
def unfreeze(
    id: Annotated[str, typer.Argument(help="Freeze ID. The command freeze lists them.")],
    environment: Environment = "",
    as_json: Json = False,
) -> Answer:
    """Remove a freeze."""
    from buddy_ops.aws import freezes, session

    target = session.connect(environment, "unfreeze")
    removed = freezes.remove_freeze(target, id)
    active = freezes.active_freezes(target)
    if not removed:
        raise InvalidInput(
            "freeze-unknown",
            f"{environment} has no freeze {id!r}. Active freezes: {'; '.join(map(str, active)) or 'none'}.",
            next=f"Give the ID of a freeze. `buddy-ops freeze -e {environment}` lists them.",
        )
    still: list[Line] = [(f"Still frozen: {freeze}", "warning") for freeze in active]
    return Answer(
        {"environment": environment, "removed": id, "freezes": active}, [(f"Freeze {id} removed.", "ok"), *still]
    )


@app.command()
@answers
def reenable(
    environment: Environment = "",
    approved_by: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; approvers must be named.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Json = False,
) -> Answer:
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
    done = reenabling.run_reenabling(target, plan, approval)
    data = {"environment": environment, "run": target.run, "plan": plan.hash, "title": plan.title}
    return Answer({**data, "approved_by": approval.by, "dry_run": dry_run, "result": str(done)}, [str(done)])


@app.command()
@answers
def status(environment: Environment = "", as_json: Json = False) -> Answer:
    """Show the live version, its status and the recommended action. Reads only; exit code 1: unknown, 6: act."""
    from buddy_ops.aws import session
    from buddy_ops.checks import status as status_

    report = status_.read_status(session.connect(environment, "status", quiet=True))
    return Answer(report.to_json(), [(str(report), report.state.value)], report.exit_code)


@app.command()
@answers
def doctor(
    environment: Environment = "",
    role: Annotated[Role, typer.Option(help="Role whose permissions the caller needs.")] = "deployer",
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Try it on the real account, on scratch resources: up to 10 minutes, some cents."),
    ] = False,
    build: Annotated[
        str, typer.Option(help="With --prove: a build that the deployer must be able to read, s3://BUCKET/KEY.")
    ] = "",
    approved_by: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation; approvers must be named.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --prove: list calls, cost and time, and stop.")
    ] = False,
    as_json: Json = False,
) -> Answer:
    """Check that deployments and rollbacks can work. Exit code 1: a problem, or a check that failed."""
    if prove:
        from buddy_ops.cli import prove as prove_

        return prove_.prove(environment, role, build=build, approved_by=approved_by or (), yes=yes, dry_run=dry_run)
    if build or approved_by or yes or dry_run:
        raise InvalidInput(
            "invalid-usage",
            "--build, --approved-by, --yes and --dry-run belong to --prove.",
            next="Without --prove, doctor writes nothing and asks for no approval. Leave them out, or add --prove.",
        )
    from buddy_ops.aws import session
    from buddy_ops.checks import findings as findings_
    from buddy_ops.checks import setup as doctor_

    target = session.connect(environment, "doctor", quiet=True)
    with err.progress("checking"):
        findings = list(doctor_.run_doctor(target, role))
    state = findings_.overall_state(findings)
    lines: list[Line] = [(findings_.text_row(finding), finding.state.value) for finding in findings]
    unchecked = findings_.names_in_state(findings, findings_.State.UNKNOWN)
    if unchecked:
        lines.append((f"UNKNOWN: {unchecked} could not be checked.", "unknown"))
    lines.append(findings_.count_states(findings))
    data = {"environment": environment, "role": role, "state": state, "findings": findings}
    return Answer(data, lines, 0 if state is findings_.State.OK else 1)


@app.command()
@answers
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
@answers
def demo() -> Answer:
    """Run two canaries on a sandbox: a bad build that is rolled back, and a good one that reaches 100 %."""
    from buddy_ops.cli import demo as demo_

    return demo_.main()


@app.command("version")
@answers
def version_(as_json: Json = False) -> Answer:
    """Show the version, the commit, and what was changed since."""
    from buddy_ops.runs import provenance

    library = provenance.describe_library()
    known = {None: "unknown whether changed", True: "unchanged", False: f"changed: {', '.join(library['changed'])}"}
    commit = f", commit {library['commit']}" if library["commit"] else ""
    return Answer(library, [f"buddy-ops {library['version']}{commit} ({known[library['clean']]})"])


def _rollback_style(done: "RollbackResult") -> str:
    """The colour of a rollback's first line."""
    return "warning" if done.pending or done.dry_run else "ok"


if __name__ == "__main__":
    sys.exit(app())
