"""Bad input, generated: whatever comes in from people, files and AWS, it is used, refused with a reference, or told.

What parameters/ files, alias records and single journal lines do is in test_settings, test_aliases_record and
test_journal; here stand the doors that they leave. Together more than 10,000 inputs a run.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as quantity
from hypothesis import strategies as st

from buddy_ops.aws import aliases, freezes
from buddy_ops.aws.session import Target
from buddy_ops.cli.run_parameters import parse_parameters
from buddy_ops.core import packages, parameters, project, settings
from buddy_ops.core.errors import AwsFailed, BuddyError, InvalidInput
from buddy_ops.core.journal import Journal, JournalFile
from buddy_ops.core.plan import Approval, Plan
from buddy_ops.core.redaction import Redactor
from buddy_ops.core.text import shorten
from buddy_ops.health import logs, metrics
from buddy_ops.health.metrics import MINUTE
from buddy_ops.runs import archive, stores, verification
from tests.conftest import WHOLE as WHOLE_SUITE
from tests.system import bad_inputs

NOW = datetime(2026, 11, 22, 3, 12, tzinfo=UTC)
CELL = 'environment: str = "sandbox"\nsettings: dict = {}\n'
MANY = quantity(
    max_examples=720 if WHOLE_SUITE else 240, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
ODD = st.one_of(
    st.binary(max_size=8),
    st.sets(st.integers(), max_size=3),
    st.datetimes(),
    st.complex_numbers(),
    st.just(NOW),
    st.just(Path("x")),
    st.builds(object),
    st.dictionaries(st.one_of(st.integers(), st.none(), st.tuples(st.integers()), st.binary(max_size=3)), SCALARS),
    st.tuples(SCALARS, SCALARS),
)
TEXTS = st.one_of(
    st.text(max_size=60),
    JSON.map(json.dumps),
    JSON.map(yaml.safe_dump),
    st.text("[]{}:,-?!&*#|>%@`\"' \n\t0eE.~x_", max_size=30),
    st.integers(1, 40).map(lambda count: "[" * count),
)


class Client:
    """A client without AWS; an operation that has pages has one."""

    def __init__(self, service: str, call: Callable[..., Any]) -> None:
        self._service, self._call = service, call

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return partial(self._call, self._service, operation)

    def get_paginator(self, operation: str) -> Any:
        return SimpleNamespace(paginate=lambda **fields: iter((self._call(self._service, operation, **fields),)))


def stub(answer: Callable[..., dict[str, Any]] | None = None, **more: Any) -> Target:
    """A target without AWS: its calls are answered by ``answer`` and counted in ``asked``."""
    asked: list[str] = []

    def call(service: str, operation: str, **fields: Any) -> dict[str, Any]:
        asked.append(f"{service}:{operation}")
        return answer(service, operation, **fields) if answer else {}

    here = SimpleNamespace(
        environment="sandbox",
        resource="buddy:live",
        run="7f3a",
        settings=settings.Settings(
            function="buddy", failure_metrics=(settings.MetricName(namespace="Buddy", name="Sorry"),)
        ),
        clock=SimpleNamespace(now=lambda: NOW, sleep_until=lambda _: None),
        journal=Journal(lambda _: None, lambda: NOW),
        client=lambda service: Client(service, call),
        asked=asked,
    )
    here.fill = partial(Target.fill, here)  # type: ignore[arg-type]
    return cast(Target, SimpleNamespace(**(vars(here) | more)))


# Parameters

ANNOTATIONS = ("str", "int", "float", "bool", "list[str]", "list[float]", "dict", "float | None")
LINES = st.one_of(
    st.builds("{}: {} = {}".format, st.sampled_from("abc"), st.sampled_from(ANNOTATIONS), SCALARS.map(repr)),
    st.builds("{}: {} = {}".format, st.sampled_from("abc"), st.text(max_size=8), st.text(max_size=8)),
    st.builds("{} = {}".format, st.sampled_from("abc"), st.text(max_size=8)),
    st.text(max_size=30),
)


@MANY
@given(st.lists(LINES, max_size=5).map("\n".join), st.dictionaries(st.sampled_from("abcd"), JSON, max_size=4))
@example("a: str = x", {})
@example("a: str = '", {})
@example("a: unknown = 1", {"a": 1})
@example("a: __import__('os') = 1", {"a": 1})
@example("a: list[ = 1", {})
@example("a: 7 = 1", {"a": 1})
@example("a: str = \0", {})
@example("a: [] = 1", {"a": 1})
@example("a: int = " + "(" * 300, {})
def test_any_parameters_cell_declares_or_is_refused(cell: str, given_values: dict[str, Any]) -> None:
    """A cell that somebody damaged gives parameters and values, or one InvalidInput; nothing in it is executed."""
    try:
        declared = parameters.parse_declarations(cell)
        found = parameters.check_parameters(declared, given_values, "canary")
    except InvalidInput as error:
        assert error.reference == "invalid-parameters"
        return
    assert set(found) == set(declared) >= set(given_values)


@MANY
@given(st.lists(st.one_of(TEXTS, TEXTS.map("# Parameters\n{}".format), TEXTS.map(CELL.__add__)), max_size=5))
@example(["# Parameters\na = 1", CELL, "# Parameters\nb, c = 1, 2\n*d, e = 1\nf[0] = 2\n"])
@example([CELL + "\0"])
@example([CELL + "x: str = y"])
@example([CELL + "(" * 3000])
def test_any_executed_cells_are_read(executed: list[str]) -> None:
    """Whatever a person executed before, finding the parameters among it is never an error."""
    declared, injected = parameters.parameter_cells(executed)
    assert all(isinstance(name, str) for name in (*declared, *injected))


@MANY
@given(st.lists(st.one_of(TEXTS, TEXTS.map("artifact={}".format)), max_size=4))
@example(["artifact=2026-99-99"])
@example(["a=!!python/object/apply:os.system [ls]"])
@example(["a={[]: 1}"])
@example(["a=0x_"])
@example(["a=" + "[" * 1000])
@example(["a=\0"])
@example(["=x"])
def test_any_words_on_the_command_line_are_values_or_refused(pairs: list[str]) -> None:
    """What stands after -p becomes a name and a value, or one InvalidInput that shows it."""
    try:
        found = parse_parameters(pairs)
    except InvalidInput as error:
        assert error.reference == "invalid-parameters" and any(
            shorten(pair, parameters.SHOWN) in error.what for pair in pairs
        )
        return
    assert len(found) <= len(pairs) and all(isinstance(name, str) for name in found)


def test_a_secret_on_the_command_line_is_refused_and_not_repeated() -> None:
    """What is no YAML is shown, but for the parameters that may hold a secret."""
    with pytest.raises(InvalidInput, match="-p variables is not NAME=VALUE") as refused:
        parse_parameters(["variables={TOKEN: s3cr3t"])
    assert "s3cr3t" not in str(refused.value)


@MANY
@given(st.dictionaries(st.sampled_from(["stages", "bake_minutes", "watch_minutes", "other"]), JSON))
def test_any_parameter_that_replaces_a_setting_is_validated(values: dict[str, Any]) -> None:
    """What a runbook's parameters replace is checked as the file is, and the refusal names the parameter's value."""
    try:
        found = settings.validate_settings({"function": "f"}, "settings", parameters.rollout_overrides(values))
    except InvalidInput as error:
        assert (error.reference == "invalid-settings" and "rollout" in error.what) or "parameter" in error.what
        return
    assert 0 < found.rollout.bake_minutes <= 24 * 60 and 0 <= found.rollout.watch_minutes <= 24 * 60


@MANY
@given(TEXTS)
@example("../prod")
@example("prod\0")
@example("a" * 5000)
def test_any_environment_or_artifact_is_found_or_refused(name: str) -> None:
    """A name that is no environment, and a path that is no build, are refused; no file outside is opened."""
    if name not in ("sandbox", "dev", "staging", "prod"):
        with pytest.raises(InvalidInput, match="unknown-environment"):
            project.read_settings(name)
    with pytest.raises(InvalidInput, match="artifact-"):
        project.read_artifact(name)


# The alias

NAMES = ["v", "run", "from", "to", "stage", "since", "ago", "bad", "prev", "probe", "note"]
ALMOST = st.fixed_dictionaries(
    {
        "v": st.sampled_from([1, 1.0, True, "1", 2]),
        "run": st.one_of(st.just("7f3a"), SCALARS),
        "from": st.one_of(st.just("41"), SCALARS),
        "to": st.one_of(st.just("42"), SCALARS),
        "stage": st.one_of(st.sampled_from(["1", "watch", "held", "-1", "1.5", "٣", "²", ""]), SCALARS),
        "since": st.one_of(st.sampled_from(["2026-11-22T03:12:00Z", "2026-11-22", "2026-11-22T03:12"]), SCALARS),
    },
    optional={
        "ago": st.one_of(st.lists(st.one_of(st.integers(), SCALARS), max_size=3), JSON),
        "bad": st.one_of(st.lists(st.one_of(st.just("40"), SCALARS), max_size=5), JSON),
        "prev": SCALARS,
        "probe": SCALARS,
        "note": st.one_of(st.text(max_size=300), SCALARS),
    },
)


@MANY
@given(st.one_of(ALMOST.map(json.dumps), TEXTS, JSON.map(json.dumps)))
@example("[" * 100_000)
@example('{"v":1}' + " " * 300)
def test_any_description_is_a_record_that_stands_or_none(text: str) -> None:
    """A Description is no record, or one whose own text gives the same record again."""
    found = aliases.decode_rollout_state(text)
    if found is not None:
        again = aliases.decode_rollout_state(found.encode())
        assert again is not None and replace(again, note="") == replace(found, note="")
        assert found.note.startswith(again.note)


@MANY
@given(st.one_of(ALMOST.map(json.dumps), TEXTS), st.sampled_from(["1", "2"]), st.floats(0, 1))
def test_any_alias_is_told_in_words(description: str, primary: str, weight: float) -> None:
    """Whatever its Description says, an alias can be read and explained."""
    reply = {
        "Name": "live", "FunctionVersion": primary, "RevisionId": "r", "Description": description,
        "RoutingConfig": {"AdditionalVersionWeights": {"3": weight} if weight else {}},
    }  # fmt: skip
    here = stub(lambda *_, **__: reply)
    assert "buddy:live serves" in aliases.describe(here, aliases.read_alias(here))


# Freezes

FREEZES = st.one_of(
    TEXTS,
    JSON.map(json.dumps),
    st.fixed_dictionaries(
        {
            "reason": JSON,
            "owner": JSON,
            "expires": st.one_of(st.datetimes().map(str), st.just("2026-11-23T00:00:00Z"), JSON),
        }
    ).map(json.dumps),
)


@MANY
@given(FREEZES)
@example("[" * 100_000)
@example(json.dumps({"reason": "x", "owner": "Ada", "expires": "2026-11-22T05:00:00"}))
@example(json.dumps({"reason": "x", "owner": "Ada", "expires": "0001-01-01T00:00:00+14:00"}))
@example(json.dumps({"reason": "x", "owner": "Ada", "expires": "9999-12-31T23:59:59-14:00"}))
@example(json.dumps({"reason": "x", "owner": "Ada", "expires": "2026-11-22T04:00:00+09:00"}))
def test_whatever_stands_there_freezes(text: str) -> None:
    """A freeze holds until its moment in UTC has passed; a text that is not ours holds until somebody deletes it."""
    here = stub(
        lambda *_, **__: {"Parameters": [{"Name": "/buddy-ops/buddy-alexa-skill-sandbox/live/freeze/x", "Value": text}]}
    )
    found = freezes.active_freezes(here)
    try:
        expires = datetime.fromisoformat(json.loads(text)["expires"])
        gone = (expires if expires.tzinfo else expires.replace(tzinfo=UTC)).astimezone(UTC) <= NOW
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        gone = False
    assert bool(found) != gone
    if found:
        with pytest.raises(BuddyError, match="frozen"):
            freezes.require_unfrozen(here)


@MANY
@given(st.text(max_size=10), st.text(max_size=10), st.timedeltas())
def test_an_incomplete_freeze_is_not_written(reason: str, owner: str, lasts: timedelta) -> None:
    """No reason, no owner, or a time that is none: one InvalidInput, and AWS is not called."""
    stored: dict[str, str] = {}

    def answer(_: str, operation: str, **fields: Any) -> dict[str, Any]:
        if operation == "put_parameter":
            stored[fields["Name"]] = fields["Value"]
        return {"Parameters": [{"Name": name, "Value": value} for name, value in stored.items()]}

    here = stub(answer)
    try:
        freezes.create_freeze(here, reason, owner, lasts)
    except InvalidInput as error:
        assert error.reference == "freeze-incomplete" and here.asked == []  # type: ignore[attr-defined]
        return
    assert reason.strip() and owner.strip() and timedelta() < lasts <= freezes.LONGEST


# Metrics

STAMPS = st.one_of(
    st.integers(-3, 6).map(lambda minute: NOW - minute * MINUTE),
    st.datetimes(),
    st.integers(0, 5).map(lambda second: NOW - timedelta(seconds=second)),
    st.just("2026-11-22T03:11:00Z"),
)
NUMBERS = st.one_of(
    st.integers(-5, 500), st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, 1e300, "7", None])
)
RESULT = st.fixed_dictionaries(
    {"Timestamps": st.lists(STAMPS, max_size=4), "Values": st.lists(NUMBERS, max_size=4)},
    optional={
        "Id": st.one_of(
            st.sampled_from(["requests0", "requests1", "errors1", "slow1", "p991", "failed0x1"]), st.text(max_size=4)
        ),
        "StatusCode": st.one_of(
            st.just("Complete"), st.sampled_from(["PartialData", "InternalError", "Forbidden", None])
        ),
        "Label": st.text(max_size=3),
    },
)
WHOLE = st.lists(st.tuples(STAMPS, NUMBERS), max_size=2)
PAGE = st.one_of(
    st.fixed_dictionaries({"MetricDataResults": st.lists(RESULT, max_size=4)}, optional={"Messages": JSON}),
    st.sampled_from(cast("list[dict[str, Any]]", [{}, {"MetricDataResults": None}, {"MetricDataResults": [None]}])),
    st.dictionaries(st.text(max_size=5), JSON, max_size=2),
)


def read(here: Target) -> metrics.MetricsReading:
    return metrics.read_minutes(here, ["1", "2"], lambda _: "1", NOW - 5 * MINUTE, NOW)


def check_reading(reading: metrics.MetricsReading) -> None:
    """Every minute and nothing below zero, or trouble and no minute."""
    if reading.trouble is not None:
        assert reading.rows == () and reading.trouble
        return
    assert len(reading.rows) == 5
    for row in reading.rows:
        assert set(row.counts) == {"1", "2"}
        for counts in row.counts.values():
            assert 0 <= counts.errors <= counts.requests and counts.slow >= 0 and counts.throttles >= 0
        assert all(math.isfinite(value) and value >= 0 for value in row.p99_ms.values())


@MANY
@given(PAGE)
def test_a_malformed_answer_is_no_measurement(page: dict[str, Any]) -> None:
    """What is not CloudWatch's form gives no minute and says so; it is no exception, and no minute without requests."""
    reading = read(stub(lambda *_, **__: page))
    assert reading.trouble is not None
    check_reading(reading)


