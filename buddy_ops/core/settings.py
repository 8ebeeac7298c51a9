"""What an environment's parameters/ file and a notebook's parameters cell may say, validated into frozen models.

It defines names, types, ranges and the policy of an environment. Never opens a file and never asks AWS: text and
values come in, models or one ``InvalidInput`` with every problem in it go out.
"""

import re
from collections.abc import Mapping
from datetime import date, time
from itertools import pairwise
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from buddy_ops.core._secret_rules import SECRET_NAME
from buddy_ops.core.documents import parse_yaml
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.kinds import CAUGHT, KINDS, Kind
from buddy_ops.core.text import count

Strategy = Literal["all_at_once", "blue_green", "canary"]
Checklist = Literal["pre_deployment", "post_deployment"]
Minutes = Annotated[float, Field(ge=0, le=24 * 60)]
OVERRIDES = {"stages": "stages_percent", "bake_minutes": "bake_minutes", "watch_minutes": "watch_minutes"}
"""Parameters of runbooks that replace a setting of ``rollout``, by the setting's name."""

PARAMETERS = {setting: parameter for parameter, setting in OVERRIDES.items()}
SECRETIVE = ("notify", "settings", "variables")
"""Settings and parameters in which a secret may have been written plainly: their values are never shown."""

MOST_FAILURE_SERIES = 8
"""An alarm reads 10 metrics, of which two are Lambda's own."""

MOST_STREAMS = 8
"""Each stream costs two to four queries of CloudWatch in each poll."""

DEFAULT_ALIAS = "live"
UNTOUCHED = "Nothing was read from or written to AWS."


class Model(BaseModel):
    """What every part of the settings has in common: frozen, and nothing unknown passes."""

    # A model's schema is built when it is first used: commands that read no settings do not wait for it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, defer_build=True, allow_inf_nan=False
    )


class AwsSettings(Model):
    """How AWS is reached. Without these, the standard credentials, profile and region decide."""

    region: str | None = Field(
        default=None, description="Region, for example eu-west-1. Default: that of the profile or AWS_REGION."
    )
    profile: str | None = Field(default=None, description="Profile of the AWS configuration. Default: AWS_PROFILE.")
    assume_role: Annotated[str, Field(pattern=r"^arn:[\w-]+:iam::\d{12}:role/[\w+=,.@/-]+$")] | None = Field(
        default=None, description="ARN of a role to assume. Its credentials are renewed before each hour is over."
    )
    endpoint_url: str | None = Field(default=None, description="URL of the AWS endpoint. Set it only for the sandbox.")


class RampSettings(Model):
    """The weights before a canary's first stage. Source of the defaults: benchmarks/judge."""

    failures: Annotated[float, Field(ge=1, le=10_000)] | None = Field(
        default=None,
        description="Requests that the new version gets until its first failure can be seen: the first weight sends it "
        "about so many. null: 3 where the log is read every 10 seconds, 18 otherwise.",
    )
    factor: Annotated[float, Field(ge=2, le=100)] | None = Field(
        default=None,
        description="By how much each further weight is larger, up to the first stage. null: 3 where the log is read "
        "every 10 seconds, 10 otherwise.",
    )


class RolloutSettings(Model):
    """How this environment deploys. Times in minutes, weights in percent of the alias's traffic."""

    strategies: tuple[Strategy, ...] = Field(
        default=("canary",), description="Strategies that are allowed in this environment."
    )
    smoke_tested: tuple[Strategy, ...] = Field(
        default=("all_at_once", "blue_green"),
        description="Strategies in which a new version must pass its smoke tests before it gets traffic.",
    )
    # Stages and bake time are those of the deployment guide for production.
    stages_percent: Annotated[tuple[float, ...], Field(max_length=8)] = Field(
        default=(10, 50, 100),
        description="Traffic weight of the new version in each stage, in percent. They rise to 100.",
    )
    bake_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = Field(
        default=5, description="Bake time of each stage, in minutes."
    )
    stretch_minutes: Minutes = Field(
        default=10, description="Longest extension of a bake whose verdict is inconclusive, in minutes."
    )
    watch_minutes: Minutes = Field(default=60, description="Longest monitoring after 100 %, in minutes.")
    watch_after_proof_minutes: Minutes = Field(
        default=45,
        description="Monitoring after the new version is shown to be healthy at 100 %, in minutes. It ends with "
        "watch_minutes at the latest. 0: none.",
    )
    external_minutes: Minutes = Field(
        default=60, description="Longest pause for a fault that affects both versions, in minutes."
    )
    unreadable_minutes: Minutes = Field(
        default=15, description="Longest time without readable metrics before the rollout rolls back, in minutes."
    )
    ramp: RampSettings | None = Field(
        default=None,
        description="Weights before a canary's first stage that are fitted to the traffic, so that a new version that "
        "fails every request fails few. Default: none.",
    )
    on_alias_failures: Literal["rollback", "hold"] = Field(
        default="rollback",
        description="Action where failures of the alias as a whole, of which no metric names the version, began after "
        "traffic was shifted: roll back, or pause for a decision.",
    )
    on_slow: Literal["rollback", "hold"] = Field(
        default="rollback",
        description="Action for a new version that is slower than its limit: roll back, or pause for a decision.",
    )
    approvals: Annotated[int, Field(ge=0, le=5)] = Field(
        default=1, description="Number of different people who must approve a plan."
    )
    demand_plan_hash: bool = Field(
        default=False,
        description="Whether an approval without a person at the screen must name the plan ID (approved_plan).",
    )

    @field_validator("stages_percent")
    @classmethod
    def _rise_to_100(cls, stages: tuple[float, ...]) -> tuple[float, ...]:
        if not stages or any(not 0 < stage <= 100 for stage in stages):
            raise ValueError("each stage must be above 0 and at most 100 percent")
        if any(later <= earlier for earlier, later in pairwise(stages)):
            raise ValueError("stages must rise, for example [10, 50, 100]")
        if stages[-1] != 100:
            raise ValueError("the last stage must be 100")
        return stages


