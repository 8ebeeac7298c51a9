"""The first screen in the situations that on-call meets: result word, version, next command and exit code.

The next command is taken from the report as it would be copied, and carried out. It ends well.
"""

import json
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from buddy_ops.aws import freezes, isolation
from buddy_ops.checks import result_words, setup, status
from buddy_ops.checks.next_steps import NextStep, find_artifact
from buddy_ops.checks.status import StatusReport
from buddy_ops.core import project
from buddy_ops.core.errors import AccessDenied
from buddy_ops.deployment import reenabling, rollback, rollout
from buddy_ops.health import alarms
from buddy_ops.runs import supervisor
from tests.conftest import Situation, abandon, approve, intercept, sampled
from tests.system.aws_commands import find_problems

Bring = Callable[..., Situation]
LONGEST_VERDICT = 320
"""Characters of a verdict that fit into the first screen: the browser tests show so many."""

STATUS = "buddy-ops status -e sandbox"
ROLLBACK = "buddy-ops rollback -e sandbox"


def look(here: Situation) -> StatusReport:
    """The status; its JSON says the same, and its first lines have the next command."""
    found = status.read_status(here.connect("status", quiet=True))
    values: dict[str, Any] = json.loads(json.dumps(found.to_json()))
    assert (values["word"], values["exit_code"]) == (found.word, found.exit_code)
    assert found.verdict.startswith(found.word) and len(found.verdict) <= LONGEST_VERDICT
    assert len({step.why for step in found.steps}) == len(found.steps)
    (known,) = [each for each in result_words.RESULT_WORDS if each.word == found.word]
    assert found.exit_code in known.exit_codes
    assert [step["command"] for step in values["next"]] == [step.command for step in found.steps]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", values["at"])
    assert values["since"] is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", values["since"])
    if found.steps[0].command:
        assert found.steps[0].command in "\n".join(str(found).splitlines()[:4])
    return found


def shown(found: StatusReport) -> tuple[str, int, str]:
    return found.word, found.exit_code, found.steps[0].command


def carry_out(here: Situation, step: NextStep) -> None:
    """Do what the command of a step does, without a terminal."""
    # The shell runs what stands in "$(...)" first.
    command = re.sub(r'"\$\((.*?)\)"', lambda match: aws(here, match[1])["Version"], step.command)
    words = shlex.split(command)
    if words[0] == "aws":
        aws(here, command)
        return
    assert words[0] == "buddy-ops" and "sandbox" in words
    target = here.connect(quiet=True)
    match words[1]:
        case "rollback":
            to = words[words.index("--to-version") + 1] if "--to-version" in words else ""
            plan = rollback.plan_rollback(target, to)
            rollback.run_rollback(target, plan, approve(target, plan))
        case "reenable":
            restoring = reenabling.plan_reenabling(target)
            reenabling.run_reenabling(target, restoring, approve(target, restoring))
        case "unfreeze":
            assert freezes.remove_freeze(target, words[2])
        case "doctor":
            assert list(setup.run_doctor(target, "reader"))
        case "run":
            done = supervisor.run_notebook(words[2], {"environment": "sandbox"}, folder=here.folder / "next")
            assert done.exit_code == 0, done.trouble
        case _:
            assert words == shlex.split(STATUS)


def aws(here: Situation, command: str) -> dict[str, Any]:
    """A command of the AWS CLI, by boto3; the CLI would take it as it is."""
    assert find_problems(command) == []
    words = shlex.split(command)
    if words[1] == "service-quotas":
        return {}  # a person at AWS decides about it
    options = dict(zip(words[3::2], words[4::2], strict=False))
    assert options.pop("--region") == "us-east-1"
    options.pop("--query", None)
    options.pop("--output", None)
    camel = {"".join(word.capitalize() for word in name[2:].split("-")): value for name, value in options.items()}
    given: dict[str, Any] = {name: int(value) if "Concurrent" in name else value for name, value in camel.items()}
    return dict(getattr(here.client(words[1]), words[2].replace("-", "_"))(**given))


