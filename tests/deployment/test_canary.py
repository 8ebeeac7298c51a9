"""The canary, end to end on the sandbox, without notebook: what it does to the alias, and what it says."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from buddy_ops.aws.aliases import decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, Held, Refused, RolledBack
from buddy_ops.deployment import rollback, rollout
from tests.conftest import Situation, abandon, approve, call_failed

Bring = Callable[..., Situation]


def weights(here: Situation) -> list[float]:
    """The new version's share after each write to the alias, from the sandbox's own call log."""
    written = []
    for call in here.calls("UpdateAlias"):
        assert call["status"] == 200
        shares = call["params"]["RoutingConfig"]["AdditionalVersionWeights"]
        written.append(next(iter(shares.values()), 1.0 if call["params"]["FunctionVersion"] == "2" else 0.0))
    return written


def split(here: Target, steps: rollout.Rollout) -> rollout.Observation:
    """Drive a rollout until traffic is split; the observation that says so."""
    seen = next(steps)
    while not seen.weight:
        here.clock.sleep_until(seen.wake_at)
        seen = next(steps)
    return seen


def test_a_good_build_reaches_100_percent_by_the_stages_of_prod(situation: Bring) -> None:
    """With prod's parameters and no ramp, the alias carries exactly 10, 50 and 100 percent on the way."""
    here = situation("good", environment="prod")
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["rollout"]["ramp"] = None
    outcome = here.ship(here.build("good"), values=values)
    assert outcome.ending == "proved"
    # The last write only closes the record.
    assert weights(here) == [0.1, 0.5, 1.0, 1.0]
    assert here.alias()["FunctionVersion"] == "2"
    assert "RoutingConfig" not in here.alias()
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and (record.stage, record.stable_version, record.new_version) == ("proved", "1", "2")


def test_a_bad_build_ends_without_traffic(situation: Bring) -> None:
    """A build that fails 5 % is taken back by itself: stable serves alone, the version and the reason are recorded."""
    here = situation("errors_5_percent", environment="prod")
    outcome = here.ship(here.build("errors_5_percent"))
    assert (outcome.ending, outcome.exit_code) == ("rolled-back", 3)
    assert weights(here)[-1] == 0.0
    assert max(weights(here)) < 1.0
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and record.rejected_versions == ("2",)
    journal = [json.loads(line) for line in (here.folder / "run" / "journal.jsonl").read_text().splitlines()]
    taken = next(each for each in journal if each["kind"] == "taken-back")
    assert taken["version"] == "2" and "v2 error rate" in taken["reasons"][0]
    with pytest.raises(RolledBack):
        outcome.raise_for_ending()


def test_apologies_count_as_failures(situation: Bring) -> None:
    """A build that only apologises fails nobody's Lambda metric, and is rolled back all the same."""
    here = situation("apologises")
    outcome = here.ship(here.build("apologises"))
    assert outcome.ending == "rolled-back"
    now = here.ask("status")["now"]
    behind = {"FunctionName": here.function, "Resource": f"{here.function}:live", "ExecutedVersion": "2"}
    errors = here.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/Lambda",
        MetricName="Errors",
        Dimensions=[{"Name": name, "Value": value} for name, value in behind.items()],
        StartTime=now - 3600,
        EndTime=now,
        Period=60,
        Statistics=["Sum", "SampleCount"],
    )["Datapoints"]
    assert sum(each["SampleCount"] for each in errors) > 0
    assert sum(each["Sum"] for each in errors) == 0
    assert outcome.failed["2"] == outcome.requests["2"] > 0


@pytest.mark.whole
def test_the_same_seed_gives_the_same_figures(situation: Bring) -> None:
    """Requests, failures, times and sentences repeat, run after run."""
    outcomes = []
    for _ in range(2):
        here = situation("errors_2_percent")
        outcomes.append(here.ship(here.build("errors_2_percent")))
    assert outcomes[0] == outcomes[1]


