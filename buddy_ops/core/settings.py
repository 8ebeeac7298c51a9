"""What an environment's parameters/ file and a notebook's parameters cell may say, validated into frozen models.

Knows names, types, ranges and which policy an environment has. Never opens a file and never asks AWS: text and
values come in, models or one ``InvalidInput`` with every problem in it go out.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from itertools import pairwise
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from buddy_ops.core.errors import InvalidInput

Strategy = Literal["all_at_once", "blue_green", "canary"]
Checklist = Literal["pre_deployment", "post_deployment"]
Minutes = Annotated[float, Field(ge=0, le=24 * 60)]
OVERRIDES = {"stages": "stages_percent", "bake_minutes": "bake_minutes", "watch_minutes": "watch_minutes"}
"""Parameters of runbooks that replace a setting of ``rollout``, by the setting's name."""

PARAMETERS = {setting: parameter for parameter, setting in OVERRIDES.items()}
SECRETIVE = ("notify", "settings", "variables")
"""Settings and parameters in which somebody may have written a secret plainly: what stands there is never shown."""

UNTOUCHED = "Nothing was read from or written to AWS."


class Model(BaseModel):
    """What every part of the settings has in common: frozen, and nothing unknown passes."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, defer_build=True)


class AwsSettings(Model):
    """How AWS is reached. All may be absent: the standard credentials, profile and region then decide.

    ``assume_role`` is the ARN of a role that those credentials take on, anew before each hour is over.
    """

    region: str | None = None
    profile: str | None = None
    assume_role: Annotated[str, Field(pattern=r"^arn:[\w-]+:iam::\d{12}:role/[\w+=,.@/-]+$")] | None = None
    endpoint_url: str | None = None


class RolloutSettings(Model):
    """How this environment ships. Times in minutes, weights as percentages of the alias's traffic.

    ``smoke_tested``: by which strategies a new version gets its first traffic only once it passes its smoke tests.
    """

    strategies: tuple[Strategy, ...] = ("canary",)
    smoke_tested: tuple[Strategy, ...] = ("all_at_once", "blue_green")
    stages_percent: Annotated[tuple[float, ...], Field(max_length=8)] = (10, 50, 100)
    bake_minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 5
    stretch_minutes: Minutes = 10
    watch_minutes: Minutes = 60
    external_minutes: Minutes = 60
    unreadable_minutes: Minutes = 15
    probe_percent: Annotated[float, Field(ge=0, le=5)] = 0
    probe_minutes: Minutes = 3
    probe_from_requests_per_minute: int = 600
    on_slow: Literal["rollback", "hold"] = "rollback"
    approvals: Annotated[int, Field(ge=0, le=5)] = 1
    demand_plan_hash: bool = False

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


def _time_of_day(value: Any) -> Any:
    """YAML reads an unquoted 16:00 as 960, in minutes."""
    return time(*divmod(value, 60)) if isinstance(value, int) and 0 <= value < 24 * 60 else value


TimeOfDay = Annotated[time, BeforeValidator(_time_of_day)]


class DeploymentWindow(Model):
    """When deployments may begin: on these days from ``start`` to before ``end``, in the time of ``zone``."""

    days: Annotated[tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...], Field(min_length=1)]
    start: TimeOfDay
    end: TimeOfDay
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        if zone not in available_timezones():
            raise ValueError("must be a zone of the tz database, for example Europe/Vienna")
        return zone

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "DeploymentWindow":
        if self.end <= self.start:
            raise ValueError("end must be after start, on the same day")
        return self


class DeploymentRules(Model):
    """What a deployment to this environment must keep to; ``policy`` decides, and breaking the glass passes it by.

    Attributes:
        by_hand: whether a person may promote; where not, CI does.
        ci_principals: who CI is, as AWS names its callers, with * ('arn:aws:sts::*:assumed-role/deployer/*'); empty:
            CI is believed by its environment variables.
        window: when deployments may begin; absent: at any time.
        hours_between: how long a version that stayed is left in peace: its rollback window.
        records: which checklists must have been passed, and for how many hours each counts.
        fixed: settings of ``rollout`` that no run may replace by its parameters.
        testing: the items of the checklist that are about tests.
        keep_versions: the fewest versions that a clean-up leaves.
    """

    by_hand: bool = True
    ci_principals: tuple[str, ...] = ()
    window: DeploymentWindow | None = None
    hours_between: Annotated[float, Field(ge=0, le=24 * 30)] = 0
    records: dict[Checklist, Annotated[float, Field(gt=0)]] = {}
    fixed: tuple[Literal["stages_percent", "bake_minutes", "watch_minutes"], ...] = ()
    testing: tuple[Annotated[str, Field(min_length=1, max_length=60)], ...] = ("tests pass",)
    keep_versions: Annotated[int, Field(ge=0)] = 10


class HealthSettings(Model):
    """When a version is unhealthy: shares of its requests, as fractions. Source: the deployment guide, 'Watching'."""

    error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    slow_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    latency_ms: Annotated[int, Field(gt=0)] = 6000
    late_data_s: Annotated[int, Field(ge=0, le=900)] = 120
    history_minutes: Annotated[int, Field(ge=0, le=24 * 60)] = 180


class MetricName(Model):
    """A metric that counts failures which Lambda's own Errors do not see.

    It must carry the dimensions FunctionName and Resource, and the two plus ExecutedVersion, as Lambda's own do.
    """

    namespace: str
    name: str


class FailsafeSettings(Model):
    """The schedule outside this machine that takes a canary's traffic away when nobody renews it.

    ``prove``: before each rollout let one fire at a scratch alias, which takes two or three minutes.
    """

    minutes: Annotated[int, Field(ge=10, le=120)] = 20
    group: str = "default"
    role_arn: str = ""
    dead_letter_arn: str | None = None
    prove: bool = False

    @staticmethod
    def default_role(account: str, partition: str = "aws") -> str:
        """The ARN of the role that infrastructure.yaml makes for EventBridge Scheduler: it serves where none is set."""
        return f"arn:{partition}:iam::{account}:role/buddy-ops-scheduler"


class AlarmSettings(Model):
    """Whom alarms tell, and which tables they watch; none named: those of ``settings.tables``."""

    topic_arn: str | None = None
    tables: tuple[str, ...] = ()


class SmokeTest(Model):
    """One request to a version before it gets traffic, and what its answer must be.

    Attributes:
        speaks: whether the answer must say something.
        never_says: phrases of an apology: a catch-all that says "sorry" has failed.
        within_s: how long it may take, a cold start included. Source: Alexa gives up on a skill after 8 s.
    """

    name: Annotated[str, Field(min_length=1, max_length=60)]
    request: Literal["LaunchRequest", "IntentRequest", "SessionEndedRequest"]
    intent: str = ""
    slots: dict[str, str] = {}
    speaks: bool = True
    never_says: tuple[str, ...] = ("sorry",)
    within_s: Annotated[float, Field(gt=0, le=8)] = 8
    application_id: str = ""


SMOKE_TESTS = (
    SmokeTest(name="launch", request="LaunchRequest"),
    SmokeTest(
        name="reminder",
        request="IntentRequest",
        intent="SetReminderIntent",
        slots={"medication": "aspirin", "time": "08:00"},
    ),
    SmokeTest(name="session end", request="SessionEndedRequest", speaks=False),
)


class ItemInvariant(Model):
    """What holds for one attribute of every whole item of a table; an absent one that may be absent satisfies it.

    Attributes:
        pattern: a regular expression that the whole text must match.
        one_of: the texts that it may say.
        least: the smallest number that it may be, and ``most`` the largest.
    """

    attribute: str
    required: bool = True
    pattern: str | None = None
    one_of: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    @field_validator("pattern")
    @classmethod
    def _compile(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern


class TableSettings(Model):
    """A DynamoDB table that the function writes.

    Attributes:
        key: its key's attributes, the partition key first.
        variable: the function's environment variable that names the table.
        writer: the attribute that says which version wrote an item, and ``written_at`` when (epoch seconds).
        invariants: what every item must satisfy; damage is told by them.
    """

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{3,240}$")]
    key: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    variable: str = ""
    writer: str = "written_by"
    written_at: str = "written_at"
    invariants: tuple[ItemInvariant, ...] = ()


Secret = Annotated[str, Field(pattern=r"^(ssm:/[\w./-]+|env:\w+)$")]
"""Where a secret is: 'ssm:/name' or 'env:NAME'. Never the secret itself."""


class StatusPage(Model):
    """A Statuspage-compatible page. ``token`` says where its API token is."""

    url: Annotated[str, Field(pattern=r"^https?://")] = "https://api.statuspage.io"
    page_id: str
    token: Secret


class NotificationSettings(Model):
    """Who is told, each optional."""

    slack_webhook: Secret | None = None
    topic_arn: str | None = None
    status_page: StatusPage | None = None


Flag = Annotated[str, Field(pattern=r"^ENABLE_[A-Z0-9_]{1,100}$")]
"""The environment variable of a feature flag. The prefix keeps secrets from being taken, and shown, for one."""


SchemaRange = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}(-[1-9]\d{0,5})?$")]
"""Schema versions, '1' or '1-2'."""


class ArchiveSettings(Model):
    """Where executed runs are kept besides runs/, and what of them is never written anywhere.

    Attributes:
        where: 's3://bucket/prefix'; empty: in runs/ only.
        redact: regular expressions of texts that are secrets here; a named group is cut alone.
    """

    where: Annotated[str, Field(pattern=r"^(s3://[a-z0-9][a-z0-9.-]+(/[\w./-]*)?)?$")] = ""
    redact: tuple[str, ...] = ()

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
    """One environment. ``schema_range``: what those versions of the function know that declare nothing.

    ``failure_metrics``: eight at most. Source: an alarm's math takes ten metrics, and two of them are Lambda's own.
    """

    function: Annotated[str, Field(min_length=1, max_length=140)]
    alias: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]*[a-zA-Z_-][a-zA-Z0-9_-]*$", max_length=128)] = "live"
    aws: AwsSettings = AwsSettings()
    rollout: RolloutSettings = RolloutSettings()
    policy: DeploymentRules = DeploymentRules()
    health: HealthSettings = HealthSettings()
    lease: FailsafeSettings = FailsafeSettings()
    alarms: AlarmSettings = AlarmSettings()
    notify: NotificationSettings = NotificationSettings()
    archive: ArchiveSettings = ArchiveSettings()
    failure_metrics: Annotated[tuple[MetricName, ...], Field(max_length=8)] = ()
    smoke_tests: tuple[SmokeTest, ...] = SMOKE_TESTS
    tables: tuple[TableSettings, ...] = ()
    flags: tuple[Flag, ...] = ("ENABLE_NEW_MEDICATION_FLOW", "ENABLE_ENHANCED_SAFETY")
    schema_range: SchemaRange | None = None


def parse_yaml_text(environment: str, text: str, source: str) -> Settings:
    """The settings in a parameters/ file: exactly the two keys ``environment`` and ``settings``.

    Raises:
        InvalidInput: ``invalid-settings``, with every problem, its key and the file.
    """
    try:
        document = from_yaml(text)
    except ValueError as error:
        raise _invalid(source, [str(error)]) from None
    if not isinstance(document, dict) or set(document) != {"environment", "settings"}:
        keys = ", ".join(map(str, document)) if isinstance(document, dict) else "no mapping"
        raise _invalid(source, [f"must have exactly the keys environment and settings, and has: {keys}"])
    if document["environment"] != environment:
        raise _invalid(source, [f"environment: is {document['environment']!r}, and {environment!r} was asked for"])
    return validate_settings(document["settings"], source)


def from_yaml(text: str) -> Any:
    """A YAML document's value. Raises ValueError for whatever is none; it shows no line of the text."""
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"not YAML{line}: {error.problem}") from None
    except Exception as error:  # PyYAML lets half a dozen kinds out: '2026-99-99', '!!bool x', '!!timestamp x'
        raise ValueError(f"not YAML: {error}") from None


