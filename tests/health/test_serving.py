"""Whose minute it was: a request belongs to the version that ran it, whatever the alias serves now."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from buddy_ops.aws import aliases
from buddy_ops.aws.aliases import Alias, RolloutState
from buddy_ops.core.text import floor_minute, parse_utc
from buddy_ops.deployment import rollback
from buddy_ops.health import metrics, serving
from buddy_ops.health.metrics import MINUTE, UNKNOWN_VERSION
from buddy_ops.health.serving import ServedReading
from tests.conftest import Situation, approve, sampled

Bring = Callable[..., Situation]
SINCE = parse_utc("2026-11-29T02:58:20Z")
RECORD = RolloutState("e063", "1", "2", "proved", since="2026-11-29T02:58:20Z", stage_ages_s=(600, 300))


def alias(primary: str, additional: str | None = None, **record: Any) -> Alias:
    """An alias with a record from 1 to 2."""
    state = replace(RECORD, **record)
    return Alias("live", primary, additional, 0.1 if additional else 0.0, "r", state, "")


@pytest.mark.parametrize(
    ("now", "minutes"),
    [
        (alias("2"), {-20: "1", -5: "1", 0: None, 1: "2"}),
        (alias("2", stage="watch"), {-20: "1", 0: None, 1: "2"}),
        (alias("1", stage="rolled-back"), {-20: "1", -5: "2", 0: None, 1: "1"}),
        (alias("1", "2", stage="rolled-back"), {-20: "1", -5: "2", 1: "1"}),
        (alias("1", stage="rolled-back", stage_ages_s=()), {-5: None, 1: "1"}),
        (alias("1", "2", stage="2"), {-20: "1", -5: "1", 1: "1"}),
        (alias("1", stage="2"), {-20: "1", 1: "1"}),  # the failsafe came first
        (alias("1", stage="watch"), {-20: None, 1: None}),
        (alias("3"), {-20: None, 1: None}),
        (alias("1"), {-20: None, 1: None}),
        (alias("2", "1", stage="2"), {-20: None, 1: None}),
        (alias("2", stable_version=""), {-20: None, 1: "2"}),
        (replace(alias("2"), rollout=None), {-20: None, 1: None}),
        (None, {1: None}),
    ],
)
def test_the_record_says_who_was_primary_as_far_as_it_reaches(
    now: Alias | None, minutes: dict[int, str | None]
) -> None:
    """Before, in and after the minute of the last switch; what another tool did is not guessed."""
    assert {at: serving.primary_at(now, floor_minute(SINCE) + at * MINUTE) for at in minutes} == minutes


def read(here: Situation, minutes: int = 30, **options: Any) -> ServedReading:
    mine = here.connect(quiet=True, **options)
    until = metrics.published_until(mine, mine.clock.now())
    return serving.read_served(mine, aliases.read_alias(mine), until - minutes * MINUTE, until)


def failures(found: ServedReading) -> dict[str, tuple[int, int]]:
    """Requests and failed ones of each version with requests."""
    versions = {version for row in found.rows for version in row.counts}
    total = metrics.totals(found.rows, versions)
    return {version: (own.requests, own.errors) for version, own in sorted(total.items()) if own.requests}


def move(here: Situation, version: str) -> datetime:
    """Another tool moves the alias, and leaves the Description as it is."""
    here.client("lambda").update_alias(FunctionName=here.function, Name="live", FunctionVersion=version)
    return here.connect(quiet=True).clock.now()


@pytest.mark.parametrize(
    ("named", "log"),
    sampled([(True, {}), (False, {}), (False, {"log_format": "JSON", "log_group": "/buddy/own"})], slice(2)),
    ids=["named by our own metric", "named by the log", "named by a JSON log in a group of its own"],
)
def test_an_alias_that_another_tool_moved_twice(situation: Bring, named: bool, log: dict[str, str]) -> None:
    """v2's failures stay v2's, although the alias serves v1 again and no record says that it ever served v2."""
    here = situation("good", history_minutes=10, **log)
    options = {}
    if not named:
        values = here.connect(quiet=True).settings.model_dump(mode="json")
        options = {"values": values | {"failure_metrics": []}}
    here.ship_by_hand("errors_5_percent" if named else "total_failure")
    here.ask("advance", seconds=600)
    move(here, "1")
    here.ask("advance", seconds=600)
    found = failures(read(here, **options))
    good, bad = found["1"], found["2"]
    assert bad[0] > 4_000 and bad[1] > 0.03 * bad[0]
    assert good[0] > 4_000 and good[1] < 0.01 * good[0]
    # The two minutes in which it was moved have requests of both.
    assert found.get(UNKNOWN_VERSION, (0, 0))[0] < 1_500


def test_what_nothing_says_is_unknown(situation: Bring) -> None:
    """Without our own metric and without the log, no version is blamed, and the reason is told."""
    here = situation("good", history_minutes=20)
    here.ship_by_hand("total_failure")
    here.ask("advance", seconds=600)
    here.ask("chaos", kind="denied", operation="StartQuery", times=100)
    values = here.connect(quiet=True).settings.model_dump(mode="json") | {"failure_metrics": []}
    found = read(here, values=values)
    here.ask("chaos")
    assert set(failures(found)) == {UNKNOWN_VERSION} and "The log does not say which version served" in found.notes[0]


def test_a_version_without_reports_leaves_no_minute_to_another(situation: Bring) -> None:
    """v1 serves, and reports only failures. v2 was called by its number: v1's requests are not v2's."""
    here = situation("good", history_minutes=5, requests_per_minute=60, log_format="JSON", system_log_level="WARN")
    lam = here.client("lambda")
    reporting = {"LogFormat": "JSON", "SystemLogLevel": "INFO"}
    lam.update_function_configuration(FunctionName=here.function, LoggingConfig=reporting)
    here.ask("advance", seconds=60)
    here.ship_by_hand("good")
    move(here, "1")
    here.ask("advance", seconds=180)
    for _ in range(5):
        lam.invoke(FunctionName=here.function, Qualifier="2", Payload=b"{}")
        here.ask("advance", seconds=60)
    here.ask("advance", seconds=180)
    values = here.connect(quiet=True).settings.model_dump(mode="json") | {"failure_metrics": []}
    for also in ((), ("2",)):
        mine = here.connect(quiet=True, values=values)
        until = metrics.published_until(mine, mine.clock.now())
        found = serving.read_served(mine, aliases.read_alias(mine), until - 8 * MINUTE, until, also)
        assert "2" not in failures(found) and UNKNOWN_VERSION in failures(found)
    assert "SystemLogLevel WARN" in " ".join(found.notes)


def test_a_rollback_from_100_percent_leaves_each_its_minutes(situation: Bring) -> None:
    """By the record alone: what v2 failed at 100 % is v2's after the rollback, and v1's minutes before it are v1's."""
    here = situation("good", history_minutes=20)
    values = here.connect(quiet=True).settings.model_dump(mode="json") | {"failure_metrics": []}
    here.ship(here.build("good"), values=values)
    mine = here.connect(values=values)
    plan = rollback.plan_rollback(mine)
    rollback.run_rollback(mine, plan, approve(mine, plan))
    mine.close()
    here.ask("advance", seconds=600)
    found = read(here, 60, values=values)
    assert set(failures(found)) <= {"1", "2", UNKNOWN_VERSION}
    serves = [max(row.counts, key=lambda version: row.counts[version].requests) for row in found.rows]
    assert (serves[0], serves[-1]) == ("1", "1") and serves.count("2") > 5