@MANY
@given(st.lists(WHOLE, min_size=14, max_size=14))
@example([[(NOW - MINUTE, 5.0)]] * 14)
@example([[(NOW - MINUTE, math.nan)]] * 14)
@example([[(NOW - MINUTE, 1e300)]] * 14)
@example([[(NOW - MINUTE, -3.0)]] * 14)
@example([[((NOW - MINUTE).replace(tzinfo=None), 3.0)]] * 14)
def test_a_complete_answer_gives_counts_that_make_sense(series: list[list[tuple[Any, Any]]]) -> None:
    """Every query answered in full: each minute has counts at least 0 and failures within requests, or it is trouble."""
    waiting = iter(series)

    def call(service: str, operation: str, **sent: Any) -> dict[str, Any]:
        results = [
            {
                "Id": query["Id"],
                "StatusCode": "Complete",
                "Timestamps": [at for at, _ in points],
                "Values": [v for _, v in points],
            }
            for query, points in zip(sent["MetricDataQueries"], waiting, strict=False)
        ]
        return {"MetricDataResults": results}

    check_reading(read(stub(call)))


@MANY
@given(
    st.one_of(PAGE, st.dictionaries(st.sampled_from(["queryId", "status", "results"]), JSON)),
    st.lists(JSON, max_size=3),
)
@example({"queryId": "q", "status": "Complete", "results": [[{"field": "version", "value": "1"}]]}, [])
@example({"queryId": "q", "status": "Complete", "results": None}, [])
def test_a_malformed_log_query_is_told(reply: dict[str, Any], rows: list[Any]) -> None:
    """Cold starts that cannot be read are a sentence, never an exception."""
    for answer in (reply, {"queryId": "q", "status": "Complete", "results": rows}):
        assert str(logs.describe_cold_starts(stub(lambda *_, answer=answer, **__: answer), NOW - MINUTE, NOW))


