"""Versions and the alias: reading, publishing, shifting traffic, smoke tests.

Knows the alias record and Lambda's rules for weights. Never decides which version is good.
"""

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from buddy_ops.aws.session import Target
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput, Refused

RECORD_LIMIT = 256
"""Characters that Lambda allows in an alias's Description. Source: Lambda API reference, UpdateAlias."""

REJECTED_KEPT = 3
REPORTED_MS = re.compile(r"\t(?:Init )?Duration: ([\d.]+) ms")
"""The times in a REPORT line: the request's own, and that of a cold start before it."""

ENDED = {
    "watch": "100 %, watched",
    "proved": "proved healthy, at 100 %",
    "unproven": "at 100 %, its health not proved,",
    "rolled-back": "taken back",
    "held": "taken back without a verdict",
}
"""What a record's stage means to a reader."""


JSON_KEYS = {
    "stable_version": "from",
    "new_version": "to",
    "stage_ages_s": "ago",
    "rejected_versions": "bad",
    "fallback_version": "prev",
    "closed_by_run": "by",
}
"""The JSON keys of attributes that have another name there: the Description holds 256 characters."""

ATTRIBUTES = {key: name for name, key in JSON_KEYS.items()}


@dataclass(frozen=True)
class RolloutState:
    """What the alias's Description says of the rollout that put it where it is.

    Attributes:
        run: the id of the run that wrote it.
        source: the version that served before ('from' in the JSON).
        to: the version being rolled out.
        stage: '1', '2', ... while shifting; 'watch' after 100 %; then 'proved', 'unproven', 'rolled-back', 'held'.
        since: when this stage began, ISO 8601 UTC.
        ago: seconds from each earlier stage's beginning to ``since``, the first stage first; so a resumed rollout knows
            under which weight every minute was served.
        bad: versions that a verdict or a person rolled back from, the newest three.
        prev: the version to return to if ``source`` itself must go; empty if none is known.
        probe: whether a probe stage came before the policy's stages.
        by: the run that wrote this last, where it is another than ``run``: a rollback.
        note: the start of a human's Description that stood there before.
    """

    run: str
    stable_version: str
    new_version: str
    stage: str
    since: str
    stage_ages_s: tuple[int, ...] = ()
    rejected_versions: tuple[str, ...] = ()
    fallback_version: str = ""
    probe: bool = False
    closed_by_run: str = ""
    note: str = ""

    @property
    def open(self) -> bool:
        """Whether a rollout is still under way."""
        return self.stage == "watch" or self.shifting

    @property
    def shifting(self) -> bool:
        """Whether traffic is split: the stage is a number."""
        return self.stage.isascii() and self.stage.isdecimal()

    def with_rejected(self, version: str) -> "RolloutState":
        """The same record with one more version that no rollback returns to."""
        others = [rejected for rejected in self.rejected_versions if rejected != version]
        return replace(self, rejected_versions=(*others, version)[-REJECTED_KEPT:])

    def encode(self) -> str:
        """Compact JSON of at most 256 characters; the note gives way first."""
        values = {JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}
        note = self.note
        while True:
            values["note"] = note
            kept = {"v": 1} | {
                key: value for key, value in values.items() if key == "from" or value not in ("", (), False)
            }
            text = json.dumps(kept, separators=(",", ":"))
            if len(text) <= RECORD_LIMIT or not note:
                return text
            note = note[:-1]


def decode_rollout_state(description: str) -> RolloutState | None:
    """The record in a Description, or None: what is not ours or cannot be read means 'no rollout known'."""
    try:
        values = json.loads(description)
        if values.pop("v") != 1:
            return None
        fields = {ATTRIBUTES.get(key, key): value for key, value in values.items()}
        fields["rejected_versions"] = tuple(map(str, fields.get("rejected_versions", ())))
        fields["stage_ages_s"] = tuple(map(int, fields.get("stage_ages_s", ())))
        record = RolloutState(**fields)
        if (
            not (record.run and record.new_version and record.stage)
            or datetime.fromisoformat(record.since).tzinfo is None
        ):
            return None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    texts = (
        record.run,
        record.stable_version,
        record.new_version,
        record.stage,
        record.since,
        record.fallback_version,
        record.closed_by_run,
        record.note,
    )
    return record if all(isinstance(text, str) for text in texts) and isinstance(record.probe, bool) else None


