"""The probes of a proof: each tries one thing on the real account, on scratch resources, and finds whether it works.

A probe is a generator that yields when to continue and returns its finding: while one waits, the others go on. What a
probe creates is named in ``_scratch``, which deletes it.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from buddy_ops.aws import dead_letters, failsafe, permissions, versions
from buddy_ops.aws._parameter_names import parameter_name
from buddy_ops.aws.session import Target
from buddy_ops.checks._scratch import MARK_TEXT, Scratch, scratch_of
from buddy_ops.checks.findings import CheckContext, Finding, NotMeasured, info, ok, problem, unknown, warning
from buddy_ops.core import text
from buddy_ops.core.errors import AccessDenied, AlreadyExists, AwsFailed, Conflict, NotFound, Refused
from buddy_ops.core.roles import Role
from buddy_ops.core.settings import AlexaTest, SmokeTest
from buddy_ops.deployment import smoke_tests
from buddy_ops.health import alarms, logs, metrics

if TYPE_CHECKING:
    from types_boto3_lambda.type_defs import AliasConfigurationResponseTypeDef

Steps = Generator[datetime, None, Finding]
SECOND = timedelta(seconds=1)

SMALLEST_WEIGHT = 0.0005
"""The share of a first stage at high traffic: 0.05 %."""

ROUTED_WITHIN = timedelta(seconds=60)
"""A switched alias that still runs the version before after this long: a rollback would take as long."""

METRIC_POLL = timedelta(seconds=15)
METRICS_WITHIN = timedelta(minutes=7)
"""For how long metrics are waited for: a proof ends within 10 min."""

LOGGED_WITHIN = timedelta(minutes=4)
ARRIVES_WITHIN = 5
"""Minutes in which the message of a failed schedule must be in the dead-letter queue."""

DEPTH = "ApproximateNumberOfMessagesVisible"


@dataclass
class Proof:
    """A proof in progress: what its probes share.

    Attributes:
        build: where a build to ship is, s3://bucket/key; empty: not given.
        sent: when each request to the scratch alias was sent.
    """

    context: CheckContext
    build: str = ""
    sent: list[datetime] = field(default_factory=list)

    @property
    def target(self) -> Target:
        """Where it runs."""
        return self.context.target

    @property
    def scratch(self) -> Scratch:
        """The names of what is created."""
        return scratch_of(self.target)

    @cached_property
    def versions(self) -> tuple[str, str]:
        """The two newest published versions that can serve, the older one first.

        AWS: lambda:ListVersionsByFunction, GetFunctionConfiguration.

        Raises:
            NotMeasured: there are fewer.
        """
        newer = ""
        # Newest first, each read by itself: a list of versions does not have their states.
        for listed in reversed(versions.list_versions(self.target)):
            if versions.read_version(self.target, listed.number).usable:
                if newer:
                    return listed.number, newer
                newer = listed.number
        raise NotMeasured("an alias is split between two versions, and fewer are published and active")

    @cached_property
    def revision(self) -> str:
        """The scratch alias's RevisionId when it was created, at the first use. AWS: lambda:CreateAlias."""
        first, _ = self.versions
        reply = self.target.client("lambda").create_alias(
            FunctionName=self.target.settings.function,
            Name=self.scratch.alias,
            FunctionVersion=first,
            Description="scratch alias of buddy-ops doctor --prove: delete it",
        )
        return reply["RevisionId"]

    def update(self, version: str, weights: dict[str, float], *, guard: str = "") -> None:
        """Update the scratch alias, which exists from its first use on. AWS: lambda:CreateAlias, UpdateAlias.

        Args:
            guard: the RevisionId that it must have; empty: any.
        """
        _ = self.revision
        where = {"FunctionName": self.target.settings.function, "Name": self.scratch.alias}
        if guard:
            where["RevisionId"] = guard
        self.target.client("lambda").update_alias(
            **where, FunctionVersion=version, RoutingConfig={"AdditionalVersionWeights": weights}
        )

    def read(self) -> "AliasConfigurationResponseTypeDef":
        """The scratch alias. AWS: lambda:GetAlias."""
        return self.target.client("lambda").get_alias(
            FunctionName=self.target.settings.function, Name=self.scratch.alias
        )

    def role_arn(self, role: str) -> str:
        """The ARN of a role of infrastructure.yaml."""
        fields = self.context.arn_fields
        return f"arn:{fields['partition']}:iam::{fields['account']}:role/buddy-ops-{self.target.environment}-{role}"