# Journals


@MANY
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=8).filter(lambda it: it not in ("self", "kind")),
            st.one_of(JSON, ODD, st.lists(ODD, max_size=2)),
            max_size=4,
        ),
        max_size=4,
    )
)
@example([{"seq": 9, "at": "never"}])
@example([{"\ud800": "\ud800"}])
def test_each_acknowledged_line_reads_back(records: list[dict[str, Any]]) -> None:
    """Whatever a record's fields are, its line is one JSON object with its own number, moment and kind, or it is told."""
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line.encode().decode())

    journal = Journal(write, lambda: NOW)
    for fields in records:
        journal.append("step", **fields)
    assert len(lines) == len(records) or journal.side.unsaid()
    for line in lines:
        found = json.loads(line)
        assert len(line.splitlines()) == 1 and isinstance(found["seq"], int) and found["kind"] == "step"
        assert found["at"] == "2026-11-22T03:12:00Z"
    numbers = [json.loads(line)["seq"] for line in lines]
    assert numbers == sorted(set(numbers))


def test_a_value_that_holds_itself_is_told_and_stops_nobody() -> None:
    """A value that JSON cannot write at all is trouble, and the next record is written."""
    lines: list[str] = []
    journal = Journal(lines.append, lambda: NOW)
    endless: list[Any] = []
    endless.append(endless)

    class Sullen:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    journal.append("step", value=endless)
    journal.append("step", value=Sullen())
    journal.append("step", value=1)
    assert journal.side.unsaid() != []
    assert json.loads(lines[-1])["value"] == 1


