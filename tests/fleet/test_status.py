"""The status of twelve targets in four regions: the worst first, few calls, and nothing is written."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from buddy_ops.aws import session
from buddy_ops.aws.clock import SystemClock
from buddy_ops.deployment import rollback
from buddy_ops.deployment.rollout_plan import plan_rollout
from buddy_ops.fleet import pages, status, targets
from buddy_ops.fleet.status import FleetStatus
from buddy_sandbox import builds
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.situations import control
from tests.cli.command_line import invoke
from tests.conftest import abandon, approve
from tests.fleet.conftest import FUNCTIONS, REGIONS, client

Ship = Callable[[str, str, str], None]
READS = ("Get", "List", "Describe")
OTHER = "222222222222"


def look(labels: dict[str, str] | None = None) -> FleetStatus:
    return status.read_fleet(targets.open_places(targets.read_members(labels or {}), "test"))


def words(found: FleetStatus) -> dict[str, str]:
    return {each.member.name: each.report.word for each in found.targets}


def operations(url: str, since: int) -> Counter[str]:
    calls = control(url, "calls")["calls"][since:]
    return Counter(call["operation"] for call in calls if call["app"] == "buddy-ops")


def test_a_quiet_fleet(fleet: str) -> None:
    """Each target is OK; one GetMetricData per region, one GetAlias per target, and no call that writes."""
    before = len(control(fleet, "calls")["calls"])
    found = look()
    assert set(words(found)) == {f"{function}-{region}" for function in FUNCTIONS for region in REGIONS}
    assert set(words(found).values()) == {"OK"} and found.exit_code == 0
    asked = operations(fleet, before)
    assert (asked["GetMetricData"], asked["DescribeAlarms"], asked["GetAlias"]) == (4, 4, 12)
    assert all(operation.startswith(READS) for operation in asked)


def test_the_worst_comes_first_and_names_its_own_status(fleet: str, ship: Ship) -> None:
    """A bad build in one region, a freeze in another, a deleted alias in a third: each word, in their order."""
    ship("pay", "eu-west-1", "errors_5_percent")
    freeze = {"reason": "launch day", "owner": "Ana", "expires": "2100-01-01T00:00:00Z"}
    stored = {"Name": "/buddy-ops/shop/live/freeze/x", "Value": json.dumps(freeze), "Type": "String"}
    client(fleet, "ssm", "us-west-2").put_parameter(**stored)
    client(fleet, "lambda", "us-east-1").delete_alias(FunctionName="cart", Name="live")
    control(fleet, "advance", seconds=600)
    found = look()
    assert list(words(found).items())[:3] == [
        ("cart-us-east-1", "ALIAS MISSING"),
        ("pay-eu-west-1", "ERROR RATE HIGH"),
        ("shop-us-west-2", "FROZEN"),
    ]
    assert found.exit_code == 6
    assert found.summary == "12 targets: 1 ALIAS MISSING, 1 ERROR RATE HIGH, 1 FROZEN, 9 OK"
    worst = found.targets[1]
    assert re.fullmatch(r"[\d.]+ %", worst.figures[0]) and worst.versions == "v2"
    commands = [step.command for step in worst.report.steps]
    assert commands == ["buddy-ops status -e pay-eu-west-1", "buddy-ops rollback -e pay-eu-west-1"]


def test_the_command_that_a_line_names_is_about_that_target(
    fleet: str, ship: Ship, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target's name is an environment everywhere: its own status, and its rollback, are of its region."""
    ship("pay", "eu-west-1", "errors_5_percent")
    control(fleet, "advance", seconds=600)
    step = look().targets[0].report.steps[0]
    own = invoke(capsys, *shlex.split(step.command)[1:], "--json")
    assert (own.data["function"], own.data["region"], own.data["word"]) == ("pay", "eu-west-1", "ERROR RATE HIGH")
    done = invoke(
        capsys, "rollback", "-e", "pay-eu-west-1", "--to-version", "1", "--yes", "--approved-by", "Ana", "--json"
    )
    assert done.code == 0, done.err
    for region in REGIONS:
        assert client(fleet, "lambda", region).get_alias(FunctionName="pay", Name="live")["FunctionVersion"] == "1"


@pytest.mark.parametrize("outage", ["error", "partial"])
def test_metrics_that_cannot_be_read_are_never_ok(fleet: str, outage: str) -> None:
    """Refused, or answered in part: no target is OK, and the exit code says so."""
    control(fleet, "set", outage=outage)
    found = look({"team": "payments"})
    control(fleet, "set", outage=None)
    assert set(words(found).values()) == {"UNKNOWN"} and found.exit_code == 1


def test_a_rollback_of_just_now_is_not_said_to_be_without_traffic(fleet: str, tmp_path: Path) -> None:
    """CloudWatch has published no minute since: the figures of the minutes before are shown, and no outage."""
    builds.write(tmp_path / "next.zip", PROFILES["good"], "2.0.0")
    here = session.connect("pay-us-east-1", "test")
    abandon(here, plan_rollout(here, "next.zip"))
    plan = rollback.plan_rollback(here)
    rollback.run_rollback(here, plan, approve(here, plan), print)
    here.close()
    found = words(look())
    assert found["pay-us-east-1"] == "ROLLED BACK" and found["pay-us-west-2"] == "OK"


