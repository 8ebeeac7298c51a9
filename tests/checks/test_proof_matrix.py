"""Misconfigurations, planted one at a time and together: the proof finds each, with its cure, and no other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from buddy_ops.checks import proof_report
from buddy_ops.checks.findings import Finding
from tests.checks import proving
from tests.checks.proving import ROLES, allow, document, trust
from tests.conftest import Situation

Bring = Callable[..., Situation]


def nothing(here: Situation) -> None:
    """The settings alone are wrong."""


@dataclass(frozen=True)
class Planted:
    """One misconfiguration.

    Attributes:
        finds: the check that finds it, and words of its message.
        cure: words of its remedy.
        also: other checks that find it, or that cannot be made because of it.
        settings: what is wrong in the environment's file.
        proposed: a line of the diff that corrects it.
        group: plantings of one group do not disturb each other.
    """

    finds: tuple[str, str]
    cure: str
    plant: Callable[[Situation], None] = nothing
    also: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    proposed: str = ""
    build: str = proving.BUILD
    group: int = 0


def policies(name: str, change: Callable[[dict[str, Any]], None], *more: str) -> Callable[[Situation], None]:
    """Change every statement of a role, and allow it more."""

    def plant(here: Situation) -> None:
        iam = here.client("iam")
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            content = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for statement in content["Statement"]:
                change(statement)
            iam.put_role_policy(
                RoleName=name, PolicyName=policy, PolicyDocument=document(*content["Statement"], *map(allow, more))
            )

    return plant


def without(name: str, action: str) -> Callable[[Situation], None]:
    """A role that lacks an action."""

    def drop(statement: dict[str, Any]) -> None:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        statement["Action"] = [each for each in actions if each != action] or ["none:None"]

    return policies(name, drop)


def with_(name: str, action: str) -> Callable[[Situation], None]:
    """A role that may do more."""
    return policies(name, lambda statement: None, action)


def trusts(name: str, **principal: str) -> Callable[[Situation], None]:
    return lambda here: here.client("iam").update_assume_role_policy(RoleName=name, PolicyDocument=trust(**principal))


def past_the_alias(here: Situation) -> None:
    here.client("lambda").add_permission(
        FunctionName=here.function, StatementId="a", Action="lambda:InvokeFunction", Principal="alexa-appkit.amazon.com"
    )


def configure(**changes: Any) -> Callable[[Situation], None]:
    """Another configuration of $LATEST, and of two versions."""

    def plant(here: Situation) -> None:
        for label in ("3.0.0", "4.0.0"):
            here.client("lambda").update_function_configuration(FunctionName=here.function, **changes)
            here.ask("advance", seconds=10)
            here.publish(here.build("good", label))

    return plant


def slow_timeout(here: Situation) -> None:
    here.client("lambda").update_function_configuration(FunctionName=here.function, Timeout=8)


def provision(here: Situation) -> None:
    here.client("lambda").put_provisioned_concurrency_config(
        FunctionName=here.function, Qualifier="live", ProvisionedConcurrentExecutions=1
    )
    here.ask("advance", seconds=180)


def no_queue(here: Situation) -> None:
    sqs = here.client("sqs")
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName="dead-letters")["QueueUrl"])


def no_listener(here: Situation) -> None:
    sns = here.client("sns")
    for each in sns.list_subscriptions_by_topic(TopicArn=proving.TOPIC)["Subscriptions"]:
        sns.unsubscribe(SubscriptionArn=each["SubscriptionArn"])


def delete_alarm(name: str) -> Callable[[Situation], None]:
    return lambda here: here.client("cloudwatch").delete_alarms(AlarmNames=[name])


def bucket(**options: Any) -> Callable[[Situation], None]:
    return lambda here: here.client("s3").create_bucket(Bucket="other-archive", **options)


def late(**delays: Any) -> Callable[[Situation], None]:
    return lambda here: here.ask("set", **delays)


OTHER = {"archive": {"where": "s3://other-archive"}}
ALARM = "buddy-ops-sandbox-lease-dead-letters"
SCRATCH = ("stale revision", "smallest weight", "cleared weights", "routing", "metric lag", "log query")
"""Probes that need the scratch alias."""

PLANTED = {
    "callers without the alias": Planted(("callers", "without the alias"), "ends in :live", past_the_alias, group=1),
    "timeout above Alexa's": Planted(("timeout", "8 s; Alexa waits"), "below 8 s", slow_timeout, group=1),
    "no failure metric": Planted(
        ("failure metrics", "UNGUARDED"), "settings.failure_metrics", settings={"failure_metrics": []}, group=2
    ),
    "failure metric misspelt": Planted(
        ("failure metrics", "Buddy/Apologys"), "Publish it", also=("metric lag",),
        settings={"failure_metrics": [{"namespace": "Buddy", "name": "Apologys"}]}, group=3,
    ),
    "all metrics late": Planted(
        ("metric lag", "later than health.late_data_s (120 s)"), "Set health.late_data_s to", late(metrics_delay_s=240),
        proposed="+    late_data_s: 3", group=1,
    ),
    "one metric late": Planted(
        ("metric lag", "Buddy/Apologies later"), "Set health.late_data_s to",
        late(metrics_delays_s={"Apologies": 240}), proposed="+    late_data_s: 3", group=4,
    ),
    "no failsafe role": Planted(("failsafe role", "does not exist"), "infrastructure.yaml", proving.delete_role, group=2),
    "failsafe role trusts another": Planted(
        ("failsafe role", "does not trust"), "infrastructure.yaml",
        trusts("buddy-ops-scheduler", Service="ec2.amazonaws.com"), also=("failsafe runs", "failsafe fails"),
    ),
    "failsafe role may not roll back": Planted(
        ("failsafe runs", "did not clear the weights"), "may call lambda:UpdateAlias",
        without("buddy-ops-scheduler", "lambda:UpdateAlias"), group=1,
    ),
    "failsafe role may not write the queue": Planted(
        ("failsafe fails", "did not arrive"), "sqs:SendMessage", without("buddy-ops-scheduler", "sqs:SendMessage"),
        group=4,
    ),
    "no dead-letter queue set": Planted(
        ("failsafe fails", "no dead-letter queue"), "lease.dead_letter_arn", also=("dead-letter queue",),
        settings={"lease": {"dead_letter_arn": None}}, proposed=f'+    dead_letter_arn: "{proving.QUEUE}"', group=2,
    ),
    "dead-letter queue deleted": Planted(("failsafe fails", "does not exist"), "lease.dead_letter_arn", no_queue),
    "no alarm on the queue": Planted(
        ("failsafe fails", "no alarm watches"), "infrastructure.yaml", delete_alarm(ALARM), group=3
    ),
    "the queue's alarm notifies no one": Planted(
        ("failsafe fails", "notifies no one"), "AlarmActions",
        lambda here: proving.watch_queue(here, AlarmActions=[]), group=1,
    ),
    "schedule group missing": Planted(
        ("failsafe runs", "ResourceNotFoundException"), "lease.group", also=("failsafe fails",),
        settings={"lease": {"group": "elsewhere"}},
    ),
    "no topic set": Planted(
        ("alarm delivery", "alarms notify no one"), "alarms.topic_arn", also=("alarms",),
        settings={"alarms": {"topic_arn": None}}, proposed=f'+    topic_arn: "{proving.TOPIC}"', group=4,
    ),
    "nobody subscribed": Planted(("alarm delivery", "no confirmed subscription"), "Subscribe", no_listener, group=2),
    "topic deleted": Planted(
        ("alarm delivery", "does not exist"), "alarms.topic_arn",
        lambda here: here.client("sns").delete_topic(TopicArn=proving.TOPIC), group=3,
    ),
    "an alarm missing": Planted(
        ("alarms", "does not exist"), "operations/alarms", delete_alarm("buddy-alexa-skill-sandbox-error-rate"), group=1
    ),
    "provisioned concurrency on the alias": Planted(
        ("provisioned", "1 on buddy-alexa-skill-sandbox:live, READY"), "Provision versions", provision, group=2
    ),
    "reports are not logged": Planted(
        ("log query", "has no report of the request that ran on v4"), "SystemLogLevel INFO",
        configure(LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "WARN"}), also=("log group",), group=2,
    ),
    "reader may shift traffic": Planted(
        ("role reader", "may do lambda:UpdateAlias"), "detach", with_("buddy-ops-sandbox-reader", "lambda:UpdateAlias"),
        group=1,
    ),
    "auditor cannot be assumed": Planted(
        ("role auditor", "may not assume"), "TrustedPrincipals",
        trusts("buddy-ops-sandbox-auditor", AWS="arn:aws:iam::123456789012:role/other"), group=2,
    ),
    "responder may publish code": Planted(
        ("role responder", "may do lambda:PublishVersion"), "detach",
        with_("buddy-ops-sandbox-responder", "lambda:PublishVersion"), group=1,
    ),
    "deployer may not shift traffic": Planted(
        ("role deployer", "was denied lambda:UpdateAlias"), "Deploy infrastructure.yaml",
        without("buddy-ops-sandbox-deployer", "lambda:UpdateAlias"), group=1,
    ),
    "deployer may lift a freeze": Planted(
        ("role deployer", "ssm:DeleteParameter of a freeze"), "detach",
        with_("buddy-ops-sandbox-deployer", "ssm:DeleteParameter"), group=3,
    ),
    "records can be overwritten": Planted(
        ("role responder", "ssm:PutParameter over a record"), "detach",
        policies("buddy-ops-sandbox-responder", lambda statement: statement.pop("Condition", None)), group=2,
    ),
    "no archive set": Planted(
        ("archive", "stay in runs/"), "archive.where", also=("archive bucket",),
        settings={"archive": {"where": ""}}, group=4,
    ),
    "archive without Object Lock": Planted(
        ("archive bucket", "no Object Lock"), "archive.where", bucket(), also=("archive",), settings=OTHER, group=1
    ),
    "archive without retention": Planted(
        ("archive bucket", "without a default retention"), "Set a default retention",
        bucket(ObjectLockEnabledForBucket=True), settings=OTHER, group=2,
    ),
    "archive missing": Planted(
        ("archive", "NoSuchBucket"), "archive.where", also=("archive bucket",), settings=OTHER, group=3
    ),
    "build missing": Planted(
        ("build bucket", "NoSuchKey"), "upload the build", build=f"s3://{proving.BUILDS}/none.zip", also=("build",), group=1
    ),
    "deployer may not read builds": Planted(
        ("build bucket", "may not read"), "BuildBucketName", without("buddy-ops-sandbox-deployer", "s3:GetObject"),
        group=2,
    ),
    "Slack's variable unset": Planted(
        ("channels", "BUDDY_SLACK"), "Set BUDDY_SLACK", settings={"notify": {"slack_webhook": "env:BUDDY_SLACK"}}, group=1
    ),
}  # fmt: skip

GROUPS = (1, 2, 3, 4)


def found_in(situation: Bring, *planted: Planted) -> tuple[dict[str, Finding], str]:
    """What a proof finds wrong in an account with these, and the settings that it proposes."""
    here = situation("good", **proving.CALM)
    proving.set_up(here)
    changes: dict[str, Any] = {}
    for each in planted:
        each.plant(here)
        for part, fields in each.settings.items():
            changes[part] = {**changes.get(part, {}), **fields} if isinstance(fields, dict) else fields
    builds = {each.build for each in planted} - {proving.BUILD} or {proving.BUILD}
    mine = proving.connect(here, **changes)
    found = proving.prove(mine, build=builds.pop())
    assert not here.client("scheduler").list_schedules()["Schedules"]
    proposed = proof_report.propose_settings(mine, list(found.values()))
    wrong = {name: each for name, each in found.items() if each.state not in ("ok", "info")}
    return {**wrong, **{name: found[name] for each in planted for name in each.also}}, proposed


def must_be_found(planted: Planted, found: dict[str, Finding], proposed: str) -> None:
    check, words = planted.finds
    assert check in found, (check, sorted(found))
    assert words in found[check].message and planted.cure in found[check].remedy, found[check]
    assert planted.proposed in proposed


@pytest.mark.whole
@pytest.mark.parametrize("name", PLANTED)
def test_one_misconfiguration_is_found_with_its_cure_and_no_other(situation: Bring, name: str) -> None:
    """Exactly the checks that it concerns are not OK."""
    planted = PLANTED[name]
    found, proposed = found_in(situation, planted)
    must_be_found(planted, found, proposed)
    assert found.keys() == {planted.finds[0], *planted.also}
    if not planted.proposed:
        assert proposed == ""


@pytest.mark.parametrize("group", [1, *(pytest.param(each, marks=pytest.mark.whole) for each in GROUPS[1:])])
def test_many_misconfigurations_are_found_at_once(situation: Bring, group: int) -> None:
    """None hides another."""
    chosen = [each for each in PLANTED.values() if each.group == group]
    found, proposed = found_in(situation, *chosen)
    for planted in chosen:
        must_be_found(planted, found, proposed)
    assert found.keys() == {name for each in chosen for name in (each.finds[0], *each.also)}


def test_at_least_20_are_planted() -> None:
    """Of every kind of finding that a proof has, each role and each setting that it proposes."""
    assert len(PLANTED) >= 20
    assert {f"role {name}" for name in ROLES} <= {each.finds[0] for each in PLANTED.values()}
    assert sum(bool(each.proposed) for each in PLANTED.values()) >= 3