@pytest.mark.parametrize("obstacle", ["the run's folder is a file", "the journal is a folder", "the disk is full"])
def test_a_journal_that_cannot_be_written_is_told(tmp_path: Path, obstacle: str) -> None:
    """Where lines cannot go to disk the run goes on: nothing is raised, the records are kept, the trouble is noted."""
    path = tmp_path / "run" / "journal.jsonl"
    if obstacle == "the run's folder is a file":
        path.parent.write_text("")
    elif obstacle == "the journal is a folder":
        path.mkdir(parents=True)
    elif Path("/dev/full").exists():
        path = Path("/dev/full")
    else:
        pytest.skip("this system has no /dev/full")
    journal = Journal(JournalFile(path), lambda: NOW)
    journal.append("shifted", weight=0.1)
    journal.append("taken-back")
    assert [each["kind"] for each in journal.records] == ["shifted", "taken-back"]
    (said,) = journal.side.unsaid()
    assert said.startswith("The journal failed")


@quantity(max_examples=200, deadline=None)
@given(torn=st.binary(max_size=20), kinds=st.lists(st.text(max_size=5), min_size=1, max_size=3))
def test_a_torn_line_takes_no_other_with_it(
    tmp_path_factory: pytest.TempPathFactory, torn: bytes, kinds: list[str]
) -> None:
    """After a line that a kill or a full disk cut short, every acknowledged one still reads back."""
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    path.write_bytes(torn)
    journal = Journal(JournalFile(path), lambda: NOW)
    for kind in kinds:
        journal.append(kind)
    assert journal.side.unsaid() == []
    lines = path.read_bytes()[len(torn) :].split(b"\n")
    assert [json.loads(line)["kind"] for line in lines if line] == kinds


