"""The alias: read it, shift its traffic.

The alias's Description holds a record of its rollout (``RolloutState``), so that any machine can resume or explain it.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from buddy_ops.aws import versions
from buddy_ops.aws.session import Target
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AwsFailed, BuddyError, Conflict, InvalidInput, NotFound, Refused
from buddy_ops.core.settings import STREAM_NAME
from buddy_ops.core.text import parse_utc, time_of_day

if TYPE_CHECKING:
    from types_boto3_lambda.type_defs import (
        AliasConfigurationResponseTypeDef,
        AliasConfigurationTypeDef,
        CreateAliasRequestTypeDef,
    )

RECORD_LIMIT = 256
"""Characters that Lambda allows in an alias's Description. Source: Lambda API reference, UpdateAlias."""

REJECTED_KEPT = 3
"""How many versions a record marks bad: the newest."""

# Its keys are in records on AWS: they stay although their words have changed.
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

NAMED = "Run {run} rolled back to v{to}, which a person named, at {since}."

SHIFTING = "v{new} is being deployed by run {run}{replaced}: stage {stage} since {since}."

# Records that earlier releases wrote have these keys, so no key changes.
JSON_KEYS = {
    "stable_version": "from",
    "new_version": "to",
    "stage_ages_s": "ago",
    "rejected_versions": "bad",
    "fallback_version": "prev",
    "closed_by_run": "by",
    "shares_percent": "pct",
    "monitored_until": "until",
    "follows": "after",
    "rolled_back_to": "back",
    "accepted": "ok",
}
"""The JSON keys of attributes that have another name there: the Description holds 256 characters."""

ATTRIBUTES = {key: name for name, key in JSON_KEYS.items()}
RUN = re.compile(r"[\w.-]{1,64}", re.ASCII)
STAGE = re.compile(r"[0-9a-z-]{1,20}", re.ASCII)
STREAM = re.compile(STREAM_NAME, re.ASCII)
NUMBER = re.compile(r"[0-9]*|\$LATEST", re.ASCII)
"""What a record may have as a run's id, as a stage, as a stream's name, and as a version or a mark."""

TEXTS = (
    "run",
    "stable_version",
    "new_version",
    "stage",
    "since",
    "fallback_version",
    "closed_by_run",
    "monitored_until",
    "note",
    "follows",
    "rolled_back_to",
)


