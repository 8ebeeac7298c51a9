"""The runbooks of an incident, as people and CI run them: each in a process of its own, judged by the sandbox's state."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops.core.text import parse_utc
from buddy_ops.deployment import rollout
from tests.checks.test_readiness import ready
from tests.conftest import Situation, abandon
from tests.system.runbooks.test_runbooks import execute, executed, pictures, progress, report, run, told_once, writes

Bring = Callable[..., Situation]


def begun(here: Situation, profile: str = "good") -> None:
    """A canary at 10 %, whose run is gone."""
    mine = here.connect("canary")
    plan = rollout.plan_rollout(mine, here.build(profile))
    abandon(mine, plan)
    mine.close()


# rollback/gradual


def test_gradual_takes_the_share_away_in_steps(situation: Bring) -> None:
    """Under stock papermill: two steps, stable serves alone at the end, no schedule stays, one picture tells of it."""
    here = situation("good")
    begun(here)
    out = here.folder / "out.ipynb"
    done = execute(
        *("papermill", "notebooks/rollback/gradual.ipynb", str(out), "-f", "parameters/sandbox.yaml"),
        *("-y", "{approved_by: [Ada], steps: [5, 0], step_minutes: 1}"),
    )
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    assert here.client("scheduler").list_schedules()["Schedules"] == []
    assert len(pictures(executed(out))) == 1


@pytest.mark.whole
def test_gradual_without_a_name_does_nothing(situation: Bring) -> None:
    """Refused, exit code 4; the share stays as it was, under the lease that was there."""
    here = situation("good")
    begun(here)
    before, written = here.alias(), writes(here)
    done = run("rollback/gradual")
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert here.alias()["RoutingConfig"] == before["RoutingConfig"] and writes(here) == written


def test_gradual_where_nothing_is_under_way_names_the_right_runbook(situation: Bring) -> None:
    """One version alone: refused with exit code 4 before anybody is asked."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    done = run("rollback/gradual", approved_by=["Ada"])
    assert done.returncode == 4
    told_once(done.stderr, "nothing-to-drain")
    assert "rollback/immediate" in done.stderr and writes(here) == []


@pytest.mark.whole
def test_gradual_takes_a_failing_version_away_at_once(situation: Bring) -> None:
    """A build that fails everything does not get its fifteen minutes at 5 %: the judge's first word ends it."""
    here = situation("total_failure")
    begun(here, "total_failure")
    began = here.ask("status")["now"]
    done = run("rollback/gradual", steps=[5], step_minutes=15, approved_by=["Ada"])
    assert done.returncode == 0, done.stderr
    assert "RoutingConfig" not in here.alias() and here.alias()["FunctionVersion"] == "1"
    back = parse_utc(json.loads(here.alias()["Description"])["since"]).timestamp()
    assert back - began < 6 * 60
    assert "The remaining traffic was moved at once: " in str(executed(report(done).parent / "notebook.ipynb"))


# operations/alarms


def wired(here: Situation) -> tuple[dict[str, Any], str]:
    """Settings whose alarms tell a topic, and the queue that hears it."""
    topic = here.client("sns").create_topic(Name="buddy-ops-sandbox")["TopicArn"]
    queue = here.client("sqs").create_queue(QueueName="pager")["QueueUrl"]
    arn = "arn:aws:sqs:us-east-1:123456789012:pager"
    here.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    given = here.connect(quiet=True).settings.model_dump(mode="json")
    given["alarms"]["topic_arn"] = topic
    return given, queue


def heard(here: Situation, queue: str) -> list[dict[str, Any]]:
    """What the queue got through the topic."""
    found = here.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(json.loads(each["Body"])["Message"]) for each in found]


def test_alarms_are_written_and_heard(situation: Bring) -> None:
    """All four are there afterwards, and each one's test, which says that it is one, ended in the pager's queue."""
    here = situation("good")
    given, queue = wired(here)
    done = run("operations/alarms", settings=given, approved_by=["Ada"], test_alarm="all")
    assert done.returncode == 0, done.stderr
    there = here.client("cloudwatch").describe_alarms()["MetricAlarms"]
    messages = heard(here, queue)
    assert len(there) == 4 and {each["AlarmName"] for each in messages} == {each["AlarmName"] for each in there}
    assert all(each["NewStateReason"].startswith("TEST") for each in messages)
    (line,) = progress(executed(report(done).parent / "notebook.ipynb"), "cell-14")
    assert line.endswith(": 4 of 4, up to a minute each")


def test_alarms_without_a_name_are_not_written(situation: Bring) -> None:
    """Refused, exit code 4: no alarm, and nobody was disturbed."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    given, queue = wired(here)
    done = run("operations/alarms", settings=given, test_alarm="all")
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert here.client("cloudwatch").describe_alarms()["MetricAlarms"] == [] and heard(here, queue) == []


@pytest.mark.whole
def test_alarms_that_reach_nobody_end_with_1(situation: Bring) -> None:
    """The alarms are written all the same; the error names each that proved nothing."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    done = run("operations/alarms", approved_by=["Ada"], test_alarm=f"{here.function}-error-rate")
    assert done.returncode == 1
    told_once(done.stderr, "alarm-silent")
    assert len(here.client("cloudwatch").describe_alarms()["MetricAlarms"]) == 4


