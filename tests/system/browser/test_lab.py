"""The runbooks at three in the morning: a real JupyterLab, a real browser, a live sandbox."""

import json
import re
import time
from collections.abc import Callable

import pytest

from tests.conftest import Situation
from tests.system.browser.conftest import LIMIT_S, Person

Bring = Callable[..., Situation]
pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]


def begin_canary(here: Situation, person: Person, form: bool = False) -> None:
    """Run the whole canary as far as the gate, and approve it there; a virtual minute takes two seconds from then."""
    person.lab.fill("strategies/canary", **({} if form else {"artifact": here.build("good")}))
    person.open("strategies/canary")
    person.run_all()
    if form:
        fill_in(here, person)
    person.await_gate()
    person.picture("canary-gate")
    assert here.alias()["FunctionVersion"] == "1" and here.calls("UpdateFunctionCode", "UpdateAlias") == []
    here.ask("set", speed=30)
    person.approve("sandbox", "Ada", "Approve")
    person.sees("stage 1, 10 % of traffic")
    assert person.page.locator(".jp-OutputArea-output", has_text="is approved by").count() == 1


def fill_in(here: Situation, person: Person) -> None:
    """The canary has no build: a form asks for it, and refuses what the runbook would refuse."""
    person.sees("No build is given.")
    person.await_cursor()
    person.write("stages", "[50, 10]")
    person.sees("parameter stages: stages must rise")
    person.write("stages", "[10, 50, 100]")
    person.assert_accessible("canary-form-wrong")
    person.write("artifact", here.build("good"))
    person.sees("All values are valid.")
    person.picture("canary-form")
    person.click("Use these values")
    person.sees("artifact = '")


@pytest.mark.whole
def test_a_rollback_waits_for_a_person(two_versions: Situation, person: Person) -> None:
    """'Run All' stops at the gate with the alias untouched; a wrong confirmation does nothing; the right one moves."""
    here = two_versions
    person.lab.fill("rollback/immediate", to_version="1")
    person.open("rollback/immediate")
    person.picture("immediate-first")
    person.run_all()
    person.await_gate()
    person.picture("immediate-gate")
    person.approve("production", "Ada", "Approve")
    person.sees('Not approved: type "sandbox" exactly.')
    assert here.alias()["FunctionVersion"] == "2" and here.calls("UpdateAlias") == []
    person.write("Type", "sandbox")
    began = time.perf_counter()
    person.click("Approve")
    while here.alias()["FunctionVersion"] != "1":
        assert time.perf_counter() - began < LIMIT_S
    print(f"click to alias moved: {time.perf_counter() - began:.2f} s")
    person.sees("v1 receives 100 % of traffic")
    person.await_idle()
    person.picture("immediate-done")


def test_stop_brings_the_traffic_back(situation: Bring, person: Person) -> None:
    """The chart changes while the canary runs; 'Abort and roll back' gives stable all traffic, and one picture stays."""
    here = situation("good")
    try:
        begin_canary(here, person, form=True)
        first = person.chart()
        assert 'role="img"' in first and "v1: " in first, "a live frame says in words what it shows"
        assert here.alias()["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.1}}
        person.sees_another_chart_than(first)
        here.ask("set", speed=1)  # the stage stays while it is looked at
        person.assert_accessible("canary-live")
        here.ask("set", speed=30)
        person.click("Abort: all traffic back to v1")
        person.sees("ABORTED by operator")
        alias = here.alias()
        assert alias["FunctionVersion"] == "1" and "RoutingConfig" not in alias
    finally:
        here.ask("set", speed=0)
    person.await_idle()
    person.picture("canary-aborted")
    person.save()
    saved = person.lab.saved("strategies/canary")
    pictures = [
        each for cell in saved["cells"] for each in cell.get("outputs", ()) if "image/png" in each.get("data", ())
    ]
    assert len(pictures) == 1 and "vnd.jupyter.widget" not in json.dumps(saved)
    person.leave_and_come_back_without_a_kernel()
    person.sees("ABORTED by operator")
    assert person.chart().startswith("data:image/png")
    shown = person.page.locator("img.buddy-ops-chart").last
    assert "ABORTED by operator" in str(shown.get_attribute("alt")) and "v2: " in str(shown.get_attribute("alt"))
    # In the dark theme the light card is dark, and its texts are light.
    assert shown.evaluate("e => getComputedStyle(e).filter") == "none"
    person.page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert shown.evaluate("e => getComputedStyle(e).filter") == "invert(0.93) hue-rotate(180deg)"
    person.page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    person.picture("canary-reopened")


@pytest.mark.whole
def test_start_here_leads_to_the_rollback(situation: Bring, person: Person) -> None:
    """The verdict is seen without scrolling, with the runbook to open one click away."""
    here = situation("good", history_minutes=20)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=600)
    person.open("start_here")
    person.run_all()
    person.sees("ERROR RATE HIGH")
    person.await_idle()
    person.await_in_view(".verdict")
    person.picture("start-here")
    person.page.locator(".jp-OutputArea-output a", has_text="rollback/immediate").first.click()
    person.page.get_by_role("heading", name="Roll back immediately").wait_for()


@pytest.mark.whole
def test_a_kernel_restart_resumes(situation: Bring, person: Person) -> None:
    """Restarted in mid-canary, 'Run All' finds the rollout on the alias and ends it; once more changes nothing."""
    here = situation("good")
    try:
        begin_canary(here, person)
        person.restart_kernel()
        assert here.alias()["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.1}}
        person.run_all()
        person.sees("Resume run")
        person.await_gate()
        person.picture("canary-resume")
        person.approve("sandbox", "Grace", "Resume")
    finally:
        here.ask("set", speed=0)
    person.sees("SUCCEEDED: v2 receives 100 %; healthy")
    assert here.alias()["FunctionVersion"] == "2" and len(here.calls("PublishVersion")) == 1
    person.await_idle()
    person.picture("canary-proved")
    written = len(here.calls("UpdateAlias"))
    person.run_all()
    person.sees("v2 was already live; nothing was changed")
    assert len(here.calls("UpdateAlias")) == written


@pytest.mark.whole
def test_a_checklist_turns_green_before_whoever_goes_through_it(situation: Bring, person: Person) -> None:
    """Items appear with their state; names typed beside unknown ones close them, and a check that says no stays no."""
    here = situation("good", history_minutes=20)
    person.lab.fill("operations/pre_deployment", artifact=here.build("good"))
    person.open("operations/pre_deployment")
    person.run_all()
    person.sees("✓ rollback target healthy")
    person.sees("✗ alarms in place")
    # Each field's label names its item. The last one: every field before it is there too.
    person.page.get_by_label("on-call notified, verified by").wait_for()
    fields = person.page.get_by_label(re.compile(", verified by$"))
    assert fields.count() == 4
    for number in range(fields.count()):
        fields.nth(number).fill("Grace")
    person.see_from("✓ rollback target healthy")
    person.assert_accessible("checklist")
    person.click("Check again")
    person.sees("✓ code reviewed: attested, by Grace")
    person.picture("checklist-answered")
    person.click("Store the result as it is")
    person.sees("checklist-open")
    path = f"/buddy-ops/{here.function}/live/records/pre_deployment"
    (kept,) = here.client("ssm").get_parameters_by_path(Path=path, Recursive=True)["Parameters"]
    items = json.loads(kept["Value"])["items"]
    assert [each["name"] for each in items if each["state"] != "yes"] == ["alarms in place"]
    assert {each["by"] for each in items} == {"", "Grace"}
