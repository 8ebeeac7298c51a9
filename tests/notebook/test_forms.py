"""A form for a runbook's parameters: shown where one is missing and a person is there, and as strict as the runbook."""

import asyncio
import html
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from buddy_ops.core import errors, project
from buddy_ops.core.checklist import ChecklistItem, ChecklistResult
from buddy_ops.notebook import _widgets, choices, forms
from tests.conftest import Situation

Bring = Callable[..., Situation]


class Page:
    """The form as a person has it."""

    def __init__(self) -> None:
        self.rows: tuple[Any, ...] = ()
        self.left = ""

    def show(self, *rows: Any, first: Any = None) -> "Page":
        self.rows = rows
        return self

    def replace(self, line: str) -> None:
        self.left = line

    def field(self, name: str) -> Any:
        (found,) = (row.children[0] for row in self.rows[:-2] if row.children[0].description == name)
        return found


async def settle() -> None:
    """Until a click has been taken."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    found = Page()
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    monkeypatch.setattr(forms, "WidgetPanel", found.show)
    return found


@pytest.mark.parametrize("named", ["the cell", "the variable", "nobody there", "one environment"])
def test_an_environment_that_is_named_asks_nobody(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the parameters cell, by BUDDY_OPS_ENVIRONMENT, or where there is one only; headless never."""
    shown: list[object] = []
    monkeypatch.setattr(choices, "WidgetPanel", lambda *rows, **_: shown.append(rows))
    monkeypatch.setattr(_widgets, "is_attended", lambda: named != "nobody there")
    monkeypatch.delenv("BUDDY_OPS_ENVIRONMENT", raising=False)
    if named == "the variable":
        monkeypatch.setenv("BUDDY_OPS_ENVIRONMENT", "staging")
    if named == "one environment":
        monkeypatch.setattr(project, "environments", lambda: ["prod"])
    namespace = {"environment": "dev" if named == "the cell" else ""}
    asyncio.run(forms.ask_environment(namespace))
    assert shown == [] and namespace == {"environment": "dev" if named == "the cell" else ""}