@dataclass(frozen=True)
class Alias:
    """The alias as AWS holds it. ``weight`` is the second version's share of the traffic, 0..1."""

    primary: str
    additional: str | None
    weight: float
    revision: str
    rollout: RolloutState | None
    description: str

    @property
    def failsafe_triggered(self) -> bool:
        """Whether the lease or the guard has taken an open rollout's traffic back to where it came from."""
        record = self.rollout
        return record is not None and record.open and self.additional is None and self.primary == record.stable_version

    @property
    def stable(self) -> str | None:
        """The version that keeps the traffic in a rollback while it is split; None where nothing says which.

        Our record decides, since other tools write the share the other way round: the new version as the primary and
        the old one, with 80 %, beside it. Without a split, what serves alone.
        """
        if self.additional is None:
            return self.primary
        record = self.rollout
        if record is None or {record.stable_version, record.new_version} != {self.primary, self.additional}:
            return None
        # While a rollout is under way its source serves by a person's choice, even if it was rolled back from once.
        rejected = (
            record.stable_version in record.rejected_versions
            and record.new_version not in record.rejected_versions
            and not record.open
        )
        return None if rejected else record.stable_version

    @property
    def canary(self) -> str | None:
        """The version that loses its traffic in a rollback; None where nothing says which, or there is no split."""
        if self.additional is None or self.stable is None:
            return None
        return self.additional if self.stable == self.primary else self.primary

    @property
    def draining(self) -> bool:
        """Whether a gradual rollback is on its way: the rollout is closed, and the rest of its share under a lease."""
        record = self.rollout
        return record is not None and record.stage == "rolled-back" and self.additional == record.new_version

    def __str__(self) -> str:
        if self.additional is None:
            return f"100 % v{self.primary}"
        return f"{100 - 100 * self.weight:g} % v{self.primary}, {100 * self.weight:g} % v{self.additional}"


@dataclass(frozen=True)
class AliasState:
    """Where an alias shall be."""

    primary: str
    additional: str | None
    weight: float
    rollout: RolloutState

    def matches(self, alias: Alias) -> bool:
        """Whether the alias is there already, by this same run."""
        where = (alias.primary, alias.additional, alias.weight)
        return where == (self.primary, self.additional, self.weight) and alias.description == self.rollout.encode()


class AliasMoved(Refused):
    """Somebody else moved the alias. ``alias`` is what it says now."""

    def __init__(self, target: Target, alias: Alias) -> None:
        by = f" by run {alias.rollout.closed_by_run or alias.rollout.run}" if alias.rollout else ""
        super().__init__(
            "alias-moved",
            f"The alias {target.resource} was changed{by} while this run held an older state of it.",
            now=f"{target.resource} serves {alias}; this run changed nothing after that.",
            next="Open start_here: it shows whose rollout is under way, and links to the runbook to use.",
        )
        self.alias = alias


def describe(target: Target, alias: Alias | None) -> str:
    """What the alias says, in sentences: what serves, whose rollout put it there, and what nobody returns to."""
    if alias is None:
        return f"{target.resource} does not exist: nothing was ever deployed behind it."
    told = [f"{target.resource} serves {alias}."]
    record = alias.rollout
    if alias.stable is None:
        told.append("Nothing says which of the two versions is the stable one.")
    elif alias.stable != alias.primary:
        told.append(f"v{alias.stable} is the stable version; another tool made v{alias.primary} the primary one.")
    if record is None:
        told.append("No rollout of ours is recorded on the alias.")
    else:
        after = f" after v{record.stable_version}" if record.stable_version else ""
        ended = ENDED.get(record.stage, f"at stage {record.stage}")
        verb = "is rolling" if record.open else "rolled"
        told.append(f"Run {record.run} {verb} v{record.new_version} out{after}: {ended} since {record.since}.")
        if alias.draining:
            told.append(
                f"Run {record.closed_by_run or record.run} takes the rest of "
                f"v{record.new_version}'s share away in steps."
            )
        if record.rejected_versions:
            told.append(f"Known bad, so that no rollback returns to it: v{', v'.join(record.rejected_versions)}.")
    return "\n".join(told)


def read_alias(target: Target) -> Alias | None:
    """The alias now, or None if the function has no such alias. AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``function-missing``.
    """
    try:
        return _alias(target.client("lambda").get_alias(**_name(target)))
    except AwsFailed as failure:
        if failure.code != "ResourceNotFoundException":
            raise
    get_configuration(target)
    return None