@dataclass(frozen=True)
class Probe:
    """One probe of a proof.

    Attributes:
        calls: what it calls that writes, as plans show it.
        minutes: how long it takes at most.
    """

    name: str
    run: Callable[[Proof], Steps]
    calls: tuple[str, ...] = ()
    minutes: int = 0


def at_once(check: Callable[[Proof], Finding]) -> Callable[[Proof], Steps]:
    """A probe that waits for nothing."""

    def steps(proof: Proof) -> Steps:
        # A generator, as the others, that never yields.
        yield from ()
        return check(proof)

    return steps


# The alias


def stale_revision(proof: Proof) -> Finding:
    """Whether Lambda refuses a write over one that its sender has not seen."""
    first, second = proof.versions
    stale = proof.revision
    # This write is current, and gives the alias another revision.
    proof.update(first, {second: SMALLEST_WEIGHT}, guard=stale)
    try:
        proof.update(first, {}, guard=stale)
    except Conflict:
        return ok("a write with an outdated RevisionId was refused")
    return problem("a write with an outdated RevisionId was accepted", "Do not run two rollouts at once. Ask AWS.")


def smallest_weight(proof: Proof) -> Finding:
    """Whether an alias keeps a weight of 0.05 % as it is."""
    first, second = proof.versions
    proof.update(first, {second: SMALLEST_WEIGHT})
    kept = proof.read().get("RoutingConfig", {}).get("AdditionalVersionWeights", {}).get(second)
    if kept == SMALLEST_WEIGHT:
        return ok("an alias keeps a weight of 0.05 %")
    return problem(
        f"a weight of 0.05 % was kept as {kept}",
        "Remove rollout.ramp from the environment's file: a canary then begins with its first stage.",
    )


def cleared_weights(proof: Proof) -> Finding:
    """Whether an empty map clears the weights: a rollback in one write depends on it."""
    first, second = proof.versions
    proof.update(first, {second: 0.5})
    proof.update(first, {})
    left = proof.read().get("RoutingConfig", {}).get("AdditionalVersionWeights")
    if left:
        return problem(f"an empty map left the weights {left}", "No rollback would work. Ask AWS.")
    return ok("an empty map clears the weights")


def routing(proof: Proof) -> Finding:
    """How long a switched alias still runs the version before, by requests to the scratch alias."""
    target = proof.target
    tests = target.settings.smoke_tests
    if not tests:
        return unknown("no smoke test is configured, so no request was sent", "Set settings.smoke_tests.")
    # A session that ended changes nothing and is answered with nothing.
    ended = (each for each in tests if isinstance(each, AlexaTest) and each.request == "SessionEndedRequest")
    test = next(ended, tests[0])
    first, second = proof.versions
    proof.update(second, {})
    switched = target.clock.now()
    while (ran := _invoke(proof, test)) != second:
        if target.clock.now() - switched >= ROUTED_WITHIN:
            limit = text.duration(ROUTED_WITHIN)
            return problem(
                f"{limit} after the switch to v{second}, requests still ran on v{ran}",
                "A rollback would take as long. Ask AWS.",
            )
        target.clock.sleep_until(target.clock.now() + SECOND)
    took = text.duration(proof.sent[-1] - switched)
    return ok(f"v{first} to v{second} took {took}, by {text.count(len(proof.sent), 'request')}")


def _invoke(proof: Proof, test: SmokeTest) -> str:
    """Send one request to the scratch alias; the version that ran it."""
    proof.sent.append(proof.target.clock.now())
    event = smoke_tests.event_of(proof.target, test)
    return versions.invoke(proof.target, proof.scratch.alias, event, within_s=test.within_s).version


