"""The ``buddy-ops`` command.

Knows words on a command line and exit codes. Imports what a command needs when it runs, so that a rollback starts fast.
"""

import sys
from collections.abc import Callable
from functools import cached_property, partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, cast

import typer

from buddy_ops.aws.permissions import Role
from buddy_ops.core.errors import BuddyError, InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help=__doc__.splitlines()[0], pretty_exceptions_enable=False
)
sandbox = typer.Typer(no_args_is_help=True, help="The embedded AWS: start, stop, look, and choose a situation.")
app.add_typer(sandbox, name="sandbox")
archived = typer.Typer(no_args_is_help=True, help="Archived runs: list, show, compare, verify, and index.")
app.add_typer(archived, name="runs")


class _LazyConsole:
    """A console of rich's, imported when something is first said there: a rollback does without."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    @cached_property
    def _console(self) -> Any:
        from rich.console import Console

        return Console(**self._options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._console, name)


out, err = cast("Console", _LazyConsole(soft_wrap=True)), cast("Console", _LazyConsole(stderr=True, soft_wrap=True))

P = ParamSpec("P")
Environment = Annotated[str, typer.Option("--environment", "-e", help="Which file in parameters/.")]
Port = Annotated[int | None, typer.Option(help="Default: the sandbox's port in parameters/sandbox.yaml.")]
Where = Annotated[str, typer.Option("--archive", help="A folder or s3://bucket/prefix. Default: runs/.")]
Run = Annotated[str, typer.Argument(help="A run's id, for example 7f3a, or its folder.")]
Reach = Annotated[str, typer.Option("--environment", "-e", help="Whose credentials and region reach S3.")]
Names = Annotated[list[str] | None, typer.Option("--approved-by", help="Who agreed; give it once for each person.")]


def exits(command: Callable[P, None]) -> Callable[P, None]:
    """End with the exit code of an operational error, and its three parts on stderr."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BuddyError as error:
            err.print(f"[bold red]{type(error).__name__}[/] ", end="")
            err.print(str(error), markup=False, highlight=False)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            err.print("Interrupted. Run the same again: it reads what is live first.")
            raise typer.Exit(1) from None

    return wrapped


@app.command()
@exits
def run(
    notebook: Annotated[str, typer.Argument(help="A runbook, for example strategies/canary.")],
    environment: Environment = "sandbox",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE; the value is read as YAML.")
    ] = None,
    parameters: Annotated[str, typer.Option(help="More of them, as one YAML mapping: what CI was given.")] = "{}",
    archive: Annotated[
        str | None, typer.Option(help="s3://bucket/prefix, besides runs/. Default: the environment's archive.where.")
    ] = None,
    cell_timeout: Annotated[float | None, typer.Option(help="Seconds a cell may take. Default: no limit.")] = None,
) -> None:
    """Execute a runbook headlessly; archive notebook and report; exit by how it ended."""
    from buddy_ops.runs import supervisor

    try:
        given = {"environment": environment, **parse_mapping(parameters), **parse_parameters(parameter or [])}
        with err.status("starting") as status:
            tell = status.update if err.is_terminal else partial(err.print, markup=False, highlight=False)
            done = supervisor.run_notebook(
                notebook, given, progress=tell, archive_to=archive, cell_timeout_s=cell_timeout
            )
    except BuddyError as error:
        supervisor.write_error_summary(notebook, environment, error)
        raise
    for line in filter(None, (done.trouble, *done.told)):
        err.print(line, markup=False, highlight=False)
    supervisor.write_step_summary(done)
    out.print(f"report: {done.report or done.notebook}", markup=False, highlight=False)
    raise typer.Exit(done.exit_code)


@app.command()
@exits
def rollback(
    environment: Environment = "sandbox",
    to_version: Annotated[
        str, typer.Option(help="Default: the version that served before, unless it is known bad.")
    ] = "",
    approved_by: Names = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; --approved-by says who decided.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the plan and stop.")] = False,
) -> None:
    """Give the traffic back to the version that served before, now."""
    from buddy_ops.aws import session
    from buddy_ops.deployment import rollback
    from buddy_ops.notebook import approvals

    here = session.connect(environment, "rollback", dry_run=dry_run)
    plan = rollback.plan_rollback(here, to_version)
    typer.echo(plan)
    approval = (
        approvals.from_parameters(here, plan, approved_by or ())
        if yes or dry_run
        else approvals.in_terminal(here, plan)
    )
    done = rollback.run_rollback(here, plan, approval)
    typer.echo(done)
    if here.settings.notify.topic_arn or here.settings.notify.slack_webhook:
        from buddy_ops.deployment import announcements

        typer.echo(announcements.announce_rollback(here, plan, done))