@dataclass(frozen=True)
class RolloutState:
    """What the alias's Description says of the rollout that last changed it.

    Attributes:
        run: the id of the run that wrote it.
        stable_version: the version that served before.
        new_version: the version being rolled out.
        stage: '1', '2', ... while traffic is split; 'watch' after 100 %; then a key of ``ENDED``.
        since: when this stage began, ISO 8601 UTC.
        stage_ages_s: seconds from the beginning of each earlier stage to ``since``, the first stage first, so that a
            resumed rollout has the weight of every minute.
        rejected_versions: versions that were rolled back, the newest three.
        fallback_version: where a rollback of ``stable_version`` itself goes; empty if unknown.
        probe: whether a ramp came before the policy's stages.
        closed_by_run: the run that wrote this last, where it is not ``run``: a rollback.
        monitored_until: a healthy version is monitored until then, ISO 8601 UTC; empty if it is not.
        note: the start of the Description that a person had written before.
        shares_percent: the new version's share in each stage so far, the present one last. Empty in records of earlier
            releases, and where the Description is full.
        follows: the ``mark`` of the record before; empty if there was none, or where the Description is full.
        rolled_back_to: the version that a person named for a rollback, where it is not ``stable_version``.
        accepted: streams in which a person promoted the new version although it is worse. Left out where the
            Description is full: then a resumed run asks again.
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
    monitored_until: str = ""
    note: str = ""
    shares_percent: tuple[float, ...] = ()
    follows: str = ""
    rolled_back_to: str = ""
    accepted: tuple[str, ...] = ()

    @property
    def left_serving(self) -> str:
        """The version that serves alone after the rollout: the new one, or after a rollback the one returned to."""
        if self.rolled_back:
            return self.rolled_back_to or self.stable_version
        return self.new_version

    @property
    def mark(self) -> str:
        """What distinguishes this record from any other: when its stage began, in seconds since 1970."""
        return str(int(parse_utc(self.since).timestamp()))

    @property
    def open(self) -> bool:
        """Whether the rollout is still in progress."""
        return self.stage == "watch" or self.shifting

    @property
    def rolled_back(self) -> bool:
        """Whether the rollout was rolled back; also where its health check was inconclusive."""
        return self.stage in ("rolled-back", "held")

    @property
    def shares(self) -> tuple[float, ...]:
        """The new version's share in each stage so far, 0..1; empty if the record does not say."""
        # A record that was full has dropped its shares: those added since do not say which stages they are of.
        if len(self.shares_percent) != len(self.stage_ages_s) + 1:
            return ()
        # Rounded as ``with_share`` does: 2.9 / 100 is not quite 0.029.
        return tuple(round(percent / 100, 6) for percent in self.shares_percent)

    def with_share(self, share: float) -> "RolloutState":
        """The same record for a further stage, of this share (0..1)."""
        percent = round(100 * share, 4)
        # 10 is shorter than 10.0, and a description has 256 characters.
        if percent.is_integer():
            percent = int(percent)
        return replace(self, shares_percent=(*self.shares_percent, percent))

    @property
    def shifting(self) -> bool:
        """Whether traffic is split: the stage is a number."""
        return self.stage.isascii() and self.stage.isdecimal()

    def monitors_at(self, now: datetime) -> bool:
        """Whether a healthy version is still to be monitored."""
        return self.stage == "proved" and bool(self.monitored_until) and now < parse_utc(self.monitored_until)

    def with_rejected(self, version: str) -> "RolloutState":
        """The same record with one more version that is excluded as rollback target."""
        others = [rejected for rejected in self.rejected_versions if rejected != version]
        return replace(self, rejected_versions=(*others, version)[-REJECTED_KEPT:])

    def encode(self) -> str:
        """Compact JSON of at most 256 characters. The note is cut first; then what a resumption could do without."""
        # A first deployment has no stable version: its key is written too, since a record without it cannot be read.
        values = {"v": 1} | {
            JSON_KEYS.get(name, name): value
            for name, value in asdict(self).items()
            if name == "stable_version" or value not in ("", (), False)
        }
        text = json.dumps(values, separators=(",", ":"))
        if len(text) <= RECORD_LIMIT:
            return text
        if not self.note:
            if self.accepted:
                return replace(self, accepted=()).encode()
            if self.follows:
                return replace(self, follows="").encode()
            if self.shares_percent:
                return replace(self, shares_percent=()).encode()
            # Nothing that a rollback needs is left out: rather AWS refuses the write.
            return text
        # A character may take several in JSON, so the note is cut one by one.
        return replace(self, note=self.note[:-1]).encode()


def decode_rollout_state(description: str) -> RolloutState | None:
    """The record in a Description; None where there is none that can be read."""
    try:
        values = parse_json(description, unique=True)
        # Another number is a later release's, which may mean something else by the same keys.
        if values.pop("v") != 1:
            return None
        fields = {ATTRIBUTES.get(key, key): value for key, value in values.items()}
        fields["rejected_versions"] = tuple(map(str, fields.get("rejected_versions", ())))
        fields["stage_ages_s"] = tuple(map(int, fields.get("stage_ages_s", ())))
        fields["shares_percent"] = tuple(map(float, fields.get("shares_percent", ())))
        fields["accepted"] = tuple(map(str, fields.get("accepted", ())))
        record = RolloutState(**fields)
        complete = record.run and record.new_version and record.stage
        if record.monitored_until:
            parse_utc(record.monitored_until)
        if not complete or datetime.fromisoformat(record.since).tzinfo is None:
            return None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    # A person or another tool may have written JSON of another kind under our keys.
    if not isinstance(record.probe, bool) or not all(isinstance(getattr(record, name), str) for name in TEXTS):
        return None
    # Everything but the note is what our runs write: a plan or a terminal shows it as it is.
    known = (
        *(RUN.fullmatch(text) for text in (record.run, record.closed_by_run) if text),
        STAGE.fullmatch(record.stage),
        *map(STREAM.fullmatch, record.accepted),
        *(NUMBER.fullmatch(text) for text in (record.stable_version, record.new_version, record.fallback_version)),
        *(NUMBER.fullmatch(text) for text in (*record.rejected_versions, record.follows, record.rolled_back_to)),
    )
    if not all(known):
        return None
    return record


