"""Deploy, monitor, roll back and review AWS Lambda versions.

Each command imports what it needs when it runs, so that a rollback starts fast.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import click

from buddy_ops.cli import archive_commands, completion, fleet_commands, sandbox_commands
from buddy_ops.cli.answers import Answer, Commands, Line, answers
from buddy_ops.cli.options import (
    approved_by_option,
    dry_run_option,
    environment_option,
    json_option,
    offer,
    yes_option,
)
from buddy_ops.cli.terminal import err, open_standard_streams, out, say
from buddy_ops.core import garbage
from buddy_ops.core.errors import BuddyError, InvalidInput
from buddy_ops.core.roles import Role

if TYPE_CHECKING:
    from buddy_ops.deployment.rollback import RollbackResult

DEFAULT_FREEZE_HOURS = 4


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib import metadata

        say(f"buddy-ops {metadata.version('buddy-ops')}")
        context.exit()


@click.group(
    cls=Commands,
    help=__doc__.splitlines()[0],
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
@click.option(
    "--version",
    "-V",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and stop.",
)
@click.option(
    "--show-completion",
    type=click.Choice(completion.SHELLS),
    expose_value=False,
    is_eager=True,
    callback=completion.print_script,
    help="Show the script that completes commands in this shell, and stop.",
)
def app() -> None:
    """The options before a command, and what is done before each."""
    garbage.search_rarely()
    open_standard_streams()


@app.command()
@click.argument(
    "notebook",
    shell_complete=offer(completion.runbooks),
    help="Runbook, for example strategies/canary. The command runbooks lists them.",
)
@environment_option
@click.option("--parameter", "-p", multiple=True, help="NAME=VALUE; a text as typed, others in YAML.")
@click.option("--parameters", default="{}", show_default=True, help="More parameters, as one YAML mapping.")
@click.option("--archive", help="s3://bucket/prefix, besides runs/. Default: archive.where of the environment.")
@click.option("--cell-timeout", type=click.FloatRange(min=1), help="Time limit per cell in seconds. Default: none.")
@json_option
@answers
def run(
    notebook: str,
    environment: str,
    parameter: Sequence[str],
    parameters: str,
    archive: str | None,
    cell_timeout: float | None,
    as_json: bool,
) -> Answer:
    """Run a runbook headlessly, and archive its notebook and report. The exit code is the result."""
    from buddy_ops.runs.worker import start_worker

    # Before the supervisor's own imports: the worker's take longer, and go on beside them.
    with start_worker() as worker:
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
                    notebook, given, progress=tell, archive_to=archive, cell_timeout_s=cell_timeout, worker=worker
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
@click.option(
    "--function", default="", help="Name of the Lambda function. {environment} in it is replaced by the environment."
)
@click.option("--alias", default="", help="Alias that serves the users. Default: live.")
@click.option("--region", default="", help="Region. Default: that of the profile or AWS_REGION.")
@click.option(
    "--kind", default="", help="alexa, http, sqs, stream, async or custom. Default: by what calls the function."
)
@click.option("--environment", "-e", multiple=True, help="Environment; repeat for each. Default: prod.")
@click.option(
    "--failure-metric",
    default="",
    help="NAMESPACE/NAME of a metric that counts failures which Lambda's Errors does not see.",
)
@click.option("--yes", is_flag=True, help="Ask nothing: what is missing is an error.")
@click.option("--dry-run", is_flag=True, help="List the files and stop.")
@click.option("--upgrade", is_flag=True, help="Show what this release changes in runbooks and workflows.")
@click.option("--write", is_flag=True, help="With --upgrade: take it, except in files that you changed.")
@json_option
@answers
def init_(
    function: str,
    alias: str,
    region: str,
    kind: str,
    environment: Sequence[str],
    failure_metric: str,
    yes: bool,
    dry_run: bool,
    upgrade: bool,
    write: bool,
    as_json: bool,
) -> Answer:
    """Write a project into this folder: parameters/, notebooks/, workflows, template. No file is overwritten."""
    from buddy_ops.cli import init

    ask = init.may_ask(yes=yes, as_json=as_json)
    given = init.Given(
        function=function,
        alias=alias,
        region=region,
        kind=kind,
        environments=tuple(environment or ()),
        failure_metric=failure_metric,
    )
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
@click.argument(
    "name",
    required=False,
    shell_complete=offer(completion.runbooks),
    help="Runbook, for its parameters. Without it: the list.",
)
@json_option
@answers
def runbooks_(name: str | None, as_json: bool) -> Answer:
    """List the runbooks, or show the parameters of one."""
    from buddy_ops.cli import runbook_list

    if name is None:
        listed = runbook_list.list_runbooks()
        return Answer({"runbooks": listed}, runbook_list.list_lines(listed))
    described = runbook_list.describe_runbook(name)
    return Answer({"runbook": described}, described.lines())


@app.command()
@environment_option
@click.option("--to-version", default="", help="Rollback target. Default: the previous version that is not marked bad.")
@approved_by_option
@click.option("--incident", default="", help="Name of the incident; the review finds its runs by this name.")
@yes_option
@dry_run_option
@json_option
@answers
def rollback(
    environment: str,
    to_version: str,
    approved_by: Sequence[str],
    incident: str,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> Answer:
    """Roll back: route all traffic to the previous version now."""
    from buddy_ops.aws import session
    from buddy_ops.deployment import rollback
    from buddy_ops.notebook import approvals

    target = session.connect(environment, "rollback", dry_run=dry_run)
    given = {"to_version": to_version, "approved_by": list(approved_by or ()), "incident": incident}
    # A command has no notebook with its parameters: the archive reads them here.
    target.journal.append("parameters", values=given)
    plan = rollback.plan_rollback(target, to_version, say)
    say(plan)
    approval = approvals.for_command(target, plan, approved_by, ask=not (yes or dry_run))
    done = rollback.run_rollback(target, plan, approval, say)
    say(done, _rollback_style(done))
    if done.pending:
        done = rollback.drive_rollback(target, done)
        say(done, _rollback_style(done))
    notify = target.settings.notify
    if notify.topic_arn or notify.slack_webhook or notify.channels:
        # Imported after the traffic has moved, and only where there is a channel.
        from buddy_ops.deployment import announcements

        say(announcements.announce_rollback(target, plan, done))
    notes = [target.redactor.redact(line) for line in target.side.unsaid()]
    data: dict[str, object] = {"environment": environment, "run": target.run, "plan": plan.hash, "title": plan.title}
    data |= {"approved_by": approval.by, "rollback": done, "notes": notes}
    return Answer(data, notes)


@app.command()
@environment_option
@click.option("--reason", default="", help="Reason for the freeze. Without it: list the active freezes.")
@click.option("--owner", default="", help="Contact person, who also removes the freeze.")
@click.option("--hours", type=click.FloatRange(0, 336), help="Duration in hours. Default: 4.")
@json_option
@answers
def freeze(environment: str, reason: str, owner: str, hours: float | None, as_json: bool) -> Answer:
    """Freeze deployments of an environment. Rollbacks are never blocked. Without options: list the freezes."""
    from datetime import timedelta

    from buddy_ops.aws import freezes, session

    asked = bool(reason or owner or hours is not None)
    # A list writes nothing to AWS, so it leaves no journal either.
    target = session.connect(environment, "freeze", quiet=not asked)
    if asked:
        if hours is None:
            hours = DEFAULT_FREEZE_HOURS
        lasts = timedelta(hours=hours)
        created = freezes.create_freeze(target, reason, owner, lasts)
        return Answer({"environment": environment, "created": created}, [(f"Frozen: {created}.", "warning")])
    active = freezes.active_freezes(target)
    none = f"No active freeze in {environment}."
    return Answer({"environment": environment, "freezes": active}, [*map(str, active)] or [none])


@app.command()
@click.argument("id", help="Freeze ID. The command freeze lists them.")
@environment_option
@json_option
@answers
def unfreeze(id: str, environment: str, as_json: bool) -> Answer:
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
@environment_option
@approved_by_option
@yes_option
@dry_run_option
@json_option
@answers
def reenable(environment: str, approved_by: Sequence[str], yes: bool, dry_run: bool, as_json: bool) -> Answer:
    """Re-enable a function that was isolated: restore its concurrency, or its access to the table."""
    from buddy_ops.aws import session
    from buddy_ops.deployment import reenabling
    from buddy_ops.notebook import approvals

    target = session.connect(environment, "reenable", dry_run=dry_run)
    plan = reenabling.plan_reenabling(target)
    say(plan)
    approval = approvals.for_command(target, plan, approved_by, ask=not (yes or dry_run))
    done = reenabling.run_reenabling(target, plan, approval)
    data = {"environment": environment, "run": target.run, "plan": plan.hash, "title": plan.title}
    return Answer({**data, "approved_by": approval.by, "dry_run": dry_run, "result": str(done)}, [str(done)])


@app.command()
@environment_option
@json_option
@answers
def status(environment: str, as_json: bool) -> Answer:
    """Show the live version, its status and the recommended action. Reads only; exit code 1: unknown, 6: act."""
    from buddy_ops.aws import session
    from buddy_ops.checks import status as status_

    report = status_.read_status(session.connect(environment, "status", quiet=True))
    return Answer(report.to_json(), [(str(report), report.state.value)], report.exit_code)


@app.command()
@environment_option
@click.option(
    "--role",
    type=click.Choice(get_args(Role)),
    default="deployer",
    show_default=True,
    help="Role whose permissions the caller needs.",
)
@click.option(
    "--prove", is_flag=True, help="Try it on the real account, on scratch resources: up to 10 minutes, some cents."
)
@click.option(
    "--build",
    default="",
    help="A build to check, too, s3://BUCKET/KEY: its bucket's versions, and that it can be read.",
)
@approved_by_option
@yes_option
@click.option("--dry-run", is_flag=True, help="With --prove: list calls, cost and time, and stop.")
@json_option
@answers
def doctor(
    environment: str,
    role: Role,
    prove: bool,
    build: str,
    approved_by: Sequence[str],
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> Answer:
    """Check that deployments and rollbacks can work. Exit code 1: a problem, or a check that failed."""
    if prove:
        from buddy_ops.cli import prove as prove_

        return prove_.prove(environment, role, build=build, approved_by=approved_by or (), yes=yes, dry_run=dry_run)
    if approved_by or yes or dry_run:
        raise InvalidInput(
            "invalid-usage",
            "--approved-by, --yes and --dry-run belong to --prove.",
            next="Without --prove, doctor writes nothing and asks for no approval. Leave them out, or add --prove.",
        )
    from buddy_ops.aws import session
    from buddy_ops.checks import findings as findings_
    from buddy_ops.checks import setup as doctor_

    target = session.connect(environment, "doctor", quiet=True)
    with err.progress("checking"):
        findings = list(doctor_.run_doctor(target, role, build))
    state = findings_.overall_state(findings)
    lines: list[Line] = [(findings_.text_row(finding), finding.state.value) for finding in findings]
    unchecked = findings_.names_in_state(findings, findings_.State.UNKNOWN)
    if unchecked:
        lines.append((f"UNKNOWN: {unchecked} could not be checked.", "unknown"))
    lines.append(findings_.count_states(findings))
    data = {"environment": environment, "role": role, "state": state, "findings": findings}
    # Unknown is not healthy: a check that failed ends with 1 as well.
    return Answer(data, lines, 0 if state is findings_.State.OK else 1)


@app.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8888, show_default=True, help="JupyterLab's port.")
@click.option(
    "--speed",
    type=click.FloatRange(0, 10_000),
    default=10.0,
    show_default=True,
    help="Clock speed (10 = 10x real time).",
)
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser.")
@answers
def lab(port: int, speed: float, browser: bool) -> None:
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
@json_option
@answers
def version_(as_json: bool) -> Answer:
    """Show the version, the commit, and what was changed since."""
    from buddy_ops.runs import provenance

    library = provenance.describe_library()
    known = {None: "unknown whether changed", True: "unchanged", False: f"changed: {', '.join(library['changed'])}"}
    said = f"buddy-ops {library['version']}"
    if library["commit"]:
        said += f", commit {library['commit']}"
    return Answer(library, [f"{said} ({known[library['clean']]})"])


def _rollback_style(done: "RollbackResult") -> str:
    """The colour of a rollback's first line."""
    if done.pending or done.dry_run:
        return "warning"
    return "ok"


app.add_command(sandbox_commands.commands)
app.add_command(archive_commands.commands)
app.add_command(fleet_commands.commands)

if __name__ == "__main__":
    sys.exit(app())
