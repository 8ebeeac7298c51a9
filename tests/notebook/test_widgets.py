"""The cursor of a form: put where a person begins, and never taken from somebody who types."""

import asyncio

import pytest

from buddy_ops.notebook import _widgets


class Field:
    """A field as ipywidgets has it; the list is shared by a form's fields."""

    def __init__(self, name: str, focused: list[str]) -> None:
        self.name = name
        self.value = ""
        self.focused = focused

    def focus(self) -> None:
        self.focused.append(self.name)


@pytest.mark.parametrize(("typed_into", "focused"), [(None, ["word"]), (0, []), (1, [])])
def test_the_cursor_is_put_once_and_taken_from_nobody(
    monkeypatch: pytest.MonkeyPatch, typed_into: int | None, focused: list[str]
) -> None:
    """A form that asks for the cursor late, on a busy machine, would move what is being typed into its first field."""
    monkeypatch.setattr(_widgets, "SLICE_S", 0.0)
    seen: list[str] = []
    fields = [Field("word", seen), Field("name", seen)]

    async def show() -> None:
        clicks = _widgets.ClickQueue()
        clicks.focus_first(fields)
        if typed_into is not None:
            fields[typed_into].value = "s"
        for _ in range(3):
            await clicks.take()

    asyncio.run(show())
    assert seen == focused