def _time_of_day(value: object) -> object:
    """YAML 1.1, which papermill reads, makes of an unquoted 16:00 the number 960: minutes."""
    return time(*divmod(value, 60)) if isinstance(value, int) and 0 <= value < 24 * 60 else value


# JSON Schema's format "time" demands seconds and a zone: an editor would mark each 09:00.
TimeOfDay = Annotated[
    time, BeforeValidator(_time_of_day), WithJsonSchema({"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]"})
]


class DeploymentWindow(Model):
    """When deployments may begin."""

    days: Annotated[tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...], Field(min_length=1)] = Field(
        description="Weekdays on which the window begins."
    )
    start: TimeOfDay = Field(description="Start, as HH:MM.")
    end: TimeOfDay = Field(
        description="End (exclusive), as HH:MM. Before the start, it is on the next day: 22:00 to 04:00. A whole day "
        "is 00:00 to 00:00."
    )
    zone: str = Field(default="UTC", description="Time zone of the tz database, for example Europe/Vienna.")

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        # The list of all zones takes a walk through the tz database: 20 ms in every command.
        if zone != "UTC" and zone not in available_timezones():
            raise ValueError("must be a zone of the tz database, for example Europe/Vienna")
        return zone

    @model_validator(mode="after")
    def _lasts_a_while(self) -> "DeploymentWindow":
        if self.end == self.start != time():
            raise ValueError("end must differ from start; a whole day is 00:00 to 00:00")
        return self

    @property
    def over_midnight(self) -> bool:
        """Whether it ends on the day after it began."""
        return self.end <= self.start


def _as_several(value: object) -> object:
    """One window is written as a mapping, several as a list."""
    if value is None:
        return ()
    return [value] if isinstance(value, (Mapping, DeploymentWindow)) else value


def _days(value: object) -> object:
    """'2026-12-24/2026-12-26', or a single day, as the first and the last day."""
    if isinstance(value, str):
        first, _, last = value.partition("/")
        return first.strip(), (last or first).strip()
    return (value, value) if isinstance(value, date) else value


def _require_order(days: tuple[date, date]) -> tuple[date, date]:
    """First and last day, if they are in this order."""
    if days[1] < days[0]:
        raise ValueError("the last day must not be before the first")
    return days


Holiday = Annotated[
    tuple[date, date],
    BeforeValidator(_days, json_schema_input_type=str),
    AfterValidator(_require_order),
    PlainSerializer(lambda days: "/".join(dict.fromkeys(map(str, days))), return_type=str),
]
"""A day, or the first and the last of several: '2026-12-24' or '2026-12-24/2026-12-26', an interval of ISO 8601."""