# Archives


GOOD: dict[str, Any] = {
    **dict.fromkeys(("run", "runbook", "environment", "began", "ended", "outcome", "principal", "incident"), "x"),
    **{"folder": "run-0001", "exit_code": 0, "people": [], "parameters": {}, "files": {}, "previous": "", "v": 1},
}
FACTS = st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, JSON)).map(lambda odd: GOOD | odd)
STORED = st.one_of(
    st.binary(max_size=30),
    st.one_of(JSON, FACTS, st.fixed_dictionaries({"runs": JSON | st.lists(FACTS, max_size=2)})).map(
        lambda it: json.dumps(it).encode()
    ),
    st.just(b"[" * 100_000),
)


@MANY
@given(index=st.none() | STORED, manifest=STORED)
@example(None, json.dumps(GOOD | {"files": {"../../secret": "x", "a\0": "y"}}).encode())
@example(b'{"runs":[{"folder":"a\\u0000b","previous":""},{"folder":["x"]},{"folder":"../.."}]}', b"{}")
@example(None, b"\xff")
def test_whatever_stands_in_an_archive_is_told(
    tmp_path_factory: pytest.TempPathFactory, index: bytes | None, manifest: bytes
) -> None:
    """Bytes that are no index or no manifest: listing and rebuilding refuse with a reference, verifying says problems."""
    root = tmp_path_factory.mktemp("archive")
    (root / "run-0001").mkdir()
    (root / "run-0001" / "manifest.json").write_bytes(manifest)
    if index is not None:
        (root / "index.json").write_bytes(index)
    shelf = stores.LocalStore(root)
    for act in (archive.list_entries, archive.rebuild_index, lambda it: archive.find_run(it, "x")):
        before = {path: path.read_bytes() for path in root.rglob("*.json")}
        try:
            act(shelf)
        except BuddyError as error:
            assert error.reference in ("archive-damaged", "run-unknown")
            assert {path: path.read_bytes() for path in root.rglob("*.json")} == before
    if verification.verify_archive(shelf).problems:
        return
    assert archive.list_entries(shelf)[0].folder == "run-0001", "what verifies can be read"


