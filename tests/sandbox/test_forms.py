"""A form for a runbook's parameters: shown where one is missing and a person is there, and as strict as the runbook."""

import asyncio
import html
from collections.abc import Callable
from typing import Any

import pytest

from buddy_ops import errors, forms, front_end, parameters
from tests.conftest import Situation

Bring = Callable[..., Situation]


class Page:
    """The form as a person has it."""

    def __init__(self) -> None:
        self.rows: tuple[Any, ...] = ()
        self.left = ""

    def show(self, *rows: Any) -> "Page":
        self.rows = rows
        return self

    def replace(self, line: str) -> None:
        self.left = line

    def field(self, name: str) -> Any:
        (found,) = (row.children[0] for row in self.rows[:-2] if row.children[0].description == name)
        return found


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    found = Page()
    monkeypatch.setattr(front_end, "attended", lambda: True)
    monkeypatch.setattr(forms, "Panel", found.show)
    return found


def test_nobody_there_or_nothing_missing_shows_no_form(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """papermill never waits for a form, and a person who filled in the cell is not asked again."""
    namespace: dict[str, Any] = {"artifact": "build/x.zip"}
    asyncio.run(forms.fill("canary", namespace, "artifact"))
    monkeypatch.setattr(front_end, "attended", lambda: False)
    asyncio.run(forms.fill("canary", {"artifact": ""}, "artifact"))
    assert page.rows == () and namespace == {"artifact": "build/x.zip"}


def test_a_form_takes_what_the_runbook_takes_and_nothing_else(situation: Bring, page: Page) -> None:
    """Each parameter has a field with its meaning; a wrong value is told at once, and only right ones can be used."""
    artifact = situation("good", history_minutes=0, requests_per_minute=0).build("good")
    declared = parameters.declared_in("canary")
    namespace = {name: each.default for name, each in declared.items()}

    async def fill_in() -> None:
        asked = asyncio.create_task(forms.fill("canary", namespace, "artifact"))
        await asyncio.sleep(0)
        says, use = page.rows[-2:]
        assert {row.children[0].description for row in page.rows[:-2]} == set(declared) - set(forms.HIDDEN)
        assert page.rows[0].children[1].value == "which file in parameters/"
        assert use.disabled and "No build is given" in says.value
        page.field("artifact").value = artifact
        assert not use.disabled
        for name, wrong, said in (
            ("stages", "[50, 10]", "stages must rise"),
            ("bake_minutes", "ten", "bake_minutes: 'ten'"),
            ("watch_minutes", "1e9", "watch_minutes"),
            ("artifact", "LICENSE", "not a zip"),
        ):
            before, page.field(name).value = page.field(name).value, wrong
            assert use.disabled and said in html.unescape(says.value)
            page.field(name).value = before
            assert not use.disabled
        page.field("bake_minutes").value = "2.5"
        page.field("dry_run").value = True
        use.click()
        await asyncio.wait_for(asked, 10)

    asyncio.run(fill_in())
    assert (namespace["artifact"], namespace["bake_minutes"], namespace["dry_run"]) == (artifact, 2.5, True)
    assert namespace["stages"] == [] and "bake_minutes = 2.5" in page.left


def test_what_is_needed_must_be_there() -> None:
    """A parameter that the runbook cannot do without is named."""
    declared = parameters.declared_in("clean_up_versions")
    with pytest.raises(errors.InvalidInput, match="keep is needed"):
        forms.check("clean_up_versions", declared, {"keep": 0}, ("keep",))