def failing(situation: Bring, build: str = "errors_5_percent", **options: Any) -> Situation:
    """v2 came after a good v1 by hand, and fails."""
    here = situation("good", history_minutes=20, **options)
    here.ship_by_hand(build)
    here.ask("advance", seconds=600)
    return here


def test_all_well(situation: Bring) -> None:
    """OK has the rate that shows it."""
    found = look(situation("good", history_minutes=30))
    assert shown(found) == ("OK", 0, STATUS) and "v1 0." in found.verdict and "(limit 1 %)" in found.verdict
    assert found.steps[0].why.startswith("No action needed")


def test_the_serving_version_fails(situation: Bring) -> None:
    """The rollback, with a version that the record does not have; and then all is well."""
    here = failing(situation)
    found = look(here)
    assert shown(found) == ("ERROR RATE HIGH", 6, f"{ROLLBACK} --to-version 1") and ": v2 " in found.verdict
    values = found.to_json()
    assert (values["version"], values["limit"]) == ("2", 0.01) and 0.02 < float(str(values["number"])) < 0.1
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=900)
    found = look(here)
    assert (found.word, found.exit_code) == ("ROLLED BACK", 0)


@pytest.mark.whole
def test_the_only_version_fails(situation: Bring) -> None:
    """There is nothing to roll back to: no rollback is advised that would be refused."""
    here = situation("good", stable="errors_5_percent", history_minutes=30)
    found = look(here)
    assert shown(found) == ("ERROR RATE HIGH", 6, "") and found.steps[0].runbook == "strategies/canary"
    assert not any("rollback" in step.command for step in found.steps)
    here.ship(here.build("good"))
    here.ask("advance", seconds=900)
    found = look(here)
    assert (found.word, found.exit_code) == ("OK", 0) and "v2 0." in found.verdict


def under_way(situation: Bring, minutes: float = 4) -> Situation:
    """A canary of v2 at 10 %, whose run is alive for so long."""
    here = situation("good", history_minutes=30)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    abandon(mine, plan)
    mine.close()
    here.ask("advance", seconds=60 * minutes)
    return here


def test_a_rollout_is_under_way(situation: Bring) -> None:
    """It is healthy: not interrupted, no invented artifact; how to follow it, and how to roll it back."""
    here = under_way(situation)
    found = look(here)
    assert shown(found) == ("ROLLOUT IN PROGRESS", 0, STATUS)
    assert "90 % v1, 10 % v2" in found.verdict and "renewed the failsafe at" in found.verdict
    assert "skill.zip" not in str(found) and "stopped" not in str(found)
    assert found.steps[1].command == ROLLBACK
    carry_out(here, found.steps[1])
    assert here.alias()["FunctionVersion"] == "1"


def test_the_run_of_a_rollout_is_lost(situation: Bring) -> None:
    """The failsafe was not renewed: since when is told, and when it rolls back."""
    here = under_way(situation, minutes=14)
    found = look(here)
    assert shown(found) == ("ROLLOUT STALLED", 6, ROLLBACK)
    assert (
        "Its run was lost: it last renewed the failsafe at" in found.verdict and "rolls back to v1 at" in found.verdict
    )
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=600)
    assert look(here).exit_code == 0


def test_the_failsafe_rolled_a_lost_rollout_back(situation: Bring) -> None:
    """The record is open: the rollback closes it."""
    here = under_way(situation, minutes=40)
    found = look(here)
    assert shown(found) == ("ROLLOUT STALLED", 6, ROLLBACK) and "v1 receives 100 %" in found.verdict
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=600)
    assert look(here).exit_code == 0 and here.record().stage == "rolled-back"


def test_a_rollout_without_its_failsafe(situation: Bring) -> None:
    """Another tool deleted the schedule: nothing would roll back."""
    here = under_way(situation)
    (schedule,) = here.client("scheduler").list_schedules()["Schedules"]
    here.client("scheduler").delete_schedule(Name=schedule["Name"])
    found = look(here)
    assert shown(found) == ("ROLLOUT STALLED", 6, ROLLBACK) and "It has no failsafe" in found.verdict
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=600)
    assert (look(here).word, look(here).exit_code) == ("ROLLED BACK", 0)