# Plans


@MANY
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.lists(st.text(max_size=20), max_size=3))
def test_any_plan_has_a_hash_and_reads(covers: Mapping[str, Any], lines: list[str]) -> None:
    """Whatever a plan covers and says, it has one hash, and is shown as text and as a table."""
    said = tuple(lines)
    plan = Plan(title="title", now=said, then=said, calls=said, undo=said, reasons=said, covers=covers)
    assert plan.hash == replace(plan, now=()).hash
    assert plan.hash in str(plan) and plan.hash in plan._repr_markdown_()
    assert plan.hash in str(Approval(plan.hash, said, NOW, "arn"))


def test_a_freeze_that_cannot_be_read_from_aws_is_an_error_with_a_reference() -> None:
    """AWS's refusal comes through as it is: a rollout may not take silence for permission."""

    def refused(service: str, operation: str, **_: Any) -> dict[str, Any]:
        raise AwsFailed("access-denied", "no", now="-", next="-", code="AccessDeniedException")

    with pytest.raises(AwsFailed, match="access-denied"):
        freezes.require_unfrozen(stub(refused))


# Files and words, to the command itself

CASES = 10_000
PARTS = 10
SAMPLE = range(0, CASES, 121)
"""Of each kind some: 121 and the number of kinds have no common divisor."""

