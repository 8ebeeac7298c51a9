"""An environment's rules: facts in, every refusal at once out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from buddy_ops.core import documents, project, settings
from buddy_ops.core import rules as rules_
from buddy_ops.core.checklist import ITEMS, ChecklistItem, ChecklistResult
from buddy_ops.core.errors import InvalidInput
from buddy_ops.core.rules import BreakGlass, DeploymentFacts

MONDAY = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
PROD = settings.validate_settings(project.read_settings("prod")[0], "prod")
NAMES = (*PROD.policy.testing, *ITEMS["pre_deployment"])
PASSED = ChecklistResult(
    "pre_deployment",
    "ab12",
    MONDAY - timedelta(hours=2),
    "7f3a",
    "arn",
    tuple(ChecklistItem(name, "yes", "ran") for name in NAMES),
)
GOOD = DeploymentFacts("canary", MONDAY, ci="GitHub Actions", records={"pre_deployment": PASSED})


def refused(**changes: Any) -> tuple[str, ...]:
    return rules_.violations("prod", PROD, replace(GOOD, **changes))


def prod(**changes: Any) -> settings.Settings:
    values = project.read_settings("prod")[0]
    values["policy"] |= changes
    return settings.validate_settings(values, "prod")


def test_what_keeps_to_every_rule_of_prod_may_begin() -> None:
    """A canary by CI, in the window, with a fresh record that has every item."""
    assert refused() == ()


def test_every_refusal_is_told_at_once() -> None:
    """Nobody corrects one thing to learn of the next."""
    facts = DeploymentFacts("all_at_once", MONDAY + timedelta(days=5), serving="41", since=MONDAY + timedelta(days=4.5))
    told = rules_.violations(
        "prod", PROD, replace(facts, replaced=("stages_percent",), records={"pre_deployment": None})
    )
    assert len(told) == 6
    for each in (
        "by CI",
        "not all_at_once",
        "stages_percent",
        "Sat 10:00",
        "between deployments",
        "no result of pre_",
    ):
        assert any(each in line for line in told), each


@pytest.mark.parametrize(
    ("moment", "open_"),
    [
        ("2026-11-23T08:59:59", False),
        ("2026-11-23T09:00:00", True),
        ("2026-11-26T15:59:59", True),
        ("2026-11-26T16:00:00", False),
        ("2026-11-27T10:00:00", False),
    ],
)
def test_the_window_opens_and_closes_on_its_minute(moment: str, open_: bool) -> None:
    """From its start to before its end, on its days."""
    assert (refused(now=datetime.fromisoformat(moment + "Z"), records={"pre_deployment": None})[0:1] != ()) is True
    late = replace(PASSED, at=datetime.fromisoformat(moment + "Z"))
    told = refused(now=late.at, records={"pre_deployment": late})
    assert (told == ()) is open_, told


def test_the_window_is_in_the_time_of_its_zone() -> None:
    """09:30 in Vienna is 08:30 UTC in winter and 07:30 in summer, and it may be another day there."""
    window = {"days": ["Mon"], "start": "09:00", "end": "16:00", "zone": "Europe/Vienna"}
    vienna = prod(window=window, records={})
    for moment, open_ in (
        ("2026-11-23T08:30:00Z", True),
        ("2026-07-20T07:30:00Z", True),
        ("2026-11-23T07:30:00Z", False),
        ("2026-11-22T23:30:00Z", False),
    ):
        told = rules_.violations("prod", vienna, replace(GOOD, now=datetime.fromisoformat(moment)))
        assert (told == ()) is open_, moment


def test_a_version_that_stayed_is_left_in_peace_for_its_rollback_window() -> None:
    """24 hours to the minute; where none stayed, as after a rollback, nothing waits."""
    since = MONDAY - timedelta(hours=24)
    assert refused(serving="41", since=since) == ()
    (told,) = refused(serving="41", since=since + timedelta(minutes=1))
    assert "v41" in told and "2026-11-23 10:01" in told
    assert refused(serving="", since=since + timedelta(hours=20)) == ()
    nowhere = rules_.violations(
        "dev", prod(hours_between=0), replace(GOOD, serving="41", since=MONDAY + timedelta(days=1))
    )
    assert nowhere == ()  # where no such rule is, not even a clock that runs behind makes one


def with_item(name: str, state: Any) -> ChecklistResult:
    """The result with one item in this state."""
    items = tuple(replace(item, state=state) if item.name == name else item for item in PASSED.items)
    return replace(PASSED, items=items)


def test_a_clock_that_is_a_little_ahead_forges_nothing() -> None:
    """The machine that ran the checklist may be some minutes ahead."""
    assert refused(records={"pre_deployment": replace(PASSED, at=MONDAY + timedelta(minutes=4))}) == ()


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (None, "no result of pre_deployment"),
        (replace(PASSED, at=MONDAY - timedelta(hours=24, seconds=1)), "valid for 24 h"),
        (with_item("alarms in place", "no"), "'alarms in place' is no"),
        (with_item("alarms in place", "unknown"), "'alarms in place' is unknown"),
        (replace(PASSED, items=PASSED.items[:1]), f"lacks '{NAMES[1]}'"),
        (replace(PASSED, items=()), "lacks"),
        (replace(PASSED, items=(*PASSED.items, ChecklistItem("**all good**", "yes", ""))), "does not have"),
        (replace(PASSED, items=(*PASSED.items, PASSED.items[0])), "does not have"),
        (replace(PASSED, at=MONDAY + timedelta(days=26_000)), "in the future"),
        (replace(PASSED, at=MONDAY + timedelta(minutes=6)), "in the future"),
        (replace(PASSED, overwritten=True), "was overwritten after it was written"),
    ],
)
def test_a_record_counts_fresh_and_whole(record: ChecklistResult | None, told: str) -> None:
    """Missing, old, failed or unknown: unknown is not yes."""
    (said,) = refused(records={"pre_deployment": record})
    assert told in said


def test_ci_is_told_by_its_variables_or_proved_by_its_principal() -> None:
    """Where the file names principals, variables that anybody can set count for nothing."""
    assert "this is not a CI run" in refused(ci="")[0]
    proved = prod(ci_principals=["arn:aws:sts::*:assumed-role/deployer/*"])
    ci = "arn:aws:sts::123456789012:assumed-role/deployer/run-7"
    assert rules_.violations("prod", proved, replace(GOOD, ci="", principal=ci)) == ()
    (told,) = rules_.violations("prod", proved, replace(GOOD, principal="arn:aws:sts::123456789012:assumed-role/ada/x"))
    assert "assumed-role/ada/x" in told


def test_a_rollout_under_way_goes_on_whatever_the_hour_but_not_by_any_hand() -> None:
    """Its beginning was permitted: only who promotes is asked again."""
    night = MONDAY + timedelta(hours=12)
    assert refused(resumes=True, now=night, records={}) == ()
    assert len(refused(resumes=True, now=night, records={}, ci="")) == 1


@pytest.mark.parametrize("given", [{"who": "Ada"}, {"why": "it burns"}, {"who": " ", "why": "x"}, {"a": "b"}])
def test_glass_is_broken_by_name_and_for_a_reason(given: dict[str, str]) -> None:
    """Half of it breaks nothing."""
    with pytest.raises(InvalidInput, match="break-glass-incomplete"):
        rules_.parse_break_glass(given)
    assert rules_.parse_break_glass({}) is None and rules_.parse_break_glass(
        {"who": " Ada ", "why": "it burns"}
    ) == BreakGlass("Ada", "it burns")


def test_times_of_day_may_stand_without_quotes() -> None:
    """16:30 is a text here; papermill -f, which reads YAML 1.1, makes 990 of it."""
    window = documents.parse_yaml("{days: [Mon], start: 09:00, end: 16:30, zone: UTC}")
    assert window["end"] == "16:30"
    for end in (window["end"], 16 * 60 + 30):
        found = prod(window=window | {"end": end}).policy.window
        assert [f"{each.start:%H:%M}-{each.end:%H:%M}" for each in found] == ["09:00-16:30"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"window": {"days": ["Mon"], "start": "16:00", "end": "16:00"}}, "end must differ from start"),
        ({"holidays": ["2026-12-26/2026-12-24"]}, "the last day must not be before the first"),
        ({"holidays": ["Christmas"]}, "settings.policy.holidays.0"),
        ({"window": {"days": ["Mon"], "start": "09:00", "end": "16:00", "zone": "Wien"}}, "tz database"),
        ({"window": {"days": [], "start": "09:00", "end": "16:00"}}, "settings.policy.window.0.days"),
        ({"records": {"post_lunch": 4}}, "settings.policy.records"),
        ({"hours_between": -1}, "settings.policy.hours_between"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules: dict[str, Any], said: str) -> None:
    """With their key, as every setting."""
    with pytest.raises(InvalidInput, match="invalid-settings") as refusal:
        prod(**rules)
    assert said in refusal.value.what


def test_each_environment_keeps_to_the_guide() -> None:
    """Its table of environments: strategy, approvals, tests and retention; every file shows its smoke tests."""
    found = {
        name: settings.validate_settings(project.read_settings(name)[0], name) for name in ("dev", "staging", "prod")
    }
    assert [each.rollout.strategies[0] for each in found.values()] == ["all_at_once", "all_at_once", "canary"]
    assert [each.rollout.approvals for each in found.values()] == [0, 1, 2]
    assert found["prod"].rollout.strategies == ("canary",) and found["prod"].rollout.stages_percent == (10, 50, 100)
    assert not found["prod"].policy.by_hand and "canary" in found["prod"].rollout.smoke_tested
    assert all(each.policy.keep_versions == 10 and len(each.policy.testing) == 2 for each in found.values())
    assert [each.policy.hours_between for each in found.values()] == [0, 20, 24]
    for name in ("dev", "staging", "prod", "sandbox"):
        text = (project.project_root() / "parameters" / f"{name}.yaml").read_text("utf-8")
        assert len(documents.parse_yaml(text)["settings"]["smoke_tests"]) == 3, name
