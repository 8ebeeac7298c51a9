"""Whether a rollback would work, against the sandbox: what is broken there is found, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.aws.session import Target
from buddy_ops.checks import readiness
from buddy_ops.checks.readiness import Audit
from buddy_ops.core.errors import BuddyError
from buddy_ops.health import alarms
from buddy_ops.runs import archive
from tests.checks.test_setup import answering
from tests.conftest import Situation, approve, sampled
from tests.resilience.harness import promoted, publish

Bring = Callable[..., Situation]


def ready(bring: Bring, **more: Any) -> tuple[Situation, Target]:
    """Version 2 serves after version 1; alarms are there and heard; the table can be restored and not be deleted."""
    here = bring("good", requests_per_minute=0, history_minutes=0, **more)
    promoted(here)
    topic = here.client("sns").create_topic(Name="buddy-ops-sandbox")["TopicArn"]
    here.client("sqs").create_queue(QueueName="pager")
    here.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:us-east-1:123456789012:pager"
    )  # fmt: skip
    values = here.connect(quiet=True).settings.model_dump(mode="json")
    values["alarms"]["topic_arn"] = topic
    values["schema_range"] = "1"
    target = here.connect("readiness_audit", values=values)
    protect(here, target, on=True)
    plan = alarms.plan_alarms(target)
    alarms.write_alarms(target, plan, approve(target, plan))
    # Until they are evaluated for the first time, alarms have no data.
    here.ask("advance", seconds=120)
    return here, target


def protect(here: Situation, target: Target, on: bool) -> None:
    (table,) = (each.name for each in target.settings.tables)
    client = here.client("dynamodb")
    if table not in client.list_tables()["TableNames"]:
        keys = [("user_id", "HASH"), ("reminder_id", "RANGE")]
        client.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name, _ in keys],
            BillingMode="PAY_PER_REQUEST",
        )
    client.update_table(TableName=table, DeletionProtectionEnabled=on)
    client.update_continuous_backups(
        TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": on}
    )  # fmt: skip


def look(here: Situation, target: Target) -> Audit:
    return readiness.run_audit(target, where=str(here.folder / "archive"))


def states(found: Audit, *without: str) -> dict[str, str]:
    """What is not ok, by check."""
    return {each.check: each.state for each in found.findings if each.state != "ok" and each.check not in without}


EXPECTED = {
    "archive": "warning",
    "channels": "warning",
    "permissions": "info",
    "on-call permissions": "info",
    "dead-letter queue": "warning",
    "failure metrics": "warning",
    "streams": "warning",
    "log feed": "info",
    "rehearsal": "warning",
    "callers": "info",
}
"""The sandbox's IAM decides nothing; the log is text; no bucket, channel or dead-letter queue is configured, no run was archived, and no
request was measured."""


def test_a_ready_environment_is_ready(situation: Bring) -> None:
    """Everything in place: no problem, nothing unknown, and the verdict raises nothing."""
    here, target = ready(situation)
    found = look(here, target)
    assert states(found, "log group", "timeout") == EXPECTED
    assert [each.message for each in found.findings if each.check == "alarms complete"] == ["all 4 alarms configured"]
    readiness.raise_for_problems(found)
    assert str(found).startswith("READY: ") and "Rollback target v1 OK." in str(found)


def no_target(here: Situation, target: Target) -> None:
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", Description="")


def gone(here: Situation, target: Target) -> None:
    here.client("lambda").delete_function(FunctionName=here.function, Qualifier="1")


def outgrown(here: Situation, target: Target) -> None:
    item = {"user_id": {"S": "#schema"}, "reminder_id": {"S": "#schema"}, "version": {"N": "2"}}
    here.client("dynamodb").put_item(TableName=target.settings.tables[0].name, Item=item)


def muted(here: Situation, target: Target) -> None:
    here.client("cloudwatch").disable_alarm_actions(AlarmNames=[f"{here.function}-error-rate"])


def deleted(here: Situation, target: Target) -> None:
    here.client("cloudwatch").delete_alarms(AlarmNames=[f"{here.function}-latency-p99"])


def unheard(here: Situation, target: Target) -> None:
    sns = here.client("sns")
    for each in sns.list_subscriptions()["Subscriptions"]:
        sns.unsubscribe(SubscriptionArn=each["SubscriptionArn"])


def unprotected(here: Situation, target: Target) -> None:
    protect(here, target, on=False)


def split(here: Situation, target: Target) -> None:
    weights = {"AdditionalVersionWeights": {"1": 0.2}}
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", RoutingConfig=weights)


def forgotten(here: Situation, target: Target) -> None:
    value = json.dumps({"reason": "a release", "owner": "Ada", "expires": "2020-01-01T00:00:00Z"})
    here.client("ssm").put_parameter(
        Name="/buddy-ops/buddy-alexa-skill-sandbox/live/freeze/old1", Value=value, Type="String"
    )


def crowded(here: Situation, target: Target) -> None:
    for number in range(11):
        publish(here, f"3.{number}.0")
    here.ask("advance", seconds=25 * 3600)


def stacked(here: Situation, target: Target) -> None:
    client = here.client("lambda")
    arn = client.get_function(FunctionName=here.function)["Configuration"]["FunctionArn"]
    client.tag_resource(Resource=arn, Tags={"aws:cloudformation:stack-name": "buddy"})


@pytest.mark.parametrize(
    ("breaks", "check", "state", "runbook"),
    sampled(
        [
            (no_target, "rollback target", "problem", "strategies/canary"),
            (gone, "rollback target", "problem", "strategies/canary"),
            (outgrown, "rollback target", "problem", "strategies/canary"),
            (muted, "alarms complete", "problem", "operations/alarms"),
            (deleted, "alarms complete", "problem", "operations/alarms"),
            (unheard, "alarm subscribers", "problem", "operations/alarms"),
            (unprotected, "table buddy-reminders-sandbox", "problem", ""),
            (split, "alias", "problem", "rollback/immediate"),
            (forgotten, "stale freezes", "warning", "start_here"),
            (crowded, "versions", "warning", "operations/clean_up_versions"),
            (stacked, "owner", "warning", ""),
        ],
        slice(None, None, 3),
    ),
)
def test_what_is_broken_is_found(
    situation: Bring, breaks: Callable[[Situation, Target], None], check: str, state: str, runbook: str
) -> None:
    """Each thing that can be broken is one finding with its runbook; a problem makes the verdict, and nothing is written."""
    here, target = ready(situation)
    breaks(here, target)
    before = len([each for each in here.ask("calls")["calls"] if each["app"] == "buddy-ops"])
    found = look(here, target)
    assert states(found)[check] == state, found.findings
    (finding,) = (each for each in found.findings if each.check == check)
    assert finding.runbook == runbook and finding.remedy
    made = [each for each in here.ask("calls")["calls"] if each["app"] == "buddy-ops"][before:]
    assert all(each["operation"].startswith(("Get", "List", "Describe", "Simulate", "Invoke")) for each in made)
    if state == "problem":
        with pytest.raises(BuddyError, match="not-ready") as told:
            readiness.raise_for_problems(found)
        assert check in told.value.what and runbook in told.value.next


@pytest.mark.parametrize(
    ("operation", "check"),
    sampled(
        [
            ("DescribeContinuousBackups", "table buddy-reminders-sandbox"),
            ("ListSubscriptionsByTopic", "alarm subscribers"),
            ("GetRole", "failsafe role"),
            ("ListAliases", "versions"),
        ],
        slice(1),
    ),
)
def test_what_could_not_be_checked_is_not_ready(situation: Bring, operation: str, check: str) -> None:
    """It may hide what stops a rollback: UNKNOWN, exit code 1, and each check with its reason."""
    here, target = ready(situation)
    here.ask("chaos", kind="denied", operation=operation, times=10_000)
    found = look(here, target)
    here.ask("chaos")
    assert states(found)[check] == "unknown" and found.problems == ()
    assert str(found).startswith(f"UNKNOWN: {check} could not be checked") and "Rollback target v1" in str(found)
    with pytest.raises(BuddyError, match="readiness-unknown") as told:
        readiness.raise_for_problems(found)
    assert (
        told.value.exit_code == 1
        and f"{check}: " in told.value.what
        and operation.lower() in (told.value.what.replace("_", ""))
    )
    found = look(here, target)
    readiness.raise_for_problems(found)


def test_problems_and_what_is_unknown_are_both_named(situation: Bring) -> None:
    """The verdict is NOT READY, and says what else may be wrong."""
    here, target = ready(situation)
    unheard(here, target)
    here.ask("chaos", kind="denied", operation="DescribeContinuousBackups", times=10_000)
    found = look(here, target)
    here.ask("chaos")
    assert str(found).startswith(
        "NOT READY: 1 problem (alarm subscribers). Not checked: table buddy-reminders-sandbox."
    )
    # Alarms that notify no one make no rollback impossible.
    assert str(found).endswith("Rollback target v1 OK.")
    with pytest.raises(BuddyError, match="not-ready"):
        readiness.raise_for_problems(found)


def test_a_version_that_fails_its_smoke_tests_is_no_way_back(situation: Bring) -> None:
    """The version to return to is asked itself: one that fails everything is a problem before it is needed."""
    here, target = ready(situation, stable="total_failure")
    found = look(here, target)
    assert states(found)["smoke tests"] == "problem"


def test_the_last_rehearsal_is_the_archives(situation: Bring, tmp_path: Path) -> None:
    """An archived rollback of this environment that went well counts, by its date; another's, or a dry run, does not."""
    here, target = ready(situation)
    ended = target.clock.now().isoformat()
    facts = {
        "v": 1, "run": "7f3a", "runbook": "rollback/immediate", "environment": "sandbox", "began": ended, "ended": ended,
        "outcome": "done", "exit_code": 0, "people": [], "principal": "", "incident": "", "parameters": {}, "files": {},
    }  # fmt: skip
    for number, change in enumerate(({"environment": "prod"}, {"parameters": {"dry_run": True}}, {"exit_code": 4})):
        shelve(here, facts | change, f"run-{number}")
    assert states(look(here, target))["rehearsal"] == "warning"
    shelve(here, facts, "run-9")
    assert "rehearsal" not in states(look(here, target))


def shelve(here: Situation, facts: dict[str, Any], folder: str) -> None:
    path = here.folder / "archive" / folder
    path.mkdir(parents=True)
    archive.append_to_chain(path, facts | {"folder": folder})


def test_those_on_call_are_looked_at_by_their_own_role(situation: Bring) -> None:
    """Whoever runs the audit, what a responder lacks is a problem: IAM is asked about the responder's role."""
    here, target = ready(situation)
    asked = answering(target, UpdateAlias="implicitDeny")
    found = look(here, target)
    assert states(found)["on-call permissions"] == "problem" and "permissions" not in states(found)
    sources = {each["PolicySourceArn"].rsplit("/", 1)[-1] for each in asked}
    assert "buddy-ops-sandbox-responder" in sources and len(sources) == 2
