"""The gate in a real JupyterLab: by keyboard alone, and after an interrupt, a restart and a reload."""

import re
import time
from collections.abc import Callable

import pytest

from buddy_ops.deployment import rollout
from tests.conftest import Situation, abandon
from tests.system.browser.conftest import LIMIT_S, Person

Bring = Callable[..., Situation]
pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]

CELLS_BEFORE_THE_GATE = 8
"""Of rollback/immediate, texts and code."""


def await_alias(here: Situation, version: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while here.alias()["FunctionVersion"] != version:
        assert time.monotonic() < deadline, here.alias()
        time.sleep(0.1)


def test_by_keyboard_alone_from_start_to_traffic_moved(two_versions: Situation, person: Person) -> None:
    """Shift+Enter goes from cell to cell, Enter from field to field; after the approval the next cell has the focus."""
    here = two_versions
    person.lab.fill("rollback/immediate", to_version="1")
    person.open("rollback/immediate")
    began = time.perf_counter()
    person.press(*["Shift+Enter"] * (CELLS_BEFORE_THE_GATE + 1))
    person.await_gate()
    person.press("Shift+Enter")  # one too many: in a field it is Enter, and runs nothing a second time
    person.press("Shift+Tab")
    person.approve_by_keyboard("sandbox", "Ada")
    person.sees("Traffic has not moved yet: the next cell moves it.")
    assert here.alias()["FunctionVersion"] == "2"
    person.await_focus_on_cell("run_rollback")
    person.press("Shift+Enter")
    await_alias(here, "1")
    print(f"by keyboard from the first cell to alias moved: {time.perf_counter() - began:.1f} s")
    person.press(*["Shift+Enter"] * 4)
    person.await_idle()
    person.sees("100 % v1")


@pytest.mark.whole
def test_an_interrupt_a_restart_and_a_reload_say_how_to_go_on(two_versions: Situation, person: Person) -> None:
    """Each ends in one sentence in view, with no button left that does nothing; what it says to do moves the traffic."""
    here = two_versions
    person.lab.fill("rollback/immediate", to_version="1")
    person.open("rollback/immediate")
    person.run_all()
    person.await_gate()
    buttons = person.page.locator(".jp-OutputArea-output button:visible")
    person.menu("Kernel", "Interrupt Kernel")
    person.sees("is not approved. Nothing was changed. To be asked again, run this cell again.")
    assert person.page.locator(".jp-OutputArea-output", has_text="Traceback").count() == 0 and buttons.count() == 0
    person.await_focus_on_cell("To be asked again")
    person.picture("gate-interrupted")
    assert here.calls("UpdateAlias") == []

    person.run_all()
    person.await_gate()
    person.restart_kernel()
    person.page.get_by_text("The buttons that were here do nothing any more").first.wait_for()
    assert buttons.count() == 0
    person.picture("gate-restarted")

    person.restart_and_run_all()
    person.await_gate()
    # The page saves the notebook at the gate, so the file has it.
    person.page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")
    person.page.reload()
    person.page.get_by_text("The page was reloaded, so it does not show what follows here").first.wait_for()
    assert buttons.count() == 0
    person.picture("gate-reloaded")
    person.restart_and_run_all()
    person.await_gate()
    person.approve_by_keyboard("sandbox", "Ada")
    await_alias(here, "1")
    person.sees("v1 receives 100 % of traffic")


@pytest.mark.whole
def test_a_refusal_comes_into_view(two_versions: Situation, person: Person) -> None:
    """Run All scrolls to the end; a cell that refuses is brought back, with the focus, and its sentence is seen."""
    person.lab.fill("rollback/immediate", to_version="9")
    person.open("rollback/immediate")
    person.run_all()
    person.await_focus_on_cell("There is no version 9")
    person.await_in_view('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')
    person.picture("refused")


@pytest.mark.whole
def test_a_failed_deployment_asks_for_the_decision(situation: Bring, person: Person) -> None:
    """Two buttons, each with its effect and its version; the recommended one has the focus, and is then approved."""
    here = situation("good")
    mine = here.connect("canary")
    abandon(mine, rollout.plan_rollout(mine, here.build("total_failure")))
    mine.close()
    here.ask("advance", seconds=300)
    person.open("emergency/deployment_failure")
    person.run_all()
    person.await_gate()
    person.approve_by_keyboard("sandbox", "Ada")
    back = person.page.get_by_role("button", name=re.compile("^Roll back: all traffic from v2 to v1"))
    back.wait_for()
    person.assert_accessible("decision")
    here.ask("set", speed=60)
    try:
        back.click()
        person.sees("Chosen: Roll back")
        person.await_gate()
        person.approve_by_keyboard("sandbox", "Ada")
        person.sees("100 % v1")
        assert "RoutingConfig" not in here.alias()
    finally:
        here.ask("set", speed=0)