@dataclass(frozen=True)
class Alias:
    """An alias as AWS holds it.

    Attributes:
        primary: the version that serves, or the rest of split traffic.
        additional: the second version while traffic is split, with its ``weight`` (0..1).
        revision: the RevisionId that guards a write.
        rollout: the record of the rollout that last changed it; None: ``description`` holds none.
    """

    name: str
    primary: str
    additional: str | None
    weight: float
    revision: str
    rollout: RolloutState | None
    description: str

    @property
    def serving(self) -> tuple[str, ...]:
        """The versions that it names; ``share`` says how much traffic each receives."""
        if self.additional:
            return self.primary, self.additional
        return (self.primary,)

    def share(self, version: str) -> float:
        """The version's share of the traffic, 0..1."""
        if self.additional is not None and version == self.additional:
            return self.weight
        if version != self.primary:
            return 0.0
        # Rounded, since 1 - 0.9 is not quite 0.1.
        return round(1.0 - self.weight, 9)

    @property
    def allocating(self) -> bool:
        """Whether AWS keeps the traffic on the version before until provisioned concurrency is allocated.

        The rollout or rollback is over, its version is the primary, and the weight 1.0 of the other one is AWS's own.

        Source: hashicorp/terraform-provider-aws pull request 48116.
        """
        record = self.rollout
        if record is None or record.open or self.weight < 1.0:
            return False
        return self.primary == record.left_serving

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
        # A record of other versions is of an earlier rollout: another tool has split the traffic since.
        record = self.rollout
        if record is None or {record.stable_version, record.new_version} != {self.primary, self.additional}:
            return None
        # While a rollout is in progress a person has chosen its stable version, even if that was rolled back once.
        rejected = (
            record.stable_version in record.rejected_versions
            and record.new_version not in record.rejected_versions
            and not record.open
        )
        if rejected:
            return None
        return record.stable_version

    @property
    def canary(self) -> str | None:
        """The version that loses its traffic in a rollback; None if unknown, or if traffic is not split."""
        if self.additional is None or self.stable is None:
            return None
        if self.stable == self.primary:
            return self.additional
        return self.primary

    @property
    def draining(self) -> bool:
        """Whether a gradual rollback is in progress: the rollout is closed, and its version still has a weight."""
        record = self.rollout
        closed = record is not None and record.stage == "rolled-back" and self.additional == record.new_version
        return closed and not self.allocating

    def __str__(self) -> str:
        # An alias of another tool may serve $LATEST, alone.
        primary = versions.label(self.primary)
        if self.additional is None:
            return f"100 % {primary}"
        # AWS's own weight, while it allocates provisioned concurrency: the primary version receives nothing.
        if self.weight >= 1.0:
            return f"100 % v{self.additional}"
        return f"{100 - 100 * self.weight:g} % {primary}, {100 * self.weight:g} % v{self.additional}"


@dataclass(frozen=True)
class AliasState:
    """What an alias is to be changed to."""

    primary: str
    additional: str | None
    weight: float
    rollout: RolloutState

    def matches(self, alias: Alias) -> bool:
        """Whether the alias is so already, by this same run; or will be, once AWS has allocated its capacity."""
        # The description names the run: the same versions and weights may be another run's.
        if (alias.primary, alias.description) != (self.primary, self.rollout.encode()):
            return False
        moving = self.additional is None and alias.allocating
        return moving or (alias.additional, alias.weight) == (self.additional, self.weight)


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
    """The alias in lines, a sentence each: see ``describe_in_sentences``."""
    return "\n".join(describe_in_sentences(target, alias))


