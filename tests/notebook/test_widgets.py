"""Forms: Enter goes from field to field, and counts as a click once everything that was typed has arrived."""

import asyncio

import pytest

from buddy_ops.core.text import escape_html
from buddy_ops.notebook import _widgets


def press_enter(field: object) -> None:
    """What the page sends when a person presses Enter in a field."""
    field._handle_custom_msg({"event": "submit"}, [])  # type: ignore[attr-defined]


def test_enter_in_the_last_field_is_a_click_once_the_last_letters_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page sends Enter at once, but the letters before it only when it is told that the earlier ones arrived."""
    monkeypatch.setattr(_widgets, "QUIET_S", 0.05)

    async def answer() -> str:
        clicks = _widgets.ClickQueue()
        word = _widgets.input_field("Type")
        name = _widgets.input_field("Your name")
        clicks.enter([word, name], "approve")
        press_enter(word)
        name.value = "A"
        press_enter(name)
        await asyncio.sleep(0.03)
        name.value = "Ada"
        assert await clicks.take() == "approve"
        return str(name.value)

    assert asyncio.run(answer()) == "Ada"


def test_a_panel_says_how_to_go_on_where_its_kernel_is_gone() -> None:
    """No button is left that looks alive: the style shows one sentence in their place."""
    panel = _widgets.WidgetPanel(_widgets.input_field("Type"))
    dead, reloaded, _, script = panel._box.children
    assert escape_html(_widgets.NO_BUTTONS) in dead.value and ".jupyter-widgets-disconnected" in dead.value
    assert escape_html(_widgets.RELOADED) in reloaded.value
    assert panel._box.model_id in script.outputs[0]["data"]["application/javascript"]
    panel.replace("done")
