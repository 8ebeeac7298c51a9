"""The page of a fleet in a real Chromium with the network off: it sorts, filters, explains, and everybody can use it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.checks.findings import State, ok, problem
from buddy_ops.checks.next_steps import NextStep
from buddy_ops.checks.status import StatusReport, Subject
from buddy_ops.core.fleet_file import FleetTarget
from buddy_ops.core.settings import Settings
from buddy_ops.fleet import pages
from buddy_ops.fleet.status import FleetStatus, TargetStatus
from buddy_ops.fleet.targets import Member
from buddy_ops.fleet.traffic import AliasMinute, AliasTraffic
from tests.system.browser.conftest import PICTURES, serious
from tests.system.browser.test_archive import Page

pytestmark = pytest.mark.xdist_group("browser")
NOW = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
HOSTILE = "</td><script>document.title='owned'</script>"


def row(name: str, failed: int, *, team: str, requests: int = 100) -> TargetStatus:
    """A target that had so many failures in each of the last 15 minutes."""
    minutes = tuple(
        AliasMinute(NOW - age * timedelta(minutes=1), requests, failed, slow=0, throttles=0, p99_ms=400.0)
        for age in range(60, 0, -1)
    )
    rate = f"{failed} % of 1,500 requests (limit 1 %)"
    found = problem(rate, number=failed / 100) if failed > 1 else ok(rate)
    alarm = ok(HOSTILE)
    findings = tuple(
        type(each)(check, each.state, each.message, facts=each.facts)
        for check, each in (("error rate", found), ("alarms", alarm))
    )
    declared = FleetTarget(name=name, environment="prod", labels={"team": team})
    subject = Subject(name, name, "live", "eu-west-1", NOW, {"7": 1.0})
    report = StatusReport("", findings, (NextStep("", "start_here", {"environment": name}),), subject)
    return TargetStatus(
        Member(declared, Settings(function=name)), report, "111111111111", NOW, AliasTraffic(minutes, NOW)
    )


@pytest.fixture
def page(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    opened = Page(chromium)
    targets = (row("pay", 5, team="payments"), row("cart", 0, team="web", requests=9), row("shop", 1, team="web"))
    file = tmp_path / "fleet.html"
    file.write_text(pages.status_page(FleetStatus(NOW, targets)), encoding="utf-8")
    yield opened.open(file)
    assert opened.fetched() == [] and opened.complaints == []
    opened.close()


def names(page: Any) -> list[str]:
    return [each.inner_text() for each in page.locator("tbody tr:visible td:nth-child(2) b").all()]


def test_it_sorts_by_each_number_and_name(page: Any) -> None:
    """The worst comes first; a click sorts by a column, a second one the other way, also from the keyboard."""
    assert names(page) == ["pay", "cart", "shop"]
    page.get_by_role("button", name="Target").click()
    assert names(page) == ["cart", "pay", "shop"]
    errors = page.get_by_role("button", name="Errors")
    errors.focus()
    page.keyboard.press("Enter")
    assert names(page) == ["cart", "shop", "pay"]
    page.keyboard.press("Enter")
    assert names(page) == ["pay", "shop", "cart"]
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Errors")


def test_it_filters_by_all_words(page: Any) -> None:
    """Label, result word and region narrow it down together; the count says what is left."""
    page.get_by_label("Filter").fill("team=web ok")
    assert names(page) == ["cart", "shop"] and page.locator("output").inner_text() == "2 of 3 targets"
    page.get_by_label("Filter").fill("ERROR RATE HIGH")
    assert names(page) == ["pay"]


def test_it_explains_and_is_readable(page: Any) -> None:
    """A row opens to its checks; what an alarm says is text; axe-core finds nothing serious."""
    page.locator("summary").first.click()
    assert HOSTILE in page.locator("details[open]").inner_text() and "owned" not in page.title()
    assert page.locator("svg[role=img]").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("tbody code").first.inner_text() == "buddy-ops status -e pay"
    assert page.locator("td b").first.get_attribute("class") == State.PROBLEM.value
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "fleet.png")
    assert serious(page) == []