def test_polling_more_often_changes_no_figure(situation: Bring) -> None:
    """What the sandbox simulates does not depend on how often anybody looks or how time is cut."""
    sums = []
    for steps in (1, 60):
        here = situation("errors_5_percent", stable="errors_5_percent", history_minutes=0)
        for _ in range(steps):
            here.ask("advance", seconds=600 / steps)
        here.ask("advance", seconds=120)
        stats = here.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Lambda", MetricName="Duration", Dimensions=[{"Name": "FunctionName", "Value": here.function}],
            StartTime=here.ask("clock")["now"] - 7200, EndTime=here.ask("clock")["now"], Period=3600, Statistics=["Sum", "SampleCount"],
        )  # fmt: skip
        sums.append([(each["Sum"], each["SampleCount"]) for each in stats["Datapoints"]])
    assert sums[0] and sums[0] == sums[1]


def test_a_killed_run_loses_its_traffic_within_the_lease(situation: Bring) -> None:
    """SIGKILL at 10 %: AWS itself clears the weights, with nothing of ours running; the next run says what happened."""
    here = situation("good")
    artifact = here.build("good")
    code = (
        "import os, signal, sys\n"
        "from buddy_ops.aws import session\n"
        "from buddy_ops.deployment import rollout\n"
        "from tests.conftest import approve\n"
        "here = session.connect('sandbox', 'test')\n"
        f"plan = rollout.plan_rollout(here, {artifact!r})\n"
        "for seen in rollout.run_rollout(here, plan, approve(here, plan)):\n"
        "    if seen.weight: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    here.clock.sleep_until(seen.wake_at)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))},
    )
    assert done.returncode == -signal.SIGKILL
    assert here.alias()["RoutingConfig"]["AdditionalVersionWeights"] == {"2": 0.1}
    minutes = here.connect(quiet=True).settings.lease.minutes
    here.ask("advance", seconds=60 * (minutes + 1))
    assert "RoutingConfig" not in here.alias() and here.alias()["FunctionVersion"] == "1"
    with closing(here.connect()) as reading:
        plan = rollout.plan_rollout(reading, artifact)
    assert "was lost: its failsafe rolled back" in plan.title and "as now" in plan.then[0]
    assert "run this once more" in plan.then[1] and plan.calls[0] == "lambda:UpdateAlias v1 alone, as now"
    outcome = here.ship(artifact)
    assert (outcome.ending, outcome.exit_code) == ("lease-fired", 3)
    assert "stopped renewing its failsafe" in outcome.reasons[0]
    # Told once; the next run ships it again.
    assert here.ship(artifact).ending == "proved"


@pytest.mark.whole
def test_a_killed_run_is_resumed_before_the_lease_fires(situation: Bring) -> None:
    """A second run of the same build picks the rollout up where the alias says, and ends as the first would have."""
    here = situation("good")
    artifact = here.build("good")
    first = here.connect()
    plan = rollout.plan_rollout(first, artifact)
    abandon(first, plan, stage="2")
    first.close()
    outcome = here.ship(artifact)
    assert outcome.ending == "proved"
    assert weights(here) == [0.1, 0.5, 1.0, 1.0]
    whole = situation("good")
    assert whole.ship(artifact) == outcome


def test_shipping_what_is_live_changes_nothing(situation: Bring) -> None:
    """Running a finished runbook again re-verifies instead of acting again."""
    here = situation("good")
    artifact = here.build("good")
    here.ship(artifact)
    before = here.alias()["RevisionId"]
    assert here.ship(artifact).ending == "already-live"
    assert here.alias()["RevisionId"] == before


def test_the_first_deployment_creates_the_alias(situation: Bring) -> None:
    """Where there is no alias there is nothing to compare with: it is created, with 100 percent."""
    here = situation("first_deployment")
    assert here.ship(here.build("good", "1.0.0")).ending == "deployed"
    assert here.alias()["FunctionVersion"] == "1"


def test_another_rollout_is_refused_and_named(situation: Bring) -> None:
    """A second build is refused while a rollout is under way; the refusal says whose it is, and nothing is written."""
    here = situation("good")
    first = here.connect()
    plan = rollout.plan_rollout(first, here.build("good"))
    steps = rollout.run_rollout(first, plan, approve(first, plan))
    split(first, steps)
    writes = len(here.calls("UpdateAlias", "UpdateFunctionCode", "PublishVersion"))
    with pytest.raises(Refused, match="rollout-under-way") as refused:
        rollout.plan_rollout(here.connect(), here.build("good", "3.0.0"))
    assert first.run in refused.value.what and "rollback/immediate" in refused.value.next
    assert len(here.calls("UpdateAlias", "UpdateFunctionCode", "PublishVersion")) == writes
    steps.close()
    back = rollback.plan_rollback(first)
    rollback.run_rollback(first, back, approve(first, back))
    assert rollout.plan_rollout(here.connect(), here.build("good", "3.0.0")).calls
    first.close()