NOBODY = "http://127.0.0.1:9"
"""Nothing listens there: what is no bad input ends with ``sandbox-not-running``, and a call of AWS would be an error."""

FIRST_LINE = re.compile(r"^[A-Z ]+ \([a-z-]+\)$", re.MULTILINE)


@pytest.fixture(scope="module")
def good_archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an archive with three runs."""
    root = tmp_path_factory.mktemp("good")
    for number in range(1, 4):
        folder = root / f"run-000{number}"
        folder.mkdir()
        about = {"run": folder.name[-4:], "runbook": "strategies/canary", "environment": "sandbox", "parameters": {}}
        cell = {
            "cell_type": "code",
            "id": "c1",
            "metadata": {"buddy_ops": {"state": "done"}},
            "source": "1",
            "outputs": [],
        }
        document = {"cells": [cell], "metadata": {"buddy_ops": about}, "nbformat": 4, "nbformat_minor": 5}
        (folder / "notebook.ipynb").write_text(json.dumps(document))
        opened = {
            "seq": 1,
            "at": "2026-11-22T03:12:00Z",
            "kind": "opened",
            "runbook": "canary",
            "environment": "sandbox",
        }
        approved = {"seq": 2, "at": "2026-11-22T03:13:00Z", "kind": "approved", "by": ["Ada"], "principal": "arn"}
        (folder / "journal.jsonl").write_text(f"{json.dumps(opened)}\n{json.dumps(approved)}\n")
        if number < 3:
            archive.append_to_chain(folder, archive.build_manifest(folder, Redactor()))
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(SAMPLE, id="sample"),
        *(pytest.param(range(part, CASES, PARTS), id=f"{part}", marks=pytest.mark.whole) for part in range(PARTS)),
    ],
)
@pytest.mark.timeout(3600)
def test_each_bad_input_is_one_clear_error(
    tmp_path: Path, good_archive: dict[str, bytes], numbers: range, record_property: Callable[[str, object], None]
) -> None:
    """Zips, YAML, notebooks, parameters, records, archives: one error, no stack, no write, 512 MB and 10 seconds."""
    bad_inputs.ARCHIVE.update(good_archive)
    environment = {
        **os.environ, "AWS_ENDPOINT_URL": NOBODY, "NO_COLOR": "1",
        "PYTHONPATH": os.pathsep.join(sys.path), "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
        "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.system.bad_inputs"]
    wrong, worst, peak = [], 0.0, 0.0
    tally: Counter[str] = Counter()
    with subprocess.Popen(
        command, cwd=bad_inputs.ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for number in numbers:
            case = bad_inputs.make(number)
            ending = give(process, case, tmp_path / f"{number}")
            worst, peak = max(worst, ending.wall_s), max(peak, ending.peak_mb)
            problem = what_is_wrong(case, ending, tmp_path / f"{number}")
            found = re.search(r"\(([a-z-]+)\)$", ending.err, re.MULTILINE)
            tally[f"{case.kind} {found[1] if found else ending.code}"] += 1
            if problem:
                wrong.append(f"{number} {case.kind} {case.arguments}: {problem}\n{ending.err[-1500:]}")
            shutil.rmtree(tmp_path / f"{number}")
    print(dict(sorted(tally.items())), f"longest {worst:.2f} s, largest {peak:.0f} MB")
    record_property("matrix", ("bad inputs", "zips, YAML, notebooks, parameters, records, archives", len(numbers)))
    assert wrong == [], f"{len(wrong)} of {len(numbers)}:\n" + "\n".join(wrong[:20])


def give(process: "subprocess.Popen[str]", case: bad_inputs.Case, folder: Path) -> bad_inputs.Ending:
    """Give one case to a child, in a project of its own."""
    for name in ("parameters", "notebooks", "runs"):
        (folder / name).mkdir(parents=True)
    for path in (bad_inputs.ROOT / "notebooks").iterdir():
        (folder / "notebooks" / path.name).symlink_to(path)
    shutil.copy(bad_inputs.ROOT / "parameters" / "sandbox.yaml", folder / "parameters")
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    out, err = folder.with_suffix(".out"), folder.with_suffix(".err")
    job = {"folder": str(folder), "out": str(out), "err": str(err), "arguments": case.arguments}
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    facts = json.loads(process.stdout.readline())
    said = bad_inputs.Ending(out=out.read_text("utf-8", "replace"), err=err.read_text("utf-8", "replace"), **facts)
    out.unlink()
    err.unlink()
    return said


def expected_error(case: bad_inputs.Case) -> str:
    """The reference that a bad build must end with, as its own check gives it; '' for a build that is none of these."""
    if case.kind != "zip":
        return ""
    try:
        packages.check_zip(case.files["build/bad.zip"], "build/bad.zip")
    except InvalidInput as error:
        return error.reference
    return ""


def what_is_wrong(case: bad_inputs.Case, ending: bad_inputs.Ending, folder: Path) -> str:
    """What of an ending is not as it must be; '' where all is."""
    if "aws-" in ending.err:
        return "AWS was called"
    if "Traceback" in ending.err or "MemoryError" in ending.err:
        return "a stack"
    if ending.wall_s > bad_inputs.LIMIT_S or ending.code < 0:
        return f"killed after {ending.wall_s:.1f} s"
    if any((folder / "runs").iterdir()):
        return "something was written to runs/"
    if case.kind != "archive" and {path.name for path in folder.iterdir()} - {"build", "record"} != {
        "notebooks",
        "parameters",
        "runs",
    }:
        return "something was written to the project"
    if case.arguments[:2] in (("runs", "verify"), ("runs", "list"), ("runs", "show"), ("runs", "diff")):
        kept = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in (folder / "archive").rglob("*")
            if path.is_file()
        }
        if {name: content for name, content in kept.items() if not name.endswith(".lock")} != case.files:
            return "an archive was changed by reading it"
    if (expected := expected_error(case)) and f"({expected})" not in ending.err:
        return f"not {expected}: something else was asked first"
    if case.kind in ("archive", "record"):
        # Read in part, or as it is; what cannot be used is one error, and verify lists what it finds.
        if ending.code not in (0, 1, 2, 4):
            return f"exit code {ending.code}"
        heads = len(FIRST_LINE.findall(ending.err))
        verified = case.arguments[1] == "verify"
        return (
            ""
            if heads == (1 if ending.code and not verified else 0) or (verified and heads <= 1)
            else f"{heads} errors"
        )
    if ending.code not in (1, 2, 4):
        return f"exit code {ending.code}"
    heads, states, nexts = (
        len(re.findall(part, ending.err, re.MULTILINE)) for part in (FIRST_LINE.pattern, r"^State: \S", r"^Next:  \S")
    )
    return "" if (heads, states, nexts) == (1, 1, 1) else f"{heads} errors, {states} states, {nexts} next steps"
