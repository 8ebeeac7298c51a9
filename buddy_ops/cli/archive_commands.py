"""``buddy-ops runs``: the archive of executed runs."""

import json
from collections.abc import Callable, Sequence

import click

from buddy_ops.cli import completion
from buddy_ops.cli.answers import Answer, Commands, Line, answers, as_json_value
from buddy_ops.cli.options import approved_by_option, check_environment, json_option, offer
from buddy_ops.cli.terminal import confirm, say
from buddy_ops.core.errors import InvalidInput

commands = Commands("runs", help="List, show, compare, verify, index and prune archived runs.")

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
CREDENTIALS = "Environment whose credentials are used for S3. Default: the one whose archive it is."
LISTED = ("run", "folder", "runbook", "environment", "began", "ended", "outcome", "result", "exit_code", "people")
LISTED_TOO = ("principal", "incident", "sha256", "unsigned")


archive_option = click.option("--archive", "where", default="", help="Folder or s3://bucket/prefix. Default: runs/.")


def run_argument(name: str) -> Decorator:
    """An argument that names a run."""
    return click.argument(
        name,
        shell_complete=offer(completion.runs),
        help="Run ID, for example 7f3a91c2, or the run's folder. The command runs list shows both.",
    )


def credentials_option(about: str) -> Decorator:
    """-e, where it says whose credentials are used, and not which function is meant."""
    return click.option(
        "--environment",
        "-e",
        default="",
        callback=check_environment,
        shell_complete=offer(completion.environments),
        help=about,
    )


@commands.command("list")
@archive_option
@credentials_option(CREDENTIALS)
@json_option
@answers
def runs_list(where: str, environment: str, as_json: bool) -> Answer:
    """List the archived runs, oldest first."""
    from buddy_ops.runs import archive

    store = archive.open_store(_existing(where), environment)
    entries = archive.list_entries(store)
    lines = []
    for entry in entries:
        people = ", ".join(entry.people) or entry.principal
        result = f"{entry.result:<36} {entry.exit_code}  {entry.ended_at}"
        lines.append(f"{entry.folder:<48} {result}  {people}  {entry.incident}".rstrip())
    runs = [{name: getattr(entry, name) for name in (*LISTED, *LISTED_TOO)} for entry in entries]
    return Answer({"archive": store.where, "runs": runs}, lines)


@commands.command("show")
@run_argument("run")
@archive_option
@credentials_option(CREDENTIALS)
@json_option
@answers
def runs_show(run: str, where: str, environment: str, as_json: bool) -> Answer:
    """Show a run's manifest, as JSON."""
    from buddy_ops.runs import archive

    store = archive.open_store(_existing(where), environment)
    entry = archive.find_run(store, run)
    manifest = json.dumps(as_json_value(entry), indent=2, ensure_ascii=False)
    return Answer({"archive": store.where, "run": entry}, [manifest])


@commands.command("verify")
@archive_option
@credentials_option(CREDENTIALS)
@click.option("--newest", default="", help="Hash of a manifest that was announced: it must be in the chain.")
@click.option(
    "--public-key",
    multiple=True,
    help="File with the public key of the signatures; repeatable. Without it, AWS KMS verifies them.",
)
@json_option
@answers
def runs_verify(where: str, environment: str, newest: str, public_key: Sequence[str], as_json: bool) -> Answer:
    """Check all files against their checksums, and all signatures. Exit code 1: changed, missing, unsigned, unknown."""
    from buddy_ops.core.text import count
    from buddy_ops.runs import archive, signatures, verification

    store = archive.open_store(_existing(where), environment)
    check = signatures.check_by_keys(public_key) if public_key else signatures.check_by_kms(environment)
    found = verification.verify_archive(store, newest, check)
    lines: list[Line] = [(f"CHANGED: {problem}", "problem") for problem in found.problems]
    lines += [(f"NOT SIGNED: {run}", "problem") for run in found.unsigned]
    lines += [(f"UNKNOWN: {unverified}", "problem") for unverified in found.unknown]
    lines += [f"{folder}: not archived yet. Run `buddy-ops runs index`." for folder in found.unfinished]
    lines += [*found.pruned, *found.elsewhere]
    if found.problems:
        lines.append((f"FAILED: {count(len(found.problems), 'problem')} in {count(found.runs, 'run')}.", "problem"))
    else:
        lines.append((f"OK: all files of {count(found.runs, 'run')} match their checksums.", "ok"))
    if found.signed:
        lines.append(found.signed)
    lines += [f"Newest manifest: {found.newest or 'none'}.", found.beyond]
    data = {"archive": store.where, "ok": found.is_ok, **as_json_value(found)}
    return Answer(data, lines, 0 if found.is_ok else 1)


