"""Whatever AWS answers at whichever call: a run ends as its outcome says, or with an error that tells what is live."""

import errno
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws import _client
from buddy_ops.aws import clock as clocks
from buddy_ops.aws.clock import SystemClock
from buddy_ops.core.errors import AwsFailed, BuddyError
from buddy_ops.core.journal import JournalFile
from buddy_sandbox.chaos import ANSWERS, METRICS
from tests.conftest import Situation, sampled
from tests.resilience.harness import (
    RUNBOOKS,
    alias_of,
    approved,
    begun,
    chosen,
    connect,
    journal,
    lease_minutes,
    must_be_done,
    no_backoff,
    parts,
    run_again,
    warm_clients,
)

Bring = Callable[..., Situation]
ATTEMPTS = 3
"""How often the SDK sends a call."""

FOREVER = 1_000_000
ANSWERED_OUTCOMES = {
    "proved", "unproven", "rolled-back", "held", "deployed", "already-live", "lease-fired", "done", "drained", "frozen", "lifted",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with warm_clients(), no_backoff():
        yield


def kinds(operation: str) -> list[dict[str, Any]]:
    """The faults that a call of this operation may meet: refused, failed or silent; before its effect and after."""
    faults: list[dict[str, Any]] = [{"kind": kind, "times": ATTEMPTS} for kind in ANSWERS]
    faults += [{"kind": kind, "times": ATTEMPTS} for kind in ("closed", "reset")]
    faults += [{"kind": kind, "times": times, "after": True} for kind in ("error", "closed") for times in (1, ATTEMPTS)]
    faults += [{"kind": "throttled", "times": 1}, {"kind": "expired", "times": FOREVER}]
    if operation == "GetMetricData":
        faults += [{"kind": kind, "times": 1} for kind in METRICS]
    return faults


def where_it_matters(calls: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Of each operation its first call, the first while traffic is split, and the first after the switch."""
    chosen: dict[tuple[str, str], int] = {}
    phase = "first"
    for number, call in enumerate(calls, start=1):
        chosen.setdefault((call["operation"], phase), number)
        chosen.setdefault((call["operation"], "first"), number)
        if call["operation"] == "UpdateAlias":
            phase = "split" if call["params"]["RoutingConfig"]["AdditionalVersionWeights"] else "alone"
    return sorted({(number, operation) for (operation, _), number in chosen.items()})


def must_tell_the_truth(here: Situation, error: BuddyError) -> None:
    """The error's 'Now' against the alias as it is."""
    assert error.reference and error.what and error.next
    told = error.now
    alias = alias_of(here)
    if told.startswith("Unknown"):
        return
    if found := re.search(r"serves (\d+ % v\d+(?:, \d+ % v\d+)?)", told):
        assert alias is not None
        weights = alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
        shares = [(100 - 100 * sum(weights.values()), alias["FunctionVersion"])]
        shares += [(100 * weight, version) for version, weight in weights.items()]
        # A version without a share is not named: while a build is monitored at 100 %, the primary has none.
        assert found[1] == ", ".join(f"{share:g} % v{version}" for share, version in shares if share), told
    else:
        assert re.search(r"[Nn]othing|no alias|does not exist|Deleted before|is untouched", told), told


@pytest.mark.parametrize(("name", "part"), parts(1))
@pytest.mark.timeout(900)
def test_a_fault_is_survived_or_told(
    situation: Bring, name: str, part: str, record_property: Callable[[str, object], None]
) -> None:
    """Each kind of fault at each operation: an ending, or an error whose 'Now' is so; no weights outlive the lease; the
    next run, with AWS well again, comes to the undisturbed end."""
    runbook = RUNBOOKS[name]
    here = runbook.bring(situation)
    since = len(here.ask("calls")["calls"])
    assert runbook.drive(here) == runbook.ends
    calls = [each for each in here.ask("calls", since=since)["calls"] if each["app"] == "buddy-ops"]
    cases = [(number, fault) for number, operation in where_it_matters(calls) for fault in kinds(operation)]
    tried = chosen(cases, name, part, one_in=400)
    for number, fault in tried:
        here = runbook.bring(situation)
        here.ask("chaos", call=number, **fault)
        where = f"{name}, call {number}, {calls[number - 1]['operation']}: {fault}"
        try:
            ending = runbook.drive(here)
            assert ending in ANSWERED_OUTCOMES or ending == runbook.ends, ending
        except BuddyError as error:
            where += f"\n{error}"
            here.ask("chaos")
            assert_noted(where, must_tell_the_truth, here, error)
        except BaseException as error:
            error.add_note(where)
            raise
        here.ask("chaos")
        here.ask("advance", seconds=60 * (lease_minutes() + 1))
        alias = alias_of(here)
        assert alias is None or "RoutingConfig" not in alias, where
        assert_noted(where, run_again, runbook, here)
        assert_noted(where, must_be_done, here, runbook)
    record_property("matrix", ("fault cases", name, len(tried)))


@pytest.mark.parametrize(
    "fault",
    sampled(
        [each for each in kinds("FilterLogEvents") if each["kind"] != "expired"],
        [{"kind": "denied", "times": ATTEMPTS}, {"kind": "throttled", "times": ATTEMPTS}],
    ),
    ids=str,
)
def test_a_log_that_fails_changes_no_ending(situation: Bring, fault: dict[str, Any]) -> None:
    """At the first reading of the log: CloudWatch's minutes decide instead, and say so in the journal."""
    runbook = RUNBOOKS["canary_bad_by_log"]
    here = runbook.bring(situation)
    here.ask("chaos", operation="FilterLogEvents", **fault)
    assert runbook.drive(here) == runbook.ends
    here.ask("chaos")
    must_be_done(here, runbook)
    if fault["times"] == ATTEMPTS:
        assert any(line["kind"] == "log-feed-unread" for line in journal(here))


def assert_noted(where: str, check: Callable[..., Any], *arguments: Any) -> None:
    """A check whose failure says at which point it failed."""
    try:
        check(*arguments)
    except BaseException as error:
        error.add_note(where)
        raise


# This machine's own faults


def test_a_full_disk_stops_no_rollback(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be written is kept in memory and its trouble told; the traffic moves all the same."""

    def full(self: Any, line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    runbook = RUNBOOKS["rollback_mid_rollout"]
    here = runbook.bring(situation)
    monkeypatch.setattr(JournalFile, "__call__", full)
    assert runbook.drive(here) == "done"
    must_be_done(here, runbook)


def test_a_journal_that_cannot_be_opened_stops_no_rollout(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the run's folder should be: the rollout ends as ever."""
    runbook = RUNBOOKS["canary_good"]
    here = runbook.bring(situation)
    (here.folder / "file").write_text("in the way")
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "file" / "run"))
    assert runbook.drive(here) == runbook.ends
    must_be_done(here, runbook)


def test_a_torn_line_takes_no_other_with_it(tmp_path: Path) -> None:
    """What a full disk or a kill left half-written stays a line of its own; the next record can be read."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"seq": 1}\n{"seq": 2, "ki')
    JournalFile(path)('{"seq": 3}')
    assert path.read_text().splitlines() == ['{"seq": 1}', '{"seq": 2, "ki', '{"seq": 3}']


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_clock_that_is_minutes_off_is_set_by_aws(monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """The lease's time comes from AWS's Date header, which a refusal carries too."""
    truth = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)
    off = truth + timedelta(minutes=minutes)
    monkeypatch.setattr(SystemClock, "_read", lambda _: clocks._Reading(0.0, off.timestamp()))
    clock = SystemClock()
    date = "Mon, 02 Nov 2026 03:00:00 GMT"
    change = _client.learn_time(clock, {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}, clock.now())
    assert clock.now() == truth and change == truth - off
    for reply in ({"ResponseMetadata": {"HTTPHeaders": {"date": "soon"}}}, {}):
        assert _client.learn_time(clock, reply, clock.now()) == timedelta()
    assert clock.now() == truth


def test_who_asks_may_stay_unknown_in_a_rollback(situation: Bring) -> None:
    """STS may fail for good: the gate records that the principal is unknown, and the traffic goes back."""
    import asyncio

    from buddy_ops.deployment import rollback
    from buddy_ops.notebook import approvals

    here = RUNBOOKS["rollback_mid_rollout"].bring(situation)
    here.ask("chaos", kind="denied", operation="GetCallerIdentity", times=FOREVER)
    mine = connect(here, "immediate")
    assert "the caller is unknown" in mine._repr_markdown_()
    plan = rollback.plan_rollback(mine)
    approval = asyncio.run(approvals.request_approval(mine, plan, ["Ada"]))
    assert approval.principal.startswith("unknown")
    rollback.run_rollback(mine, plan, approval)
    must_be_done(here, RUNBOOKS["rollback_mid_rollout"])


def test_checks_that_hang_hold_no_rollback_up(situation: Bring) -> None:
    """A configuration that cannot be read within 2 s is a doubt in the plan, not an obstacle."""
    from buddy_ops.deployment import rollback

    here = situation("good", requests_per_minute=600, history_minutes=12)
    begun(here)
    here.ask("chaos", kind="silent", operation="GetFunctionConfiguration", times=FOREVER)
    mine = connect(here, "immediate")
    plan = rollback.plan_rollback(mine)
    here.ask("chaos")
    assert any("answer within 2 s" in each for each in plan.reasons)
    assert not rollback.run_rollback(mine, plan, approved(mine, plan)).already


@pytest.mark.whole
def test_a_silent_aws_is_a_timeout(situation: Bring) -> None:
    """A connection that is held without an answer ends after the read timeout as 'aws-unreachable', and says unknown."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    mine = connect(here, "test")
    here.ask("chaos", kind="silent", operation="Invoke", times=1)
    with pytest.raises(AwsFailed, match="aws-unreachable") as failed:
        mine.client("lambda", attempts=1).invoke(FunctionName=here.function)
    here.ask("chaos")
    assert failed.value.code == "timeout" and failed.value.now.startswith("Unknown")