@app.command()
@exits
def freeze(
    environment: Environment = "sandbox",
    reason: Annotated[str, typer.Option(help="Why nothing may be shipped. Without one: the freezes that hold.")] = "",
    owner: Annotated[str, typer.Option(help="Whom to ask, and who lifts it.")] = "",
    hours: Annotated[float, typer.Option(help="For how long.", min=0, max=336)] = 4,
) -> None:
    """Halt every deployment of an environment; a rollback never is. Without a reason: list the freezes."""
    from datetime import timedelta

    from buddy_ops.aws import freezes, session

    here = session.connect(environment, "freeze", quiet=not reason)
    if reason or owner:
        out.print(
            f"Frozen: {freezes.create_freeze(here, reason, owner, timedelta(hours=hours))}.",
            markup=False,
            highlight=False,
        )
        return
    standing = "\n".join(map(str, freezes.active_freezes(here)))
    out.print(standing or f"Nothing freezes {environment}.", markup=False, highlight=False)


@app.command()
@exits
def unfreeze(
    id: Annotated[str, typer.Argument(help="Which freeze, as `buddy-ops freeze` lists them.")],
    environment: Environment = "sandbox",
) -> None:
    """Lift one freeze."""
    from buddy_ops.aws import freezes, session

    here = session.connect(environment, "unfreeze")
    told = f"{id} is lifted." if freezes.remove_freeze(here, id) else f"There was no freeze {id}."
    others = freezes.active_freezes(here)
    out.print("\n".join((told, *(f"Still frozen: {each}" for each in others))), markup=False, highlight=False)


@app.command()
@exits
def status(environment: Environment = "sandbox") -> None:
    """What is live, whether it is healthy, and the next step; reads only."""
    from buddy_ops.aws import session
    from buddy_ops.checks import status as status_

    typer.echo(status_.read_status(session.connect(environment, "status", quiet=True)))


@app.command()
@exits
def doctor(
    environment: Environment = "sandbox",
    role: Annotated[Role, typer.Option(help="Whose permissions the caller needs.")] = "deployer",
) -> None:
    """Is everything in place for a rollout and a rollback? Reads only; 1 if there is a problem."""
    from buddy_ops.aws import session
    from buddy_ops.checks import findings as findings_
    from buddy_ops.checks import setup as doctor_

    colours = {"ok": "green", "warning": "yellow", "problem": "bold red", "unknown": "cyan"}
    here = session.connect(environment, "doctor", quiet=True)
    with err.status("checking"):
        findings = list(doctor_.run_doctor(here, role))
    for finding in findings:
        row = findings_.text_row(finding)
        out.print(row, style=colours.get(finding.state), markup=False, highlight=False, soft_wrap=True)
    out.print(findings_.count_states(findings), highlight=False)
    raise typer.Exit(1 if findings_.in_state(findings, findings_.State.PROBLEM) else 0)