class DeploymentRules(Model):
    """Rules for deployments to this environment. An emergency override (break_glass) passes them."""

    by_hand: bool = Field(default=True, description="Whether a person may deploy. False: CI only.")
    ci_principals: tuple[str, ...] = Field(
        default=(),
        description="Callers that are CI, as AWS names them, with *: "
        "arn:aws:sts::*:assumed-role/deployer/*. Empty: CI is recognized by its environment "
        "variables.",
    )
    window: Annotated[
        tuple[DeploymentWindow, ...],
        BeforeValidator(_as_several, json_schema_input_type=DeploymentWindow | list[DeploymentWindow] | None),
    ] = Field(default=(), description="When deployments may begin: one window, or a list. Default: at any time.")
    holidays: tuple[Holiday, ...] = Field(
        default=(),
        description="Days on which no deployment may begin: 2026-12-24, or from first to last "
        "2026-12-24/2026-12-26. They are days of the window's time zone, and of UTC without one.",
    )
    hours_between: Annotated[float, Field(ge=0, le=24 * 30)] = Field(
        default=0, description="Least time between two deployments, in hours: the rollback window."
    )
    records: dict[Checklist, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="Checklists that must be passed, each with the hours that its result is valid."
    )
    approval_hours: Annotated[float, Field(ge=1, le=24 * 7)] = Field(
        default=4,
        description="Longest time from an approval to the start of its deployment, in hours. A plan ID that was given "
        "as approved_plan is valid for at least half of this time, and at most for all of it.",
    )
    verified_approvers: bool = Field(
        default=False,
        description="Whether a plan that several people must approve needs as many verified identities: the caller of "
        "AWS, or, for callers in ci_principals, the person who started the job in GitHub and its reviewers. Names in "
        "approved_by are claims.",
    )
    proof_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        default=0,
        description="Days for which a proof of the setup (doctor --prove) counts: the doctor and the readiness audit "
        "demand one. 0: none is demanded.",
    )
    demand_failure_metric: bool = Field(
        default=False,
        description="Whether a build is refused where no metric counts failures that are no errors of Lambda.",
    )
    fixed: tuple[Literal["stages_percent", "bake_minutes", "watch_minutes"], ...] = Field(
        default=(), description="Settings of rollout that no run may change by its parameters."
    )
    testing: tuple[Annotated[str, Field(min_length=1, max_length=60)], ...] = Field(
        default=("tests pass",), description="Items of the checklist that are about tests."
    )
    # Source: the deployment guide, 'Versions'.
    keep_versions: Annotated[int, Field(ge=0)] = Field(
        default=10, description="Number of versions that a clean-up keeps at least."
    )

    def is_holiday(self, day: date) -> bool:
        """Whether no deployment may begin on a day."""
        return any(first <= day <= last for first, last in self.holidays)


class HealthSettings(Model):
    """Limits of a healthy version. Source: the deployment guide, 'Watching'."""

    error_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="Limit of the error rate, as a fraction of requests (0.01 = 1 %)."
    )
    slow_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.01, description="Limit of the share of slow requests, as a fraction of requests."
    )
    latency_ms: Annotated[int, Field(gt=0)] = Field(
        default=6000, description="Duration from which a request is slow, in milliseconds."
    )
    # Most minutes are complete after two; `doctor --prove` measures it for a function.
    late_data_s: Annotated[int, Field(ge=0, le=900)] = Field(
        default=120, description="Age in seconds from which CloudWatch's data is complete."
    )
    history_minutes: Annotated[int, Field(ge=0, le=24 * 60)] = Field(
        default=1440, description="Minutes of the stable version's history that set its baseline: 24 h."
    )
    log_feed: bool = Field(
        default=True,
        description="Whether rollouts are judged every 10 s by Lambda's reports in the log, where the log is JSON with "
        "SystemLogLevel INFO; otherwise, and without this, by CloudWatch's minutes.",
    )


ALIAS_DIMENSIONS = {"FunctionName": "{function}", "Resource": "{resource}"}
"""The dimensions of a metric of the alias, as a setting writes them."""

Dimensions = dict[Annotated[str, Field(min_length=1, max_length=255)], Annotated[str, Field(min_length=1)]]
VERSION = "{version}"
VERSION_DIMENSIONS = {**ALIAS_DIMENSIONS, "ExecutedVersion": VERSION}


class MetricName(Model):
    """A metric of failures that Lambda's own Errors does not count: by version, or of the alias as a whole."""

    namespace: str = Field(description="Namespace in CloudWatch.")
    name: str = Field(description="Name of the metric.")
    dimensions: Dimensions = Field(
        default={},
        description="Its dimensions; {function}, {alias}, {resource} (function:alias) and {version} are replaced. "
        "Without {version} it counts for the alias as a whole. Default: FunctionName and Resource, and a second "
        "series with ExecutedVersion.",
    )
    statistic: Literal["Sum", "Maximum", "Minimum", "Average"] = Field(
        default="Sum", description="Statistic of a minute that is the number of failures."
    )
    expression: str = Field(
        default="",
        description="Metric math that makes failures a minute of the metric, which is {metric} in it: for the growth "
        "of a queue 'IF(DIFF({metric}) > 0, DIFF({metric}), 0)'.",
    )

    @model_validator(mode="after")
    def _uses_its_metric(self) -> "MetricName":
        if self.expression and "{metric}" not in self.expression:
            raise ValueError("expression must use {metric}")
        return self

    @property
    def by_version(self) -> bool:
        """Whether it counts each version's failures; else it counts those of the alias as a whole."""
        return not self.dimensions or any(VERSION in value for value in self.dimensions.values())

    @property
    def of_alias(self) -> dict[str, str]:
        """The dimensions of its series for the alias as a whole, to be filled."""
        named = self.dimensions or ALIAS_DIMENSIONS
        return {name: value for name, value in named.items() if VERSION not in value}

    @property
    def of_version(self) -> dict[str, str]:
        """The dimensions of its series for one version, to be filled."""
        return self.dimensions or VERSION_DIMENSIONS

    @property
    def full_name(self) -> str:
        """The metric as sentences name it, for example Shop/Failures."""
        # The dimensions of AWS's own metrics tell apart several APIs and queues.
        own = ", ".join(value for value in self.dimensions.values() if "{" not in value)
        return f"{self.namespace}/{self.name}" + (f" ({own})" if own else "")


