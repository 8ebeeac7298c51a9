"""An environment's rules where deployments begin: refused, broken by name, and asked again before traffic moves."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from buddy_ops.aws import checklist_store, session, versions
from buddy_ops.aws.aliases import decode_rollout_state
from buddy_ops.aws.session import Target
from buddy_ops.core import project
from buddy_ops.core.checklist import ITEMS, ChecklistItem, ChecklistResult
from buddy_ops.core.errors import Refused
from buddy_ops.deployment import rollback, rollout, rollout_plan
from buddy_ops.deployment.rollout import Outcome
from tests.conftest import Situation, approve
from tests.resilience.harness import QUIET

Bring = Callable[..., Situation]
GLASS = {"who": "Ada", "why": "reminders are not sent"}


def strict(here: Situation, **rules: Any) -> Target:
    """A target under prod's own rules, or ``rules`` alone; ten minutes' watch."""
    values = project.read_settings(here.environment)[0]
    values["rollout"] |= {"watch_minutes": 2, "ramp": None}
    values["policy"] = rules or values["policy"]
    return session.connect(here.environment, "test", values=values)


def ship(mine: Target, artifact: str, strategy: str = "canary", glass: dict[str, str] | None = None) -> Outcome:
    with closing(mine):
        plan = rollout.plan_rollout(mine, artifact, strategy, break_glass=glass)
        return rollout.drive_rollout(mine, rollout.run_rollout(mine, plan, approve(mine, plan)))


def at_ten(here: Situation) -> None:
    """Monday, 10:00 UTC: prod's window is open."""
    now = datetime.fromtimestamp(here.ask("clock")["now"], UTC)
    here.ask("advance", seconds=(now.replace(hour=10, minute=0, second=0) - now).total_seconds())


def passed(mine: Target, artifact: str, state: Any = "yes") -> None:
    """The record of pre_deployment for a build."""

    subject = rollout_plan.describe_build(versions.code_sha256(project.read_artifact(artifact).content))
    first, *others = (*mine.settings.policy.testing, *ITEMS["pre_deployment"])
    items = [ChecklistItem(first, state, "CI ran them", "Ada"), *(ChecklistItem(name, "yes", "") for name in others)]
    checklist_store.write_result(
        mine, ChecklistResult("pre_deployment", subject, mine.clock.now(), mine.run, mine.principal, tuple(items))
    )


def told(refusal: "pytest.ExceptionInfo[Refused]") -> str:
    assert refusal.value.exit_code == 4
    return refusal.value.what


def test_prod_refuses_by_hand_at_night_and_unchecked_all_at_once(situation: Bring) -> None:
    """Three rules, one error, and nothing was written."""
    here = situation("good", environment="prod", **QUIET)
    with pytest.raises(Refused, match="not-allowed") as refusal:
        rollout.plan_rollout(strict(here), here.build("good"), "canary")
    said = told(refusal)
    assert "this is not a CI run" in said and "Mon 00:" in said and "no result of pre_deployment" in said
    assert here.calls("UpdateFunctionCode", "PublishVersion", "UpdateAlias") == []


