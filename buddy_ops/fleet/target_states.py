"""What a target of a fleet serves, compared with what its plan says: the alias decides, never a worker's report."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from buddy_ops.aws import aliases, versions
from buddy_ops.aws.aliases import Alias
from buddy_ops.core.errors import BuddyError
from buddy_ops.deployment.rollout_plan import mark_of
from buddy_ops.fleet.targets import attempt
from buddy_ops.fleet.wave_plan import PlannedTarget

State = Literal["WAITING", "RUNNING", "PROMOTED", "ALREADY LIVE", "ROLLED BACK", "NOT STARTED", "CHANGED", "UNKNOWN"]

DONE = ("PROMOTED", "ALREADY LIVE")
"""The states of a target that serves its build."""

SETTLED = (*DONE, "ROLLED BACK", "NOT STARTED")
"""The states in which it is known what a target serves, and one version serves alone."""


@dataclass(frozen=True)
class TargetState:
    """What a target serves.

    Attributes:
        serves: the versions with their shares.
        says: what explains the state; empty: nothing more.
    """

    word: State
    serves: str = ""
    says: str = ""


def read_state(planned: PlannedTarget) -> TargetState:
    """What a target serves now. AWS: lambda:GetAlias, GetFunctionConfiguration, reads only."""
    alias = attempt(partial(aliases.read_alias, planned.here))
    if isinstance(alias, BuddyError):
        return TargetState("UNKNOWN", says=alias.what)
    if alias is None:
        return TargetState("CHANGED" if planned.plan.stable else "NOT STARTED", says="There is no alias.")
    return _compare(planned, alias)


def _compare(planned: PlannedTarget, alias: Alias) -> TargetState:
    plan = planned.plan
    record = alias.rollout
    serves = str(alias)
    # The sequence matters: each test is of what the ones above it did not explain.
    if record is not None and record.open and not alias.failsafe_triggered:
        return TargetState("RUNNING", serves, f"Run {record.run} is at stage {record.stage}.")
    # While AWS allocates provisioned concurrency it shows both versions with weights: that is no shift of another tool.
    if alias.additional is not None and not alias.allocating:
        return TargetState("CHANGED", serves, "Another run or tool shifts traffic.")
    if planned.live and alias.primary == plan.change.known:
        return TargetState("ALREADY LIVE", serves)
    if alias.primary == plan.stable:
        # The stable version alone is both the state before and after.
        # The mark of the record differs once a rollout has ended.
        began = plan.under_way or mark_of(alias) != plan.follows
        return TargetState("ROLLED BACK" if began else "NOT STARTED", serves)
    version = attempt(partial(versions.read_version, planned.here, alias.primary))
    if isinstance(version, BuddyError):
        return TargetState("UNKNOWN", serves, version.what)
    # By the code: another run may have published the same build under another number.
    if version.sha256 != plan.change.sha256:
        return TargetState("CHANGED", serves, "Another run or tool deployed that.")
    inconclusive = record is not None and record.stage == "unproven"
    return TargetState("PROMOTED", serves, "Health check inconclusive." if inconclusive else "")
