"""Deployment freezes: any active freeze stops every deployment to a function's alias, and never a rollback.

Environments of one function and alias share their freezes. Each freeze is a parameter in SSM of its own, so that two
people never overwrite each other's. An expired one counts as gone; it is never deleted automatically.
"""

import json
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from buddy_ops.aws._parameter_names import list_parameters, parameter_name, readable_names
from buddy_ops.aws._settling import SETTLES, read_settled
from buddy_ops.aws.session import Target
from buddy_ops.core import front_end
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AlreadyExists, AwsFailed, BuddyError, InvalidInput, NotFound, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import date_and_time, parse_utc

if TYPE_CHECKING:
    from types_boto3_ssm.type_defs import ParameterTypeDef

PART = "freeze"
"""What follows the target in the names of the parameters."""

LONGEST = timedelta(days=14)
"""How long a freeze may last."""

STALE = timedelta(days=1)
"""A freeze that is still there a day after its end was forgotten."""


@dataclass(frozen=True)
class Freeze:
    """One freeze. ``expires`` is ISO 8601 UTC. One that cannot be read (``readable`` is False) freezes too."""

    id: str
    reason: str
    owner: str
    expires: str
    readable: bool = True

    def __str__(self) -> str:
        until = self.expires
        if self.readable:
            until = date_and_time(parse_utc(self.expires))
        return f"{self.id}: {self.reason} ({self.owner}, until {until})"


def active_freezes(target: Target) -> tuple[Freeze, ...]:
    """The freezes that are active now. AWS: ssm:GetParametersByPath, every page, reads only."""
    return select_active(target, list_parameters(target, PART))


def select_active(target: Target, parameters: "Iterable[ParameterTypeDef]") -> tuple[Freeze, ...]:
    """The freezes in some parameters that are active now."""
    now = target.clock.now()
    found = map(_decode, parameters)
    return tuple(freeze for freeze in found if not freeze.readable or parse_utc(freeze.expires) > now)


def expired_freezes(target: Target) -> tuple[Freeze, ...]:
    """Freezes to delete: ended more than a day ago, or unreadable. AWS: ssm:GetParametersByPath, reads only."""
    return select_expired(target, list_parameters(target, PART))


def select_expired(target: Target, parameters: "Iterable[ParameterTypeDef]") -> tuple[Freeze, ...]:
    """The freezes in some parameters that are to be deleted."""
    past = target.clock.now() - STALE
    found = map(_decode, parameters)
    return tuple(freeze for freeze in found if not freeze.readable or parse_utc(freeze.expires) < past)


def _read(target: Target) -> list[Freeze]:
    return list(map(_decode, list_parameters(target, PART)))


def create_freeze(target: Target, reason: str, owner: str, lasts: timedelta) -> Freeze:
    """Freeze all deployments to the function's alias; the freeze as AWS has it.

    A freeze that this run created before stays as it is, while it is active.

    AWS: ssm:PutParameter without overwriting, writes; ssm:GetParametersByPath, reads.

    Raises:
        InvalidInput: ``freeze-incomplete``: no reason, no owner, or longer than 14 days.
        BuddyError: ``freeze-unconfirmed``: AWS does not show it.
        AwsFailed: AWS refused the write, or the read that follows; the error says which.
    """
    if not reason.strip() or not owner.strip() or not timedelta() < lasts <= LONGEST:
        raise InvalidInput(
            "freeze-incomplete",
            "A freeze needs a reason, an owner, and a time of at most 14 days.",
            now="No freeze was created.",
            next=f"Give {front_end.option('reason')}, {front_end.option('owner')} and {front_end.option('hours')}.",
        )
    now = target.clock.now()
    wanted = Freeze(target.run, reason.strip(), owner.strip(), iso_utc(now + lasts))
    freeze = _write(target, wanted)
    if freeze.readable and parse_utc(freeze.expires) <= now:
        # This run created it before, and it has ended since.
        freeze = _write(target, replace(wanted, id=f"{target.run}-{secrets.token_hex(2)}"))
    target.journal.append("frozen", id=freeze.id, reason=freeze.reason, owner=freeze.owner, expires=freeze.expires)
    return freeze


def lasting(hours: float) -> timedelta:
    """Hours as a time span. More than a time span can have is only a long one, which ``create_freeze`` refuses."""
    most = 1000 * LONGEST / timedelta(hours=1)
    return timedelta(hours=max(-most, min(hours, most)))


def _write(target: Target, freeze: Freeze) -> Freeze:
    """Write a freeze, and read it back. Raises BuddyError ``freeze-unconfirmed``."""
    fields = {"reason": freeze.reason, "owner": freeze.owner, "expires": freeze.expires}
    name = parameter_name(target, PART, freeze.id)
    # A cell that is run again, or a retry after a lost answer.
    with suppress(AlreadyExists):
        target.client("ssm").put_parameter(Name=name, Value=json.dumps(fields), Type="String", Overwrite=False)

    def read() -> list[Freeze]:
        return [stored for stored in _read(target) if stored.id == freeze.id]

    try:
        found = read_settled(target, read, bool)
    except AwsFailed as failure:
        failure.now = f"SSM accepted {name}. Whether deployments are frozen is unknown. No traffic was moved."
        raise
    if found:
        return found[0]
    raise BuddyError(
        "freeze-unconfirmed",
        f"SSM accepted {name}, and does not show it after {SETTLES.seconds} s: it was removed, or SSM is late.",
        now="Whether deployments are frozen is unknown. No traffic was moved.",
        next="List the freezes with `buddy-ops freeze`, without a reason. If it is missing, create it again.",
    )


def remove_freeze(target: Target, id: str) -> bool:
    """Delete a freeze; False if it does not exist. AWS: ssm:DeleteParameter, writes."""
    removed = False
    # A freeze of an earlier release has only the former name.
    for name in readable_names(target, PART, id):
        with suppress(NotFound):
            target.client("ssm").delete_parameter(Name=name)
            removed = True
    if removed:
        target.journal.append("lifted", id=id)
    return removed


def require_unfrozen(target: Target) -> None:
    """Refuse to continue while a freeze is active. AWS: ssm:GetParametersByPath, reads only.

    Raises:
        Refused: ``frozen``, exit code 4.
    """
    freezes = active_freezes(target)
    if freezes:
        raise Refused(
            "frozen",
            f"Deployments to {target.environment} are frozen: {'; '.join(map(str, freezes))}.",
            next="Wait until it ends, or ask its owner to remove it. Rollbacks are never frozen: rollback/immediate.",
        )


def _decode(parameter: "ParameterTypeDef") -> Freeze:
    """A freeze from its parameter. One that cannot be read freezes too."""
    id = parameter["Name"].rsplit("/", 1)[-1]
    try:
        values = parse_json(parameter["Value"], unique=True)
        # Written manually it may have another time zone, or none: then it is in UTC.
        # '2026-11-22T03:12:00+01:00'
        expires = iso_utc(parse_utc(values["expires"]))
        return Freeze(id, str(values["reason"]), str(values["owner"]), expires)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Freeze(id, "unreadable freeze", "unknown", "it is deleted", readable=False)
