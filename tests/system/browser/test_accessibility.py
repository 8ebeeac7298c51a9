"""What the runbooks show, in both themes and on two screens: axe-core finds nothing serious, and nothing must be scrolled.

From start_here to the moved traffic in at most four clicks.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.checks.test_situations import LONGEST_VERDICT
from tests.conftest import Situation
from tests.system.browser.conftest import Lab, Person, end_kernels
from tests.system.browser.test_gate import await_alias

Bring = Callable[..., Situation]
pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]

FIRST_PIXELS = 400
"""Of the page: where on-call looks first."""

VIEWS = [(theme, *size) for theme in ("Light", "Dark") for size in ((1280, 800), (1440, 900))]


@pytest.mark.whole
@pytest.mark.parametrize(("theme", "width", "height"), VIEWS)
def test_from_the_verdict_to_the_moved_traffic(
    situation: Bring, lab: Lab, chromium: Any, theme: str, width: int, height: int
) -> None:
    """The verdict, then the plan with its gate, are seen as they come; contrast, labels and roles are right."""
    here = situation("good", history_minutes=20)
    here.ship_by_hand("errors_5_percent")
    here.ask("advance", seconds=900)
    lab.use_theme(theme)
    lab.fill("start_here")
    lab.fill("rollback/immediate")
    context = chromium.new_context(viewport={"width": width, "height": height})
    person = Person(lab, context.new_page())
    name = f"{theme.lower()}-{width}"
    try:
        person.open("start_here")
        person.count_clicks()
        began = time.perf_counter()
        person.run_all_by_button()
        person.sees("ERROR RATE HIGH")
        person.await_idle()
        assert person.serious_findings() == []
        person.await_in_view(".verdict")
        person.picture(f"verdict-{name}")
        assert person.verdict_bottom(LONGEST_VERDICT) < FIRST_PIXELS
        seen = time.perf_counter()
        # Shipped by hand, so no record names a version to return to: the link carries the one that is advised.
        person.page.locator(".jp-OutputArea-output a", has_text="rollback/immediate").first.click()
        person.page.get_by_role("heading", name="Roll back immediately").wait_for()
        person.await_idle()
        person.run_all_by_button()
        person.await_gate()
        person.await_in_view(".buddy-ops-panel")  # the plan and its gate
        person.picture(f"gate-{name}")
        assert person.serious_findings() == []
        person.write("Type", "sandbox")
        person.write("Your name", "Ada")
        person.click("Approve")
        await_alias(here, "1")
        moved = time.perf_counter()
        assert person.clicks() <= 4
        print(
            f"{name}: alias moved {moved - began:.1f} s after the first click, {moved - seen:.1f} s after the verdict"
        )
        person.sees("v1 receives 100 % of traffic")
        person.await_idle()
        assert person.serious_findings() == []
        person.picture(f"done-{name}")
    finally:
        person.picture(f"last-{name}")
        context.close()
        end_kernels(lab)
        lab.use_theme("Light")
