"""What can be changed while a scenario runs: traffic, CloudWatch, the clock, Lambda, DynamoDB and Parameter Store.

``Conditions`` is the one table of the values: type, unit, limits, meaning, and where in the world each takes effect.
A scenario file may begin with any of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from buddy_sandbox.publication import USUAL_DELAY_S

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Unit:
    """The unit of a value, as it is shown."""

    name: str


@dataclass(frozen=True)
class At:
    """The place of a value: the object in the world, as a dotted path, and its attribute."""

    owner: str
    attribute: str


METRICS = ("Invocations", "Errors", "Duration", "Throttles", "Apologies", "SafetyEscalations", "RemindersSet")
"""Metrics of Lambda and of the skill, each of which can have a delay of its own."""


def _known(delays: dict[str, float]) -> dict[str, float]:
    unknown = sorted(delays.keys() - set(METRICS))
    if unknown:
        raise ValueError(f"no such metric: {', '.join(unknown)}; known are {', '.join(METRICS)}")
    return delays


BYTES = Unit("bytes")
SECONDS = Unit("s")
Seconds = Annotated[float, Field(ge=0, le=3600), SECONDS]
Rate = Annotated[float, Field(ge=0, le=1)]
State = Literal["Pending", "Inactive", "Failed"] | None
Role = Annotated[str, Field(pattern=r"^arn:aws:iam::\d{12}:role/[\w+=,.@/-]+$")]
Throttling = Literal["ProvisionedThroughputExceededException", "ThrottlingException"]


class Conditions(BaseModel):
    """The values that can be set in mid-run; each field's description is what an operator reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Annotated[
        float, Field(ge=0, le=100_000, description="traffic of the alias"), Unit("requests")
    ] = 600

    cold_starts_per_minute: Annotated[
        float,
        Field(
            ge=0,
            le=10_000,
            description="environments that each version starts beside those that its traffic needs: at a small share "
            "of the traffic more requests are cold starts",
        ),
        Unit("cold starts"),
        At("people", "cold_starts_per_minute"),
    ] = 0
    real_requests_per_minute: Annotated[
        float,
        Field(
            gt=0,
            le=100_000,
            description="requests of each version that really invoke the handler of a function of your own; each of "
            "the others takes the outcome of one of these",
        ),
        Unit("requests"),
        At("people", "real_per_minute"),
    ] = 1000
    metrics_delay_s: Annotated[Seconds, Field(description="when a request becomes visible in CloudWatch")] = (
        USUAL_DELAY_S
    )
    metrics_delays_s: Annotated[
        dict[str, Seconds],
        AfterValidator(_known),
        Field(description="the same for one metric: `metrics_delays_s.Errors=240`"),
        Unit("0 to 3,600 s for each of " + ", ".join(METRICS)),
    ] = {}
    metrics_revised_rate: Annotated[
        Rate, Field(description="share of a minute's requests that CloudWatch adds later, as a revision")
    ] = 0
    metrics_revised_s: Annotated[Seconds, Field(description="how much later it adds them")] = 0
    outage: Annotated[
        Literal["error", "partial", "empty", "duplicated"] | None,
        Field(
            description="what reads of metrics return: `error`: InternalServiceFault; `partial`: every second point, "
            "and PartialData; `empty`: no points; `duplicated`: each point twice; `null`: everything"
        ),
    ] = None
    unreachable: Annotated[
        Literal["closed", "reset", "silent"] | None,
        Field(
            description="what becomes of AWS calls from outside: `closed` or `reset`: their connection, without an "
            "answer; `silent`: none comes for 60 s of real time; `null`: all are answered"
        ),
    ] = None
    logs_delay_s: Annotated[
        Seconds, Field(description="when a log line becomes readable"), At("log_store", "delay_s")
    ] = 5
    logs_late_rate: Annotated[
        Rate,
        Field(description="share of the traffic's log lines that are ingested later"),
        At("log_store", "late_rate"),
    ] = 0
    logs_late_s: Annotated[Seconds, Field(description="how much later"), At("log_store", "late_s")] = 0
    logs_lost_rate: Annotated[
        Rate, Field(description="share of the traffic's log lines that are lost"), At("log_store", "lost_rate")
    ] = 0
    logs_duplicated_rate: Annotated[
        Rate,
        Field(description="share of log events that FilterLogEvents returns twice"),
        At("log_store", "duplicated_rate"),
    ] = 0
    logs_shuffled: Annotated[
        bool, Field(description="whether it returns them unsorted"), At("log_store", "shuffled")
    ] = False
    logs_page_events: Annotated[
        int,
        Field(ge=1, le=10_000, description="most events of a page of it"),
        Unit("events"),
        At("log_store", "page_events"),
    ] = 10_000
    logs_throttle_s: Annotated[
        Seconds, Field(description="how long from now it is throttled"), At("log_store.throttle", "for_s")
    ] = 0

    client_clock_ahead_s: Annotated[
        float,
        Field(ge=-86_400, le=86_400, description="how far the clock of your machine is ahead of AWS's"),
        SECONDS,
    ] = 0

    lambda_update_s: Annotated[
        Seconds,
        Field(description="how long $LATEST is InProgress after an update, and a new function Pending"),
        At("functions", "update_s"),
    ] = 2
    lambda_allocation_s: Annotated[
        Seconds,
        Field(
            description="how long AWS allocates provisioned concurrency; meanwhile a moved alias keeps the weight 1.0 "
            "on the old version"
        ),
        At("functions", "allocation_s"),
    ] = 120
    lambda_snapshot_s: Annotated[
        Seconds,
        Field(description="how long a new version with SnapStart is Pending"),
        At("functions", "snapshot_s"),
    ] = 120
    lambda_latest_state: Annotated[
        State, Field(description="State of $LATEST; `null`: its own"), At("functions", "latest_state")
    ] = None
    lambda_version_state: Annotated[
        State, Field(description="State of every published version; `null`: its own"), At("functions", "version_state")
    ] = None
    lambda_update_status: Annotated[
        Literal["InProgress", "Failed"] | None,
        Field(description="LastUpdateStatus of $LATEST; `null`: its own"),
        At("functions", "update_status"),
    ] = None
    lambda_latest_role: Annotated[
        Role | None,
        Field(description="execution role that another person gave $LATEST; `null`: its own"),
        Unit("ARN of a role"),
        At("functions", "latest_role"),
    ] = None
    lambda_kms_denied: Annotated[
        bool,
        Field(description="whether callers may not decrypt environments that a key of their own encrypts"),
        At("functions", "kms_denied"),
    ] = False
    lambda_zip_limit: Annotated[
        int,
        Field(ge=1, le=1024**3, description="largest package that is sent with the call"),
        BYTES,
        At("functions", "zip_limit"),
    ] = 50 * 1024**2
    lambda_unzipped_limit: Annotated[
        int, Field(ge=1, le=1024**3, description="largest unpacked package"), BYTES, At("functions", "unzipped_limit")
    ] = 250 * 1024**2
    lambda_storage_limit: Annotated[
        int,
        Field(ge=0, le=1024**4, description="all packages of the account"),
        BYTES,
        At("functions", "storage_limit"),
    ] = 75 * 1024**3
    lambda_concurrency: Annotated[
        int,
        Field(ge=100, le=100_000, description="concurrent executions of the account"),
        Unit("executions"),
        At("functions", "concurrency"),
    ] = 1000

    dynamodb_policy_delay_s: Annotated[
        Seconds,
        Field(description="how long a changed resource policy is neither read nor enforced"),
        At("tables", "policy_delay_s"),
    ] = 0
    dynamodb_throttle_s: Annotated[
        Seconds,
        Field(description="how long from now every read and write of items is throttled"),
        At("tables.throttle", "for_s"),
    ] = 0
    dynamodb_throttle_code: Annotated[
        Throttling, Field(description="the error code of that"), At("tables", "throttle_code")
    ] = "ProvisionedThroughputExceededException"
    ssm_delay_s: Annotated[
        Seconds, Field(description="how long reads of parameters lag behind writes"), At("parameters", "delay_s")
    ] = 0
    ssm_throttle_s: Annotated[
        Seconds,
        Field(description="how long from now every call of Parameter Store is throttled"),
        At("parameters.throttle", "for_s"),
    ] = 0

    def changed(self, changes: Mapping[str, Any]) -> Conditions:
        """These with some values replaced; of ``metrics_delays_s``, only the metrics that are named.

        Raises pydantic's ValidationError (a ValueError) for an unknown name or a value outside its limits.
        """
        values = {name: getattr(self, name) for name in Conditions.model_fields}
        delays = changes.get("metrics_delays_s")
        if isinstance(delays, dict):
            changes = {**changes, "metrics_delays_s": {**self.metrics_delays_s, **delays}}
        return Conditions.model_validate({**values, **changes})