class SlowerThan(Model):
    """Requests whose Duration is over a bound."""

    slower_than: (
        Annotated[float, Field(gt=0, le=900_000)] | Annotated[str, Field(pattern=r"^p[1-9]\d(\.\d{1,2})?$")]
    ) = Field(description="The bound: milliseconds, or a percentile of the history, for example p90.")


def _kind_of_events(value: object) -> str:
    """Which of the models a stream's events are."""
    if isinstance(value, SlowerThan) or (isinstance(value, Mapping) and "slower_than" in value):
        return "slower"
    return "metric" if isinstance(value, (MetricName, Mapping)) else "plain"


Events = Annotated[
    Annotated[Literal["errors"], Tag("plain")]
    | Annotated[SlowerThan, Tag("slower")]
    | Annotated[MetricName, Tag("metric")],
    Discriminator(_kind_of_events),
]
Total = Annotated[
    Annotated[Literal["requests"], Tag("plain")] | Annotated[MetricName, Tag("metric")], Discriminator(_kind_of_events)
]


STREAM_NAME = r"^[A-Za-z][A-Za-z0-9 _-]{0,39}$"


class StreamSettings(Model):
    """Events that both versions are compared in while they share the traffic, minute by minute."""

    name: Annotated[str, Field(pattern=STREAM_NAME)] = Field(
        description="Name in sentences and reports, for example sales."
    )
    events: Events = Field(
        description="What is counted: errors (failed requests), {slower_than: p90} or {slower_than: 800} (slow "
        "requests), or a metric of your own by version, of which each request has at most one."
    )
    of: Total = Field(default="requests", description="What they are a part of: requests, or a metric by version.")
    worse: Literal["more", "less"] = Field(default="more", description="Whether more events are worse, or less.")
    objective: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="A rate (0..1) that is always accepted: only a version that misses it is worse. Default: none.",
    )
    margin: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.5,
        description="By which part the rate may be worse than the stable version's: 0.5 is half as much more or less.",
    )
    on: Literal["hold", "rollback"] = Field(
        default="hold",
        description="Action for a version that is worse: keep the stage for a decision, or roll back.",
    )
    from_requests: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=30, description="Requests of the new version from which it is compared: the first ones are cold starts."
    )

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """The metrics of its own that are read."""
        return tuple(each for each in (self.events, self.of) if isinstance(each, MetricName))

    @model_validator(mode="after")
    def _can_be_compared(self) -> "StreamSettings":
        if any(not metric.by_version for metric in self.metrics):
            raise ValueError("its metrics must name the version: dimensions with {version}")
        if not isinstance(self.events, MetricName):
            if self.worse == "less":
                raise ValueError("fewer errors or slow requests are not worse: worse must be more")
            if self.of != "requests":
                raise ValueError("errors and slow requests are a part of requests: remove of")
        if self.worse == "less" and self.margin >= 1:
            raise ValueError("margin must be below 1 where less is worse")
        return self


STREAMS = (
    StreamSettings(name="errors", events="errors"),
    StreamSettings(name="latency", events=SlowerThan(slower_than="p90"), margin=0.25),
)
"""What is compared without a setting."""


class FailsafeSettings(Model):
    """The failsafe: a schedule in AWS that rolls a canary back when its run is lost."""

    # A renewal in the last 3 minutes may be too late (``failsafe.MARGIN``), and polls may fail before one works.
    minutes: Annotated[int, Field(ge=10, le=120)] = Field(
        default=20, description="Time until the automatic rollback after the last renewal, in minutes."
    )
    group: str = Field(default="default", description="Schedule group of EventBridge Scheduler.")
    role_arn: str = Field(
        default="",
        description="ARN of the role that the schedule uses. Default: buddy-ops-scheduler of infrastructure.yaml.",
    )
    dead_letter_arn: str | None = Field(default=None, description="ARN of the SQS queue for schedules that failed.")
    prove: bool = Field(
        default=False, description="Test the failsafe on a scratch alias before each rollout. It takes 2 to 3 minutes."
    )

    @staticmethod
    def default_role(account: str, partition: str) -> str:
        """The ARN of the role that infrastructure.yaml makes for EventBridge Scheduler: it serves where none is set."""
        return f"arn:{partition}:iam::{account}:role/buddy-ops-scheduler"


ComparisonOperator = Literal[
    "GreaterThanThreshold", "GreaterThanOrEqualToThreshold", "LessThanThreshold", "LessThanOrEqualToThreshold"
]