def describe_in_sentences(target: Target, alias: Alias | None) -> tuple[str, ...]:
    """The alias in sentences: which versions serve, which run deployed them, and which are marked bad."""
    if alias is None:
        return (f"{target.resource} does not exist.",)
    lines = [f"{target.resource} serves {alias}."]
    if alias.stable is None:
        lines.append("The deployment record does not say which of the two versions is stable.")
    elif alias.allocating:
        lines += [f"v{alias.stable} is stable.", describe_allocation(alias)]
    elif alias.stable != alias.primary:
        lines.append(f"v{alias.stable} is stable. Another tool made v{alias.primary} the primary version.")
    record = alias.rollout
    if record is None:
        lines.append("No deployment record on this alias (it was last changed outside Buddy Ops).")
        return tuple(lines)
    lines.append(describe_record(record, target.clock.now()))
    if record.monitors_at(target.clock.now()):
        until = time_of_day(parse_utc(record.monitored_until), target.clock.now())
        lines.append(f"It is monitored until {until}; it stays if that run is lost.")
    if alias.draining:
        lines.append(f"The remaining traffic of v{record.new_version} is shifted back in steps.")
    if record.rejected_versions:
        lines.append(f"Marked bad (excluded as rollback target): v{', v'.join(record.rejected_versions)}.")
    return tuple(lines)


def describe_record(record: RolloutState, now: datetime) -> str:
    """What a record says of its rollout, a sentence."""
    # The first deployment of a function replaces nothing.
    replaced = f" (replacing v{record.stable_version})" if record.stable_version else ""
    sentence = NAMED if record.rolled_back_to else STATUS.get(record.stage, SHIFTING)
    return sentence.format(
        new=record.new_version,
        to=record.rolled_back_to,
        run=record.closed_by_run if record.rolled_back and record.closed_by_run else record.run,
        replaced=replaced,
        stage=record.stage,
        since=time_of_day(parse_utc(record.since), now),
    )


def describe_allocation(alias: Alias) -> str:
    """A sentence on an alias whose traffic AWS has not moved yet; empty if it has."""
    if not alias.allocating:
        return ""
    return (
        f"AWS is allocating provisioned concurrency for v{alias.primary}. "
        f"Until then v{alias.additional} receives 100 % of traffic."
    )


def read_alias(target: Target) -> Alias | None:
    """The alias now, or None if the function has no such alias. AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``function-missing``.
    """
    try:
        return _alias(
            target.client("lambda").get_alias(FunctionName=target.settings.function, Name=target.settings.alias)
        )
    except NotFound:
        # Is it the alias or the function that does not exist?
        # Lambda's ResourceNotFoundException is the same for both.
        versions.read_version(target)
        return None


def require_alias(target: Target) -> Alias:
    """The alias. AWS: lambda:GetAlias, reads only.

    Raises:
        InvalidInput: ``alias-missing``, ``function-missing``.
    """
    alias = read_alias(target)
    if alias is None:
        raise alias_missing(target)
    return alias


def create_command(target: Target, version: str) -> str:
    """The AWS command that creates a deleted alias again, at the version that served before."""
    settings = target.settings
    return (
        f"aws lambda create-alias --function-name {settings.function} --name {settings.alias} "
        f"--function-version {version} --region {target.region}"
    )


def alias_missing(target: Target) -> InvalidInput:
    """The error of an action that needs the alias."""
    return InvalidInput(
        "alias-missing",
        f"{target.settings.function} has no alias {target.settings.alias}.",
        next="Check function and alias in the environment's parameters/ file. If the alias served before, it was "
        "deleted: start_here names the version that served, and the command that creates it again. If nothing was "
        "ever deployed, deploy a first build with strategies/canary: it creates the alias.",
    )


def list_aliases(target: Target) -> list[Alias]:
    """All aliases of the function, every page. AWS: lambda:ListAliases, reads only."""
    pages = target.client("lambda").get_paginator("list_aliases").paginate(FunctionName=target.settings.function)
    return [_alias(reply) for page in pages for reply in page["Aliases"]]