# emergency/deployment_failure


def frozen(here: Situation) -> list[str]:
    """The freezes that stand, as SSM has them."""
    return [
        each["Value"]
        for each in here.client("ssm").get_parameters_by_path(Path="/buddy-ops/buddy-alexa-skill-sandbox/live/freeze")[
            "Parameters"
        ]
    ]


def records(here: Situation) -> list[str]:
    return [
        each["Name"]
        for each in here.client("ssm").get_parameters_by_path(
            Path="/buddy-ops/buddy-alexa-skill-sandbox/live/records", Recursive=True
        )["Parameters"]
    ]


def test_a_failed_deployment_is_rolled_back_told_and_reviewed(situation: Bring) -> None:
    """Frozen, taken back, recovered, told to the team, and the review's date noted: exit code 0."""
    here = situation("total_failure")
    begun(here, "total_failure")
    here.ask("advance", seconds=300)
    given, queue = wired(here)
    given["notify"] = {"topic_arn": given["alarms"]["topic_arn"]}
    done = run(
        "emergency/deployment_failure", settings=given, decision="roll back", incident="INC-7", approved_by=["Ada"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1" and "RoutingConfig" not in here.alias()
    assert len(frozen(here)) == 1 and "Ada" in frozen(here)[0] and len(records(here)) == 1
    messages = here.client("sqs").receive_message(QueueUrl=queue)["Messages"]
    assert "RECOVERED: v1" in json.loads(messages[0]["Body"])["Message"]
    document = executed(report(done).parent / "notebook.ipynb")
    assert "InjectedError" in str(document) and "Recommended: roll back" in str(document)
    (searched,), (waited,) = progress(document, "assess"), progress(document, "recovered")
    assert searched.startswith(f"Searching the log /aws/lambda/{here.function}") and waited.endswith(" minutes to go")


@pytest.mark.whole
def test_a_failed_deployment_without_a_decision_holds(situation: Bring) -> None:
    """Deployments are frozen, the traffic stays as it is: exit code 4 says what is recommended."""
    here = situation("total_failure")
    begun(here, "total_failure")
    before = here.alias()["RevisionId"]
    done = run("emergency/deployment_failure", approved_by=["Ada"])
    assert done.returncode == 4
    told_once(done.stderr, "decision-missing")
    assert here.alias()["RevisionId"] == before and len(frozen(here)) == 1 and records(here) == []


@pytest.mark.whole
def test_a_failed_deployment_without_a_name_changes_nothing(situation: Bring) -> None:
    """Refused at the first gate: nothing is frozen, whatever was decided."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    done = run("emergency/deployment_failure", decision="roll back")
    assert done.returncode == 4
    told_once(done.stderr, "approval-missing")
    assert frozen(here) == [] and writes(here) == []


@pytest.mark.whole
def test_a_failed_deployment_with_nothing_to_return_to_says_so(situation: Bring) -> None:
    """The first version ever: rolling back is refused, exit code 4, and fixing forward is what is recommended."""
    here = situation("total_failure", stable="total_failure", history_minutes=10)
    done = run("emergency/deployment_failure", decision="roll back", approved_by=["Ada"])
    assert done.returncode == 4
    told_once(done.stderr, "no-rollback-target")
    assert here.alias()["FunctionVersion"] == "1" and len(frozen(here)) == 1


# operations/monitor


def test_monitor_draws_one_picture_and_ends(situation: Bring) -> None:
    """Headless, with watch_minutes as they are: one picture, the table with its bold value, no time passes, no write."""
    here = situation("good", stable="errors_5_percent", history_minutes=30)
    before = here.ask("status")["now"]
    done = run("operations/monitor", minutes=20)
    assert done.returncode == 0, done.stderr
    document = executed(report(done).parent / "notebook.ipynb")
    assert len(pictures(document)) == 1 and writes(here) == []
    assert here.ask("status")["now"] - before < 60
    assert "**5" in str(document) or "**4" in str(document)


@pytest.mark.whole
def test_monitor_refuses_a_window_that_cannot_be(situation: Bring) -> None:
    """Exit code 2, and CloudWatch was not asked."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    done = run("operations/monitor", until="yesterday")
    assert done.returncode == 2
    told_once(done.stderr, "invalid-parameters")
    assert here.calls("GetMetricData") == []


@pytest.mark.whole
def test_monitor_says_what_it_could_not_read(situation: Bring) -> None:
    """Without metrics it ends with 0, draws what there is, and calls nothing healthy."""
    here = situation("good", history_minutes=10)
    here.ask("chaos", kind="denied", operation="GetMetricData", times=1_000_000)
    done = run("operations/monitor", minutes=5)
    here.ask("chaos")
    assert done.returncode == 0, done.stderr
    text = str(executed(report(done).parent / "notebook.ipynb"))
    assert "may not call" in text or "AccessDenied" in text


# review/readiness_audit


@pytest.mark.whole
def test_audit_of_a_ready_environment_ends_with_0(situation: Bring) -> None:
    """One verdict, and no write."""
    here, target = ready(situation)
    before = writes(here)
    done = run("review/readiness_audit", settings=target.settings.model_dump(mode="json"))
    assert done.returncode == 0, done.stderr
    assert [each for each in writes(here) if each != "Invoke"] == [each for each in before if each != "Invoke"]
    document = executed(report(done).parent / "notebook.ipynb")
    assert "READY: " in str(document)
    assert progress(document, "look") == ["checking rehearsal"]


def test_audit_of_a_bare_environment_ends_with_1(situation: Bring) -> None:
    """Nothing to return to, no alarms, nobody listening: exit code 1, each problem with its runbook."""
    situation("good", requests_per_minute=0, history_minutes=0)
    done = run("review/readiness_audit")
    assert done.returncode == 1
    told_once(done.stderr, "not-ready")
    assert all(each in done.stderr for each in ("rollback target", "alarm subscribers", "operations/alarms"))


@pytest.mark.whole
def test_audit_for_a_role_that_is_none_ends_with_2(situation: Bring) -> None:
    """A role that nobody has is told as wrong, before anything is looked at."""
    here = situation("good", requests_per_minute=0, history_minutes=0)
    done = run("review/readiness_audit", role="root")
    assert done.returncode == 2
    told_once(done.stderr, "invalid-parameters")
    assert here.calls("DescribeAlarms") == []


# review/incident_review


@pytest.mark.whole
def test_an_incident_is_put_together_from_its_archived_run(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary that was taken back, archived by buddy-ops run: timeline, one picture, and a draft that is kept."""
    here = situation("total_failure")
    since = here.ask("status")["time"]
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "archive" / "shipped"))
    shipped = run("strategies/canary", artifact=here.build("total_failure"), approved_by=["Ada"])
    assert shipped.returncode == 3
    kept = report(shipped).parent
    draft = here.folder / "post-mortem.md"
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "archive" / "reviewed"))
    done = run(
        "review/incident_review", since=since, until=here.ask("status")["time"], archive=str(kept.parent), draft=str(draft)
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = draft.read_text("utf-8")
    assert (
        kept.name in text and "v2 was rolled back" in text and "Responders: Ada" in text and "time to mitigate" in text
    )
    document = executed(report(done).parent / "notebook.ipynb")
    assert len(pictures(document)) == 1 and "verdict rollback" in str(document)


def test_an_incident_is_put_together_from_a_rollbacks_archive_alone(
    situation: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CloudWatch tells neither minutes nor alarms: the rollback's own journal has the failures, and whose they were."""
    here = situation("good")
    since = here.ask("status")["time"]
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "archive" / "back"))
    back = run("rollback/immediate", to_version="1", approved_by=["Ada"])
    assert back.returncode == 0, back.stderr
    kept = report(back).parent
    assert len(pictures(executed(kept / "notebook.ipynb"))) == 1
    draft = here.folder / "post-mortem.md"
    monkeypatch.setenv("BUDDY_OPS_RUN_FOLDER", str(here.folder / "archive" / "reviewed"))
    here.ask("chaos", kind="denied", operation="GetMetricData,DescribeAlarmHistory", times=1_000_000)
    window = {"since": since, "until": here.ask("status")["time"]}
    done = run("review/incident_review", **window, archive=str(kept.parent), draft=str(draft))
    here.ask("chaos")
    assert done.returncode == 0, done.stderr
    text = draft.read_text("utf-8")
    assert "from the archived journals" in text and "alarm history: " in text
    assert "| onset | unknown |" not in text and "| time to mitigate | unknown |" not in text
    assert len(pictures(executed(report(done).parent / "notebook.ipynb"))) == 1
    records = [json.loads(line) for line in (kept / "journal.jsonl").read_text("utf-8").splitlines()]
    (minutes,) = (each["rows"] for each in records if each["kind"] == "minutes")
    failed = {version: sum(seen[version][1] for _, seen in minutes) for version in ("1", "2")}
    assert failed["2"] > 10 * max(1, failed["1"])


def test_a_rollback_ends_well_without_metrics(situation: Bring) -> None:
    """CloudWatch refuses: the traffic is back, exit code 0, and the picture's place has a sentence."""
    here = situation("good", history_minutes=10)
    here.ship_by_hand("good")
    here.ask("chaos", kind="denied", operation="GetMetricData", times=1_000_000)
    done = run("rollback/immediate", to_version="1", approved_by=["Ada"])
    here.ask("chaos")
    assert done.returncode == 0, done.stderr
    assert here.alias()["FunctionVersion"] == "1"
    *_, last, _ = executed(report(done).parent / "notebook.ipynb")["cells"]
    assert "AWS refused cloudwatch:get_metric_data" in str(last["outputs"]) and "image/png" not in str(last["outputs"])


def test_an_incident_without_a_window_ends_with_2(situation: Bring) -> None:
    """Two times are wanted: refused, and nothing is read or written."""
    here = situation("good", history_minutes=0, requests_per_minute=0)
    done = run("review/incident_review")
    assert done.returncode == 2
    told_once(done.stderr, "invalid-parameters")
    assert writes(here) == []