class CustomAlarm(Model):
    """An alarm on any metric of CloudWatch."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,100}$")] = Field(
        description="Name, after that of the function. The deployer may write those that the parameter CustomAlarms of "
        "infrastructure.yaml names."
    )
    description: str = Field(description="What it means, for those whom it notifies.")
    namespace: str = Field(description="Namespace in CloudWatch.")
    metric: str = Field(description="Name of the metric.")
    dimensions: Dimensions = Field(
        default={},
        description="Dimensions of the metric; {function}, {alias} and {resource} (function:alias) are replaced. "
        "Default: FunctionName and Resource of the alias.",
    )
    statistic: Annotated[str, Field(pattern=r"^(Sum|Average|Minimum|Maximum|SampleCount|p\d{1,2}(\.\d{1,10})?)$")] = (
        Field(
            default="Sum", description="Sum, Average, Minimum, Maximum, SampleCount or a percentile, for example p99."
        )
    )
    period_s: Annotated[int, Field(ge=60, le=86400, multiple_of=60)] = Field(
        default=60, description="Length of a period, in seconds: a multiple of 60."
    )
    threshold: float = Field(description="Threshold.")
    comparison: ComparisonOperator = Field(
        default="GreaterThanThreshold", description="How a period's value is compared with the threshold."
    )
    periods: Annotated[int, Field(ge=1, le=1440)] = Field(
        default=1, description="Number of periods that are evaluated."
    )
    datapoints: Annotated[int, Field(ge=1, le=1440)] = Field(
        default=1, description="Number of these that must exceed the threshold."
    )
    missing_data: Literal["notBreaching", "breaching", "ignore", "missing"] = Field(
        default="notBreaching", description="How a period without data counts."
    )

    @model_validator(mode="after")
    def _fits_a_day(self) -> "CustomAlarm":
        if self.datapoints > self.periods:
            raise ValueError("datapoints must not exceed periods")
        if self.periods * self.period_s > 86400:
            raise ValueError("period_s times periods must not exceed a day")
        return self


class AlarmSettings(Model):
    """Where alarms notify, which tables have alarms, and which further alarms there are."""

    topic_arn: str | None = Field(default=None, description="ARN of the SNS topic that alarms notify.")
    tables: tuple[str, ...] = Field(
        default=(), description="Names of DynamoDB tables. Default: those of settings.tables."
    )
    custom: Annotated[tuple[CustomAlarm, ...], Field(max_length=50)] = Field(
        default=(), description="Alarms on metrics of your own."
    )


TestName = Annotated[str, Field(min_length=1, max_length=60)]


def _require_jmespath(path: str) -> str:
    """The path, if JMESPath can read it."""
    from jmespath import compile as compile_path
    from jmespath.exceptions import JMESPathError

    try:
        compile_path(path)
    except JMESPathError as error:
        raise ValueError(f"no JMESPath: {str(error).splitlines()[0]}") from None
    return path


def _require_pattern(pattern: str) -> str:
    """The pattern, if it is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_require_pattern)]


class AlexaTest(Model):
    """One Alexa request to a version before it gets traffic, and what its response must be."""

    name: TestName = Field(description="Name in reports.")
    request: Literal["LaunchRequest", "IntentRequest", "SessionEndedRequest"] = Field(
        description="Type of the Alexa request."
    )
    intent: str = Field(default="", description="Name of the intent of an IntentRequest.")
    slots: dict[str, str] = Field(default={}, description="Values of the intent's slots.")
    speaks: bool = Field(default=True, description="Whether the response must contain speech.")
    never_says: tuple[str, ...] = Field(
        default=("sorry",), description="Phrases of an apology. A response with one of them fails."
    )
    within_s: Annotated[float, Field(gt=0, le=8)] = Field(
        default=8, description="Time limit in seconds, a cold start included. Source: Alexa waits 8 s for a skill."
    )
    application_id: str = Field(default="", description="The skill's ID in the request.")


class Expectation(Model):
    """What one value of an answer must be: exactly one of equals, contains, matches and absent is set."""

    path: Annotated[str, AfterValidator(_require_jmespath)] = Field(
        description="JMESPath of the value. body_json is the answer's body where that is JSON text."
    )
    # None where it is not set, so null cannot be demanded by it: ``absent`` does that.
    equals: JsonValue = Field(default=None, description="The value itself.")
    contains: str | None = Field(default=None, description="A text in the value, or an element of the list.")
    matches: Pattern | None = Field(default=None, description="A regular expression that is found in the text.")
    absent: bool = Field(default=False, description="Whether there must be no such value, or null.")

    @model_validator(mode="after")
    def _has_one_rule(self) -> "Expectation":
        rules = (self.equals is not None, self.contains is not None, self.matches is not None, self.absent)
        if sum(rules) != 1:
            raise ValueError("needs exactly one of equals, contains, matches and absent")
        return self


class EventTest(Model):
    """One event to a version before it gets traffic, and what its answer must be. An error of the function fails."""

    name: TestName = Field(description="Name in reports.")
    event: dict[str, JsonValue] | str = Field(
        description="The event: a mapping, or the path of a JSON file in the project."
    )
    status: Annotated[int, Field(ge=100, le=599)] | None = Field(
        default=None, description="The answer's statusCode, for functions behind HTTP."
    )
    expect: tuple[Expectation, ...] = Field(default=(), description="What else the answer must contain.")
    within_s: Annotated[float, Field(gt=0, le=900)] = Field(
        default=30, description="Time limit in seconds, a cold start included. Lambda's longest time-out is 900 s."
    )


