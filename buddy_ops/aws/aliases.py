"""The alias and the versions behind it: read, publish, shift traffic.

The alias's Description holds a record of its rollout (``RolloutState``), so that any machine can resume or explain it.
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
from buddy_ops.core.errors import AwsFailed, BuddyError, Conflict, InvalidInput, NotFound, Refused
from buddy_ops.core.text import parse_utc, time_of_day

RECORD_LIMIT = 256
"""Characters that Lambda allows in an alias's Description. Source: Lambda API reference, UpdateAlias."""

REJECTED_KEPT = 3
REPORTED_MS = re.compile(r"\t(?:Init )?Duration: ([\d.]+) ms")
"""The times in a REPORT line: the request's own, and that of a cold start before it."""

ENDED = {
    "watch": "monitored at 100 %",
    "proved": "at 100 %, healthy",
    "unproven": "at 100 %, health check inconclusive",
    "rolled-back": "rolled back",
    "held": "rolled back, health check inconclusive",
}
"""A record's stage in words."""

STATUS = {
    "watch": "v{new} was deployed by run {run}{replaced}. It receives 100 % of traffic and is monitored since {since}.",
    "proved": "v{new} was deployed by run {run} at {since}{replaced}. Health check: healthy.",
    "unproven": "v{new} was deployed by run {run} at {since}{replaced}. Health check inconclusive.",
    "rolled-back": "v{new} was rolled back by run {run} at {since}.",
    "held": "v{new} was rolled back by run {run} at {since}. Health check inconclusive.",
}
"""A record's stage as a sentence."""

