"""What parameters/fleet.yaml may say: the targets of a fleet, each one alias of a function in a region and account.

Like ``settings``, it never opens a file: text comes in, a model or one ``InvalidInput`` with every problem goes out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from buddy_ops.core.documents import parse_yaml
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.places import FLEET_FILE
from buddy_ops.core.settings import Model, invalid
from buddy_ops.core.text import did_you_mean, join_words

SOURCE = f"parameters/{FLEET_FILE}"
ONLY_WAVE = "all"
"""The wave of a fleet that has none."""

LABEL = re.compile(r"[A-Za-z0-9][\w./-]{0,62}")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class FleetTarget(Model):
    """One target, or with ``regions`` one in each of them. What is not given is as the environment's file says."""

    name: Name = Field(description="Name of the target. With regions, each is called NAME-REGION.")
    environment: str = Field(description="Environment: the file in parameters/ with its limits, rules and alarms.")
    function: str | None = Field(default=None, description="Name of the Lambda function.")
    alias: str | None = Field(default=None, description="Alias that serves the users.")
    region: str | None = Field(default=None, description="Region, for example eu-west-1.")
    regions: Annotated[tuple[str, ...], Field(max_length=40)] = Field(
        default=(), description="Several regions, in place of region."
    )
    account: Annotated[str, Field(pattern=r"^\d{12}$")] | None = Field(
        default=None, description="Number of the AWS account that the credentials must belong to."
    )
    profile: str | None = Field(default=None, description="Profile of the AWS configuration.")
    assume_role: str | None = Field(default=None, description="ARN of a role to assume.")
    labels: dict[str, str] = Field(default={}, description="Labels to select targets by, for example team: payments.")

    @field_validator("labels")
    @classmethod
    def _are_plain(cls, labels: dict[str, str]) -> dict[str, str]:
        for text in (*labels, *labels.values()):
            if not LABEL.fullmatch(text):
                raise ValueError(f"{text!r}: letters, digits and ./_- only, at most 63 characters")
        return labels

    @model_validator(mode="after")
    def _name_regions_once(self) -> "FleetTarget":
        if self.region and self.regions:
            raise ValueError("give region or regions, not both")
        if len(set(self.regions)) < len(self.regions):
            raise ValueError("regions: one is given twice")
        return self

    def replace_in(self, values: dict[str, Any]) -> dict[str, Any]:
        """An environment's settings, as plain values, with what this target replaces in them."""
        reached = _given({"region": self.region, "profile": self.profile, "assume_role": self.assume_role})
        named = _given({"function": self.function, "alias": self.alias})
        return {**values, **named, "aws": {**values["aws"], **reached}}


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


class Wave(Model):
    """Targets that a fleet's deployment reaches together. What is given must all fit."""

    name: Name = Field(description="Name of the wave.")
    targets: tuple[str, ...] = Field(default=(), description="Names of targets. With regions, each is NAME-REGION.")
    labels: dict[str, str] = Field(default={}, description="Labels that its targets have, all of them.")
    regions: tuple[str, ...] = Field(default=(), description="Regions of its targets, as the targets name them.")

    @model_validator(mode="after")
    def _select_something(self) -> "Wave":
        if not (self.targets or self.labels or self.regions):
            raise ValueError("give targets, labels or regions")
        return self

    def has(self, target: FleetTarget) -> bool:
        """Whether a target belongs to it."""
        named = not self.targets or target.name in self.targets
        return (
            named
            and self.labels.items() <= target.labels.items()
            and target.region in (self.regions or (target.region,))
        )


