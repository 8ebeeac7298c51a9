"""A choice: a parameter, or a button that a person presses; headless nobody is asked."""

import asyncio
from typing import Any

import pytest

from buddy_ops.core.errors import Stopped
from buddy_ops.notebook import _widgets, choices

WAYS = {"roll back": "Roll back: all traffic to v1", "fix forward": "Fix forward: v2 keeps its traffic"}


class Page:
    """The panel as a person has it."""

    def __init__(self) -> None:
        self.rows: tuple[Any, ...] = ()
        self.left = ""

    def show(self, *rows: Any, first: Any) -> "Page":
        self.rows = rows
        assert first is rows[1].children[0]
        return self

    def replace(self, line: str) -> None:
        self.left = line


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    found = Page()
    monkeypatch.setattr(_widgets, "is_attended", lambda: True)
    monkeypatch.setattr(choices, "WidgetPanel", found.show)
    return found


def test_a_person_chooses_where_the_parameter_is_empty(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each button says its effect; a given parameter asks nobody, and headless an empty one stays empty."""

    async def press() -> str:
        asked = asyncio.create_task(choices.choose("", "Decide about v2.", WAYS))
        await asyncio.sleep(0)
        buttons = page.rows[1].children
        assert [button.description for button in buttons] == list(WAYS.values())
        buttons[1].click()
        return await asyncio.wait_for(asked, 10)

    assert asyncio.run(press()) == "fix forward"
    assert page.left == "Chosen: Fix forward: v2 keeps its traffic. Nothing has changed yet."
    page.rows = ()
    assert asyncio.run(choices.choose("roll back", "", WAYS)) == "roll back"
    monkeypatch.setattr(_widgets, "is_attended", lambda: False)
    assert asyncio.run(choices.choose("", "", WAYS)) == "" and page.rows == ()


def test_an_interrupt_says_that_nothing_was_chosen(page: Page) -> None:
    """One sentence, and no stack."""

    async def interrupt() -> None:
        asked = asyncio.create_task(choices.choose("", "Decide about v2.", WAYS))
        await asyncio.sleep(0)
        asked.cancel()
        await asked

    with pytest.raises(Stopped) as stopped:
        asyncio.run(interrupt())
    said = "Stopped. Nothing was chosen, and nothing was changed. To choose, run this cell again."
    assert stopped.value._render_traceback_() == [said] and page.left == "Nothing was chosen."