SHIFTING = "v{new} is being deployed by run {run}{replaced}: stage {stage} since {since}."

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
    """What the alias's Description says of the rollout that last changed it.

    Attributes:
        run: the id of the run that wrote it.
        stable_version: the version that served before.
        new_version: the version being rolled out.
        stage: '1', '2', ... while traffic is split; 'watch' after 100 %; then 'proved', 'unproven', 'rolled-back' or
            'held'.
        since: when this stage began, ISO 8601 UTC.
        stage_ages_s: seconds from the beginning of each earlier stage to ``since``, the first stage first, so that a
            resumed rollout knows the weight of every minute.
        rejected_versions: versions that were rolled back, the newest three.
        fallback_version: where a rollback of ``stable_version`` itself goes; empty if unknown.
        probe: whether a probe stage came before the policy's stages.
        closed_by_run: the run that wrote this last, where it is not ``run``: a rollback.
        note: the start of the Description that a person had written before.
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
        """Whether the rollout is still in progress."""
        return self.stage == "watch" or self.shifting

    @property
    def shifting(self) -> bool:
        """Whether traffic is split: the stage is a number."""
        return self.stage.isascii() and self.stage.isdecimal()

    def with_rejected(self, version: str) -> "RolloutState":
        """The same record with one more version that is excluded as rollback target."""
        others = [rejected for rejected in self.rejected_versions if rejected != version]
        return replace(self, rejected_versions=(*others, version)[-REJECTED_KEPT:])

    def encode(self) -> str:
        """Compact JSON of at most 256 characters. The note is cut first."""
        values = {"v": 1} | {
            JSON_KEYS.get(name, name): value
            for name, value in asdict(self).items()
            if name == "stable_version" or value not in ("", (), False)
        }
        text = json.dumps(values, separators=(",", ":"))
        if len(text) <= RECORD_LIMIT or not self.note:
            return text
        # A character may take several in JSON, so the note is cut one by one.
        return replace(self, note=self.note[:-1]).encode()


def decode_rollout_state(description: str) -> RolloutState | None:
    """The record in a Description; None where there is none that can be read."""
    try:
        values = json.loads(description)
        if values.pop("v") != 1:
            return None
        fields = {ATTRIBUTES.get(key, key): value for key, value in values.items()}
        fields["rejected_versions"] = tuple(map(str, fields.get("rejected_versions", ())))
        fields["stage_ages_s"] = tuple(map(int, fields.get("stage_ages_s", ())))
        record = RolloutState(**fields)
        complete = record.run and record.new_version and record.stage
        if not complete or datetime.fromisoformat(record.since).tzinfo is None:
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
        """Whether the failsafe has rolled an open rollout back to the stable version."""
        record = self.rollout
        return record is not None and record.open and self.additional is None and self.primary == record.stable_version

    @property
    def stable(self) -> str | None:
        """The version that keeps the traffic when split traffic is rolled back; None if unknown.

        The record decides: other tools may make the new version the primary one, and give the old one a weight of
        80 %. Without split traffic it is the version that serves alone.
        """
        if self.additional is None:
            return self.primary
        record = self.rollout
        if record is None or {record.stable_version, record.new_version} != {self.primary, self.additional}:
            return None
        # While a rollout is in progress a person has chosen its stable version, even if that was rolled back once.
        rejected = (
            record.stable_version in record.rejected_versions
            and record.new_version not in record.rejected_versions
            and not record.open
        )
        return None if rejected else record.stable_version

    @property
    def canary(self) -> str | None:
        """The version that loses its traffic in a rollback; None if unknown, or if traffic is not split."""
        if self.additional is None or self.stable is None:
            return None
        return self.additional if self.stable == self.primary else self.primary

    @property
    def draining(self) -> bool:
        """Whether a gradual rollback is in progress: the rollout is closed, and its version still has a weight."""
        record = self.rollout
        return record is not None and record.stage == "rolled-back" and self.additional == record.new_version

    def __str__(self) -> str:
        if self.additional is None:
            return f"100 % v{self.primary}"
        return f"{100 - 100 * self.weight:g} % v{self.primary}, {100 * self.weight:g} % v{self.additional}"


@dataclass(frozen=True)
class AliasState:
    """What an alias is to be changed to."""

    primary: str
    additional: str | None
    weight: float
    rollout: RolloutState

    def matches(self, alias: Alias) -> bool:
        """Whether the alias is so already, by this same run."""
        routing = (alias.primary, alias.additional, alias.weight)
        wanted = (self.primary, self.additional, self.weight)
        return routing == wanted and alias.description == self.rollout.encode()


class AliasMoved(Refused):
    """Another run or tool changed the alias. ``alias`` is its state now."""

    def __init__(self, target: Target, alias: Alias) -> None:
        by = ""
        if alias.rollout:
            by = f" by run {alias.rollout.closed_by_run or alias.rollout.run}"
        super().__init__(
            "alias-moved",
            f"The alias {target.resource} was changed{by} after this run had read it.",
            now=f"{target.resource} serves {alias}; this run changed nothing after that.",
            next="Open start_here. It shows which rollout is in progress, and links to the runbook to use.",
        )
        self.alias = alias


def describe(target: Target, alias: Alias | None) -> str:
    """The alias in sentences: which versions serve, which run deployed them, and which are marked bad."""
    if alias is None:
        return f"{target.resource} does not exist: nothing was ever deployed behind it."
    lines = [f"{target.resource} serves {alias}."]
    if alias.stable is None:
        lines.append("The deployment record does not say which of the two versions is stable.")
    elif alias.stable != alias.primary:
        lines.append(f"v{alias.stable} is stable. Another tool made v{alias.primary} the primary version.")
    record = alias.rollout
    if record is None:
        lines.append("No deployment record on this alias (it was last changed outside Buddy Ops).")
        return "\n".join(lines)
    replaced = f" (replacing v{record.stable_version})" if record.stable_version else ""
    closed = record.stage in ("rolled-back", "held")
    status = STATUS.get(record.stage, SHIFTING).format(
        new=record.new_version,
        run=record.closed_by_run if closed and record.closed_by_run else record.run,
        replaced=replaced,
        stage=record.stage,
        since=time_of_day(parse_utc(record.since), target.clock.now()),
    )
    lines.append(status)
    if alias.draining:
        lines.append(f"The remaining traffic of v{record.new_version} is shifted back in steps.")
    if record.rejected_versions:
        lines.append(f"Marked bad (excluded as rollback target): v{', v'.join(record.rejected_versions)}.")
    return "\n".join(lines)


def read_alias(target: Target) -> Alias | None:
    """The alias now, or None if the function has no such alias. AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``function-missing``.
    """
    try:
        return _alias(target.client("lambda").get_alias(**_name(target)))
    except NotFound:
        # Is it the alias or the function that does not exist?
        get_configuration(target)
        return None


def require_alias(target: Target) -> Alias:
    """The alias. AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``alias-missing``, ``function-missing``.
    """
    alias = read_alias(target)
    if alias is None:
        raise InvalidInput(
            "alias-missing",
            f"{target.settings.function} has no alias {target.settings.alias}: nothing was ever deployed behind it.",
            next="Check function and alias in the environment's parameters/ file. strategies/* create the alias.",
        )
    return alias


def update_alias(target: Target, held: Alias | None, to: AliasState) -> Alias:
    """Shift traffic in one write, on condition of the RevisionId in ``held``; create the alias if ``held`` is None.

    FunctionVersion and RoutingConfig are always both sent: without an explicitly empty map a bad version may keep its
    weight. After a 412 or an unanswered call the alias is read again and compared with ``to``: the SDK's own retry
    fails after a first attempt that took effect.

    AWS: lambda:UpdateAlias or lambda:CreateAlias, writes.

    Raises:
        AliasMoved: another run or tool changed it.
        AwsFailed: AWS refused or could not be reached; ``now`` says what the alias is after it, if it could be read.
    """
    weights = {to.additional: to.weight} if to.additional else {}
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
    """The alias after a write that failed or was not answered, if it is as wanted; else the error to raise."""
    try:
        alias = read_alias(target)
    except BuddyError:
        before = f"it served {held} before" if held else "it did not exist before"
        failure.now = f"Unknown: {target.resource} could not be read after the write failed; {before}."
        raise failure from None
    if alias is None:
        failure.now = f"{target.resource} does not exist; this write changed nothing."
        raise failure from None
    if to.matches(alias):
        return alias
    if isinstance(failure, Conflict) and (held is None or alias.revision != held.revision):
        raise AliasMoved(target, alias) from None
    failure.now = f"{target.resource} serves {alias}; this write changed nothing."
    raise failure from None


def describe_current_state(target: Target, last: Alias | None, at: datetime) -> str:
    """What the alias serves now, for an error's state; if it cannot be read, what ``last`` was, read ``at`` a time.

    AWS: lambda:GetAlias, reads only.
    """
    try:
        alias = read_alias(target)
    except BuddyError:
        was = f"{target.resource} served {last}" if last else f"there was no alias {target.resource}"
        return f"Unknown, last read at {time_of_day(at, target.clock.now())}: {was}."
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
    except NotFound:
        missing = (
            f"version {version} of {target.settings.function}" if version else f"function {target.settings.function}"
        )
        raise InvalidInput(
            "version-missing" if version else "function-missing",
            f"There is no {missing} in {target.region}.",
            next="Check function and region in the environment's parameters/ file, and which account you use.",
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
        BuddyError: ``environment-unreadable``: Lambda does not show them, so that writing the map would lose them.
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
        # The SDK's own retry fails after a first attempt that took effect and was not answered.
        latest = get_configuration(target)
        if latest["CodeSha256"] != code_sha256(archive):
            raise
        return latest


def update_environment(target: Target, variables: Mapping[str, str], revision: str) -> None:
    """Replace the whole environment of $LATEST. AWS: lambda:UpdateFunctionConfiguration, writes; guarded by RevisionId.

    Raises:
        AwsFailed: without AWS's message, which may repeat every value.
    """
    environment: Any = {"Variables": dict(variables)}
    try:
        target.client("lambda").update_function_configuration(
            FunctionName=target.settings.function, Environment=environment, RevisionId=revision
        )
    except AwsFailed as failure:
        if environment_variables(get_configuration(target)) == variables:
            return  # as with the upload, it took effect without an answer
        failure.what = f"AWS refused the environment of {target.settings.function}: {failure.code}."
        failure.args = (failure.what,)
        raise failure from None


def publish_version(target: Target, latest: Mapping[str, Any], description: str) -> str:
    """Publish $LATEST, as ``latest`` was read, as a version; its number.

    AWS: lambda:PublishVersion, writes; guarded by CodeSha256 and RevisionId.

    Lambda returns the last version, and says nothing, if that has the same code and configuration.
    """
    fields = {"CodeSha256": latest["CodeSha256"], "RevisionId": latest["RevisionId"], "Description": description}
    try:
        return str(target.client("lambda").publish_version(FunctionName=target.settings.function, **fields)["Version"])
    except AwsFailed:
        # As with the upload, it may have been published without an answer.
        newest = (list_versions(target) or [{}])[-1]
        if any(newest.get(each) != latest.get(each) for each in ("CodeSha256", "Environment")):
            raise
        return str(newest["Version"])


@dataclass(frozen=True)
class InvocationResult:
    """A version's answer. ``failure`` is Lambda's FunctionError; ``took_s`` includes a cold start."""

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
    # Lambda's own figures do not include this machine's network.
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