@app.command()
@exits
def lab(
    port: Annotated[int, typer.Option(help="JupyterLab's port.")] = 8888,
    speed: Annotated[float, typer.Option(help="Virtual seconds in a real one.")] = 10.0,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """JupyterLab on the notebooks, with the sandbox running live beside it."""
    from buddy_ops.cli import sandbox as sandboxes
    from buddy_ops.core import project

    with sandboxes.running_sandbox(speed=speed, scenario="good", port=sandboxes.default_port()) as endpoint:
        out.print(f"The sandbox runs at {endpoint}, {speed:g} virtual seconds a second.")
        sandboxes.serve_lab(project.project_root(), port, browser, endpoint)


@app.command()
@exits
def demo() -> None:
    """The main job on the sandbox: a bad build that rolls itself back, then a good one that reaches 100 %."""
    from buddy_ops.cli import demo as demo_

    raise typer.Exit(demo_.main(out, err))


@sandbox.command("start")
@exits
def sandbox_start(
    port: Port = None,
    scenario: Annotated[str, typer.Option(help="The situation to begin with.")] = "good",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
    speed: Annotated[
        float, typer.Option(help="0: time moves when runbooks wait. 1: real time. 60: a minute a second.")
    ] = 0,
) -> None:
    """Start the sandbox in the background and bring it into a situation."""
    from buddy_ops.cli import sandbox as sandboxes

    endpoint = sandboxes.start_sandbox(sandboxes.default_port() if port is None else port, seed=seed, speed=speed)
    out.print(f"The sandbox answers at {endpoint}.", highlight=False)
    _set_up(endpoint, scenario, "sandbox")


@sandbox.command("stop")
@exits
def sandbox_stop(port: Port = None) -> None:
    """Stop it; everything in it is gone."""
    from buddy_ops.cli import sandbox as sandboxes

    sandboxes.call_sandbox(sandboxes.endpoint(port), "stop")
    out.print("Stopped.")


@sandbox.command("status")
@exits
def sandbox_status(port: Port = None) -> None:
    """What time it is there, and what traffic there is."""
    from buddy_ops.cli import sandbox as sandboxes

    out.print_json(data=sandboxes.call_sandbox(sandboxes.endpoint(port), "status"))


@sandbox.command("scenario")
@exits
def sandbox_scenario(
    name: Annotated[str | None, typer.Argument(help="Without one: the list.")] = None,
    environment: Environment = "sandbox",
    port: Port = None,
) -> None:
    """Reset the sandbox into a situation, and write the build to ship in it."""
    from buddy_ops.cli import sandbox as sandboxes

    if name is None:
        for each, description in sandboxes.list_scenarios():
            out.print(f"{each:<20} {description}", highlight=False)
        return
    _set_up(sandboxes.endpoint(port), name, environment)


def _set_up(endpoint: str, name: str, environment: str) -> None:
    from buddy_ops.cli import sandbox as sandboxes

    with err.status(f"making {name}'s history"):
        artifact = sandboxes.load_scenario(endpoint, name, environment)
    out.print(f"The situation is {name}; its build is {artifact}. Ship it:", highlight=False)
    command = f"buddy-ops run strategies/canary -e {environment} -p artifact={artifact} -p approved_by=[YOUR-NAME]"
    out.print(command, markup=False, highlight=False)


@archived.command("list")
@exits
def runs_list(where: Where = "", environment: Reach = "") -> None:
    """Every archived run, oldest first."""
    from buddy_ops.runs import archive

    for each in archive.list_entries(archive.open_store(where, environment)):
        who = ", ".join(each.people) or each.principal
        line = f"{each.folder:<48} {each.outcome:<12} {each.exit_code}  {each.ended}  {who}  {each.incident}"
        out.print(line.rstrip(), markup=False, highlight=False)


@archived.command("show")
@exits
def runs_show(run: Run, where: Where = "", environment: Reach = "") -> None:
    """A run's manifest."""
    from dataclasses import asdict

    from buddy_ops.runs import archive

    out.print_json(data=asdict(archive.find_run(archive.open_store(where, environment), run)))


@archived.command("verify")
@exits
def runs_verify(
    where: Where = "",
    environment: Reach = "",
    newest: Annotated[str, typer.Option(help="A manifest's hash that was announced: it must be in the chain.")] = "",
) -> None:
    """Is every byte as it was archived? 1 if anything was changed, is missing, out of order or cut off."""
    from rich.markup import escape

    from buddy_ops.runs import archive

    found = archive.verify_archive(archive.open_store(where, environment), newest)
    for each in found.problems:
        out.print(f"[bold red]WRONG[/] {escape(each)}", highlight=False)
    for each in found.unfinished:
        out.print(f"{each}: not archived yet; `buddy-ops runs index` does it", markup=False, highlight=False)
    says = f"{len(found.problems)} problem(s)" if found.problems else "every byte is as it was archived"
    out.print(f"{found.runs} run(s): {says}. Newest manifest: {found.newest or 'none'}.", highlight=False)
    out.print(found.beyond, markup=False, highlight=False)
    raise typer.Exit(1 if found.problems else 0)


@archived.command("index")
@exits
def runs_index(where: Where = "", environment: Reach = "") -> None:
    """Archive what nobody finished, upload what S3 did not get, and write the index anew."""
    from buddy_ops.runs import supervisor

    for line in supervisor.index_archive(where, environment):
        out.print(line, markup=False, highlight=False)


@archived.command("diff")
@exits
def runs_diff(first: Run, second: Run, where: Where = "", environment: Reach = "") -> None:
    """What differs between two runs: plan, figures, verdicts, people; not their times."""
    from buddy_ops.runs import archive, diff

    shelf = archive.open_store(where, environment)
    found = diff.compare_runs(shelf, archive.find_run(shelf, first), archive.find_run(shelf, second))
    for each in found:
        out.print(str(each), markup=False, highlight=False)
    if not found:
        out.print("They do not differ, but for their times.")


def parse_mapping(text: str) -> dict[str, Any]:
    """A YAML mapping of parameters. Which environment it is stands beside it, where reviewers see it.

    Raises:
        InvalidInput: ``invalid-parameters``.
    """
    from buddy_ops.core import settings

    try:
        given = settings.from_yaml(text)
    except ValueError:
        given = None
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        problem = "is no mapping in YAML"
    elif hidden := sorted({"environment", "settings"} & set(given)):
        problem = f"may not say {' and '.join(hidden)}"
    else:
        return given
    raise InvalidInput(
        "invalid-parameters",
        f"--parameters {problem}.",
        now="Nothing was read from or written to AWS.",
        next="For example: --parameters '{approved_by: [Ada, Grace], dry_run: true}', with -e for the environment.",
    )


def parse_parameters(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs with values as YAML. Raises InvalidInput ``invalid-parameters``."""
    from buddy_ops.core import settings

    given = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            given[name] = settings.from_yaml(value)
        except ValueError:
            equals = ""
        if not equals:
            shown = name if name in settings.SECRETIVE else pair
            raise InvalidInput(
                "invalid-parameters",
                f"-p {shown}: is not NAME=VALUE with a value in YAML.",
                now="Nothing was read from or written to AWS.",
                next="For example: -p artifact=build/skill.zip -p 'approved_by=[Ada, Grace]'.",
            )
    return given


if __name__ == "__main__":
    sys.exit(app())