def _kind_of_test(value: object) -> str:
    """Which of the two models a smoke test is, by whether it has an event."""
    if isinstance(value, EventTest) or (isinstance(value, Mapping) and "event" in value):
        return "event"
    return "alexa"


SmokeTest = AlexaTest | EventTest


class ItemInvariant(Model):
    """What is true of one attribute of every valid item of a table."""

    attribute: str = Field(description="Name of the attribute.")
    required: bool = Field(default=True, description="Whether it must exist.")
    pattern: Pattern | None = Field(default=None, description="Regular expression that the whole text matches.")
    one_of: tuple[str, ...] = Field(default=(), description="The allowed texts.")
    least: float | None = Field(default=None, description="The smallest allowed number.")
    most: float | None = Field(default=None, description="The largest allowed number.")


class TableSettings(Model):
    """A DynamoDB table that the function writes."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{3,240}$")] = Field(description="Name of the table.")
    key: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = Field(
        description="Attributes of its key, the partition key first."
    )
    variable: str = Field(default="", description="The function's environment variable that contains the table's name.")
    writer: str = Field(default="written_by", description="Attribute with the version that wrote an item.")
    written_at: str = Field(default="written_at", description="Attribute with the time of the write, in epoch seconds.")
    invariants: tuple[ItemInvariant, ...] = Field(
        default=(), description="Rules for every item. Items that violate one are reported as corrupted."
    )
    private: tuple[str, ...] = Field(
        default=(),
        description="Attributes whose values are never shown. A repair plan shows examples of the others' values.",
    )


Secret = Annotated[str, Field(pattern=r"^(ssm:/[\w./-]+|env:\w+)$")]
"""Where a secret is: 'ssm:/name' or 'env:NAME'. Never the secret itself."""


class StatusPage(Model):
    """A status page with the API of Statuspage."""

    url: Annotated[str, Field(pattern=r"^https?://")] = Field(
        default="https://api.statuspage.io", description="URL of the API."
    )
    page_id: str = Field(description="ID of the page.")
    token: Secret = Field(description="Where the API token is: ssm:/name or env:NAME.")


class AppriseChannel(Model):
    """A channel of the Apprise library, for example PagerDuty, Opsgenie, Microsoft Teams or mail."""

    name: Annotated[str, Field(min_length=1, max_length=40)] = Field(description="Name in reports.")
    url: Secret = Field(
        description="Where its Apprise URL is, which holds the channel's key: ssm:/name or env:NAME. "
        "Source: Apprise's list of services."
    )


class NotificationSettings(Model):
    """Channels that are notified. Each is optional."""

    slack_webhook: Secret | None = Field(
        default=None, description="Where the URL of a Slack webhook is: ssm:/name or env:NAME."
    )
    topic_arn: str | None = Field(default=None, description="ARN of an SNS topic.")
    status_page: StatusPage | None = Field(default=None, description="The status page.")
    channels: Annotated[tuple[AppriseChannel, ...], Field(max_length=8)] = Field(
        default=(), description="More channels. They need the extra 'notify' of buddy-ops."
    )


HookPoint = Literal["before_traffic", "before_stage", "after_traffic"]


class Hook(Model):
    """A Lambda function, a webhook or a notebook that is asked during a rollout, and may hold or refuse it."""

    name: Annotated[str, Field(min_length=1, max_length=40)] = Field(description="Name in plans and reports.")
    when: Annotated[tuple[HookPoint, ...], Field(min_length=1)] = Field(
        default=("before_traffic",),
        description="When it is asked: after the smoke tests and before the first traffic, before each later stage, or "
        "at the end of the monitoring at 100 %.",
    )
    function: Annotated[str, Field(pattern=r"^([a-zA-Z0-9_-]{1,64}(:[a-zA-Z0-9_-]{1,128})?)?$")] = Field(
        default="", description="Lambda function to invoke, NAME or NAME:ALIAS, in the same account and region."
    )
    url: Secret | None = Field(default=None, description="Where the https URL of a webhook is: ssm:/name or env:NAME.")
    notebook: Annotated[str, Field(pattern=r"^([\w-]+(/[\w-]+)*)?$")] = Field(
        default="", description="Notebook in notebooks/ to run, for example hooks/load_test."
    )
    timeout_s: Annotated[float, Field(ge=1, le=900)] = Field(
        default=30, description="How long its answer is waited for, in seconds. Without an answer it holds."
    )

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "Hook":
        if sum(map(bool, (self.function, self.url, self.notebook))) != 1:
            raise ValueError("needs exactly one of function, url and notebook")
        return self

    @property
    def kind(self) -> str:
        """What is asked, for operators."""
        if self.function:
            return f"function {self.function}"
        if self.notebook:
            return f"notebook {self.notebook}"
        return "webhook"


def _require_flag_name(name: str) -> str:
    """The name of a flag, if it is not one that a secret would have: a flag's value is shown."""
    if SECRET_NAME.search(name) and not name.startswith("ENABLE_"):
        raise ValueError("the value would be shown, and the name is like a secret's; a flag may begin with ENABLE_")
    return name