def provisioned(proof: Proof) -> Finding:
    """Whether the alias has provisioned concurrency, and in which state it is."""
    target = proof.target
    pages = target.client("lambda").get_paginator("list_provisioned_concurrency_configs")
    for page in pages.paginate(FunctionName=target.settings.function):
        for config in page["ProvisionedConcurrencyConfigs"]:
            if not config["FunctionArn"].endswith(f":{target.settings.alias}"):
                continue
            message = f"{config['RequestedProvisionedConcurrentExecutions']} on {target.resource}, {config['Status']}"
            if config["Status"] == "FAILED":
                return problem(f"{message}: {config.get('StatusReason', '')}", "Correct it, or delete it.")
            return warning(
                f"{message}: after a switch AWS keeps the traffic on the version before until it has allocated it",
                "A rollback of promoted traffic takes minutes. Provision versions by their numbers, or delete it.",
            )
    return ok("none on the alias")


# Metrics and log


def _requests(proof: Proof) -> list[datetime]:
    """When the requests to the scratch alias were sent.

    Raises:
        NotMeasured: none was.
    """
    if not proof.sent:
        raise NotMeasured("no request could be sent to the scratch alias: see routing")
    return proof.sent


def metric_lag(proof: Proof) -> Steps:
    """How late each metric counts the requests that were sent, against ``late_data_s``."""
    target = proof.target
    sent = _requests(proof)
    since = text.floor_minute(sent[0])
    until = text.floor_minute(sent[-1]) + text.MINUTE
    # Lambda publishes the metrics of an alias by the name that was called.
    scratch = replace(target, settings=target.settings.model_copy(update={"alias": proof.scratch.alias}))
    lags: dict[str, timedelta] = {}
    unseen: list[str] = []
    while True:
        now = target.clock.now()
        counted = metrics.count_samples(scratch, since, until)
        for name, requests in counted.items():
            if requests >= len(sent):
                # A request at the very end of a minute is counted so much after the minute.
                lags.setdefault(name, now - sent[-1])
        unseen = [name for name in counted if name not in lags]
        if not unseen or now - sent[-1] >= METRICS_WITHIN:
            break
        yield now + METRIC_POLL
    return _lag_finding(target, lags, unseen)