def test_silence_is_never_ok(fleet: str) -> None:
    """No datapoint for an hour and a half, though requests were usual before."""
    control(fleet, "set", requests_per_minute=0)
    control(fleet, "advance", seconds=90 * 60)
    found = look({"team": "payments"})
    assert set(words(found).values()) == {"NO TRAFFIC"} and found.exit_code == 1


def test_a_place_that_cannot_be_opened_stops_no_other(fleet: str) -> None:
    """A profile that does not exist: its targets are unreadable and named, the others as ever."""
    parameters = Path("parameters")
    other = (parameters / "prod.yaml").read_text().replace("environment: prod", "environment: other")
    (parameters / "other.yaml").write_text(other.replace(fleet, "http://127.0.0.1:9"))
    file = parameters / "fleet.yaml"
    file.write_text(f"{file.read_text()}\n  - {{name: lost, environment: other, region: us-east-1}}\n")
    found = look()
    assert words(found)["lost"] == "ALIAS UNREADABLE" and found.targets[0].member.name == "lost"
    assert Counter(words(found).values())["OK"] == 12 and found.exit_code == 1


def test_an_account_of_its_own_and_a_region_that_does_not_answer(fleet: str, tmp_path: Path) -> None:
    """Targets of another account are read by its role; those of a region that is unreachable are named, the others OK."""
    good = str(tmp_path / "good.zip")
    control(fleet, "function", name="pay", artifact=good, account=OTHER, requests_per_minute=60, history_minutes=20)
    file = Path("parameters/fleet.yaml")
    for name, role in (("theirs", "buddy-ops"), ("closed", "missing")):
        reached = f"assume_role: 'arn:aws:iam::{OTHER}:role/{role}'"
        own = f"{{name: {name}, environment: prod, function: pay, region: us-east-1, {reached}}}"
        file.write_text(f"{file.read_text()}\n  - {own}\n")
    control(fleet, "set", region="eu-west-1", unreachable="closed")
    found = look()
    control(fleet, "set", region="eu-west-1", unreachable=None)
    unreadable = {f"{function}-eu-west-1" for function in FUNCTIONS} | {"closed"}
    assert {name for name, word in words(found).items() if word == "ALIAS UNREADABLE"} == unreadable
    assert Counter(words(found).values()) == {"ALIAS UNREADABLE": 4, "OK": 10} and found.exit_code == 1
    told = {each.member.name: each for each in found.targets}
    assert told["theirs"].account == OTHER and told["pay-us-east-1"].account != OTHER
    assert "sts:AssumeRole" in told["closed"].report.verdict
    assert "got no answer" in told["pay-eu-west-1"].report.verdict


def test_the_command_answers_in_text_json_and_as_a_page(
    fleet: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Labels narrow it down; JSON has times in UTC and one object per target; the page has a row for each."""
    done = invoke(capsys, "fleet", "status", "--label", "team=payments", "--page", "fleet.html", "--json")
    assert done.code == 0 and {each["region"] for each in done.data["targets"]} == set(REGIONS)
    assert all(len(each["requests"]) == 60 and each["labels"] == {"team": "payments"} for each in done.data["targets"])
    assert (tmp_path / "fleet.html").read_text().count("<tr>") == 1 + 4
    text = invoke(capsys, "fleet", "status", "--label", "team=payments")
    assert text.out.startswith("RESULT") and text.out.rstrip().endswith("4 targets: 4 OK")
    refused = invoke(capsys, "fleet", "status", "--label", "team=payment")
    assert refused.code == 2 and "Did you mean team=payments?" in refused.err


class StoppedClock(SystemClock):
    """A clock on which no time passes; Ctrl-C at the second wait."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.page = page
        self.seen: list[str] = []

    def sleep_until(self, moment: datetime) -> None:
        self.seen.append(self.page.read_text())
        if len(self.seen) == 2:
            raise KeyboardInterrupt


def test_a_watched_page_loads_itself_again_and_is_static_at_the_end(tmp_path: Path) -> None:
    """Each reading is written; what is left after Ctrl-C is the last one, and loads nothing."""
    page = tmp_path / "fleet.html"
    start = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
    readings = [FleetStatus(start + timedelta(minutes=minutes), ()) for minutes in range(3)]
    clock = StoppedClock(page)
    found = pages.keep_page(page, 60, iter(readings).__next__, clock)
    assert found is readings[1]
    assert all("data-reload=60" in written for written in clock.seen)
    assert [re.findall("03:0. UTC", written) for written in clock.seen] == [["03:00 UTC"], ["03:01 UTC"]]
    assert "data-reload=0" in page.read_text() and "03:01 UTC" in page.read_text()