def rollout_overrides(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``rollout`` that a runbook's parameters replace; an empty value replaces nothing."""
    return {setting: values[name] for name, setting in OVERRIDES.items() if values.get(name) not in (None, [], "")}


def validate_settings(values: Any, source: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from plain values. ``overrides`` are rollout settings that a runbook's parameters replace.

    Raises:
        InvalidInput: ``invalid-settings``, with every problem at once.
    """
    if not isinstance(values, dict):
        raise _invalid(source, ["settings: must be a mapping"])
    rollout = values.get("rollout") or {}
    if overrides and isinstance(rollout, dict):
        values = {**values, "rollout": {**rollout, **overrides}}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _invalid(source, _problems(error, overrides or {})) from None


@dataclass(frozen=True)
class DeclaredParameter:
    """One line of a notebook's parameters cell: ``name: annotation = default  # meaning``."""

    name: str
    annotation: str
    default: Any
    meaning: str = ""


def parse_declarations(cell: str) -> dict[str, DeclaredParameter]:
    """The parameters that a cell's source declares.

    Raises:
        InvalidInput: ``invalid-parameters``: it is not Python, or a default is not a plain value.
    """
    found, lines = {}, cell.splitlines()
    try:
        for line in ast.parse(cell).body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                default = ast.literal_eval(line.value)
                meaning = lines[(line.end_lineno or 1) - 1].partition("  # ")[2]
                found[line.target.id] = DeclaredParameter(
                    line.target.id, ast.unparse(line.annotation), default, meaning
                )
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _invalid("The parameters cell", [f"cannot be read: {error}"], reference="invalid-parameters") from None
    return found


def check_parameters(
    parameters: Mapping[str, DeclaredParameter], given: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Every parameter's value: what was given where it fits its annotation, its default where nothing was given.

    Raises:
        InvalidInput: ``invalid-parameters``, with every unknown name and wrong type at once.
    """
    problems = [f"{name}: no such parameter; {_nearest(name, parameters)}" for name in given if name not in parameters]
    values = {name: parameter.default for name, parameter in parameters.items()}
    for name in given.keys() & parameters.keys():
        try:
            kind = TypeAdapter(_type(parameters[name].annotation), config=ConfigDict(coerce_numbers_to_str=True))
            values[name] = kind.validate_python(given[name])
        except ValidationError as error:
            shown = name if name in SECRETIVE else f"{name}: {given[name]!r}"
            problems += [f"{shown}: {each['msg']}" for each in error.errors()]
        except Exception as error:  # the annotation is a person's own text: evaluating it may raise anything
            problems.append(f"{name}: its type {parameters[name].annotation} means nothing here: {error}")
    if problems:
        raise _invalid(source, sorted(problems), reference="invalid-parameters")
    return values


def _type(annotation: str) -> Any:
    kinds = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict, "None": None}
    return eval(annotation, {"__builtins__": {}}, kinds)


def _nearest(name: str, parameters: Mapping[str, DeclaredParameter]) -> str:
    import difflib

    close = difflib.get_close_matches(name, parameters, n=1)
    return f"did you mean {close[0]}?" if close else f"it takes {', '.join(parameters)}"


def _problems(error: ValidationError, overrides: Mapping[str, Any]) -> list[str]:
    lines = []
    for each in error.errors():
        path = [str(part) for part in each["loc"]]
        overridden = path[:1] == ["rollout"] and path[1:2] and path[1] in overrides
        where = f"parameter {PARAMETERS.get(path[1], path[1])}" if overridden else f"settings.{'.'.join(path)}"
        said = each["msg"].removeprefix("Value error, ")
        silent = path[0] in SECRETIVE or each["type"] in ("missing", "extra_forbidden")
        lines.append(f"{where}: {said}" + ("" if silent else f" (is {each['input']!r})"))
    return lines


def _invalid(source: str, problems: list[str], reference: str = "invalid-settings") -> InvalidInput:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    listed = "\n".join(f"  - {problem}" for problem in problems)
    return InvalidInput(reference, f"{source}: {count}.\n{listed}", next="Correct what is listed and run again.")