def _lag_finding(target: Target, lags: dict[str, timedelta], unseen: list[str]) -> Finding:
    assumed_s = target.settings.health.late_data_s
    told = ", ".join(f"{name} {lag.total_seconds():.0f} s" for name, lag in lags.items())
    # CloudWatch is polled each ``METRIC_POLL``: a metric was there for so long at most when it was first seen.
    late = {name: lag for name, lag in lags.items() if lag > timedelta(seconds=assumed_s) + METRIC_POLL}
    failures = {metric.full_name for metric in target.settings.failure_metrics}
    if late:
        # In whole half minutes, with one to spare.
        needed_s = (int(max(late.values()).total_seconds()) // 30 + 2) * 30
        return problem(
            f"{text.join_words(late)} later than health.late_data_s ({assumed_s} s): {told}",
            f"Set health.late_data_s to {needed_s}. With less, rollouts read minutes that are not complete.",
            settings={"health.late_data_s": needed_s},
        )
    if set(unseen) - failures:
        message = f"{text.join_words(unseen)} did not count all requests within {text.duration(METRICS_WITHIN)}"
        return problem(message, "Rollouts cannot be judged now. Check CloudWatch's health in this region, run again.")
    if unseen:
        return unknown(
            f"{text.join_words(unseen)} did not count the requests to {target.resource}-prove; {told}",
            "Publish it with each request, 0 too, with FunctionName, Resource (of the invoked ARN) and "
            "ExecutedVersion. Check the names in settings.failure_metrics.",
        )
    return ok(f"{told} (late_data_s: {assumed_s} s)")


# Of the stream 2026/11/22/[7]6b29f5... the version 7.
REPORTS = (
    'filter @type = "REPORT" or @message like /"platform.report"/ '
    r"| parse @logStream /\[(?<version>[^\]]+)\]/ | stats count(*) as requests by version"
)
"""Lambda's reports by version, of logs in text and in JSON. Source: Lambda developer guide, log formats."""


def log_query(proof: Proof) -> Steps:
    """Whether a query of the log finds the reports of the requests that were sent."""
    target = proof.target
    sent = _requests(proof)
    _, newer = proof.versions
    groups = logs.groups_of(logs.read_log_configs(target, proof.versions))
    since = sent[0] - text.MINUTE
    found = 0
    while not found:
        rows = logs.query_log(target, REPORTS, since, target.clock.now() + text.MINUTE, groups=groups)
        # The last request ran on the newer version. Users' requests may have run on the other one.
        found = sum(int(row["requests"]) for row in rows if row.get("version") == newer)
        if target.clock.now() - sent[-1] >= LOGGED_WITHIN:
            break
        if not found:
            yield target.clock.now() + METRIC_POLL
    named = text.join_words(groups)
    if not found:
        return problem(
            f"{named} has no report of the request that ran on v{newer}",
            "Check the LoggingConfig of the versions: log group, and SystemLogLevel INFO.",
        )
    return ok(f"{named}: the report of a request on v{newer} was found")


# The failsafe


def failsafe_fires(proof: Proof) -> Steps:
    """Whether a schedule of the failsafe's form and role clears the weights of an alias."""
    began = proof.target.clock.now()
    try:
        yield from failsafe.prove_failsafe(proof.target, *proof.versions)
    except Refused as refusal:
        return problem(refusal.what, refusal.next)
    except NotFound as failure:
        return problem(failure.what, "Create the schedule group, or correct lease.group.")
    took = text.duration(proof.target.clock.now() - began)
    return ok(f"the schedule {failsafe.schedule_name(proof.target)} would roll back: a test did within {took}")


def failsafe_fails(proof: Proof) -> Steps:
    """Whether the message of a failsafe that fails is in the dead-letter queue, and an alarm on it reaches people."""
    target = proof.target
    if not target.settings.lease.dead_letter_arn:
        # The template's queue may be there, and only the setting missing: then it is proposed.
        found = _template_queue(proof)
        changes: dict[str, object] = {}
        if found:
            changes["lease.dead_letter_arn"] = found
        return warning(
            "no dead-letter queue is set: a failsafe that fails leaves no trace",
            "Set lease.dead_letter_arn (output DeadLetterArn of infrastructure.yaml).",
            settings=changes,
        )
    schedule = failsafe.let_one_fail(target, proof.scratch.missing)
    for _ in range(ARRIVES_WITHIN):
        yield target.clock.now() + text.MINUTE
        try:
            arrived = dead_letters.take_own(target, schedule, proof.scratch.missing)
        except NotFound:
            queue = target.settings.lease.dead_letter_arn
            return problem(f"{queue} does not exist", "Correct lease.dead_letter_arn (output DeadLetterArn).")
        if arrived:
            return _depth_alarm(proof)
    return problem(
        f"the message of a schedule that failed did not arrive in {target.settings.lease.dead_letter_arn}",
        "Allow the scheduler's role sqs:SendMessage on the queue (infrastructure.yaml does).",
    )


def _alarms_on_queues(target: Target) -> Iterator[tuple[str, alarms.AlarmFields]]:
    """Each alarm on the depth of a queue, with the queue's name. AWS: cloudwatch:DescribeAlarms, every page."""
    pages = target.client("cloudwatch").get_paginator("describe_alarms")
    for page in pages.paginate(AlarmTypes=["MetricAlarm"]):
        for alarm in page["MetricAlarms"]:
            if alarm.get("MetricName") == DEPTH:
                names = [each["Value"] for each in alarm.get("Dimensions", ()) if each["Name"] == "QueueName"]
                yield "".join(names), dict(alarm)


def _template_queue(proof: Proof) -> str:
    """The ARN of the queue that the template's alarm watches; '' where there is none."""
    fields = proof.context.arn_fields
    own = f"buddy-ops-{proof.target.environment}-lease-dead-letters"
    for queue, alarm in _alarms_on_queues(proof.target):
        # infrastructure.yaml lets CloudFormation name the queue, so that only its alarm says which one it is.
        if alarm["AlarmName"] == own and queue:
            return f"arn:{fields['partition']}:sqs:{fields['region']}:{fields['account']}:{queue}"
    return ""


def _depth_alarm(proof: Proof) -> Finding:
    """The message has arrived: whether an alarm on the queue's depth notifies a topic."""
    queue = (proof.target.settings.lease.dead_letter_arn or "").rpartition(":")[2]
    arrived = f"the message of a failed schedule arrived in {queue}"
    watching = [alarm for name, alarm in _alarms_on_queues(proof.target) if name == queue]
    if not watching:
        return problem(
            f"{arrived}, and no alarm watches the queue", "Create an alarm on its depth: infrastructure.yaml."
        )
    loud = [alarm for alarm in watching if alarm.get("ActionsEnabled", True) and alarm.get("AlarmActions")]
    if not loud:
        names = text.join_words(alarm["AlarmName"] for alarm in watching)
        return problem(f"{arrived}, and {names} notifies no one", "Enable its actions, and set its AlarmActions.")
    return ok(f"{arrived}; {loud[0]['AlarmName']} watches it and notifies {', '.join(loud[0]['AlarmActions'])}")


# People


def alarm_heard(proof: Proof) -> Steps:
    """Whether CloudWatch delivers an alarm to the topic, and the topic has a confirmed subscription."""
    target = proof.target
    topic = target.settings.alarms.topic_arn
    if not topic:
        found = _template_topic(proof)
        changes: dict[str, object] = {}
        if found:
            changes["alarms.topic_arn"] = found
        return problem(
            "no topic is set, so alarms notify no one",
            "Set alarms.topic_arn (output TopicArn of infrastructure.yaml), and run operations/alarms.",
            settings=changes,
        )
    try:
        # Before anything is written: without the topic there is nothing to try.
        subscribers = alarms.confirmed_subscribers(target)
    except NotFound:
        return problem(f"{topic} does not exist", "Correct alarms.topic_arn (output TopicArn of infrastructure.yaml).")
    began = target.clock.now()
    name = proof.scratch.alarm
    client = target.client("cloudwatch")
    client.put_metric_alarm(
        **alarms.SHARED,
        AlarmName=name,
        AlarmDescription="Scratch alarm of buddy-ops doctor --prove: delete it.",
        Namespace="AWS/Lambda",
        MetricName="Errors",
        # No function has this name, so no failure of users sets it off.
        Dimensions=[{"Name": "FunctionName", "Value": proof.scratch.missing}],
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0.0,
        AlarmActions=[topic],
    )
    # CloudWatch takes any address as an alarm's action, and tries it only when the state changes.
    client.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason=alarms.TEST)
    wiring = alarms.read_action(target, name, began)
    for _ in range(alarms.PROOF_POLLS):
        if wiring is not None:
            break
        yield target.clock.now() + alarms.PROOF_POLL
        wiring = alarms.read_action(target, name, began)
    wiring = wiring or alarms.unheard(name)
    if not wiring.proved:
        return problem(wiring.says, "Allow CloudWatch to publish to the topic (its policy, and its key).")
    if not subscribers:
        return problem(f"{topic} has no confirmed subscription", "Subscribe on-call, and confirm the subscription.")
    return ok(f"CloudWatch notified {topic} at {began:%H:%M} UTC; confirmed subscriptions: {subscribers}")


