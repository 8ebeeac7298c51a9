"""What is known of a run, as its manifest, its pages and the index say it."""

from collections.abc import Mapping
from typing import TypedDict


class RunFacts(TypedDict, total=False):
    """What a manifest is written from, and a line of the index: the fields of ``ManifestEntry``, in JSON's types."""

    v: int
    run: str
    folder: str
    runbook: str
    environment: str
    began: str
    ended: str
    outcome: str
    exit_code: int
    people: list[str]
    principal: str
    incident: str
    plan_id: str
    parameters: dict[str, object]
    trouble: str
    notes: list[str]
    archive: str
    source: Mapping[str, object]
    library: Mapping[str, object]
    pruned: Mapping[str, object]
    targets: list[dict[str, object]]
    files: dict[str, str]
    previous: str
    sha256: str
    unsigned: str
