"""Checklists' dated results, in SSM Parameter Store: written once each, never overwritten.

Defines where a result is kept and how it is read back. Never decides what an item's state is. A role that may write
parameters can write one in another way: what is read is checked as text from outside.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from operator import attrgetter
from typing import TYPE_CHECKING

from buddy_ops.aws._parameter_names import list_parameters, parameter_name
from buddy_ops.aws.session import Target
from buddy_ops.core.checklist import STATES, TOLERANCE, ChecklistItem, ChecklistResult, State
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AlreadyExists, AwsFailed, Refused
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.people import describe_unreadable, visible_text
from buddy_ops.core.text import parse_utc, shorten

if TYPE_CHECKING:
    from types_boto3_ssm.type_defs import ParameterTypeDef

PARAMETER_LIMIT = 4096
"""Bytes of a parameter's value. Source: SSM quotas, standard parameters."""


def write_result(target: Target, record: ChecklistResult) -> str:
    """Store a result; its name. A second write by the same run in the same minute changes nothing.

    AWS: ssm:PutParameter without overwriting, writes; ssm:GetParametersByPath, reads only.

    Raises:
        Refused: ``record-differs``: the parameter is not this run's.
    """
    path = parameter_name(target, *_parts(record.checklist, record.subject))
    name = f"{path}/{record.at:%Y%m%dT%H%MZ}-{record.run}"
    text = _encode(record, path)
    # What exists already may be this run's: the reading back decides.
    with suppress(AlreadyExists):
        target.client("ssm").put_parameter(Name=name, Value=text, Type="String", Overwrite=False)
    _require_stored(target, record, name, text)
    open_ = [item.name for item in record.open]
    target.journal.append("recorded", checklist=record.checklist, subject=record.subject, name=name, open=open_)
    return name


def newest_result(target: Target, checklist: str, subject: str) -> ChecklistResult | None:
    """The latest result for a build or a version; one that is dated in the future counts only if there is no other.

    AWS: as ``list_results``.
    """
    results = list_results(target, checklist, subject)
    latest = target.clock.now() + TOLERANCE
    return next((result for result in results if result.at <= latest), next(iter(results), None))


def list_results(target: Target, checklist: str, subject: str = "") -> tuple[ChecklistResult, ...]:
    """Results, newest first, of one subject or of all; what cannot be read is left out.

    AWS: ssm:GetParametersByPath, every page, reads only.
    """
    decoded = (_decode(checklist, parameter) for parameter in _read(target, checklist, subject))
    return tuple(sorted(filter(None, decoded), key=attrgetter("at"), reverse=True))


def _read(target: Target, checklist: str, subject: str) -> Iterator["ParameterTypeDef"]:
    return list_parameters(target, *_parts(checklist, subject), recursive=True)


def _require_stored(target: Target, record: ChecklistResult, name: str, text: str) -> None:
    """Read a result back: AWS may have kept another one of this name."""
    try:
        stored = {each["Name"]: each for each in _read(target, record.checklist, record.subject)}
    # The write was answered: a failed read says nothing about it.
    except AwsFailed as failure:
        target.journal.append("passed-over", what=f"{name} could not be read back.", because=failure.what)
        return
    kept = stored.get(name)
    if kept is not None:
        own = _decode(record.checklist, kept)
        # The same run may have stored a result in this minute: its first one counts.
        if kept["Value"] == text or (own is not None and (own.run, own.principal) == (record.run, record.principal)):
            return
    raise Refused(
        "record-differs",
        f"The result was not stored: the parameter {name} has another content, or cannot be read back.",
        now="No result was overwritten.",
        next="Run the checklist again in a minute: its result gets another name. Find out who wrote "
        "the other one (CloudTrail: PutParameter).",
    )


def _parts(checklist: str, subject: str) -> Iterator[str]:
    return filter(None, ("records", checklist, subject))


def _encode(record: ChecklistResult, path: str) -> str:
    """The result as JSON. Its messages are whole if a parameter can hold them; else the longest are cut.

    Args:
        path: where it is stored: a copy elsewhere is known by it.
    """
    fields: dict[str, object] = {
        "at": iso_utc(record.at),
        "run": record.run,
        "principal": record.principal,
        "of": path,
    }
    encoded = ""
    # One limit for all messages, as high as possible: short ones stay whole. The archived run has each in full.
    for limit in range(PARAMETER_LIMIT, 0, -20):
        fields["items"] = [{**asdict(item), "says": shorten(item.says, limit)} for item in record.items]
        encoded = json.dumps(fields, separators=(",", ":"))
        if len(encoded) <= PARAMETER_LIMIT:
            break
    return encoded


def _decode(checklist: str, parameter: "ParameterTypeDef") -> ChecklistResult | None:
    """A result; None for what none of our releases has written."""
    try:
        values = parse_json(parameter["Value"], unique=True, finite=True)
        path = parameter["Name"].rpartition("/")[0]
        at = parse_utc(values["at"])
        return ChecklistResult(
            checklist=checklist,
            # '.../records/post_deployment/v7/20261122T0312Z-7f3a' is about version 7.
            subject=parameter["Name"].split("/")[-2],
            at=at,
            run=_readable(values["run"]),
            principal=_readable(values["principal"]),
            items=tuple(_item(**item) for item in values["items"]),
            overwritten=parameter.get("Version", 1) > 1,
            # Earlier releases wrote no path.
            copied=values.get("of", path) != path,
            postdated=at > parameter.get("LastModifiedDate", at) + TOLERANCE,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _item(name: str, state: State, says: str, by: str = "") -> ChecklistItem:
    if state not in STATES:
        raise ValueError(f"no state: {state}")
    # A message may have been cut or may quote a log line: what does not show is left out.
    return ChecklistItem(_readable(name), state, visible_text(says), _readable(by))


def _readable(text: str) -> str:
    """A text in which everything shows.

    Raises:
        ValueError: it has something else, and looks like another text.
        TypeError: it is no text.
    """
    if not isinstance(text, str):
        raise TypeError("no text")
    if describe_unreadable(text):
        raise ValueError("it has characters that do not show")
    return text