def _template_topic(proof: Proof) -> str:
    """The ARN of the template's topic, if it exists."""
    fields = proof.context.arn_fields
    arn = f"arn:{fields['partition']}:sns:{fields['region']}:{fields['account']}:buddy-ops-{proof.target.environment}"
    settings = proof.target.settings
    own = settings.model_copy(update={"alarms": settings.alarms.model_copy(update={"topic_arn": arn})})
    try:
        alarms.confirmed_subscribers(replace(proof.target, settings=own))
    except AwsFailed:
        return ""
    return arn


# Roles


@dataclass(frozen=True)
class Attempt:
    """A call that changes nothing, as any role, and the roles that IAM must allow it to."""

    action: str
    send: Callable[[Target, Scratch], object]
    allowed: tuple[Role, ...]


ATTEMPTS = (
    Attempt(
        "lambda:GetAlias",
        lambda mine, _: mine.client("lambda").get_alias(FunctionName=mine.settings.function, Name=mine.settings.alias),
        permissions.EVERYBODY,
    ),
    Attempt(
        "cloudwatch:DescribeAlarms",
        lambda mine, _: mine.client("cloudwatch").describe_alarms(MaxRecords=1),
        permissions.EVERYBODY,
    ),
    Attempt(
        "lambda:UpdateAlias",
        lambda mine, scratch: mine.client("lambda").update_alias(
            FunctionName=mine.settings.function,
            Name=scratch.missing,
            RoutingConfig={"AdditionalVersionWeights": {}},
        ),
        permissions.ACTING,
    ),
    Attempt(
        "scheduler:DeleteSchedule",
        # A run's id is 8 hexadecimal digits, so no run has this one.
        lambda mine, _: failsafe.disarm(mine, "absent"),
        permissions.ACTING,
    ),
    Attempt(
        "lambda:PublishVersion",
        # No code has this hash, so nothing is published.
        lambda mine, _: mine.client("lambda").publish_version(
            FunctionName=mine.settings.function, CodeSha256="doctor-prove"
        ),
        ("deployer",),
    ),
    Attempt(
        "ssm:DeleteParameter of a freeze",
        lambda mine, scratch: mine.client("ssm").delete_parameter(Name=parameter_name(mine, "freeze", scratch.missing)),
        ("responder",),
    ),
    Attempt(
        "ssm:PutParameter over a record",
        # With its own text: where it is allowed, it changes nothing but the parameter's version.
        lambda mine, scratch: mine.client("ssm").put_parameter(
            Name=scratch.parameter, Value=MARK_TEXT, Type="String", Overwrite=True
        ),
        (),
    ),
)
"""Each is sent as each role. Where IAM allows one that writes, AWS answers that what it names does not exist."""


