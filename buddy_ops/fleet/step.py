"""One runbook on one target, as a worker of Dask runs it: a supervised run in a process of its own.

The worker starts the process and waits. If the worker is lost, the process ends as by SIGTERM: its rollout's traffic
stays under its failsafe. The same step run again resumes the rollout, or finds it ended: the alias decides.

As a program it runs the step that comes on stdin.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from buddy_ops.aws.session import Target
from buddy_ops.core import front_end, redaction
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.journal import Journal
from buddy_ops.core.progress import Progress
from buddy_ops.fleet import shipping
from buddy_ops.fleet.shipping import Source
from buddy_ops.runs import archive, signatures, supervisor
from buddy_ops.runs.child_process import describe_last_output, end_with_parent, open_report

PER_PLACE = 20
"""Steps at once in one account and region. Each polls about every 10 s, so that together they use a fifth of
Lambda's quota of 15 requests per second for its control plane, and half of CloudWatch Logs' for FilterLogEvents.
Source: AWS, "Lambda quotas" and "CloudWatch Logs quotas"."""

LOST = "lost"
"""The outcome of a step of which no end was reported: what the alias serves decides."""

END_S = 45.0
"""Seconds that an interrupted step has to clean up and to be archived, before it is killed."""

OF_ANOTHER_RUN = ("BUDDY_OPS_RUN", "BUDDY_OPS_RUN_FOLDER", redaction.FILE, front_end.VARIABLE, "GITHUB_STEP_SUMMARY")
"""Environment variables of the fleet's own run that are not those of its steps."""


@dataclass(frozen=True)
class Step:
    """A runbook to be run on a target.

    Attributes:
        target: the target's name in parameters/fleet.yaml.
        runbook: for example 'strategies/canary'.
        parameters: the runbook's parameters, but for the environment.
        place: account and region; of one place ``PER_PLACE`` steps run at once.
    """

    target: str
    runbook: str
    parameters: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class StepResult:
    """How a step ended, as its worker reports it.

    Attributes:
        outcome: as in a run's manifest, for example 'refused'; ``LOST`` where no end was reported.
        trouble: what its failing cell said, or why no end was reported; empty: neither.
        folder: the name of its archive's folder; empty: it was not archived.
        manifest: the SHA-256 of its manifest.
        error: the data of the error that ended it.
        files: those of its archive, where the worker has another disk; ``Engine.results`` archives them here.
    """

    target: str
    runbook: str
    exit_code: int
    outcome: str
    trouble: str = ""
    folder: str = ""
    manifest: str = ""
    error: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def journal_result(journal: Journal, result: StepResult, **more: str) -> None:
    """Record a target's run in the journal of the fleet's, whose manifest names it by its hash."""
    journal.append(
        "fleet-step",
        target=result.target,
        runbook=result.runbook,
        outcome=result.outcome,
        exit_code=result.exit_code,
        folder=result.folder,
        manifest=result.manifest,
        **more,
    )


def archive_rollback(run: Target, here: Target, trouble: BuddyError | None, serves: str) -> None:
    """Archive a rollback's own run beside the fleet's, whose manifest then names it by its hash.

    Args:
        run: the fleet's run.
        here: what acted on the target.
        trouble: why it failed; None: it did not.
    """
    outcome = "done" if trouble is None else "failed"
    said = trouble.what if trouble is not None else ""
    code = trouble.exit_code if trouble is not None else 0
    where = here.settings.archive.where
    known = {"exit_code": code, "outcome": outcome, "ended": here.now(), "trouble": said, "archive": where}
    # Signed with the target's own key: its environment may have another one than the fleet's.
    sign = signatures.signer(here)
    entry = archive.append_to_chain(here.folder, archive.build_manifest(here.folder, here.redactor, **known), sign)
    # After the local archive: where S3 fails, the run is kept there, and its manifest is named all the same.
    if where:
        with run.side.contained(f"archiving the rollback of {here.environment} in {where}"):
            archive.upload_run(archive.open_store(where, here.environment), here.folder, sign)
    own = StepResult(
        here.environment,
        here.runbook,
        exit_code=code,
        outcome=outcome,
        trouble=said,
        folder=entry.folder,
        manifest=entry.sha256,
    )
    journal_result(run.journal, own, serves=serves, says=said)