def test_what_keeps_to_prods_rules_ships(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """CI, in the window, with a passed checklist of this very build: smoke-tested, then by canary."""
    here = situation("good", environment="prod", **QUIET)
    at_ten(here)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    artifact = here.build("good")
    passed(strict(here), artifact)
    other = here.build("good", "2.0.1")
    with pytest.raises(Refused, match="no result of pre_deployment"):
        rollout.plan_rollout(strict(here), other)
    assert ship(strict(here), artifact).ending == "unproven"
    assert len(here.calls("Invoke")) == 3


def test_an_open_item_refuses(situation: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checklist that was written and not passed is no permission."""
    here = situation("good", environment="prod", **QUIET)
    at_ten(here)
    monkeypatch.setenv("CI", "true")
    artifact = here.build("good")
    passed(strict(here), artifact, "unknown")
    with pytest.raises(Refused) as refusal:
        rollout.plan_rollout(strict(here), artifact)
    assert f"'{strict(here).settings.policy.testing[0]}' is unknown" in told(refusal)


def test_a_window_that_closes_while_the_build_is_published_refuses_before_traffic(situation: Bring) -> None:
    """The rules are asked again right before the first split: the version is there, and got nothing."""
    here = situation("good", **QUIET)
    mine = strict(here)
    now = mine.clock.now()
    window = {"days": ["Mon"], "start": f"{now:%H:%M}", "end": f"{now + timedelta(minutes=1):%H:%M}", "zone": "UTC"}
    with closing(strict(here, window=window)) as mine:
        plan = rollout.plan_rollout(mine, here.build("good"), "canary")
        steps = rollout.run_rollout(mine, plan, approve(mine, plan))
        next(steps)
        here.ask("advance", seconds=120)
        with pytest.raises(Refused, match="not-allowed"):
            for seen in steps:
                mine.clock.sleep_until(seen.wake_at)
    assert here.alias()["FunctionVersion"] == "1" and here.calls("UpdateAlias", "CreateSchedule") == []
    assert len(here.client("lambda").list_versions_by_function(FunctionName=here.function)["Versions"]) == 3


def test_broken_glass_is_in_the_plan_in_red_in_its_hash_and_in_the_journal(situation: Bring) -> None:
    """One person suffices; who, why and every rule that it goes against are told wherever somebody may look."""
    here = situation("good", environment="prod", **QUIET)
    mine = strict(here)
    plan = rollout.plan_rollout(mine, here.build("good"), "all_at_once", break_glass=GLASS)
    assert (plan.approvals, plan.demand_hash, len(plan.violations)) == (1, True, 4)
    page = plan._repr_markdown_()
    assert (
        "alert-danger" in page
        and "Ada used emergency override (break-glass): reminders are not sent" in page
        and "not all_at_once" in page
    )
    other = rollout.plan_rollout(mine, here.build("good"), "all_at_once", break_glass={**GLASS, "who": "Grace"})
    assert other.hash != plan.hash
    assert ship(mine, here.build("good"), "all_at_once", GLASS).ending == "unproven"
    (record,) = (each for each in mine.journal.records if each["kind"] == "broke-glass")
    assert (record["who"], record["why"], len(record["against"])) == ("Ada", "reminders are not sent", 4)


def test_a_dry_run_shows_what_would_be_refused(situation: Bring) -> None:
    """Whoever looks gets the plan and the hash that CI will ask for, and reads in red why it may not begin now."""
    here = situation("good", environment="prod", **QUIET)
    values = project.read_settings("prod")[0]
    mine = session.connect("prod", "test", values=values, dry_run=True)
    plan = rollout.plan_rollout(mine, here.build("good"))
    assert "This deployment would be refused" in plan._repr_markdown_() and "VIOLATES THE RULES" in str(plan)


def test_a_parameter_replaces_no_fixed_stage(situation: Bring) -> None:
    """A canary that begins at 100 % is none."""
    here = situation("good", **QUIET)
    values = project.read_settings("sandbox")[0] | {"policy": {"fixed": ["stages_percent"]}}
    same = session.connect("sandbox", "test", values=values, replaced={"stages_percent": [10, 50, 100]})
    assert same.replaced == () and rollout.plan_rollout(same, here.build("good")).violations == ()
    other = session.connect("sandbox", "test", values=values, replaced={"stages_percent": [100]})
    with pytest.raises(Refused, match="fixes stages_percent"):
        rollout.plan_rollout(other, here.build("good"))


@pytest.mark.whole
def test_an_urgent_hotfix_ships_inside_another_rollouts_window(situation: Bring) -> None:
    """v2 is in its 24 hours: v3 is refused, ships with broken glass, and a rollback of it returns to v2."""
    here = situation("good", **QUIET)
    rules = {"hours_between": 24}
    assert ship(strict(here, **rules), here.build("good", "2.0.0")).ending == "unproven"
    hotfix = here.build("good", "3.0.0")
    with pytest.raises(Refused) as refusal:
        rollout.plan_rollout(strict(here, **rules), hotfix, "all_at_once")
    assert "v2 was deployed at" in told(refusal)
    assert ship(strict(here, **rules), hotfix, "all_at_once", GLASS).ending == "unproven"
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and (record.stable_version, record.new_version, record.fallback_version) == (
        "2",
        "3",
        "1",
    )
    assert rollback.plan_rollback(strict(here)).destination == "2"


@pytest.mark.whole
def test_a_hotfix_after_a_rollback_waits_for_nothing_and_never_returns_to_what_was_bad(situation: Bring) -> None:
    """v2 was taken back: v3 may ship at once, over v1; its rollback goes to v1, the next one's past the bad v3 too."""
    here = situation("good", **QUIET)
    rules = {"hours_between": 24}

    def take_back() -> None:
        mine = strict(here)
        plan = rollback.plan_rollback(mine)
        rollback.run_rollback(mine, plan, approve(mine, plan))

    ship(strict(here, **rules), here.build("good", "2.0.0"))
    take_back()
    assert ship(strict(here, **rules), here.build("good", "3.0.0"), "all_at_once").ending == "unproven"
    assert rollback.plan_rollback(strict(here)).destination == "1"
    take_back()
    assert ship(strict(here, **rules), here.build("good", "4.0.0"), "all_at_once").ending == "unproven"
    record = decode_rollout_state(here.alias()["Description"])
    assert (
        record is not None
        and record.rejected_versions == ("2", "3")
        and rollback.plan_rollback(strict(here)).destination == "1"
    )


def test_a_hotfix_over_a_bad_version_never_returns_to_it(situation: Bring) -> None:
    """Somebody named the bad v2 and serves it again; the hotfix v3 over it has v1 behind it, not v2."""
    here = situation("good", **QUIET)
    ship(strict(here), here.build("good", "2.0.0"))
    for version in ("", "2"):
        mine = strict(here)
        plan = rollback.plan_rollback(mine, version)
        rollback.run_rollback(mine, plan, approve(mine, plan))
    ship(strict(here), here.build("good", "3.0.0"), "all_at_once")
    record = decode_rollout_state(here.alias()["Description"])
    assert record is not None and "2" in record.rejected_versions and record.stable_version == "2"
    with pytest.raises(Refused, match="no-rollback-target"):
        rollback.plan_rollback(strict(here))


def test_records_are_kept_dated_and_never_overwritten(situation: Bring) -> None:
    """One for each run; the newest counts; whatever cannot be read proves nothing."""
    here = situation("good", **QUIET)
    first, second = here.connect(), here.connect()
    passed(first, here.build("good"), "no")
    here.ask("advance", seconds=3600)
    passed(second, here.build("good"))
    passed(second, here.build("good"), "no")
    found = checklist_store.list_results(first, "pre_deployment")
    assert [(each.run, each.items[0].state) for each in found] == [(second.run, "yes"), (first.run, "no")]
    newest = checklist_store.newest_result(first, "pre_deployment", found[0].subject)
    assert newest == found[0] and newest.open == ()
    here.client("ssm").put_parameter(
        Name=f"/buddy-ops/buddy-alexa-skill-sandbox/live/records/pre_deployment/{found[0].subject}/30000101T0000Z-x",
        Value="{}",
        Type="String",
    )
    assert checklist_store.newest_result(first, "pre_deployment", found[0].subject) == newest
    assert (
        checklist_store.newest_result(first, "pre_deployment", "ffff") is None
        and checklist_store.list_results(first, "post_deployment") == ()
    )