def role(proof: Proof, name: Role) -> Finding:
    """Whether a role can be assumed, may do what its runbooks need, and may not do what is not its business."""
    arn = proof.role_arn(name)
    mine = proof.target.acting_as(arn)
    if f":assumed-role/{arn.rpartition('/')[2]}/" in proof.target.principal:
        # The caller is in this role already, as in CI. A role may not assume itself.
        mine = proof.target.without_journal()
    try:
        # The first call as the role: here STS refuses to assume it.
        _ = mine.principal
    except AwsFailed as failure:
        return _not_assumed(proof, arn, failure)
    lacking: list[str] = []
    excessive: list[str] = []
    for attempt in ATTEMPTS:
        allowed = _is_allowed(attempt, mine, proof.scratch)
        if allowed and name not in attempt.allowed:
            excessive.append(attempt.action)
        elif not allowed and name in attempt.allowed:
            lacking.append(attempt.action)
    found = []
    if lacking:
        found.append(f"was denied {text.join_words(lacking)}")
    if excessive:
        found.append(f"may do {text.join_words(excessive)}")
    if found:
        return problem(f"{arn} {' and '.join(found)}", "Deploy infrastructure.yaml, and detach other policies.")
    return ok(f"{arn}: {text.count(len(ATTEMPTS), 'call')} allowed or denied as it should be")