def test_somebody_elses_move_ends_the_rollout(situation: Bring) -> None:
    """When another hand moves the alias, this run stops at its next poll, says so, and writes nothing more."""
    here = situation("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    split(mine, steps)
    here.client("lambda").update_alias(
        FunctionName=here.function, Name="live", RoutingConfig={"AdditionalVersionWeights": {}}, Description="by hand"
    )
    with pytest.raises(Refused, match="alias-moved"):
        next(steps)
    assert here.alias()["Description"] == "by hand"
    mine.close()


def test_metrics_that_cannot_be_read_hold_and_never_pass(situation: Bring) -> None:
    """An outage of CloudWatch stops the bake clock; past its limit the traffic goes back, and nobody is blamed."""
    here = situation("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    seen = split(mine, steps)
    here.ask("set", outage="partial")
    with pytest.raises(StopIteration) as end:
        while True:
            mine.clock.sleep_until(seen.wake_at)
            seen = next(steps)
            assert seen.stage == "1" or not seen.weight
    outcome = end.value.value
    assert (outcome.ending, outcome.exit_code) == ("held", 5)
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and record.rejected_versions == () and here.alias()["FunctionVersion"] == "1"
    with pytest.raises(Held):
        outcome.raise_for_ending()
    mine.close()


def test_a_blind_rollout_does_not_begin(situation: Bring) -> None:
    """Metrics that cannot be read before the first split refuse the rollout; the alias is untouched."""
    here = situation("good")
    before = here.alias()["RevisionId"]
    here.ask("set", outage="error")
    with pytest.raises(Refused, match="metrics-unreadable") as refused:
        here.ship(here.build("good"))
    assert here.alias()["RevisionId"] == before
    assert "Then run this again" in refused.value.next
    here.ask("set", outage=None)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    assert split(mine, rollout.run_rollout(mine, plan, approve(mine, plan))).stage == "1"
    mine.close()


def test_a_build_that_lambda_does_not_accept_is_not_shifted(situation: Bring) -> None:
    """A version that becomes Failed ends the rollout with Lambda's reason; a corrected build is deployed."""
    here = situation("good")
    before = here.alias()["RevisionId"]
    mine = here.connect()

    call_failed(mine, "2", "the image is invalid")
    plan = rollout.plan_rollout(mine, here.build("good"))
    with pytest.raises(BuddyError, match="publish-failed") as failed:
        rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))
    assert "Failed: the image is invalid" in failed.value.what and "serves 100 % v1" in failed.value.now
    assert here.alias()["RevisionId"] == before
    mine.close()
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good", "3.0.0"))
    assert split(mine, rollout.run_rollout(mine, plan, approve(mine, plan))).stage == "1"
    mine.close()


@pytest.mark.parametrize("order", ["abort", "promote"])
def test_orders_are_obeyed(situation: Bring, order: rollout.Order) -> None:
    """'abort' takes the traffic back at once; 'promote' goes on to the next stage without waiting."""
    here = situation("good")
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    steps = rollout.run_rollout(mine, plan, approve(mine, plan))
    split(mine, steps)
    if order == "abort":
        assert steps.send(order).weight == 0.0
        assert here.alias()["FunctionVersion"] == "1"
        with pytest.raises(StopIteration) as end:
            steps.send("stop")
        assert end.value.value.exit_code == 3
    else:
        assert steps.send(order).weight == 0.5
    mine.close()


def test_no_credentials_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against AWS without credentials there is one clear error, before anything is read or written."""
    from buddy_ops.aws import aliases, session

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AwsFailed, match="no-credentials") as failed:
        aliases.read_alias(session.connect("dev", "test", quiet=True))
    assert failed.value.now == "Nothing was changed."