@pytest.mark.parametrize("minutes", sampled([0, 10], slice(1)))
def test_just_rolled_back(situation: Bring, minutes: int) -> None:
    """The good version is never accused: at once its rate is unknown, and then it is healthy."""
    here = failing(situation)
    carry_out(here, look(here).steps[0])
    here.ask("advance", seconds=60 * minutes)
    found = look(here)
    assert shown(found) == ("ROLLED BACK", 0 if minutes else 1, STATUS)
    assert "v1 receives 100 % of traffic since" in found.verdict and "rolled back v2" in found.verdict
    assert not any(step.runbook == "rollback/immediate" for step in found.steps)


def test_both_versions_of_a_canary_fail(situation: Bring) -> None:
    """A dependency fails: a rollback would not help, and none is advised."""
    here = situation("outage", history_minutes=30)
    mine = here.connect()
    plan = rollout.plan_rollout(mine, here.build("good"))
    abandon(mine, plan)
    mine.close()
    here.ask("advance", seconds=9 * 60)
    found = look(here)
    assert shown(found) == ("BOTH VERSIONS FAIL", 6, "buddy-ops run operations/monitor -e sandbox")
    assert "v1 " in found.verdict and "v2 " in found.verdict
    assert not any("rollback" in step.command for step in found.steps)


@pytest.mark.whole
def test_the_version_that_was_rolled_back_to_fails_as_well(situation: Bring) -> None:
    """v2 was rolled back, and v1 fails as v2 did: the version is not the cause."""
    here = situation("good", stable="errors_5_percent", history_minutes=20)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    target = here.connect(quiet=True)
    plan = rollback.plan_rollback(target, "1")
    rollback.run_rollback(target, plan, approve(target, plan))
    here.ask("advance", seconds=600)
    found = look(here)
    assert shown(found) == ("BOTH VERSIONS FAIL", 6, "buddy-ops run operations/monitor -e sandbox")
    carry_out(here, found.steps[0])


def throttled(situation: Bring, reserved: int | None) -> Situation:
    here = situation("throttling", history_minutes=30)
    if reserved is not None:
        here.client("lambda").put_function_concurrency(
            FunctionName=here.function, ReservedConcurrentExecutions=reserved
        )
    here.ask("advance", seconds=8 * 60)
    return here


@pytest.mark.parametrize(
    ("reserved", "cause", "command"),
    sampled(
        [
            (20, "reserved concurrency is 20", "--reserved-concurrent-executions 40"),
            (0, "reserved concurrency is 0, and no isolation", "aws lambda delete-function-concurrency"),
            (
                None,
                "account's limit is 1,000 concurrent executions",
                "aws service-quotas request-service-quota-increase",
            ),
        ],
        slice(1),
    ),
)
def test_requests_are_throttled(situation: Bring, reserved: int | None, cause: str, command: str) -> None:
    """Which limit rejects them, and the command that raises it."""
    here = throttled(situation, reserved)
    found = look(here)
    assert (found.word, found.exit_code) == ("REQUESTS THROTTLED", 6) and cause in found.verdict
    assert command in found.steps[0].command and not any("rollback -e" in step.command for step in found.steps)
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=30 * 60)
    assert look(here).exit_code == 0


@pytest.mark.parametrize("how", sampled(["function", "writes"], slice(1)))
def test_isolated_on_purpose(situation: Bring, how: Any) -> None:
    """Not throttled: isolated, by whom, since when, and the command that lifts it."""
    here = situation("good", history_minutes=30, reminders=3)
    isolation.isolate(here.connect(quiet=True), how, project.read_settings("sandbox")[0]["tables"][0]["name"])
    here.ask("advance", seconds=600)
    found = look(here)
    assert shown(found) == ("ISOLATED", 6, "buddy-ops reenable -e sandbox")
    assert re.search(r"since \d\d:\d\d UTC \(\d+ min ago\), by \S+ \(run \w+\)", found.verdict)
    assert "throttled" not in found.verdict.lower()
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=20 * 60)
    assert look(here).exit_code == 0