def _not_assumed(proof: Proof, arn: str, failure: AwsFailed) -> Finding:
    # On AWS a role that does not exist and one that may not be assumed give the same answer.
    if proof.target.sandbox and _is_missing(proof.target, arn):
        return info("the sandbox has no such role: who signs in may do everything")
    if isinstance(failure, AccessDenied):
        remedy = "Deploy infrastructure.yaml with the caller's ARN in TrustedPrincipals."
        return problem(f"{proof.target.principal} may not assume {arn}", remedy)
    return unknown(failure.what, failure.next)


def _is_missing(target: Target, arn: str) -> bool:
    try:
        target.client("iam").get_role(RoleName=arn.rpartition("/")[2])
    except NotFound:
        return True
    except AwsFailed:
        return False
    return False


def _is_allowed(attempt: Attempt, mine: Target, scratch: Scratch) -> bool:
    """Whether IAM allows a call. What else AWS says to it does not matter.

    Raises:
        AwsFailed: AWS could not be reached.
    """
    try:
        attempt.send(mine, scratch)
    except AccessDenied:
        return False
    except AwsFailed as failure:
        # Any other answer comes after IAM let the call pass.
        if failure.reference in ("aws-unreachable", "aws-unavailable", "credentials-expired", "no-credentials"):
            raise
    return True


# What is kept


def write_once(proof: Proof) -> Finding:
    """Whether Parameter Store refuses to write a record that is there."""
    # In the first proof of an environment the first write creates it. The second one must be refused.
    for _ in range(2):
        try:
            proof.target.client("ssm").put_parameter(
                Name=proof.scratch.parameter, Value=MARK_TEXT, Type="String", Overwrite=False
            )
        except AlreadyExists:
            return ok(f"{proof.scratch.parameter} is there, and was not written again")
    return problem(f"{proof.scratch.parameter} was written twice", "Records of checklists are not safe. Ask AWS.")


def archive(proof: Proof) -> Finding:
    """Whether the bucket refuses a second write of an object, and locks each object for some time."""
    target = proof.target
    bucket = target.settings.archive.bucket
    if not bucket:
        return info("no bucket is set (archive.where): runs stay on this machine")
    # As for Parameter Store: only the second write tells.
    for attempt in range(2):
        try:
            target.client("s3").put_object(
                Bucket=bucket,
                Key=proof.scratch.object_key,
                Body=f'"{MARK_TEXT}"'.encode(),
                ContentType="application/json",
                # S3 demands a checksum for a locked object. Source: S3 API reference, PutObject.
                ChecksumAlgorithm="SHA256",
                # Refused with 412 where the object exists, and with 409 while another write of it is on its way.
                IfNoneMatch="*",
            )
        except Conflict:
            break
        if attempt:
            return problem(f"{bucket} took the same object twice", "Archived runs can be replaced. Ask AWS.")
    try:
        lock = target.client("s3").get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    except NotFound:
        return problem(f"{bucket} has no Object Lock", "Create a bucket with Object Lock, and set archive.where to it.")
    if not lock.get("Rule", {}).get("DefaultRetention"):
        message = f"{bucket} has Object Lock without a default retention: nothing in it is locked"
        return problem(message, "Set a default retention of its objects (infrastructure.yaml does).")
    return ok(f"{bucket} refused a second write, and locks each object")


def build_bucket(proof: Proof) -> Finding:
    """Whether a build can be read, by the role that ships it where it can be assumed."""
    if not proof.build:
        return info("not checked: no build was named (--build s3://BUCKET/KEY)")
    bucket, _, key = proof.build.removeprefix("s3://").partition("/")
    reader = proof.target.acting_as(proof.role_arn("deployer"))
    try:
        who = reader.principal
    except AwsFailed:
        # The probe of the role says so.
        reader = proof.target
        who = reader.principal
    try:
        # One byte shows it as well as the whole build.
        reader.client("s3").get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    except NotFound as failure:
        return problem(failure.what, "Correct --build, or upload the build.")
    except AccessDenied:
        remedy = "Deploy infrastructure.yaml with BuildBucketName, and with KeyArns where a key encrypts it."
        return problem(f"{who} may not read {proof.build}", remedy)
    return ok(f"{who} reads {proof.build}")