@commands.command("sign")
@run_argument("run")
@archive_option
@credentials_option(CREDENTIALS)
@json_option
@answers
def runs_sign(run: str, where: str, environment: str, as_json: bool) -> Answer:
    """Sign a run that could not be signed when it was archived. Read its report first."""
    from buddy_ops.runs import archive

    entry = archive.sign_run(archive.open_store(_existing(where), environment), run)
    said = f"SUCCEEDED: {entry.folder} is signed, manifest {entry.sha256}."
    return Answer({"signed": entry.folder, "manifest": entry.sha256}, [(said, "ok")])


@commands.command("index")
@archive_option
@credentials_option(CREDENTIALS)
@json_option
@answers
def runs_index(where: str, environment: str, as_json: bool) -> Answer:
    """Archive unfinished runs, upload what is missing in S3, and rebuild the index."""
    from buddy_ops.runs import supervisor

    steps = []
    for line in supervisor.index_archive(_existing(where), environment):
        say(line)
        steps.append(line)
    return Answer({"steps": steps})


@commands.command("prune")
@click.option("--keep", required=True, help="What is kept: 200 (the newest 200 runs), 400d (days) or 52w (weeks).")
@archive_option
@credentials_option("Environment whose key signs the record, and whose S3 is read.")
@approved_by_option
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="List the runs that would be deleted, and stop.")
@json_option
@answers
def runs_prune(
    keep: str, where: str, environment: str, approved_by: Sequence[str], yes: bool, dry_run: bool, as_json: bool
) -> Answer:
    """Delete the oldest runs of an archive. What is kept still verifies, and says what was deleted."""
    from getpass import getuser

    from buddy_ops.aws.clock import SystemClock
    from buddy_ops.runs import archive, retention, signatures

    store = archive.open_store(_existing(where), environment)
    # An archive in a folder has no clock of AWS: what is old is so by this machine's.
    clock = SystemClock()
    plan = retention.plan_pruning(store, keep, clock.now())
    say(plan)
    data: dict[str, object] = {"archive": store.where, "keep": keep, "kept": plan.kept, "notes": plan.notes}
    data |= {"runs": [run.folder for run in plan.runs], "deleted": 0, "record": None}
    if dry_run:
        return Answer(data)
    if not plan.runs:
        retention.finish_pruning(store)  # one that was cut off, or met runs that S3 still kept
        return Answer(data)
    if not yes and not confirm("Delete these runs? This cannot be undone", option="--yes"):
        return Answer(data, ["Nothing was deleted."])
    by = approved_by or (getuser(),)
    sign = signatures.pruning_signer(plan.runs, environment)
    entry = retention.run_pruning(store, plan, by, clock.now(), sign=sign)
    said = f"SUCCEEDED: {len(plan.runs)} pruned. Recorded as {entry.folder}, manifest {entry.sha256}."
    return Answer({**data, "deleted": len(plan.runs), "record": entry}, [(said, "ok")])


@commands.command("diff")
@run_argument("first")
@run_argument("second")
@archive_option
@credentials_option(CREDENTIALS)
@json_option
@answers
def runs_diff(first: str, second: str, where: str, environment: str, as_json: bool) -> Answer:
    """Compare two runs: plan, figures, verdicts and people, but not times."""
    from buddy_ops.runs import archive, diff

    store = archive.open_store(_existing(where), environment)
    differences = diff.compare_runs(store, archive.find_run(store, first), archive.find_run(store, second))
    lines = [str(difference) for difference in differences] or ["No differences, except for times."]
    return Answer({"archive": store.where, "differences": differences}, lines)


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