def test_the_alias_is_missing(situation: Bring) -> None:
    """The command creates it at the version that served."""
    here = situation("good", history_minutes=30)
    here.client("lambda").delete_alias(FunctionName=here.function, Name="live")
    here.ask("advance", seconds=300)
    found = look(here)
    assert (found.word, found.exit_code) == ("ALIAS MISSING", 6)
    assert "aws lambda create-alias" in found.steps[0].command and "--function-version 1" in found.steps[0].command
    carry_out(here, found.steps[0])
    here.ask("advance", seconds=1200)
    assert look(here).exit_code == 0


def test_the_alias_is_unreadable(situation: Bring) -> None:
    """Access denied: unknown, never OK; the doctor says what is missing."""
    here = situation("good", history_minutes=30)
    mine = here.connect("status", quiet=True)

    def denied(send: Any, service: str, operation: str, **given: Any) -> Any:
        if operation == "get_alias":
            raise AccessDenied(
                "access-denied", "lambda:GetAlias is not allowed.", next="Add it.", code="AccessDeniedException"
            )
        return send(service, operation, **given)

    intercept(mine, denied)
    found = status.read_status(mine)
    assert shown(found) == ("ALIAS UNREADABLE", 1, "buddy-ops doctor -e sandbox") and "GetAlias" in found.verdict
    carry_out(here, found.steps[0])


def test_the_alias_is_at_latest(situation: Bring) -> None:
    """The command publishes $LATEST and points the alias to it."""
    here = situation("good", history_minutes=20)
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion="$LATEST")
    here.ask("advance", seconds=900)
    found = look(here)
    assert (found.word, found.exit_code) == ("ALIAS ON $LATEST", 6)
    carry_out(here, found.steps[0])
    assert here.alias()["FunctionVersion"].isdecimal()


@pytest.mark.parametrize("recorded", sampled([True, False], slice(1)))
def test_another_tool_moved_the_alias(situation: Bring, recorded: bool) -> None:
    """With a record of other versions, or with none: it is named, and its health is its own."""
    here = situation("good", history_minutes=20)
    if recorded:
        here.ship(here.build("good"))
        here.ask("advance", seconds=1200)
    version = here.publish(here.build("good", "3.0.0"))
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion=version)
    here.ask("advance", seconds=660)
    found = look(here)
    assert shown(found) == ("ALIAS MOVED", 0, STATUS)
    assert f"100 % v{version}" in found.verdict and "Another tool, or a person" in found.verdict
    assert "Find out who moved it" in found.steps[0].why


def test_no_traffic(situation: Bring) -> None:
    """Silence is unknown."""
    here = situation("good", history_minutes=60)
    here.ask("set", requests_per_minute=0)
    here.ask("advance", seconds=25 * 60)
    found = look(here)
    assert shown(found) == ("NO TRAFFIC", 1, STATUS) and "no requests for" in found.verdict
    carry_out(here, found.steps[1])
    here.ask("set", requests_per_minute=600)
    here.ask("advance", seconds=20 * 60)
    assert look(here).exit_code == 0


def delay(here: Situation, metric: str, seconds: float) -> None:
    """Let CloudWatch publish this metric, or all of them, so late."""
    here.ask("set", **({"metrics_delay_s": seconds} if metric == "all" else {"metrics_delays_s": {metric: seconds}}))


@pytest.mark.parametrize("metric", sampled(["Errors", "all"], slice(1)))
def test_metrics_are_late(situation: Bring, metric: str) -> None:
    """Not no traffic: the log has requests. The status again, once they have arrived: OK."""
    here = situation("good", history_minutes=60)
    delay(here, metric, 3600)
    here.ask("advance", seconds=30 * 60)
    found = look(here)
    assert shown(found) == ("METRICS LATE", 1, STATUS) and "since" in found.verdict
    delay(here, metric, 60)
    here.ask("advance", seconds=3 * 60)
    assert (look(here).word, look(here).exit_code) == ("OK", 0)