OF_ALL_REGIONS = ("tables", "parameters")
"""The owners that are one for all accounts and regions."""

PLACES = {
    name: part for name, info in Conditions.model_fields.items() for part in info.metadata if isinstance(part, At)
}
"""The place in the world of each value that is one attribute there."""

EVERYWHERE = {"client_clock_ahead_s"} | {
    name for name, place in PLACES.items() if place.owner.startswith(OF_ALL_REGIONS)
}
"""What holds in every region of every account, and cannot be set for one."""

EARLY = tuple(name for name in Conditions.model_fields if name.startswith(("requests_", "cold_", "metrics_", "outage")))
"""What holds while a scenario's history is made. The rest would keep it from being made, or be over when it is."""


class Key(NamedTuple):
    """A row of the table of keys. ``limits`` are what it may be, with its unit."""

    name: str
    default: Any
    limits: str
    meaning: str


def declared_keys(model: type[BaseModel] = Conditions) -> list[Key]:
    """The keys that can be set, of the conditions or of a scenario."""
    return [
        Key(name, info.get_default(call_default_factory=True), _limits(info), info.description or "")
        for name, info in model.model_fields.items()
    ]


def markdown(rows: Iterable[Key]) -> str:
    """The table of keys for the documentation."""
    lines = ["| key | default | values | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key.name}` | `{json.dumps(key.default)}` | {key.limits} | {key.meaning} |" for key in rows]
    return "\n".join(lines)


def _limits(info: FieldInfo) -> str:
    """What a value may be, in words: its choices, else its range and unit, else its unit alone."""
    if info.annotation is bool:
        return "true, false"
    kinds = (info.annotation, *get_args(info.annotation))
    choices = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return ", ".join([*choices, *(["null"] if type(None) in kinds else [])])
    texts = [f"{part.ge:,.15g}" for part in info.metadata if isinstance(part, Ge)]
    texts += [f"above {part.gt:,.15g}" for part in info.metadata if isinstance(part, Gt)]
    texts += [f"to {part.le:,.15g}" for part in info.metadata if isinstance(part, Le)]
    return " ".join([*texts, *(part.name for part in info.metadata if isinstance(part, Unit))])