def update_alias(target: Target, held: Alias | None, to: AliasState, *, confirm: bool = True) -> Alias:
    """Shift traffic in one write, on condition of the RevisionId in ``held``; create the alias if ``held`` is None.

    FunctionVersion and RoutingConfig are always both sent: without an explicitly empty map a bad version may keep its
    weight. After a 412 or an unanswered call the alias is read again and compared with ``to``: the SDK's own retry
    fails after a first attempt that took effect.

    The alias that is returned may still be ``allocating``: then its traffic moves later.

    Args:
        confirm: whether it is read again where the write changed its primary version: the reply does not say that.

    AWS: lambda:UpdateAlias or lambda:CreateAlias, writes; lambda:GetAlias after a change of the primary version.

    Raises:
        AliasMoved: another run or tool changed it.
        AwsFailed: AWS refused or could not be reached; ``now`` says what the alias is after it, if it could be read.
    """
    weights: dict[str, float] = {}
    if to.additional:
        weights[to.additional] = to.weight
    client = target.client("lambda")
    fields: CreateAliasRequestTypeDef = {
        "FunctionName": target.settings.function,
        "Name": target.settings.alias,
        "FunctionVersion": to.primary,
        "RoutingConfig": {"AdditionalVersionWeights": weights},
        "Description": to.rollout.encode(),
    }
    try:
        if held is None:
            # CreateAlias refuses an alias that exists, so it needs no RevisionId: ResourceConflictException.
            return _alias(client.create_alias(**fields))
        reply = _alias(client.update_alias(**fields, RevisionId=held.revision))
    except AwsFailed as failure:
        return _settle(target, held, to, failure)
    # AWS allocates provisioned concurrency where the primary version changes: a read then shows what the reply lacks.
    if not confirm or (held.primary == to.primary and to.matches(reply)):
        return reply
    return _compare(target, to, reply)


def _compare(target: Target, to: AliasState, reply: Alias) -> Alias:
    """The alias after a write that changed its primary version, as AWS serves it.

    Where the alias has provisioned concurrency, the reply shows no weights, and a read shows {version before: 1.0}.
    """
    try:
        alias = read_alias(target)
    # The write was answered: that the alias cannot be read now is no failure of it.
    except BuddyError:
        return reply
    # Anything else is a later write by another run or tool: the next read of the alias finds it.
    if alias is None or not to.matches(alias):
        return reply
    return alias


def _settle(target: Target, held: Alias | None, to: AliasState, failure: AwsFailed) -> Alias:
    """The alias after a write that failed or was not answered, if it is as wanted; else the error to raise."""
    try:
        alias = read_alias(target)
    except BuddyError:
        before = "it did not exist before"
        if held:
            before = f"it served {held} before"
        failure.now = f"Unknown: {target.resource} could not be read after the write failed; {before}."
        raise failure from None
    if alias is None:
        failure.now = f"{target.resource} does not exist; this write changed nothing."
        raise failure from None
    # The write took effect, and only its answer was lost, or the SDK's retry of it was refused.
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
        was = f"there was no alias {target.resource}"
        if last:
            was = f"{target.resource} served {last}"
        return f"Unknown, last read at {time_of_day(at, target.clock.now())}: {was}."
    if alias is None:
        return f"There is no alias {target.resource}."
    return f"{target.resource} serves {alias}."


def _alias(reply: "AliasConfigurationTypeDef | AliasConfigurationResponseTypeDef") -> Alias:
    """The one place that reads an alias as Lambda returns it. It has at most one weight, the second version's."""
    weights = reply.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})
    additional = next(iter(weights), None)
    description = reply.get("Description", "")
    return Alias(
        name=reply["Name"],
        primary=reply["FunctionVersion"],
        additional=additional,
        weight=sum(weights.values()),
        revision=reply["RevisionId"],
        rollout=decode_rollout_state(description),
        description=description,
    )