@pytest.mark.parametrize("fault", sampled(["no data", "actions disabled", "missing"], slice(1, 2)))
def test_alarms_are_blind(situation: Bring, fault: str) -> None:
    """Without data their states are unknown. Where they notify no person, OK has a warning."""
    here = situation("good", history_minutes=30)
    target = here.connect()
    plan = alarms.plan_alarms(target)
    alarms.write_alarms(target, plan, approve(target, plan))
    here.ask("advance", seconds=180)
    assert look(here).verdict.startswith("OK: Error rate: v1 ")
    name = plan.wanted[0]["AlarmName"]
    cloudwatch = here.client("cloudwatch")
    if fault == "no data":
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="INSUFFICIENT_DATA", StateReason="none")
    elif fault == "actions disabled":
        cloudwatch.put_metric_alarm(**{**plan.wanted[0], "ActionsEnabled": False})
        here.ask("advance", seconds=180)
    else:
        cloudwatch.delete_alarms(AlarmNames=[name])
    found = look(here)
    assert name in found.verdict
    (finding,) = [each for each in found.findings if each.check == "alarms"]
    assert finding.word == "ALARMS BLIND"
    if fault == "no data":
        assert shown(found) == ("ALARMS BLIND", 1, STATUS)
    else:
        assert (found.word, found.exit_code) == ("OK", 0) and "on-call would not be paged" in found.verdict
        assert any(step.runbook == "operations/alarms" for step in found.steps)
        plan = alarms.plan_alarms(target)
        alarms.write_alarms(target, plan, approve(target, plan))
    here.ask("advance", seconds=180)
    assert look(here).verdict.startswith("OK: Error rate: v1 ")


def test_frozen(situation: Bring) -> None:
    """By whom, until when, and how it is lifted."""
    here = situation("good", history_minutes=30)
    freeze = freezes.create_freeze(here.connect(), "a drill", "Ada's team", timedelta(hours=1))
    found = look(here)
    assert shown(found) == ("FROZEN", 0, f"buddy-ops unfreeze {freeze.id} -e sandbox")
    assert "Ada's team froze deployments until 01:32 UTC" in found.verdict and "a drill" in str(found)
    carry_out(here, found.steps[0])
    assert look(here).word == "OK"


def test_commands_are_quoted_for_the_shell() -> None:
    """A value with a space or a quote reaches the command as one word."""
    step = NextStep("", "operations/monitor", {"environment": "prod", "incident": "Ada's night; rm -rf /"})
    assert shlex.split(step.command)[-2:] == ["-p", "incident=Ada's night; rm -rf /"]
    short = NextStep("", "rollback/immediate", {"environment": "prod", "to_version": "41", "incident": "a b"})
    assert short.command == "buddy-ops rollback -e prod --to-version 41 --incident 'a b'"


def test_every_result_word_is_documented() -> None:
    """With its exit codes, in the table of the page."""
    page = (project.project_root() / "docs" / "first-screen.md").read_text("utf-8")
    for known in result_words.RESULT_WORDS:
        codes = ", ".join(map(str, known.exit_codes))
        assert f"| `{known.word}` | {codes} | {known.meaning} |" in page


def test_the_artifact_of_a_run_that_this_machine_has(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken from the run's own journal, and only where the file is there."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    for name in ("parameters", "notebooks"):
        (here.folder / name).symlink_to(project.project_root() / name)
    monkeypatch.chdir(here.folder)
    folder = here.folder / "runs" / "2026-11-02-canary-beef"
    folder.mkdir(parents=True)
    opened = {
        "kind": "opened",
        "run": "beef",
        "runbook": "canary",
        "environment": "sandbox",
        "at": "2026-11-02T00:00:00Z",
    }
    given = {"kind": "parameters", "values": {"artifact": "skill-2.zip"}, "at": "2026-11-02T00:00:01Z"}
    (folder / "journal.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (opened, given)))
    target = here.connect("status", quiet=True)
    assert find_artifact(target, "beef") == ("", "")
    (here.folder / "skill-2.zip").write_bytes(b"")
    assert find_artifact(target, "beef") == ("strategies/canary", "skill-2.zip")
