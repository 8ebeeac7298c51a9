"""Situations to practise and to test: small YAML files, and how the sandbox is brought into each.

Knows what stands in an account before a runbook comes. Never runs a runbook.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from botocore.exceptions import ClientError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from buddy_sandbox import builds, log_lines, reminders
from buddy_sandbox.access import ACCOUNT
from buddy_sandbox.conditions import EARLY, Conditions, Unit
from buddy_sandbox.faults import PROFILES
from buddy_sandbox.region import HOME, RegionName, salt
from buddy_sandbox.traffic import Traffic, Trouble
from buddy_sandbox.world import World

FOLDER = Path(__file__).parent / "scenarios"
ROLE = "arn:aws:iam::123456789012:role/buddy-skill"
SCHEDULER_ROLE = "buddy-ops-scheduler"
CALLERS_ROLE = "buddy-ops"
"""The role of a further account that callers of the default one assume."""

ALIAS = "live"


class Model(BaseModel):
    """A part of a scenario file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _known(profile: str) -> str:
    if profile not in PROFILES:
        raise ValueError(f"there is no fault profile {profile!r}")
    return profile


Profile = Annotated[str, AfterValidator(_known), Unit(", ".join(PROFILES))]


class TroubleSpec(Model):
    """Something that hits both versions, in minutes after the scenario is ready."""

    after_minutes: float = 0
    minutes: Annotated[float, Field(gt=0)] = 10
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0
    throttle_rate: Annotated[float, Field(ge=0, le=1)] = 0


class Scenario(Conditions):
    """One situation: what exists in the account, and the conditions it begins with."""

    description: Annotated[str, Field(description="what the scenario is")]
    stable: Annotated[
        Profile, Field(description="fault profile of the version that serves when the scenario is ready")
    ] = "good"
    build: Annotated[
        Profile,
        Field(description="fault profile of the build to deploy; `buddy-ops sandbox scenario` writes it as a zip"),
    ] = "good"
    deployed: Annotated[bool, Field(description="whether a first version is live behind the alias")] = True
    history_minutes: Annotated[
        int, Field(ge=0, le=24 * 60, description="how long it has served when the scenario is ready"), Unit("minutes")
    ] = 190
    reminders: Annotated[
        int, Field(ge=0, le=100_000, description="items of Buddy's table; 0: there is no table"), Unit("items")
    ] = 40
    corrupted_minutes: Annotated[
        int,
        Field(
            ge=0,
            le=24 * 60,
            description="how long version 2, which damages what it writes, has been live behind the alias",
        ),
        Unit("minutes"),
    ] = 0
    regions: Annotated[
        tuple[RegionName, ...],
        Field(description="regions in which the function is, each with traffic of its own", min_length=1),
        Unit("list of regions"),
    ] = (HOME,)
    unreachable_regions: Annotated[
        tuple[RegionName, ...],
        Field(description="regions whose calls get no answer once the scenario is ready: `unreachable` is `closed`"),
        Unit("list of regions"),
    ] = ()
    troubles: Annotated[
        tuple[TroubleSpec, ...],
        Field(description="errors and throttles of both versions, in minutes after the scenario is ready"),
        Unit("list of after_minutes, minutes, error_rate, throttle_rate"),
    ] = ()
    log_group: Annotated[
        str | None,
        Field(
            pattern=r"^[.\-_/#A-Za-z0-9]{1,512}$",
            description="log group of the function; `null`: Lambda's default, /aws/lambda/FUNCTION",
        ),
        Unit("name of a log group"),
    ] = None
    log_format: Annotated[Literal["Text", "JSON"], Field(description="format of the function's log")] = "Text"
    system_log_level: Annotated[
        Literal["DEBUG", "INFO", "WARN"],
        Field(description="least level of Lambda's own lines in a JSON log; WARN leaves the reports out"),
    ] = "INFO"
    kms_key_arn: Annotated[
        str | None,
        Field(
            pattern=r"^arn:aws:kms:[a-z0-9-]+:\d{12}:.+$",
            description="key that encrypts the function's environment; `null`: AWS's own",
        ),
        Unit("ARN of a key"),
    ] = None
    snap_start: Annotated[bool, Field(description="whether published versions use SnapStart")] = False
    provisioned_concurrency: Annotated[
        int, Field(ge=0, le=900, description="provisioned concurrency of the alias; 0: none"), Unit("executions")
    ] = 0
    ends: Annotated[
        Literal["proved", "unproven", "rolled-back", "held", "deployed"],
        Field(description="how a canary of `build` ends"),
    ] = "proved"

    @model_validator(mode="after")
    def _alias_exists(self) -> Self:
        if self.provisioned_concurrency and not self.deployed:
            raise ValueError("provisioned_concurrency needs deployed: true, which creates the alias")
        if self.regions[0] != HOME:
            raise ValueError(f"regions begin with {HOME}")
        return self