Flag = Annotated[
    str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,120}$", max_length=121), AfterValidator(_require_flag_name)
]
"""The environment variable of a feature flag."""


SchemaRange = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}(-[1-9]\d{0,5})?$")]
"""Schema versions, '1' or '1-2'."""


class SignatureSettings(Model):
    """A key of AWS KMS that signs each archived run. `runs verify` accepts signatures of this key only."""

    key: Annotated[str, Field(pattern=r"^arn:[\w-]+:kms:[a-z0-9-]+:\d{12}:key/[\w-]+$")] = Field(
        description="ARN of the key, not of an alias: the type ECC_NIST_P256, for SIGN_VERIFY, in the environment's "
        "region."
    )
    public_key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="SHA-256 of the public key (DER), in hexadecimal: `runs verify --public-key` accepts no other one.",
    )
    since: date | None = Field(
        default=None,
        description="Day (UTC) from whose runs on a signature is required. Default: every run of the archive.",
    )


class ArchiveSettings(Model):
    """Where executed runs are archived besides runs/, how they are signed, and which texts are secrets."""

    where: Annotated[str, Field(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/[\w./-]*)?)?$")] = Field(
        default="", description="s3://bucket/prefix. Empty: in runs/ only."
    )
    redact: tuple[str, ...] = Field(
        default=(),
        description="Regular expressions of texts that are secrets. Where one has a named group, only the "
        "group is removed.",
    )

    sign: SignatureSettings | None = Field(
        default=None, description="How each archived run is signed. Default: runs are not signed."
    )

    @property
    def bucket(self) -> str:
        """The bucket's name; '' where none is set."""
        return self.where.removeprefix("s3://").partition("/")[0]

    @field_validator("redact")
    @classmethod
    def _find_something(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                empty = re.compile(pattern).search("") is not None
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
            if empty:
                raise ValueError(f"{pattern!r} fits everywhere, the empty text too")
        return patterns


class Settings(Model):
    """The settings of one environment."""

    # No ARN: by its name alone it is known whose function this is, and whose rules hold.
    function: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] = Field(
        description="Name of the Lambda function, not its ARN."
    )
    # One character at least is no digit: Lambda takes digits alone for a version. Source: Lambda API reference.
    alias: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]*[a-zA-Z_-][a-zA-Z0-9_-]*$", max_length=128)] = Field(
        default=DEFAULT_ALIAS, description="Alias that serves the users."
    )
    kind: Kind = Field(
        default="custom",
        description="What calls the function: Alexa, HTTP (API Gateway, load balancer, function URL), an SQS queue, a "
        " stream (Kinesis, DynamoDB), asynchronous events, or anything else. It decides advice and defaults.",
    )
    aws: AwsSettings = Field(default=AwsSettings(), description="How AWS is reached.")
    rollout: RolloutSettings = Field(default=RolloutSettings(), description="How this environment deploys.")
    policy: DeploymentRules = Field(default=DeploymentRules(), description="Rules for deployments.")
    health: HealthSettings = Field(default=HealthSettings(), description="Limits of a healthy version.")
    lease: FailsafeSettings = Field(default=FailsafeSettings(), description="The failsafe.")
    alarms: AlarmSettings = Field(default=AlarmSettings(), description="Alarms.")
    notify: NotificationSettings = Field(default=NotificationSettings(), description="Notifications.")
    archive: ArchiveSettings = Field(default=ArchiveSettings(), description="The archive of executed runs.")
    failure_metrics: Annotated[tuple[MetricName, ...], Field(max_length=MOST_FAILURE_SERIES)] = Field(
        default=(),
        description="Metrics that count failures which Lambda's Errors does not see. At most 8: an alarm "
        "reads 10 metrics.",
    )
    streams: Annotated[tuple[StreamSettings, ...], Field(max_length=MOST_STREAMS)] = Field(
        default=STREAMS,
        description="Events that the versions are compared in, beside the limits of health. A list replaces the "
        "default: errors (margin 0.5) and requests over the p90 of the history (margin 0.25). []: none. At most 8.",
    )
    silent_failures: bool | None = Field(
        default=None,
        description="Whether a request may fail without an error of Lambda. False, for example, for a queue without "
        "partial batch responses. Default: by kind; only async has none.",
    )
    smoke_tests: tuple[
        Annotated[
            Annotated[AlexaTest, Tag("alexa")] | Annotated[EventTest, Tag("event")], Discriminator(_kind_of_test)
        ],
        ...,
    ] = Field(
        default=(),
        description="Requests that test a new version before it gets traffic: Alexa requests or events. Default: none.",
    )
    hooks: Annotated[tuple[Hook, ...], Field(max_length=8)] = Field(
        default=(), description="What is asked before traffic, before stages and after 100 %. Default: nothing."
    )
    tables: tuple[TableSettings, ...] = Field(default=(), description="DynamoDB tables that the function writes.")
    flags: tuple[Flag, ...] = Field(
        default=(),
        description="Environment variables of the function that are feature flags. Their values are shown: a name like "
        "that of a secret (key, token, password) is refused.",
    )
    incident_questions: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), description="Questions of this project for each post-mortem, beside the usual ones."
    )
    schema_range: SchemaRange | None = Field(
        default=None,
        description="Schema versions ('1' or '1-2') that a version of the function is compatible with if "
        "it declares none.",
    )

    @field_validator("failure_metrics")
    @classmethod
    def _fit_into_an_alarm(cls, metrics: tuple[MetricName, ...]) -> tuple[MetricName, ...]:
        if sum(2 if metric.expression else 1 for metric in metrics) > MOST_FAILURE_SERIES:
            raise ValueError(f"at most {MOST_FAILURE_SERIES}, of which each with an expression counts twice")
        return metrics

    @field_validator("streams")
    @classmethod
    def _have_different_names(cls, streams: tuple[StreamSettings, ...]) -> tuple[StreamSettings, ...]:
        names = [stream.name for stream in streams]
        if len(set(names)) < len(names):
            raise ValueError("each stream needs a name of its own")
        return streams

    @property
    def uncounted_failures(self) -> str:
        """The failures that nothing counts, in the plural: the function is unguarded. Empty: each is counted."""
        usual = KINDS[self.kind].silent_failure
        silent = bool(usual) if self.silent_failures is None else self.silent_failures
        if self.failure_metrics or not silent:
            return ""
        return usual or CAUGHT