def update_alias(target: Target, held: Alias | None, to: AliasState) -> Alias:
    """Move traffic in one write, guarded by the RevisionId that we hold; create the alias if there is none.

    Both FunctionVersion and RoutingConfig are always sent: an UpdateAlias without an explicitly empty map may leave a
    bad version its share. After a 412 or an unanswered call the alias is read again and compared with the intention,
    since the SDK's own retry can collide with the first attempt's success.

    AWS: lambda:UpdateAlias or lambda:CreateAlias, writes.

    Raises:
        AliasMoved: somebody else moved it.
        AwsFailed: AWS refused or could not be reached; ``now`` says what the alias is after it, if it could be read.
    """
    weights = {} if to.additional is None else {to.additional: to.weight}
    client = target.client("lambda")
    fields: Any = {
        **_name(target),
        "FunctionVersion": to.primary,
        "RoutingConfig": {"AdditionalVersionWeights": weights},
        "Description": to.rollout.encode(),
    }
    try:
        if held is None:
            return _alias(client.create_alias(**fields))
        return _alias(client.update_alias(**fields, RevisionId=held.revision))
    except AwsFailed as failure:
        return _settle(target, held, to, failure)


def _settle(target: Target, held: Alias | None, to: AliasState, failure: AwsFailed) -> Alias:
    """After a write that failed or was not answered: what the alias says now decides what is told."""
    try:
        alias = read_alias(target)
    except BuddyError:
        before = f"it served {held} before" if held else "it did not exist before"
        failure.now = f"Unknown: {target.resource} could not be read after the write failed; {before}."
        raise failure from None
    if alias is not None and to.matches(alias):
        return alias
    collided = failure.code in ("PreconditionFailedException", "ResourceConflictException")
    if alias is not None and collided and (held is None or alias.revision != held.revision):
        raise AliasMoved(target, alias) from None
    failure.now = f"{target.resource} {f'serves {alias}' if alias else 'does not exist'}; this write changed nothing."
    raise failure from None


def describe_current_state(target: Target, last: Alias | None, at: datetime) -> str:
    """What is live now, for an error's 'Now': read again, or as it was ``last`` read ``at`` that moment.

    AWS: lambda:GetAlias, reads only.
    """
    try:
        alias = read_alias(target)
    except BuddyError:
        was = f"{target.resource} served {last}" if last else f"there was no alias {target.resource}"
        return f"Unknown, last read at {at:%H:%M} UTC: {was}."
    return f"{target.resource} serves {alias}." if alias else f"There is no alias {target.resource}."


def get_configuration(target: Target, version: str | None = None) -> dict[str, Any]:
    """A version's (or $LATEST's) configuration. AWS: lambda:GetFunctionConfiguration, reads only.

    Raises:
        InvalidInput: ``function-missing`` or ``version-missing``.
    """
    fields = {"FunctionName": target.settings.function}
    if version:
        fields["Qualifier"] = version
    try:
        return dict(target.client("lambda").get_function_configuration(**fields))
    except AwsFailed as failure:
        if failure.code != "ResourceNotFoundException":
            raise
        missing = (
            f"version {version} of {target.settings.function}" if version else f"function {target.settings.function}"
        )
        raise InvalidInput(
            "version-missing" if version else "function-missing",
            f"There is no {missing} in {target.region}.",
            next="Check function and region in the environment's parameters/ file, and which account you are in.",
        ) from None


def list_versions(target: Target) -> list[dict[str, Any]]:
    """All published versions, oldest first, every page. AWS: lambda:ListVersionsByFunction, reads only."""
    pages = target.client("lambda").get_paginator("list_versions_by_function")
    return [
        dict(version)
        for page in pages.paginate(FunctionName=target.settings.function)
        for version in page["Versions"]
        if version["Version"] != "$LATEST"
    ]


def code_sha256(archive: bytes) -> str:
    """The CodeSha256 that Lambda gives these bytes."""
    return b64encode(hashlib.sha256(archive).digest()).decode()