# In the worker


def run_step(step: Step, source: Source, topic: str) -> StepResult:
    """Run a step in a process of its own, and wait for its end. The function that Dask's workers call.

    Args:
        step: what to run.
        source: where the project is.
        topic: Dask's topic for the step's progress.
    """
    from distributed import Semaphore, get_worker

    worker = get_worker()
    # Dask counts a semaphore by its name over the whole cluster: fleets that share a scheduler share a place's quota.
    # The lease of a worker that was lost ends by itself. Source: distributed, ``Semaphore``, lease-timeout.
    with Semaphore(PER_PLACE, name=step.place), source.open(worker) as project:
        elsewhere = project != Path(source.folder)
        # A path of the fleet's machine means nothing there: the build came with the copy, under another name.
        if elsewhere and source.artifact:
            step = replace(step, parameters={**step.parameters, "artifact": source.artifact})
        result = _run_process(step, project, lambda line: worker.log_event(topic, (step.target, step.runbook, line)))
        if elsewhere and result.manifest:
            return replace(result, files=shipping.read_run(project / "runs" / result.folder))
    return result


def _run_process(step: Step, project: Path, tell: Progress) -> StepResult:
    ended: dict[str, Any] | None = None
    with tempfile.TemporaryFile("w+") as said, _process(project, said) as process:
        assert process.stdin is not None and process.stdout is not None
        # The process may have ended before it read its step. Then it reports nothing, and the exit code is in ``lost``.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(step)) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            report = parse_json(line)
            ended = report.get("ended", ended)
            if "progress" in report:
                tell(report["progress"])
        code = process.wait()
        said.seek(0)
        tail = describe_last_output(said.read())
    if ended is not None:
        return StepResult(**ended)
    return lost(step, f"The process of {step.runbook} ended without a report (exit code {code}).{tail}")


def lost(step: Step, why: str) -> StepResult:
    """The result of a step of which no end was reported."""
    return StepResult(step.target, step.runbook, exit_code=BuddyError.exit_code, outcome=LOST, trouble=why)


@contextmanager
def _process(project: Path, said: IO[str]) -> "Iterator[subprocess.Popen[str]]":
    """The step's process. It ends when its stdin does, so also when this worker is killed."""
    # With those the step would write into the fleet's own folder, as the fleet's run.
    environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_RUN}
    # The clients slow down when AWS throttles them, so that other deployments keep their share of the quotas.
    environment.setdefault("AWS_RETRY_MODE", "adaptive")
    process = subprocess.Popen(
        # -P: else a file of the project's folder could take the place of a module (docs.python.org, command line).
        [sys.executable, "-P", "-m", "buddy_ops.fleet.step"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        cwd=project,
        env=environment,
        # Ctrl-C in a terminal signals all processes of its group. A step
        # ends by its stdin alone, which leaves it time to clean up.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            # Its cell's `finally` and the archive take seconds. A process
            # that was killed leaves its traffic under the failsafe.
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# In the step's process


def main() -> int:
    """Run the one step that comes on stdin as JSON, and report on stdout, a JSON object a line."""
    report = open_report()
    # Empty where the worker was killed before it wrote the step: nothing was begun, and nothing is reported.
    line = sys.stdin.readline()
    if line:
        end_with_parent()
        step = Step(**parse_json(line))
        report(ended=asdict(_supervise(step, lambda line: report(progress=line))))
    return 0


def _supervise(step: Step, tell: Progress) -> StepResult:
    given = {**step.parameters, "environment": step.target}
    try:
        done = supervisor.run_notebook(step.runbook, given, progress=tell)
    # Raised before a run began, as by a parameter that is refused:
    # there is no manifest, so the error itself is reported.
    except BuddyError as error:
        said = redaction.Redactor().redact(str(error))
        outcome = supervisor.outcome_of(error)
        return StepResult(
            step.target, step.runbook, exit_code=error.exit_code, outcome=outcome, trouble=said, error=error.data()
        )
    return StepResult(
        step.target,
        step.runbook,
        done.exit_code,
        done.entry.outcome,
        trouble=done.trouble or "",
        folder=done.entry.folder,
        manifest=done.entry.sha256,
        error=done.error,
    )


if __name__ == "__main__":
    sys.exit(main())