def parse_yaml_text(environment: str, text: str, source: str) -> Settings:
    """The settings in a parameters/ file that extends no other.

    Raises:
        InvalidInput: ``invalid-settings``, with every problem, its key and the file.
    """
    return validate_settings(parse_document(text, source, environment), source)


def parse_document(text: str, source: str, environment: str = "") -> dict[str, Any]:
    """The settings that a parameters/ file writes, not validated: exactly the keys ``environment`` and ``settings``.

    Args:
        environment: whose file it is; '' for a base, which has the key ``settings`` only.

    Raises:
        InvalidInput: ``invalid-settings``, with the file.
    """
    wanted = {"environment", "settings"} if environment else {"settings"}
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise invalid(source, [str(error)]) from None
    if not isinstance(document, dict) or set(document) != wanted:
        keys = ", ".join(map(str, document)) if isinstance(document, dict) else "no mapping"
        named = "keys environment and settings" if environment else "key settings"
        raise invalid(source, [f"must have exactly the {named}, and has: {keys}"])
    if environment and document["environment"] != environment:
        raise invalid(source, [f"environment: is {document['environment']!r}, and {environment!r} was asked for"])
    values = document["settings"]
    if not isinstance(values, dict):
        raise invalid(source, ["settings: must be a mapping"])
    return values


def merge_values(base: Mapping[str, object], own: Mapping[str, object]) -> dict[str, Any]:
    """Settings over those of a base: mappings are merged by key; any other value, a list too, replaces the base's."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge_values(below, value)
        else:
            merged[key] = value
    return merged


def validate_settings(values: object, source: str, overrides: Mapping[str, object] | None = None) -> Settings:
    """Settings from plain values. ``overrides`` are rollout settings that a runbook's parameters replace.

    Raises:
        InvalidInput: ``invalid-settings``, with every problem at once.
    """
    if not isinstance(values, dict):
        raise invalid(source, ["settings: must be a mapping"])
    rollout = values.get("rollout") or {}
    if overrides and isinstance(rollout, dict):
        values = {**values, "rollout": {**rollout, **overrides}}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise invalid(source, _problems(error, overrides or {})) from None


def _problems(error: ValidationError, overrides: Mapping[str, object]) -> list[str]:
    lines = []
    for each in error.errors():
        path = [str(part) for part in each["loc"]]
        if path[0] == "smoke_tests":
            del path[2:3]  # pydantic's name for the kind of test, which is in no file
        if path[0] == "streams" and path[2:3] in (["events"], ["of"]):
            # The same of the kind of a stream's events.
            del path[3:4]
        overridden = path[:1] == ["rollout"] and path[1:2] and path[1] in overrides
        where = f"parameter {PARAMETERS.get(path[1], path[1])}" if overridden else f"settings.{'.'.join(path)}"
        said = each["msg"].removeprefix("Value error, ")
        silent = path[0] in SECRETIVE or each["type"] in ("missing", "extra_forbidden")
        lines.append(f"{where}: {said}" + ("" if silent else f" (is {each['input']!r})"))
    return lines


def invalid(source: str, problems: list[str], reference: str = "invalid-settings") -> InvalidInput:
    """One error with every problem of a file or of a notebook's parameters, a line each."""
    listed = "\n".join(f"  - {problem}" for problem in problems)
    what = f"{source}: {count(len(problems), 'problem')}.\n{listed}"
    return InvalidInput(reference, what, next="Correct what is listed and run again.")
