"""What a person answers in place of an approval: an abort or a cancel, of the whole plan or of its second wave."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from buddy_ops.aws import session
from buddy_ops.core.errors import Aborted, Refused
from buddy_ops.deployment.rollout_plan import plan_rollout
from buddy_ops.fleet import engine
from buddy_ops.fleet.canary import FleetOutcome
from buddy_ops.fleet.wave_plan import plan_fleet
from buddy_ops.notebook import _widgets, fleet_canary
from buddy_ops.notebook.fleet_canary import approve_waves, deploy_in_waves
from buddy_sandbox.situations import control
from tests.conftest import abandon
from tests.fleet.conftest import REGIONS
from tests.fleet.test_canary import Deploy, InThreads, deploy, serving, words
from tests.fleet.test_wave_plan import PAY, declare

__all__ = ["deploy"]

NAME = "Ada"
APPROVE = ("pay-us-east-1", NAME)
ABORT = ("abort", NAME)
CANCEL = ("",)


class Fleet:
    """Deploys with a person at the keyboard, whose lines are typed before.

    Attributes:
        started: the targets whose steps began; None: no cluster was started.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        declare("bake_minutes: 0\n")
        self.here = session.connect("pay-us-east-1", "canary")
        self.started: list[str] | None = None
        self._monkeypatch = monkeypatch

    def answer(self, *typed: str, each_wave: bool, scheduler: str = "") -> FleetOutcome:
        lines = iter(typed)
        self._monkeypatch.setattr(_widgets, "is_attended", lambda: True)
        self._monkeypatch.setattr(_widgets, "load_ipywidgets", lambda: None)
        self._monkeypatch.setattr("builtins.input", lambda _: next(lines))
        self._monkeypatch.setattr(fleet_canary, "open_engine", self._open)
        plan = plan_fleet(self.here, PAY, "good-2.zip", scheduler=scheduler)
        assert ("only an abort" in str(plan)) is bool(scheduler)
        approvals = asyncio.run(approve_waves(self.here, plan, each_wave=each_wave))
        outcome = asyncio.run(deploy_in_waves(self.here, plan, approvals))
        assert next(lines, None) is None
        return outcome

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.here.journal.records if record["kind"] == kind]

    @contextmanager
    def _open(self, *_: object) -> Iterator[InThreads]:
        steps = InThreads()
        self.started = steps.begun
        yield steps


@pytest.fixture
def fleet_of(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def leave_in_progress(region: str) -> None:
    """A rollout whose run is gone, with its traffic split."""
    mine = session.connect(f"pay-{region}", "canary", quiet=True)
    abandon(mine, plan_rollout(mine, "good-2.zip"))
    mine.close()


def moved_since(url: str, before: int) -> set[str]:
    """The regions of which an alias was written."""
    calls = control(url, "calls")["calls"][before:]
    return {call["region"] for call in calls if call["operation"] == "UpdateAlias"}


def count_calls(url: str) -> int:
    return len(control(url, "calls")["calls"])


def test_an_abort_of_the_plan_rolls_back_what_is_in_progress_and_starts_nothing(
    fleet_of: Fleet, fleet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cluster, and no other target; report, exit code and journal call it an abort."""
    monkeypatch.setattr(engine, "CONNECT_S", 1)
    leave_in_progress("us-east-1")
    before = count_calls(fleet)
    outcome = fleet_of.answer(*ABORT, each_wave=False, scheduler="tcp://127.0.0.1:9")
    assert [word for _, word in words(outcome)] == ["ROLLED BACK", "NOT STARTED", "NOT STARTED", "NOT STARTED"]
    assert "aborted" in outcome.rows[0].says
    assert fleet_of.started is None and moved_since(fleet, before) == {"us-east-1"}
    assert {serving(fleet, region) for region in REGIONS} == {"1"}
    assert outcome.title == "ABORTED by operator: 1 ROLLED BACK, 3 NOT STARTED"
    with pytest.raises(Aborted, match=r"Ada aborted it\. In progress: pay-us-east-1") as ended:
        outcome.raise_for_ending()
    assert (ended.value.reference, ended.value.exit_code) == ("aborted", 3)
    (approved,) = fleet_of.records("approved")
    assert approved["order"] == "abort" and not fleet_of.records("fleet-wave")
    assert fleet_of.records("fleet-ended")[0]["ending"] == "aborted"


def test_an_abort_of_the_second_wave_keeps_the_first_one(fleet_of: Fleet, fleet: str) -> None:
    """What was promoted stays, what is in progress in that wave is rolled back, and the third is never asked for."""
    leave_in_progress("us-west-2")
    outcome = fleet_of.answer(*APPROVE, *ABORT, each_wave=True)
    assert [word for _, word in words(outcome)] == ["PROMOTED", "ROLLED BACK", "NOT STARTED", "NOT STARTED"]
    assert fleet_of.started == ["pay-us-east-1"] and outcome.exit_code == 3 and outcome.ending == "aborted"
    assert [record["wave"] for record in fleet_of.records("fleet-wave")] == ["first"]


def test_a_cancel_of_the_plan_changes_nothing(fleet_of: Fleet, fleet: str) -> None:
    """A refusal at once: also what is in progress stays, for its failsafe or for another answer."""
    leave_in_progress("us-east-1")
    before = count_calls(fleet)
    with pytest.raises(Refused) as refused:
        fleet_of.answer(*CANCEL, each_wave=False)
    assert (refused.value.reference, refused.value.exit_code) == ("approval-refused", 4)
    assert fleet_of.started is None and moved_since(fleet, before) == set()
    assert len(fleet_of.records("refused")) == 1 and not fleet_of.records("fleet-ended")


@pytest.mark.whole
def test_a_cancel_of_the_second_wave_changes_nothing_more(fleet_of: Fleet, fleet: str) -> None:
    """The first wave stays as it is; exit code 4, and the journal has who cancelled and what was not started."""
    outcome = fleet_of.answer(*APPROVE, *CANCEL, each_wave=True)
    assert [word for _, word in words(outcome)] == ["PROMOTED", "NOT STARTED", "NOT STARTED", "NOT STARTED"]
    assert fleet_of.started == ["pay-us-east-1"]
    with pytest.raises(Refused, match="Wave middle was not started") as refused:
        outcome.raise_for_ending()
    assert (refused.value.reference, refused.value.exit_code) == ("fleet-wave-unapproved", 4)
    assert len(fleet_of.records("refused")) == 1
    assert fleet_of.records("fleet-ended")[0]["ending"] == "refused"