def environment_variables(configuration: Mapping[str, Any]) -> dict[str, str]:
    """A configuration's environment variables. Their values may be secrets: they are never shown or journaled.

    Raises:
        BuddyError: ``environment-unreadable``: Lambda keeps them back, so that writing the map would lose them.
    """
    held = configuration.get("Environment") or {}
    if "Error" in held:
        raise BuddyError(
            "environment-unreadable",
            f"Lambda does not show the environment variables of {configuration.get('FunctionName', 'the function')}: "
            f"{held['Error'].get('ErrorCode', 'no reason given')}.",
            next="Let the caller decrypt with the function's KMS key (kms:Decrypt).",
        )
    return dict(held.get("Variables") or {})


def upload_code(target: Target, archive: bytes, revision: str) -> dict[str, Any]:
    """Put a zip into $LATEST. AWS: lambda:UpdateFunctionCode, writes; guarded by RevisionId."""
    name = target.settings.function
    try:
        client = target.client("lambda")
        return dict(client.update_function_code(FunctionName=name, ZipFile=archive, RevisionId=revision))
    except AwsFailed:
        # The SDK's own retry collides with a first attempt that took effect and was not answered.
        latest = get_configuration(target)
        if latest["CodeSha256"] != code_sha256(archive):
            raise
        return latest


def update_environment(target: Target, variables: Mapping[str, str], revision: str) -> None:
    """Replace the whole environment of $LATEST. AWS: lambda:UpdateFunctionConfiguration, writes; guarded by RevisionId.

    Raises:
        AwsFailed: without AWS's own words, which may repeat every value.
    """
    environment: Any = {"Variables": dict(variables)}
    try:
        target.client("lambda").update_function_configuration(
            FunctionName=target.settings.function, Environment=environment, RevisionId=revision
        )
    except AwsFailed as failure:
        if environment_variables(get_configuration(target)) == variables:
            return  # as with the upload: it took effect without an answer
        failure.what = f"AWS did not take in the environment of {target.settings.function}: {failure.code}."
        failure.args = (failure.what,)
        raise failure from None


def publish_version(target: Target, latest: Mapping[str, Any], description: str) -> str:
    """Publish $LATEST, as ``latest`` was read, as a version; its number.

    AWS: lambda:PublishVersion, writes; guarded by CodeSha256 and RevisionId.

    Publishing what the last version is already returns that version, without saying so: look before (``versions``).
    """
    fields = {"CodeSha256": latest["CodeSha256"], "RevisionId": latest["RevisionId"], "Description": description}
    try:
        return str(target.client("lambda").publish_version(FunctionName=target.settings.function, **fields)["Version"])
    except AwsFailed:
        # As with the upload: it may have been published, without an answer.
        newest = (list_versions(target) or [{}])[-1]
        if any(newest.get(each) != latest.get(each) for each in ("CodeSha256", "Environment")):
            raise
        return str(newest["Version"])


@dataclass(frozen=True)
class InvocationResult:
    """What a version answered. ``failure`` is Lambda's FunctionError; ``took_s`` counts the cold start, if told."""

    payload: Any
    failure: str | None
    version: str
    took_s: float


def invoke(target: Target, qualifier: str, event: dict[str, Any]) -> InvocationResult:
    """Call a version or alias once. AWS: lambda:InvokeFunction; runs the skill's code."""
    # Sent once: a request that is repeated may act twice.
    reply = target.client("lambda", attempts=1).invoke(
        FunctionName=target.settings.function,
        Qualifier=qualifier,
        LogType="Tail",
        Payload=json.dumps(event).encode(),
    )
    # Lambda's own figures: this machine's network is none of the skill's time.
    took = REPORTED_MS.findall(b64decode(reply.get("LogResult", "")).decode(errors="replace"))
    payload = json.loads(reply["Payload"].read() or b"{}")
    version = str(reply.get("ExecutedVersion", ""))
    return InvocationResult(payload, reply.get("FunctionError"), version, sum(map(float, took)) / 1000)


def _name(target: Target) -> dict[str, str]:
    return {"FunctionName": target.settings.function, "Name": target.settings.alias}


def _alias(reply: Mapping[str, Any]) -> Alias:
    weights = (reply.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    second, weight = next(iter(weights.items()), (None, 0.0))
    description = reply.get("Description", "")
    return Alias(
        primary=str(reply["FunctionVersion"]),
        additional=second,
        weight=float(weight),
        revision=str(reply["RevisionId"]),
        rollout=decode_rollout_state(description),
        description=description,
    )