def test_a_person_is_asked_for_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A button for each, with its function; the sandbox comes first. What is pressed is the parameter."""
    monkeypatch.delenv("BUDDY_OPS_ENVIRONMENT", raising=False)
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    panel = Page()
    monkeypatch.setattr(choices, "WidgetPanel", panel.show)
    namespace: dict[str, Any] = {"environment": ""}

    async def press() -> None:
        asked = asyncio.create_task(forms.ask_environment(namespace))
        await asyncio.sleep(0)
        buttons = panel.rows[1].children
        assert [button.description for button in buttons] == [
            f"{name}: buddy-alexa-skill-{name}" for name in ("sandbox", "dev", "prod", "staging")
        ]
        buttons[2].click()
        await asyncio.wait_for(asked, 10)

    asyncio.run(press())
    assert namespace == {"environment": "prod"}
    assert panel.left == "Chosen: prod: buddy-alexa-skill-prod. Nothing has changed yet."


def test_nobody_there_or_nothing_missing_shows_no_form(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """papermill never waits for a form, and a person who filled in the cell is not asked again."""
    namespace: dict[str, Any] = {"artifact": "build/x.zip"}
    asyncio.run(forms.fill_parameters("canary", namespace, "artifact"))
    monkeypatch.setattr(_widgets, "is_attended", lambda: False)
    asyncio.run(forms.fill_parameters("canary", {"artifact": ""}, "artifact"))
    assert page.rows == () and namespace == {"artifact": "build/x.zip"}


def test_a_form_takes_what_the_runbook_takes_and_nothing_else(situation: Bring, page: Page) -> None:
    """Each parameter has a field with its meaning; a wrong value is told at once, and only right ones can be used."""
    artifact = situation("good", history_minutes=0, requests_per_minute=0).build("good")
    declared = project.declared_parameters("canary")
    namespace = {name: each.default for name, each in declared.items()}

    async def fill_in() -> None:
        asked = asyncio.create_task(forms.fill_parameters("canary", namespace, "artifact"))
        await asyncio.sleep(0)
        says, use = page.rows[-2:]
        assert {row.children[0].description for row in page.rows[:-2]} == set(declared) - set(forms.HIDDEN)
        assert "a file in parameters/; empty: BUDDY_OPS_ENVIRONMENT, else sandbox" in page.rows[0].children[1].value
        assert "No build is given" in says.value
        use.click()
        await settle()
        assert 'role="alert">Not used: No build is given' in says.value and not asked.done()
        page.field("artifact").value = artifact
        assert says.value == "All values are valid."
        for name, wrong, said in (
            ("stages", "[50, 10]", "stages must rise"),
            ("bake_minutes", "ten", "bake_minutes: 'ten'"),
            ("watch_minutes", "1e9", "watch_minutes"),
            ("artifact", "LICENSE", "not a zip"),
        ):
            before, page.field(name).value = page.field(name).value, wrong
            assert said in html.unescape(says.value)
            use.click()
            await settle()
            assert 'role="alert"' in says.value and said in html.unescape(says.value) and not asked.done()
            page.field(name).value = before
        page.field("bake_minutes").value = "2.5"
        page.field("dry_run").value = True
        use.click()
        await asyncio.wait_for(asked, 10)

    asyncio.run(fill_in())
    assert (namespace["artifact"], namespace["bake_minutes"], namespace["dry_run"]) == (artifact, 2.5, True)
    assert namespace["stages"] == [] and "bake_minutes = 2.5" in page.left


def test_what_is_needed_must_be_there() -> None:
    """A parameter that the runbook cannot do without is named."""
    declared = project.declared_parameters("clean_up_versions")
    with pytest.raises(errors.InvalidInput, match="keep is needed"):
        forms.check_parameters("clean_up_versions", declared, {"keep": 0}, ("keep",))


def test_a_checklist_turns_green_by_its_checks_and_asks_who_answers_for_the_rest(page: Page) -> None:
    """Items appear as they are checked; a name typed beside an unknown one closes it, and nothing open ends it."""
    wrong: dict[str, Any] = {"alarms": "no"}
    shown: list[str] = []

    def look(attested: dict[str, str], seen: Callable[[ChecklistItem], None]) -> ChecklistResult:
        review = attested.get("code <reviewed>", "").strip()
        items = (
            ChecklistItem("alarms", wrong["alarms"], "three of four are there"),
            ChecklistItem("code <reviewed>", "yes" if review else "unknown", "nobody answers for it yet", review),
        )
        for item in items:
            seen(item)
        return ChecklistResult("pre_deployment", "abc", datetime(2026, 11, 2, tzinfo=UTC), "7f3a", "arn", items)

    async def step() -> None:
        """Until the checks are through and the buttons wait."""
        listed, _, buttons = page.rows
        for _ in range(100):
            await asyncio.sleep(0.02)
            if buttons.children:
                shown.append(listed.value)
                return

    async def answer() -> ChecklistResult:
        asked = asyncio.create_task(forms.fill_checklist(look, {}))
        await asyncio.sleep(0)
        _, people, buttons = page.rows
        await step()
        again = buttons.children[0]
        assert [field.description for field in people.children] == ["code <reviewed>, verified by"]
        people.children[0].value = "Grace"
        again.click()
        await asyncio.sleep(0.6)
        await step()
        assert not asked.done()  # a check that says no is not outvoted
        wrong["alarms"] = "yes"
        again.click()
        return await asyncio.wait_for(asked, 10)

    record = asyncio.run(answer())
    assert record.open == () and record.items[1].by == "Grace" and "2 of 2" in page.left
    assert "✗ alarms" in shown[0] and "? code &lt;reviewed&gt;" in shown[0]
    assert "✓ code &lt;reviewed&gt;" in shown[1] and "by Grace" in shown[1]


def test_a_checklist_is_kept_open_where_a_person_says_so_and_headless(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says what is open; papermill is asked nothing."""

    def look(attested: dict[str, str], seen: Callable[[ChecklistItem], None] = lambda item: None) -> ChecklistResult:
        items = (ChecklistItem("alarms", "no", "none is there"),)
        return ChecklistResult("pre_deployment", "abc", datetime(2026, 11, 2, tzinfo=UTC), "7f3a", "arn", items)

    async def keep() -> ChecklistResult:
        asked = asyncio.create_task(forms.fill_checklist(look, {}))
        await asyncio.sleep(0.1)
        page.rows[2].children[1].click()
        return await asyncio.wait_for(asked, 10)

    assert len(asyncio.run(keep()).open) == 1 and "0 of 1" in page.left
    monkeypatch.setattr(_widgets, "is_attended", lambda: False)
    assert len(asyncio.run(forms.fill_checklist(look, {})).open) == 1