def names() -> list[str]:
    """The scenarios there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> Scenario:
    """A scenario by its name. Raises KeyError for one that does not exist."""
    if name not in names():
        raise KeyError(name)
    return Scenario.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def artifact(name: str) -> bytes:
    """The build that a scenario ships."""
    scenario = read(name)
    label = "3.0.0" if scenario.corrupted_minutes else "2.0.0" if scenario.deployed else "1.0.0"
    return builds.build(PROFILES[scenario.build], version_label=label)


def set_up(world: World, scenario: Scenario, environment: str) -> None:
    """Bring a freshly reset world into a scenario; time passes while its history is made."""
    function = f"buddy-alexa-skill-{environment}"
    world.hold(scenario, EARLY)
    regions = [world.region(name) for name in scenario.regions]
    for region in regions:
        _create_function(world, scenario, environment, region.name)
    create_roles(world)
    # As a template makes it: the group exists before the first request.
    for region in regions:
        region.log_store.group(scenario.log_group or log_lines.default_group(function))
    world.clock.advance_to(world.clock.now() + 60)
    if scenario.deployed:
        for region in regions:
            world.invoke("lambda", "publish_version", {"FunctionName": function}, region.name)
        world.clock.advance_to(world.clock.now() + 60)
        alias = {"FunctionName": function, "Name": ALIAS, "FunctionVersion": "1"}
        for region in regions:
            world.invoke("lambda", "create_alias", alias, region.name)
    traffic = []
    for region in regions:
        if scenario.provisioned_concurrency:
            count = scenario.provisioned_concurrency
            config = {"FunctionName": function, "Qualifier": ALIAS, "ProvisionedConcurrentExecutions": count}
            world.invoke("lambda", "put_provisioned_concurrency_config", config, region.name)
        if scenario.reminders:
            reminders.create(world, environment, scenario.reminders, region.name)
        own = salt(region.account, region.name)
        traffic.append(Traffic(function, ALIAS, scenario.requests_per_minute, salt=own))
        region.people.use(traffic[-1])
    ready = world.clock.now() + 60 * scenario.history_minutes
    world.clock.advance_to(ready)
    if scenario.corrupted_minutes:
        _ship_corrupting(world, function)
        reminders.corrupt(world, environment, scenario.reminders, scenario.corrupted_minutes)
        ready = world.clock.now()
    for each in traffic:
        each.troubles += [_trouble(spec, ready) for spec in scenario.troubles]
    world.hold(scenario, Conditions.model_fields.keys() - set(EARLY))
    for name in scenario.unreachable_regions:
        world.set_conditions_of(name, None, {"unreachable": "closed"})


def _create_function(world: World, scenario: Scenario, environment: str, region: str) -> None:
    label = "1.0.0" if scenario.deployed else "0.0.0"
    variables = {"REMINDERS_TABLE": reminders.table_of(environment)} if scenario.reminders else {}
    world.invoke(
        "lambda",
        "create_function",
        {
            "FunctionName": f"buddy-alexa-skill-{environment}",
            "Role": ROLE,
            "Runtime": "python3.11",
            "Handler": "lambda_function.handler",
            "Timeout": 7,
            "MemorySize": 256,
            "Environment": {"Variables": variables},
            "Code": {"ZipFile": builds.build(PROFILES[scenario.stable], version_label=label)},
            **_more_configuration(scenario),
        },
        region,
    )


def create_roles(world: World, account: str = ACCOUNT) -> None:
    """The role with which a failsafe's schedule moves an alias, and in a further account one that callers assume."""
    service = {"Service": "scheduler.amazonaws.com"}
    _create_role(world, account, SCHEDULER_ROLE, service, ["lambda:UpdateAlias", "sqs:SendMessage"])
    if account != ACCOUNT:
        _create_role(world, account, CALLERS_ROLE, {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, ["*"])


def _create_role(world: World, account: str, name: str, trusted: dict[str, str], actions: list[str]) -> None:
    """A role with one policy; one that is there already is left as it is."""
    trust = {"Effect": "Allow", "Principal": trusted, "Action": "sts:AssumeRole"}
    allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    trusts, allows = (json.dumps({"Version": "2012-10-17", "Statement": [each]}) for each in (trust, allowed))
    try:
        world.invoke("iam", "create_role", {"RoleName": name, "AssumeRolePolicyDocument": trusts}, account=account)
    except ClientError as error:
        if error.response["Error"]["Code"] != "EntityAlreadyExists":
            raise
        return
    put = {"RoleName": name, "PolicyName": name, "PolicyDocument": allows}
    world.invoke("iam", "put_role_policy", put, account=account)


def _more_configuration(scenario: Scenario) -> dict[str, Any]:
    """The members of CreateFunction that only some scenarios have."""
    logging: dict[str, str] = {"LogFormat": scenario.log_format}
    if scenario.log_group is not None:
        logging["LogGroup"] = scenario.log_group
    if scenario.log_format == "JSON":
        logging["SystemLogLevel"] = scenario.system_log_level
    members: dict[str, Any] = {"LoggingConfig": logging}
    if scenario.kms_key_arn is not None:
        members["KMSKeyArn"] = scenario.kms_key_arn
    if scenario.snap_start:
        members["SnapStart"] = {"ApplyOn": "PublishedVersions"}
    return members


def _ship_corrupting(world: World, function: str) -> None:
    """Version 2 behind the alias, as a rollout left it that no metric spoke against."""
    build = builds.build(PROFILES["corrupting"], version_label="2.0.0")
    world.invoke("lambda", "update_function_code", {"FunctionName": function, "ZipFile": build})
    world.clock.advance_to(world.clock.now() + 60)
    version = world.invoke("lambda", "publish_version", {"FunctionName": function})["Version"]
    world.clock.advance_to(world.clock.now() + 60)
    since = world.clock.utc().isoformat(timespec="minutes").replace("+00:00", "Z")
    record = {"v": 1, "run": "5eed", "from": "1", "to": version, "stage": "proved", "since": since}
    alias = {"FunctionName": function, "Name": ALIAS, "FunctionVersion": version, "Description": json.dumps(record)}
    world.invoke("lambda", "update_alias", alias)


def _trouble(spec: TroubleSpec, ready: float) -> Trouble:
    start = ready + 60 * spec.after_minutes
    return Trouble(start, start + 60 * spec.minutes, spec.error_rate, spec.throttle_rate)


def describe(world: World) -> dict[str, object]:
    """What traffic a scenario has, for ``buddy-ops sandbox status``."""
    for traffic in world.people.traffic:
        if traffic.handler is None:
            return {name: getattr(traffic, name) for name in ("function", "alias", "requests_per_minute")} | {
                "troubles": [asdict(each) for each in traffic.troubles]
            }
    return {}