class Fleet(Model):
    """All targets, and how a deployment reaches them."""

    targets: Annotated[tuple[FleetTarget, ...], Field(min_length=1, max_length=5_000)]
    waves: Annotated[tuple[Wave, ...], Field(max_length=100)] = Field(
        default=(), description="Waves of fleet/canary, in order. Each target belongs to one. Without: all in one wave."
    )
    bake_minutes: Annotated[float, Field(ge=0, le=7 * 24 * 60)] = Field(
        default=30, description="Time between two waves, in minutes. Then the targets' status decides."
    )
    side_by_side: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=20, description="How many targets of a wave are deployed to at once, at most."
    )
    on_trouble: Literal["stop", "wave", "all"] = Field(
        default="wave",
        description="What is rolled back when one target does not stay on the new version: nothing more, its wave, "
        "or everything that this run deployed.",
    )
    unreachable: Literal["stop", "go_on"] = Field(
        default="stop", description="Whether a target that cannot be reached stops the others."
    )

    @property
    def expanded(self) -> tuple[FleetTarget, ...]:
        """The targets, one for each region."""
        found = []
        for target in self.targets:
            for region in target.regions:
                update = {"name": f"{target.name}-{region}", "region": region, "regions": ()}
                found.append(target.model_copy(update=update))
            if not target.regions:
                found.append(target)
        return tuple(found)

    @model_validator(mode="after")
    def _name_each_once(self) -> "Fleet":
        names = [target.name for target in self.expanded]
        # To count each name is quadratic, and a fleet has up to 5,000.
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"targets of the same name: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _assign_each_once(self) -> "Fleet":
        if not self.waves:
            return self
        names = [wave.name for wave in self.waves]
        problems = [
            f"{name}: two waves have this name" for name in sorted({each for each in names if names.count(each) > 1})
        ]
        known = {target.name for target in self.expanded}
        for wave in self.waves:
            problems += [f"{wave.name}: there is no target {name}" for name in wave.targets if name not in known]
            if not any(map(wave.has, self.expanded)):
                problems.append(f"{wave.name}: no target belongs to it")
        for target in self.expanded:
            found = [wave.name for wave in self.waves if wave.has(target)]
            if len(found) != 1:
                problems.append(f"{target.name} is in {join_words(found) or 'no wave'}")
        if problems:
            raise ValueError(f"each target belongs to one wave: {'; '.join(problems)}")
        return self

    def in_waves(self, targets: Sequence[FleetTarget]) -> tuple[tuple[str, tuple[FleetTarget, ...]], ...]:
        """These targets by wave, in the waves' order; a wave without any of them is left out."""
        if not self.waves:
            return ((ONLY_WAVE, tuple(targets)),)
        found = ((wave.name, tuple(filter(wave.has, targets))) for wave in self.waves)
        return tuple((name, chosen) for name, chosen in found if chosen)

    def select(self, labels: Mapping[str, str]) -> tuple[FleetTarget, ...]:
        """The targets that have all of these labels.

        Raises:
            InvalidInput: ``fleet-selection``: none has them.
        """
        found = tuple(target for target in self.expanded if labels.items() <= target.labels.items())
        if found:
            return found
        wanted = ", ".join(f"{name}={value}" for name, value in labels.items())
        known = sorted({f"{name}={value}" for target in self.targets for name, value in target.labels.items()})
        raise InvalidInput(
            "fleet-selection",
            f"No target of {SOURCE} has {wanted}.{did_you_mean(wanted, known)}",
            next=f"Choose among {', '.join(known[:20]) or 'no labels: no target has any'}.",
        )


def parse_labels(given: tuple[str, ...]) -> dict[str, str]:
    """Labels from 'team=payments' as typed.

    Raises:
        InvalidInput: ``fleet-selection``.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not LABEL.fullmatch(name) or not LABEL.fullmatch(value):
            raise InvalidInput(
                "fleet-selection",
                f"{text[:100]!r} is no label.",
                next="Give NAME=VALUE, for example team=payments.",
            )
        found[name] = value
    return found


def parse_fleet(text: str) -> Fleet:
    """The targets in the text of a fleet's file.

    Raises:
        InvalidInput: ``invalid-settings``, with every problem and its key.
    """
    try:
        return Fleet.model_validate(parse_yaml(text))
    except ValidationError as error:
        problems = []
        for each in error.errors():
            # pydantic's own words before the text of a ValueError.
            said = each["msg"].removeprefix("Value error, ")
            where = ".".join(map(str, each["loc"]))
            problems.append(f"{where}: {said}" if where else said)
        raise invalid(SOURCE, problems) from None
    except ValueError as error:
        raise invalid(SOURCE, [str(error)]) from None
