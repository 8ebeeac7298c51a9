"""What is left of a proof: its archived report, and the settings that it found wrong as a diff."""

import json
from collections.abc import Mapping, Sequence

from buddy_ops.aws.session import Target
from buddy_ops.checks import findings as findings_
from buddy_ops.checks.findings import Finding, State
from buddy_ops.checks.proof import ProofPlan
from buddy_ops.core import project
from buddy_ops.core.errors import BuddyError
from buddy_ops.core.files import write_atomically
from buddy_ops.core.plan import Approval
from buddy_ops.core.settings_diff import propose_changes
from buddy_ops.runs import archive, provenance, signatures
from buddy_ops.runs.manifest import NOTEBOOK
from buddy_ops.runs.stores import S3Store


def propose_settings(target: Target, found: Sequence[Finding]) -> str:
    """The settings that the findings say are wrong, as a diff of the environment's file; empty: none are."""
    changes: dict[str, object] = {}
    for finding in found:
        proposed = finding.facts.get("settings")
        if isinstance(proposed, Mapping):
            changes |= proposed
    if not changes:
        return ""
    name = f"parameters/{target.environment}.yaml"
    try:
        return propose_changes((project.project_root() / name).read_text(encoding="utf-8"), changes, name)
    except (OSError, ValueError):
        # The file is elsewhere, or written in another form: the values are what matters.
        lines = [f"settings.{setting}: {json.dumps(value)}" for setting, value in changes.items()]
        return "\n".join((f"Set in {name}:", *lines))


def question(found: Sequence[Finding]) -> str:
    """What only a person can say; empty: nothing was sent to people."""
    heard = [finding for finding in found if finding.check == "alarm delivery" and finding.state is State.OK]
    if not heard:
        return ""
    return f"Ask on-call: did a message marked TEST arrive? {heard[0].message}. No API says that a person read it."


def archive_report(
    target: Target, plan: ProofPlan, approval: Approval, found: Sequence[Finding], proposed: str
) -> list[str]:
    """Archive the run with its table as a report, also in S3 where a bucket is set; what was archived, in lines."""
    # What follows is archived with the journal as it is now.
    quiet = target.without_journal()
    state = findings_.overall_state(found)
    ended = target.now()
    about = {
        "run": target.run,
        "runbook": "doctor --prove",
        "environment": target.environment,
        "began": target.journal.records[0]["at"],
        "parameters": {"build": plan.build, "approved_by": list(approval.by)},
        "archive": target.settings.archive.where,
        "folder": target.folder.name,
        "library": provenance.describe_library(),
    }
    # Two spaces before its end keep a line in Markdown.
    texts = [str(plan).replace("\n", "  \n"), findings_.markdown_table(found), question(found)]
    if proposed:
        texts.append(f"```diff\n{proposed}\n```")
    cells = [{"cell_type": "markdown", "metadata": {}, "source": each} for each in filter(None, texts)]
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"buddy_ops": about}, "cells": cells}
    write_atomically(target.folder / NOTEBOOK, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    known = {"outcome": "failed", "exit_code": 1, "ended": ended}
    if state is State.OK:
        known |= {"outcome": "done", "exit_code": 0}
    sign = signatures.signer(quiet)
    try:
        entry = archive.append_to_chain(
            target.folder, archive.build_manifest(target.folder, target.redactor, **known), sign
        )
        if target.settings.archive.where:
            entry = archive.upload_run(S3Store(quiet, target.settings.archive.where), target.folder, sign)
    # The findings were shown and stored before: a proof does not fail because its report stays on this machine.
    except (BuddyError, OSError, ModuleNotFoundError) as error:
        return [f"NOT ARCHIVED: {error}. The run is in {target.folder}; `buddy-ops runs index` archives it."]
    return [f"Archived as {entry.folder}, manifest {entry.sha256}."]
