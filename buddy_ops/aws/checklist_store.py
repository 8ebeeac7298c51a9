"""Checklists' dated results, in SSM Parameter Store: written once each, never overwritten.

Defines where a result is kept and how it is read back. Never decides what an item's state is.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from operator import attrgetter

from buddy_ops.aws.session import Target
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.core.documents import parse_json
from buddy_ops.core.errors import AlreadyExists
from buddy_ops.core.journal import iso_utc
from buddy_ops.core.text import parse_utc, shorten

PARAMETER_LIMIT = 4096
"""Bytes of a parameter's value. Source: SSM quotas, standard parameters."""


def write_result(target: Target, record: ChecklistResult) -> str:
    """Store a result; its name. A second write by the same run changes nothing.

    AWS: ssm:PutParameter without overwriting, writes.
    """
    name = f"{_path(target, record.checklist, record.subject)}/{record.at:%Y%m%dT%H%MZ}-{record.run}"
    with suppress(AlreadyExists):
        target.client("ssm").put_parameter(Name=name, Value=_encode(record), Type="String", Overwrite=False)
    open_ = [item.name for item in record.open]
    target.journal.append("recorded", checklist=record.checklist, subject=record.subject, name=name, open=open_)
    return name


def newest_result(target: Target, checklist: str, subject: str) -> ChecklistResult | None:
    """The latest result for a build or a version. AWS: as ``list_results``."""
    return next(iter(list_results(target, checklist, subject)), None)


def list_results(target: Target, checklist: str, subject: str = "") -> tuple[ChecklistResult, ...]:
    """Results, newest first, of one subject or of all; what cannot be read is left out.

    AWS: ssm:GetParametersByPath, every page, reads only.
    """
    path = _path(target, checklist, subject)
    pages = target.client("ssm").get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True)
    parameters = (parameter for page in pages for parameter in page["Parameters"])
    decoded = (_decode(checklist, parameter["Name"], parameter["Value"]) for parameter in parameters)
    return tuple(sorted(filter(None, decoded), key=attrgetter("at"), reverse=True))


def _path(target: Target, checklist: str, subject: str) -> str:
    return "/".join(filter(None, (f"/buddy/{target.environment}/records", checklist, subject)))


def _encode(record: ChecklistResult) -> str:
    """The result as JSON. Its messages are whole if a parameter can hold them; else the longest are cut."""
    fields: dict[str, object] = {"at": iso_utc(record.at), "run": record.run, "principal": record.principal}
    encoded = ""
    # One limit for all messages, as high as possible: short ones stay whole. The archived run has each in full.
    for limit in range(PARAMETER_LIMIT, 0, -20):
        fields["items"] = [{**asdict(item), "says": shorten(item.says, limit)} for item in record.items]
        encoded = json.dumps(fields, separators=(",", ":"))
        if len(encoded) <= PARAMETER_LIMIT:
            break
    return encoded


def _decode(checklist: str, name: str, text: str) -> ChecklistResult | None:
    try:
        values = parse_json(text, unique=True, finite=True)
        return ChecklistResult(
            checklist=checklist,
            subject=name.split("/")[-2],
            at=parse_utc(values["at"]),
            run=values["run"],
            principal=values["principal"],
            items=tuple(ChecklistItem(**item) for item in values["items"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
